//! What is recorded of each table: a declared slice of a tenant's keys, cut into shards; and whose a key is.

use perilune_protocol::TenantId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Bound::{Included, Unbounded};

/// The number of a table, never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TableId(pub u64);

/// The number of a shard, never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ShardId(pub u64);

/// Shards of a table, unless it is declared with another number.
pub const SHARDS_DEFAULT: u16 = 16;
/// The database and the table that keys belong to which no rule takes.
pub const DEFAULT_NAME: &str = "default";
/// Below this are the numbers of the default tables, so many for each tenant.
const FIRST_NUMBER: u64 = 1 << 40;
const DEFAULT_NUMBERS: u64 = 64;
/// So long after a table is dropped, what is put is still told as of it: longer than the drop takes to be decided. Whoever is told of a put before it
/// is decided, and of the rest behind it, is told the same table.
const DROPPED_WITHIN_MS: u64 = 1000;

/// A table, as it is stored. Its numbers, those of its index, partition and shards too, come from one counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRecord {
    /// Its number.
    pub id: TableId,
    /// Whose.
    pub tenant: TenantId,
    /// The database it is of.
    pub db: String,
    /// The number of that: the same for all tables of it.
    pub db_id: u64,
    /// What it is called; no other that is declared is called so in its database.
    pub name: String,
    /// How the keys begin that belong to it. The longest rule takes a key.
    pub prefix: Vec<u8>,
    /// Its one index.
    pub index_id: u64,
    /// Its one partition.
    pub partition_id: u64,
    /// The first of its shards; the others follow.
    pub first_shard: ShardId,
    /// How many they are.
    pub shards: u16,
    /// Its keys belong to others now. Stays, so that its numbers are known.
    pub dropped: bool,
    /// When it was declared, in milliseconds of the one clock.
    pub ctime_ms: u64,
    /// When it was last changed.
    pub mtime_ms: u64,
}

impl TableRecord {
    /// That of the keys of a tenant that no rule takes. It is not stored: its numbers follow from the tenant's.
    pub fn default_of(tenant: TenantId) -> Self {
        let first = u64::from(tenant.0) * DEFAULT_NUMBERS;
        Self {
            id: TableId(first + 1),
            tenant,
            db: DEFAULT_NAME.into(),
            db_id: first + 2,
            name: DEFAULT_NAME.into(),
            prefix: Vec::new(),
            index_id: first + 3,
            partition_id: first + 4,
            first_shard: ShardId(first + 16),
            shards: SHARDS_DEFAULT,
            dropped: false,
            ctime_ms: 0,
            mtime_ms: 0,
        }
    }

    /// Its shards.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (self.first_shard.0..self.first_shard.0 + u64::from(self.shards)).map(ShardId)
    }

    /// Whether a shard is one of its.
    pub fn has(&self, shard: ShardId) -> bool {
        shard.0.checked_sub(self.first_shard.0).is_some_and(|nth| nth < u64::from(self.shards))
    }

    /// The shard of one of its keys: FNV-1a over the key, mixed once more (`fmix64` of MurmurHash3). For good.
    pub fn shard_of(&self, key: &[u8]) -> ShardId {
        let fnv = key.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
        let mix = |hash: u64, by: u64| (hash ^ hash >> 33).wrapping_mul(by);
        let mixed = mix(mix(fnv, 0xff51_afd7_ed55_8ccd), 0xc4ce_b9fe_1a85_ec53);
        ShardId(self.first_shard.0 + (mixed ^ mixed >> 33) % u64::from(self.shards.max(1)))
    }
}

/// The tenant of a number below those that are given.
fn tenant_of(number: u64) -> Option<TenantId> {
    u32::try_from(number / DEFAULT_NUMBERS).ok().filter(|_| number < FIRST_NUMBER).map(TenantId)
}

/// All tables that were ever declared. `rules` follow from `records`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tables {
    /// The next number.
    next: u64,
    records: BTreeMap<TableId, TableRecord>,
    /// All that ever had a rule, the latest last.
    rules: BTreeMap<TenantId, BTreeMap<Vec<u8>, Vec<TableId>>>,
}

/// How snapshots keep them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredTables {
    next: u64,
    records: Vec<TableRecord>,
}

impl From<StoredTables> for Tables {
    fn from(stored: StoredTables) -> Self {
        let mut tables = Self { next: stored.next, ..Self::default() };
        stored.records.into_iter().for_each(|record| tables.enter(record));
        tables
    }
}

impl Tables {
    /// `None` where there never was one.
    pub(super) fn stored(&self) -> Option<StoredTables> {
        (!self.records.is_empty()).then(|| StoredTables { next: self.next, records: self.records.values().cloned().collect() })
    }

    pub(super) fn enter(&mut self, record: TableRecord) {
        self.next = self.next.max(record.first_shard.0 + u64::from(record.shards)).max(record.db_id + 1);
        let ids = self.rules.entry(record.tenant).or_default().entry(record.prefix.clone()).or_default();
        if !ids.contains(&record.id) {
            ids.push(record.id);
        }
        self.records.insert(record.id, record);
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// A number that nothing had, with all above it.
    pub(super) fn fresh(&self) -> u64 {
        self.next.max(FIRST_NUMBER)
    }

    /// Those of a tenant that are declared, and last the one for what they do not take.
    pub(super) fn of(&self, tenant: TenantId) -> Vec<TableRecord> {
        let declared = self.records.values().filter(|table| table.tenant == tenant && !table.dropped).cloned();
        declared.chain([TableRecord::default_of(tenant)]).collect()
    }

    pub(super) fn get(&self, id: TableId) -> Option<TableRecord> {
        let default = tenant_of(id.0).map(TableRecord::default_of).filter(|table| table.id == id);
        default.or_else(|| self.records.get(&id).cloned())
    }

    /// The table that a shard is of.
    pub(super) fn with_shard(&self, shard: ShardId) -> Option<TableRecord> {
        let default = tenant_of(shard.0).map(TableRecord::default_of);
        // Its numbers were given from its own on.
        let declared = || self.records.range(..=TableId(shard.0)).next_back().map(|(_, table)| table.clone());
        default.or_else(declared).filter(|table| table.has(shard))
    }

    /// The table that a key belongs to: the longest rule that takes it.
    pub(super) fn taking(&self, tenant: TenantId, key: &[u8]) -> Option<&TableRecord> {
        self.taking_of(tenant, key, |table| !table.dropped)
    }

    /// The table that an object belongs to that was put at this time, for good. A put may have begun while the table was being dropped.
    pub(super) fn taking_at(&self, tenant: TenantId, key: &[u8], put_ms: u64) -> Option<&TableRecord> {
        self.taking_of(tenant, key, |table| table.ctime_ms <= put_ms && (!table.dropped || put_ms <= table.mtime_ms + DROPPED_WITHIN_MS))
    }

    fn taking_of(&self, tenant: TenantId, key: &[u8], is_meant: impl Fn(&TableRecord) -> bool) -> Option<&TableRecord> {
        let rules = self.rules.get(&tenant)?;
        let mut head = key;
        // The greatest rule that is not above `head` is the longest that takes it, or shows where it turns off.
        while let Some((rule, ids)) = rules.range::<[u8], _>((Unbounded, Included(head))).next_back() {
            let mut same = rule.iter().zip(head).take_while(|(a, b)| a == b).count();
            if same == rule.len() {
                let found = ids.iter().rev().filter_map(|id| self.records.get(id)).find(|table| is_meant(table));
                if found.is_some() {
                    return found;
                }
                same = same.checked_sub(1)?;
            }
            head = &head[..same];
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(tables: &Tables, tenant: u32, prefix: &str) -> TableRecord {
        let first = tables.fresh();
        TableRecord {
            id: TableId(first),
            db: "db".into(),
            db_id: first + 1,
            name: prefix.into(),
            prefix: prefix.into(),
            index_id: first + 2,
            partition_id: first + 3,
            first_shard: ShardId(first + 4),
            ..TableRecord::default_of(TenantId(tenant))
        }
    }

    /// The oracle looks at every rule.
    #[test]
    fn the_longest_rule_takes_a_key() {
        let mut tables = Tables::default();
        for prefix in ["a", "ab", "abcd", "abd", "b/", "b/x", "c\u{0}"] {
            let record = table(&tables, 1, prefix);
            tables.enter(record);
        }
        let other = table(&tables, 2, "abc");
        tables.enter(other);
        for key in ["", "a", "ab", "abc", "abcd", "abce", "abcdef", "abd", "abe", "b", "b/", "b/w", "b/xy", "c", "c\u{0}1", "zz", "\u{0}"] {
            let rules = tables.records.values().filter(|t| t.tenant == TenantId(1) && key.as_bytes().starts_with(&t.prefix));
            let expected = rules.max_by_key(|t| t.prefix.len()).map(|t| t.name.clone());
            assert_eq!(tables.taking(TenantId(1), key.as_bytes()).map(|t| t.name.clone()), expected, "{key:?}");
        }
        assert_eq!(tables.taking(TenantId(3), b"a"), None);
    }

    #[test]
    fn an_object_stays_of_the_table_that_it_was_put_to() {
        let mut tables = Tables::default();
        let mut enter = |prefix: &str, declared, dropped: Option<u64>| {
            let record = TableRecord { ctime_ms: declared, mtime_ms: declared, ..table(&tables, 1, prefix) };
            let (id, gone) = (record.id, TableRecord { dropped: true, mtime_ms: dropped.unwrap_or(0), ..record.clone() });
            tables.enter(record);
            dropped.into_iter().for_each(|_| tables.enter(gone.clone()));
            id
        };
        let (short, long) = (enter("a", 100_000, None), enter("ab", 200_000, Some(300_000)));
        let again = enter("ab", 400_000, None);
        for tables in [tables.clone(), Tables::from(tables.stored().unwrap())] {
            let at = |key: &str, ms| tables.taking_at(TenantId(1), key.as_bytes(), ms).map(|table| table.id);
            assert_eq!([99_999, 100_000, 200_000, 300_000].map(|ms| at("abc", ms)), [None, Some(short), Some(long), Some(long)]);
            assert_eq!([302_000, 400_000].map(|ms| at("abc", ms)), [Some(short), Some(again)]);
            assert_eq!(at("ac", 250_000), Some(short));
            assert_eq!(tables.taking(TenantId(1), b"abc").unwrap().id, again);
        }
    }

    #[test]
    fn numbers_are_of_one_thing_each_and_found_by_it() {
        let mut tables = Tables::default();
        let mut seen = std::collections::BTreeSet::new();
        let mut meet = |record: &TableRecord| {
            let numbers = [record.id.0, record.db_id, record.index_id, record.partition_id];
            assert!(numbers.into_iter().chain(record.shards().map(|s| s.0)).all(|n| seen.insert(n)), "{record:?}");
        };
        for tenant in [0, 1, 7, u32::MAX] {
            meet(&TableRecord::default_of(TenantId(tenant)));
        }
        for n in 0..5 {
            let record = table(&tables, n, "p");
            meet(&record);
            tables.enter(record);
        }
        let gone = TableRecord { dropped: true, ..tables.records.values().next().unwrap().clone() };
        tables.enter(gone.clone());
        assert_eq!((tables.taking(TenantId(0), b"pq"), tables.of(TenantId(0)).len()), (None, 1));
        let again = table(&tables, 0, "p");
        meet(&again);
        tables.enter(again);
        for record in tables.records.values().chain([&TableRecord::default_of(TenantId(9))]) {
            assert_eq!(tables.get(record.id).as_ref(), Some(record));
            assert!(record.shards().all(|shard| tables.with_shard(shard).as_ref() == Some(record)), "{record:?}");
        }
        for nothing in [0, 5, 64, FIRST_NUMBER - 1, FIRST_NUMBER, FIRST_NUMBER + 1, tables.next, u64::MAX] {
            assert_eq!(tables.with_shard(ShardId(nothing)), None, "{nothing}");
        }
        assert_eq!(Tables::from(tables.stored().unwrap()), tables);
    }

    /// Which shard a key is of is for good, and no shard is left out.
    #[test]
    fn keys_are_spread_over_all_shards_always_alike() {
        let table = TableRecord::default_of(TenantId(0));
        let mut counts = [0; SHARDS_DEFAULT as usize];
        (0..16_000).for_each(|n| counts[(table.shard_of(format!("model@{n}").as_bytes()).0 - 16) as usize] += 1);
        assert!(counts.iter().all(|n| (850..1150).contains(n)), "{counts:?}");
        assert_eq!([&b""[..], b"a", b"model/layer0/block42"].map(|key| table.shard_of(key).0), [22, 27, 29]);
    }
}

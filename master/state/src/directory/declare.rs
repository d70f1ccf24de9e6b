//! What may become of tables: a request in, the change to log or a refusal out.

use super::decide::{Decision, Refused, check_text};
use super::record::{Change, Known};
use super::table::{DEFAULT_NAME, ShardId, TableId, TableRecord};
use perilune_protocol::TenantId;
use perilune_protocol::tenant::NAME_BYTES_MAX;

/// Most tables that may ever be declared: all are copied whenever one changes, and are one chunk of a snapshot.
const TABLES_MAX: usize = 50_000;
/// Most shards of a table.
const SHARDS_MAX: u16 = 1024;
/// The longest rule, in bytes.
const PREFIX_BYTES_MAX: usize = 256;

impl Known {
    /// From now on the keys that begin so belong to this table.
    ///
    /// # Errors
    /// [`Refused::Unknown`], [`Refused::Dropped`]; [`Refused::Table`] where one is called so, or has the rule; [`Refused::Wrong`].
    pub fn declare(&self, tenant: &str, db: &str, name: &str, prefix: &[u8], shards: u16, now_ms: u64) -> Decision {
        for (what, text) in [("db_name", db), ("table_name", name)] {
            check_text(what, text)?;
            if !(1..=NAME_BYTES_MAX).contains(&text.len()) {
                return Err(Refused::Wrong(format!("{what} has 1 to {NAME_BYTES_MAX} bytes, not {}", text.len())));
            }
        }
        if !(1..=PREFIX_BYTES_MAX).contains(&prefix.len()) {
            return Err(Refused::Wrong(format!("prefix has 1 to {PREFIX_BYTES_MAX} bytes, not {}", prefix.len())));
        }
        if !(1..=SHARDS_MAX).contains(&shards) {
            return Err(Refused::Wrong(format!("a table has 1 to {SHARDS_MAX} shards, not {shards}")));
        }
        let tenant = self.living(tenant)?.id;
        let declared = self.tables_of(tenant);
        let called = |table: &&TableRecord| table.db == db && table.name == name;
        if let Some(other) = declared.iter().find(|table| called(table) || table.prefix == prefix) {
            return Err(Refused::Table(format!("{}.{} is declared already, for {:?}", other.db, other.name, said(&other.prefix))));
        }
        if self.tables_ever() >= TABLES_MAX {
            return Err(Refused::Wrong(format!("{TABLES_MAX} tables were declared already")));
        }
        let first = self.fresh_number();
        let of_db = declared.iter().find(|table| table.db == db).map(|table| table.db_id);
        Ok(Some(Change::Table(TableRecord {
            id: TableId(first),
            tenant,
            db: db.into(),
            db_id: of_db.unwrap_or(first + 1),
            name: name.into(),
            prefix: prefix.into(),
            index_id: first + 2,
            partition_id: first + 3,
            first_shard: ShardId(first + 4),
            shards,
            dropped: false,
            ctime_ms: now_ms,
            mtime_ms: now_ms,
        })))
    }

    /// The keys of this table belong to whatever else takes them. None is touched.
    ///
    /// # Errors
    /// [`Refused::Unknown`], [`Refused::Dropped`]; [`Refused::NoTable`]; [`Refused::Wrong`] for `default.default`.
    pub fn undeclare(&self, tenant: &str, db: &str, name: &str, now_ms: u64) -> Decision {
        if (db, name) == (DEFAULT_NAME, DEFAULT_NAME) {
            return Err(Refused::Wrong("the table default.default always exists: it has what no other takes".into()));
        }
        let tenant = self.living(tenant)?.id;
        let found = self.tables_of(tenant).into_iter().find(|table| table.db == db && table.name == name);
        let found = found.ok_or_else(|| Refused::NoTable(format!("{db:.64}.{name:.64}")))?;
        // The clock of one leader may be behind that of the one before.
        Ok(Some(Change::Table(TableRecord { dropped: true, mtime_ms: now_ms.max(found.mtime_ms), ..found })))
    }

    /// The tenant whose key space has this number on the page of key spaces.
    pub fn with_keyspace(&self, keyspace: u32) -> Option<TenantId> {
        let id = if keyspace == DEFAULT_KEYSPACE { TenantId::default() } else { TenantId(keyspace) };
        self.tenant(id).map(|tenant| tenant.id)
    }
}

/// The number by which the page of key spaces knows the tenant `default`.
pub const DEFAULT_KEYSPACE: u32 = u32::MAX;

fn said(prefix: &[u8]) -> String {
    String::from_utf8_lossy(prefix).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::SHARDS_DEFAULT;

    fn known() -> Known {
        let mut known = Known::default();
        let acme = known.create("acme", "", "", 1).unwrap().unwrap();
        known.enter(acme);
        known
    }

    fn declared(known: &mut Known, db: &str, name: &str, prefix: &str) -> Result<(), Refused> {
        let change = known.declare("acme", db, name, prefix.as_bytes(), SHARDS_DEFAULT, 7)?;
        known.enter(change.unwrap());
        Ok(())
    }

    #[test]
    fn tables_are_declared_once_and_their_numbers_are_for_good() {
        let mut known = known();
        declared(&mut known, "llama", "8b", "llama@8b/").unwrap();
        declared(&mut known, "llama", "70b", "llama@70b/").unwrap();
        for (db, name, prefix) in [("llama", "8b", "x"), ("llama", "9b", "llama@8b/"), ("default", "default", "x")] {
            assert!(matches!(declared(&mut known, db, name, prefix), Err(Refused::Table(_))), "{db}.{name}");
        }
        let [small, large] = [0, 1].map(|nth| known.tables_of(TenantId(1))[nth].clone());
        assert_eq!(small.db_id, large.db_id);
        assert_eq!(known.table_of(TenantId(1), b"llama@70b/k").id, large.id);
        assert_eq!(known.table_of(TenantId(0), b"llama@70b/k").id, TableRecord::default_of(TenantId(0)).id, "of another tenant");
        let change = known.undeclare("acme", "llama", "8b", 9).unwrap().unwrap();
        known.enter(change);
        assert_eq!(known.table_of(TenantId(1), b"llama@8b/k").name, DEFAULT_NAME);
        assert!(matches!(known.undeclare("acme", "llama", "8b", 9), Err(Refused::NoTable(_))));
        declared(&mut known, "llama", "8b", "llama@8b/").unwrap();
        let again = known.table_of(TenantId(1), b"llama@8b/k");
        assert!(again.id > large.id && again.first_shard > large.first_shard && known.table(small.id).unwrap().dropped);
        let stored = known.stored_tables().unwrap();
        assert_eq!(known.with_tables(stored), known);
    }

    #[test]
    fn what_cannot_be_a_table_is_refused() {
        let known = known();
        let long = "x".repeat(10_000);
        for (db, name, prefix, shards) in [
            ("", "t", "p", 1),
            ("d", "", "p", 1),
            ("d", "t", "", 1),
            ("d", "t", "p", 0),
            ("d", "t", "p", 1025),
            ("d", &long, "p", 1),
            ("d", "t", &long, 1),
            ("d\n", "t", "p", 1),
        ] {
            assert!(matches!(known.declare("acme", db, name, prefix.as_bytes(), shards, 1), Err(Refused::Wrong(_))), "{db:?} {name:.9?}");
        }
        assert!(matches!(known.declare("nobody", "d", "t", b"p", 1, 1), Err(Refused::Unknown(_))));
        assert!(matches!(known.undeclare("acme", "default", "default", 1), Err(Refused::Wrong(_))));
        assert_eq!((known.with_keyspace(u32::MAX), known.with_keyspace(1)), (Some(TenantId(0)), Some(TenantId(1))));
        assert_eq!((known.with_keyspace(0), known.with_keyspace(9)), (Some(TenantId(0)), None));
    }
}

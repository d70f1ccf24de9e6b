//! Events as rows of tables, as consumers of database changes know them.
//!
//! ```text
//!   DB.TABLE           a declared table, or default.default: its objects
//!   system.segments    what is lent to the tenant
//!   system.nodes       store nodes that are heard, or are not
//!   system.tenants     that everything of the tenant was removed, each object told before
//! ```
//! A table is that whose rule took the key when the object was put, for all rows of that object. Rows of one object say in `version` which
//! version they are about, so that whoever keeps the highest knows what is there however often rows arrive.

use super::filter::{Filter, Op};
use perilune_protocol::event::{Cursor, Event, What};
use perilune_protocol::{ObjectKey, SegmentId, TenantId, Tso};
use perilune_state::directory::{Known, TableRecord};
use std::collections::HashMap;
use std::sync::Arc;

/// The database of what is no object.
const SYSTEM: &str = "system";
/// Numbers of its tables: below those of the shards of the table that every tenant has, above its others.
const SYSTEM_TABLES: u64 = 8;
const NUMBERS_OF_A_TENANT: u64 = 64;

/// A column.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) kind: ColumnKind,
    /// Whether it names the row.
    pub(crate) is_key: bool,
}

/// What values it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ColumnKind {
    /// UTF-8.
    Text,
    /// Not negative.
    Number,
    /// Bytes.
    Binary,
}

/// A value of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Null,
    Text(String),
    Number(u64),
    Binary(Vec<u8>),
}

/// What rows are of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) db: String,
    pub(crate) name: String,
    pub(crate) id: u64,
    /// The stamp of its definition.
    pub(crate) version: u64,
    pub(crate) columns: &'static [Column],
}

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) table: Arc<Table>,
    pub(crate) op: Op,
    pub(crate) commit_ts: Tso,
    /// The place of its event, as text: unlike that of any other row of the cluster.
    pub(crate) place: String,
    /// As many as the table has columns.
    pub(crate) values: Vec<Value>,
}

impl Row {
    /// What it is about, for people.
    pub(crate) fn name(&self) -> String {
        let Self { table, commit_ts, place, .. } = self;
        format!(
            "the row of {:?} in {}.{} at {commit_ts}, place {place}",
            String::from_utf8_lossy(&self.key()),
            table.db,
            table.name,
            commit_ts = commit_ts.0
        )
    }

    /// What names it in its table, as bytes.
    pub(crate) fn key(&self) -> Vec<u8> {
        let named = |name: &str| self.table.columns.iter().zip(&self.values).find(|(column, _)| column.name == name);
        let key = self.table.columns.iter().zip(&self.values).find(|(column, value)| column.is_key && **value != Value::Null);
        match key.or_else(|| named("key_binary")) {
            Some((_, Value::Text(text))) => text.clone().into_bytes(),
            Some((_, Value::Binary(bytes))) => bytes.clone(),
            _ => Vec::new(),
        }
    }
}

const fn column(name: &'static str, kind: ColumnKind) -> Column {
    Column { name, kind, is_key: false }
}

const fn key(name: &'static str) -> Column {
    Column { name, kind: ColumnKind::Text, is_key: true }
}

use ColumnKind::{Binary, Number, Text};

/// Of objects. `key` is null where it is no text; then `key_binary` has it.
const OBJECTS: &[Column] = &[
    key("key"),
    column("event", Text),
    column("size", Number),
    column("replica_count", Number),
    column("segments", Text),
    column("version", Number),
    column("dropped", Text),
    column("vault", Number),
    column("key_binary", Binary),
];
const SEGMENTS: &[Column] = &[
    key("segment"),
    column("event", Text),
    column("name", Text),
    column("node", Text),
    column("size", Number),
    column("endpoint", Text),
    column("grace_ms", Number),
];
const NODES: &[Column] = &[key("node"), column("event", Text), column("name", Text)];
const TENANTS: &[Column] = &[key("tenant"), column("event", Text)];

/// Makes rows of the events of one tenant.
pub(crate) struct Rows {
    tenant: TenantId,
    name: String,
    filter: Filter,
    /// Those that were needed, until what is declared changes.
    tables: HashMap<u64, Arc<Table>>,
    revision: u64,
}

impl Rows {
    pub(crate) fn new(tenant: TenantId, name: &str, filter: Filter) -> Self {
        Self { tenant, name: name.into(), filter, tables: HashMap::new(), revision: 0 }
    }

    /// The row of an event, if the feed carries it.
    pub(crate) fn of(&mut self, known: &Known, event: &Event) -> Option<Row> {
        if event.tenant.is_some_and(|tenant| tenant != self.tenant) {
            return None;
        }
        if self.revision != known.revision {
            self.tables.clear();
            self.revision = known.revision;
        }
        let (op, table, values) = match &event.what {
            What::Mounted { segment, name, node, size, endpoint } => {
                let values = vec![id(segment), "mounted".into(), name.into(), id(node), Value::Number(*size), endpoint.into(), Value::Null];
                (Op::Insert, self.system(0), values)
            }
            What::Draining { segment, grace_ms } => {
                let [a, b, c, d] = [(); 4].map(|()| Value::Null);
                (Op::Update, self.system(0), vec![id(segment), "draining".into(), a, b, c, d, Value::Number(*grace_ms)])
            }
            What::Unmounted { segment } => {
                let [a, b, c, d, e] = [(); 5].map(|()| Value::Null);
                (Op::Delete, self.system(0), vec![id(segment), "unmounted".into(), a, b, c, d, e])
            }
            What::NodeUp { node, name } => (Op::Insert, self.system(1), vec![id(node), "up".into(), name.into()]),
            What::NodeDown { node } => (Op::Delete, self.system(1), vec![id(node), "down".into(), Value::Null]),
            What::Cleared => (Op::Delete, self.system(2), vec![Value::Text(self.name.clone()), "cleared".into()]),
            what => {
                let (key, version) = what.object()?;
                let (op, values) = object(what, key, version)?;
                (op, self.table_of(known, key, version), values)
            }
        };
        // Receivers know rows by it, those of releases before as well, which knew no stamp.
        let place = Cursor { stamp: Tso(0), ..event.cursor }.to_string();
        let row = Row { table, op, commit_ts: event.commit_ts, place, values };
        self.filter.takes(&row.table.db, &row.table.name, op).then_some(row)
    }

    /// Those that a feed with this filter carries, with the numbers of their databases left out.
    pub(crate) fn tables(known: &Known, tenant: TenantId, filter: &Filter) -> Vec<Table> {
        let declared = known.tables_of(tenant).into_iter().map(|record| of_record(&record));
        let all = declared.chain((0..3).map(|nth| system(tenant, nth)));
        all.filter(|table| filter.takes_table(&table.db, &table.name)).collect()
    }

    fn table_of(&mut self, known: &Known, key: &ObjectKey, version: Tso) -> Arc<Table> {
        let record = known.table_at(self.tenant, key.as_bytes(), version);
        self.tables.entry(record.id.0).or_insert_with(|| Arc::new(of_record(&record))).clone()
    }

    fn system(&mut self, nth: u64) -> Arc<Table> {
        let table = system(self.tenant, nth);
        self.tables.entry(table.id).or_insert_with(|| Arc::new(table)).clone()
    }
}

fn of_record(record: &TableRecord) -> Table {
    let version = Tso::from_physical(record.mtime_ms).0;
    Table { db: record.db.clone(), name: record.name.clone(), id: record.id.0, version, columns: OBJECTS }
}

fn system(tenant: TenantId, nth: u64) -> Table {
    let (name, columns) = [("segments", SEGMENTS), ("nodes", NODES), ("tenants", TENANTS)][nth as usize];
    let id = u64::from(tenant.0) * NUMBERS_OF_A_TENANT + SYSTEM_TABLES + nth;
    Table { db: SYSTEM.into(), name: name.into(), id, version: 0, columns }
}

fn object(what: &What, key: &ObjectKey, version: Tso) -> Option<(Op, Vec<Value>)> {
    let none = || Value::Null;
    // event, size, replica_count, segments, dropped, vault
    let (op, [event, size, count, segments, dropped, vault]) = match what {
        What::Put { size, replicas, .. } => {
            let ids: Vec<SegmentId> = replicas.iter().map(|replica| replica.segment).collect();
            (Op::Insert, ["put".into(), Value::Number(*size), Value::Number(ids.len() as u64), many(&ids), none(), none()])
        }
        What::Replicas { add, drop, .. } => {
            let event = match (add, drop) {
                (Some(_), Some(_)) => "replica_moved",
                (Some(_), None) => "replica_added",
                _ => "replica_dropped",
            };
            let added = add.as_ref().map_or(Value::Null, |place| id(&place.segment));
            (Op::Update, [event.into(), none(), none(), added, drop.as_ref().map_or(Value::Null, id), none()])
        }
        What::Removed { reason, .. } => (Op::Delete, [reason.as_str().into(), none(), none(), none(), none(), none()]),
        What::Offloaded { vault, .. } => (Op::Update, ["offloaded".into(), none(), none(), none(), none(), Value::Number(vault.0)]),
        What::ColdLost { vault, .. } => (Op::Update, ["cold_lost".into(), none(), none(), none(), none(), Value::Number(vault.0)]),
        What::Demoted { .. } => (Op::Update, ["demoted".into(), none(), Value::Number(0), none(), none(), none()]),
        _ => return None,
    };
    let (text, binary) = match std::str::from_utf8(key.as_bytes()) {
        Ok(text) => (Value::Text(text.into()), Value::Null),
        Err(_) => (Value::Null, Value::Binary(key.as_bytes().into())),
    };
    Some((op, vec![text, event, size, count, segments, Value::Number(version.0), dropped, vault, binary]))
}

fn many(ids: &[SegmentId]) -> Value {
    Value::Text(ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(";"))
}

fn id(of: &impl ToString) -> Value {
    Value::Text(of.to_string())
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<&String> for Value {
    fn from(text: &String) -> Self {
        Self::Text(text.clone())
    }
}

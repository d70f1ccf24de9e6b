//! TiCDC's open protocol: a key that says what this is about, and a value; a line holds both, as one object.

use super::{Row, Tso, Value, base64};
use crate::feeds::filter::Op;
use crate::feeds::row::{Column, ColumnKind};
use serde_json::{Map, Value as Json, json};

/// Kinds of messages.
const ROW: u8 = 1;
const RESOLVED: u8 = 3;
/// What a column is.
const BINARY: u32 = 1;
const HANDLE_KEY: u32 = 2;
const PRIMARY_KEY: u32 = 8;
const NULLABLE: u32 = 64;
const UNSIGNED: u32 = 128;

pub(super) fn watermark(at: Tso, out: &mut Vec<u8>) {
    write(&json!({"key": {"ts": at.0, "t": RESOLVED}, "value": null}), out);
}

pub(super) fn line(row: &Row, out: &mut Vec<u8>) {
    let (key, value) = parts(row);
    write(&json!({"key": key, "value": value}), out);
}

/// The version of what keys of messages begin with.
#[cfg(feature = "kafka")]
const VERSION: u64 = 1;

#[cfg(feature = "kafka")]
pub(super) fn message(row: &Row) -> super::Message {
    let (key, value) = parts(row);
    framed(&key.to_string(), &value.to_string())
}

#[cfg(feature = "kafka")]
pub(super) fn watermark_message(at: Tso) -> super::Message {
    framed(&json!({"ts": at.0, "t": RESOLVED}).to_string(), "")
}

#[cfg(feature = "kafka")]
fn framed(key: &str, value: &str) -> super::Message {
    let part = |text: &str| [&(text.len() as u64).to_be_bytes(), text.as_bytes()].concat();
    super::Message { key: [&VERSION.to_be_bytes()[..], &part(key)].concat(), value: part(value) }
}

fn write(message: &Json, out: &mut Vec<u8>) {
    // Writing to a vector has no way to fail.
    let _ = serde_json::to_writer(out, message);
}

fn parts(row: &Row) -> (Json, Json) {
    let key = json!({"ts": row.commit_ts.0, "scm": row.table.db, "tbl": row.table.name, "t": ROW});
    let columns: Map<String, Json> =
        row.table.columns.iter().zip(&row.values).map(|(column, value)| (column.name.to_owned(), cell(column, value))).collect();
    (key, if row.op == Op::Delete { json!({"d": columns}) } else { json!({"u": columns}) })
}

fn cell(column: &Column, value: &Value) -> Json {
    let (kind, flags) = match column.kind {
        ColumnKind::Text if column.is_key => (15, HANDLE_KEY | PRIMARY_KEY),
        ColumnKind::Text => (15, NULLABLE),
        ColumnKind::Number => (8, NULLABLE | UNSIGNED),
        ColumnKind::Binary => (15, BINARY | NULLABLE),
    };
    let value = match value {
        Value::Null => Json::Null,
        Value::Text(text) => text.as_str().into(),
        Value::Number(number) => (*number).into(),
        Value::Binary(bytes) => base64(bytes).into(),
    };
    let mut cell = json!({"t": kind, "f": flags, "v": value});
    if column.is_key {
        cell["h"] = true.into();
    }
    cell
}

//! Canal's JSON, with what TiDB adds: the commit stamp of each row, and watermarks. All values are texts, as they are there.

use super::{Row, Tso, Value, base64};
use crate::feeds::filter::Op;
use crate::feeds::row::ColumnKind;
use serde_json::{Map, Value as Json, json};

pub(super) fn line(row: &Row, now_ms: u64, plain: bool, out: &mut Vec<u8>) {
    let columns = row.table.columns;
    let kind = match row.op {
        Op::Insert => "INSERT",
        Op::Update => "UPDATE",
        Op::Delete => "DELETE",
    };
    let data: Map<String, Json> = columns.iter().zip(&row.values).map(|(column, value)| (column.name.to_owned(), said(value))).collect();
    let types = |of: fn(ColumnKind) -> Json| columns.iter().map(|c| (c.name.to_owned(), of(c.kind))).collect::<Map<_, _>>();
    let keys: Vec<_> = columns.iter().filter(|column| column.is_key).map(|column| column.name).collect();
    let mut message = json!({
        "id": 0,
        "database": row.table.db,
        "table": row.table.name,
        "pkNames": keys,
        "isDdl": false,
        "type": kind,
        "es": row.commit_ts.physical_ms(),
        "ts": now_ms,
        "sql": "",
        "sqlType": types(|kind| match kind { ColumnKind::Text => 12, ColumnKind::Number => -5, ColumnKind::Binary => 2004 }.into()),
        "mysqlType": types(|kind| match kind { ColumnKind::Text => "varchar", ColumnKind::Number => "bigint unsigned", ColumnKind::Binary => "varbinary" }.into()),
        "old": null,
        "data": [data],
    });
    if !plain {
        message["_tidb"] = json!({"commitTs": row.commit_ts.0});
    }
    write(&message, out);
}

pub(super) fn watermark(at: Tso, now_ms: u64, out: &mut Vec<u8>) {
    let message = json!({
        "id": 0, "database": "", "table": "", "pkNames": null, "isDdl": false, "type": "TIDB_WATERMARK", "es": at.physical_ms(), "ts": now_ms,
        "sql": "", "sqlType": null, "mysqlType": null, "data": null, "old": null, "_tidb": {"watermarkTs": at.0},
    });
    write(&message, out);
}

fn write(message: &Json, out: &mut Vec<u8>) {
    // Writing to a vector has no way to fail.
    let _ = serde_json::to_writer(out, message);
}

fn said(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Text(text) => text.as_str().into(),
        Value::Number(number) => number.to_string().into(),
        Value::Binary(bytes) => base64(bytes).into(),
    }
}

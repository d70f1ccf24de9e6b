//! Names and schemas, as TiCDC writes them.

use crate::feeds::row::{ColumnKind, Row, Table};
use serde_json::json;
use std::time::{Duration, SystemTime};

/// A name as a part of a path that every store and every file system takes.
pub(super) fn named(name: &str) -> String {
    let mut out = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => out.push(char::from(byte)),
            b'.' if !out.is_empty() => out.push('.'),
            other => out.push_str(&format!("={other:02X}")),
        }
    }
    out
}

/// Where the files of a row's table lie, with so many characters of its date.
pub(super) fn dir(row: &Row, date_chars: usize) -> String {
    let mut dir = format!("{}/{}/{}", named(&row.table.db), named(&row.table.name), row.table.version);
    if date_chars > 0 {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(row.commit_ts.physical_ms());
        dir.push('/');
        dir.push_str(&humantime::format_rfc3339_seconds(at).to_string()[..date_chars]);
    }
    dir
}

/// What the columns of a table are.
pub(super) fn schema(table: &Table) -> String {
    let columns: Vec<_> = table
        .columns
        .iter()
        .map(|column| {
            let kind = match column.kind {
                ColumnKind::Text => "VARCHAR",
                ColumnKind::Number => "BIGINT UNSIGNED",
                ColumnKind::Binary => "VARBINARY",
            };
            let mut said = json!({"ColumnName": column.name, "ColumnType": kind});
            if column.is_key {
                said["ColumnIsPk"] = "true".into();
            }
            said
        })
        .collect();
    let schema = json!({
        "Table": table.name,
        "Schema": table.db,
        "Version": 1,
        "TableVersion": table.version,
        "Query": "",
        "Type": 0,
        "TableColumns": columns,
        "TableColumnsTotal": table.columns.len().to_string(),
    });
    schema.to_string()
}

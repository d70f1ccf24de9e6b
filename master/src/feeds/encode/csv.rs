//! CSV in TiCDC's order of columns: operation, table, database, the commit stamp where it is wanted, values.
//!
//! With a quote, texts stand between two and have it doubled; without one, what would be misread has a `\` before it.

use super::{CsvConfig, Row, Value, base64, hex};
use crate::feeds::filter::Op;

pub(super) fn line(row: &Row, config: &CsvConfig, out: &mut Vec<u8>) {
    let op = match row.op {
        Op::Insert => "I",
        Op::Update => "U",
        Op::Delete => "D",
    };
    text(op, config, out);
    for name in [&row.table.name, &row.table.db] {
        out.extend_from_slice(config.delimiter.as_bytes());
        text(name, config, out);
    }
    if config.include_commit_ts {
        out.extend_from_slice(config.delimiter.as_bytes());
        out.extend_from_slice(row.commit_ts.0.to_string().as_bytes());
    }
    for value in &row.values {
        out.extend_from_slice(config.delimiter.as_bytes());
        match value {
            Value::Null => out.extend_from_slice(config.null.as_bytes()),
            Value::Number(number) => out.extend_from_slice(number.to_string().as_bytes()),
            Value::Text(said) => text(said, config, out),
            Value::Binary(bytes) if config.binary_encoding_method == "hex" => text(&hex(bytes), config, out),
            Value::Binary(bytes) => text(&base64(bytes), config, out),
        }
    }
}

fn text(text: &str, config: &CsvConfig, out: &mut Vec<u8>) {
    if config.quote.is_empty() {
        let escaped = text.replace('\\', "\\\\").replace('\r', "\\r").replace('\n', "\\n");
        out.extend_from_slice(escaped.replace(&config.delimiter, &format!("\\{}", config.delimiter)).as_bytes());
        return;
    }
    out.extend_from_slice(config.quote.as_bytes());
    out.extend_from_slice(text.replace(&config.quote, &config.quote.repeat(2)).as_bytes());
    out.extend_from_slice(config.quote.as_bytes());
}

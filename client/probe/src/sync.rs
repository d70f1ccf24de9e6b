//! How far the second copies of a table's shards are: what is asked, and how it is answered, wherever that is.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use perilune_protocol::Outcome;

/// The key space that is meant where none is named.
const DEFAULT_KEYSPACE: u32 = u32::MAX;

/// A table, by its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OfTable {
    /// The key space it is of.
    pub keyspace: u32,
    /// Its own.
    pub table: i64,
}

impl OfTable {
    /// What stands behind `/sync-status/`: `TABLE`, or `keyspace/KEYSPACE/table/TABLE`. `None`: neither.
    pub fn parse(path: &str) -> Option<Self> {
        let digits = |text: &str| text.bytes().next_back().is_some_and(|last| last.is_ascii_digit()) && !text.starts_with('+');
        let table = |text: &str| text.parse::<i64>().ok().filter(|_| digits(text));
        match path.strip_suffix('/').unwrap_or(path).split('/').collect::<Vec<_>>()[..] {
            [one] => Some(Self { keyspace: DEFAULT_KEYSPACE, table: table(one)? }),
            ["keyspace", keyspace, "table", one] if digits(keyspace) => Some(Self { keyspace: keyspace.parse().ok()?, table: table(one)? }),
            _ => None,
        }
    }
}

/// The answer: how many shards are in step, and which. Where it could not be found out, why.
pub fn answer(found: Outcome<Vec<u64>>) -> Response {
    let plain = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    match found {
        Ok(shards) => {
            let ids: Vec<String> = shards.iter().map(u64::to_string).collect();
            (StatusCode::OK, plain, format!("{}\n{}\n", ids.len(), ids.join(" "))).into_response()
        }
        Err(fault) => (StatusCode::SERVICE_UNAVAILABLE, plain, format!("{fault}\n")).into_response(),
    }
}

/// The answer to what cannot be meant.
pub fn wrong() -> Response {
    StatusCode::BAD_REQUEST.into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_named_alone_or_with_its_key_space() {
        let of = |keyspace, table| Some(OfTable { keyspace, table });
        for (path, means) in [
            ("100", of(u32::MAX, 100)),
            ("100/", of(u32::MAX, 100)),
            ("-1", of(u32::MAX, -1)),
            ("keyspace/1/table/100", of(1, 100)),
            ("keyspace/4294967295/table/9223372036854775807", of(u32::MAX, i64::MAX)),
        ] {
            assert_eq!(OfTable::parse(path), means, "{path}");
        }
        for wrong in [
            "",
            "/",
            "abc",
            "12abc",
            "+1",
            "1 ",
            "keyspace/1/100",
            "keyspace/1/table/",
            "keyspace/x/table/1",
            "keyspace/-1/table/1",
            "keyspace/4294967296/table/1",
            "space/1/table/1",
            "1/2",
            "keyspace/1/table/1/2",
            "9223372036854775808",
            "100//",
        ] {
            assert_eq!(OfTable::parse(wrong), None, "{wrong}");
        }
    }
}

//! Rows as bytes, one file for each protocol.

mod canal;
mod csv;
mod open;

use super::config::{CsvConfig, ReplicaConfig};
use super::row::{Row, Value};
use super::sink::Protocol;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use perilune_protocol::Tso;
use perilune_protocol::metakey::hex;

/// Writes rows as one feed has them written.
#[derive(Clone, Debug)]
pub(crate) struct Encoder {
    protocol: Protocol,
    csv: CsvConfig,
    terminator: String,
    /// Canal's flavour for its own consumers, without what TiDB adds.
    plain: bool,
}

/// A row or a watermark for places that keep messages with keys, without what ends a line.
#[cfg(feature = "kafka")]
pub(crate) struct Message {
    /// Empty: it has none.
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

impl Encoder {
    pub(crate) fn new(protocol: Protocol, config: &ReplicaConfig, tidb_extension: bool) -> Self {
        Self { protocol, csv: config.sink.csv.clone(), terminator: config.sink.terminator.clone(), plain: !tidb_extension }
    }

    /// What files of it end in.
    pub(crate) fn extension(&self) -> &'static str {
        match self.protocol {
            Protocol::Csv => ".csv",
            Protocol::CanalJson | Protocol::Open => ".json",
        }
    }

    /// Adds a row and what ends it.
    pub(crate) fn line(&self, row: &Row, now_ms: u64, out: &mut Vec<u8>) {
        match self.protocol {
            Protocol::Csv => csv::line(row, &self.csv, out),
            Protocol::CanalJson => canal::line(row, now_ms, self.plain, out),
            Protocol::Open => open::line(row, out),
        }
        out.extend_from_slice(self.terminator.as_bytes());
    }

    /// Says that everything up to this stamp was said; nothing in CSV, which has no words for it.
    pub(crate) fn watermark(&self, at: Tso, now_ms: u64, out: &mut Vec<u8>) {
        match self.protocol {
            Protocol::Open => open::watermark(at, out),
            Protocol::CanalJson => canal::watermark(at, now_ms, out),
            Protocol::Csv => return,
        }
        out.extend_from_slice(self.terminator.as_bytes());
    }

    /// A row as a message: in Canal's JSON with the key of the row as its key, in the open protocol framed as TiCDC does.
    #[cfg(feature = "kafka")]
    pub(crate) fn message(&self, row: &Row, now_ms: u64) -> Message {
        match self.protocol {
            Protocol::Open => open::message(row),
            Protocol::CanalJson | Protocol::Csv => {
                let mut value = Vec::new();
                canal::line(row, now_ms, self.plain, &mut value);
                Message { key: row.key(), value }
            }
        }
    }

    /// A watermark as a message; `None` in Canal's own flavour, which has no word for it.
    #[cfg(feature = "kafka")]
    pub(crate) fn watermark_message(&self, at: Tso, now_ms: u64) -> Option<Message> {
        match self.protocol {
            Protocol::Open => Some(open::watermark_message(at)),
            _ if self.plain => None,
            Protocol::CanalJson | Protocol::Csv => {
                let mut value = Vec::new();
                canal::watermark(at, now_ms, &mut value);
                Some(Message { key: Vec::new(), value })
            }
        }
    }
}

fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::filter::Op;
    use super::super::row::{Column, ColumnKind, Table};
    use super::*;
    use std::sync::Arc;

    const COLUMNS: &[Column] = &[
        Column { name: "key", kind: ColumnKind::Text, is_key: true },
        Column { name: "size", kind: ColumnKind::Number, is_key: false },
        Column { name: "bytes", kind: ColumnKind::Binary, is_key: false },
    ];

    fn row(op: Op, key: &str) -> Row {
        let table = Table { db: "db".into(), name: "t".into(), id: 7, version: 1, columns: COLUMNS };
        let values = vec![key.into(), Value::Null, Value::Binary(vec![0xff, 0])];
        Row { table: Arc::new(table), op, commit_ts: Tso(449_885_660_774_400_001), place: "p".into(), values }
    }

    fn line(protocol: Protocol, row: &Row, change: impl FnOnce(&mut ReplicaConfig)) -> String {
        let mut config = ReplicaConfig::default();
        change(&mut config);
        let mut out = Vec::new();
        Encoder::new(protocol, &config, true).line(row, 1_716_177_600_500, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn watermark(protocol: Protocol) -> serde_json::Value {
        let mut out = Vec::new();
        Encoder::new(protocol, &ReplicaConfig::default(), true).watermark(Tso(5), 9, &mut out);
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn csv_is_read_by_whoever_reads_csv() {
        let plain = |row: &Row| line(Protocol::Csv, row, |_| {});
        assert_eq!(plain(&row(Op::Insert, "a")), "\"I\",\"t\",\"db\",\"a\",\\N,\"/wA=\"\r\n");
        assert_eq!(plain(&row(Op::Delete, "say \"x\",\r\ny")), "\"D\",\"t\",\"db\",\"say \"\"x\"\",\r\ny\",\\N,\"/wA=\"\r\n");
        let with = |config: &mut ReplicaConfig| {
            config.sink.csv =
                CsvConfig { quote: String::new(), include_commit_ts: true, binary_encoding_method: "hex".into(), ..CsvConfig::default() };
            config.sink.terminator = "\n".into();
        };
        assert_eq!(line(Protocol::Csv, &row(Op::Update, "a,\\b\n"), with), "U,t,db,449885660774400001,a\\,\\\\b\\n,\\N,ff00\n");
    }

    #[test]
    fn canal_json_says_what_its_readers_look_for() {
        let text = line(Protocol::CanalJson, &row(Op::Delete, "a"), |_| {});
        let said: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&said["type"], &said["database"], &said["table"]), (&"DELETE".into(), &"db".into(), &"t".into()));
        assert_eq!(
            (&said["es"], &said["ts"], &said["isDdl"]),
            (&1_716_177_600_000_u64.into(), &1_716_177_600_500_u64.into(), &false.into())
        );
        assert_eq!(said["pkNames"], serde_json::json!(["key"]));
        assert_eq!(said["data"], serde_json::json!([{"key": "a", "size": null, "bytes": "/wA="}]));
        assert_eq!(said["_tidb"]["commitTs"], 449_885_660_774_400_001_u64);
        let said = watermark(Protocol::CanalJson);
        assert_eq!((&said["type"], &said["_tidb"]["watermarkTs"]), (&"TIDB_WATERMARK".into(), &5.into()));
    }

    /// As TiCDC's consumers take them apart: a version of 8 bytes, then lengths of 8 bytes and what has them.
    #[cfg(feature = "kafka")]
    #[test]
    fn open_protocol_is_framed_in_messages() {
        let encoder = Encoder::new(Protocol::Open, &ReplicaConfig::default(), true);
        let part = |bytes: &[u8]| {
            let (length, json) = bytes.split_at(8);
            assert_eq!(u64::from_be_bytes(length.try_into().unwrap()), json.len() as u64);
            serde_json::from_slice::<serde_json::Value>(json).ok()
        };
        let Message { key, value } = encoder.message(&row(Op::Delete, "a"), 1);
        assert_eq!(key[..8], 1_u64.to_be_bytes());
        assert_eq!((&part(&key[8..]).unwrap()["tbl"], &part(&value).unwrap()["d"]["key"]["v"]), (&"t".into(), &"a".into()));
        let Message { key, value } = encoder.watermark_message(Tso(5), 1).unwrap();
        assert_eq!((part(&key[8..]).unwrap(), part(&value)), (serde_json::json!({"ts": 5, "t": 3}), None));
    }

    #[test]
    fn open_protocol_has_a_key_and_a_value() {
        let read = |op| serde_json::from_str::<serde_json::Value>(&line(Protocol::Open, &row(op, "a"), |_| {})).unwrap();
        let said = read(Op::Insert);
        assert_eq!(said["key"], serde_json::json!({"ts": 449_885_660_774_400_001_u64, "scm": "db", "tbl": "t", "t": 1}));
        assert_eq!(said["value"]["u"]["key"], serde_json::json!({"t": 15, "h": true, "f": 10, "v": "a"}));
        assert_eq!(said["value"]["u"]["size"], serde_json::json!({"t": 8, "f": 192, "v": null}));
        let value = &read(Op::Delete)["value"];
        assert!(value.get("d").is_some() && value.get("u").is_none());
        assert_eq!(watermark(Protocol::Open)["key"], serde_json::json!({"ts": 5, "t": 3}));
    }
}

//! Files in a directory or a bucket, laid out as TiCDC does.
//!
//! ```text
//! metadata                                         {"checkpoint-ts":N}: everything up to N is in files
//! DB/TABLE/meta/schema_VERSION_CHECKSUM.json       what the columns are
//! DB/TABLE/VERSION/[DATE/]CDC000001.csv            rows, in their order; a file is whole or not there, and never changes
//! DB/TABLE/VERSION/[DATE/]meta/CDC.index           the name of the last file that was written
//! ```
//! Numbers go on where the last writer stopped, and no file is replaced: whoever takes over repeats rows in files of its own. What cannot stand in
//! the name of a file is written `=41`.

use super::{Place, Sink};
use crate::api::Boxed;
use crate::feeds::check::{Checked, Scheme};
use crate::feeds::config::ReplicaConfig;
use crate::feeds::encode::Encoder;
use crate::feeds::failure::{Code, Failure};
use crate::feeds::row::{ColumnKind, Row, Table};
use crate::feeds::uri::SinkUri;
use perilune_protocol::Tso;
use perilune_protocol::vault::{HdfsPlace, VaultTarget};
use perilune_vault::{Class, Keys, Options, S3Target, Target, Vault, VaultFault, Vaulted};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

/// How long one request may take, with what is repeated of it.
const DEADLINE: Duration = Duration::from_secs(30);
const FLUSH_INTERVAL: Duration = Duration::from_secs(5);
const FILE_BYTES: u64 = 64 << 20;
const INDEX_WIDTH: u32 = 6;
/// Names that are looked at at once.
const PAGE: usize = 1000;

pub(super) struct Storage {
    vault: Vault,
    encoder: Encoder,
    /// Digits of the date in a path.
    date_chars: usize,
    width: usize,
    file_bytes: u64,
    keeps: Duration,
    /// By directory.
    files: BTreeMap<String, File>,
    /// Schema files that are there.
    schemas: BTreeSet<String>,
}

/// The next file of a directory.
struct File {
    number: u64,
    body: Vec<u8>,
}

impl Storage {
    /// Opens the place, and writes and deletes something there.
    pub(super) async fn open(checked: &Checked, config: &ReplicaConfig, place: &Place) -> Result<Self, Failure> {
        let vault = match checked.scheme {
            Scheme::S3 => bucket(&checked.uri)?,
            _ => directory(&checked.uri, place)?,
        };
        let storage = config.sink.cloud_storage_config.clone().unwrap_or_default();
        let date_chars = match config.sink.date_separator.as_str() {
            "year" => 4,
            "month" => 7,
            "day" => 10,
            _ => 0,
        };
        let tidb = checked.uri.get("enable-tidb-extension") == Some("true");
        let new = Self {
            vault,
            encoder: Encoder::new(checked.protocol, config, tidb),
            date_chars,
            width: config.sink.file_index_width.unwrap_or(INDEX_WIDTH) as usize,
            file_bytes: storage.file_size.unwrap_or(FILE_BYTES),
            keeps: storage.flush_interval.map_or(FLUSH_INTERVAL, |said| said.duration()),
            files: BTreeMap::new(),
            schemas: BTreeSet::new(),
        };
        let probe = format!("probe-{}", uuid::Uuid::new_v4());
        new.ask(move |vault, by| vault.put(&probe, "".into(), by).and_then(|()| vault.delete(&probe, by))).await?;
        Ok(new)
    }

    async fn ask<T: Send + 'static>(&self, ask: impl FnOnce(&Vault, Instant) -> Vaulted<T> + Send + 'static) -> Result<T, Failure> {
        let vault = self.vault.clone();
        let asked = tokio::task::spawn_blocking(move || ask(&vault, Instant::now() + DEADLINE)).await;
        asked.map_err(|e| Code::StorageSink.with(format!("a request stopped: {e}")))?.map_err(told)
    }

    async fn take(&mut self, rows: &[Row]) -> Result<(), Failure> {
        let now_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        for row in rows {
            self.tell_schema(&row.table).await?;
            let dir = self.dir(row);
            if !self.files.contains_key(&dir) {
                let number = self.next_number(&dir).await?;
                self.files.insert(dir.clone(), File { number, body: Vec::new() });
            }
            let Some(file) = self.files.get_mut(&dir) else { continue };
            self.encoder.line(row, now_ms, &mut file.body);
            if file.body.len() as u64 >= self.file_bytes {
                self.put(&dir).await?;
            }
        }
        Ok(())
    }

    fn dir(&self, row: &Row) -> String {
        let mut dir = format!("{}/{}/{}", named(&row.table.db), named(&row.table.name), row.table.version);
        if self.date_chars > 0 {
            let at = SystemTime::UNIX_EPOCH + Duration::from_millis(row.commit_ts.physical_ms());
            dir.push('/');
            dir.push_str(&humantime::format_rfc3339_seconds(at).to_string()[..self.date_chars]);
        }
        dir
    }

    /// Behind all that were ever written there.
    async fn next_number(&self, dir: &str) -> Result<u64, Failure> {
        let (dir, extension) = (dir.to_owned(), self.encoder.extension());
        self.ask(move |vault, by| {
            let number = |name: &str| name.strip_prefix("CDC")?.strip_suffix(extension)?.parse::<u64>().ok();
            let index = match vault.get(&format!("{dir}/meta/CDC.index"), None, by) {
                Ok(got) => Some(String::from_utf8_lossy(&got.bytes).trim().to_owned()).filter(|name| number(name).is_some()),
                Err(fault) if fault.class == Class::NoObject => None,
                Err(fault) => return Err(fault),
            };
            let mut last = index.as_deref().and_then(number).unwrap_or(0);
            let mut after = index.map(|name| format!("{dir}/{name}"));
            loop {
                let page = vault.list(&dir, after.as_deref(), PAGE, by)?;
                let names = page.iter().filter_map(|listed| listed.name.strip_prefix(&dir)?.strip_prefix('/'));
                last = names.filter_map(number).fold(last, u64::max);
                match page.last() {
                    Some(listed) if page.len() == PAGE => after = Some(listed.name.clone()),
                    _ => return Ok(last + 1),
                }
            }
        })
        .await
    }

    /// Writes what is kept for a directory as its next file.
    async fn put(&mut self, dir: &str) -> Result<(), Failure> {
        let Some(file) = self.files.get_mut(dir) else { return Ok(()) };
        let (dir, width, extension) = (dir.to_owned(), self.width, self.encoder.extension());
        let (body, first) = (bytes::Bytes::from(std::mem::take(&mut file.body)), file.number);
        let written = {
            let dir = dir.clone();
            self.ask(move |vault, by| {
                let mut number = first;
                loop {
                    let name = format!("CDC{number:0width$}{extension}");
                    match vault.create(&format!("{dir}/{name}"), body.clone(), by) {
                        Ok(()) => {
                            vault.put(&format!("{dir}/meta/CDC.index"), format!("{name}\n").into(), by)?;
                            return Ok(number);
                        }
                        // Of a leader that did not know yet that it is none.
                        Err(fault) if fault.class == Class::Exists => number += 1,
                        Err(fault) => return Err(fault),
                    }
                }
            })
            .await?
        };
        if let Some(file) = self.files.get_mut(&dir) {
            file.number = written + 1;
        }
        Ok(())
    }

    async fn tell_schema(&mut self, table: &Table) -> Result<(), Failure> {
        let key = format!("{}.{}.{}", table.db, table.name, table.version);
        if self.schemas.contains(&key) {
            return Ok(());
        }
        let schema = schema(table);
        let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, schema.as_bytes());
        let name = format!("{}/{}/meta/schema_{}_{sum:010}.json", named(&table.db), named(&table.name), table.version);
        self.ask(move |vault, by| vault.put(&name, schema.into(), by)).await?;
        self.schemas.insert(key);
        Ok(())
    }

    async fn flush_all(&mut self, checkpoint: Tso) -> Result<(), Failure> {
        let kept: Vec<String> = self.files.iter().filter(|(_, file)| !file.body.is_empty()).map(|(dir, _)| dir.clone()).collect();
        for dir in kept {
            self.put(&dir).await?;
        }
        let metadata = json!({"checkpoint-ts": checkpoint.0}).to_string();
        self.ask(move |vault, by| vault.put("metadata", metadata.into(), by)).await?;
        // Of days that are over.
        if self.files.len() > PAGE {
            self.files.clear();
        }
        Ok(())
    }
}

impl Sink for Storage {
    fn write<'a>(&'a mut self, rows: &'a [Row]) -> Boxed<'a, Result<(), Failure>> {
        Box::pin(self.take(rows))
    }

    fn flush(&mut self, checkpoint: Tso) -> Boxed<'_, Result<(), Failure>> {
        Box::pin(self.flush_all(checkpoint))
    }

    fn keeps_ms(&self) -> u64 {
        self.keeps.as_millis() as u64
    }
}

fn told(fault: VaultFault) -> Failure {
    let code = if fault.class == Class::Invalid { Code::StorageSinkInvalidConfig } else { Code::StorageSink };
    code.with(format!(
        "{}: {}",
        if code == Code::StorageSink { "the storage sink failed" } else { "storage sink config invalid" },
        fault.message
    ))
}

fn bucket(uri: &SinkUri) -> Result<Vault, Failure> {
    let need =
        |name| uri.get(name).ok_or_else(|| Code::StorageSinkInvalidConfig.with(format!("storage sink config invalid: {name} is missing")));
    let keys = Keys::new(need("access-key")?, need("secret-access-key")?);
    let target = Target::S3(S3Target {
        bucket: uri.authority.clone(),
        prefix: uri.path.trim_matches('/').to_owned(),
        endpoint: uri.get("endpoint").unwrap_or_default().to_owned(),
        region: uri.get("region").unwrap_or_default().to_owned(),
    });
    Vault::open(&target, &Options { keys: Some(keys), ..Options::default() }).map_err(told)
}

fn directory(uri: &SinkUri, place: &Place) -> Result<Vault, Failure> {
    let wrong = |why: &str| Code::StorageSinkInvalidConfig.with(format!("storage sink config invalid: {why}"));
    let root = place.root.as_deref().ok_or_else(|| wrong("directories are used only below --vault-root, which is not set here"))?;
    let path = Path::new(&uri.path);
    let real = root.canonicalize().map_err(|e| wrong(&format!("--vault-root {}: {e}", root.display())))?;
    let below = path.strip_prefix(root).or_else(|_| path.strip_prefix(&real));
    let prefix = match below.ok().and_then(Path::to_str) {
        Some(prefix) if uri.authority.is_empty() => prefix.to_owned(),
        _ => {
            return Err(wrong(&format!(
                "{} does not lie below {}, where directories are allowed (--vault-root)",
                path.display(),
                root.display()
            )));
        }
    };
    let [user, keytab, principal] = [(); 3].map(|()| String::new());
    let place = HdfsPlace { fs_name: format!("file://{}", real.display()), prefix, user, keytab, principal, confs: Vec::new() };
    let target = Target::made(&VaultTarget::Hdfs(place), Some(&real)).map_err(told)?;
    Vault::open(&target, &Options::default()).map_err(told)
}

/// A name as a part of a path that every store and every file system takes.
fn named(name: &str) -> String {
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

fn schema(table: &Table) -> String {
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

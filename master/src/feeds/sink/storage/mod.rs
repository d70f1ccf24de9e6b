//! Files in a directory or a bucket, laid out as TiCDC does.
//!
//! ```text
//! metadata                                         {"checkpoint-ts":N, ..}: everything up to N is in files
//! DB/TABLE/meta/schema_VERSION_CHECKSUM.json       what the columns are
//! DB/TABLE/VERSION/[DATE/]CDC000001.csv            rows, in their order; a file is whole or not there, and never changes
//! DB/TABLE/VERSION/[DATE/]meta/CDC.index           the name of the last file that was written
//! ```
//! Numbers go on where the last writer stopped, and no file is replaced: whoever takes over repeats rows in files of its own. What cannot stand in
//! the name of a file is written `=41`.
//!
//! **Invariant.** Read in the order of their numbers, the files of a directory are rows in their order, where now and then a suffix of what came
//! before is repeated. Of two writers, one of which does not know yet that it does not lead any more:
//!
//! - the old one found its next number while it surely led ([`Sink`]), so it cannot have counted files of the new one;
//! - a number is taken once. Who finds it taken ends: the old one for good, the new one begins anew from the checkpoint that is kept, which is before
//!   all rows that the old one can have written since.

mod layout;
mod place;
#[cfg(test)]
mod tests;

use super::{Place, Sink, Whose};
use crate::api::Boxed;
use crate::feeds::check::{Checked, Scheme};
use crate::feeds::config::ReplicaConfig;
use crate::feeds::encode::Encoder;
use crate::feeds::failure::{Code, Failure};
use crate::feeds::row::{Row, Table};
use crate::work::aside;
use bytes::Bytes;
use layout::{dir, named, schema};
use perilune_protocol::Tso;
use perilune_vault::{Class, Vault, Vaulted};
use place::{bucket, directory, told};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

/// How long one request may take, with what is repeated of it.
const DEADLINE: Duration = Duration::from_secs(30);
const FLUSH_INTERVAL: Duration = Duration::from_secs(5);
const FILE_BYTES: u64 = 64 << 20;
const INDEX_WIDTH: u32 = 6;
/// Where it is said how far all is there.
const METADATA: &str = "metadata";
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
    /// Whose checkpoint it is that `metadata` says: `cluster/namespace/name`, and which of the feeds and runs of that name.
    whose: (String, [u64; 2]),
}

/// The next file of a directory.
struct File {
    number: u64,
    body: Vec<u8>,
}

impl Storage {
    /// Opens the place, and writes and deletes something there.
    pub(super) async fn open(whose: &Whose<'_>, checked: &Checked, config: &ReplicaConfig, place: &Place) -> Result<Self, Failure> {
        let vault = match checked.scheme {
            Scheme::S3 => bucket(&checked.uri, place)?,
            _ => directory(&checked.uri, place)?,
        };
        let new = Self::over(vault, whose, checked, config);
        let probe = format!("probe-{}", uuid::Uuid::new_v4());
        new.ask(move |vault, by| vault.put(&probe, "".into(), by).and_then(|()| vault.delete(&probe, by))).await?;
        Ok(new)
    }

    fn over(vault: Vault, whose: &Whose<'_>, checked: &Checked, config: &ReplicaConfig) -> Self {
        let storage = &checked.storage;
        let date_chars = match config.sink.date_separator.as_str() {
            "year" => 4,
            "month" => 7,
            "day" => 10,
            _ => 0,
        };
        let tidb = checked.uri.get("enable-tidb-extension") == Some("true");
        Self {
            vault,
            encoder: Encoder::new(checked.protocol, config, tidb),
            date_chars,
            width: config.sink.file_index_width.unwrap_or(INDEX_WIDTH) as usize,
            file_bytes: storage.file_size.unwrap_or(FILE_BYTES),
            keeps: storage.flush_interval.map_or(FLUSH_INTERVAL, |said| said.duration()),
            files: BTreeMap::new(),
            schemas: BTreeSet::new(),
            whose: (format!("{}/{}", whose.cluster, whose.name), whose.run),
        }
    }

    async fn ask<T: Send + 'static>(&self, ask: impl FnOnce(&Vault, Instant) -> Vaulted<T> + Send + 'static) -> Result<T, Failure> {
        let vault = self.vault.clone();
        let asked = aside(move || ask(&vault, Instant::now() + DEADLINE)).await;
        asked.map_err(|fault| Code::StorageSink.with(format!("a request stopped: {fault}")))?.map_err(told)
    }

    async fn take(&mut self, rows: &[Row]) -> Result<u64, Failure> {
        // Not below, with a number that may have been found just now.
        let full = self.files.iter().filter(|(_, file)| file.body.len() as u64 >= self.file_bytes);
        for dir in full.map(|(dir, _)| dir.clone()).collect::<Vec<_>>() {
            self.put(&dir).await?;
        }
        let now_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let mut bytes = 0;
        for row in rows {
            self.tell_schema(&row.table).await?;
            let dir = dir(row, self.date_chars);
            if !self.files.contains_key(&dir) {
                let number = self.next_number(&dir).await?;
                self.files.insert(dir.clone(), File { number, body: Vec::new() });
            }
            let Some(file) = self.files.get_mut(&dir) else { continue };
            let before = file.body.len();
            self.encoder.line(row, now_ms, &mut file.body);
            bytes += (file.body.len() - before) as u64;
        }
        Ok(bytes)
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
        let (width, extension) = (self.width, self.encoder.extension());
        let Some(file) = self.files.get_mut(dir) else { return Ok(()) };
        let body = Bytes::from(std::mem::take(&mut file.body));
        let (name, index) = (format!("CDC{:0width$}{extension}", file.number), format!("{dir}/meta/CDC.index"));
        file.number += 1;
        let path = format!("{dir}/{name}");
        let (at, line) = (path.clone(), format!("{name}\n"));
        let ours = self.ask(move |vault, by| {
            match vault.create(&at, body.clone(), by) {
                Ok(()) => {}
                // Of a run of this feed that did not hear that it was written.
                Err(fault) if fault.class == Class::Exists && vault.get(&at, None, by)?.bytes == body => {}
                Err(fault) if fault.class == Class::Exists => return Ok(false),
                Err(fault) => return Err(fault),
            }
            // That of a later file stays.
            match vault.get(&index, None, by) {
                Ok(there) if there.bytes[..] >= *line.as_bytes() => Ok(true),
                Err(fault) if fault.class != Class::NoObject => Err(fault),
                _ => vault.put(&index, line.into(), by).map(|()| true),
            }
        });
        if ours.await? { Ok(()) } else { Err(Code::Overtaken.with(format!("{path} was written by another leader, or another feed"))) }
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
        self.tell(checkpoint).await?;
        // Of days that are over.
        if self.files.len() > PAGE {
            self.files.clear();
        }
        Ok(())
    }

    /// Says in `metadata` how far all is there, unless it says more already, or what a later run of the feed said: it does not go back.
    async fn tell(&self, checkpoint: Tso) -> Result<(), Failure> {
        let (whose, run) = self.whose.clone();
        let metadata = json!({"checkpoint-ts": checkpoint.0, "changefeed": whose, "run": run}).to_string();
        self.ask(move |vault, by| {
            loop {
                let done = match vault.get(METADATA, None, by) {
                    Err(fault) if fault.class == Class::NoObject => vault.create(METADATA, metadata.clone().into(), by),
                    Err(fault) => return Err(fault),
                    Ok(there) => {
                        let said: Value = serde_json::from_slice(&there.bytes).unwrap_or_default();
                        let [feed, nth, far] = [&said["run"][0], &said["run"][1], &said["checkpoint-ts"]].map(Value::as_u64);
                        if said["changefeed"] == whose.as_str() && [feed, nth, far] >= [Some(run[0]), Some(run[1]), Some(checkpoint.0)] {
                            return Ok(());
                        }
                        vault.replace(METADATA, there.bytes, metadata.clone().into(), by)
                    }
                };
                // Another came between: what it wrote is looked at.
                match done {
                    Err(fault) if [Class::Exists, Class::NoObject].contains(&fault.class) && Instant::now() < by => {}
                    done => return done,
                }
            }
        })
        .await
    }
}

impl Sink for Storage {
    fn write<'a>(&'a mut self, rows: &'a [Row]) -> Boxed<'a, Result<u64, Failure>> {
        Box::pin(self.take(rows))
    }

    fn flush(&mut self, checkpoint: Tso) -> Boxed<'_, Result<(), Failure>> {
        Box::pin(self.flush_all(checkpoint))
    }

    fn keeps_ms(&self) -> u64 {
        self.keeps.as_millis() as u64
    }
}

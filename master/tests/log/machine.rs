//! The machines under test, and how a log of them is opened.

use perilune_master::log::{Log, LogConfig, LogStatus, Machine, SnapshotWriter};
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// `key=value` effects; the last one of a key wins, so that replaying some of them again converges.
#[derive(Clone, Default)]
pub(crate) struct Table {
    pub(crate) rows: Arc<Mutex<BTreeMap<String, String>>>,
    /// Every effect as it was applied, in this process.
    pub(crate) seen: Arc<Mutex<Vec<String>>>,
    /// Held by a test, it stops the log thread at its next apply, as a stopped process would.
    pub(crate) gate: Arc<Mutex<()>>,
    /// Set by a test, the next apply panics.
    pub(crate) broken: Arc<Mutex<bool>>,
    /// How often the state was replaced.
    pub(crate) restored: Arc<Mutex<usize>>,
}

impl Table {
    pub(crate) fn rows(&self) -> BTreeMap<String, String> {
        self.rows.lock().unwrap().clone()
    }

    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

impl Machine for Table {
    type Output = (u64, usize);

    fn apply(&mut self, index: u64, effect: &[u8]) -> (u64, usize) {
        drop(self.gate.lock().unwrap());
        let broken = *self.broken.lock().unwrap();
        assert!(!broken, "the machine is broken");
        let effect = String::from_utf8_lossy(effect).into_owned();
        let (key, value) = effect.split_once('=').unwrap_or((&effect, ""));
        self.rows.lock().unwrap().insert(key.into(), value.into());
        let mut seen = self.seen.lock().unwrap();
        seen.push(effect);
        (index, seen.len())
    }

    /// Reads the live rows, one by one, while applies go on: what it writes is of no single moment.
    fn snapshot(&self) -> SnapshotWriter {
        let rows = Arc::clone(&self.rows);
        Box::new(move |out| {
            let mut last = String::new();
            loop {
                let next = rows.lock().unwrap().range(last.clone()..).find(|(k, _)| **k > last).map(|(k, v)| (k.clone(), v.clone()));
                let Some((key, value)) = next else { return Ok(()) };
                writeln!(out, "{key}={value}")?;
                last = key;
            }
        })
    }

    fn restore(&mut self, from: &mut dyn Read) -> io::Result<()> {
        let mut text = String::new();
        from.read_to_string(&mut text)?;
        *self.rows.lock().unwrap() = text.lines().filter_map(|l| l.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect();
        *self.restored.lock().unwrap() += 1;
        Ok(())
    }
}

pub(crate) fn config(dir: &Path) -> LogConfig {
    LogConfig { dir: dir.into(), ..LogConfig::default() }
}

/// Opens a log with an empty table.
pub(crate) fn open(config: LogConfig) -> (Log<Table>, Table) {
    let table = Table::default();
    (Log::open(config, table.clone()).unwrap_or_else(|e| panic!("{e}")), table)
}

/// Proposes and waits for each, so that each is an entry of its own.
pub(crate) fn put_each(log: &Log<Table>, effects: impl IntoIterator<Item = String>) {
    for effect in effects {
        log.propose(effect.into_bytes()).wait().unwrap();
    }
}

/// Until the log says so; a minute is for a machine that does ten other things.
pub(crate) fn until(log: &Log<Table>, what: &str, holds: impl Fn(&LogStatus) -> bool) {
    let give_up = Instant::now() + Duration::from_secs(60);
    while !holds(&log.status()) {
        assert!(Instant::now() < give_up, "never came: {what}; {:?}", log.status());
        std::thread::yield_now();
    }
}

/// The one file in `dir` with this ending.
pub(crate) fn file_with(dir: &Path, ending: &str) -> std::path::PathBuf {
    let mut found: Vec<_> = std::fs::read_dir(dir).unwrap().map(|f| f.unwrap().path()).collect();
    found.retain(|f| f.to_string_lossy().ends_with(ending));
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

//! The load: threads that replace values and threads that check them, and what they met.

use super::Options;
use super::ledger::{Ledger, Verdict};
use crate::random::Random;
use crate::rivals::Trouble;
use perilune_client::{Store, StoreConfig};
use perilune_protocol::{FaultCode, ObjectKey, Outcome, PutConfig};
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Objects of one question while all are put or read.
const BATCH: usize = 256;
/// Faults that are told in words.
const EXAMPLES: usize = 5;

/// What calls came to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Tally {
    /// Acknowledged.
    pub puts: u64,
    /// Answered with the right value.
    pub gets: u64,
    /// Calls that failed within their deadline, or at it.
    pub failed: u64,
    /// Reads of acknowledged objects that were said not to exist.
    pub missing: u64,
    /// Reads that gave what should not be read.
    pub wrong: u64,
    /// The longest call, in microseconds.
    pub longest_us: f64,
    /// The first few that went wrong.
    pub examples: Vec<String>,
}

impl Tally {
    fn failed(&mut self, what: &str, at: usize, why: &dyn std::fmt::Display) {
        self.failed += 1;
        self.example(format!("{what} {at}: {why}"));
    }

    fn example(&mut self, text: String) {
        if self.examples.len() < EXAMPLES {
            self.examples.push(text);
        }
    }

    fn add(&mut self, other: Self) {
        self.puts += other.puts;
        self.gets += other.gets;
        self.failed += other.failed;
        self.missing += other.missing;
        self.wrong += other.wrong;
        self.longest_us = self.longest_us.max(other.longest_us);
        other.examples.into_iter().for_each(|text| self.example(text));
    }

    /// What a read came to; `oldest` is what was acknowledged before it.
    fn read(&mut self, ledger: &Ledger, at: usize, oldest: u64, outcome: &Outcome<Vec<u8>>) {
        match outcome {
            Ok(value) => match ledger.judge(at, oldest, value) {
                Verdict::Right => self.gets += 1,
                Verdict::Wrong(why) => {
                    self.wrong += 1;
                    self.example(format!("get {at}: {why}"));
                }
            },
            Err(fault) if fault.code == FaultCode::ObjectNotFound => {
                self.missing += 1;
                self.example(format!("get {at}: {fault}"));
            }
            Err(fault) => self.failed("get", at, fault),
        }
    }
}

/// A client, and how it puts.
pub(super) struct Asker {
    pub(super) store: Store,
    config: PutConfig,
}

impl Asker {
    pub(super) fn connect(options: &Options, masters: &[String], copies: usize) -> Result<Self, Trouble> {
        // Nothing remembered: every read asks the masters, so what it may see is known.
        let config = StoreConfig {
            masters: masters.to_vec(),
            deadline: options.deadline,
            places: 0,
            agent: "perilune-bench outage".into(),
            ..StoreConfig::default()
        };
        let config_of_puts =
            PutConfig { replicas: copies as u8, best_effort: options.nodes <= copies, upsert: true, ..PutConfig::default() };
        Ok(Self { store: Store::connect(config)?, config: config_of_puts })
    }

    pub(super) fn put(&self, ledger: &Ledger, at: usize) -> Outcome<()> {
        ledger.write(at, |key, value| self.store.put(key, value, &self.config).map(drop))
    }
}

/// Puts every object once.
pub(super) fn fill(asker: &Asker, ledger: &Ledger, mut progress: impl FnMut(u64)) -> Result<(), Trouble> {
    for at in 0..ledger.len() {
        asker.put(ledger, at)?;
        if at % BATCH == 0 {
            progress(at as u64);
        }
    }
    Ok(())
}

/// Reads every object, with nothing else going on.
pub(super) fn check(asker: &Asker, ledger: &Ledger, mut progress: impl FnMut(u64)) -> Tally {
    let mut tally = Tally::default();
    for first in (0..ledger.len()).step_by(BATCH) {
        let keys: Vec<ObjectKey> = (first..ledger.len().min(first + BATCH)).map(Ledger::key).collect();
        for (n, outcome) in asker.store.get_batch(&keys).iter().enumerate() {
            tally.read(ledger, first + n, ledger.acked(first + n), outcome);
        }
        progress(first as u64);
    }
    // A read that failed is not a value that was found.
    tally.missing += tally.failed;
    tally
}

/// Writers and readers, until stopped.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<Tally>>,
}

impl Load {
    pub(super) fn start(options: &Options, masters: &[String], copies: usize, ledger: &Arc<Ledger>) -> Result<Self, Trouble> {
        // Told once, by the one who stops; what the workers counted comes back through their ends.
        let stop = Arc::new(AtomicBool::new(false));
        let mut workers = Vec::new();
        for n in 0..options.workers * 2 {
            let (asker, ledger, stopped) = (Asker::connect(options, masters, copies)?, Arc::clone(ledger), Arc::clone(&stop));
            let (random, pause) = (Random::new(options.seed ^ crate::random::mix(n as u64 + 1)), options.pause);
            let writes = n % 2 == 0;
            workers.push(std::thread::spawn(move || work(&asker, &ledger, random, writes, pause, &stopped)));
        }
        Ok(Self { stop, workers })
    }

    pub(super) fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut tally = Tally::default();
        for worker in self.workers {
            match worker.join() {
                Ok(of_one) => tally.add(of_one),
                Err(_) => tally.failed("a worker", 0, &"it panicked"),
            }
        }
        tally
    }
}

fn work(asker: &Asker, ledger: &Ledger, mut random: Random, writes: bool, pause: Duration, stop: &AtomicBool) -> Tally {
    let mut tally = Tally::default();
    while !stop.load(Ordering::Relaxed) {
        let at = (random.bits() % ledger.len() as u64) as usize;
        let asked = Instant::now();
        if writes {
            match asker.put(ledger, at) {
                Ok(()) => tally.puts += 1,
                Err(fault) => tally.failed("put", at, &fault),
            }
        } else {
            let oldest = ledger.acked(at);
            let outcome = asker.store.get(&Ledger::key(at));
            tally.read(ledger, at, oldest, &outcome);
        }
        tally.longest_us = tally.longest_us.max(asked.elapsed().as_secs_f64() * 1e6);
        std::thread::sleep(pause);
    }
    tally
}

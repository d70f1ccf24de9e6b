//! `perilune bench master`: what questions cost a master, in a process of its own, with a store node that lends no bytes.
//!
//! First the table is filled, and the memory of the master is looked at before and after. Then each round asks every question for a while,
//! one call after the other, with one key and with many keys a call. Values are never written: a put ends with an invented checksum.

mod asker;
mod watcher;

use crate::cluster::Cluster;
use crate::pinned::{self, CLIENT_CORE, SERVER_CORE};
use crate::report::{Origin, Percentiles, Table, median, range};
use crate::rivals::{Sample, Trouble};
use asker::{Asker, Question};
use indicatif::ProgressBar;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use watcher::{Watched, Watcher};

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// This program, which starts the master.
    pub program: PathBuf,
    /// Counted rounds.
    pub rounds: usize,
    /// Objects in the table while questions are asked.
    pub objects: usize,
    /// Keys a call, one figure each.
    pub batches: Vec<usize>,
    /// How long one measurement takes.
    pub time: Duration,
    /// How many watch all that happens meanwhile.
    pub watchers: usize,
    /// A directory for the master's log.
    pub dir: PathBuf,
}

/// The medians of one question with so many keys a call.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// The name of the message.
    pub question: &'static str,
    /// Keys a call.
    pub batch: usize,
    /// Rounds that were counted.
    pub rounds: usize,
    /// Keys a second, of one asking thread.
    pub keys_per_s: f64,
    /// The slowest and the fastest round, in keys a second.
    pub keys_per_s_range: [f64; 2],
    /// Half of the calls were shorter, in microseconds.
    pub p50_us: f64,
    /// 99 of 100 calls were shorter, in microseconds.
    pub p99_us: f64,
    /// Processor time of the master for one key, in microseconds.
    pub master_cpu_us: f64,
    /// Processor time of the asking process for one key, in microseconds.
    pub client_cpu_us: f64,
}

/// What the table costs in memory.
#[derive(Clone, Debug, Serialize)]
pub struct Memory {
    /// Objects that were put.
    pub objects: usize,
    /// Bytes of a key.
    pub key_bytes: usize,
    /// Resident bytes of the master before.
    pub before: u64,
    /// Resident bytes of the master after.
    pub after: u64,
    /// The difference for one object: table, key, extents, eviction queue, and what the log keeps in memory.
    pub bytes_per_object: f64,
}

/// All figures of a run, and where they were taken.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// The machine and the commit.
    pub origin: Origin,
    /// Whether client and master were kept on a core each.
    pub pinned: bool,
    /// What the table costs.
    pub memory: Memory,
    /// What was told of what happened.
    pub watched: Watched,
    /// Medians.
    pub figures: Vec<Figure>,
}

/// Measures.
pub fn run(options: &Options) -> Result<Figures, Trouble> {
    // Before anything is pinned: it tells how many processors there are.
    let origin = Origin::here();
    let pinned = pinned::has_both_cores();
    if pinned {
        pinned::stay_on(&[CLIENT_CORE])?;
    }
    let cluster = Cluster::start(&options.program, &options.dir, &[], pinned.then_some(SERVER_CORE))?;
    let mut asker = Asker::new(&cluster);
    // The first puts make the master allocate what it needs once, however many objects there are.
    asker.fill(options.objects.min(1000))?;
    let before = cluster.master_resident()?;
    asker.fill(options.objects)?;
    let after = cluster.master_resident()?;
    let bytes_per_object = (after as f64 - before as f64) / options.objects as f64;
    let memory = Memory { objects: options.objects, key_bytes: asker::KEY_BYTES, before, after, bytes_per_object };

    let watchers = (0..options.watchers).map(|_| Ok(Watcher::begin(cluster.connect("perilune-bench watcher")?)));
    let watchers: Vec<Watcher> = watchers.collect::<Result<_, Trouble>>()?;
    let bar = ProgressBar::new(((options.rounds + 1) * options.batches.len() * Question::ALL.len()) as u64);
    let mut samples: BTreeMap<(Question, usize), Vec<Sample>> = BTreeMap::new();
    for round in 0..=options.rounds {
        for batch in &options.batches {
            // A put is ended, and its object removed, by the questions that follow.
            for question in Question::ALL {
                let time = if round == 0 { options.time.min(Duration::from_millis(200)) } else { options.time };
                let sample = asker.measure(question, *batch, time).map_err(|e| format!("{} of {batch} keys: {e}", question.as_str()))?;
                if round > 0 {
                    samples.entry((question, *batch)).or_default().push(sample);
                }
                bar.inc(1);
            }
        }
    }
    bar.finish_and_clear();
    let figures = samples.iter().map(|((question, batch), samples)| Figure::of(*question, *batch, samples)).collect();
    let watched = watcher::look_back(&cluster.store, watchers)?;
    Ok(Figures { origin, pinned, memory, watched, figures })
}

impl Figure {
    fn of(question: Question, batch: usize, samples: &[Sample]) -> Self {
        let rate = |s: &Sample| s.values as f64 / s.wall_s;
        let of = |f: &dyn Fn(&Sample) -> f64| median(samples.iter().map(f));
        Self {
            question: question.as_str(),
            batch,
            rounds: samples.len(),
            keys_per_s: of(&rate),
            keys_per_s_range: range(samples.iter().map(rate)),
            p50_us: of(&|s| s.p50_us),
            p99_us: of(&|s| s.p99_us),
            master_cpu_us: of(&|s| s.server_cpu_s * 1e6 / s.values as f64),
            client_cpu_us: of(&|s| s.client_cpu_s * 1e6 / s.values as f64),
        }
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}", self.origin)?;
        let cores = pinned::sentence(self.pinned);
        let m = &self.memory;
        writeln!(f, "{cores} Medians of rounds; one asking thread, one call at a time; a table of {} objects; CPU per key.", m.objects)?;
        writeln!(
            f,
            "{} objects with keys of {} bytes made the master {:.0} bytes larger each ({:.1} MB -> {:.1} MB resident).\n",
            m.objects,
            m.key_bytes,
            m.bytes_per_object,
            m.before as f64 / 1e6,
            m.after as f64 / 1e6
        )?;
        let Watched { watchers, told, cpu_us, lag_ms, events, events_per_s } = &self.watched;
        writeln!(
            f,
            "{watchers} watched and were told {told} events, at {cpu_us:.2} us of client CPU each, the last ones {lag_ms:.0} ms after all was done."
        )?;
        writeln!(f, "Afterwards {events} events were read back, {events_per_s:.0} a second.\n")?;
        let mut table = Table::new(["question", "keys a call", "keys/s", "p50", "p99", "master CPU", "client CPU"]).left(0);
        for figure in &self.figures {
            table.row([
                figure.question.into(),
                figure.batch.to_string(),
                format!("{:.0}", figure.keys_per_s),
                Percentiles::show(figure.p50_us),
                Percentiles::show(figure.p99_us),
                format!("{:.2} us", figure.master_cpu_us),
                format!("{:.2} us", figure.client_cpu_us),
            ]);
        }
        write!(f, "{table}")
    }
}

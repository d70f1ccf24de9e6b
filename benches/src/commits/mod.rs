//! `perilune bench commits`: how many objects a second masters acknowledge, for one and three members, each durability, data on disk and in
//! memory, beside etcd storing records of the same size in the same run.
//!
//! A commit of ours is a put from start to end without its bytes: room is given, a record of where the copy lies goes through the log.
//! etcd stores that record under the same key; it gives no room, grants no lease and knows no copies.

mod etcd;
mod ours;
mod proto;

use crate::pinned::Meter;
use crate::report::{Latency, Origin, Percentiles, Table, median, range};
use crate::rivals::{Sample, Trouble};
use indicatif::ProgressBar;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// This program, which starts the masters.
    pub program: PathBuf,
    /// Counted rounds.
    pub rounds: usize,
    /// Members, one figure each.
    pub members: Vec<usize>,
    /// Objects a call, one figure each.
    pub batches: Vec<usize>,
    /// Calls under way at a time, each on a connection of its own.
    pub askers: usize,
    /// How long one measurement takes.
    pub time: Duration,
    /// A directory on a disk.
    pub disk: PathBuf,
    /// A directory in memory.
    pub memory: PathBuf,
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Case {
    /// Members.
    pub members: usize,
    /// Objects a call.
    pub batch: usize,
    /// `disk` or `memory`.
    pub data: &'static str,
    /// `perilune` with its durability, or `etcd`.
    pub who: String,
}

/// The medians of a case.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// Which.
    #[serde(flatten)]
    pub case: Case,
    /// Objects acknowledged a second, by all askers together.
    pub commits_per_s: f64,
    /// The slowest and the fastest round.
    pub commits_per_s_range: [f64; 2],
    /// Half of the calls were shorter, in microseconds.
    pub p50_us: f64,
    /// 99 of 100 calls were shorter, in microseconds.
    pub p99_us: f64,
    /// Processor time of all members for one object, in microseconds.
    pub server_cpu_us: f64,
}

/// All figures of a run, and where they were taken.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// The machine and the commit.
    pub origin: Origin,
    /// Calls under way at a time.
    pub askers: usize,
    /// Medians.
    pub figures: Vec<Figure>,
    /// Who was not there.
    pub skipped: Vec<String>,
}

/// Somebody who acknowledges.
trait Keeper {
    /// `askers` callers make calls of `batch` new objects for about `time`: how many were acknowledged, and how long calls took.
    fn commit(&mut self, askers: usize, batch: usize, time: Duration) -> Result<(u64, Latency), Trouble>;
    /// The processes of its members.
    fn servers(&self) -> Vec<u32>;
}

/// Keys of one length, as caches use them.
fn key(prefix: &str, n: u64) -> String {
    format!("model/layer/{prefix}/{n:016}")
}

const DURABILITIES: [&str; 3] = ["quorum-fsync", "quorum", "leader"];

/// Measures.
pub fn run(options: &Options) -> Result<Figures, Trouble> {
    let mut samples: BTreeMap<Case, Vec<Sample>> = BTreeMap::new();
    let mut skipped = Vec::new();
    let who: Vec<String> = DURABILITIES.iter().map(|d| format!("perilune {d}")).chain(["etcd".to_owned()]).collect();
    let bar = ProgressBar::new((options.members.len() * 2 * (options.rounds + 1)) as u64);
    for &members in &options.members {
        for (data, dir) in [("disk", &options.disk), ("memory", &options.memory)] {
            let mut keepers: Vec<(&String, Box<dyn Keeper>)> = Vec::new();
            for (who, durability) in who.iter().zip(DURABILITIES) {
                let dir = dir.join(format!("{durability}-{members}"));
                keepers.push((who, Box::new(ours::Masters::start(options, &dir, members, durability)?)));
            }
            match etcd::Etcd::start(&dir.join(format!("etcd-{members}")), members, options.askers)? {
                Some(etcd) => keepers.push((&who[DURABILITIES.len()], Box::new(etcd))),
                None if skipped.is_empty() => skipped.push("etcd: not installed, see benches/peers/setup".to_owned()),
                None => {}
            }
            for round in 0..=options.rounds {
                for (who, keeper) in &mut keepers {
                    for &batch in &options.batches {
                        let meter = Meter::start(std::process::id(), &keeper.servers());
                        let (commits, latency) = keeper.commit(options.askers, batch, options.time).map_err(|e| format!("{who}: {e}"))?;
                        if round > 0 {
                            let case = Case { members, batch, data, who: (*who).clone() };
                            samples.entry(case).or_default().push(Sample::of(commits, &latency, meter));
                        }
                    }
                }
                bar.inc(1);
            }
        }
    }
    bar.finish_and_clear();
    let figures = samples.into_iter().map(|(case, samples)| Figure::of(case, &samples)).collect();
    Ok(Figures { origin: Origin::here(), askers: options.askers, figures, skipped })
}

impl Figure {
    fn of(case: Case, samples: &[Sample]) -> Self {
        let rate = |s: &Sample| s.values as f64 / s.wall_s;
        let of = |f: &dyn Fn(&Sample) -> f64| median(samples.iter().map(f));
        Self {
            case,
            commits_per_s: of(&rate),
            commits_per_s_range: range(samples.iter().map(rate)),
            p50_us: of(&|s| s.p50_us),
            p99_us: of(&|s| s.p99_us),
            server_cpu_us: of(&|s| s.server_cpu_s * 1e6 / s.values as f64),
        }
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}", self.origin)?;
        writeln!(f, "Medians of rounds; {} callers, all processes on the same cores; CPU of all members for one object.\n", self.askers)?;
        let mut table = Table::new(["members", "data", "a call", "who", "commits/s", "slowest", "p50", "p99", "CPU"]).left(1).left(3);
        for figure in &self.figures {
            table.row([
                figure.case.members.to_string(),
                figure.case.data.into(),
                figure.case.batch.to_string(),
                figure.case.who.clone(),
                format!("{:.0}", figure.commits_per_s),
                format!("{:.0}", figure.commits_per_s_range[0]),
                Percentiles::show(figure.p50_us),
                Percentiles::show(figure.p99_us),
                format!("{:.1} us", figure.server_cpu_us),
            ]);
        }
        write!(f, "{table}")?;
        self.skipped.iter().try_for_each(|who| writeln!(f, "skipped {who}"))
    }
}

//! `perilune bench outage`: a group of masters and its store nodes under load, while round after round one of them is killed, stopped or
//! restarted; how long until another serves, and whether anything acknowledged was forgotten.
//!
//! ```text
//! fill ► load (writers replace values, readers check them) ─────────────────────────────► every value is read and checked
//!          round: fault ► how long until a lookup, and a put, are answered ► repair ► whole again
//! ```

mod ledger;
mod load;
mod round;

use crate::group::{Group, Nodes};
use crate::report::{Origin, Percentiles, Table};
use crate::rivals::Trouble;
use indicatif::{ProgressBar, ProgressStyle};
use ledger::Ledger;
use load::Load;
pub use round::Fault;
use round::Round;
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// This program, which is everything that is started.
    pub program: PathBuf,
    /// Faults in all.
    pub rounds: usize,
    /// Which, in turn.
    pub faults: Vec<Fault>,
    /// Objects that are put before the first fault, and replaced again and again.
    pub objects: usize,
    /// Bytes of a value, at least 16.
    pub size: usize,
    /// Masters.
    pub masters: usize,
    /// Store nodes; each object has two copies where there are two.
    pub nodes: usize,
    /// Threads that put, and as many that get.
    pub workers: usize,
    /// Pause of a worker after each call.
    pub pause: Duration,
    /// What a call may take, repetitions included.
    pub deadline: Duration,
    /// Chooses keys.
    pub seed: u64,
    /// A directory for data and logs.
    pub dir: PathBuf,
}

/// What one kind of fault did to the service.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What was done, and to whom.
    pub fault: &'static str,
    /// How often.
    pub rounds: usize,
    /// From the fault until a lookup that was asked after it was answered.
    pub lookup: Percentiles,
    /// From the fault until a put that was begun after it was acknowledged.
    pub put: Percentiles,
}

/// All figures of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// The machine and the commit.
    pub origin: Origin,
    /// Masters and nodes.
    pub masters: usize,
    /// Store nodes.
    pub nodes: usize,
    /// Objects, and bytes of each value.
    pub objects: usize,
    /// Bytes of each value.
    pub size: usize,
    /// How long it all took.
    pub seconds: f64,
    /// By kind of fault.
    pub figures: Vec<Figure>,
    /// Each round in its order: the fault, milliseconds until the lookup, and until the put.
    pub rounds: Vec<(&'static str, u64, u64)>,
    /// What the load met.
    pub load: load::Tally,
    /// Objects that were read in the end.
    pub checked: u64,
    /// Of these, objects that were not there.
    pub missing: u64,
    /// Of these, values that are not the last that was acknowledged.
    pub wrong: u64,
}

impl Figures {
    /// Whether nothing was forgotten, nothing was wrong, and no call failed.
    pub fn is_clean(&self) -> bool {
        self.missing + self.wrong + self.load.missing + self.load.wrong + self.load.failed == 0
    }
}

/// Runs it all.
pub fn run(options: &Options) -> Result<Figures, Trouble> {
    let begun = Instant::now();
    // Nothing leaves but what the load replaces.
    let flags = ["--eviction-high-watermark", "1.0"];
    let mut group = Group::start(&options.program, &options.dir, options.masters, &flags)?;
    group.leader()?;
    let copies = options.nodes.clamp(1, 2);
    let room = (options.objects * options.size.next_multiple_of(4096) * copies / options.nodes) as u64;
    // Replaced values hold their space until leases on them have ended, and windows of leaders that went theirs for the put deadline.
    let segment = (room * 4).next_multiple_of(4096).max(2 << 30);
    let mut nodes = Nodes::start(&options.program, &options.dir, &group.addresses(), options.nodes, segment)?;
    let ledger = Arc::new(Ledger::new(options.objects, options.size, options.seed));
    let asker = load::Asker::connect(options, &group.addresses(), copies)?;

    let bar = ProgressBar::new(options.objects as u64).with_style(ProgressStyle::with_template("fill  {wide_bar} {pos}/{len} {eta}")?);
    load::fill(&asker, &ledger, |done| bar.set_position(done))?;
    bar.finish_and_clear();

    let bar = ProgressBar::new(options.rounds as u64).with_style(ProgressStyle::with_template("round {wide_bar} {pos}/{len} {eta} {msg}")?);
    let load = Load::start(options, &group.addresses(), copies, &ledger)?;
    let mut rounds: Vec<Round> = Vec::with_capacity(options.rounds);
    for (nth, fault) in options.faults.iter().cycle().take(options.rounds).enumerate() {
        bar.set_message(fault.as_str());
        let round = round::run(*fault, nth, &mut group, &mut nodes, &asker, &ledger)
            .map_err(|e| format!("round {nth}, {}: {e}", fault.as_str()))?;
        rounds.push(round);
        bar.inc(1);
    }
    let tally = load.stop();
    bar.finish_and_clear();

    let bar = ProgressBar::new(options.objects as u64).with_style(ProgressStyle::with_template("check {wide_bar} {pos}/{len} {eta}")?);
    let check = load::check(&asker, &ledger, |done| bar.set_position(done));
    bar.finish_and_clear();
    Ok(Figures {
        origin: Origin::here(),
        masters: options.masters,
        nodes: options.nodes,
        objects: options.objects,
        size: options.size,
        seconds: begun.elapsed().as_secs_f64(),
        figures: round::figures(&rounds),
        rounds: rounds.iter().map(Round::times).collect(),
        load: tally,
        checked: options.objects as u64,
        missing: check.missing,
        wrong: check.wrong,
    })
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}", self.origin)?;
        writeln!(
            f,
            "{} masters, {} store nodes, {} objects of {} bytes; {:.0} s in all. From the fault until it is answered:\n",
            self.masters, self.nodes, self.objects, self.size, self.seconds
        )?;
        let mut table = Table::new(["fault", "rounds", "lookup p50", "p99", "max", "put p50", "p99", "max"]).left(0);
        for figure in &self.figures {
            let [l50, l99, lmax] = [figure.lookup.p50_us, figure.lookup.p99_us, figure.lookup.max_us].map(Percentiles::show);
            let [p50, p99, pmax] = [figure.put.p50_us, figure.put.p99_us, figure.put.max_us].map(Percentiles::show);
            table.row([figure.fault.into(), figure.rounds.to_string(), l50, l99, lmax, p50, p99, pmax]);
        }
        writeln!(f, "{table}")?;
        let load = &self.load;
        writeln!(
            f,
            "Load meanwhile: {} puts, {} gets; {} failed, {} missing, {} wrong or stale. The longest call took {}.",
            load.puts,
            load.gets,
            load.failed,
            load.missing,
            load.wrong,
            Percentiles::show(load.longest_us)
        )?;
        for example in &load.examples {
            writeln!(f, "  {example}")?;
        }
        writeln!(f, "In the end: {} objects read, {} missing, {} wrong.", self.checked, self.missing, self.wrong)
    }
}

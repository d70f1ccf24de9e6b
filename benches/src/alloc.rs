//! `perilune bench alloc`: what taking and giving back room in a segment costs, and how much of a full segment is live.
//!
//! Runs in this process, on a space without bytes behind it. A step releases values that this thread took, chosen at random, until the
//! next one may be taken without being more than 90 % full, and takes it. Choosing, and the list of what is held, are part of the figure.

use crate::random::Random;
use crate::report::{Latency, Origin, Percentiles, Table, median, range};
use crate::rivals::Trouble;
use indicatif::ProgressBar;
use perilune_protocol::{ByteSize, Extent};
use perilune_state::alloc::{AllocError, FrameRun, FrameSpace, Space, Windowed};
use serde::Serialize;
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Counted rounds.
    pub rounds: usize,
    /// Bytes of the segment.
    pub space: u64,
    /// Sizes of values, in bytes; beside them, random sizes are measured.
    pub sizes: Vec<u64>,
    /// How many threads share the space, one figure each.
    pub threads: Vec<usize>,
    /// How long one measurement takes.
    pub time: Duration,
}

/// How full a thread keeps its part of the space.
const FULL: f64 = 0.9;
/// Pieces of a value, as the master allows for values below 8 MiB.
const EXTENTS_MAX: usize = 4;
/// Random sizes: half of them below the median, as blocks of different models and lengths are.
const RANDOM_MEDIAN: f64 = 256.0 * 1024.0;
const RANDOM_SIGMA: f64 = 1.0;
const RANDOM_RANGE: (f64, f64) = (4096.0, 4.0 * 1024.0 * 1024.0);

/// The medians of one size and number of threads.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// Bytes of a value; 0 means random sizes.
    pub size: u64,
    /// Threads that share the space.
    pub threads: usize,
    /// Rounds that were counted.
    pub rounds: usize,
    /// Nanoseconds of a thread for taking one value and releasing what stands for it.
    pub ns_per_pair: f64,
    /// The fastest and the slowest round, in nanoseconds.
    pub ns_per_pair_range: [f64; 2],
    /// Half of the steps were shorter, in nanoseconds; the clock is read every 64 steps, this is their mean.
    pub p50_ns: f64,
    /// The same for 99 of 100.
    pub p99_ns: f64,
    /// Values all threads took in a second.
    pub pairs_per_s: f64,
    /// The share of askings that found no room although a tenth of the space was free.
    pub refused: f64,
    /// The share of the space that is live bytes of values, after a value found room, when random values leave only for lack of room.
    pub live: f64,
}

/// All figures of a run, and where they were taken.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// The machine and the commit.
    pub origin: Origin,
    /// Bytes of the segment.
    pub space: u64,
    /// Medians.
    pub figures: Vec<Figure>,
}

/// Measures.
pub fn run(options: &Options) -> Result<Figures, Trouble> {
    let sizes: Vec<u64> = options.sizes.iter().copied().chain([0]).collect();
    let bar = ProgressBar::new((sizes.len() * (options.rounds * options.threads.len() + 1)) as u64);
    let mut figures = Vec::new();
    for size in sizes {
        let live = live(options.space, size)?;
        bar.inc(1);
        for threads in &options.threads {
            let mut samples = Vec::new();
            for round in 0..options.rounds {
                samples.push(churn(options, size, *threads, round as u64)?);
                bar.inc(1);
            }
            figures.push(Figure::of(size, *threads, live, &samples));
        }
    }
    bar.finish_and_clear();
    Ok(Figures { origin: Origin::here(), space: options.space, figures })
}

fn space(bytes: u64) -> FrameSpace {
    let space = FrameSpace::new(bytes);
    space.open(&[FrameRun { first: 0, count: u32::MAX }]);
    space
}

/// What somebody took of a space.
struct Held<'a> {
    space: &'a FrameSpace,
    size: u64,
    random: Random,
    values: Vec<(u64, Vec<Extent>)>,
    live: u64,
}

impl<'a> Held<'a> {
    fn new(space: &'a FrameSpace, size: u64, seed: u64) -> Self {
        Self { space, size, random: Random::new(seed), values: Vec::new(), live: 0 }
    }

    fn next_len(&mut self) -> u64 {
        match self.size {
            0 => self.random.log_normal(RANDOM_MEDIAN, RANDOM_SIGMA).clamp(RANDOM_RANGE.0, RANDOM_RANGE.1) as u64,
            size => size,
        }
    }

    fn take(&mut self, len: u64) -> Result<(), AllocError> {
        let extents = self.space.allocate(len, EXTENTS_MAX)?;
        self.live += len;
        self.values.push((len, extents));
        Ok(())
    }

    /// Releases a value chosen at random; false when nothing is held.
    fn release_one(&mut self) -> bool {
        if self.values.is_empty() {
            return false;
        }
        let chosen = (self.random.bits() % self.values.len() as u64) as usize;
        let (len, extents) = self.values.swap_remove(chosen);
        self.space.settle(&extents);
        self.space.release(&extents);
        self.live -= len;
        true
    }

    /// Takes one value within `budget`; false when there was no room for it.
    fn step(&mut self, budget: u64) -> bool {
        let len = self.next_len();
        while self.live + len > budget && self.release_one() {}
        self.take(len).is_ok()
    }
}

/// What one measurement gave.
struct Sample {
    pairs: u64,
    refused: u64,
    /// Of all threads together.
    busy: Duration,
    wall: Duration,
    steps: Latency,
}

const STEPS: u32 = 64;

fn churn(options: &Options, size: u64, threads: usize, round: u64) -> Result<Sample, Trouble> {
    let space = space(options.space);
    let budget = (space.capacity() as f64 * FULL) as u64 / threads as u64;
    let ready = Barrier::new(threads);
    let work = |thread: u64| {
        let mut held = Held::new(&space, size, round * 1000 + thread);
        loop {
            let len = held.next_len();
            if held.live + len > budget || held.take(len).is_err() {
                break;
            }
        }
        // Old and new mixed, as they are after a while: as many steps as there are values.
        for _ in 0..held.values.len() {
            held.step(budget);
        }
        ready.wait();
        let (mut pairs, mut refused, mut steps) = (0, 0, Latency::default());
        let started = Instant::now();
        while started.elapsed() < options.time {
            let begun = Instant::now();
            for _ in 0..STEPS {
                if held.step(budget) { pairs += 1 } else { refused += 1 }
            }
            steps.record(begun.elapsed() / STEPS);
        }
        let busy = started.elapsed();
        Sample { pairs, refused, busy, wall: busy, steps }
    };
    let work = &work;
    let samples: Vec<Sample> = std::thread::scope(|scope| {
        let started: Vec<_> = (0..threads as u64).map(|thread| scope.spawn(move || work(thread))).collect();
        started.into_iter().map(|thread| thread.join().map_err(|_| "a thread that allocated panicked")).collect::<Result<_, _>>()
    })?;
    samples
        .into_iter()
        .reduce(|mut all, one| {
            all.steps.add(&one.steps);
            let (pairs, refused) = (all.pairs + one.pairs, all.refused + one.refused);
            Sample { pairs, refused, busy: all.busy + one.busy, wall: all.wall.max(one.wall), steps: all.steps }
        })
        .filter(|all| all.pairs > 0)
        .ok_or_else(|| format!("no value of {size} bytes found room in a space of {} bytes", options.space).into())
}

/// The mean share of live bytes when the space is full and random values leave until the next one fits, over two generations of values.
fn live(bytes: u64, size: u64) -> Result<f64, Trouble> {
    let space = space(bytes);
    let mut held = Held::new(&space, size, 7);
    let (mut taken, mut sum) = (0u64, 0.0);
    let mut full = None;
    loop {
        let len = held.next_len();
        while held.take(len).is_err() {
            full.get_or_insert(held.values.len() as u64);
            if !held.release_one() {
                return Err(format!("a value of {len} bytes does not fit an empty space of {bytes} bytes").into());
            }
        }
        if let Some(values) = full {
            taken += 1;
            // The first generation still has the order of the filling.
            if taken > values {
                sum += held.live as f64 / space.capacity() as f64;
            }
            if taken == 2 * values.max(1) {
                return Ok(sum / (taken - values) as f64);
            }
        }
    }
}

impl Figure {
    fn of(size: u64, threads: usize, live: f64, samples: &[Sample]) -> Self {
        let of = |f: &dyn Fn(&Sample) -> f64| median(samples.iter().map(f));
        let ns = |s: &Sample| s.busy.as_secs_f64() * 1e9 / s.pairs as f64;
        Self {
            size,
            threads,
            rounds: samples.len(),
            ns_per_pair: of(&ns),
            ns_per_pair_range: range(samples.iter().map(ns)),
            p50_ns: of(&|s| s.steps.percentiles().p50_us * 1e3),
            p99_ns: of(&|s| s.steps.percentiles().p99_us * 1e3),
            pairs_per_s: of(&|s| s.pairs as f64 / s.wall.as_secs_f64()),
            refused: of(&|s| s.refused as f64 / (s.refused + s.pairs) as f64),
            live,
        }
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}", self.origin)?;
        let (space, median) = (ByteSize(self.space), ByteSize(RANDOM_MEDIAN as u64));
        writeln!(f, "A space of {space}, kept {:.0} % full; medians of rounds. Random sizes: log-normal, median {median}.", FULL * 100.0)?;
        writeln!(f, "`live`: share of the space that is values when it is full and random ones leave until the next one fits.\n")?;
        let header = ["size", "threads", "ns/allocate+release", "p50", "p99", "pairs/s, all threads", "refused", "live"];
        let mut table = Table::new(header).left(0);
        for figure in &self.figures {
            table.row([
                if figure.size == 0 { "random".into() } else { ByteSize(figure.size).to_string() },
                figure.threads.to_string(),
                format!("{:.0}", figure.ns_per_pair),
                Percentiles::show(figure.p50_ns / 1e3),
                Percentiles::show(figure.p99_ns / 1e3),
                format!("{:.0}", figure.pairs_per_s),
                format!("{:.2} %", figure.refused * 100.0),
                format!("{:.2} %", figure.live * 100.0),
            ]);
        }
        write!(f, "{table}")
    }
}

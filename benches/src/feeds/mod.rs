//! `perilune bench feeds`: events delivered to each kind of sink, beside the library that the sink is made with, used bare for the same requests, in
//! interleaved rounds.
//!
//! ```text
//! rate   a feed that begins behind events which are in the log already, until it is finished with all of them
//! lag    objects put one after the other: from the acknowledgement of each until its row has arrived
//! ```
//! A row has arrived at a listener when the listener has read it, elsewhere when the feed's checkpoint says so: files come when they are flushed. The bare
//! one sends bodies that are there already, each when the one before is acknowledged: it reads no log and makes no rows.

#[cfg(feature = "kafka")]
mod kafka;
mod listener;
mod ours;
mod place;

use crate::report::{Latency, Origin, Percentiles, Table, median, range};
use crate::rivals::Trouble;
use crate::vault;
use bytes::Bytes;
use indicatif::ProgressBar;
use ours::Ours;
use place::Place;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// This program, which starts its own master.
    pub program: PathBuf,
    /// Counted rounds; one more is run first and not counted.
    pub rounds: usize,
    /// Events that are delivered at once.
    pub events: usize,
    /// Events of a round whose lag is looked at.
    pub watched: usize,
    /// Pause between two of those.
    pub pause: Duration,
    /// Directories and buckets; all other kinds of sinks are measured as well.
    pub places: Vec<vault::Place>,
    /// A directory for data and logs.
    pub dir: PathBuf,
}

/// What was measured of one kind of sink.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// `blackhole`, `directory`, `s3`, `webhook` or `kafka`.
    pub sink: &'static str,
    /// Events of a round.
    pub events: usize,
    /// Requests with rows that they made, and the bytes of these, in the last round.
    pub requests: usize,
    /// Bytes of them all.
    pub bytes: usize,
    /// Rounds that were counted.
    pub rounds: usize,
    /// Events a second: the median of the rounds.
    pub events_per_s: f64,
    /// The slowest and the fastest round.
    pub events_per_s_range: [f64; 2],
    /// From the acknowledgement of a put until its row has arrived, in all rounds.
    pub lag: Percentiles,
    /// The library alone, where the sink is made with one.
    pub bare: Option<Bare>,
}

/// What the library does that a sink is made with.
#[derive(Clone, Debug, Serialize)]
pub struct Bare {
    /// Its name.
    pub library: &'static str,
    /// Events a second, in the same requests.
    pub events_per_s: f64,
    /// The slowest and the fastest round.
    pub events_per_s_range: [f64; 2],
    /// This build's rate as a share of this: the median over rounds, each of which measured both.
    pub ratio: f64,
    /// A request with a single row, in all rounds.
    pub request: Percentiles,
}

/// All figures of a run, and where they were taken.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// The machine and the commit.
    pub origin: Origin,
    /// Medians.
    pub figures: Vec<Figure>,
}

/// Requests with a single row that the bare library makes in a round.
const SINGLE: usize = 50;

/// A kind of sink, and what was measured of it.
struct Case {
    place: Box<dyn Place>,
    /// What a feed sent there last.
    bodies: Vec<Bytes>,
    /// Events a second of each round: ours, and bare.
    rates: Vec<(f64, Option<f64>)>,
    lag: Latency,
    request: Latency,
}

/// Measures.
///
/// # Errors
/// What went wrong, as a sentence; also where other rows arrived than there are events.
pub fn run(options: &Options) -> Result<Figures, Trouble> {
    let places = place::all(options)?;
    let mut ours = Ours::start(options, &places)?;
    let bar = ProgressBar::new((places.len() * (options.rounds + 1)) as u64);
    let case = |place| Case { place, bodies: Vec::new(), rates: Vec::new(), lag: Latency::default(), request: Latency::default() };
    let mut cases: Vec<Case> = places.into_iter().map(case).collect();
    for round in 0..=options.rounds {
        for case in &mut cases {
            case.round(&mut ours, options, round).map_err(|e| format!("{}: {e}", case.place.name()))?;
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(Figures { origin: Origin::here(), figures: cases.iter().map(|case| case.figure(options)).collect() })
}

impl Case {
    fn round(&mut self, ours: &mut Ours, options: &Options, round: usize) -> Result<(), Trouble> {
        // Who goes first changes. In the first round, which is not counted, the bare one has nothing to send yet.
        let early = if round % 2 == 1 { self.bare()? } else { None };
        let took = ours.deliver(&mut *self.place, &mut self.bodies)?;
        let bare = if round % 2 == 1 { early } else { self.bare()? };
        if round == 0 {
            return Ok(());
        }
        let rate = |took: Duration| options.events as f64 / took.as_secs_f64();
        self.rates.push((rate(took), bare.map(rate)));
        self.lag.add(&ours.lag(&mut *self.place, options)?);
        if let Some(body) = self.bodies.first() {
            let row = body.iter().position(|byte| *byte == b'\n').map_or_else(|| body.clone(), |end| body.slice(..=end));
            for _ in 0..SINGLE {
                self.request.record(self.place.send_bare(std::slice::from_ref(&row))?);
            }
        }
        Ok(())
    }

    fn bare(&mut self) -> Result<Option<Duration>, Trouble> {
        if self.bodies.is_empty() {
            return Ok(None);
        }
        self.place.send_bare(&self.bodies).map(Some)
    }

    fn figure(&self, options: &Options) -> Figure {
        let (rates, bare) = (|| self.rates.iter().map(|(ours, _)| *ours), || self.rates.iter().filter_map(|(_, bare)| *bare));
        let bare = self.place.library().map(|library| Bare {
            library,
            events_per_s: median(bare()),
            events_per_s_range: range(bare()),
            ratio: median(self.rates.iter().filter_map(|(ours, bare)| Some(ours / (*bare)?))),
            request: self.request.percentiles(),
        });
        Figure {
            sink: self.place.name(),
            events: options.events,
            requests: self.bodies.len(),
            bytes: self.bodies.iter().map(Bytes::len).sum(),
            rounds: self.rates.len(),
            events_per_s: median(rates()),
            events_per_s_range: range(rates()),
            lag: self.lag.percentiles(),
            bare,
        }
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}", self.origin)?;
        writeln!(
            f,
            "Rates are medians of rounds, times those of all rounds. Files are flushed every 2 s; all processes on the same cores.\n"
        )?;
        let header =
            ["sink", "requests", "events/s", "slowest", "lag p50", "lag p99", "bare", "events/s", "slowest", "ratio", "p50", "p99"];
        let mut table = Table::new(header).left(0).left(6);
        for Figure { sink, requests, events_per_s, events_per_s_range, lag, bare, .. } in &self.figures {
            let rate = |rate: f64| format!("{rate:.0}");
            let of = |show: &dyn Fn(&Bare) -> String| bare.as_ref().map_or_else(String::new, show);
            table.row([
                (*sink).into(),
                requests.to_string(),
                rate(*events_per_s),
                rate(events_per_s_range[0]),
                Percentiles::show(lag.p50_us),
                Percentiles::show(lag.p99_us),
                of(&|bare| bare.library.into()),
                of(&|bare| rate(bare.events_per_s)),
                of(&|bare| rate(bare.events_per_s_range[0])),
                of(&|bare| format!("{:.2}", bare.ratio)),
                of(&|bare| Percentiles::show(bare.request.p50_us)),
                of(&|bare| Percentiles::show(bare.request.p99_us)),
            ]);
        }
        write!(f, "{table}")
    }
}

//! `perilune bench transfer --protocol rdma`: our RDMA transport beside perftest and UCX, on the same devices, in interleaved rounds.
//!
//! ```text
//! case      what is measured                          devices   which of them, and their GIDs
//! ours      our engine: the peer and the asking side  sys       its two calls that need a promise
//! pingpong  our side of `ib_write_lat`                counts    what a gigabyte costs
//! perftest, ucx, mooncake  the others                 pair      how a server and its client are run
//! figures   medians, ratios, tables
//! ```

mod case;
mod counts;
mod devices;
mod figures;
mod mooncake;
mod ours;
mod pair;
mod perftest;
mod pingpong;
mod sys;
mod ucx;

pub use case::Measure;
pub use counts::PerGb;
pub use devices::present;
pub use figures::{Figure, Figures};
pub use ours::{LENT, ask, serve};
pub(super) use sys::write_by_ticket;

use crate::pinned::{self, CLIENT_CORE, SERVER_CORE};
use crate::report::Origin;
use crate::rivals::{Setting, Trouble, is_installed};
use case::{Case, Sample, Until};
use devices::Ends;
use indicatif::ProgressBar;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// What all transports have in common.
    pub common: super::Options,
    /// The devices of the asking side; empty chooses.
    pub devices: Vec<String>,
    /// The devices of the other side; empty chooses.
    pub peer_devices: Vec<String>,
    /// What is measured; empty measures all.
    pub measures: Vec<Measure>,
    /// How many pairs of devices are used at once, one row for each number; empty takes one and, where there are, two.
    pub pairs: Vec<usize>,
    /// Whether to count what a gigabyte costs, which takes longer than to measure.
    pub counts: bool,
    /// Where `benches/peers/setup` installed Mooncake.
    pub peers: PathBuf,
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Perftest,
    Ucx,
    Engine,
    /// Our engine, its pieces one after the other in the peer's memory.
    Apart,
    Mooncake,
}

impl Who {
    /// Those whose rounds are interleaved.
    const INTERLEAVED: [Self; 4] = [Self::Perftest, Self::Ucx, Self::Engine, Self::Apart];

    fn name(self, measure: Measure) -> &'static str {
        match self {
            Self::Perftest => perftest::program(measure),
            Self::Ucx => "ucx, one device",
            Self::Engine => "engine rdma",
            Self::Apart => "engine rdma, 64 MiB",
            Self::Mooncake => "mooncake rdma",
        }
    }
}

type Counted = BTreeMap<(Case, Who), PerGb>;
/// The values of the counted rounds, in their order.
type Samples = BTreeMap<(Case, Who), Vec<f64>>;

/// Measures.
pub fn run(options: &Options) -> Result<Figures, Trouble> {
    let common = &options.common;
    // Before anything is pinned: it tells how many processors there are.
    let origin = Origin::here();
    let pinned = pinned::has_both_cores();
    let setting = Setting { program: &common.program, dir: &common.dir, peers: &options.peers, server_core: pinned.then_some(SERVER_CORE) };
    if pinned {
        pinned::stay_on(&[CLIENT_CORE])?;
    }
    if !present() {
        // The engine knows best why it has no device, and what to do.
        ours::Asker::start(&setting, options.devices.clone(), &options.peer_devices)?;
    }
    let ends = Ends::find(&options.devices, &options.peer_devices)?;
    let names = |devices: &[devices::Device]| devices.iter().map(|device| device.name.clone()).collect::<Vec<_>>();
    let here = ends.asking.len();
    if let Some(many) = options.pairs.iter().find(|count| !(1..=here).contains(*count)) {
        return Err(format!("{many} pairs of devices: there are 1 to {here}").into());
    }
    let chosen = if options.pairs.is_empty() { vec![1, here.min(2)] } else { options.pairs.clone() };
    let mut bench = Bench { setting, ends: ends.clone(), askers: BTreeMap::new(), skipped: BTreeMap::new() };
    for count in BTreeSet::from_iter(chosen) {
        let ends = ends.first(count);
        bench.askers.insert(count, ours::Asker::start(&bench.setting, names(&ends.asking), &names(&ends.serving))?);
    }
    let mut cases = cases(common, bench.askers.keys().copied());
    cases.retain(|case| options.measures.is_empty() || options.measures.contains(&case.measure));
    if origin.cpus == 1 {
        cases.retain(|case| case.measure != Measure::WriteLatency);
        bench.skipped.insert("write latency", "both sides poll, which needs two processors".into());
    }
    let (mut samples, per_gb) = bench.rounds(common, &cases, options.counts)?;
    if cases.iter().any(mooncake::Mooncake::knows)
        && let Err(trouble) = bench.of_mooncake(common, &cases, &mut samples)
    {
        bench.skipped.insert("mooncake", trouble.to_string());
    }
    let figures = figures::of(&samples, &per_gb, ends.asking == ends.serving);
    let skipped = bench.skipped.into_iter().map(|(who, why)| format!("{who}: {why}")).collect();
    Ok(Figures { origin, pinned, devices: names(&ends.asking), peer_devices: names(&ends.serving), figures, skipped })
}

/// The asking side on the first of these devices, and its peer; empty chooses.
pub(super) fn asker_on(setting: &Setting<'_>, devices: &[String], peer_devices: &[String]) -> Result<ours::Asker, Trouble> {
    let Ends { asking, serving } = Ends::find(devices, peer_devices)?.first(1);
    let name = |devices: Vec<devices::Device>| devices.into_iter().map(|device| device.name).collect::<Vec<_>>();
    ours::Asker::start(setting, name(asking), &name(serving))
}

fn cases(options: &super::Options, devices: impl Iterator<Item = usize>) -> Vec<Case> {
    let mut cases = Vec::new();
    for devices in devices {
        for measure in [Measure::Write, Measure::Read] {
            for size in &options.sizes {
                for in_flight in [1, options.in_flight].into_iter().filter(|in_flight| *in_flight >= devices) {
                    cases.push(Case { measure, devices, size: *size, in_flight });
                }
            }
        }
        // One operation at a time goes over one device.
        for measure in [Measure::WriteLatency, Measure::ReadLatency].into_iter().filter(|_| devices == 1) {
            cases.extend(options.sizes.iter().map(|size| Case { measure, devices, size: *size, in_flight: 1 }));
        }
    }
    cases.dedup();
    cases
}

struct Bench<'a> {
    setting: Setting<'a>,
    ends: Ends,
    /// By how many pairs of devices they use.
    askers: BTreeMap<usize, ours::Asker>,
    /// Who is not measured any more, and why.
    skipped: BTreeMap<&'static str, String>,
}

impl Bench<'_> {
    fn rounds(&mut self, options: &super::Options, cases: &[Case], counts: bool) -> Result<(Samples, Counted), Trouble> {
        let mut samples = Samples::new();
        let mut operations: BTreeMap<Case, u64> = BTreeMap::new();
        let bar = ProgressBar::new((cases.len() * (options.rounds + 2)) as u64);
        for _ in 0..=options.rounds {
            for case in cases {
                // Round 0 finds out how many operations fill the time; it is not counted.
                let Some(count) = operations.get(case).copied() else {
                    let time = options.time.min(Duration::from_millis(300));
                    // Twice, as the first one connects.
                    self.of_engine(case, Until::Time(time / 4), true)?;
                    let sample = self.of_engine(case, Until::Time(time), true)?;
                    operations.insert(*case, sample.fill(case, options.time));
                    bar.inc(1);
                    continue;
                };
                for who in Who::INTERLEAVED {
                    if let Some(value) = self.measure(who, case, count)? {
                        samples.entry((*case, who)).or_default().push(value);
                    }
                }
                bar.inc(1);
            }
        }
        let mut per_gb = Counted::new();
        for case in cases {
            // A rate of one pair says it all: latencies are the same operations, and each pair has the same work.
            if counts && case.measure.is_rate() && case.devices == 1 {
                per_gb.extend(self.count(case, operations[case])?.into_iter().map(|(who, per_gb)| ((*case, who), per_gb)));
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok((samples, per_gb))
    }

    /// `None` when it is not here, or failed before.
    fn measure(&mut self, who: Who, case: &Case, operations: u64) -> Result<Option<f64>, Trouble> {
        let ends = self.ends.first(case.devices);
        let (name, program) = match who {
            Who::Apart if !case.measure.is_rate() => return Ok(None),
            Who::Engine | Who::Apart => {
                return self.of_engine(case, Until::Count(operations), who == Who::Engine).map(|sample| Some(sample.value));
            }
            Who::Perftest => ("perftest", perftest::program(case.measure)),
            Who::Ucx => ("ucx", ucx::PROGRAM),
            Who::Mooncake => return Ok(None), // not interleaved
        };
        if self.skipped.contains_key(name) || (who == Who::Ucx && case.devices > 1) {
            return Ok(None);
        }
        let once = || match who {
            _ if !is_installed(program) => Err("not installed".into()),
            Who::Ucx => ucx::measure(&self.setting, &ends.asking[0], case, operations),
            _ => perftest::measure(&self.setting, &ends, case, operations),
        };
        // On a busy machine a program now and then misses its other side: once more before it is left out.
        let value = once().or_else(|_| once());
        Ok(value.map_err(|trouble| self.skipped.insert(name, format!("{program}: {trouble}"))).ok())
    }

    /// After the others: its threads poll even when it has nothing to do.
    fn of_mooncake(&mut self, options: &super::Options, cases: &[Case], samples: &mut Samples) -> Result<(), Trouble> {
        let mut rival = mooncake::Mooncake::start(&self.setting, &self.ends)?;
        for round in 0..=options.rounds {
            for case in cases.iter().filter(|case| mooncake::Mooncake::knows(case)) {
                let value = rival.measure(case, options.time)?;
                if round > 0 {
                    samples.entry((*case, Who::Mooncake)).or_default().push(value);
                }
            }
        }
        Ok(())
    }

    fn of_engine(&mut self, case: &Case, until: Until, in_place: bool) -> Result<Sample, Trouble> {
        let asker = self.askers.get_mut(&case.devices).ok_or("no engine for so many devices")?;
        asker.measure(case, until, in_place).map_err(|e| format!("engine rdma, {case:?}: {e}").into())
    }

    /// What the engine and perftest do for a gigabyte of this case.
    fn count(&mut self, case: &Case, operations: u64) -> Result<Vec<(Who, PerGb)>, Trouble> {
        let asker = self.askers.get_mut(&case.devices).ok_or("no engine for so many devices")?;
        let mut ours = asker.per_gb(case, operations)?;
        let mut theirs = PerGb::default();
        let with_perftest = !self.skipped.contains_key("perftest");
        if !is_installed("strace") {
            self.skipped.insert("system calls", "strace is not installed".into());
        } else if case.in_flight > 1 && !self.skipped.contains_key("system calls") {
            // Only with several under way, and a tenth of the operations: under strace every system call stops, and a connection takes seconds.
            let few = operations / 10;
            let counted = counts::our_system_calls(&self.setting, asker, case, few).and_then(|ours| {
                let theirs = with_perftest.then(|| counts::perftest_system_calls(&self.setting, &self.ends, case, few));
                Ok((ours, theirs.transpose()?))
            });
            match counted {
                Ok(counted) => (ours.system_calls, theirs.system_calls) = (Some(counted.0), counted.1),
                Err(trouble) => _ = self.skipped.insert("system calls", trouble.to_string()),
            }
        }
        Ok(vec![(Who::Engine, ours), (Who::Perftest, theirs)])
    }
}

//! `perilune bench store`: put and get beside rivals and the physical floor, in interleaved rounds.
//!
//! Every round asks every rival every case once, so that what else the machine does meets all of them alike.
//! Round 0 touches memory for the first time and is not counted. Medians over the other rounds are told.

use crate::pinned::{self, CLIENT_CORE, SERVER_CORE};
use crate::report::{Origin, Percentiles, Table, median, range};
use crate::rivals::{Case, Memcached, Memcpy, Mooncake, Op, Perilune, RawTcp, Redis, Rival, Sample, Setting, Trouble};
use indicatif::ProgressBar;
use perilune_protocol::{ByteSize, Protocol};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// This program, which starts its own master and store node.
    pub program: PathBuf,
    /// Counted rounds.
    pub rounds: usize,
    /// Sizes of values, in bytes.
    pub sizes: Vec<usize>,
    /// Values per call of the batch cases; fewer where a call would move more than 64 MiB.
    pub batch: usize,
    /// How long one measurement takes.
    pub time: Duration,
    /// Only rivals whose name contains one of these; empty means all.
    pub only: Vec<String>,
    /// The transports to measure, each alone.
    pub transports: Vec<Protocol>,
    /// Where `benches/peers/setup` installed what Debian has not.
    pub peers: PathBuf,
    /// A directory for data and logs.
    pub dir: PathBuf,
}

const CALL_BYTES_MAX: usize = 64 << 20;

/// The medians of one rival in one case.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// Who.
    pub rival: String,
    /// `put` or `get`.
    pub op: &'static str,
    /// Bytes of a value.
    pub size: usize,
    /// Values per call.
    pub batch: usize,
    /// Rounds that were counted.
    pub rounds: usize,
    /// Values a second.
    pub values_per_s: f64,
    /// The slowest and the fastest round, in values a second.
    pub values_per_s_range: [f64; 2],
    /// Bytes a second.
    pub bytes_per_s: f64,
    /// Half of the calls were shorter, in microseconds.
    pub p50_us: f64,
    /// 99 of 100 calls were shorter, in microseconds.
    pub p99_us: f64,
    /// Processor time of the asking process for one value, in microseconds.
    pub client_cpu_us: f64,
    /// Processor time of the answering processes for one value, in microseconds.
    pub server_cpu_us: f64,
}

/// All figures of a run, and where they were taken.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// The machine and the commit.
    pub origin: Origin,
    /// Whether client and servers were kept on a core each.
    pub pinned: bool,
    /// Medians.
    pub figures: Vec<Figure>,
    /// Who was not measured, or not wholly, and why.
    pub skipped: Vec<String>,
}

/// Measures.
pub fn run(options: &Options) -> Result<Figures, Trouble> {
    // Before anything is pinned: it tells how many processors there are.
    let origin = Origin::here();
    let pinned = pinned::has_both_cores();
    let setting =
        Setting { program: &options.program, dir: &options.dir, peers: &options.peers, server_core: pinned.then_some(SERVER_CORE) };
    if pinned {
        // Before any rival is made, so that the threads of client libraries stay here too.
        pinned::stay_on(&[CLIENT_CORE])?;
    }
    let mut skipped = Vec::new();
    let mut rivals = gather(options, &setting, &mut skipped)?;
    let cases = cases(options);
    let bar = ProgressBar::new((rivals.len() * cases.len() * (options.rounds + 1)) as u64);
    let mut samples: BTreeMap<(Case, usize), Vec<Sample>> = BTreeMap::new();
    for round in 0..=options.rounds {
        for case in &cases {
            for (index, rival) in rivals.iter_mut().enumerate() {
                let Some(running) = rival else { continue };
                // The first round only has to touch everything once.
                let time = if round == 0 { options.time.min(Duration::from_millis(200)) } else { options.time };
                match running.measure(case, time) {
                    Ok(sample) if round > 0 => samples.entry((*case, index)).or_default().push(sample),
                    Ok(_) => {}
                    Err(trouble) => {
                        skipped.push(format!(
                            "{} from round {round}, {} of {}: {trouble}",
                            running.name(),
                            case.op.as_str(),
                            ByteSize(case.size as u64)
                        ));
                        *rival = None;
                    }
                }
                bar.inc(1);
            }
        }
    }
    bar.finish_and_clear();
    let names: Vec<Option<String>> = rivals.iter().map(|rival| rival.as_ref().map(|r| r.name())).collect();
    let figures = samples.iter().filter_map(|((case, index), samples)| Some(Figure::of(names[*index].clone()?, case, samples))).collect();
    Ok(Figures { origin, pinned, figures, skipped })
}

type Slot = Option<Box<dyn Rival>>;

fn gather(options: &Options, setting: &Setting<'_>, skipped: &mut Vec<String>) -> Result<Vec<Slot>, Trouble> {
    let wanted = |name: &str| options.only.is_empty() || options.only.iter().any(|part| name.contains(part.as_str()));
    let mut rivals: Vec<Slot> = Vec::new();
    if wanted("memcpy") {
        rivals.push(Some(Box::new(Memcpy::default())));
    }
    if wanted("raw tcp") {
        rivals.push(Some(Box::new(RawTcp::start(setting)?)));
    }
    for protocol in options.transports.iter().copied().filter(|p| wanted(&format!("perilune {p}"))) {
        rivals.push(Some(Box::new(Perilune::start(setting, protocol)?)));
    }
    let mut found = |name: &str, rival: Result<Slot, Trouble>, how: &str| match rival {
        Ok(Some(rival)) => rivals.push(Some(rival)),
        Ok(None) => skipped.push(format!("{name}: not installed ({how})")),
        Err(trouble) => skipped.push(format!("{name}: {trouble}")),
    };
    let boxed = |rival: Option<Redis>| rival.map(|r| Box::new(r) as Box<dyn Rival>);
    if wanted("redis") {
        found("redis", Redis::start(setting).map(boxed), "apt-get install redis-server");
    }
    if wanted("memcached") {
        found(
            "memcached",
            Memcached::start(setting).map(|rival| rival.map(|r| Box::new(r) as Box<dyn Rival>)),
            "apt-get install memcached",
        );
    }
    if wanted("mooncake tcp") {
        found("mooncake", Mooncake::start(setting).map(|rival| rival.map(|r| Box::new(r) as Box<dyn Rival>)), "benches/peers/setup");
    }
    Ok(rivals)
}

fn cases(options: &Options) -> Vec<Case> {
    let mut cases = Vec::new();
    for size in &options.sizes {
        let batch = options.batch.min((CALL_BYTES_MAX / size).max(1));
        for op in Op::ALL {
            cases.push(Case { size: *size, batch: 1, op });
            if batch > 1 {
                cases.push(Case { size: *size, batch, op });
            }
        }
    }
    cases
}

impl Figure {
    fn of(rival: String, case: &Case, samples: &[Sample]) -> Self {
        let rate = |s: &Sample| s.values as f64 / s.wall_s;
        let of = |f: &dyn Fn(&Sample) -> f64| median(samples.iter().map(f));
        let values_per_s = of(&rate);
        Self {
            rival,
            op: case.op.as_str(),
            size: case.size,
            batch: case.batch,
            rounds: samples.len(),
            values_per_s,
            values_per_s_range: range(samples.iter().map(rate)),
            bytes_per_s: values_per_s * case.size as f64,
            p50_us: of(&|s| s.p50_us),
            p99_us: of(&|s| s.p99_us),
            client_cpu_us: of(&|s| s.client_cpu_s * 1e6 / s.values as f64),
            server_cpu_us: of(&|s| s.server_cpu_s * 1e6 / s.values as f64),
        }
    }
}

impl Figures {
    /// How many times as many values a second `figure` moves as `rival` does in the same case.
    fn ratio(&self, figure: &Figure, rival: &str) -> Option<f64> {
        let same = |f: &&Figure| f.rival == rival && (f.op, f.size, f.batch) == (figure.op, figure.size, figure.batch);
        Some(figure.values_per_s / self.figures.iter().find(same)?.values_per_s)
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}", self.origin)?;
        let cores = pinned::sentence(self.pinned) + " Mooncake, whose client polls, has both.";
        writeln!(
            f,
            "{cores} Medians of interleaved rounds; one client thread; GB = 1e9 bytes; CPU per value. `of X`: our rate divided by that of X.\n"
        )?;
        let mut table = Table::new([
            "op",
            "size",
            "batch",
            "who",
            "values/s",
            "GB/s",
            "p50",
            "p99",
            "client CPU",
            "server CPU",
            "of redis",
            "of memcached",
            "of mooncake",
            "of floor",
        ])
        .left(0)
        .left(3);
        for figure in &self.figures {
            let ours = figure.rival.starts_with("perilune");
            let floor = if figure.rival == "perilune shm" { "memcpy" } else { "raw tcp" };
            let of =
                |rival: &str| if ours { self.ratio(figure, rival).map_or(String::new(), |r| format!("{r:.2}")) } else { String::new() };
            table.row([
                figure.op.into(),
                ByteSize(figure.size as u64).to_string(),
                figure.batch.to_string(),
                figure.rival.clone(),
                format!("{:.0}", figure.values_per_s),
                format!("{:.3}", figure.bytes_per_s / 1e9),
                Percentiles::show(figure.p50_us),
                Percentiles::show(figure.p99_us),
                Percentiles::show(figure.client_cpu_us),
                Percentiles::show(figure.server_cpu_us),
                of("redis"),
                of("memcached"),
                of("mooncake tcp"),
                of(floor),
            ]);
        }
        write!(f, "{table}")?;
        self.skipped.iter().try_for_each(|who| writeln!(f, "skipped: {who}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios() {
        let sample = |values| Sample { values, wall_s: 1.0, p50_us: 1.0, p99_us: 2.0, client_cpu_s: 0.5, server_cpu_s: 0.25 };
        let case = Case { size: 4096, batch: 1, op: Op::Get };
        let figures = Figures {
            origin: Origin::here(),
            pinned: true,
            figures: vec![
                Figure::of("perilune tcp".into(), &case, &[sample(100), sample(400), sample(200)]),
                Figure::of("redis".into(), &case, &[sample(100)]),
            ],
            skipped: vec!["memcached: not installed".into()],
        };
        assert_eq!(figures.figures[0].values_per_s_range, [100.0, 400.0]);
        assert_eq!(figures.ratio(&figures.figures[0], "redis"), Some(2.0));
        assert_eq!(figures.ratio(&figures.figures[0], "memcached"), None);
        let told = figures.to_string();
        assert!(told.contains("2.00") && told.contains("skipped: memcached"), "{told}");
    }
}

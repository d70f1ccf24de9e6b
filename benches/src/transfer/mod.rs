//! `perilune bench transfer`: READ and WRITE of the transfer engine alone, beside a plain copy and a plain socket, in interleaved rounds.
//!
//! The other side is a process of its own that lends 256 MiB of a memfd. One thread asks; a case with 16 in flight gives the engine
//! 16 jobs in one call, a scatter case gives it one job of 128 pieces that lie apart on both sides. The floors move as many bytes a call; the plain
//! socket reads them with one system call and writes them with one for each job or piece, so that the engine can be faster.

use crate::pinned::{self, CLIENT_CORE, SERVER_CORE};
use crate::report::{Origin, Percentiles, Table, median, range};
use crate::rivals::{Case, Memcpy, Op, RawTcp, Rival, Sample, Setting, Trouble};
use indicatif::ProgressBar;
use perilune_protocol::{ByteSize, Protocol};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

mod asker;
mod peer;
pub mod rdma;
pub mod single;

pub use peer::serve;

/// Bytes the other side lends, and the most that a call may move: more than the caches hold, as much as the floors walk through.
pub const LENT: u64 = 256 << 20;
/// Pieces of a scatter case.
const PIECES: usize = 128;
/// Bytes of such a piece.
const PIECE: usize = 4096;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// This program, which starts the other sides.
    pub program: PathBuf,
    /// By which of TCP and shared memory; RDMA is measured beside others, by [`rdma::run`].
    pub protocols: Vec<Protocol>,
    /// Counted rounds.
    pub rounds: usize,
    /// Bytes of a job.
    pub sizes: Vec<usize>,
    /// Jobs of one call in the cases with several; together at most [`LENT`].
    pub in_flight: usize,
    /// How long one measurement takes.
    pub time: Duration,
    /// A directory for the socket.
    pub dir: PathBuf,
}

/// How a call moves its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Shape {
    /// Bytes and operation; `batch` counts jobs, or pieces of the one job.
    case: Case,
    scatter: bool,
}

/// The medians of one way in one case.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// `memcpy`, `raw tcp`, `engine tcp` or `engine shm`.
    pub who: String,
    /// `read` or `write`.
    pub op: &'static str,
    /// Bytes of a job, or of a piece of a scattered one.
    pub size: usize,
    /// Jobs of a call.
    pub in_flight: usize,
    /// Pieces of a job.
    pub pieces: usize,
    /// Rounds that were counted.
    pub rounds: usize,
    /// Bytes a second.
    pub bytes_per_s: f64,
    /// The slowest and the fastest round, in bytes a second.
    pub bytes_per_s_range: [f64; 2],
    /// Half of the calls were shorter, in microseconds.
    pub p50_us: f64,
    /// 99 of 100 calls were shorter, in microseconds.
    pub p99_us: f64,
    /// Processor seconds of the asking process for 1e9 bytes.
    pub client_cpu_s_per_gb: f64,
    /// Processor seconds of the other process for 1e9 bytes; 0 where there is none, or it has nothing to do.
    pub peer_cpu_s_per_gb: f64,
}

/// All figures of a run, and where they were taken.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// The machine and the commit.
    pub origin: Origin,
    /// Whether the sides were kept on a core each.
    pub pinned: bool,
    /// Medians.
    pub figures: Vec<Figure>,
}

enum Who {
    Floor(Box<dyn Rival>),
    Engine(asker::Asker),
}

impl Who {
    fn name(&self) -> String {
        match self {
            Self::Floor(rival) => rival.name(),
            Self::Engine(asker) => format!("engine {}", asker.protocol()),
        }
    }

    fn measure(&mut self, shape: &Shape, time: Duration) -> Result<Sample, Trouble> {
        match self {
            Self::Floor(rival) => rival.measure(&shape.case, time),
            Self::Engine(asker) => asker.measure(shape, time),
        }
    }
}

/// Measures.
pub fn run(options: &Options) -> Result<Figures, Trouble> {
    // Before anything is pinned: it tells how many processors there are.
    let origin = Origin::here();
    let pinned = pinned::has_both_cores();
    let server_core = pinned.then_some(SERVER_CORE);
    let setting = Setting { program: &options.program, dir: &options.dir, peers: Path::new(""), server_core };
    if pinned {
        pinned::stay_on(&[CLIENT_CORE])?;
    }
    let mut all = vec![Who::Floor(Box::new(Memcpy::default())), Who::Floor(Box::new(RawTcp::start(&setting)?))];
    for protocol in options.protocols.iter().copied() {
        all.push(Who::Engine(asker::Asker::start(&setting, protocol)?));
    }
    let shapes = shapes(options);
    let bar = ProgressBar::new((all.len() * shapes.len() * (options.rounds + 1)) as u64);
    let mut samples: BTreeMap<(Shape, usize), Vec<Sample>> = BTreeMap::new();
    for round in 0..=options.rounds {
        for shape in &shapes {
            for (index, who) in all.iter_mut().enumerate() {
                // Round 0 only has to touch everything once, and is not counted.
                let time = if round == 0 { options.time.min(Duration::from_millis(200)) } else { options.time };
                let sample = who.measure(shape, time).map_err(|e| format!("{}, {shape:?}: {e}", who.name()))?;
                if round > 0 {
                    samples.entry((*shape, index)).or_default().push(sample);
                }
                bar.inc(1);
            }
        }
    }
    bar.finish_and_clear();
    let figures = samples.iter().map(|((shape, index), samples)| Figure::of(all[*index].name(), shape, samples)).collect();
    Ok(Figures { origin, pinned, figures })
}

fn shapes(options: &Options) -> Vec<Shape> {
    let mut shapes = Vec::new();
    for op in [Op::Get, Op::Put] {
        for size in &options.sizes {
            for batch in [1, options.in_flight] {
                shapes.push(Shape { case: Case { size: *size, batch, op }, scatter: false });
            }
        }
        shapes.push(Shape { case: Case { size: PIECE, batch: PIECES, op }, scatter: true });
    }
    shapes.dedup();
    shapes
}

impl Figure {
    fn of(who: String, shape: &Shape, samples: &[Sample]) -> Self {
        let Case { size, batch, op } = shape.case;
        let bytes = |s: &Sample| s.values as f64 * size as f64;
        let rate = |s: &Sample| bytes(s) / s.wall_s;
        let of = |f: &dyn Fn(&Sample) -> f64| median(samples.iter().map(f));
        Self {
            who,
            op: if op == Op::Get { "read" } else { "write" },
            size,
            in_flight: if shape.scatter { 1 } else { batch },
            pieces: if shape.scatter { batch } else { 1 },
            rounds: samples.len(),
            bytes_per_s: of(&rate),
            bytes_per_s_range: range(samples.iter().map(rate)),
            p50_us: of(&|s| s.p50_us),
            p99_us: of(&|s| s.p99_us),
            client_cpu_s_per_gb: of(&|s| s.client_cpu_s * 1e9 / bytes(s)),
            peer_cpu_s_per_gb: of(&|s| s.server_cpu_s * 1e9 / bytes(s)),
        }
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}", self.origin)?;
        let cores = pinned::sentence(self.pinned);
        writeln!(f, "{cores} Medians of interleaved rounds; one asking thread; GB = 1e9 bytes; p50 and p99 of a call, with all its jobs.")?;
        writeln!(f, "`of floor`: our rate divided by that of memcpy (shm) or raw tcp (tcp) in the same case.\n")?;
        let header = ["op", "size", "jobs", "pieces", "who", "GB/s", "p50", "p99", "client CPU s/GB", "peer CPU s/GB", "of floor"];
        let mut table = Table::new(header).left(0).left(4);
        for figure in &self.figures {
            let same = |o: &&Figure| (o.op, o.size, o.in_flight, o.pieces) == (figure.op, figure.size, figure.in_flight, figure.pieces);
            let floor = match figure.who.as_str() {
                "engine shm" => self.figures.iter().filter(same).find(|o| o.who == "memcpy"),
                "engine tcp" => self.figures.iter().filter(same).find(|o| o.who == "raw tcp"),
                _ => None,
            };
            table.row([
                figure.op.into(),
                ByteSize(figure.size as u64).to_string(),
                figure.in_flight.to_string(),
                figure.pieces.to_string(),
                figure.who.clone(),
                format!("{:.3}", figure.bytes_per_s / 1e9),
                Percentiles::show(figure.p50_us),
                Percentiles::show(figure.p99_us),
                format!("{:.3}", figure.client_cpu_s_per_gb),
                format!("{:.3}", figure.peer_cpu_s_per_gb),
                floor.map_or(String::new(), |floor| format!("{:.2}", figure.bytes_per_s / floor.bytes_per_s)),
            ]);
        }
        write!(f, "{table}")
    }
}

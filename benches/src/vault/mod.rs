//! `perilune bench vault`: memory to a vault and back, beside `object_store` used bare on the same one, in interleaved rounds.
//!
//! Both have as many objects on their way and send the same bytes; in a directory both have them on disk before they say so, and both bring them
//! into buffers of the caller that were written to before. The bare one reads values from its own memory and checks nothing; ours takes them out
//! of a store node's and back to it, compares checksums, and writes down where they went.

mod bare;
mod ours;
pub(crate) mod place;

pub use place::{Bucket, Place};

use crate::payload::Payload;
use crate::report::{Origin, Table, median, range};
use crate::rivals::Trouble;
use bytes::Bytes;
use indicatif::ProgressBar;
use perilune_protocol::ByteSize;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// This program, which starts its own master and store node.
    pub program: PathBuf,
    /// Counted rounds; one more is run first and not counted.
    pub rounds: usize,
    /// Sizes of objects, in bytes.
    pub sizes: Vec<usize>,
    /// Objects on their way at a time.
    pub in_flight: usize,
    /// Bytes of the objects of one measurement.
    pub bytes: u64,
    /// The vaults.
    pub places: Vec<Place>,
    /// A directory for data and logs.
    pub dir: PathBuf,
}

/// Objects of one measurement, at most.
const OBJECTS_MAX: usize = 8192;

impl Options {
    fn objects(&self, size: usize) -> usize {
        ((self.bytes / size as u64) as usize).clamp(2 * self.in_flight, OBJECTS_MAX.max(2 * self.in_flight))
    }
}

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Memory to the vault.
    Offload,
    /// The vault to a reader.
    ReadBack,
}

impl Way {
    fn as_str(self) -> &'static str {
        match self {
            Self::Offload => "offload",
            Self::ReadBack => "read-back",
        }
    }
}

/// Somebody who brings objects to a vault and back.
trait Mover {
    /// Objects of these values, numbered as they come, go to the vault.
    fn offload(&mut self, values: &[Bytes]) -> Result<Duration, Trouble>;
    /// All of them are read again; every byte is compared, in what is not measured.
    fn read_back(&mut self, values: &[Bytes]) -> Result<Duration, Trouble>;
    /// They are deleted.
    fn forget(&mut self) -> Result<(), Trouble>;
}

/// Buffers for values, in memory that was written to before: whoever fills them meets no page for the first time.
fn touched(values: &[Bytes]) -> Vec<Vec<u8>> {
    values.iter().map(|value| vec![0xff; value.len()]).collect()
}

/// The medians of one case.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// `directory` or `s3`.
    pub place: &'static str,
    /// Which way.
    pub way: Way,
    /// Bytes of an object.
    pub size: usize,
    /// Objects of a round.
    pub objects: usize,
    /// Rounds that were counted.
    pub rounds: usize,
    /// Bytes a second by this build.
    pub bytes_per_s: f64,
    /// The slowest and the fastest round.
    pub bytes_per_s_range: [f64; 2],
    /// Bytes a second by `object_store` alone.
    pub bare_bytes_per_s: f64,
    /// The slowest and the fastest round.
    pub bare_bytes_per_s_range: [f64; 2],
    /// The first as a share of the second: the median over rounds, each of which measured both.
    pub ratio: f64,
}

/// All figures of a run, and where they were taken.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// The machine and the commit.
    pub origin: Origin,
    /// Objects on their way at a time.
    pub in_flight: usize,
    /// Medians.
    pub figures: Vec<Figure>,
}

/// Bytes a second of a round: ours, and bare.
type Pair = (f64, f64);

/// Measures.
///
/// # Errors
/// What went wrong, as a sentence; also where a byte came back that was not the one put.
pub fn run(options: &Options) -> Result<Figures, Trouble> {
    let bar = ProgressBar::new((options.places.len() * options.sizes.len() * (options.rounds + 1)) as u64);
    let mut figures = Vec::new();
    for (nth, place) in options.places.iter().enumerate() {
        let dir = options.dir.join(nth.to_string());
        std::fs::create_dir_all(&dir)?;
        let place = place.prepare(&dir)?;
        let mut bare = bare::Bare::start(&place, options.in_flight)?;
        let mut ours = ours::Ours::start(options, &place, &dir)?;
        for &size in &options.sizes {
            let payload = Payload::new(size as u64, size);
            let values: Vec<Bytes> = (0..options.objects(size) as u64)
                .map(|id| {
                    let mut bytes = vec![0; size];
                    payload.fill(id, &mut bytes);
                    bytes.into()
                })
                .collect();
            let mut samples: BTreeMap<Way, Vec<Pair>> = BTreeMap::new();
            for round in 0..=options.rounds {
                // Who goes first changes, as what a round leaves behind is the next one's to bear.
                let movers: [&mut dyn Mover; 2] = if round % 2 == 0 { [&mut bare, &mut ours] } else { [&mut ours, &mut bare] };
                let mut took = Vec::new();
                for mover in movers {
                    took.push((mover.offload(&values)?, mover.read_back(&values)?));
                    mover.forget()?;
                }
                if round % 2 == 0 {
                    took.reverse();
                }
                let rate = |took: Duration| (size * values.len()) as f64 / took.as_secs_f64();
                if round > 0 {
                    samples.entry(Way::Offload).or_default().push((rate(took[0].0), rate(took[1].0)));
                    samples.entry(Way::ReadBack).or_default().push((rate(took[0].1), rate(took[1].1)));
                }
                bar.inc(1);
            }
            figures.extend(samples.into_iter().map(|(way, pairs)| Figure::of(place.name(), way, size, values.len(), &pairs)));
        }
    }
    bar.finish_and_clear();
    Ok(Figures { origin: Origin::here(), in_flight: options.in_flight, figures })
}

impl Figure {
    fn of(place: &'static str, way: Way, size: usize, objects: usize, pairs: &[Pair]) -> Self {
        let (ours, bare) = (|| pairs.iter().map(|(ours, _)| *ours), || pairs.iter().map(|(_, bare)| *bare));
        Self {
            place,
            way,
            size,
            objects,
            rounds: pairs.len(),
            bytes_per_s: median(ours()),
            bytes_per_s_range: range(ours()),
            bare_bytes_per_s: median(bare()),
            bare_bytes_per_s_range: range(bare()),
            ratio: median(pairs.iter().map(|(ours, bare)| ours / bare)),
        }
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}", self.origin)?;
        writeln!(f, "Medians of rounds, MiB/s; {} objects on their way at a time; all processes on the same cores.\n", self.in_flight)?;
        let mut table =
            Table::new(["vault", "way", "size", "objects", "perilune", "slowest", "object_store", "slowest", "ratio"]).left(0).left(1);
        let mib = |rate: f64| format!("{:.0}", rate / f64::from(1 << 20));
        for figure in &self.figures {
            table.row([
                figure.place.into(),
                figure.way.as_str().into(),
                ByteSize(figure.size as u64).to_string(),
                figure.objects.to_string(),
                mib(figure.bytes_per_s),
                mib(figure.bytes_per_s_range[0]),
                mib(figure.bare_bytes_per_s),
                mib(figure.bare_bytes_per_s_range[0]),
                format!("{:.2}", figure.ratio),
            ]);
        }
        write!(f, "{table}")
    }
}

//! `perilune bench restart`: how long a master takes to serve again that keeps a long log of what happened, and how much memory that takes.
//!
//! Objects are put and removed until the files of the log have so many bytes. Then the master is killed and started again, round after round.

use crate::cluster::Cluster;
use crate::report::{Origin, Table, median, range};
use crate::rivals::Trouble;
use perilune_protocol::rpc::object::Remove;
use perilune_protocol::{ByteSize, ObjectKey, Outcome};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Keys that are put, and then removed, between two looks at the files.
const KEYS: u64 = 1 << 10;
/// Keys of a call that removes many.
const AT_ONCE: usize = 128;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// This program, which starts the master.
    pub program: PathBuf,
    /// Starts that are measured.
    pub rounds: usize,
    /// Bytes of the files of the log.
    pub bytes: u64,
    /// A directory for the master's data.
    pub dir: PathBuf,
}

/// What a start takes.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// Starts that were measured.
    pub rounds: usize,
    /// Bytes of the files in the master's directory.
    pub bytes: u64,
    /// Objects that were put, and then removed.
    pub objects: u64,
    /// Until the master serves, in milliseconds, in the median.
    pub start_ms: f64,
    /// The quickest and the slowest.
    pub start_ms_range: [f64; 2],
    /// Resident bytes of the master then, in the median.
    pub resident: f64,
}

/// All figures of a run, and where they were taken.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// The machine and the commit.
    pub origin: Origin,
    /// With the log, and a master that has none, for comparison.
    pub figures: Vec<Figure>,
}

/// Measures.
pub fn run(options: &Options) -> Result<Figures, Trouble> {
    let origin = Origin::here();
    let figures = [0, options.bytes].map(|bytes| Figure::measure(options, bytes));
    Ok(Figures { origin, figures: figures.into_iter().collect::<Result<_, _>>()? })
}

impl Figure {
    fn measure(options: &Options, bytes: u64) -> Result<Self, Trouble> {
        let dir = options.dir.join(bytes.to_string());
        std::fs::create_dir(&dir)?;
        let kept = options.bytes.saturating_mul(2).to_string();
        let start = || Cluster::start(&options.program, &dir, &["--event-log-bytes", &kept, "--event-log-max-bytes", &kept], None);
        let mut cluster = start()?;
        let mut objects = 0;
        while objects == 0 || size(&dir)? < bytes {
            let keys: Vec<ObjectKey> = (objects..objects + KEYS).map(|n| ObjectKey::from(format!("{n:040x}"))).collect();
            cluster.put(&keys)?;
            for keys in keys.chunks(AT_ONCE) {
                let removed = cluster.store.call(&Remove { keys: keys.to_vec(), force: true })?;
                removed.into_iter().collect::<Outcome<()>>()?;
            }
            objects += KEYS;
        }
        let mut samples = Vec::new();
        for _ in 0..options.rounds {
            cluster.kill()?;
            let began = Instant::now();
            cluster = start()?;
            samples.push((began.elapsed().as_secs_f64() * 1e3, cluster.master_resident()? as f64));
        }
        let started = || samples.iter().map(|sample| sample.0);
        let (start_ms, start_ms_range) = (median(started()), range(started()));
        let resident = median(samples.iter().map(|sample| sample.1));
        Ok(Self { rounds: options.rounds, bytes: size(&dir)?, objects, start_ms, start_ms_range, resident })
    }
}

/// Bytes of all files below a directory.
fn size(dir: &Path) -> std::io::Result<u64> {
    std::fs::read_dir(dir)?.try_fold(0, |sum, entry| {
        let entry = entry?;
        // One that is gone meanwhile has none.
        let about = entry.metadata().map(|about| if about.is_dir() { size(&entry.path()) } else { Ok(about.len()) });
        Ok(sum + about.unwrap_or(Ok(0))?)
    })
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}", self.origin)?;
        writeln!(f, "Medians of rounds; from the start of the process until it serves, with a store node that lends nothing yet.\n")?;
        let mut table = Table::new(["files", "objects put and removed", "start", "from", "to", "resident"]);
        for figure in &self.figures {
            let ms = |ms: f64| format!("{ms:.0} ms");
            let [from, to] = figure.start_ms_range.map(ms);
            let (files, resident) = (ByteSize(figure.bytes), format!("{:.1} MB", figure.resident / 1e6));
            table.row([files.to_string(), figure.objects.to_string(), ms(figure.start_ms), from, to, resident]);
        }
        write!(f, "{table}")
    }
}

//! What a replay found, for people and for machines.

use super::{Check, Tally, told};
use crate::report::{Percentiles, Table};
use crate::trace::Shape;
use perilune_protocol::ByteSize;
use serde::Serialize;
use std::fmt;

/// The outcome of a replay.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The trace that was replayed.
    pub shape: Shape,
    /// Bytes of a block.
    pub block_size: u64,
    /// How fast the trace's time passed.
    pub speed: String,
    /// How long it took, in seconds.
    pub wall_s: f64,
    /// Requests served a second.
    pub requests_per_s: f64,
    /// Bytes read a second.
    pub read_bytes_per_s: f64,
    /// Bytes written a second.
    pub written_bytes_per_s: f64,
    /// The share of blocks that a longest-prefix lookup found.
    pub prefix_hit: f64,
    /// Of one lookup of all blocks of a request.
    pub lookup: Percentiles,
    /// Of one call that reads the found blocks of a request.
    pub get: Percentiles,
    /// Of one call that writes the missing blocks of a request.
    pub put: Percentiles,
    /// Objects the master evicted meanwhile; `None` when the master was restarted in between.
    pub evictions: Option<u64>,
    /// Different blocks whose put was acknowledged.
    pub acknowledged: u64,
    /// Why it ended early, if it did.
    pub stopped: Option<String>,
    /// What reading everything back found, if that was asked for.
    pub check: Option<Check>,
    /// All counts.
    #[serde(flatten)]
    pub tally: Tally,
}

impl Report {
    /// Whether it ran to its end, every byte read was right, and nothing failed but puts into a full store.
    pub fn is_clean(&self) -> bool {
        self.stopped.is_none() && self.tally.wrong == 0 && self.tally.faults.is_empty() && self.check.as_ref().is_none_or(Check::is_clean)
    }
}

fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tally = &self.tally;
        let mut minutes = Table::new(["minute", "requests", "blocks", "hit", "read", "written", "faults"]);
        for (index, m) in tally.minutes.iter().enumerate().filter(|(_, m)| m.requests + m.faults > 0) {
            let hit = if m.blocks == 0 { 0.0 } else { m.hits as f64 * 100.0 / m.blocks as f64 };
            minutes.row([
                index.to_string(),
                m.requests.to_string(),
                m.blocks.to_string(),
                format!("{hit:.1} %"),
                size(m.read_bytes),
                size(m.written_bytes),
                m.faults.to_string(),
            ]);
        }
        writeln!(f, "{minutes}")?;

        let mut calls = Table::new(["", "p50", "p99", "p999", "calls"]).left(0);
        for (name, percentiles) in [("lookup", &self.lookup), ("get", &self.get), ("put", &self.put)] {
            let [p50, p99, p999, count] = told(percentiles);
            calls.row([name.into(), p50, p99, p999, count]);
        }
        writeln!(f, "{calls}")?;

        writeln!(
            f,
            "prefix hits   {:.1} % of {} blocks (a cache without limits: {:.1} % of the trace)",
            self.prefix_hit * 100.0,
            tally.blocks,
            self.shape.best_hit * 100.0
        )?;
        writeln!(
            f,
            "read          {} ({}/s), every byte verified, {} blocks wrong",
            size(tally.read_bytes),
            size(self.read_bytes_per_s as u64),
            tally.wrong
        )?;
        writeln!(
            f,
            "written       {} ({}/s) in {} blocks of {}; {} existed, {} found no room, {} vanished between lookup and read",
            size(tally.written_bytes),
            size(self.written_bytes_per_s as u64),
            tally.stored,
            size(self.block_size),
            tally.existed,
            tally.full,
            tally.vanished
        )?;
        writeln!(f, "evictions     {}", self.evictions.map_or("unknown: the master restarted or is gone".into(), |n| n.to_string()))?;
        writeln!(
            f,
            "time          {:.1} s for {} of {} requests ({:.1}/s) at speed {}, at most {} ms late",
            self.wall_s, tally.requests, self.shape.requests, self.requests_per_s, self.speed, tally.late_ms
        )?;
        for (kind, count) in &tally.faults {
            writeln!(f, "fault         {count} x {kind}, such as: {}", tally.fault_examples.get(kind).map_or("", String::as_str))?;
        }
        for example in &tally.wrong_examples {
            writeln!(f, "WRONG         {example}")?;
        }
        if let Some(check) = &self.check {
            write!(f, "read back     {check}")?;
        }
        match &self.stopped {
            Some(why) => writeln!(f, "stopped early {why}"),
            None => Ok(()),
        }
    }
}

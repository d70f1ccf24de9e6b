//! What a gigabyte costs: work requests, doorbells, completions and system calls.

use super::case::Case;
use super::devices::Ends;
use super::ours::Asker;
use super::{pair, perftest};
use crate::rivals::{Setting, Trouble};
use perilune_transfer_engine::RdmaCounts;
use serde::Serialize;
use std::path::Path;
use std::process::{Command, Stdio};

/// Counts for 1e9 bytes, of the asking side.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct PerGb {
    /// Work requests; like the next four only known of our engine.
    pub work_requests: Option<f64>,
    /// Calls that hand work requests to a device.
    pub doorbells: Option<f64>,
    /// Completions taken from completion queues.
    pub completions: Option<f64>,
    /// Times a completion queue was armed.
    pub arms: Option<f64>,
    /// Times a thread slept until a device called.
    pub sleeps: Option<f64>,
    /// System calls, where `strace` is installed.
    pub system_calls: Option<f64>,
}

impl PerGb {
    /// What was counted between two moments when `bytes` bytes moved.
    pub(super) fn between(before: &RdmaCounts, after: &RdmaCounts, bytes: u64) -> Self {
        let of = |count: fn(&RdmaCounts) -> u64| Some(count(after).saturating_sub(count(before)) as f64 * 1e9 / bytes as f64);
        Self {
            work_requests: of(|counts| counts.work_requests),
            doorbells: of(|counts| counts.doorbells),
            completions: of(|counts| counts.completions),
            arms: of(|counts| counts.arms),
            sleeps: of(|counts| counts.sleeps),
            system_calls: None,
        }
    }
}

/// System calls of a process of its own that asks our peer, for 1e9 bytes.
pub(super) fn our_system_calls(setting: &Setting<'_>, asker: &Asker, case: &Case, operations: u64) -> Result<f64, Trouble> {
    difference(case, operations, |operations| {
        let summary = setting.dir.join("strace.out");
        let mut ask = Command::new(setting.program);
        ask.args(["bench", "transfer-rdma-ask", &asker.errand(case, operations)?]);
        let output = traced(&ask, &summary).stdin(Stdio::null()).output()?;
        if !output.status.success() {
            return Err(format!("asking under strace: {}", String::from_utf8_lossy(&output.stderr).trim()).into());
        }
        calls(&summary)
    })
}

/// The same of perftest's client.
pub(super) fn perftest_system_calls(setting: &Setting<'_>, ends: &Ends, case: &Case, operations: u64) -> Result<f64, Trouble> {
    difference(case, operations, |operations| {
        let summary = setting.dir.join("strace.out");
        let server = |number: usize, port| perftest::command(&ends.serving[number], case, operations, port);
        let client = |number: usize, port| traced(&perftest::asking(&ends.asking[number], case, operations, port), &summary);
        pair::run(setting, 1, server, client)?;
        calls(&summary)
    })
}

/// A long run less a short one, so that starting, connecting and ending do not count.
fn difference(case: &Case, operations: u64, mut count: impl FnMut(u64) -> Result<u64, Trouble>) -> Result<f64, Trouble> {
    // Perftest wants at least 5.
    let short = (2 * case.in_flight as u64).max(5);
    let long = short + operations.max(8 * case.in_flight as u64);
    let (few, many) = (count(short)?, count(long)?);
    Ok(many.saturating_sub(few) as f64 * 1e9 / ((long - short) * case.size as u64) as f64)
}

/// The command, with its system calls and those of its threads counted into a file.
fn traced(command: &Command, summary: &Path) -> Command {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-c", "-U", "calls,name", "-o"]).arg(summary).arg(command.get_program()).args(command.get_args());
    strace
}

fn calls(summary: &Path) -> Result<u64, Trouble> {
    let text = std::fs::read_to_string(summary)?;
    total(&text).ok_or_else(|| format!("strace counted nothing: {}", text.trim()).into())
}

/// The sum in the last line of a summary.
fn total(summary: &str) -> Option<u64> {
    summary.lines().find_map(|line| line.trim().strip_suffix("total")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::super::case::Measure;
    use super::*;

    #[test]
    fn the_total_of_a_summary_is_found() {
        let summary = "    calls syscall\n--------- ----------------\n        1 execve\n       28 mmap\n--------- ----------------\n       29 total\n";
        assert_eq!(total(summary), Some(29));
        assert_eq!(total(""), None);
    }

    #[test]
    fn what_every_run_costs_does_not_count() {
        let case = Case { measure: Measure::Write, devices: 1, size: 1000, in_flight: 4 };
        let per_gb = difference(&case, 100, |operations| Ok(500 + 3 * operations)).unwrap();
        assert_eq!(per_gb, 3.0 * 1e6);
    }
}

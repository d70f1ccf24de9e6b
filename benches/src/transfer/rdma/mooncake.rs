//! Mooncake's transfer engine from its unmodified wheel: a Python process asks and measures, `benches/peers/mooncake_transfer.py`.

use super::case::{Case, Measure};
use super::devices::Ends;
use super::ours::LENT;
use crate::pinned::{CLIENT_CORE, Process, SERVER_CORE};
use crate::rivals::{Setting, Trouble};
use perilune_transfer_engine::Op;
use serde::Deserialize;
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

const SCRIPT: &str = include_str!("../../../peers/mooncake_transfer.py");

/// The script and its other side.
pub(super) struct Mooncake {
    // Dropped in this order: the end of its input ends the script and its process.
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
    _script: Process,
}

/// What the script answers.
#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Error { error: String },
    Ready { ready: bool },
    Sample { bytes_per_s: f64, p50_us: f64 },
}

impl Mooncake {
    /// Starts it on the first pair of devices.
    pub(super) fn start(setting: &Setting<'_>, ends: &Ends) -> Result<Self, Trouble> {
        let python = setting.peers.join("venv/bin/python");
        if !python.is_file() {
            return Err("not installed (benches/peers/setup)".into());
        }
        let script = setting.dir.join("mooncake_transfer.py");
        std::fs::write(&script, SCRIPT)?;
        let log = setting.dir.join("mooncake.log");
        let (asking, serving) = (&ends.asking[0], &ends.serving[0]);
        let mut command = Command::new(python);
        command.arg(script).args([&asking.name, &serving.name, &(LENT >> 20).to_string()]);
        // One index for both sides: they are processes of one script.
        command.env("MC_GID_INDEX", asking.gid_index.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(std::fs::File::create(&log)?);
        // Its workers poll beside the thread that asks: on one core they would starve it.
        let both: &[usize] = if setting.server_core.is_some() { &[CLIENT_CORE, SERVER_CORE] } else { &[] };
        let mut process = Process::start(&mut command, both)?;
        let (Some(questions), Some(answers)) = (process.child().stdin.take(), process.child().stdout.take()) else {
            return Err("a pipe of the Mooncake script is missing".into());
        };
        let mut rival = Self { questions, answers: BufReader::new(answers), _script: process };
        match rival.answer() {
            Ok(Answer::Ready { ready: true }) => Ok(rival),
            _ => {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                Err(format!("did not start: {}", said.lines().last().unwrap_or_default()).into())
            }
        }
    }

    /// Measures for about `time`. A write latency it cannot tell: nobody hits back.
    pub(super) fn measure(&mut self, case: &Case, time: Duration) -> Result<f64, Trouble> {
        let op = if case.measure.op() == Op::Write { "write" } else { "read" };
        let question = serde_json::json!({ "op": op, "size": case.size, "in_flight": case.in_flight, "seconds": time.as_secs_f64() });
        writeln!(self.questions, "{question}")?;
        match self.answer()? {
            Answer::Sample { bytes_per_s, .. } if case.measure.is_rate() => Ok(bytes_per_s),
            Answer::Sample { p50_us, .. } => Ok(p50_us),
            Answer::Error { error } => Err(error.into()),
            Answer::Ready { .. } => Err("the Mooncake script answered out of turn".into()),
        }
    }

    /// Whether it can be measured in this case.
    pub(super) fn knows(case: &Case) -> bool {
        case.devices == 1 && case.measure != Measure::WriteLatency
    }

    fn answer(&mut self) -> Result<Answer, Trouble> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err("the Mooncake script ended".into());
        }
        Ok(serde_json::from_str(&line).map_err(|e| format!("the Mooncake script said `{}`: {e}", line.trim()))?)
    }
}

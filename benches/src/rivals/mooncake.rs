//! Mooncake's store from its unmodified wheel: a Python process of the rival's own kind asks and measures, `benches/peers/mooncake_store.py`.

use super::{Case, Rival, Sample, Setting, Trouble, free_port};
use crate::pinned::{CLIENT_CORE, Process, SERVER_CORE};
use serde::Deserialize;
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

/// A Mooncake master, an owner of memory, and a client.
pub struct Mooncake {
    // Dropped in this order: the end of its input ends the script and its processes.
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
    _script: Process,
}

const SCRIPT: &str = include_str!("../../peers/mooncake_store.py");

/// What the script answers.
#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Error { error: String },
    Ready { ready: bool },
    Sample(Sample),
}

impl Mooncake {
    /// Starts it; `None` when `benches/peers/setup` was not run.
    pub fn start(setting: &Setting<'_>) -> Result<Option<Self>, Trouble> {
        let python = setting.peers.join("venv/bin/python");
        if !python.is_file() {
            return Ok(None);
        }
        let script = setting.dir.join("mooncake_store.py");
        std::fs::write(&script, SCRIPT)?;
        let log = std::fs::File::create(setting.dir.join("mooncake.log"))?;
        let mut command = Command::new(python);
        command.arg(script).args([free_port()?.to_string(), free_port()?.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        // Not kept on one core like the others: see the script.
        let both: &[usize] = if setting.server_core.is_some() { &[CLIENT_CORE, SERVER_CORE] } else { &[] };
        let mut process = Process::start(&mut command, both)?;
        let (Some(questions), Some(answers)) = (process.child().stdin.take(), process.child().stdout.take()) else {
            return Err("a pipe of the Mooncake script is missing".into());
        };
        let mut rival = Self { questions, answers: BufReader::new(answers), _script: process };
        match rival.answer()? {
            Answer::Ready { ready: true } => Ok(Some(rival)),
            _ => Err("the Mooncake script did not say that it is ready".into()),
        }
    }

    fn answer(&mut self) -> Result<Answer, Trouble> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err("the Mooncake script ended; see mooncake.log in the directory of --keep".into());
        }
        Ok(serde_json::from_str(&line)?)
    }
}

impl Rival for Mooncake {
    fn name(&self) -> String {
        "mooncake tcp".into()
    }

    fn measure(&mut self, case: &Case, time: Duration) -> Result<Sample, Trouble> {
        let question = serde_json::json!({
            "op": case.op.as_str(), "size": case.size, "batch": case.batch, "seconds": time.as_secs_f64(),
            "working_set": case.working_set(), "calls_max": case.calls_max().min(50_000),
        });
        writeln!(self.questions, "{question}")?;
        match self.answer()? {
            Answer::Sample(sample) => Ok(sample),
            Answer::Error { error } => Err(error.into()),
            Answer::Ready { .. } => Err("the Mooncake script answered out of turn".into()),
        }
    }
}

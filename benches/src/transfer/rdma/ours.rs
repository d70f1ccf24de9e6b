//! Our engine on both sides: a process that lends memory and hits back, and the asking side in this process.

use super::case::{Case, Measure, Sample, Until};
use super::counts::PerGb;
use super::pingpong::{Game, Side};
use super::sys::{Registered, Window};
use crate::pinned::Process;
use crate::random::Random;
use crate::rivals::{Setting, Trouble};
use crate::transfer::peer::lent;
use perilune_protocol::{Extent, Protocol, SegmentDesc};
use perilune_transfer_engine::{Engine, Job, Memory, RdmaSettings, Segment, rdma_counts};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes each side lends: the largest case fits.
pub const LENT: u64 = 64 << 20;
const DEADLINE: Duration = Duration::from_secs(10);
/// What the other side says when it is ready to hit back.
const READY: &str = "ready";

/// An engine on these devices that lends [`LENT`] bytes.
struct Lender {
    engine: Engine,
    memory: Arc<Memory>,
    desc: SegmentDesc,
}

impl Lender {
    fn new(devices: &[String]) -> Result<Self, Trouble> {
        let settings = RdmaSettings { devices: devices.to_vec(), ..RdmaSettings::default() };
        let engine = Engine::builder().only(&["rdma"]).listen_rdma("127.0.0.1:0".parse()?).rdma(settings).build()?;
        let memory = Memory::anonymous(LENT)?;
        let desc = lent(&engine, &memory, Protocol::Rdma);
        engine.export(desc.id, Arc::clone(&memory), desc.capability)?;
        engine.export_rdma(desc.id)?;
        Ok(Self { engine, memory, desc })
    }
}

/// Lends memory on these devices, then answers each [`Game`] that `questions` asks for, until they end.
pub fn serve(devices: &[String], mut tell: impl FnMut(&str) -> Result<(), Trouble>, questions: impl BufRead) -> Result<(), Trouble> {
    let Lender { engine, memory, desc } = Lender::new(devices)?;
    let mut ball = Registered::new(&engine, LENT as usize)?;
    tell(&serde_json::to_string(&desc)?)?;
    for question in questions.lines() {
        let Game { desc, size, rounds } = serde_json::from_str(&question?)?;
        let mut side = Side::new(&engine, engine.connect(&desc), &memory, &mut ball, size)?;
        tell(READY)?;
        for round in 0..rounds {
            side.catch(round)?;
            side.hit(round)?;
        }
    }
    Ok(())
}

/// What a process that only asks is told: see [`ask`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Errand {
    desc: SegmentDesc,
    devices: Vec<String>,
    measure: Measure,
    size: usize,
    in_flight: usize,
    operations: u64,
}

/// Moves what `errand`, a JSON text, says, and ends: so that its system calls can be counted from outside.
pub fn ask(errand: &str) -> Result<(), Trouble> {
    let Errand { desc, devices, measure, size, in_flight, operations } = serde_json::from_str(errand)?;
    let settings = RdmaSettings { devices, ..RdmaSettings::default() };
    // Slow: every system call of the connection is stopped twice.
    let deadline = 12 * DEADLINE;
    let engine = Engine::builder().only(&["rdma"]).rdma(settings).deadline(deadline).build()?;
    let mut buffer = Registered::new(&engine, size * in_flight)?;
    let segment = engine.connect(&desc);
    Window { deadline, ..window(measure, size, in_flight, true) }.slide(&engine, &segment, buffer.bytes(), |asked| asked < operations)?;
    Ok(())
}

/// As perftest does, a new request for each that is done; several at a time when there are many, so that the engine may ring once for them.
fn window(measure: Measure, size: usize, in_flight: usize, in_place: bool) -> Window {
    let together = if in_flight.is_multiple_of(4) { in_flight / 4 } else { 1 };
    Window { op: measure.op(), size, depth: in_flight, together, in_place, deadline: DEADLINE }
}

/// The asking side and its peer.
pub(in crate::transfer) struct Asker {
    // Dropped in this order: the end of its input ends the peer.
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
    _peer: Process,
    segment: Segment,
    buffer: Registered,
    lender: Lender,
    devices: Vec<String>,
    random: Random,
}

impl Asker {
    pub(super) fn start(setting: &Setting<'_>, asking: Vec<String>, serving: &[String]) -> Result<Self, Trouble> {
        // First, since it is this side's sentence that a machine without devices is told.
        let lender = Lender::new(&asking)?;
        let buffer = Registered::new(&lender.engine, LENT as usize)?;
        let mut command = Command::new(setting.program);
        command.args(["bench", "transfer-rdma-peer"]).args(serving).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut peer = Process::start(&mut command, setting.server_core.as_slice())?;
        let (Some(questions), Some(answers)) = (peer.child().stdin.take(), peer.child().stdout.take()) else {
            return Err("a pipe of the peer is missing".into());
        };
        let mut answers = BufReader::new(answers);
        let desc: SegmentDesc =
            serde_json::from_str(&line(&mut answers)?).map_err(|e| format!("the peer did not tell its segment: {e}"))?;
        let segment = lender.engine.connect(&desc);
        Ok(Self { questions, answers, _peer: peer, segment, buffer, lender, devices: asking, random: Random::new(2) })
    }

    /// For those who ask by themselves.
    pub(in crate::transfer) fn parts(&mut self) -> (&Engine, &Segment, &mut [u8]) {
        (&self.lender.engine, &self.segment, self.buffer.bytes())
    }

    /// A rate with all bytes going to, or coming from, one place, as perftest's do, or with [`LENT`] of the peer's used one after the other, as
    /// of a store.
    pub(super) fn measure(&mut self, case: &Case, until: Until, in_place: bool) -> Result<Sample, Trouble> {
        match case.measure {
            Measure::Write | Measure::Read => self.rate(case, until, in_place),
            Measure::WriteLatency => self.write_latency(case, until),
            Measure::ReadLatency => self.read_latency(case, until),
        }
    }

    fn rate(&mut self, case: &Case, until: Until, in_place: bool) -> Result<Sample, Trouble> {
        let size = case.size;
        let random = &mut self.random;
        self.buffer.bytes()[..size].fill_with(|| random.bits() as u8);
        let engine = &self.lender.engine;
        let window = window(case.measure, size, case.in_flight, in_place);
        let started = Instant::now();
        let wants = |asked| until.wants(asked, case.in_flight, started);
        let operations = window.slide(engine, &self.segment, self.buffer.bytes(), wants)?;
        let seconds = started.elapsed().as_secs_f64();
        self.verify(size, case.in_flight)?;
        Ok(Sample { value: (operations * size as u64) as f64 / seconds, operations, seconds })
    }

    /// What the engine does for a gigabyte of a rate.
    pub(super) fn per_gb(&mut self, case: &Case, operations: u64) -> Result<PerGb, Trouble> {
        let window = window(case.measure, case.size, case.in_flight, true);
        let before = rdma_counts();
        let moved = window.slide(&self.lender.engine, &self.segment, self.buffer.bytes(), |asked| asked < operations)?;
        Ok(PerGb::between(&before, &rdma_counts(), moved * case.size as u64))
    }

    fn read_latency(&mut self, case: &Case, until: Until) -> Result<Sample, Trouble> {
        let mut times = Vec::new();
        let whole = vec![Extent { offset: 0, len: case.size as u64 }];
        // Made once, as perftest makes its work request.
        let mut job = Job::read(&self.segment, whole, &mut self.buffer.bytes()[..case.size]);
        let started = Instant::now();
        while until.wants(times.len() as u64, 1, started) {
            let asked = Instant::now();
            self.lender.engine.run_one(&mut job, DEADLINE)?;
            times.push(asked.elapsed());
        }
        let sample = typical(times, started);
        self.verify(case.size, 1)?;
        Ok(sample)
    }

    fn write_latency(&mut self, case: &Case, until: Until) -> Result<Sample, Trouble> {
        // The other side must know how many before the first one, so those of a time are tried out first.
        let rounds = match until {
            Until::Count(rounds) => rounds,
            Until::Time(_) => self.read_latency(case, until)?.operations,
        };
        let Lender { engine, memory, desc } = &self.lender;
        let mut side = Side::new(engine, self.segment.clone(), memory, &mut self.buffer, case.size)?;
        let game = Game { desc: desc.clone(), size: case.size, rounds };
        writeln!(self.questions, "{}", serde_json::to_string(&game)?)?;
        let answer = line(&mut self.answers)?;
        if answer.trim() != READY {
            return Err(format!("the peer said `{}` instead of `{READY}`", answer.trim()).into());
        }
        let mut times = Vec::new();
        let started = Instant::now();
        for round in 0..rounds {
            let asked = Instant::now();
            side.hit(round)?;
            side.catch(round)?;
            times.push(asked.elapsed() / 2);
        }
        let sample = typical(times, started);
        side.verify(rounds.saturating_sub(1))?;
        Ok(sample)
    }

    /// Writes bytes nobody wrote before, reads them back into memory that has others, and compares.
    fn verify(&mut self, size: usize, count: usize) -> Result<(), Trouble> {
        let random = &mut self.random;
        let bytes = self.buffer.bytes();
        bytes[..size * count].chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&random.bits().to_le_bytes()[..chunk.len()]));
        let kept = bytes[..size * count].to_vec();
        let extent = |index: usize| vec![Extent { offset: (index * size) as u64, len: size as u64 }];
        let pieces = bytes[..size * count].chunks(size).enumerate();
        let mut jobs: Vec<Job<'_>> = pieces.map(|(index, piece)| Job::write(&self.segment, extent(index), piece)).collect();
        self.lender.engine.run(&mut jobs, DEADLINE).into_iter().collect::<Result<(), _>>()?;
        bytes[..size * count].fill(0);
        let pieces = bytes[..size * count].chunks_mut(size).enumerate();
        let mut jobs: Vec<Job<'_>> = pieces.map(|(index, piece)| Job::read(&self.segment, extent(index), piece)).collect();
        self.lender.engine.run(&mut jobs, DEADLINE).into_iter().collect::<Result<(), _>>()?;
        let same = self.buffer.bytes()[..size * count] == kept;
        if same { Ok(()) } else { Err("the bytes that were read back are not those that were written".into()) }
    }

    /// What another process needs to ask the same peer for `operations` of this case.
    pub(super) fn errand(&self, case: &Case, operations: u64) -> Result<String, Trouble> {
        let Case { measure, size, in_flight, .. } = *case;
        let desc = self.segment.desc().clone();
        Ok(serde_json::to_string(&Errand { desc, devices: self.devices.clone(), measure, size, in_flight, operations })?)
    }
}

impl Until {
    /// Whether one more shall be asked for; at least twice what is under way at once.
    fn wants(self, asked: u64, in_flight: usize, started: Instant) -> bool {
        match self {
            Self::Count(count) => asked < count,
            Self::Time(time) => asked < 2 * in_flight as u64 || started.elapsed() < time,
        }
    }
}

fn line(from: &mut impl BufRead) -> Result<String, Trouble> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        return Err("the peer ended; its error stands above".into());
    }
    Ok(line)
}

/// What perftest calls typical: the median.
fn typical(times: Vec<Duration>, started: Instant) -> Sample {
    let (operations, seconds) = (times.len() as u64, started.elapsed().as_secs_f64());
    Sample { value: crate::report::median(times.into_iter().map(|time| time.as_secs_f64() * 1e6)), operations, seconds }
}

//! The asking side: one engine, one way to the other process.

use super::{LENT, Shape};
use crate::pinned::{Meter, Process};
use crate::random::Random;
use crate::report::Latency;
use crate::rivals::{Op, Sample, Setting, Trouble};
use perilune_protocol::{Endpoint, Extent, Protocol, SegmentDesc};
use perilune_transfer_engine::{Engine, Job, Segment};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(10);

/// An engine and a peer of its own.
pub(super) struct Asker {
    protocol: Protocol,
    engine: Engine,
    segment: Segment,
    peer: Process,
    /// What the next call begins at.
    at: u64,
    random: Random,
    from: Vec<u8>,
    into: Vec<u8>,
}

impl Asker {
    /// Starts the other process: this program, asked to lend memory.
    pub(super) fn start(setting: &Setting<'_>, protocol: Protocol) -> Result<Self, Trouble> {
        let dir = setting.dir.join(protocol.as_str());
        std::fs::create_dir_all(&dir)?;
        let mut command = Command::new(setting.program);
        command.args(["bench", "transfer-peer"]).arg(&dir).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut peer = Process::start(&mut command, setting.server_core.as_slice())?;
        let mut told = String::new();
        BufReader::new(peer.child().stdout.take().ok_or("the peer has no output")?).read_line(&mut told)?;
        let mut desc: SegmentDesc = serde_json::from_str(&told).map_err(|e| format!("the peer did not tell its segment: {e}"))?;
        // With one endpoint left the engine has no choice of the way.
        desc.endpoints.retain(|endpoint| matches!(endpoint, Endpoint::Tcp(_)) == (protocol == Protocol::Tcp));
        let engine = Engine::builder().build()?;
        let segment = engine.connect(&desc);
        Ok(Self { protocol, engine, segment, peer, at: 0, random: Random::new(2), from: Vec::new(), into: Vec::new() })
    }

    pub(super) fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// For those who ask by themselves.
    pub(super) fn parts(&self) -> (&Engine, &Segment) {
        (&self.engine, &self.segment)
    }

    /// Measures calls of this shape for about `time`, then verifies what such calls write and read.
    pub(super) fn measure(&mut self, shape: &Shape, time: Duration) -> Result<Sample, Trouble> {
        let bytes = shape.case.size * shape.case.batch * if shape.scatter { 2 } else { 1 };
        if bytes as u64 > LENT {
            return Err(format!("a call of {bytes} bytes does not fit into the {LENT} that are lent").into());
        }
        // As the floors do: every job writes the same bytes, and reads have a buffer each.
        self.write_next(shape.case.size);
        self.into.resize(bytes, 0);
        if self.at + bytes as u64 > LENT {
            self.at = 0;
        }
        let mut latency = Latency::default();
        let mut calls = 0;
        let meter = Meter::start(std::process::id(), &[self.peer.pid()]);
        let end = Instant::now() + time;
        loop {
            let asked = Instant::now();
            if asked > end && calls > 0 {
                break;
            }
            self.call(shape, shape.case.op)?;
            latency.record(asked.elapsed());
            calls += 1;
            self.at = if self.at + 2 * bytes as u64 > LENT { 0 } else { self.at + bytes as u64 };
        }
        let sample = Sample::of(calls * shape.case.batch as u64, &latency, meter);
        self.verify(shape, bytes)?;
        Ok(sample)
    }

    /// One call at the present place.
    fn call(&mut self, shape: &Shape, op: Op) -> Result<(), Trouble> {
        let (size, batch, at) = (shape.case.size, shape.case.batch, self.at);
        let segment = &self.segment;
        let extent = |index: usize, stride: usize| Extent { offset: at + (index * stride) as u64, len: size as u64 };
        let mut jobs: Vec<Job<'_>> = if shape.scatter {
            let extents = (0..batch).map(|index| extent(index, 2 * size)).collect();
            vec![match op {
                Op::Get => Job::read_scatter(segment, extents, self.into.chunks_mut(2 * size).map(|two| &mut two[..size]).collect()),
                Op::Put => {
                    Job::write_gather(segment, extents, self.from.chunks(2 * size).cycle().take(batch).map(|two| &two[..size]).collect())
                }
            }]
        } else {
            match op {
                Op::Get => {
                    let into = self.into.chunks_mut(size).take(batch).enumerate();
                    into.map(|(index, into)| Job::read(segment, vec![extent(index, size)], into)).collect()
                }
                Op::Put => {
                    let from = self.from.chunks(size).cycle().take(batch).enumerate();
                    from.map(|(index, from)| Job::write(segment, vec![extent(index, size)], from)).collect()
                }
            }
        };
        self.engine.run(&mut jobs, DEADLINE).into_iter().collect::<Result<(), _>>()?;
        Ok(())
    }

    /// The next writes write these random bytes, which no write wrote before.
    fn write_next(&mut self, bytes: usize) {
        let random = &mut self.random;
        self.from = std::iter::repeat_with(|| random.bits().to_le_bytes()).flatten().take(bytes).collect();
    }

    /// Writes and reads back in this shape; every byte must be the one that was written.
    fn verify(&mut self, shape: &Shape, bytes: usize) -> Result<(), Trouble> {
        self.write_next(bytes);
        self.call(shape, Op::Put)?;
        self.into.fill(0);
        self.call(shape, Op::Get)?;
        let (size, stride) = (shape.case.size, shape.case.size * if shape.scatter { 2 } else { 1 });
        let same = self.from.chunks(stride).zip(self.into.chunks(stride)).all(|(from, into)| from[..size] == into[..size]);
        if same { Ok(()) } else { Err("the bytes that were read back are not those that were written".into()) }
    }
}

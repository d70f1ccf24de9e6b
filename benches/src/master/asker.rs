//! Questions, and how each is asked for a while; every answer is looked at.

use crate::cluster::{Cluster, put_start};
use crate::pinned::Meter;
use crate::random::{Random, mix};
use crate::report::Latency;
use crate::rivals::{Sample, Trouble};
use perilune_protocol::rpc::Call;
use perilune_protocol::rpc::object::{Exists, Locate, MatchPrefix, PutEnd, PutStart, Remove};
use perilune_protocol::{ObjectKey, Outcome, Tso};
use std::time::{Duration, Instant};

/// Bytes of every key.
pub(super) const KEY_BYTES: usize = 40;
/// Keys that one measurement puts at most, so that their room is there in every round.
const PUT_KEYS: usize = 1 << 17;
/// Keys of the questions that are made before the clock starts, and asked in turn.
const ASKED_KEYS: usize = 1 << 14;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Question {
    PutStart,
    PutEnd,
    Exists,
    Locate,
    MatchPrefix,
    Remove,
}

impl Question {
    /// In an order in which `PutEnd` and `Remove` find what they need.
    pub(super) const ALL: [Self; 6] = [Self::PutStart, Self::PutEnd, Self::Exists, Self::Locate, Self::MatchPrefix, Self::Remove];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::PutStart => PutStart::NAME,
            Self::PutEnd => PutEnd::NAME,
            Self::Exists => Exists::NAME,
            Self::Locate => Locate::NAME,
            Self::MatchPrefix => MatchPrefix::NAME,
            Self::Remove => Remove::NAME,
        }
    }
}

/// One thread with a connection.
pub(super) struct Asker<'a> {
    cluster: &'a Cluster,
    random: Random,
    /// Generations of keys so far; each has keys of its own.
    generation: u32,
    /// Objects that stay.
    standing: Vec<ObjectKey>,
    /// Puts that were started and not ended.
    started: Vec<(ObjectKey, Tso, u64)>,
    /// Objects that were put and not removed.
    put: Vec<ObjectKey>,
}

fn keys(generation: u32, count: usize) -> Vec<ObjectKey> {
    (0..count as u64).map(|n| ObjectKey::from(format!("{generation:08x}{:016x}{n:016x}", mix(n)))).collect()
}

impl<'a> Asker<'a> {
    pub(super) fn new(cluster: &'a Cluster) -> Self {
        Self { cluster, random: Random::new(3), generation: 0, standing: Vec::new(), started: Vec::new(), put: Vec::new() }
    }

    fn new_keys(&mut self, count: usize) -> Vec<ObjectKey> {
        self.generation += 1;
        keys(self.generation, count)
    }

    /// Puts `count` objects that stay.
    pub(super) fn fill(&mut self, count: usize) -> Result<(), Trouble> {
        let keys = self.new_keys(count);
        self.cluster.put(&keys)?;
        self.standing.extend(keys);
        Ok(())
    }

    /// Asks one question for about `time`, `batch` keys a call.
    pub(super) fn measure(&mut self, question: Question, batch: usize, time: Duration) -> Result<Sample, Trouble> {
        let right = |is: bool| if is { Ok(()) } else { Err(Trouble::from("an object that was put is not there")) };
        match question {
            Question::PutStart => {
                let keys = self.new_keys(PUT_KEYS);
                let questions: Vec<_> = keys.chunks_exact(batch).map(put_start).collect();
                let mut versions = Vec::with_capacity(PUT_KEYS);
                let sample = self.ask(&questions, batch, Some(time), |answer| {
                    let grants = answer.into_iter().collect::<Outcome<Vec<_>>>()?;
                    versions.extend(grants.into_iter().map(|grant| grant.version));
                    Ok(())
                })?;
                self.started = keys.into_iter().zip(versions).map(|(key, version)| (key, version, 0)).collect();
                Ok(sample)
            }
            Question::PutEnd => {
                let questions: Vec<_> = self.started.chunks(batch).map(|puts| PutEnd { puts: puts.to_vec() }).collect();
                let sample = self.ask(&questions, batch, None, |answer| Ok(answer.into_iter().collect::<Outcome<()>>()?))?;
                self.put = self.started.drain(..).map(|(key, _, _)| key).collect();
                Ok(sample)
            }
            Question::Remove => {
                let questions: Vec<_> = self.put.chunks(batch).map(|keys| Remove { keys: keys.to_vec(), force: false }).collect();
                let sample = self.ask(&questions, batch, None, |answer| Ok(answer.into_iter().collect::<Outcome<()>>()?))?;
                self.put.clear();
                Ok(sample)
            }
            Question::Exists => {
                let questions: Vec<_> = self.known_keys(batch).into_iter().map(|keys| Exists { keys }).collect();
                self.ask(&questions, batch, Some(time), |answer| right(answer.into_iter().all(|there| there)))
            }
            Question::Locate => {
                let questions: Vec<_> = self.known_keys(batch).into_iter().map(|keys| Locate { keys }).collect();
                self.ask(&questions, batch, Some(time), |answer| Ok(answer.into_iter().try_for_each(|place| place.map(drop))?))
            }
            Question::MatchPrefix => {
                let questions: Vec<_> = self.known_keys(batch).into_iter().map(|keys| MatchPrefix { keys }).collect();
                self.ask(&questions, batch, Some(time), |answer| right(answer == batch as u64))
            }
        }
    }

    /// Keys of standing objects, chosen at random, for as many calls as are made before the clock starts.
    fn known_keys(&mut self, batch: usize) -> Vec<Vec<ObjectKey>> {
        let mut one = || self.standing[(self.random.bits() % self.standing.len() as u64) as usize].clone();
        (0..(ASKED_KEYS / batch).max(1)).map(|_| (0..batch).map(|_| one()).collect()).collect()
    }

    /// Asks for so long, beginning anew when the questions are used up; without a time, or when they bring something into being, each once.
    fn ask<C: Call>(
        &self,
        questions: &[C],
        batch: usize,
        time: Option<Duration>,
        mut look: impl FnMut(C::Reply) -> Result<(), Trouble>,
    ) -> Result<Sample, Trouble> {
        let calls_max = if time.is_none() || C::OP == PutStart::OP { questions.len() } else { usize::MAX };
        let mut latency = Latency::default();
        let mut calls = 0;
        let meter = Meter::start(std::process::id(), &[self.cluster.master()]);
        let end = time.map(|time| Instant::now() + time);
        while calls < calls_max {
            let asked = Instant::now();
            if end.is_some_and(|end| asked > end) && calls > 0 {
                break;
            }
            let answer = self.cluster.store.call(&questions[calls % questions.len()])?;
            latency.record(asked.elapsed());
            look(answer)?;
            calls += 1;
        }
        let sample = Sample::of((calls * batch) as u64, &latency, meter);
        if calls == 0 { Err("there was nothing to ask about".into()) } else { Ok(sample) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_their_length_and_never_come_twice() {
        let all: Vec<ObjectKey> = [keys(1, 1000), keys(2, 1000)].concat();
        assert!(all.iter().all(|key| key.as_bytes().len() == KEY_BYTES));
        assert_eq!(all.iter().collect::<std::collections::HashSet<_>>().len(), all.len());
    }
}

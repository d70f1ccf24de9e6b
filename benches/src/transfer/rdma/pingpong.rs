//! Two sides that write into each other's memory in turn, each watching its own: what `ib_write_lat` does, with our engine.

use super::sys::Registered;
use crate::payload::Payload;
use crate::rivals::Trouble;
use perilune_protocol::{Extent, SegmentDesc};
use perilune_transfer_engine::{Engine, Job, Memory, Segment};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// How long the other side may take to hit back.
const PATIENCE: Duration = Duration::from_secs(10);
/// The engine cuts a write into pieces of this many bytes, which may arrive in any order: the last byte of each is watched.
const PIECE: usize = 1 << 20;

/// What the asking side tells the other one before the first write.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Game {
    /// Where the other side writes to.
    pub(super) desc: SegmentDesc,
    pub(super) size: usize,
    pub(super) rounds: u64,
}

/// One side.
pub(super) struct Side<'a> {
    engine: &'a Engine,
    /// The other side's memory.
    over_there: Segment,
    /// Ours, which the other side writes to.
    here: &'a Memory,
    ball: &'a mut Registered,
    size: usize,
}

impl<'a> Side<'a> {
    /// After this the other side may begin.
    pub(super) fn new(
        engine: &'a Engine,
        over_there: Segment,
        here: &'a Memory,
        ball: &'a mut Registered,
        size: usize,
    ) -> Result<Self, Trouble> {
        let len = ball.bytes().len();
        if size == 0 || size > len {
            return Err(format!("{size} bytes to play with: between 1 and {len}").into());
        }
        // The same bytes on both sides, so that either can tell whether those of the other arrived.
        Payload::new(7, size).fill(0, &mut ball.bytes()[..size]);
        if !marks(size).all(|at| here.write_at(at as u64, &[0])) {
            return Err(format!("{size} bytes do not fit into the memory that is lent").into());
        }
        Ok(Self { engine, over_there, here, ball, size })
    }

    pub(super) fn hit(&mut self, round: u64) -> Result<(), Trouble> {
        let bytes = &mut self.ball.bytes()[..self.size];
        marks(self.size).for_each(|at| bytes[at] = mark(round));
        let whole = vec![Extent { offset: 0, len: self.size as u64 }];
        let outcomes = self.engine.run(&mut [Job::write(&self.over_there, whole, bytes)], PATIENCE);
        Ok(outcomes.into_iter().collect::<Result<(), _>>()?)
    }

    pub(super) fn catch(&self, round: u64) -> Result<(), Trouble> {
        let asked = Instant::now();
        let mut byte = [0];
        for at in marks(self.size) {
            let mut looks = 0_u64;
            while !(self.here.read_at(at as u64, &mut byte) && byte[0] == mark(round)) {
                looks += 1;
                if looks.is_multiple_of(4096) && asked.elapsed() > PATIENCE {
                    return Err(format!("the other side did not write back within {PATIENCE:?}, round {round}").into());
                }
                std::hint::spin_loop();
            }
        }
        Ok(())
    }

    /// After the last catch: what both sides wrote has arrived whole.
    pub(super) fn verify(&mut self) -> Result<(), Trouble> {
        let (mut got, mut sent) = (vec![0; self.size], vec![0; self.size]);
        let whole = vec![Extent { offset: 0, len: self.size as u64 }];
        let read = self.here.read_at(0, &mut got);
        self.engine.run(&mut [Job::read(&self.over_there, whole, &mut sent)], PATIENCE).into_iter().collect::<Result<(), _>>()?;
        let bytes = &self.ball.bytes()[..self.size];
        if read && got == bytes && sent == bytes { Ok(()) } else { Err("what arrived is not what was written".into()) }
    }
}

/// The bytes that tell whether all of a write is there.
fn marks(size: usize) -> impl Iterator<Item = usize> {
    (0..size).step_by(PIECE).map(move |piece| (piece + PIECE).min(size) - 1)
}

/// Never 0, and never that of the round before.
fn mark(round: u64) -> u8 {
    (round % 255) as u8 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_has_a_mark_and_rounds_can_be_told_apart() {
        assert_eq!(marks(1).collect::<Vec<_>>(), [0]);
        assert_eq!(marks(PIECE).collect::<Vec<_>>(), [PIECE - 1]);
        assert_eq!(marks(2 * PIECE + 5).collect::<Vec<_>>(), [PIECE - 1, 2 * PIECE - 1, 2 * PIECE + 4]);
        assert!((0..1000).all(|round| mark(round) != 0 && mark(round) != mark(round + 1)));
    }
}

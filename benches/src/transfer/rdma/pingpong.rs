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
    /// What it is hit with in turn, and the same as a job: made once, as perftest makes its work request.
    balls: [(&'a [u8], Job<'a>); 2],
    size: usize,
}

impl<'a> Side<'a> {
    /// After this the other side may begin.
    pub(super) fn new(
        engine: &'a Engine,
        over_there: Segment,
        here: &'a Memory,
        balls: &'a mut Registered,
        size: usize,
    ) -> Result<Self, Trouble> {
        let most = balls.bytes().len() / 2;
        if size == 0 || size > most {
            return Err(format!("{size} bytes to play with: between 1 and {most}").into());
        }
        if !marks(size).all(|at| here.write_at(at as u64, &[0])) {
            return Err(format!("{size} bytes do not fit into the memory that is lent").into());
        }
        let (even, odd) = balls.bytes()[..2 * size].split_at_mut(size);
        let ball = |round: u64, bytes: &'a mut [u8]| {
            // The same bytes on both sides, so that either can tell whether those of the other arrived.
            Payload::new(7, size).fill(0, bytes);
            marks(size).for_each(|at| bytes[at] = mark(round));
            let bytes: &'a [u8] = bytes;
            (bytes, Job::write(&over_there, vec![Extent { offset: 0, len: size as u64 }], bytes))
        };
        let balls = [ball(0, even), ball(1, odd)];
        Ok(Self { engine, over_there, here, balls, size })
    }

    pub(super) fn hit(&mut self, round: u64) -> Result<(), Trouble> {
        let (_, job) = &mut self.balls[(round % 2) as usize];
        Ok(self.engine.run_one(job, PATIENCE)?)
    }

    pub(super) fn catch(&self, round: u64) -> Result<(), Trouble> {
        let mut asked = None;
        let mut byte = [0];
        for at in marks(self.size) {
            let mut looks = 0_u64;
            // Without a pause between two looks, as perftest has none: an emulated processor takes it for a reason to look after others.
            while !(self.here.read_at(at as u64, &mut byte) && byte[0] == mark(round)) {
                looks += 1;
                if looks.is_multiple_of(4096) && asked.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                    return Err(format!("the other side did not write back within {PATIENCE:?}, round {round}").into());
                }
            }
        }
        Ok(())
    }

    /// After the last catch, that of this round: what both sides wrote has arrived whole.
    pub(super) fn verify(&self, round: u64) -> Result<(), Trouble> {
        let (mut got, mut sent) = (vec![0; self.size], vec![0; self.size]);
        let whole = vec![Extent { offset: 0, len: self.size as u64 }];
        let read = self.here.read_at(0, &mut got);
        self.engine.run_one(&mut Job::read(&self.over_there, whole, &mut sent), PATIENCE)?;
        let (bytes, _) = &self.balls[(round % 2) as usize];
        if read && got == *bytes && sent == *bytes { Ok(()) } else { Err("what arrived is not what was written".into()) }
    }
}

/// The bytes that tell whether all of a write is there.
fn marks(size: usize) -> impl Iterator<Item = usize> {
    (0..size).step_by(PIECE).map(move |piece| (piece + PIECE).min(size) - 1)
}

/// Never 0, and never that of the round before.
fn mark(round: u64) -> u8 {
    (round % 2) as u8 + 1
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

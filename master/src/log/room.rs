//! Room on the disk of the log, looked at before it runs out: below a mark nothing new is taken, at the brim nothing at all, so that no write
//! fails half-way. What happens when one does all the same is in `stall`.

use super::disk::Disk;
use perilune_protocol::ByteSize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The disk is asked this often.
pub(super) const EVERY: Duration = Duration::from_millis(100);
/// With less than an eighth of what is wanted, and less than this, the log is at the brim.
const BRIM_BYTES: u64 = 1 << 20;

/// How much room there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Room {
    /// As much as is wanted.
    #[default]
    Enough,
    /// Too little for anything new: only what frees room, or keeps the rest going, should be proposed.
    Low,
    /// The log refuses every proposal.
    Brim,
}

/// What is known of the disk below the log.
pub(super) struct Gauge {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// Zero: nobody looks.
    wanted: u64,
    pub(super) free: Option<u64>,
    pub(super) room: Room,
    due: Duration,
}

impl Gauge {
    pub(super) fn new(disk: Arc<dyn Disk>, dir: PathBuf, wanted: u64) -> Self {
        Self { disk, dir, wanted, free: None, room: Room::Enough, due: Duration::ZERO }
    }

    /// Asks the disk, now and then.
    pub(super) fn look(&mut self, now: Duration) {
        if now < self.due {
            return;
        }
        self.due = now + EVERY;
        // One that does not say is taken to have room: a write will tell.
        self.free = self.disk.free(&self.dir).ok();
        let before = self.room;
        self.room = judge(before, self.free.unwrap_or(u64::MAX), self.wanted);
        match (before, self.room) {
            (before, after) if before == after => {}
            (_, Room::Enough) => tracing::warn!("{} has room again ({}): the log takes everything", self.dir.display(), self.left()),
            _ => tracing::warn!("{}", self.complaint()),
        }
    }

    fn left(&self) -> String {
        self.free.map_or_else(|| "nobody knows how much is left".into(), |free| format!("{} left", ByteSize(free)))
    }

    /// What to tell whoever is refused.
    pub(super) fn complaint(&self) -> String {
        let what = match self.room {
            Room::Brim => "nothing can be stored; reads go on",
            Room::Enough | Room::Low => "nothing new is stored; reads and removals go on",
        };
        format!(
            "the disk of the log in {} is filling up ({}, {} wanted): {what}. Free some space there (or ask for less with --log-reserve): this \
             master goes on by itself",
            self.dir.display(),
            self.left(),
            ByteSize(self.wanted)
        )
    }
}

/// A quarter more than what is wanted has to be there before there is enough again, so that the state does not flutter.
fn judge(before: Room, free: u64, wanted: u64) -> Room {
    if free < (wanted / 8).min(BRIM_BYTES) {
        Room::Brim
    } else if free < wanted || before != Room::Enough && free < wanted.saturating_add(wanted / 4) {
        Room::Low
    } else {
        Room::Enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_runs_out_in_steps_and_is_enough_again_only_with_a_quarter_more() {
        let wanted = 64 << 20;
        for (before, free, after) in [
            (Room::Enough, wanted, Room::Enough),
            (Room::Enough, wanted - 1, Room::Low),
            (Room::Low, wanted + 1, Room::Low),
            (Room::Low, wanted / 4 * 5, Room::Enough),
            (Room::Low, BRIM_BYTES - 1, Room::Brim),
            (Room::Brim, BRIM_BYTES, Room::Low),
            (Room::Brim, u64::MAX, Room::Enough),
        ] {
            assert_eq!(judge(before, free, wanted), after, "{free} free after {before:?}");
        }
        assert_eq!(judge(Room::Enough, 0, 0), Room::Enough, "nobody looks");
        assert_eq!(judge(Room::Enough, 99, 800), Room::Brim);
    }
}

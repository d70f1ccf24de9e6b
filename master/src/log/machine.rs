//! What the log drives: a deterministic machine that is fed committed effects in order.

use perilune_protocol::Tso;
use std::io;

/// Writes the state a machine had, or passed through, since [`Machine::snapshot`] was called.
pub type SnapshotWriter = Box<dyn FnOnce(&mut dyn io::Write) -> io::Result<()> + Send>;

/// The state behind a log. Owned by the log thread, called by it alone, in commit order.
///
/// **Convergence.** The closure that [`Machine::snapshot`] returns runs on another thread while [`Machine::apply`] goes on. What it
/// writes may therefore already contain effects that follow the snapshot's index. The machine promises that restoring such a snapshot
/// and then applying *every* effect after the index, in order, leads to the same state. A group of one replays the last index such an
/// effect can have before [`crate::log::Log::open`] returns. A member of a larger group may show the state in between while it follows;
/// once it leads ([`crate::log::Standing`]), or a [`crate::log::Log::read_barrier`] has resolved, that is over.
pub trait Machine: Send + 'static {
    /// What a proposer gets back.
    type Output: Send + 'static;

    /// Applies one effect of the entry `index` (several effects share an entry and thus its index). Total: bytes that make no sense are
    /// a defect to report in the output, never a panic.
    fn apply(&mut self, index: u64, effect: &[u8]) -> Self::Output;

    /// A stamp for an entry that this member is about to propose, higher than those of all entries before.
    fn stamp(&mut self) -> Option<Tso> {
        None
    }

    /// The effects of the entry with this stamp are applied next.
    fn begins(&mut self, stamp: Option<Tso>) {
        let _ = stamp;
    }

    /// No entry with a lower stamp than this can be read again.
    fn forget(&mut self, before: Tso) {
        let _ = before;
    }

    /// Somebody needs the entries with a higher stamp than this; `None`: nobody has said so.
    fn needed(&self) -> Option<Tso> {
        None
    }

    /// In which term this member leads from now on, if it does. Called whenever that changes, before anything is applied that was decided
    /// elsewhere since; and before [`crate::log::Standing`] and lease show it.
    fn leads(&mut self, term: Option<u64>) {
        let _ = term;
    }

    /// Captures what is needed to write the present state. Called between two entries; must be quick, for nothing is applied meanwhile.
    fn snapshot(&self) -> SnapshotWriter;

    /// Replaces the whole state, whatever it was, by what such a closure wrote: before the first apply, and again whenever this member
    /// lagged so far that the leader sent it a snapshot; never while it leads, and never while a closure of its own is writing. When it
    /// fails before the first apply, an older snapshot may be tried, on the same machine; later, the log stops.
    fn restore(&mut self, from: &mut dyn io::Read) -> io::Result<()>;
}

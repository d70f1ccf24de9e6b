//! From the pieces of a batch to its outcomes: poll them, block on them, await them.

mod tally;

pub(crate) use tally::{Listener, Tally};

use crate::lane::Lane;
use crate::request::Outcome;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// What a caller holds while bytes travel. Dropping it cancels what is not done, and returns once no buffer will be touched again.
#[must_use = "dropping a ticket cancels its transfers"]
pub struct Ticket {
    tally: Arc<Tally>,
    lane: Arc<Lane>,
    taken: bool,
}

impl Ticket {
    pub(crate) fn new(tally: Arc<Tally>, lane: Arc<Lane>) -> Self {
        Self { tally, lane, taken: false }
    }

    /// The outcomes, one per request in their order, if all are there; once. Does not block and moves no bytes.
    pub fn poll(&mut self) -> Option<Vec<Outcome>> {
        if self.taken {
            return None;
        }
        if self.tally.done() {
            return Some(self.take());
        }
        self.lane.attend();
        None
    }

    /// Moves bytes on this thread, or sleeps while another one does, until every outcome is there.
    pub fn wait(mut self) -> Vec<Outcome> {
        self.lane.wait(&self.tally);
        self.take()
    }

    fn take(&mut self) -> Vec<Outcome> {
        self.taken = true;
        self.tally.take()
    }
}

impl Future for Ticket {
    type Output = Vec<Outcome>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Vec<Outcome>> {
        if self.tally.listen(Listener::Task(context.waker().clone())) {
            self.lane.attend();
            Poll::Pending
        } else {
            Poll::Ready(self.take())
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.tally.done() {
            self.lane.cancel(&self.tally);
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("done", &self.tally.done()).finish_non_exhaustive()
    }
}

//! Counts the pieces of a batch down to zero and tells whoever waits.

use crate::fault::TransferError;
use crate::request::Outcome;
use perilune_stdx::tally::Tally as Pieces;
use std::sync::{Mutex, PoisonError};
use std::task::Waker;
use std::thread::Thread;

/// Who is told when the last piece is done.
pub(crate) enum Listener {
    Thread(Thread),
    Task(Waker),
}

/// The outcomes of one batch while they come in.
pub(crate) struct Tally {
    /// Pieces not done. Lowered by whoever drives the lane; publishes the moved bytes and the outcomes to who sees that none is left.
    pieces: Pieces,
    state: Mutex<State>,
}

struct State {
    outcomes: Vec<Outcome>,
    listener: Option<Listener>,
}

impl Tally {
    /// For `pieces` pieces in total; `outcomes` are what is known before the first of them.
    pub(crate) fn new(pieces: usize, outcomes: Vec<Outcome>) -> Self {
        Self { pieces: Pieces::new(pieces), state: Mutex::new(State { outcomes, listener: None }) }
    }

    pub(crate) fn done(&self) -> bool {
        self.pieces.left() == 0
    }

    /// There are so many pieces; none has begun.
    pub(crate) fn expect(&self, pieces: usize) {
        self.pieces.expect(pieces);
    }

    /// Request `slot` failed, or a piece of it. The first error is its outcome.
    pub(crate) fn fail(&self, slot: usize, error: TransferError) {
        if let Some(kept @ Ok(())) = self.lock().outcomes.get_mut(slot) {
            *kept = Err(error);
        }
    }

    /// One piece of request `slot` is over.
    pub(crate) fn report(&self, slot: usize, outcome: Outcome) {
        if let Err(error) = outcome {
            self.fail(slot, error);
        }
        if self.pieces.done() {
            match self.lock().listener.take() {
                None => {}
                Some(Listener::Thread(thread)) => thread.unpark(),
                Some(Listener::Task(waker)) => waker.wake(),
            }
        }
    }

    /// Tells `listener` when all is done; false when that is already so. The lock is what makes this and the last report see each other.
    pub(crate) fn listen(&self, listener: Listener) -> bool {
        let mut state = self.lock();
        if self.done() {
            return false;
        }
        state.listener = Some(listener);
        true
    }

    /// The outcomes, once all are there.
    pub(crate) fn take(&self) -> Vec<Outcome> {
        std::mem::take(&mut self.lock().outcomes)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

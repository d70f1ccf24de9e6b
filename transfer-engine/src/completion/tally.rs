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
    requests: usize,
    state: Mutex<State>,
}

struct State {
    /// Requests that failed, by their slots. The first error of each is its outcome.
    failed: Vec<(usize, TransferError)>,
    listener: Option<Listener>,
}

impl Tally {
    /// For so many requests, of `pieces` pieces in total.
    pub(crate) fn new(pieces: usize, requests: usize) -> Self {
        Self { pieces: Pieces::new(pieces), requests, state: Mutex::new(State { failed: Vec::new(), listener: None }) }
    }

    pub(crate) fn done(&self) -> bool {
        self.pieces.left() == 0
    }

    /// There are so many pieces; none has begun.
    pub(crate) fn expect(&self, pieces: usize) {
        self.pieces.expect(pieces);
    }

    /// Request `slot` failed, or a piece of it.
    pub(crate) fn fail(&self, slot: usize, error: TransferError) {
        self.lock().failed.push((slot, error));
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
        let mut outcomes = vec![Ok(()); self.requests];
        for (slot, error) in std::mem::take(&mut self.lock().failed) {
            if let Some(kept @ Ok(())) = outcomes.get_mut(slot) {
                *kept = Err(error);
            }
        }
        outcomes
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

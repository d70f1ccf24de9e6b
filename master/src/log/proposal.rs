//! The answer to a proposal, for tasks and for threads.

use perilune_protocol::{FaultCode, Outcome};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::oneshot;

/// An effect, or another request, on its way. Resolves when it is committed and applied, to what the machine said; or to a fault:
///
/// | code | what it means for the effect |
/// |---|---|
/// | [`FaultCode::WrongState`] | it was not stored: this member does not lead (the sentence names the leader, if known), or cannot take it now |
/// | [`FaultCode::Timeout`] | this member lost the lead first: it may or may not be stored |
/// | [`FaultCode::Storage`] | the log failed: it may or may not be stored |
///
/// A log that is closed answers `WrongState` too, with a sentence of its own. Dropping a proposal does not take the effect back.
#[must_use = "a proposal's outcome says whether the effect was stored"]
#[derive(Debug)]
pub struct Proposal<O> {
    answer: oneshot::Receiver<Outcome<O>>,
}

impl<O> Proposal<O> {
    pub(super) fn new() -> (oneshot::Sender<Outcome<O>>, Self) {
        let (sender, answer) = oneshot::channel();
        (sender, Self { answer })
    }

    /// One that is refused before the log is asked.
    pub(crate) fn refused(fault: perilune_protocol::Fault) -> Self {
        Self::known(Err(fault))
    }

    pub(super) fn known(outcome: Outcome<O>) -> Self {
        let (sender, proposal) = Self::new();
        // The receiver is in `proposal`.
        let _ = sender.send(outcome);
        proposal
    }

    /// Blocks this thread until the outcome is known. Not for async tasks: there, `.await` it.
    pub fn wait(self) -> Outcome<O> {
        self.answer.blocking_recv().unwrap_or_else(|_| Err(closed()))
    }
}

impl<O> Future for Proposal<O> {
    type Output = Outcome<O>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer).poll(context).map(|answer| answer.unwrap_or_else(|_| Err(closed())))
    }
}

pub(super) fn closed() -> perilune_protocol::Fault {
    FaultCode::WrongState.with("the log was closed before the effect was stored; it may or may not be found after a restart")
}

//! The answer to a proposal, for tasks and for threads.

use perilune_protocol::{FaultCode, Outcome};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::oneshot;

/// An effect on its way. Resolves when it is committed and applied, to what the machine said; or to a fault with
/// [`FaultCode::Storage`] when the log failed, or [`FaultCode::WrongState`] when it was closed first. Dropping it does not take the
/// effect back.
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

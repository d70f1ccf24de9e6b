//! From the transfers of one batch to its outcomes: poll them, block on them, await them.

use crate::request::Outcome;
use std::pin::Pin;
use std::task::{Context, Poll};

/// What a caller holds while bytes travel. Dropping it cancels what is not done, and returns once no buffer will be touched again.
#[derive(Debug)]
pub struct Ticket {
}

impl Ticket {
    /// The outcomes, one per request in their order, if all are there. Does not block; moves no bytes.
    pub fn poll(&mut self) -> Option<Vec<Outcome>> {
        todo!()
    }

    /// Moves bytes on this thread, or sleeps while another one does, until every outcome is there.
    pub fn wait(self) -> Vec<Outcome> {
        todo!()
    }
}

impl Future for Ticket {
    type Output = Vec<Outcome>;
    fn poll(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<Vec<Outcome>> {
        todo!()
    }
}

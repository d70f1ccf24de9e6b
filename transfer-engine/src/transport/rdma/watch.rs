//! What no completion tells: rails that stall, and peers that find no room because others hold it.

use super::link::Slot;
use super::ports::Port;
use super::open::Opened;
use super::rail::STALL;
use super::transport::RdmaTransport;
use crate::fault::{Failure, TransferErrorKind};
use crate::transport::Completion;
use std::time::Instant;

impl RdmaTransport {
    /// Ends the rails on which nothing moves though something should.
    pub(super) fn end_stalled(&mut self, now: Instant, done: &mut Vec<Completion>) {
        let rails = self.links.iter_mut().flat_map(|link| link.slots.iter_mut().filter_map(Slot::rail));
        let stalled: Vec<u32> = rails.filter_map(|rail| rail.stalled(now).then_some(rail.generation)).collect();
        for generation in stalled {
            let cause = format!("nothing was acknowledged for {} s", STALL.as_secs());
            self.lose(generation, Failure::new(TransferErrorKind::PeerGone, cause), true, done);
        }
    }

    /// Lets peers go on that found no room. Where others held it, no completion of their own would wake them.
    pub(super) fn feed(&mut self, done: &mut Vec<Completion>) {
        if std::mem::take(&mut self.freed) {
            for peer in std::mem::take(&mut self.starved) {
                self.pump(peer, done);
            }
            // Rails were lost meanwhile: no sleep before what they left is cleared away.
            if !self.starved.is_empty() && self.ports.iter().any(Port::is_littered) {
                self.wake.fire();
            }
        }
    }

    /// Refuses a rail whose probes would not fit the completion queue.
    pub(super) fn admit(&self, slot: usize, outcome: Result<Opened, Failure>) -> Result<Opened, Failure> {
        let (opened, port) = (outcome?, &self.ports[slot]);
        if port.fits(opened.count()) {
            return Ok(opened);
        }
        let cause = format!("the completion queue of {} has no room for more peers now: allow a larger one", port.device.name);
        Err(Failure::new(TransferErrorKind::PeerUnreachable, cause))
    }
}

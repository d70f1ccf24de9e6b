//! The flow of slices back: completions, and what a rail that broke leaves to the others.

use super::TALLIES;
use super::link::{Known, PAUSE, Slot};
use super::rail::Rail;
use super::registry::Staging;
use super::sending::{Number, Sent};
use super::slots::Slots;
use super::sys::{Completed, Status};
use super::transport::{Advance, Flight, RdmaTransport};
use crate::fault::{Failure, TransferErrorKind};
use crate::request::Op;
use crate::transport::Completion;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// So many rails may break under a piece of work, with nothing of it arriving in between, before it is given up.
const BROKEN_MAX: u32 = 8;
/// The same for work that has another path: a rail that comes up, and breaks under the first bytes, takes up to two seconds for that, and no
/// deadline outlasts many.
const BROKEN_BESIDE: u32 = 1;
/// So often the peer's device may refuse a key the peer has just given.
const REFUSED_MAX: u32 = 2;

/// A slice or a notice arrived.
fn settled(sent: Sent, flights: &mut Slots<Flight>, staging: &mut Option<Staging>, done: &mut Vec<Completion>) {
    let Sent { work, slice, stretch, .. } = sent;
    // Work that was taken back meanwhile gets no bytes any more.
    let flight = work.and_then(|id| flights.get_mut(id));
    if let (Some(stretch), Some(staging)) = (stretch, staging) {
        if let (Some(Flight { work, .. }), Some(slice)) = (&flight, slice)
            && work.op == Op::Read
        {
            staging.copy(&stretch, work.op, slice.local(work));
        }
        staging.give(stretch);
    }
    let (Some(id), Some(Flight { work, todo, outstanding, broken, .. })) = (work, flight) else { return };
    *outstanding -= 1;
    *broken = 0;
    if *outstanding == 0 && todo.as_ref().is_some_and(|todo| todo.is_empty(work)) {
        done.extend(flights.remove(id).map(|flight| Completion { work: flight.work, outcome: Ok(()) }));
    }
}

impl RdmaTransport {
    /// What a completion queue said.
    pub(super) fn complete(&mut self, completed: Completed, done: &mut Vec<Completion>) {
        let Number { generation, place, sequence } = Number::of(completed.id);
        let Some(&(peer, slot)) = self.rails.get(&generation) else { return };
        let failed = completed.status != Status::Success;
        let Self { links, flights, staging, ports, .. } = self;
        let Some(rail) = links[peer].slots[slot].rail() else { return };
        let Some(sending) = rail.sendings.get_mut(place) else { return };
        if failed {
            // A failure says nothing of those before it. They should have come first; but soft-RoCE of Linux 6.1, when it gives up, drops the
            // first of them as if it had succeeded, a read without a byte too. So what was not reported as done by then is sent again.
            let blamed = sending.work_of(sequence);
            return self.broke(generation, blamed, completed.status, done);
        }
        let port = &mut ports[rail.device];
        while let Some(sent) = sending.settle(sequence) {
            let Ok(sent) = sent else {
                let cause = format!("the device reported a read from {} as done that brought no bytes", links[peer].address);
                return self.lose(generation, Failure::new(TransferErrorKind::PeerGone, cause), true, done);
            };
            port.outstanding -= 1;
            settled(sent, flights, staging, done);
        }
        if let here @ Slot::Probing(_) = &mut self.links[peer].slots[slot] {
            let probed = here.rail().is_some_and(|rail| rail.sendings.iter().all(|sending| sending.outstanding() == 0));
            if probed {
                let before = std::mem::replace(here, Slot::Connecting);
                if let Slot::Probing(rail) = before {
                    *here = Slot::Up(rail);
                }
                let link = &mut self.links[peer];
                (link.known, link.failures[slot], link.missed) = (true, 0, None);
                self.retell(peer);
                TALLIES.rails_connected.fetch_add(1, Relaxed);
            }
        }
        if !self.links[peer].waiting.is_empty() {
            self.pump(peer, Instant::now(), done);
        }
    }

    pub(super) fn finish(&mut self, id: u64, outcome: Result<(), Failure>, done: &mut Vec<Completion>) -> Advance {
        done.extend(self.flights.remove(id).map(|flight| Completion { work: flight.work, outcome }));
        Advance::Done
    }

    /// A queue pair went to error: its rail is replaced, and what was on it goes elsewhere.
    fn broke(&mut self, generation: u32, blamed: Option<u64>, status: Status, done: &mut Vec<Completion>) {
        let Some(&(peer, _)) = self.rails.get(&generation) else { return };
        let cause = format!("{status} at {}", self.links[peer].address);
        let mut of_path = true;
        if let Some(flight) = blamed.and_then(|id| self.flights.get_mut(id)) {
            match status {
                // An invalid request is no matter of keys: soft-RoCE of Linux 6.1 makes them by itself when it sends lost packets again.
                Status::RemoteAccess | Status::RemoteOperation => {
                    // Most likely the segment was withdrawn or lent anew: its owner says.
                    of_path = false;
                    flight.refused += 1;
                    let key = (flight.work.segment_id(), flight.work.capability().0);
                    self.links[peer].keys.remove(&key);
                }
                Status::LocalProtection | Status::LocalLength => {
                    of_path = false;
                    flight.refused = REFUSED_MAX + 1;
                }
                _ => {}
            }
        }
        let failure = Failure::new(TransferErrorKind::PeerGone, cause.clone());
        self.lose(generation, failure, of_path, done);
        if let Some(id) = blamed
            && let Some(flight) = self.flights.get(id)
            && flight.refused > REFUSED_MAX
        {
            // Other rails may have the rest of it.
            if flight.outstanding > 0 {
                self.take_back(id);
            }
            let _ = self.finish(id, Err(Failure::new(TransferErrorKind::Failed, cause)), done);
        }
    }

    /// Ends a rail. Its queue pairs are destroyed here, so after this no buffer is touched by them; what they had not done is posted again.
    pub(super) fn lose(&mut self, generation: u32, cause: Failure, of_path: bool, done: &mut Vec<Completion>) {
        if let Some(peer) = self.end(generation, cause, of_path) {
            self.go_on(peer, done);
        }
    }

    /// After a rail of the peer ended: what too many broke under is given up, the rest is posted to others.
    pub(super) fn go_on(&mut self, peer: usize, done: &mut Vec<Completion>) {
        let worn = |flight: &Flight| flight.broken > if flight.work.has_other_path() { BROKEN_BESIDE } else { BROKEN_MAX };
        let worn: Vec<u64> = self.links[peer].waiting.iter().copied().filter(|&id| self.flights.get(id).is_some_and(worn)).collect();
        for id in worn {
            let failure =
                self.links[peer].cause().unwrap_or_else(|| Failure::new(TransferErrorKind::PeerGone, "its rails broke again and again"));
            let _ = self.finish(id, Err(failure), done);
        }
        self.pump(peer, Instant::now(), done);
    }

    fn end(&mut self, generation: u32, cause: Failure, of_path: bool) -> Option<usize> {
        let (peer, slot) = self.rails.remove(&generation)?;
        tracing::debug!(peer = %self.links[peer].address, slot, cause = cause.cause, "an RDMA rail was lost");
        let probing = matches!(self.links[peer].slots[slot], Slot::Probing(_));
        // One that carried bytes is connected again at once, one that never did after a while.
        let retry = probing.then(|| Instant::now() + PAUSE);
        let down = Slot::Down { cause: Some(cause), retry };
        self.links[peer].failures[slot] += usize::from(probing);
        let (Slot::Up(rail) | Slot::Probing(rail)) = std::mem::replace(&mut self.links[peer].slots[slot], down) else { return None };
        TALLIES.rails_lost.fetch_add(1, Relaxed);
        rail.unwatch(&self.epoll);
        let Rail { control, mut sendings, device, .. } = *rail;
        let mut left: Vec<Sent> = Vec::new();
        for sending in &mut sendings {
            left.extend(sending.abandon());
        }
        // Here the devices let go of the buffers.
        drop(sendings);
        drop(control);
        self.ports[device].abandon(left.len());
        self.freed = true;
        self.retell(peer);
        let link = &mut self.links[peer];
        // Keys are those of one life of the peer, and the next connection may reach another: it is asked again. Besides, an iWARP peer breaks
        // the connection over a key that is worthless, and does not say which.
        link.keys.retain(|_, known| matches!(known, Known::Asked { generation: of } if *of != generation));
        link.questions.retain(|_, key| link.keys.contains_key(key));
        for Sent { work, slice, stretch, .. } in left.into_iter().rev() {
            if let (Some(stretch), Some(staging)) = (stretch, &mut self.staging) {
                staging.give(stretch);
            }
            if let (Some(id), Some(slice)) = (work, slice)
                && let Some(flight) = self.flights.get_mut(id)
            {
                flight.outstanding -= 1;
                flight.broken += u32::from(of_path && flight.outstanding == 0);
                flight.shaken |= of_path;
                flight.todo.get_or_insert_default().give_back(slice);
                if !std::mem::replace(&mut flight.waits, true) {
                    link.waiting.push_front(id);
                }
            }
        }
        Some(peer)
    }

    /// Ends the rails that may still touch the buffers of a piece of work, or send its bytes. What else was on them is posted again.
    pub(super) fn take_back(&mut self, id: u64) {
        let Some(flight) = self.flights.get(id) else { return };
        let (peer, write) = (flight.peer, flight.work.op == Op::Write);
        let touches = |sent: &Sent| sent.work == Some(id) && (write || sent.stretch.is_none());
        let generations: Vec<u32> = self.links[peer]
            .slots
            .iter_mut()
            .filter_map(Slot::rail)
            .filter(|rail| rail.sendings.iter().any(|sending| sending.sent().any(touches)))
            .map(|rail| rail.generation)
            .collect();
        for generation in generations {
            self.end(generation, Failure::new(TransferErrorKind::Cancelled, "work on it was taken back"), false);
        }
        if let Some(flight) = self.flights.get_mut(id) {
            flight.todo = None;
        }
        self.stranded.push(peer);
    }
}

#[cfg(test)]
mod tests;

//! Notices on the asking side: a write of no bytes with an immediate number, posted only with a credit of the rail in hand.
//!
//! A credit is a receive on the peer's device and a place in its queue, so no notice meets a receiver that is not ready. A rail comes with
//! some, used ones come back as the peer finds room, and where there are none a notice waits in `untold` while its rail asks for some.
//! What was asked for is used at once or returned: who sends nothing keeps no more than the credits its rails came with.

use super::cut::Slice;
use super::rail::{Rail, Shown};
use super::sending::{Number, Sending};
use super::sys::{Verb, WorkRequest};
use super::transport::{Advance, RdmaTransport};
use super::wire::Ask;
use crate::transport::Completion;
use perilune_protocol::{Capability, SegmentId};
use std::time::Instant;

/// As many credits as one rail asks for at one time.
pub(super) const WISH_MAX: u32 = 32;

impl RdmaTransport {
    /// Posts a notice whose keys are known, or leaves it among those that wait for credit.
    pub(super) fn tell(&mut self, peer: usize, id: u64, value: u32) -> Advance {
        let Self { flights, links, ports, question, .. } = self;
        let Some(flight) = flights.get_mut(id).filter(|flight| flight.outstanding == 0) else { return Advance::Done };
        let link = &mut links[peer];
        let wanted = link.untold.len() as u32 + 1;
        let (mut rails, mut strangers): (Vec<&mut Rail>, Vec<&mut Rail>) =
            link.ups().filter(|rail| rail.notices).partition(|rail| rail.shown == Shown::Yes);
        if let Some(rail) = rails.iter_mut().filter(|rail| rail.credits > 0).min_by_key(|rail| rail.backlog()) {
            let place = rail.sendings.iter().position(Sending::has_room).filter(|_| ports[rail.device].has_room());
            let Some(place) = place else {
                flight.waits = true;
                return Advance::Full;
            };
            let (generation, sending) = (rail.generation, rail.load(place));
            let op = Verb::WriteImmediate(value);
            let (sequence, signaled) = sending.record(op, Some(id), Some(Slice::of_notice()), None, None);
            // No bytes: needs no key, as the one of the segment was shown before.
            let id = Number { generation, place, sequence }.id();
            sending.chain.push(WorkRequest { id, op, remote: 0, key: 0, signaled }, &[]);
            rail.credits -= 1;
            ports[rail.device].outstanding += 1;
            flight.outstanding += 1;
            flight.todo = Some(Default::default());
            return Advance::Done;
        }
        let asking = rails.iter().any(|rail| rail.asked >= wanted.min(WISH_MAX));
        if let Some(rail) = strangers.first_mut() {
            // The keys may have come over another rail: its peer must see the capability over this one too.
            if rail.shown == Shown::No {
                *question += 1;
                rail.show(*question, flight.work.segment_id(), flight.work.capability());
                link.questions.insert(*question, (flight.work.segment_id(), flight.work.capability().0));
            }
        } else if let Some(rail) = rails.first_mut() {
            if !asking {
                rail.wish(wanted);
            }
        } else {
            flight.waits = true;
            return Advance::Later;
        }
        link.untold.push_back(id);
        Advance::Done
    }

    /// The peer answered a question for keys that came over a rail.
    pub(super) fn shown(&mut self, peer: usize, slot: usize, granted: bool) {
        if let Some(rail) = self.links[peer].slots[slot].rail()
            && rail.shown != Shown::Yes
        {
            rail.shown = if granted { Shown::Yes } else { Shown::No };
        }
    }

    /// The peer gave credits to a rail.
    pub(super) fn credit(&mut self, peer: usize, slot: usize, count: u32) {
        if let Some(rail) = self.links[peer].slots[slot].rail() {
            rail.credits = rail.credits.saturating_add(count);
            rail.asked = rail.asked.saturating_sub(count);
        }
    }

    /// Puts the notices without a credit back in front of what waits: something about their peer has changed.
    pub(super) fn retell(&mut self, peer: usize) {
        let link = &mut self.links[peer];
        while let Some(id) = link.untold.pop_back() {
            if let Some(flight) = self.flights.get_mut(id) {
                flight.waits = true;
                link.waiting.push_front(id);
            }
        }
    }

    /// Takes the wish for credits back when no notice waits for one any more.
    pub(super) fn wish_no_more(&mut self, peer: usize) {
        let Self { flights, links, .. } = self;
        let link = &mut links[peer];
        link.untold.retain(|&id| flights.get(id).is_some());
        if link.untold.is_empty() {
            link.ups().filter(|rail| rail.asked > 0).for_each(|rail| rail.wish(0));
            // A rail that broke over it ends with the next step.
            self.stranded.push(peer);
        }
    }

    /// After the peer said something: sends what may be sent now, and gives credits that came on a wish back once no notice waits for one.
    pub(super) fn heard(&mut self, peer: usize, done: &mut Vec<Completion>) {
        self.retell(peer);
        self.pump(peer, Instant::now(), done);
        let link = &mut self.links[peer];
        if !link.untold.is_empty() {
            return;
        }
        for rail in link.ups().filter(|rail| rail.credits > rail.standing) {
            let count = rail.credits - rail.standing;
            rail.ask(&Ask::Return { count });
            rail.credits = rail.standing;
        }
        self.ring(peer, done);
    }
}

impl Rail {
    fn show(&mut self, id: u64, segment: SegmentId, capability: Capability) {
        self.shown = Shown::Asked;
        self.ask(&Ask::Key { id, segment, capability });
    }

    fn wish(&mut self, count: u32) {
        self.asked = count.min(WISH_MAX);
        self.ask(&Ask::Credits { count: self.asked });
    }
}

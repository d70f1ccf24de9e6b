//! One operation alone: its slice is posted at once and waited for here.
//!
//! ```text
//! launch (may it go? which rail? post) -> spin -> landed: done
//!                                              -> lost with its rail: refused, the lane plans it anew
//!                                              -> still under way: from here on it is a flight like any other
//! ```
//! It differs from [`flow`](super::flow) in what it leaves out: nothing waits in front of it, so it needs no place in line; it is one slice, so
//! there is nothing to note of the others; and while it is waited for here no one asks whose it is, so it has no number. What is posted,
//! how its completion is believed, and what a broken rail means are the same, in the same functions.

use super::cut::{Slice, Todo, Way};
use super::flow::{TURN_MIN, best, post_chain};
use super::link::{Known, Slot};
use super::sending::Number;
use super::sys::{Verb, WorkRequest};
use super::transport::{Flight, RdmaTransport};
use crate::request::{Held, Op};
use crate::transport::{Completion, Dash, Peer, Single, Work};
use std::time::Instant;

/// What was posted: where its rail is among those of its peer, and its number.
#[derive(Clone, Copy)]
struct Launched {
    peer: usize,
    slot: usize,
    number: Number,
}

enum Landed {
    Yes,
    NotYet,
    /// Its rail is gone: no device touches its buffer any more.
    Lost,
}

impl RdmaTransport {
    pub(super) fn try_dash(&mut self, peer: Peer, single: &Single<'_>, work: &mut dyn FnMut(Instant) -> Box<Work>) -> Dash {
        // Nothing else is under way, so nothing else gets done.
        let (mut done, now) = (Vec::new(), Instant::now());
        self.look_first(now, &mut done);
        if self.ports.len() > 1 {
            self.take_bearings();
        }
        let Some(launched) = self.launch(peer, single, now, &mut done) else { return Dash::Refused };
        // A software device may have done it all before the call that posts returned.
        self.take_completions(&mut done);
        let mut landed = self.landed(launched);
        if let Landed::NotYet = landed {
            // Only now time begins to count.
            let begun = Instant::now();
            self.spin(begun, single.limit, &mut done, |this, _| !matches!(this.landed(launched), Landed::NotYet));
            landed = self.landed(launched);
            if let Landed::NotYet = landed {
                let mut work = work(begun);
                work.peer = peer;
                self.keep(launched, single, work);
            }
        }
        debug_assert!(done.is_empty());
        match landed {
            Landed::Yes => Dash::Done,
            Landed::NotYet => Dash::UnderWay,
            Landed::Lost => Dash::Refused,
        }
    }

    /// Posts the operation, unless anything about it, or about its peer, needs a closer look.
    fn launch(&mut self, peer: Peer, single: &Single<'_>, now: Instant, done: &mut Vec<Completion>) -> Option<Launched> {
        let Self { links, ports, buffers, devices, staging, .. } = self;
        let peer = peer.0 as usize;
        let (link, Single { op, segment, extent, local, .. }) = (&mut links[peer], *single);
        // A rail that is due is connected on the long way.
        let due = |slot: &Slot| match slot {
            Slot::Up(_) => false,
            Slot::Down { retry: Some(retry), .. } => *retry <= now,
            Slot::Down { .. } | Slot::Connecting | Slot::Probing(_) => true,
        };
        if !link.waiting.is_empty() || link.slots.iter().any(due) {
            return None;
        }
        let Some(Known::Granted(grant)) = link.keys.get(&(segment.id(), segment.desc().capability.0)) else { return None };
        let piece = extent.offset / grant.piece;
        let in_piece = extent.offset - piece * grant.piece + extent.len <= grant.piece;
        if !in_piece || !extent.fits(grant.size) || extent.len > devices.settings().slice {
            return None;
        }
        let rail = best(&mut link.slots, ports, extent.len).filter(|rail| rail.broken.is_none())?;
        let (slot, generation, inline) = (rail.device, rail.generation, op == Op::Write && extent.len <= rail.inline);
        let key = *grant.keys.get(rail.remote)?.get(piece as usize)?;
        // What is not registered is copied, inside of the request or, on the long way, through staging.
        let place_here = if inline { None } else { Some(buffers.whole(slot, local)?) };
        let place = rail.take_turn(extent.len, TURN_MIN);
        let sending = &mut rail.sendings[place];
        let op = if op == Op::Read { Verb::Read } else { Verb::Write };
        let mark = if op == Verb::Read { sending.mark(|| Some(Held::of_single(single))) } else { None };
        // What went inside of the request may have to go through staging on another rail.
        let way = if place_here.is_some() { Way::Direct } else { Way::Staged };
        let (sequence, signaled) = sending.record(op, None, Some(Slice::of_single(single, way)), None, mark);
        let number = Number { generation, place, sequence };
        let request = WorkRequest { id: number.id(), op, remote: grant.base + extent.offset, key, signaled };
        match place_here {
            Some(here) => sending.chain.push(request, &[here]),
            None => sending.chain.push_inline(request, std::iter::once(Held::of_single(single))),
        }
        ports[slot].outstanding += 1;
        match post_chain(rail, place, ports, staging.as_ref()) {
            Ok(()) => Some(Launched { peer, slot, number }),
            Err(refused) => {
                self.lose(generation, refused, true, done);
                None
            }
        }
    }

    fn landed(&self, Launched { peer, slot, number }: Launched) -> Landed {
        match &self.links[peer].slots[slot] {
            Slot::Up(rail) if rail.generation == number.generation => {
                // It is the last that was posted there.
                if rail.sendings[number.place].outstanding() == 0 { Landed::Yes } else { Landed::NotYet }
            }
            _ => Landed::Lost,
        }
    }

    /// It takes longer: the lane goes on with it, and may sleep.
    fn keep(&mut self, Launched { peer, slot, number }: Launched, single: &Single<'_>, work: Box<Work>) {
        let id = self.flights.insert(Flight { todo: Some(Todo::posted(single)), outstanding: 1, waits: false, ..Flight::new(work) });
        if let Some(rail) = self.links[peer].slots[slot].rail() {
            rail.sendings[number.place].adopt(number.sequence, id);
        }
    }
}

#[cfg(test)]
mod tests;

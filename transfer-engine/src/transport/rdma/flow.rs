//! The flow of slices out: from waiting work onto the queue pairs of the best rail, one doorbell for many.

use super::TALLIES;
use super::cut::{Limits, PARTS, Todo, Way};
use super::link::{Known, Slot};
use super::ports::{Port, no_notices, parts_for};
use super::rail::Rail;
use super::registry::{Buffers, Staging};
use super::sending::{Number, Sending};
use super::sys::{Local, Refused, Verb, WorkRequest};
use super::transport::{Advance, Flight, RdmaTransport};
use super::wire::{Ask, Grant};
use crate::fault::{Failure, TransferErrorKind};
use crate::request::Op;
use crate::segment::check_bounds;
use crate::transport::Completion;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// A queue pair gets so many bytes before the next one has its turn: few enough to spread large work, enough for one doorbell to move much.
pub(super) const TURN_MIN: u64 = 1 << 20;
const TURN_MAX: u64 = 4 << 20;

/// The least is the rail to take: the one that is being filled, for one doorbell; else the nearest, unless more waits there already.
fn rank(filled: bool, backlog: u64, len: u64, distance: u32) -> (bool, u64) {
    (!filled, (backlog + len).saturating_mul(u64::from(distance)))
}

/// Which rail takes the next `len` bytes. Ranks are found only where there is a choice.
pub(super) fn best<'a>(slots: &'a mut [Slot], ports: &[Port], len: u64) -> Option<&'a mut Rail> {
    let with_room = slots.iter_mut().filter_map(|slot| match slot {
        Slot::Up(rail) if ports[rail.device].has_room() && rail.sendings.iter().any(Sending::has_room) => Some(&mut **rail),
        _ => None,
    });
    let by = |rail: &Rail| rank(rail.is_filled(), rail.backlog(), len, ports[rail.device].distance);
    with_room.reduce(|best, rail| if by(rail) < by(best) { rail } else { best })
}

/// What slices are posted with.
struct Means<'a> {
    ports: &'a mut [Port],
    buffers: &'a Buffers,
    staging: &'a mut Staging,
    limits: Limits,
}

/// Puts slices of the piece of work with this number into the chains of queue pairs with room.
fn post_slices(id: u64, flight: &mut Flight, slots: &mut [Slot], grant: &Grant, means: Means<'_>) -> Advance {
    let Means { ports, buffers, staging, limits } = means;
    let Flight { work, todo: Some(todo), outstanding, waits, shaken, .. } = flight else { return Advance::Done };
    let turn = (work.bytes / slots.len().max(1) as u64).clamp(TURN_MIN, TURN_MAX);
    while let Some(slice) = todo.next(work, buffers, limits) {
        let Some(rail) = best(slots, ports, slice.len) else {
            todo.give_back(slice);
            *waits = true;
            return Advance::Full;
        };
        let inline = work.op == Op::Write && slice.len <= rail.inline;
        let stretch = if slice.way == Way::Staged && !inline {
            let Some(stretch) = staging.take(slice.len) else {
                todo.give_back(slice);
                *waits = true;
                return Advance::Full;
            };
            if work.op == Op::Write {
                staging.copy(&stretch, work.op, slice.local(work));
            }
            TALLIES.staged_bytes.fetch_add(slice.len, Relaxed);
            Some(stretch)
        } else {
            None
        };
        let device = rail.device;
        let piece = (slice.offset / grant.piece) as usize;
        let remote_key = grant.keys.get(rail.remote).and_then(|keys| keys.get(piece)).copied().unwrap_or(0);
        let mut local = [Local { base: 0, len: 0, key: 0 }; PARTS];
        let mut used = 0;
        if let Some(stretch) = &stretch {
            let (base, key) = staging.place(stretch, device);
            (local[0], used) = (Local { base, len: slice.len as u32, key }, 1);
        } else if !inline {
            // Memory that was registered anew meanwhile, in smaller pieces, may not fit: a key of nothing makes the device refuse it then.
            let mut take = |part: Local| {
                if used < limits.parts {
                    (local[used], used) = (part, used + 1);
                } else {
                    local[used - 1] = Local { len: local[used - 1].len + part.len, key: 0, ..local[used - 1] };
                }
            };
            slice.local(work).for_each(|part| buffers.place(device, part.slice(), &mut take));
        }
        let place = rail.take_turn(slice.len, turn);
        let generation = rail.generation;
        let sending = rail.load(place);
        let op = if work.op == Op::Read { Verb::Read } else { Verb::Write };
        let mark = if op == Verb::Read {
            let into = || if let Some(stretch) = &stretch { staging.held(stretch, slice.len) } else { slice.local(work).last() };
            sending.mark(into)
        } else {
            None
        };
        if *shaken {
            sending.hasten();
        }
        let (sequence, signaled) = sending.record(op, Some(id), Some(slice), stretch, mark);
        let request = WorkRequest {
            id: Number { generation, place, sequence }.id(),
            op,
            remote: grant.base + slice.offset,
            key: remote_key,
            signaled,
        };
        if inline {
            sending.chain.push_inline(request, slice.local(work));
        } else {
            sending.chain.push(request, &local[..used]);
        }
        ports[device].outstanding += 1;
        *outstanding += 1;
    }
    Advance::Done
}

/// Hands the chain of a queue pair to the device, with a proof where it owes one; the last request reports its success.
// This and the other small steps that `dash` shares are inlined on demand: with a call for each, the calls would cost it as much as the steps.
#[inline(always)]
pub(super) fn post_chain(rail: &mut Rail, place: usize, ports: &mut [Port], staging: Option<&Staging>) -> Result<(), Failure> {
    let Rail { generation, device, ref mut sendings, .. } = *rail;
    let sending = &mut sendings[place];
    let proof = sending.prove(staging, device, |sequence| Number { generation, place, sequence }.id());
    ports[device].outstanding += usize::from(proof);
    sending.speak();
    let refused = |e: Refused| Failure::new(TransferErrorKind::PeerUnreachable, format!("the device took no more work: {}", e.cause));
    sending.queue.post(&mut sending.chain).map_err(refused)
}

impl RdmaTransport {
    /// Posts what waits for a peer, as far as there is room; connects its rails when they are due.
    pub(super) fn pump(&mut self, peer: usize, now: Instant, done: &mut Vec<Completion>) {
        self.pass_by(peer, done);
        self.revive(peer, now);
        if !self.links[peer].hopeful() {
            return self.give_up(peer, done);
        }
        while let Some(&id) = self.links[peer].waiting.front() {
            match self.advance(peer, id, now, done) {
                Advance::Done => {
                    self.links[peer].waiting.pop_front();
                }
                Advance::Later => {
                    // Its keys are asked for; what stands behind it need not wait for them.
                    self.pass(peer, id, now, done);
                    break;
                }
                Advance::Full => {
                    self.starved.insert(peer);
                    break;
                }
            }
        }
        self.ring(peer, done);
    }

    /// Lets the work behind one that waits for its keys go first.
    fn pass(&mut self, peer: usize, id: u64, now: Instant, done: &mut Vec<Completion>) {
        let others: Vec<u64> = self.links[peer].waiting.iter().copied().filter(|&other| other != id).collect();
        let mut left = vec![id];
        for (i, &other) in others.iter().enumerate() {
            match self.advance(peer, other, now, done) {
                Advance::Done => {}
                Advance::Later => left.push(other),
                Advance::Full => {
                    self.starved.insert(peer);
                    left.extend(&others[i..]);
                    break;
                }
            }
        }
        self.links[peer].waiting = left.into();
    }

    /// Brings one piece of work as far as it can go, and notes whether it waits on. Ends no rail, as that puts work in front of what waits,
    /// which callers are going through.
    fn advance(&mut self, peer: usize, id: u64, now: Instant, done: &mut Vec<Completion>) -> Advance {
        let Self { flights, links, question, ports, buffers, devices, staging, .. } = self;
        let Some(flight) = flights.get_mut(id) else { return Advance::Done };
        let link = &mut links[peer];
        flight.waits = false;
        if flight.work.deadline <= now {
            // What is under way is taken back by the lane, which sees the same clock.
            let late = flight.work.too_late("its turn had not come");
            return if flight.outstanding == 0 { self.finish(id, Err(late), done) } else { Advance::Done };
        }
        let key = (flight.work.segment_id(), flight.work.capability().0);
        let grant = match link.keys.get(&key) {
            Some(Known::Granted(grant)) => grant,
            Some(Known::Asked { .. }) => {
                flight.waits = true;
                return Advance::Later;
            }
            None => {
                flight.waits = true;
                let (segment, capability) = (flight.work.segment_id(), flight.work.capability());
                let Some(rail) = link.ups().next() else { return Advance::Later };
                *question += 1;
                let (ask, generation) = (Ask::Key { id: *question, segment, capability }, rail.generation);
                rail.ask(&ask);
                link.questions.insert(*question, key);
                link.keys.insert(key, Known::Asked { generation });
                return Advance::Later;
            }
        };
        if let Op::Notify(number) = flight.work.op {
            return match no_notices(ports).or_else(|| link.takes_no_notices()) {
                Some(cause) => self.finish(id, Err(cause), done),
                None => self.tell(peer, id, number),
            };
        }
        if flight.todo.is_none() {
            if let Err(outside) = check_bounds(&flight.work.extents, grant.size) {
                return self.finish(id, Err(outside), done);
            }
            flight.todo = Some(Todo::default());
        }
        let limits = Limits { slice: devices.settings().slice, piece: grant.piece, parts: parts_for(ports) };
        let Some(staging) = staging else { return Advance::Done };
        post_slices(id, flight, &mut link.slots, grant, Means { ports, buffers, staging, limits })
    }

    /// Posts the chains of a peer, each with one doorbell, and ends the rails that broke.
    pub(super) fn ring(&mut self, peer: usize, done: &mut Vec<Completion>) {
        let mut broken = Vec::new();
        for rail in self.links[peer].slots.iter_mut().filter_map(Slot::rail) {
            let generation = rail.generation;
            broken.extend(rail.broken.iter().map(|failure| (generation, failure.clone())));
            while let Some(place) = rail.unload() {
                let posted = post_chain(rail, place, &mut self.ports, self.staging.as_ref());
                broken.extend(posted.err().map(|failure| (generation, failure)));
            }
        }
        for (generation, failure) in broken {
            self.lose(generation, failure, true, done);
        }
    }
}

#[cfg(test)]
mod tests;

//! The flow of slices out: from waiting work onto the queue pairs of the best rail, one doorbell for many.

use super::TALLIES;
use super::cut::{Limits, PARTS, Todo, Way};
use super::link::{Known, Slot};
use super::ports::{no_notices, parts_for};
use super::rail::Rail;
use super::sending::{Number, Sending};
use super::sys::{Local, Verb, WorkRequest};
use super::transport::{Advance, Flight, RdmaTransport};
use super::wire::{Ask, Grant};
use crate::fault::{Failure, TransferErrorKind};
use crate::request::Op;
use crate::segment::check_bounds;
use crate::transport::Completion;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// A queue pair gets so many bytes before the next one has its turn: few enough to spread large work, enough for one doorbell to move much.
const TURN_MIN: u64 = 1 << 20;
const TURN_MAX: u64 = 4 << 20;

/// The least is the rail to take: the one that is being filled, for one doorbell; else the nearest, unless more waits there already.
fn rank(filled: bool, backlog: u64, len: u64, distance: u32) -> (bool, u64) {
    (!filled, (backlog + len).saturating_mul(u64::from(distance)))
}

impl RdmaTransport {
    /// Posts what waits for a peer, as far as there is room; connects its rails when they are due.
    pub(super) fn pump(&mut self, peer: usize, done: &mut Vec<Completion>) {
        self.revive(peer);
        if !self.links[peer].hopeful() {
            return self.give_up(peer, done);
        }
        while let Some(&id) = self.links[peer].waiting.front() {
            match self.advance(peer, id, done) {
                Advance::Done => {
                    self.links[peer].waiting.pop_front();
                    if let Some(flight) = self.flights.get_mut(&id) {
                        flight.waits = false;
                    }
                }
                Advance::Later => {
                    // Its keys are asked for; what stands behind it need not wait for them.
                    self.pass(peer, id, done);
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
    fn pass(&mut self, peer: usize, id: u64, done: &mut Vec<Completion>) {
        let others: Vec<u64> = self.links[peer].waiting.iter().copied().filter(|&other| other != id).collect();
        let mut left = vec![id];
        for (i, &other) in others.iter().enumerate() {
            match self.advance(peer, other, done) {
                Advance::Done => {
                    if let Some(flight) = self.flights.get_mut(&other) {
                        flight.waits = false;
                    }
                }
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

    /// Brings one piece of work as far as it can go. Ends no rail, as that puts work in front of what waits, which callers are going through.
    fn advance(&mut self, peer: usize, id: u64, done: &mut Vec<Completion>) -> Advance {
        let Self { flights, links, question, ports, .. } = self;
        let Some(flight) = flights.get_mut(&id) else { return Advance::Done };
        let link = &mut links[peer];
        if let Err(late) = flight.work.in_time() {
            // What is under way is taken back by the lane, which sees the same clock.
            return if flight.outstanding == 0 { self.finish(id, Err(late), done) } else { Advance::Done };
        }
        let key = (flight.work.segment_id(), flight.work.capability().0);
        let grant = match link.keys.get(&key) {
            Some(Known::Granted(grant)) => Arc::clone(grant),
            Some(Known::Asked { .. }) => return Advance::Later,
            None => {
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
        self.post_slices(peer, id, &grant)
    }

    /// Puts slices into the chains of queue pairs with room.
    fn post_slices(&mut self, peer: usize, id: u64, grant: &Grant) -> Advance {
        let Self { flights, links, buffers, devices, staging, ports, .. } = self;
        let (Some(flight), Some(staging)) = (flights.get_mut(&id), staging.as_mut()) else { return Advance::Done };
        let Flight { work, todo: Some(todo), outstanding, .. } = flight else { return Advance::Done };
        let rails = links[peer].ups().count().max(1) as u64;
        let turn = (work.bytes / rails).clamp(TURN_MIN, TURN_MAX);
        let limits = Limits { slice: devices.settings().slice, piece: grant.piece, parts: parts_for(ports) };
        while let Some(slice) = todo.next(work, buffers, limits) {
            let with_room = links[peer].slots.iter_mut().filter_map(|slot| match slot {
                Slot::Up(rail) if ports[rail.device].has_room() && rail.sendings.iter().any(Sending::has_room) => Some(&mut **rail),
                _ => None,
            });
            let by = |rail: &&mut Rail| rank(rail.is_filled(), rail.backlog(), slice.len, ports[rail.device].distance);
            let Some(rail) = with_room.min_by_key(by) else {
                todo.give_back(slice);
                return Advance::Full;
            };
            let inline = work.op == Op::Write && slice.len <= rail.inline;
            let stretch = if slice.way == Way::Staged && !inline {
                let Some(stretch) = staging.take(slice.len) else {
                    todo.give_back(slice);
                    return Advance::Full;
                };
                if work.op == Op::Write {
                    staging.copy(&stretch, work, slice.local());
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
                for part in slice.local() {
                    local[used] = Local { base: part.base, len: part.len as u32, key: buffers.key(device, part.base).unwrap_or(0) };
                    used += 1;
                }
            }
            let place = rail.take_turn(slice.len, turn);
            let generation = rail.generation;
            let sending = &mut rail.sendings[place];
            let op = if work.op == Op::Read { Verb::Read } else { Verb::Write };
            let (sequence, signaled) = sending.record(op, Some(id), Some(slice), stretch);
            let request = WorkRequest {
                id: Number { generation, place, sequence }.id(),
                op,
                remote: grant.base + slice.offset,
                key: remote_key,
                signaled,
            };
            if inline {
                sending.chain.push_inline_work(request, work, slice.from, slice.len as u32);
            } else {
                sending.chain.push(request, &local[..used]);
            }
            ports[device].outstanding += 1;
            *outstanding += 1;
        }
        Advance::Done
    }

    /// Posts the chains of a peer, each with one doorbell, and ends the rails that broke.
    pub(super) fn ring(&mut self, peer: usize, done: &mut Vec<Completion>) {
        let mut broken = Vec::new();
        for rail in self.links[peer].slots.iter_mut().filter_map(Slot::rail) {
            let generation = rail.generation;
            broken.extend(rail.broken.clone().map(|failure| (generation, failure)));
            for (place, sending) in rail.sendings.iter_mut().enumerate().filter(|(_, sending)| !sending.chain.is_empty()) {
                let proof = sending.prove(self.staging.as_ref(), rail.device, |sequence| Number { generation, place, sequence }.id());
                self.ports[rail.device].outstanding += usize::from(proof);
                sending.speak();
                if let Err(refused) = sending.queue.post(&mut sending.chain) {
                    let cause = format!("the device took no more work: {}", refused.cause);
                    broken.push((generation, Failure::new(TransferErrorKind::PeerUnreachable, cause)));
                }
            }
        }
        for (generation, failure) in broken {
            self.lose(generation, failure, true, done);
        }
    }
}

#[cfg(test)]
mod tests;

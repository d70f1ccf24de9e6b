//! The flow of slices: onto queue pairs, back as completions, and from a rail that broke to the others.

use super::TALLIES;
use super::cut::{Limits, PARTS, Way, cut};
use super::link::{Known, PAUSE, Slot};
use super::ports::{no_notices, parts_for};
use super::rail::{self, Rail, Sending, Sent};
use super::sys::{Completed, Local, Status, Verb, WorkRequest};
use super::transport::{Advance, Flight, News, RdmaTransport};
use super::wire::{Ask, Grant, Tell};
use crate::fault::{Failure, TransferErrorKind};
use crate::request::Op;
use crate::segment::check_bounds;
use crate::transport::Completion;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Instant;

/// A queue pair gets so many bytes before the next one has its turn: few enough to spread large work, enough for one doorbell to move much.
const TURN_MIN: u64 = 1 << 20;
const TURN_MAX: u64 = 4 << 20;
/// So many rails may break under a piece of work before it is given up.
const BROKEN_MAX: u32 = 8;
/// So often the peer's device may refuse a key the peer has just given.
const REFUSED_MAX: u32 = 2;

pub(super) fn number(generation: u32, sending: usize, sequence: u32) -> u64 {
    u64::from(generation) << 40 | (sending as u64) << 32 | u64::from(sequence)
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
                    if !self.pass(peer, id, done) {
                        break;
                    }
                }
                Advance::Full => break,
            }
        }
        self.ring(peer, done);
    }

    /// Lets the work behind one that waits for its keys go first. False when there is none that can.
    fn pass(&mut self, peer: usize, id: u64, done: &mut Vec<Completion>) -> bool {
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
                    left.extend(&others[i..]);
                    break;
                }
            }
        }
        self.links[peer].waiting = left.into();
        false
    }

    /// Brings one piece of work as far as it can go.
    fn advance(&mut self, peer: usize, id: u64, done: &mut Vec<Completion>) -> Advance {
        let Self { flights, links, buffers, question, devices, ports, .. } = self;
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
                let asked = rail.ask(&ask);
                link.questions.insert(*question, key);
                link.keys.insert(key, Known::Asked { generation });
                if let Err(failure) = asked {
                    self.lose(generation, failure, true, done);
                }
                return Advance::Later;
            }
        };
        if let Op::Notify(number) = flight.work.op {
            return match no_notices(ports) {
                Some(cause) => self.finish(id, Err(cause), done),
                None => self.tell(peer, id, number),
            };
        }
        if flight.todo.is_none() {
            if let Err(outside) = check_bounds(&flight.work.extents, grant.size) {
                return self.finish(id, Err(outside), done);
            }
            let inline = link.ups().next().map_or(0, |rail| rail.sendings.iter().map(|s| s.queue.capacity().inline).min().unwrap_or(0));
            let (slice, parts) = (devices.settings().slice, parts_for(ports));
            let limits = Limits { slice, inline: u64::from(inline), piece: grant.piece.max(1), parts };
            flight.todo = Some(cut(&flight.work, buffers, limits));
        }
        self.post_slices(peer, id, &grant)
    }

    /// Puts slices into the chains of queue pairs with room.
    fn post_slices(&mut self, peer: usize, id: u64, grant: &Grant) -> Advance {
        let Self { flights, links, buffers, staging, ports, .. } = self;
        let (Some(flight), Some(staging)) = (flights.get_mut(&id), staging.as_mut()) else { return Advance::Done };
        let Flight { work, todo: Some(todo), outstanding, .. } = flight else { return Advance::Done };
        let rails = links[peer].ups().count().max(1) as u64;
        let turn = (work.bytes / rails).clamp(TURN_MIN, TURN_MAX);
        while let Some(slice) = todo.front().copied() {
            let with_room = links[peer].slots.iter_mut().filter_map(|slot| match slot {
                Slot::Up(rail) if ports[rail.device].has_room() && rail.sendings.iter().any(Sending::has_room) => Some(rail),
                _ => None,
            });
            // The nearest rail, unless more waits there already.
            let Some(rail) = with_room.min_by_key(|rail| (rail.turn.1 == 0, rail.backlog() * u64::from(ports[rail.device].distance)))
            else {
                return Advance::Full;
            };
            let stretch = if slice.way == Way::Staged {
                let Some(stretch) = staging.take(slice.len) else { return Advance::Full };
                if work.op == Op::Write {
                    staging.copy(&stretch, work, slice.local());
                }
                TALLIES.staged_bytes.fetch_add(slice.len, Relaxed);
                Some(stretch)
            } else {
                None
            };
            let device = rail.device;
            let piece = (slice.offset / grant.piece.max(1)) as usize;
            let remote_key = grant.keys.get(rail.remote).and_then(|keys| keys.get(piece)).copied().unwrap_or(0);
            let mut local = [Local { base: 0, len: 0, key: 0 }; PARTS];
            let mut used = 0;
            if let Some(stretch) = &stretch {
                let (base, key) = staging.place(stretch, device);
                (local[0], used) = (Local { base, len: slice.len as u32, key }, 1);
            } else {
                for part in slice.local() {
                    local[used] = Local { base: part.base, len: part.len as u32, key: buffers.key(device, part.base).unwrap_or(0) };
                    used += 1;
                }
            }
            let place = rail.take_turn(slice.len, turn);
            let generation = rail.generation;
            let sending = &mut rail.sendings[place];
            let (sequence, signaled) = sending.record(Some(id), Some(slice), stretch, false);
            let op = if work.op == Op::Read { Verb::Read } else { Verb::Write };
            let request =
                WorkRequest { id: number(generation, place, sequence), op, remote: grant.base + slice.offset, key: remote_key, signaled };
            if slice.way == Way::Inline {
                sending.chain.push_inline_work(request, work, slice.from, slice.len as u32);
            } else {
                sending.chain.push(request, &local[..used]);
            }
            ports[device].outstanding += 1;
            *outstanding += 1;
            todo.pop_front();
        }
        Advance::Done
    }

    /// Posts the chains of a peer, each with one doorbell.
    fn ring(&mut self, peer: usize, done: &mut Vec<Completion>) {
        let mut broken = Vec::new();
        for rail in self.links[peer].slots.iter_mut().filter_map(Slot::rail) {
            let generation = rail.generation;
            for (place, sending) in rail.sendings.iter_mut().enumerate().filter(|(_, sending)| !sending.chain.is_empty()) {
                let proof = sending.prove(self.staging.as_ref(), rail.device, |sequence| number(generation, place, sequence));
                self.ports[rail.device].outstanding += usize::from(proof);
                sending.speak();
                if let Err(refused) = sending.queue.post(&mut sending.chain) {
                    broken.push((generation, refused.cause));
                }
            }
        }
        for (generation, cause) in broken {
            let failure = Failure::new(TransferErrorKind::PeerUnreachable, format!("the device took no more work: {cause}"));
            self.lose(generation, failure, true, done);
        }
    }

    /// What a completion queue said.
    pub(super) fn complete(&mut self, completed: Completed, done: &mut Vec<Completion>) {
        let (generation, place, sequence) = ((completed.id >> 40) as u32, (completed.id >> 32) as u8 as usize, completed.id as u32);
        let Some(&(peer, slot)) = self.rails.get(&generation) else { return };
        let failed = completed.status != Status::Success;
        // All before a request that failed succeeded, or they would have come first. On iWARP nothing is known of them.
        let until = if failed { sequence.wrapping_sub(1) } else { sequence };
        let known = !failed || !self.ports[slot].device.iwarp;
        let settle = |rail: &mut Rail| rail.sendings.get_mut(place).filter(|_| known)?.settle(until);
        while let Some(sent) = self.links[peer].slots[slot].rail().and_then(settle) {
            let device = self.links[peer].slots[slot].rail().map_or(0, |rail| rail.device);
            self.ports[device].outstanding -= 1;
            self.settled(sent, done);
        }
        if failed {
            let blamed = self.links[peer].slots[slot].rail().and_then(|rail| rail.sendings.get(place)?.work_of(sequence));
            return self.broke(generation, blamed, completed.status, done);
        }
        if let slot @ Slot::Probing(_) = &mut self.links[peer].slots[slot] {
            let probed = slot.rail().is_some_and(|rail| rail.sendings.iter().all(|sending| sending.outstanding() == 0));
            if probed {
                let before = std::mem::replace(slot, Slot::Connecting);
                if let Slot::Probing(rail) = before {
                    *slot = Slot::Up(rail);
                }
                self.links[peer].known = true;
                self.retell(peer);
                TALLIES.rails_connected.fetch_add(1, Relaxed);
            }
        }
        if !self.links[peer].waiting.is_empty() {
            self.pump(peer, done);
        }
    }

    /// A slice or a notice arrived.
    fn settled(&mut self, sent: Sent, done: &mut Vec<Completion>) {
        let Sent { work, slice, stretch, .. } = sent;
        let flight = work.and_then(|id| self.flights.get_mut(&id));
        if let (Some(stretch), Some(staging)) = (stretch, &mut self.staging) {
            // Work that was taken back meanwhile gets no bytes any more.
            if let (Some(flight), Some(slice)) = (&flight, &slice)
                && flight.work.op == Op::Read
            {
                staging.copy(&stretch, &flight.work, slice.local());
            }
            staging.give(stretch);
        }
        if let Some(flight) = flight {
            flight.outstanding -= 1;
            if flight.outstanding == 0 && flight.todo.as_ref().is_some_and(|todo| todo.is_empty()) {
                let id = flight.work.id;
                let _ = self.finish(id, Ok(()), done);
            }
        }
    }

    fn finish(&mut self, id: u64, outcome: Result<(), Failure>, done: &mut Vec<Completion>) -> Advance {
        done.extend(self.flights.remove(&id).map(|flight| Completion { work: flight.work, outcome }));
        Advance::Done
    }

    /// A queue pair went to error: its rail is replaced, and what was on it goes elsewhere.
    fn broke(&mut self, generation: u32, blamed: Option<u64>, status: Status, done: &mut Vec<Completion>) {
        let Some(&(peer, _)) = self.rails.get(&generation) else { return };
        let cause = format!("{status} at {}", self.links[peer].address);
        let mut of_path = true;
        if let Some(flight) = blamed.and_then(|id| self.flights.get_mut(&id)) {
            match status {
                Status::RemoteAccess | Status::RemoteInvalid | Status::RemoteOperation => {
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
            && self.flights.get(&id).is_some_and(|flight| flight.refused > REFUSED_MAX)
        {
            let _ = self.finish(id, Err(Failure::new(TransferErrorKind::Failed, cause)), done);
        }
    }

    /// Ends a rail. Its queue pairs are destroyed here, so after this no buffer is touched by them; what they had not done is posted again.
    pub(super) fn lose(&mut self, generation: u32, cause: Failure, of_path: bool, done: &mut Vec<Completion>) {
        let Some((peer, slot)) = self.end(generation, cause, of_path) else { return };
        tracing::debug!(peer = %self.links[peer].address, slot, "an RDMA rail was lost");
        let worn: Vec<u64> =
            self.links[peer].waiting.iter().copied().filter(|id| self.flights.get(id).is_some_and(|f| f.broken > BROKEN_MAX)).collect();
        for id in worn {
            let failure =
                self.links[peer].cause().unwrap_or_else(|| Failure::new(TransferErrorKind::PeerGone, "its rails broke again and again"));
            let _ = self.finish(id, Err(failure), done);
        }
        self.pump(peer, done);
    }

    fn end(&mut self, generation: u32, cause: Failure, of_path: bool) -> Option<(usize, usize)> {
        let (peer, slot) = self.rails.remove(&generation)?;
        let now = Instant::now();
        let probing = matches!(self.links[peer].slots[slot], Slot::Probing(_));
        // One that carried bytes is connected again at once, one that never did after a while.
        let retry = if probing { now + PAUSE } else { now };
        let down = Slot::Down { cause: Some(cause), retry };
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
        self.ports[device].outstanding -= left.len();
        self.retell(peer);
        let link = &mut self.links[peer];
        // An iWARP peer breaks the connection over a key that is worthless, and does not say which.
        let iwarp = self.ports[device].device.iwarp;
        link.keys.retain(|_, known| matches!(known, Known::Asked { generation: of } if *of != generation) || known.is_granted() && !iwarp);
        for Sent { work, slice, stretch, .. } in left.into_iter().rev() {
            if let (Some(stretch), Some(staging)) = (stretch, &mut self.staging) {
                staging.give(stretch);
            }
            if let (Some(flight), Some(slice)) = (work.and_then(|id| self.flights.get_mut(&id)), slice) {
                flight.outstanding -= 1;
                flight.broken += u32::from(of_path && flight.outstanding == 0);
                flight.todo.get_or_insert_default().push_front(slice);
                if !std::mem::replace(&mut flight.waits, true) {
                    link.waiting.push_front(flight.work.id);
                }
            }
        }
        Some((peer, slot))
    }

    /// Ends the rails that may still touch the buffers of a piece of work, or send its bytes. What else was on them is posted again.
    pub(super) fn take_back(&mut self, id: u64) {
        let Some(flight) = self.flights.get(&id) else { return };
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
        if let Some(flight) = self.flights.get_mut(&id) {
            flight.todo = None;
        }
        self.stranded.push(peer);
    }

    /// Starts to connect the rails of a peer that are due.
    fn revive(&mut self, peer: usize) {
        if !self.links[peer].slots.iter().any(|slot| matches!(slot, Slot::Down { .. })) {
            return;
        }
        let now = Instant::now();
        for slot in 0..self.links[peer].slots.len() {
            if !matches!(self.links[peer].slots[slot], Slot::Down { retry, .. } if retry <= now) {
                continue;
            }
            let address = self.links[peer].address.clone();
            let (device, completions) = (Arc::clone(&self.ports[slot].device), Arc::clone(&self.ports[slot].completions));
            let (tell, wake, devices) = (self.tell.clone(), Arc::clone(&self.wake), Arc::clone(&self.devices));
            let started = thread::Builder::new().name("pl-rdma-open".to_owned()).stack_size(128 << 10).spawn(move || {
                let outcome = rail::open(&address, &device, &completions, devices.settings());
                // Nobody listens any more when the engine was closed meanwhile.
                let _ = tell.send(News { peer, slot, outcome });
                wake.fire();
            });
            self.links[peer].slots[slot] = match started {
                Ok(_) => Slot::Connecting,
                Err(e) => {
                    let cause = Failure::new(TransferErrorKind::PeerUnreachable, format!("no thread to connect with: {e}"));
                    Slot::Down { cause: Some(cause), retry: now + PAUSE }
                }
            };
        }
    }

    /// A thread finished connecting a rail.
    pub(super) fn connected(&mut self, news: News, done: &mut Vec<Completion>) {
        let News { peer, slot, outcome } = news;
        match outcome {
            Ok(opened) => {
                self.generation = self.generation % 0xff_ffff + 1;
                let generation = self.generation;
                let mut rail = Box::new(Rail::new(generation, slot, opened));
                let polled = rail.watch(&self.epoll);
                for (place, sending) in rail.sendings.iter_mut().enumerate() {
                    let (sequence, signaled) = sending.record(None, None, None, true);
                    // No bytes: needs no key, and comes back only over a path that works.
                    sending
                        .chain
                        .push(WorkRequest { id: number(generation, place, sequence), op: Verb::Write, remote: 0, key: 0, signaled }, &[]);
                    self.ports[slot].outstanding += 1;
                }
                self.rails.insert(generation, (peer, slot));
                self.links[peer].slots[slot] = Slot::Probing(rail);
                if let Err(e) = polled {
                    let failure = Failure::new(TransferErrorKind::PeerUnreachable, format!("epoll: {e}"));
                    return self.lose(generation, failure, true, done);
                }
                self.ring(peer, done);
            }
            Err(mut cause) => {
                if self.links[peer].known && cause.kind == TransferErrorKind::PeerUnreachable && !self.links[peer].hopeful_beside(slot) {
                    cause.kind = TransferErrorKind::PeerGone;
                }
                self.links[peer].known = false;
                self.links[peer].slots[slot] = Slot::Down { cause: Some(cause), retry: Instant::now() + PAUSE };
                if !self.links[peer].hopeful() {
                    self.give_up(peer, done);
                    // Nothing is known of why: whoever comes next may try at once.
                    for slot in &mut self.links[peer].slots {
                        if let Slot::Down { retry, .. } = slot {
                            *retry = Instant::now();
                        }
                    }
                }
            }
        }
    }

    /// What the peer said over the socket of a rail.
    pub(super) fn hear(&mut self, generation: u32, done: &mut Vec<Completion>) {
        let Some(&(peer, slot)) = self.rails.get(&generation) else { return };
        let Some(rail) = self.links[peer].slots[slot].rail() else { return };
        let heard = match rail.hear() {
            Ok(heard) => heard,
            Err(failure) => return self.lose(generation, failure, true, done),
        };
        for tell in heard {
            match tell {
                Tell::Key { id, grant } => {
                    self.shown(peer, slot, grant.is_ok());
                    let link = &mut self.links[peer];
                    let Some(key) = link.questions.remove(&id) else { continue };
                    match grant {
                        Ok(grant) => drop(link.keys.insert(key, Known::Granted(Arc::new(grant)))),
                        Err(refusal) => {
                            link.keys.remove(&key);
                            self.refuse(peer, key, &refusal.failure(), done);
                        }
                    }
                }
                Tell::Withdrawn { segment } => self.links[peer].keys.retain(|(of, _), _| *of != segment),
                Tell::Credits { count } => self.credit(peer, slot, count),
                Tell::Devices { .. } | Tell::Connected { .. } | Tell::Refused { .. } => {
                    let failure = Failure::new(TransferErrorKind::Failed, "the peer broke the exchange");
                    return self.lose(generation, failure, true, done);
                }
            }
        }
        self.heard(peer, done);
    }

    /// Fails the work that waited for a key its peer refused.
    fn refuse(&mut self, peer: usize, key: super::link::Key, failure: &Failure, done: &mut Vec<Completion>) {
        let of_key = |flight: &Flight| (flight.work.segment_id(), flight.work.capability().0) == key && flight.outstanding == 0;
        let ids: Vec<u64> = self.links[peer].waiting.iter().copied().filter(|id| self.flights.get(id).is_some_and(of_key)).collect();
        for id in ids {
            let _ = self.finish(id, Err(failure.clone()), done);
        }
    }

    /// No rail carries bytes or may soon: everything goes back, for the lane to try another path.
    fn give_up(&mut self, peer: usize, done: &mut Vec<Completion>) {
        self.retell(peer);
        let link = &mut self.links[peer];
        let cause = link.cause().unwrap_or_else(|| Failure::new(TransferErrorKind::PeerUnreachable, "no RDMA device"));
        for id in std::mem::take(&mut link.waiting) {
            let _ = self.finish(id, Err(cause.clone()), done);
        }
    }
}

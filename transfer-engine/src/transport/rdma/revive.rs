//! The rails of a peer: connected when they are due, probed before they carry bytes, and what the peer says over their sockets.

use super::TALLIES;
use super::link::{Key, Known, PAUSE, Slot};
use super::open::{self, NotOpened};
use super::rail::Rail;
use super::sending::Number;
use super::sys::{Verb, WorkRequest};
use super::transport::{Flight, News, RdmaTransport};
use super::wire::{Refusal, Scratch, Tell};
use crate::fault::{Failure, TransferErrorKind};
use crate::transport::Completion;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Instant;

impl RdmaTransport {
    /// Starts to connect the rails of a peer that are due, and takes note of when the others are.
    pub(super) fn revive(&mut self, peer: usize, now: Instant) {
        for slot in 0..self.links[peer].slots.len() {
            match self.links[peer].slots[slot] {
                Slot::Down { retry: Some(retry), .. } if retry > now => self.remember(retry),
                Slot::Down { .. } => match self.ports[slot].dark(now) {
                    None => self.connect_rail(peer, slot),
                    Some((cause, again)) => {
                        self.links[peer].slots[slot] = Slot::Down { cause: Some(cause), retry: Some(again) };
                        self.remember(again);
                    }
                },
                Slot::Connecting | Slot::Probing(_) | Slot::Up(_) => {}
            }
        }
    }

    /// A rail may be tried again then.
    fn remember(&mut self, retry: Instant) {
        self.retry = Some(self.retry.map_or(retry, |at| at.min(retry)));
    }

    /// Once a rail may be tried again: the peers that have work get theirs. The others are not probed, only when something is asked of them.
    pub(super) fn revive_due(&mut self) {
        let now = Instant::now();
        if self.retry.is_some_and(|at| at <= now) {
            self.retry = None;
            let peers: BTreeSet<usize> = self.flights.iter().map(|(_, flight)| flight.peer).collect();
            peers.into_iter().for_each(|peer| self.revive(peer, now));
        }
    }

    fn connect_rail(&mut self, peer: usize, slot: usize) {
        let address = self.links[peer].address.clone();
        let turn = (slot, self.links[peer].failures[slot]);
        let (device, completions) = (Arc::clone(&self.ports[slot].device), Arc::clone(&self.ports[slot].completions));
        let (tell, wake, devices) = (self.tell.clone(), Arc::clone(&self.wake), Arc::clone(&self.devices));
        let started = thread::Builder::new().name("pl-rdma-open".to_owned()).stack_size(128 << 10).spawn(move || {
            let outcome = open::open(&address, &device, &completions, devices.settings(), turn);
            // Nobody listens any more when the engine was closed meanwhile.
            let _ = tell.send(News { peer, slot, outcome });
            wake.fire();
        });
        self.links[peer].slots[slot] = match started {
            Ok(_) => {
                TALLIES.rails_tried.fetch_add(1, Relaxed);
                Slot::Connecting
            }
            Err(e) => {
                let cause = Failure::new(TransferErrorKind::PeerUnreachable, format!("no thread to connect with: {e}"));
                Slot::Down { cause: Some(cause), retry: Some(Instant::now() + PAUSE) }
            }
        };
    }

    /// A thread finished connecting a rail.
    pub(super) fn connected(&mut self, news: News, done: &mut Vec<Completion>) {
        let News { peer, slot, outcome } = news;
        if let Err(NotOpened { chosen: true, .. }) = &outcome {
            self.links[peer].failures[slot] += 1;
        }
        match outcome.map_err(|not| not.cause).and_then(|opened| self.admit(slot, opened)) {
            Ok(opened) => {
                let generation = self.next_generation();
                let (Scratch { base, key }, packet) = opened.scratch;
                let source = self.staging.as_ref().map(|staging| staging.blank(slot, packet));
                let mut rail = Box::new(Rail::new(generation, slot, opened));
                let polled = rail.watch(&self.epoll);
                for place in 0..rail.sendings.len() {
                    // A whole packet, one way or the other, as there are paths that lose only large ones. On iWARP a write would come back at once.
                    let op = if self.ports[slot].device.iwarp || place % 2 == 1 { Verb::Read } else { Verb::Write };
                    let sending = rail.load(place);
                    let (sequence, signaled) = sending.record(op, None, None, None, None);
                    let id = Number { generation, place, sequence }.id();
                    sending.chain.push(WorkRequest { id, op, remote: base, key, signaled }, source.as_slice());
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
                self.links[peer].slots[slot] = Slot::Down { cause: Some(cause), retry: Some(Instant::now() + PAUSE) };
                if !self.links[peer].hopeful() {
                    self.give_up(peer, done);
                } else {
                    self.revive(peer, Instant::now());
                }
            }
        }
    }

    /// One that no rail has.
    fn next_generation(&mut self) -> u32 {
        loop {
            self.generation = self.generation % 0xff_ffff + 1;
            if !self.rails.contains_key(&self.generation) {
                return self.generation;
            }
        }
    }

    /// What the peer said over the socket of a rail.
    pub(super) fn hear(&mut self, generation: u32, done: &mut Vec<Completion>) {
        let Some(&(peer, slot)) = self.rails.get(&generation) else { return };
        let Some(rail) = self.links[peer].slots[slot].rail() else { return };
        let offers = rail.offers;
        let heard = match rail.hear() {
            Ok(heard) => heard,
            Err(failure) => return self.lose(generation, failure, true, done),
        };
        for tell in heard {
            match tell {
                Tell::Key { id, grant } => {
                    let grant = grant.map_err(Refusal::failure).and_then(|grant| match grant.flaw(offers) {
                        None => Ok(grant),
                        Some(flaw) => Err(Failure::new(TransferErrorKind::Failed, format!("the peer grants what cannot be: {flaw}"))),
                    });
                    self.shown(peer, slot, grant.is_ok());
                    let link = &mut self.links[peer];
                    let Some(key) = link.questions.remove(&id) else { continue };
                    match grant {
                        Ok(grant) => drop(link.keys.insert(key, Known::Granted(grant))),
                        Err(failure) => {
                            link.keys.remove(&key);
                            self.refuse(peer, key, &failure, done);
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
    fn refuse(&mut self, peer: usize, key: Key, failure: &Failure, done: &mut Vec<Completion>) {
        let of_key = |flight: &Flight| (flight.work.segment_id(), flight.work.capability().0) == key && flight.outstanding == 0;
        let ids: Vec<u64> = self.links[peer].waiting.iter().copied().filter(|&id| self.flights.get(id).is_some_and(of_key)).collect();
        for id in ids {
            let _ = self.finish(id, Err(failure.clone()), done);
        }
    }

    /// No rail carries bytes or may soon: everything goes back, for the lane to try another path.
    pub(super) fn give_up(&mut self, peer: usize, done: &mut Vec<Completion>) {
        self.retell(peer);
        let link = &mut self.links[peer];
        let cause = link.cause().unwrap_or_else(|| Failure::new(TransferErrorKind::PeerUnreachable, "no RDMA device"));
        link.missed = Some(cause.clone());
        for id in std::mem::take(&mut link.waiting) {
            let _ = self.finish(id, Err(cause.clone()), done);
        }
    }

    /// Where nothing got through last time, work that has another path takes it at once: else each piece would pay for finding it out again.
    /// What has none may try at once.
    pub(super) fn pass_by(&mut self, peer: usize, done: &mut Vec<Completion>) {
        let Some(cause) = self.links[peer].missed.clone() else { return };
        let others = |id: &u64| self.flights.get(*id).is_some_and(|flight| flight.outstanding == 0 && flight.work.has_other_path());
        let passing: Vec<u64> = self.links[peer].waiting.iter().copied().filter(others).collect();
        for id in passing {
            let _ = self.finish(id, Err(cause.clone()), done);
        }
        let link = &mut self.links[peer];
        let stays = link.waiting.iter().any(|id| self.flights.get(*id).is_some());
        if stays && !link.hopeful() {
            link.slots.iter_mut().for_each(|slot| {
                if let Slot::Down { retry, .. } = slot {
                    *retry = None;
                }
            });
        }
    }
}

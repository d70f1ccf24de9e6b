//! Notices that arrive: receives for them, whose they are, and the credits that keep both the receives and the queue from overflowing.
//!
//! A credit given out has a receive on its device and a promised place in the mailbox, so an honest peer never meets a receiver that is not
//! ready. Half of the places are standing credits: each connection is told of a few when it is made, and gets used ones back by itself. A
//! peer that came too late for any, or wants more, asks; that is served from the other half, in turn, and who asks uses or returns it. So a
//! crowd of silent peers cannot keep a new one from being heard, at the price of a round trip for each of its notices. A peer that keeps what
//! it asked for and uses none of it, while others wait, is disconnected: a process that was stopped, or one that fell asleep before it could
//! return them.

use crate::notice::Mailbox;
use crate::transport::rdma::notify::WISH_MAX;
use crate::transport::rdma::serve::connect::Station;
use crate::transport::rdma::sys::{Completed, Status};
use crate::transport::rdma::wire::End;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Standing credits of a connection, where there are some left.
const STANDING: u32 = 8;
/// Standing credits of all connections together.
const STANDING_MAX: u32 = (crate::notice::PLACES / 2) as u32;

/// So long a connection may keep credits it asked for, and use none of its own, while others wait for some.
pub(super) const KEEP_MAX: Duration = Duration::from_secs(2);

/// What a connection may send. Its credits are given out, on their way back as notices, or returned.
#[derive(Default)]
pub(super) struct Purse {
    device: usize,
    /// The numbers of its queue pairs.
    ends: Vec<u32>,
    /// It showed the capability of a segment.
    pub(super) trusted: bool,
    /// Credits it may hold without a wish.
    pub(super) standing: u32,
    /// Credits it holds.
    held: u32,
    /// Further credits it asked for.
    pub(super) wanted: u32,
    /// Given back since the desk looked.
    pub(super) returned: u32,
    /// Since when it holds more than the standing ones, and has used and returned none.
    idle_since: Option<Instant>,
}

impl Purse {
    pub(super) fn holds(&self, count: u32) -> bool {
        count <= self.held.saturating_sub(self.returned)
    }

    fn hold(&mut self, held: u32) {
        let since = self.idle_since.filter(|_| held >= self.held);
        self.held = held;
        self.idle_since = (held > self.standing).then(|| since.unwrap_or_else(Instant::now));
    }

    /// Credits it should get now. Those it used come back when half of the standing ones are gone, not one by one.
    fn due(&self) -> u32 {
        let used = self.standing.saturating_sub(self.held);
        let used = if used >= self.standing.div_ceil(2) { used } else { 0 };
        // Who hoards gets no more.
        self.wanted.min((self.standing + WISH_MAX).saturating_sub(self.held)).max(used)
    }
}

/// Where notices of all devices come in.
pub(super) struct Desk {
    mailbox: Arc<Mailbox>,
    stations: Vec<Arc<Station>>,
    /// Of each device, the credits that can still be given out: its receives without those that are.
    left: Vec<u32>,
    /// Standing credits of all connections.
    standing: u32,
    /// Whose a queue pair is, by its device and number.
    owners: HashMap<(usize, u32), u64>,
    /// Notices that came, with the connection they came over.
    arrived: VecDeque<(u64, u32)>,
    /// Connections that are due credits, in turn.
    hungry: VecDeque<Hungry>,
}

/// A connection that is due credits.
pub(super) struct Hungry {
    pub(super) number: u64,
    device: usize,
    since: Instant,
}

impl Desk {
    pub(super) fn new(mailbox: Arc<Mailbox>, stations: Vec<Arc<Station>>) -> Self {
        let left = stations.iter().map(|station| station.depth).collect();
        let (owners, arrived, hungry) = (HashMap::new(), VecDeque::new(), VecDeque::new());
        Self { mailbox, stations, left, standing: 0, owners, arrived, hungry }
    }

    /// A connection got queue pairs: its first credits are those it may keep.
    pub(super) fn admit(&mut self, number: u64, device: usize, ends: &[End], purse: &mut Purse) {
        let ends: Vec<u32> = ends.iter().map(|end| end.number).collect();
        self.owners.extend(ends.iter().map(|end| ((device, *end), number)));
        *purse = Purse { device, ends, ..Purse::default() };
        purse.standing = self.give(device, STANDING.min(STANDING_MAX - self.standing));
        purse.held = purse.standing;
        self.standing += purse.standing;
    }

    /// Takes what the device has received; the receives are posted again at once, as the credits count what may come.
    pub(super) fn collect(&mut self, device: usize) {
        let Some(station) = self.stations.get(device) else { return };
        station.channel.take();
        // Armed first: what comes while the queue is emptied raises another event.
        let armed = station.completions.arm();
        let mut taken: Vec<Completed> = Vec::new();
        while station.completions.poll(&mut taken) > 0 {}
        for completed in &taken {
            let owner = self.owners.get(&(device, completed.queue_pair));
            if let (Status::Success, Some(value), Some(owner)) = (completed.status, completed.immediate, owner) {
                self.arrived.push_back((*owner, value));
            }
        }
        if let Err(cause) = armed.and_then(|()| station.receives.iter().try_for_each(|receives| receives.post(taken.len() as u32))) {
            tracing::error!(device, "RDMA: notices can no longer be received: {cause}");
        }
    }

    /// The next notice that came.
    pub(super) fn next(&mut self) -> Option<(u64, u32)> {
        self.arrived.pop_front()
    }

    /// Takes a notice in. Refuses one for which its peer had no credit or no right; the connection must be closed then.
    pub(super) fn take(&mut self, number: u64, value: u32, purse: &mut Purse) -> Result<(), String> {
        if !purse.trusted || purse.held == 0 {
            return Err("it sent a notice without having shown a capability, or without a credit".to_owned());
        }
        purse.hold(purse.held - 1);
        self.left[purse.device] += 1;
        self.mailbox.keep(value);
        self.look_at(number, purse);
        Ok(())
    }

    /// Notes what a connection gave back, and that it is due some.
    pub(super) fn look_at(&mut self, number: u64, purse: &mut Purse) {
        let returned = std::mem::take(&mut purse.returned).min(purse.held);
        purse.hold(purse.held - returned);
        self.take_back(purse.device, returned);
        if purse.due() == 0 {
            self.hungry.retain(|hungry| hungry.number != number);
        } else if self.hungry.iter().all(|hungry| hungry.number != number) {
            self.hungry.push_back(Hungry { number, device: purse.device, since: Instant::now() });
        }
    }

    /// Whether somebody waits for credits.
    pub(super) fn short(&self) -> bool {
        !self.hungry.is_empty()
    }

    /// Whether a connection keeps from others what it asked for: credits it does not use, for one who has waited as long.
    pub(super) fn hoards(&self, number: u64, purse: &Purse, now: Instant) -> bool {
        let Some(idle) = purse.idle_since else { return false };
        // Who waits for a receive of another device is helped by nothing that comes back here.
        let waits = |hungry: &Hungry| hungry.number != number && (hungry.device == purse.device || self.left[hungry.device] > 0);
        let late = |since: Instant| now.saturating_duration_since(since) >= KEEP_MAX;
        late(idle) && self.hungry.iter().any(|hungry| waits(hungry) && late(hungry.since))
    }

    /// Whose turn it is to get credits, among those whose device has any. A connection that is gone is passed over.
    pub(super) fn hungry(&mut self) -> Option<Hungry> {
        let at = self.hungry.iter().position(|hungry| self.left[hungry.device] > 0)?;
        self.hungry.remove(at)
    }

    /// Gives a connection what it is due, as far as there is room, and says how much. `None` when the queue has none: it stays first in turn.
    pub(super) fn feed(&mut self, hungry: Hungry, purse: &mut Purse) -> Option<u32> {
        let due = purse.due();
        if due == 0 {
            return Some(0);
        }
        let count = self.give(purse.device, due);
        if count == 0 {
            self.hungry.push_front(hungry);
            return None;
        }
        purse.hold(purse.held + count);
        purse.wanted = purse.wanted.saturating_sub(count);
        if purse.due() > 0 {
            self.hungry.push_back(Hungry { since: Instant::now(), ..hungry });
        }
        Some(count)
    }

    /// A connection ends, its queue pairs have failed. What it sent before is taken in, the rest of its credits is for others.
    pub(super) fn leave(&mut self, number: u64, purse: &mut Purse) {
        if purse.ends.is_empty() {
            return;
        }
        self.collect(purse.device);
        let (own, others) = std::mem::take(&mut self.arrived).into_iter().partition::<VecDeque<_>, _>(|(owner, _)| *owner == number);
        self.arrived = others;
        for (_, value) in own {
            if let Err(cause) = self.take(number, value, purse) {
                tracing::debug!(number, "a notice was dropped: {cause}");
            }
        }
        self.hungry.retain(|hungry| hungry.number != number);
        for end in &purse.ends {
            self.owners.remove(&(purse.device, *end));
        }
        self.standing -= purse.standing;
        self.take_back(purse.device, purse.held);
        purse.held = 0;
    }

    fn give(&mut self, device: usize, count: u32) -> u32 {
        let count = self.mailbox.promise(count.min(self.left[device]) as usize) as u32;
        self.left[device] -= count;
        count
    }

    fn take_back(&mut self, device: usize, count: u32) {
        if count > 0 {
            self.left[device] += count;
            self.mailbox.give_back(count as usize);
        }
    }
}

#[cfg(test)]
mod tests;

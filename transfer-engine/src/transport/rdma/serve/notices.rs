//! Notices that arrive: receives for them, whose they are, and the credits that keep both the receives and the queue from overflowing.
//!
//! A credit given out has a receive on its device and a promised place in the mailbox, so an honest peer never meets a receiver that is not
//! ready. Half of the places are standing credits: each connection is told of a few when it is made, and gets used ones back by itself. A
//! peer that came too late for any, or wants more, asks; that is served from the other half, in turn, and who asks uses or returns it. So a
//! crowd of silent peers cannot keep a new one from being heard, at the price of a round trip for each of its notices. A peer that keeps what
//! it asked for, while others wait, is disconnected: a process that was stopped, or one that fell asleep before it could return them.

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

/// So long a connection may keep credits it asked for while others wait for some.
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
    /// Since when it holds more than the standing ones.
    more_since: Option<Instant>,
}

impl Purse {
    pub(super) fn holds(&self, count: u32) -> bool {
        count <= self.held.saturating_sub(self.returned)
    }

    /// Whether it keeps from others what it asked for.
    pub(super) fn hoards(&self) -> bool {
        self.more_since.is_some_and(|since| since.elapsed() >= KEEP_MAX)
    }

    fn hold(&mut self, held: u32) {
        self.held = held;
        self.more_since = if held > self.standing { self.more_since.or_else(|| Some(Instant::now())) } else { None };
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
    hungry: VecDeque<u64>,
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
        if purse.due() > 0 && !self.hungry.contains(&number) {
            self.hungry.push_back(number);
        }
    }

    /// Whether somebody waits for credits.
    pub(super) fn short(&self) -> bool {
        !self.hungry.is_empty()
    }

    /// Whose turn it is to get credits. A connection that is gone is passed over.
    pub(super) fn hungry(&mut self) -> Option<u64> {
        self.hungry.pop_front()
    }

    /// Gives a connection what it is due, as far as there is room, and says how much. `None` when there is none: it stays first in turn.
    pub(super) fn feed(&mut self, number: u64, purse: &mut Purse) -> Option<u32> {
        let due = purse.due();
        if due == 0 {
            return Some(0);
        }
        let count = self.give(purse.device, due);
        if count == 0 {
            self.hungry.push_front(number);
            return None;
        }
        purse.hold(purse.held + count);
        purse.wanted = purse.wanted.saturating_sub(count);
        if purse.due() > 0 {
            self.hungry.push_back(number);
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
mod tests {
    use super::*;
    use crate::notice::{Notices, PLACES};

    fn desk(receives: u32) -> (Desk, Notices) {
        let mailbox = Arc::new(Mailbox::default());
        let notices = Notices::new(Arc::clone(&mailbox));
        (Desk { left: vec![receives], ..Desk::new(mailbox, Vec::new()) }, notices)
    }

    fn admitted(desk: &mut Desk, number: u64) -> Purse {
        let end = End { number: number as u32, psn: 0, gid: [0; 16], lid: 0, mtu: 1024, reads: 1, answers: 1 };
        let mut purse = Purse::default();
        desk.admit(number, 0, &[end], &mut purse);
        Purse { trusted: true, ..purse }
    }

    /// All credits that are due and there, by connection.
    fn fed(desk: &mut Desk, purses: &mut [Purse]) -> Vec<(u64, u32)> {
        let mut all = Vec::new();
        while let Some(number) = desk.hungry() {
            match desk.feed(number, &mut purses[number as usize]) {
                Some(count) => all.push((number, count)),
                None => break,
            }
        }
        all
    }

    #[test]
    fn a_crowd_of_silent_peers_leaves_room_for_one_that_asks() {
        let (mut desk, notices) = desk(PLACES as u32);
        let crowd = u64::from(STANDING_MAX / STANDING);
        let mut purses: Vec<Purse> = (0..crowd + 2).map(|number| admitted(&mut desk, number)).collect();
        let late = crowd as usize;
        assert_eq!((purses[late - 1].standing, purses[late].standing), (STANDING, 0));
        let mut told = 0;
        // It asks, sends, and asks again, until the queue is full.
        loop {
            purses[late].wanted = WISH_MAX;
            desk.look_at(crowd, &mut purses[late]);
            let got: u32 = fed(&mut desk, &mut purses).into_iter().map(|(_, count)| count).sum();
            if got == 0 {
                break;
            }
            for _ in 0..got {
                desk.take(crowd, told, &mut purses[late]).unwrap();
                told += 1;
            }
        }
        assert_eq!(told as usize, PLACES / 2, "all that the others may not use");
        assert!(desk.take(crowd, told, &mut purses[late]).is_err(), "no credit is left");
        // Another one that waits gets its turn with the next places, whoever asked more.
        let other = late + 1;
        purses[other].wanted = 3;
        desk.look_at(crowd + 1, &mut purses[other]);
        (0..20).for_each(|_| assert!(notices.next(Duration::ZERO).is_some()));
        let got = fed(&mut desk, &mut purses);
        assert_eq!(got, [(crowd, 20)]);
        (0..20).for_each(|_| assert!(notices.next(Duration::ZERO).is_some()));
        assert_eq!(fed(&mut desk, &mut purses), [(crowd + 1, 3), (crowd, 12)]);
        // What is returned, or left behind by one that ends, is there for others.
        purses[other].returned = 3;
        desk.look_at(crowd + 1, &mut purses[other]);
        let before = desk.left[0];
        purses.iter_mut().zip(0..).for_each(|(purse, number)| desk.leave(number, purse));
        assert_eq!((desk.standing, desk.left[0]), (0, PLACES as u32));
        assert!(before < PLACES as u32 && desk.owners.is_empty());
        assert_eq!(desk.mailbox.promise(PLACES), PLACES - (told as usize - 40));
    }

    #[test]
    fn no_more_is_given_than_a_device_has_receives_and_a_hoarder_gets_no_more() {
        let (mut desk, _notices) = desk(STANDING + WISH_MAX + 1);
        let mut purses = vec![admitted(&mut desk, 0), admitted(&mut desk, 1)];
        for _ in 0..3 {
            purses[0].wanted = WISH_MAX;
            desk.look_at(0, &mut purses[0]);
            fed(&mut desk, &mut purses);
        }
        assert_eq!((purses[0].held, purses[1].held, desk.left[0]), (STANDING + WISH_MAX - STANDING + 1, STANDING, 0));
        assert!(purses[0].more_since.is_some() && purses[1].more_since.is_none() && !purses[0].hoards());
        purses[0].returned = purses[0].held - STANDING;
        desk.look_at(0, &mut purses[0]);
        assert!(purses[0].more_since.is_none());
        purses[0].hold(STANDING + WISH_MAX);
        assert!(purses[0].holds(WISH_MAX) && !purses[0].holds(WISH_MAX + STANDING + 1));
    }

    #[test]
    fn used_credits_come_back_together_and_only_trust_is_heard() {
        let (mut desk, notices) = desk(PLACES as u32);
        let mut purses = vec![admitted(&mut desk, 0)];
        for value in 0..STANDING {
            desk.take(0, value, &mut purses[0]).unwrap();
            let got = fed(&mut desk, &mut purses);
            assert_eq!(got.is_empty(), (value + 1) % STANDING.div_ceil(2) != 0, "after {value}: {got:?}");
        }
        purses[0].trusted = false;
        assert!(desk.take(0, 99, &mut purses[0]).is_err());
        let all: Vec<u32> = std::iter::from_fn(|| notices.next(Duration::ZERO).map(|notice| notice.number)).collect();
        assert_eq!(all, (0..STANDING).collect::<Vec<_>>());
    }
}

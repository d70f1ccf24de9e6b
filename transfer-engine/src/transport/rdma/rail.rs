//! A rail: queue pairs between one of our devices and one of a peer's, and the TCP connection they live and die with.

use super::open::Opened;
use super::sending::Sending;
use super::sys::Events;
use super::transport::MANAGERS;
use super::wire::{self, Ask, Inbox, Tell};
use crate::fault::{Failure, TransferErrorKind};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A device gives a request up after some two seconds without an acknowledgement. One that does not even that (soft-RoCE tries for ever to
/// send packets larger than the MTU has become) has its rail replaced after so long.
pub(super) const STALL: Duration = Duration::from_secs(5);

/// A rail that is connected.
pub(super) struct Rail {
    /// Names it in the numbers of its work requests, so that what is left of an earlier rail in a completion queue is told apart.
    pub(super) generation: u32,
    pub(super) control: TcpStream,
    pub(super) inbox: Inbox,
    /// Of a rail that the connection manager connected.
    pub(super) events: Option<Arc<Events>>,
    pub(super) sendings: Vec<Sending>,
    /// Those with a chain to post, a bit for each place.
    loaded: u32,
    /// Bytes that a write may carry inside its work request, on each of them.
    pub(super) inline: u64,
    /// Ours, by its place among the devices.
    pub(super) device: usize,
    /// Theirs, by its place in the offer.
    pub(super) remote: usize,
    /// How many devices they offered.
    pub(super) offers: usize,
    /// Theirs takes notices.
    pub(super) notices: bool,
    /// Which queue pair is being filled, and how many bytes of its turn are left.
    pub(super) turn: (usize, u64),
    /// Notices that may be sent, and how many of them may be kept for later.
    pub(super) credits: u32,
    pub(super) standing: u32,
    /// Credits that were asked for; 0 when the peer has answered.
    pub(super) asked: u32,
    /// Why nothing more can be told to the peer: [`RdmaTransport::ring`](super::transport::RdmaTransport::ring) ends such rails.
    pub(super) broken: Option<Failure>,
    /// Whether the peer saw a capability over this rail: only then it takes notices from it.
    pub(super) shown: Shown,
    /// The first request under way on each queue pair, and since when it has been the first.
    pace: Vec<(Option<u32>, Instant)>,
}

/// How far a capability was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    No,
    Asked,
    Yes,
}

impl Rail {
    pub(super) fn new(generation: u32, device: usize, opened: Opened) -> Self {
        let Opened { control, queues, remote, offers, notices, credits, events, unproven, .. } = opened;
        let inline = u64::from(queues.iter().map(|queue| queue.capacity().inline).min().unwrap_or(0));
        let sendings = queues.into_iter().map(|queue| Sending::new(queue, unproven)).collect();
        let (inbox, turn, standing, asked, broken, shown, pace) = (Inbox::default(), (0, 0), credits, 0, None, Shown::No, Vec::new());
        Self {
            generation,
            control,
            inbox,
            events,
            sendings,
            loaded: 0,
            inline,
            device,
            remote,
            offers,
            notices,
            turn,
            credits,
            standing,
            asked,
            broken,
            shown,
            pace,
        }
    }

    /// Whether some request has been under way for [`STALL`] without being acknowledged, as far as one who looks now and then can tell.
    pub(super) fn stalled(&mut self, now: Instant) -> bool {
        self.pace.resize(self.sendings.len(), (None, now));
        self.sendings.iter().zip(&mut self.pace).any(|(sending, (first, since))| {
            let here = sending.first();
            if here.is_none() || here != *first {
                (*first, *since) = (here, now);
            }
            now.duration_since(*since) >= STALL
        })
    }

    /// Has the lane woken when the peer says something, or the connection manager does.
    pub(super) fn watch(&self, epoll: &Epoll) -> nix::Result<()> {
        let event = |of: u64| EpollEvent::new(EpollFlags::EPOLLIN, of + u64::from(self.generation));
        epoll.add(&self.control, event(0))?;
        self.events.iter().try_for_each(|events| epoll.add(&**events, event(MANAGERS)))
    }

    pub(super) fn unwatch(&self, epoll: &Epoll) {
        let _ = epoll.delete(&self.control);
        let _ = self.events.iter().try_for_each(|events| epoll.delete(&**events));
    }

    /// Sends a frame. They are so small that a socket without room for one has a peer that stopped reading. Part of it may have gone out then:
    /// the rail is broken, and nothing follows.
    pub(super) fn ask(&mut self, ask: &Ask) {
        if self.broken.is_none() {
            self.broken = self.control.write_all(&wire::encode(ask)).err().map(|e| gone(&e));
        }
    }

    /// Frames that came.
    pub(super) fn hear(&mut self) -> Result<Vec<Tell>, Failure> {
        self.inbox.fill(&self.control).map_err(|e| gone(&e))?;
        let mut heard = Vec::new();
        while let Some(tell) = self.inbox.next().map_err(|e| gone(&e))? {
            heard.push(tell);
        }
        Ok(heard)
    }

    /// Which queue pair takes the next `len` bytes: the one whose turn it is, else the one with the least under way.
    #[inline(always)]
    pub(super) fn take_turn(&mut self, len: u64, turn: u64) -> usize {
        let (place, left) = self.turn;
        let place = if left > 0 && self.sendings[place].has_room() {
            place
        } else {
            self.turn.1 = turn;
            (0..self.sendings.len()).filter(|&i| self.sendings[i].has_room()).min_by_key(|&i| self.sendings[i].backlog).unwrap_or(place)
        };
        self.turn = (place, self.turn.1.saturating_sub(len.max(1)));
        place
    }

    /// A queue pair that something is put into the chain of.
    pub(super) fn load(&mut self, place: usize) -> &mut Sending {
        self.loaded |= 1 << place;
        &mut self.sendings[place]
    }

    /// The place of the next queue pair with a chain to post.
    pub(super) fn unload(&mut self) -> Option<usize> {
        let place = self.loaded.trailing_zeros();
        self.loaded &= self.loaded.wrapping_sub(1);
        (place < u32::BITS).then_some(place as usize)
    }

    /// Whether its turn is not over and the doorbell not rung.
    pub(super) fn is_filled(&self) -> bool {
        self.turn.1 > 0 && self.loaded != 0
    }

    pub(super) fn backlog(&self) -> u64 {
        self.sendings.iter().map(|sending| sending.backlog).sum()
    }
}

fn gone(cause: &std::io::Error) -> Failure {
    let cause = if cause.kind() == ErrorKind::UnexpectedEof { "the peer closed the connection".to_owned() } else { cause.to_string() };
    Failure::new(TransferErrorKind::PeerGone, cause)
}

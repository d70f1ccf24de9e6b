//! What no completion tells: sockets and channels, rails that stall or are due, and peers that find no room because others hold it.

use super::TALLIES;
use super::link::Slot;
use super::open::Opened;
use super::ports::Port;
use super::rail::{Rail, STALL};
use super::sys::device_is_gone;
use super::transport::{CHANNELS, LOOK, MANAGERS, QUIET, RdmaTransport, WAKE};
use crate::fault::{Failure, TransferErrorKind};
use crate::lane::milliseconds;
use crate::transport::Completion;
use nix::sys::epoll::{EpollEvent, EpollTimeout};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// How long a lane sleeps that no device would wake.
pub(super) const UNARMED: Duration = Duration::from_millis(1);

impl RdmaTransport {
    /// A peer may have gone while there was always something done.
    pub(super) fn look_sometimes(&mut self, done: &mut Vec<Completion>) {
        self.unlooked += 1;
        if self.unlooked > LOOK {
            self.look(Duration::ZERO, done);
        }
    }

    /// The same before something is begun, and when nobody has looked for a while: a rail may be there again, or a key be worthless, which to
    /// use would break its rail.
    pub(super) fn look_first(&mut self, now: Instant, done: &mut Vec<Completion>) {
        if now.saturating_duration_since(self.looked) >= QUIET {
            self.unlooked = LOOK;
        }
        self.look_sometimes(done);
    }

    /// Looks after sockets, channels and connecting threads. Returns after at most `wait`.
    pub(super) fn look(&mut self, wait: Duration, done: &mut Vec<Completion>) {
        let mut events = [EpollEvent::empty(); 32];
        if !wait.is_zero() {
            TALLIES.sleeps.fetch_add(1, Relaxed);
        }
        let count = self.epoll.wait(&mut events, EpollTimeout::from(milliseconds(wait))).unwrap_or(0);
        (self.unlooked, self.looked) = (0, Instant::now());
        for event in &events[..count] {
            match event.data() {
                WAKE => self.wake.clear(),
                channel if channel >= CHANNELS => {
                    let place = (channel - CHANNELS) as usize;
                    if device_is_gone(*event) {
                        self.part_with(place, done);
                    } else if let Some(port) = self.ports.get_mut(place) {
                        port.disarm();
                    }
                }
                manager if manager >= MANAGERS => self.managed(manager as u32, done),
                generation => self.hear(generation as u32, done),
            }
        }
        while let Ok(news) = self.news.try_recv() {
            self.connected(news, done);
        }
        self.revive_due();
        if self.looked.duration_since(self.watched) >= STALL / 5 {
            self.take_completions(done);
            self.watched = self.looked;
            self.end_stalled(self.watched, done);
        }
    }

    /// A device is gone: its rails are ended, as no completion comes of them any more. Others are not begun while its port cannot be asked.
    pub(super) fn part_with(&mut self, place: usize, done: &mut Vec<Completion>) {
        let Some(port) = self.ports.get_mut(place) else { return };
        let _ = self.epoll.delete(port.channel.as_fd());
        port.part();
        let cause = format!("the device {} is gone", port.device.name);
        let of_device = |rail: &mut Rail| (rail.device == place).then_some(rail.generation);
        for generation in self.rails_where(of_device) {
            self.lose(generation, Failure::new(TransferErrorKind::PeerGone, cause.clone()), true, done);
        }
    }

    /// The generations that `of` finds among the rails of all peers.
    fn rails_where(&mut self, of: impl Fn(&mut Rail) -> Option<u32>) -> Vec<u32> {
        self.links.iter_mut().flat_map(|link| link.slots.iter_mut().filter_map(Slot::rail)).filter_map(of).collect()
    }

    /// What the connection manager said of a rail: when it is over, which on iWARP no completion may tell.
    fn managed(&mut self, generation: u32, done: &mut Vec<Completion>) {
        let Some(&(peer, slot)) = self.rails.get(&generation) else { return };
        let ended = self.links[peer].slots[slot].rail().and_then(|rail| rail.events.as_ref()?.ended());
        if let Some(cause) = ended {
            self.lose(generation, Failure::new(TransferErrorKind::PeerGone, cause), true, done);
        }
    }

    /// Has the devices wake the lane with their next completions; whether all of them will, without which it must not sleep long.
    pub(super) fn arm(&mut self) -> bool {
        self.ports.iter_mut().all(Port::arm)
    }

    /// Now and then it must be seen whether anything moves, and rails are tried again when they are due.
    pub(super) fn longest_sleep(&self, now: Instant) -> Duration {
        self.retry.map_or(STALL / 5, |at| at.saturating_duration_since(now).min(STALL / 5))
    }

    /// Ends the rails on which nothing moves though something should.
    pub(super) fn end_stalled(&mut self, now: Instant, done: &mut Vec<Completion>) {
        for generation in self.rails_where(|rail| rail.stalled(now).then_some(rail.generation)) {
            let cause = format!("nothing was acknowledged for {} s", STALL.as_secs());
            self.lose(generation, Failure::new(TransferErrorKind::PeerGone, cause), true, done);
        }
    }

    /// Lets peers go on that found no room. Where others held it, no completion of their own would wake them.
    pub(super) fn feed(&mut self, done: &mut Vec<Completion>) {
        if std::mem::take(&mut self.freed) && !self.starved.is_empty() {
            for peer in std::mem::take(&mut self.starved) {
                self.pump(peer, Instant::now(), done);
            }
            // Rails were lost meanwhile: no sleep before what they left is cleared away.
            if !self.starved.is_empty() && self.ports.iter().any(Port::is_littered) {
                self.wake.fire();
            }
        }
    }

    /// Refuses a rail whose probes would not fit the completion queue.
    pub(super) fn admit(&self, slot: usize, opened: Opened) -> Result<Opened, Failure> {
        let port = &self.ports[slot];
        if port.fits(opened.count()) {
            return Ok(opened);
        }
        let cause = format!(
            "the completion queue of {} has no room for more peers now: allow a larger one (RdmaSettings::completions, --rdma-completions)",
            port.device.name
        );
        Err(Failure::new(TransferErrorKind::PeerUnreachable, cause))
    }
}

//! A lane's completion queues, one for each device, and when it spins on them and when it sleeps.

use super::cut::PARTS;
use super::device::Device;
use super::link::PAUSE;
use super::sys::{Channel, Completed, CompletionQueue};
use crate::fault::{Failure, TransferErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Waits that are expected to be longer are slept through.
const SPIN_MAX: Duration = Duration::from_micros(100);

/// What a lane has of one device.
pub(super) struct Port {
    pub(super) device: Arc<Device>,
    pub(super) channel: Arc<Channel>,
    pub(super) completions: Arc<CompletionQueue>,
    /// How far it is from the processor that drives the lane; 10 is near.
    pub(super) distance: u32,
    /// An event will come with the next completion.
    armed: bool,
    /// Work requests the device has. Each may come back, if only because its queue pair broke.
    pub(super) outstanding: usize,
    /// Work requests whose queue pair was destroyed since the completion queue was last empty: what came back of them may still be in it.
    left: usize,
    /// That its port is not active, and when it may be asked again.
    dark: Option<(Failure, Instant)>,
}

impl Port {
    pub(super) fn open(device: &Arc<Device>, entries: u32) -> Result<Self, Failure> {
        let failed = |e: std::io::Error| Failure::new(TransferErrorKind::PeerUnreachable, e.to_string());
        let channel = Channel::new(&device.context).map_err(failed)?;
        let depth = entries.min(device.limits.max_cqe);
        let completions = CompletionQueue::new(&device.context, depth, Some(&channel)).map_err(failed)?;
        // Fewer events under load; not every device can.
        completions.moderate(16, 8);
        Ok(Self { device: Arc::clone(device), channel, completions, distance: 10, armed: false, outstanding: 0, left: 0, dark: None })
    }

    /// Why no rail can begin here, if its port is not active, and when it is worth asking again. For all peers together the device is asked
    /// no more often than one rail is tried.
    pub(super) fn dark(&mut self, now: Instant) -> Option<(Failure, Instant)> {
        if self.dark.as_ref().is_none_or(|(_, again)| *again <= now) {
            self.dark = self.device.current_port().err().map(|cause| (cause, now + PAUSE));
        }
        self.dark.clone()
    }

    /// Whether slices may be posted. Half of the queue is kept for probes, without which no rail would come up.
    pub(super) fn has_room(&self) -> bool {
        self.outstanding + self.left < self.completions.depth() as usize / 2
    }

    /// Whether so many more work requests fit, should all there are come back at once: a completion that finds no room is lost.
    pub(super) fn fits(&self, more: usize) -> bool {
        self.outstanding + self.left + more <= self.completions.depth() as usize
    }

    /// The queue pairs of so many work requests were destroyed.
    pub(super) fn abandon(&mut self, count: usize) {
        self.outstanding -= count;
        self.left += count;
    }

    /// Takes all that is there. Whether there may be more room than before.
    pub(super) fn poll(&mut self, into: &mut Vec<Completed>) -> bool {
        while self.completions.poll(into) == CompletionQueue::BATCH {}
        // It was empty, and nothing more comes of queue pairs that are gone.
        std::mem::take(&mut self.left) > 0 || !into.is_empty()
    }

    /// The next poll makes room.
    pub(super) fn is_littered(&self) -> bool {
        self.left > 0
    }

    /// Before a sleep; whoever armed must look into the queue once more. Whether an event will come.
    pub(super) fn arm(&mut self) -> bool {
        self.armed = self.armed || self.completions.arm().is_ok();
        self.armed
    }

    /// Its device is gone: no completion will come that could be missed.
    pub(super) fn part(&mut self) {
        self.armed = true;
    }

    /// After the channel became readable.
    pub(super) fn disarm(&mut self) {
        if self.channel.take() > 0 {
            self.armed = false;
        }
    }
}

/// How many stretches of local memory a slice may have: so many as any of the devices takes, as a rail may come up after it was cut.
pub(super) fn parts_for(ports: &[Port]) -> usize {
    ports.iter().map(|port| port.device.limits.max_sge as usize).min().unwrap_or(1).clamp(1, PARTS)
}

/// Why none of the devices can send a notice, if that is so.
pub(super) fn no_notices(ports: &[Port]) -> Option<Failure> {
    let iwarp = ports.iter().all(|port| port.device.iwarp);
    iwarp.then(|| Failure::new(TransferErrorKind::PeerUnreachable, "iWARP carries no notices: its writes have no room for a number"))
}

/// Learns how long completions take to come, to decide between spinning and sleeping.
pub(super) struct Patience {
    expected: Duration,
}

impl Patience {
    pub(super) fn new() -> Self {
        Self { expected: Duration::from_micros(10) }
    }

    /// How long to spin now.
    pub(super) fn spin(&self) -> Duration {
        if self.expected <= SPIN_MAX { (self.expected * 2).max(Duration::from_micros(5)) } else { Duration::ZERO }
    }

    /// Something came, this long after the wait began.
    pub(super) fn waited(&mut self, waited: Duration) {
        self.expected = (self.expected * 7 + waited) / 8;
    }
}

#[cfg(test)]
mod tests;

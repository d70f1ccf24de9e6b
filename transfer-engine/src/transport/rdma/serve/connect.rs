//! Makes queue pairs and connects them to the ends of a peer, on threads of its own: finding the peer's address may take a second.

use crate::fault::{Failure, TransferErrorKind};
use crate::memory::{Memory, PAGE};
use crate::notice::PLACES;
use crate::transport::rdma::device::Device;
use crate::transport::rdma::queue::{Queue, Role};
use crate::transport::rdma::serve::{Note, Shared};
use crate::transport::rdma::sys::{Access, Capacity, Channel, CompletionQueue, MemoryRegion, SharedReceiveQueue};
use crate::transport::rdma::wire::{End, Scratch};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, mpsc};
use std::thread::{self, Scope};

/// As many peers are connected at one time; the others wait for their turn.
const THREADS_MAX: usize = 8;
/// As many of them from one address, so that one that leads us nowhere does not hold up the others; and on one device, if there are many.
const FEW: usize = 2;
/// The queue pairs that serve send nothing, and receive notices only: other one-sided operations leave no trace on this side.
const CAPACITY: Capacity = Capacity { sends: 1, receives: 0, sges: 1, inline: 0 };
/// Completions that fit beside one for each receive.
const SPARE: u32 = 16;

/// Queue pairs for the connection with that number, and their ends; or why there are none.
pub(super) struct Connected {
    pub(super) number: u64,
    pub(super) outcome: Result<(Vec<Queue>, Vec<End>), Failure>,
}

/// One device, and what all its queue pairs share: receives for notices, and where those that were taken are told.
pub(super) struct Station {
    device: Arc<Device>,
    pub(super) channel: Arc<Channel>,
    pub(super) completions: Arc<CompletionQueue>,
    /// None on iWARP, whose writes carry no numbers.
    pub(super) receives: Option<Arc<SharedReceiveQueue>>,
    /// Receives that are posted: as many notices as may be on their way to this device.
    pub(super) depth: u32,
    /// A page that peers may write and read, and what they are told of it.
    _page: MemoryRegion,
    pub(super) scratch: Scratch,
}

impl Station {
    fn new(device: &Arc<Device>) -> std::io::Result<Self> {
        let depth = if device.iwarp { 0 } else { (PLACES as u32).min(device.limits.max_srq_wr) };
        let channel = Channel::new(&device.context)?;
        // Every receive fits the completion queue, so it cannot overflow: nothing else comes back to it.
        let completions = CompletionQueue::new(&device.context, depth + SPARE, Some(&channel))?;
        let receives = (depth > 0).then(|| SharedReceiveQueue::new(&device.domain, depth)).transpose()?;
        receives.iter().try_for_each(|receives| receives.post(depth))?;
        completions.arm()?;
        let memory = Memory::anonymous(PAGE).map_err(std::io::Error::other)?;
        let page = MemoryRegion::of_memory(&device.domain, &memory, 0, PAGE, Access::Remote)?;
        let scratch = Scratch { base: memory.base(), key: page.rkey() };
        Ok(Self { device: Arc::clone(device), channel, completions, receives, depth, _page: page, scratch })
    }
}

/// A connection that wants queue pairs on a station for these ends.
struct Wish {
    number: u64,
    peer: IpAddr,
    device: usize,
    ends: Vec<End>,
    /// The connection manager connects them later.
    managed: bool,
}

pub(super) struct Connector {
    pub(super) stations: Vec<Arc<Station>>,
    waiting: VecDeque<Wish>,
    /// The connections that have a thread, where they come from, and the device.
    running: Vec<(u64, IpAddr, usize)>,
}

impl Connector {
    pub(super) fn new(devices: &[Arc<Device>]) -> Result<Self, Failure> {
        let station = |device: &Arc<Device>| {
            let failed = |e| Failure::new(TransferErrorKind::Failed, format!("{}: cannot take notices: {e}", device.name));
            Station::new(device).map(Arc::new).map_err(failed)
        };
        Ok(Self { stations: devices.iter().map(station).collect::<Result<_, Failure>>()?, waiting: VecDeque::new(), running: Vec::new() })
    }

    pub(super) fn queue(&mut self, number: u64, peer: IpAddr, device: usize, ends: Vec<End>, managed: bool) {
        self.waiting.push_back(Wish { number, peer, device, ends, managed });
    }

    /// Of a connection that ended.
    pub(super) fn forget(&mut self, number: u64) {
        self.waiting.retain(|wish| wish.number != number);
    }

    /// The wish whose turn it is, if there is a thread for it: the first whose address and device do not have their share.
    fn next(&mut self, devices: usize) -> Option<Wish> {
        let share = (THREADS_MAX / devices.max(1)).max(FEW);
        let busy = |of: &dyn Fn(&(u64, IpAddr, usize)) -> bool| self.running.iter().filter(|running| of(running)).count();
        let may = |wish: &Wish| busy(&|&(_, peer, _)| peer == wish.peer) < FEW && busy(&|&(_, _, device)| device == wish.device) < share;
        let at = if self.running.len() < THREADS_MAX { self.waiting.iter().position(may)? } else { return None };
        let wish = self.waiting.remove(at)?;
        self.running.push((wish.number, wish.peer, wish.device));
        Some(wish)
    }

    /// Gives threads to those who wait, as far as there are any.
    pub(super) fn start<'scope>(&mut self, scope: &'scope Scope<'scope, '_>, notes: &mpsc::Sender<Note>, shared: &Arc<Shared>) {
        while let Some(wish) = self.next(self.stations.len()) {
            let (number, own, wake) = (wish.number, notes.clone(), Arc::clone(shared));
            let station = Arc::clone(&self.stations[wish.device]);
            let work = move || {
                let _ = own.send(Note::Connected(Connected { number, outcome: station.connect(&wish) }));
                wake.wake.fire();
            };
            let thread = thread::Builder::new().name("pl-rdma-connect".to_owned()).stack_size(128 << 10);
            if let Err(e) = thread.spawn_scoped(scope, work) {
                let failure = Failure::new(TransferErrorKind::Failed, format!("no thread to connect queue pairs: {e}"));
                let _ = notes.send(Note::Connected(Connected { number, outcome: Err(failure) }));
                shared.wake.fire();
            }
        }
    }

    /// The thread of that connection is free again.
    pub(super) fn done(&mut self, number: u64) {
        self.running.retain(|running| running.0 != number);
    }
}

impl Station {
    /// All of them or none.
    fn connect(&self, wish: &Wish) -> Result<(Vec<Queue>, Vec<End>), Failure> {
        let Self { device, completions, receives, .. } = self;
        // Some devices make no queue pair without receives.
        let capacity = Capacity { receives: u32::from(receives.is_none()), ..CAPACITY };
        let mut queues = Vec::with_capacity(wish.ends.len());
        for end in &wish.ends {
            let mut queue = Queue::new(device, Role::Serves(receives.as_ref()), completions, completions, capacity)?;
            if !wish.managed {
                queue.connect(end)?;
            }
            queues.push(queue);
        }
        let own = queues.iter().map(Queue::end).collect();
        Ok((queues, own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_an_address_nor_a_device_holds_up_the_others() {
        let mut connector = Connector { stations: Vec::new(), waiting: VecDeque::new(), running: Vec::new() };
        let mut queue = |number: u64, peer: u8, device| {
            connector.queue(number, IpAddr::from([10, 0, 0, peer]), device, Vec::new(), false);
        };
        (0..9).for_each(|number| queue(number, 0, 0));
        (10..19).for_each(|number| queue(number, number as u8, 0));
        (20..29).for_each(|number| queue(number, number as u8, 1));
        let started =
            |connector: &mut Connector| -> Vec<u64> { std::iter::from_fn(|| connector.next(2)).map(|wish| wish.number).collect() };
        assert_eq!(started(&mut connector), [0, 1, 10, 11, 20, 21, 22, 23], "two of an address, four of a device");
        connector.done(11);
        assert_eq!(started(&mut connector), [12]);
        connector.forget(2);
        connector.done(1);
        assert_eq!(started(&mut connector), [3]);
        connector.done(20);
        assert_eq!(started(&mut connector), [24]);
    }
}

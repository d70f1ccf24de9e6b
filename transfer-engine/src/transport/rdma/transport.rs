//! One lane's RDMA: what it holds, and the steps of the [`Transport`] trait.

use super::cut::Todo;
use super::device::Devices;
use super::link::Link;
use super::open::{NotOpened, Opened};
use super::ports::{Patience, Port};
use super::registry::{Buffers, Registry, Staging};
use super::slots::Slots;
use super::sys::Completed;
use super::watch::UNARMED;
use crate::fault::{Failure, TransferErrorKind};
use crate::lane::Wake;
use crate::memory::Region;
use crate::request::Op;
use crate::transport::{Address, Capabilities, Completion, Dash, Peer, Single, Transport, Work};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use rustc_hash::FxHashMap;
use std::collections::{BTreeSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// As many pieces of work as one lane takes.
const DEPTH: usize = 64 << 10;
/// What is polled under numbers of its own; rails are polled under their generation.
pub(super) const WAKE: u64 = u64::MAX;
pub(super) const CHANNELS: u64 = 1 << 40;
/// Added to the generation of a rail whose connection manager has an event.
pub(super) const MANAGERS: u64 = 1 << 32;
/// Spinning keeps the processor to itself for so long: what a device in hardware takes for a small transfer.
const ALONE: Duration = Duration::from_micros(10);
/// A lane that always has something done looks after its sockets once in so many steps; any other does before it sleeps.
pub(super) const LOOK: u32 = 64;
/// And one that begins something when it did not look for so long.
pub(super) const QUIET: Duration = Duration::from_millis(1);

/// Work that came in and has not gone back.
pub(super) struct Flight {
    pub(super) work: Box<Work>,
    pub(super) peer: usize,
    /// What to post; `None` until the segment's keys are known.
    pub(super) todo: Option<Todo>,
    /// Slices devices have.
    pub(super) outstanding: u32,
    /// Rails that broke under it since something of it arrived last, and how often the peer's device refused its key.
    pub(super) broken: u32,
    pub(super) refused: u32,
    /// A rail broke under it: each of its slices reports its success from then on, so that what came stays, and a slow path is told from a
    /// dead one.
    pub(super) shaken: bool,
    /// In the peer's `waiting`.
    pub(super) waits: bool,
}

/// How far a piece of work came.
pub(super) enum Advance {
    /// All of it is posted, or it is finished.
    Done,
    /// It waits for keys or for a rail.
    Later,
    /// The queue pairs are full.
    Full,
}

/// A thread that connected a rail, or failed to.
pub(super) struct News {
    pub(super) peer: usize,
    pub(super) slot: usize,
    pub(super) outcome: Result<Opened, NotOpened>,
}

/// The asking side of one lane.
pub(super) struct RdmaTransport {
    pub(super) devices: Arc<Devices>,
    registry: Arc<Registry>,
    pub(super) wake: Arc<Wake>,
    pub(super) epoll: Epoll,
    pub(super) ports: Vec<Port>,
    /// Before the memory that their queue pairs use: fields are dropped in this order.
    pub(super) links: Vec<Link>,
    pub(super) staging: Option<Staging>,
    pub(super) buffers: Buffers,
    numbers: FxHashMap<Address, Peer>,
    /// The peer that was asked for last.
    last: Option<(Address, Peer)>,
    pub(super) flights: Slots<Flight>,
    /// Where the rail of a generation is: peer and slot.
    pub(super) rails: FxHashMap<u32, (usize, usize)>,
    pub(super) generation: u32,
    pub(super) question: u64,
    pub(super) tell: mpsc::Sender<News>,
    pub(super) news: mpsc::Receiver<News>,
    /// Done while something else was going on; reported by the next poll.
    pub(super) late: Vec<Completion>,
    /// Peers whose other work lost its rail to work that was taken back: it goes on with the next step of the lane.
    pub(super) stranded: Vec<usize>,
    patience: Patience,
    completed: Vec<Completed>,
    /// Steps since it looked after its sockets, and when that was.
    pub(super) unlooked: u32,
    pub(super) looked: Instant,
    /// Peers that the work being taken is for; kept for its memory.
    asked: Vec<usize>,
    /// When it was last looked for rails that stalled.
    pub(super) watched: Instant,
    /// When the first of the rails that failed may be tried again.
    pub(super) retry: Option<Instant>,
    /// Peers whose work found no room in staging or completion queues, and whether some became free since.
    pub(super) starved: BTreeSet<usize>,
    pub(super) freed: bool,
}

impl Flight {
    pub(super) fn new(work: Box<Work>) -> Self {
        let peer = work.peer.0 as usize;
        Self { work, peer, todo: None, outstanding: 0, broken: 0, refused: 0, shaken: false, waits: true }
    }
}

impl RdmaTransport {
    pub(super) fn new(devices: Arc<Devices>, registry: Arc<Registry>, wake: Arc<Wake>) -> std::io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(wake.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        let (tell, news) = mpsc::channel();
        Ok(Self {
            devices,
            registry,
            wake,
            epoll,
            ports: Vec::new(),
            staging: None,
            buffers: Buffers::default(),
            links: Vec::new(),
            numbers: FxHashMap::default(),
            last: None,
            flights: Slots::new(),
            rails: FxHashMap::default(),
            generation: 0,
            question: 0,
            tell,
            news,
            late: Vec::new(),
            stranded: Vec::new(),
            patience: Patience::new(),
            completed: Vec::new(),
            unlooked: 0,
            looked: Instant::now(),
            asked: Vec::new(),
            watched: Instant::now(),
            retry: None,
            starved: BTreeSet::new(),
            freed: false,
        })
    }

    /// Makes the completion queues and the staging, once, when the lane first needs them.
    fn open(&mut self) -> Result<(), Failure> {
        if self.staging.is_some() {
            return Ok(());
        }
        let devices = self.devices.get()?;
        let ports = devices.iter().map(|device| Port::open(device, self.devices.settings().completions)).collect::<Result<Vec<_>, _>>()?;
        let staging = Staging::new(devices)?;
        for (i, port) in ports.iter().enumerate() {
            let polled = self.epoll.add(port.channel.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, CHANNELS + i as u64));
            polled.map_err(|e| Failure::new(TransferErrorKind::PeerUnreachable, e.to_string()))?;
        }
        (self.ports, self.staging) = (ports, Some(staging));
        Ok(())
    }

    /// Takes completions until it is `enough`, for as long as the next one is expected to take. Whether it was.
    pub(super) fn spin(
        &mut self,
        begun: Instant,
        most: Duration,
        done: &mut Vec<Completion>,
        enough: impl Fn(&Self, &[Completion]) -> bool,
    ) -> bool {
        let spin = self.patience.spin().min(most);
        let mut waited = Duration::ZERO;
        while waited < spin {
            self.take_completions(done);
            waited = begun.elapsed();
            if enough(self, done) {
                self.patience.waited(waited);
                return true;
            }
            if waited < ALONE {
                std::hint::spin_loop();
            } else {
                // Others may need this processor: a software device moves the very bytes on it.
                std::thread::yield_now();
            }
        }
        false
    }

    /// Before a choice among rails: how far each device is from this thread.
    pub(super) fn take_bearings(&mut self) {
        let here = self.devices.topology().node_of_this_thread();
        for port in &mut self.ports {
            port.distance = self.devices.topology().distance(port.device.numa_node, here);
        }
    }

    /// Takes all completions that are there.
    pub(super) fn take_completions(&mut self, done: &mut Vec<Completion>) {
        let mut completed = std::mem::take(&mut self.completed);
        for i in 0..self.ports.len() {
            self.freed |= self.ports[i].poll(&mut completed);
            for one in completed.drain(..) {
                self.complete(one, done);
            }
        }
        self.completed = completed;
        self.feed(done);
    }
}

impl Transport for RdmaTransport {
    fn capabilities(&self) -> Capabilities {
        Capabilities { depth: DEPTH, registers: self.devices.there_may_be_some() }
    }

    fn register(&mut self, region: Region) -> Result<(), Failure> {
        // Without a device nothing goes this way, and what is not registered goes through staging.
        let Ok(devices) = self.devices.get() else { return Ok(()) };
        let registered = self.registry.hold(devices, region, self.devices.settings().region)?;
        self.buffers.insert(registered);
        Ok(())
    }

    fn unregister(&mut self, region: Region) {
        self.buffers.remove(region);
    }

    fn connect(&mut self, address: &Address) -> Result<Peer, Failure> {
        // Most often it is the one of the work before, so the same in memory too.
        if let Some((last, peer)) = &self.last
            && Arc::ptr_eq(&last.0, &address.0)
        {
            return Ok(*peer);
        }
        if let Some(peer) = self.numbers.get(address) {
            self.last = Some((address.clone(), *peer));
            return Ok(*peer);
        }
        self.open()?;
        let peer = Peer(self.links.len() as u32);
        self.links.push(Link::new(address.display().into_owned(), self.ports.len()));
        self.numbers.insert(address.clone(), peer);
        Ok(peer)
    }

    fn submit(&mut self, queue: &mut VecDeque<Box<Work>>, now: Instant, done: &mut Vec<Completion>) -> usize {
        self.look_first(now, done);
        if self.ports.len() > 1 {
            self.take_bearings();
        }
        let take = queue.len().min(DEPTH.saturating_sub(self.flights.len()));
        let mut peers = std::mem::take(&mut self.asked);
        for work in std::iter::from_fn(|| queue.pop_front()).take(take) {
            let peer = work.peer.0 as usize;
            let id = self.flights.insert(Flight::new(work));
            self.links[peer].waiting.push_back(id);
            if !peers.contains(&peer) {
                peers.push(peer);
            }
        }
        peers.drain(..).for_each(|peer| self.pump(peer, now, done));
        self.asked = peers;
        // A software device may have done it all before the call that posts returned.
        self.take_completions(done);
        take
    }

    fn dash(&mut self, address: &Address, single: &Single<'_>, work: &mut dyn FnMut(Instant) -> Box<Work>) -> Dash {
        match self.connect(address) {
            Ok(peer) => self.try_dash(peer, single, work),
            Err(_) => Dash::Refused,
        }
    }

    fn poll(&mut self, done: &mut Vec<Completion>, wait: Duration) {
        done.append(&mut self.late);
        if !self.stranded.is_empty() {
            let now = Instant::now();
            std::mem::take(&mut self.stranded).into_iter().for_each(|peer| self.pump(peer, now, done));
        }
        self.take_completions(done);
        self.look_sometimes(done);
        if !done.is_empty() || wait.is_zero() {
            return;
        }
        let begun = Instant::now();
        if self.spin(begun, wait, done, |_, done| !done.is_empty()) {
            return;
        }
        // Armed first and looked at once more: a completion in between would raise no event.
        let armed = self.arm();
        self.take_completions(done);
        if done.is_empty() {
            let longest = if armed { self.longest_sleep(Instant::now()) } else { UNARMED };
            self.look(wait.saturating_sub(begun.elapsed()).min(longest), done);
            self.take_completions(done);
        }
        if !done.is_empty() {
            self.patience.waited(begun.elapsed());
        }
    }

    fn cancel(&mut self, chosen: &mut dyn FnMut(&Work) -> bool, back: &mut Vec<(Box<Work>, String)>) {
        let late = self.late.extract_if(.., |completion| chosen(&completion.work));
        back.extend(late.map(|completion| (completion.work, "it was failing".to_owned())));
        let ids: Vec<u64> = self.flights.iter().filter(|(_, flight)| chosen(&flight.work)).map(|(id, _)| id).collect();
        back.extend(ids.into_iter().filter_map(|id| self.stop(id)));
    }

    fn readiness(&mut self) -> Option<BorrowedFd<'_>> {
        let armed = self.arm();
        let mut done = Vec::new();
        self.take_completions(&mut done);
        self.late.append(&mut done);
        if !self.late.is_empty() {
            self.wake.fire();
        }
        // What ends that sleep is for the next poll to see.
        self.unlooked = LOOK;
        armed.then_some(self.epoll.0.as_fd())
    }

    fn may_rest(&self, now: Instant) -> Duration {
        self.longest_sleep(now)
    }
}

impl RdmaTransport {
    /// Takes work back, with a phrase on how far it came.
    fn stop(&mut self, id: u64) -> Option<(Box<Work>, String)> {
        let flight = self.flights.get(id)?;
        let progress = match (&flight.todo, flight.outstanding) {
            _ if self.links[flight.peer].untold.contains(&id) => "the peer has no room for notices: nobody takes them there".to_owned(),
            (None, _) => self.links[flight.peer].awaits((flight.work.segment_id(), flight.work.capability().0)),
            (Some(todo), under_way) => format!("{} bytes were not sent and {under_way} slices not acknowledged", todo.bytes(&flight.work)),
        };
        let (peer, notice) = (flight.peer, matches!(flight.work.op, Op::Notify(_)));
        // A notice has no buffer, so it needs no rail to end.
        if flight.outstanding > 0 && !notice {
            self.take_back(id);
        }
        let cancelled = self.flights.remove(id).map(|flight| (flight.work, progress));
        if notice {
            self.wish_no_more(peer);
        }
        cancelled
    }
}

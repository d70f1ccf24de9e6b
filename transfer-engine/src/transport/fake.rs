//! Moves bytes inside the process, late, out of order or never, all from a seed: everything above a transport is tested with it.

use crate::engine::Engine;
use crate::fault::{Failure, TransferErrorKind};
use crate::lane::Wake;
use crate::memory::Region;
use crate::request::Op;
use crate::segment::{Export, Exports};
use crate::transport::{Address, Capabilities, Completion, Family, Peer, Transport, Work};
use perilune_protocol::Endpoint;
use std::collections::{HashMap, VecDeque};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Pieces answered in one call.
const TURN: usize = 4;
/// A notice that found no room looks again so much later.
const LOOK: Duration = Duration::from_millis(1);

/// What the fake does to work. The default moves everything at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// One piece of work in so many is never answered; 0 loses none.
    pub lose_one_in: u64,
    /// One piece in so many fails as if the peer had died; 0 fails none.
    pub break_one_in: u64,
    /// Work is answered after up to so long, each piece on its own, and so in any order.
    pub delay_max: Duration,
    /// How many pieces it holds at most; 0 for any number.
    pub depth: usize,
}

/// A network inside the process.
pub struct FakeNetwork {
    seed: u64,
    faults: Faults,
    peers: Mutex<HashMap<String, Weak<Exports>>>,
    registered: AtomicUsize,
}

impl FakeNetwork {
    /// A network whose faults follow from `seed`.
    pub fn new(seed: u64, faults: Faults) -> Arc<Self> {
        Arc::new(Self { seed, faults, peers: Mutex::default(), registered: AtomicUsize::new(0) })
    }

    /// Makes what `engine` exports reachable, until it stops; returns where.
    pub fn attach(&self, name: &str, engine: &Engine) -> Endpoint {
        self.lock().insert(name.to_owned(), Arc::downgrade(engine.exports()));
        Endpoint::Tcp(format!("fake:{name}"))
    }

    /// A family for [`crate::EngineBuilder::transport`].
    pub fn family(self: &Arc<Self>) -> Arc<dyn Family> {
        Arc::new(Fake(Arc::clone(self)))
    }

    /// How many buffers are registered, those of each lane on their own.
    pub fn registered(&self) -> usize {
        self.registered.load(SeqCst)
    }

    fn exports(&self, name: &str) -> Option<Arc<Exports>> {
        self.lock().get(name).and_then(Weak::upgrade)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Weak<Exports>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Fake(Arc<FakeNetwork>);

impl Family for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn address(&self, endpoint: &Endpoint) -> Option<Address> {
        let Endpoint::Tcp(at) = endpoint else { return None };
        at.strip_prefix("fake:").map(Address::from_text)
    }

    fn open(&self, wake: &Arc<Wake>) -> std::io::Result<Box<dyn Transport>> {
        let network = Arc::clone(&self.0);
        let dice = Dice(network.seed);
        Ok(Box::new(FakeTransport { network, wake: Arc::clone(wake), dice, names: Vec::new(), held: Vec::new() }))
    }
}

struct FakeTransport {
    network: Arc<FakeNetwork>,
    wake: Arc<Wake>,
    dice: Dice,
    names: Vec<Address>,
    /// Work and when it is answered; never, when lost.
    held: Vec<(Option<Instant>, Box<Work>)>,
}

impl Transport for FakeTransport {
    fn capabilities(&self) -> Capabilities {
        let depth = if self.network.faults.depth == 0 { usize::MAX } else { self.network.faults.depth };
        Capabilities { depth, registers: true }
    }

    fn register(&mut self, _region: Region) -> Result<(), Failure> {
        self.network.registered.fetch_add(1, SeqCst);
        Ok(())
    }

    fn unregister(&mut self, _region: Region) {
        self.network.registered.fetch_sub(1, SeqCst);
    }

    fn connect(&mut self, address: &Address) -> Result<Peer, Failure> {
        let at = self.names.iter().position(|name| name == address).unwrap_or_else(|| {
            self.names.push(address.clone());
            self.names.len() - 1
        });
        Ok(Peer(at as u32))
    }

    fn submit(&mut self, queue: &mut VecDeque<Box<Work>>, _now: Instant, done: &mut Vec<Completion>) -> usize {
        let Faults { lose_one_in, delay_max, .. } = self.network.faults;
        let room = self.capabilities().depth - self.held.len();
        let mut took = 0;
        while took < room
            && done.len() < TURN
            && let Some(work) = queue.pop_front()
        {
            took += 1;
            if self.dice.one_in(lose_one_in) {
                self.held.push((None, work));
            } else if delay_max.is_zero() {
                self.settle(work, done);
            } else {
                let delay = delay_max.mul_f64(self.dice.fraction());
                self.held.push((Some(Instant::now() + delay), work));
            }
        }
        took
    }

    fn poll(&mut self, done: &mut Vec<Completion>, wait: Duration) {
        let next = self.held.iter().filter_map(|(due, _)| *due).min();
        let until = next.map_or(wait, |due| wait.min(due.saturating_duration_since(Instant::now())));
        self.wake.sleep(&[], until);
        let now = Instant::now();
        let (due, held) = std::mem::take(&mut self.held).into_iter().partition(|(due, _)| due.is_some_and(|due| due <= now));
        self.held = held;
        for (_, work) in due {
            self.settle(work, done);
        }
    }

    fn cancel(&mut self, chosen: &mut dyn FnMut(&Work) -> bool, back: &mut Vec<(Box<Work>, String)>) {
        for (due, work) in self.held.extract_if(.., |(_, work)| chosen(work)) {
            let full = due.is_some() && matches!(work.op, Op::Notify(_));
            back.push((work, if full { "the peer has no room for notices" } else { "no answer came" }.to_owned()));
        }
    }

    fn readiness(&mut self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl FakeTransport {
    fn settle(&mut self, work: Box<Work>, done: &mut Vec<Completion>) {
        match self.answer(&work) {
            Some(outcome) => done.push(Completion { work, outcome }),
            None => self.held.push((Some(Instant::now() + LOOK), work)),
        }
    }

    /// What comes of the work; `None` for a notice whose peer has no room now.
    fn answer(&mut self, work: &Work) -> Option<Result<(), Failure>> {
        self.export(work).map_or_else(
            |failure| Some(Err(failure)),
            |(exports, export)| {
                if let Op::Notify(number) = work.op {
                    return exports.mailbox.put(number).then_some(Ok(()));
                }
                let withdrawn = || Failure::new(TransferErrorKind::UnknownSegment, "the peer withdrew the segment");
                Some(export.enter().ok_or_else(withdrawn).and_then(|_passage| export.memory.transfer(work)))
            },
        )
    }

    /// What the work is about, once it was checked.
    fn export(&mut self, work: &Work) -> Result<(Arc<Exports>, Arc<Export>), Failure> {
        let name = self.names.get(work.peer.0 as usize).map(|name| name.display().into_owned()).unwrap_or_default();
        let Some(exports) = self.network.exports(&name) else {
            return Err(Failure::new(TransferErrorKind::PeerUnreachable, "nobody of that name is attached"));
        };
        let export = exports.find(work.segment_id())?;
        export.check(work.capability(), &work.extents)?;
        if self.dice.one_in(self.network.faults.break_one_in) {
            return Err(Failure::new(TransferErrorKind::PeerGone, "the connection broke"));
        }
        Ok((exports, export))
    }
}

/// Numbers that only the seed decides (SplitMix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn one_in(&mut self, n: u64) -> bool {
        n > 0 && self.next().is_multiple_of(n)
    }

    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

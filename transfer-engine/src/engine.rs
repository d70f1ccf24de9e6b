//! The engine: lend memory, reach the memory of others, move bytes, wait for them.

use crate::builder::EngineBuilder;
use crate::completion::{Tally, Ticket};
use crate::fault::{EngineError, Failure, TransferError, TransferErrorKind};
use crate::lane::work::{Work, error};
use crate::lane::{Driver, Lane, Wake};
use crate::memory::{Memory, Region};
use crate::notice::Notices;
use crate::observe::{Counted, Counters, Meter};
use crate::registered::Registered;
use crate::request::{Job, Op, Outcome, Request, Single, plan};
use crate::segment::{Exports, Segment, check_bounds};
#[cfg(feature = "rdma")]
use crate::transport::rdma;
use crate::transport::{Family, Server, families, shm, tcp};
use perilune_protocol::{Capability, Endpoint, SegmentDesc, SegmentId};
use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Moves bytes between this process and segments, and serves the segments it exports.
/// Cheap to clone; stops when the last clone drops, and cancels what is still under way then.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    exports: Arc<Exports>,
    servers: Vec<Box<dyn Server>>,
    families: Vec<Arc<dyn Family>>,
    asked: Vec<Arc<Meter>>,
    served: Arc<Meter>,
    lanes: Vec<Arc<Lane>>,
    registered: Registered,
    deadline: Duration,
}

impl Engine {
    /// Settings to start from.
    pub fn builder() -> EngineBuilder {
        EngineBuilder::default()
    }

    pub(crate) fn start(settings: EngineBuilder) -> Result<Self, EngineError> {
        let EngineBuilder { listen_tcp, listen_shm, listen_rdma, rdma: rdma_settings, only, lanes, deadline, families: mut own } = settings;
        if !(1..=64).contains(&lanes) {
            return Err(EngineError::Setting(format!("{lanes} lanes: there must be 1 to 64")));
        }
        if deadline.is_zero() {
            return Err(EngineError::Setting("a deadline of 0: no transfer could meet it".to_owned()));
        }
        let exports = Arc::new(Exports::default());
        let served = Arc::new(Meter::default());
        let mut servers: Vec<Box<dyn Server>> = Vec::new();
        for at in listen_tcp {
            servers.push(Box::new(tcp::serve(at, Arc::clone(&exports), Arc::clone(&served))?));
        }
        if let Some(path) = listen_shm {
            servers.push(Box::new(shm::serve(path, Arc::clone(&exports))?));
        }
        #[cfg(feature = "rdma")]
        let devices = Arc::new(rdma::Devices::new(rdma_settings)?);
        #[cfg(feature = "rdma")]
        if let Some(at) = listen_rdma {
            servers.push(Box::new(rdma::serve(at, Arc::clone(&exports), &devices)?));
        }
        #[cfg(not(feature = "rdma"))]
        if listen_rdma.is_some() {
            drop(rdma_settings);
            return Err(EngineError::NoRdma("this program was built without it".to_owned()));
        }
        let built_in = families(
            #[cfg(feature = "rdma")]
            &devices,
        );
        if let Some(unknown) = only.iter().find(|name| built_in.iter().all(|family| family.name() != name.as_str())) {
            return Err(EngineError::Setting(format!("there is no transport `{unknown}` in this build")));
        }
        own.extend(built_in.into_iter().filter(|family| only.is_empty() || only.iter().any(|name| name == family.name())));
        let asked: Vec<_> = own.iter().map(|_| Arc::new(Meter::default())).collect();
        let system = |cause| EngineError::System { what: "start a lane", cause };
        let lanes = (0..lanes).map(|number| start_lane(number, &own, &asked)).collect::<Result<_, _>>().map_err(system)?;
        let inner = Inner { exports, servers, families: own, asked, served, lanes, registered: Registered::default(), deadline };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Where peers reach the segments exported here: what a [`SegmentDesc`] carries. Ports are the real ones.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        self.inner.servers.iter().map(|server| server.endpoint()).collect()
    }

    /// Lends `memory` as segment `id` to whoever presents `capability`.
    ///
    /// # Errors
    /// When the id is already lent.
    pub fn export(&self, id: SegmentId, memory: Arc<Memory>, capability: Capability) -> Result<(), EngineError> {
        self.inner.exports.insert(id, memory, capability)
    }

    /// Makes a segment that is exported reachable by RDMA too: its memory is registered with every device, and so pinned.
    ///
    /// # Errors
    /// When the engine does not listen for RDMA peers, the segment is not exported, or a device refuses its memory.
    pub fn export_rdma(&self, id: SegmentId) -> Result<(), EngineError> {
        let export = self.inner.exports.find(id).map_err(|_| EngineError::NotExported(id))?;
        match self.inner.servers.iter().find(|server| matches!(server.endpoint(), Endpoint::Rdma(_))) {
            Some(server) => server.lend(id, &export),
            None => Err(EngineError::NoRdma("the engine does not listen for RDMA peers".to_owned())),
        }
    }

    /// Ends the loan: after this returns no byte moves into or out of the segment. False when it was not lent.
    pub fn withdraw(&self, id: SegmentId) -> bool {
        let lent = self.inner.exports.withdraw(id);
        if lent {
            self.inner.servers.iter().for_each(|server| server.withdraw(id));
        }
        lent
    }

    /// A handle of a remote segment. Connects on first use: by shared memory when the peer is on this host and reachable so, else by RDMA, else by TCP.
    pub fn connect(&self, desc: &SegmentDesc) -> Segment {
        Segment::new(desc.clone(), &self.inner.families)
    }

    /// Runs jobs on the calling thread's time until each is done or `deadline` has passed; one outcome per job, in their order.
    pub fn run(&self, jobs: &mut [Job<'_>], deadline: Duration) -> Vec<Outcome> {
        match jobs {
            [job] => vec![self.run_one(job, deadline)],
            _ => self.run_planned(jobs, deadline),
        }
    }

    /// Runs one job as [`Engine::run`] does; its outcome needs no memory.
    ///
    /// # Errors
    /// Why the bytes did not move, or not all of them.
    pub fn run_one(&self, job: &mut Job<'_>, deadline: Duration) -> Outcome {
        // The job's borrow lasts until this returns, and it returns only when no one touches its memory any more.
        match Single::of(&job.request, deadline.min(self.inner.deadline)) {
            Some(single) => self.with_free_lane(|lane| lane.run_one(&single)),
            None => self.run_planned(std::slice::from_mut(job), deadline).into_iter().collect(),
        }
    }

    fn run_planned(&self, jobs: &mut [Job<'_>], deadline: Duration) -> Vec<Outcome> {
        // The jobs' borrows last until this returns, and it returns only when every piece of work came back.
        let (work, tally, now) = self.plan(&mut jobs.iter().map(|job| &job.request), deadline);
        if !work.is_empty() {
            self.with_free_lane(|lane| lane.run(work.into_iter(), &tally, now));
        }
        tally.take()
    }

    /// Tells the process that lends `segment` a number, by [`Engine::notices`] there. It arrives after the bytes of every write to that
    /// process that the caller saw complete before, whatever path each of them took.
    ///
    /// `Ok` means that the number has its place in the peer's queue. While that has none the notice waits, and holds up no reads and writes.
    /// No order is promised among notices. A notice whose connection breaks under way is sent again, so it may arrive twice; one that failed
    /// with `PeerGone` or `Timeout` may have arrived, and with `Timeout` still may until shortly after.
    ///
    /// # Errors
    /// As for a write. `Timeout` when the peer had no place until `deadline`: nobody takes its notices.
    pub fn notify(&self, segment: &Segment, number: u32, deadline: Duration) -> Result<(), TransferError> {
        self.run_one(&mut Job::notify(segment, number), deadline)
    }

    /// The receiving end of what peers tell this process by [`Engine::notify`], of all segments and paths together. Only peers that show the
    /// capability of a segment lent here are heard; over RDMA each connection that showed one is heard until it ends, even if the segment is
    /// withdrawn meanwhile. 1024 notices wait at most, also before the first call; then peers wait.
    pub fn notices(&self) -> Notices {
        Notices::new(Arc::clone(&self.inner.exports.mailbox))
    }

    /// Starts requests and returns at once; the ticket says when they are done.
    ///
    /// # Safety
    /// Each local slice stays valid until the ticket is done or dropped, and nobody else uses a slice that is read into.
    /// A ticket that is leaked instead of dropped must count as never done.
    pub unsafe fn submit(&self, requests: Vec<Request>, deadline: Duration) -> Ticket {
        let (work, tally, now) = self.plan(&mut requests.iter(), deadline);
        self.with_free_lane(|lane| {
            lane.submit(work.into_iter(), now);
            Ticket::new(tally, Arc::clone(lane))
        })
    }

    /// Registers a local buffer with every transport that wants it. Not needed for TCP and shared memory. O(log n).
    ///
    /// # Safety
    /// The buffer stays valid until it is unregistered.
    ///
    /// # Errors
    /// When the buffer is empty or overlaps a registered one, or a device refuses it.
    pub unsafe fn register(&self, ptr: *mut u8, len: usize) -> Result<(), EngineError> {
        let region = Region { base: ptr.expose_provenance() as u64, len: len as u64 };
        self.inner.registered.insert(region, &self.inner.families, &self.inner.lanes)
    }

    /// Takes the registration of the buffer that starts at `ptr` back. When this returns no transport knows it any more, so its memory may
    /// be freed, and other memory at its address be registered. A transfer of it that is still under way by RDMA fails. Waits for the threads
    /// that move bytes: not for use by a waker.
    ///
    /// # Errors
    /// When no registered buffer starts there.
    pub fn unregister(&self, ptr: *mut u8) -> Result<(), EngineError> {
        self.inner.registered.remove(ptr.addr() as u64, &self.inner.lanes)
    }

    /// Transfers so far, per transport, operation and outcome.
    pub fn counters(&self) -> Counters {
        let asked = self.inner.families.iter().zip(&self.inner.asked);
        let mut transports: Vec<_> = asked.map(|(family, meter)| meter.snapshot(family.name(), Counted::Asked)).collect();
        // Who maps shared memory copies it alone, so only TCP transfers are seen by the serving side.
        transports.push(self.inner.served.snapshot("tcp", Counted::Served));
        Counters { transports, notices_taken: self.inner.exports.mailbox.taken() }
    }

    /// Reads and writes of peers over TCP that have begun and not ended. What peers do alone (shared memory, RDMA) is not seen here.
    pub fn serves_now(&self) -> u64 {
        self.inner.served.under_way()
    }

    pub(crate) fn exports(&self) -> &Arc<Exports> {
        &self.inner.exports
    }

    /// Checks requests and cuts them into work; what is refused is already told to the tally. And what time it is then.
    fn plan(
        &self,
        requests: &mut dyn ExactSizeIterator<Item = &Request>,
        deadline: Duration,
    ) -> (plan::Parts<Box<Work>>, Arc<Tally>, Instant) {
        let started = Instant::now();
        let deadline = started + deadline.min(self.inner.deadline);
        let tally = Arc::new(Tally::new(0, requests.len()));
        let mut work = plan::Parts::new();
        for (slot, Request { op, segment, extents, local }) in requests.enumerate() {
            let in_bounds = check_bounds_of_some(extents, segment.desc().size);
            let push = |piece| work.push(Work::new(*op, segment.clone(), piece, Arc::clone(&tally), slot, started, deadline));
            let cut = in_bounds.and_then(|()| match op {
                Op::Notify(_) => plan::notice(extents, local).map(push),
                Op::Read | Op::Write => plan::cut(extents, local, push),
            });
            if let Err(failure) = cut {
                tally.fail(slot, error(*op, segment, extents, failure, None));
            }
        }
        tally.expect(work.len());
        // To plan one takes no time; only many are worth another look at the clock.
        let now = if work.len() > 1 { Instant::now() } else { started };
        (work, tally, now)
    }

    /// Calls `f` with the lane this thread prefers, or with the next one nobody drives.
    fn with_free_lane<T>(&self, f: impl FnOnce(&Arc<Lane>) -> T) -> T {
        let lanes = &self.inner.lanes;
        let own = thread_number() % lanes.len();
        let free = lanes[own..].iter().chain(&lanes[..own]).find(|lane| lane.looks_free());
        f(free.unwrap_or(&lanes[own]))
    }
}

/// Empty extents are nowhere and so are not asked about.
fn check_bounds_of_some(extents: &[perilune_protocol::Extent], size: u64) -> Result<(), Failure> {
    if extents.len() > plan::REQUEST_PARTS_MAX {
        let cause = format!("{} extents in one request, the limit is {}", extents.len(), plan::REQUEST_PARTS_MAX);
        return Err(Failure::new(TransferErrorKind::BadRequest, cause));
    }
    extents.iter().filter(|extent| extent.len > 0).try_for_each(|extent| check_bounds(std::slice::from_ref(extent), size))
}

fn start_lane(number: usize, families: &[Arc<dyn Family>], meters: &[Arc<Meter>]) -> std::io::Result<Arc<Lane>> {
    let wake = Arc::new(Wake::new()?);
    let open = |(family, meter): (&Arc<dyn Family>, &Arc<Meter>)| Ok((family.open(&wake)?, Arc::clone(meter)));
    let transports = families.iter().zip(meters).map(open).collect::<std::io::Result<Vec<_>>>()?;
    Lane::start(number, Driver::new(transports), wake)
}

/// Small numbers for threads, so that each keeps to one lane and its warm connections.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static NUMBER: Cell<Option<usize>> = const { Cell::new(None) });
    NUMBER.with(|number| {
        number.get().unwrap_or_else(|| {
            let fresh = NEXT.fetch_add(1, Ordering::Relaxed);
            number.set(Some(fresh));
            fresh
        })
    })
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("endpoints", &self.endpoints()).field("lanes", &self.inner.lanes.len()).finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Servers stop first, when their fields drop after this only lanes could still ask them.
        self.servers.clear();
        self.exports.mailbox.close();
        self.lanes.iter().for_each(|lane| lane.close());
    }
}

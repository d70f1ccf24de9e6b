//! What the holder of the baton works with: the transports, and the work that waits for them or for a deadline.

use crate::completion::Tally;
use crate::fault::{Failure, TransferErrorKind};
use crate::lane::agenda::Agenda;
use crate::lane::wake::Wake;
use crate::lane::work::Work;
use crate::observe::Meter;
use crate::transport::{Completion, Peer, Region, Transport};
use std::collections::VecDeque;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// How long one sleep lasts at most; only a guard, every event ends it.
const SLEEP_MAX: Duration = Duration::from_secs(60);

/// What other threads ask of the holder.
pub(crate) enum Message {
    Start(Box<Work>),
    Cancel(Arc<Tally>),
    Register(Region, mpsc::Sender<Result<(), Failure>>),
    Unregister(Region, mpsc::Sender<()>),
}

struct Port {
    transport: Box<dyn Transport>,
    meter: Arc<Meter>,
    /// Work the transport did not take yet.
    queue: VecDeque<Box<Work>>,
    /// Pieces the transport holds.
    held: usize,
}

/// Where a piece of work is, for deadlines and cancellation.
struct Place {
    port: usize,
    peer: Peer,
    /// The address of the tally, to find all work of one ticket.
    tally: usize,
}

pub(crate) struct Driver {
    ports: Vec<Port>,
    /// All work here, by deadline and id.
    places: Agenda<Place>,
    done: Vec<Completion>,
    next_id: u64,
}

impl Driver {
    pub(crate) fn new(transports: Vec<(Box<dyn Transport>, Arc<Meter>)>) -> Self {
        let port = |(transport, meter)| Port { transport, meter, queue: VecDeque::new(), held: 0 };
        Self { ports: transports.into_iter().map(port).collect(), places: Agenda::new(), done: Vec::new(), next_id: 0 }
    }

    pub(crate) fn registers(&self) -> bool {
        self.ports.iter().any(|port| port.transport.capabilities().registers)
    }

    /// Whether nothing is under way.
    pub(crate) fn idle(&self) -> bool {
        self.places.is_empty()
    }

    pub(crate) fn take(&mut self, message: Message) {
        match message {
            Message::Start(work) => self.start(work),
            Message::Cancel(tally) => {
                let failure = || Failure::new(TransferErrorKind::Cancelled, "its ticket was dropped");
                self.stop(|place, _| place.tally == Arc::as_ptr(&tally).addr(), failure);
            }
            Message::Register(region, reply) => {
                let registered = self.ports.iter_mut().try_for_each(|port| port.transport.register(region));
                let _ = reply.send(registered);
            }
            Message::Unregister(region, reply) => {
                self.ports.iter_mut().for_each(|port| port.transport.unregister(region));
                let _ = reply.send(());
            }
        }
    }

    /// Puts work in the queue of the transport of its path, or of the next path that can be tried.
    pub(crate) fn start(&mut self, mut work: Box<Work>) {
        loop {
            let Some(&(port, ref address)) = work.route() else {
                let cause =
                    if work.earlier.is_empty() { "none of the segment's endpoints can be used from here" } else { "no path is left" };
                return work.report(Err(Failure::new(TransferErrorKind::PeerUnreachable, cause)));
            };
            match self.ports[port].transport.connect(address) {
                Ok(peer) => {
                    work.peer = peer;
                    work.id = self.next_id;
                    self.next_id += 1;
                    let place = Place { port, peer, tally: Arc::as_ptr(&work.tally).addr() };
                    self.places.insert((work.deadline, work.id), place);
                    return self.ports[port].queue.push_back(work);
                }
                Err(failure) => match self.next_path(work, failure) {
                    Some(next) => work = next,
                    None => return,
                },
            }
        }
    }

    /// Gives queued work to the transports, moves bytes, sleeps for at most `wait` when nothing happens, and reports what is done.
    pub(crate) fn step(&mut self, wake: &Wake, wait: Duration) {
        // First, because work may have waited here while its thread was stopped.
        let now = Instant::now();
        self.expire(now);
        self.push();
        let held: usize = self.ports.iter().map(|port| port.held).sum();
        if self.done.is_empty() && !self.idle() {
            self.poll(wake, wait, now);
        } else if held > self.done.len() {
            // A transport that always has something done must not starve the others.
            self.poll(wake, Duration::ZERO, now);
        }
        self.deliver();
        if !self.idle() {
            self.expire(Instant::now());
        }
        self.push();
        self.deliver();
    }

    /// Fails everything.
    pub(crate) fn close(&mut self) {
        self.stop(|_, _| true, || Failure::new(TransferErrorKind::Cancelled, "the engine was closed"));
    }

    fn push(&mut self) {
        for port in &mut self.ports {
            if !port.queue.is_empty() {
                port.held += port.transport.submit(&mut port.queue, &mut self.done);
            }
        }
    }

    /// Sleeps until the next deadline at most, seen from `now`.
    fn poll(&mut self, wake: &Wake, wait: Duration, now: Instant) {
        let wait = self.places.nearest().map_or(SLEEP_MAX, |at| at.saturating_duration_since(now)).min(wait);
        const LOOK: Duration = Duration::from_millis(1);
        let busy = self.ports.iter().filter(|port| port.held > 0).count();
        let alone = busy == 1 || (busy > 1 && wait.is_zero());
        if !alone {
            let ready: Vec<_> = self.ports.iter_mut().filter(|port| port.held > 0).map(|port| port.transport.readiness()).collect();
            let together = if busy > 0 && ready.iter().all(Option::is_some) { wait } else { LOOK };
            let fds: Vec<_> = ready.into_iter().flatten().collect();
            wake.sleep(&fds, together.min(wait));
        }
        let wait = if alone { wait } else { Duration::ZERO };
        for port in self.ports.iter_mut().filter(|port| port.held > 0) {
            port.transport.poll(&mut self.done, wait);
        }
    }

    fn deliver(&mut self) {
        let mut done = std::mem::take(&mut self.done);
        for Completion { work, outcome } in done.drain(..) {
            let place = self.places.remove((work.deadline, work.id));
            let Some(port) = place.and_then(|place| self.ports.get_mut(place.port)) else {
                work.report(outcome);
                continue;
            };
            port.held = port.held.saturating_sub(1);
            match outcome {
                Ok(()) => {
                    port.meter.done(work.op, work.bytes);
                    work.report(Ok(()));
                }
                Err(failure) => {
                    port.meter.failed(work.op, failure.kind);
                    if let Some(work) = self.next_path(work, failure) {
                        self.start(work);
                    }
                }
            }
        }
        // What `start` may have completed meanwhile comes with the next step; the emptied vector is kept for its memory.
        if self.done.is_empty() {
            self.done = done;
        }
    }

    fn expire(&mut self, now: Instant) {
        if self.places.nearest().is_some_and(|nearest| nearest <= now) {
            self.stop(|_, deadline| deadline <= now, || Failure::new(TransferErrorKind::Timeout, "the deadline passed"));
        }
    }

    /// Takes back and fails all work that `chosen` chooses.
    fn stop(&mut self, chosen: impl Fn(&Place, Instant) -> bool, failure: impl Fn() -> Failure) {
        let keys: Vec<_> = self.places.iter().filter(|((deadline, _), place)| chosen(place, *deadline)).map(|(key, _)| key).collect();
        for key in keys {
            let Some(Place { port, peer, .. }) = self.places.remove(key) else { continue };
            let port = &mut self.ports[port];
            let mut failure = failure();
            let work = if let Some(at) = port.queue.iter().position(|work| work.id == key.1) {
                port.queue.remove(at)
            } else if let Some((work, progress)) = port.transport.cancel(peer, key.1) {
                port.held = port.held.saturating_sub(1);
                failure.cause = format!("{} after {} ms, {progress}", failure.cause, work.started.elapsed().as_millis());
                Some(work)
            } else {
                // Done already: its completion waits in `done` and must be counted once.
                let at = self.done.iter().position(|completion| completion.work.id == key.1);
                let finished = at.map(|at| self.done.swap_remove(at));
                port.held = port.held.saturating_sub(usize::from(finished.is_some()));
                finished.map(|Completion { work, .. }| work)
            };
            if let Some(work) = work {
                port.meter.failed(work.op, failure.kind);
                work.report(Err(failure));
            }
        }
    }

    /// The work with its next path, when the failure is one of the path and another path may do better; else reports it.
    fn next_path(&mut self, mut work: Box<Work>, failure: Failure) -> Option<Box<Work>> {
        let of_path = matches!(failure.kind, TransferErrorKind::PeerUnreachable | TransferErrorKind::PeerGone);
        if of_path && work.path + 1 < work.segment.inner.paths.len() {
            work.earlier.push(failure);
            work.path += 1;
            Some(work)
        } else {
            work.report(Err(failure));
            None
        }
    }
}

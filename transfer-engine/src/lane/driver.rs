//! What the holder of the baton works with: the transports, and the work that waits for them or for a deadline.

use crate::completion::Tally;
use crate::fault::{Failure, TransferErrorKind};
use crate::lane::wake::Wake;
use crate::lane::work::Work;
use crate::observe::Meter;
use crate::transport::{Completion, Dash, Region, Single, Transport};
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

/// Keeps no list of the work here: it lies in a queue, in a transport or in `done`, which are gone through when some of it is to be stopped.
pub(crate) struct Driver {
    ports: Vec<Port>,
    done: Vec<Completion>,
    /// Pieces of work here.
    under_way: usize,
    /// No deadline of them is earlier.
    nearest: Option<Instant>,
    next_id: u64,
}

impl Driver {
    pub(crate) fn new(transports: Vec<(Box<dyn Transport>, Arc<Meter>)>) -> Self {
        let port = |(transport, meter)| Port { transport, meter, queue: VecDeque::new(), held: 0 };
        Self { ports: transports.into_iter().map(port).collect(), done: Vec::new(), under_way: 0, nearest: None, next_id: 0 }
    }

    pub(crate) fn registers(&self) -> bool {
        self.ports.iter().any(|port| port.transport.capabilities().registers)
    }

    /// Whether nothing is under way.
    pub(crate) fn idle(&self) -> bool {
        self.under_way == 0
    }

    pub(crate) fn take(&mut self, message: Message) {
        match message {
            Message::Start(work) => self.start(work),
            Message::Cancel(tally) => {
                self.stop(|work| Arc::ptr_eq(&work.tally, &tally), TransferErrorKind::Cancelled, "its ticket was dropped");
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

    /// The short way of a single operation: no queue, no list of what is done, and most often no work either. Only while nothing else is under
    /// way, so that nobody waits for it. `work` is asked for when the operation is under way and this is to go on with it.
    pub(crate) fn dash(&mut self, single: &Single<'_>, work: &mut dyn FnMut(Instant) -> Box<Work>) -> Dash {
        if !self.idle() {
            return Dash::Refused;
        }
        let Some(&(port, ref address)) = single.segment.inner.paths.first() else { return Dash::Refused };
        let Port { transport, meter, held, .. } = &mut self.ports[port];
        let dash = transport.dash(address, single, &mut |begun| {
            let mut work = work(begun);
            work.id = self.next_id;
            self.next_id += 1;
            self.under_way += 1;
            self.nearest = Some(work.deadline);
            *held += 1;
            work
        });
        if dash == Dash::Done {
            meter.done(single.op, single.extent.len);
        }
        dash
    }

    /// Takes work in.
    pub(crate) fn start(&mut self, work: Box<Work>) {
        self.under_way += 1;
        self.nearest = Some(self.nearest.map_or(work.deadline, |nearest| nearest.min(work.deadline)));
        self.enqueue(work);
    }

    /// Puts work in the queue of the transport of its path, or of the next path that can be tried.
    fn enqueue(&mut self, mut work: Box<Work>) {
        loop {
            let Some(&(port, ref address)) = work.route() else {
                let cause =
                    if work.earlier.is_empty() { "none of the segment's endpoints can be used from here" } else { "no path is left" };
                return self.finish(work, Err(Failure::new(TransferErrorKind::PeerUnreachable, cause)));
            };
            match self.ports[port].transport.connect(address) {
                Ok(peer) => {
                    (work.peer, work.id) = (peer, self.next_id);
                    self.next_id += 1;
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
    /// `now` was read just before, and is the only reading of the clock: what comes up late in the sleep is expired by the next step.
    pub(crate) fn step(&mut self, wake: &Wake, wait: Duration, now: Instant) {
        // First, because work may have waited here while its thread was stopped.
        self.expire(now);
        self.push(now);
        if self.done.is_empty() {
            self.poll(wake, wait, now);
        } else if self.ports.iter().map(|port| port.held).sum::<usize>() > self.done.len() {
            // A transport that always has something done must not starve the others.
            self.poll(wake, Duration::ZERO, now);
        }
        self.deliver();
    }

    /// Fails everything.
    pub(crate) fn close(&mut self) {
        self.stop(|_| true, TransferErrorKind::Cancelled, "the engine was closed");
    }

    fn push(&mut self, now: Instant) {
        for port in &mut self.ports {
            if !port.queue.is_empty() {
                port.held += port.transport.submit(&mut port.queue, now, &mut self.done);
            }
        }
    }

    /// Sleeps until the next deadline at most, seen from `now`.
    fn poll(&mut self, wake: &Wake, wait: Duration, now: Instant) {
        const LOOK: Duration = Duration::from_millis(1);
        if self.idle() {
            return;
        }
        let busy = self.ports.iter().filter(|port| port.held > 0).count();
        let mut wait = self.nearest.map_or(SLEEP_MAX, |at| at.saturating_duration_since(now)).min(wait);
        if busy != 1 && !(busy > 1 && wait.is_zero()) {
            let held = self.ports.iter().filter(|port| port.held > 0);
            let rest = held.map(|port| port.transport.may_rest(now)).min().unwrap_or(LOOK);
            let ready: Vec<_> = self.ports.iter_mut().filter(|port| port.held > 0).map(|port| port.transport.readiness()).collect();
            let together = if busy > 0 && ready.iter().all(Option::is_some) { rest } else { LOOK };
            let fds: Vec<_> = ready.into_iter().flatten().collect();
            wake.sleep(&fds, together.min(wait));
            wait = Duration::ZERO;
        }
        for port in self.ports.iter_mut().filter(|port| port.held > 0) {
            port.transport.poll(&mut self.done, wait);
        }
    }

    fn deliver(&mut self) {
        let mut done = std::mem::take(&mut self.done);
        for Completion { work, outcome } in done.drain(..) {
            // What a transport gives back has the path that led to it.
            let Some(port) = work.route().and_then(|&(port, _)| self.ports.get_mut(port)) else {
                self.finish(work, outcome);
                continue;
            };
            port.held -= 1;
            match outcome {
                Ok(()) => {
                    port.meter.done(work.op, work.bytes);
                    self.finish(work, Ok(()));
                }
                Err(failure) => {
                    port.meter.failed(work.op, failure.kind);
                    if let Some(work) = self.next_path(work, failure) {
                        self.enqueue(work);
                    }
                }
            }
        }
        // The emptied vector is kept for its memory.
        self.done = done;
    }

    fn expire(&mut self, now: Instant) {
        if self.nearest.is_none_or(|nearest| nearest > now) {
            return;
        }
        let mut nearest: Option<Instant> = None;
        let late = |work: &Work| {
            let late = work.deadline <= now;
            if !late {
                nearest = Some(nearest.map_or(work.deadline, |nearest| nearest.min(work.deadline)));
            }
            late
        };
        self.stop(late, TransferErrorKind::Timeout, "the deadline passed");
        self.nearest = nearest;
    }

    /// Takes back and fails all work that `chosen` chooses, which is asked of each piece here. What is done stays so.
    fn stop(&mut self, mut chosen: impl FnMut(&Work) -> bool, kind: TransferErrorKind, why: &str) {
        let mut back = Vec::new();
        for at in 0..self.ports.len() {
            let port = &mut self.ports[at];
            port.transport.cancel(&mut chosen, &mut back);
            port.held -= back.len();
            let (stopped, queue) = std::mem::take(&mut port.queue).into_iter().partition::<VecDeque<_>, _>(|work| chosen(work));
            port.queue = queue;
            back.extend(stopped.into_iter().map(|work| (work, "its turn had not come".to_owned())));
            for (work, progress) in back.drain(..) {
                self.ports[at].meter.failed(work.op, kind);
                let cause = format!("{why} after {} ms, {progress}", work.started.elapsed().as_millis());
                self.finish(work, Err(Failure::new(kind, cause)));
            }
        }
        // What failed on its path must not go on with the next one.
        for Completion { work, outcome } in &mut self.done {
            if chosen(work) && outcome.is_err() {
                *outcome = Err(Failure::new(kind, why));
            }
        }
    }

    /// The work with its next path, when the failure is one of the path and another path may do better; else reports it.
    fn next_path(&mut self, mut work: Box<Work>, failure: Failure) -> Option<Box<Work>> {
        let of_path = matches!(failure.kind, TransferErrorKind::PeerUnreachable | TransferErrorKind::PeerGone);
        if of_path && work.has_other_path() {
            work.earlier.push(failure);
            work.path += 1;
            Some(work)
        } else {
            self.finish(work, Err(failure));
            None
        }
    }

    /// Work leaves.
    fn finish(&mut self, work: Box<Work>, outcome: Result<(), Failure>) {
        self.under_way -= 1;
        if self.under_way == 0 {
            self.nearest = None;
        }
        work.report(outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::{Address, Peer};
    use std::os::fd::{AsFd, BorrowedFd};

    /// Never has anything to say.
    struct Silent {
        never: Wake,
        rest: Duration,
    }

    impl Transport for Silent {
        fn capabilities(&self) -> crate::transport::Capabilities {
            crate::transport::Capabilities { depth: 1, registers: false }
        }
        fn register(&mut self, _region: Region) -> Result<(), Failure> {
            Ok(())
        }
        fn unregister(&mut self, _region: Region) {}
        fn connect(&mut self, _address: &Address) -> Result<Peer, Failure> {
            Ok(Peer(0))
        }
        fn submit(&mut self, _queue: &mut VecDeque<Box<Work>>, _now: Instant, _done: &mut Vec<Completion>) -> usize {
            0
        }
        fn poll(&mut self, _done: &mut Vec<Completion>, _wait: Duration) {}
        fn cancel(&mut self, _chosen: &mut dyn FnMut(&Work) -> bool, _back: &mut Vec<(Box<Work>, String)>) {}
        fn readiness(&mut self) -> Option<BorrowedFd<'_>> {
            Some(self.never.as_fd())
        }
        fn may_rest(&self, _now: Instant) -> Duration {
            self.rest
        }
    }

    #[test]
    fn a_sleep_for_several_transports_is_no_longer_than_each_of_them_may_rest() {
        const REST: Duration = Duration::from_millis(20);
        let port = |rest| -> (Box<dyn Transport>, Arc<Meter>) { (Box::new(Silent { never: Wake::new().unwrap(), rest }), Arc::default()) };
        let mut driver = Driver::new(vec![port(Duration::MAX), port(REST)]);
        driver.ports.iter_mut().for_each(|port| port.held = 1);
        driver.under_way = 2;
        let begun = Instant::now();
        driver.poll(&Wake::new().unwrap(), SLEEP_MAX, begun);
        assert!((REST..SLEEP_MAX).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    }
}

//! The threads of a node that work for the master: one asks for orders, one tells what came of them, the others carry them out.

use super::desk::{Desk, Giver};
use super::lending::Lending;
use crate::master::{Link, Master};
use perilune_protocol::rpc::Call;
use perilune_protocol::rpc::work::BeginRun;
use perilune_protocol::{FaultCode, NodeId, Outcome};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};
use tracing::debug;

/// How long the master lets this node wait when there is nothing to do.
const WAIT: Duration = Duration::from_millis(300);
/// One question takes no longer.
const ASK: Duration = Duration::from_secs(2);
/// The pause before the next question when no master answers, and when it does not know this one.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_UNKNOWN: Duration = Duration::from_secs(30);

/// One hand: carries out one order at a time.
pub(super) trait Hand: Send + 'static {
    /// The question that tells what is done and asks for more.
    type Ask: Call<Reply = Vec<Self::Order>>;
    type Order: Send + 'static;
    type Done: Send + 'static;
    /// The name of its thread.
    const NAME: &'static str;
    /// How many there are. A node has no more orders at a time, so that none waits here while its time runs.
    const HANDS: usize;

    fn ask(node: NodeId, done: Vec<Self::Done>, room: u32, wait_ms: u64) -> Self::Ask;
    /// What was to be told by a question that nobody answered.
    fn untold(ask: Self::Ask) -> Vec<Self::Done>;
    /// Milliseconds.
    fn limit_ms(order: &Self::Order) -> u64;
    fn carry_out(&mut self, order: Self::Order, until: Instant) -> Self::Done;
}

/// Says on a connection which process will ask there. Masters of earlier releases wait for what another had taken, or think that a token does
/// not allow it.
pub(super) fn begin_run(link: &Link, question: &BeginRun, deadline: Instant) -> Outcome<()> {
    match link.call(question, deadline)? {
        Err(fault) if matches!(fault.code, FaultCode::NotSupported | FaultCode::Forbidden) => Ok(()),
        told => told,
    }
}

/// The threads. Stops them when dropped; what they are at is then left unfinished.
pub(super) struct Hands {
    stop: Option<Sender<()>>,
    stopping: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Hands {
    /// Begins. `master` is a connection of its own, so that heartbeats never wait for work; `hand` makes one that is told when to stop.
    pub(super) fn begin<H: Hand>(master: Master, lending: &Arc<Lending>, hand: impl Fn(&Arc<AtomicBool>) -> H) -> Outcome<Self> {
        let failed = |e: std::io::Error| FaultCode::Internal.with(format!("cannot start a thread that works for the master: {e}"));
        let (give, desk) = Desk::new(H::HANDS);
        let (done, told) = channel();
        let (free, freed) = channel();
        let stopping = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for number in 0..H::HANDS {
            let (mut hand, desk, done, free) = (hand(&stopping), Arc::clone(&desk), done.clone(), free.clone());
            let run = move || {
                while let Some((order, until)) = desk.take(number) {
                    // Those who take and tell may have stopped.
                    let _ = done.send(hand.carry_out(order, until));
                    let _ = free.send(());
                }
            };
            threads.push(Builder::new().name(H::NAME.into()).spawn(run).map_err(failed)?);
        }
        let (stop, stopped) = channel();
        let master = Arc::new(master);
        let taker = Taker::<H> { master: Arc::clone(&master), lending: Arc::clone(lending), give, freed, stopped };
        threads.push(Builder::new().name(format!("take-{}", H::NAME)).spawn(move || taker.run()).map_err(failed)?);
        let (lending, ending) = (Arc::clone(lending), Arc::clone(&stopping));
        let tell = move || tell::<H>(&master, &lending, &told, &ending);
        threads.push(Builder::new().name(format!("tell-{}", H::NAME)).spawn(tell).map_err(failed)?);
        Ok(Self { stop: Some(stop), stopping, threads })
    }

    /// Tells the threads to end, and does not wait for it.
    pub(super) fn stop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.stop = None;
    }
}

impl Drop for Hands {
    fn drop(&mut self) {
        self.stop();
        for thread in self.threads.drain(..) {
            // One that panicked has said so already.
            let _ = thread.join();
        }
    }
}

/// Asks for work and hands it out: a question waits at the master as long as a hand is free, whatever the others are at.
struct Taker<H: Hand> {
    master: Arc<Master>,
    lending: Arc<Lending>,
    give: Giver<(H::Order, Instant)>,
    /// A hand is free again.
    freed: Receiver<()>,
    stopped: Receiver<()>,
}

impl<H: Hand> Taker<H> {
    fn run(self) {
        let (mut room, mut unheard) = (H::HANDS, false);
        loop {
            room += self.freed.try_iter().count();
            if room == 0 {
                room += usize::from(self.freed.recv_timeout(WAIT).is_ok());
            }
            let pause = if room == 0 { Duration::ZERO } else { self.take(&mut room, &mut unheard) };
            if self.stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    /// Gives the pause before the next question.
    fn take(&self, room: &mut usize, unheard: &mut bool) -> Duration {
        let asked = Instant::now();
        let wait_ms = u64::try_from(WAIT.as_millis()).unwrap_or(0);
        let question = H::ask(self.lending.node(), Vec::new(), u32::try_from(*room).unwrap_or(u32::MAX), wait_ms);
        match self.master.call(&question, asked + ASK) {
            Ok(orders) => {
                *unheard = false;
                *room -= orders.len().min(*room);
                for order in orders {
                    let until = asked + Duration::from_millis(H::limit_ms(&order));
                    self.give.give((order, until));
                }
                Duration::ZERO
            }
            Err(fault) => {
                if !std::mem::replace(unheard, true) {
                    debug!("no work can be asked for: {fault}");
                }
                if fault.code == FaultCode::NotSupported { PAUSE_UNKNOWN } else { PAUSE }
            }
        }
    }
}

/// Tells what came of work, as soon as it is done, until there are no hands any more.
fn tell<H: Hand>(master: &Master, lending: &Lending, told: &Receiver<H::Done>, stopping: &AtomicBool) {
    while let Ok(first) = told.recv() {
        let mut done: Vec<_> = std::iter::once(first).chain(told.try_iter()).collect();
        while !stopping.load(Ordering::Relaxed) {
            // It asks for nothing, so it is answered at once.
            let question = H::ask(lending.node(), done, 0, 0);
            if master.call(&question, Instant::now() + ASK).is_ok() {
                break;
            }
            // Told again; what another leader ordered, this one ignores.
            done = H::untold(question);
            std::thread::sleep(PAUSE);
            done.extend(told.try_iter());
        }
    }
}

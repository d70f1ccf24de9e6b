//! The threads of a node that work for the master: one asks for orders and tells what came of them, the others carry them out.

use super::lending::Lending;
use crate::master::Master;
use perilune_protocol::rpc::Call;
use perilune_protocol::{FaultCode, NodeId, Outcome};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
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
        let (give, given) = channel::<(H::Order, Instant)>();
        let (tell, told) = channel();
        let given = Arc::new(Mutex::new(given));
        let stopping = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for _ in 0..H::HANDS {
            let (mut hand, given, tell) = (hand(&stopping), Arc::clone(&given), tell.clone());
            let run = move || {
                loop {
                    let next = given.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((order, until)) = next else { return };
                    if tell.send(hand.carry_out(order, until)).is_err() {
                        return;
                    }
                }
            };
            threads.push(Builder::new().name(H::NAME.into()).spawn(run).map_err(failed)?);
        }
        let (stop, stopped) = channel();
        let lending = Arc::clone(lending);
        let ask = move || Asker::<H> { master, lending, give, told, stopped, under_way: 0 }.run();
        threads.push(Builder::new().name(format!("take-{}", H::NAME)).spawn(ask).map_err(failed)?);
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

/// Asks for work, hands it out, and tells what came of it.
struct Asker<H: Hand> {
    master: Master,
    lending: Arc<Lending>,
    give: Sender<(H::Order, Instant)>,
    told: Receiver<H::Done>,
    stopped: Receiver<()>,
    under_way: usize,
}

impl<H: Hand> Asker<H> {
    fn run(mut self) {
        let mut done = Vec::new();
        let mut unheard = false;
        loop {
            // While there is work, the next question waits for some of it to be done; the master need not hold it then.
            let wait = if self.under_way == 0 { WAIT } else { Duration::ZERO };
            if self.under_way > 0
                && done.is_empty()
                && let Ok(first) = self.told.recv_timeout(WAIT)
            {
                done.push(first);
            }
            done.extend(self.told.try_iter());
            self.under_way -= done.len().min(self.under_way);
            let asked = Instant::now();
            let room = u32::try_from(H::HANDS - self.under_way.min(H::HANDS)).unwrap_or(0);
            let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(0);
            let question = H::ask(self.lending.node(), std::mem::take(&mut done), room, wait_ms);
            let pause = match self.master.call(&question, asked + ASK) {
                Ok(orders) => {
                    unheard = false;
                    self.under_way += orders.len();
                    for order in orders {
                        let until = asked + Duration::from_millis(H::limit_ms(&order));
                        // The hands end after this does.
                        let _ = self.give.send((order, until));
                    }
                    Duration::ZERO
                }
                Err(fault) => {
                    // Told again; what another leader ordered, this one ignores.
                    done = H::untold(question);
                    if !unheard {
                        debug!("no work can be asked for: {fault}");
                    }
                    unheard = true;
                    if fault.code == FaultCode::NotSupported { PAUSE_UNKNOWN } else { PAUSE }
                }
            };
            if self.stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }
}

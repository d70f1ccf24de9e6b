//! A lane: transports of its own, driven by one thread at a time.
//!
//! # The baton
//!
//! The baton is the lock of the [`Driver`]. Whoever wants bytes moved tries to take it and moves them itself; nobody ever blocks on it.
//!
//! 1. *Ask, then try.* A thread that asks for something puts it in the inbox (or, when it means to sleep, itself on the list of waiters),
//!    passes a `SeqCst` fence, and then tries to take the baton.
//! 2. *Leave, then look.* The holder drops the baton, passes a `SeqCst` fence, and then, if it left work under way or the inbox is not
//!    empty, calls exactly one thread: the oldest waiter, or the background thread when there is none.
//! 3. *Called, then try.* A called thread tries to take the baton before it does anything else; if its own work is done by then, it
//!    takes it only to leave again by rule 2. If it fails to take it, the new holder has the duty.
//! 4. *Sleep, then look.* A holder that is about to sleep in a transport says so in `asleep`, passes a `SeqCst` fence, and looks into the
//!    inbox once more. A thread that failed to take the baton in rule 1 wakes a holder that is asleep.
//! 5. The background thread gives the baton up as soon as somebody waits: a waiter that moves its own bytes saves a hand-over.
//! 6. *Leave, and come back.* Who submits a ticket most often waits for it next, and would only take the baton back from the background
//!    thread. So it calls nobody but notes in `left` that it left work; the background thread, woken if it is not watching already, drives
//!    when nobody took the baton for [`GRACE`] after that, or at once when a ticket is polled. As long as somebody always comes back it looks
//!    less and less often.
//!
//! Why nothing is lost: by 1 and 2 either the asker takes the baton or the leaving holder sees what was asked; by 2, 3 and 6 work under way
//! always has a holder, a called thread on its way, or a background thread that watches; by 4 a sleeping holder learns of new work.
//!
//! # Who has a piece of work
//!
//! | from | until | it lies in | whose thread |
//! |---|---|---|---|
//! | it is planned | the baton is taken | the hands of its caller, or the inbox when somebody else has the baton | the caller's |
//! | it is started | its transport takes it | the queue of that transport | the holder's |
//! | `submit` | its completion, or `cancel` | the transport, and nowhere else: the lane keeps no list of it | the holder's |
//! | its completion | it is reported, or tries its next path | `done` | the holder's |
//!
//! A caller that finds the baton free does all of this itself, and most often its work is posted before anybody else hears of it. The clock
//! is read once for that: by the plan. Who polls reads it again with every round, and only there a deadline is looked at: the nearest one
//! is known, as far as no work has an earlier one, and when it has come all work is gone through, wherever it lies.
//!
//! # The short way
//!
//! One operation of one stretch, asked for by a thread that waits for it and finds the baton free, the inbox empty and nothing under way,
//! needs none of this: no one could ask where it is before it is done. So the holder first offers it to its transport as it stands
//! ([`Transport::dash`](crate::transport::Transport::dash)), which most often posts it and sees its end at once: without work, tally, queue or
//! clock. What takes longer than it pays to stay awake becomes work where it is, and is under way like any other; what cannot go this way, or
//! failed on it, is started as work from the beginning. Who asks meanwhile finds the baton taken, and is seen when it is dropped: rule 2.

mod driver;
mod wake;
pub(crate) mod work;

pub(crate) use driver::{Driver, Message};
pub use wake::Wake;
pub(crate) use wake::milliseconds;

use crate::completion::{Listener, Tally};
use crate::fault::Failure;
use crate::request::Outcome;
use crate::transport::{Dash, Region, Single};
use crossbeam::queue::SegQueue;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, mpsc};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};
use work::Work;

/// How long work waits for the thread that submitted it to come back, at first and where threads always did. A lane in use wakes its
/// background thread so often.
const GRACE: Duration = Duration::from_millis(1);
const GRACE_MAX: Duration = Duration::from_millis(16);

/// A thread that sleeps until its work is done or it is called to drive.
struct Waiter {
    thread: Thread,
    /// Set with `Release` by the thread that took it off the list, read with `Acquire` by its own thread.
    called: AtomicBool,
}

pub(crate) struct Lane {
    driver: Mutex<Driver>,
    inbox: SegQueue<Message>,
    waiters: Mutex<VecDeque<Arc<Waiter>>>,
    wake: Arc<Wake>,
    /// Written by the holder, read by threads that failed to become it; ordered by the fences of rule 4.
    asleep: AtomicBool,
    /// Set by whoever calls the background thread, cleared by that thread; `park` and `unpark` order the rest.
    background_called: AtomicBool,
    /// Set by whoever leaves work without calling anybody, cleared by the background thread, which then watches.
    left: AtomicBool,
    /// Set while the background thread looks at `left` by itself. Whoever set `left` and finds this unset wakes it.
    watching: AtomicBool,
    /// How often the baton was taken. Written by the holder; whoever reads it only guesses whether the lane is in use, so relaxed.
    turns: AtomicU64,
    /// Set once, when the engine closes.
    closed: AtomicBool,
    background: Mutex<Option<JoinHandle<()>>>,
    registers: bool,
    /// Whether somebody holds the baton. Written by the holder; a hint for who chooses a lane or watches, so relaxed.
    driven: AtomicBool,
}

impl Lane {
    pub(crate) fn start(number: usize, driver: Driver, wake: Arc<Wake>) -> std::io::Result<Arc<Self>> {
        let registers = driver.registers();
        let lane = Arc::new(Self {
            registers,
            driven: AtomicBool::new(false),
            driver: Mutex::new(driver),
            inbox: SegQueue::new(),
            waiters: Mutex::default(),
            wake,
            asleep: AtomicBool::new(false),
            background_called: AtomicBool::new(false),
            left: AtomicBool::new(false),
            watching: AtomicBool::new(false),
            turns: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            background: Mutex::new(None),
        });
        let own = Arc::clone(&lane);
        let thread = thread::Builder::new().name(format!("pl-lane-{number}")).stack_size(256 << 10).spawn(move || own.run_background())?;
        *lane.lock_background() = Some(thread);
        Ok(lane)
    }

    /// Whether any transport of this lane wants local memory registered.
    pub(crate) fn registers(&self) -> bool {
        self.registers
    }

    /// A hint for the choice of a lane: nobody drives it at this moment.
    pub(crate) fn looks_free(&self) -> bool {
        !self.driven.load(Ordering::Relaxed)
    }

    /// Takes the baton if it is free.
    pub(crate) fn try_baton(&self) -> Option<Baton<'_>> {
        let driver = match self.driver.try_lock() {
            Ok(driver) => driver,
            // Not by a panic with the driver in hand: that ends the process.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        self.driven.store(true, Ordering::Relaxed);
        self.turns.store(self.turns.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        Some(Baton { lane: self, driver: Some(driver), comes_back: false })
    }

    /// Starts work without waiting for it.
    pub(crate) fn submit(&self, work: impl Iterator<Item = Box<Work>>, now: Instant) {
        match self.try_baton() {
            Some(mut baton) => {
                work.for_each(|work| baton.start(work));
                baton.step(Duration::ZERO, now);
                baton.comes_back = true;
            }
            None => {
                work.for_each(|work| self.inbox.push(Message::Start(work)));
                self.ask();
            }
        }
    }

    /// Starts work, planned `now`, and returns when all of its tally is done.
    pub(crate) fn run(&self, work: impl Iterator<Item = Box<Work>>, tally: &Arc<Tally>, now: Instant) {
        never_unwind(|| {
            if let Some(mut baton) = self.try_baton() {
                work.for_each(|work| baton.start(work));
                baton.drive(now, || tally.done());
            } else {
                work.for_each(|work| self.inbox.push(Message::Start(work)));
                fence(Ordering::SeqCst);
            }
            self.wait(tally);
        });
    }

    /// The same for a single operation, which goes the short way where it can.
    pub(crate) fn run_one(&self, single: &Single<'_>) -> Outcome {
        never_unwind(|| {
            let mut tally = None;
            let mut work = |started| {
                let fresh = Arc::new(Tally::new(1, 1));
                single.work(Arc::clone(tally.insert(fresh)), started)
            };
            let mut baton = self.try_baton();
            match &mut baton {
                Some(baton) => match baton.dash(single, &mut work) {
                    Dash::Done => return Ok(()),
                    Dash::UnderWay => {}
                    Dash::Refused => baton.start(work(Instant::now())),
                },
                None => {
                    self.inbox.push(Message::Start(work(Instant::now())));
                    fence(Ordering::SeqCst);
                }
            }
            let Some(tally) = tally else { return Ok(()) };
            if let Some(mut baton) = baton {
                baton.drive(Instant::now(), || tally.done());
            }
            self.wait(&tally);
            tally.take().into_iter().collect()
        })
    }

    /// Drives the lane, or sleeps while another thread does, until the tally is done.
    pub(crate) fn wait(&self, tally: &Arc<Tally>) {
        while !tally.done() {
            if let Some(mut baton) = self.try_baton() {
                baton.drive(Instant::now(), || tally.done());
                continue;
            }
            let me = Arc::new(Waiter { thread: thread::current(), called: AtomicBool::new(false) });
            if !tally.listen(Listener::Thread(me.thread.clone())) {
                return;
            }
            self.lock_waiters().push_back(Arc::clone(&me));
            fence(Ordering::SeqCst);
            if let Some(mut baton) = self.try_baton() {
                baton.drive(Instant::now(), || tally.done());
            } else {
                self.rouse();
                while !tally.done() && !me.called.load(Ordering::Acquire) {
                    thread::park();
                }
            }
            self.lock_waiters().retain(|waiter| !Arc::ptr_eq(waiter, &me));
            if me.called.load(Ordering::Acquire) && tally.done() {
                // Rule 3: dropping the baton at once passes the call on.
                drop(self.try_baton());
            }
        }
    }

    /// Has what is under way driven by the background thread now: nobody comes back to drive it.
    pub(crate) fn attend(&self) {
        if self.left.load(Ordering::SeqCst) || self.watching.load(Ordering::SeqCst) {
            self.call_background();
        }
    }

    /// Takes back what the tally still waits for; returns when no buffer of it will be touched again.
    pub(crate) fn cancel(&self, tally: &Arc<Tally>) {
        self.inbox.push(Message::Cancel(Arc::clone(tally)));
        self.ask();
        self.wait(tally);
    }

    /// Registers local memory with every transport of this lane.
    pub(crate) fn register(&self, region: Region) -> Result<(), Failure> {
        let (reply, answer) = mpsc::channel();
        self.inbox.push(Message::Register(region, reply));
        self.ask();
        answer.recv().unwrap_or_else(|_| Err(Failure::new(crate::fault::TransferErrorKind::Cancelled, "the engine was closed")))
    }

    /// The opposite of [`Lane::register`]; who receives from what it returns has waited for it.
    pub(crate) fn unregister(&self, region: Region) -> mpsc::Receiver<()> {
        let (reply, answer) = mpsc::channel();
        self.inbox.push(Message::Unregister(region, reply));
        self.ask();
        answer
    }

    /// Cancels everything and joins the background thread.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.call_background();
        self.ask();
        let thread = self.lock_background().take();
        // The last handle of an engine may be dropped by one of its own threads, which cannot join itself.
        if let Some(thread) = thread.filter(|t| t.thread().id() != thread::current().id()) {
            let _ = thread.join();
        }
    }

    /// Rule 1 after the inbox was filled.
    fn ask(&self) {
        fence(Ordering::SeqCst);
        match self.try_baton() {
            Some(mut baton) => baton.step(Duration::ZERO, Instant::now()),
            None => self.rouse(),
        }
    }

    fn rouse(&self) {
        if self.asleep.load(Ordering::SeqCst) {
            self.wake.fire();
        }
    }

    /// Rule 2, or with `comes_back` rule 6.
    fn call_one(&self, comes_back: bool) {
        let oldest = self.lock_waiters().pop_front();
        match oldest {
            Some(waiter) => {
                waiter.called.store(true, Ordering::Release);
                waiter.thread.unpark();
            }
            None if comes_back => {
                self.left.store(true, Ordering::SeqCst);
                if !self.watching.load(Ordering::SeqCst) {
                    self.wake_background();
                }
            }
            None => self.call_background(),
        }
    }

    fn call_background(&self) {
        self.background_called.store(true, Ordering::SeqCst);
        self.wake_background();
    }

    fn wake_background(&self) {
        if let Some(thread) = &*self.lock_background() {
            thread.thread().unpark();
        }
    }

    fn run_background(&self) {
        loop {
            let closed = self.closed.load(Ordering::SeqCst);
            self.background_called.store(false, Ordering::SeqCst);
            if let Some(mut baton) = self.try_baton() {
                baton.drive(Instant::now(), || !self.lock_waiters().is_empty());
            }
            if closed {
                return;
            }
            self.rest();
        }
    }

    /// Returns when the background thread is called, or work was left and nobody took the baton in its grace.
    fn rest(&self) {
        let mut grace = GRACE;
        while !self.background_called.load(Ordering::SeqCst) {
            self.watching.store(true, Ordering::SeqCst);
            if self.left.swap(false, Ordering::SeqCst) {
                let turn = self.turns.load(Ordering::Relaxed);
                thread::park_timeout(grace);
                // Who drives now has seen to it, and has the duty of rule 2: `driven` is no older than what set `left`.
                if self.turns.load(Ordering::Relaxed) == turn && !self.driven.load(Ordering::Relaxed) {
                    break;
                }
                grace = (grace * 2).min(GRACE_MAX);
                continue;
            }
            self.watching.store(false, Ordering::SeqCst);
            // Once more, as who left work while we watched woke nobody.
            if !self.left.load(Ordering::SeqCst) {
                thread::park();
            }
        }
        self.watching.store(false, Ordering::SeqCst);
    }

    fn lock_waiters(&self) -> MutexGuard<'_, VecDeque<Arc<Waiter>>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_background(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.background.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the process when `f` panics. Unwinding would free local buffers while transports still hold work on them, and the next holder of
/// the baton would go on with a half-changed driver: bytes would move through dangling pointers.
fn never_unwind<T>(f: impl FnOnce() -> T) -> T {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            tracing::error!("a panic while bytes travel: the process ends, as memory that is still in use would be freed");
            std::process::abort();
        }
    }
    let bomb = Bomb;
    let result = f();
    std::mem::forget(bomb);
    result
}

/// The right to drive the lane. Dropping it follows rule 2 or 6.
pub(crate) struct Baton<'a> {
    lane: &'a Lane,
    /// `None` only while it is being dropped.
    driver: Option<MutexGuard<'a, Driver>>,
    /// The thread that has it means to wait for what it leaves: rule 6.
    comes_back: bool,
}

impl Baton<'_> {
    pub(crate) fn start(&mut self, work: Box<Work>) {
        if let Some(driver) = &mut self.driver {
            never_unwind(|| driver.start(work));
        }
    }

    /// [`Driver::dash`], unless somebody asked for something: that goes first.
    fn dash(&mut self, single: &Single<'_>, work: &mut dyn FnMut(Instant) -> Box<Work>) -> Dash {
        match &mut self.driver {
            Some(driver) if self.lane.inbox.is_empty() && !self.lane.closed.load(Ordering::SeqCst) => driver.dash(single, work),
            _ => Dash::Refused,
        }
    }

    /// One round: what was asked, what the transports have, and at most one sleep.
    fn step(&mut self, wait: Duration, now: Instant) {
        let Some(driver) = &mut self.driver else { return };
        never_unwind(|| Self::step_with(self.lane, driver, wait, now));
    }

    fn step_with(lane: &Lane, driver: &mut Driver, wait: Duration, now: Instant) {
        while let Some(message) = lane.inbox.pop() {
            driver.take(message);
        }
        if lane.closed.load(Ordering::SeqCst) {
            driver.close();
        }
        if wait.is_zero() {
            return driver.step(&lane.wake, wait, now);
        }
        lane.asleep.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let missed = !lane.inbox.is_empty() || lane.closed.load(Ordering::SeqCst);
        driver.step(&lane.wake, if missed { Duration::ZERO } else { wait }, now);
        lane.asleep.store(false, Ordering::SeqCst);
    }

    /// Moves bytes until `enough`, or until nothing is left to do.
    fn drive(&mut self, mut now: Instant, enough: impl Fn() -> bool) {
        loop {
            self.step(Duration::MAX, now);
            if enough() || (self.driver.as_ref().is_none_or(|driver| driver.idle()) && self.lane.inbox.is_empty()) {
                return;
            }
            now = Instant::now();
        }
    }
}

impl Drop for Baton<'_> {
    fn drop(&mut self) {
        let idle = self.driver.as_ref().is_none_or(|driver| driver.idle());
        self.lane.driven.store(false, Ordering::Relaxed);
        self.driver = None;
        fence(Ordering::SeqCst);
        if !idle || !self.lane.inbox.is_empty() {
            self.lane.call_one(self.comes_back);
        }
    }
}

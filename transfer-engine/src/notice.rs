//! Numbers from peers: the bounded queue they wait in, and the room in it that peers are promised before they send.
//!
//! Every place of the queue is free, promised to a peer that may send a notice without asking, or filled by one that nobody took yet. So a
//! notice that arrives has a place, and a peer that has none waits on its own side. Servers that find no place free are woken when one is.

use crate::lane::Wake;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Places of the queue.
pub(crate) const PLACES: usize = 1024;

/// A number that a peer told by [`crate::Engine::notify`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// What it means is between the two programs.
    pub number: u32,
}

/// The receiving end of the notices of an engine. Cheap to clone; each notice goes to one of those who take.
#[derive(Clone)]
pub struct Notices {
    mailbox: Arc<Mailbox>,
}

impl Notices {
    pub(crate) fn new(mailbox: Arc<Mailbox>) -> Self {
        Self { mailbox }
    }

    /// Waits for the next notice, at most so long; zero only looks. `None` when none came, and at once when the engine has stopped and
    /// all that came before are taken.
    pub fn next(&self, timeout: Duration) -> Option<Notice> {
        self.mailbox.take(timeout).map(|number| Notice { number })
    }
}

impl fmt::Debug for Notices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notices").field("waiting", &self.mailbox.lock().queue.len()).finish_non_exhaustive()
    }
}

/// The queue of an engine.
#[derive(Default)]
pub(crate) struct Mailbox {
    state: Mutex<State>,
    came: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<u32>,
    /// Places promised to peers.
    promised: usize,
    taken: u64,
    closed: bool,
    /// Somebody found no place free since the last one became so.
    sought: bool,
    /// Servers that look for places.
    servers: Vec<Arc<Wake>>,
}

impl State {
    fn free(&self) -> usize {
        PLACES - self.promised - self.queue.len()
    }
}

impl Mailbox {
    /// Fires `wake` when a place is free again after there was none.
    pub(crate) fn watch(&self, wake: Arc<Wake>) {
        self.lock().servers.push(wake);
    }

    /// Takes a notice in if a place is free.
    pub(crate) fn put(&self, number: u32) -> bool {
        let mut state = self.lock();
        let room = state.free() > 0;
        if room {
            state.queue.push_back(number);
            self.came.notify_one();
        } else {
            state.sought = true;
        }
        room
    }

    /// Promises up to `count` places, and says how many.
    #[cfg(feature = "rdma")]
    pub(crate) fn promise(&self, count: usize) -> usize {
        let mut state = self.lock();
        let given = count.min(state.free());
        state.promised += given;
        state.sought |= given < count;
        given
    }

    /// Takes in a notice whose place was promised.
    #[cfg(feature = "rdma")]
    pub(crate) fn keep(&self, number: u32) {
        let mut state = self.lock();
        state.promised -= 1;
        state.queue.push_back(number);
        self.came.notify_one();
    }

    /// Promised places that will not be used.
    #[cfg(feature = "rdma")]
    pub(crate) fn give_back(&self, count: usize) {
        let mut state = self.lock();
        state.promised -= count;
        if count > 0 {
            state.freed();
        }
    }

    /// Takers hear no more than what came.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.came.notify_all();
    }

    /// Notices taken so far.
    pub(crate) fn taken(&self) -> u64 {
        self.lock().taken
    }

    fn take(&self, timeout: Duration) -> Option<u32> {
        let begun = Instant::now();
        let mut state = self.lock();
        loop {
            if let Some(number) = state.queue.pop_front() {
                state.taken += 1;
                state.freed();
                return Some(number);
            }
            let left = timeout.saturating_sub(begun.elapsed());
            if state.closed || left.is_zero() {
                return None;
            }
            state = self.came.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Tells who looked for a place in vain.
    fn freed(&mut self) {
        if std::mem::take(&mut self.sought) {
            self.servers.iter().for_each(|wake| wake.fire());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn a_full_queue_takes_nothing_and_wakes_who_looked_once_there_is_room() {
        let (mailbox, wake) = (Arc::new(Mailbox::default()), Arc::new(Wake::new().unwrap()));
        mailbox.watch(Arc::clone(&wake));
        let woken = || {
            let begun = Instant::now();
            wake.sleep(&[], Duration::from_millis(1));
            begun.elapsed() < Duration::from_millis(1)
        };
        assert!((0..PLACES as u32).all(|number| mailbox.put(number)));
        let notices = Notices::new(Arc::clone(&mailbox));
        assert_eq!(notices.next(Duration::ZERO), Some(Notice { number: 0 }));
        assert!(!woken(), "nobody looked");
        assert!(mailbox.put(7) && !mailbox.put(8));
        assert_eq!(notices.clone().next(Duration::ZERO), Some(Notice { number: 1 }));
        assert!(woken(), "somebody looked");
        assert_eq!(mailbox.taken(), 2);
    }

    #[cfg(feature = "rdma")]
    #[test]
    fn promised_places_are_nobody_elses() {
        let mailbox = Mailbox::default();
        assert_eq!((mailbox.promise(PLACES - 1), mailbox.promise(9), mailbox.promise(1)), (PLACES - 1, 1, 0));
        assert!(!mailbox.put(1));
        mailbox.give_back(1);
        assert!(mailbox.put(2) && !mailbox.put(3));
        mailbox.keep(4);
        assert_eq!((mailbox.take(LONG), mailbox.promise(5)), (Some(2), 1));
        assert_eq!(mailbox.take(LONG), Some(4));
    }

    #[test]
    fn who_waits_is_woken_by_a_notice_and_by_the_end() {
        let mailbox = Arc::new(Mailbox::default());
        thread::scope(|scope| {
            let takers: Vec<_> = (0..2).map(|_| scope.spawn(|| Notices::new(Arc::clone(&mailbox)).next(LONG))).collect();
            assert!(mailbox.put(5));
            while mailbox.taken() == 0 {
                thread::yield_now();
            }
            mailbox.close();
            let mut taken: Vec<_> = takers.into_iter().map(|taker| taker.join().unwrap().map(|notice| notice.number)).collect();
            taken.sort_unstable();
            assert_eq!(taken, [None, Some(5)]);
        });
    }
}

//! The two threads on which requests run, and the waiting for them from other threads.

use crate::fault::{Class, Vaulted};
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const THREADS: usize = 2;
/// Calls into directories that may hang at a time, of all of them: threads are made only as they are needed.
const CALLS_MAX: usize = 4096;

/// One for the process: requests of all vaults wait for the network most of the time.
static RUNTIME: OnceLock<Result<Runtime, String>> = OnceLock::new();

fn runtime() -> Vaulted<&'static Runtime> {
    let start = || {
        Builder::new_multi_thread()
            .worker_threads(THREADS)
            .max_blocking_threads(CALLS_MAX)
            .thread_name("vault")
            .enable_all()
            .build()
            .map_err(|e| e.to_string())
    };
    RUNTIME.get_or_init(start).as_ref().map_err(|e| Class::Away.with(format!("the threads that talk to vaults cannot be started: {e}")))
}

/// Something to be done.
pub(crate) enum Operation<T> {
    Done(Vaulted<T>),
    /// By the two threads: what a bucket wants (signatures, encryption) takes no more processors, whoever waits for it.
    There(Work<T>),
    /// By who asks for it. Many are under way at a time, and what is passed on to other threads meets caches and buffers that never saw it.
    Here(Work<T>),
}

type Work<T> = Pin<Box<dyn Future<Output = Vaulted<T>> + Send>>;

impl<T: Send + 'static> Operation<T> {
    /// Begins it, to be waited for later, where others do it.
    pub(crate) fn begin(self) -> Vaulted<Pending<T>> {
        match self {
            Self::There(work) => begin(work),
            here => Ok(Pending::done(here.finish())),
        }
    }

    /// Waits for it on this thread. It has a deadline, so this ends.
    pub(crate) fn finish(self) -> Vaulted<T> {
        match self {
            Self::Done(done) => done,
            Self::There(work) => begin(work)?.wait(),
            Self::Here(work) => {
                let _context = runtime()?.enter();
                wait_for(work)
            }
        }
    }
}

/// Does it on this thread, which sleeps while there is nothing to do. Channels of threads would spin before they sleep.
fn wait_for<T>(work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    let waker = Waker::from(Arc::new(Sleeper(thread::current())));
    loop {
        match work.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(done) => return done,
            Poll::Pending => thread::park(),
        }
    }
}

/// A thread that waits for its own work. The runtime's own way of that refuses threads on which another one runs.
struct Sleeper(Thread);

impl Wake for Sleeper {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Something under way. Dropped, it is given up.
pub(crate) struct Pending<T> {
    task: Option<JoinHandle<()>>,
    result: oneshot::Receiver<Vaulted<T>>,
}

/// Begins.
pub(crate) fn begin<T: Send + 'static>(work: impl Future<Output = Vaulted<T>> + Send + 'static) -> Vaulted<Pending<T>> {
    let (give, result) = oneshot::channel();
    let task = runtime()?.spawn(async move {
        // Nobody may be waiting any more.
        let _ = give.send(work.await);
    });
    Ok(Pending { task: Some(task), result })
}

impl<T> Pending<T> {
    /// It has ended.
    fn done(result: Vaulted<T>) -> Self {
        let (give, taken) = oneshot::channel();
        // Who takes it is there.
        let _ = give.send(result);
        Self { task: None, result: taken }
    }

    /// Waits on this thread. The work has a deadline, so this ends.
    pub(crate) fn wait(mut self) -> Vaulted<T> {
        wait_for(&mut self.result).unwrap_or_else(|_| Err(Class::Invalid.with("a request to a vault panicked: please report it")))
    }

    /// Lets it end by itself.
    pub(crate) fn leave(mut self) {
        self.task = None;
    }
}

impl<T> Drop for Pending<T> {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

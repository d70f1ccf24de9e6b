//! Background work: each piece is short, and may be stopped between two.

mod aside;
pub(crate) mod board;
pub(crate) mod cold;
pub(crate) mod evict;
pub(crate) mod housekeeping;
pub(crate) mod jobs;
pub(crate) mod pools;
pub(crate) mod recycle;
#[cfg(test)]
mod sample;

pub(crate) use aside::aside;

use crate::engine::Engine;
use crate::feeds;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;
use tokio::runtime::Handle;

/// What a thread does until its reign is over.
type Run = fn(&Engine, &Handle);

/// Begins the threads that work for a reign.
pub(crate) fn hire(engine: &Engine, handle: &Handle, workers: &mut Vec<JoinHandle<()>>) -> io::Result<()> {
    let runs: [(&str, Run); 5] =
        [("evict", evict::run), ("jobs", jobs::run), ("cold", cold::run), ("feeds", feeds::run), ("housekeeping", housekeeping::run)];
    for (name, run) in runs {
        let (engine, handle) = (engine.clone(), handle.clone());
        workers.push(Builder::new().name(name.into()).spawn(move || run(&engine, &handle))?);
    }
    Ok(())
}

/// What a worker sleeps on: a bell that rings when there is something to do, or when it is to stop.
#[derive(Default)]
pub(crate) struct Bell {
    rung: Mutex<bool>,
    bell: Condvar,
    stopped: AtomicBool,
}

impl Bell {
    fn lock(&self) -> MutexGuard<'_, bool> {
        self.rung.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is something to do.
    pub(crate) fn ring(&self) {
        *self.lock() = true;
        self.bell.notify_all();
    }

    /// The worker is to end.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.ring();
    }

    /// Whether the worker is to end.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Sleeps until rung, at most `longest`. False when the worker is to end.
    pub(crate) fn wait(&self, longest: Duration) -> bool {
        let waited = self.bell.wait_timeout_while(self.lock(), longest, |rung| !*rung);
        *waited.unwrap_or_else(PoisonError::into_inner).0 = false;
        !self.is_stopped()
    }
}

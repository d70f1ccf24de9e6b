//! The log thread: the clock and the queues around the driver. What arrives from other members goes first, so that no flood of proposals
//! delays a heartbeat.

use super::driver::Driver;
use super::machine::Machine;
use super::peers::Post;
use super::request::{Input, Waiting};
use super::{LogConfig, entry, room};
use crossbeam::channel::{Receiver, RecvTimeoutError};
use std::time::Instant;

/// Letters between two looks at what raft wants: enough to share a write.
const LETTERS: usize = 256;

/// What goes into one entry, and the input that came next, if it was taken from the inbox already.
type Gathered<O> = (Vec<Waiting<O>>, Option<Input<O>>);

/// Until told to close. `began` is when the driver's time was zero.
pub(super) fn run<M: Machine>(mut driver: Driver<M>, inbox: &Receiver<Input<M::Output>>, post: Receiver<Post>, began: Instant) {
    let every = driver.config.tick();
    let mut due = began.elapsed() + every;
    let mut next = None;
    loop {
        if driver.may_sleep() {
            // A lone leader has nobody to reach in time and sleeps until it is told something, or the disk is to be looked at.
            next = next.or_else(|| match inbox.recv_timeout(room::EVERY) {
                Ok(input) => Some(input),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => Some(Input::Close),
            });
        } else {
            let mut letters = 0;
            for letter in post.try_iter().take(LETTERS) {
                driver.post(letter);
                letters += 1;
            }
            let now = began.elapsed();
            let ticks = now >= due;
            if ticks {
                // Time that this thread slept through is not made up for: others may have been heard, and the letters come first.
                due = now + every;
                driver.tick(now);
            }
            next = next.or_else(|| inbox.try_recv().ok());
            if next.is_none() && letters == 0 && !ticks {
                crossbeam::select! {
                    recv(post) -> letter => letter.into_iter().for_each(|letter| driver.post(letter)),
                    recv(inbox) -> input => next = Some(input.unwrap_or(Input::Close)),
                    default(due.saturating_sub(now)) => continue,
                }
            }
        }
        if !serve(&mut driver, &mut next, inbox) {
            break;
        }
        driver.turn(began.elapsed());
    }
    if driver.poison.is_none() {
        driver.files.sync();
    }
    driver.publish();
    // Whoever waits to hand in a letter stops waiting, before the driver waits for it.
    drop(post);
}

/// Takes the input at hand, with all that can go with it. False when told to close.
pub(super) fn serve<M: Machine>(driver: &mut Driver<M>, next: &mut Option<Input<M::Output>>, inbox: &Receiver<Input<M::Output>>) -> bool {
    match next.take() {
        Some(Input::Close) => return false,
        Some(Input::Propose(first)) => {
            let batch;
            (batch, *next) = gather(&driver.config, first, inbox);
            driver.propose(batch);
        }
        Some(input) => driver.take(input),
        None => {}
    }
    true
}

/// All that waits, within the bounds of one entry; and the input that ended it, if one did.
fn gather<O>(config: &LogConfig, first: Vec<Waiting<O>>, inbox: &Receiver<Input<O>>) -> Gathered<O> {
    let size = |effects: &[Waiting<O>]| effects.iter().map(|waiting| waiting.effect.len() + entry::LENGTH_BYTES).sum::<usize>();
    let (mut batch, mut bytes) = (first, 0);
    bytes += size(&batch);
    while batch.len() < config.batch_effects {
        match inbox.try_recv() {
            Ok(Input::Propose(more)) if batch.len() + more.len() <= config.batch_effects && bytes + size(&more) <= config.batch_bytes => {
                bytes += size(&more);
                batch.extend(more);
            }
            Ok(other) => return (batch, Some(other)),
            Err(_) => break,
        }
    }
    (batch, None)
}

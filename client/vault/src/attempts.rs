//! One operation: attempts with a limit each, pauses between them, a deadline for all, and the gate of the vault.

use crate::fault::{Class, VaultFault, Vaulted};
use crate::gate::{Gate, Limits};
use crate::place::Place;
use crate::runtime::Operation;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// What all operations of one vault share.
pub(crate) struct Shared {
    pub(crate) place: Place,
    pub(crate) gate: Gate,
    pub(crate) limits: Limits,
    /// How the vault is called in messages.
    pub(crate) shown: String,
}

impl Shared {
    pub(crate) fn is_dir(&self) -> bool {
        matches!(self.place, Place::Dir(_))
    }
}

/// Whether an attempt is the first, or may meet what an earlier one did without having been heard.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    First,
    Again,
}

/// An attempt that moves so many bytes in one call into a directory may take longer by a millisecond than is set, and so may an order to upload them.
pub const BYTES_PER_MS: u64 = 8 << 10;

/// An operation of which one attempt moves `bytes` in a call into a directory; `what` says it in messages, such as `put objects/5f/...`.
pub(crate) fn operation<T, F>(
    shared: &Arc<Shared>,
    what: String,
    bytes: u64,
    deadline: Instant,
    once: impl Fn(Place, Turn) -> F + Send + Sync + 'static,
) -> Operation<T>
where
    T: Send + 'static,
    F: Future<Output = Vaulted<T>> + Send + 'static,
{
    if let Place::Shelf(_) = &shared.place {
        let answer = pin!(once(shared.place.clone(), Turn::First)).poll(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(answer) = answer else { unreachable!("a shelf answers at once") };
        return Operation::Done(answer.map_err(|fault| fault.at(format_args!("{}: {what}", shared.shown))));
    }
    let (shared, is_dir) = (Arc::clone(shared), shared.is_dir());
    let attempt = shared.limits.attempt + Duration::from_millis(bytes / BYTES_PER_MS);
    let work =
        async move { repeat(&shared, attempt, deadline, once).await.map_err(|fault| fault.at(format_args!("{}: {what}", shared.shown))) };
    // Calls into a directory have threads of their own.
    if is_dir { Operation::Here(Box::pin(work)) } else { Operation::There(Box::pin(work)) }
}

/// The same on what has a name.
pub(crate) fn operation_on<T, F>(
    shared: &Arc<Shared>,
    verb: &str,
    name: &Arc<str>,
    deadline: Instant,
    once: impl Fn(Place, Arc<str>, Turn) -> F + Send + Sync + 'static,
) -> Operation<T>
where
    T: Send + 'static,
    F: Future<Output = Vaulted<T>> + Send + 'static,
{
    let name = Arc::clone(name);
    operation(shared, format!("{verb} {name}"), 0, deadline, move |place, turn| once(place, Arc::clone(&name), turn))
}

async fn repeat<T, F: Future<Output = Vaulted<T>>>(
    shared: &Shared,
    attempt: Duration,
    deadline: Instant,
    once: impl Fn(Place, Turn) -> F,
) -> Vaulted<T> {
    let mut pauses = shared.gate.pauses();
    let mut last: Option<VaultFault> = None;
    let mut tries = 0;
    loop {
        let now = Instant::now();
        let limit = attempt.min(deadline.saturating_duration_since(now));
        if limit.is_zero() {
            return Err(given_up(last, tries, "the deadline had passed"));
        }
        let pass =
            shared.gate.enter(now).map_err(|why| Class::Away.with(format!("the vault is away, and is tried now and then ({why})")))?;
        let turn = if tries == 0 { Turn::First } else { Turn::Again };
        tries += 1;
        let fault = match tokio::time::timeout(limit, once(shared.place.clone(), turn)).await {
            Ok(Err(fault)) if fault.class == Class::Away => fault,
            Ok(done) => {
                pass.answered();
                return done;
            }
            Err(_) => Class::Away.with(format!("no answer within {limit:.1?}")),
        };
        pass.failed(Instant::now(), &fault.message);
        let pause = pauses.take();
        if Instant::now() + pause >= deadline {
            return Err(given_up(Some(fault), tries, "the deadline came"));
        }
        last = Some(fault);
        tokio::time::sleep(pause).await;
    }
}

fn given_up(last: Option<VaultFault>, tries: u32, why: &str) -> VaultFault {
    let times = if tries == 1 { "once".to_owned() } else { format!("{tries} times") };
    Class::Away.with(match last {
        Some(fault) => format!("tried {times} until {why}: {}", fault.message),
        None => format!("not tried: {why}"),
    })
}

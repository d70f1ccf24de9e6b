//! Faults that a test has ordered, and which requests meet them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It begins so much later.
    Slow(Duration),
    /// It is carried out, and answered so much later.
    Late(Duration),
    /// It is answered with this status, and not carried out.
    Refuse(u16),
    /// The connection breaks after so many bytes of its body, or, where it has none, of the answer's.
    Die(u64),
    /// It is carried out, and the connection breaks before the answer.
    Lose,
}

/// A fault for some requests to come.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    /// How many requests meet it.
    pub(crate) left: u32,
    /// Only those whose `METHOD /path?query` has this in it.
    pub(crate) text: String,
}

#[derive(Clone, Default)]
pub(crate) struct Faults(Arc<Mutex<Vec<Fault>>>);

impl Faults {
    pub(crate) fn add(&self, fault: Fault) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(fault);
    }

    pub(crate) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// How many requests are to meet one yet.
    pub(crate) fn left(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|fault| u64::from(fault.left)).sum()
    }

    /// What this request meets: the fault ordered first, if any.
    pub(crate) fn take(&self, line: &str) -> Option<Kind> {
        let mut faults = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fault = faults.iter_mut().find(|fault| fault.left > 0 && line.contains(&fault.text))?;
        fault.left -= 1;
        Some(fault.kind)
    }
}

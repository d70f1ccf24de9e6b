//! From a handle to a value. A handle is a number that is never used twice, dressed as a pointer, so that C sees distinct types;
//! nobody dereferences it. A handle that was closed is therefore an error and never a crash, and a value that is in use when its
//! handle is closed lives until that use ends.

use perilune_protocol::{FaultCode, Outcome};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// The values of one type that C holds handles of.
pub(crate) struct Table<T> {
    /// What a handle names, for messages.
    what: &'static str,
    live: RwLock<Live<T>>,
}

struct Live<T> {
    /// Handles given out so far.
    count: usize,
    values: BTreeMap<usize, Arc<T>>,
}

impl<T> Table<T> {
    pub(crate) const fn new(what: &'static str) -> Self {
        Self { what, live: RwLock::new(Live { count: 0, values: BTreeMap::new() }) }
    }

    /// Keeps `value` and makes its handle. `H` is the opaque type that C sees.
    pub(crate) fn open<H>(&self, value: T) -> *mut H {
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        live.count += 1;
        // Odd, so that it cannot be mistaken for the address of anything aligned.
        let name = live.count * 2 + 1;
        live.values.insert(name, Arc::new(value));
        std::ptr::without_provenance_mut(name)
    }

    /// The value behind a handle.
    pub(crate) fn get<H>(&self, handle: *const H) -> Outcome<Arc<T>> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        live.values.get(&handle.addr()).cloned().ok_or_else(|| self.unknown(handle.addr()))
    }

    /// Forgets a handle and hands its value out.
    pub(crate) fn close<H>(&self, handle: *const H) -> Outcome<Arc<T>> {
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        live.values.remove(&handle.addr()).ok_or_else(|| self.unknown(handle.addr()))
    }

    fn unknown(&self, name: usize) -> perilune_protocol::Fault {
        let what = self.what;
        FaultCode::InvalidParams.with(match name {
            0 => format!("the {what} handle is NULL: open it first; it is NULL again after it was closed"),
            _ => format!("{name:#x} is not an open {what} handle: it was closed, or never was one"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    enum Opaque {}

    #[test]
    fn a_closed_handle_is_an_error_for_ever() {
        static TABLE: Table<String> = Table::new("test");
        let first: *mut Opaque = TABLE.open("first".into());
        assert_eq!(*TABLE.get(first).unwrap(), "first");
        let in_use = TABLE.get(first).unwrap();
        assert_eq!(*TABLE.close(first).unwrap(), "first");
        assert_eq!(*in_use, "first");
        let second: *mut Opaque = TABLE.open("second".into());
        assert_ne!(first, second);
        for dead in [first, std::ptr::null_mut(), std::ptr::without_provenance_mut(2), std::ptr::without_provenance_mut(usize::MAX)] {
            assert_eq!(TABLE.get(dead).unwrap_err().code, FaultCode::InvalidParams);
            assert_eq!(TABLE.close(dead).unwrap_err().code, FaultCode::InvalidParams);
        }
        assert_eq!(*TABLE.get(second).unwrap(), "second");
    }
}

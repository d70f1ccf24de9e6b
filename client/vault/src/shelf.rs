//! A vault without requests: for simulations, where time and order are not those of this machine.

use crate::fault::Vaulted;
use crate::place::{Got, Listed};
use bytes::Bytes;
use std::fmt::Debug;
use std::ops::Range;

/// Answers at once, on the thread of whoever asks, and is asked once: no pause, no deadline, no gate. Takes nothing in parts.
pub trait Shelf: Debug + Send + Sync {
    /// As [`crate::Vault::put`]; with `create` as [`crate::Vault::create`].
    ///
    /// # Errors
    /// As those.
    fn put(&self, name: &str, bytes: Bytes, create: bool) -> Vaulted<()>;
    /// As [`crate::Vault::get`].
    ///
    /// # Errors
    /// As that.
    fn get(&self, name: &str, range: Option<Range<u64>>) -> Vaulted<Got>;
    /// As [`crate::Vault::list`].
    ///
    /// # Errors
    /// As that.
    fn list(&self, folder: &str, after: Option<&str>, max: usize) -> Vaulted<Vec<Listed>>;
    /// As [`crate::Vault::delete`].
    ///
    /// # Errors
    /// As that.
    fn delete(&self, name: &str) -> Vaulted<()>;
}

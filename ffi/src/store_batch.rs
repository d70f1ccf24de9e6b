//! `perilune_store_*_batch`: the store, many keys with one question.

use crate::border::{Out, bytes, bytes_mut, guard, key, slice, slice_mut};
use crate::fault::{PERILUNE_OK, PeriluneStatus};
use crate::store::{PerilunePutConfig, PeriluneStore, STORES, put_config};
use perilune_client::Put;
use perilune_protocol::{Fault, FaultCode, ObjectKey, Outcome};
use std::ffi::c_void;

/// A key.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PeriluneKey {
    /// Its bytes, not interpreted.
    pub bytes: *const c_void,
    /// How many, 1 to 4096.
    pub length: usize,
}

/// A value to put, and what became of it.
#[repr(C)]
pub struct PerilunePutItem {
    /// The key.
    pub key: PeriluneKey,
    /// The value.
    pub value: *const c_void,
    /// Bytes of the value, at least 1.
    pub value_length: usize,
    /// Written by the call: what this put came to.
    pub status: PeriluneStatus,
    /// Written by the call: 1 when the key existed, and its value was left as it is; else 0.
    pub existed: u8,
}

/// A value to get, and what became of it.
#[repr(C)]
pub struct PeriluneGetItem {
    /// The key.
    pub key: PeriluneKey,
    /// Where the value goes. No two items of a call may share a byte.
    pub into: *mut c_void,
    /// Room there, in bytes.
    pub capacity: usize,
    /// Written by the call: bytes of the value, 0 when it was not read.
    pub length: usize,
    /// Written by the call: what this get came to.
    pub status: PeriluneStatus,
}

/// Stores many values with one question. Each item receives its status; returns PERILUNE_OK when all went well, else the fault of the
/// first that did not. `config` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn perilune_store_put_batch(
    store: *mut PeriluneStore,
    items: *mut PerilunePutItem,
    count: usize,
    config: *const PerilunePutConfig,
) -> PeriluneStatus {
    guard(|| {
        let store = STORES.get(store)?;
        // SAFETY: the caller's promise about `items` and the config.
        let (items, config) = unsafe { (slice_mut("items", items, count)?, put_config(config)?) };
        // SAFETY: the caller's promise about the keys and values in the items.
        let read = |item: &PerilunePutItem| unsafe { Ok((key_of(item.key)?, bytes("the value", item.value, item.value_length)?)) };
        let outcomes = ask(items.iter().map(read), |sound| store.put_batch(sound, &config));
        for (item, outcome) in items.iter_mut().zip(&outcomes) {
            item.status = number(outcome);
            item.existed = matches!(outcome, Ok(Put::Existed)).into();
        }
        first_fault(outcomes)
    })
}

/// Reads many values with one question. Each item receives its status and length; returns PERILUNE_OK when all went well, else the fault
/// of the first that did not. The bytes are verified.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn perilune_store_get_batch_into(
    store: *mut PeriluneStore,
    items: *mut PeriluneGetItem,
    count: usize,
) -> PeriluneStatus {
    guard(|| {
        let store = STORES.get(store)?;
        // SAFETY: the caller's promise about `items`.
        let items = unsafe { slice_mut("items", items, count) }?;
        disjoint(items)?;
        // SAFETY: the caller's promise about the keys and places in the items; that places share no byte was just checked.
        let read = |item: &PeriluneGetItem| unsafe { Ok((key_of(item.key)?, bytes_mut("into", item.into, item.capacity)?)) };
        let outcomes = ask(items.iter().map(read), |sound| store.get_batch_into(sound));
        for (item, outcome) in items.iter_mut().zip(&outcomes) {
            item.status = number(outcome);
            item.length = *outcome.as_ref().unwrap_or(&0);
        }
        first_fault(outcomes)
    })
}

/// Whether each of many keys exists and can be read: `exist` receives as many answers. Grants a lease on each that does.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn perilune_store_exists_batch(
    store: *mut PeriluneStore,
    keys: *const PeriluneKey,
    count: usize,
    exist: *mut bool,
) -> PeriluneStatus {
    guard(|| {
        let store = STORES.get(store)?;
        // SAFETY: the caller's promise about `keys` and the keys in it.
        let keys = unsafe { keys_of(keys, count) }?;
        Out::required("exist", exist)?;
        for (at, found) in store.exists(&keys)?.into_iter().enumerate().take(count) {
            // SAFETY: the caller's promise: `exist` has room for `count`. Written one by one, for C's memory may hold anything but bools.
            unsafe { Out::optional(exist.wrapping_add(at)).set(found) };
        }
        Ok(())
    })
}

/// How many keys exist, counted from the first until one is missing. Grants a lease on those.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn perilune_store_match_prefix(
    store: *mut PeriluneStore,
    keys: *const PeriluneKey,
    count: usize,
    matched: *mut u64,
) -> PeriluneStatus {
    guard(|| {
        let store = STORES.get(store)?;
        let out = Out::required("matched", matched)?;
        // SAFETY: the caller's promise about `keys` and the keys in it.
        let matched = store.match_prefix(&unsafe { keys_of(keys, count) }?)?;
        // SAFETY: the caller's promise about `matched`.
        unsafe { out.set(matched) };
        Ok(())
    })
}

/// # Safety
/// As [`key`].
unsafe fn key_of(given: PeriluneKey) -> Outcome<ObjectKey> {
    // SAFETY: the caller's promise, handed on.
    unsafe { key(given.bytes, given.length) }
}

/// # Safety
/// As [`slice()`], and each key as [`key`].
unsafe fn keys_of(keys: *const PeriluneKey, count: usize) -> Outcome<Vec<ObjectKey>> {
    // SAFETY: the caller's promise, handed on.
    unsafe { slice("keys", keys, count)?.iter().map(|one| key_of(*one)).collect() }
}

/// Asks for the items whose arguments are sound, and puts the answers and the faults of the others back into the order of the items.
fn ask<T, R>(items: impl Iterator<Item = Outcome<T>>, question: impl FnOnce(&mut Vec<T>) -> Vec<Outcome<R>>) -> Vec<Outcome<R>> {
    let mut sound = Vec::new();
    let faults: Vec<Option<Fault>> = items.map(|item| item.map(|item| sound.push(item)).err()).collect();
    let asked = sound.len();
    let mut answers = if asked == 0 { Vec::new() } else { question(&mut sound) }.into_iter();
    let missing = || Err(FaultCode::Internal.with(format!("fewer answers than the {asked} items that were asked for")));
    faults.into_iter().map(|fault| fault.map_or_else(|| answers.next().unwrap_or_else(missing), Err)).collect()
}

fn number<T>(outcome: &Outcome<T>) -> PeriluneStatus {
    outcome.as_ref().map_or_else(|fault| fault.code.number(), |_| PERILUNE_OK)
}

fn first_fault<T>(outcomes: Vec<Outcome<T>>) -> Outcome<()> {
    let first = outcomes.into_iter().enumerate().find_map(|(at, outcome)| outcome.err().map(|fault| (at, fault)));
    first.map_or(Ok(()), |(at, fault)| Err(Fault { message: format!("item {at}: {}", fault.message), ..fault }))
}

/// Two items that share bytes would be written at the same time.
fn disjoint(items: &[PeriluneGetItem]) -> Outcome<()> {
    let mut places: Vec<(usize, usize)> = items.iter().filter(|i| i.capacity > 0).map(|i| (i.into.addr(), i.capacity)).collect();
    places.sort_unstable();
    let clash = places.windows(2).any(|pair| pair[0].1 > pair[1].0 - pair[0].0);
    if clash {
        Err(FaultCode::InvalidParams.with("two items of the batch share memory: give each value a place of its own"))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_faults_come_back_in_the_order_of_the_items() {
        let bad = || Err(FaultCode::InvalidParams.with("bad"));
        let outcomes = ask([Ok(1), bad(), Ok(3), bad()].into_iter(), |sound| sound.drain(..).map(|n| Ok(n * 10)).collect());
        assert_eq!(outcomes.iter().map(number).collect::<Vec<_>>(), [0, -600, 0, -600]);
        assert_eq!((&outcomes[0], &outcomes[2]), (&Ok(10), &Ok(30)));
        assert_eq!(first_fault(outcomes).unwrap_err().message, "item 1: bad");
        let short = ask([Ok(1), Ok(2)].into_iter(), |_| vec![Ok(1)]);
        assert_eq!(short[1].as_ref().unwrap_err().code, FaultCode::Internal);
    }

    #[test]
    fn places_that_share_a_byte_are_noticed() {
        let item = |address, capacity| PeriluneGetItem {
            key: PeriluneKey { bytes: std::ptr::null(), length: 0 },
            into: std::ptr::without_provenance_mut(address),
            capacity,
            length: 0,
            status: 0,
        };
        assert!(disjoint(&[item(30, 10), item(10, 10), item(20, 10), item(25, 0), item(25, 0)]).is_ok());
        assert!(disjoint(&[item(30, 10), item(20, 11)]).is_err());
        assert!(disjoint(&[item(20, usize::MAX), item(20, 1)]).is_err());
    }
}

//! The border itself: raw pointers become slices, results become numbers, and no panic crosses.

use crate::fault::{PERILUNE_OK, remember};
use perilune_protocol::{FaultCode, ObjectKey, Outcome};
use std::any::Any;
use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs one call of C. Its fault becomes the number returned and the sentence of `perilune_last_error`; so does a panic.
pub(crate) fn guard(call: impl FnOnce() -> Outcome<()>) -> i32 {
    // A panic may leave a value half changed; the values behind handles are all made to be used by many threads and keep their
    // invariants by themselves, so using them afterwards is safe.
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => PERILUNE_OK,
        Ok(Err(fault)) => remember(&fault),
        Err(panic) => remember(&FaultCode::Internal.with(format!("a defect of perilune, please report it: {}", said(panic.as_ref())))),
    }
}

fn said(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("it panicked without a word")
}

fn check(what: &str, is_null: bool, count: usize, size: usize) -> Outcome<()> {
    if is_null && count > 0 {
        return Err(FaultCode::InvalidParams.with(format!("{what} is NULL, and its length is {count}")));
    }
    if count.checked_mul(size).is_none_or(|bytes| isize::try_from(bytes).is_err()) {
        return Err(
            FaultCode::InvalidParams.with(format!("{what} has length {count}: longer than any memory; was a negative number passed?"))
        );
    }
    Ok(())
}

/// `count` values at `pointer`; NULL is fine when there are none.
///
/// # Safety
/// A pointer that is not null is valid for `count` values, and nobody writes to them while `'a` lasts.
pub(crate) unsafe fn slice<'a, T>(what: &str, pointer: *const T, count: usize) -> Outcome<&'a [T]> {
    check(what, pointer.is_null(), count, size_of::<T>())?;
    // SAFETY: not null, not too long, and the rest is the caller's promise; a zero length never touches the pointer.
    Ok(if count == 0 { &[] } else { unsafe { std::slice::from_raw_parts(pointer, count) } })
}

/// As [`slice()`], to be written.
///
/// # Safety
/// A pointer that is not null is valid for `count` values, and nobody else uses them while `'a` lasts.
pub(crate) unsafe fn slice_mut<'a, T>(what: &str, pointer: *mut T, count: usize) -> Outcome<&'a mut [T]> {
    check(what, pointer.is_null(), count, size_of::<T>())?;
    // SAFETY: as in `slice`; that nobody else uses the values is the caller's promise.
    Ok(if count == 0 { &mut [] } else { unsafe { std::slice::from_raw_parts_mut(pointer, count) } })
}

/// `length` bytes at `pointer`.
///
/// # Safety
/// As [`slice()`].
pub(crate) unsafe fn bytes<'a>(what: &str, pointer: *const c_void, length: usize) -> Outcome<&'a [u8]> {
    // SAFETY: the caller's promise, handed on.
    unsafe { slice(what, pointer.cast(), length) }
}

/// `length` bytes at `pointer`, to be written.
///
/// # Safety
/// As [`slice_mut`].
pub(crate) unsafe fn bytes_mut<'a>(what: &str, pointer: *mut c_void, length: usize) -> Outcome<&'a mut [u8]> {
    // SAFETY: the caller's promise, handed on.
    unsafe { slice_mut(what, pointer.cast(), length) }
}

/// A key.
///
/// # Safety
/// As [`slice()`].
pub(crate) unsafe fn key(pointer: *const c_void, length: usize) -> Outcome<ObjectKey> {
    // SAFETY: the caller's promise, handed on; the bytes are copied before it ends.
    let key = ObjectKey::new(unsafe { bytes("the key", pointer, length) }?);
    key.check()?;
    Ok(key)
}

/// Text that ends in a zero byte; `None` for NULL.
///
/// # Safety
/// A pointer that is not null points to a zero-terminated string that nobody changes while `'a` lasts.
pub(crate) unsafe fn text<'a>(what: &str, pointer: *const c_char) -> Outcome<Option<&'a str>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: not null; that it ends in a zero byte is the caller's promise.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str().map(Some).map_err(|_| FaultCode::InvalidParams.with(format!("{what} is not UTF-8")))
}

/// Where a result is to be written, or why it cannot be.
pub(crate) struct Out<T>(*mut T);

impl<T> Out<T> {
    /// A place that must not be NULL.
    pub(crate) fn required(what: &str, pointer: *mut T) -> Outcome<Self> {
        if pointer.is_null() {
            Err(FaultCode::InvalidParams.with(format!("{what} is NULL: there is no place for the result")))
        } else {
            Ok(Self(pointer))
        }
    }

    /// A place that may be NULL: the result is then dropped.
    pub(crate) fn optional(pointer: *mut T) -> Self {
        Self(pointer)
    }

    /// Writes the result without looking at what was there.
    ///
    /// # Safety
    /// A pointer that is not null is valid for writing one `T`.
    pub(crate) unsafe fn set(self, value: T) {
        if !self.0.is_null() {
            // SAFETY: not null, and the caller's promise.
            unsafe { self.0.write(value) };
        }
    }
}

/// Takes a handle out of the place C keeps it in and leaves NULL there.
///
/// # Safety
/// A place that is not null holds a handle or NULL, and nobody else uses it meanwhile.
pub(crate) unsafe fn take_handle<H>(place: *mut *mut H) -> Outcome<*mut H> {
    Out::required("the place of the handle", place)?;
    // SAFETY: not null, and the caller's promise.
    Ok(unsafe { std::mem::replace(&mut *place, std::ptr::null_mut()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::{PERILUNE_INTERNAL_ERROR, PERILUNE_INVALID_PARAMS, perilune_last_error};

    fn last() -> String {
        // SAFETY: the text is valid until the next fault of this thread.
        unsafe { CStr::from_ptr(perilune_last_error()) }.to_string_lossy().into_owned()
    }

    #[test]
    fn a_panic_becomes_a_fault() {
        assert_eq!(guard(|| panic!("number {}", 7)), PERILUNE_INTERNAL_ERROR);
        assert!(last().contains("number 7"), "{}", last());
        assert_eq!(guard(|| Ok(())), PERILUNE_OK);
    }

    #[test]
    fn null_and_absurd_lengths_are_refused() {
        let byte = 7u8;
        let pointer: *const c_void = (&raw const byte).cast();
        // SAFETY: null or valid for one byte; the others are refused before they are touched.
        unsafe {
            assert_eq!(bytes("x", std::ptr::null(), 0), Ok(&[][..]));
            assert_eq!(bytes("x", pointer, 1), Ok(&[7][..]));
            for bad in [bytes("x", std::ptr::null(), 1), bytes("x", pointer, usize::MAX), bytes("x", pointer, isize::MAX as usize + 1)] {
                assert_eq!(bad.unwrap_err().code, FaultCode::InvalidParams);
            }
            assert!(slice::<u64>("x", std::ptr::dangling(), usize::MAX / 8).is_err());
            assert_eq!(guard(|| key(pointer, 0).map(drop)), PERILUNE_INVALID_PARAMS);
            assert!(last().contains("empty"), "{}", last());
        }
    }
}

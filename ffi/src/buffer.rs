//! Memory that the library allocates and C gives back.

/// Bytes that belong to the library until `perilune_buffer_free`.
#[repr(C)]
#[derive(Debug)]
pub struct PeriluneBuffer {
    /// The first byte; NULL when there are none.
    pub data: *mut u8,
    /// Bytes.
    pub length: usize,
}

impl PeriluneBuffer {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        if bytes.is_empty() {
            return Self { data: std::ptr::null_mut(), length: 0 };
        }
        let bytes = Box::leak(bytes.into_boxed_slice());
        Self { data: bytes.as_mut_ptr(), length: bytes.len() }
    }
}

/// Frees the bytes of a buffer and empties it. Freeing an empty buffer, or NULL, does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn perilune_buffer_free(buffer: *mut PeriluneBuffer) {
    // SAFETY: null, or the caller's promise that it is a buffer of ours that nobody else uses.
    let Some(buffer) = (unsafe { buffer.as_mut() }) else { return };
    let PeriluneBuffer { data, length } = std::mem::replace(buffer, PeriluneBuffer::new(Vec::new()));
    if !data.is_null() {
        // SAFETY: `new` leaked exactly this box, and the buffer was emptied above, so this happens once.
        drop(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(data, length)) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_freed_once_however_often_it_is_asked() {
        let mut buffer = PeriluneBuffer::new(vec![1, 2, 3]);
        // SAFETY: a buffer of ours, or null.
        unsafe {
            assert_eq!(std::slice::from_raw_parts(buffer.data, buffer.length), [1, 2, 3]);
            perilune_buffer_free(&raw mut buffer);
            assert!(buffer.data.is_null() && buffer.length == 0);
            perilune_buffer_free(&raw mut buffer);
            perilune_buffer_free(std::ptr::null_mut());
        }
    }
}

//! What tells whether a read brought its bytes, where a device's word does not.

use crate::memory::copy;
use crate::request::{Held, LocalSlice};

/// Eight bytes that nobody can expect, where the last ones of a read will arrive. Answers come in order: when these bytes are others, all are.
///
/// It is kept with what a queue pair has under way, and is gone when that goes back: until then its memory is held for the read.
#[derive(Debug)]
pub(crate) struct Mark {
    at: u64,
    bytes: [u8; 8],
}

impl Mark {
    /// Leaves one at the end of `into`, which a request reads into that is posted next; `None` where it does not fit.
    pub(crate) fn leave(into: Held<'_>, value: u64) -> Option<Self> {
        let bytes = value.to_ne_bytes();
        let LocalSlice { base, len } = into.slice();
        let at = base + len.checked_sub(bytes.len() as u64)?;
        // SAFETY: the end of memory that is held, to be read into.
        unsafe { copy(bytes.as_ptr().expose_provenance() as u64, at, bytes.len() as u64) };
        Some(Self { at, bytes })
    }

    /// Whether it is still there. Only for a request that has not gone back.
    pub(crate) fn stands(&self) -> bool {
        let mut found = [0; 8];
        // SAFETY: still held, since the read has not gone back; that one only succeeded or failed when the device is done with it.
        unsafe { copy(self.at, found.as_mut_ptr().expose_provenance() as u64, found.len() as u64) };
        found == self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Memory;

    #[test]
    fn a_mark_stands_until_the_last_bytes_come() {
        let memory = Memory::anonymous(4096).unwrap();
        let part = |len| Held::of_memory(&memory, 0, len).unwrap();
        let mark = Mark::leave(part(20), 0x1122_3344_5566_7788).unwrap();
        assert!(mark.stands());
        let mut bytes = [0; 21];
        assert!(memory.read_at(0, &mut bytes));
        assert_eq!((&bytes[..12], bytes[20]), (&[0; 12][..], 0));
        bytes[..19].fill(9);
        bytes[19] = !bytes[19];
        assert!(memory.write_at(0, &bytes));
        assert!(!mark.stands());
        assert!(Mark::leave(part(7), 1).is_none());
        assert!(Held::of_memory(&memory, 4090, 7).is_none());
    }
}

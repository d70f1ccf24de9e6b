//! What tells whether a read brought its bytes, where a device's word does not.

use crate::memory::copy;
use crate::request::LocalSlice;

/// Eight bytes that nobody can expect, where the last ones of a read will arrive. Answers come in order: when these bytes are others, all are.
#[derive(Debug)]
pub(crate) struct Mark {
    at: u64,
    bytes: [u8; 8],
}

impl Mark {
    /// Leaves one at the end of `into`, which a request reads into that is posted next; `None` where it does not fit.
    pub(crate) fn leave(into: LocalSlice, value: u64) -> Option<Self> {
        let bytes = value.to_ne_bytes();
        let at = into.base + into.len.checked_sub(bytes.len() as u64)?;
        // SAFETY: the end of memory that is read into, which whoever submitted the read keeps valid and uses for nothing else until it goes back.
        unsafe { copy(bytes.as_ptr().expose_provenance() as u64, at, bytes.len() as u64) };
        Some(Self { at, bytes })
    }

    /// Whether it is still there. Only for a request that has not gone back.
    pub(crate) fn stands(&self) -> bool {
        let mut found = [0; 8];
        // SAFETY: as above, since the read has not gone back; that one only succeeded or failed when the device is done with it.
        unsafe { copy(self.at, found.as_mut_ptr().expose_provenance() as u64, found.len() as u64) };
        found == self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_stands_until_the_last_bytes_come() {
        let mut memory = [0_u8; 21];
        let into = LocalSlice::from_mut(&mut memory[..20]);
        let mark = Mark::leave(into, 0x1122_3344_5566_7788).unwrap();
        assert!(mark.stands());
        assert_eq!((&memory[..12], memory[20]), (&[0; 12][..], 0));
        memory[..19].fill(9);
        memory[19] = !memory[19];
        assert!(!mark.stands());
        assert!(Mark::leave(LocalSlice::from_mut(&mut memory[..7]), 1).is_none());
    }
}

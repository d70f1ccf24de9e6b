//! What the data of one raft entry looks like: many effects, packed.
//!
//! ```text
//! | version = 1 | crc-32c of what follows | length | effect ... | length | effect ... |
//!     1 byte            4 bytes            4 bytes               little-endian throughout
//! ```
//! An entry without data is raft's own (a new leader's first) and holds no effect.
//!
//! Raft's `context` beside the data, which releases that know none leave alone, has the stamp of the entry:
//! ```text
//! | version = 1 | crc-32c of the stamp | stamp |
//!     1 byte            4 bytes         8 bytes
//! ```

use perilune_protocol::Tso;

pub(super) const VERSION: u8 = 1;
const HEAD: usize = 5;
/// Bytes that an effect takes beside its own.
pub(super) const LENGTH_BYTES: usize = 4;

pub(super) fn crc(bytes: &[u8]) -> u32 {
    // CRC-32C is at most 32 bits wide; the function answers in 64.
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

const STAMP_VERSION: u8 = 1;

/// The context of an entry with this stamp.
pub(super) fn context(stamp: Option<Tso>) -> Vec<u8> {
    let Some(Tso(stamp)) = stamp else { return Vec::new() };
    let stamp = stamp.to_le_bytes();
    [&[STAMP_VERSION], &crc(&stamp).to_le_bytes()[..], &stamp].concat()
}

/// The stamp of an entry with this context. None: it was written by a release that knows none, or knows more.
pub(super) fn stamp_of(context: &[u8]) -> Result<Option<Tso>, String> {
    let [STAMP_VERSION, rest @ ..] = context else { return Ok(None) };
    let stamp = rest.split_first_chunk::<4>().and_then(|(sum, stamp)| Some((sum, <[u8; 8]>::try_from(stamp).ok()?)));
    match stamp {
        Some((sum, stamp)) if crc(&stamp).to_le_bytes() == *sum => Ok(Some(Tso(u64::from_le_bytes(stamp)))),
        _ => Err("the checksum of its stamp does not match".into()),
    }
}

/// Packs effects, each at most [`super::EFFECT_BYTES_MAX`] long.
pub(super) fn pack<'a>(effects: impl Iterator<Item = &'a [u8]> + Clone) -> Vec<u8> {
    let size = HEAD + effects.clone().map(|e| LENGTH_BYTES + e.len()).sum::<usize>();
    let mut data = Vec::with_capacity(size);
    data.extend_from_slice(&[VERSION, 0, 0, 0, 0]);
    for effect in effects {
        data.extend_from_slice(&(effect.len() as u32).to_le_bytes());
        data.extend_from_slice(effect);
    }
    let sum = crc(&data[HEAD..]);
    data[1..HEAD].copy_from_slice(&sum.to_le_bytes());
    data
}

/// The effects in an entry's data, in order. Total: any bytes give effects or say what is wrong with them, before the first is seen.
pub(crate) fn unpack(data: &[u8]) -> Result<Effects<'_>, String> {
    let Some((head, mut rest)) = data.split_at_checked(HEAD) else {
        return if data.is_empty() { Ok(Effects { rest: &[] }) } else { Err(format!("an entry of {} bytes", data.len())) };
    };
    if head[0] != VERSION {
        return Err(format!("entry version {}, this version reads {VERSION}", head[0]));
    }
    if crc(rest).to_le_bytes() != head[1..] {
        return Err("the checksum of the entry does not match".into());
    }
    let effects = Effects { rest };
    while !rest.is_empty() {
        rest = split(rest).ok_or("an effect in the entry is cut short")?.1;
    }
    Ok(effects)
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH_BYTES>()?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize)
}

/// Iterator over the effects of a checked entry.
pub(crate) struct Effects<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Effects<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (effect, rest) = split(self.rest)?;
        self.rest = rest;
        Some(effect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpacked(data: &[u8]) -> Result<Vec<Vec<u8>>, String> {
        unpack(data).map(|effects| effects.map(<[u8]>::to_vec).collect())
    }

    #[test]
    fn what_is_packed_comes_out() {
        let effects: [&[u8]; 4] = [b"one", b"", b"three", &[7; 3000]];
        assert_eq!(unpacked(&pack(effects.into_iter())).unwrap(), effects);
        assert_eq!(unpacked(b"").unwrap(), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let data = pack([&b"one"[..], b"two"].into_iter());
        for cut in 1..data.len() {
            assert!(unpacked(&data[..cut]).is_err(), "cut at {cut}");
        }
        for bit in 0..data.len() * 8 {
            let mut damaged = data.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(unpacked(&damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_stamp_comes_back_and_damage_to_it_is_noticed() {
        let context = context(Some(Tso(0x0102_0304_0506)));
        assert_eq!(context, [1, 204, 21, 78, 18, 6, 5, 4, 3, 2, 1, 0, 0], "stored: for good");
        assert_eq!(stamp_of(&context), Ok(Some(Tso(0x0102_0304_0506))));
        assert_eq!((super::context(None), stamp_of(&[]), stamp_of(&[2, 7])), (vec![], Ok(None), Ok(None)));
        for bit in 8..context.len() * 8 {
            let mut damaged = context.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(stamp_of(&damaged).is_err(), "bit {bit}");
        }
        for cut in 1..context.len() {
            assert!(stamp_of(&context[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_length_beyond_the_end_is_refused_even_with_a_right_checksum() {
        let mut data = vec![VERSION, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 1];
        let sum = crc(&data[HEAD..]);
        data[1..HEAD].copy_from_slice(&sum.to_le_bytes());
        assert!(unpacked(&data).unwrap_err().contains("cut short"));
    }
}

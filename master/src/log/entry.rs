//! What the data of one raft entry looks like: many effects, packed.
//!
//! ```text
//! | version = 1 | crc-32c of what follows | length | effect ... | length | effect ... |
//!     1 byte            4 bytes            4 bytes               little-endian throughout
//! ```
//! An entry without data is raft's own (a new leader's first) and holds no effect.

pub(super) const VERSION: u8 = 1;
const HEAD: usize = 5;
/// Bytes that an effect takes beside its own.
pub(super) const LENGTH_BYTES: usize = 4;

pub(super) fn crc(bytes: &[u8]) -> u32 {
    // CRC-32C is at most 32 bits wide; the function answers in 64.
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
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
pub(super) fn unpack(data: &[u8]) -> Result<Effects<'_>, String> {
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
pub(super) struct Effects<'a> {
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
    fn a_length_beyond_the_end_is_refused_even_with_a_right_checksum() {
        let mut data = vec![VERSION, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 1];
        let sum = crc(&data[HEAD..]);
        data[1..HEAD].copy_from_slice(&sum.to_le_bytes());
        assert!(unpacked(&data).unwrap_err().contains("cut short"));
    }
}

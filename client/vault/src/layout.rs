//! How one upload of one version of an object lies in a vault. Decoders are total: any bytes give a value or an error.
//!
//! ```text
//! header   64 B, never sealed: it says how to read the rest, and its own checksum
//! pieces   of 4 MiB, the last one shorter; sealed ones have a tag of 16 B behind them
//! footer   CRC-64/NVME of every piece, checksum of the value, key, CRC-64/NVME of header and footer; may be sealed too
//! tail     length of the footer, magic: 12 B
//! ```

use perilune_protocol::object::VALUE_BYTES_MAX;
use perilune_protocol::{ObjectKey, TenantId, Tso, checksum};
use uuid::Uuid;

/// Bytes of a piece, as this version writes them.
pub(crate) const PIECE_BYTES: u64 = 4 << 20;
/// Bytes of the header.
pub(crate) const HEADER_BYTES: u64 = 64;
/// Bytes behind whatever is sealed.
pub(crate) const TAG_BYTES: u64 = 16;
const TAIL_BYTES: u64 = 12;

const HEADER_MAGIC: [u8; 8] = *b"PERIOBJ\n";
const TAIL_MAGIC: [u8; 8] = *b"\nPERIEND";
const VERSION: u16 = 1;

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) sealed: bool,
    /// Which attempt at this upload wrote it: each seals with a key of its own, as its bytes may be others.
    pub(crate) attempt: u8,
    /// Bytes of each piece but the last.
    pub(crate) piece: u32,
    pub(crate) tenant: TenantId,
    pub(crate) version: Tso,
    /// Bytes of the value.
    pub(crate) size: u64,
    pub(crate) name: Uuid,
}

impl Header {
    /// The bytes; the last eight are the checksum of the others.
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES as usize] {
        let mut out = [0; HEADER_BYTES as usize];
        out[0..8].copy_from_slice(&HEADER_MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        out[10] = self.sealed.into();
        out[11] = self.attempt;
        out[12..16].copy_from_slice(&self.piece.to_le_bytes());
        out[16..20].copy_from_slice(&self.tenant.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.version.0.to_le_bytes());
        out[32..40].copy_from_slice(&self.size.to_le_bytes());
        out[40..56].copy_from_slice(self.name.as_bytes());
        let sum = checksum(&[&out[..56]]);
        out[56..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// The version of a layout that is of a later release: not damaged, only unknown here. All versions begin with the magic and the version,
    /// and have the checksum of the first 56 bytes behind them.
    pub(crate) fn newer(bytes: &[u8]) -> Option<u16> {
        let bytes = bytes.first_chunk::<{ HEADER_BYTES as usize }>().filter(|bytes| bytes[..8] == HEADER_MAGIC)?;
        if checksum(&[&bytes[..56]]).to_le_bytes() != bytes[56..] {
            return None;
        }
        Some(u16::from_le_bytes(take(bytes, 8))).filter(|version| *version > VERSION)
    }

    /// Reads the first bytes of an object.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let Some(bytes) = bytes.first_chunk::<{ HEADER_BYTES as usize }>() else {
            return Err(format!("has {} bytes, and a header alone has {HEADER_BYTES}", bytes.len()));
        };
        if bytes[..8] != HEADER_MAGIC {
            return Err("does not begin as an object does".into());
        }
        let version = u16::from_le_bytes(take(bytes, 8));
        if version != VERSION {
            return Err(format!("has version {version} of the layout, and this build reads {VERSION}"));
        }
        if checksum(&[&bytes[..56]]).to_le_bytes() != bytes[56..] {
            return Err("has a header that was altered".into());
        }
        let (piece, size) = (u32::from_le_bytes(take(bytes, 12)), u64::from_le_bytes(take(bytes, 32)));
        if bytes[10] > 1 || !piece.is_power_of_two() || !(1 << 16..=1 << 26).contains(&piece) || !(1..=VALUE_BYTES_MAX).contains(&size) {
            return Err(format!("has a header with cipher {}, pieces of {piece} B and a value of {size} B", bytes[10]));
        }
        Ok(Self {
            sealed: bytes[10] == 1,
            attempt: bytes[11],
            piece,
            tenant: TenantId(u32::from_le_bytes(take(bytes, 16))),
            version: Tso(u64::from_le_bytes(take(bytes, 24))),
            size,
            name: Uuid::from_bytes(take(bytes, 40)),
        })
    }

    /// How many pieces there are; at least one.
    pub(crate) fn pieces(&self) -> u64 {
        self.size.div_ceil(self.piece.into())
    }

    /// Bytes of one piece, without its tag.
    pub(crate) fn piece_len(&self, number: u64) -> u64 {
        self.size.saturating_sub(number * u64::from(self.piece)).min(self.piece.into())
    }

    /// Where a piece begins; for the number behind the last, where the footer does.
    pub(crate) fn piece_at(&self, number: u64) -> u64 {
        HEADER_BYTES + self.size.min(number * u64::from(self.piece)) + number * self.tag()
    }

    /// Bytes behind whatever is sealed, here.
    pub(crate) fn tag(&self) -> u64 {
        if self.sealed { TAG_BYTES } else { 0 }
    }

    /// Bytes of the footer of an object with this key, without tag and tail.
    fn footer_len(&self, key: &ObjectKey) -> u64 {
        self.pieces() * 8 + 8 + 2 + key.as_bytes().len() as u64 + 8
    }

    /// Bytes of the whole upload.
    pub(crate) fn total(&self, key: &ObjectKey) -> u64 {
        self.piece_at(self.pieces()) + self.footer_len(key) + self.tag() + TAIL_BYTES
    }
}

/// What the last bytes say, before they are sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    /// The checksum of every piece.
    pub(crate) pieces: Vec<u64>,
    /// The checksum of the value.
    pub(crate) checksum: u64,
    pub(crate) key: ObjectKey,
}

impl Footer {
    /// The bytes that are sealed, or stored as they are.
    pub(crate) fn encode(&self, header: &Header) -> Vec<u8> {
        let key = self.key.as_bytes();
        let mut out: Vec<u8> = self.pieces.iter().flat_map(|piece| piece.to_le_bytes()).collect();
        out.extend(self.checksum.to_le_bytes());
        // Keys are shorter: whoever writes asks `ObjectKey::check`.
        out.extend((key.len() as u16).to_le_bytes());
        out.extend(key);
        let sum = checksum(&[&header.encode(), &out]);
        out.extend(sum.to_le_bytes());
        out
    }

    /// Reads what was sealed or stored.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn decode(header: &Header, bytes: &[u8]) -> Result<Self, String> {
        let cut = || "has a footer that was cut".to_owned();
        let (said, sum) = bytes.split_last_chunk::<8>().ok_or_else(cut)?;
        if checksum(&[&header.encode(), said]).to_le_bytes() != *sum {
            return Err("has a footer that was altered".into());
        }
        let sums = usize::try_from(header.pieces() * 8).map_err(|_| cut())?;
        let (sums, rest) = said.split_at_checked(sums).ok_or_else(cut)?;
        let (value, rest) = rest.split_first_chunk::<8>().ok_or_else(cut)?;
        let (len, key) = rest.split_first_chunk::<2>().ok_or_else(cut)?;
        if usize::from(u16::from_le_bytes(*len)) != key.len() {
            return Err("has a footer whose key has another length than it says".into());
        }
        let key = ObjectKey::new(key);
        key.check().map_err(|fault| format!("has a footer in which {}", fault.message))?;
        let pieces = sums.as_chunks::<8>().0.iter().map(|sum| u64::from_le_bytes(*sum)).collect();
        Ok(Self { pieces, checksum: u64::from_le_bytes(*value), key })
    }
}

/// The last bytes, behind a footer of `len` bytes (its tag included).
pub(crate) fn tail(len: usize) -> [u8; TAIL_BYTES as usize] {
    let mut out = [0; TAIL_BYTES as usize];
    out[..4].copy_from_slice(&(len as u32).to_le_bytes());
    out[4..].copy_from_slice(&TAIL_MAGIC);
    out
}

/// Parts what stands behind the pieces into the footer (with its tag) and the tail, and checks the tail.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn without_tail(bytes: &[u8]) -> Result<&[u8], String> {
    let Some((footer, end)) = bytes.split_last_chunk::<{ TAIL_BYTES as usize }>() else {
        return Err("was cut: its end is missing".into());
    };
    if *end != tail(footer.len()) { Err("was cut, or something was added: it does not end as an object does".into()) } else { Ok(footer) }
}

/// The checksum of a value from those of its parts: `first` is that of what comes before, `second` that of the next `len` bytes.
pub(crate) fn combined(first: u64, second: u64, len: u64) -> u64 {
    crc_fast::checksum_combine(crc_fast::CrcAlgorithm::Crc64Nvme, first, second, len)
}

fn take<const N: usize>(bytes: &[u8; HEADER_BYTES as usize], at: usize) -> [u8; N] {
    std::array::from_fn(|n| bytes[at + n])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(size: u64, sealed: bool) -> Header {
        Header { sealed, attempt: 0, piece: PIECE_BYTES as u32, tenant: TenantId(3), version: Tso(9), size, name: Uuid::from_u128(5) }
    }

    #[test]
    fn header_and_footer_are_read_as_they_were_written() {
        for (size, sealed) in [(1, false), (PIECE_BYTES, true), (PIECE_BYTES + 1, false), (VALUE_BYTES_MAX, true)] {
            let header = header(size, sealed);
            assert_eq!(Header::decode(&header.encode()), Ok(header));
            let footer = Footer { pieces: (0..header.pieces()).collect(), checksum: 77, key: "k".into() };
            let bytes = footer.encode(&header);
            assert_eq!(bytes.len() as u64, header.footer_len(&footer.key));
            assert_eq!(Footer::decode(&header, &bytes), Ok(footer));
        }
    }

    #[test]
    fn pieces_lie_behind_each_other() {
        for (size, sealed) in [(1, true), (3 * PIECE_BYTES, false), (2 * PIECE_BYTES + 5, true)] {
            let header = header(size, sealed);
            let mut at = HEADER_BYTES;
            for number in 0..header.pieces() {
                assert_eq!(header.piece_at(number), at);
                at += header.piece_len(number) + header.tag();
            }
            assert_eq!(header.piece_at(header.pieces()), at);
            assert_eq!((0..header.pieces()).map(|n| header.piece_len(n)).sum::<u64>(), size);
        }
    }

    #[test]
    fn no_altered_byte_and_no_cut_goes_unseen() {
        let header = header(2 * PIECE_BYTES, false);
        let bytes = header.encode();
        for at in 0..bytes.len() {
            let mut altered = bytes;
            altered[at] ^= 1;
            assert!(Header::decode(&altered).is_err(), "byte {at} of the header");
            assert!(Header::decode(&bytes[..at]).is_err());
        }
        let bytes = Footer { pieces: vec![1, 2], checksum: 3, key: "key".into() }.encode(&header);
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            assert!(Footer::decode(&header, &altered).is_err(), "byte {at} of the footer");
            assert!(Footer::decode(&header, &bytes[..at]).is_err());
        }
        let end = [&[0; 20][..], &tail(20)].concat();
        assert_eq!(without_tail(&end).map(<[u8]>::len), Ok(20));
        assert!(without_tail(&end[1..]).is_err() && without_tail(&end[..end.len() - 1]).is_err() && without_tail(&[]).is_err());
    }

    #[test]
    fn checksums_of_parts_make_that_of_the_whole() {
        let (a, b) = (vec![7; 1000], vec![9; 333]);
        assert_eq!(combined(checksum(&[&a]), checksum(&[&b]), 333), checksum(&[&a, &b]));
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_value_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200), size in 1..VALUE_BYTES_MAX) {
            let _ = Header::decode(&bytes);
            let _ = without_tail(&bytes);
            let _ = Footer::decode(&header(size, false), &bytes);
        }
    }
}

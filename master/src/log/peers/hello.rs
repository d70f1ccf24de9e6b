//! What two members say first: which group, which version, who to whom. The answer has the same form.
//!
//! ```text
//! | "PRLNPEER" | version = 1 | cluster id | from | to | crc-32c of all before |   little-endian
//!      8            4             16         8     8            4
//! ```

use super::invalid;
use crate::log::entry::crc;
use std::io;
use uuid::Uuid;

const MAGIC: [u8; 8] = *b"PRLNPEER";
const VERSION: u32 = 1;
pub(super) const HELLO_BYTES: usize = 8 + 4 + 16 + 8 + 8 + 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) cluster: Uuid,
    pub(super) from: u64,
    pub(super) to: u64,
}

impl Hello {
    pub(super) fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut out = [0; HELLO_BYTES];
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..28].copy_from_slice(self.cluster.as_bytes());
        out[28..36].copy_from_slice(&self.from.to_le_bytes());
        out[36..44].copy_from_slice(&self.to.to_le_bytes());
        let sum = crc(&out[..44]);
        out[44..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// Total: any bytes give a hello or say what is wrong.
    pub(super) fn decode(bytes: &[u8; HELLO_BYTES]) -> io::Result<Self> {
        let word = |at: usize| bytes[at..at + 8].iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
        if bytes[..8] != MAGIC {
            return Err(invalid("it does not speak as a member of a group"));
        }
        // The version before the checksum: a later one may be laid out differently.
        if bytes[8..12] != VERSION.to_le_bytes() {
            let version = word(8) as u32;
            return Err(invalid(format!("it speaks version {version} among members, this one speaks {VERSION}")));
        }
        if crc(&bytes[..44]).to_le_bytes() != bytes[44..] {
            return Err(invalid("the checksum of its greeting does not match"));
        }
        let cluster = Uuid::from_slice(&bytes[12..28]).map_err(|e| invalid(e.to_string()))?;
        Ok(Self { cluster, from: word(28), to: word(36) })
    }

    /// Whether it belongs to this group and is meant for this member.
    pub(super) fn check(&self, cluster: Uuid, me: u64) -> io::Result<()> {
        if self.cluster != cluster {
            return Err(invalid(format!("member {} is of the cluster {}, this one of {cluster}", self.from, self.cluster)));
        }
        if self.to != me || self.from == me {
            return Err(invalid(format!("member {} looks for member {} and found member {me}", self.from, self.to)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_survives_and_any_change_to_it_is_noticed() {
        let hello = Hello { cluster: Uuid::from_u128(7), from: 1, to: u64::MAX };
        let bytes = hello.encode();
        assert_eq!(Hello::decode(&bytes).unwrap(), hello);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Hello::decode(&damaged).is_err(), "bit {bit}");
        }
        let mut newer = bytes;
        newer[8] = 2;
        assert!(Hello::decode(&newer).unwrap_err().to_string().contains("version 2"));
    }

    #[test]
    fn the_first_version_is_laid_out_like_this() {
        let hello = Hello { cluster: Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10), from: 1, to: 2 };
        let rest = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0];
        let bytes = [b"PRLNPEER\x01\0\0\0", &rest[..]].concat();
        assert_eq!(hello.encode()[..44], bytes);
        assert_eq!(hello.encode()[44..], crc(&bytes).to_le_bytes());
    }

    #[test]
    fn a_hello_of_another_group_or_for_another_member_is_refused() {
        let cluster = Uuid::from_u128(7);
        let hello = Hello { cluster, from: 1, to: 2 };
        hello.check(cluster, 2).unwrap();
        assert!(hello.check(Uuid::from_u128(8), 2).unwrap_err().to_string().contains("cluster"));
        assert!(hello.check(cluster, 3).unwrap_err().to_string().contains("member 3"));
        assert!(Hello { from: 2, ..hello }.check(cluster, 2).is_err(), "itself");
    }
}

//! What two members say first: which group, which version, who to whom. The answer has the same form.
//!
//! ```text
//! | "PRLNPEER" | version | cluster id | from | to | crc-32c of all before |   little-endian
//!      8            4          16         8     8            4
//! ```
//! Version 2 says that a proof of the token follows (`proof`), version 1 that there is no token.

use super::{Card, invalid};
use crate::log::entry::crc;
use std::io;
use uuid::Uuid;

const MAGIC: [u8; 8] = *b"PRLNPEER";
/// Without and with a proof that follows.
const VERSION: u32 = 1;
const VERSION_PROVEN: u32 = 2;
pub(super) const HELLO_BYTES: usize = 8 + 4 + 16 + 8 + 8 + 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) cluster: Uuid,
    pub(super) from: u64,
    pub(super) to: u64,
    /// A proof of the token follows.
    pub(super) proven: bool,
}

impl Hello {
    pub(super) fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut out = [0; HELLO_BYTES];
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&if self.proven { VERSION_PROVEN } else { VERSION }.to_le_bytes());
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
        let version = word(8) as u32;
        if ![VERSION, VERSION_PROVEN].contains(&version) {
            return Err(invalid(format!("it speaks version {version} among members, this one speaks {VERSION} and {VERSION_PROVEN}")));
        }
        if crc(&bytes[..44]).to_le_bytes() != bytes[44..] {
            return Err(invalid("the checksum of its greeting does not match"));
        }
        let cluster = Uuid::from_slice(&bytes[12..28]).map_err(|e| invalid(e.to_string()))?;
        Ok(Self { cluster, from: word(28), to: word(36), proven: version == VERSION_PROVEN })
    }

    /// Whether it belongs to this group and is meant for this member.
    pub(super) fn check(&self, card: &Card) -> io::Result<()> {
        let (cluster, me) = (card.cluster, card.me);
        if self.cluster != cluster {
            return Err(invalid(format!("member {} is of the cluster {}, this one of {cluster}", self.from, self.cluster)));
        }
        if self.to != me || self.from == me {
            return Err(invalid(format!("member {} looks for member {} and found member {me}", self.from, self.to)));
        }
        match (self.proven, card.token.is_some()) {
            (false, true) => Err(invalid(format!("member {} has no token, and this group asks for one", self.from))),
            (true, false) => Err(invalid(format!("member {} asks for a token, and this one has none", self.from))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use perilune_protocol::access::Token;

    #[test]
    fn a_hello_survives_and_any_change_to_it_is_noticed() {
        let hello = Hello { cluster: Uuid::from_u128(7), from: 1, to: u64::MAX, proven: false };
        let bytes = hello.encode();
        assert_eq!(Hello::decode(&bytes).unwrap(), hello);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Hello::decode(&damaged).is_err(), "bit {bit}");
        }
        let mut newer = bytes;
        newer[8] = 3;
        assert!(Hello::decode(&newer).unwrap_err().to_string().contains("version 3"));
        let proven = Hello { proven: true, ..hello };
        assert_eq!(Hello::decode(&proven.encode()).unwrap(), proven);
    }

    #[test]
    fn the_first_version_is_laid_out_like_this() {
        let hello = Hello { cluster: Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10), from: 1, to: 2, proven: false };
        let rest = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0];
        let bytes = [b"PRLNPEER\x01\0\0\0", &rest[..]].concat();
        assert_eq!(hello.encode()[..44], bytes);
        assert_eq!(hello.encode()[44..], crc(&bytes).to_le_bytes());
    }

    #[test]
    fn a_hello_of_another_group_or_for_another_member_is_refused() {
        let cluster = Uuid::from_u128(7);
        let hello = Hello { cluster, from: 1, to: 2, proven: false };
        let card = |me, cluster, token| Card { me, cluster: Uuid::from_u128(cluster), token };
        hello.check(&card(2, 7, None)).unwrap();
        assert!(hello.check(&card(2, 8, None)).unwrap_err().to_string().contains("cluster"));
        assert!(hello.check(&card(3, 7, None)).unwrap_err().to_string().contains("member 3"));
        assert!(Hello { from: 2, ..hello }.check(&card(2, 7, None)).is_err(), "itself");
        let token = Token::new("0123456789abcdef").ok();
        assert!(hello.check(&card(2, 7, token.clone())).unwrap_err().to_string().contains("asks for one"));
        let proven = Hello { proven: true, ..hello };
        proven.check(&card(2, 7, token)).unwrap();
        assert!(proven.check(&card(2, 7, None)).unwrap_err().to_string().contains("has none"));
    }
}

//! Names of the records that the masters keep, as bytes: what logs print and `get_value` asks for.
//!
//! ```text
//! key space   1 byte: 1 of tenants, 2 of the group
//! bytes       0x10, the bytes with each 0x00 as 0x00 0xff, then 0x00 0x01
//! number      0x12 and 8 bytes, the highest first; negative: 0x11 and those of its magnitude
//! stamp       0x13 and 10 bytes: of versions; none of ours has one
//! ```
//! Each field says itself where it ends. The encoding is that of Doris' meta service, and so are the first names of the families it has.

use crate::{ObjectKey, SegmentId};
use std::fmt;

/// The key spaces there are.
const SPACES: std::ops::RangeInclusive<u8> = 1..=3;
const OF_TENANTS: u8 = 1;
const OF_THE_GROUP: u8 = 2;

const BYTES: u8 = 0x10;
const NEGATIVE: u8 = 0x11;
const NUMBER: u8 = 0x12;
const STAMP: u8 = 0x13;

/// No record is named by more fields, and no drawing of one has more lines.
pub const FIELDS_MAX: usize = 16;
/// The longest: an object's, when every byte of it is 0x00, and what is around it.
pub const BYTES_MAX: usize = 2 * crate::ids::KEY_BYTES_MAX + 512;

/// One part of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// Text, usually.
    Bytes(Vec<u8>),
    /// A number.
    Int(i64),
    /// When something was written, as its database counts.
    Stamp([u8; 10]),
}

impl From<&str> for Field {
    fn from(text: &str) -> Self {
        Self::Bytes(text.into())
    }
}

impl fmt::Display for Field {
    /// On one line, whatever is in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(number) => number.fmt(f),
            Self::Stamp(stamp) => hex(stamp).fmt(f),
            Self::Bytes(bytes) => bytes.utf8_chunks().try_for_each(|chunk| {
                chunk.valid().chars().try_for_each(|c| if c.is_control() { c.escape_default().fmt(f) } else { c.fmt(f) })?;
                chunk.invalid().iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))
            }),
        }
    }
}

/// The bytes of a key.
pub fn encode(space: u8, fields: &[Field]) -> Vec<u8> {
    let mut key = vec![space];
    for field in fields {
        match field {
            Field::Bytes(bytes) => {
                key.push(BYTES);
                for byte in bytes {
                    key.push(*byte);
                    if *byte == 0 {
                        key.push(0xff);
                    }
                }
                key.extend([0, 1]);
            }
            Field::Int(number) => {
                key.push(if *number < 0 { NEGATIVE } else { NUMBER });
                key.extend(number.unsigned_abs().to_be_bytes());
            }
            Field::Stamp(stamp) => {
                key.push(STAMP);
                key.extend(stamp);
            }
        }
    }
    key
}

/// The key space, and each field with the place of its first byte. `None`: that is no key.
pub fn decode(key: &[u8]) -> Option<(u8, Vec<(usize, Field)>)> {
    let space = *key.first().filter(|space| SPACES.contains(space) && key.len() <= BYTES_MAX)?;
    let (mut at, mut fields) = (1, Vec::new());
    while at < key.len() {
        let (field, taken) = next(&key[at..])?;
        fields.push((at, field));
        at += taken;
        if fields.len() > FIELDS_MAX {
            return None;
        }
    }
    (!fields.is_empty()).then_some((space, fields))
}

/// The first field, and how many bytes it takes.
fn next(rest: &[u8]) -> Option<(Field, usize)> {
    let (tag, body) = rest.split_first()?;
    if *tag == STAMP {
        return Some((Field::Stamp(*body.first_chunk()?), 11));
    }
    if *tag != BYTES {
        let magnitude = u64::from_be_bytes(*body.first_chunk()?);
        let number = match *tag {
            NUMBER => i64::try_from(magnitude).ok()?,
            NEGATIVE => 0_i64.checked_sub_unsigned(magnitude).filter(|_| magnitude > 0)?,
            _ => return None,
        };
        return Some((Field::Int(number), 9));
    }
    let (mut bytes, mut at) = (Vec::new(), 0);
    loop {
        match (*body.get(at)?, body.get(at + 1)) {
            (0, Some(1)) => return Some((Field::Bytes(bytes), at + 3)),
            (0, Some(0xff)) => {
                bytes.push(0);
                at += 2;
            }
            (0, _) => return None,
            (byte, _) => {
                bytes.push(byte);
                at += 1;
            }
        }
    }
}

/// Names a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetaKey {
    /// A tenant, by its name.
    Instance(String),
    /// A pool of a tenant, by its `cluster_id`.
    Cluster(String, String),
    /// A node that is registered in a pool: the tenant, the pool, what it presents, and where it is (`host:port`).
    Node([String; 4]),
    /// An object of a tenant.
    Object(String, ObjectKey),
    /// What a tenant has in the cold tier.
    Vaults(String),
    /// A table of a tenant, by its number.
    Table(String, i64),
    /// What there is of a shard: the tenant, and the numbers of table, index, partition and shard.
    Stats(String, [i64; 4]),
    /// How far the recycler is with a dropped tenant.
    RecycleJob(String),
    /// A changefeed of a tenant, by its name.
    Changefeed(String, String),
    /// A segment.
    Segment(SegmentId),
    /// A setting of the group.
    Setting(String),
}

impl MetaKey {
    /// The key space, and the fields.
    pub fn fields(&self) -> (u8, Vec<Field>) {
        let texts = |all: &[&str]| all.iter().map(|text| Field::from(*text)).collect::<Vec<_>>();
        match self {
            Self::Instance(name) => (OF_TENANTS, texts(&["instance", name])),
            Self::Cluster(tenant, id) => (OF_TENANTS, texts(&["cluster", tenant, id])),
            Self::Node([tenant, pool, unique_id, at]) => (OF_TENANTS, texts(&["node", tenant, pool, unique_id, at])),
            Self::Object(tenant, key) => {
                (OF_TENANTS, texts(&["object", tenant]).into_iter().chain([Field::Bytes(key.as_bytes().into())]).collect())
            }
            Self::Table(tenant, id) => (OF_TENANTS, texts(&["table", tenant]).into_iter().chain([Field::Int(*id)]).collect()),
            Self::Stats(tenant, numbers) => {
                (OF_TENANTS, texts(&["stats", tenant, "tablet"]).into_iter().chain(numbers.map(Field::Int)).collect())
            }
            Self::Vaults(tenant) => (OF_TENANTS, texts(&["storage_vault", tenant])),
            Self::RecycleJob(tenant) => (OF_TENANTS, texts(&["job", tenant, "recycle"])),
            Self::Changefeed(tenant, name) => (OF_TENANTS, texts(&["changefeed", tenant, name])),
            Self::Segment(id) => (OF_THE_GROUP, texts(&["segment", &id.to_string()])),
            Self::Setting(name) => (OF_THE_GROUP, texts(&["config", name])),
        }
    }

    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        let (space, fields) = self.fields();
        encode(space, &fields)
    }

    /// The record that these bytes name. `None`: no record is named so.
    pub fn decode(key: &[u8]) -> Option<Self> {
        let (space, fields) = decode(key)?;
        let texts: Vec<Option<&str>> =
            fields.iter().map(|(_, field)| if let Field::Bytes(bytes) = field { std::str::from_utf8(bytes).ok() } else { None }).collect();
        Some(match (space, texts.as_slice(), fields.last()) {
            (OF_TENANTS, [Some("object"), Some(tenant), _], Some((_, Field::Bytes(key)))) => {
                Self::Object((*tenant).into(), ObjectKey::new(key.as_slice()))
            }
            (OF_TENANTS, [Some("instance"), Some(name)], _) => Self::Instance((*name).into()),
            (OF_TENANTS, [Some("cluster"), Some(tenant), Some(id)], _) => Self::Cluster((*tenant).into(), (*id).into()),
            (OF_TENANTS, [Some("node"), Some(tenant), Some(pool), Some(unique_id), Some(at)], _) => {
                Self::Node([tenant, pool, unique_id, at].map(|text| (*text).to_owned()))
            }
            (OF_TENANTS, [Some("storage_vault"), Some(tenant)], _) => Self::Vaults((*tenant).into()),
            (OF_TENANTS, [Some("table"), Some(tenant), None], Some((_, Field::Int(id)))) => Self::Table((*tenant).into(), *id),
            (OF_TENANTS, [Some("stats"), Some(tenant), Some("tablet"), None, None, None, None], _) => {
                Self::Stats((*tenant).into(), [number(&fields[3])?, number(&fields[4])?, number(&fields[5])?, number(&fields[6])?])
            }
            (OF_TENANTS, [Some("job"), Some(tenant), Some("recycle")], _) => Self::RecycleJob((*tenant).into()),
            (OF_TENANTS, [Some("changefeed"), Some(tenant), Some(name)], _) => Self::Changefeed((*tenant).into(), (*name).into()),
            (OF_THE_GROUP, [Some("segment"), Some(id)], _) => Self::Segment(id.parse().ok()?),
            (OF_THE_GROUP, [Some("config"), Some(name)], _) => Self::Setting((*name).into()),
            _ => return None,
        })
    }
}

fn number((_, field): &(usize, Field)) -> Option<i64> {
    if let Field::Int(number) = field { Some(*number) } else { None }
}

impl fmt::Display for MetaKey {
    /// As logs print it, and `decode_key` takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.encode()).fmt(f)
    }
}

/// Two digits each.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a text has no way to fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The bytes of as many pairs of digits as there are at the beginning.
pub fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().map_while(|c| c.to_digit(16)).take(2 * BYTES_MAX + 2).collect();
    digits.chunks_exact(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_samples_of_the_page_and_of_its_server_are_read() {
        let page = "0110696e7374616e636500011072656772657373696f6e5f696e7374616e6365300001";
        assert_eq!(MetaKey::decode(&unhex(page)), Some(MetaKey::Instance("regression_instance0".into())));
        assert_eq!(MetaKey::Instance("regression_instance0".into()).to_string(), page);
        assert_eq!(decode(&unhex(page)).unwrap().1.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [1, 12]);
        for (number, bytes) in [
            (1, "120000000000000001"),
            (-1, "110000000000000001"),
            (i64::MAX, "127fffffffffffffff"),
            (0, "120000000000000000"),
            (i64::MIN, "118000000000000000"),
        ] {
            assert_eq!(hex(&encode(1, &[Field::Int(number)])[1..]), bytes, "{number}");
            assert_eq!(decode(&unhex(&format!("01{bytes}"))), Some((1, vec![(1, Field::Int(number))])), "{number}");
        }
        assert_eq!(hex(&encode(1, &[Field::Bytes(b"a\0b".to_vec())])), "01106100ff620001");
        let stamp = decode(&unhex("031369000000000000000001120000000000000001")).unwrap();
        assert_eq!(stamp, (3, vec![(1, Field::Stamp([0x69, 0, 0, 0, 0, 0, 0, 0, 0, 1])), (12, Field::Int(1))]));
        assert_eq!(
            (hex(&encode(3, &[stamp.1[0].1.clone()])), stamp.1[0].1.to_string()),
            ("031369000000000000000001".into(), "69000000000000000001".into())
        );
        assert_eq!(unhex("0110zz"), [1, 0x10]);
        assert_eq!(unhex("01101"), [1, 0x10], "half a byte is none");
    }

    #[test]
    fn every_record_has_a_name_of_its_own_and_is_found_by_it() {
        let text = |t: &str| t.to_owned();
        let all = [
            MetaKey::Instance(text("acme")),
            MetaKey::Cluster(text("acme"), text("c1")),
            MetaKey::Node(["acme", "c1", "1:acme:n", "n1:9050"].map(text)),
            MetaKey::Object(text("acme"), ObjectKey::new([0, 1, 0xff, 0, 0])),
            MetaKey::Object(text("acme"), ObjectKey::new(vec![0; crate::ids::KEY_BYTES_MAX])),
            MetaKey::Table(text("acme"), 7),
            MetaKey::Stats(text("acme"), [7, 8, 9, 10]),
            MetaKey::Vaults(text("acme")),
            MetaKey::RecycleJob(text("acme")),
            MetaKey::Changefeed(text("acme"), text("f1")),
            MetaKey::Segment(SegmentId::random()),
            MetaKey::Setting(text("balance")),
        ];
        for key in &all {
            assert_eq!(MetaKey::decode(&key.encode()).as_ref(), Some(key));
        }
        let order = |a: &str, b: &str| MetaKey::Instance(text(a)).encode() < MetaKey::Instance(text(b)).encode();
        assert!(order("a", "b") && order("a", "a\0") && order("a\0", "aa"), "sorted as what they are made of");
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let whole = MetaKey::Instance("acme".into()).encode();
        for cut in 0..whole.len() {
            assert_eq!(MetaKey::decode(&whole[..cut]), None, "{cut}");
        }
        for bad in ["", "00", "01", "0110", "0111", "041061000100", "011061000000", "0113", "011100000000000000000", "0112ffffffffffffffff"]
        {
            assert_eq!(decode(&unhex(bad)), None, "{bad}");
        }
        assert_eq!(decode(&unhex(&("01".to_owned() + &"10610001".repeat(FIELDS_MAX + 1)))), None);
        assert_eq!(decode(&[&[1, BYTES][..], &vec![b'a'; BYTES_MAX], &[0, 1]].concat()), None, "longer than any record's");
        assert_eq!(Field::Bytes(b"a\nb\xffc\xc3\xa4".to_vec()).to_string(), "a\\nb\\xffcä");
    }
}

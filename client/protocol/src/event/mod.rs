//! What happened to objects, segments and nodes, in the one order of the replicated log; and places in that order.
//!
//! An event is an effect of the log that took effect. So puts pay nothing for events, events have the durability of what they tell of, and a
//! [`Cursor`] means the same to every master, before and after a restart or a change of leaders.
//!
//! **Folding.** Who applies events one after the other to a map from (tenant, key) to an object knows what the masters know: [`What::Put`] replaces
//! an object whose version is not higher, what names another version than the map has is skipped, and a place on a segment that is not mounted is
//! none. Each event may be applied again. What begins with a list of
//! all ([`crate::rpc::watch::ListAll`]) equals the masters once it has come as far as that is settled.

mod filter;
mod shown;
mod streamed;

pub use filter::{About, EventFilter};
pub use shown::Shown;
pub use streamed::{Mark, Streamed};

use crate::{ColdName, NodeId, ObjectKey, Pin, ReplicaPlace, SegmentDesc, SegmentId, TenantId, Tso, VaultId};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use uuid::Uuid;

/// A place between two events of one cluster. Opaque to those who keep it: as text base64url.
///
/// ```text
/// | version = 1 | cluster | index of the log's entry | place in the entry |                       | crc-32c of all before |
/// | version = 2 | cluster | index of the log's entry | place in the entry | stamp of what was told |         ..            |
///     1 byte      16 bytes     8, big-endian            4, big-endian       8, big-endian            4, big-endian
/// ```
/// The second form is that of a place whose stamp is known: a master whose log has another entry there tells so. Two cursors are the same when their
/// places are. Later places are greater, also as bytes of one version, among those of one cluster.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Cursor {
    /// Of which cluster.
    pub cluster: Uuid,
    /// The entry of the log that holds the next event, or comes before it.
    pub index: u64,
    /// How many effects of that entry lie before this place.
    pub place: u32,
    /// When the entry was decided that holds what lies just before this place; 0: not known. Messages leave it out: events have it as their
    /// [`Event::commit_ts`], questions say it by [`crate::rpc::watch::From::Stamped`], answers by [`crate::rpc::watch::Followed`].
    #[serde(skip)]
    pub stamp: Tso,
}

/// Bytes or text that are no cursor: cut short, altered, or of a later version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no cursor, or not all of it: take one exactly as it was told")]
pub struct NoCursor;

/// Bytes of the checksum.
const SUM: usize = 4;

impl Cursor {
    /// The entry that holds what lies just before this place.
    pub fn before(&self) -> u64 {
        if self.place > 0 { self.index } else { self.index.saturating_sub(1) }
    }

    /// The form to be kept.
    pub fn to_bytes(self) -> Vec<u8> {
        let mut bytes = vec![if self.stamp == Tso(0) { 1 } else { 2 }];
        bytes.extend_from_slice(self.cluster.as_bytes());
        bytes.extend_from_slice(&self.index.to_be_bytes());
        bytes.extend_from_slice(&self.place.to_be_bytes());
        if self.stamp > Tso(0) {
            bytes.extend_from_slice(&self.stamp.0.to_be_bytes());
        }
        let sum = crc(&bytes);
        bytes.extend_from_slice(&sum);
        bytes
    }

    /// What was kept. Total.
    ///
    /// # Errors
    /// Whatever is not exactly what [`Cursor::to_bytes`] gave.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NoCursor> {
        let (body, sum) = bytes.split_at(bytes.len().saturating_sub(SUM));
        if crc(body) != sum {
            return Err(NoCursor);
        }
        let (version, body) = body.split_first().ok_or(NoCursor)?;
        let (cluster, body) = body.split_first_chunk::<16>().ok_or(NoCursor)?;
        let (index, body) = body.split_first_chunk().ok_or(NoCursor)?;
        let (place, stamp) = body.split_first_chunk().ok_or(NoCursor)?;
        let stamp = match (version, stamp.try_into().map(u64::from_be_bytes)) {
            (1, _) if stamp.is_empty() => 0,
            (2, Ok(stamp @ 1..)) => stamp,
            _ => return Err(NoCursor),
        };
        let (cluster, index, place) = (Uuid::from_bytes(*cluster), u64::from_be_bytes(*index), u32::from_be_bytes(*place));
        Ok(Self { cluster, index, place, stamp: Tso(stamp) })
    }

    fn order(&self) -> (Uuid, u64, u32) {
        (self.cluster, self.index, self.place)
    }
}

impl PartialEq for Cursor {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl Eq for Cursor {}

impl Hash for Cursor {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.order().hash(state);
    }
}

impl PartialOrd for Cursor {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Cursor {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
    }
}

fn crc(bytes: &[u8]) -> [u8; 4] {
    // CRC-32C is at most 32 bits wide; the function answers in 64.
    (crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32).to_be_bytes()
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.to_bytes()))
    }
}

impl FromStr for Cursor {
    type Err = NoCursor;

    fn from_str(text: &str) -> Result<Self, NoCursor> {
        Self::from_bytes(&URL_SAFE_NO_PAD.decode(text).map_err(|_| NoCursor)?)
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The place behind it: reading from here gives the next one.
    pub cursor: Cursor,
    /// When it was decided, by the one clock. Never lower than that of the event before; events that were decided together share it.
    pub commit_ts: Tso,
    /// Whose it is. `None`: the whole cluster's.
    pub tenant: Option<TenantId>,
    /// What.
    pub what: What,
}

/// What happened. What is told of an object names its version, and is about no other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// An object can be read, and replaces an older version of the key.
    Put {
        /// Which.
        key: ObjectKey,
        /// Orders the versions of a key.
        version: Tso,
        /// Bytes of the value.
        size: u64,
        /// [`crate::checksum`] of the value.
        checksum: u64,
        /// Resistance to eviction.
        pin: Pin,
        /// Where the copies are.
        replicas: Vec<ReplicaPlace>,
    },
    /// Copies in memory came and went.
    Replicas {
        /// Of which object.
        key: ObjectKey,
        /// Which version.
        version: Tso,
        /// From now on this is what there is on its segment.
        add: Option<ReplicaPlace>,
        /// Where there is none any more.
        drop: Option<SegmentId>,
    },
    /// An object is gone.
    Removed {
        /// Which.
        key: ObjectKey,
        /// Which version.
        version: Tso,
        /// Why.
        reason: RemoveReason,
    },
    /// Everything that the tenant had when this was decided was removed, each told before. `Event::tenant` says whose.
    Cleared,
    /// A copy of an object came to a vault.
    Offloaded {
        /// Of which object.
        key: ObjectKey,
        /// Which version.
        version: Tso,
        /// Where.
        vault: VaultId,
        /// As what.
        name: ColdName,
        /// Bytes that it takes there.
        stored: u64,
    },
    /// A copy that was in a vault is none any more.
    ColdLost {
        /// Of which object.
        key: ObjectKey,
        /// Which version.
        version: Tso,
        /// Where.
        vault: VaultId,
        /// What it was there.
        name: ColdName,
    },
    /// An object has no copies in memory any more, and one in a vault.
    Demoted {
        /// Which.
        key: ObjectKey,
        /// Which version.
        version: Tso,
    },
    /// A node lends a segment, or tells how a known one is now reached. Its capability is not told.
    Mounted {
        /// What it lends.
        segment: SegmentId,
        /// Its name.
        name: String,
        /// Who lends it.
        node: NodeId,
        /// Bytes.
        size: u64,
        /// Where its node's transfer engine is called over TCP; may be empty.
        endpoint: String,
    },
    /// A segment serves reads only, and goes when its grace period ends.
    Draining {
        /// Which.
        segment: SegmentId,
        /// Milliseconds.
        grace_ms: u64,
    },
    /// A segment is gone, and with it every copy on it.
    Unmounted {
        /// Which.
        segment: SegmentId,
    },
    /// A store node is heard.
    NodeUp {
        /// Which.
        node: NodeId,
        /// Its name, `host:port` of its transfer engine.
        name: String,
    },
    /// A store node was silent for too long: what it lends cannot be read until it comes back.
    NodeDown {
        /// Which.
        node: NodeId,
    },
}

impl What {
    /// A segment that a node lends.
    pub fn mounted(desc: &SegmentDesc) -> Self {
        let SegmentDesc { id, name, node, size, .. } = desc;
        Self::Mounted { segment: *id, name: name.clone(), node: *node, size: *size, endpoint: desc.tcp_endpoint().into() }
    }

    /// Which kind.
    pub fn kind(&self) -> EventKind {
        match self {
            Self::Put { .. } => EventKind::Put,
            Self::Replicas { .. } => EventKind::Replicas,
            Self::Removed { .. } => EventKind::Removed,
            Self::Cleared => EventKind::Cleared,
            Self::Offloaded { .. } => EventKind::Offloaded,
            Self::ColdLost { .. } => EventKind::ColdLost,
            Self::Demoted { .. } => EventKind::Demoted,
            Self::Mounted { .. } => EventKind::Mounted,
            Self::Draining { .. } => EventKind::Draining,
            Self::Unmounted { .. } => EventKind::Unmounted,
            Self::NodeUp { .. } => EventKind::NodeUp,
            Self::NodeDown { .. } => EventKind::NodeDown,
        }
    }

    /// Which object it is about, and which version of it; `None`: about none.
    pub fn object(&self) -> Option<(&ObjectKey, Tso)> {
        match self {
            Self::Put { key, version, .. }
            | Self::Replicas { key, version, .. }
            | Self::Removed { key, version, .. }
            | Self::Offloaded { key, version, .. }
            | Self::ColdLost { key, version, .. }
            | Self::Demoted { key, version } => Some((key, *version)),
            _ => None,
        }
    }
}

/// Kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "as in `What`")]
pub enum EventKind {
    Put,
    Replicas,
    Removed,
    Cleared,
    Offloaded,
    ColdLost,
    Demoted,
    Mounted,
    Draining,
    Unmounted,
    NodeUp,
    NodeDown,
}

impl EventKind {
    /// Every kind.
    pub const ALL: [Self; 12] = [
        Self::Put,
        Self::Replicas,
        Self::Removed,
        Self::Cleared,
        Self::Offloaded,
        Self::ColdLost,
        Self::Demoted,
        Self::Mounted,
        Self::Draining,
        Self::Unmounted,
        Self::NodeUp,
        Self::NodeDown,
    ];

    /// The word for it outside.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Replicas => "replicas",
            Self::Removed => "removed",
            Self::Cleared => "cleared",
            Self::Offloaded => "offloaded",
            Self::ColdLost => "cold-lost",
            Self::Demoted => "demoted",
            Self::Mounted => "mounted",
            Self::Draining => "draining",
            Self::Unmounted => "unmounted",
            Self::NodeUp => "node-up",
            Self::NodeDown => "node-down",
        }
    }
}

impl FromStr for EventKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|kind| kind.as_str()).collect();
            format!("no event is called {text:.100?}: there are {}", known.join(", "))
        })
    }
}

/// Why an object left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RemoveReason {
    /// Someone asked for it by key or pattern.
    Removed,
    /// Room was needed.
    Evicted,
    /// Its last replica went with its segment.
    Orphaned,
    /// The bytes of its last replica were not what was put.
    Damaged,
    /// Its tenant was dropped.
    Recycled,
}

impl RemoveReason {
    /// The word for it outside.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::Evicted => "evicted",
            Self::Orphaned => "orphaned",
            Self::Damaged => "damaged",
            Self::Recycled => "recycled",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor() -> Cursor {
        Cursor { cluster: Uuid::from_u128(0x67e5_5044_10b1_426f_9247_bb68_0e5f_e0c8), index: 77, place: 3, stamp: Tso(0) }
    }

    const STAMPED: &str = "AmflUEQQsUJvkke7aA5f4MgAAAAAAAAATQAAAAMAAakHrByAAD4ZAI8";

    #[test]
    fn a_cursor_comes_back_and_every_other_byte_is_noticed() {
        let text = cursor().to_string();
        assert_eq!(text, "AWflUEQQsUJvkke7aA5f4MgAAAAAAAAATQAAAAN4aFPP", "kept by consumers: for good");
        let stamped = Cursor { stamp: Tso(467_325_394_124_800), ..cursor() };
        assert_eq!(stamped.to_string(), STAMPED, "the same");
        for (cursor, text) in [(cursor(), text.as_str()), (stamped, STAMPED)] {
            let found: Cursor = text.parse().unwrap();
            assert_eq!((found, found.stamp), (cursor, cursor.stamp));
            let bytes = cursor.to_bytes();
            for cut in 0..bytes.len() {
                assert_eq!(Cursor::from_bytes(&bytes[..cut]), Err(NoCursor));
            }
            for bit in 0..bytes.len() * 8 {
                let mut altered = bytes.clone();
                altered[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Cursor::from_bytes(&altered), Err(NoCursor), "bit {bit}");
            }
        }
        for noise in ["", "now", "AWfl", &format!("{text}="), &format!("{text}A")] {
            assert_eq!(noise.parse::<Cursor>(), Err(NoCursor), "{noise}");
        }
    }

    #[test]
    fn later_places_are_greater_also_as_bytes() {
        let places = [(1, 0), (1, 1), (1, 300), (2, 0), (255, 9), (256, 0), (u64::MAX, u32::MAX)];
        for stamp in [Tso(0), Tso(7)] {
            let cursors = places.map(|(index, place)| Cursor { index, place, stamp, ..cursor() });
            assert!(cursors.is_sorted() && cursors.map(Cursor::to_bytes).is_sorted());
        }
    }

    #[test]
    fn a_kind_is_known_by_its_word() {
        for kind in EventKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
    }
}

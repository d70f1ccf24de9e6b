//! Events for people and for those who read JSON: one flat object each, with what its kind has.

use super::{Event, What};
use crate::{Pin, ReplicaPlace};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

/// An event as JSON. Numbers beyond 2^53 (stamps, versions) are numbers all the same; `checksum` is 16 hexadecimal digits.
#[derive(Serialize, Default)]
pub struct Shown<'a> {
    /// The place behind it; none for what is told of all that there is, whose rest would be missing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cursor: String,
    /// When it was decided.
    pub commit_ts: u64,
    /// The same in milliseconds since 1970.
    pub time_ms: u64,
    /// What happened.
    pub event: &'static str,
    /// Whose, by number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<u32>,
    /// Which object, where its key is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<&'a str>,
    /// Which object, where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_base64: Option<String>,
    /// Which version of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Bytes of the value, or of the segment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Of the value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
    /// Resistance to eviction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pin: Option<&'static str>,
    /// Where the copies are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<Vec<Place>>,
    /// A copy that came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub add: Option<Place>,
    /// The segment where there is none any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drop: Option<String>,
    /// Why it left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// The number of the vault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vault: Option<u64>,
    /// What the copy is called there; or the name of a segment or node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Bytes that it takes there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored: Option<u64>,
    /// Which segment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segment: Option<String>,
    /// Which node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Where its transfer engine is called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<&'a str>,
    /// Milliseconds until a segment goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_ms: Option<u64>,
}

/// A copy in memory.
#[derive(Serialize)]
pub struct Place {
    /// On which segment.
    pub segment: String,
    /// Its pieces there: offset and length in bytes.
    pub extents: Vec<(u64, u64)>,
}

impl From<&ReplicaPlace> for Place {
    fn from(place: &ReplicaPlace) -> Self {
        let extents = place.extents.iter().map(|extent| (extent.offset, extent.len)).collect();
        Self { segment: place.segment.to_string(), extents }
    }
}

impl<'a> From<&'a Event> for Shown<'a> {
    fn from(event: &'a Event) -> Self {
        let Event { cursor, commit_ts, tenant, what } = event;
        let mut shown = Self {
            cursor: cursor.to_string(),
            commit_ts: commit_ts.0,
            time_ms: commit_ts.physical_ms(),
            event: what.kind().as_str(),
            tenant: tenant.map(|tenant| tenant.0),
            ..Self::default()
        };
        if let Some((key, version)) = what.object() {
            shown.version = Some(version.0);
            match std::str::from_utf8(key.as_bytes()) {
                Ok(text) => shown.key = Some(text),
                Err(_) => shown.key_base64 = Some(STANDARD.encode(key.as_bytes())),
            }
        }
        match what {
            What::Put { size, checksum, pin, replicas, .. } => {
                (shown.size, shown.checksum) = (Some(*size), Some(format!("{checksum:016x}")));
                shown.pin = match pin {
                    Pin::None => None,
                    Pin::Soft => Some("soft"),
                    Pin::Hard => Some("hard"),
                };
                shown.replicas = Some(replicas.iter().map(Place::from).collect());
            }
            What::Replicas { add, drop, .. } => {
                (shown.add, shown.drop) = (add.as_ref().map(Place::from), drop.map(|segment| segment.to_string()));
            }
            What::Removed { reason, .. } => shown.reason = Some(reason.as_str()),
            What::Offloaded { vault, name, stored, .. } => {
                (shown.vault, shown.name, shown.stored) = (Some(vault.0), Some(name.to_string()), Some(*stored));
            }
            What::ColdLost { vault, name, .. } => (shown.vault, shown.name) = (Some(vault.0), Some(name.to_string())),
            What::Mounted { segment, name, node, size, endpoint } => {
                (shown.segment, shown.node) = (Some(segment.to_string()), Some(node.to_string()));
                (shown.name, shown.size, shown.endpoint) = (Some(name.clone()), Some(*size), Some(endpoint.as_str()));
            }
            What::Draining { segment, grace_ms } => {
                (shown.segment, shown.grace_ms) = (Some(segment.to_string()), Some(*grace_ms));
            }
            What::Unmounted { segment } => shown.segment = Some(segment.to_string()),
            What::NodeUp { node, name } => (shown.node, shown.name) = (Some(node.to_string()), Some(name.clone())),
            What::NodeDown { node } => shown.node = Some(node.to_string()),
            What::Cleared | What::Demoted { .. } => {}
        }
        shown
    }
}

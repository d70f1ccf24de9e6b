//! Who calls, hello, registration, heartbeat.

use super::call;
use crate::{NodeId, SegmentDesc, SegmentId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Says who calls, before anything else, where a master asks for it; elsewhere it is welcome and without effect.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authenticate {
    /// The secret.
    pub token: String,
}
call!(Authenticate = 4 "authenticate" -> ());

impl fmt::Debug for Authenticate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authenticate(masked)")
    }
}

/// The first question of a connection, unless it has to say who it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// What is calling, for logs.
    pub agent: String,
    /// The tenant whose keys the connection speaks of; empty means `default`.
    pub tenant: String,
}
call!(Hello = 1 "hello" -> Welcome);

/// As [`Hello`], from who has more to say of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greet {
    /// What is calling, for logs.
    pub agent: String,
    /// The tenant; empty means that of `unique_id`, else `default`.
    pub tenant: String,
    /// On whose behalf: where this one's puts go is where the caller's go. May be empty.
    pub user: String,
    /// The `cloud_unique_id` by which a node or client is registered, `1:TENANT:NAME`. May be empty.
    pub unique_id: String,
}
call!(Greet = 5 "greet" -> Welcome);

/// The name of the tenant whose keys this connection speaks of: who presents an id need not know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whose {}
call!(Whose = 7 "whose" -> String);

/// Who answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Names this cluster's data; another data directory has another name.
    pub cluster: String,
    /// The release of the master.
    pub release: String,
    /// The default lease, in milliseconds.
    pub lease_ms: u64,
    /// How often a store node must be heard, in milliseconds.
    pub heartbeat_ms: u64,
    /// How long a put may take before it is discarded, in milliseconds.
    pub put_deadline_ms: u64,
}

/// A store node announces itself on this connection, with the segments whose bytes it still has.
/// The connection belongs to the node from then on: when it closes, the node is suspect at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register {
    /// The node.
    pub node: NodeId,
    /// A name for people, `host:port` of its transfer engine.
    pub name: String,
    /// The base URL of its REST listener, or empty.
    pub rest: String,
    /// Segments whose memory is intact, with their present endpoints and capabilities.
    #[serde(deserialize_with = "super::items")]
    pub segments: Vec<SegmentDesc>,
}
call!(Register = 2 "register" -> Registered);

/// What became of the announced segments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// Announced, but unknown here: the node should mount them anew or drop them.
    pub unknown: Vec<SegmentId>,
    /// Objects that became readable again because their memory came back.
    pub objects_returned: u64,
}

/// I am alive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The node.
    pub node: NodeId,
}
call!(Heartbeat = 3 "heartbeat" -> HeartbeatReply);

/// The same from a node that says what it is at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// The node.
    pub node: NodeId,
    /// Reads and writes of peers that have begun and not ended, as far as it sees them.
    pub serves: u64,
}
call!(Beat = 6 "beat" -> HeartbeatReply);

/// What the node should do next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatReply {
    /// The master does not know this node (it restarted, or declared the node dead): register again.
    pub register: bool,
    /// Segments whose grace period is over: unmapped by the master, the node frees their memory.
    pub release: Vec<SegmentId>,
}

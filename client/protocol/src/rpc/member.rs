//! The masters of the group.

use super::call;
use serde::{Deserialize, Serialize};

/// All masters, by id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListMembers {}
call!(ListMembers = 60 "list_members" -> Vec<MemberState>);

/// A master as the leader sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberState {
    /// Its number.
    pub id: u64,
    /// `host:port` where the other masters call.
    pub address: String,
    /// `host:port` where clients call; empty while it has not said so.
    pub rpc: String,
    /// `host:port` where its HTTP is; empty while it has not said so.
    pub http: String,
    /// Whether it leads.
    pub leads: bool,
    /// Whether it votes; a learner does not.
    pub votes: bool,
    /// A learner that is to vote once it keeps up.
    pub rises: bool,
    /// Heard of lately.
    pub active: bool,
    /// The last entry of the log that it surely has.
    pub matched: u64,
    /// Entries that it lacks, as far as the leader knows.
    pub lag: u64,
}

/// Changes who the masters are, or which of them leads. Answered when it is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeMembers {
    /// How.
    pub change: MemberChange,
}
call!(ChangeMembers = 61 "change_members" -> (), LONG);

/// A change of the group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberChange {
    /// A new master, which begins as a learner.
    Add {
        /// Its number: never used before in this group.
        id: u64,
        /// `host:port` where the other masters will call it.
        address: String,
        /// `host:port` of its HTTP; empty if not known yet.
        http: String,
        /// Whether it is to vote once it keeps up.
        rises: bool,
    },
    /// A learner that keeps up becomes a voter.
    Promote {
        /// Which.
        id: u64,
    },
    /// A master leaves for good.
    Remove {
        /// Which.
        id: u64,
        /// Even if those who are there are no majority of those who are left.
        force: bool,
    },
    /// Another master is to lead.
    Transfer {
        /// Which.
        to: u64,
    },
}

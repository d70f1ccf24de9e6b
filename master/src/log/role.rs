//! What a member is at the moment, for those who begin and end leading.

use super::members::Member;
use super::status::Role;
use perilune_protocol::{Fault, FaultCode};

/// What a member is, in which term, and who leads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// [`Role::Leader`] only once everything that earlier leaders committed has been applied here; until then [`Role::Candidate`].
    pub role: Role,
    /// The raft term. It grows with every change of the leader.
    pub term: u64,
    /// The leader of this term, if known; this member itself when it leads.
    pub leader: Option<Member>,
}

impl Standing {
    /// Why a member that does not lead refuses. What was asked has not happened and will not.
    pub(super) fn refusal(&self, me: u64) -> Fault {
        FaultCode::WrongState.with(match &self.leader {
            Some(leader) if leader.id == me => format!("member {me} is only just taking the lead: try again"),
            Some(leader) => {
                let Member { id, address, service, .. } = leader;
                let at = if service.is_empty() { address } else { service };
                format!("member {me} does not lead: the leader is member {id} at {at}")
            }
            None => format!("member {me} does not lead, and no leader is known: try again"),
        })
    }
}

/// An effect may or may not have been stored.
pub(super) fn unknown(me: u64) -> Fault {
    FaultCode::Timeout.with(format!("member {me} lost the lead before the effect was committed: it may or may not be stored"))
}

//! Which changes of the group are allowed, and what raft is asked for then.

use super::members::{MEMBERS_MAX, Member, Members, encode_context, is_address};
use perilune_protocol::{FaultCode, Outcome};
use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2};

/// A learner that lacks more entries than this is not promoted: the group would wait for it.
const PROMOTE_LAG_MAX: u64 = 1000;

/// A change of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new member, which receives the log but does not vote yet.
    AddLearner(Member),
    /// A learner that has caught up becomes a voter.
    Promote(u64),
    /// A member leaves for good: its id is not used again.
    Remove(u64),
    /// The same, even if those of the others that are there are no majority then: nothing is decided until enough of them are back.
    Expel(u64),
    /// A member is found at other addresses.
    Move(Member),
}

/// What a leader knows of its group beyond the list.
pub(super) struct View<'a> {
    pub(super) me: u64,
    /// Heard of lately, or this member.
    pub(super) active: &'a dyn Fn(u64) -> bool,
    /// Entries that a member lacks.
    pub(super) lag: &'a dyn Fn(u64) -> u64,
}

impl Members {
    /// The raft change for `change`, or why it must not be.
    pub(super) fn plan(&self, change: &Change, view: &View<'_>) -> Outcome<ConfChangeV2> {
        let refuse = |code: FaultCode, why: String| Err(code.with(why));
        if self.is_changing() {
            return refuse(FaultCode::WrongState, "another change of the members is under way: wait for it".into());
        }
        let known = |id: u64| match self.get(id) {
            Some(_) => Ok(()),
            None => Err(FaultCode::InvalidParams.with(format!("the group has no member {id}"))),
        };
        let (kind, id, context) = match change {
            Change::AddLearner(member) => {
                let Member { id, address, .. } = member;
                if *id == 0 || self.get(*id).is_some() || self.retired.contains(id) {
                    return refuse(FaultCode::InvalidParams, format!("the id {id} is or was used in this group: choose another"));
                }
                if let Some(other) = self.list.iter().find(|m| m.address == *address) {
                    return refuse(FaultCode::InvalidParams, format!("member {} has the address {address} already", other.id));
                }
                if !is_address(address) {
                    return refuse(FaultCode::InvalidParams, format!("the address {address:?} is not host:port"));
                }
                if self.list.len() >= MEMBERS_MAX {
                    return refuse(FaultCode::InvalidParams, format!("the group has {MEMBERS_MAX} members, the most there can be"));
                }
                if self.list.iter().any(|m| m.address.is_empty()) {
                    let why = "a member has no address where the others reach it: start it with one (--peer-listen)";
                    return refuse(FaultCode::InvalidParams, why.into());
                }
                (ConfChangeType::AddLearnerNode, *id, encode_context(member))
            }
            Change::Promote(id) => {
                known(*id)?;
                if self.voters.contains(id) {
                    return refuse(FaultCode::InvalidParams, format!("member {id} votes already"));
                }
                let lag = (view.lag)(*id);
                if !(view.active)(*id) || lag > PROMOTE_LAG_MAX {
                    let state = if (view.active)(*id) { "is heard" } else { "is silent" };
                    return refuse(
                        FaultCode::WrongState,
                        format!("member {id} {state} and lacks {lag} entries: a voter must keep up, try again when it does"),
                    );
                }
                (ConfChangeType::AddNode, *id, Vec::new())
            }
            Change::Remove(id) | Change::Expel(id) => {
                known(*id)?;
                if self.voters == [*id] {
                    return refuse(FaultCode::InvalidParams, format!("member {id} is the last voter: nothing would be left"));
                }
                if *id == view.me {
                    return refuse(FaultCode::WrongState, format!("member {id} leads: hand the lead to another first"));
                }
                let left: Vec<u64> = self.voters.iter().copied().filter(|v| v != id).collect();
                let active = left.iter().filter(|v| (view.active)(**v)).count();
                if active <= left.len() / 2 && matches!(change, Change::Remove(_)) {
                    // The one refusal that says that it would do harm; the others pass.
                    return refuse(
                        FaultCode::Forbidden,
                        format!("without member {id} only {active} of {} voters would be there, no majority", left.len()),
                    );
                }
                (ConfChangeType::RemoveNode, *id, Vec::new())
            }
            Change::Move(member) => {
                known(member.id)?;
                if !is_address(&member.address) {
                    return refuse(FaultCode::InvalidParams, format!("the address {:?} is not host:port", member.address));
                }
                let seat = if self.voters.contains(&member.id) { ConfChangeType::AddNode } else { ConfChangeType::AddLearnerNode };
                (seat, member.id, encode_context(member))
            }
        };
        // Voters change in two steps, through a time when both majorities must agree; raft takes the second step by itself.
        let voters =
            matches!(change, Change::Promote(_)) || matches!(change, Change::Remove(id) | Change::Expel(id) if self.voters.contains(id));
        let transition = if voters { ConfChangeTransition::Implicit } else { ConfChangeTransition::Auto };
        let mut change = ConfChangeV2 {
            context,
            changes: vec![ConfChangeSingle { node_id: id, ..ConfChangeSingle::default() }],
            ..ConfChangeV2::default()
        };
        change.set_transition(transition);
        change.changes[0].set_change_type(kind);
        Ok(change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::members::tests::{member, three};
    use raft::eraftpb::ConfState;

    fn plan(members: &Members, change: &Change, active: &[u64], lag: u64) -> Outcome<ConfChangeV2> {
        members.plan(change, &View { me: 1, active: &|id| id == 1 || active.contains(&id), lag: &|_| lag })
    }

    #[test]
    fn changes_that_would_hurt_are_refused() {
        let members = three();
        for (change, active, lag, why) in [
            (Change::AddLearner(member(2)), &[2, 3][..], 0, "used in this group"),
            (Change::AddLearner(Member { id: 0, ..member(9) }), &[2, 3], 0, "used in this group"),
            (Change::AddLearner(Member { id: 4, ..member(2) }), &[2, 3], 0, "has the address"),
            (Change::AddLearner(Member { id: 4, ..Member::default() }), &[2, 3], 0, "not host:port"),
            (Change::Promote(4), &[2, 3], 0, "no member 4"),
            (Change::Promote(2), &[2, 3], 0, "votes already"),
            (Change::Remove(4), &[2, 3], 0, "no member 4"),
            (Change::Remove(1), &[2, 3], 0, "leads"),
            (Change::Remove(2), &[2], 0, "no majority"),
            (Change::Expel(1), &[2, 3], 0, "leads"),
            (Change::Expel(4), &[2, 3], 0, "no member 4"),
            (Change::Move(member(4)), &[2, 3], 0, "no member 4"),
        ] {
            let fault = plan(&members, &change, active, lag).unwrap_err();
            assert!(fault.message.contains(why), "{change:?}: {fault}");
            assert_eq!(fault.code == FaultCode::Forbidden, why == "no majority", "{change:?}: {fault}");
        }
        assert!(plan(&members, &Change::Expel(2), &[2], 0).is_ok());
        let one = Members::begin(vec![member(1)]).unwrap();
        assert!(plan(&one, &Change::Remove(1), &[], 0).unwrap_err().message.contains("last voter"));
        let mut grown = three();
        let learner = plan(&grown, &Change::AddLearner(member(4)), &[2, 3], 0).unwrap();
        grown.applied(7, &learner, ConfState { voters: vec![1, 2, 3], learners: vec![4], ..ConfState::default() }).unwrap();
        assert_eq!((grown.get(4), grown.index), (Some(&member(4)), 7));
        assert!(plan(&grown, &Change::Promote(4), &[2, 3], 0).unwrap_err().message.contains("silent"));
        assert!(plan(&grown, &Change::Promote(4), &[2, 3, 4], 1001).unwrap_err().message.contains("lacks 1001"));
        assert!(plan(&grown, &Change::Promote(4), &[2, 3, 4], 1000).is_ok());
    }

    #[test]
    fn a_removed_id_stays_used() {
        let mut members = three();
        let removal = plan(&members, &Change::Remove(3), &[2, 3], 0).unwrap();
        let joint = ConfState { voters: vec![1, 2], voters_outgoing: vec![1, 2, 3], auto_leave: true, ..ConfState::default() };
        members.applied(5, &removal, joint).unwrap();
        assert!(members.leaves_by_itself() && members.get(3).is_some());
        assert!(plan(&members, &Change::Remove(2), &[2, 3], 0).unwrap_err().message.contains("under way"));
        members.applied(6, &ConfChangeV2::default(), ConfState { voters: vec![1, 2], ..ConfState::default() }).unwrap();
        assert_eq!(members.get(3), None);
        assert!(plan(&members, &Change::AddLearner(member(3)), &[2], 0).unwrap_err().message.contains("was used"));
    }
}

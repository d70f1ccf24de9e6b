//! `/member/join`: a master that starts asks to be one of the group. Ours alone; `/member/add` is for people.

use super::{Answer, Refusal, Said, group, ok};
use crate::api::App;
use crate::log::{Change, Member, Members, Seat, is_address};
use axum::extract::State;
use perilune_protocol::FaultCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Who asks, and what for.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
pub(crate) struct Join {
    /// The group it takes this to be, if it knows.
    pub(crate) cluster_id: Option<String>,
    /// Itself; `rises` unless it is to remain a learner.
    #[schema(value_type = Object)]
    pub(crate) member: Member,
}

/// What a new log begins with.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
pub(crate) struct Joined {
    pub(crate) cluster_id: String,
    /// [`Members::encode`].
    pub(crate) members: Vec<u8>,
}

/// A master that starts asks to be one of the group. Ours alone.
///
/// Asking twice does no harm: a learner that is known already is told the same again, and found where it now is.
#[utoipa::path(
    post, path = "/member/join", tag = "masters",
    request_body = Join,
    responses((status = 200, description = "What its log begins with.", body = Joined))
)]
pub(super) async fn join(State(app): State<App>, Said(Join { cluster_id, member }): Said<Join>) -> Answer {
    let group = group(&app)?;
    let cluster = group.cluster();
    if let Some(theirs) = cluster_id.filter(|theirs| *theirs != cluster) {
        return Err(Refusal::joining(format!(
            "this is the cluster {cluster}, not {theirs}: join a master of that one, or leave --cluster out"
        )));
    }
    let members = group.members();
    let change = match plan(&members, member) {
        Ok(change) => change,
        Err(why) => return Err(Refusal::joining(why)),
    };
    let members = match change {
        Some(change) => group.change(change).await.map_err(|fault| match fault.code {
            FaultCode::InvalidParams | FaultCode::WrongState => Refusal::joining(fault.message),
            _ => fault.into(),
        })?,
        None => Members::clone(&members),
    };
    ok(&Joined { cluster_id: cluster, members: members.encode() })
}

/// What has to change, if anything, or why it must not.
fn plan(members: &Members, member: Member) -> Result<Option<Change>, String> {
    let id = member.id;
    for (what, at) in [("RPC", &member.service), ("HTTP", &member.http)] {
        if !at.is_empty() && !is_address(at) {
            return Err(format!("the {what} address {at:?} of master {id} is not host:port"));
        }
    }
    if let Some((known, _)) = members.iter().find(|(m, _)| m.id != id && m.address == member.address) {
        return Err(format!("master {} is at {} already: give this one another --peer-listen", known.id, known.address));
    }
    match members.iter().find(|(m, _)| m.id == id) {
        None if members.was_used(id) => Err(format!("the id {id} was used in this group and is not used again: choose another --id")),
        None => Ok(Some(Change::AddLearner(member))),
        Some((known, Seat::Voter)) => Err(format!(
            "master {id}, at {}, votes in this group: choose another --id, or, if its data is lost, remove it first and join with a new one",
            known.address
        )),
        Some((known, Seat::Learner)) if known.address != member.address => {
            Err(format!("master {id} is expected at {}: choose another --id, or listen there", known.address))
        }
        Some((known, Seat::Learner)) => {
            let member = Member { rises: known.rises || member.rises, ..member };
            Ok((*known != member).then_some(Change::Move(member)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64) -> Member {
        Member { id, address: format!("h{id}:1"), rises: true, ..Member::default() }
    }

    #[test]
    fn who_may_join_and_who_not() {
        let members = Members::begin(vec![member(1), member(2)]).unwrap();
        assert_eq!(plan(&members, member(3)), Ok(Some(Change::AddLearner(member(3)))));
        assert!(plan(&members, member(2)).unwrap_err().contains("votes in this group"));
        assert!(plan(&members, Member { id: 3, ..member(2) }).unwrap_err().contains("at h2:1 already"));
        for wrong in [Member { service: "h3".into(), ..member(3) }, Member { http: "h3:0".into(), ..member(3) }] {
            assert!(plan(&members, wrong).unwrap_err().contains("not host:port"));
        }
    }
}

//! `/member/*`: who the masters are.

use super::{Answer, Refusal, Said, done, group, ok};
use crate::api::App;
use crate::log::{Change, Member, Seat, is_address};
use axum::extract::State;
use perilune_protocol::FaultCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

const LEARNER: u8 = 1;
const NORMAL: u8 = 2;

#[derive(Default, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = AddMember)]
pub(super) struct Add {
    peer_id: u64,
    /// Where the other masters call its log.
    host: String,
    member_type: u8,
    /// Where its HTTP is; left out, the same as `host`.
    node_host: String,
    /// Where clients call; left out, unknown until it leads. Ours alone.
    rpc_host: String,
}

/// A new master, as a learner at first, which one of type 2 remains until it keeps up. For a learner that is there
/// already, at the same host, type 2 says that it is to vote.
#[utoipa::path(
    post, path = "/member/add", tag = "masters",
    request_body = Add,
    responses((status = 200, description = "It is one of the group."))
)]
pub(super) async fn add(State(app): State<App>, Said(add): Said<Add>) -> Answer {
    let group = group(&app)?;
    let rises = match add.member_type {
        LEARNER => false,
        NORMAL => true,
        other => return Err(Refusal::illegal(format!("member_type {other} is neither {LEARNER} nor {NORMAL}"))),
    };
    let members = group.members();
    if let Some((known, seat)) = members.iter().find(|(m, _)| m.id == add.peer_id || (m.address == add.host && !add.host.is_empty())) {
        if !rises || seat != Seat::Learner || (known.id, &known.address) != (add.peer_id, &add.host) {
            return Err(Refusal::duplicated(format!("master {} is in the group, at {:?}", known.id, known.address)));
        }
        return promote(group, known.clone()).await;
    }
    let Add { peer_id, host, node_host, rpc_host, .. } = add;
    let http = if node_host.is_empty() { host.clone() } else { node_host };
    if peer_id == 0 {
        return Err(Refusal::illegal("peer_id is 0 or left out: ids begin at 1"));
    }
    for (name, at) in [("host", &host), ("node_host", &http), ("rpc_host", &rpc_host)] {
        if !(is_address(at) || name == "rpc_host" && at.is_empty()) {
            return Err(Refusal::illegal(format!("{name} {at:?} is not host:port")));
        }
    }
    if members.was_used(peer_id) {
        return Err(Refusal::duplicated(format!("the id {peer_id} was used in this group")));
    }
    let member = Member { id: peer_id, http, address: host, service: rpc_host, rises };
    group.change(Change::AddLearner(member)).await?;
    done()
}

/// At once if it keeps up, and otherwise as soon as it does.
async fn promote(group: &crate::engine::Group, learner: Member) -> Answer {
    match group.change(Change::Promote(learner.id)).await {
        Ok(_) => done(),
        Err(fault) if fault.code == FaultCode::WrongState => {
            group.change(Change::Move(Member { rises: true, ..learner })).await?;
            done()
        }
        Err(fault) => Err(fault.into()),
    }
}

#[derive(Default, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = RemoveMember)]
pub(super) struct Remove {
    peer_id: u64,
    /// Even if those who are there are no majority of those who are left. Ours alone.
    force: bool,
}

/// A master leaves for good.
#[utoipa::path(
    post, path = "/member/remove", tag = "masters",
    request_body = Remove,
    responses((status = 200, description = "It has left."))
)]
pub(super) async fn remove(State(app): State<App>, Said(Remove { peer_id, force }): Said<Remove>) -> Answer {
    let group = group(&app)?;
    if group.members().get(peer_id).is_none() {
        return Err(Refusal::illegal(format!("the group has no member {peer_id}")));
    }
    if peer_id == group.me() {
        return Err(Refusal::not_allowed("this master leads: hand the lead to another first"));
    }
    let change = if force { Change::Expel(peer_id) } else { Change::Remove(peer_id) };
    match group.change(change).await {
        Ok(_) => done(),
        // Too few would be left.
        Err(fault) if fault.code == FaultCode::Forbidden => Err(Refusal::not_allowed(fault.message)),
        Err(fault) => Err(fault.into()),
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = Member)]
struct One<'a> {
    peer_id: u64,
    host: &'a str,
    node_host: &'a str,
    rpc_host: &'a str,
    member_type: u8,
    /// A learner that votes once it keeps up.
    rises: bool,
    leads: bool,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Members)]
pub(super) struct All<'a> {
    cluster_id: String,
    members: Vec<One<'a>>,
}

/// The masters, as far as this one has heard. Ours alone.
#[utoipa::path(
    get, path = "/member/list", tag = "masters",
    responses((status = 200, description = "All of them.", body = All))
)]
pub(super) async fn list(State(app): State<App>) -> Answer {
    let group = group(&app)?;
    let (members, leader) = (group.members(), group.leader());
    let of = |(m, seat)| -> One<'_> {
        let m: &Member = m;
        One {
            peer_id: m.id,
            host: &m.address,
            node_host: &m.http,
            rpc_host: &m.service,
            member_type: if seat == Seat::Learner { LEARNER } else { NORMAL },
            rises: m.rises && seat == Seat::Learner,
            leads: leader.as_ref().is_some_and(|l| l.id == m.id),
        }
    };
    ok(&All { cluster_id: group.cluster(), members: members.iter().map(of).collect() })
}

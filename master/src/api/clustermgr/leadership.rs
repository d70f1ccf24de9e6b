//! `/leadership/transfer`: another master is to lead.

use super::{Answer, Refusal, Said, done, group};
use crate::api::App;
use crate::log::Seat;
use axum::extract::State;
use serde::Deserialize;
use utoipa::ToSchema;

#[derive(Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct Transfer {
    peer_id: u64,
}

/// Another master is to lead.
///
/// Answers at once; `/stat` shows in `transferee` and then in `leader` what becomes of it. A learner cannot lead.
#[utoipa::path(
    post, path = "/leadership/transfer", tag = "masters",
    request_body = Transfer,
    responses((status = 200, description = "It was asked to."))
)]
pub(super) async fn transfer(State(app): State<App>, Said(Transfer { peer_id }): Said<Transfer>) -> Answer {
    let group = group(&app)?;
    let members = group.members();
    if !members.iter().any(|(m, seat)| m.id == peer_id && seat == Seat::Voter) {
        return Err(Refusal::illegal(format!("the group has no voter {peer_id}")));
    }
    group.transfer(peer_id);
    done()
}

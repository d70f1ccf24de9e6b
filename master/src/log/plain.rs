//! The member list as it was stored in version 2, when a member had no HTTP address and did not say whether it is to vote.

use super::members::{Member, Members};
use serde::Deserialize;

#[derive(Deserialize)]
struct Plain {
    id: u64,
    address: String,
    service: String,
}

impl From<Plain> for Member {
    fn from(Plain { id, address, service }: Plain) -> Self {
        Self { id, address, service, ..Self::default() }
    }
}

/// As [`Members`], field by field.
type List = (u64, Vec<Plain>, Vec<u64>, Vec<u64>, Vec<u64>, Vec<u64>, bool, Vec<u64>);

pub(super) fn list(body: &[u8]) -> postcard::Result<Members> {
    let (index, list, voters, learners, outgoing, learners_next, auto_leave, retired): List = postcard::from_bytes(body)?;
    let list = list.into_iter().map(Member::from).collect();
    Ok(Members { index, list, voters, learners, outgoing, learners_next, auto_leave, retired })
}

pub(super) fn member(body: &[u8]) -> postcard::Result<Member> {
    postcard::from_bytes::<Plain>(body).map(Member::from)
}

//! Who is in the group: ids, addresses, seats; how the list is stored and sent.

use super::entry::crc;
use super::plain;
use protobuf_prost::Message as _;
use raft::eraftpb::{ConfChangeV2, ConfState};
use serde::{Deserialize, Serialize};

/// Version 1 was raft's `ConfState` alone: the group of one of earlier releases.
const VERSION_BARE: u8 = 1;
/// In version 2 a member had no HTTP address, and did not say whether it is to vote.
const VERSION_PLAIN: u8 = 2;
const VERSION: u8 = 3;
const SELF_VERSION: u8 = 1;
/// Most members, learners included. Each costs every other one two threads and a connection each way.
pub const MEMBERS_MAX: usize = 16;

/// One member of the group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its raft id: never 0, never used twice in the life of a group.
    pub id: u64,
    /// `host:port` where its log listens to the other members. Empty only in a group of one that nobody can join.
    pub address: String,
    /// Where clients reach it. The log only keeps it, for faults that name the leader.
    pub service: String,
    /// `host:port` where it serves HTTP; empty until it has said so. The log only keeps it, for requests that the leader must answer.
    pub http: String,
    /// It is to vote once it keeps up. The log only keeps it: whoever leads promotes it.
    pub rises: bool,
}

/// What a member may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seat {
    /// Votes, and counts for the majority.
    Voter,
    /// Receives everything, decides nothing.
    Learner,
}

/// The members as of one entry of the log. Given to [`super::LogConfig::members`] to begin a group (all of them the same) or to join one
/// (what [`super::Log::change`] said when the member was added).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// The entry that made the group so; 0 as it began.
    pub index: u64,
    pub(super) list: Vec<Member>,
    pub(super) voters: Vec<u64>,
    pub(super) learners: Vec<u64>,
    /// Not empty between the two steps of a change of voters.
    pub(super) outgoing: Vec<u64>,
    pub(super) learners_next: Vec<u64>,
    pub(super) auto_leave: bool,
    /// Ids that were removed.
    pub(super) retired: Vec<u64>,
}

impl Members {
    /// A group that begins with these voters.
    ///
    /// # Errors
    /// When an id is 0 or appears twice, or there are too many.
    pub fn begin(mut list: Vec<Member>) -> Result<Self, String> {
        list.sort_by_key(|m| m.id);
        if list.iter().any(|m| m.id == 0) {
            return Err("a member has id 0: ids begin at 1".into());
        }
        if let Some(pair) = list.windows(2).find(|pair| pair[0].id == pair[1].id) {
            return Err(format!("two members have the id {}", pair[0].id));
        }
        if let Some(member) = list.iter().find(|m| !m.address.is_empty() && !is_address(&m.address)) {
            return Err(format!("member {} has the address {:?}, which is not host:port", member.id, member.address));
        }
        if list.len() > MEMBERS_MAX {
            return Err(format!("{} members, the limit is {MEMBERS_MAX}", list.len()));
        }
        let voters = list.iter().map(|m| m.id).collect();
        Ok(Self { list, voters, ..Self::default() })
    }

    /// Every member, by id.
    pub fn iter(&self) -> impl Iterator<Item = (&Member, Seat)> {
        self.list.iter().map(|m| (m, if self.voters.contains(&m.id) { Seat::Voter } else { Seat::Learner }))
    }

    /// The member with this id.
    pub fn get(&self, id: u64) -> Option<&Member> {
        self.list.iter().find(|m| m.id == id)
    }

    /// Ids of the voters.
    pub fn voters(&self) -> &[u64] {
        &self.voters
    }

    /// Whether a member with this id was removed: it is not used again.
    pub fn was_used(&self, id: u64) -> bool {
        self.retired.contains(&id)
    }

    /// No member at all: not a group.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether a change of voters is half done.
    pub fn is_changing(&self) -> bool {
        !self.outgoing.is_empty()
    }

    pub(super) fn leaves_by_itself(&self) -> bool {
        self.is_changing() && self.auto_leave
    }

    /// Whether nobody but this member is in the group.
    pub(super) fn is_alone(&self, me: u64) -> bool {
        self.voters == [me] && self.list.len() == 1 && !self.is_changing()
    }

    pub(super) fn conf_state(&self) -> ConfState {
        ConfState {
            voters: self.voters.clone(),
            learners: self.learners.clone(),
            voters_outgoing: self.outgoing.clone(),
            learners_next: self.learners_next.clone(),
            auto_leave: self.auto_leave,
        }
    }

    /// The entry `index` made the group what `now` says.
    pub(super) fn applied(&mut self, index: u64, change: &ConfChangeV2, now: ConfState) -> Result<(), String> {
        if let Some(member) = decode_context(&change.context)? {
            self.list.retain(|m| m.id != member.id);
            self.list.push(member);
        }
        self.index = index;
        (self.voters, self.learners) = (now.voters, now.learners);
        (self.outgoing, self.learners_next, self.auto_leave) = (now.voters_outgoing, now.learners_next, now.auto_leave);
        let seated = [&self.voters, &self.learners, &self.outgoing, &self.learners_next];
        let (stay, go): (Vec<Member>, Vec<Member>) = self.list.drain(..).partition(|m| seated.iter().any(|s| s.contains(&m.id)));
        self.list = stay;
        self.retired.extend(go.iter().map(|m| m.id));
        for ids in [&mut self.voters, &mut self.learners, &mut self.retired] {
            ids.sort_unstable();
            ids.dedup();
        }
        self.list.sort_by_key(|m| m.id);
        Ok(())
    }

    /// This member alone may say where it is, for nobody else knows a different list.
    pub(super) fn readdress(&mut self, member: &Member) {
        self.list.iter_mut().filter(|m| m.id == member.id).for_each(|m| m.clone_from(member));
    }

    /// Version, checksum, and the list.
    pub fn encode(&self) -> Vec<u8> {
        seal(VERSION, &to_bytes(self))
    }

    /// Total: any bytes give a list or say what is wrong.
    ///
    /// # Errors
    /// With what is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let (version, body) = unseal(bytes).map_err(|what| format!("the member list {what}"))?;
        match version {
            VERSION => postcard::from_bytes(body).map_err(|e| format!("the member list cannot be read: {e}")),
            VERSION_PLAIN => plain::list(body).map_err(|e| format!("the member list cannot be read: {e}")),
            VERSION_BARE => {
                let conf = ConfState::decode(body).map_err(|e| format!("the member list: {e}"))?;
                Self::begin(conf.voters.into_iter().map(|id| Member { id, ..Member::default() }).collect())
            }
            other => Err(format!("member list version {other}, this version reads up to {VERSION}")),
        }
    }
}

/// Whether it looks like `host:port`; what the host is, is seen when it is called.
pub fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
}

fn to_bytes<T: Serialize>(value: &T) -> Vec<u8> {
    // Fails only for types that have no such form, and these have.
    postcard::to_stdvec(value).unwrap_or_default()
}

/// `| version | crc-32c of the body | body |`
fn seal(version: u8, body: &[u8]) -> Vec<u8> {
    [&[version][..], &crc(body).to_le_bytes(), body].concat()
}

fn unseal(bytes: &[u8]) -> Result<(u8, &[u8]), &'static str> {
    let (version, rest) = bytes.split_first().ok_or("is empty")?;
    let (sum, body) = rest.split_first_chunk::<4>().ok_or("is cut short")?;
    if crc(body) != u32::from_le_bytes(*sum) {
        return Err("does not match its checksum");
    }
    Ok((*version, body))
}

/// Which member of the group a directory belongs to.
pub(super) fn encode_self(id: u64) -> Vec<u8> {
    seal(SELF_VERSION, &id.to_le_bytes())
}

pub(super) fn decode_self(bytes: &[u8]) -> Result<u64, String> {
    match unseal(bytes).map_err(|what| format!("this member's own id {what}"))? {
        (SELF_VERSION, body) => body.try_into().map(u64::from_le_bytes).map_err(|_| "this member's own id is cut short".into()),
        (other, _) => Err(format!("this member's own id has version {other}, this version reads {SELF_VERSION}")),
    }
}

/// Who is added or moved travels in the change itself.
pub(super) fn encode_context(member: &Member) -> Vec<u8> {
    seal(VERSION, &to_bytes(member))
}

fn decode_context(bytes: &[u8]) -> Result<Option<Member>, String> {
    if bytes.is_empty() {
        return Ok(None);
    }
    match unseal(bytes).map_err(|what| format!("the member of a change {what}"))? {
        (VERSION, body) => postcard::from_bytes(body).map(Some).map_err(|e| format!("the member of a change cannot be read: {e}")),
        (VERSION_PLAIN, body) => plain::member(body).map(Some).map_err(|e| format!("the member of a change cannot be read: {e}")),
        (other, _) => Err(format!("a change of version {other}, this version reads up to {VERSION}")),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::log) fn member(id: u64) -> Member {
        Member { id, address: format!("host{id}:1"), service: format!("host{id}:2"), http: format!("host{id}:3"), rises: id > 3 }
    }

    pub(in crate::log) fn three() -> Members {
        Members::begin((1..=3).map(member).collect()).unwrap()
    }

    #[test]
    fn what_is_stored_is_read_and_any_damage_is_noticed() {
        let members = three();
        let bytes = members.encode();
        assert_eq!(Members::decode(&bytes).unwrap(), members);
        for cut in 0..bytes.len() {
            assert!(Members::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Members::decode(&damaged).is_err(), "bit {bit}");
        }
        let old = seal(VERSION_BARE, &ConfState { voters: vec![1], ..ConfState::default() }.encode_to_vec());
        assert!(Members::decode(&old).unwrap().is_alone(1));
    }

    #[test]
    fn the_second_and_the_third_version_are_laid_out_like_this() {
        let plain = [5, 1, 1, 1, b'a', 1, b'b', 1, 1, 0, 0, 0, 0, 1, 9];
        let members = Members::decode(&seal(VERSION_PLAIN, &plain)).unwrap();
        let member = Member { id: 1, address: "a".into(), service: "b".into(), ..Member::default() };
        let parts = |m: &Members| (m.index, m.list.clone(), m.voters.clone(), m.retired.clone());
        assert_eq!(parts(&members), (5, vec![member.clone()], vec![1], vec![9]));
        assert_eq!(decode_context(&seal(VERSION_PLAIN, &plain[2..7])).unwrap(), Some(member.clone()));

        let body = [5, 1, 1, 1, b'a', 1, b'b', 1, b'c', 1, 1, 1, 0, 0, 0, 0, 1, 9];
        let members = Members::decode(&seal(VERSION, &body)).unwrap();
        let member = Member { http: "c".into(), rises: true, ..member };
        assert_eq!(parts(&members), (5, vec![member.clone()], vec![1], vec![9]));
        assert_eq!(members.encode(), seal(VERSION, &body));
        assert_eq!(
            (encode_context(&member), decode_context(&encode_context(&member)).unwrap()),
            (seal(VERSION, &body[2..10]), Some(member))
        );
    }

    #[test]
    fn a_group_does_not_begin_with_ids_that_cannot_be() {
        for ids in [&[1, 2, 1][..], &[0, 1], &(1..=17).collect::<Vec<_>>()] {
            assert!(Members::begin(ids.iter().map(|id| member(*id)).collect()).is_err(), "{ids:?}");
        }
        for address in ["host", ":1", "host:", "host:0", "host:65536", "host:x"] {
            assert!(Members::begin(vec![Member { address: address.into(), ..member(1) }]).is_err(), "{address}");
        }
    }
}

//! `/stat`: raft, space and volumes, as this master knows them.

use super::space::SpaceStat;
use super::{Answer, group, ok, space};
use crate::api::App;
use crate::engine::{Engine, Group};
use crate::log::{Feed, LogStatus, Progress, Role, Seat};
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

#[derive(Serialize, ToSchema)]
pub(super) struct Stat {
    leader_host: String,
    raft_status: RaftStatus,
    space_stat: SpaceStat,
    volume_stat: VolumeStat,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct RaftStatus {
    node_id: u64,
    term: u64,
    vote: u64,
    commit: u64,
    leader: u64,
    raft_state: &'static str,
    applied: u64,
    raft_applied: u64,
    transferee: u64,
    peers: Vec<Peer>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Peer {
    id: u64,
    host: String,
    r#match: u64,
    next: u64,
    state: &'static str,
    paused: bool,
    pending_snapshot: u64,
    active: bool,
    is_learner: bool,
}

/// Shards: the table `default.default` has one, the whole index.
#[derive(Serialize, ToSchema)]
struct VolumeStat {
    total_volume: u64,
    idle_volume: u64,
    can_alloc_volume: u64,
    active_volume: u64,
    lock_volume: u64,
    unlocking_volume: u64,
}

/// A shard into which nothing was put for so long is idle.
const IDLE_AFTER_MS: u64 = 60_000;

/// Raft, space and volumes, as this master knows them.
#[utoipa::path(
    get, path = "/stat", tag = "masters",
    responses((status = 200, description = "All of it.", body = Stat))
)]
pub(super) async fn stat(State(app): State<App>) -> Answer {
    let group = group(&app)?;
    // The positions first: whoever is asked for them later has moved on, and what a leader says of others would lie behind its own.
    let log = group.status();
    let progress = group.progress().await.unwrap_or_default();
    let leader = group.leader();
    let raft_status = RaftStatus {
        node_id: log.member,
        term: log.term,
        vote: log.vote,
        commit: log.commit,
        leader: leader.as_ref().map_or(0, |m| m.id),
        raft_state: word(&log),
        applied: log.applied,
        raft_applied: log.applied,
        transferee: progress.transferee,
        peers: progress.members.into_iter().map(|p| peer(p, group.me())).collect(),
    };
    let space_stat = space::stat(group, &group.usage().await?);
    let volume_stat = volumes(group, &group.engine(), &log, &space_stat);
    ok(&Stat { leader_host: leader.map(|m| m.http).unwrap_or_default(), raft_status, space_stat, volume_stat })
}

fn word(log: &LogStatus) -> &'static str {
    match log.role {
        Role::Leader => "StateLeader",
        Role::Follower => "StateFollower",
        Role::Candidate if log.pre_candidate => "StatePreCandidate",
        Role::Candidate => "StateCandidate",
    }
}

fn peer(p: Progress, me: u64) -> Peer {
    let state = match p.feed {
        // The leader feeds itself nothing; the page shows it like this.
        _ if p.member.id == me => "ProgressStateProbe",
        Feed::Probe => "ProgressStateProbe",
        Feed::Replicate => "ProgressStateReplicate",
        Feed::Snapshot => "ProgressStateSnapshot",
    };
    Peer {
        id: p.member.id,
        host: p.member.address,
        r#match: p.matched,
        next: p.next,
        state,
        paused: p.paused,
        pending_snapshot: p.pending_snapshot,
        active: p.active,
        is_learner: p.seat == Seat::Learner,
    }
}

fn volumes(group: &Group, engine: &Engine, log: &LogStatus, space: &SpaceStat) -> VolumeStat {
    let state = engine.state();
    let quiet_ms = group.wall_ms().saturating_sub(state.newest().physical_ms());
    // Where the log takes nothing more, or nothing new, writes are frozen.
    let lock = log.poisoned.is_some() || log.crowded.is_some();
    let idle = !lock && quiet_ms >= IDLE_AFTER_MS && state.puts.is_empty();
    let count = u64::from;
    VolumeStat {
        total_volume: 1,
        idle_volume: count(idle),
        can_alloc_volume: count(idle && space.writable_space > 0),
        active_volume: count(!idle && !lock),
        lock_volume: count(lock),
        unlocking_volume: 0,
    }
}

//! The memory that nodes have lent us.
//!
//! The table is replaced whole by the apply loop, its only writer; readers take the present one and never wait.

pub mod nodes;

use crate::MonotonicMs;
use crate::alloc::{FrameSpace, Space};
use crate::directory::PoolId;
use arc_swap::{ArcSwap, ArcSwapOption};
use perilune_protocol::{
    Capability, Endpoint, Fault, FaultCode, NodeId, SegmentDesc, SegmentId, SegmentStatus, TenantId, rpc::segment::SegmentState,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

/// A segment, shared by the table and every replica on it.
///
/// | field | written by | read by |
/// |---|---|---|
/// | `desc`, `unique_id` | apply (Mount) | everyone |
/// | `pool`, `closed` | apply (Mount, Directory) | everyone |
/// | `phase`, `drain_until` | apply (Drain, Unmount) | everyone |
/// | `reach` | the node room | everyone |
/// | `leaving` | the room of held space | background work |
/// | `space` | apply; requests, on the leader | requests |
///
/// The words stand for themselves and publish no other data, so Relaxed suffices; `desc` and `unique_id` publish through `ArcSwap`.
pub struct Segment {
    id: SegmentId,
    node: NodeId,
    tenant: TenantId,
    desc: ArcSwap<SegmentDesc>,
    unique_id: ArcSwapOption<String>,
    pool: AtomicU64,
    closed: AtomicBool,
    phase: AtomicU8,
    reach: AtomicU8,
    drain_until: AtomicU64,
    leaving: AtomicU64,
    space: Box<dyn Space>,
}

/// Where a segment is in its life, as the log knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Takes allocations.
    Mounted = 0,
    /// Readable until the grace period ends.
    Draining = 1,
    /// Unmounted; only replicas that are not yet swept still point here.
    Gone = 2,
}

/// What the heartbeat says of the node behind a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reach {
    /// Heard from lately.
    Alive = 0,
    /// Silent for a while: reads go elsewhere if they can.
    Suspect = 1,
    /// Silent for too long: its replicas count as gone until it returns.
    Lost = 2,
}

impl Segment {
    fn new(desc: SegmentDesc, tenant: TenantId) -> Self {
        Self {
            id: desc.id,
            node: desc.node,
            tenant,
            space: Box::new(FrameSpace::new(desc.size)),
            desc: ArcSwap::from_pointee(desc),
            unique_id: ArcSwapOption::empty(),
            pool: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            phase: AtomicU8::new(Phase::Mounted as u8),
            // Suspect, not alive: after a restart the node has yet to say that it is there.
            reach: AtomicU8::new(Reach::Suspect as u8),
            drain_until: AtomicU64::new(MonotonicMs::MAX),
            leaving: AtomicU64::new(0),
        }
    }

    /// Its id.
    pub fn id(&self) -> SegmentId {
        self.id
    }

    /// The node that lends it.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Whose objects may lie on it.
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// What its node presented when it was lent or announced last; `None`: nothing.
    pub fn unique_id(&self) -> Option<Arc<String>> {
        self.unique_id.load_full()
    }

    /// The pool that its node is registered in.
    pub fn pool(&self) -> Option<PoolId> {
        match self.pool.load(Ordering::Relaxed) {
            0 => None,
            id => Some(PoolId(id)),
        }
    }

    /// Whether its pool sleeps, or its node may lend nothing more: no new bytes are placed on it.
    pub fn closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Apply: numbers of pools begin at 1.
    pub(crate) fn set_pool(&self, pool: Option<PoolId>, closed: bool) {
        self.pool.store(pool.map_or(0, |pool| pool.0), Ordering::Relaxed);
        self.closed.store(closed, Ordering::Relaxed);
    }

    /// How it is reached now.
    pub fn desc(&self) -> Arc<SegmentDesc> {
        self.desc.load_full()
    }

    /// Its free and used space.
    pub fn space(&self) -> &dyn Space {
        &*self.space
    }

    /// Bytes on it that nothing needs any more and that may not be reused yet.
    pub fn held(&self) -> u64 {
        self.leaving.load(Ordering::Relaxed)
    }

    /// More of them, or fewer.
    pub(crate) fn leaving(&self, bytes: i64) {
        self.leaving.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Where it is in its life.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Mounted,
            1 => Phase::Draining,
            _ => Phase::Gone,
        }
    }

    /// Whether its node is heard.
    pub fn reach(&self) -> Reach {
        match self.reach.load(Ordering::Relaxed) {
            0 => Reach::Alive,
            1 => Reach::Suspect,
            _ => Reach::Lost,
        }
    }

    /// The node room reports a change.
    pub fn set_reach(&self, reach: Reach) {
        self.reach.store(reach as u8, Ordering::Relaxed);
    }

    /// Whether bytes on it count as existing.
    pub fn readable(&self) -> bool {
        self.phase() != Phase::Gone && self.reach() != Reach::Lost
    }

    /// Whether new bytes may be placed on it.
    pub fn allocatable(&self) -> bool {
        self.phase() == Phase::Mounted && self.reach() == Reach::Alive && !self.closed()
    }

    /// When its grace period ends.
    pub fn drain_until(&self) -> MonotonicMs {
        self.drain_until.load(Ordering::Relaxed)
    }

    /// The leader counts a grace period from when it saw it, so a new leader grants it anew.
    pub fn start_grace(&self, until: MonotonicMs) {
        self.drain_until.store(until, Ordering::Relaxed);
    }

    /// The word the faces show.
    pub fn status(&self) -> SegmentStatus {
        match (self.phase(), self.reach()) {
            (Phase::Gone, _) | (_, Reach::Lost) => SegmentStatus::Lost,
            (Phase::Draining, _) => SegmentStatus::Draining,
            (Phase::Mounted, Reach::Suspect) => SegmentStatus::Suspect,
            (Phase::Mounted, Reach::Alive) => SegmentStatus::Mounted,
        }
    }

    /// For listings; the capability is masked.
    pub fn state(&self) -> SegmentState {
        let mut desc = SegmentDesc::clone(&self.desc());
        desc.capability = Capability(0);
        SegmentState { desc, status: self.status(), used: self.space.used() }
    }
}

/// A page of memory: less cannot be lent.
pub const SEGMENT_BYTES_MIN: u64 = 4096;
/// The largest segment; a node splits what is larger.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 40;

/// Most bytes in each word that describes a segment, or that a caller presents: descriptions are in every snapshot.
pub const WORD_BYTES_MAX: usize = 1024;
const ENDPOINTS_MAX: usize = 64;

/// Says why a segment cannot be lent.
pub fn check(desc: &SegmentDesc) -> Result<(), Fault> {
    if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&desc.size) {
        let why = format!("segment {}: {} bytes; it may have {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}", desc.id, desc.size);
        return Err(FaultCode::InvalidParams.with(why));
    }
    if desc.endpoints.is_empty() {
        return Err(FaultCode::InvalidParams.with(format!("segment {}: no endpoint to reach it by", desc.id)));
    }
    let words = [&desc.name, &desc.location].into_iter().map(String::len);
    let endpoints = desc.endpoints.iter().map(|endpoint| match endpoint {
        Endpoint::Tcp(at) | Endpoint::Rdma(at) => at.len(),
        Endpoint::Shm { host, path } => host.len().max(path.len()),
    });
    if desc.endpoints.len() > ENDPOINTS_MAX || words.chain(endpoints).any(|len| len > WORD_BYTES_MAX) {
        let most = format!("it may have {ENDPOINTS_MAX} endpoints, and {WORD_BYTES_MAX} bytes in each, in its name and in its location");
        return Err(FaultCode::InvalidParams.with(format!("segment {} is described at too great length: {most}", desc.id)));
    }
    Ok(())
}

/// All segments that are not gone.
#[derive(Clone, Default)]
pub struct Table {
    by_id: BTreeMap<SegmentId, Arc<Segment>>,
    /// Grace periods of draining segments, as logged.
    grace_ms: BTreeMap<SegmentId, u64>,
}

impl Table {
    /// The segment of this id.
    pub fn get(&self, id: SegmentId) -> Option<&Arc<Segment>> {
        self.by_id.get(&id)
    }

    /// Every segment, by id: whoever draws from them draws the same when repeated.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Segment>> {
        self.by_id.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether nothing is mounted.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// The logged grace period of a draining segment.
    pub fn grace_ms(&self, id: SegmentId) -> Option<u64> {
        self.grace_ms.get(&id).copied()
    }
}

/// The room.
#[derive(Default)]
pub struct Segments {
    table: ArcSwap<Table>,
    /// Written by apply, read by whoever sweeps orphans: a change says that there may be some. Relaxed: the sweep may come a tick later.
    unmounts: AtomicU64,
}

impl Segments {
    /// The table as it is now.
    pub fn table(&self) -> arc_swap::Guard<Arc<Table>> {
        self.table.load()
    }

    /// How many segments have gone since this master began.
    pub fn unmounts(&self) -> u64 {
        self.unmounts.load(Ordering::Relaxed)
    }

    /// Apply: a segment is lent to a tenant, for good, or its description changed, or what its node presents.
    pub(crate) fn mount(&self, desc: SegmentDesc, tenant: TenantId, unique_id: Option<String>) -> Arc<Segment> {
        if let Some(known) = self.table().get(desc.id) {
            known.desc.store(Arc::new(desc));
            known.unique_id.store(unique_id.map(Arc::new));
            return known.clone();
        }
        let segment = Arc::new(Segment::new(desc, tenant));
        segment.unique_id.store(unique_id.map(Arc::new));
        self.replace(|t| {
            t.by_id.insert(segment.id, segment.clone());
        });
        segment
    }

    /// Apply: a segment stops taking allocations.
    pub(crate) fn drain(&self, id: SegmentId, grace_ms: u64) -> Option<Arc<Segment>> {
        let segment = self.table().get(id)?.clone();
        segment.phase.store(Phase::Draining as u8, Ordering::Relaxed);
        self.replace(|t| {
            t.grace_ms.insert(id, grace_ms);
        });
        Some(segment)
    }

    /// Apply: a segment is gone.
    pub(crate) fn unmount(&self, id: SegmentId) -> Option<Arc<Segment>> {
        let segment = self.table().get(id)?.clone();
        segment.phase.store(Phase::Gone as u8, Ordering::Relaxed);
        self.replace(|t| {
            t.by_id.remove(&id);
            t.grace_ms.remove(&id);
        });
        self.unmounts.fetch_add(1, Ordering::Relaxed);
        Some(segment)
    }

    fn replace(&self, change: impl Fn(&mut Table)) {
        let mut next = Table::clone(&self.table.load());
        change(&mut next);
        self.table.store(Arc::new(next));
    }
}

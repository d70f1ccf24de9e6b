//! What is counted for each kind of RPC.

use super::count::Count;
use perilune_protocol::rpc::{Call, cluster, cold, job, object, segment, session, vault, work};
use prometheus::{Histogram, HistogramVec};
use std::time::Instant;

/// Every call a client can make, by number and name. A call that is missing here is counted as `unknown`.
const KNOWN: &[(u16, &str)] = &[
    entry::<session::Hello>(),
    entry::<session::Greet>(),
    entry::<session::Register>(),
    entry::<session::Heartbeat>(),
    entry::<session::Beat>(),
    entry::<session::Whose>(),
    entry::<segment::Mount>(),
    entry::<segment::Unmount>(),
    entry::<segment::Describe>(),
    entry::<segment::ListSegments>(),
    entry::<object::PutStart>(),
    entry::<object::PutEnd>(),
    entry::<object::PutRevoke>(),
    entry::<object::Locate>(),
    entry::<object::Exists>(),
    entry::<object::MatchPrefix>(),
    entry::<object::Remove>(),
    entry::<object::RemoveMatching>(),
    entry::<object::ListKeys>(),
    entry::<cluster::Stat>(),
    entry::<cluster::ListNodes>(),
    entry::<cluster::SyncStatus>(),
    entry::<work::BeginRun>(),
    entry::<work::TakeWork>(),
    entry::<cold::TakeCold>(),
    entry::<cold::Recall>(),
    entry::<cold::ReadThrough>(),
    entry::<cold::Saved>(),
    entry::<cold::Offload>(),
    entry::<cold::OffloadFrom>(),
    entry::<cold::Remote>(),
    entry::<vault::VaultKeys>(),
    entry::<job::ListJobs>(),
    entry::<job::SwitchJob>(),
    entry::<job::PaceJobs>(),
];
const UNKNOWN: &str = "unknown";

const fn entry<C: Call>() -> (u16, &'static str) {
    (C::OP, C::NAME)
}

/// One number for calls about at most one thing and one for larger batches, because Mooncake's families tell them apart.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) requests: Count,
    pub(super) failures: Count,
    pub(super) partial: Count,
    pub(super) items: Count,
    pub(super) failed_items: Count,
}

/// The numbers of one kind of call. Resolve it once ([`super::Metrics::call`], [`super::Metrics::op`]) and keep it.
#[derive(Debug)]
pub struct CallMetrics {
    name: &'static str,
    seconds: Histogram,
    pub(super) single: Tally,
    pub(super) batch: Tally,
}

impl CallMetrics {
    /// Counts one answered call: how long it took since `started`, about how many items it was, and how many of them failed.
    ///
    /// The call as a whole failed when every item did; a call without items fails by saying `failed` is 1.
    pub fn observe(&self, started: Instant, items: u64, failed: u64) {
        self.seconds.observe(started.elapsed().as_secs_f64());
        let tally = if items > 1 { &self.batch } else { &self.single };
        tally.requests.add(1);
        if items > 0 {
            tally.items.add(items);
        }
        if failed > 0 {
            tally.failed_items.add(failed.min(items));
            if failed >= items { &tally.failures } else { &tally.partial }.add(1);
        }
    }

    /// The name of the call, as labels spell it.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// One number of both tallies.
    pub(super) fn both(&self, of: impl Fn(&Tally) -> &Count) -> u64 {
        of(&self.single).get() + of(&self.batch).get()
    }
}

/// The numbers of every kind of call.
#[derive(Debug)]
pub(super) struct Calls {
    all: Vec<CallMetrics>,
    /// From the number of a call to its place in `all`; the last place is that of unknown calls.
    by_op: Vec<u8>,
}

impl Calls {
    pub(super) fn new(seconds: &HistogramVec) -> Self {
        let names = KNOWN.iter().map(|(_, name)| *name).chain([UNKNOWN]);
        let all = names.map(|name| CallMetrics {
            name,
            seconds: seconds.with_label_values(&[name]),
            single: Tally::default(),
            batch: Tally::default(),
        });
        let unknown = KNOWN.len() as u8;
        let ops = KNOWN.iter().map(|(op, _)| usize::from(*op) + 1).max().unwrap_or(0);
        let mut by_op = vec![unknown; ops];
        for (place, (op, _)) in (0u8..).zip(KNOWN) {
            by_op[usize::from(*op)] = place;
        }
        Self { all: all.collect(), by_op }
    }

    pub(super) fn op(&self, op: u16) -> &CallMetrics {
        let place = self.by_op.get(usize::from(op)).map_or(KNOWN.len(), |place| usize::from(*place));
        &self.all[place]
    }

    pub(super) fn named(&self, name: &str) -> &CallMetrics {
        &self.all[KNOWN.iter().position(|(_, known)| *known == name).unwrap_or(KNOWN.len())]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &CallMetrics> {
        self.all.iter()
    }
}

//! Counts of verbs objects that exist, so that a leak shows, and of what was asked of devices, so that its cost does.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Objects made and not yet destroyed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Live {
    pub(crate) contexts: u64,
    pub(crate) domains: u64,
    pub(crate) regions: u64,
    pub(crate) channels: u64,
    pub(crate) completion_queues: u64,
    pub(crate) shared_queues: u64,
    pub(crate) queue_pairs: u64,
    /// Event channels of the connection manager, and its identifiers of connections.
    pub(crate) manager_channels: u64,
    pub(crate) manager_ids: u64,
}

impl Live {
    /// Nothing is left.
    #[cfg(test)]
    pub(crate) fn is_zero(&self) -> bool {
        self.total() == 0
    }

    /// All kinds together.
    pub(crate) fn total(&self) -> u64 {
        let Self { contexts, domains, regions, channels, completion_queues, shared_queues, queue_pairs, manager_channels, manager_ids } =
            *self;
        contexts + domains + regions + channels + completion_queues + shared_queues + queue_pairs + manager_channels + manager_ids
    }
}

/// What was asked of all devices since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Chains handed to a device, so often its doorbell was rung.
    pub(crate) doorbells: u64,
    /// Work requests of these.
    pub(crate) work_requests: u64,
    /// Completions taken.
    pub(crate) completions: u64,
    /// Times a completion queue was armed; each is a system call on devices without mapped doorbells.
    pub(crate) arms: u64,
    /// Events taken from completion channels.
    pub(crate) events: u64,
}

pub(crate) struct Counters {
    pub(crate) doorbells: AtomicU64,
    pub(crate) work_requests: AtomicU64,
    pub(crate) completions: AtomicU64,
    pub(crate) arms: AtomicU64,
    pub(crate) events: AtomicU64,
    contexts: AtomicU64,
    domains: AtomicU64,
    regions: AtomicU64,
    channels: AtomicU64,
    completion_queues: AtomicU64,
    shared_queues: AtomicU64,
    queue_pairs: AtomicU64,
    manager_channels: AtomicU64,
    manager_ids: AtomicU64,
}

pub(crate) static COUNTERS: Counters = Counters {
    doorbells: AtomicU64::new(0),
    work_requests: AtomicU64::new(0),
    completions: AtomicU64::new(0),
    arms: AtomicU64::new(0),
    events: AtomicU64::new(0),
    contexts: AtomicU64::new(0),
    domains: AtomicU64::new(0),
    regions: AtomicU64::new(0),
    channels: AtomicU64::new(0),
    completion_queues: AtomicU64::new(0),
    shared_queues: AtomicU64::new(0),
    queue_pairs: AtomicU64::new(0),
    manager_channels: AtomicU64::new(0),
    manager_ids: AtomicU64::new(0),
};

pub(crate) fn add(counter: &AtomicU64, more: usize) {
    counter.fetch_add(more as u64, Relaxed);
}

/// The kinds of objects.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Context,
    Domain,
    Region,
    Channel,
    CompletionQueue,
    SharedQueue,
    QueuePair,
    ManagerChannel,
    ManagerId,
}

impl Kind {
    fn counter(self) -> &'static AtomicU64 {
        match self {
            Self::Context => &COUNTERS.contexts,
            Self::Domain => &COUNTERS.domains,
            Self::Region => &COUNTERS.regions,
            Self::Channel => &COUNTERS.channels,
            Self::CompletionQueue => &COUNTERS.completion_queues,
            Self::SharedQueue => &COUNTERS.shared_queues,
            Self::QueuePair => &COUNTERS.queue_pairs,
            Self::ManagerChannel => &COUNTERS.manager_channels,
            Self::ManagerId => &COUNTERS.manager_ids,
        }
    }

    pub(crate) fn made(self) {
        self.counter().fetch_add(1, Relaxed);
    }

    /// An object whose destruction was refused stays counted.
    pub(crate) fn destroyed(self, code: i32) {
        if code == 0 {
            self.counter().fetch_sub(1, Relaxed);
        } else {
            tracing::error!("RDMA: a {self:?} could not be destroyed: {}", std::io::Error::from_raw_os_error(code));
        }
    }
}

/// How many objects there are now.
pub(crate) fn live() -> Live {
    let of = |kind: Kind| kind.counter().load(Relaxed);
    Live {
        contexts: of(Kind::Context),
        domains: of(Kind::Domain),
        regions: of(Kind::Region),
        channels: of(Kind::Channel),
        completion_queues: of(Kind::CompletionQueue),
        shared_queues: of(Kind::SharedQueue),
        queue_pairs: of(Kind::QueuePair),
        manager_channels: of(Kind::ManagerChannel),
        manager_ids: of(Kind::ManagerId),
    }
}

/// What was asked so far.
pub(crate) fn counts() -> Counts {
    let of = |counter: &AtomicU64| counter.load(Relaxed);
    Counts {
        doorbells: of(&COUNTERS.doorbells),
        work_requests: of(&COUNTERS.work_requests),
        completions: of(&COUNTERS.completions),
        arms: of(&COUNTERS.arms),
        events: of(&COUNTERS.events),
    }
}

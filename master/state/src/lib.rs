//! The brain: decides without clock, socket or thread. Time arrives as numbers, work leaves as values.
//!
//! ```text
//!             put_start        put_end            remove, evict
//!                 │               │                    │
//!   alloc ◄── puts (soft)     Effect::Commit       Effect::Remove      segments: Mount, Drain, Unmount, Frames
//!                                 └─────────► log ◄────┘                         │
//!                                              │ committed, in order             │
//!                                              ▼                                 │
//!                                        State::apply ◄──────────────────────────┘
//!                                  index, segments (survive)   ── leading only ──►  space freed, or held in limbo
//! ```
//!
//! Two kinds of rooms. What [`State::apply`] writes comes from the log and survives: the object index, the segments, the
//! directory of tenants, the settings.
//! What requests write directly is soft and dies with the leader: leases, recency, puts in progress, free space.
//! Both are read by many threads without a lock; the log's thread is the only one that applies.
#![forbid(unsafe_code)]

pub mod alloc;
pub mod apply;
mod belonging;
pub mod checkpoints;
pub mod cold;
pub mod directory;
pub mod effect;
pub mod gc;
pub mod glance;
pub mod meter;
pub mod moot;
pub mod objects;
pub mod place;
pub mod read;
pub mod reign;
pub mod replicas;
pub mod segments;
pub mod settings;
pub mod shards;
pub mod snapshot;
pub mod tso;
pub mod txn;
pub mod usage;
mod window;
pub mod write;

pub use apply::{Applied, Rules, State};
pub use effect::Effect;

/// Milliseconds on the leader's monotonic clock, counted from its start. Leases and deadlines are in these.
pub type MonotonicMs = u64;

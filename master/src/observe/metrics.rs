//! Counters and their names: the one object that every room of the master reports to.

use super::calls::{CallMetrics, Calls};
use super::count::Count;
use super::observed::Observed;
use super::summary::Rates;
use super::{page, summary};
use prometheus::{Histogram, HistogramOpts, HistogramVec, Registry};
use std::time::Instant;

/// From an index lookup to a call that waits for a disk, in seconds.
const CALL_SECONDS: &[f64] =
    &[5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Mooncake's buckets of value sizes, in bytes.
const VALUE_BYTES: &[f64] = &[4096.0, 65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0, 67_108_864.0];

/// Everything the master counts. Any thread may report, none ever waits for another.
#[derive(Debug)]
pub struct Metrics {
    pub(super) registry: Registry,
    pub(super) calls: Calls,
    pub(super) events: Events,
    pub(super) rates: Rates,
    http_seconds: HistogramVec,
    value_bytes: Histogram,
}

/// What happened, as plain counts.
#[derive(Debug, Default)]
pub(super) struct Events {
    pub(super) evictions_attempted: Count,
    pub(super) evictions_successful: Count,
    pub(super) evicted_objects: Count,
    pub(super) evicted_bytes: Count,
    pub(super) evicted_unsaved: Count,
    pub(super) demoted: Count,
    pub(super) offloaded: Count,
    pub(super) offloaded_bytes: Count,
    pub(super) offloads_failed: Count,
    pub(super) recalled: Count,
    pub(super) recalled_bytes: Count,
    pub(super) recalls_failed: Count,
    pub(super) passed_bytes: Count,
    pub(super) cold_lost: Count,
    pub(super) garbage_deleted: Count,
    pub(super) puts_without_room: Count,
    pub(super) puts_with_fewer_copies: Count,
    pub(super) puts_discarded: Count,
    pub(super) puts_discarded_bytes: Count,
    pub(super) puts_released: Count,
    pub(super) puts_released_bytes: Count,
    pub(super) leases: Count,
    pub(super) hits: Count,
    pub(super) hit_bytes: Count,
    pub(super) misses: Count,
    pub(super) removals_by_pattern: Count,
    pub(super) removals_by_pattern_failed: Count,
    pub(super) removals_of_all: Count,
    pub(super) removals_of_all_failed: Count,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Everything at zero.
    ///
    /// # Panics
    /// Never: the names and buckets are constants that a test registers.
    pub fn new() -> Self {
        let registry = Registry::new();
        let call_seconds =
            histograms(&registry, "perilune_rpc_seconds", "Time from reading a call to its answer being ready", CALL_SECONDS, &["call"]);
        let http_seconds = histograms(
            &registry,
            "perilune_http_seconds",
            "Time from reading a request to the head of its response",
            CALL_SECONDS,
            &["route", "status"],
        );
        Self {
            calls: Calls::new(&call_seconds),
            http_seconds,
            value_bytes: histograms(&registry, "master_value_size_bytes", "Distribution of object value sizes", VALUE_BYTES, &[])
                .with_label_values::<&str>(&[]),
            registry,
            events: Events::default(),
            rates: Rates::new(),
        }
    }

    /// The numbers of the call of that name ([`perilune_protocol::rpc::Call::NAME`]). Look it up once, at start.
    pub fn call(&self, name: &str) -> &CallMetrics {
        self.calls.named(name)
    }

    /// The numbers of the call of that number ([`perilune_protocol::rpc::Call::OP`]); any number is fine, and cheap.
    pub fn op(&self, op: u16) -> &CallMetrics {
        self.calls.op(op)
    }

    /// An eviction step ended, having let go of so many objects and bytes. With nothing let go it counts as attempted only.
    pub fn evicted(&self, objects: u64, bytes: u64) {
        self.events.evictions_attempted.add(1);
        if objects > 0 {
            self.events.evictions_successful.add(1);
            self.events.evicted_objects.add(objects);
            self.events.evicted_bytes.add(bytes);
        }
    }

    /// Objects left memory: so many stay in a vault, so many are lost although there is one.
    pub fn left_memory(&self, demoted: u64, unsaved: u64) {
        self.events.demoted.add(demoted);
        self.events.evicted_unsaved.add(unsaved);
    }

    /// An object of so many bytes was brought to a vault.
    pub fn offloaded(&self, bytes: u64) {
        self.events.offloaded.add(1);
        self.events.offloaded_bytes.add(bytes);
    }

    /// An object was not brought to a vault; most are tried again.
    pub fn offload_failed(&self) {
        self.events.offloads_failed.add(1);
    }

    /// An object of so many bytes was fetched from a vault.
    pub fn recalled(&self, bytes: u64) {
        self.events.recalled.add(1);
        self.events.recalled_bytes.add(bytes);
    }

    /// So many bytes were read out of a vault.
    pub fn passed(&self, bytes: u64) {
        self.events.passed_bytes.add(bytes);
    }

    /// An object was not fetched from a vault, or not read out of it.
    pub fn recall_failed(&self) {
        self.events.recalls_failed.add(1);
    }

    /// What was found in a vault was not what was put there.
    pub fn cold_lost(&self) {
        self.events.cold_lost.add(1);
    }

    /// An upload that nothing refers to was deleted.
    pub fn garbage_deleted(&self) {
        self.events.garbage_deleted.add(1);
    }

    /// A value of so many bytes was published.
    pub fn value_put(&self, bytes: u64) {
        self.value_bytes.observe(bytes as f64);
    }

    /// A put was refused because no segment had room.
    pub fn put_without_room(&self) {
        self.events.puts_without_room.add(1);
    }

    /// A put was granted fewer copies than it asked for.
    pub fn put_with_fewer_copies(&self) {
        self.events.puts_with_fewer_copies.add(1);
    }

    /// Puts passed their deadline unfinished; the room they hold, in bytes, waits to be released.
    pub fn puts_discarded(&self, puts: u64, bytes: u64) {
        self.events.puts_discarded.add(puts);
        self.events.puts_discarded_bytes.add(bytes);
    }

    /// The room of discarded puts, in bytes, went back to the allocator.
    pub fn puts_released(&self, puts: u64, bytes: u64) {
        self.events.puts_released.add(puts);
        self.events.puts_released_bytes.add(bytes);
    }

    /// So many leases were granted or renewed.
    pub fn leases_granted(&self, leases: u64) {
        self.events.leases.add(leases);
    }

    /// Lookups that found a readable copy, and the bytes of their values.
    pub fn hits(&self, objects: u64, bytes: u64) {
        self.events.hits.add(objects);
        self.events.hit_bytes.add(bytes);
    }

    /// Lookups that found nothing readable.
    pub fn misses(&self, objects: u64) {
        self.events.misses.add(objects);
    }

    /// A removal by pattern ended; the empty pattern removes all, which is counted apart.
    pub fn removed_matching(&self, pattern: &str, succeeded: bool) {
        let events = &self.events;
        let (requests, failures) = if pattern.is_empty() {
            (&events.removals_of_all, &events.removals_of_all_failed)
        } else {
            (&events.removals_by_pattern, &events.removals_by_pattern_failed)
        };
        requests.add(1);
        if !succeeded {
            failures.add(1);
        }
    }

    /// An HTTP request was answered. `route` is the pattern that matched, never the path, so that the labels stay few.
    pub fn http(&self, route: &str, status: u16, started: Instant) {
        let mut digits = [0; 3];
        self.http_seconds.with_label_values(&[route, three_digits(status, &mut digits)]).observe(started.elapsed().as_secs_f64());
    }

    /// The page for Prometheus, text format 0.0.4.
    pub fn page(&self, observed: &dyn Observed) -> String {
        page::render(self, observed)
    }

    /// The same for people, on one line.
    pub fn summary(&self, observed: &dyn Observed) -> String {
        summary::render(self, observed)
    }
}

/// An HTTP status is three digits by definition.
fn three_digits(status: u16, into: &mut [u8; 3]) -> &str {
    for (digit, scale) in into.iter_mut().zip([100, 10, 1]) {
        *digit = b'0' + (status / scale % 10) as u8;
    }
    std::str::from_utf8(into).unwrap_or("000")
}

fn histograms(registry: &Registry, name: &str, help: &str, buckets: &[f64], labels: &[&str]) -> HistogramVec {
    let family =
        HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels).expect("the names are constant and valid");
    registry.register(Box::new(family.clone())).expect("each name is registered once");
    family
}

//! Mooncake's families, so that its dashboards keep working. Same numbers as ours, its names.
//!
//! Its clients have one call for a single key and another for a batch. Ours are always batches: a batch of one is
//! counted in the plain family, a larger one in the batch family. Families of features that do not exist here are absent.

use super::Metrics;
use super::families::{Families, label};
use super::observed::Look;
use std::collections::BTreeMap;

/// Mooncake's name of a call, as its metrics spell and its help texts write it, and ours.
const CALLS_WITH_BATCH: &[(&str, &str, &str)] = &[
    ("exist_key", "ExistKey", "exists"),
    ("put_start", "PutStart", "put_start"),
    ("put_end", "PutEnd", "put_end"),
    ("put_revoke", "PutRevoke", "put_revoke"),
    ("get_replica_list", "GetReplicaList", "locate"),
];
const CALLS_WITHOUT_BATCH: &[(&str, &str, &str)] = &[
    ("remove", "Remove", "remove"),
    ("mount_segment", "MountSegment", "mount"),
    ("unmount_segment", "UnmountSegment", "unmount"),
    ("remount_segment", "ReMountSegment", "register"),
    ("ping", "Ping", "heartbeat"),
];

pub(super) fn families(out: &mut Families, metrics: &Metrics, look: &Look) {
    gauges(out, look);
    calls(out, metrics);
    events(out, metrics, look);
}

fn gauges(out: &mut Families, look: &Look) {
    let stat = &look.stat;
    out.gauge("master_allocated_bytes", "Total memory bytes currently allocated across all segments", stat.used as f64);
    out.gauge("master_total_capacity_bytes", "Total memory capacity across all mounted segments", stat.capacity as f64);
    // Its label is the name alone, and a family may hold each set of labels once.
    let mut by_name: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for segment in &look.segments {
        let (used, size) = by_name.entry(&segment.desc.name).or_default();
        *used += segment.used;
        *size += segment.desc.size;
    }
    let samples = |of: fn(&(u64, u64)) -> u64| by_name.iter().map(move |(name, sums)| (vec![label("segment", *name)], of(sums) as f64));
    out.gauges("segment_allocated_bytes", "Total memory bytes currently allocated of the segment", samples(|sums| sums.0));
    out.gauges("segment_total_capacity_bytes", "Total memory capacity of the mounted segment", samples(|sums| sums.1));
    out.gauge("master_key_count", "Total number of keys managed by the master", stat.objects as f64);
    out.gauge("master_soft_pin_key_count", "Total number of soft-pinned keys managed by the master", look.soft_pins as f64);
    out.gauge("master_active_clients", "Total number of active clients", look.nodes_in("ALIVE") as f64);
}

fn calls(out: &mut Families, metrics: &Metrics) {
    let mut plain = |name: &str, word: &str, requests: u64, failures: u64| {
        out.counter(&format!("master_{name}_requests_total"), &format!("Total number of {word} requests received"), requests);
        out.counter(&format!("master_{name}_failures_total"), &format!("Total number of failed {word} requests"), failures);
    };
    for (name, word, ours) in CALLS_WITH_BATCH {
        let single = &metrics.call(ours).single;
        plain(name, word, single.requests.get(), single.failures.get());
    }
    for (name, word, ours) in CALLS_WITHOUT_BATCH {
        let call = metrics.call(ours);
        plain(name, word, call.both(|tally| &tally.requests), call.both(|tally| &tally.failures));
    }
    let events = &metrics.events;
    plain("remove_by_regex", "RemoveByRegex", events.removals_by_pattern.get(), events.removals_by_pattern_failed.get());
    plain("remove_all", "RemoveAll", events.removals_of_all.get(), events.removals_of_all_failed.get());
    for (name, word, ours) in CALLS_WITH_BATCH {
        let batch = &metrics.call(ours).batch;
        let mut count = |what: &str, help: String, value: u64| out.counter(&format!("master_batch_{name}_{what}_total"), &help, value);
        count("requests", format!("Total number of Batch{word} requests received"), batch.requests.get());
        count("failures", format!("Total number of failed Batch{word} requests"), batch.failures.get());
        count("partial_successes", format!("Total number of partially successful Batch{word} requests"), batch.partial.get());
        count("items", format!("Total number of items processed in Batch{word} requests"), batch.items.get());
        count("failed_items", format!("Total number of failed items in Batch{word} requests"), batch.failed_items.get());
    }
}

fn events(out: &mut Families, metrics: &Metrics, look: &Look) {
    let events = &metrics.events;
    out.gauge("mem_cache_nums_", "Number of values in memory", look.stat.objects as f64);
    let mut count = |name, help, value| out.counter(name, help, value);
    count(
        "master_put_start_alloc_failures_total",
        "Total number of PutStart failures caused by replica allocation failure",
        events.puts_without_room.get(),
    );
    count(
        "master_put_start_partial_allocations_total",
        "Total number of PutStart requests that succeeded with fewer replicas than requested",
        events.puts_with_fewer_copies.get(),
    );
    count("mem_cache_hit_nums_", "Total number of cache hits in memory", events.hits.get());
    count("mem_cache_hit_bytes_total", "Total bytes of cache hits in memory", events.hit_bytes.get());
    count("valid_get_nums_", "Total number of GetReplicaList operations that returned at least one completed replica", events.hits.get());
    count("total_get_nums_", "Total number of GetReplicaList operations", events.hits.get() + events.misses.get());
    count("master_successful_evictions_total", "Total number of successful eviction operations", events.evictions_successful.get());
    count("master_attempted_evictions_total", "Total number of attempted eviction operations", events.evictions_attempted.get());
    count("master_evicted_key_count", "Total number of keys evicted", events.evicted_objects.get());
    count("master_evicted_size_bytes", "Total bytes of evicted objects", events.evicted_bytes.get());
    count("master_put_start_discard_cnt", "Total number of discarded PutStart operations", events.puts_discarded.get());
    count("master_put_start_release_cnt", "Total number of released PutStart operations", events.puts_released.get());
    let staging = events.puts_discarded_bytes.get().saturating_sub(events.puts_released_bytes.get());
    out.gauge(
        "master_put_start_discarded_staging_size",
        "Total size of memory replicas in discarded but not yet released PutStart operations",
        staging as f64,
    );
}

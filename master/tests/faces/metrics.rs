//! The pages show what happened, under our names and Mooncake's.

use crate::engine::Served;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

const TEXT: &str = "text/plain; version=0.0.4";

/// Every sample of the page, checking its form on the way.
fn samples(page: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    let mut families = BTreeSet::new();
    let mut family = "";
    for line in page.lines() {
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            family = kind.split(' ').next().unwrap();
            assert!(families.insert(family), "{family} is declared twice");
        } else if !line.starts_with("# HELP ") {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(name.starts_with(family), "{name} stands under {family}");
            assert!(samples.insert(name.to_owned(), value.parse().unwrap()).is_none(), "{name} is given twice");
        }
    }
    samples
}

#[test]
fn the_page_shows_what_happened() {
    let served = Served::start();
    served.engine.mount("same", 0, 1000, 10);
    served.engine.mount("same", 0, 2000, 20);
    served.engine.mount("quote\"d\\", 0, 1, 1);
    served.engine.put("k", &[]);
    let metrics = perilune_master::api::Facade::metrics(&*served.engine);
    let now = Instant::now();
    metrics.call("locate").observe(now, 1, 0);
    metrics.call("locate").observe(now, 1, 1);
    metrics.op(23).observe(now, 128, 28);
    metrics.op(23).observe(now, 4, 4);
    metrics.op(3).observe(now, 0, 0);
    metrics.op(26).observe(now, 10, 1);
    metrics.op(9999).observe(now, 0, 1);
    metrics.hits(100, 6400);
    metrics.misses(30);
    metrics.evicted(0, 0);
    metrics.evicted(7, 700);
    metrics.value_put(5000);
    metrics.puts_discarded(2, 200);
    metrics.puts_released(1, 50);
    metrics.put_without_room();
    metrics.removed_matching("", true);
    metrics.removed_matching("a.*", false);
    served.get("/health");
    served.get("/nowhere");

    let reply = served.get("/metrics");
    assert_eq!((reply.status, reply.header("content-type")), (200, TEXT));
    let samples = samples(&reply.body);
    for (name, value) in [
        ("perilune_rpc_requests_total{call=\"locate\"}", 4.0),
        ("perilune_rpc_failures_total{call=\"locate\"}", 2.0),
        ("perilune_rpc_partial_successes_total{call=\"locate\"}", 1.0),
        ("perilune_rpc_items_total{call=\"locate\"}", 134.0),
        ("perilune_rpc_failed_items_total{call=\"locate\"}", 33.0),
        ("perilune_rpc_seconds_count{call=\"locate\"}", 4.0),
        ("perilune_rpc_failures_total{call=\"unknown\"}", 1.0),
        ("perilune_rpc_requests_total{call=\"put_start\"}", 0.0),
        ("perilune_http_seconds_count{route=\"/health\",status=\"200\"}", 1.0),
        ("perilune_http_seconds_count{route=\"unmatched\",status=\"404\"}", 1.0),
        ("perilune_objects", 1.0),
        ("perilune_puts_in_progress", 3.0),
        ("perilune_job_enabled{job=\"balance\"}", 1.0),
        ("perilune_job_progress_ratio{job=\"balance\"}", 0.25),
        ("perilune_job_copied_bytes_total{job=\"balance\"}", 4096.0),
        ("perilune_nodes{status=\"ALIVE\"}", 1.0),
        ("perilune_log_applied_index", 41.0),
        ("perilune_uptime_seconds", 7.0),
        ("master_get_replica_list_requests_total", 2.0),
        ("master_get_replica_list_failures_total", 1.0),
        ("master_batch_get_replica_list_requests_total", 2.0),
        ("master_batch_get_replica_list_failures_total", 1.0),
        ("master_batch_get_replica_list_partial_successes_total", 1.0),
        ("master_batch_get_replica_list_items_total", 132.0),
        ("master_batch_get_replica_list_failed_items_total", 32.0),
        ("master_remove_requests_total", 1.0),
        ("master_remove_all_requests_total", 1.0),
        ("master_remove_by_regex_failures_total", 1.0),
        ("master_ping_requests_total", 1.0),
        ("master_allocated_bytes", 31.0),
        ("segment_total_capacity_bytes{segment=\"same\"}", 3000.0),
        ("segment_allocated_bytes{segment=\"quote\\\"d\\\\\"}", 1.0),
        ("master_active_clients", 1.0),
        ("master_soft_pin_key_count", 5.0),
        ("master_value_size_bytes_bucket{le=\"4096\"}", 0.0),
        ("master_value_size_bytes_bucket{le=\"65536\"}", 1.0),
        ("total_get_nums_", 130.0),
        ("valid_get_nums_", 100.0),
        ("mem_cache_hit_bytes_total", 6400.0),
        ("master_attempted_evictions_total", 2.0),
        ("master_successful_evictions_total", 1.0),
        ("master_evicted_key_count", 7.0),
        ("master_put_start_discarded_staging_size", 150.0),
        ("master_put_start_alloc_failures_total", 1.0),
    ] {
        assert_eq!(samples.get(name), Some(&value), "{name}");
    }
    assert!(samples["process_resident_memory_bytes"] > 1e5 && samples["process_open_fds"] > 3.0);
    assert!(!reply.body.contains("master_nof") && !reply.body.contains("master_promotion"), "what does not exist is not shown");
}

#[test]
fn the_summary_is_one_line() {
    let served = Served::start();
    served.engine.mount("s", 0, 4 << 30, 1 << 30);
    let metrics = perilune_master::api::Facade::metrics(&*served.engine);
    metrics.evicted(7, 2048);
    metrics.op(29).observe(Instant::now(), 1, 1);
    let reply = served.get("/metrics/summary");
    assert_eq!((reply.status, reply.header("content-type"), reply.body.lines().count()), (200, TEXT, 1));
    assert!(
        reply.body.starts_with(
            "Mem Storage: 1 GiB / 4 GiB (25.0%) | Keys: 0 (soft-pinned: 5) | Clients: 1 | Requests (Success/Total per sec): PutStart=0.00/"
        ),
        "{}",
        reply.body
    );
    assert!(!reply.body.contains("PutStart=0.00/0.00, "), "the rate of failed puts shows: {}", reply.body);
    assert!(reply.body.contains(" | Eviction: Success/Attempts=1/1, AllocFail=0, PartialAlloc=0, keys=7, size=2 KiB | Discard: Released/Total=0/0, StagingSize=0 B"), "{}", reply.body);
}

//! The page for Prometheus: our own families, then Mooncake's, from one look at the numbers.

use super::calls::{CallMetrics, Tally};
use super::count::Count;
use super::families::{Families, label};
use super::observed::{FeedUse, Look, Observed, PoolUse, TenantUse, VaultUse};
use super::{Metrics, mooncake, process};
use crate::events::Lag;
use crate::log::{LogStatus, Role};
use perilune_protocol::SegmentStatus;
use perilune_protocol::rpc::cluster::ClusterStat;
use perilune_protocol::rpc::job::{JobCounts, JobState};
use prometheus::TextEncoder;

/// Writes the page. A defect in a family costs that page, not the master: it is said in a comment line, which Prometheus skips.
pub(super) fn render(metrics: &Metrics, observed: &dyn Observed) -> String {
    let mut families = Families::default();
    let look = Look::at(observed);
    cluster(&mut families, &look);
    events(&mut families, metrics);
    calls(&mut families, metrics);
    jobs(&mut families, &look.jobs);
    consumers(&mut families, &look);
    feeds(&mut families, &look.feeds);
    log(&mut families, &look.log);
    machine(&mut families, &look.stat);
    mooncake::families(&mut families, metrics, &look);
    families.0.extend(metrics.registry.gather());
    let mut page = String::new();
    if let Err(error) = TextEncoder::new().encode_utf8(&families.0, &mut page) {
        page.push_str(&format!("# the page ends here: {error}\n"));
    }
    page
}

fn cluster(out: &mut Families, look: &Look) {
    let Look { stat, segments, .. } = look;
    out.gauge("perilune_objects", "Objects that exist", stat.objects as f64);
    out.gauge("perilune_objects_soft_pinned", "Objects that are soft-pinned", look.soft_pins as f64);
    out.gauge("perilune_puts_in_progress", "Puts started and neither ended, revoked nor discarded", stat.puts as f64);
    out.gauge("perilune_capacity_bytes", "Bytes lent by all segments", stat.capacity as f64);
    out.gauge("perilune_used_bytes", "Bytes allocated in all segments, rounding included", stat.used as f64);
    let of_tenants = |of: fn(&TenantUse) -> u64| look.tenants.iter().map(move |t| (vec![label("tenant", t.name.as_str())], of(t) as f64));
    out.gauges("perilune_tenant_bytes", "Bytes in memory that count for the tenant's quota", of_tenants(|t| t.bytes));
    out.gauges("perilune_tenant_objects", "Objects that count for the tenant's quota", of_tenants(|t| t.objects));
    let of_pools = |of: fn(&PoolUse) -> u64| {
        let labels = |p: &PoolUse| vec![label("tenant", p.tenant.as_str()), label("pool", p.name.as_str())];
        look.pools.iter().map(move |p| (labels(p), of(p) as f64))
    };
    out.gauges("perilune_pool_segments", "Segments that the nodes of the pool lend", of_pools(|p| p.segments));
    out.gauges("perilune_pool_used_bytes", "Bytes allocated in them, rounding included", of_pools(|p| p.used));
    out.gauges("perilune_pool_capacity_bytes", "Bytes of them", of_pools(|p| p.capacity));
    let of_vaults = |of: fn(&VaultUse) -> f64| {
        let labels = |v: &VaultUse| [("tenant", v.tenant.clone()), ("vault", v.id.to_string()), ("name", v.name.clone())];
        look.vaults.iter().map(move |v| (labels(v).map(|(name, of)| label(name, of)).to_vec(), of(v)))
    };
    out.gauges("perilune_vault_up", "1 where objects can be brought to the vault and back", of_vaults(|v| f64::from(u8::from(v.up))));
    out.gauges("perilune_vault_slow", "1 where it can, and takes its time", of_vaults(|v| f64::from(u8::from(v.condition == "slow"))));
    out.gauges("perilune_vault_since_seconds", "Since when that is so, in seconds since 1970", of_vaults(|v| v.since_ms as f64 / 1000.0));
    let statuses = ["ALIVE", "SUSPECT", "LOST"].map(|status| (vec![label("status", status)], look.nodes_in(status) as f64));
    out.gauges("perilune_nodes", "Store nodes by what became of them", statuses);
    let statuses = [SegmentStatus::Mounted, SegmentStatus::Suspect, SegmentStatus::Draining, SegmentStatus::Lost].map(|status| {
        let count = segments.iter().filter(|segment| segment.status == status).count();
        (vec![label("status", status.as_str())], count as f64)
    });
    out.gauges("perilune_segments", "Segments by where they are in their life", statuses);
    // Names may repeat, ids do not.
    let labels = |desc: &perilune_protocol::SegmentDesc| vec![label("segment", desc.name.as_str()), label("id", desc.id.to_string())];
    out.gauges("perilune_segment_used_bytes", "Bytes allocated in the segment", segments.iter().map(|s| (labels(&s.desc), s.used as f64)));
    out.gauges("perilune_segment_capacity_bytes", "Bytes of the segment", segments.iter().map(|s| (labels(&s.desc), s.desc.size as f64)));
}

fn events(out: &mut Families, metrics: &Metrics) {
    let events = &metrics.events;
    let mut count = |name, help, count: &Count| out.counter(name, help, count.get());
    count("perilune_hits_total", "Lookups that found a readable copy", &events.hits);
    count("perilune_hit_bytes_total", "Bytes of the values that lookups found", &events.hit_bytes);
    count("perilune_misses_total", "Lookups that found nothing readable", &events.misses);
    count("perilune_leases_total", "Leases granted or renewed", &events.leases);
    count("perilune_evictions_attempted_total", "Eviction steps", &events.evictions_attempted);
    count("perilune_evictions_successful_total", "Eviction steps that let go of something", &events.evictions_successful);
    count("perilune_evicted_objects_total", "Objects evicted", &events.evicted_objects);
    count("perilune_evicted_bytes_total", "Bytes evicted", &events.evicted_bytes);
    count(
        "perilune_evicted_unsaved_total",
        "Objects evicted before they were brought to the vault of their tenant",
        &events.evicted_unsaved,
    );
    count("perilune_demoted_total", "Objects that left memory and are in a vault", &events.demoted);
    count("perilune_offloaded_total", "Objects brought to a vault", &events.offloaded);
    count("perilune_offloaded_bytes_total", "Bytes of values brought to a vault", &events.offloaded_bytes);
    count("perilune_offloads_failed_total", "Attempts to bring an object to a vault that failed", &events.offloads_failed);
    count("perilune_recalled_total", "Objects fetched from a vault", &events.recalled);
    count("perilune_recalled_bytes_total", "Bytes of values fetched from a vault", &events.recalled_bytes);
    count("perilune_read_through_bytes_total", "Bytes of values read out of a vault without a copy in memory", &events.passed_bytes);
    count("perilune_recalls_failed_total", "Attempts to fetch an object from a vault that failed", &events.recalls_failed);
    count("perilune_cold_lost_total", "Objects that were altered, cut or missing in a vault", &events.cold_lost);
    count("perilune_cold_garbage_deleted_total", "Uploads deleted since nothing refers to them", &events.garbage_deleted);
    count("perilune_puts_without_room_total", "Puts refused because no segment had room", &events.puts_without_room);
    count("perilune_puts_with_fewer_copies_total", "Puts granted fewer copies than they asked for", &events.puts_with_fewer_copies);
    count("perilune_puts_discarded_total", "Puts that passed their deadline unfinished", &events.puts_discarded);
    count("perilune_puts_released_total", "Discarded puts whose room was taken back", &events.puts_released);
}

fn calls(out: &mut Families, metrics: &Metrics) {
    type Of = fn(&Tally) -> &Count;
    let families: [(&str, &str, Of); 5] = [
        ("perilune_rpc_requests_total", "Calls answered", |tally| &tally.requests),
        ("perilune_rpc_failures_total", "Calls that failed for every one of their items", |tally| &tally.failures),
        ("perilune_rpc_partial_successes_total", "Calls that failed for some of their items", |tally| &tally.partial),
        ("perilune_rpc_items_total", "Items that calls were about", |tally| &tally.items),
        ("perilune_rpc_failed_items_total", "Items that failed", |tally| &tally.failed_items),
    ];
    for (name, help, of) in families {
        let sample = |call: &CallMetrics| (vec![label("call", call.name())], call.both(of));
        out.counters(name, help, metrics.calls.iter().map(sample));
    }
}

fn consumers(out: &mut Families, look: &Look) {
    // A tenant that is gone has a number still.
    let name = |id| look.tenants.iter().find(|tenant| tenant.id == id).map_or_else(|| id.0.to_string(), |tenant| tenant.name.clone());
    let labels = |lag: &Lag| {
        let tenant = lag.tenant.map_or_else(String::new, name);
        vec![label("consumer", lag.consumer.as_str()), label("tenant", tenant)]
    };
    let mut gauge = |name, text, of: fn(&Lag) -> f64| out.gauges(name, text, look.consumers.iter().map(|lag| (labels(lag), of(lag))));
    gauge("perilune_consumer_lag_entries", "Entries of the log behind what the consumer of events was told by this master", |lag| {
        lag.entries as f64
    });
    gauge("perilune_consumer_lag_seconds", "Age of what it was told last, where more has happened", |lag| lag.ms as f64 / 1000.0);
}

fn jobs(out: &mut Families, jobs: &[JobState]) {
    let labels = |job: &JobState| vec![label("job", job.job.as_str())];
    let mut gauge = |name, help, of: fn(&JobState) -> f64| out.gauges(name, help, jobs.iter().map(|job| (labels(job), of(job))));
    gauge("perilune_job_enabled", "1 while the job is switched on", |job| f64::from(u8::from(job.on)));
    gauge("perilune_job_working", "1 while the job has something to do", |job| f64::from(u8::from(job.state == "working")));
    gauge("perilune_job_progress_ratio", "How far the present pass of the job is", |job| f64::from(job.permille) / 1000.0);
    gauge("perilune_job_steps_in_flight", "Steps of the job that nodes are working on", |job| job.in_flight as f64);
    type Of = fn(&JobCounts) -> u64;
    let families: [(&str, &str, Of); 9] = [
        ("perilune_job_passes_total", "Times the job was done with all there was", |c| c.passes),
        ("perilune_job_copied_replicas_total", "Copies made elsewhere", |c| c.copied),
        ("perilune_job_copied_bytes_total", "Bytes of copies made elsewhere", |c| c.copied_bytes),
        ("perilune_job_dropped_replicas_total", "Copies given up", |c| c.dropped),
        ("perilune_job_verified_replicas_total", "Copies compared with their checksums", |c| c.verified),
        ("perilune_job_verified_bytes_total", "Bytes of copies compared with their checksums", |c| c.verified_bytes),
        ("perilune_job_bad_replicas_total", "Copies whose bytes were not what was put", |c| c.bad),
        ("perilune_job_removed_objects_total", "Objects removed since nothing of them could be read any more", |c| c.removed),
        ("perilune_job_failed_steps_total", "Steps that failed; most are tried again", |c| c.failed),
    ];
    for (name, help, of) in families {
        out.counters(name, help, jobs.iter().map(|job| (labels(job), of(&job.counts))));
    }
}

fn feeds(out: &mut Families, feeds: &[FeedUse]) {
    let labels = |feed: &FeedUse| vec![label("namespace", feed.namespace.as_str()), label("changefeed", feed.name.as_str())];
    let state = |feed: &FeedUse| ([labels(feed), vec![label("state", feed.state)]].concat(), 1.0);
    out.gauges("perilune_changefeed_state", "1 for the state that the changefeed is in", feeds.iter().map(state));
    let mut gauge = |name, help, of: fn(&FeedUse) -> u64| {
        out.gauges(name, help, feeds.iter().map(|feed| (labels(feed), of(feed) as f64 / 1e3)));
    };
    gauge("perilune_changefeed_checkpoint_lag_seconds", "How long ago that was up to which everything is durable at the sink", |feed| {
        feed.checkpoint_lag_ms
    });
    gauge("perilune_changefeed_resolved_lag_seconds", "How long ago that was up to which all is known that is to be delivered", |feed| {
        feed.resolved_lag_ms
    });
    type Of = fn(&FeedUse) -> u64;
    let families: [(&str, &str, Of); 5] = [
        ("perilune_changefeed_rows_total", "Rows that the sink took", |feed| feed.rows),
        ("perilune_changefeed_bytes_total", "Bytes of these rows as the sink has them", |feed| feed.bytes),
        ("perilune_changefeed_flushes_total", "Times that everything was made durable at the sink", |feed| feed.flushes),
        ("perilune_changefeed_flush_microseconds_total", "Microseconds that this took", |feed| feed.flush_micros),
        ("perilune_changefeed_errors_total", "Times that the changefeed ended with an error", |feed| feed.errors),
    ];
    for (name, help, of) in families {
        out.counters(name, help, feeds.iter().map(|feed| (labels(feed), of(feed))));
    }
}

fn log(out: &mut Families, log: &LogStatus) {
    out.gauge("perilune_log_leader", "1 on the master that leads", f64::from(u8::from(log.role == Role::Leader)));
    out.gauge("perilune_log_poisoned", "1 when the log takes no more entries", f64::from(u8::from(log.poisoned.is_some())));
    if let Some(free) = log.free {
        out.gauge("perilune_log_disk_free_bytes", "Bytes free on the disk of the log", free as f64);
    }
    out.gauge(
        "perilune_log_disk_crowded",
        "1 while the disk of the log lacks room and puts are refused",
        f64::from(u8::from(log.crowded.is_some())),
    );
    out.gauge("perilune_log_term", "Term of the log", log.term as f64);
    out.gauge("perilune_log_applied_index", "Last entry applied", log.applied as f64);
    out.gauge("perilune_log_committed_index", "Last entry committed", log.commit as f64);
    out.gauge("perilune_log_first_index", "First entry still kept", log.first_index as f64);
    out.gauge("perilune_log_last_index", "Last entry in the log", log.last_index as f64);
    out.gauge("perilune_log_entries_since_snapshot", "Entries applied since the newest snapshot", log.entries_since_snapshot as f64);
    out.counter("perilune_log_entries_total", "Entries appended that held effects", log.entries);
    out.counter("perilune_log_effects_total", "Effects in the entries appended", log.effects);
    out.counter("perilune_log_written_bytes_total", "Bytes handed to the file system for the log", log.bytes_written);
    out.counter("perilune_log_snapshots_total", "Snapshots completed", log.snapshots);
    out.counter("perilune_log_snapshot_failures_total", "Snapshots that failed", log.snapshot_failures);
    out.latency("perilune_log_append_seconds", "Time to append a packed entry to the log", &log.append);
    out.latency("perilune_log_fsync_seconds", "Time the disk took to make the log durable", &log.sync);
}

fn machine(out: &mut Families, stat: &ClusterStat) {
    let release = [(vec![label("release", stat.release.as_str()), label("cluster", stat.cluster.as_str())], 1.0)];
    out.gauges("perilune_build_info", "Always 1; the labels tell the release and the cluster", release);
    out.gauge("perilune_uptime_seconds", "Time since the master started", stat.uptime_s as f64);
    if let Some(bytes) = process::resident_bytes() {
        out.gauge("process_resident_memory_bytes", "Memory in use by the process", bytes as f64);
    }
    if let Some(files) = process::open_files() {
        out.gauge("process_open_fds", "Open file descriptors", files as f64);
    }
}

//! Counters of a client, on a registry of its own.

use perilune_protocol::{FaultCode, Outcome};
use perilune_transfer_engine::{Counted, Engine, rdma_counts};
use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry, TextEncoder};
use std::time::Instant;

/// From the few microseconds of a same-host read to the default deadline.
const SECONDS: [f64; 16] = [2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 2e-2, 1e-1, 5e-1, 2.0, 10.0];

/// What a store counts.
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) put: Operation,
    pub(crate) get: Operation,
    pub(crate) remove: Operation,
    /// Reads whose object was fetched from its vault first.
    pub(crate) recalls: IntCounter,
    /// Reads that took bytes out of a vault, without a copy in memory.
    pub(crate) throughs: IntCounter,
    /// Values that arrived other than they were put.
    pub(crate) mismatches: IntCounter,
    /// Reads that went on to another copy after a failure.
    pub(crate) failovers: IntCounter,
    /// Reads whose place was remembered under a running lease.
    pub(crate) places_known: IntCounter,
}

/// One kind of operation: objects by outcome, their bytes, and how long a call took, batch or not.
pub(crate) struct Operation {
    done: IntCounter,
    /// Not there, or there already.
    missed: IntCounter,
    failed: IntCounter,
    bytes: IntCounter,
    seconds: Histogram,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let registry = Registry::new();
        let objects = counters(&registry, "perilune_store_objects_total", "Objects, by operation and outcome.", &["operation", "outcome"]);
        let bytes = counters(&registry, "perilune_store_bytes_total", "Bytes of values moved, by operation.", &["operation"]);
        let options = HistogramOpts::new("perilune_store_seconds", "Seconds a call took, by operation.").buckets(SECONDS.to_vec());
        let seconds = registered(&registry, prometheus::HistogramVec::new(options, &["operation"]));
        let operation = |name: &str| Operation {
            done: objects.with_label_values(&[name, "ok"]),
            missed: objects.with_label_values(&[name, "miss"]),
            failed: objects.with_label_values(&[name, "error"]),
            bytes: bytes.with_label_values(&[name]),
            seconds: seconds.with_label_values(&[name]),
        };
        let (put, get, remove) = (operation("put"), operation("get"), operation("remove"));
        let one = |name: &str, help: &str| registered(&registry, IntCounter::new(name, help));
        let recalls = one("perilune_store_recalls_total", "Reads whose object was fetched from its vault first.");
        let throughs = one("perilune_store_read_through_total", "Reads that took bytes out of a vault without a copy in memory.");
        let mismatches = one("perilune_store_checksum_mismatches_total", "Values that arrived other than they were put; never returned.");
        let failovers = one("perilune_store_failovers_total", "Reads that went on to another copy after a failure.");
        let places_known = one("perilune_store_places_known_total", "Reads that needed no question to the master.");
        Self { registry, put, get, remove, recalls, throughs, mismatches, failovers, places_known }
    }

    /// Everything in Prometheus' text format, with the engine's counters.
    pub(crate) fn page(&self, engine: &Engine) -> String {
        let mut families = self.registry.gather();
        families.extend(transfers(engine));
        families.extend(rdma());
        TextEncoder::new().encode_to_string(&families).unwrap_or_else(|e| format!("# the metrics cannot be written: {e}\n"))
    }
}

impl Operation {
    /// Counts what became of a call's objects; `bytes` tells the size of each that was moved.
    pub(crate) fn count<T>(&self, started: Instant, outcomes: &[Outcome<T>], bytes: impl Fn(usize, &T) -> u64) {
        let (mut done, mut missed, mut failed, mut moved) = (0, 0, 0, 0);
        for (at, outcome) in outcomes.iter().enumerate() {
            match outcome {
                Ok(value) => {
                    done += 1;
                    moved += bytes(at, value);
                }
                Err(fault) if fault.code == FaultCode::ObjectNotFound => missed += 1,
                Err(_) => failed += 1,
            }
        }
        for (counter, by) in [(&self.done, done), (&self.missed, missed), (&self.failed, failed), (&self.bytes, moved)] {
            if by > 0 {
                counter.inc_by(by);
            }
        }
        self.seconds.observe(started.elapsed().as_secs_f64());
    }
}

/// The engine keeps plain numbers; they become families when the page is asked for.
fn transfers(engine: &Engine) -> Vec<prometheus::proto::MetricFamily> {
    let page = Registry::new();
    let labels = ["transport", "end", "operation"];
    let ops = counters(&page, "perilune_transfers_total", "Transfers that succeeded.", &labels);
    let bytes = counters(&page, "perilune_transfer_bytes_total", "Bytes of transfers that succeeded.", &labels);
    let errors = counters(&page, "perilune_transfer_errors_total", "Transfers that failed.", &["transport", "end", "operation", "reason"]);
    for counts in engine.counters().transports {
        let end = match counts.counted {
            Counted::Asked => "asked",
            Counted::Served => "served",
        };
        for (name, op) in [("read", &counts.read), ("write", &counts.write), ("notify", &counts.notify)] {
            ops.with_label_values(&[counts.transport, end, name]).inc_by(op.ops);
            bytes.with_label_values(&[counts.transport, end, name]).inc_by(op.bytes);
            for (kind, count) in &op.errors {
                errors.with_label_values(&[counts.transport, end, name, kind.as_str()]).inc_by(*count);
            }
        }
    }
    page.gather()
}

/// What RDMA cost this process, all its engines together.
fn rdma() -> Vec<prometheus::proto::MetricFamily> {
    let page = Registry::new();
    let counts = rdma_counts();
    for (name, help, count) in [
        ("doorbells", "Times work was handed to an RDMA device.", counts.doorbells),
        ("work_requests", "Work requests handed to RDMA devices.", counts.work_requests),
        ("completions", "Completions taken from RDMA devices.", counts.completions),
        ("arms", "Times a completion queue was asked for an event.", counts.arms),
        ("events", "Completion events that came.", counts.events),
        ("sleeps", "Times a lane slept until an RDMA device had something to say.", counts.sleeps),
        ("staged_bytes", "Bytes copied through registered buffers, since their own memory was not registered.", counts.staged_bytes),
        ("rails_tried", "Times a connection between two RDMA devices was begun to be made.", counts.rails_tried),
        ("rails_lost", "Connections between two RDMA devices that failed.", counts.rails_lost),
        ("rails_connected", "Connections between two RDMA devices that were made.", counts.rails_connected),
    ] {
        registered(&page, IntCounter::new(format!("perilune_transfer_rdma_{name}_total"), help)).inc_by(count);
    }
    page.gather()
}

/// Numbers that are not counted but asked for.
pub(crate) fn gauges(values: &[(&str, &str, u64)]) -> String {
    values.iter().map(|(name, help, value)| format!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n")).collect()
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    registered(registry, IntCounterVec::new(Opts::new(name, help), labels))
}

/// Names are constants of this file: a clash or a bad name shows in the first test.
fn registered<C: Collector + Clone + 'static>(registry: &Registry, made: prometheus::Result<C>) -> C {
    let collector = made.expect("a metric of this file has a good name");
    registry.register(Box::new(collector.clone())).expect("a metric of this file has a name of its own");
    collector
}

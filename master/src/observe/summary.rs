//! The numbers on one line, in the layout Mooncake's operators know. What does not exist here is left out, not shown as zero.

use super::Metrics;
use super::observed::{Look, Observed};
use perilune_protocol::ByteSize;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The label of a call on the line, and our name of it.
const REQUESTS: &[(&str, &str)] = &[
    ("PutStart", "put_start"),
    ("PutEnd", "put_end"),
    ("PutRevoke", "put_revoke"),
    ("Get", "locate"),
    ("Exist", "exists"),
    ("Prefix", "match_prefix"),
    ("Del", "remove"),
    ("Ping", "heartbeat"),
];
const BATCHES: &[(&str, &str)] = &[
    ("PutStart", "put_start"),
    ("PutEnd", "put_end"),
    ("PutRevoke", "put_revoke"),
    ("Get", "locate"),
    ("Exist", "exists"),
    ("Del", "remove"),
];

/// A sample this old is replaced by the next look, so that rates tell of the recent past whoever looks how often.
const WINDOW: Duration = Duration::from_secs(10);

/// Two samples of every number on the line; rates are measured against the older one.
#[derive(Debug)]
pub(super) struct Rates(Mutex<[(Instant, Vec<u64>); 2]>);

impl Rates {
    pub(super) fn new() -> Self {
        let start = (Instant::now(), Vec::new());
        Self(Mutex::new([start.clone(), start]))
    }

    /// How much each number grew in a second. A number the older sample lacks counts from zero.
    fn per_second(&self, at: Instant, present: Vec<u64>) -> Vec<f64> {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, before) = &samples[0];
        let seconds = at.saturating_duration_since(*since).as_secs_f64().max(1e-3);
        let grown = |(place, now): (usize, &u64)| now.saturating_sub(before.get(place).copied().unwrap_or(0)) as f64 / seconds;
        let rates = present.iter().enumerate().map(grown).collect();
        if at.saturating_duration_since(samples[1].0) >= WINDOW {
            samples.swap(0, 1);
            samples[1] = (at, present);
        }
        rates
    }
}

/// Every number whose rate the line shows, in the order the line shows them.
fn sample(metrics: &Metrics) -> Vec<u64> {
    let events = &metrics.events;
    let mut numbers = Vec::new();
    for (_, ours) in REQUESTS {
        let single = &metrics.call(ours).single;
        numbers.extend([single.failures.get(), single.requests.get()]);
    }
    numbers.extend([events.removals_of_all_failed.get(), events.removals_of_all.get()]);
    for (_, ours) in BATCHES {
        let batch = &metrics.call(ours).batch;
        numbers.extend([&batch.failures, &batch.partial, &batch.requests, &batch.failed_items, &batch.items].map(|count| count.get()));
    }
    numbers
}

pub(super) fn render(metrics: &Metrics, observed: &dyn Observed) -> String {
    let mut rates = metrics.rates.per_second(Instant::now(), sample(metrics)).into_iter();
    let mut next = || rates.next().unwrap_or(0.0);
    let requests: Vec<String> = REQUESTS
        .iter()
        .map(|(label, _)| *label)
        .chain(["DelAll"])
        .map(|label| {
            let (failed, total) = (next(), next());
            format!("{label}={:.2}/{total:.2}", total - failed)
        })
        .collect();
    let batches: Vec<String> = BATCHES
        .iter()
        .map(|(label, _)| {
            let (failed, partial, total, failed_items, items) = (next(), next(), next(), next(), next());
            format!("{label}:(Req={:.2}/{partial:.2}/{total:.2}, Item={:.2}/{items:.2})", total - failed - partial, items - failed_items)
        })
        .collect();

    let look = Look::at(observed);
    let (stat, events) = (&look.stat, &metrics.events);
    let mut line = format!("Mem Storage: {} / {}", ByteSize(stat.used), ByteSize(stat.capacity));
    if stat.capacity > 0 {
        let _ = write!(line, " ({:.1}%)", stat.used as f64 / stat.capacity as f64 * 100.0);
    }
    let clients = look.nodes_in("ALIVE");
    let _ = write!(line, " | Keys: {} (soft-pinned: {}) | Clients: {clients}", stat.objects, look.soft_pins);
    let _ = write!(line, " | Requests (Success/Total per sec): {}", requests.join(", "));
    let _ = write!(line, " | Batch Requests (per sec, Req=Success/PartialSuccess/Total, Item=Success/Total): {}", batches.join(", "));
    let _ = write!(
        line,
        " | Eviction: Success/Attempts={}/{}, AllocFail={}, PartialAlloc={}, keys={}, size={}",
        events.evictions_successful.get(),
        events.evictions_attempted.get(),
        events.puts_without_room.get(),
        events.puts_with_fewer_copies.get(),
        events.evicted_objects.get(),
        ByteSize(events.evicted_bytes.get()),
    );
    let staging = events.puts_discarded_bytes.get().saturating_sub(events.puts_released_bytes.get());
    let _ = write!(
        line,
        " | Discard: Released/Total={}/{}, StagingSize={}",
        events.puts_released.get(),
        events.puts_discarded.get(),
        ByteSize(staging)
    );
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_tell_of_the_recent_past() {
        let rates = Rates::new();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let near = |got: Vec<f64>, want: f64| assert!((got[0] - want).abs() < 0.1, "{got:?} is not about {want}");
        near(rates.per_second(at(10), vec![100]), 10.0);
        near(rates.per_second(at(20), vec![100]), 5.0);
        near(rates.per_second(at(30), vec![100]), 0.0);
        near(rates.per_second(at(35), vec![600]), 500.0 / 15.0);
    }
}

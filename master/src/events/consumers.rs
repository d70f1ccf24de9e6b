//! Consumers that name themselves, and how far each lags.

use perilune_protocol::event::Cursor;
use perilune_protocol::{TenantId, Tso};
use perilune_state::MonotonicMs;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Most that are shown; each is a few numbers on the page of metrics.
const CONSUMERS_MAX: usize = 64;
/// Who did not ask for so long is forgotten.
const SILENT_MS: MonotonicMs = 600_000;

/// Those that asked this master lately. Written with every answer; read when somebody looks.
#[derive(Default)]
pub(super) struct Consumers(Mutex<BTreeMap<(Option<TenantId>, String), Told>>);

#[derive(Clone, Copy)]
struct Told {
    next: Cursor,
    resolved: Tso,
    heard: MonotonicMs,
}

/// How far a consumer was told, in the numbers of whoever asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lag {
    /// As it names itself.
    pub consumer: String,
    /// Whose events it is told; `None`: everybody's.
    pub tenant: Option<TenantId>,
    /// Entries of the log behind what it was told last.
    pub entries: u64,
    /// How old what it was told last is, in milliseconds; 0 where nothing is behind it.
    pub ms: u64,
}

impl Consumers {
    /// It was told all up to there. One more than there may be is not counted.
    pub(super) fn told(&self, consumer: &str, tenant: Option<TenantId>, (next, resolved): (Cursor, Tso), now: MonotonicMs) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let name = (tenant, consumer.to_owned());
        if known.len() >= CONSUMERS_MAX && !known.contains_key(&name) {
            known.retain(|_, told| now < told.heard + SILENT_MS);
            if known.len() >= CONSUMERS_MAX {
                return;
            }
        }
        known.insert(name, Told { next, resolved, heard: now });
    }

    /// All of them, where the log ends at `end`.
    pub(super) fn lags(&self, end: Cursor, now: MonotonicMs, wall_ms: u64) -> Vec<Lag> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, told| now < told.heard + SILENT_MS);
        let lag = |((tenant, consumer), told): (&(Option<TenantId>, String), &Told)| {
            let entries = end.index.saturating_sub(told.next.index);
            let ms = if entries == 0 { 0 } else { wall_ms.saturating_sub(told.resolved.physical_ms()) };
            Lag { consumer: consumer.clone(), tenant: *tenant, entries, ms }
        };
        known.iter().map(lag).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn so_many_are_counted_until_they_are_silent() {
        let consumers = Consumers::default();
        let at = |index| (Cursor { cluster: Uuid::nil(), index, place: 0, stamp: Tso(0) }, Tso::from_physical(5000));
        (0..200).for_each(|nth| consumers.told(&format!("c{nth}"), None, at(7), nth));
        consumers.told("c3", Some(TenantId(2)), at(9), 200);
        consumers.told("c3", None, at(9), 1000);
        let lags = consumers.lags(at(9).0, 1000, 6000);
        assert_eq!(lags.len(), CONSUMERS_MAX);
        let of = |name: &str| lags.iter().find(|lag| lag.consumer == name).map(|lag| (lag.entries, lag.ms));
        assert_eq!((of("c0"), of("c3"), of("c199")), (Some((2, 1000)), Some((0, 0)), None));
        assert_eq!(consumers.lags(at(9).0, SILENT_MS + 500, 6000).len(), 1);
        consumers.told("late", None, at(9), SILENT_MS + 500);
        assert_eq!(consumers.lags(at(9).0, SILENT_MS + 500, 6000).len(), 2);
    }
}

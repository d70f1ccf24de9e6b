//! From an effect to an event, and to whoever asked for it.

use super::Wanted;
use perilune_protocol::event::{About, Cursor, Event, EventKind, What};
use perilune_protocol::rpc::watch::Encoded;
use perilune_protocol::{TenantId, Tso};
use perilune_state::Effect;
use perilune_state::directory::Known;
use perilune_state::effect::{EffectError, ObjectRecord};
use perilune_state::glance::Glance;

/// What is wanted of what happened, in the form that whoever asked takes.
pub(crate) trait Gather: Default + Send + 'static {
    /// Takes the event of an effect, if that is one and wanted.
    fn gather(&mut self, wanted: &Wanted, known: &Known, effect: &[u8], cursor: Cursor, commit_ts: Tso) -> Result<(), EffectError>;

    /// Takes an event that is wanted.
    fn add(&mut self, event: Event);

    fn is_empty(&self) -> bool;
}

impl Gather for Vec<Event> {
    fn gather(&mut self, wanted: &Wanted, known: &Known, effect: &[u8], cursor: Cursor, commit_ts: Tso) -> Result<(), EffectError> {
        let event = event(effect)?.map(|(tenant, what)| Event { cursor, commit_ts, tenant, what });
        self.extend(event.filter(|event| wanted.wants(known, &event.about())));
        Ok(())
    }

    fn add(&mut self, event: Event) {
        self.push(event);
    }

    fn is_empty(&self) -> bool {
        self.is_empty()
    }
}

/// As a message numbers the first kinds of [`What`].
const PUT: u8 = 0;
const REMOVED: u8 = 2;

impl Gather for Encoded {
    /// Most events have the bytes that the log has: a key is copied once, and nothing is made of it.
    fn gather(&mut self, wanted: &Wanted, known: &Known, effect: &[u8], cursor: Cursor, commit_ts: Tso) -> Result<(), EffectError> {
        // Serialising plain data into a vector has no way to fail.
        if let Some(Glance { tenant, key, version, is_put, rest }) = Effect::glance(effect) {
            let (kind, number) = if is_put { (EventKind::Put, PUT) } else { (EventKind::Removed, REMOVED) };
            if wanted.wants(known, &About { tenant: Some(tenant), kind, object: Some((key, version)) }) {
                let bytes = std::mem::take(&mut self.bytes);
                self.bytes = postcard::to_extend(&(cursor, commit_ts, Some(tenant), number), bytes).unwrap_or_default();
                self.bytes.extend_from_slice(rest);
                self.count += 1;
            }
            return Ok(());
        }
        let mut events = Vec::<Event>::new();
        events.gather(wanted, known, effect, cursor, commit_ts)?;
        events.into_iter().for_each(|event| self.add(event));
        Ok(())
    }

    fn add(&mut self, event: Event) {
        self.bytes = postcard::to_extend(&event, std::mem::take(&mut self.bytes)).unwrap_or_default();
        self.count += 1;
    }

    fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// What an effect that took effect means to those outside, and whose it is; `None` where it means nothing to them.
pub(crate) fn event(effect: &[u8]) -> Result<Option<(Option<TenantId>, What)>, EffectError> {
    let (tenant, what) = match Effect::decode(effect)? {
        Effect::Commit(record) => {
            let ObjectRecord { tenant, key, version, size, checksum, pin, replicas, wanted: _ } = record;
            (Some(tenant), What::Put { key, version, size, checksum, pin, replicas })
        }
        Effect::Remove { tenant, key, version, reason } => (Some(tenant), What::Removed { key, version, reason }),
        Effect::Replicas { tenant, key, version, add, drop } => (Some(tenant), What::Replicas { key, version, add, drop }),
        Effect::Cold { tenant, key, version, copy, there: true } | Effect::Moved { tenant, key, version, copy, .. } => {
            (Some(tenant), What::Offloaded { key, version, vault: copy.vault, name: copy.name, stored: copy.stored })
        }
        Effect::Cold { tenant, key, version, copy, there: false } => {
            (Some(tenant), What::ColdLost { key, version, vault: copy.vault, name: copy.name })
        }
        Effect::Demote { tenant, key, version } => (Some(tenant), What::Demoted { key, version }),
        Effect::Mount(desc) => (Some(TenantId::default()), What::mounted(&desc)),
        Effect::Lend { tenant, desc } | Effect::LendAs { tenant, desc, .. } => (Some(tenant), What::mounted(&desc)),
        Effect::Drain { segment, grace_ms } => (Some(TenantId::default()), What::Draining { segment, grace_ms }),
        Effect::Unmount { segment } => (Some(TenantId::default()), What::Unmounted { segment }),
        Effect::Leaves { tenant, segment, grace_ms: Some(grace_ms) } => (Some(tenant), What::Draining { segment, grace_ms }),
        Effect::Leaves { tenant, segment, grace_ms: None } => (Some(tenant), What::Unmounted { segment }),
        Effect::Node { node, tenant, up: Some(name) } => (Some(tenant), What::NodeUp { node, name }),
        Effect::Node { node, tenant, up: None } => (Some(tenant), What::NodeDown { node }),
        Effect::Cleared { tenant } => (Some(tenant), What::Cleared),
        Effect::Window { .. }
        | Effect::TsoLimit(_)
        | Effect::Setting { .. }
        | Effect::Frames { .. }
        | Effect::Passed { .. }
        | Effect::Directory { .. }
        | Effect::Aborted { .. }
        | Effect::Checkpoint(_) => return Ok(None),
    };
    Ok(Some((tenant, what)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use perilune_protocol::event::{EventFilter, RemoveReason};
    use perilune_protocol::{Extent, Pin, ReplicaPlace, SegmentId};
    use uuid::Uuid;

    #[test]
    fn what_is_passed_on_as_it_is_stored_is_what_is_told() {
        let (tenant, version) = (TenantId(300), Tso(1 << 60));
        let place = |pieces: u64| ReplicaPlace {
            segment: SegmentId::random(),
            extents: (0..pieces).map(|nth| Extent { offset: nth << 30, len: 1 << 20 }).collect(),
        };
        let record = |key: &str, copies: u8| ObjectRecord {
            tenant,
            key: key.into(),
            version,
            size: 1 << 33,
            checksum: u64::MAX,
            pin: Pin::Soft,
            replicas: (0..copies).map(|nth| place(u64::from(nth) + 1)).collect(),
            wanted: copies,
        };
        let gone = |reason| Effect::Remove { tenant, key: "llama/gone".into(), version, reason };
        let effects = [
            Effect::Commit(record("llama/one", 1)),
            Effect::Commit(record("qwen/none", 0)),
            Effect::Commit(record(&"llama".repeat(100), 200)),
            gone(RemoveReason::Evicted),
            gone(RemoveReason::Recycled),
            Effect::Replicas { tenant, key: "llama/moved".into(), version, add: Some(place(2)), drop: None },
            Effect::Unmount { segment: SegmentId::random() },
            Effect::TsoLimit(version),
        ];
        let cursor = |place| Cursor { cluster: Uuid::from_u128(3), index: 500, place, stamp: version };
        for filter in [
            EventFilter::default(),
            EventFilter { prefixes: vec!["llama".into()], ..EventFilter::default() },
            EventFilter { kinds: vec![EventKind::Removed], ..EventFilter::default() },
            EventFilter { tenant: Some(TenantId(1)), ..EventFilter::default() },
            EventFilter { tables: vec!["default.*".into()], ..EventFilter::default() },
        ] {
            let (wanted, known) = (Wanted::new(filter.clone()).unwrap(), Known::default());
            let (mut events, mut encoded) = (Vec::<Event>::new(), Encoded::default());
            for (place, effect) in (1..).zip(&effects) {
                let bytes = effect.encode();
                assert_eq!(Effect::glance(&bytes).is_some(), matches!(effect, Effect::Commit(_) | Effect::Remove { .. }));
                events.gather(&wanted, &known, &bytes, cursor(place), version).unwrap();
                encoded.gather(&wanted, &known, &bytes, cursor(place), version).unwrap();
            }
            let bytes: Vec<u8> = events.iter().flat_map(|event| postcard::to_stdvec(event).unwrap()).collect();
            assert_eq!((encoded.count, encoded.bytes), (events.len(), bytes), "{filter:?}");
        }
        let old = [2, 0, 3, 1, b'k', 7];
        assert_eq!(Effect::glance(&old), None, "a record of another form");
        assert!(
            Encoded::default()
                .gather(&Wanted::new(EventFilter::default()).unwrap(), &Known::default(), &[99, 0, 1], cursor(1), version)
                .is_err()
        );
    }
}

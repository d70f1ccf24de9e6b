//! The state as a whole, and the one way its lasting part changes: committed effects, in order, by one thread.

use crate::MonotonicMs;
use crate::checkpoints::Checkpoints;
use crate::cold::{ColdChange, Garbage};
use crate::directory::Directory;
use crate::effect::{ColdCopy, Effect, ObjectRecord, RemoveReason};
use crate::meter::{Meters, weight};
use crate::moot::Moot;
use crate::objects::departed::{Departed, Leaving};
use crate::objects::limbo::{Limbo, Why};
use crate::objects::puts::{GivenUp, Puts};
use crate::objects::recency::Recency;
use crate::objects::{Few, Key, KeyRef, Object, ObjectIndex, PapayaIndex, Published, Replica};
use crate::reign::Footing;
use crate::segments::{self, Phase, Segments, Table, nodes::Nodes, nodes::Silence};
use crate::settings::Settings;
use crate::tso::TsoSource;
use crate::window;
use perilune_protocol::{Fault, FaultCode, ObjectKey, Pin, ReplicaPlace, SegmentDesc, TenantId, Tso};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How the brain decides; settings of the master.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// How long a lookup keeps an object readable.
    pub lease_ms: u64,
    /// After this a put that was not ended may be discarded.
    pub put_discard_ms: u64,
    /// After this the space of a discarded put is reused.
    pub put_release_ms: u64,
    /// Silence of nodes.
    pub silence: Silence,
    /// How segments are chosen.
    pub placement: crate::place::Placement,
}

impl Rules {
    /// What writers are told: an eighth less than what is waited for, since their clocks need not run as fast as the master's.
    pub fn put_deadline_ms(&self) -> u64 {
        self.put_discard_ms - self.put_discard_ms / 8
    }
}

/// Everything the master knows.
pub struct State {
    /// Objects that exist.
    pub index: Box<dyn ObjectIndex>,
    /// Segments lent.
    pub segments: Segments,
    /// Nodes heard.
    pub nodes: Nodes,
    /// Puts in progress.
    pub puts: Puts,
    /// Space that may not be reused yet.
    pub limbo: Limbo,
    /// What readers may still read although it is gone. Lasts as long as a lease, from when this member learned of it.
    pub(crate) departed: Departed,
    /// Uploads that nothing refers to any more, as far as this leader saw it happen.
    pub garbage: Garbage,
    /// What is kept of the whole in vaults.
    pub checkpoints: Checkpoints,
    /// Uses, for eviction.
    pub recency: Recency,
    /// Stamps.
    pub tso: TsoSource,
    /// What operators have set.
    pub settings: Settings,
    /// The tenants.
    pub directory: Directory,
    /// How much they have.
    pub meters: Meters,
    /// How this master decides.
    pub rules: Rules,
    /// Objects that are soft-pinned. Written by apply.
    soft_pins: AtomicU64,
    /// Whether it leads, and whose space is whose meanwhile.
    pub(crate) footing: Footing,
    /// The log's clock, in milliseconds. Written by apply.
    elapsed: AtomicU64,
    /// The highest version that was published. Written by apply; a number to look at.
    newest: AtomicU64,
    /// What of the log came to nothing. Copies of a state share it.
    pub moot: Arc<Moot>,
}

/// What applying an effect did.
#[derive(Debug, PartialEq, Eq)]
pub enum Applied {
    /// It took effect.
    Done,
    /// It had before, or there is nothing that it is about.
    Nothing,
    /// The world had moved on; the fault says how.
    Refused(Fault),
}

impl State {
    /// Nothing known yet.
    pub fn new(rules: Rules) -> Self {
        Self::with(rules, Footing::default())
    }

    /// One to be filled at once by what another knows ([`State::claim_all`]).
    pub(crate) fn loose(rules: Rules) -> Self {
        Self::with(rules, Footing::loose())
    }

    fn with(rules: Rules, footing: Footing) -> Self {
        Self {
            index: Box::<PapayaIndex>::default(),
            segments: Segments::default(),
            nodes: Nodes::new(rules.silence),
            puts: Puts::default(),
            limbo: Limbo::default(),
            departed: Departed::new(rules.lease_ms),
            garbage: Garbage::default(),
            checkpoints: Checkpoints::default(),
            recency: Recency::default(),
            tso: TsoSource::default(),
            settings: Settings::default(),
            directory: Directory::default(),
            meters: Meters::default(),
            rules,
            soft_pins: AtomicU64::new(0),
            footing,
            elapsed: AtomicU64::new(0),
            newest: AtomicU64::new(0),
            moot: Arc::default(),
        }
    }

    /// Applies one committed effect. Called by the log's thread only.
    pub fn apply(&self, effect: Effect, now: MonotonicMs) -> Applied {
        match effect {
            Effect::Commit(record) => return self.commit(record, now),
            Effect::Remove { tenant, key, version, reason: _ } => {
                let mut leaving = self.departed.leaving(now);
                match self.index.remove(KeyRef::new(tenant, &key), version) {
                    Some(object) => self.retire(&object, &mut leaving),
                    None => return Applied::Nothing,
                }
            }
            Effect::Mount(desc) => return self.lend(desc, TenantId::default(), None),
            Effect::Lend { tenant, desc } => return self.lend(desc, tenant, None),
            Effect::LendAs { tenant, unique_id, desc } => return self.lend(desc, tenant, Some(unique_id)),
            Effect::Drain { segment, grace_ms } | Effect::Leaves { segment, grace_ms: Some(grace_ms), .. } => {
                match self.segments.drain(segment, grace_ms) {
                    Some(segment) => segment.start_grace(now.saturating_add(grace_ms)),
                    None => return unknown_segment(segment),
                }
            }
            Effect::Unmount { segment } | Effect::Leaves { segment, grace_ms: None, .. } => {
                if self.segments.unmount(segment).is_none() {
                    return unknown_segment(segment);
                }
            }
            Effect::Window { segment, limit } => match self.segments.table().get(segment) {
                Some(segment) => segment.space().open(&window::below(segment, limit)),
                None => return unknown_segment(segment),
            },
            Effect::Frames { segment, open, close, inherit } => match self.segments.table().get(segment) {
                Some(segment) => {
                    let space = segment.space();
                    space.close(&close);
                    space.inherit(&inherit, self.elapsed());
                    space.open(&open);
                }
                None => return unknown_segment(segment),
            },
            Effect::Passed { ms } => {
                self.elapsed.fetch_add(ms, Ordering::Relaxed);
            }
            Effect::TsoLimit(limit) => self.tso.raise_limit(limit),
            Effect::Setting { key, value } => self.settings.set(key, value),
            Effect::Directory { revision, change } => {
                if let Err(fault) = self.directory.apply(revision, *change) {
                    return Applied::Refused(fault);
                }
                self.belong_all();
            }
            Effect::Replicas { tenant, key, version, add, drop } => return self.rearrange(tenant, &key, version, add.as_ref(), drop, now),
            Effect::Cold { tenant, key, version, copy, there } => {
                let change = if there { ColdChange::Came { from: None } } else { ColdChange::Lost };
                return self.chill(tenant, &key, version, copy, change, now);
            }
            Effect::Moved { tenant, key, version, from, copy } => {
                return self.chill(tenant, &key, version, copy, ColdChange::Came { from: Some(from) }, now);
            }
            Effect::Demote { tenant, key, version } => return self.demote(tenant, &key, version, now),
            Effect::Checkpoint(checkpoint) => return self.checkpoints.apply(checkpoint),
            Effect::Node { node, tenant, up } => {
                if !self.nodes.tell(node, tenant, up) {
                    return Applied::Nothing;
                }
            }
            Effect::Cleared { .. } => {}
            Effect::Aborted { tenant, key, version, writer } => {
                self.puts.note_aborted(GivenUp { key: Key::new(tenant, key), version, writer, aborted: true });
            }
        }
        Applied::Done
    }

    fn lend(&self, desc: SegmentDesc, tenant: TenantId, unique_id: Option<String>) -> Applied {
        if let Err(fault) = segments::check(&desc) {
            return Applied::Refused(fault);
        }
        self.belong(&self.segments.mount(desc, tenant, unique_id));
        Applied::Done
    }

    fn commit(&self, record: ObjectRecord, now: MonotonicMs) -> Applied {
        self.newest.fetch_max(record.version.0, Ordering::Relaxed);
        let object = Arc::new(self.object_of(record, self.recency.stamps(1)));
        let key = || object.key.to_object_key();
        if object.replicas.is_empty() {
            self.settle(&object, false);
            return Applied::Refused(FaultCode::SegmentNotFound.with(format!("{}: every segment it was written to is gone", key())));
        }
        if !self.is_leading()
            && let Some(known) = self.index.remove(object.key.as_ref(), object.version)
        {
            // A snapshot knew the object but not yet every segment it lies on; this record knows all.
            self.vacate(&known.replicas, now, now);
            self.discount(&known);
        }
        let mut leaving = self.departed.leaving(now);
        match self.index.publish(object.clone()) {
            Published::Fresh => self.admit(&object),
            Published::Replaced(old) => {
                self.admit(&object);
                self.retire(&old, &mut leaving);
            }
            // A put ends once, so a leader never commits it twice; were it to, nothing is left to do.
            Published::Known(known) if known.version == object.version => {
                self.settle(&object, false);
                return Applied::Nothing;
            }
            Published::Known(_) => {
                self.refuse(&object.replicas, &mut leaving);
                self.settle(&object, false);
                return Applied::Refused(FaultCode::ObjectExists.with(format!("{}: a newer version was published meanwhile", key())));
            }
        }
        self.settle(&object, true);
        Applied::Done
    }

    /// The put of an object is over: nobody writes there any more, and what was promised is what there is (`stays`) or nothing.
    fn settle(&self, object: &Object, stays: bool) {
        let key = object.key.as_ref();
        let put = self.puts.finish(key, object.version);
        // Only what this leader gave room to is counted as being written.
        if put.is_some() && self.is_leading() {
            object.replicas.iter().for_each(|r| r.segment.space().settle(&r.extents));
        }
        let (objects, bytes) = put.map_or((0, 0), |put| (1, put.promised()));
        let (more, weighs) = if stays { (1, weight(object)) } else { (0, 0) };
        self.meters.of(key.tenant).count(more - objects, weighs - bytes);
    }

    /// An object that a snapshot knows. It may be younger than the segments of the snapshot: then the effect that says where it lies,
    /// and maybe also that it is gone, is yet to come.
    pub(crate) fn adopt(&self, record: ObjectRecord, cold: Option<ColdCopy>) {
        let mut object = self.object_of(record, self.recency.stamps(1));
        object.cold = cold.map(Box::new);
        self.enter(Arc::new(object));
    }

    /// As an object of another state that knows the same segments.
    pub(crate) fn adopt_copy(&self, object: &Object, segments: &Table) {
        let here = object.replicas.iter().filter(|r| r.segment.phase() != Phase::Gone);
        let replicas = here.filter_map(|r| Some(Replica { segment: segments.get(r.segment.id())?.clone(), extents: r.extents.clone() }));
        self.enter(Arc::new(object.anew(replicas.collect(), self.recency.stamps(1))));
    }

    fn enter(&self, object: Arc<Object>) {
        self.newest.fetch_max(object.version.0, Ordering::Relaxed);
        let before = match self.index.publish(Arc::clone(&object)) {
            Published::Known(_) => return,
            Published::Fresh => None,
            // It was met twice, as it changed.
            Published::Replaced(old) => Some(old),
        };
        self.admit(&object);
        self.meters.of(object.key.as_ref().tenant).count(1, weight(&object));
        if let Some(old) = before {
            self.vacate(&old.replicas, 0, 0);
            self.discount(&old);
        }
    }

    /// Replicas at these places; those on segments that are not known are left out.
    pub(crate) fn replicas_of(&self, places: Vec<ReplicaPlace>) -> Few<Replica> {
        let table = self.segments.table();
        let replica = |place: ReplicaPlace| Some(Replica { segment: table.get(place.segment)?.clone(), extents: place.extents.into() });
        places.into_iter().filter_map(replica).collect()
    }

    /// The object a record describes; replicas on segments that are not known are left out.
    fn object_of(&self, record: ObjectRecord, stamp: u64) -> Object {
        let ObjectRecord { tenant, key, version, size, checksum, pin, replicas, wanted } = record;
        Object::new(Key::new(tenant, key), version, size, checksum, pin, self.replicas_of(replicas), stamp).wanting(wanted)
    }

    fn admit(&self, object: &Arc<Object>) {
        if object.pin() == Pin::Soft {
            self.soft_pins.fetch_add(1, Ordering::Relaxed);
        }
        self.occupy(&object.replicas);
        if self.is_leading() {
            self.recency.admit(object);
        }
    }

    /// A version left the index: its space is free once its last lease has ended.
    fn retire(&self, object: &Object, leaving: &mut Leaving<'_>) {
        let until = object.retire().max(self.inherited(object));
        self.forsake(object);
        leaving.note(&object.replicas);
        self.vacate(&object.replicas, until, leaving.now());
        self.discount(object);
    }

    /// Copies that came too late for their object. With a leader nobody was told to read them, nor does anyone write there. Who has been sent a
    /// snapshot from the middle of the log does not know: they may have come in time, and left since.
    fn refuse(&self, replicas: &[Replica], leaving: &mut Leaving<'_>) {
        if self.is_leading() {
            self.limbo.hold(replicas, Why::Readers, leaving.now(), leaving.now());
        } else {
            leaving.note(replicas);
        }
    }

    /// What left the index counts no longer.
    pub(crate) fn discount(&self, object: &Object) {
        if object.pin() == Pin::Soft {
            self.soft_pins.fetch_sub(1, Ordering::Relaxed);
        }
        self.meters.of(object.key.as_ref().tenant).count(-1, -weight(object));
    }

    /// Objects that are soft-pinned.
    pub fn soft_pins(&self) -> u64 {
        self.soft_pins.load(Ordering::Relaxed)
    }

    /// The highest version that was published: when the last put began.
    pub fn newest(&self) -> Tso {
        Tso(self.newest.load(Ordering::Relaxed))
    }

    /// The log's clock: what leaders have seen pass.
    pub(crate) fn elapsed(&self) -> u64 {
        self.elapsed.load(Ordering::Relaxed)
    }

    pub(crate) fn set_elapsed(&self, ms: u64) {
        self.elapsed.store(ms, Ordering::Relaxed);
    }

    /// A removal to propose for an object that was condemned.
    pub fn removal(object: &Object, reason: RemoveReason) -> Effect {
        let key: &Key = &object.key;
        Effect::Remove { tenant: key.as_ref().tenant, key: key.to_object_key(), version: object.version, reason }
    }

    /// The record that describes a published object; without the replicas that went with their segments.
    pub fn record_of(object: &Object) -> ObjectRecord {
        let KeyRef { tenant, bytes } = object.key.as_ref();
        let here: Vec<_> = object.replicas.iter().filter(|r| r.segment.phase() != Phase::Gone).cloned().collect();
        ObjectRecord {
            tenant,
            key: ObjectKey::new(bytes),
            version: object.version,
            size: object.size,
            checksum: object.checksum,
            pin: object.pin(),
            replicas: places(&here),
            wanted: object.wanted(),
        }
    }
}

/// The form of replicas that crosses process boundaries.
pub fn places(replicas: &[Replica]) -> Vec<ReplicaPlace> {
    replicas.iter().map(|r| ReplicaPlace { segment: r.segment.id(), extents: r.extents.to_vec() }).collect()
}

pub(crate) fn unknown_segment(segment: perilune_protocol::SegmentId) -> Applied {
    Applied::Refused(FaultCode::SegmentNotFound.with(format!("segment {segment} is not mounted")))
}

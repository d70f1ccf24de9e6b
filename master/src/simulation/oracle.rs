//! What must never happen. Each rule has a name, which is what a failing seed prints; `docs/simulation.md` lists them.
//!
//! The reference is the log as it was first applied by anybody: from it, and from what clients asked and were told, everything else follows.

use super::checkpoints::Begun;
use super::chilled::Chilled;
use super::client::number;
use super::copies::Copies;
use super::counts::Counts;
use super::delivered::Delivered;
pub(super) use super::key::Key;
use super::memory::{Condition, Memory};
use super::needs::Needs;
use super::owners::Owners;
use super::vaults::{self, Shared};
use perilune_protocol::{ColdName, Extent, NodeId, ReplicaPlace, SegmentId, TenantId, Tso};
use perilune_state::directory::VaultsRecord;
use perilune_state::effect::{ColdCopy, Effect, ObjectRecord, RemoveReason};
use std::collections::{BTreeMap, BTreeSet};

/// So long after its removal a master may lead on: the one that takes over may be stopped, or cut off, for a while.
const TAKEN_OVER_MS: u64 = 4000;

/// A rule was broken: its name, and what was seen.
pub(super) type Broken = (&'static str, String);
pub(super) type Check = Result<(), Broken>;

/// One version of a key, as the log tells.
pub(super) struct Version {
    pub(super) published: u64,
    /// Replaced or removed.
    gone: Option<u64>,
    /// Its writer was told that it is stored.
    pub(super) acknowledged: Option<u64>,
    /// Whoever replaced or removed it was told so.
    gone_acknowledged: Option<u64>,
    pub(super) record: ObjectRecord,
    /// Its copy in a vault.
    pub(super) cold: Option<ColdCopy>,
}

/// Where live objects lie: begin -> end and who.
type Occupied = BTreeMap<u64, (u64, Key, Tso)>;

#[derive(Default)]
pub(super) struct Oracle {
    /// Effects by entry and place in it.
    pub(super) log: BTreeMap<(u64, u64), Vec<u8>>,
    /// The stamp of each entry.
    pub(super) stamps: BTreeMap<u64, Tso>,
    pub(super) delivered: Delivered,
    pub(super) needs: Needs,
    /// How far the reference has come.
    pub(super) head: (u64, u64),
    pub(super) keys: BTreeMap<Key, BTreeMap<Tso, Version>>,
    pub(super) live: BTreeMap<Key, Tso>,
    pub(super) mounted: BTreeSet<SegmentId>,
    /// Until when segments that drain are to be there at least.
    draining: BTreeMap<SegmentId, u64>,
    /// Segments that somebody asked to unmount at once.
    dismissed: BTreeSet<SegmentId>,
    occupied: BTreeMap<SegmentId, Occupied>,
    /// Who writes where, and until when, by a number.
    writing: BTreeMap<u64, (String, ReplicaPlace, u64)>,
    last_writer: u64,
    leaders: BTreeMap<u64, u64>,
    /// Masters of which somebody was told that they are no members any more, and when.
    removed: BTreeMap<u64, u64>,
    /// When a version had been received, and the newest by then.
    granted: BTreeMap<u64, Tso>,
    pub(super) owners: Owners,
    /// The vaults of tenants, and what is in them.
    pub(super) vaults: BTreeMap<TenantId, VaultsRecord>,
    pub(super) buckets: Shared,
    pub(super) checkpoints: BTreeMap<ColdName, Begun>,
    /// What was entered last, for the trace.
    pub(super) newest: Option<String>,
    /// To whom each version was given.
    writers: BTreeMap<Tso, u64>,
    /// After a disk lied, what was stored may be gone: only what never depends on it is checked.
    pub(super) lenient: bool,
    pub(super) counts: Counts,
    /// Effects that came to nothing, by entry and place in it.
    pub(super) moot: BTreeSet<(u64, u64)>,
    /// What was said to be complete: up to which stamp, behind which entry.
    pub(super) resolved: BTreeMap<u64, Tso>,
    /// Store nodes that are heard, as the log has it.
    heard: BTreeMap<NodeId, (TenantId, String)>,
}

impl Oracle {
    pub(super) fn new(buckets: Shared) -> Self {
        Self { buckets, ..Self::default() }
    }

    /// A member applied one effect. "log order": everybody applies the same, whatever happened in between.
    pub(super) fn applied(&mut self, now: u64, member: u64, place: (u64, u64), stamp: Option<Tso>, bytes: &[u8], memory: &Memory) -> Check {
        let (index, nth) = place;
        if let Some(known) = self.log.get(&place) {
            return match known == bytes || self.lenient {
                true => Ok(()),
                false => Err((
                    "log order",
                    format!("member {member} applied something else as effect {nth} of entry {index} than was applied before"),
                )),
            };
        }
        if place <= self.head && !self.lenient {
            return Err((
                "log order",
                format!("member {member} applied an effect {nth} of entry {index}, which had fewer: {:?} is the newest", self.head),
            ));
        }
        self.head = self.head.max(place);
        self.log.insert(place, bytes.to_vec());
        self.stamps.extend(stamp.map(|stamp| (index, stamp)));
        match Effect::decode(bytes) {
            Ok(effect) => {
                self.newest = matches!(
                    effect,
                    Effect::Replicas { .. } | Effect::Cold { .. } | Effect::Moved { .. } | Effect::Demote { .. } | Effect::Remove { .. }
                )
                .then(|| format!("{effect:?}"));
                self.enter(now, effect, memory)?;
                self.row(place)
            }
            Err(e) => Err(("defect", format!("entry {index} holds what is no effect: {e}"))),
        }
    }

    fn enter(&mut self, now: u64, effect: Effect, memory: &Memory) -> Check {
        match effect {
            Effect::Commit(record) => return self.publish(now, record),
            Effect::Remove { tenant, key, version, reason } => {
                let key = Key { tenant, key };
                if self.live.get(&key) != Some(&version) {
                    self.nothing();
                    return Ok(());
                }
                self.counts.evictions += u64::from(reason == RemoveReason::Evicted);
                self.counts.damaged += u64::from(reason == RemoveReason::Damaged);
                let removed = self.given_up(&key, version, reason, memory);
                self.leave(now, &key);
                return removed;
            }
            Effect::Replicas { tenant, key, version, add, drop } => {
                return self.rearrange(now, &Key { tenant, key }, version, add, drop, memory);
            }
            Effect::Mount(desc) => self.lent(desc.id, TenantId::default(), ""),
            Effect::Lend { tenant, desc } => self.lent(desc.id, tenant, ""),
            Effect::LendAs { tenant, unique_id, desc } => self.lent(desc.id, tenant, &unique_id),
            Effect::Cold { tenant, key, version, copy, there } => return self.chill(&Key { tenant, key }, version, copy, there, None),
            Effect::Moved { tenant, key, version, from, copy } => return self.chill(&Key { tenant, key }, version, copy, true, Some(from)),
            Effect::Demote { tenant, key, version } => return self.demote(&Key { tenant, key }, version),
            Effect::Setting { key, value } => return self.set(now, &key, value.as_deref()),
            Effect::Checkpoint(one) => return self.checkpoint(now, &one),
            Effect::Directory { change, .. } => return self.directory(now, *change),
            Effect::Drain { segment, grace_ms } | Effect::Leaves { segment, grace_ms: Some(grace_ms), .. }
                if self.mounted.contains(&segment) =>
            {
                // A new leader counts anew, so it is never shorter; a clock may be fast.
                self.draining.insert(segment, now + grace_ms * 19 / 20);
            }
            Effect::Drain { segment, .. } | Effect::Unmount { segment } | Effect::Leaves { segment, .. }
                if !self.mounted.contains(&segment) =>
            {
                self.nothing();
            }
            Effect::Node { node, tenant, up } => {
                let known = self.heard.remove(&node);
                let is_news = up.is_some() || known.is_some();
                if let Some(name) = up {
                    self.heard.insert(node, (tenant, name));
                }
                if !is_news || known.is_some() && known == self.heard.get(&node).cloned() {
                    self.nothing();
                }
            }
            Effect::Unmount { segment } | Effect::Leaves { segment, .. } => {
                let emptied = self.emptied(now, segment, memory);
                self.mounted.remove(&segment);
                self.draining.remove(&segment);
                self.occupied.remove(&segment);
                self.owners.left(segment);
                for version in self.keys.values_mut().flat_map(BTreeMap::values_mut) {
                    version.record.replicas.retain(|replica| replica.segment != segment);
                }
                return emptied;
            }
            _ => {}
        }
        Ok(())
    }

    fn publish(&mut self, now: u64, record: ObjectRecord) -> Check {
        let (key, version) = (Key { tenant: record.tenant, key: record.key.clone() }, record.version);
        self.owners.publishes(&key, version)?;
        let replicas: Vec<_> = record.replicas.iter().filter(|r| self.mounted.contains(&r.segment)).cloned().collect();
        if replicas.is_empty() || self.live.get(&key).is_some_and(|newer| *newer >= version) {
            self.nothing();
            return Ok(());
        }
        self.leave(now, &key);
        replicas.iter().try_for_each(|replica| self.occupy(&key, version, replica))?;
        self.live.insert(key.clone(), version);
        let record = ObjectRecord { replicas, ..record };
        self.owners.lies(&key, &record.replicas)?;
        let fresh = Version { published: now, gone: None, acknowledged: None, gone_acknowledged: None, record, cold: None };
        self.keys.entry(key.clone()).or_default().insert(version, fresh);
        self.within_quota(now, key.tenant)
    }

    fn occupy(&mut self, key: &Key, version: Tso, ReplicaPlace { segment, extents }: &ReplicaPlace) -> Check {
        let occupied = self.occupied.entry(*segment).or_default();
        for extent in extents {
            if let Some((_, other, theirs)) = overlap(occupied, *extent)
                && !self.lenient
            {
                let what = format!("{key} {} and {other} {} both have {extent:?} of segment {segment}", version.0, theirs.0);
                return Err(("no two live objects share an extent", what));
            }
            occupied.insert(extent.offset, (extent.offset + extent.len, key.clone(), version));
        }
        Ok(())
    }

    pub(super) fn free(&mut self, replicas: &[ReplicaPlace]) {
        for ReplicaPlace { segment, extents } in replicas {
            if let Some(occupied) = self.occupied.get_mut(segment) {
                extents.iter().for_each(|extent| drop(occupied.remove(&extent.offset)));
            }
        }
    }

    fn leave(&mut self, now: u64, key: &Key) {
        let Some(version) = self.live.remove(key) else { return };
        let Some(old) = self.keys.get_mut(key).and_then(|versions| versions.get_mut(&version)) else { return };
        old.gone = Some(now);
        if let Some(copy) = &old.cold {
            vaults::lock(&self.buckets).named.remove(&copy.name);
        }
        let replicas = old.record.replicas.clone();
        self.free(&replicas);
    }

    /// Copies came and went: as the state does it. The rules about copies are looked at where something changes.
    fn rearrange(
        &mut self,
        now: u64,
        key: &Key,
        version: Tso,
        add: Option<ReplicaPlace>,
        drop: Option<SegmentId>,
        memory: &Memory,
    ) -> Check {
        if add.as_ref().is_some_and(|place| !self.mounted.contains(&place.segment)) || self.live.get(key) != Some(&version) {
            self.nothing();
            return Ok(());
        }
        let Some(known) = self.keys.get_mut(key).and_then(|versions| versions.get_mut(&version)) else { return Ok(()) };
        let before = known.record.replicas.clone();
        let goes =
            |r: &ReplicaPlace| Some(r) != add.as_ref() && (Some(r.segment) == drop || add.as_ref().is_some_and(|a| a.segment == r.segment));
        let (gone, stay): (Vec<_>, Vec<_>) = before.iter().cloned().partition(goes);
        let fresh = add.filter(|place| !stay.contains(place));
        // Whoever empties it may have looked already.
        if (gone.is_empty() && fresh.is_none()) || fresh.as_ref().is_some_and(|place| self.draining.contains_key(&place.segment)) {
            self.nothing();
            return Ok(());
        }
        known.record.replicas = stay.into_iter().chain(fresh.clone()).collect();
        let (after, wanted, cold) = (known.record.replicas.clone(), known.record.wanted, known.cold.as_ref().map(|copy| copy.name));
        self.counts.copied += u64::from(fresh.is_some());
        self.counts.given_up += gone.len() as u64;
        self.free(&gone);
        fresh.iter().try_for_each(|place| self.occupy(key, version, place))?;
        self.owners.lies(key, &after)?;
        if before.is_empty() && fresh.is_some() {
            self.counts.fetched += 1;
        }
        let owner = (number(&key.key), version.0);
        let copies = Copies { key, owner, now, memory };
        // What is in a vault as well is not lost.
        let saved = cold.is_some_and(|name| Chilled { key, owner, buckets: &self.buckets }.is_saved(name));
        if self.lenient {
            Ok(())
        } else {
            fresh.iter().try_for_each(|place| copies.came(place))?;
            if saved { Ok(()) } else { copies.changed(&before, &after, &gone, wanted) }
        }
    }

    /// A job removed an object.
    fn given_up(&self, key: &Key, version: Tso, reason: RemoveReason, memory: &Memory) -> Check {
        let known = self.keys.get(key).and_then(|versions| versions.get(&version));
        match (reason, known) {
            (RemoveReason::Damaged | RemoveReason::Orphaned, Some(known)) if !self.lenient => {
                let owner = (number(&key.key), version.0);
                let cold = Chilled { key, owner, buckets: &self.buckets };
                known.cold.as_ref().map_or(Ok(()), |copy| cold.given_up(copy.name))?;
                Copies { key, owner, now: 0, memory }.removed(&known.record.replicas)
            }
            _ => Ok(()),
        }
    }

    /// Somebody is about to ask that a segment is unmounted at once.
    pub(super) fn dismiss(&mut self, segment: SegmentId) {
        self.dismissed.insert(segment);
    }

    /// "a segment goes when it is empty": one that drains, before its time is over and without anybody's asking.
    fn emptied(&mut self, now: u64, segment: SegmentId, memory: &Memory) -> Check {
        let early = self.draining.get(&segment).is_some_and(|until| now < *until);
        if !early || self.dismissed.contains(&segment) || memory.node(segment).is_none() || self.lenient {
            return Ok(());
        }
        self.counts.emptied += 1;
        match self.occupied.get(&segment).and_then(|occupied| occupied.first_key_value()) {
            None => Ok(()),
            Some((at, (_, key, version))) => {
                let what = format!("segment {segment} was unmounted while it drained, and {key} {} lives there at {at}", version.0);
                Err(("a segment goes when it is empty", what))
            }
        }
    }

    /// "no two write to one place": a client, or a node, begins to write, and stops before `until`. Gives a number for the end.
    pub(super) fn begin_writing(&mut self, who: String, place: &ReplicaPlace, now: u64, until: u64) -> Result<u64, Broken> {
        let meets = |(_, (_, other, ends)): &(&u64, &(String, ReplicaPlace, u64))| *ends > now && shares(other, place);
        if let Some((_, (other, theirs, _))) = self.writing.iter().find(meets)
            && !self.lenient
        {
            return Err(("no two write to one place", format!("{who} is to write to {place:?}, and {other} is still at {theirs:?}")));
        }
        self.last_writer += 1;
        self.writing.insert(self.last_writer, (who, place.clone(), until));
        Ok(self.last_writer)
    }

    pub(super) fn end_writing(&mut self, number: u64) {
        self.writing.remove(&number);
    }

    /// An operator was told that this master is no member any more.
    pub(super) fn expelled(&mut self, member: u64, now: u64) {
        self.removed.entry(member).or_insert(now);
    }

    /// "one leader a term".
    pub(super) fn leads(&mut self, member: u64, term: u64) -> Check {
        let first = *self.leaders.entry(term).or_insert_with(|| {
            self.counts.leaders += 1;
            member
        });
        match first == member || self.lenient {
            true => Ok(()),
            false => Err(("one leader a term", format!("members {first} and {member} both lead in term {term}"))),
        }
    }

    /// "who was removed does not lead": not for longer than a member needs to take over, once all is well again.
    pub(super) fn stays(&self, leader: u64, now: u64) -> Check {
        match self.removed.get(&leader).filter(|at| now > *at + TAKEN_OVER_MS && !self.lenient) {
            None => Ok(()),
            Some(at) => Err(("who was removed does not lead", format!("master {leader} was removed at {at} ms and leads"))),
        }
    }

    /// "vouching by at most one": who holds a lease at this moment.
    pub(super) fn vouch(&self, holders: &[u64]) -> Check {
        match holders.len() <= 1 || self.lenient {
            true => Ok(()),
            false => Err(("vouching by at most one", format!("members {holders:?} hold a lease at the same time"))),
        }
    }

    /// "TSO order": a version that was asked for after another had been received is newer.
    pub(super) fn granted(&mut self, asked: u64, now: u64, caller: u64, version: Tso) -> Check {
        match self.writers.insert(version, caller) {
            // Who asks again is given the same room, and its version with it.
            Some(same) if same == caller => return Ok(()),
            Some(other) if !self.lenient => {
                return Err(("TSO order", format!("version {} was given to {other} and to {caller}", version.0)));
            }
            _ => {}
        }
        let before = self.granted.range(..asked).next_back().map(|(_, newest)| *newest);
        if before.is_some_and(|newest| newest >= version) && !self.lenient {
            return Err(("TSO order", format!("version {} was given after {before:?} had been", version.0)));
        }
        let newest = self.granted.values().next_back().copied().unwrap_or_default().max(version);
        self.granted.insert(now, newest);
        Ok(())
    }

    /// "acknowledged is committed": a writer was told that its put is stored.
    pub(super) fn stored(&mut self, now: u64, key: &Key, version: Tso) -> Check {
        self.counts.puts += 1;
        let versions = self.keys.entry(key.clone()).or_default();
        match versions.get_mut(&version) {
            Some(known) => known.acknowledged = Some(now),
            None if self.lenient => {}
            None => return Err(("acknowledged is committed", format!("{key} {} was acknowledged and nobody applied it", version.0))),
        }
        versions.range_mut(..version).for_each(|(_, old)| old.gone_acknowledged = old.gone_acknowledged.or(Some(now)));
        Ok(())
    }

    /// Whoever removed a key was told that it is gone.
    pub(super) fn removed(&mut self, now: u64, key: &Key) {
        self.counts.removes += 1;
        let versions = self.keys.get_mut(key).into_iter().flat_map(BTreeMap::values_mut);
        versions.filter(|v| v.gone.is_some()).for_each(|old| old.gone_acknowledged = old.gone_acknowledged.or(Some(now)));
    }

    /// "no stale read": what was found was current at some moment between question and answer.
    pub(super) fn found(&mut self, asked: u64, key: &Key, version: Tso) -> Check {
        self.counts.reads += 1;
        match self.keys.get(key).and_then(|versions| versions.get(&version)) {
            _ if self.lenient => Ok(()),
            None => Err(("no stale read", format!("{key} {} was found and never published", version.0))),
            Some(known) if known.gone_acknowledged.is_some_and(|at| at < asked) => {
                let (at, gone) = (known.gone_acknowledged, known.gone);
                Err((
                    "no stale read",
                    format!("{key} {} was found, asked for at {asked}, gone at {gone:?}, acknowledged at {at:?}", version.0),
                ))
            }
            Some(_) => Ok(()),
        }
    }

    /// "acknowledged means readable or removed": nothing was found. `leaving` says which versions were being removed.
    pub(super) fn missed(&mut self, asked: u64, key: &Key, leaving: bool) -> Check {
        self.counts.misses += 1;
        let Some(version) = self.live.get(key).filter(|_| !leaving && !self.lenient) else { return Ok(()) };
        let known = self.keys.get(key).and_then(|versions| versions.get(version));
        let acknowledged =
            known.filter(|k| self.is_somewhere(key, *version, k) && k.published < asked && k.acknowledged.is_some_and(|at| at < asked));
        match acknowledged {
            None => Ok(()),
            Some(k) => {
                let what = format!("{key} {} was not found, asked for at {asked}, acknowledged at {:?}", version.0, k.acknowledged);
                Err(("acknowledged means readable or removed", what))
            }
        }
    }

    /// "no live byte is overwritten": a client writes there for its put, or a node for its order, and then nothing lives there yet.
    pub(super) fn writes(&self, put: Option<(&Key, Tso)>, segment: SegmentId, extent: Extent) -> Check {
        let other = self.occupied.get(&segment).and_then(|occupied| overlap(occupied, extent));
        match other.filter(|(_, theirs, v)| put != Some((theirs, *v)) && !self.lenient) {
            None => Ok(()),
            Some((_, theirs, v)) => {
                let what = format!("{put:?} is written to {extent:?} of segment {segment}, where {theirs} {} lives", v.0);
                Err(("no live byte is overwritten", what))
            }
        }
    }

    /// "a lease is honoured": what a reader found where it was told to read, before the time it was told.
    pub(super) fn read(&self, key: &Key, version: Tso, place: &ReplicaPlace, found: Condition) -> Check {
        match found {
            Condition::Wrong(whose) if !self.lenient => {
                let what = format!("{key} {} was read at {place:?} within its lease and found {whose:?}", version.0);
                Err(("a lease is honoured", what))
            }
            _ => Ok(()),
        }
    }

    /// A copy of an object that lives, by a number.
    pub(super) fn some_copy(&mut self, number: u64) -> Option<ReplicaPlace> {
        let copies: Vec<&ReplicaPlace> = self.live.iter().flat_map(|(key, version)| &self.keys[key][version].record.replicas).collect();
        let some = copies.get(number as usize % copies.len().max(1)).map(|place| (*place).clone());
        self.counts.rotten += u64::from(some.is_some());
        some
    }
}

fn shares(one: &ReplicaPlace, other: &ReplicaPlace) -> bool {
    let meets = |a: &Extent| other.extents.iter().any(|b| a.offset < b.offset + b.len && b.offset < a.offset + a.len);
    one.segment == other.segment && one.extents.iter().any(meets)
}

fn overlap(occupied: &Occupied, Extent { offset, len }: Extent) -> Option<(u64, Key, Tso)> {
    let (_, (end, key, version)) = occupied.range(..offset + len).next_back()?;
    (*end > offset).then(|| (*end, key.clone(), *version))
}

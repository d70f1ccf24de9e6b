//! Decisions that lead to effects: room for puts, their end, removals. Nothing here changes what survives;
//! the caller proposes the effects that come back.

use crate::apply::{State, places};
use crate::directory::PoolId;
use crate::effect::{Effect, ObjectRecord, RemoveReason};
use crate::meter::Limit;
use crate::objects::limbo::Why;
use crate::objects::puts::{Ending, Put};
use crate::objects::{Few, KeyRef, Object, Replica};
use crate::segments::{Phase, Reach, Segment};
use crate::window::{self, NoRoom};
use crate::{MonotonicMs, place};
use perilune_protocol::object::VALUE_BYTES_MAX;
use perilune_protocol::rpc::object::PutGrant;
use perilune_protocol::{ByteSize, Fault, FaultCode, ObjectKey, PutConfig, TenantId, Tso, WriterId};
use std::sync::Arc;

/// What a request brings along: none of it is the brain's to find out.
#[derive(Clone, Copy, Debug)]
pub struct Stamp<'a> {
    /// Whose keys.
    pub tenant: TenantId,
    /// The pool that is preferred, for puts.
    pub pool: Option<PoolId>,
    /// The monotonic clock.
    pub now: MonotonicMs,
    /// The caller's address without port.
    pub host: &'a str,
    /// Who puts, for puts.
    pub writer: WriterId,
    /// The connection it asks on, for puts; 0 where there is none.
    pub session: u64,
    /// A random number.
    pub draw: u64,
}

/// Why a put did not get room.
#[derive(Debug)]
pub enum PutRefusal {
    /// For good; tell the caller.
    Fault(Fault),
    /// Log this, which widens the window of a segment (DESIGN D4), and ask again.
    NeedWindow(Box<Effect>),
    /// Nodes that were there are not heard yet, as after a restart: ask again when one is; if none comes, tell the caller.
    NeedNode(Fault),
    /// Evict about this many bytes and ask again; if nothing can be evicted, tell the caller.
    NeedRoom(u64, Fault),
}

impl From<Fault> for PutRefusal {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// What ending a put needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutEnding {
    /// This effect in the log, from this caller.
    Propose(Effect),
    /// Patience: somebody else proposed it, ask again when [`State::put_is_ending`] says no.
    Underway,
    /// Nothing.
    Published,
}

impl PutEnding {
    /// What the caller owes the log.
    pub fn effect(&self) -> Option<&Effect> {
        if let Self::Propose(effect) = self { Some(effect) } else { None }
    }
}

/// Puts that were discarded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Discarded {
    /// How many.
    pub puts: u64,
    /// Bytes that wait in limbo for their writers to have stopped.
    pub bytes: u64,
}

/// Values up to this size are kept in at most [`EXTENTS_SMALL`] pieces, larger ones in [`EXTENTS_LARGE`] (DESIGN D3a).
const SMALL_BYTES: u64 = 8 << 20;
const EXTENTS_SMALL: usize = 4;
const EXTENTS_LARGE: usize = 16;

impl State {
    /// Gives room to one put under a fresh `version`.
    pub fn put_start(
        &self,
        key: &ObjectKey,
        size: u64,
        config: &PutConfig,
        version: Tso,
        stamp: Stamp<'_>,
    ) -> Result<PutGrant, PutRefusal> {
        key.check()?;
        check_put(key, size, config)?;
        let at = KeyRef::new(stamp.tenant, key);
        // Wherever a copy of it lies: that it left memory for a vault changes no answer.
        if !config.upsert && self.reachable(at) {
            return Err(exists(key, "exists already").into());
        }
        // It lost an answer, or could not write: what was ended for it is not begun anew by asking again.
        if let Some(aborted) = self.puts.last_aborted(at, stamp.writer) {
            return Err(self.tell_aborted(key, aborted).into());
        }
        if let Some(other) = self.puts.get(at) {
            if other.is_of(stamp.writer, size) && other.renew(stamp) {
                return Ok(grant(&other));
            }
            if stamp.now < other.started() + self.rules.put_discard_ms {
                return Err(exists(key, "is being put by someone else").into());
            }
            self.give_up(&other, Why::Abandoned, stamp.now);
        }
        let quota = self.directory.may_add(stamp.tenant)?;
        let (meter, promised) = (self.meters.of(stamp.tenant), size * u64::from(config.replicas));
        // Before room is taken, so that what there is never exceeds what there may be.
        if let Err(over) = meter.promise(promised, quota) {
            let fits = quota.bytes.is_none_or(|most| promised <= most);
            let why = if fits {
                format!("{over}, and nothing of it can leave now")
            } else {
                format!("its copies take {}, and the tenant may have {quota}", ByteSize(promised))
            };
            let fault = FaultCode::QuotaExceeded.with(format!("{key}: {why}"));
            // Where nothing is to be lost, no eviction makes fewer objects of them.
            let stays = over.of == Limit::Objects && self.directory.known().usable_vault_of(stamp.tenant).is_some();
            let ever = fits && quota.objects != Some(0) && !stays;
            return Err(if ever { PutRefusal::NeedRoom(promised, fault) } else { fault.into() });
        }
        let replicas = self.allocate(size, config, stamp).inspect_err(|_| meter.count(-1, -(promised as i64)))?;
        let put = Arc::new(Put::new(at.to_owned(), version, size, config, replicas, stamp));
        // Fewer copies than asked for, where that is as good.
        meter.count(0, put.promised() - promised as i64);
        match self.puts.begin(put.clone()) {
            Ok(()) => Ok(grant(&put)),
            Err(other) => {
                // Never told to anyone, so it can be used again at once.
                free(&put.replicas);
                meter.count(-1, -put.promised());
                if other.is_of(stamp.writer, size) && other.renew(stamp) {
                    return Ok(grant(&other));
                }
                Err(exists(key, "is being put by someone else").into())
            }
        }
    }

    /// Ends a put. Asking again is harmless: the commit is proposed once.
    pub fn put_end(&self, tenant: TenantId, key: &ObjectKey, version: Tso, checksum: u64) -> Result<PutEnding, Fault> {
        let at = KeyRef::new(tenant, key);
        let put = self.puts.get(at).filter(|p| p.version == version);
        match put.map(|put| (put.end(), put)) {
            Some((Ending::First, put)) => Ok(PutEnding::Propose(Effect::Commit(ObjectRecord {
                tenant,
                key: key.clone(),
                version,
                size: put.size,
                checksum,
                pin: put.pin,
                replicas: places(&put.replicas),
                wanted: put.wanted,
            }))),
            Some((Ending::Again, _)) => Ok(PutEnding::Underway),
            _ if self.index.get(at).is_some_and(|o| o.version == version) => Ok(PutEnding::Published),
            _ if self.was_aborted(tenant, version) => Err(self.tell_aborted(key, version)),
            _ => Err(FaultCode::InvalidWrite.with(format!(
                "{key}: this put is not in progress; it was revoked, took longer than {} ms, or the master restarted. Put again",
                self.rules.put_discard_ms
            ))),
        }
    }

    fn was_aborted(&self, tenant: TenantId, version: Tso) -> bool {
        self.puts.last_given_up(|gone| gone.version == version && gone.key.as_ref().tenant == tenant).is_some_and(|gone| gone.aborted)
    }

    /// Its writer asks, so it lives, and was not stopped in the middle.
    fn tell_aborted(&self, key: &ObjectKey, version: Tso) -> Fault {
        self.limbo.have_ended(|writer| writer.version == version);
        FaultCode::WrongState.with(format!("{key}: somebody aborted this put; put again if that was not meant"))
    }

    /// Whether the commit of this put is on its way.
    pub fn put_is_ending(&self, tenant: TenantId, key: &ObjectKey, version: Tso) -> bool {
        self.puts.get(KeyRef::new(tenant, key)).is_some_and(|p| p.version == version && p.is_ending())
    }

    /// Gives up a put. Unknown puts are fine: the answer to an earlier revoke may have been lost.
    pub fn put_revoke(&self, tenant: TenantId, key: &ObjectKey, version: Tso, now: MonotonicMs) -> Result<(), Fault> {
        let Some(put) = self.puts.get(KeyRef::new(tenant, key)).filter(|p| p.version == version) else {
            return if self.was_aborted(tenant, version) { Err(self.tell_aborted(key, version)) } else { Ok(()) };
        };
        if self.give_up(&put, Why::Revoked, now) {
            return Ok(());
        }
        Err(FaultCode::InvalidWrite.with(format!("{key}: the put is being published")))
    }

    /// Discards puts whose writers have gone.
    pub fn discard_abandoned(&self, now: MonotonicMs) -> Discarded {
        let mut discarded = Discarded::default();
        for put in self.puts.abandoned(now.saturating_sub(self.rules.put_discard_ms)) {
            if self.give_up(&put, Why::Abandoned, now) {
                discarded.puts += 1;
                discarded.bytes += put.size * put.replicas.len() as u64;
            }
        }
        discarded
    }

    /// Condemns an object and gives the removal to propose.
    pub fn remove(&self, tenant: TenantId, key: &ObjectKey, force: bool, now: MonotonicMs) -> Result<Effect, Fault> {
        key.check()?;
        let object = self.standing(KeyRef::new(tenant, key)).ok_or_else(|| self.absent(tenant, key))?;
        self.condemn(&object, force, now)
    }

    /// The same for an object in hand.
    pub fn condemn(&self, object: &Arc<Object>, force: bool, now: MonotonicMs) -> Result<Effect, Fault> {
        let key = object.key.to_object_key();
        let mut object = Arc::clone(object);
        while let Err(until) = self.condemn_form(&object, force, now) {
            if !object.is_condemned() {
                let left = MonotonicMs::saturating_sub(until, now);
                return Err(FaultCode::ObjectLeased.with(format!("{key}: a reader's lease runs for another {left} ms; wait, or use force")));
            }
            let form = self.successor(&object).filter(|next| next.version == object.version);
            object = form.ok_or_else(|| FaultCode::ObjectNotFound.with(format!("{key}: it is being removed already, or was replaced")))?;
        }
        Ok(Self::removal(&object, RemoveReason::Removed))
    }

    fn condemn_form(&self, object: &Object, force: bool, now: MonotonicMs) -> Result<(), MonotonicMs> {
        let inherited = self.inherited(object);
        if inherited > now && !force { Err(inherited) } else { object.condemn(now, force) }
    }

    /// Ends a put without publishing it; false when that was decided before, one way or the other.
    pub(crate) fn give_up(&self, put: &Put, why: Why, now: MonotonicMs) -> bool {
        self.end_put(put, why, false, now)
    }

    /// The same, also on behalf of somebody else than its writer.
    pub(crate) fn end_put(&self, put: &Put, why: Why, aborted: bool, now: MonotonicMs) -> bool {
        let given_up = self.puts.discard(put, aborted);
        if given_up {
            // What a writer that has ended or left had on the way may still land until its own deadline; another may have been stopped in the middle.
            let (has_ended, writer) = (why == Why::Revoked || put.has_left(), put.may_write(self.rules.put_discard_ms));
            let until = if has_ended { writer.ends } else { put.started() + self.rules.put_release_ms };
            self.limbo.hold_from(&put.replicas, why, Some(writer), until, now);
            // It left while its room was in neither place.
            if !has_ended && put.has_left() {
                self.limbo.have_ended(|writer| writer.version == put.version);
            }
            self.meters.of(put.key.as_ref().tenant).count(-1, -put.promised());
        }
        given_up
    }

    /// Space for all replicas, each on a segment of its own, on distinct nodes as long as there are enough.
    fn allocate(&self, size: u64, config: &PutConfig, stamp: Stamp<'_>) -> Result<Few<Replica>, PutRefusal> {
        let wanted = usize::from(config.replicas);
        let table = self.segments.table();
        let of_tenant = table.iter().filter(|s| s.tenant() == stamp.tenant);
        let mut candidates: Vec<Arc<Segment>> = of_tenant.filter(|s| s.allocatable()).cloned().collect();
        self.check_segments(&candidates, size, config, stamp.tenant)?;
        place::order(&mut candidates, self.rules.placement, config, stamp.pool, stamp.host, stamp.draw);
        let mut taken: Vec<Replica> = Vec::with_capacity(wanted);
        // Two rounds: first one segment per node, then any segment that is not yet used.
        for distinct_nodes in [true, false] {
            for segment in &candidates {
                let used = |r: &Replica| if distinct_nodes { r.segment.node() == segment.node() } else { r.segment.id() == segment.id() };
                if taken.len() == wanted || taken.iter().any(used) {
                    continue;
                }
                match window::take(segment, size) {
                    Ok(extents) => taken.push(Replica { segment: segment.clone(), extents: extents.into() }),
                    // Not a worse segment instead: a fresh node would never be placed on.
                    Err(NoRoom::Window(effect)) => {
                        free(&taken);
                        return Err(PutRefusal::NeedWindow(effect));
                    }
                    Err(NoRoom::Full) => {}
                }
            }
        }
        if taken.len() == wanted || (config.best_effort && !taken.is_empty()) {
            return Ok(taken.into());
        }
        free(&taken);
        let text = format!("no segment has {} free for {wanted} replica(s), and nothing more can be evicted", ByteSize(size));
        Err(PutRefusal::NeedRoom(size * wanted as u64, FaultCode::NoSpace.with(text)))
    }

    fn check_segments(&self, candidates: &[Arc<Segment>], size: u64, config: &PutConfig, tenant: TenantId) -> Result<(), PutRefusal> {
        let table = self.segments.table();
        let of_tenant = || table.iter().filter(|s| s.tenant() == tenant);
        let wanted = if config.best_effort { 1 } else { usize::from(config.replicas) };
        if candidates.len() < wanted {
            let fault = match (of_tenant().count(), candidates.len()) {
                (0, _) if !table.is_empty() => {
                    FaultCode::NoSpace.with("no segment of this tenant is mounted: start a store node with --tenant")
                }
                (0, _) => FaultCode::NoSpace.with("no segment is mounted: start a store node, or mount memory on one (POST /api/mount)"),
                (_, 0) if of_tenant().any(|s| s.closed()) => {
                    FaultCode::NoSpace.with("no mounted segment takes allocations: their pools are suspended, or their nodes leave")
                }
                (_, 0) => FaultCode::NoSpace.with("no mounted segment takes allocations: their nodes are silent or they are draining"),
                (_, some) => FaultCode::InvalidParams
                    .with(format!("{wanted} replicas need as many segments, {some} can take one; mount more, or ask for best effort")),
            };
            let awaited = of_tenant().any(|s| s.phase() == Phase::Mounted && s.reach() == Reach::Suspect && !s.closed());
            return Err(if awaited { PutRefusal::NeedNode(fault) } else { fault.into() });
        }
        let largest = candidates.iter().map(|s| s.space().capacity()).max().unwrap_or(0);
        if size > largest {
            let why = format!("a value of {} is larger than the largest segment ({})", ByteSize(size), ByteSize(largest));
            return Err(FaultCode::NoSpace.with(why).into());
        }
        Ok(())
    }
}

fn grant(put: &Put) -> PutGrant {
    PutGrant { version: put.version, replicas: places(&put.replicas) }
}

fn check_put(key: &ObjectKey, size: u64, config: &PutConfig) -> Result<(), Fault> {
    let wrong = if size == 0 {
        "the value is empty".to_string()
    } else if size > VALUE_BYTES_MAX {
        format!("a value of {} is above the limit of {}", ByteSize(size), ByteSize(VALUE_BYTES_MAX))
    } else if config.replicas == 0 {
        "0 replicas would store nothing; ask for 1 or more".to_string()
    } else {
        return Ok(());
    };
    Err(FaultCode::InvalidParams.with(format!("{key}: {wrong}")))
}

fn exists(key: &ObjectKey, how: &str) -> Fault {
    FaultCode::ObjectExists.with(format!("{key} {how}"))
}

/// Room that nobody was told of.
fn free(replicas: &[Replica]) {
    for replica in replicas {
        replica.segment.space().settle(&replica.extents);
        replica.segment.space().release(&replica.extents);
    }
}

/// Pieces a value may be kept in.
pub(crate) fn extents_max(size: u64) -> usize {
    if size < SMALL_BYTES { EXTENTS_SMALL } else { EXTENTS_LARGE }
}

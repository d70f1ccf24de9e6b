//! Requests about keys: batches in, one answer per key, in order.

use super::Engine;
use crate::work::evict::{self, Loss};
use crate::work::{aside, cold};
use perilune_protocol::rpc::object::{KeyList, PutEnd, PutGrant, PutRevoke, PutStart};
use perilune_protocol::{FaultCode, ObjectKey, ObjectPlace, Outcome, PutConfig, TenantId, Tso};
use perilune_state::directory::PoolId;
use perilune_state::effect::RemoveReason;
use perilune_state::objects::Object;
use perilune_state::write::{PutEnding, PutRefusal, Stamp};
use perilune_state::{Effect, State};
use regex::bytes::{Regex, RegexBuilder};
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

/// Keys of one page of a listing.
const LIST_LIMIT: u64 = 100_000;
/// Bytes of one page, well below what a frame holds; and what an item takes beside its key.
const LIST_BYTES: usize = 32 << 20;
const LIST_ITEM_BYTES: usize = 16;
/// Removals proposed at once, so that a removal of everything never holds the log for long.
const REMOVE_STEP: usize = 512;
/// How many wider windows a put asks for: one or two per segment it is placed on, so it never needs so many.
const WINDOW_TRIES: usize = 1024;
/// How long a repeated end waits for the first one's commit.
const ENDING_PATIENCE: Duration = Duration::from_secs(5);
/// How long a put, or a read from a vault, waits for a node that was there before to be heard again.
pub(crate) const NODE_PATIENCE: Duration = Duration::from_secs(2);
/// Pause between two looks at whether what is in a put's way was brought to a vault.
const SAVING_PAUSE: Duration = Duration::from_millis(10);
/// How often a put asks for room before it gives up.
const ROOM_TRIES: u32 = 16;

/// Who asks for room.
#[derive(Clone, Copy, Default)]
pub struct Asker<'a> {
    /// The pool that is preferred.
    pub pool: Option<PoolId>,
    /// Its address without port.
    pub host: &'a str,
    /// The connection it asks on; 0 where there is none.
    pub session: u64,
}

impl Engine {
    /// Where objects are; leases each.
    pub fn locate(&self, tenant: TenantId, keys: &[ObjectKey]) -> Vec<Outcome<ObjectPlace>> {
        let places = self.state().locate(tenant, keys, self.now());
        let in_memory = || places.iter().flatten().filter(|place| !place.replicas.is_empty());
        let hits = in_memory().count() as u64;
        self.metrics().leases_granted(hits);
        self.metrics().hits(hits, in_memory().map(|p| p.size).sum());
        self.metrics().misses(keys.len() as u64 - hits);
        places
    }

    /// Whether objects can be read; leases each that can.
    pub fn exists(&self, tenant: TenantId, keys: &[ObjectKey]) -> Vec<bool> {
        let found = self.state().exists(tenant, keys, self.now());
        self.metrics().leases_granted(found.iter().filter(|f| **f).count() as u64);
        found
    }

    /// How many keys of a chain can be read; leases those.
    pub fn match_prefix(&self, tenant: TenantId, keys: &[ObjectKey]) -> u64 {
        let found = self.state().match_prefix(tenant, keys, self.now());
        self.metrics().leases_granted(found);
        found
    }

    /// Gives room to puts, in the asker's pool where there is some.
    pub async fn put_start(&self, tenant: TenantId, from: Asker<'_>, question: PutStart) -> Vec<Outcome<PutGrant>> {
        if let Err(fault) = self.roomy().await {
            return question.puts.iter().map(|_| Err(fault.clone())).collect();
        }
        let first = match self.stamps(question.puts.len().max(1) as u64).await {
            Ok(first) => first,
            Err(fault) => return question.puts.iter().map(|_| Err(fault.clone())).collect(),
        };
        let Asker { pool, host, session } = from;
        let mut grants = Vec::with_capacity(question.puts.len());
        let mut named = HashSet::new();
        for (i, (key, size)) in question.puts.iter().enumerate() {
            if question.puts.len() > 1 && !named.insert(key) {
                // By one writer it would be given the room of the first.
                grants.push(Err(
                    FaultCode::InvalidParams.with(format!("{key} is named twice in one question: put one value after the other"))
                ));
                continue;
            }
            let stamp = Stamp { tenant, pool, now: 0, host, writer: question.writer, session, draw: 0 };
            grants.push(self.put_start_one(key, *size, &question.config, Tso(first.0 + i as u64), stamp).await);
        }
        evict::ring_if_tight(self);
        grants
    }

    async fn put_start_one(&self, key: &ObjectKey, size: u64, config: &PutConfig, version: Tso, stamp: Stamp<'_>) -> Outcome<PutGrant> {
        // What most puts do not need is had when it is needed.
        let (mut tries, mut kept, mut rooms, mut heard, mut begun) = (0, 0, 0, None, None);
        let mut since = || *begun.get_or_insert_with(tokio::time::Instant::now);
        loop {
            let stamp = Stamp { now: self.now(), draw: self.draw(), ..stamp };
            match self.state().put_start(key, size, config, version, stamp) {
                Ok(grant) => {
                    if grant.replicas.len() < usize::from(config.replicas) {
                        self.metrics().put_with_fewer_copies();
                    }
                    return Ok(grant);
                }
                Err(PutRefusal::Fault(fault)) => return Err(fault),
                Err(PutRefusal::NeedWindow(effect)) => {
                    tries += 1;
                    if tries > WINDOW_TRIES {
                        let fault = FaultCode::Internal.with(format!("{key}: {WINDOW_TRIES} wider windows gave no room; this is a defect"));
                        return Err(fault);
                    }
                    // A segment that went meanwhile is no longer a candidate on the next try.
                    let _ = self.commit(&effect).await.map_err(|e| tracing::debug!("{e}"));
                }
                Err(PutRefusal::NeedNode(fault)) => match &mut heard {
                    // Who is heard from now on is not missed; who was heard until now is found by the next try.
                    None => heard = Some(self.inner.heard.subscribe()),
                    Some(heard) => {
                        if tokio::time::timeout_at(since() + NODE_PATIENCE, heard.changed()).await.is_err() {
                            return Err(fault);
                        }
                    }
                },
                Err(PutRefusal::NeedRoom(bytes, fault)) => {
                    let patience = cold::patience(self, stamp.tenant);
                    let loss = if patience.is_some() { Loss::Never } else { Loss::AtNeed };
                    let waits = patience.is_some_and(|patience| tokio::time::Instant::now() < since() + patience);
                    let tries = if waits { &mut kept } else { &mut rooms };
                    if (waits || *tries < ROOM_TRIES) && self.reign.evictor.make_room(stamp.tenant, bytes, loss, tries).await {
                        continue;
                    }
                    if !waits {
                        self.metrics().put_without_room();
                        return Err(if loss == Loss::Never { cold::waited_in_vain(self, stamp.tenant, fault) } else { fault });
                    }
                    tokio::time::sleep(SAVING_PAUSE).await;
                }
            }
        }
    }

    /// Publishes puts.
    pub async fn put_end(&self, tenant: TenantId, question: PutEnd) -> Vec<Outcome<()>> {
        let end = |(key, version, checksum): &(ObjectKey, Tso, u64)| self.state().put_end(tenant, key, *version, *checksum);
        let endings: Vec<_> = question.puts.iter().map(end).collect();
        let mut proposals = self.propose_all(endings.iter().flatten().filter_map(PutEnding::effect)).into_iter();
        let mut outcomes = Vec::with_capacity(endings.len());
        for (ending, (key, version, checksum)) in endings.into_iter().zip(&question.puts) {
            outcomes.push(match ending {
                Ok(PutEnding::Propose(effect)) => {
                    let proposal = proposals.next().unwrap_or_else(|| self.propose(&effect));
                    let size = if let Effect::Commit(record) = &effect { record.size } else { 0 };
                    self.stored(&effect, proposal).await.inspect(|()| self.metrics().value_put(size))
                }
                Ok(PutEnding::Underway | PutEnding::Published) => self.await_ending(tenant, key, *version, *checksum).await,
                Err(fault) => Err(fault),
            });
        }
        outcomes
    }

    /// The same end was asked for twice, over two connections: the second asking learns what became of the first.
    async fn await_ending(&self, tenant: TenantId, key: &ObjectKey, version: Tso, checksum: u64) -> Outcome<()> {
        let patience = tokio::time::Instant::now() + ENDING_PATIENCE;
        while self.state().put_is_ending(tenant, key, version) {
            if tokio::time::Instant::now() >= patience {
                return Err(FaultCode::Timeout.with(format!("{key}: the commit takes longer than {ENDING_PATIENCE:?}; ask again")));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.state().put_end(tenant, key, version, checksum).map(|_| ())
    }

    /// Gives up puts.
    pub fn put_revoke(&self, tenant: TenantId, question: &PutRevoke) -> Vec<Outcome<()>> {
        let now = self.now();
        question.puts.iter().map(|(key, version)| self.state().put_revoke(tenant, key, *version, now)).collect()
    }

    /// Removes objects.
    pub async fn remove(&self, tenant: TenantId, keys: &[ObjectKey], force: bool) -> Vec<Outcome<()>> {
        if let Err(fault) = self.writable() {
            return keys.iter().map(|_| Err(fault.clone())).collect();
        }
        let now = self.now();
        let effects: Vec<_> = keys.iter().map(|key| self.state().remove(tenant, key, force, now)).collect();
        let mut proposals = self.propose_all(effects.iter().flatten()).into_iter();
        let mut outcomes = Vec::with_capacity(effects.len());
        for effect in effects {
            outcomes.push(match effect {
                Ok(effect) => {
                    let proposal = proposals.next().unwrap_or_else(|| self.propose(&effect));
                    self.stored(&effect, proposal).await
                }
                Err(fault) => Err(fault),
            });
        }
        outcomes
    }

    /// Removes every object of a tenant whose key matches; leased ones only with `force`. Blocks; works in steps.
    pub fn remove_matching(&self, tenant: TenantId, pattern: &str, force: bool) -> Outcome<u64> {
        let removed = compile(pattern).and_then(|regex| {
            let found = self.matching(tenant, regex.as_ref(), u64::MAX);
            self.remove_all_of(&found, |object| self.state().condemn(object, force, self.now()).ok())
        });
        self.metrics().removed_matching(pattern, removed.is_ok());
        let removed = removed?;
        if pattern.is_empty() {
            let cleared = Effect::Cleared { tenant };
            self.wait_stored(&cleared, self.propose(&cleared))?;
        }
        Ok(removed)
    }

    /// Removes all that a tenant has, whoever reads it and whether it can be read or not; what was promised to readers is kept. Works in steps.
    pub(crate) async fn recycle(&self, tenant: TenantId) -> Outcome<()> {
        let walker = self.clone();
        let found = aside(move || {
            let mut found = Vec::new();
            walker.state().index.for_each(&mut |object| {
                if object.key.as_ref().tenant == tenant {
                    found.push(object.clone());
                }
                ControlFlow::Continue(())
            });
            found
        });
        for step in found.await?.chunks(REMOVE_STEP) {
            self.writable()?;
            let going = step.iter().filter(|object| object.condemn(self.now(), true).is_ok());
            let effects: Vec<_> = going.map(|object| State::removal(object, RemoveReason::Recycled)).collect();
            for (effect, proposal) in effects.iter().zip(self.propose_all(&effects)) {
                self.stored(effect, proposal).await?;
            }
        }
        Ok(())
    }

    /// Removes those of `objects` for which `condemn` gives the effect.
    fn remove_all_of(&self, objects: &[Arc<Object>], condemn: impl Fn(&Arc<Object>) -> Option<Effect>) -> Outcome<u64> {
        let mut removed = 0;
        for step in objects.chunks(REMOVE_STEP) {
            self.writable()?;
            let effects: Vec<_> = step.iter().filter_map(&condemn).collect();
            for (effect, proposal) in effects.iter().zip(self.propose_all(&effects)) {
                self.wait_stored(effect, proposal)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// A page of keys. Blocks.
    pub fn list_keys(&self, tenant: TenantId, pattern: &str, limit: u64) -> Outcome<KeyList> {
        let limit = if limit == 0 { LIST_LIMIT } else { limit.min(LIST_LIMIT) };
        let mut found = self.matching(tenant, compile(pattern)?.as_ref(), limit + 1);
        let mut bytes = 0;
        let fits = |object: &&Arc<Object>| {
            bytes += object.key.as_ref().bytes.len() + LIST_ITEM_BYTES;
            bytes <= LIST_BYTES
        };
        let within = found.iter().take(usize::try_from(limit).unwrap_or(usize::MAX)).take_while(fits).count();
        let more = found.len() > within;
        found.truncate(within);
        Ok(KeyList { keys: found.iter().map(|o| (o.key.to_object_key(), o.size)).collect(), more })
    }

    /// Visits every key of a tenant with the size of its value. `visit` may block: the index is not held meanwhile.
    pub fn for_each_key(&self, tenant: TenantId, visit: &mut dyn FnMut(&ObjectKey, u64) -> ControlFlow<()>) {
        for object in self.matching(tenant, None, u64::MAX) {
            if visit(&object.key.to_object_key(), object.size).is_break() {
                return;
            }
        }
    }

    /// Handles of the objects whose keys match, collected in one pass that copies no key.
    fn matching(&self, tenant: TenantId, regex: Option<&Regex>, limit: u64) -> Vec<Arc<Object>> {
        let mut found = Vec::new();
        self.state().for_each(tenant, &mut |object| {
            if regex.is_none_or(|r| r.is_match(object.key.as_ref().bytes)) {
                found.push(object.clone());
            }
            if (found.len() as u64) < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        found
    }
}

/// `None` for the empty pattern, which matches all. The `regex` crate runs in linear time, so no pattern can stall the master.
fn compile(pattern: &str) -> Outcome<Option<Regex>> {
    if pattern.is_empty() {
        return Ok(None);
    }
    let built = RegexBuilder::new(pattern).size_limit(1 << 20).build();
    built.map(Some).map_err(|e| FaultCode::InvalidParams.with(format!("`{pattern}` is not a regular expression: {e}")))
}

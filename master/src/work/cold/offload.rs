//! Everything of a tenant that is in memory only is brought to its vault, when somebody asks for it; or everything that is in one of its vaults to
//! the one where new objects go, by way of memory.

use super::down::movable;
use super::{Offer, Purpose, WAIT_MAX, Wish, has_vault, health_of, is_dirty, lock, vault_of};
use crate::engine::Engine;
use perilune_protocol::rpc::cold::Offloaded;
use perilune_protocol::{ByteSize, FaultCode, ObjectKey, Outcome, TenantId, VaultId};
use perilune_state::directory::ShardId;
use perilune_state::objects::{Key, Object};
use perilune_state::shards::ShardJob;
use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

/// Between two looks at what is left, when nothing of it ends.
const LOOK: Duration = Duration::from_millis(100);
/// So many are fetched at a time to be brought elsewhere.
const FETCHES_MAX: usize = 64;

/// An offload of a tenant, by shard, as it was found at the last look.
struct Look {
    /// What is in this vault is to be brought elsewhere; else what is in none.
    from: Option<VaultId>,
    began: Instant,
    found: Offloaded,
    /// Those that had something to be brought, with the job that does it. It is kept, so that one that was stopped does not begin again.
    shards: BTreeMap<ShardId, Shard>,
    /// What is being fetched.
    fetches: Vec<(Key, oneshot::Receiver<Outcome<()>>)>,
    /// What could not be, and why the last of it. It is tried again when all else is done.
    failed: HashSet<Key>,
    failure: String,
}

#[derive(Default)]
struct Shard {
    job: Option<Arc<ShardJob>>,
    left: u64,
}

impl Look {
    /// Whether an object is yet to be brought.
    fn is_left(&self, object: &Object) -> bool {
        match self.from {
            None => is_dirty(object),
            Some(vault) => object.cold.as_ref().is_some_and(|copy| copy.vault == vault),
        }
    }

    /// Has an object fetched, unless as many are.
    fn fetch(&mut self, object: &Arc<Object>, wishes: &Mutex<Vec<Wish>>) {
        let is_tried = self.failed.contains(&object.key) || self.fetches.iter().any(|(key, _)| *key == object.key);
        if !is_tried && self.fetches.len() < FETCHES_MAX {
            let (tell, told) = oneshot::channel();
            self.fetches.push((object.key.clone(), told));
            lock(wishes).push(Wish::Fetch(Arc::clone(object), Purpose::Move, tell));
        }
    }

    /// Whether nothing more will be done.
    fn is_over(&self) -> bool {
        self.shards.values().all(|shard| shard.left == 0 || shard.job.as_ref().is_some_and(|job| job.is_stopped()))
    }
}

/// Why objects of more than `most` bytes stay, of which this is one.
fn too_large_to_move(count: u64, key: &ObjectKey, most: u64) -> String {
    let help = "a store node that lends more (`--segment-size`) helps";
    format!(
        "{count} of them, such as {key}, have more than {}, the most that there is memory to bring them through: {help}",
        ByteSize(most)
    )
}

impl Engine {
    /// Has all of a tenant's brought to its vault that is in none yet, or that is in the one of the name `from`, and waits a while.
    pub(crate) async fn offload(&self, tenant: TenantId, from: Option<&str>, wait_ms: u64) -> Outcome<Offloaded> {
        let from = from.map(|name| self.left_behind(tenant, name)).transpose()?;
        if !has_vault(self.state(), tenant) {
            let none = "the tenant has no vault that objects can be brought to: add one";
            let unusable =
                self.directory().vault_of(tenant).map(|vault| format!("{none} (this release has no client for {})", vault.target));
            return Err(FaultCode::WrongState.with(unusable.unwrap_or_else(|| none.into())));
        }
        let until = Instant::now() + Duration::from_millis(wait_ms).min(WAIT_MAX);
        let mut look = Look {
            from,
            began: Instant::now(),
            found: Offloaded::default(),
            shards: BTreeMap::new(),
            fetches: Vec::new(),
            failed: HashSet::new(),
            failure: String::new(),
        };
        loop {
            let settled = self.reign.cold.settled.notified();
            let engine = self.clone();
            look = self.inner.walks.run(move || engine.look_and_offer(tenant, look)).await?;
            if look.is_over() || Instant::now() >= until || !self.leads() {
                return Ok(look.found);
            }
            tokio::select! {
                () = settled => {}
                () = sleep(LOOK) => {}
            }
        }
    }

    /// The vault of this name, where it is not the one where new objects go.
    fn left_behind(&self, tenant: TenantId, name: &str) -> Outcome<VaultId> {
        let known = self.directory();
        let found = known.vaults_of(tenant).and_then(|all| all.vaults.iter().find(|vault| vault.name == name));
        let found = found.ok_or_else(|| FaultCode::InvalidParams.with(format!("the tenant has no vault {name:.200?}")))?;
        if known.usable_vault_of(tenant).is_none_or(|newest| newest.id == found.id) {
            return Err(
                FaultCode::WrongState.with(format!("new objects go to vault {name:?}: add the one first that these are to be brought to"))
            );
        }
        Ok(found.id)
    }

    /// Counts what is where, and offers what is left. Walks the index.
    fn look_and_offer(&self, tenant: TenantId, mut look: Look) -> Look {
        let (cold, jobs) = (&self.reign.cold, &self.reign.shard_jobs);
        let mut found = Offloaded::default();
        look.shards.values_mut().for_each(|shard| shard.left = 0);
        let mut full = false;
        let failed = &mut look.failed;
        look.fetches.retain_mut(|(key, told)| match told.try_recv() {
            Err(oneshot::error::TryRecvError::Empty) => true,
            Ok(Err(fault)) => {
                look.failure = fault.message;
                failed.insert(key.clone());
                false
            }
            _ => false,
        });
        let (most, mut too_large) = (movable(self, tenant), None);
        let mut is_waiting = false;
        self.state().for_each(tenant, &mut |object| {
            found.saved += u64::from(object.cold.is_some());
            found.cold += u64::from(!object.readable());
            if look.is_left(object) {
                found.left += 1;
                found.left_bytes += object.size;
                let id = self.state().shard_of(object.key.as_ref());
                let shard = look.shards.entry(id).or_default();
                let is_away = !object.readable() || !self.state().is_at_hand(object);
                if is_away && most > 0 && object.size > most {
                    too_large.get_or_insert_with(|| (0u64, object.key.to_object_key())).0 += 1;
                    return ControlFlow::Continue(());
                }
                is_waiting = true;
                shard.left += 1;
                let is_stopped = shard.job.as_ref().is_some_and(|job| job.is_stopped());
                if is_away {
                    // It is offered once it is there.
                    if !is_stopped {
                        look.fetch(object, &cold.wishes);
                    }
                } else if !full {
                    match cold.offers.offer(object, id, jobs) {
                        Offer::Taken(job) => shard.job = Some(job),
                        Offer::Stopped => {}
                        Offer::Full => full = true,
                    }
                }
            }
            ControlFlow::Continue(())
        });
        // Of these objects; or, where none of them was tried yet, why none is.
        let trouble = || {
            let of_fetches = Some(&look.failure).filter(|why| !why.is_empty()).cloned();
            let of_vault = || vault_of(self.state(), tenant).and_then(|vault| health_of(self, vault.id));
            let held_up = || of_vault().filter(|found| !found.condition.is_up()).map(|found| found.last_error);
            of_fetches.or_else(|| cold.last_error_of(tenant, look.began)).or_else(held_up)
        };
        let stays = too_large.map(|(count, key)| too_large_to_move(count, &key, most));
        let trouble = if is_waiting || stays.is_none() { trouble() } else { None };
        found.last_error = trouble.into_iter().chain(stays).collect::<Vec<_>>().join("; ");
        for (id, shard) in &mut look.shards {
            match shard.job.as_ref() {
                Some(job) if shard.left > 0 && job.is_stopped() => {
                    found.last_error = format!("the job {} of tablet {} was stopped", job.id(), id.0);
                }
                Some(_) if shard.left == 0 => {
                    shard.job = None;
                    jobs.passed(*id, |passes| passes.offloads += 1);
                }
                _ => {}
            }
        }
        if look.fetches.is_empty() {
            look.failed.clear();
        }
        cold.ring();
        look.found = found;
        look
    }
}

//! Everything of a tenant that is in memory only is brought to its vault, when somebody asks for it.

use super::{Offer, WAIT_MAX, has_vault, health_of, is_dirty, vault_of};
use crate::engine::Engine;
use perilune_protocol::rpc::cold::Offloaded;
use perilune_protocol::{FaultCode, Outcome, TenantId};
use perilune_state::directory::ShardId;
use perilune_state::shards::ShardJob;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Between two looks at what is left, when nothing of it ends.
const LOOK: Duration = Duration::from_millis(100);

/// An offload of a tenant, by shard, as it was found at the last look.
struct Look {
    began: Instant,
    found: Offloaded,
    /// Those that had something to be brought, with the job that does it. It is kept, so that one that was stopped does not begin again.
    shards: BTreeMap<ShardId, Shard>,
}

#[derive(Default)]
struct Shard {
    job: Option<Arc<ShardJob>>,
    left: u64,
}

impl Look {
    /// Whether nothing more will be done.
    fn is_over(&self) -> bool {
        self.shards.values().all(|shard| shard.left == 0 || shard.job.as_ref().is_some_and(|job| job.is_stopped()))
    }
}

impl Engine {
    /// Has all of a tenant's brought to its vault that is not there yet, and waits a while.
    pub(crate) async fn offload(&self, tenant: TenantId, wait_ms: u64) -> Outcome<Offloaded> {
        if !has_vault(self.state(), tenant) {
            let none = "the tenant has no vault that objects can be brought to: add one";
            let unusable =
                self.directory().vault_of(tenant).map(|vault| format!("{none} (this release has no client for {})", vault.target));
            return Err(FaultCode::WrongState.with(unusable.unwrap_or_else(|| none.into())));
        }
        let until = Instant::now() + Duration::from_millis(wait_ms).min(WAIT_MAX);
        let mut look = Look { began: Instant::now(), found: Offloaded::default(), shards: BTreeMap::new() };
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

    /// Counts what is where, and offers what is in memory only. Walks the index.
    fn look_and_offer(&self, tenant: TenantId, mut look: Look) -> Look {
        let (cold, jobs) = (&self.reign.cold, &self.reign.shard_jobs);
        // Of these objects; or, where none of them was tried yet, why none is.
        let held_up =
            || vault_of(self.state(), tenant).and_then(|vault| health_of(self, vault.id)).filter(|found| !found.condition.is_up());
        let last_error = cold.last_error_of(tenant, look.began).or_else(|| held_up().map(|found| found.last_error));
        let mut found = Offloaded { last_error: last_error.unwrap_or_default(), ..Offloaded::default() };
        look.shards.values_mut().for_each(|shard| shard.left = 0);
        let mut full = false;
        self.state().for_each(tenant, &mut |object| {
            if is_dirty(object) {
                found.left += 1;
                found.left_bytes += object.size;
                let id = self.state().shard_of(object.key.as_ref());
                let shard = look.shards.entry(id).or_default();
                shard.left += 1;
                if !full {
                    match cold.offers.offer(object, id, jobs) {
                        Offer::Taken(job) => shard.job = Some(job),
                        Offer::Stopped => {}
                        Offer::Full => full = true,
                    }
                }
            }
            found.saved += u64::from(object.cold.is_some());
            found.cold += u64::from(!object.readable());
            ControlFlow::Continue(())
        });
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
        cold.ring();
        look.found = found;
        look
    }
}

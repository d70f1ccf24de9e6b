//! What every handler holds, and what the faces need of the engine.

use crate::engine::{Group, NotAborted, OpenPut, Unchanged};
use crate::observe::{Metrics, Observed};
use crate::secrets::Safe;
use crate::work::cold::Finding;
use crate::work::recycle::Recycled;
use perilune_probe::Probe;
use perilune_protocol::access::{Access, Token};
use perilune_protocol::principal::Principal;
use perilune_protocol::{FaultCode, ObjectKey, ObjectPlace, Outcome, SegmentDesc, SegmentId, TenantId, VaultId};
use perilune_state::directory::{Decision, Known, Lies, ShardId};
use perilune_state::effect::ObjectRecord;
use perilune_state::gc::GcOwner;
use perilune_state::segments::nodes::Seen;
use perilune_state::shards::{NoJob, Passes, ShardCount};
use perilune_state::txn::Txn;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// A future that a trait object can return.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// How a change of the directory is decided; asked again when the directory changed meanwhile.
pub type Decide<'a> = dyn Fn(&Known, u64) -> Decision + Send + Sync + 'a;

/// The engine as the faces see it.
pub trait Facade: Observed + 'static {
    /// Where objects are; grants a lease on each.
    fn locate(&self, tenant: TenantId, keys: &[ObjectKey]) -> Vec<Outcome<ObjectPlace>>;
    /// Where an object is, without a lease.
    fn peek(&self, tenant: TenantId, key: &ObjectKey) -> Outcome<ObjectPlace>;
    /// What is recorded of an object.
    fn object(&self, tenant: TenantId, key: &ObjectKey) -> Option<ObjectRecord>;
    /// Shows `visit` every key and the size of its value, in no particular order, until it breaks off.
    /// `visit` may block for seconds (it writes to somebody's socket): call it with no lock or guard held.
    fn for_each_key(&self, tenant: TenantId, visit: &mut dyn FnMut(&ObjectKey, u64) -> ControlFlow<()>);
    /// How to reach a segment of a tenant.
    fn describe(&self, tenant: TenantId, id: SegmentId) -> Option<Arc<SegmentDesc>>;
    /// The tenant of this name; empty means `default`.
    fn tenant(&self, name: &str) -> Outcome<TenantId>;
    /// Whether the tokens of the generation of this one are still good.
    ///
    /// # Errors
    /// [`FaultCode::Unauthorized`].
    fn is_current(&self, principal: &Principal) -> Outcome<()> {
        let _ = principal;
        Ok(())
    }
    /// Every store node that registered with this master, and what it is at.
    fn seen(&self) -> Vec<Seen>;
    /// What the recycler did for a tenant in this reign.
    fn recycled(&self, tenant: TenantId) -> Recycled;
    /// What there is of these shards of a tenant; of those that have nothing, nothing is said.
    fn count_shards(&self, tenant: TenantId, shards: BTreeSet<ShardId>) -> Boxed<'_, Outcome<BTreeMap<ShardId, ShardCount>>>;
    /// What was finished of a shard.
    fn shard_passes(&self, shard: ShardId) -> Passes;
    /// The jobs that are done on shards, and their numbers.
    fn shard_jobs(&self) -> Vec<(ShardId, u64)>;
    /// Tells the job on a shard to stop.
    fn stop_shard_job(&self, shard: ShardId, id: &str) -> Result<(), NoJob>;
    /// The puts of a tenant that are in progress.
    fn open_puts(&self, tenant: TenantId) -> Vec<OpenPut>;
    /// Ends what a transaction has in progress, in one database or any.
    fn abort(&self, tenant: TenantId, txn: Txn, db: Option<u64>, writer_gone: bool) -> Boxed<'_, Result<u64, NotAborted>>;
    /// The shards of a table, in a key space by its number, whose second copies are in step.
    fn in_step(&self, keyspace: u32, table: i64) -> Boxed<'_, Outcome<Vec<u64>>>;
    /// Whether there is a cold tier.
    fn has_vaults(&self) -> bool;
    /// Who collects garbage in it, if somebody has the lease.
    fn gc_owner(&self) -> Option<GcOwner>;
    /// This master gives that up; false where it has it no more.
    fn resign_gc(&self, member: u64) -> Boxed<'_, Outcome<bool>>;
    /// The time of day, in milliseconds.
    fn wall_ms(&self) -> u64;
    /// All tenants.
    fn directory(&self) -> Arc<Known>;
    /// Decides a change of the directory upon what is known and the time in milliseconds, and logs it.
    fn decide<'a>(&'a self, decide: &'a Decide<'a>) -> Boxed<'a, Result<(), Unchanged>>;
    /// What seals and opens the secrets of the directory.
    ///
    /// # Errors
    /// When there is no key for it.
    fn safe(&self) -> Outcome<Safe> {
        Err(FaultCode::NotSupported.with("there is no cold tier here"))
    }
    /// Has nothing more brought to these vaults as long as what is given is kept.
    fn close_vaults(&self, vaults: Vec<VaultId>) -> Box<dyn Send + Sync> {
        let _ = vaults;
        Box::new(())
    }
    /// Makes ready to be dropped a vault that is closed, and in which no object lies.
    ///
    /// # Errors
    /// Why it has to wait.
    fn clear_vault(&self, tenant: TenantId, vault: VaultId) -> Boxed<'_, Outcome<()>> {
        let _ = (tenant, vault);
        Box::pin(std::future::ready(Ok(())))
    }
    /// How this vault is, where it is known.
    fn vault_finding(&self, vault: VaultId) -> Option<Finding> {
        let _ = vault;
        None
    }
    /// Objects that left memory and that this vault had not taken.
    fn evicted_unsaved(&self, vault: VaultId) -> u64 {
        let _ = vault;
        0
    }
    /// What lies in these vaults.
    fn lies_in(&self, vaults: Vec<VaultId>) -> Boxed<'_, Outcome<HashMap<VaultId, Lies>>> {
        Box::pin(std::future::ready(Ok(vaults.into_iter().map(|vault| (vault, Lies::default())).collect())))
    }
    /// Has an object fetched that is in its vault only, and waits until it is in memory.
    fn recall<'a>(&'a self, tenant: TenantId, key: &'a ObjectKey) -> Boxed<'a, Outcome<()>> {
        let _ = tenant;
        Box::pin(std::future::ready(Err(FaultCode::NotSupported.with(format!("{key}: there is no cold tier here")))))
    }
    /// What was set for the whole group under this name, or is its default.
    fn setting(&self, key: &str) -> Option<String>;
    /// Removes every object whose key matches; the empty pattern matches all. Says how many went.
    fn remove_matching<'a>(&'a self, tenant: TenantId, pattern: &'a str, force: bool) -> Boxed<'a, Outcome<u64>>;
    /// `host:port` of the leader's RPC listener, where it is known.
    fn leader(&self) -> Option<String>;
    /// The term in which this master serves as the leader; 0: it does not.
    fn term(&self) -> u64 {
        1
    }
    /// Resolves once it is sure that what was looked up since [`Facade::term`] said `term` was true then, or says who can tell.
    fn vouch(&self, term: u64) -> Boxed<'_, Outcome<()>> {
        let _ = term;
        Box::pin(std::future::ready(Ok(())))
    }
    /// Where everything is counted.
    fn metrics(&self) -> &Metrics;
}

/// Long answers that may be under way at once; each has a thread of its own while it lasts.
const LISTINGS_MAX: usize = 64;
/// Streams of events that may be open at once; each has a page in memory.
const STREAMS_MAX: usize = 256;

/// What every handler holds. Cheap to clone.
#[derive(Clone)]
pub struct App {
    pub(super) engine: Arc<dyn Facade>,
    pub(super) access: Arc<Access>,
    /// The token of the meta service's page, which stands in the query; without one only the admin's opens it.
    pub(super) meta_token: Option<Token>,
    pub(super) listings: Arc<Semaphore>,
    pub(super) streams: Arc<Semaphore>,
    /// The masters this one is one of; none where an engine is served without any.
    pub(super) group: Option<Group>,
    /// The process that serves.
    pub(super) probe: Probe,
}

impl App {
    /// Puts the faces in front of an engine, for those who are let in.
    pub fn new(engine: Arc<dyn Facade>, access: Access) -> Self {
        let (access, listings) = (Arc::new(access), Arc::new(Semaphore::new(LISTINGS_MAX)));
        let streams = Arc::new(Semaphore::new(STREAMS_MAX));
        Self { engine, access, meta_token: None, listings, streams, group: None, probe: Probe::new() }
    }

    /// The same, with a meta service for those who know this token.
    pub fn with_meta_token(self, token: Option<Token>) -> Self {
        Self { meta_token: token, ..self }
    }

    /// The same, as one of a group.
    pub(crate) fn of(self, group: Group) -> Self {
        Self { group: Some(group), ..self }
    }

    /// The same, in a process that is watched.
    pub(crate) fn seen_by(self, probe: Probe) -> Self {
        Self { probe, ..self }
    }
}

//! What people have done to tenants while it runs: founded, limited, put to sleep, dropped; pools, tables and vaults with them; puts of others
//! ended.

use super::client::Client;
use super::faults;
use super::node::Node;
use super::rpc::call;
use super::vaults::{self, Mood};
use super::world::World;
use crate::engine::{Engine, NotAborted, Unchanged};
use perilune_protocol::rpc::cold::Offload;
use perilune_protocol::tenant::{self, Quota};
use perilune_protocol::vault::{Provider, S3Place, VaultTarget};
use perilune_protocol::{FaultCode, TenantId, Tso};
use perilune_state::directory::{Decision, Described, Keeper, Known, Meant, NewVault, Pair, PoolKind, PoolStatus, Refused};
use perilune_state::txn::Txn;
use std::rc::Rc;
use std::time::Duration;

/// How long somebody tries.
const PATIENCE_MS: u64 = 8000;
/// The id, and the name, of the pool that a tenant may have.
const POOL: &str = "pool";

/// A place for a tenant: one after the other has it.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    /// Whose it is; none between two.
    pub(super) name: Option<String>,
    /// How many had it.
    had: u64,
    /// Its nodes are registered in a pool.
    pub(super) pooled: bool,
    /// Somebody is at it.
    busy: bool,
}

/// Tenants begin, each with what it has.
pub(super) fn begin(world: &Rc<World>) {
    world.tenants.borrow_mut()[0].name = Some(tenant::DEFAULT.into());
    for place in 0..world.options.tenants as usize {
        at_work(world, place, |world, place| async move { found(&world, place).await });
    }
}

/// Has something done to one of the tenants, unless somebody is at it.
pub(super) fn acts(world: &Rc<World>, what: &'static str, lasts: u64) {
    // The first is never dropped.
    let first = if what == "drop" { 1.min(world.options.tenants - 1) } else { 0 };
    let place = world.range(first, world.options.tenants - 1) as usize;
    let nth = world.below(10);
    at_work(world, place, move |world, place| async move {
        let Some(name) = world.name_at(place) else { return };
        match (what, nth) {
            ("pool", 0..6) => sleeps(&world, place, name, lasts).await,
            ("pool", _) | ("tenant", 0..2) => overdue(&world, name, lasts).await,
            ("tenant", _) => limit(&world, name).await,
            ("drop", _) if place > 0 => drop_one(&world, place, name, lasts).await,
            ("table", _) => table(&world, name, nth).await,
            ("abort", _) => abort_one(&world).await,
            ("checkpoint", _) => drop(checkpoint(&world).await),
            ("offload", _) => drop(world.steward(place).order(&Offload { wait_ms: 1000 }).await),
            _ => {}
        }
    });
}

fn at_work<F: Future<Output = ()> + 'static>(world: &Rc<World>, place: usize, act: impl FnOnce(Rc<World>, usize) -> F + 'static) {
    if std::mem::replace(&mut world.tenants.borrow_mut()[place].busy, true) {
        return;
    }
    let world = Rc::clone(world);
    world.stewards.set(world.stewards.get() + 1);
    tokio::task::spawn_local(async move {
        act(Rc::clone(&world), place).await;
        world.tenants.borrow_mut()[place].busy = false;
        world.stewards.set(world.stewards.get() - 1);
    });
}

/// Over HTTP: a change of the directory, of whoever leads. None where nobody said what became of it.
pub(super) async fn decide(
    world: &Rc<World>,
    what: &str,
    decision: impl Fn(&Known, &dyn Keeper, u64) -> Decision + Send + Sync + Clone + 'static,
) -> Option<Result<(), Refused>> {
    let (client, until) = (world.steward(0), world.now() + PATIENCE_MS);
    while world.now() < until && !world.is_over() {
        let decision = decision.clone();
        let decided = call(world, client.caller, client.leader.get(), |engine| async move {
            // A request is sent on to the leader, and what is refused is known by one that surely leads.
            let safe = engine.safe().ok().filter(|_| engine.leads())?;
            let decided = engine.decide(&|known, now_ms| decision(known, &safe, now_ms)).await;
            engine.vouch().await.ok().map(|()| decided)
        });
        let outcome = match decided.await {
            Some(Ok(())) => Some(Ok(())),
            Some(Err(Unchanged::Refused(refused))) => Some(Err(refused)),
            Some(Err(Unchanged::Fault(fault))) if fault.code != FaultCode::NotLeader => None,
            _ => {
                client.leader.set(world.other_than(client.leader.get()));
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        world.note("directory", || format!("{what}: {outcome:?}"));
        return outcome;
    }
    None
}

/// The same until it is so.
pub(super) async fn insist(
    world: &Rc<World>,
    what: &str,
    decision: impl Fn(&Known, &dyn Keeper, u64) -> Decision + Send + Sync + Clone + 'static,
) -> bool {
    while !world.is_over() {
        match decide(world, what, decision.clone()).await {
            Some(Ok(()) | Err(Refused::Exists(_) | Refused::Already(_) | Refused::Vault(_) | Refused::Pool(_))) => return true,
            Some(Err(_)) => return false,
            None => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
    false
}

fn nodes_at(world: &World, place: usize) -> Vec<Rc<Node>> {
    world.nodes.borrow().iter().filter(|node| node.place == place).cloned().collect()
}

async fn found(world: &Rc<World>, place: usize) {
    let (had, is_default) = (world.tenants.borrow()[place].had, place == 0);
    let name = if is_default { tenant::DEFAULT.to_owned() } else { format!("t{place}x{had}") };
    let called = name.clone();
    if !is_default && !insist(world, "create", move |known, _, now| known.create(&called, "", "", now)).await {
        return;
    }
    if world.options.cold && (is_default || world.per_mille(800)) {
        let (called, vault) = (name.clone(), vault(&name));
        insist(world, "add vault", move |known, keeper, now| known.add_vault(&called, &vault, keeper, now)).await;
    }
    let pooled = !is_default && world.per_mille(600);
    if pooled {
        let (called, nodes) = (name.clone(), nodes_at(world, place).iter().map(|node| described(node, &name)).collect::<Vec<_>>());
        let added = move |known: &Known, _: &dyn Keeper, now| known.add_pool(meant(&called), PoolKind::Compute, &[], &nodes, now);
        insist(world, "add pool", added).await;
    }
    let old = {
        let mut tenants = world.tenants.borrow_mut();
        let it = &mut tenants[place];
        (it.name, it.pooled, it.had) = (Some(name), pooled, had + 1);
        had > 0
    };
    // Nodes are told by whoever starts them whose they are.
    for node in nodes_at(world, place).into_iter().filter(|node| old && node.is_up(world)) {
        node.stop(world, false);
        world.after(100, move |world| node.start(world));
    }
}

fn meant(tenant: &str) -> Meant<'_> {
    Meant { tenant, cluster_id: POOL, name: POOL }
}

fn described(node: &Node, tenant: &str) -> Described {
    let port = Some(9000 + node.caller as u16);
    Described { unique_id: node.unique_id(tenant), ip: "127.0.0.1".into(), host: String::new(), port, kind: None }
}

fn vault(tenant: &str) -> NewVault {
    let target = VaultTarget::S3(S3Place {
        bucket: "bucket".into(),
        prefix: tenant.into(),
        endpoint: "vaults".into(),
        external_endpoint: String::new(),
        region: String::new(),
        provider: Provider::S3,
    });
    NewVault { name: String::new(), target, pair: Some(Pair { user_id: String::new(), ak: "ak".into(), sk: "sk".into() }) }
}

async fn limit(world: &Rc<World>, name: String) {
    let draw = |low, high| world.per_mille(600).then(|| world.range(low, high));
    let quota = Quota { bytes: draw(1 << 20, 12 << 20), objects: draw(2, 30) };
    decide(world, "quota", move |known, _, now| known.set_quota(&name, quota, now)).await;
}

async fn overdue(world: &Rc<World>, name: String, lasts: u64) {
    let (tenant, called) = (world.oracle.borrow().owners.named(&name), name.clone());
    if let Some(Ok(())) = decide(world, "overdue", move |known, _, now| known.set_overdue(&called, true, now)).await {
        tenant.into_iter().for_each(|tenant| world.oracle.borrow_mut().owners.refuse(world.now(), tenant));
    }
    tokio::time::sleep(Duration::from_millis(lasts)).await;
    insist(world, "not overdue", move |known, _, now| known.set_overdue(&name, false, now)).await;
}

async fn sleeps(world: &Rc<World>, place: usize, name: String, lasts: u64) {
    if !world.tenants.borrow()[place].pooled {
        return;
    }
    let called = name.clone();
    let suspended = move |known: &Known, _: &dyn Keeper, now| known.set_pool_status(meant(&called), PoolStatus::Suspended, now);
    if let Some(Ok(())) = decide(world, "suspend", suspended).await {
        let tenant = world.oracle.borrow().owners.named(&name);
        tenant.into_iter().for_each(|tenant| world.oracle.borrow_mut().owners.sleep(world.now(), tenant));
    }
    tokio::time::sleep(Duration::from_millis(lasts)).await;
    wake(world, &name).await;
}

async fn wake(world: &Rc<World>, name: &str) {
    for (what, status) in [("wake", PoolStatus::ToResume), ("awake", PoolStatus::Normal)] {
        let name = name.to_owned();
        insist(world, what, move |known, _, now| known.set_pool_status(meant(&name), status, now)).await;
    }
}

async fn drop_one(world: &Rc<World>, place: usize, name: String, lasts: u64) {
    let pooled = world.tenants.borrow()[place].pooled;
    let called = name.clone();
    if pooled && !insist(world, "drop pool", move |known, _, now| known.drop_pool(meant(&called), 0, now)).await {
        return;
    }
    // Now and then much is on its way to its vault, and whoever knew of it goes too.
    let hasty = world.options.allows("vault") && world.options.allows("crash") && world.per_mille(500);
    if hasty {
        vaults::lock(&world.buckets).set(&name, Mood::Slow);
        world.steward(place).order(&Offload { wait_ms: 200 }).await;
    }
    let called = name.clone();
    if !insist(world, "drop", move |known, _, now| known.drop_tenant(&called, now)).await {
        return;
    }
    let tenant = world.oracle.borrow().owners.named(&name);
    tenant.into_iter().for_each(|tenant| world.oracle.borrow_mut().owners.refuse(world.now(), tenant));
    world.tenants.borrow_mut()[place].name = None;
    if hasty {
        faults::behead(world, world.range(200, 4000));
        vaults::lock(&world.buckets).set(&name, Mood::Well);
    }
    tokio::time::sleep(Duration::from_millis(world.below(3000))).await;
    insist(world, "recycle", move |known, _, now| known.recycle(&name, now)).await;
    if hasty {
        // Nodes end with their tenant, and what they are at with them.
        tokio::time::sleep(Duration::from_millis(world.below(10_000))).await;
    }
    tokio::time::sleep(Duration::from_millis(lasts)).await;
    found(world, place).await;
}

async fn table(world: &Rc<World>, name: String, nth: u64) {
    let table = format!("table{}", nth % 3);
    if nth < 6 {
        let prefix = format!("key{}", nth % 3 + 1);
        decide(world, "declare", move |known, _, now| known.declare(&name, "db", &table, prefix.as_bytes(), 4, now)).await;
    } else {
        decide(world, "undeclare", move |known, _, now| known.undeclare(&name, "db", &table, now)).await;
    }
}

async fn abort_one(world: &Rc<World>) {
    let newest = world.granted.borrow().back().copied();
    if let Some((tenant, version)) = newest {
        let aborted = abort(world, &world.steward(0), tenant, version, false).await;
        // Now and then whoever knew of it goes, while its writer is still at it.
        if aborted && world.options.allows("crash") && world.per_mille(500) {
            faults::behead(world, world.range(200, 4000));
        }
    }
}

/// Over HTTP: a put of somebody is ended. Whether that was said.
pub(super) async fn abort(world: &Rc<World>, client: &Client, tenant: TenantId, version: Tso, writer_gone: bool) -> bool {
    let aborted = call(world, client.caller, client.leader.get(), |engine| async move {
        let aborted: Result<u64, NotAborted> = engine.abort(tenant, Txn::Version(version), None, writer_gone).await;
        engine.vouch().await.ok()?;
        Some(aborted.is_ok())
    });
    let aborted = aborted.await == Some(true);
    if aborted {
        world.note("aborted", || format!("{} of tenant {}", version.0, tenant.0));
        let mut oracle = world.oracle.borrow_mut();
        oracle.counts.aborted += 1;
        oracle.owners.abort(version);
    }
    aborted
}

/// Over HTTP: a checkpoint of all that there is. Whether there is a vault for it, if anybody said so.
pub(super) async fn checkpoint(world: &Rc<World>) -> Option<bool> {
    let (client, until) = (world.steward(0), world.now() + PATIENCE_MS);
    while world.now() < until && !world.is_over() {
        let leads = |engine: Engine| async move { if engine.leads() { engine.set_upload_flag().await.ok() } else { None } };
        let asked = call(world, client.caller, client.leader.get(), leads).await;
        if asked.is_some() {
            world.note("checkpoint", || format!("{asked:?}"));
            return asked;
        }
        client.leader.set(world.other_than(client.leader.get()));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    None
}

/// In the end nobody is limited, and what was dropped is to go. Whether nobody is at anything any more.
pub(super) async fn heal(world: &Rc<World>) {
    while world.stewards.get() > 0 && !world.is_over() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for place in 0..world.options.tenants as usize {
        let Some(name) = world.name_at(place) else { continue };
        // What nobody heard of may have been done after all.
        let called = name.clone();
        insist(world, "not overdue", move |known, _, now| known.set_overdue(&called, false, now)).await;
        if world.tenants.borrow()[place].pooled {
            wake(world, &name).await;
        }
        insist(world, "no quota", move |known, _, now| known.set_quota(&name, Quota::default(), now)).await;
    }
}

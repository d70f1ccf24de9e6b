//! What people have done while it runs: jobs switched, segments taken back, masters added and removed.

use super::client::Client;
use super::master::{Master, member, start};
use super::world::World;
use perilune_protocol::SegmentId;
use perilune_protocol::rpc::job::{PaceJobs, SwitchJob};
use perilune_protocol::rpc::member::{ChangeMembers, MemberChange};
use perilune_protocol::rpc::segment::Unmount;
use perilune_state::settings::Switch;
use std::rc::Rc;
use std::time::Duration;

/// Most masters at a time.
const MASTERS_MAX: usize = 6;
/// So long a master that was removed goes on before somebody ends its process.
const REMAINS_MS: u64 = 5000;

fn operator(world: &Rc<World>) -> Rc<Client> {
    Client::new(world, world.options.clients + 1, 0)
}

/// Most jobs are switched on from the beginning.
pub(super) fn begin(world: &Rc<World>) {
    for job in Switch::ALL.into_iter().filter(|_| world.per_mille(800)) {
        let operator = operator(world);
        tokio::task::spawn_local(async move { operator.order(&SwitchJob { job: job.key().into(), on: true }).await });
    }
}

/// Asks for something, of whoever leads; `id` is a master.
pub(super) fn acts(world: &Rc<World>, what: &'static str, id: u64) {
    let (world, operator) = (Rc::clone(world), operator(world));
    tokio::task::spawn_local(async move {
        match what {
            "drain" => unmount(&world, &operator, world.range(500, 30_000)).await,
            "unmount" => unmount(&world, &operator, 0).await,
            "switch" => switch(&world, &operator).await,
            // One that began alone is not reached by others.
            _ if world.options.masters == 1 => {}
            "join" => join(&world, &operator).await,
            "remove" => remove(&world, &operator, id).await,
            _ => drop(operator.order(&ChangeMembers { change: MemberChange::Transfer { to: id } }).await),
        }
    });
}

async fn unmount(world: &World, operator: &Client, grace_ms: u64) {
    let segments: Vec<SegmentId> = world.oracle.borrow().mounted.iter().copied().collect();
    if segments.is_empty() {
        return;
    }
    let segment = segments[world.below(segments.len() as u64) as usize];
    if grace_ms == 0 {
        world.oracle.borrow_mut().dismiss(segment);
    }
    operator.order(&Unmount { segments: vec![segment], grace_ms }).await;
}

async fn switch(world: &World, operator: &Client) {
    let (which, on) = (world.below(8) as usize, world.per_mille(700));
    match Switch::ALL.get(which) {
        Some(job) => operator.order(&SwitchJob { job: job.key().into(), on }).await,
        None => operator.order(&PaceJobs { bytes_per_second: 1 << world.range(17, 28) }).await,
    };
}

async fn join(world: &Rc<World>, operator: &Client) {
    if world.members().len() >= MASTERS_MAX {
        return;
    }
    // Nobody else had it, also not one whose joining came to nothing.
    let id = 1000 + world.next();
    let address = member(id).address;
    let change = MemberChange::Add { id, address, http: String::new(), rises: true };
    if let Some(((), engine)) = operator.ordered(&ChangeMembers { change }).await {
        world.note("joins", || format!("master {id}"));
        world.oracle.borrow_mut().counts.joined += 1;
        let members = engine.inner.log.members();
        let master = Master::new(world, id, Some((*members).clone()));
        world.masters.borrow_mut().insert(id, master);
        start(world, id);
    }
}

async fn remove(world: &Rc<World>, operator: &Client, id: u64) {
    if world.members().len() < 3 {
        return;
    }
    // One that leads is not removed: then another is asked to lead, and it is tried again.
    for _ in 0..3 {
        let asked = operator.order(&ChangeMembers { change: MemberChange::Remove { id, force: false } }).await;
        // The answer may have been lost, and the next is that there is no such member.
        if asked.is_some() || world.masters.borrow().values().any(|master| master.knows_removed(id)) {
            world.note("is removed", || format!("master {id}"));
            world.oracle.borrow_mut().expelled(id, world.now());
            world.oracle.borrow_mut().counts.removed += 1;
            world.after(REMAINS_MS, move |world| {
                let gone = world.masters.borrow_mut().remove(&id);
                gone.into_iter().for_each(|mut master| master.end(world, false));
            });
            return;
        }
        operator.order(&ChangeMembers { change: MemberChange::Transfer { to: world.other_than(id) } }).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

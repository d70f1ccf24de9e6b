//! The control plane in one thread, from one seed: masters, store nodes, clients, network, disks and clocks. State, engine, log and RPC are the
//! very code of the product; only its edges are others. `docs/simulation.md` says what is checked, and how to repeat a run.
//!
//! | file | what |
//! |---|---|
//! | `world`, `ways` | time, what is to happen when, what passes between members, the record |
//! | `master`, `workers`, `rpc` | a master on its edges, what is done in it, questions to it |
//! | `node`, `orders`, `worker`, `cold`, `client`, `memory`, `vaults` | who asks and carries out orders, and whose bytes lie where |
//! | `disk`, `clock`, `draw` | the edges |
//! | `faults`, `operator`, `steward`, `feeds` | what goes wrong, and what people have done meanwhile |
//! | `watch`, `needs` | who reads what happened, and who needs it |
//! | `oracle`, `tenancy`, `owners`, `copies`, `chilled`, `checkpoints`, `told`, `delivered`, `end` | what must never happen, and what must be in the end |

mod checkpoints;
mod chilled;
mod client;
mod clock;
mod cold;
mod copies;
mod counts;
mod delivered;
mod disk;
mod draw;
mod end;
mod faults;
mod feeds;
mod key;
mod master;
mod memory;
mod needs;
mod node;
mod operator;
mod oracle;
mod orders;
mod owners;
mod rpc;
mod steward;
mod tenancy;
mod told;
mod vaults;
mod watch;
mod ways;
mod worker;
mod workers;
mod world;

pub use faults::FAULTS;

use crate::log::Durability;
use client::Client;
use draw::Draw;
use master::Master;
use node::{NODES, Node};
use std::cell::RefCell;
use std::panic;
use std::rc::Rc;
use std::sync::Once;
use std::time::Duration;
use tokio::task::JoinHandle;
use world::World;

/// Simulated time in which all is put right after the last fault. Whatever waits in it has a shorter limit of its own, but for what waits
/// for a leader.
const HEALING: Duration = Duration::from_secs(1800);

/// What a run is made of; most of it drawn from the seed.
#[derive(Clone, Debug)]
pub struct Options {
    /// Everything follows from it.
    pub seed: u64,
    /// Says what happens.
    pub trace: bool,
    /// Names of faults that do not happen.
    pub without: Vec<String>,
    /// Milliseconds until everything is put right and looked at.
    pub length_ms: u64,
    masters: u64,
    nodes: u64,
    clients: u64,
    keys: u64,
    durability: Durability,
    snapshot_entries: u64,
    event_log_bytes: u64,
    /// The same while somebody needs it.
    event_log_most: u64,
    tenants: u64,
    /// Tenants have vaults.
    cold: bool,
    /// There are changefeeds.
    feeds: bool,
}

impl Options {
    /// What this seed stands for.
    pub fn of(seed: u64) -> Self {
        let mut draw = Draw::new(seed ^ 0x5eed);
        let durability = draw.pick(&[Durability::QuorumFsync, Durability::QuorumFsync, Durability::Quorum, Durability::Leader]);
        let tenants = draw.pick(&[1, 1, 2, 2, 3]);
        Self {
            seed,
            trace: false,
            without: Vec::new(),
            length_ms: draw.range(20_000, 60_000),
            masters: draw.pick(&[1, 3, 3, 3, 3, 3, 5]),
            nodes: draw.range(1, 4) + tenants - 1,
            clients: draw.range(2, 4) + tenants - 1,
            keys: draw.range(3, 40),
            durability,
            snapshot_entries: draw.range(3, 150),
            event_log_bytes: draw.pick(&[0, 4 << 10, 64 << 10, 1 << 30]),
            tenants,
            cold: draw.per_mille(600),
            feeds: draw.per_mille(600),
            event_log_most: draw.pick(&[0, needs::ALL]),
        }
    }

    fn allows(&self, fault: &str) -> bool {
        !self.without.iter().any(|name| name == fault)
    }

    fn callers(&self) -> impl Iterator<Item = u64> + use<> {
        let nodes = (0..self.nodes).flat_map(|n| [NODES + n, NODES + n + worker::WORK, NODES + n + cold::COLD]);
        nodes.chain((0..self.clients).map(|n| NODES * 2 + n))
    }
}

/// What became of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// The rule that was broken, and what was seen.
    pub broken: Option<(&'static str, String)>,
    /// Of all that happened: the same seed gives the same.
    pub hash: u64,
    /// Milliseconds that passed in it.
    pub simulated_ms: u64,
    /// What happened, in short.
    pub summary: String,
}

thread_local! {
    static PANICKED: RefCell<Option<String>> = const { RefCell::new(None) };
}

fn panicked() -> Option<String> {
    PANICKED.take()
}

/// A panic anywhere is a broken rule, also where the log survives it.
fn hear_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICKED.with_borrow_mut(|panicked| {
                panicked.get_or_insert_with(|| info.to_string());
            });
            before(info);
        }));
    });
}

/// Runs one seed, in this thread.
///
/// # Errors
/// When this machine does not give what a run needs: a directory for file names, a listener.
pub fn run(options: Options) -> Result<Report, String> {
    hear_panics();
    drop(panicked());
    let root = std::env::temp_dir().join(format!("perilune-simulate-{}-{}", std::process::id(), options.seed));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().map_err(|e| e.to_string())?;
    let report = tokio::task::LocalSet::new().block_on(&runtime, async {
        let world = World::new(options, root.clone())?;
        let director = tokio::task::spawn_local(direct(Rc::clone(&world)));
        world.run().await;
        director.abort();
        let broken = world.failed.borrow().clone();
        let panicked = panicked().map(|what| ("defect", what));
        for master in world.masters.borrow_mut().values_mut() {
            master.disk.kill();
            master.up = None;
        }
        let counts = world.oracle.borrow().counts;
        Ok(Report {
            broken: broken.or(panicked),
            hash: world.hash.get(),
            simulated_ms: world.now(),
            summary: format!("{} events, {counts:?}", world.events.get()),
        })
    });
    // Names only; what cannot be removed is in nobody's way.
    let _ = std::fs::remove_dir_all(&root);
    report
}

/// The whole story of a run: it begins, things go wrong, all is put right, and then all must be there.
async fn direct(world: Rc<World>) {
    for id in 1..=world.options.masters {
        let master = Master::new(&world, id, None);
        world.masters.borrow_mut().insert(id, master);
        master::start(&world, id);
    }
    let nodes: Vec<Rc<Node>> = (0..world.options.nodes).map(|n| Node::new(&world, n)).collect();
    world.nodes.borrow_mut().extend(nodes.iter().cloned());
    steward::begin(&world);
    nodes.iter().for_each(|node| node.start(&world));
    let begin = |n| tokio::task::spawn_local(Client::new(&world, n, (n % world.options.tenants) as usize).live());
    let clients: Vec<_> = (0..world.options.clients).map(begin).collect();
    operator::begin(&world);
    feeds::begin(&world);
    needs::begin(&world);
    (0..3).for_each(|_| drop(tokio::task::spawn_local(watch::live(Rc::clone(&world)))));
    faults::run(&world, &nodes).await;
    world.closing.set(true);
    faults::heal(&world, &nodes);
    // A disk that lied may have cost the group its majority, and then nothing is ever put right.
    let outcome = match tokio::time::timeout(HEALING, put_right(&world, clients)).await {
        Err(_) if !world.oracle.borrow().lenient => Err(("it heals", format!("not all is put right after {} s", HEALING.as_secs()))),
        Err(_) => Ok(()),
        Ok(outcome) => outcome,
    };
    world.check(outcome);
    world.done.set(true);
    world.nudge();
}

/// What was begun ends, what people limited is open again, and all that must be there is looked for.
async fn put_right(world: &Rc<World>, clients: Vec<JoinHandle<()>>) -> oracle::Check {
    for client in clients {
        let _ = client.await;
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    steward::heal(world).await;
    let delivered = feeds::heal(world).await;
    world.check(delivered);
    end::look(world).await
}

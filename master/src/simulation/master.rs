//! One master: the log without its threads, the brain, the throne and the engine, on a disk and clocks of its own.

use super::clock::MemberTime;
use super::disk::SimDisk;
use super::needs;
use super::rpc::Connection;
use super::vaults;
use super::ways;
use super::workers;
use super::world::World;
use crate::config::MasterConfig;
use crate::engine::{Brain, Clock, Inner, Throne, Time};
use crate::log::loose::Loose;
use crate::log::{Disk, Keeps, Log, LogConfig, LogError, Machine, Member, Members, Role, SnapshotWriter, Standing};
use crate::secrets::SecretKeys;
use perilune_protocol::Tso;
use perilune_state::Applied;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::Poll;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use uuid::Uuid;

pub(super) const CLUSTER: Uuid = Uuid::from_u128(7);

/// What a member's machine was told.
enum Told {
    Applied(u64, Option<Tso>, Vec<u8>),
    Leads(u64),
    Cut(Tso, Option<Tso>),
}

type Tap = Arc<Mutex<Vec<Told>>>;

/// The brain, overheard.
pub(super) struct Tapped {
    brain: Brain,
    tap: Tap,
    /// Of the entry that is being applied.
    stamp: Option<Tso>,
}

impl Tapped {
    fn hear(&self, told: Told) {
        self.tap.lock().unwrap_or_else(PoisonError::into_inner).push(told);
    }
}

impl Machine for Tapped {
    type Output = Applied;

    fn apply(&mut self, index: u64, effect: &[u8]) -> Applied {
        self.hear(Told::Applied(index, self.stamp, effect.to_vec()));
        self.brain.apply(index, effect)
    }

    fn stamp(&mut self) -> Option<Tso> {
        self.brain.stamp()
    }

    fn begins(&mut self, stamp: Option<Tso>) {
        self.stamp = stamp;
        self.brain.begins(stamp);
    }

    fn forget(&mut self, before: Tso) {
        self.hear(Told::Cut(before, needs::known(&self.brain.seat())));
        self.brain.forget(before);
    }

    fn needed(&self) -> Option<Tso> {
        self.brain.needed()
    }

    fn leads(&mut self, term: Option<u64>) {
        term.into_iter().for_each(|term| self.hear(Told::Leads(term)));
        self.brain.leads(term);
    }

    fn snapshot(&self) -> SnapshotWriter {
        self.brain.snapshot()
    }

    fn restore(&mut self, from: &mut dyn io::Read) -> io::Result<()> {
        self.brain.restore(from)
    }
}

/// A process.
pub(super) struct Up {
    pub(super) loose: Loose<Tapped>,
    log: Log<Brain>,
    pub(super) throne: Arc<Throne>,
    tap: Tap,
    pub(super) time: Arc<MemberTime>,
    pub(super) connections: BTreeMap<u64, Connection>,
    pub(super) tasks: Vec<AbortHandle>,
    standing: Standing,
    members: Arc<Members>,
    term: u64,
    /// Entry and place in it of the last effect that was applied.
    place: (u64, u64),
    turn_due: bool,
    job_due: bool,
    sync_due: bool,
    doomed: bool,
}

pub(super) struct Master {
    pub(super) id: u64,
    /// Counts processes.
    pub(super) life: u64,
    pub(super) disk: SimDisk,
    pub(super) up: Option<Up>,
    pub(super) paused_until: u64,
    busy_until: u64,
    fast_ppm: i64,
    ahead_ms: i64,
    /// The group as it was when this one was added, unless it began with it.
    joined: Option<Members>,
}

impl Up {
    /// A worker, which ends with the process.
    pub(super) fn hire(&mut self, work: impl Future<Output = ()> + 'static) {
        self.tasks.push(tokio::task::spawn_local(work).abort_handle());
    }
}

impl Master {
    pub(super) fn new(world: &World, id: u64, joined: Option<Members>) -> Self {
        let (seed, fast_ppm) = (world.number(), world.range(0, 60_000) as i64 - 30_000);
        Self { id, life: 0, disk: SimDisk::new(seed), up: None, paused_until: 0, busy_until: 0, fast_ppm, ahead_ms: 0, joined }
    }

    /// Whether it has heard that another is no member any more.
    pub(super) fn knows_removed(&self, id: u64) -> bool {
        self.up.as_ref().is_some_and(|up| up.log.members().was_used(id))
    }

    /// Until when nothing happens in it.
    pub(super) fn blocked(&self, now: u64) -> Option<u64> {
        Some(self.paused_until.max(self.busy_until)).filter(|until| *until > now)
    }

    /// Where clients' requests are noticed: the log's inbox.
    pub(super) fn hear_requests(world: &Rc<World>) {
        for (id, master) in world.masters.borrow_mut().iter_mut() {
            let (id, life) = (*id, master.life);
            if let Some(up) = master.up.as_mut().filter(|up| !up.turn_due && up.loose.is_asked()) {
                up.turn_due = true;
                let takes = world.below(2);
                world.after(takes, move |world| {
                    act(world, id, life, |up, now| {
                        up.turn_due = false;
                        up.loose.turn(now, false);
                    });
                });
            }
        }
    }

    /// Its process ends. The power may go with it.
    pub(super) fn end(&mut self, world: &World, power: bool) {
        let Some(up) = self.up.take() else { return };
        world.note(if power { "power lost" } else { "killed" }, || format!("master {}", self.id));
        up.tasks.iter().for_each(AbortHandle::abort);
        if power {
            self.disk.lose_power(&mut world.draw.borrow_mut())
        } else {
            self.disk.kill()
        }
        (self.paused_until, self.busy_until) = (0, 0);
    }

    /// It gives the lead away, if it has it. Nobody waits.
    pub(super) fn hand_over(&self) {
        if let Some(up) = &self.up {
            drop(up.log.hand_over());
        }
    }

    /// By how many milliseconds it is ahead then.
    pub(super) fn jump(&mut self, by_ms: i64) -> u64 {
        self.ahead_ms += by_ms;
        self.up.iter().for_each(|up| up.time.ahead_ms.store(self.ahead_ms, Ordering::Relaxed));
        self.ahead_ms.max(0) as u64
    }
}

/// Every group needs a listener; nobody calls this one.
fn listener() -> io::Result<Arc<TcpListener>> {
    static ONE: OnceLock<Arc<TcpListener>> = OnceLock::new();
    if let Some(one) = ONE.get() {
        return Ok(Arc::clone(one));
    }
    let one = Arc::new(TcpListener::bind(("127.0.0.1", 0))?);
    Ok(Arc::clone(ONE.get_or_init(|| one)))
}

pub(super) fn member(id: u64) -> Member {
    Member { id, address: format!("master{id}:1"), service: format!("master{id}:2"), ..Member::default() }
}

pub(super) fn config_of(world: &World, id: u64, dir: PathBuf) -> MasterConfig {
    let ms = Duration::from_millis;
    MasterConfig {
        data_dir: dir,
        durability: world.options.durability,
        snapshot_entries: world.options.snapshot_entries,
        event_log: Keeps { whoever: world.options.event_log_bytes, most: world.options.event_log_most },
        lease: ms(2000),
        put_discard: ms(4000),
        put_release: ms(10_000),
        upload_limit: ms(20_000),
        heartbeat: ms(500),
        suspect_after: ms(1000),
        lost_after: ms(3000),
        feed_backoff: ms(300),
        member: id,
        ..MasterConfig::default()
    }
}

fn open(world: &World, master: &Master) -> Result<Up, LogError> {
    let Master { id, disk, fast_ppm, ahead_ms, joined, .. } = master;
    let (id, fast_ppm, ahead_ms) = (*id, *fast_ppm, *ahead_ms);
    let dir = world.root.join(format!("master{id}"));
    let config = config_of(world, id, dir.clone());
    let begun = || Members::begin((1..=world.options.masters).map(member).collect()).map_err(LogError::Config);
    let members = joined.clone().map_or_else(begun, Ok)?;
    let listen = (world.options.masters > 1).then(listener).transpose();
    let listen = listen.map_err(|cause| LogError::Io { path: dir.clone(), what: "no listener", cause })?;
    let log_config = LogConfig {
        dir,
        member: id,
        members,
        joined: joined.is_some(),
        cluster: Some(CLUSTER),
        listen,
        durability: config.durability,
        snapshot_entries: config.snapshot_entries,
        keeps: config.event_log,
        seed: world.number(),
        ..LogConfig::default()
    };
    let time = Arc::new(MemberTime { began: Instant::now(), run_began: world.began, fast_ppm, ahead_ms: AtomicI64::new(ahead_ms) });
    let clock = Clock::by(Arc::clone(&time) as Arc<dyn Time>);
    let brain = Brain::new(config.rules(), clock.clone());
    let (seat, tap) = (brain.seat(), Tap::default());
    let elapsed = Arc::clone(&time);
    let machine = Tapped { brain, tap: Arc::clone(&tap), stamp: None };
    let (loose, log): (_, Log<Brain>) = Loose::open(
        log_config,
        Arc::new(disk.clone()) as Arc<dyn Disk>,
        machine,
        Arc::clone(&world.scratch),
        Box::new(move || elapsed.elapsed()),
    )?;
    let buckets = Arc::clone(&world.buckets);
    let secrets = SecretKeys::within([7; 32], Arc::new(move |bucket| vaults::open(&buckets, bucket)));
    let inner = Arc::new(Inner::new(seat, log.clone(), clock, config, member(id), secrets));
    let throne = Arc::new(Throne::new(inner, Handle::current(), |_, _, _| Ok(())));
    Ok(Up {
        loose,
        log,
        throne,
        tap,
        time,
        connections: BTreeMap::new(),
        tasks: Vec::new(),
        standing: Standing::default(),
        members: Arc::default(),
        term: 0,
        place: (0, 0),
        turn_due: false,
        job_due: false,
        sync_due: false,
        doomed: false,
    })
}

/// Begins a process, in its directory as it was left.
pub(super) fn start(world: &Rc<World>, id: u64) {
    let opened = {
        let mut masters = world.masters.borrow_mut();
        let Some(master) = masters.get_mut(&id).filter(|m| m.up.is_none()) else { return };
        master.life += 1;
        let opened = open(world, master);
        opened.map(|up| {
            master.up = Some(up);
            master.life
        })
    };
    match opened {
        Ok(life) => {
            world.note("started", || format!("master {id}"));
            tick(world, id, life);
            let again = Rc::clone(world);
            act(world, id, life, move |up, _| workers::keep(&again, id, up));
        }
        Err(e) if world.masters.borrow().get(&id).is_some_and(|m| m.disk.is_ill()) => {
            world.note("not started", || format!("master {id}: {e}"));
            if let Some(master) = world.masters.borrow_mut().get_mut(&id) {
                master.disk.kill();
                master.disk.moods(|moods| moods.failed = false);
            }
            world.after(1000, move |world| start(world, id));
        }
        Err(e) if world.oracle.borrow().lenient => world.note("not started", || format!("master {id}: {e}")),
        Err(e) => world.check(Err(("what a crash leaves can be opened", format!("master {id}: {e}")))),
    }
}

/// Ticks that a process sleeps through are not made up for, and letters come before the next. One that leads alone has none, and only looks at
/// its disk.
fn tick(world: &Rc<World>, id: u64, life: u64) {
    let now = world.now();
    let masters = world.masters.borrow();
    let master = masters.get(&id);
    let every = if master.and_then(|m| m.up.as_ref()).is_some_and(|up| up.loose.may_sleep()) { 100 } else { 10 };
    let blocked = master.and_then(|m| m.blocked(now));
    drop(masters);
    world.after(blocked.map_or(every, |until| until + 1 - now), move |world| {
        let now = world.now();
        let awake = world.masters.borrow().get(&id).is_some_and(|m| m.life == life && m.blocked(now).is_none());
        let due = |up: &mut Up, now| up.loose.turn(now, !up.loose.may_sleep());
        let there = if awake { act(world, id, life, due) } else { act(world, id, life, |_, _| ()) };
        if there {
            tick(world, id, life);
        }
    });
}

/// Something happens in a process, unless that has ended: then false. Afterwards all that follows from it is seen to.
pub(super) fn act(world: &Rc<World>, id: u64, life: u64, what: impl FnOnce(&mut Up, Duration) + 'static) -> bool {
    let now = world.now();
    let mut masters = world.masters.borrow_mut();
    let Some(master) = masters.get_mut(&id).filter(|m| m.life == life && m.up.is_some()) else { return false };
    if let Some(until) = master.blocked(now) {
        world.after(until - now, move |world| {
            act(world, id, life, what);
        });
        return true;
    }
    let Some(up) = &mut master.up else { return false };
    what(up, up.time.elapsed());
    master.busy_until = now + master.disk.stalled();
    let (letters, parcels) = (up.loose.letters(), up.loose.parcels());
    follow_up(world, id, life, up);
    hear(world, id, up);
    drop(masters);
    letters.into_iter().for_each(|(to, bytes)| ways::carry(world, id, to, bytes));
    parcels.into_iter().for_each(|parcel| ways::stretch(world, id, life, parcel));
    let holders: Vec<u64> =
        world.masters.borrow().values().filter(|m| m.up.as_ref().is_some_and(|up| up.log.holds_lease())).map(|m| m.id).collect();
    let vouch = world.oracle.borrow().vouch(&holders);
    world.check(vouch);
    true
}

/// Background work, the throne, and the end of a log that takes nothing more.
fn follow_up(world: &Rc<World>, id: u64, life: u64, up: &mut Up) {
    if up.loose.has_job() && !up.job_due {
        up.job_due = true;
        world.after(world.range(1, 40), move |world| {
            act(world, id, life, |up, now| {
                up.job_due = false;
                up.loose.run_job();
                up.loose.turn(now, false);
            });
        });
    }
    if up.loose.is_dirty() && !up.sync_due {
        up.sync_due = true;
        world.after(100, move |world| {
            act(world, id, life, |up, _| {
                up.sync_due = false;
                up.loose.sync();
            });
        });
    }
    let standing = up.log.watch().borrow().clone();
    if up.loose.poison().is_none() && standing.role == Role::Leader && up.log.holds_lease() {
        let stays = world.oracle.borrow().stays(id, world.now());
        world.check(stays);
    }
    if standing != up.standing {
        up.standing = standing;
        world.after(world.range(0, 5), move |world| reign(world, id, life));
    }
    let members = up.log.members();
    if members.index != up.members.index {
        world.note("members", || format!("for master {id}: {:?}", members.iter().map(|(m, seat)| (m.id, seat)).collect::<Vec<_>>()));
        up.members = members;
    }
    if let Some(why) = up.loose.poison().filter(|_| !up.doomed) {
        up.doomed = true;
        world.note("log failed", || format!("master {id}: {why}"));
        if why.contains("a defect") {
            return world.check(Err(("defect", format!("master {id}: {why}"))));
        }
        // Somebody sees to it and starts it anew.
        world.after(world.range(500, 3000), move |world| {
            if let Some(master) = world.masters.borrow_mut().get_mut(&id).filter(|m| m.life == life) {
                master.end(world, false);
            }
            start(world, id);
        });
    }
}

/// What the machine was told goes to the oracle.
fn hear(world: &Rc<World>, id: u64, up: &mut Up) {
    let heard = std::mem::take(&mut *up.tap.lock().unwrap_or_else(PoisonError::into_inner));
    for told in heard {
        let outcome = match told {
            Told::Applied(index, stamp, bytes) => {
                up.place = if up.place.0 == index { (index, up.place.1 + 1) } else { (index, 0) };
                world.mix(index);
                let memory = world.memory.borrow();
                let applied = world.oracle.borrow_mut().applied(world.now(), id, up.place, stamp, &bytes, &memory);
                if let Some(what) = world.oracle.borrow_mut().newest.take() {
                    world.note("applied", || what);
                }
                applied
            }
            Told::Leads(term) => {
                world.note("leads", || format!("master {id} in term {term}"));
                world.oracle.borrow_mut().leads(id, term)
            }
            Told::Cut(before, needed) => needs::cut(world, id, up, before, needed),
        };
        world.check(outcome);
    }
}

/// The throne looks at who leads; a reign that begins gets its workers.
fn reign(world: &Rc<World>, id: u64, life: u64) {
    let again = Rc::clone(world);
    act(world, id, life, move |up, _| {
        if let Err(e) = up.throne.follow() {
            again.check(Err(("defect", format!("master {id} cannot reign: {e}"))));
        }
        let (engine, present) = up.throne.served();
        let term = engine.reign.term;
        if term == up.term {
            return;
        }
        up.term = term;
        up.connections.retain(|_, connection| connection.is_open());
        if term == 0 {
            return;
        }
        again.note("reigns", || format!("master {id} in term {term}"));
        workers::hire(&again, id, up, &engine, &present);
    });
}

/// After a time, and once the member is not stopped.
pub(super) async fn awake(world: &Rc<World>, id: u64, ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
    loop {
        let until = world.masters.borrow().get(&id).map_or(0, |m| m.paused_until);
        let now = world.now();
        if until <= now {
            return;
        }
        tokio::time::sleep(Duration::from_millis(until - now)).await;
    }
}

/// The same future; whoever it asks for something is heard. When several are woken at once, they go on in the order they began: a watch channel
/// wakes whom it wakes in an order of its own.
pub(super) async fn polled<T>(world: &Rc<World>, future: impl Future<Output = T>) -> T {
    let (id, granted) = (world.next(), Rc::new(Cell::new(true)));
    let mut future = pin!(future);
    std::future::poll_fn(|context| {
        if !granted.replace(false) {
            world.wait_turn(id, &granted, context.waker());
            return Poll::Pending;
        }
        let polled: Poll<T> = Pin::as_mut(&mut future).poll(context);
        world.nudge();
        polled
    })
    .await
}

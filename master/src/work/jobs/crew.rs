//! Has the steps of all jobs done: as many at a time as nodes bear, as many bytes a second as is set.

use super::flight::{Flight, Next};
use super::pace::Pace;
use super::record::{EVERY_MS, Record};
use super::step::{End, Step, World};
use super::sweep::END;
use super::{Job, balance, blob_delete, disk_drop, disk_repair, shard_repair, vol_inspect};
use crate::engine::Engine;
use crate::log::Proposal;
use crate::work::board::Ended;
use perilune_protocol::rpc::job::JobState;
use perilune_protocol::rpc::work::WorkOutcome;
use perilune_protocol::{FaultCode, NodeId, SegmentId};
use perilune_state::objects::Key;
use perilune_state::segments::Reach;
use perilune_state::settings::Switch;
use perilune_state::{Applied, Effect};
use std::collections::{HashMap, HashSet};
use std::time::Duration;
use tokio::runtime::Handle;

/// How often is looked whether there is something to do, when nobody rings.
const EVERY: Duration = Duration::from_millis(100);
/// Steps of one job under way at a time: a node that is silent holds up no other job.
const UNDER_WAY_MAX: usize = 64;
/// Steps that only the log has to do with, begun at a time.
const LOGGED_MAX: usize = 512;
/// Steps of one job that may fail at once, as where no segment has room, before others get their turn.
const FAILED_MAX: u64 = 256;
/// Between two complaints of one job in the log, in milliseconds.
const COMPLAIN_MS: u64 = 1000;

/// A job and what is known of it.
struct Post {
    job: Box<dyn Job>,
    record: Record,
    /// As it was written last, and when.
    written: (Record, u64),
    on: bool,
    working: bool,
    /// Its orders that nodes have, or are to have.
    under_way: usize,
    last_error: String,
    complained: u64,
}

/// What has the steps done, turn by turn.
pub(crate) struct Crew {
    engine: Engine,
    posts: Vec<Post>,
    flights: HashMap<u64, Flight>,
    /// Objects that something is being done to.
    busy: HashSet<Key>,
    outgoing: HashMap<SegmentId, u64>,
    pace: Pace,
    /// What was proposed in this turn.
    proposed: Vec<(Flight, Box<Effect>, Proposal<Applied>)>,
}

/// The worker's thread. `handle` runs its turns.
pub(crate) fn run(engine: &Engine, handle: &Handle) {
    let mut crew = Crew::begin(engine);
    while engine.reign.jobs.bell.wait(EVERY) {
        handle.block_on(crew.turn());
    }
}

impl Crew {
    /// Goes on where the last leader's was.
    pub(crate) fn begin(engine: &Engine) -> Self {
        let load = |job| Record::load(&engine.state().settings, job);
        // In the order in which they may work: what could be lost soonest comes first.
        let jobs: [Box<dyn Job>; 6] = [
            Box::<disk_drop::DiskDrop>::default(),
            Box::<disk_repair::DiskRepair>::default(),
            Box::new(shard_repair::ShardRepair::new(load(Switch::ShardRepair).at)),
            Box::new(blob_delete::BlobDelete::new()),
            Box::<balance::Balance>::default(),
            Box::new(vol_inspect::VolInspect::new(load(Switch::VolInspect).at)),
        ];
        let posts = jobs.into_iter().map(|job| {
            let record = load(job.switch());
            Post { job, record, written: (record, 0), on: false, working: false, under_way: 0, last_error: String::new(), complained: 0 }
        });
        let (flights, busy, outgoing) = (HashMap::new(), HashSet::new(), HashMap::new());
        let (posts, engine) = (posts.collect(), engine.clone());
        let mut crew = Self { engine, posts, flights, busy, outgoing, pace: Pace::default(), proposed: Vec::new() };
        crew.switch();
        crew.show();
        crew
    }

    /// Hears what became of orders, and begins what there is room for.
    pub(crate) async fn turn(&mut self) {
        self.hear();
        self.switch();
        // What cannot be logged is not begun.
        if self.engine.writable().is_ok() && self.engine.leads() {
            for nth in 0..self.posts.len() {
                self.begin_steps(nth).await;
            }
        }
        if self.settle().await {
            // There may be more to do at once.
            self.engine.reign.jobs.bell.ring();
        }
        self.write().await;
        self.show();
    }

    /// What nodes said, and what they did not say in time.
    fn hear(&mut self) {
        let engine = self.engine.clone();
        let table = engine.state().segments.table();
        let lost: HashSet<NodeId> = table.iter().filter(|s| s.reach() == Reach::Lost).map(|s| s.node()).collect();
        let ended = engine.reign.jobs.board.ended(engine.now(), |node| lost.contains(&node));
        for (id, ended) in ended {
            self.heard(id, ended);
        }
    }

    fn heard(&mut self, id: u64, ended: Ended<WorkOutcome>) {
        let Some(mut flight) = self.flights.remove(&id) else { return };
        self.posts[flight.job].under_way -= 1;
        let world = World { state: self.engine.state(), now: self.engine.now(), outgoing: &self.outgoing, busy: &self.busy };
        let next = flight.heard(&self.engine, &world, ended);
        self.go_on(flight, next);
    }

    fn switch(&mut self) {
        let settings = &self.engine.state().settings;
        for post in &mut self.posts {
            let (job, on) = (post.job.switch(), settings.on(post.job.switch()));
            if on != post.on {
                tracing::info!(job = job.key(), "{}", if on { "this job is switched on" } else { "this job is switched off" });
                post.on = on;
                if !on {
                    post.job.off();
                }
            }
        }
    }

    /// Begins steps of one job, as long as there is room for more.
    async fn begin_steps(&mut self, nth: usize) {
        let rate = self.engine.state().settings.job_bytes_per_second();
        let failed_before = self.posts[nth].record.counts.failed;
        while self.posts[nth].on && self.posts[nth].under_way < UNDER_WAY_MAX && self.proposed.len() < LOGGED_MAX {
            let now = self.engine.now();
            let world = World { state: self.engine.state(), now, outgoing: &self.outgoing, busy: &self.busy };
            let (due, hurries) = (self.pace.is_due(now, rate), self.posts[nth].job.hurries(&world, rate));
            if !due && !hurries {
                return;
            }
            let Some(step) = self.posts[nth].job.next(&world) else { return };
            let mut flight = Flight::new(nth, step);
            let next = flight.begin(&self.engine, &world).await;
            // What is in a hurry comes on top of the pace, which is left to the others.
            if matches!(next, Next::Order(_)) && !hurries {
                self.pace.spend(flight.cost());
            }
            self.busy.extend(flight.step.object().map(|object| object.key.clone()));
            if let Some((segment, bytes)) = flight.outgoing() {
                *self.outgoing.entry(segment).or_default() += bytes;
            }
            self.go_on(flight, next);
            if self.posts[nth].record.counts.failed >= failed_before + FAILED_MAX {
                return;
            }
        }
    }

    fn go_on(&mut self, flight: Flight, next: Next) {
        match next {
            Next::Order(id) => {
                self.posts[flight.job].under_way += 1;
                self.flights.insert(id, flight);
            }
            Next::Log(effect) => {
                let proposal = self.engine.propose(&effect);
                self.proposed.push((flight, effect, proposal));
            }
            Next::Over(end, why) => self.over(&flight, &end, why),
        }
    }

    /// Waits for what was proposed; all of it shares few log entries. False when there was nothing.
    async fn settle(&mut self) -> bool {
        let some = !self.proposed.is_empty();
        for (flight, effect, proposal) in std::mem::take(&mut self.proposed) {
            match self.engine.stored(&effect, proposal).await {
                Ok(()) => self.over(&flight, &End::Done, String::new()),
                // The object was removed or replaced meanwhile, or the segment went: nothing has changed.
                Err(fault) if matches!(fault.code, FaultCode::ObjectNotFound) => self.over(&flight, &End::Moot, String::new()),
                Err(fault) => self.over(&flight, &End::Failed, fault.to_string()),
            }
        }
        some
    }

    fn over(&mut self, flight: &Flight, end: &End, why: String) {
        if let Some(object) = flight.step.object() {
            self.busy.remove(&object.key);
        }
        if let Some((segment, bytes)) = flight.outgoing()
            && let Some(left) = self.outgoing.get_mut(&segment)
        {
            *left = left.saturating_sub(bytes);
            if *left == 0 {
                self.outgoing.remove(&segment);
            }
        }
        let post = &mut self.posts[flight.job];
        count(post, &flight.step, end);
        if !why.is_empty() {
            let now = self.engine.now();
            if now >= post.complained + COMPLAIN_MS {
                post.complained = now;
                tracing::warn!(job = post.job.switch().key(), "{why}");
            }
            post.last_error = why;
        }
        let world = World { state: self.engine.state(), now: self.engine.now(), outgoing: &self.outgoing, busy: &self.busy };
        post.job.ended(&flight.step, end, &world);
    }

    /// Keeps how far the jobs are, for the next leader.
    async fn write(&mut self) {
        let now = self.engine.now();
        let world = World { state: self.engine.state(), now, outgoing: &self.outgoing, busy: &self.busy };
        let mut effects = Vec::new();
        for post in &mut self.posts {
            let look = post.job.look(&world, post.on);
            let working = post.on && (look.working || post.under_way > 0);
            if post.working && !working {
                post.record.counts.passes += 1;
                tracing::info!(job = post.job.switch().key(), counts = ?post.record.counts, "this job has nothing left to do");
            } else if working && !post.working {
                tracing::info!(job = post.job.switch().key(), "this job works");
            }
            let ended = post.working && !working;
            post.working = working;
            post.record.at = look.at;
            if post.record != post.written.0 && (ended || now >= post.written.1 + EVERY_MS) {
                post.written = (post.record, now);
                effects.push(post.record.effect(post.job.switch()));
            }
        }
        if self.engine.leads() {
            let proposals: Vec<_> = effects.iter().map(|effect| self.engine.propose(effect)).collect();
            for (effect, proposal) in effects.iter().zip(proposals) {
                if let Err(fault) = self.engine.stored(effect, proposal).await {
                    tracing::debug!("how far a job is could not be kept: {fault}");
                }
            }
        }
    }

    fn show(&self) {
        let world = World { state: self.engine.state(), now: self.engine.now(), outgoing: &self.outgoing, busy: &self.busy };
        let states = self.posts.iter().map(|post| {
            let look = post.job.look(&world, post.on);
            JobState {
                job: post.job.switch().key().into(),
                on: post.on,
                state: if !post.on {
                    "off"
                } else if post.working {
                    "working"
                } else {
                    "idle"
                }
                .into(),
                note: look.note,
                permille: u16::try_from(look.at * 1000 / END).unwrap_or(1000),
                in_flight: post.under_way as u64,
                counts: post.record.counts,
                last_error: post.last_error.clone(),
                segments: look.segments,
            }
        });
        self.engine.reign.jobs.show(states.collect());
    }
}

fn count(post: &mut Post, step: &Step, end: &End) {
    let counts = &mut post.record.counts;
    match (step, end) {
        (_, End::Moot) => {}
        (Step::Copy { object, drop, .. }, End::Done) => {
            counts.copied += 1;
            counts.copied_bytes += object.size;
            counts.dropped += u64::from(drop.is_some());
        }
        (Step::Drop { .. } | Step::Demote(_), End::Done) => counts.dropped += 1,
        (Step::Verify { object, .. }, End::Done | End::Bad) => {
            counts.verified += 1;
            counts.verified_bytes += object.size;
            counts.bad += u64::from(*end == End::Bad);
        }
        (Step::Remove { .. }, End::Done) => counts.removed += 1,
        (Step::Unmount(_), End::Done) => {}
        (_, End::Bad | End::Full | End::Failed) => counts.failed += 1,
    }
}

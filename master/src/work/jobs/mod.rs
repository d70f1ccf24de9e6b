//! The six jobs that switches turn on and off: each says what it wants done next, a crew has it done, on one thread.
//!
//! ```text
//!  job ── next step ──► crew ── order ──► board ◄── polls ── store node: fetches, writes, compares
//!   ▲                    │ ▲                │
//!   └────── ended ───────┘ └── outcome ─────┘
//!                        └── effect ──► log
//! ```
//!
//! What lasts is in the log: each copy that was made or given up, and now and then how far a job is. Everything else is soft and dies with
//! the reign, which is the lease of all jobs: none works on a member that does not lead. Passes look at what is, so a leader that does not
//! know the last steps of another repeats at most what was not committed.

mod balance;
mod blob_delete;
mod crew;
mod disk_drop;
mod disk_repair;
mod flight;
mod pace;
mod record;
mod shard_repair;
mod step;
mod sweep;
mod vol_inspect;

#[cfg(feature = "simulation")]
pub(crate) use crew::Crew;
pub(crate) use crew::run;

use super::Bell;
use super::board::{Board, Order};
use crate::engine::Engine;
use perilune_protocol::rpc::job::{JobSegment, JobState, SwitchJob};
use perilune_protocol::rpc::work::{BeginRun, TakeWork, WorkOrder, WorkOutcome};
use perilune_protocol::{Outcome, RunId};
use perilune_state::settings::{Switch, word};
use std::sync::{Mutex, PoisonError};
use step::{End, Step, World};

/// Between two passes over all objects when nothing happens, in milliseconds.
const PASS_MS: u64 = 15_000;
/// Before what failed is tried again, in milliseconds.
const RETRY_MS: u64 = 2000;
/// Objects per slice of a pass that wants few of them.
const FILTER_SLICE: u64 = 1 << 20;

/// A job: decides, and does nothing itself.
trait Job: Send {
    /// What turns it on and off.
    fn switch(&self) -> Switch;
    /// The next thing to do, if there is any now. Asked while it is switched on.
    fn next(&mut self, world: &World<'_>) -> Option<Step>;
    /// One of its steps ended.
    fn ended(&mut self, step: &Step, end: &End, world: &World<'_>);
    /// Whether it would be too late if it kept to `rate` bytes a second.
    fn hurries(&self, _world: &World<'_>, _rate: u64) -> bool {
        false
    }
    /// It was switched off.
    fn off(&mut self) {}
    /// What there is to see of it.
    fn look(&self, world: &World<'_>, on: bool) -> Look;
}

/// What there is to see of a job.
#[derive(Default)]
struct Look {
    /// Where its pass is, see [`sweep::END`].
    at: u64,
    working: bool,
    note: String,
    segments: Vec<JobSegment>,
}

impl Order for WorkOrder {
    type Outcome = WorkOutcome;

    fn id(&mut self) -> &mut u64 {
        &mut self.id
    }

    fn limit_ms(&self) -> u64 {
        self.limit_ms
    }
}

/// The jobs of a reign as others see them.
pub(crate) struct Jobs {
    pub(crate) board: Board<WorkOrder>,
    pub(crate) bell: Bell,
    states: Mutex<Vec<JobState>>,
}

impl Jobs {
    pub(crate) fn new(term: u64) -> Self {
        Self { board: Board::new(term), bell: Bell::default(), states: Mutex::default() }
    }

    fn show(&self, states: Vec<JobState>) {
        *self.states.lock().unwrap_or_else(PoisonError::into_inner) = states;
    }

    pub(crate) fn states(&self) -> Vec<JobState> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Engine {
    /// Every job, as it was a moment ago; none on a member that does not lead.
    pub fn jobs(&self) -> Vec<JobState> {
        self.reign.jobs.states()
    }

    /// Switches a job on or off, for the whole group.
    ///
    /// # Errors
    /// When there is no such job, or nothing can be stored.
    pub async fn switch_job(&self, question: &SwitchJob) -> Outcome<()> {
        let known = Switch::named(&question.job).ok_or_else(|| {
            let names = Switch::ALL.map(Switch::key).join(", ");
            perilune_protocol::FaultCode::InvalidParams.with(format!("there is no job `{}`; there are {names}", question.job))
        })?;
        self.set(known.key(), Some(word(question.on))).await?;
        self.reign.jobs.bell.ring();
        Ok(())
    }

    /// A node has begun anew: what it had taken before is not waited for.
    pub(crate) fn begin_run(&self, question: &BeginRun) {
        let BeginRun { node, run } = *question;
        if self.reign.jobs.board.begin_run(node, run) {
            self.reign.jobs.bell.ring();
        }
        self.reign.cold.begin_run(node, run);
    }

    /// A node says what it did, and gets more to do.
    pub(crate) async fn take_work(&self, question: TakeWork, run: Option<RunId>) -> Vec<WorkOrder> {
        let jobs = &self.reign.jobs;
        if !question.done.is_empty() {
            jobs.board.say(question.node, question.done.into_iter().map(|done| (done.id, done.outcome)));
            jobs.bell.ring();
        }
        if question.room == 0 {
            // It only tells: it is to be answered, and to keep no news from who waits for some.
            return Vec::new();
        }
        jobs.board.take_waiting((question.node, run), question.room as usize, question.wait_ms, || self.now()).await
    }
}

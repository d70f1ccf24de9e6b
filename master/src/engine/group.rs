//! The group of masters, for whoever looks at it or steers it.

use super::{Engine, Inner, Throne};
use crate::api::Facade;
use crate::log::{Change, Dump, GroupProgress, Log, LogStatus, Member, Members, Progress, Role, Seat, is_address};
use crate::work::aside;
use perilune_protocol::rpc::member::{MemberChange, MemberState};
use perilune_protocol::{FaultCode, Outcome};
use perilune_state::usage::Usage;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tokio::time::timeout;

/// How long a request waits for a leader that is just being elected, or just beginning: two of the longest elections.
const ELECTIONS: u32 = 2;

/// A walk over all objects is not repeated before this many times its duration have passed, so that whoever polls costs a tenth of a thread.
const WALK_REST: u32 = 10;

/// A handle for the faces. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Group {
    throne: Arc<Throne>,
    /// The last walk of a master that follows. Held while one is under way.
    walk: Arc<Mutex<Option<Walk>>>,
}

/// What a walk over all objects found, and until when that does.
struct Walk {
    found: Arc<Vec<Usage>>,
    until: Instant,
}

/// Who is to carry out what only a leader can.
pub(crate) enum Leader {
    /// This master, which leads and has begun to.
    Here,
    /// Another one.
    There(Member),
}

impl Group {
    pub(crate) fn new(throne: Arc<Throne>) -> Self {
        Self { throne, walk: Arc::default() }
    }

    fn inner(&self) -> &Inner {
        &self.throne.inner
    }

    fn log(&self) -> &Log<super::Brain> {
        &self.inner().log
    }

    /// Whether this master leads and has begun to.
    pub(crate) fn leads(&self) -> bool {
        self.throne.term() > 0
    }

    /// Milliseconds since 1970.
    pub(crate) fn wall_ms(&self) -> u64 {
        self.inner().clock.wall_ms()
    }

    /// The engine as of now.
    pub(crate) fn engine(&self) -> Engine {
        self.throne.engine()
    }

    /// Whether this master collects garbage in the cold tier.
    pub(crate) fn collects(&self) -> bool {
        self.throne.gc_owner().is_some_and(|owner| owner.member == self.me())
    }

    /// Has the collector look at all there is, at once.
    pub(crate) fn collect_now(&self) {
        self.inner().collector.notify_one();
    }

    /// Resolves when somebody has asked for that.
    pub(crate) async fn asked_to_collect(&self) {
        self.inner().collector.notified().await;
    }

    /// The term that this member has heard of last.
    pub(crate) fn term(&self) -> u64 {
        self.log().watch().borrow().term
    }

    /// This master's id.
    pub(crate) fn me(&self) -> u64 {
        self.inner().config.member
    }

    /// Where a master's service is, as far as it is known; empty where it is not.
    pub(crate) fn service_of(&self, member: u64) -> String {
        self.inner().service_of(member)
    }

    /// The group's id.
    pub(crate) fn cluster(&self) -> String {
        self.log().cluster_id().to_string()
    }

    /// Where the log of this member stands.
    pub(crate) fn status(&self) -> LogStatus {
        self.log().status()
    }

    /// The members, as far as this one has heard.
    pub(crate) fn members(&self) -> Arc<Members> {
        self.log().members()
    }

    /// The members, and how far each is; without those positions where this one does not lead.
    pub(crate) async fn progress(&self) -> Outcome<GroupProgress> {
        self.log().progress().await
    }

    /// Who leads, if known, and where its HTTP is.
    pub(crate) fn leader(&self) -> Option<Member> {
        let leader = self.log().watch().borrow().leader.clone()?;
        if leader.id != self.me() {
            return Some(leader);
        }
        let Member { http, .. } = self.inner().card.clone();
        Some(if http.is_empty() { leader } else { Member { http, ..leader } })
    }

    /// Who is to carry out what only a leader can. Waits a moment for one that is just being elected.
    ///
    /// # Errors
    /// [`FaultCode::NotLeader`] when there is none.
    pub(crate) async fn settled(&self) -> Outcome<Leader> {
        let mut standing = self.log().watch();
        let mut reigns = self.throne.served().1;
        let settle = async {
            loop {
                let now = standing.borrow_and_update().clone();
                match now.leader {
                    Some(leader) if leader.id != self.me() => return Some(Leader::There(leader)),
                    Some(_) if now.role == Role::Leader && reigns.borrow_and_update().term == now.term => return Some(Leader::Here),
                    _ => {}
                }
                tokio::select! {
                    changed = standing.changed() => changed.ok()?,
                    changed = reigns.changed() => changed.ok()?,
                }
            }
        };
        match timeout(self.patience(), settle).await {
            Ok(Some(leader)) => Ok(leader),
            Ok(None) | Err(_) => Err(self.inner().not_leader()),
        }
    }

    /// How long a request waits for a leader.
    pub(crate) fn patience(&self) -> Duration {
        self.inner().config.raft_election.1 * ELECTIONS
    }

    /// Resolves when `leader` leads no more, or says where its HTTP is. That it is not heard for a moment is not enough: then the term is
    /// the same.
    pub(crate) async fn succeeded(&self, leader: &Member) {
        let mut standing = self.log().watch();
        let term = standing.borrow().term;
        let over = standing
            .wait_for(|now| {
                now.term > term || now.leader.as_ref().is_some_and(|l| l.id != leader.id || (leader.http.is_empty() && !l.http.is_empty()))
            })
            .await;
        // A log that was closed tells of nobody.
        drop(over);
    }

    /// Every segment and how full it is; where this master follows, as it was a moment ago: then all objects may have to be looked at
    /// for it. That is done where it holds up nobody.
    pub(crate) async fn usage(&self) -> Outcome<Arc<Vec<Usage>>> {
        let engine = self.engine();
        if engine.leads() {
            return aside(move || engine.state().usage()).await.map(Arc::new);
        }
        let mut walk = self.walk.lock().await;
        if let Some(Walk { found, .. }) = walk.as_ref().filter(|walk| Instant::now() < walk.until) {
            return Ok(Arc::clone(found));
        }
        let began = Instant::now();
        let found = Arc::new(aside(move || engine.state().usage()).await?);
        *walk = Some(Walk { found: Arc::clone(&found), until: Instant::now() + began.elapsed() * WALK_REST });
        Ok(found)
    }

    /// Resolves when what this member shows includes everything that was acknowledged before, by whatever leader.
    pub(crate) async fn catch_up(&self) -> Outcome<()> {
        self.log().catch_up().await
    }

    /// Everything this member knows, as a file.
    pub(crate) async fn dump(&self) -> Outcome<Dump> {
        self.log().dump().await
    }

    /// Changes the members; the leader can.
    pub(crate) async fn change(&self, change: Change) -> Outcome<Members> {
        self.inner().change(change).await
    }

    /// Hands the lead to another voter, who takes it at some moment after this.
    pub(crate) fn transfer(&self, to: u64) {
        // What becomes of it is seen in who leads.
        drop(self.log().transfer(to));
    }
}

impl Inner {
    pub(super) fn service_of(&self, member: u64) -> String {
        let known = || self.log.members().get(member).map(|known| known.service.clone()).unwrap_or_default();
        if member == self.config.member { self.card.service.clone() } else { known() }
    }

    /// One change at a time, so that none is refused because of another of ours.
    pub(crate) async fn change(&self, change: Change) -> Outcome<Members> {
        let _turn = self.changes.lock().await;
        tracing::info!(?change, "the members are to change");
        self.log.change(change).await
    }

    /// What the group should know of this member: its addresses as they are now.
    fn own_entry(&self) -> Option<Member> {
        let known = self.log.members().get(self.config.member)?.clone();
        let newer = |now: &String, known: String| if now.is_empty() { known } else { now.clone() };
        let Member { address, service, http, .. } = &self.card;
        Some(Member {
            address: newer(address, known.address),
            service: newer(service, known.service),
            http: newer(http, known.http),
            ..known
        })
    }
}

impl Engine {
    /// The masters, and how far each is.
    pub(crate) async fn list_members(&self) -> Outcome<Vec<MemberState>> {
        let progress = self.inner.log.progress().await?;
        let last = progress.members.iter().find(|p| p.member.id == self.inner.config.member).map_or(0, |p| p.matched);
        let state = |p: Progress| MemberState {
            id: p.member.id,
            leads: p.member.id == self.inner.config.member,
            votes: p.seat == Seat::Voter,
            rises: p.member.rises && p.seat == Seat::Learner,
            active: p.active,
            matched: p.matched,
            lag: last.saturating_sub(p.matched),
            address: p.member.address,
            rpc: p.member.service,
            http: p.member.http,
        };
        Ok(progress.members.into_iter().map(state).collect())
    }

    /// Carries out what an operator asks for.
    pub(crate) async fn change_members(&self, change: MemberChange) -> Outcome<()> {
        let change = match change {
            MemberChange::Add { id, address, http, rises } => {
                if !http.is_empty() && !is_address(&http) {
                    return Err(FaultCode::InvalidParams.with(format!("the HTTP address {http:?} is not host:port")));
                }
                Change::AddLearner(Member { id, address, http, rises, ..Member::default() })
            }
            MemberChange::Promote { id } => Change::Promote(id),
            MemberChange::Remove { id, force: false } => Change::Remove(id),
            MemberChange::Remove { id, force: true } => Change::Expel(id),
            MemberChange::Transfer { to } => return self.inner.log.transfer(to).await,
        };
        let changed = self.inner.change(change).await.map(drop);
        changed.map_err(|fault| match fault.code {
            // It is not the caller who may not.
            FaultCode::Forbidden => FaultCode::WrongState.with(fault.message),
            _ => fault,
        })
    }

    /// The leader's care for the group: its own addresses are known to all, and whoever is to vote does as soon as it keeps up.
    pub(crate) async fn tend_group(&self) {
        let inner = &self.inner;
        let members = inner.log.members();
        if members.is_changing() {
            return;
        }
        if let Some(own) = inner.own_entry()
            && !own.address.is_empty()
            && members.get(own.id) != Some(&own)
            && let Err(fault) = inner.change(Change::Move(own)).await
        {
            tracing::info!("the group was not told where this master is now: {fault}");
        }
        let rising = members.iter().filter(|(m, _)| m.rises && !members.voters().contains(&m.id));
        for id in rising.map(|(m, _)| m.id) {
            // Refused while it lags: the next round asks again, and the log need not tell of it.
            let _turn = inner.changes.lock().await;
            match inner.log.change(Change::Promote(id)).await {
                Ok(_) => tracing::info!(member = id, "keeps up, and votes from now on"),
                Err(fault) if fault.code == FaultCode::WrongState => {}
                Err(fault) => tracing::warn!(member = id, "could not be made a voter: {fault}"),
            }
        }
    }
}

//! From a message to the engine and back: the table of calls.

use super::may;
use crate::engine::{Asker, Engine, Speaker};
use crate::work::aside;
use perilune_protocol::access::{Access, Token};
use perilune_protocol::principal::Principal;
use perilune_protocol::rpc::{self, Call, cluster, cold, job, member, object, segment, session, vault, watch, work};
use perilune_protocol::{Fault, FaultCode, NodeId, Outcome, RunId, TenantId};
use perilune_state::segments::WORD_BYTES_MAX;
use perilune_state::settings::JOB_BYTES_PER_SECOND;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// An answer on its way: resolves to a whole frame.
pub(crate) type Answering = Pin<Box<dyn Future<Output = Vec<u8>> + Send>>;

/// What is known of one connection.
pub(crate) struct Session {
    id: u64,
    host: String,
    access: Arc<Access>,
    /// The caller is one who may come in: the admin (`None`), or one who speaks for a tenant. Set at the beginning, or by Authenticate, once.
    admitted: OnceLock<Option<Principal>>,
    /// What it presented; secrets are told under it.
    token: OnceLock<Token>,
    /// Set by Hello or Greet, once.
    speaker: OnceLock<Speaker>,
    /// Set by BeginRun, once.
    run: OnceLock<RunId>,
}

impl Session {
    pub(crate) fn new(id: u64, peer: SocketAddr, access: Arc<Access>) -> Self {
        let admitted = OnceLock::new();
        if access.is_open() {
            admitted.get_or_init(|| None);
        }
        Self { id, host: peer.ip().to_string(), access, admitted, token: OnceLock::new(), speaker: OnceLock::new(), run: OnceLock::new() }
    }

    /// Whether it is one who may come in.
    pub(crate) fn is_admitted(&self) -> bool {
        self.admitted.get().is_some()
    }

    fn authenticate(&self, question: &session::Authenticate) -> Outcome<()> {
        let found = self.access.identify(&question.token);
        let found = found.inspect_err(|_| tracing::debug!(host = self.host, "a caller presented a wrong token"))?;
        if *self.admitted.get_or_init(|| found.clone()) != found {
            return Err(FaultCode::WrongState.with("the connection has another token already: open one of its own"));
        }
        if let Ok(token) = Token::new(&question.token) {
            self.token.get_or_init(|| token);
        }
        Ok(())
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// For whom it speaks, unless it is the admin.
    fn principal(&self) -> Option<&Principal> {
        self.admitted.get()?.as_ref()
    }

    fn may_ask(&self, op: u16) -> Outcome<()> {
        self.principal().map_or(Ok(()), |principal| may::may_ask(principal, op))
    }

    /// Of whom it may take something: of everybody, or of its tenant.
    fn reaches(&self, engine: &Engine) -> Outcome<Option<TenantId>> {
        self.principal().map(|_| self.tenant(engine)).transpose()
    }

    /// Whether it may speak for a node about work.
    fn works_as(&self, engine: &Engine, node: NodeId) -> Outcome<()> {
        self.reaches(engine)?.map_or(Ok(()), |tenant| engine.is_of(node, tenant))
    }

    /// Of whom it may be told: of its tenant; the admin, if it asks so, of everybody or of anyone.
    fn watches(&self, engine: &Engine, everybody: bool, named: Option<TenantId>) -> Outcome<Option<TenantId>> {
        match self.principal() {
            Some(principal) if everybody => {
                Err(FaultCode::Forbidden.with(format!("the token is one of tenant {}, and tells of no other", principal.tenant)))
            }
            None if everybody => Ok(named),
            _ => self.tenant(engine).map(Some),
        }
    }

    /// Whether its token is still good.
    fn is_current(&self, engine: &Engine) -> Outcome<()> {
        self.principal().map_or(Ok(()), |principal| engine.is_current(principal))
    }

    /// Who speaks, as long as its tenant is served.
    fn speaker(&self, engine: &Engine) -> Outcome<&Speaker> {
        let said = self.speaker.get();
        let speaker = said.ok_or_else(|| FaultCode::WrongState.with("say hello first: the connection has no tenant yet"))?;
        self.is_current(engine)?;
        engine.state().directory.may_use(speaker.tenant).map(|()| speaker)
    }

    /// Whose keys and memory it speaks of.
    fn tenant(&self, engine: &Engine) -> Outcome<TenantId> {
        self.speaker(engine).map(|speaker| speaker.tenant)
    }

    /// What that tenant is called.
    fn name(&self, engine: &Engine) -> Outcome<String> {
        let (tenant, known) = (self.tenant(engine)?, engine.directory());
        Ok(known.tenant(tenant).map_or_else(String::new, |found| found.name.clone()))
    }
}

/// How a kind of call is counted: items asked about, and how many of the answers are faults.
trait Counted {
    fn failed(&self) -> (u64, u64) {
        (0, 0)
    }

    /// One of the items met that this member does not lead.
    fn not_leader(&self) -> Option<&Fault> {
        None
    }
}
impl<T> Counted for Vec<Outcome<T>> {
    fn failed(&self) -> (u64, u64) {
        (self.len() as u64, self.iter().filter(|o| o.is_err()).count() as u64)
    }

    fn not_leader(&self) -> Option<&Fault> {
        self.iter().filter_map(|o| o.as_ref().err()).find(|fault| fault.code == FaultCode::NotLeader)
    }
}
impl Counted for Vec<bool> {
    fn failed(&self) -> (u64, u64) {
        (self.len() as u64, 0)
    }
}
impl Counted for () {}
impl Counted for u64 {}
impl Counted for String {}
impl Counted for Vec<u64> {}
impl Counted for session::Welcome {}
impl Counted for session::Registered {}
impl Counted for session::HeartbeatReply {}
impl Counted for Vec<segment::SegmentState> {}
impl Counted for object::KeyList {}
impl Counted for cluster::ClusterStat {}
impl Counted for Vec<cluster::NodeState> {}
impl Counted for Vec<member::MemberState> {}
impl Counted for Vec<job::JobState> {}
impl Counted for Vec<work::WorkOrder> {}
impl Counted for Vec<cold::ColdOrder> {}
impl Counted for Vec<Option<cold::SavedCopy>> {
    fn failed(&self) -> (u64, u64) {
        (self.len() as u64, 0)
    }
}
impl Counted for cold::Offloaded {}
impl Counted for cold::RemoteAnswer {}
impl Counted for cold::Through {}
impl Counted for vault::VaultAccess {}
impl Counted for watch::Watched {
    fn failed(&self) -> (u64, u64) {
        (self.events.len() as u64, 0)
    }
}
impl Counted for watch::Watched<watch::Encoded> {
    fn failed(&self) -> (u64, u64) {
        (self.events.count as u64, 0)
    }
}
impl Counted for watch::Listed {
    fn failed(&self) -> (u64, u64) {
        (self.events.len() as u64, 0)
    }
}

/// Decodes a question, has it answered, and frames the answer. Unknown numbers get a fault, not a closed connection.
pub(crate) fn answer(engine: &Engine, session: &Arc<Session>, op: u16, id: u64, body: &[u8]) -> Answering {
    let (e, s) = (engine.clone(), session.clone());
    match op {
        // By any member, and at once: what follows in the same write is judged next.
        session::Authenticate::OP => {
            let started = Instant::now();
            let admitted = rpc::decode(body).and_then(|q: session::Authenticate| s.authenticate(&q));
            engine.metrics().op(op).observe(started, 1, u64::from(admitted.is_err()));
            Box::pin(std::future::ready(framed(op, id, &admitted)))
        }
        _ if !session.is_admitted() => {
            engine.metrics().op(op).observe(Instant::now(), 0, 1);
            Box::pin(std::future::ready(framed(op, id, &session.access.admit(None))))
        }
        _ if session.may_ask(op).is_err() => {
            engine.metrics().op(op).observe(Instant::now(), 0, 1);
            Box::pin(std::future::ready(framed(op, id, &session.may_ask(op))))
        }
        session::Hello::OP => with(engine, id, body, move |q: session::Hello| async move {
            let session::Hello { agent, tenant } = q;
            greet(&e, &s, session::Greet { agent, tenant, ..session::Greet::default() })
        }),
        session::Greet::OP => with(engine, id, body, move |q: session::Greet| async move { greet(&e, &s, q) }),
        session::Whose::OP => with(engine, id, body, move |_: session::Whose| async move { s.name(&e) }),
        session::Register::OP => with(engine, id, body, move |q| async move { e.register(s.id, s.speaker(&e)?, q).await }),
        session::Heartbeat::OP => with(engine, id, body, move |q: session::Heartbeat| async move {
            s.is_current(&e)?;
            Ok(e.heartbeat(s.id, q.node, 0))
        }),
        session::Beat::OP => with(engine, id, body, move |q: session::Beat| async move {
            s.is_current(&e)?;
            Ok(e.heartbeat(s.id, q.node, q.serves))
        }),
        segment::Mount::OP => with(engine, id, body, move |q| async move { e.mount(s.id, s.speaker(&e)?, q).await }),
        segment::Unmount::OP => with(engine, id, body, move |q| async move { Ok(e.unmount(s.reaches(&e)?, q).await) }),
        segment::Describe::OP => with(engine, id, body, move |q: segment::Describe| async move {
            let tenant = s.tenant(&e)?;
            Ok(q.segments.iter().map(|id| e.describe(tenant, *id).map(|desc| (*desc).clone())).collect())
        }),
        segment::ListSegments::OP => with(engine, id, body, move |_: segment::ListSegments| async move { Ok(e.segments()) }),
        object::PutStart::OP => with(engine, id, body, move |q| async move {
            let speaker = s.speaker(&e)?;
            let from = Asker { pool: e.preferred(speaker), host: &s.host, session: s.id };
            Ok(e.put_start(speaker.tenant, from, q).await)
        }),
        object::PutEnd::OP => with(engine, id, body, move |q| async move { Ok(e.put_end(s.tenant(&e)?, q).await) }),
        object::PutRevoke::OP => with(engine, id, body, move |q| async move { Ok(e.put_revoke(s.tenant(&e)?, &q)) }),
        object::Locate::OP => with(engine, id, body, move |q: object::Locate| async move { Ok(e.locate(s.tenant(&e)?, &q.keys)) }),
        object::Exists::OP => with(engine, id, body, move |q: object::Exists| async move { Ok(e.exists(s.tenant(&e)?, &q.keys)) }),
        object::MatchPrefix::OP => {
            with(engine, id, body, move |q: object::MatchPrefix| async move { Ok(e.match_prefix(s.tenant(&e)?, &q.keys)) })
        }
        object::Remove::OP => {
            with(engine, id, body, move |q: object::Remove| async move { Ok(e.remove(s.tenant(&e)?, &q.keys, q.force).await) })
        }
        object::RemoveMatching::OP => with(engine, id, body, move |q: object::RemoveMatching| async move {
            let tenant = s.tenant(&e)?;
            aside(move || e.remove_matching(tenant, &q.pattern, q.force)).await?
        }),
        object::ListKeys::OP => with(engine, id, body, move |q: object::ListKeys| async move {
            let tenant = s.tenant(&e)?;
            aside(move || e.list_keys(tenant, &q.pattern, q.limit)).await?
        }),
        cluster::Stat::OP => with(engine, id, body, move |_: cluster::Stat| async move {
            s.is_current(&e)?;
            Ok(e.stat())
        }),
        member::ListMembers::OP => with(engine, id, body, move |_: member::ListMembers| async move { e.list_members().await }),
        member::ChangeMembers::OP => {
            with(engine, id, body, move |q: member::ChangeMembers| async move { e.change_members(q.change).await })
        }
        cluster::SyncStatus::OP => with(engine, id, body, move |q: cluster::SyncStatus| async move {
            if let Some(tenant) = s.reaches(&e)?
                && e.directory().with_keyspace(q.keyspace) != Some(tenant)
            {
                return Err(FaultCode::Forbidden.with("the token is one of another key space"));
            }
            e.in_step(q.keyspace, q.table).await
        }),
        cluster::ListNodes::OP => with(engine, id, body, move |_: cluster::ListNodes| async move { Ok(e.nodes()) }),
        work::BeginRun::OP => with(engine, id, body, move |q: work::BeginRun| async move {
            s.works_as(&e, q.node)?;
            if *s.run.get_or_init(|| q.run) != q.run {
                return Err(FaultCode::WrongState.with("the connection belongs to another run already: open one of its own"));
            }
            e.begin_run(&q);
            Ok(())
        }),
        work::TakeWork::OP => with(engine, id, body, move |q: work::TakeWork| async move {
            s.works_as(&e, q.node)?;
            Ok(e.take_work(q, s.run.get().copied()).await)
        }),
        cold::TakeCold::OP => with(engine, id, body, move |q: cold::TakeCold| async move {
            s.works_as(&e, q.node)?;
            Ok(e.take_cold(q, s.run.get().copied()).await)
        }),
        cold::Recall::OP => with(engine, id, body, move |q: cold::Recall| async move { Ok(e.recall(s.tenant(&e)?, q).await) }),
        cold::ReadThrough::OP => with(engine, id, body, move |q: cold::ReadThrough| async move { e.read_through(s.tenant(&e)?, q).await }),
        cold::Saved::OP => with(engine, id, body, move |q: cold::Saved| async move { Ok(e.saved(s.tenant(&e)?, &q.keys)) }),
        cold::Offload::OP => with(engine, id, body, move |q: cold::Offload| async move { e.offload(s.tenant(&e)?, None, q.wait_ms).await }),
        cold::OffloadFrom::OP => {
            with(engine, id, body, move |q: cold::OffloadFrom| async move { e.offload(s.tenant(&e)?, Some(&q.vault), q.wait_ms).await })
        }
        cold::Remote::OP => with(engine, id, body, move |q: cold::Remote| async move { e.remote(q).await }),
        vault::VaultKeys::OP => {
            with(engine, id, body, move |q: vault::VaultKeys| async move { e.vault_keys(s.tenant(&e)?, &q, s.token.get()) })
        }
        watch::Watch::OP => with(engine, id, body, move |mut q: watch::Watch| async move {
            q.filter.tenant = s.watches(&e, q.everybody, q.filter.tenant)?;
            e.watch(q).await
        }),
        watch::Follow::OP => {
            let handle = move |mut q: watch::Follow| async move {
                q.watch.filter.tenant = s.watches(&e, q.watch.everybody, q.watch.filter.tenant)?;
                e.follow(q).await
            };
            answered(engine, id, body, handle, move |out, answer| watch::encode_followed(out, id, answer))
        }
        watch::ListAll::OP => with(engine, id, body, move |mut q: watch::ListAll| async move {
            q.filter.tenant = s.watches(&e, q.everybody, q.filter.tenant)?;
            aside(move || e.list_all(&q)).await?
        }),
        watch::ListFeed::OP => with(engine, id, body, move |mut q: watch::ListFeed| async move {
            q.list.filter.tenant = s.watches(&e, q.list.everybody, q.list.filter.tenant)?;
            aside(move || e.list_feed(&q)).await?
        }),
        job::ListJobs::OP => with(engine, id, body, move |_: job::ListJobs| async move { Ok(e.jobs()) }),
        job::SwitchJob::OP => with(engine, id, body, move |q: job::SwitchJob| async move { e.switch_job(&q).await }),
        job::PaceJobs::OP => with(engine, id, body, move |q: job::PaceJobs| async move {
            e.set(JOB_BYTES_PER_SECOND, Some(&q.bytes_per_second.to_string())).await
        }),
        _ => {
            engine.metrics().op(op).observe(Instant::now(), 0, 1);
            let fault: Outcome<()> =
                Err(FaultCode::NotSupported.with(format!("this master knows no call number {op}; is the client newer?")));
            Box::pin(std::future::ready(framed(op, id, &fault)))
        }
    }
}

fn with<C, F>(engine: &Engine, id: u64, body: &[u8], handle: impl FnOnce(C) -> F) -> Answering
where
    C: Call + 'static,
    C::Reply: Counted + 'static,
    F: Future<Output = Outcome<C::Reply>> + Send + 'static,
{
    answered(engine, id, body, handle, move |out, answer| rpc::encode_answer(out, C::OP, id, answer))
}

/// The same for an answer that has bytes already: `append` makes a message of it.
fn answered<C, R, F>(
    engine: &Engine,
    id: u64,
    body: &[u8],
    handle: impl FnOnce(C) -> F,
    append: impl FnOnce(&mut Vec<u8>, &Outcome<R>) -> Outcome<()> + Send + 'static,
) -> Answering
where
    C: Call + 'static,
    R: Counted + Send + 'static,
    F: Future<Output = Outcome<R>> + Send + 'static,
{
    let (engine, started) = (engine.clone(), Instant::now());
    let answer = rpc::decode(body).map(handle);
    Box::pin(async move {
        let outcome = match answer {
            Ok(answer) => led(&engine, answer).await,
            Err(fault) => Err(fault),
        };
        let (items, failed) = outcome.as_ref().map_or((0, 1), Counted::failed);
        engine.metrics().op(C::OP).observe(started, items, failed);
        frame(C::OP, id, |out| append(out, &outcome))
    })
}

/// Only a leader answers, and only if it surely was one when all that it says had been found. Refused as a whole, so that another is asked.
async fn led<R: Counted>(engine: &Engine, answer: impl Future<Output = Outcome<R>>) -> Outcome<R> {
    if !engine.leads() {
        return Err(engine.inner.not_leader());
    }
    let found = answer.await;
    engine.vouch().await?;
    match found.as_ref().ok().and_then(Counted::not_leader) {
        Some(fault) => Err(fault.clone()),
        None => found,
    }
}

fn framed<R: serde::Serialize>(op: u16, id: u64, outcome: &Outcome<R>) -> Vec<u8> {
    frame(op, id, |out| rpc::encode_answer(out, op, id, outcome))
}

fn frame(op: u16, id: u64, append: impl FnOnce(&mut Vec<u8>) -> Outcome<()>) -> Vec<u8> {
    let mut frame = Vec::new();
    if let Err(fault) = append(&mut frame) {
        // Too long to send: the fault that says so is short.
        let _ = rpc::encode_answer::<()>(&mut frame, op, id, &Err(fault));
    }
    frame
}

fn greet(engine: &Engine, session: &Session, question: session::Greet) -> Outcome<session::Welcome> {
    let session::Greet { agent, mut tenant, mut user, unique_id } = question;
    if [&agent, &tenant, &user, &unique_id].into_iter().any(|word| word.len() > WORD_BYTES_MAX) {
        let why = format!("a name, a user or an id that is presented may have {WORD_BYTES_MAX} bytes");
        return Err(FaultCode::InvalidParams.with(why));
    }
    if let Some(principal) = session.principal() {
        engine.is_current(principal)?;
        for (said, own) in [(&mut tenant, &principal.tenant), (&mut user, &principal.user)] {
            if !said.is_empty() && said != own {
                return Err(FaultCode::Forbidden.with(format!("the token is one of tenant {} and not of {said:.200?}", principal.tenant)));
            }
            own.clone_into(said);
        }
    }
    let speaker = Speaker { tenant: engine.state().directory.caller(&tenant, &unique_id)?, user, unique_id };
    tracing::debug!(agent, host = session.host, ?speaker, "hello");
    if *session.speaker.get_or_init(|| speaker.clone()) != speaker {
        return Err(FaultCode::WrongState.with("the connection speaks for another tenant or node already: open one of its own"));
    }
    Ok(engine.welcome())
}

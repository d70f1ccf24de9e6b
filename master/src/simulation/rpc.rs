//! Questions of clients and store nodes to a master, over ways that lose them, to the very handlers that serve real connections.

use super::master::{awake, polled};
use super::world::{Speaks, World};
use crate::engine::{Engine, Reign};
use crate::rpc::handlers::{Session, answer};
use perilune_protocol::frame;
use perilune_protocol::rpc::{self, Call, session::Greet};
use perilune_protocol::{FaultCode, Outcome};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// How long a caller waits for one answer.
const PATIENCE: Duration = Duration::from_millis(1500);

/// A caller's connection to a master: it belongs to the reign in which it began.
pub(super) struct Connection {
    session: Arc<Session>,
    engine: Engine,
    reign: watch::Receiver<Arc<Reign>>,
    greeted: bool,
    speaks: Speaks,
}

impl Connection {
    pub(super) fn is_open(&self) -> bool {
        !self.reign.has_changed().unwrap_or(true)
    }

    /// What a master does at the end of a connection.
    fn close(self) {
        if self.engine.leads() {
            self.engine.state().nodes.disconnected(self.session.id());
            self.engine.judge();
        }
    }
}

/// An answer, and the engine that gave it.
pub(super) struct Answer<R> {
    pub(super) outcome: Outcome<R>,
    pub(super) engine: Engine,
}

/// Asks; nothing when the connection broke or no answer came in time, and then nobody knows what became of the question.
pub(super) async fn ask<C: Call>(world: &Rc<World>, caller: u64, to: u64, question: &C) -> Option<Answer<C::Reply>> {
    let mut out = Vec::new();
    rpc::encode_question(&mut out, 1, question).ok()?;
    let answered = tokio::time::timeout(PATIENCE, exchange(world, caller, to, C::OP, out)).await.ok().flatten();
    let Some((frame, engine)) = answered else {
        hang_up(world, caller, to);
        return None;
    };
    let (_, body, _) = frame::split(&frame).ok()??;
    let outcome = rpc::decode::<Outcome<C::Reply>>(body).unwrap_or_else(Err);
    Some(Answer { outcome, engine })
}

/// The caller's connection ends, and is made anew with the next question.
pub(super) fn hang_up(world: &Rc<World>, caller: u64, to: u64) {
    let mut masters = world.masters.borrow_mut();
    let up = masters.get_mut(&to).and_then(|m| m.up.as_mut());
    if let Some(connection) = up.and_then(|up| up.connections.remove(&caller)) {
        connection.close();
    }
}

async fn exchange(world: &Rc<World>, caller: u64, to: u64, op: u16, question: Vec<u8>) -> Option<(Vec<u8>, Engine)> {
    let at = Rc::clone(world);
    serve(world, caller, to, |answering, session, greeted| async move {
        if let Some(speaks) = greeted {
            greet(&answering, &session, speaks).await?;
            greeting_done(&at, caller, to);
        }
        let (_, body, _) = frame::split(&question).ok()??;
        Some(answer(&answering, &session, op, 1, body).await)
    })
    .await
}

/// Asks the engine itself, as a face does for what has no call of RPC.
pub(super) async fn call<T: 'static, F: Future<Output = Option<T>> + 'static>(
    world: &Rc<World>,
    caller: u64,
    to: u64,
    act: impl FnOnce(Engine) -> F,
) -> Option<T> {
    let served = tokio::time::timeout(PATIENCE, serve(world, caller, to, |engine, _, _| act(engine))).await;
    served.ok().flatten().map(|(answer, _)| answer)
}

/// Has something done in a master's process, which ends with that and with the reign, over ways that lose question and answer.
async fn serve<T: 'static, F: Future<Output = Option<T>> + 'static>(
    world: &Rc<World>,
    caller: u64,
    to: u64,
    act: impl FnOnce(Engine, Arc<Session>, Option<Speaks>) -> F,
) -> Option<(T, Engine)> {
    let there = world.way(caller, to)?;
    awake(world, to, there).await;
    let (tell, told) = oneshot::channel();
    let (engine, session, mut reign, greets) = connect(world, caller, to)?;
    let (answer, at) = (act(engine.clone(), session, greets), Rc::clone(world));
    let task = tokio::task::spawn_local(async move {
        let served = async {
            tokio::select! {
                biased;
                answer = answer => answer,
                _ = reign.changed() => None,
            }
        };
        let answer = polled(&at, served).await;
        // A stopped process says nothing.
        awake(&at, to, 0).await;
        let _ = tell.send(answer);
    });
    {
        let mut masters = world.masters.borrow_mut();
        let up = masters.get_mut(&to)?.up.as_mut()?;
        up.tasks.retain(|task| !task.is_finished());
        up.tasks.push(task.abort_handle());
    }
    let answer = told.await.ok()??;
    let back = world.way(to, caller)?;
    tokio::time::sleep(Duration::from_millis(back)).await;
    Some((answer, engine))
}

/// None where it was not welcome: then it greets again with the next question.
async fn greet(engine: &Engine, session: &Arc<Session>, speaks: Speaks) -> Option<()> {
    let mut out = Vec::new();
    let Speaks { tenant, unique_id } = speaks;
    rpc::encode_question(&mut out, 1, &Greet { agent: "simulation".into(), tenant, user: String::new(), unique_id }).ok()?;
    let (_, body, _) = frame::split(&out).ok()??;
    let welcome = answer(engine, session, Greet::OP, 1, body).await;
    let (_, body, _) = frame::split(&welcome).ok()??;
    rpc::decode::<Outcome<<Greet as Call>::Reply>>(body).ok()?.ok().map(drop)
}

fn greeting_done(world: &World, caller: u64, to: u64) {
    let mut masters = world.masters.borrow_mut();
    if let Some(connection) = masters.get_mut(&to).and_then(|m| m.up.as_mut()).and_then(|up| up.connections.get_mut(&caller)) {
        connection.greeted = true;
    }
}

/// What is still to be said at its beginning comes last.
type Connected = (Engine, Arc<Session>, watch::Receiver<Arc<Reign>>, Option<Speaks>);

/// The connection there is, or a new one; none to a process that is down.
fn connect(world: &World, caller: u64, to: u64) -> Option<Connected> {
    let mut masters = world.masters.borrow_mut();
    let up = masters.get_mut(&to)?.up.as_mut()?;
    let speaks = world.speaks.borrow().get(&caller).cloned().unwrap_or_default();
    if up.connections.get(&caller).is_some_and(|connection| !connection.is_open() || connection.speaks != speaks) {
        up.connections.remove(&caller)?.close();
        return None;
    }
    let connection = up.connections.entry(caller).or_insert_with(|| {
        world.sessions.set(world.sessions.get() + 1);
        let session = Arc::new(Session::new(world.sessions.get(), ([127, 0, 0, 1], 1).into(), Arc::default()));
        let (engine, reign) = up.throne.served();
        Connection { session, engine, reign, greeted: false, speaks: speaks.clone() }
    });
    let greets = (!connection.greeted).then_some(speaks);
    Some((connection.engine.clone(), Arc::clone(&connection.session), connection.reign.clone(), greets))
}

/// Whether another master should be asked.
pub(super) fn is_elsewhere<R>(answer: &Option<Answer<R>>) -> bool {
    match answer {
        None => true,
        Some(answer) => matches!(&answer.outcome, Err(fault) if fault.code == FaultCode::NotLeader),
    }
}

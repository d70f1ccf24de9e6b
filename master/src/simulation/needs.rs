//! Services that need what happened since a stamp: each says so for a while, says it anew, and lets its time run out or takes it back.
//!
//! | rule | |
//! |---|---|
//! | a safepoint is not overtaken | a master that knows one cuts nothing that it needs, while there is room |
//! | a safepoint counts as long as was said | what nobody takes back is there until its time is over, and is forgotten then |

use super::client::Client;
use super::clock::WALL_BEGAN_MS;
use super::feeds::some_stamp;
use super::master::Up;
use super::oracle::{Check, Oracle};
use super::rpc::call;
use super::world::World;
use crate::engine::{Engine, Seat};
use crate::events::{Safepoint, needed};
use crate::log::Room;
use perilune_protocol::{FaultCode, Outcome, Tso};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// So much is kept for them that it is never more.
pub(super) const ALL: u64 = 1 << 30;
/// Services at a time.
const SERVICES: u64 = 2;
/// What those are called that take back what they said, and those that do not.
const TAKES_BACK: &str = "brief";
const HOLDS_ON: &str = "service";
/// A leader may take so long to forget one.
const FORGOTTEN_MS: u64 = 10_000;

/// Who needs something.
pub(super) type Needs = BTreeMap<String, Need>;

#[derive(Default)]
pub(super) struct Need {
    /// As the log has it, in milliseconds since 1970.
    until_ms: u64,
    /// Whether it was told that it is kept.
    is_told: bool,
}

pub(super) fn begin(world: &Rc<World>) {
    for _ in 0..SERVICES {
        tokio::task::spawn_local(live(Rc::clone(world)));
    }
}

async fn live(world: Rc<World>) {
    let client = world.steward(0);
    while !world.closing.get() && !world.is_over() {
        let service = format!("{}{}", if world.per_mille(400) { TAKES_BACK } else { HOLDS_ON }, world.next());
        for _ in 0..world.range(1, 4) {
            tokio::time::sleep(Duration::from_millis(world.range(100, 4000))).await;
            let Some(stamp) = some_stamp(&world) else { continue };
            if !need(&world, &client, &service, stamp, Duration::from_millis(world.range(500, 15_000))).await {
                break;
            }
        }
        if service.starts_with(TAKES_BACK) {
            let taken = asked(&world, &client, |engine| {
                let service = service.clone();
                async move { engine.drop_safepoint(&service).await }
            });
            taken.await;
        }
    }
}

/// Whether it was told what became of that.
async fn need(world: &Rc<World>, client: &Client, service: &str, stamp: Tso, ttl: Duration) -> bool {
    let said = asked(world, client, |engine| {
        let service = service.to_owned();
        async move { engine.set_safepoint(&service, stamp, ttl).await }
    });
    let said = said.await;
    world.note("safepoint", || format!("{service} {} for {ttl:?}: {said:?}", stamp.0));
    if matches!(said, Some(Ok(_))) {
        let mut oracle = world.oracle.borrow_mut();
        oracle.counts.needs += 1;
        oracle.needs.entry(service.to_owned()).or_default().is_told = true;
    }
    said.is_some()
}

/// Over HTTP: of whoever leads, once.
async fn asked<T: 'static, F: Future<Output = Outcome<T>> + 'static>(
    world: &Rc<World>,
    client: &Client,
    ask: impl FnOnce(Engine) -> F,
) -> Option<Outcome<T>> {
    let answered = call(world, client.caller, client.leader.get(), |engine| {
        let answer = ask(engine.clone());
        async move {
            let answer = answer.await;
            engine.vouch().await.ok().map(|()| answer)
        }
    });
    let answered = answered.await;
    if answered.as_ref().is_none_or(|answer| answer.as_ref().is_err_and(|fault| fault.code == FaultCode::NotLeader)) {
        client.leader.set(world.other_than(client.leader.get()));
    }
    answered
}

/// What is needed as a master knows it at this moment, whatever it makes of that.
pub(super) fn known(seat: &Seat) -> Option<Tso> {
    needed(&seat.state().settings.map())
}

/// A master has cut its log: entries with a stamp below `before` are gone.
pub(super) fn cut(world: &World, id: u64, up: &Up, before: Tso, needed: Option<Tso>) -> Check {
    let Some(needed) = needed.filter(|_| world.options.event_log_most == ALL) else { return Ok(()) };
    let mut oracle = world.oracle.borrow_mut();
    if oracle.lenient || up.throne.served().0.inner.log.room().0 != Room::Enough {
        return Ok(());
    }
    oracle.counts.held += 1;
    if before.0 > needed.0 + 1 {
        let what = format!("master {id} cut what has a stamp below {}, and all above {} is needed", before.0, needed.0);
        return Err(("a safepoint is not overtaken", what));
    }
    Ok(())
}

/// In the end none is left whose time is over.
pub(super) fn forgotten(leader: &Engine) -> Check {
    let over = |safepoint: &Safepoint| safepoint.until_ms + FORGOTTEN_MS < leader.wall_ms();
    match leader.safepoints().into_iter().find(over) {
        None => Ok(()),
        Some(left) => Err(("a safepoint counts as long as was said", format!("{left:?} is still there at the end"))),
    }
}

impl Oracle {
    /// A setting is set, or set no more.
    pub(super) fn set(&mut self, now: u64, key: &str, value: Option<&str>) -> Check {
        let Some(Safepoint { service, until_ms, .. }) = Safepoint::read(key, value.unwrap_or("0 0")) else { return self.kept(key, value) };
        if value.is_some() {
            self.needs.entry(service).or_default().until_ms = until_ms;
            return Ok(());
        }
        // By the clock that was furthest ahead of all.
        let latest = WALL_BEGAN_MS as u64 + now + self.counts.ahead_ms;
        let held = self.needs.remove(&service).filter(|need| need.is_told && service.starts_with(HOLDS_ON) && !self.lenient);
        match held.filter(|need| need.until_ms > latest) {
            None => Ok(()),
            Some(Need { until_ms, .. }) => {
                let what = format!("{service} is forgotten before {until_ms}, and no clock shows more than {latest}");
                Err(("a safepoint counts as long as was said", what))
            }
        }
    }
}

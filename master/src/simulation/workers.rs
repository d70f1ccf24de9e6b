//! What a member has done while it reigns: the rounds of its workers, at a pace of their own.

use super::master::{Up, awake, polled};
use super::rpc;
use super::world::World;
use crate::engine::{Engine, Group, Reign};
use crate::feeds;
use crate::log::Member;
use crate::work::{cold, evict, housekeeping, jobs, pools, recycle};
use futures_util::future::join_all;
use perilune_protocol::{FaultCode, Outcome};
use perilune_state::objects::recency::Orders;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use tokio::sync::watch;

/// Who asks a leader what may be deleted, as one master does another.
struct Asked {
    world: Rc<World>,
    id: u64,
}

impl cold::Asks for Asked {
    async fn ask(&self, leader: Member, question: cold::Listed) -> Outcome<cold::Garbage> {
        let answer = rpc::call(&self.world, self.id, leader.id, |engine| async move { Some(engine.garbage(question).await) }).await;
        answer.unwrap_or_else(|| Err(FaultCode::NotLeader.with("no answer")))
    }
}

/// What is done whoever leads: it ends with the process.
pub(super) fn keep(world: &Rc<World>, id: u64, up: &mut Up) {
    let (world, group) = (Rc::clone(world), Group::new(Arc::clone(&up.throne)));
    let mut collector = cold::Collector::begin(group, Asked { world: Rc::clone(&world), id });
    up.hire(async move {
        loop {
            awake(&world, id, 250).await;
            let due = polled(&world, collector.due(false)).await;
            let cleaned = polled(&world, join_all(due.into_iter().map(cold::Errand::run))).await;
            cleaned.into_iter().for_each(|cleaned| collector.ended(cleaned));
        }
    });
}

/// Everybody's, in this reign.
pub(super) fn hire(world: &Rc<World>, id: u64, up: &mut Up, engine: &Engine, present: &watch::Receiver<Arc<Reign>>) {
    let shift = || (Rc::clone(world), present.clone());
    let (keeper, shifts) = (engine.clone(), shift());
    up.hire(async move {
        let mut windows = housekeeping::Windows::begin(&keeper);
        while works(&shifts, id, 100).await {
            polled(&shifts.0, housekeeping::round(&keeper)).await;
            polled(&shifts.0, windows.round(&keeper)).await;
        }
    });
    let (evictor, shifts) = (engine.clone(), shift());
    let mut order = Orders::begin(&engine.state().recency, &*engine.state().index);
    up.hire(async move {
        while works(&shifts, id, 20).await {
            polled(&shifts.0, evict::round(&evictor, &mut order)).await;
        }
    });
    let (mut crew, shifts) = (jobs::Crew::begin(engine), shift());
    up.hire(async move {
        while works(&shifts, id, 50).await {
            polled(&shifts.0, crew.turn()).await;
        }
    });
    let (mut crew, shifts) = (cold::Crew::begin(engine), shift());
    up.hire(async move {
        while works(&shifts, id, 20).await {
            polled(&shifts.0, async { crew.turn() }).await;
        }
    });
    let (mut claims, worker, shifts) = (cold::Claims::begin(), engine.clone(), shift());
    up.hire(async move {
        while works(&shifts, id, 250).await {
            polled(&shifts.0, claims.round(&worker)).await;
        }
    });
    let (mut keeper, shifts) = (cold::Keeper::begin(engine.clone()), shift());
    up.hire(async move {
        while works(&shifts, id, 250).await {
            stepwise(Rc::clone(&shifts.0), id, keeper.turn()).await;
        }
    });
    let (recycler, shifts) = (engine.clone(), shift());
    up.hire(async move {
        while works(&shifts, id, 1000).await {
            polled(&shifts.0, recycle::round(&recycler)).await;
        }
    });
    let (deliverer, shifts) = (engine.clone(), shift());
    up.hire(async move {
        let (world, mut owner) = (Rc::clone(&shifts.0), feeds::Owner::default());
        let begin = |delivery| tokio::task::spawn_local(stepwise(Rc::clone(&world), id, delivery));
        while works(&shifts, id, 200).await {
            polled(&world, owner.round(&deliverer, &begin)).await;
        }
    });
    let (tender, shifts) = (engine.clone(), shift());
    up.hire(async move {
        while works(&shifts, id, 1000).await {
            polled(&shifts.0, pools::round(&tender)).await;
            polled(&shifts.0, tender.tend_gc()).await;
        }
    });
}

/// The same future, step by step: each takes its time, now and then a long one, and none is made while the member is stopped.
async fn stepwise<F: Future>(world: Rc<World>, id: u64, future: F) -> F::Output {
    let (at, mut future) = (Rc::clone(&world), Box::pin(future));
    let steps = async move {
        loop {
            let longest = if at.per_mille(20) { 3000 } else { 20 };
            awake(&at, id, at.range(0, longest)).await;
            if let Poll::Ready(done) = poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await {
                return done;
            }
            let mut woken = false;
            poll_fn(|_| if std::mem::replace(&mut woken, true) { Poll::Ready(()) } else { Poll::Pending }).await;
        }
    };
    polled(&world, steps).await
}

/// After a time, and once the member is not stopped: whether the reign goes on.
async fn works((world, present): &(Rc<World>, watch::Receiver<Arc<Reign>>), id: u64, ms: u64) -> bool {
    let over = || present.has_changed().unwrap_or(true);
    if !over() {
        awake(world, id, ms).await;
    }
    !over()
}

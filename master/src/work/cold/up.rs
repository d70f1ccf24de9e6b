//! From memory to a vault.

use super::health::Condition;
use super::{Target, lock, order};
use crate::engine::Engine;
use crate::planted::{self, Defect};
use crate::work::board::Ended;
use perilune_protocol::rpc::cold::{ColdOutcome, ColdWay};
use perilune_protocol::{ColdName, FaultCode};
use perilune_state::State;
use perilune_state::apply::places;
use perilune_state::effect::ColdCopy;
use perilune_state::objects::{Object, Replica};
use perilune_vault::BYTES_PER_MS;
use std::sync::Arc;

/// How an upload ended.
pub(super) enum Uploaded {
    /// The log says that the copy is there.
    Saved,
    /// The object was removed or replaced meanwhile, or has left memory: it is in another vault.
    Moot,
    /// The vault does not do it at present.
    Away(Condition, String),
    /// It is not done, for another reason.
    Failed(String),
}

/// Has `replica` of an object brought to a vault, under a name of its own.
pub(super) async fn upload(engine: &Engine, object: &Arc<Object>, replica: &Replica, vault: Target) -> Uploaded {
    let cold = &engine.reign.cold;
    let name = cold.fresh_name();
    lock(&cold.naming).insert(name, (vault.id, object.size));
    // Whoever drops a vault first closes it, whoever empties those of a tenant first removes its objects; both look at the names after that. So one
    // of the two sees the other.
    let is_closing = lock(&cold.closing).contains(&vault.id);
    let is_there = engine.state().standing(object.key.as_ref()).is_some_and(|standing| standing.version == object.version);
    let uploaded = if is_closing {
        Uploaded::Failed(format!("{}: vault {} is being dropped", object.key.to_object_key(), vault.id))
    } else if !is_there {
        Uploaded::Moot
    } else {
        upload_as(engine, object, replica, vault, name).await
    };
    // Named by the log by now, or never.
    lock(&engine.reign.cold.naming).remove(&name);
    uploaded
}

async fn upload_as(engine: &Engine, object: &Arc<Object>, replica: &Replica, vault: Target, name: ColdName) -> Uploaded {
    let place = places(std::slice::from_ref(replica)).remove(0);
    let limit_ms = engine.upload_limit().as_millis() as u64 + object.size / BYTES_PER_MS;
    let order = order(object, ColdWay::Up, place, vault, name, limit_ms);
    let ended = engine.reign.cold.order(replica.segment.node(), order, engine.now()).await;
    let copy = |stored| ColdCopy { vault: vault.id, name, stored };
    let key = object.key.to_object_key();
    // What came to nothing may yet come to lie there: its node may be at it for so many milliseconds, or an attempt is under way yet that it gave up
    // before it tried again.
    let (uploaded, lands_ms) = match ended {
        Ended::Said(ColdOutcome::Done { .. }) if super::vault(engine.state(), vault.id).is_none() => {
            return Uploaded::Failed(format!("{key}: vault {} was dropped meanwhile", vault.id));
        }
        Ended::Silence { taken: true, .. } if planted::is(Defect::TrustedSilence) => {
            return match engine.commit(&State::saved(object, copy(object.size))).await {
                Ok(()) => Uploaded::Saved,
                Err(fault) => Uploaded::Failed(fault.to_string()),
            };
        }
        Ended::Said(ColdOutcome::Done { stored }) => {
            let effect = State::saved(object, copy(stored));
            // Whatever is not named by it is garbage, as the log alone knows.
            return match engine.commit(&effect).await {
                Ok(()) => Uploaded::Saved,
                Err(fault) if fault.code == FaultCode::ObjectNotFound => Uploaded::Moot,
                Err(fault) => Uploaded::Failed(fault.to_string()),
            };
        }
        Ended::Said(ColdOutcome::Away(why)) => (Uploaded::Away(Condition::Away, format!("{key}: {why}")), Some(0)),
        Ended::Said(ColdOutcome::Refused(why)) => (Uploaded::Away(Condition::Refuses, format!("{key}: {why}")), Some(0)),
        // It has moved, and something else lies there now; or nothing does that was put.
        Ended::Said(ColdOutcome::Passed(_) | ColdOutcome::Busy(_)) => {
            (Uploaded::Failed(format!("{key}: its node did something else")), None)
        }
        // Its room was given to others while it was read there.
        Ended::Said(ColdOutcome::Wrong(_)) if !is_at(engine, object, replica) => (Uploaded::Moot, Some(0)),
        Ended::Said(ColdOutcome::Wrong(why) | ColdOutcome::Lost(why) | ColdOutcome::Failed(why)) => (Uploaded::Failed(why), Some(0)),
        Ended::Silence { taken, for_ms } => {
            (Uploaded::Failed(format!("{key}: the node that was to upload it is silent")), taken.then_some(for_ms))
        }
    };
    if let Some(ms) = lands_ms {
        engine.upload_may_land(vault.id, ms);
        // The answer to the last request may be all that is missing.
        engine.state().garbage.add(copy(0));
    }
    uploaded
}

/// Whether the object has this replica yet.
fn is_at(engine: &Engine, object: &Object, replica: &Replica) -> bool {
    let now = engine.state().standing(object.key.as_ref()).filter(|now| now.version == object.version);
    now.is_some_and(|now| now.replicas.iter().any(|other| other.is(replica)))
}

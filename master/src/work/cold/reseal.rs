//! A new key of the masters takes over from the one before.
//!
//! ```text
//! every other master, as long as something is sealed with another key ── the keys that it has ──► whoever leads
//!                                    every one of them has the newest? ── no ──► what is new is sealed with the older one, which all have
//!                                                       │ yes
//!                                                       └──► what is new is sealed with the newest, and what is sealed with the older anew
//! ```
//!
//! Sealing anew is one change of the directory for each tenant and each feed: who is killed in between leaves the rest to the next leader, which
//! begins with the question.

use super::lock;
use crate::api::forward;
use crate::engine::{Engine, Group, Leader};
use axum::http::Method;
use perilune_protocol::access::Token;
use perilune_protocol::sealed::Sealed;
use perilune_protocol::{FaultCode, Outcome};
use perilune_state::directory::{Change, Known, Refused};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use utoipa::ToSchema;

/// Where the leader is told.
const PATH: &str = "/tiflash/remote/secret_keys/held";
/// How often it is told, and looks whether all have.
const EVERY: Duration = Duration::from_secs(1);
/// It is waited for no longer; and what was told before that counts no more.
const PATIENCE: Duration = Duration::from_secs(3);
const HOLDS: Duration = Duration::from_secs(10);

/// The keys for secrets, by numbers that give none away.
#[derive(Serialize, ToSchema)]
pub(crate) struct SecretKeysKnown {
    /// Those that this master has, the newest first.
    pub(crate) keys: Vec<String>,
    /// How many secrets are sealed with which, as far as this master has heard: a key that is not here is needed for no secret any more, only
    /// to begin from checkpoints and dumps of its time.
    pub(crate) sealed: BTreeMap<String, u64>,
}

/// What a master tells the leader.
#[derive(Serialize, Deserialize, ToSchema)]
pub(crate) struct SecretKeysHeld {
    /// Its id.
    pub(crate) member: u64,
    /// The numbers of its keys.
    pub(crate) keys: Vec<u32>,
}

/// What masters told in this reign.
#[derive(Default)]
pub(crate) struct Held(Mutex<HashMap<u64, (Instant, Vec<u32>)>>);

impl Held {
    /// A master tells.
    pub(crate) fn hear(&self, held: SecretKeysHeld) {
        lock(&self.0).insert(held.member, (Instant::now(), held.keys));
    }

    fn has(&self, member: u64, key: u32) -> bool {
        lock(&self.0).get(&member).is_some_and(|(told, keys)| told.elapsed() < HOLDS && keys.contains(&key))
    }
}

fn shown(number: u32) -> String {
    format!("{number:08x}")
}

/// Tells whoever leads which keys this master has, as long as that may matter and until the master stops.
pub(crate) async fn tell(group: Group, token: Option<Token>, mut stop: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            biased;
            _ = stop.changed() => return,
            () = sleep(EVERY) => {}
        }
        let engine = group.engine();
        let secrets = &engine.inner.secrets;
        if secrets.takes_over().is_none_or(|newest| engine.sealed().into_keys().all(|key| key == newest)) {
            continue;
        }
        let Ok(Leader::There(leader)) = group.settled().await else { continue };
        let held = SecretKeysHeld { member: group.me(), keys: secrets.numbers() };
        let Ok(body) = serde_json::to_vec(&held) else { continue };
        let told = forward::call::<serde_json::Value>(&leader.http, token.as_ref(), Method::POST, PATH, body);
        // Whoever leads says what it lacks.
        if let Ok(Err(fault)) = timeout(PATIENCE, told).await {
            tracing::debug!("the leader is not told of the keys for secrets here: {fault}");
        }
    }
}

/// Until the reign is over, where this master was given two keys.
pub(super) async fn run(engine: Engine) {
    let Some(newest) = engine.inner.secrets.takes_over() else { return };
    let mut said = String::new();
    loop {
        sleep(EVERY).await;
        if !engine.leads() || engine.sealed().into_keys().all(|key| key == newest) {
            continue;
        }
        match round(&engine, newest).await {
            Ok(()) => tracing::info!(key = shown(newest), "all secrets are sealed with the newest key"),
            Err(fault) if fault.message != said => {
                tracing::warn!(key = shown(newest), "the newest key for secrets does not take over yet: {fault}");
                said = fault.message;
            }
            Err(_) => {}
        }
    }
}

/// Seals all anew, if every master has the newest key.
async fn round(engine: &Engine, newest: u32) -> Outcome<()> {
    let members = engine.inner.log.members();
    let mut others = members.iter().map(|(member, _)| member.id).filter(|id| *id != engine.inner.config.member);
    if let Some(without) = others.find(|id| !engine.reign.cold.held.has(*id, newest)) {
        let how = "start it with --secret-key-file NEW,OLD";
        return Err(FaultCode::WrongState.with(format!("master {without} has not said that it has key {}: {how}", shown(newest))));
    }
    engine.inner.secrets.spread();
    let (safe, known) = (engine.safe()?, engine.directory());
    for tenant in known.tenants().filter(|tenant| known.vaults_of(tenant.id).is_some()) {
        let renew = |known: &Known| known.vaults_of(tenant.id).map_or(Ok(None), |all| safe.renewed(all));
        engine.decide(&|known, _| Ok(renew(known).map_err(Refused::Secret)?.map(Change::Vaults))).await?;
    }
    for feed in known.feeds() {
        let renew = |known: &Known| known.feed(feed.id).map_or(Ok(None), |feed| safe.renewed_sink(feed));
        engine.decide(&|known, _| Ok(renew(known).map_err(Refused::Secret)?.map(Change::Feed))).await?;
    }
    Ok(())
}

impl Engine {
    /// The keys that this master has, and what is sealed with which.
    pub(crate) fn secret_keys(&self) -> SecretKeysKnown {
        let sealed = self.sealed().into_iter().map(|(key, count)| (shown(key), count)).collect();
        SecretKeysKnown { keys: self.inner.secrets.numbers().into_iter().map(shown).collect(), sealed }
    }

    /// How many secrets are sealed with which key.
    fn sealed(&self) -> BTreeMap<u32, u64> {
        let known = self.directory();
        let mut sealed: BTreeMap<u32, u64> = BTreeMap::new();
        let mut count = |one: &Sealed| *sealed.entry(one.key).or_default() += 1;
        for all in known.tenants().filter_map(|tenant| known.vaults_of(tenant.id)) {
            count(&all.key);
            let pairs = all.vaults.iter().filter_map(|vault| vault.secret.as_ref()).chain(&all.ram_user);
            pairs.flat_map(|pair| [&pair.ak, &pair.sk]).for_each(&mut count);
        }
        known.feeds().filter_map(|feed| feed.sealed.as_ref()).for_each(&mut count);
        sealed
    }
}

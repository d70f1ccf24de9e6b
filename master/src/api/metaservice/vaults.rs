//! Vaults with names: added, altered, dropped, and shown with whether they can be used.

use super::envelope::{Answer, Found, Refusal};
use super::shown::seconds;
use super::store::{Optional, Vault};
use super::stored::{Shown, StorageVault};
use super::{cluster, instance, said};
use crate::api::{App, Decide};
use crate::engine::Unchanged;
use crate::work::aside;
use crate::work::cold::{Finding, claim_record, one_line};
use futures_util::future::join_all;
use perilune_protocol::VaultId;
use perilune_protocol::vault::{S3Place, VaultTarget};
use perilune_state::directory::{Lies, Refused, VaultRecord, VaultRefused};
use perilune_vault::Limits;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};
use utoipa::ToSchema;

/// Whether a vault is ready is known by then, or it is not.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Deserialize, ToSchema)]
#[schema(as = AskedOfVault)]
pub(super) struct Asked {
    #[serde(default, deserialize_with = "said::text")]
    instance_id: String,
    #[serde(default, deserialize_with = "said::text")]
    cloud_unique_id: String,
    vault: Option<Vault>,
}

/// All vaults of an instance, masked.
#[derive(Serialize)]
pub(super) struct All {
    storage_vault: Vec<Looked>,
}

/// A vault, and whether it could be listed just now.
#[derive(Serialize)]
struct Looked {
    #[serde(flatten)]
    vault: StorageVault,
    /// New objects go there.
    is_default: bool,
    /// Its prefix was listed just now, and objects are taken there as far as is known.
    ready: bool,
    /// Why it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Objects that left memory since this master leads, and that it had not taken.
    evicted_unsaved: String,
    /// How those who use it found it last.
    #[serde(flatten)]
    health: Option<Health>,
}

#[derive(Serialize)]
struct Health {
    /// `works`, `slow`, `away` or `refuses`.
    state: &'static str,
    /// Since when, in seconds since 1970.
    since: String,
    /// What went wrong last, it may be long ago; empty where nothing did since this master leads.
    last_error: String,
}

impl From<Finding> for Health {
    fn from(found: Finding) -> Self {
        Self { state: found.condition.as_str(), since: seconds(found.since_ms), last_error: found.last_error }
    }
}

impl Asked {
    fn owner(&self, app: &App) -> Result<String, Refusal> {
        if self.instance_id.is_empty() && self.cloud_unique_id.is_empty() {
            return Err(Refusal::argument("cloud unique id not set"));
        }
        cluster::owner(&app.engine.directory(), &self.instance_id, &self.cloud_unique_id)
    }

    fn vault(&self) -> Result<&Vault, Refusal> {
        self.vault.as_ref().filter(|vault| !vault.name.is_empty()).ok_or_else(|| Refusal::argument("vault name not set"))
    }
}

pub(super) async fn add_s3(app: &App, asked: &Asked) -> Answer {
    let vault = asked.vault()?;
    let Some(obj) = &vault.obj_info else { return Err(Refusal::argument("s3 obj info err")) };
    if obj.provider()?.is_none() {
        return Err(Refusal::argument("s3 conf lease provider info"));
    }
    let vault = obj.vault(&vault.name, Optional { external_endpoint: true, provider: false })?;
    let (owner, safe) = (asked.owner(app)?, app.engine.safe()?);
    decide(app, &owner, &|known, now_ms| known.add_vault(&owner, &vault, &safe, now_ms)).await
}

pub(super) async fn add_hdfs(app: &App, asked: &Asked) -> Answer {
    let vault = asked.vault()?;
    let Some(hdfs) = &vault.hdfs_info else { return Err(Refusal::argument("hdfs info is not found")) };
    let vault = hdfs.vault(&vault.name, app).await?;
    let (owner, safe) = (asked.owner(app)?, app.engine.safe()?);
    decide(app, &owner, &|known, now_ms| known.add_vault(&owner, &vault, &safe, now_ms)).await
}

/// Its keys, or its name (`alter_name`), or both; where it is stays as it is.
pub(super) async fn alter_s3(app: &App, asked: &Asked) -> Answer {
    let (vault, owner) = (asked.vault()?, asked.owner(app)?);
    if let (Some(obj), Some(place)) = (&vault.obj_info, place(app, &owner, &vault.name)) {
        let differs = obj.differs(&place)?;
        if !differs.is_empty() {
            return Err(Refusal::argument(format!("{} of a vault cannot be altered: add another vault", differs.join(", "))));
        }
    }
    let pair = vault.obj_info.as_ref().and_then(|obj| obj.pair());
    let new_name = Some(vault.alter_name.as_str()).filter(|name| !name.is_empty());
    if pair.is_none() && (new_name.is_none() || vault.obj_info.is_some()) {
        return Err(Refusal::argument("nothing to alter: give obj_info with ak and sk, or alter_name"));
    }
    let safe = app.engine.safe()?;
    decide(app, &owner, &|known, now_ms| known.alter_vault(&owner, &vault.name, new_name, pair.as_ref(), &safe, now_ms)).await
}

/// Where the bucket of this name is; `None`: there is no such one.
fn place(app: &App, owner: &str, name: &str) -> Option<S3Place> {
    let known = app.engine.directory();
    let vault = known.vaults_of(known.named(owner)?.id)?.vaults.iter().find(|vault| vault.name == name)?;
    match &vault.target {
        VaultTarget::S3(place) => Some(place.clone()),
        VaultTarget::Hdfs(_) => None,
    }
}

/// One that nothing lies in; `s3`: a bucket. What nothing refers to is deleted there first, unless it is dropped by force. Goes on when the caller
/// hangs up: half-way the vault is neither open nor gone.
pub(super) async fn drop_vault(app: &App, asked: &Asked, s3: bool) -> Answer {
    let Vault { name, force, .. } = asked.vault()?;
    let (app, owner, name, force) = (app.clone(), asked.owner(app)?, name.clone(), *force);
    let dropping = tokio::spawn(async move { drop_called(&app, &owner, &name, force, s3).await });
    dropping.await.unwrap_or_else(|e| Err(Refusal::internal(format!("dropping a vault panicked, please report it: {e}"))))
}

async fn drop_called(app: &App, owner: &str, name: &str, force: bool, s3: bool) -> Answer {
    let engine = app.engine.clone();
    let known = engine.directory();
    let all = known.named(owner).and_then(|tenant| known.vaults_of(tenant.id));
    let called = |vault: &&VaultRecord| vault.name == name && vault.target.bucket().is_some() == s3;
    let vaults: Vec<VaultId> = all.into_iter().flat_map(|all| &all.vaults).filter(called).map(|vault| vault.id).collect();
    // Until it is decided: nothing comes there that was not counted.
    let _closed = engine.close_vaults(vaults.clone());
    let counted = engine.lies_in(vaults).await.map_err(|fault| Refusal::internal(fault.message))?;
    let empty = counted.iter().filter(|(_, lies)| **lies == Lies::default() && !force);
    for (tenant, vault) in empty.filter_map(|(vault, _)| Some((known.vault(*vault)?.tenant, *vault))) {
        let cleared = engine.clear_vault(tenant, vault).await;
        cleared.map_err(|fault| Refusal::existed(format!("vault_name={name}: {}", fault.message)))?;
    }
    // One that was added meanwhile was not counted.
    let lies = |vault| counted.get(&vault).copied().unwrap_or(Lies { objects: 1, checkpoints: 0 });
    decide(app, owner, &|known, _| known.drop_vault(owner, name, s3, &lies)).await
}

/// Each is listed now, all at one time and off the threads that serve.
pub(super) async fn show(app: &App, asked: &Asked) -> Answer {
    let owner = asked.owner(app)?;
    let known = app.engine.directory();
    let tenant = instance::living(&known, &owner)?;
    let Some(all) = known.vaults_of(tenant.id) else { return Ok(Found::Vaults(All { storage_vault: Vec::new() })) };
    let safe = app.engine.safe();
    let looks = all.vaults.iter().map(|vault| {
        let (safe, all, vault) = (safe.clone(), all.clone(), vault.clone());
        let is_new = app.engine.setting(&claim_record(vault.id)).is_none();
        aside(move || {
            let limits = Limits { attempt: PATIENCE, ..Limits::default() };
            let safe = safe.map_err(|fault| fault.message)?;
            let made = if is_new { safe.make_folder(&vault) } else { Ok(()) };
            let ready = made.and_then(|()| safe.vault(&all, &vault, limits)?.ready(Instant::now() + PATIENCE));
            ready.map_err(|fault| fault.message)
        })
    });
    let looked = join_all(looks).await;
    let newest = all.newest().map(|vault| vault.id);
    let looked = all.vaults.iter().zip(looked).map(|(vault, outcome)| {
        let found = app.engine.vault_finding(vault.id);
        let outcome = outcome.unwrap_or_else(|fault| Err(fault.message)).and_then(|()| match &found {
            Some(found) if found.though_listed && !found.condition.is_up() => Err(found.last_error.clone()),
            _ => Ok(()),
        });
        let outcome = outcome.map_err(|why| one_line(&why));
        Ok(Looked {
            vault: StorageVault::of(all, vault, Shown::Masked)?,
            is_default: newest == Some(vault.id),
            ready: outcome.is_ok(),
            reason: outcome.err(),
            evicted_unsaved: app.engine.evicted_unsaved(vault.id).to_string(),
            health: found.map(Health::from),
        })
    });
    Ok(Found::Vaults(All { storage_vault: looked.collect::<Result<_, Refusal>>()? }))
}

pub(super) async fn decide(app: &App, owner: &str, decide: &Decide<'_>) -> Answer {
    outcome(owner, app.engine.decide(decide).await)
}

/// What became of a change.
pub(super) fn outcome(owner: &str, outcome: Result<(), Unchanged>) -> Answer {
    match outcome {
        Err(Unchanged::Refused(Refused::Vault(refused))) => Err(told(refused)),
        other => instance::told(owner, other),
    }
}

/// In the page's words, where it has any.
fn told(refused: VaultRefused) -> Refusal {
    match refused {
        VaultRefused::Unknown(name) => Refusal::not_found(format!("vault_name={} not found", said::shortened(&name))),
        VaultRefused::NameTaken(name) => Refusal::existed(format!("vault_name={} already created", said::shortened(&name))),
        VaultRefused::Full => Refusal::internal("this instance history has greater than 10 objs, please new another instance"),
        VaultRefused::Same => Refusal::argument("original obj infos has a same conf, please check it"),
        VaultRefused::SamePair => Refusal::argument("ak sk eq original, please check it"),
        VaultRefused::Named => Refusal::argument("Storage vault doesn't support add obj info"),
        VaultRefused::NoRamUser => Refusal::argument("instance doesn't have ram user info"),
        VaultRefused::OtherRamUser => Refusal::argument("ram user_id err"),
        VaultRefused::NoUser => Refusal::argument("fail to find the alter obj info"),
        VaultRefused::SameSse(true) => Refusal::argument("failed to enable sse, instance has enabled sse"),
        VaultRefused::SameSse(false) => Refusal::argument("failed to disable sse, instance has disabled sse"),
        VaultRefused::InUse(_) => Refusal::existed(refused.to_string()),
        VaultRefused::Name | VaultRefused::Nameless | VaultRefused::OtherKind(_) | VaultRefused::WhosePair => {
            Refusal::argument(refused.to_string())
        }
    }
}

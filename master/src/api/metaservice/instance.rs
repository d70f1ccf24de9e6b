//! Instances: what their life does to keys, memory and bytes is the directory's and the recycler's; here it is put in the page's words.

use super::envelope::{Answer, Found, Refusal};
use super::shown::Cluster;
use super::store::{BUILT_IN, ObjInfo, Optional, User, Vault};
use super::stored::{self, Shown};
use super::{said, vaults};
use crate::api::extract::Query;
use crate::api::{App, Decide};
use crate::engine::Unchanged;
use crate::observe::TenantUse;
use perilune_protocol::TenantId;
use perilune_protocol::tenant::Quota;
use perilune_state::directory::{DEFAULT_KEYSPACE, Known, NewVault, Refused, TenantRecord, TenantStatus, named_in};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Deserialize, ToSchema)]
#[schema(as = CreateInstance)]
pub(super) struct Create {
    #[serde(default, deserialize_with = "said::text")]
    instance_id: String,
    #[serde(default, deserialize_with = "said::text")]
    name: String,
    #[serde(default, deserialize_with = "said::text")]
    user_id: String,
    vault: Option<Vault>,
    /// What came before vaults.
    obj_info: Option<ObjInfo>,
    ram_user: Option<User>,
    sse_enabled: Option<bool>,
}

/// What is asked of an instance that there is.
#[derive(Deserialize, ToSchema)]
#[schema(as = AskedOfInstance)]
pub(super) struct Asked {
    #[serde(default, deserialize_with = "said::text")]
    instance_id: String,
    /// For `rename_instance`.
    #[serde(default, deserialize_with = "said::text")]
    name: String,
    /// For `set_instance_status`.
    #[serde(default, deserialize_with = "said::text")]
    op: String,
    /// For `set_instance_quota`; absent: no limit.
    #[serde(default, deserialize_with = "said::number")]
    quota_bytes: Option<u64>,
    #[serde(default, deserialize_with = "said::number")]
    quota_objects: Option<u64>,
}

/// An instance as the page shows it. Seconds and large numbers are texts.
#[derive(Serialize)]
pub(super) struct Instance {
    user_id: String,
    instance_id: String,
    name: String,
    clusters: Vec<Cluster>,
    mtime: String,
    ctime: String,
    obj_info: Vec<stored::ObjInfo>,
    stages: [(); 0],
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ram_user: Option<stored::User>,
    sse_enabled: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    resource_ids: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    storage_vault_names: Vec<String>,
    #[serde(flatten)]
    default_vault: Option<stored::Default>,
    enable_storage_vault: bool,
    /// What the page does not have: the number of the key space, how much it may have and has.
    keyspace_id: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    quota_bytes: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quota_objects: Option<String>,
    used_bytes: String,
    used_objects: String,
}

/// The number by which the page of key spaces knows a tenant.
pub(super) fn keyspace(tenant: TenantId) -> u32 {
    if tenant == TenantId::default() { DEFAULT_KEYSPACE } else { tenant.0 }
}

impl Instance {
    pub(super) fn of(known: &Known, uses: &[TenantUse], tenant: &TenantRecord) -> Result<Self, Refusal> {
        let vaults = known.vaults_of(tenant.id);
        let named = || vaults.filter(|all| all.named).into_iter().flat_map(|all| &all.vaults);
        let (bytes, objects) = uses.iter().find(|u| u.id == tenant.id).map_or((0, 0), |u| (u.bytes, u.objects));
        Ok(Self {
            user_id: tenant.user_id.clone(),
            instance_id: tenant.name.clone(),
            name: tenant.shown.clone(),
            clusters: known.pools_of(tenant.id).map(Cluster::of).collect(),
            mtime: (tenant.mtime_ms / 1000).to_string(),
            ctime: (tenant.ctime_ms / 1000).to_string(),
            obj_info: vaults.map(|all| stored::ObjInfo::all_of(all, Shown::Masked)).transpose()?.unwrap_or_default(),
            stages: [],
            status: match tenant.status {
                TenantStatus::Normal => "NORMAL",
                TenantStatus::Overdue => "OVERDUE",
                TenantStatus::Deleted | TenantStatus::Gone => "DELETED",
            },
            ram_user: vaults.and_then(|all| all.ram_user.as_ref()).map(stored::User::of),
            sse_enabled: vaults.is_some_and(|all| all.sse),
            resource_ids: named().map(|vault| vault.number.to_string()).collect(),
            storage_vault_names: named().map(|vault| vault.name.clone()).collect(),
            default_vault: vaults.and_then(stored::Default::of),
            enable_storage_vault: vaults.is_some_and(|all| all.named),
            keyspace_id: keyspace(tenant.id),
            quota_bytes: tenant.quota.bytes.map(|n| n.to_string()),
            quota_objects: tenant.quota.objects.map(|n| n.to_string()),
            used_bytes: bytes.to_string(),
            used_objects: objects.to_string(),
        })
    }
}

pub(super) async fn create(app: &App, asked: &Create) -> Answer {
    if asked.instance_id.is_empty() {
        return Err(Refusal::argument("instance id not set"));
    }
    let (id, names) = (&asked.instance_id, (asked.instance_id.as_str(), asked.name.as_str(), asked.user_id.as_str()));
    let incomplete = || Refusal::argument("ram user info err, please check it");
    let ram_user = asked.ram_user.as_ref().map(|user| user.pair().ok_or_else(incomplete)).transpose()?;
    let vault = asked.vault(app).await?;
    let sse = asked.sse_enabled == Some(true);
    if vault.is_none() && ram_user.is_none() && !sse {
        return decide(app, id, &|known, now_ms| known.create(names.0, names.1, names.2, now_ms)).await;
    }
    let safe = app.engine.safe()?;
    vaults::decide(app, id, &|known, now_ms| known.create_with(names, vault.as_ref(), ram_user.as_ref(), sse, &safe, now_ms)).await
}

impl Create {
    /// The vault that the instance begins with, of the three ways to describe one.
    async fn vault(&self, app: &App) -> Result<Option<NewVault>, Refusal> {
        let one = || Refusal::argument("an instance is created with one of vault.obj_info, vault.hdfs_info and obj_info");
        match (&self.vault, &self.obj_info) {
            (None, None) => Ok(None),
            (None, Some(obj)) => obj.vault("", Optional { external_endpoint: true, provider: false }).map(Some),
            (Some(vault), None) => match (&vault.obj_info, &vault.hdfs_info) {
                (Some(obj), None) => obj.vault(BUILT_IN, Optional::default()).map(Some),
                (None, Some(hdfs)) => hdfs.vault(BUILT_IN, app).await.map(Some),
                _ => Err(one()),
            },
            (Some(_), Some(_)) => Err(one()),
        }
    }
}

pub(super) async fn drop_instance(app: &App, asked: &Asked) -> Answer {
    decide(app, asked.id()?, &|known, now_ms| known.drop_tenant(&asked.instance_id, now_ms)).await
}

pub(super) async fn rename(app: &App, asked: &Asked) -> Answer {
    decide(app, asked.id()?, &|known, now_ms| known.rename(&asked.instance_id, &asked.name, now_ms)).await
}

pub(super) async fn recycle(app: &App, asked: &Asked) -> Answer {
    decide(app, asked.id()?, &|known, now_ms| known.recycle(&asked.instance_id, now_ms)).await
}

pub(super) async fn set_quota(app: &App, asked: &Asked) -> Answer {
    let quota = Quota { bytes: asked.quota_bytes, objects: asked.quota_objects };
    decide(app, asked.id()?, &|known, now_ms| known.set_quota(&asked.instance_id, quota, now_ms)).await
}

pub(super) async fn set_status(app: &App, asked: &Asked) -> Answer {
    let id = asked.id()?;
    let overdue = match asked.op.as_str() {
        "SET_OVERDUE" => true,
        "SET_NORMAL" => false,
        other => return Err(Refusal::argument(format!("invalid request op, op={}", said::shortened(other)))),
    };
    let outcome = app.engine.decide(&|known: &Known, now_ms| known.set_overdue(id, overdue, now_ms)).await;
    let word = if overdue { "overdue" } else { "normal" };
    match outcome {
        Err(Unchanged::Refused(Refused::Already(_))) if overdue => {
            Err(Refusal::argument(format!("the instance has already set  instance to overdue, instance_id = {id}")))
        }
        Err(Unchanged::Refused(Refused::Already(_))) => {
            Err(Refusal::argument(format!("the instance is already normal, instance_id = {id}")))
        }
        Err(Unchanged::Refused(Refused::Dropped(_))) => {
            Err(Refusal::argument(format!("can't set deleted instance to {word}, instance_id = {id}")))
        }
        other => told(id, other),
    }
}

/// The instance that a `cloud_unique_id` stands for, whether there is one or not: that of the node, else the one that is named in it.
pub(super) fn named_by(known: &Known, unique_id: &str) -> Option<String> {
    known.owner(unique_id).map(|t| t.name.clone()).or_else(|| named_in(unique_id).map(str::to_owned))
}

/// By `instance_id`, or by the `cloud_unique_id` of one of its nodes, `1:INSTANCE:ANYTHING`.
pub(super) fn get(app: &App, query: &Query) -> Answer {
    let known = app.engine.directory();
    let unique = query.text("cloud_unique_id").filter(|id| !id.is_empty());
    let id = match (query.text("instance_id").filter(|id| !id.is_empty()), unique) {
        (Some(id), _) => id,
        (None, Some(unique)) => {
            let unknown = || Refusal::argument(format!("cannot find instance_id with cloud_unique_id={}", said::shortened(&unique)));
            named_by(&known, &unique).ok_or_else(unknown)?
        }
        (None, None) => return Err(Refusal::argument("empty instance_id and cloud_unique_id")),
    };
    let found = known.named(&id).filter(|t| t.status != TenantStatus::Gone);
    let found = found.ok_or_else(|| Refusal::not_found(format!("failed to get instance, instance_id={}", said::shortened(&id))))?;
    Ok(Found::Instance(Box::new(Instance::of(&known, &app.engine.tenants(), found)?)))
}

/// The instance of this name, if it is served.
pub(super) fn living<'a>(known: &'a Known, id: &str) -> Result<&'a TenantRecord, Refusal> {
    let found = known.named(id).ok_or_else(|| refusal(id, &Refused::Unknown(String::new())))?;
    match found.status {
        TenantStatus::Normal | TenantStatus::Overdue => Ok(found),
        TenantStatus::Deleted | TenantStatus::Gone => Err(refusal(id, &Refused::Dropped(String::new()))),
    }
}

/// Every instance that is not gone, by name.
pub(super) fn list(app: &App) -> Answer {
    let known = app.engine.directory();
    let uses = app.engine.tenants();
    let there = known.tenants().filter(|t| t.status != TenantStatus::Gone);
    let mut all = there.map(|t| Instance::of(&known, &uses, t)).collect::<Result<Vec<_>, _>>()?;
    all.sort_by(|a, b| a.instance_id.cmp(&b.instance_id));
    Ok(Found::Instances(all))
}

impl Asked {
    fn id(&self) -> Result<&str, Refusal> {
        if self.instance_id.is_empty() { Err(Refusal::argument("instance id not set")) } else { Ok(&self.instance_id) }
    }
}

async fn decide(app: &App, id: &str, decide: &Decide<'_>) -> Answer {
    told(id, app.engine.decide(decide).await)
}

/// What became of a change, in the page's words where it has any.
pub(super) fn told(id: &str, outcome: Result<(), Unchanged>) -> Answer {
    match outcome {
        Ok(()) => Ok(Found::Nothing),
        Err(Unchanged::Fault(fault)) => Err(fault.into()),
        Err(Unchanged::Refused(refused)) => Err(refusal(id, &refused)),
    }
}

fn refusal(id: &str, refused: &Refused) -> Refusal {
    let id = said::shortened(id);
    match refused {
        Refused::Exists(_) => Refusal::existed(format!("instance already existed, instance_id={id}")),
        Refused::Unknown(_) => Refusal::not_found(format!("instance not existed, instance_id={id}")),
        Refused::Dropped(_) => Refusal::not_found("instance status has been set delete, plz check it"),
        Refused::HasPools(_) => Refusal::argument("failed to drop instance, instance has clusters"),
        Refused::Table(_) => Refusal::existed(refused.to_string()),
        Refused::NoTable(_) => Refusal::not_found(refused.to_string()),
        Refused::Already(_) | Refused::Wrong(_) | Refused::Pool(_) | Refused::Vault(_) | Refused::Feed(_) => {
            Refusal::argument(refused.to_string())
        }
        Refused::Secret(fault) => fault.clone().into(),
    }
}

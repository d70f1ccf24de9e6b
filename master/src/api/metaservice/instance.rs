//! Instances: what their life does to keys, memory and bytes is the directory's and the recycler's; here it is put in the page's words.

use super::envelope::{Answer, Found, Refusal};
use super::said;
use super::shown::Cluster;
use crate::api::extract::Query;
use crate::api::{App, Decide};
use crate::engine::Unchanged;
use crate::observe::TenantUse;
use perilune_protocol::tenant::Quota;
use perilune_state::directory::{Known, Refused, TenantRecord, TenantStatus, named_in};
use serde::{Deserialize, Serialize};
use serde_json::Value;
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
    vault: Option<Value>,
    obj_info: Option<Value>,
    ram_user: Option<Value>,
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
    stages: [(); 0],
    status: &'static str,
    /// What the page does not have: the number of the key space, how much it may have and has.
    keyspace_id: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    quota_bytes: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quota_objects: Option<String>,
    used_bytes: String,
    used_objects: String,
}

/// The number by which the page of keyspaces knows the tenant `default`.
const DEFAULT_KEYSPACE: u32 = u32::MAX;

impl Instance {
    fn of(known: &Known, uses: &[TenantUse], tenant: &TenantRecord) -> Self {
        let (bytes, objects) = uses.iter().find(|u| u.id == tenant.id).map_or((0, 0), |u| (u.bytes, u.objects));
        Self {
            user_id: tenant.user_id.clone(),
            instance_id: tenant.name.clone(),
            name: tenant.shown.clone(),
            clusters: known.pools_of(tenant.id).map(Cluster::of).collect(),
            mtime: (tenant.mtime_ms / 1000).to_string(),
            ctime: (tenant.ctime_ms / 1000).to_string(),
            stages: [],
            status: match tenant.status {
                TenantStatus::Normal => "NORMAL",
                TenantStatus::Overdue => "OVERDUE",
                TenantStatus::Deleted | TenantStatus::Gone => "DELETED",
            },
            keyspace_id: if tenant.id.0 == 0 { DEFAULT_KEYSPACE } else { tenant.id.0 },
            quota_bytes: tenant.quota.bytes.map(|n| n.to_string()),
            quota_objects: tenant.quota.objects.map(|n| n.to_string()),
            used_bytes: bytes.to_string(),
            used_objects: objects.to_string(),
        }
    }
}

pub(super) async fn create(app: &App, asked: &Create) -> Answer {
    if asked.instance_id.is_empty() {
        return Err(Refusal::argument("instance id not set"));
    }
    if asked.vault.is_some() || asked.obj_info.is_some() || asked.ram_user.is_some() {
        return Err(Refusal::argument("this release has no cold tier: create the instance without vault, obj_info and ram_user"));
    }
    decide(app, &asked.instance_id, &|known, now_ms| known.create(&asked.instance_id, &asked.name, &asked.user_id, now_ms)).await
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
    Ok(Found::Instance(Box::new(Instance::of(&known, &app.engine.tenants(), found))))
}

/// Every instance that is not gone, by name.
pub(super) fn list(app: &App) -> Answer {
    let known = app.engine.directory();
    let uses = app.engine.tenants();
    let mut all: Vec<_> = known.tenants().filter(|t| t.status != TenantStatus::Gone).map(|t| Instance::of(&known, &uses, t)).collect();
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
    let id = said::shortened(id);
    match outcome {
        Ok(()) => Ok(Found::Nothing),
        Err(Unchanged::Fault(fault)) => Err(fault.into()),
        Err(Unchanged::Refused(refused)) => Err(match refused {
            Refused::Exists(_) => Refusal::existed(format!("instance already existed, instance_id={id}")),
            Refused::Unknown(_) => Refusal::not_found(format!("instance not existed, instance_id={id}")),
            Refused::Dropped(_) => Refusal::not_found("instance status has been set delete, plz check it"),
            Refused::HasPools(_) => Refusal::argument("failed to drop instance, instance has clusters"),
            Refused::Already(_) | Refused::Wrong(_) | Refused::Pool(_) => Refusal::argument(refused.to_string()),
        }),
    }
}

//! How far the recycler is with a dropped instance.

use super::envelope::{Answer, Found, Refusal};
use super::said::{Said, shortened, text};
use crate::api::App;
use crate::api::extract::Query;
use perilune_state::directory::TenantStatus;
use perilune_state::settings::TENANT_RETENTION_SECONDS;
use serde::{Deserialize, Serialize};

/// Where Doris has its recycler, and what of it is known there.
pub(super) const SERVICE: &str = "/RecyclerService/";
pub(super) const CALLS: [&str; 2] = ["recycle_job_info", "recycle_instance"];

#[derive(Default, Deserialize)]
struct Asked {
    #[serde(default, deserialize_with = "text")]
    instance_id: String,
}

/// In milliseconds, as texts. What this master did since it leads; 0 is never.
#[derive(Serialize)]
pub(super) struct Job {
    instance_id: String,
    ip_port: String,
    last_ctime_ms: String,
    /// When the retention ends, and it begins.
    expiration_time_ms: String,
    last_finish_time_ms: String,
    last_success_time_ms: String,
    status: &'static str,
}

/// By `?instance_id=`, or by one in the body.
pub(super) fn info(app: &App, query: &Query, said: &Said<'_>) -> Answer {
    let asked = match query.text("instance_id").filter(|id| !id.is_empty()) {
        Some(instance_id) => Asked { instance_id },
        None => said.parse()?,
    };
    let id = asked.instance_id;
    if id.is_empty() {
        return Err(Refusal::argument("instance id not set"));
    }
    let known = app.engine.directory();
    let tenant = known.named(&id).ok_or_else(|| Refusal::not_found(format!("instance not existed, instance_id={}", shortened(&id))))?;
    if !matches!(tenant.status, TenantStatus::Deleted | TenantStatus::Gone) {
        return Err(Refusal::not_found(format!("there is no job: the instance is not dropped, instance_id={}", shortened(&id))));
    }
    let done = app.engine.recycled(tenant.id);
    let retention_s = app.engine.setting(TENANT_RETENTION_SECONDS).and_then(|value| value.parse().ok());
    let retention_s = if tenant.recycle_now { 0 } else { retention_s.unwrap_or_default() };
    let begins_ms = tenant.mtime_ms.saturating_add(u64::saturating_mul(retention_s, 1000));
    Ok(Found::RecycleJob(Job {
        instance_id: tenant.name.clone(),
        ip_port: app.engine.leader().unwrap_or_default(),
        last_ctime_ms: done.begun_ms.to_string(),
        expiration_time_ms: begins_ms.to_string(),
        last_finish_time_ms: done.ended_ms.to_string(),
        last_success_time_ms: done.succeeded_ms.to_string(),
        status: if done.busy { "BUSY" } else { "IDLE" },
    }))
}

//! Clusters that are asked for: one, all of an instance, or the status of those of several.

use super::envelope::{Answer, Found, Refusal};
use super::shown::{Brief, Cluster};
use super::{cluster, said};
use crate::api::App;
use perilune_state::directory::{Known, PoolKind, PoolRecord, TenantRecord, TenantStatus};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt::Write;
use utoipa::ToSchema;

#[derive(Deserialize, ToSchema)]
#[schema(as = ClusterLookup)]
pub(super) struct Asked {
    #[serde(default, deserialize_with = "said::text")]
    instance_id: String,
    #[serde(default, deserialize_with = "said::text")]
    cloud_unique_id: String,
    #[serde(default, deserialize_with = "said::text")]
    cluster_id: String,
    #[serde(default, deserialize_with = "said::text")]
    cluster_name: String,
    #[serde(default, deserialize_with = "said::text")]
    mysql_user_name: String,
}

#[derive(Deserialize, ToSchema)]
#[schema(as = ClusterStatusLookup)]
pub(super) struct AskedStatus {
    #[serde(default, deserialize_with = "said::texts")]
    instance_ids: Vec<String>,
    #[serde(default, deserialize_with = "said::texts")]
    cloud_unique_ids: Vec<String>,
    #[serde(default, deserialize_with = "said::text")]
    status: String,
}

/// All clusters of an instance.
#[derive(Serialize)]
pub(super) struct All {
    cluster: Vec<Cluster>,
    enable_storage_vault: bool,
}

/// The statuses of clusters, by instance.
#[derive(Serialize)]
pub(super) struct Details {
    details: Vec<Detail>,
}

#[derive(Serialize)]
struct Detail {
    instance_id: String,
    clusters: Vec<Brief>,
}

/// By `cluster_id`, else `cluster_name`, else `mysql_user_name`; else all.
pub(super) fn get(app: &App, asked: &Asked) -> Answer {
    if asked.cloud_unique_id.is_empty() {
        return Err(Refusal::argument("cloud_unique_id must be given"));
    }
    let known = app.engine.directory();
    let tenant = match (known.owner(&asked.cloud_unique_id), asked.instance_id.as_str()) {
        (Some(tenant), _) => Some(tenant),
        (None, "") if super::instance::named_by(&known, &asked.cloud_unique_id).is_none() => {
            return Err(Refusal::argument("empty instance_id"));
        }
        (None, id) => known.named(id),
    };
    let tenant = tenant.filter(|tenant| is_served(tenant)).ok_or_else(|| asked.not_found())?;
    let enable_storage_vault = known.vaults_of(tenant.id).is_some_and(|vaults| vaults.named);
    let mut pools = known.pools_of(tenant.id);
    let found = match asked {
        Asked { cluster_id, .. } if !cluster_id.is_empty() => pools.find(|pool| pool.cluster_id == *cluster_id),
        Asked { cluster_name, .. } if !cluster_name.is_empty() => pools.find(|pool| pool.name == *cluster_name),
        Asked { mysql_user_name, .. } if !mysql_user_name.is_empty() => pools.find(|pool| pool.users.contains(mysql_user_name)),
        _ => return Ok(Found::Clusters(All { cluster: pools.map(Cluster::of).collect(), enable_storage_vault })),
    };
    found.map(|pool| Found::Cluster(Box::new(Cluster::of(pool)))).ok_or_else(|| asked.not_found())
}

/// Of the clusters that have it, where one status is asked for. Instances that there are not, or that have none, are left out.
pub(super) fn statuses(app: &App, asked: &AskedStatus) -> Answer {
    let AskedStatus { instance_ids, cloud_unique_ids, status } = asked;
    if instance_ids.is_empty() && cloud_unique_ids.is_empty() {
        let why = "cloud_unique_ids or instance_ids must be given, instance_ids.size: 0 cloud_unique_ids.size: 0";
        return Err(Refusal::argument(why));
    }
    let wanted = if status.is_empty() { None } else { Some(cluster::status(status)?) };
    let known = app.engine.directory();
    let by_id = instance_ids.iter().map(|id| known.named(id));
    let by_node = cloud_unique_ids.iter().map(|id| known.owner(id));
    let tenants: Vec<&TenantRecord> = if instance_ids.is_empty() { by_node.flatten().collect() } else { by_id.flatten().collect() };
    // Who is named twice is told of once.
    let mut told = BTreeSet::new();
    let tenants = tenants.into_iter().filter(|tenant| told.insert(tenant.id));
    let shows = |pool: &&PoolRecord| pool.kind == PoolKind::Compute && wanted.is_none_or(|wanted| pool.status == wanted);
    let detail = |tenant: &&TenantRecord| Detail {
        instance_id: tenant.name.clone(),
        clusters: Known::pools_of(&known, tenant.id).filter(shows).map(Brief::of).collect(),
    };
    let details = tenants.filter(|tenant| is_served(tenant)).map(|tenant| detail(&tenant)).filter(|detail| !detail.clusters.is_empty());
    Ok(Found::Statuses(Details { details: details.collect() }))
}

fn is_served(tenant: &TenantRecord) -> bool {
    matches!(tenant.status, TenantStatus::Normal | TenantStatus::Overdue)
}

impl Asked {
    /// The request as it stands in the page's answer: one line of protobuf text.
    fn not_found(&self) -> Refusal {
        let mut request = String::new();
        for (name, value) in [
            ("instance_id", &self.instance_id),
            ("cloud_unique_id", &self.cloud_unique_id),
            ("cluster_id", &self.cluster_id),
            ("cluster_name", &self.cluster_name),
            ("mysql_user_name", &self.mysql_user_name),
        ] {
            if !value.is_empty() {
                let _ = write!(request, "{name}: {:?} ", said::shortened(value));
            }
        }
        Refusal::not_found(format!("fail to get cluster with {request}"))
    }
}

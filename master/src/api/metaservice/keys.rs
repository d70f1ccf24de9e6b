//! Keys of the metadata, as logs print them: drawn, made, and asked for what they name.

use super::drawing::draw;
use super::envelope::{Answer, Found, Refusal};
use super::instance::Instance;
use super::said::shortened;
use super::shown::{self, Cluster, Node};
use super::stored::{Shown, StorageVault};
use super::tables;
use crate::api::App;
use crate::api::extract::Query;
use perilune_protocol::ObjectKey;
use perilune_protocol::metakey::{MetaKey, unhex};
use perilune_state::directory::{PoolRecord, TenantStatus};
use perilune_state::effect::ObjectRecord;
use perilune_state::settings::JOB_RECORD;
use serde_json::{Value, json};

/// `?key=HEX[&unicode=false]`.
pub(super) fn decode(query: &Query) -> Answer {
    let digits = query.text("key").filter(|key| !key.is_empty()).ok_or_else(|| Refusal::argument("no key to decode"))?;
    let drawing = draw(&digits, query.text("unicode").as_deref() != Some("false"));
    let drawing = drawing.ok_or_else(|| Refusal::argument(format!("failed to decode key, key={}", shortened(&digits))))?;
    Ok(Found::Text(drawing + "\n\n"))
}

/// `?key_type=TYPE` and what that takes.
pub(super) fn encode(query: &Query) -> Answer {
    Ok(Found::Text(format!("{}\n", named(query)?)))
}

/// The same, or `?key=HEX`: the record, as JSON, secrets masked.
pub(super) async fn value(app: &App, query: &Query) -> Answer {
    let digits = query.text("key").filter(|_| query.text("key_type").is_none());
    let key = match digits {
        None => named(query)?,
        Some(digits) => {
            let wrong = || Refusal::argument(format!("failed to decode key, key={}", shortened(&digits)));
            MetaKey::decode(&unhex(&digits)).ok_or_else(wrong)?
        }
    };
    let record = match &key {
        MetaKey::Stats(of, numbers) => stats(app, of, *numbers).await?,
        key => record(app, key),
    };
    let record = record.ok_or_else(|| Refusal::not_found(format!("kv not found, key={}", shortened(&key.to_string()))))?;
    Ok(Found::Text(serde_json::to_string_pretty(&record).unwrap_or_default() + "\n"))
}

fn named(query: &Query) -> Result<MetaKey, Refusal> {
    let kind = query.text("key_type").unwrap_or_default();
    let given = |name: &str| {
        let value = query.text(name).filter(|value| !value.is_empty());
        value.ok_or_else(|| Refusal::argument(format!("{name} is not given or empty")))
    };
    let instance = || given("instance_id");
    let number = |name: &str| {
        let said = given(name)?;
        said.parse::<i64>().map_err(|_| Refusal::argument(format!("{name} is a number, not {}", shortened(&said))))
    };
    Ok(match kind.as_str() {
        "" => return Err(Refusal::argument("key_type is not given or empty")),
        "InstanceKey" => MetaKey::Instance(instance()?),
        "ClusterKey" => MetaKey::Cluster(instance()?, given("cluster_id")?),
        "NodeKey" => MetaKey::Node([instance()?, given("cluster_id")?, given("cloud_unique_id")?, given("endpoint")?]),
        "ObjectKey" => {
            let key = ObjectKey::from(given("key")?);
            key.check().map_err(|fault| Refusal::argument(fault.message))?;
            MetaKey::Object(instance()?, key)
        }
        "StorageVaultKey" => MetaKey::Vaults(instance()?),
        "TableKey" => MetaKey::Table(instance()?, number("table_id")?),
        "StatsTabletKey" => {
            MetaKey::Stats(instance()?, [number("table_id")?, number("index_id")?, number("part_id")?, number("tablet_id")?])
        }
        "JobRecycleKey" => MetaKey::RecycleJob(instance()?),
        "ChangefeedKey" => MetaKey::Changefeed(instance()?, given("name")?),
        "SegmentKey" => {
            let id = given("segment_id")?;
            MetaKey::Segment(id.parse().map_err(|_| Refusal::argument(format!("segment_id is a UUID, not {}", shortened(&id))))?)
        }
        "ConfigKey" => MetaKey::Setting(given("name")?),
        other => return Err(Refusal::argument(format!("key_type not supported: {}", shortened(other)))),
    })
}

fn record(app: &App, key: &MetaKey) -> Option<Value> {
    let known = app.engine.directory();
    let tenant = |name: &str| known.named(name);
    let pool = |of: &str, id: &str| known.pools_of(tenant(of)?.id).find(|pool| pool.cluster_id == id);
    match key {
        MetaKey::Instance(name) => serde_json::to_value(Instance::of(&known, &app.engine.tenants(), tenant(name)?).ok()?).ok(),
        MetaKey::Cluster(of, id) => serde_json::to_value(Cluster::of(pool(of, id)?)).ok(),
        MetaKey::Node([of, id, unique_id, at]) => {
            let PoolRecord { nodes, .. } = pool(of, id)?;
            let node = nodes.iter().find(|node| node.unique_id == *unique_id && node.endpoint() == *at)?;
            serde_json::to_value(Node::of(node)).ok()
        }
        MetaKey::Object(of, key) => app.engine.object(tenant(of)?.id, key).map(|record| object(of, record)),
        // How far it is is the recycler's to say; that it has something to do is recorded with the tenant.
        MetaKey::RecycleJob(of) => {
            let found = tenant(of).filter(|tenant| tenant.status == TenantStatus::Deleted)?;
            Some(json!({"instance_id": found.name, "dropped": shown::seconds(found.mtime_ms), "now": found.recycle_now}))
        }
        MetaKey::Changefeed(of, name) => {
            let feed = known.feed_named(tenant(of)?.id, name)?;
            Some(json!({"instance_id": of, "name": feed.name, "sink": feed.sink, "state": feed.state.name()}))
        }
        MetaKey::Segment(id) => {
            let found = app.engine.segments().into_iter().find(|segment| segment.desc.id == *id)?;
            let mut value = serde_json::to_value(found).ok()?;
            // Zero here, and nobody's to see.
            value["desc"].as_object_mut()?.remove("capability");
            Some(in_texts(value))
        }
        MetaKey::Vaults(of) => {
            let all = known.vaults_of(tenant(of)?.id)?;
            let shown = all.vaults.iter().map(|vault| StorageVault::of(all, vault, Shown::Masked).ok()).collect::<Option<Vec<_>>>()?;
            serde_json::to_value(shown).ok()
        }
        MetaKey::Table(of, id) => tables::record(&known, tenant(of)?.id, *id),
        // Counted aside.
        MetaKey::Stats(..) => None,
        MetaKey::Setting(name) if name.starts_with(JOB_RECORD) => None,
        MetaKey::Setting(name) => app.engine.setting(name).map(|value| json!({"name": name, "value": value})),
    }
}

async fn stats(app: &App, of: &str, numbers: [i64; 4]) -> Result<Option<Value>, Refusal> {
    let known = app.engine.directory();
    let Some(tenant) = known.named(of).map(|tenant| tenant.id) else { return Ok(None) };
    let Some(found) = tables::find(&known, tenant, numbers.map(|number| u64::try_from(number).ok())) else { return Ok(None) };
    let counted = tables::count(app, tenant, &[found]).await?;
    Ok(serde_json::to_value(&counted.tablet_stats[0]).ok())
}

/// Large numbers are texts, as everywhere on this face: of bytes, wherever they stand.
fn in_texts(value: Value) -> Value {
    let text = |name: &str, value: Value| match value {
        Value::Number(number) if ["base", "size", "used", "offset", "len"].contains(&name) => number.to_string().into(),
        other => in_texts(other),
    };
    match value {
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name.clone(), text(&name, value))).collect(),
        Value::Array(items) => items.into_iter().map(in_texts).collect(),
        other => other,
    }
}

fn object(tenant: &str, record: ObjectRecord) -> Value {
    let ObjectRecord { key, version, size, checksum, pin, replicas, wanted, .. } = record;
    in_texts(json!({
        "instance_id": tenant,
        "key": key.to_string(),
        "version": version.0.to_string(),
        "size": size.to_string(),
        "checksum": checksum.to_string(),
        "pin": pin,
        "wanted": wanted,
        "replicas": replicas,
    }))
}

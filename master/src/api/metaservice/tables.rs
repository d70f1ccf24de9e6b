//! Tables and tablets: which keys are whose is the directory's, what there is of each shard is counted when it is asked for.

use super::envelope::{Answer, Found, Refusal};
use super::{instance, said};
use crate::api::App;
use perilune_protocol::TenantId;
use perilune_state::directory::{Known, SHARDS_DEFAULT, ShardId, TableId, TableRecord, TenantRecord};
use perilune_state::shards::{NoJob, Passes, ShardCount};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use std::collections::BTreeSet;
use utoipa::ToSchema;

/// What is asked of the tables of an instance.
#[derive(Deserialize, ToSchema)]
#[schema(as = AskedOfTables)]
pub(super) struct Asked {
    #[serde(default, deserialize_with = "said::text")]
    pub(super) instance_id: String,
    #[serde(default, deserialize_with = "said::text")]
    pub(super) cloud_unique_id: String,
    #[serde(default, deserialize_with = "said::text")]
    db_name: String,
    #[serde(default, deserialize_with = "said::text")]
    table_name: String,
    /// How the keys begin.
    #[serde(default, deserialize_with = "said::text")]
    prefix: String,
    #[serde(default, deserialize_with = "said::number")]
    shards: Option<u64>,
    #[serde(default)]
    tablet_idx: Vec<Idx>,
    job: Option<Job>,
}

#[derive(Default, Deserialize, ToSchema)]
#[schema(as = TabletIdx)]
struct Idx {
    #[serde(default, deserialize_with = "said::number")]
    table_id: Option<u64>,
    #[serde(default, deserialize_with = "said::number")]
    index_id: Option<u64>,
    #[serde(default, deserialize_with = "said::number")]
    partition_id: Option<u64>,
    #[serde(default, deserialize_with = "said::number")]
    tablet_id: Option<u64>,
}

#[derive(Deserialize, ToSchema)]
#[schema(as = TabletJob)]
struct Job {
    #[serde(default)]
    idx: Idx,
    #[serde(default)]
    compaction: Vec<Compaction>,
}

#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = TabletCompaction)]
struct Compaction {
    #[serde(default, deserialize_with = "said::text")]
    id: String,
}

/// A table as it is listed; `default.default` has what no other takes.
#[derive(Serialize)]
pub(super) struct Table {
    db_name: String,
    db_id: String,
    table_name: String,
    table_id: String,
    index_id: String,
    partition_id: String,
    prefix: String,
    tablet_ids: Vec<String>,
    /// What is done on its shards now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    jobs: Vec<Running>,
    keyspace_id: u32,
}

/// A job on a shard: what `abort_tablet_job` wants to know.
#[derive(Serialize)]
struct Running {
    tablet_id: String,
    id: String,
}

impl Table {
    pub(super) fn of(table: &TableRecord, jobs: &[(ShardId, u64)]) -> Self {
        let own = jobs.iter().filter(|(shard, _)| table.has(*shard));
        Self {
            jobs: own.map(|(shard, id)| Running { tablet_id: shard.0.to_string(), id: id.to_string() }).collect(),
            db_name: table.db.clone(),
            db_id: table.db_id.to_string(),
            table_name: table.name.clone(),
            table_id: table.id.0.to_string(),
            index_id: table.index_id.to_string(),
            partition_id: table.partition_id.to_string(),
            prefix: String::from_utf8_lossy(&table.prefix).into_owned(),
            tablet_ids: table.shards().map(|shard| shard.0.to_string()).collect(),
            keyspace_id: instance::keyspace(table.tenant),
        }
    }
}

/// Names and numbers, in this order; as texts where they are JSON.
pub(super) struct Numbers<const N: usize>(pub(super) [(&'static str, u64); N]);

impl<const N: usize> Serialize for Numbers<N> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(N))?;
        self.0.iter().try_for_each(|(name, number)| map.serialize_entry(name, &number.to_string()))?;
        map.end()
    }
}

/// What there is of a tablet.
#[derive(Serialize)]
pub(super) struct TabletStats {
    pub(super) idx: Numbers<4>,
    #[serde(flatten)]
    pub(super) counts: Numbers<7>,
}

#[derive(Serialize)]
pub(super) struct AllStats {
    pub(super) tablet_stats: Vec<TabletStats>,
}

impl TabletStats {
    fn of(table: &TableRecord, tablet: ShardId, count: &ShardCount, passes: Passes) -> Self {
        let idx = [("table_id", table.id.0), ("index_id", table.index_id), ("partition_id", table.partition_id), ("tablet_id", tablet.0)];
        let counts = [
            ("data_size", count.bytes),
            ("num_rows", count.objects),
            ("num_rowsets", count.copies),
            ("num_segments", count.segments.len() as u64),
            ("base_compaction_cnt", passes.offloads),
            ("cumulative_compaction_cnt", passes.evictions),
            ("cumulative_point", count.saved_to().0),
        ];
        Self { idx: Numbers(idx), counts: Numbers(counts) }
    }
}

/// The instance that is meant, by its id or by what one of its nodes presents. `None`: neither says one.
pub(super) fn served<'a>(known: &'a Known, instance_id: &str, unique_id: &str) -> Result<Option<&'a TenantRecord>, Refusal> {
    let named = if instance_id.is_empty() { instance::named_by(known, unique_id) } else { Some(instance_id.to_owned()) };
    let Some(name) = named else { return Ok(None) };
    instance::living(known, &name).map(Some)
}

impl Asked {
    fn tenant<'a>(&self, known: &'a Known) -> Result<&'a TenantRecord, Refusal> {
        served(known, &self.instance_id, &self.cloud_unique_id)?.ok_or_else(|| Refusal::argument("empty instance_id"))
    }
}

pub(super) async fn create(app: &App, asked: &Asked) -> Answer {
    let name = asked.tenant(&app.engine.directory())?.name.clone();
    let shards = asked.shards.map_or(Ok(SHARDS_DEFAULT), u16::try_from);
    let shards = shards.map_err(|_| Refusal::argument("a table has at most 1024 shards"))?;
    let Asked { db_name, table_name, prefix, .. } = asked;
    let outcome = app.engine.decide(&|known, now_ms| known.declare(&name, db_name, table_name, prefix.as_bytes(), shards, now_ms)).await;
    instance::told(&name, outcome)
}

pub(super) async fn drop_table(app: &App, asked: &Asked) -> Answer {
    let name = asked.tenant(&app.engine.directory())?.name.clone();
    let outcome = app.engine.decide(&|known, now_ms| known.undeclare(&name, &asked.db_name, &asked.table_name, now_ms)).await;
    instance::told(&name, outcome)
}

pub(super) fn list(app: &App, asked: &Asked) -> Answer {
    let known = app.engine.directory();
    let tables = known.tables_of(asked.tenant(&known)?.id);
    let jobs = app.engine.shard_jobs();
    Ok(Found::Tables(tables.iter().map(|table| Table::of(table, &jobs)).collect()))
}

pub(super) async fn stats(app: &App, asked: &Asked) -> Answer {
    let known = app.engine.directory();
    let tenant = asked.tenant(&known)?.id;
    let tablets = asked.tablet_idx.iter().map(|idx| tablet(&known, tenant, idx)).collect::<Result<Vec<_>, _>>()?;
    Ok(Found::TabletStats(count(app, tenant, &tablets).await?))
}

/// What there is of these.
pub(super) async fn count(app: &App, tenant: TenantId, tablets: &[(TableRecord, ShardId)]) -> Result<AllStats, Refusal> {
    let shards: BTreeSet<ShardId> = tablets.iter().map(|(_, shard)| *shard).collect();
    let counts = if shards.is_empty() { Default::default() } else { app.engine.count_shards(tenant, shards).await? };
    let none = ShardCount::default();
    let stats = tablets
        .iter()
        .map(|(table, shard)| TabletStats::of(table, *shard, counts.get(shard).unwrap_or(&none), app.engine.shard_passes(*shard)));
    Ok(AllStats { tablet_stats: stats.collect() })
}

/// The tablet that four numbers mean, of which all but its own may be left out.
pub(super) fn find(known: &Known, tenant: TenantId, numbers: [Option<u64>; 4]) -> Option<(TableRecord, ShardId)> {
    let [table_id, index_id, partition_id, tablet_id] = numbers;
    let shard = ShardId(tablet_id?);
    let table = known.table_with(shard).filter(|table| table.tenant == tenant && !table.dropped)?;
    let is = |said: Option<u64>, number| said.is_none_or(|said| said == 0 || said == number);
    let agree = is(table_id, table.id.0) && is(index_id, table.index_id) && is(partition_id, table.partition_id);
    agree.then_some((table, shard))
}

fn tablet(known: &Known, tenant: TenantId, idx: &Idx) -> Result<(TableRecord, ShardId), Refusal> {
    let tablet_id = idx.tablet_id.filter(|id| *id > 0).ok_or_else(|| Refusal::argument("no valid tablet_id given"))?;
    let found = find(known, tenant, [idx.table_id, idx.index_id, idx.partition_id, idx.tablet_id]);
    let why = || Refusal::not_found(format!("tablet stats not found, tablet_id={tablet_id}")).called("TABLET_NOT_FOUND");
    found.ok_or_else(why)
}

/// The job that is done on a tablet stops before its next object.
pub(super) fn abort_job(app: &App, asked: &Asked) -> Answer {
    let known = app.engine.directory();
    let tenant = asked.tenant(&known)?;
    let Some(Job { idx, compaction }) = asked.job.as_ref().filter(|job| !job.compaction.is_empty()) else {
        return Err(Refusal::argument("no valid job specified"));
    };
    let tablet = idx.tablet_id.filter(|id| *id > 0).ok_or_else(|| Refusal::argument("no valid tablet_id given"))?;
    let of_tenant = known.table_with(ShardId(tablet)).filter(|table| table.tenant == tenant.id);
    if of_tenant.as_ref().is_some_and(|table| table.dropped) {
        return Err(Refusal::not_found(format!("tablet {tablet} has been dropped")).called("TABLET_NOT_FOUND"));
    }
    let given = serde_json::to_string(&compaction[0]).unwrap_or_default();
    let stopped = of_tenant.map_or(Err(NoJob::None), |_| app.engine.stop_shard_job(ShardId(tablet), &compaction[0].id));
    stopped.map(|()| Found::Nothing).map_err(|why| match why {
        NoJob::None => {
            let job = said::shortened(&given);
            Refusal::argument(format!("job not found, instance_id={} tablet_id={tablet} job={job} err=none is done", tenant.name))
        }
        NoJob::Other(id) => {
            let recorded = serde_json::json!({ "id": id.to_string() });
            Refusal::argument(format!("unmatched job id, recorded_job={recorded} given_job={}", said::shortened(&given)))
        }
    })
}

/// The record of a table, for who asks by its key.
pub(super) fn record(known: &Known, tenant: TenantId, id: i64) -> Option<Value> {
    let table = known.table(TableId(u64::try_from(id).ok()?)).filter(|table| table.tenant == tenant && !table.dropped)?;
    serde_json::to_value(Table::of(&table, &[])).ok()
}

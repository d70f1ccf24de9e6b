//! Which tables a feed would carry.

use super::said::{self, Asked, Body};
use super::{Answer, engine, json};
use crate::api::App;
use crate::feeds::{Code, ReplicaConfig, Rows, SinkUri, filter_of};
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

#[derive(Serialize, ToSchema)]
#[schema(as = VerifiedTables)]
struct Tables {
    /// Every table can be carried, so none is here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ineligible_tables: Vec<TableName>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    eligible_tables: Vec<TableName>,
}

#[derive(Serialize, ToSchema)]
struct TableName {
    database_name: String,
    table_name: String,
    table_id: u64,
    is_partition: bool,
}

/// Which tables the rules of a feed take. Its sink is read, and not opened.
#[utoipa::path(
    post, path = "/api/v2/verify_table", tag = "changefeeds",
    request_body = Asked,
    responses((status = 200, description = "Those.", body = Tables))
)]
pub(super) async fn verify_table(State(app): State<App>, Body(body): Body) -> Answer {
    let asked: Asked = said::parse(&body)?;
    said::own_cluster(&asked.pd_addrs)?;
    let config = ReplicaConfig::default().over(&asked.replica_config);
    let config = config.map_err(|e| Code::ApiInvalidParam.with(format!("invalid api parameter: {e}")))?;
    if !asked.sink_uri.is_empty() {
        SinkUri::parse(&asked.sink_uri).map_err(|why| Code::SinkUriInvalid.with(format!("sink uri invalid '{why}'")))?;
    }
    let filter = filter_of(&config)?;
    let known = engine(&app)?.directory();
    let namespace = if asked.namespace.is_empty() { said::DEFAULT_NAMESPACE } else { &asked.namespace };
    let tables = known.named(namespace).map(|tenant| Rows::tables(&known, tenant.id, &filter)).unwrap_or_default();
    let name =
        |table: crate::feeds::Table| TableName { database_name: table.db, table_name: table.name, table_id: table.id, is_partition: false };
    json(&Tables { ineligible_tables: Vec::new(), eligible_tables: tables.into_iter().map(name).collect() })
}

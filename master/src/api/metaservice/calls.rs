//! What can be called by name, and what there is to say of each; what is not listed here is not known.

use super::envelope::Envelope;
use super::{cluster, instance, lookup, objstore, recycler, tables, text, txn, vaults};
use utoipa::openapi::path::{HttpMethod, OperationBuilder, Parameter, ParameterIn, PathItem};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::{Content, OpenApi, Ref, RefOr, Required, Response, Schema};
use utoipa::{PartialSchema, ToSchema};

/// A call.
pub(super) struct Named {
    pub(super) name: &'static str,
    /// What it does.
    says: &'static str,
    takes: Takes,
}

/// What it is told.
enum Takes {
    /// Such an object as JSON.
    Body(fn(&mut OpenApi) -> RefOr<Schema>),
    /// Parameters of the query, each with a sentence.
    Query(&'static [(&'static str, &'static str)]),
}

use Takes::{Body, Query};

const INSTANCE: fn(&mut OpenApi) -> RefOr<Schema> = known::<instance::Asked>;
const CLUSTER: fn(&mut OpenApi) -> RefOr<Schema> = known::<cluster::Asked>;
const BUCKET: fn(&mut OpenApi) -> RefOr<Schema> = known::<objstore::Asked>;
const VAULT: fn(&mut OpenApi) -> RefOr<Schema> = known::<vaults::Asked>;

const TABLES: fn(&mut OpenApi) -> RefOr<Schema> = known::<tables::Asked>;
/// What `encode_key` takes, and `get_value`.
const KEY: &[(&str, &str)] = &[
    ("key_type", "What is named: `InstanceKey`, `ClusterKey`, `NodeKey`, `ObjectKey`, `TableKey`, `StatsTabletKey`, `SegmentKey`, ..."),
    ("instance_id", "The tenant, for most."),
    ("key", "The key of an object; without `key_type`, digits of a key as logs print it."),
];

pub(super) const CALLS: &[Named] = &[
    Named { name: "create_instance", says: "A tenant is created.", takes: Body(known::<instance::Create>) },
    Named { name: "drop_instance", says: "A tenant is dropped; what it has goes once the retention is over.", takes: Body(INSTANCE) },
    Named {
        name: "get_instance",
        says: "A tenant, with its clusters and what it uses.",
        takes: Query(&[("instance_id", "Its name."), ("cloud_unique_id", "Or what one of its nodes presents.")]),
    },
    Named { name: "list_instances", says: "All tenants that are not gone.", takes: Query(&[]) },
    Named { name: "rename_instance", says: "A tenant is called something else; its keys stay where they are.", takes: Body(INSTANCE) },
    Named { name: "set_instance_status", says: "`SET_OVERDUE`: nothing is added; `SET_NORMAL`.", takes: Body(INSTANCE) },
    Named { name: "set_instance_quota", says: "How much a tenant may have in memory.", takes: Body(INSTANCE) },
    Named { name: "recycle_instance", says: "The retention of a dropped tenant is over now.", takes: Body(INSTANCE) },
    Named { name: "get_obj_store_info", says: "The buckets and vaults of a tenant, with their secrets in clear.", takes: Body(BUCKET) },
    Named {
        name: "update_ak_sk",
        says: "Users have other keys, in every bucket that is theirs.",
        takes: Body(known::<objstore::AskedUsers>),
    },
    Named { name: "legacy_update_ak_sk", says: "One bucket has other keys.", takes: Body(BUCKET) },
    Named { name: "add_obj_info", says: "A bucket more, to which new objects go.", takes: Body(BUCKET) },
    Named { name: "enable_instance_sse", says: "What is written to vaults from now on is encrypted.", takes: Body(INSTANCE) },
    Named { name: "disable_instance_sse", says: "No longer.", takes: Body(INSTANCE) },
    Named { name: "add_s3_vault", says: "A vault in a bucket, to which new objects go.", takes: Body(VAULT) },
    Named { name: "alter_s3_vault", says: "A vault has other keys, or another name.", takes: Body(VAULT) },
    Named { name: "drop_s3_vault", says: "A vault that no object lies in is dropped.", takes: Body(VAULT) },
    Named { name: "add_hdfs_vault", says: "A vault in a directory (`file:///`), or in HDFS, which is recorded only.", takes: Body(VAULT) },
    Named { name: "drop_hdfs_vault", says: "A vault that no object lies in is dropped.", takes: Body(VAULT) },
    Named { name: "show_storage_vaults", says: "The vaults of a tenant, and whether each can be used just now.", takes: Body(VAULT) },
    Named { name: "add_cluster", says: "A pool, whose nodes may lend from now on.", takes: Body(CLUSTER) },
    Named { name: "drop_cluster", says: "A pool and its nodes are dropped; what they lend drains.", takes: Body(CLUSTER) },
    Named { name: "rename_cluster", says: "A pool is called something else.", takes: Body(CLUSTER) },
    Named { name: "add_node", says: "Nodes of a pool, which may lend from now on.", takes: Body(CLUSTER) },
    Named { name: "drop_node", says: "Nodes are dropped; what they lend drains.", takes: Body(CLUSTER) },
    Named { name: "decommission_node", says: "What nodes lend drains; they stay registered.", takes: Body(CLUSTER) },
    Named { name: "update_cluster_mysql_user_name", says: "Whose puts go to this pool.", takes: Body(CLUSTER) },
    Named { name: "set_cluster_status", says: "A pool sleeps, wakes, or serves.", takes: Body(CLUSTER) },
    Named { name: "get_cluster", says: "A pool, or all of a tenant.", takes: Body(known::<lookup::Asked>) },
    Named { name: "create_table", says: "Keys that begin so are of a table from now on.", takes: Body(TABLES) },
    Named { name: "drop_table", says: "Its keys are of others; none is removed.", takes: Body(TABLES) },
    Named { name: "list_tables", says: "The tables of a tenant, and the numbers of their shards.", takes: Body(TABLES) },
    Named { name: "get_tablet_stats", says: "What there is of shards; as text, unless JSON is accepted.", takes: Body(TABLES) },
    Named { name: "abort_tablet_job", says: "A job on a shard stops before its next object.", takes: Body(TABLES) },
    Named { name: "list_txns", says: "The puts of a tenant that are in progress.", takes: Body(TABLES) },
    Named { name: "abort_txn", says: "A put in progress ends, with all that was begun with it.", takes: Body(known::<txn::Asked>) },
    Named {
        name: "recycle_job_info",
        says: "How far the recycler is with a dropped tenant.",
        takes: Query(&[("instance_id", "Its name; or as JSON in the body.")]),
    },
    Named {
        name: "decode_key",
        says: "A key of the metadata, drawn.",
        takes: Query(&[("key", "Its digits."), ("unicode", "`false`: drawn in ASCII.")]),
    },
    Named { name: "encode_key", says: "The digits of a key.", takes: Query(KEY) },
    Named { name: "get_value", says: "What a key names, as JSON.", takes: Query(KEY) },
    Named { name: "get_cluster_status", says: "The statuses of pools, by tenant.", takes: Body(known::<lookup::AskedStatus>) },
];

/// Describes every call under each of its paths.
pub(super) fn describe(openapi: &mut OpenApi) {
    for call in CALLS {
        let ok = Response::builder().description("It was done, or found.");
        let ok = ok.content("application/json", Content::new(Some(Envelope::schema())));
        let ok = if text::is_answered_so(call.name) { ok.content("text/plain", Content::new(Some(String::schema()))) } else { ok };
        let text = |name: &str, says: &str| {
            let parameter = Parameter::builder().name(name).parameter_in(ParameterIn::Query).description(Some(says));
            parameter.schema(Some(String::schema())).required(Required::False)
        };
        let operation = OperationBuilder::new().tag("tenants").summary(Some(call.says)).response("200", ok);
        let refuses: &[(&str, &str)] = match text::is_message(call.name) {
            false => &[],
            // By such a text, too.
            true => &[("400", "It cannot be."), ("404", "There is none."), ("409", "It ended before."), ("500", "It was not done.")],
        };
        let operation = refuses.iter().fold(operation, |operation, (status, says)| {
            let refused = Response::builder().description(*says);
            operation.response(*status, refused.content("text/plain", Content::new(Some(String::schema()))))
        });
        let operation = operation.parameter(text("token", "The token of this face."));
        let operation = match call.takes {
            Query(parameters) => parameters.iter().fold(operation, |operation, (name, says)| operation.parameter(text(name, says))),
            Body(schema) => {
                let content = Content::new(Some(schema(openapi)));
                let body = RequestBodyBuilder::new().content("application/json", content).required(Some(Required::True));
                operation.request_body(Some(body.build()))
            }
        };
        let operation = operation.build();
        let mut paths = ["", "v1/"].map(|version| format!("/MetaService/http/{version}{}", call.name)).to_vec();
        if recycler::CALLS.contains(&call.name) {
            paths.push(format!("{}http/{}", recycler::SERVICE, call.name));
        }
        for path in paths {
            let item = PathItem::from_http_methods([HttpMethod::Get, HttpMethod::Put, HttpMethod::Post], operation.clone());
            openapi.paths.paths.insert(path, item);
        }
    }
}

/// A type by its name, which is explained once.
fn known<T: ToSchema>(openapi: &mut OpenApi) -> RefOr<Schema> {
    let name = T::name();
    let mut schemas = vec![(name.to_string(), T::schema())];
    T::schemas(&mut schemas);
    openapi.components.get_or_insert_default().schemas.extend(schemas);
    Ref::from_schema_name(name).into()
}

//! Doris' meta service: tenants, pools and vaults in the words of its page, where they are called instances and clusters.
//!
//! Every call is known with and without `v1/`, by GET, PUT or POST, and carried out by the leader whichever master is asked; those about the
//! recycler also where Doris has its own. The face has a token of its own, in the query; who may come in elsewhere may also come in here.

mod calls;
mod cluster;
mod drawing;
mod envelope;
mod frontend;
mod instance;
mod keys;
mod lookup;
mod objstore;
mod recycler;
mod refused;
mod said;
mod shown;
mod store;
mod stored;
mod tables;
mod text;
mod txn;
mod vaults;

use super::App;
use super::extract::{Query, unread};
use super::face::Face;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use calls::CALLS;
use cluster::Call;
use envelope::{Answer, Found, Refusal, envelope};
use perilune_probe::{Refusing, acting};
use perilune_protocol::Fault;
use perilune_state::settings::META_COMPAT;
use said::Said;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The face of Doris' meta service.
pub(super) struct MetaService;

/// The longest body it reads.
const BODY_BYTES_MAX: usize = 64 << 10;

/// What is guarded by the token of this face, or by a name and a password, instead of the token for everything else.
pub(super) fn guards(path: &str) -> bool {
    path.starts_with("/MetaService/") || path.starts_with(recycler::SERVICE) || path == frontend::CLUSTER_STATUS
}

impl Face for MetaService {
    fn routes() -> OpenApiRouter<App> {
        OpenApiRouter::default()
    }

    fn lookups() -> OpenApiRouter<App> {
        let by_any = || acting(get(call).put(call).post(call), "GET,PUT,POST");
        let mut routes = OpenApiRouter::default()
            .route("/MetaService/http/{name}", by_any())
            .route("/MetaService/http/v1/{name}", by_any())
            .route("/RecyclerService/http/{name}", by_any())
            .routes(routes!(frontend::cluster_status))
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX));
        calls::describe(routes.get_openapi_mut());
        routes
    }

    fn refusing() -> Refusing {
        Refusing::like::<envelope::Envelope<'_>>(&[
            (400, "What was said cannot be read, or cannot be."),
            (403, "Not the token of this face, nor that of the cluster."),
            (404, "There is no such call, tenant, cluster or node."),
            (409, "There is one already."),
            (413, "The body is too long."),
            (500, "It was not done."),
        ])
    }

    fn refuse(fault: &Fault) -> Response {
        envelope(Err(fault.clone().into()))
    }

    /// All of them: what is told is what the leader knows, and some act when they are only asked for.
    fn acts(_: &Request) -> bool {
        true
    }
}

async fn call(
    State(app): State<App>,
    Path(name): Path<String>,
    uri: Uri,
    query: Query,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let token = query.text("token");
    if !is_admitted(&app, token.as_deref(), &headers) {
        // Whoever gave a wrong one may have given another secret: it is not repeated.
        let given = if token.is_some() { "(masked)" } else { "(not given)" };
        return (StatusCode::FORBIDDEN, format!("incorrect token, token={given}\n")).into_response();
    }
    let to_the_letter = app.engine.setting(META_COMPAT).as_deref() == Some("doc");
    if to_the_letter && !is_known(uri.path(), &name) {
        return envelope(Ok(Found::Nothing));
    }
    let answer = match body {
        Ok(_) if !is_known(uri.path(), &name) => Err(unknown(&name)),
        Ok(body) => carried_out(&app, &name, &query, Said::new(uri.path(), &body)).await,
        Err(rejection) => {
            let (status, why) = unread(&rejection, BODY_BYTES_MAX);
            let mut refusal = Refusal::argument(format!("parse http request '{}': {why}", uri.path()));
            refusal.status = status;
            Err(refusal)
        }
    };
    if text::is_wanted(&name, &headers) {
        return text::message(answer);
    }
    envelope(if to_the_letter { answer.map_err(Refusal::by_the_letter) } else { answer })
}

fn is_admitted(app: &App, token: Option<&str>, headers: &HeaderMap) -> bool {
    let by_its_own = app.meta_token.as_ref().zip(token).is_some_and(|(known, token)| known.matches(token));
    let authorization = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes());
    by_its_own || !app.access.is_open() && app.access.admit_header(authorization).is_ok()
}

/// Whether there is a call of this name where it was asked for.
fn is_known(path: &str, name: &str) -> bool {
    CALLS.iter().any(|call| call.name == name) && (!path.starts_with(recycler::SERVICE) || recycler::CALLS.contains(&name))
}

fn unknown(name: &str) -> Refusal {
    Refusal::not_found(format!("unknown api {}", said::shortened(name)))
}

async fn carried_out(app: &App, name: &str, query: &Query, said: Said<'_>) -> Answer {
    match name {
        "create_instance" => instance::create(app, &said.parse()?).await,
        "drop_instance" => instance::drop_instance(app, &said.parse()?).await,
        "get_instance" => instance::get(app, query),
        "list_instances" => instance::list(app),
        "rename_instance" => instance::rename(app, &said.parse()?).await,
        "set_instance_status" => instance::set_status(app, &said.parse()?).await,
        "set_instance_quota" => instance::set_quota(app, &said.parse()?).await,
        "create_table" => tables::create(app, &said.parse()?).await,
        "drop_table" => tables::drop_table(app, &said.parse()?).await,
        "list_tables" => tables::list(app, &said.parse()?),
        "get_tablet_stats" => tables::stats(app, &said.parse()?).await,
        "abort_tablet_job" => tables::abort_job(app, &said.parse()?),
        "list_txns" => txn::list(app, &said.parse()?),
        "abort_txn" => txn::abort(app, &said.parse()?).await,
        "recycle_job_info" => recycler::info(app, query, &said),
        "recycle_instance" => instance::recycle(app, &said.parse()?).await,
        "get_obj_store_info" => objstore::get(app, &said.parse()?),
        "update_ak_sk" => objstore::update_users(app, &said.parse()?).await,
        "legacy_update_ak_sk" => objstore::update_one(app, &said.parse()?).await,
        "add_obj_info" => objstore::add(app, &said.parse()?).await,
        "enable_instance_sse" => objstore::set_sse(app, &said.parse()?, true).await,
        "disable_instance_sse" => objstore::set_sse(app, &said.parse()?, false).await,
        "add_s3_vault" => vaults::add_s3(app, &said.parse()?).await,
        "alter_s3_vault" => vaults::alter_s3(app, &said.parse()?).await,
        "drop_s3_vault" => vaults::drop_vault(app, &said.parse()?, true).await,
        "add_hdfs_vault" => vaults::add_hdfs(app, &said.parse()?).await,
        "drop_hdfs_vault" => vaults::drop_vault(app, &said.parse()?, false).await,
        "show_storage_vaults" => vaults::show(app, &said.parse()?).await,
        "add_cluster" => cluster::change(app, Call::Add, &said.parse()?).await,
        "drop_cluster" => cluster::change(app, Call::Drop, &said.parse()?).await,
        "rename_cluster" => cluster::change(app, Call::Rename, &said.parse()?).await,
        "add_node" => cluster::change(app, Call::AddNode, &said.parse()?).await,
        "drop_node" => cluster::change(app, Call::DropNode, &said.parse()?).await,
        "decommission_node" => cluster::change(app, Call::Decommission, &said.parse()?).await,
        "update_cluster_mysql_user_name" => cluster::change(app, Call::Users, &said.parse()?).await,
        "set_cluster_status" => cluster::change(app, Call::Status, &said.parse()?).await,
        "get_cluster" => lookup::get(app, &said.parse()?),
        "decode_key" => keys::decode(query),
        "encode_key" => keys::encode(query),
        "get_value" => keys::value(app, query).await,
        "get_cluster_status" => lookup::statuses(app, &said.parse()?),
        _ => Err(unknown(name)),
    }
}

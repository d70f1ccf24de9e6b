//! Find and remove keys.

use super::{Answer, JSON, TEXT, json};
use crate::api::extract::{Query, readings};
use crate::api::{App, Facade, stream};
use axum::extract::State;
use axum::http::StatusCode;
use perilune_protocol::{Fault, FaultCode, ObjectKey, ObjectPlace, Outcome, ReplicaPlace, TenantId};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::ControlFlow;
use utoipa::ToSchema;

/// One extent of one replica, in Mooncake's words.
#[derive(Clone, Serialize, ToSchema)]
struct Buffer {
    size_: u64,
    buffer_address_: u64,
    protocol_: &'static str,
    transport_endpoint_: String,
}

/// The extents of each replica, best first. A replica whose segment has just gone is left out.
fn buffers(engine: &dyn Facade, tenant: TenantId, place: &ObjectPlace) -> Outcome<Vec<Vec<Buffer>>> {
    let of = |replica: &ReplicaPlace| {
        let desc = engine.describe(tenant, replica.segment)?;
        let buffer = |extent: &perilune_protocol::Extent| Buffer {
            size_: extent.len,
            buffer_address_: desc.base.saturating_add(extent.offset),
            protocol_: desc.protocol.as_str(),
            transport_endpoint_: desc.tcp_endpoint().to_owned(),
        };
        Some(replica.extents.iter().map(buffer).collect())
    };
    let replicas: Vec<Vec<Buffer>> = place.replicas.iter().filter_map(of).collect();
    if replicas.is_empty() { Err(FaultCode::NoReadableReplica.with("the segments that held the object are gone")) } else { Ok(replicas) }
}

/// The first reading of a key that names an object, or the likeliest.
fn meant(engine: &dyn Facade, tenant: TenantId, raw: &str) -> Outcome<ObjectKey> {
    let mut readings = readings(raw);
    let named = if readings.len() == 1 { None } else { readings.iter().position(|key| engine.peek(tenant, key).is_ok()) };
    let key = readings.swap_remove(named.unwrap_or(0));
    key.check().map(|()| key)
}

/// Where the replicas of an object are. Grants a lease, as a read does.
///
/// What is in a vault only is brought to memory first: a reader that speaks Mooncake's protocol can be told of memory alone. What does not come
/// there soon is 503, to be asked for again; a store node gives it out without room for it (`/api/get`).
///
/// The key may be percent-encoded or not: it is looked up decoded, and where that names no object, as it was sent.
/// The body serves two kinds of readers, see `docs/decisions/0001-query-key-body.md`.
#[utoipa::path(
    get, path = "/query_key", tag = "objects",
    params(("key" = Option<String>, Query, description = "The key."), ("tenant_id" = Option<String>, Query, description = "Whose; `default` if nothing is said.")),
    responses((status = 200, description = "JSON, called text as Mooncake does.", body = String, content_type = "text/plain"))
)]
pub(super) async fn query_key(State(app): State<App>, query: Query) -> Answer {
    #[derive(Serialize)]
    struct Body<'a> {
        success: bool,
        data: Vec<&'a Buffer>,
        transport_endpoint_: &'a str,
        buffer_descriptors: &'a [Buffer],
    }
    let tenant = query.tenant(&app)?;
    let raw = query.raw("key").ok_or_else(|| FaultCode::InvalidParams.with("Missing key query parameter: use /query_key?key=KEY"))?;
    let key = meant(&*app.engine, tenant, raw)?;
    let mut place = locate(&app, tenant, &key)?;
    if place.replicas.is_empty() {
        app.engine.recall(tenant, &key).await.map_err(not_yet)?;
        place = locate(&app, tenant, &key)?;
    }
    let replicas = buffers(&*app.engine, tenant, &place)?;
    let best = replicas.first().map_or(&[][..], Vec::as_slice);
    let transport_endpoint_ = best.first().map_or("", |buffer| &buffer.transport_endpoint_);
    let body = Body { success: true, data: replicas.iter().flatten().collect(), transport_endpoint_, buffer_descriptors: best };
    let mut response = json(StatusCode::OK, &body);
    response.headers_mut().insert(axum::http::header::CONTENT_TYPE, axum::http::HeaderValue::from_static(TEXT));
    Ok(response)
}

/// What is in its vault only, and does not come to memory at present.
fn not_yet(fault: Fault) -> Fault {
    match fault.code {
        FaultCode::NoSpace | FaultCode::Timeout => {
            FaultCode::NoReadableReplica.with(format!("{}: ask again, or get it from a store node (/api/get)", fault.message))
        }
        _ => fault,
    }
}

fn locate(app: &App, tenant: TenantId, key: &ObjectKey) -> Outcome<ObjectPlace> {
    let located = app.engine.locate(tenant, std::slice::from_ref(key)).pop();
    located.unwrap_or_else(|| Err(FaultCode::Internal.with("the lookup of one key gave no answer")))
}

#[derive(Serialize, ToSchema)]
pub(super) struct Missing {
    success: bool,
    error: &'static str,
}

/// Where the replicas of many keys are, without leases. A comma, encoded or not, ends a key.
#[utoipa::path(
    get, path = "/batch_query_keys", tag = "objects",
    params(("keys" = Option<String>, Query, description = "`KEY,KEY`."), ("tenant_id" = Option<String>, Query, description = "Whose; `default` if nothing is said.")),
    responses((status = 200, description = "What there is to say of each.", body = Entries), (status = 400, description = "No keys were given.", body = Missing))
)]
pub(super) async fn batch_query_keys(State(app): State<App>, query: Query) -> Answer {
    let tenant = query.tenant(&app)?;
    // Every key once, by the name the answer calls it.
    let mut asked = BTreeMap::new();
    for raw in query.raw("keys").unwrap_or_default().replace("%2C", ",").replace("%2c", ",").split(',') {
        if !raw.is_empty() {
            asked.entry(readings(raw)[0].to_string()).or_insert_with(|| raw.to_owned());
        }
    }
    if asked.is_empty() {
        return Ok(json(StatusCode::BAD_REQUEST, &Missing { success: false, error: "No keys provided. Use ?keys=key1,key2,..." }));
    }
    Ok(stream::answer(&app, JSON, move |engine, out| {
        out.write_all(br#"{"success":true,"data":{"#)?;
        let mut comma = "";
        for (name, raw) in &asked {
            write!(out, "{comma}{}:", serde_json::to_string(name)?)?;
            serde_json::to_writer(&mut *out, &entry(engine, tenant, raw))?;
            comma = ",";
        }
        out.write_all(b"}}")
    })
    .await)
}

/// What `/batch_query_keys` writes, as it goes.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is streamed")]
pub(super) struct Entries {
    success: bool,
    /// By key.
    data: BTreeMap<String, Entry>,
}

/// What `/batch_query_keys` says of one key. There are no replicas but those in memory, hence the nulls.
#[derive(Serialize, ToSchema)]
struct Entry {
    ok: bool,
    error: Option<&'static str>,
    values: Option<Vec<Value>>,
    #[schema(value_type = Option<Object>)]
    disk_values: Option<()>,
    #[schema(value_type = Option<Object>)]
    local_disk_values: Option<()>,
    #[schema(value_type = Option<Object>)]
    nof_values: Option<()>,
}

/// The real system's fields, and the seed document's beside them.
#[derive(Serialize, ToSchema)]
struct Value {
    #[serde(flatten)]
    buffer: Buffer,
    buffer_descriptor: Buffer,
}

fn entry(engine: &dyn Facade, tenant: TenantId, raw: &str) -> Entry {
    let found = meant(engine, tenant, raw).and_then(|key| engine.peek(tenant, &key)).and_then(|place| buffers(engine, tenant, &place));
    let values =
        found.map(|replicas| replicas.into_iter().flatten().map(|buffer| Value { buffer_descriptor: buffer.clone(), buffer }).collect());
    let error = values.as_ref().err().map(|fault| fault.code.as_str());
    Entry { ok: error.is_none(), error, values: values.ok(), disk_values: None, local_disk_values: None, nof_values: None }
}

/// One key on each line. A line break inside a key is written as `%0A` or `%0D`, which `/query_key` understands.
#[utoipa::path(
    get, path = "/get_all_keys", tag = "objects",
    params(("tenant_id" = Option<String>, Query, description = "Whose; `default` if nothing is said.")),
    responses((status = 200, description = "The lines.", body = String, content_type = "text/plain"))
)]
pub(super) async fn get_all_keys(State(app): State<App>, query: Query) -> Answer {
    let tenant = query.tenant(&app)?;
    Ok(stream::answer(&app, TEXT, move |engine, out| {
        let mut written = Ok(());
        engine.for_each_key(tenant, &mut |key, _| {
            written = line(out, key.as_bytes());
            if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        written
    })
    .await)
}

fn line(out: &mut stream::Writer, key: &[u8]) -> io::Result<()> {
    for piece in key.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
        match piece {
            [text @ .., b'\n'] => out.write_all(text).and_then(|()| out.write_all(b"%0A"))?,
            [text @ .., b'\r'] => out.write_all(text).and_then(|()| out.write_all(b"%0D"))?,
            text => out.write_all(text)?,
        }
    }
    out.write_all(b"\n")
}

#[derive(Serialize, ToSchema)]
pub(super) struct Removed {
    success: bool,
    removed_count: u64,
}

/// Removes every object; leased ones only with `force`. Goes on when the caller hangs up.
#[utoipa::path(
    post, path = "/api/v1/remove_all", tag = "objects",
    params(("force" = Option<bool>, Query, description = "Those as well that are being read."), ("tenant_id" = Option<String>, Query, description = "Whose; `default` if nothing is said.")),
    responses((status = 200, description = "It is done.", body = Removed))
)]
pub(super) async fn remove_all(State(app): State<App>, query: Query) -> Answer {
    let (tenant, force) = (query.tenant(&app)?, query.switch("force")?);
    let removing = tokio::spawn(async move { app.engine.remove_matching(tenant, "", force).await });
    let removed_count = removing.await.map_err(|error| FaultCode::Internal.with(format!("the removal broke off: {error}")))??;
    Ok(json(StatusCode::OK, &Removed { success: true, removed_count }))
}

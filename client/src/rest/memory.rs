//! Mount and unmount.

use super::blocking;
use super::json::{self, Fields, Status, success};
use super::refuse::Refusal;
use crate::node::{Node, Origin};
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::response::Response;
use perilune_protocol::{Fault, FaultCode, Protocol, SegmentDesc, SegmentId};
use serde::Serialize;
use serde_json::Value;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use utoipa::ToSchema;

/// The longest grace period, in seconds.
const GRACE_MAX: u64 = 3600;

#[derive(Serialize, ToSchema)]
struct Mounted {
    status: &'static str,
    segment_ids: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allocated_size: Option<u64>,
}

/// What `/api/mount` reads.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read field by field")]
pub(super) struct Mount {
    /// Bytes.
    #[schema(minimum = 1)]
    size: u64,
    /// `tcp`, `rdma` or `shm`; the node's own if nothing is said.
    protocol: Option<String>,
    /// Whatever says where it lies; at most 255 bytes.
    #[schema(max_length = 255)]
    location: Option<String>,
}

/// What `/api/mount_shm` reads.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read field by field")]
pub(super) struct MountShm {
    /// Of an object in `/dev/shm`.
    name: String,
    /// Where in it the segment begins.
    offset: Option<u64>,
    /// As for `/api/mount`, like the rest.
    #[schema(minimum = 1)]
    size: u64,
    protocol: Option<String>,
    #[schema(max_length = 255)]
    location: Option<String>,
}

/// What `/api/unmount` and `/api/unmount_shm` read.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read field by field")]
pub(super) struct Unmount {
    /// Which; one may stand without a list.
    #[schema(value_type = Value)]
    segment_ids: Value,
    /// So long, what lies there can be read and is copied elsewhere.
    #[schema(maximum = 3600)]
    grace_period_seconds: Option<u64>,
}

fn bad(text: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, text)
}

fn mounted(segments: &[SegmentDesc], allocated_size: Option<u64>) -> Response {
    let segment_ids = segments.iter().map(|desc| desc.id.to_string()).collect();
    json::reply(StatusCode::OK, &Mounted { status: "success", segment_ids, allocated_size })
}

/// A positive integer that fits; JSON's `true`, `"1"` and `1.0` are none.
fn positive(value: Option<&Value>) -> Option<u64> {
    value.and_then(Value::as_u64).filter(|n| *n > 0)
}

fn protocol(fields: &Fields) -> Result<Option<Protocol>, Refusal> {
    fields.text("protocol")?.map(|text| text.parse().map_err(|e| bad(format!("Invalid protocol: {e}")))).transpose()
}

fn location(fields: &Fields) -> Result<&str, Refusal> {
    let location = fields.text("location")?.unwrap_or_default();
    if location.len() <= 255 { Ok(location) } else { Err(bad("Invalid location, must have at most 255 bytes")) }
}

/// Memory is taken and lent, as one segment or several.
#[utoipa::path(
    post, path = "/api/mount", tag = "store",
    request_body = Mount,
    responses((status = 200, description = "It is lent.", body = Mounted))
)]
pub(super) async fn mount(State(node): State<Arc<Node>>, body: Result<Bytes, BytesRejection>) -> Response {
    blocking(node, move |node| -> Result<Response, Refusal> {
        let fields = Fields::read(body, &["size", "protocol", "location"])?;
        let size = positive(fields.get("size")).ok_or_else(|| bad("Invalid size, must be a positive integer"))?;
        let segments = node.mount(size, protocol(&fields)?, location(&fields)?);
        let segments = segments.map_err(|fault| Refusal::of("Allocate and mount failed", &fault))?;
        Ok(mounted(&segments, Some(segments.iter().map(|desc| desc.size).sum())))
    })
    .await
}

/// An object in `/dev/shm` that somebody else made is lent.
#[utoipa::path(
    post, path = "/api/mount_shm", tag = "store",
    request_body = MountShm,
    responses((status = 200, description = "It is lent.", body = Mounted))
)]
pub(super) async fn mount_shm(State(node): State<Arc<Node>>, body: Result<Bytes, BytesRejection>) -> Response {
    blocking(node, move |node| -> Result<Response, Refusal> {
        let fields = Fields::read(body, &["name", "size", "offset", "protocol", "location"])?;
        let why = |why: &str| bad(format!("Missing or invalid name or size: {why}"));
        let name = match (fields.get("name"), fields.get("size")) {
            (Some(Value::String(name)), Some(_)) => name,
            (None, _) | (_, None) => return Err(bad("Missing or invalid name or size")),
            _ => return Err(why("the name must be a string")),
        };
        match name.strip_prefix('/').unwrap_or(name) {
            "" => return Err(why("the name is empty")),
            "." | ".." => return Err(why("the name must be that of an object in /dev/shm")),
            plain if plain.contains('/') => return Err(why("the name must not contain path separators")),
            _ => {}
        }
        let size = positive(fields.get("size")).ok_or_else(|| why("the size must be a positive integer"))?;
        let offset = match fields.get("offset") {
            None => 0,
            Some(value) => value.as_u64().ok_or_else(|| bad("Invalid offset, must be a non-negative integer"))?,
        };
        let segments = node.mount_shm(name, offset, size, protocol(&fields)?, location(&fields)?);
        Ok(mounted(&segments.map_err(|fault| Refusal::of("Mount failed", &fault))?, None))
    })
    .await
}

/// Segments that `/api/mount` made are given back.
#[utoipa::path(
    post, path = "/api/unmount", tag = "store",
    request_body = Unmount,
    responses((status = 200, description = "They are.", body = Status))
)]
pub(super) async fn unmount(State(node): State<Arc<Node>>, body: Result<Bytes, BytesRejection>) -> Response {
    blocking(node, move |node| leave(node, body, Origin::Allocated, "Unmount and free failed for one or more segments")).await
}

/// Segments that `/api/mount_shm` lent are not lent any more.
#[utoipa::path(
    post, path = "/api/unmount_shm", tag = "store",
    request_body = Unmount,
    responses((status = 200, description = "They are not.", body = Status))
)]
pub(super) async fn unmount_shm(State(node): State<Arc<Node>>, body: Result<Bytes, BytesRejection>) -> Response {
    blocking(node, move |node| leave(node, body, Origin::Shared, "Unmount failed for one or more segments")).await
}

fn leave(node: &Node, body: Result<Bytes, BytesRejection>, origin: Origin, words: &str) -> Result<Response, Refusal> {
    let fields = Fields::read(body, &["segment_ids", "grace_period_seconds"])?;
    let names = segment_ids(&fields)?;
    let grace = match fields.get("grace_period_seconds") {
        None => 0,
        Some(value) => value
            .as_u64()
            .filter(|seconds| *seconds <= GRACE_MAX)
            .ok_or_else(|| bad(format!("Invalid grace_period_seconds, must be a non-negative integer no greater than {GRACE_MAX}")))?,
    };
    let parsed: Vec<Option<SegmentId>> = names.iter().map(|name| name.parse().ok()).collect();
    let ids: Vec<SegmentId> = parsed.iter().flatten().copied().collect();
    let mut outcomes = node.unmount(&ids, Duration::from_secs(grace), Some(origin)).into_iter();
    let mut failed: Vec<(String, Fault)> = Vec::new();
    for (name, id) in names.into_iter().zip(parsed) {
        let outcome = match id {
            Some(_) => outcomes.next().unwrap_or(Ok(())),
            None => Err(FaultCode::SegmentNotFound.with(format!("`{name}` is not a segment id"))),
        };
        if let Err(fault) = outcome {
            failed.push((name, fault));
        }
    }
    if failed.is_empty() { Ok(success()) } else { Err(Refusal::of_segments(words, failed)) }
}

/// A list of ids, or one; each once.
fn segment_ids(fields: &Fields) -> Result<Vec<String>, Refusal> {
    let ids: Vec<String> = match fields.get("segment_ids") {
        None => Vec::new(),
        Some(Value::String(id)) => vec![id.clone()],
        Some(Value::Array(ids)) => {
            let texts: Option<Vec<String>> = ids.iter().map(|id| id.as_str().map(str::to_owned)).collect();
            texts.ok_or_else(|| bad("Invalid segment_ids, must be a list of strings or one string"))?
        }
        Some(_) => return Err(bad("Invalid segment_ids, must be a list of strings or one string")),
    };
    let mut seen = HashSet::new();
    let ids: Vec<String> = ids.into_iter().filter(|id| !id.is_empty() && seen.insert(id.clone())).collect();
    if ids.is_empty() { Err(bad("Missing segment_ids")) } else { Ok(ids) }
}

//! List and describe segments.

use super::{Answer, JSON, TEXT, aside, json, text};
use crate::api::extract::Query;
use crate::api::{App, stream};
use axum::extract::State;
use axum::http::StatusCode;
use perilune_protocol::rpc::segment::SegmentState;
use perilune_protocol::{ByteSize, FaultCode, SegmentStatus};
use serde::Serialize;
use std::fmt::Write as _;
use std::io::Write as _;
use utoipa::ToSchema;

/// The name of each segment, one on each line. A lost segment is not mounted.
#[utoipa::path(
    get, path = "/get_all_segments", tag = "objects",
    responses((status = 200, description = "The lines.", body = String, content_type = "text/plain"))
)]
pub(super) async fn get_all_segments(State(app): State<App>) -> Answer {
    let mut segments = aside(&app, |engine| engine.segments()).await?;
    segments.retain(|segment| segment.status != SegmentStatus::Lost);
    segments.sort_by(|a, b| a.desc.name.cmp(&b.desc.name));
    segments.dedup_by(|a, b| a.desc.name == b.desc.name);
    let names: String = segments.iter().map(|segment| format!("{}\n", segment.desc.name)).collect();
    Ok(text(StatusCode::OK, TEXT, names))
}

/// Use and size, a block for each segment of that name.
#[utoipa::path(
    get, path = "/query_segment", tag = "objects",
    params(("segment" = Option<String>, Query, description = "Its name.")),
    responses((status = 200, description = "The blocks.", body = String, content_type = "text/plain"), (status = 400, description = "No name was given.", body = String, content_type = "text/plain"), (status = 404, description = "There is none.", body = String, content_type = "text/plain"))
)]
pub(super) async fn query_segment(State(app): State<App>, query: Query) -> Answer {
    const REFUSAL: &str = "Failed to query segment";
    let Some(name) = query.text("segment").filter(|name| !name.is_empty()) else {
        return Ok(text(StatusCode::BAD_REQUEST, TEXT, format!("{REFUSAL}: use /query_segment?segment=NAME\n")));
    };
    let found = named(&app, &query, "segment").await?;
    if found.is_empty() {
        return Ok(text(StatusCode::NOT_FOUND, TEXT, format!("{REFUSAL}: there is no segment `{name}`, see /get_all_segments\n")));
    }
    let mut blocks = String::new();
    for segment in &found {
        let _ = write!(blocks, "{}\nUsed(bytes): {}\nCapacity(bytes): {}\n", segment.desc.name, segment.used, segment.desc.size);
    }
    Ok(text(StatusCode::OK, TEXT, blocks))
}

/// Every segment of the name a parameter gives, decoded or as it was sent.
async fn named(app: &App, query: &Query, parameter: &str) -> perilune_protocol::Outcome<Vec<SegmentState>> {
    let decoded = query.text(parameter).unwrap_or_default();
    let raw = query.raw(parameter).unwrap_or_default().to_owned();
    let mut segments = aside(app, |engine| engine.segments()).await?;
    let name = if segments.iter().any(|segment| segment.desc.name == decoded) { decoded } else { raw };
    segments.retain(|segment| segment.desc.name == name);
    Ok(segments)
}

/// Everything about every segment.
#[utoipa::path(
    get, path = "/get_segments_detail", tag = "objects",
    responses((status = 200, description = "All of them.", body = Details))
)]
pub(super) async fn get_segments_detail(State(app): State<App>) -> Answer {
    Ok(stream::answer(&app, JSON, |engine, out| {
        let segments = engine.segments();
        write!(out, r#"{{"total_segments":{},"segments":["#, segments.len())?;
        let mut comma = "";
        for segment in &segments {
            out.write_all(comma.as_bytes())?;
            serde_json::to_writer(&mut *out, &Detail::of(segment))?;
            comma = ",";
        }
        out.write_all(b"]}")
    })
    .await)
}

/// What `/get_segments_detail` writes, as it goes.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is streamed")]
pub(super) struct Details<'a> {
    total_segments: u64,
    segments: Vec<Detail<'a>>,
}

#[derive(Serialize, ToSchema)]
struct Detail<'a> {
    segment_name: &'a str,
    segment_id: String,
    client_id: String,
    base_address: String,
    size_bytes: u64,
    size_human: String,
    te_endpoint: &'a str,
    protocol: &'static str,
    status: &'static str,
    allocator_used_bytes: u64,
    allocator_capacity_bytes: u64,
    allocator_usage_percent: f64,
}

impl<'a> Detail<'a> {
    fn of(segment: &'a SegmentState) -> Self {
        let desc = &segment.desc;
        Self {
            segment_name: &desc.name,
            segment_id: desc.id.to_string(),
            client_id: desc.node.to_string(),
            base_address: format!("{:#x}", desc.base),
            size_bytes: desc.size,
            size_human: ByteSize(desc.size).to_string(),
            te_endpoint: desc.tcp_endpoint(),
            protocol: desc.protocol.as_str(),
            status: segment.status.as_str(),
            allocator_used_bytes: segment.used,
            allocator_capacity_bytes: desc.size,
            allocator_usage_percent: if desc.size == 0 { 0.0 } else { segment.used as f64 / desc.size as f64 * 100.0 },
        }
    }
}

#[derive(Serialize, ToSchema)]
pub(super) struct Status<'a> {
    success: bool,
    segment: &'a str,
    status: u8,
    status_name: &'static str,
    error_code: i32,
    error_message: &'static str,
}

/// The state of a segment; of several of that name, the worst.
#[utoipa::path(
    get, path = "/api/v1/segments/status", tag = "objects",
    params(("segment" = Option<String>, Query, description = "Its name.")),
    responses((status = 200, description = "The state.", body = Status))
)]
pub(super) async fn status(State(app): State<App>, query: Query) -> Answer {
    let Some(name) = query.text("segment").filter(|name| !name.is_empty()) else {
        return Err(FaultCode::InvalidParams.with("Missing segment query parameter").into());
    };
    let found = named(&app, &query, "segment").await?;
    let worst = found.iter().max_by_key(|segment| match segment.status {
        SegmentStatus::Mounted => 0,
        SegmentStatus::Draining => 1,
        SegmentStatus::Suspect => 2,
        SegmentStatus::Lost => 3,
    });
    let Some(worst) = worst else {
        return Err(FaultCode::SegmentNotFound.with(format!("there is no segment `{name}`, see /get_all_segments")).into());
    };
    // Mooncake's numbers; it has none for a segment whose node is silent, and 0 is its word for undefined.
    let status = match worst.status {
        SegmentStatus::Mounted => 1,
        SegmentStatus::Draining => 2,
        SegmentStatus::Suspect | SegmentStatus::Lost => 0,
    };
    let status_name = worst.status.as_str();
    Ok(json(StatusCode::OK, &Status { success: true, segment: &worst.desc.name, status, status_name, error_code: 0, error_message: "" }))
}

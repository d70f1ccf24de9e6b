//! `/disk/*`: the segments. The id of a disk is a number: the first 48 bits of its segment's id.

use super::space::{self, Repairs};
use super::{Answer, IDC, Refusal, group, ok};
use crate::api::App;
use crate::api::extract::Query;
use crate::engine::Group;
use axum::extract::State;
use perilune_protocol::SegmentId;
use perilune_state::segments::Phase;
use perilune_state::usage::Usage;
use serde::Serialize;
use utoipa::ToSchema;

/// The highest number a disk's status has: it was dropped, and is not shown.
const STATUS_MAX: u8 = 5;
/// Disks on a page, unless asked for more.
const COUNT: usize = 10;
const COUNT_MAX: usize = 10_000;

#[derive(Serialize, ToSchema)]
struct Disk {
    disk_id: u64,
    segment_id: String,
    cluster_id: String,
    node_id: String,
    idc: &'static str,
    rack: &'static str,
    host: String,
    path: String,
    status: u8,
    readonly: bool,
    dropping: bool,
    /// Its node was silent for too long, or never spoke to this leader.
    expired: bool,
    size: u64,
    free: u64,
    used: u64,
    max_chunk_cnt: u64,
    free_chunk_cnt: u64,
    used_chunk_cnt: u64,
}

/// Half of a UUID's random bits make collisions a matter of millions of segments, and fit into what JSON readers keep exact.
fn number(id: SegmentId) -> u64 {
    (id.0.as_u128() >> 80) as u64
}

fn disk(group: &Group, repairs: &Repairs, usage: &Usage) -> Disk {
    let desc = usage.segment.desc();
    let size = usage.segment.space().capacity();
    let dropping = usage.segment.phase() != Phase::Mounted;
    Disk {
        disk_id: number(desc.id),
        segment_id: desc.id.to_string(),
        cluster_id: group.cluster(),
        node_id: desc.node.to_string(),
        idc: IDC,
        rack: "",
        host: desc.tcp_endpoint().to_owned(),
        path: desc.name.clone(),
        status: repairs.status(group, usage) as u8,
        readonly: dropping,
        dropping,
        expired: !space::is_heard(group, usage),
        size,
        free: size.saturating_sub(usage.used),
        used: usage.used,
        max_chunk_cnt: usage.frames,
        free_chunk_cnt: usage.free_frames,
        used_chunk_cnt: usage.frames - usage.free_frames,
    }
}

async fn disks(group: &Group) -> Result<Vec<Disk>, Refusal> {
    let repairs = Repairs::of(group);
    let mut disks: Vec<Disk> = group.usage().await?.iter().map(|u| disk(group, &repairs, u)).collect();
    disks.sort_by_key(|d| d.disk_id);
    Ok(disks)
}

/// A number in the query; 0 where it is left out.
fn numeric<T: std::str::FromStr + Default>(query: &Query, name: &str) -> Result<T, Refusal>
where
    T::Err: std::fmt::Display,
{
    let text = query.text(name).unwrap_or_default();
    if text.is_empty() { Ok(T::default()) } else { text.parse().map_err(|e| Refusal::argument(format!("{name}={text}: {e}"))) }
}

#[derive(Serialize, ToSchema)]
pub(super) struct Disks {
    disks: Vec<Disk>,
    marker: u64,
}

/// A page of disks behind `marker`, in the order of their ids. The answer's `marker` is for the next page; behind the last one there is an
/// empty page.
#[utoipa::path(
    get, path = "/disk/list", tag = "masters",
    params(("idc" = Option<String>, Query, description = "In this zone."), ("rack" = Option<String>, Query, description = "In this rack of it."), ("host" = Option<String>, Query, description = "Of this host."), ("status" = Option<u8>, Query, description = "In this state; 0: in any."), ("marker" = Option<u64>, Query, description = "Behind this disk."), ("count" = Option<u16>, Query, description = "No more than so many; 10 if nothing is said.", maximum = 10000)),
    responses((status = 200, description = "The page.", body = Disks))
)]
pub(super) async fn list(State(app): State<App>, query: Query) -> Answer {
    let group = group(&app)?;
    let of = |name: &str| query.text(name).unwrap_or_default();
    let (idc, rack, host) = (of("idc"), of("rack"), of("host"));
    let (status, marker, count): (u8, u64, usize) = (numeric(&query, "status")?, numeric(&query, "marker")?, numeric(&query, "count")?);
    if status > STATUS_MAX || count > COUNT_MAX || !rack.is_empty() && idc.is_empty() {
        return Err(Refusal::illegal(format!("status goes up to {STATUS_MAX}, count up to {COUNT_MAX}, and a rack is one of an idc")));
    }
    let fits = |asked: &str, is: &str| asked.is_empty() || asked == is;
    let mut disks = disks(group).await?;
    disks.retain(|d| d.disk_id > marker && fits(&idc, d.idc) && fits(&rack, d.rack) && fits(&host, &d.host));
    disks.retain(|d| status == 0 || d.status == status);
    let count = if count == 0 { COUNT } else { count };
    disks.truncate(count);
    let marker = disks.last().map_or(0, |d| d.disk_id);
    ok(&Disks { disks, marker })
}

/// One disk.
#[utoipa::path(
    get, path = "/disk/info", tag = "masters",
    params(("disk_id" = u64, Query, description = "Its number.")),
    responses((status = 200, description = "It.", body = Disk))
)]
pub(super) async fn info(State(app): State<App>, query: Query) -> Answer {
    let group = group(&app)?;
    if query.text("disk_id").unwrap_or_default().is_empty() {
        return Err(Refusal::omitted("DiskInfoArgs", "DiskID"));
    }
    let id: u64 = numeric(&query, "disk_id")?;
    ok(&disks(group).await?.into_iter().find(|d| d.disk_id == id).ok_or_else(Refusal::disk_not_found)?)
}

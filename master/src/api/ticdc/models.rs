//! What this face shows, and times as it writes them.

use crate::engine::Group;
use crate::feeds::{Progress, ReplicaConfig, Rows, filter_of};
use perilune_protocol::Tso;
use perilune_state::directory::{FeedRecord, FeedState, Known, Trouble};
use serde::Serialize;
use serde_json::{Map, Value};
use std::time::{Duration, SystemTime};
use utoipa::ToSchema;

/// A feed, whole.
#[derive(Serialize, ToSchema)]
#[schema(as = ChangeFeedInfo)]
pub(super) struct Info {
    upstream_id: u64,
    namespace: String,
    id: String,
    /// With what may be a secret masked.
    sink_uri: String,
    /// RFC 3339.
    create_time: String,
    start_ts: u64,
    #[serde(skip_serializing_if = "is_zero")]
    target_ts: u64,
    #[serde(skip_serializing_if = "is_zero")]
    admin_job_type: u64,
    #[schema(value_type = ReplicaConfig)]
    config: Value,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<RunningError>,
    creator_version: String,
    resolved_ts: u64,
    checkpoint_ts: u64,
    /// `2006-01-02 15:04:05.000`, UTC.
    checkpoint_time: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    task_status: Vec<TaskStatus>,
}

/// A feed in a list.
#[derive(Serialize, ToSchema)]
#[schema(as = ChangefeedCommonInfo)]
pub(super) struct Common {
    upstream_id: u64,
    namespace: String,
    pub(super) id: String,
    state: &'static str,
    checkpoint_tso: u64,
    checkpoint_time: String,
    error: Option<RunningError>,
}

/// What a feed met.
#[derive(Serialize, ToSchema)]
pub(super) struct RunningError {
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    addr: String,
    code: String,
    message: String,
}

/// What a master delivers.
#[derive(Serialize, ToSchema)]
struct TaskStatus {
    capture_id: String,
    table_ids: Vec<u64>,
    table_operations: Option<Map<String, Value>>,
}

/// A list.
#[derive(Serialize, ToSchema)]
pub(super) struct Items<T> {
    pub(super) total: usize,
    pub(super) items: Vec<T>,
}

impl<T> From<Vec<T>> for Items<T> {
    fn from(items: Vec<T>) -> Self {
        Self { total: items.len(), items }
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl RunningError {
    pub(super) fn timed(trouble: &Trouble) -> Self {
        let time = Some(humantime::format_rfc3339_millis(at(trouble.at_ms)).to_string());
        Self { time, ..Self::plain(trouble) }
    }

    fn plain(Trouble { addr, code, message, .. }: &Trouble) -> Self {
        Self { time: None, addr: addr.clone(), code: code.clone(), message: message.clone() }
    }
}

impl Info {
    /// `tasks`: who delivers what is told, too.
    pub(super) fn of(group: &Group, known: &Known, feed: &FeedRecord, progress: Progress, tasks: bool) -> Self {
        let config = ReplicaConfig::stored(&feed.config);
        let table_ids =
            config.as_ref().ok().and_then(|config| filter_of(config).ok()).map(|filter| Rows::tables(known, feed.tenant, &filter));
        let task = |tables: Vec<_>| TaskStatus {
            capture_id: capture_id(group.me()),
            table_ids: tables.iter().map(|table: &crate::feeds::Table| table.id).collect(),
            table_operations: None,
        };
        let tasks = tasks && feed.state == FeedState::Normal;
        Self {
            upstream_id: upstream_id(group),
            namespace: namespace(known, feed),
            id: feed.name.clone(),
            sink_uri: feed.sink.clone(),
            create_time: humantime::format_rfc3339_nanos(at(feed.ctime_ms)).to_string(),
            start_ts: feed.start.0,
            target_ts: feed.target.map_or(0, |target| target.0),
            admin_job_type: match feed.state {
                FeedState::Normal | FeedState::Warning => 0,
                FeedState::Pending | FeedState::Stopped | FeedState::Failed => 1,
                FeedState::Finished => 4,
            },
            config: config.map_or(Value::Null, |config| config.shown()),
            state: feed.state.name(),
            error: feed.error.as_ref().filter(|_| feed.state != FeedState::Normal).map(RunningError::plain),
            creator_version: feed.creator.clone(),
            resolved_ts: progress.resolved.0,
            checkpoint_ts: progress.checkpoint.0,
            checkpoint_time: time(progress.checkpoint),
            task_status: if tasks { table_ids.map(task).into_iter().collect() } else { Vec::new() },
        }
    }
}

impl Common {
    pub(super) fn of(group: &Group, known: &Known, feed: &FeedRecord, progress: Progress) -> Self {
        let state = if feed.state == FeedState::Pending { FeedState::Warning } else { feed.state };
        let trouble = feed.error.as_ref().or(feed.warning.as_ref()).filter(|_| feed.state != FeedState::Normal);
        Self {
            upstream_id: upstream_id(group),
            namespace: namespace(known, feed),
            id: feed.name.clone(),
            state: state.name(),
            checkpoint_tso: progress.checkpoint.0,
            checkpoint_time: time(progress.checkpoint),
            error: trouble.map(RunningError::timed),
        }
    }
}

fn namespace(known: &Known, feed: &FeedRecord) -> String {
    known.tenant(feed.tenant).map_or_else(String::new, |tenant| tenant.name.clone())
}

/// The number of this cluster: the first half of its id.
fn upstream_id(group: &Group) -> u64 {
    u64::from_str_radix(&group.cluster().replace('-', "").chars().take(16).collect::<String>(), 16).unwrap_or_default()
}

/// What a master is called here.
pub(super) fn capture_id(member: u64) -> String {
    format!("master-{member}")
}

fn at(ms: u64) -> SystemTime {
    // Nothing later can be written in four digits.
    const LAST_MS: u64 = 253_402_300_799_999;
    SystemTime::UNIX_EPOCH + Duration::from_millis(ms.min(LAST_MS))
}

/// When a stamp was issued, in UTC, without saying so.
pub(super) fn time(stamp: Tso) -> String {
    time_of(stamp.physical_ms())
}

/// The same of milliseconds since 1970.
pub(super) fn time_of(ms: u64) -> String {
    humantime::format_rfc3339_millis(at(ms)).to_string().replace('T', " ").replace('Z', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_page_does() {
        assert_eq!(time(Tso(449_885_660_774_400_000)), "2024-05-20 04:00:00.000");
        assert_eq!((time_of(0), time(Tso(u64::MAX)).len()), ("1970-01-01 00:00:00.000".into(), 23));
    }
}

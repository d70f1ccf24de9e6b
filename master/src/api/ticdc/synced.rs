//! Whether everything older than a while is in the sink: what gates a cut-over.

use super::models::{time, time_of};
use super::said::{self, Name};
use super::{Answer, engine, json};
use crate::api::App;
use crate::api::extract::Query;
use crate::feeds::{Progress, ReplicaConfig};
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;

#[derive(Serialize, ToSchema)]
#[schema(as = SyncedStatus)]
struct Status {
    synced: bool,
    sink_checkpoint_ts: String,
    puller_resolved_ts: String,
    last_synced_ts: String,
    now_ts: String,
    info: String,
}

const UNFINISHED: &str = "The data syncing is not finished, please wait";

/// Whether nothing happened for so long that everything there is has arrived.
#[utoipa::path(
    get, path = "/api/v2/changefeeds/{changefeed_id}/synced", tag = "changefeeds",
    params(("changefeed_id" = String, Path, description = "Its name."), ("namespace" = Option<String>, Query, description = "`default`, unless said.")),
    responses((status = 200, description = "It has, or why that is not known.", body = Status))
)]
pub(super) async fn synced(State(app): State<App>, Path(name): Name, query: Query) -> Answer {
    let engine = engine(&app)?;
    let known = engine.directory();
    let feed = said::feed(&known, &query, &name)?;
    let progress = engine.feed_progress(feed);
    let said = ReplicaConfig::stored(&feed.config).map(|config| config.synced_status).unwrap_or_default();
    let (synced, check) = (said.synced_check_interval, said.checkpoint_interval);
    let intervals = if synced != 0 && check != 0 { (synced, check) } else { (300, 15) };
    let now = engine.feed_clock().await.map(|now| now.physical_ms()).map_err(|fault| fault.to_string());
    let (synced, info) = verdict(progress, now.as_ref().copied().map_err(String::as_str), intervals);
    json(&Status {
        synced,
        sink_checkpoint_ts: time(progress.checkpoint),
        puller_resolved_ts: time(progress.resolved),
        last_synced_ts: time(progress.last_synced),
        now_ts: now.map_or_else(|_| time_of(0), |now| time_of(now / 1000 * 1000)),
        info,
    })
}

/// The table of the page. `now` in milliseconds, or why it is not known; the intervals, of rest and of lag, in seconds.
fn verdict(progress: Progress, now: Result<u64, &str>, (rest, lag): (i64, i64)) -> (bool, String) {
    let ms = |stamp: perilune_protocol::Tso| stamp.physical_ms() as i64;
    let (checkpoint, pulled, last) = (ms(progress.checkpoint), ms(progress.resolved), ms(progress.last_synced));
    let (rest_ms, lag_ms) = (rest.saturating_mul(1000), lag.saturating_mul(1000));
    let now = match now {
        Ok(now) => now as i64,
        Err(why) if pulled - checkpoint > lag_ms => return (false, format!("{why}. Besides the data is not finish syncing")),
        Err(why) => {
            let text = format!(
                "{why}. You should check the pd status first. If pd status is normal, means we don't finish sync data. If pd is offline, please \
                 check whether we satisfy the condition that the time difference from lastSyncedTs to the current time from the time zone of pd \
                 is greater than {rest} secs. If it's satisfied, means the data syncing is totally finished"
            );
            return (false, text);
        }
    };
    let text = match (now - last > rest_ms, now - checkpoint < lag_ms, pulled - checkpoint < lag_ms) {
        (true, true, _) => return (true, "Data syncing is finished".into()),
        (true, false, true) => {
            "Please check whether PD is online and TiKV Regions are all available. If PD is offline or some TiKV regions are not available, it \
             means that the data syncing process is complete. To check whether TiKV regions are all available, you can view 'TiKV-Details' > \
             'Resolved-Ts' > 'Max Leader Resolved TS gap' on Grafana. If the gap is large, such as a few minutes, it means that some regions in \
             TiKV are unavailable. Otherwise, if the gap is small and PD is online, it means the data syncing is incomplete, so please wait"
        }
        (true, false, false) | (false, ..) => UNFINISHED,
    };
    (false, text.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use perilune_protocol::Tso;

    /// C19: a vector for each row, with both sides of each comparison.
    #[test]
    fn the_table_of_the_page() {
        let second = |s: u64| Tso::from_physical(1_000_000 + s * 1000);
        let at =
            |checkpoint, resolved, last| Progress { checkpoint: second(checkpoint), resolved: second(resolved), last_synced: second(last) };
        let now = |s: u64| Ok(1_000_000 + s * 1000);
        let intervals = (300, 15);
        for (progress, clock, synced, begins) in [
            (at(0, 16, 0), Err("gone"), false, "gone. Besides the data is not finish syncing"),
            (at(0, 15, 0), Err("gone"), false, "gone. You should check the pd status first."),
            (at(390, 390, 99), now(400), true, "Data syncing is finished"),
            (at(386, 390, 99), now(400), true, "Data syncing is finished"),
            (at(385, 390, 99), now(400), false, "Please check whether PD is online"),
            (at(380, 394, 99), now(400), false, "Please check whether PD is online"),
            (at(380, 395, 99), now(400), false, UNFINISHED),
            (at(390, 390, 100), now(400), false, UNFINISHED),
            (at(10, 399, 399), now(400), false, UNFINISHED),
        ] {
            let (found, info) = verdict(progress, clock, intervals);
            assert!(found == synced && info.starts_with(begins), "{progress:?} {clock:?}: {info}");
        }
        assert!(verdict(at(0, 0, 0), Err("e"), intervals).1.contains("greater than 300 secs. If"));
    }
}

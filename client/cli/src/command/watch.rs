//! `perilune watch`: what happens, as it happens.

use super::client::ClientArgs;
use crate::failure::Failure;
use crate::output;
use crate::settings::Global;
use perilune_client::Since;
use perilune_protocol::event::{Event, EventFilter, EventKind, Shown, What};
use perilune_protocol::metakey::Field;
use perilune_protocol::{ByteSize, FaultCode, ObjectKey};
use std::str::FromStr;
use std::time::Duration;

/// Show what happens to objects, segments and nodes, as it happens
#[derive(clap::Args)]
pub(crate) struct Watch {
    /// Where to begin: now, oldest (as far back as is kept), snapshot (all there is, then what happens), or the cursor of an event (--json shows
    /// them), behind which it goes on; without it now, with --feed what the changefeed has not delivered yet
    #[arg(long, value_name = "PLACE")]
    from: Option<Place>,
    /// Only what the changefeed of this name carries, whether it delivers or not
    #[arg(long, value_name = "NAME")]
    feed: Option<String>,
    /// Only of these kinds, separated by commas: put, replicas, removed, cleared, offloaded, cold-lost, demoted, mounted, draining, unmounted,
    /// node-up, node-down
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    kind: Vec<EventKind>,
    /// Only objects whose key begins so; may be given several times
    #[arg(long, value_name = "PREFIX")]
    prefix: Vec<String>,
    /// Only of tables that these rules take, such as llama.* or !*.tmp, the last one that matches deciding; may be given several times. What is
    /// about no object is of system.segments, system.nodes and system.tenants
    #[arg(long, value_name = "RULE", allow_hyphen_values = true)]
    table: Vec<String>,
    /// Have the masters show how far this consumer lags, by this name
    #[arg(long, value_name = "NAME", default_value = "")]
    consumer: String,
    /// Of every tenant: for the admin
    #[arg(long)]
    everybody: bool,
    /// Stop after so many events; 0: never
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    count: u64,
    #[command(flatten)]
    client: ClientArgs,
}

/// Where to begin.
#[derive(Clone, Copy)]
struct Place(Since);

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(Self(match text {
            "now" => Since::Now,
            "oldest" => Since::Oldest,
            "snapshot" => Since::Snapshot,
            cursor => Since::Cursor(cursor.parse().map_err(|e| format!("{e}; or write now, oldest or snapshot"))?),
        }))
    }
}

/// How long one question waits; between two, nothing is lost.
const PATIENCE: Duration = Duration::from_secs(5);

impl Watch {
    pub(crate) fn run(self, global: &Global) -> Result<(), Failure> {
        let prefixes = self.prefix.into_iter().map(ObjectKey::from).collect();
        let filter = EventFilter { tenant: None, prefixes, kinds: self.kind, tables: self.table };
        let (store, since) = (self.client.connect()?, self.from.map(|place| place.0));
        let watch = match self.feed {
            None => store.watch(since.unwrap_or(Since::Now), filter, self.everybody),
            Some(feed) => store.watch_feed(feed, since, filter, self.everybody),
        };
        let mut watch = watch.named(self.consumer);
        let mut shown = 0;
        while self.count == 0 || shown < self.count {
            match watch.next(PATIENCE) {
                Ok(None) => {}
                Ok(Some(event)) => {
                    shown += 1;
                    if global.json { output::json(&Shown::from(&event))? } else { output::line(line(&event))? }
                }
                // Another master may take over at any time; until then it says so.
                Err(fault) if [FaultCode::Unreachable, FaultCode::Timeout, FaultCode::NotLeader].contains(&fault.code) => {
                    eprintln!("perilune: {fault}; going on from where it was");
                }
                Err(fault) => return Err(fault.into()),
            }
        }
        Ok(())
    }
}

/// A key on one line, whatever is in it: nobody's terminal obeys it.
fn plain(key: &ObjectKey) -> Field {
    Field::Bytes(key.as_bytes().to_vec())
}

/// An event for people.
fn line(event: &Event) -> String {
    let about = match &event.what {
        What::Put { key, size, replicas, .. } => format!("{}  {} in {} copies", plain(key), ByteSize(*size), replicas.len()),
        What::Replicas { key, add, drop, .. } => {
            let add = add.as_ref().map(|place| format!("  copy on {}", place.segment)).unwrap_or_default();
            format!("{}{add}{}", plain(key), drop.map(|segment| format!("  none on {segment} any more")).unwrap_or_default())
        }
        What::Removed { key, reason, .. } => format!("{}  {}", plain(key), reason.as_str()),
        What::Cleared => String::new(),
        What::Offloaded { key, vault, stored, .. } => format!("{}  {} to vault {vault}", plain(key), ByteSize(*stored)),
        What::ColdLost { key, vault, .. } => format!("{}  from vault {vault}", plain(key)),
        What::Demoted { key, .. } => plain(key).to_string(),
        What::Mounted { segment, name, size, .. } => format!("{segment}  {} of {name}", ByteSize(*size)),
        What::Draining { segment, grace_ms } => format!("{segment}  gone in {grace_ms} ms"),
        What::Unmounted { segment } => segment.to_string(),
        What::NodeUp { node, name } => format!("{node}  {name}"),
        What::NodeDown { node } => node.to_string(),
    };
    let tenant = event.tenant.filter(|tenant| tenant.0 != 0).map(|tenant| format!("  tenant {}", tenant.0)).unwrap_or_default();
    format!("{}  {:9}  {about}{tenant}", clock(event.commit_ts.physical_ms()), event.what.kind().as_str())
}

/// The time of day, in UTC.
fn clock(ms: u64) -> String {
    let (hours, minutes, seconds) = (ms / 3_600_000 % 24, ms / 60_000 % 60, ms / 1000 % 60);
    format!("{hours:02}:{minutes:02}:{seconds:02}.{:03}", ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use perilune_protocol::Tso;
    use perilune_protocol::event::Cursor;

    #[test]
    fn an_event_is_one_line_whatever_its_key() {
        let cursor = Cursor { cluster: Default::default(), index: 1, place: 1, stamp: Tso(0) };
        let what = What::Demoted { key: ObjectKey::new(*b"a\nb\x1b[31m\xff\xc3\xbc"), version: Tso(1) };
        let shown = line(&Event { cursor, commit_ts: Tso(0), tenant: None, what });
        assert_eq!(shown, "00:00:00.000  demoted    a\\nb\\u{1b}[31m\\xff\u{fc}");
    }
}

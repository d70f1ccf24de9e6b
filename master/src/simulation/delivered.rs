//! The rules about changefeeds, looked at from where they deliver: the files that come there, in their order, and what is said of them.
//!
//! | rule | |
//! |---|---|
//! | rows arrive in order | each row of a table follows the one before it, in its file and from file to file, or a file begins again with an earlier one |
//! | no row is invented | each is that of an event of the feed's tenant, after its start |
//! | a checkpoint is durable | whatever is said to have arrived has, by the sink, by the log and by a master; and nothing comes to be below it later |
//! | a feed is given up when it must be | one fails for good only when what it needs is gone |

use super::oracle::{Check, Oracle};
use crate::feeds::{Code, Encoder, Kept, Protocol, ReplicaConfig, Rows, filter_of};
use perilune_protocol::event::Event;
use perilune_protocol::{TenantId, Tso, tenant};
use perilune_state::directory::{Change, FeedId, FeedRecord, FeedState, Known};
use std::collections::{BTreeMap, HashMap};

/// Buckets of feeds have names that begin so.
pub(super) const BUCKET: &str = "feed-";

/// A row that is to arrive.
struct Row {
    stamp: Tso,
    /// Its table, where none was declared.
    dir: String,
    /// How many came before it there.
    nth: usize,
}

/// The rows of a tenant, in the order of the log.
struct Told {
    rows: Vec<Row>,
    by_line: HashMap<String, usize>,
    in_dir: BTreeMap<String, usize>,
    maker: Rows,
    encoder: Encoder,
}

/// A feed, and what has come of it.
struct Feed {
    record: FeedRecord,
    gone: bool,
    /// Where each of its runs began.
    starts: Vec<Tso>,
    /// Which rows of its tenant have arrived, and up to which there is none missing.
    held: Vec<bool>,
    whole: usize,
    /// The highest checkpoint that was told.
    said: Tso,
    /// The number of the newest file in each directory, and the place of its last row.
    files: BTreeMap<String, (u64, usize)>,
}

#[derive(Default)]
pub(super) struct Delivered {
    feeds: BTreeMap<FeedId, Feed>,
    tenants: BTreeMap<TenantId, Told>,
}

/// Operation, commit stamp and values: all that does not depend on which tables are declared.
fn line_of(csv: &str) -> Option<String> {
    let mut parts = csv.splitn(4, ',');
    let (op, rest) = (parts.next()?, parts.nth(2)?);
    Some(format!("{op},{rest}"))
}

impl Told {
    fn new(record: &FeedRecord, name: &str) -> Option<Self> {
        let config = ReplicaConfig::stored(&record.config).ok()?;
        let maker = Rows::new(record.tenant, name, filter_of(&config).ok()?);
        let encoder = Encoder::new(Protocol::Csv, &config, false);
        Some(Self { rows: Vec::new(), by_line: HashMap::new(), in_dir: BTreeMap::new(), maker, encoder })
    }

    /// Whether the event is one of its rows.
    fn add(&mut self, event: &Event) -> bool {
        let Some(row) = self.maker.of(&Known::default(), event) else { return false };
        let (dir, mut line) = (format!("{}/{}", row.table.db, row.table.name), Vec::new());
        self.encoder.line(&row, 0, &mut line);
        let count = self.in_dir.entry(dir.clone()).or_default();
        if let Some(line) = line_of(String::from_utf8_lossy(&line).trim_end_matches('\n')) {
            self.by_line.insert(line, self.rows.len());
        }
        self.rows.push(Row { stamp: row.commit_ts, dir, nth: *count });
        *count += 1;
        true
    }

    /// The place in its directory of the first row with a higher stamp.
    fn first_after(&self, start: Tso, dir: &str) -> usize {
        let from = self.rows.partition_point(|row| row.stamp <= start);
        let first = self.rows[from..].iter().find(|row| row.dir == dir);
        first.map_or_else(|| self.in_dir.get(dir).copied().unwrap_or(0), |row| row.nth)
    }
}

impl Feed {
    fn start(&self) -> Tso {
        self.starts.last().copied().unwrap_or_default()
    }

    /// The first row of this run that has not arrived.
    fn missing<'a>(&mut self, told: &'a Told) -> Option<&'a Row> {
        let begins = told.rows.partition_point(|row| row.stamp <= self.start());
        self.whole = self.whole.max(begins);
        while self.held.get(self.whole) == Some(&true) {
            self.whole += 1;
        }
        told.rows.get(self.whole)
    }

    /// "a checkpoint is durable".
    fn says(&mut self, told: &Told, at: Tso, whose: &str) -> Check {
        self.said = self.said.max(at);
        match self.missing(told).filter(|row| row.stamp <= at) {
            None => Ok(()),
            Some(row) => {
                let what = format!("{whose} says that {} has all up to {}, and it lacks a row of {}", self.record.name, at.0, row.stamp.0);
                Err(("a checkpoint is durable", what))
            }
        }
    }

    /// A file came there: "rows arrive in order", "no row is invented".
    fn takes(&mut self, told: &Told, dir: &str, number: u64, text: &str, tables: bool) -> Check {
        let name = self.record.name.clone();
        let broken = |rule: &'static str, what: String| Err((rule, format!("{name}, file {number} of {dir}: {what}")));
        let before = self.files.get(dir).copied();
        if before.map_or(0, |(number, _)| number) + 1 != number {
            return broken("rows arrive in order", format!("the file before it is {before:?}"));
        }
        let (mut last, table) = (before.map(|(_, last)| last), dir.rsplit_once('/').map_or(dir, |(table, _)| table));
        for (nth, line) in text.split_terminator('\n').enumerate() {
            let Some(&at) = line_of(line).and_then(|line| told.by_line.get(&line)) else {
                return broken("no row is invented", format!("nothing happened that is {line:?}"));
            };
            let row = &told.rows[at];
            if self.starts.iter().all(|start| row.stamp <= *start) {
                return broken("no row is invented", format!("{line:?} is not after {:?}", self.starts));
            }
            if !tables && row.dir == table {
                let begins = |place: usize| self.starts.iter().any(|start| told.first_after(*start, table) == place);
                let fits = match last {
                    None => begins(row.nth),
                    Some(last) => row.nth == last + 1 || nth == 0 && (row.nth <= last || begins(row.nth)),
                };
                if !fits {
                    return broken("rows arrive in order", format!("{line:?} is row {} there, behind row {last:?}", row.nth));
                }
            }
            last = Some(row.nth);
            if self.held.len() <= at {
                self.held.resize(at + 1, false);
            }
            self.held[at] = true;
        }
        self.files.insert(dir.into(), (number, last.unwrap_or(0)));
        Ok(())
    }
}

impl Oracle {
    /// An effect took effect: it is a row of feeds, from now on.
    pub(super) fn row(&mut self, place: (u64, u64)) -> Check {
        let Some(event) = self.log.get(&place).and_then(|bytes| self.event(place, bytes)) else { return Ok(()) };
        for (tenant, told) in &mut self.delivered.tenants {
            if !told.add(&event) {
                continue;
            }
            let mut late = self.delivered.feeds.values().filter(|feed| feed.record.tenant == *tenant && feed.said >= event.commit_ts);
            if let Some(feed) = late.next().filter(|_| !self.lenient) {
                let what = format!("{event:?} happened below {}, which {} was said to have come to", feed.said.0, feed.record.name);
                return Err(("a checkpoint is durable", what));
            }
        }
        Ok(())
    }

    /// The directory says something of a feed.
    pub(super) fn feed(&mut self, change: &Change) -> Check {
        let record = match change {
            Change::Feed(record) => record,
            Change::FeedGone(id) => {
                self.delivered.feeds.entry(*id).and_modify(|feed| feed.gone = true);
                return Ok(());
            }
            _ => return Ok(()),
        };
        let name = self.owners.name_of(record.tenant).unwrap_or_else(|| tenant::DEFAULT.into());
        if !self.delivered.tenants.contains_key(&record.tenant)
            && let Some(mut told) = Told::new(record, &name)
        {
            let took_effect = self.log.iter().filter(|(place, _)| !self.moot.contains(place));
            took_effect.filter_map(|(place, bytes)| self.event(*place, bytes)).for_each(|event| _ = told.add(&event));
            self.delivered.tenants.insert(record.tenant, told);
        }
        let feed = self.delivered.feeds.entry(record.id).or_insert_with(|| Feed {
            record: record.clone(),
            gone: false,
            starts: vec![record.start],
            held: Vec::new(),
            whole: 0,
            said: Tso(0),
            files: BTreeMap::new(),
        });
        if record.run != feed.record.run {
            (feed.whole, feed.said) = (0, Tso(0));
            feed.starts.push(record.start);
        }
        let fails = record.state == FeedState::Failed && feed.record.state != FeedState::Failed;
        feed.record = record.clone();
        self.counts.feeds_failed += u64::from(fails);
        match record.error.as_ref().filter(|error| fails && !self.lenient && error.code != Code::SnapshotLostByGc.text()) {
            None => Ok(()),
            Some(error) => Err(("a feed is given up when it must be", format!("{} failed for good: {error:?}", record.name))),
        }
    }

    /// How far a feed is was written down.
    pub(super) fn kept(&mut self, key: &str, value: Option<&str>) -> Check {
        let id = self.delivered.feeds.keys().copied().find(|id| FeedRecord::progress_key_of(*id) == key);
        let Some((id, kept)) = id.zip(value.and_then(Kept::read)) else { return Ok(()) };
        self.says(id, kept.run, kept.checkpoint, "the log")
    }

    /// Somebody says how far a run of a feed is.
    pub(super) fn says(&mut self, id: FeedId, run: u32, at: Tso, whose: &str) -> Check {
        let Delivered { feeds, tenants } = &mut self.delivered;
        let Some(feed) = feeds.get_mut(&id).filter(|feed| feed.record.run == run && !self.lenient) else { return Ok(()) };
        tenants.get(&feed.record.tenant).map_or(Ok(()), |told| feed.says(told, at, whose))
    }

    /// A file was written to the bucket of a feed.
    pub(super) fn arrived(&mut self, bucket: &str, path: &str, body: &[u8]) -> Check {
        let Delivered { feeds, tenants } = &mut self.delivered;
        let Some(feed) = feeds.values_mut().find(|feed| bucket.strip_prefix(BUCKET) == Some(&feed.record.name)) else { return Ok(()) };
        let Some(told) = tenants.get(&feed.record.tenant).filter(|_| !self.lenient) else { return Ok(()) };
        let text = String::from_utf8_lossy(body);
        if path == "metadata" {
            let at = serde_json::from_str::<serde_json::Value>(&text).ok().and_then(|said| said["checkpoint-ts"].as_u64());
            return feed.says(told, Tso(at.unwrap_or(u64::MAX)), "its metadata");
        }
        let number = |name: &str| name.strip_prefix("CDC")?.strip_suffix(".csv")?.parse().ok();
        let Some((dir, number)) = path.rsplit_once('/').and_then(|(dir, name)| Some((dir, number(name)?))) else { return Ok(()) };
        self.counts.files += 1;
        feed.takes(told, dir, number, &text, self.owners.has_tables(feed.record.tenant))
    }

    /// Feeds that there are.
    pub(super) fn feeds(&self) -> Vec<FeedRecord> {
        self.delivered.feeds.values().filter(|feed| !feed.gone).map(|feed| feed.record.clone()).collect()
    }

    /// A feed that has not delivered all that happened up to a stamp, although what it needs is there.
    pub(super) fn behind(&mut self, until: Tso) -> Option<String> {
        let Delivered { feeds, tenants } = &mut self.delivered;
        feeds.values_mut().filter(|feed| !self.lenient && !feed.gone && self.owners.is_served(feed.record.tenant)).find_map(|feed| {
            let row = feed.missing(tenants.get(&feed.record.tenant)?).filter(|row| row.stamp <= until)?;
            let FeedRecord { name, state, error, warning, .. } = &feed.record;
            let lost = error.iter().chain(warning).any(|trouble| trouble.code == Code::SnapshotLostByGc.text());
            (!lost).then(|| format!("{name} is {} and lacks a row of {}: {error:?}", state.name(), row.stamp.0))
        })
    }
}

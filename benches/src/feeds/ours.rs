//! This build: a master as a process of its own, whose log has the events, and feeds that deliver them.

use super::Options;
use super::place::Place;
use crate::cluster::Cluster;
use crate::group::request;
use crate::report::Latency;
use crate::rivals::Trouble;
use bytes::Bytes;
use perilune_client::Since;
use perilune_protocol::event::{EventFilter, EventKind};
use perilune_protocol::{ObjectKey, Tso};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Only what hangs takes so long.
const PATIENCE: Duration = Duration::from_secs(120);
/// How far a feed is is looked at so often.
const LOOK: Duration = Duration::from_millis(2);
/// The shortest that there is.
const FLUSH: &str = "2s";
/// The smallest that there are.
const FILE_BYTES: u64 = 1 << 20;

pub(super) struct Ours {
    cluster: Cluster,
    /// Feeds and objects so far, which are called by their numbers.
    feeds: usize,
    objects: usize,
    /// All events to be delivered lie behind the first stamp, and none behind the second.
    between: (Tso, Tso),
    events: usize,
}

impl Ours {
    /// A master that knows the events already.
    pub(super) fn start(options: &Options, places: &[Box<dyn Place>]) -> Result<Self, Trouble> {
        let root = places.iter().find_map(|place| place.root()).map(|root| root.display().to_string());
        let flags: Vec<&str> = root.iter().flat_map(|root| ["--vault-root", root]).collect();
        let cluster = Cluster::start(&options.program, &options.dir, &flags, None)?;
        let mut ours = Self { cluster, feeds: 0, objects: 0, between: (Tso(0), Tso(0)), events: options.events };
        let begin = ours.now()?;
        let keys = ours.keys(options.events);
        ours.cluster.put(&keys)?;
        ours.between = (begin, ours.now()?);
        Ok(ours)
    }

    fn keys(&mut self, count: usize) -> Vec<ObjectKey> {
        let from = self.objects;
        self.objects += count;
        (from..self.objects).map(|nth| format!("bench/feeds/{nth:020}").as_str().into()).collect()
    }

    /// What is answered, unless it is a refusal.
    fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value, Trouble> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = request(self.cluster.http, method, &format!("/api/v2/{path}"), &body, PATIENCE);
        let answer: Value = serde_json::from_str(&answer.ok_or_else(|| format!("{path} was not answered"))?)?;
        match answer["error_msg"].as_str() {
            Some(why) => Err(why.into()),
            None => Ok(answer),
        }
    }

    fn now(&self) -> Result<Tso, Trouble> {
        let said = self.ask("POST", "tso", &json!({}))?;
        let [physical, logical] = [&said["timestamp"], &said["logic_time"]].map(|number| number.as_u64().unwrap_or_default());
        Ok(Tso(Tso::from_physical(physical).0 | logical))
    }

    /// A feed of objects begins, where nothing else is said from now on. Gives its name and where it begins.
    fn create(&mut self, place: &dyn Place, start: Tso, target: Tso) -> Result<(String, Tso), Trouble> {
        self.feeds += 1;
        let name = format!("ours-{}", self.feeds);
        let storage = json!({ "flush_interval": FLUSH, "file_size": FILE_BYTES });
        let config = json!({ "filter": { "rules": ["default.*"] }, "sink": { "date_separator": "none", "cloud_storage_config": storage } });
        let (start, target, uri) = (start.0, target.0, place.uri(&name));
        let asked = json!({ "changefeed_id": name, "sink_uri": uri, "start_ts": start, "target_ts": target, "replica_config": config });
        let created = self.ask("POST", "changefeeds", &asked)?;
        Ok((name, Tso(created["start_ts"].as_u64().ok_or("a feed that was created has no start_ts")?)))
    }

    fn status(&self, feed: &str) -> Result<Value, Trouble> {
        let status = self.ask("GET", &format!("changefeeds/{feed}/status"), &Value::Null)?;
        match status["last_error"]["message"].as_str() {
            Some(why) => Err(why.into()),
            None => Ok(status),
        }
    }

    fn end(&self, feed: &str) -> Result<(), Trouble> {
        self.ask("DELETE", &format!("changefeeds/{feed}"), &Value::Null).map(drop)
    }

    /// Delivers all events there; how long that took, from when the feed was created. What came there is put into `bodies`.
    pub(super) fn deliver(&mut self, place: &mut dyn Place, bodies: &mut Vec<Bytes>) -> Result<Duration, Trouble> {
        let (start, target) = self.between;
        let (feed, _) = self.create(place, start, target)?;
        let began = Instant::now();
        while self.status(&feed)?["state"] != "finished" {
            if began.elapsed() > PATIENCE {
                return Err(format!("{} events were not delivered within {PATIENCE:?}", self.events).into());
            }
            thread::sleep(LOOK);
        }
        let took = began.elapsed();
        let rows = self.rows(&feed)?;
        if rows != self.events as u64 {
            return Err(format!("{} events made {rows} rows", self.events).into());
        }
        self.end(&feed)?;
        *bodies = place.take(&feed)?;
        // A message has no end of a line.
        let lines: usize = bodies.iter().map(|body| body.iter().filter(|byte| **byte == b'\n').count().max(1)).sum();
        if place.library().is_some() && lines != self.events {
            return Err(format!("{} events came as {lines} rows", self.events).into());
        }
        Ok(took)
    }

    /// Rows that the sink of a feed took.
    fn rows(&self, feed: &str) -> Result<u64, Trouble> {
        let page = request(self.cluster.http, "GET", "/metrics", "", PATIENCE).ok_or("/metrics was not answered")?;
        let of_feed = |line: &&str| line.starts_with("perilune_changefeed_rows_total{") && line.contains(&format!("changefeed=\"{feed}\""));
        let line = page.lines().find(of_feed).ok_or("the master does not count rows")?;
        Ok(line.rsplit_once(' ').map_or("", |(_, number)| number).trim().parse()?)
    }

    /// Puts objects one after the other while a feed delivers, and looks how long after each its row has arrived.
    pub(super) fn lag(&mut self, place: &mut dyn Place, options: &Options) -> Result<Latency, Trouble> {
        let (feed, start) = self.create(place, Tso(0), Tso(0))?;
        let keys = self.keys(options.watched);
        // The last stamp, once it is known. It speaks of no other data: relaxed.
        let last = AtomicU64::new(u64::MAX);
        let (ours, feed_name) = (&*self, feed.as_str());
        let (told, put) = thread::scope(|scope| {
            let look = scope.spawn(|| ours.checkpoints(feed_name, &last));
            let put = ours.put_slowly(&keys, start, options.pause);
            // Without any it is told to end.
            last.store(put.as_ref().ok().and_then(|put| put.last()).map_or(0, |(_, stamp)| stamp.0), Ordering::Relaxed);
            (look.join().unwrap_or_else(|_| Err("looking at a feed panicked".into())), put)
        });
        let (told, put) = (told?, put?);
        self.end(&feed)?;
        let came = place.seen().unwrap_or(told);
        drop(place.take(&feed)?);
        let mut lag = Latency::default();
        for (acknowledged, stamp) in put {
            let (at, _) = came.iter().find(|(_, upto)| *upto >= stamp).ok_or("a row did not arrive")?;
            lag.record(at.saturating_duration_since(acknowledged));
        }
        Ok(lag)
    }

    /// When each of these was acknowledged, and the stamp that its event has.
    fn put_slowly(&self, keys: &[ObjectKey], start: Tso, pause: Duration) -> Result<Vec<(Instant, Tso)>, Trouble> {
        let mut acknowledged = Vec::new();
        for key in keys {
            self.cluster.put(std::slice::from_ref(key))?;
            acknowledged.push(Instant::now());
            thread::sleep(pause);
        }
        let filter = EventFilter { kinds: vec![EventKind::Put], ..EventFilter::default() };
        let mut watch = self.cluster.store.watch(Since::After(start), filter, false);
        let mut put = Vec::new();
        for (key, at) in keys.iter().zip(acknowledged) {
            let event = watch.next(PATIENCE)?.ok_or("a put is told by no event")?;
            if event.what.object().is_none_or(|(told, _)| told != key) {
                return Err(format!("the put of {key} is not told by the next event").into());
            }
            put.push((at, event.commit_ts));
        }
        Ok(put)
    }

    /// How far a feed was when, until it has come to `last`.
    fn checkpoints(&self, feed: &str, last: &AtomicU64) -> Result<Vec<(Instant, Tso)>, Trouble> {
        let (began, mut told) = (Instant::now(), vec![(Instant::now(), Tso(0))]);
        while told.last().is_none_or(|(_, upto)| upto.0 < last.load(Ordering::Relaxed)) {
            if began.elapsed() > PATIENCE {
                return Err(format!("what was put did not arrive within {PATIENCE:?}").into());
            }
            let upto = self.status(feed)?["checkpoint_ts"].as_u64().unwrap_or(0);
            told.push((Instant::now(), Tso(upto)));
            thread::sleep(LOOK);
        }
        Ok(told)
    }
}

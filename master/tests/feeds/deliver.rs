//! What arrives in files, across pauses, restarts and failures.

use super::*;
use std::collections::BTreeMap;

/// A row of a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Line {
    pub(crate) commit_ts: u64,
    pub(crate) op: String,
    pub(crate) table: String,
    pub(crate) key: String,
    pub(crate) event: String,
}

impl Served {
    /// All rows of a table in a sink of CSV with commit stamps, file by file.
    pub(crate) fn lines(&self, sink: &str, table: &str) -> Vec<Line> {
        let mut files = BTreeMap::new();
        find(&self.dir.path().join("sinks").join(sink).join(table), &mut files);
        files.values().flat_map(|text| text.lines().map(line).collect::<Vec<_>>()).collect()
    }

    pub(crate) fn keys(&self, sink: &str) -> Vec<String> {
        self.lines(sink, "default/default").into_iter().map(|line| format!("{}{}", line.op, line.key)).collect()
    }

    fn metadata(&self, sink: &str) -> u64 {
        let text = std::fs::read_to_string(self.dir.path().join("sinks").join(sink).join("metadata")).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["checkpoint-ts"].as_u64().unwrap()
    }

    pub(crate) fn create_csv(&self, id: &str) {
        let config = json!({"sink": {"csv": {"include_commit_ts": true}, "date_separator": "none", "cloud_storage_config": {"flush_interval": "2s"}}});
        self.create(json!({"changefeed_id": id, "sink_uri": self.sink(id, "csv"), "replica_config": config}));
    }
}

pub(crate) fn find(dir: &Path, files: &mut BTreeMap<std::path::PathBuf, String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            find(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "csv") {
            files.insert(path.clone(), std::fs::read_to_string(path).unwrap());
        }
    }
}

fn line(text: &str) -> Line {
    let fields: Vec<&str> = text.split(',').map(|field| field.trim_matches('"')).collect();
    let [op, table, _, commit_ts, key, event, ..] = fields[..] else { panic!("{text}") };
    Line { commit_ts: commit_ts.parse().unwrap(), op: op.into(), table: table.into(), key: key.into(), event: event.into() }
}

#[test]
fn everything_that_happens_is_in_files_once_and_in_order() {
    let served = Served::start();
    served.create_csv("f");
    let segment = served.lend();
    served.put(&["a", "b"]);
    served.remove("^a$");
    served.put(&["a"]);
    served.until_delivered("f");
    assert_eq!(served.keys("f"), ["Ia", "Ib", "Da", "Ia"]);
    let lines = served.lines("f", "default");
    assert!(lines.is_sorted_by_key(|line| line.commit_ts) && lines.last().unwrap().commit_ts <= served.metadata("f"));
    let segments = served.lines("f", "system/segments");
    assert!(segments.iter().any(|line| line.key == segment.to_string() && line.event == "mounted"), "{segments:?}");
    let table = served.dir.path().join("sinks/f/default/default");
    assert!(table.join("0/CDC000001.csv").is_file(), "{:?}", std::fs::read_dir(&table).unwrap().flatten().collect::<Vec<_>>());
    let index = std::fs::read_to_string(table.join("0/meta/CDC.index")).unwrap();
    assert!(table.join("0").join(index.trim()).is_file());
    let schema = std::fs::read_dir(table.join("meta")).unwrap().flatten().next().unwrap();
    let schema: Value = serde_json::from_slice(&std::fs::read(schema.path()).unwrap()).unwrap();
    assert_eq!((&schema["TableColumns"][0]["ColumnName"], &schema["TableColumnsTotal"]), (&"key".into(), &"9".into()));
}

#[test]
fn nothing_is_lost_while_a_feed_is_paused_or_the_master_is_away() {
    let served = Served::start();
    served.create_csv("f");
    served.lend();
    served.put(&["a"]);
    served.until_delivered("f");
    served.ask("POST", "changefeeds/f/pause", "");
    served.put(&["b"]);
    served.ask("POST", "changefeeds/f/resume", "{}");
    served.until_delivered("f");
    assert_eq!(served.keys("f"), ["Ia", "Ib"], "nothing twice: what was there was known");
    served.put(&["c"]);
    // At any moment.
    let served = served.restarted();
    served.lend();
    served.put(&["d"]);
    served.until_delivered("f");
    let mut keys = served.keys("f");
    keys.dedup();
    assert_eq!(keys, ["Ia", "Ib", "Ic", "Id"]);
    // From an earlier stamp everything comes again, behind what is there.
    let first = served.lines("f", "default")[0].commit_ts;
    served.ask("POST", "changefeeds/f/pause", "");
    let files = |served: &Served| std::fs::read_dir(served.dir.path().join("sinks/f/default/default/0")).unwrap().count();
    let before = files(&served);
    let over = body(json!({"overwrite_checkpoint_ts": first}));
    assert_eq!(served.ask("POST", "changefeeds/f/resume", &over).status, 200);
    served.until_delivered("f");
    assert!(files(&served) > before && served.keys("f").ends_with(&["Ib", "Ic", "Id"].map(String::from)), "{:?}", served.keys("f"));
}

#[test]
fn rules_say_what_is_carried() {
    let served = Served::start();
    let config = |rules: Value, events: Value| json!({"filter": {"rules": rules, "event_filters": events}, "sink": {"csv": {"include_commit_ts": true}, "date_separator": "none"}});
    let create = |id: &str, config: Value| {
        served.create(json!({"changefeed_id": id, "sink_uri": served.sink(id, "csv"), "replica_config": config}));
    };
    create("puts", config(json!(["default.*"]), json!([{"matcher": ["*.*"], "ignore_event": ["delete"]}])));
    create("none", config(json!(["elsewhere.*"]), json!([])));
    served.lend();
    served.put(&["a"]);
    served.remove("^a$");
    served.until_delivered("puts");
    served.until_delivered("none");
    assert_eq!((served.keys("puts"), served.keys("none")), (vec!["Ia".into()], vec![]));
    assert!(served.lines("puts", "system").is_empty());
    wait::wait("its readers are told that nothing happened", || served.dir.path().join("sinks/none/metadata").exists().then_some(()));
}

#[test]
fn a_directory_that_is_not_what_it_was_stops_the_feed_until_it_is() {
    let served = Served::start();
    served.create_csv("f");
    served.lend();
    served.put(&["a"]);
    served.until_delivered("f");
    // A file in the way of the table.
    let (there, aside) = (served.dir.path().join("sinks/f/default"), served.dir.path().join("sinks/aside"));
    std::fs::rename(&there, &aside).unwrap();
    std::fs::write(&there, "in the way").unwrap();
    served.put(&["b"]);
    let found = served.until_state("f", "failed");
    assert_eq!(found["last_error"]["code"], "CDC:ErrStorageSinkInvalidConfig", "{found}");
    std::fs::remove_file(&there).unwrap();
    std::fs::rename(&aside, &there).unwrap();
    served.ask("POST", "changefeeds/f/resume", "{}");
    served.until_delivered("f");
    let mut keys = served.keys("f");
    keys.dedup();
    assert_eq!(keys, ["Ia", "Ib"]);
}

#[test]
fn how_a_feed_fares_is_shown_to_prometheus() {
    let served = Served::start();
    served.create_csv("f");
    served.lend();
    served.put(&["a", "b"]);
    served.until_delivered("f");
    let page = http::send(served.master.http_addrs()[0], "GET", "/metrics", "").body;
    let find = |name: &str| {
        let start = format!("perilune_changefeed_{name}{{");
        let line = page.lines().find(|line| line.starts_with(&start)).unwrap_or_else(|| panic!("{name} in {page}"));
        assert!(line.contains(r#"namespace="default""#) && line.contains(r#"changefeed="f""#), "{line}");
        (line.to_owned(), line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
    };
    assert!(find("state").0.contains(r#"state="normal""#));
    // Two objects, and what is lent.
    assert!(find("rows_total").1 >= 3.0 && find("bytes_total").1 > 100.0 && find("errors_total").1 == 0.0);
    assert!(find("flushes_total").1 >= 1.0 && find("flush_microseconds_total").1 > 0.0);
    assert!(find("checkpoint_lag_seconds").1 >= find("resolved_lag_seconds").1);
}

#[test]
fn who_begins_late_is_told_what_there_is() {
    let served = Served::start();
    served.lend();
    served.put(&["a", "b"]);
    served.remove("^a$");
    let sink = json!({"csv": {"include_commit_ts": true}, "date_separator": "none", "send_bootstrap_in_msg_count": 3,
        "cloud_storage_config": {"flush_interval": "2s"}});
    let uri = format!("{}&send-bootstrap=true", served.sink("f", "csv"));
    served.create(json!({"changefeed_id": "f", "sink_uri": uri, "replica_config": {"sink": sink}}));
    let listed = |served: &Served, key: &str| {
        let lines = served.lines("f", "default/default");
        lines.into_iter().find(|line| line.key == key && line.event == "listed").map(|line| line.op)
    };
    assert_eq!(wait::wait("a list", || listed(&served, "b")), "I");
    served.put(&["c"]);
    served.remove("^b$");
    served.put(&["d"]);
    // Three rows later.
    wait::wait("another list", || listed(&served, "c"));
    served.until_delivered("f");
    let mut there = std::collections::BTreeSet::new();
    let lines = served.lines("f", "default/default");
    for line in &lines {
        if line.op == "D" {
            there.remove(&line.key)
        } else {
            there.insert(line.key.clone())
        };
    }
    assert!(there.iter().eq(["c", "d"]) && lines.is_sorted_by_key(|line| line.commit_ts), "{lines:?}");
    assert!(lines.iter().all(|line| line.key != "a"), "{lines:?}");
    assert!(served.lines("f", "system/segments").iter().any(|line| line.event == "listed"));
}

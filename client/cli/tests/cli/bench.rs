//! Each benchmark, as small as it goes: its figures are numbers, and none of them is missing.

use crate::harness::{run, said};
use serde_json::Value;

/// Runs a benchmark of one round and gives its figures; every number named must be finite and above 0 in each.
fn figures(args: &[&str], positive: &[&str]) -> Vec<Value> {
    let output = run(["bench"].iter().chain(args).chain(&["--rounds", "1", "--json"]));
    assert!(output.status.success(), "{args:?}: {}", said(&output));
    let figures: Vec<Value> = String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for figure in &figures {
        for name in positive {
            let number = figure.pointer(name).and_then(Value::as_f64);
            assert!(number.is_some_and(|n| n.is_finite() && n > 0.0), "{name} of {figure}");
        }
        assert_eq!(figure["origin"]["build"], if cfg!(debug_assertions) { "debug" } else { "release" });
    }
    figures
}

#[test]
fn transfer_measures_the_engine_and_its_floors() {
    let numbers = ["/bytes_per_s", "/p50_us", "/p99_us", "/client_cpu_s_per_gb"];
    let figures = figures(&["transfer", "--sizes", "4KiB,64KiB", "--in-flight", "2", "--time", "5ms"], &numbers);
    for who in ["memcpy", "raw tcp", "engine tcp", "engine shm"] {
        // Two operations, two sizes with one and two in flight, and the scattered one.
        assert_eq!(figures.iter().filter(|figure| figure["who"] == who).count(), 10, "{who}");
    }
    let scattered = |figure: &&Value| figure["pieces"] == 128 && figure["in_flight"] == 1;
    assert_eq!(figures.iter().filter(scattered).count(), 8);
    let served = figures.iter().filter(|figure| figure["who"] == "engine tcp" && figure["peer_cpu_s_per_gb"].as_f64() > Some(0.0));
    assert_eq!(served.count(), 10, "over TCP the other side works too");
}

#[test]
fn master_measures_every_question_with_one_key_and_with_many() {
    let numbers = ["/keys_per_s", "/p50_us", "/p99_us", "/master_cpu_us", "/client_cpu_us", "/memory/bytes_per_object", "/memory/after"];
    let figures = figures(&["master", "--objects", "20000", "--batches", "1,16", "--time", "5ms"], &numbers);
    let mut questions: Vec<(&str, u64)> =
        figures.iter().map(|figure| (figure["question"].as_str().unwrap(), figure["batch"].as_u64().unwrap())).collect();
    questions.sort_unstable();
    let names = ["exists", "locate", "match_prefix", "put_end", "put_start", "remove"];
    assert_eq!(questions, names.into_iter().flat_map(|name| [(name, 1), (name, 16)]).collect::<Vec<_>>());
}

#[test]
fn restart_measures_a_master_with_a_log_and_one_without() {
    let figures = figures(&["restart", "--bytes", "4MiB", "--disk", "/tmp"], &["/start_ms", "/resident", "/bytes", "/objects"]);
    let bytes: Vec<u64> = figures.iter().map(|figure| figure["bytes"].as_u64().unwrap()).collect();
    assert!(bytes.len() == 2 && bytes[0] < bytes[1] && bytes[1] >= 4 << 20, "{bytes:?}");
}

#[test]
fn alloc_measures_sizes_threads_and_the_live_share() {
    let numbers = ["/ns_per_pair", "/p50_ns", "/p99_ns", "/pairs_per_s", "/live"];
    let figures = figures(&["alloc", "--space", "64MiB", "--sizes", "64KiB", "--time", "5ms"], &numbers);
    let measured: Vec<(u64, u64)> =
        figures.iter().map(|figure| (figure["size"].as_u64().unwrap(), figure["threads"].as_u64().unwrap())).collect();
    assert_eq!(measured, [(65536, 1), (65536, 2), (0, 1), (0, 2)]);
    assert!(figures.iter().all(|figure| figure["live"].as_f64() <= Some(1.0)), "{figures:?}");
}

#[test]
fn vault_measures_both_ways_beside_the_library_alone() {
    let below = tempfile::tempdir().unwrap();
    let dir = below.path().to_str().unwrap();
    let numbers = ["/bytes_per_s", "/bare_bytes_per_s", "/ratio", "/objects", "/in_flight"];
    let figures = figures(&["vault", "--sizes", "64KiB,5MiB", "--bytes", "8MiB", "--in-flight", "4", "--dir", dir], &numbers);
    let measured: Vec<_> = figures.iter().map(|figure| (figure["way"].as_str().unwrap(), figure["size"].as_u64().unwrap())).collect();
    assert_eq!(measured, [("offload", 65536), ("read_back", 65536), ("offload", 5 << 20), ("read_back", 5 << 20)]);
    assert_eq!(std::fs::read_dir(below.path()).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn feeds_measures_every_sink_beside_the_library_that_it_is_made_with() {
    let below = tempfile::tempdir().unwrap();
    let dir = below.path().to_str().unwrap();
    let numbers = ["/events_per_s", "/lag/p50_us", "/lag/p99_us"];
    let figures = figures(&["feeds", "--events", "2000", "--watched", "20", "--pause", "1ms", "--dir", dir], &numbers);
    let measured: Vec<_> = figures.iter().map(|figure| (figure["sink"].as_str().unwrap(), figure["bare"]["library"].as_str())).collect();
    assert_eq!(measured, [("blackhole", None), ("directory", Some("object_store")), ("webhook", Some("reqwest"))]);
    for figure in &figures[1..] {
        for number in ["/requests", "/bytes", "/bare/events_per_s", "/bare/ratio", "/bare/request/p99_us"] {
            assert!(figure.pointer(number).and_then(Value::as_f64) > Some(0.0), "{number} of {figure}");
        }
    }
    assert_eq!(std::fs::read_dir(below.path()).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    for args in [
        ["transfer", "--sizes", "17MiB"],
        ["transfer", "--in-flight", "0"],
        ["transfer", "--measure", "latency"],
        ["master", "--batches", "0"],
        ["alloc", "--space", "1MiB"],
        ["vault", "--in-flight", "0"],
        ["feeds", "--events", "0"],
    ] {
        assert_eq!(run(["bench"].iter().chain(&args)).status.code(), Some(2), "{args:?}");
    }
}

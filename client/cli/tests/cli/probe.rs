//! How far a process is, whether it is ready, and what it spends its time on: asked of real ones, and while they stop.

use crate::group::Process;
use crate::harness::{Dev, perilune, remove_segments, wait_for};
use nix::sys::signal::Signal;
use perilune_probe::proto::Profile;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Stdio;

struct Answer {
    status: u16,
    content_type: String,
    disposition: String,
    bytes: Vec<u8>,
}

impl Answer {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes).unwrap()
    }
}

fn ask(method: &str, address: &str, path: &str, headers: &[(&str, &str)]) -> Result<Answer, ureq::Error> {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let mut request = ureq::http::Request::builder().method(method).uri(format!("http://{address}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut answer = agent.run(request.body(()).unwrap())?;
    let header = |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
    let (content_type, disposition) = (header("content-type"), header("content-disposition"));
    let status = answer.status().as_u16();
    let bytes = answer.body_mut().with_config().limit(1 << 30).read_to_vec()?;
    Ok(Answer { status, content_type, disposition, bytes })
}

fn get(address: &str, path: &str) -> Answer {
    ask("GET", address, path, &[]).unwrap()
}

fn told(address: &str, path: &str) -> (u16, String) {
    let answer = get(address, path);
    (answer.status, answer.text().to_owned())
}

/// A process that says where it listens in a file, and the field of that which says where its HTTP is.
fn start(dir: &Path, role: &str, args: &[&str]) -> (Process, Value) {
    let ready = dir.join(format!("ready-{role}"));
    let mut command = perilune();
    command.arg(role).args(args).arg("--data-dir").arg(dir.join(role)).arg("--ready-file").arg(&ready).stdout(Stdio::null());
    let mut process = Process(command.spawn().unwrap());
    let addresses = wait_for("a process to be up", || {
        assert_eq!(process.0.try_wait().unwrap(), None, "perilune {role} ended");
        std::fs::read(&ready).ok().map(|text| serde_json::from_slice(&text).unwrap())
    });
    (process, addresses)
}

#[test]
fn a_process_that_serves_runs_and_is_ready() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start(dir.path());
    let checks = "[+]store_status ok\n[+]log ok\n[+]leader ok\n[+]master ok\n[+]memory ok\nok\n";
    for address in [&dev.http, &dev.rest] {
        for folder in ["/tiflash", "/tifash"] {
            for path in ["/store-status", "/store-status/"] {
                assert_eq!(told(address, &format!("{folder}{path}")), (200, "Running".into()), "{folder}{path}");
            }
        }
        for folder in ["", "/tiflash", "/tifash"] {
            assert_eq!(told(address, &format!("{folder}/livez")), (200, "ok\n".into()));
            assert_eq!(told(address, &format!("{folder}/readyz")), (200, "ok\n".into()));
            assert_eq!(told(address, &format!("{folder}/readyz?verbose")), (200, checks.into()));
        }
        for method in ["POST", "PUT", "DELETE"] {
            for (path, _) in perilune_probe::ROUTES {
                assert_eq!(ask(method, address, path, &[]).unwrap().status, 405, "{method} {path}");
            }
        }
        for path in ["/tiflash/store-statusXYZ", "/tiflash/store-status/x", "/tiflash/nothing"] {
            assert_eq!(get(address, path).status, 404, "{path}");
        }
    }
}

#[test]
fn a_node_without_a_master_is_ready_and_runs_once_it_is_heard() {
    let dir = tempfile::tempdir().unwrap();
    // A port that a master takes later.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (node, at) = start(dir.path(), "store", &["--master", &port, "--http", "127.0.0.1:0", "--segment-size", "8MiB"]);
    let rest = at["rest"].as_str().unwrap();
    assert_eq!(told(rest, "/tiflash/store-status"), (200, "Ready".into()));
    let (status, page) = told(rest, "/readyz?verbose");
    assert_eq!(status, 500);
    for line in ["[-]store_status fail: store_status=Ready\n", "[-]master fail: ", "[-]memory fail: 1 of 1 segments", "fail\n"] {
        assert!(page.contains(line), "{line:?} is not in {page}");
    }
    assert_eq!(told(rest, "/livez").0, 200);

    let (master, at) = start(dir.path(), "master", &["--rpc", &port, "--http", "127.0.0.1:0"]);
    assert_eq!(told(at["http"][0].as_str().unwrap(), "/tifash/store-status"), (200, "Running".into()));
    wait_for("the node to run", || (told(rest, "/tiflash/store-status").1 == "Running").then_some(()));
    wait_for("the node to be ready", || (told(rest, "/readyz").0 == 200).then_some(()));
    // The life goes forward only; whether it is of use now is another question.
    master.signal(Signal::SIGKILL);
    wait_for("the node to miss its master", || (told(rest, "/readyz").1.starts_with("[-]master fail")).then_some(()));
    assert_eq!(told(rest, "/tiflash/store-status"), (200, "Running".into()));
    drop(node);
    remove_segments(dir.path());
}

#[test]
fn a_master_that_cannot_reach_its_group_is_not_running() {
    let dir = tempfile::tempdir().unwrap();
    let free: Vec<String> = (0..4).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()).collect();
    let peers = format!("1={}/{},2={}/{}", free[0], free[1], free[2], free[3]);
    let own =
        ["--peers", &peers, "--peer-listen", &free[0], "--rpc", &free[1], "--http", "127.0.0.1:0", "--cluster", crate::group::CLUSTER];
    let (_master, at) = start(dir.path(), "master", &own);
    let http = at["http"][0].as_str().unwrap();
    assert_eq!(told(http, "/tiflash/store-status"), (200, "Ready".into()));
    let (status, page) = told(http, "/readyz");
    assert_eq!(status, 500);
    assert!(page.starts_with("[-]store_status fail: store_status=Ready\n[-]leader fail: "), "{page}");
}

#[test]
fn what_was_begun_is_finished_and_nothing_is_begun_while_a_process_stops() {
    let dir = tempfile::tempdir().unwrap();
    let (_master, at) = start(dir.path(), "master", &["--rpc", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
    let rpc = at["rpc"].as_str().unwrap();
    let (mut node, at) =
        start(dir.path(), "store", &["--master", rpc, "--http", "127.0.0.1:0", "--segment-size", "8MiB", "--free-on-stop"]);
    let rest = at["rest"].as_str().unwrap();
    let body = br#"{"key": "k", "value": "v"}"#;
    let mut slow = TcpStream::connect(rest).unwrap();
    write!(slow, "PUT /api/put HTTP/1.1\r\nHost: {rest}\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\r\n", body.len()).unwrap();
    let mut line = [0; 25];
    slow.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"HTTP/1.1 100 Continue\r\n\r\n", "the body is being read");

    node.signal(Signal::SIGTERM);
    wait_for("the node to stop", || (told(rest, "/tifash/store-status").1 == "Stopping").then_some(()));
    assert_eq!(told(rest, "/readyz"), (500, "[-]store_status fail: store_status=Stopping\nfail\n".into()));
    assert_eq!(told(rest, "/livez").0, 200);
    let refused = ask("PUT", rest, "/api/put", &[]).unwrap();
    assert!(refused.status == 503 && refused.text().contains("Stopping"), "{} {}", refused.status, refused.text());

    slow.write_all(body).unwrap();
    let mut answer = [0; 12];
    slow.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    assert_eq!(wait_for("the node to be gone", || node.0.try_wait().unwrap()).code(), Some(0));
}

#[test]
fn the_cpu_is_profiled_under_load() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start_with(dir.path(), &["--segment-size", "256MiB"]);
    let mut load = perilune();
    load.args(["replay", "--generate", "1000000", "--speed", "max", "--block-size", "4KiB", "--workers", "2", "--deadline", "30s"]);
    load.args(["--master", &dev.rpc]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut load = Process(load.spawn().unwrap());

    // Once the load has begun; that takes its time where others use the CPU too.
    let protobuf = [("Content-Type", "application/protobuf")];
    wait_for("our own functions to be named", || {
        let answer = ask("GET", &dev.http, "/debug/pprof/profile?seconds=1&frequency=250", &protobuf).unwrap();
        assert_eq!((answer.status, answer.content_type.as_str()), (200, "application/octet-stream"));
        assert_eq!(answer.disposition, "attachment; filename=\"cpu_profile\"");
        let profile = <Profile as prost::Message>::decode(&*answer.bytes).unwrap();
        assert!(profile.duration_nanos >= 1_000_000_000 && profile.period == 4_000_000 && profile.string_table[0].is_empty());
        profile.function.iter().any(|function| profile.string_table[function.name as usize].contains("perilune_")).then_some(())
    });
    wait_for("a flame graph with them", || {
        let svg = get(&dev.rest, "/debug/pprof/profile?seconds=1");
        assert_eq!((svg.status, svg.content_type.as_str()), (200, "image/svg+xml"));
        assert_eq!(svg.disposition, "attachment; filename=\"cpu_profile\"");
        assert!(svg.text().starts_with('<') && svg.text().trim_end().ends_with("</svg>"));
        svg.text().contains("perilune_").then_some(())
    });
    assert_eq!(load.0.try_wait().unwrap(), None, "the load goes on");

    // One at a time, whichever listener is asked, whichever the profile.
    let (first, second) = std::thread::scope(|scope| {
        let ask = |address| move || told(address, "/debug/pprof/profile?seconds=2");
        let (first, second) = (scope.spawn(ask(&dev.http)), scope.spawn(ask(&dev.rest)));
        (first.join().unwrap(), second.join().unwrap())
    });
    let refusal = (500, "Already in Profiling".to_owned());
    assert!((first == refusal) != (second == refusal) && first.0 + second.0 == 700, "{} and {}", first.0, second.0);
    for address in [&dev.http, &dev.rest] {
        assert_eq!(told(address, "/debug/pprof/profile?seconds=x"), (400, "invalid digit found in string".into()));
        assert_eq!(told(address, "/debug/pprof/profile?seconds=1&frequency=0"), (400, "invalid frequency".into()));
        let heap = get(address, "/debug/pprof/heap");
        if cfg!(feature = "heap") {
            assert!(heap.status == 200 && heap.bytes.starts_with(&[0x1f, 0x8b]), "gzipped");
        } else {
            assert!(heap.status == 404 && heap.text().contains("--features heap"), "{}", heap.text());
        }
    }
    dev.ok(&["stat"]);
}

#[test]
fn strangers_learn_how_far_a_process_is_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "0123456789abcdef0123456789abcdef\n").unwrap();
    let (rpc, http) = (["--rpc", "127.0.0.1:0"], ["--http", "127.0.0.1:0"]);
    let token = ["--admin-token-file", file.to_str().unwrap()];
    let (_master, at) = start(dir.path(), "master", &[&rpc[..], &http, &token].concat());
    // No master is there.
    let (_node, node_at) = start(dir.path(), "store", &[&["--master", "127.0.0.1:1", "--segment-size", "0"][..], &http, &token].concat());
    let (master, node) = (at["http"][0].as_str().unwrap(), node_at["rest"].as_str().unwrap());
    let friend = [("Authorization", "Bearer 0123456789abcdef0123456789abcdef")];
    for address in [master, node] {
        for (path, open) in perilune_probe::ROUTES {
            let status = get(address, path).status;
            assert_eq!(status != 401, open, "{path}: {status}");
        }
        let profile = ask("GET", address, "/debug/pprof/profile?seconds=1", &friend).unwrap();
        assert_eq!(profile.status, 200, "{}", profile.text());
    }
    assert!(told(node, "/readyz").1.contains("[-]master fail: ask with the token why"));
    let page = ask("GET", node, "/readyz", &friend).unwrap();
    assert!(page.text().contains("[-]master fail: no master hears"), "{}", page.text());
}

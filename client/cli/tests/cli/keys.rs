//! Keys of the metadata as the page has them, and those of what there really is: printed in the log, made, drawn, and asked for.

use crate::group::Process;
use crate::harness::{perilune, wait_for};
use crate::tenants::send;
use serde_json::Value;
use std::fs::File;
use std::path::Path;
use std::process::Stdio;

const TOKEN: &str = "token=greedisgood9999";
const PAGE: &str = "0110696e7374616e636500011072656772657373696f6e5f696e7374616e6365300001";

/// A `perilune dev` whose log is kept.
pub(crate) struct Logged {
    _process: Process,
    pub(crate) rpc: String,
    http: String,
    rest: String,
    pub(crate) log: std::path::PathBuf,
    _memory: Data,
}

struct Data(std::path::PathBuf);

impl Drop for Data {
    fn drop(&mut self) {
        crate::harness::remove_segments(&self.0);
    }
}

impl Logged {
    pub(crate) fn start(dir: &Path) -> Self {
        let (data, ready, log) = (dir.join("data"), dir.join("ready"), dir.join("log"));
        let mut command = perilune();
        command.args([
            "--log",
            "info",
            "dev",
            "--rpc",
            "127.0.0.1:0",
            "--http",
            "127.0.0.1:0",
            "--rest",
            "127.0.0.1:0",
            "--segment-size",
            "16MiB",
        ]);
        command.arg("--data-dir").arg(&data).arg("--ready-file").arg(&ready);
        let process = Process(command.stdout(Stdio::null()).stderr(File::create(&log).unwrap()).spawn().unwrap());
        let addresses: Value = wait_for("perilune dev to be ready", || serde_json::from_slice(&std::fs::read(&ready).ok()?).ok());
        let of = |name: &str| addresses[name].as_str().unwrap().to_owned();
        Self { _process: process, rpc: of("rpc"), http: of("http"), rest: of("rest"), log, _memory: Data(data) }
    }

    fn ask(&self, call: &str, query: &str) -> (u16, String) {
        send("GET", &format!("http://{}/MetaService/http/{call}?{TOKEN}{query}", self.http), "")
    }

    pub(crate) fn do_it(&self, call: &str, body: &str) {
        let (status, text) = send("PUT", &format!("http://{}/MetaService/http/{call}?{TOKEN}", self.http), body);
        assert_eq!(status, 200, "{call} {body}: {text}");
    }

    fn msg(&self, call: &str, query: &str) -> (u16, String) {
        let (status, text) = self.ask(call, query);
        (status, serde_json::from_str::<Value>(&text).unwrap()["msg"].as_str().unwrap().to_owned())
    }

    fn value(&self, query: &str) -> Value {
        let (status, text) = self.ask("get_value", query);
        assert_eq!(status, 200, "{query}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// The keys that the log prints.
    fn printed(&self) -> Vec<String> {
        let log = std::fs::read_to_string(&self.log).unwrap();
        let plain: String = {
            // What colours a terminal is not of the words.
            let mut parts = log.split('\x1b');
            let first = parts.next().unwrap_or_default().to_owned();
            parts.fold(first, |text, part| text + part.split_once('m').map_or("", |(_, rest)| rest))
        };
        plain.split("key=").skip(1).map(|rest| rest.chars().take_while(char::is_ascii_hexdigit).collect()).collect()
    }
}

#[test]
fn the_page_is_answered_to_the_letter_and_every_key_of_the_log_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Logged::start(dir.path());
    let boxes = format!(
        "┌───────────────────────── 0. key space: 1\n│ ┌─────────────────────── 1. instance\n│ │                     ┌─ 2. \
         regression_instance0\n│ │                     │ \n▼ ▼                     ▼ \n{PAGE}\n\n"
    );
    for call in ["decode_key", "v1/decode_key"] {
        for method in ["GET", "PUT", "POST"] {
            let url = format!("http://{}/MetaService/http/{call}?{TOKEN}&key={PAGE}", dev.http);
            assert_eq!(send(method, &url, ""), (200, boxes.clone()), "{method} {call}");
        }
    }
    let ascii = [("─", "-"), ("│", "|"), ("┌", "/"), ("▼", "v")].iter().fold(boxes, |text, (from, to)| text.replace(from, to));
    assert_eq!(dev.ask("decode_key", &format!("&key={PAGE}&unicode=false")), (200, ascii));
    assert_eq!(dev.msg("decode_key", "&key="), (400, "no key to decode".into()));
    assert_eq!(dev.msg("decode_key", ""), (400, "no key to decode".into()));
    assert_eq!(dev.msg("decode_key", "&key=0110"), (400, "failed to decode key, key=0110".into()));
    for bad in ["zz".to_owned(), "61".repeat(5000), "01%00%0a".into(), "..%2f..".into(), "01".into()] {
        let (status, why) = dev.msg("decode_key", &format!("&key={bad}"));
        assert!(status == 400 && why.starts_with("failed to decode key, key=") && why.len() < 1100, "{bad:.20}: {why}");
    }

    let short = &PAGE[..PAGE.len() - 2];
    assert_eq!(dev.msg("decode_key", &format!("&key={short}")), (400, format!("failed to decode key, key={short}")));

    // What there is, of each kind.
    dev.do_it("create_instance", r#"{"instance_id": "acme", "name": "Acme"}"#);
    dev.do_it(
        "add_cluster",
        r#"{"instance_id": "acme", "cluster": {"cluster_id": "c1", "cluster_name": "prefill", "type": "COMPUTE",
            "nodes": [{"cloud_unique_id": "1:acme:n1", "ip": "172.21.0.5", "heartbeat_port": 9050}]}}"#,
    );
    assert_eq!(send("POST", &format!("http://{}/config/set", dev.http), r#"{"key": "user.a thing", "value": "7"}"#).0, 200);
    let put = send("PUT", &format!("http://{}/api/put", dev.rest), r#"{"key": "model/layer0 block", "value": "bytes"}"#);
    assert_eq!(put.0, 200, "{put:?}");

    let printed = dev.printed();
    assert!(printed.len() >= 4, "a segment, a tenant, a pool and a setting: {printed:?}");
    for key in &printed {
        assert_eq!(dev.ask("decode_key", &format!("&key={key}")).0, 200, "{key}");
        dev.value(&format!("&key={key}"));
    }

    for (query, field, is) in [
        ("InstanceKey&instance_id=acme", "name", "Acme"),
        ("ClusterKey&instance_id=acme&cluster_id=c1", "cluster_name", "prefill"),
        ("NodeKey&instance_id=acme&cluster_id=c1&cloud_unique_id=1:acme:n1&endpoint=172.21.0.5:9050", "ip", "172.21.0.5"),
        ("ConfigKey&name=user.a%20thing", "value", "7"),
        ("ObjectKey&instance_id=default&key=model/layer0%20block", "size", "5"),
    ] {
        let query = format!("&key_type={query}");
        assert_eq!(dev.value(&query)[field], is, "{query}");
        let (status, key) = dev.ask("encode_key", &query);
        assert_eq!((status, dev.value(&format!("&key={}", key.trim()))), (200, dev.value(&query)), "{key}");
    }
    let segments: Vec<Value> = printed.iter().map(|key| dev.value(&format!("&key={key}"))).filter(|v| v["desc"].is_object()).collect();
    assert!(!segments.is_empty() && segments.iter().all(|s| s["desc"]["size"] == "16777216" && s["desc"].get("capability").is_none()));

    for (query, status, why) in [
        ("", 400, "key_type is not given or empty"),
        ("&key_type=X", 400, "key_type not supported: X"),
        ("&key_type=InstanceKey", 400, "instance_id is not given or empty"),
        ("&key_type=ClusterKey&instance_id=acme&cluster_id=", 400, "cluster_id is not given or empty"),
        ("&key_type=SegmentKey&segment_id=../x", 400, "segment_id is a UUID, not ../x"),
    ] {
        assert_eq!(dev.msg("encode_key", query), (status, why.into()), "{query}");
        assert_eq!(dev.msg("get_value", query), (status, why.into()), "{query}");
    }
    let object = dev.value("&key_type=ObjectKey&instance_id=default&key=model/layer0%20block");
    assert!(object["replicas"][0]["extents"][0]["offset"].is_string(), "a number of 64 bits: {object}");
    let nobody = dev.ask("encode_key", "&key_type=InstanceKey&instance_id=nobody").1;
    assert_eq!(dev.msg("get_value", "&key_type=InstanceKey&instance_id=nobody"), (404, format!("kv not found, key={}", nobody.trim())));
    assert_eq!(dev.msg("get_value", "&key=0110616100011061620001"), (400, "failed to decode key, key=0110616100011061620001".into()));
    assert_eq!(dev.ask("encode_key", &format!("&key_type=ObjectKey&instance_id=a&key={}", "x".repeat(10_000))).0, 400);
}

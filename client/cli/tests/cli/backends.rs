//! How the nodes of pools are, as the page's frontends show it: by what nodes say of themselves, and what is under way.

use crate::harness::{run, said, wait_for};
use crate::pools::{Cluster, TOKEN};
use crate::raw::Raw;
use crate::tenants::send;
use perilune_protocol::rpc::object::{PutRevoke, PutStart};
use perilune_protocol::{PutConfig, WriterId};
use serde_json::Value;

const PATH: &str = "/rest/v2/manager/cluster/cluster_info/cloud_cluster_status";

/// What it answers to these credentials, already encoded; and the status.
fn ask(cluster: &Cluster, tenant: &str, authorization: Option<&str>) -> (u16, Value) {
    let agent = ureq::Agent::new_with_config(ureq::Agent::config_builder().http_status_as_error(false).build());
    let request = agent.get(format!("http://{}{PATH}?instance_id={tenant}", cluster.http()));
    let request = authorization.into_iter().fold(request, |request, value| request.header("Authorization", value));
    let mut reply = request.call().unwrap();
    let asks = reply.headers().get("www-authenticate").is_some();
    assert_eq!(asks, reply.status() == 401);
    let text = reply.body_mut().read_to_string().unwrap();
    (reply.status().as_u16(), serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}")))
}

/// `root:`.
const NOBODY: &str = "Basic cm9vdDo=";

#[test]
fn nodes_are_shown_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(22, dir.path());
    let _memory = cluster.shared("p");
    cluster.done(&["tenants", "create", "acme"]);
    cluster.done(&["pools", "add", "acme", "prefill", "--node", "1:acme:p@127.0.0.1:9050", "--node", "1:acme:q@10.0.0.7:9051"]);
    // root:0123456789abcdef is the meta service's, root: whoever is on this machine.
    for (said, status) in [
        (None, 401),
        (Some("Basic cm9vdDp3cm9uZw=="), 401),
        (Some("Bearer x"), 401),
        (Some("Basic cm9vdDowMTIzNDU2Nzg5YWJjZGVm"), 200),
        (Some(NOBODY), 200),
    ] {
        assert_eq!(ask(&cluster, "acme", said).0, status, "{said:?}");
    }
    assert_eq!(send("POST", &format!("http://{}{PATH}", cluster.http()), "").0, 405);
    let all = || {
        let (_, answer) = ask(&cluster, "acme", Some(NOBODY));
        assert_eq!((&answer["msg"], &answer["code"], &answer["count"]), (&"success".into(), &0.into(), &0.into()));
        answer["data"]["prefill"].as_array().unwrap().clone()
    };
    let unheard = serde_json::json!({"host": "127.0.0.1", "heartbeatPort": 9050, "bePort": -1, "httpPort": -1, "brpcPort": -1,
        "currentFragmentNum": 0, "lastFragmentUpdateTime": 0});
    assert_eq!(all()[0], unheard);
    // Another tenant's pool of that name is another one.
    cluster.done(&["pools", "add", "default", "prefill", "--node", "1:default:r@10.0.0.8:9052"]);
    let hosts = |tenant| {
        ask(&cluster, tenant, Some(NOBODY)).1["data"]["prefill"]
            .as_array()
            .unwrap()
            .iter()
            .map(|node| node["host"].to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!((hosts("acme"), hosts("")), (vec!["\"127.0.0.1\"".into(), "\"10.0.0.7\"".into()], vec!["\"10.0.0.8\"".into()]));
    let (status, answer) = ask(&cluster, "nope", Some(NOBODY));
    assert_eq!((status, &answer["data"]), (404, &"instance not existed, instance_id=nope".into()));

    let p = cluster.node("p", &["--unique-id", "1:acme:p"]);
    let port = |of: &str| of.rsplit_once(':').unwrap().1.parse::<u64>().unwrap();
    let first = wait_for("the node to be heard", || Some(all()[0].clone()).filter(|node| node["bePort"] != -1));
    assert_eq!((&first["bePort"], &first["httpPort"]), (&port(&p.transfer).into(), &port(&p.rest).into()));
    assert_eq!(all()[1]["bePort"], -1, "nobody is there");
    let when = |node: &Value| node["lastFragmentUpdateTime"].as_u64().unwrap();
    assert!(when(&first) > 1_600_000_000_000);
    wait_for("it to be heard again", || (when(&all()[0]) > when(&first)).then_some(()));

    // Somebody writes there.
    let mut writer = Raw::greet(&cluster.rpc(), "acme");
    let question = PutStart { puts: vec![("k".into(), 4096)], config: PutConfig::default(), writer: WriterId::random() };
    let version = wait_for("room", || writer.ask(&question).unwrap().remove(0).ok()).version;
    assert_eq!(all()[0]["currentFragmentNum"], 1);
    writer.ask(&PutRevoke { puts: vec![("k".into(), version)] }).unwrap().remove(0).unwrap();
    assert_eq!(all()[0]["currentFragmentNum"], 0);

    // How far the recycler is.
    let job = |body: &str| send("PUT", &format!("http://{}/MetaService/http/recycle_job_info?token={TOKEN}{body}", cluster.http()), "");
    let id = "&instance_id=left";
    assert_eq!(job(id).0, 404);
    cluster.done(&["tenants", "create", "left"]);
    assert!(job(id).0 == 404 && job(id).1.contains("the instance is not dropped"), "{:?}", job(id));
    cluster.done(&["tenants", "drop", "left"]);
    let info = || serde_json::from_str::<Value>(&job(id).1).unwrap()["result"].clone();
    let number = |of: &str| info()[of].as_str().unwrap().parse::<u64>().unwrap();
    let waits = info();
    assert_eq!((&waits["status"], &waits["last_ctime_ms"], &waits["ip_port"]), (&"IDLE".into(), &"0".into(), &cluster.rpc().into()));
    assert!(number("expiration_time_ms") > when(&first) + 200_000_000, "three days");
    cluster.done(&["tenants", "recycle", "left"]);
    wait_for("it to be recycled", || (number("last_success_time_ms") > 0).then_some(()));
    assert!(number("last_finish_time_ms") >= number("last_ctime_ms"), "{}", info());
    assert_eq!(job("").0, 400);
    let refused = run(["pools", "list", "--http", &cluster.http()]);
    assert!(said(&refused).contains("incorrect token"), "a name and a password open nothing else");
}

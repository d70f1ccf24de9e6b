//! The meta service about clusters, as its page speaks: its samples as they stand there, and every refusal.

use crate::harness::Dev;
use crate::tenants::send;
use serde_json::{Value, json};

pub(crate) const TOKEN: &str = "token=greedisgood9999";

pub(crate) struct Page<'a>(pub(crate) &'a Dev);

impl Page<'_> {
    pub(crate) fn send(&self, method: &str, call: &str, body: &str) -> (u16, Value) {
        let (status, text) = send(method, &format!("http://{}/MetaService/http/{call}?{TOKEN}", self.0.http), body);
        assert!(text.starts_with("{\n    \"code\": \"") && text.ends_with("\n}\n"), "{text}");
        (status, serde_json::from_str(&text).unwrap())
    }

    /// In all the ways that the page and its users write it: a lookup gives one answer, and so does what is refused.
    pub(crate) fn ask(&self, call: &str, body: &str) -> (u16, Value) {
        let first = self.send("PUT", call, body);
        if first.0 != 200 || call.starts_with("get_") {
            for (method, call) in [("POST", format!("v1/{call}")), ("GET", call.to_owned())] {
                assert_eq!(self.send(method, &call, body), first, "{method} {call}");
            }
        }
        first
    }

    pub(crate) fn ok(&self, call: &str, body: &str) -> Value {
        let (status, answer) = self.ask(call, body);
        assert_eq!((status, &answer["code"], &answer["msg"]), (200, &"OK".into(), &"".into()), "{call} {body}: {answer}");
        answer["result"].clone()
    }

    pub(crate) fn refused(&self, call: &str, body: &str, status: u16, msg: &str) {
        let answer = self.ask(call, body);
        let code = match status {
            404 => "NOT_FOUND",
            409 => "ALREADY_EXISTED",
            500 => "INTERNAL_ERROR",
            _ => "INVALID_ARGUMENT",
        };
        assert_eq!((answer.0, &answer.1["code"], answer.1["msg"].as_str().unwrap()), (status, &code.into(), msg), "{call} {body}");
    }

    pub(crate) fn instance(&self, id: &str) {
        self.ok("create_instance", &json!({"instance_id": id}).to_string());
    }

    fn set(&self, key: &str, value: &str) {
        let body = json!({"key": key, "value": value}).to_string();
        assert_eq!(send("POST", &format!("http://{}/config/set", self.0.http), &body).0, 200);
    }
}

fn with_nodes(id: &str, kind: &str, nodes: &Value) -> String {
    json!({"instance_id": "i", "cluster": {"cluster_name": id, "cluster_id": id, "type": kind, "nodes": nodes}}).to_string()
}

fn backend(id: &str, port: u16) -> Value {
    json!({"cloud_unique_id": id, "ip": "172.21.0.5", "heartbeat_port": port})
}

fn frontend(id: &str, port: u16, kind: &str) -> Value {
    json!({"cloud_unique_id": id, "ip": "172.21.0.6", "edit_log_port": port, "node_type": kind})
}

#[test]
fn the_samples_of_the_page_are_answered_as_they_stand_there() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start(dir.path());
    let page = Page(&dev);
    ["123456", "regression_instance0", "instance_id_deadbeef_1", "instance_id_deadbeef"].iter().for_each(|id| page.instance(id));
    page.ok(
        "add_cluster",
        r#"{
    "instance_id": "123456",
    "cluster": {
        "cluster_name": "cluster_name1",
        "cluster_id": "cluster_id1",
        "type": "COMPUTE",
        "nodes": [
            {
                "cloud_unique_id": "1:regression_instance0:cloud_unique_id_compute_node1",
                "ip": "172.21.0.5",
                "heartbeat_port": 9050
            }
        ]
    }
}"#,
    );
    let fe = r#"{"instance_id":"regression_instance0","cluster":{"cluster_name":"RESERVED_CLUSTER_NAME_FOR_SQL_SERVER",
        "cluster_id":"RESERVED_CLUSTER_ID_FOR_SQL_SERVER","type":"SQL","nodes":[{"cloud_unique_id":"1:regression_instance0:regression-cloud-unique-id-fe-1","ip":"127.0.0.1","edit_log_port":12103,"node_type":"FE_MASTER"}]}}"#;
    page.ok("add_cluster", fe);
    let found = page.ok(
        "get_cluster",
        r#"{
    "instance_id":"regression_instance0",
    "cloud_unique_id":"1:regression_instance0:regression-cloud-unique-id-fe-1",
    "cluster_name":"RESERVED_CLUSTER_NAME_FOR_SQL_SERVER",
    "cluster_id":"RESERVED_CLUSTER_ID_FOR_SQL_SERVER"
}"#,
    );
    let node = &found["nodes"][0];
    assert_eq!((&found["type"], &node["edit_log_port"], &node["node_type"]), (&"SQL".into(), &12103.into(), &"FE_MASTER".into()));
    assert!(node["ctime"].as_str().unwrap().parse::<u64>().unwrap() > 1_600_000_000 && found.get("cluster_status").is_none(), "{found}");
    page.refused(
        "get_cluster",
        r#"{"instance_id": "instance_id_deadbeef", "cloud_unique_id": "1:regression_instance0:xxx_cloud_unique_id_compute_node0", "cluster_name": "cluster_name"}"#,
        404,
        r#"fail to get cluster with instance_id: "instance_id_deadbeef" cloud_unique_id: "1:regression_instance0:xxx_cloud_unique_id_compute_node0" cluster_name: "cluster_name" "#,
    );
    let cluster = |instance: &str, name: &str, rest: &str| {
        format!(
            r#"{{
    "instance_id":"{instance}",
    "cluster": {{
        "cluster_name": "{name}",
        "cluster_id": "cluster_id1",{rest}
    }}
}}"#
        )
    };
    page.ok("add_cluster", &cluster("regression_instance0", "cluster_name1", r#" "type": "COMPUTE", "#));
    page.ok("rename_cluster", &cluster("regression_instance0", "cluster_name2", ""));
    page.ok("rename_cluster", &cluster("regression_instance0", "cluster_name1", ""));
    page.ok("drop_cluster", &cluster("regression_instance0", "cluster_name1", ""));
    page.refused(
        "drop_cluster",
        r#"{"instance_id":"dx_dnstance_id_deadbeef","cluster":{"cluster_id":"11111","cluster_name":"2222",}}"#,
        404,
        "failed to find cluster to drop, instance_id=dx_dnstance_id_deadbeef cluster_id=11111 cluster_name=2222",
    );

    page.ok("add_cluster", &cluster("instance_id_deadbeef_1", "cluster_name1", r#" "type": "COMPUTE", "#));
    let nodes = |instance: &str| {
        format!(
            r#"{{
    "instance_id": "instance_id_deadbeef_1",
    "cluster": {{
        "cluster_name": "cluster_name1",
        "cluster_id": "cluster_id1",
        "type": "COMPUTE",
        "nodes": [
            {{
                "cloud_unique_id": "1:{instance}:cloud_unique_id_compute_node2",
                "ip": "172.21.0.50",
                "heartbeat_port": 9051
            }},
            {{
                "cloud_unique_id": "1:{instance}:cloud_unique_id_compute_node3",
                "ip": "172.21.0.52",
                "heartbeat_port": 9052
            }}
        ]
    }}
}}"#
        )
    };
    page.ok("add_node", &nodes("regression_instance0"));
    let of = r#"{"cloud_unique_id": "1:instance_id_deadbeef_1:x", "cluster_id": "cluster_id1"}"#;
    assert_eq!(page.ok("get_cluster", of)["nodes"][1]["status"], "NODE_STATUS_RUNNING");
    page.ok("drop_node", &nodes("regression_instance0"));
    page.refused(
        "drop_node",
        &nodes("instance_id_deadbeef_1"),
        404,
        "cloud_unique_id can not find to drop node, instance_id=instance_id_deadbeef_1 cluster_name=cluster_name1 cluster_id=cluster_id1 cloud_unique_id=1:instance_id_deadbeef_1:cloud_unique_id_compute_node2",
    );

    page.ok("add_cluster", &cluster("instance_id_deadbeef", "cluster_name2", r#" "type": "COMPUTE", "#));
    let users = r#"{
    "instance_id": "instance_id_deadbeef",
    "cluster": {
        "cluster_name": "cluster_name2",
        "cluster_id": "cluster_id1",
        "mysql_user_name": [
            "jack",
            "root"
        ]
    }
}"#;
    page.ok("update_cluster_mysql_user_name", users);
    page.ok("update_cluster_mysql_user_name", users);
    page.refused(
        "update_cluster_mysql_user_name",
        &cluster("instance_id_deadbeef", "cluster_name2", ""),
        400,
        "no mysql user name to change",
    );

    page.ok(
        "add_cluster",
        r#"{"instance_id": "regression_instance0", "cluster": {"cluster_name": "c", "cluster_id": "test_cluster_1_id1", "type": "COMPUTE"}}"#,
    );
    page.ok(
        "set_cluster_status",
        r#"{
    "cloud_unique_id": "1:regression_instance0:regression-cloud-unique-id-fe-0128",
    "cluster": {
        "cluster_id": "test_cluster_1_id1",
        "cluster_status":"STOPPED"
    }
}"#,
    );
    let statuses =
        page.ok("get_cluster_status", r#"{"instance_ids":["regression_instance0", "regression_instance-dx-0128"],"status":"STOPPED"}"#);
    let expected = json!({"details": [{"instance_id": "regression_instance0", "clusters": [
        {"cluster_id": "test_cluster_1_id1", "cluster_name": "c", "cluster_status": "SUSPENDED"}
    ]}]});
    assert_eq!(statuses, expected);
    let instance = page.send("GET", "get_instance", "").1;
    assert_eq!(instance["msg"], "empty instance_id and cloud_unique_id");
    let (_, instance) =
        send("GET", &format!("http://{}/MetaService/http/get_instance?{TOKEN}&instance_id=regression_instance0", dev.http), "");
    let instance: Value = serde_json::from_str(&instance).unwrap();
    assert_eq!(instance["result"]["clusters"][0], found);
}

#[test]
fn clusters_that_cannot_be_are_refused_in_the_words_of_the_page() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start(dir.path());
    let page = Page(&dev);
    page.instance("i");
    page.instance("other");
    let add =
        |id: &str, kind: &str, nodes: Value, status, msg: &str| page.refused("add_cluster", &with_nodes(id, kind, &nodes), status, msg);
    let not_given = "invalid request instance_id or cluster not given";
    for call in ["add_cluster", "drop_cluster", "rename_cluster", "add_node", "drop_node", "set_cluster_status"] {
        page.refused(call, "{}", 400, not_given);
        page.refused(call, r#"{"instance_id": "i"}"#, 400, not_given);
        page.refused(call, r#"{"cluster": {"cluster_id": "c"}}"#, 400, not_given);
    }
    page.refused("add_cluster", r#"{"instance_id": "i", "cluster": {"cluster_name": "c"}}"#, 400, "cluster must have type arg");
    page.refused("add_cluster", r#"{"instance_id": "i", "cluster": {"type": "COMPUTE"}}"#, 400, "not have cluster name");
    add("c", "VIRTUAL", json!([]), 400, "type is SQL or COMPUTE, not VIRTUAL");
    add("1c", "COMPUTE", json!([]), 400, "cluster name not regex with ^[a-zA-Z][a-zA-Z0-9_]*$, please check it");
    let masters = |count| format!("cluster is SQL type, must have only one master node, now master count: {count}");
    add("fe", "SQL", json!([]), 400, &masters(0));
    add("fe", "SQL", json!([frontend("1:i:f1", 9010, "FE_MASTER"), frontend("1:i:f2", 9011, "FE_MASTER")]), 400, &masters(2));
    let multi = "cluster is SQL type, and use multi follower mode, cant set master node, master count: 1 follower count: 1";
    add("fe", "SQL", json!([frontend("1:i:f1", 9010, "FE_MASTER"), frontend("1:i:f2", 9011, "FE_FOLLOWER")]), 400, multi);
    let no_port = r#"check cluster params failed, edit_log_port is required for frontends while heatbeat_port is required for banckends, node : {"cloud_unique_id":"1:i:b1","ip":"172.21.0.5"}"#;
    add("c", "COMPUTE", json!([{"cloud_unique_id": "1:i:b1", "ip": "172.21.0.5"}]), 400, no_port);
    let malformed = r#"add node input args node invalid, cluster={"cluster_id":"c","cluster_name":"c","type":"COMPUTE","nodes":[{"ip":"172.21.0.5","heartbeat_port":9050}]}"#;
    add("c", "COMPUTE", json!([{"ip": "172.21.0.5", "heartbeat_port": 9050}]), 400, malformed);
    for bad in ["a/b", "a\\b", "a\u{0}b", "..", "a\u{202e}b", &"x".repeat(10_000)] {
        let body = json!({"instance_id": "i", "cluster": {"cluster_name": "c", "cluster_id": bad, "type": "COMPUTE"}});
        let (status, answer) = page.ask("add_cluster", &body.to_string());
        assert!(status == 400 && answer["msg"].as_str().unwrap().len() < 300, "{bad:.20}: {answer}");
        let (status, answer) = page.ask("add_cluster", &with_nodes("c", "COMPUTE", &json!([backend(bad, 9050)])));
        assert!(status == 400 && !answer.to_string().contains('\u{202e}'), "{bad:.20}: {answer}");
    }
    let nowhere = malformed.replace(r#""ip":"172.21.0.5""#, r#""cloud_unique_id":"b","ip":"172.21.0.500""#);
    add("c", "COMPUTE", json!([{"cloud_unique_id": "b", "ip": "172.21.0.500", "heartbeat_port": 9050}]), 400, &nowhere);
    let far = page.ask("add_cluster", &with_nodes("c", "COMPUTE", &json!([{"cloud_unique_id": "b", "ip": "a", "heartbeat_port": 70_000}])));
    assert!(far.0 == 400 && far.1["msg"].as_str().unwrap().starts_with("add node input args node invalid"), "{far:?}");
    let unknown = with_nodes("c", "COMPUTE", &json!([])).replace("\"i\"", "\"nobody\"");
    page.refused("add_cluster", &unknown, 404, "instance not existed, instance_id=nobody");
    let degraded = r#"{"cloud_unique_id": "1:nobody:x", "cluster": {"cluster_name": "c", "cluster_id": "c", "type": "COMPUTE"}}"#;
    page.refused("add_cluster", degraded, 400, "use degrade cloud_unique_id, but instance_id invalid, cloud_unique_id=1:nobody:x");
    page.refused("add_cluster", &degraded.replace("1:nobody:x", "x"), 400, "empty instance_id");

    page.ok("add_cluster", &with_nodes("c", "COMPUTE", &json!([backend("1:i:b1", 9050)])));
    page.ok("add_cluster", &with_nodes("empty", "COMPUTE", &json!([])));
    add("c", "COMPUTE", json!([]), 409, "try to add a existing cluster id, existing_cluster_id=c");
    page.refused(
        "add_cluster",
        r#"{"instance_id": "i", "cluster": {"cluster_name": "c", "cluster_id": "c2", "type": 1}}"#,
        409,
        "try to add a existing cluster name, existing_cluster_name=c",
    );
    add("c2", "COMPUTE", json!([backend("x", 9050)]), 409, "compute node endpoint has been added, registered be node=172.21.0.5:9050");
    let theirs = with_nodes("c", "COMPUTE", &json!([backend("1:i:b1", 9060)])).replace("\"i\"", "\"other\"");
    let occupied = "cloud_unique_id is already occupied by an instance, instance_id=i cluster_name=c cluster_id=c cloud_unique_id=1:i:b1";
    page.refused("add_cluster", &theirs, 409, occupied);
    page.ok(
        "add_cluster",
        &with_nodes("fe", "SQL", &json!([frontend("1:i:f1", 9010, "FE_MASTER"), frontend("1:i:f2", 9011, "FE_OBSERVER")])),
    );
    let second = json!([frontend("1:i:f3", 9010, "FE_MASTER")]);
    add("fe2", "SQL", second, 409, "sql node endpoint has been added, registered fe node=172.21.0.6:9010");

    let named = |id: &str, name: &str| json!({"instance_id": "i", "cluster": {"cluster_id": id, "cluster_name": name}}).to_string();
    page.refused("drop_cluster", &named("", "c"), 400, "missing cluster_id=");
    page.refused("drop_cluster", &named("x", "c"), 404, "failed to find cluster to drop, instance_id=i cluster_id=x cluster_name=c");
    let young = page.ask("drop_cluster", &named("fe", "fe"));
    let why = young.1["msg"].as_str().unwrap();
    let shown = r#"drop fe cluster not in safe time, try later, cluster={"cluster_id":"fe","cluster_name":"fe","type":"SQL","nodes":[{"#;
    assert!(young.0 == 400 && why.starts_with(shown), "{why}");
    let (status, renamed) = page.ask("rename_cluster", &named("c", "c"));
    let why = renamed["msg"].as_str().unwrap();
    let shown =
        r#"failed to rename cluster, name eq original name, original cluster is {"cluster_id":"c","cluster_name":"c","type":"COMPUTE","#;
    assert!(status == 400 && why.starts_with(shown), "{why}");
    let taken = r#"failed to rename cluster, a cluster with the same name already exists in this instance {"cluster_id":"c","cluster_name":"empty"}"#;
    page.refused("rename_cluster", &named("c", "empty"), 400, taken);
    page.refused("rename_cluster", &named("x", "y"), 404, "failed to find cluster to update, instance_id=i cluster_id=x cluster_name=y");

    page.ok("add_node", &with_nodes("c", "COMPUTE", &json!([backend("1:i:b2", 9051)])));
    let taken = "compute node endpoint has been added, registered be node=172.21.0.5:9051";
    page.refused("add_node", &with_nodes("c", "COMPUTE", &json!([backend("1:i:b3", 9051)])), 409, taken);
    let twice = occupied.replace("1:i:b1", "1:i:b2");
    page.refused("add_node", &with_nodes("c", "COMPUTE", &json!([backend("1:i:b3", 9052), backend("1:i:b2", 9051)])), 409, &twice);
    assert_eq!(
        page.ok("get_cluster", r#"{"cloud_unique_id": "1:i:b2", "cluster_id": "c"}"#)["nodes"].as_array().unwrap().len(),
        2,
        "all or none"
    );
    page.refused("add_node", &with_nodes("c", "COMPUTE", &json!([])), 400, "to_add and to_del both empty or both not empty");
    page.refused("add_node", &with_nodes("c", "SQL", &json!([backend("1:i:b3", 9053)])), 400, "the cluster is not of type SQL");
    let unknown = "failed to find cluster to update, instance_id=i cluster_id=x cluster_name=x";
    page.refused("add_node", &with_nodes("x", "COMPUTE", &json!([backend("1:i:b3", 9053)])), 404, unknown);
    let modify = "instance invalid, cant modify, plz check";
    page.refused("add_node", &with_nodes("fe", "SQL", &json!([frontend("1:i:f3", 9012, "FE_MASTER")])), 400, modify);
    let (status, answer) = page.ask("drop_node", &with_nodes("fe", "SQL", &json!([frontend("1:i:f2", 9011, "FE_OBSERVER")])));
    let young = r#"drop fe node not in safe time, try later, node={"cloud_unique_id":"1:i:f2","ip":"172.21.0.6","ctime":""#;
    assert!(status == 400 && answer["msg"].as_str().unwrap().starts_with(young), "{answer}");
    page.set("frontend_safe_seconds", "0");
    page.refused("drop_node", &with_nodes("fe", "SQL", &json!([frontend("1:i:f1", 9010, "FE_MASTER")])), 400, modify);
    page.ok("drop_node", &with_nodes("fe", "SQL", &json!([frontend("1:i:f2", 9011, "FE_OBSERVER")])));
    let gone = "cloud_unique_id can not find to drop node, instance_id=i cluster_name=c cluster_id=c cloud_unique_id=1:i:b2";
    page.refused("drop_node", &with_nodes("c", "COMPUTE", &json!([backend("1:i:b2", 9059)])), 404, gone);
    let gone = gone.replace("to drop", "to decommission");
    page.refused("decommission_node", &with_nodes("c", "COMPUTE", &json!([backend("1:i:b2", 9059)])), 404, &gone);
    page.ok("decommission_node", &with_nodes("c", "COMPUTE", &json!([backend("1:i:b2", 9051)])));
    let fe = with_nodes("fe", "SQL", &json!([frontend("1:i:f1", 9010, "FE_MASTER")]));
    page.refused("decommission_node", &fe, 400, "just support decommission COMPUTE cluster nodes");

    let drop = r#"{"instance_id": "i"}"#;
    page.refused("drop_instance", drop, 400, "failed to drop instance, instance has clusters");
    // Where the page is followed to the letter, six mistakes of callers are the server's.
    page.set("meta_compat", "doc");
    page.refused("add_cluster", &with_nodes("fe2", "SQL", &json!([])), 500, &masters(0));
    page.refused("drop_cluster", &named("x", "c"), 500, "failed to find cluster to drop, instance_id=i cluster_id=x cluster_name=c");
    page.refused("update_cluster_mysql_user_name", &named("c", "c"), 500, "no mysql user name to change");
    page.refused("add_cluster", &theirs, 500, occupied);
    page.refused("add_node", &with_nodes("x", "COMPUTE", &json!([backend("1:i:b3", 9053)])), 404, unknown);
    page.set("meta_compat", "plain");
    ["c", "empty", "fe"].iter().for_each(|id| drop_all(&page, id));
    page.ok("drop_instance", drop);
    let dropped = "instance status has been set delete, plz check it";
    page.refused("add_cluster", &with_nodes("c", "COMPUTE", &json!([])), 404, dropped);
}

fn drop_all(page: &Page<'_>, id: &str) {
    page.ok("drop_cluster", &json!({"instance_id": "i", "cluster": {"cluster_id": id}}).to_string());
}

#[test]
fn a_cluster_is_found_by_what_is_said_first_and_its_status_goes_the_ways_it_may() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start(dir.path());
    let page = Page(&dev);
    page.instance("i");
    page.instance("bare");
    page.ok(
        "add_cluster",
        r#"{"instance_id": "i", "cluster": {"cluster_name": "c1", "cluster_id": "1", "type": "COMPUTE", "mysql_user_name": ["jack"]}}"#,
    );
    page.ok(
        "add_cluster",
        r#"{"instanceId": "i", "cluster": {"clusterName": "c2", "clusterId": 2, "type": "1", "mysqlUserName": ["lx"],},}"#,
    );
    page.ok("add_cluster", &with_nodes("fe", "SQL", &json!([frontend("1:i:f1", 9010, "FE_MASTER")])));
    let get = |selector: &str| page.ok("get_cluster", &format!(r#"{{"cloud_unique_id": "1:i:any", {selector}}}"#));
    assert_eq!((&get(r#""cluster_id": 2"#)["cluster_name"], &get(r#""cluster_name": "c1""#)["cluster_id"]), (&"c2".into(), &"1".into()));
    assert_eq!(get(r#""mysql_user_name": "lx""#)["cluster_id"], "2");
    assert_eq!(get(r#""cluster_id": "1", "cluster_name": "c2", "mysql_user_name": "lx""#)["cluster_name"], "c1");
    let all = get("");
    assert_eq!((all["cluster"].as_array().unwrap().len(), &all["enable_storage_vault"]), (3, &false.into()));
    page.refused("get_cluster", r#"{"instance_id": "i"}"#, 400, "cloud_unique_id must be given");
    page.refused("get_cluster", r#"{"cloud_unique_id": "x"}"#, 400, "empty instance_id");
    assert_eq!(page.ok("get_cluster", r#"{"cloud_unique_id": "x", "instance_id": "i", "cluster_id": "1"}"#)["cluster_name"], "c1");
    let nobody = r#"fail to get cluster with cloud_unique_id: "1:i:any" mysql_user_name: "eve" "#;
    page.refused("get_cluster", r#"{"cloud_unique_id": "1:i:any", "mysql_user_name": "eve"}"#, 404, nobody);

    let set = |to: &str| json!({"instance_id": "i", "cluster": {"cluster_id": "1", "cluster_status": to}}).to_string();
    let steps = [
        ("NORMAL", vec!["SUSPENDED", "MANUAL_SHUTDOWN"], vec!["TO_RESUME", "UNKNOWN"]),
        ("SUSPENDED", vec!["TO_RESUME"], vec!["NORMAL", "MANUAL_SHUTDOWN", "UNKNOWN"]),
        ("TO_RESUME", vec!["NORMAL"], vec!["SUSPENDED", "MANUAL_SHUTDOWN", "UNKNOWN"]),
        ("MANUAL_SHUTDOWN", vec!["NORMAL"], vec!["SUSPENDED", "TO_RESUME", "UNKNOWN"]),
    ];
    for (from, may, may_not) in steps {
        from_normal(from).iter().for_each(|to| drop(page.ok("set_cluster_status", &set(to))));
        let same = format!("failed to set cluster status, status eq original status, original cluster is {from}");
        page.refused("set_cluster_status", &set(from), 400, &same);
        for to in may_not {
            let why = format!("failed to set cluster status, original cluster is {from} and want set {to}");
            page.refused("set_cluster_status", &set(to), 400, &why);
        }
        for to in may {
            page.ok("set_cluster_status", &set(to));
            // And back to where this row begins.
            to_normal(to).iter().for_each(|to| drop(page.ok("set_cluster_status", &set(to))));
            from_normal(from).iter().for_each(|to| drop(page.ok("set_cluster_status", &set(to))));
        }
        to_normal(from).iter().for_each(|to| drop(page.ok("set_cluster_status", &set(to))));
    }
    page.refused("set_cluster_status", &set("ASLEEP"), 400, "invalid cluster_status, cluster_status=ASLEEP");
    let fe = json!({"instance_id": "i", "cluster": {"cluster_id": "fe", "cluster_status": "NORMAL"}}).to_string();
    page.refused("set_cluster_status", &fe, 400, "just support set COMPUTE cluster status");
    let unknown = json!({"instance_id": "i", "cluster": {"cluster_id": "x", "cluster_status": "NORMAL"}}).to_string();
    page.refused(
        "set_cluster_status",
        &unknown,
        404,
        "failed to find cluster to set cluster status, instance_id=i cluster_id=x cluster_name=",
    );

    page.ok("set_cluster_status", &set("SUSPENDED"));
    let brief = |id: &str, name: &str, status: &str| json!({"cluster_id": id, "cluster_name": name, "cluster_status": status});
    let statuses = |body: &str| page.ok("get_cluster_status", body)["details"].clone();
    let both = json!([{"instance_id": "i", "clusters": [brief("1", "c1", "SUSPENDED"), brief("2", "c2", "NORMAL")]}]);
    assert_eq!(statuses(r#"{"instance_ids": ["i", "nobody", "bare"]}"#), both);
    assert_eq!(statuses(r#"{"cloud_unique_ids": ["1:i:f1", "1:nobody:x"]}"#), both);
    assert_eq!(statuses(r#"{"instance_ids": ["bare"], "cloud_unique_ids": ["1:i:f1"]}"#), json!([]), "what is named by its id counts");
    let normal = json!([{"instance_id": "i", "clusters": [brief("2", "c2", "NORMAL")]}]);
    assert_eq!(statuses(r#"{"instance_ids": ["i", "bare"], "status": "NORMAL"}"#), normal);
    assert_eq!(statuses(r#"{"instance_ids": ["bare"]}"#), json!([]));
    let none = "cloud_unique_ids or instance_ids must be given, instance_ids.size: 0 cloud_unique_ids.size: 0";
    page.refused("get_cluster_status", "{}", 400, none);
}

/// The steps by which a cluster that serves becomes so.
fn from_normal(to: &'static str) -> Vec<&'static str> {
    match to {
        "NORMAL" => vec![],
        "TO_RESUME" => vec!["SUSPENDED", "TO_RESUME"],
        _ => vec![to],
    }
}

/// Those by which it serves again.
fn to_normal(from: &str) -> &'static [&'static str] {
    match from {
        "NORMAL" => &[],
        "SUSPENDED" => &["TO_RESUME", "NORMAL"],
        _ => &["NORMAL"],
    }
}

#[test]
fn who_is_meant_is_told_by_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start(dir.path());
    let page = Page(&dev);
    page.instance("i");
    // One place by its name, by its address, and by both.
    let at = |id: &str, host: &str, ip: &str| json!([{"cloud_unique_id": id, "host": host, "ip": ip, "heartbeat_port": 9050}]);
    page.ok("add_cluster", &with_nodes("c", "COMPUTE", &at("1:i:a", "n1", "172.21.0.5")));
    for (host, ip, told) in [("n1", "", "n1:9050"), ("", "172.21.0.5", "172.21.0.5:9050"), ("n2", "172.21.0.5", "172.21.0.5:9050")] {
        let why = format!("compute node endpoint has been added, registered be node={told}");
        page.refused("add_node", &with_nodes("c", "COMPUTE", &at("1:i:b", host, ip)), 409, &why);
    }
    // A port that there is not: none is registered there, and none can be.
    let beyond = |port: u64| json!([{"cloud_unique_id": "1:i:a", "ip": "172.21.0.5", "heartbeat_port": port}]);
    for call in ["drop_node", "decommission_node"] {
        let what = call.split('_').next().unwrap();
        let why = format!("cloud_unique_id can not find to {what} node, instance_id=i cluster_name=c cluster_id=c cloud_unique_id=1:i:a");
        page.refused(call, &with_nodes("c", "COMPUTE", &beyond(65_536)), 404, &why);
    }
    let (status, answer) = page.ask("add_node", &with_nodes("c", "COMPUTE", &beyond(u64::MAX)));
    assert!(status == 400 && answer["msg"].as_str().unwrap().starts_with("add node input args node invalid, cluster={"), "{answer}");
    // Of two frontends the young one is shown.
    page.set("frontend_safe_seconds", "0");
    page.ok("add_cluster", &with_nodes("f", "SQL", &json!([frontend("1:i:old", 1, "FE_MASTER"), frontend("1:i:m", 2, "FE_OBSERVER")])));
    page.set("frontend_safe_seconds", "3000");
    let (status, answer) = page.ask("drop_node", &with_nodes("f", "SQL", &json!([frontend("1:i:m", 2, "FE_OBSERVER")])));
    let why = answer["msg"].as_str().unwrap();
    assert!(status == 400 && why.starts_with(r#"drop fe node not in safe time, try later, node={"cloud_unique_id":"1:i:m","ip""#), "{why}");
    assert!(why.contains(r#""node_type":"FE_OBSERVER""#) && why.contains(r#""ctime":""#), "as it is registered: {why}");
    // Who is named twice is told of once.
    let found = page.ok("get_cluster_status", r#"{"instance_ids": ["i", "i", "nobody"]}"#);
    assert_eq!(found["details"].as_array().unwrap().len(), 1, "{found}");
}

#[test]
fn revoked_tokens_stay_revoked() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start(dir.path());
    let page = Page(&dev);
    page.instance("acme");
    let set =
        |key: &str, value: &str| send("POST", &format!("http://{}/config/set", dev.http), &json!({"key": key, "value": value}).to_string());
    assert_eq!(set("token_generation.acme", "3").0, 200);
    assert_eq!(set("token_generation.acme", "3").0, 200);
    for (key, value) in
        [("token_generation.acme", "2"), ("token_generation.nobody", "1"), ("token_generation.", "1"), ("token_generation.acme", "-1")]
    {
        let (status, why) = set(key, value);
        assert!(status == 400, "{key} {value}: {why}");
    }
    let delete = send("POST", &format!("http://{}/config/delete?key=token_generation.acme", dev.http), "");
    assert!(delete.0 >= 400, "{delete:?}");
    let (_, kept) = send("GET", &format!("http://{}/config/get?key=token_generation.acme", dev.http), "");
    assert!(kept.contains('3'), "{kept}");
}

//! The meta service about vaults and what opens them, as its page speaks: its samples as they stand there, and every refusal.

use crate::clusters::{Page, TOKEN};
use crate::harness::{Dev, fetch, wait_for};
use crate::tenants::send;
use serde_json::{Value, json};

fn obj(change: &[(&str, &str)]) -> Value {
    let mut obj = json!({"ak": "ak1", "sk": "sk1", "bucket": "b", "prefix": "p", "endpoint": "e", "external_endpoint": "e", "region": "r",
        "provider": "S3"});
    for (name, value) in change {
        obj[name] = (*value).into();
    }
    obj
}

fn with_vault(id: &str, vault: &Value) -> String {
    json!({"instance_id": id, "name": "n", "user_id": "u", "vault": vault}).to_string()
}

fn with_obj(id: &str, obj: &Value) -> String {
    json!({"instance_id": id, "obj_info": obj}).to_string()
}

fn one(id: &str, call: &str, obj: &Value) -> (String, String) {
    (call.to_owned(), json!({"cloud_unique_id": format!("1:{id}:n"), "obj": obj}).to_string())
}

fn instance(page: &Page<'_>, id: &str) -> Value {
    let (status, found) = send("GET", &format!("http://{}/MetaService/http/get_instance?{TOKEN}&instance_id={id}", page.0.http), "");
    assert_eq!(status, 200, "{found}");
    serde_json::from_str::<Value>(&found).unwrap()["result"].clone()
}

const MASK: &str = "******";

#[test]
fn an_instance_begins_with_a_directory_below_the_root_and_with_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("vaults");
    std::fs::create_dir(&root).unwrap();
    let dev = Dev::start_with(dir.path(), &["--segment-size", "64MiB", "--vault-root", root.to_str().unwrap()]);
    let page = Page(&dev);
    let create = |id: &str, fs_name: &str, prefix: &str| {
        let vault = json!({"hdfs_info": {"build_conf": {"fs_name": fs_name}, "prefix": prefix}});
        page.ok("create_instance", &json!({"instance_id": id, "name": "n", "user_id": "u", "vault": vault}).to_string());
    };
    let shown =
        |id: &str| page.ok("show_storage_vaults", &json!({"cloud_unique_id": format!("1:{id}:n")}).to_string())["storage_vault"][0].clone();
    let url = format!("file://{}", root.display());
    create("inside", &url, "a/folder");
    let vault = wait_for("the directory to be ready", || Some(shown("inside")).filter(|vault| vault["ready"] == true));
    let prefix = vault["hdfs_info"]["prefix"].as_str().unwrap();
    wait_for("the directory to be claimed", || root.join(prefix).join("owner/cluster").is_file().then_some(()));
    // What is not mounted yet may be one day; what lies elsewhere never does.
    create("unmounted", &format!("{url}/unmounted"), "p");
    std::os::unix::fs::symlink(dir.path(), root.join("link")).unwrap();
    for fs_name in [format!("file://{}", dir.path().display()), format!("{url}/link"), "file:///etc".into()] {
        let vault = json!({"name": "v", "hdfs_info": {"build_conf": {"fs_name": fs_name}, "prefix": "p"}});
        for (call, id) in [("create_instance", "outside"), ("add_hdfs_vault", "inside")] {
            let (status, answer) = page.ask(call, &json!({"instance_id": id, "vault": vault}).to_string());
            let why = answer["msg"].as_str().unwrap();
            assert!(status == 400 && why.starts_with("invalid fs_name: ") && why.contains("--vault-root"), "{fs_name}: {answer}");
        }
    }
    std::fs::remove_file(root.join("link")).unwrap();
    assert_eq!(std::fs::read_dir(&root).unwrap().count(), 1, "nothing of the others is there");
    assert!(!dir.path().join("p").exists());
}

#[test]
fn the_samples_about_vaults_are_answered_as_they_stand_there() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start(dir.path());
    let page = Page(&dev);
    let hdfs = r#"{
  "instance_id": "sample_instance_id",
  "name": "sample_instance_name",
  "user_id": "sample_user_id",
  "vault": {
    "hdfs_info" : {
      "build_conf": {
        "fs_name": "hdfs://172.21.0.44:4007",
        "user": "hadoop",
        "hdfs_kerberos_keytab": "/etc/emr.keytab",
        "hdfs_kerberos_principal": "hadoop/172.30.0.178@EMR-XXXYYY",
        "hdfs_confs" : [
          {
            "key": "hadoop.security.authentication",
            "value": "kerberos"
          }
        ]
      },
      "prefix": "sample_prefix"
    }
  }
}"#;
    page.ok("create_instance", hdfs);
    page.refused("create_instance", hdfs, 409, "instance already existed, instance_id=sample_instance_id");
    let seen = page.ok("get_obj_store_info", r#"{"cloud_unique_id": "1:sample_instance_id:n"}"#);
    let vault = &seen["storage_vault"][0];
    assert_eq!((&vault["id"], &vault["name"]), (&"1".into(), &"built_in_storage_vault".into()));
    let conf = &vault["hdfs_info"]["build_conf"];
    assert_eq!((&conf["fs_name"], &conf["hdfs_confs"][0]["value"]), (&"hdfs://172.21.0.44:4007".into(), &"kerberos".into()));
    assert!(vault["hdfs_info"]["prefix"].as_str().unwrap().starts_with("sample_prefix_"), "{vault}");
    let shown = page.ok("show_storage_vaults", r#"{"instance_id": "sample_instance_id"}"#);
    let shown = &shown["storage_vault"][0];
    assert_eq!((&shown["ready"], &shown["hdfs_info"]["build_conf"]["hdfs_confs"][0]["value"]), (&false.into(), &MASK.into()));
    assert!(shown["reason"].as_str().unwrap().contains("no client"), "{shown}");
    wait_for("it to be counted as one that does not work", || {
        let page = fetch(&dev.http, "/metrics");
        page.lines()
            .any(|line| line.starts_with("perilune_vault_up{") && line.contains("sample_instance_id") && line.ends_with(" 0"))
            .then_some(())
    });

    let s3 = r#"{
  "instance_id": "sample_instance_id_2",
  "name": "sample_instance_name",
  "user_id": "sample_user_id",
  "vault": {
    "obj_info": {
      "ak": "ak_xxxxxxxxxxx",
      "sk": "sk_xxxxxxxxxxx",
      "bucket": "sample_bucket_name",
      "prefix": "sample_prefix",
      "endpoint": "cos.ap-beijing.myqcloud.com",
      "external_endpoint": "cos.ap-beijing.myqcloud.com",
      "region": "ap-beijing",
      "provider": "COS"
    }
  }
}"#;
    page.ok("create_instance", s3);
    let seen = page.ok("get_obj_store_info", r#"{"cloud_unique_id": "1:sample_instance_id_2:n"}"#);
    let vault = &seen["storage_vault"][0]["obj_info"];
    assert_eq!((&vault["sk"], &vault["provider"], &seen["enable_storage_vault"]), (&"sk_xxxxxxxxxxx".into(), &"COS".into(), &true.into()));
    let seen = instance(&page, "sample_instance_id_2");
    assert_eq!(
        (&seen["storage_vault_names"][0], &seen["default_storage_vault_id"], &seen["resource_ids"][0]),
        (&"built_in_storage_vault".into(), &"1".into(), &"1".into())
    );

    // The legacy one, with the comma and the texts that the page leaves out.
    let legacy = r#"{
    "instance_id": "123456",
    "name": "name",
    "user_id": "abcdef",
    "obj_info": {
        "ak": "test-ak1",
        "sk": "test-sk1",
        "bucket": "test-bucket",
        "prefix": "test-prefix",
        "endpoint": "test-endpoint",
        "region": "test-region",
        "provider": "OBS",
        "user_id": "xxx"
    }
    "ram_user": {
        "user_id": string,
        "ak": string,
        "sk": string
    }
}"#;
    assert_eq!(page.send("PUT", "create_instance", legacy).0, 400);
    page.ok("create_instance", &legacy.replace("    }\n    \"ram", "    },\n    \"ram").replace("string", "\"text\""));
    let seen = instance(&page, "123456");
    let first = &seen["obj_info"][0];
    assert_eq!((&first["id"], &first["ak"], &first["sk"], &first["user_id"]), (&"1".into(), &MASK.into(), &MASK.into(), &"xxx".into()));
    assert_eq!(
        (&seen["ram_user"]["user_id"], &seen["ram_user"]["sk"], &first["external_endpoint"]),
        (&"text".into(), &MASK.into(), &"test-endpoint".into())
    );

    page.ok("create_instance", &with_obj("regression_instance0", &obj(&[])));
    let rotate = r#"{
    "cloud_unique_id": "1:regression_instance0:cloud_unique_id_compute_node1",
    "obj": {
        "id": "1",
        "ak": "test-ak",
        "sk": "test-sk",
    }
}"#;
    page.ok("legacy_update_ak_sk", rotate);
    page.refused("legacy_update_ak_sk", rotate, 400, "ak sk eq original, please check it");
    let add = r#"{
    "cloud_unique_id": "1:regression_instance0:cloud_unique_id_compute_node1",
    "obj": {
        "ak": "test-ak91",
        "sk": "test-sk1",
        "bucket": "test-bucket",
        "prefix": "test-prefix",
        "endpoint": "test-endpoint",
        "region": "test-region"
    }
}"#;
    page.ok("add_obj_info", add);
    page.refused("add_obj_info", add, 400, "original obj infos has a same conf, please check it");
    let seen = page.ok("get_obj_store_info", r#"{"cloud_unique_id": "1:regression_instance0:cloud_unique_id_compute_node1"}"#);
    let known = |n: usize, name: &str| seen["obj_info"][n][name].as_str().unwrap().to_owned();
    assert_eq!([known(0, "ak"), known(0, "sk"), known(1, "id"), known(1, "ak")], ["test-ak", "test-sk", "2", "test-ak91"]);
    assert!(known(1, "ctime").parse::<u64>().unwrap() > 1_600_000_000);
    page.refused("get_obj_store_info", r#"{"cloud_unique_id": "<cloud_unique_id>"}"#, 400, "empty instance_id");

    let two = ["bucket_user_id_1", "bucket_user_id_2"].map(|user| obj(&[("user_id", user), ("prefix", user)]));
    page.ok(
        "create_instance",
        &json!({"instance_id": "test", "obj_info": two[0], "ram_user": {"user_id": "ram_user_id", "ak": "a", "sk": "b"}}).to_string(),
    );
    let (call, body) = one("test", "add_obj_info", &two[1]);
    page.ok(&call, &body);
    let users = r#"{
    "instance_id":"test",
    "internal_bucket_user":[
        {
            "user_id": "bucket_user_id_1",
            "ak": "xxxx",
            "sk": "xxxx"
        },
        {
            "user_id": "bucket_user_id_2",
            "ak": "xxxx",
            "sk": "xxxx"
        }
    ],
    "ram_user": {
        "user_id": "ram_user_id",
        "ak": "xxxx",
        "sk": "xxxx"
    }
}"#;
    page.ok("update_ak_sk", users);
    page.refused("update_ak_sk", users, 400, "ak sk eq original, please check it");
    let seen = page.ok("get_obj_store_info", r#"{"cloud_unique_id": "1:test:n"}"#);
    assert!(seen["obj_info"].as_array().unwrap().iter().all(|obj| obj["sk"] == "xxxx" && obj["sse_enabled"] == false), "{seen}");
    let sse = "{\n    \"instance_id\": \"test\"\n}";
    page.ok("enable_instance_sse", sse);
    page.refused("enable_instance_sse", sse, 400, "failed to enable sse, instance has enabled sse");
    let seen = instance(&page, "test");
    assert!(seen["sse_enabled"] == true && seen["obj_info"].as_array().unwrap().iter().all(|obj| obj["sse_enabled"] == true), "{seen}");
    page.ok("disable_instance_sse", sse);
    page.refused("disable_instance_sse", sse, 400, "failed to disable sse, instance has disabled sse");
}

#[test]
fn what_is_refused_about_vaults_is_refused_in_the_pages_words() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start(dir.path());
    let page = Page(&dev);
    let create = |body: String, msg: &str| page.refused("create_instance", &body, 400, msg);
    create(json!({"vault": {"obj_info": obj(&[])}}).to_string(), "instance id not set");
    for part in ["ak", "sk", "bucket", "endpoint", "region", "provider", "external_endpoint"] {
        create(with_vault("i", &json!({"obj_info": obj(&[(part, "")])})), "s3 conf info err, please check it");
        if part != "external_endpoint" {
            create(with_obj("i", &obj(&[(part, "")])), "s3 conf info err, please check it");
        }
    }
    create(
        with_vault("i", &json!({"obj_info": obj(&[("role_arn", "r"), ("bucket", "")])})),
        "s3 conf info err with role_arn, please check it",
    );
    let hdfs =
        |fs: &str, prefix: &str| with_vault("i", &json!({"hdfs_info": {"build_conf": {"fs_name": fs, "user": "u"}, "prefix": prefix}}));
    create(hdfs("hdfs://h", "hdfs://p"), "invalid prefix: hdfs://p");
    for prefix in ["..", "../../..", "a/../b", "a//b", "./a"] {
        create(hdfs("hdfs://h", prefix), &format!("invalid prefix: {prefix}"));
        create(with_obj("i", &obj(&[("prefix", prefix)])), &format!("invalid prefix: {prefix}"));
        create(with_vault("i", &json!({"obj_info": obj(&[("prefix", prefix)])})), &format!("invalid prefix: {prefix}"));
    }
    create(with_obj("i", &obj(&[("prefix", "a\u{202e}b")])), r"prefix cannot have '\u{202e}' in it");
    for fs_name in ["", "h", "file://x", "file://", "file:///a/../b", "hdfs://", "://x"] {
        create(hdfs(fs_name, "p"), &format!("invalid fs_name: {fs_name}"));
    }
    for part in ["user_id", "ak", "sk"] {
        let mut ram = json!({"user_id": "u", "ak": "a", "sk": "s"});
        ram[part] = "".into();
        create(json!({"instance_id": "i", "ram_user": ram}).to_string(), "ram user info err, please check it");
    }
    create(with_vault("i", &json!({})), "an instance is created with one of vault.obj_info, vault.hdfs_info and obj_info");
    assert_eq!(page.ask("create_instance", &with_vault("i", &json!({"obj_info": obj(&[("provider", "NONE")])}))).0, 400);
    page.ok("create_instance", &with_obj("i", &obj(&[("user_id", "u1"), ("prefix", " /p/ ")])));
    assert_eq!(instance(&page, "i")["obj_info"][0]["prefix"], "p");

    let store = |id: &str, status, msg: &str| page.refused("get_obj_store_info", &json!({"cloud_unique_id": id}).to_string(), status, msg);
    store("", 400, "cloud unique id not set");
    store("2:i:n", 400, "empty instance_id");
    store("1:nobody:n", 404, "instance not existed, instance_id=nobody");

    let users = |body: Value, msg: &str| page.refused("update_ak_sk", &body.to_string(), 400, msg);
    let user = |id: &str| json!({"user_id": id, "ak": "ak2", "sk": "sk2"});
    users(json!({"ram_user": user("r")}), "instance id not set");
    users(json!({"instance_id": "i"}), "nothing to update");
    users(json!({"instance_id": "i", "ram_user": {"user_id": "r", "sk": "s"}}), r#"ram user info err {"user_id":"r","sk":"******"}"#);
    users(json!({"instance_id": "i", "ram_user": user("r")}), "instance doesn't have ram user info");
    users(json!({"instance_id": "i", "internal_bucket_user": [{"ak": "a"}]}), r#"s3 bucket info err {"ak":"******"}"#);
    users(json!({"instance_id": "i", "internal_bucket_user": [user("u2")]}), "fail to find the alter obj info");
    let same = json!({"user_id": "u1", "ak": "ak1", "sk": "sk1"});
    users(json!({"instance_id": "i", "internal_bucket_user": [same]}), "ak sk eq original, please check it");
    page.ok("create_instance", &json!({"instance_id": "old", "obj_info": obj(&[]), "ram_user": user("r")}).to_string());
    users(json!({"instance_id": "old", "ram_user": user("other")}), "ram user_id err");
    users(json!({"instance_id": "old", "ram_user": user("r")}), "ak sk eq original, please check it");
    let mask = |id: &str| format!(r#"{{"user_id":"{id}","ak":"******","sk":"******"}}"#);
    let msg = format!(r#"{{"instance_id":"old","internal_bucket_user":[{},{}]}}"#, mask("a"), mask("b"));
    users(
        json!({"instance_id": "old", "internal_bucket_user": [user("a"), user("b")]}),
        &format!("fail to update old instance's obj_info, s3 obj info err {msg}"),
    );
    page.ok("update_ak_sk", &json!({"instance_id": "old", "internal_bucket_user": [user("a")]}).to_string());
    page.refused(
        "update_ak_sk",
        &json!({"instance_id": "nobody", "ram_user": user("r")}).to_string(),
        404,
        "instance not existed, instance_id=nobody",
    );

    let legacy = |obj: Value, msg: &str| {
        let (call, body) = one("i", "legacy_update_ak_sk", &obj);
        page.refused(&call, &body, 400, msg);
    };
    legacy(json!({"ak": "a", "sk": "s"}), r#"s3 obj info err {"ak":"******","sk":"******"}"#);
    legacy(json!({"id": "1", "sk": "s"}), r#"s3 obj info err {"id":"1","sk":"******"}"#);
    for id in ["0", "2", "11", "x"] {
        legacy(json!({"id": id, "ak": "a", "sk": "s"}), "id invalid, please check it");
    }
    legacy(json!({"id": 1, "ak": "ak1", "sk": "sk1"}), "ak sk eq original, please check it");

    let add = |obj: &Value, status, msg: &str| {
        let (call, body) = one("i", "add_obj_info", obj);
        page.refused(&call, &body, status, msg);
    };
    for part in ["ak", "sk", "bucket", "endpoint", "region", "prefix"] {
        add(&obj(&[(part, "")]), 400, "s3 conf info err, please check it");
    }
    // What is compact has 1024 bytes or fewer, or 1025.
    let len = |prefix: &str| obj(&[("prefix", prefix)]).to_string().len();
    let prefix = "x".repeat(1024 - len(""));
    let (call, body) = one("i", "add_obj_info", &obj(&[("prefix", &format!("{prefix}y"))]));
    let (status, answer) = page.ask(&call, &body);
    assert!(status == 400 && answer["msg"].as_str().unwrap().starts_with("s3 obj info greater than 1k {"), "{answer}");
    let (call, body) = one("i", "add_obj_info", &obj(&[("prefix", &prefix)]));
    page.ok(&call, &body);
    for n in 3..=10 {
        let (call, body) = one("i", "add_obj_info", &obj(&[("prefix", &format!("p{n}"))]));
        page.ok(&call, &body);
    }
    add(&obj(&[("prefix", "p11")]), 500, "this instance history has greater than 10 objs, please new another instance");
    page.ok("create_instance", &with_vault("named", &json!({"obj_info": obj(&[])})));
    let (call, body) = one("named", "add_obj_info", &obj(&[("prefix", "q")]));
    page.refused(&call, &body, 400, "Storage vault doesn't support add obj info");

    let sse = |id: &str| json!({"instance_id": id}).to_string();
    page.refused("enable_instance_sse", &sse(""), 400, "instance id not set");
    page.refused("enable_instance_sse", &sse("nobody"), 404, "instance not existed, instance_id=nobody");
    page.refused("disable_instance_sse", &sse("i"), 400, "failed to disable sse, instance has disabled sse");

    let named = |call: &str, vault: Value, status, msg: &str| {
        page.refused(call, &json!({"instance_id": "named", "vault": vault}).to_string(), status, msg);
    };
    named("add_s3_vault", json!({"obj_info": obj(&[])}), 400, "vault name not set");
    named("add_s3_vault", json!({"name": "v"}), 400, "s3 obj info err");
    named("add_s3_vault", json!({"name": "v", "obj_info": obj(&[("provider", "")])}), 400, "s3 conf lease provider info");
    named(
        "add_s3_vault",
        json!({"name": "built_in_storage_vault", "obj_info": obj(&[])}),
        409,
        "vault_name=built_in_storage_vault already created",
    );
    named("add_hdfs_vault", json!({"name": "v"}), 400, "hdfs info is not found");
    named("alter_s3_vault", json!({"name": "v", "alter_name": "w"}), 404, "vault_name=v not found");
    let elsewhere = obj(&[("ak", "ak2"), ("bucket", "other"), ("endpoint", "x"), ("prefix", "zz"), ("region", "R"), ("provider", "OSS")]);
    let why = "bucket, prefix, endpoint, region, provider of a vault cannot be altered: add another vault";
    named("alter_s3_vault", json!({"name": "built_in_storage_vault", "obj_info": elsewhere}), 400, why);
    let same = json!({"ak": "ak2", "sk": "sk2", "bucket": "b", "endpoint": "e", "external_endpoint": "e", "region": "r", "provider": "S3"});
    let same = json!({"instance_id": "named", "vault": {"name": "built_in_storage_vault", "obj_info": same}});
    page.ok("alter_s3_vault", &same.to_string());
    named("drop_s3_vault", json!({"name": "v"}), 404, "vault_name=v not found");
    named("drop_hdfs_vault", json!({"name": "v"}), 404, "vault_name=v not found");
    for bad in ["a/b", "..", "a\u{0}b", &"x".repeat(10_000)] {
        let (status, answer) = page
            .ask("add_s3_vault", &json!({"instance_id": "named", "vault": {"name": bad, "obj_info": obj(&[("bucket", "c")])}}).to_string());
        assert!(status == 400 && answer["msg"].as_str().unwrap().len() < 300, "{bad:.20}: {answer}");
    }

    // Two at one time: one does, one is told.
    let both = |call: &str, body: &str| {
        let mut both = std::thread::scope(|scope| {
            let ask = || page.send("PUT", call, body).0;
            let (a, b) = (scope.spawn(ask), scope.spawn(ask));
            [a.join().unwrap(), b.join().unwrap()]
        });
        both.sort_unstable();
        both
    };
    assert_eq!(both("create_instance", &with_vault("both", &json!({"obj_info": obj(&[])}))), [200, 409]);
    let vault = json!({"instance_id": "both", "vault": {"name": "v", "obj_info": obj(&[("bucket", "c")])}}).to_string();
    assert_eq!(both("add_s3_vault", &vault), [200, 409]);
    let rotate = json!({"instance_id": "both", "vault": {"name": "v", "obj_info": {"ak": "x", "sk": "y"}}}).to_string();
    assert_eq!(both("alter_s3_vault", &rotate), [200, 400]);

    // Dropped: nothing of it is told or changed any more.
    page.ok("drop_instance", &sse("i"));
    let gone = "instance status has been set delete, plz check it";
    store("1:i:n", 404, gone);
    page.refused("enable_instance_sse", &sse("i"), 404, gone);
    page.refused("update_ak_sk", &json!({"instance_id": "i", "internal_bucket_user": [user("u1")]}).to_string(), 404, gone);
    page.refused("show_storage_vaults", &sse("i"), 404, gone);
}

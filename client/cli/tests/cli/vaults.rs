//! Vaults with real processes and a real S3 server: added, listed, rotated, dropped, told to nodes, and no secret where it does not belong.

use crate::group::{Process, at, leader, master_with};
use crate::harness::{Dev, finish, perilune, run, said, wait_for};
use crate::s3d::{AK, BUCKET, S3d, SK};
use crate::tenants::send;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Output;

/// Another pair, as what it was is given out of hand.
pub(crate) const OTHER: (&str, &str) = ("AKIAOTHER", "an0ther/secret");

pub(crate) fn vaults(dev: &Dev, sk: &str, args: &[&str]) -> Output {
    let args = ["vaults"].iter().chain(args).copied().chain(["--http", &dev.http]);
    finish(perilune().env("PERILUNE_VAULT_SK", sk).args(args))
}

pub(crate) fn done(dev: &Dev, sk: &str, args: &[&str]) {
    let output = vaults(dev, sk, args);
    assert!(output.status.success(), "{args:?}: {}", said(&output));
}

fn refused(output: &Output, why: &str) {
    assert!(!output.status.success() && said(output).contains(why), "{why}: {} {}", output.status, said(output));
}

pub(crate) fn list(dev: &Dev, tenant: &str) -> Vec<Value> {
    let output = vaults(dev, "", &["list", tenant, "--json"]);
    assert!(output.status.success(), "{}", said(&output));
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn bucket<'a>(s3: &'a S3d, name: &'a str, prefix: &'a str, ak: &'a str) -> Vec<&'a str> {
    vec!["add", "default", name, "--bucket", BUCKET, "--endpoint", s3.url(), "--prefix", prefix, "--ak", ak]
}

/// Whether `secret` is in a file below `dir`.
fn holds(dir: &Path, secret: &str) -> bool {
    fs::read_dir(dir).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() { holds(&path, secret) } else { has(&fs::read(&path).unwrap(), secret) }
    })
}

fn has(bytes: &[u8], secret: &str) -> bool {
    bytes.windows(secret.len()).any(|window| window == secret.as_bytes())
}

#[test]
fn vaults_are_added_listed_rotated_and_dropped() {
    let (dir, cold, s3) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), S3d::start());
    let root = cold.path().to_str().unwrap();
    let dev = Dev::start_with(dir.path(), &["--vault-root", root]);
    assert_eq!(list(&dev, "default"), Vec::<Value>::new());
    refused(&vaults(&dev, "", &["list", "nobody"]), "instance not existed, instance_id=nobody");
    done(&dev, SK, &bucket(&s3, "main", "/kv/", AK));
    refused(&vaults(&dev, SK, &bucket(&s3, "main", "other", AK)), "vault_name=main already created");
    refused(&vaults(&dev, SK, &bucket(&s3, "again", "kv", AK)), "original obj infos has a same conf");
    refused(&vaults(&dev, "", &bucket(&s3, "none", "kv", AK)), "secret key is empty");
    done(&dev, "", &["add", "default", "near", "--dir", root, "--prefix", "near"]);
    refused(&vaults(&dev, "", &["add", "default", "far", "--dir", "/etc"]), "--vault-root");
    done(&dev, "", &["add", "default", "far", "--dir", &format!("{root}/unmounted")]);

    let all = list(&dev, "default");
    let seen: Vec<_> = all.iter().map(|v| (v["name"].as_str().unwrap(), v["ready"] == true, v["is_default"] == true)).collect();
    assert_eq!(seen, [("main", true, false), ("near", true, false), ("far", false, true)], "{all:?}");
    assert!(all[2]["reason"].as_str().unwrap().contains("mount or make the directory"), "{}", all[2]);
    let obj = &all[0]["obj_info"];
    assert_eq!((&obj["sk"], &obj["ak"], &obj["prefix"]), (&"******".into(), &"******".into(), &"kv".into()));
    done(&dev, "", &["drop", "default", "far", "--dir"]);
    refused(&vaults(&dev, "", &["drop", "default", "far", "--dir"]), "vault_name=far not found");
    refused(&vaults(&dev, "", &["drop", "default", "near"]), "other kind");

    // The service forgets the pair, and learns another: what is told to the masters is what counts.
    s3.say(&format!("key add {} {}", OTHER.0, OTHER.1));
    s3.say(&format!("key remove {AK}"));
    assert_eq!(list(&dev, "default")[0]["ready"], false);
    let rotate = |sk: &str| vaults(&dev, sk, &["rotate", "default", "main", "--ak", OTHER.0]);
    assert!(rotate(OTHER.1).status.success() && list(&dev, "default")[0]["ready"] == true);
    refused(&rotate(OTHER.1), "ak sk eq original, please check it");
    done(&dev, "", &["rename", "default", "main", "first"]);
    done(&dev, "", &["drop", "default", "first"]);
    assert_eq!(list(&dev, "default").len(), 1);
    let table = vaults(&dev, "", &["list", "default"]);
    assert!(said(&table).contains("near") && said(&table).contains("yes"), "{}", said(&table));
}

#[test]
fn buckets_without_names_are_added_and_meant_by_their_numbers() {
    let (dir, s3) = (tempfile::tempdir().unwrap(), S3d::start());
    let dev = Dev::start(dir.path());
    let add =
        |prefix: &str| vaults(&dev, SK, &["add", "default", "--bucket", BUCKET, "--endpoint", s3.url(), "--prefix", prefix, "--ak", AK]);
    for prefix in ["one", "two"] {
        let added = add(prefix);
        assert!(added.status.success(), "{}", said(&added));
    }
    let ready = || list(&dev, "default").iter().map(|vault| vault["ready"] == true).collect::<Vec<_>>();
    assert_eq!(ready(), [true, true]);
    refused(&vaults(&dev, SK, &bucket(&s3, "main", "kv", AK)), "have no names");
    refused(&vaults(&dev, "", &["add", "default", "--dir", "/srv"]), "a directory has a name");
    s3.say(&format!("key add {} {}", OTHER.0, OTHER.1));
    s3.say(&format!("key remove {AK}"));
    let rotated = vaults(&dev, OTHER.1, &["rotate", "default", "2", "--ak", OTHER.0]);
    assert!(rotated.status.success(), "{}", said(&rotated));
    assert_eq!(ready(), [false, true]);
    refused(&vaults(&dev, OTHER.1, &["rotate", "default", "7", "--ak", OTHER.0]), "id invalid, please check it");
}

#[test]
fn curl_says_the_same_and_no_secret() {
    let args = ["vaults", "add", "acme", "v", "--bucket", "b", "--endpoint", "e", "--ak", "AKIA", "--curl"];
    let shown = said(&finish(perilune().env("PERILUNE_VAULT_SK", SK).env("PERILUNE_META_TOKEN", "0123456789abcdef").args(args)));
    assert!(shown.contains("/MetaService/http/v1/add_s3_vault?token=$PERILUNE_META_TOKEN") && !shown.contains(SK), "{shown}");
    assert!(shown.contains(r#""sk":"'"$PERILUNE_VAULT_SK"'""#), "{shown}");
    // What was in files is read from them; the page's own token is no secret, said or not.
    let dir = tempfile::tempdir().unwrap();
    let (meta, sk) = (dir.path().join("a token"), dir.path().join("it's"));
    fs::write(&meta, "0123456789abcdef\n").unwrap();
    let shown = said(&finish(perilune().args(args).arg("--sk-file").arg(&sk).arg("--meta-token-file").arg(&meta)));
    assert!(shown.contains(&format!("?token=$(cat '{}')\" ", meta.display())), "{shown}");
    assert!(shown.contains(&format!(r#""sk":"'"$(cat '{}/it'\''s')"'""#, dir.path().display())), "{shown}");
    let nameless: Vec<&str> = args.into_iter().filter(|arg| *arg != "v").collect();
    let shown = said(&finish(perilune().env("PERILUNE_VAULT_SK", SK).args(nameless)));
    assert!(shown.contains("/add_obj_info?") && shown.contains("$PERILUNE_VAULT_SK") && !shown.contains(SK), "{shown}");
    // What would mean something else in a query is encoded by curl.
    let shown = said(&finish(perilune().env("PERILUNE_VAULT_SK", SK).env("PERILUNE_META_TOKEN", "0123456789+/&#%=").args(args)));
    assert!(shown.contains(r#" --url-query "token=$PERILUNE_META_TOKEN" ""#) && !shown.contains("?token"), "{shown}");
    for variable in [None, Some("greedisgood9999")] {
        let shown = said(&finish(perilune().envs(variable.map(|token| ("PERILUNE_META_TOKEN", token))).args(args)));
        assert!(shown.contains("?token=greedisgood9999\" "), "{shown}");
    }
    refused(&run(["vaults", "add", "acme", "v", "--dir", "relative"]), "whole path");
    refused(&run(["vaults", "add", "acme", "v", "--bucket", "b", "--endpoint", "e"]), "--ak");
}

/// A master by itself that says all it can say.
struct Master {
    process: Process,
    http: String,
    log: PathBuf,
}

impl Master {
    fn start(dir: &Path, name: &str, flags: &[&str]) -> Self {
        let (data, ready, log) = (dir.join(name), dir.join(format!("{name}.ready")), dir.join(format!("{name}.log")));
        let mut command = perilune();
        command.args(["--log", "trace", "master", "--rpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--snapshot-entries", "8"]).args(flags);
        command.env("PERILUNE_META_TOKEN", "greedisgood9999x").arg("--data-dir").arg(&data).arg("--ready-file").arg(&ready);
        command.stdout(File::create(log.with_extension("out")).unwrap()).stderr(File::create(&log).unwrap());
        let process = Process(command.spawn().unwrap());
        let addresses: Value = wait_for("the master", || serde_json::from_slice(&fs::read(&ready).ok()?).ok());
        Self { process, http: addresses["http"][0].as_str().unwrap().to_owned(), log }
    }

    fn ask(&self, call: &str, body: &Value) -> (u16, String) {
        send("PUT", &format!("http://{}/MetaService/http/{call}?token=greedisgood9999x", self.http), &body.to_string())
    }
}

#[test]
fn no_secret_is_anywhere_but_where_it_is_asked_for() {
    let (dir, s3) = (tempfile::tempdir().unwrap(), S3d::start());
    let master = Master::start(dir.path(), "first", &[]);
    let obj = json!({"ak": AK, "sk": SK, "bucket": BUCKET, "prefix": "kv", "endpoint": s3.url(), "external_endpoint": s3.url(), "region": "r",
        "provider": "S3", "user_id": "u1"});
    let ram = |sk: &str| json!({"user_id": "ram", "ak": "AKIARAM", "sk": sk});
    let both = |sk: &str| json!({"instance_id": "acme", "internal_bucket_user": [{"user_id": "u1", "ak": OTHER.0, "sk": sk}], "ram_user": ram("RAMSECRET2")});
    let unique = "1:acme:x";
    let mut said = Vec::new();
    let mut asked = |status: u16, call: &str, body: Value| {
        let (is, text) = master.ask(call, &body);
        assert_eq!(is, status, "{call} {body}: {text}");
        said.push(text);
    };
    asked(200, "create_instance", json!({"instance_id": "acme", "obj_info": obj, "ram_user": ram("RAMSECRET1")}));
    asked(409, "create_instance", json!({"instance_id": "acme", "obj_info": obj, "ram_user": ram("RAMSECRET1")}));
    asked(200, "show_storage_vaults", json!({"cloud_unique_id": unique}));
    asked(200, "update_ak_sk", both(OTHER.1));
    asked(200, "show_storage_vaults", json!({"cloud_unique_id": unique}));
    asked(400, "update_ak_sk", both(OTHER.1));
    asked(400, "update_ak_sk", json!({"instance_id": "acme", "ram_user": {"sk": SK}}));
    asked(400, "update_ak_sk", json!({"instance_id": "acme", "internal_bucket_user": [{"sk": SK, "ak": AK}]}));
    asked(400, "legacy_update_ak_sk", json!({"cloud_unique_id": unique, "obj": {"sk": SK}}));
    asked(400, "add_obj_info", json!({"cloud_unique_id": unique, "obj": {"sk": SK, "prefix": "x".repeat(2000)}}));
    asked(400, "add_obj_info", json!({"cloud_unique_id": unique, "obj": {"sk": [SK]}}));
    asked(400, "add_obj_info", json!({"cloud_unique_id": unique, "obj": SK}));
    for n in 0..20 {
        asked(200, "rename_instance", json!({"instance_id": "acme", "name": format!("name{n}")}));
    }
    said.push(
        send(
            "PUT",
            &format!("http://{}/MetaService/http/update_ak_sk?token=greedisgood9999x", master.http),
            &format!("{{'sk': '{SK}' oops}}"),
        )
        .1,
    );
    said.push(send("GET", &format!("http://{}/MetaService/http/get_instance?token=greedisgood9999x&instance_id=acme", master.http), "").1);
    said.push(send("GET", &format!("http://{}/metrics", master.http), "").1);
    let told = master.ask("get_obj_store_info", &json!({"cloud_unique_id": unique})).1;
    assert!(told.contains(OTHER.1) && told.contains(OTHER.0) && !told.contains("RAMSECRET"), "{told}");

    let dump = dir.path().join("dump");
    let answer = ureq::get(format!("http://{}/snapshot/dump", master.http)).call().unwrap();
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut answer.into_body().into_reader(), &mut bytes).unwrap();
    fs::write(&dump, bytes).unwrap();
    master.process.signal(Signal::SIGTERM);
    let mut process = master.process;
    wait_for("the master to stop", || process.0.try_wait().unwrap());
    for secret in [SK, OTHER.1, "RAMSECRET1", "RAMSECRET2"] {
        assert!(!holds(dir.path(), secret), "{secret} is in clear in a file");
        assert!(!said.iter().any(|text| text.contains(secret)), "{secret} was told: {said:?}");
    }
    assert!(has(&fs::read(&master.log).unwrap(), "the directory changes"), "it said all it can say");
    assert!(has(&fs::read(&dump).unwrap(), "acme"));

    // What was dumped opens with the key of the masters, and with no other.
    let (key, dump) = (dir.path().join("first/master/secret.key"), dump.to_str().unwrap().to_owned());
    let opened = Master::start(dir.path(), "second", &["--restore", &dump, "--secret-key-file", key.to_str().unwrap()]);
    assert_eq!(opened.ask("get_obj_store_info", &json!({"cloud_unique_id": unique})).1, told);
    let without = Master::start(dir.path(), "third", &["--restore", &dump]);
    let (status, why) = without.ask("get_obj_store_info", &json!({"cloud_unique_id": unique}));
    assert!(status == 500 && why.contains("secret key file"), "{why}");
    let shown = without.ask("show_storage_vaults", &json!({"cloud_unique_id": unique}));
    assert!(shown.0 == 200 && shown.1.contains("secret key file"), "{}", shown.1);
    let wrong = dir.path().join("wrong");
    fs::write(&wrong, "no key").unwrap();
    let refused_to_start =
        run(["master", "--data-dir", dir.path().join("fourth").to_str().unwrap(), "--secret-key-file", wrong.to_str().unwrap()]);
    refused(&refused_to_start, "--secret-key-file");
}

const GROUP: u8 = 24;

#[test]
fn several_masters_need_one_key_and_whoever_leads_opens_what_another_sealed() {
    let (dir, s3) = (tempfile::tempdir().unwrap(), S3d::start());
    let write = |name: &str, text: &str| {
        let file = dir.path().join(name);
        fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let (token, key) = (write("token", "a-token-of-this-test"), write("key", &"0123456789abcdef".repeat(4)));
    let ask = |args: &[&str]| {
        let http = at(GROUP, 30_000 + leader(GROUP));
        let args = ["vaults"].iter().chain(args).copied().chain(["--http", &http, "--meta-token-file", &token]);
        finish(perilune().env("PERILUNE_VAULT_SK", SK).args(args))
    };
    let begin = |flags: &[&str]| -> Vec<Process> {
        let flags = [&["--meta-token-file", &token], flags].concat();
        (1..=3).map(|nth| master_with(GROUP, dir.path(), nth, &flags)).collect()
    };
    let masters = begin(&[]);
    refused(&ask(&bucket(&s3, "main", "kv", AK)), "--secret-key-file");
    drop(masters);
    let mut masters = begin(&["--secret-key-file", &key]);
    let added = ask(&bucket(&s3, "main", "kv", AK));
    assert!(added.status.success(), "{}", said(&added));
    let killed = leader(GROUP);
    drop(masters.remove(killed - 1));
    wait_for("another to lead", || (leader(GROUP) != killed).then_some(()));
    let shown = wait_for("the vaults", || Some(ask(&["list", "default", "--json"])).filter(|output| output.status.success()));
    assert!(said(&shown).contains(r#""ready":true"#), "{}", said(&shown));
}

//! A store that asks for a token: from a file or the environment, never from a command line.

use crate::group::{Process, Shared};
use crate::harness::{Dev, finish, perilune, run, said, wait_for};
use std::process::{Output, Stdio};
use tempfile::TempDir;

/// A store that asks for a token, and who has it.
struct Guarded {
    dir: TempDir,
    /// The file that the token is in.
    path: String,
    dev: Dev,
}

impl Guarded {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token").to_str().unwrap().to_owned();
        std::fs::write(&path, "0123456789abcdef0123456789abcdef\n").unwrap();
        let dev = Dev::start_with(dir.path(), &["--segment-size", "16MiB", "--admin-token-file", &path]);
        Self { dir, path, dev }
    }

    /// What a command says to who has the token.
    fn admin(&self, args: &[&str]) -> String {
        let output = run(args.iter().copied().chain(["--admin-token-file", &self.path]));
        assert!(output.status.success(), "{args:?}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// A node by a token of its tenant, with where its REST is.
    fn node(&self, token: &str) -> (Process, Shared, String) {
        let (memory, ready) = (Shared(self.dir.path().join("node")), self.dir.path().join("ready-node"));
        let mut store = perilune();
        store.args(["store", "--master", &self.dev.rpc, "--http", "127.0.0.1:0", "--segment-size", "16MiB"]);
        store.env("PERILUNE_ADMIN_TOKEN", token).arg("--data-dir").arg(&memory.0).arg("--ready-file").arg(&ready).stdout(Stdio::null());
        let process = Process(store.spawn().unwrap());
        wait_for("the memory to be lent", || ready.exists().then_some(()));
        let addresses: serde_json::Value = serde_json::from_slice(&std::fs::read(&ready).unwrap()).unwrap();
        let rest = addresses["rest"].as_str().unwrap_or_else(|| panic!("{addresses}")).to_owned();
        (process, memory, rest)
    }
}

#[test]
fn commands_bring_the_token_from_a_file_or_the_environment() {
    let Guarded { dir, path, dev } = Guarded::start();
    let path = path.as_str();
    let value = dir.path().join("value");
    std::fs::write(&value, "hello").unwrap();

    let refused = dev.run(&["put", "k", value.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("--admin-token-file"), "{}", said(&refused));
    dev.ok(&["put", "k", value.to_str().unwrap(), "--admin-token-file", path]);
    let got = finish(perilune().args(["get", "k", "--master", &dev.rpc]).env("PERILUNE_ADMIN_TOKEN", "0123456789abcdef0123456789abcdef"));
    assert!(got.status.success(), "{}", said(&got));
    assert_eq!(got.stdout, b"hello");
    let wrong = finish(perilune().args(["get", "k", "--master", &dev.rpc]).env("PERILUNE_ADMIN_TOKEN", "0123456789abcdef0123456789abcdeF"));
    assert_eq!(wrong.status.code(), Some(1));
    assert!(!said(&wrong).contains("0123456789abcdef"), "no secret is shown: {}", said(&wrong));

    // Both faces of both listeners: the master's and the store node's.
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    for host in [&dev.http, &dev.rest] {
        for route in ["/metrics", "/metrics/node", "/api/get/k", "/get_all_keys", "/nowhere"] {
            assert_eq!(agent.get(format!("http://{host}{route}")).call().unwrap().status(), 401, "{route}");
        }
        assert_eq!(agent.get(format!("http://{host}/health")).call().unwrap().status(), 200);
        let foreign = agent.get(format!("http://{host}/api/get/k")).header("Origin", "http://example.com").call().unwrap();
        assert_eq!(foreign.status(), 403, "a page of somebody else");
        let mut got = agent
            .get(format!("http://{host}/api/get/k"))
            .header("Authorization", "Bearer 0123456789abcdef0123456789abcdef")
            .call()
            .unwrap();
        assert_eq!(got.body_mut().read_to_vec().unwrap(), b"hello");
    }
}

#[test]
fn what_is_no_token_is_refused_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "short\n").unwrap();
    let path = file.to_str().unwrap();
    for args in [["master", "--admin-token-file", path], ["store", "--admin-token-file", path], ["ls", "--admin-token-file", "/no/such"]] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains(args[2]), "{}", said(&output));
    }
    let output = run(["stat", "--admin-token", "0123456789abcdef"]);
    assert_eq!(output.status.code(), Some(2), "a command line is no place for a secret");
}

#[test]
fn the_token_of_a_tenant_opens_what_is_the_tenants() {
    let guarded = Guarded::start();
    let dev = &guarded.dev;
    guarded.admin(&["tenants", "create", "acme", "--http", &dev.http]);
    let made = |role: &str| guarded.admin(&["tenants", "token", "acme", "--role", role]);
    let by = |token: &str, args: &[&str]| -> Output {
        finish(perilune().args(args).args(["--master", &dev.rpc]).env("PERILUNE_ADMIN_TOKEN", token))
    };

    let _node = guarded.node(&made("node"));

    let value = guarded.dir.path().join("value");
    std::fs::write(&value, "hello").unwrap();
    let put = ["put", "k", value.to_str().unwrap()];
    let (reader, writer) = (made("reader"), made("writer"));
    let refused = |output: &Output, why: &str| assert!(!output.status.success() && said(output).contains(why), "{why}: {}", said(output));
    refused(&by(&reader, &put), "the token of a reader of tenant acme does not allow this");
    assert!(by(&writer, &put).status.success());
    assert_eq!(by(&reader, &["get", "k"]).stdout, b"hello");
    refused(&by(&writer, &["get", "k", "--tenant", "default"]), "the token is one of tenant acme");
    refused(&by(&writer, &["get", "k", "--user", "jack"]), "the token is one of tenant acme");
    refused(&by(&writer, &["segments"]), "does not allow this");
    refused(&by(&writer.replace("acme", "default"), &["get", "k"]), "UNAUTHORIZED");
    refused(&run(["get", "k", "--master", &dev.rpc, "--admin-token-file", &guarded.path]), "no such object");
}

/// Over HTTP, too: of the masters and of a node of its tenant.
#[test]
fn the_token_of_a_tenant_opens_http_as_far_as_its_role_goes() {
    let guarded = Guarded::start();
    let dev = &guarded.dev;
    for tenant in ["acme", "other"] {
        guarded.admin(&["tenants", "create", tenant, "--http", &dev.http]);
    }
    let made = |tenant: &str, role: &str| guarded.admin(&["tenants", "token", tenant, "--role", role]);
    let node = guarded.node(&made("acme", "node"));
    let rest = node.2.as_str();

    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let bearer = |token: &str| format!("Bearer {token}");
    let get = |host: &str, route: &str, token: &str| {
        let mut answer = agent.get(format!("http://{host}{route}")).header("Authorization", bearer(token)).call().unwrap();
        (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap())
    };
    let delete = |host: &str, route: &str, token: &str| {
        agent.delete(format!("http://{host}{route}")).header("Authorization", bearer(token)).call().unwrap().status().as_u16()
    };
    let put = |token: &str| {
        let body = r#"{"key": "k", "value": "hello"}"#;
        let request = agent.put(format!("http://{rest}/api/put")).header("Authorization", bearer(token));
        request.header("Content-Type", "application/json").send(body).unwrap().status().as_u16()
    };
    let (reader, writer, stranger) = (made("acme", "reader"), made("acme", "writer"), made("other", "writer"));
    let forged = reader.replace("reader", "writer");

    // The node: what a role may, for its tenant only.
    assert_eq!((put(&reader), put(&forged), put(&stranger)), (403, 401, 403));
    assert_eq!(put(&writer), 200);
    assert_eq!(get(rest, "/api/get/k", &reader), (200, "hello".into()));
    assert_eq!(get(rest, "/api/exist/k", &reader).0, 200);
    assert_eq!((get(rest, "/api/get/k", &stranger).0, get(rest, "/api/get/k", &forged).0), (403, 401));
    assert_eq!(get(rest, "/metrics/node", &writer).0, 403, "the node's own");
    assert_eq!(delete(rest, "/api/remove/none", &reader), 403);

    // The masters: where the keys of its tenant are.
    assert_eq!(get(&dev.http, "/query_key?key=k", &reader).0, 200);
    assert_eq!(get(&dev.http, "/query_key?key=k&tenant_id=acme", &reader).0, 200);
    assert_eq!(get(&dev.http, "/query_key?key=k&tenant_id=default", &reader).0, 403);
    assert_eq!(get(&dev.http, "/query_key?key=k", &stranger).0, 404, "the other tenant has no such key");
    assert_eq!(get(&dev.http, "/get_all_keys", &reader), (200, "k\n".into()));
    for route in ["/get_all_segments", "/metrics", "/MetaService/http/get_instance?instance_id=acme", "/stat"] {
        assert_ne!(get(&dev.http, route, &writer).0, 200, "{route}");
    }
    assert_eq!(get(&dev.http, "/query_key?key=k", &forged).0, 401);

    // What is revoked is refused within seconds, by both.
    let set = agent.post(format!("http://{}/config/set", dev.http)).header("Authorization", bearer("0123456789abcdef0123456789abcdef"));
    assert_eq!(set.send(r#"{"key": "token_generation.acme", "value": "1"}"#).unwrap().status(), 200);
    wait_for("the tokens to be refused", || {
        (get(rest, "/api/get/k", &reader).0 == 401 && get(&dev.http, "/query_key?key=k", &reader).0 == 401).then_some(())
    });
    let renewed = guarded.admin(&["tenants", "token", "acme", "--role", "writer", "--generation", "1"]);
    assert_eq!(get(&dev.http, "/query_key?key=k", &renewed).0, 200);
}

//! C programs, compiled as C's own users would with every warning an error, against a running master and store node.

use perilune_client::{NodeConfig, StoreNode};
use perilune_master::{Master, MasterConfig};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

#[test]
fn the_store_does_what_its_header_says() {
    let dir = tempfile::tempdir().unwrap();
    let config =
        MasterConfig { data_dir: dir.path().join("master"), rpc: ([127, 0, 0, 1], 0).into(), http: Vec::new(), ..MasterConfig::default() };
    let master = Master::start(config).unwrap();
    let masters = master.rpc_addr().to_string();
    let node = StoreNode::start(NodeConfig {
        masters: vec![masters.clone()],
        data_dir: dir.path().join("node"),
        segment_size: 32 << 20,
        rest: None,
        ..NodeConfig::default()
    })
    .unwrap();
    let segment = node.segments()[0].id.to_string();
    // A port that was free a moment ago: nobody answers there.
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();

    let program = compile("store", dir.path(), Link::Shared);
    let out = Command::new(program).args([&masters, &segment, &dead]).output().unwrap();
    node.retire().unwrap();
    master.stop();
    expect(&out, "store: all as promised\n");
}

#[test]
fn the_engine_does_what_its_header_says() {
    let dir = tempfile::tempdir().unwrap();
    let object = Object::new();
    for link in [Link::Shared, Link::Static] {
        let program = compile("engine", dir.path(), link);
        let out = Command::new(program).arg(dir.path().join("socket")).arg(&object.name).output().unwrap();
        expect(&out, "engine: all as promised\n");
    }
}

/// A shared memory object of 8192 bytes that begins with `kept`.
struct Object {
    name: String,
    path: PathBuf,
}

impl Object {
    fn new() -> Self {
        let name = format!("perilune_c_test_{}", std::process::id());
        let path = Path::new("/dev/shm").join(&name);
        let mut bytes = b"kept".to_vec();
        bytes.resize(8192, 0);
        std::fs::write(&path, bytes).unwrap();
        Self { name, path }
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        // The test is over either way; a leftover is only litter.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[derive(Clone, Copy)]
enum Link {
    Shared,
    Static,
}

/// Compiles `tests/c/<name>.c` against the header and the library that cargo built for this very test.
fn compile(name: &str, into: &Path, link: Link) -> PathBuf {
    let ffi = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = into.join(name);
    let here = std::env::current_exe().unwrap();
    let libraries = here.parent().unwrap();
    let mut cc = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
    cc.args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-g", "-I"]).arg(ffi.join("include"));
    cc.arg(ffi.join(format!("tests/c/{name}.c"))).arg("-o").arg(&program);
    match link {
        Link::Shared => cc.arg("-L").arg(libraries).arg("-lperilune").arg(format!("-Wl,-rpath,{}", libraries.display())),
        Link::Static => cc.arg(libraries.join("libperilune.a")).args(["-lpthread", "-ldl", "-lm"]),
    };
    let out = cc.output().expect("a C compiler: scripts/setup installs one");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    program
}

fn expect(out: &Output, said: &str) {
    let text = String::from_utf8_lossy;
    assert!(out.status.success() && text(&out.stdout) == said, "{}: {}{}", out.status, text(&out.stdout), text(&out.stderr));
}

//! `verify` is what CI runs, in its order, and writes nothing into the tree: what was reviewed stays as reviewed. `fix` writes.

use crate::{Problems, graph, headers, tidy};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// A step: a name, and what it finds wrong.
type Step<'a> = (&'a str, Box<dyn Fn() -> Problems + 'a>);

/// The docs are for readers of the code and show private items, so links to them work.
const DOC_FLAGS: &str = "-D warnings -A rustdoc::private_intra_doc_links";

/// Runs every check in order, cheapest first, and stops at the first that fails; says how long each took.
pub fn verify(root: &Path) -> Problems {
    let cargo = |words: &'static str| -> Box<dyn Fn() -> Problems + '_> { Box::new(move || run_cargo(root, words, &[])) };
    let strict_docs = |words: &'static str| -> Box<dyn Fn() -> Problems + '_> {
        Box::new(move || run_cargo(root, words, &[("RUSTDOCFLAGS", DOC_FLAGS)]))
    };
    let mut steps: Vec<Step<'_>> = vec![
        ("format", cargo("fmt --all --check")),
        ("format of s3d", cargo("fmt --check --manifest-path scripts/s3d/Cargo.toml")),
        ("tidy", Box::new(|| tidy::check(root))),
        ("graph", Box::new(|| graph::check(root))),
        ("headers", Box::new(|| headers::check(root))),
        ("clippy", cargo("clippy --workspace --all-targets -- -D warnings")),
        ("without rdma", cargo("clippy --workspace --no-default-features -- -D warnings")),
        // The binary and the C library are both called perilune; documented together they would overwrite each other.
        ("docs of libraries", strict_docs("doc --workspace --lib --no-deps --document-private-items")),
        ("docs of binaries", strict_docs("doc --workspace --bins --no-deps --document-private-items")),
    ];
    steps.push(("test server", Box::new(|| test_server(root))));
    if has_nextest() {
        steps.push(("tests", cargo("nextest run --profile ci --workspace --no-fail-fast")));
        steps.push(("doc tests", cargo("test --workspace --doc --quiet")));
    } else {
        steps.push(("tests", cargo("test --workspace --no-fail-fast")));
    }
    // The tests have just built it, and alone it would be built anew, with fewer features of its libraries.
    steps.push(("openapi", Box::new(|| run_script(root, "scripts/openapi-check", &["--examples", "2", "--built"]))));
    steps.push(("simulation", Box::new(|| both_halves(root))));
    steps.push(("planted defects", Box::new(|| simulate(root, &["--planted"]))));
    steps.push(("loom", Box::new(|| every_interleaving(root))));
    steps.push(("rdma", Box::new(|| in_the_guest(root))));
    run(&steps)
}

/// Changefeeds to Kafka, against the cluster that librdkafka pretends to be. Builds librdkafka the first time.
pub fn kafka(root: &Path) -> Problems {
    let cargo = |words: &'static str| -> Box<dyn Fn() -> Problems + '_> { Box::new(move || run_cargo(root, words, &[])) };
    run(&[
        ("clippy", cargo("clippy --package perilune --package perilune-master --features kafka --all-targets -- -D warnings")),
        (
            "tests",
            cargo(
                "test --package perilune-master --features kafka --lib --test feeds -- kafka topic open_protocol a_key_stays what_cannot_be",
            ),
        ),
        ("killed leaders", cargo("test --package perilune --features kafka --test cli -- kafka::")),
    ])
}

/// The lock-free parts once more, under loom, which tries every order of their steps. In a target directory of its own, since the
/// flag would have all the others built anew.
fn every_interleaving(root: &Path) -> Problems {
    let flags = [("RUSTFLAGS", "--cfg loom"), ("CARGO_TARGET_DIR", &target_of(root, "loom"))];
    run_cargo(root, "test --package perilune-stdx --lib --quiet", &flags)
}

/// The S3 server that tests start, which is no part of the workspace; where `client/vault/tests` looks for it.
fn test_server(root: &Path) -> Problems {
    run_cargo(root, "build --locked --manifest-path scripts/s3d/Cargo.toml", &[("CARGO_TARGET_DIR", &target_of(root, "s3d"))])
}

/// A target directory of its own, inside the usual one.
fn target_of(root: &Path, name: &str) -> String {
    let usual = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into);
    usual.join(name).to_string_lossy().into_owned()
}

/// 300 seeds of the simulation, on two cores.
fn both_halves(root: &Path) -> Problems {
    std::thread::scope(|scope| {
        let first = scope.spawn(|| simulate(root, &["--seeds", "0..150"]));
        let mut problems = simulate(root, &["--seeds", "150..300"]);
        problems.extend(first.join().unwrap_or_else(|_| vec!["the first half panicked".into()]));
        problems
    })
}

/// The control plane in one thread, from seeds; `docs/simulation.md`.
fn simulate(root: &Path, words: &[&str]) -> Problems {
    run_script(root, "scripts/simulate", words)
}

/// The tests that need RDMA devices, in a guest that has some; without the long ones.
fn in_the_guest(root: &Path) -> Problems {
    run_script(root, "scripts/rdma-test", &[])
}

fn run_script(root: &Path, script: &str, words: &[&str]) -> Problems {
    match Command::new(root.join(script)).args(words).current_dir(root).status() {
        Ok(status) if status.success() => Problems::new(),
        Ok(status) => vec![format!("`{script}` failed ({status})")],
        Err(e) => vec![format!("`{script}` cannot be started: {e}")],
    }
}

/// Puts right what a machine can put right.
pub fn fix(root: &Path) -> Problems {
    let mut problems = headers::write(root);
    problems.extend(run_cargo(root, "fmt --all", &[]));
    problems.extend(run_cargo(root, "fmt --manifest-path scripts/s3d/Cargo.toml", &[]));
    problems
}

fn run(steps: &[Step<'_>]) -> Problems {
    let mut times: Vec<(&str, Duration)> = Vec::new();
    for (name, step) in steps {
        eprintln!("== {name}");
        let start = Instant::now();
        let problems = step();
        times.push((name, start.elapsed()));
        if !problems.is_empty() {
            summarize(&times, Some(name));
            return problems;
        }
    }
    summarize(&times, None);
    Problems::new()
}

fn summarize(times: &[(&str, Duration)], failed: Option<&str>) {
    eprintln!();
    for (name, took) in times {
        let outcome = if failed == Some(name) { "FAILED" } else { "ok" };
        eprintln!("{name:<18} {:>7.1} s  {outcome}", took.as_secs_f64());
    }
    eprintln!("{:<18} {:>7.1} s", "together", times.iter().map(|(_, took)| took.as_secs_f64()).sum::<f64>());
}

fn has_nextest() -> bool {
    // `output` keeps what it prints out of the report.
    Command::new("cargo-nextest").args(["nextest", "--version"]).output().is_ok_and(|out| out.status.success())
}

fn run_cargo(root: &Path, words: &str, environment: &[(&str, &str)]) -> Problems {
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(words.split(' '))
        .envs(environment.iter().copied())
        .current_dir(root)
        .status();
    match status {
        Ok(status) if status.success() => Problems::new(),
        Ok(status) => vec![format!("`cargo {words}` failed ({status})")],
        Err(e) => vec![format!("`cargo {words}` cannot be started: {e}")],
    }
}

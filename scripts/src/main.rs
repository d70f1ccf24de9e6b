//! `cargo xtask`: every chore by name.
#![forbid(unsafe_code)]

use perilune_scripts::{Problems, graph, headers, root, tidy, verify};
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask CHORE

  verify            everything CI checks, in its order; writes nothing into the tree
  kafka             checks and tests changefeeds to Kafka, which need a build feature and are no part of `verify`
  fix               what a machine can put right: formatting and the C header
  tidy              house rules that no lint knows: room sizes, file headers, where unsafe may be
  graph             the arrows between crates are those of docs/architecture.md
  headers           writes ffi/include/perilune.h from ffi/src
  headers --check   says whether it is current";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let root = root();
    let problems = match words.as_slice() {
        ["verify"] => verify::verify(&root),
        ["kafka"] => verify::kafka(&root),
        ["fix"] => verify::fix(&root),
        ["tidy"] => tidy::check(&root),
        ["graph"] => graph::check(&root),
        ["headers"] => headers::write(&root),
        ["headers", "--check"] => headers::check(&root),
        ["-h" | "--help" | "help"] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    report(&problems)
}

fn report(problems: &Problems) -> ExitCode {
    for problem in problems {
        eprintln!("{problem}");
    }
    if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

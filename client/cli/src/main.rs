//! The one binary: perilune master, store, dev, put, get and the rest.
#![forbid(unsafe_code)]

mod command;
mod failure;
mod output;
mod serve;
mod settings;
mod values;

use std::process::ExitCode;

/// Knows what it has given out.
#[cfg(feature = "heap")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = match settings::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(failure) => return failure.report(false),
    };
    match output::log_to_stderr(&cli.global).and_then(|()| cli.command.run(&cli.global)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(cli.global.json),
    }
}

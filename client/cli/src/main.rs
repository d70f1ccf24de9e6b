//! The one binary: perilune master, store, dev, put, get and the rest.
#![forbid(unsafe_code)]

mod command;
mod failure;
mod output;
mod serve;
mod settings;
mod values;

use std::process::ExitCode;

fn main() -> ExitCode {
    let done = settings::parse(std::env::args_os()).and_then(|cli| {
        output::log_to_stderr(&cli.global)?;
        cli.command.run(&cli.global)
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

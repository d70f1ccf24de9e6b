//! Why a command did not do its work, and the exit code that says so: 1 failed, 2 usage.

use perilune_protocol::Fault;
use serde_json::json;
use std::fmt;
use std::process::ExitCode;

/// What ends a command early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It was tried and did not succeed.
    Failed(String),
    /// The store said no.
    Refused(Fault),
    /// What was asked for makes no sense; nothing was tried.
    Usage(String),
    /// The parser's own words: help, version, or what is wrong with the arguments.
    Arguments(clap::Error),
    /// The output already said it; only the exit code is left.
    Said,
    /// Whoever read our output has gone (`perilune ls | head`).
    NobodyListens,
}

impl Failure {
    /// A failure with what was being done in front of it.
    pub(crate) fn of(doing: impl fmt::Display, cause: impl fmt::Display) -> Self {
        Self::Failed(format!("{doing}: {cause}"))
    }

    /// Prints the failure to stderr, as one line of JSON where that was asked for, and gives its exit code.
    pub(crate) fn report(self, json: bool) -> ExitCode {
        match self {
            Self::Refused(fault) if json => {
                eprintln!("{}", json!({"error": fault.message, "code": fault.code.number(), "name": fault.code.as_str()}));
                ExitCode::from(1)
            }
            Self::Refused(fault) => Self::Failed(fault.to_string()).report(false),
            Self::Failed(text) if json => {
                eprintln!("{}", json!({"error": text}));
                ExitCode::from(1)
            }
            Self::Failed(text) => {
                eprintln!("perilune: {text}");
                ExitCode::from(1)
            }
            Self::Usage(text) => {
                eprintln!("perilune: {text}\nTry `perilune --help`.");
                ExitCode::from(2)
            }
            Self::Arguments(error) => {
                // Nothing can be done about an output that is closed.
                let _ = error.print();
                ExitCode::from(if error.use_stderr() { 2 } else { 0 })
            }
            Self::Said => ExitCode::from(1),
            Self::NobodyListens => ExitCode::SUCCESS,
        }
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Refused(fault)
    }
}

impl From<clap::Error> for Failure {
    fn from(error: clap::Error) -> Self {
        Self::Arguments(error)
    }
}

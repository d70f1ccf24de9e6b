//! `perilune completions`: what a shell must know to complete our command lines.

use crate::failure::Failure;
use crate::{output, settings};
use clap_complete::Shell;

/// Print the completions of a shell: `source <(perilune completions bash)`
#[derive(clap::Args)]
pub(crate) struct Completions {
    /// Which shell
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut settings::table(), "perilune", &mut script);
        output::bytes(&script)
    }
}

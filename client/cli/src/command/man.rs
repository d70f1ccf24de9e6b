//! `perilune man`: manual pages, made from the table of flags.

use crate::failure::Failure;
use crate::{output, settings};
use std::path::{Path, PathBuf};

/// Print the manual page, or write one page per command into a directory
#[derive(clap::Args)]
pub(crate) struct Man {
    /// Write perilune.1, perilune-put.1 and the others here; the directory is made if it is missing
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Man {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let mut table = settings::table();
        table.build();
        let Some(dir) = self.out else { return output::bytes(&page(&table, "perilune")?) };
        std::fs::create_dir_all(&dir).map_err(|e| Failure::of(format_args!("making {}", dir.display()), e))?;
        let written = write_pages(&dir, &table, "perilune")?;
        output::line(format_args!("{written} pages are in {}", dir.display()))
    }
}

fn page(command: &clap::Command, name: &str) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone().display_name(name).name(name.to_owned()))
        .render(&mut text)
        .map_err(|e| Failure::of(format_args!("rendering {name}.1"), e))?;
    Ok(text)
}

fn write_pages(dir: &Path, command: &clap::Command, name: &str) -> Result<usize, Failure> {
    let file = dir.join(format!("{name}.1"));
    std::fs::write(&file, page(command, name)?).map_err(|e| Failure::of(format_args!("writing {}", file.display()), e))?;
    let mut written = 1;
    for sub in command.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help") {
        written += write_pages(dir, sub, &format!("{name}-{}", sub.get_name()))?;
    }
    Ok(written)
}

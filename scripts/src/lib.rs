//! The project's chores, one file each. `cargo xtask NAME` runs them; `tidy`, `graph` and `headers` also run as tests.
#![forbid(unsafe_code)]

pub mod graph;
pub mod headers;
pub mod source;
pub mod tidy;
pub mod verify;

use std::path::{Path, PathBuf};

/// What a chore found: one sentence per problem, empty when all is well.
pub type Problems = Vec<String>;

/// The top folder of the repository.
pub fn root() -> PathBuf {
    // The crate lies one folder below the top.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

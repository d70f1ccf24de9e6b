//! Hand-written lock-free parts that know nothing of the domain.
//!
//! Every file ends with its tests: an oracle where there is something to compare with, and a concurrent model that runs on real threads in
//! every `cargo test` and exhaustively under loom (`RUSTFLAGS="--cfg loom" cargo test -p perilune-stdx --lib`, in a target directory of its own).

pub mod bitmap;
pub mod frame;
pub mod lease;
pub mod primitive;
pub mod set;
pub mod tally;

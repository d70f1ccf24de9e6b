//! The C face: opaque handles, plain structs, integer faults. The header is `include/perilune.h`.
//!
//! ```text
//! C ── store.rs, store_batch.rs ──┐  each function: look the handle up, read the arguments, call, write the results
//!   ── engine.rs ───────────┤
//!   ── transfer.rs ─────────┴─ border.rs (raw pointers become slices, panics become faults)
//!                              handle.rs (handles become values), fault.rs (errors become numbers and a sentence)
//! ```
//! Nothing here decides anything; the store is `perilune_client`, the engine `perilune_transfer_engine`.
//!
//! What every function of this crate asks of its caller: a pointer is null or valid for the length that goes with it, memory that is
//! written to is used by nobody else meanwhile, and text ends in a zero byte. Handles need no care: see `handle.rs`.
#![expect(clippy::missing_safety_doc, reason = "one contract for all, above and in the header")]

mod border;
mod buffer;
mod engine;
mod fault;
mod handle;
mod store;
mod store_batch;
mod transfer;

pub use buffer::*;
pub use engine::*;
pub use fault::*;
pub use store::*;
pub use store_batch::*;
pub use transfer::*;

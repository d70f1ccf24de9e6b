//! The cold tier: objects and checkpoints in S3 buckets and in directories.
//!
//! ```text
//! Vault ──► attempts (deadline, pauses, gate) ──► place ──► s3 or dir
//!   └► writing, object (layout, key) ──► upload ──┘
//! ```
//!
//! Calls block and belong on threads that may wait; the requests themselves run on two threads of this crate. Whoever must not wait for a
//! vault asks from another thread. A vault is opened with one set of credentials: for newer ones open it again and drop this one, whose
//! requests end by themselves.
#![forbid(unsafe_code)]

mod access;
mod attempts;
mod begun;
mod claim;
mod dir;
mod fault;
mod gate;
mod key;
mod layout;
mod lent;
mod object;
mod place;
mod pool;
mod runtime;
mod s3;
mod seal;
mod shelf;
mod stretch;
mod target;
mod upload;
mod vault;
mod writing;

pub use access::Secrets;
pub use attempts::BYTES_PER_MS;
pub use claim::{CLAIM, CLAIMS, CLAIMS_MAX, Claimed, claim_path};
pub use fault::{Class, VaultFault, Vaulted};
pub use gate::Limits;
pub use key::Key;
pub use object::{ColdObject, Sink};
pub use place::{Got, Listed};
pub use s3::provide_tls;
pub use seal::{Bound, Plain, Sealer};
pub use shelf::Shelf;
pub use target::{Keys, S3Target, Target};
pub use upload::WHOLE_BYTES;
pub use vault::{Options, Vault};
pub use writing::Source;

//! Keys and what they stand for.

pub mod departed;
pub mod index;
pub mod key;
pub mod limbo;
pub mod object;
pub mod puts;
pub mod recency;

pub use index::{ObjectIndex, PapayaIndex, Published};
pub use key::{Key, KeyRef};
pub use object::{Object, Replica};

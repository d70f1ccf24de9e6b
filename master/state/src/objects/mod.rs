//! Keys and what they stand for.

pub mod departed;
pub mod few;
pub mod index;
pub mod key;
pub mod limbo;
pub mod object;
pub mod puts;
mod ranks;
pub mod recency;

pub use few::Few;
pub use index::{ObjectIndex, PapayaIndex, Published};
pub use key::{Key, KeyRef};
pub use object::{Object, Replica};

//! Reports: tables for people, latencies, and where a figure was taken.

mod latency;
mod median;
mod origin;
mod table;

pub use latency::{Latency, Percentiles};
pub use median::{median, range};
pub use origin::Origin;
pub use table::Table;

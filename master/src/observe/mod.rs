//! What the operator sees: counters, histograms, and the pages made of them.

mod calls;
mod count;
mod families;
mod metrics;
mod mooncake;
mod observed;
mod page;
mod process;
mod summary;

pub use calls::CallMetrics;
pub use metrics::Metrics;
pub use observed::{FeedUse, Observed, PoolUse, TenantUse, VaultUse};

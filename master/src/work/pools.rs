//! Empties what nodes lend that are registered no more, or are to leave. What is to be done is found anew in what there is, so it is taken up
//! where it was left, by whoever leads.

use crate::engine::{Engine, GRACE_MAX};
use perilune_protocol::Millis;
use perilune_state::Effect;

/// Does what is due.
pub(crate) async fn round(engine: &Engine) {
    // The job that empties what drains is done long before; whom nobody takes anything from is unmounted then all the same.
    let grace_ms = Millis::from(GRACE_MAX).0;
    for segment in engine.state().to_empty() {
        match engine.commit(&Effect::leaves(engine.owner_of(segment), segment, Some(grace_ms))).await {
            Ok(()) => tracing::info!(%segment, "its node may lend nothing more: the segment drains"),
            Err(fault) => tracing::warn!(%segment, "a segment whose node may lend nothing more does not drain yet: {fault}"),
        }
    }
    for (pool, node) in engine.state().emptied() {
        if let Err(unchanged) = engine.decide(&|known, now_ms| known.emptied(&pool, &node, now_ms)).await {
            tracing::warn!(node = node.unique_id, "that a node lends nothing any more is not recorded yet: {unchanged:?}");
        }
    }
}

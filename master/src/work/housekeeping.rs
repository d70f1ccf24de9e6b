//! Tends the group of masters, notices which store nodes fell silent, ends grace periods, discards abandoned puts, frees held space, forgets orphans.

use crate::engine::Engine;
use perilune_state::State;
use perilune_state::effect::RemoveReason;
use perilune_state::objects::Object;
use perilune_state::segments::Phase;
use perilune_state::settings::Switch;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

const EVERY: Duration = Duration::from_millis(100);
/// Orphans removed at once.
const ORPHANS_STEP: usize = 512;

/// The worker's thread. `handle` runs the few steps that are async.
pub(crate) fn run(engine: &Engine, handle: &tokio::runtime::Handle) {
    let mut unmounts = 0;
    while engine.reign.housekeeping.wait(EVERY) {
        let state = engine.state();
        engine.judge();
        let discarded = state.discard_abandoned(engine.now());
        if discarded.puts > 0 {
            tracing::info!(puts = discarded.puts, "discarded puts whose writers have gone");
            engine.metrics().puts_discarded(discarded.puts, discarded.bytes);
        }
        let freed = state.limbo.sweep(engine.now(), state.settings.on(Switch::BlobDelete));
        if freed.puts > 0 {
            engine.metrics().puts_released(freed.puts, freed.put_bytes);
        }
        if freed.bytes > 0 {
            engine.reign.evictor.bell.ring();
        }
        end_grace_periods(engine, handle);
        handle.block_on(engine.tend_group());
        let seen = state.segments.unmounts();
        if seen != unmounts {
            forget_orphans(engine);
            unmounts = seen;
        }
    }
}

fn end_grace_periods(engine: &Engine, handle: &tokio::runtime::Handle) {
    let table = engine.state().segments.table().clone();
    for segment in table.iter().filter(|s| s.phase() == Phase::Draining && s.drain_until() <= engine.now()) {
        if let Err(fault) = handle.block_on(engine.unmount_now(segment.id())) {
            tracing::error!(segment = %segment.id(), "a drained segment could not be unmounted: {fault}");
        }
    }
}

/// Removes objects whose every replica went with its segment.
fn forget_orphans(engine: &Engine) {
    let mut orphans: Vec<Arc<Object>> = Vec::new();
    engine.state().index.for_each(&mut |object| {
        if object.replicas.iter().all(|r| r.segment.phase() == Phase::Gone) {
            orphans.push(object.clone());
        }
        ControlFlow::Continue(())
    });
    for step in orphans.chunks(ORPHANS_STEP) {
        let proposals: Vec<_> = step.iter().map(|o| State::removal(o, RemoveReason::Orphaned)).map(|e| (engine.propose(&e), e)).collect();
        for (proposal, effect) in proposals {
            if let Err(fault) = engine.wait_stored(&effect, proposal) {
                tracing::error!("orphans could not be forgotten: {fault}");
                return;
            }
        }
    }
    if !orphans.is_empty() {
        tracing::info!(objects = orphans.len(), "forgot objects whose segments are gone");
    }
}

//! Tends the group of masters, notices which store nodes fell silent, ends grace periods, discards abandoned puts, frees held space, narrows
//! windows.

use crate::engine::Engine;
use perilune_state::segments::Phase;
use perilune_state::settings::Switch;
use std::time::Duration;
use tokio::runtime::Handle;

const EVERY: Duration = Duration::from_millis(100);
/// Rounds from one narrowing of windows to the next.
const NARROW_EVERY: u64 = 10;

/// The worker's thread. `handle` runs its rounds.
pub(crate) fn run(engine: &Engine, handle: &Handle) {
    let mut rounds = 0;
    while engine.reign.housekeeping.wait(EVERY) {
        rounds += 1;
        handle.block_on(async {
            round(engine).await;
            if rounds % NARROW_EVERY == 0 {
                narrow_windows(engine).await;
            }
        });
    }
}

/// Does once all that is due.
pub(crate) async fn round(engine: &Engine) {
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
    end_grace_periods(engine).await;
    engine.tend_group().await;
}

/// So that the next leader leaves little space alone.
pub(crate) async fn narrow_windows(engine: &Engine) {
    for effect in engine.state().narrower() {
        if let Err(fault) = engine.commit(&effect).await {
            tracing::debug!("a window was not narrowed: {fault}");
        }
    }
}

async fn end_grace_periods(engine: &Engine) {
    let table = engine.state().segments.table().clone();
    for segment in table.iter().filter(|s| s.phase() == Phase::Draining && s.drain_until() <= engine.now()) {
        if let Err(fault) = engine.unmount_now(segment.id()).await {
            tracing::error!(segment = %segment.id(), "a drained segment could not be unmounted: {fault}");
        }
    }
}

//! Tends the group of masters, takes back what dropped tenants had, empties what nodes lend that may not, notices which store nodes fell
//! silent, ends grace periods, discards abandoned puts, frees held space, narrows windows.

use super::{pools, recycle};
use crate::engine::Engine;
use crate::log::Room;
use perilune_state::Effect;
use perilune_state::segments::Phase;
use perilune_state::settings::Switch;
use std::time::Duration;
use tokio::runtime::Handle;

const EVERY: Duration = Duration::from_millis(100);
/// Rounds from one narrowing of windows to the next.
const NARROW_EVERY: u64 = 10;
/// Milliseconds from one move of the log's clock to the next, while somebody waits for it.
const PASSED_EVERY_MS: u64 = 250;

/// The worker's thread. `handle` runs its rounds.
pub(crate) fn run(engine: &Engine, handle: &Handle) {
    let tended = engine.clone();
    // On its own, since it waits for the log, and nodes must be judged meanwhile.
    let windows = handle.spawn(async move {
        let mut windows = Windows::begin(&tended);
        loop {
            tokio::time::sleep(EVERY).await;
            windows.round(&tended).await;
        }
    });
    let recycled = engine.clone();
    let recycler = handle.spawn(async move {
        loop {
            tokio::time::sleep(recycle::EVERY).await;
            recycle::round(&recycled).await;
        }
    });
    let tended = engine.clone();
    // Vaults may make the recycler wait.
    let tender = handle.spawn(async move {
        loop {
            tokio::time::sleep(recycle::EVERY).await;
            pools::round(&tended).await;
            tended.tend_gc().await;
        }
    });
    while engine.reign.housekeeping.wait(EVERY) {
        handle.block_on(round(engine));
    }
    windows.abort();
    recycler.abort();
    tender.abort();
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
    engine.tend_events().await;
}

/// Tends the windows of segments.
pub(crate) struct Windows {
    rounds: u64,
    /// Until when the log's clock has been told of what passed.
    told: u64,
}

impl Windows {
    /// A reign begins.
    pub(crate) fn begin(engine: &Engine) -> Self {
        Self { rounds: 0, told: engine.state().began() }
    }

    /// Closes what the last leaders left behind and what nobody needs, so that the next leader finds little.
    pub(crate) async fn round(&mut self, engine: &Engine) {
        self.rounds += 1;
        // What closes must be logged, and what is nearly full should not be filled.
        if engine.inner.log.room().0 != Room::Enough || engine.writable().is_err() {
            return;
        }
        let (mut effects, any) = engine.state().left_behind();
        let now = engine.now();
        if any && now >= self.told + PASSED_EVERY_MS {
            // Not told twice, whatever becomes of it: the log's clock may be slow, and never fast.
            effects.push(Effect::Passed { ms: now - self.told });
            self.told = now;
        }
        if self.rounds.is_multiple_of(NARROW_EVERY) {
            effects.extend(engine.state().narrower());
        }
        // All before any is waited for: nothing that opens what closes here may come between.
        let proposed: Vec<_> = effects.into_iter().map(|effect| (engine.propose(&effect), effect)).collect();
        for (proposal, effect) in proposed {
            if let Err(fault) = engine.stored(&effect, proposal).await {
                tracing::debug!("a window stays as it is: {fault}");
            }
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

//! When a master counts as running, and what its `readyz` looks at.

use crate::engine::{Group, Leader, Throne};
use crate::observe::Observed;
use perilune_probe::{Life, Stage};
use std::sync::Arc;
use std::time::Duration;

/// Pause before a group that could not say how far it is is asked again.
const AGAIN: Duration = Duration::from_millis(50);

/// Adds what can be wrong with a master that runs.
pub(crate) fn add_checks(life: &Life, throne: &Arc<Throne>) {
    let looked_at = Arc::downgrade(throne);
    life.check("log", move || match looked_at.upgrade().and_then(|throne| throne.log().trouble()) {
        None => Ok(()),
        Some(why) => Err(why),
    });
    let looked_at = Arc::downgrade(throne);
    life.check("leader", move || match looked_at.upgrade().map(Group::new) {
        Some(group) if group.leads() || group.leader().is_some_and(|leader| leader.id != group.me()) => Ok(()),
        _ => Err("no leader is known: puts and gets wait until one is elected".into()),
    });
}

/// Says that the master runs once it serves as the leader, or follows one and has caught up with all that was acknowledged before.
pub(crate) async fn run_when_current(group: Group, life: Life) {
    loop {
        let is_current = match group.settled().await {
            Ok(Leader::Here) => true,
            Ok(Leader::There(_)) => group.catch_up().await.is_ok(),
            Err(_) => false,
        };
        if is_current {
            return life.reach(Stage::Running);
        }
        tokio::time::sleep(AGAIN).await;
    }
}

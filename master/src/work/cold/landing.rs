//! Uploads that may come to lie in a vault though no name of this reign stands for them: what nodes are at for a reign before, and requests whose
//! sender went or gave up before it heard an answer. Who forgets what opens a vault waits for them, as nobody could take them away later.

use super::{Cold, lock};
use crate::engine::Engine;
use perilune_protocol::rpc::cold::{AtVaults, ColdDone, ColdOutcome};
use perilune_protocol::{NodeId, TenantId, VaultId};
use std::collections::{HashMap, HashSet};
use std::time::Duration;
use tokio::time::Instant;

/// A node that does not come to a new leader is at nothing any more so long after that began: the longest order for an object of up to 40 MiB, and the
/// time in which its last request lands. What takes longer is told by its node, unless that is cut off from all masters for as long.
const EARLIER: Duration = Duration::from_millis(65_000 + AtVaults::LANDS_MS);

/// What is known of them in this reign.
pub(super) struct Landing {
    began: Instant,
    /// Nodes that have come to this leader, and the uploads of earlier reigns that each is at.
    earlier: HashMap<NodeId, HashMap<u64, VaultId>>,
    /// Until when a request to the vault may be carried out.
    until: HashMap<VaultId, Instant>,
    /// The same of requests to any vault, of a node's process before.
    any_until: HashMap<NodeId, Instant>,
}

impl Default for Landing {
    fn default() -> Self {
        Self { began: Instant::now(), earlier: HashMap::new(), until: HashMap::new(), any_until: HashMap::new() }
    }
}

impl Landing {
    fn came(&mut self, AtVaults { node, uploads, landing, any_ms }: AtVaults, now: Instant) {
        let uploads: HashMap<u64, VaultId> = uploads.into_iter().collect();
        if let Some(before) = self.earlier.get(&node) {
            // How these ended was for nobody to hear.
            let ended: Vec<VaultId> = before.iter().filter(|(id, _)| !uploads.contains_key(*id)).map(|(_, vault)| *vault).collect();
            ended.into_iter().for_each(|vault| self.unsure(vault, AtVaults::LANDS_MS, now));
        } else {
            // Of a process that began in this reign the orders are known.
            self.any_until.insert(node, now + Duration::from_millis(any_ms.min(AtVaults::LANDS_MS)));
        }
        landing.into_iter().for_each(|(vault, ms)| self.unsure(vault, ms.min(AtVaults::LANDS_MS), now));
        self.earlier.insert(node, uploads);
    }

    fn done(&mut self, node: NodeId, done: &[ColdDone], now: Instant) {
        let Some(earlier) = self.earlier.get_mut(&node).filter(|earlier| !earlier.is_empty()) else { return };
        let away = |done: &ColdDone| matches!(done.outcome, ColdOutcome::Away(_));
        let ended: Vec<_> = done.iter().filter_map(|done| Some((earlier.remove(&done.id)?, away(done)))).collect();
        ended.into_iter().filter(|(_, away)| *away).for_each(|(vault, _)| self.unsure(vault, AtVaults::LANDS_MS, now));
    }

    /// A request to a vault may be carried out so many milliseconds from now.
    fn unsure(&mut self, vault: VaultId, ms: u64, now: Instant) {
        let until = now + Duration::from_millis(ms);
        let known = self.until.entry(vault).or_insert(until);
        *known = until.max(*known);
    }

    /// Uploads to a vault that are on their way for earlier reigns.
    fn count(&self, vault: VaultId) -> u64 {
        self.earlier.values().flat_map(HashMap::values).filter(|to| **to == vault).count() as u64
    }

    /// Whether something may come to lie in a vault.
    fn may_come_to(&self, vault: VaultId, now: Instant) -> bool {
        self.count(vault) > 0 || self.until.get(&vault).is_some_and(|until| *until > now)
    }

    /// Whether any may be on its way from `nodes`.
    fn may_come_from(&self, nodes: &HashSet<NodeId>, now: Instant) -> bool {
        nodes.iter().any(|node| match self.earlier.get(node) {
            Some(_) => self.any_until.get(node).is_some_and(|until| *until > now),
            None => now < self.began + EARLIER,
        })
    }
}

impl Cold {
    /// A node says what it is at.
    pub(crate) fn came(&self, told: AtVaults) {
        lock(&self.landing).came(told, Instant::now());
    }

    /// A node says what it has ended: what was of an earlier reign as well.
    pub(super) fn ended_earlier(&self, node: NodeId, done: &[ColdDone]) {
        lock(&self.landing).done(node, done, Instant::now());
    }

    /// A request to a vault was not answered: it may be carried out so many milliseconds from now.
    pub(super) fn unsure(&self, vault: VaultId, ms: u64) {
        lock(&self.landing).unsure(vault, ms, Instant::now());
    }

    /// Uploads of earlier reigns that are on their way to a vault, as far as is known.
    pub(super) fn landing_in(&self, vault: VaultId) -> u64 {
        lock(&self.landing).count(vault)
    }
}

impl Engine {
    /// Whether something may still come to lie in the vaults of a dropped tenant. As long as that may be, its nodes stay known: their segments are
    /// unmounted after it, so that whoever leads next asks the same nodes.
    pub(crate) fn uploads_may_land(&self, tenant: TenantId) -> bool {
        let cold = &self.reign.cold;
        let known = self.directory();
        let Some(all) = known.vaults_of(tenant).filter(|all| !all.vaults.is_empty()) else { return false };
        let named = |vault: VaultId| lock(&cold.naming).values().any(|(to, _)| *to == vault);
        let table = self.state().segments.table();
        let nodes = table.iter().filter(|s| s.tenant() == tenant).map(|s| s.node()).collect();
        let (landing, now) = (lock(&cold.landing), Instant::now());
        all.vaults.iter().any(|vault| named(vault.id) || landing.may_come_to(vault.id, now)) || landing.may_come_from(&nodes, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANDS: Duration = Duration::from_millis(AtVaults::LANDS_MS);

    fn told(node: NodeId, uploads: &[(u64, VaultId)]) -> AtVaults {
        AtVaults { node, uploads: uploads.to_vec(), landing: Vec::new(), any_ms: 0 }
    }

    #[test]
    fn what_earlier_reigns_ordered_is_waited_for() {
        let (mut landing, node, [a, b]) = (Landing::default(), NodeId::random(), [VaultId(1), VaultId(2)]);
        let (nodes, now) = (HashSet::from([node]), landing.began);
        assert!(landing.may_come_from(&nodes, now), "it has said nothing");
        landing.came(told(node, &[(7, a), (8, a), (9, b)]), now);
        assert_eq!((landing.may_come_from(&nodes, now), landing.count(a), landing.count(b)), (false, 2, 1));
        let end = |id, outcome| ColdDone { id, outcome };
        landing.done(node, &[end(7, ColdOutcome::Done { stored: 1 }), end(9, ColdOutcome::Away("slow".into()))], now);
        assert_eq!((landing.count(a), landing.count(b)), (1, 0));
        assert!(landing.may_come_to(b, now), "nobody answered the last");
        landing.came(told(node, &[]), now);
        let may_come = |at| (landing.may_come_to(a, at), landing.may_come_to(b, at));
        assert_eq!(landing.count(a), 0);
        assert_eq!(may_come(now + LANDS - Duration::from_millis(1)), (true, true));
        assert_eq!(may_come(now + LANDS), (false, false));
    }

    #[test]
    fn a_node_that_is_silent_or_was_restarted_is_waited_for() {
        let (mut landing, [silent, restarted]) = (Landing::default(), [NodeId::random(), NodeId::random()]);
        let (now, later) = (landing.began, landing.began + Duration::from_secs(5));
        landing.came(AtVaults { any_ms: 5000, ..told(restarted, &[]) }, now);
        let may_come = |landing: &Landing, node, at| landing.may_come_from(&HashSet::from([node]), at);
        assert_eq!((may_come(&landing, silent, now), may_come(&landing, restarted, now)), (true, true));
        assert_eq!((may_come(&landing, silent, later), may_come(&landing, restarted, later)), (true, false));
        landing.came(AtVaults { any_ms: 5000, ..told(restarted, &[]) }, later);
        assert!(!may_come(&landing, restarted, later), "it was restarted in this reign, which knows its orders");
        assert!(!may_come(&landing, silent, now + EARLIER));
        assert!(!landing.may_come_from(&HashSet::new(), now));
    }
}

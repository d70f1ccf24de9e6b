//! Uploads that may come to lie in a vault though no name of this reign stands for them: those that an earlier leader ordered, and requests whose
//! sender went or gave up before it heard an answer. Who forgets what opens a vault waits for them, as nobody could take them away later.
//!
//! By time alone: nodes could say what they are at, but those of a dropped tenant are no longer heard.

use super::up::BYTES_PER_MS;
use super::{Cold, lock};
use crate::engine::Engine;
use perilune_protocol::{TenantId, VaultId};
use perilune_vault::WHOLE_BYTES;
use std::collections::{HashMap, HashSet};
use std::time::Duration;
use tokio::time::Instant;

/// What is known of them in this reign.
#[derive(Default)]
pub(super) struct Landing {
    /// When this reign began, and the vaults that there were: an earlier one may have ordered something for those.
    before: Option<(Instant, HashSet<VaultId>)>,
    /// Until when a request of this reign may be carried out, by vault.
    until: HashMap<VaultId, Instant>,
}

impl Landing {
    fn may_come_to(&self, vault: VaultId, limit: Duration, now: Instant) -> bool {
        // What goes in parts ends when these are swept away.
        let ordered = limit + Duration::from_millis(WHOLE_BYTES / BYTES_PER_MS);
        let before = self.before.as_ref().is_none_or(|(began, there)| there.contains(&vault) && now < *began + ordered + lands(limit));
        before || self.until.get(&vault).is_some_and(|until| now < *until)
    }

    fn unsure(&mut self, vault: VaultId, until: Instant) {
        let known = self.until.entry(vault).or_insert(until);
        *known = until.max(*known);
    }
}

/// A vault carries out a request within this time after its sender went or gave up: as long as one attempt of an upload takes.
fn lands(limit: Duration) -> Duration {
    limit / 2
}

impl Cold {
    /// The reign begins with these vaults.
    pub(super) fn begin(&self, there: HashSet<VaultId>) {
        lock(&self.landing).before = Some((Instant::now(), there));
    }
}

impl Engine {
    /// An upload of this reign ended without an answer of its vault, and its node may be at it for so many milliseconds yet.
    pub(super) fn upload_may_land(&self, vault: VaultId, for_ms: u64) {
        let until = Instant::now() + Duration::from_millis(for_ms) + lands(self.inner.config.upload_limit);
        lock(&self.reign.cold.landing).unsure(vault, until);
    }

    /// Whether something may still come to lie in the vaults of a tenant.
    pub(super) fn uploads_may_land(&self, tenant: TenantId) -> bool {
        let (cold, known, limit) = (&self.reign.cold, self.directory(), self.inner.config.upload_limit);
        let named: HashSet<VaultId> = lock(&cold.naming).values().map(|(vault, _)| *vault).collect();
        let (landing, now) = (lock(&cold.landing), Instant::now());
        let mut vaults = known.vaults_of(tenant).into_iter().flat_map(|all| &all.vaults).map(|vault| vault.id);
        vaults.any(|vault| named.contains(&vault) || landing.may_come_to(vault, limit, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_knows_the_end_of_is_waited_for() {
        let ([old, new], limit, now) = ([VaultId(1), VaultId(2)], Duration::from_secs(60), Instant::now());
        let mut landing = Landing::default();
        let may_come =
            |landing: &Landing, after| [old, new].map(|vault| landing.may_come_to(vault, limit, now + Duration::from_secs(after)));
        assert_eq!(may_come(&landing, 0), [true, true], "the reign has not begun");
        landing.before = Some((now, HashSet::from([old])));
        assert_eq!([0, 93, 94].map(|after| may_come(&landing, after)), [[true, false], [true, false], [false, false]]);
        landing.unsure(new, now + Duration::from_secs(7));
        landing.unsure(new, now + Duration::from_secs(5));
        assert_eq!([6, 7].map(|after| may_come(&landing, after)), [[true, true], [true, false]]);
    }
}

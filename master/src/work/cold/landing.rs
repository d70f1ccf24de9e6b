//! Uploads that may come to lie in a vault though no name of this reign stands for them: those that an earlier leader ordered, and requests whose
//! sender went or gave up before it heard an answer. Who forgets what opens a vault waits for them, as nobody could take them away later.
//!
//! By time alone: nodes could say what they are at, but those of a dropped tenant are no longer heard. No leader gives its nodes longer than the log
//! says, so that the next one knows how long that was, whatever it was started with itself.

use super::lock;
use crate::engine::Engine;
use perilune_protocol::{TenantId, VaultId};
use perilune_state::Effect;
use perilune_state::settings::JOB_RECORD;
use perilune_vault::{BYTES_PER_MS, WHOLE_BYTES};
use std::collections::{HashMap, HashSet};
use std::time::Duration;
use tokio::time::Instant;

/// What is known of them in this reign.
#[derive(Default)]
pub(super) struct Landing {
    /// What earlier leaders may have ordered.
    before: Option<Before>,
    /// Until when a request of this reign may be carried out, by vault.
    until: HashMap<VaultId, Instant>,
    /// When it was last looked whether the log says how long they take.
    looked: Option<Instant>,
}

/// As it was when this reign began.
struct Before {
    /// By when it has ended.
    over: Instant,
    /// The vaults that there were.
    there: HashSet<VaultId>,
}

/// A release that does not say it in the log gives so long, unless it is started with something else.
const UNSAID: Duration = Duration::from_secs(60);
/// How often it is looked whether it is said: the crew has thousands of turns a second.
const LOOK_EVERY: Duration = Duration::from_secs(1);

fn key() -> String {
    format!("{JOB_RECORD}upload_limit_ms")
}

impl Landing {
    /// For how long something may yet come to lie in a vault.
    fn may_come_to(&self, vault: VaultId, limit: Duration, now: Instant) -> Option<Duration> {
        let before = match &self.before {
            None => Some(now + ends(limit)),
            Some(before) => before.there.contains(&vault).then_some(before.over),
        };
        let until = before.max(self.until.get(&vault).copied())?;
        until.checked_duration_since(now).filter(|left| !left.is_zero())
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

/// What is ordered with this limit has ended so much later. What goes in parts ends when these are swept away.
fn ends(limit: Duration) -> Duration {
    limit + Duration::from_millis(WHOLE_BYTES / BYTES_PER_MS) + lands(limit)
}

impl Engine {
    /// The reign begins.
    pub(super) fn begin_landing(&self) {
        let there = self.directory().all_vaults().map(|vault| vault.id).collect();
        let over = Instant::now() + ends(self.said_limit().unwrap_or(UNSAID));
        lock(&self.reign.cold.landing).before = Some(Before { over, there });
    }

    /// How long a node may take to bring something to a vault; and longer by its size.
    pub(super) fn upload_limit(&self) -> Duration {
        self.inner.config.upload_limit.min(self.said_limit().unwrap_or(UNSAID))
    }

    fn said_limit(&self) -> Option<Duration> {
        self.state().settings.get(&key())?.parse().ok().map(Duration::from_millis)
    }

    /// Has the log say what this master was started with: more at once, less when what earlier leaders ordered has ended.
    pub(super) fn say_limit(&self) {
        let (ours, now) = (self.inner.config.upload_limit, Instant::now());
        let mut landing = lock(&self.reign.cold.landing);
        if landing.looked.is_some_and(|at| now < at + LOOK_EVERY) {
            return;
        }
        landing.looked = Some(now);
        let is_over = landing.before.as_ref().is_some_and(|before| before.over <= now);
        drop(landing);
        if self.said_limit().is_none_or(|said| said < ours || said > ours && is_over) {
            // Whether it came to something is seen in the state.
            drop(self.propose(&Effect::Setting { key: key(), value: Some(ours.as_millis().to_string()) }));
        }
    }

    /// An upload of this reign ended without an answer of its vault, and its node may be at it for so many milliseconds yet.
    pub(super) fn upload_may_land(&self, vault: VaultId, for_ms: u64) {
        let until = Instant::now() + Duration::from_millis(for_ms) + lands(self.inner.config.upload_limit);
        lock(&self.reign.cold.landing).unsure(vault, until);
    }

    /// Whether something may still come to lie in the vaults of a tenant, and be it a claim.
    pub(super) fn uploads_may_land(&self, tenant: TenantId) -> bool {
        let (cold, known, limit) = (&self.reign.cold, self.directory(), self.inner.config.upload_limit);
        let mut named: HashSet<VaultId> = lock(&cold.naming).values().map(|(vault, _)| *vault).collect();
        named.extend(lock(&cold.looking).iter());
        let (landing, now) = (lock(&cold.landing), Instant::now());
        let mut vaults = known.vaults_of(tenant).into_iter().flat_map(|all| &all.vaults).map(|vault| vault.id);
        vaults.any(|vault| named.contains(&vault) || landing.may_come_to(vault, limit, now).is_some())
    }

    /// For how long something may yet come to lie in a vault for which nothing is under way that is known of.
    pub(super) fn upload_may_land_for(&self, vault: VaultId) -> Option<Duration> {
        lock(&self.reign.cold.landing).may_come_to(vault, self.inner.config.upload_limit, Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_knows_the_end_of_is_waited_for() {
        let ([old, new], limit, now) = ([VaultId(1), VaultId(2)], Duration::from_secs(60), Instant::now());
        let mut landing = Landing::default();
        let may_come = |landing: &Landing, after| {
            [old, new].map(|vault| landing.may_come_to(vault, limit, now + Duration::from_secs(after)).is_some())
        };
        assert_eq!(may_come(&landing, 0), [true, true], "the reign has not begun");
        landing.before = Some(Before { over: now + ends(limit), there: HashSet::from([old]) });
        assert_eq!([0, 93, 94].map(|after| may_come(&landing, after)), [[true, false], [true, false], [false, false]]);
        landing.unsure(new, now + Duration::from_secs(7));
        landing.unsure(new, now + Duration::from_secs(5));
        assert_eq!([6, 7].map(|after| may_come(&landing, after)), [[true, true], [true, false]]);
    }
}

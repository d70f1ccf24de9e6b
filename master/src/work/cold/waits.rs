//! What a put may expect of its tenant's vault where memory is full of what no vault has yet: as long as the vault works, none of that leaves.

use super::{health_of, lock, vault_of};
use crate::engine::Engine;
use perilune_protocol::{ByteSize, Fault, FaultCode, TenantId, VaultId};
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

/// A put waits so long, unless one before it waited in vain; and where nothing may ever be lost.
const SOON: Duration = Duration::from_secs(2);
const STRICT: Duration = Duration::from_secs(5);
/// A vault for which puts wait so long without anything having moved does not work, whatever it says; in milliseconds.
const NOTHING_MS: u64 = 30_000;

/// Puts that wait for a vault.
struct Wait {
    since: u64,
    /// By the newest of them.
    asked: u64,
    /// One of them has given up.
    in_vain: bool,
}

/// By vault. What moves ends the wait for it: the next put begins another.
#[derive(Default)]
pub(super) struct Waits(Mutex<HashMap<VaultId, Wait>>);

impl Waits {
    /// How long a put is to wait; `None` when nothing has moved for long.
    fn ask(&self, id: VaultId, now: u64) -> Option<Duration> {
        let mut waits = lock(&self.0);
        // Nobody has asked for long: whether anything would have moved is not known.
        waits.retain(|_, wait| now.saturating_sub(wait.asked) < NOTHING_MS);
        let wait = waits.entry(id).or_insert(Wait { since: now, asked: now, in_vain: false });
        wait.asked = now;
        let patience = if wait.in_vain { Duration::ZERO } else { SOON };
        (now.saturating_sub(wait.since) < NOTHING_MS).then_some(patience)
    }

    fn in_vain(&self, id: VaultId) {
        if let Some(wait) = lock(&self.0).get_mut(&id) {
            wait.in_vain = true;
        }
    }

    /// The vault took something, or what is there has made room.
    pub(super) fn moved(&self, id: VaultId) {
        lock(&self.0).remove(&id);
    }
}

/// How long a put waits for what is in its way to be brought to its tenant's vault. `None` where that may leave as it is: there is no vault, or
/// it is away, refuses, or takes nothing. One that nobody has looked at yet is given the same chance as one that works.
pub(crate) fn patience(engine: &Engine, tenant: TenantId) -> Option<Duration> {
    let vault = vault_of(engine.state(), tenant)?;
    if engine.state().settings.strict_write_back() {
        return Some(STRICT);
    }
    let is_up = health_of(engine, vault.id).is_none_or(|found| found.condition.is_up());
    is_up.then(|| engine.reign.cold.waits.ask(vault.id, engine.now()))?
}

/// What a put is told that waited in vain, and would be refused with `fault`.
pub(crate) fn waited_in_vain(engine: &Engine, tenant: TenantId, fault: Fault) -> Fault {
    let (cold, known) = (&engine.reign.cold, engine.directory());
    let Some(vault) = known.usable_vault_of(tenant) else { return fault };
    cold.waits.in_vain(vault.id);
    let (mut objects, mut bytes) = cold.offers.waiting(tenant);
    for (_, size) in lock(&cold.naming).values().filter(|(id, _)| *id == vault.id) {
        (objects, bytes) = (objects + 1, bytes + size);
    }
    if objects == 0 {
        // Readers have what is in its way, or their leases.
        return fault;
    }
    let on_the_way = format!("{objects} objects ({}) are on their way to vault {} {}", ByteSize(bytes), vault.id, vault.name);
    FaultCode::NoSpace.with(format!("{}: {}; ask again when it has taken some", fault.message, on_the_way.trim_end()))
}

/// Objects of a tenant that its vault has made room.
pub(crate) fn moved(engine: &Engine, tenant: TenantId) {
    if let Some(vault) = vault_of(engine.state(), tenant) {
        engine.reign.cold.waits.moved(vault.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::cold::health::{Asked, Condition};
    use crate::work::cold::tests::Stand;

    #[test]
    fn a_vault_that_nobody_has_looked_at_is_waited_for_like_one_that_works() {
        let stand = Stand::start();
        let (engine, tenant) = (stand.engine(), TenantId::default());
        assert_eq!(patience(&engine, tenant), None, "there is none");
        let (id, health) = (stand.vault("main"), &engine.reign.cold.health);
        // As when a reign begins.
        health.keep(&[]);
        assert_eq!(patience(&engine, tenant), Some(SOON));
        health.did_not(id, Asked::Write, Condition::Refuses, "403", engine.wall_ms());
        assert_eq!(patience(&engine, tenant), None);
    }

    #[test]
    fn a_vault_is_waited_for_until_nothing_has_moved_for_long() {
        let (waits, id) = (Waits::default(), VaultId(3));
        let asks = |at: &[u64]| at.iter().map(|now| waits.ask(id, *now)).collect::<Vec<_>>();
        assert_eq!(asks(&[5, 7]), [Some(SOON); 2]);
        waits.in_vain(id);
        assert_eq!(asks(&[20_000, 30_004, 30_005, 50_000]), [Some(Duration::ZERO), Some(Duration::ZERO), None, None]);
        assert_eq!(waits.ask(VaultId(4), 50_000), Some(SOON), "another one");
        waits.moved(id);
        assert_eq!(asks(&[50_001, 80_000, 80_001]), [Some(SOON), Some(SOON), None]);
        assert_eq!(asks(&[110_000, 140_000]), [None, Some(SOON)], "nobody has asked for long");
        waits.moved(VaultId(9));
        waits.in_vain(VaultId(9));
    }
}

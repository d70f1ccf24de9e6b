//! What the log says of tenants, and of copies in vaults.

use super::chilled::Chilled;
use super::client::number;
use super::oracle::{Check, Key, Oracle, Version};
use super::vaults::lock;
use perilune_protocol::{ColdName, SegmentId, TenantId, Tso};
use perilune_state::directory::{Change, TenantRecord, TenantStatus};
use perilune_state::effect::{ColdCopy, ObjectRecord};

/// What there should be of a key in the end.
pub(super) struct Remaining {
    pub(super) key: Key,
    pub(super) record: ObjectRecord,
    /// Whether its writer was told.
    pub(super) acknowledged: bool,
    /// Its copy in a vault, and whether that is there.
    pub(super) cold: Option<ColdName>,
    pub(super) in_vault: bool,
}

impl Oracle {
    pub(super) fn lent(&mut self, segment: SegmentId, tenant: TenantId, unique_id: &str) {
        self.mounted.insert(segment);
        self.owners.lent(segment, tenant, unique_id);
    }

    /// The directory changes. Who is gone must have nothing.
    pub(super) fn directory(&mut self, now: u64, change: Change) -> Check {
        if let Change::Vaults(record) | Change::TenantVaults(_, record) = &change {
            self.vaults.insert(record.tenant, record.clone());
        }
        if let Change::Tenant(TenantRecord { id, status: TenantStatus::Deleted | TenantStatus::Gone, .. }) = &change {
            let vaults = self.vaults.get(id).into_iter().flat_map(|all| &all.vaults);
            lock(&self.buckets).dropped.extend(vaults.map(|vault| vault.target.prefix().to_owned()));
        }
        self.feed(&change)?;
        let entered = self.owners.enter(now, change);
        if self.lenient {
            return Ok(());
        }
        let Some(gone) = entered? else { return Ok(()) };
        self.counts.gone += 1;
        self.has_nothing(&gone)
    }

    /// "what is dropped is emptied", of one that is gone.
    fn has_nothing(&self, gone: &TenantRecord) -> Check {
        let objects = self.live.keys().filter(|key| key.tenant == gone.id).count();
        let vaults = self.vaults.get(&gone.id).into_iter().flat_map(|all| &all.vaults);
        let left = vaults.filter_map(|vault| lock(&self.buckets).holds(vault.target.prefix())).next();
        self.owners.emptied(gone, objects, left)
    }

    /// The same of all that are, once nothing is on its way any more.
    pub(super) fn all_emptied(&self) -> Check {
        self.owners.gone().try_for_each(|gone| self.has_nothing(gone))
    }

    /// A copy in a vault comes or goes: as the state does it.
    pub(super) fn chill(&mut self, key: &Key, version: Tso, copy: ColdCopy, there: bool, from: Option<ColdName>) -> Check {
        let has_vault = self.vaults.values().flat_map(|all| &all.vaults).any(|vault| vault.id == copy.vault);
        if self.live.get(key) != Some(&version) || there && !has_vault {
            self.nothing();
            return Ok(());
        }
        let Some(known) = self.keys.get_mut(key).and_then(|versions| versions.get_mut(&version)) else { return Ok(()) };
        let (name, lenient) = (copy.name, self.lenient);
        let chilled = Chilled { key, owner: (number(&key.key), version.0), buckets: &self.buckets };
        let check = match (there, known.cold.as_ref().map(|known| known.name)) {
            (true, held) if held.is_none() || held == from => {
                known.cold = Some(copy);
                self.counts.saved += 1;
                chilled.named(name)
            }
            (false, Some(known_name)) if known_name == name => {
                known.cold = None;
                self.counts.lost += 1;
                chilled.given_up(name)
            }
            _ => {
                self.nothing();
                return Ok(());
            }
        };
        if lenient { Ok(()) } else { check }
    }

    /// An object leaves memory: as the state does it.
    pub(super) fn demote(&mut self, key: &Key, version: Tso) -> Check {
        if self.live.get(key) != Some(&version) {
            self.nothing();
            return Ok(());
        }
        let known = self.keys.get_mut(key).and_then(|versions| versions.get_mut(&version));
        let Some((known, name)) = known.and_then(|known| known.cold.as_ref().map(|copy| copy.name).map(|name| (known, name))) else {
            self.nothing();
            return Ok(());
        };
        let freed = std::mem::take(&mut known.record.replicas);
        if freed.is_empty() {
            self.nothing();
        }
        self.free(&freed);
        self.counts.demoted += 1;
        let chilled = Chilled { key, owner: (number(&key.key), version.0), buckets: &self.buckets };
        if self.lenient { Ok(()) } else { chilled.demoted(name) }
    }

    /// What a tenant has fits its quota.
    pub(super) fn within_quota(&self, now: u64, tenant: TenantId) -> Check {
        if self.lenient {
            return Ok(());
        }
        let records = self.live.iter().filter(|(key, _)| key.tenant == tenant).map(|(key, version)| &self.keys[key][version].record);
        let (objects, bytes) = records.fold((0, 0), |(n, bytes), record| (n + 1, bytes + record.size * record.replicas.len() as u64));
        self.owners.fits(now, tenant, objects, bytes)
    }

    /// Whether there is a copy of it that can be read, as far as the log knows and vaults have lost nothing.
    pub(super) fn is_somewhere(&self, key: &Key, version: Tso, known: &Version) -> bool {
        let chilled = Chilled { key, owner: (number(&key.key), version.0), buckets: &self.buckets };
        !known.record.replicas.is_empty() || known.cold.as_ref().is_some_and(|copy| chilled.is_there(copy.name))
    }

    /// What there should be at the end: the newest version of each key.
    pub(super) fn remaining(&self) -> Vec<Remaining> {
        let version = |(key, version): (&Key, &Tso)| {
            let known = &self.keys[key][version];
            let chilled = Chilled { key, owner: (number(&key.key), version.0), buckets: &self.buckets };
            let cold = known.cold.as_ref().map(|copy| copy.name);
            Remaining {
                key: key.clone(),
                record: known.record.clone(),
                acknowledged: known.acknowledged.is_some(),
                cold,
                in_vault: cold.is_some_and(|name| chilled.is_there(name)),
            }
        };
        self.live.iter().map(version).collect()
    }
}

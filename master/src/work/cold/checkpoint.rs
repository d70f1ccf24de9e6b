//! Checkpoints: everything is brought to its vault, and then what the masters know, so that a cluster begins again from the vault alone.
//!
//! ```text
//!   remote/upload ──► flag ──► all that was there is in a vault ──► Begun ──► dump ──► its files ──► manifest ──► Kept ──► flag falls
//!                                                                     │  from here on no upload is deleted ─►│ none that it names is
//!   another leader finds one begun: it puts GIVEN_UP in the manifest's place ──► Gone; or finds the manifest there ──► Kept
//! ```

use super::kept::Named;
use super::manifest::{self, Found, Manifest, Part};
use super::opened::Opened;
use super::{Claim, Target, claim, is_dirty, lock, vault_of};
use crate::engine::Engine;
use crate::log::Dump;
use crate::work::aside;
use perilune_protocol::{Checksum, Fault, FaultCode, Outcome, TenantId, Tso, VaultId};
use perilune_state::checkpoints::{Checkpoint, Stage};
use perilune_state::effect::ColdCopy;
use perilune_state::settings::CHECKPOINT_VAULT;
use perilune_state::{Effect, State, snapshot};
use perilune_vault::{Class, Vault, VaultFault};
use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::time::Duration;
use tokio::time::Instant;

/// The pause after something did not work, which doubles up to the longest.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Bytes that are read of a dump at a time.
const READ: usize = 1 << 20;

/// Where checkpoints go, if there is such a vault.
pub(crate) fn vault_for(state: &State) -> Option<VaultId> {
    let known = state.directory.known();
    let Some(named) = state.settings.get(CHECKPOINT_VAULT).filter(|named| !named.is_empty()) else {
        return vault_of(state, TenantId::default()).map(|vault| vault.id);
    };
    let all = known.vaults_of(TenantId::default())?;
    let meant = |name: &str, number: u32| name == named || number.to_string() == named;
    all.vaults.iter().find(|vault| meant(&vault.name, vault.number) && vault.target.is_usable()).map(|vault| vault.id)
}

/// Until the reign is over.
pub(super) async fn run(engine: Engine) {
    let mut keeper = Keeper::begin(engine);
    loop {
        tokio::time::sleep(super::EVERY).await;
        keeper.turn().await;
    }
}

/// Makes checkpoints, and has those go that are kept no longer.
pub(crate) struct Keeper {
    engine: Engine,
    opened: Opened,
    /// When it goes on after something did not work, and the pause after the next time.
    rest: Trouble,
    /// Those that something did not work with, by their numbers.
    troubles: HashMap<u64, Trouble>,
    /// Whether what nobody knows of is to be looked for among the checkpoints.
    tidy: bool,
    /// What was asked for, and all that was put by then: up to this version.
    through: Option<(u64, Tso)>,
    /// When all objects are looked at again.
    look: Instant,
}

/// When something that did not work is tried again, and the pause after that.
struct Trouble {
    due: Instant,
    pause: Duration,
}

impl Keeper {
    pub(crate) fn begin(engine: Engine) -> Self {
        let (opened, troubles, now) = (Opened::for_long(), HashMap::new(), Instant::now());
        Self { engine, opened, rest: Trouble { due: now, pause: PAUSE }, troubles, tidy: true, through: None, look: now }
    }

    /// Does the next thing there is to do, if it is time and this master leads.
    pub(crate) async fn turn(&mut self) {
        if Instant::now() < self.rest.due || !self.engine.leads() || self.engine.writable().is_err() {
            return;
        }
        match self.round().await {
            Ok(()) => self.rest.pause = PAUSE,
            Err(fault) => {
                self.failed(&fault);
                let pause = self.rest.pause;
                self.rest = Trouble { due: Instant::now() + pause, pause: (2 * pause).min(PAUSE_MAX) };
            }
        }
    }

    fn failed(&self, fault: &Fault) {
        self.engine.reign.cold.checkpoint_failed(&fault.message);
        tracing::warn!("checkpoints: {fault}");
    }

    async fn round(&mut self) -> Outcome<()> {
        let engine = self.engine.clone();
        let state = engine.state();
        let to = vault_for(state).filter(|id| self.engine.reign.cold.claim(*id) == Some(Claim::Ours));
        let recorded = state.checkpoints.recorded().clone();
        if let Some(begun) = recorded.begun() {
            return self.settle(begun).await;
        }
        let spare = recorded.kept().count().saturating_sub(state.settings.checkpoints_kept());
        for (nth, kept) in recorded.kept().enumerate() {
            self.tend(kept, nth < spare).await;
        }
        let Some(to) = to else { return Ok(()) };
        if std::mem::take(&mut self.tidy) {
            self.tidy(to).await?;
        }
        match self.engine.upload_flag() {
            None => self.through = None,
            Some(flag) => {
                if self.through.is_none_or(|(asked, _)| asked != flag) {
                    self.through = Some((flag, state.newest()));
                }
                if Instant::now() >= self.look
                    && let Some(behind) = self.is_saved().await?
                {
                    self.make(to, flag, behind).await?;
                }
            }
        }
        Ok(())
    }

    /// Asks a vault something, off the threads that serve; one that was dropped is [`Class::NoBucket`].
    async fn at<T: Send + 'static>(
        &self,
        id: VaultId,
        ask: impl FnOnce(&Engine, &Vault) -> Result<T, VaultFault> + Send + 'static,
    ) -> Outcome<T> {
        self.try_at(id, ask).await?.map_err(|fault| FaultCode::WrongState.with(format!("vault {id}: {fault}")))
    }

    async fn try_at<T: Send + 'static>(
        &self,
        id: VaultId,
        ask: impl FnOnce(&Engine, &Vault) -> Result<T, VaultFault> + Send + 'static,
    ) -> Outcome<Result<T, VaultFault>> {
        let (engine, opened) = (self.engine.clone(), self.opened.clone());
        aside(move || {
            let vault = opened.open(&engine, id).unwrap_or_else(|| Err(Class::NoBucket.with("it was dropped")))?;
            ask(&engine, &vault)
        })
        .await
    }

    /// Whether a fault is that a vault was dropped: nothing in it is ever found again.
    fn was_dropped(&self, id: VaultId, fault: &VaultFault) -> bool {
        fault.class == Class::NoBucket && self.engine.directory().vault(id).is_none()
    }

    async fn record(&self, checkpoint: &Checkpoint, stage: Stage) -> Outcome<()> {
        self.engine.commit(&Effect::Checkpoint(Checkpoint { stage, ..checkpoint.clone() })).await
    }

    /// One that a leader began and did not say what became of: it is whole, or never will be.
    async fn settle(&self, begun: &Checkpoint) -> Outcome<()> {
        let (found, own) = (Found::new(begun.number, begun.name), begun.vault);
        self.engine.vouch().await?;
        let whole = self.try_at(own, move |engine, vault| {
            claim::check(vault, &engine.welcome().cluster)?;
            if found.give_up(vault)? {
                return Ok(None);
            }
            match found.read(vault) {
                Ok(Some(manifest)) => Ok(Some((manifest.read_names(vault, own)?, manifest))),
                Ok(None) => Ok(None),
                Err(fault) if fault.class == Class::Damaged => Ok(None),
                Err(fault) => Err(fault),
            }
        });
        match whole.await? {
            Ok(Some((named, manifest))) => return self.keep(begun, &manifest, named).await,
            Ok(None) => {}
            Err(fault) if self.was_dropped(own, &fault) => {}
            Err(fault) => return Err(FaultCode::WrongState.with(format!("vault {own}: {fault}"))),
        }
        tracing::info!(number = begun.number, "a checkpoint was given up");
        self.record(begun, Stage::Gone).await
    }

    async fn keep(&self, begun: &Checkpoint, manifest: &Manifest, named: Named) -> Outcome<()> {
        let Manifest { objects, saved, .. } = *manifest;
        // Before it is kept: whoever sees that it is looks here.
        lock(&self.engine.reign.cold.kept).insert(begun.number, named);
        self.record(&Checkpoint { objects, saved, ..begun.clone() }, Stage::Kept).await?;
        tracing::info!(number = begun.number, vault = %begun.vault, objects, saved, "a checkpoint is kept");
        self.engine.drop_upload_flag(manifest.answers).await
    }

    /// Has what a checkpoint names known, and has it go where it is `spare`. Where that does not work nothing is deleted, and all else goes on.
    async fn tend(&mut self, kept: &Checkpoint, spare: bool) {
        let is_known = lock(&self.engine.reign.cold.kept).contains_key(&kept.number);
        let is_later = self.troubles.get(&kept.number).is_some_and(|trouble| trouble.due > Instant::now());
        if is_later || (is_known && !spare) {
            return;
        }
        let loaded = if is_known { Ok(()) } else { self.load(kept).await };
        match if spare { self.drop(kept).await } else { loaded } {
            Ok(()) => drop(self.troubles.remove(&kept.number)),
            Err(fault) => {
                self.failed(&fault);
                let pause = self.troubles.get(&kept.number).map_or(PAUSE, |trouble| (2 * trouble.pause).min(PAUSE_MAX));
                self.troubles.insert(kept.number, Trouble { due: Instant::now() + pause, pause });
            }
        }
    }

    /// What a checkpoint names that an earlier leader kept, or that it is gone.
    async fn load(&self, kept: &Checkpoint) -> Outcome<()> {
        let mut read = self.read(kept).await?;
        if let Err(fault) = &read
            && fault.class == Class::Damaged
        {
            // One answer is not enough to give up what a cluster may begin again from.
            tracing::warn!(number = kept.number, "a checkpoint cannot be read, and is looked at once more: {fault}");
            read = self.read(kept).await?;
        }
        match read {
            Ok(Some(named)) => {
                lock(&self.engine.reign.cold.kept).insert(kept.number, named);
                return Ok(());
            }
            Ok(None) => tracing::warn!(number = kept.number, "a checkpoint is not in its vault any more"),
            Err(fault) if fault.class == Class::Damaged => {
                tracing::error!(number = kept.number, "no cluster can begin again from a checkpoint, and it is given up: {fault}");
            }
            Err(fault) if self.was_dropped(kept.vault, &fault) => {}
            Err(fault) => {
                let why = format!("what checkpoint {} names cannot be read, so nothing is deleted: {fault}", kept.number);
                return Err(FaultCode::WrongState.with(why));
            }
        }
        self.record(kept, Stage::Gone).await
    }

    /// What it names; `None`: it is not there.
    async fn read(&self, kept: &Checkpoint) -> Outcome<Result<Option<Named>, VaultFault>> {
        let (found, own) = (Found::new(kept.number, kept.name), kept.vault);
        self.try_at(own, move |engine, vault| {
            let named = found.read(vault).and_then(|manifest| manifest.map(|manifest| manifest.read_names(vault, own)).transpose());
            named.or_else(|fault| match fault.class {
                // Where the claim is, all else is.
                Class::NoObject => claim::check(vault, &engine.welcome().cluster).map(|()| None),
                _ => Err(fault),
            })
        })
        .await
    }

    /// One that is beyond those to be kept. The manifest goes first: nobody begins again from what is not all there.
    async fn drop(&self, old: &Checkpoint) -> Outcome<()> {
        let found = Found::new(old.number, old.name);
        self.engine.vouch().await?;
        self.at(old.vault, move |engine, vault| {
            claim::check(vault, &engine.welcome().cluster)?;
            found.delete(vault)
        })
        .await?;
        self.record(old, Stage::Gone).await?;
        let (engine, number) = (self.engine.clone(), old.number);
        tracing::info!(number, "a checkpoint is kept no longer");
        aside(move || engine.unkeep(number)).await
    }

    /// Deletes manifests that nobody knows of, and marks of those given up that are older than one that is kept: nobody makes these whole to
    /// be taken for the newest.
    async fn tidy(&self, id: VaultId) -> Outcome<()> {
        self.engine.vouch().await?;
        let recorded = self.engine.state().checkpoints.recorded().clone();
        let newest = recorded.kept().next_back().map_or(0, |kept| kept.number);
        let is_known = move |found: &Found| recorded.iter().any(|known| (known.number, known.name) == (found.number, found.name));
        self.at(id, move |engine, vault| {
            claim::check(vault, &engine.welcome().cluster)?;
            let found = manifest::list(vault)?;
            let unknown = found.iter().filter(|found| !is_known(found));
            unknown.filter(|found| !found.is_given_up() || found.number < newest).try_for_each(|found| found.delete(vault))
        })
        .await
    }

    /// Whether all that was there when a checkpoint was asked for is in a vault by now; has it brought there. What no node has at the moment
    /// cannot be, and what is of tenants without a vault of their own is not; nor is what those have left whose vault has been away for long,
    /// who are told.
    async fn is_saved(&mut self) -> Outcome<Option<BTreeSet<TenantId>>> {
        let Some((_, through)) = self.through else { return Ok(None) };
        let engine = self.engine.clone();
        let began = Instant::now();
        let left = aside(move || engine.offer_all(through)).await;
        // A walk over all objects takes half of a thread at most.
        self.look = Instant::now() + began.elapsed();
        left.map(|(left, behind)| (left == 0).then_some(behind))
    }

    async fn make(&mut self, to: VaultId, flag: u64, behind: BTreeSet<TenantId>) -> Outcome<()> {
        if !behind.is_empty() {
            let known = self.engine.directory();
            let names = behind.iter().filter_map(|id| Some(known.tenant(*id)?.name.as_str()));
            let who = names.collect::<Vec<_>>().join(", ");
            let told = format!("a checkpoint is made without what {who} have in memory only: their vaults are away, or refuse");
            self.engine.reign.cold.checkpoint_failed(&told);
            tracing::warn!("{told}");
        }
        // Clusters before this one may have left some.
        let there = self.at(to, |_, vault| Ok(manifest::list(vault)?.first().map_or(0, |found| found.number))).await?;
        let (number, name) = (self.engine.state().checkpoints.recorded().next(there), self.engine.reign.cold.fresh_name());
        let at_ms = self.engine.wall_ms();
        let begun = Checkpoint { number, name, vault: to, stage: Stage::Begun, at_ms, objects: 0, saved: 0 };
        self.record(&begun, Stage::Begun).await?;
        // Whoever drops a vault first closes it and then counts what is begun there: one of the two sees the other.
        if lock(&self.engine.reign.cold.closing).contains(&to) {
            self.record(&begun, Stage::Gone).await?;
            return Err(FaultCode::WrongState.with(format!("vault {to} is about to be dropped, so no checkpoint begins there")));
        }
        // What goes wrong from here on is settled by the next round.
        let (manifest, named) = self.write(&begun, flag, behind).await?;
        // Another leader would have settled it.
        self.engine.vouch().await?;
        let whole = manifest.clone();
        self.at(to, move |engine, vault| {
            claim::check(vault, &engine.welcome().cluster)?;
            whole.write(vault)
        })
        .await?;
        self.tidy = true;
        self.keep(&begun, &manifest, named).await
    }

    /// Brings what this master knows to the vault, all but the manifest.
    async fn write(&self, begun: &Checkpoint, answers: u64, behind: BTreeSet<TenantId>) -> Outcome<(Manifest, Named)> {
        let dump = self.engine.inner.log.dump().await?;
        let own = begun.clone();
        let cluster = self.engine.inner.log.cluster_id();
        let key = self.engine.state().directory.known().vaults_of(TenantId::default()).map(|all| all.key.clone());
        let key = key.ok_or_else(|| FaultCode::WrongState.with("the tenant default has no vault any more"))?;
        let [state_name, names_name] = [(); 2].map(|()| self.engine.reign.cold.fresh_name());
        self.at(begun.vault, move |engine, vault| {
            let caller = |e: std::io::Error| Class::Caller.with(format!("the dump of this master: {e}"));
            let saved = dump.body(cluster).and_then(|mut body| snapshot::saved(&mut body)).map_err(caller)?;
            let state = Part { name: state_name, bytes: dump.bytes, checksum: checksum(&dump).map_err(caller)? };
            let bytes = manifest::encode(&saved.names);
            let names = Part { name: names_name, bytes: bytes.len() as u64, checksum: perilune_protocol::checksum(&[&bytes]) };
            // None is taken from there before it is clear what becomes of the checkpoint, and what that names is left out.
            for name in [state.name, names.name] {
                engine.state().garbage.add(ColdCopy { vault: own.vault, name, stored: 0 });
            }
            let read = Box::new(move |at, piece: &mut [u8]| dump.read_at(piece, at).map_err(|e| e.to_string()));
            vault.write_object(&state.object(own.number, "state"), read, state.deadline())?;
            let read = Box::new(move |at: u64, piece: &mut [u8]| {
                piece.copy_from_slice(&bytes[at as usize..at as usize + piece.len()]);
                Ok(())
            });
            vault.write_object(&names.object(own.number, "names"), read, names.deadline())?;
            let manifest = Manifest {
                version: manifest::VERSION,
                number: own.number,
                name: own.name,
                cluster: cluster.to_string(),
                at_ms: own.at_ms,
                answers,
                objects: saved.objects,
                saved: saved.names.len() as u64,
                state,
                names,
                behind,
                key,
            };
            let named = manifest.named(saved.names, own.vault);
            Ok((manifest, named))
        })
        .await
    }
}

fn checksum(dump: &Dump) -> std::io::Result<u64> {
    let (mut sum, mut buffer, mut at) = (Checksum::default(), vec![0; READ], 0);
    while at < dump.bytes {
        let piece = &mut buffer[..READ.min((dump.bytes - at) as usize)];
        dump.read_at(piece, at)?;
        sum.update(piece);
        at += piece.len() as u64;
    }
    Ok(sum.finish())
}

impl Engine {
    /// Offers all that is in memory only and was there at a version, of every tenant that has a vault of its own; says how many those are, but
    /// for those of tenants whose vault has been away for long, and whose these are. Walks the index.
    fn offer_all(&self, through: Tso) -> (u64, BTreeSet<TenantId>) {
        let (state, cold, now_ms) = (self.state(), &self.reign.cold, self.wall_ms());
        let (mut left, mut behind, mut vaults): (u64, _, HashMap<TenantId, Option<Target>>) = (0, BTreeSet::new(), HashMap::new());
        let wait_ms = state.settings.checkpoint_wait_ms();
        let is_gone = |vault: VaultId| {
            let found = cold.health.of(vault, now_ms).filter(|found| !found.condition.is_up());
            found.is_some_and(|found| now_ms.saturating_sub(found.since_ms) >= wait_ms)
        };
        state.index.for_each(&mut |object| {
            let tenant = object.key.as_ref().tenant;
            let ours = |vault: &Target| cold.claim(vault.id) != Some(Claim::Others);
            if object.version <= through
                && let Some(vault) = vaults.entry(tenant).or_insert_with(|| vault_of(state, tenant).filter(ours))
                // An object that is changing has another form by now.
                && let Some(object) = state.standing(object.key.as_ref()).filter(|object| object.version <= through && is_dirty(object))
            {
                if behind.contains(&tenant) || is_gone(vault.id) {
                    behind.insert(tenant);
                } else {
                    left += 1;
                }
                cold.offers.offer(&object, state.shard_of(object.key.as_ref()), &self.reign.shard_jobs);
            }
            ControlFlow::Continue(())
        });
        cold.ring();
        (left, behind)
    }
}

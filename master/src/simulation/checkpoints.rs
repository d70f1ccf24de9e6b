//! The rules about checkpoints: a cluster that began again from one would have what was, and all of it is there as long as the checkpoint is.

use super::chilled::Chilled;
use super::client::number;
use super::clock::MemberTime;
use super::master;
use super::oracle::{Check, Key, Oracle};
use super::vaults::{self, lock};
use super::world::World;
use crate::engine::{Brain, Clock};
use crate::log;
use crate::work::cold::{Manifest, list_checkpoints};
use perilune_protocol::{ColdName, Tso, VaultId};
use perilune_state::State;
use perilune_state::checkpoints::{Checkpoint, Stage};
use perilune_vault::Vault;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

/// What was there when a checkpoint was begun, as the log was first applied by anybody.
pub(super) struct Begun {
    at: u64,
    /// What lived, and its copy in a vault.
    live: BTreeMap<Key, (Tso, Option<ColdName>)>,
}

/// Manifests that came to buckets are looked at.
pub(super) fn hear(world: &World) {
    let came = std::mem::take(&mut lock(&world.buckets).manifests);
    for bucket in came {
        let checked = look(world, &bucket);
        if !world.oracle.borrow().lenient {
            world.check(checked);
        }
    }
}

/// Whether a cluster can begin again from every checkpoint in a bucket.
pub(super) fn look(world: &World, bucket: &str) -> Check {
    let vault = vaults::look_into(&world.buckets, bucket);
    let broken = |what: &dyn std::fmt::Display| Err(("a checkpoint is whole", format!("in bucket {bucket}: {what}")));
    for found in list_checkpoints(&vault).unwrap_or_default() {
        let manifest = match found.read(&vault) {
            Ok(Some(manifest)) => manifest,
            // It was given up.
            Ok(None) => continue,
            Err(fault) => return broken(&fault),
        };
        // In which vaults they lie is of no interest here.
        let named = match manifest.read_names(&vault, VaultId(0)) {
            Ok(named) => named.iter().map(|(name, _)| *name).collect(),
            Err(fault) => return broken(&fault),
        };
        let state = match restored(world, &vault, &manifest) {
            Ok(state) => state,
            Err(why) => return broken(&format_args!("checkpoint {}: {why}", manifest.number)),
        };
        world.oracle.borrow_mut().restored(&manifest, &state, &named)?;
        lock(&world.buckets).pinned.insert(manifest.name, named);
    }
    Ok(())
}

/// What a new group would begin with, by way of a file as `perilune master --restore` has it.
fn restored(world: &World, vault: &Vault, manifest: &Manifest) -> Result<Arc<State>, String> {
    let path = world.root.join("checkpoint");
    let file = File::create(&path).map_err(|e| e.to_string())?;
    manifest
        .read_state(vault, &mut |at, bytes| file.write_all_at(bytes, at).map_err(|e| e.to_string()))
        .map_err(|fault| fault.to_string())?;
    let time = MemberTime { began: world.began, run_began: world.began, fast_ppm: 0, ahead_ms: AtomicI64::new(0) };
    let mut brain = Brain::new(master::config_of(world, 0, world.root.clone()).rules(), Clock::by(Arc::new(time)));
    log::inspect(&path, &mut brain).map_err(|e| e.to_string())?;
    Ok(brain.seat().state())
}

impl Oracle {
    /// How far one is, as the state does it.
    pub(super) fn checkpoint(&mut self, now: u64, one: &Checkpoint) -> Check {
        if one.stage == Stage::Begun {
            let copy = |(key, version): (&Key, &Tso)| {
                let cold = self.keys[key][version].cold.as_ref().map(|copy| copy.name);
                (key.clone(), (*version, cold))
            };
            let live = self.live.iter().map(copy).collect();
            self.checkpoints.entry(one.name).or_insert(Begun { at: now, live });
            return Ok(());
        }
        let was_begun = self.checkpoints.remove(&one.name).is_some();
        if one.stage != Stage::Kept || !was_begun || self.lenient {
            return Ok(());
        }
        self.counts.kept += 1;
        match lock(&self.buckets).pinned.contains_key(&one.name) {
            true => Ok(()),
            false => Err(("a checkpoint is whole", format!("checkpoint {} is kept, and has no manifest", one.number))),
        }
    }

    /// "a checkpoint is whole", "a checkpoint is what was": what somebody would have who began again from it.
    fn restored(&self, manifest: &Manifest, state: &State, named: &BTreeSet<ColdName>) -> Check {
        let mut there = BTreeMap::new();
        state.index.for_each(&mut |object| {
            let key = Key { tenant: object.key.as_ref().tenant, key: object.key.to_object_key() };
            there.extend(object.cold.as_ref().map(|copy| (key, (object.version, copy.name))));
            ControlFlow::Continue(())
        });
        let broken =
            |rule, key: &Key, version: Tso, what: &str| Err((rule, format!("checkpoint {}: {key} {} {what}", manifest.number, version.0)));
        let begun = self.checkpoints.get(&manifest.name);
        // Of a tenant that is dropped, all goes.
        for (key, (version, copy)) in there.iter().filter(|(key, _)| self.owners.is_served(key.tenant)) {
            let owner = (number(&key.key), version.0);
            if !named.contains(copy) || !(Chilled { key, owner, buckets: &self.buckets }).is_saved(*copy) {
                return broken("a checkpoint is whole", key, *version, "has its copy in no vault, or that is not kept for it");
            }
            let known = self.keys.get(key).and_then(|versions| versions.get(version));
            let was_there = |begun: &Begun| known.is_some_and(|known| known.published >= begun.at) || is_among(begun, key, *version);
            if known.is_none() || begun.is_some_and(|begun| !was_there(begun)) {
                return broken("a checkpoint is what was", key, *version, "was never there, or not any more");
            }
        }
        for (key, (version, copy)) in begun.iter().flat_map(|begun| &begun.live) {
            let lives = self.live.get(key) == Some(version) && self.owners.is_served(key.tenant);
            let same = |copy: &ColdName| self.keys[key][version].cold.as_ref().is_some_and(|known| known.name == *copy);
            let expected = copy.filter(|copy| lives && same(copy)).map(|copy| (*version, copy));
            if expected.is_some() && there.get(key) != expected.as_ref() {
                return broken("a checkpoint is what was", key, *version, "was in its vault all the time, and is not in it");
            }
        }
        Ok(())
    }
}

fn is_among(begun: &Begun, key: &Key, version: Tso) -> bool {
    begun.live.get(key).is_some_and(|(live, _)| *live == version)
}

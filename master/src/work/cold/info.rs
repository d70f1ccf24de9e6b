//! What is in the vaults, counted by listing them.

use super::health::Condition;
use super::opened::Opened;
use super::{claim, errand, manifest, usable};
use crate::engine::Engine;
use crate::work::aside;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use perilune_protocol::{ColdName, Outcome, VaultId};
use perilune_vault::{Class, VaultFault, Vaulted};
use serde::Serialize;
use std::collections::HashSet;
use utoipa::ToSchema;

/// Vaults that are listed at a time.
const AT_A_TIME: usize = 32;

/// What is in all vaults of this cluster.
#[derive(Serialize, ToSchema)]
pub(crate) struct Stores {
    stores: Vec<StoreInfo>,
}

/// What is in a vault of this cluster.
#[derive(Default, Serialize, ToSchema)]
struct StoreInfo {
    /// Its number.
    store_id: u64,
    /// Checkpoints there that are whole.
    num_manifests: u64,
    /// Names there, of whatever kind.
    num_keys: u64,
    /// What belongs to checkpoints.
    data_file: Files,
    /// Uploads of objects.
    dt_file: Files,
    /// Why nothing was counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl StoreInfo {
    /// Of one that cannot be listed now. Who asks may know nothing of whose it is, so where it lies is not told.
    fn unlisted(id: VaultId, fault: &VaultFault) -> Self {
        let how = Condition::from(fault).as_str();
        let error = Some(format!("vault {id}: {how}; show_storage_vaults of its tenant says why"));
        Self { store_id: id.0, error, ..Self::default() }
    }
}

/// Files of one kind.
#[derive(Default, Serialize, ToSchema)]
struct Files {
    num: u64,
    /// Those that nothing refers to, or that are given up: to be deleted.
    num_delmark: u64,
    bytes: u64,
}

impl Engine {
    /// Lists the vaults of this cluster, or those of `ids`, side by side; one that there is not is left out.
    ///
    /// # Errors
    /// None of a vault's.
    pub(crate) async fn store_info(&self, ids: Option<Vec<u64>>) -> Outcome<Stores> {
        let wanted = usable(self).into_iter().filter(|id| ids.as_ref().is_none_or(|ids| ids.contains(&id.0)));
        let looks = stream::iter(wanted.map(|id| self.clone().store(id)));
        Ok(Stores { stores: looks.buffered(AT_A_TIME).try_collect().await? })
    }

    async fn store(self, id: VaultId) -> Outcome<StoreInfo> {
        let engine = self.clone();
        match aside(move || engine.info_of(id)).await? {
            Ok((mut info, listed)) => {
                let engine = self.clone();
                info.dt_file.num_delmark = self.inner.walks.run(move || engine.spare(listed)).await?;
                Ok(info)
            }
            Err(fault) => Ok(StoreInfo::unlisted(id, &fault)),
        }
    }

    /// All but what of the objects' uploads is garbage, which is among those given.
    fn info_of(&self, id: VaultId) -> Vaulted<(StoreInfo, Vec<ColdName>)> {
        let gone = || Err(Class::NoBucket.with("it was dropped"));
        let vault = Opened::default().open(self, id).unwrap_or_else(gone)?;
        claim::check(&vault, &self.welcome().cluster)?;
        let (mut data_file, mut dt_file, mut num_manifests) = (Files::default(), Files::default(), 0);
        let mut of_checkpoints = HashSet::new();
        for found in manifest::list(&vault)? {
            data_file.num += 1;
            data_file.bytes += found.bytes();
            match found.read(&vault)? {
                None => data_file.num_delmark += 1,
                Some(manifest) => {
                    num_manifests += 1;
                    of_checkpoints.extend([manifest.state.name, manifest.names.name]);
                }
            }
        }
        let mut listed = Vec::new();
        errand::for_each(&vault, &mut |name, bytes| {
            let files = if of_checkpoints.contains(&name) { &mut data_file } else { &mut dt_file };
            files.num += 1;
            files.bytes += bytes;
            if !of_checkpoints.contains(&name) {
                listed.push(name);
            }
        })?;
        let num_keys = data_file.num + dt_file.num;
        Ok((StoreInfo { store_id: id.0, num_manifests, num_keys, data_file, dt_file, error: None }, listed))
    }
}

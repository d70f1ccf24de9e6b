//! A new group from a checkpoint in a vault: it is fetched and looked at, the vaults it knows are claimed for the new group, and it becomes the
//! group's first snapshot. Done again after it broke off anywhere, it comes to the same.

use crate::log::{self, Revived};
use crate::secrets::SecretKeys;
use crate::work::cold::{Manifest, before, list_checkpoints, succeed, take_over};
use crate::{MasterConfig, engine::Brain, log::LogConfig};
use perilune_protocol::TenantId;
use perilune_protocol::vault::VaultTarget;
use perilune_state::{State, snapshot};
use perilune_vault::{Class, Keys, Limits, Secrets, Vault, VaultFault};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use uuid::Uuid;

/// One request takes no longer.
const ATTEMPT: Duration = Duration::from_secs(30);

/// What a new group begins with.
#[derive(Clone, Debug)]
pub enum Restore {
    /// A file of `/snapshot/dump`.
    File(PathBuf),
    /// The newest whole checkpoint in a vault.
    Vault(FromVault),
}

/// A vault, as whoever begins again from it knows it.
#[derive(Clone, Debug)]
pub struct FromVault {
    /// How it is called in messages.
    pub name: String,
    /// Where it is.
    pub target: VaultTarget,
    /// What requests are signed with; directories need none.
    pub keys: Option<Keys>,
    /// The vaults are claimed even if the cluster that has them may live.
    pub take_over: bool,
}

/// Why a group could not begin from a vault. Nothing was begun.
#[derive(Debug, thiserror::Error)]
#[error("vault://{vault} cannot be restored from: {why}")]
pub struct NotRetrieved {
    vault: String,
    why: String,
}

impl FromVault {
    fn failed(&self, why: impl ToString) -> NotRetrieved {
        NotRetrieved { vault: self.name.clone(), why: why.to_string() }
    }
}

/// Why nothing was begun.
#[derive(Debug, thiserror::Error)]
pub enum RetrieveError {
    /// Because of the vault, or what is in it.
    #[error(transparent)]
    Vault(#[from] NotRetrieved),
    /// Because of this machine's disk.
    #[error(transparent)]
    Log(#[from] log::LogError),
}

/// Makes `config.dir` the directory of a new group that begins with the newest whole checkpoint in a vault. `brain` makes what reads it.
///
/// # Errors
/// No whole checkpoint is there, another cluster lives there, the key for secrets is not the one, or something cannot be written.
pub(crate) fn retrieve(
    from: &FromVault,
    settings: &MasterConfig,
    config: &LogConfig,
    secrets: &SecretKeys,
    now_ms: u64,
    brain: impl Fn() -> Brain,
) -> Result<Revived, RetrieveError> {
    log::check_empty(&config.dir)?;
    if settings.secret_key_files.is_empty() {
        let how = "secrets in it were sealed with the masters' key: give that with --secret-key-file (secret.key in the data directory of a \
                   master that was alone)";
        return Err(from.failed(how).into());
    }
    let safe = secrets.safe(true).map_err(|fault| from.failed(fault.message))?;
    // What is sealed there needs the tenant's key, which the manifest has.
    let open = |key| {
        let limits = Limits { attempt: ATTEMPT, ..Limits::default() };
        Vault::of(&from.target, Secrets { keys: from.keys.clone(), key }, false, settings.vault_root.as_deref(), limits)
    };
    let fetched = Fetched(log::beside(&config.dir, ".checkpoint"));
    let plain = open(perilune_vault::Key::random()).map_err(|fault| from.failed(fault))?;
    let fetch = |manifest: &Manifest| fetch(&open(safe.tenant_key_of(TenantId::default(), &manifest.key)?)?, manifest, &fetched.0);
    let cluster = config.cluster.unwrap_or_else(Uuid::new_v4);
    let cluster_name = cluster.to_string();
    let mut seat = None;
    let claim = || -> Result<(), RetrieveError> {
        let mut looked = brain();
        log::inspect(&fetched.0, &mut looked)?;
        seat = Some(looked.seat());
        // From here on whoever had the vaults brings nothing there any more.
        Ok(take_over(&plain, &cluster_name, from.take_over, now_ms).map_err(|fault| from.failed(fault))?)
    };
    let manifest = newest_claimed(&plain, fetch, claim, |why| from.failed(why).into())?;
    let theirs = before(&plain, &cluster_name).map_err(|fault| from.failed(fault))?;
    if let Some(seat) = seat {
        take_over_others(&seat.state(), secrets, &cluster_name, &theirs);
    }
    let config = LogConfig { cluster: Some(cluster), ..config.clone() };
    // The nodes that lent memory may be gone; whoever comes lends it anew.
    let revived = log::revive(&config, &fetched.0, brain(), snapshot::without_memory)?;
    tracing::warn!(%cluster, from = manifest.cluster, checkpoint = manifest.number, "a new group begins from vault://{}", from.name);
    Ok(revived)
}

/// What was fetched; removed when it is of no more use.
struct Fetched(PathBuf);

impl Drop for Fetched {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The newest whole checkpoint, fetched, in a vault that is claimed: whoever had it may have made another until then, or deleted this one.
fn newest_claimed<E>(
    vault: &Vault,
    fetch: impl Fn(&Manifest) -> Result<(), VaultFault>,
    mut claim: impl FnMut() -> Result<(), E>,
    failed: impl Fn(String) -> E,
) -> Result<Manifest, E> {
    let (fetched, mut claimed) = (RefCell::new(None), None);
    let fetch = |manifest: &Manifest| {
        if fetched.borrow().as_ref() != Some(manifest) {
            // Half of another is there if this fails.
            fetched.replace(None);
            fetch(manifest)?;
            fetched.replace(Some(manifest.clone()));
        }
        Ok(())
    };
    loop {
        let found = newest(vault, fetch).map_err(&failed)?;
        if claimed.as_ref() == Some(&found) {
            return Ok(found);
        }
        claim()?;
        claimed = Some(found);
    }
}

/// The newest checkpoint that `fetch` finds whole. One that is not is said and passed over.
fn newest(vault: &Vault, fetch: impl Fn(&Manifest) -> Result<(), VaultFault>) -> Result<Manifest, String> {
    let mut why = Vec::new();
    for found in list_checkpoints(vault).map_err(|fault| fault.message)? {
        let whole = found.read(vault).and_then(|manifest| match manifest {
            Some(manifest) => fetch(&manifest).map(|()| Some(manifest)),
            None => Ok(None),
        });
        match whole {
            Ok(Some(manifest)) => return Ok(manifest),
            Ok(None) => {}
            Err(fault) if [Class::Damaged, Class::NoObject].contains(&fault.class) => {
                tracing::warn!(number = found.number, "a checkpoint is not whole, and an older one is looked for: {fault}");
                why.push(format!("checkpoint {} is not whole: {fault}", found.number));
            }
            Err(fault) => return Err(fault.message),
        }
    }
    Err(if why.is_empty() { "there is no checkpoint in it: is this its bucket, folder and prefix?".into() } else { why.join("; ") })
}

fn fetch(vault: &Vault, manifest: &Manifest, to: &Path) -> Result<(), VaultFault> {
    let failed = |e: std::io::Error| Class::Caller.with(format!("{}: {e}", to.display()));
    if let Some(parent) = to.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    let file = File::create(to).map_err(failed)?;
    manifest.read_state(vault, &mut |at, bytes| file.write_all_at(bytes, at).map_err(|e| format!("{}: {e}", to.display())))?;
    file.sync_all().map_err(failed)
}

/// The other vaults of the clusters that had the one with the checkpoint. What cannot be claimed now is later, when it is back
/// (`work/cold/claims.rs`).
fn take_over_others(state: &State, secrets: &SecretKeys, cluster: &str, theirs: &BTreeSet<String>) {
    let known = state.directory.known();
    for record in known.all_vaults().filter(|vault| vault.target.is_usable()) {
        let Some(all) = known.vaults_of(record.tenant) else { continue };
        let limits = Limits { attempt: ATTEMPT, ..Limits::default() };
        let opened = match secrets.safe(true) {
            Ok(safe) => safe.vault(all, record, limits),
            Err(fault) => Err(Class::Refused.with(fault.message)),
        };
        if let Err(fault) = opened.and_then(|vault| succeed(&vault, cluster, theirs)) {
            tracing::warn!(vault = %record.id, "was not claimed yet, so what is there is read and nothing is brought there: {fault}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use perilune_vault::{Options, Target};

    #[test]
    fn what_was_made_or_deleted_until_the_vault_was_claimed_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let vault = Vault::open(&Target::File(dir.path().into()), &Options::default()).unwrap();
        let [first, second, third] = [1, 2, 3].map(Manifest::example);
        first.write(&vault).unwrap();
        let fetched = RefCell::new(Vec::new());
        let fetch = |manifest: &Manifest| {
            fetched.borrow_mut().push(manifest.number);
            if manifest.number == 3 { Err(Class::Damaged.with("cut")) } else { Ok(()) }
        };
        let mut claims = 0;
        let claim = || {
            claims += 1;
            match claims {
                // The one that was found goes, and another comes.
                1 => {
                    std::fs::remove_dir_all(dir.path().join("checkpoints")).unwrap();
                    second.write(&vault).unwrap();
                }
                // One that is not whole lies over what was fetched.
                2 => third.write(&vault).unwrap(),
                _ => {}
            }
            Ok(())
        };
        let found = newest_claimed(&vault, fetch, claim, |why| why).unwrap();
        assert_eq!((found, claims, fetched.into_inner()), (second, 2, vec![1, 2, 3, 2]));
    }
}

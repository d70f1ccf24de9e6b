//! The key of the secrets in the directory: where it comes from, and what is done with it.

use perilune_protocol::sealed::Sealed;
use perilune_protocol::vault::VaultTarget;
use perilune_protocol::{Fault, FaultCode, Outcome, TenantId, VaultId};
use perilune_state::directory::{FeedRecord, Keeper, Pair, Secret, VaultRecord, VaultsRecord};
use perilune_vault::{Bound, Class, Key, Keys, Limits, Sealer, Secrets, Target, Vault, VaultFault, Vaulted};
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// What a master alone calls the key that it makes for itself, in its data directory.
const OWN: &str = "secret.key";
/// No honest key file is longer.
const FILE_BYTES_MAX: u64 = 4096;

/// Where the key comes from.
pub(crate) struct SecretKeys {
    given: Option<Given>,
    own: PathBuf,
    /// What is in `own`, once it was needed.
    found: Mutex<Option<Sealer>>,
    vault_root: Option<PathBuf>,
    /// Opens buckets that are in this process.
    #[cfg(feature = "simulation")]
    within: Option<Within>,
}

/// What was given to all masters, or is about to be.
struct Given {
    newest: Key,
    older: Option<Key>,
    /// Every master has the newest. Set by whoever has asked them all, read by whoever seals; guards nothing else, so relaxed.
    spread: AtomicBool,
}

impl Given {
    fn new(newest: Key, older: Option<Key>) -> Self {
        Self { newest, older, spread: AtomicBool::new(false) }
    }

    /// Seals with what all masters can open.
    fn sealer(&self) -> Sealer {
        let (newest, older) = (self.newest.clone(), self.older.clone());
        match older {
            Some(older) if !self.spread.load(Ordering::Relaxed) => Sealer::new(older, Some(newest)),
            older => Sealer::new(newest, older),
        }
    }
}

/// Gives the bucket that has a prefix.
#[cfg(feature = "simulation")]
pub(crate) type Within = std::sync::Arc<dyn Fn(&str) -> Vault + Send + Sync>;

/// Seals secrets, opens them, and opens vaults with them.
#[derive(Clone)]
pub struct Safe {
    sealer: Sealer,
    vault_root: Option<PathBuf>,
    #[cfg(feature = "simulation")]
    pub(crate) within: Option<Within>,
}

impl SecretKeys {
    /// With the keys in `files`, the newest first and at most one before it; without any, with one that this master makes when it is needed.
    ///
    /// # Errors
    /// What is wrong with a file.
    pub(crate) fn find(files: &[PathBuf], data_dir: &Path, vault_root: Option<PathBuf>) -> Result<Self, String> {
        let read = |file: &PathBuf| read(file).map_err(|why| format!("--secret-key-file {}: {why}", file.display()));
        let given = match files {
            [] => None,
            [newest] => Some(Given::new(read(newest)?, None)),
            [newest, older] => Some(Given::new(read(newest)?, Some(read(older)?))),
            _ => return Err("--secret-key-file takes the newest key and at most the one before it".into()),
        };
        Ok(Self {
            given,
            own: data_dir.join(OWN),
            found: Mutex::default(),
            vault_root,
            #[cfg(feature = "simulation")]
            within: None,
        })
    }

    /// With this key, and vaults that are in this process.
    #[cfg(feature = "simulation")]
    pub(crate) fn within(key: [u8; 32], within: Within) -> Self {
        let given = Some(Given::new(Key::new(key), None));
        Self { given, own: PathBuf::new(), found: Mutex::default(), vault_root: None, within: Some(within) }
    }

    /// What seals and opens; `alone`: no other master would have to know the key that is made here.
    ///
    /// # Errors
    /// [`FaultCode::WrongState`] where several masters were not given the same; [`FaultCode::Storage`] when the key cannot be kept.
    pub(crate) fn safe(&self, alone: bool) -> Outcome<Safe> {
        let sealer = match &self.given {
            Some(given) => given.sealer(),
            None if !alone => {
                let how = "make one with `openssl rand -hex 32`, or take the file secret.key of the master that was alone, and start all of \
                           them with it: --secret-key-file FILE";
                return Err(FaultCode::WrongState.with(format!("several masters need the same key for secrets: {how}")));
            }
            None => self.own()?,
        };
        Ok(Safe {
            sealer,
            vault_root: self.vault_root.clone(),
            #[cfg(feature = "simulation")]
            within: self.within.clone(),
        })
    }

    /// The number of the newest key, where one before it is here that it takes over from.
    pub(crate) fn takes_over(&self) -> Option<u32> {
        self.given.as_ref().filter(|given| given.older.is_some()).map(|given| given.newest.number())
    }

    /// Every master has the newest.
    pub(crate) fn spread(&self) {
        if let Some(given) = &self.given {
            given.spread.store(true, Ordering::Relaxed);
        }
    }

    /// The keys that are here, the newest first.
    pub(crate) fn numbers(&self) -> Vec<u32> {
        match &self.given {
            Some(given) => [Some(&given.newest), given.older.as_ref()].into_iter().flatten().map(Key::number).collect(),
            None => self.found.lock().unwrap_or_else(PoisonError::into_inner).iter().map(Sealer::number).collect(),
        }
    }

    fn own(&self) -> Outcome<Sealer> {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sealer) = &*found {
            return Ok(sealer.clone());
        }
        let failed = |why: String| FaultCode::Storage.with(format!("the key for secrets in {}: {why}", self.own.display()));
        // A link to what is not mounted yet is there, too.
        if fs::symlink_metadata(&self.own).is_err_and(|e| e.kind() == ErrorKind::NotFound) {
            make(&self.own).map_err(|e| failed(e.to_string()))?;
        }
        let sealer = Sealer::new(read(&self.own).map_err(failed)?, None);
        *found = Some(sealer.clone());
        Ok(sealer)
    }
}

fn read(file: &Path) -> Result<Key, String> {
    let len = fs::metadata(file).map_err(|e| e.to_string())?.len();
    if len > FILE_BYTES_MAX {
        return Err(format!("it has {len} bytes and cannot be a key"));
    }
    let text = zeroize::Zeroizing::new(fs::read(file).map_err(|e| e.to_string())?);
    Key::read(&text).map_err(|fault| fault.message)
}

/// Whole on disk before anything is sealed with it.
fn make(file: &Path) -> std::io::Result<()> {
    let new = file.with_extension("new");
    match fs::remove_file(&new) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    out.write_all(Key::random().bytes())?;
    out.sync_all()?;
    fs::rename(&new, file)?;
    file.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

impl Safe {
    /// Opens a vault of the tenant that has `all`.
    ///
    /// # Errors
    /// As [`Vault::of`], and when its secrets cannot be opened.
    pub(crate) fn vault(&self, all: &VaultsRecord, vault: &VaultRecord, limits: Limits) -> Vaulted<Vault> {
        let secrets = self.secrets(all, vault)?;
        #[cfg(feature = "simulation")]
        if let Some(within) = &self.within {
            return Ok(within(vault.target.prefix()));
        }
        Vault::of(&vault.target, secrets, all.sse, self.vault_root.as_deref(), limits)
    }

    /// Makes the directory of a vault that is to be claimed for the first time; a bucket is made by whoever has the account.
    ///
    /// # Errors
    /// As [`Target::made`].
    pub(crate) fn make_folder(&self, vault: &VaultRecord) -> Vaulted<()> {
        #[cfg(feature = "simulation")]
        if self.within.is_some() {
            return Ok(());
        }
        Target::made(&vault.target, self.vault_root.as_deref()).map(drop)
    }

    /// Whether a vault may lie there: a directory only below `--vault-root`, where that is set. What is not mounted yet may be.
    ///
    /// # Errors
    /// [`Class::Invalid`] where it may not.
    pub(crate) fn admits(&self, target: &VaultTarget) -> Vaulted<()> {
        let Some(root) = self.vault_root.as_deref().filter(|_| target.is_usable()) else { return Ok(()) };
        Target::existing(target, Some(root)).map(drop).or_else(|fault| if fault.class == Class::Invalid { Err(fault) } else { Ok(()) })
    }

    /// What a vault is opened with.
    ///
    /// # Errors
    /// [`Class::Invalid`] when the key is not here; [`Class::Damaged`] when they were altered.
    pub(crate) fn secrets(&self, all: &VaultsRecord, vault: &VaultRecord) -> Vaulted<Secrets> {
        let keys = vault.secret.as_ref().map(|secret| self.pair(vault.tenant, vault.id, secret)).transpose()?;
        Ok(Secrets { keys: keys.map(|pair| Keys::new(pair.ak, pair.sk)), key: self.tenant_key_of(all.tenant, &all.key)? })
    }

    /// The key of a tenant.
    ///
    /// # Errors
    /// As [`Safe::secrets`].
    pub(crate) fn tenant_key_of(&self, tenant: TenantId, sealed: &Sealed) -> Vaulted<Key> {
        let key = self.sealer.open(of_tenant(tenant), sealed)?;
        let key = <[u8; 32]>::try_from(key.bytes()).map_err(|_| Class::Damaged.with("the tenant's key is no key"))?;
        Ok(Key::new(key))
    }

    /// Seals where the sink of a feed is, with what opens it.
    ///
    /// # Errors
    /// When it is too long.
    pub(crate) fn seal_sink(&self, tenant: TenantId, feed: &str, uri: &str) -> Outcome<Sealed> {
        self.sealer.seal(Bound { tenant, vault: 0, field: &sink_of(feed) }, uri.as_bytes()).map_err(told)
    }

    /// What was sealed so.
    ///
    /// # Errors
    /// When the key is not here, or it was altered.
    pub(crate) fn open_sink(&self, tenant: TenantId, feed: &str, sealed: &Sealed) -> Outcome<String> {
        let opened = self.sealer.open(Bound { tenant, vault: 0, field: &sink_of(feed) }, sealed);
        opened.and_then(|plain| plain.text().map(str::to_owned)).map_err(told)
    }

    /// The same with all secrets sealed with the newest key; nothing where they are.
    ///
    /// # Errors
    /// When the key of one is not here, or it was altered.
    pub(crate) fn renewed(&self, all: &VaultsRecord) -> Outcome<Option<VaultsRecord>> {
        let mut new = all.clone();
        self.renew(of_tenant(all.tenant), &mut new.key)?;
        let pairs = new.vaults.iter_mut().filter_map(|vault| Some((vault.id.0, vault.secret.as_mut()?)));
        for (vault, pair) in pairs.chain(new.ram_user.as_mut().map(|pair| (0, pair))) {
            self.renew(Bound { tenant: all.tenant, vault, field: "ak" }, &mut pair.ak)?;
            self.renew(Bound { tenant: all.tenant, vault, field: "sk" }, &mut pair.sk)?;
        }
        Ok((new != *all).then_some(new))
    }

    /// The same for where the sink of a feed is.
    ///
    /// # Errors
    /// As [`Safe::renewed`].
    pub(crate) fn renewed_sink(&self, feed: &FeedRecord) -> Outcome<Option<FeedRecord>> {
        let mut new = feed.clone();
        if let Some(sealed) = &mut new.sealed {
            self.renew(Bound { tenant: feed.tenant, vault: 0, field: &sink_of(&feed.name) }, sealed)?;
        }
        Ok((new != *feed).then_some(new))
    }

    fn renew(&self, bound: Bound<'_>, sealed: &mut Sealed) -> Outcome<()> {
        if sealed.key != self.sealer.number() {
            *sealed = self.sealer.open(bound, sealed).and_then(|plain| self.sealer.seal(bound, plain.bytes())).map_err(told)?;
        }
        Ok(())
    }

    fn pair(&self, tenant: TenantId, vault: VaultId, secret: &Secret) -> Vaulted<Pair> {
        let open = |field, sealed| -> Vaulted<String> {
            Ok(self.sealer.open(Bound { tenant, vault: vault.0, field }, sealed)?.text()?.to_owned())
        };
        Ok(Pair { user_id: secret.user_id.clone(), ak: open("ak", &secret.ak)?, sk: open("sk", &secret.sk)? })
    }
}

fn sink_of(feed: &str) -> String {
    format!("sink {feed}")
}

fn of_tenant(tenant: TenantId) -> Bound<'static> {
    Bound { tenant, vault: 0, field: "key" }
}

fn told(fault: VaultFault) -> Fault {
    FaultCode::WrongState.with(fault.message)
}

impl Keeper for Safe {
    fn tenant_key(&self, tenant: TenantId) -> Outcome<Sealed> {
        self.sealer.seal(of_tenant(tenant), Key::random().bytes()).map_err(told)
    }

    fn seal(&self, tenant: TenantId, vault: VaultId, pair: &Pair) -> Outcome<Secret> {
        let seal = |field, text: &str| self.sealer.seal(Bound { tenant, vault: vault.0, field }, text.as_bytes()).map_err(told);
        Ok(Secret { user_id: pair.user_id.clone(), ak: seal("ak", &pair.ak)?, sk: seal("sk", &pair.sk)? })
    }

    fn open(&self, tenant: TenantId, vault: VaultId, secret: &Secret) -> Outcome<Pair> {
        self.pair(tenant, vault, secret).map_err(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use perilune_protocol::vault::HdfsPlace;

    const PAIR: (&str, &str) = ("AKIA", "wJalrXUtnFEMI");

    fn sealed(safe: &Safe) -> Secret {
        let pair = Pair { user_id: "u".into(), ak: PAIR.0.into(), sk: PAIR.1.into() };
        safe.seal(TenantId(2), VaultId(3), &pair).unwrap()
    }

    fn opened(safe: &Safe, secret: &Secret) -> Outcome<Pair> {
        safe.open(TenantId(2), VaultId(3), secret)
    }

    #[test]
    fn a_master_alone_makes_a_key_that_it_finds_again() {
        let dir = tempfile::tempdir().unwrap();
        let find = || SecretKeys::find(&[], dir.path(), None).unwrap();
        let refused = find().safe(false).err().unwrap();
        assert!(refused.message.contains("--secret-key-file") && !dir.path().join(OWN).exists(), "{refused}");
        let secret = sealed(&find().safe(true).unwrap());
        assert_eq!(opened(&find().safe(true).unwrap(), &secret).unwrap().sk, PAIR.1);
        // With others it is given to all of them.
        let given = SecretKeys::find(&[dir.path().join(OWN)], Path::new("/nowhere"), None).unwrap();
        assert_eq!(opened(&given.safe(false).unwrap(), &secret).unwrap().ak, PAIR.0);
        fs::write(dir.path().join(OWN), "short").unwrap();
        assert!(find().safe(true).err().unwrap().message.contains("secret.key"));
    }

    fn place() -> HdfsPlace {
        let [fs_name, prefix, user, keytab, principal] = ["file:///v", "", "", "", ""].map(str::to_owned);
        HdfsPlace { fs_name, prefix, user, keytab, principal, confs: Vec::new() }
    }

    #[test]
    fn all_can_open_what_is_sealed_until_all_have_the_newest_and_then_it_is_sealed_anew() {
        let dir = tempfile::tempdir().unwrap();
        let [old, new] = ["old", "new"].map(|name| dir.path().join(name));
        fs::write(&old, "00".repeat(32)).unwrap();
        fs::write(&new, "11".repeat(32)).unwrap();
        let find =
            |files: &[&PathBuf]| SecretKeys::find(&files.iter().map(|f| (*f).clone()).collect::<Vec<_>>(), dir.path(), None).unwrap();
        let (before, both, after) = (find(&[&old]), find(&[&new, &old]), find(&[&new]));
        assert_eq!((before.takes_over(), both.takes_over()), (None, Some(after.numbers()[0])));
        assert_eq!(both.numbers(), [after.numbers(), before.numbers()].concat());
        let safe = |keys: &SecretKeys| keys.safe(false).unwrap();
        let (tenant, id, target) = (TenantId(2), VaultId(3), VaultTarget::Hdfs(place()));
        let secret = sealed(&safe(&both));
        assert_eq!(opened(&safe(&before), &secret).unwrap().sk, PAIR.1, "whoever has not the newest yet can open it");
        let vault =
            VaultRecord { id, tenant, number: 1, name: "v".into(), target, secret: Some(secret), revision: 1, ctime_ms: 0, mtime_ms: 0 };
        let key = safe(&both).tenant_key(tenant).unwrap();
        let all = VaultsRecord { tenant, key, sse: false, named: true, ram_user: None, vaults: vec![vault] };
        both.spread();
        let renewed = safe(&both).renewed(&all).unwrap().unwrap();
        assert_eq!(safe(&both).renewed(&renewed), Ok(None));
        assert_eq!(opened(&safe(&after), renewed.vaults[0].secret.as_ref().unwrap()).unwrap().sk, PAIR.1);
        let key = |keys, all: &VaultsRecord| *safe(keys).tenant_key_of(tenant, &all.key).unwrap().bytes();
        assert_eq!(key(&after, &renewed), key(&before, &all));
        assert!(safe(&after).renewed(&all).is_err(), "the older one was taken away too early");
    }

    #[test]
    fn a_new_key_takes_over() {
        let dir = tempfile::tempdir().unwrap();
        let [old, new] = ["old", "new"].map(|name| dir.path().join(name));
        fs::write(&old, "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n").unwrap();
        fs::write(&new, "ff112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n").unwrap();
        let safe = |files: &[&PathBuf]| {
            let files: Vec<_> = files.iter().map(|file| (*file).clone()).collect();
            SecretKeys::find(&files, dir.path(), None).unwrap().safe(false).unwrap()
        };
        let secret = sealed(&safe(&[&old]));
        assert_eq!(opened(&safe(&[&new, &old]), &secret).unwrap().sk, PAIR.1);
        let fault = opened(&safe(&[&new]), &secret).unwrap_err();
        assert!(fault.message.contains("secret key file") && !fault.message.contains(PAIR.1), "{fault}");
        let missing = SecretKeys::find(&[dir.path().join("none")], dir.path(), None).err().unwrap();
        assert!(missing.contains("--secret-key-file"), "{missing}");
    }
}

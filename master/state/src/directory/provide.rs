//! What may become of the cold tier of a tenant. The brain knows no key: who decides brings a [`Keeper`] that seals and opens.

use super::asked::{Keeper, Lies, NewVault, Pair, VAULTS_MAX, VaultRefused};
use super::decide::{Decision, Refused, check_text};
use super::record::{Change, Known, TenantRecord};
use super::vault::{Secret, VaultRecord, VaultsRecord};
use perilune_protocol::vault::{S3Place, VaultTarget};
use perilune_protocol::{TenantId, VaultId};

/// Where what belongs to no vault is sealed for.
pub(super) const NO_VAULT: VaultId = VaultId(0);

impl Known {
    /// A tenant begins, with a vault or with credentials only; `named`: its vaults have names.
    ///
    /// # Errors
    /// As [`Known::create`] and [`Known::add_vault`].
    pub fn create_with(
        &self,
        (name, shown, user_id): (&str, &str, &str),
        vault: Option<&NewVault>,
        ram_user: Option<&Pair>,
        sse: bool,
        keeper: &dyn Keeper,
        now_ms: u64,
    ) -> Decision {
        let tenant = self.begun(name, shown, user_id, now_ms)?;
        let mut record = self.begin_vaults(&tenant, keeper)?;
        record.sse = sse;
        if let Some(pair) = ram_user {
            record.ram_user = Some(keeper.seal(tenant.id, NO_VAULT, pair).map_err(Refused::Secret)?);
        }
        if let Some(vault) = vault {
            self.place(&mut record, vault, keeper, now_ms)?;
        }
        Ok(Some(Change::TenantVaults(tenant, record)))
    }

    /// A tenant gets a vault more, and its new objects go there. The first decides whether they have names.
    ///
    /// # Errors
    /// [`Refused::Unknown`], [`Refused::Dropped`], [`Refused::Secret`]; [`VaultRefused`]: `NameTaken`, `Name`, `Full`, `Same`, `Named`, `Nameless`.
    pub fn add_vault(&self, tenant: &str, vault: &NewVault, keeper: &dyn Keeper, now_ms: u64) -> Decision {
        let tenant = self.living(tenant)?;
        let mut record = match self.vaults_of(tenant.id) {
            Some(record) => record.clone(),
            None => self.begin_vaults(tenant, keeper)?,
        };
        self.place(&mut record, vault, keeper, now_ms)?;
        Ok(Some(Change::Vaults(record)))
    }

    /// A vault leaves that nothing lies in; `in_use` says what does.
    ///
    /// # Errors
    /// [`Refused::Unknown`], [`Refused::Dropped`]; [`VaultRefused`]: `Unknown`, `OtherKind`, `InUse`.
    pub fn drop_vault(&self, tenant: &str, name: &str, s3: bool, in_use: &dyn Fn(VaultId) -> Lies) -> Decision {
        let mut record = self.vaults_called(tenant, name)?.clone();
        let nth = nth_of_kind(&record, name, s3)?;
        let lies = in_use(record.vaults[nth].id);
        if lies != Lies::default() {
            return Err(VaultRefused::InUse(lies).into());
        }
        record.vaults.remove(nth);
        Ok(Some(Change::Vaults(record)))
    }

    /// A vault is called otherwise, or requests to it are signed with another pair, or both.
    ///
    /// # Errors
    /// As [`Known::drop_vault`] but for `InUse`, and [`VaultRefused`]: `NameTaken`, `Name`, `SamePair`; [`Refused::Secret`].
    pub fn alter_vault(
        &self,
        tenant: &str,
        name: &str,
        new_name: Option<&str>,
        pair: Option<&Pair>,
        keeper: &dyn Keeper,
        now_ms: u64,
    ) -> Decision {
        let mut record = self.vaults_called(tenant, name)?.clone();
        let nth = nth_of_kind(&record, name, true)?;
        if let Some(new_name) = new_name {
            check_new_name(&record, new_name)?;
            record.vaults[nth].name = new_name.into();
            record.vaults[nth].mtime_ms = now_ms.max(record.vaults[nth].mtime_ms);
        }
        if let Some(pair) = pair {
            rotate(&mut record.vaults[nth], pair, keeper, now_ms)?;
        }
        Ok(Some(Change::Vaults(record)))
    }

    /// Requests to the vault of this number among the tenant's are signed with another pair.
    ///
    /// # Errors
    /// As [`Known::alter_vault`].
    pub fn rotate_numbered(&self, tenant: &str, number: &str, pair: &Pair, keeper: &dyn Keeper, now_ms: u64) -> Decision {
        let unknown = || VaultRefused::Unknown(number.into());
        let tenant = self.living(tenant)?;
        let mut record = self.vaults_of(tenant.id).ok_or_else(unknown)?.clone();
        let found = record.vaults.iter_mut().find(|vault| vault.number.to_string() == number && vault.secret.is_some());
        rotate(found.ok_or_else(unknown)?, pair, keeper, now_ms)?;
        Ok(Some(Change::Vaults(record)))
    }

    /// The pairs of users change in all vaults that have them, and that of the ram user; all of it or nothing.
    ///
    /// # Errors
    /// [`Refused::Unknown`], [`Refused::Dropped`], [`Refused::Secret`]; [`VaultRefused`]: `NoRamUser`, `OtherRamUser`, `SamePair`, `WhosePair`, `NoUser`.
    pub fn rotate_users(&self, tenant: &str, users: &[Pair], ram_user: Option<&Pair>, keeper: &dyn Keeper, now_ms: u64) -> Decision {
        let tenant = self.living(tenant)?;
        let none = if ram_user.is_some() { VaultRefused::NoRamUser } else { VaultRefused::NoUser };
        let mut record = self.vaults_of(tenant.id).ok_or(none)?.clone();
        if let Some(pair) = ram_user {
            let secret = record.ram_user.as_ref().ok_or(VaultRefused::NoRamUser)?;
            if secret.user_id != pair.user_id {
                return Err(VaultRefused::OtherRamUser.into());
            }
            record.ram_user = Some(renewed(tenant.id, NO_VAULT, secret, pair, keeper)?);
        }
        for pair in users {
            let is_of = |secret: &Secret| secret.user_id == pair.user_id;
            // What is nobody's is meant where nothing is theirs.
            let (mut found, some_are) = (false, record.vaults.iter().filter_map(|vault| vault.secret.as_ref()).any(is_of));
            for vault in &mut record.vaults {
                let Some(secret) = &vault.secret else { continue };
                if secret.user_id.is_empty() && users.len() != 1 {
                    return Err(VaultRefused::WhosePair.into());
                }
                if is_of(secret) || secret.user_id.is_empty() && !some_are {
                    rotate(vault, pair, keeper, now_ms)?;
                    found = true;
                }
            }
            if !found {
                return Err(VaultRefused::NoUser.into());
            }
        }
        Ok(Some(Change::Vaults(record)))
    }

    /// Whether what is written from now on is encrypted.
    ///
    /// # Errors
    /// [`Refused::Unknown`], [`Refused::Dropped`], [`Refused::Secret`]; [`VaultRefused::SameSse`].
    pub fn set_sse(&self, tenant: &str, sse: bool, keeper: &dyn Keeper, now_ms: u64) -> Decision {
        let tenant = self.living(tenant)?;
        let mut record = match self.vaults_of(tenant.id) {
            Some(record) => record.clone(),
            None => self.begin_vaults(tenant, keeper)?,
        };
        if record.sse == sse {
            return Err(VaultRefused::SameSse(sse).into());
        }
        record.sse = sse;
        record.vaults.iter_mut().for_each(|vault| touch(vault, now_ms));
        Ok(Some(Change::Vaults(record)))
    }

    fn begin_vaults(&self, tenant: &TenantRecord, keeper: &dyn Keeper) -> Result<VaultsRecord, Refused> {
        let key = keeper.tenant_key(tenant.id).map_err(Refused::Secret)?;
        Ok(VaultsRecord { tenant: tenant.id, key, sse: false, named: false, ram_user: None, vaults: Vec::new() })
    }

    fn vaults_called(&self, tenant: &str, name: &str) -> Result<&VaultsRecord, Refused> {
        let tenant = self.living(tenant)?;
        self.vaults_of(tenant.id).filter(|record| record.named).ok_or_else(|| VaultRefused::Unknown(name.into()).into())
    }

    fn place(&self, record: &mut VaultsRecord, vault: &NewVault, keeper: &dyn Keeper, now_ms: u64) -> Result<(), Refused> {
        let named = !vault.name.is_empty();
        if record.vaults.is_empty() {
            record.named = named;
        }
        match (record.named, named) {
            (true, false) => return Err(VaultRefused::Named.into()),
            (false, true) => return Err(VaultRefused::Nameless.into()),
            (true, true) => check_new_name(record, &vault.name)?,
            (false, false) => {}
        }
        if record.vaults.len() >= VAULTS_MAX {
            return Err(VaultRefused::Full.into());
        }
        let tenant = record.tenant;
        let target = self.apart(tenant, &vault.target);
        check_target(&target)?;
        for other in record.vaults.iter().filter(|other| other.target == target) {
            let pair = other.secret.as_ref().map(|secret| keeper.open(tenant, other.id, secret)).transpose().map_err(Refused::Secret)?;
            if pair.as_ref().map(keys) == vault.pair.as_ref().map(keys) {
                return Err(VaultRefused::Same.into());
            }
        }
        let id = self.fresh_vault();
        let seal = |pair| keeper.seal(tenant, id, pair).map_err(Refused::Secret);
        record.vaults.push(VaultRecord {
            id,
            tenant,
            number: record.vaults.iter().map(|vault| vault.number).max().unwrap_or(0) + 1,
            name: vault.name.clone(),
            target,
            secret: vault.pair.as_ref().map(seal).transpose()?,
            revision: 1,
            ctime_ms: now_ms,
            mtime_ms: now_ms,
        });
        Ok(())
    }

    /// Where a vault of a tenant lies that is to be there: no two tenants have one folder, so where another has this one, its name ends with the
    /// tenant's number. Which service it is counts for nothing: one may be called by several names.
    fn apart(&self, tenant: TenantId, target: &VaultTarget) -> VaultTarget {
        let is_taken = |place: &S3Place| {
            let others = self.all_vaults().filter(|vault| vault.tenant != tenant);
            others.filter_map(|vault| vault.target.bucket()).any(|other| other == (&*place.bucket, &*place.prefix))
        };
        let mut target = target.clone();
        if let VaultTarget::S3(place) = &mut target {
            while is_taken(place) {
                let between = if place.prefix.is_empty() { "" } else { "_" };
                place.prefix = format!("{}{between}{}", place.prefix, tenant.0);
            }
        }
        target
    }
}

fn keys(pair: &Pair) -> (&str, &str) {
    (&pair.ak, &pair.sk)
}

fn nth_of_kind(record: &VaultsRecord, name: &str, s3: bool) -> Result<usize, VaultRefused> {
    let nth = record.vaults.iter().position(|vault| vault.name == name).ok_or_else(|| VaultRefused::Unknown(name.into()))?;
    let is_s3 = matches!(record.vaults[nth].target, VaultTarget::S3(_));
    if is_s3 == s3 { Ok(nth) } else { Err(VaultRefused::OtherKind(name.into())) }
}

/// What it takes to open it has changed.
fn touch(vault: &mut VaultRecord, now_ms: u64) {
    vault.revision += 1;
    // The clock of one leader may be behind that of the one before.
    vault.mtime_ms = now_ms.max(vault.mtime_ms);
}

fn rotate(vault: &mut VaultRecord, pair: &Pair, keeper: &dyn Keeper, now_ms: u64) -> Result<(), Refused> {
    let secret = vault.secret.as_ref().ok_or_else(|| VaultRefused::OtherKind(vault.name.clone()))?;
    vault.secret = Some(renewed(vault.tenant, vault.id, secret, pair, keeper)?);
    touch(vault, now_ms);
    Ok(())
}

fn renewed(tenant: TenantId, vault: VaultId, secret: &Secret, pair: &Pair, keeper: &dyn Keeper) -> Result<Secret, Refused> {
    let old = keeper.open(tenant, vault, secret).map_err(Refused::Secret)?;
    if keys(&old) == keys(pair) {
        return Err(VaultRefused::SamePair.into());
    }
    let user_id = if pair.user_id.is_empty() { &old.user_id } else { &pair.user_id };
    keeper.seal(tenant, vault, &Pair { user_id: user_id.clone(), ..pair.clone() }).map_err(Refused::Secret)
}

fn check_new_name(record: &VaultsRecord, name: &str) -> Result<(), VaultRefused> {
    let plain = name.len() <= 128 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    if !plain || !name.starts_with(|first: char| first.is_ascii_alphabetic()) {
        return Err(VaultRefused::Name);
    }
    if record.vaults.iter().any(|vault| vault.name == name) {
        return Err(VaultRefused::NameTaken(name.into()));
    }
    Ok(())
}

fn check_target(target: &VaultTarget) -> Result<(), Refused> {
    match target {
        VaultTarget::S3(s3) => {
            let texts = [
                ("bucket", &s3.bucket),
                ("prefix", &s3.prefix),
                ("endpoint", &s3.endpoint),
                ("external_endpoint", &s3.external_endpoint),
                ("region", &s3.region),
            ];
            texts.into_iter().try_for_each(|(what, text)| check_text(what, text))
        }
        VaultTarget::Hdfs(hdfs) => {
            let texts = [
                ("fs_name", &hdfs.fs_name),
                ("prefix", &hdfs.prefix),
                ("user", &hdfs.user),
                ("hdfs_kerberos_keytab", &hdfs.keytab),
                ("hdfs_kerberos_principal", &hdfs.principal),
            ];
            texts.into_iter().try_for_each(|(what, text)| check_text(what, text))?;
            if hdfs.confs.len() > 64 {
                return Err(Refused::Wrong(format!("there are up to 64 hdfs_confs, not {}", hdfs.confs.len())));
            }
            hdfs.confs.iter().flat_map(|(key, value)| [key, value]).try_for_each(|text| check_text("hdfs_confs", text))
        }
    }
}

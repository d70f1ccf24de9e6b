//! What an instance has in the cold tier, as the page shows it. Seconds are texts; secrets are shown to who asks for them, and to nobody else.

use super::envelope::Refusal;
use super::shown::seconds;
use super::store::MASKED;
use crate::secrets::Safe;
use perilune_protocol::vault::VaultTarget;
use perilune_protocol::{TenantId, VaultId};
use perilune_state::directory::{Keeper, Secret, VaultRecord, VaultsRecord};
use serde::Serialize;

/// What of a secret is shown.
#[derive(Clone, Copy)]
pub(super) enum Shown<'a> {
    /// Nothing.
    Masked,
    /// All, by whom it was sealed.
    Clear(&'a Safe),
}

#[derive(Serialize)]
pub(super) struct ObjInfo {
    ctime: String,
    mtime: String,
    id: String,
    ak: String,
    sk: String,
    bucket: String,
    prefix: String,
    endpoint: String,
    region: String,
    provider: &'static str,
    external_endpoint: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    user_id: String,
    sse_enabled: bool,
}

#[derive(Serialize)]
pub(super) struct StorageVault {
    id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hdfs_info: Option<HdfsInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    obj_info: Option<ObjInfo>,
}

#[derive(Serialize)]
struct HdfsInfo {
    build_conf: BuildConf,
    prefix: String,
}

#[derive(Serialize)]
struct BuildConf {
    fs_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    user: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    hdfs_kerberos_keytab: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    hdfs_kerberos_principal: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hdfs_confs: Vec<Conf>,
}

#[derive(Serialize)]
struct Conf {
    key: String,
    value: String,
}

#[derive(Serialize)]
pub(super) struct User {
    user_id: String,
    ak: String,
    sk: String,
}

/// What `get_obj_store_info` tells.
#[derive(Serialize)]
pub(super) struct ObjStore {
    obj_info: Vec<ObjInfo>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    storage_vault: Vec<StorageVault>,
    #[serde(flatten)]
    default: Option<Default>,
    enable_storage_vault: bool,
}

/// Where new objects go.
#[derive(Serialize)]
pub(super) struct Default {
    default_storage_vault_id: String,
    default_storage_vault_name: String,
}

impl Shown<'_> {
    fn pair(self, tenant: TenantId, vault: VaultId, secret: Option<&Secret>) -> Result<(String, String), Refusal> {
        match (secret, self) {
            (None, _) => Ok((String::new(), String::new())),
            (Some(_), Self::Masked) => Ok((MASKED.into(), MASKED.into())),
            (Some(secret), Self::Clear(safe)) => Ok(safe.open(tenant, vault, secret).map(|pair| (pair.ak, pair.sk))?),
        }
    }
}

impl ObjInfo {
    fn of(all: &VaultsRecord, vault: &VaultRecord, shown: Shown<'_>) -> Result<Option<Self>, Refusal> {
        let VaultTarget::S3(place) = &vault.target else { return Ok(None) };
        let (ak, sk) = shown.pair(vault.tenant, vault.id, vault.secret.as_ref())?;
        Ok(Some(Self {
            ctime: seconds(vault.ctime_ms),
            mtime: seconds(vault.mtime_ms),
            id: vault.number.to_string(),
            ak,
            sk,
            bucket: place.bucket.clone(),
            prefix: place.prefix.clone(),
            endpoint: place.endpoint.clone(),
            region: place.region.clone(),
            provider: place.provider.as_str(),
            external_endpoint: place.external_endpoint.clone(),
            user_id: vault.secret.as_ref().map_or_else(String::new, |secret| secret.user_id.clone()),
            sse_enabled: all.sse,
        }))
    }

    /// Those that have no names.
    pub(super) fn all_of(all: &VaultsRecord, shown: Shown<'_>) -> Result<Vec<Self>, Refusal> {
        let nameless = all.vaults.iter().filter(|_| !all.named);
        nameless.filter_map(|vault| Self::of(all, vault, shown).transpose()).collect()
    }
}

impl StorageVault {
    pub(super) fn of(all: &VaultsRecord, vault: &VaultRecord, shown: Shown<'_>) -> Result<Self, Refusal> {
        let hdfs = match &vault.target {
            VaultTarget::S3(_) => None,
            VaultTarget::Hdfs(place) => {
                // What the settings say may be a secret.
                let value = |value: &str| if matches!(shown, Shown::Masked) { MASKED.to_owned() } else { value.to_owned() };
                let confs = place.confs.iter().map(|(key, said)| Conf { key: key.clone(), value: value(said) });
                let build_conf = BuildConf {
                    fs_name: place.fs_name.clone(),
                    user: place.user.clone(),
                    hdfs_kerberos_keytab: place.keytab.clone(),
                    hdfs_kerberos_principal: place.principal.clone(),
                    hdfs_confs: confs.collect(),
                };
                Some(HdfsInfo { build_conf, prefix: place.prefix.clone() })
            }
        };
        let obj_info = ObjInfo::of(all, vault, shown)?;
        Ok(Self { id: vault.number.to_string(), name: vault.name.clone(), hdfs_info: hdfs, obj_info })
    }
}

impl User {
    /// Masked.
    pub(super) fn of(secret: &Secret) -> Self {
        Self { user_id: secret.user_id.clone(), ak: MASKED.into(), sk: MASKED.into() }
    }
}

impl ObjStore {
    pub(super) fn of(all: Option<&VaultsRecord>, shown: Shown<'_>) -> Result<Self, Refusal> {
        let Some(all) = all else {
            return Ok(Self { obj_info: Vec::new(), storage_vault: Vec::new(), default: None, enable_storage_vault: false });
        };
        let named = all.vaults.iter().filter(|_| all.named);
        Ok(Self {
            obj_info: ObjInfo::all_of(all, shown)?,
            storage_vault: named.map(|vault| StorageVault::of(all, vault, shown)).collect::<Result<_, _>>()?,
            default: Default::of(all),
            enable_storage_vault: all.named,
        })
    }
}

impl Default {
    /// Where vaults have names.
    pub(super) fn of(all: &VaultsRecord) -> Option<Self> {
        let newest = all.newest().filter(|_| all.named)?;
        Some(Self { default_storage_vault_id: newest.number.to_string(), default_storage_vault_name: newest.name.clone() })
    }
}

//! Buckets, file systems and credentials as callers describe them, and what is missing in them.

use super::envelope::Refusal;
use super::said;
use crate::api::App;
use crate::work::aside;
use perilune_protocol::vault::{HdfsPlace, Provider, S3Place, VaultTarget};
use perilune_state::directory::{NewVault, Pair};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// What stands in the place of a secret.
pub(super) const MASKED: &str = "******";
/// What a vault is called that came with its instance.
pub(super) const BUILT_IN: &str = "built_in_storage_vault";

/// A bucket; written back, masked, where the page does so.
#[derive(Clone, Default, Deserialize, Serialize, ToSchema)]
#[schema(as = ObjectStoreInfo)]
pub(super) struct ObjInfo {
    #[serde(default, deserialize_with = "said::text", skip_serializing_if = "String::is_empty")]
    pub(super) id: String,
    #[serde(default, deserialize_with = "said::text", skip_serializing_if = "String::is_empty")]
    pub(super) ak: String,
    #[serde(default, deserialize_with = "said::text", skip_serializing_if = "String::is_empty")]
    pub(super) sk: String,
    #[serde(default, deserialize_with = "said::text", skip_serializing_if = "String::is_empty")]
    bucket: String,
    #[serde(default, deserialize_with = "said::text", skip_serializing_if = "String::is_empty")]
    pub(super) prefix: String,
    #[serde(default, deserialize_with = "said::text", skip_serializing_if = "String::is_empty")]
    endpoint: String,
    #[serde(default, deserialize_with = "said::text", skip_serializing_if = "String::is_empty")]
    external_endpoint: String,
    #[serde(default, deserialize_with = "said::text", skip_serializing_if = "String::is_empty")]
    region: String,
    #[serde(default, deserialize_with = "said::text", skip_serializing_if = "String::is_empty")]
    provider: String,
    #[serde(default, deserialize_with = "said::text", skip_serializing_if = "String::is_empty")]
    user_id: String,
    #[serde(default, deserialize_with = "said::text", skip_serializing_if = "String::is_empty")]
    role_arn: String,
}

/// Who may sign.
#[derive(Clone, Deserialize, Serialize, ToSchema)]
#[schema(as = BucketUser)]
pub(super) struct User {
    #[serde(default, deserialize_with = "said::text", skip_serializing_if = "String::is_empty")]
    user_id: String,
    #[serde(default, deserialize_with = "said::text", skip_serializing_if = "String::is_empty")]
    ak: String,
    #[serde(default, deserialize_with = "said::text", skip_serializing_if = "String::is_empty")]
    sk: String,
}

/// A vault: a bucket, or a file system.
#[derive(Deserialize, ToSchema)]
#[schema(as = StorageVault)]
pub(super) struct Vault {
    #[serde(default, deserialize_with = "said::text")]
    pub(super) name: String,
    #[serde(default, deserialize_with = "said::text")]
    pub(super) alter_name: String,
    pub(super) obj_info: Option<ObjInfo>,
    pub(super) hdfs_info: Option<HdfsInfo>,
    /// It is dropped even where it cannot be emptied; what lies there then stays.
    #[serde(default)]
    pub(super) force: bool,
}

#[derive(Deserialize, ToSchema)]
pub(super) struct HdfsInfo {
    build_conf: Option<BuildConf>,
    #[serde(default, deserialize_with = "said::text")]
    prefix: String,
}

#[derive(Default, Deserialize, ToSchema)]
#[schema(as = HdfsBuildConf)]
struct BuildConf {
    #[serde(default, deserialize_with = "said::text")]
    fs_name: String,
    #[serde(default, deserialize_with = "said::text")]
    user: String,
    #[serde(default, deserialize_with = "said::text")]
    hdfs_kerberos_keytab: String,
    #[serde(default, deserialize_with = "said::text")]
    hdfs_kerberos_principal: String,
    #[serde(default)]
    hdfs_confs: Vec<Conf>,
}

#[derive(Deserialize, ToSchema)]
#[schema(as = HdfsConf)]
struct Conf {
    #[serde(default, deserialize_with = "said::text")]
    key: String,
    #[serde(default, deserialize_with = "said::text")]
    value: String,
}

/// What of a bucket may be left out.
#[derive(Clone, Copy, Default)]
pub(super) struct Optional {
    /// Where others call it: then it is where it is called.
    pub(super) external_endpoint: bool,
    /// Whose it is: then it speaks as Amazon's.
    pub(super) provider: bool,
}

impl ObjInfo {
    /// The bucket that is meant.
    ///
    /// # Errors
    /// What is missing.
    pub(super) fn vault(&self, name: &str, optional: Optional) -> Result<NewVault, Refusal> {
        let here = [&self.bucket, &self.endpoint, &self.region].iter().all(|text| !text.trim().is_empty())
            && (optional.external_endpoint || !self.external_endpoint.is_empty());
        let provider = self.provider()?;
        if !self.role_arn.is_empty() {
            return Err(Refusal::argument(if here && provider.is_some() {
                "this release cannot take a role: give ak and sk instead of role_arn"
            } else {
                "s3 conf info err with role_arn, please check it"
            }));
        }
        let Some(provider) = provider.or(optional.provider.then_some(Provider::S3)).filter(|_| here && self.pair().is_some()) else {
            return Err(Refusal::argument("s3 conf info err, please check it"));
        };
        let external = if self.external_endpoint.is_empty() { &self.endpoint } else { &self.external_endpoint };
        let place = S3Place {
            bucket: self.bucket.clone(),
            prefix: folder(&self.prefix)?,
            endpoint: self.endpoint.clone(),
            external_endpoint: external.clone(),
            region: self.region.clone(),
            provider,
        };
        Ok(NewVault { name: name.into(), target: VaultTarget::S3(place), pair: self.pair() })
    }

    /// What signs, where both parts are there.
    pub(super) fn pair(&self) -> Option<Pair> {
        let Self { user_id, ak, sk, .. } = self;
        let is_there = !ak.is_empty() && !sk.is_empty();
        is_there.then(|| Pair { user_id: user_id.clone(), ak: ak.clone(), sk: sk.clone() })
    }

    /// Whose it is, as far as somebody said.
    pub(super) fn provider(&self) -> Result<Option<Provider>, Refusal> {
        let said = self.provider.as_str();
        if matches!(said, "" | "UNKONWN" | "UNKNOWN" | "-1") {
            return Ok(None);
        }
        let mut all = Provider::ALL.into_iter().enumerate();
        let found = all.find(|(number, provider)| provider.as_str() == said || number.to_string() == said);
        let unknown =
            || Refusal::argument(format!("provider is one of OSS, S3, COS, OBS, BOS, GCP, AZURE, TOS, not {}", said::shortened(said)));
        found.map(|(_, provider)| Some(provider)).ok_or_else(unknown)
    }

    /// What it says otherwise of where a bucket is.
    pub(super) fn differs(&self, place: &S3Place) -> Result<Vec<&'static str>, Refusal> {
        let prefix = self.prefix.trim_matches([' ', '/']);
        let provider = self.provider()?.map_or("", Provider::as_str);
        let all = [
            ("bucket", self.bucket.as_str(), place.bucket.as_str()),
            ("prefix", prefix, &place.prefix),
            ("endpoint", &self.endpoint, &place.endpoint),
            ("external_endpoint", &self.external_endpoint, &place.external_endpoint),
            ("region", &self.region, &place.region),
            ("provider", provider, place.provider.as_str()),
            ("role_arn", &self.role_arn, ""),
        ];
        Ok(all.into_iter().filter(|(_, said, is)| !said.is_empty() && said != is).map(|(name, ..)| name).collect())
    }

    /// The same as it may be said back.
    pub(super) fn masked(&self) -> Self {
        let short = said::shortened;
        Self {
            id: short(&self.id),
            ak: mask(&self.ak),
            sk: mask(&self.sk),
            bucket: short(&self.bucket),
            prefix: short(&self.prefix),
            endpoint: short(&self.endpoint),
            external_endpoint: short(&self.external_endpoint),
            region: short(&self.region),
            provider: short(&self.provider),
            user_id: short(&self.user_id),
            role_arn: short(&self.role_arn),
        }
    }
}

impl User {
    /// What signs, where nothing is missing.
    pub(super) fn pair(&self) -> Option<Pair> {
        let Self { user_id, ak, sk } = self;
        let is_there = [user_id, ak, sk].iter().all(|text| !text.is_empty());
        is_there.then(|| Pair { user_id: user_id.clone(), ak: ak.clone(), sk: sk.clone() })
    }

    /// The same as it may be said back.
    pub(super) fn masked(&self) -> Self {
        Self { user_id: said::shortened(&self.user_id), ak: mask(&self.ak), sk: mask(&self.sk) }
    }
}

impl HdfsInfo {
    /// The folder that is meant. No two vaults have the same one: it is called by a number that is drawn for it, too.
    ///
    /// # Errors
    /// What cannot be, or is not to be on this master.
    pub(super) async fn vault(&self, name: &str, app: &App) -> Result<NewVault, Refusal> {
        let prefix = folder(&self.prefix)?;
        let none = BuildConf::default();
        let conf = self.build_conf.as_ref().unwrap_or(&none);
        if !is_file_system(&conf.fs_name) {
            return Err(Refusal::argument(format!("invalid fs_name: {}", said::shortened(&conf.fs_name))));
        }
        let drawn = Uuid::new_v4();
        let place = HdfsPlace {
            fs_name: conf.fs_name.clone(),
            prefix: if prefix.is_empty() { drawn.to_string() } else { format!("{prefix}_{drawn}") },
            user: conf.user.clone(),
            keytab: conf.hdfs_kerberos_keytab.clone(),
            principal: conf.hdfs_kerberos_principal.clone(),
            confs: conf.hdfs_confs.iter().map(|conf| (conf.key.clone(), conf.value.clone())).collect(),
        };
        let (safe, target) = (app.engine.safe()?, VaultTarget::Hdfs(place));
        let new = NewVault { name: name.into(), target: target.clone(), pair: None };
        let admitted = aside(move || safe.admits(&target)).await?;
        admitted.map(|()| new).map_err(|fault| Refusal::argument(format!("invalid fs_name: {}", fault.message)))
    }
}

fn mask(secret: &str) -> String {
    if secret.is_empty() { String::new() } else { MASKED.into() }
}

/// The folder that a prefix names, none where it is empty.
fn folder(prefix: &str) -> Result<String, Refusal> {
    let folder = prefix.trim_matches([' ', '/']);
    if folder.is_empty() || folder.split('/').all(|part| !matches!(part, "" | "." | "..")) {
        return Ok(folder.to_owned());
    }
    Err(Refusal::argument(format!("invalid prefix: {}", said::shortened(prefix))))
}

/// Whether it is `hdfs://HOST:PORT`, `file:///PATH`, or another one's.
fn is_file_system(fs_name: &str) -> bool {
    match fs_name.split_once("://") {
        Some(("file", path)) => path.starts_with('/') && !path.split('/').any(|part| part == ".."),
        Some((kind, place)) => !kind.is_empty() && !place.is_empty(),
        None => false,
    }
}

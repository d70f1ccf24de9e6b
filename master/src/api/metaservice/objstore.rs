//! The buckets of an instance and what opens them: told to who asks for it, changed, and added to.

use super::envelope::{Answer, Found, Refusal};
use super::store::{ObjInfo, Optional, User};
use super::stored::{ObjStore, Shown};
use super::vaults::decide;
use super::{instance, said, shown};
use crate::api::App;
use crate::engine::Unchanged;
use perilune_state::directory::{Known, Pair, Refused, VaultRefused};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The longest description of a bucket, in bytes of compact JSON.
const OBJ_BYTES_MAX: usize = 1024;

#[derive(Deserialize, ToSchema)]
#[schema(as = AskedOfObjectStore)]
pub(super) struct Asked {
    #[serde(default, deserialize_with = "said::text")]
    instance_id: String,
    #[serde(default, deserialize_with = "said::text")]
    cloud_unique_id: String,
    obj: Option<ObjInfo>,
}

#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = UpdateAkSk)]
pub(super) struct AskedUsers {
    #[serde(default, deserialize_with = "said::text", skip_serializing_if = "String::is_empty")]
    instance_id: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    internal_bucket_user: Vec<User>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ram_user: Option<User>,
}

impl Asked {
    fn owner(&self, app: &App) -> Result<String, Refusal> {
        if self.cloud_unique_id.is_empty() {
            return Err(Refusal::argument("cloud unique id not set"));
        }
        instance::named_by(&app.engine.directory(), &self.cloud_unique_id).ok_or_else(|| Refusal::argument("empty instance_id"))
    }

    fn obj(&self) -> Result<&ObjInfo, Refusal> {
        self.obj.as_ref().ok_or_else(|| Refusal::argument("s3 obj info err {}"))
    }
}

/// The one call that tells secrets.
pub(super) fn get(app: &App, asked: &Asked) -> Answer {
    let owner = asked.owner(app)?;
    let known = app.engine.directory();
    let all = known.vaults_of(instance::living(&known, &owner)?.id);
    let store = match all {
        Some(_) => ObjStore::of(all, Shown::Clear(&app.engine.safe()?)),
        None => ObjStore::of(None, Shown::Masked),
    };
    store.map(|store| Found::ObjStore(Box::new(store)))
}

/// The pair of one bucket, by its number.
pub(super) async fn update_one(app: &App, asked: &Asked) -> Answer {
    let obj = asked.obj()?;
    let Some(pair) = obj.pair().filter(|_| !obj.id.is_empty()) else {
        return Err(Refusal::argument(format!("s3 obj info err {}", shown::json(&obj.masked()))));
    };
    let (owner, safe) = (asked.owner(app)?, app.engine.safe()?);
    let change = |known: &Known, now_ms| match known.rotate_numbered(&owner, &obj.id, &pair, &safe, now_ms) {
        Err(Refused::Vault(VaultRefused::Unknown(_))) => Err(Refused::Wrong("id invalid, please check it".into())),
        other => other,
    };
    decide(app, &owner, &change).await
}

/// The pairs of users, in every bucket that has them.
pub(super) async fn update_users(app: &App, asked: &AskedUsers) -> Answer {
    if asked.instance_id.is_empty() {
        return Err(Refusal::argument("instance id not set"));
    }
    if asked.internal_bucket_user.is_empty() && asked.ram_user.is_none() {
        return Err(Refusal::argument("nothing to update"));
    }
    let complete = |user: &User, what: &str| {
        let pair = user.pair();
        pair.ok_or_else(|| Refusal::argument(format!("{what} {}", shown::json(&user.masked()))))
    };
    let ram_user = asked.ram_user.as_ref().map(|user| complete(user, "ram user info err")).transpose()?;
    let users = asked.internal_bucket_user.iter().map(|user| complete(user, "s3 bucket info err"));
    let users = users.collect::<Result<Vec<Pair>, _>>()?;
    let (owner, safe) = (&asked.instance_id, app.engine.safe()?);
    let change = |known: &Known, now_ms| known.rotate_users(owner, &users, ram_user.as_ref(), &safe, now_ms);
    match app.engine.decide(&change).await {
        Err(Unchanged::Refused(Refused::Vault(VaultRefused::WhosePair))) => {
            let why = "fail to update old instance's obj_info, s3 obj info err";
            Err(Refusal::argument(format!("{why} {}", shown::json(&asked.masked()))))
        }
        outcome => super::vaults::outcome(owner, outcome),
    }
}

impl AskedUsers {
    fn masked(&self) -> Self {
        Self {
            instance_id: said::shortened(&self.instance_id),
            internal_bucket_user: self.internal_bucket_user.iter().map(User::masked).collect(),
            ram_user: self.ram_user.as_ref().map(User::masked),
        }
    }
}

/// One more, to which new objects go.
pub(super) async fn add(app: &App, asked: &Asked) -> Answer {
    let obj = asked.obj()?;
    if shown::json(obj).len() > OBJ_BYTES_MAX {
        return Err(Refusal::argument(format!("s3 obj info greater than 1k {}", shown::json(&obj.masked()))));
    }
    let vault = obj.vault("", Optional { external_endpoint: true, provider: true })?;
    if obj.prefix.trim_matches([' ', '/']).is_empty() {
        return Err(Refusal::argument("s3 conf info err, please check it"));
    }
    let (owner, safe) = (asked.owner(app)?, app.engine.safe()?);
    decide(app, &owner, &|known, now_ms| known.add_vault(&owner, &vault, &safe, now_ms)).await
}

/// Whether new objects are encrypted.
pub(super) async fn set_sse(app: &App, asked: &Asked, sse: bool) -> Answer {
    if asked.instance_id.is_empty() {
        return Err(Refusal::argument("instance id not set"));
    }
    let (owner, safe) = (&asked.instance_id, app.engine.safe()?);
    decide(app, owner, &|known, now_ms| known.set_sse(owner, sse, &safe, now_ms)).await
}

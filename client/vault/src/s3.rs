//! A bucket, through `object_store`, which signs, speaks S3's XML and repeats nothing here: `attempts` does.

use crate::fault::{Class, VaultFault, Vaulted};
use crate::gate::Limits;
use crate::place::{Fetched, Listed, Part, Payload, same};
use crate::target::{Keys, S3Target};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{ClientOptions, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutPayload, RetryConfig, UpdateVersion};
use std::ops::Range;
use std::str::FromStr;
use std::sync::Once;
use std::time::Duration;

/// A connection is there by then, or never.
const CONNECT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct S3 {
    store: AmazonS3,
    prefix: Path,
}

impl S3 {
    pub(crate) fn open(target: &S3Target, keys: &Keys, sse: bool, limits: &Limits) -> Vaulted<Self> {
        let endpoint = target.checked()?;
        let wrong = |e: object_store::path::Error| Class::Invalid.with(format!("the prefix `{}` cannot be used: {e}", target.prefix));
        let prefix = Path::parse(&target.prefix).map_err(wrong)?;
        provide_tls();
        let plain = endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
        let client = ClientOptions::new().with_allow_http(plain).with_connect_timeout(CONNECT).with_timeout(limits.attempt);
        let region = if target.region.is_empty() { "us-east-1" } else { &target.region };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&target.bucket)
            .with_region(region)
            .with_virtual_hosted_style_request(target.hosted)
            .with_access_key_id(&keys.ak)
            .with_secret_access_key(keys.sk.as_str())
            .with_retry(RetryConfig { max_retries: 0, retry_timeout: limits.attempt, ..Default::default() })
            .with_client_options(client);
        if let Some(endpoint) = endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if sse {
            builder = builder.with_config(AmazonS3ConfigKey::from_str("aws_server_side_encryption")?, "AES256");
        }
        let store = builder.build().map_err(|e| Class::Invalid.with(e.to_string()))?;
        Ok(Self { store, prefix })
    }

    fn at(&self, name: &str) -> Path {
        // Joined part by part: a name has been checked, and stays as it is.
        name.split('/').filter(|part| !part.is_empty()).fold(self.prefix.clone(), |path, part| path.join(part))
    }

    pub(crate) async fn put(&self, name: &str, bytes: Payload, create: bool) -> Vaulted<()> {
        let mode = if create { PutMode::Create } else { PutMode::Overwrite };
        self.store.put_opts(&self.at(name), PutPayload::from_iter(bytes), mode.into()).await?;
        Ok(())
    }

    pub(crate) async fn replace(&self, name: &str, there: &Bytes, bytes: Bytes) -> Vaulted<()> {
        let at = self.at(name);
        let found = self.store.get(&at).await?;
        let version = UpdateVersion { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
        same(&found.bytes().await?, there)?;
        self.store.put_opts(&at, bytes.into(), PutMode::Update(version).into()).await?;
        Ok(())
    }

    pub(crate) async fn get(&self, name: &str, range: Option<Range<u64>>) -> Vaulted<Fetched> {
        let options = GetOptions { range: range.map(GetRange::Bounded), ..Default::default() };
        let result = self.store.get_opts(&self.at(name), options).await?;
        let size = result.meta.size;
        Ok(Fetched { parts: result.into_stream().try_collect().await?, size })
    }

    pub(crate) async fn head(&self, name: &str) -> Vaulted<u64> {
        match self.store.head(&self.at(name)).await.map_err(VaultFault::from) {
            Ok(meta) => Ok(meta.size),
            // The answer to this request has no body that could say what is missing.
            Err(fault) if fault.class == Class::NoObject => Err(self.list("", None, 1).await.err().unwrap_or(fault)),
            Err(fault) => Err(fault),
        }
    }

    pub(crate) async fn list(&self, folder: &str, after: Option<&str>, max: usize) -> Vaulted<Vec<Listed>> {
        let folder = self.at(folder);
        let found = match after {
            Some(after) => self.store.list_with_offset(Some(&folder), &self.at(after)),
            None => self.store.list(Some(&folder)),
        };
        let found: Vec<_> = found.take(max).try_collect().await?;
        let own = |meta: object_store::ObjectMeta| {
            let name = meta.location.prefix_match(&self.prefix)?.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/");
            Some(Listed { name, size: meta.size })
        };
        Ok(found.into_iter().filter_map(own).collect())
    }

    pub(crate) async fn delete(&self, name: &str) -> Vaulted<()> {
        Ok(self.store.delete(&self.at(name)).await?)
    }

    pub(crate) async fn begin(&self, name: &str) -> Vaulted<String> {
        Ok(self.store.create_multipart(&self.at(name)).await?)
    }

    pub(crate) async fn part(&self, name: &str, id: &str, part: Part) -> Vaulted<String> {
        let bytes = PutPayload::from_iter(part.bytes);
        Ok(self.store.put_part(&self.at(name), &id.to_owned(), part.number, bytes).await?.content_id)
    }

    pub(crate) async fn complete(&self, name: &str, id: &str, parts: Vec<String>) -> Vaulted<()> {
        let parts = parts.into_iter().map(|content_id| PartId { content_id }).collect();
        self.store.complete_multipart(&self.at(name), &id.to_owned(), parts).await?;
        Ok(())
    }

    pub(crate) async fn abort(&self, name: &str, id: &str) -> Vaulted<()> {
        Ok(self.store.abort_multipart(&self.at(name), &id.to_owned()).await?)
    }
}

/// The TLS of this process is `ring`'s, unless somebody chose before: with two in the house, the client would refuse to choose.
pub fn provide_tls() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An error says that there is one.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

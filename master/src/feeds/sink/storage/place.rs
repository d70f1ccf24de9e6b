//! The directory or bucket that a URI names.

use crate::feeds::failure::{Code, Failure};
use crate::feeds::sink::Place;
use crate::feeds::uri::SinkUri;
use perilune_protocol::vault::{HdfsPlace, VaultTarget};
use perilune_vault::{Class, Keys, Options, S3Target, Target, Vault, VaultFault};
use std::path::Path;

/// What a vault says, as a feed does.
pub(super) fn told(fault: VaultFault) -> Failure {
    let code = if fault.class == Class::Invalid { Code::StorageSinkInvalidConfig } else { Code::StorageSink };
    code.with(format!(
        "{}: {}",
        if code == Code::StorageSink { "the storage sink failed" } else { "storage sink config invalid" },
        fault.message
    ))
}

pub(super) fn bucket(uri: &SinkUri, place: &Place) -> Result<Vault, Failure> {
    let need =
        |name| uri.get(name).ok_or_else(|| Code::StorageSinkInvalidConfig.with(format!("storage sink config invalid: {name} is missing")));
    let keys = Keys::new(need("access-key")?, need("secret-access-key")?);
    let prefix = uri.path.trim_matches('/').to_owned();
    if let Some(vault) = place.within(&prefix) {
        return Ok(vault);
    }
    let target = Target::S3(S3Target {
        bucket: uri.authority.clone(),
        prefix,
        endpoint: uri.get("endpoint").unwrap_or_default().to_owned(),
        region: uri.get("region").unwrap_or_default().to_owned(),
        hosted: false,
    });
    Vault::open(&target, &Options { keys: Some(keys), ..Options::default() }).map_err(told)
}

pub(super) fn directory(uri: &SinkUri, place: &Place) -> Result<Vault, Failure> {
    let wrong = |why: &str| Code::StorageSinkInvalidConfig.with(format!("storage sink config invalid: {why}"));
    let root = place.root.as_deref().ok_or_else(|| wrong("directories are used only below --vault-root, which is not set here"))?;
    let path = Path::new(&uri.path);
    let real = root.canonicalize().map_err(|e| wrong(&format!("--vault-root {}: {e}", root.display())))?;
    let below = path.strip_prefix(root).or_else(|_| path.strip_prefix(&real));
    let prefix = match below.ok().and_then(Path::to_str) {
        Some(prefix) if uri.authority.is_empty() => prefix.to_owned(),
        _ => {
            return Err(wrong(&format!(
                "{} does not lie below {}, where directories are allowed (--vault-root)",
                path.display(),
                root.display()
            )));
        }
    };
    let [user, keytab, principal] = [(); 3].map(|()| String::new());
    let place = HdfsPlace { fs_name: format!("file://{}", real.display()), prefix, user, keytab, principal, confs: Vec::new() };
    let target = Target::made(&VaultTarget::Hdfs(place), Some(&real)).map_err(told)?;
    Vault::open(&target, &Options::default()).map_err(told)
}

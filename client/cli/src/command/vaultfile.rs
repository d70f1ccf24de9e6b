//! What a master is restored from: a file, or a vault that another file describes.

use crate::failure::Failure;
use perilune_master::{FromVault, Keys, Restore};
use perilune_protocol::vault::{HdfsPlace, Provider, S3Place, VaultTarget};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const SCHEME: &str = "vault://";

/// A vault in such a file, under its name, in the words of `perilune vaults add`: a directory, or a bucket.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Described {
    dir: Option<PathBuf>,
    bucket: Option<String>,
    #[serde(default)]
    endpoint: String,
    #[serde(default)]
    region: String,
    provider: Option<String>,
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    ak: String,
    #[serde(default)]
    sk: String,
    /// A file that holds the secret key.
    sk_file: Option<PathBuf>,
}

/// What `--restore`, `--vault-file` and `--take-over` say together.
pub(crate) fn restored_from(from: PathBuf, file: Option<&Path>, take_over: bool) -> Result<Restore, Failure> {
    let Some(name) = from.to_str().and_then(|from| from.strip_prefix(SCHEME)) else {
        if file.is_some() || take_over {
            return Err(Failure::Usage(format!("--vault-file and --take-over are about a vault: --restore {SCHEME}NAME")));
        }
        return Ok(Restore::File(from));
    };
    let file = file.ok_or_else(|| Failure::Usage(format!("where is the vault {name}, and what opens it? --vault-file FILE")))?;
    let wrong = |why: String| Failure::Usage(format!("--vault-file {}: {why}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|e| wrong(e.to_string()))?;
    let (target, keys) = read(&text, name).map_err(wrong)?;
    Ok(Restore::Vault(FromVault { name: name.into(), target, keys, take_over }))
}

fn read(text: &str, name: &str) -> Result<(VaultTarget, Option<Keys>), String> {
    // What is wrong is told without the line it is in, which may have the secret key in it.
    let mut all: BTreeMap<String, Described> = if text.trim_start().starts_with('{') {
        serde_json::from_str(text).map_err(|e| format!("it is not what it should be, at line {} column {}", e.line(), e.column()))?
    } else {
        let wrong = |e: toml::de::Error| {
            format!("{}: a vault is a table [NAME] with `dir`, or with `bucket`, `endpoint`, `ak` and `sk`", e.message())
        };
        toml::from_str(text).map_err(wrong)?
    };
    let names = all.keys().cloned().collect::<Vec<_>>().join(", ");
    let vault = all.remove(name).ok_or_else(|| format!("it describes no vault {name}: a table [{name}] would; it has: {names}"))?;
    let Described { dir, bucket, endpoint, region, provider, prefix, ak, sk, sk_file } = vault;
    match (dir, bucket) {
        (Some(dir), None) => {
            let dir = dir.to_str().filter(|dir| dir.starts_with('/')).ok_or("`dir` is a whole path, beginning with /")?;
            let (user, keytab, principal) = Default::default();
            let place = HdfsPlace { fs_name: format!("file://{dir}"), prefix, user, keytab, principal, confs: Vec::new() };
            Ok((VaultTarget::Hdfs(place), None))
        }
        (None, Some(bucket)) => {
            let sk = match sk_file {
                Some(file) => std::fs::read_to_string(&file).map_err(|e| format!("sk_file {}: {e}", file.display()))?.trim().to_owned(),
                None => sk,
            };
            if ak.is_empty() || sk.is_empty() {
                return Err("a bucket needs `ak`, and `sk` or `sk_file`".into());
            }
            let said = provider.as_deref().unwrap_or("S3");
            let known = Provider::ALL.into_iter().find(|one| one.as_str() == said);
            let provider = known.ok_or_else(|| format!("`provider` is none of those of `perilune vaults add`: {said}"))?;
            let external_endpoint = endpoint.clone();
            let place = S3Place { bucket, prefix, endpoint, external_endpoint, region, provider };
            Ok((VaultTarget::S3(place), Some(Keys::new(ak, sk))))
        }
        _ => Err("a vault is a directory (`dir`) or a bucket (`bucket`, `endpoint`, `ak`, `sk`), one of them".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vault_is_described_in_either_language() {
        let toml = "[main]\nbucket = \"b\"\nendpoint = \"http://h:1\"\nprefix = \"kv\"\nak = \"a\"\nsk = \"hush\"\n[d]\ndir = \"/v\"\n";
        let json = r#"{"main": {"bucket": "b", "endpoint": "http://h:1", "prefix": "kv", "ak": "a", "sk": "hush"}, "d": {"dir": "/v"}}"#;
        for text in [toml, json] {
            let (target, keys) = read(text, "main").unwrap();
            assert_eq!((target.to_string().as_str(), keys), ("s3://b/kv at http://h:1", Some(Keys::new("a", "hush"))));
            assert_eq!(read(text, "d").unwrap().0.to_string(), "file:///v/");
            assert!(read(text, "other").unwrap_err().contains("it has: d, main"));
        }
        let of = |provider: &str| read(&toml.replace("prefix", &format!("provider = \"{provider}\"\nprefix")), "main");
        assert!(matches!(of("COS"), Ok((VaultTarget::S3(S3Place { provider: Provider::Cos, .. }), _))));
        assert!(of("XYZ").unwrap_err().contains("XYZ"));
        for wrong in [
            "[main]\nbucket = \"b\"\n",
            "[main]\n",
            "[main]\ndir = \"v\"\n",
            "[main]\ndir = \"/v\"\nbucket = \"b\"\n",
            "x",
            "{\"main\": 1}",
        ] {
            assert!(read(wrong, "main").is_err(), "{wrong}");
        }
        let typo = "[main]\nbucket = \"b\"\nak = \"a\"\nsk = \"hush\"\nprefixx = \"p\"\n";
        let why = read(typo, "main").unwrap_err();
        assert!(why.contains("prefixx") && !why.contains("hush"), "{why}");
    }
}

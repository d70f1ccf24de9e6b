//! Where a vault is, and what opens it.

use crate::fault::{Class, VaultFault, Vaulted};
use perilune_protocol::vault::{HdfsPlace, VaultTarget};
use std::fmt;
use std::path::{Component, Path, PathBuf};
use zeroize::Zeroizing;

/// Where a vault is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A bucket.
    S3(S3Target),
    /// A directory; made by [`Target::file`].
    File(PathBuf),
}

/// A bucket of an S3 service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Target {
    /// Its name.
    pub bucket: String,
    /// What the names of all objects of the vault begin with; may be empty.
    pub prefix: String,
    /// Where the service listens, such as `s3.example.com` or `http://127.0.0.1:9000`; without a scheme it is `https`. Empty: Amazon's, of
    /// the region.
    pub endpoint: String,
    /// The region requests are signed for; empty for `us-east-1`.
    pub region: String,
    /// Whether the bucket is part of the host's name, and not of the path.
    pub hosted: bool,
}

/// What requests to S3 are signed with. Never printed; wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    /// The access key's name.
    pub ak: String,
    /// The secret key.
    pub sk: Zeroizing<String>,
}

impl Keys {
    /// These.
    pub fn new(ak: impl Into<String>, sk: impl Into<String>) -> Self {
        Self { ak: ak.into(), sk: Zeroizing::new(sk.into()) }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(masked)")
    }
}

impl Target {
    /// Where a recorded target is for this process: a bucket, or a directory below `root`. That is there, or what it lies on is not mounted.
    ///
    /// # Errors
    /// [`Class::Invalid`] where this release or this process cannot use it; as [`Target::file`].
    pub fn existing(target: &VaultTarget, root: Option<&Path>) -> Vaulted<Self> {
        Self::find(target, root, |_| Ok(()))
    }

    /// The same; a directory is made if it is not there. For whoever begins something new in it.
    ///
    /// # Errors
    /// As [`Target::existing`].
    pub fn made(target: &VaultTarget, root: Option<&Path>) -> Vaulted<Self> {
        Self::find(target, root, |dir| std::fs::create_dir_all(dir))
    }

    fn find(target: &VaultTarget, root: Option<&Path>, prepare: impl FnOnce(&Path) -> std::io::Result<()>) -> Vaulted<Self> {
        let no = |why: &str| Err(Class::Invalid.with(format!("{target}: {why}")));
        match target {
            _ if !target.is_usable() => no("this release has no client for it, so nothing can be stored there"),
            VaultTarget::S3(s3) => Ok(Self::S3(S3Target {
                bucket: s3.bucket.clone(),
                prefix: s3.prefix.clone(),
                endpoint: s3.endpoint.clone(),
                region: s3.region.clone(),
                hosted: s3.is_hosted(),
            })),
            VaultTarget::Hdfs(HdfsPlace { fs_name, prefix, .. }) => {
                let Some(root) = root else { return no("directories are used only below --vault-root, which is not set here") };
                let Self::File(base) = Self::file(fs_name, root)? else { return no("not a directory") };
                if !Path::new(prefix).components().all(|part| matches!(part, Component::Normal(_))) {
                    return no("its prefix cannot be a folder");
                }
                let dir = base.join(prefix);
                prepare(&dir).map_err(|e| VaultFault::from(e).at(target))?;
                // Again, since a link may lie there already.
                Self::file(&format!("file://{}", dir.display()), root)
            }
        }
    }

    /// The directory of a `file:///` URL, if it lies below `root`, where vaults are allowed.
    ///
    /// # Errors
    /// [`Class::Invalid`] for another URL, or a directory elsewhere; [`Class::NoBucket`] when it is not there.
    pub fn file(url: &str, root: &Path) -> Vaulted<Self> {
        let no = |why: String| Class::Invalid.with(format!("`{url}` cannot be a vault: {why}"));
        let Some(path) = url.strip_prefix("file://").filter(|path| path.starts_with('/')).map(Path::new) else {
            return Err(no("a directory is written `file:///path`".into()));
        };
        if path.components().any(|part| part == Component::ParentDir) {
            return Err(no("`..` is not allowed in it".into()));
        }
        let missing =
            |what: &Path, e| Class::NoBucket.with(format!("{}: {e}: mount or make the directory, or correct the vault", what.display()));
        let root = root.canonicalize().map_err(|e| missing(root, e))?;
        // Links are followed before they are compared, so that none leads out.
        let real = path.canonicalize().map_err(|e| missing(path, e))?;
        if !real.starts_with(&root) {
            return Err(no(format!("it does not lie below {}, where vaults are allowed (--vault-root)", root.display())));
        }
        if !real.is_dir() {
            return Err(no("it is no directory".into()));
        }
        Ok(Self::File(real))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::S3(s3) if s3.endpoint.is_empty() => write!(f, "s3://{}/{}", s3.bucket, s3.prefix),
            Self::S3(s3) => write!(f, "s3://{}/{} at {}", s3.bucket, s3.prefix, s3.endpoint),
            Self::File(dir) => write!(f, "file://{}", dir.display()),
        }
    }
}

impl S3Target {
    /// The endpoint with its scheme, or `None` for Amazon's.
    ///
    /// # Errors
    /// [`Class::Invalid`] when bucket or endpoint cannot be right.
    pub(crate) fn checked(&self) -> Vaulted<Option<String>> {
        let no = |why: String| Err(Class::Invalid.with(why));
        let bucket = self.bucket.as_bytes();
        let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-".contains(b);
        if !(3..=63).contains(&bucket.len()) || !bucket.iter().all(inner) || b".-".contains(&bucket[0]) {
            return no(format!(
                "`{}` is no bucket: 3 to 63 small letters, digits, `-` and `.`, beginning with a letter or digit",
                self.bucket
            ));
        }
        if self.endpoint.is_empty() {
            return Ok(None);
        }
        let with_scheme = if self.endpoint.contains("://") { self.endpoint.clone() } else { format!("https://{}", self.endpoint) };
        let host = with_scheme.strip_prefix("https://").or_else(|| with_scheme.strip_prefix("http://"));
        match host.map(|host| host.trim_end_matches('/')) {
            Some(host) if !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".:-_[]".contains(&b)) => {
                let scheme = if with_scheme.starts_with("http://") { "http" } else { "https" };
                Ok(Some(if self.hosted { format!("{scheme}://{}.{host}", self.bucket) } else { format!("{scheme}://{host}") }))
            }
            _ => no(format!("`{}` is no endpoint: write a host and port, with `http://` before it where it speaks no TLS", self.endpoint)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s3(bucket: &str, endpoint: &str) -> S3Target {
        S3Target { bucket: bucket.into(), prefix: String::new(), endpoint: endpoint.into(), region: String::new(), hosted: false }
    }

    #[test]
    fn an_endpoint_speaks_tls_unless_it_says_otherwise() {
        let checked = |endpoint| s3("bucket", endpoint).checked();
        assert_eq!(checked(""), Ok(None));
        assert_eq!(checked("s3.example.com"), Ok(Some("https://s3.example.com".into())));
        assert_eq!(checked("http://127.0.0.1:9000/"), Ok(Some("http://127.0.0.1:9000".into())));
        let hosted = S3Target { hosted: true, ..s3("bucket", "http://oss-cn-x.example.com/") };
        assert_eq!(hosted.checked(), Ok(Some("http://bucket.oss-cn-x.example.com".into())));
        for wrong in ["ftp://x", "http://", "http://a/b", "http://user@host", "a b", "x?y"] {
            assert_eq!(checked(wrong).unwrap_err().class, Class::Invalid, "{wrong}");
        }
        for wrong in ["", "ab", "Bucket", "a/b", "-ab", "a_b", &"a".repeat(64)] {
            assert_eq!(s3(wrong, "").checked().unwrap_err().class, Class::Invalid, "{wrong}");
        }
    }

    #[test]
    fn a_directory_lies_below_the_root_whatever_links_say() {
        let root = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("v")).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), root.path().join("out")).unwrap();
        let file = |path: &str| Target::file(&format!("file://{}/{path}", root.path().display()), root.path());
        assert_eq!(file("v"), Ok(Target::File(root.path().canonicalize().unwrap().join("v"))));
        assert_eq!(file("missing").unwrap_err().class, Class::NoBucket);
        for wrong in ["out", "v/../../x", ".."] {
            assert_eq!(file(wrong).unwrap_err().class, Class::Invalid, "{wrong}");
        }
        for wrong in ["", "file://v", "/v", "hdfs://x/v"] {
            assert_eq!(Target::file(wrong, root.path()).unwrap_err().class, Class::Invalid, "{wrong}");
        }
    }

    #[test]
    fn a_recorded_directory_is_made_only_by_who_says_so() {
        let root = tempfile::tempdir().unwrap();
        let [user, keytab, principal] = [(); 3].map(|()| String::new());
        let fs_name = format!("file://{}", root.path().display());
        let target = VaultTarget::Hdfs(HdfsPlace { fs_name, prefix: "a/b".into(), user, keytab, principal, confs: Vec::new() });
        let existing = || Target::existing(&target, Some(root.path()));
        assert_eq!(existing().unwrap_err().class, Class::NoBucket);
        assert!(!root.path().join("a").exists());
        assert_eq!(Target::made(&target, Some(root.path())), existing());
        assert!(existing().is_ok());
    }

    #[test]
    fn keys_are_not_shown() {
        assert_eq!(format!("{:?}", Keys::new("AKIA", "secret")), "Keys(masked)");
    }
}

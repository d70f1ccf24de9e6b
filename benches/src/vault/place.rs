//! The vaults to measure: a directory, a bucket that somebody serves, or one that this bench has served by `scripts/s3d`.

use crate::pinned::Process;
use crate::rivals::Trouble;
use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::prefix::PrefixStore;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Where objects are brought.
#[derive(Clone, Debug)]
pub enum Place {
    /// A new directory below this one.
    Directory(PathBuf),
    /// A bucket of an S3 service.
    Bucket(Bucket),
    /// A bucket of the S3 server of the tests, with this program and its data below this directory.
    Served {
        /// `scripts/s3d`, built.
        program: PathBuf,
        /// Where it puts what it is given.
        below: PathBuf,
    },
}

/// A bucket, and what opens it.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// Such as `http://127.0.0.1:9000`.
    pub endpoint: String,
    /// Its name.
    pub bucket: String,
    /// Access key.
    pub ak: String,
    /// Secret key.
    pub sk: String,
}

/// A place that is there, and what ends with it.
pub(crate) struct Prepared {
    pub(crate) at: At,
    _server: Option<Process>,
    _folder: Option<Folder>,
}

/// Where it is.
pub(crate) enum At {
    Directory(PathBuf),
    Bucket(Bucket),
}

/// Removed when it drops.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Folder {
    fn below(dir: &Path) -> Result<Self, Trouble> {
        static FOLDERS: AtomicUsize = AtomicUsize::new(0);
        let nth = FOLDERS.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!("perilune-bench-vault-{}-{nth}", std::process::id()));
        std::fs::create_dir(&path).map_err(|e| format!("making {}: {e}", path.display()))?;
        Ok(Self(path))
    }
}

impl Place {
    pub(crate) fn prepare(&self, logs: &Path) -> Result<Prepared, Trouble> {
        match self {
            Self::Directory(dir) => {
                let folder = Folder::below(dir)?;
                Ok(Prepared { at: At::Directory(folder.0.clone()), _server: None, _folder: Some(folder) })
            }
            Self::Bucket(bucket) => Ok(Prepared { at: At::Bucket(bucket.clone()), _server: None, _folder: None }),
            Self::Served { program, below } => {
                let folder = Folder::below(below)?;
                let bucket = Bucket { endpoint: String::new(), bucket: "cold".into(), ak: "bench".into(), sk: "perilune bench".into() };
                std::fs::create_dir(folder.0.join(&bucket.bucket))?;
                let mut command = Command::new(program);
                command.arg(&folder.0).args([&bucket.ak, &bucket.sk]);
                // It ends when its input does, and that is this process' end at the latest.
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(std::fs::File::create(logs.join("s3d.log"))?);
                let mut server = Process::start(&mut command, &[]).map_err(|e| format!("starting {}: {e}", program.display()))?;
                let mut endpoint = String::new();
                let said = server.child().stdout.take().ok_or("s3d has no output")?;
                BufReader::new(said).read_line(&mut endpoint)?;
                let bucket = Bucket { endpoint: endpoint.trim_end().to_owned(), ..bucket };
                Ok(Prepared { at: At::Bucket(bucket), _server: Some(server), _folder: Some(folder) })
            }
        }
    }
}

impl Prepared {
    pub(crate) fn name(&self) -> &'static str {
        match self.at {
            At::Directory(_) => "directory",
            At::Bucket(_) => "s3",
        }
    }

    /// `object_store` on a folder of it, as its users have it: with nothing of ours in between.
    pub(crate) fn store(&self, folder: &str) -> Result<Arc<dyn ObjectStore>, Trouble> {
        let store: Box<dyn ObjectStore> = match &self.at {
            // On disk before it is acknowledged, as ours.
            At::Directory(dir) => Box::new(LocalFileSystem::new_with_prefix(dir)?.with_fsync(true)),
            At::Bucket(Bucket { endpoint, bucket, ak, sk }) => {
                // An error says that one was chosen before.
                let _ = rustls::crypto::ring::default_provider().install_default();
                let builder = AmazonS3Builder::new().with_bucket_name(bucket).with_region("us-east-1").with_endpoint(endpoint);
                let builder = builder.with_access_key_id(ak).with_secret_access_key(sk);
                Box::new(builder.with_allow_http(endpoint.starts_with("http://")).build()?)
            }
        };
        Ok(Arc::new(PrefixStore::new(store, folder)))
    }
}

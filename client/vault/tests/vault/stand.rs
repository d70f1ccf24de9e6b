//! A vault to test with, and the places there are.

use crate::s3d::S3d;
use perilune_protocol::{TenantId, Tso, checksum};
use perilune_vault::{Class, ColdObject, Key, Limits, Options, Target, Vault, Vaulted};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use uuid::Uuid;

pub(crate) const MIB: usize = 1 << 20;

/// Quick, so that tests are; the sequence of pauses is always the same.
pub(crate) const LIMITS: Limits = Limits {
    attempt: Duration::from_secs(5),
    pause_min: Duration::from_millis(5),
    pause_max: Duration::from_millis(50),
    failures: 5,
    seed: 42,
};

pub(crate) struct Stand {
    pub(crate) vault: Vault,
    /// Where its objects lie as files.
    pub(crate) files: PathBuf,
    pub(crate) s3: Option<S3d>,
    _root: Option<TempDir>,
}

pub(crate) fn options() -> Options {
    Options { keys: Some(S3d::keys()), sse: false, key: None, limits: LIMITS }
}

pub(crate) fn sealed() -> Options {
    Options { sse: true, key: Some(Key::new([7; 32])), ..options() }
}

/// A bucket; the vault has a prefix in it.
pub(crate) fn s3(options: &Options) -> Stand {
    let s3d = S3d::start();
    let vault = Vault::open(&s3d.target(crate::s3d::BUCKET, "a/prefix"), options).unwrap();
    Stand { vault, files: s3d.files().join("a/prefix"), s3: Some(s3d), _root: None }
}

/// A directory.
pub(crate) fn file(options: &Options) -> Stand {
    let root = tempfile::tempdir().unwrap();
    let files = root.path().join("vault");
    std::fs::create_dir(&files).unwrap();
    let target = Target::file(&format!("file://{}", files.display()), root.path()).unwrap();
    Stand { vault: Vault::open(&target, options).unwrap(), files, s3: None, _root: Some(root) }
}

/// Every place there is.
pub(crate) fn places() -> [Stand; 3] {
    [file(&options()), file(&sealed()), s3(&options())]
}

pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// A value whose bytes depend on where they are.
pub(crate) fn value(len: usize) -> Vec<u8> {
    (0..len as u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

pub(crate) fn object(name: u128, value: &[u8]) -> ColdObject {
    let (tenant, version) = (TenantId(3), Tso(44));
    let checksum = checksum(&[value]);
    ColdObject { name: Uuid::from_u128(name), tenant, key: "a key".into(), version, size: value.len() as u64, checksum }
}

pub(crate) fn write(vault: &Vault, object: &ColdObject, value: &[u8]) -> Vaulted<u64> {
    let value = value.to_vec();
    let source = move |at: u64, room: &mut [u8]| {
        room.copy_from_slice(&value[at as usize..][..room.len()]);
        Ok(())
    };
    vault.write_object(object, Box::new(source), soon())
}

/// Reads a range; bytes arrive in order.
pub(crate) fn read(vault: &Vault, object: &ColdObject, range: std::ops::Range<u64>) -> Vaulted<Vec<u8>> {
    let mut out = Vec::new();
    let mut sink = |at: u64, bytes: &[u8]| {
        assert_eq!(at, range.start + out.len() as u64);
        out.extend_from_slice(bytes);
        Ok(())
    };
    vault.read_object(object, range.clone(), &mut sink, soon())?;
    Ok(out)
}

pub(crate) fn class<T: std::fmt::Debug>(done: Vaulted<T>) -> Class {
    done.unwrap_err().class
}

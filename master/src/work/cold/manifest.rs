//! How a checkpoint lies in a vault.
//!
//! ```text
//! checkpoints/00000042-UUID   the manifest, written last and only if absent: JSON, and in a second line its checksum
//! objects/..                  a file of `/snapshot/dump`, and what it names, as uploads of the tenant `default`
//! ```
//!
//! Whoever gives a checkpoint up writes [`GIVEN_UP`] in the manifest's place, so that of a leader that makes it whole and one that gives it
//! up only one does.

use super::kept::Named;
use super::soon;
use perilune_protocol::sealed::Sealed;
use perilune_protocol::{ColdName, ObjectKey, TenantId, Tso, VaultId, checksum};
use perilune_vault::{Class, ColdObject, Sink, Vault, Vaulted};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

pub(super) const VERSION: u32 = 1;
const FOLDER: &str = "checkpoints";
/// What stands in place of a manifest that never will.
pub(super) const GIVEN_UP: &[u8] = b"given up\n";
/// No honest manifest is longer.
const BYTES_MAX: u64 = 64 << 10;
const PAGE: usize = 1000;
/// Bytes of a name and the number of its vault.
const ENTRY: usize = 24;
/// A file may take so long, and longer by a second for so many bytes.
const PATIENCE: Duration = Duration::from_secs(60);
const BYTES_PER_SECOND: u64 = 1 << 20;

/// All there is to say of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(super) version: u32,
    pub(crate) number: u64,
    pub(crate) name: ColdName,
    /// Whose it is.
    pub(crate) cluster: String,
    /// When it was begun, in milliseconds since 1970.
    pub(crate) at_ms: u64,
    /// What it was asked for by ([`Engine::upload_flag`](crate::engine::Engine::upload_flag)).
    pub(crate) answers: u64,
    /// Objects in it, and how many of them have a copy in a vault.
    pub(crate) objects: u64,
    pub(crate) saved: u64,
    pub(crate) state: Part,
    pub(crate) names: Part,
    /// Tenants whose vault was away, or refused: what was in their memory only is as if there were no vault.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) behind: BTreeSet<TenantId>,
    /// The key of the tenant `default`, which opens the two where they are sealed; sealed with the masters'.
    pub(crate) key: Sealed,
}

/// One of its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) name: ColdName,
    pub(crate) bytes: u64,
    pub(crate) checksum: u64,
}

impl Part {
    /// As an object of a vault.
    pub(super) fn object(self, number: u64, what: &str) -> ColdObject {
        let Self { name, bytes, checksum } = self;
        let key = ObjectKey::from(format!("checkpoint/{number}/{what}").as_str());
        ColdObject { name: name.0, tenant: TenantId::default(), key, version: Tso(number), size: bytes, checksum }
    }

    /// When it is to be there.
    pub(super) fn deadline(self) -> Instant {
        Instant::now() + PATIENCE + Duration::from_secs(self.bytes / BYTES_PER_SECOND)
    }
}

/// What is found in the folder of checkpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) number: u64,
    pub(super) name: ColdName,
    path: String,
    bytes: u64,
}

impl Found {
    pub(super) fn new(number: u64, name: ColdName) -> Self {
        Self { number, name, path: format!("{FOLDER}/{number:08}-{name}"), bytes: 0 }
    }

    fn parse(path: &str, bytes: u64) -> Option<Self> {
        let (number, name) = path.strip_prefix(FOLDER)?.strip_prefix('/')?.split_once('-')?;
        Some(Self { number: number.parse().ok()?, name: name.parse().ok()?, path: path.to_owned(), bytes })
    }

    /// Whether it surely is no manifest and never will be.
    pub(super) fn is_given_up(&self) -> bool {
        self.bytes == GIVEN_UP.len() as u64
    }

    /// Bytes of it.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads it. `None`: it was given up.
    ///
    /// # Errors
    /// [`Class::NoObject`]; [`Class::Damaged`]; [`Class::Invalid`] where a later release wrote it.
    pub(crate) fn read(&self, vault: &Vault) -> Vaulted<Option<Manifest>> {
        let got = vault.get(&self.path, Some(0..BYTES_MAX), soon())?;
        if got.bytes == GIVEN_UP {
            return Ok(None);
        }
        let damaged = |why: &str| Class::Damaged.with(format!("{} {why}", self.path));
        let text = std::str::from_utf8(&got.bytes).map_err(|_| damaged("was altered"))?;
        let mut lines = text.lines();
        let (Some(body), Some(sum)) = (lines.next(), lines.next()) else { return Err(damaged("was cut short")) };
        if u64::from_str_radix(sum, 16) != Ok(checksum(&[body.as_bytes()])) {
            return Err(damaged("was altered"));
        }
        let manifest: Manifest = serde_json::from_str(body)
            .map_err(|e| Class::Invalid.with(format!("{} cannot be read, maybe a later release wrote it: {e}", self.path)))?;
        if manifest.version != VERSION || (manifest.number, manifest.name) != (self.number, self.name) {
            return Err(Class::Invalid.with(format!("{} is of version {} or another checkpoint's", self.path, manifest.version)));
        }
        Ok(Some(manifest))
    }

    /// Gives it up. False: it is there already.
    pub(super) fn give_up(&self, vault: &Vault) -> Vaulted<bool> {
        match vault.create(&self.path, bytes::Bytes::from_static(GIVEN_UP), soon()) {
            Err(fault) if fault.class == Class::Exists => Ok(false),
            other => other.map(|()| true),
        }
    }

    pub(super) fn delete(&self, vault: &Vault) -> Vaulted<()> {
        vault.delete(&self.path, soon())
    }
}

/// Everything in the folder of checkpoints that is called as one, the newest first.
pub(crate) fn list(vault: &Vault) -> Vaulted<Vec<Found>> {
    let (mut found, mut after): (Vec<Found>, Option<String>) = (Vec::new(), None);
    loop {
        let page = vault.list(FOLDER, after.as_deref(), PAGE, soon())?;
        found.extend(page.iter().filter_map(|listed| Found::parse(&listed.name, listed.size)));
        if page.len() < PAGE {
            break;
        }
        after = page.into_iter().next_back().map(|listed| listed.name);
    }
    found.sort_by_key(|found| Reverse((found.number, found.name)));
    Ok(found)
}

impl Manifest {
    /// Makes the checkpoint whole.
    ///
    /// # Errors
    /// [`Class::Exists`]: somebody gave it up.
    pub(crate) fn write(&self, vault: &Vault) -> Vaulted<()> {
        let body = serde_json::to_string(self).map_err(|e| Class::Invalid.with(e.to_string()))?;
        let text = format!("{body}\n{:016x}\n", checksum(&[body.as_bytes()]));
        vault.create(&Found::new(self.number, self.name).path, text.into(), soon())
    }

    /// Reads the dump.
    ///
    /// # Errors
    /// [`Class::Damaged`] and [`Class::NoObject`] where it is not whole; [`Class::Caller`] when `sink` gave up.
    pub(crate) fn read_state(&self, vault: &Vault, sink: Sink<'_>) -> Vaulted<()> {
        vault.read_object(&self.state.object(self.number, "state"), 0..self.state.bytes, sink, self.state.deadline())
    }

    /// Reads what it names, itself included; all of it lies in the vault that says so, the checkpoint in `own`.
    pub(crate) fn read_names(&self, vault: &Vault, own: VaultId) -> Vaulted<Named> {
        let mut bytes = Vec::new();
        let mut sink = |_, part: &[u8]| {
            bytes.extend_from_slice(part);
            Ok(())
        };
        vault.read_object(&self.names.object(self.number, "names"), 0..self.names.bytes, &mut sink, self.names.deadline())?;
        let names = decode(&bytes).ok_or_else(|| Class::Damaged.with("the names of a checkpoint are cut short"))?;
        Ok(self.named(names, own))
    }

    /// The same of names that are known.
    pub(super) fn named(&self, mut names: Vec<(ColdName, VaultId)>, own: VaultId) -> Named {
        names.extend([(self.state.name, own), (self.names.name, own)]);
        names.sort_unstable();
        names.into()
    }
}

/// How names are stored: their number, so that there is always a byte, and each with its vault.
pub(super) fn encode(names: &[(ColdName, VaultId)]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 + ENTRY * names.len());
    bytes.extend((names.len() as u64).to_le_bytes());
    for (name, vault) in names {
        bytes.extend(name.0.as_bytes());
        bytes.extend(vault.0.to_le_bytes());
    }
    bytes
}

fn decode(bytes: &[u8]) -> Option<Vec<(ColdName, VaultId)>> {
    let (count, rest) = bytes.split_first_chunk::<8>()?;
    let entry = |entry: &[u8]| {
        let (name, vault) = entry.split_first_chunk::<16>()?;
        Some((ColdName(uuid::Uuid::from_bytes(*name)), VaultId(u64::from_le_bytes(vault.try_into().ok()?))))
    };
    let names: Vec<_> = rest.chunks(ENTRY).map(entry).collect::<Option<_>>()?;
    (names.len() as u64 == u64::from_le_bytes(*count)).then_some(names)
}

#[cfg(test)]
impl Manifest {
    /// One of nothing.
    pub(crate) fn example(number: u64) -> Self {
        let part = Part { name: ColdName::random(), bytes: 8, checksum: u64::MAX };
        let key = Sealed { key: 7, nonce: [1; 12], bytes: vec![2; 48] };
        let (version, name, cluster) = (VERSION, ColdName::random(), "c".to_owned());
        let (at_ms, answers, objects, saved, state, names, behind) = (5, 1, 2, 1, part, part, BTreeSet::new());
        Self { version, number, name, cluster, at_ms, answers, objects, saved, state, names, behind, key }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_and_what_is_cut_does_not() {
        let names: Vec<_> = (0..3).map(|n| (ColdName::random(), VaultId(n))).collect();
        let bytes = encode(&names);
        assert_eq!(decode(&bytes), Some(names));
        assert_eq!(decode(&encode(&[])), Some(Vec::new()));
        (0..bytes.len()).for_each(|cut| assert_eq!(decode(&bytes[..cut]), None, "{cut}"));
    }

    #[test]
    fn a_manifest_is_found_by_its_name_and_believed_by_its_checksum() {
        let dir = tempfile::tempdir().unwrap();
        let vault = Vault::open(&perilune_vault::Target::File(dir.path().into()), &perilune_vault::Options::default()).unwrap();
        let (first, second, third) = (Manifest::example(9), Manifest::example(10), Manifest::example(11));
        assert!(Found::new(11, third.name).give_up(&vault).unwrap());
        assert_eq!(third.write(&vault).unwrap_err().class, Class::Exists, "it was given up");
        [&first, &second].into_iter().for_each(|one| one.write(&vault).unwrap());
        assert!(!Found::new(9, first.name).give_up(&vault).unwrap(), "it is whole");
        let all = list(&vault).unwrap();
        let read: Vec<_> = all.iter().map(|found| found.read(&vault).unwrap()).collect();
        assert_eq!(read, [None, Some(second), Some(first)]);
        assert!(all[0].is_given_up() && !all[1].is_given_up());
        let file = dir.path().join(&all[1].path);
        let whole = std::fs::read(&file).unwrap();
        for at in 0..whole.len() - 1 {
            let mut altered = whole.clone();
            altered[at] ^= 1;
            std::fs::write(&file, if at % 2 == 0 { &altered[..] } else { &whole[..at] }).unwrap();
            assert!(all[1].read(&vault).is_err(), "{at}");
        }
        let strange = Found::new(12, ColdName::random());
        assert_eq!(strange.read(&vault).unwrap_err().class, Class::NoObject);
    }
}

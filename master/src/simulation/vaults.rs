//! The vaults of a run: buckets that remember which value each upload is of, and that are slow, away, refusing, or lose something.

use super::delivered::BUCKET;
use super::memory::{Owner, Run, sum_found, sum_of};
use super::oracle::Broken;
use bytes::Bytes;
use perilune_protocol::ColdName;
use perilune_vault::{Class, ColdObject, Got, Listed, Shelf, Vault, Vaulted};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a bucket answers at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mood {
    #[default]
    Well,
    /// Requests take long.
    Slow,
    /// None is answered.
    Away,
    /// All are refused.
    Refusing,
    /// Every third request is not answered, and may have been carried out.
    Failing,
}

/// One upload.
pub(super) struct Upload {
    pub(super) runs: Vec<Run>,
    /// Counts uploads; names are drawn by the system, so nothing may depend on them.
    nth: u64,
}

/// What one tenant has.
#[derive(Default)]
struct Bucket {
    mood: Mood,
    /// Of all uploads together.
    requests: u64,
    plain: BTreeMap<String, Bytes>,
    uploads: BTreeMap<ColdName, Upload>,
}

#[derive(Default)]
pub(super) struct Buckets {
    by_name: BTreeMap<String, Bucket>,
    /// Uploads that some object which lives has as its copy, as the log was first applied by anybody.
    pub(super) named: BTreeSet<ColdName>,
    /// Those that some node was to say are there.
    pub(super) reported: BTreeSet<ColdName>,
    /// Those that a bucket lost.
    lost: BTreeSet<ColdName>,
    /// Buckets to which a manifest of a checkpoint came, until somebody looks at it.
    pub(super) manifests: Vec<String>,
    /// What each checkpoint names whose manifest is there.
    pub(super) pinned: BTreeMap<ColdName, BTreeSet<ColdName>>,
    /// Buckets of tenants that were dropped: nothing in them is kept for anybody.
    pub(super) dropped: BTreeSet<String>,
    nth: u64,
    /// Files that came to buckets of feeds, in their order, until somebody looks at them.
    pub(super) arrived: Vec<(String, String, Bytes)>,
    /// A rule that was broken by a request.
    pub(super) broken: Option<Broken>,
}

/// Touched by this thread alone; vaults want to be passed around.
pub(super) type Shared = Arc<Mutex<Buckets>>;

pub(super) fn lock(shared: &Shared) -> MutexGuard<'_, Buckets> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens buckets of the run, for masters.
pub(super) fn open(shared: &Shared, bucket: &str) -> Vault {
    Vault::over(Arc::new(Door { shared: Arc::clone(shared), bucket: bucket.into(), answers: false }))
}

/// The same for rules: it always answers.
pub(super) fn look_into(shared: &Shared, bucket: &str) -> Vault {
    Vault::over(Arc::new(Door { shared: Arc::clone(shared), bucket: bucket.into(), answers: true }))
}

impl Buckets {
    pub(super) fn set(&mut self, bucket: &str, mood: Mood) {
        self.by_name.entry(bucket.into()).or_default().mood = mood;
    }

    pub(super) fn mood(&self, bucket: &str) -> Mood {
        self.by_name.get(bucket).map_or(Mood::Well, |bucket| bucket.mood)
    }

    pub(super) fn heal(&mut self) {
        self.by_name.values_mut().for_each(|bucket| bucket.mood = Mood::Well);
    }

    /// A request arrives. False: it is carried out, but nobody hears of it.
    fn arrive(&mut self, bucket: &str) -> Vaulted<bool> {
        let bucket = self.by_name.entry(bucket.into()).or_default();
        bucket.requests += 1;
        match bucket.mood {
            Mood::Well | Mood::Slow => Ok(true),
            Mood::Away => Err(Class::Away.with("no answer")),
            Mood::Refusing => Err(Class::Refused.with("403")),
            Mood::Failing if bucket.requests.is_multiple_of(3) => Err(Class::Away.with("503")),
            Mood::Failing => Ok(!bucket.requests.is_multiple_of(4)),
        }
    }

    /// Whether the bucket is that of the cluster.
    pub(super) fn find_claim(&mut self, bucket: &str) -> Vaulted<()> {
        if !self.arrive(bucket)? {
            return Err(Class::Away.with("no answer"));
        }
        match self.by_name.get(bucket) {
            Some(there) if !there.plain.is_empty() => Ok(()),
            _ => Err(Class::Invalid.with("nobody has claimed it")),
        }
    }

    /// Brings a value there. An upload of a name takes the place of what there was.
    pub(super) fn upload(&mut self, bucket: &str, name: ColdName, runs: Vec<Run>) -> Vaulted<()> {
        let heard = self.arrive(bucket)?;
        let nth = self.nth;
        self.nth += 1;
        let there = self.by_name.entry(bucket.into()).or_default();
        there.uploads.insert(name, Upload { runs, nth });
        if heard { Ok(()) } else { Err(Class::Away.with("no answer")) }
    }

    /// What an upload is of.
    pub(super) fn fetch(&mut self, bucket: &str, name: ColdName) -> Vaulted<Vec<Run>> {
        if !self.arrive(bucket)? {
            return Err(Class::Away.with("no answer"));
        }
        let there = self.by_name.entry(bucket.into()).or_default();
        match there.uploads.get(&name) {
            Some(upload) => Ok(upload.runs.clone()),
            None if there.plain.is_empty() => Err(Class::Invalid.with("nobody has claimed it")),
            None => Err(Class::NoObject.with("404")),
        }
    }

    /// The bucket loses one of its uploads that are named, by a number.
    pub(super) fn lose_one(&mut self, number: u64) -> bool {
        let named = |(name, _): &(&ColdName, &Upload)| self.named.contains(name);
        let all = self.by_name.values().flat_map(|bucket| bucket.uploads.iter().filter(named));
        let mut all: Vec<(u64, ColdName)> = all.map(|(name, upload)| (upload.nth, *name)).collect();
        all.sort_unstable();
        let Some((_, name)) = all.get(number as usize % all.len().max(1)).copied() else { return false };
        self.by_name.values_mut().for_each(|bucket| drop(bucket.uploads.remove(&name)));
        self.lost.insert(name);
        true
    }

    /// Whether a whole value of this owner is there.
    pub(super) fn has(&self, name: ColdName, owner: Owner) -> bool {
        self.by_name.values().any(|bucket| bucket.uploads.get(&name).is_some_and(|upload| sum_found(&upload.runs) == sum_of(owner)))
    }

    pub(super) fn is_lost(&self, name: ColdName) -> bool {
        self.lost.contains(&name)
    }

    /// Uploads that nothing names, and their bucket.
    pub(super) fn orphan(&self) -> Option<(String, ColdName)> {
        let mut all = self.by_name.iter().flat_map(|(bucket, there)| {
            let plain = there.plain.keys().filter_map(|path| upload_in(path));
            there.uploads.keys().copied().chain(plain).map(move |name| (bucket, name))
        });
        let orphan = all.find(|(_, name)| !self.named.contains(name) && !self.is_pinned(*name));
        orphan.map(|(bucket, name)| (bucket.clone(), name))
    }

    /// Whether a checkpoint names it.
    fn is_pinned(&self, name: ColdName) -> bool {
        self.pinned.values().any(|names| names.contains(&name))
    }

    /// Whether anything is in a bucket.
    pub(super) fn holds(&self, bucket: &str) -> Option<String> {
        let there = self.by_name.get(bucket)?;
        there.uploads.keys().next().map(|name| format!("upload {name}")).or_else(|| there.plain.keys().next().cloned())
    }
}

/// A vault as masters ask it.
struct Door {
    shared: Shared,
    bucket: String,
    /// Whatever the bucket's mood.
    answers: bool,
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "bucket {}", self.bucket)
    }
}

/// The upload that a file is, if it is one.
fn upload_in(path: &str) -> Option<ColdName> {
    path.strip_prefix("objects/")?.rsplit('/').next()?.parse().ok()
}

/// The checkpoint whose manifest a file is, if it is one.
fn checkpoint_in(path: &str) -> Option<ColdName> {
    path.strip_prefix("checkpoints/")?.split_once('-')?.1.parse().ok()
}

impl Door {
    /// Carries a request out, and answers if the bucket is one that answers.
    fn ask<T>(&self, act: impl FnOnce(&mut Buckets) -> Vaulted<T>) -> Vaulted<T> {
        let mut buckets = lock(&self.shared);
        let heard = self.answers || buckets.arrive(&self.bucket)?;
        let done = act(&mut buckets)?;
        if heard { Ok(done) } else { Err(Class::Away.with("no answer")) }
    }
}

impl Shelf for Door {
    fn put(&self, name: &str, bytes: Bytes, create: bool) -> Vaulted<()> {
        self.ask(|buckets| {
            let there = buckets.by_name.entry(self.bucket.clone()).or_default();
            if create && there.plain.contains_key(name) {
                return Err(Class::Exists.with("412"));
            }
            there.plain.insert(name.into(), bytes.clone());
            if checkpoint_in(name).is_some() {
                buckets.manifests.push(self.bucket.clone());
            }
            if self.bucket.starts_with(BUCKET) {
                buckets.arrived.push((self.bucket.clone(), name.into(), bytes));
            }
            Ok(())
        })
    }

    fn get(&self, name: &str, range: Option<Range<u64>>) -> Vaulted<Got> {
        self.ask(|buckets| {
            let found = buckets.by_name.get(&self.bucket).and_then(|there| there.plain.get(name));
            let bytes = found.cloned().ok_or_else(|| Class::NoObject.with("404"))?;
            let size = bytes.len() as u64;
            let part = range.map_or(0..size, |range| range.start.min(size)..range.end.min(size));
            Ok(Got { bytes: bytes.slice(part.start as usize..part.end as usize), size })
        })
    }

    fn list(&self, folder: &str, after: Option<&str>, max: usize) -> Vaulted<Vec<Listed>> {
        self.ask(|buckets| {
            let Some(there) = buckets.by_name.get(&self.bucket) else { return Ok(Vec::new()) };
            let within = |name: &String| folder.is_empty() || name.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
            let uploads = there.uploads.keys().map(|name| ColdObject::path(name.0));
            let plain = there.plain.iter().map(|(name, bytes)| (name.clone(), bytes.len() as u64));
            let mut names: Vec<(String, u64)> = plain.chain(uploads.map(|name| (name, 1))).filter(|(name, _)| within(name)).collect();
            names.sort_unstable();
            let behind = names.into_iter().filter(|(name, _)| after.is_none_or(|after| name.as_str() > after));
            Ok(behind.take(max).map(|(name, size)| Listed { name, size }).collect())
        })
    }

    fn delete(&self, name: &str) -> Vaulted<()> {
        self.ask(|buckets| {
            let upload = upload_in(name);
            let named = upload.filter(|upload| buckets.named.contains(upload));
            if let Some(named) = named {
                let what = format!("{named} was deleted in bucket {}, and an object that lives has it as its copy", self.bucket);
                buckets.broken.get_or_insert(("what is named stays in its vault", what));
            }
            if let Some(pinned) = upload.filter(|upload| buckets.is_pinned(*upload) && !buckets.dropped.contains(&self.bucket)) {
                let what = format!("{pinned} was deleted in bucket {}, and a checkpoint that is there names it", self.bucket);
                buckets.broken.get_or_insert(("what a checkpoint names stays", what));
            }
            checkpoint_in(name).into_iter().for_each(|gone| drop(buckets.pinned.remove(&gone)));
            let Some(there) = buckets.by_name.get_mut(&self.bucket) else { return Ok(()) };
            let _ = there.plain.remove(name);
            let _ = upload.and_then(|upload| there.uploads.remove(&upload));
            Ok(())
        })
    }
}

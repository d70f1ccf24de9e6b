//! A vault: the operations on single names. Each ends by its deadline; what may pass is repeated until then.

use crate::attempts::{Shared, Turn, operation, operation_on};
use crate::dir::Dir;
use crate::fault::{Class, Vaulted};
use crate::gate::{Gate, Limits};
use crate::key::Key;
use crate::place::{Fetched, Got, Listed, Place};
use crate::runtime::Operation;
use crate::s3::S3;
use crate::shelf::Shelf;
use crate::target::{Keys, Target};
use bytes::Bytes;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// The longest name, in bytes: S3 allows 1024 with the prefix.
const NAME_BYTES_MAX: usize = 512;

/// How a vault is used.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What requests are signed with; directories need none.
    pub keys: Option<Keys>,
    /// Whether what is written is encrypted: by S3 (`x-amz-server-side-encryption: AES256`), or for directories by us, with `key`.
    pub sse: bool,
    /// The tenant's key. Sealed objects are read with it, whatever `sse` says.
    pub key: Option<Key>,
    /// How often and how long it is asked.
    pub limits: Limits,
}

/// An open vault; clones are the same one. Opening asks nobody: the first request says whether the target is right.
#[derive(Clone)]
pub struct Vault {
    pub(crate) shared: Arc<Shared>,
    /// Whether objects are sealed by us when they are written.
    pub(crate) seals: bool,
    pub(crate) key: Option<Key>,
}

impl Vault {
    /// Opens the vault at `target`.
    ///
    /// # Errors
    /// [`Class::Invalid`] when the target cannot be right, or something is missing from the options.
    pub fn open(target: &Target, options: &Options) -> Vaulted<Self> {
        let missing = |what| Class::Invalid.with(format!("{target}: {what}"));
        let (place, seals) = match target {
            Target::S3(s3) => {
                let keys = options.keys.as_ref().ok_or_else(|| missing("a bucket needs an access key and a secret key"))?;
                let s3 = S3::open(s3, keys, options.sse, &options.limits).map_err(|fault| fault.at(target))?;
                (Place::S3(Arc::new(s3)), false)
            }
            Target::File(dir) => {
                if options.sse && options.key.is_none() {
                    return Err(missing("encryption in a directory needs the tenant's key"));
                }
                (Place::Dir(Arc::new(Dir::new(dir.clone()))), options.sse)
            }
        };
        let shared = Shared { place, gate: Gate::new(options.limits), limits: options.limits, shown: target.to_string() };
        Ok(Self { shared: Arc::new(shared), seals, key: options.key.clone() })
    }

    /// Opens what is no vault outside of this process.
    pub fn over(shelf: Arc<dyn Shelf>) -> Self {
        let (limits, shown) = (Limits::default(), format!("{shelf:?}"));
        let shared = Shared { place: Place::Shelf(shelf), gate: Gate::new(limits), limits, shown };
        Self { shared: Arc::new(shared), seals: false, key: None }
    }

    /// Whether the vault is away: then requests are answered at once, but for one now and then that tries.
    pub fn is_away(&self) -> bool {
        self.shared.gate.is_away()
    }

    /// Whether the vault is there and can be listed.
    ///
    /// # Errors
    /// Why not.
    pub fn ready(&self, deadline: Instant) -> Vaulted<()> {
        self.list("", None, 1, deadline).map(drop)
    }

    /// Writes an object, or puts it in the place of another.
    ///
    /// # Errors
    /// [`Class::Refused`], [`Class::NoBucket`], [`Class::Away`], or [`Class::Invalid`] for a name that is none.
    pub fn put(&self, name: &str, bytes: Bytes, deadline: Instant) -> Vaulted<()> {
        self.ask("put", name, deadline, move |place, name, _| {
            let bytes = vec![bytes.clone()];
            async move { place.put(&name, bytes, false, deadline).await }
        })
    }

    /// Writes an object unless there is one of that name. Whoever competes with others for a name writes bytes that tell them apart: an
    /// answer that was lost is asked for again, and the object that is then there is this caller's if its bytes are.
    ///
    /// # Errors
    /// [`Class::Exists`], and as [`Vault::put`].
    pub fn create(&self, name: &str, bytes: Bytes, deadline: Instant) -> Vaulted<()> {
        self.ask("create", name, deadline, move |place, name, turn| {
            let bytes = bytes.clone();
            async move {
                let done = place.put(&name, vec![bytes.clone()], true, deadline).await;
                unless_ours(done, turn, &place, &name, &bytes).await
            }
        })
    }

    /// Puts bytes in the place of exactly those that are there, so that of several who do this at once one succeeds. In a directory two that do so
    /// within the same microseconds may both: nothing there compares and moves in one step.
    ///
    /// # Errors
    /// [`Class::Exists`] when other bytes are there, [`Class::NoObject`] when none are; and as [`Vault::put`].
    pub fn replace(&self, name: &str, there: Bytes, bytes: Bytes, deadline: Instant) -> Vaulted<()> {
        self.ask("replace", name, deadline, move |place, name, turn| {
            let (there, bytes) = (there.clone(), bytes.clone());
            async move {
                let done = place.replace(&name, there, bytes.clone(), deadline).await;
                unless_ours(done, turn, &place, &name, &bytes).await
            }
        })
    }

    /// Reads an object, or `range` of its bytes; fewer come where the object ends before.
    ///
    /// # Errors
    /// [`Class::NoObject`], [`Class::Damaged`] for a range that begins behind its end, and as [`Vault::put`].
    pub fn get(&self, name: &str, range: Option<Range<u64>>, deadline: Instant) -> Vaulted<Got> {
        self.fetch(name, range, deadline)?.finish().map(Fetched::joined)
    }

    /// As [`Vault::get`], now or later.
    pub(crate) fn fetch(&self, name: &str, range: Option<Range<u64>>, deadline: Instant) -> Vaulted<Operation<Fetched>> {
        if range.as_ref().is_some_and(Range::is_empty) {
            return Err(Class::Invalid.with("a range to be read has at least one byte"));
        }
        self.operation("get", name, deadline, move |place, name, _| {
            let range = range.clone();
            async move { place.get(&name, range).await }
        })
    }

    /// Bytes of an object.
    ///
    /// # Errors
    /// [`Class::NoObject`], and as [`Vault::put`].
    pub fn head(&self, name: &str, deadline: Instant) -> Vaulted<u64> {
        self.ask("look at", name, deadline, |place, name, _| async move { place.head(&name).await })
    }

    /// A page of what lies in a folder (all of the vault where it is empty): at most `max` names behind `after`, in their order.
    ///
    /// # Errors
    /// As [`Vault::put`].
    pub fn list(&self, folder: &str, after: Option<&str>, max: usize, deadline: Instant) -> Vaulted<Vec<Listed>> {
        if !folder.is_empty() {
            check_name(folder)?;
        }
        let (folder, after) = (folder.to_owned(), after.map(str::to_owned));
        let what = format!("list `{folder}`");
        let once = move |place: Place, _| {
            let (folder, after) = (folder.clone(), after.clone());
            async move { place.list(&folder, after, max).await }
        };
        operation(&self.shared, what, 0, deadline, once).finish()
    }

    /// Deletes an object; one that is not there is deleted already.
    ///
    /// # Errors
    /// As [`Vault::put`].
    pub fn delete(&self, name: &str, deadline: Instant) -> Vaulted<()> {
        self.ask("delete", name, deadline, |place, name, _| async move { place.delete(&name).await })
    }

    /// Removes what is left of uploads to a directory whose processes are no more. In a bucket [`Vault::begun`] tells of such.
    ///
    /// # Errors
    /// As [`Vault::delete`].
    pub fn tidy(&self, deadline: Instant) -> Vaulted<()> {
        operation(&self.shared, "tidy".to_owned(), 0, deadline, |place, _| async move { place.tidy().await }).finish()
    }

    pub(crate) fn ask<T, F>(
        &self,
        verb: &str,
        name: &str,
        deadline: Instant,
        once: impl Fn(Place, Arc<str>, Turn) -> F + Send + Sync + 'static,
    ) -> Vaulted<T>
    where
        T: Send + 'static,
        F: Future<Output = Vaulted<T>> + Send + 'static,
    {
        self.operation(verb, name, deadline, once)?.finish()
    }

    fn operation<T, F>(
        &self,
        verb: &str,
        name: &str,
        deadline: Instant,
        once: impl Fn(Place, Arc<str>, Turn) -> F + Send + Sync + 'static,
    ) -> Vaulted<Operation<T>>
    where
        T: Send + 'static,
        F: Future<Output = Vaulted<T>> + Send + 'static,
    {
        check_name(name)?;
        Ok(operation_on(&self.shared, verb, &name.into(), deadline, once))
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vault({})", self.shared.shown)
    }
}

/// An answer that was lost is asked for again: what is there then is this caller's if its bytes are.
async fn unless_ours(done: Vaulted<()>, turn: Turn, place: &Place, name: &str, bytes: &Bytes) -> Vaulted<()> {
    match done {
        Err(fault) if fault.class == Class::Exists && turn == Turn::Again => {
            if place.get(name, None).await?.joined().bytes == *bytes {
                Ok(())
            } else {
                Err(fault)
            }
        }
        done => done,
    }
}

/// A name is a path of visible ASCII that no service and no file system reads another way.
fn check_name(name: &str) -> Vaulted<()> {
    let part =
        |part: &str| !part.is_empty() && !part.starts_with('.') && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.=".contains(&b));
    if name.len() <= NAME_BYTES_MAX && name.split('/').all(part) {
        return Ok(());
    }
    let shown: String = name.chars().take(64).collect();
    Err(Class::Invalid.with(format!(
        "{shown:?} is no name in a vault: at most {NAME_BYTES_MAX} letters, digits, `-`, `_`, `.`, `=`, in parts between `/` that do not begin with `.`"
    )))
}

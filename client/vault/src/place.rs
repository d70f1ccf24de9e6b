//! What S3 and directories have in common: one request each, neither repeated nor timed.

use crate::dir::Dir;
use crate::fault::{Class, VaultFault, Vaulted};
use crate::s3::S3;
use crate::shelf::Shelf;
use crate::stretch::Stretch;
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// Some bytes of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    /// Those asked for; fewer where the object is shorter.
    pub bytes: Bytes,
    /// Bytes of the whole object.
    pub size: u64,
}

/// The same as they came: in parts, which nobody has joined.
#[derive(Clone, Debug)]
pub(crate) struct Fetched {
    pub(crate) parts: Payload,
    pub(crate) size: u64,
}

impl Fetched {
    /// Joined, which costs a copy where there is more than one.
    pub(crate) fn joined(self) -> Got {
        Got { bytes: Stretch { at: 0, parts: self.parts }.joined(), size: self.size }
    }
}

impl From<Got> for Fetched {
    fn from(Got { bytes, size }: Got) -> Self {
        Self { parts: vec![bytes], size }
    }
}

/// A name and its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The name, without the vault's prefix.
    pub name: String,
    /// Bytes.
    pub size: u64,
}

/// Something to be written, in pieces that need not be joined.
pub(crate) type Payload = Vec<Bytes>;

/// Bytes of a payload.
pub(crate) fn len(payload: &[Bytes]) -> u64 {
    payload.iter().map(|bytes| bytes.len() as u64).sum()
}

/// A part of an upload.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) number: usize,
    pub(crate) bytes: Payload,
}

#[derive(Clone, Debug)]
pub(crate) enum Place {
    S3(Arc<S3>),
    Dir(Arc<Dir>),
    Shelf(Arc<dyn Shelf>),
}

impl Place {
    /// Nothing comes to lie in a directory after `until`; of a bucket nobody can promise that.
    pub(crate) async fn put(&self, name: &str, bytes: Payload, create: bool, until: Instant) -> Vaulted<()> {
        match self {
            Self::S3(s3) => s3.put(name, bytes, create).await,
            Self::Shelf(shelf) => shelf.put(name, bytes.concat().into(), create),
            Self::Dir(_) => self.on_disk(name, move |dir, name| dir.put(name, &bytes, create, until)).await,
        }
    }

    /// As [`Place::put`].
    pub(crate) async fn replace(&self, name: &str, there: Bytes, bytes: Bytes, until: Instant) -> Vaulted<()> {
        match self {
            Self::S3(s3) => s3.replace(name, &there, bytes).await,
            Self::Shelf(shelf) => {
                same(&shelf.get(name, None)?.bytes, &there)?;
                shelf.put(name, bytes, false)
            }
            Self::Dir(_) => self.on_disk(name, move |dir, name| dir.replace(name, &there, bytes, until)).await,
        }
    }

    pub(crate) async fn get(&self, name: &str, range: Option<Range<u64>>) -> Vaulted<Fetched> {
        match self {
            Self::S3(s3) => s3.get(name, range).await,
            Self::Shelf(shelf) => shelf.get(name, range).map(Fetched::from),
            Self::Dir(_) => self.on_disk(name, |dir, name| dir.get(name, range)).await,
        }
    }

    /// The bytes of an object.
    pub(crate) async fn head(&self, name: &str) -> Vaulted<u64> {
        match self {
            Self::S3(s3) => s3.head(name).await,
            Self::Shelf(shelf) => shelf.get(name, None).map(|got| got.size),
            Self::Dir(_) => self.on_disk(name, Dir::head).await,
        }
    }

    pub(crate) async fn list(&self, folder: &str, after: Option<String>, max: usize) -> Vaulted<Vec<Listed>> {
        match self {
            Self::S3(s3) => s3.list(folder, after.as_deref(), max).await,
            Self::Shelf(shelf) => shelf.list(folder, after.as_deref(), max),
            Self::Dir(_) => self.on_disk(folder, move |dir, folder| dir.list(folder, after.as_deref(), max)).await,
        }
    }

    /// Deletes; what is not there is deleted already.
    pub(crate) async fn delete(&self, name: &str) -> Vaulted<()> {
        let done = match self {
            Self::S3(s3) => s3.delete(name).await,
            Self::Shelf(shelf) => shelf.delete(name),
            Self::Dir(_) => self.on_disk(name, Dir::delete).await,
        };
        done.or_else(gone)
    }

    /// Begins an upload in parts; gives what it is called until it is complete.
    pub(crate) async fn begin(&self, name: &str) -> Vaulted<String> {
        self.bucket()?.begin(name).await
    }

    /// Writes a part; gives what it is called when the upload is completed. Writing it again replaces it.
    pub(crate) async fn part(&self, name: &str, id: &str, part: Part) -> Vaulted<String> {
        self.bucket()?.part(name, id, part).await
    }

    /// Makes the object from its parts, in order.
    pub(crate) async fn complete(&self, name: &str, id: &str, parts: Vec<String>) -> Vaulted<()> {
        self.bucket()?.complete(name, id, parts).await
    }

    /// Forgets an upload that will not be completed; one that has ended is forgotten already.
    pub(crate) async fn abort(&self, name: &str, id: &str) -> Vaulted<()> {
        self.bucket()?.abort(name, id).await.or_else(gone)
    }

    /// What takes objects in parts.
    fn bucket(&self) -> Vaulted<&S3> {
        match self {
            Self::S3(s3) => Ok(s3),
            Self::Dir(_) | Self::Shelf(_) => Err(Class::Invalid.with("nothing but a bucket takes an object in parts")),
        }
    }

    /// Writes a file of the bytes that `give` gives one after another; as [`Place::put`].
    pub(crate) async fn write<G>(&self, name: &str, until: Instant, give: G) -> Vaulted<()>
    where
        G: FnOnce(&mut dyn FnMut(Bytes) -> Vaulted<()>) -> Vaulted<()> + Send + 'static,
    {
        self.on_disk(name, move |dir, name| dir.write(name, until, give)).await
    }

    /// Removes what processes left in a directory that are no more, and where it lay.
    pub(crate) async fn tidy(&self) -> Vaulted<()> {
        match self {
            Self::Dir(_) => self.on_disk("", |dir, _| dir.tidy()).await,
            Self::S3(_) | Self::Shelf(_) => Ok(()),
        }
    }

    /// Calls into a directory block, and one on a network may hang: they have threads of their own.
    async fn on_disk<T: Send + 'static>(&self, name: &str, call: impl FnOnce(&Dir, &str) -> Vaulted<T> + Send + 'static) -> Vaulted<T> {
        let Self::Dir(dir) = self else { return Err(Class::Invalid.with("not a directory")) };
        let (dir, name) = (Arc::clone(dir), name.to_owned());
        // Back when the call returns, whoever has given up waiting for it: one that hangs takes no thread of other directories.
        let call_out = Arc::clone(&dir.calls).acquire_owned().await;
        let done = tokio::task::spawn_blocking(move || {
            let done = call(&dir, &name);
            drop(call_out);
            done
        })
        .await;
        done.unwrap_or_else(|e| Err(Class::Invalid.with(format!("a call into a directory panicked, please report it: {e}"))))
    }
}

/// Whether what was found is what was expected.
///
/// # Errors
/// [`Class::Exists`].
pub(crate) fn same(found: &Bytes, expected: &Bytes) -> Vaulted<()> {
    if found == expected { Ok(()) } else { Err(Class::Exists.with("something else is there by now")) }
}

/// What is not there needs not be removed.
fn gone(fault: VaultFault) -> Vaulted<()> {
    if fault.class == Class::NoObject { Ok(()) } else { Err(fault) }
}

//! An object of a bucket whose bytes come one after another: in one request where they are known to be few, in parts where they are many.

use crate::attempts::{Shared, Turn, operation_on};
use crate::begun;
use crate::fault::{Class, Vaulted};
use crate::object::ColdObject;
use crate::place::{Part, Payload, Place, len};
use crate::runtime::{Operation, Pending, begin};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Bytes at which a part is full. S3 wants 5 MiB at least.
const PART_BYTES: u64 = 8 << 20;
/// So many go in one request where it is known that there are no more: parts would cost three requests for every one, and a bucket has the
/// object put together.
pub const WHOLE_BYTES: u64 = 3 * PART_BYTES;
/// Parts on their way at a time.
const FLYING_MAX: usize = 4;
/// So long it is tried to delete the note about an upload that has become an object; one that stays does no harm.
const NOTE_PATIENCE: Duration = Duration::from_secs(2);
/// What S3 allows.
const PARTS_MAX: usize = 10_000;

/// An object in the making. Dropped before [`Upload::finish`], it never was.
pub(crate) struct Upload {
    shared: Arc<Shared>,
    name: Arc<str>,
    /// Where the bucket is told of it before there are parts.
    note: Arc<str>,
    deadline: Instant,
    /// What the service calls it, once there are parts.
    id: Option<Arc<str>>,
    /// Bytes at which what was gathered is sent as a part.
    full: u64,
    /// Not on its way yet.
    gathered: Payload,
    gathered_len: u64,
    sent: u64,
    flying: VecDeque<Pending<String>>,
    parts: Vec<String>,
}

impl Upload {
    /// Of at most `size` bytes.
    pub(crate) fn new(shared: Arc<Shared>, name: Uuid, size: u64, deadline: Instant) -> Self {
        let (name, note) = (ColdObject::path(name).into(), begun::note(name).into());
        let full = if size <= WHOLE_BYTES { u64::MAX } else { PART_BYTES };
        let (gathered, flying, parts) = (Payload::new(), VecDeque::new(), Vec::new());
        Self { shared, name, note, deadline, id: None, full, gathered, gathered_len: 0, sent: 0, flying, parts }
    }

    /// The next bytes. Waits while enough are on their way.
    ///
    /// # Errors
    /// As [`crate::Vault::put`]; the upload is then of no use any more.
    pub(crate) fn push(&mut self, bytes: Bytes) -> Vaulted<()> {
        self.gathered_len += bytes.len() as u64;
        self.gathered.push(bytes);
        if self.gathered_len < self.full { Ok(()) } else { self.send() }
    }

    /// Makes the object of all bytes; gives how many there are.
    ///
    /// # Errors
    /// As [`crate::Vault::put`].
    pub(crate) fn finish(mut self) -> Vaulted<u64> {
        let (size, deadline) = (self.sent + self.gathered_len, self.deadline);
        if self.id.is_none() {
            let bytes = std::mem::take(&mut self.gathered);
            self.ask("put", move |place, name, turn| {
                let bytes = bytes.clone();
                async move {
                    // An earlier attempt may have come through; and a service that refuses may break off what is sent without a word.
                    if turn == Turn::Again {
                        match place.head(&name).await {
                            Ok(there) if there == size => return Ok(()),
                            Err(fault) if ![Class::NoObject, Class::Away].contains(&fault.class) => return Err(fault),
                            _ => {}
                        }
                    }
                    place.put(&name, bytes, false, deadline).await
                }
            })
            .finish()?;
            return Ok(size);
        }
        if self.gathered_len > 0 {
            self.send()?;
        }
        while let Some(part) = self.flying.pop_front() {
            self.parts.push(part.wait()?);
        }
        let Some(id) = self.id.clone() else { return Err(Class::Invalid.with("an upload without a name of its own")) };
        let parts = std::mem::take(&mut self.parts);
        self.ask("complete", move |place, name, turn| {
            let (id, parts) = (Arc::clone(&id), parts.clone());
            async move {
                match place.complete(&name, &id, parts).await {
                    // The answer to an earlier attempt was lost: the upload is no more because it has become the object.
                    Err(fault) if fault.class != Class::Away && turn == Turn::Again => {
                        if place.head(&name).await == Ok(size) {
                            Ok(())
                        } else {
                            Err(fault)
                        }
                    }
                    done => done,
                }
            }
        })
        .finish()?;
        self.id = None;
        let until = self.deadline.min(Instant::now() + NOTE_PATIENCE);
        // One that stays goes with the object.
        let _ = operation_on(&self.shared, "delete", &self.note, until, |place, note, _| async move { place.delete(&note).await }).finish();
        Ok(size)
    }

    /// Sends what was gathered as a part.
    fn send(&mut self) -> Vaulted<()> {
        let id = match &self.id {
            Some(id) => Arc::clone(id),
            None => {
                let id: Arc<str> = self.ask("begin", |place, name, _| async move { place.begin(&name).await }).finish()?.into();
                let id = Arc::clone(self.id.insert(id));
                let (bytes, deadline) = (Bytes::copy_from_slice(id.as_bytes()), self.deadline);
                operation_on(&self.shared, "put", &self.note, self.deadline, move |place, note, _| {
                    let bytes = vec![bytes.clone()];
                    async move { place.put(&note, bytes, false, deadline).await }
                })
                .finish()?;
                id
            }
        };
        if self.flying.len() == FLYING_MAX
            && let Some(part) = self.flying.pop_front()
        {
            self.parts.push(part.wait()?);
        }
        let number = self.parts.len() + self.flying.len();
        if number == PARTS_MAX {
            return Err(Class::Invalid.with(format!("an upload has at most {PARTS_MAX} parts, which hold {} bytes", self.sent)));
        }
        let part = Part { number, bytes: std::mem::take(&mut self.gathered) };
        self.sent += len(&part.bytes);
        self.gathered_len = 0;
        let flying = self
            .ask("put a part of", move |place, name, _| {
                let (id, part) = (Arc::clone(&id), part.clone());
                async move { place.part(&name, &id, part).await }
            })
            .begin()?;
        self.flying.push_back(flying);
        Ok(())
    }

    fn ask<T, F>(&self, verb: &str, once: impl Fn(Place, Arc<str>, Turn) -> F + Send + Sync + 'static) -> Operation<T>
    where
        T: Send + 'static,
        F: Future<Output = Vaulted<T>> + Send + 'static,
    {
        operation_on(&self.shared, verb, &self.name, self.deadline, once)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(id) = self.id.take() else { return };
        // No part may arrive after the upload is forgotten, or it would stay.
        self.flying.clear();
        let (place, name, limit) = (self.shared.place.clone(), Arc::clone(&self.name), self.shared.limits.attempt);
        let note = Arc::clone(&self.note);
        // Nobody waits for it: what cannot be forgotten now is found by its note.
        let _ = begin(async move {
            if let Ok(Ok(())) = tokio::time::timeout(limit, place.abort(&name, &id)).await {
                let _ = tokio::time::timeout(limit, place.delete(&note)).await;
            }
            Ok(())
        })
        .map(Pending::leave);
    }
}

//! Objects on their way to a vault: written only if their bytes are the ones that were put.

use crate::attempts::operation;
use crate::fault::{Class, Vaulted};
use crate::key::{Cipher, FOOTER};
use crate::layout::{Footer, HEADER_BYTES, Header, PIECE_BYTES, TAG_BYTES, combined, tail};
use crate::lent::Lent;
use crate::object::ColdObject;
use crate::pool::{BUFFER_BYTES, Buffer};
use crate::upload::Upload;
use crate::vault::Vault;
use bytes::Bytes;
use perilune_protocol::Checksum;
use std::sync::Arc;
use std::time::Instant;

/// Gives the bytes of a value from an offset on, as many as there is room for; or says why it cannot. Asked by any thread, and never again once
/// the call that it was given to has ended.
pub type Source = Box<dyn FnMut(u64, &mut [u8]) -> Result<(), String> + Send>;

impl Vault {
    /// Uploads a value; gives the bytes that it takes in the vault. The checksum of what `source` gave is compared before the upload is
    /// completed: nothing is there under the name unless it is right. What a directory is tried again with is read from `source` again.
    ///
    /// # Errors
    /// [`Class::Wrong`] when it is not; [`Class::Caller`] when `source` gave up; [`Class::Refused`], [`Class::NoBucket`],
    /// [`Class::Away`]; [`Class::Invalid`] for a key or size that no object has.
    pub fn write_object(&self, object: &ColdObject, mut source: Source, deadline: Instant) -> Vaulted<u64> {
        object.key.check().map_err(|fault| Class::Invalid.with(fault.message))?;
        let first = Writing::of(self, object, 0);
        Header::decode(&first.bytes).map_err(|why| Class::Invalid.with(format!("the object {why}")))?;
        let total = first.header.total(&object.key);
        if !self.shared.is_dir() {
            let mut upload = Upload::new(Arc::clone(&self.shared), object.name, total, deadline);
            // Dropped, it never was.
            first.run(&mut source, &mut |bytes| upload.push(bytes))?;
            return upload.finish();
        }
        // All by one thread, which copies, sums up and writes what it has at hand.
        let (path, vault, object, source) = (ColdObject::path(object.name), self.clone(), object.clone(), Lent::new(source));
        operation(&self.shared, format!("put {path}"), total, deadline, move |place, _| {
            let (path, source) = (path.clone(), source.next());
            // Pauses between them grow, so there are some dozens.
            let writing = Writing::of(&vault, &object, u8::try_from(source.turn()).unwrap_or(u8::MAX));
            let give = move |at, into: &mut [u8]| source.with(|source| source(at, into));
            async move { place.write(&path, deadline, move |write| writing.run(give, write)).await }
        })
        .finish()?;
        Ok(total)
    }
}

/// An object that is being written.
struct Writing {
    object: ColdObject,
    header: Header,
    /// The bytes of it.
    bytes: [u8; HEADER_BYTES as usize],
    cipher: Option<Cipher>,
}

impl Writing {
    /// By this attempt at it. What it reads may be other bytes than what one before it read, so each has a key of its own.
    fn of(vault: &Vault, object: &ColdObject, attempt: u8) -> Self {
        let header = Header { attempt, ..object.header(vault.seals) };
        let cipher = if vault.seals { vault.key.as_ref().map(|key| Cipher::of(key, object.name, attempt)) } else { None };
        Self { object: object.clone(), bytes: header.encode(), header, cipher }
    }

    /// Gives `write` all bytes of the object, one after another.
    fn run(
        &self,
        mut source: impl FnMut(u64, &mut [u8]) -> Result<(), String>,
        write: &mut dyn FnMut(Bytes) -> Vaulted<()>,
    ) -> Vaulted<()> {
        let Self { object, header, bytes, cipher } = self;
        write(Bytes::copy_from_slice(bytes))?;
        let mut footer = Footer { pieces: Vec::new(), checksum: 0, key: object.key.clone() };
        for number in 0..header.pieces() {
            let len = header.piece_len(number);
            let (mut at, mut sum) = (number * PIECE_BYTES, Checksum::default());
            let mut fill = |bytes: &mut [u8]| -> Vaulted<()> {
                for step in bytes.chunks_mut(BUFFER_BYTES) {
                    source(at, step).map_err(|why| Class::Caller.with(why))?;
                    sum.update(step);
                    at += step.len() as u64;
                }
                Ok(())
            };
            match cipher {
                // Sealed as a whole.
                Some(cipher) => {
                    let mut piece = Vec::with_capacity((len + TAG_BYTES) as usize);
                    piece.resize(len as usize, 0);
                    fill(&mut piece)?;
                    cipher.seal(number as u32, bytes, &mut piece);
                    write(piece.into())?;
                }
                None => {
                    for begin in (0..len as usize).step_by(BUFFER_BYTES) {
                        let mut buffer = Buffer::take(len as usize - begin);
                        fill(&mut buffer)?;
                        write(buffer.into_bytes())?;
                    }
                }
            }
            let sum = sum.finish();
            footer.checksum = if number == 0 { sum } else { combined(footer.checksum, sum, len) };
            footer.pieces.push(sum);
        }
        if footer.checksum != object.checksum {
            return Err(Class::Wrong.with(format!("the bytes of {} are not those of version {} any more", object.key, object.version.0)));
        }
        let mut end = footer.encode(header);
        if let Some(cipher) = cipher {
            cipher.seal(FOOTER, bytes, &mut end);
        }
        end.extend(tail(end.len()));
        write(end.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Key;
    use crate::target::Target;
    use crate::vault::Options;
    use perilune_protocol::{TenantId, Tso, checksum};
    use std::time::Duration;
    use uuid::Uuid;

    #[test]
    fn what_another_attempt_wrote_is_sealed_with_another_key_and_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { sse: true, key: Some(Key::new([7; 32])), ..Options::default() };
        let vault = Vault::open(&Target::File(dir.path().into()), &options).unwrap();
        let (value, deadline) = (vec![9; 100_000], Instant::now() + Duration::from_secs(60));
        let object = ColdObject {
            name: Uuid::from_u128(5),
            tenant: TenantId(3),
            key: "k".into(),
            version: Tso(7),
            size: value.len() as u64,
            checksum: checksum(&[&value]),
        };
        let written = [0, 1, u8::MAX].map(|attempt| {
            let (mut all, from) = (Vec::new(), value.clone());
            let give = move |at: u64, into: &mut [u8]| {
                into.copy_from_slice(&from[at as usize..][..into.len()]);
                Ok(())
            };
            let mut take = |bytes: Bytes| {
                all.extend_from_slice(&bytes);
                Ok(())
            };
            Writing::of(&vault, &object, attempt).run(give, &mut take).unwrap();
            vault.put(&ColdObject::path(object.name), all.clone().into(), deadline).unwrap();
            let mut read = Vec::new();
            let mut sink = |_, bytes: &[u8]| {
                read.extend_from_slice(bytes);
                Ok(())
            };
            vault.read_object(&object, 0..object.size, &mut sink, deadline).unwrap();
            assert!(read == value, "attempt {attempt}");
            all
        });
        let sealed = |n: usize| &written[n][HEADER_BYTES as usize..][..value.len()];
        assert!(sealed(0) != sealed(1) && sealed(1) != sealed(2) && sealed(0) != value);
    }
}

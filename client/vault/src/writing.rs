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
        let header = object.header(self.seals);
        let bytes = header.encode();
        Header::decode(&bytes).map_err(|why| Class::Invalid.with(format!("the object {why}")))?;
        let cipher = if self.seals { self.key.as_ref().map(|key| Cipher::of(key, object.name)) } else { None };
        let total = header.total(&object.key);
        let writing = Writing { object: object.clone(), header, bytes, cipher };
        if !self.shared.is_dir() {
            let mut upload = Upload::new(Arc::clone(&self.shared), object.name, total, deadline);
            // Dropped, it never was.
            writing.run(&mut source, &mut |bytes| upload.push(bytes))?;
            return upload.finish();
        }
        // All by one thread, which copies, sums up and writes what it has at hand.
        let (path, writing, source) = (ColdObject::path(object.name), Arc::new(writing), Lent::new(source));
        operation(&self.shared, format!("put {path}"), total, deadline, move |place, _| {
            let (path, writing, source) = (path.clone(), Arc::clone(&writing), source.next());
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

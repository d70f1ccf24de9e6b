//! Objects in a vault: read only if their bytes are still the ones that were put.

use crate::fault::{Class, VaultFault, Vaulted};
use crate::key::{Cipher, FOOTER};
use crate::layout::{Footer, HEADER_BYTES, Header, PIECE_BYTES, combined, without_tail};
use crate::place::{Fetched, Payload};
use crate::runtime::Pending;
use crate::stretch::Stretch;
use crate::upload::WHOLE_BYTES;
use crate::vault::Vault;
use bytes::{Bytes, BytesMut};
use perilune_protocol::{Checksum, ObjectKey, TenantId, Tso};
use std::collections::VecDeque;
use std::ops::Range;
use std::time::Instant;
use uuid::Uuid;

/// Bytes of pieces that are asked for in one request.
const REQUEST_BYTES: u64 = 8 << 20;
/// Requests on their way at a time. A directory is asked for one piece after another, into buffers that are still warm.
const FLYING_MAX: usize = 4;

/// One upload of one version of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColdObject {
    /// Names this upload, and never another: whoever tries again after a fault draws a new one.
    pub name: Uuid,
    /// Whose it is.
    pub tenant: TenantId,
    /// Its key.
    pub key: ObjectKey,
    /// Its version.
    pub version: Tso,
    /// Bytes of the value.
    pub size: u64,
    /// [`perilune_protocol::checksum`] of the value.
    pub checksum: u64,
}

/// Takes bytes of a value that are known to be right, and the offset they belong at.
pub type Sink<'a> = &'a mut dyn FnMut(u64, &[u8]) -> Result<(), String>;

impl ColdObject {
    /// Where the upload of this name lies, below the vault's prefix.
    pub fn path(name: Uuid) -> String {
        let name = name.to_string();
        format!("objects/{}/{name}", &name[..2])
    }

    pub(crate) fn header(&self, sealed: bool) -> Header {
        Header {
            sealed,
            attempt: 0,
            piece: PIECE_BYTES as u32,
            tenant: self.tenant,
            version: self.version,
            size: self.size,
            name: self.name,
        }
    }
}

impl Vault {
    /// Reads `range` of a value, or all of it. Every piece it touches is checked before `sink` has any of its bytes.
    ///
    /// # Errors
    /// [`Class::Damaged`] when what is there is not this upload of this version, whole and unaltered; [`Class::NoObject`];
    /// [`Class::Caller`] when `sink` gave up; [`Class::Invalid`] for a range outside the value, or when the key to open it is not here;
    /// [`Class::Refused`], [`Class::NoBucket`], [`Class::Away`].
    pub fn read_object(&self, object: &ColdObject, range: Range<u64>, sink: Sink<'_>, deadline: Instant) -> Vaulted<()> {
        if range.is_empty() || range.end > object.size {
            let Range { start, end } = range;
            return Err(Class::Invalid.with(format!("{start}..{end} is no range of {}, which has {} bytes", object.key, object.size)));
        }
        Reading::open(self, object, &range, deadline)?.read(range, sink)
    }
}

/// An object that is being read: its header and footer were found to be right.
struct Reading<'a> {
    vault: &'a Vault,
    path: String,
    deadline: Instant,
    header: Header,
    header_bytes: [u8; HEADER_BYTES as usize],
    cipher: Option<Cipher>,
    footer: Footer,
    /// The first bytes of the object.
    first: Stretch,
}

impl<'a> Reading<'a> {
    /// For the bytes in `range`.
    fn open(vault: &'a Vault, object: &ColdObject, range: &Range<u64>, deadline: Instant) -> Vaulted<Self> {
        let path = ColdObject::path(object.name);
        let damaged = |why: String| damaged(vault, &path, &why);
        let (plain, sealed) = (object.header(false), object.header(true));
        let most = sealed.total(&object.key);
        // One request brings all that is asked of a small object, sealed or not; of others the header, while another brings the end.
        let is_all = range.end - range.start == object.size;
        let is_small = object.size <= PIECE_BYTES || (most <= WHOLE_BYTES && is_all && !vault.shared.is_dir());
        let tail = plain.piece_at(plain.pieces())..most;
        let ending = if is_small { None } else { Some(vault.fetch(&path, Some(tail.clone()), deadline)?.begin()?) };
        let Fetched { parts, size } = vault.fetch(&path, Some(0..if is_small { most } else { HEADER_BYTES }), deadline)?.finish()?;
        let first = Stretch { at: 0, parts };
        let head = first.first(HEADER_BYTES as usize);
        if let Some(version) = Header::newer(&head) {
            let why = format!("{path} has version {version} of the layout, which a later release writes: let one of that read it");
            return Err(Class::Invalid.with(format!("{}: {why}", vault.shared.shown)));
        }
        let header = Header::decode(&head).map_err(damaged)?;
        let expected = Header { sealed: header.sealed, attempt: header.attempt, piece: header.piece, ..object.header(false) };
        if header != expected {
            return Err(damaged("is another upload, or of another version".into()));
        }
        let total = header.total(&object.key);
        if size != total {
            return Err(damaged(format!("has {size} bytes and should have {total}")));
        }
        let cipher = match (&vault.key, header.sealed) {
            (_, false) => None,
            (Some(key), true) => Some(Cipher::of(key, object.name, header.attempt)),
            (None, true) => {
                return Err(Class::Invalid.with(format!("{}: {path} is sealed, and its tenant's key is not here", vault.shared.shown)));
            }
        };
        let header_bytes = header.encode();
        let end = header.piece_at(header.pieces())..total;
        let there = match ending {
            None => first.cut(&end),
            Some(ending) => Stretch { at: tail.start, parts: ending.wait()?.parts }.cut(&end),
        };
        let end = match there {
            Some(end) => end.concat(),
            None => vault.get(&path, Some(end), deadline)?.bytes.to_vec(),
        };
        let mut footer = without_tail(&end).map_err(damaged)?.to_vec();
        let footer = match &cipher {
            Some(cipher) => cipher.open(FOOTER, &header_bytes, &mut footer).map_err(|why| damaged(format!("has a footer that {why}")))?,
            None => &footer,
        };
        let footer = Footer::decode(&header, footer).map_err(damaged)?;
        let pieces = footer.pieces.iter().zip(0..).skip(1);
        let whole = pieces.fold(footer.pieces[0], |sum, (piece, number)| combined(sum, *piece, header.piece_len(number)));
        if footer.key != object.key || footer.checksum != object.checksum || whole != object.checksum {
            return Err(damaged(format!("is not the value of {}", object.key)));
        }
        Ok(Self { vault, path, deadline, header, header_bytes, cipher, footer, first })
    }

    fn read(&self, range: Range<u64>, sink: Sink<'_>) -> Vaulted<()> {
        let piece = u64::from(self.header.piece);
        let last = range.end.div_ceil(piece);
        let mut next = range.start / piece;
        let (request, flying_max) = if self.vault.shared.is_dir() { (piece, 1) } else { (REQUEST_BYTES, FLYING_MAX) };
        let mut flying: VecDeque<(Range<u64>, Coming)> = VecDeque::new();
        loop {
            while next < last && flying.len() < flying_max {
                let until = last.min(next + (request / piece).max(1));
                flying.push_back((next..until, self.ask(next..until)?));
                next = until;
            }
            let Some((numbers, coming)) = flying.pop_front() else { return Ok(()) };
            let parts = match coming {
                Coming::There(parts) => parts,
                Coming::Flying(pending) => pending.wait()?.parts,
            };
            let mut stretch = Stretch { at: self.header.piece_at(numbers.start), parts };
            // A `Bytes` that nobody else holds is opened where it is.
            let mut sealed = self.cipher.as_ref().map(|cipher| (cipher, BytesMut::from(std::mem::take(&mut stretch).joined())));
            for number in numbers {
                let stored = self.header.piece_at(number)..self.header.piece_at(number + 1);
                let cut = || self.damaged(number, "was cut");
                let plain = match &mut sealed {
                    Some((cipher, bytes)) => vec![self.opened(cipher, number, bytes).ok_or_else(cut)??],
                    None => stretch.cut(&stored).ok_or_else(cut)?,
                };
                let mut sum = Checksum::default();
                plain.iter().for_each(|part| sum.update(part));
                if self.footer.pieces.get(number as usize) != Some(&sum.finish()) {
                    return Err(self.damaged(number, "was altered"));
                }
                let mut at = number * piece;
                for part in plain {
                    let end = at + part.len() as u64;
                    let wanted = range.start.max(at)..range.end.min(end);
                    if !wanted.is_empty() {
                        let bytes = &part[(wanted.start - at) as usize..(wanted.end - at) as usize];
                        sink(wanted.start, bytes).map_err(|why| Class::Caller.with(why))?;
                    }
                    at = end;
                }
            }
        }
    }

    /// The next piece of some that are sealed, `None` where it is not all there.
    fn opened(&self, cipher: &Cipher, number: u64, sealed: &mut BytesMut) -> Option<Vaulted<Bytes>> {
        let stored = (self.header.piece_at(number + 1) - self.header.piece_at(number)) as usize;
        let mut piece = (stored <= sealed.len()).then(|| sealed.split_to(stored))?;
        let opened = cipher.open(number as u32, &self.header_bytes, &mut piece).map(<[u8]>::len);
        Some(opened.map_err(|why| self.damaged(number, &why)).map(|plain| piece.freeze().slice(..plain)))
    }

    /// Asks for some pieces, unless they are there.
    fn ask(&self, numbers: Range<u64>) -> Vaulted<Coming> {
        let range = self.header.piece_at(numbers.start)..self.header.piece_at(numbers.end);
        match self.first.cut(&range) {
            Some(parts) => Ok(Coming::There(parts)),
            None => self.vault.fetch(&self.path, Some(range), self.deadline)?.begin().map(Coming::Flying),
        }
    }

    fn damaged(&self, number: u64, why: &str) -> VaultFault {
        damaged(self.vault, &self.path, &format!("has a piece (number {number}) that {why}"))
    }
}

enum Coming {
    There(Payload),
    Flying(Pending<Fetched>),
}

fn damaged(vault: &Vault, path: &str, why: &str) -> VaultFault {
    Class::Damaged.with(format!("{}: {path} {why}", vault.shared.shown))
}

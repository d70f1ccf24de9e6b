//! Where the bytes of a read go.

use perilune_protocol::object::VALUE_BYTES_MAX;
use perilune_protocol::{FaultCode, ObjectKey, Outcome};
use std::ops::Range;

/// Where the bytes of a read go.
pub(crate) enum Target<'a> {
    /// Into memory made when the size is known.
    Fresh(Vec<u8>),
    /// Into the caller's buffer.
    Lent(&'a mut [u8]),
    /// Some of them are wanted: in memory the whole value is read and checked, and then trimmed.
    Part {
        /// At least the first is to be there.
        wanted: Range<u64>,
        bytes: Vec<u8>,
        /// Bytes of the value.
        size: u64,
    },
}

/// Bytes of a value, and how many the whole of it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The bytes that were asked for, as many of them as the value has.
    pub bytes: Vec<u8>,
    /// Bytes of the value.
    pub size: u64,
}

impl Target<'_> {
    /// For a value of `size` bytes.
    pub(super) fn make_room(&mut self, key: &ObjectKey, size: u64) -> Outcome<()> {
        self.check(key, size)?;
        let length = size as usize;
        match self {
            Self::Lent(into) if into.len() < length => {
                Err(FaultCode::InvalidParams.with(format!("the buffer has {} bytes, the value of {key} has {size}", into.len())))
            }
            Self::Lent(_) => Ok(()),
            Self::Fresh(bytes) | Self::Part { bytes, .. } => {
                grow(bytes, length);
                Ok(())
            }
        }
    }

    /// Where the bytes that are wanted of a value of `size` bytes begin, and room for these alone.
    pub(super) fn stretch(&mut self, key: &ObjectKey, whole: u64) -> Outcome<(u64, &mut [u8])> {
        self.check(key, whole)?;
        match self {
            Self::Part { wanted, bytes, size } => {
                *size = whole;
                grow(bytes, (whole.min(wanted.end) - wanted.start) as usize);
                Ok((wanted.start, bytes))
            }
            _ => {
                self.make_room(key, whole)?;
                Ok((0, self.slice(whole)))
            }
        }
    }

    fn check(&self, key: &ObjectKey, size: u64) -> Outcome<()> {
        match self {
            _ if size > VALUE_BYTES_MAX => {
                Err(FaultCode::Internal.with(format!("the master says that {key} has {size} bytes, the limit is {VALUE_BYTES_MAX}")))
            }
            Self::Part { wanted, .. } if wanted.start >= size.min(wanted.end) => {
                Err(FaultCode::InvalidParams.with(format!("{key} has {size} bytes, and none of {}..{} is there", wanted.start, wanted.end)))
            }
            _ => Ok(()),
        }
    }

    /// All `len` bytes of a value are there, and right: keeps what is wanted of them. Says how many these are.
    pub(super) fn trim(&mut self, len: usize) -> usize {
        let Self::Part { wanted, bytes, size } = self else { return len };
        *size = len as u64;
        bytes.truncate(wanted.end.min(*size) as usize);
        bytes.drain(..wanted.start as usize);
        bytes.len()
    }

    /// The first `size` bytes; there are as many after [`Target::make_room`].
    pub(super) fn slice(&mut self, size: u64) -> &mut [u8] {
        let bytes = match self {
            Self::Fresh(bytes) | Self::Part { bytes, .. } => bytes.as_mut_slice(),
            Self::Lent(bytes) => bytes,
        };
        &mut bytes[..size as usize]
    }
}

/// Zeroed by the allocator, which for large values costs nothing until the bytes arrive.
fn grow(bytes: &mut Vec<u8>, len: usize) {
    if bytes.len() != len {
        *bytes = vec![0; len];
    }
}

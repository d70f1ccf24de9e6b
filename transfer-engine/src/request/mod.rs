//! What a caller asks: read, write or notify, which bytes of a segment, from or into which local memory.

#[cfg(feature = "rdma")]
mod held;
pub(crate) mod plan;
mod single;

#[cfg(feature = "rdma")]
pub(crate) use held::Held;
pub use single::Single;

use crate::fault::TransferError;
use crate::segment::Segment;
use perilune_protocol::Extent;
use std::fmt;
use std::marker::PhantomData;

/// The outcome of one request.
pub type Outcome = Result<(), TransferError>;

/// What is done with a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// From the segment into local memory.
    Read,
    /// From local memory into the segment.
    Write,
    /// No bytes: this number for the process that lends the segment.
    Notify(u32),
}

impl Op {
    /// A word for labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Notify(_) => "notify",
        }
    }

    /// Its place among the counters.
    pub(crate) fn index(self) -> usize {
        match self {
            Self::Read => 0,
            Self::Write => 1,
            Self::Notify(_) => 2,
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A stretch of this process's memory. Only an address: whoever submits it promises that it stays valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalSlice {
    /// The first byte.
    pub base: u64,
    /// Bytes.
    pub len: u64,
}

impl LocalSlice {
    /// Memory to read into.
    pub fn from_mut(slice: &mut [u8]) -> Self {
        Self { base: slice.as_mut_ptr().expose_provenance() as u64, len: slice.len() as u64 }
    }

    /// Memory to write from.
    pub fn from_ref(slice: &[u8]) -> Self {
        Self { base: slice.as_ptr().expose_provenance() as u64, len: slice.len() as u64 }
    }

    /// Memory known by its address.
    pub fn from_raw(ptr: *mut u8, len: usize) -> Self {
        Self { base: ptr.expose_provenance() as u64, len: len as u64 }
    }
}

/// One transfer between extents of a segment and local memory, matched byte by byte in order; or a notice, which has neither.
#[derive(Clone, Debug)]
pub struct Request {
    /// What to do.
    pub op: Op,
    /// The remote side.
    pub segment: Segment,
    /// Which bytes of the segment, in order.
    pub extents: Vec<Extent>,
    /// Which local bytes, in order; as many in total as the extents have.
    pub local: Vec<LocalSlice>,
}

/// A [`Request`] whose local memory is borrowed for as long as the job lives, so that running it is safe.
#[derive(Debug)]
pub struct Job<'a> {
    pub(crate) request: Request,
    memory: PhantomData<&'a mut [u8]>,
}

impl<'a> Job<'a> {
    /// Reads `extents` of `segment` into one slice.
    pub fn read(segment: &Segment, extents: Vec<Extent>, into: &'a mut [u8]) -> Self {
        Self::new(Op::Read, segment, extents, vec![LocalSlice::from_mut(into)])
    }

    /// Reads `extents` of `segment` into several slices, filled in order.
    pub fn read_scatter(segment: &Segment, extents: Vec<Extent>, into: Vec<&'a mut [u8]>) -> Self {
        Self::new(Op::Read, segment, extents, into.into_iter().map(LocalSlice::from_mut).collect())
    }

    /// Writes one slice to `extents` of `segment`.
    pub fn write(segment: &Segment, extents: Vec<Extent>, from: &'a [u8]) -> Self {
        Self::new(Op::Write, segment, extents, vec![LocalSlice::from_ref(from)])
    }

    /// Writes several slices, one after the other, to `extents` of `segment`.
    pub fn write_gather(segment: &Segment, extents: Vec<Extent>, from: Vec<&'a [u8]>) -> Self {
        Self::new(Op::Write, segment, extents, from.into_iter().map(LocalSlice::from_ref).collect())
    }

    /// Tells the process that lends `segment` a number; see [`crate::Engine::notify`]. In one batch with writes it may arrive before them.
    pub fn notify(segment: &Segment, number: u32) -> Self {
        Self::new(Op::Notify(number), segment, Vec::new(), Vec::new())
    }

    fn new(op: Op, segment: &Segment, extents: Vec<Extent>, local: Vec<LocalSlice>) -> Self {
        Self { request: Request { op, segment: segment.clone(), extents, local }, memory: PhantomData }
    }
}

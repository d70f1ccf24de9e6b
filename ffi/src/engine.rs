//! `perilune_engine_*`: an engine, the memory it registers and lends, and the segments of others.

use crate::border::{Out, bytes, guard, take_handle, text};
use crate::buffer::PeriluneBuffer;
use crate::fault::{PeriluneStatus, of_engine, of_memory};
use crate::handle::Table;
use perilune_protocol::rpc::{self, Call, segment::Describe};
use perilune_protocol::{Capability, Endpoint, FaultCode, NodeId, Outcome, Protocol, SegmentDesc, SegmentId, frame};
use perilune_transfer_engine::{Engine, Memory, Segment};
use std::ffi::{c_char, c_void};
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// An engine: it moves bytes between this process and segments, and serves the segments this process lends.
pub struct PeriluneEngine {
    _opaque: [u8; 0],
}

/// A segment of some process, opened to be read and written.
pub struct PeriluneSegment {
    _opaque: [u8; 0],
}

/// How an engine is to work. All zero is a good start: it then reaches out and lends nothing.
#[repr(C)]
pub struct PeriluneEngineConfig {
    /// `address:port` to lend memory to peers over TCP; port 0 takes a free one. NULL: not over TCP.
    /// Peers need a segment's descriptor, nothing else, to use it; the bytes travel unencrypted.
    pub listen_tcp: *const c_char,
    /// The path of a unix socket to lend memory to processes of this host. NULL: not so.
    pub listen_shm: *const c_char,
    /// How many threads can move bytes at once, 1 to 64. 0: one per core, at most 4.
    pub lanes: u32,
    /// The longest any transfer may take, in milliseconds. 0: 10 000.
    pub deadline_ms: u64,
}

/// An engine that C holds, and what it lends.
pub(crate) struct Held {
    pub(crate) engine: Engine,
    node: NodeId,
    lent: Mutex<Vec<SegmentId>>,
}

pub(crate) static ENGINES: Table<Held> = Table::new("engine");
pub(crate) static SEGMENTS: Table<Segment> = Table::new("segment");

/// Starts an engine and writes its handle to `engine`. `config` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn perilune_engine_create(config: *const PeriluneEngineConfig, engine: *mut *mut PeriluneEngine) -> PeriluneStatus {
    guard(|| {
        let out = Out::required("engine", engine)?;
        let mut builder = Engine::builder();
        // SAFETY: NULL, or a config by the caller's promise; its texts likewise.
        if let Some(config) = unsafe { config.as_ref() } {
            // SAFETY: as above.
            let (tcp, shm) = unsafe { (text("listen_tcp", config.listen_tcp)?, text("listen_shm", config.listen_shm)?) };
            if let Some(at) = tcp {
                let at: SocketAddr = at.parse().map_err(|_| {
                    FaultCode::InvalidParams.with(format!("listen_tcp is `{at}`: write an IP address and a port, such as 127.0.0.1:0"))
                })?;
                builder = builder.listen_tcp(at);
            }
            if let Some(path) = shm {
                builder = builder.listen_shm(path.into());
            }
            if config.lanes > 0 {
                builder = builder.lanes(config.lanes as usize);
            }
            if config.deadline_ms > 0 {
                builder = builder.deadline(Duration::from_millis(config.deadline_ms));
            }
        }
        let started = builder.build().map_err(|e| of_engine(&e))?;
        let handle = ENGINES.open(Held { engine: started, node: NodeId::random(), lent: Mutex::default() });
        // SAFETY: the caller's promise about `engine`.
        unsafe { out.set(handle) };
        Ok(())
    })
}

/// Takes back every segment the engine lends, closes it, and leaves NULL in `engine`. When `engine` holds NULL it fails and does no harm.
/// Transfers that are under way are given up; their local memory must stay valid until their batch was waited for or freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn perilune_engine_close(engine: *mut *mut PeriluneEngine) -> PeriluneStatus {
    guard(|| {
        // SAFETY: the caller's promise about `engine`.
        let held = ENGINES.close(unsafe { take_handle(engine) }?)?;
        for id in held.lent.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            held.engine.withdraw(id);
        }
        Ok(())
    })
}

/// Registers `size` bytes at `address` as local memory of transfers. Not needed on TCP and shared memory; it makes RDMA fast.
/// The memory must stay valid until it is unregistered. Registering bytes twice is PERILUNE_INVALID_PARAMS.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn perilune_engine_register(engine: *mut PeriluneEngine, address: *mut c_void, size: usize) -> PeriluneStatus {
    guard(|| {
        let held = ENGINES.get(engine)?;
        Out::required("address", address)?;
        // SAFETY: the caller's promise about the memory.
        unsafe { held.engine.register(address.cast(), size) }.map_err(|e| of_engine(&e))
    })
}

/// Takes back the registration of the memory that starts at `address`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn perilune_engine_unregister(engine: *mut PeriluneEngine, address: *mut c_void) -> PeriluneStatus {
    guard(|| ENGINES.get(engine)?.engine.unregister(address.cast()).map_err(|e| of_engine(&e)))
}

/// Lends `size` bytes as a new segment: of the shared memory object `name` from `offset` (a multiple of 4096) on, or, when `name` is
/// NULL, of fresh zeroed memory (`offset` must then be 0).
///
/// `base` receives the address of the bytes in this process, valid until the segment is withdrawn; it may be NULL. `descriptor` receives
/// what a peer needs to open the segment; free it with perilune_buffer_free. It carries the right to read and write the segment: hand it
/// to whom you trust. Peers read and write the bytes whenever they like, as other threads would.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn perilune_engine_lend(
    engine: *mut PeriluneEngine,
    name: *const c_char,
    offset: u64,
    size: u64,
    base: *mut *mut c_void,
    descriptor: *mut PeriluneBuffer,
) -> PeriluneStatus {
    guard(|| {
        let held = ENGINES.get(engine)?;
        let (base_out, descriptor_out) = (Out::optional(base), Out::required("descriptor", descriptor)?);
        // SAFETY: the caller's promise about `name`.
        let memory = match unsafe { text("name", name) }? {
            Some(name) => Memory::open(name.strip_prefix('/').unwrap_or(name), offset, size),
            None if offset == 0 => Memory::anonymous(size),
            None => return Err(FaultCode::InvalidParams.with(format!("offset is {offset}: fresh memory has no offset, pass 0 or a name"))),
        };
        let memory = memory.map_err(|e| of_memory(&e))?;
        let endpoints = held.engine.endpoints();
        if endpoints.is_empty() {
            let why = "this engine listens nowhere, so no peer could reach the segment: set listen_tcp or listen_shm when creating it";
            return Err(FaultCode::WrongState.with(why));
        }
        let over_tcp = endpoints.iter().any(|e| matches!(e, Endpoint::Tcp(_)));
        let mut desc = SegmentDesc {
            id: SegmentId::random(),
            name: String::new(),
            node: held.node,
            base: memory.base(),
            size: memory.len(),
            protocol: if over_tcp { Protocol::Tcp } else { Protocol::Shm },
            location: String::new(),
            endpoints,
            capability: Capability::random(),
        };
        desc.name = if over_tcp { desc.tcp_endpoint().to_owned() } else { desc.id.to_string() };
        let described = encode(&desc)?;
        held.engine.export(desc.id, memory, desc.capability).map_err(|e| of_engine(&e))?;
        held.lent.lock().unwrap_or_else(PoisonError::into_inner).push(desc.id);
        let address: *mut c_void = std::ptr::with_exposed_provenance_mut(usize::try_from(desc.base).unwrap_or(0));
        // SAFETY: the caller's promise about `base` and `descriptor`.
        unsafe {
            base_out.set(address);
            descriptor_out.set(PeriluneBuffer::new(described));
        }
        Ok(())
    })
}

/// Takes back the segment that `descriptor` describes. After this no byte of it moves any more, and its memory is gone from this process.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn perilune_engine_withdraw(engine: *mut PeriluneEngine, descriptor: *const c_void, length: usize) -> PeriluneStatus {
    guard(|| {
        let held = ENGINES.get(engine)?;
        // SAFETY: the caller's promise about `descriptor`.
        let id = decode(unsafe { bytes("the descriptor", descriptor, length) }?)?.id;
        held.lent.lock().unwrap_or_else(PoisonError::into_inner).retain(|lent| *lent != id);
        if held.engine.withdraw(id) {
            Ok(())
        } else {
            Err(FaultCode::SegmentNotFound.with(format!("this engine does not lend segment {id}")))
        }
    })
}

/// Opens the segment that `descriptor` describes (from perilune_engine_lend or perilune_store_describe) and writes its handle to
/// `segment`. Does not block: the first transfer connects.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn perilune_engine_open(
    engine: *mut PeriluneEngine,
    descriptor: *const c_void,
    length: usize,
    segment: *mut *mut PeriluneSegment,
) -> PeriluneStatus {
    guard(|| {
        let held = ENGINES.get(engine)?;
        let out = Out::required("segment", segment)?;
        // SAFETY: the caller's promise about `descriptor`.
        let desc = decode(unsafe { bytes("the descriptor", descriptor, length) }?)?;
        let handle = SEGMENTS.open(held.engine.connect(&desc));
        // SAFETY: the caller's promise about `segment`.
        unsafe { out.set(handle) };
        Ok(())
    })
}

/// Writes the size of a segment in bytes to `size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn perilune_segment_size(segment: *mut PeriluneSegment, size: *mut u64) -> PeriluneStatus {
    guard(|| {
        let out = Out::required("size", size)?;
        let bytes = SEGMENTS.get(segment)?.desc().size;
        // SAFETY: the caller's promise about `size`.
        unsafe { out.set(bytes) };
        Ok(())
    })
}

/// Closes a segment and leaves NULL in `segment`. Transfers that are under way keep running.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn perilune_segment_close(segment: *mut *mut PeriluneSegment) -> PeriluneStatus {
    // SAFETY: the caller's promise about `segment`.
    guard(|| SEGMENTS.close(unsafe { take_handle(segment) }?).map(drop))
}

/// A descriptor is the answer of a master to [`Describe`], in its frame: so it has a length, a version and a checksum.
pub(crate) fn encode(desc: &SegmentDesc) -> Outcome<Vec<u8>> {
    let mut out = Vec::new();
    rpc::encode_answer(&mut out, Describe::OP, 0, &Ok(desc))?;
    Ok(out)
}

fn decode(descriptor: &[u8]) -> Outcome<SegmentDesc> {
    let wrong = |why: &str| FaultCode::InvalidParams.with(format!("{} bytes that are no segment descriptor: {why}", descriptor.len()));
    match frame::split(descriptor) {
        Ok(Some((header, body, taken))) if header.op == Describe::OP && taken == descriptor.len() => {
            rpc::decode::<Outcome<SegmentDesc>>(body)?
        }
        Ok(Some(_)) => Err(wrong("another message, or more than one")),
        Ok(None) => Err(wrong("the end is missing")),
        Err(e) => Err(wrong(&e.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_comes_back_and_a_damaged_one_is_refused() {
        let desc = SegmentDesc {
            id: SegmentId::random(),
            name: "n".into(),
            node: NodeId::random(),
            base: 1,
            size: 4096,
            protocol: Protocol::Shm,
            location: String::new(),
            endpoints: vec![Endpoint::Tcp("127.0.0.1:1".into())],
            capability: Capability::random(),
        };
        let good = encode(&desc).unwrap();
        assert_eq!(decode(&good), Ok(desc));
        for cut in 0..good.len() {
            assert!(decode(&good[..cut]).is_err(), "{cut} bytes");
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(decode(&bad).is_err(), "byte {at}");
        }
        assert!(decode(&[good.clone(), good].concat()).is_err());
    }
}

//! The other side: a process that lends memory until nobody needs it.

use super::{LENT, PIECE};
use crate::random::Random;
use crate::rivals::Trouble;
use perilune_protocol::{Capability, NodeId, Protocol, SegmentDesc, SegmentId};
use perilune_transfer_engine::{Engine, Memory};
use std::io::Read;
use std::path::Path;

/// Lends memory over TCP and over a socket in `dir`. `lending` is told the segment; ends when `until` does.
pub fn serve(dir: &Path, lending: impl FnOnce(&SegmentDesc) -> Result<(), Trouble>, mut until: impl Read) -> Result<(), Trouble> {
    let memory = Memory::anonymous(LENT)?;
    // Real pages from the start: what was never written would be read from the one page of zeros.
    let mut random = Random::new(1);
    let page: Vec<u8> = std::iter::repeat_with(|| random.bits() as u8).take(PIECE).collect();
    let filled = (0..LENT).step_by(PIECE).all(|offset| memory.write_at(offset, &page));
    if !filled {
        return Err("the memory to lend cannot be written".into());
    }
    let engine = Engine::builder().listen_tcp("127.0.0.1:0".parse()?).listen_shm(dir.join("peer.sock")).build()?;
    let desc = lent(&engine, &memory, Protocol::Shm);
    engine.export(desc.id, memory, desc.capability)?;
    lending(&desc)?;
    std::io::copy(&mut until, &mut std::io::sink())?;
    Ok(())
}

/// All of `memory` as a segment that `engine` lends.
pub(super) fn lent(engine: &Engine, memory: &Memory, protocol: Protocol) -> SegmentDesc {
    SegmentDesc {
        id: SegmentId::random(),
        name: "bench".into(),
        node: NodeId::random(),
        base: memory.base(),
        size: memory.len(),
        protocol,
        location: String::new(),
        endpoints: engine.endpoints(),
        capability: Capability::random(),
    }
}

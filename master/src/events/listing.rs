//! All that there is, as events, in parts that are found independently of each other.
//!
//! A part is those objects whose keys hash to it, as a walk over the index meets them. So parts may be asked for at any time and of any master:
//! what happens between the first walk and the last is told from `begin` on, and changes nothing where it was met already.

use super::EventLog;
use crate::engine::Engine;
use perilune_protocol::event::{Event, EventFilter, What};
use perilune_protocol::rpc::watch::{ListAll, Listed};
use perilune_protocol::{FaultCode, Outcome, TenantId};
use perilune_state::State;
use perilune_state::objects::Object;
use perilune_state::segments::Phase;
use std::ops::ControlFlow;

/// Objects of a part, about.
const PART_OBJECTS: usize = 8192;
/// Most parts.
const PARTS_MAX: u32 = 1 << 20;

impl Engine {
    /// Answers the question. Blocks.
    ///
    /// # Errors
    /// [`FaultCode::InvalidParams`] for a part that there is not.
    pub(crate) fn list_all(&self, question: &ListAll) -> Outcome<Listed> {
        let ListAll { filter, part, parts, everybody: _ } = question;
        self.events().list(self.state(), filter, *part, *parts)
    }
}

impl EventLog {
    /// A part of what `state` knows, which is that of this member. Blocks.
    pub(crate) fn list(&self, state: &State, filter: &EventFilter, part: u32, parts: u32) -> Outcome<Listed> {
        let parts = if parts == 0 { u32::try_from(state.index.len().div_ceil(PART_OBJECTS)).unwrap_or(PARTS_MAX).max(1) } else { parts };
        if part >= parts || parts > PARTS_MAX {
            return Err(FaultCode::InvalidParams.with(format!("part {part} of {parts}: parts are counted from 0, and at most {PARTS_MAX}")));
        }
        let (commit_ts, begin) = self.resolved();
        let mut events = Vec::new();
        let mut tell = |tenant: TenantId, what: What| {
            let event = Event { cursor: begin, commit_ts, tenant: Some(tenant), what };
            if filter.wants(&event) {
                events.push(event);
            }
        };
        if part == 0 {
            for (node, (tenant, name)) in state.nodes.told_up() {
                tell(tenant, What::NodeUp { node, name });
            }
            let table = state.segments.table();
            for segment in table.iter().filter(|s| s.phase() != Phase::Gone) {
                tell(segment.tenant(), What::mounted(&segment.desc()));
                if let Some(grace_ms) = table.grace_ms(segment.id()) {
                    tell(segment.tenant(), What::Draining { segment: segment.id(), grace_ms });
                }
            }
        }
        state.index.for_each(&mut |object| {
            if part_of(object, parts) == part {
                let record = State::record_of(object);
                let (key, version) = (record.key.clone(), record.version);
                let (size, checksum, pin) = (record.size, record.checksum, record.pin);
                tell(record.tenant, What::Put { key: record.key, version, size, checksum, pin, replicas: record.replicas });
                if let Some(copy) = &object.cold {
                    tell(record.tenant, What::Offloaded { key, version, vault: copy.vault, name: copy.name, stored: copy.stored });
                }
            }
            ControlFlow::Continue(())
        });
        let settled = self.resolved().1;
        Ok(Listed { events, begin, settled, parts })
    }
}

fn part_of(object: &Object, parts: u32) -> u32 {
    // CRC-32C is at most 32 bits wide; the function answers in 64.
    let hash = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, object.key.as_ref().bytes) as u32;
    // Of the range of all hashes, this part.
    ((u64::from(hash) * u64::from(parts)) >> 32) as u32
}

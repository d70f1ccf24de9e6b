//! Brings values of this node's memory to vaults and back, for the master: on hands of their own, since vaults make them wait.

use super::hands::Hand;
use super::mover::Mover;
use super::vaults::Vaults;
use perilune_protocol::rpc::cold::{ColdDone, ColdOrder, ColdOutcome, ColdWay, TakeCold};
use perilune_protocol::{Extent, NodeId};
use perilune_transfer_engine::Segment;
use perilune_vault::{CLAIM, Class, ColdObject, Vault, VaultFault};
use std::sync::Arc;
use std::time::Instant;
use tracing::{debug, warn};

/// Moves a value between memory and a vault.
pub(super) struct ColdHand {
    mover: Mover,
    vaults: Arc<Vaults>,
    buffer: Vec<u8>,
}

impl Hand for ColdHand {
    type Ask = TakeCold;
    type Order = ColdOrder;
    type Done = ColdDone;
    const NAME: &'static str = "cold";
    /// Each has a piece in hand, and the vault some parts of 8 MiB on their way.
    const HANDS: usize = 8;

    fn ask(node: NodeId, done: Vec<ColdDone>, room: u32, wait_ms: u64) -> TakeCold {
        TakeCold { node, done, room, wait_ms }
    }

    fn untold(ask: TakeCold) -> Vec<ColdDone> {
        ask.done
    }

    fn limit_ms(order: &ColdOrder) -> u64 {
        order.limit_ms
    }

    fn carry_out(&mut self, order: ColdOrder, until: Instant) -> ColdDone {
        let id = order.id;
        let outcome = self.work(order, until).unwrap_or_else(|stopped| stopped);
        match &outcome {
            ColdOutcome::Done { .. } => {}
            // As long as a vault is away every order ends so; whoever gave them says it now and then.
            ColdOutcome::Away(_) | ColdOutcome::Refused(_) => debug!(order = id, "work with a vault: {outcome:?}"),
            _ => warn!(order = id, "work with a vault: {outcome:?}"),
        }
        ColdDone { id, outcome }
    }
}

impl ColdHand {
    pub(super) fn new(mover: Mover, vaults: &Arc<Vaults>) -> Self {
        Self { mover, vaults: Arc::clone(vaults), buffer: Vec::new() }
    }

    fn work(&mut self, order: ColdOrder, until: Instant) -> Result<ColdOutcome, ColdOutcome> {
        let own = self.mover.own(order.place.segment).map_err(ColdOutcome::Failed)?;
        let vault = self.vaults.open(order.vault, order.revision, until)?;
        let ColdOrder { name, tenant, key, version, size, checksum, place, way, .. } = order;
        let object = ColdObject { name: name.0, tenant, key, version, size, checksum };
        let moved = match way {
            ColdWay::Up => {
                let mut source = |at, into: &mut [u8]| self.mover.read(&own, &place.extents, at, into, until);
                vault.write_object(&object, &mut source, until)
            }
            ColdWay::Down => {
                let mut sink = |at, bytes: &[u8]| self.mover.write(&own, &place.extents, at, bytes, until);
                vault.read_object(&object, 0..size, &mut sink, until).map(|()| 0)
            }
        };
        match moved {
            Err(fault) => {
                if fault.class == Class::Refused {
                    self.vaults.forget(order.vault);
                }
                Err(confirmed(&vault, outcome(fault, way), until))
            }
            Ok(_) if way == ColdWay::Down => self.compare(&own, &place.extents, &object, until),
            Ok(stored) => Ok(ColdOutcome::Done { stored }),
        }
    }

    /// What was written to memory is read again, as every copy is.
    fn compare(&mut self, own: &Segment, extents: &[Extent], object: &ColdObject, until: Instant) -> Result<ColdOutcome, ColdOutcome> {
        let found = self.mover.checksum(own, extents, object.size, &mut self.buffer, until).map_err(ColdOutcome::Failed)?;
        if found == object.checksum {
            return Ok(ColdOutcome::Done { stored: 0 });
        }
        Err(ColdOutcome::Wrong(format!("{}: what was written to memory has checksum {found:016x}", object.key)))
    }
}

/// A mount that is not there, or a bucket that was made anew, has no object of ours either: then nothing is lost.
fn confirmed(vault: &Vault, outcome: ColdOutcome, until: Instant) -> ColdOutcome {
    match outcome {
        ColdOutcome::Lost(why) => match vault.get(CLAIM, None, until) {
            Ok(_) => ColdOutcome::Lost(why),
            Err(fault) => ColdOutcome::Refused(format!("{why}; nor can it be seen that this is the vault it should be: {fault}")),
        },
        other => other,
    }
}

/// What a fault of a vault means for an order.
fn outcome(fault: VaultFault, way: ColdWay) -> ColdOutcome {
    let VaultFault { class, message } = fault;
    match (class, way) {
        (Class::NoObject | Class::Damaged, ColdWay::Down) => ColdOutcome::Lost(message),
        // The parts of an upload were swept away meanwhile: another one is begun.
        (Class::Away, _) | (Class::NoObject | Class::Damaged | Class::Exists, ColdWay::Up) => ColdOutcome::Away(message),
        (Class::Wrong, _) => ColdOutcome::Wrong(message),
        (Class::Refused | Class::NoBucket | Class::Invalid | Class::Exists, _) => ColdOutcome::Refused(message),
        (Class::Caller, _) => ColdOutcome::Failed(message),
    }
}

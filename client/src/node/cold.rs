//! Brings values of this node's memory to vaults and back, for the master: on hands of their own, since vaults make them wait.

use super::hands::Hand;
use super::mover::Mover;
use super::vaults::Vaults;
use perilune_protocol::NodeId;
use perilune_protocol::rpc::cold::{ColdDone, ColdOrder, ColdOutcome, ColdWay, TakeCold};
use perilune_vault::{CLAIM, Class, ColdObject, Vault, VaultFault};
use std::sync::Arc;
use std::time::Instant;
use tracing::{debug, warn};

/// Moves a value between memory and a vault.
pub(super) struct ColdHand {
    mover: Mover,
    vaults: Arc<Vaults>,
}

impl Hand for ColdHand {
    type Ask = TakeCold;
    type Order = ColdOrder;
    type Done = ColdDone;
    const NAME: &'static str = "cold";
    /// As many as a master has upload at a time and fetch from two vaults; each has up to 40 MiB of an object in hand.
    const HANDS: usize = 96;

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
        Self { mover, vaults: Arc::clone(vaults) }
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
            // What comes back was compared with its checksums before it was written, so it is not read once more.
            Ok(stored) => Ok(ColdOutcome::Done { stored }),
        }
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

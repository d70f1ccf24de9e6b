//! Brings values of this node's memory to vaults and back, for the master: on hands of their own, since vaults make them wait.

use super::hands::Hand;
use super::mover::Mover;
use super::passage::Passage;
use super::vaults::Vaults;
use perilune_protocol::rpc::cold::{ColdDone, ColdOrder, ColdOutcome, ColdWay, TakeCold};
use perilune_protocol::{Checksum, NodeId, VaultId};
use perilune_vault::{Class, ColdObject, Vault, VaultFault};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{debug, warn};

/// A reader waits so long for those before it; what is passed is free again by then.
const PASSAGE: Duration = Duration::from_secs(3);

/// Moves a value between memory and a vault.
pub(super) struct ColdHand {
    mover: Mover,
    vaults: Arc<Vaults>,
    passage: Arc<Passage>,
}

impl Hand for ColdHand {
    type Ask = TakeCold;
    type Order = ColdOrder;
    type Done = ColdDone;
    const NAME: &'static str = "cold";
    /// More than a master has upload and fetch at a time, from however many vaults; each has up to 40 MiB of an object in hand.
    const HANDS: usize = 104;

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
            ColdOutcome::Done { .. } | ColdOutcome::Passed(_) => {}
            // As long as a vault is away every order ends so; and other bytes lie there where the object has gone: whoever gave the order knows, and
            // says what is to be said.
            ColdOutcome::Away(_) | ColdOutcome::Refused(_) | ColdOutcome::Busy(_) | ColdOutcome::Wrong(_) => {
                debug!(order = id, "work with a vault: {outcome:?}")
            }
            _ => warn!(order = id, "work with a vault: {outcome:?}"),
        }
        ColdDone { id, outcome }
    }
}

impl ColdHand {
    pub(super) fn new(mover: Mover, vaults: &Arc<Vaults>, passage: &Arc<Passage>) -> Self {
        Self { mover, vaults: Arc::clone(vaults), passage: Arc::clone(passage) }
    }

    fn work(&mut self, order: ColdOrder, until: Instant) -> Result<ColdOutcome, ColdOutcome> {
        let vault = self.vaults.open(order.vault, order.revision, until)?;
        let ColdOrder { name, tenant, key, version, size, checksum, place, way, .. } = order;
        let object = ColdObject { name: name.0, tenant, key, version, size, checksum };
        let moved = match way {
            ColdWay::Up => {
                let source = self.mover.source(place.segment, place.extents).map_err(ColdOutcome::Failed)?;
                vault.write_object(&object, source, until)
            }
            ColdWay::Down => {
                let own = self.mover.own(place.segment).map_err(ColdOutcome::Failed)?;
                let mut sink = |at, bytes: &[u8]| self.mover.write(&own, &place.extents, at, bytes, until);
                // What comes back was compared with its checksums before it was written, so it is not read once more.
                vault.read_object(&object, 0..size, &mut sink, until).map(|()| 0)
            }
            ColdWay::Through { offset, len, taken } => {
                let filling = self.passage.room(len, taken, until.min(Instant::now() + PASSAGE)).map_err(ColdOutcome::Busy)?;
                let (to, extents) = (self.mover.reach(&filling.segment), [filling.extent]);
                let mut checksum = Checksum::default();
                let mut sink = |at: u64, bytes: &[u8]| {
                    checksum.update(bytes);
                    self.mover.write(&to, &extents, at - offset, bytes, until)
                };
                let read = vault.read_object(&object, offset..offset.saturating_add(len), &mut sink, until);
                return match read {
                    Ok(()) => Ok(ColdOutcome::Passed(Box::new(filling.pass(checksum.finish())))),
                    Err(fault) => Err(self.stopped(&vault, order.vault, fault, way, until)),
                };
            }
        };
        match moved {
            Ok(stored) => Ok(ColdOutcome::Done { stored }),
            Err(fault) => Err(self.stopped(&vault, order.vault, fault, way, until)),
        }
    }

    /// What a fault of a vault comes to.
    fn stopped(&self, vault: &Vault, id: VaultId, fault: VaultFault, way: ColdWay, until: Instant) -> ColdOutcome {
        if fault.class == Class::Refused {
            self.vaults.forget(id);
        }
        match outcome(fault, way) {
            // A mount that is not there, or is another's, or a bucket that was made anew, has no object of ours either: then nothing is lost.
            ColdOutcome::Lost(why) => match self.vaults.is_ours(vault, until) {
                Ok(()) => ColdOutcome::Lost(why),
                Err(unsure) => ColdOutcome::Refused(format!("{why}; nor can it be seen that this is the vault it should be: {unsure}")),
            },
            other => other,
        }
    }
}

/// What a fault of a vault means for an order.
fn outcome(fault: VaultFault, way: ColdWay) -> ColdOutcome {
    let VaultFault { class, message } = fault;
    match (class, way) {
        (Class::NoObject | Class::Damaged, ColdWay::Down | ColdWay::Through { .. }) => ColdOutcome::Lost(message),
        // The parts of an upload were swept away meanwhile: another one is begun.
        (Class::Away, _) | (Class::NoObject | Class::Damaged | Class::Exists, ColdWay::Up) => ColdOutcome::Away(message),
        (Class::Wrong, _) => ColdOutcome::Wrong(message),
        (Class::Refused | Class::NoBucket | Class::Invalid | Class::Exists, _) => ColdOutcome::Refused(message),
        (Class::Caller, _) => ColdOutcome::Failed(message),
    }
}

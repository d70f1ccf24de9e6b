//! Works for the master on the memory this node lends: fetches copies from other nodes and compares copies with their checksums.

use super::hands::Hand;
use super::mover::{Mover, pieces, room};
use perilune_protocol::NodeId;
use perilune_protocol::rpc::work::{TakeWork, WorkDone, WorkOrder, WorkOutcome};
use std::time::Instant;
use tracing::warn;

/// Moves and compares bytes.
pub(super) struct WorkHand {
    mover: Mover,
    buffer: Vec<u8>,
}

impl Hand for WorkHand {
    type Ask = TakeWork;
    type Order = WorkOrder;
    type Done = WorkDone;
    const NAME: &'static str = "work";
    /// Each has a buffer of one piece.
    const HANDS: usize = 4;

    fn ask(node: NodeId, done: Vec<WorkDone>, room: u32, wait_ms: u64) -> TakeWork {
        TakeWork { node, done, room, wait_ms }
    }

    fn untold(ask: TakeWork) -> Vec<WorkDone> {
        ask.done
    }

    fn limit_ms(order: &WorkOrder) -> u64 {
        order.limit_ms
    }

    fn carry_out(&mut self, order: WorkOrder, until: Instant) -> WorkDone {
        let outcome = self.work(&order, until).unwrap_or_else(|stopped| stopped);
        if outcome != WorkOutcome::Right {
            warn!(order = order.id, segment = %order.place.segment, "work for the master: {outcome:?}");
        }
        WorkDone { id: order.id, outcome }
    }
}

impl WorkHand {
    pub(super) fn new(mover: Mover) -> Self {
        Self { mover, buffer: Vec::new() }
    }

    fn work(&mut self, order: &WorkOrder, until: Instant) -> Result<WorkOutcome, WorkOutcome> {
        let Self { mover, buffer } = self;
        let own = mover.own(order.place.segment).map_err(WorkOutcome::Failed)?;
        if let Some(source) = &order.source {
            let from = mover.reach(&source.segment);
            for (at, end) in pieces(order.size) {
                let piece = room(buffer, end - at);
                mover.read(&from, &source.extents, at, piece, until).map_err(WorkOutcome::Unread)?;
                mover.write(&own, &order.place.extents, at, piece, until).map_err(WorkOutcome::Failed)?;
            }
        }
        let found = mover.checksum(&own, &order.place.extents, order.size, buffer, until).map_err(WorkOutcome::Failed)?;
        Ok(if found == order.checksum { WorkOutcome::Right } else { WorkOutcome::Wrong { found } })
    }
}

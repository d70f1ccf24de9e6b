//! Where jobs put orders for store nodes, nodes take them, and their outcomes come back. Soft: it dies with the reign.

use perilune_protocol::NodeId;
use perilune_protocol::rpc::work::{WorkDone, WorkOrder, WorkOutcome};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// A node has so long to be heard of an order after it may not work on it any more, in milliseconds.
const LATE_MS: u64 = 1000;

/// The board. Touched a few times per order, so one mutex serves; it is never held while anything else is waited for.
pub(crate) struct Board {
    inner: Mutex<Inner>,
}

struct Inner {
    next: u64,
    desks: HashMap<NodeId, Desk>,
    open: BTreeMap<u64, Open>,
    done: Vec<(u64, Ended)>,
}

/// What waits for one node, and who waits for it.
#[derive(Default)]
struct Desk {
    orders: VecDeque<WorkOrder>,
    news: Arc<Notify>,
}

/// An order that nobody has said the end of.
struct Open {
    node: NodeId,
    /// Until when it waits to be taken, or its node works on it.
    until: u64,
    taken: bool,
}

/// How an order ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Its node said so.
    Said(WorkOutcome),
    /// Nothing was heard; if it was `taken`, the node may be at it even now.
    Silence {
        /// A node has it.
        taken: bool,
    },
}

impl Board {
    /// No orders. Those of one `term` have numbers that no other reign uses.
    pub(crate) fn new(term: u64) -> Self {
        Self { inner: Mutex::new(Inner { next: term << 32, desks: HashMap::new(), open: BTreeMap::new(), done: Vec::new() }) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an order up for `node`, to be taken until `until`; gives its number.
    pub(crate) fn put(&self, node: NodeId, mut order: WorkOrder, until: u64) -> u64 {
        let mut inner = self.lock();
        inner.next += 1;
        let id = inner.next;
        order.id = id;
        inner.open.insert(id, Open { node, until, taken: false });
        let desk = inner.desks.entry(node).or_default();
        desk.orders.push_back(order);
        desk.news.notify_one();
        id
    }

    /// What is told when there are orders for `node`.
    pub(crate) fn news(&self, node: NodeId) -> Arc<Notify> {
        Arc::clone(&self.lock().desks.entry(node).or_default().news)
    }

    /// Nobody waits for orders of `node` any more.
    pub(crate) fn leave(&self, node: NodeId) {
        let mut inner = self.lock();
        if inner.desks.get(&node).is_some_and(|desk| desk.orders.is_empty()) {
            inner.desks.remove(&node);
        }
    }

    /// The next orders of a node, which it may work on until `limit_ms` after `now`.
    pub(crate) fn take(&self, node: NodeId, room: usize, now: u64) -> Vec<WorkOrder> {
        let mut inner = self.lock();
        let Inner { desks, open, .. } = &mut *inner;
        let Some(Desk { orders: queue, .. }) = desks.get_mut(&node) else { return Vec::new() };
        let orders: Vec<WorkOrder> = queue.drain(..room.min(queue.len())).collect();
        for order in &orders {
            if let Some(open) = open.get_mut(&order.id) {
                (open.until, open.taken) = (now + order.limit_ms + LATE_MS, true);
            }
        }
        orders
    }

    /// A node says what came of orders. One that is not open any more is ignored: it is from another reign, or was given up; so is one
    /// that another node was to carry out.
    pub(crate) fn say(&self, node: NodeId, done: Vec<WorkDone>) {
        let mut inner = self.lock();
        for WorkDone { id, outcome } in done {
            if inner.open.get(&id).is_some_and(|open| open.node == node) {
                inner.open.remove(&id);
                inner.done.push((id, Ended::Said(outcome)));
            }
        }
    }

    /// What ended since the last call, also by silence: because of the time, or because the node is `lost`.
    pub(crate) fn ended(&self, now: u64, lost: impl Fn(NodeId) -> bool) -> Vec<(u64, Ended)> {
        let mut inner = self.lock();
        let Inner { desks, open, done, .. } = &mut *inner;
        let silent: Vec<u64> = open.iter().filter(|(_, o)| o.until <= now || lost(o.node)).map(|(id, _)| *id).collect();
        for id in silent {
            let Some(Open { node, taken, .. }) = open.remove(&id) else { continue };
            if let Some(desk) = desks.get_mut(&node) {
                desk.orders.retain(|order| order.id != id);
            }
            done.push((id, Ended::Silence { taken }));
        }
        std::mem::take(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use perilune_protocol::{ReplicaPlace, SegmentId};

    fn order() -> WorkOrder {
        let place = ReplicaPlace { segment: SegmentId::random(), extents: Vec::new() };
        WorkOrder { id: 0, limit_ms: 100, place, size: 1, checksum: 0, source: None }
    }

    #[test]
    fn an_order_is_taken_once_and_ends_once() {
        let (board, node, other) = (Board::new(7), NodeId::random(), NodeId::random());
        let [a, b, c] = [(); 3].map(|()| board.put(node, order(), 50));
        assert!(a > 7 << 32);
        assert_eq!(board.take(other, 9, 0), vec![]);
        assert_eq!(board.take(node, 2, 10).iter().map(|o| o.id).collect::<Vec<_>>(), [a, b]);
        let right = |id| WorkDone { id, outcome: WorkOutcome::Right };
        board.say(other, vec![right(a)]);
        assert_eq!(board.ended(49, |_| false), vec![], "it is not for others to say");
        board.say(node, vec![right(a), right(a), right(99)]);
        assert_eq!(board.ended(49, |_| false), vec![(a, Ended::Said(WorkOutcome::Right))]);
        assert_eq!(board.ended(50, |_| false), vec![(c, Ended::Silence { taken: false })]);
        assert_eq!(board.take(node, 9, 50), vec![], "what was given up is not handed out");
        assert_eq!(board.ended(110 + LATE_MS - 1, |_| false), vec![]);
        assert_eq!(board.ended(110 + LATE_MS, |_| false), vec![(b, Ended::Silence { taken: true })]);
        board.say(node, vec![right(b)]);
        assert_eq!(board.ended(9999, |_| false), vec![], "too late");
        let d = board.put(node, order(), u64::MAX);
        assert_eq!(board.ended(0, |n| n == node), vec![(d, Ended::Silence { taken: false })]);
    }
}

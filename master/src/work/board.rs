//! Where orders for store nodes are put, nodes take them, and their outcomes come back. Soft: it dies with the reign.

use perilune_protocol::{NodeId, RunId};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// A node has so long to be heard of an order after it may not work on it any more, in milliseconds.
const LATE_MS: u64 = 1000;
/// The longest that a node is let wait for orders.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Something for a node to do.
pub(crate) trait Order {
    /// What may come of it.
    type Outcome;
    /// Its number; the board gives it.
    fn id(&mut self) -> &mut u64;
    /// Milliseconds that a node may work on it.
    fn limit_ms(&self) -> u64;
}

/// The board. Touched a few times per order, so one mutex serves; it is never held while anything else is waited for.
pub(crate) struct Board<O: Order> {
    inner: Mutex<Inner<O>>,
}

struct Inner<O: Order> {
    next: u64,
    desks: HashMap<NodeId, Desk<O>>,
    open: BTreeMap<u64, Open>,
    done: Vec<(u64, Ended<O::Outcome>)>,
}

/// What waits for one node, and who waits for it.
struct Desk<O> {
    orders: VecDeque<O>,
    news: Arc<Notify>,
}

impl<O> Default for Desk<O> {
    fn default() -> Self {
        Self { orders: VecDeque::new(), news: Arc::default() }
    }
}

/// An order that nobody has said the end of.
struct Open {
    node: NodeId,
    /// Until when it waits to be taken, or its node works on it.
    until: u64,
    taken: bool,
    /// Which process of the node took it, if that said so.
    run: Option<RunId>,
}

/// How an order ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended<T> {
    /// Its node said so.
    Said(T),
    /// Nothing was heard; if it was `taken`, the node may be at it even now.
    Silence {
        /// A node has it.
        taken: bool,
        /// Milliseconds for which it may be at it yet.
        for_ms: u64,
    },
}

impl<O: Order> Board<O> {
    /// No orders. Those of one `term` have numbers that no other reign uses.
    pub(crate) fn new(term: u64) -> Self {
        Self { inner: Mutex::new(Inner { next: term << 32, desks: HashMap::new(), open: BTreeMap::new(), done: Vec::new() }) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<O>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number that no order has, nor will.
    #[cfg(feature = "simulation")]
    pub(crate) fn fresh(&self) -> u64 {
        let mut inner = self.lock();
        inner.next += 1;
        inner.next
    }

    /// Puts an order up for `node`, to be taken until `until`; gives its number.
    pub(crate) fn put(&self, node: NodeId, mut order: O, until: u64) -> u64 {
        let mut inner = self.lock();
        inner.next += 1;
        let id = inner.next;
        *order.id() = id;
        inner.open.insert(id, Open { node, until, taken: false, run: None });
        let desk = inner.desks.entry(node).or_default();
        desk.orders.push_back(order);
        desk.news.notify_one();
        id
    }

    /// A process of a node has begun: what another took ends in silence. False where that was nothing.
    pub(crate) fn begin_run(&self, node: NodeId, run: RunId) -> bool {
        let mut inner = self.lock();
        let theirs = inner.open.values_mut().filter(|open| open.node == node && open.taken && open.run != Some(run));
        theirs.map(|open| open.until = 0).count() > 0
    }

    /// The next orders of a node, or of a run of it, for which it waits a while if there are none.
    pub(crate) async fn take_waiting(
        &self,
        (node, run): (NodeId, Option<RunId>),
        room: usize,
        wait_ms: u64,
        now: impl Fn() -> u64,
    ) -> Vec<O> {
        let until = tokio::time::Instant::now() + Duration::from_millis(wait_ms).min(WAIT_MAX);
        let news = self.news(node);
        loop {
            let orders = self.take((node, run), room, now());
            if !orders.is_empty() {
                return orders;
            }
            if tokio::time::timeout_at(until, news.notified()).await.is_err() {
                self.leave(node);
                return orders;
            }
        }
    }

    /// What is told when there are orders for `node`.
    fn news(&self, node: NodeId) -> Arc<Notify> {
        Arc::clone(&self.lock().desks.entry(node).or_default().news)
    }

    /// Nobody waits for orders of `node` any more.
    fn leave(&self, node: NodeId) {
        let mut inner = self.lock();
        if inner.desks.get(&node).is_some_and(|desk| desk.orders.is_empty()) {
            inner.desks.remove(&node);
        }
    }

    /// The next orders of a node, which it may work on until `limit_ms` after `now`.
    fn take(&self, (node, run): (NodeId, Option<RunId>), room: usize, now: u64) -> Vec<O> {
        let mut inner = self.lock();
        let Inner { desks, open, .. } = &mut *inner;
        let Some(Desk { orders: queue, .. }) = desks.get_mut(&node) else { return Vec::new() };
        let mut orders: Vec<O> = queue.drain(..room.min(queue.len())).collect();
        for order in &mut orders {
            if let Some(open) = open.get_mut(order.id()) {
                (open.until, open.taken, open.run) = (now + order.limit_ms() + LATE_MS, true, run);
            }
        }
        orders
    }

    /// A node says what came of orders. One that is not open any more is ignored: it is from another reign, or was given up; so is one
    /// that another node was to carry out.
    pub(crate) fn say(&self, node: NodeId, done: impl IntoIterator<Item = (u64, O::Outcome)>) {
        let mut inner = self.lock();
        for (id, outcome) in done {
            if inner.open.get(&id).is_some_and(|open| open.node == node) {
                inner.open.remove(&id);
                inner.done.push((id, Ended::Said(outcome)));
            }
        }
    }

    /// What ended since the last call, also by silence: because of the time, or because the node is `lost`.
    pub(crate) fn ended(&self, now: u64, lost: impl Fn(NodeId) -> bool) -> Vec<(u64, Ended<O::Outcome>)> {
        let mut inner = self.lock();
        let Inner { desks, open, done, .. } = &mut *inner;
        let silent: Vec<u64> = open.iter().filter(|(_, o)| o.until <= now || lost(o.node)).map(|(id, _)| *id).collect();
        for id in silent {
            let Some(Open { node, taken, until, .. }) = open.remove(&id) else { continue };
            if let Some(desk) = desks.get_mut(&node) {
                desk.orders.retain_mut(|order| *order.id() != id);
            }
            done.push((id, Ended::Silence { taken, for_ms: until.saturating_sub(now) }));
        }
        std::mem::take(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use perilune_protocol::rpc::work::{WorkOrder, WorkOutcome};
    use perilune_protocol::{ReplicaPlace, SegmentId};

    fn order() -> WorkOrder {
        let place = ReplicaPlace { segment: SegmentId::random(), extents: Vec::new() };
        WorkOrder { id: 0, limit_ms: 100, place, size: 1, checksum: 0, source: None }
    }

    #[test]
    fn an_order_is_taken_once_and_ends_once() {
        let (board, node, other) = (Board::<WorkOrder>::new(7), NodeId::random(), NodeId::random());
        let [a, b, c] = [(); 3].map(|()| board.put(node, order(), 50));
        assert!(a > 7 << 32);
        assert_eq!(board.take((other, None), 9, 0), vec![]);
        assert_eq!(board.take((node, None), 2, 10).iter().map(|o| o.id).collect::<Vec<_>>(), [a, b]);
        let right = |id| (id, WorkOutcome::Right);
        board.say(other, vec![right(a)]);
        assert_eq!(board.ended(49, |_| false), vec![], "it is not for others to say");
        board.say(node, vec![right(a), right(a), right(99)]);
        assert_eq!(board.ended(49, |_| false), vec![(a, Ended::Said(WorkOutcome::Right))]);
        assert_eq!(board.ended(50, |_| false), vec![(c, Ended::Silence { taken: false, for_ms: 0 })]);
        assert_eq!(board.take((node, None), 9, 50), vec![], "what was given up is not handed out");
        assert_eq!(board.ended(110 + LATE_MS - 1, |_| false), vec![]);
        assert_eq!(board.ended(110 + LATE_MS, |_| false), vec![(b, Ended::Silence { taken: true, for_ms: 0 })]);
        board.say(node, vec![right(b)]);
        assert_eq!(board.ended(9999, |_| false), vec![], "too late");
        let d = board.put(node, order(), u64::MAX);
        assert_eq!(board.ended(0, |n| n == node), vec![(d, Ended::Silence { taken: false, for_ms: u64::MAX })]);
    }

    #[test]
    fn what_a_process_took_ends_when_the_next_begins() {
        let (board, node, [first, second]) = (Board::<WorkOrder>::new(7), NodeId::random(), [(); 2].map(|()| RunId::random()));
        let [a, b, c] = [(); 3].map(|()| board.put(node, order(), 50));
        assert_eq!(board.take((node, None), 1, 0).len() + board.take((node, Some(first)), 1, 0).len(), 2);
        assert!(!board.begin_run(NodeId::random(), second), "that is another node");
        assert!(board.begin_run(node, first), "who took without a word was another");
        let silence = |id| (id, Ended::Silence { taken: true, for_ms: 0 });
        assert_eq!(board.ended(0, |_| false), vec![silence(a)]);
        assert!(!board.begin_run(node, first), "it has only connected anew");
        assert!(board.begin_run(node, second));
        assert_eq!(board.ended(0, |_| false), vec![silence(b)]);
        assert_eq!(board.take((node, Some(second)), 9, 0).iter().map(|o| o.id).collect::<Vec<_>>(), [c], "what nobody took is there");
    }
}

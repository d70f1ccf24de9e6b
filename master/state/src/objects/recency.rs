//! Who leaves first: least recently used, without touching anything on use but one word of the object.
//!
//! Each object stands once in an ordered list under the stamp it was last *seen* with. A use only raises the object's own
//! stamp. When the evictor meets an object whose stamp is newer than its place, it moves it there and goes on: exact LRU,
//! paid for once per use and eviction, no scan. Stamps of one batch fall from head to tail, so the tail of a chain of
//! blocks leaves before its head (a prefix without its head is worthless).

use super::ranks::{Place, Ranks};
use super::{Object, ObjectIndex};
use crossbeam::queue::SegQueue;
use perilune_protocol::{Pin, TenantId};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The clock of uses and the objects that the evictor has not met yet. Shared by all threads.
#[derive(Default)]
pub struct Recency {
    clock: AtomicU64,
    /// What the clock showed when the reign began. Written once, before it is read.
    inherited: AtomicU64,
    inbox: SegQueue<Arc<Object>>,
}

impl Recency {
    /// Stamps for a batch of `n` uses: the head gets the result, the i-th the result minus i.
    pub fn stamps(&self, n: usize) -> u64 {
        self.clock.fetch_add(n as u64, Ordering::Relaxed) + n as u64
    }

    /// A reign begins with so many objects: room for their stamps, below all of this reign.
    pub(crate) fn inherit(&self, objects: usize) {
        self.inherited.store(self.clock.fetch_add(objects as u64, Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Apply: an object appeared. Hard-pinned ones never enter.
    pub(crate) fn admit(&self, object: &Arc<Object>) {
        if object.pin() != Pin::Hard && !object.is_only_cold() {
            self.inbox.push(object.clone());
        }
    }
}

/// The orders of leaving of all tenants. Owned by the one evicting worker.
#[derive(Default)]
pub struct Orders {
    by_tenant: BTreeMap<TenantId, Order>,
}

impl Orders {
    /// Those of a reign that has just begun. Who used what is not in the log. The order of publishing stands in for it: of what nobody has
    /// used since, the newest counts as used last. Walks all objects, so whoever owns the orders does it, while others are served.
    pub fn begin(recency: &Recency, index: &dyn ObjectIndex) -> Self {
        let inherited = recency.inherited.load(Ordering::Relaxed);
        let mut objects = Vec::with_capacity(index.len());
        index.for_each(&mut |object| {
            if object.pin() != Pin::Hard && !object.is_only_cold() {
                objects.push((object.version, object.clone()));
            }
            ControlFlow::Continue(())
        });
        objects.sort_unstable_by_key(|(version, _)| *version);
        let unused = objects.iter().filter(|(_, object)| object.touched() <= inherited);
        unused.zip(inherited + 1..).for_each(|((_, object), stamp)| object.used(stamp));
        let mut orders = Self::default();
        objects.into_iter().for_each(|(_, object)| orders.of(object.key.as_ref().tenant).insert(object));
        orders
    }

    /// Takes in what appeared since the last call, and lets go of most that has left otherwise; `alive` is about how many objects
    /// there are. To be called regularly, or replaced objects pile up.
    pub fn refresh(&mut self, recency: &Recency, alive: usize) {
        while let Some(object) = recency.inbox.pop() {
            if !object.is_condemned() {
                self.of(object.key.as_ref().tenant).insert(object);
            }
        }
        if self.by_tenant.values().map(Order::len).sum::<usize>() > 2 * alive + LOOKED_AT {
            self.by_tenant.values_mut().for_each(Order::let_go);
            self.by_tenant.retain(|_, order| !order.is_empty());
        }
    }

    /// That of one tenant: what others do makes nothing of it leave.
    pub fn of(&mut self, tenant: TenantId) -> &mut Order {
        self.by_tenant.entry(tenant).or_default()
    }
}

/// The order of leaving of one tenant's objects.
#[derive(Default)]
pub struct Order {
    plain: Queue,
    soft_pinned: Queue,
}

#[derive(Default)]
struct Queue {
    by_stamp: Ranks,
    /// Where the walk goes on, so that leased objects at the front do not hide those behind them.
    cursor: Option<Place>,
    /// Objects passed over in a row, over any number of calls. As many as there are: nothing can leave.
    passed: usize,
}

/// Objects looked at per call of [`Order::next`], so that one step stays short.
pub const LOOKED_AT: usize = 4096;

impl Order {
    fn insert(&mut self, object: Arc<Object>) {
        let queue = if object.pin() == Pin::Soft { &mut self.soft_pinned } else { &mut self.plain };
        queue.by_stamp.insert(object);
    }

    fn let_go(&mut self) {
        self.plain.by_stamp.retain(|object| !object.is_condemned());
        self.soft_pinned.by_stamp.retain(|object| !object.is_condemned());
    }

    /// The next objects to leave memory, oldest first: as many as free so many bytes, and `count` at most. Those that are in no vault are
    /// condemned already: the caller must propose their removal. The others stay objects, and are to be demoted.
    /// `now` decides who is leased, `useful` whether its leaving would help; soft-pinned objects come only when a whole round
    /// found nothing else.
    pub fn next(&mut self, now: u64, count: usize, bytes: u64, useful: impl Fn(&Object) -> bool) -> Vec<Arc<Object>> {
        let (found, whole_round) = self.plain.take(now, count, bytes, &useful);
        if found.is_empty() && whole_round { self.soft_pinned.take(now, count, bytes, &useful).0 } else { found }
    }

    /// What will leave next, oldest first as far as the evictor knows.
    pub fn oldest(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.plain.by_stamp.iter().chain(self.soft_pinned.by_stamp.iter()).filter(|object| !object.is_condemned())
    }

    /// Objects it knows.
    pub fn len(&self) -> usize {
        self.plain.by_stamp.len() + self.soft_pinned.by_stamp.len()
    }

    /// Whether it knows none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Queue {
    /// Returns what it found, and whether all that there is has been passed over in a row.
    fn take(&mut self, now: u64, count: usize, bytes: u64, useful: &impl Fn(&Object) -> bool) -> (Vec<Arc<Object>>, bool) {
        let (mut found, mut freed) = (Vec::new(), 0);
        for _ in 0..LOOKED_AT {
            if found.len() == count || freed >= bytes || self.by_stamp.is_empty() {
                break;
            }
            let Some((place, object)) = self.by_stamp.after(self.cursor) else {
                self.cursor = None;
                continue;
            };
            let object = object.clone();
            if object.is_condemned() {
                self.by_stamp.remove(place);
            } else if object.touched() > place.0 {
                self.by_stamp.remove(place);
                self.by_stamp.insert(object);
            } else if useful(&object) && may_leave(&object, now) {
                self.by_stamp.remove(place);
                self.passed = 0;
                freed += object.frees();
                found.push(object);
            } else {
                self.cursor = Some(place);
                self.passed += 1;
            }
        }
        let whole_round = self.passed >= self.by_stamp.len();
        if whole_round {
            // Leases lapse: the next verdict takes a round of its own.
            self.passed = 0;
        }
        (found, whole_round)
    }
}

/// Whether nobody reads it. Then it is condemned, unless it is in a vault and can be found there all the time.
fn may_leave(object: &Object, now: u64) -> bool {
    if object.cold.is_some() { !object.leased(now) } else { object.condemn(now, false).is_ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{Few, KeyRef};
    use perilune_protocol::Tso;

    fn object(recency: &Recency, n: u64, pin: Pin) -> Arc<Object> {
        let key = KeyRef { tenant: TenantId(0), bytes: &n.to_le_bytes() }.to_owned();
        let object = Arc::new(Object::new(key, Tso(n + 1), 1, 0, pin, Few::default(), recency.stamps(1)));
        recency.admit(&object);
        object
    }

    fn next(orders: &mut Orders, now: u64, count: usize) -> Vec<Arc<Object>> {
        orders.of(TenantId(0)).next(now, count, u64::MAX, |_| true)
    }

    fn versions(found: &[Arc<Object>]) -> Vec<u64> {
        found.iter().map(|o| o.version.0 - 1).collect()
    }

    #[test]
    fn the_least_recently_used_leave_first_and_pins_hold() {
        let recency = Recency::default();
        let objects: Vec<_> = (0..6).map(|n| object(&recency, n, Pin::None)).collect();
        let soft = object(&recency, 6, Pin::Soft);
        object(&recency, 7, Pin::Hard);
        let mut orders = Orders::default();
        orders.refresh(&recency, 10_000);
        // Use 0 and then, as one batch with 1 at the head, 1 and 2.
        let touch = |o: &Arc<Object>, stamp| o.used(stamp);
        touch(&objects[0], recency.stamps(1));
        let head = recency.stamps(2);
        touch(&objects[1], head);
        touch(&objects[2], head - 1);
        assert_eq!(versions(&next(&mut orders, 0, 3)), [3, 4, 5]);
        assert_eq!(versions(&next(&mut orders, 0, 10)), [0, 2, 1], "the tail of a batch leaves before its head");
        assert_eq!(versions(&next(&mut orders, 0, 10)), [6], "soft-pinned only when nothing else is left");
        assert!(soft.is_condemned());
        assert!(next(&mut orders, 0, 10).is_empty(), "hard-pinned never");
        assert!(orders.of(TenantId(0)).is_empty());
    }

    #[test]
    fn leased_objects_neither_leave_nor_hide_others() {
        let recency = Recency::default();
        let objects: Vec<_> = (0..10_000).map(|n| object(&recency, n, Pin::None)).collect();
        for o in &objects[..9_000] {
            o.lease_for_test(100);
        }
        let mut orders = Orders::default();
        orders.refresh(&recency, 10_000);
        let mut found = Vec::new();
        for _ in 0..10 {
            found.extend(next(&mut orders, 50, 64));
            if !found.is_empty() {
                break;
            }
        }
        assert_eq!(versions(&found[..1]), [9_000]);
        let mut all = found.len();
        for _ in 0..200 {
            all += next(&mut orders, 101, 64).len();
        }
        assert_eq!(all, 10_000, "once leases lapse all can leave");
    }

    #[test]
    fn soft_pinned_objects_leave_when_everything_else_is_leased_now() {
        let recency = Recency::default();
        let leased_until = |until, first: u64| {
            for n in first..first + LOOKED_AT as u64 {
                let o = object(&recency, n, Pin::None);
                o.lease_for_test(until);
            }
        };
        leased_until(100, 0);
        object(&recency, 50_000, Pin::Soft);
        let mut orders = Orders::default();
        orders.refresh(&recency, LOOKED_AT + 1);
        assert_eq!(versions(&next(&mut orders, 50, 64)), [50_000]);
        // Later those leases have lapsed; that one step meets only leased objects says nothing of the rest.
        leased_until(300, 10_000);
        let soft = object(&recency, 50_001, Pin::Soft);
        orders.refresh(&recency, 2 * LOOKED_AT + 1);
        let found: Vec<_> = (0..3).flat_map(|_| next(&mut orders, 200, 64)).collect();
        assert!(!found.is_empty() && !soft.is_condemned(), "what is no longer leased leaves first");
    }

    #[test]
    fn soft_pinned_objects_wait_for_more_than_one_step() {
        let recency = Recency::default();
        for n in 0..5_000 {
            let o = object(&recency, n, Pin::None);
            o.lease_for_test(100);
        }
        object(&recency, 5_000, Pin::Soft);
        let mut orders = Orders::default();
        orders.refresh(&recency, 5_001);
        assert!(next(&mut orders, 50, 64).is_empty(), "not all was looked at");
        assert_eq!(versions(&next(&mut orders, 50, 64)), [5_000]);
    }

    #[test]
    fn what_was_replaced_is_let_go() {
        let recency = Recency::default();
        let mut orders = Orders::default();
        for n in 0..50_000 {
            assert!(object(&recency, n, Pin::None).condemn(0, true).is_ok());
            if n % 1000 == 0 {
                orders.refresh(&recency, 1);
            }
        }
        for n in 0..20_000 {
            object(&recency, n, Pin::None);
        }
        orders.refresh(&recency, 20_000);
        assert_eq!(orders.of(TenantId(0)).len(), 20_000);
        assert!(orders.of(TenantId(0)).next(0, 1, u64::MAX, |_| false).is_empty(), "what would not help stays");
    }
}

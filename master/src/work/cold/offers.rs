//! Objects that are to be brought to a vault, in the order in which they were offered, those of each tenant by themselves. Bounded: what finds
//! no place is offered again.
//!
//! What is offered of a shard is a job of that shard, which ends when none of its objects waits here nor is on its way.

use super::lock;
use perilune_protocol::TenantId;
use perilune_state::directory::ShardId;
use perilune_state::objects::{Key, Object};
use perilune_state::shards::{ShardJob, ShardJobs};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, Weak};

/// So many of a tenant wait at a time.
pub(super) const OFFERS_MAX: usize = 4096;

#[derive(Default)]
pub(crate) struct Offers(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// Those who were served last are behind.
    queues: VecDeque<(TenantId, Queue)>,
    jobs: HashMap<ShardId, Weak<ShardJob>>,
}

#[derive(Default)]
struct Queue {
    objects: VecDeque<Offered>,
    bytes: u64,
    keys: HashSet<Key>,
}

/// An object to be brought to a vault, and for which job.
#[derive(Clone)]
pub(super) struct Offered {
    pub(super) object: Arc<Object>,
    pub(super) job: Arc<ShardJob>,
}

/// What became of an offer.
#[derive(Clone)]
pub(crate) enum Offer {
    /// It waits, or did before; for this job.
    Taken(Arc<ShardJob>),
    /// The job of its shard was stopped, and has not ended yet; or another is done there.
    Stopped,
    /// There is no place.
    Full,
}

impl Offers {
    /// Takes an object of a shard in, unless it waits already.
    pub(crate) fn offer(&self, object: &Arc<Object>, shard: ShardId, jobs: &ShardJobs) -> Offer {
        let mut inner = lock(&self.0);
        let tenant = object.key.as_ref().tenant;
        let nth = inner.queues.iter().position(|(known, _)| *known == tenant);
        if nth.is_some_and(|nth| inner.queues[nth].1.objects.len() >= OFFERS_MAX) {
            return Offer::Full;
        }
        let Some(job) = inner.job(shard, jobs) else { return Offer::Stopped };
        let nth = nth.unwrap_or_else(|| {
            inner.queues.push_back((tenant, Queue::default()));
            inner.queues.len() - 1
        });
        let queue = &mut inner.queues[nth].1;
        if queue.keys.insert(object.key.clone()) {
            queue.bytes += object.size;
            queue.objects.push_back(Offered { object: object.clone(), job: Arc::clone(&job) });
        }
        Offer::Taken(job)
    }

    /// The first of those that `fit`, among the next `look` of a tenant that `may`; the next time others come first.
    pub(super) fn take<T>(
        &self,
        look: usize,
        may: impl Fn(TenantId) -> bool,
        fits: impl Fn(&Offered) -> Fit<T>,
    ) -> Option<(Arc<ShardJob>, T)> {
        let mut inner = lock(&self.0);
        let mut nth = 0;
        while nth < inner.queues.len() {
            let (tenant, queue) = &mut inner.queues[nth];
            let found = if may(*tenant) { queue.take(look, &fits) } else { None };
            if queue.objects.is_empty() {
                inner.queues.remove(nth);
            } else if found.is_some() {
                let served = inner.queues.remove(nth);
                inner.queues.extend(served);
            } else {
                nth += 1;
            }
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// Whether nothing of a tenant waits.
    pub(super) fn is_empty(&self, tenant: TenantId) -> bool {
        self.waiting(tenant).0 == 0
    }

    /// How many of a tenant wait, and bytes of them.
    pub(super) fn waiting(&self, tenant: TenantId) -> (usize, u64) {
        let inner = lock(&self.0);
        let found = inner.queues.iter().find(|(known, _)| *known == tenant);
        found.map_or((0, 0), |(_, queue)| (queue.objects.len(), queue.bytes))
    }
}

impl Inner {
    /// The job that is done on a shard, or a new one.
    fn job(&mut self, shard: ShardId, jobs: &ShardJobs) -> Option<Arc<ShardJob>> {
        if let Some(job) = self.jobs.get(&shard).and_then(Weak::upgrade) {
            return Some(job).filter(|job| !job.is_stopped());
        }
        self.jobs.retain(|_, job| job.strong_count() > 0);
        let job = Arc::new(jobs.begin(shard)?);
        tracing::debug!(tablet = shard.0, job = job.id(), "an offload begins");
        self.jobs.insert(shard, Arc::downgrade(&job));
        Some(job)
    }
}

/// Whether an offer is taken.
pub(super) enum Fit<T> {
    /// As this.
    Now(T),
    /// It stays where it is.
    Later,
    /// It is dropped.
    Never,
}

impl Queue {
    fn take<T>(&mut self, look: usize, fits: &impl Fn(&Offered) -> Fit<T>) -> Option<(Arc<ShardJob>, T)> {
        let mut nth = 0;
        while nth < look.min(self.objects.len()) {
            let offered = &self.objects[nth];
            match if offered.job.is_stopped() { Fit::Never } else { fits(offered) } {
                Fit::Later => nth += 1,
                Fit::Never => drop(self.forget(nth)),
                Fit::Now(found) => return self.forget(nth).map(|offered| (offered.job, found)),
            }
        }
        None
    }

    fn forget(&mut self, nth: usize) -> Option<Offered> {
        let offered = self.objects.remove(nth)?;
        self.keys.remove(&offered.object.key);
        self.bytes -= offered.object.size;
        Some(offered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use perilune_protocol::{Pin, Tso};
    use perilune_state::objects::{Few, KeyRef};

    fn object(tenant: u32, n: u64) -> Arc<Object> {
        let key = KeyRef { tenant: TenantId(tenant), bytes: &n.to_le_bytes() }.to_owned();
        Arc::new(Object::new(key, Tso(n), 1, 0, Pin::None, Few::default(), 0))
    }

    fn offer(offers: &Offers, jobs: &ShardJobs, tenant: u32, n: u64) -> bool {
        matches!(offers.offer(&object(tenant, n), ShardId(tenant.into()), jobs), Offer::Taken(_))
    }

    #[test]
    fn offers_are_taken_in_order_once_and_are_bounded() {
        let (offers, jobs) = (Offers::default(), ShardJobs::new(1));
        let taken = (0..2 * OFFERS_MAX as u64).filter(|n| offer(&offers, &jobs, 1, *n) && offer(&offers, &jobs, 1, 0)).count();
        assert!(taken < OFFERS_MAX && !offers.is_empty(TenantId(1)), "{taken}");
        let pick = |offered: &Offered| match offered.object.version.0 {
            0 | 2 => Fit::Later,
            1 => Fit::Never,
            n => Fit::Now(n),
        };
        let all = |offered: &Offered| Fit::Now(offered.object.version.0);
        let take = |look, fits: &dyn Fn(&Offered) -> Fit<u64>| offers.take(look, |_| true, fits).map(|(_, n)| n);
        assert_eq!(take(2, &pick), None, "the first waits, the second is gone, the third waits");
        assert_eq!(take(9, &pick), Some(3));
        assert_eq!(take(9, &all), Some(0));
        assert_eq!(take(1, &all), Some(2));
        let rest = std::iter::from_fn(|| take(1, &all)).count();
        assert_eq!(rest, OFFERS_MAX - 4);
        assert!(offers.is_empty(TenantId(1)) && offer(&offers, &jobs, 1, 0));
    }

    #[test]
    fn tenants_take_turns_and_one_that_waits_holds_up_no_other() {
        let (offers, jobs) = (Offers::default(), ShardJobs::new(1));
        for n in 0..OFFERS_MAX as u64 {
            assert!(offer(&offers, &jobs, 1, n));
        }
        assert!(!offer(&offers, &jobs, 1, 1 << 20) && (0..3).all(|n| offer(&offers, &jobs, 2, n)));
        let whose = |offered: &Offered| offered.object.key.as_ref().tenant.0;
        let turns: Vec<_> = (0..6).map(|_| offers.take(4, |_| true, |offered| Fit::Now(whose(offered))).unwrap().1).collect();
        assert_eq!(turns, [1, 2, 1, 2, 1, 2]);
        assert!(offer(&offers, &jobs, 2, 7));
        let slow = |offered: &Offered| if whose(offered) == 1 { Fit::Later } else { Fit::Now(()) };
        assert!(offers.take(4, |_| true, slow).is_some() && offers.take(4, |_| true, slow).is_none());
        assert!(offers.take(4, |tenant| tenant.0 != 1, |_| Fit::Now(())).is_none());
    }

    #[test]
    fn a_job_that_was_stopped_has_nothing_more_taken_and_the_next_round_may() {
        let (offers, jobs) = (Offers::default(), ShardJobs::new(1));
        assert!((0..5).all(|n| offer(&offers, &jobs, 1, n)) && (0..2).all(|n| offer(&offers, &jobs, 2, n)));
        let (mine, flying) = offers.take(9, |tenant| tenant.0 == 1, |_| Fit::Now(())).map(|(job, ())| (job.id().to_string(), job)).unwrap();
        assert_eq!(jobs.stop(ShardId(1), &mine), Ok(()));
        assert!(!offer(&offers, &jobs, 1, 9), "one of its objects is on its way");
        let next = || offers.take(9, |_| true, |offered| Fit::Now(offered.object.key.as_ref().tenant.0)).map(|(_, whose)| whose);
        assert_eq!((next(), next(), next()), (Some(2), Some(2), None));
        drop(flying);
        assert_eq!(jobs.running(), []);
        assert!(offer(&offers, &jobs, 1, 9) && next() == Some(1));
    }
}

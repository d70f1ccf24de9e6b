//! The state as the log drives it, and how a reign gets one of its own.

use super::Clock;
use crate::events;
use crate::log::{Machine, SnapshotWriter};
use crate::planted::{self, Defect};
use perilune_protocol::{FaultCode, Tso};
use perilune_state::reign::Overlap;
use perilune_state::{Applied, Effect, MonotonicMs, Rules, State, snapshot};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Owned by the log's thread; shares the state with the engine.
pub struct Brain {
    seat: Arc<Seat>,
    rules: Rules,
    clock: Clock,
    /// The stamp of the entry that is being applied, and how many of its effects were.
    place: (Option<Tso>, u32),
    /// The highest stamp that an entry was given here, or came with.
    stamped: Tso,
}

/// Where the log's thread and the engine agree whose state it is.
pub(crate) struct Seat {
    known: Mutex<Known>,
    /// The term this member leads in; 0 is none. Written (release) by the log's thread before anything of another leader is applied and
    /// before a lease of another term is shown; read (acquire) by whoever vouches for an answer.
    term: AtomicU64,
    /// The first effect that could not be read. Written by the log's thread.
    unreadable: OnceLock<String>,
}

/// The log's thread holds its lock while it applies an effect. Others take it to exchange the state.
struct Known {
    state: Arc<State>,
    /// What was applied since a copy of the state was begun, and when.
    journal: Option<Vec<(Effect, MonotonicMs)>>,
}

/// So much of a journal is applied to a copy while the log waits.
const JOURNAL_REST: usize = 256;
/// As often what was applied meanwhile is caught up with before that.
const JOURNAL_ROUNDS: usize = 16;

impl Seat {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The term this member leads in; 0 is none.
    pub(crate) fn term(&self) -> u64 {
        self.term.load(Ordering::Acquire)
    }

    /// The log is closed: nothing is stored or told any more.
    pub(crate) fn close(&self) {
        self.term.store(0, Ordering::Release);
    }

    /// What is known now.
    pub(crate) fn state(&self) -> Arc<State> {
        Arc::clone(&self.lock().state)
    }

    /// What was committed and cannot be read: a newer release wrote it, and to lead without it would forget it.
    pub(crate) fn unreadable(&self) -> Option<&str> {
        self.unreadable.get().map(String::as_str)
    }

    /// The state for a reign in `term`, in which nothing has been proposed yet and so nothing is applied; a copy, where that could not be made
    /// ready before. With what no object could be given. `None` when the lead is lost again.
    pub(crate) fn take(&self, term: u64, now: MonotonicMs) -> Option<(Arc<State>, Vec<Overlap>)> {
        let state = self.state();
        let (state, overlaps) = if state.is_ready() {
            (state, Vec::new())
        } else {
            let (copy, overlaps) = snapshot::copy(&state);
            (Arc::new(copy), overlaps)
        };
        let mut known = self.lock();
        // Only the log's thread gives a term, under this lock, and none comes twice: it has been this one all the time.
        if self.term() != term {
            return None;
        }
        state.begin(&overlaps, now);
        let old = std::mem::replace(&mut *known, Known { state: Arc::clone(&state), journal: None });
        drop(known);
        drop(old);
        Some((state, overlaps))
    }

    /// Where this member has led, makes what is known ready to lead with again, by a copy, so that its next reign begins at once. The log goes
    /// on meanwhile.
    pub(crate) fn make_ready(&self) {
        let copy = {
            let mut known = self.lock();
            if !known.state.is_loose() || self.term() != 0 {
                return;
            }
            known.journal = Some(Vec::new());
            snapshot::copier(Arc::clone(&known.state))
        };
        let copy = copy();
        for round in 0.. {
            let mut known = self.lock();
            // Where there is none any more, a snapshot was restored.
            let Some(journal) = known.journal.take() else { return };
            if journal.len() > JOURNAL_REST && round < JOURNAL_ROUNDS {
                known.journal = Some(Vec::new());
                drop(known);
                replay(&copy, journal);
                continue;
            }
            replay(&copy, journal);
            let old = std::mem::replace(&mut known.state, Arc::new(copy));
            drop(known);
            // It takes as long as a copy.
            drop(old);
            return;
        }
    }
}

fn replay(state: &State, journal: Vec<(Effect, MonotonicMs)>) {
    for (effect, now) in journal {
        state.apply(effect, now);
    }
}

impl Brain {
    /// Knows nothing yet.
    pub(crate) fn new(rules: Rules, clock: Clock) -> Self {
        let known = Mutex::new(Known { state: Arc::new(State::new(rules)), journal: None });
        Self {
            seat: Arc::new(Seat { known, term: AtomicU64::new(0), unreadable: OnceLock::new() }),
            rules,
            clock,
            place: (None, 0),
            stamped: Tso(0),
        }
    }

    pub(crate) fn seat(&self) -> Arc<Seat> {
        Arc::clone(&self.seat)
    }
}

impl Machine for Brain {
    type Output = Applied;

    fn apply(&mut self, index: u64, effect: &[u8]) -> Applied {
        let place = self.place;
        self.place.1 += 1;
        match Effect::decode(effect) {
            Ok(effect) => {
                let early = if planted::is(Defect::HastyReuse) { 60_000 } else { 0 };
                let (mut known, now) = (self.seat.lock(), self.clock.now() + early);
                if let Some(journal) = &mut known.journal {
                    journal.push((effect.clone(), now));
                }
                let (Some(stamp), nth) = place else { return known.state.apply(effect, now) };
                known.state.moot.watch((stamp, nth), || {
                    let applied = known.state.apply(effect, now);
                    let nothing = applied != Applied::Done;
                    (applied, nothing)
                })
            }
            Err(e) => {
                tracing::error!(index, "a committed effect cannot be read: {e}");
                let _ = self.seat.unreadable.set(format!("log entry {index}: {e}"));
                Applied::Refused(FaultCode::Internal.with(format!("log entry {index}: {e}")))
            }
        }
    }

    fn stamp(&mut self) -> Option<Tso> {
        let least = Tso::from_physical(self.clock.wall_ms()).max(Tso(self.stamped.0 + 1));
        self.stamped = self.seat.lock().state.tso.stamp(least);
        Some(self.stamped)
    }

    fn begins(&mut self, stamp: Option<Tso>) {
        self.place = (stamp, 0);
        if let Some(stamp) = stamp {
            self.stamped = self.stamped.max(stamp);
            // A later leader issues none before this one.
            self.seat.lock().state.tso.raise_limit(stamp);
        }
    }

    fn forget(&mut self, before: Tso) {
        self.seat.lock().state.moot.forget(before);
    }

    fn needed(&self) -> Option<Tso> {
        let needed = events::needed(&self.seat.lock().state.settings.map());
        needed.filter(|_| !planted::is(Defect::ForgottenNeed))
    }

    fn leads(&mut self, term: Option<u64>) {
        let known = self.seat.lock();
        self.seat.term.store(term.unwrap_or(0), Ordering::Release);
        known.state.follow();
    }

    fn snapshot(&self) -> SnapshotWriter {
        Box::new(snapshot::writer(self.seat.state()))
    }

    fn restore(&mut self, from: &mut dyn io::Read) -> io::Result<()> {
        // Whoever looks at the old one, as a reign that has ended may, keeps it.
        let state = Arc::new(snapshot::read(from, self.rules, self.clock.now())?);
        let old = std::mem::replace(&mut *self.seat.lock(), Known { state, journal: None });
        drop(old);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use perilune_protocol::{Capability, Endpoint, Extent, NodeId, Pin, Protocol, ReplicaPlace, SegmentDesc, SegmentId, TenantId, Tso};
    use perilune_state::apply::places;
    use perilune_state::effect::{ObjectRecord, RemoveReason};
    use std::collections::BTreeMap;
    use std::ops::ControlFlow;

    const SLOTS: u64 = 2000;

    fn mount(id: SegmentId) -> Effect {
        let (endpoints, protocol, location) = (vec![Endpoint::Tcp("127.0.0.1:1".into())], Protocol::Tcp, String::new());
        let (name, node, capability, size) = ("segment".into(), NodeId::random(), Capability(1), SLOTS * 4096);
        Effect::Mount(SegmentDesc { id, name, node, base: 0, size, protocol, location, endpoints, capability })
    }

    /// The slots of a segment are filled in turn; who comes back to one empties it before. Every third object moves to the other segment, where
    /// the slot is as free.
    fn effects(segments: [SegmentId; 2], nth: u64) -> Vec<Effect> {
        let (key, version) = (|n: u64| format!("k{n}").as_str().into(), Tso(nth + 1));
        let tenant = TenantId(0);
        let place = |at: usize| ReplicaPlace { segment: segments[at], extents: vec![Extent { offset: nth % SLOTS * 4096, len: 4096 }] };
        let gone =
            nth.checked_sub(SLOTS).map(|n| Effect::Remove { tenant, key: key(n), version: Tso(n + 1), reason: RemoveReason::Removed });
        let replicas = vec![place(0)];
        let record = ObjectRecord { tenant, key: key(nth), version, size: 4096, checksum: 0, pin: Pin::None, replicas, wanted: 1 };
        let moves = Effect::Replicas { tenant, key: key(nth), version, add: Some(place(1)), drop: Some(segments[0]) };
        let moves = nth.is_multiple_of(3).then_some(moves);
        gone.into_iter().chain([Effect::Commit(record)]).chain(moves).chain([Effect::Passed { ms: 1 }]).collect()
    }

    /// What a reign would begin with: objects and where they are, what is taken, what is counted, and the clock and windows as a snapshot has them.
    fn known(state: &Arc<State>) -> (BTreeMap<u64, ReplicaPlace>, Vec<u64>, u64, Vec<u8>) {
        let mut objects = BTreeMap::new();
        state.index.for_each(&mut |o| {
            objects.insert(o.version.0, places(&o.replicas).remove(0));
            ControlFlow::Continue(())
        });
        let used = state.segments.table().iter().map(|s| s.space().used()).collect();
        let mut head = FirstChunks(Vec::new());
        let _ = snapshot::writer(Arc::clone(state))(&mut head);
        (objects, used, state.meters.of(TenantId(0)).bytes(), head.0)
    }

    /// What a snapshot has before its objects, which come in any order.
    struct FirstChunks(Vec<u8>);

    impl io::Write for FirstChunks {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if bytes.len() > 1024 {
                // Its length was written before.
                self.0.truncate(self.0.len() - 4);
                return Err(io::ErrorKind::Other.into());
            }
            self.0.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A member that loses the lead again and again is ready each time soon after, whatever is applied meanwhile.
    #[test]
    fn what_is_applied_while_a_copy_is_made_is_in_the_copy() {
        let rules = crate::MasterConfig::default().rules();
        let mut brain = Brain::new(rules, Clock::begin());
        let (seat, oracle, segments) = (brain.seat(), Arc::new(State::new(rules)), [(); 2].map(|()| SegmentId::random()));
        let mut nth = 0;
        let apply = |brain: &mut Brain, effect: Effect| {
            assert_eq!(brain.apply(1, &effect.encode()), oracle.apply(effect, 1));
        };
        segments.into_iter().for_each(|segment| apply(&mut brain, mount(segment)));
        for term in 1..15 {
            brain.leads(Some(term));
            let (_, overlaps) = seat.take(term, 1).unwrap();
            assert!(overlaps.is_empty(), "term {term}");
            brain.leads(None);
            assert!(!seat.state().is_ready(), "term {term}: it knows what puts of its reign took");
            std::thread::scope(|scope| {
                let maker = scope.spawn(|| seat.make_ready());
                while !maker.is_finished() || nth % 100 > 0 {
                    effects(segments, nth).into_iter().for_each(|effect| apply(&mut brain, effect));
                    nth += 1;
                }
            });
            let state = seat.state();
            assert!(state.is_ready(), "term {term}, {nth} objects");
            let (found, right) = (known(&state), known(&oracle));
            assert!(found.0 == right.0, "term {term}, {nth} objects: {:?}", found.0.iter().zip(&right.0).find(|(a, b)| a != b));
            assert_eq!((found.1, found.2, found.3), (right.1, right.2, right.3), "term {term}, {nth} objects");
        }
    }
}

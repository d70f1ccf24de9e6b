//! When a master that lets its callers wait is suspected, and how often the others are asked whether one of them leads.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

/// So long an answer may take before anybody wonders. Masters wait longer than this for a leader before they elect another.
pub(super) const UNSUSPICIOUS: Duration = Duration::from_millis(150);
/// So long after a look comes the next one, until an election is over: nine looks. Later pauses double, up to [`PAUSE_MAX`], which is how late a
/// leader may be found whose election took long.
const AGAIN: Duration = Duration::from_millis(75);
/// So many looks of these follow each other before [`doubled`] begins.
const EAGER: u32 = 5;
/// So many times are alike in a row that [`doubled`] makes.
const SWIFT: u32 = 4;
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A caller that may look again asks this often whether it is time.
const TICK: Duration = Duration::from_millis(25);

/// What a caller does while no answer comes.
#[derive(Clone, Copy)]
pub(crate) struct Look<'a> {
    pub(super) deadline: Instant,
    /// A link that delivers nothing for so long is waited for no longer.
    pub(super) patience: Duration,
    /// The first look comes after this.
    pub(super) unsuspicious: Duration,
    /// Told when the link delivered an answer last. Does not wait for what it finds: who finds another leader abandons the link.
    pub(super) elsewhere: &'a dyn Fn(Option<Instant>),
}

impl Look<'_> {
    /// Waits, and does nothing else.
    pub(super) fn nowhere(deadline: Instant) -> Self {
        Self { deadline, patience: Duration::MAX, unsuspicious: Duration::MAX, elsewhere: &|_| {} }
    }
}

/// One wait. A link that delivers answers to others is slow, not silent.
pub(super) struct Silence<'a> {
    asked: Instant,
    look: Look<'a>,
}

impl<'a> Silence<'a> {
    pub(super) fn begin(look: Look<'a>) -> Self {
        Self { asked: Instant::now(), look }
    }

    /// Since when this caller hears nothing.
    fn quiet(&self, heard: Option<Instant>) -> Instant {
        heard.map_or(self.asked, |heard| heard.max(self.asked))
    }

    /// When the wait is over, unless an answer comes before.
    pub(super) fn end(&self, heard: Option<Instant>) -> Instant {
        self.quiet(heard).checked_add(self.look.patience).map_or(self.look.deadline, |end| end.min(self.look.deadline))
    }

    /// Looks elsewhere if it is time; until when to wait before the next time.
    pub(super) fn look(&self, heard: Option<Instant>) -> Instant {
        let (now, end) = (Instant::now(), self.end(heard));
        let Some(suspicious) = self.quiet(heard).checked_add(self.look.unsuspicious) else { return end };
        if now < suspicious {
            return suspicious.min(end);
        }
        (self.look.elsewhere)(heard);
        end.min(now + TICK)
    }
}

/// The looks of all callers together.
#[derive(Default)]
pub(super) struct Looks {
    /// In this silence.
    count: u32,
    last: Option<Instant>,
    next: Option<Instant>,
}

impl Looks {
    /// Whether to look `now`, which is noted as done. The link delivered its last answer when it was `heard`.
    pub(super) fn take(&mut self, now: Instant, heard: Option<Instant>) -> bool {
        if heard > self.last {
            (self.count, self.next) = (0, None);
        }
        if self.next.is_some_and(|next| now < next) {
            return false;
        }
        self.count += 1;
        (self.last, self.next) = (Some(now), Some(now + spread(doubled(AGAIN, self.count.saturating_sub(EAGER), PAUSE_MAX))));
        true
    }
}

/// The `nth` (from 1) of a row of times: the first ones alike, then each twice as long.
pub(super) fn doubled(first: Duration, nth: u32, most: Duration) -> Duration {
    let doublings = (nth + 1).saturating_sub(SWIFT).min(16);
    (first * (1 << doublings)).min(most)
}

/// Drawn from a fifth less to a fifth more, so that many clients do not come at once.
pub(super) fn spread(time: Duration) -> Duration {
    let drawn = RandomState::new().hash_one(()) % 401;
    time * (800 + u32::try_from(drawn).unwrap_or(200)) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_few_swift_while_an_election_lasts_and_begin_anew_when_an_answer_came() {
        let (mut looks, asked) = (Looks::default(), Instant::now());
        let at = |ms: u64| asked + Duration::from_millis(ms);
        let mut seen = |from: u64, to: u64, heard: u64| (from..to).filter(|ms| looks.take(at(*ms), Some(at(heard)))).collect::<Vec<_>>();
        let first = seen(150, 1150, 0);
        assert!((8..=12).contains(&first.len()), "{first:?}");
        assert!(first.iter().any(|ms| (500..=800).contains(ms)), "{first:?}: an election just over is seen");
        let later = seen(1150, 21_150, 0);
        assert!((16..=27).contains(&later.len()), "{later:?}");
        assert_eq!(seen(30_000, 30_001, 29_000).len(), 1);
        assert!((1..=4).contains(&seen(30_001, 30_200, 29_000).len()), "swift again");
    }

    #[test]
    fn a_link_that_delivers_is_not_silent() {
        let silence = Silence::begin(Look {
            deadline: Instant::now() + Duration::from_secs(9),
            patience: Duration::from_millis(5),
            unsuspicious: Duration::from_secs(1),
            elsewhere: &|_| panic!("nobody is to look"),
        });
        let heard = silence.asked + Duration::from_secs(3);
        assert_eq!(silence.end(None), silence.asked + Duration::from_millis(5));
        assert_eq!(silence.end(Some(heard)), heard + Duration::from_millis(5));
        assert_eq!(silence.look(Some(heard)), heard + Duration::from_millis(5));
        assert_eq!(silence.end(Some(heard + Duration::from_secs(60))), silence.look.deadline);
    }
}

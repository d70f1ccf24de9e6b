//! Linearizable reads: which question was confirmed by a majority, and until when the leader may answer without asking.
//!
//! A *round* is a heartbeat to everyone that carries its number. Once a majority has answered it, this member still led when the round
//! began, so every read asked for before then may be served from what is applied up to the commit index of that moment. The same
//! answers are a promise not to elect another leader for an election timeout, counted from when the round began: the lease.

use std::collections::VecDeque;
use std::time::Duration;

/// Reads of one member that wait, and its lease. `A` is whom to tell. Time is the driver's.
pub(super) struct Reads<A> {
    /// What a majority's answer is worth, from the beginning of the round.
    span: Duration,
    /// The last round that was begun.
    round: u64,
    /// Begun and not confirmed, oldest first.
    flying: VecDeque<(u64, Duration)>,
    /// The first round that counts for it: the one after it was asked.
    asked: VecDeque<(u64, A)>,
    /// To be told once this index is applied.
    confirmed: Vec<(u64, A)>,
    /// The lease holds before this; zero is none.
    lease: Duration,
}

impl<A> Reads<A> {
    pub(super) fn new(span: Duration) -> Self {
        let (flying, asked) = (VecDeque::new(), VecDeque::new());
        Self { span, round: 0, flying, asked, confirmed: Vec::new(), lease: Duration::ZERO }
    }

    /// A read waits. True when a round should begin at once, false when one is under way: the next will do for all that gather.
    pub(super) fn ask(&mut self, whom: A) -> bool {
        self.asked.push_back((self.round + 1, whom));
        self.flying.is_empty()
    }

    /// Begins a round. Gives what its heartbeats carry.
    pub(super) fn begin(&mut self, now: Duration) -> Vec<u8> {
        self.round += 1;
        self.flying.push_back((self.round, now));
        self.round.to_le_bytes().into()
    }

    /// A majority answered a round, or a later one. True when reads wait for one more.
    pub(super) fn confirm(&mut self, carried: &[u8], index: u64) -> bool {
        let Ok(round) = carried.try_into().map(u64::from_le_bytes) else { return false };
        while let Some((_, began)) = self.flying.pop_front_if(|(r, _)| *r <= round) {
            self.lease = self.lease.max(began + self.span);
        }
        while let Some((_, whom)) = self.asked.pop_front_if(|(needs, _)| *needs <= round) {
            self.confirmed.push((index, whom));
        }
        !self.asked.is_empty() && self.flying.is_empty()
    }

    /// Reads that may now be served.
    pub(super) fn served(&mut self, applied: u64) -> impl Iterator<Item = A> {
        self.confirmed.extract_if(.., move |(index, _)| *index <= applied).map(|(_, whom)| whom)
    }

    /// Until when the lease holds.
    pub(super) fn lease(&self) -> Duration {
        self.lease
    }

    /// The lead is lost, or about to be given away: no lease, and whoever waits is to be refused.
    pub(super) fn stop(&mut self) -> Vec<A> {
        self.flying.clear();
        self.lease = Duration::ZERO;
        self.asked.drain(..).chain(self.confirmed.drain(..)).map(|(_, whom)| whom).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Duration = Duration::from_millis(200);

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_read_waits_for_a_round_that_began_after_it() {
        let mut reads = Reads::new(SPAN);
        let early = reads.begin(at(10));
        assert!(!reads.ask("late"), "the round under way does not count for it");
        assert!(reads.confirm(&early, 5), "and so another must begin");
        assert_eq!(reads.served(9).count(), 0);
        let second = reads.begin(at(30));
        assert!(!reads.ask("later"));
        assert!(reads.confirm(&second, 7));
        assert_eq!(reads.served(6).count(), 0, "not yet applied");
        assert_eq!(reads.served(7).collect::<Vec<_>>(), ["late"]);
        let third = reads.begin(at(50));
        assert!(!reads.confirm(&third, 7));
        assert_eq!(reads.served(7).collect::<Vec<_>>(), ["later"]);
    }

    #[test]
    fn the_lease_counts_from_the_beginning_of_the_round_and_ends_with_the_lead() {
        let mut reads: Reads<()> = Reads::new(SPAN);
        let (first, second) = (reads.begin(at(10)), reads.begin(at(60)));
        assert_eq!(reads.lease(), Duration::ZERO);
        reads.confirm(&first, 1);
        assert_eq!(reads.lease(), at(210));
        reads.confirm(&second, 1);
        assert_eq!(reads.lease(), at(260));
        reads.ask(());
        assert_eq!((reads.stop().len(), reads.lease()), (1, Duration::ZERO));
        reads.confirm(&second, 1);
        assert_eq!(reads.lease(), Duration::ZERO, "an answer that comes late is worth nothing");
    }

    #[test]
    fn what_others_carry_is_no_round() {
        let mut reads: Reads<()> = Reads::new(SPAN);
        reads.begin(at(1));
        assert!(!reads.confirm(b"x", 1) && !reads.confirm(&[0; 9], 1));
        assert_eq!(reads.lease(), Duration::ZERO);
    }
}

//! Linearizable reads where this member follows: it asks the leader how far the log is, and waits until it is as far itself.
//!
//! The question is raft's own (`MsgReadIndex`): the leader answers once a majority has confirmed that it led after it was asked. The number
//! of the last question stands for all before it, so that one answer serves everyone who waits, and a lost one is simply asked again.

use std::collections::VecDeque;

/// What a question carries: who asks, and which of its questions it is. Longer than what the leader's own rounds carry.
const CARRIED: usize = 16;

/// Reads that wait where this member follows. `A` is whom to tell.
pub(super) struct Inquiry<A> {
    me: u64,
    /// The last question.
    number: u64,
    /// The question that stands for it, the tick at which it is given up, and whom to tell; oldest first.
    asked: VecDeque<(u64, u64, A)>,
    /// To be told once this index is applied; the tick is as before.
    confirmed: Vec<(u64, u64, A)>,
}

impl<A> Inquiry<A> {
    pub(super) fn new(me: u64) -> Self {
        Self { me, number: 0, asked: VecDeque::new(), confirmed: Vec::new() }
    }

    /// A read waits, until the tick `until`. Gives the question to ask.
    pub(super) fn ask(&mut self, until: u64, whom: A) -> Vec<u8> {
        self.number += 1;
        self.asked.push_back((self.number, until, whom));
        self.carried()
    }

    /// The question to ask again, if any was not answered.
    pub(super) fn again(&self) -> Option<Vec<u8>> {
        (!self.asked.is_empty()).then(|| self.carried())
    }

    fn carried(&self) -> Vec<u8> {
        [self.me.to_le_bytes(), self.number.to_le_bytes()].concat()
    }

    /// The leader answers a question: the log was at `index` when it was asked. False when it is no question of this kind.
    pub(super) fn confirm(&mut self, carried: &[u8], index: u64) -> bool {
        let Some((me, number)) = carried.split_first_chunk::<8>().filter(|_| carried.len() == CARRIED) else { return false };
        let Ok(number) = number.try_into().map(u64::from_le_bytes) else { return false };
        if u64::from_le_bytes(*me) == self.me {
            while let Some((_, until, whom)) = self.asked.pop_front_if(|(n, ..)| *n <= number) {
                self.confirmed.push((index, until, whom));
            }
        }
        true
    }

    /// Reads that may now be served.
    pub(super) fn served(&mut self, applied: u64) -> impl Iterator<Item = A> {
        self.confirmed.extract_if(.., move |(index, ..)| *index <= applied).map(|(.., whom)| whom)
    }

    /// Reads that waited too long.
    pub(super) fn late(&mut self, tick: u64) -> Vec<A> {
        let waited = |(_, until, _): &mut (u64, u64, A)| *until <= tick;
        let confirmed: Vec<_> = self.confirmed.extract_if(.., waited).collect();
        let mut late: Vec<A> = confirmed.into_iter().map(|(.., whom)| whom).collect();
        while let Some((.., whom)) = self.asked.pop_front_if(|(_, until, _)| *until <= tick) {
            late.push(whom);
        }
        late
    }

    /// Nobody is to wait any longer.
    pub(super) fn stop(&mut self) -> Vec<A> {
        self.late(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_serves_all_who_asked_before_and_nobody_who_asked_later() {
        let mut inquiry = Inquiry::new(7);
        let first = inquiry.ask(10, "a");
        let second = inquiry.ask(11, "b");
        inquiry.ask(12, "c");
        assert!(inquiry.confirm(&second, 5) && inquiry.again().is_some());
        assert_eq!(inquiry.served(4).count(), 0, "not yet applied");
        assert_eq!(inquiry.served(5).collect::<Vec<_>>(), ["a", "b"]);
        assert!(inquiry.confirm(&first, 9), "an answer that comes late is one, and says nothing new");
        assert_eq!(inquiry.served(9).count(), 0);
        assert_eq!(inquiry.late(11), [""; 0]);
        assert_eq!(inquiry.late(12), ["c"]);
        assert_eq!(inquiry.again(), None);
    }

    #[test]
    fn what_others_carry_is_no_answer() {
        let mut inquiry = Inquiry::new(7);
        inquiry.ask(10, "a");
        assert!(!inquiry.confirm(&1u64.to_le_bytes(), 5) && !inquiry.confirm(&[0; 24], 5));
        assert!(Inquiry::<()>::new(8).confirm(&inquiry.carried(), 5), "of another member");
        let theirs = Inquiry::<()>::new(8).carried();
        assert!(inquiry.confirm(&theirs, 5));
        assert_eq!((inquiry.served(u64::MAX).count(), inquiry.stop().len()), (0, 1));
    }
}

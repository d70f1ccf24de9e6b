//! A set of small numbers that finds its lowest member; what it says is a hint, and the thing it describes decides.

use crate::bitmap::{ones, words};
use crate::primitive::{AtomicU64, Ordering};

/// Numbers below a bound, in two levels.
///
/// ```text
///   summary   one bit for each word: the word may hold members        4096 numbers a summary word
///   words     one bit for each number
/// ```
///
/// Who keeps a set in step with some state elsewhere (number `i` is a member when the state of `i` says so) follows two rules, from any number
/// of threads: change the state **first**, then `insert` if it now belongs, or `remove_unless` it belongs again. Then at rest no number that
/// belongs is missing: of an insert and a removal of the same number, whichever comes second in the order of the word's RMWs either leaves
/// the bit set, or (the removal) has acquired from the insert, sees the newer state, and puts the number back. Both therefore write even
/// when the bit seems right already. The same argument, one level up, keeps the summary right.
#[derive(Debug)]
pub struct Set {
    words: Box<[AtomicU64]>,
    summary: Box<[AtomicU64]>,
    bound: usize,
}

impl Set {
    /// An empty set for numbers below `bound`.
    pub fn empty(bound: usize) -> Self {
        Self::of(bound, |_| 0)
    }

    /// The set of all numbers below `bound`.
    pub fn full(bound: usize) -> Self {
        Self::of(bound, |bits| ones(bits.min(64) as u32))
    }

    fn of(bound: usize, fill: fn(usize) -> u64) -> Self {
        let level = |bits: usize| (0..words(bits)).map(|word| AtomicU64::new(fill(bits - word * 64))).collect::<Box<[_]>>();
        Self { words: level(bound), summary: level(words(bound)), bound }
    }

    /// Adds `number`; nothing above the bound can be added.
    pub fn insert(&self, number: usize) {
        if number < self.bound {
            let word = number / 64;
            // Release pairs with the Acquire of a later removal (see the type). Acquire: for the same reason, the other way.
            self.words[word].fetch_or(1 << (number % 64), Ordering::AcqRel);
            self.summary[word / 64].fetch_or(1 << (word % 64), Ordering::AcqRel);
        }
    }

    /// Removes `number`, and adds it again if `belongs` says so afterwards. `belongs` reads the state with Acquire.
    pub fn remove_unless(&self, number: usize, belongs: impl FnOnce() -> bool) {
        if number >= self.bound {
            return;
        }
        let (word, bit) = (number / 64, 1 << (number % 64));
        // Acquire pairs with the Release of the insert that came before (see the type).
        let left = self.words[word].fetch_and(!bit, Ordering::AcqRel) & !bit;
        if left == 0 {
            self.summary[word / 64].fetch_and(!(1 << (word % 64)), Ordering::AcqRel);
            // Sees every insert whose summary bit was just cleared, by the Acquire of that clear.
            if self.words[word].load(Ordering::Acquire) != 0 {
                self.summary[word / 64].fetch_or(1 << (word % 64), Ordering::AcqRel);
            }
        }
        if belongs() {
            self.insert(number);
        }
    }

    /// Whether `number` is a member.
    pub fn contains(&self, number: usize) -> bool {
        number < self.bound && self.words[number / 64].load(Ordering::Acquire) & (1 << (number % 64)) != 0
    }

    /// The members `64 * index ..` as one word; 0 above the bound.
    pub fn word(&self, index: usize) -> u64 {
        // Acquire here and below pairs with the Release of `insert`.
        self.words.get(index).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// The lowest member that is at least `from`.
    pub fn first_from(&self, from: usize) -> Option<usize> {
        if from >= self.bound {
            return None;
        }
        let here = self.word(from / 64) & !ones((from % 64) as u32);
        if here != 0 {
            return Some(from / 64 * 64 + here.trailing_zeros() as usize);
        }
        let next = from / 64 + 1;
        for (index, summary) in self.summary.iter().enumerate().skip(next / 64) {
            let mut candidates = summary.load(Ordering::Acquire);
            if index == next / 64 {
                candidates &= !ones((next % 64) as u32);
            }
            while candidates != 0 {
                let word = index * 64 + candidates.trailing_zeros() as usize;
                let members = self.word(word);
                if members != 0 {
                    return Some(word * 64 + members.trailing_zeros() as usize);
                }
                candidates &= candidates - 1;
            }
        }
        None
    }
}

/// How many adjacent numbers from `first` on are members of what `word` shows as [`Set::word`] does.
pub fn run_at(first: usize, word: impl Fn(usize) -> u64) -> usize {
    let mut end = first;
    loop {
        let within = end % 64;
        let members = (!(word(end / 64) >> within)).trailing_zeros() as usize;
        end += members.min(64 - within);
        if members < 64 - within {
            return end - first;
        }
    }
}

/// The numbers that word `index` of a set stands for, ascending.
pub fn members(index: usize, mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = (word != 0).then(|| word.trailing_zeros() as usize)?;
        word &= word - 1;
        Some(index * 64 + bit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::primitive::testing::{Arc, model, thread};

    #[cfg(not(loom))]
    #[test]
    fn behaves_as_an_ordered_set_does() {
        use crate::primitive::testing::Random;
        use std::collections::BTreeSet;
        for seed in 0..if cfg!(miri) { 2 } else { 30 } {
            let mut random = Random(seed);
            let bound = 1 + random.below(if cfg!(miri) { 300 } else { 9_000 });
            let full = random.below(2) == 0;
            let (set, mut oracle) = if full { (Set::full(bound), (0..bound).collect()) } else { (Set::empty(bound), BTreeSet::new()) };
            for _ in 0..300 {
                // Numbers near each other, so that there are runs; some above the bound.
                let number = (random.below(4) * bound / 4 + random.below(70)).min(bound + 2);
                match random.below(3) {
                    0 => {
                        set.insert(number);
                        if number < bound {
                            oracle.insert(number);
                        }
                    }
                    1 => {
                        set.remove_unless(number, || false);
                        oracle.remove(&number);
                    }
                    _ => set.remove_unless(number, || oracle.contains(&number)),
                }
                assert_eq!(set.contains(number), oracle.contains(&number), "seed {seed}");
                let from = random.below(bound + 2);
                let first = oracle.range(from..).next().copied();
                assert_eq!(set.first_from(from), first, "seed {seed}: from {from}");
                if let Some(first) = first {
                    let run = (first..).take_while(|number| oracle.contains(number)).count();
                    assert_eq!(run_at(first, |index| set.word(index)), run, "seed {seed}: run from {first}");
                }
            }
        }
    }

    /// Guards against a member that is lost between a thread that lets it leave and one that lets it enter again.
    #[test]
    fn no_number_that_belongs_is_missing() {
        model(|| {
            let shared = Arc::new((Set::full(2), [AtomicU64::new(1), AtomicU64::new(1)]));
            let flip = |(set, state): &(Set, [AtomicU64; 2]), number: usize| {
                if state[number].fetch_xor(1, Ordering::AcqRel) == 0 {
                    set.insert(number);
                } else {
                    set.remove_unless(number, || state[number].load(Ordering::Acquire) == 1);
                }
            };
            let other = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || flip(&shared, 0))
            };
            flip(&shared, 0);
            other.join().unwrap();
            assert_eq!(shared.0.first_from(0), Some(0), "two flips: it belongs again");
        });
    }

    /// Guards against a summary that calls a word empty into which another thread has just put a number.
    #[test]
    fn the_summary_never_hides_a_word() {
        model(|| {
            let set = Arc::new(Set::empty(66));
            set.insert(64);
            let other = {
                let set = Arc::clone(&set);
                thread::spawn(move || set.remove_unless(64, || false))
            };
            set.insert(65);
            other.join().unwrap();
            assert_eq!(set.first_from(0), Some(65));
        });
    }
}

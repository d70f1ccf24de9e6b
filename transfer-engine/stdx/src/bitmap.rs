//! Find and take a free bit without a lock.

use crate::primitive::{AtomicU64, Ordering};

/// Words that `bits` bits need.
pub const fn words(bits: usize) -> usize {
    bits.div_ceil(64)
}

/// The first `n` adjacent zeros of `taken` within its lowest `bits` bits.
pub fn zeros(taken: u64, bits: u32, n: u32) -> Option<u32> {
    if n == 0 || n > bits {
        return None;
    }
    // Bit i of `run` says that bits i..i+done are zero; doubling keeps it to six steps.
    let mut run = !taken & ones(bits);
    let mut done = 1;
    while done < n {
        let step = done.min(n - done);
        run &= run >> step;
        done += step;
    }
    (run != 0).then(|| run.trailing_zeros())
}

/// A word whose lowest `n` bits (at most 64) are set.
pub const fn ones(n: u32) -> u64 {
    if n >= 64 { u64::MAX } else { (1 << n) - 1 }
}

/// A view of words that belong to someone else: bit `i` set means that `i` is taken.
///
/// Any thread may take and release any bit at any time; each change is one RMW of one word. Whoever takes a bit owns what it stands for
/// until it releases it: the Release of a release pairs with the Acquire of the take that follows it.
#[derive(Clone, Copy, Debug)]
pub struct Bitmap<'a> {
    words: &'a [AtomicU64],
    bits: usize,
}

impl<'a> Bitmap<'a> {
    /// The first `bits` bits of `words`, fewer where the words end sooner. Bits above are neither read nor changed.
    pub fn over(words: &'a [AtomicU64], bits: usize) -> Self {
        let bits = bits.min(words.len() * 64);
        Self { words: &words[..self::words(bits)], bits }
    }

    /// How many bits there are.
    pub fn len(self) -> usize {
        self.bits
    }

    /// Whether there are no bits at all.
    pub fn is_empty(self) -> bool {
        self.bits == 0
    }

    /// Takes a free bit of the word in which `hint` lies or, where that has none, of the words after it, around. `None` when each word
    /// was seen full; bits that move meanwhile may be missed.
    pub fn take_any(self, hint: usize) -> Option<usize> {
        self.take_run(hint, 1)
    }

    /// Takes `n` adjacent free bits (at most 64) that lie in one word, searching as [`Self::take_any`] does; returns the first.
    pub fn take_run(self, hint: usize, n: u32) -> Option<usize> {
        let count = self.words.len();
        let start = if hint < self.bits { hint / 64 } else { 0 };
        (0..count).map(|step| (start + step) % count).find_map(|index| {
            let bits = (self.bits - index * 64).min(64) as u32;
            let mut seen = self.words[index].load(Ordering::Relaxed);
            loop {
                let at = zeros(seen, bits, n)?;
                // Acquire pairs with the Release in `release`. Release: the next to release or take sees what this taker saw.
                match self.words[index].compare_exchange_weak(seen, seen | (ones(n) << at), Ordering::AcqRel, Ordering::Relaxed) {
                    Ok(_) => return Some(index * 64 + at as usize),
                    Err(now) => seen = now,
                }
            }
        })
    }

    /// Takes bit `index`; `false` when it was taken or does not exist.
    pub fn take(self, index: usize) -> bool {
        // Acquire pairs with the Release in `release`.
        index < self.bits && self.words[index / 64].fetch_or(1 << (index % 64), Ordering::AcqRel) & (1 << (index % 64)) == 0
    }

    /// Releases bit `index`; `false` when it was free or does not exist, and nothing changes.
    pub fn release(self, index: usize) -> bool {
        // Release pairs with the Acquire of the next take of the bit.
        index < self.bits && self.words[index / 64].fetch_and(!(1 << (index % 64)), Ordering::AcqRel) & (1 << (index % 64)) != 0
    }

    /// Whether bit `index` is taken.
    pub fn is_taken(self, index: usize) -> bool {
        // Acquire pairs with the Release of the take or release it sees.
        index < self.bits && self.words[index / 64].load(Ordering::Acquire) & (1 << (index % 64)) != 0
    }

    /// Taken bits; exact when nothing moves meanwhile.
    pub fn count(self) -> usize {
        self.words
            .iter()
            .enumerate()
            .map(|(index, word)| (word.load(Ordering::Acquire) & ones((self.bits - index * 64).min(64) as u32)).count_ones() as usize)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::primitive::testing::{Arc, model, thread};

    fn fresh(bits: usize) -> Vec<AtomicU64> {
        (0..words(bits)).map(|_| AtomicU64::new(0)).collect()
    }

    #[cfg(not(loom))]
    #[test]
    fn zeros_are_found_where_a_plain_search_finds_them() {
        let mut random = crate::primitive::testing::Random(7);
        let rounds = if cfg!(miri) { 50 } else { 20_000 };
        for _ in 0..rounds {
            let sparse = random.below(usize::MAX) as u64 & random.below(usize::MAX) as u64;
            let (bits, n) = (random.below(65) as u32, random.below(66) as u32);
            let plain = (0..64).find(|at| n > 0 && at + n <= bits && sparse & (ones(n) << at) == 0);
            assert_eq!(zeros(sparse, bits, n), plain, "word {sparse:#x}, {bits} bits, run of {n}");
        }
    }

    #[cfg(not(loom))]
    #[test]
    fn behaves_as_a_set_of_numbers_does() {
        use crate::primitive::testing::Random;
        use std::collections::BTreeSet;
        for seed in 0..if cfg!(miri) { 3 } else { 100 } {
            let mut random = Random(seed);
            let bits = 1 + random.below(200);
            let words = fresh(bits);
            let (map, mut oracle) = (Bitmap::over(&words, bits), BTreeSet::new());
            for _ in 0..300 {
                let index = random.below(bits + 3);
                match random.below(4) {
                    0 => assert_eq!(map.take(index), index < bits && oracle.insert(index), "seed {seed}"),
                    1 => assert_eq!(map.release(index), oracle.remove(&index), "seed {seed}"),
                    2 => match map.take_any(index) {
                        Some(taken) => assert!(taken < bits && oracle.insert(taken), "seed {seed}: {taken} was taken"),
                        None => assert_eq!(oracle.len(), bits, "seed {seed}: a free bit was not found"),
                    },
                    _ => {
                        let n = 1 + random.below(9);
                        if let Some(first) = map.take_run(index, n as u32) {
                            assert!((first..first + n).all(|bit| bit < bits && oracle.insert(bit)), "seed {seed}: run of {n} at {first}");
                        }
                    }
                }
                assert_eq!(map.count(), oracle.len(), "seed {seed}");
            }
            assert!((0..bits).all(|bit| map.is_taken(bit) == oracle.contains(&bit)), "seed {seed}");
        }
    }

    #[cfg(not(loom))]
    #[test]
    fn bits_above_the_end_are_left_alone() {
        let words = fresh(64);
        let map = Bitmap::over(&words, 3);
        assert_eq!([map.take_any(9), map.take_any(1), map.take_any(0), map.take_any(0)], [Some(0), Some(1), Some(2), None]);
        assert!(!map.take(3) && !map.release(3) && !map.is_taken(3));
        assert_eq!(words[0].load(Ordering::Relaxed), 0b111);
        assert_eq!(Bitmap::over(&words, 1000).len(), 64);
        assert_eq!(Bitmap::over(&[], 10).take_any(0), None);
    }

    /// Guards against a bit that two threads own at once, and against what one did with it being unseen by the next.
    #[test]
    fn a_bit_has_one_owner() {
        model(|| {
            let shared = Arc::new((fresh(1), AtomicU64::new(0)));
            let turn = |(words, owned): &(Vec<AtomicU64>, AtomicU64)| {
                let map = Bitmap::over(words, 1);
                if let Some(bit) = map.take_any(0) {
                    // Relaxed: only the bit orders these two.
                    assert_eq!(owned.load(Ordering::Relaxed), 0);
                    owned.store(1, Ordering::Relaxed);
                    owned.store(0, Ordering::Relaxed);
                    assert!(map.release(bit));
                }
            };
            let other = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || turn(&shared))
            };
            turn(&shared);
            other.join().unwrap();
            assert_eq!(Bitmap::over(&shared.0, 1).count(), 0);
        });
    }

    /// Guards against two takers of the last two bits that get the same one, or of which one finds none.
    #[test]
    fn two_takers_get_two_bits() {
        model(|| {
            let words = Arc::new(fresh(2));
            let other = {
                let words = Arc::clone(&words);
                thread::spawn(move || Bitmap::over(&words, 2).take_any(0))
            };
            let here = Bitmap::over(&words, 2).take_any(0);
            let there = other.join().unwrap();
            assert!(here.is_some() && there.is_some() && here != there, "{here:?} {there:?}");
        });
    }
}

//! Large batches, cut so that no question or answer outgrows a frame.

use perilune_protocol::ObjectKey;
use std::ops::Range;

/// Keys of one question, in bytes. A frame holds four times as much.
const QUESTION_BYTES: u64 = 16 << 20;
/// Answers that name extents take up to 16 of them per copy; so many still fit a frame.
pub(crate) const PLACES_PER_QUESTION: usize = 8192;

/// How much may go into one piece of a batch.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// Items.
    pub(crate) items: usize,
    /// The sum of the weights; one item may be heavier alone.
    pub(crate) weight: u64,
}

impl Limits {
    /// For questions whose answer is a word per key.
    pub(crate) const WORDS: Self = Self { items: 1 << 20, weight: QUESTION_BYTES };
    /// For questions whose answer is a place per key.
    pub(crate) const PLACES: Self = Self { items: PLACES_PER_QUESTION, weight: QUESTION_BYTES };
}

/// Cuts `0..weights.len()` into consecutive pieces within `limits`.
pub(crate) fn pieces(weights: impl Iterator<Item = u64>, limits: Limits) -> Vec<Range<usize>> {
    let (mut pieces, mut start, mut sum, mut end) = (Vec::new(), 0, 0u64, 0);
    for weight in weights {
        let fits = end - start < limits.items && sum.saturating_add(weight) <= limits.weight;
        if !fits && end > start {
            pieces.push(start..end);
            (start, sum) = (end, 0);
        }
        sum = sum.saturating_add(weight);
        end += 1;
    }
    if end > start {
        pieces.push(start..end);
    }
    pieces
}

/// What a key weighs in a question.
pub(crate) fn weight(key: &ObjectKey) -> u64 {
    key.as_bytes().len() as u64 + 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_everything_once_within_the_limits() {
        let limits = Limits { items: 3, weight: 10 };
        assert!(pieces([].into_iter(), limits).is_empty());
        assert_eq!(pieces([1, 1, 1, 1].into_iter(), limits), [0..3, 3..4]);
        assert_eq!(pieces([5, 5, 1].into_iter(), limits), [0..2, 2..3]);
        assert_eq!(pieces([99, 1, u64::MAX, u64::MAX].into_iter(), limits), [0..1, 1..2, 2..3, 3..4]);
    }
}

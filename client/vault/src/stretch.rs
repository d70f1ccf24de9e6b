//! Bytes of an object as they came, in parts that nobody has joined: what is cut out of them is not copied.

use crate::place::Payload;
use bytes::Bytes;
use std::ops::Range;

/// The bytes of an object from `at` on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stretch {
    pub(crate) at: u64,
    pub(crate) parts: Payload,
}

impl Stretch {
    /// Those in `range`, if all of them are here.
    pub(crate) fn cut(&self, range: &Range<u64>) -> Option<Payload> {
        let (mut found, mut at) = (Payload::new(), self.at);
        for part in &self.parts {
            let end = at + part.len() as u64;
            let (from, to) = (range.start.max(at), range.end.min(end));
            if from < to {
                found.push(part.slice((from - at) as usize..(to - at) as usize));
            }
            at = end;
        }
        (self.at <= range.start && range.end <= at).then_some(found)
    }

    /// The first bytes, at most so many.
    pub(crate) fn first(&self, most: usize) -> Vec<u8> {
        self.parts.iter().flatten().take(most).copied().collect()
    }

    /// All of them in one; a copy where there is more than one part.
    pub(crate) fn joined(mut self) -> Bytes {
        if self.parts.len() > 1 { self.parts.concat().into() } else { self.parts.pop().unwrap_or_default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_is_what_is_there_wherever_parts_meet() {
        let all: Vec<u8> = (0..20).collect();
        let parts = [&all[..0], &all[..7], &all[7..8], &all[8..]].map(Bytes::copy_from_slice).to_vec();
        let stretch = Stretch { at: 100, parts };
        for from in 0..20 {
            for to in from..=20 {
                let cut = stretch.cut(&(100 + from as u64..100 + to as u64));
                assert_eq!(cut.map(|parts| parts.concat()), Some(all[from..to].to_vec()), "{from}..{to}");
            }
        }
        assert_eq!((stretch.cut(&(99..101)), stretch.cut(&(119..121))), (None, None));
        assert_eq!((stretch.first(8), stretch.first(99).len()), (all[..8].to_vec(), 20));
        assert_eq!(stretch.joined(), all);
    }
}

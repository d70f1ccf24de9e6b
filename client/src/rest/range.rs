//! `Range: bytes=…`: one range of bytes (RFC 9110, section 14). Several, and what is no range, get the whole, as the RFC lets servers do.

use std::ops::Range;

/// What is asked for of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// From a byte to another, both included, or to the end.
    From(u64, Option<u64>),
    /// The last bytes.
    Last(u64),
}

impl Asked {
    /// What a header says.
    pub(super) fn read(header: &str) -> Option<Self> {
        let (unit, range) = header.split_once('=')?;
        let (first, last) = range.trim().split_once('-')?;
        let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        let asked = match (first, last) {
            ("", last) => Self::Last(number(last)?),
            (first, "") => Self::From(number(first)?, None),
            (first, last) => Self::From(number(first)?, Some(number(last)?)),
        };
        let makes_sense = !matches!(asked, Self::From(first, Some(last)) if last < first);
        (unit.trim().eq_ignore_ascii_case("bytes") && makes_sense).then_some(asked)
    }

    /// Those bytes of a value of `size`. Empty where there are none.
    pub(super) fn of(self, size: u64) -> Range<u64> {
        match self {
            Self::From(first, last) => first..last.map_or(size, |last| size.min(last.saturating_add(1))).max(first),
            Self::Last(count) => size.saturating_sub(count)..size,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_cut_to_the_value() {
        let of = |header: &str| Asked::read(header).map(|asked| asked.of(100));
        assert_eq!(of("bytes=0-9"), Some(0..10));
        assert_eq!(of("Bytes = 90-"), Some(90..100));
        assert_eq!(of("bytes=90-1000"), Some(90..100));
        assert_eq!(of("bytes=-10"), Some(90..100));
        assert_eq!(of("bytes=-1000"), Some(0..100));
        assert_eq!(of("bytes=0-18446744073709551615"), Some(0..100));
        for none in ["bytes=100-", "bytes=100-200", "bytes=-0"] {
            assert!(of(none).unwrap().is_empty(), "{none}");
        }
        for no in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=9-0",
            "bytes=0-1,3-4",
            "lines=0-1",
            "bytes=a-b",
            "bytes=+1-2",
            "bytes=99999999999999999999-",
        ] {
            assert_eq!(Asked::read(no), None, "{no}");
        }
    }
}

//! Lengths and places in memory.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A stretch of a segment: `offset` bytes from its start, `len` bytes long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Extent {
    /// Bytes from the start of the segment.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

impl Extent {
    /// The first byte after the extent, or `None` where that does not fit in 64 bits.
    pub fn end(self) -> Option<u64> {
        self.offset.checked_add(self.len)
    }

    /// Whether the extent lies wholly in a segment of `size` bytes. An empty extent lies nowhere.
    pub fn fits(self, size: u64) -> bool {
        self.len > 0 && self.end().is_some_and(|end| end <= size)
    }
}

/// A number of bytes that people write as `64KiB`, `4GiB`, `1.5MB` or `4096`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ByteSize(pub u64);

const UNITS: [(&str, u64); 10] = [
    ("tib", 1 << 40),
    ("gib", 1 << 30),
    ("mib", 1 << 20),
    ("kib", 1 << 10),
    ("tb", 1_000_000_000_000),
    ("gb", 1_000_000_000),
    ("mb", 1_000_000),
    ("kb", 1_000),
    ("b", 1),
    ("", 1),
];

impl FromStr for ByteSize {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.trim().to_ascii_lowercase();
        let digits_end = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
        let (number, unit) = lower.split_at(digits_end);
        let wrong = || format!("`{text}` is not a size: write bytes or a number with a unit, such as 4096, 64KiB, 4GiB, 1.5MB");
        let scale = UNITS.iter().find(|(name, _)| *name == unit.trim()).map(|(_, scale)| *scale).ok_or_else(wrong)?;
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(scale).map(Self).ok_or_else(|| format!("`{text}` is more than 64 bits can count"));
        }
        let value: f64 = number.parse().map_err(|_| wrong())?;
        let bytes = value * scale as f64;
        if bytes < 0.0 || bytes > u64::MAX as f64 { Err(wrong()) } else { Ok(Self(bytes as u64)) }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, scale) = [("TiB", 1u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)]
            .into_iter()
            .find(|(_, scale)| self.0 >= *scale)
            .unwrap_or(("B", 1));
        if self.0.is_multiple_of(scale) {
            write!(f, "{} {name}", self.0 / scale)
        } else {
            write!(f, "{:.2} {name}", self.0 as f64 / scale as f64)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_people_write_them() {
        for (text, bytes) in [("0", 0), ("4096", 4096), ("64KiB", 65536), ("4 GiB", 4 << 30), ("1.5MB", 1_500_000), ("2tib", 2 << 40)] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "x", "-1", "1.2.3", "12 parsecs", "99999999999999999999", "20000000TiB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
        assert_eq!(ByteSize(17_179_869_184).to_string(), "16 GiB");
        assert_eq!(ByteSize(1536).to_string(), "1.50 KiB");
    }

    #[test]
    fn an_extent_that_overflows_fits_nowhere() {
        assert!(!Extent { offset: u64::MAX, len: 2 }.fits(u64::MAX));
        assert!(!Extent { offset: 0, len: 0 }.fits(10));
        assert!(Extent { offset: 4, len: 6 }.fits(10));
        assert!(!Extent { offset: 5, len: 6 }.fits(10));
    }
}

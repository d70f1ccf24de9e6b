//! Durations as Go writes them: numbers are nanoseconds, texts are `1h30m`, `1.5s`, `300ms`.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::fmt;
use std::time::Duration;

/// Nanoseconds; negative ones can be written, and mean what the caller makes of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Nanos(pub(crate) i64);

/// The units, longest name first where one begins like another.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

impl Nanos {
    pub(crate) const fn seconds(seconds: i64) -> Self {
        Self(seconds * 1_000_000_000)
    }

    /// Nothing, where it is negative.
    pub(crate) fn duration(self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0).unwrap_or(0))
    }

    /// Reads Go's notation. Total.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (negative, mut rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        if rest == "0" {
            return Some(Self(0));
        }
        if rest.is_empty() {
            return None;
        }
        let mut total = 0_u64;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
            let (number, tail) = rest.split_at(digits);
            let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
            if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
                return None;
            }
            let unit_len = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit_len);
            let (_, unit) = UNITS.iter().find(|(name, _)| *name == unit)?;
            let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()? };
            total = total.checked_add(whole.checked_mul(*unit)?)?;
            let mut scale = *unit;
            for digit in fraction.bytes() {
                scale /= 10;
                total = total.checked_add(u64::from(digit - b'0') * scale)?;
            }
            rest = tail;
        }
        let total = i64::try_from(total).ok()?;
        Some(Self(if negative { -total } else { total }))
    }
}

impl fmt::Display for Nanos {
    /// As Go prints it: `1h30m0s`, `1.5s`, `300ms`, `0s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 0 {
            f.write_str("-")?;
        }
        let nanos = self.0.unsigned_abs();
        let fraction = |number: u64, unit: u64| {
            let text = format!("{}.{:0width$}", number / unit, number % unit, width = unit.ilog10() as usize);
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        };
        match nanos {
            0 => f.write_str("0s"),
            1..1_000 => write!(f, "{nanos}ns"),
            1_000..1_000_000 => write!(f, "{}µs", fraction(nanos, 1_000)),
            1_000_000..1_000_000_000 => write!(f, "{}ms", fraction(nanos, 1_000_000)),
            _ => {
                let (hours, minutes) = (nanos / 3_600_000_000_000, nanos / 60_000_000_000 % 60);
                if hours > 0 {
                    write!(f, "{hours}h")?;
                }
                if hours > 0 || minutes > 0 {
                    write!(f, "{minutes}m")?;
                }
                write!(f, "{}s", fraction(nanos % 60_000_000_000, 1_000_000_000))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Nanos {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match Value::deserialize(from)? {
            Value::Number(number) => {
                number.as_i64().map(Self).ok_or_else(|| D::Error::custom("a duration is a whole number of nanoseconds"))
            }
            Value::String(text) => Self::parse(&text).ok_or_else(|| D::Error::custom(format!("time: invalid duration {text:.64?}"))),
            _ => Err(D::Error::custom("a duration is a number of nanoseconds, or a text such as 10m")),
        }
    }
}

impl utoipa::PartialSchema for Nanos {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        serde_json::Value::schema()
    }
}

impl utoipa::ToSchema for Nanos {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_as_go_does() {
        for (text, nanos, back) in [
            ("0", 0, "0s"),
            ("10s", 10_000_000_000, "10s"),
            ("1h30m", 5_400_000_000_000, "1h30m0s"),
            ("1.5h", 5_400_000_000_000, "1h30m0s"),
            ("300ms", 300_000_000, "300ms"),
            ("1.5s", 1_500_000_000, "1.5s"),
            ("2us", 2_000, "2µs"),
            ("7ns", 7, "7ns"),
            ("-10m", -600_000_000_000, "-10m0s"),
            (".5s", 500_000_000, "500ms"),
        ] {
            assert_eq!(Nanos::parse(text), Some(Nanos(nanos)), "{text}");
            assert_eq!(Nanos(nanos).to_string(), back);
        }
        for wrong in ["", "10", "s", "1x", "1..5s", "1 s", "-", "99999999999h", "1s-"] {
            assert_eq!(Nanos::parse(wrong), None, "{wrong}");
        }
    }
}

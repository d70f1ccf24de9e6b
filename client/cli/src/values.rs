//! Values as people write them on a command line: durations such as `500ms` and `10s`, masters of a group. Sizes are
//! [`perilune_protocol::ByteSize`].

use perilune_master::log::{Member, is_address};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A duration: a number with `us`, `ms`, `s`, `m` or `h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

const UNITS: [(&str, f64); 5] = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];

impl FromStr for Span {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a duration: write a number with a unit, such as 500ms, 10s, 2m");
        let trimmed = text.trim();
        let unit_at = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, unit) = trimmed.split_at(unit_at);
        let (_, seconds) = UNITS.into_iter().find(|(name, _)| *name == unit.trim()).ok_or_else(wrong)?;
        let number: f64 = number.parse().map_err(|_| wrong())?;
        Duration::try_from_secs_f64(number * seconds).map(Self).map_err(|_| wrong())
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        match micros {
            n if n % 3_600_000_000 == 0 && n > 0 => write!(f, "{}h", n / 3_600_000_000),
            n if n % 60_000_000 == 0 && n > 0 => write!(f, "{}m", n / 60_000_000),
            n if n % 1_000_000 == 0 => write!(f, "{}s", n / 1_000_000),
            n if n % 1_000 == 0 => write!(f, "{}ms", n / 1_000),
            n => write!(f, "{n}us"),
        }
    }
}

/// A master of a group: `N=HOST:PORT/RPC-HOST:PORT`, and where its HTTP is if another slash follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer(pub(crate) Member);

impl FromStr for Peer {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is not a master: write its number, where the other masters call it, and where clients call it, such as 1=10.0.0.1:7000/10.0.0.1:50051"
            )
        };
        let (id, at) = text.trim().split_once('=').ok_or_else(wrong)?;
        let id = id.parse().ok().filter(|id| *id > 0).ok_or_else(wrong)?;
        let (address, service, http) = match at.split('/').collect::<Vec<_>>()[..] {
            [address, service] => (address, service, ""),
            [address, service, http] if is_address(http) => (address, service, http),
            _ => return Err(wrong()),
        };
        if !is_address(address) || !is_address(service) {
            return Err(wrong());
        }
        Ok(Self(Member { id, address: address.into(), service: service.into(), http: http.into(), rises: false }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masters_of_a_group_are_read_or_refused_with_an_example() {
        let Peer(member) = "2=10.0.0.2:7000/master-2:50051".parse().unwrap();
        assert_eq!((member.id, &*member.address, &*member.service, &*member.http), (2, "10.0.0.2:7000", "master-2:50051", ""));
        assert_eq!("2=a:1/b:2/c:3".parse::<Peer>().unwrap().0.http, "c:3");
        for text in [
            "",
            "1",
            "1=a:1",
            "a:1/b:2",
            "0=a:1/b:2",
            "x=a:1/b:2",
            "1=a/b:2",
            "1=a:1/b",
            "1=:1/b:2",
            "1=a:0/b:2",
            "1=a:1/b:99999",
            "1=a:1/b:2/c",
            "1=a:1/b:2/c:3/d:4",
        ] {
            assert!(text.parse::<Peer>().unwrap_err().contains("such as 1=10.0.0.1:7000"), "{text}");
        }
    }

    #[test]
    fn durations_read_as_people_write_them_and_print_so_that_they_read_again() {
        for (text, micros) in
            [("500ms", 500_000), ("10s", 10_000_000), ("2m", 120_000_000), ("1.5 s", 1_500_000), ("250us", 250), ("1h", 3_600_000_000)]
        {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.0.as_micros(), micros, "{text}");
            assert_eq!(span.to_string().parse(), Ok(span), "{text}");
        }
        for text in ["", "10", "s", "-1s", "1.2.3s", "5 parsecs", "1e400h", "99999999999999999999h"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }
}

//! What a tenant may be called, and what it may have.

use crate::{ByteSize, FaultCode, Outcome};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The tenant that always exists.
pub const DEFAULT: &str = "default";
/// The longest name of a tenant, in bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// Whether a tenant can be called so: visible ASCII, and nothing that a path, a key of a bucket or a `cloud_unique_id` would take apart.
///
/// # Errors
/// [`FaultCode::InvalidParams`]; what is wrong, without repeating a long name.
pub fn check_name(name: &str) -> Outcome<()> {
    let wrong = |why: String| Err(FaultCode::InvalidParams.with(why));
    if !(1..=NAME_BYTES_MAX).contains(&name.len()) {
        return wrong(format!("the name of a tenant has 1 to {NAME_BYTES_MAX} bytes, not {}", name.len()));
    }
    match name.chars().find(|c| !c.is_ascii_alphanumeric() && !"-_.@".contains(*c)) {
        Some(other) => wrong(format!("{other:?} cannot be in the name of a tenant: use letters, digits and - _ . @")),
        None if name.starts_with('.') => wrong("the name of a tenant cannot begin with a dot".into()),
        None => Ok(()),
    }
}

/// How much a tenant may have in memory, copies counted each. `None`: as much as its segments hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// Bytes of values.
    pub bytes: Option<u64>,
    /// Objects, puts in progress among them.
    pub objects: Option<u64>,
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.bytes, self.objects) {
            (Some(bytes), Some(objects)) => write!(f, "{} in {objects} objects", ByteSize(bytes)),
            (Some(bytes), None) => write!(f, "{}", ByteSize(bytes)),
            (None, Some(objects)) => write!(f, "{objects} objects"),
            (None, None) => f.write_str("no limit"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        for good in ["a", "sample_instance_id", "Team-7.prod@eu", &"x".repeat(NAME_BYTES_MAX)] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        let long = "x".repeat(10_000);
        for bad in ["", ".", "..", "a/b", "a\\b", "a b", "a\nb", "a:b", "\u{0}", "ä", "%2e", &long] {
            let fault = check_name(bad).unwrap_err();
            assert!(fault.code == FaultCode::InvalidParams && fault.message.len() < 200, "{bad:?}");
        }
    }
}

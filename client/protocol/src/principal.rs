//! Who may speak for one tenant only: callers with a token that is made from the admin's, so that nothing of it is stored.
//!
//! `1:TENANT:USER:ROLE:GENERATION:MAC`. The first part is the version. The MAC is made with the admin's token, of all that stands before it.

use crate::access::Token;
use crate::{Outcome, tenant};
use std::fmt;
use std::str::FromStr;

/// The version of tokens, which stands first.
const VERSION: &str = "1";
/// What the MAC is of, so that it is a proof of nothing else.
const PURPOSE: &str = "perilune tenant token 1";

/// What a caller may do with what its tenant has: what the master does for it. Where bytes are is told to readers too, with the capability of the
/// segment, and a node asks for no more than that; so readers are to be trusted with the bytes of their tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Looks and reads.
    Reader,
    /// Puts and removes as well.
    Writer,
    /// Lends memory as well, and does the work that there is with it.
    Node,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reader => "reader",
            Self::Writer => "writer",
            Self::Node => "node",
        })
    }
}

impl FromStr for Role {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Reader, Self::Writer, Self::Node];
        all.into_iter()
            .find(|role| role.to_string() == text)
            .ok_or_else(|| format!("unknown role `{text}`: there are reader, writer and node"))
    }
}

/// Whom a token is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Whose keys and memory, by name.
    pub tenant: String,
    /// On whose behalf; empty: nobody's in particular.
    pub user: String,
    /// What it may do.
    pub role: Role,
    /// Which of the tokens it is that were given one after the other: a tenant can have those of earlier generations refused.
    pub generation: u32,
}

impl Principal {
    /// Whether there can be a token of it.
    ///
    /// # Errors
    /// [`crate::FaultCode::InvalidParams`]: what is wrong with its tenant or user.
    pub fn check(&self) -> Outcome<()> {
        tenant::check_name(&self.tenant)?;
        if self.user.is_empty() { Ok(()) } else { tenant::check_name(&self.user) }
    }

    /// The token, for those who know the admin's.
    ///
    /// # Errors
    /// As [`Principal::check`].
    pub fn token(&self, admin: &Token) -> Outcome<String> {
        self.check()?;
        let said = self.said();
        let mac: String = admin.prove(PURPOSE, &[said.as_bytes()]).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(format!("{said}:{mac}"))
    }

    /// Who presents this token, if it was made with the admin's.
    pub fn of(presented: &str, admin: &Token) -> Option<Self> {
        let (said, mac) = presented.rsplit_once(':')?;
        // As it was said, not as it was read: a number may be written in several ways.
        Self::read(said).filter(|_| bytes(mac).is_some_and(|mac| admin.is_proven(&mac, PURPOSE, &[said.as_bytes()])))
    }

    /// Who a token says that it is of, for those who do not know the admin's: it may be made up.
    pub fn claimed(presented: &str) -> Option<Self> {
        let (said, mac) = presented.rsplit_once(':')?;
        bytes(mac).and_then(|_| Self::read(said))
    }

    fn read(said: &str) -> Option<Self> {
        let [VERSION, tenant, user, role, generation] = said.split(':').collect::<Vec<_>>()[..] else { return None };
        let read = Self { tenant: tenant.into(), user: user.into(), role: role.parse().ok()?, generation: generation.parse().ok()? };
        read.check().is_ok().then_some(read)
    }

    fn said(&self) -> String {
        let Self { tenant, user, role, generation } = self;
        format!("{VERSION}:{tenant}:{user}:{role}:{generation}")
    }
}

fn bytes(mac: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if mac.len() != 64 || !mac.is_ascii() {
        return None;
    }
    for (nth, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(mac.get(2 * nth..2 * nth + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_whom_it_is_of_to_those_who_know_the_admins() {
        let (admin, other) = (Token::new("0123456789abcdef").unwrap(), Token::new("0123456789abcdeF").unwrap());
        let jack = Principal { tenant: "acme".into(), user: "jack".into(), role: Role::Writer, generation: 7 };
        let token = jack.token(&admin).unwrap();
        // Given once, for good.
        assert_eq!(token, "1:acme:jack:writer:7:e54e2e6b338ded914e7b96348727c78887688c46c6329a3bfea4a999a980e801");
        assert!(Token::new(&token).is_ok(), "it is presented as any other");
        assert_eq!((Principal::of(&token, &admin), Principal::of(&token, &other)), (Some(jack.clone()), None));
        assert_eq!(Principal::claimed(&token), Some(jack.clone()));
        for changed in [("acme", "axme"), ("jack", "jill"), ("writer", "node"), (":7:", ":8:"), (":7:", ":07:"), ("1:a", "2:a")] {
            assert_eq!(Principal::of(&token.replacen(changed.0, changed.1, 1), &admin), None, "{changed:?}");
        }
        for cut in 0..token.len() {
            assert_eq!((Principal::of(&token[..cut], &admin), Principal::claimed(&token[..cut])), (None, None));
        }
        let nobody = Principal { user: String::new(), ..jack.clone() };
        assert_eq!(Principal::of(&nobody.token(&admin).unwrap(), &admin), Some(nobody));
        for bad in ["a:b", "a b", "", "ä"] {
            assert!(Principal { tenant: bad.into(), ..jack.clone() }.token(&admin).is_err(), "{bad}");
        }
        assert!(Principal { user: "a:b".into(), ..jack }.token(&admin).is_err());
    }
}

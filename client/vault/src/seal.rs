//! Secrets at rest: sealed with the masters' key, bound to the tenant, vault and field they belong to.

use crate::fault::{Class, Vaulted};
use crate::key::Key;
use aes_gcm::aead::{Aead, AeadCore, OsRng, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use perilune_protocol::TenantId;
use perilune_protocol::sealed::Sealed;
use std::fmt;
use zeroize::Zeroizing;

/// Where a secret belongs; sealed for one place, it opens in no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound<'a> {
    /// Whose it is.
    pub tenant: TenantId,
    /// The number of the vault; 0 where it belongs to none.
    pub vault: u64,
    /// The field, such as `sk`.
    pub field: &'a str,
}

impl Bound<'_> {
    fn bytes(self) -> Vec<u8> {
        [b"perilune secret v1", &self.tenant.0.to_le_bytes()[..], &self.vault.to_le_bytes(), self.field.as_bytes()].concat()
    }
}

/// A secret in the clear. Never printed; wiped when dropped.
pub struct Plain(Zeroizing<Vec<u8>>);

impl Plain {
    /// The secret itself.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The secret itself, where it is text.
    ///
    /// # Errors
    /// [`Class::Invalid`].
    pub fn text(&self) -> Vaulted<&str> {
        std::str::from_utf8(&self.0).map_err(|_| Class::Invalid.with("a secret that should be text is not"))
    }
}

impl fmt::Debug for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Plain(masked)")
    }
}

/// Seals with the newest key, and opens with it or with the one before, so that a new key can take over.
#[derive(Clone, Debug)]
pub struct Sealer {
    newest: Key,
    older: Option<Key>,
}

impl Sealer {
    /// With these keys.
    pub fn new(newest: Key, older: Option<Key>) -> Self {
        Self { newest, older }
    }

    /// The number of the key that it seals with.
    pub fn number(&self) -> u32 {
        self.newest.number()
    }

    /// Seals a secret for one place.
    ///
    /// # Errors
    /// [`Class::Invalid`] for a secret of more than 64 GiB.
    pub fn seal(&self, bound: Bound<'_>, secret: &[u8]) -> Vaulted<Sealed> {
        let nonce = Aes256Gcm::generate_nonce(OsRng);
        let sealed = self.newest.aead().encrypt(&nonce, Payload { msg: secret, aad: &bound.bytes() });
        let bytes = sealed.map_err(|_| Class::Invalid.with("the secret is too long to be sealed"))?;
        Ok(Sealed { key: self.newest.number(), nonce: nonce.into(), bytes })
    }

    /// Opens what was sealed for this place.
    ///
    /// # Errors
    /// [`Class::Invalid`] when none of the keys is the one; [`Class::Damaged`] when it was altered or sealed for another place.
    pub fn open(&self, bound: Bound<'_>, sealed: &Sealed) -> Vaulted<Plain> {
        let Bound { tenant: TenantId(tenant), vault, field } = bound;
        let what = || format!("the sealed {field} of vault {vault} of tenant {tenant}");
        let key = [Some(&self.newest), self.older.as_ref()].into_iter().flatten().find(|key| key.number() == sealed.key);
        let key = key.ok_or_else(|| {
            Class::Invalid.with(format!(
                "{} needs key {:08x}, which is not here: start with the secret key file it was sealed with",
                what(),
                sealed.key
            ))
        })?;
        let opened = key.aead().decrypt(&Nonce::from(sealed.nonce), Payload { msg: &sealed.bytes, aad: &bound.bytes() });
        opened
            .map(|plain| Plain(Zeroizing::new(plain)))
            .map_err(|_| Class::Damaged.with(format!("{} was altered, or belongs elsewhere", what())))
    }

    /// Whether a secret should be sealed again, with the newest key.
    pub fn is_old(&self, sealed: &Sealed) -> bool {
        sealed.key != self.newest.number()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Bound<'static> = Bound { tenant: TenantId(7), vault: 3, field: "sk" };

    #[test]
    fn a_secret_opens_where_it_belongs_and_nowhere_else() {
        let sealer = Sealer::new(Key::new([1; 32]), None);
        let sealed = sealer.seal(AT, b"wJalrXUtnFEMI").unwrap();
        assert!(!sealed.bytes.windows(5).any(|w| w == b"wJalr"));
        assert_eq!(sealer.open(AT, &sealed).unwrap().text(), Ok("wJalrXUtnFEMI"));
        for other in [Bound { tenant: TenantId(8), ..AT }, Bound { vault: 4, ..AT }, Bound { field: "ak", ..AT }] {
            assert_eq!(sealer.open(other, &sealed).unwrap_err().class, Class::Damaged);
        }
        for at in 0..sealed.bytes.len() {
            let mut altered = sealed.clone();
            altered.bytes[at] ^= 1;
            assert_eq!(sealer.open(AT, &altered).unwrap_err().class, Class::Damaged);
        }
        assert_ne!(sealer.seal(AT, b"x").unwrap().nonce, sealer.seal(AT, b"x").unwrap().nonce);
        assert_eq!(
            format!("{:?} {sealer:?}", sealer.open(AT, &sealed).unwrap()),
            "Plain(masked) Sealer { newest: Key(masked), older: None }"
        );
    }

    #[test]
    fn a_new_key_takes_over_while_the_old_one_still_opens() {
        let (old, new) = (Key::new([1; 32]), Key::new([2; 32]));
        let before = Sealer::new(old.clone(), None).seal(AT, b"secret").unwrap();
        let both = Sealer::new(new.clone(), Some(old));
        assert_eq!(both.open(AT, &before).unwrap().bytes(), b"secret");
        let after = both.seal(AT, b"secret").unwrap();
        assert!(both.is_old(&before) && !both.is_old(&after));
        let alone = Sealer::new(new, None);
        assert_eq!(alone.open(AT, &after).unwrap().bytes(), b"secret");
        let missing = alone.open(AT, &before).unwrap_err();
        assert!(missing.class == Class::Invalid && missing.message.contains("secret key file"), "{missing}");
    }
}

//! Opens the vault that a master describes, with the secrets it passes on.

use crate::fault::{Class, Vaulted};
use crate::gate::Limits;
use crate::key::Key;
use crate::seal::{Bound, Sealer};
use crate::target::{Keys, Target};
use crate::vault::{Options, Vault};
use perilune_protocol::access::Token;
use perilune_protocol::rpc::vault::{Passed, VaultAccess};
use perilune_protocol::vault::VaultTarget;
use perilune_protocol::{TenantId, VaultId};
use std::path::Path;
use zeroize::Zeroizing;

/// What the key is for that is made from a token.
const PURPOSE: &str = "perilune vault secrets 1";

/// What a vault is opened with. Never printed.
#[derive(Clone, Debug)]
pub struct Secrets {
    /// What requests are signed with; directories need none.
    pub keys: Option<Keys>,
    /// The tenant's key.
    pub key: Key,
}

impl Secrets {
    /// Packs them for one who presented `token`, or who was asked for none.
    ///
    /// # Errors
    /// [`Class::Invalid`] for a pair of more than 64 KiB.
    pub fn pass(&self, (tenant, vault, revision): (TenantId, VaultId, u64), token: Option<&Token>) -> Vaulted<Passed> {
        let mut plain = Zeroizing::new(self.key.bytes().to_vec());
        for text in self.keys.iter().flat_map(|keys| [&keys.ak, &*keys.sk]) {
            let len = u16::try_from(text.len()).map_err(|_| Class::Invalid.with("an access key or secret key has up to 65535 bytes"))?;
            plain.extend_from_slice(&len.to_le_bytes());
            plain.extend_from_slice(text.as_bytes());
        }
        let Some(token) = token else { return Ok(Passed::Plain(plain.to_vec())) };
        let field = field(revision);
        sealer(token).seal(Bound { tenant, vault: vault.0, field: &field }, &plain).map(Passed::Sealed)
    }

    fn take(access: &VaultAccess, token: Option<&Token>) -> Vaulted<Self> {
        let opened;
        let plain = match (&access.secrets, token) {
            (Passed::Plain(plain), _) => plain.as_slice(),
            (Passed::Sealed(sealed), Some(token)) => {
                let field = field(access.revision);
                opened = sealer(token).open(Bound { tenant: access.tenant, vault: access.vault.0, field: &field }, sealed)?;
                opened.bytes()
            }
            (Passed::Sealed(_), None) => {
                return Err(Class::Invalid.with("the master sealed the secrets under a token, and there is none here"));
            }
        };
        let cut = || Class::Damaged.with("the secrets that the master passed on are cut short");
        let (key, mut rest) = plain.split_first_chunk::<32>().ok_or_else(cut)?;
        let mut texts = Vec::new();
        while !rest.is_empty() {
            let (len, behind) = rest.split_first_chunk::<2>().ok_or_else(cut)?;
            let (text, behind) = behind.split_at_checked(usize::from(u16::from_le_bytes(*len))).ok_or_else(cut)?;
            texts.push(std::str::from_utf8(text).map_err(|_| cut())?);
            rest = behind;
        }
        let keys = match texts[..] {
            [] => None,
            [ak, sk] => Some(Keys::new(ak, sk)),
            _ => return Err(cut()),
        };
        Ok(Self { keys, key: Key::new(*key) })
    }
}

fn sealer(token: &Token) -> Sealer {
    Sealer::new(Key::new(token.prove(PURPOSE, &[])), None)
}

fn field(revision: u64) -> String {
    format!("passed {revision}")
}

impl Vault {
    /// Opens the vault that a master described to one who presented `token`. Directories are opened below `root` only.
    ///
    /// # Errors
    /// As [`Vault::of`]; [`Class::Damaged`] when the secrets were altered on their way.
    pub fn of_access(access: &VaultAccess, token: Option<&Token>, root: Option<&Path>, limits: Limits) -> Vaulted<Self> {
        Self::of(&access.target, Secrets::take(access, token)?, access.sse, root, limits)
    }

    /// Opens the vault at a target as it is recorded. Directories are opened below `root` only.
    ///
    /// # Errors
    /// [`Class::Invalid`] where this release or this process cannot use it; as [`Target::existing`] and [`Vault::open`].
    pub fn of(target: &VaultTarget, secrets: Secrets, sse: bool, root: Option<&Path>, limits: Limits) -> Vaulted<Self> {
        let Secrets { keys, key } = secrets;
        Self::open(&Target::existing(target, root)?, &Options { keys, sse, key: Some(key), limits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use perilune_protocol::vault::HdfsPlace;

    const AT: (TenantId, VaultId, u64) = (TenantId(7), VaultId(3), 5);

    fn access(secrets: Passed) -> VaultAccess {
        let confs = Vec::new();
        let (prefix, user, keytab, principal) = ("p".into(), String::new(), String::new(), String::new());
        let target = VaultTarget::Hdfs(HdfsPlace { fs_name: "hdfs://h:1".into(), prefix, user, keytab, principal, confs });
        VaultAccess { vault: AT.1, tenant: AT.0, revision: AT.2, target, sse: false, secrets }
    }

    #[test]
    fn secrets_pass_to_who_has_the_token_and_to_nobody_else() {
        let (token, other) = (Token::new("0123456789abcdef").unwrap(), Token::new("0123456789abcdeF").unwrap());
        for keys in [None, Some(Keys::new("AKIA", "wJalrXUtnFEMI"))] {
            let secrets = Secrets { keys: keys.clone(), key: Key::new([9; 32]) };
            for token in [None, Some(&token)] {
                let passed = access(secrets.pass(AT, token).unwrap());
                let taken = Secrets::take(&passed, token).unwrap();
                assert_eq!((taken.keys, taken.key.bytes()), (keys.clone(), &[9; 32]));
            }
            let sealed = access(secrets.pass(AT, Some(&token)).unwrap());
            let Passed::Sealed(inner) = &sealed.secrets else { panic!("not sealed") };
            assert!(!inner.bytes.windows(5).any(|w| w == b"wJalr"));
            assert_eq!(Secrets::take(&sealed, Some(&other)).unwrap_err().class, Class::Invalid);
            assert!(Secrets::take(&sealed, None).unwrap_err().message.contains("token"));
            let moved = VaultAccess { revision: AT.2 + 1, ..sealed.clone() };
            assert_eq!(Secrets::take(&moved, Some(&token)).unwrap_err().class, Class::Damaged);
            let Passed::Plain(plain) = secrets.pass(AT, None).unwrap() else { panic!("sealed for nobody") };
            for cut in (0..plain.len()).filter(|cut| *cut != 32) {
                assert_eq!(Secrets::take(&access(Passed::Plain(plain[..cut].to_vec())), None).unwrap_err().class, Class::Damaged);
            }
        }
    }

    #[test]
    fn what_no_release_can_use_says_so() {
        let secrets = Secrets { keys: None, key: Key::new([9; 32]) };
        let fault = Vault::of_access(&access(secrets.pass(AT, None).unwrap()), None, None, Limits::default()).unwrap_err();
        assert!(fault.class == Class::Invalid && fault.message.contains("hdfs://h:1/p"), "{fault}");
    }
}

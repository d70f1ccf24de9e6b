//! Keys of 32 bytes, and what is sealed with them: the pieces of one upload. AES-256-GCM; RFC 5869 derives the key of an upload.

use crate::fault::{Class, Vaulted};
use crate::layout::{HEADER_BYTES, TAG_BYTES};
use aes_gcm::aead::{AeadInPlace, KeyInit, OsRng, rand_core::RngCore};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use hkdf::Hkdf;
use sha2::{Digest, Sha256};
use std::fmt;
use uuid::Uuid;
use zeroize::{Zeroize, Zeroizing};

/// A key of 256 bits: of a tenant, or of the masters' secrets. Never printed; wiped when dropped.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; 32]>);

impl Key {
    /// These bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// A fresh random key.
    pub fn random() -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        OsRng.fill_bytes(bytes.as_mut());
        Self(bytes)
    }

    /// What a key file holds: 32 bytes, or 64 hexadecimal digits with blanks around them.
    ///
    /// # Errors
    /// [`Class::Invalid`], without repeating what it holds.
    pub fn read(text: &[u8]) -> Vaulted<Self> {
        if let Ok(bytes) = <[u8; 32]>::try_from(text) {
            return Ok(Self::new(bytes));
        }
        let digits = text.trim_ascii();
        let mut key = Zeroizing::new([0u8; 32]);
        let right = digits.len() == 64
            && digits.chunks(2).zip(key.iter_mut()).all(|(pair, byte)| {
                let read = std::str::from_utf8(pair).ok().filter(|pair| !pair.starts_with('+'));
                read.and_then(|pair| u8::from_str_radix(pair, 16).ok()).map(|read| *byte = read).is_some()
            });
        if right {
            Ok(Self(key))
        } else {
            let len = text.len();
            Err(Class::Invalid.with(format!(
                "a key is 32 bytes or 64 hexadecimal digits, this one has {len} bytes: make one with `openssl rand -hex 32`"
            )))
        }
    }

    /// A number that tells keys apart and gives none away.
    pub fn number(&self) -> u32 {
        let digest = Sha256::new().chain_update(b"perilune key number v1").chain_update(self.0.as_ref()).finalize();
        u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]])
    }

    /// The bytes, to be sealed with another key.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub(crate) fn aead(&self) -> Aes256Gcm {
        Aes256Gcm::new(self.0.as_ref().into())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(masked)")
    }
}

/// Seals and opens the pieces of one upload.
pub(crate) struct Cipher(Aes256Gcm);

/// The number of the footer, in the place of a piece's.
pub(crate) const FOOTER: u32 = u32::MAX;

impl Cipher {
    /// That of an attempt at the upload of this name. Neither is ever used again, so the number of a piece makes a nonce that is never used again.
    pub(crate) fn of(tenant: &Key, name: Uuid, attempt: u8) -> Self {
        let mut key = [0; 32];
        // The first attempt has none in it, as there were no others once.
        let attempt = if attempt == 0 { &[][..] } else { &[attempt] };
        let info = [&b"perilune object v1"[..], name.as_bytes(), attempt].concat();
        // Fails for more than 8160 bytes only.
        Hkdf::<Sha256>::new(None, tenant.bytes()).expand(&info, &mut key).expect("32 bytes can be derived");
        let cipher = Self(Aes256Gcm::new((&key).into()));
        key.zeroize();
        cipher
    }

    /// Seals `bytes` in place and appends the tag. Bound to `header`: none fits behind another.
    pub(crate) fn seal(&self, number: u32, header: &[u8; HEADER_BYTES as usize], bytes: &mut Vec<u8>) {
        // Fails for more than 64 GiB only.
        let tag = self.0.encrypt_in_place_detached(&nonce(number), header, bytes).expect("a piece is short enough for GCM");
        bytes.extend_from_slice(&tag);
    }

    /// Opens what was sealed, in place; gives the plain bytes.
    ///
    /// # Errors
    /// When it was altered, cut, or sealed with another key.
    pub(crate) fn open<'a>(&self, number: u32, header: &[u8; HEADER_BYTES as usize], bytes: &'a mut [u8]) -> Result<&'a [u8], String> {
        let Some((plain, tag)) = bytes.split_last_chunk_mut::<{ TAG_BYTES as usize }>() else {
            return Err("was cut".into());
        };
        let opened = self.0.decrypt_in_place_detached(&nonce(number), header, plain, Tag::from_slice(tag));
        opened.map(|()| &*plain).map_err(|_| "was altered, or sealed with another key".into())
    }
}

fn nonce(number: u32) -> Nonce<aes_gcm::aead::consts::U12> {
    let mut nonce = Nonce::default();
    nonce[..4].copy_from_slice(&number.to_le_bytes());
    nonce
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_and_not_shown() {
        let digits = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeFF";
        let key = Key::read(format!(" {digits}\n").as_bytes()).unwrap();
        assert_eq!((key.bytes()[1], key.bytes()[31]), (0x11, 0xff));
        assert_eq!(Key::read(key.bytes()).unwrap().bytes(), key.bytes());
        assert_eq!(format!("{key:?}"), "Key(masked)");
        for wrong in ["", "00", &digits[1..], &digits.replace('0', "g"), &digits.replacen("00", "+0", 1)] {
            assert_eq!(Key::read(wrong.as_bytes()).unwrap_err().class, Class::Invalid, "{wrong}");
        }
        assert_ne!(Key::random().number(), Key::random().number());
    }

    #[test]
    fn only_the_same_key_name_number_and_header_open_it() {
        let (key, name, header) = (Key::new([1; 32]), Uuid::from_u128(1), [5; 64]);
        let mut sealed = b"value".to_vec();
        Cipher::of(&key, name, 0).seal(0, &header, &mut sealed);
        let mut again = b"value".to_vec();
        Cipher::of(&key, name, 1).seal(0, &header, &mut again);
        assert_ne!(sealed, again, "another attempt has another key");
        let open = |key: &Key, name, number, header, bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            Cipher::of(key, name, 0).open(number, header, &mut bytes).map(<[u8]>::to_vec)
        };
        assert_eq!(open(&key, name, 0, &header, &sealed), Ok(b"value".to_vec()));
        assert!(open(&Key::new([2; 32]), name, 0, &header, &sealed).is_err());
        assert!(open(&key, Uuid::from_u128(2), 0, &header, &sealed).is_err());
        assert!(open(&key, name, 1, &header, &sealed).is_err());
        assert!(open(&key, name, 0, &[6; 64], &sealed).is_err());
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert!(open(&key, name, 0, &header, &altered).is_err() && open(&key, name, 0, &header, &sealed[..at]).is_err());
        }
    }
}

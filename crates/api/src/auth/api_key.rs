//! API keys: their text, their hash, and what is kept of each.
//!
//! ```text
//! sk-gsm-7f3kq0zt2m9a-<43 letters and digits>
//!        public id    secret, 256 random bits
//! ```
//! The id finds the record and may stand in logs. The secret exists once, when the key is made; only SHA-256 of the whole key
//! is kept. A slow hash would protect secrets that people choose; nobody tries 2^256 of these, and every request pays for it.
//! Invariant: the text of a key never appears in `Debug` output, errors or logs.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::limits::Limits;
use super::scope::Scopes;

/// What every key begins with; tools that look for leaked secrets know `sk-`.
const PREFIX: &str = "sk-gsm-";
const ID_LEN: usize = 12;
const SECRET_LEN: usize = 43;
const LETTERS: &[u8; 62] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

/// A key as its owner has it. Shown once; not kept.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretKey(String);

impl SecretKey {
    /// A new key, from the system's random source.
    ///
    /// # Errors
    /// The system has no randomness to give.
    pub fn generate() -> Result<Self, getrandom::Error> {
        // 36 letters in the id, so that it can be read out loud.
        let id = random_text(ID_LEN, &LETTERS[..36])?;
        let secret = random_text(SECRET_LEN, LETTERS)?;
        Ok(Self(format!("{PREFIX}{id}-{secret}")))
    }

    /// The text, to be shown to whoever asked for the key.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The public part.
    pub fn id(&self) -> &str {
        id_of(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({}...)", self.id())
    }
}

/// Uniform: bytes beyond the last whole multiple of the alphabet are thrown away.
fn random_text(len: usize, alphabet: &[u8]) -> Result<String, getrandom::Error> {
    let limit = 256 - 256 % alphabet.len();
    let mut text = String::with_capacity(len);
    let mut bytes = [0u8; 64];
    while text.len() < len {
        getrandom::fill(&mut bytes)?;
        let fair = bytes.iter().map(|byte| usize::from(*byte));
        let letters = fair.filter(|byte| *byte < limit);
        let missing = len - text.len();
        text.extend(
            letters
                .take(missing)
                .map(|byte| char::from(alphabet[byte % alphabet.len()])),
        );
    }
    Ok(text)
}

/// Whether a credential looks like one of our keys.
pub(crate) fn is_api_key(text: &str) -> bool {
    text.starts_with(PREFIX)
}

/// The id in a key of the right form.
pub(crate) fn id_of(key: &str) -> Option<&str> {
    let (id, secret) = key.strip_prefix(PREFIX)?.split_once('-')?;
    let letters = |text: &str| text.bytes().all(|byte| LETTERS.contains(&byte));
    let well_formed =
        id.len() == ID_LEN && secret.len() == SECRET_LEN && letters(id) && letters(secret);
    well_formed.then_some(id)
}

/// SHA-256 of a key; in files as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// The hash of this key.
    pub fn of(key: &str) -> Self {
        Self(Sha256::digest(key.as_bytes()).into())
    }

    /// Whether this is the hash of `key`, in the same time whatever the answer.
    pub fn matches(&self, key: &str) -> bool {
        self.0.ct_eq(&Self::of(key).0).into()
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash(...)")
    }
}

impl Serialize for KeyHash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let hex: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        serializer.serialize_str(&hex)
    }
}

impl<'de> Deserialize<'de> for KeyHash {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let error = || serde::de::Error::custom("a hash is 64 hexadecimal digits");
        let digits: Vec<u8> = text
            .chars()
            .map(|c| c.to_digit(16).map(|digit| digit as u8))
            .collect::<Option<_>>()
            .ok_or_else(error)?;
        let bytes: Vec<u8> = digits
            .chunks(2)
            .map(|pair| pair[0] << 4 | pair[pair.len() - 1])
            .collect();
        if digits.len() != 64 {
            return Err(error());
        }
        bytes.try_into().map(Self).map_err(|_| error())
    }
}

/// What is kept of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRecord {
    /// The public part of the key.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// SHA-256 of the whole key.
    pub sha256: KeyHash,
    /// What it may do.
    pub scopes: Scopes,
    /// When it was made, seconds since 1970.
    pub created: i64,
    /// From when on it is refused, seconds since 1970; `None` is never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<i64>,
    /// When it was revoked, seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<i64>,
    /// Its own limit of requests per minute; without one, the server's holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u64>,
    /// Its own limit of tokens per minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u64>,
    /// Its own limit of requests at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrent_requests: Option<u64>,
}

impl KeyRecord {
    /// The key's own limits.
    pub fn limits(&self) -> Limits {
        Limits {
            requests_per_minute: self.requests_per_minute,
            tokens_per_minute: self.tokens_per_minute,
            concurrent_requests: self.concurrent_requests,
        }
    }

    /// Whether it is still accepted, and if not, why.
    pub fn state(&self, now: i64) -> KeyState {
        if self.revoked.is_some() {
            KeyState::Revoked
        } else if self.expires.is_some_and(|expires| expires <= now) {
            KeyState::Expired
        } else {
            KeyState::Valid
        }
    }
}

/// Whether a key is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// It is.
    Valid,
    /// It was, for a time.
    Expired,
    /// It was, until somebody took it back.
    Revoked,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_have_the_documented_form_and_match_their_hash_alone() {
        let keys: Vec<SecretKey> = (0..200).map(|_| SecretKey::generate().unwrap()).collect();
        let ids: std::collections::HashSet<_> = keys.iter().map(SecretKey::id).collect();
        assert_eq!(ids.len(), keys.len());
        for key in &keys {
            let text = key.reveal();
            assert_eq!(text.len(), PREFIX.len() + ID_LEN + 1 + SECRET_LEN);
            assert_eq!(id_of(text), Some(key.id()));
            assert!(KeyHash::of(text).matches(text));
            assert!(!KeyHash::of(text).matches(&text[..text.len() - 1]));
            assert!(!format!("{key:?}").contains(&text[PREFIX.len() + ID_LEN + 1..]));
        }
    }

    #[test]
    fn every_letter_is_equally_likely() {
        let text = random_text(62 * 1000, LETTERS).unwrap();
        for letter in LETTERS {
            let count = text.bytes().filter(|byte| byte == letter).count();
            // Ten standard deviations of a fair draw: sqrt(1000).
            assert!((680..1320).contains(&count), "{} {count}", *letter as char);
        }
    }

    #[test]
    fn what_is_not_a_key_has_no_id() {
        let key = SecretKey::generate().unwrap();
        let text = key.reveal();
        for bad in [
            "",
            "sk-gsm-",
            "sk-gsm--",
            &text[1..],
            &text[..text.len() - 1],
            &format!("{text}x"),
            &text.replace("sk-gsm", "sk-gsn"),
            &format!("{}é", &text[..text.len() - 2]),
        ] {
            assert_eq!(id_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn hashes_read_back_and_nothing_else_does() {
        let hash = KeyHash::of("abc");
        let text = serde_json::to_string(&hash).unwrap();
        // FIPS 180-4's example for "abc".
        assert_eq!(
            text,
            "\"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\""
        );
        assert_eq!(serde_json::from_str::<KeyHash>(&text).unwrap(), hash);
        for bad in [
            "\"\"",
            "\"ba78\"",
            &text.replace('b', "g"),
            &text.replace("ad\"", "a\""),
        ] {
            assert!(serde_json::from_str::<KeyHash>(bad).is_err(), "{bad}");
        }
    }
}

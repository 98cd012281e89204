//! The keys that tokens are checked with: read from a secret, a PEM file or a JSON Web Key Set.
//!
//! Knows formats, not tokens. Everything that could be wrong with a key is found here, when the file is read, and not under
//! a request: `jsonwebtoken` looks at a key only when it is used.
//! Invariant: a [`VerifyingKey`] works with its one algorithm, and is as strong as RFC 7518 asks (section 3.2: 256 bits of
//! secret; section 3.3: 2048 bits of RSA).

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use rsa::pkcs1::DecodeRsaPublicKey;
use rsa::traits::PublicKeyParts;
use rsa::{BigUint, RsaPublicKey};

/// RFC 7518, section 3.2: a key at least as long as the hash.
const MIN_SECRET_BYTES: usize = 32;
/// RFC 7518, section 3.3.
const MIN_RSA_BITS: usize = 2048;
/// A token without a key id is tried with every key of its algorithm; this bounds how often.
const MAX_JWKS_KEYS: usize = 32;
const ED25519_BYTES: usize = 32;

/// Reads a file of keys, for these algorithms.
pub(crate) type Parse = fn(&[u8], &[JwtAlgorithm]) -> Result<Vec<VerifyingKey>, String>;

/// An algorithm that may be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JwtAlgorithm {
    /// HMAC with SHA-256.
    Hs256,
    /// RSA PKCS #1 v1.5 with SHA-256.
    Rs256,
    /// ECDSA over P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl JwtAlgorithm {
    const TABLE: [(JwtAlgorithm, &'static str, Algorithm); 4] = [
        (Self::Hs256, "HS256", Algorithm::HS256),
        (Self::Rs256, "RS256", Algorithm::RS256),
        (Self::Es256, "ES256", Algorithm::ES256),
        (Self::EdDsa, "EdDSA", Algorithm::EdDSA),
    ];

    /// Every name, as in a token's `alg`.
    pub fn names() -> impl Iterator<Item = &'static str> {
        Self::TABLE.iter().map(|(_, name, _)| *name)
    }

    /// The algorithm of this name.
    pub fn parse(name: &str) -> Option<Self> {
        let found = Self::TABLE.iter().find(|(_, known, _)| *known == name);
        found.map(|(algorithm, _, _)| *algorithm)
    }

    /// The name, as in a token's `alg`.
    pub fn as_str(self) -> &'static str {
        self.entry().1
    }

    pub(crate) fn of(algorithm: Algorithm) -> Option<Self> {
        let found = Self::TABLE.iter().find(|(_, _, known)| *known == algorithm);
        found.map(|(ours, _, _)| *ours)
    }

    fn entry(self) -> (Self, &'static str, Algorithm) {
        Self::TABLE[self as usize]
    }
}

/// A key and what it is for.
#[derive(Clone, Debug)]
pub(crate) struct VerifyingKey {
    pub algorithm: JwtAlgorithm,
    pub id: Option<String>,
    pub key: DecodingKey,
}

impl VerifyingKey {
    /// Whether this may be the key that a token names. Where one of the two has no id, it may.
    pub fn may_have_id(&self, id: Option<&str>) -> bool {
        match (self.id.as_deref(), id) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => true,
        }
    }

    fn checked(
        algorithm: JwtAlgorithm,
        id: Option<String>,
        key: DecodingKey,
    ) -> Result<Self, String> {
        check_strength(algorithm, &key)?;
        // A signature of zeros, 64 bytes: what matters is whether the key is refused before it is looked at.
        let zeros = "A".repeat(86);
        jsonwebtoken::crypto::verify(&zeros, b"", &key, algorithm.entry().2)
            .map_err(|_| format!("it is no key for {}", algorithm.as_str()))?;
        Ok(Self { algorithm, id, key })
    }
}

fn check_strength(algorithm: JwtAlgorithm, key: &DecodingKey) -> Result<(), String> {
    match (algorithm, key.kind()) {
        (JwtAlgorithm::Hs256, DecodingKeyKind::SecretOrDer(secret)) => {
            let len = secret.len();
            if len < MIN_SECRET_BYTES {
                return Err(format!(
                    "the secret has {len} bytes, but needs at least {MIN_SECRET_BYTES}"
                ));
            }
        }
        (JwtAlgorithm::Rs256, kind) => {
            let key = match kind {
                DecodingKeyKind::SecretOrDer(der) => {
                    RsaPublicKey::from_pkcs1_der(der).map_err(|error| error.to_string())
                }
                DecodingKeyKind::RsaModulusExponent { n, e } => {
                    RsaPublicKey::new(BigUint::from_bytes_be(n), BigUint::from_bytes_be(e))
                        .map_err(|error| error.to_string())
                }
            };
            let bits = key
                .map_err(|error| format!("it is no usable RSA key: {error}"))?
                .n()
                .bits();
            if bits < MIN_RSA_BITS {
                return Err(format!(
                    "the RSA key has {bits} bits, but needs at least {MIN_RSA_BITS}"
                ));
            }
        }
        // jsonwebtoken 11.1 takes the first 32 bytes, and panics if there are fewer.
        (JwtAlgorithm::EdDsa, DecodingKeyKind::SecretOrDer(bytes))
            if bytes.len() != ED25519_BYTES =>
        {
            return Err(format!("an Ed25519 key has {ED25519_BYTES} bytes"));
        }
        _ => {}
    }
    Ok(())
}

fn allow(algorithm: JwtAlgorithm, allowed: &[JwtAlgorithm]) -> Result<(), String> {
    if allowed.contains(&algorithm) {
        return Ok(());
    }
    Err(format!(
        "it is a key for {}, which is not among the algorithms that are allowed",
        algorithm.as_str()
    ))
}

/// The whole file is the secret, but for a newline at its end.
pub(crate) fn secret(bytes: &[u8], allowed: &[JwtAlgorithm]) -> Result<Vec<VerifyingKey>, String> {
    allow(JwtAlgorithm::Hs256, allowed)?;
    let secret = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
    let key = DecodingKey::from_secret(secret);
    Ok(vec![VerifyingKey::checked(JwtAlgorithm::Hs256, None, key)?])
}

/// One public key.
pub(crate) fn pem(bytes: &[u8], allowed: &[JwtAlgorithm]) -> Result<Vec<VerifyingKey>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not PEM".to_owned())?;
    if text.contains("PRIVATE KEY") {
        return Err("it holds a private key; the server needs the public one only".to_owned());
    }
    if text.matches("-----BEGIN ").count() != 1 {
        return Err("it must hold one public key in PEM; for several, use a JWKS file".to_owned());
    }
    let (algorithm, key) = if let Ok(key) = DecodingKey::from_rsa_pem(bytes) {
        (JwtAlgorithm::Rs256, key)
    } else if let Ok(key) = DecodingKey::from_ec_pem(bytes) {
        (JwtAlgorithm::Es256, key)
    } else if let Ok(key) = DecodingKey::from_ed_pem(bytes) {
        (JwtAlgorithm::EdDsa, key)
    } else {
        return Err("it is no public key in PEM of the kinds RSA, EC P-256 or Ed25519".to_owned());
    };
    allow(algorithm, allowed)?;
    Ok(vec![VerifyingKey::checked(algorithm, None, key)?])
}

/// The usable keys of a JSON Web Key Set; there must be one. Identity providers publish keys for other purposes in the same
/// set, so those are left out.
pub(crate) fn jwks(bytes: &[u8], allowed: &[JwtAlgorithm]) -> Result<Vec<VerifyingKey>, String> {
    #[derive(serde::Deserialize)]
    struct Set {
        keys: Vec<serde_json::Value>,
    }
    let set: Set = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if set.keys.len() > MAX_JWKS_KEYS {
        return Err(format!("it has more than {MAX_JWKS_KEYS} keys"));
    }
    let mut keys = Vec::new();
    let mut left_out = Vec::new();
    for (i, value) in set.keys.into_iter().enumerate() {
        let id = value["kid"].as_str().map_or(format!("{i}"), str::to_owned);
        match jwk(value, allowed) {
            Ok(key) => keys.push(key),
            Err(message) => left_out.push(format!("key {id}: {message}")),
        }
    }
    let left_out = left_out.join("; ");
    if keys.is_empty() {
        return Err(format!("it has no usable key: {left_out}"));
    }
    if !left_out.is_empty() {
        tracing::warn!(keys = left_out, "keys of the JWKS file are left out");
    }
    Ok(keys)
}

fn jwk(value: serde_json::Value, allowed: &[JwtAlgorithm]) -> Result<VerifyingKey, String> {
    let jwk: Jwk = serde_json::from_value(value).map_err(|error| error.to_string())?;
    let common = &jwk.common;
    if (common.public_key_use.as_ref()).is_some_and(|purpose| *purpose != PublicKeyUse::Signature) {
        return Err("it is not for signatures".to_owned());
    }
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => JwtAlgorithm::Rs256,
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => {
            JwtAlgorithm::Es256
        }
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
            JwtAlgorithm::EdDsa
        }
        AlgorithmParameters::OctetKey(_) => {
            return Err("it is a secret, which has no place among public keys".to_owned());
        }
        _ => return Err("it is of none of the kinds RSA, EC P-256 and Ed25519".to_owned()),
    };
    let declared = match common.key_algorithm {
        None => algorithm,
        Some(KeyAlgorithm::RS256) => JwtAlgorithm::Rs256,
        Some(KeyAlgorithm::ES256) => JwtAlgorithm::Es256,
        Some(KeyAlgorithm::EdDSA) => JwtAlgorithm::EdDsa,
        Some(other) => return Err(format!("its algorithm is {other}")),
    };
    if declared != algorithm {
        return Err("its algorithm is not one for its kind of key".to_owned());
    }
    allow(algorithm, allowed)?;
    let key = DecodingKey::from_jwk(&jwk).map_err(|error| error.to_string())?;
    VerifyingKey::checked(algorithm, common.key_id.clone(), key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &[JwtAlgorithm] = &[
        JwtAlgorithm::Hs256,
        JwtAlgorithm::Rs256,
        JwtAlgorithm::Es256,
        JwtAlgorithm::EdDsa,
    ];

    #[test]
    fn names_read_back() {
        for (i, name) in JwtAlgorithm::names().enumerate() {
            let algorithm = JwtAlgorithm::parse(name).unwrap();
            assert_eq!((algorithm.as_str(), algorithm as usize), (name, i));
        }
        assert_eq!(JwtAlgorithm::parse("none"), None);
        assert_eq!(JwtAlgorithm::of(Algorithm::HS512), None);
    }

    #[test]
    fn short_secrets_are_refused() {
        let message = secret(&[b'x'; 31], ALL).unwrap_err();
        assert_eq!(message, "the secret has 31 bytes, but needs at least 32");
        assert!(secret(&[b'x'; 32], ALL).is_ok());
        assert!(secret(b"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n", ALL).is_err());
        let message = secret(&[b'x'; 32], &[JwtAlgorithm::Rs256]).unwrap_err();
        assert!(message.contains("HS256, which is not among"), "{message}");
    }

    #[test]
    fn bad_sets_say_what_is_wrong_with_each_key() {
        let set = |keys: &str| jwks(format!(r#"{{"keys":[{keys}]}}"#).as_bytes(), ALL).unwrap_err();
        for (keys, expected) in [
            ("", "no usable key"),
            (r#"{"kty":"oct","k":"AAAA"}"#, "it is a secret"),
            (r#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#, "RSA key"),
            (r#"{"kty":"RSA","n":"!","e":"AQAB"}"#, "key 0: "),
            (
                r#"{"kty":"RSA","use":"enc","n":"AQAB","e":"AQAB"}"#,
                "not for signatures",
            ),
            (
                r#"{"kty":"RSA","alg":"RS512","n":"AQAB","e":"AQAB"}"#,
                "its algorithm is RS512",
            ),
            (
                r#"{"kty":"RSA","alg":"ES256","n":"AQAB","e":"AQAB"}"#,
                "not one for its kind",
            ),
            (
                r#"{"kty":"EC","crv":"P-384","x":"AAAA","y":"AAAA"}"#,
                "none of the kinds",
            ),
            (
                r#"{"kty":"EC","crv":"P-256","x":"AAAA","y":"AAAA"}"#,
                "no key for ES256",
            ),
            (
                r#"{"kty":"OKP","crv":"Ed25519","x":"AAAA","kid":"k"}"#,
                "key k: an Ed25519 key has 32 bytes",
            ),
            (r#"{"kty":"other"}"#, "none of the kinds"),
            ("5", "key 0: "),
        ] {
            let message = set(keys);
            assert!(message.contains(expected), "{keys}: {message}");
        }
        let many = vec![r#"{"kty":"other"}"#; 33].join(",");
        assert!(set(&many).contains("more than 32"));
        assert!(jwks(b"{}", ALL).is_err());
    }

    #[test]
    fn what_is_no_public_key_is_refused() {
        for (text, expected) in [
            ("", "one public key"),
            ("-----BEGIN PRIVATE KEY-----\n", "private key"),
            (
                "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
                "no public key",
            ),
            ("-----BEGIN A-----\n-----BEGIN B-----\n", "for several"),
        ] {
            let message = pem(text.as_bytes(), ALL).unwrap_err();
            assert!(message.contains(expected), "{text:?}: {message}");
        }
        assert!(pem(b"\xff", ALL).is_err());
    }
}

//! Tokens that are right, and every way to be wrong: forged, for others, too old, too clever.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::super::scope::Scope;
use super::*;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const RSA: &str = include_str!("../../tests/keys/rsa-private.pem");
const RSA_PUBLIC: &str = include_str!("../../tests/keys/rsa-public.pem");
const EC: &str = include_str!("../../tests/keys/ec-private.pem");
const EC_PUBLIC: &str = include_str!("../../tests/keys/ec-public.pem");
const ED: &str = include_str!("../../tests/keys/ed-private.pem");
const ED_PUBLIC: &str = include_str!("../../tests/keys/ed-public.pem");

struct Setup {
    folder: TempDir,
    config: JwtConfig,
}

impl Setup {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            config: JwtConfig::without_keys(),
        }
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> Option<PathBuf> {
        let path = self.folder.path().join(name);
        fs::write(&path, content).unwrap();
        Some(path)
    }

    fn secret() -> Self {
        let mut setup = Self::new();
        setup.config.secret_file = setup.file("secret", SECRET);
        setup
    }

    fn pem(public: &str) -> Self {
        let mut setup = Self::new();
        setup.config.public_key_file = setup.file("key.pem", public);
        setup
    }

    fn verifier(&self) -> JwtVerifier {
        JwtVerifier::new(&self.config).unwrap()
    }

    fn verify(&self, token: &str) -> Result<Token, TokenError> {
        self.verifier().verify(token)
    }
}

fn in_seconds(seconds: i64) -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs() as i64
        + seconds
}

fn claims() -> Value {
    json!({"sub": "alice", "exp": in_seconds(600), "scope": "inference openid"})
}

fn with(field: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[field] = value;
    claims
}

fn without(field: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(field);
    claims
}

fn hs256(claims: &Value) -> String {
    sign(Algorithm::HS256, &EncodingKey::from_secret(SECRET), claims)
}

fn sign(algorithm: Algorithm, key: &EncodingKey, claims: &Value) -> String {
    encode(&Header::new(algorithm), claims, key).unwrap()
}

/// Unpadded base64url (RFC 4648, section 5).
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, i| {
            bits << 8 | u32::from(*chunk.get(i).unwrap_or(&0))
        });
        (0..=chunk.len())
            .for_each(|i| out.push(LETTERS[(bits >> (18 - 6 * i)) as usize & 63].into()));
    }
    out
}

fn raw(header: &Value, claims: &str, signature: &str) -> String {
    format!(
        "{}.{}.{signature}",
        base64(header.to_string().as_bytes()),
        base64(claims.as_bytes())
    )
}

#[test]
fn each_kind_of_key_accepts_its_algorithm() {
    let pairs = [
        (
            Setup::secret(),
            Algorithm::HS256,
            EncodingKey::from_secret(SECRET),
        ),
        (
            Setup::pem(RSA_PUBLIC),
            Algorithm::RS256,
            EncodingKey::from_rsa_pem(RSA.as_bytes()).unwrap(),
        ),
        (
            Setup::pem(EC_PUBLIC),
            Algorithm::ES256,
            EncodingKey::from_ec_pem(EC.as_bytes()).unwrap(),
        ),
        (
            Setup::pem(ED_PUBLIC),
            Algorithm::EdDSA,
            EncodingKey::from_ed_pem(ED.as_bytes()).unwrap(),
        ),
    ];
    let tokens = pairs
        .each_ref()
        .map(|(_, algorithm, key)| sign(*algorithm, key, &claims()));
    for (i, (setup, ..)) in pairs.iter().enumerate() {
        for (j, token) in tokens.iter().enumerate() {
            let result = setup.verify(token);
            if i == j {
                let scopes = Scopes::of(&[Scope::Inference]);
                assert_eq!(
                    result,
                    Ok(Token {
                        subject: "alice".into(),
                        scopes
                    })
                );
            } else {
                assert_eq!(result, Err(TokenError::Algorithm), "{i} {j}");
            }
        }
    }
}

#[test]
fn a_changed_token_is_refused_whatever_was_changed() {
    let setup = Setup::secret();
    let token = hs256(&claims());
    let verifier = setup.verifier();
    assert!(verifier.verify(&token).is_ok());
    for i in 0..token.len() {
        let mut bytes = token.clone().into_bytes();
        bytes[i] = if bytes[i] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        // The last letter of a part may hold bits that mean nothing; the decoder refuses those too.
        assert!(verifier.verify(&changed).is_err(), "letter {i}");
    }
    let parts: Vec<&str> = token.split('.').collect();
    let other = hs256(&with("sub", "root".into()));
    let payload = other.split('.').nth(1).unwrap();
    let forged = format!("{}.{payload}.{}", parts[0], parts[2]);
    assert_eq!(verifier.verify(&forged), Err(TokenError::Signature));
    let wrong = EncodingKey::from_secret(b"another secret of thirty-two bytes");
    let forged = sign(Algorithm::HS256, &wrong, &claims());
    assert_eq!(verifier.verify(&forged), Err(TokenError::Signature));
}

#[test]
fn no_algorithm_is_no_signature() {
    let setup = Setup::secret();
    let text = claims().to_string();
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        let header = json!({"alg": alg, "typ": "JWT"});
        for signature in ["", "AAAA"] {
            let result = setup.verify(&raw(&header, &text, signature));
            assert_eq!(result, Err(TokenError::Malformed), "{alg:?}");
        }
    }
    // The signature of a good token, and a header that says none.
    let token = hs256(&claims());
    let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    parts[0] = base64(br#"{"alg":"none"}"#);
    assert!(setup.verify(&parts.join(".")).is_err());
}

#[test]
fn a_public_key_is_no_secret() {
    // RFC 8725, section 2.1: an HMAC made with the text of the public key.
    for public in [RSA_PUBLIC, EC_PUBLIC, ED_PUBLIC] {
        let setup = Setup::pem(public);
        for secret in [public.as_bytes(), public.trim_end().as_bytes()] {
            let token = sign(
                Algorithm::HS256,
                &EncodingKey::from_secret(secret),
                &claims(),
            );
            assert_eq!(setup.verify(&token), Err(TokenError::Algorithm));
        }
    }
}

#[test]
fn other_algorithms_of_the_same_family_are_refused() {
    let secret = EncodingKey::from_secret(SECRET);
    for algorithm in [Algorithm::HS384, Algorithm::HS512] {
        let token = sign(algorithm, &secret, &claims());
        assert_eq!(Setup::secret().verify(&token), Err(TokenError::Algorithm));
    }
    let rsa = EncodingKey::from_rsa_pem(RSA.as_bytes()).unwrap();
    for algorithm in [Algorithm::RS512, Algorithm::PS256] {
        let token = sign(algorithm, &rsa, &claims());
        assert_eq!(
            Setup::pem(RSA_PUBLIC).verify(&token),
            Err(TokenError::Algorithm)
        );
    }
}

#[test]
fn times_with_their_leeway() {
    let mut setup = Setup::secret();
    let check = |setup: &Setup, field, seconds| {
        setup
            .verify(&hs256(&with(field, in_seconds(seconds).into())))
            .map(drop)
    };
    assert_eq!(check(&setup, "exp", -20), Ok(()));
    assert_eq!(check(&setup, "exp", -40), Err(TokenError::Expired));
    assert_eq!(check(&setup, "nbf", 20), Ok(()));
    assert_eq!(check(&setup, "nbf", 40), Err(TokenError::NotYet));
    setup.config.leeway_seconds = 0;
    assert_eq!(check(&setup, "exp", -2), Err(TokenError::Expired));
    assert_eq!(check(&setup, "nbf", 5), Err(TokenError::NotYet));
    for value in [
        json!("soon"),
        json!(null),
        json!(-1),
        json!(1e300),
        json!([]),
    ] {
        let result = setup.verify(&hs256(&with("exp", value.clone())));
        assert!(result.is_err(), "{value}");
    }
    assert!(setup.verify(&hs256(&with("nbf", json!("x")))).is_err());
}

#[test]
fn claims_that_must_be_there() {
    let setup = Setup::secret();
    for field in ["exp", "sub"] {
        assert_eq!(
            setup.verify(&hs256(&without(field))),
            Err(TokenError::Claims)
        );
    }
    for sub in [json!(""), json!("a\nb"), json!("x".repeat(257))] {
        assert_eq!(
            setup.verify(&hs256(&with("sub", sub))),
            Err(TokenError::Claims)
        );
    }
    assert!(setup.verify(&hs256(&with("sub", json!(5)))).is_err());
}

#[test]
fn audience_and_issuer() {
    let mut setup = Setup::secret();
    let for_us = with("aud", json!("gossamer"));
    assert_eq!(setup.verify(&hs256(&for_us)), Err(TokenError::Audience));
    setup.config.audience = vec!["gossamer".into(), "other".into()];
    assert!(setup.verify(&hs256(&for_us)).is_ok());
    let several = with("aud", json!(["x", "other"]));
    assert!(setup.verify(&hs256(&several)).is_ok());
    for aud in [
        json!("x"),
        json!("Gossamer"),
        json!(["x"]),
        json!("gossame"),
    ] {
        assert_eq!(
            setup.verify(&hs256(&with("aud", aud))),
            Err(TokenError::Audience)
        );
    }
    for aud in [json!({}), json!(7), json!(null), json!([1])] {
        assert_eq!(
            setup.verify(&hs256(&with("aud", aud))),
            Err(TokenError::Claims)
        );
    }
    assert_eq!(setup.verify(&hs256(&claims())), Err(TokenError::Claims));

    let mut setup = Setup::secret();
    setup.config.issuer = vec!["https://id.example".into()];
    assert_eq!(setup.verify(&hs256(&claims())), Err(TokenError::Claims));
    let theirs = with("iss", json!("https://id.example.evil"));
    assert_eq!(setup.verify(&hs256(&theirs)), Err(TokenError::Issuer));
    let ours = setup
        .verify(&hs256(&with("iss", json!("https://id.example"))))
        .unwrap();
    assert_eq!(ours.subject, "alice https://id.example");
}

#[test]
fn scopes_in_every_form() {
    let setup = Setup::secret();
    let both = Scopes::of(&[Scope::Inference, Scope::Metrics]);
    for (field, value, expected) in [
        ("scope", json!("inference metrics email"), both),
        ("scope", json!(["inference", "metrics"]), both),
        ("scp", json!(["metrics"]), both),
        ("scope", json!(""), Scopes::NONE),
        ("scope", json!("Inference inference,metrics"), Scopes::NONE),
        ("scope", json!(null), Scopes::NONE),
    ] {
        let token = setup.verify(&hs256(&with(field, value.clone()))).unwrap();
        assert_eq!(token.scopes, expected, "{field} {value}");
    }
    assert!(setup.verify(&hs256(&with("scope", json!(7)))).is_err());
}

/// Found by fuzzing: a number as `aud` was looked over.
#[test]
fn an_audience_of_any_kind_is_somebody_else_where_none_is_expected() {
    let setup = Setup::secret();
    for aud in [
        json!("x"),
        json!(["x"]),
        json!([]),
        json!(7),
        json!({"x": 1}),
        json!(true),
    ] {
        let token = hs256(&with("aud", aud.clone()));
        assert_eq!(setup.verify(&token), Err(TokenError::Audience), "{aud}");
    }
    assert!(setup.verify(&hs256(&with("aud", json!(null)))).is_ok());
}

#[test]
fn nonsense_is_malformed() {
    let setup = Setup::secret();
    let header = json!({"alg": "HS256"});
    let signed = |header: &Value, payload: &str| {
        let message = format!(
            "{}.{}",
            base64(header.to_string().as_bytes()),
            base64(payload.as_bytes())
        );
        let key = EncodingKey::from_secret(SECRET);
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256);
        format!("{message}.{}", signature.unwrap())
    };
    assert!(
        setup
            .verify(&signed(&header, &claims().to_string()))
            .is_ok()
    );
    for token in [
        String::new(),
        "..".into(),
        "a.b.c".into(),
        "a.b".into(),
        format!("{}.x", hs256(&claims())),
        "\u{e9}.\u{e9}.\u{e9}".into(),
        signed(&header, "[]"),
        signed(&header, "{"),
        signed(
            &json!({"alg": "HS256", "crit": ["x"], "x": 1}),
            &claims().to_string(),
        ),
        signed(&json!({"alg": "HS256", "crit": []}), &claims().to_string()),
        "A".repeat(9000),
        format!("{}.{}.A", base64(br#"{"alg":"HS256"}"#), "A".repeat(9000)),
    ] {
        assert_eq!(
            setup.verify(&token),
            Err(TokenError::Malformed),
            "{token:.60}"
        );
    }
}

#[test]
fn keys_of_a_set_are_found_by_id_and_the_set_is_read_again() {
    let rsa = EncodingKey::from_rsa_pem(RSA.as_bytes()).unwrap();
    let ed = EncodingKey::from_ed_pem(ED.as_bytes()).unwrap();
    let jwk = |key: &EncodingKey, algorithm, id: &str| {
        let mut jwk = Jwk::from_encoding_key(key, algorithm).unwrap();
        jwk.common.key_id = Some(id.to_owned());
        serde_json::to_value(jwk).unwrap()
    };
    let with_id = |id: Option<&str>, algorithm, key| {
        let mut header = Header::new(algorithm);
        header.kid = id.map(str::to_owned);
        encode(&header, &claims(), key).unwrap()
    };
    let set = |keys: Value| json!({"keys": keys}).to_string();
    let mut setup = Setup::new();
    let first = set(
        json!([jwk(&rsa, Algorithm::RS256, "one"), {"kty": "EC", "crv": "P-521", "x": "", "y": ""}]),
    );
    setup.config.jwks_file = setup.file("jwks.json", first);
    let verifier = setup.verifier();
    for id in [Some("one"), None] {
        assert!(
            verifier
                .verify(&with_id(id, Algorithm::RS256, &rsa))
                .is_ok()
        );
    }
    let unknown = with_id(Some("two"), Algorithm::RS256, &rsa);
    assert_eq!(verifier.verify(&unknown), Err(TokenError::Signature));
    let later = with_id(Some("two"), Algorithm::EdDSA, &ed);
    assert_eq!(verifier.verify(&later), Err(TokenError::Algorithm));

    // Rotation: the old key is gone, a new one is there.
    setup.file("jwks.json", set(json!([jwk(&ed, Algorithm::EdDSA, "two")])));
    assert!(verifier.verify(&later).is_ok());
    assert_eq!(
        verifier.verify(&with_id(None, Algorithm::RS256, &rsa)),
        Err(TokenError::Algorithm)
    );
}

#[test]
fn weak_and_unfit_keys_stop_the_start() {
    for (public, expected) in [
        (
            include_str!("../../tests/keys/rsa-1024-public.pem"),
            "1024 bits",
        ),
        (
            include_str!("../../tests/keys/ec-p384-public.pem"),
            "no key for ES256",
        ),
        (RSA, "private key"),
    ] {
        let message = JwtVerifier::new(&Setup::pem(public).config)
            .unwrap_err()
            .to_string();
        assert!(message.contains(expected), "{message}");
    }
    let mut setup = Setup::secret();
    setup.config.algorithms = vec![JwtAlgorithm::Rs256];
    assert!(JwtVerifier::new(&setup.config).is_err());
    setup.config.secret_file = Some(Path::new("/nonexistent/secret").to_owned());
    assert!(JwtVerifier::new(&setup.config).is_err());
}

#[test]
fn nothing_secret_is_printed() {
    let setup = Setup::secret();
    let printed = format!("{:?} {:?}", setup.verifier(), setup.config);
    assert!(!printed.contains("0123456789abcdef"), "{printed}");
    let keys = jwt_keys::secret(SECRET, &setup.config.algorithms).unwrap();
    assert!(!format!("{keys:?}").contains("48, 49"), "{keys:?}");
}

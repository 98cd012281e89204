//! Tokens: only who holds a key is let in, whatever a token says about itself, and no bytes in a header or a key file panic.
//!
//! The first byte chooses what the rest is: a credential to the letter, a token put together from parts (right ones, wrong
//! ones, signed by the right key, by another, or broken afterwards), or a file of keys.
//! What may be accepted is decided here anew, from the token's text and the private keys: [`Signer::vouches`].

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use actix_web::http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use gossamer_api::auth::{Auth, AuthConfig, JwtConfig};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use serde_json::{Map, Value, json};

use crate::Draws;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const RSA: &str = include_str!("../../api/tests/keys/rsa-private.pem");
const RSA_PUBLIC: &str = include_str!("../../api/tests/keys/rsa-public.pem");
const EC: &str = include_str!("../../api/tests/keys/ec-private.pem");
const EC_PUBLIC: &str = include_str!("../../api/tests/keys/ec-public.pem");
const ED: &str = include_str!("../../api/tests/keys/ed-private.pem");
const ED_PUBLIC: &str = include_str!("../../api/tests/keys/ed-public.pem");

const LEEWAY: i64 = 30;
const ISSUER: &str = "https://issuer.example";
const AUDIENCE: &str = "gossamer";

/// A private key of ours.
struct Signer {
    name: &'static str,
    algorithm: Algorithm,
    key: EncodingKey,
    /// In the set of keys.
    id: Option<&'static str>,
}

impl Signer {
    fn sign(&self, message: &str) -> String {
        crypto::sign(message.as_bytes(), &self.key, self.algorithm).expect("a signature")
    }

    /// Whether the token says that it is of this key's algorithm, and is signed so. All four algorithms sign the same
    /// message the same way every time.
    fn vouches(&self, token: &str) -> bool {
        let Some((message, signature)) = token.rsplit_once('.') else {
            return false;
        };
        let header = message.split('.').next().and_then(object);
        header.is_some_and(|header| header["alg"] == self.name && !header.contains_key("crit"))
            && self.sign(message) == signature
    }
}

/// A server with its keys.
struct Verifier {
    auth: Auth,
    /// Places in [`Keys::signers`].
    signers: &'static [usize],
    /// It asks for an audience and an issuer.
    named: bool,
}

struct Keys {
    signers: Vec<Signer>,
    verifiers: Vec<Verifier>,
    folder: PathBuf,
    /// Public keys as members of a set.
    set: Vec<Value>,
}

static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let signer = |name, algorithm, key, id| Signer {
        name,
        algorithm,
        key,
        id,
    };
    let rsa = EncodingKey::from_rsa_pem(RSA.as_bytes()).expect("a key");
    let ec = EncodingKey::from_ec_pem(EC.as_bytes()).expect("a key");
    let ed = EncodingKey::from_ed_pem(ED.as_bytes()).expect("a key");
    let signers = vec![
        signer(
            "HS256",
            Algorithm::HS256,
            EncodingKey::from_secret(SECRET),
            None,
        ),
        signer("EdDSA", Algorithm::EdDSA, ed, Some("two")),
        signer("ES256", Algorithm::ES256, ec, None),
        signer("RS256", Algorithm::RS256, rsa, Some("one")),
    ];
    let set: Vec<Value> = (signers[1..].iter())
        .map(|signer| {
            let mut jwk = Jwk::from_encoding_key(&signer.key, signer.algorithm).expect("a key");
            jwk.common.key_id = signer.id.map(str::to_owned);
            serde_json::to_value(jwk).expect("JSON")
        })
        .collect();
    let folder = std::env::temp_dir().join(format!("gossamer-fuzzing-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder for key files");
    let file = |name: &str, content: &[u8]| write(&folder, name, content);
    let secret = file("secret", SECRET);
    let jwks = file("set.json", json!({"keys": set}).to_string().as_bytes());
    let pem = |name: &str, text: &str| JwtConfig {
        public_key_file: Some(file(name, text.as_bytes())),
        ..JwtConfig::without_keys()
    };
    let with_secret = JwtConfig {
        secret_file: Some(secret.clone()),
        ..JwtConfig::without_keys()
    };
    let all = JwtConfig {
        secret_file: Some(secret),
        jwks_file: Some(jwks),
        audience: vec![AUDIENCE.into(), "other".into()],
        issuer: vec![ISSUER.into()],
        ..JwtConfig::without_keys()
    };
    let verifier = |config, signers, named| Verifier {
        auth: server(config).expect("usable keys"),
        signers,
        named,
    };
    let verifiers = vec![
        verifier(with_secret, &[0], false),
        verifier(pem("ed.pem", ED_PUBLIC), &[1], false),
        verifier(pem("ec.pem", EC_PUBLIC), &[2], false),
        verifier(pem("rsa.pem", RSA_PUBLIC), &[3], false),
        verifier(all, &[0, 1, 2, 3], true),
    ];
    Keys {
        signers,
        verifiers,
        folder,
        set,
    }
});

fn write(folder: &Path, name: &str, content: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, content).expect("a writable folder");
    path
}

fn server(jwt: JwtConfig) -> Result<Auth, String> {
    let config = AuthConfig {
        jwt: Some(jwt),
        ..AuthConfig::open()
    };
    Auth::new(&config).map_err(|error| error.to_string())
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs().cast_signed())
}

pub(crate) fn prepare() {
    LazyLock::force(&KEYS);
}

pub(crate) fn check(bytes: &[u8]) {
    let Some((&first, rest)) = bytes.split_first() else {
        return;
    };
    match first {
        b'a'..=b'e' => raw(&KEYS.verifiers[usize::from(first - b'a')], rest),
        b'j' => key_file(rest, |path| JwtConfig {
            jwks_file: Some(path),
            ..JwtConfig::without_keys()
        }),
        b'p' => key_file(rest, |path| JwtConfig {
            public_key_file: Some(path),
            ..JwtConfig::without_keys()
        }),
        128..160 => {
            let set = set(&mut Draws::new(rest));
            key_file(set.to_string().as_bytes(), |path| JwtConfig {
                jwks_file: Some(path),
                ..JwtConfig::without_keys()
            });
        }
        _ => made(&mut Draws::new(rest)),
    }
}

/// Whether a server accepts this as a bearer token.
fn accepts(auth: &Auth, token: &[u8]) -> bool {
    let Ok(value) = HeaderValue::from_bytes(&[b"Bearer ", token].concat()) else {
        return false;
    };
    let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
    match auth.identify(&headers) {
        Ok(name) => {
            assert!(name.starts_with("jwt:"), "{name}");
            assert!(!name.contains(char::is_control), "{name:?}");
            true
        }
        Err(error) => {
            assert_eq!(error.code().status(), 401);
            assert!(!error.message().is_empty());
            false
        }
    }
}

/// Bytes as a credential.
fn raw(verifier: &Verifier, credential: &[u8]) {
    if accepts(&verifier.auth, credential) {
        let token = String::from_utf8_lossy(credential);
        assert!(is_right(verifier, token.trim()), "accepted: {credential:?}");
    }
}

/// Whether a token may be accepted, by what it says and how it is signed.
fn is_right(verifier: &Verifier, token: &str) -> bool {
    let mut signers = verifier.signers.iter().map(|at| &KEYS.signers[*at]);
    let payload = token.split('.').nth(1).and_then(object);
    signers.any(|signer| signer.vouches(token))
        && payload.is_some_and(|claims| has_right_claims(&claims, verifier.named))
}

fn has_right_claims(claims: &Map<String, Value>, named: bool) -> bool {
    let is_one_of = |claim: &str, wanted: &[&str]| match claims.get(claim) {
        Some(Value::String(text)) => wanted.contains(&&**text),
        Some(Value::Array(list)) => {
            (list.iter().filter_map(Value::as_str)).any(|text| wanted.contains(&text))
        }
        _ => false,
    };
    // The clock goes on between the two looks at it.
    let slack = 60.0;
    let (now, leeway) = (now() as f64, LEEWAY as f64);
    let expires = claims.get("exp").and_then(Value::as_f64);
    let begins = claims.get("nbf").and_then(Value::as_f64);
    let subject = claims
        .get("sub")
        .and_then(Value::as_str)
        .unwrap_or_default();
    expires.is_some_and(|at| at + leeway + slack >= now)
        && begins.is_none_or(|at| at - leeway - slack <= now)
        && (1..=256).contains(&subject.len())
        && !subject.contains(char::is_control)
        && (!named || is_one_of("aud", &[AUDIENCE, "other"]) && is_one_of("iss", &[ISSUER]))
        && (named || claims.get("aud").is_none_or(Value::is_null))
}

/// A token that is put together.
fn made(draws: &mut Draws) {
    let verifier = &KEYS.verifiers[draws.below(KEYS.verifiers.len())];
    // RSA takes a hundred times as long to sign as the others.
    let at = match draws.below(32) {
        31 => 3,
        at => at % 3,
    };
    let signer = &KEYS.signers[at];
    let (header, claims) = (header(signer, draws), claims(draws));
    let message = format!("{}.{}", part(header, draws), part(claims, draws));
    let token = signed(&message, signer, draws);
    if accepts(&verifier.auth, token.as_bytes()) {
        assert!(is_right(verifier, &token), "accepted: {token}");
    } else {
        assert!(!is_plain(verifier, &token), "refused: {token}");
    }
}

/// Whether there is nothing about a token for which it could be refused.
fn is_plain(verifier: &Verifier, token: &str) -> bool {
    let parts: Vec<_> = token.split('.').map(object).collect();
    let [Some(header), Some(claims), _] = &parts[..] else {
        return false;
    };
    let is_known = |claim: &(&String, &Value)| match claim.0.as_str() {
        "exp" => (claim.1.as_i64()).is_some_and(|at| (now() + 60..now() + 1_000_000).contains(&at)),
        "sub" | "iss" | "aud" | "scope" => claim.1.is_string(),
        _ => false,
    };
    let header_is_plain = (header.keys()).all(|name| name == "alg" || name == "kid")
        && (header.get("kid")).is_none_or(|id| {
            let known = |at: &usize| {
                KEYS.signers[*at].name == header["alg"]
                    && KEYS.signers[*at].id.is_none_or(|known| id == known)
            };
            verifier.signers.iter().any(known) && id.is_string()
        });
    // Claims that stand twice are read by their last or not at all.
    header_is_plain
        && token.len() < 4096
        && claims.iter().all(|claim| is_known(&claim))
        && is_right(verifier, token)
}

fn header(signer: &Signer, draws: &mut Draws) -> Value {
    let other = [
        json!("none"),
        json!("HS256"),
        json!("HS384"),
        json!("RS256"),
        json!("ES256"),
        json!("EdDSA"),
        json!("PS256"),
        json!("hs256"),
        json!(""),
        json!(null),
        json!(5),
    ];
    let mut header = json!({"alg": signer.name});
    if draws.once_in(3) {
        header["alg"] = other[draws.below(other.len())].clone();
    }
    let extras = [
        ("typ", json!("JWT")),
        ("kid", json!("one")),
        ("kid", json!("two")),
        ("kid", json!("three")),
        ("kid", json!(7)),
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("jwk", KEYS.set[0].clone()),
        ("jku", json!("https://example.org/keys")),
        ("x5c", json!(["AAAA"])),
        ("zip", json!("DEF")),
        ("enc", json!("A128GCM")),
        ("b64", json!(false)),
        ("typ", json!(null)),
    ];
    for _ in 0..draws.below(3) {
        let (name, value) = &extras[draws.below(extras.len())];
        header[*name] = value.clone();
    }
    header
}

fn claims(draws: &mut Draws) -> Value {
    let mut claims = json!({"sub": "alice", "exp": now() + 600});
    if draws.once_in(2) {
        claims["aud"] = AUDIENCE.into();
        claims["iss"] = ISSUER.into();
    }
    let names = ["exp", "nbf", "sub", "aud", "iss", "scope", "scp", "iat"];
    let values = [
        json!(null),
        json!("alice"),
        json!(""),
        json!("a\u{1}b"),
        json!("x".repeat(257)),
        json!("inference models"),
        json!(["inference", "\u{e9}"]),
        json!([]),
        json!([AUDIENCE]),
        json!([ISSUER, 5]),
        json!("elsewhere"),
        json!(now() - 10),
        json!(now() - 600),
        json!(now() + 600),
        json!(now() as f64 + 600.5),
        json!(0),
        json!(-1),
        json!(1e300),
        json!(u64::MAX),
        json!(i64::MIN),
        json!({"a": 1}),
        json!(true),
    ];
    for _ in 0..draws.below(4) {
        let name = draws.pick(&names);
        match draws.once_in(8) {
            true => drop(claims.as_object_mut().map(|claims| claims.remove(name))),
            false => claims[name] = values[draws.below(values.len())].clone(),
        }
    }
    claims
}

/// A part of a token, now and then not the one that was meant.
fn part(value: Value, draws: &mut Draws) -> String {
    let text = value.to_string();
    match draws.below(16) {
        13 => base64(draws.bytes(60)),
        14 => base64(
            text.replacen('{', "{\"exp\":1,\"alg\":\"none\",", 1)
                .as_bytes(),
        ),
        15 => base64(&text.as_bytes()[..draws.below(text.len())]),
        _ => base64(text.as_bytes()),
    }
}

fn signed(message: &str, signer: &Signer, draws: &mut Draws) -> String {
    let right = signer.sign(message);
    let with_public = |pem: &str| {
        let key = EncodingKey::from_secret(pem.as_bytes());
        crypto::sign(message.as_bytes(), &key, Algorithm::HS256).expect("a signature")
    };
    let signature = match draws.below(16) {
        0 => String::new(),
        1 => with_public(RSA_PUBLIC),
        2 => with_public(draws.pick(&[EC_PUBLIC, ED_PUBLIC, ""])),
        3 => base64(draws.bytes(70)),
        4 => format!("{right}="),
        5 => {
            // One letter is another.
            let at = draws.below(right.len());
            let letter = draws.pick(&["A", "B", "_", "-", "9", "+", "=", " "]);
            format!("{}{letter}{}", &right[..at], &right[at + 1..])
        }
        6 => right[..draws.below(right.len())].to_owned(),
        7 => right.clone() + "." + &right,
        8 => base64(&[0; 64]),
        _ => right,
    };
    match draws.below(32) {
        31 => format!("{message}x.{signature}"),
        30 => format!("{message}=.{signature}"),
        _ => format!("{message}.{signature}"),
    }
}

/// A set of keys, right ones among others.
fn set(draws: &mut Draws) -> Value {
    let values = [
        json!(null),
        json!(""),
        json!("AQAB"),
        json!("AAAA"),
        json!("!"),
        json!("A".repeat(43)),
        json!("_".repeat(1000)),
        json!("RSA"),
        json!("EC"),
        json!("OKP"),
        json!("oct"),
        json!("P-256"),
        json!("P-384"),
        json!("Ed25519"),
        json!("sig"),
        json!("enc"),
        json!("RS256"),
        json!("ES256"),
        json!("EdDSA"),
        json!("HS256"),
        json!(["sign"]),
        json!(5),
    ];
    let names = [
        "kty", "crv", "x", "y", "n", "e", "k", "use", "alg", "kid", "key_ops", "x5c",
    ];
    let key = |draws: &mut Draws| {
        let mut key = KEYS.set[draws.below(KEYS.set.len())].clone();
        for _ in 0..draws.below(4) {
            let value = match draws.once_in(4) {
                true => base64(draws.bytes(66)).into(),
                false => values[draws.below(values.len())].clone(),
            };
            key[draws.pick(&names)] = value;
        }
        key
    };
    let keys: Vec<Value> = (0..draws.below(5)).map(|_| key(draws)).collect();
    json!({"keys": keys})
}

/// Bytes as a file of keys: it is refused with a reason, or only those get in whose public key it names.
fn key_file(bytes: &[u8], config: impl Fn(PathBuf) -> JwtConfig) {
    let path = write(&KEYS.folder, "keys", bytes);
    let auth = match server(config(path)) {
        Ok(auth) => auth,
        Err(message) => {
            assert!(!message.is_empty());
            return;
        }
    };
    let text: String = String::from_utf8_lossy(bytes).split_whitespace().collect();
    for (at, signer) in KEYS.signers.iter().enumerate().take(3) {
        let header = base64(json!({"alg": signer.name}).to_string().as_bytes());
        let claims = json!({"sub": "alice", "exp": now() + 600}).to_string();
        let message = format!("{header}.{}", base64(claims.as_bytes()));
        let token = format!("{message}.{}", signer.sign(&message));
        if accepts(&auth, token.as_bytes()) {
            assert!(at > 0, "a set of public keys accepts a secret: {text}");
            let x = KEYS.set[at - 1]["x"].as_str().unwrap_or_default();
            // In a set the key stands as it is, in PEM somewhere in base64.
            assert!(
                text.contains(x) || text.contains("PUBLICKEY") || text.contains('\\'),
                "accepted {}: {text}",
                signer.name
            );
        }
    }
    let unsigned = format!("{}.e30.", base64(br#"{"alg":"none"}"#));
    assert!(!accepts(&auth, unsigned.as_bytes()));
}

const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Unpadded base64url (RFC 4648, section 5).
fn base64(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, i| {
            bits << 8 | u32::from(*chunk.get(i).unwrap_or(&0))
        });
        let letter = |i| char::from(LETTERS[(bits >> (18 - 6 * i)) as usize & 63]);
        out.extend((0..=chunk.len()).map(letter));
    }
    out
}

/// The JSON object in a part of a token.
fn object(part: &str) -> Option<Map<String, Value>> {
    let mut bytes = Vec::new();
    for chunk in part.as_bytes().chunks(4) {
        let mut bits = 0;
        for letter in chunk {
            bits = bits << 6 | LETTERS.iter().position(|other| other == letter)?;
        }
        bits <<= 6 * (4 - chunk.len());
        let all = [(bits >> 16) as u8, (bits >> 8) as u8, bits as u8];
        bytes.extend_from_slice(&all[..chunk.len() - 1]);
    }
    serde_json::from_slice(&bytes).ok()
}

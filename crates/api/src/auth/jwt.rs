//! JSON Web Tokens (RFC 7519): which are accepted, and what they say.
//!
//! `jsonwebtoken` does the cryptography and the claims; this file decides what it is asked. Each key is good for one algorithm,
//! chosen by the key and not by the token, so neither `alg: none` nor an HMAC made with a public key can pass
//! (RFC 8725, sections 2.1 and 3.1). `jku`, `jwk` and `x5u` in a header are never followed.
//! Invariant: a [`Token`] comes from a signature that was checked, with `exp` and `sub`, and for the configured audience and issuer.

use std::path::PathBuf;
use std::sync::Arc;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;

use super::jwt_keys::{self, JwtAlgorithm, VerifyingKey};
use super::scope::Scopes;
use super::watched::{FileError, Watched};

/// Longest token that is looked at, bytes. Access tokens of the large identity providers have 1 to 3 KiB.
const MAX_TOKEN_LEN: usize = 8 * 1024;
/// Longest `sub`, bytes: it stands in every log line of its requests.
const MAX_SUBJECT_LEN: usize = 256;

/// How tokens are checked. At least one file is given.
#[derive(Clone, Debug)]
pub struct JwtConfig {
    /// Secret for HS256; a newline at its end does not count.
    pub secret_file: Option<PathBuf>,
    /// One public key in PEM: RSA, EC P-256 or Ed25519.
    pub public_key_file: Option<PathBuf>,
    /// Public keys as a JSON Web Key Set (RFC 7517).
    pub jwks_file: Option<PathBuf>,
    /// The algorithms that may be used, each only with keys of its kind.
    pub algorithms: Vec<JwtAlgorithm>,
    /// One of these must be in `aud`. If empty, a token that has an `aud` is refused: it is for somebody else.
    pub audience: Vec<String>,
    /// One of these must be `iss`. If empty, `iss` is not looked at.
    pub issuer: Vec<String>,
    /// How far clocks may differ, seconds.
    pub leeway_seconds: u64,
}

impl JwtConfig {
    /// To start from: no file yet, every algorithm, no audience and no issuer, 30 s.
    pub fn without_keys() -> Self {
        Self {
            secret_file: None,
            public_key_file: None,
            jwks_file: None,
            algorithms: JwtAlgorithm::names()
                .filter_map(JwtAlgorithm::parse)
                .collect(),
            audience: Vec::new(),
            issuer: Vec::new(),
            leeway_seconds: 30,
        }
    }
}

/// What a checked token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    /// `sub`, and behind it `iss` where there is one: two issuers may use the same names.
    pub subject: String,
    pub scopes: Scopes,
}

/// Why a token is refused, as a sentence for its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("The token is not a JWT, or one with an algorithm that is not accepted here.")]
    Malformed,
    #[error("The token's algorithm is not accepted here.")]
    Algorithm,
    #[error("The token's signature is not valid.")]
    Signature,
    #[error("The token has expired.")]
    Expired,
    #[error("The token is not valid yet.")]
    NotYet,
    #[error("The token is for another audience.")]
    Audience,
    #[error("The token is from another issuer.")]
    Issuer,
    #[error(
        "The token lacks a claim: exp and sub are needed, aud and iss where the server asks for them."
    )]
    Claims,
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    sub: Option<String>,
    #[serde(default)]
    iss: Option<serde_json::Value>,
    #[serde(default)]
    aud: Option<serde_json::Value>,
    /// RFC 8693, section 4.2: names with spaces between them.
    #[serde(default)]
    scope: Option<ScopeClaim>,
    /// The same at some identity providers.
    #[serde(default)]
    scp: Option<ScopeClaim>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ScopeClaim {
    Text(String),
    List(Vec<String>),
}

impl ScopeClaim {
    fn names(&self) -> Vec<&str> {
        match self {
            Self::Text(text) => text.split_ascii_whitespace().collect(),
            Self::List(names) => names.iter().map(String::as_str).collect(),
        }
    }
}

/// Checks tokens.
#[derive(Debug)]
pub(crate) struct JwtVerifier {
    sources: Vec<Watched<Vec<VerifyingKey>>>,
    validation: Validation,
}

impl JwtVerifier {
    /// Reads the keys.
    ///
    /// # Errors
    /// A file cannot be read, or has no usable key.
    pub fn new(config: &JwtConfig) -> Result<Self, FileError> {
        let mut sources = Vec::new();
        let mut open = |path: &Option<PathBuf>, parse: jwt_keys::Parse| {
            if let Some(path) = path {
                let allowed = config.algorithms.clone();
                sources.push(Watched::open(path, move |bytes| parse(bytes, &allowed))?);
            }
            Ok::<_, FileError>(())
        };
        open(&config.secret_file, jwt_keys::secret)?;
        open(&config.public_key_file, jwt_keys::pem)?;
        open(&config.jwks_file, jwt_keys::jwks)?;

        let mut validation = Validation {
            leeway: config.leeway_seconds,
            validate_nbf: true,
            ..Validation::default()
        };
        let mut required = vec!["exp", "sub"];
        if !config.audience.is_empty() {
            validation.set_audience(&config.audience);
            required.push("aud");
        }
        if !config.issuer.is_empty() {
            validation.set_issuer(&config.issuer);
            required.push("iss");
        }
        validation.set_required_spec_claims(&required);
        Ok(Self {
            sources,
            validation,
        })
    }

    /// Checks a token.
    ///
    /// # Errors
    /// It is refused; the error is a sentence for whoever sent it.
    pub fn verify(&self, token: &str) -> Result<Token, TokenError> {
        if token.len() > MAX_TOKEN_LEN {
            return Err(TokenError::Malformed);
        }
        let header = decode_header(token).map_err(|_| TokenError::Malformed)?;
        // An extension that must be understood and is not (RFC 7515, section 4.1.11).
        if header.crit.is_some() {
            return Err(TokenError::Malformed);
        }
        let algorithm = JwtAlgorithm::of(header.alg).ok_or(TokenError::Algorithm)?;
        let sources: Vec<Arc<Vec<VerifyingKey>>> =
            self.sources.iter().filter_map(Watched::get).collect();
        let mut keys = (sources.iter().flat_map(|keys| keys.iter()))
            .filter(|key| key.algorithm == algorithm)
            .peekable();
        if keys.peek().is_none() {
            return Err(TokenError::Algorithm);
        }
        let mut validation = self.validation.clone();
        validation.algorithms = vec![header.alg];
        for key in keys.filter(|key| key.may_have_id(header.kid.as_deref())) {
            match self.verify_with(&key.key, token, &validation) {
                // Keys without an id are tried one after the other.
                Err(TokenError::Signature) => {}
                result => return result,
            }
        }
        Err(TokenError::Signature)
    }

    fn verify_with(
        &self,
        key: &DecodingKey,
        token: &str,
        validation: &Validation,
    ) -> Result<Token, TokenError> {
        let claims = decode::<Claims>(token, key, validation)
            .map_err(|error| refusal(error.kind()))?
            .claims;
        // jsonwebtoken 11.1 looks over an `aud` that is neither a text nor a list of texts.
        if claims.aud.is_some() && validation.aud.is_none() {
            return Err(TokenError::Audience);
        }
        let subject = claims
            .sub
            .filter(|sub| is_subject(sub))
            .ok_or(TokenError::Claims)?;
        let subject = match claims.iss.as_ref().and_then(|iss| iss.as_str()) {
            Some(issuer) => format!("{subject} {}", issuer.chars().take(256).collect::<String>()),
            None => subject,
        };
        let scopes = [claims.scope, claims.scp];
        let names = scopes.iter().flatten().flat_map(ScopeClaim::names);
        Ok(Token {
            subject,
            scopes: Scopes::known(names),
        })
    }
}

fn is_subject(sub: &str) -> bool {
    (1..=MAX_SUBJECT_LEN).contains(&sub.len()) && !sub.chars().any(char::is_control)
}

fn refusal(kind: &ErrorKind) -> TokenError {
    match kind {
        ErrorKind::ExpiredSignature => TokenError::Expired,
        ErrorKind::ImmatureSignature => TokenError::NotYet,
        ErrorKind::InvalidAudience => TokenError::Audience,
        ErrorKind::InvalidIssuer => TokenError::Issuer,
        ErrorKind::MissingRequiredClaim(_) | ErrorKind::InvalidClaimFormat(_) => TokenError::Claims,
        ErrorKind::InvalidAlgorithm => TokenError::Algorithm,
        // The signature was right, what it signs is not a set of claims.
        ErrorKind::Json(_) | ErrorKind::InvalidToken => TokenError::Malformed,
        _ => TokenError::Signature,
    }
}

#[cfg(test)]
#[path = "jwt_tests.rs"]
mod tests;

//! Who is asking, what they may do, and how much of it.
//!
//! ```text
//!  Authorization ──▶ guard ──▶ API key (key_file) ──┐
//!                      │   └─▶ JWT (jwt, jwt_keys) ─┴▶ Principal ──▶ scope of the route ──▶ limits ──▶ the handler
//!                      └────── 401 ◀── no or bad credential           └▶ 403                └▶ 429
//! ```
//! Runs before anything else looks at a request: its body is not read, its path not even found.
//! Knows no routes beyond what each asks for (`Access`). Invariants: a route is closed unless its row in the table of
//! `routes` opens it; no credential, and nothing made from one but a key's public id and a token's subject, appears in an
//! answer, a log or a metric.

mod api_key;
mod bucket;
mod guard;
mod jwt;
mod jwt_keys;
mod key_file;
mod limits;
mod scope;
mod watched;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use actix_web::http::header::{self, HeaderMap};

pub use api_key::{KeyHash, KeyRecord, KeyState, SecretKey};
pub(crate) use guard::guard;
pub use jwt::JwtConfig;
pub use jwt_keys::JwtAlgorithm;
pub use key_file::{KeyFileError, NewKey, create_key, list_keys, revoke_key};
pub use limits::{Clock, Limits};
pub(crate) use limits::{Lease, OverLimit, Standing};
pub use scope::{Scope, Scopes, UnknownScope};

use crate::error::{ApiError, ErrorCode};
use crate::state::unix_seconds;
use jwt::{JwtVerifier, TokenError};
use key_file::Keys;
use limits::Limiter;
use watched::{FileError, Watched};

/// Where credentials are found and what they are good for. Nothing has a default here.
#[derive(Clone, Debug)]
pub struct AuthConfig {
    /// The file of API keys; `None` accepts none.
    pub key_file: Option<PathBuf>,
    /// How tokens are checked; `None` accepts none.
    pub jwt: Option<JwtConfig>,
    /// What may be done without a credential, if credentials are asked for at all.
    pub anonymous_scopes: Scopes,
    /// Limits of every key and token that has none of its own. Those who come without a credential share one account.
    pub limits: Limits,
    /// What the limits go by.
    pub clock: Clock,
}

impl AuthConfig {
    /// Nobody is asked for anything, and nothing is limited.
    pub fn open() -> Self {
        Self {
            key_file: None,
            jwt: None,
            anonymous_scopes: Scopes::NONE,
            limits: Limits::default(),
            clock: Clock::monotonic(),
        }
    }
}

/// A file of credentials that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// There is no key file yet.
    #[error("there is no key file {}; this makes it, with a first key: gossamer keys create --key-file {} --name NAME", .0.display(), .0.display())]
    NoKeyFile(PathBuf),
    /// The key file cannot be used.
    #[error("the key file {0}")]
    KeyFile(String),
    /// A file of secrets or public keys for tokens cannot be used.
    #[error("the keys for JSON Web Tokens cannot be used: {0}")]
    Jwt(String),
}

/// What a route asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nothing.
    Open,
    /// Any valid credential: there is nothing to find here, but that is nobody else's business.
    Credential,
    /// A credential with this scope.
    Scope(Scope),
    /// The same, and using it counts against no limit: it runs nothing.
    Unmetered(Scope),
}

/// Somebody who was recognized.
#[derive(Clone, Debug)]
pub(crate) struct Principal {
    /// `key:ID`, `jwt:SUBJECT` or `anonymous`: the name of the account, and in the log.
    pub id: Arc<str>,
    scopes: Scopes,
    limits: Limits,
}

/// Decides over every request. Shared by all workers.
#[derive(Debug)]
pub struct Auth {
    keys: Option<Watched<Keys>>,
    jwt: Option<JwtVerifier>,
    anonymous: Principal,
    limits: Limits,
    limiter: Limiter,
}

/// Why a request is not let in.
#[derive(Clone, Debug)]
pub(crate) enum Refusal {
    /// There is no credential.
    Missing,
    /// There is one, and it is no good; a sentence.
    Invalid(String),
    /// It is good for other things.
    Scope(Scope),
    /// It was used too much.
    Limit(OverLimit, Standing),
    /// The route has no row in the table, and what is not listed is closed.
    Unlisted,
}

impl Auth {
    /// Reads every file of the configuration.
    ///
    /// # Errors
    /// A file that cannot be used.
    pub fn new(config: &AuthConfig) -> Result<Self, AuthError> {
        let keys = match &config.key_file {
            None => None,
            Some(path) => Some(Watched::open(path, key_file::parse).map_err(
                |error| match error {
                    FileError::Read { path, source }
                        if source.kind() == io::ErrorKind::NotFound =>
                    {
                        AuthError::NoKeyFile(path)
                    }
                    error => AuthError::KeyFile(error.to_string()),
                },
            )?),
        };
        let jwt = (config.jwt.as_ref())
            .map(JwtVerifier::new)
            .transpose()
            .map_err(|error| AuthError::Jwt(error.to_string()))?;
        let open = keys.is_none() && jwt.is_none();
        Ok(Self {
            keys,
            jwt,
            anonymous: Principal {
                id: Arc::from("anonymous"),
                scopes: if open {
                    Scopes::ALL
                } else {
                    config.anonymous_scopes
                },
                limits: config.limits,
            },
            limits: config.limits,
            limiter: Limiter::new(config.clock.clone()),
        })
    }

    /// Whether everybody is let in.
    pub fn is_open(&self) -> bool {
        self.keys.is_none() && self.jwt.is_none()
    }

    /// The name of who is asking: `key:ID`, `jwt:SUBJECT` or `anonymous`.
    ///
    /// # Errors
    /// The credential is no good; what the client is answered.
    pub fn identify(&self, headers: &HeaderMap) -> Result<Arc<str>, ApiError> {
        Ok(self.principal(headers)?.id)
    }

    /// Finds out who is asking.
    ///
    /// # Errors
    /// The credential is no good. None at all is [`Auth::anonymous`], who may do little.
    fn principal(&self, headers: &HeaderMap) -> Result<Principal, Refusal> {
        if self.is_open() {
            // Clients that must send a key send any; it is not looked at.
            return Ok(self.anonymous.clone());
        }
        let invalid = |message: &str| Refusal::Invalid(message.to_owned());
        let credential = match (bearer(headers)?, x_api_key(headers)?) {
            (None, None) => return Ok(self.anonymous.clone()),
            (Some(one), None) | (None, Some(one)) => one,
            (Some(one), Some(other)) if one == other => one,
            // Which of them counts is nothing to guess about.
            (Some(_), Some(_)) => {
                return Err(invalid(
                    "The headers Authorization and X-Api-Key hold different credentials; send one of them.",
                ));
            }
        };
        match (&self.keys, &self.jwt) {
            (Some(keys), _) if api_key::is_api_key(credential) => {
                self.key(keys.get().as_deref(), credential)
            }
            // A key of another service has no dots.
            (_, Some(jwt)) if credential.contains('.') => self.token(jwt, credential),
            _ => Err(invalid("Incorrect API key provided.")),
        }
    }

    fn key(&self, keys: Option<&Keys>, credential: &str) -> Result<Principal, Refusal> {
        let record = api_key::id_of(credential).and_then(|id| keys?.get(id));
        // Compared in any case, so that an id that exists is not answered more slowly than one that does not.
        let nobody = KeyHash::of("");
        let hash = record.map_or(nobody, |record| record.sha256);
        let matches = hash.matches(credential);
        let refuse = |message: &str| Err(Refusal::Invalid(message.to_owned()));
        let Some(record) = record.filter(|_| matches) else {
            return refuse("Incorrect API key provided.");
        };
        match record.state(unix_seconds()) {
            KeyState::Valid => Ok(Principal {
                id: Arc::from(format!("key:{}", record.id)),
                scopes: record.scopes,
                limits: record.limits().or(self.limits),
            }),
            KeyState::Expired => refuse("The API key has expired."),
            KeyState::Revoked => refuse("The API key has been revoked."),
        }
    }

    fn token(&self, jwt: &JwtVerifier, credential: &str) -> Result<Principal, Refusal> {
        let token = jwt
            .verify(credential)
            .map_err(|error: TokenError| Refusal::Invalid(error.to_string()))?;
        Ok(Principal {
            id: Arc::from(format!("jwt:{}", token.subject)),
            scopes: token.scopes,
            limits: self.limits,
        })
    }

    /// Lets a request in, or not. The lease is there if the request counts against limits.
    fn admit(
        &self,
        headers: &HeaderMap,
        access: Access,
    ) -> Result<(Principal, Option<Lease>), Refusal> {
        let principal = self.principal(headers)?;
        let anonymous = Arc::ptr_eq(&principal.id, &self.anonymous.id);
        match access {
            // What needs no credential at all is open to every one too.
            Access::Scope(scope) | Access::Unmetered(scope)
                if principal.scopes.has(scope) || self.anonymous.scopes.has(scope) => {}
            Access::Credential if !anonymous || self.is_open() => {}
            _ if anonymous => return Err(Refusal::Missing),
            Access::Scope(scope) | Access::Unmetered(scope) => {
                return Err(Refusal::Scope(scope));
            }
            Access::Credential | Access::Open => {}
        }
        let limited =
            access == Access::Scope(Scope::Inference) && principal.limits != Limits::default();
        if !limited {
            return Ok((principal, None));
        }
        let lease = (self.limiter)
            .admit(&principal.id, principal.limits)
            .map_err(|(over, standing)| Refusal::Limit(over, standing))?;
        Ok((principal, Some(lease)))
    }
}

/// The credential in `Authorization: Bearer`.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let invalid = |message: &str| Refusal::Invalid(message.to_owned());
    let mut given = headers.get_all(header::AUTHORIZATION);
    let Some(value) = given.next() else {
        return Ok(None);
    };
    if given.next().is_some() {
        return Err(invalid("There is more than one Authorization header."));
    }
    (value.to_str().ok())
        .and_then(|value| value.trim().split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, credential)| credential.trim())
        .filter(|credential| !credential.is_empty())
        .map(Some)
        .ok_or_else(|| invalid("The Authorization header must be 'Bearer' and an API key."))
}

/// The credential in `X-Api-Key`, where Anthropic's clients put it. An empty one is none: some send it beside a token.
fn x_api_key(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let invalid = |message: &str| Refusal::Invalid(message.to_owned());
    let mut given = headers.get_all("x-api-key");
    let Some(value) = given.next() else {
        return Ok(None);
    };
    if given.next().is_some() {
        return Err(invalid("There is more than one X-Api-Key header."));
    }
    let credential = (value.to_str())
        .map_err(|_| invalid("The X-Api-Key header must be an API key."))?
        .trim();
    Ok(Some(credential).filter(|credential| !credential.is_empty()))
}

/// What is written into `WWW-Authenticate` (RFC 6750, section 3).
fn challenge(error: Option<(&str, &str)>) -> String {
    let mut challenge = "Bearer realm=\"gossamer\"".to_owned();
    if let Some((error, more)) = error {
        challenge.push_str(&format!(", error=\"{error}\", {more}"));
    }
    challenge
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Missing => Self::new(
                ErrorCode::InvalidApiKey,
                "You didn't provide an API key. Send it in the header 'Authorization: Bearer YOUR_KEY' (or 'X-Api-Key: YOUR_KEY').",
            )
            .with_challenge(challenge(None)),
            Refusal::Invalid(message) => {
                let described = format!("error_description=\"{message}\"");
                let challenge = challenge(Some(("invalid_token", &described)));
                Self::new(ErrorCode::InvalidApiKey, message).with_challenge(challenge)
            }
            Refusal::Scope(scope) => {
                let name = scope.as_str();
                let wanted = format!("scope=\"{name}\"");
                Self::new(
                    ErrorCode::MissingScope,
                    format!("You have insufficient permissions for this operation. Missing scopes: {name}."),
                )
                .with_challenge(challenge(Some(("insufficient_scope", &wanted))))
            }
            Refusal::Limit(over, _) => over.into(),
            Refusal::Unlisted => {
                Self::internal().with_internal("the route is missing in the table of routes")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_fit_a_quoted_string() {
        // RFC 9110, section 5.6.4: a quote or a backslash would end or change it.
        let sentences = [
            TokenError::Malformed.to_string(),
            TokenError::Claims.to_string(),
            TokenError::Expired.to_string(),
        ];
        for sentence in sentences {
            let error = ApiError::from(Refusal::Invalid(sentence.clone()));
            let challenge = error.challenge().expect("a challenge").to_owned();
            assert!(challenge.ends_with(&format!("error_description=\"{sentence}\"")));
            assert_eq!(challenge.matches('"').count(), 6, "{challenge}");
            assert!(challenge.is_ascii());
        }
    }
}

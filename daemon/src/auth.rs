//! Who calls the tunnel server: the credential of a request becomes an [`Identity`], or a refusal.
//!
//! Every request is authenticated, also those that a proxy in front has already checked. What an identity may
//! do is decided elsewhere: channels belong to one ([`crate::tunnel`]), destinations to its rules.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use jwt_core::{Claims, Compact, JwkSet, Policy, Rejection, dangerous};
use serde_json::json;

use crate::bearer::{self, NoToken};
use crate::clock::Clock;
use crate::revocation::{LiveRevocations, Revocations};
use crate::secret::Secret;
use crate::signing_key::LiveKeys;
use crate::tunnel::respond;

/// The longest identifier; ours are UUIDs, and it appears in every log line of the tunnel server.
const IDENTIFIER_BYTES: usize = 256;

/// Life of a token that the shared secret buys, as in NETunnel's sample plugin.
const SECRET_TOKEN_SECONDS: i64 = 30;

/// The caller of a request. Two identities are equal if they are the same caller, whatever token proved it.
#[derive(Clone)]
pub struct Identity {
    identifier: Arc<str>,
    /// The other issuer whose keys verified the token. The identifier begins with it.
    remote: Option<Arc<str>>,
    claims: Option<Arc<Claims>>,
}

impl Identity {
    fn named(identifier: &str) -> Self {
        Self { identifier: identifier.into(), remote: None, claims: None }
    }

    /// The name under which the caller is known.
    pub fn identifier(&self) -> &str {
        &self.identifier
    }

    /// The other issuer that vouches for the caller.
    pub fn remote(&self) -> Option<&str> {
        self.remote.as_deref()
    }

    /// Whether the verified token has the claim `name` with `value`, or with a list that holds it.
    pub fn has_claim(&self, name: &str, value: &str) -> bool {
        let raw = self.claims.as_ref().and_then(|claims| claims.raw(name));
        match raw.and_then(|raw| serde_json::from_str(raw).ok()) {
            Some(serde_json::Value::String(text)) => text == value,
            Some(serde_json::Value::Array(items)) => items.iter().any(|item| item == value),
            _ => false,
        }
    }
}

impl Identity {
    /// Whether the token that proved it has been revoked since.
    pub fn is_revoked(&self, revocations: &Revocations) -> bool {
        self.claims.as_ref().is_some_and(|claims| match &self.remote {
            None => revocations.refuses(claims),
            Some(name) => revocations.refuses_of(name, claims),
        })
    }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.identifier == other.identifier
    }
}

impl Eq for Identity {}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({:?})", self.identifier)
    }
}

/// How callers prove who they are.
#[derive(Clone, Debug)]
pub enum Mode {
    /// A JWT that one of these keys signed; its `identifier`, else its `sub`, is the caller.
    Jwt(LiveKeys),
    /// A token that the shared secret bought through `POST /authenticate`. All who know it are one caller.
    Secret(Secret),
    /// Nothing: whoever reaches the listener. Only for loopback listeners, which the configuration enforces.
    None,
    /// Nothing either: whoever reaches the internal listener is the operator.
    Operator,
}

/// Another issuer whose tokens are accepted, besides ours.
#[derive(Clone, Debug)]
pub struct RemoteIssuer {
    name: Arc<str>,
    keys: LiveKeys,
    policy: Policy,
}

impl RemoteIssuer {
    /// Its callers are `NAME:sub`. `keys` must hold public keys only. With an `issuer` or an `audience` its tokens
    /// have to name it, or one of them.
    pub fn new(
        name: &str,
        keys: LiveKeys,
        issuer: Option<String>,
        audience: Vec<String>,
        leeway: Duration,
    ) -> Self {
        let policy = Policy { issuer, audience, ..policy(leeway) };
        Self { name: name.into(), keys, policy }
    }

    fn caller(&self, claims: Claims) -> Result<Identity, AuthError> {
        let sub = claims.str("sub").filter(|sub| !sub.is_empty()).ok_or(AuthError::NoIdentity)?;
        let identifier = format!("{}:{sub}", self.name);
        if identifier.len() > IDENTIFIER_BYTES {
            return Err(AuthError::NoIdentity);
        }
        let (remote, identifier) = (Some(Arc::clone(&self.name)), identifier.into());
        Ok(Identity { identifier, remote, claims: Some(Arc::new(claims)) })
    }
}

/// What holds for every token. One without exp could not be taken back, and none of ours is.
fn policy(leeway: Duration) -> Policy {
    Policy { leeway, require_exp: true, ..Policy::default() }
}

/// Authenticates requests. Cheap to clone.
#[derive(Clone)]
pub struct Authenticator {
    keys: Keys,
    remotes: Arc<[RemoteIssuer]>,
    policy: Arc<Policy>,
    revocations: LiveRevocations,
    clock: Clock,
}

#[derive(Clone)]
enum Keys {
    Live(LiveKeys),
    Shared {
        secret: Secret,
        set: Arc<JwkSet>,
    },
    /// Everyone is this caller.
    Open(&'static str),
}

/// Why a request was not authenticated. [`IntoResponse`] is the answer; the reason is for the log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// No `Authorization: Bearer` header, or a malformed one.
    #[error("no bearer token")]
    Missing,
    /// More than one `Authorization` header.
    #[error("more than one Authorization header")]
    Ambiguous,
    /// The token was refused.
    #[error("bad token: {0}")]
    Rejected(#[source] Rejection),
    /// The token was good, and has been revoked.
    #[error("the token has been revoked")]
    Revoked,
    /// The token names no caller.
    #[error("the token has neither identifier nor sub, or an unusable one")]
    NoIdentity,
    /// There are no keys to check tokens with: our fault, not the caller's.
    #[error("no keys are available")]
    NoKeys,
    /// Any failure under a shared secret, whose users expect NETunnel's bare 403.
    #[error("forbidden: {0}")]
    Forbidden(#[source] Box<AuthError>),
}

/// The secret cannot be used as a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the shared secret is empty")]
pub struct EmptySecret;

impl Authenticator {
    /// `leeway` is the tolerance for `exp` and `nbf`. It should be a minute at least: NETunnel's client renews
    /// its token exactly at `exp`, and a refused tunnel websocket ends its process.
    ///
    /// # Errors
    /// [`EmptySecret`].
    pub fn new(mode: Mode, leeway: Duration, clock: Clock) -> Result<Self, EmptySecret> {
        let keys = match mode {
            Mode::Jwt(keys) => Keys::Live(keys),
            Mode::Secret(secret) => {
                let k = URL_SAFE_NO_PAD.encode(secret.expose());
                let set = json!({"keys": [{"kty": "oct", "alg": "HS256", "k": k}]}).to_string();
                let set = JwkSet::parse(set.as_bytes()).map_err(|_| EmptySecret)?;
                Keys::Shared { secret, set: Arc::new(set) }
            }
            Mode::None => Keys::Open("anonymous"),
            Mode::Operator => Keys::Open("operator"),
        };
        let (remotes, policy) = (Arc::default(), Arc::new(policy(leeway)));
        Ok(Self { keys, remotes, policy, revocations: LiveRevocations::default(), clock })
    }

    /// Under [`Mode::Jwt`], accepts the tokens of these issuers, too.
    #[must_use]
    pub fn with_remotes(self, remotes: Vec<RemoteIssuer>) -> Self {
        Self { remotes: remotes.into(), ..self }
    }

    /// Refuses what is revoked there, too.
    #[must_use]
    pub fn with_revocations(self, revocations: LiveRevocations) -> Self {
        Self { revocations, ..self }
    }

    /// The caller of a request with these headers.
    ///
    /// # Errors
    /// [`AuthError`], whose response is the answer to the request.
    pub fn authenticate(&self, headers: &HeaderMap) -> Result<Identity, AuthError> {
        match &self.keys {
            Keys::Open(name) => Ok(Identity::named(name)),
            Keys::Shared { set, .. } => self
                .verify(headers, set)
                .map(|_| Identity::named("secret"))
                .map_err(|error| AuthError::Forbidden(Box::new(error))),
            Keys::Live(keys) => {
                let keys = keys.load();
                if keys.is_empty() && self.remotes.iter().all(|r| r.keys.load().is_empty()) {
                    return Err(AuthError::NoKeys);
                }
                let identity = self.identify(bearer::token(headers)?, &keys)?;
                if identity.is_revoked(&self.revocations.load()) {
                    return Err(AuthError::Revoked);
                }
                Ok(identity)
            }
        }
    }

    fn verify(&self, headers: &HeaderMap, keys: &JwkSet) -> Result<Claims, AuthError> {
        let token = bearer::token(headers)?;
        jwt_core::verify(token, keys, &self.policy, self.clock.unix_now())
            .map_err(AuthError::Rejected)
    }

    /// Whose the token is, by the keys that verify it: no claim has a say in that.
    fn identify(&self, token: &[u8], own: &JwkSet) -> Result<Identity, AuthError> {
        let now = self.clock.unix_now();
        let mut rejection = match jwt_core::verify(token, own, &self.policy, now) {
            Ok(claims) => return self.own_caller(claims),
            // Only the signature can be another issuer's.
            Err(Rejection::Verify(error)) => Rejection::Verify(error),
            Err(other) => return Err(AuthError::Rejected(other)),
        };
        for remote in &*self.remotes {
            match jwt_core::verify(token, &remote.keys.load(), &remote.policy, now) {
                Ok(claims) => return remote.caller(claims),
                // Two may share keys, and differ in their audience. The first reason is told.
                Err(error @ Rejection::Claim(_)) => match rejection {
                    Rejection::Claim(_) => {}
                    _ => rejection = error,
                },
                Err(_) => {}
            }
        }
        match rejection {
            Rejection::Verify(_) if own.is_empty() || self.lacks_keys_for(token) => {
                Err(AuthError::NoKeys)
            }
            rejection => Err(AuthError::Rejected(rejection)),
        }
    }

    /// Whether a token that nobody's keys verify claims to be of an issuer whose keys have never come: then it is
    /// not the caller's fault.
    fn lacks_keys_for(&self, token: &[u8]) -> bool {
        let claims = || dangerous::claims(&Compact::parse(token).ok()?);
        let without = self.remotes.iter().filter(|remote| remote.keys.load().is_empty());
        let mut issuers = without.filter_map(|remote| remote.policy.issuer.as_deref()).peekable();
        issuers.peek().is_some()
            && claims().is_some_and(|claims| {
                claims.str("iss").is_some_and(|iss| issuers.any(|issuer| issuer == iss))
            })
    }

    fn own_caller(&self, claims: Claims) -> Result<Identity, AuthError> {
        let name = claims.str("identifier").or_else(|| claims.str("sub"));
        let name = name.filter(|name| (1..=IDENTIFIER_BYTES).contains(&name.len()));
        // A key of ours can sign anything; the names of other issuers' callers are theirs.
        let name = name.filter(|name| match name.split_once(':') {
            Some((issuer, _)) => self.remotes.iter().all(|remote| *remote.name != *issuer),
            None => true,
        });
        let identifier = Arc::from(name.ok_or(AuthError::NoIdentity)?.as_ref());
        Ok(Identity { identifier, remote: None, claims: Some(Arc::new(claims)) })
    }

    /// Whether `POST /authenticate` exists.
    pub(crate) fn sells_tokens(&self) -> bool {
        matches!(self.keys, Keys::Shared { .. })
    }

    /// A short-lived token for who knows the shared secret.
    pub(crate) fn buy_token(&self, offered: &str) -> Option<String> {
        let Keys::Shared { secret, .. } = &self.keys else { return None };
        let secret = secret.expose().as_bytes();
        aws_lc_rs::constant_time::verify_slices_are_equal(offered.as_bytes(), secret).ok()?;
        let claims = json!({"exp": self.clock.unix_now() + SECRET_TOKEN_SECONDS});
        let header = Header::new(Algorithm::HS256);
        jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(secret)).ok()
    }
}

impl From<NoToken> for AuthError {
    fn from(why: NoToken) -> Self {
        match why {
            NoToken::Missing => Self::Missing,
            NoToken::Ambiguous => Self::Ambiguous,
        }
    }
}

impl AuthError {
    /// The word of log lines: those of the module where it has one.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Ambiguous => "malformed",
            Self::Rejected(rejection) => rejection.reason(),
            Self::Revoked => "revoked",
            Self::NoIdentity => "claim",
            Self::NoKeys => "keys_unavailable",
            Self::Forbidden(inner) => inner.reason(),
        }
    }
}

impl IntoResponse for AuthError {
    fn into_response(self) -> Response {
        let unauthorized = |challenge: &'static str, error: &str| {
            // RFC 6750 §3: no error code where no credential was presented, and never the reason.
            let mut response = respond::error(StatusCode::UNAUTHORIZED, error);
            let challenge = HeaderValue::from_static(challenge);
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
            response
        };
        match self {
            Self::Missing => {
                unauthorized("Bearer realm=\"netunnel\"", "a bearer token is required")
            }
            Self::Ambiguous | Self::Rejected(_) | Self::Revoked | Self::NoIdentity => unauthorized(
                "Bearer realm=\"netunnel\", error=\"invalid_token\"",
                "the token is not valid",
            ),
            Self::NoKeys => respond::unavailable("tokens cannot be checked at the moment"),
            Self::Forbidden(_) => respond::plain(StatusCode::FORBIDDEN),
        }
    }
}

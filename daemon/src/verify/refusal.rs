//! Why a request is not let through, and the answer to it (RFC 6750 §3).

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use jwt_core::{ClaimError, Rejection, VerifyError};

use crate::bearer::NoToken;
use crate::tunnel::respond;

/// Why a request is not let through. The text is for the log; [`Refusal::status`] is what the caller learns.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// No `Authorization: Bearer` header, or a malformed one.
    #[error("no bearer token")]
    Missing,
    /// More than one `Authorization` header.
    #[error("more than one Authorization header")]
    Ambiguous,
    /// The token is bad.
    #[error("bad token: {0}")]
    Rejected(#[source] Rejection),
    /// The token was good, and has been revoked.
    #[error("revoked: {0}")]
    Revoked(jwt_core::Revoked),
    /// The token is good, but not for this: a scope of the policy is missing, or a claim that the handler needs.
    #[error("the token lacks a scope or a claim")]
    Insufficient,
    /// There are no keys to check tokens with, or the newest ones can't be read: our fault, not the caller's.
    #[error("no keys are available")]
    KeysUnavailable,
}

impl Refusal {
    /// 401, 403 where the token is good, 503 where the fault is ours.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Insufficient => StatusCode::FORBIDDEN,
            Self::KeysUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::UNAUTHORIZED,
        }
    }

    /// The word of log lines, as of the nginx module: `missing`, `sig`, `expired`, …
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Ambiguous => "malformed",
            Self::Rejected(rejection) => rejection.reason(),
            Self::Revoked(_) => "revoked",
            Self::Insufficient => "claim",
            Self::KeysUnavailable => "keys_unavailable",
        }
    }

    /// Whether no key is known that could have signed the token.
    pub(super) fn is_unknown_key(&self) -> bool {
        matches!(self, Self::Rejected(Rejection::Verify(VerifyError::UnknownKey)))
    }
}

impl From<NoToken> for Refusal {
    fn from(why: NoToken) -> Self {
        match why {
            NoToken::Missing => Self::Missing,
            NoToken::Ambiguous => Self::Ambiguous,
        }
    }
}

impl<R: Into<Rejection>> From<R> for Refusal {
    fn from(rejection: R) -> Self {
        match rejection.into() {
            // Authorisation: the token is good (RFC 6750 §3.1).
            Rejection::Claim(ClaimError::Scope) => Self::Insufficient,
            rejection => Self::Rejected(rejection),
        }
    }
}

/// The challenges of one realm.
#[derive(Clone, Debug)]
pub(super) struct Challenges {
    missing: HeaderValue,
    invalid: HeaderValue,
    insufficient: HeaderValue,
}

impl Challenges {
    /// None for a realm that is no plain text.
    pub(super) fn of(realm: &str) -> Option<Self> {
        let plain = |c: char| (c.is_ascii_graphic() || c == ' ') && c != '"' && c != '\\';
        if !realm.chars().all(plain) {
            return None;
        }
        let challenge =
            |rest| HeaderValue::from_str(&format!("Bearer realm=\"{realm}\"{rest}")).ok();
        Some(Self {
            // RFC 6750 §3.1: no error code where no token was presented. Never a description: it would be an oracle.
            missing: challenge("")?,
            invalid: challenge(", error=\"invalid_token\"")?,
            insufficient: challenge(", error=\"insufficient_scope\"")?,
        })
    }

    /// The answer for `refusal`.
    pub(super) fn answer(&self, refusal: &Refusal) -> Response {
        let (challenge, text) = match refusal {
            Refusal::KeysUnavailable => {
                return respond::unavailable("tokens cannot be checked at the moment");
            }
            Refusal::Missing => (&self.missing, "a bearer token is required"),
            Refusal::Insufficient => (&self.insufficient, "the token is not sufficient"),
            _ => (&self.invalid, "the token is not valid"),
        };
        let mut response = respond::error(refusal.status(), text);
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge.clone());
        response
    }
}

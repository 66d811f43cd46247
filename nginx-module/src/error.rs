//! What can go wrong, and the one place that maps it to a status, a challenge and a log line.

use jwt_core::{ClaimError, CompactError, Rejection, Revoked};

use crate::log::{Level, escape};
use crate::rules::Mismatch;

/// Why a directive is refused. nginx adds the file and the line.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfError {
    /// A second one at the same level.
    #[error("\"{0}\" directive is duplicate")]
    Duplicate(&'static str),
    #[error("invalid value \"{value}\" of \"{directive}\": {expected}")]
    Value { directive: &'static str, value: String, expected: String },
    /// A file that must be good from the start.
    #[error("\"{directive}\" \"{path}\" can't be used: {cause}; {remedy}")]
    File { directive: &'static str, path: String, cause: String, remedy: &'static str },
    /// Two directives that contradict each other at one level.
    #[error("\"{0}\" and \"{1}\" can't stand at the same level: {2}")]
    Conflict(&'static str, &'static str, &'static str),
    /// A directive that has to come before the others.
    #[error(
        "\"{0}\" directive must be first: it decides how the other auth_jwt directives are read"
    )]
    NotFirst(&'static str),
    /// nginx's own function has failed and logged why.
    #[error("\"{0}\" directive could not be set")]
    Nginx(&'static str),
}

/// Why a request may not pass.
#[derive(Debug)]
pub(crate) enum Cause {
    /// No token where the configuration looks for one.
    Missing { from_variable: bool },
    /// A token in more than one place, with `auth_jwt_reject_multiple`.
    Multiple,
    /// The token is bad.
    Token(Rejection),
    /// No issuer is configured for the token's `iss`.
    Issuer,
    /// The daemon's file revokes it.
    Revoked(Revoked),
    /// A list names its sub, kid or jti. `text` is the JSON beside the value.
    Denied { list: &'static str, value: String, text: String },
    /// A list is configured for a claim that the token does not have.
    NoListValue(&'static str),
    /// A requirement fails.
    Rule(Mismatch),
    /// The claim `scope` lacks one that is required.
    Scope(String),
    /// Its jti was seen before.
    Replayed,
    /// It has no jti or exp, which `auth_jwt_replay` needs.
    NoReplayClaims,
    /// The replay zone is full of tokens that are still valid.
    ReplayFull,
    /// Our side has no keys, or no revocations, to decide with.
    KeysUnavailable,
    /// The configuration names no key source for this location.
    NoKeySource,
    /// A bug of ours, or no memory.
    Internal,
}

/// A cause and what the client is told.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) cause: Cause,
    pub(crate) status: u16,
}

impl From<Cause> for Refusal {
    /// With the status that the cause has by itself. A fault on our side is never a 401: clients throw credentials
    /// away on one.
    fn from(cause: Cause) -> Self {
        let status = match cause {
            Cause::Multiple => 400,
            Cause::Scope(_) => 403,
            Cause::KeysUnavailable | Cause::ReplayFull => 503,
            Cause::Internal => 500,
            _ => 401,
        };
        Self { cause, status }
    }
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        Cause::Token(rejection).into()
    }
}

impl Refusal {
    pub(crate) fn no_list_value(name: &'static str) -> Self {
        Cause::NoListValue(name).into()
    }

    /// What is counted and logged.
    pub(crate) fn reason(&self) -> Reason {
        match &self.cause {
            Cause::Missing { .. } => Reason::Missing,
            Cause::Multiple => Reason::Malformed,
            Cause::Token(rejection) => Reason::of(rejection),
            Cause::Issuer => Reason::Iss,
            Cause::Revoked(_) | Cause::Denied { .. } => Reason::Revoked,
            Cause::NoListValue(_) | Cause::Rule(_) | Cause::Scope(_) | Cause::NoReplayClaims => {
                Reason::Claim
            }
            Cause::Replayed => Reason::Replayed,
            Cause::KeysUnavailable | Cause::NoKeySource => Reason::KeysUnavailable,
            Cause::Internal | Cause::ReplayFull => Reason::Internal,
        }
    }

    /// Clients' faults at `info`, ours at `error`.
    pub(crate) fn level(&self) -> Level {
        match self.cause {
            Cause::KeysUnavailable | Cause::NoKeySource | Cause::Internal | Cause::ReplayFull => {
                Level::Error
            }
            _ => Level::Info,
        }
    }

    /// Whether a bad token came, so that the challenge says so.
    pub(crate) fn blames_token(&self) -> bool {
        !matches!(
            self.cause,
            Cause::Missing { .. }
                | Cause::NoKeySource
                | Cause::KeysUnavailable
                | Cause::Internal
                | Cause::ReplayFull
        )
    }

    /// `WWW-Authenticate` (RFC 6750 §3): no error attribute when no token came. The reason goes to the log only,
    /// so that the answer is no oracle.
    pub(crate) fn challenge(&self, realm: &[u8]) -> Option<Vec<u8>> {
        let error = match (self.blames_token(), self.status) {
            (false, 401) => None,
            (true, 401) => Some("invalid_token"),
            (true, 403) => Some("insufficient_scope"),
            (true, 400) => Some("invalid_request"),
            _ => return None,
        };
        let mut challenge = b"Bearer realm=".to_vec();
        quote(realm, &mut challenge);
        if let Some(error) = error {
            challenge.extend(format!(", error=\"{error}\"").bytes());
        }
        if let Cause::Scope(scope) = &self.cause {
            challenge.extend(b", scope=");
            quote(scope.as_bytes(), &mut challenge);
        }
        Some(challenge)
    }

    /// The line for the error log. `kid` is the client's text; `keys` names the key sets.
    pub(crate) fn line(&self, verb: &str, kid: Option<&str>, keys: &str) -> String {
        let kid = kid.map(|kid| format!(" kid=\"{}\"", escape(kid))).unwrap_or_default();
        let reason = self.reason().name();
        let mut line = format!("jwt: {verb} reason={reason} status={}{kid}{keys}", self.status);
        let cause = match &self.cause {
            Cause::NoKeySource => "no auth_jwt_key_file in this location".to_owned(),
            Cause::Multiple => "more than one token in the request".to_owned(),
            Cause::Revoked(what) => what.to_string(),
            Cause::Denied { list, .. } => format!("its {list} is in a revocation list"),
            Cause::NoListValue(name) => format!("no {name}, which a revocation list needs"),
            Cause::Rule(mismatch) => mismatch.to_string(),
            Cause::Scope(_) => "scope".to_owned(),
            Cause::NoReplayClaims => "no jti or no exp, which auth_jwt_replay needs".to_owned(),
            Cause::ReplayFull => "the zone of auth_jwt_replay is full; make it larger".to_owned(),
            _ => return line,
        };
        line.push_str(&format!(" cause=\"{cause}\""));
        line
    }

    /// Whether the token has no exp where one is needed.
    pub(crate) fn lacks_exp(&self) -> bool {
        matches!(
            self.cause,
            Cause::Token(Rejection::Claim(ClaimError::NoExpiry | ClaimError::NotADate("exp")))
        )
    }

    /// Whether no algorithm that signs is named.
    pub(crate) fn is_algorithm(&self) -> bool {
        matches!(self.cause, Cause::Token(Rejection::Compact(CompactError::Algorithm)))
    }
}

/// RFC 9110 §5.6.4: a quoted-string; a control character would end the header.
fn quote(text: &[u8], to: &mut Vec<u8>) {
    to.push(b'"');
    for &byte in text {
        match byte {
            b'"' | b'\\' => to.extend([b'\\', byte]),
            0..=0x1f | 0x7f => {}
            _ => to.push(byte),
        }
    }
    to.push(b'"');
}

/// Defines [`Reason`] with its words.
macro_rules! reasons {
    ($($variant:ident => $word:literal,)*) => {
        /// The word of log lines, counters and `$auth_jwt_status`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Reason { $($variant,)* }

        impl Reason {
            pub(crate) const ALL: [Self; [$(Self::$variant,)*].len()] = [$(Self::$variant,)*];

            pub(crate) fn name(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            fn from_name(name: &str) -> Option<Self> {
                match name { $($word => Some(Self::$variant),)* _ => None }
            }
        }
    };
}
reasons! {
    Missing => "missing",
    Malformed => "malformed",
    TooLarge => "too_large",
    Alg => "alg",
    Crit => "crit",
    Typ => "typ",
    KeyUnknown => "key_unknown",
    Sig => "sig",
    Expired => "expired",
    NotYet => "not_yet",
    Iss => "iss",
    Aud => "aud",
    Claim => "claim",
    Revoked => "revoked",
    Replayed => "replayed",
    KeysUnavailable => "keys_unavailable",
    Internal => "internal",
}

impl Reason {
    fn of(rejection: &Rejection) -> Self {
        // The core's words are among ours; one that is new there still counts as a refusal.
        Self::from_name(rejection.reason()).unwrap_or(Self::Malformed)
    }
}

//! What can go wrong, and the one place that maps it to a status, a challenge and a log line.

use jwt_core::{Rejection, VerifyError};

use crate::log::{Level, escape};

/// Why a directive is refused. nginx adds the file and the line.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfError {
    /// A second one at the same level.
    #[error("\"{0}\" directive is duplicate")]
    Duplicate(&'static str),
    #[error("invalid value \"{value}\" of \"{directive}\": {expected}")]
    Value { directive: &'static str, value: String, expected: &'static str },
    /// A key file that must be good from the start.
    #[error(
        "\"auth_jwt_key_file\" \"{path}\" can't be used: {cause}; \
         mend it, or add \"optional\" to start without it (503 until it is good)"
    )]
    KeyFile { path: String, cause: String },
    /// nginx's own function has failed and logged why.
    #[error("\"{0}\" directive could not be set")]
    Nginx(&'static str),
}

/// Why a request may not pass.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// No token where the configuration looks for one.
    Missing,
    /// The token is bad.
    Token(Rejection),
    /// Our side has no keys to decide with.
    KeysUnavailable,
    /// The configuration names no key source for this location.
    NoKeySource,
    /// A bug of ours, or no memory.
    Internal,
}

impl Refusal {
    /// The status of the answer. A fault on our side is never a 401: clients throw credentials away on one.
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::Missing | Self::Token(_) | Self::NoKeySource => 401,
            Self::KeysUnavailable => 503,
            Self::Internal => 500,
        }
    }

    /// The reason word of the log line.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Token(rejection) => rejection.reason(),
            Self::KeysUnavailable | Self::NoKeySource => "keys_unavailable",
            Self::Internal => "internal",
        }
    }

    /// Clients' faults at `info`, ours at `error`.
    pub(crate) fn level(&self) -> Level {
        match self {
            Self::Missing | Self::Token(_) => Level::Info,
            Self::KeysUnavailable | Self::NoKeySource | Self::Internal => Level::Error,
        }
    }

    /// `WWW-Authenticate` (RFC 6750 §3): no error attribute when no token came. The reason goes to the log only,
    /// so that the answer is no oracle.
    pub(crate) fn challenge(&self, realm: &[u8]) -> Option<Vec<u8>> {
        let error: &[u8] = match self {
            Self::Missing | Self::NoKeySource => b"",
            Self::Token(_) => b", error=\"invalid_token\"",
            Self::KeysUnavailable | Self::Internal => return None,
        };
        let mut challenge = b"Bearer realm=\"".to_vec();
        for &byte in realm {
            match byte {
                // RFC 9110 §5.6.4: a quoted-string; a control character would end the header.
                b'"' | b'\\' => challenge.extend([b'\\', byte]),
                0..=0x1f | 0x7f => {}
                _ => challenge.push(byte),
            }
        }
        challenge.push(b'"');
        challenge.extend(error);
        Some(challenge)
    }

    /// The line for the error log. `kid` is the client's text.
    pub(crate) fn line(&self, kid: Option<&str>, keys: &str) -> String {
        let kid = kid.map(|kid| format!(" kid=\"{}\"", escape(kid))).unwrap_or_default();
        let mut line =
            format!("jwt: denied reason={} status={}{kid}{keys}", self.reason(), self.status());
        if matches!(self, Self::NoKeySource) {
            line.push_str(" cause=\"no auth_jwt_key_file in this location\"");
        }
        line
    }

    /// Whether other keys might have accepted the token.
    pub(crate) fn is_unknown_key(&self) -> bool {
        matches!(self, Self::Token(Rejection::Verify(VerifyError::UnknownKey)))
    }
}

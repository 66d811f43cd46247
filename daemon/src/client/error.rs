//! Why there is no token, or no answer: what went wrong, where, and whether another try can help.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest::StatusCode;

/// A cause of any kind.
type SharedCause = Arc<dyn std::error::Error + Send + Sync>;

/// Why there is no token. Cheap to clone: all who waited for one exchange get its error.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The file with a token or a refresh token.
    #[error("the token file {} cannot be read: {source}", file.display())]
    File {
        /// Its path.
        file: PathBuf,
        /// The system's word.
        source: Arc<io::Error>,
    },
    /// Other users can read the file with the refresh token.
    #[error(
        "the refresh token file {} can be read by others than its owner: chmod 600 it, or ask for \
             another token if somebody may have seen this one",
        .0.display()
    )]
    Exposed(PathBuf),
    /// The file or the answer holds something else.
    #[error("what should be a token is none")]
    NotAToken,
    /// The JWThenticator URI.
    #[error(
        "the JWThenticator URI \"{0}\" cannot be used: expected a path such as /jwthenticator, or a URL"
    )]
    Uri(String),
    /// The key is unknown, expired or revoked.
    #[error(
        "{0} refuses the key, refresh token or secret (401 or 403). It is unknown, expired or revoked: register a \
             key again with `jwtunnel keys register`, or check the identifier"
    )]
    Refused(String),
    /// Neither key nor refresh token.
    #[error("there is neither a key nor a refresh token")]
    Nothing,
    /// The service answers, but not with a token.
    #[error(
        "{url} answers {status} instead of a token. Is it JWThenticator's URL? Give it with --auth-uri"
    )]
    Status {
        /// What was asked.
        url: String,
        /// Its status.
        status: StatusCode,
        /// When the service wants to be asked again, if it told (RFC 9110 §10.2.3).
        retry_after: Option<Duration>,
    },
    /// No connection, or it broke.
    #[error("cannot reach {url}: {}", causes(source))]
    Unreachable {
        /// What was asked.
        url: String,
        /// HTTP's word.
        source: SharedCause,
    },
    /// The HTTP client could not be set up.
    #[error("the HTTP client cannot be set up: {}", causes(.0))]
    Http(#[source] SharedCause),
    /// The exchange was broken off from within: the runtime is being shut down, or a bug.
    #[error("the exchange for a token was broken off")]
    Aborted,
}

impl TokenError {
    /// Whether the same credentials may do later, without anybody's help: the service could not be reached, had a
    /// fault of its own, or has asked for patience (429).
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Aborted => true,
            Self::Status { status, .. } => {
                status.is_server_error()
                    || matches!(
                        *status,
                        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
                    )
            }
            _ => false,
        }
    }

    /// Whether the service has refused the credentials, or there are none left. They stay with the client all the
    /// same.
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Nothing)
    }

    /// How long the service asks to wait before another try, if it does.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether a program that goes on trying should stop: what is wrong is in its settings. Another path than
    /// JWThenticator's is not among it, as a gateway that is being set up answers with 404 too.
    pub(crate) fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Uri(_) | Self::Refused(_) | Self::Nothing | Self::Exposed(_) | Self::Http(_)
        )
    }
}

/// Why a request of [`Client::send`](super::Client::send) has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// There is no token to send with it.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The request could not be made, sent, or answered.
    #[error("the request failed: {0}")]
    Request(#[from] reqwest::Error),
}

impl SendError {
    /// Whether another try may do later: [`TokenError::is_retryable`], or no connection, or no answer in time. The
    /// service may have done what it was asked to in the last case, so repeat only what may be done twice.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Token(error) => error.is_retryable(),
            Self::Request(error) => error.is_connect() || error.is_timeout(),
        }
    }
}

/// The chain of causes in one line: the outermost alone is often just "error sending request".
pub(crate) fn causes<E: std::error::Error + ?Sized>(error: &E) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// rel:0.1: a fault of the service's is no reason to give up a credential.
    #[test]
    fn only_what_may_pass_is_worth_another_try() {
        let status = |status| TokenError::Status {
            url: "u".into(),
            status,
            retry_after: Some(Duration::from_secs(3)),
        };
        for (error, retryable, refused) in [
            (status(StatusCode::SERVICE_UNAVAILABLE), true, false),
            (status(StatusCode::TOO_MANY_REQUESTS), true, false),
            (status(StatusCode::NOT_FOUND), false, false),
            (TokenError::Refused("u".into()), false, true),
            (TokenError::Nothing, false, true),
            (TokenError::NotAToken, false, false),
        ] {
            assert_eq!((error.is_retryable(), error.is_refused()), (retryable, refused), "{error}");
            let wait = matches!(error, TokenError::Status { .. }).then_some(Duration::from_secs(3));
            assert_eq!(error.retry_after(), wait);
        }
    }
}

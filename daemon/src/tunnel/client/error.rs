//! What can go wrong for a client, in sentences that name the server, the cause and the remedy.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use reqwest::StatusCode;

use crate::client::{TokenError, causes};
use crate::tunnel::control::ControlEnd;

/// A cause of any kind.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why the client could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The server's URL.
    #[error("the server's URL \"{url}\" cannot be used: {why}")]
    Url {
        /// As it was given.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// The proxy's URL.
    #[error("the proxy cannot be used: {why}")]
    Proxy {
        /// What is wrong with it.
        why: String,
    },
    /// A file with certificates or a private key.
    #[error("{} cannot be used: {why}", file.display())]
    CaFile {
        /// Its path.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// TLS could not be set up at all.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    /// No connection, or it broke.
    #[error("cannot reach {server}: {}. Is the server running, and the URL right?", causes(&**source))]
    Unreachable {
        /// Its URL.
        server: String,
        /// The system's, TLS's or HTTP's word.
        source: Cause,
    },
    /// The server does not know the caller.
    #[error(
        "{server} refuses the credentials ({status}{}{reason}). Give a registered key with --key-file, or a \
             valid token with --token-file; is this machine's clock right?",
        colon(reason)
    )]
    Unauthorized {
        /// Its URL.
        server: String,
        /// The HTTP status.
        status: StatusCode,
        /// The server's text, if any.
        reason: String,
    },
    /// The server knows the caller and refuses the request.
    #[error("{server} answers {status}{}{reason}{}", colon(reason), remedy(*status, reason))]
    Refused {
        /// Its URL.
        server: String,
        /// The HTTP status.
        status: StatusCode,
        /// The server's text, if any.
        reason: String,
    },
    /// The answer is not what the protocol says.
    #[error(
        "{server} does not answer as a NETunnel server: {what}. Does the URL have the right path, such as /netunnel?"
    )]
    NotNetunnel {
        /// Its URL.
        server: String,
        /// What is missing.
        what: &'static str,
    },
    /// No token could be had.
    #[error(transparent)]
    Credentials(#[from] TokenError),
    /// The local entrance.
    #[error(
        "cannot listen on {address}: {source}. Is the port in use? Choose another with --local-port"
    )]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// The system's word.
        source: io::Error,
    },
    /// The local entrance as a UNIX socket.
    #[error("cannot listen on {}: {source}. Is its folder there and writable, and the name free?", path.display())]
    BindUnix {
        /// The path asked for.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// A tunnel for datagrams was asked for.
    #[error(
        "{server} has no tunnels for UDP. Is it NETunnel's original, or an older jwtunneld, or does it have \
         netunnel.udp = false? Take TCP, or ask its operator"
    )]
    NoUdp {
        /// Its URL.
        server: String,
    },
    /// The channel ended before the answer came.
    #[error("the channel to {server} ended: {end}")]
    Ended {
        /// Its URL.
        server: String,
        /// Why.
        end: ControlEnd,
    },
}

impl ClientError {
    /// Whether trying again later can't help without the user.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Url { .. }
            | Self::Proxy { .. }
            | Self::CaFile { .. }
            | Self::Tls(_)
            | Self::Unauthorized { .. } => true,
            Self::Bind { .. } | Self::BindUnix { .. } | Self::NoUdp { .. } => true,
            // What the policy forbids, not what is busy.
            Self::Refused { status, .. } => {
                matches!(*status, StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST)
            }
            Self::Credentials(error) => error.is_final(),
            Self::Unreachable { .. } | Self::NotNetunnel { .. } | Self::Ended { .. } => false,
        }
    }
}

impl ClientError {
    /// Whether the server, or its JWThenticator, does not take the credentials.
    pub fn is_unauthorized(&self) -> bool {
        matches!(self, Self::Unauthorized { .. })
            || matches!(self, Self::Credentials(error) if error.is_refused())
    }
}

fn colon(reason: &str) -> &'static str {
    if reason.is_empty() { "" } else { ": " }
}

fn remedy(status: StatusCode, reason: &str) -> &'static str {
    match status {
        StatusCode::FORBIDDEN if reason.contains("tunnel destination") => {
            ". The server's operator can allow it in allowed_tunnel_destinations or with a rule"
        }
        StatusCode::FORBIDDEN if reason.contains("tunnel entrance") => {
            ". Without a rule of the server's operator, 127.0.0.1 and ports from 1024 are possible"
        }
        StatusCode::CONFLICT if reason.contains("in use") => {
            ". Choose another port with --remote-port"
        }
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
            ". Does the URL have the right path, such as /netunnel?"
        }
        _ => "",
    }
}

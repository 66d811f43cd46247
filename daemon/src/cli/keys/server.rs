//! How the command line asks the daemon, over its internal listener.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use axum::http::{Method, Request, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::cli::UsageError;
use crate::logging::untrusted;

/// Longer than the daemon's own deadline for an answer.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Where the daemon's internal listener is, and how to print.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Connection {
    /// The daemon's internal listener: http://HOST:PORT or unix:/path.
    #[arg(
        long,
        value_name = "URL",
        env = "JWTUNNEL_INTERNAL",
        default_value = "http://127.0.0.1:5051"
    )]
    server: String,

    /// Print one JSON object instead of lines.
    #[arg(long)]
    json: bool,
}

fn bad_server(text: &str) -> String {
    format!("--server {}: expected http://HOST:PORT or unix:/path", untrusted(text))
}

impl Connection {
    /// # Errors
    /// A mistake in `--server`.
    pub(in crate::cli) fn server(&self) -> Result<Server, UsageError> {
        Server::parse(&self.server).ok_or_else(|| UsageError(bad_server(&self.server)))
    }

    pub(in crate::cli) fn json(&self) -> bool {
        self.json
    }
}

/// Where the daemon's internal routes are.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::cli) enum Server {
    /// Authority, and the prefix of the paths.
    Tcp(String, String),
    Unix(PathBuf),
}

pub(in crate::cli) struct Answer {
    status: StatusCode,
    body: Value,
}

impl Server {
    fn parse(text: &str) -> Option<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            return path.starts_with('/').then(|| Self::Unix(path.into()));
        }
        let rest = text.strip_prefix("http://")?;
        let (authority, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = authority.rsplit_once(':').unwrap_or((authority, "80"));
        if host.is_empty() || port.parse::<u16>().is_err() || host.contains('@') {
            return None;
        }
        let prefix = prefix.trim_end_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("/{prefix}") };
        Some(Self::Tcp(format!("{host}:{port}"), prefix))
    }

    fn name(&self) -> String {
        match self {
            Self::Tcp(authority, prefix) => format!("http://{authority}{prefix}"),
            Self::Unix(path) => format!("unix:{}", path.display()),
        }
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        self.ask(Method::POST, path, body.to_string()).await
    }

    pub(in crate::cli) async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.ask(Method::GET, path, String::new()).await
    }

    async fn ask(&self, method: Method, path: &str, body: String) -> anyhow::Result<Answer> {
        let exchange = async {
            match self {
                Self::Tcp(authority, prefix) => {
                    let stream = TcpStream::connect(authority).await?;
                    exchange(stream, method, authority, &format!("{prefix}{path}"), body).await
                }
                Self::Unix(socket) => {
                    let stream = UnixStream::connect(socket).await?;
                    exchange(stream, method, "localhost", path, body).await
                }
            }
        };
        match tokio::time::timeout(TIMEOUT, exchange).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(error.context(format!(
                "cannot talk to jwtunneld at {}; is it running, and is this its internal listener? \
                 Its log says so (`listening … internal`); choose another with --server or \
                 JWTUNNEL_INTERNAL",
                self.name()
            ))),
            Err(_) => bail!("jwtunneld at {} does not answer within 20 s", self.name()),
        }
    }
}

async fn exchange<S>(
    stream: S,
    method: Method,
    host: &str,
    path: &str,
    body: String,
) -> anyhow::Result<Answer>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, host)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONNECTION, "close")
        .body(Full::new(Bytes::from(body)))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    // Answers of the daemon are small; whatever else listens there shall not fill our memory.
    let bytes = Limited::new(response.into_body(), 1 << 20)
        .collect()
        .await
        .map_err(|error| anyhow::anyhow!("the answer cannot be read: {error}"))?
        .to_bytes();
    connection.abort();
    Ok(Answer { status, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) })
}

impl Answer {
    pub(in crate::cli) fn body(&self) -> &Value {
        &self.body
    }

    /// Whether the same request may succeed later: the daemon is busy, or its database is away.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS)
    }

    pub(in crate::cli) fn expect(&self, status: StatusCode) -> anyhow::Result<()> {
        if self.status == status {
            return Ok(());
        }
        let detail = match &self.body {
            Value::Object(fields) if !fields.is_empty() => match fields.get("message") {
                Some(Value::String(message)) => untrusted_message(message),
                _ => untrusted_message(&self.body.to_string()),
            },
            _ => String::new(),
        };
        match self.status {
            StatusCode::NOT_FOUND => bail!(
                "the listener has no such route: it is the public one, or DISABLE_INTERNAL_API is \
                 set; name the internal listener with --server"
            ),
            StatusCode::SERVICE_UNAVAILABLE => {
                bail!("jwtunneld cannot do this now (503); its log says why, try again")
            }
            status if detail.is_empty() => bail!("jwtunneld answered {status}"),
            status => bail!("jwtunneld answered {status}: {detail}"),
        }
    }
}

/// An answer's own words, without control characters, for a terminal.
pub(in crate::cli) fn untrusted_message(text: &str) -> String {
    text.chars().take(400).flat_map(char::escape_debug).collect::<String>().replace("\\\"", "\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_a_url_or_a_socket() {
        let tcp = |authority: &str, prefix: &str| {
            Some(Server::Tcp(authority.to_owned(), prefix.to_owned()))
        };
        assert_eq!(Server::parse("http://127.0.0.1:5051"), tcp("127.0.0.1:5051", ""));
        assert_eq!(Server::parse("http://host/pre/"), tcp("host:80", "/pre"));
        assert_eq!(Server::parse("http://[::1]:1/"), tcp("[::1]:1", ""));
        assert_eq!(Server::parse("unix:/a"), Some(Server::Unix("/a".into())));
        for text in ["", "127.0.0.1:5051", "https://x", "http://", "http://x:y", "unix:a"] {
            assert_eq!(Server::parse(text), None, "{text}");
        }
    }
}

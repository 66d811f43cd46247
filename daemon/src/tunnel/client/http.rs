//! Requests and websockets of the client: one server, one TLS setup, one set of credentials for both.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Collected, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use reqwest::{Method, StatusCode, Url};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::credentials::Credentials;
use super::error::ClientError;
use super::network::{Network, endpoint, tls_config};
use crate::client::TokenError;
use crate::secret::Secret;
use crate::tunnel::transport::{Transport, unwrap};
use crate::tunnel::wire::shown;

/// Time to reach the server and to finish the handshakes.
const CONNECT: Duration = Duration::from_secs(10);

/// Time for an answer. Deleting a tunnel gracefully may take the server four minutes.
const ANSWER: Duration = Duration::from_secs(300);

/// The most that is read of an answer that refuses a websocket.
const REFUSAL: usize = 64 * 1024;

/// A server, and how to talk to it.
#[derive(Debug)]
pub(super) struct Http {
    /// The server's URL without a slash at the end.
    base: Url,
    requests: reqwest::Client,
    network: Network,
    tls: Arc<ClientConfig>,
    credentials: Credentials,
}

impl Http {
    pub(super) async fn new(
        server: &str,
        network: &Network,
        credentials: Credentials,
    ) -> Result<Self, ClientError> {
        let bad = |why: &str| ClientError::Url { url: shown(server), why: why.to_owned() };
        let base = Url::parse(server).map_err(|error| bad(&error.to_string()))?;
        if !["http", "https"].contains(&base.scheme()) || base.host_str().is_none() {
            return Err(bad("expected http://HOST:PORT/PATH or https://HOST:PORT/PATH"));
        }
        network.check(&base).map_err(bad)?;
        let tls = tls_config(&network.trust).await?;
        let builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls.clone())
            .connect_timeout(CONNECT)
            .timeout(ANSWER);
        let builder = network.requests(builder).and_then(|builder| builder.build());
        let requests = builder.map_err(|error| bad(&error.to_string()))?;
        Ok(Self { base, requests, network: network.clone(), tls: Arc::new(tls), credentials })
    }

    /// The server as the user wrote it.
    pub(super) fn server(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.server())
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        self.call(Method::POST, path, body).await
    }

    pub(super) async fn delete(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        self.call(Method::DELETE, path, body).await
    }

    async fn call(&self, method: Method, path: &str, body: &Value) -> Result<Value, ClientError> {
        self.authorized(|token| self.call_once(method.clone(), path, body, token)).await
    }

    /// Does `request` with a token. If the server refuses it, the token may have been revoked, or the server's keys
    /// changed: a fresh one decides, once, and when the keys have had the time to reach the server.
    async fn authorized<T, F>(
        &self,
        request: impl Fn(Option<Secret>) -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let token = self.token().await?;
        let refused = match request(token.clone()).await {
            Err(error @ ClientError::Unauthorized { .. }) => error,
            other => return other,
        };
        let Some(wait) = self.credentials.discard(token.as_ref()) else { return Err(refused) };
        let token = self.token().await?;
        sleep(wait).await;
        request(token).await
    }

    async fn call_once(
        &self,
        method: Method,
        path: &str,
        body: &Value,
        token: Option<Secret>,
    ) -> Result<Value, ClientError> {
        let mut request = self.requests.request(method, self.url(path)).json(body);
        if let Some(token) = token {
            request = request.bearer_auth(token.expose());
        }
        let response = request.send().await.map_err(|error| self.unreachable(error))?;
        let status = response.status();
        let json = response
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok())
            .is_some_and(|kind| kind.starts_with("application/json"));
        let text = response.text().await.map_err(|error| self.unreachable(error))?;
        // An empty body is a result without content.
        let value = match text.as_str() {
            "" => Ok(Value::Null),
            text => serde_json::from_str::<Value>(text),
        };
        // NETunnel's rule: JSON without the key `error` is success; its statuses say little.
        match value {
            Ok(value) if json && status.is_success() && value.get("error").is_none() => Ok(value),
            Ok(value) if json => {
                let reason = value.get("error").and_then(Value::as_str).unwrap_or_default();
                Err(self.refused(status, reason))
            }
            _ => Err(self.refused(status, self.quoted(&text))),
        }
    }

    /// What of a body that is not NETunnel's may be shown.
    fn quoted<'t>(&self, text: &'t str) -> &'t str {
        match text.lines().next() {
            // Texts of NETunnel's plugins and of ours, which tell what kind of refusal it is.
            Some(line) if !self.network.guarded || line.starts_with("403: ") => line,
            _ => "",
        }
    }

    /// The text of `path`.
    pub(super) async fn get_text(&self, path: &str) -> Result<String, ClientError> {
        self.authorized(|token| self.text_once(path, token)).await
    }

    async fn text_once(&self, path: &str, token: Option<Secret>) -> Result<String, ClientError> {
        let mut request = self.requests.get(self.url(path)).timeout(CONNECT);
        if let Some(token) = token {
            request = request.bearer_auth(token.expose());
        }
        let response = request.send().await.map_err(|error| self.unreachable(error))?;
        let status = response.status();
        let text = response.text().await.map_err(|error| self.unreachable(error))?;
        if status.is_success() { Ok(text) } else { Err(self.refused(status, self.quoted(&text))) }
    }

    /// Opens a websocket: the byte stream after the handshake, and bytes that came right behind it.
    pub(super) async fn websocket(&self, path: &str) -> Result<(Transport, Bytes), ClientError> {
        let late = || {
            let text = format!("no answer in {CONNECT:?}");
            self.broken(io::Error::new(io::ErrorKind::TimedOut, text).into())
        };
        self.authorized(|token| async {
            let connect = self.websocket_once(path, token);
            timeout(CONNECT, connect).await.unwrap_or_else(|_| Err(late()))
        })
        .await
    }

    /// The client's half of the handshake (RFC 6455 §4.1).
    async fn websocket_once(
        &self,
        path: &str,
        token: Option<Secret>,
    ) -> Result<(Transport, Bytes), ClientError> {
        let transport = self.transport().await.map_err(|error| self.broken(error.into()))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(transport))
            .await
            .map_err(|error| self.broken(error.into()))?;
        // Ends with the upgrade, or when the sender is dropped.
        tokio::spawn(connection.with_upgrades());
        let key = generate_key();
        let target = format!("{}{path}", self.base.path().trim_end_matches('/'));
        let host = host_of(&self.base);
        let mut request = Request::get(target)
            .header(header::HOST, host)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, &key);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.expose()));
        }
        let request = request.body(Body::empty()).map_err(|_| TokenError::NotAToken)?;
        let mut response =
            sender.send_request(request).await.map_err(|error| self.broken(error.into()))?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(self.no_websocket(response).await);
        }
        let accepted = response.headers().get(header::SEC_WEBSOCKET_ACCEPT);
        if accepted.is_none_or(|accept| accept != derive_accept_key(key.as_bytes()).as_str()) {
            return Err(ClientError::NotNetunnel {
                server: self.server().to_owned(),
                what: "its answer to a websocket is of another handshake",
            });
        }
        let upgraded = hyper::upgrade::on(&mut response).await;
        Ok(unwrap(upgraded.map_err(|error| self.broken(error.into()))?))
    }

    /// The error of an answer that is no websocket.
    async fn no_websocket(&self, response: Response<Incoming>) -> ClientError {
        let status = response.status();
        let body = Limited::new(response.into_body(), REFUSAL).collect().await;
        let body = body.map(Collected::to_bytes).unwrap_or_default();
        let reason = match serde_json::from_slice::<Value>(&body) {
            Ok(value) => value.get("error").and_then(Value::as_str).unwrap_or_default().to_owned(),
            Err(_) => String::new(),
        };
        self.refused(status, &reason)
    }

    fn broken(&self, source: super::error::Cause) -> ClientError {
        ClientError::Unreachable { server: self.server().to_owned(), source }
    }

    async fn transport(&self) -> io::Result<Transport> {
        let stream = self.network.connect(&self.base).await?;
        if self.base.scheme() == "http" {
            return Ok(Transport::Tcp(stream));
        }
        let name = ServerName::try_from(endpoint(&self.base).0.to_owned());
        let connector = TlsConnector::from(self.tls.clone());
        let stream = connector.connect(name.map_err(io::Error::other)?, stream).await?;
        Ok(Transport::Tls(Box::new(stream)))
    }

    async fn token(&self) -> Result<Option<Secret>, ClientError> {
        Ok(self.credentials.token(&self.requests, &self.base).await?)
    }

    fn unreachable(&self, error: reqwest::Error) -> ClientError {
        // Without the URL, which the message names already.
        let source = error.without_url().into();
        ClientError::Unreachable { server: self.server().to_owned(), source }
    }

    fn refused(&self, status: StatusCode, reason: &str) -> ClientError {
        let (server, reason) = (self.server().to_owned(), long_text(reason));
        match status {
            StatusCode::UNAUTHORIZED => ClientError::Unauthorized { server, status, reason },
            // NETunnel's plugins refuse callers with this exact text; other 403 answers concern the request.
            StatusCode::FORBIDDEN if reason.is_empty() || reason.starts_with("403") => {
                ClientError::Unauthorized { server, status, reason }
            }
            StatusCode::FORBIDDEN if reason.starts_with('<') => {
                ClientError::Unauthorized { server, status, reason: String::new() }
            }
            _ => ClientError::Refused { server, status, reason },
        }
    }
}

/// The Host header for a URL.
fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// An error text of the server: escaped, and long enough for the longest one of NETunnel.
fn long_text(text: &str) -> String {
    text.chars().take(300).flat_map(char::escape_debug).collect()
}

//! Requests and websockets of the client: one server, one TLS setup, one set of credentials for both.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, StatusCode, Url};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::header::AUTHORIZATION;

use super::credentials::{CredentialError, Credentials};
use super::error::ClientError;
use crate::tunnel::transport::{Purpose, Transport, WebSocket, tune};
use crate::tunnel::wire::shown;

/// Time to reach the server and to finish the handshakes.
const CONNECT: Duration = Duration::from_secs(10);

/// Time for an answer. Deleting a tunnel gracefully may take the server four minutes.
const ANSWER: Duration = Duration::from_secs(300);

/// Which certificates of servers are believed.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// A PEM file of certificate authorities, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Believe any certificate. Whoever is between can then read and change everything, the key included.
    pub insecure: bool,
}

/// A server, and how to talk to it.
#[derive(Debug)]
pub(super) struct Http {
    /// The server's URL without a slash at the end.
    base: Url,
    requests: reqwest::Client,
    tls: Arc<ClientConfig>,
    credentials: Credentials,
}

impl Http {
    pub(super) fn new(
        server: &str,
        trust: &Trust,
        credentials: Credentials,
    ) -> Result<Self, ClientError> {
        let bad = |why: &str| ClientError::Url { url: shown(server), why: why.to_owned() };
        let base = Url::parse(server).map_err(|error| bad(&error.to_string()))?;
        if !["http", "https"].contains(&base.scheme()) || base.host_str().is_none() {
            return Err(bad("expected http://HOST:PORT/PATH or https://HOST:PORT/PATH"));
        }
        let tls = tls_config(trust)?;
        let requests = reqwest::Client::builder()
            .tls_backend_preconfigured(tls.clone())
            // As NETunnel: proxies of the environment are not used, and an answer is final.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .timeout(ANSWER)
            .build()
            .map_err(|error| bad(&error.to_string()))?;
        Ok(Self { base, requests, tls: Arc::new(tls), credentials })
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
        let token = self.token().await?;
        let first = self.call_once(method.clone(), path, body, token.as_deref()).await;
        match first {
            // The token may have been revoked, or the server's keys changed: a fresh one decides.
            Err(ClientError::Unauthorized { .. })
                if self.credentials.discard(token.as_deref()).await =>
            {
                let token = self.token().await?;
                self.call_once(method, path, body, token.as_deref()).await
            }
            other => other,
        }
    }

    async fn call_once(
        &self,
        method: Method,
        path: &str,
        body: &Value,
        token: Option<&str>,
    ) -> Result<Value, ClientError> {
        let mut request = self.requests.request(method, self.url(path)).json(body);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.map_err(|error| self.unreachable(error))?;
        let status = response.status();
        let json = response
            .headers()
            .get(reqwest::header::CONTENT_TYPE)
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
            _ => Err(self.refused(status, text.lines().next().unwrap_or_default())),
        }
    }

    /// Opens a websocket.
    pub(super) async fn websocket(
        &self,
        path: &str,
        purpose: Purpose,
    ) -> Result<WebSocket, ClientError> {
        let token = self.token().await?;
        let connect = self.websocket_once(path, purpose, token.as_deref());
        match timeout(CONNECT, connect).await {
            Ok(Err(error @ ClientError::Unauthorized { .. })) => {
                // The caller tries again; then with a fresh token.
                self.credentials.discard(token.as_deref()).await;
                Err(error)
            }
            Ok(result) => result,
            Err(_) => {
                let source =
                    io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {CONNECT:?}"));
                Err(ClientError::Unreachable {
                    server: self.server().to_owned(),
                    source: source.into(),
                })
            }
        }
    }

    async fn websocket_once(
        &self,
        path: &str,
        purpose: Purpose,
        token: Option<&str>,
    ) -> Result<WebSocket, ClientError> {
        let unreachable = |source: tungstenite::Error| ClientError::Unreachable {
            server: self.server().to_owned(),
            source: source.into(),
        };
        // http becomes ws, https becomes wss.
        let url = format!("ws{}", self.url(path).trim_start_matches("http"));
        let mut request = url.into_client_request().map_err(unreachable)?;
        if let Some(token) = token {
            let value =
                format!("Bearer {token}").parse().map_err(|_| CredentialError::NotAToken)?;
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        let transport = self.transport().await.map_err(|error| unreachable(error.into()))?;
        match client_async_with_config(request, transport, Some(purpose.config())).await {
            Ok((ws, _)) => Ok(ws),
            Err(tungstenite::Error::Http(response)) => {
                let status = StatusCode::from_u16(response.status().as_u16()).unwrap_or_default();
                let body = response.body().as_deref().unwrap_or_default();
                let reason = match serde_json::from_slice::<Value>(body) {
                    Ok(value) => {
                        value.get("error").and_then(Value::as_str).unwrap_or_default().to_owned()
                    }
                    Err(_) => String::new(),
                };
                Err(self.refused(status, &reason))
            }
            Err(error) => Err(unreachable(error)),
        }
    }

    async fn transport(&self) -> io::Result<Transport> {
        let host = self.base.host_str().unwrap_or_default();
        // The resolver and TLS take IPv6 addresses without the brackets that URLs need.
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = self.base.port_or_known_default().unwrap_or(80);
        let stream = TcpStream::connect((host, port)).await?;
        tune(&stream);
        if self.base.scheme() == "http" {
            return Ok(Transport::Tcp(stream));
        }
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let connector = TlsConnector::from(self.tls.clone());
        Ok(Transport::Tls(Box::new(connector.connect(name, stream).await?)))
    }

    async fn token(&self) -> Result<Option<String>, ClientError> {
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

/// An error text of the server: escaped, and long enough for the longest one of NETunnel.
fn long_text(text: &str) -> String {
    text.chars().take(300).flat_map(char::escape_debug).collect()
}

fn tls_config(trust: &Trust) -> Result<ClientConfig, ClientError> {
    // Named here: with two providers in the program rustls would refuse to choose.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| ClientError::Tls(error.to_string()))?;
    if trust.insecure {
        let verifier = Arc::new(insecure::Anyone(provider));
        return Ok(builder
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth());
    }
    let mut roots = rustls::RootCertStore::empty();
    match &trust.ca_file {
        Some(file) => {
            for certificate in certificates(file)? {
                roots.add(certificate).map_err(|error| ClientError::CaFile {
                    file: file.clone(),
                    why: error.to_string(),
                })?;
            }
        }
        // None at all is no error yet: the server may be http.
        None => {
            let _ = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    let bad = |why: String| ClientError::CaFile { file: file.to_owned(), why };
    let pem = std::fs::read(file).map_err(|error| bad(error.to_string()))?;
    let certificates = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| bad(error.to_string()))?;
    if certificates.is_empty() {
        return Err(bad("it holds no PEM certificate".into()));
    }
    Ok(certificates)
}

/// The verifier behind `--insecure`, under a name that a reviewer can search.
mod insecure {
    use std::sync::Arc;

    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{DigitallySignedStruct, Error, SignatureScheme};

    /// Takes every certificate; only the handshake's signature must be that of its key.
    #[derive(Debug)]
    pub(super) struct Anyone(pub(super) Arc<CryptoProvider>);

    impl ServerCertVerifier for Anyone {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let algorithms = &self.0.signature_verification_algorithms;
            verify_tls12_signature(message, certificate, signature, algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let algorithms = &self.0.signature_verification_algorithms;
            verify_tls13_signature(message, certificate, signature, algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }
}

//! The way to a server: which certificates count, through which proxy, and to which addresses never.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper_util::rt::TokioIo;
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpStream, lookup_host};

use super::error::{Cause, ClientError};
use crate::address::{canonical, is_special};
use crate::secret::Secret;
use crate::tcp;
use crate::tunnel::transport::{self, Transport, tune};
use crate::tunnel::wire::shown;

/// Time for an answer through a new proxy.
const PROBE: Duration = Duration::from_secs(20);

/// How to reach a server.
#[derive(Clone, Debug, Default)]
pub struct Network {
    /// Whose certificates count.
    pub trust: Trust,
    /// An HTTP proxy for everything that is sent to the server.
    pub proxy: Option<Proxy>,
    /// The URL comes from somebody else than the user of this program: no connection to addresses such as cloud
    /// metadata, and nothing of an answer's body in an error unless it is NETunnel's JSON.
    pub guarded: bool,
}

/// Which certificates of servers are believed, and which one of ours is shown.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// A PEM file of certificate authorities, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM files of our own certificate chain and its private key, for servers that ask for one.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Believe any certificate. Whoever is between can then read and change everything, the key included.
    pub insecure: bool,
}

/// An HTTP proxy, with Basic authentication if it wants one.
#[derive(Clone)]
pub struct Proxy {
    url: Url,
    credentials: Option<(Secret, Secret)>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({})", self.url)
    }
}

impl Proxy {
    /// A proxy at `http://HOST:PORT`, with user name and password if it asks for them.
    ///
    /// # Errors
    /// [`ClientError::Proxy`], if the URL is another one.
    pub fn new(url: &str, credentials: Option<(Secret, Secret)>) -> Result<Self, ClientError> {
        let bad = |why: &str| ClientError::Proxy { why: why.to_owned() };
        let url = Url::parse(url).map_err(|error| bad(&error.to_string()))?;
        // Credentials in a URL would end up in messages.
        let plain = url.scheme() == "http" && url.username().is_empty() && url.password().is_none();
        if !plain || url.host_str().is_none() {
            return Err(bad("expected http://HOST:PORT, user name and password beside it"));
        }
        Ok(Self { url, credentials })
    }

    /// For requests.
    pub(super) fn for_requests(&self) -> Result<reqwest::Proxy, reqwest::Error> {
        let proxy = reqwest::Proxy::all(self.url.clone())?;
        Ok(match &self.credentials {
            Some((username, password)) => proxy.basic_auth(username.expose(), password.expose()),
            None => proxy,
        })
    }

    /// A byte stream through the proxy (RFC 9110 §9.3.6). Websockets use it for http servers too: many proxies
    /// drop the Upgrade header of a request that they pass on (RFC 6455 §4.1).
    async fn tunnel(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let (proxy_host, proxy_port) = endpoint(&self.url);
        let stream = tcp::connect_to(proxy_host, proxy_port).await?;
        let target =
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        // Ends with the upgrade, or when the sender is dropped.
        tokio::spawn(connection.with_upgrades());
        let mut request =
            Request::builder().method(Method::CONNECT).uri(&target).header(header::HOST, &target);
        if let Some((username, password)) = &self.credentials {
            let pair = format!("{}:{}", username.expose(), password.expose());
            request = request
                .header(header::PROXY_AUTHORIZATION, format!("Basic {}", STANDARD.encode(pair)));
        }
        let request = request.body(Body::empty()).map_err(io::Error::other)?;
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                return Err(io::Error::other(
                    "the proxy wants a user name and a password, or others than these (407)",
                ));
            }
            status => return Err(io::Error::other(format!("the proxy answers {status}"))),
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(io::Error::other)?;
        match transport::unwrap(upgraded) {
            (Transport::Tcp(stream), early) if early.is_empty() => Ok(stream),
            _ => Err(io::Error::other("the proxy sent something before the server could")),
        }
    }
}

impl Network {
    /// A connection to the server at `url`, plain.
    pub(super) async fn connect(&self, url: &Url) -> io::Result<TcpStream> {
        let (host, port) = endpoint(url);
        let stream = match &self.proxy {
            Some(proxy) => proxy.tunnel(host, port).await?,
            None if self.guarded => {
                let addresses = lookup_host((host, port)).await?;
                tcp::connect(all_or_none(addresses, not_special)?).await?
            }
            None => tcp::connect_to(host, port).await?,
        };
        tune(&stream);
        Ok(stream)
    }

    /// Refuses a URL that names a special address itself; names are judged by what they resolve to.
    pub(super) fn check(&self, url: &Url) -> Result<(), &'static str> {
        let (host, _) = endpoint(url);
        match host.parse::<IpAddr>() {
            Ok(ip) if self.guarded => not_special(ip).map_err(|Special| Special::OF_URL),
            _ => Ok(()),
        }
    }

    /// The status of a `GET` of `url`.
    ///
    /// # Errors
    /// [`ClientError`], if there is none.
    pub(in crate::tunnel) async fn probe(&self, url: &str) -> Result<u16, ClientError> {
        let bad = |why: String| ClientError::Url { url: shown(url), why };
        let parsed = Url::parse(url).map_err(|error| bad(error.to_string()))?;
        self.check(&parsed).map_err(|why| bad(why.into()))?;
        let builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls_config(&self.trust).await?)
            .timeout(PROBE);
        let client = self.requests(builder).and_then(|builder| builder.build());
        let client = client.map_err(|error| bad(error.to_string()))?;
        match client.get(parsed).send().await {
            Ok(response) => Ok(response.status().as_u16()),
            Err(error) => Err(ClientError::Unreachable {
                server: shown(url),
                source: error.without_url().into(),
            }),
        }
    }

    /// The client for requests.
    pub(super) fn requests(
        &self,
        builder: reqwest::ClientBuilder,
    ) -> Result<reqwest::ClientBuilder, reqwest::Error> {
        // As NETunnel: proxies of the environment are not used, and an answer is final.
        let mut builder = builder.no_proxy().redirect(reqwest::redirect::Policy::none());
        if self.guarded {
            builder = builder.dns_resolver(Arc::new(Judged(not_special)));
        }
        match &self.proxy {
            Some(proxy) => Ok(builder.proxy(proxy.for_requests()?)),
            None => Ok(builder),
        }
    }
}

/// Host and port of a URL, an IPv6 address without the brackets that only URLs need.
pub(super) fn endpoint(url: &Url) -> (&str, u16) {
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (host, url.port_or_known_default().unwrap_or(80))
}

/// What a guarded connection never leads to.
#[derive(Debug, thiserror::Error)]
#[error("the name leads to an address that is never connected to, such as cloud metadata")]
struct Special;

impl Special {
    const OF_URL: &str =
        "it leads to an address that is never connected to, such as cloud metadata";
}

fn not_special(ip: IpAddr) -> Result<(), Special> {
    if is_special(canonical(ip)) { Err(Special) } else { Ok(()) }
}

/// All of them or none: which one is used must not depend on the order of somebody else's answer.
fn all_or_none<E>(
    addresses: impl Iterator<Item = SocketAddr>,
    judge: impl Fn(IpAddr) -> Result<(), E>,
) -> io::Result<Vec<SocketAddr>>
where
    E: Into<Cause>,
{
    let judged = addresses.map(|address| judge(address.ip()).map(|()| address));
    judged
        .collect::<Result<_, E>>()
        .map_err(|error| io::Error::new(io::ErrorKind::PermissionDenied, error))
}

/// The system's resolver for requests, without the names that lead to an address that `J` refuses. What it has
/// judged is what is connected to.
pub(crate) struct Judged<J>(pub(crate) J);

impl<J, E> Resolve for Judged<J>
where
    J: Fn(IpAddr) -> Result<(), E> + Copy + Send + Sync + 'static,
    E: Into<Cause>,
{
    fn resolve(&self, name: Name) -> Resolving {
        let judge = self.0;
        Box::pin(async move {
            // Port 0: the caller puts its own.
            let addresses = lookup_host((name.as_str(), 0)).await?;
            Ok(Box::new(all_or_none(addresses, judge)?.into_iter()) as Addrs)
        })
    }
}

/// The TLS setup that `trust` means. It reads files, the system's certificates among them, so a thread that may wait
/// does it.
pub(super) async fn tls_config(trust: &Trust) -> Result<ClientConfig, ClientError> {
    let trust = trust.clone();
    let made = tokio::task::spawn_blocking(move || read_tls_config(&trust));
    made.await.map_err(|error| ClientError::Tls(error.to_string()))?
}

/// The same, on a thread that may wait.
pub(crate) fn read_tls_config(trust: &Trust) -> Result<ClientConfig, ClientError> {
    // Named here: with two providers in the program rustls would refuse to choose.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| ClientError::Tls(error.to_string()))?;
    let builder = if trust.insecure {
        let verifier = Arc::new(insecure::Anyone(provider));
        builder.dangerous().with_custom_certificate_verifier(verifier)
    } else {
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
                let native = rustls_native_certs::load_native_certs();
                let _ = roots.add_parsable_certificates(native.certs);
            }
        }
        builder.with_root_certificates(roots)
    };
    let Some((chain, key)) = &trust.identity else { return Ok(builder.with_no_client_auth()) };
    let bad = |why: String| ClientError::CaFile { file: key.clone(), why };
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| bad(error.to_string()))?;
    builder
        .with_client_auth_cert(certificates(chain)?, private)
        .map_err(|error| bad(format!("it does not fit {}: {error}", chain.display())))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// rel:A4, rel:W6.
    #[test]
    fn a_guarded_url_does_not_lead_to_special_addresses() {
        let guarded = Network { guarded: true, ..Network::default() };
        for (url, fine) in [
            ("http://169.254.169.254/netunnel", false),
            ("http://[fe80::1]/", false),
            ("http://[::ffff:169.254.169.254]/", false),
            ("http://0.0.0.0/", false),
            ("http://127.0.0.1:4040", true),
            ("http://10.0.0.1", true),
            ("http://gateway.example", true),
        ] {
            let url = Url::parse(url).unwrap();
            assert_eq!(guarded.check(&url).is_ok(), fine, "{url}");
            assert!(Network::default().check(&url).is_ok(), "{url}");
        }
        let address = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let mixed = [address("10.0.0.1:0"), address("169.254.169.254:0")];
        assert!(all_or_none(mixed.into_iter(), not_special).is_err());
        assert_eq!(all_or_none(mixed.into_iter().take(1), not_special).unwrap().len(), 1);
    }

    #[test]
    fn a_proxy_is_http_and_its_credentials_are_not_shown() {
        for url in ["https://p", "socks5://p", "http://user:hunter2@p", "p:1", ""] {
            let error = Proxy::new(url, None).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        let credentials = Some((Secret::new("user"), Secret::new("hunter2")));
        let proxy = Proxy::new("http://p:3128", credentials).unwrap();
        assert_eq!(format!("{proxy:?}"), "Proxy(http://p:3128/)");
    }
}

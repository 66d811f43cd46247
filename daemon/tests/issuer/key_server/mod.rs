//! A server of keys whose answers are written out, plain or with TLS.
#![allow(unreachable_pub, reason = "the test program uses all of it")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

type Behaviour = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// Answers one request on each connection, for as long as it lives.
pub struct KeyServer {
    root: String,
    shared: Arc<Shared>,
    _accepting: AbortOnDropHandle<()>,
}

struct Shared {
    behaviour: Mutex<Behaviour>,
    requests: Mutex<Vec<String>>,
}

impl KeyServer {
    /// `behaviour` makes the whole answer of a request, whose header names are in lower case. What does not end by
    /// itself leaves the connection open.
    pub async fn start(behaviour: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        Self::serve(None, Arc::new(behaviour)).await
    }

    /// Answers every request with `body`.
    pub async fn of(body: &str) -> Self {
        let text = answer("200 OK", "", body);
        Self::start(move |_| text.clone()).await
    }

    /// The same by https.
    pub async fn with_tls(tls: &Tls, body: &str) -> Self {
        let text = answer("200 OK", "", body);
        Self::serve(Some(tls.acceptor()), Arc::new(move |_| text.clone())).await
    }

    async fn serve(tls: Option<TlsAcceptor>, behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let root = format!("{scheme}://{}", listener.local_addr().unwrap());
        let shared =
            Arc::new(Shared { behaviour: Mutex::new(behaviour), requests: Mutex::default() });
        let accepting = tokio::spawn({
            let shared = shared.clone();
            async move {
                // Ends with this task, and the connections with it.
                let mut connections = tokio::task::JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    let (shared, tls) = (shared.clone(), tls.clone());
                    connections.spawn(async move {
                        match tls {
                            None => shared.respond(stream).await,
                            Some(tls) => match tls.accept(stream).await {
                                Ok(stream) => shared.respond(stream).await,
                                Err(_) => None,
                            },
                        }
                    });
                }
            }
        });
        Self { root, shared, _accepting: AbortOnDropHandle::new(accepting) }
    }

    pub fn behave(&self, behaviour: impl Fn(&str) -> String + Send + Sync + 'static) {
        *self.shared.behaviour.lock().unwrap() = Arc::new(behaviour);
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.root)
    }

    pub fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.requests().len()
    }
}

impl Shared {
    async fn respond(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Option<()> {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.ok()?);
        }
        let request = String::from_utf8(request).unwrap();
        self.requests.lock().unwrap().push(request.clone());
        let behaviour = self.behaviour.lock().unwrap().clone();
        stream.write_all(behaviour(&request).as_bytes()).await.ok()?;
        // Until the client goes.
        let _ = stream.read_to_end(&mut Vec::new()).await;
        Some(())
    }
}

/// An answer with its length.
pub fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

/// A certificate for 127.0.0.1 that vouches for itself.
pub struct Tls {
    pub certificate: PathBuf,
    key: PathBuf,
}

impl Tls {
    pub fn make(folder: &Path) -> Self {
        let tls = Self { certificate: folder.join("server.pem"), key: folder.join("server.key") };
        let output = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
            ])
            .args(["-days", "2", "-subj", "/CN=keys", "-addext", "subjectAltName=IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
            .arg(&tls.key)
            .arg("-out")
            .arg(&tls.certificate)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        tls
    }

    fn acceptor(&self) -> TlsAcceptor {
        let certificate = CertificateDer::from_pem_file(&self.certificate).unwrap();
        let key = PrivateKeyDer::from_pem_file(&self.key).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

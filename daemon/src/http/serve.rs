//! Runs a router on a listener: HTTP/1.1 with deadlines, upgrades for websockets, and a stop that
//! lets requests finish.

use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use futures_util::FutureExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error};

use super::{Peer, answer};
use crate::logging::Throttle;

/// A bound socket.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket, and its path if it is ours to remove.
    Unix(UnixListener, Option<PathBuf>),
}

impl Listener {
    /// The address in the configuration's form.
    pub fn address(&self) -> String {
        match self {
            Self::Tcp(listener) => {
                listener.local_addr().map_or_else(|_| "tcp".into(), |address| address.to_string())
            }
            Self::Unix(listener, _) => {
                let address = listener.local_addr().ok();
                let path = address.as_ref().and_then(|address| address.as_pathname());
                path.map_or_else(|| "unix:".into(), |path| format!("unix:{}", path.display()))
            }
        }
    }

    /// The TCP address, if it is one.
    pub fn socket_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(..) => None,
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, Some(path)) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Serves `router` until `stop`, then waits for the connections that are open. Who waits for this
/// decides how long: dropping it leaves them to end on their own.
pub async fn serve(
    listener: Listener,
    router: Router,
    header_timeout: Duration,
    stop: CancellationToken,
) {
    let connections = TaskTracker::new();
    let throttle = Throttle::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener) => accepted,
        };
        let accepted = match accepted {
            Ok(accepted) => accepted,
            Err(fault) => {
                throttle.run(|suppressed| {
                    error!(event = "accept", outcome = "error", error = %fault, suppressed);
                });
                // Out of descriptors, most likely: without a pause this loop would only spin.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (router, stop) = (router.clone(), stop.clone());
        match accepted {
            Accepted::Tcp(stream, address) => {
                let peer = Peer(Some(address.ip()));
                connections.spawn(connection(stream, router, peer, header_timeout, stop));
            }
            Accepted::Unix(stream) => {
                connections.spawn(connection(stream, router, Peer(None), header_timeout, stop));
            }
        }
    }
    // New clients are refused from here on, and not left in the backlog.
    drop(listener);
    connections.close();
    connections.wait().await;
}

enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

async fn accept(listener: &Listener) -> io::Result<Accepted> {
    match listener {
        Listener::Tcp(listener) => {
            let (stream, address) = listener.accept().await?;
            // Answers are small and written at once. Fails only for a peer that has gone.
            let _ = stream.set_nodelay(true);
            Ok(Accepted::Tcp(stream, address))
        }
        Listener::Unix(listener, _) => Ok(Accepted::Unix(listener.accept().await?.0)),
    }
}

async fn connection<S>(
    stream: S,
    router: Router,
    peer: Peer,
    header_timeout: Duration,
    stop: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let router = router.clone();
        async move {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer);
            // A bug costs one request its answer, not the others their connection.
            let response = AssertUnwindSafe(router.call(request)).catch_unwind().await;
            Ok::<_, std::convert::Infallible>(match response {
                Ok(response) => response.unwrap_or_else(|never| match never {}),
                Err(_) => {
                    error!(event = "panic", outcome = "error");
                    answer::panicked()
                }
            })
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        // Room for a token of 16 KiB and the cookies of a browser.
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = &mut connection => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(fault) = result {
        // Clients that leave or dawdle are no fault of ours.
        debug!(event = "connection", outcome = "closed", ip = %peer, error = %fault);
    }
}

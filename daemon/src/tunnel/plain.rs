//! The plain side of a tunnel: what programs connect to and what exits connect to, TCP, a UNIX socket or UDP.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UdpSocket, UnixListener, UnixStream};
use tokio::sync::{Mutex, mpsc};

use super::transport::tune;
use super::udp::{Flow, UdpEntrance};
use crate::sockets::unix_listener;
use crate::tcp;

/// The protocol of a tunnel's plain side, as far as both ends have to agree on it. A UNIX socket is a stream too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    /// The name in requests for tunnels and in logs.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// What one websocket carries.
#[derive(Debug)]
pub(super) enum Local {
    Stream(Plain),
    Datagrams(Flow),
}

impl Local {
    pub(super) fn tcp(stream: TcpStream) -> Self {
        Self::Stream(Plain::Tcp(stream))
    }

    /// Options of TCP that tunnelled connections have.
    pub(super) fn tune(&self) {
        if let Self::Stream(Plain::Tcp(stream)) = self {
            tune(stream);
        }
    }
}

/// A connection of a program, or to one.
#[derive(Debug)]
pub(super) enum Plain {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Plain {
    /// Ready when there is something to read, an end or an error included.
    pub(super) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx),
            Self::Unix(stream) => stream.poll_read_ready(cx),
        }
    }

    pub(super) fn as_tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Unix(_) => None,
        }
    }

    /// Ends the connection so that the other end does not take a cut stream for a complete one, as far as that can
    /// be said: a UNIX socket has no reset, but what it has not delivered is lost with it.
    pub(super) fn reset(self) {
        if let Self::Tcp(stream) = self {
            let _ = stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Plain {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Plain {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// Who connected to an entrance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Tcp(SocketAddr),
    Udp(SocketAddr),
    Unix,
    /// This program itself.
    Own,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Udp(address) => write!(f, "{address}/udp"),
            Self::Unix => f.write_str("unix"),
            Self::Own => f.write_str("own"),
        }
    }
}

/// A bound entrance. A socket file of ours goes with it.
#[derive(Debug)]
pub(super) enum PlainListener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
    Udp(UdpEntrance),
    /// What this program opens itself, without an address.
    Own(Mutex<mpsc::Receiver<UnixStream>>),
}

impl PlainListener {
    pub(super) async fn unix(path: &Path) -> io::Result<Self> {
        Ok(Self::Unix(unix_listener(path).await?, path.to_owned()))
    }

    /// Binds an address; port 0 lets the system choose.
    pub(super) async fn bind(protocol: Protocol, address: SocketAddr) -> io::Result<Self> {
        Ok(match protocol {
            Protocol::Tcp => Self::Tcp(tcp::listen(address).await?),
            Protocol::Udp => Self::Udp(UdpEntrance::new(UdpSocket::bind(address).await?)?),
        })
    }

    /// The address; an error where it has none.
    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr(),
            Self::Udp(entrance) => Ok(entrance.local_addr()),
            Self::Unix(..) | Self::Own(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    pub(super) fn protocol(&self) -> Protocol {
        match self {
            Self::Udp(_) => Protocol::Udp,
            Self::Tcp(_) | Self::Unix(..) | Self::Own(_) => Protocol::Tcp,
        }
    }

    pub(super) async fn accept(&self) -> io::Result<(Local, Origin)> {
        let (plain, origin) = match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                (Plain::Tcp(stream), Origin::Tcp(address))
            }
            Self::Unix(listener, _) => (Plain::Unix(listener.accept().await?.0), Origin::Unix),
            Self::Udp(entrance) => {
                let (flow, address) = entrance.accept().await;
                return Ok((Local::Datagrams(flow), Origin::Udp(address)));
            }
            Self::Own(queue) => match queue.lock().await.recv().await {
                Some(stream) => (Plain::Unix(stream), Origin::Own),
                // Nobody is left who could open one.
                None => std::future::pending().await,
            },
        };
        Ok((Local::Stream(plain), origin))
    }
}

impl fmt::Display for PlainListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(address) => address.fmt(f),
                Err(_) => f.write_str("?"),
            },
            Self::Unix(_, path) => path.display().fmt(f),
            Self::Udp(entrance) => write!(f, "{}/udp", entrance.local_addr()),
            Self::Own(_) => f.write_str("this program"),
        }
    }
}

impl Drop for PlainListener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

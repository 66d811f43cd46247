//! The byte stream under a websocket, and the websocket itself with limits that are never the library's.

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, Bytes};
use futures_util::SinkExt;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::upgrade;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};

use super::frames::DataSocket;

/// The largest data message that is taken, as NETunnel's library takes it.
pub(super) const MAX_DATA_MESSAGE: usize = 4 * 1024 * 1024;

/// Payload of a data message of ours, and one read of a socket: large enough that framing and system calls cost
/// little, small enough that one for each direction stays within the memory limit of a connection.
pub(super) const CHUNK: usize = 96 * 1024;

/// Room for a first read. Most connections never need more, and many of them at once should not hold what one of a
/// long transfer needs.
pub(super) const SMALL: usize = 4 * 1024;

/// Room for the next read, after one that has filled `room`.
pub(super) fn grown(room: usize) -> usize {
    (room * 8).min(CHUNK)
}

/// The start message: the exit connects to its destination when it arrives.
pub(super) const START: &str = "pasten";

/// How long a websocket that is only refused or abandoned may take to end.
const FAREWELL: Duration = Duration::from_secs(2);

/// A control websocket of either role.
pub(super) type WebSocket = WebSocketStream<Transport>;

/// The byte stream below a websocket.
#[derive(Debug)]
pub(super) enum Transport {
    /// Plain TCP, taken over from hyper where possible: no layer in between.
    Tcp(TcpStream),
    /// TLS as a client. Boxed: it is a kilobyte, and most transports are plain.
    Tls(Box<TlsStream<TcpStream>>),
    /// Whatever else served the upgrade.
    Upgraded(TokioIo<Upgraded>),
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Upgraded(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Upgraded(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Upgraded(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::Upgraded(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Upgraded(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Upgraded(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// The limits of a control websocket. No library default stays: those allow 64 MiB messages, an unbounded write
/// buffer and 128 KiB of read buffer for each.
fn control_config() -> WebSocketConfig {
    WebSocketConfig::default()
        // A control message is under 200 bytes.
        .read_buffer_size(4 * 1024)
        // Messages go to the socket at once; what it does not take is the backpressure.
        .write_buffer_size(0)
        .max_write_buffer_size(4 * super::wire::MAX_MESSAGE_BYTES)
        .max_message_size(Some(super::wire::MAX_MESSAGE_BYTES))
        .max_frame_size(Some(super::wire::MAX_MESSAGE_BYTES))
}

/// Makes a control websocket out of a byte stream after its handshake; `early` are bytes that came right behind it.
pub(super) async fn control(transport: Transport, early: Bytes, role: Role) -> WebSocket {
    let (early, config) = (early.to_vec(), Some(control_config()));
    WebSocketStream::from_partially_read(transport, early, role, config).await
}

/// Takes the byte stream out of an upgraded HTTP connection, with what came in one packet with the request.
pub(super) fn accept(upgraded: Upgraded) -> (Transport, Bytes) {
    let (transport, early) = unwrap(upgraded);
    if let Transport::Tcp(stream) = &transport {
        tune(stream);
    }
    (transport, early)
}

/// The server's end of a tunnel websocket.
pub(super) fn accept_data(upgraded: Upgraded) -> DataSocket {
    let (transport, early) = accept(upgraded);
    DataSocket::new(transport, Role::Server, &early, false)
}

/// Takes the socket out of hyper's wrappers, whichever of its servers was used.
pub(super) fn unwrap(upgraded: Upgraded) -> (Transport, Bytes) {
    let upgraded = match upgraded.downcast::<TokioIo<TcpStream>>() {
        Ok(parts) => return (Transport::Tcp(parts.io.into_inner()), parts.read_buf),
        Err(upgraded) => upgraded,
    };
    let upgraded = match upgraded.downcast::<TokioIo<Transport>>() {
        Ok(parts) => return (parts.io.into_inner(), parts.read_buf),
        Err(upgraded) => upgraded,
    };
    match upgrade::downcast::<TokioIo<TcpStream>>(upgraded) {
        Ok(parts) => (Transport::Tcp(parts.io.into_inner()), parts.read_buf),
        Err(upgraded) => (Transport::Upgraded(TokioIo::new(upgraded)), Bytes::new()),
    }
}

/// Reads once. Unlike `try_read_buf` of a socket this takes a read that does not fill the buffer for the last one there
/// is, as epoll allows: a message that is alone costs one system call, not a second one that finds nothing.
pub(super) fn poll_read_buf(
    stream: &mut (impl AsyncRead + Unpin),
    cx: &mut Context<'_>,
    buffer: &mut impl BufMut,
) -> Poll<io::Result<usize>> {
    pin!(stream.read_buf(buffer)).poll(cx)
}

/// Interactive traffic must not wait for Nagle's algorithm, and a peer that vanished must be noticed even
/// when nothing is sent.
pub(super) fn tune(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15))
        .with_retries(4);
    // A socket that refuses an option still carries data.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
}

pub(super) fn close_message(code: CloseCode, reason: &'static str) -> Message {
    Message::Close(Some(CloseFrame { code, reason: reason.into() }))
}

/// Ends our direction of `stream` and discards what still comes, for at most `limit`, so that dropping it
/// afterwards is no RST that destroys what we sent.
pub(super) async fn farewell<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, limit: Duration) {
    let drain = async {
        stream.shutdown().await?;
        let mut waste = vec![0; 8 * 1024];
        while stream.read(&mut waste).await? > 0 {}
        Ok::<(), io::Error>(())
    };
    let _ = timeout(limit, drain).await;
}

/// Says CLOSE and ends the connection without waiting for agreement.
///
/// The write side ends at once. Reading goes on for a moment: bytes that arrive at a closed socket make
/// the kernel send RST, which can overtake the CLOSE.
pub(super) async fn refuse(mut ws: DataSocket, code: CloseCode, reason: &'static str) {
    let _ = timeout(FAREWELL, ws.send(close_message(code, reason))).await;
    farewell(ws.get_mut(), FAREWELL).await;
}

/// The code that answers a websocket error of the other side's making, if it can still be answered.
pub(super) fn error_code(error: &tungstenite::Error) -> Option<CloseCode> {
    use tungstenite::error::ProtocolError;
    match error {
        tungstenite::Error::Capacity(_) => Some(CloseCode::Size),
        tungstenite::Error::Utf8(_) => Some(CloseCode::Invalid),
        tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        tungstenite::Error::Protocol(_) => Some(CloseCode::Protocol),
        _ => None,
    }
}

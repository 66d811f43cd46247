//! Ends of tunnels inside the program: connections that never were at a port of this machine.
//!
//! Each one is a pair of UNIX sockets, so that payload moves as it does for other programs.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

/// Connections that wait until the other side takes them. The next ones wait for room.
const WAITING: usize = 16;

/// A connection through a tunnel: what is written is read at the other end of the tunnel, and the reverse.
///
/// Shutting it down ends one direction; the other goes on where both ends of the tunnel are jwtunnel's. An end that was
/// broken off looks like one that was meant: a protocol that has to tell them apart needs a mark of its own.
#[derive(Debug)]
pub struct TunnelStream(UnixStream);

/// Opens connections through a forward tunnel whose [`Entrance`](super::Entrance) is in the program. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Dialer(mpsc::Sender<UnixStream>);

/// Takes the connections of a reverse tunnel whose [`Target`](super::Target) is the program.
#[derive(Debug)]
pub struct Incoming(mpsc::Receiver<UnixStream>);

/// The program as the target of a reverse tunnel; [`Target::program`](super::Target::program) makes one.
#[derive(Clone, Debug)]
pub struct Program(mpsc::Sender<UnixStream>);

/// A dialer, and the queue from which its entrance takes.
pub(super) fn dialer() -> (Dialer, mpsc::Receiver<UnixStream>) {
    let (sender, queue) = mpsc::channel(WAITING);
    (Dialer(sender), queue)
}

pub(super) fn program() -> (Program, Incoming) {
    let (sender, queue) = mpsc::channel(WAITING);
    (Program(sender), Incoming(queue))
}

impl Dialer {
    /// Opens a connection. It exists at once, and what is written waits if no tunnel is open at the moment; the other end
    /// has ended if the tunnel's destination can't be reached.
    ///
    /// # Errors
    /// When the entrance is gone, or the system has no file descriptor left.
    pub async fn connect(&self) -> io::Result<TunnelStream> {
        pair(&self.0).await.map(TunnelStream)
    }
}

impl Incoming {
    /// The next connection. None when the tunnel, and every other one with this target, is gone.
    pub async fn accept(&mut self) -> Option<TunnelStream> {
        self.0.recv().await.map(TunnelStream)
    }
}

impl Program {
    pub(super) async fn connect(&self) -> io::Result<UnixStream> {
        pair(&self.0).await
    }
}

impl PartialEq for Program {
    fn eq(&self, other: &Self) -> bool {
        self.0.same_channel(&other.0)
    }
}

impl Eq for Program {}

/// Gives one end of a new pair to whoever takes from `queue`.
async fn pair(queue: &mpsc::Sender<UnixStream>) -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    let gone = |_| io::Error::new(io::ErrorKind::ConnectionRefused, "nobody takes connections");
    queue.send(theirs).await.map_err(gone)?;
    Ok(ours)
}

impl AsyncRead for TunnelStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buf)
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}

//! Payload that goes from one socket to the other without passing through this process: splice(2), socket to pipe to
//! socket. The kernel passes the pages on as they are; reading and writing would copy them twice.
//!
//! It pays for long transfers only: it costs a system call more for each piece, and a pipe for each direction.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// The most that is taken at once, and what a pipe can hold. Less is slower: with 64 KiB, what a pipe holds by default,
/// reading and writing is faster.
pub(super) const MOST: usize = 1024 * 1024;

/// From here on a piece is worth a pipe.
pub(super) const LARGE: usize = 32 * 1024;

/// So many pipes at once. What they hold is the kernel's memory, and where a receiver has stopped it stays held; other
/// transfers do without. It is also what Linux allows a user in all (pipe-user-pages-soft in pipe(7)).
const PIPES: usize = 64;

static OPEN: AtomicUsize = AtomicUsize::new(0);

/// A pipe between two sockets. What it holds has been taken from one and not yet been given to the other.
#[derive(Debug)]
pub(super) struct Pipe {
    entrance: OwnedFd,
    exit: OwnedFd,
    held: usize,
    _place: Place,
}

/// One of [`PIPES`].
#[derive(Debug)]
struct Place;

impl Place {
    fn take() -> Option<Self> {
        let took = OPEN.try_update(Ordering::Relaxed, Ordering::Relaxed, |open| {
            (open < PIPES).then_some(open + 1)
        });
        // Not `then_some`: a place that is made and dropped gives back one that was never taken.
        took.ok().map(|_| Self)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pipe {
    /// None where none is to be had: too many are open, of this process or of this user.
    pub(super) fn new() -> Option<Self> {
        let place = Place::take()?;
        let (exit, entrance) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        fcntl_setpipe_size(&entrance, MOST).ok()?;
        Some(Self { entrance, exit, held: 0, _place: place })
    }

    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Takes up to `most` bytes from `socket`, zero at its end. Only into an empty pipe: of a full one the kernel would
    /// say that nothing is there to be read.
    pub(super) fn poll_fill(
        &mut self,
        socket: &TcpStream,
        most: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        debug_assert_eq!(self.held, 0, "a pipe is filled when it is empty");
        let entrance = self.entrance.as_fd();
        let taken = poll_io(socket, Interest::READABLE, cx, || pass(socket, entrance, most));
        self.held = ready!(taken)?;
        Poll::Ready(Ok(self.held))
    }

    /// Gives what is held, up to `most`, to `socket`, as much as it takes now; how much that was.
    pub(super) fn poll_drain(
        &mut self,
        socket: &TcpStream,
        most: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let (exit, most) = (self.exit.as_fd(), self.held.min(most));
        let given = poll_io(socket, Interest::WRITABLE, cx, || pass(exit, socket, most));
        let given = ready!(given)?;
        if given == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.held -= given;
        Poll::Ready(Ok(given))
    }
}

fn pass(from: impl AsFd, to: impl AsFd, most: usize) -> io::Result<usize> {
    Ok(splice(from, None, to, None, most, SpliceFlags::NONBLOCK)?)
}

/// Does what tokio's sockets have no method for, when `socket` is ready for it.
pub(super) fn poll_io<T>(
    socket: &TcpStream,
    interest: Interest,
    cx: &mut Context<'_>,
    mut work: impl FnMut() -> io::Result<T>,
) -> Poll<io::Result<T>> {
    loop {
        ready!(match interest.is_readable() {
            true => socket.poll_read_ready(cx),
            false => socket.poll_write_ready(cx),
        })?;
        match socket.try_io(interest, &mut work) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return Poll::Ready(done),
        }
    }
}

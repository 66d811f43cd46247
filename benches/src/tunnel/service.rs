//! What all tunnels lead to, in a process of its own. A connection's first byte says what it is for.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::thread;

use anyhow::{Context as _, Result};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

/// Sends back what comes, this first byte included.
pub(super) const ECHO: u8 = b'e';
/// Takes what comes, with a byte back for each [`ACKNOWLEDGED`] bytes.
pub(super) const UP: u8 = b'u';
/// Sends for ever.
pub(super) const DOWN: u8 = b'd';

/// So that the sender knows what has arrived, not only what the buffers on the way have taken.
pub(super) const ACKNOWLEDGED: usize = 256 * 1024;
/// Of reads and writes, here and in the relay.
pub(super) const BUFFER: usize = 256 * 1024;

const LISTENER: Token = Token(usize::MAX);

/// Serves on `port` until it is killed. Thousands of connections for [`ECHO`] are one thread's; each of the others
/// has its own.
pub(super) fn serve(port: u16) -> Result<()> {
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port).into())
        .with_context(|| format!("can't listen on port {port}"))?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut connections: HashMap<Token, (TcpStream, bool)> = HashMap::new();
    let mut events = Events::with_capacity(1024);
    let mut next = 0;
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        for event in &events {
            if event.token() != LISTENER {
                if let Some((stream, known)) = connections.get_mut(&event.token())
                    && !echo(stream, known)
                    && let Some((mut stream, _)) = connections.remove(&event.token())
                {
                    poll.registry().deregister(&mut stream)?;
                    start(stream);
                }
                continue;
            }
            while let Ok((mut stream, _)) = listener.accept() {
                stream.set_nodelay(true)?;
                let token = Token(next);
                next += 1;
                poll.registry().register(&mut stream, token, Interest::READABLE)?;
                connections.insert(token, (stream, false));
            }
        }
    }
}

/// Sends back what there is. `known` is whether the first byte was [`ECHO`]; `false` is the answer when it is another,
/// or the connection has ended.
fn echo(stream: &mut TcpStream, known: &mut bool) -> bool {
    let mut buffer = [0; 4096];
    loop {
        if !*known {
            match stream.peek(&mut buffer[..1]) {
                Ok(1) if buffer[0] == ECHO => *known = true,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                _ => return false,
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) => return false,
            // Some bytes at a time, one under way: the socket's buffer takes them.
            Ok(count) => {
                if stream.write_all(&buffer[..count]).is_err() {
                    return false;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
}

fn start(stream: TcpStream) {
    let mut stream = std::net::TcpStream::from(stream);
    thread::spawn(move || {
        let mut first = [0];
        stream.set_nonblocking(false)?;
        if stream.read(&mut first)? == 0 {
            return Ok(());
        }
        match first[0] {
            UP => take(&mut stream),
            DOWN => loop {
                stream.write_all(&[0; BUFFER])?;
            },
            _ => Ok(()),
        }
    });
}

/// Ends with the connection, be it by an error.
fn take(stream: &mut (impl Read + Write)) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut owed = 0;
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        owed += count;
        stream.write_all(&vec![b'.'; owed / ACKNOWLEDGED])?;
        owed %= ACKNOWLEDGED;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// What is read from the one, and what was written to the other.
    struct Ends(Cursor<Vec<u8>>, Vec<u8>);

    impl Read for Ends {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            // Never as much as asked for.
            let most = buffer.len().min(100_000);
            self.0.read(&mut buffer[..most])
        }
    }

    impl Write for Ends {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.1.write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn each_whole_part_is_acknowledged_once() {
        for (bytes, expected) in [(0, 0), (ACKNOWLEDGED - 1, 0), (3 * ACKNOWLEDGED + 5, 3)] {
            let mut ends = Ends(Cursor::new(vec![0; bytes]), Vec::new());
            take(&mut ends).unwrap();
            assert_eq!(ends.1.len(), expected, "{bytes}");
        }
    }
}

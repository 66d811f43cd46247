//! Services that tunnels lead to.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use aws_lc_rs::digest::{Context, SHA256};

use crate::size::size;

/// How much a bulk transfer carries in each direction: 64 MiB, or the 1 GiB of rel:F28.
pub(crate) fn bulk_size() -> usize {
    size(64, 1_024) * 1024 * 1024
}

/// A TCP service in threads of the test. They end with the test's process.
#[derive(Debug)]
pub struct Service {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Service {
    /// Sends back what comes.
    #[must_use]
    pub fn echo() -> Self {
        Self::start(|mut stream| {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                if stream.write_all(&buffer[..count]).is_err() {
                    return;
                }
            }
        })
    }

    /// Takes 64 MiB, answers with their SHA-256, then sends the 64 MiB that [`fill`] makes.
    #[must_use]
    pub fn bulk() -> Self {
        Self::start(|mut stream| {
            let Some(digest) = take(&mut stream) else { return };
            if stream.write_all(&digest).is_ok() {
                give(&mut stream, 2);
            }
        })
    }

    /// Sends the 64 MiB that [`fill`] makes.
    #[must_use]
    pub fn source() -> Self {
        Self::start(|mut stream| {
            give(&mut stream, 2);
        })
    }

    /// Gives each connection to `serve`, in a thread.
    ///
    /// # Panics
    /// If there is no port for it.
    #[must_use]
    pub fn start(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("its address");
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let serve = Arc::new(serve);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::SeqCst);
                let serve = Arc::clone(&serve);
                thread::spawn(move || serve(stream));
            }
        });
        Self { address, connections }
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// How many connections it has had.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Reads [`bulk_size`] bytes and gives their SHA-256.
pub(crate) fn take(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; 64 * 1024];
    let mut left = bulk_size();
    while left > 0 {
        let most = buffer.len().min(left);
        match stream.read(&mut buffer[..most]) {
            Ok(count @ 1..) => {
                context.update(&buffer[..count]);
                left -= count;
            }
            _ => return None,
        }
    }
    Some(context.finish().as_ref().to_vec())
}

/// Sends the [`bulk_size`] bytes that `seed` stands for. `false`: the connection has ended.
pub(crate) fn give(stream: &mut TcpStream, seed: u64) -> bool {
    let mut state = seed;
    (0..bulk_size() / 65_536).all(|_| stream.write_all(&fill(&mut state)).is_ok())
}

/// The SHA-256 of what [`give`] sends.
pub(crate) fn expected(seed: u64) -> Vec<u8> {
    let mut context = Context::new(&SHA256);
    let mut state = seed;
    for _ in 0..bulk_size() / 65_536 {
        context.update(&fill(&mut state));
    }
    context.finish().as_ref().to_vec()
}

/// 64 KiB that look random and are the same each time (xorshift64).
fn fill(state: &mut u64) -> Vec<u8> {
    let mut block = Vec::with_capacity(65_536);
    while block.len() < 65_536 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        block.extend_from_slice(&state.to_le_bytes());
    }
    block
}

//! TCP sockets, and what is better within one host.
//!
//! Where BBR is the system's congestion control, TCP spreads what it sends over time, by a timer for each of its pieces.
//! Between two programs of one host nothing can be congested, and those timers cost more than the transfer itself. So
//! sockets that have a loopback address do without; which one they take instead is told before there is a connection,
//! because a paced connection stays one.

use std::io;
use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};

/// The congestion control of RFC 5681: every Linux has it, and every user may choose it.
const UNPACED: &[u8] = b"reno";

/// Listens on `address`; port 0 lets the system choose.
pub(crate) async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address).await?;
    prepare(SockRef::from(&listener), address);
    Ok(listener)
}

/// For a listener of somebody else's making.
pub(crate) fn adopt(listener: std::net::TcpListener) -> io::Result<TcpListener> {
    prepare(SockRef::from(&listener), listener.local_addr()?);
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Connects to the first of `addresses` that lets us.
///
/// # Errors
/// As [`first`].
pub(crate) async fn connect(
    addresses: impl IntoIterator<Item = SocketAddr>,
) -> io::Result<TcpStream> {
    first(addresses, connect_one).await
}

/// What `connect` makes of the first of `addresses` with which it succeeds.
///
/// # Errors
/// Of the last one; [`io::ErrorKind::NotFound`] if there is none.
pub(crate) async fn first<T, F>(
    addresses: impl IntoIterator<Item = SocketAddr>,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match connect(address).await {
            Ok(connected) => return Ok(connected),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Connects to the first address of the name that lets us.
///
/// # Errors
/// Of the look-up, or [`connect`].
pub(crate) async fn connect_to(host: &str, port: u16) -> io::Result<TcpStream> {
    connect(lookup_host((host, port)).await?).await
}

async fn connect_one(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    prepare(SockRef::from(&socket), address);
    socket.connect(address).await
}

/// Accepted sockets are as their listener is.
fn prepare(socket: SockRef<'_>, address: SocketAddr) {
    if address.ip().to_canonical().is_loopback()
        && socket.tcp_congestion().is_ok_and(|name| is_paced(&name))
    {
        // A paced socket still carries data.
        let _ = socket.set_tcp_congestion(UNPACED);
    }
}

/// BBR of any version.
fn is_paced(name: &[u8]) -> bool {
    name.starts_with(b"bbr")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn congestion(socket: SockRef<'_>) -> String {
        let name = socket.tcp_congestion().unwrap();
        String::from_utf8(name).unwrap().trim_end_matches('\0').to_owned()
    }

    /// What the system gives where nobody asks for anything, and what it gives us.
    #[tokio::test]
    async fn nothing_is_paced_within_a_host() {
        let default = congestion(SockRef::from(&TcpSocket::new_v4().unwrap()));
        let expected = if is_paced(default.as_bytes()) { "reno" } else { &default };
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = listen(address.parse().unwrap()).await.unwrap();
            let dialed = connect([listener.local_addr().unwrap()]).await.unwrap();
            let (accepted, _) = listener.accept().await.unwrap();
            for socket in [SockRef::from(&dialed), SockRef::from(&accepted)] {
                assert_eq!(congestion(socket), expected, "{address}, by default {default}");
            }
        }
        let everywhere = listen("0.0.0.0:0".parse().unwrap()).await.unwrap();
        assert_eq!(congestion(SockRef::from(&everywhere)), default, "others choose for themselves");
    }

    /// A kernel that refuses the name would leave everything paced.
    #[tokio::test]
    async fn the_kernel_has_what_is_taken_instead() {
        let socket = TcpSocket::new_v4().unwrap();
        SockRef::from(&socket).set_tcp_congestion(UNPACED).unwrap();
        assert_eq!(congestion(SockRef::from(&socket)), "reno");
    }

    #[tokio::test]
    async fn the_next_address_is_tried() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let open = listener.local_addr().unwrap();
        // Bound and not listening: refused.
        let closed = TcpSocket::new_v4().unwrap();
        closed.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let closed = closed.local_addr().unwrap();
        assert_eq!(connect([closed, open]).await.unwrap().peer_addr().unwrap(), open);
        let refused = connect([closed]).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(connect([]).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}

//! The listening sockets: bound here, or handed over by systemd.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use listenfd::ListenFd;
use tokio::net::{UnixListener, UnixStream};

use crate::config::ListenAddress;
use crate::http::serve::Listener;
use crate::tcp;

/// The listeners that systemd may hand over, by the name in `FileDescriptorName=`.
pub const NAMES: [&str; 3] = ["public", "internal", "netunnel"];

/// Sockets that were handed over (systemd.socket(5)); each replaces the address of its listener.
#[derive(Debug, Default)]
pub struct Sockets {
    handed_over: Vec<(String, Listener)>,
}

/// Why a listener is not there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// The address cannot be bound.
    #[error("cannot listen on {address} ({setting}): {}", explain(source, address))]
    Bind {
        /// The address.
        address: String,
        /// The setting that names it.
        setting: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A socket was handed over under a name that we do not know, or none.
    #[error(
        "systemd handed over a socket named {0:?}; FileDescriptorName= must be one of public, \
         internal, netunnel"
    )]
    Name(String),
    /// A socket that was handed over cannot be used.
    #[error("the socket {name} that systemd handed over cannot be used: {source}")]
    HandedOver {
        /// Its name.
        name: String,
        /// Why.
        source: io::Error,
    },
}

fn explain(error: &io::Error, address: &str) -> String {
    let port = address.rsplit_once(':').map_or(address, |(_, port)| port);
    match error.kind() {
        io::ErrorKind::AddrInUse if address.starts_with("unix:") => {
            format!("another process listens there; stop it, or change the setting ({error})")
        }
        io::ErrorKind::AddrInUse => format!(
            "another process has this port; find it with `ss -ltnp 'sport = :{port}'` and stop it, \
             or change the setting ({error})"
        ),
        io::ErrorKind::PermissionDenied => {
            format!("not permitted; ports below 1024 need a privilege ({error})")
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("this machine does not have the address; change the setting ({error})")
        }
        _ => error.to_string(),
    }
}

impl Sockets {
    /// Takes what systemd handed over; nothing, when it did not.
    ///
    /// # Errors
    /// [`SocketError::Name`] and [`SocketError::HandedOver`].
    pub fn from_environment() -> Result<Self, SocketError> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':').map(str::to_owned);
        let mut passed = ListenFd::from_env();
        let mut handed_over = Vec::new();
        for index in 0..passed.len() {
            let name = names.next().unwrap_or_default();
            if !NAMES.contains(&name.as_str()) {
                return Err(SocketError::Name(name));
            }
            let listener = take(&mut passed, index)
                .map_err(|source| SocketError::HandedOver { name: name.clone(), source })?;
            handed_over.push((name, listener));
        }
        Ok(Self { handed_over })
    }

    /// The listener `name`: handed over, or bound to `address`.
    ///
    /// # Errors
    /// [`SocketError::Bind`].
    pub async fn listen(
        &mut self,
        name: &str,
        setting: &'static str,
        address: &ListenAddress,
    ) -> Result<Listener, SocketError> {
        if let Some(index) = self.handed_over.iter().position(|(known, _)| known == name) {
            return Ok(self.handed_over.swap_remove(index).1);
        }
        let bound = match address {
            ListenAddress::Tcp(address) => tcp::listen(*address).await.map(Listener::Tcp),
            ListenAddress::Unix(path) => bind_unix(path).await,
        };
        bound.map_err(|source| SocketError::Bind { address: address.to_string(), setting, source })
    }
}

fn take(passed: &mut ListenFd, index: usize) -> io::Result<Listener> {
    if let Ok(Some(listener)) = passed.take_tcp_listener(index) {
        return tcp::adopt(listener).map(Listener::Tcp);
    }
    let listener = passed.take_unix_listener(index)?.ok_or(io::ErrorKind::NotFound)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener).map(|listener| Listener::Unix(listener, None))
}

async fn bind_unix(path: &Path) -> io::Result<Listener> {
    Ok(Listener::Unix(unix_listener(path).await?, Some(path.into())))
}

/// Binds a Unix socket that its owner and group can use. A socket file on which nobody listens is
/// what a killed process left; it is replaced.
pub(crate) async fn unix_listener(path: &Path) -> io::Result<UnixListener> {
    if let Ok(metadata) = path.symlink_metadata() {
        if !metadata.file_type().is_socket() {
            return Err(io::Error::other("the path exists and is no socket"));
        }
        if UnixStream::connect(path).await.is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_in_use_is_named_with_a_remedy() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = Sockets::default()
            .listen("public", "[jwthenticator] listen", &ListenAddress::Tcp(address))
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains(&address.to_string()), "{error}");
        assert!(error.contains(&format!("ss -ltnp 'sport = :{}'", address.port())), "{error}");
    }

    #[tokio::test]
    async fn a_socket_file_without_a_listener_is_replaced_and_a_live_one_is_not() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("x.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let address = ListenAddress::Unix(path.clone());
        let mut sockets = Sockets::default();
        let listener = sockets.listen("internal", "x", &address).await.unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o660);
        let error = sockets.listen("internal", "x", &address).await.unwrap_err().to_string();
        assert!(error.contains("another process listens there"), "{error}");
        drop(listener);
        assert!(!path.exists());
        std::fs::write(&path, "precious").unwrap();
        assert!(sockets.listen("internal", "x", &address).await.is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }
}

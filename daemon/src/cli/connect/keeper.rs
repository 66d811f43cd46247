//! Keeps the tunnels open, over one channel after the other.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::select_all;
use sd_notify::NotifyState;
use tokio::net::lookup_host;
use tokio::time::sleep;

use super::options::Wanted;
use super::spec::{Listen, Spec};
use super::{print, say};
use crate::pause::random_up_to;
use crate::tunnel::client::{Client, ClientError, Connector, Entrance, Target, Tunnel};

/// Longest pause before the first try after a channel was lost: all clients of a server lose theirs at once.
const FIRST_PAUSE: Duration = Duration::from_secs(10);

/// Longest pause before each further try.
const PAUSE: Duration = Duration::from_secs(30);

/// The tunnels that are asked for.
pub(super) struct Keeper {
    connector: Connector,
    tunnels: Vec<Kept>,
    client: Option<Client>,
    /// Whether all of it has been open once.
    was_open: bool,
}

struct Kept {
    spec: Spec,
    /// Bound once: what connects while the channel is away waits.
    entrance: Option<Entrance>,
    /// The port that the server chose at first, asked for again later.
    chosen: Option<u16>,
}

impl Keeper {
    pub(super) fn new(wanted: Wanted) -> Self {
        let kept = |spec| Kept { spec, entrance: None, chosen: None };
        let tunnels = wanted.tunnels.into_iter().map(kept).collect();
        Self { connector: wanted.connector, tunnels, client: None, was_open: false }
    }

    /// Returns only with an error that ends the program.
    pub(super) async fn keep_open(&mut self) -> ClientError {
        let mut end = match self.open().await {
            Ok(end) => end,
            Err(error) => return error,
        };
        loop {
            let mut pause = random_up_to(FIRST_PAUSE);
            say(&format!(
                "lost the channel to {} ({end}); connecting again in {:.1} s",
                self.connector.server(),
                pause.as_secs_f32()
            ));
            loop {
                sleep(pause).await;
                match self.open().await {
                    Ok(next) => {
                        end = next;
                        break;
                    }
                    Err(error) if error.is_final() => return error,
                    Err(error) => {
                        pause = random_up_to(PAUSE);
                        say(&format!("{error}; trying again in {:.1} s", pause.as_secs_f32()));
                    }
                }
            }
        }
    }

    /// Opens channel and tunnels; returns why one of them has ended.
    async fn open(&mut self) -> Result<String, ClientError> {
        let again = self.was_open;
        self.client = None;
        let client = self.client.insert(self.connector.connect().await?).clone();
        let mut made = Vec::new();
        for tunnel in &mut self.tunnels {
            match tunnel.open(&client, again).await {
                Ok(tunnel) => made.push(tunnel),
                Err(error) => {
                    client.close().await;
                    return Err(error);
                }
            }
        }
        if again {
            let what = if made.len() == 1 { "the tunnel is" } else { "the tunnels are" };
            say(&format!("{what} open again through {}", self.connector.server()));
        } else {
            // For a unit of Type=notify; without systemd this does nothing.
            let _ = sd_notify::notify(&[NotifyState::Ready]);
            self.was_open = true;
        }
        let deleted = select_all(made.iter().map(|tunnel| Box::pin(tunnel.ended())));
        tokio::select! {
            biased;
            end = client.ended() => Ok(end.to_string()),
            _ = deleted => {
                // With its channel goes every tunnel; only one that went alone was deleted.
                let alone = tokio::time::timeout(Duration::from_millis(200), client.ended()).await;
                client.close().await;
                Ok(alone.map_or_else(|_| "the server has deleted a tunnel".into(), |end| end.to_string()))
            }
        }
    }

    pub(super) async fn close(&self) {
        let _ = sd_notify::notify(&[NotifyState::Stopping]);
        if let Some(client) = &self.client {
            client.close().await;
        }
    }
}

impl Kept {
    async fn open(&mut self, client: &Client, again: bool) -> Result<Tunnel, ClientError> {
        match &self.spec {
            Spec::Forward { listen, host, port } => {
                if !again {
                    print("Opening tunnel to the server...");
                }
                let entrance = match &self.entrance {
                    Some(entrance) => entrance.clone(),
                    None => self.entrance.insert(bind(listen).await?).clone(),
                };
                let tunnel = client.forward(&entrance, host, *port).await?;
                if !again {
                    print(&format!("Tunnel entrance socket: {entrance}"));
                    let protocol = if matches!(listen, Listen::Udp(..)) { "/udp" } else { "" };
                    print(&format!("Tunnel exit socket: {host}:{port}{protocol}"));
                }
                Ok(tunnel)
            }
            Spec::Reverse { address, port, target } => {
                if !again {
                    print("Opening tunnel to the client...");
                }
                let port = self.chosen.unwrap_or(*port);
                let tunnel = client.reverse(address, port, target.clone()).await?;
                let port = tunnel.entrance().map_or(port, |entrance| entrance.port());
                self.chosen = Some(port);
                if !again {
                    let protocol = if matches!(target, Target::Udp(..)) { "/udp" } else { "" };
                    print(&format!("Tunnel entrance socket: {address}:{port}{protocol}"));
                    print(&format!("Tunnel exit socket: {target}"));
                }
                Ok(tunnel)
            }
        }
    }
}

async fn bind(listen: &Listen) -> Result<Entrance, ClientError> {
    let (host, port) = match listen {
        Listen::Unix(path) => return Entrance::bind_unix(path).await,
        Listen::Tcp(host, port) | Listen::Udp(host, port) => (host, *port),
    };
    let address = local(host, port).await;
    let unreachable = |source: io::Error| ClientError::Unreachable {
        server: host.clone(),
        source: source.into(),
    };
    let address = address.map_err(unreachable)?;
    match listen {
        Listen::Udp(..) => Entrance::bind_udp(address).await,
        Listen::Tcp(..) | Listen::Unix(_) => Entrance::bind(address).await,
    }
}

/// The local address to listen on; a name means the first address that it has.
async fn local(host: &str, port: u16) -> io::Result<SocketAddr> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok((ip, port).into());
    }
    let none = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    lookup_host((host, port)).await?.next().ok_or_else(none)
}

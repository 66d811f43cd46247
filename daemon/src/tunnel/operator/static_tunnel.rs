//! A static tunnel: a forward tunnel to a peer that comes back by itself, whatever ends it.
//!
//! Its local port stays bound from creation to deletion: what connects while the peer is away waits.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::super::client::{Client, ClientError, Connector, Entrance, Tunnel};
use super::super::state::TunnelEntry;
use crate::logging::untrusted;
use crate::pause::random_up_to;

/// Longest pause before a further try. The pauses are random, so that all tunnels of a peer that comes back do not
/// ask at once.
const PAUSE: Duration = Duration::from_secs(10);

/// Time for one try: channel, tunnel and first websocket.
const OPEN: Duration = Duration::from_secs(10);

/// How often to look whether the tunnel could still carry a connection.
const HEALTH: Duration = Duration::from_secs(30);

/// A running static tunnel. Dropping it leaves it running; [`StaticTunnel::stop`] ends it.
#[derive(Debug)]
pub(super) struct StaticTunnel {
    pub(super) entry: TunnelEntry,
    /// Kept over a change of the peer's settings.
    pub(super) entrance: Entrance,
    state: watch::Receiver<State>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Whether it works, and if not, why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    Starting,
    Online,
    Offline(String),
}

struct Runner {
    peer: String,
    entry: TunnelEntry,
    connector: Connector,
    entrance: Entrance,
    state: watch::Sender<State>,
}

impl StaticTunnel {
    pub(super) fn start(
        peer: &str,
        entry: TunnelEntry,
        connector: Connector,
        entrance: Entrance,
    ) -> Self {
        let (sender, state) = watch::channel(State::Starting);
        let stop = CancellationToken::new();
        let runner = Runner {
            peer: untrusted(peer),
            entry: entry.clone(),
            connector,
            entrance: entrance.clone(),
            state: sender,
        };
        let task = tokio::spawn(runner.run(stop.clone()));
        Self { entry, entrance, state, stop, task }
    }

    pub(super) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Follows the state.
    pub(super) fn watch(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Ends the tunnel on both sides and cuts its connections.
    pub(super) async fn stop(self) -> Entrance {
        self.stop.cancel();
        let _ = self.task.await;
        self.entrance
    }
}

/// Waits until a tunnel is online, or the first try has failed, or time is up.
pub(super) async fn first_state(mut state: watch::Receiver<State>) -> State {
    let settled = state.wait_for(|state| *state != State::Starting);
    match timeout(OPEN, settled).await {
        Ok(Ok(state)) => state.clone(),
        Ok(Err(_)) => State::Offline("it was stopped".into()),
        Err(_) => State::Offline(format!("not within {OPEN:?}")),
    }
}

impl Runner {
    async fn run(self, stop: CancellationToken) {
        loop {
            let reason = tokio::select! {
                () = stop.cancelled() => return,
                opened = self.open() => match opened {
                    Ok((client, tunnel)) => {
                        self.become_online();
                        let reason = tokio::select! {
                            () = stop.cancelled() => {
                                client.close().await;
                                return;
                            }
                            end = client.ended() => end.to_string(),
                            () = tunnel.ended() => "the peer has deleted the tunnel".to_owned(),
                            () = self.sick() => "no websocket can be opened for it".to_owned(),
                        };
                        client.close().await;
                        reason
                    }
                    Err(reason) => reason,
                },
            };
            self.become_offline(reason);
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(random_up_to(PAUSE)) => {}
            }
        }
    }

    async fn open(&self) -> Result<(Client, Tunnel), String> {
        let give_up = Instant::now() + OPEN;
        let late = || format!("no answer within {OPEN:?}");
        // A channel whose creation is broken off here expires at the peer.
        let connecting = timeout(OPEN, self.connector.connect()).await;
        let client = connecting.map_err(|_| late())?.map_err(|error| error.to_string())?;
        let TunnelEntry { tunnel_remote_address, tunnel_remote_port, .. } = &self.entry;
        let opening = client.forward(&self.entrance, tunnel_remote_address, *tunnel_remote_port);
        let left = give_up.saturating_duration_since(Instant::now());
        match timeout(left, opening).await {
            Ok(Ok(tunnel)) => Ok((client, tunnel)),
            Ok(Err(error)) => {
                client.close().await;
                Err(error.to_string())
            }
            Err(_) => {
                client.close().await;
                Err(late())
            }
        }
    }

    /// Returns when, between two looks, no websocket waited and no connection got one. A channel that lives can
    /// still belong to a tunnel that the peer has forgotten, or lead through a proxy that lets no websocket pass.
    async fn sick(&self) {
        let mut looks = interval_at(Instant::now() + HEALTH, HEALTH);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before = None;
        loop {
            looks.tick().await;
            let (waiting, carried) = self.entrance.vital_signs();
            if waiting > 0 {
                before = None;
            } else if before == Some(carried) {
                return;
            } else {
                before = Some(carried);
            }
        }
    }

    fn become_online(&self) {
        self.state.send_replace(State::Online);
        tracing::info!(event = "static_tunnel_online", peer = self.peer, tunnel = self.entry.id,
            entrance = %self.entrance, "static tunnel is online");
    }

    /// Said once for each reason, not for each try.
    fn become_offline(&self, reason: String) {
        let next = State::Offline(reason);
        let changed = *self.state.borrow() != next;
        if let State::Offline(reason) = &next
            && changed
        {
            tracing::warn!(
                event = "static_tunnel_offline",
                peer = self.peer,
                tunnel = self.entry.id,
                reason,
                "static tunnel is offline; trying again until it works"
            );
        }
        self.state.send_replace(next);
    }
}

/// Binds the local end of a new static tunnel.
pub(super) async fn bind(address: &str, port: u16) -> Result<Entrance, ClientError> {
    // The address was checked when it came in; the state file may have been edited since.
    let ip = address.parse().map_err(|_| ClientError::Url {
        url: untrusted(address),
        why: "tunnel_local_address is no IP address".into(),
    })?;
    Entrance::bind(SocketAddr::new(ip, port)).await
}

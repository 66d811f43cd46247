//! The operator's side of the tunnel server: peers, their static tunnels, the proxy towards them, factory reset.
//!
//! Every change is made under one lock, saved, and only then in force; reading never waits for a change. HTTP is
//! [`routes`]' part, the checks of what is posted [`input`]'s.

mod defaults;
mod input;
mod internal;
mod peer_auth;
mod peer_tls;
mod routes;
mod shapes;
mod static_tunnel;
mod status;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::client::{ClientError, Connector, Credentials, Entrance, Network, Proxy};
use super::configured::{ConfiguredError, policy};
use super::policy::Policy;
use super::server::Server;
use super::settings::Timings;
use super::state::{Document, Opened, PeerEntry, SecretKey, StateFile, TunnelEntry};
use crate::client::RefreshToken;
use crate::config::Netunnel;
use crate::logging::untrusted;
use crate::secret::Secret;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) use input::read_as_all;
pub use internal::internal_router;
#[cfg(test)]
pub(in crate::tunnel) use routes::all_routes;
pub(in crate::tunnel) use routes::document;
pub(crate) use status::Condition;
pub use status::StaticTunnelStatus;

use input::{NewPeer, NewTunnel, PeerChange};
use static_tunnel::{State, StaticTunnel, first_state};

/// What stands for a credential in every answer.
const MASK: &str = "******";

/// Local ports of static tunnels, as in NETunnel.
const LOCAL_PORTS: std::ops::Range<u16> = 20_000..21_000;

/// How long a new refresh token waits to be saved before it is used all the same. It waits for a change that is being
/// made, which may be waiting for a tunnel that needs this very token.
const SAVING: Duration = Duration::from_secs(2);

/// Who may use the operator's routes of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admins {
    /// Whoever reaches it: it is the internal one.
    Everyone,
    /// Callers with these identifiers.
    Listed(Vec<String>),
}

/// Peers, proxy and state file of one daemon.
pub struct Operator {
    config: Netunnel,
    file: Arc<StateFile>,
    timings: Timings,
    policy: Policy,
    live: Mutex<Live>,
    /// Held during a change.
    changes: tokio::sync::Mutex<()>,
    /// The servers whose clients a factory reset may disconnect.
    servers: Mutex<Vec<Arc<Server>>>,
}

impl std::fmt::Debug for Operator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Operator({})", self.config.state_file.display())
    }
}

/// What is in force.
struct Live {
    document: Document,
    key: SecretKey,
    peers: BTreeMap<u64, Peer>,
}

/// One peer.
struct Peer {
    entry: PeerEntry,
    connector: Connector,
    tunnels: BTreeMap<u64, StaticTunnel>,
    /// That of the connector's credentials.
    refresh: Option<Arc<RefreshToken>>,
}

/// Why a request of the operator is not fulfilled: status, text, and what may help beyond NETunnel's text.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    text: String,
    cause: Option<String>,
}

impl Refusal {
    fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), cause: None }
    }

    fn bad(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        tracing::error!(event = "state_file", outcome = "error", %error, "the state file cannot be written");
        let text = "the state file cannot be written; nothing was changed";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, text)
    }
}

type Done = Result<Value, Refusal>;

impl Operator {
    /// Takes the state file for this process and starts the static tunnels in it. `settings` are the server's: a
    /// factory reset changes their policy.
    ///
    /// # Errors
    /// [`ConfiguredError`].
    pub async fn start(
        config: &Netunnel,
        settings: &super::settings::Settings,
    ) -> Result<Arc<Self>, ConfiguredError> {
        let Opened { file, document, key } = StateFile::open(config)?;
        // Read anew: the file may have changed since the settings were made.
        settings.policy.replace(&policy(config, &document)?);
        let stored = document.peers();
        if document.allow_unverified_peers() {
            tracing::warn!(event = "peers_unverified", file = %config.state_file.display(),
                "allow_unverified_ssl_peers is true: whoever is between this daemon and a peer can read and change \
                 everything");
        }
        let operator = Arc::new(Self {
            config: config.clone(),
            file: Arc::new(file),
            timings: settings.timings.clone(),
            policy: settings.policy.clone(),
            live: Mutex::new(Live { document, key, peers: BTreeMap::new() }),
            changes: tokio::sync::Mutex::default(),
            servers: Mutex::default(),
        });
        let proxy = operator.proxy();
        let mut waiting = Vec::new();
        for entry in stored {
            let bad = |text| ConfiguredError::State {
                path: config.state_file.clone(),
                text: format!("peer \"{}\": {text}", untrusted(&entry.name)),
            };
            let credentials = operator.credentials(&entry.auth_data);
            let credentials = credentials.map_err(bad)?;
            let refresh = operator.kept_refresh_token(entry.id, &credentials);
            let (name, url) = (&entry.name, &entry.target_netunnel_url);
            let connector = operator
                .connector(name, url, credentials, proxy.clone())
                .await
                .map_err(|error| bad(error.to_string()))?;
            peer_tls::warn_if_unverified(config, &entry.name);
            tracing::info!(
                event = "peer",
                peer = untrusted(&entry.name),
                tunnels = entry.static_tunnels.len()
            );
            for tunnel in entry.static_tunnels.clone() {
                waiting.push((entry.id, entry.name.clone(), tunnel));
            }
            let id = entry.id;
            let peer = Peer { entry, connector, tunnels: BTreeMap::new(), refresh };
            operator.live().peers.insert(id, peer);
        }
        for (id, name, tunnel) in waiting {
            // Each by itself: a port that is taken concerns one tunnel.
            let starting = operator.clone();
            tokio::spawn(async move { starting.start_stored(id, &name, tunnel).await });
        }
        Ok(operator)
    }

    /// The routes of `server`, and those for operators, for the callers that `admins` names.
    pub fn router(self: &Arc<Self>, server: &Arc<Server>, admins: Admins) -> Router {
        self.may_disconnect(server);
        let more = routes::router(self.clone(), server.clone(), admins);
        super::routes::router(server.clone(), more)
    }

    /// A factory reset may disconnect the clients of `server`, too, which has no routes for operators.
    pub fn may_disconnect(&self, server: &Arc<Server>) {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner).push(server.clone());
    }

    fn servers(&self) -> Vec<Arc<Server>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops all static tunnels, at the end of the daemon.
    pub async fn stop(&self) {
        let _changing = self.changes.lock().await;
        let peers = std::mem::take(&mut self.live().peers);
        stop_all(peers.into_values().flat_map(|peer| peer.tunnels.into_values())).await;
    }

    fn credentials(&self, data: &peer_auth::AuthData) -> Result<Credentials, String> {
        peer_auth::credentials(self.config.peer_auth, &self.config.peer_auth_uri, data)
    }

    async fn connector(
        &self,
        name: &str,
        url: &str,
        credentials: Credentials,
        proxy: Option<Proxy>,
    ) -> Result<Connector, ClientError> {
        let unverified = self.live().document.allow_unverified_peers();
        let trust = peer_tls::trust(&self.config, name, unverified);
        let network = Network { trust, proxy, guarded: true };
        let connector = Connector::through(url, &network, credentials).await?;
        Ok(connector.with_timings(self.timings.clone()))
    }

    /// Lets each new refresh token of a peer be saved before it is used. NETunnel keeps the first one only, and loses
    /// its peer with it.
    fn keep_refresh_tokens(self: &Arc<Self>, id: u64, refresh: &Arc<RefreshToken>) {
        let operator = Arc::downgrade(self);
        let of_peer = Arc::downgrade(refresh);
        refresh.keep_by(move |token| {
            let (operator, of_peer) = (operator.clone(), of_peer.clone());
            async move {
                let (Some(operator), Some(of_peer)) = (operator.upgrade(), of_peer.upgrade())
                else {
                    return;
                };
                // A task of its own: it goes on when the time is up.
                let saving =
                    tokio::spawn(
                        async move { operator.save_refresh_token(id, &of_peer, &token).await },
                    );
                let _ = timeout(SAVING, saving).await;
            }
        });
    }

    /// The refresh token of a stored peer's credentials, which is saved from now on.
    fn kept_refresh_token(
        self: &Arc<Self>,
        id: u64,
        credentials: &Credentials,
    ) -> Option<Arc<RefreshToken>> {
        credentials.refresh_token().inspect(|refresh| self.keep_refresh_tokens(id, refresh))
    }

    async fn save_refresh_token(&self, id: u64, of_peer: &Arc<RefreshToken>, token: &Secret) {
        let _changing = self.changes.lock().await;
        let entry = self.live().peers.get(&id).and_then(|peer| {
            // The peer may have got other credentials meanwhile, or be gone.
            let same = peer.refresh.as_ref().is_some_and(|refresh| Arc::ptr_eq(refresh, of_peer));
            same.then(|| peer.entry.clone())
        });
        let Some(mut entry) = entry else { return };
        entry.auth_data.insert("refresh_token".into(), token.expose().to_owned());
        if let Err(refusal) = self.put(entry).await {
            tracing::error!(event = "peer_token_not_saved", peer = id, error = refusal.text);
        }
    }

    async fn start_stored(self: Arc<Self>, id: u64, name: &str, entry: TunnelEntry) {
        let mut said = false;
        let entrance = loop {
            match static_tunnel::bind(&entry.tunnel_local_address, entry.tunnel_local_port).await {
                Ok(entrance) => break entrance,
                Err(error) => {
                    if !std::mem::replace(&mut said, true) {
                        tracing::error!(event = "static_tunnel_not_bound", peer = untrusted(name),
                            tunnel = entry.id, %error, "static tunnel cannot listen; trying again");
                    }
                    tokio::time::sleep(Duration::from_secs(10)).await;
                }
            }
            let wanted = self
                .live()
                .peers
                .get(&id)
                .is_some_and(|peer| peer.entry.static_tunnels.contains(&entry));
            if !wanted {
                return;
            }
        };
        let mut live = self.live();
        // It may have been deleted meanwhile.
        if let Some(peer) = live.peers.get_mut(&id)
            && peer.entry.static_tunnels.contains(&entry)
            && !peer.tunnels.contains_key(&entry.id)
        {
            // As it is configured by now: finding the port free may have taken a while.
            let connector = peer.connector.clone();
            let tunnel = StaticTunnel::start(name, entry, connector, entrance);
            peer.tunnels.insert(tunnel.entry.id, tunnel);
        }
    }

    /// Saves `document` and puts it in force.
    async fn save(&self, document: Document) -> Result<(), Refusal> {
        // A small file; the fsync is what may take a while.
        let (file, saved) = (self.file.clone(), document.clone());
        blocking(move || file.save(&saved)).await?;
        self.live().document = document;
        Ok(())
    }

    /// Saves a peer that exists already or is new.
    async fn put(&self, entry: PeerEntry) -> Result<(), Refusal> {
        let mut document = self.live().document.clone();
        let mut peers = document.peers();
        match peers.iter_mut().find(|peer| peer.id == entry.id) {
            Some(peer) => *peer = entry.clone(),
            None => peers.push(entry.clone()),
        }
        document.set_peers(&peers);
        self.save(document).await?;
        if let Some(peer) = self.live().peers.get_mut(&entry.id) {
            peer.entry = entry;
        }
        Ok(())
    }

    fn list(&self, name: &str) -> Value {
        let live = self.live();
        let named = live.peers.values().filter(|peer| name.is_empty() || peer.entry.name == name);
        named.map(|peer| shown(&peer.entry)).collect()
    }

    fn peer<T>(&self, id: Option<u64>, read: impl FnOnce(&Peer) -> T) -> Result<T, Refusal> {
        let live = self.live();
        let peer = id.and_then(|id| live.peers.get(&id));
        peer.map(read).ok_or_else(|| {
            let id = id.map_or_else(|| "?".into(), |id| id.to_string());
            Refusal::new(StatusCode::NOT_FOUND, format!("Peer `{id}` was not found"))
        })
    }

    fn entry(&self, id: Option<u64>) -> Result<PeerEntry, Refusal> {
        self.peer(id, |peer| peer.entry.clone())
    }

    fn tunnel(&self, id: Option<u64>, tunnel: Option<u64>) -> Result<TunnelEntry, Refusal> {
        let entry = self.entry(id)?;
        let found = entry.static_tunnels.iter().find(|known| Some(known.id) == tunnel);
        found.cloned().ok_or_else(|| {
            let tunnel = tunnel.map_or_else(|| "?".into(), |id| id.to_string());
            let text = format!("No static tunnel by id `{tunnel}` on `{}`", entry.name);
            Refusal::new(StatusCode::NOT_FOUND, text)
        })
    }

    fn refuse_duplicate(&self, name: &str, id: Option<u64>) -> Result<(), Refusal> {
        let live = self.live();
        let mut others = live.peers.iter().filter(|(other, _)| Some(**other) != id);
        if others.any(|(_, peer)| peer.entry.name == name) {
            return Err(Refusal::bad(format!(
                "Peer `{}` already exists",
                super::wire::shown(name)
            )));
        }
        Ok(())
    }

    /// R9.
    async fn register(self: &Arc<Self>, body: &Map<String, Value>) -> Done {
        let wanted = NewPeer::read(body)
            .map_err(|errors| Refusal::bad(format!("Failed to register peer: {errors}")))?;
        let _changing = self.changes.lock().await;
        self.refuse_duplicate(&wanted.name, None)?;
        let credentials = self.credentials(&wanted.auth_data).map_err(Refusal::bad)?;
        let id = self.live().peers.keys().max().unwrap_or(&0) + 1;
        let connected =
            self.verified(&wanted.name, &wanted.url, &wanted.auth_data, credentials).await?;
        let mut bound = Vec::new();
        for tunnel in &wanted.static_tunnels {
            let entrance =
                static_tunnel::bind(&tunnel.tunnel_local_address, tunnel.tunnel_local_port).await;
            bound.push(entrance.map_err(|error| not_bound(&error))?);
        }
        let entry = PeerEntry {
            id,
            name: wanted.name,
            target_netunnel_url: wanted.url,
            auth_data: connected.stored,
            static_tunnels: wanted.static_tunnels,
        };
        self.put(entry.clone()).await?;
        // Only now: the answer so far is in what was just saved.
        if let Some(refresh) = &connected.refresh {
            self.keep_refresh_tokens(id, refresh);
        }
        let start = |(tunnel, entrance): (&TunnelEntry, Entrance)| {
            let started = StaticTunnel::start(
                &entry.name,
                tunnel.clone(),
                connected.connector.clone(),
                entrance,
            );
            (tunnel.id, started)
        };
        let tunnels = entry.static_tunnels.iter().zip(bound).map(start).collect();
        let answer = shown(&entry);
        tracing::info!(
            event = "peer_registered",
            peer = untrusted(&entry.name),
            id,
            "peer registered"
        );
        let Connected { connector, refresh, .. } = connected;
        let peer = Peer { entry, connector, tunnels, refresh };
        self.live().peers.insert(id, peer);
        Ok(answer)
    }

    /// R11.
    async fn update(self: &Arc<Self>, id: Option<u64>, body: &Map<String, Value>) -> Done {
        self.entry(id)?;
        let change = PeerChange::read(body).map_err(|errors| Refusal::bad(errors.to_string()))?;
        let _changing = self.changes.lock().await;
        let mut entry = self.entry(id)?;
        let mut other_tls = false;
        if let Some(name) = change.name {
            self.refuse_duplicate(&name, Some(entry.id))?;
            other_tls = peer_tls::differs(&self.config, &name, &entry.name);
            entry.name = name;
        }
        let url = change.url.unwrap_or_else(|| entry.target_netunnel_url.clone());
        let auth_data =
            change.auth_data.map(|posted| peer_auth::unmasked(posted, &entry.auth_data));
        let auth_data = auth_data.unwrap_or_else(|| entry.auth_data.clone());
        if url == entry.target_netunnel_url && auth_data == entry.auth_data && !other_tls {
            self.put(entry.clone()).await?;
            return Ok(shown(&entry));
        }
        let credentials = self.credentials(&auth_data).map_err(Refusal::bad)?;
        let connected = self.verified(&entry.name, &url, &auth_data, credentials).await?;
        entry.target_netunnel_url = url;
        entry.auth_data = connected.stored.clone();
        self.put(entry.clone()).await?;
        if let Some(refresh) = &connected.refresh {
            self.keep_refresh_tokens(entry.id, refresh);
        }
        self.reconnect(entry.id, connected.connector, connected.refresh).await;
        tracing::info!(
            event = "peer_updated",
            peer = untrusted(&entry.name),
            id = entry.id,
            "peer updated"
        );
        Ok(shown(&entry))
    }

    /// Restarts the static tunnels of a peer with another connector; their ports stay bound.
    async fn reconnect(&self, id: u64, connector: Connector, refresh: Option<Arc<RefreshToken>>) {
        let (name, old) = {
            let mut live = self.live();
            let Some(peer) = live.peers.get_mut(&id) else { return };
            peer.connector = connector.clone();
            peer.refresh = refresh;
            (peer.entry.name.clone(), std::mem::take(&mut peer.tunnels))
        };
        let mut stopping = JoinSet::new();
        for (_, tunnel) in old {
            let (name, connector) = (name.clone(), connector.clone());
            stopping.spawn(async move {
                let entry = tunnel.entry.clone();
                let entrance = tunnel.stop().await;
                StaticTunnel::start(&name, entry, connector, entrance)
            });
        }
        let started = stopping.join_all().await;
        if let Some(peer) = self.live().peers.get_mut(&id) {
            peer.tunnels.extend(started.into_iter().map(|tunnel| (tunnel.entry.id, tunnel)));
        }
    }

    /// R12.
    async fn remove(&self, id: Option<u64>) -> Result<(), Refusal> {
        let _changing = self.changes.lock().await;
        let entry = self.entry(id)?;
        let mut document = self.live().document.clone();
        let mut peers = document.peers();
        peers.retain(|peer| peer.id != entry.id);
        document.set_peers(&peers);
        self.save(document).await?;
        let removed = self.live().peers.remove(&entry.id);
        stop_all(removed.into_iter().flat_map(|peer| peer.tunnels.into_values())).await;
        tracing::info!(
            event = "peer_removed",
            peer = untrusted(&entry.name),
            id = entry.id,
            "peer removed"
        );
        Ok(())
    }

    /// R14.
    async fn add_tunnel(&self, id: Option<u64>, body: &Map<String, Value>) -> Done {
        let name = self.entry(id)?.name;
        for (key, what) in [("tunnel_local_port", "local_port"), ("id", "id")] {
            if body.contains_key(key) {
                return Err(Refusal::bad(format!(
                    "Tunnel's {what} is generated by the netunnel server"
                )));
            }
        }
        let wanted = NewTunnel::read(body).map_err(|errors| {
            Refusal::bad(format!("Failed to create static tunnel for peer `{name}`: {errors}"))
        })?;
        let _changing = self.changes.lock().await;
        let mut entry = self.entry(id)?;
        let connector = self.peer(id, |peer| peer.connector.clone())?;
        let tunnel_id = entry.static_tunnels.iter().map(|tunnel| tunnel.id).max().unwrap_or(0) + 1;
        let entrance = self.free_port(&wanted.local_address).await?;
        let tunnel =
            wanted.with(tunnel_id, entrance.local_addr().map_or(0, |address| address.port()));
        let started = StaticTunnel::start(&entry.name, tunnel.clone(), connector, entrance);
        match first_state(started.watch()).await {
            State::Online => {}
            State::Offline(reason) => {
                started.stop().await;
                return Err(Refusal::new(StatusCode::BAD_GATEWAY, reason));
            }
            State::Starting => unreachable!("it is waited for"),
        }
        entry.static_tunnels.push(tunnel.clone());
        if let Err(refusal) = self.put(entry).await {
            started.stop().await;
            return Err(refusal);
        }
        let mut live = self.live();
        if let Some(peer) = id.and_then(|id| live.peers.get_mut(&id)) {
            peer.tunnels.insert(tunnel_id, started);
        }
        Ok(json!(tunnel))
    }

    /// The lowest local port that no static tunnel has, bound.
    async fn free_port(&self, address: &str) -> Result<Entrance, Refusal> {
        let used: Vec<u16> = {
            let live = self.live();
            let tunnels = live.peers.values().flat_map(|peer| &peer.entry.static_tunnels);
            tunnels.map(|tunnel| tunnel.tunnel_local_port).collect()
        };
        for port in LOCAL_PORTS.filter(|port| !used.contains(port)) {
            match static_tunnel::bind(address, port).await {
                Ok(entrance) => return Ok(entrance),
                Err(ClientError::Bind { source, .. })
                    if source.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(not_bound(&error)),
            }
        }
        let text = format!(
            "Failed to found an available port between {} and {}",
            LOCAL_PORTS.start, LOCAL_PORTS.end
        );
        Err(Refusal::new(StatusCode::CONFLICT, text))
    }

    /// R16.
    async fn remove_tunnel(&self, id: Option<u64>, tunnel: Option<u64>) -> Result<(), Refusal> {
        let _changing = self.changes.lock().await;
        let gone = self.tunnel(id, tunnel)?;
        let mut entry = self.entry(id)?;
        entry.static_tunnels.retain(|tunnel| tunnel.id != gone.id);
        let peer_id = entry.id;
        self.put(entry).await?;
        let removed =
            self.live().peers.get_mut(&peer_id).and_then(|peer| peer.tunnels.remove(&gone.id));
        stop_all(removed.into_iter()).await;
        Ok(())
    }

    /// Whether the peer answers and takes the credentials. Nothing is changed.
    async fn verified(
        &self,
        name: &str,
        url: &str,
        auth_data: &peer_auth::AuthData,
        credentials: Credentials,
    ) -> Result<Connected, Refusal> {
        let proxy = self.proxy();
        let refresh = credentials.refresh_token();
        let connector = self
            .connector(name, url, credentials, proxy)
            .await
            .map_err(|error| Refusal::bad(error.to_string()))?;
        peer_tls::warn_if_unverified(&self.config, name);
        let name = super::wire::shown(name);
        let check = async {
            let client = connector.connect().await?;
            let version = client.ask_version().await;
            client.close().await;
            version
        };
        match check.await {
            Ok(_) => {
                let token = refresh.as_ref().and_then(|refresh| refresh.current());
                let stored = peer_auth::stored(self.config.peer_auth, auth_data, token);
                Ok(Connected { connector, refresh, stored })
            }
            Err(error) => {
                tracing::info!(event = "peer_refused", peer = untrusted(&name), %error, "peer not connected");
                Err(not_connected(&name, &error))
            }
        }
    }
}

/// A peer that answered.
struct Connected {
    connector: Connector,
    refresh: Option<Arc<RefreshToken>>,
    stored: peer_auth::AuthData,
}

/// A peer as answers show it.
fn shown(entry: &PeerEntry) -> Value {
    let masked: BTreeMap<&str, &str> =
        entry.auth_data.keys().map(|key| (key.as_str(), MASK)).collect();
    json!({"id": entry.id, "name": entry.name, "target_netunnel_url": entry.target_netunnel_url,
        "auth_data": masked, "static_tunnels": entry.static_tunnels})
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

async fn stop_all(tunnels: impl Iterator<Item = StaticTunnel>) {
    let mut stopping = JoinSet::new();
    for tunnel in tunnels {
        stopping.spawn(tunnel.stop());
    }
    stopping.join_all().await;
}

fn not_bound(error: &ClientError) -> Refusal {
    Refusal::new(StatusCode::CONFLICT, error.to_string())
}

fn not_connected(name: &str, error: &ClientError) -> Refusal {
    let (status, text) = match error {
        _ if error.is_unauthorized() => {
            (StatusCode::FORBIDDEN, format!("Failed to authenticate with peer `{name}`"))
        }
        ClientError::Refused { reason, .. } if !reason.is_empty() => {
            (StatusCode::BAD_GATEWAY, reason.clone())
        }
        _ => (StatusCode::BAD_GATEWAY, format!("Failed to connect with peer `{name}`")),
    };
    Refusal { status, text, cause: Some(error.to_string()) }
}

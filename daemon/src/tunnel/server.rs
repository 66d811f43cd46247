//! The tunnel server: all channels, their limits, and the drain at the end.
//!
//! HTTP is [`super::routes`]'s part; what a channel does is [`super::channel`]'s.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use hyper::upgrade::{OnUpgrade, Upgraded};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_util::task::TaskTracker;
use utoipa::ToSchema;

use super::channel::{Channel, Context, Opened};
use super::control::{self, ControlEnd};
use super::features::Features;
use super::plain::Protocol;
use super::routes;
use super::settings::Settings;
use super::stop::{Stop, StopReason};
use super::traffic::{Counts, Traffic, Unreached};
use super::transport::{accept, accept_data, control as control_websocket, refuse};
use super::wire::shown;
use crate::auth::{Authenticator, Identity};
use crate::revocation::Revocations;

/// Time for an accepted upgrade to become a websocket: the 101 is a few hundred bytes.
const UPGRADE: Duration = Duration::from_secs(10);

/// NETunnel's channels over HTTP. One for each listener.
pub struct Server {
    pub(super) settings: Arc<Settings>,
    pub(super) auth: Authenticator,
    channels: Mutex<HashMap<u64, Arc<Channel>>>,
    connections: AtomicUsize,
    draining: AtomicBool,
    stop: Stop,
    tasks: TaskTracker,
    traffic: Arc<Traffic>,
    opened: Arc<Opened>,
}

/// How much is open at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Channels, connected or not.
    pub channels: usize,
    /// Tunnels of all channels.
    pub tunnels: usize,
    /// Tunnel websockets, waiting ones included.
    pub connections: usize,
    /// Tasks of the server, its channels and their tunnels.
    pub tasks: usize,
}

/// The status page of one listener's tunnels. Sums are of everything since the start.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ServerStatus {
    channels: usize,
    tunnels: usize,
    /// Tunnel websockets, waiting ones included.
    websockets: usize,
    /// Whether the daemon is stopping.
    draining: bool,
    #[serde(flatten)]
    carried: Counts,
    /// Those that have a channel now.
    identities: Vec<IdentityStatus>,
}

/// The open channels of one identity, and what these have carried.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct IdentityStatus {
    identifier: String,
    channels: usize,
    tunnels: usize,
    #[serde(flatten)]
    carried: Counts,
}

/// A tunnel websocket that is counted for as long as this lives.
pub(super) struct Slot(Arc<Server>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A tunnel websocket that may be served.
pub(super) struct Admitted {
    context: Context,
    slot: Slot,
}

/// A tunnel websocket that has no place.
#[derive(Clone, Copy, Debug)]
pub(super) struct NotAdmitted {
    pub(super) why: NoPlace,
    /// The channel agreed on being refused by an HTTP status.
    pub(super) by_status: bool,
}

/// Why a tunnel websocket has no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoPlace {
    /// The channel or the tunnel does not exist for this caller.
    NoTunnel,
    /// As many websockets as there may be are open.
    TooMany,
    Draining,
}

/// Why there is no new channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoChannel {
    Draining,
    TooMany,
}

impl Server {
    /// A server without any channel yet.
    pub fn new(settings: Settings, auth: Authenticator) -> Arc<Self> {
        Arc::new(Self {
            settings: Arc::new(settings),
            auth,
            channels: Mutex::default(),
            connections: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            stop: Stop::new(),
            tasks: TaskTracker::new(),
            traffic: Arc::default(),
            opened: Arc::default(),
        })
    }

    /// NETunnel's routes. The connections must be served with upgrades.
    pub fn router(self: &Arc<Self>) -> Router {
        routes::router(self.clone(), Router::new())
    }

    /// What is open now.
    pub fn census(&self) -> Census {
        let channels: Vec<_> = self.channels().values().cloned().collect();
        let mut census = Census {
            channels: channels.len(),
            tunnels: 0,
            connections: self.connections.load(Ordering::Relaxed),
            tasks: self.tasks.len(),
        };
        for channel in channels {
            let tunnels = channel.tunnels();
            census.tunnels += tunnels.len();
            census.tasks += channel.tasks.len();
            census.tasks += tunnels.iter().map(|tunnel| tunnel.life.tasks.len()).sum::<usize>();
        }
        census
    }

    /// What was carried since the start.
    pub fn counts(&self) -> Counts {
        self.traffic.counts()
    }

    /// What is open now and what it has carried, for a status page.
    pub fn status(&self) -> ServerStatus {
        let channels: Vec<_> = self.channels().values().cloned().collect();
        let mut identities: BTreeMap<&str, IdentityStatus> = BTreeMap::new();
        for channel in &channels {
            let identifier = channel.owner.identifier();
            let identity = identities.entry(identifier).or_insert_with(|| IdentityStatus {
                identifier: identifier.into(),
                ..IdentityStatus::default()
            });
            identity.channels += 1;
            identity.tunnels += channel.tunnels().len();
            identity.carried = identity.carried + channel.traffic.counts();
        }
        ServerStatus {
            channels: channels.len(),
            tunnels: identities.values().map(|identity| identity.tunnels).sum(),
            websockets: self.connections.load(Ordering::Relaxed),
            draining: self.is_draining(),
            carried: self.counts(),
            identities: identities.into_values().collect(),
        }
    }

    /// Channels and tunnels since the start.
    pub(crate) fn opened(&self) -> (u64, u64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (read(&self.opened.channels), read(&self.opened.tunnels))
    }

    /// How often destinations were not reached, and why.
    pub(crate) fn unreached(&self) -> impl Iterator<Item = (Unreached, u64)> {
        self.traffic.unreached().into_iter()
    }

    /// Deletes every tunnel, at its client too, and closes every channel.
    pub(super) async fn disconnect_all(&self) {
        let channels: Vec<_> = self.channels().values().cloned().collect();
        let mut leaving = JoinSet::new();
        for channel in channels {
            leaving.spawn(async move { channel.dismiss().await });
        }
        leaving.join_all().await;
    }

    /// Ends the service: no new channels, tunnels and connections; live connections go on until they end or
    /// `deadline` has passed; then every websocket gets CLOSE 1012.
    ///
    /// The HTTP listener is the caller's and should go on answering until this returns.
    pub async fn drain(&self, deadline: Duration) {
        self.draining.store(true, Ordering::SeqCst);
        let channels: Vec<_> = self.channels().values().cloned().collect();
        let tunnels: Vec<_> = channels.iter().flat_map(|channel| channel.tunnels()).collect();
        for tunnel in &tunnels {
            tunnel.life.retire(StopReason::Drain);
        }
        let connections_end = async {
            for tunnel in &tunnels {
                tunnel.life.tasks.wait().await;
            }
        };
        if timeout(deadline, connections_end).await.is_err() {
            let open = self.connections.load(Ordering::Relaxed);
            tracing::warn!(
                event = "drain_deadline",
                open,
                "connections are cut at the drain deadline"
            );
        }
        self.stop.trigger(StopReason::Drain);
        self.tasks.close();
        // Bounded by the waits of each task; nothing is left that could take new work.
        let _ = timeout(self.settings.timings.close * 5, self.tasks.wait()).await;
    }

    /// Closes every channel that was opened with a token that is refused now, and all in it.
    pub fn close_revoked(&self, revocations: &Revocations) {
        if revocations.is_empty() {
            return;
        }
        let channels: Vec<_> = self.channels().values().cloned().collect();
        for channel in channels.iter().filter(|channel| channel.owner.is_revoked(revocations)) {
            channel.stop.trigger(StopReason::Revoked);
        }
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    fn channels(&self) -> MutexGuard<'_, HashMap<u64, Arc<Channel>>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates a channel, which its owner has to connect within the configured time.
    pub(super) fn create_channel(
        self: &Arc<Self>,
        owner: Identity,
        features: Features,
    ) -> Result<Arc<Channel>, NoChannel> {
        let channel = {
            let mut channels = self.channels();
            if self.is_draining() {
                return Err(NoChannel::Draining);
            }
            if channels.len() >= self.settings.limits.channels {
                return Err(NoChannel::TooMany);
            }
            let mut id = random_id();
            while channels.contains_key(&id) {
                id = random_id();
            }
            let whole = (&self.traffic, &self.opened);
            let channel = Channel::new(id, owner, features, &self.settings, &self.stop, whole);
            channels.insert(id, channel.clone());
            channel
        };
        let (server, unconnected) = (self.clone(), channel.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = sleep(server.settings.timings.unconnected_channel) => {}
                _ = unconnected.stop.stopped() => {}
            }
            if unconnected.expire() {
                server.channels().remove(&unconnected.id);
                tracing::info!(event = "channel_expired", channel = unconnected.id,
                    ident = %shown(unconnected.owner.identifier()), "channel was never connected");
            }
        });
        Ok(channel)
    }

    /// The channel with this id, if it is `caller`'s. Those of others do not exist for it.
    pub(super) fn channel(&self, caller: &Identity, id: u64) -> Option<Arc<Channel>> {
        self.channels().get(&id).filter(|channel| channel.owner == *caller).cloned()
    }

    /// Ends the channel of the same caller that has one of these addresses, if it is dead: its client has probably
    /// lost its network, and is back before we could notice. Returns whether the address is being freed.
    pub(super) async fn take_over(
        &self,
        caller: &Identity,
        protocol: Protocol,
        wanted: &[SocketAddr],
    ) -> bool {
        let channels: Vec<_> = self.channels().values().cloned().collect();
        let has = |channel: &Channel| {
            channel.tunnels().iter().any(|tunnel| tunnel.is_entered_at(protocol, wanted))
        };
        let holder = channels.iter().find(|channel| channel.owner == *caller && has(channel));
        let Some(holder) = holder else { return false };
        if holder.control.is_alive(self.settings.timings.takeover).await {
            return false;
        }
        tracing::info!(event = "channel_taken_over", channel = holder.id,
            ident = %shown(caller.identifier()), "a dead channel gives its port to its successor");
        for tunnel in holder.tunnels() {
            tunnel.life.retire(StopReason::ChannelLost);
        }
        holder.stop.trigger(StopReason::ChannelLost);
        true
    }

    /// Serves a channel's control websocket once the upgrade is through.
    pub(super) fn serve_control(
        self: &Arc<Self>,
        channel: Arc<Channel>,
        queue: mpsc::Receiver<Vec<u8>>,
        upgrade: OnUpgrade,
    ) {
        let server = self.clone();
        self.tasks.spawn(async move {
            tracing::info!(event = "channel_open", channel = channel.id,
                ident = %shown(channel.owner.identifier()), "channel opened");
            let (end, ws) = match upgraded(upgrade).await {
                Some(upgraded) => {
                    let (transport, early) = accept(upgraded);
                    let ws = control_websocket(transport, early, Role::Server).await;
                    // The server asks and the client acts; a NETunnel server, too, takes any known request
                    // without doing anything.
                    let handler = |id, message: Result<_, _>| match message {
                        Ok(_) => channel.control.reply(id, None),
                        Err(error) => {
                            let error: super::wire::MessageError = error;
                            channel.control.reply(id, Some(&error.to_string()));
                        }
                    };
                    let (end, ws) =
                        control::run(&channel.control, queue, ws, &channel.stop, handler).await;
                    (end, Some(ws))
                }
                None => (ControlEnd::Lost, None),
            };
            // First the id: whatever comes from now on finds no channel.
            server.channels().remove(&channel.id);
            let reason = match end {
                ControlEnd::Stopped(reason) => reason,
                _ => StopReason::ChannelLost,
            };
            let timings = &server.settings.timings;
            let part = async {
                if let Some(ws) = ws {
                    control::part(ws, &end, timings).await;
                }
            };
            tokio::join!(part, channel.end(reason, timings));
            tracing::info!(event = "channel_close", channel = channel.id,
                ident = %shown(channel.owner.identifier()), reason = %end, "channel ended");
        });
    }

    /// A place for a tunnel websocket of `caller`, or why there is none.
    pub(super) fn admit(
        self: &Arc<Self>,
        caller: Identity,
        channel_id: Option<u64>,
        tunnel_id: Option<u64>,
    ) -> Result<Admitted, NotAdmitted> {
        let channel = channel_id.and_then(|id| self.channel(&caller, id));
        // Only a channel of the caller's own can have agreed on statuses.
        let by_status = channel.as_ref().is_some_and(|channel| channel.features.r7_status);
        let refuse = |why| NotAdmitted { why, by_status };
        if self.is_draining() {
            return Err(refuse(NoPlace::Draining));
        }
        let (channel, tunnel) = channel
            .zip(tunnel_id)
            .and_then(|(channel, id)| channel.tunnel(id).map(|tunnel| (channel, tunnel)))
            .filter(|(_, tunnel)| !tunnel.life.retired.is_stopped())
            .ok_or_else(|| refuse(NoPlace::NoTunnel))?;
        let slot = self.slot().ok_or_else(|| refuse(NoPlace::TooMany))?;
        let context = Context { settings: self.settings.clone(), channel, tunnel, caller };
        Ok(Admitted { context, slot })
    }

    /// Serves a tunnel websocket once the upgrade is through.
    pub(super) fn serve_tunnel(admitted: Admitted, upgrade: OnUpgrade) {
        let Admitted { context, slot } = admitted;
        let tasks = context.tunnel.life.tasks.clone();
        tasks.spawn(async move {
            let _slot = slot;
            if let Some(upgraded) = upgraded(upgrade).await {
                context.serve(accept_data(upgraded)).await;
            }
        });
    }

    fn slot(self: &Arc<Self>) -> Option<Slot> {
        let limit = self.settings.limits.connections;
        let take = |open: usize| (open < limit).then_some(open + 1);
        self.connections.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        Some(Slot(self.clone()))
    }

    /// Says CLOSE to a websocket that has no place: a client of NETunnel ends its whole process if it gets
    /// anything but 101, so the refusal has to come after it.
    pub(super) fn refuse(&self, upgrade: OnUpgrade, why: NoPlace) {
        let (code, reason) = match why {
            NoPlace::NoTunnel => (CloseCode::Policy, "no such tunnel"),
            NoPlace::TooMany => (CloseCode::Policy, "too many connections"),
            NoPlace::Draining => (CloseCode::Restart, "the daemon is stopping"),
        };
        self.tasks.spawn(async move {
            if let Some(upgraded) = upgraded(upgrade).await {
                refuse(accept_data(upgraded), code, reason).await;
            }
        });
    }
}

async fn upgraded(upgrade: OnUpgrade) -> Option<Upgraded> {
    timeout(UPGRADE, upgrade).await.ok()?.ok()
}

/// From 1 to 2^53-1, which every JSON reader holds exactly. Random, so that ids tell nothing and cannot be
/// guessed even where an identity is shared.
fn random_id() -> u64 {
    loop {
        let mut bytes = [0; 8];
        aws_lc_rs::rand::fill(&mut bytes).expect("the system's random generator works");
        let id = u64::from_le_bytes(bytes) >> 11;
        if id != 0 {
            return id;
        }
    }
}

//! A channel on the server: its control websocket, its tunnels, and the rule that nothing of it outlives it.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::control::{Control, RequestError};
use super::dial::dial;
use super::entrance::{Entrance, Use};
use super::exit::{self, DialError, ExitOptions, Served};
use super::features::Features;
use super::frames::DataSocket;
use super::plain::{Local, Origin, PlainListener, Protocol};
use super::session::{End, Options, Outcome, Side};
use super::settings::{Settings, Timings};
use super::stop::{Life, Stop, StopReason};
use super::traffic::Traffic;
use super::wire::{Message, shown};
use crate::auth::Identity;
use crate::logging::Throttle;

/// Websockets that a reverse tunnel keeps waiting; NETunnel's client opens one for each request.
const SPARE: usize = 1;

/// Time for a client's answer to the deletion of its tunnels.
const FAREWELL: Duration = Duration::from_secs(2);

static DENIED: LazyLock<Throttle> = LazyLock::new(Throttle::new);
static DIAL_FAILED: LazyLock<Throttle> = LazyLock::new(Throttle::new);
static FEED_FAILED: LazyLock<Throttle> = LazyLock::new(Throttle::new);

/// One channel. Its websocket is served by [`super::server::Server`].
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) id: u64,
    pub(super) owner: Identity,
    pub(super) features: Features,
    pub(super) control: Arc<Control>,
    /// Ends everything of the channel.
    pub(super) stop: Stop,
    /// Work that must finish before the channel is gone, besides that of the tunnels.
    pub(super) tasks: TaskTracker,
    pub(super) traffic: Arc<Traffic>,
    /// Of the whole server.
    opened: Arc<Opened>,
    state: Mutex<State>,
}

/// How many there have been since the start.
#[derive(Debug, Default)]
pub(super) struct Opened {
    pub(super) channels: AtomicU64,
    pub(super) tunnels: AtomicU64,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    last_tunnel: u64,
    tunnels: HashMap<u64, Arc<Tunnel>>,
}

#[derive(Debug)]
enum Phase {
    /// Created; the queue waits for the control websocket.
    New(mpsc::Receiver<Vec<u8>>),
    Connected,
    Ended,
}

/// Why a channel cannot do that now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotNow {
    /// Its control websocket was never opened.
    NotConnected,
    /// Its control websocket is open already.
    AlreadyConnected,
    /// It has ended.
    Ended,
    /// It has as many tunnels as it may.
    TooManyTunnels,
}

/// One tunnel of a channel.
#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) id: u64,
    kind: Kind,
    protocol: Protocol,
    pub(super) life: Life,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// Client entrance, server exit. The destination as it was asked for: it is judged again each time.
    Forward { address: String, port: String },
    /// Server entrance, client exit.
    Reverse { entrance: Arc<Entrance>, bound: SocketAddr },
}

impl Tunnel {
    /// Whether it is entered at one of these addresses.
    pub(super) fn is_entered_at(&self, protocol: Protocol, addresses: &[SocketAddr]) -> bool {
        match &self.kind {
            Kind::Reverse { bound, .. } => self.protocol == protocol && addresses.contains(bound),
            Kind::Forward { .. } => false,
        }
    }
}

impl Channel {
    pub(super) fn new(
        id: u64,
        owner: Identity,
        features: Features,
        settings: &Settings,
        parent: &Stop,
        (whole, opened): (&Arc<Traffic>, &Arc<Opened>),
    ) -> Arc<Self> {
        opened.channels.fetch_add(1, Ordering::Relaxed);
        let (control, queue) = Control::new(&settings.timings);
        let state = State { phase: Phase::New(queue), last_tunnel: 0, tunnels: HashMap::new() };
        Arc::new(Self {
            id,
            owner,
            features,
            control,
            stop: parent.child(),
            tasks: TaskTracker::new(),
            traffic: Traffic::part_of(whole),
            opened: opened.clone(),
            state: Mutex::new(state),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims the right to be the channel's control websocket, which exists once.
    pub(super) fn connect(&self) -> Result<mpsc::Receiver<Vec<u8>>, NotNow> {
        let mut state = self.state();
        match std::mem::replace(&mut state.phase, Phase::Connected) {
            Phase::New(queue) => Ok(queue),
            Phase::Connected => Err(NotNow::AlreadyConnected),
            Phase::Ended => {
                state.phase = Phase::Ended;
                Err(NotNow::Ended)
            }
        }
    }

    /// Ends the channel if it was never connected. Returns whether it was so.
    pub(super) fn expire(&self) -> bool {
        let mut state = self.state();
        let expired = matches!(state.phase, Phase::New(_));
        if expired {
            state.phase = Phase::Ended;
        }
        expired
    }

    /// Whether tunnels can be made now.
    pub(super) fn check(&self, limit: usize) -> Result<(), NotNow> {
        let state = self.state();
        match state.phase {
            Phase::New(_) => Err(NotNow::NotConnected),
            Phase::Ended => Err(NotNow::Ended),
            Phase::Connected if state.tunnels.len() >= limit => Err(NotNow::TooManyTunnels),
            Phase::Connected => Ok(()),
        }
    }

    /// Adds a tunnel. Its listener, if it has one, is already bound, so a number is never used up in vain.
    pub(super) fn add(
        &self,
        kind: Kind,
        protocol: Protocol,
        limit: usize,
    ) -> Result<Arc<Tunnel>, NotNow> {
        self.check(limit)?;
        let mut state = self.state();
        // Between the two locks the channel may have ended or filled up.
        if !matches!(state.phase, Phase::Connected) {
            return Err(NotNow::Ended);
        }
        if state.tunnels.len() >= limit {
            return Err(NotNow::TooManyTunnels);
        }
        state.last_tunnel += 1;
        let (id, life) = (state.last_tunnel, Life::new(&self.stop));
        let tunnel = Arc::new(Tunnel { id, kind, protocol, life });
        state.tunnels.insert(tunnel.id, tunnel.clone());
        self.opened.tunnels.fetch_add(1, Ordering::Relaxed);
        Ok(tunnel)
    }

    pub(super) fn tunnel(&self, id: u64) -> Option<Arc<Tunnel>> {
        self.state().tunnels.get(&id).cloned()
    }

    pub(super) fn tunnels(&self) -> Vec<Arc<Tunnel>> {
        self.state().tunnels.values().cloned().collect()
    }

    /// Takes a tunnel out, so that it exists no longer for anybody but its own tasks.
    pub(super) fn remove(&self, id: u64) -> Option<Arc<Tunnel>> {
        self.state().tunnels.remove(&id)
    }

    /// Deletes all tunnels, tells the client so, and closes the channel.
    pub(super) async fn dismiss(&self) {
        let tunnels = std::mem::take(&mut self.state().tunnels);
        let mut telling = JoinSet::new();
        for (tunnel_id, tunnel) in tunnels {
            let control = self.control.clone();
            telling.spawn(async move {
                // First here: a client waits until the websockets are closed before it answers.
                tunnel.life.end(true, Duration::ZERO).await;
                let message = Message::DeleteTunnel { tunnel_id, force: true };
                // NETunnel's client may close the channel instead of answering.
                let _ = timeout(FAREWELL, control.request(message)).await;
            });
        }
        telling.join_all().await;
        self.stop.trigger(StopReason::Deleted);
    }

    /// Ends everything of the channel and waits until it has, within bounds.
    pub(super) async fn end(&self, reason: StopReason, timings: &Timings) {
        let tunnels = {
            let mut state = self.state();
            state.phase = Phase::Ended;
            std::mem::take(&mut state.tunnels)
        };
        self.stop.trigger(reason);
        self.tasks.close();
        let all = async {
            for tunnel in tunnels.values() {
                tunnel.life.tasks.close();
                tunnel.life.tasks.wait().await;
            }
            self.tasks.wait().await;
        };
        // Every task ends by itself after `stop`: the slowest ones wait for a CLOSE and then for a program's EOF.
        if timeout(timings.close * 4, all).await.is_err() {
            tracing::warn!(channel = self.id, "connections of the channel are slow to end");
        }
    }
}

/// The parts that every task of a tunnel needs.
#[derive(Clone, Debug)]
pub(super) struct Context {
    pub(super) settings: Arc<Settings>,
    pub(super) channel: Arc<Channel>,
    pub(super) tunnel: Arc<Tunnel>,
    /// Who opened this connection: the channel's owner, with the claims of this request's token.
    pub(super) caller: Identity,
}

impl Context {
    /// Starts what a new tunnel does by itself.
    pub(super) fn start(self, listener: Option<PlainListener>) {
        let (tunnel, channel) = (self.tunnel.clone(), self.channel.clone());
        let protocol = tunnel.protocol.as_str();
        match &tunnel.kind {
            Kind::Forward { address, port } => {
                tracing::info!(event = "tunnel_open", ident = %shown(self.caller.identifier()),
                    channel = channel.id, tunnel = tunnel.id, direction = "forward", protocol,
                    destination = %format_args!("{}:{}", shown(address), shown(port)), "tunnel opened");
            }
            Kind::Reverse { entrance, bound } => {
                tracing::info!(event = "tunnel_open", ident = %shown(self.caller.identifier()),
                    channel = channel.id, tunnel = tunnel.id, direction = "reverse", protocol,
                    entrance = %bound, "tunnel opened");
                let Some(listener) = listener else { return };
                let entrance = entrance.clone();
                let retired = tunnel.life.retired.clone();
                let accepting = entrance.clone();
                let until = retired.clone();
                tunnel.life.tasks.spawn(async move { accepting.accept(&listener, &until).await });
                let patience = self.settings.timings.feed;
                tunnel.life.tasks.spawn(async move {
                    entrance.feed(SPARE, patience, &retired, || self.request_websocket()).await;
                });
            }
        }
    }

    /// Asks the client to open one more websocket. The answer only says that it is going to.
    fn request_websocket(&self) {
        let (channel, tunnel_id) = (self.channel.clone(), self.tunnel.id);
        self.tunnel.life.tasks.spawn(async move {
            match channel.control.request(Message::NewConnection { tunnel_id }).await {
                Ok(()) | Err(RequestError::Ended) => {}
                Err(error @ RequestError::Refused(_)) => {
                    FEED_FAILED.run(|suppressed| {
                        tracing::warn!(event = "feed_failed", channel = channel.id, tunnel = tunnel_id,
                            %error, suppressed, "the client opens no websocket for its reverse tunnel");
                    });
                }
            }
        });
    }

    /// Serves one tunnel websocket to its end.
    pub(super) async fn serve(self, ws: DataSocket) {
        let Self { tunnel, .. } = &self;
        let options = |side| {
            let Channel { features, traffic, .. } = &*self.channel;
            Options::new(side, tunnel.protocol, *features, false, &self.settings.timings, traffic)
        };
        match &tunnel.kind {
            Kind::Forward { address, port } => {
                let options = ExitOptions {
                    session: options(Side::Exit),
                    start: self.settings.timings.start,
                };
                let dial = || self.dial(address, port);
                let ended = |outcome: &Outcome| self.log_end(outcome);
                let life = &tunnel.life;
                match exit::serve(ws, options, dial, ended, &life.retired, &life.stop).await {
                    Served::Carried => {}
                    Served::Failed(error) => self.log_failure(&error),
                    Served::WrongStart => {
                        tracing::info!(event = "wrong_start", ident = %shown(self.caller.identifier()),
                            channel = self.channel.id, tunnel = tunnel.id,
                            "a websocket did not begin with the start message");
                    }
                    Served::Unused => {}
                }
            }
            Kind::Reverse { entrance, .. } => {
                let opened = |client: Origin| self.log_start(&client);
                let use_of = Use {
                    options: options(Side::Entrance),
                    retired: &tunnel.life.retired,
                    stop: &tunnel.life.stop,
                    start: self.settings.timings.start,
                };
                let ended = |outcome: &Outcome| self.log_end(outcome);
                entrance.serve(ws, use_of, opened, ended).await;
            }
        }
    }

    async fn dial(&self, address: &str, port: &str) -> Result<Local, DialError> {
        let Settings { policy, own_listeners, timings, .. } = &*self.settings;
        let destination = policy
            .destination(&self.caller, own_listeners, address, port)
            .map_err(|denied| DialError::Denied(denied.to_string()))?;
        let protocol = self.tunnel.protocol;
        let local =
            dial(policy, &self.caller, own_listeners, &destination, protocol, timings).await?;
        self.log_start(&destination);
        Ok(local)
    }

    fn log_start(&self, far: &dyn std::fmt::Display) {
        tracing::info!(event = "conn_open", ident = %shown(self.caller.identifier()),
            channel = self.channel.id, tunnel = self.tunnel.id, far = %far, "connection opened");
    }

    fn log_end(&self, outcome: &Outcome) {
        let how = match outcome.end {
            End::Clean => "closed",
            End::TcpReset => "reset",
            End::Lost => "lost",
            End::Protocol(_) => "protocol",
            End::Stalled => "stalled",
            End::Idle => "idle",
            End::Stopped(_) => "stopped",
        };
        tracing::info!(event = "conn_close", ident = %shown(self.caller.identifier()),
            channel = self.channel.id, tunnel = self.tunnel.id, outcome = how,
            to_client = outcome.sent, from_client = outcome.received, "connection ended");
    }

    fn log_failure(&self, error: &DialError) {
        self.channel.traffic.failed(error.kind());
        let (limiter, event) = match error {
            DialError::Denied(_) => (&DENIED, "dest_denied"),
            DialError::Timeout(..) => (&DIAL_FAILED, "dial_timeout"),
            _ => (&DIAL_FAILED, "dial_failed"),
        };
        limiter.run(|suppressed| {
            let cause = std::error::Error::source(error).map(ToString::to_string);
            tracing::info!(event, ident = %shown(self.caller.identifier()), channel = self.channel.id,
                tunnel = self.tunnel.id, %error, cause, suppressed, "destination not reached");
        });
    }
}

/// Binds the first address that is free.
pub(super) async fn bind(
    protocol: Protocol,
    candidates: &[SocketAddr],
) -> io::Result<PlainListener> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for candidate in candidates {
        match PlainListener::bind(protocol, *candidate).await {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

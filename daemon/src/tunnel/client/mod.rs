//! The client of a NETunnel server, as a library: tunnels, and their ends on this side.
//!
//! A [`Connector`] knows a server and has [`Credentials`] for it. Each [`Connector::connect`] makes a [`Client`]: one
//! channel, over which tunnels are made. A client never reconnects by itself; when [`Client::ended`] returns, make a
//! new one and open the tunnels again, after a pause ([`ClientError::is_final`] tells when that is of no use).
//!
//! The end of a tunnel on this side is
//! - for [`Client::forward`], an [`Entrance`]: a TCP port, a UNIX socket, or the program itself, which opens connections
//!   by a [`Dialer`]; or a UDP port. It survives the client: it stays bound, and what connects meanwhile waits;
//! - for [`Client::reverse`], an exit, the [`Target`]: a host and port, by TCP or UDP, a UNIX socket, or the program itself, which takes
//!   connections from [`Incoming`].
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use jwtunnel::client::Secret;
//! use jwtunnel::tunnel::client::{Connector, Credentials, Entrance, Target, Trust};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! use uuid::Uuid;
//!
//! let key = Secret::new(std::fs::read_to_string("key")?.trim());
//! let credentials = Credentials::key(key, Uuid::nil(), "/jwthenticator".into());
//! let server = "https://gateway.example/netunnel";
//! let connector = Connector::new(server, &Trust::default(), credentials).await?;
//! let client = connector.connect().await?;
//!
//! // Port 8080 here leads to port 80 of the server.
//! let entrance = Entrance::bind("127.0.0.1:8080".parse()?).await?;
//! client.forward(&entrance, "127.0.0.1", 80).await?;
//!
//! // So does this connection, which nobody else on this machine can use.
//! let (entrance, dialer) = Entrance::in_program();
//! client.forward(&entrance, "127.0.0.1", 80).await?;
//! let mut stream = dialer.connect().await?;
//! stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
//! let mut answer = String::new();
//! stream.read_to_string(&mut answer).await?;
//!
//! // Connections to port 2222 of the server come here.
//! let (target, mut incoming) = Target::program();
//! client.reverse("127.0.0.1", 2222, target).await?;
//! while let Some(mut stream) = incoming.accept().await {
//!     stream.write_all(b"hello\n").await?;
//! }
//! # Ok(())
//! # }
//! ```

mod credentials;
mod error;
mod http;
mod network;
mod program;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::{UnixStream, lookup_host};
use tokio::sync::{RwLock, watch};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_util::task::TaskTracker;

use super::control::{self, Control, ControlEnd};
use super::entrance::{self, Use};
use super::exit::{self, DialError, ExitOptions, Served};
use super::features::Features;
use super::frames::DataSocket;
use super::plain::{Local, Origin, Plain, PlainListener, Protocol};
use super::session::{Options, Outcome, Side};
use super::settings::{PROTOCOL_VERSION, Timings};
use super::stop::{Life, Stop, StopReason};
use super::traffic::{Counts, Traffic};
use super::transport::{WebSocket, control as control_websocket};
use super::udp::Flow;
use super::wire::{Message, MessageError};
use crate::logging::Throttle;
use crate::tcp;
pub use credentials::Credentials;
pub use error::{Cause, ClientError};
pub(crate) use network::{Judged, read_tls_config};
pub use network::{Network, Proxy, Trust};
pub use program::{Dialer, Incoming, Program, TunnelStream};

use http::Http;

/// Websockets that a forward tunnel keeps waiting, so that most connections start without a round trip.
const SPARE: usize = 2;

/// Pause after a websocket that could not be opened.
const FAILED: Duration = Duration::from_secs(1);

/// Time to delete a tunnel at the server when the client closes.
const FAREWELL: Duration = Duration::from_secs(5);

static WEBSOCKET_FAILED: LazyLock<Throttle> = LazyLock::new(Throttle::new);
static DIAL_FAILED: LazyLock<Throttle> = LazyLock::new(Throttle::new);

/// A server with credentials; makes clients. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Connector {
    http: Arc<Http>,
    timings: Timings,
    /// Of all clients that it has made.
    traffic: Arc<Traffic>,
}

/// The local end of forward tunnels: a bound listener, or the program itself, with the connections that wait at it.
#[derive(Clone, Debug)]
pub struct Entrance {
    listener: Arc<PlainListener>,
    /// None for a UNIX socket, and for an entrance in the program.
    address: Option<SocketAddr>,
    entrance: Arc<entrance::Entrance>,
}

/// One channel to a server. Dropping it leaves the channel open; [`Client::close`] ends it.
#[derive(Clone, Debug)]
pub struct Client(Arc<Shared>);

/// A tunnel of a client, as the server knows it.
#[derive(Clone, Debug)]
pub struct Tunnel {
    id: u64,
    retired: Stop,
    /// The server's entrance of a reverse tunnel, if the server tells; the original does not.
    entrance: Option<SocketAddr>,
}

#[derive(Debug)]
struct Shared {
    http: Arc<Http>,
    timings: Timings,
    channel: u64,
    server_version: String,
    features: Features,
    control: Arc<Control>,
    stop: Stop,
    tasks: TaskTracker,
    tunnels: Mutex<HashMap<u64, Arc<Lane>>>,
    /// Held for writing while a reverse tunnel is being made: the request for its first websocket can overtake
    /// the answer that tells its number.
    creating: RwLock<()>,
    ended: watch::Sender<Option<ControlEnd>>,
    traffic: Arc<Traffic>,
}

#[derive(Debug)]
struct Lane {
    life: Life,
    protocol: Protocol,
    /// Where a reverse tunnel leads; a forward tunnel has its entrance instead.
    exit: Option<Target>,
}

impl Connector {
    /// Prepares connections to `server`, a URL with NETunnel's path if it has one.
    ///
    /// # Errors
    /// [`ClientError::Url`], [`ClientError::CaFile`] or [`ClientError::Tls`]; nothing is sent yet.
    pub async fn new(
        server: &str,
        trust: &Trust,
        credentials: Credentials,
    ) -> Result<Self, ClientError> {
        let network = Network { trust: trust.clone(), ..Network::default() };
        Self::through(server, &network, credentials).await
    }

    /// The same on a certain way.
    ///
    /// # Errors
    /// As [`Connector::new`].
    pub async fn through(
        server: &str,
        network: &Network,
        credentials: Credentials,
    ) -> Result<Self, ClientError> {
        let http = Arc::new(Http::new(server, network, credentials).await?);
        Ok(Self { http, timings: Timings::default(), traffic: Arc::default() })
    }

    /// The same with other timings.
    #[must_use]
    pub fn with_timings(self, timings: Timings) -> Self {
        Self { timings, ..self }
    }

    /// What its clients have carried so far; `sent` is what went to the server.
    pub fn counts(&self) -> Counts {
        self.traffic.counts()
    }

    /// The server's URL.
    pub fn server(&self) -> &str {
        self.http.server()
    }

    /// Opens a channel.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::is_final`] tells whether to try again.
    pub async fn connect(&self) -> Result<Client, ClientError> {
        let offer = json!({"version": PROTOCOL_VERSION, "features": Features::ALL.names()});
        let answer = self.http.post("/channels", &offer).await?;
        let not_netunnel =
            |what| ClientError::NotNetunnel { server: self.server().to_owned(), what };
        let channel = answer.get("channel_id").and_then(Value::as_u64);
        let channel = channel.ok_or_else(|| not_netunnel("the answer has no channel_id"))?;
        let version = answer.get("version").and_then(Value::as_str).unwrap_or_default();
        let path = format!("/channels/{channel}/connect");
        let (transport, early) = self.http.websocket(&path).await?;
        let ws = control_websocket(transport, early, Role::Client).await;
        let (control, queue) = Control::new(&self.timings);
        let shared = Arc::new(Shared {
            http: self.http.clone(),
            timings: self.timings.clone(),
            channel,
            server_version: super::wire::shown(version),
            features: Features::from_body(&answer),
            control,
            stop: Stop::new(),
            tasks: TaskTracker::new(),
            tunnels: Mutex::default(),
            creating: RwLock::new(()),
            ended: watch::Sender::new(None),
            traffic: Traffic::part_of(&self.traffic),
        });
        let serving = shared.clone();
        // Not one of its own tasks: it waits for them.
        tokio::spawn(async move { serving.serve(queue, ws).await });
        Ok(Client(shared))
    }
}

impl Entrance {
    /// Binds a local address; port 0 lets the system choose.
    ///
    /// # Errors
    /// [`ClientError::Bind`].
    pub async fn bind(address: SocketAddr) -> Result<Self, ClientError> {
        Self::bind_to(Protocol::Tcp, address).await
    }

    /// The same for datagrams. What one address sends makes a flow, which leaves at the server from a port of its own
    /// and ends after [`Timings::udp_idle`] without datagrams. What finds no room on the way is dropped.
    ///
    /// # Errors
    /// [`ClientError::Bind`].
    pub async fn bind_udp(address: SocketAddr) -> Result<Self, ClientError> {
        Self::bind_to(Protocol::Udp, address).await
    }

    async fn bind_to(protocol: Protocol, address: SocketAddr) -> Result<Self, ClientError> {
        let bind = |source| ClientError::Bind { address, source };
        let listener = PlainListener::bind(protocol, address).await.map_err(bind)?;
        let address = Some(listener.local_addr().map_err(bind)?);
        let listener = Arc::new(listener);
        Ok(Self { listener, address, entrance: entrance::Entrance::new() })
    }

    /// Binds a UNIX socket, which its owner and group can use. A file that a killed program left is replaced.
    ///
    /// # Errors
    /// [`ClientError::BindUnix`].
    pub async fn bind_unix(path: &Path) -> Result<Self, ClientError> {
        let bound = PlainListener::unix(path).await;
        let listener =
            bound.map_err(|source| ClientError::BindUnix { path: path.to_owned(), source })?;
        let listener = Arc::new(listener);
        Ok(Self { listener, address: None, entrance: entrance::Entrance::new() })
    }

    /// An entrance without an address: only this program can connect, by the [`Dialer`].
    pub fn in_program() -> (Self, Dialer) {
        let (dialer, queue) = program::dialer();
        let listener = Arc::new(PlainListener::Own(tokio::sync::Mutex::new(queue)));
        (Self { listener, address: None, entrance: entrance::Entrance::new() }, dialer)
    }

    /// The address that programs connect to; none for a UNIX socket, and for an entrance in the program.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Websockets that wait for a connection now, and how many have carried one so far.
    pub(super) fn vital_signs(&self) -> (usize, u64) {
        self.entrance.vital_signs()
    }
}

impl std::fmt::Display for Entrance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.listener.fmt(f)
    }
}

/// The local end of reverse tunnels: where they lead, as seen from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Host and port.
    Tcp(String, u16),
    /// The same for datagrams.
    Udp(String, u16),
    /// A UNIX socket.
    Unix(PathBuf),
    /// This program itself.
    Program(Program),
}

impl Target {
    /// This program as the target: it takes the connections from [`Incoming`].
    pub fn program() -> (Self, Incoming) {
        let (program, incoming) = program::program();
        (Self::Program(program), incoming)
    }
}

impl Target {
    fn protocol(&self) -> Protocol {
        match self {
            Self::Udp(..) => Protocol::Udp,
            Self::Tcp(..) | Self::Unix(_) | Self::Program(_) => Protocol::Tcp,
        }
    }
}

impl From<(&str, u16)> for Target {
    fn from((host, port): (&str, u16)) -> Self {
        Self::Tcp(host.to_owned(), port)
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Udp(host, port) => write!(f, "{host}:{port}/udp"),
            Self::Unix(path) => path.display().fmt(f),
            Self::Program(_) => f.write_str("this program"),
        }
    }
}

impl Tunnel {
    /// The tunnel's number within its channel.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Where a reverse tunnel is entered, if the server tells.
    pub fn entrance(&self) -> Option<SocketAddr> {
        self.entrance
    }

    /// Waits for the end of the tunnel: deleted by either side, or gone with its channel.
    pub async fn ended(&self) {
        self.retired.stopped().await;
    }
}

impl Client {
    /// Asks the server for its version: whether it answers, and takes the credentials.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn ask_version(&self) -> Result<String, ClientError> {
        Ok(super::wire::shown(&self.0.http.get_text("/version").await?))
    }

    /// The version that the server reports.
    pub fn server_version(&self) -> &str {
        &self.0.server_version
    }

    /// Makes a tunnel from `entrance` to `address` and `port` as the server sees them. When this returns, a
    /// websocket waits for the first connection.
    ///
    /// # Errors
    /// [`ClientError`]; the tunnel does not exist then.
    pub async fn forward(
        &self,
        entrance: &Entrance,
        address: &str,
        port: u16,
    ) -> Result<Tunnel, ClientError> {
        let shared = &self.0;
        // Exactly these keys: the original refuses a body with any other.
        let wish = json!({"exit_address": address, "exit_port": port, "reverse": false});
        let protocol = entrance.listener.protocol();
        let answer = shared.create(wish, protocol).await?;
        let id = shared.tunnel_id(&answer)?;
        // The first one here, for its error. What the tunnel needs later is a matter of the feeder.
        let first = match shared.tunnel_websocket(id).await {
            Ok(first) => first,
            Err(error) => {
                shared.delete(id, true).await;
                return Err(error);
            }
        };
        let lane = shared.add(id, protocol, None);
        let life = lane.life.clone();
        shared.clone().enter(&lane, entrance, first);
        let (listener, accepting) = (entrance.listener.clone(), entrance.entrance.clone());
        let until = life.retired.clone();
        life.tasks.spawn(async move { accepting.accept(&listener, &until).await });
        let (shared, feeding) = (shared.clone(), entrance.clone());
        let retired = life.retired.clone();
        life.tasks.clone().spawn(async move {
            let patience = shared.timings.feed;
            let request = || shared.clone().request(id, &lane, &feeding);
            feeding.entrance.feed(SPARE, patience, &retired, request).await;
        });
        Ok(Tunnel { id, retired: life.retired, entrance: None })
    }

    /// Makes a tunnel from `address` and `port` on the server to `target`. Port 0 lets the server choose; the
    /// original does not tell which.
    ///
    /// # Errors
    /// [`ClientError`]; the tunnel does not exist then.
    pub async fn reverse(
        &self,
        address: &str,
        port: u16,
        target: impl Into<Target>,
    ) -> Result<Tunnel, ClientError> {
        let shared = &self.0;
        let port = if port == 0 { Value::Null } else { port.into() };
        let wish = json!({"entrance_address": address, "entrance_port": port, "reverse": true});
        let target = target.into();
        let protocol = target.protocol();
        let creating = shared.creating.write().await;
        let answer = shared.create(wish, protocol).await?;
        let id = shared.tunnel_id(&answer)?;
        let lane = shared.add(id, protocol, Some(target));
        drop(creating);
        let address = answer.get("entrance_address").and_then(Value::as_str);
        let port = answer.get("entrance_port").and_then(Value::as_u64);
        let entrance = address
            .and_then(|address| address.parse().ok())
            .zip(port.and_then(|port| port.try_into().ok()))
            .map(|(address, port)| SocketAddr::new(address, port));
        Ok(Tunnel { id, retired: lane.life.retired.clone(), entrance })
    }

    /// Ends a tunnel on both sides: at once with `force`, else when its connections have ended.
    pub async fn delete(&self, tunnel: &Tunnel, force: bool) {
        self.0.end_tunnel(tunnel.id, force, true).await;
    }

    /// Waits for the end of the channel.
    pub async fn ended(&self) -> ControlEnd {
        let mut ended = self.0.ended.subscribe();
        match ended.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or(ControlEnd::Lost),
            Err(_) => ControlEnd::Lost,
        }
    }

    /// Deletes all tunnels, cutting live connections, and closes the channel.
    pub async fn close(&self) {
        let ids: Vec<u64> = self.0.lanes().keys().copied().collect();
        let deleting = async {
            for id in ids {
                self.0.end_tunnel(id, true, true).await;
            }
        };
        let _ = timeout(FAREWELL, deleting).await;
        self.0.stop.trigger(StopReason::Deleted);
        self.ended().await;
    }
}

impl Shared {
    fn lanes(&self) -> MutexGuard<'_, HashMap<u64, Arc<Lane>>> {
        self.tunnels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, id: u64, protocol: Protocol, exit: Option<Target>) -> Arc<Lane> {
        let lane = Arc::new(Lane { life: Life::new(&self.stop), protocol, exit });
        self.lanes().insert(id, lane.clone());
        lane
    }

    async fn create(&self, mut wish: Value, protocol: Protocol) -> Result<Value, ClientError> {
        if protocol == Protocol::Udp {
            if !self.features.udp {
                return Err(ClientError::NoUdp { server: self.http.server().to_owned() });
            }
            wish["protocol"] = protocol.as_str().into();
        }
        let wish = &wish;
        self.http.post(&format!("/channels/{}/tunnels", self.channel), wish).await
    }

    fn tunnel_id(&self, answer: &Value) -> Result<u64, ClientError> {
        answer.get("tunnel_id").and_then(Value::as_u64).ok_or_else(|| ClientError::NotNetunnel {
            server: self.http.server().to_owned(),
            what: "the answer has no tunnel_id",
        })
    }

    async fn tunnel_websocket(&self, id: u64) -> Result<DataSocket, ClientError> {
        let path = format!("/channels/{}/tunnels/{id}/connect", self.channel);
        let (transport, early) = self.http.websocket(&path).await?;
        Ok(DataSocket::new(transport, Role::Client, &early, self.features.zero_mask))
    }

    /// Serves the control channel; when it ends, everything of the channel does.
    async fn serve(self: Arc<Self>, queue: tokio::sync::mpsc::Receiver<Vec<u8>>, ws: WebSocket) {
        let handler = |id, message| self.clone().on_request(id, message);
        let (end, ws) = control::run(&self.control, queue, ws, &self.stop, handler).await;
        let lanes = std::mem::take(&mut *self.lanes());
        self.stop.trigger(StopReason::ChannelLost);
        self.tasks.close();
        let all = async {
            for lane in lanes.values() {
                lane.life.tasks.close();
                lane.life.tasks.wait().await;
            }
            self.tasks.wait().await;
        };
        let (_, _) = tokio::join!(
            control::part(ws, &end, &self.timings),
            timeout(self.timings.close * 4, all)
        );
        self.ended.send_replace(Some(end));
    }

    /// A request of the server. The work is a task: the loop that calls this must go on.
    fn on_request(self: Arc<Self>, id: i64, message: Result<Message, MessageError>) {
        let tasks = self.tasks.clone();
        tasks.spawn(async move {
            match message {
                Ok(Message::NewConnection { tunnel_id }) => {
                    let lane = {
                        let _made = self.creating.read().await;
                        self.lanes().get(&tunnel_id).cloned()
                    };
                    match lane {
                        Some(lane) => {
                            self.control.reply(id, None);
                            self.exit(tunnel_id, &lane);
                        }
                        None => {
                            let text =
                                format!("tunnel_id `{tunnel_id}` is not registered on this client");
                            self.control.reply(id, Some(&text));
                        }
                    }
                }
                Ok(Message::DeleteTunnel { tunnel_id, force }) => {
                    if self.end_tunnel(tunnel_id, force, false).await {
                        self.control.reply(id, None);
                    } else {
                        self.control.reply(id, Some(&tunnel_id.to_string()));
                    }
                }
                Err(error) => self.control.reply(id, Some(&error.to_string())),
            }
        });
    }

    /// Opens one websocket of a forward tunnel.
    fn request(self: Arc<Self>, id: u64, lane: &Arc<Lane>, entrance: &Entrance) {
        let (lane, entrance) = (lane.clone(), entrance.clone());
        let retired = lane.life.retired.clone();
        lane.life.tasks.clone().spawn(async move {
            let opened = tokio::select! {
                opened = self.tunnel_websocket(id) => opened,
                _ = retired.stopped() => return,
            };
            match opened {
                Ok(ws) => self.enter(&lane, &entrance, ws),
                Err(error) => {
                    warn(&WEBSOCKET_FAILED, "no websocket for the tunnel", &error);
                    entrance.entrance.request_failed(FAILED);
                }
            }
        });
    }

    /// Lets `ws` wait at the entrance.
    fn enter(self: Arc<Self>, lane: &Arc<Lane>, entrance: &Entrance, ws: DataSocket) {
        let (lane, entrance) = (lane.clone(), entrance.entrance.clone());
        lane.life.tasks.clone().spawn(async move {
            let life = &lane.life;
            let use_of = Use {
                options: self.options(Side::Entrance, lane.protocol),
                retired: &life.retired,
                stop: &life.stop,
                start: self.timings.start,
            };
            let opened = |origin: Origin| tracing::debug!(client = %origin, "connection opened");
            entrance.serve(ws, use_of, opened, log_end).await;
        });
    }

    fn options(&self, side: Side, protocol: Protocol) -> Options {
        Options::new(side, protocol, self.features, true, &self.timings, &self.traffic)
    }

    /// Opens one websocket of a reverse tunnel and serves it.
    fn exit(self: Arc<Self>, id: u64, lane: &Arc<Lane>) {
        let Some(target) = lane.exit.clone() else { return };
        let (life, protocol) = (lane.life.clone(), lane.protocol);
        lane.life.tasks.spawn(async move {
            let ws = tokio::select! {
                opened = self.tunnel_websocket(id) => match opened {
                    Ok(ws) => ws,
                    // The server asks again.
                    Err(error) => return warn(&WEBSOCKET_FAILED, "no websocket for the tunnel", &error),
                },
                _ = life.retired.stopped() => return,
            };
            let options = ExitOptions {
                session: self.options(Side::Exit, protocol),
                start: self.timings.start,
            };
            let dial = || dial(&target, self.timings.dial);
            match exit::serve(ws, options, dial, log_end, &life.retired, &life.stop).await {
                Served::Carried => {}
                Served::Failed(error) => {
                    self.traffic.failed(error.kind());
                    warn(&DIAL_FAILED, "the local end cannot be reached", &error);
                }
                Served::WrongStart => tracing::warn!("the server sent a wrong start message"),
                Served::Unused => {}
            }
        });
    }

    /// Ends a tunnel here and, if asked to, at the server. Returns whether it existed.
    async fn end_tunnel(&self, id: u64, force: bool, at_server: bool) -> bool {
        let Some(lane) = self.lanes().remove(&id) else { return false };
        // First here: waiting websockets have to be closed by whoever starts, or both sides wait.
        lane.life.end(force, self.timings.graceful).await;
        if at_server {
            self.delete(id, force).await;
        }
        true
    }

    async fn delete(&self, id: u64, force: bool) {
        let path = format!("/channels/{}/tunnels/{id}", self.channel);
        if let Err(error) = self.http.delete(&path, &json!({ "force": force })).await {
            tracing::debug!(%error, "the tunnel could not be deleted at the server");
        }
    }
}

/// Connects to the local end of a reverse tunnel. No policy: the user of this machine named it.
async fn dial(target: &Target, limit: Duration) -> Result<Local, DialError> {
    let connect = async {
        Ok(Local::Stream(match target {
            Target::Tcp(host, port) => Plain::Tcp(tcp::connect_to(host, *port).await?),
            Target::Udp(host, port) => {
                let addresses = lookup_host((host.as_str(), *port)).await?;
                return tcp::first(addresses, Flow::connect).await.map(Local::Datagrams);
            }
            Target::Unix(path) => Plain::Unix(UnixStream::connect(path).await?),
            Target::Program(program) => Plain::Unix(program.connect().await?),
        }))
    };
    match timeout(limit, connect).await {
        Ok(Ok(local)) => Ok(local),
        Ok(Err(source)) => Err(DialError::Connect { address: target.to_string(), source }),
        Err(_) => Err(DialError::Timeout(target.to_string(), limit)),
    }
}

fn log_end(outcome: &Outcome) {
    tracing::debug!(sent = outcome.sent, received = outcome.received, end = ?outcome.end,
        "connection ended");
}

fn warn(limiter: &Throttle, what: &str, error: &dyn std::error::Error) {
    limiter.run(|suppressed| {
        let cause = error.source().map(ToString::to_string);
        tracing::warn!(%error, cause, suppressed, "{what}");
    });
}

//! What can be set for tunnels, with the reason of each default. Tests shorten the durations.

use std::net::SocketAddr;
use std::time::Duration;

use super::policy::Policy;

/// The version that `/version` and `POST /channels` report: the one of NETunnel whose protocol this is,
/// which its clients may come to compare.
pub const PROTOCOL_VERSION: &str = "1.0.13";

/// Everything the tunnel server needs to know besides how to authenticate.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The daemon's own listeners, which no tunnel may reach or bind, whatever the policy says.
    pub own_listeners: Vec<SocketAddr>,
    /// Values of the `Origin` header that may open websockets. Default, empty: a request with one comes
    /// from a browser page and is refused.
    pub allowed_origins: Vec<String>,
    /// Which destinations tunnels may reach and which addresses they may bind.
    pub policy: Policy,
    /// There are no tunnels for datagrams. Default false.
    pub refuse_udp: bool,
    /// How much of everything.
    pub limits: Limits,
    /// How long everything.
    pub timings: Timings,
}

/// Upper bounds of what clients can make the server hold.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Channels of all identities together. Default 10,000.
    pub channels: usize,
    /// Tunnels within one channel. Default 100.
    pub tunnels_per_channel: usize,
    /// Tunnel websockets, waiting ones included, of all channels together. Default 50,000.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { channels: 10_000, tunnels_per_channel: 100, connections: 50_000 }
    }
}

/// Deadlines and intervals. Every wait in this module has one of them.
#[derive(Clone, Debug)]
pub struct Timings {
    /// A channel without a control websocket is removed after this. Default 30 s.
    pub unconnected_channel: Duration,
    /// Interval of pings on control websockets. Default 20 s.
    pub ping: Duration,
    /// Silence after which a control websocket counts as dead: two pings and time for the answer. Default 45 s.
    pub dead_after: Duration,
    /// Time for the answer to a control message. Default 30 s.
    pub reply: Duration,
    /// Time for a requested tunnel websocket to arrive before another one is requested. Default 10 s.
    pub feed: Duration,
    /// How long after its opening a tunnel websocket may begin a connection, the first or another one. Default 1 h.
    pub start: Duration,
    /// Time to connect to a destination, name resolution included. Default 10 s.
    pub dial: Duration,
    /// Time for name resolution alone. Default 5 s.
    pub resolve: Duration,
    /// How long the owner of a port has to show a sign of life when its identity asks for the port again. Default 2 s.
    pub takeover: Duration,
    /// A connection that carries nothing for so long is ended. Default zero: never.
    pub idle: Duration,
    /// A flow of datagrams that carries none for so long is ended; zero: never. Default 2 min, what RFC 4787 §4.3
    /// wants of a NAT at least, so that no program whose keep-alives suffice there loses its flow here.
    pub udp_idle: Duration,
    /// A connection whose receiver takes nothing for so long is reset. Default 10 min.
    pub stall: Duration,
    /// After its client has ended, an entrance waits so long without data for the rest of the answer, because
    /// peers without half-close never say when the answer is complete. Default 5 s.
    pub linger: Duration,
    /// Time for the other side's CLOSE after ours. Default 5 s.
    pub close: Duration,
    /// Time for connections to end by themselves when a tunnel is deleted without force. Default 240 s, less
    /// than the 300 s after which NETunnel's client gives up its request.
    pub graceful: Duration,
    /// Time for a request's body. Default 10 s.
    pub body: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            unconnected_channel: Duration::from_secs(30),
            ping: Duration::from_secs(20),
            dead_after: Duration::from_secs(45),
            reply: Duration::from_secs(30),
            feed: Duration::from_secs(10),
            start: Duration::from_secs(3_600),
            dial: Duration::from_secs(10),
            resolve: Duration::from_secs(5),
            takeover: Duration::from_secs(2),
            idle: Duration::ZERO,
            udp_idle: Duration::from_secs(120),
            stall: Duration::from_secs(600),
            linger: Duration::from_secs(5),
            close: Duration::from_secs(5),
            graceful: Duration::from_secs(240),
            body: Duration::from_secs(10),
        }
    }
}

//! NETunnel's protocol: TCP connections carried over websockets, in both directions.
//!
//! A client opens a *channel*: `POST /channels`, then one control websocket. Over a channel it makes *tunnels*. The
//! *entrance* of a tunnel accepts TCP connections, its *exit* connects to the destination; in a forward tunnel the
//! client is the entrance, in a reverse tunnel the server is. Each TCP connection has a websocket of its own, which
//! the client opens before it is needed. Between our own ends a tunnel may be one for UDP instead.
//!
//! ```text
//! wire      control messages            control   requests and replies over one websocket
//! frames    websockets for payload
//! transport byte streams and websockets session   the copy loop of one connection
//! plain     TCP and UNIX sockets of programs  udp       their datagrams, in flows, and the copy loop of one
//! entrance  listener and websockets     exit      start message and dial
//! policy, dial                          who may reach and bind what, judged again at every connection
//! server, channel, routes, upgrade      the server: channels of identities, limits, drain
//! client                                the client, as a library
//! state, configured                     NETunnel's configuration file
//! operator                              peers, static tunnels, the proxy towards them
//! ```
//!
//! Entrance, exit and session are the same code on both ends. Dependencies point upwards in this list only.

mod channel;
pub mod client;
mod configured;
mod control;
mod dial;
mod entrance;
mod exit;
mod features;
mod frames;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
pub(crate) mod openapi;
mod operator;
mod plain;
mod policy;
pub(crate) mod respond;
mod routes;
mod server;
mod session;
mod settings;
mod splice;
mod state;
mod stop;
mod traffic;
mod transport;
mod udp;
mod upgrade;
pub mod wire;

pub use configured::ConfiguredError;
pub use control::{ControlEnd, RequestError};
pub use exit::DialError;
pub(crate) use operator::Condition;
pub use operator::{Admins, Operator, StaticTunnelStatus, internal_router};
pub use policy::{Denied, Destination, Policy, PolicyError};
pub use server::{Census, IdentityStatus, Server, ServerStatus};
pub use settings::{Limits, PROTOCOL_VERSION, Settings, Timings};
pub use stop::StopReason;
pub use traffic::Counts;

//! The static tunnels on the status page.

use serde::Serialize;
use utoipa::ToSchema;

use super::Operator;
use super::static_tunnel::{State, StaticTunnel};

/// A static tunnel on the status page.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct StaticTunnelStatus {
    /// The name of the peer.
    peer: String,
    id: u64,
    pub(crate) state: Condition,
    /// Why it is offline.
    #[schema(required)]
    reason: Option<String>,
    /// Where it is entered here.
    entrance: String,
    /// Where it leads to there.
    exit: String,
}

/// Whether a static tunnel can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Condition {
    Online,
    Starting,
    Offline,
}

impl Condition {
    pub(crate) const ALL: [(Self, &str); 3] =
        [(Self::Online, "online"), (Self::Starting, "starting"), (Self::Offline, "offline")];
}

impl Operator {
    /// The static tunnels, for a status page.
    pub fn status(&self) -> Vec<StaticTunnelStatus> {
        let live = self.live();
        let tunnels = live.peers.values().flat_map(|peer| {
            peer.entry.static_tunnels.iter().map(|entry| {
                let state = peer.tunnels.get(&entry.id).map(StaticTunnel::state);
                let (state, reason) = match state {
                    Some(State::Online) => (Condition::Online, None),
                    Some(State::Starting) => (Condition::Starting, None),
                    Some(State::Offline(reason)) => (Condition::Offline, Some(reason)),
                    None => (Condition::Offline, Some("its local port cannot be bound".into())),
                };
                StaticTunnelStatus {
                    peer: peer.entry.name.clone(),
                    id: entry.id,
                    state,
                    reason,
                    entrance: format!("{}:{}", entry.tunnel_local_address, entry.tunnel_local_port),
                    exit: format!("{}:{}", entry.tunnel_remote_address, entry.tunnel_remote_port),
                }
            })
        });
        tunnels.collect()
    }
}

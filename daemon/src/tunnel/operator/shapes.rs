//! Bodies of the operators' routes, for the API document. What is read and answered is in `input` and `defaults`.
#![expect(dead_code, reason = "for the document alone")]

use std::collections::BTreeMap;

use utoipa::ToSchema;

/// A peer. Credentials are shown as `******`.
#[derive(ToSchema)]
pub(super) struct Peer {
    id: u64,
    name: String,
    target_netunnel_url: String,
    auth_data: BTreeMap<String, String>,
    static_tunnels: Vec<StaticTunnel>,
}

/// A new peer.
#[derive(ToSchema)]
pub(super) struct NewPeer {
    name: String,
    target_netunnel_url: String,
    /// `key` or `refresh_token`, and `uuid`; empty where no credential is needed.
    auth_data: BTreeMap<String, String>,
    #[schema(nullable = false)]
    static_tunnels: Option<Vec<StaticTunnel>>,
}

/// What is to change of a peer. A credential that is `******` stays.
#[derive(ToSchema)]
pub(super) struct PeerUpdate {
    #[schema(nullable = false)]
    name: Option<String>,
    #[schema(nullable = false)]
    target_netunnel_url: Option<String>,
    #[schema(nullable = false)]
    auth_data: Option<BTreeMap<String, String>>,
}

/// A static tunnel.
#[derive(ToSchema)]
pub(super) struct StaticTunnel {
    id: u64,
    tunnel_remote_address: String,
    tunnel_remote_port: u16,
    tunnel_local_address: String,
    tunnel_local_port: u16,
}

/// A new static tunnel. Its id and its local port are chosen here.
#[derive(ToSchema)]
pub(super) struct NewStaticTunnel {
    #[schema(nullable = false, default = "127.0.0.1")]
    tunnel_remote_address: Option<String>,
    #[schema(minimum = 1, maximum = 65_535)]
    tunnel_remote_port: u16,
    #[schema(nullable = false, default = "127.0.0.1")]
    tunnel_local_address: Option<String>,
}

/// The proxy towards peers; without members if there is none. Credentials are shown as `******`.
#[derive(ToSchema)]
pub(super) struct Proxy {
    #[schema(nullable = false)]
    proxy_url: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

/// A new proxy.
#[derive(ToSchema)]
pub(super) struct NewProxy {
    /// `null`: none.
    #[schema(required)]
    proxy_url: Option<String>,
    username: Option<String>,
    #[schema(format = Password)]
    password: Option<String>,
    /// What is fetched through it to see whether it works.
    test_url: Option<String>,
    #[schema(required = false, default = true)]
    check_proxy: bool,
}

/// What a factory reset does besides.
#[derive(ToSchema)]
pub(super) struct Reset {
    /// Close every channel too.
    #[schema(required = false, default = false)]
    disconnect_clients: bool,
}

//! What concerns all peers: the proxy towards them, and the factory reset.

use std::sync::Arc;

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::super::client::{Network, Proxy, Trust};
use super::super::configured::policy;
use super::super::server::Server;
use super::super::state::{PeerEntry, ProxyEntry};
use super::{Done, MASK, Operator, Refusal, blocking, stop_all};
use crate::auth::Identity;
use crate::logging::untrusted;
use crate::secret::Secret;

impl Operator {
    /// The proxy in force, with its credentials.
    pub(super) fn proxy(&self) -> Option<Proxy> {
        let live = self.live();
        let entry = live.document.http_proxy()?;
        let url = entry.proxy_url?;
        let credentials = match (&entry.username, &entry.password) {
            (Some(username), Some(password)) => {
                let pair = live.key.decrypt(username).zip(live.key.decrypt(password));
                if pair.is_none() {
                    tracing::warn!(
                        event = "proxy_credentials_lost",
                        "the proxy's credentials were encrypted with another secret_key and are not used; set them \
                         again at /config/http-proxy"
                    );
                }
                pair
            }
            _ => None,
        };
        Proxy::new(&url, credentials)
            .inspect_err(|error| tracing::error!(event = "proxy_unusable", %error))
            .ok()
    }

    /// R17.
    pub(super) fn http_proxy(&self) -> Value {
        match self.live().document.http_proxy() {
            None => json!({}),
            Some(ProxyEntry { proxy_url, username, .. }) => {
                let mask = username.map(|_| MASK);
                json!({"proxy_url": proxy_url, "username": mask, "password": mask})
            }
        }
    }

    /// R18.
    pub(super) async fn set_http_proxy(self: &Arc<Self>, body: &Map<String, Value>) -> Done {
        let _changing = self.changes.lock().await;
        let text = |key: &str| match body.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(Refusal::bad(format!("'{key}' must be a string"))),
        };
        if !body.contains_key("proxy_url") {
            return Err(Refusal::bad("Missing 'proxy_url' for proxy"));
        }
        let (url, test_url) = (text("proxy_url")?, text("test_url")?);
        let stored = self.live().document.http_proxy();
        let key = self.live().key.clone();
        let given = |name: &str, stored: Option<String>| -> Result<Option<Secret>, Refusal> {
            Ok(match text(name)? {
                Some(value) if value == MASK => stored.and_then(|token| key.decrypt(&token)),
                Some(value) if value.is_empty() => None,
                value => value.map(Secret::new),
            })
        };
        let (old_name, old_password) =
            stored.map_or((None, None), |entry| (entry.username, entry.password));
        let credentials = match (given("username", old_name)?, given("password", old_password)?) {
            (Some(username), Some(password)) => Some((username, password)),
            (None, None) => None,
            _ => {
                return Err(Refusal::bad(
                    "HTTP proxy authentication should include both username and password",
                ));
            }
        };
        let check = match body.get("check_proxy") {
            None => true,
            Some(Value::Bool(check)) => *check,
            Some(_) => return Err(Refusal::bad("'check_proxy' must be true or false")),
        };
        let entry = match &url {
            None => Value::Null,
            Some(url) => {
                let proxy = Proxy::new(url, credentials.clone())
                    .map_err(|error| Refusal::bad(error.to_string()))?;
                if check {
                    self.try_proxy(&proxy, test_url).await?;
                }
                let encrypted = credentials.map(|(name, password)| {
                    (key.encrypt(name.expose()), key.encrypt(password.expose()))
                });
                let (username, password) = encrypted.unzip();
                json!({"proxy_url": url, "username": username, "password": password})
            }
        };
        let mut document = self.live().document.clone();
        document.set_http_proxy(entry);
        self.save(document).await?;
        tracing::info!(event = "proxy_set", set = url.is_some(), "the proxy for peers was changed");
        self.reconnect_all().await;
        Ok(self.http_proxy())
    }

    /// All static tunnels of all peers, with the proxy that is in force now.
    async fn reconnect_all(self: &Arc<Self>) {
        let proxy = self.proxy();
        let peers: Vec<PeerEntry> =
            self.live().peers.values().map(|peer| peer.entry.clone()).collect();
        for entry in peers {
            // Both were good when the peer was registered.
            let credentials = self.credentials(&entry.auth_data);
            let Ok(credentials) = credentials else { continue };
            let refresh = self.kept_refresh_token(entry.id, &credentials);
            let (name, url) = (&entry.name, &entry.target_netunnel_url);
            if let Ok(connector) = self.connector(name, url, credentials, proxy.clone()).await {
                self.reconnect(entry.id, connector, refresh).await;
            }
        }
    }

    async fn try_proxy(&self, proxy: &Proxy, test_url: Option<String>) -> Result<(), Refusal> {
        let (test_url, insecure) = {
            let live = self.live();
            let url = test_url.unwrap_or_else(|| live.document.test_url());
            (url, live.document.allow_unverified_peers())
        };
        let trust = Trust { ca_file: self.config.peer_ca_file.clone(), insecure, identity: None };
        let network = Network { trust, proxy: Some(proxy.clone()), guarded: true };
        let failed = |text: String| Refusal::new(StatusCode::BAD_GATEWAY, text);
        match network.probe(&test_url).await {
            Ok(200) => Ok(()),
            Ok(status) => Err(failed(format!("Invalid response from proxy: {status}"))),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    /// R19. `server` is the one whose clients may be disconnected.
    pub(super) async fn factory_reset(
        &self,
        body: &Map<String, Value>,
        caller: &Identity,
        servers: &[Arc<Server>],
    ) -> Result<(), Refusal> {
        let disconnect = match body.get("disconnect_clients") {
            None => false,
            Some(Value::Bool(disconnect)) => *disconnect,
            Some(_) => return Err(Refusal::bad("'disconnect_clients' must be true or false")),
        };
        let _changing = self.changes.lock().await;
        let (document, key, copy) = {
            let file = self.file.clone();
            blocking(move || file.reset()).await?
        };
        tracing::warn!(event = "factory_reset", ident = untrusted(caller.identifier()), copy = %copy.display(),
            disconnect, "peers and settings of the state file are erased");
        let peers = {
            let mut live = self.live();
            live.document = document;
            if let Some(key) = key {
                live.key = key;
            }
            std::mem::take(&mut live.peers)
        };
        // The overrides were good at start.
        if let Ok(new) = policy(&self.config, &self.live().document) {
            self.policy.replace(&new);
        }
        stop_all(peers.into_values().flat_map(|peer| peer.tunnels.into_values())).await;
        if disconnect {
            for server in servers {
                server.disconnect_all().await;
            }
        }
        Ok(())
    }
}

//! NETunnel's configuration file: destinations, peers and the proxy, in its own JSON.
//!
//! What holds is the defaults, overridden by the environment (`NETUNNEL_*`), overridden by the file, each top-level
//! key as a whole. The result is saved at once, keys that we do not know included, so an override becomes permanent.
//! [`Document`] is the content, [`StateFile`] its place on disk, [`secret_key`] what encrypts credentials in it.

mod file;
mod secret_key;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::config::StateOverrides;

pub(super) use file::{Opened, StateFile};
pub(super) use secret_key::InvalidSecretKey;
pub(super) use secret_key::SecretKey;

const DESTINATIONS: &str = "allowed_tunnel_destinations";
const HTTP_PROXY: &str = "http_proxy";
const TEST_URL: &str = "http_proxy_test_url";
const PEERS: &str = "peers";
const UNVERIFIED: &str = "allow_unverified_ssl_peers";
const REVISION: &str = "revision";
const SECRET_KEY: &str = "secret_key";

/// The whole content. `Debug` shows the keys only.
#[derive(Clone, PartialEq)]
pub(super) struct Document(Map<String, Value>);

/// A peer as it is stored; its `auth_data` is what its client persists.
#[derive(Clone, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PeerEntry {
    pub(super) id: u64,
    pub(super) name: String,
    pub(super) target_netunnel_url: String,
    pub(super) auth_data: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) static_tunnels: Vec<TunnelEntry>,
}

/// A static tunnel as it is stored and shown.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TunnelEntry {
    pub(super) id: u64,
    #[serde(default = "loopback")]
    pub(super) tunnel_remote_address: String,
    pub(super) tunnel_remote_port: u16,
    #[serde(default = "loopback")]
    pub(super) tunnel_local_address: String,
    pub(super) tunnel_local_port: u16,
}

fn loopback() -> String {
    "127.0.0.1".into()
}

/// The proxy as it is stored: both credentials encrypted, or none.
#[derive(Clone, Deserialize, PartialEq, Eq, Serialize)]
pub(super) struct ProxyEntry {
    pub(super) proxy_url: Option<String>,
    #[serde(default)]
    pub(super) username: Option<String>,
    #[serde(default)]
    pub(super) password: Option<String>,
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl fmt::Debug for PeerEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerEntry({}, {:?})", self.id, self.name)
    }
}

impl Document {
    /// The defaults under these overrides.
    ///
    /// # Errors
    /// What is wrong with an override.
    pub(super) fn defaults(overrides: &StateOverrides) -> Result<Self, String> {
        Self::merged(overrides, None)
    }

    /// Defaults, overrides, and the text of the file if there is one.
    ///
    /// # Errors
    /// What is wrong, with its key and the remedy; never with a value.
    pub(super) fn merged(overrides: &StateOverrides, file: Option<&str>) -> Result<Self, String> {
        let mut root = Map::new();
        root.insert(DESTINATIONS.into(), json!({"127.0.0.1": "*"}));
        root.insert(HTTP_PROXY.into(), Value::Null);
        root.insert(TEST_URL.into(), "https://google.com".into());
        root.insert(PEERS.into(), json!([]));
        root.insert(UNVERIFIED.into(), false.into());
        root.insert(REVISION.into(), 1.into());
        root.extend(overrides.0.clone());
        if let Some(text) = file {
            let text: Value = serde_json::from_str(text)
                .map_err(|e| format!("line {}, column {}: not JSON", e.line(), e.column()))?;
            let Value::Object(object) = text else { return Err("expected a JSON object".into()) };
            root.extend(object);
        }
        let document = Self(root);
        document.check()?;
        Ok(document)
    }

    /// Reads everything once, so that what is read later cannot fail.
    fn check(&self) -> Result<(), String> {
        self.destinations()?;
        self.read_proxy()?;
        let peers = self.read_peers()?;
        for (index, peer) in peers.iter().enumerate() {
            // The next one of either kind counts on from the highest.
            let ids = peer.static_tunnels.iter().map(|tunnel| tunnel.id).chain([peer.id]);
            if ids.into_iter().any(|id| i64::try_from(id).is_err()) {
                return Err(format!("\"peers\" number {}: an id is too large", index + 1));
            }
            if peers[..index].iter().any(|other| other.id == peer.id) {
                return Err(format!(
                    "\"peers\" number {}: its id {} is another's too",
                    index + 1,
                    peer.id
                ));
            }
        }
        if !self.0.get(UNVERIFIED).is_some_and(Value::is_boolean) {
            return Err(format!("\"{UNVERIFIED}\": expected true or false"));
        }
        if !self.0.get(TEST_URL).is_some_and(Value::is_string) {
            return Err(format!("\"{TEST_URL}\": expected a URL in quotes"));
        }
        match self.0.get(SECRET_KEY) {
            None | Some(Value::String(_)) => Ok(()),
            Some(_) => Err(format!("\"{SECRET_KEY}\": expected a text in quotes")),
        }
    }

    /// `allowed_tunnel_destinations`.
    ///
    /// # Errors
    /// If it is no object of texts.
    pub(super) fn destinations(&self) -> Result<BTreeMap<String, String>, String> {
        let value = self.0.get(DESTINATIONS).cloned().unwrap_or_default();
        serde_json::from_value(value).map_err(|_| {
            format!(
                "\"{DESTINATIONS}\": expected an object such as {{\"127.0.0.1\": \"22, 80\"}} or \
                 {{\"127.0.0.1\": \"*\"}}"
            )
        })
    }

    fn read_proxy(&self) -> Result<Option<ProxyEntry>, String> {
        let value = self.0.get(HTTP_PROXY).cloned().unwrap_or_default();
        // NETunnel stores a proxy that was taken away as an object with null in it.
        let entry: Option<ProxyEntry> = serde_json::from_value(value).map_err(|_| {
            format!("\"{HTTP_PROXY}\": expected null, or an object with proxy_url, username and password")
        })?;
        Ok(entry.filter(|entry| entry.proxy_url.is_some()))
    }

    fn read_peers(&self) -> Result<Vec<PeerEntry>, String> {
        let value = self.0.get(PEERS).cloned().unwrap_or_default();
        let Value::Array(items) = value else {
            return Err(format!("\"{PEERS}\": expected a list"));
        };
        let read = |(index, item)| {
            // Without the value: it may be a credential, and serde repeats it.
            serde_json::from_value(item).map_err(|error| {
                let text = error.to_string();
                let what = text.split(", expected").next().unwrap_or_default();
                let what = if what.contains("invalid") { "a value of the wrong kind" } else { what };
                format!(
                    "\"{PEERS}\" number {}: {what}; expected id, name, target_netunnel_url, auth_data and \
                     static_tunnels, as NETunnel writes them",
                    index + 1
                )
            })
        };
        items.into_iter().enumerate().map(read).collect()
    }

    /// The peers; none if they cannot be read, which [`Document::merged`] has refused.
    pub(super) fn peers(&self) -> Vec<PeerEntry> {
        self.read_peers().unwrap_or_default()
    }

    pub(super) fn set_peers(&mut self, peers: &[PeerEntry]) {
        self.0.insert(PEERS.into(), json!(peers));
    }

    /// The proxy for requests to peers.
    pub(super) fn http_proxy(&self) -> Option<ProxyEntry> {
        self.read_proxy().unwrap_or_default()
    }

    /// What stands for the proxy: null, or an object as NETunnel stores it.
    pub(super) fn set_http_proxy(&mut self, entry: Value) {
        self.0.insert(HTTP_PROXY.into(), entry);
    }

    /// What a new proxy is tried with.
    pub(super) fn test_url(&self) -> String {
        self.0.get(TEST_URL).and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// Whether peers' certificates are not looked at.
    pub(super) fn allow_unverified_peers(&self) -> bool {
        self.0.get(UNVERIFIED).and_then(Value::as_bool).unwrap_or_default()
    }

    fn take_secret_key(&mut self) -> Option<String> {
        match self.0.remove(SECRET_KEY) {
            Some(Value::String(key)) => Some(key),
            _ => None,
        }
    }

    /// The text of the file: indented by four spaces, as NETunnel writes it.
    pub(super) fn text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        let format = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        let mut writer = serde_json::Serializer::with_formatter(&mut text, format);
        self.0.serialize(&mut writer).expect("JSON can be written to memory");
        text
    }
}

#[cfg(test)]
mod tests;

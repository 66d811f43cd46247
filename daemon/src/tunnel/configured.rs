//! From the daemon's configuration and NETunnel's state file to the server's [`Settings`].

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::policy::{Policy, PolicyError};
use super::settings::Settings;
use crate::config::Netunnel;

/// Why the configured tunnels cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfiguredError {
    /// A destination or a bind that cannot be read.
    #[error("[netunnel] {0}")]
    Policy(#[from] PolicyError),
    /// The state file cannot be read.
    #[error("[netunnel] state_file = {path}: {source}; mend its permissions or name another file")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The state file is not NETunnel's JSON.
    #[error("[netunnel] state_file = {path}: {text}")]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the key and the remedy.
        text: String,
    },
}

impl Settings {
    /// The settings that `config` and its state file ask for. The state file is only read.
    ///
    /// # Errors
    /// [`ConfiguredError`], naming the file or the rule and what is expected there.
    pub fn from_config(config: &Netunnel) -> Result<Self, ConfiguredError> {
        let state = State::read(&config.state_file)?;
        let policy = if !config.rules.is_empty() {
            Policy::from_rules(&config.rules)?
        } else {
            // As in NETunnel, the file wins over the variable.
            match state.destinations.or_else(|| config.allowed_tunnel_destinations.clone()) {
                Some(destinations) => Policy::from_allowed_destinations(&destinations)?,
                None => Policy::default(),
            }
        };
        Ok(Self { policy, ..Self::default() })
    }
}

/// What is used of NETunnel's own configuration file.
#[derive(Debug, Default)]
struct State {
    destinations: Option<BTreeMap<String, String>>,
}

impl State {
    fn read(path: &Path) -> Result<Self, ConfiguredError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(ConfiguredError::Read { path: path.into(), source }),
        };
        Self::parse(&text).map_err(|text| ConfiguredError::State { path: path.into(), text })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let root: Value = serde_json::from_str(text)
            .map_err(|e| format!("line {}, column {}: not JSON", e.line(), e.column()))?;
        let root = root.as_object().ok_or("expected a JSON object")?;
        // What would be done with these is not done yet; ignoring them would look like doing it.
        if root.get("peers").is_some_and(|peers| *peers != Value::Array(Vec::new())) {
            return Err(
                "\"peers\" are not available yet; empty the list, or name another file".into()
            );
        }
        if root.get("http_proxy").is_some_and(|proxy| !proxy.is_null()) {
            return Err(
                "\"http_proxy\" is not available yet; set it to null, or name another file".into(),
            );
        }
        let destinations = match root.get("allowed_tunnel_destinations") {
            None => None,
            Some(value) => Some(serde_json::from_value(value.clone()).map_err(|_| {
                "\"allowed_tunnel_destinations\": expected an object such as {\"127.0.0.1\": \"22, 80\"} or \
                 {\"127.0.0.1\": \"*\"}"
            })?),
        };
        Ok(Self { destinations })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_file_of_netunnel_is_read() {
        let state = State::parse(
            r#"{"allowed_tunnel_destinations": {"127.0.0.1": "22, 23"}, "http_proxy": null,
                "peers": [], "secret_key": "k", "revision": 1}"#,
        )
        .unwrap();
        assert_eq!(state.destinations.unwrap()["127.0.0.1"], "22, 23");
        assert!(State::parse("{}").unwrap().destinations.is_none());
    }

    #[test]
    fn what_is_not_done_is_refused() {
        for (text, part) in [
            ("{", "line 1, column 1: not JSON"),
            ("[]", "JSON object"),
            (r#"{"peers": [{"id": 1}]}"#, "\"peers\" are not available yet"),
            (r#"{"http_proxy": {}}"#, "\"http_proxy\" is not available yet"),
            (r#"{"allowed_tunnel_destinations": null}"#, "expected an object"),
        ] {
            let error = State::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}

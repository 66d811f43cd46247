//! From the daemon's configuration and NETunnel's state file to the server's [`Settings`].

use std::path::PathBuf;

use super::policy::{Policy, PolicyError};
use super::settings::{Limits, Settings, Timings};
use super::state::Document;
use crate::config::Netunnel;

/// Why the configured tunnels cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfiguredError {
    /// A destination or a bind of a rule that cannot be read.
    #[error("{0}")]
    Rule(PolicyError),
    /// The state file or its key cannot be read.
    #[error("[netunnel] {}: {source}; mend its permissions or name another file", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The state file or its key cannot be written.
    #[error(
        "[netunnel] {}: {source}; its folder must be writable for this user, or name another file", path.display()
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The state file is not NETunnel's JSON.
    #[error("[netunnel] state_file = {}: {text}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the key and the remedy.
        text: String,
    },
    /// Another process has the state file.
    #[error(
        "[netunnel] state_file = {}: another jwtunneld uses it; stop that one, or name another file", .0.display()
    )]
    InUse(PathBuf),
    /// The configured secret key.
    #[error("[netunnel] secret_key: {}", super::state::InvalidSecretKey)]
    SecretKey,
}

impl ConfiguredError {
    /// Whether the configuration has to be changed before another try.
    pub fn is_configuration(&self) -> bool {
        !matches!(self, Self::Write { .. } | Self::InUse(_))
    }
}

impl Settings {
    /// The settings that `config` and its state file ask for. The state file is only read.
    ///
    /// # Errors
    /// [`ConfiguredError`], naming the file or the rule and what is expected there.
    pub fn from_config(config: &Netunnel) -> Result<Self, ConfiguredError> {
        let policy = policy(config, &Document::load(config)?)?;
        let limits = Limits {
            channels: config.max_channels,
            tunnels_per_channel: config.max_tunnels_per_channel,
            connections: config.max_connections,
        };
        let timings = Timings {
            idle: config.idle_timeout,
            udp_idle: config.udp_idle_timeout,
            ..Timings::default()
        };
        Ok(Self { policy, limits, timings, refuse_udp: !config.udp, ..Self::default() })
    }
}

/// With a rule only rules count; without any, the state file's destinations.
pub(super) fn policy(config: &Netunnel, document: &Document) -> Result<Policy, ConfiguredError> {
    if !config.rules.is_empty() {
        return Policy::from_rules(&config.rules).map_err(ConfiguredError::Rule);
    }
    let wrong = |text| ConfiguredError::State { path: config.state_file.clone(), text };
    let destinations = document.destinations().map_err(wrong)?;
    Policy::from_allowed_destinations(&destinations).map_err(|error| wrong(error.to_string()))
}

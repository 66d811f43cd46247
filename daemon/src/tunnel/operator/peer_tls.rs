//! Which certificates of a peer are believed: its own settings, else those of all peers.

use super::super::client::Trust;
use crate::config::{Netunnel, PeerTls};

/// `unverified` is what the state file says for all peers.
pub(super) fn trust(config: &Netunnel, name: &str, unverified: bool) -> Trust {
    let everybody =
        Trust { ca_file: config.peer_ca_file.clone(), insecure: unverified, identity: None };
    match own(config, name) {
        None => everybody,
        Some(PeerTls { ca_file, identity, insecure, .. }) => Trust {
            // Whoever names an authority for a peer wants it to count, whatever holds for the others.
            insecure: insecure.unwrap_or(unverified && ca_file.is_none()),
            ca_file: ca_file.clone().or(everybody.ca_file),
            identity: identity.clone(),
        },
    }
}

/// Whether a peer of the one name is reached in another way than one of the other.
pub(super) fn differs(config: &Netunnel, name: &str, other: &str) -> bool {
    let settings =
        |name| own(config, name).map(|peer| PeerTls { name: String::new(), ..peer.clone() });
    settings(name) != settings(other)
}

/// Says so at each start, and whenever such a peer is registered.
pub(super) fn warn_if_unverified(config: &Netunnel, name: &str) {
    if own(config, name).is_some_and(|peer| peer.insecure == Some(true)) {
        tracing::warn!(
            event = "peer_unverified",
            peer = crate::logging::untrusted(name),
            "[[netunnel.peer]] insecure is true: whoever is between this daemon and the peer can read and change \
             everything"
        );
    }
}

fn own<'c>(config: &'c Netunnel, name: &str) -> Option<&'c PeerTls> {
    config.peers.iter().find(|peer| peer.name == name)
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::config::{Environment, Loaded};

    /// rel:A5.
    #[test]
    fn the_settings_of_a_peer_go_before_those_of_all() {
        let text = "[netunnel]\npeer_ca_file = \"/all.pem\"\n\
            [[netunnel.peer]]\nname = \"own\"\nca_file = \"/own.pem\"\n\
            [[netunnel.peer]]\nname = \"shown\"\nclient_cert_file = \"/c.pem\"\nclient_key_file = \"/k.pem\"\n\
            [[netunnel.peer]]\nname = \"open\"\ninsecure = true\n\
            [[netunnel.peer]]\nname = \"checked\"\ninsecure = false\n\
            [[netunnel.peer]]\nname = \"checked too\"\ninsecure = false\n";
        let config = Loaded::parse(Path::new("t.toml"), text, &Environment::new()).unwrap().config;
        let trusted = |name: &str, unverified: bool| {
            let trust = trust(&config.netunnel, name, unverified);
            (trust.ca_file, trust.insecure, trust.identity.is_some())
        };
        let (all, own) = (Some(PathBuf::from("/all.pem")), Some(PathBuf::from("/own.pem")));
        assert_eq!(trusted("another", false), (all.clone(), false, false));
        assert_eq!(trusted("another", true), (all.clone(), true, false));
        assert_eq!(trusted("own", true), (own, false, false));
        assert_eq!(trusted("shown", false), (all.clone(), false, true));
        assert_eq!(trusted("open", false), (all.clone(), true, false));
        assert_eq!(trusted("checked", true), (all, false, false));
        let differ = |name: &str, other: &str| differs(&config.netunnel, name, other);
        assert!(differ("own", "another") && differ("open", "checked"));
        assert!(!differ("another", "a third") && !differ("checked", "checked too"));
    }
}

//! `[[netunnel.peer]]`: what NETunnel's state file has no place for.

use std::cell::RefCell;
use std::path::PathBuf;

use super::reader::Reader;

/// TLS towards the peer of this name; everything that is left out is as for all peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerTls {
    /// The name under which the peer is registered.
    pub name: String,
    /// Certificate authorities for its certificate, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Our certificate chain and its private key, for a peer that asks for one.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Whether any certificate is believed.
    pub insecure: Option<bool>,
}

pub(super) fn read(reader: &mut Reader<'_>, section: &'static str) -> Vec<PeerTls> {
    let names = RefCell::new(Vec::new());
    reader.tables(section, "peer", |table| {
        let name: Option<String> = table.take("name", None);
        let ca_file = table.take("ca_file", None);
        let certificate: Option<PathBuf> = table.take("client_cert_file", None);
        let key: Option<PathBuf> = table.take("client_key_file", None);
        let insecure = table.take("insecure", None);
        if name.is_none() {
            table.problem("expected name = \"…\", the name of a peer");
        }
        if certificate.is_some() != key.is_some() {
            table.problem("client_cert_file and client_key_file belong together");
        }
        if ca_file.is_some() && insecure == Some(true) {
            table.problem(
                "expected either ca_file or insecure = true, which looks at no certificate",
            );
        }
        let name = name.unwrap_or_default();
        if names.borrow().contains(&name) {
            table.problem("expected one table for each peer; another one has this name");
        }
        names.borrow_mut().push(name.clone());
        PeerTls { name, ca_file, identity: certificate.zip(key), insecure }
    })
}

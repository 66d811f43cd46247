//! Who is at the other end: behind a trusted proxy, the client that it names.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;

use super::{App, Peer};
use crate::config::Network;
use crate::logging;
use crate::metrics::Requests;

/// The header that proxies add an address to.
const FORWARDED: &str = "x-forwarded-for";

/// Replaces the peer of the connection by the client's, gives the request a name for the log, and counts it.
pub(super) async fn identify(
    State((app, requests)): State<(Arc<App>, Arc<Requests>)>,
    mut request: Request,
    next: Next,
) -> Response {
    let peer = request.extensions().get::<Peer>().copied().unwrap_or_default();
    let client = client(peer, request.headers(), &app.settings.trusted_proxies);
    request.extensions_mut().insert(client);
    let path = request.extensions().get::<MatchedPath>().cloned();
    requests.count(path, logging::with_request_id(next.run(request))).await
}

/// The address nearest to us that is not one of `trusted`. What stands further away in the header anybody may
/// have written there.
fn client(peer: Peer, headers: &HeaderMap, trusted: &[Network]) -> Peer {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut nearest = peer;
    // A Unix socket is this machine's: whoever may open it may say who it is.
    if !nearest.0.is_none_or(is_trusted) {
        return nearest;
    }
    let fields = headers.get_all(FORWARDED).iter().rev();
    let addresses = fields.flat_map(|field| field.as_bytes().rsplit(|byte| *byte == b','));
    for address in addresses {
        let address = std::str::from_utf8(address).ok().and_then(|text| text.trim().parse().ok());
        // Beyond what cannot be read nothing is known.
        let Some(address): Option<IpAddr> = address else { break };
        nearest = Peer(Some(address.to_canonical()));
        if !is_trusted(address) {
            break;
        }
    }
    nearest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i14_the_client_is_the_nearest_address_that_is_no_proxy_of_ours() {
        let trusted: Vec<_> =
            ["127.0.0.0/8", "10.0.0.0/8"].map(|text| Network::parse(text).unwrap()).into();
        for (peer, fields, expected) in [
            ("127.0.0.1", &[][..], "127.0.0.1"),
            ("127.0.0.1", &["203.0.113.7"], "203.0.113.7"),
            ("127.0.0.1", &["198.51.100.1, 203.0.113.7"], "203.0.113.7"),
            ("127.0.0.1", &["198.51.100.1", "203.0.113.7"], "203.0.113.7"),
            ("127.0.0.1", &["203.0.113.7,10.1.1.1"], "203.0.113.7"),
            ("127.0.0.1", &["10.2.2.2, 10.1.1.1"], "10.2.2.2"),
            ("127.0.0.1", &["203.0.113.7, garbage"], "127.0.0.1"),
            ("127.0.0.1", &["garbage, 203.0.113.7"], "203.0.113.7"),
            ("127.0.0.1", &["::ffff:203.0.113.7"], "203.0.113.7"),
            ("127.0.0.1", &["2001:db8::1"], "2001:db8::1"),
            // Not a proxy of ours: what it says counts for nothing.
            ("203.0.113.9", &["198.51.100.1"], "203.0.113.9"),
            ("unix", &["198.51.100.1"], "198.51.100.1"),
            ("unix", &[], "unix"),
        ] {
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append(FORWARDED, field.parse().unwrap());
            }
            let client = client(Peer(peer.parse().ok()), &headers, &trusted);
            assert_eq!(client.to_string(), expected, "{peer} {fields:?}");
        }
    }
}

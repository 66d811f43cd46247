//! What the tunnels read from others: control messages, frames, destinations, the operator's bodies and file.

use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;

use axum::http::HeaderMap;
use serde_json::{Map, Value};

use super::operator;
use super::policy::{Host, Policy};
use super::state::Document;
use super::wire::{self, Packet};
use crate::address::{canonical, is_own, is_special};
use crate::auth::{Authenticator, Identity, Mode};
use crate::clock::Clock;
use crate::config::{Rule, StateOverrides};
use crate::fuzz::lines;

pub use super::frames::fuzz::ws_frames;

/// A control message, in either role: what is understood is understood again when we write it.
pub fn bson_control(data: &[u8]) {
    let (again, id) = match wire::decode(data) {
        Ok(Packet::Message { id, message: Ok(message) }) => {
            let again = wire::encode_message(id, message);
            assert_eq!(wire::decode(&again), wire::decode(data));
            return;
        }
        // The reply to what is not understood has a text, which is escaped for logs already.
        Ok(Packet::Message { id, message: Err(error) }) => {
            (wire::encode_response(id, Some(&error.to_string())), id)
        }
        Ok(Packet::Response { id, result: Err(text) }) => {
            assert!(text.chars().all(|c| !c.is_control()), "{text:?}");
            (wire::encode_response(id, Some(&text)), id)
        }
        Ok(Packet::Response { id, result: Ok(()) }) => {
            let again = wire::decode(&wire::encode_response(id, None));
            assert_eq!(again, Ok(Packet::Response { id, result: Ok(()) }));
            return;
        }
        Ok(Packet::Other) | Err(_) => return,
    };
    let reply = wire::decode(&again);
    assert!(matches!(reply, Ok(Packet::Response { id: replied, result: Err(_) }) if replied == id));
}

static CALLER: LazyLock<Identity> = LazyLock::new(|| {
    let open = Authenticator::new(Mode::None, std::time::Duration::ZERO, Clock::system());
    open.expect("no secret to be empty").authenticate(&HeaderMap::new()).expect("everybody")
});

/// A destination and a bind of a rule, an address and a port that are asked for, each on its line: nothing special is
/// ever allowed that is not listed itself, nor is a listener of our own.
pub fn dest_policy(data: &[u8]) {
    let Some([destination, bind, address, port]) = lines(data) else { return };
    let own: [SocketAddr; 2] = [([127, 0, 0, 1], 5051).into(), ([0, 0, 0, 0], 4040).into()];
    let rule = Rule {
        identifier: Some("*".into()),
        destinations: vec![destination.into()],
        reverse_binds: vec![bind.into()],
        ..Rule::default()
    };
    let listed = Policy::from_allowed_destinations(&[(address.into(), bind.into())].into());
    for (policy, is_literal) in [
        (Policy::from_rules(&[rule]), named_literally(destination)),
        (listed, address.parse().ok()),
    ] {
        let Ok(policy) = policy else { continue };
        if let Ok(allowed) = policy.destination(&CALLER, &own, address, port) {
            assert_eq!(allowed.port.to_string(), port, "a port has one form");
            match &allowed.host {
                Host::Address(ip) => {
                    let plain = canonical(*ip);
                    assert!(!is_own(&own, plain, allowed.port));
                    let literal = is_literal.map(canonical) == Some(plain);
                    assert!(!is_special(plain) || literal, "{plain}");
                }
                Host::Name(name) => {
                    // No resolver may take it for an address, in whatever notation.
                    assert!(name.parse::<IpAddr>().is_err());
                    let last = name.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
                    assert!(!last.starts_with(|c: char| c.is_ascii_digit()) || !is_number(last));
                    for ip in ["169.254.169.254", "0.0.0.0", "::ffff:169.254.169.254"] {
                        let ip = ip.parse().expect("an address");
                        assert!(policy.resolved(&CALLER, &own, &allowed, ip).is_err());
                    }
                }
            }
        }
        if let Ok(candidates) = policy.bind(&CALLER, &own, address, port.parse().ok()) {
            assert!(candidates.iter().all(|bound| !is_own(&own, bound.ip(), bound.port())));
        }
    }
}

/// What `inet_aton` takes for a number.
fn is_number(label: &str) -> bool {
    let digits = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    digits.is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
        || label.bytes().all(|b| b.is_ascii_digit())
}

/// The one address that a destination of a rule names.
fn named_literally(destination: &str) -> Option<IpAddr> {
    let (host, _) = destination.rsplit_once(':')?;
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// NETunnel's configuration file: what is accepted is saved, and read again at the next start.
pub fn state_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Document::merged(&StateOverrides::default(), Some(text)) {
        Err(error) => assert!(!error.is_empty()),
        Ok(document) => {
            let saved = String::from_utf8(document.text()).expect("JSON is text");
            let again = Document::merged(&StateOverrides::default(), Some(&saved));
            assert!(again.is_ok_and(|again| again == document), "{saved}");
            let destinations = document.destinations().expect("they were read before");
            let _ = (Policy::from_allowed_destinations(&destinations), document.http_proxy());
        }
    }
}

/// A body of an operator's route: what is accepted can be stored, what is refused is told why.
pub fn operator_body(data: &[u8]) {
    let Ok(body) = serde_json::from_slice::<Map<String, Value>>(data) else { return };
    for read in operator::read_as_all(&body) {
        match read {
            Err(errors) => assert_ne!(errors, "{}", "a reason"),
            Ok(None) => {}
            Ok(Some(peer)) => {
                let mut document = Document::defaults(&StateOverrides::default()).expect("valid");
                document.set_peers(&[peer]);
                let saved = String::from_utf8(document.text()).expect("JSON is text");
                let again = Document::merged(&StateOverrides::default(), Some(&saved));
                assert!(again.is_ok_and(|again| again == document), "{saved}");
            }
        }
    }
}

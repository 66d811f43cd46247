//! What an operator posts about peers and static tunnels, checked as NETunnel's schemas do. Errors are Python's
//! `str()` of the nested dictionaries that its validation library makes, since tools show and compare them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use reqwest::Url;
use serde_json::{Map, Value};

use super::super::state::TunnelEntry;
use super::super::wire::shown;

const REQUIRED: &str = "Missing data for required field.";
const UNKNOWN: &str = "Unknown field.";
const NULL: &str = "Field may not be null.";
const NO_TEXT: &str = "Not a valid string.";
const NO_URL: &str = "Not a valid URL.";
const NO_MAPPING: &str = "Not a valid mapping type.";
const NO_LIST: &str = "Not a valid list.";
const NO_INTEGER: &str = "Not a valid integer.";
const NO_INPUT: &str = "Invalid input type.";
const NO_PORT: &str = "Must be greater than or equal to 1 and less than or equal to 65535.";

/// Errors by field, in the order of the schema.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Errors(Vec<(String, Fault)>);

#[derive(Debug, PartialEq, Eq)]
enum Fault {
    Text(String),
    Nested(Errors),
}

impl Errors {
    pub(super) fn one(field: &str, text: &str) -> Self {
        Self(vec![(quoted(field), Fault::Text(text.to_owned()))])
    }

    fn add(&mut self, field: &str, text: &str) {
        self.0.push((quoted(field), Fault::Text(text.to_owned())));
    }

    fn nest(&mut self, key: String, errors: Self) {
        self.0.push((key, Fault::Nested(errors)));
    }

    fn result<T>(self, value: Option<T>) -> Result<T, Self> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(self),
        }
    }
}

impl std::fmt::Display for Errors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("{")?;
        for (index, (key, fault)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            match fault {
                Fault::Text(text) => write!(f, "{comma}{key}: [{}]", quoted(text))?,
                Fault::Nested(errors) => write!(f, "{comma}{key}: {errors}")?,
            }
        }
        f.write_str("}")
    }
}

/// Python's `repr()` of a text: in double quotes if it holds single ones.
fn quoted(text: &str) -> String {
    if text.contains('\'') && !text.contains('"') {
        format!("\"{text}\"")
    } else {
        format!("'{}'", text.replace('\'', "\\'"))
    }
}

/// A new peer.
#[derive(PartialEq, Eq)]
pub(super) struct NewPeer {
    pub(super) name: String,
    pub(super) url: String,
    pub(super) auth_data: BTreeMap<String, String>,
    pub(super) static_tunnels: Vec<TunnelEntry>,
}

/// What is to change of a peer.
#[derive(Default, PartialEq, Eq)]
pub(super) struct PeerChange {
    pub(super) name: Option<String>,
    pub(super) url: Option<String>,
    pub(super) auth_data: Option<BTreeMap<String, String>>,
}

/// A new static tunnel, which still needs its id and port.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NewTunnel {
    pub(super) remote_address: String,
    pub(super) remote_port: u16,
    pub(super) local_address: String,
}

impl NewPeer {
    pub(super) fn read(body: &Map<String, Value>) -> Result<Self, Errors> {
        let mut errors = Errors::default();
        if let Some(id) = body.get("id") {
            // Taken, checked and replaced by our own, as in the original.
            let _ = check(&mut errors, "id", integer(id));
        }
        let name = required(&mut errors, body, "name", text);
        let url = required(&mut errors, body, "target_netunnel_url", url);
        let auth_data = match body.get("auth_data") {
            None => {
                errors.add("auth_data", REQUIRED);
                None
            }
            Some(value) => mapping(&mut errors, value),
        };
        let static_tunnels = match body.get("static_tunnels") {
            None => Some(Vec::new()),
            Some(Value::Array(items)) => Some(tunnels(&mut errors, items)),
            Some(_) => {
                errors.add("static_tunnels", NO_LIST);
                None
            }
        };
        let known = ["id", "name", "target_netunnel_url", "auth_data", "static_tunnels"];
        refuse_unknown(&mut errors, body, &known);
        let complete = name.zip(url).zip(auth_data).zip(static_tunnels);
        errors.result(complete.map(|(((name, url), auth_data), static_tunnels)| Self {
            name,
            url,
            auth_data,
            static_tunnels,
        }))
    }
}

impl PeerChange {
    pub(super) fn read(body: &Map<String, Value>) -> Result<Self, Errors> {
        let mut errors = Errors::default();
        refuse_unknown(&mut errors, body, &["name", "target_netunnel_url", "auth_data"]);
        let mut given = |field, read: fn(&Value) -> Result<String, &'static str>| {
            body.get(field).and_then(|value| check(&mut errors, field, read(value)))
        };
        let (name, url) = (given("name", text), given("target_netunnel_url", url));
        let auth_data = body.get("auth_data").and_then(|value| mapping(&mut errors, value));
        errors.result(Some(Self { name, url, auth_data }))
    }
}

impl NewTunnel {
    pub(super) fn read(body: &Map<String, Value>) -> Result<Self, Errors> {
        addresses(body)?;
        let mut errors = Errors::default();
        let remote_address = given_or_loopback(&mut errors, body, "tunnel_remote_address");
        let remote_port = required(&mut errors, body, "tunnel_remote_port", port);
        let local_address = given_or_loopback(&mut errors, body, "tunnel_local_address");
        let known = ["tunnel_remote_address", "tunnel_remote_port", "tunnel_local_address"];
        refuse_unknown(&mut errors, body, &known);
        let complete = remote_address.zip(remote_port).zip(local_address);
        errors.result(complete.map(|((remote_address, remote_port), local_address)| Self {
            remote_address,
            remote_port,
            local_address,
        }))
    }
}

/// Static tunnels that come with their peer, each with its port; missing ids are counted.
fn tunnels(errors: &mut Errors, items: &[Value]) -> Vec<TunnelEntry> {
    let mut entries: Vec<TunnelEntry> = Vec::new();
    let mut faults = Errors::default();
    for (index, item) in items.iter().enumerate() {
        let next = entries.iter().map(|entry| entry.id).max().unwrap_or(0) + 1;
        let read = match item {
            Value::Object(body) => complete_tunnel(body, next),
            _ => Err(Errors::one("_schema", NO_INPUT)),
        };
        match read {
            Ok(entry) if entries.iter().any(|other| other.id == entry.id) => {
                faults.nest(index.to_string(), Errors::one("id", "Already in use."));
            }
            Ok(entry) => entries.push(entry),
            Err(nested) => faults.nest(index.to_string(), nested),
        }
    }
    if !faults.0.is_empty() {
        errors.nest(quoted("static_tunnels"), faults);
    }
    entries
}

fn complete_tunnel(body: &Map<String, Value>, next: u64) -> Result<TunnelEntry, Errors> {
    let mut rest = body.clone();
    let (id, local_port) = (rest.remove("id"), rest.remove("tunnel_local_port"));
    let mut errors = Errors::default();
    let id = match id {
        None => Some(next),
        Some(value) => {
            let number = integer(&value).and_then(|id| u64::try_from(id).map_err(|_| NO_INTEGER));
            check(&mut errors, "id", number)
        }
    };
    let local_port = match local_port {
        None => {
            errors.add("tunnel_local_port", REQUIRED);
            None
        }
        Some(value) => check(&mut errors, "tunnel_local_port", port(&value)),
    };
    let tunnel = match NewTunnel::read(&rest) {
        Ok(tunnel) => Some(tunnel),
        Err(more) => {
            errors.0.extend(more.0);
            None
        }
    };
    let complete = id.zip(local_port).zip(tunnel);
    errors.result(complete.map(|((id, local_port), tunnel)| tunnel.with(id, local_port)))
}

impl NewTunnel {
    pub(super) fn with(self, id: u64, local_port: u16) -> TunnelEntry {
        TunnelEntry {
            id,
            tunnel_remote_address: self.remote_address,
            tunnel_remote_port: self.remote_port,
            tunnel_local_address: self.local_address,
            tunnel_local_port: local_port,
        }
    }
}

/// Both addresses, before anything else: dotted IPv4, with Python's words.
fn addresses(body: &Map<String, Value>) -> Result<(), Errors> {
    for field in ["tunnel_remote_address", "tunnel_local_address"] {
        let Some(Value::String(address)) = body.get(field) else { continue };
        if address.parse::<Ipv4Addr>().is_err() {
            let shown = shown(address);
            let text = if address.split('.').count() == 4 {
                format!("Only decimal octets up to 255 are permitted in '{shown}'")
            } else {
                format!("Expected 4 octets in '{shown}'")
            };
            return Err(Errors::one("_schema", &text));
        }
    }
    Ok(())
}

fn given_or_loopback(
    errors: &mut Errors,
    body: &Map<String, Value>,
    field: &str,
) -> Option<String> {
    match body.get(field) {
        None => Some("127.0.0.1".into()),
        Some(value) => check(errors, field, text(value)),
    }
}

fn required<T>(
    errors: &mut Errors,
    body: &Map<String, Value>,
    field: &str,
    read: fn(&Value) -> Result<T, &'static str>,
) -> Option<T> {
    check(errors, field, body.get(field).map_or(Err(REQUIRED), read))
}

fn check<T>(errors: &mut Errors, field: &str, read: Result<T, &'static str>) -> Option<T> {
    read.map_err(|text| errors.add(field, text)).ok()
}

fn refuse_unknown(errors: &mut Errors, body: &Map<String, Value>, known: &[&str]) {
    for key in body.keys().filter(|key| !known.contains(&key.as_str())) {
        errors.add(&shown(key), UNKNOWN);
    }
}

fn text(value: &Value) -> Result<String, &'static str> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Null => Err(NULL),
        _ => Err(NO_TEXT),
    }
}

/// http and https only, and no user name in it: it is shown and logged.
fn url(value: &Value) -> Result<String, &'static str> {
    let text = text(value)?;
    let url = Url::parse(&text).map_err(|_| NO_URL)?;
    let plain = ["http", "https"].contains(&url.scheme())
        && url.host_str().is_some()
        && url.username().is_empty()
        && url.password().is_none()
        && text.bytes().all(|b| b.is_ascii_graphic());
    if plain { Ok(text) } else { Err(NO_URL) }
}

fn mapping(errors: &mut Errors, value: &Value) -> Option<BTreeMap<String, String>> {
    let items = match value {
        Value::Object(items) => items,
        Value::Null => return check(errors, "auth_data", Err(NULL)),
        _ => return check(errors, "auth_data", Err(NO_MAPPING)),
    };
    let mut result = BTreeMap::new();
    let mut faults = Errors::default();
    for (key, value) in items {
        match text(value) {
            Ok(value) => {
                result.insert(key.clone(), value);
            }
            Err(fault) => faults.nest(quoted(&shown(key)), Errors::one("value", fault)),
        }
    }
    if !faults.0.is_empty() {
        errors.nest(quoted("auth_data"), faults);
        return None;
    }
    Some(result)
}

/// As Python's `int()`: numbers are cut, texts of digits are read.
fn integer(value: &Value) -> Result<i64, &'static str> {
    let number = match value {
        Value::Null => return Err(NULL),
        Value::Bool(flag) => Some(i64::from(*flag)),
        Value::Number(number) => {
            number.as_i64().or_else(|| number.as_f64().map(|number| number as i64))
        }
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    number.ok_or(NO_INTEGER)
}

fn port(value: &Value) -> Result<u16, &'static str> {
    let number = integer(value)?;
    u16::try_from(number).ok().filter(|port| *port != 0).ok_or(NO_PORT)
}

/// A body as each schema reads it: the peer that would be stored, or why there is none.
#[cfg(any(test, feature = "fuzzing"))]
pub(in crate::tunnel) fn read_as_all(
    body: &Map<String, Value>,
) -> [Result<Option<super::super::state::PeerEntry>, String>; 3] {
    use super::super::state::PeerEntry;
    let peer = NewPeer::read(body).map(|peer| {
        Some(PeerEntry {
            id: 1,
            name: peer.name,
            target_netunnel_url: peer.url,
            auth_data: peer.auth_data,
            static_tunnels: peer.static_tunnels,
        })
    });
    let tunnel = NewTunnel::read(body).map(|tunnel| {
        Some(PeerEntry {
            id: 1,
            name: String::new(),
            target_netunnel_url: String::new(),
            auth_data: BTreeMap::new(),
            static_tunnels: vec![tunnel.with(1, 20_000)],
        })
    });
    let change = PeerChange::read(body).map(|_| None);
    [peer, tunnel, change].map(|read| read.map_err(|errors| errors.to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn peer(value: Value) -> String {
        NewPeer::read(&object(value)).err().map_or_else(String::new, |errors| errors.to_string())
    }

    /// nt:A44 and the texts of nt:13.
    #[test]
    fn the_texts_are_pythons() {
        assert_eq!(
            peer(json!({})),
            "{'name': ['Missing data for required field.'], \
             'target_netunnel_url': ['Missing data for required field.'], \
             'auth_data': ['Missing data for required field.']}"
        );
        assert_eq!(
            peer(json!({"name": 1, "target_netunnel_url": "x", "auth_data": [], "y": 1})),
            "{'name': ['Not a valid string.'], 'target_netunnel_url': ['Not a valid URL.'], \
             'auth_data': ['Not a valid mapping type.'], 'y': ['Unknown field.']}"
        );
        let base =
            json!({"name": "b", "target_netunnel_url": "http://peer1:4040", "auth_data": {}});
        assert_eq!(peer(base.clone()), "", "names without a dot are fine here");
        let with = |key: &str, value: Value| {
            let mut body = base.clone();
            body[key] = value;
            peer(body)
        };
        assert_eq!(with("auth_data", json!(null)), "{'auth_data': ['Field may not be null.']}");
        assert_eq!(
            with("auth_data", json!({"key": 1})),
            "{'auth_data': {'key': {'value': ['Not a valid string.']}}}"
        );
        assert_eq!(with("id", json!("x")), "{'id': ['Not a valid integer.']}");
        for url in ["ftp://h/", "http://user:pw@h/", "http://", "h:1", "http://h/ "] {
            let text = with("target_netunnel_url", json!(url));
            assert_eq!(text, "{'target_netunnel_url': ['Not a valid URL.']}", "{url}");
        }
        assert_eq!(
            with("static_tunnels", json!([{"tunnel_remote_port": 1}])),
            "{'static_tunnels': {0: {'tunnel_local_port': ['Missing data for required field.']}}}"
        );
        assert_eq!(
            with(
                "static_tunnels",
                json!([{"tunnel_remote_port": 1, "tunnel_local_port": 1, "id": -5}])
            ),
            "{'static_tunnels': {0: {'id': ['Not a valid integer.']}}}"
        );
        let error = PeerChange::read(&object(json!({"id": 5}))).err().unwrap();
        assert_eq!(error.to_string(), "{'id': ['Unknown field.']}");
        assert!(PeerChange::read(&object(json!({}))).ok().unwrap() == PeerChange::default());
    }

    #[test]
    fn static_tunnels_are_checked_and_completed() {
        let read = |value: Value| NewTunnel::read(&object(value));
        let tunnel = read(json!({"tunnel_remote_port": "22"})).unwrap();
        assert_eq!((tunnel.remote_port, tunnel.local_address.as_str()), (22, "127.0.0.1"));
        assert_eq!(read(json!({"tunnel_remote_port": 22.9})).unwrap().remote_port, 22);
        for (body, text) in [
            (json!({}), "{'tunnel_remote_port': ['Missing data for required field.']}"),
            (
                json!({"tunnel_remote_port": 0}),
                "{'tunnel_remote_port': ['Must be greater than or equal to 1 and less than or equal to 65535.']}",
            ),
            (
                json!({"tunnel_remote_address": "localhost"}),
                "{'_schema': [\"Expected 4 octets in 'localhost'\"]}",
            ),
        ] {
            assert_eq!(read(body).unwrap_err().to_string(), text);
        }
        let items = json!([
            {"tunnel_remote_port": 22, "tunnel_local_port": 20007, "id": 4},
            {"tunnel_remote_port": 80, "tunnel_local_port": 20008},
        ]);
        let mut errors = Errors::default();
        let entries = tunnels(&mut errors, items.as_array().unwrap());
        assert_eq!((entries[0].id, entries[1].id), (4, 5));
        assert_eq!(entries[1].tunnel_local_port, 20_008);
    }
}

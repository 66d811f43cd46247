use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, header};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use jwt_core::JwkSet;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::auth::{Authenticator, Mode as AuthMode};
use crate::clock::Clock;

/// A caller with these claims.
fn caller(claims: &Value) -> Identity {
    let set = json!({"keys": [{"kty": "oct", "alg": "HS256", "k": "dGVzdHMtb25seS10ZXN0cy1vbmx5LXRlc3RzLW9ubHk"}]});
    let keys = JwkSet::parse(set.to_string().as_bytes()).unwrap();
    let mode = AuthMode::Jwt(Arc::new(ArcSwap::from_pointee(keys)));
    let auth = Authenticator::new(mode, Duration::ZERO, Clock::system()).unwrap();
    let mut claims = claims.clone();
    claims["exp"] = 99_999_999_999_u64.into();
    let key = EncodingKey::from_secret(b"tests-only-tests-only-tests-only");
    let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap();
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
    auth.authenticate(&headers).unwrap()
}

fn anyone() -> Identity {
    caller(&json!({"identifier": "anyone"}))
}

fn rule(identifier: &str, destinations: &[&str], reverse_binds: &[&str]) -> Rule {
    let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    Rule {
        identifier: Some(identifier.into()),
        destinations: texts(destinations),
        reverse_binds: texts(reverse_binds),
        ..Rule::default()
    }
}

fn allowing(destinations: &[&str]) -> Policy {
    Policy::from_rules(&[rule("*", destinations, &[])]).unwrap()
}

/// Daemon and nginx on this host.
fn own() -> [SocketAddr; 2] {
    [([127, 0, 0, 1], 5051).into(), ([0, 0, 0, 0], 4040).into()]
}

fn may(policy: &Policy, caller: &Identity, address: &str, port: u16) -> bool {
    policy.destination(caller, &own(), address, &port.to_string()).is_ok()
}

/// rel:W3, nt:E5: nothing is allowed but what the rules of this caller add up to.
#[test]
fn rules_of_a_caller_add_up_w3_e5() {
    let mut by_claim = rule("*", &["10.0.0.3:22"], &[]);
    (by_claim.identifier, by_claim.claim, by_claim.value) =
        (None, Some("groups".into()), Some("ops".into()));
    let rules = [rule("*", &["10.0.0.1:22"], &[]), rule("alice", &["10.0.0.2:22"], &[]), by_claim];
    let policy = Policy::from_rules(&rules).unwrap();
    let alice = caller(&json!({"identifier": "alice", "groups": ["dev"]}));
    let bob = caller(&json!({"identifier": "bob", "groups": ["dev", "ops"]}));
    let carol = caller(&json!({"identifier": "carol", "groups": "ops", "alice": true}));
    let allowed = |caller: &Identity| {
        ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "127.0.0.1"]
            .map(|address| may(&policy, caller, address, 22))
    };
    assert_eq!(allowed(&alice), [true, true, false, false, false]);
    assert_eq!(allowed(&bob), [true, false, true, false, false]);
    assert_eq!(allowed(&carol), [true, false, true, false, false]);
    assert!(!may(&policy, &alice, "10.0.0.1", 23), "another port");
    let none = Policy::from_rules(&[rule("nobody", &["0.0.0.0/0:*"], &[])]).unwrap();
    assert!(!may(&none, &alice, "10.0.0.1", 22));
}

/// nt:E4 in the form of rules.
#[test]
fn destinations_are_addresses_networks_and_names_with_ports_e4() {
    for (destination, yes, no) in [
        ("10.0.0.0/8:443", vec![("10.255.0.1", 443)], vec![("11.0.0.1", 443), ("10.0.0.1", 80)]),
        (
            "10.1.2.3:8000-8002",
            vec![("10.1.2.3", 8000), ("10.1.2.3", 8002)],
            vec![("10.1.2.3", 8003)],
        ),
        (
            "[2001:db8::/32]:*",
            vec![("2001:db8::1", 1), ("2001:db8:ffff::", 65_535)],
            vec![("2001:db9::", 1)],
        ),
        ("[2001:db8::1]:22", vec![("2001:db8:0:0::1", 22)], vec![("2001:db8::2", 22)]),
        ("10.0.0.1:22", vec![("::ffff:10.0.0.1", 22)], vec![("::ffff:10.0.0.2", 22)]),
        (
            "db.lan:5432",
            vec![("db.lan", 5432), ("DB.LAN.", 5432)],
            vec![("x.db.lan", 5432), ("db.lan.evil", 5432), ("10.0.0.1", 5432)],
        ),
        (
            "*.lan:*",
            vec![("a.lan", 1), ("a.b.lan", 1)],
            vec![("lan", 1), ("xlan", 1), (".lan", 1), ("a.lan.evil", 1)],
        ),
        ("0.0.0.0/0:*", vec![("192.0.2.1", 1)], vec![("::1", 1), ("localhost", 1)]),
    ] {
        let policy = allowing(&[destination]);
        for (address, port) in yes {
            assert!(may(&policy, &anyone(), address, port), "{destination} {address}:{port}");
        }
        for (address, port) in no {
            assert!(!may(&policy, &anyone(), address, port), "{destination} {address}:{port}");
        }
    }
}

/// rel:W6: a network never opens them, whatever they are written as; the address itself does.
#[test]
fn special_addresses_have_to_be_named_w6() {
    let wide = allowing(&["0.0.0.0/0:*", "[::/0]:*"]);
    for address in [
        "0.0.0.0",
        "169.254.169.254",
        "100.100.100.200",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "fe80::1",
        "ff02::1",
        "fd00:ec2::254",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::",
    ] {
        assert!(!may(&wide, &anyone(), address, 80), "{address}");
        let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        let named = allowing(&[&format!("{host}:80")]);
        assert!(may(&named, &anyone(), address, 80), "{address}");
        assert!(!may(&named, &anyone(), address, 81), "{address}");
    }
    // Own listeners are not even then.
    let named = allowing(&["127.0.0.1:*", "127.0.0.2:4040", "0.0.0.0:4040"]);
    for (address, port) in [("127.0.0.1", 5051), ("127.0.0.2", 4040), ("0.0.0.0", 4040)] {
        assert!(!may(&named, &anyone(), address, port), "{address}:{port}");
    }
    assert!(may(&named, &anyone(), "127.0.0.1", 22));
}

/// rel:W5: what a name leads to is judged for itself.
#[test]
fn the_addresses_of_a_name_are_judged_w5() {
    let judged = |destinations: &[&str], name: &str, ip: &str| {
        let policy = allowing(destinations);
        let destination = policy.destination(&anyone(), &own(), name, "80").unwrap();
        policy.resolved(&anyone(), &own(), &destination, ip.parse().unwrap()).is_ok()
    };
    for ip in ["10.0.0.1", "192.0.2.1", "2001:db8::1"] {
        assert!(judged(&["a.lan:80"], "a.lan", ip), "{ip}");
    }
    // This host's own services, and what is special, are not opened by who answers for a name.
    for ip in [
        "127.0.0.1",
        "127.1.2.3",
        "::1",
        "::ffff:127.0.0.1",
        "169.254.169.254",
        "0.0.0.0",
        "::ffff:169.254.169.254",
        "fe80::1",
    ] {
        assert!(!judged(&["a.lan:80"], "a.lan", ip), "{ip}");
    }
    assert!(judged(&["a.lan:80", "127.0.0.1:80"], "a.lan", "127.0.0.1"));
    assert!(!judged(&["a.lan:80", "127.0.0.1:81"], "a.lan", "127.0.0.1"));
    assert!(judged(&["localhost:80"], "localhost", "127.0.0.1"));
    assert!(!judged(&["localhost:80"], "localhost", "169.254.169.254"));
    let listed = [("a.lan".to_owned(), "80".to_owned())].into();
    let policy = Policy::from_allowed_destinations(&listed).unwrap();
    let destination = policy.destination(&anyone(), &own(), "a.lan", "80").unwrap();
    let judge = |ip: &str| policy.resolved(&anyone(), &own(), &destination, ip.parse().unwrap());
    assert!(judge("10.0.0.1").is_ok());
    assert_eq!(judge("127.0.0.1"), Err(Denied::Address("127.0.0.1".into())));
}

/// rel:W7.
#[test]
fn entrances_are_what_the_rules_name_w7() {
    let binds = |list: &[&str]| Policy::from_rules(&[rule("*", &[], list)]).unwrap();
    let bind = |policy: &Policy, address: &str, port: Option<u16>| {
        policy
            .bind(&anyone(), &own(), address, port)
            .map(|found| found.iter().map(SocketAddr::to_string).collect::<Vec<_>>())
    };
    let range = binds(&["127.0.0.1:5050-5052", "[::1]:7000"]);
    assert_eq!(bind(&range, "127.0.0.1", Some(5050)), Ok(vec!["127.0.0.1:5050".into()]));
    assert_eq!(bind(&range, "::1", Some(7000)), Ok(vec!["[::1]:7000".into()]));
    // Without a port any of the allowed ones, but not our own.
    let free = Ok(vec!["127.0.0.1:5050".into(), "127.0.0.1:5052".into()]);
    assert_eq!(bind(&range, "127.0.0.1", None), free);
    assert_eq!(bind(&range, "localhost", None), free);
    for (address, port) in [
        ("127.0.0.1", Some(5051)),
        ("127.0.0.1", Some(5053)),
        ("127.0.0.2", Some(5050)),
        ("0.0.0.0", Some(5050)),
        ("::1", Some(7001)),
        ("::", None),
        ("a.lan", Some(5050)),
        ("", None),
    ] {
        let denied = Denied::Bind(address.into(), port.unwrap_or(0).to_string());
        assert_eq!(bind(&range, address, port), Err(denied), "{address} {port:?}");
    }
    let any = binds(&["0.0.0.0/0:*"]);
    assert_eq!(bind(&any, "10.0.0.1", None), Ok(vec!["10.0.0.1:0".into()]));
    assert_eq!(bind(&any, "0.0.0.0", Some(80)), Ok(vec!["0.0.0.0:80".into()]));
    assert!(
        bind(&any, "0.0.0.0", Some(4040)).is_err() && bind(&any, "0.0.0.0", Some(5051)).is_err()
    );
}

#[test]
fn what_cannot_be_read_is_named_with_its_rule() {
    for (destination, bind, text) in [
        ("10.0.0.1", "", "[[netunnel.rule]] destinations: \"10.0.0.1\": expected HOST:PORT"),
        ("10.0.0.1:0", "", "destinations: \"10.0.0.1:0\""),
        ("10.0.0.1:9-8", "", "destinations: \"10.0.0.1:9-8\""),
        ("10.0.0.0/33:1", "", "destinations: \"10.0.0.0/33:1\""),
        ("127.1:22", "", "destinations: \"127.1:22\""),
        ("2001:db8::1:22", "", "destinations: \"2001:db8::1:22\""),
        ("*:22", "", "destinations: \"*:22\""),
        ("", "localhost:22", "reverse_binds: \"localhost:22\": expected ADDRESS:PORT"),
    ] {
        let some = |text: &'static str| {
            [text].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>()
        };
        let rules = [rule("*", &["10.0.0.1:1"], &[]), rule("*", &some(destination), &some(bind))];
        let error = Policy::from_rules(&rules).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
    let listed = [("127.0.0.1".to_owned(), "22,x".to_owned())].into();
    let error = Policy::from_allowed_destinations(&listed).unwrap_err().to_string();
    assert!(error.contains("allowed_tunnel_destinations, \"127.0.0.1\": \"22,x\""), "{error}");
}

/// An address out of a few that lie close together.
fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0_u32..8).prop_map(|low| IpAddr::from(Ipv4Addr::from(0x0a00_0000 + low))),
        (0_u32..8).prop_map(|low| IpAddr::from(Ipv4Addr::from(0xa9fe_a9f8 + low))),
        (0_u32..3).prop_map(|low| IpAddr::from(Ipv4Addr::from(0x7f00_0000 + low))),
        (0_u128..8)
            .prop_map(|low| IpAddr::from(std::net::Ipv6Addr::from((0x2001_0db8 << 96) + low))),
    ]
}

/// As a rule names it; `bits` that do not matter make it a network.
fn shown(ip: IpAddr, bits: u8) -> String {
    let width = if ip.is_ipv4() { 32 } else { 128 };
    let text = if bits == 0 { ip.to_string() } else { format!("{ip}/{}", width - bits) };
    if ip.is_ipv6() { format!("[{text}]") } else { text }
}

proptest! {
    /// rel:W4: against a second way to judge, by counting through all addresses of a network.
    #[test]
    fn verdicts_are_those_of_a_slow_reader_w4(
        rules in prop::collection::vec((any::<bool>(), address(), 0_u8..4, 1_u16..6, 0_u16..4), 1..5),
        asked in address(),
        port in 0_u16..10,
        alice in any::<bool>(),
    ) {
        let mut given = Vec::new();
        let mut expected = false;
        for (everybody, network, bits, first, more) in rules {
            let last = first + more;
            let host = shown(network, bits);
            given.push(rule(if everybody { "*" } else { "alice" }, &[&format!("{host}:{first}-{last}")], &[]));
            let inside = match (network, asked) {
                (IpAddr::V4(network), IpAddr::V4(asked)) => u32::from(network) >> bits == u32::from(asked) >> bits,
                (IpAddr::V6(network), IpAddr::V6(asked)) => u128::from(network) >> bits == u128::from(asked) >> bits,
                _ => false,
            };
            let special = matches!(asked, IpAddr::V4(ip) if ip.is_link_local()) && bits != 0;
            let counts = (everybody || alice) && (first..=last).contains(&port);
            expected |= counts && inside && !special;
            // Named by one rule, it is no secret to the others.
            let named = (everybody || alice) && bits == 0 && network == asked && (first..=last).contains(&port);
            expected |= named;
        }
        let policy = Policy::from_rules(&given).unwrap();
        let name = if alice { "alice" } else { "bob" };
        let who = caller(&json!({"identifier": name}));
        let judged = policy.destination(&who, &[], &asked.to_string(), &port.to_string());
        prop_assert_eq!(judged.is_ok(), expected, "{:?} {}:{}", given, asked, port);
    }
}

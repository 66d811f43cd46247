//! Callers of the tunnels whose tokens another issuer signed: `NAME:sub`, and nobody else.

use std::sync::Arc;
use std::time::Duration;

use crate::tunnel_harness::{Bench, echo};
use arc_swap::ArcSwap;
use jwt_core::JwkSet;
use jwtunnel::auth::{Authenticator, Mode, RemoteIssuer};
use jwtunnel::clock::Clock;
use jwtunnel::config::{RsaBits, Rule, SigningAlgorithm};
use jwtunnel::signing_key::{LiveKeys, PublicJwks, SigningKey};
use jwtunnel::tunnel::{Policy, Settings};
use serde_json::{Value, json};

const ISSUER: &str = "https://corp.example";

fn key() -> SigningKey {
    SigningKey::generate(SigningAlgorithm::Es256, RsaBits::B2048).unwrap()
}

fn keys(keys: &[&SigningKey]) -> LiveKeys {
    let keys: Vec<_> = keys.iter().map(|key| key.jwk().clone()).collect();
    let set = match keys.is_empty() {
        true => JwkSet::default(),
        false => JwkSet::parse(&serde_json::to_vec(&PublicJwks { keys }).unwrap()).unwrap(),
    };
    Arc::new(ArcSwap::from_pointee(set))
}

fn token(key: &SigningKey, claims: Value) -> String {
    let mut claims = claims;
    let now = Clock::system().unix_now();
    for (name, value) in [("exp", json!(now + 600)), ("iat", json!(now))] {
        claims.as_object_mut().unwrap().entry(name).or_insert(value);
    }
    key.sign(&claims).unwrap()
}

/// What corp gives to alice.
fn from_corp(key: &SigningKey) -> String {
    token(key, json!({"iss": ISSUER, "aud": "tunnels", "sub": "alice", "role": "ops"}))
}

fn corp(keys: LiveKeys) -> RemoteIssuer {
    let leeway = Duration::from_secs(60);
    RemoteIssuer::new("corp", keys, Some(ISSUER.into()), vec!["tunnels".into()], leeway)
}

fn authenticator(own: &LiveKeys, remotes: Vec<RemoteIssuer>) -> Authenticator {
    let mode = Mode::Jwt(own.clone());
    let leeway = Duration::from_secs(60);
    Authenticator::new(mode, leeway, Clock::system()).unwrap().with_remotes(remotes)
}

/// The identifier of a token's caller, or the reason why there is none.
fn caller(auth: &Authenticator, token: &str) -> Result<String, &'static str> {
    let headers = [("authorization", format!("Bearer {token}"))];
    let headers =
        headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
    let identity = auth.authenticate(&headers.collect()).map_err(|error| error.reason())?;
    Ok(identity.identifier().to_owned())
}

/// design.md section 10: who the caller is, is told by the keys alone.
#[test]
fn a_token_is_named_by_the_keys_that_verify_it_and_by_no_claim() {
    let (ours, theirs, foreign) = (key(), key(), key());
    let auth = authenticator(&keys(&[&ours]), vec![corp(keys(&[&theirs]))]);
    let is = |token: String| caller(&auth, &token);
    let base = json!({"iss": ISSUER, "aud": "tunnels", "sub": "alice"});
    let with = |name: &str, value: Value| {
        let mut claims = base.clone();
        claims[name] = value;
        claims
    };
    assert_eq!(is(from_corp(&theirs)), Ok("corp:alice".into()));
    // What the token says of itself changes nothing.
    assert_eq!(is(token(&theirs, with("identifier", json!("bob")))), Ok("corp:alice".into()));
    assert_eq!(is(token(&theirs, with("sub", json!("corp:alice")))), Ok("corp:corp:alice".into()));
    assert_eq!(is(from_corp(&ours)), Ok("alice".into()));
    assert_eq!(is(from_corp(&foreign)), Err("key_unknown"));
    // The issuer's own conditions hold for its tokens.
    assert_eq!(is(token(&theirs, with("iss", json!("https://other.example")))), Err("iss"));
    assert_eq!(is(token(&theirs, with("aud", json!("wiki")))), Err("aud"));
    assert_eq!(is(token(&theirs, with("exp", json!(1)))), Err("expired"));
    for sub in [json!(null), json!(""), json!(7), json!("x".repeat(252))] {
        assert_eq!(is(token(&theirs, with("sub", sub.clone()))), Err("claim"), "{sub}");
    }
    // A key of ours could sign any name, but not one of another issuer's callers.
    assert_eq!(is(token(&ours, json!({"identifier": "corp:alice"}))), Err("claim"));
    assert_eq!(is(token(&ours, json!({"sub": "corp:"}))), Err("claim"));
    assert_eq!(is(token(&ours, json!({"sub": "corporate:alice"}))), Ok("corporate:alice".into()));
}

#[test]
fn a_key_that_both_publish_signs_for_us_and_what_we_refuse_stays_refused() {
    let ours = key();
    let auth = authenticator(&keys(&[&ours]), vec![corp(keys(&[&ours, &key()]))]);
    assert_eq!(caller(&auth, &from_corp(&ours)), Ok("alice".into()));
    let expired = json!({"iss": ISSUER, "aud": "tunnels", "sub": "alice", "exp": 1});
    assert_eq!(caller(&auth, &token(&ours, expired)), Err("expired"));
}

#[test]
fn issuers_that_share_their_keys_are_told_apart_by_their_audience() {
    let shared = key();
    let leeway = Duration::ZERO;
    let remote = |name: &str, audience: &str| {
        let audience = vec![audience.to_owned()];
        RemoteIssuer::new(name, keys(&[&shared]), None, audience, leeway)
    };
    let auth = authenticator(&keys(&[&key()]), vec![remote("a", "x"), remote("b", "y")]);
    let is = |audience: &str| caller(&auth, &token(&shared, json!({"sub": "s", "aud": audience})));
    assert_eq!((is("x"), is("y"), is("z")), (Ok("a:s".into()), Ok("b:s".into()), Err("aud")));
}

/// rel: our own fault is never a 401, and somebody else's fault is none of ours.
#[test]
fn keys_that_are_missing_stop_only_the_tokens_that_need_them() {
    let (ours, theirs) = (key(), key());
    let (none, some) = (keys(&[]), keys(&[&theirs]));
    let auth = authenticator(&none, vec![corp(some)]);
    assert_eq!(caller(&auth, &from_corp(&theirs)), Ok("corp:alice".into()));
    assert_eq!(caller(&auth, &token(&ours, json!({"sub": "bob"}))), Err("keys_unavailable"));
    let auth = authenticator(&keys(&[&ours]), vec![corp(none.clone())]);
    assert_eq!(caller(&auth, &token(&ours, json!({"sub": "bob"}))), Ok("bob".into()));
    assert_eq!(caller(&auth, &from_corp(&theirs)), Err("keys_unavailable"));
    // A client whose key of ours is gone has to hear that, whatever other issuers do.
    assert_eq!(caller(&auth, &token(&key(), json!({"sub": "bob"}))), Err("key_unknown"));
    assert_eq!(caller(&auth, "x.y.z"), Err("malformed"));
    let auth = authenticator(&none, vec![corp(none.clone())]);
    assert_eq!(caller(&auth, &from_corp(&theirs)), Err("keys_unavailable"));
}

#[tokio::test]
async fn a_remote_caller_has_channels_of_its_own() {
    let (ours, theirs) = (key(), key());
    let auth = authenticator(&keys(&[&ours]), vec![corp(keys(&[&theirs]))]);
    let bench = Bench::serve(Settings::default(), auth).await;
    let (local, remote) = (token(&ours, json!({"sub": "alice"})), from_corp(&theirs));
    let (id, _control) = bench.channel(&remote).await;
    let (other, _control) = bench.channel(&local).await;
    for (id, owner, stranger) in [(id, &remote, &local), (other, &local, &remote)] {
        let path = format!("/channels/{id}");
        assert_eq!(bench.send("DELETE", &path, stranger, "").await.status, 404);
        let tunnels = format!("{path}/tunnels");
        let wish =
            json!({"exit_address": "127.0.0.1", "exit_port": 9, "reverse": false}).to_string();
        assert_eq!(bench.send("POST", &tunnels, stranger, &wish).await.status, 404);
        assert_eq!(bench.send("POST", &tunnels, owner, &wish).await.status, 200);
    }
    let status = serde_json::to_value(bench.server.status()).unwrap();
    let names: Vec<_> =
        status["identities"].as_array().unwrap().iter().map(|i| &i["identifier"]).collect();
    assert!(names.contains(&&json!("corp:alice")) && names.contains(&&json!("alice")), "{status}");
}

#[tokio::test]
async fn rules_name_remote_callers_one_by_one_all_together_or_by_their_claims() {
    let (ours, theirs, others) = (key(), key(), key());
    let ports = [echo().await, echo().await, echo().await, echo().await, echo().await];
    let to =
        |port: u16| Rule { destinations: vec![format!("127.0.0.1:{port}")], ..Rule::default() };
    let named = |name: &str, port| Rule { identifier: Some(name.into()), ..to(port) };
    let ops = |remote: Option<&str>, port| Rule {
        claim: Some("role".into()),
        value: Some("ops".into()),
        remote: remote.map(str::to_owned),
        ..to(port)
    };
    let rules = [
        named("corp:alice", ports[0]),
        named("corp:*", ports[1]),
        ops(None, ports[2]),
        ops(Some("corp"), ports[3]),
        named("*", ports[4]),
    ];
    let settings = Settings { policy: Policy::from_rules(&rules).unwrap(), ..Settings::default() };
    let branch = RemoteIssuer::new("branch", keys(&[&others]), None, Vec::new(), Duration::ZERO);
    let auth = authenticator(&keys(&[&ours]), vec![corp(keys(&[&theirs])), branch]);
    let bench = Bench::serve(settings, auth).await;
    let bob = json!({"iss": ISSUER, "aud": "tunnels", "sub": "bob"});
    for (who, token, expected) in [
        ("corp:alice, an ops", from_corp(&theirs), [true, true, false, true, true]),
        ("corp:bob", token(&theirs, bob), [false, true, false, false, true]),
        ("branch:alice, an ops", from_corp(&others), [false, false, false, false, true]),
        ("our alice, an ops", from_corp(&ours), [false, false, true, false, true]),
    ] {
        let (id, _control) = bench.channel(&token).await;
        for (port, expected) in ports.into_iter().zip(expected) {
            let wish = json!({"exit_address": "127.0.0.1", "exit_port": port, "reverse": false});
            let path = format!("/channels/{id}/tunnels");
            let answer = bench.send("POST", &path, &token, &wish.to_string()).await;
            let place = ports.iter().position(|p| *p == port);
            assert_eq!(answer.status, if expected { 200 } else { 403 }, "{who}, rule {place:?}");
        }
    }
}

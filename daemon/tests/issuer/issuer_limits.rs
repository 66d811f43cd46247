//! Limits on failures (rel:0.3, I2, I14, F31) and the lines that an auditor reads (rel:0.2).

use std::time::{Duration, Instant};

use crate::issuer_harness::{Answer, Daemon, Options};
use serde_json::{Value, json};
use uuid::Uuid;

const U: Uuid = Uuid::from_u128(0x7d2b_0d0c_8d7e_4a51_9f0c_3f1f_8f3f_4f11);

/// As nginx passes a client's request on.
async fn post(daemon: &Daemon, from: &str, path: &str, body: Value) -> Answer {
    let request = daemon.client.post(format!("http://{}{path}", daemon.public));
    let request = request.header("x-forwarded-for", from).body(body.to_string());
    Answer::of(request.send().await.unwrap()).await
}

async fn login(daemon: &Daemon, from: &str, key: &str) -> Answer {
    post(daemon, from, "/authenticate", json!({"key": key, "identifier": U})).await
}

fn is_limited(answer: &Answer) {
    assert_eq!((answer.status.as_u16(), answer.text.as_str()), (429, "{}"));
    let seconds: u64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=61).contains(&seconds), "{seconds}");
}

#[tokio::test]
async fn i2_an_address_that_guesses_is_stopped_and_others_are_not() {
    let mut daemon = Daemon::start(Options::default()).await;
    daemon.register("K", U).await;
    let (guesser, client) = ("203.0.113.7", "203.0.113.8");
    let started = Instant::now();
    for n in 0..20 {
        login(&daemon, guesser, &format!("guess-{n}")).await.is(401, json!({}));
    }
    assert!(started.elapsed() < Duration::from_secs(6), "too slow for what is tested here");
    for n in 0..200 {
        is_limited(&login(&daemon, guesser, &format!("more-{n}")).await);
    }
    // A lucky guess comes too late; and everybody else is served.
    is_limited(&login(&daemon, guesser, "K").await);
    assert_eq!(login(&daemon, client, "K").await.status, 200);
    let line = daemon.wait_for(|line| line["reason"] == "limited").await;
    assert_eq!((&line["event"], &line["ip"]), (&json!("authenticate"), &json!(guesser)));
    // Malformed requests are no guesses, and validation is not limited.
    assert_eq!(post(&daemon, guesser, "/authenticate", json!({})).await.status, 400);
    let garbage = json!({"jwt": "a.b.c"});
    assert_eq!(post(&daemon, guesser, "/validate", garbage).await.status, 401);
}

#[tokio::test]
async fn successes_are_not_counted() {
    let daemon = Daemon::start(Options::default()).await;
    daemon.register("K", U).await;
    for n in 0..60 {
        assert_eq!(login(&daemon, "203.0.113.7", "K").await.status, 200, "{n}");
    }
}

#[tokio::test]
async fn i2_one_key_that_fails_from_many_addresses_is_stopped() {
    let daemon = Daemon::start(Options::default()).await;
    for n in 0..5 {
        login(&daemon, &format!("198.51.100.{n}"), "gone").await.is(401, json!({}));
    }
    is_limited(&login(&daemon, "198.51.100.9", "gone").await);
    login(&daemon, "198.51.100.9", "another").await.is(401, json!({}));
}

#[tokio::test]
async fn i14_an_address_is_believed_only_from_a_trusted_proxy() {
    let options = Options::issuer("trusted_proxies = [\"192.0.2.1\"]\nfailure_burst = 3\n");
    let daemon = Daemon::start(options).await;
    for n in 0..3 {
        login(&daemon, &format!("198.51.100.{n}"), &format!("guess-{n}")).await.is(401, json!({}));
    }
    is_limited(&login(&daemon, "198.51.100.99", "guess").await);
}

#[tokio::test]
async fn a_refresh_is_put_off_and_never_refused_for_it() {
    let options = Options::issuer("failure_burst = 3\nrefresh_delay = \"2s\"\n");
    let daemon = Daemon::start(options).await;
    let (_, token) = daemon.tokens("K", U).await;
    let refresh = async |from: &str, token: &str| {
        let body = json!({"refresh_token": token, "identifier": U});
        post(&daemon, from, "/refresh", body).await
    };
    for n in 0..3 {
        refresh("203.0.113.7", &format!("{n:0128}")).await.is(401, json!({}));
    }
    let started = Instant::now();
    assert_eq!(refresh("203.0.113.7", &token).await.status, 200);
    assert!(started.elapsed() >= Duration::from_secs(2), "{:?}", started.elapsed());
    let started = Instant::now();
    assert_eq!(refresh("203.0.113.8", &token).await.status, 200);
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

#[tokio::test]
async fn i16_every_action_has_its_line_and_no_line_has_a_secret() {
    let mut daemon = Daemon::start(Options::default()).await;
    let key = "canary-key-4be1a77c0d2f4f0e";
    daemon.register(key, U).await;
    let answer = login(&daemon, "203.0.113.7", key).await.json();
    let (jwt, token) = (&answer["jwt"], answer["refresh_token"].as_str().unwrap());
    post(&daemon, "203.0.113.7", "/refresh", json!({"refresh_token": token, "identifier": U}))
        .await;
    login(&daemon, "203.0.113.7", "canary-wrong-key").await.is(401, json!({}));
    daemon.post_internal("/rotate_signing_key", json!({"now": true}).to_string()).await;
    daemon.post_internal("/revoke_token", json!({"jwt": jwt}).to_string()).await;
    daemon.post_internal("/revoke_key", json!({"key": key}).to_string()).await;
    daemon.validate(jwt.as_str().unwrap()).await.is(401, json!({}));
    for (event, outcome, ip) in [
        ("register_key", "ok", "127.0.0.1"),
        ("authenticate", "ok", "203.0.113.7"),
        ("refresh", "ok", "203.0.113.7"),
        ("authenticate", "denied", "203.0.113.7"),
        ("rotate_signing_key", "ok", "127.0.0.1"),
        ("revoke_token", "ok", "127.0.0.1"),
        ("revoke_key", "ok", "127.0.0.1"),
    ] {
        let line = daemon
            .wait_for(|line| {
                line["event"] == event && line["outcome"] == outcome && line["ip"] == ip
            })
            .await;
        for name in ["ts", "level", "rid"] {
            assert!(line[name].is_string(), "{name} of {line}");
        }
        if event != "rotate_signing_key" && event != "revoke_token" {
            assert_eq!(line["key_fp"].as_str().unwrap().len(), 12, "{line}");
        }
    }
    // One name for all lines of a request, another for the next.
    let lines = daemon.events();
    let rids: std::collections::BTreeSet<_> =
        lines.iter().filter_map(|line| line["rid"].as_str()).collect();
    assert!(rids.len() >= 7, "{rids:?}");
    let log = daemon.log().join("\n");
    for secret in [key, "canary-wrong-key", token, jwt.as_str().unwrap()] {
        assert!(!log.contains(secret), "a secret is in the log");
    }
}

//! Revocation, from the command line to every place that refuses: the API, the file for nginx, the tunnels.
//! `issuer_revocation_postgres` runs the same on PostgreSQL.

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::issuer_harness::{Answer, Daemon, Options, claims, header, jwtunnel};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use uuid::Uuid;

const U: Uuid = Uuid::from_u128(0x7d2b_0d0c_8d7e_4a51_9f0c_3f1f_8f3f_4f11);
const V: Uuid = Uuid::from_u128(0x0101_0101_0101_0101_0101_0101_0101_0101);

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

/// What nginx reads.
fn file(daemon: &Daemon) -> Value {
    let path = daemon.path("public/revoked.json");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn revoke(daemon: &Daemon, arguments: &[&str], input: &str) -> (i32, String, String) {
    let server = format!("http://{}", daemon.internal);
    let mut all = arguments.to_vec();
    all.extend(["--server", &server]);
    jwtunnel(&all, input)
}

#[track_caller]
fn revoked(daemon: &Daemon, arguments: &[&str], input: &str) {
    let (code, _, err) = revoke(daemon, arguments, input);
    assert_eq!(code, 0, "{err}");
}

async fn refresh(daemon: &Daemon, token: &str) -> Answer {
    let body = json!({"refresh_token": token, "identifier": U}).to_string();
    daemon.post("/refresh", body).await
}

async fn is_refused(daemon: &Daemon, jwt: &str) -> bool {
    let answer = daemon.validate(jwt).await;
    let request = daemon.validate_request(Some(&format!("Bearer {jwt}"))).await;
    assert_eq!(answer.status, request.status);
    assert!([200, 401].contains(&answer.status.as_u16()), "{}", answer.text);
    let tunnels = netunnel(daemon, jwt).await;
    assert_eq!(answer.status, tunnels, "the tunnels judge as the API does");
    answer.status == 401
}

fn netunnel_address(daemon: &Daemon) -> String {
    let lines = daemon.events();
    let line = lines.iter().find(|l| l["event"] == "listening" && l["listener"] == "netunnel");
    line.unwrap()["address"].as_str().unwrap().to_owned()
}

async fn netunnel(daemon: &Daemon, jwt: &str) -> u16 {
    let url = format!("http://{}/version", netunnel_address(daemon));
    daemon.client.get(url).bearer_auth(jwt).send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn i17_a_key_is_revoked_with_everything_that_was_issued_for_it_and_stays_so() {
    let daemon = Daemon::start(Options::default()).await;
    let empty = json!({"version": 1, "token_id": {}, "identifier": {}, "key": {}, "kid": {}});
    assert_eq!(file(&daemon), empty, "nginx finds the file before anything is revoked");
    let (jwt, refresh_token) = daemon.tokens("K", U).await;
    let (other, other_refresh) = daemon.tokens("L", U).await;
    assert!(!is_refused(&daemon, &jwt).await);
    revoked(&daemon, &["keys", "revoke", "--key-file", "-"], "K\n");
    assert!(is_refused(&daemon, &jwt).await);
    refresh(&daemon, &refresh_token).await.is(401, json!({}));
    let login = json!({"key": "K", "identifier": U}).to_string();
    daemon.post("/authenticate", login.clone()).await.is(401, json!({}));
    let again = daemon.post_internal("/register_key", login.clone()).await;
    assert_eq!((again.status.as_u16(), &again.json()["result"]), (409, &json!(false)));
    daemon.post("/authenticate", login.clone()).await.is(401, json!({}));
    // Another key of the same client goes on.
    assert!(!is_refused(&daemon, &other).await);
    assert_eq!(refresh(&daemon, &other_refresh).await.status, 200);
    let id = claims(&jwt)["key"].as_str().unwrap().to_owned();
    let until = file(&daemon)["key"][&id].as_i64().unwrap();
    let last = claims(&jwt)["exp"].as_i64().unwrap();
    assert!((last + 60..last + 300).contains(&until), "{until} covers {last} and the leeway");
    // By its public name, and over a restart.
    let id = claims(&other)["key"].as_str().unwrap().to_owned();
    revoked(&daemon, &["keys", "revoke", "--key-id", &id], "");
    assert!(is_refused(&daemon, &other).await);
    let before = file(&daemon);
    assert_eq!(before["key"].as_object().unwrap().len(), 2);
    let daemon = restart(daemon).await;
    assert!(is_refused(&daemon, &jwt).await && is_refused(&daemon, &other).await);
    daemon.post("/authenticate", login).await.is(401, json!({}));
    assert_eq!(file(&daemon), before);
    for arguments in [["--key-id", "nobody"], ["--key-file", "-"]] {
        let (code, _, err) = revoke(&daemon, &[&["keys", "revoke"], &arguments[..]].concat(), "Z");
        assert_eq!(code, 1);
        assert!(err.contains("no such key"), "{err}");
    }
}

async fn restart(daemon: Daemon) -> Daemon {
    let database = daemon.database();
    Daemon::start_in(daemon.stop().await, Options { database, ..Options::default() }).await
}

#[tokio::test]
async fn i17_an_identifiers_tokens_issued_so_far_are_refused_and_later_ones_are_not() {
    let daemon = Daemon::start(Options::default()).await;
    let (jwt, refresh_token) = daemon.tokens("K", U).await;
    let (others, _) = daemon.tokens("L", V).await;
    let identifier = U.to_string();
    revoked(&daemon, &["token", "revoke", "--identifier", &identifier], "");
    assert!(is_refused(&daemon, &jwt).await);
    assert!(!is_refused(&daemon, &others).await);
    let entry = &file(&daemon)["identifier"][&identifier];
    assert!((now() - 5..=now() + 1).contains(&entry[0].as_i64().unwrap()), "{entry}");
    // Its key was not revoked: from the next second on there are new tokens.
    let deadline = tokio::time::Instant::now() + crate::issuer_harness::PATIENCE;
    loop {
        let answer = refresh(&daemon, &refresh_token).await.json();
        if !is_refused(&daemon, answer["jwt"].as_str().unwrap()).await {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(is_refused(&daemon, &jwt).await);
    // With its keys, nothing new either.
    revoked(&daemon, &["keys", "revoke", "--identifier", &identifier], "");
    refresh(&daemon, &refresh_token).await.is(401, json!({}));
    assert!(!is_refused(&daemon, &others).await);
}

#[tokio::test]
async fn tokens_without_standard_claims_are_revoked_by_their_identifier() {
    let daemon = Daemon::start(Options::issuer(crate::issuer_harness::AS_ORIGINAL)).await;
    let (jwt, _) = daemon.tokens("K", U).await;
    assert!(claims(&jwt).get("key").is_none());
    revoked(&daemon, &["keys", "revoke", "--key-file", "-"], "K");
    assert!(is_refused(&daemon, &jwt).await);
    assert!(file(&daemon)["identifier"].get(U.to_string()).is_some());
}

#[tokio::test]
async fn i17_single_tokens_and_what_a_signing_key_signed() {
    let daemon = Daemon::start(Options::default()).await;
    let (one, _) = daemon.tokens("K", U).await;
    let (two, refresh_token) = daemon.authenticate("K", U).await;
    let (three, _) = daemon.authenticate("K", U).await;
    revoked(&daemon, &["token", "revoke", "--token-file", "-"], &one);
    let id = claims(&two)["token_id"].as_str().unwrap().to_owned();
    revoked(&daemon, &["token", "revoke", "--token-id", &id], "");
    assert!(is_refused(&daemon, &one).await && is_refused(&daemon, &two).await);
    assert!(!is_refused(&daemon, &three).await);
    assert_eq!(file(&daemon)["token_id"].as_object().unwrap().len(), 2);
    // A kid may look like an option.
    revoked(&daemon, &["token", "revoke", "--kid", "-abc"], "");
    // The key that signs cannot be refused: all would be lost without a word.
    let kid = header(&three)["kid"].as_str().unwrap().to_owned();
    let (code, _, err) = revoke(&daemon, &["token", "revoke", "--kid", &kid], "");
    assert_eq!(code, 1);
    assert!(err.contains("jwtunnel keys rotate --emergency"), "{err}");
    revoked(&daemon, &["keys", "rotate", "--now"], "");
    let deadline = tokio::time::Instant::now() + crate::issuer_harness::PATIENCE;
    let four = loop {
        let answer = refresh(&daemon, &refresh_token).await.json();
        let jwt = answer["jwt"].as_str().unwrap().to_owned();
        if header(&jwt)["kid"] != kid.as_str() {
            break jwt;
        }
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    revoked(&daemon, &["token", "revoke", "--kid", &kid], "");
    assert!(is_refused(&daemon, &three).await);
    assert!(!is_refused(&daemon, &four).await);
    let garbage = json!({"jwt": "a.b.c"}).to_string();
    let answer = daemon.post_internal("/revoke_token", garbage).await;
    answer.is(400, json!({"jwt": ["Not a token of ours."]}));
    let both = json!({"kid": "x", "token_id": "y"}).to_string();
    assert_eq!(daemon.post_internal("/revoke_token", both).await.status, 400);
    for path in ["/revoke_token", "/revoke_key"] {
        assert_eq!(daemon.post_internal(path, "{}").await.status, 400);
        daemon.post(path, "{}").await.is_text(404, "404: Not Found");
        let request = daemon.client.post(format!("http://{}{path}", daemon.internal));
        let request = request.header("origin", "https://evil.example").body("{}");
        Answer::of(request.send().await.unwrap()).await.is(403, json!({}));
    }
}

#[tokio::test]
async fn an_administrator_sees_which_keys_there_are_and_what_has_become_of_them() {
    let daemon = Daemon::start(Options::default()).await;
    // More than fit on one page.
    for chunk in (0..510).collect::<Vec<_>>().chunks(30) {
        let register = chunk.iter().map(|n| {
            let identifier = if *n == 509 { U } else { V };
            let daemon = &daemon;
            async move { daemon.register(&format!("fleet-{n}"), identifier).await }
        });
        futures_util::future::join_all(register).await;
    }
    let (jwt, _) = daemon.authenticate("fleet-509", U).await;
    let (code, out, err) = revoke(&daemon, &["keys", "list", "--json"], "");
    assert_eq!(code, 0, "{err}");
    let listed: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(listed["keys"].as_array().unwrap().len(), 510);
    revoked(&daemon, &["keys", "revoke", "--key-id", claims(&jwt)["key"].as_str().unwrap()], "");
    let identifier = U.to_string();
    let (_, out, _) = revoke(&daemon, &["keys", "list", "--json", "--identifier", &identifier], "");
    let own: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(own["keys"].as_array().unwrap().len(), 1);
    let key = &own["keys"][0];
    assert_eq!((&key["state"], &key["key_id"]), (&json!("revoked"), &claims(&jwt)["key"]));
    assert_eq!((&key["rotates"], key["fingerprint"].as_str().unwrap().len()), (&json!(false), 12));
    let (code, out, _) = revoke(&daemon, &["keys", "list"], "");
    assert_eq!((code, out.lines().count()), (0, 511), "a heading and a line for each key");
    assert!(out.lines().next().unwrap().starts_with("KEY ID"), "{out}");
    assert_eq!(out.lines().filter(|line| line.ends_with("revoked")).count(), 1);
    assert!(!out.contains("fleet-"), "the keys themselves are not there");
}

#[tokio::test]
async fn w18_channels_of_what_is_revoked_are_closed_and_others_stay() {
    let daemon = Daemon::start(Options::default()).await;
    let (jwt, _) = daemon.tokens("K", U).await;
    let (other, _) = daemon.tokens("L", V).await;
    let address = netunnel_address(&daemon);
    let open = async |jwt: &str| {
        let request = daemon.client.post(format!("http://{address}/channels")).bearer_auth(jwt);
        let answer = request.body("{\"version\":\"1.0.13\"}").send().await.unwrap();
        let answer: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        let url = format!("ws://{address}/channels/{}/connect", answer["channel_id"]);
        let mut request = url.into_client_request().unwrap();
        request.headers_mut().insert("authorization", format!("Bearer {jwt}").parse().unwrap());
        tokio_tungstenite::connect_async(request).await.unwrap().0
    };
    let (mut ours, mut theirs) = (open(&jwt).await, open(&other).await);
    let started = tokio::time::Instant::now();
    revoked(&daemon, &["keys", "revoke", "--key-file", "-"], "K");
    let closed = tokio::time::timeout(Duration::from_secs(5), async {
        loop {
            match ours.next().await {
                Some(Ok(Message::Close(frame))) => break frame.map(|frame| frame.code),
                Some(Ok(_)) => {}
                end => panic!("no CLOSE: {end:?}"),
            }
        }
    });
    assert_eq!(closed.await.unwrap(), Some(CloseCode::Policy), "{:?}", started.elapsed());
    let more = tokio::time::timeout(Duration::from_millis(500), theirs.next()).await;
    assert!(more.is_err() || matches!(more, Ok(Some(Ok(Message::Ping(_))))), "{more:?}");
}

//! Refresh tokens over HTTP: used once where the key says so (rel:I5, I6, I7), for ever where a client of
//! JWThenticator has them (jw:T44). `issuer_refresh_postgres` runs the same on PostgreSQL.

use std::time::{Duration, Instant};

use crate::issuer_harness::{Answer, Daemon, Options, claims};
use serde_json::{Value, json};
use uuid::Uuid;

const U: Uuid = Uuid::from_u128(0x7d2b_0d0c_8d7e_4a51_9f0c_3f1f_8f3f_4f11);

async fn refresh(daemon: &Daemon, token: &str) -> Answer {
    let body = json!({"refresh_token": token, "identifier": U}).to_string();
    daemon.post("/refresh", body).await
}

/// Refreshes: (access token, successor).
async fn renewed(daemon: &Daemon, token: &str) -> (String, String) {
    let answer = refresh(daemon, token).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let text = |name: &str| answer.json()[name].as_str().unwrap().to_owned();
    (text("jwt"), text("refresh_token"))
}

#[tokio::test]
async fn i5_a_refresh_token_that_is_used_twice_ends_its_family() {
    let mut daemon = Daemon::start(Options::default()).await;
    daemon.register_rotating("K", U);
    let (jwt, first) = daemon.authenticate("K", U).await;
    // Its clients renew often, so that their tokens are short.
    let life =
        |jwt: &str| claims(jwt)["exp"].as_i64().unwrap() - claims(jwt)["iat"].as_i64().unwrap();
    assert_eq!(life(&jwt), 3_600);
    let (_, lost) = renewed(&daemon, &first).await;
    assert_eq!(lost.len(), 128);
    // The answer was lost, and the client asks again: what it did not get is dead.
    let (two, second) = renewed(&daemon, &first).await;
    assert_ne!(lost, second);
    refresh(&daemon, &lost).await.is(401, json!({}));
    let (three, third) = renewed(&daemon, &second).await;
    // The successor was used, so this is somebody else.
    refresh(&daemon, &first).await.is(401, json!({}));
    let line = daemon.wait_for(|line| line["event"] == "refresh_reuse").await;
    assert_eq!(line["key_fp"].as_str().unwrap().len(), 12);
    for token in [&first, &second, &third] {
        refresh(&daemon, token).await.is(401, json!({}));
    }
    // Neither party has a good access token now, and nginx knows.
    let file: Value =
        serde_json::from_slice(&std::fs::read(daemon.path("public/revoked.json")).unwrap())
            .unwrap();
    for jwt in [&jwt, &two, &three] {
        assert_eq!(daemon.validate(jwt).await.status, 401);
        let id = claims(jwt)["token_id"].as_str().unwrap().to_owned();
        assert!(file["token_id"].get(&id).is_some(), "{file}");
    }
    // The client has its key, and begins a family.
    let (jwt, next) = daemon.authenticate("K", U).await;
    assert_eq!(daemon.validate(&jwt).await.status, 200);
    renewed(&daemon, &next).await;
    let log = daemon.log().join("\n");
    for token in [&first, &lost, &second, &third] {
        assert!(!log.contains(token.as_str()), "a token is in the log");
    }
}

#[tokio::test]
async fn t44_tokens_of_the_originals_clients_are_used_again_and_again() {
    let daemon = Daemon::start(Options::default()).await;
    let (jwt, token) = daemon.tokens("K", U).await;
    assert_eq!(
        claims(&jwt)["exp"].as_i64().unwrap() - claims(&jwt)["iat"].as_i64().unwrap(),
        90_000
    );
    for _ in 0..3 {
        let answer = refresh(&daemon, &token).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["refresh_token"]), (200, &Value::Null));
    }
    // From the day on which rotation is asked for, what is out there is used once too.
    daemon.register_rotating("K", U);
    let (_, second) = renewed(&daemon, &token).await;
    renewed(&daemon, &second).await;
    refresh(&daemon, &token).await.is(401, json!({}));
}

/// rel:F32 over HTTP.
#[tokio::test]
async fn i6_f32_a_hundred_refreshes_at_once_leave_one_live_token() {
    let daemon = Daemon::start(Options::default()).await;
    daemon.register_rotating("K", U);
    for _ in 0..3 {
        let (_, first) = daemon.authenticate("K", U).await;
        let answers =
            futures_util::future::join_all((0..100).map(|_| refresh(&daemon, &first))).await;
        let mut successors = Vec::new();
        for answer in answers {
            assert_eq!(answer.status, 200, "{}", answer.text);
            successors.push(answer.json()["refresh_token"].as_str().unwrap().to_owned());
        }
        // At most one can be used. Those that were replaced are refused, and nobody is called a thief.
        let mut live = 0;
        for token in &successors {
            match refresh(&daemon, token).await.status.as_u16() {
                200 => live += 1,
                401 => {}
                status => panic!("{status}"),
            }
        }
        assert_eq!(live, 1);
    }
    assert!(!daemon.events().iter().any(|line| line["event"] == "refresh_reuse"));
}

#[tokio::test]
async fn i7_what_was_used_is_used_after_a_crash() {
    let mut daemon = Daemon::start(Options::default()).await;
    daemon.register_rotating("K", U);
    for _ in 0..5 {
        let (_, first) = daemon.authenticate("K", U).await;
        let (_, second) = renewed(&daemon, &first).await;
        let (_, third) = renewed(&daemon, &second).await;
        // At once after the answer.
        daemon.signal("KILL");
        let database = daemon.database();
        daemon.wait().await;
        let root = std::mem::replace(&mut daemon.root, tempfile::tempdir().unwrap());
        let started = Instant::now();
        daemon = Daemon::start_in(root, Options { database, ..Options::default() }).await;
        assert!(started.elapsed() < Duration::from_secs(10));
        // The last answer counts, and a replay does not.
        let (_, fourth) = renewed(&daemon, &third).await;
        refresh(&daemon, &first).await.is(401, json!({}));
        refresh(&daemon, &fourth).await.is(401, json!({}));
    }
}

//! The examples of `issuer_http` once more, on PostgreSQL, and what only that has: a server that goes away.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::issuer_harness::postgres::{Database, Server};
use crate::issuer_harness::{Answer, Daemon, Options};
use serde_json::json;
use uuid::Uuid;

/// jw:T42, rel:F12 at the size of a test.
#[tokio::test]
async fn t42_f12_without_its_server_nothing_is_refused_and_it_recovers_by_itself() {
    let server = Arc::new(Server::start());
    let database = Some(Database::on(server.clone()));
    let daemon = Daemon::start(Options { database, ..Options::default() }).await;
    let identifier = Uuid::new_v4();
    let (jwt, refresh_token) = daemon.tokens("K", identifier).await;
    let login = json!({"key": "K", "identifier": identifier}).to_string();
    let renew = json!({"refresh_token": refresh_token, "identifier": identifier}).to_string();
    server.stop();
    let away = |answer: Answer| {
        assert_eq!((answer.status.as_u16(), answer.text.as_str()), (503, "{}"));
        assert!(answer.headers.contains_key("retry-after"));
    };
    // An administrator is told soon.
    let started = Instant::now();
    away(daemon.post_internal("/register_key", login.clone()).await);
    away(daemon.post_internal("/is_key_registered", json!({"key": "K"}).to_string()).await);
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
    // What needs no database goes on.
    daemon.validate(&jwt).await.is(200, json!({"result": true, "message": null}));
    daemon.validate_request(Some(&format!("Bearer {jwt}"))).await.is(200, json!({}));
    assert_eq!(daemon.get("/jwks").await.status, 200);
    assert_eq!(daemon.get("/health").await.status, 200);
    // Clients wait longer, and then keep their credentials.
    let started = Instant::now();
    let (one, two) = tokio::join!(
        daemon.post("/authenticate", login.clone()),
        daemon.post("/refresh", renew.clone())
    );
    away(one);
    away(two);
    assert!(started.elapsed() < Duration::from_secs(13), "{:?}", started.elapsed());
    let resuming = server.clone();
    tokio::task::spawn_blocking(move || resuming.resume()).await.unwrap();
    let started = Instant::now();
    assert_eq!(daemon.post("/authenticate", login.clone()).await.status, 200);
    assert_eq!(daemon.post("/refresh", renew.clone()).await.status, 200);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    // Restarts in quick succession: every answer is a good one or 503.
    for _ in 0..3 {
        let restarting = server.clone();
        let restart = tokio::task::spawn_blocking(move || {
            restarting.stop();
            restarting.resume();
        });
        let mut good = 0;
        while !restart.is_finished() || good == 0 {
            for (path, body) in [("/authenticate", &login), ("/refresh", &renew)] {
                let answer = daemon.post(path, body.clone()).await;
                match answer.status.as_u16() {
                    200 => good += 1,
                    503 => {}
                    status => panic!("{path}: {status} {}", answer.text),
                }
            }
        }
        restart.await.unwrap();
    }
}

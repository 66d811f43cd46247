//! The examples of `issuer_revocation` once more, on PostgreSQL, and what only that has: other daemons.

use std::time::{Duration, Instant};

use crate::issuer_harness::postgres::Database;
use crate::issuer_harness::{Daemon, Options, jwtunnel};
use serde_json::json;
use uuid::Uuid;

#[tokio::test]
async fn i17_a_revocation_reaches_every_daemon_and_its_file_within_two_seconds() {
    let database = Database::create();
    let options = || Options { database: Some(database.clone()), ..Options::default() };
    let (one, two) = (Daemon::start(options()).await, Daemon::start(options()).await);
    let identifier = Uuid::new_v4();
    for round in 0..5 {
        let key = format!("K{round}");
        let (jwt, refresh_token) = one.tokens(&key, identifier).await;
        let server = format!("http://{}", one.internal);
        let (code, _, err) =
            jwtunnel(&["keys", "revoke", "--key-file", "-", "--server", &server], &key);
        assert_eq!(code, 0, "{err}");
        let revoked = Instant::now();
        let file = |daemon: &Daemon| std::fs::read(daemon.path("public/revoked.json")).unwrap();
        while file(&one) != file(&two) {
            assert!(revoked.elapsed() < Duration::from_secs(2));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(one.validate(&jwt).await.status, 401);
        let body = json!({"refresh_token": refresh_token, "identifier": identifier}).to_string();
        assert_eq!(two.post("/refresh", body).await.status, 401);
        let login = json!({"key": key, "identifier": identifier}).to_string();
        assert_eq!(two.post("/authenticate", login).await.status, 401);
    }
    // The second daemon signs with keys of its own here; what it refuses is in its file.
    let file = std::fs::read_to_string(two.path("public/revoked.json")).unwrap();
    let file: serde_json::Value = serde_json::from_str(&file).unwrap();
    assert_eq!(file["key"].as_object().unwrap().len(), 5);
}

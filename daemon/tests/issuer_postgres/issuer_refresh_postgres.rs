//! The examples of `issuer_refresh` once more, on PostgreSQL, and with two daemons at once.

use crate::issuer_harness::postgres::Database;
use crate::issuer_harness::{Daemon, Options};
use serde_json::json;
use uuid::Uuid;

#[tokio::test]
async fn f32_two_daemons_leave_one_live_token_of_a_hundred() {
    let database = Database::create();
    let options = || Options { database: Some(database.clone()), ..Options::default() };
    let daemons = [Daemon::start(options()).await, Daemon::start(options()).await];
    let identifier = Uuid::new_v4();
    let body = json!({"key": "K", "identifier": identifier, "rotate": true}).to_string();
    assert_eq!(daemons[0].post_internal("/register_key", body).await.status, 201);
    for round in 0..5 {
        let (_, first) = daemons[0].authenticate("K", identifier).await;
        let body = json!({"refresh_token": first, "identifier": identifier}).to_string();
        let answers = (0..100).map(|n| daemons[n % 2].post("/refresh", body.clone()));
        for answer in futures_util::future::join_all(answers).await {
            assert_eq!(answer.status, 200, "{}", answer.text);
        }
        let live = database.psql(
            "SELECT count(*) FROM refresh_tokens WHERE used_at IS NULL AND revoked_at IS NULL",
        );
        assert_eq!(live, (round + 1).to_string(), "one for each family");
    }
}

//! Several daemons on one PostgreSQL: one set of signing keys, encrypted in the database, and a JWKS file of
//! each daemon that follows within two seconds (rel:K7).

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::issuer_harness::postgres::Database;
use crate::issuer_harness::{Daemon, Options, PATIENCE, claims, command, header, jwtunnel};
use serde_json::Value;
use uuid::Uuid;

const U: Uuid = Uuid::from_u128(0x7d2b_0d0c_8d7e_4a51_9f0c_3f1f_8f3f_4f11);

/// How long a change may take to reach another daemon's file.
const SOON: Duration = Duration::from_secs(2);

/// A database, and the key under which signing keys are kept in it.
struct Site {
    database: Database,
    folder: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let site = Self { database: Database::create(), folder: tempfile::tempdir().unwrap() };
        site.encryption_key("key", "3q2+796tvu/erb7v3q2+796tvu/erb7v3q2+796tvu8=");
        site
    }

    fn encryption_key(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, format!("{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn options(&self) -> Options {
        let database = Some(self.database.clone());
        let issuer = "jwt_lifetime = \"100s\"\n".to_owned();
        Options { database, issuer, ..Options::default() }
            .variable("JWTUNNEL_KEYS_ALGORITHM", "ES256")
    }

    fn sharing(&self) -> Options {
        let file = self.folder.path().join("key").display().to_string();
        self.options().variable("JWTUNNEL_KEYS_ENCRYPTION_KEY_FILE", &file)
    }
}

fn kids(daemon: &Daemon) -> Vec<String> {
    let text = std::fs::read(daemon.path("public/jwks.json")).unwrap();
    let set: Value = serde_json::from_slice(&text).expect("a reader never sees a part");
    let kids = set["keys"].as_array().unwrap().iter();
    kids.map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

async fn signing_kid(daemon: &Daemon) -> String {
    let (jwt, _) = daemon.authenticate("K", U).await;
    header(&jwt)["kid"].as_str().unwrap().to_owned()
}

fn rotate(daemon: &Daemon, how: &[&str]) -> Value {
    let server = format!("http://{}", daemon.internal);
    let mut arguments = vec!["keys", "rotate", "--json", "--server", &server];
    arguments.extend(how);
    let (code, out, err) = jwtunnel(&arguments, "");
    assert_eq!(code, 0, "{err}");
    serde_json::from_str(&out).unwrap()
}

/// Waits until `reached`, not longer than `limit`.
async fn within(limit: Duration, what: &str, reached: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + limit;
    while !reached().await {
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn k7_daemons_on_one_database_share_the_keys_and_follow_each_other() {
    let site = Site::new();
    let (one, two) = tokio::join!(Daemon::start(site.sharing()), Daemon::start(site.sharing()));
    one.register("K", U).await;
    assert_eq!(kids(&one), kids(&two), "started at once, they made one key");
    assert_eq!(kids(&one).len(), 1);
    let nodes = [&one, &two];
    let mut tokens = Vec::new();
    let mut rotations = 0;
    for round in 0..10 {
        let (here, there) = (nodes[round % 2], nodes[(round + 1) % 2]);
        let kid = rotate(here, &["--now"])["kid"].as_str().unwrap().to_owned();
        within(SOON, "announced there too", async || kids(there).contains(&kid)).await;
        assert_eq!(kids(here), kids(there));
        // What one announced is not announced again by the other.
        assert_eq!(rotate(there, &[])["kid"], kid.as_str());
        // Ten seconds are long for a test: the time is moved, not the rules.
        site.database.psql(
            "UPDATE jwtunnel_signing_keys SET due = created - 1, created = created - 60 \
             WHERE state = 'announced'; SELECT pg_notify('jwtunnel', 'keys')",
        );
        within(SOON * 2, "it signs", async || signing_kid(here).await == kid).await;
        within(SOON, "it signs there too", async || signing_kid(there).await == kid).await;
        rotations += 1;
        tokens.push(here.authenticate("K", U).await.0);
        tokens.push(there.authenticate("K", U).await.0);
        for token in &tokens {
            assert_eq!(here.validate(token).await.status, 200, "a false 401");
            assert_eq!(there.validate(token).await.status, 200, "a false 401");
        }
    }
    assert_eq!(kids(&one).len(), rotations + 1, "one lineage");
    let states = "SELECT string_agg(state || ' ' || n, ', ' ORDER BY state) FROM \
                  (SELECT state, count(*) AS n FROM jwtunnel_signing_keys GROUP BY state) s";
    assert_eq!(site.database.psql(states), format!("retiring {rotations}, signing 1"));
    assert_eq!(claims(&tokens[0])["identifier"], U.to_string());
}

#[tokio::test]
async fn k12_an_emergency_is_over_in_seconds_on_every_daemon() {
    let site = Site::new();
    let one = Daemon::start(site.sharing()).await;
    let two = Daemon::start(site.sharing()).await;
    let (old, refresh_token) = one.tokens("K", U).await;
    assert_eq!(two.validate(&old).await.status, 200);
    let rotation = rotate(&one, &["--emergency"]);
    let (new, dropped) = (rotation["kid"].as_str().unwrap(), &header(&old)["kid"]);
    assert_eq!(&rotation["dropped"], &serde_json::json!([dropped]));
    assert_eq!(kids(&one), [new]);
    assert_eq!(one.validate(&old).await.status, 401);
    within(SOON, "the old key is gone there too", async || kids(&two) == [new]).await;
    within(SOON, "it is refused there", async || two.validate(&old).await.status == 401).await;
    // Clients go on with what else they have.
    let body = serde_json::json!({"refresh_token": refresh_token, "identifier": U}).to_string();
    let answer = two.post("/refresh", body).await.json();
    let jwt = answer["jwt"].as_str().unwrap();
    assert_eq!(header(jwt)["kid"], new);
    assert_eq!(one.validate(jwt).await.status, 200);
    let log = one.log().join("\n");
    assert!(log.contains("key_revoked"), "{log}");
    // What ends the tunnels that were opened with its tokens.
    for daemon in [&one, &two] {
        within(SOON, "its tokens are revoked", async || {
            let file = std::fs::read(daemon.path("public/revoked.json")).unwrap();
            let file: Value = serde_json::from_slice(&file).unwrap();
            file["kid"].get(dropped.as_str().unwrap()).is_some()
        })
        .await;
    }
}

#[tokio::test]
async fn private_keys_in_the_database_are_encrypted_and_those_of_a_folder_move_there() {
    let site = Site::new();
    // A single daemon with its folder, which says that it does not share.
    let mut alone = Daemon::start(site.options()).await;
    alone.wait_for(|line| line["event"] == "signing_keys_local").await;
    let (jwt, _) = alone.tokens("K", U).await;
    let private = String::from_utf8(alone.signing_key()).unwrap();
    let root = alone.stop().await;
    let sharing = Daemon::start_in(root, site.sharing()).await;
    let other = Daemon::start(site.sharing()).await;
    assert_eq!(sharing.validate(&jwt).await.status, 200);
    assert_eq!(other.validate(&jwt).await.status, 200, "the other has the key from the database");
    assert_eq!(kids(&other), [header(&jwt)["kid"].as_str().unwrap()]);
    let dump = String::from_utf8(site.database.dump()).unwrap();
    let secret = private.lines().nth(1).unwrap();
    for text in ["PRIVATE KEY", secret] {
        assert!(!dump.contains(text), "the private key is in the database");
    }
    // Neither with another key nor with a careless file.
    let wrong = site.encryption_key("wrong", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    let open = site.encryption_key("open", "3q2+796tvu/erb7v3q2+796tvu/erb7v3q2+796tvu8=");
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).unwrap();
    let short = site.encryption_key("short", "3q2+7w==");
    for (file, expected) in [
        (wrong, "has another [keys] encryption_key_file"),
        (open, "other users can read it (mode 0644)"),
        (short, "expected 32 bytes in base64"),
        (site.folder.path().join("missing"), "openssl rand -base64 32"),
    ] {
        let root = tempfile::tempdir().unwrap();
        let options = site
            .options()
            .variable("JWTUNNEL_KEYS_ENCRYPTION_KEY_FILE", &file.display().to_string());
        let output = command(root.path(), &options).output().unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{log}");
        assert!(log.contains(expected), "{log}");
        assert!(!root.path().join("public/jwks.json").exists(), "nothing is published");
    }
}

/// Scheduled rotation under load: tokens of each daemon against the file of the other.
#[tokio::test]
async fn f9_scheduled_rotation_gives_no_false_refusal() {
    let site = Site::new();
    let options = || {
        site.sharing()
            .variable("JWTUNNEL_KEYS_ROTATE_EVERY", "4s")
            .variable("JWTUNNEL_KEYS_ANNOUNCE_FOR", "2s")
    };
    let (one, two) = (Daemon::start(options()).await, Daemon::start(options()).await);
    one.register("K", U).await;
    let mut seen = std::collections::BTreeSet::new();
    let started = Instant::now();
    let mut tokens: Vec<String> = Vec::new();
    while seen.len() < 4 {
        assert!(started.elapsed() < PATIENCE, "the schedule stands still: {seen:?}");
        for (here, there) in [(&one, &two), (&two, &one)] {
            let (jwt, _) = here.authenticate("K", U).await;
            let kid = header(&jwt)["kid"].as_str().unwrap().to_owned();
            assert!(kids(there).contains(&kid), "the other daemon's nginx does not know the key");
            assert_eq!(there.validate(&jwt).await.status, 200);
            if seen.insert(kid) {
                tokens.push(jwt);
            }
        }
    }
    for token in &tokens {
        assert_eq!(one.validate(token).await.status, 200, "a key left before its tokens");
        assert_eq!(two.validate(token).await.status, 200);
    }
    // Once for both, not once each.
    let keys = kids(&one).len() as u64;
    assert!(keys <= started.elapsed().as_secs() / 4 + 2, "{keys} in {:?}", started.elapsed());
}

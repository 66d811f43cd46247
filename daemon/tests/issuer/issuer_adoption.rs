//! A database that the original service has made, and goes on using, under ours: jw:T39 (PostgreSQL),
//! jw:T40 (SQLite), jw:T44 (`jwtunnel db harden`). The original runs from PyPI, unmodified.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::issuer_harness::original::Original;
use crate::issuer_harness::postgres::Database;
use crate::issuer_harness::{Daemon, Options, claims, jwtunnel};
use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Row as _};
use uuid::Uuid;

const U: Uuid = Uuid::from_u128(0x7d2b_0d0c_8d7e_4a51_9f0c_3f1f_8f3f_4f11);
const V: Uuid = Uuid::from_u128(0x0101_0101_0101_0101_0101_0101_0101_0101);

/// What the original sees of its tables.
const KEYS: &str = "SELECT id || ' ' || key_hash || ' ' || identifier || ' ' || created || ' ' || \
                    expires_at FROM keys ORDER BY id";
const TOKENS: &str = "SELECT id || ' ' || token || ' ' || key_id || ' ' || created || ' ' || \
                      expires_at FROM refresh_tokens ORDER BY id";

/// The database that both services use.
enum Shared {
    Sqlite(std::path::PathBuf),
    Postgres(Database),
}

impl Shared {
    /// The original's variables for it.
    fn variables(&self) -> BTreeMap<String, String> {
        let pairs = match self {
            Self::Sqlite(path) => vec![
                ("DB_URI", format!("sqlite:///{}", path.display())),
                ("ASYNC_URI", format!("sqlite+aiosqlite:///{}", path.display())),
            ],
            Self::Postgres(database) => vec![
                ("DB_HOST", format!("127.0.0.1:{}", database.server.port)),
                ("DB_PASS", crate::issuer_harness::postgres::PASSWORD.into()),
                ("DB_NAME", database.name.clone()),
            ],
        };
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    async fn rows(&self, query: &'static str) -> Vec<String> {
        match self {
            Self::Sqlite(path) => {
                let options = SqliteConnectOptions::new().filename(path).read_only(true);
                let mut connection = options.connect().await.unwrap();
                let rows = sqlx::query(query).fetch_all(&mut connection).await.unwrap();
                rows.iter().map(|row| row.get(0)).collect()
            }
            Self::Postgres(database) => database.psql(query).lines().map(Into::into).collect(),
        }
    }

    /// All that an attacker with a copy has.
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Sqlite(path) => ["", "-wal", "-shm"]
                .iter()
                .filter_map(|end| fs::read(format!("{}{end}", path.display())).ok())
                .flatten()
                .collect(),
            Self::Postgres(database) => database.dump(),
        }
    }
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

async fn refresh(daemon: &Daemon, token: &str, identifier: Uuid) -> Value {
    let body = json!({"refresh_token": token, "identifier": identifier}).to_string();
    let answer = daemon.post("/refresh", body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    claims(answer.json()["jwt"].as_str().unwrap())
}

#[tokio::test]
async fn t40_t44_an_sqlite_database_of_the_original_is_adopted_shared_and_hardened() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("original.db");
    adopt_share_and_harden(root, Shared::Sqlite(path.clone())).await;
}

#[tokio::test]
async fn t39_t44_a_postgresql_database_of_the_original_is_adopted_shared_and_hardened() {
    let shared = Shared::Postgres(Database::create());
    adopt_share_and_harden(tempfile::tempdir().unwrap(), shared).await;
}

async fn adopt_share_and_harden(root: tempfile::TempDir, shared: Shared) {
    let folder = root.path().to_owned();
    let (public, private) = (folder.join("rsa.pub"), folder.join("rsa.pem"));
    let mut variables = shared.variables();
    variables.insert("RSA_PUBLIC_KEY_PATH".into(), public.display().to_string());
    variables.insert("RSA_PRIVATE_KEY_PATH".into(), private.display().to_string());
    let original = Original::start(&folder, &variables).await;
    let registered = original.post("/register_key", json!({"key": "K1", "identifier": U})).await;
    assert_eq!(registered.status, 201, "{}", registered.text);
    let (old_jwt, old_refresh) = original.authenticate("K1", U).await;
    let (keys, tokens) = (shared.rows(KEYS).await, shared.rows(TOKENS).await);
    assert_eq!((keys.len(), tokens.len()), (1, 1));
    // The original makes it 0644, and we refuse a private key that others can read.
    fs::set_permissions(&private, Permissions::from_mode(0o600)).unwrap();

    // Ours starts with the original's variables and nothing else.
    let options = || Options {
        no_listeners: true,
        issuer: "# database_url and listen are left to the variables\n".into(),
        environment: variables.clone(),
        ..Options::default()
    };
    let options = || options().variable("PORT", "0");
    let mut daemon = Daemon::start_in(root, options()).await;
    daemon.wait_for(|line| line["event"] == "database_adopted").await;
    let warning = daemon.wait_for(|line| line["event"] == "compat_plaintext").await;
    assert!(warning["reason"].as_str().unwrap().contains("jwtunnel db harden"), "{warning}");
    assert_eq!((&shared.rows(KEYS).await, &shared.rows(TOKENS).await), (&keys, &tokens));
    if let Shared::Sqlite(path) = &shared {
        let copy = format!("{}.before-adoption", path.display());
        assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(holds(&fs::read(&copy).unwrap(), &old_refresh));
    }

    // Its credentials are good here, and mean what they meant there: any identifier is asserted.
    assert_eq!(daemon.validate(&old_jwt).await.status, 200);
    for identifier in [U, V] {
        assert_eq!(
            refresh(&daemon, &old_refresh, identifier).await["identifier"],
            json!(identifier)
        );
        let (jwt, refresh_token) = daemon.authenticate("K1", identifier).await;
        assert_eq!(claims(&jwt)["identifier"], json!(identifier));
        // And what we issue for its keys is good there.
        assert_eq!(original.refresh_status(&refresh_token, identifier).await, 200);
        assert_eq!(original.post("/validate", json!({"jwt": jwt})).await.status, 200);
    }
    // Our own credentials are good there too.
    let (new_jwt, new_refresh) = daemon.tokens("K2", U).await;
    assert_eq!(original.post("/validate", json!({"jwt": new_jwt})).await.status, 200);
    assert_eq!(original.refresh_status(&new_refresh, U).await, 200);
    let (their_jwt, their_refresh) = original.authenticate("K2", U).await;
    assert_eq!(daemon.validate(&their_jwt).await.status, 200);
    assert_eq!(refresh(&daemon, &their_refresh, U).await["identifier"], json!(U));
    // A key of ours stands for its identifier alone.
    assert_eq!(claims(&daemon.authenticate("K2", V).await.0)["identifier"], json!(U));
    // Nothing of it is deleted here that the original may need.
    let server = format!("http://{}", daemon.internal);
    let prune = ["keys", "prune", "--older-than", "0s", "--revoked", "--yes", "--server", &server];
    let (code, out, err) = jwtunnel(&prune, "");
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("keys prune --shared") && err.contains("db harden"), "{err}");
    // Registering an old key again extends it, and leaves the rest as it was.
    daemon.register("K1", V).await;
    let again = shared.rows(KEYS).await;
    assert_eq!(
        again[0].split(' ').take(3).collect::<Vec<_>>(),
        keys[0].split(' ').take(3).collect::<Vec<_>>()
    );
    assert_eq!(claims(&daemon.authenticate("K1", V).await.0)["identifier"], json!(V));
    assert_eq!(shared.rows(TOKENS).await[0], tokens[0]);
    if let Shared::Sqlite(_) = &shared {
        for row in again.iter().chain(&shared.rows(TOKENS).await) {
            let expires = &row[row.len() - 26..];
            let digits = |b: u8| b.is_ascii_digit();
            assert!(expires.bytes().filter(|b| digits(*b)).count() == 20, "{row}");
            assert!(expires.as_bytes()[19] == b'.' && expires.as_bytes()[10] == b' ', "{row}");
        }
    }

    // A restart finds a database of ours, shared as before.
    let mut daemon = Daemon::start_in(daemon.stop().await, options()).await;
    daemon.wait_for(|line| line["event"] == "compat_plaintext").await;
    assert!(!daemon.events().iter().any(|line| line["event"] == "database_adopted"));

    // Hardening, while both run.
    let copy = folder.join("copy").display().to_string();
    let url = match &shared {
        Shared::Sqlite(path) => format!("sqlite://{}", path.display()),
        Shared::Postgres(database) => database.url(),
    };
    let arguments = ["db", "harden", "--json", "--database-url", &url, "--copy", &copy];
    let (code, out, err) = jwtunnel(&arguments, "");
    assert_eq!(code, 0, "{err}");
    let done: Value = serde_json::from_str(&out).unwrap();
    assert!(done["hashed"].as_u64().unwrap() >= 5, "{done}");
    assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(holds(&fs::read(&copy).unwrap(), &old_refresh), "the copy has what was replaced");
    for token in [&old_refresh, &new_refresh, &their_refresh] {
        assert!(!holds(&shared.bytes(), token), "no clear token is left");
        refresh(&daemon, token, U).await;
        refresh(&daemon, token, U).await;
        assert_eq!(original.refresh_status(token, U).await, 401, "that is what hardening means");
    }
    assert!(shared.rows(TOKENS).await.iter().all(|row| row.contains(" h1$")));
    let (_, hashed_refresh) = daemon.authenticate("K1", U).await;
    assert!(!holds(&shared.bytes(), &hashed_refresh), "new tokens are hashed at once");
    refresh(&daemon, &hashed_refresh, U).await;
    // Keys are unaffected, and a second time there is nothing to do.
    original.authenticate("K1", U).await;
    let daemon = Daemon::start_in(daemon.stop().await, options()).await;
    assert!(!daemon.events().iter().any(|line| line["event"] == "compat_plaintext"));
    refresh(&daemon, &old_refresh, U).await;
    drop(original);
    let arguments = ["db", "harden", "--database-url", &url, "--copy", &format!("{copy}2")];
    let (code, out, err) = jwtunnel(&arguments, "");
    assert_eq!(
        (code, out.lines().next().map(|line| line.starts_with("1 refresh"))),
        (0, Some(true)),
        "{err}"
    );
    let (code, out, err) = jwtunnel(&arguments, "");
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("already"), "{out}");
    assert!(!Path::new("refresh_tokens.before-harden").exists());
}

/// An empty database that says "already" would be believed.
#[test]
fn harden_makes_no_database() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("typo/jwt.db");
    let url = format!("sqlite://{}", path.display());
    let (code, out, err) = jwtunnel(&["db", "harden", "--database-url", &url], "");
    assert_eq!((code, out.as_str()), (1, ""));
    for part in [path.to_str().unwrap(), "No such file", "--database-url"] {
        assert!(err.contains(part), "{err}");
    }
    assert!(!folder.path().join("typo").exists());
}

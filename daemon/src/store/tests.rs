//! The database as other programs and later starts find it.

use std::time::UNIX_EPOCH;

use uuid::Uuid;

use super::*;

const QUEUE: usize = 256;

fn at(seconds: u64) -> std::time::SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

async fn text(path: &Path, query: &'static str) -> String {
    let options = SqliteConnectOptions::new().filename(path);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query_scalar(query).fetch_one(&mut connection).await.unwrap()
}

#[tokio::test]
async fn t6_registering_again_extends_and_keeps_the_first_identifier() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(&root.path().join("t.db"), QUEUE).await.unwrap();
    let (hash, first, second) = (KeyHash::of("k"), Uuid::new_v4(), Uuid::new_v4());
    assert!(store.find_key(&hash).await.unwrap().is_none());
    for (identifier, expires, then) in [(first, 100, 100), (second, 200, 200), (second, 150, 200)] {
        let done = store.register_key(&hash, identifier, at(1), at(expires)).await.unwrap();
        assert_eq!(done.identifier, first);
        let key = store.find_key(&hash).await.unwrap().unwrap();
        assert_eq!((key.identifier, key.expires_at), (first, at(then)));
        assert!(!key.asserted && key.public_id.is_some());
    }
}

#[tokio::test]
async fn i9_simultaneous_registrations_all_succeed_and_make_one_row() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("t.db");
    let store = Store::open(&path, QUEUE).await.unwrap();
    let hash = KeyHash::of("k");
    let tasks: Vec<_> = (0..100)
        .map(|_| {
            let (store, hash) = (store.clone(), hash.clone());
            tokio::spawn(async move {
                store.register_key(&hash, Uuid::new_v4(), at(1), at(2)).await.unwrap().identifier
            })
        })
        .collect();
    let mut winners = std::collections::BTreeSet::new();
    for task in tasks {
        winners.insert(task.await.unwrap());
    }
    assert_eq!(winners.len(), 1);
    assert_eq!(text(&path, "SELECT CAST(count(*) AS TEXT) FROM keys").await, "1");
}

#[tokio::test]
async fn t40_rows_have_the_originals_text_forms() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("t.db");
    let store = Store::open(&path, QUEUE).await.unwrap();
    let hash = KeyHash::of("k");
    let identifier = Uuid::from_u128(0xABCD);
    store.register_key(&hash, identifier, at(1), at(1_700_000_000)).await.unwrap();
    let key = store.find_key(&hash).await.unwrap().unwrap();
    store.insert_refresh_token(&RefreshDigest::of("t"), key.id, at(1), at(2)).await.unwrap();
    assert_eq!(
        text(&path, "SELECT identifier || ' ' || created || ' ' || expires_at FROM keys").await,
        "0000000000000000000000000000abcd 1970-01-01 00:00:01.000000 2023-11-14 22:13:20.000000"
    );
    assert_eq!(
        text(&path, "SELECT created || ' ' || expires_at FROM refresh_tokens").await,
        "1970-01-01 00:00:01.000000 1970-01-01 00:00:02.000000"
    );
}

#[tokio::test]
async fn i1_no_secret_is_in_the_files() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("t.db");
    let store = Store::open(&path, QUEUE).await.unwrap();
    let (key, token) = ("canary-key-7f3a", "canary-token-9b1c");
    let hash = KeyHash::of(key);
    store.register_key(&hash, Uuid::new_v4(), at(1), at(2)).await.unwrap();
    let id = store.find_key(&hash).await.unwrap().unwrap().id;
    store.insert_refresh_token(&RefreshDigest::of(token), id, at(1), at(2)).await.unwrap();
    assert!(store.find_refresh_token(&RefreshDigest::of(token)).await.unwrap().is_some());
    assert!(store.find_refresh_token(&RefreshDigest::of("x")).await.unwrap().is_none());
    let mut files = 0;
    for entry in fs::read_dir(root.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let bytes = fs::read(entry.path()).unwrap();
        for secret in [key, token] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()));
        }
        files += 1;
    }
    assert!(files >= 2, "the write-ahead log is looked at too");
}

#[tokio::test]
async fn what_was_written_is_there_after_reopening() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("deep/er/t.db");
    let hash = KeyHash::of("k");
    let store = Store::open(&path, QUEUE).await.unwrap();
    store.register_key(&hash, Uuid::new_v4(), at(1), at(2)).await.unwrap();
    drop(store);
    let store = Store::open(&path, QUEUE).await.unwrap();
    assert!(store.find_key(&hash).await.unwrap().is_some());
}

#[tokio::test]
async fn f13_a_foreign_newer_or_damaged_file_is_refused_and_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let foreign = root.path().join("foreign.db");
    let options = SqliteConnectOptions::new().filename(&foreign).create_if_missing(true);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query("CREATE TABLE keys (id INTEGER PRIMARY KEY)")
        .execute(&mut connection)
        .await
        .unwrap();
    drop(connection);
    let error = Store::open(&foreign, QUEUE).await.unwrap_err();
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");

    let newer = root.path().join("newer.db");
    drop(Store::open(&newer, QUEUE).await.unwrap());
    let options = SqliteConnectOptions::new().filename(&newer);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'later', 1, x'00', 0)",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    drop(connection);
    let error = Store::open(&newer, QUEUE).await.unwrap_err();
    assert!(matches!(error, OpenError::Schema { .. }), "{error}");

    let damaged = root.path().join("damaged.db");
    fs::write(&damaged, "this is not a database, but longer than its header ".repeat(40)).unwrap();
    let before = fs::read(&damaged).unwrap();
    let error = Store::open(&damaged, QUEUE).await.unwrap_err();
    assert!(matches!(error, OpenError::Sqlite { .. }), "{error}");
    assert_eq!(fs::read(&damaged).unwrap(), before);
}

#[tokio::test]
async fn f11_a_locked_database_fails_after_its_timeout_and_recovers() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("t.db");
    let store = Store::open(&path, QUEUE).await.unwrap();
    let hash = KeyHash::of("k");
    let options = SqliteConnectOptions::new().filename(&path);
    let mut other = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query("BEGIN EXCLUSIVE").execute(&mut other).await.unwrap();
    let started = std::time::Instant::now();
    let result = store.register_key(&hash, Uuid::new_v4(), at(1), at(2)).await;
    assert!(matches!(result, Err(StoreError::Write)));
    assert!(started.elapsed() >= Duration::from_secs(4), "it waited for the lock");
    // Reading goes on meanwhile.
    assert!(store.find_key(&hash).await.unwrap().is_none());
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    store.register_key(&hash, Uuid::new_v4(), at(1), at(2)).await.unwrap();
}

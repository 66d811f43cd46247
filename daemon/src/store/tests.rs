//! The database as other programs and later starts find it, on both engines.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection as _, SqliteConnection};
use uuid::Uuid;

use super::*;

#[path = "../../tests/issuer/issuer_harness/postgres.rs"]
mod server;

const QUEUE: usize = 256;

/// A refresh token of the form that is given out.
const TOKEN: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\
                     0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn file(path: &Path) -> DatabaseUrl {
    DatabaseUrl::Sqlite(path.into())
}

/// An empty database of an engine.
enum Place {
    Sqlite(tempfile::TempDir),
    Postgres(server::Database),
}

impl Place {
    fn sqlite() -> Self {
        Self::Sqlite(tempfile::tempdir().unwrap())
    }

    fn postgres() -> Self {
        Self::Postgres(server::Database::create())
    }

    fn url(&self) -> DatabaseUrl {
        match self {
            Self::Sqlite(root) => file(&root.path().join("t.db")),
            Self::Postgres(database) => crate::config::parse_database_url(&database.url()).unwrap(),
        }
    }

    async fn open(&self) -> Store {
        Store::open(&self.url(), QUEUE).await.unwrap()
    }

    /// The one value that a query gives, as text.
    async fn text(&self, query: &'static str) -> String {
        match self {
            Self::Sqlite(root) => text(&root.path().join("t.db"), query).await,
            Self::Postgres(database) => database.psql(query),
        }
    }

    /// All that an attacker with a copy has.
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Sqlite(root) => {
                let files: Vec<_> =
                    fs::read_dir(root.path()).unwrap().map(Result::unwrap).collect();
                assert!(files.len() >= 2, "the write-ahead log is looked at too");
                for file in &files {
                    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
                }
                files.iter().flat_map(|file| fs::read(file.path()).unwrap()).collect()
            }
            Self::Postgres(database) => database.dump(),
        }
    }
}

async fn text(path: &Path, query: &'static str) -> String {
    let options = SqliteConnectOptions::new().filename(path);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query_scalar(query).fetch_one(&mut connection).await.unwrap()
}

/// Makes each function a test of both engines.
macro_rules! on_both_engines {
    ($($name:ident),+ $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test] async fn $name() { super::$name(super::Place::sqlite()).await })+
        }
        mod on_postgres {
            $(#[tokio::test] async fn $name() { super::$name(super::Place::postgres()).await })+
        }
    };
}

mod key_batch;
mod together;

on_both_engines! {
    t6_registering_again_extends_and_keeps_the_first_identifier,
    i9_simultaneous_registrations_all_succeed_and_make_one_row,
    t40_rows_have_the_originals_forms,
    i1_no_secret_is_in_the_database,
    a_digest_from_a_copy_is_no_refresh_token,
    what_was_written_is_there_after_reopening,
    i5_families_behave_as_their_model,
    i6_uses_at_the_same_time_leave_one_successor,
    revocations_are_never_taken_back_and_go_when_they_are_over,
    i18_expired_refresh_tokens_go_in_small_steps,
    keys_are_listed_page_by_page,
    f13_a_newer_schema_is_refused,
    f13_tables_of_another_program_are_refused,
}

async fn t6_registering_again_extends_and_keeps_the_first_identifier(place: Place) {
    let store = place.open().await;
    let (hash, first, second) = (KeyHash::of("k"), Uuid::new_v4(), Uuid::new_v4());
    assert!(store.find_key(&hash).await.unwrap().is_none());
    for (identifier, expires, then) in [(first, 100, 100), (second, 200, 200), (second, 150, 200)] {
        let done = store.register_key(&hash, identifier, false, at(1), at(expires)).await.unwrap();
        assert_eq!(done.identifier, first);
        let key = store.find_key(&hash).await.unwrap().unwrap();
        assert_eq!((key.identifier, key.expires_at), (first, at(then)));
        assert!(!key.asserted && key.public_id.is_some());
    }
}

async fn i9_simultaneous_registrations_all_succeed_and_make_one_row(place: Place) {
    let store = place.open().await;
    let hash = KeyHash::of("k");
    let tasks: Vec<_> = (0..100)
        .map(|_| {
            let (store, hash) = (store.clone(), hash.clone());
            tokio::spawn(async move {
                store
                    .register_key(&hash, Uuid::new_v4(), false, at(1), at(2))
                    .await
                    .unwrap()
                    .identifier
            })
        })
        .collect();
    let mut winners = std::collections::BTreeSet::new();
    for task in tasks {
        winners.insert(task.await.unwrap());
    }
    assert_eq!(winners.len(), 1);
    assert_eq!(place.text("SELECT CAST(count(*) AS TEXT) FROM keys").await, "1");
}

async fn t40_rows_have_the_originals_forms(place: Place) {
    let store = place.open().await;
    let hash = KeyHash::of("k");
    let identifier = Uuid::from_u128(0xABCD);
    let expires = at(1_700_000_000) + Duration::from_micros(1_234);
    store.register_key(&hash, identifier, false, at(1), expires).await.unwrap();
    let key = store.find_key(&hash).await.unwrap().unwrap();
    assert_eq!(key.expires_at, expires);
    store
        .insert_refresh_token(&RefreshToken::of(TOKEN), &key, Uuid::nil(), at(1), at(2))
        .await
        .unwrap();
    let row =
        place.text("SELECT identifier || ' ' || created || ' ' || expires_at FROM keys").await;
    let token = place.text("SELECT created || ' ' || expires_at FROM refresh_tokens").await;
    match place {
        Place::Sqlite(_) => {
            assert_eq!(
                row,
                "0000000000000000000000000000abcd 1970-01-01 00:00:01.000000 \
                 2023-11-14 22:13:20.001234"
            );
            assert_eq!(token, "1970-01-01 00:00:01.000000 1970-01-01 00:00:02.000000");
        }
        Place::Postgres(_) => {
            assert_eq!(
                row,
                "00000000-0000-0000-0000-00000000abcd 1970-01-01 00:00:01 \
                 2023-11-14 22:13:20.001234"
            );
            assert_eq!(token, "1970-01-01 00:00:01 1970-01-01 00:00:02");
        }
    }
}

async fn i1_no_secret_is_in_the_database(place: Place) {
    let store = place.open().await;
    assert_eq!(store.token_form().await.unwrap(), TokenForm::Hashed);
    let secret_key = "canary-key-7f3a";
    let hash = KeyHash::of(secret_key);
    store.register_key(&hash, Uuid::new_v4(), false, at(1), at(2)).await.unwrap();
    let key = store.find_key(&hash).await.unwrap().unwrap();
    store
        .insert_refresh_token(&RefreshToken::of(TOKEN), &key, Uuid::nil(), at(1), at(2))
        .await
        .unwrap();
    let found = store.find_refresh_token(&RefreshToken::of(TOKEN)).await.unwrap().unwrap();
    assert_eq!((found.key.id, found.expires_at), (key.id, at(2)));
    for other in ["x", "", "with\0nul", &TOKEN.to_uppercase(), &TOKEN[1..]] {
        assert!(store.find_refresh_token(&RefreshToken::of(other)).await.unwrap().is_none());
    }
    let bytes = place.bytes();
    for secret in [secret_key, TOKEN] {
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()));
    }
}

async fn a_digest_from_a_copy_is_no_refresh_token(place: Place) {
    let store = place.open().await;
    let hash = KeyHash::of("k");
    store.register_key(&hash, Uuid::new_v4(), false, at(1), at(2)).await.unwrap();
    let key = store.find_key(&hash).await.unwrap().unwrap();
    store
        .insert_refresh_token(&RefreshToken::of(TOKEN), &key, Uuid::nil(), at(1), at(2))
        .await
        .unwrap();
    let stored = place.text("SELECT token FROM refresh_tokens").await;
    assert!(stored.starts_with("h1$"), "{stored}");
    assert!(store.find_refresh_token(&RefreshToken::of(&stored)).await.unwrap().is_none());
}

async fn what_was_written_is_there_after_reopening(place: Place) {
    let hash = KeyHash::of("k");
    let store = place.open().await;
    store.register_key(&hash, Uuid::new_v4(), false, at(1), at(2)).await.unwrap();
    drop(store);
    let store = place.open().await;
    assert!(store.find_key(&hash).await.unwrap().is_some());
    assert!(!store.was_adopted());
}

/// A token of a family as the requirement describes it.
#[derive(Clone)]
struct Member {
    text: String,
    parent: Option<usize>,
    used_at: Option<u64>,
    dead: bool,
}

/// What using `index` at `now` must lead to; changes the model.
fn use_model(members: &mut [Member], index: usize, now: u64) -> Used {
    if members[index].dead {
        return Used::Refused;
    }
    let children: Vec<usize> =
        (0..members.len()).filter(|i| members[*i].parent == Some(index)).collect();
    if let Some(used_at) = members[index].used_at {
        let succeeded = children.iter().any(|i| members[*i].used_at.is_some());
        if now > used_at + 10 || succeeded {
            members.iter_mut().for_each(|member| member.dead = true);
            return Used::Reused;
        }
    }
    for child in children {
        members[child].dead = true;
    }
    members[index].used_at.get_or_insert(now);
    Used::Rotated
}

fn token_text(number: u64) -> String {
    format!("{number:0128x}")
}

fn use_of(token: &str, successor: &str, access_id: Uuid, now: u64) -> Use {
    Use {
        token: RefreshToken::of(token),
        successor: RefreshToken::of(successor),
        access_id,
        now: at(now),
        oldest: at(0),
        until: 1_000_000,
    }
}

async fn rotating_key(store: &Store) -> StoredKey {
    let hash = KeyHash::of("k");
    store.register_key(&hash, Uuid::new_v4(), true, at(1), at(2)).await.unwrap();
    // Rotation is never taken back by a registration that does not ask for it.
    store.register_key(&hash, Uuid::new_v4(), false, at(1), at(2)).await.unwrap();
    let key = store.find_key(&hash).await.unwrap().unwrap();
    assert!(key.rotates);
    key
}

async fn i5_families_behave_as_their_model(place: Place) {
    let store = place.open().await;
    let key = rotating_key(&store).await;
    // Reproducible, and different in each family.
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let (mut next, mut seen) = (0, [0; 3]);
    for family in 0..40_u64 {
        let mut now = 1_000 * (family + 1);
        let end = now + 500;
        let text = token_text(next);
        next += 1;
        let access = Uuid::new_v4();
        let token = RefreshToken::of(&text);
        store.insert_refresh_token(&token, &key, access, at(now), at(end)).await.unwrap();
        let mut members = vec![Member { text, parent: None, used_at: None, dead: false }];
        let mut issued = vec![access];
        for _ in 0..12 {
            now += [0, 1, 5, 11][random(4) as usize];
            // Mostly the newest, sometimes any: a retry, a lost answer, a thief.
            let newest = members.len() as u64 - 1;
            let index = if random(3) == 0 { random(newest + 1) } else { newest } as usize;
            let (successor, access) = (token_text(next), Uuid::new_v4());
            next += 1;
            let expected = use_model(&mut members, index, now);
            let change = use_of(&members[index].text, &successor, access, now);
            let used = store.use_refresh_token(change).await.unwrap();
            assert_eq!(used, expected, "family {family}, member {index} at {now}");
            seen[used as usize] += 1;
            if used == Used::Rotated {
                let parent = Some(index);
                members.push(Member { text: successor, parent, used_at: None, dead: false });
                issued.push(access);
            }
            for member in &members {
                let found =
                    store.find_refresh_token(&RefreshToken::of(&member.text)).await.unwrap();
                let found = found.unwrap();
                assert_eq!(found.revoked, member.dead);
                assert_eq!(found.expires_at, at(end), "the end of a family is never extended");
            }
            let live = members.iter().filter(|m| !m.dead && m.used_at.is_none()).count();
            assert!(live <= 1, "two live tokens");
        }
        let revoked = store.revocations().await.unwrap();
        let is_revoked = |id: &Uuid| revoked.iter().any(|row| row.value == id.to_string());
        let ended = members.iter().all(|member| member.dead);
        assert!(issued.iter().all(|id| is_revoked(id) == ended), "the family's access tokens");
        let newest = &members.last().unwrap().text;
        let late = store.use_refresh_token(use_of(newest, &token_text(next), access, end)).await;
        assert_eq!(late.unwrap(), Used::Refused, "expired");
    }
    assert!(seen.iter().all(|count| *count >= 10), "each outcome was seen: {seen:?}");
}

async fn i6_uses_at_the_same_time_leave_one_successor(place: Place) {
    // Two daemons, if the engine lets them share.
    let stores = match place {
        Place::Sqlite(_) => vec![place.open().await],
        Place::Postgres(_) => vec![place.open().await, place.open().await],
    };
    let key = rotating_key(&stores[0]).await;
    for round in 0..10_u64 {
        let first = token_text(round * 1_000);
        let token = RefreshToken::of(&first);
        stores[0].insert_refresh_token(&token, &key, Uuid::nil(), at(5), at(99)).await.unwrap();
        let uses = (1..=100_u64).map(|n| {
            let change = use_of(&first, &token_text(round * 1_000 + n), Uuid::new_v4(), 10);
            let store = stores[n as usize % stores.len()].clone();
            async move { store.use_refresh_token(change).await }
        });
        let used = futures_util::future::join_all(uses).await;
        for used in used {
            assert_eq!(used.unwrap(), Used::Rotated, "all within the time for retries");
        }
        let live = place
            .text(
                "SELECT CAST(count(*) AS TEXT) FROM refresh_tokens \
                 WHERE used_at IS NULL AND revoked_at IS NULL",
            )
            .await;
        assert_eq!(live, (round + 1).to_string(), "one for each family");
    }
}

async fn revocations_are_never_taken_back_and_go_when_they_are_over(place: Place) {
    let store = place.open().await;
    let row = |kind: &str, before, until| RevocationRow {
        kind: kind.into(),
        value: "v".into(),
        before,
        until,
    };
    for (before, until) in [(Some(5), 50), (Some(9), 90), (Some(7), 70)] {
        store.revoke(row("identifier", before, until)).await.unwrap();
    }
    store.revoke(row("kid", None, 60)).await.unwrap();
    assert!(!store.prune_revocations(60).await.unwrap());
    let mut rows = store.revocations().await.unwrap();
    rows.sort_by(|a, b| a.kind.cmp(&b.kind));
    assert_eq!(rows, [row("identifier", Some(9), 90), row("kid", None, 60)]);
    assert!(store.prune_revocations(61).await.unwrap());
    assert_eq!(store.revocations().await.unwrap(), [row("identifier", Some(9), 90)]);
    // A revoked key stays revoked, whatever is registered later.
    let hash = KeyHash::of("k");
    store.register_key(&hash, Uuid::new_v4(), false, at(1), at(9)).await.unwrap();
    let selector = KeySelector::Hash(hash.clone());
    let keys = store.revoke_keys(selector.clone(), at(2), |_| Vec::new()).await.unwrap();
    assert_eq!((keys.len(), keys[0].fingerprint.as_str()), (1, hash.fingerprint()));
    assert!(store.register_key(&hash, Uuid::new_v4(), false, at(3), at(99)).await.unwrap().revoked);
    let key = store.find_key(&hash).await.unwrap().unwrap();
    assert_eq!((key.revoked, key.expires_at), (true, at(2)));
}

async fn i18_expired_refresh_tokens_go_in_small_steps(place: Place) {
    let store = place.open().await;
    let hash = KeyHash::of("k");
    store.register_key(&hash, Uuid::new_v4(), false, at(1), at(2)).await.unwrap();
    let key = store.find_key(&hash).await.unwrap().unwrap();
    let insert = |n: u64| {
        let (store, key) = (store.clone(), key.clone());
        async move {
            let token = RefreshToken::of(&token_text(n));
            store.insert_refresh_token(&token, &key, Uuid::nil(), at(1), at(n)).await.unwrap();
        }
    };
    for chunk in (1..=601_u64).collect::<Vec<_>>().chunks(100) {
        futures_util::future::join_all(chunk.iter().map(|n| insert(*n))).await;
    }
    const COUNT: &str = "SELECT CAST(count(*) AS TEXT) FROM refresh_tokens";
    assert!(store.delete_expired_refresh_tokens(at(601)).await.unwrap());
    assert_eq!(place.text(COUNT).await, "101");
    assert!(!store.delete_expired_refresh_tokens(at(601)).await.unwrap());
    assert_eq!(place.text(COUNT).await, "1", "the one that expires then");
    assert!(store.find_refresh_token(&RefreshToken::of(&token_text(601))).await.unwrap().is_some());
    // Where a JWThenticator uses the database, it is left alone.
    let sql = "UPDATE jwtunnel_settings SET value = 'clear' RETURNING value";
    assert_eq!(place.text(sql).await, "clear");
    store.delete_expired_refresh_tokens(at(9_999)).await.unwrap();
    assert_eq!(place.text(COUNT).await, "1");
}

async fn keys_are_listed_page_by_page(place: Place) {
    let store = place.open().await;
    let (one, two) = (Uuid::new_v4(), Uuid::new_v4());
    for n in 0..5 {
        let identifier = if n % 2 == 0 { one } else { two };
        let hash = KeyHash::of(&format!("k{n}"));
        store.register_key(&hash, identifier, n == 4, at(1), at(2)).await.unwrap();
    }
    let page = |after, identifier| KeyPage { after, limit: 2, identifier };
    let first = store.list_keys(&page(0, None)).await.unwrap();
    let second = store.list_keys(&page(first[1].id, None)).await.unwrap();
    let third = store.list_keys(&page(second[1].id, None)).await.unwrap();
    assert_eq!((first.len(), second.len(), third.len()), (2, 2, 1));
    assert!(third[0].rotates && !first[0].rotates);
    let own = store.list_keys(&page(0, Some(two))).await.unwrap();
    assert!(own.len() == 2 && own.iter().all(|key| key.identifier == two));
    assert!(store.list_keys(&page(0, Some(Uuid::nil()))).await.unwrap().is_empty());
}

async fn f13_a_newer_schema_is_refused(place: Place) {
    drop(place.open().await);
    const NEWER: &str = "INSERT INTO _sqlx_migrations \
        (version, description, success, checksum, execution_time) \
        VALUES (9999, 'later', true, 'x', 0) RETURNING 'done'";
    assert_eq!(place.text(NEWER).await, "done");
    let error = Store::open(&place.url(), QUEUE).await.unwrap_err();
    assert!(matches!(error, OpenError::Schema { .. }), "{error}");
}

async fn f13_tables_of_another_program_are_refused(place: Place) {
    // The name is ours, the columns are not.
    let sql = "CREATE TABLE keys (id INTEGER PRIMARY KEY)";
    match &place {
        Place::Sqlite(root) => {
            let path = root.path().join("t.db");
            let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
            let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
            sqlx::query(sql).execute(&mut connection).await.unwrap();
        }
        Place::Postgres(database) => drop(database.psql(sql)),
    }
    let error = Store::open(&place.url(), QUEUE).await.unwrap_err();
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
    assert_eq!(place.text("SELECT CAST(count(*) AS TEXT) FROM keys").await, "0");
}

#[tokio::test]
async fn a_missing_postgresql_database_is_made_as_the_original_does() {
    let server = server::Server::shared();
    let database = server::Database { server, name: "made_at_start".into() };
    let url = crate::config::parse_database_url(&database.url()).unwrap();
    let stores = [Store::open(&url, QUEUE), Store::open(&url, QUEUE)];
    for store in futures_util::future::join_all(stores).await {
        assert!(store.unwrap().find_key(&KeyHash::of("k")).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn f12_a_postgresql_that_is_away_is_a_fault_in_time_and_the_pool_heals_by_itself() {
    let server = Arc::new(server::Server::start());
    let place = Place::Postgres(server::Database::on(server.clone()));
    let store = place.open().await;
    let hash = KeyHash::of("k");
    store.register_key(&hash, Uuid::new_v4(), false, at(1), at(2)).await.unwrap();
    server.stop();
    let started = Instant::now();
    store.hurried().find_key(&hash).await.unwrap_err();
    store.hurried().register_key(&hash, Uuid::new_v4(), false, at(1), at(2)).await.unwrap_err();
    assert!(
        started.elapsed() < Duration::from_secs(6),
        "two seconds each: {:?}",
        started.elapsed()
    );
    // A client that needs a token waits, and gets it if the server comes back meanwhile.
    let waiting = tokio::spawn({
        let (store, hash) = (store.clone(), hash.clone());
        async move { store.find_key(&hash).await }
    });
    tokio::task::spawn_blocking(move || server.resume()).await.unwrap();
    assert!(waiting.await.unwrap().unwrap().is_some());
    store.hurried().register_key(&hash, Uuid::new_v4(), false, at(1), at(3)).await.unwrap();
}

#[tokio::test]
async fn f13_a_damaged_file_or_one_with_other_tables_is_refused_and_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let foreign = root.path().join("foreign.db");
    let options = SqliteConnectOptions::new().filename(&foreign).create_if_missing(true);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query("CREATE TABLE music (id INTEGER)").execute(&mut connection).await.unwrap();
    drop(connection);
    let error = Store::open(&file(&foreign), QUEUE).await.unwrap_err();
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");

    let damaged = root.path().join("damaged.db");
    fs::write(&damaged, "this is not a database, but longer than its header ".repeat(40)).unwrap();
    let before = fs::read(&damaged).unwrap();
    let error = Store::open(&file(&damaged), QUEUE).await.unwrap_err();
    assert!(matches!(error, OpenError::Sqlite { .. }), "{error}");
    assert_eq!(fs::read(&damaged).unwrap(), before);
}

#[tokio::test]
async fn a_file_in_folders_that_are_missing_is_made_and_protected() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("deep/er/t.db");
    drop(Store::open(&file(&path), QUEUE).await.unwrap());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    drop(Store::open(&file(&path), QUEUE).await.unwrap());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn f11_a_locked_database_fails_after_its_timeout_and_recovers() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("t.db");
    let store = Store::open(&file(&path), QUEUE).await.unwrap();
    let hash = KeyHash::of("k");
    let options = SqliteConnectOptions::new().filename(&path);
    let mut other = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query("BEGIN EXCLUSIVE").execute(&mut other).await.unwrap();
    let started = Instant::now();
    let result = store.register_key(&hash, Uuid::new_v4(), false, at(1), at(2)).await;
    assert!(matches!(result, Err(StoreError::Batch)));
    assert!(started.elapsed() >= Duration::from_secs(4), "it waited for the lock");
    // Reading goes on meanwhile.
    assert!(store.find_key(&hash).await.unwrap().is_none());
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    store.register_key(&hash, Uuid::new_v4(), false, at(1), at(2)).await.unwrap();
}

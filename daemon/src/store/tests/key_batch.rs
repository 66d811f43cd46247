//! Many keys at once: registered, and deleted.

use super::*;

on_both_engines! {
    i9_simultaneous_imports_of_the_same_keys_make_one_row_of_each,
    a_batch_tells_what_became_of_each_key,
    a_deleted_key_takes_its_refresh_tokens_with_it_and_a_shared_database_is_left_alone,
}

fn new_key(key: &str, identifier: Uuid, rotates: bool) -> NewKey {
    NewKey { hash: KeyHash::of(key), identifier, rotates }
}

async fn i9_simultaneous_imports_of_the_same_keys_make_one_row_of_each(place: Place) {
    const KEYS: usize = 200;
    let identifier = Uuid::new_v4();
    let mut tasks = Vec::new();
    for importer in 0..4 {
        // As daemons on one database.
        let store = place.open().await;
        let mut keys: Vec<_> =
            (0..KEYS).map(|n| new_key(&n.to_string(), identifier, false)).collect();
        // In another order each, which would be a deadlock if it were the one of the statement.
        keys.rotate_left(importer * KEYS / 4);
        tasks.push(tokio::spawn(async move { store.register_keys(keys, at(1), at(2)).await }));
    }
    let mut new = 0;
    for task in tasks {
        for imported in task.await.unwrap().unwrap() {
            match imported {
                Imported::New => new += 1,
                Imported::Known => {}
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(new, KEYS);
    assert_eq!(place.text("SELECT CAST(count(*) AS TEXT) FROM keys").await, KEYS.to_string());
}

async fn a_batch_tells_what_became_of_each_key(place: Place) {
    let store = place.open().await;
    let (ours, theirs) = (Uuid::new_v4(), Uuid::new_v4());
    store.register_key(&KeyHash::of("theirs"), theirs, false, at(1), at(100)).await.unwrap();
    store.register_key(&KeyHash::of("ours"), ours, true, at(1), at(300)).await.unwrap();
    store.register_key(&KeyHash::of("revoked"), ours, false, at(1), at(100)).await.unwrap();
    let revoked = KeySelector::Hash(KeyHash::of("revoked"));
    store.revoke_keys(revoked, at(50), |_| Vec::new()).await.unwrap();
    let keys = vec![
        new_key("theirs", ours, true),
        new_key("ours", ours, false),
        new_key("revoked", ours, true),
        new_key("new", ours, false),
        new_key("new", theirs, false),
        new_key("new", ours, true),
    ];
    let outcomes = store.register_keys(keys, at(2), at(200)).await.unwrap();
    use Imported::{Known, New, OtherIdentifier, Revoked};
    assert_eq!(outcomes, [OtherIdentifier, Known, Revoked, New, OtherIdentifier, Known]);
    for (key, identifier, rotates, expires) in [
        ("theirs", theirs, false, 100),
        // An expiry is never brought forward, and a policy never taken back.
        ("ours", ours, true, 300),
        ("revoked", ours, false, 50),
        ("new", ours, true, 200),
    ] {
        let found = store.find_key(&KeyHash::of(key)).await.unwrap().unwrap();
        let is = (found.identifier, found.rotates, found.expires_at);
        assert_eq!(is, (identifier, rotates, at(expires)), "{key}");
    }
    assert_eq!(store.register_keys(Vec::new(), at(2), at(200)).await.unwrap(), []);
}

async fn a_deleted_key_takes_its_refresh_tokens_with_it_and_a_shared_database_is_left_alone(
    place: Place,
) {
    const SHARE: &str = "UPDATE jwtunnel_settings SET value = 'clear' WHERE name = 'refresh_tokens' RETURNING value";
    const TOKENS: &str = "SELECT CAST(count(*) AS TEXT) FROM refresh_tokens";
    let store = place.open().await;
    let identifier = Uuid::new_v4();
    for (key, ends) in [("over", 20), ("alive", 60)] {
        let hash = KeyHash::of(key);
        store.register_key(&hash, identifier, false, at(1), at(10)).await.unwrap();
        let found = store.find_key(&hash).await.unwrap().unwrap();
        let token = RefreshToken::of(&TOKEN.replace('0', &key[..1]));
        store.insert_refresh_token(&token, &found, Uuid::new_v4(), at(1), at(ends)).await.unwrap();
    }
    assert_eq!(place.text(SHARE).await, "clear");
    let stale = Stale {
        before: at(30),
        now: at(50),
        revoked: false,
        keep_refreshing: true,
        shared: false,
        after: 0,
        limit: 10,
        dry_run: false,
    };
    for dry_run in [true, false] {
        let pruned = store.prune_keys(Stale { dry_run, ..stale.clone() }).await.unwrap();
        assert_eq!(pruned, Pruned::Shared);
    }
    assert_eq!(place.text(TOKENS).await, "2");
    let over = PrunedKey {
        identifier,
        fingerprint: KeyHash::of("over").fingerprint().to_owned(),
        revoked: false,
    };
    let expected = Pruned::Keys { keys: vec![over], next: None };
    for dry_run in [true, false] {
        let stale = Stale { shared: true, dry_run, ..stale.clone() };
        assert_eq!(store.prune_keys(stale).await.unwrap(), expected);
    }
    assert_eq!(place.text(TOKENS).await, "1");
    assert!(store.find_key(&KeyHash::of("over")).await.unwrap().is_none());
    // Where a refresh token ends with its key.
    let stale = Stale { keep_refreshing: false, shared: true, limit: 1, ..stale };
    let Pruned::Keys { keys, next } = store.prune_keys(stale).await.unwrap() else {
        panic!("it was asked for");
    };
    assert_eq!((keys.len(), next.is_some()), (1, true), "a full page may not be the last one");
    assert_eq!(place.text(TOKENS).await, "0");
}

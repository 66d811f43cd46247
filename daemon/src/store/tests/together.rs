//! Requests at the same time, which share a query or a statement on SQLite: each gets what is its own.

use futures_util::future::join_all;

use super::*;

on_both_engines! {
    each_key_is_found_among_others,
    each_refresh_token_is_stored_among_others,
}

async fn each_key_is_found_among_others(place: Place) {
    let store = place.open().await;
    for number in 0_u64..40 {
        let (hash, expiry) = (KeyHash::of(&number.to_string()), at(100 + number));
        store.register_key(&hash, Uuid::new_v4(), number % 2 == 0, at(1), expiry).await.unwrap();
    }
    // Some twice, some unknown, and more than one batch.
    let asked: Vec<u64> = (0..50).chain(30..60).collect();
    let hashes: Vec<_> = asked.iter().map(|number| KeyHash::of(&number.to_string())).collect();
    let found = join_all(hashes.iter().map(|hash| store.find_key(hash))).await;
    for ((number, hash), found) in asked.iter().zip(&hashes).zip(found) {
        let found = found.unwrap();
        assert_eq!(found.is_some(), *number < 40, "{number}");
        if let Some(key) = found {
            assert_eq!((&key.hash, key.rotates), (hash, number % 2 == 0));
            assert_eq!(key.expires_at, at(100 + number));
        }
    }
}

async fn each_refresh_token_is_stored_among_others(place: Place) {
    let store = place.open().await;
    let sticky = KeyHash::of("sticky");
    store.register_key(&sticky, Uuid::new_v4(), false, at(1), at(100)).await.unwrap();
    let keys = [rotating_key(&store).await, store.find_key(&sticky).await.unwrap().unwrap()];
    let key_of = |number: u64| &keys[usize::try_from(number % 2).unwrap()];
    let insert = |number: u64| {
        let (store, key) = (&store, key_of(number));
        async move {
            let coming = store.announce_refresh_token();
            tokio::task::yield_now().await;
            drop(coming);
            let token = RefreshToken::of(&token_text(number));
            store.insert_refresh_token(&token, key, Uuid::new_v4(), at(2), at(50 + number)).await
        }
    };
    // Another change among them: such a batch is a transaction of single statements.
    let other = KeyHash::of("other");
    let register = store.register_key(&other, Uuid::new_v4(), false, at(1), at(9));
    let (inserted, registered) =
        futures_util::future::join(join_all((0..90).map(insert)), register).await;
    assert!(inserted.into_iter().all(|inserted| inserted.is_ok()));
    assert!(!registered.unwrap().revoked);
    for number in 0..90 {
        let token = RefreshToken::of(&token_text(number));
        let found = store.find_refresh_token(&token).await.unwrap().expect("it was stored");
        assert_eq!((found.expires_at, found.key.id), (at(50 + number), key_of(number).id));
        assert!(!found.used && !found.revoked);
    }
    let ids = "SELECT CAST(count(access_id) AS TEXT) FROM refresh_tokens";
    assert_eq!(place.text(ids).await, "45", "where a family can end, and there alone");
}

/// A row that somebody has damaged is no fault of those who ask for another one at the same time.
#[tokio::test]
async fn a_row_that_cannot_be_read_fails_alone() {
    let place = Place::sqlite();
    let store = place.open().await;
    let hashes = ["good", "damaged", "also good"].map(KeyHash::of);
    for hash in &hashes {
        store.register_key(hash, Uuid::new_v4(), false, at(1), at(2)).await.unwrap();
    }
    let Place::Sqlite(root) = &place else { unreachable!("made above") };
    let options = SqliteConnectOptions::new().filename(root.path().join("t.db"));
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query("UPDATE keys SET expires_at = 'soon' WHERE key_hash = $1")
        .bind(hashes[1].as_str())
        .execute(&mut connection)
        .await
        .unwrap();
    let found = join_all(hashes.iter().map(|hash| store.find_key(hash))).await;
    assert!(matches!(found[0], Ok(Some(_))), "{:?}", found[0]);
    assert!(matches!(found[1], Err(StoreError::Database(_))), "{:?}", found[1]);
    assert!(matches!(found[2], Ok(Some(_))), "{:?}", found[2]);
}

//! Where keys come from, whom they bind, and what is revoked.

use std::fs;

use serde_json::{Value, json};
use system_tests::{Nginx, NginxBuilder, SigningKey, eventually, jwks, now, sign};

fn start(server: &str, files: &[(&str, String)]) -> Nginx {
    // The second server says of its answers that they are compressed.
    let text = format!(
        "server {{ listen LISTEN;\n{server}\n}}
         server {{ listen unix:DIR/state/keys.sock; add_header Content-Encoding gzip; root DIR/public; }}"
    );
    let builder = NginxBuilder::bare(&text);
    files.iter().fold(builder, |builder, (name, text)| builder.file(name, text)).start()
}

/// mod C4, 4.3: a level's own keys replace those above, unless it says otherwise.
#[test]
fn levels_inherit_keys_as_they_say() {
    let (a, b) = (SigningKey::generate("a"), SigningKey::generate("b"));
    let nginx = start(
        "auth_jwt x; auth_jwt_key_file DIR/public/a.json;
         location /inherited { proxy_pass http://SERVICE; }
         location /own { auth_jwt_key_file DIR/public/b.json; proxy_pass http://SERVICE; }
         location /merged { auth_jwt_key_inherit merge; auth_jwt_key_file DIR/public/b.json; proxy_pass http://SERVICE; }
         location /off { auth_jwt_key_inherit off; proxy_pass http://SERVICE; }",
        &[("a.json", jwks(&[&a])), ("b.json", jwks(&[&b]))],
    );
    let statuses = |path: &str| [&a, &b].map(|key| nginx.get_with(path, &key.token("me")).status);
    assert_eq!(statuses("/inherited"), [200, 401]);
    assert_eq!(statuses("/own"), [401, 200]);
    assert_eq!(statuses("/merged"), [200, 200]);
    assert_eq!(statuses("/off"), [401, 401]);
}

/// mod 4.3: one kid in two files; a wrong key under it never hides the right one.
#[test]
fn keys_of_one_kid_in_two_files_are_both_tried() {
    let (first, second) = (SigningKey::generate("same"), SigningKey::generate("same"));
    let nginx = start(
        "auth_jwt_key_file DIR/public/a.json; auth_jwt_key_file DIR/public/b.json;
         location / { auth_jwt x; proxy_pass http://SERVICE; }",
        &[("a.json", jwks(&[&first])), ("b.json", jwks(&[&second]))],
    );
    assert_eq!(nginx.get_with("/", &first.token("me")).status, 200);
    assert_eq!(nginx.get_with("/", &second.token("me")).status, 200);
    assert_eq!(nginx.get_with("/", &SigningKey::generate("same").token("me")).status, 401);
}

/// mod 6.2: the claim that chooses the file is unverified; the file's key then has to verify the token.
#[test]
fn a_map_on_the_issuer_chooses_the_file() {
    let (a, b) = (SigningKey::generate("k"), SigningKey::generate("k"));
    let text = "
        map $jwt_claim_iss $keys { default DIR/public/none.json; a DIR/public/a.json; b DIR/public/b.json; }
        server {
            listen LISTEN;
            auth_jwt_key_file $keys;
            location / { auth_jwt x; add_header X-Iss \"$jwt_claim_iss\" always; proxy_pass http://SERVICE; }
        }";
    let nginx =
        NginxBuilder::bare(text).file("a.json", &jwks(&[&a])).file("b.json", &jwks(&[&b])).start();
    let seen = |key: &SigningKey, iss: &str| {
        let answer = nginx.get_with("/", &sign(key, json!({"iss": iss})));
        (answer.status, answer.header("x-iss").map(str::to_owned))
    };
    for _ in 0..2 {
        assert_eq!(seen(&a, "a"), (200, Some("a".into())));
        assert_eq!(seen(&b, "b"), (200, Some("b".into())));
        assert_eq!(seen(&a, "b"), (401, None), "signed by another issuer");
        assert_eq!(seen(&a, "c"), (503, None), "no keys for that issuer");
    }
    // A new version is seen without a reload.
    let new = SigningKey::generate("k");
    nginx.scratch().replace("public/a.json", jwks(&[&new]).as_bytes());
    eventually("every worker has the new key alone", || {
        (0..6).all(|_| seen(&new, "a").0 == 200 && seen(&a, "a").0 == 401).then_some(())
    });
}

/// mod C6 and section 10: the answer without usable keys.
#[test]
fn the_answer_without_keys_can_be_chosen() {
    let key = SigningKey::generate("a");
    let nginx = start(
        "auth_jwt_key_file DIR/public/later.json optional;
         location /default { auth_jwt x; proxy_pass http://SERVICE; }
         location /500 { auth_jwt x; auth_jwt_key_error 500; proxy_pass http://SERVICE; }
         location /401 { auth_jwt x; auth_jwt_key_error 401; proxy_pass http://SERVICE; }
         location /open { proxy_pass http://SERVICE; }",
        &[],
    );
    let answer = nginx.get_with("/default", &key.token("me"));
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")));
    assert_eq!(nginx.get_with("/500", &key.token("me")).status, 500);
    assert_eq!(nginx.get_with("/401", &key.token("me")).status, 401);
    assert_eq!(nginx.get("/open").status, 200);
    nginx.scratch().replace("public/later.json", jwks(&[&key]).as_bytes());
    eventually("the keys are there", || {
        (nginx.get_with("/default", &key.token("me")).status == 200).then_some(())
    });
}

/// rel:K3, K5: the key server's faults; what was fetched last stays.
#[test]
fn a_key_server_that_fails_changes_nothing() {
    let key = SigningKey::generate("a");
    // The key server is nginx itself: what it answers is a file.
    let nginx = start(
        "location = /_keys { internal; default_type application/json; root DIR/public; try_files /keys.json =404; }
         location = /_gzip { internal; proxy_pass http://unix:DIR/state/keys.sock:/good.json; }
         location / { auth_jwt x; auth_jwt_key_request /_keys; proxy_pass http://SERVICE; }
         location /cached { auth_jwt x; auth_jwt_key_request /_keys; auth_jwt_key_cache 1h; proxy_pass http://SERVICE; }
         location /gzip { auth_jwt x; auth_jwt_key_request /_gzip; proxy_pass http://SERVICE; }
         location /twice { auth_jwt x; auth_jwt_key_request /_gzip; auth_jwt_key_request /_keys; proxy_pass http://SERVICE; }",
        &[("good.json", jwks(&[&key]))],
    );
    let token = key.token("me");
    assert_eq!(nginx.get_with("/", &token).status, 503);
    nginx.expect_log(&[
        "[error]",
        "jwt: keyset /_keys rejected",
        "the answer has status 404, not 2xx",
    ]);
    assert_eq!(nginx.get_with("/gzip", &token).status, 503);
    nginx.expect_log(&["jwt: keyset /_gzip rejected", "Content-Encoding gzip"]);

    nginx.scratch().replace("public/keys.json", jwks(&[&key]).as_bytes());
    // Two workers: each fetches for itself, or takes what the other has put into shared memory.
    for _ in 0..10 {
        assert_eq!(nginx.get_with("/", &token).status, 200);
        assert_eq!(nginx.get_with("/cached", &token).status, 200);
        assert_eq!(nginx.get_with("/twice", &token).status, 200, "one good source is enough");
    }
    nginx.scratch().replace("public/keys.json", b"garbage");
    for _ in 0..10 {
        assert_eq!(nginx.get_with("/", &token).status, 200, "the last good keys");
    }
    nginx.expect_log(&["jwt: keyset /_keys rejected", "kept gen="]);
    // Over a reload as well.
    nginx.reload();
    for _ in 0..10 {
        assert_eq!(nginx.get_with("/", &token).status, 200, "the last good keys after a reload");
    }
    // Rotation is seen although the old keys are fresh for an hour: the kid is unknown.
    let new = SigningKey::generate("b");
    nginx.scratch().replace("public/keys.json", jwks(&[&key, &new]).as_bytes());
    eventually("the new key", || {
        (nginx.get_with("/cached", &new.token("me")).status == 200).then_some(())
    });
}

/// Issue part 2: a token is only ever verified with its issuer's keys.
#[test]
fn issuers_are_bound_to_their_keys() {
    // The same kid: only the binding tells them apart.
    let (a, b) = (SigningKey::generate("k"), SigningKey::generate("k"));
    let nginx = start(
        "auth_jwt_issuer https://a.example key_file=DIR/public/a.json audience=us,them;
         auth_jwt_issuer https://b.example key_file=DIR/public/b.json alg=ES256;
         auth_jwt_issuer https://c.example key_file=DIR/public/b.json alg=RS256;
         location / { auth_jwt x; add_header X-Cache \"$auth_jwt_cache\" always; proxy_pass http://SERVICE; }
         location /only { auth_jwt x; auth_jwt_issuer https://b.example key_file=DIR/public/b.json; proxy_pass http://SERVICE; }",
        &[("a.json", jwks(&[&a])), ("b.json", jwks(&[&b]))],
    );
    let ask = |path: &str, key: &SigningKey, claims: Value| {
        nginx.get_with(path, &sign(key, claims)).status
    };
    let from = |iss: &str| json!({"iss": iss, "aud": "us"});
    assert_eq!(ask("/", &a, from("https://a.example")), 200);
    assert_eq!(ask("/", &b, from("https://b.example")), 200);
    assert_eq!(ask("/", &a, from("https://b.example")), 401, "another issuer's key");
    assert_eq!(ask("/", &b, from("https://a.example")), 401);
    assert_eq!(ask("/", &b, from("https://c.example")), 401, "an algorithm that is not its own");
    assert_eq!(ask("/", &a, json!({"iss": "https://a.example", "aud": "x"})), 401);
    assert_eq!(
        ask("/", &b, json!({"iss": "https://b.example"})),
        200,
        "no audience is asked of it"
    );
    assert_eq!(ask("/", &a, from("https://d.example")), 401);
    assert_eq!(ask("/", &a, json!({"aud": "us"})), 401);
    assert_eq!(ask("/only", &a, from("https://a.example")), 401);
    assert_eq!(ask("/only", &b, from("https://b.example")), 200);
    for reason in ["iss", "sig", "alg", "aud"] {
        nginx.expect_log(&[&format!("reason={reason} ")]);
    }
    // A cached verification ends with its issuer's key, and with no other.
    let token = sign(&a, from("https://a.example"));
    let cached = |token: &str| {
        let answer = nginx.get_with("/", token);
        (answer.status, answer.header("x-cache").map(str::to_owned))
    };
    eventually("a hit", || (cached(&token) == (200, Some("hit".into()))).then_some(()));
    let new = SigningKey::generate("k");
    nginx.scratch().replace("public/a.json", jwks(&[&new]).as_bytes());
    eventually("the new key", || {
        (0..6).all(|_| ask("/", &new, from("https://a.example")) == 200).then_some(())
    });
    for _ in 0..6 {
        assert_eq!(cached(&token).0, 401, "verified by a key that is gone");
    }
}

/// mod 5.4: lists make their claim mandatory, add up, and are followed.
#[test]
fn revocation_lists_add_up_and_are_followed() {
    let key = SigningKey::generate("a");
    let nginx = start(
        "auth_jwt_key_file DIR/public/jwks.json;
         auth_jwt_revocation_list_sub DIR/public/sub.json;
         location / { auth_jwt x; proxy_pass http://SERVICE; }
         location /jti { auth_jwt x; auth_jwt_revocation_list_jti DIR/public/jti.json; proxy_pass http://SERVICE; }
         location /kid { auth_jwt x; auth_jwt_revocation_list_kid DIR/public/kid.json; proxy_pass http://SERVICE; }",
        &[
            ("jwks.json", jwks(&[&key])),
            ("sub.json", r#"{"mallory":{"reason":"left"}}"#.into()),
            ("jti.json", "{}".into()),
            ("kid.json", r#"{"a":1}"#.into()),
        ],
    );
    let ask = |path: &str, claims: Value| nginx.get_with(path, &sign(&key, claims)).status;
    assert_eq!(ask("/", json!({"sub": "alice"})), 200);
    assert_eq!(ask("/", json!({"sub": "mallory"})), 401);
    assert_eq!(ask("/", json!({})), 401, "a list makes its claim mandatory");
    assert_eq!(ask("/jti", json!({"sub": "alice", "jti": "1"})), 200);
    assert_eq!(ask("/jti", json!({"sub": "alice"})), 401, "an empty list, too");
    assert_eq!(
        ask("/jti", json!({"sub": "mallory", "jti": "1"})),
        401,
        "the parent's list holds here"
    );
    assert_eq!(ask("/kid", json!({"sub": "alice"})), 401);
    nginx.expect_log(&["reason=revoked status=401", "its sub is in a revocation list"]);

    // A cached token is no exception.
    let bob = sign(&key, json!({"sub": "bob"}));
    for _ in 0..6 {
        assert_eq!(nginx.get_with("/", &bob).status, 200);
    }
    nginx.scratch().replace("public/sub.json", br#"{"mallory":1,"bob":1}"#);
    eventually("every worker refuses", || {
        (0..8).all(|_| nginx.get_with("/", &bob).status == 401).then_some(())
    });
    // A bad version keeps the last good one.
    nginx.scratch().replace("public/sub.json", b"[]");
    nginx.expect_log(&["[error]", "jwt: revocations sub rejected", "kept gen="]);
    assert_eq!(nginx.get_with("/", &bob).status, 401);
    assert_eq!(ask("/", json!({"sub": "alice"})), 200);
}

/// design.md section 4, point 7: the daemon's file.
#[test]
fn the_daemons_revocations_hold_at_once_for_every_worker() {
    let key = SigningKey::generate("a");
    let nginx = start(
        "auth_jwt_key_file DIR/public/jwks.json;
         auth_jwt_revocation_file DIR/public/gone.json optional;
         location / { auth_jwt x; proxy_pass http://SERVICE; }
         location /open { proxy_pass http://SERVICE; }",
        &[("jwks.json", jwks(&[&key]))],
    );
    let alice = json!({"identifier": "alice", "sub": "alice", "token_id": "t1", "jti": "t1", "key": "k1", "iat": now() - 100});
    let token = sign(&key, alice);
    let plain = sign(&key, json!({}));
    assert_eq!(nginx.get_with("/", &token).status, 503, "who is revoked can't be told");
    assert_eq!(nginx.get("/open").status, 200);
    let until = now() + 3600;
    let revoked = |text: Value, status: u16| {
        nginx.scratch().replace("public/gone.json", text.to_string().as_bytes());
        // It makes no claim mandatory: a token without any falls under its kid alone.
        let other = if text["kid"].is_null() { 200 } else { 401 };
        eventually(&format!("{status} for {text}"), || {
            (0..8)
                .all(|_| {
                    nginx.get_with("/", &token).status == status
                        && nginx.get_with("/", &plain).status == other
                })
                .then_some(())
        });
    };
    revoked(json!({"version": 1}), 200);
    revoked(json!({"version": 1, "token_id": {"t1": until}}), 401);
    revoked(json!({"version": 1, "token_id": {"t2": until}}), 200);
    revoked(json!({"version": 1, "key": {"k1": until}}), 401);
    revoked(json!({"version": 1, "identifier": {"alice": [now() - 1000, until]}}), 200);
    revoked(json!({"version": 1, "identifier": {"alice": [now() - 50, until]}}), 401);
    revoked(json!({"version": 1, "kid": {"a": until}}), 401);
    revoked(json!({"version": 1, "identifier": {}, "key": {}}), 200);
    revoked(json!({"version": 1, "key": {"k1": until}}), 401);
    // Before it was there at all.
    let missing = nginx.error_log().matches("No such file").count();
    // What is not understood changes nothing, also over a reload.
    nginx.scratch().replace("public/gone.json", br#"{"version":2}"#);
    nginx.expect_log(&["jwt: revocations gone rejected", "kept gen="]);
    nginx.reload();
    for _ in 0..8 {
        assert_eq!(nginx.get_with("/", &token).status, 401);
    }
    fs::remove_file(nginx.scratch().join("public/gone.json")).expect("the file was there");
    eventually("both workers have noticed", || {
        let log = nginx.error_log();
        (log.matches("No such file").count() >= missing + 2).then_some(())
    });
    for _ in 0..8 {
        assert_eq!(nginx.get_with("/", &token).status, 401, "a missing file revokes nothing back");
    }
}

/// A list too large to lie in shared memory twice: the newer version takes the older one's place, so that a worker
/// which starts while the file is bad does not go back to the older one.
#[test]
fn a_large_lists_newer_version_is_what_a_dead_workers_successor_knows() {
    const LARGEST: usize = 16 * 1024 * 1024;
    let key = SigningKey::generate("a");
    let padded = |text: &str| text.to_owned() + &" ".repeat(LARGEST - text.len());
    let nginx = start(
        "auth_jwt_key_file DIR/public/jwks.json;
         auth_jwt_revocation_list_sub DIR/public/sub.json;
         location / { auth_jwt x; proxy_pass http://SERVICE; }",
        &[("jwks.json", jwks(&[&key])), ("sub.json", padded("{}"))],
    );
    let mallory = sign(&key, json!({"sub": "mallory"}));
    assert_eq!(nginx.get_with("/", &mallory).status, 200);
    nginx.scratch().replace("public/sub.json", padded(r#"{"mallory":1}"#).as_bytes());
    eventually("every worker refuses", || {
        (0..8).all(|_| nginx.get_with("/", &mallory).status == 401).then_some(())
    });
    nginx.scratch().replace("public/sub.json", b"[]");
    nginx.expect_log(&["[error]", "jwt: revocations sub rejected", "kept gen="]);
    nginx.kill_workers();
    for _ in 0..10 {
        assert_eq!(nginx.get_with("/", &mallory).status, 401, "an older list has come back");
    }
}

//! What is revoked: lists that an operator writes, and the file that the daemon writes.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};
use system_tests::{Nginx, NginxBuilder, SigningKey, ask, eventually, jwks, now};

fn builder(key: &SigningKey, server: &str) -> NginxBuilder {
    let text =
        format!("server {{ listen LISTEN; auth_jwt_key_file DIR/public/jwks.json;\n{server}\n}}");
    NginxBuilder::bare(&text).jwks(&jwks(&[key]))
}

fn token(key: &SigningKey, claims: Value) -> String {
    let mut claims = claims;
    claims["exp"] = json!(now() + 300);
    key.sign(&claims)
}

/// Every request may meet either worker, so it takes many in a row.
fn settles(nginx: &Nginx, path: &str, token: &str, status: u16) {
    eventually(&format!("every worker answers {path} with {status}"), || {
        (0..8).all(|_| nginx.get_with(path, token).status == status).then_some(())
    });
}

fn stays(nginx: &Nginx, token: &str, status: u16, why: &str) {
    for _ in 0..8 {
        assert_eq!(nginx.get_with("/", token).status, status, "{why}");
    }
}

/// mod 5.4, C20: each list with its claim: who is on it is out, and so is who does not say who he is.
#[test]
fn a_list_refuses_its_values_and_makes_its_claim_mandatory() {
    let key = SigningKey::generate("k1");
    let nginx = builder(
        &key,
        "location /sub { auth_jwt x; auth_jwt_revocation_list_sub DIR/public/list.json; proxy_pass http://SERVICE; }
         location /jti { auth_jwt x; auth_jwt_revocation_list_jti DIR/public/list.json; proxy_pass http://SERVICE; }
         location /kid { auth_jwt x; auth_jwt_revocation_list_kid DIR/public/list.json; proxy_pass http://SERVICE; }
         location /empty { auth_jwt x; auth_jwt_revocation_list_sub DIR/public/empty.json;
             auth_jwt_revocation_list_kid DIR/public/empty.json; auth_jwt_revocation_list_jti DIR/public/empty.json;
             proxy_pass http://SERVICE; }
         location /none { auth_jwt x; proxy_pass http://SERVICE; }",
    )
    .file("list.json", r#"{"mallory": {"since": 2024}, "\u006b\u0131": null, "k2": [], "m\"q": 1, "5": 1}"#)
    .file("empty.json", "{}")
    .start();
    for (path, claim) in [("/sub", "sub"), ("/jti", "jti")] {
        for (value, status) in [
            (json!("alice"), 200),
            (json!("mallory"), 401),
            (json!("Mallory"), 200),
            (json!("mallory "), 200),
            (json!("kı"), 401),
            (json!("m\"q"), 401),
            // Mandatory, and a text.
            (json!(""), 401),
            (json!(null), 401),
            (json!(5), 401),
            (json!(["alice"]), 401),
            (json!({"a": 1}), 401),
        ] {
            for _ in 0..2 {
                let mut claims = json!({});
                claims[claim] = value.clone();
                assert_eq!(
                    nginx.get_with(path, &token(&key, claims)).status,
                    status,
                    "{claim} {value}"
                );
            }
        }
        assert_eq!(nginx.get_with(path, &token(&key, json!({}))).status, 401, "no {claim}");
        // Another claim of that value means nothing.
        let mut claims = json!({"identifier": "mallory", "sub": "alice", "jti": "alice"});
        assert_eq!(nginx.get_with(path, &token(&key, claims.clone())).status, 200);
        claims[claim] = json!("mallory");
        let answer = nginx.get_with(path, &token(&key, claims));
        let challenge = answer.header("www-authenticate");
        assert_eq!(challenge, Some("Bearer realm=\"x\", error=\"invalid_token\""));
        nginx.expect_log(&["[info]", "reason=revoked status=401", &format!("its {claim} is in")]);
        nginx.expect_log(&["[info]", "reason=claim status=401", &format!("no {claim}, which")]);
    }
    let claims = || json!({"sub": "alice", "jti": "1"});
    assert_eq!(nginx.get_with("/kid", &token(&key, claims())).status, 200);
    let exp = json!({"exp": now() + 300});
    for (kid, status) in [(None, 401), (Some(""), 401), (Some("k1"), 200)] {
        assert_eq!(nginx.get_with("/kid", &key.sign_as(kid, &exp)).status, status, "{kid:?}");
    }
    // An empty list refuses nobody, and still asks everybody.
    assert_eq!(nginx.get_with("/empty", &token(&key, claims())).status, 200);
    for claim in ["sub", "jti"] {
        let mut claims = claims();
        claims.as_object_mut().expect("an object").remove(claim);
        assert_eq!(nginx.get_with("/empty", &token(&key, claims)).status, 401, "no {claim}");
    }
    assert_eq!(nginx.get_with("/none", &token(&key, json!({}))).status, 200);
    // Log lines tell which list, not who.
    assert!(!nginx.error_log().contains("mallory"), "{}", nginx.error_log());
}

/// mod 5.4: a kid that is revoked, while its key is still in the key set.
#[test]
fn a_listed_kid_is_refused_although_its_key_is_there() {
    let (good, bad) = (SigningKey::generate("good"), SigningKey::generate("bad"));
    let nginx = builder(
        &good,
        "auth_jwt_revocation_list_kid DIR/public/kids.json;
         location / { auth_jwt x; proxy_pass http://SERVICE; }",
    )
    .jwks(&jwks(&[&good, &bad]))
    .file("kids.json", r#"{"bad": {}}"#)
    .start();
    stays(&nginx, &good.token("me"), 200, "another kid");
    stays(&nginx, &bad.token("me"), 401, "a revoked kid");
    nginx.scratch().replace("public/kids.json", b"{}");
    settles(&nginx, "/", &bad.token("me"), 200);
}

/// mod 5.0, 5.4: lists add up, over lines and over levels, and limit_except is a level.
#[test]
fn lists_of_all_levels_add_up() {
    let key = SigningKey::generate("a");
    let text = "
        auth_jwt_key_file DIR/public/jwks.json;
        auth_jwt_revocation_list_sub DIR/public/http.json;
        server {
            listen LISTEN;
            auth_jwt x;
            auth_jwt_revocation_list_sub DIR/public/server.json;
            location / { proxy_pass http://SERVICE; }
            location /one { auth_jwt_revocation_list_sub DIR/public/one.json;
                auth_jwt_revocation_list_sub DIR/public/two.json;
                limit_except GET { auth_jwt_revocation_list_sub DIR/public/except.json; }
                location /one/deep { proxy_pass http://SERVICE; }
                proxy_pass http://SERVICE; }
        }";
    let files = ["http", "server", "one", "two", "except"];
    let nginx = files
        .iter()
        .fold(NginxBuilder::bare(text).jwks(&jwks(&[&key])), |builder, name| {
            builder.file(&format!("{name}.json"), &json!({(*name): 1, "all": {}}).to_string())
        })
        .start();
    let refused = |method: &str, path: &str| {
        let statuses = files.map(|sub| {
            let bearer = format!("Bearer {}", token(&key, json!({"sub": sub})));
            let headers = [("authorization", bearer.as_str())];
            ask(method, &nginx.url(path), &headers, None).status == 401
        });
        files.iter().zip(statuses).filter(|(_, refused)| *refused).map(|(name, _)| *name).collect()
    };
    let expect = |method: &str, path: &str, expected: &[&str]| {
        let refused: Vec<&str> = refused(method, path);
        assert_eq!(refused, expected, "{method} {path}");
    };
    expect("GET", "/", &["http", "server"]);
    expect("GET", "/one", &["http", "server", "one", "two"]);
    expect("GET", "/one/deep", &["http", "server", "one", "two"]);
    expect("POST", "/one", &["http", "server", "one", "two", "except"]);
    stays(&nginx, &token(&key, json!({"sub": "all"})), 401, "on several lists");
    stays(&nginx, &token(&key, json!({"sub": "alice"})), 200, "on none");
}

/// mod 5.6: what is no list is refused at start, and at a reload, which then changes nothing.
#[test]
fn a_bad_list_is_refused_at_start() {
    let key = SigningKey::generate("a");
    let text = "auth_jwt_revocation_list_sub DIR/public/list.json;\n\
                location / { auth_jwt x; proxy_pass http://SERVICE; }";
    for list in ["", " ", "[]", "null", "\"mallory\"", "mallory", "{\"a\":1", "{\"a\":1,\"a\":2}"] {
        let check = builder(&key, text).file("list.json", list).check();
        assert!(!check.accepted, "{list:?} was accepted");
        let line = check.output.lines().find(|line| line.contains("[emerg]")).unwrap_or_default();
        assert!(line.contains("/public/list.json\" can't be used: "), "{list:?}: {line}");
        assert!(line.contains("a JSON object is expected"), "{list:?}: {line}");
        assert!(line.contains("/http.conf:3"), "{list:?}: {line}");
    }
    assert!(builder(&key, text).file("list.json", "{}").check().accepted);
    for directive in ["auth_jwt_revocation_list_sub", "auth_jwt_revocation_file"] {
        for path in ["$arg_list", "DIR/public/$host.json", "\"\""] {
            let check = builder(&key, &format!("{directive} {path};")).check();
            assert!(!check.accepted, "{directive} {path} was accepted");
            let expected = "a path without variables is expected";
            assert!(check.output.contains(expected), "{path}: {}", check.output);
        }
    }

    let nginx = builder(&key, text).file("list.json", r#"{"mallory":1}"#).start();
    let workers = nginx.workers();
    nginx.scratch().replace("public/list.json", b"[]");
    nginx.send_reload();
    nginx.expect_log(&["[emerg]", "/public/list.json\" can't be used"]);
    stays(&nginx, &token(&key, json!({"sub": "mallory"})), 401, "the last good list");
    stays(&nginx, &token(&key, json!({"sub": "alice"})), 200, "the last good list");
    assert_eq!(nginx.workers(), workers);
}

/// rel:K2, K3: lists are followed without a reload, and a bad version changes nothing.
#[test]
fn lists_are_followed_and_the_last_good_one_stays() {
    let key = SigningKey::generate("a");
    let nginx = builder(
        &key,
        "auth_jwt_revocation_list_sub DIR/public/list.json;
         location / { auth_jwt x; add_header X-Cache \"$auth_jwt_cache\" always; proxy_pass http://SERVICE; }",
    )
    .file("list.json", "{}")
    .start();
    let workers = nginx.workers();
    let bob = token(&key, json!({"sub": "bob"}));
    // In every worker's cache.
    eventually("a cached verification", || {
        (0..8).all(|_| nginx.get_with("/", &bob).header("x-cache") == Some("hit")).then_some(())
    });
    nginx.scratch().replace("public/list.json", br#"{"bob":1}"#);
    settles(&nginx, "/", &bob, 401);
    for (number, bad) in [&b"[]"[..], b"", b"{\"bob\":", b"{\"a\":1,\"a\":1}"].iter().enumerate() {
        nginx.scratch().replace("public/list.json", bad);
        eventually("both workers refuse that version", || {
            let log = nginx.error_log();
            let lines = log.lines().filter(|line| line.contains("jwt: revocations list rejected"));
            (lines.count() == 2 * (number + 1)).then_some(())
        });
        stays(&nginx, &bob, 401, "the last good list");
        stays(&nginx, &token(&key, json!({"sub": "alice"})), 200, "the last good list");
    }
    fs::remove_file(nginx.scratch().join("public/list.json")).expect("the file");
    nginx.expect_log(&["[error]", "jwt: revocations list rejected cause=\"No such file"]);
    stays(&nginx, &bob, 401, "a missing list revokes nothing back");
    nginx.scratch().replace("public/list.json", br#"{"carol":1}"#);
    settles(&nginx, "/", &bob, 200);
    settles(&nginx, "/", &token(&key, json!({"sub": "carol"})), 401);
    assert_eq!(nginx.workers(), workers, "without new workers");
}

/// What the daemon writes.
fn revoked(members: Value) -> String {
    let mut text = members;
    text["version"] = json!(1);
    text.to_string()
}

const DAEMON: &str = "
    auth_jwt_revocation_file DIR/public/refused.json;
    location / { auth_jwt x; add_header X-Status \"$auth_jwt_status\" always;
        add_header X-Sub \"<$jwt_claim_sub>\" always; proxy_pass http://SERVICE; }";

/// design 4.7: each kind of entry with the claims that it is compared with; no claim is mandatory.
#[test]
fn each_kind_of_entry_meets_its_claims() {
    let (key, other) = (SigningKey::generate("k1"), SigningKey::generate("k2"));
    let before = now() - 100;
    let until = now() + 300;
    let text = revoked(json!({
        "token_id": {"t1": until, "\u{e9}": until},
        "identifier": {"i1": [before, until], "i2": [before, until]},
        "key": {"r1": until},
        "kid": {"k2": until, "k3": until},
    }));
    let nginx =
        builder(&key, DAEMON).jwks(&jwks(&[&key, &other])).file("refused.json", &text).start();
    for (claims, status) in [
        (json!({}), 200),
        (json!({"token_id": "t1"}), 401),
        (json!({"jti": "t1"}), 401),
        (json!({"jti": "\u{e9}"}), 401),
        (json!({"token_id": "x", "jti": "t1"}), 401),
        (json!({"token_id": "t1", "jti": "x"}), 401),
        (json!({"token_id": "T1", "jti": "t", "sub": "t1", "key": "t1", "identifier": "t1"}), 200),
        (json!({"token_id": 1, "jti": ["t1"], "key": null, "sub": {}, "identifier": false}), 200),
        // Issued before that second.
        (json!({"identifier": "i1", "iat": before - 1}), 401),
        (json!({"identifier": "i1", "iat": before}), 200),
        (json!({"identifier": "i1", "iat": before + 1}), 200),
        (json!({"sub": "i2", "iat": before - 1}), 401),
        (json!({"sub": "i2", "iat": before}), 200),
        (json!({"identifier": "x", "sub": "i1", "iat": before - 1}), 401),
        // When it was issued can't be told.
        (json!({"identifier": "i1"}), 401),
        (json!({"sub": "i1"}), 401),
        (json!({"identifier": "x", "sub": "y"}), 200),
        (json!({"key": "r1"}), 401),
        (json!({"key": "r2", "kid": "k2"}), 200),
    ] {
        for _ in 0..2 {
            let answer = nginx.get_with("/", &token(&key, claims.clone()));
            assert_eq!(answer.status, status, "{claims}");
            let shown = if status == 200 { "ok" } else { "revoked" };
            assert_eq!(answer.header("x-status"), Some(shown), "{claims}");
        }
    }
    stays(&nginx, &token(&other, json!({"sub": "me"})), 401, "the kid is revoked");
    // rel:N6: the claims of what is revoked are nowhere.
    let answer = nginx.get_with("/", &token(&key, json!({"sub": "i1"})));
    assert_eq!(answer.header("x-sub"), Some("<>"));
    let answer = nginx.get_with("/", &token(&key, json!({"sub": "me"})));
    assert_eq!(answer.header("x-sub"), Some("<me>"));
    for cause in [
        "the token is revoked",
        "the identifier's tokens of that time are revoked",
        "the registered key is revoked",
        "the signing key is revoked",
    ] {
        nginx.expect_log(&["[info]", "reason=revoked status=401", &format!("cause=\"{cause}\"")]);
    }
    for value in ["t1", "i1", "r1"] {
        assert!(!nginx.error_log().contains(&format!("\"{value}\"")), "{value} in the log");
    }
}

/// design 4.4, 4.7: strict, so that nothing that could revoke a token is overlooked.
#[test]
fn a_file_that_is_not_understood_is_refused() {
    let key = SigningKey::generate("a");
    for (text, cause) in [
        ("", "it is empty"),
        ("[]", "it is not a strict JSON object"),
        ("{}", "its member \"version\" is not 1"),
        (r#"{"version":2}"#, "its member \"version\" is not 1"),
        (r#"{"version":"1"}"#, "its member \"version\" is not 1"),
        (r#"{"version":1,"subject":{}}"#, "a member that version 1 does not know"),
        (r#"{"version":1,"key":["a"]}"#, "its member \"key\" is not an object"),
        (r#"{"version":1,"key":{"a":"b"}}"#, "entry 1 of its member \"key\""),
        (r#"{"version":1,"identifier":{"a":5}}"#, "entry 1 of its member \"identifier\""),
        (r#"{"version":1,"version":1}"#, "it is not a strict JSON object"),
    ] {
        let check = builder(&key, DAEMON).file("refused.json", text).check();
        assert!(!check.accepted, "{text:?} was accepted");
        let line = check.output.lines().find(|line| line.contains("[emerg]")).unwrap_or_default();
        assert!(line.contains(cause), "{text:?}: {line}");
        assert!(line.contains("/public/refused.json"), "{line}");
        assert!(line.contains("or add \"optional\""), "{line}");
        // With `optional` nginx starts; such a version is as good as none.
        let optional = DAEMON.replace("refused.json;", "refused.json optional;");
        let check = builder(&key, &optional).file("refused.json", text).check();
        assert!(check.accepted, "{}", check.output);
    }
    assert!(!builder(&key, DAEMON).check().accepted, "a missing file was accepted");
    let maybe = DAEMON.replace("refused.json;", "refused.json maybe;");
    let check = builder(&key, &maybe).file("refused.json", &revoked(json!({}))).check();
    assert!(check.output.contains("invalid value \"maybe\""), "{}", check.output);
    let twice = format!("{DAEMON} auth_jwt_revocation_file DIR/public/refused.json;");
    let check = builder(&key, &twice).file("refused.json", &revoked(json!({}))).check();
    assert!(check.output.contains("directive is duplicate"), "{}", check.output);
}

/// design 4.4, rel:K4: with `optional` nginx starts without the file, and nobody passes until it has been good once.
#[test]
fn without_a_good_file_nobody_passes() {
    let key = SigningKey::generate("a");
    let optional = DAEMON.replace("refused.json;", "refused.json optional;");
    let nginx = builder(
        &key,
        &format!(
            "{optional} location /open {{ proxy_pass http://SERVICE; }}
            location /500 {{ auth_jwt x; auth_jwt_key_error 500; proxy_pass http://SERVICE; }}"
        ),
    )
    .start();
    let good = token(&key, json!({"sub": "me"}));
    let answer = nginx.get_with("/", &good);
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")));
    assert_eq!(answer.header("www-authenticate"), None, "it is no fault of the token's");
    assert_eq!(answer.header("x-sub"), Some("<>"), "nor is it a verified one");
    assert_eq!(nginx.get_with("/500", &good).status, 500);
    // What is bad for other reasons is told so, and what asks for no token serves.
    assert_eq!(nginx.get_with("/", "garbage").status, 401);
    assert_eq!(nginx.get("/").status, 401);
    assert_eq!(nginx.get("/open").status, 200);
    nginx.expect_log(&["[error]", "reason=keys_unavailable status=503"]);
    nginx.scratch().replace("public/refused.json", b"{\"version\":2}");
    nginx.expect_log(&["[error]", "jwt: revocations refused rejected", "kept gen=0"]);
    stays(&nginx, &good, 503, "a bad file is none");
    nginx.scratch().replace("public/refused.json", revoked(json!({})).as_bytes());
    settles(&nginx, "/", &good, 200);
}

/// design 4.7, rel:K3: a revocation reaches every worker; the last good version outlives bad ones, a reload, and
/// the death of the workers.
#[test]
fn a_revocation_stays_in_force() {
    let key = SigningKey::generate("a");
    let text = DAEMON.replace("refused.json;", "refused.json optional;");
    let nginx = builder(&key, &text).file("refused.json", &revoked(json!({}))).start();
    let until = now() + 300;
    let (mine, other) = (token(&key, json!({"jti": "t1"})), token(&key, json!({"jti": "t2"})));
    // In every worker's cache.
    stays(&nginx, &mine, 200, "not revoked yet");
    nginx
        .scratch()
        .replace("public/refused.json", revoked(json!({"token_id": {"t1": until}})).as_bytes());
    settles(&nginx, "/", &mine, 401);
    stays(&nginx, &other, 200, "another token");

    nginx.scratch().replace("public/refused.json", b"{\"version\":1,");
    nginx.expect_log(&["[error]", "jwt: revocations refused rejected", "kept gen=2"]);
    stays(&nginx, &mine, 401, "a bad version changes nothing");
    nginx.reload();
    stays(&nginx, &mine, 401, "nor does a reload while it is bad");
    stays(&nginx, &other, 200, "nor does a reload while it is bad");
    let workers = nginx.workers();
    for worker in &workers {
        let killed = Command::new("kill").args(["-s", "KILL", worker]).status();
        assert!(killed.expect("kill").success());
    }
    eventually("the master has started others", || {
        let serving = nginx.workers();
        serving.iter().all(|each| !workers.contains(each)).then_some(())
    });
    stays(&nginx, &mine, 401, "nor does the death of the workers");
    stays(&nginx, &other, 200, "nor does the death of the workers");
    fs::remove_file(nginx.scratch().join("public/refused.json")).expect("the file");
    nginx.reload();
    stays(&nginx, &mine, 401, "nor does a reload without the file");

    // The entry is dropped once it is needed no more.
    nginx
        .scratch()
        .replace("public/refused.json", revoked(json!({"token_id": {"t2": until}})).as_bytes());
    settles(&nginx, "/", &mine, 200);
    settles(&nginx, "/", &other, 401);
}

/// mod 5.0: several files and the manual lists hold together, below their level as well.
#[test]
fn files_and_lists_hold_together() {
    let key = SigningKey::generate("a");
    let until = now() + 300;
    let nginx = builder(
        &key,
        "auth_jwt x;
         auth_jwt_revocation_file DIR/public/one.json;
         location / { proxy_pass http://SERVICE; }
         location /more {
             auth_jwt_revocation_file DIR/public/two.json;
             auth_jwt_revocation_list_sub DIR/public/subs.json;
             proxy_pass http://SERVICE;
         }
         location /issuers {
             auth_jwt_issuer me key_file=DIR/public/jwks.json;
             proxy_pass http://SERVICE;
         }",
    )
    .file("one.json", &revoked(json!({"token_id": {"t1": until}})))
    .file("two.json", &revoked(json!({"key": {"r1": until}})))
    .file("subs.json", r#"{"mallory":1}"#)
    .start();
    let statuses = |claims: Value| {
        ["/", "/more", "/issuers"].map(|path| {
            let mut claims = claims.clone();
            claims["iss"] = json!("me");
            nginx.get_with(path, &token(&key, claims)).status
        })
    };
    assert_eq!(statuses(json!({"sub": "alice"})), [200, 200, 200]);
    assert_eq!(statuses(json!({"sub": "alice", "jti": "t1"})), [401, 401, 401]);
    assert_eq!(statuses(json!({"sub": "alice", "key": "r1"})), [200, 401, 200]);
    assert_eq!(statuses(json!({"sub": "mallory"})), [200, 401, 200]);
    assert_eq!(statuses(json!({})), [200, 401, 200], "only the list needs its claim");
}

/// rel:0.3: a fleet's worth of entries.
#[test]
fn a_large_file_is_followed() {
    let key = SigningKey::generate("a");
    let nginx = builder(&key, DAEMON).file("refused.json", &revoked(json!({}))).start();
    let ids: serde_json::Map<String, Value> =
        (0..50_000).map(|number| (format!("token-{number:026}"), json!(now() + 300))).collect();
    let last = token(&key, json!({"jti": format!("token-{:026}", 49_999)}));
    stays(&nginx, &last, 200, "not revoked yet");
    nginx.scratch().replace("public/refused.json", revoked(json!({"token_id": ids})).as_bytes());
    settles(&nginx, "/", &last, 401);
    stays(
        &nginx,
        &token(&key, json!({"jti": format!("token-{:026}", 50_000)})),
        200,
        "none of them",
    );
    nginx.expect_log(&["[notice]", "jwt: revocations refused gen=2 entries=50000"]);
    // Too large a file is refused, and what it replaces stays.
    let large = format!("{}{}", revoked(json!({})), " ".repeat(16 * 1024 * 1024));
    nginx.scratch().replace("public/refused.json", large.as_bytes());
    nginx.expect_log(&["[error]", "larger than 16777216 bytes", "kept gen=2"]);
    stays(&nginx, &last, 401, "the last good version");
}

//! The key file under a running nginx: replaced, broken, missing, mended. Without a reload.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use system_tests::{Answer, Nginx, NginxBuilder, SigningKey, jwks, within};

/// The shipped interval is 1 s, and the worker that answers may be either of two.
const SOON: Duration = Duration::from_secs(4);

/// Both workers must answer so: each request may meet either, so it takes many in a row.
fn settles(nginx: &Nginx, what: &str, right: impl Fn(&Answer) -> bool, token: &str) {
    within(SOON, what, || (0..10).all(|_| right(&nginx.get_with("/", token))).then_some(()));
}

#[test]
fn rotated_keys_are_used_without_a_reload() {
    let (old, new) = (SigningKey::generate("old"), SigningKey::generate("new"));
    let nginx = Nginx::shipped(&jwks(&[&old]));
    let workers = nginx.workers();
    assert_eq!(nginx.get_with("/", &old.token("me")).status, 200);
    assert_eq!(nginx.get_with("/", &new.token("me")).status, 401);

    nginx.replace_jwks(&jwks(&[&old, &new]));
    settles(&nginx, "both keys are good", |answer| answer.status == 200, &new.token("me"));
    assert_eq!(nginx.get_with("/", &old.token("me")).status, 200);

    nginx.replace_jwks(&jwks(&[&new]));
    settles(&nginx, "the old key is gone", |answer| answer.status == 401, &old.token("me"));
    assert_eq!(nginx.get_with("/", &new.token("me")).status, 200);
    nginx.expect_log(&["[notice]", "jwt: keyset jwks gen=3 keys=1"]);
    assert_eq!(nginx.workers(), workers, "a worker was replaced");
}

#[test]
fn a_bad_file_keeps_the_last_good_keys() {
    let (good, later) = (SigningKey::generate("good"), SigningKey::generate("later"));
    let nginx = Nginx::shipped(&jwks(&[&good]));
    let bad = [
        ("", "empty"),
        ("{\"keys\": [", "cut off"),
        ("[]", "not an object"),
        ("{\"keys\": {}}", "not a list"),
    ];
    for (count, (text, what)) in bad.into_iter().enumerate() {
        nginx.replace_jwks(text);
        within(SOON, &format!("both workers say that a file is {what}"), || {
            let log = nginx.error_log();
            let lines =
                log.lines().filter(|line| line.contains("jwt: keyset jwks rejected")).count();
            (lines == 2 * (count + 1)).then_some(())
        });
        for _ in 0..4 {
            assert_eq!(nginx.get_with("/", &good.token("me")).status, 200, "{what}");
        }
        // Its key may stand in the file that can't be read: that is our fault, not the client's.
        let unknown = nginx.get_with("/", &later.token("me"));
        assert_eq!(unknown.status, 503, "{what}");
        assert!(unknown.header("retry-after").is_some(), "{unknown:?}");
        assert_eq!(nginx.get_with("/", "garbage").status, 401, "{what}");
    }
    let line = nginx.expect_log(&["[error]", "jwt: keyset jwks rejected cause=\"", "kept gen=1"]);
    assert!(line.contains("/public/jwks.json"), "{line}");

    nginx.replace_jwks(&jwks(&[&later]));
    settles(&nginx, "the mended file is used", |answer| answer.status == 200, &later.token("me"));
}

#[test]
fn a_missing_file_keeps_the_last_good_keys() {
    let key = SigningKey::generate("a");
    let nginx = Nginx::shipped(&jwks(&[&key]));
    std::fs::remove_file(nginx.scratch().join("public/jwks.json")).expect("the file");
    nginx.expect_log(&["[error]", "rejected cause=\"No such file"]);
    assert_eq!(nginx.get_with("/", &key.token("me")).status, 200);
}

#[test]
fn without_keys_nginx_starts_and_asks_to_come_back() {
    let key = SigningKey::generate("a");
    let nginx = NginxBuilder::new().start();
    for token in [&key.token("me"), "garbage"] {
        let answer = nginx.get_with("/", token);
        assert_eq!(answer.status, 503);
        assert!(answer.header("retry-after").is_some_and(|value| value.parse::<u32>().is_ok()));
        assert_eq!(answer.header("www-authenticate"), None);
    }
    assert_eq!(nginx.get("/").status, 503);
    // What asks for no token serves.
    assert_eq!(nginx.get("/jwthenticator/register_key").status, 403);
    nginx.expect_log(&["[error]", "reason=keys_unavailable status=503"]);

    nginx.replace_jwks(&jwks(&[&key]));
    settles(&nginx, "the new file is used", |answer| answer.status == 200, &key.token("me"));
    assert_eq!(nginx.get("/").status, 401);
}

#[test]
fn a_file_that_becomes_readable_is_used() {
    let key = SigningKey::generate("a");
    let builder = NginxBuilder::new().jwks(&jwks(&[&key]));
    let path = builder.scratch().join("public/jwks.json");
    let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode));
    // A folder in the file's place can't be read as a file, by whatever user nginx runs.
    std::fs::remove_file(&path).expect("the file");
    std::fs::create_dir(&path).expect("a folder");
    let nginx = builder.start();
    assert_eq!(nginx.get_with("/", &key.token("me")).status, 503);
    std::fs::remove_dir(&path).expect("the folder");
    nginx.replace_jwks(&jwks(&[&key]));
    mode(0o644).expect("its mode");
    settles(&nginx, "the file is used", |answer| answer.status == 200, &key.token("me"));
}

#[test]
fn one_unusable_key_does_not_spoil_the_others() {
    let key = SigningKey::generate("good");
    let strange = serde_json::json!({"keys": [
        {"kty": "strange", "kid": "odd"},
        {"kty": "EC", "crv": "P-256", "kid": "half", "x": "AA"},
        key.jwk(),
    ]});
    let nginx = Nginx::shipped(&strange.to_string());
    assert_eq!(nginx.get_with("/", &key.token("me")).status, 200);
    nginx.expect_log(&["[notice]", "jwt: keyset jwks gen=1 keys=1"]);
}

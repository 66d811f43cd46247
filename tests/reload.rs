//! nginx's reload: what changes takes effect, what is bad is refused, and the last good keys outlive it.

use std::time::Duration;

use system_tests::{Nginx, NginxBuilder, SigningKey, eventually, jwks, within};

#[test]
fn a_reload_takes_the_new_configuration() {
    let key = SigningKey::generate("a");
    let nginx = Nginx::shipped(&jwks(&[&key]));
    let token = key.token("me");
    assert_eq!(nginx.get("/").header("www-authenticate"), Some(r#"Bearer realm="service""#));
    nginx.edit("nginx.conf", "auth_jwt \"service\"", "auth_jwt \"changed\"");
    nginx.reload();
    assert_eq!(nginx.get("/").header("www-authenticate"), Some(r#"Bearer realm="changed""#));
    assert_eq!(nginx.get_with("/", &token).status, 200);
}

#[test]
fn a_bad_configuration_changes_nothing() {
    let key = SigningKey::generate("a");
    let nginx = Nginx::shipped(&jwks(&[&key]));
    let workers = nginx.workers();
    nginx.edit("jwtunnel/http.conf", "auth_jwt_leeway 60s", "auth_jwt_leeway sixty");
    nginx.send_reload();
    nginx.expect_log(&["[emerg]", "invalid value \"sixty\"", "jwtunnel/http.conf:"]);
    assert_eq!(nginx.get_with("/", &key.token("me")).status, 200);
    assert_eq!(nginx.workers(), workers);
}

#[test]
fn the_last_good_keys_outlive_a_reload() {
    let key = SigningKey::generate("a");
    let nginx = Nginx::shipped(&jwks(&[&key]));
    assert_eq!(nginx.get_with("/", &key.token("me")).status, 200);
    nginx.replace_jwks("broken");
    nginx.expect_log(&["jwt: keyset jwks rejected"]);
    nginx.reload();
    for _ in 0..10 {
        assert_eq!(nginx.get_with("/", &key.token("me")).status, 200);
    }
}

#[test]
fn without_optional_a_bad_file_fails_the_reload() {
    let key = SigningKey::generate("a");
    let nginx = NginxBuilder::new()
        .jwks(&jwks(&[&key]))
        .edit("jwtunnel/http.conf", "jwks.json optional;", "jwks.json;")
        .start();
    let workers = nginx.workers();
    nginx.replace_jwks("broken");
    nginx.send_reload();
    nginx.expect_log(&["[emerg]", "jwks.json"]);
    assert_eq!(nginx.get_with("/", &key.token("me")).status, 200);
    assert_eq!(nginx.workers(), workers);
}

#[test]
fn old_workers_leave_at_once() {
    let key = SigningKey::generate("a");
    let nginx = Nginx::shipped(&jwks(&[&key]));
    let old = nginx.workers();
    nginx.reload();
    // rel:N14: a timer of ours that does not let go would keep them.
    within(Duration::from_secs(5), "the old workers have left", || {
        old.iter().all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    });
}

#[test]
fn a_dead_workers_successor_knows_the_last_good_keys() {
    let (old, new) = (SigningKey::generate("old"), SigningKey::generate("new"));
    let nginx = Nginx::shipped(&jwks(&[&old]));
    nginx.replace_jwks(&jwks(&[&new]));
    within(Duration::from_secs(4), "both workers have the new keys", || {
        (0..10).all(|_| nginx.get_with("/", &new.token("me")).status == 200).then_some(())
    });
    nginx.replace_jwks("broken");
    eventually("both workers have looked at the file", || {
        (nginx.error_log().matches("jwt: keyset jwks rejected").count() >= 2).then_some(())
    });
    nginx.kill_workers();
    // From the first on, before they have looked at the file.
    for _ in 0..10 {
        assert_eq!(nginx.get_with("/", &new.token("me")).status, 200);
    }
    eventually("each of the four workers has looked at the file", || {
        (nginx.error_log().matches("jwt: keyset jwks rejected").count() >= 4).then_some(())
    });
    for _ in 0..10 {
        assert_eq!(nginx.get_with("/", &new.token("me")).status, 200);
        // Whether the version that can't be read has that key is not known: our fault.
        assert_eq!(nginx.get_with("/", &old.token("me")).status, 503);
    }
}

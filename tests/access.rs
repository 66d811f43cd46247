//! Who gets in under the shipped configuration, and what the others are told.

use serde_json::json;
use system_tests::{
    Answer, Nginx, NginxBuilder, SigningKey, ask, ask_raw, eventually, get, jwks, now,
};

const IDENTIFIER: &str = "0f7c3a52-9d3e-4b52-8f59-6f4f5f0f7a11";

fn refused(answer: &Answer) {
    assert_eq!(answer.status, 401, "{answer:?}");
    assert_eq!(
        answer.header("www-authenticate"),
        Some(r#"Bearer realm="service", error="invalid_token""#)
    );
    assert!(!answer.body.contains("identifier="), "the service was reached: {}", answer.body);
}

#[test]
fn without_a_token_the_client_is_asked_for_one() {
    let key = SigningKey::generate("a");
    let nginx = Nginx::shipped(&jwks(&[&key]));
    let answer = nginx.get("/");
    assert_eq!(answer.status, 401);
    // RFC 6750 §3.1: no error attribute, because nothing was wrong with a token.
    assert_eq!(answer.header("www-authenticate"), Some(r#"Bearer realm="service""#));
    let other = get(&nginx.url("/"), &[("authorization", "Basic dXNlcjpwYXNz")]);
    assert_eq!(other.header("www-authenticate"), Some(r#"Bearer realm="service""#));
    nginx.expect_log(&["[info]", "jwt: denied reason=missing status=401"]);
}

#[test]
fn a_valid_token_reaches_the_service() {
    let key = SigningKey::generate("a");
    let nginx = Nginx::shipped(&jwks(&[&key]));
    let answer = nginx.get_with("/some/path?x=1", &key.token(IDENTIFIER));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("www-authenticate"), None);
    // rel:N18: the service learns who it is, and never gets the token.
    let expected = format!("identifier={IDENTIFIER}\nauthorization=\nuri=/some/path?x=1\n");
    assert_eq!(answer.body, expected);
    // RFC 9110 §11.1: the scheme's case does not matter.
    let lower =
        get(&nginx.url("/"), &[("authorization", &format!("bearer {}", key.token(IDENTIFIER)))]);
    assert_eq!(lower.status, 200);
}

#[test]
fn a_client_cannot_name_itself() {
    let key = SigningKey::generate("a");
    let nginx = Nginx::shipped(&jwks(&[&key]));
    let bearer = format!("Bearer {}", key.token(IDENTIFIER));
    for name in ["x-identifier", "X-IDENTIFIER", "x_identifier"] {
        let answer = get(&nginx.url("/"), &[("authorization", &bearer), (name, "root")]);
        assert!(
            answer.body.starts_with(&format!("identifier={IDENTIFIER}\n")),
            "{name}: {}",
            answer.body
        );
    }
    let nobody = key.sign(&json!({"exp": now() + 300}));
    let bearer = format!("Bearer {nobody}");
    let answer = get(&nginx.url("/"), &[("authorization", &bearer), ("x-identifier", "root")]);
    assert!(answer.body.starts_with("identifier=\n"), "{}", answer.body);
}

#[test]
fn an_expired_token_is_refused_after_the_leeway() {
    let key = SigningKey::generate("a");
    let nginx = Nginx::shipped(&jwks(&[&key]));
    let expired = |ago: i64| key.sign(&json!({"identifier": IDENTIFIER, "exp": now() - ago}));
    // The shipped leeway is 60 s.
    assert_eq!(nginx.get_with("/", &expired(30)).status, 200);
    refused(&nginx.get_with("/", &expired(90)));
    nginx.expect_log(&["reason=expired status=401 kid=\"a\""]);
}

#[test]
fn a_token_is_refused_before_its_time() {
    let key = SigningKey::generate("a");
    let nginx = Nginx::shipped(&jwks(&[&key]));
    let from = |ahead: i64| key.sign(&json!({"nbf": now() + ahead, "exp": now() + 900}));
    assert_eq!(nginx.get_with("/", &from(30)).status, 200);
    refused(&nginx.get_with("/", &from(90)));
    nginx.expect_log(&["reason=not_yet status=401"]);
}

#[test]
fn a_token_without_an_end_is_refused() {
    let key = SigningKey::generate("a");
    let nginx = Nginx::shipped(&jwks(&[&key]));
    refused(&nginx.get_with("/", &key.sign(&json!({"identifier": IDENTIFIER}))));
    nginx.expect_log(&["reason=claim status=401"]);
}

#[test]
fn a_token_of_another_key_is_refused() {
    let (ours, stranger) = (SigningKey::generate("a"), SigningKey::generate("stranger"));
    // The same kid, another key: the signature decides, not the name.
    let impostor = SigningKey::generate("a");
    let nginx = Nginx::shipped(&jwks(&[&ours]));
    refused(&nginx.get_with("/", &stranger.token(IDENTIFIER)));
    nginx.expect_log(&["reason=key_unknown status=401 kid=\"stranger\""]);
    refused(&nginx.get_with("/", &impostor.token(IDENTIFIER)));
    nginx.expect_log(&["reason=sig status=401 kid=\"a\""]);
}

#[test]
fn a_tampered_token_is_refused() {
    let key = SigningKey::generate("a");
    let nginx = Nginx::shipped(&jwks(&[&key]));
    let (mine, other) = (key.token(IDENTIFIER), key.token("00000000-0000-0000-0000-000000000000"));
    let mine: Vec<&str> = mine.split('.').collect();
    let other: Vec<&str> = other.split('.').collect();
    // Another token's claims under this one's signature.
    refused(&nginx.get_with("/", &[mine[0], other[1], mine[2]].join(".")));
    // alg none, with and without the signature: {"alg":"none"}
    refused(&nginx.get_with("/", &["eyJhbGciOiJub25lIn0", mine[1], ""].join(".")));
    refused(&nginx.get_with("/", &["eyJhbGciOiJub25lIn0", mine[1], mine[2]].join(".")));
    nginx.expect_log(&["reason=sig "]);
    nginx.expect_log(&["reason=alg "]);
}

#[test]
fn garbage_is_refused() {
    let key = SigningKey::generate("a");
    let nginx = Nginx::shipped(&jwks(&[&key]));
    let long = "a".repeat(17 * 1024);
    for garbage in ["garbage", "a.b", "a.b.c", "..", "a.b.c.d", "%00.%00.%00", &long] {
        refused(&nginx.get_with("/", garbage));
    }
    nginx.expect_log(&["reason=malformed "]);
    nginx.expect_log(&["reason=too_large "]);
    // And it still serves those who have a good one.
    assert_eq!(nginx.get_with("/", &key.token(IDENTIFIER)).status, 200);
}

#[test]
fn no_token_is_in_any_log() {
    let key = SigningKey::generate("a");
    let nginx = Nginx::shipped(&jwks(&[&key]));
    let tokens = [
        key.token(IDENTIFIER),
        SigningKey::generate("b").token(IDENTIFIER),
        key.sign(&json!({"exp": 1})),
        "canary-garbage-5b1e.canary.canary".to_owned(),
    ];
    for token in &tokens {
        let _ = nginx.get_with("/", token);
        let _ = nginx.get_with("/netunnel/version", token);
    }
    nginx.expect_log(&["reason=malformed "]);
    eventually("each request is in the access log", || {
        (nginx.access_log().lines().count() >= 2 * tokens.len()).then_some(())
    });
    for part in tokens.iter().flat_map(|token| token.split('.')) {
        // A header without secrets is the same for every token of a key; claims and signature are not.
        if part.starts_with("eyJ0eXAi") || part == "canary" {
            continue;
        }
        assert!(!nginx.error_log().contains(part), "in the error log: {part}");
        assert!(!nginx.access_log().contains(part), "in the access log: {part}");
    }
}

#[test]
fn a_cookie_can_carry_the_token() {
    let key = SigningKey::generate("a");
    let nginx = NginxBuilder::new()
        .jwks(&jwks(&[&key]))
        .with(
            "server { listen LISTEN; server_name cookie;
               location / { auth_jwt \"cookie\" token=$cookie_session; proxy_pass http://SERVICE; } }",
        )
        .start();
    let token = key.token(IDENTIFIER);
    let with = |name: &str, value: &str| get(&nginx.url("/"), &[("host", "cookie"), (name, value)]);
    assert_eq!(with("cookie", &format!("a=b; session={token}")).status, 200);
    // The place is this one only.
    let elsewhere = with("authorization", &format!("Bearer {token}"));
    assert_eq!(elsewhere.status, 401);
    let bad = with("cookie", "session=garbage");
    assert_eq!(
        bad.header("www-authenticate"),
        Some(r#"Bearer realm="cookie", error="invalid_token""#)
    );
}

#[test]
fn only_listed_paths_of_the_daemon_can_be_reached() {
    let key = SigningKey::generate("a");
    // Nobody listens where the daemon would: what gets through is a 502.
    let nginx = Nginx::shipped(&jwks(&[&key]));
    let bearer = format!("Bearer {}", key.token(IDENTIFIER));
    for path in ["authenticate", "refresh", "validate", "jwks"] {
        let answer = ask("POST", &nginx.url(&format!("/jwthenticator/{path}")), &[], Some("{}"));
        assert_eq!(answer.status, 502, "{path}");
    }
    for path in
        ["version", "channels", "channels/1", "channels/1/connect", "channels/1/tunnels/1/connect"]
    {
        let path = format!("/netunnel/{path}");
        assert_eq!(get(&nginx.url(&path), &[("authorization", &bearer)]).status, 502, "{path}");
        assert_eq!(nginx.get(&path).status, 401, "{path}");
    }
    let closed = [
        "/jwthenticator/",
        "/jwthenticator/register_key",
        "/jwthenticator/is_key_registered",
        "/jwthenticator/validate_request",
        "/jwthenticator/metrics",
        "/jwthenticator/authenticate/",
        "/jwthenticator/jwks/../register_key",
        "/jwthenticator/%72egister_key",
        "/netunnel/",
        "/netunnel/peers",
        "/netunnel/config/factory-reset",
        "/netunnel/versions",
        "/netunnel/channels/../peers",
        "/netunnel/channels/%2e%2e/peers",
        "/netunnel/channels/..%2fpeers",
        "/netunnel//peers",
    ];
    for path in closed {
        // The path decides before the token does.
        assert_eq!(ask_raw(nginx.port().address(), path, &[]), 403, "{path}");
        let with = [("Authorization", bearer.as_str())];
        assert_eq!(ask_raw(nginx.port().address(), path, &with), 403, "{path}");
    }
}

#[test]
fn a_dead_daemon_stops_no_validation() {
    let key = SigningKey::generate("a");
    let nginx = Nginx::shipped(&jwks(&[&key]));
    assert_eq!(nginx.get("/jwthenticator/jwks").status, 502);
    assert_eq!(nginx.get_with("/", &key.token(IDENTIFIER)).status, 200);
    refused(&nginx.get_with("/", "garbage"));
}

#[test]
fn satisfy_any_lets_either_way_in() {
    let key = SigningKey::generate("a");
    let nginx = NginxBuilder::new()
        .jwks(&jwks(&[&key]))
        .with(
            "server { listen LISTEN; server_name either; satisfy any;
               location / { allow 127.0.0.1; deny all; auth_jwt \"either\"; proxy_pass http://SERVICE; }
               location /token { deny all; auth_jwt \"either\"; proxy_pass http://SERVICE; } }",
        )
        .start();
    let by_address = get(&nginx.url("/"), &[("host", "either")]);
    assert_eq!(by_address.status, 200);
    // rel:N17: no challenge on an answer that is none.
    assert_eq!(by_address.header("www-authenticate"), None);
    let bearer = format!("Bearer {}", key.token(IDENTIFIER));
    let by_token = get(&nginx.url("/token"), &[("host", "either"), ("authorization", &bearer)]);
    assert_eq!(by_token.status, 200);
    let neither = get(&nginx.url("/token"), &[("host", "either")]);
    assert_eq!(neither.status, 401);
    assert_eq!(neither.header("www-authenticate"), Some(r#"Bearer realm="either""#));
}

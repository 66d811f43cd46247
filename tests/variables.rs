//! What the service behind nginx learns from the token.

use serde_json::json;
use system_tests::{Nginx, NginxBuilder, SigningKey, get, jwks, now};

fn start(key: &SigningKey) -> Nginx {
    NginxBuilder::new()
        .jwks(&jwks(&[key]))
        .with(
            r#"
            server {
                listen LISTEN;
                server_name claims;
                auth_jwt "claims";
                location /claims { proxy_set_header X-Identifier "$jwt_claims"; proxy_pass http://SERVICE; }
                location /payload { proxy_set_header X-Identifier "$jwt_payload"; proxy_pass http://SERVICE; }
                location /kid { proxy_set_header X-Identifier "$jwt_header_kid $jwt_header_alg"; proxy_pass http://SERVICE; }
                location /one {
                    proxy_set_header X-Identifier
                        "$jwt_claim_identifier|$jwt_claim_level|$jwt_claim_ok|$jwt_claim_nothing|$jwt_claim_groups|$jwt_claim_deep|$jwt_claim_absent|$jwt_claim_umlaut";
                    proxy_pass http://SERVICE;
                }
                location /broken { proxy_set_header X-Identifier "<$jwt_claim_broken>"; proxy_pass http://SERVICE; }
                location /off { auth_jwt off; proxy_set_header X-Identifier "<$jwt_claim_identifier>"; proxy_pass http://SERVICE; }
                location /peek { auth_jwt off token=$http_x_token; proxy_set_header X-Identifier "<$jwt_claim_identifier>"; proxy_pass http://SERVICE; }
            }
            "#,
        )
        .start()
}

fn seen(nginx: &Nginx, path: &str, token: &str) -> String {
    let bearer = format!("Bearer {token}");
    let answer = get(
        &nginx.url(path),
        &[("host", "claims"), ("authorization", &bearer), ("x-token", token)],
    );
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    let line = answer.body.lines().next().expect("a line");
    line.strip_prefix("identifier=").expect("the header").to_owned()
}

#[test]
fn claims_become_headers() {
    let key = SigningKey::generate("the kid");
    let nginx = start(&key);
    let exp = now() + 300;
    let token = key.sign(&json!({
        "identifier": "me", "level": 7, "ok": true, "nothing": null, "groups": ["a", "b"],
        "deep": {"z": 1, "a": [2]}, "umlaut": "ä", "exp": exp,
    }));
    assert_eq!(seen(&nginx, "/one", &token), r#"me|7|true||a,b|{"a":[2],"z":1}||ä"#);
    assert_eq!(seen(&nginx, "/kid", &token), "the kid ES256");
}

#[test]
fn all_claims_can_be_had_at_once() {
    let key = SigningKey::generate("a");
    let nginx = start(&key);
    let exp = now() + 300;
    let token = key.sign(&json!({"b": 1, "a": "x", "exp": exp}));
    assert_eq!(seen(&nginx, "/claims", &token), format!(r#"{{"a":"x","b":1,"exp":{exp}}}"#));
    let payload: serde_json::Value =
        serde_json::from_str(&seen(&nginx, "/payload", &token)).expect("JSON");
    assert_eq!(payload, json!({"b": 1, "a": "x", "exp": exp}));
}

#[test]
fn a_claim_cannot_add_a_header() {
    let key = SigningKey::generate("a");
    let nginx = start(&key);
    let token = key.sign(&json!({"broken": "x\r\nX-Admin: yes", "exp": now() + 300}));
    assert_eq!(seen(&nginx, "/broken", &token), "<>");
}

#[test]
fn claims_are_those_of_a_verified_token_only() {
    let (key, stranger) = (SigningKey::generate("a"), SigningKey::generate("b"));
    let nginx = start(&key);
    assert_eq!(seen(&nginx, "/off", &key.token("me")), "<>");
    assert_eq!(seen(&nginx, "/peek", &key.token("me")), "<me>");
    assert_eq!(seen(&nginx, "/peek", &stranger.token("me")), "<>");
    assert_eq!(seen(&nginx, "/peek", "garbage"), "<>");
}

#[test]
fn the_access_log_names_the_identifier() {
    let key = SigningKey::generate("a");
    let nginx = Nginx::shipped(&jwks(&[&key]));
    assert_eq!(nginx.get_with("/some?secret=1", &key.token("0f7c3a52")).status, 200);
    // The service behind it writes to the same log, and knows nobody.
    let log = system_tests::eventually("the client's line in the access log", || {
        Some(nginx.access_log()).filter(|log| log.contains("127.0.0.1 0f7c3a52 ["))
    });
    assert!(log.contains("\"GET /some\""), "{log}");
    assert!(!log.contains("secret"), "{log}");
}

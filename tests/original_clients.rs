//! JWThenticator's own clients, unmodified, and the way its sites ask nginx to check tokens.

use std::process::Command;

use serde_json::{Value, json};
use system_tests::{Daemon, Gateway, NginxBuilder, SigningKey, get, python, repository};

/// jw:T41 with `internal` and `public` as the clients' servers, `protected` as a page behind nginx.
fn run_clients(internal: &str, public: &str, protected: &str) {
    let identifier = "7d2b0d0c-8d7e-4a51-9f0c-3f1f8f3f4f11";
    let output = Command::new(python())
        .arg(repository().join("tests/python/original_clients.py"))
        .args([internal, public, protected, identifier, "a key of the original's client"])
        // Its library makes a database when it is imported.
        .env("DB_URI", "sqlite://")
        .env("ASYNC_URI", "sqlite+aiosqlite://")
        .output()
        .expect("python");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let results: Vec<Value> =
        said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let expected = [
        ("registered before", json!(false)),
        ("registered after", json!(true)),
        ("authenticate", json!([true, 128, false])),
        ("refresh", json!(true)),
        ("refresh token again", json!(true)),
        ("decorator", json!(200)),
        ("decorator, first request", json!(200)),
        ("protected by nginx", json!(200)),
        ("renewed after 401", json!(200)),
        ("decorator, no header", json!(403)),
        ("decorator, garbage", json!(401)),
        ("decorator, malformed", json!(400)),
        ("unknown key", json!("refused")),
    ];
    let expected: Vec<Value> = expected
        .into_iter()
        .map(|(what, result)| json!({"what": what, "result": result}))
        .collect();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(results, expected, "{errors}");
    assert!(output.status.success(), "{errors}");
}

/// jw:T41.
#[test]
fn t41_the_originals_clients_and_its_decorator_go_on() {
    let gateway = Gateway::start();
    let public = format!("http://{}", gateway.daemon.public().address());
    run_clients(&gateway.daemon.internal(""), &public, &gateway.nginx.url("/"));
}

/// jw:T41 through the shipped configuration of nginx.
#[test]
fn t41_the_originals_clients_and_its_decorator_go_on_through_nginx() {
    let gateway = Gateway::start();
    let public = gateway.nginx.url("/jwthenticator/");
    run_clients(&gateway.daemon.internal(""), &public, &gateway.nginx.url("/"));
}

/// jw:T43: sites that let nginx ask the service about each request, as the original's README shows.
#[test]
fn t43_auth_request_gets_the_originals_answers() {
    let daemon = Daemon::start("");
    let client = daemon.register();
    let login = json!({"key": client.key, "identifier": client.identifier}).to_string();
    let url = format!("http://{}/authenticate", daemon.public().address());
    let answer = system_tests::ask("POST", &url, &[], Some(&login));
    let answer: Value = serde_json::from_str(&answer.body).expect("JSON");
    let token = answer["jwt"].as_str().expect("a token");
    let nginx = NginxBuilder::bare(&format!(
        "server {{ listen LISTEN;
            location /page/ {{ auth_request /check; alias DIR/public/; }}
            location = /check {{ internal; proxy_pass http://{}/validate_request;
                proxy_pass_request_body off; proxy_set_header Content-Length \"\"; }} }}",
        daemon.public().address()
    ))
    .file("index.txt", "reached")
    .start();
    let status = |authorization: Option<&str>| {
        let headers: Vec<_> =
            authorization.map(|value| ("authorization", value)).into_iter().collect();
        get(&nginx.url("/page/index.txt"), &headers).status
    };
    let bearer = format!("Bearer {token}");
    assert_eq!(status(Some(&bearer)), 200);
    assert_eq!(status(None), 403);
    assert_eq!(status(Some("Bearer")), 403);
    assert_eq!(status(Some("Bearer garbage")), 401);
    assert_eq!(status(Some(&bearer[..bearer.len() - 4])), 401);
    // Signed by the service's own key, and expired.
    let keys = std::fs::read_dir(daemon.scratch().join("data/keys")).expect("its keys");
    let pem = keys
        .filter_map(Result::ok)
        .find(|entry| entry.path().extension().is_some_and(|e| e == "pem"));
    let pem = std::fs::read(pem.expect("a key").path()).expect("the key");
    let now = system_tests::now();
    let claims = json!({"token_id": "7d2b0d0c-8d7e-4a51-9f0c-3f1f8f3f4f11",
        "identifier": client.identifier, "iat": now - 200_000, "exp": now - 100_000});
    let key = jsonwebtoken::EncodingKey::from_rsa_pem(&pem).expect("an RSA key");
    let header = jsonwebtoken::decode_header(token).expect("a header");
    let expired = jsonwebtoken::encode(&header, &claims, &key).expect("a token");
    assert_eq!(status(Some(&format!("Bearer {expired}"))), 401);
    // And one of a key that is not the service's.
    let foreign = SigningKey::generate("k").token(&client.identifier);
    assert_eq!(status(Some(&format!("Bearer {foreign}"))), 401);
}

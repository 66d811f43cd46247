//! An axum service behind `verify::Verifier`, with the keys and the revocations of a real daemon.

use std::path::Path;
use std::time::Duration;

use crate::issuer_harness::{Answer, Daemon, Options, PATIENCE, jwtunnel};
use axum::Router;
use axum::routing::get;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use jwtunnel::client::{Client, Secret};
use jwtunnel::clock::Clock;
use jwtunnel::verify::{Keys, Policy, TokenClaims, Verified, Verifier, VerifierBuilder};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

const U: Uuid = Uuid::from_u128(0x7d2b_0d0c_8d7e_4a51_9f0c_3f1f_8f3f_4f11);

/// The base64url form of a secret that is only for tests.
const TEST_KEY: &str = "dGhpcyBrZXkgaXMgb25seSBmb3IgdGVzdHMsIDMyKyBieXRlcw";
const TEST_SECRET: &[u8] = b"this key is only for tests, 32+ bytes";

#[derive(Deserialize)]
struct Ours {
    department: String,
}

/// A service that is served until the test ends.
struct Service {
    url: String,
    http: reqwest::Client,
}

impl Service {
    async fn start(verifier: Verifier) -> Self {
        let whoami = async |caller: Verified| caller.identifier().unwrap_or_default().into_owned();
        let department = async |TokenClaims(ours): TokenClaims<Ours>| ours.department;
        let router = Router::new()
            .route("/", get(whoami))
            .route("/department", get(department))
            .layer(verifier)
            // Below the layer: nothing protects it.
            .route("/open", get(async |_: Verified| "never"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, http: reqwest::Client::builder().no_proxy().build().unwrap() }
    }

    async fn get(&self, path: &str, authorization: &[&str]) -> Answer {
        let mut request = self.http.get(format!("{}{path}", self.url));
        for value in authorization {
            request = request.header("authorization", *value);
        }
        Answer::of(request.send().await.unwrap()).await
    }

    async fn with(&self, token: &str) -> Answer {
        self.get("/", &[&format!("Bearer {token}")]).await
    }

    async fn status(&self, token: &str) -> u16 {
        self.with(token).await.status.as_u16()
    }

    /// Waits until the token gets this status.
    async fn becomes(&self, token: &str, status: u16) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = self.status(token).await;
            if now == status {
                return;
            }
            assert!(Instant::now() < deadline, "{now} instead of {status}");
            sleep(Duration::from_millis(50)).await;
        }
    }
}

fn of_daemon(daemon: &Daemon) -> VerifierBuilder {
    Verifier::builder(Keys::file(daemon.path("public/jwks.json")))
        .revocation_file(daemon.path("public/revoked.json"))
}

fn challenge(answer: &Answer) -> &str {
    answer.headers["www-authenticate"].to_str().unwrap()
}

fn revoke(daemon: &Daemon, token: &str) {
    let id = crate::issuer_harness::claims(token)["token_id"].as_str().unwrap().to_owned();
    run(daemon, &["token", "revoke", "--token-id", &id]);
}

fn run(daemon: &Daemon, arguments: &[&str]) {
    let server = format!("http://{}", daemon.internal);
    let arguments = [arguments, &["--server", &server]].concat();
    let (code, _, err) = jwtunnel(&arguments, "");
    assert_eq!(code, 0, "{err}");
}

/// rel:0.1: what each kind of caller learns.
#[tokio::test]
async fn a_request_needs_a_token_of_the_daemon() {
    let daemon = Daemon::start(Options::default()).await;
    let (token, refresh) = daemon.tokens("K", U).await;
    let service = Service::start(of_daemon(&daemon).realm("api").build().await.unwrap()).await;
    for missing in [&[][..], &["Basic eDp5"], &["Bearer"]] {
        let answer = service.get("/", missing).await;
        assert_eq!((answer.status.as_u16(), challenge(&answer)), (401, "Bearer realm=\"api\""));
    }
    let good = format!("Bearer {token}");
    let mut cut = good.clone();
    cut.pop();
    for bad in [&["Bearer x"][..], &[&cut], &[&format!("Bearer {refresh}")], &[&good, &good]] {
        let answer = service.get("/", bad).await;
        let expected = "Bearer realm=\"api\", error=\"invalid_token\"";
        assert_eq!((answer.status.as_u16(), challenge(&answer)), (401, expected), "{bad:?}");
        // The reason is for the log.
        answer.is(401, json!({"error": "the token is not valid"}));
    }
    let answer = service.get("/", &[&good]).await;
    assert_eq!((answer.status.as_u16(), answer.text), (200, U.to_string()));
    // Good, but without the claim that the handler needs.
    let answer = service.get("/department", &[&good]).await;
    let expected = "Bearer realm=\"api\", error=\"insufficient_scope\"";
    assert_eq!((answer.status.as_u16(), challenge(&answer)), (403, expected));
    // A handler that is not behind the layer fails, instead of being open.
    assert_eq!(service.get("/open", &[&good]).await.status, 500);
}

/// rel:K12 and the revocation file of design.md section 4.
#[tokio::test]
async fn new_keys_are_known_at_once_and_what_is_revoked_is_refused() {
    let daemon = Daemon::start(Options::default()).await;
    let (old, _) = daemon.tokens("K", U).await;
    let service = Service::start(of_daemon(&daemon).build().await.unwrap()).await;
    assert_eq!(service.status(&old).await, 200);
    run(&daemon, &["keys", "rotate", "--emergency"]);
    let (new, _) = daemon.authenticate("K", U).await;
    assert_eq!(service.status(&new).await, 200);
    assert_eq!(service.status(&old).await, 401);
    revoke(&daemon, &new);
    service.becomes(&new, 401).await;
    let (other, _) = daemon.authenticate("K", U).await;
    assert_eq!(service.status(&other).await, 200);
}

/// The client library against it: what was revoked is replaced, and the request repeated.
#[tokio::test]
async fn a_client_whose_token_is_refused_comes_back_with_another_one() {
    let daemon = Daemon::start(Options::default()).await;
    daemon.register("K", U).await;
    let service = Service::start(of_daemon(&daemon).build().await.unwrap()).await;
    let issuer = format!("http://{}", daemon.public);
    let client = Client::builder(&issuer).key(Secret::new("K")).build().await.unwrap();
    let answer = Answer::of(client.send(service.http.get(&service.url)).await.unwrap()).await;
    assert_eq!((answer.status.as_u16(), answer.text), (200, U.to_string()));
    let token = client.token().await.unwrap();
    revoke(&daemon, token.expose());
    service.becomes(token.expose(), 401).await;
    // A body that can be sent twice.
    let request = service.http.get(&service.url).body("twice");
    assert_eq!(client.send(request).await.unwrap().status(), 200);
    assert_ne!(client.token().await.unwrap().expose(), token.expose());
}

fn write_keys(path: &Path, kid: &str) {
    let set = json!({"keys": [{"kty": "oct", "alg": "HS256", "kid": kid, "k": TEST_KEY}]});
    std::fs::write(path, set.to_string()).unwrap();
}

fn token(kid: &str, mut claims: Value) -> String {
    let header = Header { kid: Some(kid.into()), ..Header::new(Algorithm::HS256) };
    if claims["exp"].is_null() {
        claims["exp"] = (Clock::system().unix_now() + 600).into();
    }
    jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(TEST_SECRET)).unwrap()
}

/// rel:K2, rel:F3, rel:K4: a bad file is our fault, never the caller's.
#[tokio::test]
async fn a_bad_key_file_changes_nothing_and_is_never_a_401() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jwks.json");
    let verifier = || Verifier::builder(Keys::file(&file));
    let error = verifier().build().await.unwrap_err().to_string();
    assert!(error.contains("jwks.json"), "{error}");
    let service = Service::start(verifier().optional().build().await.unwrap()).await;
    let (one, two) = (token("1", json!({"sub": "a"})), token("2", json!({"sub": "b"})));
    let answer = service.with(&one).await;
    assert_eq!(answer.status, 503);
    assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
    assert!(!answer.headers.contains_key("www-authenticate"), "{answer:?}");
    write_keys(&file, "1");
    service.becomes(&one, 200).await;
    assert_eq!(service.status(&two).await, 401);
    for bad in ["", "{", r#"{"keys":[]}"#] {
        std::fs::write(&file, bad).unwrap();
        // The key may be in what we can't read.
        service.becomes(&two, 503).await;
        assert_eq!(service.status(&one).await, 200);
    }
    write_keys(&file, "2");
    service.becomes(&two, 200).await;
    assert_eq!(service.status(&one).await, 401);
}

#[tokio::test]
async fn the_policy_decides_what_a_good_token_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jwks.json");
    write_keys(&file, "1");
    let policy = Policy {
        issuer: Some("i".into()),
        audience: vec!["a".into()],
        scope: vec!["s".into()],
        require_exp: true,
        ..Policy::default()
    };
    let verifier = Verifier::builder(Keys::file(&file)).policy(policy).build().await.unwrap();
    let service = Service::start(verifier).await;
    let full = json!({"iss": "i", "aud": "a", "scope": "s t", "sub": "x", "department": "d"});
    let answer =
        service.get("/department", &[&format!("Bearer {}", token("1", full.clone()))]).await;
    assert_eq!((answer.status.as_u16(), answer.text.as_str()), (200, "d"));
    for (claim, value, status) in [
        ("iss", json!("other"), 401),
        ("aud", json!(["other"]), 401),
        ("exp", json!(Clock::system().unix_now() - 5), 401),
        ("scope", json!("t"), 403),
    ] {
        let mut claims = full.clone();
        claims[claim] = value;
        assert_eq!(service.status(&token("1", claims)).await, status, "{claim}");
    }
    let bad = Verifier::builder(Keys::file(&file)).realm("a\"b").build().await;
    assert!(bad.unwrap_err().to_string().contains("realm"));
}

#[tokio::test]
async fn keys_of_a_url_outlive_its_server() {
    let daemon = Daemon::start(Options::default()).await;
    let (token, _) = daemon.tokens("K", U).await;
    let url = format!("http://{}/jwks", daemon.public);
    let verifier = Verifier::builder(Keys::url(&url)).build().await.unwrap();
    let service = Service::start(verifier).await;
    assert_eq!(service.status(&token).await, 200);
    drop(daemon);
    assert_eq!(service.status(&token).await, 200);
    let error = Verifier::builder(Keys::url(&url)).build().await.unwrap_err().to_string();
    assert!(error.contains(&url), "{error}");
    let optional = Verifier::builder(Keys::url(&url)).optional().build().await.unwrap();
    assert_eq!(Service::start(optional).await.status(&token).await, 503);
    let plain = Verifier::builder(Keys::url("http://gateway.example/jwks")).build().await;
    assert!(plain.unwrap_err().to_string().contains("expected https"));
}

//! Tokens and keys as other programs see them: /validate, /validate_request, /jwks, the JWKS file.
//! Tokens are made and checked with a library of its own here, independent of the daemon's verifier.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::issuer_harness::{AS_ORIGINAL, Daemon, Options, PATIENCE, header, jwtunnel};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, jwk::JwkSet};
use serde_json::{Value, json};
use uuid::Uuid;

const U: Uuid = Uuid::from_u128(0x7d2b_0d0c_8d7e_4a51_9f0c_3f1f_8f3f_4f11);

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

fn good_claims() -> Value {
    json!({"token_id": Uuid::new_v4(), "identifier": U, "iat": now(), "exp": now() + 600})
}

/// `claims` signed with the daemon's own key.
struct Signer {
    key: EncodingKey,
    kid: String,
}

impl Signer {
    async fn of(daemon: &Daemon) -> Self {
        let jwks = daemon.get("/jwks").await.json();
        Self {
            key: EncodingKey::from_rsa_pem(&daemon.signing_key()).unwrap(),
            kid: jwks["keys"][0]["kid"].as_str().unwrap().into(),
        }
    }

    fn sign(&self, claims: &Value) -> String {
        self.sign_as(Algorithm::RS256, Some(self.kid.clone()), claims)
    }

    fn sign_as(&self, algorithm: Algorithm, kid: Option<String>, claims: &Value) -> String {
        let header = Header { kid, ..Header::new(algorithm) };
        jsonwebtoken::encode(&header, claims, &self.key).unwrap()
    }

    fn with(&self, name: &str, value: Value) -> String {
        let mut claims = good_claims();
        claims[name] = value;
        self.sign(&claims)
    }

    fn without(&self, name: &str) -> String {
        let mut claims = good_claims();
        claims.as_object_mut().unwrap().remove(name);
        self.sign(&claims)
    }
}

#[tokio::test]
async fn t28_t29_validate() {
    let daemon = Daemon::start(Options::issuer(AS_ORIGINAL)).await;
    let (jwt, refresh_token) = daemon.tokens("K", U).await;
    daemon.validate(&jwt).await.is(200, json!({"result": true, "message": null}));
    let body = json!({"jwt": jwt, "x": 1}).to_string();
    daemon.post("/validate", body).await.is(400, json!({"x": ["Unknown field."]}));
    let missing = json!({"jwt": ["Missing data for required field."]});
    daemon.post("/validate", "{}").await.is(400, missing);
    let null = json!({"jwt": ["Field may not be null."]});
    daemon.post("/validate", "{\"jwt\":null}").await.is(400, null);

    let signer = Signer::of(&daemon).await;
    let claims = good_claims();
    let kid = Some(signer.kid.clone());
    // The original looks at no kid: a good token is good with any.
    for kid in [kid.clone(), None, Some("another".into())] {
        let token = signer.sign_as(Algorithm::RS256, kid, &claims);
        assert_eq!(daemon.validate(&token).await.status, 200);
        assert_eq!(daemon.validate_request(Some(&format!("Bearer {token}"))).await.status, 200);
    }
    let good = signer.sign(&claims);
    let (head, tail) = good.split_once('.').unwrap();
    let none = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{}", tail);
    let other = Signer {
        key: EncodingKey::from_rsa_pem(
            jwtunnel::signing_key::SigningKey::generate(
                jwtunnel::config::SigningAlgorithm::Rs256,
                jwtunnel::config::RsaBits::B2048,
            )
            .unwrap()
            .to_pem()
            .unwrap()
            .as_bytes(),
        )
        .unwrap(),
        kid: signer.kid.clone(),
    };
    // HS256 with the public key as the secret.
    let spki = daemon.get("/jwks").await.json()["keys"][0]["x5c"][0].clone();
    let confused = jsonwebtoken::encode(
        &Header { kid: kid.clone(), ..Header::new(Algorithm::HS256) },
        &claims,
        &EncodingKey::from_secret(spki.as_str().unwrap().as_bytes()),
    )
    .unwrap();
    for (what, token) in [
        ("cut", good[..good.len() - 2].to_owned()),
        ("abc", "abc".to_owned()),
        ("empty", String::new()),
        ("three dots", "...".to_owned()),
        ("another key", other.sign(&claims)),
        ("none", none.clone()),
        ("none, unsigned", format!("{}.", none.rsplit_once('.').unwrap().0)),
        ("RS512", signer.sign_as(Algorithm::RS512, kid.clone(), &claims)),
        ("PS256", signer.sign_as(Algorithm::PS256, kid.clone(), &claims)),
        ("HS256", confused),
        ("refresh token", refresh_token),
        ("crit", format!("eyJhbGciOiJSUzI1NiIsImNyaXQiOlsieCJdLCJ4IjoxfQ.{tail}")),
        ("no payload", format!("{head}..{}", tail.rsplit_once('.').unwrap().1)),
        ("long", "a".repeat(100_000)),
    ] {
        let answer = daemon.validate(&token).await;
        assert_eq!((answer.status.as_u16(), answer.text.as_str()), (401, "{}"), "{what}");
        if !token.is_empty() && token.len() < 10_000 {
            let answer = daemon.validate_request(Some(&format!("Bearer {token}"))).await;
            assert_eq!((answer.status.as_u16(), answer.text.as_str()), (401, "{}"), "{what}");
        }
    }
}

#[tokio::test]
async fn t30_claims_of_a_token_that_is_ours() {
    let daemon = Daemon::start(Options::default()).await;
    let signer = Signer::of(&daemon).await;
    let fraction = json!(now() as f64 + 600.5);
    for (what, token) in [
        ("plain", signer.sign(&good_claims())),
        ("float exp", signer.with("exp", fraction)),
        ("iat within the leeway", signer.with("iat", json!(now() + 30))),
        ("sub", signer.with("sub", json!("x"))),
        ("key", signer.with("key", json!("x"))),
        ("empty aud", signer.with("aud", json!([]))),
    ] {
        assert_eq!(daemon.validate(&token).await.status, 200, "{what}");
    }
    for (what, token) in [
        ("expired", signer.with("exp", json!(now() - 1))),
        ("expires now", signer.with("exp", json!(now()))),
        ("iat in the future", signer.with("iat", json!(now() + 120))),
        ("iat no number", signer.with("iat", json!("x"))),
        ("nbf in the future", signer.with("nbf", json!(now() + 120))),
        ("aud, and we have none", signer.with("aud", json!(["a"]))),
        ("payload no object", signer.sign(&json!([1]))),
    ] {
        let answer = daemon.validate(&token).await;
        assert_eq!((answer.status.as_u16(), answer.text.as_str()), (401, "{}"), "{what}");
    }
    let missing = "Missing data for required field.";
    for (token, body) in [
        (signer.without("exp"), json!({"exp": [missing]})),
        (signer.without("iat"), json!({"iat": [missing]})),
        (signer.without("token_id"), json!({"token_id": [missing]})),
        (signer.without("identifier"), json!({"identifier": [missing]})),
        (signer.with("exp", json!("x")), json!({"exp": ["Not a valid integer."]})),
        (signer.with("identifier", json!("x")), json!({"identifier": ["Not a valid UUID."]})),
        (signer.with("identifier", json!(1)), json!({"identifier": ["Not a valid UUID."]})),
        (signer.with("role", json!("admin")), json!({"role": ["Unknown field."]})),
        (signer.with("nbf", json!(1)), json!({"nbf": ["Unknown field."]})),
        (signer.with("sub", json!(1)), json!({"sub": ["Not a valid string."]})),
    ] {
        daemon.validate(&token).await.is(400, body);
        let answer = daemon.validate_request(Some(&format!("Bearer {token}"))).await;
        answer.is(401, json!({}));
    }
}

#[tokio::test]
async fn t19_audiences_that_meet_and_that_do_not() {
    let daemon = Daemon::start(Options::issuer("audience = [\"a\", \"b\"]\n")).await;
    let signer = Signer::of(&daemon).await;
    for (aud, status) in
        [(json!(["b", "c"]), 200), (json!("a"), 200), (json!(["c"]), 401), (json!([1]), 401)]
    {
        let answer = daemon.validate(&signer.with("aud", aud.clone())).await;
        assert_eq!(answer.status, status, "{aud}");
    }
    assert_eq!(daemon.validate(&signer.sign(&good_claims())).await.status, 200);
}

#[tokio::test]
async fn t31_t32_validate_request() {
    let daemon = Daemon::start(Options::default()).await;
    let (jwt, _) = daemon.tokens("K", U).await;
    for value in [
        None,
        Some(String::new()),
        Some("Bearer".to_owned()),
        Some(format!("bearer {jwt}")),
        Some(format!("Basic {jwt}")),
        Some(format!("Bearer {jwt} x")),
        Some(format!("Bearer  {jwt}")),
        Some(format!("Bearer\t{jwt}")),
    ] {
        daemon.validate_request(value.as_deref()).await.is(403, json!({}));
    }
    daemon.validate_request(Some(&format!("Bearer {jwt}"))).await.is(200, json!({}));
    let bad = daemon.validate_request(Some("Bearer abc")).await;
    bad.is(401, json!({}));
    assert_eq!(bad.headers["www-authenticate"], "Bearer error=\"invalid_token\"");
    let signer = Signer::of(&daemon).await;
    let expired = format!("Bearer {}", signer.with("exp", json!(now() - 1)));
    daemon.validate_request(Some(&expired)).await.is(401, json!({}));
    daemon.post("/validate_request", "").await.is_text(405, "405: Method Not Allowed");
}

/// Checks `token` as a user of the JWKS would, with a library that knows nothing of the daemon.
fn verify_with_library(jwks: &[u8], token: &str) -> Result<Value, String> {
    let set: JwkSet = serde_json::from_slice(jwks).unwrap();
    let header = jsonwebtoken::decode_header(token).unwrap();
    let jwk = set.find(header.kid.as_deref().unwrap()).ok_or("no such kid")?;
    let mut validation = Validation::new(header.alg);
    validation.validate_aud = false;
    let key = DecodingKey::from_jwk(jwk).unwrap();
    jsonwebtoken::decode::<Value>(token.as_bytes(), &key, &validation)
        .map(|data| data.claims)
        .map_err(|error| error.to_string())
}

#[tokio::test]
async fn t33_t34_a_jwks_library_finds_the_key_and_verifies_with_every_algorithm() {
    for algorithm in ["RS256", "RS512", "PS256", "ES256", "ES384", "EdDSA"] {
        let options = Options::default().variable("JWTUNNEL_KEYS_ALGORITHM", algorithm);
        let daemon = Daemon::start(options).await;
        let (jwt, _) = daemon.tokens("K", U).await;
        let answer = daemon.get("/jwks").await;
        let document = answer.json();
        let key = &document["keys"][0];
        assert_eq!(document["keys"].as_array().unwrap().len(), 1);
        assert_eq!((key["alg"].as_str(), key["use"].as_str()), (Some(algorithm), Some("sig")));
        assert_eq!(key["kid"].as_str().unwrap().len(), 27);
        assert_eq!(answer.headers["cache-control"], "max-age=60");
        let file = std::fs::read(daemon.path("public/jwks.json")).unwrap();
        assert_eq!(file, answer.text.as_bytes(), "the file is the document");
        let claims = verify_with_library(&file, &jwt).unwrap();
        assert_eq!(claims["identifier"], U.to_string());
        assert_eq!(daemon.validate(&jwt).await.status, 200, "{algorithm}");
    }
}

#[tokio::test]
async fn k5_k8_rotation_keeps_every_token_valid_and_publishes_the_key_before_it_signs() {
    let daemon = Daemon::start(Options::default()).await;
    let (old, refresh_token) = daemon.tokens("K", U).await;
    let server = format!("http://{}", daemon.internal);
    let (code, out, err) =
        jwtunnel(&["keys", "rotate", "--now", "--json", "--server", &server], "");
    assert_eq!(code, 0, "{err}");
    let rotation: Value = serde_json::from_str(&out).unwrap();
    let new_kid = rotation["kid"].as_str().unwrap();
    assert!((1..=10).contains(&rotation["signs_in"].as_i64().unwrap()), "{rotation}");
    let file = || std::fs::read(daemon.path("public/jwks.json")).unwrap();
    // Published at once, and signing only later.
    assert!(String::from_utf8(file()).unwrap().contains(new_kid));
    assert_ne!(header(&daemon.authenticate("K", U).await.0)["kid"], new_kid);
    let deadline = Instant::now() + PATIENCE;
    let new = loop {
        let body = json!({"refresh_token": refresh_token, "identifier": U}).to_string();
        let answer = daemon.post("/refresh", body).await.json();
        let jwt = answer["jwt"].as_str().unwrap().to_owned();
        verify_with_library(&file(), &jwt).unwrap();
        if header(&jwt)["kid"] == new_kid {
            break jwt;
        }
        assert!(Instant::now() < deadline, "the new key does not sign");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let text = String::from_utf8(file()).unwrap();
    for private in ["\"d\"", "\"p\"", "\"q\"", "\"dp\"", "\"dq\"", "\"qi\"", "\"k\""] {
        assert!(!text.contains(private), "{private}");
    }
    let check = async |daemon: &Daemon| {
        for token in [&old, &new] {
            let file = std::fs::read(daemon.path("public/jwks.json")).unwrap();
            verify_with_library(&file, token).unwrap();
            assert_eq!(daemon.validate(token).await.status, 200);
        }
        assert_eq!(daemon.get("/jwks").await.json()["keys"].as_array().unwrap().len(), 2);
        assert_eq!(header(&daemon.authenticate("K", U).await.0)["kid"], new_kid);
    };
    check(&daemon).await;
    // And over a restart.
    let daemon = Daemon::start_in(daemon.stop().await, Options::default()).await;
    check(&daemon).await;
}

#[tokio::test]
async fn t38_given_key_files_are_made_kept_and_used_with_the_originals_claims() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name).display().to_string();
    let (public, private) = (path("rsa.pub"), path("rsa.pem"));
    let options = || {
        Options::default()
            .variable("RSA_PUBLIC_KEY_PATH", &public)
            .variable("RSA_PRIVATE_KEY_PATH", &private)
    };
    let daemon = Daemon::start_in(root, options()).await;
    let (jwt, _) = daemon.tokens("K", U).await;
    let mut names: Vec<_> =
        crate::issuer_harness::claims(&jwt).as_object().unwrap().keys().cloned().collect();
    names.sort();
    assert_eq!(names, ["exp", "iat", "identifier", "token_id"]);
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(std::fs::metadata(&private).unwrap().permissions().mode() & 0o777, 0o600);
    let server = format!("http://{}", daemon.internal);
    let (code, _, err) = jwtunnel(&["keys", "rotate", "--server", &server], "");
    assert_eq!(code, 1);
    assert!(err.contains("is not rotated"), "{err}");
    let daemon = Daemon::start_in(daemon.stop().await, options()).await;
    assert_eq!(daemon.validate(&jwt).await.status, 200);
    let kid = daemon.get("/jwks").await.json()["keys"][0]["kid"].clone();
    assert_eq!(header(&jwt)["kid"], kid);
}

/// jw:T37: with the public half alone, in a file or as text, tokens are validated and none are issued.
#[tokio::test]
async fn t37_a_public_key_alone_validates_and_issues_nothing() {
    let root = tempfile::tempdir().unwrap();
    let pair = KeyPair::make(root.path());
    let issuing = Daemon::start(
        Options::default()
            .variable("RSA_PUBLIC_KEY", &pair.public)
            .variable("RSA_PRIVATE_KEY", &pair.private),
    )
    .await;
    let (jwt, _) = issuing.tokens("K", U).await;
    let file = pair.public_file.display().to_string();
    // SubjectPublicKeyInfo and PKCS#1, as text and as file.
    for (name, value) in [
        ("RSA_PUBLIC_KEY", &pair.public),
        ("RSA_PUBLIC_KEY", &pair.public_pkcs1),
        ("RSA_PUBLIC_KEY_PATH", &file),
    ] {
        let mut daemon = Daemon::start(Options::default().variable(name, value)).await;
        daemon.validate(&jwt).await.is(200, json!({"result": true, "message": null}));
        daemon.validate_request(Some(&format!("Bearer {jwt}"))).await.is(200, json!({}));
        let kid = daemon.get("/jwks").await.json()["keys"][0]["kid"].clone();
        assert_eq!(header(&jwt)["kid"], kid, "{name}");
        daemon.register("K", U).await;
        let login = |key: &str| json!({"key": key, "identifier": U}).to_string();
        daemon.post("/authenticate", login("other")).await.is(401, json!({}));
        // Our own fault, so the client keeps its key.
        let answer = daemon.post("/authenticate", login("K")).await;
        answer.is(503, json!({}));
        daemon.wait_for(|line| line["event"] == "validation_only").await;
    }
}

/// Where the original takes its key from (jw:section 10), and what is said of keys that cannot be used.
#[tokio::test]
async fn keys_from_the_environment_are_used_and_wrong_ones_are_named() {
    let root = tempfile::tempdir().unwrap();
    let pair = KeyPair::make(root.path());
    let other = KeyPair::make(root.path());
    // The public half follows from the private one, in PKCS#8 or PKCS#1.
    let mut kids = Vec::new();
    for private in [&pair.private, &pair.private_pkcs1] {
        let daemon = Daemon::start(Options::default().variable("RSA_PRIVATE_KEY", private)).await;
        let (jwt, _) = daemon.tokens("K", U).await;
        assert_eq!(daemon.validate(&jwt).await.status, 200);
        kids.push(header(&jwt)["kid"].clone());
    }
    assert_eq!(kids[0], kids[1]);
    let file = pair.public_file.display().to_string();
    let missing = root.path().join("missing.pub").display().to_string();
    for (variables, parts) in [
        (
            vec![("RSA_PUBLIC_KEY", &other.public), ("RSA_PRIVATE_KEY", &pair.private)],
            ["RSA_PUBLIC_KEY is not the public key of RSA_PRIVATE_KEY", "openssl pkey"],
        ),
        (vec![("RSA_PUBLIC_KEY", &pair.private)], ["RSA_PUBLIC_KEY cannot be used", "line breaks"]),
        (vec![("RSA_PRIVATE_KEY", &pair.public)], ["RSA_PRIVATE_KEY cannot be used", "PKCS#8"]),
        (vec![("RSA_PUBLIC_KEY_PATH", &missing)], ["missing.pub", "RSA_PRIVATE_KEY_PATH"]),
        (vec![("RSA_PRIVATE_KEY_PATH", &file)], ["RSA_PRIVATE_KEY_PATH", "set both or neither"]),
    ] {
        let mut options = Options::default();
        for (name, value) in variables {
            options = options.variable(name, value);
        }
        let (code, err) = crate::issuer_harness::refusal(&options);
        // 2: what the configuration's text alone tells.
        assert!(code == 1 || code == 2, "{code}: {err}");
        for part in parts {
            assert!(err.contains(part), "no {part:?} in {err}");
        }
        assert!(!err.contains("BEGIN"), "a key is shown: {err}");
    }
}

/// An RSA key in every form in which it may be given, made by openssl.
struct KeyPair {
    private: String,
    private_pkcs1: String,
    public: String,
    public_pkcs1: String,
    public_file: std::path::PathBuf,
}

impl KeyPair {
    fn make(folder: &std::path::Path) -> Self {
        let run = |arguments: &[&str], input: &str| {
            use std::io::Write as _;
            let mut child = std::process::Command::new("openssl")
                .args(arguments)
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "openssl {arguments:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        let private =
            run(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"], "");
        let public = run(&["pkey", "-pubout"], &private);
        let public_file = folder.join(format!("{}.pub", Uuid::new_v4()));
        std::fs::write(&public_file, &public).unwrap();
        Self {
            private_pkcs1: run(&["rsa", "-traditional"], &private),
            public_pkcs1: run(&["rsa", "-RSAPublicKey_out"], &private),
            private,
            public,
            public_file,
        }
    }
}

/// A signature is checked once; all that can change is judged each time.
#[tokio::test]
async fn a_token_that_was_good_is_judged_anew() {
    let daemon = Daemon::start(Options::default()).await;
    let signer = Signer::of(&daemon).await;
    let answers = async |token: &str| {
        let body = json!({ "jwt": token }).to_string();
        daemon.post("/validate", body).await.status.as_u16()
    };
    // In time, and then not any more.
    let mut claims = good_claims();
    claims["exp"] = json!(now() + 3);
    let short = signer.sign(&claims);
    assert_eq!((answers(&short).await, answers(&short).await), (200, 200));
    let deadline = Instant::now() + PATIENCE;
    while answers(&short).await == 200 {
        assert!(Instant::now() < deadline, "it does not expire");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // The same token with a changed end is another one.
    let token = signer.sign(&good_claims());
    assert_eq!((answers(&token).await, answers(&token).await), (200, 200));
    let mut other = token.clone();
    let last = if other.pop() == Some('A') { 'B' } else { 'A' };
    let start = other.split_off(other.len() - 9);
    assert_eq!(answers(&format!("{other}{last}{start}")).await, 401);
    assert_eq!(answers(&format!("{token}A")).await, 401);
    // Revoked.
    let body = json!({ "jwt": token }).to_string();
    assert_eq!(daemon.post_internal("/revoke_token", body).await.status, 200);
    assert_eq!(answers(&token).await, 401);
    // Its key is dropped.
    let token = signer.sign(&good_claims());
    assert_eq!((answers(&token).await, answers(&token).await), (200, 200));
    let body = json!({"now": true, "emergency": true}).to_string();
    assert_eq!(daemon.post_internal("/rotate_signing_key", body).await.status, 200);
    assert_eq!(answers(&token).await, 401);
}

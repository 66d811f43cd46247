//! Defects that modules of this kind have had (mod:D1 to mod:D10), each tried on ours.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{KeyPair, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;
use system_tests::{Nginx, NginxBuilder, SigningKey, get, jwks, now};

/// A server of keys that keeps what it is sent.
struct KeyServer {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl KeyServer {
    /// Answers every request with `body`.
    fn start(body: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address").to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (body, seen) = (body.clone(), Arc::clone(&seen));
                thread::spawn(move || {
                    let mut stream = stream;
                    let mut text = Vec::new();
                    let mut buffer = [0; 4096];
                    while !text.windows(4).any(|end| end == b"\r\n\r\n") {
                        match stream.read(&mut buffer) {
                            Ok(0) | Err(_) => return,
                            Ok(read) => text.extend(&buffer[..read]),
                        }
                    }
                    seen.lock()
                        .expect("no panic")
                        .push(String::from_utf8_lossy(&text).into_owned());
                    let head = format!(
                        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                        body.len()
                    );
                    let _ = stream.write_all(head.as_bytes());
                    let _ = stream.write_all(body.as_bytes());
                });
            }
        });
        Self { address, requests }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("no panic").clone()
    }

    /// A server whose `/` asks for a token that a key of this one verifies.
    fn nginx(&self) -> Nginx {
        let text = format!(
            "server {{
                listen LISTEN;
                location = /_keys {{ internal; proxy_pass http://{}/keys; }}
                location / {{ auth_jwt x; auth_jwt_key_request /_keys; proxy_pass http://SERVICE; }}
            }}",
            self.address
        );
        NginxBuilder::bare(&text).start()
    }
}

/// mod:D1: a token that is accepted in the preaccess phase must not jump over limit_req.
#[test]
fn an_accepted_token_does_not_jump_over_a_rate_limit() {
    let key = SigningKey::generate("a");
    let text = "
        limit_req_zone $binary_remote_addr zone=one:1m rate=1r/m;
        auth_jwt_key_file DIR/public/jwks.json;
        server {
            listen LISTEN;
            location / { auth_jwt x; auth_jwt_phase preaccess; limit_req zone=one; proxy_pass http://SERVICE; }
        }";
    let nginx = NginxBuilder::bare(text).jwks(&jwks(&[&key])).start();
    let token = key.token("me");
    assert_eq!(nginx.get_with("/", &token).status, 200);
    for _ in 0..3 {
        assert_eq!(nginx.get_with("/", &token).status, 503, "one request a minute");
    }
    // And the decision is made in that phase: before the limit counts.
    assert_eq!(nginx.get("/").status, 401);
}

/// mod:D3: an internal redirect leads to other keys, and to another verdict.
#[test]
fn a_token_of_one_location_is_none_in_another_that_a_redirect_leads_to() {
    let (a, b) = (SigningKey::generate("a"), SigningKey::generate("b"));
    let text = "server {
            listen LISTEN;
            root DIR/public;
            location /tried/ { auth_jwt a; auth_jwt_key_file DIR/public/a.json; try_files /none /b/x; }
            location /missing/ { auth_jwt a; auth_jwt_key_file DIR/public/a.json; error_page 404 = /b/x; }
            location /named/ { auth_jwt a; auth_jwt_key_file DIR/public/a.json; error_page 404 = @b; }
            location /b/ { auth_jwt b; auth_jwt_key_file DIR/public/b.json; proxy_pass http://SERVICE; }
            location @b { auth_jwt b; auth_jwt_key_file DIR/public/b.json; proxy_pass http://SERVICE; }
        }";
    let nginx =
        NginxBuilder::bare(text).file("a.json", &jwks(&[&a])).file("b.json", &jwks(&[&b])).start();
    for path in ["/tried/x", "/missing/x", "/named/x"] {
        let answer = nginx.get_with(path, &a.token("me"));
        assert_eq!(answer.status, 401, "{path}: {}", answer.body);
        let challenge = answer.header("www-authenticate").expect("a challenge");
        assert!(challenge.starts_with("Bearer realm=\"b\""), "{path}: {challenge}");
    }
    assert_eq!(nginx.get_with("/b/x", &b.token("me")).status, 200);
}

/// mod:D4: no token, an error page that asks for one, and a revocation list.
#[test]
fn an_error_page_that_asks_for_a_token_ends_in_a_refusal() {
    let key = SigningKey::generate("a");
    let text = "server {
            listen LISTEN;
            auth_jwt_key_file DIR/public/jwks.json;
            auth_jwt_revocation_list_sub DIR/public/list.json;
            error_page 401 /error/;
            location / { auth_jwt x; proxy_pass http://SERVICE; }
            location /error/ { auth_jwt x; proxy_pass http://SERVICE; }
        }";
    let nginx = NginxBuilder::bare(text)
        .jwks(&jwks(&[&key]))
        .file("list.json", r#"{"mallory":{}}"#)
        .start();
    let workers = nginx.workers();
    for _ in 0..20 {
        assert_eq!(nginx.get("/").status, 401);
        assert_eq!(nginx.get_with("/", "garbage").status, 401);
    }
    assert_eq!(nginx.workers(), workers, "a worker has died");
    let token = key.sign(&json!({"sub": "alice", "exp": now() + 300}));
    assert_eq!(nginx.get_with("/", &token).status, 200);
}

/// mod:D5: a set that is larger than the buffer which nginx has for a subrequest's answer.
#[test]
fn a_large_key_set_comes_through_a_subrequest() {
    let key = SigningKey::generate("a");
    for size in [5_000, 200_000, 1024 * 1024] {
        let mut body = jwks(&[&key]);
        body.push_str(&" ".repeat(size - body.len()));
        let nginx = KeyServer::start(body).nginx();
        assert_eq!(nginx.get_with("/", &key.token("me")).status, 200, "{size} bytes");
    }
    let nginx = KeyServer::start(" ".repeat(1024 * 1024 + 1)).nginx();
    assert_eq!(nginx.get_with("/", &key.token("me")).status, 503);
    nginx.expect_log(&["[error]", "jwt: keyset /_keys rejected", "larger than 1048576 bytes"]);
}

/// mod:D6, rel:T1: a public key is no secret, in whatever form an attacker takes it for one.
#[test]
fn a_public_key_is_no_secret() {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
    let der: PublicKeyX509Der<'_> = pair.public_key().as_der().expect("its form");
    let body = STANDARD.encode(der.as_ref());
    let lines: Vec<&str> =
        body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("ASCII")).collect();
    let pem =
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"));
    let text = "server {
            listen LISTEN;
            auth_jwt_key_file DIR/public/keys.json keyval;
            location / { auth_jwt x; auth_jwt_claim_header X-Identifier identifier; proxy_pass http://SERVICE; }
        }";
    let nginx = NginxBuilder::bare(text).file("keys.json", &json!({"a": pem}).to_string()).start();
    let forged = |secret: &[u8], kid: Option<&str>| {
        let header = Header { kid: kid.map(str::to_owned), ..Header::new(Algorithm::HS256) };
        let claims = json!({"identifier": "root", "exp": now() + 300});
        jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(secret)).expect("a token")
    };
    let (trimmed, raw) = (pem.trim_end().as_bytes().to_vec(), der.as_ref().to_vec());
    for secret in [pem.as_bytes(), &trimmed, &raw, body.as_bytes()] {
        for kid in [Some("a"), None] {
            assert_eq!(nginx.get_with("/", &forged(secret, kid)).status, 401);
        }
    }
    nginx.expect_log(&["reason=alg status=401 kid=\"a\""]);
    // The genuine key works, and what the client says about itself does not reach the service.
    let claims = json!({"identifier": "me", "exp": now() + 300});
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256","kid":"a"}"#);
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(
        &aws_lc_rs::signature::RSA_PKCS1_SHA256,
        &aws_lc_rs::rand::SystemRandom::new(),
        signed.as_bytes(),
        &mut signature,
    )
    .expect("a signature");
    let bearer = format!("Bearer {signed}.{}", URL_SAFE_NO_PAD.encode(signature));
    let answer = get(&nginx.url("/"), &[("authorization", &bearer), ("x-identifier", "root")]);
    assert!(answer.body.starts_with("identifier=me\n"), "{answer:?}");
}

/// mod:D7: a variable means the same claim everywhere, whatever else other locations read.
#[test]
fn a_variable_names_its_claim_in_every_location() {
    let key = SigningKey::generate("a");
    let text = "
        log_format seen '$uri sub=<$jwt_claim_sub> role=<$jwt_claim_role>';
        auth_jwt_key_file DIR/public/jwks.json;
        server {
            listen LISTEN;
            access_log DIR/state/seen.log seen;
            location /one { auth_jwt x; add_header X-Seen \"$jwt_claim_role $jwt_claim_sub\"; proxy_pass http://SERVICE; }
            location /two { auth_jwt x; add_header X-Seen \"$jwt_claim_sub\"; proxy_pass http://SERVICE; }
            location /three { proxy_pass http://SERVICE; }
        }";
    let nginx = NginxBuilder::bare(text).jwks(&jwks(&[&key])).start();
    let token = key.sign(&json!({"sub": "alice", "role": "guest", "exp": now() + 300}));
    assert_eq!(nginx.get_with("/one", &token).header("x-seen"), Some("guest alice"));
    assert_eq!(nginx.get_with("/two", &token).header("x-seen"), Some("alice"));
    assert_eq!(nginx.get_with("/three", &token).status, 200);
    let log = system_tests::eventually("three requests in the log", || {
        let text = std::fs::read_to_string(nginx.scratch().join("state/seen.log")).ok()?;
        (text.lines().count() >= 3).then_some(text)
    });
    assert!(log.contains("/one sub=<alice> role=<guest>"), "{log}");
    assert!(log.contains("/two sub=<alice> role=<guest>"), "{log}");
    // Nothing is read where no token is asked for.
    assert!(log.contains("/three sub=<-> role=<->"), "{log}");
}

/// mod:D8: what is not valid drives nothing: neither an expired token nor one before its time.
#[test]
fn claims_of_an_expired_or_early_token_are_nowhere() {
    let key = SigningKey::generate("a");
    let text = "
        map $jwt_claim_sub $who { default nobody; ~. $jwt_claim_sub; }
        auth_jwt_key_file DIR/public/jwks.json;
        server {
            listen LISTEN;
            location / { auth_jwt x; add_header X-Who \"$who\" always; proxy_pass http://SERVICE; }
        }";
    let nginx = NginxBuilder::bare(text).jwks(&jwks(&[&key])).start();
    let who = |claims| {
        let answer = nginx.get_with("/", &key.sign(&claims));
        (answer.status, answer.header("x-who").map(str::to_owned))
    };
    let nobody = (401, Some("nobody".to_owned()));
    assert_eq!(who(json!({"sub": "alice", "exp": now() - 10})), nobody);
    assert_eq!(who(json!({"sub": "alice", "exp": now() + 300, "nbf": now() + 100})), nobody);
    assert_eq!(who(json!({"sub": "alice", "exp": now() + 300})), (200, Some("alice".to_owned())));
}

/// mod:D9: the key server learns nothing about the client.
#[test]
fn the_clients_headers_do_not_reach_the_key_server() {
    let key = SigningKey::generate("a");
    let keys = KeyServer::start(jwks(&[&key]));
    let nginx = keys.nginx();
    let bearer = format!("Bearer {}", key.token("me"));
    let headers = [
        ("authorization", bearer.as_str()),
        ("cookie", "session=secret"),
        ("x-anything", "secret"),
        ("range", "bytes=0-1"),
        ("if-modified-since", "Mon, 01 Jan 2035 00:00:00 GMT"),
    ];
    let answer =
        system_tests::ask("POST", &nginx.url("/"), &headers, Some("{\"body\":\"secret\"}"));
    assert_eq!(answer.status, 200, "{answer:?}");
    let requests = keys.requests();
    assert!(!requests.is_empty());
    for request in requests {
        assert!(request.starts_with("GET /keys HTTP/1."), "{request}");
        let lower = request.to_ascii_lowercase();
        for part in
            ["authorization", "cookie", "secret", "anything", "range", "modified", "content-"]
        {
            assert!(!lower.contains(part), "{part} in {request}");
        }
    }
}

/// mod:D10: the cookie can't be read by scripts or sent in the clear, and an answer tells no reason.
#[test]
fn the_cookie_is_guarded_and_a_refusal_tells_no_reason() {
    let key = SigningKey::generate("a");
    let text = "server {
            listen LISTEN;
            auth_jwt_key_file DIR/public/jwks.json;
            set $host_json '\"$host\"';
            location / {
                auth_jwt x token=$arg_jwt,$cookie_jwtcookie,$http_api_key;
                auth_jwt_set_cookie jwtcookie;
                auth_jwt_require_claim Host eq $host_json;
                proxy_pass http://SERVICE;
            }
        }";
    let nginx = NginxBuilder::bare(text).jwks(&jwks(&[&key])).start();
    let exp = now() + 300;
    let token = key.sign(&json!({"Host": "127.0.0.1", "exp": exp}));
    let answer = nginx.get(&format!("/?jwt={token}"));
    assert_eq!(answer.status, 200, "{answer:?}");
    let cookie = answer.header("set-cookie").expect("a cookie");
    assert!(cookie.starts_with(&format!(
        "jwtcookie={token}; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age="
    )));
    // With the cookie there is nothing to set, and the other places are read in their order.
    let cookie = format!("other=1; jwtcookie={token}");
    let answer = get(&nginx.url("/"), &[("cookie", &cookie)]);
    assert_eq!((answer.status, answer.header("set-cookie")), (200, None));
    assert_eq!(get(&nginx.url("/"), &[("api-key", &token)]).status, 200);
    // A token for another host.
    let other = key.sign(&json!({"Host": "other.example", "exp": exp}));
    let answer = get(&nginx.url("/"), &[("api-key", &other)]);
    assert_eq!((answer.status, answer.header("set-cookie")), (401, None));
    for text in ["Host", "claim", "reason", "other.example"] {
        assert!(!answer.body.contains(text), "{}", answer.body);
    }
}

//! Where nginx takes a request elsewhere, starts anew, or has no master: the verdict is always that of the place.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use serde_json::json;
use system_tests::{Nginx, NginxBuilder, SigningKey, ask, eventually, get, jwks, now};

fn start(a: &SigningKey, b: &SigningKey, server: &str) -> Nginx {
    NginxBuilder::bare(&format!("server {{ listen LISTEN; root DIR/public;\n{server}\n}}"))
        .file("a.json", &jwks(&[a]))
        .file("b.json", &jwks(&[b]))
        .file("index.html", "the page")
        .start()
}

/// rel:N3: every way from one location to another, between other keys, from off to on and back.
#[test]
fn the_verdict_is_that_of_the_location_that_answers() {
    let (a, b) = (SigningKey::generate("a"), SigningKey::generate("b"));
    let nginx = start(
        &a,
        &b,
        "location /to-b/ { auth_jwt a; auth_jwt_key_file DIR/public/a.json; error_page 404 = /b/x; }
         location /to-off/ { auth_jwt a; auth_jwt_key_file DIR/public/a.json; error_page 404 = /off/x; }
         location /off-to-b/ { error_page 404 = /b/x; }
         location /rewrite/ { rewrite ^ /b/x last; }
         location /dir/ { alias DIR/public/; auth_jwt a; auth_jwt_key_file DIR/public/a.json; }
         location /accel/ { auth_jwt a; auth_jwt_key_file DIR/public/a.json; proxy_pass http://unix:DIR/state/accel.sock:/; }
         location /b/ { auth_jwt b; auth_jwt_key_file DIR/public/b.json; proxy_pass http://SERVICE; }
         location /off/ { proxy_pass http://SERVICE; add_header X-Sub \"<$jwt_claim_identifier>\"; }
         }
         server { listen unix:DIR/state/accel.sock; location / { add_header X-Accel-Redirect /b/x; return 200; }",
    );
    let statuses = |path: &str| {
        [None, Some(&a), Some(&b)].map(|key| match key {
            None => nginx.get(path).status,
            Some(key) => nginx.get_with(path, &key.token("me")).status,
        })
    };
    assert_eq!(statuses("/to-b/x"), [401, 401, 401], "no one token is good for both");
    assert_eq!(statuses("/to-off/x"), [401, 200, 401]);
    assert_eq!(statuses("/off-to-b/x"), [401, 401, 200]);
    assert_eq!(statuses("/rewrite/x"), [401, 401, 200]);
    // `index` leads from the folder to the file, both in this location.
    assert_eq!(statuses("/dir/"), [401, 200, 401]);
    assert_eq!(statuses("/accel/x"), [401, 401, 401]);
    // The page that answers shows who was verified before; asked for directly, it knows nobody.
    let answer = nginx.get_with("/to-off/x", &a.token("me"));
    assert_eq!(answer.header("x-sub"), Some("<me>"));
    assert_eq!(nginx.get_with("/off/x", &a.token("me")).header("x-sub"), Some("<>"));
}

/// rel:N4: an error page that itself is refused ends by nginx's own rule, with one challenge.
#[test]
fn an_error_page_that_is_refused_ends() {
    let (a, b) = (SigningKey::generate("a"), SigningKey::generate("b"));
    let nginx = start(
        &a,
        &b,
        "auth_jwt_key_file DIR/public/a.json;
         recursive_error_pages on;
         location /loop/ { auth_jwt one; error_page 401 /loop/again; }
         location /named/ { auth_jwt two; error_page 401 = @login; proxy_pass http://SERVICE; }
         location @login { auth_jwt three; error_page 401 /plain; proxy_pass http://SERVICE; }
         location /plain { return 401 \"log in\"; }",
    );
    let workers = nginx.workers();
    // nginx ends such a loop with 500 after ten redirects.
    assert!([401, 500].contains(&nginx.get("/loop/x").status));
    let answer = nginx.get("/named/x");
    assert_eq!((answer.status, answer.body.as_str()), (401, "log in"));
    assert_eq!(
        answer.header("www-authenticate"),
        Some("Bearer realm=\"three\""),
        "one, of the last"
    );
    assert_eq!(nginx.get_with("/named/x", &a.token("me")).status, 200);
    assert_eq!(nginx.workers(), workers);
}

/// rel:T10, N9: two fields are refused by nginx itself; a refused request leaves its connection usable.
#[test]
fn a_connection_outlives_a_refusal() {
    let (a, b) = (SigningKey::generate("a"), SigningKey::generate("b"));
    let nginx = start(
        &a,
        &b,
        "auth_jwt_key_file DIR/public/a.json; location / { auth_jwt x; proxy_pass http://SERVICE; }",
    );
    let bearer = format!("Bearer {}", a.token("me"));
    let two = [("authorization", bearer.as_str()), ("authorization", bearer.as_str())];
    assert_eq!(get(&nginx.url("/"), &two).status, 400);
    assert_eq!(ask("HEAD", &nginx.url("/"), &[], None).status, 401);
    let mut stream = TcpStream::connect(nginx.port().address()).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
    let body = "x".repeat(200_000);
    let refused =
        format!("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let asked = "POST /b HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";
    let good = format!(
        "GET /c HTTP/1.1\r\nHost: a\r\nAuthorization: {bearer}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(refused.as_bytes()).expect("sent");
    stream.write_all(format!("{asked}xyz{good}").as_bytes()).expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("three answers");
    let statuses: Vec<&str> = text
        .split("HTTP/1.1 ")
        .filter(|part| !part.is_empty())
        .map(|part| &part[..3])
        .filter(|status| *status != "100")
        .collect();
    assert_eq!(statuses, ["401", "401", "200"], "{text}");
}

/// One process that is master and worker: debugging, and valgrind.
#[test]
fn without_a_master_process_it_is_the_same() {
    let key = SigningKey::generate("a");
    let text = "auth_jwt_key_file DIR/public/jwks.json;
        server { listen LISTEN; location / { auth_jwt x; proxy_pass http://SERVICE; } location = /s { auth_jwt_status; } }";
    let nginx =
        NginxBuilder::bare(text).main_level("master_process off;").jwks(&jwks(&[&key])).start();
    assert_eq!(nginx.get("/").status, 401);
    assert_eq!(nginx.get_with("/", &key.token("me")).status, 200);
    let new = SigningKey::generate("b");
    nginx.replace_jwks(&jwks(&[&new]));
    eventually("the new key", || {
        (nginx.get_with("/", &new.token("me")).status == 200).then_some(())
    });
    assert_eq!(nginx.get_with("/", &key.token("me")).status, 401);
    let status: serde_json::Value = serde_json::from_str(&nginx.get("/s").body).expect("JSON");
    assert!(status["requests"]["allowed"].as_u64().expect("a count") >= 2);
}

/// rel:F6 at a small size: reloads under load lose no request, and no verdict changes.
#[test]
fn reloads_under_load_change_no_verdict() {
    let key = SigningKey::generate("a");
    let nginx = std::sync::Arc::new(Nginx::server(
        &key,
        "auth_jwt_key_file DIR/public/jwks.json; location / { auth_jwt x; proxy_pass http://SERVICE; }",
    ));
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|client| {
            let (nginx, stop) = (std::sync::Arc::clone(&nginx), std::sync::Arc::clone(&stop));
            let good = key.sign(&json!({"n": client, "exp": now() + 600}));
            let bad = SigningKey::generate("a").token("me");
            thread::spawn(move || {
                let mut asked = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    assert_eq!(nginx.get_with("/", &good).status, 200, "a false refusal");
                    assert_eq!(nginx.get_with("/", &bad).status, 401, "a false grant");
                    asked += 2;
                }
                asked
            })
        })
        .collect();
    for _ in 0..5 {
        nginx.reload();
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let asked: u32 = clients.into_iter().map(|client| client.join().expect("no panic")).sum();
    assert!(asked > 50, "only {asked} requests were made");
}

//! `auth_jwt_key_request`: keys by an internal request, from key servers that behave well, badly and not at all.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::json;
use system_tests::key_server::{Behaviour, KeyServer, answer, nginx_with_keys, ok, send};
use system_tests::{Nginx, NginxBuilder, Port, SigningKey, ask, eventually, jwks, now};

/// The text of a key set that is `size` bytes long.
fn padded(key: &SigningKey, size: usize) -> String {
    let mut body = jwks(&[key]);
    body.push_str(&" ".repeat(size - body.len()));
    body
}

/// nginx in one process, so that what a worker does can be counted.
fn one_process(keys: &str, text: &str) -> Nginx {
    nginx_with_keys(keys, text).main_level("master_process off;").start()
}

const PROTECTED: &str =
    "location / { auth_jwt x; auth_jwt_key_request /_keys; proxy_pass http://SERVICE; }";

/// Issue part 1: of all statuses only 2xx brings keys, whatever the body is.
#[test]
fn only_a_2xx_answer_brings_keys() {
    let key = SigningKey::generate("a");
    let keys = KeyServer::of("");
    let nginx = one_process(keys.address(), PROTECTED);
    let body = jwks(&[&key]);
    for status in [
        "300 Choices",
        "301 Moved",
        "302 Found",
        "304 Not Modified",
        "307 Moved",
        "400 Bad",
        "401 Unauthorized",
        "403 Forbidden",
        "404 Not Found",
        "429 Too Many",
        "500 Broken",
        "503 Away",
    ] {
        keys.answer(answer(status, "Location: http://127.0.0.1:1/\r\n", &body));
        let answer = nginx.get_with("/", &key.token("me"));
        assert_eq!(answer.status, 503, "{status}");
        // What the key server says is nothing for the client.
        assert_eq!(answer.header("location"), None, "{status}");
        assert_eq!(answer.header("www-authenticate"), None, "{status}");
        assert!(!answer.body.contains("kty"), "{status}: {}", answer.body);
        nginx.expect_log(&["[error]", &format!("has status {}, not 2xx", &status[..3])]);
    }
    for (status, body) in [("200 OK", ""), ("204 No Content", ""), ("200 OK", "garbage")] {
        keys.answer(answer(status, "", body));
        assert_eq!(nginx.get_with("/", &key.token("me")).status, 503, "{status} {body}");
    }
    for status in ["200 OK", "201 Created", "203 From Elsewhere"] {
        keys.answer(answer(status, "", &body));
        // Each must be the reason: keys from before would hide a refusal.
        let other = SigningKey::generate("b");
        keys.answer(answer(status, "", &jwks(&[&other])));
        assert_eq!(nginx.get_with("/", &other.token("me")).status, 200, "{status}");
    }
}

/// Issue part 1: an answer that is compressed is refused, with the reason.
#[test]
fn a_compressed_answer_is_refused() {
    let key = SigningKey::generate("a");
    let keys = KeyServer::of("");
    let nginx = one_process(keys.address(), PROTECTED);
    for encoding in ["gzip", "br", "deflate", "zstd"] {
        let header = format!("Content-Encoding: {encoding}\r\n");
        keys.answer(answer("200 OK", &header, &jwks(&[&key])));
        assert_eq!(nginx.get_with("/", &key.token("me")).status, 503, "{encoding}");
        nginx.expect_log(&["jwt: keyset /_keys rejected", &format!("Content-Encoding {encoding}")]);
    }
    keys.answer(ok(&jwks(&[&key])));
    assert_eq!(nginx.get_with("/", &key.token("me")).status, 200);
}

/// mod:D5, rel:0.3: sizes around nginx's buffers and our limit, in every form in which an upstream sends a body.
#[test]
fn bodies_of_every_size_and_form_arrive_whole() {
    const LIMIT: usize = 1024 * 1024;
    let keys = KeyServer::of("");
    // Each number is an address of its own, with no keys from before that could hide a failure.
    let nginx = one_process(
        keys.address(),
        "location = /_direct { internal; proxy_buffering off; proxy_pass http://KEYS/; }
         location = /_new { internal; proxy_http_version 1.1; proxy_pass http://KEYS/; }
         location / { auth_jwt x; auth_jwt_key_request /_keys?$arg_n; proxy_pass http://SERVICE; }
         location /direct { auth_jwt x; auth_jwt_key_request /_direct?$arg_n; proxy_pass http://SERVICE; }
         location /new { auth_jwt x; auth_jwt_key_request /_new?$arg_n; proxy_pass http://SERVICE; }",
    );
    let key = SigningKey::generate("a");
    let token = key.token("me");
    let mut number = 0;
    let mut ask = |path: &str| {
        number += 1;
        nginx.get_with(&format!("{path}?n={number}"), &token).status
    };
    type Form = fn(&str) -> String;
    let until_close: Form = |body| format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{body}");
    let chunked: Form = |body| {
        let mut text = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
        for chunk in body.as_bytes().chunks(5_000) {
            let chunk = std::str::from_utf8(chunk).expect("ASCII");
            text.push_str(&format!("{:x}\r\n{chunk}\r\n", chunk.len()));
        }
        text + "0\r\n\r\n"
    };
    for (form, name) in
        [(ok as Form, "by its length"), (until_close, "until the end"), (chunked, "in chunks")]
    {
        for path in ["/", "/direct", "/new"] {
            for size in [8 * 1024, 200 * 1024, LIMIT] {
                keys.answer(form(&padded(&key, size)));
                assert_eq!(ask(path), 200, "{size} bytes {name} for {path}");
            }
            keys.answer(form(&padded(&key, LIMIT + 1)));
            assert_eq!(ask(path), 503, "too many bytes {name} for {path}");
        }
    }
    nginx.expect_log(&["[error]", "larger than 1048576 bytes"]);
}

/// rel:K2: what was broken off is no key set, also where the part that came would be one.
#[test]
fn an_answer_that_is_broken_off_is_refused() {
    let key = SigningKey::generate("a");
    let keys = KeyServer::of("");
    let nginx = one_process(keys.address(), PROTECTED);
    let part = jwks(&[&key]);
    let length = part.len() + 100;
    let chunk = part.len();
    for text in [
        format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{part}"),
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunk:x}\r\n{part}\r\n"),
        "HTTP/1.1 200 OK\r\nContent-Le".to_owned(),
        "garbage without a status line\r\n\r\n".to_owned(),
        String::new(),
    ] {
        keys.answer(text.clone());
        assert_eq!(nginx.get_with("/", &key.token("me")).status, 503, "{text}");
    }
    nginx.expect_log(&["[error]", "jwt: keyset /_keys rejected", "kept gen=0"]);
    keys.answer(ok(&part));
    assert_eq!(nginx.get_with("/", &key.token("me")).status, 200);
}

/// mod:D9: what a client sends stays between it and the service: headers, body, and its length.
#[test]
fn neither_headers_nor_body_of_the_client_reach_the_key_server() {
    let key = SigningKey::generate("a");
    let keys = KeyServer::of(&jwks(&[&key]));
    let service = KeyServer::of("served");
    let text = format!(
        "location = /_named {{ internal; proxy_set_header X-Named \"<$http_cookie$http_x_secret$cookie_s$content_length>\";
             proxy_pass http://KEYS/named; }}
         location / {{ auth_jwt x; auth_jwt_key_request /_keys; auth_jwt_key_request /_named;
             client_body_buffer_size 1k; proxy_pass http://{}; }}",
        service.address()
    );
    let nginx = one_process(keys.address(), &text);
    let bearer = format!("Bearer {}", key.token("me"));
    let body = format!("{{\"secret\":\"{}\"}}", "x".repeat(100_000));
    let headers = [
        ("authorization", bearer.as_str()),
        ("proxy-authorization", "Basic secret"),
        ("cookie", "s=secret"),
        ("x-secret", "secret"),
        ("accept-encoding", "gzip, secret"),
        ("if-none-match", "\"secret\""),
        ("expect", "100-continue"),
    ];
    for method in ["POST", "PUT", "DELETE"] {
        assert_eq!(ask(method, &nginx.url("/"), &headers, Some(&body)).status, 200, "{method}");
    }
    let requests = keys.requests();
    assert_eq!(requests.len(), 6, "two sources, three requests");
    for request in &requests {
        assert!(request.starts_with("GET /"), "{request}");
        assert!(request.ends_with("\r\n\r\n"), "a body in {request}");
        let lower = request.to_ascii_lowercase();
        for part in ["authorization", "cookie", "secret", "expect", "content-", "transfer-", "if-"]
        {
            assert!(!lower.contains(part), "{part} in {request}");
        }
    }
    assert!(requests.iter().any(|request| request.contains("X-Named: <>\r\n")), "{requests:?}");
    // The service gets all of it, although the subrequest came first.
    for (request, method) in service.requests().iter().zip(["POST", "PUT", "DELETE"]) {
        assert!(request.starts_with(method), "{request}");
        assert!(request.ends_with(&body), "the body has not arrived");
        assert!(request.contains("s=secret"), "the cookie has not arrived");
    }
    assert_eq!(service.count(), 3);
}

/// mod:D9: what nginx remembers of the client's fields is not remembered in the key request, nor the other way round.
#[test]
fn fields_that_were_read_before_do_not_reach_the_key_server() {
    let key = SigningKey::generate("a");
    let keys = KeyServer::of(&jwks(&[&key]));
    let service = KeyServer::of("served");
    const READ: &str = "$http_x_secret$http_authorization$cookie_s$content_length$content_type\
                        $remote_user$proxy_add_x_forwarded_for";
    let text = format!(
        "location = /_named {{ internal; proxy_set_header X-Named \"<{READ}$kept>\"; proxy_pass http://KEYS/named; }}
         location / {{ set $kept kept; auth_jwt x token=$arg_t; auth_jwt_key_request /_named;
             proxy_set_header X-Back \"<$http_x_secret$cookie_s>\"; proxy_pass http://SERVICE; }}
         location /early {{ set $kept kept; set $early \"{READ}\"; auth_jwt x token=$arg_t;
             auth_jwt_key_request /_named;
             proxy_set_header X-Back \"<$http_x_secret$cookie_s>\"; proxy_pass http://SERVICE; }}",
    );
    let text = text.replace("SERVICE", service.address());
    let nginx = one_process(keys.address(), &text);
    let headers = [
        ("authorization", "Basic c2VjcmV0OnNlY3JldA=="),
        ("cookie", "s=secret"),
        ("x-secret", "secret"),
        ("x-forwarded-for", "secret"),
    ];
    for path in ["/", "/early"] {
        let url = nginx.url(&format!("{path}?t={}", key.token("me")));
        assert_eq!(ask("POST", &url, &headers, Some("{}")).status, 200, "{path}");
    }
    assert_eq!(keys.count(), 2);
    for request in keys.requests() {
        // The address of the client is nginx's own.
        assert!(request.contains("X-Named: <127.0.0.1kept>\r\n"), "{request}");
    }
    for request in service.requests() {
        assert!(request.contains("X-Back: <secretsecret>\r\n"), "{request}");
    }
}

/// rel:K3, K5: stale-while-error in every way a key server can fail, over a reload, and back again.
#[test]
fn last_good_keys_serve_while_the_key_server_fails() {
    let (old, new) = (SigningKey::generate("old"), SigningKey::generate("new"));
    // Nobody listens there at first.
    let port = Port::take();
    let nginx = nginx_with_keys(&port.address().to_string(), PROTECTED).start();
    let good = |key: &SigningKey| {
        // Both workers.
        (0..6).all(|_| nginx.get_with("/", &key.token("me")).status == 200).then_some(())
    };
    let answer = nginx.get_with("/", &old.token("me"));
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")));
    nginx.expect_log(&["[error]", "jwt: keyset /_keys rejected", "status 502", "kept gen=0"]);

    let listener = TcpListener::bind(port.address()).expect("the port");
    let keys = KeyServer::on(listener, {
        let answer = ok(&jwks(&[&old]));
        move |_, stream| send(stream, &answer)
    });
    eventually("keys as soon as the server is there", || good(&old));

    let hang = |_: &str, stream: &mut TcpStream| {
        // Longer than the location's proxy_read_timeout: until nginx hangs up.
        let _ = stream.read(&mut [0]);
    };
    let failures: [(&str, Behaviour); 6] = [
        ("hangs", Arc::new(hang)),
        ("closes", Arc::new(|_, _| ())),
        ("answers 500", Arc::new(|_, stream| send(stream, &answer_of("500 Broken", "{}")))),
        ("sends garbage", Arc::new(|_, stream| send(stream, &ok("{\"keys\":")))),
        ("sends no key", Arc::new(|_, stream| send(stream, &ok("{\"keys\":[]}")))),
        ("sends a page", Arc::new(|_, stream| send(stream, &ok("<html>maintenance</html>")))),
    ];
    for (what, failure) in failures {
        keys.behave(move |request, stream| failure(request, stream));
        good(&old).unwrap_or_else(|| panic!("the last good keys are gone: the server {what}"));
    }
    nginx.expect_log(&["[error]", "status 504", "kept gen=1"]);
    // A token whose key may be in what could not be read: our fault, not the client's.
    assert_eq!(nginx.get_with("/", &new.token("me")).status, 503);
    nginx.reload();
    good(&old).expect("the last good keys after a reload");

    keys.answer(ok(&jwks(&[&new])));
    eventually("the new key is fetched", || good(&new));
    assert_eq!(nginx.get_with("/", &old.token("me")).status, 401, "a key that is gone");
}

fn answer_of(status: &str, body: &str) -> String {
    answer(status, "", body)
}

/// `auth_jwt_key_cache`: how long keys are fresh, and that unknown kids can't be used to flood the key server.
#[test]
fn keys_stay_fresh_as_long_as_the_cache_says() {
    let (key, later) = (SigningKey::generate("a"), SigningKey::generate("later"));
    let keys = KeyServer::of(&jwks(&[&key]));
    let nginx = one_process(
        keys.address(),
        "auth_jwt_key_request /_keys;
         location / { auth_jwt x; auth_jwt_key_cache 1h; proxy_pass http://SERVICE; }
         location /never { auth_jwt x; proxy_pass http://SERVICE; }
         location /zero { auth_jwt x; auth_jwt_key_cache 0; proxy_pass http://SERVICE; }
         location /short { auth_jwt x; auth_jwt_key_cache 300ms; proxy_pass http://SERVICE; }",
    );
    for _ in 0..20 {
        assert_eq!(nginx.get_with("/", &key.token("me")).status, 200);
    }
    assert_eq!(keys.count(), 1, "one fetch within an hour");
    for (path, count) in [("/never", 3), ("/zero", 5)] {
        for _ in 0..2 {
            assert_eq!(nginx.get_with(path, &key.token("me")).status, 200);
        }
        assert_eq!(keys.count(), count, "each request of {path} fetches");
    }
    // The time passes.
    eventually("keys get old", || {
        assert_eq!(nginx.get_with("/short", &key.token("me")).status, 200);
        (keys.count() > 5).then_some(())
    });

    // rel:K5: a kid that nobody knows has them fetched again, but not more than once a second.
    let started = Instant::now();
    let before = keys.count();
    for number in 0..60 {
        let stranger = SigningKey::generate(&format!("stranger-{number}"));
        assert_eq!(nginx.get_with("/", &stranger.token("me")).status, 401);
    }
    let most = usize::try_from(started.elapsed().as_secs()).expect("a small number") + 1;
    let fetches = keys.count() - before;
    assert!(fetches <= most, "{fetches} fetches in {most} seconds");
    keys.answer(ok(&jwks(&[&key, &later])));
    eventually("a key that is new is found although the others are fresh", || {
        (nginx.get_with("/", &later.token("me")).status == 200).then_some(())
    });
}

/// mod 4.1: several sources are asked at the same time: the first answers only once the second has been asked.
#[test]
fn several_sources_are_asked_at_the_same_time() {
    let (one, two) = (SigningKey::generate("one"), SigningKey::generate("two"));
    let second = Arc::new(AtomicUsize::new(0));
    let keys = KeyServer::start({
        let (first_answer, second_answer) = (ok(&jwks(&[&one])), ok(&jwks(&[&two])));
        let second = Arc::clone(&second);
        move |request, stream| {
            if request.starts_with("GET /two") {
                second.fetch_add(1, Ordering::SeqCst);
                return send(stream, &second_answer);
            }
            eventually("the second source is asked", || {
                (second.load(Ordering::SeqCst) > 0).then_some(())
            });
            send(stream, &first_answer);
        }
    });
    let nginx = one_process(
        keys.address(),
        "location = /_one { internal; proxy_pass http://KEYS/one; }
         location = /_two { internal; proxy_pass http://KEYS/two; }
         location / { auth_jwt x; auth_jwt_key_request /_one; auth_jwt_key_request /_two;
             auth_jwt_key_cache 1h; proxy_pass http://SERVICE; }",
    );
    assert_eq!(nginx.get_with("/", &one.token("me")).status, 200);
    assert_eq!(nginx.get_with("/", &two.token("me")).status, 200);
    assert_eq!(keys.count(), 2);
}

/// mod 4.1: nginx's own means in the key location: files, its cache of answers, another page on an error.
#[test]
fn the_key_location_may_be_anything_that_nginx_can_serve() {
    let key = SigningKey::generate("a");
    let keys = KeyServer::of(&padded(&key, 100_000));
    let text = "
        proxy_cache_path DIR/state/cache keys_zone=keys:1m;
        server {
            listen LISTEN;
            root DIR/public;
            sendfile on;
            # Of the key location, too: a subrequest has no token, and needs none.
            auth_jwt x;
            auth_jwt_phase preaccess;
            location = /keys.json { internal; }
            location = /_cached { internal; proxy_cache keys; proxy_cache_valid 200 1h; proxy_pass http://KEYS/keys; }
            location = /_backup { internal; error_page 502 404 = /keys.json; proxy_pass http://127.0.0.1:1; }
            location = /_kept { internal; error_page 502 404 /keys.json; proxy_pass http://127.0.0.1:1; }
            location = /_named { internal; error_page 502 = @named; proxy_pass http://127.0.0.1:1; }
            location @named { proxy_pass http://KEYS; }
            location = /_text { internal; default_type application/json; return 200 '{\"keys\":[JWK]}'; }
            location /file { auth_jwt_key_request /keys.json; proxy_pass http://SERVICE; }
            location /cached { auth_jwt_key_request /_cached; proxy_pass http://SERVICE; }
            location /backup { auth_jwt_key_request /_backup; proxy_pass http://SERVICE; }
            location /kept { auth_jwt_key_request /_kept; proxy_pass http://SERVICE; }
            location /named { auth_jwt_key_request /_named; proxy_pass http://SERVICE; }
            location /text { auth_jwt_key_request /_text; proxy_pass http://SERVICE; }
        }";
    let text = text.replace("KEYS", keys.address()).replace("JWK", &key.jwk().to_string());
    let nginx = NginxBuilder::bare(&text)
        .main_level("master_process off;")
        .file("keys.json", &padded(&key, 300_000))
        .start();
    let token = key.token("me");
    for path in ["/file", "/cached", "/backup", "/named", "/text"] {
        for _ in 0..3 {
            assert_eq!(nginx.get_with(path, &token).status, 200, "{path}");
            assert_eq!(nginx.get_with(path, "garbage").status, 401, "{path}");
        }
    }
    // Three by /named, and one for /cached.
    assert_eq!(keys.count(), 4, "two answers are from nginx's cache");
    // Without `=` the page has the error's status.
    assert_eq!(nginx.get_with("/kept", &token).status, 503);
    // The key location itself is not for clients.
    assert_eq!(nginx.get_with("/keys.json", &token).status, 404);
}

/// mod 4.1: the URI may hold variables, also of the token that is yet to be verified.
#[test]
fn the_uri_may_name_the_issuer() {
    let (a, b) = (SigningKey::generate("k"), SigningKey::generate("k"));
    let keys = KeyServer::start({
        let (a, b) = (ok(&jwks(&[&a])), ok(&jwks(&[&b])));
        move |request, stream| match request.split(' ').nth(1) {
            Some("/keys?iss=a") => send(stream, &a),
            Some("/keys?iss=b") => send(stream, &b),
            _ => send(stream, &answer_of("404 Not Found", "")),
        }
    });
    let nginx = one_process(
        keys.address(),
        "location / { auth_jwt x; auth_jwt_key_request /_keys?iss=$jwt_claim_iss;
             add_header X-Iss \"$jwt_claim_iss\" always; proxy_pass http://SERVICE; }",
    );
    let seen = |key: &SigningKey, iss: &str| {
        let answer = nginx.get_with("/", &key.sign(&json!({"iss": iss, "exp": now() + 300})));
        (answer.status, answer.header("x-iss").map(str::to_owned))
    };
    for _ in 0..2 {
        assert_eq!(seen(&a, "a"), (200, Some("a".into())));
        assert_eq!(seen(&b, "b"), (200, Some("b".into())));
        assert_eq!(seen(&a, "b"), (401, None), "another issuer's key");
        assert_eq!(seen(&b, "c").1, None);
    }
}

/// rel:K5: an address that depends on the token is the one that is asked again for a key that is new.
#[test]
fn a_new_key_is_looked_for_where_the_token_leads() {
    let (old, new) = (SigningKey::generate("old"), SigningKey::generate("new"));
    let (other, keys) = (SigningKey::generate("other"), KeyServer::of(""));
    let serve = |key: &SigningKey| {
        let (a, other) = (ok(&jwks(&[key])), ok(&jwks(&[&other])));
        keys.behave(move |request, stream| {
            send(stream, if request.starts_with("GET /keys?iss=a ") { &a } else { &other });
        });
    };
    serve(&old);
    let nginx = one_process(
        keys.address(),
        "location / { auth_jwt x; auth_jwt_key_request /_keys?iss=$jwt_claim_iss;
             auth_jwt_key_cache 1h; proxy_pass http://SERVICE; }",
    );
    let status = |key: &SigningKey| {
        nginx.get_with("/", &key.sign(&json!({"iss": "a", "exp": now() + 300}))).status
    };
    assert_eq!(status(&old), 200);
    serve(&new);
    eventually("the new key is found", || (status(&new) == 200).then_some(()));
    assert_eq!(status(&old), 401, "a key that is gone");
    for request in keys.requests() {
        assert!(request.starts_with("GET /keys?iss=a "), "asked elsewhere: {request}");
    }
}

/// rel:T9: made-up tenants do not push out the keys of those that exist.
#[test]
fn made_up_tenants_push_out_no_keys() {
    let key = SigningKey::generate("k");
    let keys = KeyServer::start({
        let good = ok(&jwks(&[&key]));
        move |request, stream| match request.split(' ').nth(1) {
            Some("/keys?iss=a") => send(stream, &good),
            _ => send(stream, &answer_of("404 Not Found", "")),
        }
    });
    let nginx = NginxBuilder::bare(&format!(
        "server {{
            listen LISTEN;
            location = /_keys {{ internal; proxy_pass http://{}/keys; }}
            location / {{ auth_jwt x; auth_jwt_key_request /_keys?iss=$jwt_claim_iss; auth_jwt_key_cache 1h;
                proxy_pass http://SERVICE; }}
            location /file {{ auth_jwt x; auth_jwt_key_file DIR/public/$jwt_claim_iss.json;
                auth_jwt_key_refresh 1h; proxy_pass http://SERVICE; }}
        }}",
        keys.address()
    ))
    .main_level("master_process off;")
    .file("a.json", &jwks(&[&key]))
    .start();
    let status = |path: &str, iss: &str| {
        nginx.get_with(path, &key.sign(&json!({"iss": iss, "exp": now() + 300}))).status
    };
    for path in ["/", "/file"] {
        assert_eq!(status(path, "a"), 200, "{path}");
        for number in 0..300 {
            assert_eq!(status(path, &format!("made-up-{number}")), 503, "{path} {number}");
        }
        assert_eq!(status(path, "a"), 200, "{path}");
    }
    let asked = keys.requests().iter().filter(|one| one.starts_with("GET /keys?iss=a ")).count();
    assert_eq!(asked, 1, "the keys were fetched again");
    let log = nginx.error_log();
    assert_eq!(log.matches("jwt: keyset a gen=").count(), 1, "the file was read again: {log}");
}

/// rel:T9, mod:D9: a token that nobody has signed yet does not write the key server's request.
#[test]
fn a_claim_can_not_break_out_of_the_uri() {
    let key = SigningKey::generate("a");
    let keys = KeyServer::of(&jwks(&[&key]));
    let nginx = one_process(
        keys.address(),
        "location /_tenant/ { internal; proxy_pass http://KEYS; }
         location / { auth_jwt x; auth_jwt_key_request /_keys?iss=$jwt_claim_iss; proxy_pass http://SERVICE; }
         location /path { auth_jwt x; auth_jwt_key_request /_tenant/$jwt_claim_iss; proxy_pass http://SERVICE; }",
    );
    for iss in [
        "a HTTP/1.1\r\nX-Evil: 1\r\n\r\n",
        "a\nX-Evil: 1",
        "a\0b",
        "a b",
        "../evil",
        "a/../../evil",
        "..",
        "a\u{7f}b",
    ] {
        for path in ["/", "/path"] {
            let token = key.sign(&json!({"iss": iss, "exp": now() + 300}));
            let status = nginx.get_with(path, &token).status;
            assert!([200, 401, 503].contains(&status), "{iss:?} for {path}: {status}");
        }
    }
    for request in keys.requests() {
        let line = request.lines().next().expect("a request line");
        assert_eq!(line.split(' ').count(), 3, "{request:?}");
        let path = line.split('?').next().expect("a path");
        assert!(!path.contains("/.."), "{request:?}");
        assert!(!line.bytes().any(|byte| byte < b' ' || byte == 0x7f), "{request:?}");
        assert!(!request.contains("\r\nX-Evil"), "{request:?}");
    }
    let token = key.sign(&json!({"iss": "plain", "exp": now() + 300}));
    for path in ["/", "/path"] {
        assert_eq!(nginx.get_with(path, &token).status, 200, "{path}");
    }
}

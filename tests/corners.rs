//! Corners of nginx: other access modules, other locations, subrequests, methods, and connections.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use serde_json::json;
use system_tests::{
    Answer, Nginx, NginxBuilder, SigningKey, ask, eventually, get, jwks, now, sign,
};

/// Longer than anything here may take.
const WAIT: Duration = Duration::from_secs(20);

/// All challenges of an answer.
fn challenges(answer: &Answer) -> Vec<&str> {
    let all = answer.headers.iter().filter(|(name, _)| name == "www-authenticate");
    all.map(|(_, value)| value.as_str()).collect()
}

/// What nginx makes of two verdicts, 0 being "let in": this module's, which is asked first, and another's.
fn satisfied(any: bool, jwt: u16, other: u16) -> u16 {
    if !any {
        return [jwt, other].into_iter().find(|verdict| *verdict != 0).unwrap_or(200);
    }
    for verdict in [jwt, other] {
        match verdict {
            0 => return 200,
            401 | 403 => {}
            // Whatever else it is ends the request.
            fault => return fault,
        }
    }
    if [jwt, other].contains(&401) { 401 } else { 403 }
}

/// rel:N1, N2, N17, mod 2.5: `satisfy`, with each of nginx's access modules in each state, against a model of nginx.
#[test]
fn satisfy_follows_the_model_with_every_access_module() {
    let key = SigningKey::generate("a");
    let mut locations = String::new();
    let others = [
        ("allow", "allow all;", 0),
        ("deny", "deny all;", 403),
        ("basic", "auth_basic b; auth_basic_user_file DIR/public/users;", 401),
        ("ask-204", "auth_request /_204;", 0),
        ("ask-401", "auth_request /_401;", 401),
        ("ask-403", "auth_request /_403;", 403),
        ("ask-500", "auth_request /_500;", 500),
    ];
    for (other, directives, _) in others {
        for satisfy in ["any", "all"] {
            let common = format!(
                "satisfy {satisfy}; {directives} auth_jwt x token=$arg_t; auth_jwt_scope s;"
            );
            let _ = write!(
                locations,
                "location /{satisfy}/{other}/on {{ {common} proxy_pass http://SERVICE; }}
                 location /{satisfy}/{other}/broken {{ {common} auth_jwt_key_inherit off;
                    auth_jwt_key_file DIR/public/none.json optional; proxy_pass http://SERVICE; }}"
            );
        }
    }
    for status in [204, 401, 403, 500] {
        let _ = write!(locations, "location = /_{status} {{ internal; return {status}; }}");
    }
    let server =
        format!("server {{ listen LISTEN; auth_jwt_key_file DIR/public/jwks.json; {locations} }}");
    let nginx = NginxBuilder::bare(&server)
        .jwks(&jwks(&[&key]))
        .file("users", "user:{PLAIN}pass\n")
        .start();
    let good = sign(&key, json!({"scope": "s"}));
    let weak = sign(&key, json!({"scope": "t"}));
    let tokens = [("", 401), ("garbage", 401), (&*weak, 403), (&*good, 0)];
    for satisfy in ["any", "all"] {
        for (other, _, verdict) in others {
            for (token, jwt) in tokens {
                for (place, jwt) in [("on", jwt), ("broken", 503)] {
                    for password in [None, Some("Basic dXNlcjpwYXNz")] {
                        let verdict =
                            if other == "basic" && password.is_some() { 0 } else { verdict };
                        let url = nginx.url(&format!("/{satisfy}/{other}/{place}?t={token}"));
                        let headers: Vec<_> =
                            password.iter().map(|value| ("authorization", *value)).collect();
                        let answer = get(&url, &headers);
                        let expected = satisfied(satisfy == "any", jwt, verdict);
                        let what = format!("{satisfy} {other} {place} jwt={jwt} other={verdict}");
                        assert_eq!(answer.status, expected, "{what}");
                        let challenges = challenges(&answer);
                        if expected == 200 {
                            assert_eq!(challenges, [""; 0], "{what}");
                        } else if token == "garbage" && place == "on" {
                            let bearer = "Bearer realm=\"x\", error=\"invalid_token\"";
                            assert!(challenges.contains(&bearer), "{what}: {challenges:?}");
                        }
                    }
                }
            }
        }
    }
}

/// rel:N17: a challenge of ours that is not the last one does not go out with an answer that another module grants.
#[test]
fn a_grant_by_a_third_module_carries_no_challenge() {
    let key = SigningKey::generate("a");
    let nginx = Nginx::server(
        &key,
        "auth_jwt_key_file DIR/public/jwks.json;
         satisfy any; auth_jwt x token=$arg_t; auth_jwt_scope s;
         auth_basic b; auth_basic_user_file DIR/public/jwks.json;
         location = /_204 { internal; satisfy all; auth_jwt off; auth_basic off; return 204; }
         location = /_401 { internal; satisfy all; auth_jwt off; auth_basic off; return 401; }
         location = /page { internal; satisfy all; auth_jwt off; auth_basic off; try_files /none =401; }
         location /granted { auth_request /_204; proxy_pass http://SERVICE; }
         location /refused { auth_request /_401; proxy_pass http://SERVICE; }
         location /plain { auth_request /_401; auth_basic off; error_page 401 /page; proxy_pass http://SERVICE; }
         location /static { auth_request /_204; root DIR/public; try_files /none /granted/x; }",
    );
    let weak = sign(&key, json!({"scope": "t"}));
    for token in ["", "garbage", &weak] {
        let ask = |path: &str| get(&nginx.url(&format!("{path}?t={token}")), &[]);
        for path in ["/granted", "/static"] {
            let answer = ask(path);
            assert_eq!((answer.status, challenges(&answer)), (200, vec![]), "{path} {token}");
        }
        let answer = ask("/refused");
        assert_eq!(answer.status, 401, "{token}");
        let ours = |answer: &Answer| {
            challenges(answer).iter().filter(|value| value.starts_with("Bearer")).count()
        };
        // Without a token in its variable nothing is said about the Authorization header.
        let expected = usize::from(!token.is_empty());
        assert_eq!(ours(&answer), expected, "{token}: {:?}", challenges(&answer));
        let answer = ask("/plain");
        assert_eq!((answer.status, ours(&answer)), (401, expected), "{token}");
    }
}

/// mod 2.5, rel:N9: `limit_except` is a level of its own, whose methods alone fall under it.
#[test]
fn limit_except_has_rules_of_its_own() {
    let (a, b) = (SigningKey::generate("a"), SigningKey::generate("b"));
    let nginx = NginxBuilder::bare(
        "server {
            listen LISTEN;
            auth_jwt_key_file DIR/public/a.json;
            location /write { auth_jwt off; limit_except GET { auth_jwt w; } proxy_pass http://SERVICE; }
            location /read { auth_jwt r; limit_except GET { auth_jwt off; } proxy_pass http://SERVICE; }
            location /scope { auth_jwt s; auth_jwt_scope read; limit_except GET { auth_jwt_scope write; } proxy_pass http://SERVICE; }
            location /claim { auth_jwt c; auth_jwt_require_claim r eq yes error=403;
                limit_except GET OPTIONS { auth_jwt_require_claim w eq yes error=403; } proxy_pass http://SERVICE; }
            location /keys { auth_jwt k; limit_except GET { auth_jwt_key_file DIR/public/b.json; } proxy_pass http://SERVICE; }
            location /deny { auth_jwt d; limit_except GET { deny all; } proxy_pass http://SERVICE; }
            location /early { auth_jwt e; auth_jwt_phase preaccess; limit_except GET { auth_jwt off; } proxy_pass http://SERVICE; }
         }",
    )
    .file("a.json", &jwks(&[&a]))
    .file("b.json", &jwks(&[&b]))
    .start();
    let tokens = [
        None,
        Some(sign(&a, json!({"scope": "read", "r": "yes"}))),
        Some(sign(&a, json!({"scope": "read write", "r": "yes", "w": "yes"}))),
        Some(sign(&b, json!({"scope": "read write", "r": "yes", "w": "yes"}))),
    ];
    let statuses = |method: &str, path: &str| {
        tokens.each_ref().map(|token| {
            let bearer = token.as_ref().map(|token| format!("Bearer {token}"));
            let headers: Vec<_> =
                bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
            ask(method, &nginx.url(path), &headers, None).status
        })
    };
    // No token; one that may read; one that may write as well; one of the other key.
    for (path, inside, outside) in [
        ("/write", [200, 200, 200, 200], [401, 200, 200, 401]),
        ("/read", [401, 200, 200, 401], [200, 200, 200, 200]),
        ("/scope", [401, 200, 200, 401], [401, 403, 200, 401]),
        ("/claim", [401, 200, 200, 401], [401, 403, 200, 401]),
        ("/keys", [401, 200, 200, 401], [401, 401, 401, 200]),
        ("/deny", [401, 200, 200, 401], [401, 403, 403, 401]),
        ("/early", [401, 200, 200, 401], [200, 200, 200, 200]),
    ] {
        // nginx counts HEAD as GET here.
        for method in ["GET", "HEAD"] {
            assert_eq!(statuses(method, path), inside, "{method} {path}");
        }
        for method in ["POST", "DELETE", "PATCH"] {
            assert_eq!(statuses(method, path), outside, "{method} {path}");
        }
        let expected = if path == "/claim" { inside } else { outside };
        assert_eq!(statuses("OPTIONS", path), expected, "OPTIONS {path}");
    }
}

/// mod 2.5, rel:N9: a preflight is not asked for a token; that lets it past this module, and past no other.
#[test]
fn a_preflight_is_let_past_and_granted_nothing() {
    let key = SigningKey::generate("a");
    let nginx = Nginx::server(
        &key,
        "auth_jwt_key_file DIR/public/jwks.json; auth_jwt x; auth_jwt_preflight on;
         location / { proxy_pass http://SERVICE; }
         location /early { auth_jwt_phase preaccess; proxy_pass http://SERVICE; }
         location /any { satisfy any; deny all; proxy_pass http://SERVICE; }
         location /all { satisfy all; deny all; proxy_pass http://SERVICE; }
         location /except { limit_except GET { auth_jwt y; } proxy_pass http://SERVICE; }
         location /inherited { location /inherited/in { proxy_pass http://SERVICE; } }
         location /off { auth_jwt_preflight off; proxy_pass http://SERVICE; }",
    );
    let preflight = [("Origin", "https://a.example"), ("Access-Control-Request-Method", "PUT")];
    let garbage = [preflight[0], preflight[1], ("authorization", "Bearer garbage")];
    let good = format!("Bearer {}", key.token("me"));
    let good = [preflight[0], preflight[1], ("authorization", &*good)];
    let ask = |method: &str, path: &str, headers: &[(&str, &str)]| {
        ask(method, &nginx.url(path), headers, None).status
    };
    for path in ["/", "/early", "/except", "/inherited/in"] {
        // Browsers send no credentials with it; what comes in their place is not looked at.
        for headers in [&preflight[..], &garbage, &good] {
            assert_eq!(ask("OPTIONS", path, headers), 200, "{path}");
        }
        for headers in [&preflight[..1], &preflight[1..], &[]] {
            assert_eq!(ask("OPTIONS", path, headers), 401, "{path}");
        }
        for method in ["GET", "POST", "PUT", "PROPFIND"] {
            assert_eq!(ask(method, path, &preflight), 401, "{method} {path}");
        }
    }
    assert_eq!(ask("OPTIONS", "/any", &preflight), 403, "no grant where one is asked for");
    assert_eq!(ask("OPTIONS", "/all", &preflight), 403);
    assert_eq!(ask("OPTIONS", "/off", &preflight), 401);
    assert_eq!(ask("OPTIONS", "/off", &good), 200);
}

/// rel:N3, mod:D3: every way that leads from one location to another, between off and two sets of keys.
#[test]
fn each_location_on_the_way_decides_by_its_own_keys() {
    let (a, b) = (SigningKey::generate("k"), SigningKey::generate("k"));
    let auth = |place: &str| match place {
        "off" => "auth_jwt off;".to_owned(),
        key => format!("auth_jwt {key}; auth_jwt_key_file DIR/public/{key}.json;"),
    };
    let places = ["off", "a", "b"];
    let ways: [(&str, &str); 8] = [
        ("page", "error_page 404 = /to/TO/x;"),
        ("named", "error_page 404 = @TO;"),
        ("tried", "try_files /none /to/TO/x;"),
        ("tried-named", "try_files /none @TO;"),
        ("index", "index /to/TO/x;"),
        ("accel", "proxy_pass http://unix:DIR/state/accel.sock:/to/TO/;"),
        ("accel-named", "proxy_pass http://unix:DIR/state/accel.sock:/named/TO/;"),
        ("rewrite", "rewrite ^ /to/TO/x last;"),
    ];
    let mut locations = String::new();
    for to in places {
        let answer = format!(
            "{} add_header X-Who '$jwt_claim_identifier' always; proxy_pass http://SERVICE;",
            auth(to)
        );
        let _ =
            write!(locations, "location /to/{to}/ {{ {answer} }} location @{to} {{ {answer} }}");
        for from in places {
            for (way, directive) in ways {
                let directive = directive.replace("TO", to);
                let _ = write!(
                    locations,
                    "location /{way}/{from}/{to}/ {{ {} {directive} }}",
                    auth(from)
                );
            }
        }
    }
    let nginx = NginxBuilder::bare(&format!(
        "server {{
            listen unix:DIR/state/accel.sock;
            location ~ ^/named/(\\w+) {{ add_header X-Accel-Redirect @$1; return 200; }}
            location / {{ add_header X-Accel-Redirect $request_uri; return 200; }}
         }}
         server {{ listen LISTEN; root DIR/public; recursive_error_pages on; {locations} }}"
    ))
    .file("a.json", &jwks(&[&a]))
    .file("b.json", &jwks(&[&b]))
    .start();
    let workers = nginx.workers();
    for (way, _) in ways {
        for from in places {
            for to in places {
                for (token, text) in
                    [("", None), ("a", Some(a.token("a"))), ("b", Some(b.token("b")))]
                {
                    let end = if way == "index" { "" } else { "none" };
                    let path = format!("/{way}/{from}/{to}/{end}");
                    let answer = match &text {
                        None => nginx.get(&path),
                        Some(text) => nginx.get_with(&path, text),
                    };
                    let passes = |place: &str| place == "off" || place == token;
                    let from = if way == "rewrite" { "off" } else { from };
                    let refuser = [from, to].into_iter().find(|place| !passes(place));
                    let what = format!("{path} with token {token:?}");
                    assert_eq!(answer.status, if refuser.is_some() { 401 } else { 200 }, "{what}");
                    // One challenge, and it is of the location that has refused.
                    let realm = refuser.map(|place| match token {
                        "" => format!("Bearer realm=\"{place}\""),
                        _ => format!("Bearer realm=\"{place}\", error=\"invalid_token\""),
                    });
                    assert_eq!(answer.header("www-authenticate"), realm.as_deref(), "{what}");
                    // Who was verified on the way is known at its end, and nobody else.
                    if refuser.is_none() {
                        let is_known = from != "off" || to != "off";
                        let who = is_known.then_some(token);
                        assert_eq!(answer.header("x-who"), who, "{what}");
                    }
                }
            }
        }
    }
    assert_eq!(nginx.workers(), workers, "no worker has died");
}

/// mod 2.5: an error page and the access log can tell who was refused and why; who is not verified has no name there.
#[test]
fn an_error_page_knows_the_reason() {
    let key = SigningKey::generate("a");
    let nginx = NginxBuilder::bare(
        "log_format who '$uri <$jwt_claim_identifier> <$auth_jwt_status> <$auth_jwt_kid>';
         server {
            listen LISTEN;
            access_log DIR/state/who.log who;
            auth_jwt_key_file DIR/public/jwks.json;
            location /scope { auth_jwt x; auth_jwt_scope admin; error_page 403 = @told; proxy_pass http://SERVICE; }
            location /uri { auth_jwt x; auth_jwt_scope admin; error_page 403 /told; proxy_pass http://SERVICE; }
            location /expired { auth_jwt x; error_page 401 = @told; proxy_pass http://SERVICE; }
            location /gone { auth_jwt x; error_page 404 = @told; root DIR/public; }
            location /open { error_page 404 = @told; root DIR/public; }
            location @told { return 200 '<$jwt_claim_identifier> <$auth_jwt_status> <$auth_jwt_kid>'; }
            location = /told { return 200 '<$jwt_claim_identifier> <$auth_jwt_status> <$auth_jwt_kid>'; }
         }",
    )
    .jwks(&jwks(&[&key]))
    .start();
    let good = key.token("me");
    let expired = sign(&key, json!({"identifier": "me", "exp": now() - 1}));
    let forged = SigningKey::generate("a").token("me");
    for (path, token, status, told) in [
        ("/scope", &good, 200, "<me> <claim> <a>"),
        ("/uri", &good, 403, "<me> <claim> <a>"),
        ("/expired", &expired, 200, "<> <expired> <>"),
        ("/expired", &forged, 200, "<> <sig> <>"),
        ("/gone", &good, 200, "<me> <ok> <a>"),
        ("/open", &good, 200, "<> <off> <>"),
    ] {
        let answer = nginx.get_with(path, token);
        assert_eq!((answer.status, answer.body.as_str()), (status, told), "{path}");
    }
    eventually("the log", || {
        let log = fs::read_to_string(nginx.scratch().join("state/who.log")).ok()?;
        // Two workers write to it, each after its answer, so in an order of their own.
        let mut lines: Vec<&str> = log.lines().collect();
        lines.sort_unstable();
        let expected = [
            "/expired <-> <expired> <->",
            "/expired <-> <sig> <->",
            "/gone <me> <ok> <a>",
            "/open <-> <off> <->",
            "/scope <me> <claim> <a>",
            "/told <me> <claim> <a>",
        ];
        (lines == expected).then_some(())
    });
}

/// rel:N5, mod 2.1: SSI, `mirror` and `auth_request` skip the access phase; with `preaccess` they are checked.
#[test]
fn subrequests_are_checked_where_the_phase_says_so() {
    let key = SigningKey::generate("a");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mirror = listener.local_addr().expect("its address");
    let (send, mirrored) = channel();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut buffer = [0; 4096];
            let count = stream.read(&mut buffer).unwrap_or_default();
            let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
            let _ = send.send(text.split(' ').nth(1).map(str::to_owned));
        }
    });
    let text = format!(
        "server {{
            listen LISTEN;
            root DIR/public;
            auth_jwt_key_file DIR/public/jwks.json;
            location = /_late {{ internal; auth_jwt x; proxy_set_header X-Identifier $jwt_claim_identifier; proxy_pass http://SERVICE; }}
            location = /_early {{ internal; auth_jwt x; auth_jwt_phase preaccess;
                proxy_set_header X-Identifier $jwt_claim_identifier; proxy_pass http://SERVICE; }}
            location = /late.html {{ ssi on; }}
            location = /early.html {{ ssi on; }}
            location = /both.html {{ ssi on; auth_jwt x; }}
            location = /_late-copy {{ internal; auth_jwt x; proxy_pass http://{mirror}/late; }}
            location = /_early-copy {{ internal; auth_jwt x; auth_jwt_phase preaccess; proxy_pass http://{mirror}/early; }}
            location = /late-mirror {{ mirror /_late-copy; proxy_pass http://SERVICE; }}
            location = /early-mirror {{ mirror /_early-copy; proxy_pass http://SERVICE; }}
            location = /late-ask {{ auth_request /_late; proxy_pass http://SERVICE; }}
            location = /early-ask {{ auth_request /_early; proxy_pass http://SERVICE; }}
        }}"
    );
    let page = |part: &str| format!("begin <!--# include virtual=\"/{part}\" --> end");
    let nginx = NginxBuilder::bare(&text)
        .jwks(&jwks(&[&key]))
        .file("late.html", &page("_late"))
        .file("early.html", &page("_early"))
        .file(
            "both.html",
            "<!--# echo var=\"jwt_claim_identifier\" --> <!--# include virtual=\"/_early\" -->",
        )
        .start();
    let good = key.token("me");
    let forged = SigningKey::generate("a").token("me");
    let body = |path: &str, token: &str| {
        let answer = nginx.get_with(path, token);
        assert_eq!(answer.status, 200, "{path}");
        answer.body
    };
    // The part is there with what the claim is, or empty: never a claim that nobody has verified.
    assert!(body("/late.html", &good).contains("identifier=me\n"));
    assert!(body("/late.html", &forged).contains("identifier=\n"), "documented: not checked");
    assert!(body("/early.html", &good).contains("identifier=me\n"));
    let refused = body("/early.html", &forged);
    assert!(!refused.contains("identifier=") && refused.ends_with("end"), "{refused}");
    let both = body("/both.html", &good);
    assert!(both.starts_with("me ") && both.contains("identifier=me\n"), "{both}");
    assert_eq!(nginx.get_with("/both.html", &forged).status, 401);

    for (path, token, status) in [
        ("/late-ask", &good, 200),
        ("/late-ask", &forged, 200),
        ("/early-ask", &good, 200),
        ("/early-ask", &forged, 401),
    ] {
        assert_eq!(nginx.get_with(path, token).status, status, "{path}");
    }

    // A copy is made of the request that is checked and refused in its own location: nobody gets it.
    for (path, token) in [
        ("/early-mirror", &forged),
        ("/early-mirror", &good),
        ("/late-mirror", &forged),
        ("/early-mirror", &forged),
        ("/late-mirror", &good),
    ] {
        assert_eq!(nginx.get_with(path, token).status, 200, "{path}");
        if path == "/late-mirror" || token == &good {
            let copy = mirrored.recv_timeout(WAIT).expect("a copy");
            assert_eq!(
                copy.as_deref(),
                Some(if path == "/late-mirror" { "/late" } else { "/early" })
            );
        }
    }
    assert!(mirrored.try_recv().is_err(), "a copy too many");
}

/// mod:D1: an accepted token still counts for `limit_conn`, and a refused one takes no place.
#[test]
fn an_accepted_token_does_not_jump_over_a_connection_limit() {
    let key = SigningKey::generate("a");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let (send, held) = channel::<TcpStream>();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = send.send(stream);
        }
    });
    let text = format!(
        "limit_conn_zone $jwt_claim_identifier zone=per_user:1m;
         server {{
            listen LISTEN;
            auth_jwt_key_file DIR/public/jwks.json;
            limit_conn per_user 1;
            location /early {{ auth_jwt x; auth_jwt_phase preaccess; proxy_pass http://{address}; }}
            location /late {{ auth_jwt x; proxy_pass http://{address}; }}
         }}"
    );
    let nginx = Arc::new(NginxBuilder::bare(&text).jwks(&jwks(&[&key])).start());
    let answer = |mut stream: TcpStream| {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        stream.write_all(text).expect("answered");
    };
    for path in ["/early", "/late"] {
        // Users of this location only: nginx answers a request before it frees the request's place.
        let (me, other) = (key.token(&format!("me{path}")), key.token(&format!("other{path}")));
        let client = {
            let (nginx, me) = (Arc::clone(&nginx), me.clone());
            thread::spawn(move || nginx.get_with(path, &me).status)
        };
        let first = held.recv_timeout(WAIT).expect("the first is under way");
        assert_eq!(nginx.get_with(path, &me).status, 503, "{path}: one connection each");
        assert_eq!(nginx.get(path).status, 401);
        let forged = SigningKey::generate("a").token(&format!("me{path}"));
        assert_eq!(nginx.get_with(path, &forged).status, 401, "it is nobody's connection");
        let second = {
            let nginx = Arc::clone(&nginx);
            thread::spawn(move || nginx.get_with(path, &other).status)
        };
        answer(held.recv_timeout(WAIT).expect("another user has a place of his own"));
        assert_eq!(second.join().expect("no panic"), 200);
        answer(first);
        assert_eq!(client.join().expect("no panic"), 200);
        // The place is free again once nginx has closed the request.
        let third = {
            let (nginx, me) = (Arc::clone(&nginx), me.clone());
            thread::spawn(move || {
                eventually("a place", || {
                    Some(nginx.get_with(path, &me).status).filter(|status| *status != 503)
                })
            })
        };
        answer(held.recv_timeout(WAIT).expect("the place is free"));
        assert_eq!(third.join().expect("no panic"), 200);
    }
}

/// An HTTP/2 connection (RFC 9113) that goes on where curl 7.88 gives up: after an answer to half a request.
struct Http2 {
    stream: TcpStream,
    last: u32,
    answers: HashMap<u32, u16>,
}

impl Http2 {
    fn open(nginx: &Nginx) -> Self {
        let mut stream = TcpStream::connect(nginx.port().address()).expect("a connection");
        stream.set_read_timeout(Some(WAIT)).expect("a limit");
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("the preface");
        let mut connection = Self { stream, last: 0, answers: HashMap::new() };
        connection.send(4, 0, 0, &[]);
        connection
    }

    fn send(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("a frame's length");
        let mut frame = length.to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(id.to_be_bytes());
        frame.extend(payload);
        self.stream.write_all(&frame).expect("a frame");
    }

    /// Sends a request, with the beginning of a body that never ends if `is_open`; gives its stream.
    fn ask(&mut self, method: &str, path: &str, fields: &[(&str, &str)], is_open: bool) -> u32 {
        self.last = if self.last == 0 { 1 } else { self.last + 2 };
        let mut block = Vec::new();
        let pseudo =
            [(":method", method), (":scheme", "http"), (":path", path), (":authority", "a")];
        for (name, value) in pseudo.iter().chain(fields) {
            // RFC 7541 section 6.2.2: a literal that nobody remembers.
            block.push(0);
            for text in [name, value] {
                match text.len() {
                    short @ ..127 => block.push(u8::try_from(short).expect("7 bits")),
                    // Section 5.1: the rest in groups of 7 bits.
                    long => {
                        let rest = long - 127;
                        block.extend([127, 128 | (rest & 127) as u8, (rest >> 7) as u8]);
                    }
                }
                block.extend(text.bytes());
            }
        }
        self.send(1, if is_open { 4 } else { 5 }, self.last, &block);
        if is_open {
            for _ in 0..3 {
                self.send(0, 0, self.last, &[b'x'; 16_000]);
            }
        }
        self.last
    }

    /// The status of a stream's answer, once it is there.
    fn status(&mut self, stream: u32) -> u16 {
        loop {
            // Answers come in any order.
            if let Some(status) = self.answers.remove(&stream) {
                return status;
            }
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).expect("a frame");
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let mut payload = vec![0; length as usize];
            self.stream.read_exact(&mut payload).expect("its payload");
            match head[3] {
                4 if head[4] == 0 => self.send(4, 1, 0, &[]),
                // That a body is not wanted is no error of the stream.
                3 => assert_eq!(payload, [0; 4], "stream {id} was reset"),
                7 => panic!("the connection is closed: {payload:?}"),
                1 => assert_eq!(self.answers.insert(id, status(&payload)), None),
                _ => {}
            }
        }
    }
}

/// The status that a header block begins with, as nginx writes it.
fn status(block: &[u8]) -> u16 {
    // A change of the table's size may come first (RFC 7541 section 6.3).
    let block = if block[0] >> 5 == 1 { &block[1..] } else { block };
    match block {
        [0x88, ..] => 200,
        [0x8c, ..] => 400,
        [0x48 | 0x08, 3, status @ ..] => {
            std::str::from_utf8(&status[..3]).expect("ASCII").parse().expect("a number")
        }
        other => panic!("no status: {other:?}"),
    }
}

/// rel:T10, N9: HTTP/2 connections go on after a refusal, whatever of the body was not read.
#[test]
fn an_http2_connection_outlives_a_refusal() {
    let key = SigningKey::generate("a");
    let nginx = NginxBuilder::bare(
        "server {
            listen LISTEN http2;
            client_max_body_size 4m;
            auth_jwt_key_file DIR/public/jwks.json;
            location / { auth_jwt x; proxy_pass http://SERVICE; }
            location /early { auth_jwt x; auth_jwt_phase preaccess; proxy_pass http://SERVICE; }
            location /page { auth_jwt x; error_page 401 = @login; proxy_pass http://SERVICE; }
            location /loop { auth_jwt x; error_page 401 = @loop; proxy_pass http://SERVICE; }
            location @login { return 403; }
            location @loop { auth_jwt y; proxy_pass http://SERVICE; }
        }",
    )
    .jwks(&jwks(&[&key]))
    .start();
    let good = format!("Bearer {}", key.token("me"));
    let forged = format!("Bearer {}", SigningKey::generate("a").token("me"));
    let mut connection = Http2::open(&nginx);
    let length = ("content-length", "1048576");
    for _ in 0..3 {
        // Many at once, the half ones first; then what of a body was still on its way.
        let (with, without) =
            (("authorization", good.as_str()), ("authorization", forged.as_str()));
        let requests = [
            ("POST", "/a", vec![length], true, 401),
            ("POST", "/b", vec![length, without], true, 401),
            ("POST", "/early", vec![length], true, 401),
            ("POST", "/page", vec![length], true, 403),
            ("POST", "/loop", vec![length], true, 401),
            ("GET", "/c", vec![with], false, 200),
            ("HEAD", "/d", vec![], false, 401),
            ("HEAD", "/e", vec![with], false, 200),
            ("OPTIONS", "/f", vec![], false, 401),
        ];
        let streams: Vec<u32> = requests
            .iter()
            .map(|(method, path, fields, is_open, _)| {
                connection.ask(method, path, fields, *is_open)
            })
            .collect();
        for (stream, (method, path, _, is_open, expected)) in streams.iter().zip(&requests) {
            assert_eq!(connection.status(*stream), *expected, "{method} {path}");
            if *is_open {
                connection.send(0, 1, *stream, &[b'x'; 1000]);
            }
        }
        // Two fields are never "the first wins".
        for second in [with, without] {
            let stream = connection.ask("GET", "/two", &[with, second], false);
            assert_eq!(connection.status(stream), 400);
        }
    }
    assert!(!nginx.error_log().contains("[alert]"), "{}", nginx.error_log());
    // Each of many at once gets its own verdict.
    let streams: Vec<(u32, u16)> = (0..60)
        .map(|number| {
            let (bearer, status) = if number % 3 == 0 { (&forged, 401) } else { (&good, 200) };
            (connection.ask("GET", "/many", &[("authorization", bearer)], false), status)
        })
        .collect();
    for (stream, expected) in streams {
        assert_eq!(connection.status(stream), expected);
    }
}

//! Requests that wait for keys (`auth_jwt_key_request`): together, in every phase, and on every kind of connection.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use system_tests::key_server::{KeyServer, nginx_with_keys, ok, send};
use system_tests::{Nginx, NginxBuilder, SigningKey, ask, ask_raw, eventually, jwks};

/// nginx in one process, so that what a worker does can be counted.
fn one_process(keys: &str, text: &str) -> Nginx {
    nginx_with_keys(keys, text).main_level("master_process off;").start()
}

const PROTECTED: &str =
    "location / { auth_jwt x; auth_jwt_key_request /_keys; proxy_pass http://SERVICE; }";

/// Many requests at the same time, each with the same token.
fn statuses(nginx: &Nginx, path: &str, token: &str, count: usize) -> Vec<u16> {
    thread::scope(|scope| {
        let clients: Vec<_> =
            (0..count).map(|_| scope.spawn(|| nginx.get_with(path, token).status)).collect();
        clients.into_iter().map(|client| client.join().expect("no panic")).collect()
    })
}

/// mod:D2, issue part 1: requests that meet while the keys are on their way share one fetch, and all are answered.
#[test]
fn a_worker_fetches_keys_once_for_all_who_wait() {
    let key = SigningKey::generate("a");
    let keys = KeyServer::start({
        let answer = ok(&jwks(&[&key]));
        move |_, stream| {
            thread::sleep(Duration::from_secs(1));
            send(stream, &answer);
        }
    });
    let nginx = one_process(keys.address(), PROTECTED);
    let started = Instant::now();
    let statuses = statuses(&nginx, "/", &key.token("me"), 40);
    assert_eq!(statuses, [200; 40]);
    // On a machine so slow that a client came after the first answer, it was answered by a fetch of its own.
    let rounds = usize::try_from(started.elapsed().as_secs()).expect("a small number");
    assert!((1..=rounds.max(1)).contains(&keys.count()), "{} fetches", keys.count());
    // Without auth_jwt_key_cache keys are good for those who waited, and for nobody after them.
    let before = keys.count();
    assert_eq!(nginx.get_with("/", &key.token("me")).status, 200);
    assert_eq!(keys.count(), before + 1);
}

/// mod:D2: the client whose request fetches goes away; those who wait for the same keys get them all the same.
#[test]
fn a_client_that_leaves_takes_no_keys_from_the_others() {
    let key = SigningKey::generate("a");
    let first = AtomicUsize::new(0);
    let keys = KeyServer::start({
        let answer = ok(&jwks(&[&key]));
        move |_, stream| {
            if first.fetch_add(1, Ordering::SeqCst) == 0 {
                // Until nginx hangs up because its client did; if it goes on instead, it gets its answer.
                stream.set_read_timeout(Some(Duration::from_secs(1))).expect("a limit");
                let _ = stream.read(&mut [0]);
            }
            send(stream, &answer);
        }
    });
    let open = "location /open { proxy_pass http://SERVICE; }";
    let nginx = one_process(keys.address(), &format!("{PROTECTED} {open}"));
    let token = key.token("me");
    let begin = || {
        let mut stream = TcpStream::connect(nginx.port().address()).expect("a connection");
        let end = "Connection: close\r\n\r\n";
        let request =
            format!("GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{end}");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
        stream.write_all(request.as_bytes()).expect("the request");
        stream
    };
    let leaver = begin();
    eventually("the fetch has begun", || (keys.count() == 1).then_some(()));
    let waiting: Vec<TcpStream> = (0..5).map(|_| begin()).collect();
    // One process takes what came first first: those five wait by now.
    assert_eq!(nginx.get("/open").status, 200);
    drop(leaver);
    for mut stream in waiting {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    assert_eq!(nginx.get_with("/", &token).status, 200);
}

/// rel:K5: a made-up kid has keys fetched again that are still fresh; only its own request waits for that.
#[test]
fn a_made_up_kid_keeps_nobody_else_waiting() {
    let key = SigningKey::generate("a");
    let keys = KeyServer::of(&jwks(&[&key]));
    // Longer than anything here takes, and shorter than a client waits.
    let slow = "location = /_slow { internal; proxy_read_timeout 20s; proxy_pass http://KEYS/keys; }
         location / { auth_jwt x; auth_jwt_key_request /_slow; auth_jwt_key_cache 1h; proxy_pass http://SERVICE; }";
    let nginx = one_process(keys.address(), slow);
    let token = key.token("me");
    assert_eq!(nginx.get_with("/", &token).status, 200);
    let gate = Arc::new(AtomicBool::new(false));
    keys.behave({
        let (gate, answer) = (Arc::clone(&gate), ok(&jwks(&[&key])));
        move |_, stream| {
            eventually("the others are served", || gate.load(Ordering::SeqCst).then_some(()));
            send(stream, &answer);
        }
    });
    let stranger = SigningKey::generate("made-up").token("me");
    thread::scope(|scope| {
        // Keys that have just come are not fetched again: until they are, such a request is answered at once.
        let waiting = scope.spawn(|| {
            while keys.count() < 2 {
                assert_eq!(nginx.get_with("/", &stranger).status, 401);
            }
        });
        eventually("the keys are fetched again", || (keys.count() == 2).then_some(()));
        for _ in 0..5 {
            assert_eq!(nginx.get_with("/", &token).status, 200);
        }
        assert!(!waiting.is_finished(), "the fetch is over, and has shown nothing");
        gate.store(true, Ordering::SeqCst);
    });
    assert!(!nginx.error_log().contains("rejected"), "{}", nginx.error_log());
}

/// Issue part 1: many streams of one HTTP/2 connection wait for the same keys.
#[test]
fn streams_of_one_http2_connection_share_a_fetch() {
    let key = SigningKey::generate("a");
    let keys = KeyServer::start({
        let answer = ok(&jwks(&[&key]));
        move |_, stream| {
            thread::sleep(Duration::from_millis(300));
            send(stream, &answer);
        }
    });
    let text = format!(
        "server {{ listen LISTEN http2; location = /_keys {{ internal; proxy_pass http://{}/; }} {PROTECTED} }}",
        keys.address()
    );
    let nginx = NginxBuilder::bare(&text).main_level("master_process off;").start();
    let (good, bad) = (key.token("me"), SigningKey::generate("a").token("me"));
    let streams: Vec<u8> = (0..30).map(|number| 2 * number + 1).collect();
    let mut connection = TcpStream::connect(nginx.port().address()).expect("a connection");
    connection.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
    // RFC 9113 §3.4: the preface, then our settings: none.
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    for &stream in &streams {
        let token = if stream % 3 == 0 { &bad } else { &good };
        // END_STREAM and END_HEADERS
        bytes.extend(frame(1, 5, stream, &fields(token)));
    }
    connection.write_all(&bytes).expect("all requests at once");
    let mut answered = Vec::new();
    while answered.len() < streams.len() {
        let mut head = [0; 9];
        connection.read_exact(&mut head).expect("a frame");
        let mut payload = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
        connection.read_exact(&mut payload).expect("its payload");
        if head[3] == 1 {
            // RFC 7541 §6.3: nginx begins with an update of the table's size; 6.1: 8 stands for ":status: 200".
            let block = payload.iter().copied().find(|byte| byte & 0xe0 != 0x20);
            answered.push((head[8], block == Some(0x88)));
        }
        assert!(![3, 7].contains(&head[3]), "RST_STREAM or GOAWAY");
    }
    answered.sort_unstable();
    let expected: Vec<(u8, bool)> = streams.iter().map(|&id| (id, id % 3 != 0)).collect();
    assert_eq!(answered, expected);
    assert!(keys.count() <= 2, "{} fetches", keys.count());
}

/// RFC 9113 §4.1
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("a short payload").to_be_bytes();
    let head = [0, length[0], length[1], kind, flags, 0, 0, 0, stream];
    [&head, payload].concat()
}

/// RFC 7541: GET and the other fields of a request, the token as a literal that is not kept.
fn fields(token: &str) -> Vec<u8> {
    // `:method: GET`, `:scheme: http`, `:path: /`, then `:authority: x` and `authorization`, numbers 1 and 23.
    let mut block = vec![0x82, 0x86, 0x84, 0x01, 1, b'x', 0x0f, 23 - 15];
    let value = format!("Bearer {token}");
    let rest = value.len() - 127;
    // RFC 7541 §5.1: a length from 127 to 16,510 takes three bytes.
    assert!((128..16_384).contains(&rest) || rest < 128);
    block.push(127);
    match rest {
        0..128 => block.push(u8::try_from(rest).expect("seven bits")),
        _ => block.extend([
            u8::try_from(rest % 128).expect("seven bits") | 128,
            u8::try_from(rest / 128).expect("seven bits"),
        ]),
    }
    block.extend(value.bytes());
    block
}

/// mod 6.2, design 10: a variable that is read too early is empty, and spoils nothing for the access phase.
#[test]
fn a_variable_that_is_read_before_the_keys_are_there_is_empty() {
    let key = SigningKey::generate("a");
    let keys = KeyServer::of(&jwks(&[&key]));
    let nginx = one_process(
        keys.address(),
        "auth_jwt x; auth_jwt_key_request /_keys;
         location / {
             set $early \"<$jwt_claim_identifier>\";
             add_header X-Early $early always;
             add_header X-Late \"<$jwt_claim_identifier>\" always;
             proxy_pass http://SERVICE;
         }
         location /cached { auth_jwt_key_cache 1h;
             set $early \"<$jwt_claim_identifier>\";
             add_header X-Early $early always;
             proxy_pass http://SERVICE;
         }",
    );
    let seen = |path: &str, token: &str| {
        let answer = nginx.get_with(path, token);
        (answer.status, answer.header("x-early").map(str::to_owned))
    };
    let empty = Some("<>".to_owned());
    let token = key.token("me");
    assert_eq!(seen("/", &token), (200, empty.clone()), "not at hand synchronously");
    assert_eq!(nginx.get_with("/", &token).header("x-late"), Some("<me>"));
    assert_eq!(seen("/", "garbage"), (401, empty.clone()));
    // Fresh keys are at hand.
    eventually("the early value", || {
        let seen = seen("/cached", &token);
        assert_eq!(seen.0, 200);
        (seen.1.as_deref() == Some("<me>")).then_some(())
    });
    assert_eq!(seen("/cached", "garbage"), (401, empty));
}

/// rel:K5: a variable that is read before the key of a token is there does not settle that it is unknown.
#[test]
fn a_variable_that_is_read_before_a_new_key_is_there_spoils_nothing() {
    let (old, new) = (SigningKey::generate("old"), SigningKey::generate("new"));
    let keys = KeyServer::of(&jwks(&[&old]));
    let nginx = one_process(
        keys.address(),
        "auth_jwt x; auth_jwt_key_request /_keys; auth_jwt_key_cache 1h;
         location / { set $early \"<$jwt_claim_identifier>\"; proxy_pass http://SERVICE; }
         location /header { auth_jwt_claim_header X-Identifier identifier;
             add_header X-Status $auth_jwt_status always; proxy_pass http://SERVICE; }",
    );
    let status = |path: &str, key: &SigningKey| nginx.get_with(path, &key.token("me")).status;
    assert_eq!(status("/", &old), 200);
    keys.answer(ok(&jwks(&[&old, &new])));
    eventually("the new key is fetched", || (status("/", &new) == 200).then_some(()));
    let newer = SigningKey::generate("newer");
    keys.answer(ok(&jwks(&[&newer])));
    eventually("the newer key is fetched", || (status("/header", &newer) == 200).then_some(()));
    // A key that is really unknown stays so, and is looked for once a second.
    let answer = nginx.get_with("/header", &old.token("me"));
    assert_eq!((answer.status, answer.header("x-status")), (401, Some("key_unknown")));
}

/// mod 2.1: a subrequest can't wait for another: it uses keys that are here, or the answer is 503 and the log says why.
#[test]
fn a_subrequest_uses_the_keys_that_are_here() {
    let key = SigningKey::generate("a");
    let keys = KeyServer::of(&jwks(&[&key]));
    let nginx = one_process(
        keys.address(),
        "auth_jwt_key_request /_keys;
         location = /check { internal; auth_jwt x; auth_jwt_phase preaccess; auth_jwt_key_cache 1h; return 204; }
         location = /checked { internal; auth_jwt x; auth_jwt_phase preaccess; auth_jwt_key_cache 1h;
             proxy_pass http://SERVICE; }
         location /sub { auth_request /checked; proxy_pass http://SERVICE; }
         location /warm { auth_jwt x; auth_jwt_phase preaccess; auth_jwt_key_cache 1h; proxy_pass http://SERVICE; }",
    );
    let token = key.token("me");
    // auth_request makes a 500 of what is neither 2xx, 401 nor 403.
    assert_eq!(nginx.get_with("/sub", &token).status, 500);
    nginx.expect_log(&["[error]", "reason=keys_unavailable", "can't be fetched for a subrequest"]);
    assert_eq!(keys.count(), 0);
    assert_eq!(nginx.get_with("/warm", &token).status, 200);
    assert_eq!(nginx.get_with("/sub", &token).status, 200);
    assert_eq!(nginx.get_with("/sub", "garbage").status, 401);
    assert_eq!(keys.count(), 1);
}

/// mod 2.1, D1, D2: with the check in preaccess requests wait as well, and limits still count.
#[test]
fn preaccess_waits_for_keys_as_access_does() {
    let key = SigningKey::generate("a");
    let keys = KeyServer::start({
        let answer = ok(&jwks(&[&key]));
        move |_, stream| {
            thread::sleep(Duration::from_millis(500));
            send(stream, &answer);
        }
    });
    let nginx = one_process(
        keys.address(),
        "auth_jwt x; auth_jwt_phase preaccess; auth_jwt_key_request /_keys;
         location / { auth_jwt_claim_header X-Identifier identifier; proxy_pass http://SERVICE; }
         location /any { satisfy any; deny all; proxy_pass http://SERVICE; }",
    );
    assert_eq!(statuses(&nginx, "/", &key.token("me"), 20), [200; 20]);
    assert_eq!(statuses(&nginx, "/", &SigningKey::generate("a").token("me"), 10), [401; 10]);
    let answer = nginx.get_with("/", &key.token("me"));
    assert!(answer.body.starts_with("identifier=me\n"), "{answer:?}");
    // In that phase an accepted token grants nothing to `satisfy any`.
    assert_eq!(nginx.get_with("/any", &key.token("me")).status, 403);
}

/// rel:N3: an internal redirect to a location with other keys asks for these.
#[test]
fn a_redirect_fetches_the_keys_of_where_it_leads() {
    let (a, b) = (SigningKey::generate("a"), SigningKey::generate("b"));
    let keys = KeyServer::start({
        let (a, b) = (ok(&jwks(&[&a])), ok(&jwks(&[&b])));
        move |request, stream| {
            send(stream, if request.starts_with("GET /a") { &a } else { &b });
        }
    });
    let nginx = one_process(
        keys.address(),
        "root DIR/public;
         location = /_a { internal; proxy_pass http://KEYS/a; }
         location = /_b { internal; proxy_pass http://KEYS/b; }
         location /a { auth_jwt x; auth_jwt_key_request /_a; try_files /none /b/; }
         location /b { auth_jwt x; auth_jwt_key_request /_b; proxy_pass http://SERVICE; }
         location /both { auth_jwt x; auth_jwt_key_request /_a; auth_jwt_key_request /_b; proxy_pass http://SERVICE; }
         location /page { auth_jwt x; auth_jwt_key_request /_a; error_page 401 = /b/; proxy_pass http://SERVICE; }",
    );
    assert_eq!(nginx.get_with("/a", &a.token("me")).status, 401, "b's keys decide in the end");
    assert_eq!(nginx.get_with("/a", &b.token("me")).status, 401, "a's keys decide first");
    assert_eq!(nginx.get_with("/page", &b.token("me")).status, 200, "the page asks for b's");
    assert_eq!(nginx.get_with("/page", "garbage").status, 401);
    for key in [&a, &b] {
        assert_eq!(nginx.get_with("/both", &key.token("me")).status, 200);
    }
}

/// Several requests of one connection, each of which waits: the connection stays in step.
#[test]
fn requests_of_one_connection_keep_their_order() {
    let key = SigningKey::generate("a");
    let keys = KeyServer::of(&jwks(&[&key]));
    let nginx = one_process(keys.address(), PROTECTED);
    let (good, bad) = (key.token("me"), SigningKey::generate("a").token("me"));
    let mut stream = TcpStream::connect(nginx.port().address()).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
    let mut text = String::new();
    for (number, token) in [&good, &bad, &good, &bad, &good].into_iter().enumerate() {
        let end = if number == 4 { "Connection: close\r\n" } else { "" };
        text.push_str(&format!(
            "GET /{number} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{end}\r\n"
        ));
    }
    stream.write_all(text.as_bytes()).expect("five requests at once");
    let mut answers = String::new();
    stream.read_to_string(&mut answers).expect("five answers");
    let statuses: Vec<&str> =
        answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["200", "401", "200", "401", "200"], "{answers}");
    for number in [0, 2, 4] {
        assert!(answers.contains(&format!("uri=/{number}\n")), "{answers}");
    }
    // A HEAD is answered without a body, and the key request is a GET all the same.
    let bearer = format!("Bearer {good}");
    assert_eq!(ask("HEAD", &nginx.url("/"), &[("authorization", &bearer)], None).status, 200);
    assert!(keys.requests().iter().all(|request| request.starts_with("GET ")));
    // A target that needs cleaning up.
    let server = nginx.port().address();
    assert_eq!(ask_raw(server, "/x/../y", &[("Authorization", &bearer)]), 200);
}

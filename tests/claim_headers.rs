//! `auth_jwt_claim_header`: what a service gets, byte by byte, whatever a client sends.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use system_tests::{Nginx, NginxBuilder, SigningKey, exchange, jwks, now};

/// A service that keeps what it is sent, as HTTP or as SCGI.
struct Service {
    address: String,
    received: Receiver<Sent>,
}

/// The head of a request as the service got it.
#[derive(Debug)]
struct Sent {
    target: String,
    fields: Vec<(String, String)>,
}

impl Service {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address").to_string();
        let (send, received) = channel();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let sent = read_head(&mut stream);
                let _ = stream.write_all(
                    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
                );
                let _ = send.send(sent);
            }
        });
        Self { address, received }
    }

    fn next(&self) -> Sent {
        self.received.recv_timeout(Duration::from_secs(20)).expect("the service was asked")
    }

    fn expect_silence(&self) {
        assert!(self.received.try_recv().is_err(), "the service was asked");
    }
}

fn read_head(stream: &mut TcpStream) -> Sent {
    let mut head = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        if let Some(sent) = http_head(&head).or_else(|| scgi_head(&head)) {
            return sent;
        }
        match stream.read(&mut buffer) {
            Ok(count @ 1..) => head.extend(&buffer[..count]),
            _ => panic!("the request was broken off: {:?}", String::from_utf8_lossy(&head)),
        }
    }
}

fn http_head(head: &[u8]) -> Option<Sent> {
    let end = head.windows(4).position(|four| four == b"\r\n\r\n")?;
    let text = String::from_utf8_lossy(&head[..end]).into_owned();
    let (line, rest) = text.split_once("\r\n")?;
    let target = line.split(' ').nth(1)?.to_owned();
    let field =
        |line: &str| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()));
    let fields = rest.split("\r\n").map(|line| field(line).expect("a header field")).collect();
    Some(Sent { target, fields })
}

/// A netstring of names and values, each ended by a NUL.
fn scgi_head(head: &[u8]) -> Option<Sent> {
    let colon = head.iter().position(|byte| *byte == b':')?;
    let length: usize = std::str::from_utf8(&head[..colon]).ok()?.parse().ok()?;
    let text = head.get(colon + 1..colon + 1 + length)?;
    let texts: Vec<String> =
        text.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into()).collect();
    let pairs = texts.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone()));
    Some(Sent { target: "scgi".into(), fields: pairs.collect() })
}

impl Sent {
    /// The values under a name, in whatever spelling: CGI, WSGI and others don't tell them apart.
    fn values(&self, name: &str) -> Vec<&str> {
        let plain = |name: &str| name.to_ascii_lowercase().replace('_', "-");
        let fields = self.fields.iter().filter(|(each, _)| plain(each) == name);
        fields.map(|(_, value)| value.as_str()).collect()
    }

    fn expect(&self, what: &str, user: &[&str], groups: &[&str]) {
        assert_eq!(self.values("x-user-id"), user, "{what}: {self:?}");
        assert_eq!(self.values("x-groups"), groups, "{what}: {self:?}");
        assert!(!format!("{self:?}").contains("evil"), "{what}: {self:?}");
    }
}

fn alice(key: &SigningKey, mut claims: Value) -> String {
    for (name, value) in
        [("sub", json!("alice")), ("groups", json!(["a", "b"])), ("exp", json!(now() + 300))]
    {
        if claims.get(name).is_none() {
            claims[name] = value;
        }
    }
    key.sign(&claims)
}

/// Every way to write `x-user-id`: four choices of separators, in 12 cases each; and `x-groups`.
fn spellings() -> Vec<String> {
    let mut all = Vec::new();
    for (one, two) in [('-', '-'), ('_', '_'), ('-', '_'), ('_', '-')] {
        let lower = format!("x{one}user{two}id");
        all.extend([lower.clone(), lower.to_uppercase(), format!("X{one}User{two}Id")]);
        for place in 0..lower.len() {
            let mut bytes = lower.clone().into_bytes();
            bytes[place].make_ascii_uppercase();
            all.push(String::from_utf8(bytes).expect("ASCII"));
        }
    }
    all.extend(["x-groups", "X-Groups", "X_GROUPS", "x_groups", "X-gROUPS"].map(str::to_owned));
    all.sort();
    all.dedup();
    assert!(all.len() >= 44, "{}", all.len());
    all
}

/// Sends a request whose header is written exactly so, and gives its status.
fn send(nginx: &Nginx, method: &str, target: &str, fields: &[(String, String)]) -> u16 {
    let mut text = format!("{method} {target} HTTP/1.1\r\nHost: a.example\r\n");
    for (name, value) in fields {
        let _ = write!(text, "{name}: {value}\r\n");
    }
    text.push_str("Connection: close\r\n\r\n");
    let answer = exchange(nginx.port().address(), text.as_bytes());
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status line")
}

fn pair(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

/// rel:N7, mod:D6: 44 spellings and more, in every outcome that reaches a service.
#[test]
fn no_clients_copy_reaches_the_service() {
    let key = SigningKey::generate("a");
    let service = Service::start();
    let text = "
        underscores_in_headers on;
        server { listen unix:DIR/state/accel.sock; location / { add_header X-Accel-Redirect /off/accel; return 200; } }
        server {
            listen LISTEN;
            root DIR/public;
            recursive_error_pages on;
            auth_jwt_key_file DIR/public/jwks.json;
            auth_jwt_claim_header X-User-Id sub;
            auth_jwt_claim_header X-Groups .groups;
            location /on { auth_jwt x; proxy_pass http://UPSTREAM; }
            location /off { auth_jwt off; proxy_pass http://UPSTREAM; }
            location /never { proxy_pass http://UPSTREAM; }
            location /reads { auth_jwt off token=$arg_t; proxy_pass http://UPSTREAM; }
            location /any-allow { satisfy any; allow all; auth_jwt x; proxy_pass http://UPSTREAM; }
            location /any-deny { satisfy any; deny all; auth_jwt x; proxy_pass http://UPSTREAM; }
            location /dry { auth_jwt x; auth_jwt_dry_run on; proxy_pass http://UPSTREAM; }
            location /preflight { auth_jwt x; auth_jwt_preflight on; proxy_pass http://UPSTREAM; }
            location /early { auth_jwt x; auth_jwt_phase preaccess; proxy_pass http://UPSTREAM; }
            location /except { limit_except POST { auth_jwt x; } proxy_pass http://UPSTREAM; }
            location /if { auth_jwt x; if ($arg_a) { proxy_pass http://UPSTREAM; } proxy_pass http://UPSTREAM; }
            location /page { auth_jwt x; error_page 401 = /off/page; proxy_pass http://UPSTREAM; }
            location /named { auth_jwt x; error_page 401 = @off; proxy_pass http://UPSTREAM; }
            location /admin { auth_jwt x; auth_jwt_scope admin; error_page 403 = /off/admin; proxy_pass http://UPSTREAM; }
            location /none { auth_jwt x; try_files /none @off; }
            location /index/ { auth_jwt x; index /on/index; }
            location /accel { auth_jwt x; proxy_pass http://unix:DIR/state/accel.sock; }
            location /rewrite { rewrite ^ /on/rewrite last; }
            location /broken { satisfy any; allow all; auth_jwt x; auth_jwt_key_inherit off; error_page 503 = /off/broken;
                auth_jwt_key_file DIR/public/none.json optional; proxy_pass http://UPSTREAM; }
            location /scgi { auth_jwt x; scgi_pass UPSTREAM; }
            location @off { proxy_pass http://UPSTREAM; }
        }"
    .replace("UPSTREAM", &service.address);
    let nginx = NginxBuilder::bare(&text).jwks(&jwks(&[&key])).start();
    let good = alice(&key, json!({}));
    let expired = alice(&key, json!({"exp": now() - 10}));
    let spellings = spellings();
    let request = |method: &str, target: &str, token: Option<&str>, extra: &[(&str, &str)]| {
        // Before and behind what the client may send, and every one of them twice.
        let mut fields: Vec<_> = spellings.iter().map(|name| pair(name, "evil")).collect();
        fields.push(pair("X-Kept", "kept"));
        fields.extend(extra.iter().map(|(name, value)| pair(name, value)));
        fields.extend(token.map(|token| pair("Authorization", &format!("Bearer {token}"))));
        fields.extend(spellings.iter().map(|name| pair(name, "evil")));
        let status = send(&nginx, method, target, &fields);
        assert_eq!(status, 200, "{method} {target}");
        let sent = service.next();
        assert!(
            sent.values("x-kept") == ["kept"] || sent.values("http-x-kept") == ["kept"],
            "{sent:?}"
        );
        sent
    };
    let verified = |method: &str, target: &str| {
        request(method, target, Some(&good), &[]).expect(target, &["alice"], &["a,b"]);
    };
    let nobody = |method: &str, target: &str, token: Option<&str>| {
        request(method, target, token, &[]).expect(target, &[], &[]);
    };
    for target in ["/on", "/any-allow", "/any-deny", "/dry", "/early", "/if", "/if?a=1", "/rewrite"]
    {
        verified("GET", target);
    }
    verified("DELETE", "/except");
    verified("GET", "/index/");
    verified("GET", &format!("/reads?t={good}"));
    nobody("POST", "/except", Some(&good));
    for target in ["/off", "/never", "/reads", "/admin", "/none", "/accel", "/broken"] {
        nobody("GET", target, Some(&good));
    }
    for token in [None, Some("garbage"), Some(expired.as_str())] {
        for target in ["/off", "/never", "/any-allow", "/dry", "/page", "/named", "/admin"] {
            // `/admin` is refused with 401 without a good token.
            if target != "/admin" {
                nobody("GET", target, token);
            }
        }
    }
    nobody("GET", "/reads?t=garbage", Some(&good));
    let preflight = [("Origin", "https://a.example"), ("Access-Control-Request-Method", "GET")];
    request("OPTIONS", "/preflight", None, &preflight).expect("preflight", &[], &[]);
    // CGI's form of the names is where `-` and `_` meet.
    let sent = request("GET", "/scgi", Some(&good), &[]);
    assert_eq!(sent.values("http-x-user-id"), ["alice"], "{sent:?}");
    assert_eq!(sent.values("http-x-groups"), ["a,b"], "{sent:?}");
    assert!(!format!("{sent:?}").contains("evil"), "{sent:?}");
    service.expect_silence();
}

/// rel:N3: what one location has set is taken back where the next one sets others, and the lists are a level's own.
#[test]
fn a_redirect_takes_the_headers_of_the_first_location_back() {
    let key = SigningKey::generate("a");
    let service = Service::start();
    let text = "
        server {
            listen LISTEN;
            root DIR/public;
            auth_jwt_key_file DIR/public/jwks.json;
            auth_jwt_claim_header X-User-Id sub;
            auth_jwt_claim_header X-Groups .groups;
            location /same { auth_jwt x; error_page 404 = /on; }
            location /other { auth_jwt x; error_page 404 = /name; }
            location /named { auth_jwt x; error_page 404 = @name; }
            location /same-name { auth_jwt x; error_page 404 = /renamed; }
            location /on { auth_jwt x; proxy_pass http://UPSTREAM; }
            location /name { auth_jwt x; auth_jwt_claim_header X-Name name; proxy_pass http://UPSTREAM; }
            location @name { auth_jwt off; auth_jwt_claim_header X-Name name; proxy_pass http://UPSTREAM; }
            location /renamed { auth_jwt x; auth_jwt_claim_header x_user_id name; proxy_pass http://UPSTREAM; }
        }"
    .replace("UPSTREAM", &service.address);
    let nginx = NginxBuilder::bare(&text).jwks(&jwks(&[&key])).start();
    let token = alice(&key, json!({"name": "Alice"}));
    let ask = |target: &str| {
        let fields = [pair("X-Name", "evil"), pair("Authorization", &format!("Bearer {token}"))];
        assert_eq!(send(&nginx, "GET", target, &fields), 200, "{target}");
        service.next()
    };
    for target in ["/on", "/same"] {
        let sent = ask(target);
        assert_eq!(sent.values("x-user-id"), ["alice"], "{sent:?}");
        assert_eq!(sent.values("x-groups"), ["a,b"], "{sent:?}");
    }
    for (target, name) in [("/name", &["Alice"][..]), ("/other", &["Alice"]), ("/named", &[])] {
        let sent = ask(target);
        assert_eq!(sent.values("x-name"), name, "{sent:?}");
        sent.expect(target, &[], &[]);
    }
    for target in ["/renamed", "/same-name"] {
        let sent = ask(target);
        assert_eq!(sent.values("x-user-id"), ["Alice"], "{sent:?}");
        assert_eq!(sent.values("x-groups"), [""; 0], "{sent:?}");
        // The list of this location is its own: X-Name is no claim's header here.
        assert_eq!(sent.values("x-name"), ["evil"], "{sent:?}");
    }
}

/// mod 2.1, rel:N5: a subrequest's headers are its own and leave its parent's alone.
#[test]
fn a_subrequest_changes_no_header_of_its_parent() {
    let key = SigningKey::generate("a");
    let service = Service::start();
    let text = "
        server {
            listen LISTEN;
            auth_jwt x;
            auth_jwt_key_file DIR/public/jwks.json;
            location = /_ask { internal; auth_jwt_claim_header X-Asked sub; proxy_pass http://UPSTREAM/ask; }
            location = /asked { auth_jwt_claim_header X-User-Id sub; auth_request /_ask; proxy_pass http://UPSTREAM; }
            location = /plain { auth_request /_ask; proxy_pass http://UPSTREAM; }
            location = /_copy { internal; auth_jwt_claim_header X-Copy sub; proxy_pass http://UPSTREAM/copy; }
            location = /mirrored { auth_jwt_claim_header X-User-Id sub; mirror /_copy; proxy_pass http://UPSTREAM; }
        }"
    .replace("UPSTREAM", &service.address);
    let nginx = NginxBuilder::bare(&text).jwks(&jwks(&[&key])).start();
    let token = alice(&key, json!({}));
    // With so many fields that nginx's list has one part, exactly one, and several.
    for others in [0, 16, 17, 18, 19, 40] {
        for (copies, what) in [(false, "without"), (true, "with")] {
            let ask = |target: &str| {
                let mut fields = vec![pair("Authorization", &format!("Bearer {token}"))];
                fields.extend((0..others).map(|number| pair(&format!("X-Other-{number}"), "kept")));
                if copies {
                    fields
                        .extend(["X-Asked", "X-Copy", "X-User-Id"].map(|name| pair(name, "evil")));
                }
                assert_eq!(send(&nginx, "GET", target, &fields), 200, "{target}");
                let mut both = [service.next(), service.next()];
                both.sort_by_key(|sent| sent.target == target);
                both
            };
            let kept = |sent: &Sent| {
                let is_kept = |(name, value): &&(String, String)| {
                    name.starts_with("X-Other-") && value == "kept"
                };
                sent.fields.iter().filter(is_kept).count()
            };
            for (target, name) in [("/asked", "x-asked"), ("/mirrored", "x-copy")] {
                let what = format!("{target} {what} copies, {others} others");
                let [sub, main] = ask(target);
                assert_eq!(sub.values(name), ["alice"], "{what}: {sub:?}");
                assert_eq!(main.values("x-user-id"), ["alice"], "{what}: {main:?}");
                // The parent has not asked for it: it is what the client sent, if it sent any.
                let clients: &[&str] = if copies { &["evil"] } else { &[] };
                assert_eq!(main.values(name), clients, "{what}: {main:?}");
                assert_eq!((kept(&sub), kept(&main)), (others, others), "{what}");
            }
            let [sub, main] = ask("/plain");
            assert_eq!(sub.values("x-asked"), ["alice"], "{sub:?}");
            let clients: &[&str] = if copies { &["evil"] } else { &[] };
            assert_eq!(main.values("x-asked"), clients, "{main:?}");
        }
    }
}

/// nginx keeps the value of `$http_NAME` that was read first; ours must not be the second.
#[test]
fn a_variable_of_the_header_is_no_way_around() {
    let key = SigningKey::generate("a");
    let service = Service::start();
    let text = "
        map $http_x_user_id $is_known { default 1; '' 0; }
        server {
            listen LISTEN;
            auth_jwt x;
            auth_jwt_key_file DIR/public/jwks.json;
            auth_jwt_claim_header X-User-Id sub;
            location /plain { proxy_set_header X-Forwarded-User $http_x_user_id; proxy_pass http://UPSTREAM; }
            location /seen {
                if ($http_x_user_id = nobody) { return 403; }
                proxy_set_header X-Forwarded-User $http_x_user_id;
                proxy_pass http://UPSTREAM;
            }
            location /map {
                if ($is_known = 3) { return 403; }
                proxy_set_header X-Forwarded-User $http_x_user_id;
                proxy_pass http://UPSTREAM;
            }
        }"
    .replace("UPSTREAM", &service.address);
    let nginx = NginxBuilder::bare(&text).jwks(&jwks(&[&key])).start();
    let token = alice(&key, json!({}));
    for target in ["/plain", "/seen", "/map"] {
        let fields = [pair("X-User-Id", "evil"), pair("Authorization", &format!("Bearer {token}"))];
        assert_eq!(send(&nginx, "GET", target, &fields), 200, "{target}");
        let sent = service.next();
        assert_eq!(sent.values("x-user-id"), ["alice"], "{target}: {sent:?}");
        assert_eq!(sent.values("x-forwarded-user"), ["alice"], "{target}: {sent:?}");
    }
}

/// rel:N7: what a header can't carry is left out; what it can arrives byte by byte.
#[test]
fn a_claims_value_is_one_header_or_none() {
    let key = SigningKey::generate("a");
    let service = Service::start();
    let text = "
        server {
            listen LISTEN;
            auth_jwt_key_file DIR/public/jwks.json;
            auth_jwt_claim_header X-V v;
            auth_jwt_claim_header X-First .v[0];
            auth_jwt_claim_header X-Deep '.v.\"a b\".c';
            auth_jwt_claim_header X-Dot a.b;
            location / { auth_jwt x; proxy_pass http://UPSTREAM; }
        }"
    .replace("UPSTREAM", &service.address);
    let nginx = NginxBuilder::bare(&text).jwks(&jwks(&[&key])).start();
    let got = |claims: Value| {
        let token = alice(&key, claims);
        let fields = [pair("X-V", "evil"), pair("Authorization", &format!("Bearer {token}"))];
        assert_eq!(send(&nginx, "GET", "/", &fields), 200);
        let sent = service.next();
        let one = |name: &str| {
            let values = sent.values(name);
            assert!(values.len() <= 1, "{sent:?}");
            values.first().map(|value| (*value).to_owned())
        };
        assert!(!format!("{sent:?}").contains("evil"), "{sent:?}");
        (one("x-v"), one("x-first"), one("x-deep"))
    };
    let long = "x".repeat(4000);
    for (value, expected) in [
        (json!("plain text, with \"quotes\""), "plain text, with \"quotes\""),
        (json!("Zoë — 日本"), "Zoë — 日本"),
        (json!(long), long.as_str()),
        (json!(7), "7"),
        (json!(9_007_199_254_740_993_u64), "9007199254740993"),
        (json!(1.5), "1.5"),
        (json!(true), "true"),
        (json!(false), "false"),
        (json!({"b": 1, "a": [1, "x"]}), "{\"a\":[1,\"x\"],\"b\":1}"),
        (json!({"a": "line\nbreak"}), "{\"a\":\"line\\nbreak\"}"),
    ] {
        assert_eq!(got(json!({"v": value})), (Some(expected.to_owned()), None, None), "{expected}");
    }
    for (value, all, first) in [
        (json!(["a"]), "a", "a"),
        (json!(["a", 1, true]), "a,1,true", "a"),
        (json!([{"k": "v"}, ["x"]]), "{\"k\":\"v\"},[\"x\"]", "{\"k\":\"v\"}"),
    ] {
        let expected = (Some(all.to_owned()), Some(first.to_owned()), None);
        assert_eq!(got(json!({"v": value})), expected, "{all}");
    }
    assert_eq!(got(json!({"v": {"a b": {"c": "deep"}}})).2, Some("deep".into()));
    for value in [
        json!("a\r\nX-Admin: evil"),
        json!("a\nevil"),
        json!("a\revil"),
        json!("a\u{0}evil"),
        json!(["good", "a\r\nX-Admin: evil"]),
        json!(""),
        Value::Null,
        json!([]),
    ] {
        let seen = got(json!({"v": value}));
        assert_eq!(seen.0, None, "{value}");
    }
    assert_eq!(got(json!({})), (None, None, None));
    // A name without a leading dot is one key.
    let token = alice(&key, json!({"a.b": "dotted", "a": {"b": "nested"}}));
    assert_eq!(send(&nginx, "GET", "/", &[pair("Authorization", &format!("Bearer {token}"))]), 200);
    assert_eq!(service.next().values("x-dot"), ["dotted"]);
}

/// What is not a claim's header arrives as it was sent: spelling, value, order, and all of it.
#[test]
fn other_headers_stay_in_order() {
    let key = SigningKey::generate("a");
    let service = Service::start();
    let text = "
        underscores_in_headers on;
        server {
            listen LISTEN;
            auth_jwt_key_file DIR/public/jwks.json;
            auth_jwt_claim_header X-User-Id sub;
            location / { auth_jwt x; proxy_pass http://UPSTREAM; }
        }"
    .replace("UPSTREAM", &service.address);
    let nginx = NginxBuilder::bare(&text).jwks(&jwks(&[&key])).start();
    let bearer = format!("Bearer {}", alice(&key, json!({})));
    // nginx's list has parts of 20 fields: copies in front, behind, between, and parts of nothing but copies.
    type CopiesBefore = fn(usize) -> usize;
    let places: [(&str, CopiesBefore); 5] = [
        ("none", |_| 0),
        ("between", |_| 1),
        ("in front", |place| if place == 0 { 20 } else { 0 }),
        ("a part of them", |place| if place == 10 { 45 } else { 0 }),
        ("every second", |place| place % 2),
    ];
    for count in [0, 1, 15, 16, 17, 18, 19, 20, 21, 37, 38, 39, 60, 200] {
        for (what, copies_at) in places {
            let mut fields = Vec::new();
            let mut expected = Vec::new();
            for place in 0..count {
                for copy in 0..copies_at(place) {
                    fields.push(pair(["X-User-Id", "x_user_id"][copy % 2], "evil"));
                }
                let kept = pair(&format!("X-Kept_{}", place % 7), &format!("value {place}"));
                fields.push(kept.clone());
                expected.push(kept);
            }
            fields.push(pair("Cookie", "a=b"));
            fields.push(pair("Authorization", &bearer));
            fields.push(pair("User-Agent", "test"));
            fields.push(pair("X-USER-ID", "evil"));
            assert_eq!(send(&nginx, "GET", "/", &fields), 200);
            let sent = service.next();
            let kept: Vec<_> =
                sent.fields.iter().filter(|(name, _)| name.starts_with("X-Kept_")).collect();
            assert_eq!(kept, expected.iter().collect::<Vec<_>>(), "{count} fields, copies {what}");
            sent.expect(&format!("{count} fields, copies {what}"), &["alice"], &[]);
            assert_eq!(sent.values("cookie"), ["a=b"]);
            assert_eq!(sent.values("authorization"), [bearer.as_str()]);
            assert_eq!(sent.values("user-agent"), ["test"]);
        }
    }
}

/// In HTTP/2 a field that stands several times, in lower case, which is all that it allows.
#[test]
fn http2_brings_no_copy_either() {
    let key = SigningKey::generate("a");
    let service = Service::start();
    let text = "
        underscores_in_headers on;
        server {
            listen LISTEN http2;
            auth_jwt_key_file DIR/public/jwks.json;
            auth_jwt_claim_header X-User-Id sub;
            location /on { auth_jwt x; proxy_pass http://UPSTREAM; }
            location /off { proxy_pass http://UPSTREAM; }
        }"
    .replace("UPSTREAM", &service.address);
    let nginx = NginxBuilder::bare(&text).jwks(&jwks(&[&key])).start();
    let bearer = format!("Authorization: Bearer {}", alice(&key, json!({})));
    for (target, expected) in [("/on", &["alice"][..]), ("/off", &[])] {
        let mut command = Command::new("curl");
        command.args(["--silent", "--noproxy", "*", "--http2-prior-knowledge"]);
        command.args(["--output", "/dev/null", "--write-out", "%{http_version} %{http_code}"]);
        for _ in 0..12 {
            for name in ["x-user-id", "x_user_id", "x-user_id", "X-User-Id"] {
                command.args(["--header", &format!("{name}: evil")]);
            }
        }
        let output = command.args(["--header", &bearer]).arg(nginx.url(target)).output();
        let output = output.expect("curl");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "2 200", "{target}");
        service.next().expect(target, expected, &[]);
    }
}

/// A name that can't be one, stands twice, or that nginx itself reads.
#[test]
fn mistakes_are_named() {
    for (text, value, expected) in [
        ("auth_jwt_claim_header 'X User' sub;", "X User", "a header name is expected"),
        ("auth_jwt_claim_header X: sub;", "X:", "a header name is expected"),
        ("auth_jwt_claim_header X-User .a[;", ".a[", ""),
        ("auth_jwt_claim_header X-User a; auth_jwt_claim_header x_uSER b;", "x_uSER", "once"),
        ("auth_jwt_claim_header Host sub;", "Host", "nginx itself does not read"),
        ("auth_jwt_claim_header AUTHORIZATION sub;", "AUTHORIZATION", "nginx itself"),
        ("auth_jwt_claim_header Content_Length sub;", "Content_Length", "nginx itself"),
        ("auth_jwt_claim_header transfer-encoding sub;", "transfer-encoding", "nginx itself"),
        ("auth_jwt_claim_header Cookie sub;", "Cookie", "nginx itself"),
        ("auth_jwt_claim_header X-Forwarded-For sub;", "X-Forwarded-For", "nginx itself"),
        ("auth_jwt_claim_header X-Real_IP sub;", "X-Real_IP", "nginx itself"),
        ("auth_jwt_claim_header upgrade sub;", "upgrade", "nginx itself"),
    ] {
        let check = NginxBuilder::bare(&format!("server {{ listen LISTEN; {text} }}")).check();
        assert!(!check.accepted, "{text} was accepted");
        let line = check.output.lines().find(|line| line.contains("[emerg]")).expect("a line");
        let start = format!("invalid value \"{value}\" of \"auth_jwt_claim_header\": ");
        assert!(line.contains(&start) && line.contains(expected), "{text}\n{line}");
        assert!(line.contains("http.conf:2"), "{text}\n{line}");
    }
    for text in ["auth_jwt_claim_header X-User;", "auth_jwt_claim_header X-User a b;"] {
        let check = NginxBuilder::bare(&format!("server {{ listen LISTEN; {text} }}")).check();
        assert!(check.output.contains("invalid number of arguments"), "{text}\n{}", check.output);
    }
}

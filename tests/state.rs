//! What the module remembers and tells: the cache, used tokens, counters, the cookie; and where tokens are looked for.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Barrier};
use std::thread;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use system_tests::{
    Answer, Nginx, NginxBuilder, SigningKey, ask, eventually, get, jwks, now, sign,
};

const KEYS: &str = "auth_jwt_key_file DIR/public/jwks.json;";

/// One process alone, so that what it remembers does not depend on which worker a request meets.
fn single(key: &SigningKey, http: &str, files: &[(&str, &str)]) -> Nginx {
    let builder = NginxBuilder::bare(&format!("{KEYS}\n{http}")).main_level("master_process off;");
    let builder = files.iter().fold(builder, |builder, (name, text)| builder.file(name, text));
    builder.jwks(&jwks(&[key])).start()
}

fn start(key: &SigningKey, server: &str) -> Nginx {
    Nginx::server(key, &format!("{KEYS}\n{server}"))
}

fn status_of(nginx: &Nginx) -> Value {
    serde_json::from_str(&nginx.get("/status").body).expect("JSON")
}

/// What `nginx -t` says about a mistake in `http {}`.
fn complaint(text: &str) -> String {
    let check = NginxBuilder::bare(text).check();
    assert!(!check.accepted, "{text} was accepted");
    let line = check.output.lines().find(|line| line.contains("[emerg]"));
    line.unwrap_or_else(|| panic!("no [emerg] line: {}", check.output)).to_owned()
}

fn seen(answer: &Answer) -> (u16, String) {
    (answer.status, answer.header("x-cache").expect("add_header always").to_owned())
}

fn verdict(status: u16, cache: &str) -> (u16, String) {
    (status, format!("<{cache}>"))
}

/// rel:T11, design.md section 5: a hit saves the signature alone; each location judges it by its own rules.
#[test]
fn a_hit_is_judged_by_the_location_it_meets() {
    let key = SigningKey::generate("a");
    let nginx = single(
        &key,
        "server {
            listen LISTEN;
            auth_jwt x;
            add_header X-Cache '<$auth_jwt_cache>' always;
            location / { proxy_pass http://SERVICE; }
            location /cookie { auth_jwt x token=$cookie_t; proxy_pass http://SERVICE; }
            location /lenient { auth_jwt_leeway 1h; proxy_pass http://SERVICE; }
            location /role { auth_jwt_require_claim role eq admin error=403; proxy_pass http://SERVICE; }
            location /aud { auth_jwt_audience them; proxy_pass http://SERVICE; }
            location /typ { auth_jwt_typ at+jwt; proxy_pass http://SERVICE; }
            location /alg { auth_jwt_alg RS256; proxy_pass http://SERVICE; }
            location /age { auth_jwt_max_age 10s; proxy_pass http://SERVICE; }
            location /revoked { auth_jwt_revocation_list_sub DIR/public/sub.json; proxy_pass http://SERVICE; }
            location /other { auth_jwt_key_file DIR/public/other.json; proxy_pass http://SERVICE; }
            location /both { auth_jwt_key_inherit merge; auth_jwt_key_file DIR/public/other.json; proxy_pass http://SERVICE; }
            location /unchecked { auth_jwt_validate_sig off; proxy_pass http://SERVICE; }
            location /off { auth_jwt off; proxy_pass http://SERVICE; }
        }",
        &[("sub.json", r#"{"mallory":1}"#), ("other.json", &jwks(&[&SigningKey::generate("a")]))],
    );
    let claims = json!({"sub": "mallory", "role": "user", "aud": "us", "iat": now() - 60});
    let token = sign(&key, claims);
    let at = |path: &str| seen(&nginx.get_with(path, &token));
    assert_eq!(at("/"), verdict(200, "miss"));
    assert_eq!(at("/"), verdict(200, "hit"));
    // Elsewhere in the request, it is the same token.
    let cookie = get(&nginx.url("/cookie"), &[("cookie", &format!("t={token}"))]);
    assert_eq!(seen(&cookie), verdict(200, "hit"));
    // The token is verified, and the rules refuse it.
    assert_eq!(at("/role"), verdict(403, "hit"));
    for path in ["/aud", "/typ", "/alg", "/age", "/revoked", "/other"] {
        assert_eq!(at(path), verdict(401, ""), "{path}");
    }
    // Other keys are other entries; the first of them stays.
    assert_eq!(at("/both"), verdict(200, "miss"));
    assert_eq!(at("/both"), verdict(200, "hit"));
    assert_eq!(at("/"), verdict(200, "hit"));
    assert_eq!(at("/unchecked"), verdict(200, ""), "there is no signature to save");
    assert_eq!(at("/off"), verdict(200, ""));
    // One that is expired where it was let in before, and is not where the leeway is long.
    let late = sign(&key, json!({"exp": now() - 30}));
    let at = |path: &str| seen(&nginx.get_with(path, &late));
    assert_eq!(at("/lenient"), verdict(200, "miss"));
    assert_eq!(at("/"), verdict(401, ""));
    assert_eq!(at("/lenient"), verdict(200, "hit"));
    // An edit of the signature is another token.
    let mut edited = token.clone();
    let last = if edited.ends_with('A') { 'Q' } else { 'A' };
    edited.pop();
    edited.push(last);
    assert_eq!(seen(&nginx.get_with("/", &edited)), verdict(401, ""));
    // What was refused is not in the cache.
    assert_eq!(seen(&nginx.get_with("/", &edited)), verdict(401, ""));
}

/// design.md section 4, point 6: with another version of the keys nothing of the old one counts.
#[test]
fn another_version_of_the_keys_voids_the_cache() {
    let (key, other) = (SigningKey::generate("a"), SigningKey::generate("b"));
    let nginx = single(
        &key,
        "server { listen LISTEN; add_header X-Cache '<$auth_jwt_cache>' always;
                  location / { auth_jwt x; proxy_pass http://SERVICE; } }",
        &[],
    );
    let token = key.token("me");
    let at = || seen(&nginx.get_with("/", &token));
    assert_eq!([at(), at()], [verdict(200, "miss"), verdict(200, "hit")]);
    nginx.replace_jwks(&jwks(&[&key, &other]));
    eventually("the new version", || {
        (nginx.get_with("/", &other.token("me")).status == 200).then_some(())
    });
    assert_eq!([at(), at()], [verdict(200, "miss"), verdict(200, "hit")]);
    // A version that is refused leaves keys and cache as they are.
    nginx.replace_jwks("{\"keys\":[]}");
    nginx.expect_log(&["rejected"]);
    assert_eq!(at(), verdict(200, "hit"));
    nginx.replace_jwks(&jwks(&[&other]));
    eventually("the key is gone", || (at() == verdict(401, "")).then_some(()));
}

/// The cache keeps to its size, and what it drops is verified again.
#[test]
fn the_cache_is_bounded_and_can_be_turned_off() {
    let key = SigningKey::generate("a");
    let server = "server { listen LISTEN; add_header X-Cache '<$auth_jwt_cache>' always;
        location / { auth_jwt x; proxy_pass http://SERVICE; } location = /status { auth_jwt_status; } }";
    let nginx = single(&key, &format!("auth_jwt_cache size=64k; {server}"), &[]);
    let tokens: Vec<String> =
        (0..300).map(|number| sign(&key, json!({"n": number, "x": "x".repeat(300)}))).collect();
    let client = reqwest::blocking::Client::builder().no_proxy().build().expect("a client");
    for token in &tokens {
        let answer = client.get(nginx.url("/")).bearer_auth(token).send().expect("an answer");
        assert_eq!(answer.status(), 200);
    }
    let cache = &status_of(&nginx)["cache"];
    let number = |name: &str| cache[name].as_u64().expect("a number");
    assert_eq!((number("limit"), number("misses"), number("hits")), (65_536, 300, 0));
    assert!(number("bytes") <= 65_536 && number("bytes") > 10_000, "{cache}");
    assert!(number("entries") > 10 && number("entries") < 200, "{cache}");
    let at = |token: &str| seen(&nginx.get_with("/", token));
    assert_eq!(at(&tokens[299]), verdict(200, "hit"), "the last is here");
    assert_eq!(at(&tokens[0]), verdict(200, "miss"), "the first had to go");
    drop(nginx);

    let nginx = single(&key, &format!("auth_jwt_cache off; {server}"), &[]);
    for _ in 0..3 {
        assert_eq!(seen(&nginx.get_with("/", &tokens[0])), verdict(200, ""));
    }
    let expected = json!({"hits": 0, "misses": 0, "entries": 0, "bytes": 0, "limit": 0});
    assert_eq!(status_of(&nginx)["cache"], expected);
}

/// Of one token that comes many times at once, one passes; and what has expired makes room for its name.
#[test]
fn a_token_passes_once_among_all_workers() {
    let key = SigningKey::generate("a");
    let nginx = Arc::new(start(
        &key,
        "auth_jwt_leeway 2s;
         location / { auth_jwt x; auth_jwt_replay zone=used:1m; proxy_pass http://SERVICE; }
         location /second { auth_jwt x; auth_jwt_replay zone=second:1m; proxy_pass http://SERVICE; }
         location /nested { auth_jwt x; auth_jwt_replay zone=used; proxy_pass http://SERVICE;
             location /nested/off { auth_jwt_replay off; proxy_pass http://SERVICE; }
             location /nested/in { proxy_pass http://SERVICE; } }
         location /dry { auth_jwt x; auth_jwt_replay zone=used; auth_jwt_dry_run on; proxy_pass http://SERVICE; }
         location /early { auth_jwt x; auth_jwt_replay zone=used; auth_jwt_phase preaccess; proxy_pass http://SERVICE; }
         location /any { satisfy any; deny all; auth_jwt x; auth_jwt_replay zone=used; proxy_pass http://SERVICE; }
         location /tried { auth_jwt x; auth_jwt_replay zone=used; root DIR/public; try_files /none /second/x; }
         location /except { limit_except GET { auth_jwt x; auth_jwt_replay zone=used; } proxy_pass http://SERVICE; }",
    ));
    for round in 0..4 {
        let token = sign(&key, json!({"jti": format!("round {round}")}));
        let barrier = Arc::new(Barrier::new(12));
        let clients: Vec<_> = (0..12)
            .map(|_| {
                let (nginx, barrier) = (Arc::clone(&nginx), Arc::clone(&barrier));
                let token = token.clone();
                thread::spawn(move || {
                    barrier.wait();
                    nginx.get_with("/", &token).status
                })
            })
            .collect();
        let mut statuses: Vec<u16> =
            clients.into_iter().map(|client| client.join().expect("no panic")).collect();
        statuses.sort_unstable();
        assert_eq!(statuses[0], 200);
        assert!(statuses[1..].iter().all(|status| *status == 401), "{statuses:?}");
    }
    let twice = |path: &str, jti: &str| {
        let token = sign(&key, json!({"jti": jti}));
        [nginx.get_with(path, &token).status, nginx.get_with(path, &token).status]
    };
    for (path, jti) in [("/early", "e"), ("/any", "y"), ("/nested/in", "n"), ("/tried", "t")] {
        assert_eq!(twice(path, jti), [200, 401], "{path}");
    }
    assert_eq!(twice("/nested/off", "o"), [200, 200]);
    assert_eq!(twice("/dry", "d"), [200, 200]);
    nginx.expect_log(&["jwt: would deny reason=replayed status=401"]);
    let token = sign(&key, json!({"jti": "x"}));
    assert_eq!(nginx.get_with("/except", &token).status, 200);
    let bearer = format!("Bearer {token}");
    let delete =
        || ask("DELETE", &nginx.url("/except"), &[("authorization", bearer.as_str())], None).status;
    assert_eq!([delete(), delete()], [200, 401]);
    // Each zone is its own.
    let token = sign(&key, json!({"jti": "z"}));
    assert_eq!(nginx.get_with("/", &token).status, 200);
    assert_eq!(nginx.get_with("/second", &token).status, 200);
    assert_eq!(nginx.get_with("/second", &token).status, 401);
    // Also where one request passes both.
    let token = sign(&key, json!({"jti": "both"}));
    assert_eq!(nginx.get_with("/tried", &token).status, 200);
    assert_eq!(nginx.get_with("/second", &token).status, 401);
    let token = sign(&key, json!({"jti": "both, the other way round"}));
    assert_eq!(nginx.get_with("/second", &token).status, 200);
    assert_eq!(nginx.get_with("/tried", &token).status, 401);
    // What can't be remembered is refused.
    for claims in [json!({}), json!({"jti": ""}), json!({"jti": 7}), json!({"jti": null})] {
        assert_eq!(nginx.get_with("/", &sign(&key, claims.clone())).status, 401, "{claims}");
    }
    nginx.expect_log(&["reason=claim status=401", "no jti or no exp, which auth_jwt_replay needs"]);
    let endless = key.sign(&json!({"jti": "endless"}));
    assert_eq!(nginx.get_with("/", &endless).status, 401);
    // It is known as long as the leeway lets it pass, and no longer.
    let ends = now() + 1;
    let short = sign(&key, json!({"jti": "short", "exp": ends}));
    let long = sign(&key, json!({"jti": "short"}));
    assert_eq!(nginx.get_with("/", &short).status, 200);
    eventually("its name is free again", || {
        (nginx.get_with("/", &long).status == 200).then_some(())
    });
    assert!(now() > ends + 2, "it was forgotten while it was good");
}

/// The parts of one request count as one use, in whatever phase and subrequest they are checked.
#[test]
fn one_request_with_subrequests_is_one_use() {
    let key = SigningKey::generate("a");
    let nginx = start(
        &key,
        "auth_jwt x; auth_jwt_phase preaccess; auth_jwt_replay zone=used:1m;
         location = /_ask { internal; proxy_pass http://SERVICE; }
         location /asked { auth_request /_ask; proxy_pass http://SERVICE; }",
    );
    let token = sign(&key, json!({"jti": "1"}));
    assert_eq!(nginx.get_with("/asked", &token).status, 200);
    assert_eq!(nginx.get_with("/asked", &token).status, 401);
}

/// A token that is past its exp is no longer remembered: it must not pass where nothing else looks at exp.
#[test]
fn an_expired_token_is_used_up_already() {
    let key = SigningKey::generate("a");
    let nginx = start(
        &key,
        "auth_jwt x; auth_jwt_validate_exp off; auth_jwt_replay zone=used:1m; auth_jwt_leeway 5s;
         location / { proxy_pass http://SERVICE; }",
    );
    let statuses = |jti: &str, exp: i64| {
        let token = key.sign(&json!({"jti": jti, "exp": exp}));
        [(); 2].map(|()| nginx.get_with("/", &token).status)
    };
    assert_eq!(statuses("old", now() - 100), [401, 401]);
    nginx.expect_log(&["reason=expired status=401"]);
    assert_eq!(statuses("good", now() + 100), [200, 401]);
}

/// The same in dialect kjdev, where a rule on exp takes the place of its check.
#[test]
fn a_rule_on_exp_lets_no_token_pass_twice() {
    let key = SigningKey::generate("a");
    let nginx = NginxBuilder::bare(
        "auth_jwt_compat kjdev;
        server {
            listen LISTEN;
            location / { auth_jwt x; auth_jwt_key_file DIR/public/jwks.json; auth_jwt_require_claim exp gt json=0;
                auth_jwt_replay zone=used:1m; proxy_pass http://SERVICE; }
        }",
    )
    .jwks(&jwks(&[&key]))
    .start();
    let old = key.sign(&json!({"jti": "1", "exp": now() - 100}));
    assert_eq!([(); 2].map(|()| nginx.get_with("/", &old).status), [401, 401]);
    let good = sign(&key, json!({"jti": "1"}));
    assert_eq!([(); 2].map(|()| nginx.get_with("/", &good).status), [200, 401]);
}

#[test]
fn mistakes_about_memory_are_named() {
    let replay = |value: &str| format!("auth_jwt_replay {value};");
    for (text, expected) in [
        ("auth_jwt_cache size=1k;".to_owned(), "\"size=1k\" of \"auth_jwt_cache\": size=SIZE"),
        ("auth_jwt_cache size=lots;".to_owned(), "\"size=lots\" of \"auth_jwt_cache\""),
        ("auth_jwt_cache on;".to_owned(), "\"on\" of \"auth_jwt_cache\": size=SIZE"),
        ("auth_jwt_cache off; auth_jwt_cache off;".to_owned(), "is duplicate"),
        ("server { auth_jwt_cache off; }".to_owned(), "is not allowed here"),
        (replay("zone=a"), "the first use of a zone needs its size, zone=NAME:SIZE"),
        (replay("zone=a:4k"), "\"zone=a:4k\" of \"auth_jwt_replay\": zone=NAME:SIZE"),
        (replay("zone=a:"), "\"zone=a:\" of \"auth_jwt_replay\""),
        (replay("zone=a:big"), "\"zone=a:big\" of \"auth_jwt_replay\""),
        (replay("zone=:1m"), "of \"auth_jwt_replay\": it must not be empty"),
        (replay("on"), "\"on\" of \"auth_jwt_replay\": zone=NAME:SIZE"),
        (
            "auth_jwt_replay zone=a:1m; server { auth_jwt_replay zone=a:2m; }".to_owned(),
            "the zone was made with another size before",
        ),
        ("auth_jwt_replay zone=a:1m; auth_jwt_replay zone=a;".to_owned(), "is duplicate"),
        ("limit_req_zone $uri zone=a:1m rate=1r/s; auth_jwt_replay zone=a:1m;".to_owned(), "a"),
    ] {
        let line = complaint(&text);
        assert!(line.contains(expected), "{text}\n{line}");
        assert!(line.contains("http.conf:2"), "{text}\n{line}");
    }
}

/// One way to be refused, or let in.
struct Case {
    reason: &'static str,
    /// The status, where the location refuses.
    status: u16,
    /// What the location adds.
    directives: &'static str,
    token: Option<String>,
}

/// A case for each word but `internal`, which no request can bring about.
fn cases(key: &SigningKey) -> Vec<Case> {
    let case = |reason, status, directives, token| Case { reason, status, directives, token };
    let good = |claims: Value| Some(sign(key, claims));
    let parts: Vec<String> = sign(key, json!({})).split('.').map(str::to_owned).collect();
    let with_header = |header: Value| {
        let header = URL_SAFE_NO_PAD.encode(header.to_string());
        Some([&*header, &parts[1], &parts[2]].join("."))
    };
    vec![
        case("missing", 401, "", None),
        case("malformed", 401, "", Some("a.b".into())),
        case("too_large", 401, "auth_jwt_max_size 64;", good(json!({}))),
        case("alg", 401, "auth_jwt_alg RS256 EdDSA;", good(json!({}))),
        case(
            "crit",
            401,
            "",
            with_header(json!({"alg": "ES256", "kid": "a", "crit": ["x"], "x": 1})),
        ),
        case("typ", 401, "auth_jwt_typ at+jwt;", good(json!({}))),
        case("key_unknown", 401, "", Some(SigningKey::generate("b").token("me"))),
        case("sig", 401, "", Some(SigningKey::generate("a").token("me"))),
        case("expired", 401, "", good(json!({"exp": now() - 1}))),
        case("not_yet", 401, "", good(json!({"nbf": now() + 100}))),
        case(
            "iss",
            401,
            "auth_jwt_issuer https://us.example key_file=DIR/public/jwks.json;",
            good(json!({"iss": "https://them.example"})),
        ),
        case("aud", 401, "auth_jwt_audience us;", good(json!({"aud": ["them"]}))),
        case("claim", 403, "auth_jwt_scope admin;", good(json!({"scope": "user"}))),
        case(
            "revoked",
            401,
            "auth_jwt_revocation_list_sub DIR/public/sub.json;",
            good(json!({"sub": "mallory"})),
        ),
        case("replayed", 401, "auth_jwt_replay zone=used;", good(json!({"jti": "1"}))),
        case(
            "keys_unavailable",
            503,
            "auth_jwt_key_inherit off; auth_jwt_key_file DIR/public/none.json optional;",
            good(json!({})),
        ),
    ]
}

/// issue part 8: every refusal has its word, in `$auth_jwt_status`, the log and its own counter, in earnest and dry.
#[test]
fn each_reason_is_told_and_counted() {
    let key = SigningKey::generate("a");
    let cases = cases(&key);
    let mut locations = String::new();
    for Case { reason, directives, .. } in &cases {
        let add = "add_header X-Status $auth_jwt_status always; proxy_pass http://SERVICE;";
        let _ = write!(
            locations,
            "location /on/{reason} {{ {directives} {add} }}
             location /dry/{reason} {{ auth_jwt_dry_run on; {directives} {add} }}"
        );
    }
    let nginx = single(
        &key,
        &format!(
            "server {{ listen LISTEN; auth_jwt x;
                location /used {{ auth_jwt_replay zone=used:1m; proxy_pass http://SERVICE; }}
                {locations}
                location /plain {{ auth_jwt off; proxy_pass http://SERVICE; }}
                location = /status {{ auth_jwt off; auth_jwt_status; }} }}"
        ),
        &[("sub.json", r#"{"mallory":1}"#)],
    );
    let asked = |path: &str, token: Option<&str>| match token {
        None => nginx.get(path),
        Some(token) => nginx.get_with(path, token),
    };
    assert_eq!(nginx.get_with("/used", &sign(&key, json!({"jti": "1"}))).status, 200);
    let mut before = status_of(&nginx);
    for Case { reason, status, token, .. } in &cases {
        for (prefix, verb, member, expected) in
            [("on", "denied", "denied", *status), ("dry", "would deny", "would_deny", 200)]
        {
            let path = format!("/{prefix}/{reason}");
            let answer = asked(&path, token.as_deref());
            assert_eq!(
                (answer.status, answer.header("x-status")),
                (expected, Some(*reason)),
                "{path}"
            );
            assert_eq!(answer.header("www-authenticate").is_some(), matches!(expected, 401 | 403));
            nginx.expect_log(&[&format!("jwt: {verb} reason={reason} status={status}")]);
            let after = status_of(&nginx);
            let mut wanted = before.clone();
            let count = wanted["requests"][member][*reason].as_u64().expect("a counter");
            wanted["requests"][member][*reason] = json!(count + 1);
            assert_eq!(after["requests"], wanted["requests"], "{path}: this one counter alone");
            before = after;
        }
    }
    // Every word has a counter, and no counter is without a word.
    let words: Vec<&str> = cases.iter().map(|case| case.reason).chain(["internal"]).collect();
    for member in ["denied", "would_deny"] {
        let counters = before["requests"][member].as_object().expect("counters");
        let mut names: Vec<&str> = counters.keys().map(String::as_str).collect();
        names.sort_unstable();
        let mut words = words.clone();
        words.sort_unstable();
        assert_eq!(names, words);
    }
    // A location that asks for nothing counts nothing; one that lets in counts that.
    assert_eq!(nginx.get("/plain").status, 200);
    assert_eq!(nginx.get_with("/plain", "garbage").status, 200);
    assert_eq!(status_of(&nginx)["requests"], before["requests"]);
    assert_eq!(nginx.get_with("/used", &sign(&key, json!({"jti": "2"}))).status, 200);
    let allowed = before["requests"]["allowed"].as_u64().expect("a counter");
    assert_eq!(status_of(&nginx)["requests"]["allowed"], allowed + 1);
}

/// One sample of Prometheus's text format, as `name{labels}`, with its number.
fn samples(text: &str) -> HashMap<String, f64> {
    let mut samples = HashMap::new();
    let mut typed = Vec::new();
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (kind, name) = (words.next().expect("a word"), words.next().expect("a name"));
            let rest = words.next().expect("a text or type");
            match kind {
                "HELP" => assert!(!rest.is_empty(), "{line}"),
                "TYPE" => {
                    assert!(matches!(rest, "counter" | "gauge"), "{line}");
                    assert_eq!(name.ends_with("_total"), rest == "counter", "{line}");
                    assert!(!typed.contains(&name.to_owned()), "{name} is there twice");
                    typed.push(name.to_owned());
                }
                _ => panic!("{line}"),
            }
            continue;
        }
        let (sample, number) = line.rsplit_once(' ').expect("a sample and its number");
        let name = sample.split('{').next().expect("a name");
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{line}");
        assert_eq!(typed.last().map(String::as_str), Some(name), "samples follow their type");
        let number = number.parse().unwrap_or_else(|_| panic!("{line}"));
        assert_eq!(samples.insert(sample.to_owned(), number), None, "{sample} is there twice");
    }
    assert!(text.ends_with('\n'));
    samples
}

/// rel:K13, issue part 8: every field, and both forms say the same.
#[test]
fn the_status_has_every_source_in_both_forms() {
    let key = SigningKey::generate("a");
    let nginx = single(
        &key,
        "server {
            listen LISTEN;
            location /keyval { auth_jwt x; auth_jwt_key_file DIR/public/pem.json keyval; proxy_pass http://SERVICE; }
            location /none { auth_jwt x; auth_jwt_key_file DIR/public/none.json optional; proxy_pass http://SERVICE; }
            location /var { auth_jwt x; auth_jwt_key_file DIR/public/$arg_f.json; proxy_pass http://SERVICE; }
            location /sub { auth_jwt x; auth_jwt_revocation_list_sub DIR/public/sub.json; proxy_pass http://SERVICE; }
            location /all { auth_jwt x; auth_jwt_revocation_file DIR/public/revoked.json; proxy_pass http://SERVICE; }
            location = /_keys { internal; root DIR/public; try_files /asked.json =404; }
            location /asked { auth_jwt x; auth_jwt_key_request /_keys; auth_jwt_key_cache 1h; proxy_pass http://SERVICE; }
            location / { auth_jwt x; proxy_pass http://SERVICE; }
            location = /status { auth_jwt_status; }
            location = /metrics { auth_jwt_status prometheus; }
            location = /closed { deny all; auth_jwt_status; }
            location = /guarded { auth_jwt x; auth_jwt_status; }
        }",
        &[
            ("pem.json", &json!({"p \"1\"": key.pem()}).to_string()),
            ("sub.json", r#"{"mallory":1,"trudy":2}"#),
            ("revoked.json", &json!({"version": 1, "token_id": {"1": now() + 60}}).to_string()),
            ("var.json", &jwks(&[&key])),
            ("asked.json", &jwks(&[&key, &SigningKey::generate("b")])),
        ],
    );
    let token = key.token("me");
    for path in ["/", "/", "/asked", "/var?f=var"] {
        assert_eq!(nginx.get_with(path, &token).status, 200, "{path}");
    }
    assert_eq!(nginx.get("/").status, 401);
    nginx.replace_jwks("garbage \"quoted\"\n");
    nginx.expect_log(&["jwks", "rejected"]);

    let answer = nginx.get("/status");
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    let status: Value = serde_json::from_str(&answer.body).expect("JSON");
    let members = |value: &Value| {
        let mut names: Vec<String> =
            value.as_object().expect("an object").keys().cloned().collect();
        names.sort_unstable();
        names
    };
    assert_eq!(members(&status), ["cache", "requests", "sources", "worker"]);
    assert_eq!(members(&status["requests"]), ["allowed", "denied", "would_deny"]);
    assert_eq!(members(&status["cache"]), ["bytes", "entries", "hits", "limit", "misses"]);
    assert!(status["worker"].as_u64().expect("a process id") > 0);
    assert_eq!(status["requests"]["allowed"], 4);
    assert_eq!(status["requests"]["denied"]["missing"], 1);
    assert_eq!((&status["cache"]["hits"], &status["cache"]["misses"]), (&json!(1), &json!(3)));
    assert_eq!(status["cache"]["entries"], 3);
    assert_eq!(status["cache"]["limit"], 8 * 1024 * 1024);
    let sources = status["sources"].as_array().expect("a list");
    let source = |name: &str| {
        let mut all = sources
            .iter()
            .filter(|source| source["source"].as_str().is_some_and(|path| path.ends_with(name)));
        let found = all.next().unwrap_or_else(|| panic!("no {name} in {status}"));
        assert!(all.next().is_none(), "{name} is there twice: {status}");
        assert_eq!(
            members(found),
            ["entries", "generation", "kids", "kind", "last_error", "loaded_at", "source"]
        );
        found
    };
    assert_eq!(sources.len(), 7, "{status}");
    for (name, kind, entries, kids) in [
        ("/jwks.json", "jwks", 1, json!(["a"])),
        ("/var.json", "jwks", 1, json!(["a"])),
        ("/pem.json", "keyval", 1, json!(["p \"1\""])),
        ("/_keys", "request", 2, json!(["a", "b"])),
        ("/sub.json", "list", 2, json!([])),
        ("/revoked.json", "revocations", 1, json!([])),
    ] {
        let source = source(name);
        assert_eq!(source["entries"], entries, "{source}");
        assert_eq!(source["kids"], kids, "{source}");
        assert_eq!(source["generation"], 1, "{source}");
        let loaded = source["loaded_at"].as_i64().expect("a time");
        assert!((now() - 60..=now()).contains(&loaded), "{source}");
        assert_eq!(source["last_error"].is_string(), name == "/jwks.json", "{source}");
        assert_eq!(source["kind"], kind, "{source}");
    }
    let none = source("/none.json");
    assert_eq!((&none["entries"], &none["loaded_at"]), (&json!(0), &Value::Null));
    assert!(none["last_error"].as_str().expect("a text").contains("No such file"), "{none}");
    assert_eq!((&none["generation"], &none["kids"]), (&json!(0), &json!([])));

    let metrics = nginx.get("/metrics");
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let samples = samples(&metrics.body);
    let mut wanted = HashMap::new();
    let number = |value: &Value| value.as_f64().expect("a number");
    for member in ["denied", "would_deny"] {
        for (reason, count) in status["requests"][member].as_object().expect("counters") {
            let name = format!("auth_jwt_requests_{member}_total{{reason=\"{reason}\"}}");
            wanted.insert(name, number(count));
        }
    }
    wanted.insert("auth_jwt_requests_allowed_total".into(), number(&status["requests"]["allowed"]));
    for (member, suffix) in
        [("hits", "_total"), ("misses", "_total"), ("entries", ""), ("bytes", "")]
    {
        wanted.insert(format!("auth_jwt_cache_{member}{suffix}"), number(&status["cache"][member]));
    }
    for source in sources {
        let labels = format!(
            "{{kind=\"{}\",source={}}}",
            source["kind"].as_str().expect("a word"),
            source["source"]
        );
        for (name, value) in [
            ("generation", number(&source["generation"])),
            ("entries", number(&source["entries"])),
            ("loaded_timestamp_seconds", source["loaded_at"].as_f64().unwrap_or(0.0)),
            ("refused", f64::from(u8::from(source["last_error"].is_string()))),
        ] {
            wanted.insert(format!("auth_jwt_source_{name}{labels}"), value);
        }
    }
    assert_eq!(samples, wanted);

    // The query chooses the form, whatever the location's own is.
    let kind = |path: &str| nginx.get(path).header("content-type").map(str::to_owned);
    assert_eq!(kind("/status?format=prometheus"), kind("/metrics"));
    assert_eq!(kind("/metrics?a=b&format=json"), kind("/status"));
    assert_eq!(kind("/status?format=xml"), kind("/status"));
    let head = ask("HEAD", &nginx.url("/status"), &[], None);
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    for method in ["POST", "PUT", "DELETE"] {
        assert_eq!(ask(method, &nginx.url("/status"), &[], None).status, 405, "{method}");
    }
    assert_eq!(nginx.get("/closed").status, 403);
    assert_eq!(nginx.get("/guarded").status, 401);
    assert_eq!(nginx.get_with("/guarded", &token).status, 200);
    let text = nginx.get("/status").body + &nginx.get("/metrics").body;
    assert!(!text.contains(&token) && !text.contains("BEGIN"), "no token and no key");
}

/// issue part 3, mod:D10: an accepted token becomes a cookie that scripts and other sites can't use.
#[test]
fn the_cookie_is_set_once_and_as_the_location_says() {
    let key = SigningKey::generate("a");
    let nginx = start(
        &key,
        "auth_jwt x token=$arg_jwt,$cookie_at,$http_x_token; auth_jwt_set_cookie at; root DIR/public;
         location / { proxy_pass http://SERVICE; }
         location /all { auth_jwt_set_cookie at path=/app domain=a.example samesite=strict secure=off httponly=off; proxy_pass http://SERVICE; }
         location /cross { auth_jwt_set_cookie __Host-at samesite=none; proxy_pass http://SERVICE; }
         location /on { auth_jwt_set_cookie at samesite=lax secure=on httponly=on; proxy_pass http://SERVICE; }
         location /none { auth_jwt_set_cookie off; proxy_pass http://SERVICE; }
         location /open { auth_jwt off; proxy_pass http://SERVICE; }
         location /scope { auth_jwt_scope admin; proxy_pass http://SERVICE; }
         location /dry { auth_jwt_scope admin; auth_jwt_dry_run on; proxy_pass http://SERVICE; }
         location /missing { error_page 404 = /moved; }
         location /moved { proxy_pass http://SERVICE; }
         location /404 { }
         location /early { auth_jwt_phase preaccess; proxy_pass http://SERVICE; }",
    );
    let ends = now() + 600;
    let token = key.sign(&json!({"exp": ends}));
    let cookie = |target: &str, headers: &[(&str, &str)]| {
        let answer = get(&nginx.url(target), headers);
        answer.header("set-cookie").map(str::to_owned)
    };
    let with = |target: &str| cookie(&format!("{target}?jwt={token}"), &[]);
    // Max-Age counts from when the answer is made.
    let expected = |name: &str, attributes: &str, cookie: Option<String>| {
        let cookie = cookie.expect("a cookie");
        let start = format!("{name}={token}{attributes}; Max-Age=");
        let age = cookie.strip_prefix(&start).unwrap_or_else(|| panic!("{cookie}"));
        let age: i64 = age.parse().expect("seconds");
        assert!((ends - now() - 1..=600).contains(&age), "{cookie}");
    };
    let safe = "; Path=/; Secure; HttpOnly; SameSite=Lax";
    for target in ["/", "/on", "/missing", "/404", "/early"] {
        expected("at", safe, with(target));
    }
    expected("at", safe, cookie("/", &[("x-token", &token)]));
    expected("at", safe, cookie("/", &[("x-token", &format!("Bearer {token}"))]));
    expected("at", "; Path=/app; Domain=a.example; SameSite=Strict", with("/all"));
    expected("__Host-at", "; Path=/; Secure; HttpOnly; SameSite=None", with("/cross"));
    let endless = key.sign(&json!({"sub": "me"}));
    let session = format!("at={endless}{safe}");
    assert_eq!(cookie(&format!("/?jwt={endless}"), &[]), Some(session), "it ends with the browser");
    // It has it already; or it has another one.
    let has = format!("a=b; at={token}; c=d");
    assert_eq!(cookie("/", &[("cookie", &has)]), None);
    assert_eq!(cookie(&format!("/?jwt={token}"), &[("cookie", &has)]), None);
    let old = format!("at={endless}");
    expected("at", safe, cookie(&format!("/?jwt={token}"), &[("cookie", &old)]));
    // Nothing is set for what is not accepted, or where nothing is asked for.
    for target in ["/none", "/open", "/scope", "/dry"] {
        assert_eq!(with(target), None, "{target}");
    }
    let expired = key.sign(&json!({"exp": now() - 1}));
    for target in ["/".to_owned(), format!("/?jwt={expired}"), "/?jwt=a;b".to_owned()] {
        assert_eq!(cookie(&target, &[]), None, "{target}");
    }

    for (value, refused) in [
        ("at path=app", "path=app"),
        ("'at at'", "at at"),
        ("at 'path=/a; Secure'", "path=/a; Secure"),
        ("at domain=", "domain="),
        ("at samesite=maybe", "samesite=maybe"),
        ("at secure=no", "secure=no"),
        ("at samesite=none secure=off", "samesite=none"),
        ("at max-age=1", "max-age=1"),
    ] {
        let line = complaint(&format!("auth_jwt_set_cookie {value};"));
        let start = format!("invalid value \"{refused}\" of \"auth_jwt_set_cookie\": ");
        assert!(line.contains(&start) && line.contains("http.conf:2"), "{value}\n{line}");
    }
}

/// mod 3: the first place that has a token decides, alone; rel:T10.
#[test]
fn tokens_are_looked_for_in_order() {
    let key = SigningKey::generate("a");
    let nginx = start(
        &key,
        "location / { auth_jwt x token=$arg_jwt,$cookie_jwt,$http_x_token; add_header X-Who $jwt_claim_identifier; proxy_pass http://SERVICE; }
         location /header { auth_jwt x token=$http_authorization,$cookie_jwt; add_header X-Who $jwt_claim_identifier; proxy_pass http://SERVICE; }
         location /strict { auth_jwt x token=$arg_jwt,$cookie_jwt,$http_x_token; auth_jwt_reject_multiple on; proxy_pass http://SERVICE; }
         location /except { auth_jwt x token=$arg_jwt,$cookie_jwt; limit_except GET { auth_jwt_reject_multiple on; } proxy_pass http://SERVICE; }
         location /plain { auth_jwt x; auth_jwt_reject_multiple on; proxy_pass http://SERVICE; }",
    );
    let [a, b, c] = ["a", "b", "c"].map(|name| key.token(name));
    let request = |method: &str, path: &str, arg: &str, cookie: &str, header: &str| {
        let cookie = format!("jwt={cookie}");
        ask(
            method,
            &nginx.url(&format!("{path}?jwt={arg}")),
            &[("cookie", cookie.as_str()), ("x-token", header)],
            None,
        )
    };
    let who = |arg: &str, cookie: &str, header: &str| {
        let answer = request("GET", "/", arg, cookie, header);
        (answer.status, answer.header("x-who").map(str::to_owned))
    };
    let is = |name: &str| (200, Some(name.to_owned()));
    assert_eq!(who(&a, &b, &c), is("a"));
    assert_eq!(who("", &b, &c), is("b"));
    assert_eq!(who("", "", &c), is("c"));
    // The word before it, in any case; alone it is no token.
    for header in [format!("Bearer {c}"), format!("bearer {c}"), format!("BEARER   {c}")] {
        assert_eq!(who("", "", &header), is("c"), "{header}");
    }
    assert_eq!(who("", "Bearer ", &c), is("c"));
    // A bad one is not passed over for a good one behind it.
    assert_eq!(who("garbage", &b, &c).0, 401);
    assert_eq!(who("", "", "").0, 401);
    // Only the places that are named are looked at.
    assert_eq!(nginx.get_with("/", &a).status, 401);
    assert_eq!(nginx.get_with("/header", &a).header("x-who"), Some("a"));
    assert_eq!(request("GET", "/header", "", &b, "").header("x-who"), Some("b"));
    // Without a token nothing is said of a header that is not looked at; a bad one is blamed.
    assert_eq!(request("GET", "/", "", "", "").header("www-authenticate"), None);
    let blamed = request("GET", "/", "garbage", "", "");
    let challenge = "Bearer realm=\"x\", error=\"invalid_token\"";
    assert_eq!(blamed.header("www-authenticate"), Some(challenge));

    let strict = |arg: &str, cookie: &str, header: &str| {
        request("GET", "/strict", arg, cookie, header).status
    };
    for (arg, cookie, header, status) in [
        (&*a, "", "", 200),
        ("", &*b, "", 200),
        ("", "", &*c, 200),
        (&*a, &*b, "", 400),
        (&*a, "", &*c, 400),
        ("", &*b, &*c, 400),
        (&*a, "garbage", "", 400),
        ("", "", "", 401),
    ] {
        assert_eq!(strict(arg, cookie, header), status);
    }
    let answer = request("GET", "/strict", &a, &b, "");
    let challenge = "Bearer realm=\"x\", error=\"invalid_request\"";
    assert_eq!(answer.header("www-authenticate"), Some(challenge));
    nginx.expect_log(&["jwt: denied reason=malformed status=400", "more than one token"]);
    // The Authorization header counts, although it is not a place to take it from.
    let both = |header: &str| {
        get(&nginx.url(&format!("/strict?jwt={a}")), &[("authorization", header)]).status
    };
    assert_eq!(both(&format!("Bearer {b}")), 400);
    assert_eq!(both("Basic dXNlcjpwYXNz"), 200);
    assert_eq!(request("GET", "/except", &a, &b, "").status, 200);
    assert_eq!(request("DELETE", "/except", &a, &b, "").status, 400);
    assert_eq!(nginx.get_with("/plain", &a).status, 200);
}

/// issue part 3, mod row O: what a user of ox_jwt writes instead of its script, with the token bound to the host.
#[test]
fn the_configuration_of_ox_jwt() {
    let key = SigningKey::generate("a");
    let nginx = start(
        &key,
        "set $host_json '\"$host\"';
         location / {
            auth_jwt x token=$arg_jwt,$cookie_jwtcookie,$http_api_key;
            auth_jwt_require_claim Host eq $host_json;
            auth_jwt_set_cookie jwtcookie;
            add_header X-Decoded '$jwt_payload';
            proxy_pass http://SERVICE;
         }",
    );
    let claims = json!({"Host": "app.example", "sub": "me", "exp": now() + 300});
    let token = key.sign(&claims);
    let ask = |host: &str, target: &str, name: &str, value: &str| {
        get(&nginx.url(target), &[("host", host), (name, value)])
    };
    let cookie = format!("jwtcookie={token}");
    let target = format!("/?jwt={token}");
    for (target, name, value) in
        [(&*target, "x-a", "b"), ("/", "cookie", &*cookie), ("/", "api-key", &*token)]
    {
        let answer = ask("app.example", target, name, value);
        assert_eq!(answer.status, 200, "{name}");
        let decoded: Value =
            serde_json::from_str(answer.header("x-decoded").expect("the claims")).expect("JSON");
        assert_eq!(decoded, claims);
        let is_set = answer.header("set-cookie").is_some_and(|line| line.starts_with(&cookie));
        assert_eq!(is_set, name != "cookie", "{answer:?}");
        // The port is no part of the host, nor is the case of its letters.
        assert_eq!(ask("APP.example:8080", target, name, value).status, 200, "{name}");
        let refused = ask("other.example", target, name, value);
        assert_eq!((refused.status, refused.header("set-cookie")), (401, None), "{name}");
    }
    nginx.expect_log(&["jwt: denied reason=claim status=401"]);
    assert_eq!(nginx.get_with("/", &token).status, 401, "not a place of ox_jwt");
    let unbound = key.sign(&json!({"sub": "me", "exp": now() + 300}));
    assert_eq!(ask("app.example", "/", "api-key", &unbound).status, 401);
    // A quote in the Host header is no way out of the JSON text: nginx refuses it, or it matches nothing.
    assert_ne!(ask("app.example\" ", "/", "api-key", &unbound).status, 200);
}

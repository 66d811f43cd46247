//! What comes of a decision besides its status: counters, the cache, replay, dry run; and how the decision goes
//! together with nginx's other ways of letting requests in.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use system_tests::{
    Answer, Nginx, NginxBuilder, SigningKey, ask, eventually, get, jwks, now, sign,
};

fn start(key: &SigningKey, http: &str) -> Nginx {
    NginxBuilder::bare(http).jwks(&jwks(&[key])).start()
}

/// rel:N2, mod 2.5: `satisfy`, with the module beside nginx's own access modules.
#[test]
fn satisfy_counts_a_token_as_one_of_the_ways() {
    let key = SigningKey::generate("a");
    let nginx = start(
        &key,
        "server {
            listen LISTEN;
            auth_jwt_key_file DIR/public/jwks.json;
            location /any-deny { satisfy any; deny all; auth_jwt x; proxy_pass http://SERVICE; }
            location /any-allow { satisfy any; allow all; auth_jwt x; proxy_pass http://SERVICE; }
            location /all-deny { satisfy all; deny all; auth_jwt x; proxy_pass http://SERVICE; }
            location /all-allow { satisfy all; allow all; auth_jwt x; proxy_pass http://SERVICE; }
            location /any-dry { satisfy any; deny all; auth_jwt x; auth_jwt_dry_run on; proxy_pass http://SERVICE; }
            location /any-basic { satisfy any; auth_basic b; auth_basic_user_file DIR/public/users; auth_jwt x; proxy_pass http://SERVICE; }
            location /any-broken { satisfy any; allow all; auth_jwt x; auth_jwt_key_inherit off;
                auth_jwt_key_file DIR/public/none.json optional; proxy_pass http://SERVICE; }
        }",
    );
    nginx.scratch().replace("public/users", b"user:{PLAIN}pass\n");
    let token = key.token("me");
    let statuses = |path: &str| {
        [None, Some("garbage"), Some(token.as_str())].map(|token| match token {
            None => nginx.get(path).status,
            Some(token) => nginx.get_with(path, token).status,
        })
    };
    assert_eq!(statuses("/any-deny"), [401, 401, 200]);
    assert_eq!(statuses("/any-allow"), [200, 200, 200]);
    assert_eq!(statuses("/all-deny"), [401, 401, 403]);
    assert_eq!(statuses("/all-allow"), [401, 401, 200]);
    // A dry run refuses nothing, and grants nothing either.
    assert_eq!(statuses("/any-dry"), [403, 403, 200]);
    assert_eq!(nginx.get("/any-allow").header("www-authenticate"), None);
    assert_eq!(statuses("/any-basic"), [401, 401, 200]);
    let basic = get(&nginx.url("/any-basic"), &[("authorization", "Basic dXNlcjpwYXNz")]);
    assert_eq!((basic.status, basic.header("www-authenticate")), (200, None));
    // A fault of ours ends the request, whatever else would let it in.
    assert_eq!(statuses("/any-broken"), [503, 503, 503]);
}

/// Subrequests skip the access phase; with `auth_jwt_phase preaccess` they are checked too (mod 2.1, rel:N5).
#[test]
fn auth_request_can_ask_a_location_with_a_token_check() {
    let key = SigningKey::generate("a");
    let nginx = start(
        &key,
        "server {
            listen LISTEN;
            auth_jwt_key_file DIR/public/jwks.json;
            location = /_check { internal; auth_jwt x; auth_jwt_phase preaccess; return 204; }
            location = /_checked { internal; auth_jwt x; auth_jwt_phase preaccess; proxy_pass http://SERVICE; }
            location = /_skipped { internal; auth_jwt x; proxy_pass http://SERVICE; }
            location /checked { auth_request /_checked; proxy_pass http://SERVICE; }
            location /skipped { auth_request /_skipped; proxy_pass http://SERVICE; }
        }",
    );
    assert_eq!(nginx.get("/checked").status, 401);
    assert_eq!(nginx.get_with("/checked", &key.token("me")).status, 200);
    assert_eq!(
        nginx.get("/skipped").status,
        200,
        "documented: the access phase is the main request's"
    );
}

#[test]
fn a_preflight_passes_where_it_may_and_nothing_else_does() {
    let key = SigningKey::generate("a");
    let nginx = start(
        &key,
        "server {
            listen LISTEN;
            auth_jwt_key_file DIR/public/jwks.json;
            location /open { auth_jwt x; auth_jwt_preflight on; proxy_pass http://SERVICE; }
            location /closed { auth_jwt x; proxy_pass http://SERVICE; }
        }",
    );
    let preflight = [("origin", "https://a.example"), ("access-control-request-method", "PUT")];
    let status = |method: &str, path: &str, headers: &[(&str, &str)]| {
        ask(method, &nginx.url(path), headers, None).status
    };
    assert_eq!(status("OPTIONS", "/open", &preflight), 200);
    assert_eq!(status("OPTIONS", "/open", &preflight[..1]), 401);
    assert_eq!(status("OPTIONS", "/open", &[]), 401);
    assert_eq!(status("GET", "/open", &preflight), 401);
    assert_eq!(status("OPTIONS", "/closed", &preflight), 401);
}

/// HTTP/2: the same verdicts, with a body that nobody reads and with keys that are waited for.
#[test]
fn http2_requests_are_judged_as_others() {
    let key = SigningKey::generate("a");
    let nginx = start(
        &key,
        "server {
            listen LISTEN http2;
            auth_jwt_key_file DIR/public/jwks.json;
            location = /_keys { internal; alias DIR/public/jwks.json; }
            location / { auth_jwt x; proxy_pass http://SERVICE; }
            location /asked { auth_jwt x; auth_jwt_key_inherit off; auth_jwt_key_request /_keys; proxy_pass http://SERVICE; }
        }",
    );
    let bearer = format!("authorization: Bearer {}", key.token("me"));
    let body = "x".repeat(100_000);
    let ask = |path: &str, arguments: &[&str]| {
        let output = Command::new("curl")
            .args([
                "--silent",
                "--noproxy",
                "*",
                "--http2-prior-knowledge",
                "--output",
                "/dev/null",
            ])
            .args(["--write-out", "%{http_version} %{http_code}"])
            .args(arguments)
            .arg(nginx.url(path))
            .output()
            .expect("curl");
        String::from_utf8(output.stdout).expect("text")
    };
    assert_eq!(ask("/a", &["--header", &bearer]), "2 200");
    assert_eq!(ask("/b", &[]), "2 401");
    assert_eq!(ask("/c", &["--data", &body, "--header", &bearer]), "2 200");
    assert_eq!(ask("/asked", &["--header", &bearer]), "2 200");
    assert_eq!(ask("/asked", &[]), "2 401");
}

fn cache_of(answer: &Answer) -> (u16, Option<String>) {
    (answer.status, answer.header("x-cache").map(str::to_owned))
}

/// design.md section 5: a hit saves the signature, and nothing else.
#[test]
fn a_cached_token_is_checked_for_all_that_can_change() {
    let key = SigningKey::generate("a");
    let text = "
        auth_jwt_key_file DIR/public/jwks.json;
        server {
            listen LISTEN;
            add_header X-Cache \"$auth_jwt_cache\" always;
            location / { auth_jwt x; proxy_pass http://SERVICE; }
            location /admin { auth_jwt x; auth_jwt_require_claim role eq admin error=403; proxy_pass http://SERVICE; }
            location /aud { auth_jwt x; auth_jwt_audience them; proxy_pass http://SERVICE; }
            location /alg { auth_jwt x; auth_jwt_alg RS256; proxy_pass http://SERVICE; }
            location /short { auth_jwt x; auth_jwt_max_size 100; proxy_pass http://SERVICE; }
        }";
    let nginx = start(&key, text);
    let token = key.sign(&json!({"role": "user", "exp": now() + 3}));
    let hit = (200, Some("hit".to_owned()));
    eventually("a hit", || (cache_of(&nginx.get_with("/", &token)) == hit).then_some(()));
    assert_eq!(nginx.get_with("/admin", &token).status, 403);
    for path in ["/aud", "/alg", "/short"] {
        assert_eq!(nginx.get_with(path, &token).status, 401, "{path}");
    }
    // It expires as any other.
    eventually("it has expired", || (nginx.get_with("/", &token).status == 401).then_some(()));
    nginx.expect_log(&["reason=expired"]);
    // And ends with its key.
    let token = key.token("me");
    eventually("a hit", || (cache_of(&nginx.get_with("/", &token)) == hit).then_some(()));
    nginx.replace_jwks(&jwks(&[&SigningKey::generate("a")]));
    eventually("every worker has the new key", || {
        (0..6).all(|_| nginx.get_with("/", &token).status == 401).then_some(())
    });

    let off = start(
        &key,
        "auth_jwt_cache off; server { listen LISTEN; auth_jwt_key_file DIR/public/jwks.json;
         add_header X-Cache \"<$auth_jwt_cache>\" always; location / { auth_jwt x; proxy_pass http://SERVICE; } }",
    );
    for _ in 0..4 {
        assert_eq!(cache_of(&off.get_with("/", &token)), (200, Some("<>".into())));
    }
}

/// Issue part 7: a token passes once, whichever worker sees it, and an internal redirect is no second time.
#[test]
fn a_token_can_be_used_once() {
    let key = SigningKey::generate("a");
    let nginx = start(
        &key,
        "auth_jwt_key_file DIR/public/jwks.json;
        server {
            listen LISTEN;
            location / { auth_jwt x; auth_jwt_replay zone=used:1m; proxy_pass http://SERVICE; }
            location /moved { auth_jwt x; auth_jwt_replay zone=used; error_page 404 = /; root DIR/public; }
            location /refused { auth_jwt x; auth_jwt_replay zone=used; auth_jwt_require_claim a eq b; proxy_pass http://SERVICE; }
            location /off { auth_jwt x; proxy_pass http://SERVICE; }
        }",
    );
    let token = |jti: &str, iss: &str| sign(&key, json!({"jti": jti, "iss": iss}));
    let first = token("1", "a");
    // A refusal for something else uses nothing up.
    assert_eq!(nginx.get_with("/refused", &first).status, 401);
    assert_eq!(nginx.get_with("/off", &first).status, 200);
    assert_eq!(nginx.get_with("/", &first).status, 200);
    for _ in 0..8 {
        let again = nginx.get_with("/", &first);
        assert_eq!(again.status, 401);
        assert_eq!(
            again.header("www-authenticate"),
            Some("Bearer realm=\"x\", error=\"invalid_token\"")
        );
    }
    nginx.expect_log(&["reason=replayed status=401"]);
    assert_eq!(nginx.get_with("/", &token("1", "b")).status, 200, "a jti is its issuer's own");
    assert_eq!(nginx.get_with("/moved", &token("2", "a")).status, 200);
    assert_eq!(nginx.get_with("/", &token("2", "a")).status, 401);
    assert_eq!(
        nginx.get_with("/", &sign(&key, json!({}))).status,
        401,
        "nothing to remember it by"
    );
    assert_eq!(nginx.get_with("/", &sign(&key, json!({"token_id": "9"}))).status, 200);
    // It is remembered over a reload.
    nginx.reload();
    assert_eq!(nginx.get_with("/", &first).status, 401);
}

/// A zone that is full refuses, and room comes back when tokens expire.
#[test]
fn a_full_replay_zone_forgets_nothing() {
    let key = SigningKey::generate("a");
    let nginx = start(
        &key,
        "auth_jwt_key_file DIR/public/jwks.json; auth_jwt_cache off;
        server { listen LISTEN; location / { auth_jwt x; auth_jwt_replay zone=used:1m; return 200; }
                 location /t { auth_jwt x; auth_jwt_replay zone=used; root DIR/public; try_files /jwks.json =404; } }",
    );
    let client = reqwest::blocking::Client::builder().no_proxy().build().expect("a client");
    let exp = now() + 900;
    let mut statuses = Vec::new();
    for number in 0..40_000 {
        // The last ones make room soon; the others outlive the test, however slowly the zone is filled.
        let exp = if number < 20_000 { exp } else { now() + 30 };
        let token = key.sign(&json!({"jti": number.to_string(), "exp": exp}));
        let answer = client.get(nginx.url("/t")).bearer_auth(&token).send().expect("an answer");
        statuses.push(answer.status().as_u16());
        if answer.status() == 503 {
            break;
        }
    }
    assert_eq!(statuses.last(), Some(&503), "{} tokens and no end", statuses.len());
    assert!(statuses.len() > 20_000, "only {} tokens fit", statuses.len());
    let first = key.sign(&json!({"jti": "0", "exp": exp}));
    assert_eq!(nginx.get_with("/t", &first).status, 401, "what was used is still known");
    nginx.expect_log(&["[error]", "the zone of auth_jwt_replay is full"]);
    system_tests::within(Duration::from_secs(60), "room comes back", || {
        let token = sign(&key, json!({"jti": format!("new{}", now())}));
        (nginx.get_with("/t", &token).status == 200).then_some(())
    });
}

/// Issue part 8.
#[test]
fn a_dry_run_tells_and_lets_pass_and_the_status_counts() {
    let key = SigningKey::generate("a");
    let nginx = start(
        &key,
        "auth_jwt_key_file DIR/public/jwks.json optional;
        server {
            listen LISTEN;
            location /dry { auth_jwt x; auth_jwt_dry_run on; add_header X-Status $auth_jwt_status always; proxy_pass http://SERVICE; }
            location /on { auth_jwt x; add_header X-Status $auth_jwt_status always; proxy_pass http://SERVICE; }
            location /off { add_header X-Status $auth_jwt_status always; proxy_pass http://SERVICE; }
            location = /status { auth_jwt_status; }
            location = /metrics { auth_jwt_status prometheus; }
        }",
    );
    let expired = key.sign(&json!({"exp": now() - 10}));
    let answer = nginx.get_with("/dry", &expired);
    assert_eq!((answer.status, answer.header("x-status")), (200, Some("expired")));
    assert_eq!(answer.header("www-authenticate"), None);
    nginx.expect_log(&["jwt: would deny reason=expired status=401 kid=\"a\""]);
    let answer = nginx.get_with("/on", &key.token("me"));
    assert_eq!((answer.status, answer.header("x-status")), (200, Some("ok")));
    assert_eq!(nginx.get_with("/on", &expired).header("x-status"), Some("expired"));
    assert_eq!(nginx.get("/on").header("x-status"), Some("missing"));
    assert_eq!(nginx.get("/off").header("x-status"), Some("off"));
    // The counters are those of both workers.
    let status: Value = serde_json::from_str(&nginx.get("/status").body).expect("JSON");
    assert_eq!(status["requests"]["allowed"], 1);
    assert_eq!(status["requests"]["denied"]["expired"], 1);
    assert_eq!(status["requests"]["denied"]["missing"], 1);
    assert_eq!(status["requests"]["would_deny"]["expired"], 1);
    let source = &status["sources"][0];
    assert_eq!(source["kids"], json!(["a"]));
    assert_eq!((&source["generation"], &source["last_error"]), (&json!(1), &Value::Null));
    let loaded = source["loaded_at"].as_i64().expect("a time");
    assert!((now() - 60..=now()).contains(&loaded), "{loaded}");
    let metrics = nginx.get("/metrics");
    assert!(
        metrics.header("content-type").expect("a type").starts_with("text/plain; version=0.0.4")
    );
    for line in [
        "auth_jwt_requests_allowed_total 1",
        "auth_jwt_requests_denied_total{reason=\"expired\"} 1",
        "auth_jwt_requests_would_deny_total{reason=\"expired\"} 1",
        "# TYPE auth_jwt_source_generation gauge",
    ] {
        assert!(metrics.body.lines().any(|each| each == line), "{line} in {}", metrics.body);
    }
    assert_eq!(
        nginx.get("/status?format=prometheus").body.lines().next(),
        metrics.body.lines().next()
    );
    assert_eq!(ask("POST", &nginx.url("/status"), &[], Some("{}")).status, 405);
    // rel:K13: a bad version shows, with its reason, and the keys that go on.
    nginx.replace_jwks("garbage");
    eventually("the fault shows", || {
        let status: Value = serde_json::from_str(&nginx.get("/status").body).expect("JSON");
        let source = &status["sources"][0];
        (source["last_error"].is_string() && source["kids"] == json!(["a"])).then_some(())
    });
    nginx.reload();
    let status: Value = serde_json::from_str(&nginx.get("/status").body).expect("JSON");
    assert_eq!(status["requests"]["denied"]["expired"], 1, "a reload forgets no count");
}

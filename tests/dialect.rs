//! `auth_jwt_compat kjdev`: the answers and log lines that users of kjdev/nginx-auth-jwt rely on.

use serde_json::{Value, json};
use system_tests::{Nginx, NginxBuilder, SigningKey, get, jwks, now};

fn start(key: &SigningKey, http: &str) -> Nginx {
    let text = format!("auth_jwt_compat kjdev;\n{http}");
    NginxBuilder::bare(&text)
        .jwks(&jwks(&[key]))
        .file("revoked-sub.json", r#"{"mallory":{"since":1}}"#)
        .file("revoked-kid.json", r#"{"other":1}"#)
        .start()
}

fn sign(key: &SigningKey, claims: Value) -> String {
    let mut claims = claims;
    claims["exp"] = json!(now() + 300);
    key.sign(&claims)
}

/// C2, C3: the last `auth_jwt` of a level counts, and a `token=` of before survives.
#[test]
fn the_last_line_counts_and_an_earlier_variable_stays() {
    let key = SigningKey::generate("a");
    let nginx = start(
        &key,
        "server {
            listen LISTEN;
            auth_jwt_key_file DIR/public/jwks.json;
            location /last { auth_jwt one token=$cookie_at; auth_jwt two; proxy_pass http://SERVICE; }
            location /child {
                auth_jwt parent token=$cookie_at;
                location /child/own { auth_jwt own; proxy_pass http://SERVICE; }
                proxy_pass http://SERVICE;
            }
            location /literal { auth_jwt $host; proxy_pass http://SERVICE; }
        }",
    );
    let token = key.token("me");
    let cookie = format!("at={token}");
    for path in ["/last", "/child/own"] {
        assert_eq!(get(&nginx.url(path), &[("cookie", &cookie)]).status, 200, "{path}");
        assert_eq!(nginx.get_with(path, &token).status, 401, "{path}: the header is not looked at");
    }
    // C1: the realm is a literal text.
    let refused = nginx.get_with("/literal", "garbage");
    assert_eq!(
        refused.header("www-authenticate"),
        Some("Bearer realm=\"$host\", error=\"invalid_token\"")
    );
}

/// C10, C11: a challenge where the request carried a bearer token, also on success; none where it carried nothing.
#[test]
fn the_challenge_goes_with_the_bearer_token() {
    let key = SigningKey::generate("a");
    let nginx = start(
        &key,
        "server {
            listen LISTEN;
            auth_jwt_key_file DIR/public/jwks.json;
            location / { auth_jwt r; proxy_pass http://SERVICE; }
            location /rule { auth_jwt r; auth_jwt_require $arg_x error=403; proxy_pass http://SERVICE; }
            location /off { auth_jwt r; auth_jwt_www_authenticate off; proxy_pass http://SERVICE; }
            location /own { auth_jwt r; auth_jwt_www_authenticate 'Custom a=\"$uri\"'; proxy_pass http://SERVICE; }
        }",
    );
    let token = key.token("me");
    let challenge = |path: &str, token: Option<&str>| {
        let answer = token.map_or_else(|| nginx.get(path), |token| nginx.get_with(path, token));
        (answer.status, answer.header("www-authenticate").map(str::to_owned))
    };
    assert_eq!(challenge("/", None), (401, None));
    assert_eq!(challenge("/", Some(&token)), (200, Some("Bearer realm=\"r\"".into())));
    let invalid = "Bearer realm=\"r\", error=\"invalid_token\"".to_owned();
    assert_eq!(challenge("/", Some("garbage")), (401, Some(invalid.clone())));
    assert_eq!(challenge("/rule", Some(&token)), (403, Some(invalid)));
    assert_eq!(challenge("/off", Some("garbage")), (401, None));
    assert_eq!(challenge("/own", Some("garbage")), (401, Some("Custom a=\"/own\"".into())));
    assert_eq!(challenge("/own", None), (401, None));
}

/// C4, C6, C7, C8, C9, C14.
#[test]
fn the_defaults_are_its_own() {
    let (a, b) = (SigningKey::generate("a"), SigningKey::generate("b"));
    let text = "auth_jwt_compat kjdev;
        auth_jwt_key_file DIR/public/a.json;
        auth_jwt_header_set $crit_list list;
        server {
            listen LISTEN;
            location / { auth_jwt r; auth_jwt_key_file DIR/public/b.json; proxy_pass http://SERVICE; }
            location /none { auth_jwt r; auth_jwt_key_inherit off; auth_jwt_key_file $arg_file; proxy_pass http://SERVICE; }
            location /sourceless { auth_jwt r; auth_jwt_key_inherit off; proxy_pass http://SERVICE; }
            location /503 { auth_jwt r; auth_jwt_key_inherit off; auth_jwt_key_error 503; auth_jwt_key_file $arg_file; proxy_pass http://SERVICE; }
            location /exp { auth_jwt r; auth_jwt_require_claim exp gt json=0; proxy_pass http://SERVICE; }
        }";
    let nginx =
        NginxBuilder::bare(text).file("a.json", &jwks(&[&a])).file("b.json", &jwks(&[&b])).start();
    // The keys of all levels count.
    assert_eq!(nginx.get_with("/", &a.token("me")).status, 200);
    assert_eq!(nginx.get_with("/", &b.token("me")).status, 200);
    // No keys is the client's 401, unless the knob says otherwise.
    assert_eq!(nginx.get_with("/none?file=/nowhere", &a.token("me")).status, 401);
    assert_eq!(nginx.get_with("/503?file=/nowhere", &a.token("me")).status, 503);
    assert_eq!(nginx.get_with("/sourceless", &a.token("me")).status, 401);
    // exp is required; nbf is checked where it is there.
    assert_eq!(nginx.get_with("/", &a.sign(&json!({"sub": "x"}))).status, 401);
    assert_eq!(nginx.get_with("/", &sign(&a, json!({"nbf": now() + 100}))).status, 401);
    // A rule on exp that holds takes the place of the check.
    assert_eq!(nginx.get_with("/exp", &a.sign(&json!({"exp": now() - 100}))).status, 200);
    assert_eq!(nginx.get_with("/", &a.sign(&json!({"exp": now() - 100}))).status, 401);
}

/// An unsecured token passes only where a rule names it, and that is said at the start.
#[test]
fn an_unsecured_token_passes_only_where_it_is_named() {
    let key = SigningKey::generate("a");
    let nginx = start(
        &key,
        "server {
            listen LISTEN;
            auth_jwt_key_file DIR/public/jwks.json;
            location / { auth_jwt r; proxy_pass http://SERVICE; }
            location /none { auth_jwt r; auth_jwt_require_header alg eq none; proxy_pass http://SERVICE; }
        }",
    );
    // {"alg":"none"}, and an exp in the year 2286.
    let unsecured = "eyJhbGciOiJub25lIn0.eyJleHAiOjk5OTk5OTk5OTl9.";
    assert_eq!(nginx.get_with("/", unsecured).status, 401);
    assert_eq!(nginx.get_with("/none", unsecured).status, 200);
    assert_eq!(nginx.get_with("/none", &format!("{unsecured}AAAA")).status, 401);
    assert_eq!(nginx.get_with("/none", &key.token("me")).status, 401, "its alg is another");
    let plus = NginxBuilder::bare(
        "server { listen LISTEN; auth_jwt_key_file DIR/public/jwks.json;
         location / { auth_jwt r; auth_jwt_require_header alg eq none; proxy_pass http://SERVICE; } }",
    )
    .jwks(&jwks(&[&key]))
    .start();
    assert_eq!(plus.get_with("/", unsecured).status, 401, "never in the other dialect");
}

/// Section D: its log lines, each once.
#[test]
fn the_log_lines_are_its_own() {
    let (key, stranger) = (SigningKey::generate("a"), SigningKey::generate("a"));
    let nginx = start(
        &key,
        "server {
            listen LISTEN;
            auth_jwt_key_file DIR/public/jwks.json;
            location / { auth_jwt r; proxy_pass http://SERVICE; }
            location /variable { auth_jwt r token=$cookie_at; proxy_pass http://SERVICE; }
            location /claim { auth_jwt r; auth_jwt_require_claim sub eq alice; proxy_pass http://SERVICE; }
            location /header { auth_jwt r; auth_jwt_require_header typ eq X; proxy_pass http://SERVICE; }
            location /value { auth_jwt r; auth_jwt_require $arg_x; proxy_pass http://SERVICE; }
            location /sub { auth_jwt r; auth_jwt_revocation_list_sub DIR/public/revoked-sub.json; proxy_pass http://SERVICE; }
            location /kid { auth_jwt r; auth_jwt_revocation_list_kid DIR/public/revoked-kid.json; proxy_pass http://SERVICE; }
            location = /_absent { internal; return 404; }
            location /asked { auth_jwt r; auth_jwt_key_inherit off; auth_jwt_key_request /_absent keyval; proxy_pass http://SERVICE; }
            location /keyless { auth_jwt r; auth_jwt_key_inherit off; auth_jwt_key_file $arg_file; proxy_pass http://SERVICE; }
        }",
    );
    let expect = |path: &str, token: Option<&str>, line: &str| {
        let answer = token.map_or_else(|| nginx.get(path), |token| nginx.get_with(path, token));
        assert_eq!(answer.status, 401, "{path}: {line}");
        nginx.expect_log(&[&format!("auth_jwt: {line}")]);
    };
    expect("/", None, "token was not provided");
    expect("/variable", None, "token variable specified was not provided");
    expect("/", Some("garbage"), "failed to parse jwt token");
    expect("/claim", Some(&sign(&key, json!({}))), "rejected due to missing claim: sub");
    expect(
        "/claim",
        Some(&sign(&key, json!({"sub": "bob"}))),
        "rejected due to sub claim requirement: \"\"bob\"\" is not \"eq\" \"alice\"",
    );
    expect(
        "/header",
        Some(&key.token("me")),
        "rejected due to typ header requirement: \"\"JWT\"\" is not \"eq\" \"X\"",
    );
    expect("/value", Some(&key.token("me")), "rejected due to $arg_x variable invalid");
    let exp = now() - 10;
    expect(
        "/",
        Some(&key.sign(&json!({"exp": exp}))),
        &format!("rejected due to token expired: exp={exp}: greater than expected="),
    );
    expect("/", Some(&key.sign(&json!({}))), "rejected due to exp claim could not be obtained");
    expect(
        "/",
        Some("eyJhbGciOiJub25lIn0.eyJleHAiOjk5OTk5OTk5OTl9."),
        "rejected due to none algorithm",
    );
    expect(
        "/",
        Some(&stranger.token("me")),
        "rejected due to signature validate failure: kid=\"a\"",
    );
    expect(
        "/",
        Some(&SigningKey::generate("unknown").token("me")),
        "rejected due to missing signature key or signature validate failure",
    );
    expect(
        "/sub",
        Some(&sign(&key, json!({"sub": "mallory"}))),
        "rejected due to sub in revocation list: sub=\"mallory\" {\"since\":1}",
    );
    expect(
        "/keyless?file=/nowhere",
        Some(&key.token("me")),
        "rejected due to without signature key",
    );
    nginx.expect_log(&["auth_jwt: failed to load jwks file: \"/nowhere\""]);
    expect("/asked", Some(&key.token("me")), "failed to load key: \"/_absent\"");
    // A kid that the list does not have, and a token without one.
    assert_eq!(nginx.get_with("/kid", &key.token("me")).status, 200);
}

//! `auth_jwt_compat kjdev`: the answers and log lines that users of kjdev/nginx-auth-jwt rely on.

use serde_json::{Value, json};
use system_tests::{Nginx, NginxBuilder, SigningKey, get, jwks, now, sign};

fn start(key: &SigningKey, http: &str) -> Nginx {
    let text = format!("auth_jwt_compat kjdev;\n{http}");
    NginxBuilder::bare(&text)
        .jwks(&jwks(&[key]))
        .file("revoked-sub.json", r#"{"mallory":{"since":1}}"#)
        .file("revoked-kid.json", r#"{"other":1}"#)
        .start()
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

/// A rule on exp takes the place of that check alone: what the token's issuer asks for still holds.
#[test]
fn a_rule_on_exp_leaves_the_issuers_audience_in_force() {
    let (key, other) = (SigningKey::generate("a"), SigningKey::generate("a"));
    let nginx = NginxBuilder::bare(
        "auth_jwt_compat kjdev;
        server {
            listen LISTEN;
            auth_jwt_issuer https://a.example key_file=DIR/public/a.json audience=ours;
            auth_jwt_issuer https://b.example key_file=DIR/public/b.json;
            location / { auth_jwt r; auth_jwt_require_claim exp gt json=0; proxy_pass http://SERVICE; }
            location /no { auth_jwt r; auth_jwt_require_claim exp !gt json=0; proxy_pass http://SERVICE; }
        }",
    )
    .file("a.json", &jwks(&[&key]))
    .file("b.json", &jwks(&[&other]))
    .start();
    let status = |path: &str, key: &SigningKey, iss: &str, claims: Value| {
        let mut claims = claims;
        claims["iss"] = json!(iss);
        nginx.get_with(path, &key.sign(&claims)).status
    };
    let a = |claims: Value| status("/", &key, "https://a.example", claims);
    for exp in [json!(now() - 100), json!(now() + 100), json!(0.5)] {
        assert_eq!(a(json!({"exp": exp, "aud": "ours"})), 200, "{exp}");
        assert_eq!(a(json!({"exp": exp, "aud": "theirs"})), 401, "{exp}");
        assert_eq!(a(json!({"exp": exp})), 401, "{exp}");
        let b =
            |aud: &str| status("/", &other, "https://b.example", json!({"exp": exp, "aud": aud}));
        assert_eq!(b("theirs"), 200, "{exp}: that issuer asks for none");
    }
    // One that the issuer's own key has not signed, or that has no exp at all.
    let late = json!({"exp": now() - 100, "aud": "ours"});
    assert_eq!(status("/", &other, "https://a.example", late.clone()), 401);
    assert_eq!(status("/", &key, "https://c.example", late), 401);
    for aud in ["ours", "theirs"] {
        assert_eq!(a(json!({"aud": aud})), 401);
        let odd = json!({"exp": -1, "aud": aud});
        let status = status("/no", &key, "https://a.example", odd);
        assert_eq!(status, if aud == "ours" { 200 } else { 401 });
    }
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
    let nameless = key.sign_as(None, &json!({"exp": now() + 300}));
    assert_eq!(nginx.get_with("/", &nameless).status, 200);
    assert_eq!(nginx.get_with("/kid", &nameless).status, 401);
}

/// C2: what the other dialect refuses is said at the start; and the dialect stands before everything else.
#[test]
fn a_second_line_is_said_and_the_dialect_comes_first() {
    let check = NginxBuilder::bare(
        "auth_jwt_compat kjdev;
        server {
            listen LISTEN;
            auth_jwt one;
            auth_jwt two;
        }",
    )
    .check();
    assert!(check.accepted, "{}", check.output);
    let warned = check.output.lines().any(|line| {
        line.contains("[warn]")
            && line.contains("a second \"auth_jwt\" at this level replaces the first")
            && line.contains("/http.conf:6")
    });
    assert!(warned, "{}", check.output);
    for (text, expected) in [
        (
            "auth_jwt_leeway 1s;\nauth_jwt_compat kjdev;",
            "\"auth_jwt_compat\" directive must be first",
        ),
        (
            "auth_jwt_compat plus;\nauth_jwt_compat kjdev;",
            "\"auth_jwt_compat\" directive must be first",
        ),
        (
            "auth_jwt_claim_set $a a;\nauth_jwt_compat kjdev;",
            "\"auth_jwt_compat\" directive must be first",
        ),
        (
            "server { listen LISTEN; auth_jwt x; }\nauth_jwt_compat kjdev;",
            "\"auth_jwt_compat\" directive must be first",
        ),
        ("server {\nauth_jwt_compat kjdev; }", "\"auth_jwt_compat\" directive is not allowed here"),
        (
            "server { listen LISTEN; auth_jwt a;\nauth_jwt b; }",
            "\"auth_jwt\" directive is duplicate",
        ),
        ("\nauth_jwt_compat Kjdev;", "invalid value \"Kjdev\" of \"auth_jwt_compat\""),
        // C6: a file that is named as such is a mistake here too.
        (
            "auth_jwt_compat kjdev;\nauth_jwt_key_file DIR/public/none.json;",
            "none.json\" can't be used: No such file",
        ),
    ] {
        let check = NginxBuilder::bare(text).check();
        assert!(!check.accepted, "{text} was accepted: {}", check.output);
        let line = check.output.lines().find(|line| line.contains("[emerg]")).unwrap_or_default();
        assert!(line.contains(expected) && line.contains("/http.conf:3"), "{text}\n{line}");
    }
}

/// C10: also after an internal redirect the challenge stands once (`Answer::header` fails on a second one), with
/// the realm of the location that answers.
#[test]
fn a_redirect_leaves_one_challenge() {
    let key = SigningKey::generate("a");
    let nginx = start(
        &key,
        "server {
            listen LISTEN;
            auth_jwt_key_file DIR/public/jwks.json;
            location /tried { auth_jwt first; root DIR/public; try_files /none /target; }
            location /page { auth_jwt first; root DIR/public; error_page 404 = /target; }
            location /named { auth_jwt first; root DIR/public; error_page 404 = @named; }
            location /refused { auth_jwt first; error_page 401 /open; auth_jwt_require_claim sub eq x; proxy_pass http://SERVICE; }
            location /target { auth_jwt second; proxy_pass http://SERVICE; }
            location @named { auth_jwt second; proxy_pass http://SERVICE; }
            location /open { proxy_pass http://SERVICE; }
        }",
    );
    let token = key.token("me");
    for path in ["/tried", "/page", "/named", "/target"] {
        let answer = nginx.get_with(path, &token);
        let challenge = answer.header("www-authenticate");
        assert_eq!((answer.status, challenge), (200, Some("Bearer realm=\"second\"")), "{path}");
    }
    let answer = nginx.get_with("/refused", &token);
    let challenge = answer.header("www-authenticate");
    let expected = Some("Bearer realm=\"first\", error=\"invalid_token\"");
    assert_eq!((answer.status, challenge), (401, expected));
}

/// C4, C6: keys of every kind add up; a subrequest that brings none is the client's 401.
#[test]
fn keys_of_every_kind_add_up() {
    let [a, b, c, d] = ["a", "b", "c", "d"].map(SigningKey::generate);
    let text = "auth_jwt_compat kjdev;
        auth_jwt_key_file DIR/public/a.json;
        server {
            listen LISTEN; auth_jwt r;
            auth_jwt_key_file $arg_file;
            location = /_c { internal; alias DIR/public/c.json; }
            location = /_none { internal; return 404; }
            location / {
                auth_jwt_key_request /_c;
                proxy_pass http://SERVICE;
                location /deep { auth_jwt_key_file DIR/public/d.json; proxy_pass http://SERVICE; }
                location /on { auth_jwt_key_inherit on; auth_jwt_key_file DIR/public/d.json; proxy_pass http://SERVICE; }
            }
            location /broken { auth_jwt_key_inherit off; auth_jwt_key_request /_none; proxy_pass http://SERVICE; }
        }";
    let nginx = NginxBuilder::bare(text)
        .file("a.json", &jwks(&[&a]))
        .file("b.json", &jwks(&[&b]))
        .file("c.json", &jwks(&[&c]))
        .file("d.json", &jwks(&[&d]))
        .start();
    let file = nginx.scratch().join("public/b.json").display().to_string();
    let statuses = |path: &str| {
        let path = format!("{path}?file={file}");
        [&a, &b, &c, &d].map(|key| nginx.get_with(&path, &key.token("me")).status)
    };
    assert_eq!(statuses("/"), [200, 200, 200, 401]);
    assert_eq!(statuses("/deep"), [200, 200, 200, 200]);
    assert_eq!(statuses("/on"), [401, 401, 401, 200]);
    assert_eq!(statuses("/broken"), [401, 401, 401, 401]);
}

/// C8, C9, C13, C14 and 5.3: forms of variables, and the knobs that a mixed estate sets one by one.
#[test]
fn variables_have_its_forms_and_knobs_stay_knobs() {
    let key = SigningKey::generate("a");
    let text = "auth_jwt_compat kjdev;
        auth_jwt_header_set $set list;
        auth_jwt_header_set $inner deep list;
        auth_jwt_claim_set $claim list;
        server {
            listen LISTEN; auth_jwt r; auth_jwt_key_file DIR/public/jwks.json;
            add_header X-Seen '$jwt_header_list $set $inner $claim $jwt_claim_list $jwt_header_deep';
            location / { proxy_pass http://SERVICE; }
            location /lax { auth_jwt_require_exp off; auth_jwt_validate_nbf off; proxy_pass http://SERVICE; }
            location /leeway { auth_jwt_leeway 60s; proxy_pass http://SERVICE; }
        }";
    let nginx = NginxBuilder::bare(text).jwks(&jwks(&[&key])).start();
    let ask = |path: &str, claims: &Value| {
        let header = r#"{"alg":"ES256","kid":"a","list":["a", "b"],"deep":{"list": [1]}}"#;
        nginx.get_with(path, &key.sign_text(header, &claims.to_string()))
    };
    let answer = ask("/", &json!({"list": ["x", "y"], "exp": now() + 300}));
    assert_eq!(answer.header("x-seen"), Some(r#"["a","b"] ["a","b"] [1] x,y x,y {"list":[1]}"#));
    let early = json!({"nbf": now() + 300});
    assert_eq!(["/", "/lax"].map(|path| ask(path, &early).status), [401, 200]);
    let within = json!({"exp": now() - 20, "nbf": now() + 20});
    assert_eq!(["/", "/leeway"].map(|path| ask(path, &within).status), [401, 200]);
}

/// Section D once more: one line for each refusal, with the words of the module that it stands in for, and in the
/// order of its checks where a token is wrong in two ways.
#[test]
fn each_refusal_has_one_line() {
    let (key, other) = (SigningKey::generate("a"), SigningKey::generate("other"));
    let stranger = SigningKey::generate("a");
    let text = "auth_jwt_compat kjdev;
        auth_jwt_key_file DIR/public/jwks.json;
        server {
            listen LISTEN; auth_jwt r;
            location / { proxy_pass http://SERVICE; }
            location /leeway { auth_jwt_leeway 60s; proxy_pass http://SERVICE; }
            location /claim { auth_jwt_require_claim sub eq $http_x_value; proxy_pass http://SERVICE; }
            location /header { auth_jwt_require_header kid eq $http_x_value; proxy_pass http://SERVICE; }
            location /match { auth_jwt_require_claim sub match $http_x_value; proxy_pass http://SERVICE; }
            location /json { auth_jwt_require_claim roles any 'json=[\"a\",\"b\"]'; proxy_pass http://SERVICE; }
            location /exp { auth_jwt_leeway 60s; auth_jwt_require_claim exp lt json=5; proxy_pass http://SERVICE; }
            location /sub { auth_jwt_revocation_list_sub DIR/public/revoked-sub.json; proxy_pass http://SERVICE; }
            location /kid { auth_jwt_revocation_list_kid DIR/public/revoked-kid.json; proxy_pass http://SERVICE; }
        }";
    let nginx = NginxBuilder::bare(
        &text.replace("location / {", "large_client_header_buffers 4 16k;\nlocation / {"),
    )
    .jwks(&jwks(&[&key, &other]))
    .file("revoked-sub.json", r#"{"mallory":{"since":1}}"#)
    .file("revoked-kid.json", r#"{"other":1}"#)
    .start();
    let exp = now() + 300;
    let slow = "a".repeat(3000) + "b";
    let claims = |sub: &str| json!({"sub": sub, "exp": exp});
    let me = key.sign(&claims("me"));
    let late = key.sign(&json!({"exp": 1000}));
    let large = format!("\"{}\"", "x".repeat(4095));
    for (path, token, value, line) in [
        ("/claim", &me, "{", "failed to json load claim requirement: sub".to_owned()),
        ("/header", &me, "{", "failed to json load header requirement: kid".into()),
        (
            "/header",
            &me,
            "\"b\"",
            r#"rejected due to kid header requirement: ""a"" is not "eq" ""b""#.to_owned() + "\"",
        ),
        ("/claim", &me, &large, "claim requirement value too large: sub".into()),
        ("/match", &me, "\"(\"", "regex compile failed".into()),
        ("/match", &key.sign(&claims(&slow)), "\"^(a+)+$\"", "regex match limit exceeded".into()),
        (
            "/json",
            &key.sign(&json!({"roles": ["x", {"k" : 1}], "exp": exp})),
            "",
            r#"rejected due to roles claim requirement: "["x",{"k":1}]" is not "any" "["a","b"]""#
                .into(),
        ),
        // Without the shift by the leeway.
        (
            "/exp",
            &me,
            "",
            format!("rejected due to exp claim requirement: \"{exp}\" is not \"lt\" \"5\""),
        ),
        ("/sub", &key.sign(&json!({"exp": exp})), "", "rejected due to missing claim: sub".into()),
        (
            "/kid",
            &other.sign(&claims("me")),
            "",
            "rejected due to kid in revocation list: kid=\"other\" 1".into(),
        ),
        (
            "/kid",
            &key.sign_as(None, &claims("me")),
            "",
            "rejected due to kid cannot be empty when revocation_kids set".into(),
        ),
        (
            "/leeway",
            &late,
            "",
            "rejected due to token expired: exp=1000: greater than expected=".into(),
        ),
        (
            "/",
            &stranger.sign(&claims("me")),
            "",
            "rejected due to signature validate failure: kid=\"a\"".into(),
        ),
        // Lists and rules on claims come before times and signature, rules on the header after the times.
        (
            "/claim",
            &stranger.sign(&claims("me")),
            "\"you\"",
            r#"rejected due to sub claim requirement: ""me"" is not "eq" ""you""#.to_owned() + "\"",
        ),
        (
            "/sub",
            &stranger.sign(&claims("mallory")),
            "",
            "rejected due to sub in revocation list: sub=\"mallory\" {\"since\":1}".into(),
        ),
        (
            "/header",
            &late,
            "\"b\"",
            "rejected due to token expired: exp=1000: greater than expected=".into(),
        ),
    ] {
        let before = nginx.error_log().len();
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str()), ("x-value", value)];
        assert_eq!(get(&nginx.url(path), &headers).status, 401, "{path}: {line}");
        // The line is written before the answer.
        let log = nginx.error_log();
        let lines: Vec<&str> = log[before..]
            .lines()
            .filter(|line| line.contains("jwt: ") && line.contains(", client: "))
            .collect();
        assert_eq!(lines.len(), 1, "{path}: {lines:#?}");
        assert!(lines[0].contains("[info]"), "{}", lines[0]);
        assert!(lines[0].contains(&format!("auth_jwt: {line}")), "{path}: {}\n{line}", lines[0]);
        // The text is at its end there: what follows is nginx's.
        let is_whole = line.ends_with('=') || lines[0].contains(&format!("{line}, client: "));
        assert!(is_whole, "{path}: {}", lines[0]);
    }
    let log = nginx.error_log();
    assert!(
        log.contains(" actual=1060, client: ") && log.contains(" actual=1000, client: "),
        "{log}"
    );
    // A key that fails says nothing as long as another one may do.
    let two = NginxBuilder::bare(
        "auth_jwt_compat kjdev; auth_jwt_key_file DIR/public/a.json; auth_jwt_key_file DIR/public/b.json;
         server { listen LISTEN; location / { auth_jwt r; proxy_pass http://SERVICE; } }",
    )
    .file("a.json", &jwks(&[&stranger]))
    .file("b.json", &jwks(&[&key]))
    .start();
    assert_eq!(two.get_with("/", &me).status, 200);
    assert!(!two.error_log().contains("auth_jwt: "), "{}", two.error_log());
}

/// Section D: keys that could not be loaded.
#[test]
fn keys_that_are_missing_have_its_lines() {
    let key = SigningKey::generate("a");
    let nginx = start(
        &key,
        "server { listen unix:DIR/state/keys.sock; add_header Content-Encoding gzip; root DIR/public; }
        server {
            listen LISTEN; auth_jwt r;
            location = /_gzip { internal; proxy_pass http://unix:DIR/state/keys.sock:/jwks.json; }
            location = /_text { internal; alias DIR/public/revoked-kid.json; }
            location /file { auth_jwt_key_file $arg_file; proxy_pass http://SERVICE; }
            location /keyval { auth_jwt_key_file $arg_file keyval; proxy_pass http://SERVICE; }
            location /gzip { auth_jwt_key_request /_gzip; proxy_pass http://SERVICE; }
            location /text { auth_jwt_key_request /_text; proxy_pass http://SERVICE; }
            location /both { auth_jwt_key_file DIR/public/jwks.json; auth_jwt_key_request /_gzip; proxy_pass http://SERVICE; }
        }",
    );
    let token = key.token("me");
    for (path, expected) in [
        ("/file?file=/nowhere", &["failed to load jwks file: \"/nowhere\""][..]),
        ("/keyval?file=/nowhere", &["failed to load key file: \"/nowhere\""]),
        (
            "/gzip",
            &[
                "JWKS subrequest returned compressed response (Content-Encoding: gzip), rejecting",
                "failed to load jwks: \"/_gzip\"",
            ],
        ),
        ("/text", &["failed to load jwks: \"/_text\""]),
    ] {
        assert_eq!(nginx.get_with(path, &token).status, 401, "{path}");
        for line in expected {
            nginx.expect_log(&[&format!("auth_jwt: {line}")]);
        }
    }
    assert_eq!(nginx.error_log().matches("rejected due to without signature key").count(), 4);
    assert_eq!(nginx.get_with("/both", &token).status, 200, "the other source has the key");
}

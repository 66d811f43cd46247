//! The directives: what a mistake is answered with, and how they are inherited.

use system_tests::{NginxBuilder, SigningKey, ask, jwks};

/// What `nginx -t` says about a server with this text in it, on line 2 of conf.d/test.conf.
fn complaint(text: &str) -> String {
    let key = SigningKey::generate("a");
    let builder = NginxBuilder::new().jwks(&jwks(&[&key]));
    let check =
        builder.with(&format!("server {{ listen LISTEN; server_name test;\n{text}\n}}")).check();
    assert!(!check.accepted, "{text} was accepted: {}", check.output);
    let line = check.output.lines().find(|line| line.contains("[emerg]"));
    line.unwrap_or_else(|| panic!("no [emerg] line: {}", check.output)).to_owned()
}

#[test]
fn mistakes_are_named_with_their_place_and_a_remedy() {
    let cases = [
        (
            "auth_jwt a token=cookie;",
            "invalid value \"token=cookie\" of \"auth_jwt\": token=$variable is expected",
        ),
        ("auth_jwt a b;", "invalid value \"b\" of \"auth_jwt\": token=$variable is expected"),
        ("auth_jwt $cookie_session;", "write auth_jwt \"realm\" token=$variable"),
        ("auth_jwt_leeway soon;", "invalid value \"soon\" of \"auth_jwt_leeway\""),
        ("auth_jwt_leeway -1;", "invalid value \"-1\" of \"auth_jwt_leeway\""),
        (
            "auth_jwt_require_exp yes;",
            "invalid value \"yes\" of \"auth_jwt_require_exp\": \"on\" or \"off\" is expected",
        ),
        ("auth_jwt_key_refresh 10ms;", "invalid value \"10ms\" of \"auth_jwt_key_refresh\""),
        (
            "auth_jwt_key_file /etc/hostname maybe;",
            "invalid value \"maybe\" of \"auth_jwt_key_file\"",
        ),
        ("auth_jwt_leeway 1s; auth_jwt_leeway 2s;", "\"auth_jwt_leeway\" directive is duplicate"),
        ("auth_jwt a; auth_jwt b;", "\"auth_jwt\" directive is duplicate"),
        ("auth_jwt;", "invalid number of arguments in \"auth_jwt\" directive"),
    ];
    for (text, expected) in cases {
        let line = complaint(text);
        assert!(line.contains(expected), "{text}\n{line}");
        assert!(line.contains("/conf.d/test.conf:2"), "{text}\n{line}");
    }
}

#[test]
fn a_bad_key_file_is_a_mistake_unless_it_is_optional() {
    let without = |builder: NginxBuilder| {
        let check = builder.edit("jwtunnel/http.conf", "jwks.json optional;", "jwks.json;").check();
        assert!(!check.accepted, "{}", check.output);
        let line = check.output.lines().find(|line| line.contains("[emerg]")).map(str::to_owned);
        let line = line.unwrap_or_else(|| panic!("no [emerg] line: {}", check.output));
        assert!(line.contains("/public/jwks.json"), "{line}");
        assert!(line.contains("/jwtunnel/http.conf:"), "{line}");
        line
    };
    let missing = without(NginxBuilder::new());
    assert!(missing.contains("No such file"), "{missing}");
    let bad = without(NginxBuilder::new().jwks("{\"keys\": 1}"));
    assert!(bad.contains("keys"), "{bad}");
    without(NginxBuilder::new().jwks(""));
    // A key on its own is not a key set.
    without(NginxBuilder::new().jwks(&SigningKey::generate("a").jwk().to_string()));

    assert!(NginxBuilder::new().check().accepted);
    assert!(NginxBuilder::new().jwks("{\"keys\": 1}").check().accepted);
}

#[test]
fn levels_inherit_and_replace() {
    let (outer, inner) = (SigningKey::generate("outer"), SigningKey::generate("inner"));
    let builder = NginxBuilder::new().jwks(&jwks(&[&outer]));
    builder.scratch().replace("public/inner.json", jwks(&[&inner]).as_bytes());
    let nginx = builder
        .with(
            r#"
            server {
                listen LISTEN;
                server_name levels;
                auth_jwt "server";
                proxy_pass_request_body off;
                location /inherits { proxy_pass http://SERVICE; }
                location /open { auth_jwt off; proxy_pass http://SERVICE; }
                location /named { auth_jwt "named"; proxy_pass http://SERVICE; }
                location /own-keys { auth_jwt_key_file DIR/public/inner.json; proxy_pass http://SERVICE; }
                location /both-keys {
                    auth_jwt_key_file DIR/public/inner.json;
                    auth_jwt_key_file DIR/public/jwks.json;
                    proxy_pass http://SERVICE;
                }
                location /strict { auth_jwt_leeway 0s; proxy_pass http://SERVICE; }
                location /endless { auth_jwt_require_exp off; proxy_pass http://SERVICE; }
                location /write {
                    auth_jwt off;
                    limit_except GET { auth_jwt "write"; }
                    proxy_pass http://SERVICE;
                }
                location /nested { auth_jwt "nested"; location /nested/deep { proxy_pass http://SERVICE; } }
            }
            "#,
        )
        .start();
    let ask = |method: &str, path: &str, token: Option<&str>| {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let mut headers = vec![("host", "levels")];
        headers.extend(bearer.iter().map(|bearer| ("authorization", bearer.as_str())));
        ask(method, &nginx.url(path), &headers, None)
    };
    let realm = |method: &str, path: &str| {
        let answer = ask(method, path, None);
        assert_eq!(answer.status, 401, "{path}");
        answer.header("www-authenticate").map(str::to_owned)
    };
    let (of_outer, of_inner) = (outer.token("me"), inner.token("me"));

    assert_eq!(realm("GET", "/inherits").as_deref(), Some("Bearer realm=\"server\""));
    assert_eq!(ask("GET", "/inherits", Some(&of_outer)).status, 200);
    assert_eq!(ask("GET", "/open", None).status, 200);
    assert_eq!(realm("GET", "/named").as_deref(), Some("Bearer realm=\"named\""));
    assert_eq!(realm("GET", "/nested/deep").as_deref(), Some("Bearer realm=\"nested\""));

    // Key files of a level replace those above it: a union would widen trust silently.
    assert_eq!(ask("GET", "/own-keys", Some(&of_inner)).status, 200);
    assert_eq!(ask("GET", "/own-keys", Some(&of_outer)).status, 401);
    assert_eq!(ask("GET", "/both-keys", Some(&of_inner)).status, 200);
    assert_eq!(ask("GET", "/both-keys", Some(&of_outer)).status, 200);

    let past = outer.sign(&serde_json::json!({"exp": system_tests::now() - 30}));
    assert_eq!(ask("GET", "/inherits", Some(&past)).status, 200);
    assert_eq!(ask("GET", "/strict", Some(&past)).status, 401);
    let endless = outer.sign(&serde_json::json!({"identifier": "me"}));
    assert_eq!(ask("GET", "/inherits", Some(&endless)).status, 401);
    assert_eq!(ask("GET", "/endless", Some(&endless)).status, 200);

    assert_eq!(ask("GET", "/write", None).status, 200);
    assert_eq!(realm("DELETE", "/write").as_deref(), Some("Bearer realm=\"write\""));
    assert_eq!(ask("DELETE", "/write", Some(&of_outer)).status, 200);
}

#[test]
fn a_realm_cannot_break_the_header() {
    let key = SigningKey::generate("a");
    let nginx = NginxBuilder::new()
        .jwks(&jwks(&[&key]))
        .with(
            r#"server { listen LISTEN; server_name realm;
                 location / { auth_jwt 'say "hi" to $arg_who'; proxy_pass http://SERVICE; } }"#,
        )
        .start();
    let answer = ask("GET", &nginx.url("/?who=a\\b\"c"), &[("host", "realm")], None);
    let challenge = answer.header("www-authenticate").expect("a challenge").to_owned();
    // nginx's variables of the query are not decoded, so what arrives is %22; a quote of the configuration is.
    assert!(challenge.starts_with(r#"Bearer realm="say \"hi\" to a"#), "{challenge}");
    assert!(challenge.ends_with('"'), "{challenge}");
}

#[test]
fn a_location_without_keys_refuses_and_says_so() {
    let key = SigningKey::generate("a");
    let nginx = NginxBuilder::new()
        .edit("jwtunnel/http.conf", "auth_jwt_key_file", "# auth_jwt_key_file")
        .start();
    assert_eq!(nginx.get_with("/", &key.token("me")).status, 401);
    nginx.expect_log(&["jwt: denied reason=keys_unavailable status=401", "no auth_jwt_key_file"]);
    let log = std::fs::read_to_string(nginx.scratch().join("state/output.log")).expect("output");
    let all = log + &nginx.error_log();
    assert!(all.contains("without \"auth_jwt_key_file\": every request gets 401"), "{all}");
}

#[test]
fn the_tls_snippet_serves() {
    let key = SigningKey::generate("a");
    let builder = NginxBuilder::new().jwks(&jwks(&[&key]));
    let certificate = builder.scratch().join("conf/fullchain.pem");
    let private = builder.scratch().join("conf/privkey.pem");
    std::fs::create_dir_all(builder.scratch().join("conf")).expect("a folder");
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-subj", "/CN=localhost", "-days", "1", "-out"])
        .arg(&certificate)
        .arg("-keyout")
        .arg(&private)
        .output()
        .expect("openssl");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let nginx = builder
        // What the comments of nginx.conf tell to do.
        .edit("nginx.conf", "# include jwtunnel/tls.conf;", "include jwtunnel/tls.conf;")
        .edit("nginx.conf", "# listen 443 ssl http2;", "")
        .edit_listen(" ssl http2")
        .edit(
            "jwtunnel/tls.conf",
            "/etc/nginx/jwtunnel/fullchain.pem",
            &certificate.display().to_string(),
        )
        .edit(
            "jwtunnel/tls.conf",
            "/etc/nginx/jwtunnel/privkey.pem",
            &private.display().to_string(),
        )
        .start();
    let url = nginx.url("/").replace("http://", "https://");
    let bearer = format!("Bearer {}", key.token("me"));
    assert_eq!(ask("GET", &url, &[], None).status, 401);
    assert_eq!(ask("GET", &url, &[("authorization", &bearer)], None).status, 200);
    // Over HTTP/2 too.
    let http2 = std::process::Command::new("curl")
        .args([
            "-sk",
            "--noproxy",
            "*",
            "--http2",
            "-o",
            "/dev/null",
            "-w",
            "%{http_version} %{http_code}",
        ])
        .args(["-H", &format!("Authorization: {bearer}"), &url])
        .output()
        .expect("curl");
    assert_eq!(String::from_utf8_lossy(&http2.stdout), "2 200");
}

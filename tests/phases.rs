//! What the variables say: in which form, in which phase, and of which token.

use std::fs;

use serde_json::json;
use system_tests::{Nginx, NginxBuilder, SigningKey, eventually, get, jwks, now};

/// The answer's header, bare.
fn header(nginx: &Nginx, path: &str, headers: &[(&str, &str)], name: &str) -> String {
    get(&nginx.url(path), headers).header(name).unwrap_or_default().to_owned()
}

/// mod 6.1: strings bare, numbers as they are written, null as nothing, arrays with commas, objects as JSON.
#[test]
fn each_type_has_its_form() {
    let key = SigningKey::generate("a");
    let forms = [
        (r#""text""#, "text"),
        (r#""a\"b\\c""#, r#"a"b\c"#),
        (r#""\u00e4ö""#, "äö"),
        (r#""""#, ""),
        ("7", "7"),
        ("18446744073709551616123", "18446744073709551616123"),
        ("1.50", "1.50"),
        ("1E+3", "1E+3"),
        ("-0", "-0"),
        ("true", "true"),
        ("false", "false"),
        ("null", ""),
        ("[]", ""),
        (r#"[ "a" , "b" ]"#, "a,b"),
        (r#"[1,"x",null,true,[2, "y"],{"k" : 1.0}]"#, r#"1,x,,true,[2,"y"],{"k":1.0}"#),
        (r#"{"z":1, "a":[ 1, "b" ]}"#, r#"{"a":[1,"b"],"z":1}"#),
        ("{}", "{}"),
        // What would end a header is no value at all.
        (r#""a\nb""#, ""),
        (r#"["a","b\r"]"#, ""),
        (r#""a\u0000""#, ""),
    ];
    let lines: String = (0..forms.len())
        .map(|place| {
            format!(
                "add_header X-Claim-{place} <$jwt_claim_v{place}>;\n\
                 add_header X-Header-{place} <$jwt_header_v{place}>;\n"
            )
        })
        .collect();
    let nginx = Nginx::server(
        &key,
        &format!(
            "auth_jwt_key_file DIR/public/jwks.json; auth_jwt x; {lines}
             add_header X-Absent <$jwt_claim_absent$jwt_header_absent>;
             add_header X-Lower <$jwt_claim_Sub>;
             location / {{ proxy_pass http://SERVICE; }}"
        ),
    );
    let members: Vec<String> =
        forms.iter().enumerate().map(|(place, (text, _))| format!("\"v{place}\":{text}")).collect();
    let members = members.join(",");
    let token = key.sign_text(
        &format!(r#"{{"alg":"ES256","kid":"a",{members}}}"#),
        &format!(r#"{{"sub":"me",{members}}}"#),
    );
    let answer = nginx.get_with("/", &token);
    assert_eq!(answer.status, 200);
    for (place, (text, shown)) in forms.iter().enumerate() {
        let wanted = format!("<{shown}>");
        for kind in ["claim", "header"] {
            let name = format!("x-{kind}-{place}");
            assert_eq!(answer.header(&name), Some(wanted.as_str()), "{kind} {text}");
        }
    }
    assert_eq!(answer.header("x-absent"), Some("<>"));
    // nginx's names of variables are of lower case.
    assert_eq!(answer.header("x-lower"), Some("<me>"));
}

/// rel:N6, mod 6.2, C12: in every phase the value of a token that verifies here, and of no other.
#[test]
fn every_phase_sees_verified_claims_alone() {
    let (key, stranger) = (SigningKey::generate("a"), SigningKey::generate("a"));
    let text = "
        map $jwt_claim_role $mapped { admin yes; default no; }
        log_format claims '$request_uri sub=<$jwt_claim_sub> kid=<$auth_jwt_kid> status=$auth_jwt_status.';
        server {
            listen LISTEN; auth_jwt_key_file DIR/public/jwks.json;
            auth_jwt x;
            access_log DIR/state/claims.log claims;
            # The server's own rewrite phase comes before a location is looked for.
            set $first $jwt_claim_sub;
            set $early '';
            set $chosen '';
            add_header X-Seen \"$first|$early|$chosen|$mapped|$jwt_claim_sub|$auth_jwt_kid\" always;
            location /access {
                set $early $jwt_claim_sub;
                if ($jwt_claim_role = admin) { set $chosen if; }
                proxy_pass http://SERVICE;
            }
            location /preaccess {
                auth_jwt_phase preaccess;
                set $early $jwt_claim_sub;
                if ($jwt_claim_role = admin) { set $chosen if; }
                proxy_pass http://SERVICE;
            }
            # A return answers before the check, so it must not tell what is not verified.
            location /return { return 200 '$jwt_claim_sub'; }
            location /alias { auth_jwt_audience us; set $early $jwt_claim_sub; proxy_pass http://SERVICE; }
        }";
    let nginx = NginxBuilder::bare(text).jwks(&jwks(&[&key])).start();
    let claims = |exp: i64| json!({"sub": "me", "role": "admin", "exp": exp});
    let good = key.sign(&claims(now() + 300));
    let tokens = [
        ("good", good.clone(), 200, "me|me|if|yes|me|a", "sub=<me> kid=<a> status=ok."),
        (
            "forged",
            stranger.sign(&claims(now() + 300)),
            401,
            "|||no||",
            "sub=<-> kid=<-> status=sig.",
        ),
        (
            "expired",
            key.sign(&claims(now() - 5)),
            401,
            "|||no||",
            "sub=<-> kid=<-> status=expired.",
        ),
        ("garbage", "garbage".to_owned(), 401, "|||no||", "sub=<-> kid=<-> status=malformed."),
        ("", String::new(), 401, "|||no||", "sub=<-> kid=<-> status=missing."),
    ];
    for (name, token, status, seen, line) in &tokens {
        for path in ["/access", "/preaccess"] {
            let path = format!("{path}?{name}");
            let answer = nginx.get_with(&path, token);
            assert_eq!((answer.status, answer.header("x-seen")), (*status, Some(*seen)), "{path}");
            eventually(&format!("the line of {path}"), || {
                let log = fs::read_to_string(nginx.scratch().join("state/claims.log")).ok()?;
                log.contains(&format!("{path} {line}")).then_some(())
            });
        }
        let answer = nginx.get_with("/return", token);
        let body = if *status == 200 { "me" } else { "" };
        assert_eq!((answer.status, &*answer.body), (200, body), "{name}");
    }
    // The server's rules let it pass, the location's don't: each place sees what holds there.
    let answer = nginx.get_with("/alias", &good);
    assert_eq!((answer.status, answer.header("x-seen")), (401, Some("me|||no||")));
}

/// mod 6.2: a limit by claim counts whom the claim names, not whom a forged token does.
#[test]
fn a_limit_by_claim_counts_the_token_that_verifies() {
    let (key, stranger) = (SigningKey::generate("a"), SigningKey::generate("a"));
    let text = "
        limit_req_zone $jwt_claim_sub zone=subjects:1m rate=1r/m;
        limit_req_status 429;
        server {
            listen LISTEN; auth_jwt_key_file DIR/public/jwks.json;
            location / { auth_jwt x; limit_req zone=subjects; proxy_pass http://SERVICE; }
        }";
    let nginx = NginxBuilder::bare(text).jwks(&jwks(&[&key])).start();
    let ask = |key: &SigningKey, sub: &str| {
        nginx.get_with("/", &key.sign(&json!({"sub": sub, "exp": now() + 300}))).status
    };
    for _ in 0..3 {
        assert_eq!(ask(&stranger, "alice"), 401);
    }
    assert_eq!(ask(&key, "alice"), 200, "what was forged used up nothing of hers");
    assert_eq!(ask(&key, "alice"), 429);
    assert_eq!(ask(&stranger, "alice"), 401);
    assert_eq!(ask(&key, "bob"), 200);
    assert_eq!(ask(&key, "bob"), 429);
}

/// issue part 4, mod C.2: a word for each outcome, the same as in the log.
#[test]
fn the_status_is_the_reason() {
    let (key, stranger) = (SigningKey::generate("a"), SigningKey::generate("a"));
    let text = "
        server {
            listen LISTEN; auth_jwt_key_file DIR/public/jwks.json; auth_jwt x;
            add_header X-Status '$auth_jwt_status|$auth_jwt_kid' always;
            location /open { auth_jwt off; proxy_pass http://SERVICE; }
            location /peek { auth_jwt off token=$http_x_token; proxy_pass http://SERVICE; }
            location / { proxy_pass http://SERVICE; }
            location /large { auth_jwt_max_size 20; proxy_pass http://SERVICE; }
            location /alg { auth_jwt_alg RS256; proxy_pass http://SERVICE; }
            location /typ { auth_jwt_typ at+jwt; proxy_pass http://SERVICE; }
            location /aud { auth_jwt_audience us; proxy_pass http://SERVICE; }
            location /iss { auth_jwt_issuer us key_file=DIR/public/jwks.json; proxy_pass http://SERVICE; }
            location /claim { auth_jwt_require_claim sub eq you; proxy_pass http://SERVICE; }
            location /value { auth_jwt_require $arg_x; proxy_pass http://SERVICE; }
            location /scope { auth_jwt_scope s; proxy_pass http://SERVICE; }
            location /revoked { auth_jwt_revocation_list_sub DIR/public/gone.json; proxy_pass http://SERVICE; }
            location /once { auth_jwt_replay zone=seen:1m; proxy_pass http://SERVICE; }
            location /keys { auth_jwt_key_file DIR/public/none.json optional; proxy_pass http://SERVICE; }
            location /dry { auth_jwt_dry_run on; proxy_pass http://SERVICE; }
        }";
    let nginx =
        NginxBuilder::bare(text).jwks(&jwks(&[&key])).file("gone.json", r#"{"me":1}"#).start();
    let good = key.sign(&json!({"sub": "me", "jti": "1", "exp": now() + 300}));
    let crit = key.sign_text(r#"{"alg":"ES256","kid":"a","crit":["x"],"x":1}"#, "{}");
    let none = key.sign_text(r#"{"alg":"none","kid":"a"}"#, "{}");
    let forged = stranger.sign(&json!({"sub": "me"}));
    let unknown = SigningKey::generate("b").token("me");
    let expired = key.sign(&json!({"exp": now() - 5}));
    let early = key.sign(&json!({"nbf": now() + 300}));
    for (path, token, status, shown) in [
        ("/", "", 401, "missing|"),
        ("/", "garbage", 401, "malformed|"),
        ("/", "a.b.c.d.e", 401, "malformed|"),
        ("/", &crit, 401, "crit|"),
        ("/", &none, 401, "alg|"),
        ("/", &forged, 401, "sig|"),
        ("/", &unknown, 401, "key_unknown|"),
        ("/", &expired, 401, "expired|"),
        ("/", &early, 401, "not_yet|"),
        ("/", &good, 200, "ok|a"),
        ("/large", &good, 401, "too_large|"),
        ("/alg", &good, 401, "alg|"),
        ("/typ", &good, 401, "typ|"),
        ("/aud", &good, 401, "aud|"),
        ("/iss", &good, 401, "iss|"),
        ("/revoked", &good, 401, "revoked|"),
        // The token is genuine: only what this location asks besides is not met.
        ("/claim", &good, 401, "claim|a"),
        ("/value", &good, 401, "claim|a"),
        ("/scope", &good, 403, "claim|a"),
        ("/once", &good, 200, "ok|a"),
        ("/once", &good, 401, "replayed|a"),
        ("/keys", &good, 503, "keys_unavailable|"),
        ("/open", &good, 200, "off|"),
        ("/dry", &expired, 200, "expired|"),
    ] {
        let answer = nginx.get_with(path, token);
        assert_eq!(
            (answer.status, answer.header("x-status")),
            (status, Some(shown)),
            "{path} {token}"
        );
    }
    for (token, shown) in [(&*good, "ok|a"), (&*forged, "sig|"), ("", "missing|")] {
        assert_eq!(header(&nginx, "/peek", &[("x-token", token)], "x-status"), shown, "{token}");
    }
    for word in [
        "missing",
        "malformed",
        "crit",
        "alg",
        "sig",
        "key_unknown",
        "expired",
        "not_yet",
        "too_large",
        "typ",
        "aud",
        "iss",
        "revoked",
        "claim",
        "replayed",
        "keys_unavailable",
    ] {
        nginx.expect_log(&[&format!("jwt: denied reason={word} status=")]);
    }
}

/// mod 6.2: what is not verified has a name that says so, and only where tokens are read.
#[test]
fn unverified_claims_have_names_of_their_own() {
    let (key, stranger) = (SigningKey::generate("a"), SigningKey::generate("a"));
    let nginx = Nginx::server(
        &key,
        "auth_jwt_key_file DIR/public/jwks.json; auth_jwt x;
         add_header X-Seen '$jwt_claim_sub|$jwt_unverified_claim_sub|$jwt_unverified_claim_list' always;
         add_header X-Deep '$jwt_unverified_claim_a__b' always;
         add_header X-Now '$jwt_nowtime' always;
         location / { proxy_pass http://SERVICE; }
         location /deep { auth_jwt_allow_nested delimiter=__; proxy_pass http://SERVICE; }
         location /small { auth_jwt_max_size 20; proxy_pass http://SERVICE; }
         location /off { auth_jwt off; proxy_pass http://SERVICE; }",
    );
    let claims = json!({"sub": "me", "list": [1, "x"], "a": {"b": 2}, "exp": now() + 300});
    let (good, forged) = (key.sign(&claims), stranger.sign(&claims));
    let broken = stranger.sign(&json!({"sub": "a\r\nX-Evil: 1"}));
    for (path, token, shown) in [
        ("/", &*good, "me|me|1,x"),
        ("/", &forged, "|me|1,x"),
        ("/", &broken, "||"),
        ("/", "garbage", "||"),
        ("/", "", "||"),
        ("/small", &good, "||"),
        ("/off", &good, "||"),
    ] {
        let answer = nginx.get_with(path, token);
        assert_eq!(answer.header("x-seen"), Some(shown), "{path} {token}");
        assert_eq!(answer.header("x-evil"), None);
    }
    assert_eq!(nginx.get_with("/deep", &forged).header("x-deep"), Some("2"));
    let before = now();
    let seen: i64 = nginx.get("/off").header("x-now").expect("a time").parse().expect("seconds");
    assert!((before..=now()).contains(&seen), "{before} {seen}");
}

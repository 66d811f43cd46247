//! The corners of what a location asks of a token, beside the table of `rules.rs`: exact numbers, expected values
//! from variables, paths, boundaries of times and sizes, levels, codes.

use serde_json::{Value, json};
use system_tests::{Nginx, NginxBuilder, SigningKey, ask, ask_raw, eventually, get, jwks, now};

fn status(nginx: &Nginx, path: &str, token: &str) -> u16 {
    ask_raw(nginx.port().address(), path, &[("Authorization", &format!("Bearer {token}"))])
}

/// A server with these lines, one location each: `/0`, `/1` and so on.
fn numbered(key: &SigningKey, server: &str, lines: &[&str]) -> Nginx {
    let locations: String = lines
        .iter()
        .enumerate()
        .map(|(place, line)| {
            format!("location = /{place} {{ auth_jwt x; {line} alias DIR/public/jwks.json; }}\n")
        })
        .collect();
    let server = format!("auth_jwt_key_file DIR/public/jwks.json;\n{server}\n{locations}");
    Nginx::server(key, &server)
}

/// The header of [`SigningKey::generate`]`("a")`'s tokens.
const HEADER: &str = r#"{"alg":"ES256","kid":"a"}"#;

/// mod 5.4: numbers are compared exactly or not at all, and a comparison that can't be made is no success of its
/// negation either.
#[test]
fn numbers_are_compared_exactly() {
    let key = SigningKey::generate("a");
    let table = [
        // Neighbours beyond 2^53, and the ends of 64 bits.
        ("past53 eq json=9007199254740993", true),
        ("past53 eq json=9007199254740992", false),
        ("past53 le json=9007199254740992", false),
        ("most ge json=9223372036854775807", true),
        ("most gt json=9223372036854775806", true),
        ("least lt json=-9223372036854775807", true),
        ("huge eq json=18446744073709551616", true),
        ("huge eq json=18446744073709551617", false),
        ("huge ne json=18446744073709551617", true),
        ("huge gt json=9223372036854775807", true),
        // Against a real only where nothing is lost.
        ("past53 gt json=0.5", false),
        ("past53 !gt json=0.5", false),
        ("past53 gt json=9007199254740992.0", true),
        ("two lt json=2.5", true),
        ("two ge json=2.0", true),
        ("two eq json=2.0", false),
        ("two ne json=2.0", true),
        ("two eq json=2e0", false),
        ("hundred eq json=100.0", true),
        ("hundred eq json=1E+2", true),
        ("hundred eq json=100", false),
        ("minus lt json=0", true),
        ("minus !ge json=0", true),
        // Members in any order, deeply; types never mix.
        ("object eq json={\"b\":[1,{\"c\":null}],\"a\":1}", true),
        ("object eq json={\"a\":1}", false),
        ("object ne json={\"a\":1}", true),
        ("two in json=[1,2.0]", false),
        ("two in json=[1,2]", true),
        ("list in json=[[1,2]]", true),
        ("list any json=[2,3]", true),
        ("list any json=[2.0]", false),
        ("list !any json=[3]", true),
        ("list any json={\"1\":1}", false),
        ("list !any json={\"1\":1}", false),
        ("two in json={\"2\":1}", false),
        ("two !in json={\"2\":1}", false),
        ("text !match json=\"^x\"", true),
        ("two !match 2", false),
        ("text !gt json=1", false),
        ("nothing ge json=null", false),
        ("nothing !ge json=null", false),
        // Absent: also for every negation, alias or not.
        ("absent ne x", false),
        ("absent !ne x", false),
        ("absent !gt json=1", false),
        ("absent !in json=[1]", false),
        ("absent !any json=[1]", false),
        ("absent nintersect json=[1]", false),
        ("absent !match x", false),
        // The aliases, negated once more.
        ("two !ne json=2", true),
        ("two !nin json=[2]", true),
        ("list !nintersect json=[2]", true),
        ("list !nintersect json=[3]", false),
        ("list !intersect json=[3]", true),
    ];
    let lines: Vec<String> = table
        .iter()
        .map(|(rule, _)| {
            let parts: Vec<&str> = rule.splitn(3, ' ').collect();
            format!("auth_jwt_require_claim {} {} '{}';", parts[0], parts[1], parts[2])
        })
        .collect();
    let nginx = numbered(&key, "", &lines.iter().map(String::as_str).collect::<Vec<_>>());
    let token = key.sign_text(
        HEADER,
        r#"{"past53":9007199254740993,"most":9223372036854775807,"least":-9223372036854775808,
            "huge":18446744073709551616,"two":2,"hundred":1e2,"minus":-0.5,"text":"abc","nothing":null,
            "object":{"a":1,"b":[1,{"c":null}]},"list":[1,2]}"#,
    );
    for (place, (rule, holds)) in table.iter().enumerate() {
        let expected = if *holds { 200 } else { 401 };
        assert_eq!(status(&nginx, &format!("/{place}"), &token), expected, "{rule}");
    }
}

/// mod 5.4: a value of variables is JSON, at most 4096 bytes of it, at most 1024 elements; a pattern at most 1024.
#[test]
fn an_expected_value_may_come_from_variables() {
    let key = SigningKey::generate("a");
    let nginx = NginxBuilder::bare(
        "large_client_header_buffers 4 16k;
        # ox_jwt's binding of a token to a host.
        map $host $host_json { ~^(?<name>[a-z.]+)$ '\"$name\"'; }
        server {
            listen LISTEN; auth_jwt_key_file DIR/public/jwks.json; auth_jwt x;
            location /eq { auth_jwt_require_claim role eq $http_x_value; proxy_pass http://SERVICE; }
            location /in { auth_jwt_require_claim role in $http_x_value; proxy_pass http://SERVICE; }
            location /nin { auth_jwt_require_claim role nin $http_x_value; proxy_pass http://SERVICE; }
            location /ge { auth_jwt_require_claim level ge $http_x_value; proxy_pass http://SERVICE; }
            location /two { auth_jwt_require_claim level eq $http_x_value$http_x_more; proxy_pass http://SERVICE; }
            location /match { auth_jwt_require_claim role match $http_x_value; proxy_pass http://SERVICE; }
            location /not { auth_jwt_require_claim role !match $http_x_value; proxy_pass http://SERVICE; }
            location /slow { auth_jwt_require_claim slow match $http_x_value; proxy_pass http://SERVICE; }
            location /header { auth_jwt_require_header kid eq $http_x_value; proxy_pass http://SERVICE; }
            location /host { auth_jwt_require_claim host eq $host_json; proxy_pass http://SERVICE; }
        }",
    )
    .jwks(&jwks(&[&key]))
    .start();
    let token = key.sign(&json!({
        "role": "admin", "level": 12, "host": "a.example", "slow": format!("{}b", "a".repeat(3000)),
    }));
    let bearer = format!("Bearer {token}");
    let ask = |path: &str, value: &str| {
        let headers = [("authorization", bearer.as_str()), ("x-value", value), ("x-more", "2")];
        get(&nginx.url(path), &headers).status
    };
    let list = |items: usize| format!("[\"admin\"{}]", ",1".repeat(items - 1));
    let padded = |bytes: usize| format!("[\"admin\"{}]", " ".repeat(bytes - 9));
    let pattern = |bytes: usize| format!("\"^(?:admin|{})$\"", "x".repeat(bytes - 12));
    for (path, value, expected) in [
        ("/eq", "\"admin\"", 200),
        ("/eq", "\"\\u0061dmin\"", 200),
        ("/eq", "admin", 401),
        ("/eq", "", 401),
        ("/eq", "\"admin\" 1", 401),
        ("/ge", "12", 200),
        ("/ge", "13", 401),
        ("/ge", "\"12\"", 401),
        ("/two", "1", 200),
        ("/two", "2", 401),
        ("/in", "{\"admin\":0}", 200),
        ("/in", &list(1024), 200),
        ("/in", &list(1025), 401),
        ("/nin", &list(1025), 401),
        ("/nin", "[1]", 200),
        ("/in", &padded(4096), 200),
        ("/in", &padded(4097), 401),
        ("/match", "\"^ad\"", 200),
        ("/match", "\"^mi\"", 401),
        ("/match", "^ad", 401),
        ("/match", &pattern(1024), 200),
        ("/match", &pattern(1025), 401),
        ("/not", "\"^mi\"", 200),
        ("/not", &pattern(1025), 401),
        ("/not", "\"(\"", 401),
        ("/header", "\"a\"", 200),
        ("/header", "\"b\"", 401),
        ("/slow", "\"b$\"", 200),
        // It explodes, and so it ends.
        ("/slow", "\"^(a+)+$\"", 401),
    ] {
        assert_eq!(ask(path, value), expected, "{path} {value}");
    }
    nginx.expect_log(&["cause=\"the value required of claim role is not JSON\""]);
    nginx.expect_log(&["cause=\"the value required of role is too large\""]);
    nginx.expect_log(&["cause=\"a regular expression can't be compiled\""]);
    nginx.expect_log(&["cause=\"a regular expression took too long\""]);
    for (host, expected) in [("a.example", 200), ("b.example", 401), ("1", 401)] {
        let headers = [("authorization", bearer.as_str()), ("host", host)];
        assert_eq!(get(&nginx.url("/host"), &headers).status, expected, "{host}");
    }
}

/// mod 5.4, 5.5: paths in the two notations; `auth_jwt_allow_nested` is one unit, which `off` ends.
#[test]
fn paths_are_read_as_each_level_says() {
    let key = SigningKey::generate("a");
    let text = "
        auth_jwt_claim_set $deep top.inner;
        auth_jwt_claim_set $path top inner;
        auth_jwt_claim_set $array list 1;
        auth_jwt_claim_set $MixedCase MixedCase;
        auth_jwt_claim_set $changed sub;
        auth_jwt_header_set $kid kid;
        auth_jwt_header_set $extra ext a;
        server {
            listen LISTEN; auth_jwt_key_file DIR/public/jwks.json; auth_jwt x;
            add_header X-Seen \"$deep|$path|$array|$MixedCase|$changed|$kid|$extra|$jwt_claim_top__inner\";
            location /off {
                # The name with the dot is a member of its own; what is set wins over the claim.
                auth_jwt_require_claim top.inner eq flat;
                auth_jwt_require_claim .top.inner eq nested;
                set $changed mine;
                proxy_pass http://SERVICE;
            }
            location /on {
                auth_jwt_allow_nested;
                auth_jwt_require_claim top.inner eq nested;
                auth_jwt_require_claim top..inner eq nested;
                auth_jwt_require_claim '\"top.inner\"' eq flat;
                auth_jwt_require_header ext.a eq b;
                proxy_pass http://SERVICE;
                location /on/off { auth_jwt_allow_nested off; auth_jwt_require_inherit off;
                    auth_jwt_require_claim top.inner eq flat; proxy_pass http://SERVICE; }
                location /on/inherited { auth_jwt_require_claim top.inner eq nested; proxy_pass http://SERVICE; }
            }
            location /own {
                auth_jwt_allow_nested delimiter=__ quote=<>;
                auth_jwt_require_claim top__inner eq nested;
                auth_jwt_require_claim '<>top.inner<>' eq flat;
                proxy_pass http://SERVICE;
                # One unit: the quote is the usual one again. A rule from above is read as this level reads names.
                location /own/unit { auth_jwt_allow_nested delimiter=/; proxy_pass http://SERVICE; }
                location /own/quote { auth_jwt_allow_nested delimiter=/; auth_jwt_require_inherit off;
                    auth_jwt_require_claim 'top/\"inner\"' eq nested; proxy_pass http://SERVICE; }
            }
            location /array { auth_jwt_require_claim '.list[1]' eq y; proxy_pass http://SERVICE; }
            location /root { auth_jwt_require_claim '[0]' eq y; proxy_pass http://SERVICE; }
        }";
    let nginx = NginxBuilder::bare(text).jwks(&jwks(&[&key])).start();
    let token = key.sign_text(
        r#"{"alg":"ES256","kid":"a","ext":{"a":"b"}}"#,
        r#"{"top":{"inner":"nested"},"top.inner":"flat","list":["x","y"],"MixedCase":"M","sub":"s"}"#,
    );
    let seen = |path: &str| {
        let answer = nginx.get_with(path, &token);
        (answer.status, answer.header("x-seen").unwrap_or_default().to_owned())
    };
    assert_eq!(seen("/off"), (200, "flat|nested||M|mine|a|b|".to_owned()));
    assert_eq!(seen("/on"), (200, "nested|nested||M|s|a|b|".to_owned()));
    assert_eq!(seen("/on/off"), (200, "flat|nested||M|s|a|b|".to_owned()));
    assert_eq!(seen("/on/inherited").0, 200);
    assert_eq!(seen("/own"), (200, "flat|nested||M|s|a|b|nested".to_owned()));
    assert_eq!(seen("/own/unit").0, 401);
    assert_eq!(seen("/own/quote").0, 200);
    assert_eq!(seen("/array").0, 200);
    assert_eq!(seen("/root").0, 401, "the claims are no array");
}

/// mod 5.4, 5.5: a name that begins with a dot is a path for a variable as it is for a rule.
#[test]
fn a_jq_path_names_a_claim_for_a_variable() {
    let key = SigningKey::generate("a");
    let nginx = NginxBuilder::bare(
        "auth_jwt_claim_set $item '.list[1].\"a b\"';
        auth_jwt_header_set $part .ext.a;
        server {
            listen LISTEN; auth_jwt_key_file DIR/public/jwks.json; auth_jwt x;
            add_header X-Seen $item|$part;
            location / { auth_jwt_require_claim '.list[1].\"a b\"' eq y; proxy_pass http://SERVICE; }
            location /nested { auth_jwt_allow_nested; proxy_pass http://SERVICE; }
        }",
    )
    .jwks(&jwks(&[&key]))
    .start();
    let token = key
        .sign_text(r#"{"alg":"ES256","kid":"a","ext":{"a":"b"}}"#, r#"{"list":["x",{"a b":"y"}]}"#);
    for path in ["/", "/nested"] {
        let answer = nginx.get_with(path, &token);
        assert_eq!((answer.status, answer.header("x-seen")), (200, Some("y|b")), "{path}");
    }
}

/// mod 2.4, 5.4, C18: the code of the line, and the challenge that goes with it (RFC 6750 section 3.1).
#[test]
fn each_line_has_its_code_and_its_challenge() {
    let key = SigningKey::generate("a");
    let codes = [400, 401, 402, 403, 404, 418, 451, 498, 500, 503, 599];
    let lines: Vec<String> = codes
        .iter()
        .flat_map(|code| {
            [
                format!("auth_jwt_require $jwt_claim_absent error={code};"),
                format!("auth_jwt_require_claim sub eq x error={code};"),
                format!("auth_jwt_require_header kid eq x error={code};"),
            ]
        })
        .collect();
    let nginx = numbered(&key, "", &lines.iter().map(String::as_str).collect::<Vec<_>>());
    let token = key.token("me");
    for (place, line) in lines.iter().enumerate() {
        let code = codes[place / 3];
        let answer = nginx.get_with(&format!("/{place}"), &token);
        assert_eq!(answer.status, code, "{line}");
        let error = match code {
            400 => Some("invalid_request"),
            401 => Some("invalid_token"),
            403 => Some("insufficient_scope"),
            _ => None,
        };
        let challenge = error.map(|error| format!("Bearer realm=\"x\", error=\"{error}\""));
        assert_eq!(answer.header("www-authenticate"), challenge.as_deref(), "{line}");
        // A token that is bad is not told about the rules.
        assert_eq!(nginx.get_with(&format!("/{place}"), "garbage").status, 401, "{line}");
    }
    nginx
        .expect_log(&["[info]", "jwt: denied reason=claim status=418 kid=\"a\" keyset=jwks gen=1"]);
}

/// mod 2.2, 5.4: scope, then headers, claims and values, whatever the order of the lines; of one kind the first.
#[test]
fn the_checks_have_an_order() {
    let key = SigningKey::generate("a");
    let nginx = numbered(
        &key,
        "auth_jwt_require $http_x_value error=481; auth_jwt_require_claim claim eq ok error=482;
         auth_jwt_require_claim other eq ok error=483; auth_jwt_require_header head eq ok error=484;
         auth_jwt_scope s; auth_jwt_audience us;",
        &[""],
    );
    let good = json!({"aud": "us", "scope": "s", "claim": "ok", "other": "ok", "exp": now() + 300});
    let ask = |head: &str, missing: &[&str], value: &str| {
        let mut claims = good.clone();
        for name in missing {
            claims[name] = json!("no");
        }
        let header = format!(r#"{{"alg":"ES256","kid":"a","head":"{head}"}}"#);
        let bearer = format!("Bearer {}", key.sign_text(&header, &claims.to_string()));
        get(&nginx.url("/0"), &[("authorization", &bearer), ("x-value", value)]).status
    };
    assert_eq!(ask("ok", &[], "1"), 200);
    assert_eq!(ask("ok", &[], "00"), 200);
    assert_eq!(ask("ok", &[], "false"), 200);
    assert_eq!(ask("ok", &[], "0"), 481);
    assert_eq!(ask("ok", &[], ""), 481);
    assert_eq!(ask("ok", &["other"], "0"), 483);
    assert_eq!(ask("ok", &["other", "claim"], "0"), 482);
    assert_eq!(ask("no", &["other", "claim"], "0"), 484);
    assert_eq!(ask("no", &["other", "claim", "scope"], "0"), 403);
    assert_eq!(ask("no", &["other", "claim", "scope", "aud"], "0"), 401);
}

/// mod C5, rel:N11: lists of rules through http, server, location, location, limit_except and if.
#[test]
fn rules_are_inherited_as_each_level_says() {
    let key = SigningKey::generate("a");
    let text = "
        auth_jwt_key_file DIR/public/jwks.json;
        auth_jwt_require_claim h eq json=1 error=471;
        server {
            listen LISTEN; auth_jwt x;
            auth_jwt_require_claim s eq json=1 error=472;
            location /merge {
                auth_jwt_require_claim l eq json=1 error=473;
                location /merge/none { proxy_pass http://SERVICE; }
                location /merge/own { auth_jwt_require_claim i eq json=1 error=474; proxy_pass http://SERVICE; }
                location /merge/if { if ($arg_x) { set $x 1; } proxy_pass http://SERVICE; }
                location /merge/limit {
                    limit_except GET { auth_jwt_require_claim i eq json=1 error=474; }
                    proxy_pass http://SERVICE;
                }
                location /merge/limit-on {
                    limit_except GET { auth_jwt_require_inherit on; auth_jwt_require_claim i eq json=1 error=474; }
                    proxy_pass http://SERVICE;
                }
                proxy_pass http://SERVICE;
            }
            location /on {
                auth_jwt_require_inherit on;
                auth_jwt_require_claim l eq json=1 error=473;
                location /on/none { proxy_pass http://SERVICE; }
                location /on/own { auth_jwt_require_claim i eq json=1 error=474; proxy_pass http://SERVICE; }
                location /on/merge {
                    auth_jwt_require_inherit merge; auth_jwt_require_claim i eq json=1 error=474; proxy_pass http://SERVICE;
                }
                proxy_pass http://SERVICE;
            }
            location /off {
                auth_jwt_require_inherit off;
                location /off/own { auth_jwt_require_claim i eq json=1 error=474; proxy_pass http://SERVICE; }
                proxy_pass http://SERVICE;
            }
        }";
    let nginx = NginxBuilder::bare(text).jwks(&jwks(&[&key])).start();
    // The codes of a list are those of its rules, one after the other.
    let codes = |method: &str, path: &str| {
        let mut claims = json!({});
        let mut codes = Vec::new();
        loop {
            let bearer = format!("Bearer {}", key.sign(&claims));
            let url = nginx.url(path);
            let status = ask(method, &url, &[("authorization", &bearer)], None).status;
            if status == 200 {
                return codes;
            }
            assert!((471..=474).contains(&status), "{path}: {status}");
            let name = ["h", "s", "l", "i"][usize::from(status - 471)];
            assert!(claims[name].is_null(), "{path}: {status} again");
            claims[name] = json!(1);
            codes.push(status);
        }
    };
    for (method, path, expected) in [
        ("GET", "/merge", &[471, 472, 473][..]),
        ("GET", "/merge/none", &[471, 472, 473]),
        ("GET", "/merge/own", &[471, 472, 473, 474]),
        ("GET", "/merge/if?x=1", &[471, 472, 473]),
        ("GET", "/merge/limit", &[471, 472, 473]),
        ("DELETE", "/merge/limit", &[471, 472, 473, 474]),
        ("DELETE", "/merge/limit-on", &[474]),
        ("GET", "/on", &[473]),
        ("GET", "/on/none", &[473]),
        ("GET", "/on/own", &[474]),
        ("GET", "/on/merge", &[473, 474]),
        ("GET", "/off", &[]),
        ("GET", "/off/own", &[474]),
    ] {
        assert_eq!(codes(method, path), expected, "{method} {path}");
    }
}

/// Runs `test` with the time, again until nginx can't have seen another second meanwhile.
fn within_a_second<T>(mut test: impl FnMut(i64) -> T) -> T {
    eventually("a test within one second", || {
        let before = now();
        let result = test(before);
        (now() == before).then_some(result)
    })
}

/// mod 5.3, rel:T4: valid while now < exp + leeway, and from nbf - leeway on, to the second.
#[test]
fn times_count_to_the_second() {
    let key = SigningKey::generate("a");
    let nginx = numbered(
        &key,
        "",
        &[
            "",
            "auth_jwt_leeway 60s;",
            "auth_jwt_max_age 100s;",
            "auth_jwt_max_age 100s; auth_jwt_leeway 1m;",
            "auth_jwt_max_lifetime 100s; auth_jwt_leeway 60;",
        ],
    );
    let check = |place: usize, claims: &dyn Fn(i64) -> String| {
        within_a_second(|now| {
            status(&nginx, &format!("/{place}"), &key.sign_text(HEADER, &claims(now)))
        })
    };
    for (place, leeway) in [(0, 0), (1, 60)] {
        for (name, from_now, expected) in [
            ("exp", -leeway, 401),
            ("exp", 1 - leeway, 200),
            ("nbf", leeway, 200),
            ("nbf", leeway + 1, 401),
        ] {
            let claims = |now: i64| format!(r#"{{"{name}":{}}}"#, now + from_now);
            assert_eq!(check(place, &claims), expected, "{name} {from_now} with leeway {leeway}");
        }
        // A fraction of exp is cut off, one of nbf is waited for.
        for (name, from_now, expected) in
            [("exp", -leeway, 401), ("exp", 1 - leeway, 200), ("nbf", leeway, 401)]
        {
            let claims = |now: i64| format!(r#"{{"{name}":{}.5}}"#, now + from_now);
            assert_eq!(check(place, &claims), expected, "{name} {from_now}.5, leeway {leeway}");
        }
    }
    for (place, age, expected) in [(2, 100, 200), (2, 101, 401), (3, 160, 200), (3, 161, 401)] {
        let claims = |now: i64| format!(r#"{{"iat":{}}}"#, now - age);
        assert_eq!(check(place, &claims), expected, "an age of {age}");
    }
    // Between two claims no clock is in play, and so no leeway.
    for (lifetime, expected) in [(100, 200), (101, 401)] {
        let claims = |now: i64| format!(r#"{{"iat":{now},"exp":{}}}"#, now + lifetime);
        assert_eq!(check(4, &claims), expected, "a lifetime of {lifetime}");
    }
    let claims = |now: i64| format!(r#"{{"exp":{}}}"#, now + 50);
    assert_eq!(check(4, &claims), 401, "without iat the lifetime can't be told");
    let claims = |now: i64| format!(r#"{{"iat":{now}}}"#);
    assert_eq!(check(4, &claims), 401, "without exp it has no end");
}

/// rel:T4: a date is a number of which every verifier makes the same.
#[test]
fn a_date_that_is_none_is_refused() {
    let key = SigningKey::generate("a");
    let nginx = numbered(
        &key,
        "",
        &[
            "",
            "auth_jwt_validate_exp off;",
            "auth_jwt_validate_nbf off;",
            "auth_jwt_require_exp on; auth_jwt_validate_exp off;",
        ],
    );
    let ask = |place: usize, claims: &str| {
        status(&nginx, &format!("/{place}"), &key.sign_text(HEADER, claims))
    };
    let later = now() + 1000;
    for bad in
        [&format!("\"{later}\""), "null", "true", "[1]", "{}", "9223372036854775808", "1e300"]
    {
        for name in ["exp", "nbf", "iat"] {
            assert_eq!(ask(0, &format!(r#"{{"{name}":{bad}}}"#)), 401, "{name} {bad}");
        }
        assert_eq!(ask(1, &format!(r#"{{"exp":{bad}}}"#)), 200, "not read: {bad}");
        assert_eq!(ask(2, &format!(r#"{{"nbf":{bad}}}"#)), 200, "not read: {bad}");
        assert_eq!(ask(3, &format!(r#"{{"exp":{bad}}}"#)), 200, "not read: {bad}");
    }
    assert_eq!(ask(0, r#"{"exp":-1}"#), 401);
    assert_eq!(ask(0, r#"{"exp":0}"#), 401);
    assert_eq!(ask(0, r#"{"exp":9223372036854775807}"#), 200);
    assert_eq!(ask(0, r#"{"nbf":-1,"iat":-1}"#), 200);
    assert_eq!(ask(0, &format!(r#"{{"exp":{later}.0}}"#)), 200);
    assert_eq!(ask(3, "{}"), 200, "neither needed nor read");
}

/// mod 5.4: a rule on exp or nbf gives the leeway that the checks of the module give.
#[test]
fn rules_on_times_give_the_leeway() {
    let key = SigningKey::generate("a");
    let lines = [
        "auth_jwt_require_claim exp ge json=1000100;",
        "auth_jwt_require_claim nbf le json=999;",
        "auth_jwt_require_claim iat le json=999;",
    ];
    let leeway = lines.map(|line| format!("auth_jwt_leeway 50s; {line}"));
    let all: Vec<&str> = lines.into_iter().chain(leeway.iter().map(String::as_str)).collect();
    let nginx = numbered(&key, "auth_jwt_validate_exp off;", &all);
    let ask = |exp: i64, nbf: i64| {
        let token = key.sign(&json!({"exp": exp, "nbf": nbf, "iat": nbf}));
        (0..6).map(|place| status(&nginx, &format!("/{place}"), &token)).collect::<Vec<_>>()
    };
    assert_eq!(ask(1_000_100, 999), [200; 6]);
    assert_eq!(ask(1_000_050, 1_049), [401, 401, 401, 200, 200, 401]);
    assert_eq!(ask(1_000_049, 1_050), [401; 6]);
}

/// rel:N11: what a level asks replaces what the one above asks, and `off` ends it.
#[test]
fn a_level_replaces_what_the_one_above_asks() {
    let key = SigningKey::generate("a");
    let nginx = numbered(
        &key,
        "auth_jwt_audience us; auth_jwt_scope s; auth_jwt_typ at+jwt; auth_jwt_max_age 1h; auth_jwt_max_lifetime 1h;
         auth_jwt_require_exp on; auth_jwt_leeway 1h;",
        &[
            "",
            "auth_jwt_audience off;",
            "auth_jwt_audience them others;",
            "auth_jwt_scope off;",
            "auth_jwt_scope t;",
            "auth_jwt_typ off;",
            "auth_jwt_typ application/AT+JWT;",
            "auth_jwt_max_age off; auth_jwt_max_lifetime off;",
            "auth_jwt_max_age off; auth_jwt_max_lifetime off; auth_jwt_require_exp off;",
            "auth_jwt_leeway 0;",
        ],
    );
    let statuses = |typ: &str, change: Value| {
        let mut claims = json!({"aud": "us", "scope": "s", "iat": now() - 60, "exp": now() + 600});
        for (name, value) in change.as_object().expect("claims") {
            claims[name] = value.clone();
            if value.is_null() {
                claims.as_object_mut().expect("claims").remove(name);
            }
        }
        let header = format!(r#"{{"alg":"ES256","kid":"a"{typ}}}"#);
        let token = key.sign_text(&header, &claims.to_string());
        let statuses = (0..10).map(|place| status(&nginx, &format!("/{place}"), &token));
        statuses.map(|status| status.to_string()).collect::<Vec<_>>().join(" ")
    };
    let typ = r#","typ":"at+jwt""#;
    assert_eq!(statuses(typ, json!({})), "200 200 401 200 403 200 200 200 200 200");
    for typ in [r#","typ":"AT+JWT""#, r#","typ":"application/at+jwt""#] {
        assert_eq!(statuses(typ, json!({})), "200 200 401 200 403 200 200 200 200 200", "{typ}");
    }
    for typ in ["", r#","typ":"JWT""#, r#","typ":"x/at+jwt""#] {
        assert_eq!(statuses(typ, json!({})), "401 401 401 401 401 200 401 401 401 401", "{typ}");
    }
    let aud = json!({"aud": ["x", "others"]});
    assert_eq!(statuses(typ, aud), "401 200 200 401 401 401 401 401 401 401");
    for aud in [json!(["u", "s"]), json!("us2"), json!({"us": 1}), json!(1)] {
        let got = statuses(typ, json!({"aud": aud}));
        assert_eq!(got, "401 200 401 401 401 401 401 401 401 401", "{aud}");
    }
    for scope in [json!("t s2"), json!("S"), json!(null), json!(["s"])] {
        let expected = if scope == json!("t s2") { "200" } else { "403" };
        let got = statuses(typ, json!({"scope": scope}));
        let wanted = format!("403 403 401 200 {expected} 403 403 403 403 403");
        assert_eq!(got, wanted, "{scope}");
    }
    let old = json!({"iat": now() - 9000, "exp": now() + 60});
    assert_eq!(statuses(typ, old), "401 401 401 401 401 401 401 200 200 401");
    let endless = json!({"exp": null});
    assert_eq!(statuses(typ, endless), "401 401 401 401 401 401 401 401 200 401");
    let expired = json!({"exp": now() - 10});
    assert_eq!(statuses(typ, expired), "200 200 401 200 403 200 200 200 200 401");
}

/// rel 0.3: the limit, one more, ten times as much; of the default and of a directive.
#[test]
fn a_token_may_be_as_long_as_the_limit() {
    let key = SigningKey::generate("a");
    let short = key.token("me");
    let text = format!(
        "large_client_header_buffers 4 256k;
        server {{
            listen LISTEN; auth_jwt_key_file DIR/public/jwks.json; auth_jwt x;
            location = /default {{ alias DIR/public/jwks.json; }}
            location = /64k {{ auth_jwt_max_size 64k; alias DIR/public/jwks.json; }}
            location = /exact {{ auth_jwt_max_size {}; alias DIR/public/jwks.json; }}
            location = /less {{ auth_jwt_max_size {}; alias DIR/public/jwks.json; }}
        }}",
        short.len(),
        short.len() - 1
    );
    let nginx = NginxBuilder::bare(&text).jwks(&jwks(&[&key])).start();
    assert_eq!(["/exact", "/less"].map(|path| status(&nginx, path, &short)), [200, 401]);
    nginx.expect_log(&["[info]", "reason=too_large status=401"]);
    // base64url leaves some lengths out: the header helps.
    let of_length = |length: usize| {
        let tokens = (0..3).flat_map(|more| {
            let header = format!(r#"{{"alg":"ES256","kid":"a","x":"{}"}}"#, "x".repeat(more));
            // Two dots, 86 characters of signature, and the claims without their padding.
            let padding = (length - 88) * 3 / 4 - header.len() - 8;
            (padding - 3..padding + 3).map(move |padding| (header.clone(), padding))
        });
        let mut tokens = tokens.map(|(header, padding)| {
            key.sign_text(&header, &format!(r#"{{"p":"{}"}}"#, "x".repeat(padding)))
        });
        tokens.find(|token| token.len() == length).expect("a token of this length")
    };
    for (path, length, expected) in [
        ("/default", 16 * 1024, 200),
        ("/default", 16 * 1024 + 1, 401),
        ("/default", 160 * 1024, 401),
        ("/64k", 64 * 1024, 200),
        ("/64k", 64 * 1024 + 1, 401),
    ] {
        assert_eq!(status(&nginx, path, &of_length(length)), expected, "{path} {length}");
    }
    // Before anything is decoded, or looked for in a set of keys.
    assert_eq!(status(&nginx, "/default", &"x".repeat(16 * 1024 + 1)), 401);
    let count = nginx.error_log().matches("reason=too_large").count();
    eventually("a line for each", || {
        (nginx.error_log().matches("reason=too_large").count() == 5).then_some(())
    });
    assert!(count <= 5, "{count}");
}

/// The `[emerg]` line of `nginx -t` for `text` in `http {}`, which begins at line 2.
fn complaint(text: &str) -> String {
    let builder = NginxBuilder::bare(text)
        .jwks(&jwks(&[&SigningKey::generate("a")]))
        .file("array.json", "[]")
        .file("empty.json", "")
        .file("text.json", "{");
    let check = builder.check();
    assert!(!check.accepted, "{text} was accepted: {}", check.output);
    let line = check.output.lines().find(|line| line.contains("[emerg]"));
    line.unwrap_or_else(|| panic!("no [emerg] line: {}", check.output)).to_owned()
}

/// mod 5.6, issue "Bad input": what `rules.rs` and `directives.rs` do not have; each names file and line.
#[test]
fn mistakes_are_found_at_the_start() {
    for (directive, expected) in [
        ("auth_jwt_require $nobody_sets_it;", "unknown \"nobody_sets_it\" variable"),
        ("auth_jwt_require_claim a eq $nobody_sets_it;", "unknown \"nobody_sets_it\" variable"),
        ("auth_jwt_key_file $nobody_sets_it;", "unknown \"nobody_sets_it\" variable"),
        ("auth_jwt_key_request /$nobody_sets_it;", "unknown \"nobody_sets_it\" variable"),
        (
            "auth_jwt x token=$jwt_claim_sub;",
            "a variable that itself needs the token can't hold it",
        ),
        ("auth_jwt x token=$cookie_a,;", "token=$first,$second"),
        ("auth_jwt $http_x_token;", "it would be sent as the realm"),
        ("auth_jwt_require_claim a eq;", "invalid number of arguments"),
        ("auth_jwt_require_claim a eq b c;", "at most error=code are expected"),
        ("auth_jwt_require_claim a eq b error=399;", "invalid value \"399\" of"),
        ("auth_jwt_require_claim a eq b error=600;", "invalid value \"600\" of"),
        ("auth_jwt_require_header a eq b error=499;", "invalid value \"499\" of"),
        ("auth_jwt_require_header a eq b error=;", "error= takes a status from 400 to 599"),
        ("auth_jwt_require error=401 $uri;", "a variable is expected, such as $jwt_claim_sub"),
        (
            "auth_jwt_require_header a !!eq b;",
            "invalid value \"!!eq\" of \"auth_jwt_require_header\"",
        ),
        ("auth_jwt_require_claim \"\" eq b;", "invalid value \"\" of \"auth_jwt_require_claim\""),
        ("auth_jwt_require_claim '[01]' eq b;", "an index has no leading zeros"),
        ("auth_jwt_require_claim '.a[0' eq b;", "invalid value \".a[0\" of"),
        ("auth_jwt_require_claim '.\"a' eq b;", "the quote is not closed"),
        ("auth_jwt_require_claim '.a[*]' eq b;", "an index is a number"),
        (
            "auth_jwt_allow_nested delimiter=\\\";",
            "the quote must be another text than the delimiter",
        ),
        ("auth_jwt_allow_nested delimiter=;", "delimiter=TEXT, quote=TEXT or \"off\" is expected"),
        ("auth_jwt_key_file DIR/public/jwks.json key;", "\"jwks\", \"keyval\" or \"optional\""),
        ("auth_jwt_revocation_list_kid DIR/public/array.json;", "array.json\" can't be used"),
        ("auth_jwt_revocation_list_jti DIR/public/empty.json;", "empty.json\" can't be used"),
        ("auth_jwt_revocation_list_sub DIR/public/text.json;", "text.json\" can't be used"),
        ("auth_jwt_revocation_list_sub $uri;", "a path without variables is expected"),
        (
            "auth_jwt_type jwe;",
            "invalid value \"jwe\" of \"auth_jwt_type\": \"signed\" is expected",
        ),
        ("auth_jwt_type nested;", "encrypted tokens (JWE, RFC 7516) are not supported yet"),
        ("auth_jwt_max_size 0;", "invalid value \"0\" of \"auth_jwt_max_size\""),
        ("auth_jwt_cache off;", "\"auth_jwt_cache\" directive is not allowed here"),
        ("auth_jwt_header_set $a alg;", "\"auth_jwt_header_set\" directive is not allowed here"),
        ("if ($arg_x) { auth_jwt x; }", "\"auth_jwt\" directive is not allowed here"),
        ("auth_jwt_status;", "\"auth_jwt_status\" directive is not allowed here"),
        (
            "location / { limit_except GET { auth_jwt_phase access; } }",
            "\"auth_jwt_phase\" directive is not allowed here",
        ),
    ] {
        let line = complaint(&format!("server {{ listen LISTEN;\n{directive}\n}}"));
        assert!(line.contains(expected), "{directive}\n{line}");
        // What is no variable of nginx's is found when the whole of the configuration has been read.
        if !expected.starts_with("unknown") {
            assert!(line.contains("/http.conf:3"), "{directive}\n{line}");
        }
    }
}

/// nginx cuts long lines: the value must not take all of the room.
#[test]
fn a_long_value_does_not_hide_what_is_expected() {
    let rule = format!("auth_jwt_require_claim a match {};", "x".repeat(1025));
    let line = complaint(&format!("server {{ listen LISTEN;\n{rule}\n}}"));
    assert!(line.contains("a pattern of at most 1024 bytes is expected"), "{line}");
    assert!(line.contains("/http.conf:3"), "{line}");
}

/// What may stand once at a level is a duplicate the second time, and is not in another level.
#[test]
fn what_stands_once_is_a_duplicate_the_second_time() {
    let once = [
        "auth_jwt x;",
        "auth_jwt_phase access;",
        "auth_jwt_leeway 1s;",
        "auth_jwt_validate_exp on;",
        "auth_jwt_validate_nbf on;",
        "auth_jwt_validate_sig on;",
        "auth_jwt_require_exp on;",
        "auth_jwt_max_age 1s;",
        "auth_jwt_max_lifetime off;",
        "auth_jwt_max_size 1k;",
        "auth_jwt_alg any;",
        "auth_jwt_typ off;",
        "auth_jwt_audience a;",
        "auth_jwt_scope a;",
        "auth_jwt_require_inherit on;",
        "auth_jwt_allow_nested;",
        "auth_jwt_www_authenticate off;",
    ];
    for line in once {
        let name = line.split([' ', ';']).next().unwrap_or_default();
        let error = complaint(&format!("server {{ listen LISTEN;\n{line} {line}\n}}"));
        assert!(error.contains(&format!("\"{name}\" directive is duplicate")), "{line}\n{error}");
    }
    let all = once.concat();
    let text = format!("{all} server {{ listen LISTEN; {all} location / {{ {all} }} }}");
    let check = NginxBuilder::bare(&text).check();
    assert!(check.accepted, "{}", check.output);
}

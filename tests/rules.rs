//! What a token must say: `auth_jwt_require_claim` and its relatives, in one table, against a running nginx.

use serde_json::{Value, json};
use system_tests::{Nginx, NginxBuilder, SigningKey, jwks, now};

/// A server with one location for each of `rules`: `/0`, `/1` and so on.
fn start(key: &SigningKey, rules: &[&str]) -> Nginx {
    let locations: String = rules
        .iter()
        .enumerate()
        .map(|(place, rule)| {
            format!("location = /{place} {{ auth_jwt x; {rule} proxy_pass http://SERVICE; }}\n")
        })
        .collect();
    let text = format!(
        "server {{ listen LISTEN; auth_jwt_key_file DIR/public/jwks.json;\n\
         set $allowed '[\"admin\",\"ops\"]'; set $broken '['; set $empty '';\n{locations} }}"
    );
    NginxBuilder::bare(&text).jwks(&jwks(&[key])).start()
}

/// The claims of the table: `exp` is added.
fn claims() -> Value {
    json!({
        "sub": "alice", "role": "admin", "level": 7, "ratio": 1.5, "big": 9_007_199_254_740_993_i64,
        "whole": 7.0, "groups": ["ops", "dev"], "nothing": null, "on": true, "empty": [],
        "address": {"city": "Bern", "a.b": {"deep": [10, {"x": "y"}]}}, "odd name": 1, "a_b": "flat",
        "scope": "read write"
    })
}

/// Each rule, and whether the claims above satisfy it (mod 5.4).
const RULES: &[(&str, bool)] = &[
    ("sub eq alice", true),
    ("sub eq bob", false),
    ("sub !eq bob", true),
    ("sub ne bob", true),
    ("sub ne alice", false),
    ("sub !ne alice", true),
    ("level eq json=7", true),
    // A JSON string is not a number, and an integer is no real.
    ("level eq 7", false),
    ("level eq json=7.0", false),
    ("whole eq json=7.0", true),
    ("on eq json=true", true),
    ("nothing eq json=null", true),
    ("groups eq json=[\\\"ops\\\",\\\"dev\\\"]", true),
    ("groups eq json=[\\\"dev\\\",\\\"ops\\\"]", false),
    ("level gt json=6", true),
    ("level gt json=7", false),
    ("level ge json=7", true),
    ("level lt json=7.5", true),
    ("level le json=6.9", false),
    ("level !gt json=7", true),
    ("big gt json=9007199254740992", true),
    // Types that can't be compared fail, and no negation makes that a success.
    ("sub gt json=1", false),
    ("sub !gt json=1", false),
    ("level gt 6", false),
    ("level !gt 6", false),
    ("role in json=[\\\"admin\\\",\\\"ops\\\"]", true),
    ("role in json=[\\\"ops\\\"]", false),
    ("role nin json=[\\\"ops\\\"]", true),
    ("role in json={\\\"admin\\\":1}", true),
    ("role in $allowed", true),
    ("sub in $allowed", false),
    ("groups any json=[\\\"x\\\",\\\"ops\\\"]", true),
    ("groups intersect json=[\\\"x\\\"]", false),
    ("groups nintersect json=[\\\"x\\\"]", true),
    ("role any json=[\\\"admin\\\"]", true),
    ("groups any ops", false),
    ("sub match ^al", true),
    ("sub match ce$", true),
    ("sub !match ^bob", true),
    ("level match 7", false),
    ("sub match json=\\\"^a.*e$\\\"", true),
    // A claim that is not there fails, whatever the operator.
    ("absent eq x", false),
    ("absent !eq x", false),
    ("absent nin json=[]", false),
    // jq-like paths.
    (".sub eq alice", true),
    (".address.city eq Bern", true),
    (".groups[1] eq dev", true),
    (".address.\\\"a.b\\\".deep[1].x eq y", true),
    (".\\\"odd name\\\" eq json=1", true),
    (".groups[2] eq dev", false),
    // Without auth_jwt_allow_nested a dot is a part of the name.
    ("address.city eq Bern", false),
    // Values that turn out to be no JSON.
    ("role in $broken", false),
    ("role eq $empty", false),
];

#[test]
fn every_operator_decides_as_the_table_says() {
    let key = SigningKey::generate("a");
    let rules: Vec<String> =
        RULES.iter().map(|(rule, _)| format!("auth_jwt_require_claim {};", quoted(rule))).collect();
    let nginx = start(&key, &rules.iter().map(String::as_str).collect::<Vec<_>>());
    let mut claims = claims();
    claims["exp"] = json!(now() + 300);
    let token = key.sign(&claims);
    for (place, (rule, holds)) in RULES.iter().enumerate() {
        let status = nginx.get_with(&format!("/{place}"), &token).status;
        assert_eq!(status, if *holds { 200 } else { 401 }, "{rule}");
    }
}

/// The three arguments, each in quotes.
fn quoted(rule: &str) -> String {
    let mut parts = Vec::new();
    let (rest, value) = rule.rsplit_once(' ').expect("three parts");
    let (name, operator) = rest.rsplit_once(' ').expect("three parts");
    for part in [name, operator, value] {
        parts.push(format!("\"{part}\""));
    }
    parts.join(" ")
}

#[test]
fn the_header_is_judged_by_the_same_rules() {
    let key = SigningKey::generate("a");
    let nginx = start(
        &key,
        &[
            "auth_jwt_require_header kid eq a;",
            "auth_jwt_require_header kid eq b error=403;",
            "auth_jwt_require_header alg in \"json=[\\\"ES256\\\"]\";",
            "auth_jwt_require_header typ match JWT;",
            "auth_jwt_require_header cty eq x;",
        ],
    );
    let token = key.token("me");
    let statuses: Vec<u16> =
        (0..5).map(|place| nginx.get_with(&format!("/{place}"), &token).status).collect();
    assert_eq!(statuses, [200, 403, 200, 200, 401]);
}

#[test]
fn nested_names_are_read_as_the_location_says() {
    let key = SigningKey::generate("a");
    let nginx = start(
        &key,
        &[
            "auth_jwt_allow_nested; auth_jwt_require_claim address.city eq Bern; add_header X-Seen $jwt_claim_sub;",
            "auth_jwt_allow_nested; auth_jwt_require_claim 'address.\"a.b\".deep' eq 'json=[10,{\"x\":\"y\"}]';",
            "auth_jwt_allow_nested delimiter=_; auth_jwt_require $jwt_claim_address_city; add_header X-Seen $jwt_claim_address_city;",
            "auth_jwt_require $jwt_claim_a_b; add_header X-Seen $jwt_claim_a_b;",
            "auth_jwt_allow_nested delimiter=/; auth_jwt_require_claim address/city eq Bern;",
        ],
    );
    let mut claims = claims();
    claims["exp"] = json!(now() + 300);
    let token = key.sign(&claims);
    let seen = |place: usize| {
        let answer = nginx.get_with(&format!("/{place}"), &token);
        (answer.status, answer.header("x-seen").map(str::to_owned))
    };
    assert_eq!(seen(0), (200, Some("alice".into())));
    assert_eq!(seen(1).0, 200);
    assert_eq!(seen(2), (200, Some("Bern".into())));
    assert_eq!(seen(3), (200, Some("flat".into())));
    assert_eq!(seen(4).0, 200);
}

/// mod C18, 5.4: the first failing line decides, with its own code.
#[test]
fn lines_are_checked_in_order_each_with_its_own_answer() {
    let key = SigningKey::generate("a");
    let text = "
        auth_jwt_key_file DIR/public/jwks.json;
        map $jwt_claim_role $is_admin { admin 1; default 0; }
        server {
            listen LISTEN;
            auth_jwt_require $jwt_claim_sub error=402;
            location /admin { auth_jwt x; auth_jwt_require $is_admin $jwt_claim_team error=403; proxy_pass http://SERVICE; }
            location /own {
                auth_jwt x; auth_jwt_require_inherit on; auth_jwt_require $is_admin error=410; proxy_pass http://SERVICE;
            }
            location /none { auth_jwt x; auth_jwt_require_inherit off; proxy_pass http://SERVICE; }
            location /limited {
                auth_jwt x;
                limit_except GET { auth_jwt y; auth_jwt_require_claim role eq admin error=403; }
                proxy_pass http://SERVICE;
            }
        }";
    let nginx = NginxBuilder::bare(text).jwks(&jwks(&[&key])).start();
    let ask = |path: &str, claims: Value| {
        let mut claims = claims;
        claims["exp"] = json!(now() + 300);
        nginx.get_with(path, &key.sign(&claims))
    };
    let admin = json!({"sub": "a", "role": "admin", "team": "x"});
    assert_eq!(ask("/admin", admin.clone()).status, 200);
    assert_eq!(
        ask("/admin", json!({"role": "admin", "team": "x"})).status,
        402,
        "the parent's first"
    );
    assert_eq!(ask("/admin", json!({"sub": "a", "role": "admin", "team": "0"})).status, 403);
    let refused = ask("/admin", json!({"sub": "a", "role": "user", "team": "x"}));
    assert_eq!(refused.status, 403);
    assert_eq!(
        refused.header("www-authenticate"),
        Some("Bearer realm=\"x\", error=\"insufficient_scope\"")
    );
    assert_eq!(ask("/own", json!({"role": "admin"})).status, 200, "only its own");
    assert_eq!(ask("/own", json!({"role": "user"})).status, 410);
    assert_eq!(ask("/none", json!({})).status, 200);
    let token = key.sign(&json!({"sub": "a", "role": "user", "exp": now() + 300}));
    let bearer = format!("Bearer {token}");
    let url = nginx.url("/limited");
    let headers = [("authorization", bearer.as_str())];
    assert_eq!(system_tests::ask("GET", &url, &headers, None).status, 200);
    assert_eq!(system_tests::ask("POST", &url, &headers, Some("{}")).status, 403);
}

/// A pattern that explodes ends, and costs the request, not the worker.
#[test]
fn an_exploding_pattern_ends() {
    let key = SigningKey::generate("a");
    let nginx = start(&key, &["auth_jwt_require_claim sub match \"^(a+)+$\";"]);
    let token = key.sign(&json!({"sub": format!("{}b", "a".repeat(5000)), "exp": now() + 300}));
    assert_eq!(nginx.get_with("/0", &token).status, 401);
    nginx.expect_log(&["reason=claim", "regular expression took too long"]);
    let token = key.sign(&json!({"sub": "aaaa", "exp": now() + 300}));
    assert_eq!(nginx.get_with("/0", &token).status, 200);
}

#[test]
fn audience_scope_type_and_algorithm_are_checked() {
    let key = SigningKey::generate("a");
    let nginx = start(
        &key,
        &[
            "auth_jwt_audience us them;",
            "auth_jwt_scope read write;",
            "auth_jwt_scope read delete;",
            "auth_jwt_typ JWT;",
            "auth_jwt_typ at+jwt;",
            "auth_jwt_alg RS256 ES256;",
            "auth_jwt_alg RS256;",
            "auth_jwt_max_age 1m;",
            "auth_jwt_max_lifetime 10m;",
            "auth_jwt_max_lifetime 1m;",
        ],
    );
    let ask = |place: usize, claims: Value| {
        let mut claims = claims;
        claims["exp"] = json!(now() + 300);
        nginx.get_with(&format!("/{place}"), &key.sign(&claims))
    };
    assert_eq!(ask(0, json!({"aud": "us"})).status, 200);
    assert_eq!(ask(0, json!({"aud": ["x", "them"]})).status, 200);
    assert_eq!(ask(0, json!({"aud": "x"})).status, 401);
    assert_eq!(ask(0, json!({})).status, 401);
    assert_eq!(ask(1, json!({"scope": "write read more"})).status, 200);
    assert_eq!(ask(1, json!({"scp": ["read", "write"]})).status, 200);
    let refused = ask(2, json!({"scope": "read write"}));
    assert_eq!(refused.status, 403);
    // RFC 6750 §3: what would have sufficed.
    assert_eq!(
        refused.header("www-authenticate"),
        Some("Bearer realm=\"x\", error=\"insufficient_scope\", scope=\"read delete\"")
    );
    let statuses: Vec<u16> = (3..7).map(|place| ask(place, json!({})).status).collect();
    assert_eq!(statuses, [200, 401, 200, 401]);
    assert_eq!(ask(7, json!({"iat": now() - 10})).status, 200);
    assert_eq!(ask(7, json!({"iat": now() - 100})).status, 401);
    assert_eq!(ask(7, json!({})).status, 401, "without iat its age can't be told");
    assert_eq!(ask(8, json!({"iat": now()})).status, 200);
    assert_eq!(ask(9, json!({"iat": now()})).status, 401);
    for reason in ["aud", "typ", "alg", "expired", "claim"] {
        nginx.expect_log(&[&format!("reason={reason} ")]);
    }
}

/// The checks that can be turned off, and what that says at the start.
#[test]
fn checks_can_be_turned_off_one_by_one() {
    let (key, stranger) = (SigningKey::generate("a"), SigningKey::generate("b"));
    let rules = [
        "auth_jwt_validate_exp off;",
        "auth_jwt_validate_nbf off;",
        "auth_jwt_validate_sig off;",
        "auth_jwt_require_exp on;",
        "auth_jwt_leeway 60s;",
        "",
    ];
    let nginx = start(&key, &rules);
    let statuses = |token: &str| -> Vec<u16> {
        (0..rules.len()).map(|place| nginx.get_with(&format!("/{place}"), token).status).collect()
    };
    let expired = key.sign(&json!({"exp": now() - 30}));
    assert_eq!(statuses(&expired), [200, 401, 401, 401, 200, 401]);
    let early = key.sign(&json!({"exp": now() + 300, "nbf": now() + 30}));
    assert_eq!(statuses(&early), [401, 200, 401, 401, 200, 401]);
    let endless = key.sign(&json!({"sub": "x"}));
    assert_eq!(statuses(&endless), [200, 200, 200, 401, 200, 200]);
    let forged = stranger.token("me");
    assert_eq!(statuses(&forged), [401, 401, 200, 401, 401, 401]);
    let check = NginxBuilder::bare(
        "auth_jwt_validate_sig off; auth_jwt_validate_exp off; auth_jwt_validate_nbf off; auth_jwt_dry_run on;",
    )
    .check();
    assert!(check.accepted, "{}", check.output);
    for directive in ["validate_sig off", "validate_exp off", "validate_nbf off", "dry_run on"] {
        let warned = check.output.lines().any(|line| {
            line.contains("[warn]") && line.contains(&format!("\"auth_jwt_{directive}\""))
        });
        assert!(warned, "{directive}: {}", check.output);
    }
}

/// mod 5.6 and issue "Bad input": the file, the line, the value and the form that is expected.
#[test]
fn mistakes_are_named() {
    let cases = [
        (
            "auth_jwt_require sub;",
            "invalid value \"sub\" of \"auth_jwt_require\": a variable is expected",
        ),
        ("auth_jwt_require error=403;", "a variable is expected before error="),
        (
            "auth_jwt_require $uri error=444;",
            "invalid value \"444\" of \"auth_jwt_require\": error= takes a status",
        ),
        ("auth_jwt_require $uri error=200;", "error= takes a status from 400 to 599"),
        (
            "auth_jwt_require_claim a like b;",
            "invalid value \"like\" of \"auth_jwt_require_claim\": one of the operators",
        ),
        ("auth_jwt_require_claim a eq \"json={\";", "JSON is expected after json="),
        ("auth_jwt_require_claim .a. eq b;", "invalid value \".a.\" of \"auth_jwt_require_claim\""),
        ("auth_jwt_require_claim a match (;", "a regular expression is expected"),
        ("auth_jwt_require_claim a match json=1;", "match needs a string"),
        ("auth_jwt_require_claim a eq \"\";", "it must not be empty"),
        ("auth_jwt_alg RS257;", "invalid value \"RS257\" of \"auth_jwt_alg\": one of HS256 "),
        ("auth_jwt_alg none;", "invalid value \"none\" of \"auth_jwt_alg\""),
        ("auth_jwt_type encrypted;", "encrypted tokens (JWE, RFC 7516) are not supported yet"),
        ("auth_jwt_max_age soon;", "a time in whole seconds is expected, such as 1h, or \"off\""),
        ("auth_jwt_max_size 1m;", "a size up to 64k is expected"),
        ("auth_jwt_scope \"a b\";", "scopes without spaces are expected"),
        ("auth_jwt_allow_nested separator=x;", "delimiter=TEXT, quote=TEXT or \"off\" is expected"),
        ("auth_jwt_phase content;", "\"access\" or \"preaccess\" is expected"),
        ("auth_jwt_key_error 404;", "503, 500 or 401 is expected"),
        ("auth_jwt_key_inherit yes;", "\"on\", \"off\" or \"merge\" is expected"),
        ("auth_jwt_key_request http://keys.example/;", "a URI of this server is expected"),
        ("auth_jwt_issuer me;", "invalid number of arguments in \"auth_jwt_issuer\""),
        ("auth_jwt_issuer me alg=ES256;", "an issuer needs either key_file= or key_request="),
        ("auth_jwt_replay zone=one;", "the first use of a zone needs its size"),
        ("auth_jwt_replay zone=one:1k;", "zone=NAME:SIZE of at least 1m"),
        ("auth_jwt_claim_header Host sub;", "a header that nginx itself does not read is expected"),
        ("auth_jwt_claim_header \"X User\" sub;", "a header name is expected"),
        ("auth_jwt_set_cookie at samesite=none secure=off;", "SameSite=None only with Secure"),
        (
            "auth_jwt_revocation_list_sub DIR/public/none.json;",
            "none.json\" can't be used: No such file",
        ),
        (
            "auth_jwt_revocation_list_sub DIR/public/jwks.json; auth_jwt_revocation_file DIR/public/jwks.json;",
            "\"auth_jwt_revocation_file\"",
        ),
    ];
    let key = SigningKey::generate("a");
    for (directive, expected) in cases {
        let text = format!("server {{ listen LISTEN;\n{directive}\n}}");
        let check = NginxBuilder::bare(&text).jwks(&jwks(&[&key])).check();
        assert!(!check.accepted, "{directive} was accepted: {}", check.output);
        let line = check.output.lines().find(|line| line.contains("[emerg]")).unwrap_or_default();
        assert!(line.contains(expected), "{directive}\n{line}");
        assert!(line.contains("/http.conf:3"), "{directive}\n{line}");
    }
    for (text, expected) in [
        (
            "server { auth_jwt_claim_set $a sub; }",
            "\"auth_jwt_claim_set\" directive is not allowed here",
        ),
        ("auth_jwt_claim_set sub sub;", "a variable is expected, such as $name"),
        (
            "auth_jwt_leeway 1s; auth_jwt_compat kjdev;",
            "\"auth_jwt_compat\" directive must be first",
        ),
        ("auth_jwt_compat teslagov;", "\"plus\" or \"kjdev\" is expected"),
        ("auth_jwt_cache 8m;", "size=SIZE of at least 64k is expected"),
        ("auth_jwt_cache off; auth_jwt_cache off;", "\"auth_jwt_cache\" directive is duplicate"),
        (
            "auth_jwt_key_file DIR/public/jwks.json; auth_jwt_issuer a key_file=DIR/public/jwks.json;",
            "can't stand at the same level",
        ),
    ] {
        let check = NginxBuilder::bare(text).jwks(&jwks(&[&key])).check();
        assert!(!check.accepted, "{text} was accepted: {}", check.output);
        assert!(check.output.contains(expected), "{text}\n{}", check.output);
    }
}

//! `auth_jwt_issuer`: a token is verified with the keys of the issuer that it names, and with no others.

use serde_json::{Value, json};
use system_tests::{Nginx, NginxBuilder, SigningKey, eventually, jwks, now};

/// Two issuers whose keys have the same kid: only the binding tells them apart.
struct Pair {
    a: SigningKey,
    b: SigningKey,
}

const A: &str = "https://a.example";
const B: &str = "https://b.example";

impl Pair {
    fn generate() -> Self {
        Self { a: SigningKey::generate("k"), b: SigningKey::generate("k") }
    }

    /// A server with this text, and both key sets as DIR/public/a.json and b.json.
    fn builder(&self, server: &str) -> NginxBuilder {
        NginxBuilder::bare(&format!("server {{ listen LISTEN;\n{server}\n}}"))
            .file("a.json", &jwks(&[&self.a]))
            .file("b.json", &jwks(&[&self.b]))
    }

    fn start(&self, server: &str) -> Nginx {
        self.builder(server).start()
    }
}

fn token(key: &SigningKey, claims: &Value) -> String {
    let mut claims = claims.clone();
    claims["exp"] = json!(now() + 300);
    key.sign(&claims)
}

fn from(key: &SigningKey, iss: &str) -> String {
    token(key, &json!({"iss": iss}))
}

/// A server at whose levels the two issuers stand.
const BOTH: &str = "
    auth_jwt_issuer https://a.example key_file=DIR/public/a.json;
    auth_jwt_issuer https://b.example key_file=DIR/public/b.json;
    location / { auth_jwt x; add_header X-Iss \"$jwt_claim_iss\" always; proxy_pass http://SERVICE; }";

/// Issue part 2: each issuer with its own keys alone, and nobody without an issuer.
#[test]
fn a_token_is_verified_with_its_issuers_keys_alone() {
    let pair = Pair::generate();
    let nginx = pair.start(BOTH);
    // More than once: what one request has put into the cache must not change the next.
    for _ in 0..3 {
        for (key, iss, status) in [
            (&pair.a, A, 200),
            (&pair.b, B, 200),
            (&pair.a, B, 401),
            (&pair.b, A, 401),
            (&pair.a, "https://c.example", 401),
            (&pair.a, "", 401),
            // rel:T6: names are compared byte by byte.
            (&pair.a, "https://A.example", 401),
            (&pair.a, "https://a.example/", 401),
            (&pair.a, " https://a.example", 401),
            (&pair.a, "https://a.example\0", 401),
        ] {
            let answer = nginx.get_with("/", &from(key, iss));
            assert_eq!(answer.status, status, "{iss:?}");
            let shown = (status == 200).then_some(iss);
            assert_eq!(answer.header("x-iss"), shown, "a claim of a refused token is nowhere");
        }
    }
    nginx.expect_log(&["jwt: denied reason=iss status=401"]);
    nginx.expect_log(&["jwt: denied reason=sig status=401"]);
}

/// rel:T5, T7: an `iss` that is missing or no string belongs to no issuer.
#[test]
fn an_issuer_that_is_missing_or_no_text_is_none() {
    let pair = Pair::generate();
    let nginx = pair.start(BOTH);
    for iss in [json!(null), json!([A]), json!({"iss": A}), json!(1), json!(true), json!([A, B])] {
        let answer = nginx.get_with("/", &token(&pair.a, &json!({"iss": iss})));
        assert_eq!(answer.status, 401, "{iss}");
    }
    let answer = nginx.get_with("/", &token(&pair.a, &json!({"issuer": A, "sub": A})));
    assert_eq!(answer.status, 401);
    let challenge = answer.header("www-authenticate");
    assert_eq!(challenge, Some("Bearer realm=\"x\", error=\"invalid_token\""), "no reason in it");
    assert_eq!(nginx.get_with("/", "garbage").status, 401);
    assert_eq!(nginx.get("/").header("www-authenticate"), Some("Bearer realm=\"x\""));
}

/// mod 4.3 with issuers: neither without a kid nor by an unknown one does a token reach another issuer's keys.
#[test]
fn no_kid_opens_the_other_issuers_keys() {
    let pair = Pair::generate();
    let mut without_kid = pair.b.jwk();
    without_kid.as_object_mut().expect("an object").remove("kid");
    let nginx = pair.builder(BOTH).file("b.json", &json!({"keys": [without_kid]}).to_string());
    let nginx = nginx.start();
    let claims = |iss: &str| json!({"iss": iss, "exp": now() + 300});
    for kid in [None, Some("k"), Some("other"), Some("")] {
        let of_b = pair.b.sign_as(kid, &claims(B));
        assert_eq!(nginx.get_with("/", &of_b).status, 200, "{kid:?}: b's key has no kid");
        let forged = pair.b.sign_as(kid, &claims(A));
        assert_eq!(nginx.get_with("/", &forged).status, 401, "{kid:?}: b's key for a");
        let forged = pair.a.sign_as(kid, &claims(B));
        assert_eq!(nginx.get_with("/", &forged).status, 401, "{kid:?}: a's key for b");
    }
    assert_eq!(nginx.get_with("/", &pair.a.sign_as(None, &claims(A))).status, 200);
}

/// Issue part 2: audiences and algorithms are each issuer's own, and take the place of the level's.
#[test]
fn audiences_and_algorithms_are_the_issuers_own() {
    let pair = Pair::generate();
    let nginx = pair.start(
        "auth_jwt_audience everyone;
         auth_jwt_issuer https://a.example key_file=DIR/public/a.json audience=us,them alg=ES256,RS256;
         auth_jwt_issuer https://b.example key_file=DIR/public/b.json;
         auth_jwt_issuer https://c.example key_file=DIR/public/b.json alg=RS256,EdDSA audience=us;
         location / { auth_jwt x; proxy_pass http://SERVICE; }",
    );
    let ask = |key: &SigningKey, iss: &str, aud: Value| {
        nginx.get_with("/", &token(key, &json!({"iss": iss, "aud": aud}))).status
    };
    for (aud, of_a, of_b) in [
        (json!("us"), 200, 401),
        (json!("them"), 200, 401),
        (json!(["x", "them"]), 200, 401),
        (json!("everyone"), 401, 200),
        (json!(["everyone", "us"]), 200, 200),
        (json!("us,them"), 401, 401),
        (json!([]), 401, 401),
        (json!(null), 401, 401),
    ] {
        for _ in 0..2 {
            assert_eq!(ask(&pair.a, A, aud.clone()), of_a, "a: {aud}");
            assert_eq!(ask(&pair.b, B, aud.clone()), of_b, "b: {aud}");
        }
    }
    assert_eq!(ask(&pair.b, "https://c.example", json!("us")), 401, "not its algorithm");
    nginx.expect_log(&["reason=aud status=401"]);
    nginx.expect_log(&["reason=alg status=401"]);
}

/// mod C4, 5.0: issuers are inherited as keys are.
#[test]
fn issuers_are_inherited_as_keys_are() {
    let pair = Pair::generate();
    let c = SigningKey::generate("k");
    let nginx = pair
        .builder(
            "auth_jwt x;
             auth_jwt_issuer https://a.example key_file=DIR/public/a.json;
             location /inherits { proxy_pass http://SERVICE; }
             location /own { auth_jwt_issuer https://b.example key_file=DIR/public/b.json; proxy_pass http://SERVICE; }
             location /merged { auth_jwt_key_inherit merge; auth_jwt_issuer https://b.example key_file=DIR/public/b.json;
                 proxy_pass http://SERVICE; }
             location /nearer { auth_jwt_key_inherit merge; auth_jwt_issuer https://a.example key_file=DIR/public/c.json;
                 proxy_pass http://SERVICE; }
             location /off { auth_jwt_key_inherit off; proxy_pass http://SERVICE; }
             location /keys { auth_jwt_key_file DIR/public/c.json; proxy_pass http://SERVICE; }
             location /deep {
                 auth_jwt_issuer https://b.example key_file=DIR/public/b.json;
                 location /deep/er { proxy_pass http://SERVICE; }
             }
             location /except {
                 limit_except GET { auth_jwt_issuer https://b.example key_file=DIR/public/b.json; }
                 proxy_pass http://SERVICE;
             }",
        )
        .file("c.json", &jwks(&[&c]))
        .start();
    let statuses = |path: &str| {
        [(&pair.a, A), (&pair.b, B), (&c, A), (&c, "https://c.example")]
            .map(|(key, iss)| nginx.get_with(path, &from(key, iss)).status)
    };
    assert_eq!(statuses("/inherits"), [200, 401, 401, 401]);
    assert_eq!(statuses("/own"), [401, 200, 401, 401]);
    assert_eq!(statuses("/merged"), [200, 200, 401, 401]);
    assert_eq!(statuses("/nearer"), [401, 401, 200, 401], "the nearer line of one issuer holds");
    assert_eq!(statuses("/off"), [401; 4]);
    assert_eq!(statuses("/keys"), [401, 401, 200, 200], "keys that are bound to no issuer");
    assert_eq!(statuses("/deep/er"), [401, 200, 401, 401]);
    assert_eq!(statuses("/except"), [200, 401, 401, 401]);
    let deletes = |key: &SigningKey, iss: &str| {
        let bearer = format!("Bearer {}", from(key, iss));
        system_tests::ask("DELETE", &nginx.url("/except"), &[("authorization", &bearer)], None)
            .status
    };
    assert_eq!((deletes(&pair.a, A), deletes(&pair.b, B)), (401, 200));
}

/// Where signatures are not checked, each issuer's other rules are those for its own tokens.
#[test]
fn without_signatures_the_issuers_rules_hold() {
    let pair = Pair::generate();
    let nginx = pair
        .builder(
            "auth_jwt x; auth_jwt_validate_sig off;
             auth_jwt_issuer https://a.example key_file=DIR/public/a.json audience=for-a;
             auth_jwt_issuer https://b.example key_file=DIR/public/b.json audience=for-b;
             location / { proxy_pass http://SERVICE; }",
        )
        .start();
    let nobody = SigningKey::generate("k");
    for (iss, aud, status) in [
        (A, "for-a", 200),
        (A, "for-b", 401),
        (B, "for-a", 401),
        (B, "for-b", 200),
        ("https://c.example", "for-a", 401),
    ] {
        let token = system_tests::sign(&nobody, json!({"iss": iss, "aud": aud}));
        assert_eq!(nginx.get_with("/", &token).status, status, "{iss} {aud}");
    }
}

/// What contradicts itself is refused at start, with the place.
#[test]
fn mistakes_are_refused_at_start() {
    let pair = Pair::generate();
    let file = "auth_jwt_key_file DIR/public/a.json;";
    let issuer = "auth_jwt_issuer https://a.example key_file=DIR/public/a.json;";
    for (text, expected) in [
        (format!("{file} {issuer}"), "can't stand at the same level"),
        (format!("{issuer} {file}"), "can't stand at the same level"),
        (format!("{issuer} auth_jwt_key_request /keys;"), "can't stand at the same level"),
        (format!("{issuer} {issuer}"), "each issuer may stand once at a level"),
        (
            "auth_jwt_issuer a key_file=DIR/public/a.json key_request=/keys;".into(),
            "either key_file= or key_request=",
        ),
        ("auth_jwt_issuer a key_file=DIR/public/none.json;".into(), "none.json\" can't be used"),
        ("auth_jwt_issuer a key_file=;".into(), "the path of a JWK Set file is expected"),
        ("auth_jwt_issuer a key_request=keys;".into(), "a URI of this server is expected"),
        (
            "auth_jwt_issuer a key_file=DIR/public/a.json alg=HS257;".into(),
            "invalid value \"HS257\"",
        ),
        ("auth_jwt_issuer a key_file=DIR/public/a.json alg=none;".into(), "invalid value \"none\""),
        ("auth_jwt_issuer a key_file=DIR/public/a.json alg=;".into(), "a list without empty parts"),
        (
            "auth_jwt_issuer a key_file=DIR/public/a.json audience=b,,c;".into(),
            "a list without empty parts",
        ),
        ("auth_jwt_issuer a key_file=DIR/public/a.json format=pem;".into(), "\"format=pem\""),
        ("auth_jwt_issuer a key_file=DIR/public/a.json key=b;".into(), "\"key=b\""),
    ] {
        let check = pair.builder(&text).check();
        assert!(!check.accepted, "{text} was accepted");
        let line = check.output.lines().find(|line| line.contains("[emerg]")).unwrap_or_default();
        assert!(line.contains(expected), "{text}\n{line}");
        assert!(line.contains("/http.conf:3"), "{text}\n{line}");
    }
    // Nor by way of inheritance: the one or the other would be without effect.
    for (above, below) in [(file, issuer), (issuer, file)] {
        let text = format!("{above} location / {{ auth_jwt_key_inherit merge; {below} }}");
        let check = pair.builder(&text).check();
        assert!(!check.accepted, "{text} was accepted");
        let said = check
            .output
            .lines()
            .any(|line| line.contains("[emerg]") && line.contains("can't stand at the same level"));
        assert!(said, "{}", check.output);
    }
    // At two levels they may stand; the nearer one holds.
    let text = format!(
        "{file} location / {{ {issuer} }} location /b {{ auth_jwt_key_inherit off; {issuer} }}"
    );
    let check = pair.builder(&text).check();
    assert!(check.accepted, "{}", check.output);
}

/// rel:K4: an issuer without keys is our fault, and no other issuer's.
#[test]
fn an_issuer_without_keys_harms_no_other() {
    let pair = Pair::generate();
    let nginx = pair.start(
        "auth_jwt_issuer https://a.example key_file=DIR/public/a.json;
         auth_jwt_issuer https://b.example key_file=DIR/public/later.json optional;
         location / { auth_jwt x; proxy_pass http://SERVICE; }
         location /401 { auth_jwt x; auth_jwt_key_error 401; proxy_pass http://SERVICE; }",
    );
    assert_eq!(nginx.get_with("/", &from(&pair.a, A)).status, 200);
    let answer = nginx.get_with("/", &from(&pair.b, B));
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")));
    assert_eq!(nginx.get_with("/401", &from(&pair.b, B)).status, 401);
    assert_eq!(nginx.get_with("/", &from(&pair.b, "https://c.example")).status, 401);
    // A bad version of one file: its unknown kids are our fault, those of the other are the client's.
    nginx.scratch().replace("public/later.json", jwks(&[&pair.b]).as_bytes());
    eventually("b's keys are there", || {
        (0..6).all(|_| nginx.get_with("/", &from(&pair.b, B)).status == 200).then_some(())
    });
    nginx.scratch().replace("public/later.json", b"broken");
    let new = SigningKey::generate("new");
    eventually("every worker has met the bad version", || {
        (0..6).all(|_| nginx.get_with("/", &from(&new, B)).status == 503).then_some(())
    });
    assert_eq!(nginx.get_with("/", &from(&new, A)).status, 401);
    assert_eq!(nginx.get_with("/", &from(&pair.b, B)).status, 200, "the last good keys");
    nginx.reload();
    for _ in 0..6 {
        assert_eq!(nginx.get_with("/", &from(&pair.b, B)).status, 200, "also after a reload");
        assert_eq!(nginx.get_with("/", &from(&pair.a, A)).status, 200);
    }
}

/// rel:T11, design 5: cached verifications end with the keys of their issuer, and with no other's.
#[test]
fn cached_tokens_end_with_their_issuers_keys() {
    let pair = Pair::generate();
    let nginx = pair
        .builder(
            "auth_jwt_issuer https://a.example key_file=DIR/public/a.json;
             auth_jwt_issuer https://b.example key_file=DIR/public/b.json;
             location / { auth_jwt x; add_header X-Cache \"$auth_jwt_cache\" always; proxy_pass http://SERVICE; }
             location /audience { auth_jwt x; auth_jwt_audience us; proxy_pass http://SERVICE; }
             location /swapped { auth_jwt x; add_header X-Cache \"$auth_jwt_cache\" always;
                 auth_jwt_issuer https://b.example key_file=DIR/public/a.json;
                 auth_jwt_issuer https://a.example key_file=DIR/public/b.json;
                 proxy_pass http://SERVICE; }",
        )
        .main_level("master_process off;")
        .start();
    let seen = |path: &str, token: &str| {
        let answer = nginx.get_with(path, token);
        (answer.status, answer.header("x-cache").map(str::to_owned))
    };
    let (hit, miss) = ((200, Some("hit".to_owned())), (200, Some("miss".to_owned())));
    let (of_a, of_b) = (from(&pair.a, A), from(&pair.b, B));
    for token in [&of_a, &of_b] {
        assert_eq!(seen("/", token), miss);
        assert_eq!(seen("/", token), hit);
        // Other rules hold for a cached token as well, and other issuers mean other keys.
        assert_eq!(seen("/audience", token).0, 401);
        assert_eq!(seen("/swapped", token).0, 401);
        assert_eq!(seen("/swapped", token).0, 401);
        assert_eq!(seen("/", token), hit, "a refusal elsewhere takes nothing from it");
    }
    let crossed = from(&pair.b, A);
    assert_eq!(seen("/swapped", &crossed), miss);
    assert_eq!(seen("/swapped", &crossed), hit);
    assert_eq!(seen("/", &crossed).0, 401);

    let new = SigningKey::generate("k");
    nginx.scratch().replace("public/a.json", jwks(&[&new]).as_bytes());
    eventually("a's new key", || (seen("/", &from(&new, A)).0 == 200).then_some(()));
    assert_eq!(seen("/", &of_a).0, 401, "verified by a key that is gone");
    assert_eq!(seen("/", &of_b), hit, "b's keys are as they were");
    // The key comes back; what was verified before it went is verified again.
    nginx.scratch().replace("public/a.json", jwks(&[&pair.a]).as_bytes());
    eventually("a's old key is back", || (seen("/", &of_a).0 == 200).then_some(()));
    assert_eq!(seen("/", &from(&new, A)).0, 401);
}

/// Issuers with keys of every kind of source: PEM, a request, and a path that names the tenant.
#[test]
fn an_issuers_keys_come_from_any_source() {
    let pair = Pair::generate();
    let c = SigningKey::generate("k");
    let nginx = pair
        .builder(
            "location = /_keys { internal; root DIR/public; try_files /b.json =404; }
             auth_jwt_issuer https://a.example key_file=DIR/public/a.pem.json format=keyval;
             auth_jwt_issuer https://b.example key_request=/_keys alg=ES256;
             auth_jwt_issuer https://c.example key_file=DIR/public/$jwt_claim_tenant.json audience=us;
             location / { auth_jwt x; add_header X-Cache \"$auth_jwt_cache\" always; proxy_pass http://SERVICE; }",
        )
        .file("a.pem.json", &json!({"k": pair.a.pem()}).to_string())
        .file("c.json", &jwks(&[&c]))
        .start();
    let tenant = |key: &SigningKey, tenant: &str| {
        let claims = json!({"iss": "https://c.example", "tenant": tenant, "aud": "us"});
        nginx.get_with("/", &token(key, &claims)).status
    };
    for _ in 0..4 {
        assert_eq!(nginx.get_with("/", &from(&pair.a, A)).status, 200);
        assert_eq!(nginx.get_with("/", &from(&pair.b, B)).status, 200);
        assert_eq!(nginx.get_with("/", &from(&pair.a, B)).status, 401);
        assert_eq!(nginx.get_with("/", &from(&pair.b, A)).status, 401);
        assert_eq!(tenant(&c, "c"), 200);
        assert_eq!(tenant(&pair.a, "c"), 401);
        assert_eq!(tenant(&c, "a"), 401, "the tenant's keys alone");
        assert_eq!(tenant(&c, "nobody"), 503, "no keys for that tenant");
    }
    let claims = json!({"iss": "https://c.example", "tenant": "c", "aud": "them"});
    assert_eq!(nginx.get_with("/", &token(&c, &claims)).status, 401);
    // What is fetched and what is read on demand is cached by its keys.
    let of_b = from(&pair.b, B);
    eventually("a hit", || {
        (nginx.get_with("/", &of_b).header("x-cache") == Some("hit")).then_some(())
    });
}

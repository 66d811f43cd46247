//! `auth_jwt_key_file` and what goes with it: which key verifies which token, which level's keys hold, what happens
//! when files change, and what is refused at start.

use std::fs;
use std::process::Command;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use system_tests::{Nginx, NginxBuilder, SigningKey, ask, eventually, jwks, now, pem};

fn builder(text: &str) -> NginxBuilder {
    NginxBuilder::bare(&format!("server {{ listen LISTEN;\n{text}\n}}"))
}

fn claims() -> Value {
    json!({"sub": "me", "exp": now() + 300})
}

/// The key under another `kid`, or without one.
fn renamed(key: &SigningKey, kid: Option<&str>) -> Value {
    let mut jwk = key.jwk();
    let members = jwk.as_object_mut().expect("an object");
    match kid {
        Some(kid) => members.insert("kid".to_owned(), json!(kid)),
        None => members.remove("kid"),
    };
    jwk
}

fn set(keys: &[Value]) -> String {
    json!({"keys": keys}).to_string()
}

/// mod 4.3: the whole table of the choice of keys, over two files.
#[test]
fn the_kid_chooses_the_keys_that_are_tried() {
    let key = || SigningKey::generate("-");
    let (named, other, bare, strange) = (key(), key(), key(), key());
    let (second, second_bare) = (key(), key());
    let nginx = builder(
        "auth_jwt_key_file DIR/public/one.json;
         location / { auth_jwt x; proxy_pass http://SERVICE; }
         location /both { auth_jwt x; auth_jwt_key_file DIR/public/one.json; auth_jwt_key_file DIR/public/two.json;
             proxy_pass http://SERVICE; }",
    )
    .file(
        "one.json",
        &set(&[renamed(&named, Some("k")), renamed(&other, Some("o")), renamed(&bare, None)]),
    )
    .file("two.json", &set(&[renamed(&second, Some("k")), renamed(&second_bare, None)]))
    .start();
    let (yes, no) = (200, 401);
    for (key, kid, alone, both, why) in [
        (&named, Some("k"), yes, yes, "the key of that kid"),
        (&other, Some("o"), yes, yes, "the key of that kid"),
        (&other, Some("k"), no, no, "the key of another kid"),
        (&named, Some("K"), no, no, "a kid is compared byte by byte"),
        (&second, Some("k"), no, yes, "the second key of that kid"),
        (&bare, Some("k"), no, no, "its file has the kid, and says which key it is"),
        (&second_bare, Some("o"), no, yes, "its file has no such kid"),
        (&second_bare, Some("k"), no, no, "its file has the kid"),
        (&bare, Some("unknown"), yes, yes, "only keys without a kid come into question"),
        (&second_bare, Some("unknown"), no, yes, "only keys without a kid come into question"),
        (&named, Some("unknown"), no, no, "only keys without a kid come into question"),
        (&named, None, yes, yes, "without a kid every key comes into question"),
        (&other, None, yes, yes, "without a kid every key comes into question"),
        (&bare, None, yes, yes, "without a kid every key comes into question"),
        (&second, None, no, yes, "without a kid every key comes into question"),
        (&strange, None, no, no, "a key of nobody's"),
        (&strange, Some("k"), no, no, "a key of nobody's"),
        (&strange, Some("unknown"), no, no, "a key of nobody's"),
    ] {
        // Twice: by the key, and by what the first time has left in the cache.
        for _ in 0..2 {
            let token = key.sign_as(kid, &claims());
            assert_eq!(nginx.get_with("/", &token).status, alone, "{kid:?}: {why}");
            assert_eq!(nginx.get_with("/both", &token).status, both, "both, {kid:?}: {why}");
        }
    }
    nginx.expect_log(&["[info]", "reason=sig status=401 kid=\"k\" keyset=one,two gen=1,1"]);
}

/// An empty kid is a name like any other, as the shared vectors have it: no key has it here, so that only keys
/// without a kid are tried.
#[test]
fn an_empty_kid_is_a_name_that_no_key_has() {
    let (named, bare) = (SigningKey::generate("k"), SigningKey::generate("-"));
    let nginx = builder(
        "auth_jwt_key_file DIR/public/keys.json;
         location / { auth_jwt x; proxy_pass http://SERVICE; }",
    )
    .file("keys.json", &set(&[named.jwk(), renamed(&bare, None)]))
    .start();
    for (key, kid, status) in
        [(&named, None, 200), (&bare, None, 200), (&named, Some(""), 401), (&bare, Some(""), 200)]
    {
        let token = key.sign_as(kid, &claims());
        assert_eq!(nginx.get_with("/", &token).status, status, "{key:?} {kid:?}");
    }
}

/// rel:0.3, mod 4.3: a token costs at most 8 checks with a shared kid, and 16 without one; other types don't count.
#[test]
fn the_number_of_tries_is_bounded() {
    let keys: Vec<SigningKey> = (0..18).map(|_| SigningKey::generate("same")).collect();
    let jwks_of = |kid: Option<&str>, count: usize| {
        // Keys that can't have signed the token come first.
        let secret = json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode([7; 32]), "kid": kid});
        let mut all = vec![secret; 20];
        for jwk in &mut all {
            if kid.is_none() {
                jwk.as_object_mut().expect("an object").remove("kid");
            }
        }
        all.extend(keys.iter().take(count).map(|key| renamed(key, kid)));
        set(&all)
    };
    let nginx = builder(
        "location /shared { auth_jwt x; auth_jwt_key_file DIR/public/shared.json; proxy_pass http://SERVICE; }
         location /bare { auth_jwt x; auth_jwt_key_file DIR/public/bare.json; proxy_pass http://SERVICE; }",
    )
    .file("shared.json", &jwks_of(Some("same"), 9))
    .file("bare.json", &jwks_of(None, 18))
    .start();
    let status = |path: &str, key: usize, kid: Option<&str>| {
        nginx.get_with(path, &keys[key].sign_as(kid, &claims())).status
    };
    let same = Some("same");
    assert_eq!([0, 7, 8].map(|key| status("/shared", key, same)), [200, 200, 401]);
    assert_eq!([0, 15, 16].map(|key| status("/bare", key, None)), [200, 200, 401]);
    assert_eq!([0, 15, 16].map(|key| status("/bare", key, Some("unknown"))), [200, 200, 401]);
}

/// mod 4.1: a JSON object from kid to public key in PEM, of every type; what is no public key is skipped.
#[test]
fn keys_in_pem_verify() {
    let ec = SigningKey::generate("ec");
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
    let ed = Ed25519KeyPair::generate().expect("a key");
    let rsa_der: PublicKeyX509Der<'_> = rsa.public_key().as_der().expect("its form");
    let ed_der: PublicKeyX509Der<'_> = ed.public_key().as_der().expect("its form");
    let short_rsa = pem("RSA PUBLIC KEY", rsa.public_key().as_ref());
    let text = json!({
        "ec": ec.pem(),
        "rsa": pem("PUBLIC KEY", rsa_der.as_ref()),
        "pkcs1": short_rsa,
        "ed": pem("PUBLIC KEY", ed_der.as_ref()),
        "secret": "a text that is no key must not become a secret",
        "": ec.pem(),
        "number": 5,
        "broken": pem("PUBLIC KEY", b"garbage"),
        "private": pem("PRIVATE KEY", b"garbage"),
    });
    let nginx = builder(
        "auth_jwt_key_file DIR/public/keys.json keyval;
         location / { auth_jwt x; add_header X-Kid \"$auth_jwt_kid\"; proxy_pass http://SERVICE; }
         location = /_keys { internal; root DIR/public; try_files /keys.json =404; }
         location /asked { auth_jwt x; auth_jwt_key_inherit off; auth_jwt_key_request /_keys keyval; proxy_pass http://SERVICE; }
         location /named { auth_jwt x; auth_jwt_key_inherit off; auth_jwt_key_file DIR/public/$arg_file.json keyval;
             proxy_pass http://SERVICE; }",
    )
    .file("keys.json", &text.to_string())
    .start();
    let raw = |alg: &str, kid: &str, sign: &dyn Fn(&[u8]) -> Vec<u8>| {
        let header = json!({"alg": alg, "kid": kid}).to_string();
        let parts = [header, claims().to_string()].map(|part| URL_SAFE_NO_PAD.encode(part));
        let signed = parts.join(".");
        let signature = URL_SAFE_NO_PAD.encode(sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    };
    let by_rsa = |text: &[u8]| {
        let mut signature = vec![0; rsa.public_modulus_len()];
        rsa.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text, &mut signature).expect("signed");
        signature
    };
    let by_ed = |text: &[u8]| ed.sign(text).as_ref().to_vec();
    for path in ["/", "/asked", "/named?file=keys"] {
        for (token, kid) in [
            (ec.token("me"), "ec"),
            (raw("RS256", "rsa", &by_rsa), "rsa"),
            (raw("RS256", "pkcs1", &by_rsa), "pkcs1"),
            (raw("EdDSA", "ed", &by_ed), "ed"),
        ] {
            assert_eq!(nginx.get_with(path, &token).status, 200, "{kid} at {path}");
            if path == "/" {
                assert_eq!(nginx.get_with(path, &token).header("x-kid"), Some(kid));
            }
            let cut = &token[..token.len() - 8];
            assert_eq!(nginx.get_with(path, cut).status, 401, "{kid} at {path}");
        }
        assert_eq!(nginx.get_with(path, &raw("EdDSA", "rsa", &by_ed)).status, 401);
        assert_eq!(nginx.get_with(path, &ec.sign_as(Some("broken"), &claims())).status, 401);
    }
    // A text that stands in a public file is no secret.
    let secret = b"a text that is no key must not become a secret";
    let header = jsonwebtoken::Header {
        kid: Some("secret".into()),
        ..jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256)
    };
    let key = jsonwebtoken::EncodingKey::from_secret(secret);
    let forged = jsonwebtoken::encode(&header, &claims(), &key).expect("a token");
    assert_eq!(nginx.get_with("/", &forged).status, 401);
    let check = builder("auth_jwt_key_file DIR/public/keys.json keyval;")
        .file("keys.json", &text.to_string())
        .check();
    assert!(check.accepted, "{}", check.output);
    for kid in ["secret", "", "number", "broken", "private"] {
        let part = format!("kid=\"{kid}\": ");
        let line = check.output.lines().find(|line| line.contains(&part)).unwrap_or_default();
        assert!(line.contains("[warn]") && line.contains("skipped"), "{kid}: {}", check.output);
    }
    assert!(!check.output.contains("become a secret"), "{}", check.output);
}

/// mod C4: inheritance over all levels, and of the setting itself.
#[test]
fn every_level_says_whose_keys_it_trusts() {
    let keys = ["http", "server", "location", "inner"].map(SigningKey::generate);
    let text = "
        auth_jwt_key_file DIR/public/http.json;
        server {
            listen LISTEN;
            auth_jwt x;
            location / { proxy_pass http://SERVICE; }
            location /own { auth_jwt_key_file DIR/public/location.json; proxy_pass http://SERVICE;
                limit_except GET { auth_jwt_key_file DIR/public/inner.json; } }
            location /merge {
                auth_jwt_key_inherit merge;
                auth_jwt_key_file DIR/public/location.json;
                limit_except GET { auth_jwt_key_file DIR/public/inner.json; }
                location /merge/deep { auth_jwt_key_file DIR/public/inner.json; proxy_pass http://SERVICE; }
                location /merge/on { auth_jwt_key_inherit on; auth_jwt_key_file DIR/public/inner.json;
                    proxy_pass http://SERVICE; }
                location /merge/off { auth_jwt_key_inherit off; auth_jwt_key_file DIR/public/inner.json;
                    proxy_pass http://SERVICE; }
                location /merge/same { auth_jwt_key_file DIR/public/location.json; proxy_pass http://SERVICE; }
                proxy_pass http://SERVICE;
            }
            location /asked {
                auth_jwt_key_inherit merge;
                auth_jwt_key_request /_keys;
                location /asked/deep { auth_jwt_key_file DIR/public/$arg_file.json; proxy_pass http://SERVICE; }
                proxy_pass http://SERVICE;
            }
            location = /_keys { internal; root DIR/public; try_files /server.json =404; }
            location /off { auth_jwt_key_inherit off; proxy_pass http://SERVICE; }
        }";
    let nginx = ["http", "server", "location", "inner"]
        .iter()
        .zip(&keys)
        .fold(NginxBuilder::bare(text), |builder, (name, key)| {
            builder.file(&format!("{name}.json"), &jwks(&[key]))
        })
        .start();
    let trusted = |method: &str, path: &str| {
        keys.iter()
            .map(|key| {
                let bearer = format!("Bearer {}", key.token("me"));
                ask(method, &nginx.url(path), &[("authorization", &bearer)], None).status
            })
            .collect::<Vec<u16>>()
    };
    // http, server (by request), location, inner
    assert_eq!(trusted("GET", "/"), [200, 401, 401, 401]);
    assert_eq!(trusted("GET", "/own"), [401, 401, 200, 401]);
    assert_eq!(trusted("POST", "/own"), [401, 401, 401, 200]);
    assert_eq!(trusted("GET", "/merge"), [200, 401, 200, 401]);
    assert_eq!(trusted("POST", "/merge"), [200, 401, 200, 200]);
    assert_eq!(trusted("GET", "/merge/deep"), [200, 401, 200, 200]);
    assert_eq!(trusted("GET", "/merge/on"), [401, 401, 401, 200]);
    assert_eq!(trusted("GET", "/merge/off"), [401, 401, 401, 200]);
    assert_eq!(trusted("GET", "/merge/same"), [200, 401, 200, 401]);
    assert_eq!(trusted("GET", "/asked"), [200, 200, 401, 401]);
    assert_eq!(trusted("GET", "/asked/deep?file=inner"), [200, 200, 401, 200]);
    // Their keys may stand in the file that can't be read: our fault.
    assert_eq!(trusted("GET", "/asked/deep?file=none"), [200, 200, 503, 503]);
    assert_eq!(trusted("GET", "/off"), [401; 4]);
    nginx.expect_log(&["[error]", "reason=keys_unavailable status=401", "no auth_jwt_key_file"]);
}

/// mod 5.6, C6, rel:K10: what can't be used as a file of keys is refused at start, with the cause and the remedy.
#[test]
fn a_file_without_keys_is_refused_at_start() {
    let key = SigningKey::generate("a");
    let too_many = set(&vec![key.jwk(); 1_001]);
    let too_large = format!("{}{}", jwks(&[&key]), " ".repeat(1024 * 1024));
    let private =
        json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "a", "d": "AA"}]}).to_string();
    for (text, format, cause) in [
        ("", "", "empty"),
        (" \n", "", "empty"),
        ("garbage", "", "JSON"),
        ("{\"keys\":[", "", "JSON"),
        ("[]", "", "JSON"),
        ("{}", "", "keys"),
        ("{\"keys\":{}}", "", "keys"),
        ("{\"keys\":[]}", "", "no usable key"),
        ("{\"keys\":[{\"kty\":\"strange\"}]}", "", "no usable key"),
        (&private, "", "no usable key"),
        (&key.jwk().to_string(), "", "keys"),
        (&too_many, "", "keys"),
        (&too_large, "", "larger than 1048576 bytes"),
        (&json!({"a": key.pem()}).to_string(), "jwks", "keys"),
        (&jwks(&[&key]), "keyval", "no usable key"),
        ("{}", "keyval", "no usable key"),
    ] {
        let shown: String = text.chars().take(40).collect();
        let line = |optional: &str| {
            let text = format!("auth_jwt_key_file DIR/public/keys.json {format} {optional};");
            builder(&text)
        };
        let check = line("").file("keys.json", text).check();
        assert!(!check.accepted, "{shown} {format} was accepted");
        let emerg = check.output.lines().find(|line| line.contains("[emerg]")).unwrap_or_default();
        assert!(emerg.contains("/public/keys.json\" can't be used: "), "{shown}: {emerg}");
        assert!(emerg.contains(cause), "{shown}: {emerg}");
        assert!(emerg.contains("mend it, or add \"optional\""), "{shown}: {emerg}");
        assert!(emerg.contains("/http.conf:3"), "{shown}: {emerg}");
        assert!(line("optional").file("keys.json", text).check().accepted, "{shown} optional");
    }
    // Neither of them is read: a device would block a worker, or never end.
    let with = |make: &dyn Fn(&std::path::Path)| {
        let builder = builder("auth_jwt_key_file DIR/public/keys.json;");
        make(&builder.scratch().join("public/keys.json"));
        let check = builder.check();
        assert!(!check.accepted, "{}", check.output);
        check.output
    };
    let fifo = with(&|path| {
        assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo").success());
    });
    assert!(fifo.contains("not a regular file"), "{fifo}");
    let folder = with(&|path| fs::create_dir(path).expect("a folder"));
    assert!(folder.contains("not a regular file"), "{folder}");
    let link = with(&|path| std::os::unix::fs::symlink("/dev/zero", path).expect("a link"));
    assert!(link.contains("not a regular file"), "{link}");
    let turn = with(&|path| std::os::unix::fs::symlink(path, path).expect("a link"));
    assert!(turn.contains("symbolic links"), "{turn}");
}

/// mod 5.6, C6: wrong values and places of the directives of keys.
#[test]
fn mistakes_are_refused_at_start() {
    let key = SigningKey::generate("a");
    let file = "auth_jwt_key_file DIR/public/jwks.json";
    let double = format!("{file}; {file};");
    let (prefix, twice) = (format!("{file} key;"), format!("{file} jwks keyval;"));
    let upper = format!("{file} JWKS;");
    let within_if = format!("location / {{ if ($arg_a) {{ {file}; }} }}");
    for (text, expected) in [
        (prefix.as_str(), "invalid value \"key\" of \"auth_jwt_key_file\""),
        (&upper, "invalid value \"JWKS\" of \"auth_jwt_key_file\""),
        (&twice, "invalid value \"keyval\" of \"auth_jwt_key_file\""),
        (&double, "\"auth_jwt_key_file\" directive is duplicate"),
        ("auth_jwt_key_file \"\";", "the path of a JWK Set file is expected"),
        ("auth_jwt_key_file;", "invalid number of arguments in \"auth_jwt_key_file\""),
        ("auth_jwt_key_request keys;", "a URI of this server is expected"),
        ("auth_jwt_key_request /keys k;", "invalid value \"k\" of \"auth_jwt_key_request\""),
        ("auth_jwt_key_request /keys jwks optional;", "invalid number of arguments"),
        ("auth_jwt_key_cache soon;", "invalid value \"soon\" of \"auth_jwt_key_cache\""),
        ("auth_jwt_key_cache -1;", "invalid value \"-1\" of \"auth_jwt_key_cache\""),
        ("auth_jwt_key_refresh 0;", "invalid value \"0\" of \"auth_jwt_key_refresh\""),
        ("auth_jwt_key_refresh 25h;", "invalid value \"25h\" of \"auth_jwt_key_refresh\""),
        ("auth_jwt_key_refresh 1s; auth_jwt_key_refresh 1s;", "directive is duplicate"),
        ("auth_jwt_key_inherit MERGE;", "invalid value \"MERGE\" of \"auth_jwt_key_inherit\""),
        ("auth_jwt_key_error 403;", "invalid value \"403\" of \"auth_jwt_key_error\""),
        ("auth_jwt_key_error 500 503;", "invalid number of arguments"),
        (&within_if, "\"auth_jwt_key_file\" directive is not allowed here"),
    ] {
        let check = builder(text).jwks(&jwks(&[&key])).check();
        assert!(!check.accepted, "{text} was accepted");
        let line = check.output.lines().find(|line| line.contains("[emerg]")).unwrap_or_default();
        assert!(line.contains(expected), "{text}\n{line}");
        assert!(line.contains("/http.conf:3"), "{text}\n{line}");
    }
    // That a variable is defined nowhere nginx knows only in the end, and tells without a line.
    for directive in
        ["auth_jwt_key_file DIR/public/$nobody.json", "auth_jwt_key_request /k?$nobody"]
    {
        let check = builder(&format!("{directive};")).check();
        assert!(!check.accepted, "{directive} was accepted");
        assert!(check.output.contains("unknown \"nobody\" variable"), "{}", check.output);
    }
}

/// mod 4.1: a path is relative to the folder of nginx's configuration, with variables as without.
#[test]
fn relative_paths_begin_at_the_configuration() {
    let key = SigningKey::generate("a");
    let builder = builder(
        "location / { auth_jwt x; auth_jwt_key_file keys/jwks.json; proxy_pass http://SERVICE; }
         location /named { auth_jwt x; auth_jwt_key_file keys/$arg_file.json; proxy_pass http://SERVICE; }",
    );
    builder.scratch().replace("conf/keys/jwks.json", jwks(&[&key]).as_bytes());
    let nginx = builder.start();
    assert_eq!(nginx.get_with("/", &key.token("me")).status, 200);
    assert_eq!(nginx.get_with("/named?file=jwks", &key.token("me")).status, 200);
}

/// A server whose keys are in a file for each tenant.
const TENANTS: &str = "auth_jwt_key_file DIR/public/tenant-$arg_tenant.json;
    location / { auth_jwt x; proxy_pass http://SERVICE; }";

/// mod 4.1, rel:K2: a file whose path holds variables, from its first version to its last.
#[test]
fn a_file_that_a_variable_names_is_followed() {
    let (old, new) = (SigningKey::generate("old"), SigningKey::generate("new"));
    let nginx = builder(TENANTS).main_level("master_process off;").start();
    let file = "public/tenant-a.json";
    let status = |key: &SigningKey| nginx.get_with("/?tenant=a", &key.token("me")).status;
    let answer = nginx.get_with("/?tenant=a", &old.token("me"));
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")));
    nginx.expect_log(&["[error]", "jwt: keyset tenant-a rejected cause=\"No such file"]);
    nginx.scratch().replace(file, jwks(&[&old]).as_bytes());
    eventually("the file is there", || (status(&old) == 200).then_some(()));
    nginx.scratch().replace(file, jwks(&[&old, &new]).as_bytes());
    eventually("another key", || (status(&new) == 200).then_some(()));
    nginx.scratch().replace(file, b"broken");
    let unknown = SigningKey::generate("unknown");
    eventually("the bad version is seen", || (status(&unknown) == 503).then_some(()));
    assert_eq!(status(&new), 200, "the last good keys");
    fs::remove_file(nginx.scratch().join(file)).expect("the file");
    eventually("that it is missing is seen", || {
        assert_eq!(status(&new), 200, "the last good keys");
        let log = nginx.error_log();
        let is_said = |line: &str| line.contains("No such file") && line.contains("kept gen=2");
        log.lines().any(is_said).then_some(())
    });
    // Another tenant's keys are no business of this one's.
    assert_eq!(nginx.get_with("/?tenant=b", &new.token("me")).status, 503);
    assert_eq!(nginx.get_with("/", &new.token("me")).status, 503, "no name at all");
    nginx.scratch().replace(file, jwks(&[&old]).as_bytes());
    eventually("the new key is gone", || (status(&new) == 401).then_some(()));
    assert_eq!(status(&old), 200);
}

/// rel:K3: the workers that a reload starts know the last good keys, as they do those of other files.
#[test]
fn the_last_good_keys_of_a_named_file_outlive_a_reload() {
    let key = SigningKey::generate("a");
    let nginx = builder(TENANTS).file("tenant-a.json", &jwks(&[&key])).start();
    let status = || nginx.get_with("/?tenant=a", &key.token("me")).status;
    assert_eq!(status(), 200);
    nginx.scratch().replace("public/tenant-a.json", b"broken");
    nginx.reload();
    for _ in 0..8 {
        assert_eq!(status(), 200);
    }
}

/// auth_jwt_key_refresh, auth_jwt_key_cache: how long the keys of such a file are fresh; a file that is not there is
/// nothing that could be.
#[test]
fn a_file_that_was_missing_is_looked_for_soon() {
    let (old, new) = (SigningKey::generate("a"), SigningKey::generate("a"));
    let nginx = builder(
        "auth_jwt_key_file DIR/public/$arg_file.json;
         location /rare { auth_jwt x; auth_jwt_key_refresh 1h; proxy_pass http://SERVICE; }
         location /cached { auth_jwt x; auth_jwt_key_cache 1h; proxy_pass http://SERVICE; }
         location /usual { auth_jwt x; proxy_pass http://SERVICE; }",
    )
    .main_level("master_process off;")
    .start();
    for (path, file) in [("/rare?file=one", "one"), ("/cached?file=two", "two")] {
        let file = format!("public/{file}.json");
        assert_eq!(nginx.get_with(path, &old.token("me")).status, 503);
        nginx.scratch().replace(&file, jwks(&[&old]).as_bytes());
        eventually("the file is found", || {
            (nginx.get_with(path, &old.token("me")).status == 200).then_some(())
        });
        nginx.scratch().replace(&file, jwks(&[&new]).as_bytes());
        for _ in 0..5 {
            assert_eq!(nginx.get_with(path, &old.token("me")).status, 200, "fresh for an hour");
        }
        // Another location that asks for fresher keys of the file gets them.
        let usual = path.replace("/rare", "/usual").replace("/cached", "/usual");
        eventually("the new version", || {
            (nginx.get_with(&usual, &new.token("me")).status == 200).then_some(())
        });
    }
}

/// Many tenants: more than are kept at a time, each with its own keys and no other's.
#[test]
fn every_tenant_has_its_own_keys() {
    let keys: Vec<SigningKey> = (0..20).map(|_| SigningKey::generate("k")).collect();
    let text = "auth_jwt_key_file DIR/public/$arg_tenant.json;
                location / { auth_jwt x; proxy_pass http://SERVICE; }";
    let nginx = (0..300)
        .fold(builder(text), |builder, tenant| {
            builder.file(&format!("{tenant}.json"), &jwks(&[&keys[tenant % keys.len()]]))
        })
        .main_level("master_process off;")
        .start();
    let tokens: Vec<String> = keys.iter().map(|key| key.token("me")).collect();
    for tenant in (0..300).chain(0..20) {
        let path = format!("/?tenant={tenant}");
        assert_eq!(nginx.get_with(&path, &tokens[tenant % 20]).status, 200, "{tenant}");
        assert_eq!(nginx.get_with(&path, &tokens[(tenant + 1) % 20]).status, 401, "{tenant}");
    }
}

/// A regular expression that chooses the file leaves the captures of the location as they are.
#[test]
fn a_map_that_chooses_the_file_leaves_the_captures_alone() {
    let key = SigningKey::generate("k");
    let text = "
        map $arg_tenant $tenant { default none; ~^t-(\\w+)$ $1; }
        server {
            listen LISTEN;
            location ~ ^/c/(\\w+)/(\\w+)$ {
                auth_jwt x;
                auth_jwt_key_file DIR/public/$tenant.json;
                add_header X-Captures \"$1 $2\" always;
                proxy_pass http://SERVICE;
            }
        }";
    let nginx = NginxBuilder::bare(text).file("a.json", &jwks(&[&key])).start();
    for (tenant, status) in [("t-a", 200), ("t-b", 503), ("x", 503)] {
        let answer = nginx.get_with(&format!("/c/one/two?tenant={tenant}"), &key.token("me"));
        assert_eq!(answer.status, status, "{tenant}");
        assert_eq!(answer.header("x-captures"), Some("one two"), "{tenant}");
    }
}

/// rel:T9: a claim that nobody has vouched for does not lead out of the folder of keys.
#[test]
fn a_claim_can_not_lead_out_of_the_folder() {
    let (key, forger) = (SigningKey::generate("k"), SigningKey::generate("k"));
    let nginx = builder(
        "auth_jwt_key_file DIR/public/keys/$jwt_claim_iss.json;
         location / { auth_jwt x; proxy_pass http://SERVICE; }",
    )
    .file("keys/a.json", &jwks(&[&key]))
    .file("uploads/forged.json", &jwks(&[&forger]))
    .start();
    let status = |key: &SigningKey, iss: &str| {
        nginx.get_with("/", &key.sign(&json!({"iss": iss, "exp": now() + 300}))).status
    };
    assert_eq!(status(&key, "a"), 200);
    for iss in ["../uploads/forged", "a/../../uploads/forged", "./../uploads/forged"] {
        assert_eq!(status(&forger, iss), 503, "{iss}: no key, and not the forger's");
    }
    assert_eq!(status(&key, "a\0b"), 503);
}

/// rel:N6: what an unverified claim has chosen the file by is not shown for a token that is refused.
#[test]
fn a_map_that_chooses_the_file_shows_no_unverified_claim() {
    let (a, b) = (SigningKey::generate("k"), SigningKey::generate("k"));
    let text = "
        map $jwt_claim_iss $tenant { default none; https://a.example a; https://b.example b; }
        log_format tenant '$uri tenant=$tenant';
        server {
            listen LISTEN;
            access_log DIR/state/tenant.log tenant;
            location / {
                auth_jwt x;
                auth_jwt_key_file DIR/public/$tenant.json;
                add_header X-Tenant $tenant always;
                proxy_pass http://SERVICE;
            }
        }";
    let nginx =
        NginxBuilder::bare(text).file("a.json", &jwks(&[&a])).file("b.json", &jwks(&[&b])).start();
    let seen = |path: &str, key: &SigningKey, iss: &str| {
        let answer = nginx.get_with(path, &key.sign(&json!({"iss": iss, "exp": now() + 300})));
        (answer.status, answer.header("x-tenant").map(str::to_owned))
    };
    for _ in 0..4 {
        let good = seen("/good", &a, "https://a.example");
        assert_eq!(good, (200, Some("a".to_owned())));
        let forged = seen("/forged", &b, "https://a.example");
        assert_eq!(forged, (401, Some("none".to_owned())), "nobody has vouched for that");
    }
    eventually("the requests are logged", || {
        let log = fs::read_to_string(nginx.scratch().join("state/tenant.log")).ok()?;
        (log.lines().count() >= 8).then(|| {
            assert!(log.contains("/good tenant=a\n"), "{log}");
            assert!(!log.contains("/forged tenant=a"), "{log}");
        })
    });
}

/// rel:K5: a file that is looked at rarely is looked at once somebody names a key that is not in it.
#[test]
fn an_unknown_kid_brings_the_next_look_forward() {
    let (old, new) = (SigningKey::generate("old"), SigningKey::generate("new"));
    let nginx = NginxBuilder::bare(
        "server { listen LISTEN; auth_jwt_key_file DIR/public/jwks.json; auth_jwt_key_refresh 24h;
             location / { auth_jwt x; proxy_pass http://SERVICE; } }",
    )
    .main_level("master_process off;")
    .jwks(&jwks(&[&old]))
    .start();
    assert_eq!(nginx.get_with("/", &old.token("me")).status, 200);
    nginx.replace_jwks(&jwks(&[&new]));
    for _ in 0..5 {
        assert_eq!(nginx.get_with("/", &old.token("me")).status, 200, "not looked at");
    }
    eventually("the new key is found", || {
        (nginx.get_with("/", &new.token("me")).status == 200).then_some(())
    });
    assert_eq!(nginx.get_with("/", &old.token("me")).status, 401);
}

/// mod C6, design 10: the answer without keys, with its headers, and in the other dialect.
#[test]
fn the_answer_without_keys_is_the_operators_choice() {
    let key = SigningKey::generate("a");
    let text = "
        location / { proxy_pass http://SERVICE; }
        location /500 { auth_jwt_key_error 500; proxy_pass http://SERVICE; location /500/deep { proxy_pass http://SERVICE; } }
        location /401 { auth_jwt_key_error 401; proxy_pass http://SERVICE; }
        location /503 { auth_jwt_key_error 503; proxy_pass http://SERVICE; }
        location /granted { satisfy any; allow all; proxy_pass http://SERVICE; }";
    let text = format!(
        "server {{ listen LISTEN; auth_jwt x; auth_jwt_key_file DIR/public/none.json optional; {text} }}"
    );
    for (dialect, usual) in [("", 503), ("auth_jwt_compat kjdev;", 401)] {
        let nginx: Nginx = NginxBuilder::bare(&format!("{dialect} {text}")).start();
        for (path, status) in
            [("/", usual), ("/500", 500), ("/500/deep", 500), ("/401", 401), ("/503", 503)]
        {
            let answer = nginx.get_with(path, &key.token("me"));
            assert_eq!(answer.status, status, "{dialect} {path}");
            let retry = answer.header("retry-after").is_some();
            assert_eq!(retry, status == 503, "{dialect} {path}");
            let challenge = answer.header("www-authenticate");
            if status != 401 {
                assert_eq!(challenge, None, "{dialect} {path}");
            } else if dialect.is_empty() {
                assert_eq!(challenge, Some("Bearer realm=\"x\""), "the token is not to blame");
            }
        }
        // 401 leaves the decision to others; 503 does not (rel:N2).
        let expected = if usual == 401 { 200 } else { 503 };
        assert_eq!(nginx.get_with("/granted", &key.token("me")).status, expected, "{dialect}");
        if dialect.is_empty() {
            nginx.expect_log(&["[error]", "jwt: denied reason=keys_unavailable status=500"]);
        }
    }
}

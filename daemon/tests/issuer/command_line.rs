//! `jwtunnel` without a daemon: keys and tokens made and judged offline, help, and mistakes in arguments.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::issuer_harness::jwtunnel_in;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// Runs `jwtunnel` in `folder` with `input` on its standard input: (exit code, stdout, stderr).
fn run(folder: &tempfile::TempDir, arguments: &[&str], input: &str) -> (i32, String, String) {
    jwtunnel_in(folder.path(), arguments, input)
}

/// The standard output of a run that succeeds.
#[track_caller]
fn good(folder: &tempfile::TempDir, arguments: &[&str], input: &str) -> String {
    let (code, out, err) = run(folder, arguments, input);
    assert_eq!(code, 0, "{arguments:?}: {err}");
    out
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

fn folder_with_key() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    good(&folder, &words("keygen --algorithm ES256 --out key.pem --jwks jwks.json"), "");
    folder
}

fn part(token: &str, index: usize) -> Value {
    let part = token.trim().split('.').nth(index).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

#[test]
fn keygen_makes_a_private_key_and_the_jwks_that_verifies_its_tokens_for_every_algorithm() {
    for (algorithm, kty) in [
        ("RS256", "RSA"),
        ("RS384", "RSA"),
        ("RS512", "RSA"),
        ("PS256", "RSA"),
        ("PS384", "RSA"),
        ("PS512", "RSA"),
        ("ES256", "EC"),
        ("ES384", "EC"),
        ("EdDSA", "OKP"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let keygen = ["keygen", "--algorithm", algorithm, "--out", "key.pem"];
        let (code, jwks, err) = run(&folder, &keygen, "");
        assert_eq!(code, 0, "{algorithm}: {err}");
        let document: Value = serde_json::from_str(&jwks).unwrap();
        let key = &document["keys"][0];
        assert_eq!((&key["kty"], &key["alg"]), (&json!(kty), &json!(algorithm)));
        assert!(key.get("d").is_none() && err.contains(key["kid"].as_str().unwrap()), "{err}");
        let private = folder.path().join("key.pem");
        assert_eq!(fs::metadata(&private).unwrap().permissions().mode() & 0o7777, 0o600);
        assert!(fs::read_to_string(&private).unwrap().starts_with("-----BEGIN PRIVATE KEY-----"));
        fs::write(folder.path().join("jwks.json"), &jwks).unwrap();
        let mint = ["token", "mint", "--key", "key.pem", "--algorithm", algorithm];
        let token = good(&folder, &mint, "");
        assert_eq!(part(&token, 0)["kid"], key["kid"]);
        good(&folder, &words("token verify --jwks jwks.json"), &token);
    }
}

#[test]
fn keygen_overwrites_nothing_and_leaves_no_half() {
    let folder = folder_with_key();
    let files = ["key.pem", "jwks.json"].map(|name| folder.path().join(name));
    let before = files.clone().map(|file| fs::read(file).unwrap());
    assert_eq!(fs::metadata(&files[1]).unwrap().permissions().mode() & 0o777, 0o644);
    for arguments in
        ["keygen --out key.pem --jwks new.json", "keygen --out new.pem --jwks jwks.json"]
    {
        let (code, out, err) = run(&folder, &words(arguments), "");
        assert_eq!((code, out.as_str()), (1, ""), "{arguments}");
        assert!(err.contains("an existing file is not overwritten"), "{err}");
    }
    assert_eq!(files.map(|file| fs::read(file).unwrap()), before);
    for name in ["new.json", "new.pem"] {
        assert!(!folder.path().join(name).exists(), "{name}");
    }
}

#[test]
fn mint_writes_what_its_flags_say() {
    let folder = folder_with_key();
    let mint = |more: &[&str]| {
        let arguments = [&words("token mint --key key.pem --algorithm ES256")[..], more].concat();
        part(&good(&folder, &arguments, ""), 1)
    };
    let plain = mint(&[]);
    let (iat, exp) = (plain["iat"].as_i64().unwrap(), plain["exp"].as_i64().unwrap());
    assert_eq!((exp - iat, plain.as_object().unwrap().len()), (900, 2));
    for (flags, name, value) in [
        (&["--subject", "me"][..], "sub", json!("me")),
        (&["--issuer", "us"], "iss", json!("us")),
        (&["--audience", "a"], "aud", json!("a")),
        (&["--audience", "a", "--audience", "b"], "aud", json!(["a", "b"])),
        (&["--claims", "{\"role\":\"admin\"}"], "role", json!("admin")),
        (&["--subject", "me", "--claims", "{\"sub\":\"you\"}"], "sub", json!("you")),
    ] {
        assert_eq!(mint(flags)[name], value, "{flags:?}");
    }
    let long = mint(&["--lifetime", "30d"]);
    assert_eq!(long["exp"].as_i64().unwrap() - long["iat"].as_i64().unwrap(), 30 * 86_400);
}

#[test]
fn decode_shows_header_and_claims_and_says_that_nothing_is_verified() {
    let folder = folder_with_key();
    let mint = "token mint --key key.pem --algorithm ES256 --subject me --lifetime 5m";
    let token = good(&folder, &words(mint), "");
    for (arguments, input) in [
        (vec!["token", "decode", token.trim()], ""),
        (vec!["token", "decode", "-"], token.as_str()),
        (vec!["token", "decode"], token.as_str()),
    ] {
        let (code, out, err) = run(&folder, &arguments, input);
        let shown: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(
            (code, &shown["header"]["alg"], &shown["claims"]["sub"]),
            (0, &json!("ES256"), &json!("me"))
        );
        assert!(err.contains("not verified") && err.contains("exp is in"), "{err}");
    }
    for (token, wanted) in [
        ("x", "it has 1 segments instead of 3"),
        ("a.b.c", "the header is not base64url"),
        ("YQ.YQ.YQ", "the header is not JSON"),
        ("", "no token was given"),
    ] {
        let (code, out, err) = run(&folder, &["token", "decode"], token);
        assert_eq!((code, out.as_str()), (1, ""), "{token}");
        assert!(err.contains(wanted), "{err}");
    }
}

#[test]
fn verify_judges_as_its_flags_say() {
    let folder = folder_with_key();
    let mint = |claims: &str| {
        let mint = words("token mint --key key.pem --algorithm ES256 --claims");
        good(&folder, &[&mint[..], &[claims]].concat(), "")
    };
    let full = mint(r#"{"iat":1000,"exp":2000,"iss":"us","aud":["a","b"]}"#);
    let endless = good(
        &folder,
        &words(
            r#"token mint --key key.pem --algorithm ES256 --claims {"exp":9000000000000,"nbf":1500}"#,
        ),
        "",
    );
    for (token, flags, reason) in [
        (&full, "--now 1999", None),
        (&full, "--now 2000", Some("expired")),
        (&full, "--now 2059 --leeway 60s", None),
        (&full, "--now 2060 --leeway 1m", Some("expired")),
        (&full, "--now 1500 --require-exp", None),
        (&full, "--now 1500 --issuer us", None),
        (&full, "--now 1500 --issuer them", Some("iss")),
        (&full, "--now 1500 --audience b", None),
        (&full, "--now 1500 --audience c --audience a", None),
        (&full, "--now 1500 --audience c", Some("aud")),
        (&endless, "--now 1499", Some("not_yet")),
        (&endless, "--now 1500", None),
    ] {
        let arguments = [&words("token verify --jwks jwks.json")[..], &words(flags)].concat();
        let (code, out, err) = run(&folder, &arguments, token);
        match reason {
            None => {
                assert_eq!((code, err.as_str()), (0, ""), "{flags}");
                assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), part(token, 1), "{flags}");
            }
            Some(reason) => {
                assert_eq!((code, out.as_str()), (1, ""), "{flags}: {err}");
                assert!(err.contains(&format!("rejected ({reason}")), "{flags}: {err}");
            }
        }
    }
    // Another key's token, and one that was changed.
    let stranger = folder_with_key();
    let foreign = good(&stranger, &words("token mint --key key.pem --algorithm ES256"), "");
    for token in [foreign, full.replacen('.', ".e30", 1)] {
        let arguments = words("token verify --jwks jwks.json --now 1500");
        assert_eq!(run(&folder, &arguments, &token).0, 1, "{token}");
    }
}

#[test]
fn verify_judges_many_lines_and_names_those_that_are_none() {
    let folder = folder_with_key();
    let token = good(&folder, &words("token mint --key key.pem --algorithm ES256"), "");
    let jwks: Value =
        serde_json::from_slice(&fs::read(folder.path().join("jwks.json")).unwrap()).unwrap();
    let lines = [
        json!({"jwks": jwks, "token": token.trim()}).to_string(),
        json!({"jwks": jwks, "token": token.trim(), "now": 9_000_000_000_i64}).to_string(),
        json!({"jwks": {}, "token": token.trim()}).to_string(),
        json!({"jwks": jwks}).to_string(),
    ];
    let input = lines.join("\n");
    let out = good(&folder, &words("token verify --jsonl"), &input);
    let verdicts: Vec<Value> =
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let reasons: Vec<_> = verdicts.iter().map(|verdict| verdict["reason"].clone()).collect();
    assert_eq!(
        reasons,
        [Value::Null, json!("expired"), json!("keys_unavailable"), json!("missing")]
    );
    let (code, _, err) = run(&folder, &words("token verify --jsonl"), &format!("{input}\n[]\n"));
    assert_eq!(code, 1);
    assert!(err.contains("line 5 is not such an object"), "{err}");
}

#[test]
fn mistakes_in_arguments_exit_with_2_and_name_flag_value_and_remedy() {
    let folder = folder_with_key();
    fs::write(folder.path().join("empty"), "\n").unwrap();
    fs::write(folder.path().join("bad.json"), "[}").unwrap();
    fs::write(folder.path().join("t.toml"), "insecure = false\nserver = 5\n").unwrap();
    for (line, wanted) in [
        (
            "connect -s gw.example",
            &["--server gw.example: expected http://HOST", "https://gw.example/netunnel"][..],
        ),
        ("connect -s https://h --ca empty", &["--ca empty: ", "certificate", "PEM"]),
        ("connect -s https://h --ca /nonexistent", &["--ca /nonexistent: No such file", "PEM"]),
        ("connect --config t.toml", &["t.toml: line 2: `server = 5`: expected a text in quotes"]),
        (
            "connect --identifier notauuid",
            &["'notauuid'", "--identifier", "expected a UUID such as 7d2b"],
        ),
        ("connect --token-file /nonexistent", &["--token-file /nonexistent: No such file"]),
        ("connect --token-file empty", &["--token-file empty: the file is empty"]),
        ("connect --token-file -", &["--token-file -: expected a file"]),
        ("connect --key-file /nonexistent", &["--key-file /nonexistent: No such file"]),
        ("connect --proxy-url proxy:3128", &["--proxy-url: ", "expected http://HOST:PORT"]),
        ("connect --auth-uri auth", &["--auth-uri auth: expected a path such as /jwthenticator"]),
        (
            "keys register --key-file /nonexistent",
            &["--key-file /nonexistent: cannot read the key: No such"],
        ),
        ("keys register --key-file empty", &["the key is empty"]),
        (
            "keys register --generate --identifier x",
            &["'x'", "--identifier", "expected a UUID such as"],
        ),
        (
            "keys list --server 127.0.0.1:5051",
            &["--server 127.0.0.1:5051: expected http://HOST:PORT or unix:/path"],
        ),
        ("status --server ftp://h", &["--server ftp://h: expected http://HOST:PORT"]),
        ("token revoke --token-file /nonexistent", &["--token-file /nonexistent: No such file"]),
        ("token revoke --token-file empty", &["--token-file empty: it is empty"]),
        ("token mint --key /nonexistent", &["--key /nonexistent: No such file"]),
        ("token mint --key key.pem --algorithm RS256", &["--key key.pem: ", "--algorithm"]),
        (
            "token mint --key key.pem --algorithm HS256",
            &["'HS256'", "--algorithm", "expected", "ES256"],
        ),
        (
            "token mint --key key.pem --algorithm ES256 --claims []",
            &["--claims []: ", "one JSON object"],
        ),
        (
            "token mint --key key.pem --lifetime 5",
            &["'5'", "--lifetime", "a whole number and a unit"],
        ),
        ("token verify a.b.c", &["--jwks"]),
        ("token verify --jwks /nonexistent a.b.c", &["--jwks /nonexistent: No such file"]),
        (
            "token verify --jwks bad.json a.b.c",
            &["--jwks bad.json: it is not a strict JSON object (line 1"],
        ),
        ("token verify --jsonl --jwks jwks.json", &["--jsonl", "--jwks"]),
        ("completions tcsh", &["'tcsh'", "bash", "zsh", "fish"]),
    ] {
        let (code, out, err) = run(&folder, &words(line), "\n");
        assert_eq!((code, out.as_str()), (2, ""), "{line}: {err}");
        for wanted in wanted {
            assert!(err.contains(wanted), "{line}: {wanted:?} is not in {err}");
        }
        let lines: Vec<_> = err.lines().collect();
        let reason = lines[0].rsplit(": ").next().unwrap();
        assert_eq!(err.matches(reason).count(), 1, "{line}: the reason is told once: {err}");
    }
}

/// What is there is documented where people look first.
#[test]
fn every_subcommand_has_examples_and_every_shell_has_completions() {
    let folder = tempfile::tempdir().unwrap();
    for subcommand in [
        "",
        "keys register",
        "keys list",
        "keys show",
        "keys import",
        "keys prune",
        "keys revoke",
        "keys rotate",
        "token mint",
        "token decode",
        "token verify",
        "token revoke",
        "keygen",
        "db harden",
        "connect",
        "status",
        "completions",
        "man",
    ] {
        let text = good(&folder, &[&words(subcommand)[..], &["--help"]].concat(), "");
        let (_, examples) =
            text.split_once("Example").unwrap_or_else(|| panic!("{subcommand}: {text}"));
        assert!(examples.contains(&format!("jwtunnel {subcommand}")), "{subcommand}: {examples}");
    }
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = good(&folder, &["completions", shell], "");
        assert!(script.contains("jwtunnel") && script.contains("prune"), "{shell}");
    }
    assert!(good(&folder, &["man"], "").contains(".TH jwtunnel"));
}

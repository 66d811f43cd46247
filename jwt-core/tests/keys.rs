//! Which key of which set verifies a token, and the key-value form of a set.

#[expect(dead_code, unreachable_pub, reason = "shared by the test binaries")]
mod support;

use std::collections::HashSet;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::signature::KeyPair;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jwt_core::{Algorithm, JwkSet, JwksError, Policy, limits, verify};
use serde_json::{Value, json};
use support::{Signer, jwks, with};

fn set(keys: &[Value]) -> JwkSet {
    JwkSet::parse(&jwks(keys)).expect("keys")
}

fn key(signer: &Signer, kid: &str) -> Value {
    with(signer.jwk(), json!({"kid": kid}))
}

fn token(signer: &Signer, kid: Option<&str>) -> String {
    let header = json!({"alg": "EdDSA"});
    let header = kid.map_or(header.clone(), |kid| with(header, json!({"kid": kid})));
    signer.token(&header, &json!({}))
}

fn reason(token: &str, keys: &JwkSet) -> &'static str {
    verify(token.as_bytes(), keys, &Policy::default(), 0)
        .map_or_else(|e| e.reason(), |_| "accepted")
}

#[test]
fn each_set_has_a_number_of_its_own() {
    let one = set(&[Signer::new(Algorithm::Ed25519).jwk()]);
    let sets =
        [JwkSet::union([&one]), JwkSet::union([]), JwkSet::default(), JwkSet::default(), one];
    let ids: HashSet<u64> = sets.iter().map(JwkSet::id).collect();
    assert_eq!(ids.len(), sets.len());
    assert!(!ids.contains(&0));
}

#[test]
fn a_key_never_masks_one_of_another_set() {
    // mod:4.3
    let [a, b, c, d] = [(); 4].map(|()| Signer::new(Algorithm::Ed25519));
    let first = set(&[key(&a, "same"), c.jwk()]);
    let second = set(&[key(&b, "same"), d.jwk()]);
    let third = set(&[d.jwk()]);
    let owners = JwkSet::union([&first, &second]);
    assert_eq!(owners.len(), 4);
    assert_eq!(reason(&token(&a, Some("same")), &owners), "accepted");
    assert_eq!(
        reason(&token(&b, Some("same")), &owners),
        "accepted",
        "in spite of the other's key"
    );
    // A set that has the kid has said which key it is.
    assert_eq!(reason(&token(&c, Some("same")), &owners), "sig");
    assert_eq!(reason(&token(&d, Some("same")), &owners), "sig");
    // Of one that has not, the keys without a kid may have signed.
    let mixed = JwkSet::union([&third, &first]);
    assert_eq!(reason(&token(&d, Some("same")), &mixed), "accepted");
    assert_eq!(reason(&token(&c, Some("same")), &mixed), "sig");
    // Unions of unions keep the sets apart.
    let nested = JwkSet::union([&JwkSet::union([&first, &third]), &JwkSet::union([&second])]);
    assert_eq!(reason(&token(&d, Some("same")), &nested), "accepted");
    assert_eq!(reason(&token(&c, Some("same")), &nested), "sig");
    // Without a match only keys without a kid; without a kid in the token every key.
    assert_eq!(reason(&token(&c, Some("other")), &owners), "accepted");
    assert_eq!(reason(&token(&b, Some("other")), &owners), "sig");
    let named = JwkSet::union([&set(&[key(&a, "a")]), &set(&[key(&b, "b")])]);
    assert_eq!(reason(&token(&b, Some("other")), &named), "key_unknown");
    assert_eq!(reason(&token(&b, None), &named), "accepted");
    assert_eq!(reason(&token(&c, None), &named), "sig");
    assert_eq!(reason(&token(&b, None), &JwkSet::union([])), "key_unknown");
}

#[test]
fn a_named_key_of_another_type_is_an_algorithm_refused() {
    let (ed, es) = (Signer::new(Algorithm::Ed25519), Signer::new(Algorithm::Es256));
    let named = set(&[key(&es, "k")]);
    assert_eq!(reason(&token(&ed, Some("k")), &named), "alg");
    // The set without the kid still has a say.
    assert_eq!(
        reason(&token(&ed, Some("k")), &JwkSet::union([&named, &set(&[ed.jwk()])])),
        "accepted"
    );
    let other = Signer::new(Algorithm::Ed25519);
    assert_eq!(
        reason(&token(&ed, Some("k")), &JwkSet::union([&named, &set(&[other.jwk()])])),
        "sig"
    );
}

#[test]
fn the_numbers_of_tries_are_bounded_in_a_union_too() {
    let (signer, other) = (Signer::new(Algorithm::Ed25519), Signer::new(Algorithm::Ed25519));
    let named = set(&vec![key(&other, "k"); limits::SHARED_KID_TRIES]);
    let ours = set(&[key(&signer, "k")]);
    assert_eq!(reason(&token(&signer, Some("k")), &JwkSet::union([&ours, &named])), "accepted");
    assert_eq!(reason(&token(&signer, Some("k")), &JwkSet::union([&named, &ours])), "sig");
    let nameless = set(&vec![other.jwk(); limits::NO_KID_TRIES]);
    let ours = set(&[signer.jwk()]);
    for kid in [None, Some("k"), Some("unknown")] {
        let keys = JwkSet::union([&ours, &nameless]);
        assert_eq!(reason(&token(&signer, kid), &keys), "accepted", "{kid:?}");
        let keys = JwkSet::union([&nameless, &ours]);
        assert_eq!(reason(&token(&signer, kid), &keys), "sig", "{kid:?}");
    }
    // Each kind has its own share.
    let keys = JwkSet::union([&named, &ours]);
    assert_eq!(reason(&token(&signer, Some("k")), &keys), "accepted");
}

#[test]
fn an_empty_kid_is_a_name_like_any_other() {
    // Deviation from kjdev/nginx-auth-jwt, which reads it as none: a token that names a key is not tried with others.
    let [a, b] = [(); 2].map(|()| Signer::new(Algorithm::Ed25519));
    let keys = set(&[key(&a, ""), key(&b, "b")]);
    assert_eq!((keys.len(), keys.warnings().len()), (2, 0));
    assert_eq!(reason(&token(&a, Some("")), &keys), "accepted");
    assert_eq!(reason(&token(&b, Some("")), &keys), "sig");
    assert_eq!(reason(&token(&b, Some("")), &set(&[key(&b, "b")])), "key_unknown");
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let lines: Vec<&str> =
        body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("ASCII")).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// The public key as other programs export it.
fn public_pem(signer: &Signer) -> String {
    pem("PUBLIC KEY", &public_der(signer))
}

fn public_der(signer: &Signer) -> Vec<u8> {
    let der: PublicKeyX509Der<'_> = match signer {
        Signer::Rsa(pair) => pair.public_key().as_der(),
        Signer::Ec(pair, ..) => pair.public_key().as_der(),
        Signer::Ed(pair) => pair.public_key().as_der(),
        Signer::Secret(_) => unreachable!("a secret has no public key"),
    }
    .expect("der");
    der.as_ref().to_vec()
}

#[test]
fn a_key_value_file_has_keys_of_each_type() {
    let algorithms = ["RS256", "RS512", "PS256", "ES256", "ES384", "ES512", "ES256K", "EdDSA"];
    for name in algorithms {
        let signer = Signer::new(Algorithm::from_name(name).expect("known"));
        let file = json!({"other": public_pem(&Signer::new(Algorithm::Ed25519)), "k": public_pem(&signer)});
        let keys = JwkSet::parse_keyval(file.to_string().as_bytes()).expect("keys");
        assert_eq!((keys.len(), keys.warnings().len()), (2, 0));
        assert_eq!(keys.kids().collect::<HashSet<_>>(), HashSet::from(["k", "other"]));
        let token = |kid: &str| signer.token(&json!({"alg": name, "kid": kid}), &json!({}));
        assert_eq!(reason(&token("k"), &keys), "accepted", "{name}");
        assert_eq!(reason(&token("unknown"), &keys), "key_unknown", "{name}");
        // Nor is the text of a public key a secret.
        let forger = Signer::Secret(public_pem(&signer).into_bytes());
        let forged = forger.token(&json!({"alg": "HS256", "kid": "k"}), &json!({}));
        assert_eq!(reason(&forged, &keys), "alg");
    }
}

#[test]
fn a_key_value_file_has_rsa_keys_in_their_own_form() {
    let signer = Signer::new(Algorithm::Rs256);
    let Signer::Rsa(pair) = &signer else { unreachable!("RSA") };
    // The library's plain form of an RSA key is PKCS #1.
    let file = json!({"k": pem("RSA PUBLIC KEY", pair.public_key().as_ref())});
    let keys = JwkSet::parse_keyval(file.to_string().as_bytes()).expect("keys");
    let token = signer.token(&json!({"alg": "RS256", "kid": "k"}), &json!({}));
    assert_eq!(reason(&token, &keys), "accepted");
    assert_eq!(keys.keys().next().expect("one").algorithms().count(), 6);
}

#[test]
fn members_of_a_key_value_file_that_are_no_key_are_skipped() {
    let signer = Signer::new(Algorithm::Es256);
    let mut der = public_der(&signer);
    // The last byte of y: with another one the point is not on the curve.
    *der.last_mut().expect("not empty") ^= 1;
    let off = pem("PUBLIC KEY", &der);
    let small = {
        // 1,024 bits: SEQUENCE { INTEGER n, INTEGER 65537 }.
        let n = [&[0x02, 0x81, 0x81, 0x00][..], &[0xff; 128]].concat();
        let content = [&n[..], &[0x02, 0x03, 0x01, 0x00, 0x01]].concat();
        pem("RSA PUBLIC KEY", &[&[0x30, 0x81, content.len() as u8][..], &content].concat())
    };
    let long = "k".repeat(limits::KID_BYTES + 1);
    let bad = [
        ("a", json!("secret"), "not a public key in PEM"),
        ("b", json!(7), "not a public key in PEM"),
        ("c", signer.jwk(), "not a public key in PEM"),
        ("d", json!(off), "its values are not"),
        ("e", json!(small), "its modulus is not between"),
        ("", json!(public_pem(&signer)), "its kid is empty"),
        (&long, json!(public_pem(&signer)), "its member kid"),
    ];
    for (kid, value, text) in &bad {
        let file = json!({ *kid: value, "good": public_pem(&signer) });
        let keys = JwkSet::parse_keyval(file.to_string().as_bytes()).expect("one is good");
        assert_eq!((keys.len(), keys.warnings().len()), (1, 1), "{kid}");
        let warning = &keys.warnings()[0];
        assert_eq!(warning.kid.as_deref(), Some(*kid));
        assert!(warning.text.contains(text), "{kid}: {}", warning.text);
        let alone = json!({ *kid: value }).to_string();
        let error = JwkSet::parse_keyval(alone.as_bytes()).expect_err("none is good");
        assert!(matches!(error, JwksError::NoUsableKey { skipped: 1, .. }), "{kid}");
    }
}

#[test]
fn texts_that_are_no_key_value_file() {
    let parse = |text: &[u8]| JwkSet::parse_keyval(text).expect_err("no keys");
    assert!(matches!(parse(b""), JwksError::Empty));
    assert!(matches!(parse(b"[]"), JwksError::Syntax(_)));
    assert!(matches!(parse(b"{\"a\":1,\"a\":2}"), JwksError::Syntax(_)));
    assert!(matches!(parse(b"{}"), JwksError::NoUsableKey { skipped: 0, first: None }));
    assert!(matches!(parse(&vec![b' '; limits::JWKS_BYTES + 1]), JwksError::TooLarge));
    let many: serde_json::Map<String, Value> =
        (0..=limits::JWKS_KEYS).map(|n| (n.to_string(), json!(1))).collect();
    assert!(matches!(parse(Value::from(many).to_string().as_bytes()), JwksError::TooManyKeys));
}

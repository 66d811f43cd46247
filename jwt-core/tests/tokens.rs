//! What is accepted and refused, with keys made for the run.

#[expect(unreachable_pub, reason = "shared by the test binaries")]
mod support;

use std::time::Duration;

use jwt_core::{Algorithm, Claims, JwkSet, JwksError, Policy, Rejection, limits, verify};
use proptest::prelude::*;
use serde_json::{Value, json};
use support::{Signer, b64, jwks, with};

const NOW: i64 = 1_800_000_000;

fn check(token: &str, keys: &[Value], policy: &Policy) -> Result<Claims, Rejection> {
    verify(token.as_bytes(), &JwkSet::parse(&jwks(keys)).expect("keys"), policy, NOW)
}

fn reason(token: &str, keys: &[Value]) -> &'static str {
    check(token, keys, &Policy::default()).map_or_else(|e| e.reason(), |_| "accepted")
}

#[test]
fn each_algorithm_is_accepted_on_the_diagonal_only() {
    // rel:T1. Header alg x key type x the key's alg member: 20 x 9 x 15 cells.
    let signers: Vec<(Algorithm, Signer)> =
        ["HS256", "RS256", "ES256", "ES384", "ES512", "ES256K", "EdDSA"]
            .iter()
            .map(|name| Algorithm::from_name(name).expect("known"))
            .map(|alg| (alg, Signer::new(alg)))
            .collect();
    let names: Vec<&str> = Algorithm::ALL
        .iter()
        .map(|alg| alg.name())
        .chain(["none", "NONE", "nOnE", "", "hs256", "RS1"])
        .collect();
    let mut cells = 0;
    let mut accepted = 0;
    for (_, signer) in &signers {
        for header_alg in &names {
            let token = signer.token(&json!({"alg": header_alg, "kid": "k"}), &json!({"sub": "s"}));
            for (_, key) in &signers {
                for key_alg in std::iter::once(None).chain(Algorithm::ALL.map(Some)) {
                    let mut jwk = with(key.jwk(), json!({"kid": "k"}));
                    if let Some(alg) = key_alg {
                        jwk = with(jwk, json!({"alg": alg.name()}));
                    }
                    cells += 1;
                    let same_key = std::ptr::eq(signer, key);
                    let named = Algorithm::from_name(header_alg);
                    let fits = named.is_some_and(|alg| fits(key, alg));
                    let pinned = key_alg.is_none_or(|alg| Some(alg) == named);
                    let expected = same_key && fits && pinned;
                    let verdict = match JwkSet::parse(&jwks(&[jwk])) {
                        Ok(keys) => {
                            verify(token.as_bytes(), &keys, &Policy::default(), NOW).is_ok()
                        }
                        Err(_) => false,
                    };
                    assert_eq!(verdict, expected, "header {header_alg}, key alg {key_alg:?}");
                    accepted += usize::from(verdict);
                }
            }
        }
    }
    assert!(cells >= 500, "{cells}");
    // 3 HMAC, 6 RSA, 5 others; each without and with the key's alg.
    assert_eq!(accepted, 2 * (3 + 6 + 5));
}

fn fits(signer: &Signer, alg: Algorithm) -> bool {
    match signer {
        Signer::Secret(_) => alg.name().starts_with("HS"),
        Signer::Rsa(_) => alg.name().starts_with("RS") || alg.name().starts_with("PS"),
        Signer::Ec(_, crv, _) => {
            [("P-256", "ES256"), ("P-384", "ES384"), ("P-521", "ES512"), ("secp256k1", "ES256K")]
                .contains(&(crv, alg.name()))
        }
        Signer::Ed(_) => alg.name() == "EdDSA",
    }
}

#[test]
fn a_public_key_is_no_hmac_secret() {
    for alg in ["RS256", "ES256", "EdDSA"] {
        let signer = Signer::new(Algorithm::from_name(alg).expect("known"));
        let forger = Signer::Secret(signer.public_bytes());
        for header in [json!({"alg": "HS256"}), json!({"alg": "HS256", "kid": "k"})] {
            let token = forger.token(&header, &json!({}));
            let verdict = reason(&token, &[with(signer.jwk(), json!({"kid": "k"}))]);
            assert!(["key_unknown", "alg"].contains(&verdict), "{verdict}");
        }
    }
}

#[test]
fn embedded_keys_are_never_used() {
    // rel:T2
    let (ours, theirs) = (Signer::new(Algorithm::Es256), Signer::new(Algorithm::Es256));
    let header =
        json!({"alg": "ES256", "jwk": theirs.jwk(), "jku": "http://127.0.0.1:9/", "x5c": ["AA=="]});
    assert_eq!(reason(&theirs.token(&header, &json!({})), &[ours.jwk()]), "sig");
    assert_eq!(reason(&ours.token(&header, &json!({})), &[ours.jwk()]), "accepted");
}

#[test]
fn a_kid_selects() {
    // mod:4.3
    let [a, b, c] = [(); 3].map(|()| Signer::new(Algorithm::Ed25519));
    let key = |signer: &Signer, kid: &str| with(signer.jwk(), json!({"kid": kid}));
    let token =
        |signer: &Signer, kid: &str| signer.token(&json!({"alg": "EdDSA", "kid": kid}), &json!({}));
    let set = [key(&a, "a"), key(&b, "b"), c.jwk()];
    assert_eq!(reason(&token(&a, "a"), &set), "accepted");
    assert_eq!(reason(&token(&a, "b"), &set), "sig", "the named key alone is tried");
    assert_eq!(reason(&token(&c, "unknown"), &set), "accepted", "keys without a kid are tried");
    assert_eq!(reason(&token(&a, "unknown"), &set), "sig");
    assert_eq!(reason(&token(&a, "unknown"), &set[..2]), "key_unknown");
    assert_eq!(reason(&token(&b, "same"), &[key(&a, "same"), key(&b, "same")]), "accepted");
    assert_eq!(reason(&b.token(&json!({"alg": "EdDSA"}), &json!({})), &set), "accepted");
    let long = "k".repeat(limits::KID_BYTES + 1);
    assert_eq!(reason(&token(&a, &long), &set), "malformed");
}

#[test]
fn the_number_of_signature_checks_is_bounded() {
    let signer = Signer::new(Algorithm::Hs256);
    let other = Signer::new(Algorithm::Hs256);
    let mut set = vec![other.jwk(); limits::NO_KID_TRIES - 1];
    set.push(signer.jwk());
    let token = signer.token(&json!({"alg": "HS256"}), &json!({}));
    assert_eq!(reason(&token, &set), "accepted");
    set.insert(0, other.jwk());
    assert_eq!(reason(&token, &set), "sig");
    let shared = |n: usize| {
        let mut set = vec![with(other.jwk(), json!({"kid": "k"})); n];
        set.push(with(signer.jwk(), json!({"kid": "k"})));
        set
    };
    let token = signer.token(&json!({"alg": "HS256", "kid": "k"}), &json!({}));
    assert_eq!(reason(&token, &shared(limits::SHARED_KID_TRIES - 1)), "accepted");
    assert_eq!(reason(&token, &shared(limits::SHARED_KID_TRIES)), "sig");
}

#[test]
fn times_at_their_boundaries() {
    // rel:T4
    let signer = Signer::new(Algorithm::Hs256);
    let verdict = |claims: Value, policy: &Policy| {
        let token = signer.token(&json!({"alg": "HS256"}), &claims);
        check(&token, &[signer.jwk()], policy).map_or_else(|e| e.reason(), |_| "accepted")
    };
    let strict = Policy::default();
    let lenient = Policy { leeway: Duration::from_secs(60), ..Policy::default() };
    for (offset, expected, with_leeway) in [
        (1, "accepted", "accepted"),
        (0, "expired", "accepted"),
        (-59, "expired", "accepted"),
        (-60, "expired", "expired"),
        (-61, "expired", "expired"),
    ] {
        assert_eq!(verdict(json!({"exp": NOW + offset}), &strict), expected, "exp {offset}");
        assert_eq!(verdict(json!({"exp": NOW + offset}), &lenient), with_leeway, "exp {offset}");
    }
    for (offset, expected, with_leeway) in [
        (0, "accepted", "accepted"),
        (1, "not_yet", "accepted"),
        (60, "not_yet", "accepted"),
        (61, "not_yet", "not_yet"),
    ] {
        assert_eq!(verdict(json!({"nbf": NOW + offset}), &strict), expected, "nbf {offset}");
        assert_eq!(verdict(json!({"nbf": NOW + offset}), &lenient), with_leeway, "nbf {offset}");
    }
    assert_eq!(verdict(json!({"exp": NOW as f64 + 0.5}), &strict), "expired");
    assert_eq!(verdict(json!({"nbf": NOW as f64 + 0.5}), &strict), "not_yet");
    assert_eq!(verdict(json!({"exp": i64::MAX, "nbf": i64::MIN, "iat": -1}), &lenient), "accepted");
    for bad in [json!("1"), json!(null), json!(true), json!([1]), json!({}), json!(1e300)] {
        for name in ["exp", "nbf", "iat"] {
            assert_eq!(verdict(json!({name: bad}), &strict), "claim", "{name} {bad}");
        }
    }
    let required = Policy { require_exp: true, ..Policy::default() };
    assert_eq!(verdict(json!({}), &strict), "accepted");
    assert_eq!(verdict(json!({}), &required), "claim");
    let past =
        Policy { refuse_future_iat: true, leeway: Duration::from_secs(60), ..Policy::default() };
    assert_eq!(verdict(json!({"iat": NOW + 60}), &past), "accepted");
    assert_eq!(verdict(json!({"iat": NOW + 61}), &past), "not_yet");
    assert_eq!(verdict(json!({"iat": NOW + 61}), &strict), "accepted");
}

#[test]
fn issuer_and_audience_where_the_policy_names_them() {
    // rel:T5
    let signer = Signer::new(Algorithm::Hs256);
    let policy = Policy {
        issuer: Some("https://issuer".into()),
        audience: vec!["a".into(), "b".into()],
        ..Policy::default()
    };
    let verdict = |claims: Value| {
        let token = signer.token(&json!({"alg": "HS256"}), &claims);
        check(&token, &[signer.jwk()], &policy).map_or_else(|e| e.reason(), |_| "accepted")
    };
    let iss = "https://issuer";
    assert_eq!(verdict(json!({"iss": iss, "aud": "b"})), "accepted");
    assert_eq!(verdict(json!({"iss": iss, "aud": ["x", "a"]})), "accepted");
    assert_eq!(verdict(json!({"iss": iss, "aud": ["x"]})), "aud");
    assert_eq!(verdict(json!({"iss": iss, "aud": []})), "aud");
    assert_eq!(verdict(json!({"iss": iss, "aud": {"a": 1}})), "aud");
    assert_eq!(verdict(json!({"iss": iss})), "aud");
    assert_eq!(verdict(json!({"iss": "https://issuer/", "aud": "a"})), "iss");
    assert_eq!(verdict(json!({"iss": [iss], "aud": "a"})), "iss");
    assert_eq!(verdict(json!({"aud": "a"})), "iss");
}

#[test]
fn one_text_form_of_each_token() {
    // rel:T6
    let signer = Signer::new(Algorithm::Hs256);
    let token = signer.token(&json!({"alg": "HS256"}), &json!({"a": 1}));
    for bad in [
        format!("{token}="),
        format!("{token}=junk"),
        format!(" {token}"),
        format!("{token}\n"),
        format!("{token}."),
        format!(".{token}"),
        token.replace('.', ".."),
        token.rsplit_once('.').expect("dots").0.to_owned(),
        String::new(),
        "..".to_owned(),
        json!({"payload": "", "signatures": []}).to_string(),
    ] {
        assert_eq!(reason(&bad, &[signer.jwk()]), "malformed", "{bad}");
    }
    let long = format!("{token}{}", "A".repeat(limits::TOKEN_BYTES + 1 - token.len()));
    assert_eq!(reason(&long, &[signer.jwk()]), "too_large");
    assert_eq!(reason(&long[1..], &[signer.jwk()]), "malformed");
}

#[test]
fn header_extensions_are_refused() {
    // rel:T3
    let signer = Signer::new(Algorithm::Hs256);
    for (header, expected) in [
        (json!({"alg": "HS256", "crit": ["exp"], "exp": 1}), "crit"),
        (json!({"alg": "HS256", "crit": []}), "crit"),
        (json!({"alg": "HS256", "b64": false}), "crit"),
        (json!({"alg": "HS256", "b64": true}), "accepted"),
        (json!({"alg": "none"}), "alg"),
        (json!({"typ": "JWT"}), "alg"),
        (json!({"alg": ["HS256"]}), "malformed"),
        (json!({"alg": "HS256", "kid": 1}), "malformed"),
        (json!({"alg": "HS256", "typ": null}), "malformed"),
    ] {
        assert_eq!(
            reason(&signer.token(&header, &json!({})), &[signer.jwk()]),
            expected,
            "{header}"
        );
    }
    let unsigned = format!("{}.{}.", b64(r#"{"alg":"none"}"#), b64("{}"));
    assert_eq!(reason(&unsigned, &[signer.jwk()]), "alg");
}

#[test]
fn unusable_keys_are_skipped_and_named() {
    // rel:K11
    let good = Signer::new(Algorithm::Es256);
    let rsa = Signer::new(Algorithm::Rs256).jwk();
    let small = b64([0xffu8; 255]);
    let keys = [
        json!({"kty": "oct", "k": "", "kid": "empty"}),
        json!({"kty": "unknown"}),
        json!(7),
        with(rsa.clone(), json!({"n": small})),
        with(rsa.clone(), json!({"e": "AQ"})),
        with(rsa.clone(), json!({"e": "BA"})),
        with(rsa.clone(), json!({"use": "enc"})),
        with(rsa.clone(), json!({"key_ops": ["sign"]})),
        with(rsa.clone(), json!({"alg": "ES256"})),
        with(good.jwk(), json!({"x": b64([1u8; 32])})),
        with(good.jwk(), json!({"crv": "P-384"})),
        json!({"kty": "OKP", "crv": "Ed448", "x": b64([1u8; 57])}),
        with(rsa, json!({"kid": "k".repeat(limits::KID_BYTES + 1)})),
    ];
    for key in &keys {
        let error = JwkSet::parse(&jwks(std::slice::from_ref(key))).expect_err("unusable");
        assert!(matches!(error, JwksError::NoUsableKey { skipped: 1, .. }), "{key}: {error}");
    }
    let set = JwkSet::parse(&jwks(&[&keys[..], &[good.jwk()]].concat())).expect("one is good");
    assert_eq!((set.len(), set.warnings().len()), (1, keys.len()));
    assert_eq!(set.warnings()[0].kid.as_deref(), Some("empty"));
    let short = JwkSet::parse(&jwks(&[json!({"kty": "oct", "k": "c2hvcnQ"})])).expect("usable");
    assert_eq!((short.len(), short.warnings().len()), (1, 1));
}

#[test]
fn texts_that_are_no_jwk_set() {
    for (text, expected) in [
        (&b""[..], "it is empty"),
        (b" \n", "it is empty"),
        (b"garbage", "it is not a strict JSON object (line 1, column 1)"),
        (b"{\"keys\":[]", "it is not a strict JSON object (line 1, column 10)"),
        (b"[]", "it is not a strict JSON object (line 1, column 0)"),
        (b"\xff\xfe{\0", "it is not UTF-8"),
        (b"{\"keys\":[]}", "it has no usable key (0 skipped)"),
        (b"{\"keys\":{}}", "it has no array \"keys\": a JWK Set is expected, {\"keys\":[…]}"),
        (
            b"{\"kty\":\"oct\",\"k\":\"AAAA\"}",
            "it has no array \"keys\": a JWK Set is expected, {\"keys\":[…]}",
        ),
    ] {
        let error = JwkSet::parse(text).expect_err("not a set").to_string();
        assert!(error.starts_with(expected), "{error}");
    }
    assert!(matches!(JwkSet::parse(&vec![b' '; limits::JWKS_BYTES + 1]), Err(JwksError::TooLarge)));
    let many = vec![json!({"kty": "x"}); limits::JWKS_KEYS + 1];
    assert!(matches!(JwkSet::parse(&jwks(&many)), Err(JwksError::TooManyKeys)));
}

#[test]
fn errors_hold_nothing_of_the_token() {
    let signer = Signer::new(Algorithm::Hs256);
    let canary = "canary-7f3a";
    let payload = format!("{{\"a\":\"{canary}\",\"a\":1}}");
    let input =
        format!("{}.{}", b64(format!(r#"{{"alg":"HS256","kid":"{canary}"}}"#)), b64(payload));
    let token = format!("{input}.{}", b64(signer.sign("HS256", input.as_bytes())));
    let error = check(&token, &[signer.jwk()], &Policy::default()).expect_err("duplicate");
    assert_eq!(error.reason(), "malformed");
    assert!(!format!("{error} {error:?}").contains(canary));
}

#[test]
fn keys_are_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<JwkSet>();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// rel:T6: there is no second text that means the same token.
    #[test]
    fn any_single_edit_is_refused(position in 0usize..1_000, byte: u8) {
        let signer = Signer::Secret(vec![7; 32]);
        let token = signer.token(&json!({"alg": "HS256"}), &json!({"sub": "someone", "exp": NOW + 1}));
        let mut edited = token.clone().into_bytes();
        let position = position % edited.len();
        prop_assume!(edited[position] != byte);
        edited[position] = byte;
        let keys = JwkSet::parse(&jwks(&[signer.jwk()])).expect("keys");
        prop_assert!(verify(token.as_bytes(), &keys, &Policy::default(), NOW).is_ok());
        prop_assert!(verify(&edited, &keys, &Policy::default(), NOW).is_err());
    }

    /// Whatever comes, there is a verdict.
    #[test]
    fn no_input_panics(token: Vec<u8>, keys: Vec<u8>) {
        let signer = Signer::Secret(vec![7; 32]);
        let set = JwkSet::parse(&jwks(&[signer.jwk()])).expect("keys");
        prop_assert!(verify(&token, &set, &Policy::default(), NOW).is_err());
        prop_assert!(JwkSet::parse(&keys).is_err());
    }
}

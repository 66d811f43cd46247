//! rel:T11: a token gets the same verdict from the cache as without it, whatever came before.

#[expect(dead_code, unreachable_pub, reason = "shared by the test binaries")]
mod support;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use jwt_core::{
    Algorithm, ClaimError, Claims, ClaimsSet, Compact, JwkSet, Policy, Rejection, TokenCache,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use support::{Signer, jwks, with};

const NOW: i64 = 1_800_000_000;

/// As the module does it: the cache knows token and keys, the policy is asked for each request.
fn admit(
    cache: &mut TokenCache<Arc<ClaimsSet>>,
    token: &str,
    keys: &JwkSet,
    policy: &Policy,
    now: i64,
) -> Result<Claims, Rejection> {
    if let Some(set) = cache.get(token.as_bytes(), keys.id()) {
        return Ok(policy.admit(set, now)?);
    }
    let compact = Compact::parse(token.as_bytes())?;
    policy.check_header(compact.header())?;
    let set = Arc::new(compact.verify(keys)?.into_claims_set()?);
    cache.insert(token.as_bytes(), keys.id(), Arc::clone(&set), set.size());
    Ok(policy.admit(&set, now)?)
}

/// The same checks without a cache and by the other way through the library.
fn plain(token: &str, keys: &JwkSet, policy: &Policy, now: i64) -> Result<Claims, Rejection> {
    let compact = Compact::parse(token.as_bytes())?;
    policy.check_header(compact.header())?;
    Ok(policy.validate(compact.verify(keys)?, now)?)
}

struct World {
    tokens: Vec<String>,
    sets: Vec<JwkSet>,
    policies: Vec<Policy>,
}

/// Tokens good and bad for several keys; key sets that agree and differ on a kid; policies that differ in each rule.
static WORLD: LazyLock<World> = LazyLock::new(|| {
    let signers = [
        (Signer::Secret(vec![1; 32]), "HS256"),
        (Signer::Secret(vec![2; 32]), "HS256"),
        (Signer::new(Algorithm::Ed25519), "EdDSA"),
    ];
    let claims = [
        json!({}),
        json!({"exp": NOW + 5, "iat": NOW - 5, "iss": "a", "aud": "x"}),
        json!({"exp": NOW + 10, "nbf": NOW - 3, "iat": NOW, "iss": "b", "aud": ["x", "y"]}),
        json!({"exp": "soon"}),
        json!({"nbf": NOW + 4}),
    ];
    let mut tokens = vec![String::new(), "a.b.c".to_owned(), "e30.e30.".to_owned()];
    for (signer, alg) in &signers {
        for header in [json!({}), json!({"kid": "k"}), json!({"kid": "l", "typ": "at+jwt"})] {
            for claims in &claims {
                let token = signer.token(&with(header.clone(), json!({ "alg": alg })), claims);
                let mut forged = token.clone();
                forged.truncate(token.len() - 4);
                tokens.extend([token, forged]);
            }
        }
        // Its signature is right, but the payload is none that is accepted.
        tokens.push(signer.token(&json!({ "alg": alg }), &json!([])));
    }
    let key = |n: usize, kid: &str| with(signers[n].0.jwk(), json!({ "kid": kid }));
    let set = |keys: &[Value]| JwkSet::parse(&jwks(keys)).expect("keys");
    let mut sets = vec![
        set(&[key(0, "k"), key(2, "l")]),
        // The same keys again: another version of the file.
        set(&[key(0, "k"), key(2, "l")]),
        set(&[key(1, "k"), key(2, "l")]),
        set(&[signers[2].0.jwk()]),
    ];
    sets.push(JwkSet::union([&sets[0], &sets[2]]));
    sets.push(JwkSet::default());
    let seconds = |n: u64| Some(Duration::from_secs(n));
    let policies = vec![
        Policy::default(),
        Policy { leeway: Duration::from_secs(3), ..Policy::default() },
        Policy { require_exp: true, ..Policy::default() },
        Policy { validate_exp: false, validate_nbf: false, ..Policy::default() },
        Policy { issuer: Some("a".into()), ..Policy::default() },
        Policy { audience: vec!["y".into()], ..Policy::default() },
        Policy { max_age: seconds(4), ..Policy::default() },
        Policy { max_lifetime: seconds(10), ..Policy::default() },
        Policy { algorithms: vec![Algorithm::Ed25519], ..Policy::default() },
        Policy { typ: Some("at+jwt".into()), ..Policy::default() },
        Policy { refuse_future_iat: true, ..Policy::default() },
    ];
    World { tokens, sets, policies }
});

fn agree(most_bytes: usize, requests: &[(usize, usize, usize, i64)]) -> usize {
    let world = &*WORLD;
    let mut cache = TokenCache::new(most_bytes);
    let mut accepted = 0;
    for &(token, keys, policy, offset) in requests {
        let token = &world.tokens[token % world.tokens.len()];
        let keys = &world.sets[keys % world.sets.len()];
        let policy = &world.policies[policy % world.policies.len()];
        let cached = admit(&mut cache, token, keys, policy, NOW + offset);
        let expected = plain(token, keys, policy, NOW + offset);
        match (cached, expected) {
            (Ok(cached), Ok(expected)) => {
                accepted += 1;
                assert_eq!(cached.json(), expected.json());
                assert_eq!(cached.header().object().text(), expected.header().object().text());
            }
            (Err(cached), Err(expected)) => {
                assert_eq!(cached.reason(), expected.reason());
                assert_eq!(cached.to_string(), expected.to_string());
            }
            (cached, expected) => panic!("cached {cached:?}, without a cache {expected:?}"),
        }
        assert!(cache.bytes() <= most_bytes);
    }
    accepted
}

fn requests(most: usize) -> impl Strategy<Value = Vec<(usize, usize, usize, i64)>> {
    prop::collection::vec((0..200_usize, 0..6_usize, 0..11_usize, -15..15_i64), 0..most)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// From no room at all, over room for a few tokens, to room for all.
    #[test]
    fn a_cached_verdict_is_the_verdict(most_bytes in 0..100_000_usize, requests in requests(400)) {
        agree(most_bytes, &requests);
    }
}

/// 10^6 requests, as rel:T11 asks for: a minute or two unoptimised.
#[test]
#[ignore = "long"]
fn a_million_verdicts_agree() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        // xorshift64: any spread of numbers will do, as long as each run has the same.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).expect("below a usize")
    };
    let mut accepted = 0;
    for most_bytes in [0, 4_000, 20_000, 1_000_000] {
        let requests: Vec<_> = (0..250_000)
            .map(|_| (random(200), random(6), random(11), random(30) as i64 - 15))
            .collect();
        accepted += agree(most_bytes, &requests);
    }
    assert!(accepted > 50_000, "{accepted}: too few to say anything");
}

/// A cached token is refused the moment it expires, and stays what it was for another policy.
#[test]
fn time_goes_on_for_cached_tokens() {
    let signer = Signer::Secret(vec![1; 32]);
    let token = signer.token(&json!({"alg": "HS256"}), &json!({"exp": NOW}));
    let keys = JwkSet::parse(&jwks(&[signer.jwk()])).expect("keys");
    let mut cache = TokenCache::new(10_000);
    let (strict, lenient) =
        (Policy::default(), Policy { leeway: Duration::from_secs(60), ..Policy::default() });
    for (now, policy, accepted) in [
        (NOW - 1, &strict, true),
        (NOW, &strict, false),
        (NOW, &lenient, true),
        (NOW + 60, &lenient, false),
        (NOW - 1, &strict, true),
    ] {
        let verdict = admit(&mut cache, &token, &keys, policy, now);
        assert_eq!(verdict.is_ok(), accepted, "{now}");
        assert!(
            !matches!(verdict, Err(ref e) if !matches!(e, Rejection::Claim(ClaimError::Expired)))
        );
        assert_eq!(cache.len(), 1);
    }
}

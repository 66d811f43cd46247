//! Each algorithm signs what the verifier accepts, and keys survive their files.

use super::*;

const ALL: [SigningAlgorithm; 9] = [
    SigningAlgorithm::Rs256,
    SigningAlgorithm::Rs384,
    SigningAlgorithm::Rs512,
    SigningAlgorithm::Ps256,
    SigningAlgorithm::Ps384,
    SigningAlgorithm::Ps512,
    SigningAlgorithm::Es256,
    SigningAlgorithm::Es384,
    SigningAlgorithm::EdDsa,
];

fn set(key: &SigningKey) -> jwt_core::JwkSet {
    let jwks = PublicJwks { keys: vec![key.jwk().clone()] };
    jwt_core::JwkSet::parse(&serde_json::to_vec(&jwks).unwrap()).unwrap()
}

#[test]
fn t34_every_algorithm_signs_what_its_jwk_verifies() {
    let policy = jwt_core::Policy::default();
    for algorithm in ALL {
        let key = SigningKey::generate(algorithm, RsaBits::B2048).unwrap();
        let token = key.sign(&serde_json::json!({"identifier": "x"})).unwrap();
        let claims = jwt_core::verify(token.as_bytes(), &set(&key), &policy, 0)
            .unwrap_or_else(|error| panic!("{}: {error}", algorithm.as_str()));
        assert_eq!(claims.header().kid(), Some(key.kid()));
        let other = SigningKey::generate(algorithm, RsaBits::B2048).unwrap();
        assert!(jwt_core::verify(token.as_bytes(), &set(&other), &policy, 0).is_err());
    }
}

#[test]
fn a_key_read_back_from_its_pem_has_the_same_name_and_signs_the_same() {
    for algorithm in ALL {
        let key = SigningKey::generate(algorithm, RsaBits::B2048).unwrap();
        let pem = key.to_pem().unwrap();
        assert!(pem.lines().all(|line| line.len() <= 64));
        let again = SigningKey::from_pem(pem.as_bytes(), algorithm).unwrap();
        assert_eq!(again.jwk(), key.jwk());
        let token = again.sign(&serde_json::json!({})).unwrap();
        jwt_core::verify(token.as_bytes(), &set(&key), &jwt_core::Policy::default(), 0).unwrap();
    }
}

#[test]
fn t33_the_rsa_jwk_has_exactly_the_originals_members() {
    let key = SigningKey::generate(SigningAlgorithm::Rs256, RsaBits::B2048).unwrap();
    let jwk = serde_json::to_value(key.jwk()).unwrap();
    let mut names: Vec<_> = jwk.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["alg", "e", "kid", "kty", "n", "use", "x5c", "x5t"]);
    assert_eq!(jwk["e"], "AQAB");
    assert_eq!(jwk["kid"], jwk["x5t"]);
    assert_eq!(jwk["kid"].as_str().unwrap().len(), 27);
    let spki = STANDARD.decode(jwk["x5c"][0].as_str().unwrap()).unwrap();
    assert_eq!(jwk["kid"], key_id(&spki));
}

#[test]
fn k8_no_public_form_has_a_private_member() {
    for algorithm in ALL {
        let key = SigningKey::generate(algorithm, RsaBits::B2048).unwrap();
        let jwk = serde_json::to_value(key.jwk()).unwrap();
        for name in ["d", "p", "q", "dp", "dq", "qi", "k", "oth"] {
            assert!(jwk.get(name).is_none(), "{name}");
        }
        assert!(!format!("{key:?}").contains("PRIVATE"));
    }
}

#[test]
fn what_is_no_fitting_private_key_is_refused() {
    let rsa = SigningKey::generate(SigningAlgorithm::Rs256, RsaBits::B2048).unwrap();
    let pem = rsa.to_pem().unwrap();
    for algorithm in [SigningAlgorithm::Es256, SigningAlgorithm::EdDsa] {
        let error = SigningKey::from_pem(pem.as_bytes(), algorithm).unwrap_err();
        assert!(matches!(error, KeyError::Rejected(_)));
    }
    let p256 = SigningKey::generate(SigningAlgorithm::Es256, RsaBits::B2048).unwrap();
    let pem = p256.to_pem().unwrap();
    assert!(SigningKey::from_pem(pem.as_bytes(), SigningAlgorithm::Es384).is_err());
    let public = rsa.to_public_pem().unwrap();
    for text in ["", "hello", public.as_str()] {
        let error = SigningKey::from_pem(text.as_bytes(), SigningAlgorithm::Rs256).unwrap_err();
        assert!(matches!(error, KeyError::Pem));
    }
}

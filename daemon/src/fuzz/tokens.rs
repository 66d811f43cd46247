//! What `jwt-core` reads.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use jwt_core::{
    ClaimPath, Compact, DenyList, Json, JwkSet, Object, Policy, Revocations, dangerous, json,
};
use serde_json::Value;

/// The keys of RFC 7515's examples A.1 to A.3, and of RFC 8037's A.1.
const KEYS: &str = include_str!("keys.json");

/// Before the examples expire.
const NOW: i64 = 1_300_000_000;

static SET: LazyLock<JwkSet> =
    LazyLock::new(|| JwkSet::parse(KEYS.as_bytes()).expect("a set of keys"));

/// The same keys for the other library.
static OTHERS: LazyLock<Vec<DecodingKey>> = LazyLock::new(|| {
    let set: Value = serde_json::from_str(KEYS).expect("JSON");
    let keys = set["keys"].as_array().expect("keys").iter();
    keys.map(|key| {
        let key: Jwk = serde_json::from_value(key.clone()).expect("a JWK");
        DecodingKey::from_jwk(&key).expect("a key")
    })
    .collect()
});

/// A token: what is accepted here another library accepts too, and it is in its one form.
pub fn token(data: &[u8]) {
    let policy = Policy::default();
    if let Ok(claims) = jwt_core::verify(data, &SET, &policy, NOW) {
        let text = std::str::from_utf8(data).expect("an accepted token is text");
        let alg = claims.header().alg().expect("an accepted token has one").name();
        let alg: Algorithm = alg.parse().expect("an algorithm of the other library");
        let mut validation = Validation::new(alg);
        validation.required_spec_claims.clear();
        (validation.validate_exp, validation.validate_aud) = (false, false);
        let decoded = OTHERS.iter().find_map(|key| {
            jsonwebtoken::decode::<Value>(text, key, &validation).ok().map(|data| data.claims)
        });
        let decoded = decoded.expect("the other library accepts it");
        assert_eq!(serde_json::from_str::<Value>(claims.json()).ok(), Some(decoded));
    }
    let Ok(compact) = Compact::parse(data) else { return };
    for segment in data.split(|byte| *byte == b'.') {
        let decoded = URL_SAFE_NO_PAD.decode(segment).expect("it was decoded before");
        assert_eq!(URL_SAFE_NO_PAD.encode(decoded).as_bytes(), segment, "one form only");
    }
    // The claims as they would be read if the signature were good.
    let jws = dangerous::assume_verified(compact);
    if let Ok(claims) = policy.validate(jws, NOW) {
        let value: Value = serde_json::from_str(claims.json()).expect("accepted claims are JSON");
        let not_after = |name: &str| value[name].as_f64();
        assert!(not_after("exp").is_none_or(|exp| exp > NOW as f64), "{value}");
        assert!(not_after("nbf").is_none_or(|nbf| nbf <= NOW as f64), "{value}");
    }
}

/// A segment: decoded exactly if a second reader, bit by bit, decodes it, and to the same.
pub fn base64url(data: &[u8]) {
    if data.contains(&b'.') || data.len() > 8 * 1024 {
        return;
    }
    let token = [&b"eyJhbGciOiJIUzI1NiJ9."[..], data, b".AA"].concat();
    let read = Compact::parse(&token).ok().map(dangerous::assume_verified);
    assert_eq!(read.map(|jws| jws.payload().to_vec()), bit_by_bit(data));
}

fn bit_by_bit(text: &[u8]) -> Option<Vec<u8>> {
    let mut bits = Vec::new();
    for byte in text {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        bits.extend((0..6).rev().map(|bit| value >> bit & 1));
    }
    let rest = bits.len() % 8;
    if rest >= 6 || bits[bits.len() - rest..].contains(&1) {
        return None;
    }
    let byte = |bits: &[u8]| bits.iter().fold(0, |byte, bit| byte << 1 | bit);
    Some(bits.chunks_exact(8).map(byte).collect())
}

/// A JSON object: what is read here is what another reader reads, member by member, and sorting it changes nothing.
pub fn json_strict(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = (Json::parse(text), json::elements(text, 9), json::string(text));
    }
    let Ok(object) = Object::parse(data) else { return };
    let Ok(Value::Object(value)) = serde_json::from_slice(data) else {
        panic!("the other reader finds no object");
    };
    assert_eq!(object.names().count(), value.len(), "no member is there twice");
    for name in object.names() {
        let raw = object.raw(name).expect("a named member");
        assert_eq!(serde_json::from_str::<Value>(raw).ok().as_ref(), value.get(name), "{name:?}");
        assert_eq!(object.str(name).as_deref(), value[name].as_str());
    }
    let sorted = object.to_sorted_json();
    assert_eq!(serde_json::from_str::<Value>(&sorted).ok(), Some(Value::Object(value)));
    assert_eq!(json::to_sorted(&sorted), sorted);
}

/// A path, a line break, the object to look into.
pub fn claim_path(data: &[u8]) {
    let Some([path, text]) = crate::fuzz::lines(data) else { return };
    let Ok(object) = Object::parse(text.as_bytes()) else {
        let _ = ClaimPath::parse_jq(path);
        return;
    };
    let value: Value = serde_json::from_str(text).expect("it was read before");
    let is_part = |found: Option<&str>| {
        assert!(found.is_none_or(|found| serde_json::from_str::<Value>(found).is_ok()));
    };
    if let Ok(jq) = ClaimPath::parse_jq(path) {
        is_part(jq.find(&object));
        assert_eq!(jq.find(&object), jq.find_in(object.text()));
    }
    is_part(ClaimPath::parse_delimited(path, ".", "\"").find(&object));
    if !path.contains('"') {
        let mut names = path.split('.').filter(|name| !name.is_empty()).peekable();
        let expected = match names.peek() {
            None => None,
            Some(_) => names.try_fold(&value, |value, name| value.as_object()?.get(name)),
        };
        let found = ClaimPath::parse_delimited(path, ".", "\"").find(&object);
        let found = found.map(|found| serde_json::from_str(found).expect("a JSON value"));
        assert_eq!(found.as_ref(), expected);
    }
}

/// The files that nginx reads: keys, in both forms, and what is revoked.
pub fn jwks(data: &[u8]) {
    if let Ok(set) = JwkSet::parse(data) {
        assert_eq!(set.keys().count(), set.len());
        assert!(!set.is_empty() && set.kids().count() <= set.len());
        assert!(set.warnings().iter().all(|warning| !warning.text.is_empty()));
        assert!(JwkSet::union([&set, &set]).len() >= set.len());
        let _ = jwt_core::verify(b"eyJhbGciOiJIUzI1NiJ9.e30.AA", &set, &Policy::default(), NOW);
    }
    let _ = (JwkSet::parse_keyval(data), Revocations::parse(data), DenyList::parse(data));
}

//! The claims of a token (RFC 7519 §4), in two stages: [`ClaimsSet`] once the signature is verified, [`Claims`] once
//! a policy has accepted it.

use std::borrow::Cow;
use std::ops::Deref;
use std::sync::Arc;

use crate::error::ClaimError;
use crate::header::JoseHeader;
use crate::json::Object;

/// The claims and the header of a token whose signature is verified; not yet validated against a policy.
///
/// Only [`crate::VerifiedJws::into_claims_set`] makes one. It is what a cache keeps: the same for every policy.
#[derive(Debug)]
pub struct ClaimsSet {
    header: JoseHeader,
    object: Object,
    // Read once: a policy looks at them for each request.
    pub(crate) exp: DateClaim,
    pub(crate) nbf: DateClaim,
    pub(crate) iat: DateClaim,
}

impl ClaimsSet {
    pub(crate) fn new(header: JoseHeader, object: Object) -> Self {
        let [exp, nbf, iat] = ["exp", "nbf", "iat"].map(|name| DateClaim::of(&object, name));
        Self { header, object, exp, nbf, iat }
    }

    /// The verified header.
    pub fn header(&self) -> &JoseHeader {
        &self.header
    }

    /// The claims set.
    pub fn object(&self) -> &Object {
        &self.object
    }

    /// The text of the claims set, as it was signed.
    pub fn json(&self) -> &str {
        self.object.text()
    }

    /// The names of the claims, in the order of the text.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.object.names()
    }

    /// The JSON text of the claim `name`.
    pub fn raw(&self, name: &str) -> Option<&str> {
        self.object.raw(name)
    }

    /// The claim `name`, if it is a string.
    pub fn str(&self, name: &str) -> Option<Cow<'_, str>> {
        self.object.str(name)
    }

    /// The claim `name`, if it is an integer of 64 bits.
    pub fn i64(&self, name: &str) -> Option<i64> {
        self.raw(name)?.parse().ok()
    }

    /// `exp` in whole seconds, a fraction cut off (RFC 7519 §4.1.4); `None` if it is absent or no NumericDate.
    pub fn exp(&self) -> Option<i64> {
        self.exp.floor()
    }

    /// `nbf` in whole seconds, as [`ClaimsSet::exp`] (RFC 7519 §4.1.5).
    pub fn nbf(&self) -> Option<i64> {
        self.nbf.floor()
    }

    /// `iat` in whole seconds, as [`ClaimsSet::exp`] (RFC 7519 §4.1.6).
    pub fn iat(&self) -> Option<i64> {
        self.iat.floor()
    }

    /// Bytes of memory held, roughly; for the account of a cache.
    pub fn size(&self) -> usize {
        size_of::<Self>() + self.header.heap_size() + self.object.heap_size()
    }
}

/// The claims and the header of an accepted token: the proof that a policy accepted it. Cheap to clone.
///
/// Only [`crate::Policy`] makes one.
#[derive(Clone, Debug)]
pub struct Claims(Arc<ClaimsSet>);

impl Claims {
    pub(crate) fn accepted(set: Arc<ClaimsSet>) -> Self {
        Self(set)
    }

    /// The claims set without the proof, for a cache.
    pub fn set(&self) -> &Arc<ClaimsSet> {
        &self.0
    }
}

impl Deref for Claims {
    type Target = ClaimsSet;

    fn deref(&self) -> &ClaimsSet {
        &self.0
    }
}

/// A claim that has to be a NumericDate, as it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DateClaim {
    Absent,
    Malformed,
    At(NumericDate),
}

/// A NumericDate (RFC 7519 §2), which may have a fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NumericDate {
    pub(crate) floor: i64,
    pub(crate) ceil: i64,
}

impl DateClaim {
    /// An integer of 64 bits, or any other JSON number below 2^53 in magnitude: from there on a double stands for more
    /// than one whole number, and which one depends on how serde_json was built. Strings and null are malformed, so that
    /// a claim never means another time to another verifier.
    fn of(object: &Object, name: &str) -> Self {
        const BOUND: f64 = 9_007_199_254_740_992.0;
        let Some(text) = object.raw(name) else { return Self::Absent };
        if let Ok(seconds) = text.parse::<i64>() {
            return Self::At(NumericDate { floor: seconds, ceil: seconds });
        }
        // JSON's grammar, not Rust's, which also takes "inf".
        match serde_json::from_str::<f64>(text) {
            Ok(number) if number.abs() < BOUND =>
            {
                #[expect(clippy::cast_possible_truncation, reason = "checked against 2^53 above")]
                Self::At(NumericDate { floor: number.floor() as i64, ceil: number.ceil() as i64 })
            }
            _ => Self::Malformed,
        }
    }

    /// The date, or nothing if it is absent.
    pub(crate) fn read(self, name: &'static str) -> Result<Option<NumericDate>, ClaimError> {
        match self {
            Self::Absent => Ok(None),
            Self::Malformed => Err(ClaimError::NotADate(name)),
            Self::At(date) => Ok(Some(date)),
        }
    }

    fn floor(self) -> Option<i64> {
        match self {
            Self::At(date) => Some(date.floor),
            Self::Absent | Self::Malformed => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(claims: &str) -> ClaimsSet {
        let header = JoseHeader::parse(br#"{"alg":"HS256","kid":"k"}"#.to_vec()).expect("header");
        ClaimsSet::new(header, Object::parse(claims.as_bytes()).expect("claims"))
    }

    #[test]
    fn dates_are_read_once_and_rounded_down() {
        let claims = set(r#"{"exp":10.9,"nbf":-10.1,"iat":9223372036854775807}"#);
        assert_eq!(
            (claims.exp(), claims.nbf(), claims.iat()),
            (Some(10), Some(-11), Some(i64::MAX))
        );
        assert_eq!(claims.nbf, DateClaim::At(NumericDate { floor: -11, ceil: -10 }));
        let claims = set(r#"{"exp":"10","nbf":null}"#);
        assert_eq!((claims.exp(), claims.nbf(), claims.iat()), (None, None, None));
        assert!(matches!(claims.exp.read("exp"), Err(ClaimError::NotADate("exp"))));
        assert!(matches!(claims.iat.read("iat"), Ok(None)));
        for malformed in ["9007199254740993.0", "1e300", "true", "[1]", "18446744073709551616"] {
            assert_eq!(set(&format!(r#"{{"exp":{malformed}}}"#)).exp, DateClaim::Malformed);
        }
    }

    #[test]
    fn claims_in_their_forms() {
        let claims = Claims::accepted(Arc::new(set(r#"{"a":"\u0062","n":7,"big":1e2}"#)));
        assert_eq!(claims.str("a").as_deref(), Some("b"));
        assert_eq!((claims.str("n"), claims.raw("n"), claims.i64("n")), (None, Some("7"), Some(7)));
        assert_eq!((claims.i64("big"), claims.i64("absent")), (None, None));
        assert_eq!(claims.names().collect::<Vec<_>>(), ["a", "n", "big"]);
        assert_eq!(claims.json(), claims.object().text());
        assert_eq!(claims.header().kid(), Some("k"));
        assert!(Arc::ptr_eq(claims.set(), claims.clone().set()));
    }

    #[test]
    fn the_account_grows_with_the_token() {
        let (small, large) =
            (set("{}").size(), set(&format!(r#"{{"a":"{}"}}"#, "x".repeat(5_000))).size());
        assert!(small > size_of::<ClaimsSet>() && large > small + 5_000, "{small} {large}");
    }
}

//! What reads a token without the proof that a key gives: the one place that a reviewer has to search for.

use crate::compact::Compact;
use crate::error::CompactError;
use crate::json::Object;
use crate::verify::VerifiedJws;

/// The claims of a token that nobody has verified; `None` if the payload is no strict JSON object.
///
/// For choosing the issuer whose keys then have to verify the token, and for log lines that say "unverified" in
/// the variable's name. Nothing else may depend on them: whoever sends the token writes them.
pub fn claims(compact: &Compact<'_>) -> Option<Object> {
    Object::parse(&compact.payload).ok()
}

/// Takes the signature for valid without a look at it.
///
/// For an nginx behind another that has verified the token (`auth_jwt_validate_sig off`). Whoever reaches such a
/// location past the first one is whoever they say. Never put the result in a cache that verified tokens share.
pub fn assume_verified(compact: Compact<'_>) -> VerifiedJws {
    let (header, payload) = compact.into_verified_parts();
    VerifiedJws::new(header, payload)
}

/// Reads an unsecured token (RFC 7519 §6): `alg` is `none` and the signature empty; nothing else is accepted.
///
/// For the one configuration whose operator demands it by name (`auth_jwt_require_header alg` with `none`).
/// `most_bytes` bounds the token. Its header's [`alg`](crate::JoseHeader::alg) is `None`.
///
/// # Errors
/// As [`Compact::parse`]; [`CompactError::Algorithm`] for every `alg` but `none` (in this spelling), and
/// [`CompactError::Signature`] for a signature that is not empty (RFC 7518 §3.6).
pub fn parse_unsecured(token: &[u8], most_bytes: usize) -> Result<VerifiedJws, CompactError> {
    Compact::unsecured(token, most_bytes)
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;
    use crate::{ClaimError, Policy, limits};

    fn token(header: &str, payload: &str) -> String {
        let [header, payload] = [header, payload].map(|part| URL_SAFE_NO_PAD.encode(part));
        format!("{header}.{payload}.")
    }

    #[test]
    fn unverified_claims_are_read_as_strictly_as_others() {
        let read = |payload: &str| {
            let token = token(r#"{"alg":"HS256"}"#, payload);
            claims(&Compact::parse(token.as_bytes()).expect("its form is right"))
        };
        assert_eq!(read(r#"{"iss":"a"}"#).expect("object").str("iss").as_deref(), Some("a"));
        assert!(read(r#"{"iss":"a","iss":"b"}"#).is_none());
        assert!(read("[]").is_none());
    }

    #[test]
    fn what_is_assumed_still_has_to_be_valid() {
        let token = token(r#"{"alg":"HS256"}"#, r#"{"exp":10}"#);
        let jws = || assume_verified(Compact::parse(token.as_bytes()).expect("its form is right"));
        assert!(Policy::default().validate(jws(), 9).is_ok());
        assert!(matches!(Policy::default().validate(jws(), 10), Err(ClaimError::Expired)));
    }

    #[test]
    fn a_policy_with_algorithms_admits_no_unsecured_token() {
        let token = token(r#"{"alg":"none"}"#, "{}");
        let jws = || parse_unsecured(token.as_bytes(), limits::TOKEN_BYTES).expect("unsecured");
        assert!(Policy::default().validate(jws(), 0).is_ok());
        let policy = Policy { algorithms: crate::Algorithm::ALL.to_vec(), ..Policy::default() };
        assert!(matches!(policy.validate(jws(), 0), Err(ClaimError::Algorithm)));
        assert!(parse_unsecured(token.as_bytes(), token.len() - 1).is_err());
    }
}

//! Rules for registered claims (RFC 7519 §4.1) and for the header.

use std::sync::Arc;
use std::time::Duration;

use crate::alg::Algorithm;
use crate::claims::{Claims, ClaimsSet, NumericDate};
use crate::error::{ClaimError, Rejection};
use crate::header::JoseHeader;
use crate::json;
use crate::verify::VerifiedJws;

/// What a verified token must satisfy. The default checks `exp`, `nbf` and the form of `iat`.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Tolerance for clocks that differ, in whole seconds, for `exp`, `nbf` and `iat`. Default: none.
    pub leeway: Duration,
    /// Whether `exp` is looked at. Default: yes. If not, it is neither needed nor read, but by `max_lifetime`.
    pub validate_exp: bool,
    /// Whether `nbf` is looked at. Default: yes. If not, it is not read.
    pub validate_nbf: bool,
    /// Refuse a token without `exp`. Default: accept it, without a time limit.
    pub require_exp: bool,
    /// Refuse a token whose `iat` is in the future. Default: accept it, as RFC 7519 §4.1.6 asks nothing.
    pub refuse_future_iat: bool,
    /// The only issuer, compared as a case-sensitive string (RFC 7519 §4.1.1). Default: any.
    pub issuer: Option<String>,
    /// `aud` must name one of these (RFC 7519 §4.1.3). Default, empty: not looked at.
    pub audience: Vec<String>,
    /// Longest time since `iat`, in whole seconds, which the token must then have; `leeway` is added.
    /// Default: any. An `iat` in the future passes, unless `refuse_future_iat`.
    pub max_age: Option<Duration>,
    /// Longest time from `iat` to `exp`, in whole seconds; the token must then have both. Default: any.
    pub max_lifetime: Option<Duration>,
    /// The header's `alg` must be one of these. Default, empty: any that the key permits.
    pub algorithms: Vec<Algorithm>,
    /// The header's `typ`, a media type whose `application/` may be left out on both sides (RFC 7515 §4.1.9),
    /// compared without regard to ASCII case. Default: any, or none.
    pub typ: Option<String>,
    /// Each of these must be among the token's scopes; see [`Policy::check_scope`]. Default, empty: not looked at.
    pub scope: Vec<String>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            leeway: Duration::ZERO,
            validate_exp: true,
            validate_nbf: true,
            require_exp: false,
            refuse_future_iat: false,
            issuer: None,
            audience: Vec::new(),
            max_age: None,
            max_lifetime: None,
            algorithms: Vec::new(),
            typ: None,
            scope: Vec::new(),
        }
    }
}

impl Policy {
    /// Checks what the header says of the token, before any key is looked at.
    ///
    /// # Errors
    /// A [`Rejection::Claim`] of [`ClaimError::Algorithm`] or [`ClaimError::Typ`].
    pub fn check_header(&self, header: &JoseHeader) -> Result<(), Rejection> {
        Ok(self.header(header)?)
    }

    /// Checks the header and the registered claims of `jws` against this policy.
    ///
    /// `now` is seconds since the epoch. A token is valid while `nbf - leeway <= now < exp + leeway`.
    ///
    /// # Errors
    /// [`ClaimError::Payload`] for a payload that is no JSON object, else by the first rule that fails.
    pub fn validate(&self, jws: VerifiedJws, now: i64) -> Result<Claims, ClaimError> {
        let set = jws.into_claims_set()?;
        self.check(&set, now)?;
        Ok(Claims::accepted(Arc::new(set)))
    }

    /// As [`Policy::validate`], for a claims set that a cache kept. It allocates nothing for a token that it
    /// accepts, unless `iss` or `aud` is written with escapes.
    ///
    /// # Errors
    /// By the first rule that fails.
    pub fn admit(&self, set: &Arc<ClaimsSet>, now: i64) -> Result<Claims, ClaimError> {
        self.check(set, now)?;
        Ok(Claims::accepted(Arc::clone(set)))
    }

    /// Whether claims that this policy accepted before are still in time at `now`.
    ///
    /// # Errors
    /// As [`Policy::validate`].
    pub fn revalidate(&self, claims: &Claims, now: i64) -> Result<(), ClaimError> {
        self.check(claims.set(), now)
    }

    /// Whether the token has every scope that the policy asks for: in `scope`, a text of names between spaces
    /// (RFC 8693 §4.2), or in `scp`, such a text or an array of names.
    ///
    /// Authorisation, not part of [`Policy::validate`]: HTTP answers 403 `insufficient_scope` (RFC 6750 §3.1).
    ///
    /// # Errors
    /// [`ClaimError::Scope`].
    pub fn check_scope(&self, set: &ClaimsSet) -> Result<(), ClaimError> {
        let within = |text: &str, wanted: &str| {
            // An empty name is in no list, whatever the number of spaces.
            json::string(text).is_some_and(|names| {
                names.split(' ').any(|name| name == wanted && !name.is_empty())
            })
        };
        let has = |wanted: &String| {
            set.raw("scope").is_some_and(|scope| within(scope, wanted))
                || set.raw("scp").is_some_and(|scp| {
                    within(scp, wanted)
                        || json::any_element(scp, |name| json::is_string(name, wanted))
                })
        };
        if self.scope.iter().all(has) { Ok(()) } else { Err(ClaimError::Scope) }
    }

    fn check(&self, set: &ClaimsSet, now: i64) -> Result<(), ClaimError> {
        // Again, although check_header came first: a cache may hold a token that another policy let in.
        self.header(set.header())?;
        self.dates(set, now)?;
        if let Some(issuer) = &self.issuer
            && !set.raw("iss").is_some_and(|iss| json::is_string(iss, issuer))
        {
            return Err(ClaimError::Issuer);
        }
        if !self.audience.is_empty() && !self.names_us(set) {
            return Err(ClaimError::Audience);
        }
        Ok(())
    }

    fn header(&self, header: &JoseHeader) -> Result<(), ClaimError> {
        if !self.algorithms.is_empty()
            && !header.alg().is_some_and(|alg| self.algorithms.contains(&alg))
        {
            return Err(ClaimError::Algorithm);
        }
        if let Some(expected) = &self.typ
            && !header.typ().is_some_and(|typ| same_media_type(typ, expected))
        {
            return Err(ClaimError::Typ);
        }
        Ok(())
    }

    fn dates(&self, set: &ClaimsSet, now: i64) -> Result<(), ClaimError> {
        let leeway = whole_seconds(self.leeway);
        // All forms first, so that a malformed date is named whatever the time is.
        let exp = if self.validate_exp { set.exp.read("exp")? } else { None };
        let nbf = if self.validate_nbf { set.nbf.read("nbf")? } else { None };
        let iat = set.iat.read("iat")?;
        match exp {
            // RFC 7519 §4.1.4: on or after exp the token must not be accepted. A fraction is cut off: `now`
            // may be anywhere in its second.
            Some(exp) if now >= exp.floor.saturating_add(leeway) => {
                return Err(ClaimError::Expired);
            }
            None if self.validate_exp && self.require_exp => return Err(ClaimError::NoExpiry),
            _ => {}
        }
        let future = |at: i64| now < at.saturating_sub(leeway);
        if nbf.is_some_and(|nbf| future(nbf.ceil)) {
            return Err(ClaimError::NotYetValid);
        }
        if self.refuse_future_iat && iat.is_some_and(|iat| future(iat.floor)) {
            return Err(ClaimError::NotYetValid);
        }
        self.duration(set, iat, leeway, now)
    }

    /// How long ago the token was issued and for how long.
    fn duration(
        &self,
        set: &ClaimsSet,
        iat: Option<NumericDate>,
        leeway: i64,
        now: i64,
    ) -> Result<(), ClaimError> {
        if let Some(most) = self.max_age {
            let age = now.saturating_sub(iat.ok_or(ClaimError::NoIssuedAt)?.floor);
            if age > whole_seconds(most).saturating_add(leeway) {
                return Err(ClaimError::TooOld);
            }
        }
        if let Some(most) = self.max_lifetime {
            let exp = set.exp.read("exp")?.ok_or(ClaimError::NoExpiry)?;
            let lifetime = exp.floor.saturating_sub(iat.ok_or(ClaimError::NoIssuedAt)?.floor);
            if lifetime > whole_seconds(most) {
                return Err(ClaimError::Lifetime);
            }
        }
        Ok(())
    }

    /// RFC 7519 §4.1.3: `aud` is a string or an array of strings.
    fn names_us(&self, set: &ClaimsSet) -> bool {
        let Some(aud) = set.raw("aud") else { return false };
        let ours = |name: &str| self.audience.iter().any(|our| json::is_string(name, our));
        ours(aud) || json::any_element(aud, ours)
    }
}

fn whole_seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

fn same_media_type(a: &str, b: &str) -> bool {
    // RFC 7515 §4.1.9: `application/` is left out only where no other slash is in the value.
    fn short(typ: &str) -> &str {
        const PREFIX: &str = "application/";
        match typ.get(..PREFIX.len()) {
            Some(prefix)
                if prefix.eq_ignore_ascii_case(PREFIX) && !typ[PREFIX.len()..].contains('/') =>
            {
                &typ[PREFIX.len()..]
            }
            _ => typ,
        }
    }
    short(a).eq_ignore_ascii_case(short(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Object;

    const NOW: i64 = 1_000_000;

    fn set(header: &str, claims: &str) -> Arc<ClaimsSet> {
        let header = JoseHeader::parse(header.as_bytes().to_vec()).expect("header");
        Arc::new(ClaimsSet::new(header, Object::parse(claims.as_bytes()).expect("claims")))
    }

    fn verdict(policy: &Policy, claims: &str) -> String {
        reason(policy.admit(&set(r#"{"alg":"HS256"}"#, claims), NOW).map(|_| ()))
    }

    fn reason<E: Into<Rejection>>(verdict: Result<(), E>) -> String {
        verdict.map_or_else(|e| format!("{:?}", e.into()), |()| "Ok".to_owned())
    }

    fn seconds(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    #[test]
    fn dates_that_are_not_validated_are_not_read() {
        let lax = Policy {
            validate_exp: false,
            validate_nbf: false,
            require_exp: true,
            ..Policy::default()
        };
        for claims in
            [r#"{"exp":1}"#, r#"{"exp":"soon"}"#, r#"{"nbf":9e9}"#, r#"{"nbf":null}"#, "{}"]
        {
            assert_eq!(verdict(&lax, claims), "Ok", "{claims}");
            assert_ne!(verdict(&Policy { require_exp: true, ..Policy::default() }, claims), "Ok");
        }
        assert_eq!(verdict(&lax, r#"{"iat":"x"}"#), r#"Claim(NotADate("iat"))"#);
    }

    #[test]
    fn the_age_is_bounded_with_leeway() {
        let policy =
            Policy { max_age: seconds(100), leeway: Duration::from_secs(10), ..Policy::default() };
        for (iat, expected) in [(-110, "Ok"), (-111, "Claim(TooOld)"), (0, "Ok"), (500, "Ok")] {
            assert_eq!(verdict(&policy, &format!(r#"{{"iat":{}}}"#, NOW + iat)), expected, "{iat}");
        }
        assert_eq!(verdict(&policy, "{}"), "Claim(NoIssuedAt)");
        assert_eq!(verdict(&policy, r#"{"iat":-9223372036854775808}"#), "Claim(TooOld)");
        let endless =
            Policy { max_age: Some(Duration::MAX), leeway: Duration::MAX, ..Policy::default() };
        assert_eq!(verdict(&endless, r#"{"iat":-9223372036854775808}"#), "Ok");
    }

    #[test]
    fn the_lifetime_is_bounded_without_leeway() {
        let policy = Policy {
            max_lifetime: seconds(3_600),
            leeway: Duration::from_secs(10),
            ..Policy::default()
        };
        let token = |iat: i64, exp: i64| format!(r#"{{"iat":{iat},"exp":{exp}}}"#);
        assert_eq!(verdict(&policy, &token(NOW, NOW + 3_600)), "Ok");
        assert_eq!(verdict(&policy, &token(NOW, NOW + 3_601)), "Claim(Lifetime)");
        assert_eq!(verdict(&policy, &token(i64::MIN, i64::MAX)), "Claim(Lifetime)");
        assert_eq!(verdict(&policy, &format!(r#"{{"iat":{NOW}}}"#)), "Claim(NoExpiry)");
        assert_eq!(verdict(&policy, &format!(r#"{{"exp":{}}}"#, NOW + 1)), "Claim(NoIssuedAt)");
        // A rule of its own: it holds also where exp is not compared with the time.
        let lax = Policy { validate_exp: false, ..policy };
        assert_eq!(verdict(&lax, &token(1, 3_601)), "Ok");
        assert_eq!(verdict(&lax, &token(1, 3_602)), "Claim(Lifetime)");
        assert_eq!(verdict(&lax, r#"{"iat":1,"exp":"x"}"#), r#"Claim(NotADate("exp"))"#);
    }

    #[test]
    fn types_are_media_types() {
        for (expected, typ, same) in [
            ("at+jwt", r#""at+jwt""#, true),
            ("at+jwt", r#""AT+JWT""#, true),
            ("at+jwt", r#""application/at+jwt""#, true),
            ("application/at+jwt", r#""at+jwt""#, true),
            ("APPLICATION/at+jwt", r#""Application/AT+jwt""#, true),
            ("at+jwt", r#""JWT""#, false),
            ("at+jwt", r#""application/""#, false),
            ("at+jwt", r#""text/at+jwt""#, false),
            ("a/b", r#""application/a/b""#, false),
            ("a/b", r#""a/b""#, true),
            ("\u{e9}", r#""\u00c9""#, false),
        ] {
            let policy = Policy { typ: Some(expected.into()), ..Policy::default() };
            let set = set(&format!(r#"{{"alg":"HS256","typ":{typ}}}"#), "{}");
            let verdict = if same { "Ok" } else { "Claim(Typ)" };
            assert_eq!(reason(policy.check_header(set.header())), verdict, "{expected} {typ}");
            assert_eq!(reason(policy.admit(&set, NOW).map(|_| ())), verdict, "{expected} {typ}");
        }
        let policy = Policy { typ: Some(String::new()), ..Policy::default() };
        assert_eq!(verdict(&policy, "{}"), "Claim(Typ)", "an absent typ equals none");
    }

    #[test]
    fn algorithms_are_listed() {
        let policy = |algorithms: &[Algorithm]| Policy {
            algorithms: algorithms.to_vec(),
            ..Policy::default()
        };
        let set = set(r#"{"alg":"ES256"}"#, "{}");
        for (algorithms, expected) in [
            (&[][..], "Ok"),
            (&[Algorithm::Rs256, Algorithm::Es256], "Ok"),
            (&[Algorithm::Rs256, Algorithm::Es384], "Claim(Algorithm)"),
        ] {
            assert_eq!(reason(policy(algorithms).check_header(set.header())), expected);
            assert_eq!(reason(policy(algorithms).admit(&set, NOW).map(|_| ())), expected);
        }
    }

    #[test]
    fn scopes_are_names_between_spaces() {
        let policy = Policy { scope: vec!["a:read".into(), "b".into()], ..Policy::default() };
        for (claims, holds) in [
            (r#"{"scope":"b a:read"}"#, true),
            (r#"{"scope":" x  a:read  b "}"#, true),
            (r#"{"scope":"a:read","scp":["b"]}"#, true),
            (r#"{"scp":["b","a:read"]}"#, true),
            (r#"{"scp":"b a:read"}"#, true),
            (r#"{"scp":["b a:read"]}"#, false),
            (r#"{"scope":"a:read"}"#, false),
            (r#"{"scope":"a:read bb"}"#, false),
            (r#"{"scope":"A:READ b"}"#, false),
            (r#"{"scope":"a:read,b"}"#, false),
            (r#"{"scope":"a:read\tb"}"#, false),
            (r#"{"scope":["a:read","b"]}"#, false),
            (r#"{"scp":[1,null]}"#, false),
            ("{}", false),
        ] {
            let set = set(r#"{"alg":"HS256"}"#, claims);
            let expected = if holds { "Ok" } else { "Claim(Scope)" };
            assert_eq!(reason(policy.check_scope(&set)), expected, "{claims}");
            // Authorisation is asked for by itself.
            assert!(policy.admit(&set, NOW).is_ok());
        }
        let nothing = Policy { scope: vec![String::new()], ..Policy::default() };
        let set = set(r#"{"alg":"HS256"}"#, r#"{"scope":"a  b","scp":""}"#);
        assert_eq!(reason(nothing.check_scope(&set)), "Claim(Scope)");
    }

    #[test]
    fn reasons_of_the_header_and_of_times() {
        for (error, word) in [
            (ClaimError::Algorithm, "alg"),
            (ClaimError::Typ, "typ"),
            (ClaimError::TooOld, "expired"),
            (ClaimError::Lifetime, "claim"),
            (ClaimError::NoIssuedAt, "claim"),
            (ClaimError::Scope, "claim"),
        ] {
            assert_eq!(Rejection::from(error).reason(), word);
        }
    }

    #[test]
    fn names_may_be_written_with_escapes() {
        let policy =
            Policy { issuer: Some("me".into()), audience: vec!["us".into()], ..Policy::default() };
        assert_eq!(verdict(&policy, r#"{"iss":"m\u0065","aud":["\u0075s"]}"#), "Ok");
        assert_eq!(verdict(&policy, r#"{"iss":"\"me\"","aud":"us"}"#), "Claim(Issuer)");
        assert_eq!(verdict(&policy, r#"{"iss":"me","aud":[["us"]]}"#), "Claim(Audience)");
    }

    #[test]
    fn what_was_accepted_is_validated_again() {
        let policy = Policy::default();
        let set = set(r#"{"alg":"HS256"}"#, &format!(r#"{{"exp":{}}}"#, NOW + 1));
        let claims = policy.admit(&set, NOW).expect("in time");
        assert!(policy.revalidate(&claims, NOW).is_ok());
        assert!(matches!(policy.revalidate(&claims, NOW + 1), Err(ClaimError::Expired)));
        assert!(Arc::ptr_eq(claims.set(), &set));
    }
}

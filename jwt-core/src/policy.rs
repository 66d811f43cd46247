//! Rules for registered claims (RFC 7519 §4.1).

use std::time::Duration;

use crate::claims::{Claims, date};
use crate::error::ClaimError;
use crate::json::{self, Object};
use crate::limits;
use crate::verify::VerifiedJws;

/// What the claims of a verified token must satisfy. The default checks `exp`, `nbf` and the form of `iat`.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Tolerance for clocks that differ, in whole seconds, for `exp`, `nbf` and `iat`. Default: none.
    pub leeway: Duration,
    /// Refuse a token without `exp`. Default: accept it, without a time limit.
    pub require_exp: bool,
    /// Refuse a token whose `iat` is in the future. Default: accept it, as RFC 7519 §4.1.6 asks nothing.
    pub refuse_future_iat: bool,
    /// The only issuer, compared as a case-sensitive string (RFC 7519 §4.1.1). Default: any.
    pub issuer: Option<String>,
    /// `aud` must name one of these (RFC 7519 §4.1.3). Default, empty: not looked at.
    pub audience: Vec<String>,
}

impl Policy {
    /// Checks the registered claims of `jws` against this policy.
    ///
    /// `now` is seconds since the epoch. A token is valid while `nbf - leeway <= now < exp + leeway`.
    ///
    /// # Errors
    /// [`ClaimError::Payload`] for a payload that is no JSON object, else by the first claim that fails.
    pub fn validate(&self, jws: VerifiedJws, now: i64) -> Result<Claims, ClaimError> {
        let (header, payload) = jws.into_parts();
        let object = Object::parse(&payload).map_err(ClaimError::Payload)?;
        self.check(&object, now)?;
        Ok(Claims::new(header, object))
    }

    /// Whether claims that this policy accepted before are still in time at `now`.
    ///
    /// # Errors
    /// As [`Policy::validate`].
    pub fn revalidate(&self, claims: &Claims, now: i64) -> Result<(), ClaimError> {
        self.check(claims.object(), now)
    }

    fn check(&self, object: &Object, now: i64) -> Result<(), ClaimError> {
        let leeway = i64::try_from(self.leeway.as_secs()).unwrap_or(i64::MAX);
        let exp = date(object, "exp")?;
        let nbf = date(object, "nbf")?;
        let iat = date(object, "iat")?;
        match exp {
            // RFC 7519 §4.1.4: on or after exp the token must not be accepted. A fraction is cut off: `now`
            // may be anywhere in its second.
            Some(exp) if now >= exp.floor.saturating_add(leeway) => {
                return Err(ClaimError::Expired);
            }
            None if self.require_exp => return Err(ClaimError::NoExpiry),
            _ => {}
        }
        let future = |at: i64| now < at.saturating_sub(leeway);
        if nbf.is_some_and(|nbf| future(nbf.ceil)) {
            return Err(ClaimError::NotYetValid);
        }
        if self.refuse_future_iat && iat.is_some_and(|iat| future(iat.floor)) {
            return Err(ClaimError::NotYetValid);
        }
        if let Some(issuer) = &self.issuer
            && object.str("iss").as_deref() != Some(issuer)
        {
            return Err(ClaimError::Issuer);
        }
        if !self.audience.is_empty() && !self.names_us(object) {
            return Err(ClaimError::Audience);
        }
        Ok(())
    }

    /// RFC 7519 §4.1.3: `aud` is a string or an array of strings.
    fn names_us(&self, object: &Object) -> bool {
        let Some(aud) = object.raw("aud") else { return false };
        let ours = |json: &str| {
            json::string(json).is_some_and(|name| self.audience.iter().any(|our| *our == name))
        };
        match json::elements(aud, limits::JSON_ARRAY_ITEMS) {
            Some(names) => names.into_iter().any(ours),
            None => ours(aud),
        }
    }
}

//! The claims of a token that was verified and validated (RFC 7519 §4).

use std::borrow::Cow;

use crate::error::ClaimError;
use crate::header::JoseHeader;
use crate::json::Object;

/// The claims and the header of an accepted token. Only [`crate::Policy::validate`] makes one.
#[derive(Clone, Debug)]
pub struct Claims {
    header: JoseHeader,
    object: Object,
}

impl Claims {
    pub(crate) fn new(header: JoseHeader, object: Object) -> Self {
        Self { header, object }
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

    /// `exp` in whole seconds (RFC 7519 §4.1.4).
    pub fn exp(&self) -> Option<i64> {
        self.seconds("exp")
    }

    /// `nbf` in whole seconds (RFC 7519 §4.1.5).
    pub fn nbf(&self) -> Option<i64> {
        self.seconds("nbf")
    }

    /// `iat` in whole seconds (RFC 7519 §4.1.6).
    pub fn iat(&self) -> Option<i64> {
        self.seconds("iat")
    }

    fn seconds(&self, name: &'static str) -> Option<i64> {
        // The form was checked by the policy, or these claims would not exist.
        date(&self.object, name).ok().flatten().map(|date| date.floor)
    }
}

/// A NumericDate (RFC 7519 §2), which may have a fraction.
#[derive(Clone, Copy)]
pub(crate) struct NumericDate {
    pub(crate) floor: i64,
    pub(crate) ceil: i64,
}

/// The claim `name` as a date; `None` if it is absent.
///
/// An integer of 64 bits, or any JSON number whose magnitude a double holds exactly (2^53). Strings and null are
/// refused, so that a claim never means another time to another verifier.
pub(crate) fn date(object: &Object, name: &'static str) -> Result<Option<NumericDate>, ClaimError> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let Some(text) = object.raw(name) else { return Ok(None) };
    if let Ok(seconds) = text.parse::<i64>() {
        return Ok(Some(NumericDate { floor: seconds, ceil: seconds }));
    }
    // JSON's grammar, not Rust's, which also takes "inf".
    let number: f64 = serde_json::from_str(text).map_err(|_| ClaimError::NotADate(name))?;
    if number.abs() > EXACT {
        return Err(ClaimError::NotADate(name));
    }
    #[expect(clippy::cast_possible_truncation, reason = "checked against 2^53 above")]
    Ok(Some(NumericDate { floor: number.floor() as i64, ceil: number.ceil() as i64 }))
}

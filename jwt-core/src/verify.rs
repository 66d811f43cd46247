//! The signature check (RFC 7515 §5.2).

use crate::claims::ClaimsSet;
use crate::compact::Compact;
use crate::error::{ClaimError, VerifyError};
use crate::header::JoseHeader;
use crate::json::Object;
use crate::jwks::JwkSet;

/// A token whose signature is verified; its claims are not yet validated: [`crate::Policy::validate`] does that.
///
/// [`Compact::verify`] makes one; so do two functions of [`crate::dangerous`], for an operator who asks for it.
#[derive(Debug)]
pub struct VerifiedJws {
    header: JoseHeader,
    payload: Vec<u8>,
}

impl VerifiedJws {
    pub(crate) fn new(header: JoseHeader, payload: Vec<u8>) -> Self {
        Self { header, payload }
    }

    /// The verified header.
    pub fn header(&self) -> &JoseHeader {
        &self.header
    }

    /// What was signed, for a caller that has rules of its own instead of a [`crate::Policy`]. The token may have
    /// expired, and the payload need not be JSON.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Reads the payload as a claims set (RFC 7519 §4), for a caller that keeps it and validates it more than once.
    ///
    /// # Errors
    /// [`ClaimError::Payload`] for a payload that is no strict JSON object.
    pub fn into_claims_set(self) -> Result<ClaimsSet, ClaimError> {
        let object = Object::from_vec(self.payload).map_err(ClaimError::Payload)?;
        Ok(ClaimsSet::new(self.header, object))
    }
}

impl Compact<'_> {
    /// Checks the signature with the keys of `keys` that fit.
    ///
    /// # Errors
    /// [`VerifyError::UnknownKey`] when no key fits, [`VerifyError::Algorithm`] when those named by `kid` do not
    /// permit the token's `alg`, [`VerifyError::Signature`] when none of those that fit signed it.
    pub fn verify(self, keys: &JwkSet) -> Result<VerifiedJws, VerifyError> {
        self.check_signature(keys)?;
        let (header, payload) = self.into_verified_parts();
        Ok(VerifiedJws::new(header, payload))
    }

    fn check_signature(&self, keys: &JwkSet) -> Result<(), VerifyError> {
        let kid = self.header().kid();
        // A Compact always has one; an unsecured token never becomes a Compact.
        let Some(alg) = self.header().alg() else { return Err(VerifyError::Algorithm) };
        let mut tried = false;
        for key in keys.candidates(alg, kid) {
            if key.verifies(alg, self.signing_input, &self.signature) {
                return Ok(());
            }
            tried = true;
        }
        Err(match kid {
            _ if tried => VerifyError::Signature,
            Some(kid) if keys.has_kid(kid) => VerifyError::Algorithm,
            _ => VerifyError::UnknownKey,
        })
    }
}

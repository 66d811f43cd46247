//! The signature check (RFC 7515 §5.2).

use crate::compact::Compact;
use crate::error::VerifyError;
use crate::header::JoseHeader;
use crate::jwks::JwkSet;

/// A token whose signature is verified. Only [`Compact::verify`] makes one; its claims are not yet validated:
/// [`crate::Policy::validate`] does that.
#[derive(Debug)]
pub struct VerifiedJws {
    header: JoseHeader,
    payload: Vec<u8>,
}

impl VerifiedJws {
    /// The verified header.
    pub fn header(&self) -> &JoseHeader {
        &self.header
    }

    /// What was signed, for a caller that has rules of its own instead of a [`crate::Policy`]. The token may have
    /// expired, and the payload need not be JSON.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    pub(crate) fn into_parts(self) -> (JoseHeader, Vec<u8>) {
        (self.header, self.payload)
    }
}

impl Compact<'_> {
    /// Checks the signature with the keys of `keys` that fit.
    ///
    /// # Errors
    /// [`VerifyError::UnknownKey`] when no key fits, [`VerifyError::Algorithm`] when the one named by `kid`
    /// does not permit the token's `alg`, [`VerifyError::Signature`] when none of those that fit signed it.
    pub fn verify(self, keys: &JwkSet) -> Result<VerifiedJws, VerifyError> {
        let alg = self.header().alg();
        let candidates = keys.candidates(alg, self.header().kid())?;
        if !candidates.iter().any(|key| key.verifies(alg, self.signing_input, &self.signature)) {
            return Err(VerifyError::Signature);
        }
        let (header, payload) = self.into_verified_parts();
        Ok(VerifiedJws { header, payload })
    }
}

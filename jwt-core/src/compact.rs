//! JWS Compact Serialization (RFC 7515 §7.1).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::error::CompactError;
use crate::header::JoseHeader;
use crate::limits;

/// A token that has the right form. Nothing of its payload can be read from here.
#[derive(Debug)]
pub struct Compact<'t> {
    header: JoseHeader,
    pub(crate) signing_input: &'t [u8],
    pub(crate) payload: Vec<u8>,
    pub(crate) signature: Vec<u8>,
}

impl<'t> Compact<'t> {
    /// Splits and decodes `token`. There is one text form of each token: no padding, no white space.
    ///
    /// # Errors
    /// [`CompactError`], by the first thing that is wrong; cheap checks come first.
    pub fn parse(token: &'t [u8]) -> Result<Self, CompactError> {
        if token.len() > limits::TOKEN_BYTES {
            return Err(CompactError::TooLarge);
        }
        let mut segments = token.split(|&byte| byte == b'.');
        let (Some(header), Some(payload), Some(signature), None) =
            (segments.next(), segments.next(), segments.next(), segments.next())
        else {
            return Err(CompactError::Segments);
        };
        let header = JoseHeader::parse(&decode(header, "header")?)?;
        Ok(Self {
            header,
            signing_input: &token[..token.len() - signature.len() - 1],
            payload: decode(payload, "payload")?,
            signature: decode(signature, "signature")?,
        })
    }

    /// The unverified header, for choosing keys and for log lines.
    pub fn header(&self) -> &JoseHeader {
        &self.header
    }

    pub(crate) fn into_verified_parts(self) -> (JoseHeader, Vec<u8>) {
        (self.header, self.payload)
    }
}

/// RFC 7515 §2: base64url without padding. The engine also refuses trailing bits that are not zero.
fn decode(segment: &[u8], name: &'static str) -> Result<Vec<u8>, CompactError> {
    URL_SAFE_NO_PAD.decode(segment).map_err(|_| CompactError::Base64(name))
}

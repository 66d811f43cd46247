//! JWS Compact Serialization (RFC 7515 §7.1).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::error::CompactError;
use crate::header::JoseHeader;
use crate::limits;
use crate::verify::VerifiedJws;

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
        Self::parse_within(token, limits::TOKEN_BYTES)
    }

    /// As [`Compact::parse`], for a token of at most `most_bytes` instead of [`limits::TOKEN_BYTES`].
    ///
    /// # Errors
    /// As [`Compact::parse`].
    pub fn parse_within(token: &'t [u8], most_bytes: usize) -> Result<Self, CompactError> {
        let [header, payload, signature] = split(token, most_bytes)?;
        let header = JoseHeader::parse(decode(header, "header")?)?;
        Ok(Self {
            header,
            signing_input: &token[..token.len() - signature.len() - 1],
            payload: decode(payload, "payload")?,
            signature: decode(signature, "signature")?,
        })
    }

    /// What [`crate::dangerous::parse_unsecured`] does.
    pub(crate) fn unsecured(token: &[u8], most_bytes: usize) -> Result<VerifiedJws, CompactError> {
        let [header, payload, signature] = split(token, most_bytes)?;
        let header = JoseHeader::parse_unsecured(decode(header, "header")?)?;
        // RFC 7518 §3.6: the signature is the empty octet sequence, and a verifier must see that it is.
        if !signature.is_empty() {
            return Err(CompactError::Signature);
        }
        Ok(VerifiedJws::new(header, decode(payload, "payload")?))
    }

    /// The unverified header, for choosing keys and for log lines.
    pub fn header(&self) -> &JoseHeader {
        &self.header
    }

    pub(crate) fn into_verified_parts(self) -> (JoseHeader, Vec<u8>) {
        (self.header, self.payload)
    }
}

fn split(token: &[u8], most_bytes: usize) -> Result<[&[u8]; 3], CompactError> {
    if token.len() > most_bytes {
        return Err(CompactError::TooLarge);
    }
    // As text, because the library searches a text by words and bytes one by one.
    let text = std::str::from_utf8(token).map_err(|_| CompactError::Base64("token"))?;
    let mut segments = text.split('.').map(str::as_bytes);
    match (segments.next(), segments.next(), segments.next(), segments.next()) {
        (Some(header), Some(payload), Some(signature), None) => Ok([header, payload, signature]),
        _ => Err(CompactError::Segments),
    }
}

/// RFC 7515 §2: base64url without padding. The engine also refuses trailing bits that are not zero.
fn decode(segment: &[u8], name: &'static str) -> Result<Vec<u8>, CompactError> {
    // The exact size, so that what is kept of it need not be copied to give the rest back.
    let mut bytes = vec![0; segment.len() / 4 * 3 + segment.len() % 4 * 3 / 4];
    match URL_SAFE_NO_PAD.decode_slice(segment, &mut bytes) {
        Ok(length) if length == bytes.len() => Ok(bytes),
        _ => Err(CompactError::Base64(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, payload: &str, signature: &str) -> String {
        let [header, payload] = [header, payload].map(|part| URL_SAFE_NO_PAD.encode(part));
        format!("{header}.{payload}.{signature}")
    }

    #[test]
    fn each_length_is_decoded() {
        for length in 0..50 {
            let bytes: Vec<u8> = (0..length).map(|n| 255 - n).collect();
            let decoded = decode(URL_SAFE_NO_PAD.encode(&bytes).as_bytes(), "payload");
            assert_eq!(decoded.expect("base64url"), bytes);
        }
        for bad in ["A", "AAAAA", "AB", "AAA=", "AA==", "A A", "AA+A", "AA/A", "AAA\n", "é"] {
            assert!(
                matches!(decode(bad.as_bytes(), "payload"), Err(CompactError::Base64(_))),
                "{bad}"
            );
        }
    }

    #[test]
    fn the_caller_bounds_the_size() {
        let token = token(r#"{"alg":"HS256"}"#, "{}", "AA");
        assert!(Compact::parse_within(token.as_bytes(), token.len()).is_ok());
        let error = Compact::parse_within(token.as_bytes(), token.len() - 1);
        assert!(matches!(error, Err(CompactError::TooLarge)));
    }

    #[test]
    fn unsecured_tokens_and_no_others() {
        let read = |text: &str| Compact::unsecured(text.as_bytes(), limits::TOKEN_BYTES);
        let none = r#"{"alg":"none"}"#;
        let jws = read(&token(none, r#"{"a":1}"#, "")).expect("unsecured");
        assert_eq!((jws.header().alg(), jws.payload()), (None, &br#"{"a":1}"#[..]));
        for header in [r#"{"alg":"None"}"#, r#"{"alg":"NONE"}"#, r#"{"alg":"HS256"}"#, "{}"] {
            assert!(
                matches!(read(&token(header, "{}", "")), Err(CompactError::Algorithm)),
                "{header}"
            );
        }
        assert!(matches!(read(&token(none, "{}", "AA")), Err(CompactError::Signature)));
        let critical = r#"{"alg":"none","crit":[]}"#;
        assert!(matches!(read(&token(critical, "{}", "")), Err(CompactError::Critical)));
        let error = Compact::unsecured(token(none, "{}", "").as_bytes(), 5);
        assert!(matches!(error, Err(CompactError::TooLarge)));
        // Nor does the ordinary way read one.
        let error = Compact::parse(token(none, "{}", "").as_bytes()).map(|_| ());
        assert!(matches!(error, Err(CompactError::Algorithm)));
    }
}

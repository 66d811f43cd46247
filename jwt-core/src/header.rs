//! The JOSE header (RFC 7515 §4).

use crate::alg::Algorithm;
use crate::error::CompactError;
use crate::json::{self, Object};
use crate::limits;

/// The header of a token. Nothing in it is trusted before the signature is verified, and even then it names
/// no key: `jwk`, `jku`, `x5u` and `x5c` are never read.
#[derive(Clone, Debug)]
pub struct JoseHeader {
    alg: Option<Algorithm>,
    kid: Option<Box<str>>,
    typ: Option<Box<str>>,
    object: Object,
}

impl JoseHeader {
    pub(crate) fn parse(json: Vec<u8>) -> Result<Self, CompactError> {
        let name = |alg: &str| Algorithm::from_name(alg).map(Some);
        Self::with_alg(json, name)
    }

    /// The header of an unsecured token (RFC 7519 §6), and of no other.
    pub(crate) fn parse_unsecured(json: Vec<u8>) -> Result<Self, CompactError> {
        // Case matters, as in every alg (RFC 7515 §4.1.1).
        Self::with_alg(json, |alg| (alg == "none").then_some(None))
    }

    fn with_alg(
        json: Vec<u8>,
        known: impl Fn(&str) -> Option<Option<Algorithm>>,
    ) -> Result<Self, CompactError> {
        let object = Object::from_vec(json).map_err(CompactError::Header)?;
        // RFC 7515 §4.1.11: an unknown crit name makes the JWS invalid, an empty list too; we implement none.
        if object.raw("crit").is_some() {
            return Err(CompactError::Critical);
        }
        // RFC 7797 §3: false changes what is signed. It must come with crit, but an attacker need not comply.
        if object.raw("b64").is_some_and(|b64| b64 != "true") {
            return Err(CompactError::Critical);
        }
        let alg = object.raw("alg").ok_or(CompactError::Algorithm)?;
        let alg = json::string(alg).ok_or(CompactError::Parameter("alg"))?;
        let alg = known(&alg).ok_or(CompactError::Algorithm)?;
        let kid = text(&object, "kid")?;
        if kid.as_ref().is_some_and(|kid| kid.len() > limits::KID_BYTES) {
            return Err(CompactError::Parameter("kid"));
        }
        let typ = text(&object, "typ")?;
        Ok(Self { alg, kid, typ, object })
    }

    /// `alg` (RFC 7515 §4.1.1); `None` for an unsecured token, which [`crate::dangerous::parse_unsecured`] alone
    /// reads.
    pub fn alg(&self) -> Option<Algorithm> {
        self.alg
    }

    /// `kid` (RFC 7515 §4.1.4). An empty text is a name like any other.
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// `typ` (RFC 7515 §4.1.9).
    pub fn typ(&self) -> Option<&str> {
        self.typ.as_deref()
    }

    /// All parameters.
    pub fn object(&self) -> &Object {
        &self.object
    }

    pub(crate) fn heap_size(&self) -> usize {
        let text = |text: &Option<Box<str>>| text.as_ref().map_or(0, |text| text.len());
        self.object.heap_size() + text(&self.kid) + text(&self.typ)
    }
}

fn text(object: &Object, name: &'static str) -> Result<Option<Box<str>>, CompactError> {
    let Some(json) = object.raw(name) else { return Ok(None) };
    match json::string(json) {
        Some(text) => Ok(Some(text.into())),
        None => Err(CompactError::Parameter(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<JoseHeader, CompactError> {
        JoseHeader::parse(json.as_bytes().to_vec())
    }

    #[test]
    fn parameters_are_read() {
        let header =
            parse(r#"{"alg":"ES256","kid":"\u006b","typ":"JWT","b64":true}"#).expect("header");
        assert_eq!(header.alg(), Some(Algorithm::Es256));
        assert_eq!((header.kid(), header.typ()), (Some("k"), Some("JWT")));
        assert_eq!(header.object().raw("b64"), Some("true"));
        assert_eq!(parse(r#"{"alg":"ES256","kid":""}"#).expect("header").kid(), Some(""));
    }

    #[test]
    fn each_way_to_be_refused() {
        let refused = |json: &str| parse(json).expect_err(json);
        for json in ["[]", "", r#"{"alg":"ES256","alg":"ES256"}"#, "{\"alg\":\"ES256\"}x"] {
            assert!(matches!(refused(json), CompactError::Header(_)), "{json}");
        }
        for json in [
            r#"{"alg":"ES256","crit":[]}"#,
            r#"{"alg":"ES256","b64":false}"#,
            r#"{"alg":"ES256","b64":0}"#,
        ] {
            assert!(matches!(refused(json), CompactError::Critical), "{json}");
        }
        for json in ["{}", r#"{"alg":"none"}"#, r#"{"alg":"es256"}"#, r#"{"alg":""}"#] {
            assert!(matches!(refused(json), CompactError::Algorithm), "{json}");
        }
        let long = format!(r#"{{"alg":"ES256","kid":"{}"}}"#, "k".repeat(limits::KID_BYTES + 1));
        for json in
            [r#"{"alg":1}"#, r#"{"alg":"ES256","kid":1}"#, r#"{"alg":"ES256","typ":null}"#, &long]
        {
            assert!(matches!(refused(json), CompactError::Parameter(_)), "{json}");
        }
    }
}

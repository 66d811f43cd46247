//! The JOSE header (RFC 7515 §4).

use crate::alg::Algorithm;
use crate::error::CompactError;
use crate::json::Object;
use crate::limits;

/// The header of a token. Nothing in it is trusted before the signature is verified, and even then it names
/// no key: `jwk`, `jku`, `x5u` and `x5c` are never read.
#[derive(Clone, Debug)]
pub struct JoseHeader {
    alg: Algorithm,
    kid: Option<Box<str>>,
    typ: Option<Box<str>>,
    object: Object,
}

impl JoseHeader {
    pub(crate) fn parse(json: &[u8]) -> Result<Self, CompactError> {
        let object = Object::parse(json).map_err(CompactError::Header)?;
        // RFC 7515 §4.1.11: an unknown crit name makes the JWS invalid, an empty list too; we implement none.
        if object.raw("crit").is_some() {
            return Err(CompactError::Critical);
        }
        // RFC 7797 §3: false changes what is signed. It must come with crit, but an attacker need not comply.
        if object.raw("b64").is_some_and(|b64| b64 != "true") {
            return Err(CompactError::Critical);
        }
        let alg = match object.raw("alg") {
            None => return Err(CompactError::Algorithm),
            Some(_) => object.str("alg").ok_or(CompactError::Parameter("alg"))?,
        };
        let alg = Algorithm::from_name(&alg).ok_or(CompactError::Algorithm)?;
        let kid = text(&object, "kid")?;
        if kid.as_ref().is_some_and(|kid| kid.len() > limits::KID_BYTES) {
            return Err(CompactError::Parameter("kid"));
        }
        let typ = text(&object, "typ")?;
        Ok(Self { alg, kid, typ, object })
    }

    /// `alg` (RFC 7515 §4.1.1).
    pub fn alg(&self) -> Algorithm {
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
}

fn text(object: &Object, name: &'static str) -> Result<Option<Box<str>>, CompactError> {
    match object.raw(name) {
        None => Ok(None),
        Some(_) => Ok(Some(object.str(name).ok_or(CompactError::Parameter(name))?.into())),
    }
}

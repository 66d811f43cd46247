//! The public half of a signing key as a JWK (RFC 7517). The type has no private member, so nothing
//! private can be serialised by mistake.

use aws_lc_rs::digest;
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rsa::{PublicEncryptingKey, PublicKeyComponents};
use aws_lc_rs::signature::{EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jwt_core::RsaNumbers;
use serde::Serialize;
use utoipa::ToSchema;

/// A public key as it stands in the JWKS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PublicJwk {
    /// RFC 7517 §4.4; for RSA it says which of the algorithms that the key could serve it does.
    pub alg: &'static str,
    /// RFC 7517 §4.1.
    pub kty: &'static str,
    /// RFC 7517 §4.2.
    #[serde(rename = "use")]
    pub public_key_use: &'static str,
    /// RFC 7517 §4.5; see [`key_id`].
    pub kid: String,
    /// The members of the key type.
    #[serde(flatten)]
    pub members: Members,
}

/// RFC 7518 §6, RFC 8037 §2; binary values in base64url without padding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Members {
    /// An RSA key.
    Rsa {
        /// Equal to the `kid`, as JWThenticator's clients have always found it.
        x5t: String,
        /// The modulus.
        n: String,
        /// The public exponent.
        e: String,
        /// One element: the `SubjectPublicKeyInfo` in standard base64 (not a certificate, which is
        /// what RFC 7517 §4.7 has here; kept because JWThenticator's clients read it).
        x5c: [String; 1],
    },
    /// A key on a NIST curve.
    Ec {
        /// The curve.
        #[schema(pattern = "^P-")]
        crv: &'static str,
        /// The point's first coordinate.
        x: String,
        /// The point's second coordinate.
        y: String,
    },
    /// An Ed25519 key.
    Okp {
        /// The curve.
        #[schema(pattern = "^Ed")]
        crv: &'static str,
        /// The public key.
        x: String,
    },
}

/// The `kid` of a key: base64url of the SHA-1 of its DER `SubjectPublicKeyInfo`.
///
/// JWThenticator's construction, kept so that its keys keep their names. SHA-1 names the key here and
/// protects nothing.
pub fn key_id(spki: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, spki))
}

impl PublicJwk {
    pub(super) fn rsa(alg: &'static str, pair: &RsaKeyPair) -> Option<Self> {
        let public = pair.public_key();
        let spki: PublicKeyX509Der<'_> = public.as_der().ok()?;
        let numbers = RsaNumbers {
            n: public.modulus().big_endian_without_leading_zero().to_vec(),
            e: public.exponent().big_endian_without_leading_zero().to_vec(),
        };
        Some(Self::rsa_of(alg, spki.as_ref(), &numbers))
    }

    /// Of a public key alone.
    pub(super) fn rsa_public(alg: &'static str, numbers: &RsaNumbers) -> Option<Self> {
        let components = PublicKeyComponents { n: &numbers.n, e: &numbers.e };
        let public: PublicEncryptingKey = components.try_into().ok()?;
        let spki: PublicKeyX509Der<'_> = public.as_der().ok()?;
        Some(Self::rsa_of(alg, spki.as_ref(), numbers))
    }

    fn rsa_of(alg: &'static str, spki: &[u8], numbers: &RsaNumbers) -> Self {
        let kid = key_id(spki);
        let members = Members::Rsa {
            x5t: kid.clone(),
            n: URL_SAFE_NO_PAD.encode(&numbers.n),
            e: URL_SAFE_NO_PAD.encode(&numbers.e),
            x5c: [STANDARD.encode(spki)],
        };
        Self { alg, kty: "RSA", public_key_use: "sig", kid, members }
    }

    pub(super) fn ec(alg: &'static str, crv: &'static str, pair: &EcdsaKeyPair) -> Option<Self> {
        let public = pair.public_key();
        let spki: PublicKeyX509Der<'_> = public.as_der().ok()?;
        // SEC 1 §2.3.3, uncompressed: 0x04, then both coordinates in full length.
        let (0x04, coordinates) = public.as_ref().split_first().map(|(f, rest)| (*f, rest))? else {
            return None;
        };
        let (x, y) = coordinates.split_at(coordinates.len() / 2);
        let members =
            Members::Ec { crv, x: URL_SAFE_NO_PAD.encode(x), y: URL_SAFE_NO_PAD.encode(y) };
        let kid = key_id(spki.as_ref());
        Some(Self { alg, kty: "EC", public_key_use: "sig", kid, members })
    }

    pub(super) fn ed25519(pair: &Ed25519KeyPair) -> Option<Self> {
        let public = pair.public_key();
        let spki: PublicKeyX509Der<'_> = public.as_der().ok()?;
        let members = Members::Okp { crv: "Ed25519", x: URL_SAFE_NO_PAD.encode(public) };
        let kid = key_id(spki.as_ref());
        Some(Self { alg: "EdDSA", kty: "OKP", public_key_use: "sig", kid, members })
    }
}

/// A JWK Set (RFC 7517 §5) of public keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PublicJwks {
    /// The keys, the newest first.
    pub keys: Vec<PublicJwk>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An RSA-2048 public key and the `kid` that JWThenticator gives it.
    const SPKI: &str = "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA4cxrVWn4xrVvwuxylHUUjLCPQs1SvC\
        nnbhiywa7W1vdFaMyob1P0Ry03vFoML1VqM1rfYc32/i9pf282+qJgwN+ZhmLrWGgKtHyvp56e4lhmVJPK3qXfS0bsS9yW\
        tXpuqUfLRsdeFhOI718IB0Xd6aVdE37s+L8TZBhYXZ6PF2G8zxfEfBOE6xEXyPHPXH9K4kfr5mQ2jptXTA3eglN8HOKbnj\
        6XzrVLLFndPCrrl/Iw8NZRi32OoL0qb4fHltkO2aXO+y0xWyayZ2rcgw6Vgmk23w4+3RXBflPSLfvDoaZcKJq7HqrtPRt9\
        wqcPhvkK3c2KkV6QGJitYQd7IM9NqwIDAQAB";

    #[test]
    fn t33_the_kid_is_the_one_that_jwthenticator_computes() {
        assert_eq!(key_id(&STANDARD.decode(SPKI).unwrap()), "1dq-M2ULWuG_DOEgp5h4qKfMWl0");
    }
}

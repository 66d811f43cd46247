//! Private signing keys: made, parsed and used here, kept on disk by `directory`.
//!
//! A key is prepared once, when it is loaded; signing does not parse it again. Neighbours:
//! `key_ring` brings keys into and out of service, `issuer` signs claims, `jwks_file` publishes.

pub(crate) mod directory;
mod jwk;

use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, RsaEncoding, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jwt_core::RsaNumbers;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde::Serialize;
use zeroize::Zeroizing;

pub use directory::DirectoryError;
pub use jwk::{Members, PublicJwk, PublicJwks, key_id};

use crate::config::{RsaBits, SigningAlgorithm};

/// The public keys whose tokens are accepted now; replaced as a whole at every change.
pub type LiveKeys = Arc<ArcSwap<jwt_core::JwkSet>>;

/// Why a private key cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not PEM, or not a private key in PKCS#8, PKCS#1 or SEC 1.
    #[error("it is not a private key in PEM (PKCS#8, PKCS#1 or SEC 1)")]
    Pem,
    /// The key is damaged, too small, or of another type than the algorithm needs.
    #[error("it is not a valid key for {}", .0.as_str())]
    Rejected(SigningAlgorithm),
    /// Not an RSA public key in PEM.
    #[error("it is not an RSA public key in PEM (SubjectPublicKeyInfo or PKCS#1)")]
    PublicPem,
    /// Only the public half is known: tokens can be validated, none can be signed.
    #[error(
        "there is no private key, only a public one: this daemon validates tokens and issues none"
    )]
    PublicOnly,
    /// The cryptographic library failed.
    #[error("the cryptographic library failed")]
    Library,
}

/// A private key, ready to sign.
pub struct SigningKey {
    algorithm: SigningAlgorithm,
    pair: Pair,
    jwk: PublicJwk,
    /// The encoded JOSE header with its dot: the same for every token of this key.
    header: String,
}

enum Pair {
    Rsa(Box<RsaKeyPair>, &'static dyn RsaEncoding),
    Ec(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    /// The private half is elsewhere.
    PublicOnly,
}

impl SigningKey {
    /// Makes a key. Takes a good part of a second for RSA: not for the event loop.
    ///
    /// # Errors
    /// [`KeyError::Library`].
    pub fn generate(algorithm: SigningAlgorithm, bits: RsaBits) -> Result<Self, KeyError> {
        let pair = match kind(algorithm) {
            Kind::Rsa(encoding) => {
                let size = match bits {
                    RsaBits::B2048 => KeySize::Rsa2048,
                    RsaBits::B3072 => KeySize::Rsa3072,
                    RsaBits::B4096 => KeySize::Rsa4096,
                };
                RsaKeyPair::generate(size).map(|pair| Pair::Rsa(Box::new(pair), encoding))
            }
            Kind::Ec(curve, _) => EcdsaKeyPair::generate(curve).map(Pair::Ec),
            Kind::Ed25519 => Ed25519KeyPair::generate().map(Pair::Ed25519),
        };
        Self::new(algorithm, pair.map_err(|_| KeyError::Library)?)
    }

    /// Reads a private key in PEM.
    ///
    /// # Errors
    /// [`KeyError::Pem`] and [`KeyError::Rejected`].
    pub fn from_pem(pem: &[u8], algorithm: SigningAlgorithm) -> Result<Self, KeyError> {
        let der = PrivateKeyDer::from_pem_slice(pem).map_err(|_| KeyError::Pem)?;
        let pair = match (kind(algorithm), &der) {
            (Kind::Rsa(encoding), PrivateKeyDer::Pkcs8(der)) => {
                RsaKeyPair::from_pkcs8(der.secret_pkcs8_der())
                    .map(|pair| Pair::Rsa(Box::new(pair), encoding))
            }
            (Kind::Rsa(encoding), PrivateKeyDer::Pkcs1(der)) => {
                RsaKeyPair::from_der(der.secret_pkcs1_der())
                    .map(|pair| Pair::Rsa(Box::new(pair), encoding))
            }
            (Kind::Ec(curve, _), PrivateKeyDer::Pkcs8(_) | PrivateKeyDer::Sec1(_)) => {
                EcdsaKeyPair::from_private_key_der(curve, der.secret_der()).map(Pair::Ec)
            }
            (Kind::Ed25519, PrivateKeyDer::Pkcs8(der)) => {
                Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der())
                    .map(Pair::Ed25519)
            }
            _ => return Err(KeyError::Rejected(algorithm)),
        };
        Self::new(algorithm, pair.map_err(|_| KeyError::Rejected(algorithm))?)
    }

    /// Takes the public half of an RSA key in PEM: its tokens can be validated, and none be signed.
    ///
    /// # Errors
    /// [`KeyError::PublicPem`].
    pub(crate) fn public_only(pem: &str, algorithm: SigningAlgorithm) -> Result<Self, KeyError> {
        let numbers = RsaNumbers::from_pem(pem).map_err(|_| KeyError::PublicPem)?;
        let jwk = PublicJwk::rsa_public(algorithm.as_str(), &numbers).ok_or(KeyError::PublicPem)?;
        Self::of(algorithm, Pair::PublicOnly, jwk)
    }

    fn new(algorithm: SigningAlgorithm, pair: Pair) -> Result<Self, KeyError> {
        let name = algorithm.as_str();
        let jwk = match &pair {
            Pair::Rsa(pair, _) => PublicJwk::rsa(name, pair),
            Pair::Ec(pair) => {
                let Kind::Ec(_, curve) = kind(algorithm) else {
                    return Err(KeyError::Rejected(algorithm));
                };
                PublicJwk::ec(name, curve, pair)
            }
            Pair::Ed25519(pair) => PublicJwk::ed25519(pair),
            Pair::PublicOnly => None,
        }
        .ok_or(KeyError::Library)?;
        Self::of(algorithm, pair, jwk)
    }

    fn of(algorithm: SigningAlgorithm, pair: Pair, jwk: PublicJwk) -> Result<Self, KeyError> {
        let header = jsonwebtoken::Header {
            kid: Some(jwk.kid.clone()),
            ..jsonwebtoken::Header::new(jws_algorithm(algorithm))
        };
        let header = serde_json::to_vec(&header).map_err(|_| KeyError::Library)?;
        let header = URL_SAFE_NO_PAD.encode(header) + ".";
        Ok(Self { algorithm, pair, jwk, header })
    }

    /// The key as PKCS#8 in PEM (RFC 7468 §10).
    ///
    /// # Errors
    /// [`KeyError::Library`].
    pub fn to_pem(&self) -> Result<Zeroizing<String>, KeyError> {
        let der: Zeroizing<Vec<u8>> = match &self.pair {
            Pair::Rsa(pair, _) => {
                let der: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| KeyError::Library)?;
                Zeroizing::new(der.as_ref().to_vec())
            }
            Pair::Ec(pair) => {
                Zeroizing::new(pair.to_pkcs8v1().map_err(|_| KeyError::Library)?.as_ref().to_vec())
            }
            Pair::Ed25519(pair) => {
                Zeroizing::new(pair.to_pkcs8v1().map_err(|_| KeyError::Library)?.as_ref().to_vec())
            }
            Pair::PublicOnly => return Err(KeyError::PublicOnly),
        };
        Ok(Zeroizing::new(pem("PRIVATE KEY", &der)))
    }

    /// The public half as `SubjectPublicKeyInfo` in PEM; RSA keys only, whose JWK holds it.
    pub(crate) fn to_public_pem(&self) -> Option<String> {
        let Members::Rsa { x5c: [spki], .. } = &self.jwk.members else { return None };
        Some(pem("PUBLIC KEY", &STANDARD.decode(spki).ok()?))
    }

    /// Whether `pem` is the public half of this RSA key.
    pub(crate) fn has_public_pem(&self, pem: &str) -> bool {
        Self::public_only(pem, self.algorithm).is_ok_and(|public| public.jwk == self.jwk)
    }

    /// The JWS in compact serialization of `claims` (RFC 7515 §7.1). For a pool of threads: an RSA
    /// signature takes about a millisecond.
    ///
    /// # Errors
    /// [`KeyError::Library`], and [`KeyError::PublicOnly`] where there is no private half.
    pub fn sign(&self, claims: &impl Serialize) -> Result<String, KeyError> {
        let payload = serde_json::to_vec(claims).map_err(|_| KeyError::Library)?;
        let mut token = String::with_capacity(self.header.len() + payload.len() * 4 / 3 + 700);
        token.push_str(&self.header);
        URL_SAFE_NO_PAD.encode_string(payload, &mut token);
        let rng = SystemRandom::new();
        let message = token.as_bytes();
        let signature = match &self.pair {
            Pair::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*encoding, &rng, message, &mut signature).map(|()| signature)
            }
            Pair::Ec(pair) => pair.sign(&rng, message).map(|s| s.as_ref().to_vec()),
            Pair::Ed25519(pair) => pair.try_sign(message).map(|s| s.as_ref().to_vec()),
            Pair::PublicOnly => return Err(KeyError::PublicOnly),
        }
        .map_err(|_| KeyError::Library)?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }

    /// Whether the private half is here.
    pub(crate) fn can_sign(&self) -> bool {
        !matches!(self.pair, Pair::PublicOnly)
    }

    /// The key's name in token headers and in the JWKS.
    pub fn kid(&self) -> &str {
        &self.jwk.kid
    }

    /// The algorithm it signs with.
    pub fn algorithm(&self) -> SigningAlgorithm {
        self.algorithm
    }

    /// The public half.
    pub fn jwk(&self) -> &PublicJwk {
        &self.jwk
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey")
            .field("kid", &self.kid())
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

enum Kind {
    Rsa(&'static dyn RsaEncoding),
    Ec(&'static EcdsaSigningAlgorithm, &'static str),
    Ed25519,
}

fn kind(algorithm: SigningAlgorithm) -> Kind {
    match algorithm {
        SigningAlgorithm::Rs256 => Kind::Rsa(&signature::RSA_PKCS1_SHA256),
        SigningAlgorithm::Rs384 => Kind::Rsa(&signature::RSA_PKCS1_SHA384),
        SigningAlgorithm::Rs512 => Kind::Rsa(&signature::RSA_PKCS1_SHA512),
        SigningAlgorithm::Ps256 => Kind::Rsa(&signature::RSA_PSS_SHA256),
        SigningAlgorithm::Ps384 => Kind::Rsa(&signature::RSA_PSS_SHA384),
        SigningAlgorithm::Ps512 => Kind::Rsa(&signature::RSA_PSS_SHA512),
        // RFC 7518 §3.4: r and s in full length, one after the other, not DER.
        SigningAlgorithm::Es256 => Kind::Ec(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, "P-256"),
        SigningAlgorithm::Es384 => Kind::Ec(&signature::ECDSA_P384_SHA384_FIXED_SIGNING, "P-384"),
        SigningAlgorithm::EdDsa => Kind::Ed25519,
    }
}

fn jws_algorithm(algorithm: SigningAlgorithm) -> jsonwebtoken::Algorithm {
    use jsonwebtoken::Algorithm;
    match algorithm {
        SigningAlgorithm::Rs256 => Algorithm::RS256,
        SigningAlgorithm::Rs384 => Algorithm::RS384,
        SigningAlgorithm::Rs512 => Algorithm::RS512,
        SigningAlgorithm::Ps256 => Algorithm::PS256,
        SigningAlgorithm::Ps384 => Algorithm::PS384,
        SigningAlgorithm::Ps512 => Algorithm::PS512,
        SigningAlgorithm::Es256 => Algorithm::ES256,
        SigningAlgorithm::Es384 => Algorithm::ES384,
        SigningAlgorithm::EdDsa => Algorithm::EdDSA,
    }
}

/// RFC 7468 §3: lines of 64 characters.
fn pem(label: &str, der: &[u8]) -> String {
    let text = Zeroizing::new(STANDARD.encode(der));
    let mut pem = String::with_capacity(text.len() + text.len() / 64 + 64);
    pem.push_str(&format!("-----BEGIN {label}-----\n"));
    for line in text.as_bytes().chunks(64) {
        pem.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
        pem.push('\n');
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}

#[cfg(test)]
mod tests;

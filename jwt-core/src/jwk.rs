//! One key for verifying (RFC 7517 §4, RFC 7518 §6, RFC 8037 §2), prepared once so that a check parses nothing.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{self, ParsedPublicKey, VerificationAlgorithm};
use aws_lc_rs::{digest, hmac};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::alg::Algorithm;
use crate::error::JwkError;
use crate::json::{self, Object};
use crate::limits;
use crate::pem::PublicKey;

/// A usable key of a JWK Set.
#[derive(Debug)]
pub struct Jwk {
    kid: Option<Box<str>>,
    /// One entry for each algorithm that the key permits, ready to verify.
    verifiers: Vec<(Algorithm, Verifier)>,
    advice: Option<&'static str>,
}

#[derive(Debug)]
enum Verifier {
    Hmac(Box<hmac::Key>),
    Public(ParsedPublicKey),
}

impl Jwk {
    /// Reads one element of `keys`.
    pub(crate) fn parse(text: &str) -> Result<Self, JwkError> {
        let object = Object::parse(text.as_bytes()).map_err(|_| JwkError::NotAnObject)?;
        let kid = match optional(&object, "kid")? {
            Some(kid) => Some(checked_kid(&kid)?),
            None => None,
        };
        check_use(&object)?;
        let (verifiers, advice) = match &*required(&object, "kty")? {
            "oct" => secret(&object)?,
            "RSA" => (rsa(&object)?, private_member(&object)),
            "EC" => (ec(&object)?, private_member(&object)),
            "OKP" => (okp(&object)?, private_member(&object)),
            _ => return Err(JwkError::Type),
        };
        Ok(Self { kid, verifiers, advice })
    }

    /// A public key in PEM under the name `kid`; it permits the algorithms of its type.
    pub(crate) fn from_pem(kid: &str, pem: &str) -> Result<Self, JwkError> {
        // A JWK may have the empty kid. Here it is more likely a key whose name was forgotten.
        if kid.is_empty() {
            return Err(JwkError::EmptyKid);
        }
        let kid = Some(checked_kid(kid)?);
        let key = match PublicKey::from_pem(pem)? {
            PublicKey::Rsa { n, e } => rsa_key(&n, &e, &RSA)?,
            PublicKey::Ec { crv, point } => public(&[curve(crv)?.0], &point)?,
            PublicKey::Ed25519(key) => public(&[Algorithm::Ed25519], &key)?,
        };
        Ok(Self { kid, verifiers: key, advice: None })
    }

    /// `kid` (RFC 7517 §4.5).
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// The algorithms that the key permits: those of its `kty` and `crv`, or the one that its `alg` names.
    pub fn algorithms(&self) -> impl Iterator<Item = Algorithm> {
        self.verifiers.iter().map(|(alg, _)| *alg)
    }

    /// What an operator should know about a key that is used all the same.
    pub(crate) fn advice(&self) -> Option<&'static str> {
        self.advice
    }

    pub(crate) fn permits(&self, alg: Algorithm) -> bool {
        self.verifiers.iter().any(|(permitted, _)| *permitted == alg)
    }

    /// Whether `signature` is this key's over `input` by `alg`; `false` for an algorithm it does not permit.
    pub(crate) fn verifies(&self, alg: Algorithm, input: &[u8], signature: &[u8]) -> bool {
        match self.verifiers.iter().find(|(permitted, _)| *permitted == alg) {
            // Compares in constant time.
            Some((_, Verifier::Hmac(key))) => hmac::verify(key, input, signature).is_ok(),
            Some((_, Verifier::Public(key))) => key.verify_sig(input, signature).is_ok(),
            None => false,
        }
    }
}

fn checked_kid(kid: &str) -> Result<Box<str>, JwkError> {
    if kid.len() > limits::KID_BYTES { Err(JwkError::Member("kid")) } else { Ok(kid.into()) }
}

/// RFC 7517 §4.2, §4.3: both, where present, must permit verifying.
fn check_use(object: &Object) -> Result<(), JwkError> {
    if optional(object, "use")?.is_some_and(|value| value != "sig") {
        return Err(JwkError::Use);
    }
    if let Some(operations) = object.raw("key_ops") {
        let operations = json::elements(operations, limits::JSON_ARRAY_ITEMS)
            .ok_or(JwkError::Member("key_ops"))?;
        let mut verify = false;
        for operation in operations {
            verify |= json::string(operation).ok_or(JwkError::Member("key_ops"))? == "verify";
        }
        if !verify {
            return Err(JwkError::Use);
        }
    }
    Ok(())
}

/// Those of `possible` that the key's `alg` leaves (RFC 7517 §4.4).
fn permitted(object: &Object, possible: &[Algorithm]) -> Result<Vec<Algorithm>, JwkError> {
    let Some(name) = optional(object, "alg")? else { return Ok(possible.to_vec()) };
    match Algorithm::from_name(&name) {
        Some(alg) if possible.contains(&alg) => Ok(vec![alg]),
        _ => Err(JwkError::Algorithm),
    }
}

type Verifiers = Vec<(Algorithm, Verifier)>;

fn secret(object: &Object) -> Result<(Verifiers, Option<&'static str>), JwkError> {
    let key = binary(object, "k")?;
    // An empty secret is known to everybody.
    if key.is_empty() {
        return Err(JwkError::Value);
    }
    let algorithms = permitted(object, &[Algorithm::Hs256, Algorithm::Hs384, Algorithm::Hs512])?;
    let mut short = false;
    let verifiers = algorithms
        .into_iter()
        .map(|alg| {
            let hash = match alg {
                Algorithm::Hs384 => hmac::HMAC_SHA384,
                Algorithm::Hs512 => hmac::HMAC_SHA512,
                _ => hmac::HMAC_SHA256,
            };
            // RFC 7518 §3.2: at least as long as the hash. Without alg the shortest hash counts.
            short |= key.len() < hash.digest_algorithm().output_len()
                && (object.raw("alg").is_some() || key.len() < digest::SHA256_OUTPUT_LEN);
            (alg, Verifier::Hmac(Box::new(hmac::Key::new(hash, &key))))
        })
        .collect();
    Ok((verifiers, short.then_some("its secret is shorter than the hash (RFC 7518 section 3.2)")))
}

fn rsa(object: &Object) -> Result<Verifiers, JwkError> {
    let n = binary(object, "n")?;
    let e = binary(object, "e")?;
    rsa_key(&n, &e, &permitted(object, &RSA)?)
}

const RSA: [Algorithm; 6] = [
    Algorithm::Rs256,
    Algorithm::Rs384,
    Algorithm::Rs512,
    Algorithm::Ps256,
    Algorithm::Ps384,
    Algorithm::Ps512,
];

fn rsa_key(n: &[u8], e: &[u8], algorithms: &[Algorithm]) -> Result<Verifiers, JwkError> {
    let (n, e) = (significant(n), significant(e));
    let bits = n.len() * 8 - n.first().map_or(0, |byte| byte.leading_zeros() as usize);
    if !(limits::RSA_MIN_BITS..=limits::RSA_MAX_BITS).contains(&bits) {
        return Err(JwkError::ModulusBits);
    }
    // An even exponent is no RSA key, and 1 makes every message its own signature.
    if e.last().is_none_or(|byte| byte % 2 == 0) || *e == [1] {
        return Err(JwkError::Value);
    }
    let der: PublicKeyX509Der<'_> =
        PublicKeyComponents { n, e }.as_der().map_err(|_| JwkError::Value)?;
    public(algorithms, der.as_ref())
}

fn ec(object: &Object) -> Result<Verifiers, JwkError> {
    let (alg, size) = curve(&required(object, "crv")?)?;
    let (x, y) = (binary(object, "x")?, binary(object, "y")?);
    // RFC 7518 §6.2.1.2: a coordinate has the full size of the field, also with leading zeros.
    if x.len() != size || y.len() != size {
        return Err(JwkError::Value);
    }
    // SEC 1 §2.3.3, uncompressed; the library refuses a point that is not on the curve.
    let point = [&[0x04], &*x, &*y].concat();
    public(&permitted(object, &[alg])?, &point)
}

/// The algorithm of a curve, and the size of its field in bytes.
fn curve(crv: &str) -> Result<(Algorithm, usize), JwkError> {
    Ok(match crv {
        "P-256" => (Algorithm::Es256, 32),
        "P-384" => (Algorithm::Es384, 48),
        "P-521" => (Algorithm::Es512, 66),
        "secp256k1" => (Algorithm::Es256k, 32),
        _ => return Err(JwkError::Type),
    })
}

fn okp(object: &Object) -> Result<Verifiers, JwkError> {
    // Ed448 is left out: no maintained, reviewed implementation is to be had.
    if required(object, "crv")? != "Ed25519" {
        return Err(JwkError::Type);
    }
    let x = binary(object, "x")?;
    if x.len() != 32 {
        return Err(JwkError::Value);
    }
    public(&permitted(object, &[Algorithm::Ed25519])?, &x)
}

fn public(algorithms: &[Algorithm], key: &[u8]) -> Result<Verifiers, JwkError> {
    algorithms
        .iter()
        .map(|&alg| {
            let library: &'static dyn VerificationAlgorithm = match alg {
                Algorithm::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
                Algorithm::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
                Algorithm::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
                Algorithm::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
                Algorithm::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
                Algorithm::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
                // FIXED: R and S concatenated (RFC 7518 §3.4), never DER.
                Algorithm::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
                Algorithm::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
                Algorithm::Es512 => &signature::ECDSA_P521_SHA512_FIXED,
                Algorithm::Es256k => &signature::ECDSA_P256K1_SHA256_FIXED,
                Algorithm::Ed25519 => &signature::ED25519,
                Algorithm::Hs256 | Algorithm::Hs384 | Algorithm::Hs512 => {
                    return Err(JwkError::Algorithm);
                }
            };
            let key = ParsedPublicKey::new(library, key).map_err(|_| JwkError::Value)?;
            Ok((alg, Verifier::Public(key)))
        })
        .collect()
}

fn private_member(object: &Object) -> Option<&'static str> {
    object.raw("d").map(|_| "it carries a private key, which a verifier must not have")
}

fn required<'o>(
    object: &'o Object,
    name: &'static str,
) -> Result<std::borrow::Cow<'o, str>, JwkError> {
    object.str(name).ok_or(JwkError::Member(name))
}

fn optional<'o>(
    object: &'o Object,
    name: &'static str,
) -> Result<Option<std::borrow::Cow<'o, str>>, JwkError> {
    object.raw(name).map(|_| required(object, name)).transpose()
}

fn binary(object: &Object, name: &'static str) -> Result<Vec<u8>, JwkError> {
    URL_SAFE_NO_PAD.decode(&*required(object, name)?).map_err(|_| JwkError::Base64(name))
}

/// RFC 7518 §2, Base64urlUInt: no leading zero octets; some issuers write them all the same.
fn significant(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

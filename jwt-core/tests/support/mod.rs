//! Signs tokens with keys made for each run, so that tests need no key in the tree.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P256K1_SHA256_FIXED_SIGNING,
    ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RsaEncoding,
};
use aws_lc_rs::{encoding, hmac};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use jwt_core::Algorithm;
use serde_json::{Value, json};

/// A private key with its public JWK.
pub enum Signer {
    Secret(Vec<u8>),
    Rsa(Box<RsaKeyPair>),
    Ec(EcdsaKeyPair, &'static str, usize),
    Ed(Ed25519KeyPair),
}

pub fn b64(bytes: impl AsRef<[u8]>) -> String {
    B64.encode(bytes)
}

fn ec(algorithm: &'static EcdsaSigningAlgorithm, crv: &'static str, size: usize) -> Signer {
    Signer::Ec(EcdsaKeyPair::generate(algorithm).expect("key"), crv, size)
}

impl Signer {
    /// A new key of the type that `alg` needs.
    pub fn new(alg: Algorithm) -> Self {
        match alg.name() {
            "HS256" | "HS384" | "HS512" => {
                let mut secret = vec![0; 64];
                aws_lc_rs::rand::fill(&mut secret).expect("random");
                Self::Secret(secret)
            }
            "ES256" => ec(&ECDSA_P256_SHA256_FIXED_SIGNING, "P-256", 32),
            "ES384" => ec(&ECDSA_P384_SHA384_FIXED_SIGNING, "P-384", 48),
            "ES512" => ec(&ECDSA_P521_SHA512_FIXED_SIGNING, "P-521", 66),
            "ES256K" => ec(&ECDSA_P256K1_SHA256_FIXED_SIGNING, "secp256k1", 32),
            "EdDSA" => Self::Ed(Ed25519KeyPair::generate().expect("key")),
            _ => Self::Rsa(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).expect("key"))),
        }
    }

    /// The public JWK (the secret itself for HMAC), without `alg` and `kid`.
    pub fn jwk(&self) -> Value {
        match self {
            Self::Secret(secret) => json!({"kty": "oct", "k": b64(secret)}),
            Self::Rsa(pair) => {
                let key = pair.public_key();
                json!({"kty": "RSA", "n": b64(key.modulus().big_endian_without_leading_zero()),
                    "e": b64(key.exponent().big_endian_without_leading_zero())})
            }
            Self::Ec(pair, crv, size) => {
                let point = pair.public_key().as_ref();
                json!({"kty": "EC", "crv": crv, "x": b64(&point[1..=*size]), "y": b64(&point[size + 1..])})
            }
            Self::Ed(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": b64(pair.public_key().as_ref())})
            }
        }
    }

    /// The bytes that a confused verifier might take for an HMAC secret.
    pub fn public_bytes(&self) -> Vec<u8> {
        match self {
            Self::Secret(secret) => secret.clone(),
            Self::Rsa(pair) => {
                let der: encoding::PublicKeyX509Der<'_> = pair.public_key().as_der().expect("der");
                der.as_ref().to_vec()
            }
            Self::Ec(pair, ..) => pair.public_key().as_ref().to_vec(),
            Self::Ed(pair) => pair.public_key().as_ref().to_vec(),
        }
    }

    /// Signs `input` as `alg` asks, or as the key can where `alg` is not of its type.
    pub fn sign(&self, alg: &str, input: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Secret(secret) => {
                let hash = match alg {
                    "HS384" => hmac::HMAC_SHA384,
                    "HS512" => hmac::HMAC_SHA512,
                    _ => hmac::HMAC_SHA256,
                };
                hmac::sign(&hmac::Key::new(hash, secret), input).as_ref().to_vec()
            }
            Self::Rsa(pair) => {
                let padding: &'static dyn RsaEncoding = match alg {
                    "RS384" => &signature::RSA_PKCS1_SHA384,
                    "RS512" => &signature::RSA_PKCS1_SHA512,
                    "PS256" => &signature::RSA_PSS_SHA256,
                    "PS384" => &signature::RSA_PSS_SHA384,
                    "PS512" => &signature::RSA_PSS_SHA512,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &random, input, &mut signature).expect("signature");
                signature
            }
            Self::Ec(pair, ..) => pair.sign(&random, input).expect("signature").as_ref().to_vec(),
            Self::Ed(pair) => pair.sign(input).as_ref().to_vec(),
        }
    }

    /// A token with this header and these claims.
    pub fn token(&self, header: &Value, claims: &Value) -> String {
        let input = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
        let alg = header["alg"].as_str().unwrap_or_default();
        let signature = self.sign(alg, input.as_bytes());
        format!("{input}.{}", b64(signature))
    }
}

/// A JWK Set of `keys`.
pub fn jwks(keys: &[Value]) -> Vec<u8> {
    json!({ "keys": keys }).to_string().into_bytes()
}

/// `jwk` with more members.
pub fn with(mut jwk: Value, members: Value) -> Value {
    let more = members.as_object().expect("object").clone();
    jwk.as_object_mut().expect("object").extend(more);
    jwk
}

//! Keys and tokens, made with a library that the module does not use.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

/// Seconds since the epoch.
///
/// # Panics
/// Before 1970.
#[must_use]
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    i64::try_from(since.as_secs()).expect("a clock before the end of time")
}

/// An ES256 key pair with a kid.
pub struct SigningKey {
    kid: String,
    private: EncodingKey,
    x: String,
    y: String,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

impl SigningKey {
    /// Makes one.
    ///
    /// # Panics
    /// If the library fails.
    #[must_use]
    pub fn generate(kid: &str) -> Self {
        let document =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
                .expect("a key");
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref())
            .expect("the key");
        // SEC 1 §2.3.3: 04, then the two coordinates.
        let point = pair.public_key().as_ref();
        let (x, y) = point[1..].split_at(32);
        Self {
            kid: kid.to_owned(),
            private: EncodingKey::from_ec_der(document.as_ref()),
            x: URL_SAFE_NO_PAD.encode(x),
            y: URL_SAFE_NO_PAD.encode(y),
        }
    }

    /// The public key.
    #[must_use]
    pub fn jwk(&self) -> Value {
        json!({"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.kid, "x": self.x, "y": self.y})
    }

    /// A token with these claims.
    ///
    /// # Panics
    /// If the library fails.
    #[must_use]
    pub fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.kid.clone()), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, claims, &self.private).expect("a token")
    }

    /// The public key as PEM (RFC 7468 §13).
    ///
    /// # Panics
    /// Never: the coordinates were encoded by this value.
    #[must_use]
    pub fn pem(&self) -> String {
        // RFC 5480 §2: the SubjectPublicKeyInfo of a P-256 key up to its point, which follows uncompressed.
        const PREFIX: &[u8] =
            b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\
            \x3d\x03\x01\x07\x03\x42\x00\x04";
        let mut der = PREFIX.to_vec();
        for coordinate in [&self.x, &self.y] {
            der.extend(URL_SAFE_NO_PAD.decode(coordinate).expect("as it was encoded"));
        }
        pem("PUBLIC KEY", &der)
    }

    /// A token with these claims and this `kid`, or none.
    ///
    /// # Panics
    /// If the library fails.
    #[must_use]
    pub fn sign_as(&self, kid: Option<&str>, claims: &Value) -> String {
        let header = Header { kid: kid.map(str::to_owned), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, claims, &self.private).expect("a token")
    }

    /// A token of exactly this header and these claims, as text: whatever a library would tidy up stays.
    ///
    /// # Panics
    /// If the library fails.
    #[must_use]
    pub fn sign_text(&self, header: &str, claims: &str) -> String {
        let input = [header, claims].map(|text| URL_SAFE_NO_PAD.encode(text)).join(".");
        let signature =
            jsonwebtoken::crypto::sign(input.as_bytes(), &self.private, Algorithm::ES256);
        format!("{input}.{}", signature.expect("a signature"))
    }

    /// A token that is good for five minutes.
    #[must_use]
    pub fn token(&self, identifier: &str) -> String {
        self.sign(&json!({"identifier": identifier, "iat": now(), "exp": now() + 300}))
    }
}

/// A token with these claims that is good for five minutes, if they have no `exp` of their own.
#[must_use]
pub fn sign(key: &SigningKey, mut claims: Value) -> String {
    if claims.get("exp").is_none() {
        claims["exp"] = json!(now() + 300);
    }
    key.sign(&claims)
}

/// The text of a JWK Set of these keys.
#[must_use]
pub fn jwks(keys: &[&SigningKey]) -> String {
    json!({"keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>()}).to_string()
}

/// DER in the form of RFC 7468.
///
/// # Panics
/// Never: base64 is ASCII.
#[must_use]
pub fn pem(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let lines: Vec<&str> =
        body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("ASCII")).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

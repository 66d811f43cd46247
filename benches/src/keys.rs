//! Keys and tokens, in files that nginx, HAProxy and wrk read. They are made for one run and mean nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::{self, SystemRandom};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// An algorithm that has rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Rs256,
    Es256,
    EdDsa,
    Hs256,
}

impl Algorithm {
    pub(crate) const ALL: [Self; 4] = [Self::Rs256, Self::Es256, Self::EdDsa, Self::Hs256];

    /// Its name in a token's header.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
            Self::Hs256 => "HS256",
        }
    }
}

/// The files of a run.
#[derive(Debug)]
pub(crate) struct Keys {
    folder: PathBuf,
    secret: String,
    pairs: Vec<Pair>,
}

#[derive(Debug)]
enum Pair {
    Rsa(Box<RsaKeyPair>),
    Ec(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Secret(Box<hmac::Key>),
}

impl Keys {
    /// Makes a key for each algorithm, the key set, and one token of each.
    pub(crate) fn generate(folder: &Path) -> Result<Self> {
        // Letters and digits: HAProxy takes the secret from its configuration.
        let mut secret = [0; 16];
        rand::fill(&mut secret)?;
        let secret: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let pairs = vec![
            Pair::Rsa(Box::new(RsaKeyPair::generate(KeySize::Rsa2048)?)),
            Pair::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?),
            Pair::Ed25519(Ed25519KeyPair::generate()?),
            Pair::Secret(Box::new(hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()))),
        ];
        let keys = Self { folder: folder.to_owned(), secret, pairs };
        let mut set = Vec::new();
        for alg in Algorithm::ALL {
            set.push(keys.jwk(alg)?);
            fs::write(keys.token(alg), keys.sign(alg, 0)? + "\n")?;
            if let Some(spki) = keys.spki(alg)? {
                fs::write(keys.pem(alg), pem(&spki))?;
            }
            fs::write(verifying_key(folder, alg.name()), keys.verifying(alg)?)?;
        }
        fs::write(keys.jwks(), json!({ "keys": set }).to_string())?;
        Ok(keys)
    }

    /// The key set.
    pub(crate) fn jwks(&self) -> PathBuf {
        self.folder.join("jwks.json")
    }

    /// The public key as HAProxy reads it.
    pub(crate) fn pem(&self, alg: Algorithm) -> PathBuf {
        self.folder.join(format!("{}.pem", alg.name()))
    }

    /// What HS256 is keyed with.
    pub(crate) fn secret(&self) -> &str {
        &self.secret
    }

    /// The file with one token.
    pub(crate) fn token(&self, alg: Algorithm) -> PathBuf {
        token_file(&self.folder, alg.name())
    }

    /// Makes a file of `count` tokens that are all different.
    pub(crate) fn distinct_tokens(&self, alg: Algorithm, count: u32) -> Result<PathBuf> {
        let file = self.folder.join(format!("{}.tokens", alg.name()));
        let tokens: Vec<String> =
            (1..=count).map(|number| self.sign(alg, number)).collect::<Result<_>>()?;
        fs::write(&file, tokens.join("\n") + "\n")?;
        Ok(file)
    }

    fn pair(&self, alg: Algorithm) -> &Pair {
        &self.pairs[alg as usize]
    }

    /// A token with the claims that the daemon writes, so that their number and length are those of real ones.
    fn sign(&self, alg: Algorithm, number: u32) -> Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("a clock before 1970")?;
        let identifier = format!("{number:08x}-5bd1-4e23-9c83-2f7c1d1fd0aa");
        let token_id = format!("{number:08x}-0d5f-4b6a-8a54-b0d9a87f3c11");
        // Two hours: longer than a run.
        let exp = now.as_secs() + 7200;
        let claims = json!({
            "token_id": token_id, "identifier": identifier, "iat": now.as_secs(), "exp": exp,
            "sub": identifier, "jti": token_id, "key": "Vb1qk9Zt0aXf",
        });
        let header = json!({"typ": "JWT", "alg": alg.name(), "kid": kid(alg)});
        let mut token = URL_SAFE_NO_PAD.encode(header.to_string());
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(claims.to_string(), &mut token);
        let random = SystemRandom::new();
        let signature = match self.pair(alg) {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, token.as_bytes(), &mut signature)?;
                signature
            }
            Pair::Ec(pair) => pair.sign(&random, token.as_bytes())?.as_ref().to_vec(),
            Pair::Ed25519(pair) => pair.sign(token.as_bytes()).as_ref().to_vec(),
            Pair::Secret(key) => hmac::sign(key, token.as_bytes()).as_ref().to_vec(),
        };
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }

    fn jwk(&self, alg: Algorithm) -> Result<Value> {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let mut jwk = match self.pair(alg) {
            Pair::Rsa(pair) => {
                let (n, e) = (pair.public_key().modulus(), pair.public_key().exponent());
                json!({
                    "kty": "RSA",
                    "n": encode(n.big_endian_without_leading_zero()),
                    "e": encode(e.big_endian_without_leading_zero()),
                })
            }
            Pair::Ec(pair) => {
                // SEC 1 §2.3.3: 04, then the two coordinates.
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                json!({"kty": "EC", "crv": "P-256", "x": encode(x), "y": encode(y)})
            }
            Pair::Ed25519(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key().as_ref())})
            }
            Pair::Secret(_) => json!({"kty": "oct", "k": encode(self.secret.as_bytes())}),
        };
        jwk["alg"] = alg.name().into();
        jwk["use"] = "sig".into();
        jwk["kid"] = kid(alg).into();
        Ok(jwk)
    }

    /// The key in `SubjectPublicKeyInfo`; `None` for a secret.
    fn spki(&self, alg: Algorithm) -> Result<Option<Vec<u8>>> {
        let der: PublicKeyX509Der<'_> = match self.pair(alg) {
            Pair::Rsa(pair) => pair.public_key().as_der()?,
            Pair::Ec(pair) => pair.public_key().as_der()?,
            Pair::Ed25519(pair) => pair.public_key().as_der()?,
            Pair::Secret(_) => return Ok(None),
        };
        Ok(Some(der.as_ref().to_vec()))
    }

    /// What `verify` checks signatures with.
    fn verifying(&self, alg: Algorithm) -> Result<Vec<u8>> {
        Ok(self.spki(alg)?.unwrap_or_else(|| self.secret.clone().into_bytes()))
    }
}

/// As long as those of the daemon.
fn kid(alg: Algorithm) -> String {
    format!("bench-{}-NzbLsXh8uDCcd", alg.name())
}

/// The file with one token of an algorithm.
pub(crate) fn token_file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.token"))
}

/// The file with the public key or the secret of an algorithm.
pub(crate) fn verifying_key(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.key"))
}

/// RFC 7468 §3: lines of 64 characters.
fn pem(spki: &[u8]) -> String {
    let text = STANDARD.encode(spki);
    let mut pem = String::from("-----BEGIN PUBLIC KEY-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem + "-----END PUBLIC KEY-----\n"
}

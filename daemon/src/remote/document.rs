//! What of a remote answer goes into the file: public keys that verify, and nothing else of it.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use jwt_core::{JwkSet, JwksError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A key set that can be used, with the text of its file.
#[derive(Debug, Clone)]
pub(super) struct Document {
    pub(super) text: Bytes,
    pub(super) keys: Arc<JwkSet>,
    /// What is wrong with the keys that were left out, without a value of them.
    pub(super) skipped: Vec<String>,
}

/// The file. Members that a JWK Set does not have are ignored by its readers (RFC 7517 §5).
#[derive(Serialize)]
struct File<'a> {
    /// The URL that was configured when the keys were fetched: those of another one are not taken for its keys.
    source: &'a str,
    keys: &'a [PublicKey],
}

/// The members that a public key is made of and chosen by (RFC 7517 §4, RFC 7518 §6, RFC 8037 §2). There is none
/// here for a private or a symmetric key, so none can be written by mistake.
#[derive(Serialize, Deserialize)]
struct PublicKey {
    kty: String,
    #[serde(rename = "use", skip_serializing_if = "Option::is_none")]
    public_key_use: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alg: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    e: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    crv: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    y: Option<String>,
}

/// Members of private keys, of which one is enough to find the others (RFC 7518 §6.2.2, §6.3.2, RFC 8037 §2).
const PRIVATE: [&str; 6] = ["d", "p", "q", "dp", "dq", "qi"];

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    source: Option<String>,
    keys: Vec<Value>,
}

impl Document {
    /// Reads a JWK Set that came from `source`.
    ///
    /// # Errors
    /// If it is none, or has no key that can be used.
    pub(super) fn parse(bytes: &[u8], source: &str) -> Result<Self, JwksError> {
        let all = JwkSet::parse(bytes)?;
        // The stricter reader has read it.
        let raw: Raw = serde_json::from_slice(bytes).map_err(|_| JwksError::NoKeys)?;
        let mut keys = Vec::new();
        let mut skipped = Vec::new();
        for (index, key) in raw.keys.into_iter().enumerate() {
            let warning = all.warnings().iter().find(|w| w.index == index && w.skipped.is_some());
            let reason = match warning {
                Some(warning) => warning.text.clone(),
                None if key["kty"] == "oct" => "it is a secret, not a public key".to_owned(),
                None if PRIVATE.iter().any(|member| key.get(member).is_some()) => {
                    "it is published with its private part, so that anybody can sign with it"
                        .to_owned()
                }
                None => match serde_json::from_value(key) {
                    Ok(key) => {
                        keys.push(key);
                        continue;
                    }
                    Err(_) => "a member of it has the wrong type".to_owned(),
                },
            };
            skipped.push(format!("key {index}: {reason}"));
        }
        let text = serde_json::to_vec(&File { source, keys: &keys })
            .expect("texts and arrays always serialise");
        let keys = Arc::new(JwkSet::parse(&text)?);
        Ok(Self { text: text.into(), keys, skipped })
    }

    /// Reads the file that an earlier run left; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be read, or does not hold keys of `source`.
    pub(super) fn read(path: &Path, source: &str) -> io::Result<Option<Self>> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let document = Self::parse(&bytes, source).map_err(io::Error::other)?;
        let raw: Raw = serde_json::from_slice(&bytes)?;
        if raw.source.as_deref() != Some(source) {
            return Err(io::Error::other("its keys were not fetched from the configured URL"));
        }
        Ok(Some(document))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::{RsaBits, SigningAlgorithm};
    use crate::signing_key::SigningKey;

    const SOURCE: &str = "https://corp.example/jwks";

    fn key(algorithm: SigningAlgorithm) -> Value {
        let key = SigningKey::generate(algorithm, RsaBits::B2048).unwrap();
        serde_json::to_value(key.jwk()).unwrap()
    }

    #[test]
    fn only_public_keys_reach_the_file_and_only_their_public_members() {
        let (rsa, ec, ed) = (
            key(SigningAlgorithm::Rs256),
            key(SigningAlgorithm::Es256),
            key(SigningAlgorithm::EdDsa),
        );
        let mut leaked = key(SigningAlgorithm::Es256);
        leaked["d"] = json!("c2VjcmV0");
        let secret = json!({"kty": "oct", "alg": "HS256", "k": "dGhpcyBrZXkgaXMgb25seSBmb3IgdGVzdHMsIDMyKyBieXRlcw"});
        let encryption = json!({"kty": "RSA", "use": "enc", "n": rsa["n"], "e": "AQAB"});
        let mut decorated = rsa.clone();
        decorated["x5u"] = json!("https://elsewhere.example");
        let keys = [&decorated, &secret, &leaked, &encryption, &ec, &ed];
        let answer = json!({"keys": keys, "note": "hunter2"}).to_string();
        let document = Document::parse(answer.as_bytes(), SOURCE).unwrap();
        let written: Value = serde_json::from_slice(&document.text).unwrap();
        assert_eq!(written["source"], SOURCE);
        let written = written["keys"].as_array().unwrap();
        assert_eq!(written.len(), 3);
        assert_eq!(written[1..], [ec, ed]);
        let members: Vec<_> = written[0].as_object().unwrap().keys().cloned().collect();
        assert_eq!(members, ["alg", "e", "kid", "kty", "n", "use"]);
        assert_eq!((document.keys.len(), document.skipped.len()), (3, 3));
        let told = document.skipped.join(" ");
        assert!(told.contains("key 1: it is a secret") && told.contains("key 2: it is published"));
        // Alone, a secret or a leaked key is no key.
        for key in [secret, leaked] {
            let answer = json!({"keys": [key]}).to_string();
            Document::parse(answer.as_bytes(), SOURCE).unwrap_err();
        }
    }

    #[test]
    fn a_file_is_used_again_for_the_same_source_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("corp.json");
        assert!(Document::read(&path, SOURCE).unwrap().is_none());
        let answer = json!({"keys": [key(SigningAlgorithm::EdDsa)]}).to_string();
        let document = Document::parse(answer.as_bytes(), SOURCE).unwrap();
        std::fs::write(&path, &document.text).unwrap();
        assert_eq!(Document::read(&path, SOURCE).unwrap().unwrap().text, document.text);
        Document::read(&path, "https://other.example/jwks").unwrap_err();
        std::fs::write(&path, &answer).unwrap();
        Document::read(&path, SOURCE).unwrap_err();
        std::fs::write(&path, "{").unwrap();
        Document::read(&path, SOURCE).unwrap_err();
    }
}

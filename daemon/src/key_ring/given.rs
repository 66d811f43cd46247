//! The key of JWThenticator's `RSA_*` variables, which is not rotated.

use std::path::Path;

use tracing::{info, warn};

use super::{RingError, new_key};
use crate::config::{GivenKey, Keys, SigningAlgorithm};
use crate::secret::Secret;
use crate::signing_key::directory::read_key;
use crate::signing_key::{DirectoryError, KeyError, SigningKey};

/// Reads the key, or makes it when both of its files are missing. A private key is never overwritten.
pub(super) fn key(given: &GivenKey, keys: &Keys) -> Result<SigningKey, RingError> {
    let key = match given {
        GivenKey::PrivateText(private, public) => {
            from_texts(private, public.as_deref(), keys.algorithm)?
        }
        GivenKey::PublicText(public) => SigningKey::public_only(public, keys.algorithm)
            .map_err(|error| unusable_text("RSA_PUBLIC_KEY", &error))?,
        GivenKey::Files { public, private: Some(private) } => from_files(public, private, keys)?,
        GivenKey::Files { public, private: None } => {
            if !public.exists() {
                return Err(unusable(format!(
                    "{} (RSA_PUBLIC_KEY_PATH) is missing; restore it, or set RSA_PRIVATE_KEY_PATH \
                     too to have a new pair made",
                    public.display()
                )));
            }
            from_public_file(public, keys.algorithm)?
        }
    };
    if !key.can_sign() {
        warn!(event = "validation_only", kid = key.kid(), reason = "no private key is given");
    }
    Ok(key)
}

fn from_texts(
    private: &Secret,
    public: Option<&str>,
    algorithm: SigningAlgorithm,
) -> Result<SigningKey, RingError> {
    let key = SigningKey::from_pem(private.expose().as_bytes(), algorithm)
        .map_err(|error| unusable_text("RSA_PRIVATE_KEY", &error))?;
    if public.is_some_and(|public| !key.has_public_pem(public)) {
        return Err(unusable(
            "RSA_PUBLIC_KEY is not the public key of RSA_PRIVATE_KEY; make it with: openssl pkey \
             -pubout"
                .into(),
        ));
    }
    Ok(key)
}

fn from_files(public: &Path, private: &Path, keys: &Keys) -> Result<SigningKey, RingError> {
    match (public.exists(), private.exists()) {
        (true, true) => {
            let key = read_key(private, &[keys.algorithm])?;
            if !key.has_public_pem(&read(public)?) {
                let (public, private) = (public.display(), private.display());
                return Err(unusable(format!(
                    "{public} (RSA_PUBLIC_KEY_PATH) is not the public key of {private} \
                     (RSA_PRIVATE_KEY_PATH); make it with: openssl pkey -in {private} -pubout"
                )));
            }
            Ok(key)
        }
        (false, false) => make(public, private, keys),
        (true, false) => Err(unusable(format!(
            "{} (RSA_PRIVATE_KEY_PATH) is missing, but {} is there; restore it, or remove the \
             public key to get a new pair",
            private.display(),
            public.display()
        ))),
        (false, true) => {
            let (public, private) = (public.display(), private.display());
            Err(unusable(format!(
                "{public} (RSA_PUBLIC_KEY_PATH) is missing, but {private} is there; make it with: \
                 openssl pkey -in {private} -pubout -out {public}"
            )))
        }
    }
}

fn make(public: &Path, private: &Path, keys: &Keys) -> Result<SigningKey, RingError> {
    let key = new_key(keys)?;
    let pem = key.to_pem()?;
    let public_pem = key.to_public_pem().ok_or(KeyError::Library)?;
    for (path, text, mode) in [
        (private, pem.as_str(), crate::atomic_file::PRIVATE),
        (public, public_pem.as_str(), crate::atomic_file::PUBLIC),
    ] {
        crate::atomic_file::replace(path, text.as_bytes(), mode)
            .map_err(|source| DirectoryError::Io { action: "write", path: path.into(), source })?;
    }
    info!(event = "key_created", kid = key.kid(), algorithm = key.algorithm().as_str());
    Ok(key)
}

fn from_public_file(path: &Path, algorithm: SigningAlgorithm) -> Result<SigningKey, RingError> {
    let key = SigningKey::public_only(&read(path)?, algorithm);
    Ok(key.map_err(|source| DirectoryError::Key { path: path.into(), source })?)
}

fn read(path: &Path) -> Result<String, RingError> {
    std::fs::read_to_string(path)
        .map_err(|source| DirectoryError::Io { action: "read", path: path.into(), source }.into())
}

/// Never with the text itself: what is no public key may be a private one.
fn unusable_text(name: &str, error: &KeyError) -> RingError {
    unusable(format!("{name} cannot be used: {error}; it must have its line breaks"))
}

fn unusable(text: String) -> RingError {
    RingError::Directory(DirectoryError::Pair(text))
}

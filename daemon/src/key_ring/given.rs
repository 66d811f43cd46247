//! The pair of `RSA_PUBLIC_KEY_PATH` and `RSA_PRIVATE_KEY_PATH`, which is not rotated.

use tracing::info;

use super::plan::Entry;
use super::{RingError, new_key};
use crate::config::{KeyPairFiles, Keys};
use crate::signing_key::directory::read_key;
use crate::signing_key::{DirectoryError, KeyError};

/// Reads the pair, or makes it when both files are missing. A private key is never overwritten.
pub(super) fn pair(
    files: &KeyPairFiles,
    keys: &Keys,
    now: i64,
    lifetime: u64,
) -> Result<Entry, RingError> {
    let pair_error = |text: String| RingError::Directory(DirectoryError::Pair(text));
    let (public, private) = (files.public.display(), files.private.display());
    match (files.public.exists(), files.private.exists()) {
        (true, true) => {
            let key = read_key(&files.private, &[keys.algorithm])?;
            let pem = std::fs::read(&files.public).map_err(|source| DirectoryError::Io {
                action: "read",
                path: files.public.clone(),
                source,
            })?;
            if !key.has_public_pem(&pem) {
                return Err(pair_error(format!(
                    "{public} (RSA_PUBLIC_KEY_PATH) is not the public key of {private} \
                     (RSA_PRIVATE_KEY_PATH); make it with: openssl pkey -in {private} -pubout"
                )));
            }
            Ok(Entry::signing(key, now, lifetime))
        }
        (false, false) => {
            let key = new_key(keys)?;
            let pem = key.to_pem()?;
            let public_pem = key.to_public_pem().ok_or(KeyError::Library)?;
            for (path, text, mode) in [
                (&files.private, pem.as_str(), crate::atomic_file::PRIVATE),
                (&files.public, public_pem.as_str(), crate::atomic_file::PUBLIC),
            ] {
                crate::atomic_file::replace(path, text.as_bytes(), mode).map_err(|source| {
                    DirectoryError::Io { action: "write", path: path.clone(), source }
                })?;
            }
            info!(event = "key_created", kid = key.kid(), algorithm = key.algorithm().as_str());
            Ok(Entry::signing(key, now, lifetime))
        }
        (true, false) => Err(pair_error(format!(
            "{private} (RSA_PRIVATE_KEY_PATH) is missing, but {public} is there; restore it, or \
             remove the public key to get a new pair"
        ))),
        (false, true) => Err(pair_error(format!(
            "{public} (RSA_PUBLIC_KEY_PATH) is missing, but {private} is there; make it with: \
             openssl pkey -in {private} -pubout -out {public}"
        ))),
    }
}

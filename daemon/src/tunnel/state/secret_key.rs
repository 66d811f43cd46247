//! The key that encrypts credentials in the state file: Fernet, as NETunnel uses it, so that either reads what the
//! other wrote.

use std::fmt;

use fernet::Fernet;

use crate::secret::Secret;

/// A Fernet key. `Debug` does not show it.
#[derive(Clone)]
pub(in crate::tunnel) struct SecretKey(Fernet);

/// The text is no Fernet key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it is no Fernet key: expected 32 bytes in URL-safe base64, 44 characters, as `python -m \
     netunnel.common.security generate-key` makes them"
)]
pub(in crate::tunnel) struct InvalidSecretKey;

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey")
    }
}

impl SecretKey {
    /// A new random key, and its text for the key file.
    pub(super) fn generate() -> (Self, Secret) {
        let text = Fernet::generate_key();
        let key = Fernet::new(&text).expect("a generated key is one");
        (Self(key), Secret::new(text))
    }

    /// # Errors
    /// [`InvalidSecretKey`].
    pub(in crate::tunnel) fn parse(text: &str) -> Result<Self, InvalidSecretKey> {
        Fernet::new(text.trim()).map(Self).ok_or(InvalidSecretKey)
    }

    /// A token that holds `text`.
    pub(in crate::tunnel) fn encrypt(&self, text: &str) -> String {
        self.0.encrypt(text.as_bytes())
    }

    /// The text in `token`; none if this key did not make it.
    pub(in crate::tunnel) fn decrypt(&self, token: &str) -> Option<Secret> {
        String::from_utf8(self.0.decrypt(token).ok()?).ok().map(Secret::new)
    }
}

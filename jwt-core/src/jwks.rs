//! A JWK Set (RFC 7517 §5) and the choice of a key from it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::alg::Algorithm;
use crate::error::{JwkError, JwksError, VerifyError};
use crate::json::{self, Object};
use crate::jwk::Jwk;
use crate::limits;

/// Keys to verify with, immutable and cheap to share.
#[derive(Debug, Default)]
pub struct JwkSet {
    keys: Vec<Arc<Jwk>>,
    by_kid: HashMap<Box<str>, Vec<usize>>,
    warnings: Vec<KeyWarning>,
}

/// What an operator should know about one key of a set.
#[derive(Clone, Debug)]
pub struct KeyWarning {
    /// Place in `keys`, from 0.
    pub index: usize,
    /// The key's `kid`, if it could be read. It is the file's text: escape it in a log line.
    pub kid: Option<String>,
    /// Why the key is skipped; `None` for one that is used all the same.
    pub skipped: Option<JwkError>,
    /// What is wrong with it, without a value of it.
    pub text: String,
}

impl JwkSet {
    /// Reads a JWK Set. Keys that can't be used are skipped (RFC 7517 §5); [`JwkSet::warnings`] tells which.
    ///
    /// # Errors
    /// [`JwksError`] if the text is no JWK Set, is past [`limits`], or leaves no usable key.
    pub fn parse(bytes: &[u8]) -> Result<Self, JwksError> {
        if bytes.len() > limits::JWKS_BYTES {
            return Err(JwksError::TooLarge);
        }
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(JwksError::Empty);
        }
        let root = Object::parse_shallow(bytes).map_err(JwksError::Syntax)?;
        let array =
            root.raw("keys").filter(|keys| keys.starts_with('[')).ok_or(JwksError::NoKeys)?;
        let elements = json::elements(array, limits::JWKS_KEYS).ok_or(JwksError::TooManyKeys)?;
        let mut set = Self::default();
        let mut first = None;
        for (index, element) in elements.iter().enumerate() {
            match Jwk::parse(element) {
                Ok(key) => {
                    if let Some(text) = key.advice() {
                        let kid = key.kid().map(str::to_owned);
                        set.warnings.push(KeyWarning {
                            index,
                            kid,
                            skipped: None,
                            text: text.to_owned(),
                        });
                    }
                    set.push(Arc::new(key));
                }
                Err(error) => {
                    set.warnings.push(KeyWarning {
                        index,
                        kid: Object::parse(element.as_bytes())
                            .ok()
                            .and_then(|key| key.str("kid").map(|kid| kid.into_owned())),
                        text: format!("{error}; the key is skipped"),
                        skipped: Some(error.clone()),
                    });
                    first.get_or_insert(error);
                }
            }
        }
        if set.keys.is_empty() {
            return Err(JwksError::NoUsableKey { skipped: elements.len(), first });
        }
        Ok(set)
    }

    /// The keys of all `sets`, in their order, sharing them.
    pub fn union<'s>(sets: impl IntoIterator<Item = &'s Self>) -> Self {
        let mut union = Self::default();
        for key in sets.into_iter().flat_map(|set| &set.keys) {
            union.push(Arc::clone(key));
        }
        union
    }

    fn push(&mut self, key: Arc<Jwk>) {
        if let Some(kid) = key.kid() {
            self.by_kid.entry(kid.into()).or_default().push(self.keys.len());
        }
        self.keys.push(key);
    }

    /// How many keys are usable.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether the set verifies nothing; only of a union of no sets.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The usable keys.
    pub fn keys(&self) -> impl Iterator<Item = &Jwk> {
        self.keys.iter().map(|key| &**key)
    }

    /// The `kid` of each usable key that has one.
    pub fn kids(&self) -> impl Iterator<Item = &str> {
        self.keys().filter_map(Jwk::kid)
    }

    /// Keys that were skipped or are used in spite of a weakness.
    pub fn warnings(&self) -> &[KeyWarning] {
        &self.warnings
    }

    /// The keys that may have signed a token with `alg` and `kid`, bounded in number.
    ///
    /// A `kid` that keys have selects among these alone. With one that no key has, only keys without a `kid`
    /// come into question; without one, every key does.
    pub(crate) fn candidates(
        &self,
        alg: Algorithm,
        kid: Option<&str>,
    ) -> Result<Vec<&Jwk>, VerifyError> {
        if let Some(named) = kid.and_then(|kid| self.by_kid.get(kid)) {
            let mut keys: Vec<&Jwk> = named
                .iter()
                .map(|&index| &*self.keys[index])
                .filter(|key| key.permits(alg))
                .collect();
            if keys.is_empty() {
                return Err(VerifyError::Algorithm);
            }
            keys.truncate(limits::SHARED_KID_TRIES);
            return Ok(keys);
        }
        let keys: Vec<&Jwk> = self
            .keys()
            .filter(|key| key.permits(alg) && (kid.is_none() || key.kid().is_none()))
            .take(limits::NO_KID_TRIES)
            .collect();
        if keys.is_empty() { Err(VerifyError::UnknownKey) } else { Ok(keys) }
    }
}

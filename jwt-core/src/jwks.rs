//! A JWK Set (RFC 7517 §5) and the choice of a key from it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::alg::Algorithm;
use crate::error::{JwkError, JwksError};
use crate::json::{self, Object};
use crate::jwk::Jwk;
use crate::limits;

/// Keys to verify with, immutable and cheap to share.
#[derive(Debug)]
pub struct JwkSet {
    id: u64,
    /// Each key with its group: the number of the set that it came with into a union. They ascend.
    keys: Vec<(usize, Arc<Jwk>)>,
    groups: usize,
    /// Places in `keys`, ascending.
    by_kid: HashMap<Box<str>, Vec<usize>>,
    without_kid: Vec<usize>,
    warnings: Vec<KeyWarning>,
}

impl Default for JwkSet {
    fn default() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self {
            // Only distinct numbers are asked for, not an order among threads.
            id: LAST.fetch_add(1, Ordering::Relaxed) + 1,
            keys: Vec::new(),
            groups: 1,
            by_kid: HashMap::new(),
            without_kid: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

/// What an operator should know about one key of a set.
#[derive(Clone, Debug)]
pub struct KeyWarning {
    /// Place in `keys`, or among the members of a key-value file, from 0.
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
        let root = Self::root(bytes)?;
        let array =
            root.raw("keys").filter(|keys| keys.starts_with('[')).ok_or(JwksError::NoKeys)?;
        let elements = json::elements(array, limits::JWKS_KEYS).ok_or(JwksError::TooManyKeys)?;
        Self::of(elements.iter().map(|element| {
            let kid = || Object::parse(element.as_bytes()).ok()?.str("kid").map(Cow::into_owned);
            Jwk::parse(element).map_err(|error| (error, kid()))
        }))
    }

    /// Reads a JSON object whose members are `kid`s, each with a public key in PEM: "PUBLIC KEY", or "RSA PUBLIC KEY".
    /// A key permits the algorithms of its type. Others are skipped, as by [`JwkSet::parse`]; so is a text that is no
    /// PEM: taken for a secret, it would make a misspelt public key one that everybody knows.
    ///
    /// # Errors
    /// As [`JwkSet::parse`].
    pub fn parse_keyval(bytes: &[u8]) -> Result<Self, JwksError> {
        let root = Self::root(bytes)?;
        let members = root.members();
        if members.len() > limits::JWKS_KEYS {
            return Err(JwksError::TooManyKeys);
        }
        Self::of(members.map(|(kid, value)| {
            let pem = json::string(value).ok_or(JwkError::Pem);
            let key = pem.and_then(|pem| Jwk::from_pem(kid, &pem));
            key.map_err(|error| (error, Some(kid.to_owned())))
        }))
    }

    fn root(bytes: &[u8]) -> Result<Object, JwksError> {
        if bytes.len() > limits::JWKS_BYTES {
            return Err(JwksError::TooLarge);
        }
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(JwksError::Empty);
        }
        Object::parse_shallow(bytes).map_err(JwksError::Syntax)
    }

    /// The set of the keys that could be read. An error comes with the `kid` of its key.
    fn of(
        keys: impl ExactSizeIterator<Item = Result<Jwk, (JwkError, Option<String>)>>,
    ) -> Result<Self, JwksError> {
        let mut set = Self::default();
        let mut first = None;
        let found = keys.len();
        for (index, key) in keys.enumerate() {
            match key {
                Ok(key) => {
                    if let Some(text) = key.advice() {
                        let kid = key.kid().map(str::to_owned);
                        let text = text.to_owned();
                        set.warnings.push(KeyWarning { index, kid, skipped: None, text });
                    }
                    set.push(0, Arc::new(key));
                }
                Err((error, kid)) => {
                    let text = format!("{error}; the key is skipped");
                    let skipped = Some(error.clone());
                    set.warnings.push(KeyWarning { index, kid, skipped, text });
                    first.get_or_insert(error);
                }
            }
        }
        if set.keys.is_empty() {
            return Err(JwksError::NoUsableKey { skipped: found, first });
        }
        Ok(set)
    }

    /// The keys of all `sets`, in their order, sharing them. A key never masks one of another set: each set is a
    /// group of its own in the choice of a key.
    pub fn union<'s>(sets: impl IntoIterator<Item = &'s Self>) -> Self {
        let mut union = Self { groups: 0, ..Self::default() };
        for set in sets {
            for (group, key) in &set.keys {
                union.push(union.groups + group, Arc::clone(key));
            }
            union.groups += set.groups;
        }
        union
    }

    fn push(&mut self, group: usize, key: Arc<Jwk>) {
        let place = self.keys.len();
        match key.kid() {
            Some(kid) => self.by_kid.entry(kid.into()).or_default().push(place),
            None => self.without_kid.push(place),
        }
        self.keys.push((group, key));
    }

    /// Names this set within the process: never 0, and never that of another set, also not of one with equal keys.
    /// What was verified with this set is kept under it.
    pub fn id(&self) -> u64 {
        self.id
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
        self.keys.iter().map(|(_, key)| &**key)
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
    /// Those that have the `kid` come first. Of the groups in which none has it, the keys without a `kid` follow.
    /// For a token without a `kid` every key comes into question. An empty `kid` is a name like any other.
    pub(crate) fn candidates(
        &self,
        alg: Algorithm,
        kid: Option<&str>,
    ) -> impl Iterator<Item = &Jwk> {
        let named: &[usize] = kid.and_then(|kid| self.by_kid.get(kid)).map_or(&[], Vec::as_slice);
        let all = if kid.is_none() { &*self.keys } else { &[] };
        let without_kid: &[usize] = if kid.is_some() { &self.without_kid } else { &[] };
        let named_keys = named
            .iter()
            .map(|&place| &*self.keys[place].1)
            .filter(move |key| key.permits(alg))
            .take(limits::SHARED_KID_TRIES);
        let others = without_kid
            .iter()
            .map(|&place| &self.keys[place])
            // A set that has the kid has said which key it is.
            .filter(|(group, _)| {
                named.binary_search_by_key(group, |&place| self.keys[place].0).is_err()
            })
            .chain(all)
            .map(|(_, key)| &**key)
            .filter(move |key| key.permits(alg))
            .take(limits::NO_KID_TRIES);
        named_keys.chain(others)
    }

    /// Whether a key has this `kid`.
    pub(crate) fn has_kid(&self, kid: &str) -> bool {
        self.by_kid.contains_key(kid)
    }
}

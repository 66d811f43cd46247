//! What is refused before it expires: read from the database, asked at every token that comes here, and
//! written to `revoked.json` for nginx, whose workers read it as they read the JWKS file.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use jwt_core::Claims;
use serde::Serialize;
use tokio::sync::Mutex;
use tracing::info;
use uuid::Uuid;

use crate::atomic_file;
use crate::metrics::{FileMetrics, Metrics};
use crate::store::{KeySelector, RevocationRow, RevokedKey, Store, StoreError};

/// Longer values are no values of ours.
const LONGEST: usize = 256;

/// The revocations that hold now; replaced as a whole at every change.
pub type LiveRevocations = Arc<ArcSwap<Revocations>>;

/// Why a revocation did not come about, or not everywhere.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RevocationError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There are more than nginx reads.
    #[error("the revocations cannot be published: {0}")]
    Document(#[from] jwt_core::RevocationError),
    /// The file for nginx. The database and this daemon have the revocation already.
    #[error("the file {} cannot be written: {source}; [jwks] revocation_file names another", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// One token, by its `token_id` or `jti`.
    TokenId(String),
    /// The tokens of an `identifier` or `sub` that were issued before this second.
    Identifier(String, i64),
    /// The tokens that were issued for a registered key, by its public name.
    Key(String),
    /// The tokens that a signing key has signed.
    Kid(String),
}

impl Target {
    /// The target, if its value can be one.
    #[must_use]
    pub fn checked(self) -> Option<Self> {
        let (_, value, _) = self.parts();
        (1..=LONGEST).contains(&value.len()).then_some(self)
    }

    /// What it is told by.
    pub fn kind(&self) -> &'static str {
        self.parts().0
    }

    /// Whether it is about a token of one of these other issuers, which are written before a colon.
    pub fn is_of_any(&self, issuers: &[String]) -> bool {
        let issuer = self.parts().1.split_once(':').map(|(issuer, _)| issuer);
        issuer.is_some_and(|issuer| issuers.iter().any(|name| name == issuer))
    }

    fn parts(&self) -> (&'static str, &str, Option<i64>) {
        match self {
            Self::TokenId(value) => ("token_id", value, None),
            Self::Identifier(value, before) => ("identifier", value, Some(*before)),
            Self::Key(value) => ("key", value, None),
            Self::Kid(value) => ("kid", value, None),
        }
    }

    fn row(&self, until: i64) -> RevocationRow {
        let (kind, value, before) = self.parts();
        RevocationRow { kind: kind.into(), value: value.into(), before, until }
    }
}

/// A set of revocations, judged as nginx judges: by what the file says.
#[derive(Debug, Default)]
pub struct Revocations {
    document: Bytes,
    list: jwt_core::Revocations,
}

/// The document, as [`jwt_core::Revocations`] reads it.
#[derive(Serialize)]
struct Document {
    version: u8,
    token_id: BTreeMap<String, i64>,
    identifier: BTreeMap<String, (i64, i64)>,
    key: BTreeMap<String, i64>,
    kid: BTreeMap<String, i64>,
}

impl Revocations {
    fn of(rows: Vec<RevocationRow>) -> Result<Self, jwt_core::RevocationError> {
        let (token_id, key, kid) = Default::default();
        let identifier = BTreeMap::new();
        let mut set = Document { version: 1, token_id, identifier, key, kid };
        for RevocationRow { kind, value, before, until } in rows {
            match (kind.as_str(), before) {
                ("token_id", _) => drop(set.token_id.insert(value, until)),
                ("identifier", Some(before)) => drop(set.identifier.insert(value, (before, until))),
                ("key", _) => drop(set.key.insert(value, until)),
                ("kid", _) => drop(set.kid.insert(value, until)),
                // Of a later version; it says what to do about it there.
                _ => {}
            }
        }
        let document =
            serde_json::to_vec(&set).expect("maps of texts and numbers always serialise");
        Ok(Self { list: jwt_core::Revocations::parse(&document)?, document: document.into() })
    }

    /// Whether the token is refused.
    pub fn refuses(&self, claims: &Claims) -> bool {
        self.list.check(claims.set()).is_some()
    }

    /// Whether the token of another issuer is refused, whose entries begin with `NAME:`.
    pub fn refuses_of(&self, issuer: &str, claims: &Claims) -> bool {
        self.list.check_issued_by(issuer, claims.set()).is_some()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether nothing is refused.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

/// Keeps the set in memory and the file as the database has them.
pub struct RevocationList {
    store: Store,
    path: PathBuf,
    live: LiveRevocations,
    /// What is in the file. One writer at a time, so that an older set never replaces a newer one.
    written: Arc<Mutex<Bytes>>,
    /// Whether tokens name the key that they were issued for.
    standard_claims: bool,
    metrics: FileMetrics,
}

impl RevocationList {
    /// Reads the database and writes the file, also without any revocation: nginx looks for it.
    ///
    /// # Errors
    /// [`RevocationError`].
    pub async fn open(
        store: Store,
        path: &Path,
        standard_claims: bool,
    ) -> Result<Self, RevocationError> {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let prepared = atomic_file::make_folder(folder, 0o755)
            .and_then(|()| atomic_file::remove_leftovers(path));
        prepared.map_err(|source| RevocationError::File { path: path.into(), source })?;
        let (live, written) = (LiveRevocations::default(), Arc::default());
        let metrics = FileMetrics::new("revocations");
        let list = Self { store, path: path.into(), live, written, standard_claims, metrics };
        list.reload().await?;
        Ok(list)
    }

    /// Lets `metrics` show when the file was written.
    pub(crate) fn show(&self, metrics: &Metrics) {
        self.metrics.show(metrics);
    }

    /// What holds, shared with whoever checks tokens.
    pub fn live(&self) -> LiveRevocations {
        self.live.clone()
    }

    /// Refuses `target` from now on. `until`, in Unix seconds, is when its last token has expired.
    ///
    /// # Errors
    /// [`RevocationError`]; after [`RevocationError::File`] it holds here, but not in nginx.
    pub async fn revoke(&self, target: &Target, until: i64) -> Result<(), RevocationError> {
        self.store.hurried().revoke(target.row(until)).await?;
        self.reload().await
    }

    /// Revokes registered keys for good, with all their tokens. `now` and `until` are Unix seconds.
    ///
    /// # Errors
    /// As [`RevocationList::revoke`].
    pub async fn revoke_keys(
        &self,
        selector: KeySelector,
        now: std::time::SystemTime,
        unix_now: i64,
        until: i64,
    ) -> Result<Vec<RevokedKey>, RevocationError> {
        let standard_claims = self.standard_claims;
        // Tokens of this very second are among those issued so far.
        let before = unix_now.saturating_add(1);
        let by_identifier = move |uuid: &Uuid| Target::Identifier(uuid.to_string(), before);
        let whole = match &selector {
            KeySelector::Identifier(identifier) => Some(by_identifier(identifier)),
            _ => None,
        };
        let rows = move |keys: &[RevokedKey]| {
            let targets = keys.iter().map(|key| {
                let named = key.public_id.clone().filter(|_| standard_claims).map(Target::Key);
                // Tokens that do not name their key can only be told by their identifier.
                named.unwrap_or_else(|| by_identifier(&key.identifier))
            });
            targets.chain(whole.clone()).map(|target| target.row(until)).collect()
        };
        let revoked = self.store.hurried().revoke_keys(selector, now, rows).await?;
        self.reload().await?;
        Ok(revoked)
    }

    /// Follows the database.
    ///
    /// # Errors
    /// [`RevocationError`].
    pub async fn reload(&self) -> Result<(), RevocationError> {
        let mut written = self.written.clone().lock_owned().await;
        let set = Revocations::of(self.store.revocations().await?)?;
        let document = set.document.clone();
        if *written == document {
            return Ok(());
        }
        let entries = set.len();
        // Here first: it needs no disk.
        self.live.store(Arc::new(set));
        let path = self.path.clone();
        // With the lock: if the caller goes away meanwhile, nobody may write before this one has.
        let replaced = tokio::task::spawn_blocking(move || {
            atomic_file::replace(&path, &document, atomic_file::PUBLIC)?;
            *written = document;
            Ok(())
        });
        let replaced = replaced.await.unwrap_or_else(|_| Err(io::Error::other("panic")));
        let replaced = self.metrics.wrote(replaced);
        replaced.map_err(|source| RevocationError::File { path: self.path.clone(), source })?;
        info!(event = "revocations", entries);
        Ok(())
    }

    /// Drops what is about tokens that have expired by `now`, in Unix seconds.
    ///
    /// # Errors
    /// [`RevocationError`].
    pub async fn prune(&self, now: i64) -> Result<(), RevocationError> {
        self.store.hurried().prune_revocations(now).await?;
        self.reload().await
    }
}

#[cfg(test)]
mod tests {
    use jwt_core::{Compact, JwkSet, Policy};
    use serde_json::{Value, json};

    use super::*;
    use crate::config::{RsaBits, SigningAlgorithm};
    use crate::signing_key::{PublicJwks, SigningKey};

    fn set(rows: &[(&str, &str, Option<i64>)]) -> Revocations {
        let row = |(kind, value, before): &(&str, &str, Option<i64>)| RevocationRow {
            kind: (*kind).into(),
            value: (*value).into(),
            before: *before,
            until: 9_000,
        };
        Revocations::of(rows.iter().map(row).collect()).unwrap()
    }

    #[test]
    fn the_document_is_the_one_that_nginx_reads() {
        assert_eq!(
            String::from_utf8(set(&[]).document.to_vec()).unwrap(),
            r#"{"version":1,"token_id":{},"identifier":{},"key":{},"kid":{}}"#
        );
        let set = set(&[
            ("token_id", "t", None),
            ("identifier", "i", Some(5)),
            ("key", "k", None),
            ("kid", "s", None),
            ("later", "x", None),
        ]);
        let document: Value = serde_json::from_slice(&set.document).unwrap();
        assert_eq!(
            document,
            json!({"version": 1, "token_id": {"t": 9_000}, "identifier": {"i": [5, 9_000]},
                "key": {"k": 9_000}, "kid": {"s": 9_000}})
        );
        assert_eq!(set.len(), 4);
    }

    #[test]
    fn a_token_is_refused_for_what_it_says_and_never_for_what_it_does_not() {
        let key = SigningKey::generate(SigningAlgorithm::Es256, RsaBits::B2048).unwrap();
        let jwks = crate::jwks_file::document(&PublicJwks { keys: vec![key.jwk().clone()] });
        let jwks = JwkSet::parse(&jwks).unwrap();
        let claims = |claims: Value| {
            let token = key.sign(&claims).unwrap();
            let jws = Compact::parse(token.as_bytes()).unwrap().verify(&jwks).unwrap();
            Policy::default().validate(jws, 0).unwrap()
        };
        let full = claims(json!({"token_id": "t", "identifier": "i", "key": "k", "iat": 10}));
        let other = claims(json!({"jti": "j", "sub": "s", "iat": 10}));
        let bare = claims(json!({}));
        let timeless = claims(json!({"sub": "s"}));
        let kid = key.kid();
        for (row, refused) in [
            (("token_id", "t", None), [true, false, false, false]),
            (("token_id", "j", None), [false, true, false, false]),
            (("identifier", "i", Some(11)), [true, false, false, false]),
            (("identifier", "i", Some(10)), [false; 4]),
            (("identifier", "s", Some(11)), [false, true, false, true]),
            (("identifier", "s", Some(0)), [false, false, false, true]),
            (("key", "k", None), [true, false, false, false]),
            (("kid", kid, None), [true; 4]),
            (("kid", "another", None), [false; 4]),
        ] {
            let set = set(&[row]);
            let found = [&full, &other, &bare, &timeless].map(|claims| set.refuses(claims));
            assert_eq!(found, refused, "{row:?}");
        }
        // Another issuer's equal values are others, and stand under its name.
        for (own, others) in [
            (("token_id", "j", None), ("token_id", "corp:j", None)),
            (("identifier", "s", Some(11)), ("identifier", "corp:s", Some(11))),
            (("kid", kid, None), ("kid", &*format!("corp:{kid}"), None)),
        ] {
            let (own, others) = (set(&[own]), set(&[others]));
            assert_eq!((own.refuses(&other), own.refuses_of("corp", &other)), (true, false));
            assert_eq!((others.refuses(&other), others.refuses_of("corp", &other)), (false, true));
            assert!(!others.refuses_of("cor", &other) && !others.refuses_of("corp:", &other));
        }
    }
}

//! Registered keys.

use std::fmt;
use std::time::SystemTime;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA512, digest};
use sqlx::SqliteConnection;
use uuid::Uuid;

use super::change::Change;
use super::connection::{Connection, on};
use super::value::{Id, Time, json};
use super::{Engine, Store, StoreError, hex};

/// The digest under which a key is stored: SHA-512 in lower-case hex, as the original has it.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyHash(String);

impl KeyHash {
    /// The digest of `key`.
    pub fn of(key: &str) -> Self {
        Self(hex(digest(&SHA512, key.as_bytes()).as_ref()))
    }

    /// The first 12 digits: enough to find a key's log lines, nothing to guess it by.
    pub fn fingerprint(&self) -> &str {
        &self.0[..12]
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyHash({}…)", self.fingerprint())
    }
}

/// [`KeyHash::fingerprint`] of a column, which no constraint keeps from being anything.
pub(super) fn fingerprint_of(key_hash: Option<&str>) -> String {
    key_hash.and_then(|hash| hash.get(..12)).unwrap_or_default().to_owned()
}

/// A key as it was found.
#[derive(Debug, Clone)]
pub struct StoredKey {
    /// The row.
    pub id: i64,
    /// The digest.
    pub hash: KeyHash,
    /// The identifier of the first registration.
    pub identifier: Uuid,
    /// The key's name in tokens; absent in rows of the original.
    pub public_id: Option<String>,
    /// Whether tokens carry what their request asserts, whatever is configured: rows of the original.
    pub asserted: bool,
    /// Whether its refresh tokens are used once.
    pub rotates: bool,
    /// No tokens for the key from then on.
    pub expires_at: SystemTime,
    /// Whether an administrator has revoked it, which is for good.
    pub revoked: bool,
}

/// What a registration did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registration {
    /// The identifier that holds: of the first registration.
    pub identifier: Uuid,
    /// The key has been revoked, and is not registered.
    pub revoked: bool,
}

/// What a [`KeyRow`] is read from.
macro_rules! key_columns {
    () => {
        "CAST(id AS BIGINT) AS key_id, key_hash, identifier, public_id, identity, refresh_policy, \
         expires_at AS key_expires_at, revoked_at"
    };
}
pub(super) use key_columns;

/// A row, or its part of a join.
#[derive(Clone, sqlx::FromRow)]
pub(super) struct KeyRow {
    key_id: i64,
    key_hash: Option<String>,
    identifier: Option<Id>,
    public_id: Option<String>,
    identity: Option<String>,
    refresh_policy: Option<String>,
    key_expires_at: Option<Time>,
    revoked_at: Option<Time>,
}

impl KeyRow {
    /// The rows with any of these digests, on SQLite.
    pub(super) async fn find_all(
        hashes: &[&KeyHash],
        connection: &mut SqliteConnection,
    ) -> Result<Vec<Self>, sqlx::Error> {
        const QUERY: &str = concat!(
            "SELECT ",
            key_columns!(),
            " FROM keys WHERE key_hash IN (SELECT value FROM json_each($1))"
        );
        let hashes: Vec<_> = hashes.iter().map(|hash| hash.as_str()).collect();
        sqlx::query_as(QUERY).bind(json(&hashes)?).fetch_all(connection).await
    }

    pub(super) fn has(&self, hash: &KeyHash) -> bool {
        self.key_hash.as_deref() == Some(hash.as_str())
    }
}

impl Store {
    /// The key with this digest. Expired keys are found too.
    ///
    /// # Errors
    /// [`StoreError`]; an absent key is none.
    pub async fn find_key(&self, hash: &KeyHash) -> Result<Option<StoredKey>, StoreError> {
        const QUERY: &str =
            concat!("SELECT ", key_columns!(), " FROM keys WHERE key_hash = $1 LIMIT 2");
        let rows = self
            .patiently(async {
                match &self.engine {
                    Engine::Sqlite(engine) => engine.lookups.keys(hash).await,
                    Engine::Postgres(engine) => {
                        let mut connection = engine.acquire().await?;
                        let query = sqlx::query_as(QUERY).bind(hash.as_str());
                        Ok(query.fetch_all(&mut *connection).await?)
                    }
                }
            })
            .await?;
        // More than one, which the constraint excludes, would be no answer to "whose is it".
        let Ok([row]) = <[KeyRow; 1]>::try_from(rows) else { return Ok(None) };
        let key = StoredKey::try_from(row)?;
        // The index compares byte by byte; this comparison tells nothing by its time.
        let same = verify_slices_are_equal(key.hash.0.as_bytes(), hash.0.as_bytes()).is_ok();
        Ok(same.then_some(key))
    }

    /// Registers a key, or extends it, unless it has been revoked. The first identifier holds; an expiry is
    /// never brought forward. With `rotates` its refresh tokens are used once from now on, which is never
    /// taken back.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing is registered.
    pub async fn register_key(
        &self,
        hash: &KeyHash,
        identifier: Uuid,
        rotates: bool,
        now: SystemTime,
        expires_at: SystemTime,
    ) -> Result<Registration, StoreError> {
        self.write(Register {
            hash: hash.clone(),
            identifier: Id(identifier),
            public_id: Uuid::new_v4().simple().to_string(),
            refresh_policy: rotates.then_some("rotate"),
            now: Time(now),
            expires_at: Time(expires_at),
        })
        .await
    }
}

/// Registered keys in the order of their rows, a part at a time.
#[derive(Debug, Clone, Default)]
pub struct KeyPage {
    /// Only keys behind this row.
    pub after: i64,
    /// At most so many.
    pub limit: i64,
    /// Only the keys of this identifier.
    pub identifier: Option<Uuid>,
}

impl Store {
    /// One page of the registered keys, expired and revoked ones too.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list_keys(&self, page: &KeyPage) -> Result<Vec<StoredKey>, StoreError> {
        const QUERY: &str = concat!(
            "SELECT ",
            key_columns!(),
            " FROM keys WHERE id > $1 AND (NOT $4 OR identifier = $3) ORDER BY id LIMIT $2"
        );
        let identifier = Id(page.identifier.unwrap_or_default());
        let rows: Vec<KeyRow> = self
            .patiently(async {
                let mut reader = self.reader().await?;
                let rows = on!(&mut reader.connection(), c => sqlx::query_as(QUERY)
                    .bind(page.after)
                    .bind(page.limit)
                    .bind(identifier)
                    .bind(page.identifier.is_some())
                    .fetch_all(c));
                Ok(rows?)
            })
            .await?;
        rows.into_iter().map(StoredKey::try_from).collect()
    }
}

struct Register {
    hash: KeyHash,
    identifier: Id,
    public_id: String,
    refresh_policy: Option<&'static str>,
    now: Time,
    expires_at: Time,
}

impl Change for Register {
    type Output = Registration;

    async fn apply(&self, connection: &mut Connection<'_>) -> Result<Registration, sqlx::Error> {
        // The first identifier and name hold.
        const UPSERT: &str = "INSERT INTO keys (key_hash, identifier, created, expires_at, \
             public_id, identity, refresh_policy) VALUES ($1, $2, $3, $4, $5, 'registered', $6) \
             ON CONFLICT (key_hash) DO UPDATE SET expires_at = \
             CASE WHEN keys.revoked_at IS NOT NULL OR keys.expires_at > excluded.expires_at \
             THEN keys.expires_at ELSE excluded.expires_at END, \
             refresh_policy = coalesce(excluded.refresh_policy, keys.refresh_policy) \
             RETURNING identifier, revoked_at";
        let (identifier, revoked_at): (Id, Option<Time>) = on!(connection, c => sqlx::query_as(UPSERT)
            .bind(self.hash.as_str())
            .bind(self.identifier)
            .bind(self.now)
            .bind(self.expires_at)
            .bind(&self.public_id)
            .bind(self.refresh_policy)
            .fetch_one(c))?;
        Ok(Registration { identifier: identifier.0, revoked: revoked_at.is_some() })
    }
}

impl TryFrom<KeyRow> for StoredKey {
    type Error = StoreError;

    fn try_from(row: KeyRow) -> Result<Self, StoreError> {
        let malformed = || StoreError::Malformed { table: "keys", id: row.key_id };
        let hash = row.key_hash.filter(|hash| hash.len() == 128).ok_or_else(malformed)?;
        Ok(Self {
            id: row.key_id,
            hash: KeyHash(hash),
            identifier: row.identifier.ok_or_else(malformed)?.0,
            public_id: row.public_id,
            asserted: row.identity.is_none(),
            rotates: row.refresh_policy.as_deref() == Some("rotate"),
            expires_at: row.key_expires_at.ok_or_else(malformed)?.0,
            revoked: row.revoked_at.is_some(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_one_that_the_original_stores() {
        let hash = KeyHash::of("hello-world");
        assert_eq!(
            hash.as_str(),
            "6aeefc29122a3962c90ef834f6caad0033bffcd62941b7a6205a695cc39e2767\
             db7778a7ad76d173a083b9e14b210dc0212923f481b285c784ab1fe340d7ff4d"
        );
        assert_eq!(hash.fingerprint(), "6aeefc29122a");
        assert_eq!(format!("{hash:?}"), "KeyHash(6aeefc29122a…)");
    }
}

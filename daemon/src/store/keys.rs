//! Registered keys.

use std::fmt;
use std::time::SystemTime;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA512, digest};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::writer::Write;
use super::{Store, StoreError, hex, timestamp};

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
    /// No tokens for the key from then on.
    pub expires_at: SystemTime,
}

/// What a registration did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registration {
    /// The identifier that holds: of the first registration.
    pub identifier: Uuid,
}

impl Store {
    /// The key with this digest. Expired keys are found too.
    ///
    /// # Errors
    /// [`StoreError`]; an absent key is none.
    pub async fn find_key(&self, hash: &KeyHash) -> Result<Option<StoredKey>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, key_hash, identifier, public_id, identity, expires_at FROM keys \
             WHERE key_hash = ? LIMIT 2",
        )
        .bind(hash.as_str())
        .fetch_all(&self.readers)
        .await?;
        // More than one, which the constraint excludes, would be no answer to "whose is it".
        let [row] = rows.as_slice() else { return Ok(None) };
        let key = StoredKey::from_row(row, "")?;
        // The index compares byte by byte; this comparison tells nothing by its time.
        let same = verify_slices_are_equal(key.hash.0.as_bytes(), hash.0.as_bytes()).is_ok();
        Ok(same.then_some(key))
    }

    /// Registers a key, or extends it. The first identifier holds; an expiry is never brought forward.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing is registered.
    pub async fn register_key(
        &self,
        hash: &KeyHash,
        identifier: Uuid,
        now: SystemTime,
        expires_at: SystemTime,
    ) -> Result<Registration, StoreError> {
        let (hash, public_id) = (hash.clone(), Uuid::new_v4().simple().to_string());
        self.write(|reply| Write::RegisterKey {
            hash,
            identifier,
            public_id,
            now: timestamp::format(now),
            expires_at: timestamp::format(expires_at),
            reply,
        })
        .await
    }
}

impl StoredKey {
    /// Reads the columns, whose names start with `prefix`.
    pub(super) fn from_row(row: &SqliteRow, prefix: &str) -> Result<Self, StoreError> {
        let column = |name: &str| format!("{prefix}{name}");
        let id: i64 = row.try_get(&*column("id"))?;
        let malformed = || StoreError::Malformed { table: "keys", id };
        let text = |name: &str| row.try_get::<Option<String>, _>(&*column(name));
        Ok(Self {
            id,
            hash: KeyHash(text("key_hash")?.filter(|h| h.len() == 128).ok_or_else(malformed)?),
            identifier: text("identifier")?
                .and_then(|text| Uuid::try_parse(&text).ok())
                .ok_or_else(malformed)?,
            public_id: text("public_id")?,
            asserted: text("identity")?.is_none(),
            expires_at: text("expires_at")?
                .and_then(|text| timestamp::parse(&text))
                .ok_or_else(malformed)?,
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

//! Refresh tokens, stored as digests: a copy of the database is no set of credentials.

use std::time::SystemTime;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use sqlx::Row;

use super::keys::StoredKey;
use super::writer::Write;
use super::{Store, StoreError, hex, timestamp};

/// What is stored for a refresh token: `h1$` and its SHA-256 in lower-case hex. The token is random,
/// so a fast digest without salt suffices.
#[derive(Clone, PartialEq, Eq)]
pub struct RefreshDigest(String);

impl RefreshDigest {
    /// The digest of `token`, exactly as the client sent it.
    pub fn of(token: &str) -> Self {
        Self(format!("h1${}", hex(digest(&SHA256, token.as_bytes()).as_ref())))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for RefreshDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RefreshDigest(…)")
    }
}

/// A refresh token as it was found, with its key.
#[derive(Debug, Clone)]
pub struct StoredRefreshToken {
    /// No access tokens for it from then on.
    pub expires_at: SystemTime,
    /// The key that it was issued for.
    pub key: StoredKey,
}

impl Store {
    /// The refresh token with this digest. Expired ones are found too.
    ///
    /// # Errors
    /// [`StoreError`]; an absent token is none.
    pub async fn find_refresh_token(
        &self,
        token: &RefreshDigest,
    ) -> Result<Option<StoredRefreshToken>, StoreError> {
        let rows = sqlx::query(
            "SELECT r.id, r.token, r.expires_at, k.id AS key_id, k.key_hash AS key_key_hash, \
             k.identifier AS key_identifier, k.public_id AS key_public_id, \
             k.identity AS key_identity, k.expires_at AS key_expires_at \
             FROM refresh_tokens r JOIN keys k ON k.id = r.key_id WHERE r.token = ? LIMIT 2",
        )
        .bind(token.as_str())
        .fetch_all(&self.readers)
        .await?;
        let [row] = rows.as_slice() else { return Ok(None) };
        let id: i64 = row.try_get("id")?;
        let stored: String = row.try_get("token")?;
        if verify_slices_are_equal(stored.as_bytes(), token.0.as_bytes()).is_err() {
            return Ok(None);
        }
        let expires_at: Option<String> = row.try_get("expires_at")?;
        let expires_at = expires_at
            .and_then(|text| timestamp::parse(&text))
            .ok_or(StoreError::Malformed { table: "refresh_tokens", id })?;
        Ok(Some(StoredRefreshToken { expires_at, key: StoredKey::from_row(row, "key_")? }))
    }

    /// Stores a new refresh token of the key `key`.
    ///
    /// # Errors
    /// [`StoreError`]; then the token must not be given out.
    pub async fn insert_refresh_token(
        &self,
        token: &RefreshDigest,
        key: i64,
        now: SystemTime,
        expires_at: SystemTime,
    ) -> Result<(), StoreError> {
        let token = token.clone();
        self.write(|reply| Write::InsertRefreshToken {
            token,
            key,
            now: timestamp::format(now),
            expires_at: timestamp::format(expires_at),
            reply,
        })
        .await
    }
}

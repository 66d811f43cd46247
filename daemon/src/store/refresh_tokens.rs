//! Refresh tokens, stored as digests: a copy of the database is no set of credentials. Where a
//! JWThenticator uses the same database they are stored as it does, until `jwtunnel db harden`.

use std::fmt;
use std::time::SystemTime;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use serde::Serialize;
use sqlx::SqliteConnection;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::change::{Change, Pending};
use super::connection::{Connection, on};
use super::keys::{KeyRow, StoredKey};
use super::sqlite::{Announced, Work};
use super::value::{Time, json};
use super::{Engine, Store, StoreError, hex};

/// The length of a refresh token, in lower-case hex digits.
const LENGTH: usize = 128;

/// A refresh token in the forms under which it may be stored. `Debug` shows neither.
#[derive(Clone)]
pub struct RefreshToken {
    /// `h1$` and its SHA-256 in lower-case hex. The token is random, so a fast digest without salt suffices.
    digest: String,
    clear: Option<Zeroizing<String>>,
}

impl RefreshToken {
    /// `token`, exactly as the client has it.
    pub fn of(token: &str) -> Self {
        let digest = format!("h1${}", hex(digest(&SHA256, token.as_bytes()).as_ref()));
        // Only what can be a token is looked up in the clear. Else a digest from a stolen copy of the
        // database would be found, and be as good as the token.
        let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let has_form = token.len() == LENGTH && token.bytes().all(is_hex);
        Self { digest, clear: has_form.then(|| Zeroizing::new(token.to_owned())) }
    }

    /// The stored form, where tokens are hashed.
    pub(super) fn digest(&self) -> &str {
        &self.digest
    }

    /// The stored form of a database with clear tokens.
    pub(super) fn clear(&self) -> &str {
        self.clear.as_ref().map_or(&self.digest, |clear| clear)
    }

    pub(super) fn into_digest(self) -> String {
        self.digest
    }

    fn is(&self, stored: &str) -> bool {
        [self.digest.as_str(), self.clear()]
            .iter()
            .any(|form| verify_slices_are_equal(stored.as_bytes(), form.as_bytes()).is_ok())
    }
}

impl fmt::Debug for RefreshToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RefreshToken(…)")
    }
}

/// A refresh token as it was found, with its key.
#[derive(Debug, Clone)]
pub struct StoredRefreshToken {
    /// No access tokens for it from then on.
    pub expires_at: SystemTime,
    /// Whether it has a successor, and is good only for a client that missed the answer.
    pub used: bool,
    /// Whether it was replaced, or its family ended.
    pub revoked: bool,
    /// The key that it was issued for.
    pub key: StoredKey,
}

/// A refresh token that is about to be stored, until this is dropped.
#[derive(Debug)]
pub struct ComingToken {
    _announced: Option<Announced>,
}

#[derive(sqlx::FromRow)]
struct TokenRow {
    id: i64,
    token: String,
    expires_at: Option<Time>,
    used_at: Option<Time>,
    token_revoked_at: Option<Time>,
    #[sqlx(flatten)]
    key: KeyRow,
}

impl Store {
    /// The refresh token, in whichever form it is stored. Expired ones are found too.
    ///
    /// # Errors
    /// [`StoreError`]; an absent token is none.
    pub async fn find_refresh_token(
        &self,
        token: &RefreshToken,
    ) -> Result<Option<StoredRefreshToken>, StoreError> {
        const QUERY: &str = "SELECT CAST(r.id AS BIGINT) AS id, r.token, r.expires_at, \
             r.used_at, r.revoked_at AS token_revoked_at, CAST(k.id AS BIGINT) AS key_id, k.key_hash, k.identifier, k.public_id, k.identity, \
             k.refresh_policy, k.expires_at AS key_expires_at, k.revoked_at \
             FROM refresh_tokens r JOIN keys k ON k.id = r.key_id \
             WHERE r.token IN ($1, $2) LIMIT 2";
        let rows: Vec<TokenRow> = self
            .patiently(async {
                let mut reader = self.reader().await?;
                let rows = on!(&mut reader.connection(), c => sqlx::query_as(QUERY)
                    .bind(&token.digest)
                    .bind(token.clear())
                    .fetch_all(c));
                Ok(rows?)
            })
            .await?;
        let Ok([row]) = <[TokenRow; 1]>::try_from(rows) else { return Ok(None) };
        if !token.is(&row.token) {
            return Ok(None);
        }
        let malformed = StoreError::Malformed { table: "refresh_tokens", id: row.id };
        let expires_at = row.expires_at.ok_or(malformed)?.0;
        let (used, revoked) = (row.used_at.is_some(), row.token_revoked_at.is_some());
        Ok(Some(StoredRefreshToken { expires_at, used, revoked, key: row.key.try_into()? }))
    }

    /// Tells that a refresh token will be stored soon: others that come meanwhile wait for it a little, so that one
    /// commit serves both. What comes of it is dropped right before.
    pub fn announce_refresh_token(&self) -> ComingToken {
        match &self.engine {
            Engine::Sqlite(engine) => ComingToken { _announced: Some(engine.announce()) },
            // A server gathers by itself what it makes durable (commit_delay).
            Engine::Postgres(_) => ComingToken { _announced: None },
        }
    }

    /// Stores a new refresh token of the key `key`, in the form that holds for the database. `access_id` is
    /// the `token_id` of the access token that is issued with it.
    ///
    /// # Errors
    /// [`StoreError`]; then the token must not be given out.
    pub async fn insert_refresh_token(
        &self,
        token: &RefreshToken,
        key: &StoredKey,
        access_id: Uuid,
        now: SystemTime,
        expires_at: SystemTime,
    ) -> Result<(), StoreError> {
        self.write(Insert {
            token: token.clone(),
            key: key.id,
            now: Time(now),
            expires_at: Time(expires_at),
            family: None,
            parent: None,
            // Needed only where a family can end.
            access_id: key.rotates.then(|| access_id.to_string()),
        })
        .await
    }
}

/// So many rows at once: whoever waits for the writer waits for no more.
const BATCH: i64 = 500;

impl Store {
    /// Deletes some refresh tokens that had expired by `before`. Whether there may be more. A database that a
    /// JWThenticator uses is left alone: it deletes nothing.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn delete_expired_refresh_tokens(
        &self,
        before: SystemTime,
    ) -> Result<bool, StoreError> {
        self.write(DeleteExpired(Time(before))).await
    }
}

struct DeleteExpired(Time);

impl Change for DeleteExpired {
    type Output = bool;

    async fn apply(&self, connection: &mut Connection<'_>) -> Result<bool, sqlx::Error> {
        const DELETE: &str = "DELETE FROM refresh_tokens WHERE id IN \
            (SELECT id FROM refresh_tokens WHERE expires_at < $1 ORDER BY expires_at LIMIT $2) \
            AND NOT EXISTS (SELECT 1 FROM jwtunnel_settings \
            WHERE name = 'refresh_tokens' AND value = 'clear')";
        let deleted: u64 = on!(connection, c => async {
            let query = sqlx::query(DELETE).bind(self.0).bind(BATCH);
            query.execute(c).await.map(|done| done.rows_affected())
        })?;
        Ok(deleted >= BATCH.unsigned_abs())
    }
}

/// A new row.
pub(super) struct Insert {
    pub(super) token: RefreshToken,
    pub(super) key: i64,
    pub(super) now: Time,
    pub(super) expires_at: Time,
    pub(super) family: Option<i64>,
    pub(super) parent: Option<i64>,
    pub(super) access_id: Option<String>,
}

// The form is looked up where it is used: hardening, in one transaction with the change of form, then misses no
// token, whichever daemon issues it.
macro_rules! insert {
    ($clear:literal, $digest:literal, $rest:literal) => {
        concat!(
            "INSERT INTO refresh_tokens (token, key_id, created, expires_at, family, parent, access_id) \
             SELECT CASE WHEN EXISTS (SELECT 1 FROM jwtunnel_settings \
             WHERE name = 'refresh_tokens' AND value = 'clear') THEN ",
            $clear,
            " ELSE ",
            $digest,
            " END, ",
            $rest
        )
    };
}

impl Insert {
    /// Stores several by one statement, on SQLite.
    pub(super) async fn apply_all(
        rows: &[&Self],
        connection: &mut SqliteConnection,
    ) -> Result<(), sqlx::Error> {
        const INSERT: &str = insert!(
            "value ->> 0",
            "value ->> 1",
            "value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7 FROM json_each($1)"
        );
        let rows: Vec<_> = rows.iter().map(|row| row.columns()).collect();
        sqlx::query(INSERT).bind(json(&rows)?).execute(connection).await.map(drop)
    }

    fn columns(&self) -> impl Serialize {
        (
            self.token.clear(),
            &self.token.digest,
            self.key,
            self.now.text(),
            self.expires_at.text(),
            self.family,
            self.parent,
            &self.access_id,
        )
    }
}

impl Change for Insert {
    type Output = ();

    fn queued(pending: Pending<Self>) -> Work {
        Work::Insert(pending)
    }

    async fn apply(&self, connection: &mut Connection<'_>) -> Result<(), sqlx::Error> {
        const INSERT: &str = insert!("$1", "$2", "$3, $4, $5, $6, $7, $8");
        on!(connection, c => async {
            let query = sqlx::query(INSERT)
                .bind(self.token.clear())
                .bind(&self.token.digest)
                .bind(self.key)
                .bind(self.now)
                .bind(self.expires_at)
                .bind(self.family)
                .bind(self.parent)
                .bind(&self.access_id);
            query.execute(c).await.map(drop)
        })
    }
}

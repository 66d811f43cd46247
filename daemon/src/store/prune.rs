//! Deletes registered keys that nobody uses any more.

use std::time::SystemTime;

use uuid::Uuid;

use super::change::Change;
use super::connection::{Connection, on};
use super::keys::fingerprint_of;
use super::value::{Id, Time};
use super::{Store, StoreError, TokenForm};

/// Which keys shall go.
#[derive(Debug, Clone)]
pub struct Stale {
    /// Keys that had expired, or were revoked, by then.
    pub before: SystemTime,
    /// What time it is.
    pub now: SystemTime,
    /// Revoked keys, too. Without their rows they could be registered again.
    pub revoked: bool,
    /// Whether expired keys stay as long as they have refresh tokens with which clients go on.
    pub keep_refreshing: bool,
    /// Also in a database that a JWThenticator uses.
    pub shared: bool,
    /// Only keys behind this row.
    pub after: i64,
    /// At most so many.
    pub limit: i64,
    /// Only tell what would be deleted.
    pub dry_run: bool,
}

/// What was deleted, or would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pruned {
    /// Some keys; there may be more behind `next`.
    Keys {
        /// Those keys.
        keys: Vec<PrunedKey>,
        /// Where to go on.
        next: Option<i64>,
    },
    /// Nothing: a JWThenticator uses the database, and nobody said that its rows may go.
    Shared,
}

/// A key that was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrunedKey {
    /// What it was registered for.
    pub identifier: Uuid,
    /// Of its digest, for the log.
    pub fingerprint: String,
    /// Whether it was revoked; else it had expired.
    pub revoked: bool,
}

impl Store {
    /// Deletes some of the keys that `stale` names, with their refresh tokens.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing is deleted.
    pub async fn prune_keys(&self, stale: Stale) -> Result<Pruned, StoreError> {
        if !stale.dry_run {
            return self.write(stale).await;
        }
        self.patiently(async {
            let mut reader = self.reader().await?;
            Ok(stale.carry_out(&mut reader.connection()).await?)
        })
        .await
    }
}

#[derive(sqlx::FromRow)]
struct StaleRow {
    id: i64,
    key_hash: Option<String>,
    identifier: Option<Id>,
    is_revoked: bool,
}

macro_rules! stale_keys {
    ($end:literal) => {
        concat!(
            "SELECT CAST(id AS BIGINT) AS id, key_hash, identifier, \
             revoked_at IS NOT NULL AS is_revoked FROM keys WHERE id > $1 AND \
             CASE WHEN revoked_at IS NOT NULL THEN $4 AND revoked_at < $2 \
             ELSE expires_at < $2 AND NOT ($5 AND EXISTS (SELECT 1 FROM refresh_tokens r \
             WHERE r.key_id = keys.id AND r.expires_at > $3 AND r.revoked_at IS NULL)) END \
             ORDER BY id LIMIT $6",
            $end
        )
    };
}

impl Change for Stale {
    type Output = Pruned;

    async fn apply(&self, connection: &mut Connection<'_>) -> Result<Pruned, sqlx::Error> {
        self.carry_out(connection).await
    }
}

impl Stale {
    async fn carry_out(&self, connection: &mut Connection<'_>) -> Result<Pruned, sqlx::Error> {
        const TOKENS: &str = "DELETE FROM refresh_tokens WHERE key_id = $1";
        const KEY: &str = "DELETE FROM keys WHERE id = $1";
        if !self.shared && super::form_in(connection).await? == TokenForm::Clear {
            return Ok(Pruned::Shared);
        }
        let rows = self.select(connection).await?;
        for row in rows.iter().filter(|_| !self.dry_run) {
            for statement in [TOKENS, KEY] {
                on!(&mut *connection, c => async {
                    sqlx::query(statement).bind(row.id).execute(c).await.map(drop)
                })?;
            }
        }
        Ok(self.found(rows))
    }

    async fn select(&self, connection: &mut Connection<'_>) -> Result<Vec<StaleRow>, sqlx::Error> {
        // Nobody extends a key, or issues a token for it, between this and its deletion. SQLite has one writer.
        let query = match connection {
            Connection::Postgres(_) if !self.dry_run => stale_keys!(" FOR UPDATE"),
            _ => stale_keys!(""),
        };
        on!(connection, c => sqlx::query_as(query)
            .bind(self.after)
            .bind(Time(self.before))
            .bind(Time(self.now))
            .bind(self.revoked)
            .bind(self.keep_refreshing)
            .bind(self.limit)
            .fetch_all(c))
    }

    fn found(&self, rows: Vec<StaleRow>) -> Pruned {
        let is_full = i64::try_from(rows.len()).is_ok_and(|count| count >= self.limit);
        let next = rows.last().filter(|_| is_full).map(|row| row.id);
        let key = |row: StaleRow| PrunedKey {
            identifier: row.identifier.map(|id| id.0).unwrap_or_default(),
            fingerprint: fingerprint_of(row.key_hash.as_deref()),
            revoked: row.is_revoked,
        };
        Pruned::Keys { keys: rows.into_iter().map(key).collect(), next }
    }
}

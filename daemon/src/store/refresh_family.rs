//! Refresh tokens that are used once: each use gives a successor, and a use of what was used before ends the
//! whole family, since then two parties have it.

use std::time::{Duration, SystemTime};

use uuid::Uuid;

use super::change::Change;
use super::connection::{Connection, on};
use super::refresh_tokens::{Insert, RefreshToken};
use super::revocations::{self, RevocationRow};
use super::value::Time;
use super::{Store, StoreError, StoredKey};

/// For so long a client that lost the answer may ask again.
const RETRY: Duration = Duration::from_secs(10);

/// A use of a refresh token, and what shall come of it.
#[derive(Debug, Clone)]
pub struct Use {
    /// What the client presented.
    pub token: RefreshToken,
    /// What it gets instead.
    pub successor: RefreshToken,
    /// The `token_id` of the access token that it gets, too.
    pub access_id: Uuid,
    /// When.
    pub now: SystemTime,
    /// No access token that was issued before this is valid any more.
    pub oldest: SystemTime,
    /// When the last access token that is valid now has expired, in Unix seconds.
    pub until: i64,
}

/// What came of a use. It is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Used {
    /// The successor may be given out.
    Rotated,
    /// The token is unknown, expired, or was replaced before its client had it.
    Refused,
    /// It was used before. The family is revoked, with the access tokens that were issued for it.
    Reused,
}

impl Store {
    /// Uses a refresh token of a key that rotates them. Whoever uses it at the same time, at whichever daemon,
    /// comes before or after: at most one successor can be used.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing has happened, and the successor must not be given out.
    pub async fn use_refresh_token(&self, change: Use) -> Result<Used, StoreError> {
        self.write(change).await
    }

    /// Ends the family of a refresh token that was issued for the key `key`, at its client's wish, and the
    /// access tokens that were issued for it since `oldest`. Whether there is such a token.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing has happened.
    pub async fn revoke_refresh_token(
        &self,
        token: RefreshToken,
        key: &StoredKey,
        now: SystemTime,
        oldest: SystemTime,
        until: i64,
    ) -> Result<bool, StoreError> {
        self.write(Revoke { token, key: key.id, now, oldest, until }).await
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    id: i64,
    family: i64,
    key_id: i64,
    expires_at: Time,
    used_at: Option<Time>,
    revoked_at: Option<Time>,
}

impl Change for Use {
    type Output = Used;

    async fn apply(&self, connection: &mut Connection<'_>) -> Result<Used, sqlx::Error> {
        let Some(row) = find(&self.token, connection).await? else { return Ok(Used::Refused) };
        lock_family(connection, row.family).await?;
        // As it is now that nobody else can change it.
        let Some(row) = find(&self.token, connection).await? else { return Ok(Used::Refused) };
        if row.revoked_at.is_some() || row.expires_at.0 <= self.now {
            return Ok(Used::Refused);
        }
        if let Some(Time(used_at)) = row.used_at {
            // A clock that was set back makes no thief.
            let is_retry = self.now.duration_since(used_at).is_ok_and(|ago| ago <= RETRY)
                || self.now < used_at;
            if !is_retry || self.has_used_successor(connection, &row).await? {
                let Self { now, oldest, until, .. } = *self;
                revoke_family(connection, row.family, now, oldest, until).await?;
                return Ok(Used::Reused);
            }
        }
        self.succeed(connection, &row).await?;
        Ok(Used::Rotated)
    }
}

/// Until the end of the transaction. In SQLite there is one writer. In PostgreSQL the first token of the family
/// stands for all of it, so that two changes never wait for each other in a circle.
async fn lock_family(connection: &mut Connection<'_>, family: i64) -> Result<(), sqlx::Error> {
    if let Connection::Postgres(connection) = connection {
        let lock = sqlx::query("SELECT id FROM refresh_tokens WHERE id = $1 FOR UPDATE");
        lock.bind(family).execute(&mut **connection).await?;
    }
    Ok(())
}

async fn find(
    token: &RefreshToken,
    connection: &mut Connection<'_>,
) -> Result<Option<Row>, sqlx::Error> {
    const QUERY: &str = "SELECT CAST(id AS BIGINT) AS id, \
        CAST(coalesce(family, id) AS BIGINT) AS family, CAST(key_id AS BIGINT) AS key_id, \
        expires_at, used_at, revoked_at FROM refresh_tokens WHERE token IN ($1, $2) LIMIT 2";
    let rows: Vec<Row> = on!(connection, c => sqlx::query_as(QUERY)
        .bind(token.digest())
        .bind(token.clear())
        .fetch_all(c))?;
    Ok(<[Row; 1]>::try_from(rows).ok().map(|[row]| row))
}

impl Use {
    async fn has_used_successor(
        &self,
        connection: &mut Connection<'_>,
        row: &Row,
    ) -> Result<bool, sqlx::Error> {
        const QUERY: &str = "SELECT count(*) FROM refresh_tokens \
            WHERE family = $1 AND parent = $2 AND used_at IS NOT NULL";
        let used: i64 = on!(connection, c => sqlx::query_scalar(QUERY)
            .bind(row.family)
            .bind(row.id)
            .fetch_one(c))?;
        Ok(used > 0)
    }

    /// The token is used, and its only successor is the new one.
    async fn succeed(&self, connection: &mut Connection<'_>, row: &Row) -> Result<(), sqlx::Error> {
        const USED: &str =
            "UPDATE refresh_tokens SET used_at = coalesce(used_at, $2) WHERE id = $1";
        const REPLACED: &str = "UPDATE refresh_tokens SET revoked_at = $3 \
            WHERE family = $1 AND parent = $2 AND revoked_at IS NULL";
        let now = Time(self.now);
        on!(connection, c => async {
            sqlx::query(USED).bind(row.id).bind(now).execute(&mut *c).await?;
            let replaced = sqlx::query(REPLACED).bind(row.family).bind(row.id).bind(now);
            replaced.execute(c).await.map(drop)
        })?;
        let successor = Insert {
            token: self.successor.clone(),
            key: row.key_id,
            now,
            // The end of the first token is the end of all.
            expires_at: row.expires_at,
            family: Some(row.family),
            parent: Some(row.id),
            access_id: Some(self.access_id.to_string()),
        };
        successor.apply(connection).await
    }
}

/// Ends a family, and the access tokens that were issued for it.
async fn revoke_family(
    connection: &mut Connection<'_>,
    family: i64,
    now: SystemTime,
    oldest: SystemTime,
    until: i64,
) -> Result<(), sqlx::Error> {
    const REVOKE: &str = "UPDATE refresh_tokens SET revoked_at = coalesce(revoked_at, $2) \
        WHERE id = $1 OR family = $1";
    const ISSUED: &str = "SELECT access_id FROM refresh_tokens \
        WHERE (id = $1 OR family = $1) AND access_id IS NOT NULL AND created >= $2";
    let (now, oldest) = (Time(now), Time(oldest));
    let issued: Vec<String> = on!(connection, c => async {
        sqlx::query(REVOKE).bind(family).bind(now).execute(&mut *c).await?;
        sqlx::query_scalar(ISSUED).bind(family).bind(oldest).fetch_all(c).await
    })?;
    for value in issued {
        let row = RevocationRow { kind: "token_id".into(), value, before: None, until };
        revocations::insert(connection, &row).await?;
    }
    revocations::tell(connection).await
}

/// The end of a family at its client's wish.
struct Revoke {
    token: RefreshToken,
    key: i64,
    now: SystemTime,
    oldest: SystemTime,
    until: i64,
}

impl Change for Revoke {
    type Output = bool;

    async fn apply(&self, connection: &mut Connection<'_>) -> Result<bool, sqlx::Error> {
        let Some(row) = find(&self.token, connection).await? else { return Ok(false) };
        if row.key_id != self.key {
            return Ok(false);
        }
        // A use that is going on has its successor in the family before it is ended.
        lock_family(connection, row.family).await?;
        revoke_family(connection, row.family, self.now, self.oldest, self.until).await?;
        Ok(true)
    }
}

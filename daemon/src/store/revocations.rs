//! What is refused before it expires, in the database that all daemons see.

use std::time::SystemTime;

use uuid::Uuid;

use super::change::Change;
use super::connection::{Connection, on};
use super::keys::{KeyHash, fingerprint_of};
use super::signing_keys::CHANNEL;
use super::value::{Id, Time};
use super::{Store, StoreError};

/// A row.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct RevocationRow {
    pub(crate) kind: String,
    pub(crate) value: String,
    pub(crate) before: Option<i64>,
    pub(crate) until: i64,
}

/// Which registered keys.
#[derive(Debug, Clone)]
pub enum KeySelector {
    /// The key with this digest.
    Hash(KeyHash),
    /// The key with this public name.
    PublicId(String),
    /// Every key that was registered for this identifier.
    Identifier(Uuid),
}

/// A key that is revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevokedKey {
    /// Its public name; the original's keys have none.
    pub public_id: Option<String>,
    /// What it was registered for.
    pub identifier: Uuid,
    /// Of its digest, for the log.
    pub fingerprint: String,
}

impl Store {
    /// Everything that is refused.
    pub(crate) async fn revocations(&self) -> Result<Vec<RevocationRow>, StoreError> {
        const QUERY: &str = "SELECT kind, value, before, until FROM jwtunnel_revocations";
        self.patiently(async {
            let mut reader = self.reader().await?;
            let rows = on!(&mut reader.connection(), c => sqlx::query_as(QUERY).fetch_all(c));
            Ok(rows?)
        })
        .await
    }

    /// Refuses what `row` names.
    pub(crate) async fn revoke(&self, row: RevocationRow) -> Result<(), StoreError> {
        self.write(Revoke(row)).await
    }

    /// Revokes registered keys for good, with their refresh tokens and, as `rows` says, their access tokens.
    pub(crate) async fn revoke_keys(
        &self,
        selector: KeySelector,
        now: SystemTime,
        rows: impl Fn(&[RevokedKey]) -> Vec<RevocationRow> + Send + Sync + 'static,
    ) -> Result<Vec<RevokedKey>, StoreError> {
        self.write(RevokeKeys { selector, now: Time(now), rows }).await
    }

    /// Drops what is about tokens that have expired by `now` (Unix seconds). Whether there was anything.
    pub(crate) async fn prune_revocations(&self, now: i64) -> Result<bool, StoreError> {
        self.write(Prune(now)).await
    }
}

struct Revoke(RevocationRow);

impl Change for Revoke {
    type Output = ();

    async fn apply(&self, connection: &mut Connection<'_>) -> Result<(), sqlx::Error> {
        insert(connection, &self.0).await?;
        tell(connection).await
    }
}

pub(super) async fn insert(
    connection: &mut Connection<'_>,
    row: &RevocationRow,
) -> Result<(), sqlx::Error> {
    // A second revocation never takes anything back.
    const UPSERT: &str = "INSERT INTO jwtunnel_revocations (kind, value, before, until) \
        VALUES ($1, $2, $3, $4) ON CONFLICT (kind, value) DO UPDATE SET \
        before = CASE WHEN jwtunnel_revocations.before > excluded.before \
        THEN jwtunnel_revocations.before ELSE excluded.before END, \
        until = CASE WHEN jwtunnel_revocations.until > excluded.until \
        THEN jwtunnel_revocations.until ELSE excluded.until END";
    on!(connection, c => async {
        let query = sqlx::query(UPSERT).bind(&row.kind).bind(&row.value);
        query.bind(row.before).bind(row.until).execute(c).await.map(drop)
    })
}

/// Tells other daemons, once this is durable.
pub(super) async fn tell(connection: &mut Connection<'_>) -> Result<(), sqlx::Error> {
    let Connection::Postgres(connection) = connection else { return Ok(()) };
    let notify = sqlx::query("SELECT pg_notify($1, 'revocations')").bind(CHANNEL);
    notify.execute(&mut **connection).await.map(drop)
}

struct RevokeKeys<F> {
    selector: KeySelector,
    now: Time,
    rows: F,
}

#[derive(sqlx::FromRow)]
struct KeyRow {
    id: i64,
    key_hash: Option<String>,
    public_id: Option<String>,
    identifier: Id,
}

/// A JWThenticator on the same database knows no `revoked_at`, but it knows an expiry.
macro_rules! revoking {
    ($condition:literal) => {
        concat!(
            "UPDATE keys SET revoked_at = coalesce(revoked_at, $2), expires_at = \
             CASE WHEN expires_at < $2 THEN expires_at ELSE $2 END WHERE ",
            $condition,
            " RETURNING CAST(id AS BIGINT) AS id, key_hash, public_id, identifier"
        )
    };
}

impl<F> Change for RevokeKeys<F>
where
    F: Fn(&[RevokedKey]) -> Vec<RevocationRow> + Send + Sync + 'static,
{
    type Output = Vec<RevokedKey>;

    async fn apply(&self, connection: &mut Connection<'_>) -> Result<Vec<RevokedKey>, sqlx::Error> {
        const TOKENS: &str =
            "UPDATE refresh_tokens SET expires_at = $2 WHERE key_id = $1 AND expires_at > $2";
        let now = self.now;
        let rows: Vec<KeyRow> = match &self.selector {
            KeySelector::Hash(hash) => {
                const QUERY: &str = revoking!("key_hash = $1");
                on!(connection, c => sqlx::query_as(QUERY).bind(hash.as_str()).bind(now).fetch_all(c))?
            }
            KeySelector::PublicId(id) => {
                const QUERY: &str = revoking!("public_id = $1");
                on!(connection, c => sqlx::query_as(QUERY).bind(id).bind(now).fetch_all(c))?
            }
            KeySelector::Identifier(identifier) => {
                const QUERY: &str = revoking!("identifier = $1");
                let identifier = Id(*identifier);
                on!(connection, c => sqlx::query_as(QUERY).bind(identifier).bind(now).fetch_all(c))?
            }
        };
        let mut revoked = Vec::new();
        for row in rows {
            on!(connection, c => async {
                sqlx::query(TOKENS).bind(row.id).bind(now).execute(c).await.map(drop)
            })?;
            revoked.push(RevokedKey {
                public_id: row.public_id,
                identifier: row.identifier.0,
                fingerprint: fingerprint_of(row.key_hash.as_deref()),
            });
        }
        for row in (self.rows)(&revoked) {
            insert(connection, &row).await?;
        }
        tell(connection).await?;
        Ok(revoked)
    }
}

struct Prune(i64);

impl Change for Prune {
    type Output = bool;

    async fn apply(&self, connection: &mut Connection<'_>) -> Result<bool, sqlx::Error> {
        const DELETE: &str = "DELETE FROM jwtunnel_revocations WHERE until < $1";
        let gone: u64 = on!(connection, c => async {
            sqlx::query(DELETE).bind(self.0).execute(c).await.map(|done| done.rows_affected())
        })?;
        if gone > 0 {
            tell(connection).await?;
        }
        Ok(gone > 0)
    }
}

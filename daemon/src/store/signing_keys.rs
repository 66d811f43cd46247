//! The signing keys that daemons on one PostgreSQL share. What is private about them arrives sealed.

use sqlx::{PgPool, Row as _};

use super::{Engine, Store, StoreError};

/// Any number that no other program takes on this database: the lock under which keys change.
const LOCK: i64 = 0x6a77_745f_6b65_7973;

/// The channel on which daemons tell each other that something has changed, and what.
pub(super) const CHANNEL: &str = "jwtunnel";

/// A row.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct SigningKeyRow {
    pub(crate) kid: String,
    pub(crate) algorithm: String,
    pub(crate) created: i64,
    pub(crate) longest_lifetime: i64,
    pub(crate) state: String,
    pub(crate) due: Option<i64>,
    pub(crate) signing_since: Option<i64>,
    pub(crate) private_key: String,
}

const SELECT: &str = "SELECT kid, algorithm, created, longest_lifetime, state, due, signing_since, \
                      private_key FROM jwtunnel_signing_keys ORDER BY created DESC, kid";

impl Store {
    /// Whether daemons share the database.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.engine, Engine::Postgres(_))
    }

    /// The keys as they are.
    pub(crate) async fn signing_keys(&self) -> Result<Vec<SigningKeyRow>, StoreError> {
        let Engine::Postgres(engine) = &self.engine else { return Ok(Vec::new()) };
        self.patiently(async { Ok(sqlx::query_as(SELECT).fetch_all(&engine.pool).await?) }).await
    }

    /// Replaces the keys by what `alter` makes of them, while no other daemon changes them, and tells the
    /// others. The change is durable when this returns.
    pub(crate) async fn alter_signing_keys<T, E: From<StoreError>>(
        &self,
        alter: impl FnOnce(&[SigningKeyRow]) -> Result<(Vec<SigningKeyRow>, T), E>,
    ) -> Result<T, E> {
        let Engine::Postgres(engine) = &self.engine else {
            return alter(&[]).map(|(_, result)| result);
        };
        let work = Self::alter_in(&engine.pool, alter);
        // A daemon that hangs with the lock, or a network that has gone, must not hold this one up.
        let done = tokio::time::timeout(super::postgres::PATIENCE, work).await;
        done.unwrap_or_else(|_| Err(StoreError::TimedOut.into()))
    }

    async fn alter_in<T, E: From<StoreError>>(
        pool: &PgPool,
        alter: impl FnOnce(&[SigningKeyRow]) -> Result<(Vec<SigningKeyRow>, T), E>,
    ) -> Result<T, E> {
        let failed = |error: sqlx::Error| E::from(StoreError::Database(error));
        let mut transaction = pool.begin().await.map_err(failed)?;
        let lock = sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK);
        lock.execute(&mut *transaction).await.map_err(failed)?;
        let rows: Vec<SigningKeyRow> =
            sqlx::query_as(SELECT).fetch_all(&mut *transaction).await.map_err(failed)?;
        let (next, result) = alter(&rows)?;
        // As sets: the server sorts by its own rules.
        if next.len() == rows.len() && next.iter().all(|row| rows.contains(row)) {
            return Ok(result);
        }
        for row in rows.iter().filter(|row| !next.iter().any(|other| other.kid == row.kid)) {
            let delete = sqlx::query("DELETE FROM jwtunnel_signing_keys WHERE kid = $1");
            delete.bind(&row.kid).execute(&mut *transaction).await.map_err(failed)?;
        }
        for row in next.iter().filter(|row| !rows.contains(row)) {
            sqlx::query(
                "INSERT INTO jwtunnel_signing_keys (kid, algorithm, created, longest_lifetime, \
                 state, due, signing_since, private_key) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
                 ON CONFLICT (kid) DO UPDATE SET longest_lifetime = excluded.longest_lifetime, \
                 state = excluded.state, due = excluded.due, \
                 signing_since = excluded.signing_since",
            )
            .bind(&row.kid)
            .bind(&row.algorithm)
            .bind(row.created)
            .bind(row.longest_lifetime)
            .bind(&row.state)
            .bind(row.due)
            .bind(row.signing_since)
            .bind(&row.private_key)
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
        }
        // Delivered when the transaction is committed, and not if it is not.
        let notify = sqlx::query("SELECT pg_notify($1, 'keys')").bind(CHANNEL);
        let told = notify.fetch_one(&mut *transaction).await.map_err(failed)?;
        debug_assert_eq!(told.len(), 1);
        transaction.commit().await.map_err(failed)?;
        Ok(result)
    }
}

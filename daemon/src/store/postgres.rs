//! The PostgreSQL engine: one pool, shared by any number of daemons through the server.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, Postgres as Engine};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, PgPool};
use tokio::sync::Semaphore;

use super::change::Change;
use super::connection::Connection;
use super::schema::{self, Origin, Tables};
use super::{OpenError, StoreError};
use crate::config::PostgresUrl;

/// More would only wait for each other's fsync.
const CONNECTIONS: u32 = 16;

/// How long a start waits for a server that is itself starting.
const START: Duration = Duration::from_secs(10);

/// What a client of a server that is away waits at most, in the pool and for a statement.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The open database; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Postgres {
    pub(super) pool: PgPool,
    /// How many writes may wait and work.
    queue: Arc<Semaphore>,
}

impl Postgres {
    /// Connects to the server, makes the database if it is missing, and brings its tables up to date.
    pub(super) async fn open(
        url: &PostgresUrl,
        queue_limit: usize,
    ) -> Result<(Self, Origin), OpenError> {
        let options = url.options().clone().application_name("jwtunneld");
        let (connection, origin) = prepare(url, &options).await?;
        // A clean goodbye; the server does not log a lost client.
        let _ = connection.close().await;
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(PATIENCE)
            .connect_lazy_with(options);
        Ok((Self { pool, queue: Arc::new(Semaphore::new(queue_limit)) }, origin))
    }

    /// A connection of the pool. Boxed, as [`Self::write`] is: sqlx's futures have 15 KiB, which every request to
    /// SQLite would move around too, several times.
    pub(super) fn acquire(&self) -> BoxFuture<'_, Result<PoolConnection<Engine>, sqlx::Error>> {
        Box::pin(self.pool.acquire())
    }

    /// Applies a change in a transaction of its own, and waits until it is durable.
    pub(super) fn write<C: Change>(
        &self,
        change: C,
    ) -> BoxFuture<'_, Result<C::Output, StoreError>> {
        Box::pin(self.write_change(change))
    }

    async fn write_change<C: Change>(&self, change: C) -> Result<C::Output, StoreError> {
        let _place = self.queue.try_acquire().map_err(|_| StoreError::Busy)?;
        // Another node's transaction may have been in the way; twice in a row is something else.
        match self.apply(&change).await {
            Err(StoreError::Database(error)) if is_conflict(&error) => self.apply(&change).await,
            result => result,
        }
    }

    async fn apply<C: Change>(&self, change: &C) -> Result<C::Output, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let output = change.apply(&mut Connection::Postgres(&mut transaction)).await?;
        transaction.commit().await?;
        Ok(output)
    }
}

/// A connection to the database, whose tables are up to date.
pub(super) async fn prepare(
    url: &PostgresUrl,
    options: &PgConnectOptions,
) -> Result<(PgConnection, Origin), OpenError> {
    let postgres = |source| OpenError::Postgres { database: url.to_string(), source };
    let mut connection = connect(options).await.map_err(postgres)?;
    let tables = look(&mut connection).await.map_err(postgres)?;
    if tables == Tables::Foreign {
        return Err(OpenError::Foreign { database: url.to_string() });
    }
    schema::migrate(tables, &schema::POSTGRES, &mut connection)
        .await
        .map_err(|source| OpenError::Schema { database: url.to_string(), source })?;
    let origin = if tables == Tables::Original { Origin::Adopted } else { Origin::Own };
    Ok((connection, origin))
}

/// Waits for a server that does not answer yet; makes a database that does not exist, as the original does.
async fn connect(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    let deadline = tokio::time::Instant::now() + START;
    loop {
        let attempt = tokio::time::timeout_at(deadline, options.connect()).await;
        match attempt.unwrap_or(Err(sqlx::Error::PoolTimedOut)) {
            Err(error) if has_code(&error, "3D000") => make_database(options).await?,
            // 57P03: the server is starting up.
            Err(error)
                if (matches!(error, sqlx::Error::Io(_)) || has_code(&error, "57P03"))
                    && tokio::time::Instant::now() < deadline =>
            {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            result => return result,
        }
    }
}

async fn make_database(options: &PgConnectOptions) -> Result<(), sqlx::Error> {
    let name = options.get_database().unwrap_or_default().replace('"', "\"\"");
    let mut connection = options.clone().database("postgres").connect().await?;
    let statement = format!("CREATE DATABASE \"{name}\" ENCODING 'UTF8' TEMPLATE template0");
    match sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await {
        // Another daemon was faster.
        Err(error) if has_code(&error, "42P04") || has_code(&error, "23505") => Ok(()),
        result => result.map(drop),
    }?;
    tracing::info!(event = "database_created", database = options.get_database());
    connection.close().await
}

async fn look(connection: &mut PgConnection) -> Result<Tables, sqlx::Error> {
    let columns: Vec<(String, String)> = sqlx::query_as(
        "SELECT table_name::text, column_name::text FROM information_schema.columns \
         WHERE table_schema = current_schema()",
    )
    .fetch_all(connection)
    .await?;
    Ok(Tables::of(&columns))
}

/// Serialisation failures and deadlocks: PostgreSQL says to try again.
fn is_conflict(error: &sqlx::Error) -> bool {
    has_code(error, "40001") || has_code(error, "40P01")
}

fn has_code(error: &sqlx::Error, code: &str) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|found| found == code)
}

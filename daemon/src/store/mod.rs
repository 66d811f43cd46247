//! The database: registered keys and refresh tokens, in SQLite or in PostgreSQL.
//!
//! Secrets arrive here as digests, but for refresh tokens in a database that a JWThenticator shares. Every
//! change is durable before anyone is answered. Trouble of any kind is [`StoreError`]: never "not found",
//! which would be a refusal.
//!
//! A statement is written once for both engines (`connection`, `value`); `sqlite` and `postgres` open the
//! database and carry changes out, `schema` knows whose tables there are.

mod change;
mod changes;
mod connection;
mod harden;
mod key_batch;
mod key_details;
mod keys;
mod postgres;
mod prune;
mod refresh_family;
mod refresh_tokens;
mod revocations;
mod schema;
mod signing_keys;
mod sqlite;
mod value;

use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::migrate::MigrateError;

pub(crate) use changes::Changes;
pub use harden::{HardenError, Hardened, harden};
pub use key_batch::{Imported, NewKey};
pub use key_details::{KeyDetails, KeyName};
pub use keys::{KeyHash, KeyPage, Registration, StoredKey};
pub use prune::{Pruned, PrunedKey, Stale};
pub use refresh_family::{Use, Used};
pub use refresh_tokens::{RefreshToken, StoredRefreshToken};
pub(crate) use revocations::RevocationRow;
pub use revocations::{KeySelector, RevokedKey};
pub(crate) use signing_keys::SigningKeyRow;

use crate::config::DatabaseUrl;
use crate::metrics::{Metrics, Operation, StoreMetrics};
use change::Change;
use connection::{Connection, Reader, on};
use postgres::Postgres;
use schema::Origin;
use sqlite::Sqlite;

/// How long whoever asks for something else than a token waits for a database that is away.
const HURRIED: Duration = Duration::from_secs(2);

/// Why the database cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file or its folder.
    #[error("the database file {} cannot be used: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// SQLite refuses the file.
    #[error("the database {} cannot be opened: {source}", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// Why.
        source: sqlx::Error,
    },
    /// The server cannot be reached, or refuses.
    #[error("the database {database} cannot be opened: {source}")]
    Postgres {
        /// The URL without its password.
        database: String,
        /// Why.
        source: sqlx::Error,
    },
    /// There are tables that neither this program nor JWThenticator made.
    #[error(
        "the database {database} has tables of another program; name a new one in \
         [jwthenticator] database_url"
    )]
    Foreign {
        /// The file, or the URL without its password.
        database: String,
    },
    /// The schema is newer, or was changed by hand.
    #[error("the database {database} does not fit this version: {source}")]
    Schema {
        /// The file, or the URL without its password.
        database: String,
        /// Why.
        source: MigrateError,
    },
}

/// The database could not do what was asked; the same request may succeed later.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The engine failed: locked, full, damaged, gone.
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
    /// Part of a batch that failed; the log has the reason once.
    #[error("the database failed")]
    Batch,
    /// More work waits than `queue_limit`.
    #[error("too much work waits for the database")]
    Busy,
    /// The database did not answer in time.
    #[error("the database does not answer")]
    TimedOut,
    /// A row does not have the form that it must have.
    #[error("the row {id} of {table} is malformed")]
    Malformed {
        /// The table.
        table: &'static str,
        /// The row.
        id: i64,
    },
}

impl StoreError {
    /// The word for it in metrics.
    fn reason(&self) -> &'static str {
        match self {
            Self::Database(_) | Self::Batch => "database",
            Self::Busy => "busy",
            Self::TimedOut => "timeout",
            Self::Malformed { .. } => "malformed",
        }
    }
}

/// How refresh tokens are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenForm {
    /// As digests: a copy of the database is no set of credentials.
    Hashed,
    /// As they were given out, so that a JWThenticator that uses the same database finds them.
    Clear,
}

impl TokenForm {
    /// As `jwtunnel_settings` has it.
    fn of(value: Option<&str>) -> Self {
        if value == Some("clear") { Self::Clear } else { Self::Hashed }
    }
}

/// The open database; cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    engine: Engine,
    patience: Duration,
    adopted: bool,
    metrics: Arc<StoreMetrics>,
}

#[derive(Debug, Clone)]
enum Engine {
    Sqlite(Sqlite),
    Postgres(Postgres),
}

impl Store {
    /// Opens the database, which is made if missing, and brings its tables up to date. One that
    /// JWThenticator made is adopted: nothing that it sees changes.
    ///
    /// # Errors
    /// [`OpenError`]. What exists is never replaced.
    pub async fn open(url: &DatabaseUrl, queue_limit: usize) -> Result<Self, OpenError> {
        let (engine, origin) = match url {
            DatabaseUrl::Sqlite(path) => {
                let (engine, origin) = Sqlite::open(path, queue_limit).await?;
                (Engine::Sqlite(engine), origin)
            }
            DatabaseUrl::Postgres(url) => {
                let (engine, origin) = Postgres::open(url, queue_limit).await?;
                (Engine::Postgres(engine), origin)
            }
        };
        let adopted = origin == Origin::Adopted;
        let metrics = Arc::new(StoreMetrics::new());
        let store = Self { engine, patience: postgres::PATIENCE, adopted, metrics };
        if let DatabaseUrl::Sqlite(path) = url {
            let form = store.token_form().await;
            let form = form.map_err(|error| sqlite::sqlite_error(path, into_sqlx(error)))?;
            sqlite::protect(path, form == TokenForm::Clear)?;
        }
        Ok(store)
    }

    /// Whether opening it made a database of JWThenticator ours.
    pub fn was_adopted(&self) -> bool {
        self.adopted
    }

    /// The same database for requests that are answered soon or not at all. Clients that need a token wait
    /// longer, as a refusal costs them more.
    #[must_use]
    pub fn hurried(&self) -> Self {
        Self { patience: HURRIED, ..self.clone() }
    }

    /// How refresh tokens are stored now; `jwtunnel db harden` changes it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn token_form(&self) -> Result<TokenForm, StoreError> {
        self.patiently(async {
            let mut reader = self.reader().await?;
            Ok(form_in(&mut reader.connection()).await?)
        })
        .await
    }

    async fn reader(&self) -> Result<Reader, sqlx::Error> {
        match &self.engine {
            Engine::Sqlite(engine) => engine.readers.lend().await.map(Reader::Sqlite),
            Engine::Postgres(engine) => engine.acquire().await.map(Reader::Postgres),
        }
    }

    /// Carries a change out, and waits until it is durable.
    async fn write<C: Change>(&self, change: C) -> Result<C::Output, StoreError> {
        self.bounded(Operation::Write, async {
            match &self.engine {
                Engine::Sqlite(engine) => engine.write(change).await,
                Engine::Postgres(engine) => engine.write(change).await,
            }
        })
        .await
    }

    /// Reads, within bounds.
    async fn patiently<T>(
        &self,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.bounded(Operation::Read, work).await
    }

    /// SQLite has its own bound, the busy timeout; a server may be gone without a word.
    async fn bounded<T>(
        &self,
        operation: Operation,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let start = Instant::now();
        let work = pin!(work);
        let result = match &self.engine {
            Engine::Sqlite(_) => work.await,
            Engine::Postgres(_) => {
                tokio::time::timeout(self.patience, work).await.unwrap_or(Err(StoreError::TimedOut))
            }
        };
        self.metrics.done(operation, start, result.as_ref().err().map(StoreError::reason));
        result
    }

    /// Lets `metrics` show how the database does.
    pub(crate) fn show(&self, metrics: &Metrics) {
        self.metrics.show(metrics);
    }
}

/// How refresh tokens are stored, as the transaction of `connection` sees it.
async fn form_in(connection: &mut Connection<'_>) -> Result<TokenForm, sqlx::Error> {
    const QUERY: &str = "SELECT value FROM jwtunnel_settings WHERE name = 'refresh_tokens'";
    let value: Option<String> = on!(connection, c => sqlx::query_scalar(QUERY).fetch_optional(c))?;
    Ok(TokenForm::of(value.as_deref()))
}

fn into_sqlx(error: StoreError) -> sqlx::Error {
    match error {
        StoreError::Database(error) => error,
        other => sqlx::Error::Protocol(other.to_string()),
    }
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]])
        .map(char::from)
        .collect()
}

#[cfg(test)]
mod tests;

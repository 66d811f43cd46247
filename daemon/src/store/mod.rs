//! The database: registered keys and refresh tokens, in SQLite.
//!
//! Secrets arrive here as digests only. Reads go to a small pool; every write goes through one
//! connection that commits what waits together, durably, before anyone is answered. Trouble of any
//! kind is [`StoreError`]: never "not found", which would be a refusal.

mod keys;
mod refresh_tokens;
mod timestamp;
mod writer;

use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::SqlitePool;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection, SqliteConnection};
use tokio::sync::{mpsc, oneshot};

pub use keys::{KeyHash, Registration, StoredKey};
pub use refresh_tokens::{RefreshDigest, StoredRefreshToken};

use crate::atomic_file;
use writer::Write;

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// How long a statement waits for another process that holds the database.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

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
    /// The file has tables that this program did not make.
    #[error(
        "the database {} was made by another program, and using it is not available yet; name a \
         new file in [jwthenticator] database_url", path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The schema is newer, or was changed by hand.
    #[error("the database {} does not fit this version: {source}", path.display())]
    Schema {
        /// The file.
        path: PathBuf,
        /// Why.
        source: MigrateError,
    },
}

/// The database could not do what was asked; the same request may succeed later.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// SQLite failed: locked, full, damaged, gone.
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
    /// Part of a batch of writes that failed.
    #[error("the database failed")]
    Write,
    /// More work waits than `queue_limit`.
    #[error("too much work waits for the database")]
    Busy,
    /// A row does not have the form that it must have.
    #[error("the row {id} of {table} is malformed")]
    Malformed {
        /// The table.
        table: &'static str,
        /// The row.
        id: i64,
    },
}

/// The open database; cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    readers: SqlitePool,
    writes: mpsc::Sender<Write>,
}

impl Store {
    /// Opens the file, which is made if missing, and brings its tables up to date.
    ///
    /// # Errors
    /// [`OpenError`]. An existing file is never replaced.
    pub async fn open(path: &Path, queue_limit: usize) -> Result<Self, OpenError> {
        prepare_file(path).map_err(|source| OpenError::File { path: path.into(), source })?;
        let sqlite = |source| OpenError::Sqlite { path: path.into(), source };
        let options = SqliteConnectOptions::new()
            .filename(path)
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(true);
        let writing = options
            .clone()
            .journal_mode(SqliteJournalMode::Wal)
            // A credential that was answered must exist after a power cut.
            .synchronous(SqliteSynchronous::Full);
        let mut connection = SqliteConnection::connect_with(&writing).await.map_err(sqlite)?;
        if is_foreign(&mut connection).await.map_err(sqlite)? {
            return Err(OpenError::Foreign { path: path.into() });
        }
        MIGRATIONS
            .run(&mut connection)
            .await
            .map_err(|source| OpenError::Schema { path: path.into(), source })?;
        let readers = SqlitePoolOptions::new()
            .max_connections(4)
            .acquire_timeout(BUSY_TIMEOUT)
            .connect_with(options.pragma("query_only", "ON"))
            .await
            .map_err(sqlite)?;
        let (writes, queue) = mpsc::channel(queue_limit);
        tokio::spawn(writer::run(connection, writing, queue));
        Ok(Self { readers, writes })
    }

    /// Hands a write to the writer and waits until it is durable.
    async fn write<T>(
        &self,
        make: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Write,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.writes.try_send(make(reply)).map_err(|_| StoreError::Busy)?;
        // The writer drops a reply only when it ends, with the process.
        answer.await.unwrap_or(Err(StoreError::Write))
    }
}

/// Makes the file with its final mode: SQLite gives its companions (-wal, -shm) the same one.
fn prepare_file(path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty())
        && !folder.is_dir()
    {
        atomic_file::make_folder(folder, 0o755)?;
    }
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(atomic_file::PRIVATE)
        .open(path)?;
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        fs::set_permissions(path, Permissions::from_mode(atomic_file::PRIVATE))?;
    }
    Ok(())
}

/// Whether there are tables, but not the one in which our migrations are recorded.
async fn is_foreign(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    let (tables, ours): (i64, i64) = sqlx::query_as(
        "SELECT count(*), count(*) FILTER (WHERE name = '_sqlx_migrations') FROM sqlite_master \
         WHERE type = 'table' AND name NOT LIKE 'sqlite_%'",
    )
    .fetch_one(connection)
    .await?;
    Ok(tables > 0 && ours == 0)
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

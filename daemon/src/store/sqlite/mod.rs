//! The SQLite engine: some connections that read, and one connection that writes.

mod lookups;
mod readers;
mod writer;

use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::change::{Change, Pending};
use super::schema::{self, Origin, Tables};
use super::{OpenError, StoreError};
use crate::atomic_file;
use lookups::Lookups;
pub(super) use readers::Lent;
use readers::Readers;
use writer::Announcements;
pub(super) use writer::{Announced, Work};

/// How long a statement waits for another process that holds the database.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The open file; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Sqlite {
    pub(super) readers: Readers,
    pub(super) lookups: Lookups,
    writes: mpsc::Sender<Work>,
    announcements: Announcements,
}

impl Sqlite {
    /// Opens the file, which is made if missing, and brings its tables up to date.
    pub(super) async fn open(path: &Path, queue_limit: usize) -> Result<(Self, Origin), OpenError> {
        let (connection, origin) = open_file(path).await?;
        let readers = Readers::open(options(path).pragma("query_only", "ON"))
            .await
            .map_err(|source| sqlite_error(path, source))?;
        let (writes, queue) = mpsc::channel(queue_limit);
        let announcements = Announcements::default();
        tokio::spawn(writer::run(connection, writing(path), queue, announcements.clone()));
        let lookups = Lookups::start(readers.clone(), queue_limit);
        Ok((Self { readers, lookups, writes, announcements }, origin))
    }

    /// Hands a change to the writer and waits until it is durable.
    pub(super) async fn write<C: Change>(&self, change: C) -> Result<C::Output, StoreError> {
        let (reply, answer) = oneshot::channel();
        let work = C::queued(Pending::new(change, reply));
        self.writes.try_send(work).map_err(|_| StoreError::Busy)?;
        // The writer drops a reply when its batch has failed, or with the process.
        answer.await.unwrap_or(Err(StoreError::Batch))
    }

    /// Tells the writer that a refresh token is about to come.
    pub(super) fn announce(&self) -> Announced {
        self.announcements.announce()
    }
}

/// A connection that writes to the file, whose tables are up to date.
pub(super) async fn open_file(path: &Path) -> Result<(SqliteConnection, Origin), OpenError> {
    prepare_file(path).map_err(|source| file_error(path, source))?;
    let sqlite = |source| sqlite_error(path, source);
    // Looked at before anything is changed, be it the journal's mode.
    let mut connection = SqliteConnection::connect_with(&options(path)).await.map_err(sqlite)?;
    let tables = look(&mut connection).await.map_err(sqlite)?;
    if tables == Tables::Foreign {
        return Err(OpenError::Foreign { database: path.display().to_string() });
    }
    if tables == Tables::Original {
        copy(&mut connection, path, "before-adoption").await?;
    }
    connection.close().await.map_err(sqlite)?;
    let mut connection = SqliteConnection::connect_with(&writing(path)).await.map_err(sqlite)?;
    let schema = |source| OpenError::Schema { database: path.display().to_string(), source };
    schema::migrate(tables, &schema::SQLITE, &mut connection).await.map_err(schema)?;
    let origin = if tables == Tables::Original { Origin::Adopted } else { Origin::Own };
    Ok((connection, origin))
}

/// A copy of the whole database beside it, named after its occasion. An earlier copy of that name stays: it
/// is the older one that somebody may want back.
pub(super) async fn copy(
    connection: &mut SqliteConnection,
    path: &Path,
    occasion: &str,
) -> Result<PathBuf, OpenError> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{occasion}"));
    let copy = PathBuf::from(name);
    if fs::metadata(&copy).is_ok_and(|metadata| metadata.len() > 0) {
        return Ok(copy);
    }
    copy_to(connection, &copy).await
}

/// A copy of the whole database in a new file, for its owner alone.
pub(super) async fn copy_to(
    connection: &mut SqliteConnection,
    copy: &Path,
) -> Result<PathBuf, OpenError> {
    // SQLite fills an empty file, which has its mode already, and no other.
    create(copy).map_err(|source| file_error(copy, source))?;
    let text = copy.to_string_lossy().into_owned();
    let done = sqlx::query("VACUUM INTO $1").bind(text).execute(connection).await;
    done.map_err(|source| sqlite_error(copy, source))?;
    Ok(copy.into())
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new().filename(path).busy_timeout(BUSY_TIMEOUT).foreign_keys(true)
}

fn writing(path: &Path) -> SqliteConnectOptions {
    options(path)
        .journal_mode(SqliteJournalMode::Wal)
        // A credential that was answered must exist after a power cut.
        .synchronous(SqliteSynchronous::Full)
        // Where a statement of several rows keeps what it may have to undo.
        .pragma("temp_store", "MEMORY")
        // Pages of the log that go into the file at once. Most are index pages that the next tokens change again, so
        // four times SQLite's number, 16 MiB, are far from four times as many writes.
        .pragma("wal_autocheckpoint", "4000")
}

async fn look(connection: &mut SqliteConnection) -> Result<Tables, sqlx::Error> {
    let columns: Vec<(String, String)> = sqlx::query_as(
        "SELECT m.name, c.name FROM sqlite_master m, pragma_table_info(m.name) c \
         WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite\\_%' ESCAPE '\\'",
    )
    .fetch_all(connection)
    .await?;
    Ok(match Tables::of(&columns) {
        // A file is nobody's but ours, so other tables are a wrong file name.
        Tables::None if !columns.is_empty() => Tables::Foreign,
        tables => tables,
    })
}

/// Makes the file with its final mode: SQLite gives its companions (-wal, -shm) the same one.
fn prepare_file(path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty())
        && !folder.is_dir()
    {
        atomic_file::make_folder(folder, 0o755)?;
    }
    create(path)
}

fn create(path: &Path) -> io::Result<()> {
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(atomic_file::PRIVATE)
        .open(path)
        .map(drop)
}

/// Takes the file away from others, unless a service of another user may share it: that one is told.
pub(super) fn protect(path: &Path, shared: bool) -> Result<(), OpenError> {
    let mode = fs::metadata(path).map_err(|source| file_error(path, source))?.permissions().mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    if shared {
        warn!(
            event = "database_mode",
            path = %path.display(),
            mode = format!("{:04o}", mode & 0o7777),
            reason = "other users can read the refresh tokens in it; run chmod 600 if JWThenticator \
                      runs as the same user, or jwtunnel db harden when it is gone"
        );
        return Ok(());
    }
    fs::set_permissions(path, Permissions::from_mode(atomic_file::PRIVATE))
        .map_err(|source| file_error(path, source))
}

fn file_error(path: &Path, source: io::Error) -> OpenError {
    OpenError::File { path: path.into(), source }
}

pub(super) fn sqlite_error(path: &Path, source: sqlx::Error) -> OpenError {
    OpenError::Sqlite { path: path.into(), source }
}

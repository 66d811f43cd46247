//! Ends the sharing of a database with JWThenticator: its refresh tokens become digests.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::TryStreamExt as _;
use sqlx::{Connection as _, PgConnection, SqliteConnection};

use super::refresh_tokens::RefreshToken;
use super::{OpenError, TokenForm, postgres, sqlite};
use crate::atomic_file;
use crate::config::{DatabaseUrl, PostgresUrl};

/// Why a database could not be hardened. It is then as it was, unless the text says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HardenError {
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is no such database.
    #[error("the database {}: {source}; name it with --config or --database-url", path.display())]
    Absent {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The copy cannot be made.
    #[error("the copy {} cannot be written: {source}; name another file with --copy", path.display())]
    Copy {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is done, but another program reads all the time.
    #[error(
        "the tokens are hashed, but {}-wal may still have them: another program is reading the \
         database without a pause; run this again", path.display()
    )]
    Read {
        /// The file.
        path: PathBuf,
    },
    /// A statement failed.
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hardened {
    /// How many refresh tokens were replaced by their digests.
    pub hashed: u64,
    /// Where the tokens are as they were. Whoever has it can use them.
    pub copy: PathBuf,
}

/// Replaces each refresh token in the database by its digest, and stores new ones so from now on. Clients go
/// on with the tokens that they have; a JWThenticator on the same database refuses them. `copy` names the
/// file that gets what is replaced: for SQLite a whole database, for PostgreSQL the table as `COPY` writes
/// it. `None` if nothing is to do.
///
/// Daemons may be running: they follow at their next statement.
///
/// # Errors
/// [`HardenError`].
pub async fn harden(
    url: &DatabaseUrl,
    copy: Option<&Path>,
) -> Result<Option<Hardened>, HardenError> {
    match url {
        DatabaseUrl::Sqlite(path) => harden_sqlite(path, copy).await,
        DatabaseUrl::Postgres(url) => harden_postgres(url, copy).await,
    }
}

const FORM: &str = "SELECT value FROM jwtunnel_settings WHERE name = 'refresh_tokens'";
const TURN_OFF: &str =
    "UPDATE jwtunnel_settings SET value = 'hashed' WHERE name = 'refresh_tokens'";
const COUNT: &str = "SELECT count(*) FROM refresh_tokens WHERE token NOT LIKE 'h1$%'";

async fn harden_sqlite(path: &Path, copy: Option<&Path>) -> Result<Option<Hardened>, HardenError> {
    // Opening would make it, with nothing in it to be hashed.
    if let Err(source) = std::fs::metadata(path) {
        return Err(HardenError::Absent { path: path.into(), source });
    }
    let (mut connection, _) = sqlite::open_file(path).await?;
    // What is overwritten leaves no trace in free pages.
    sqlx::query("PRAGMA secure_delete = ON").execute(&mut connection).await?;
    let form: Option<String> = sqlx::query_scalar(FORM).fetch_optional(&mut connection).await?;
    let clear: i64 = sqlx::query_scalar(COUNT).fetch_one(&mut connection).await?;
    if TokenForm::of(form.as_deref()) == TokenForm::Hashed && clear == 0 {
        clean_up(&mut connection, path).await?;
        return Ok(None);
    }
    let copy = match copy {
        Some(copy) => sqlite::copy_to(&mut connection, copy).await?,
        None => sqlite::copy(&mut connection, path, "before-harden").await?,
    };
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let mut hashed = 0;
    let mut last = 0;
    loop {
        let rows: Vec<(i64, String)> = sqlx::query_as(
            "SELECT id, token FROM refresh_tokens \
             WHERE id > $1 AND token NOT LIKE 'h1$%' ORDER BY id LIMIT 1000",
        )
        .bind(last)
        .fetch_all(&mut *transaction)
        .await?;
        let Some((id, _)) = rows.last() else { break };
        last = *id;
        for (id, token) in rows {
            let digest = RefreshToken::of(&token).into_digest();
            hashed += update(&mut transaction, id, &digest).await?;
        }
    }
    sqlx::query(TURN_OFF).execute(&mut *transaction).await?;
    transaction.commit().await?;
    clean_up(&mut connection, path).await?;
    connection.close().await?;
    sqlite::protect(path, false)?;
    Ok(Some(Hardened { hashed, copy }))
}

/// The write-ahead log still has the old pages, and free pages may have older ones.
async fn clean_up(connection: &mut SqliteConnection, path: &Path) -> Result<(), HardenError> {
    sqlx::query("VACUUM").execute(&mut *connection).await?;
    for _ in 0..50 {
        let checkpoint = sqlx::query_as("PRAGMA wal_checkpoint(TRUNCATE)");
        let (busy, _, _): (i64, i64, i64) = checkpoint.fetch_one(&mut *connection).await?;
        if busy == 0 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(HardenError::Read { path: path.into() })
}

async fn update(
    connection: &mut SqliteConnection,
    id: i64,
    digest: &str,
) -> Result<u64, sqlx::Error> {
    let query = sqlx::query("UPDATE refresh_tokens SET token = $1 WHERE id = $2");
    Ok(query.bind(digest).bind(id).execute(connection).await?.rows_affected())
}

async fn harden_postgres(
    url: &PostgresUrl,
    copy: Option<&Path>,
) -> Result<Option<Hardened>, HardenError> {
    let options = url.options().clone().application_name("jwtunnel db harden");
    let (mut connection, _) = postgres::prepare(url, &options).await?;
    let mut transaction = connection.begin().await?;
    // Issuing waits meanwhile; what it stores afterwards finds the new form.
    sqlx::query("LOCK TABLE refresh_tokens IN SHARE ROW EXCLUSIVE MODE")
        .execute(&mut *transaction)
        .await?;
    let form: Option<String> = sqlx::query_scalar(FORM).fetch_optional(&mut *transaction).await?;
    let clear: i64 = sqlx::query_scalar(COUNT).fetch_one(&mut *transaction).await?;
    if TokenForm::of(form.as_deref()) == TokenForm::Hashed && clear == 0 {
        transaction.rollback().await?;
        clean_up_postgres(&mut connection).await?;
        return Ok(None);
    }
    let copy = copy.unwrap_or(Path::new("refresh_tokens.before-harden")).to_path_buf();
    copy_table(&mut transaction, &copy).await?;
    let hashed = sqlx::query(
        "UPDATE refresh_tokens SET token = 'h1$' || \
         encode(sha256(convert_to(token, 'UTF8')), 'hex') WHERE token NOT LIKE 'h1$%'",
    )
    .execute(&mut *transaction)
    .await?
    .rows_affected();
    sqlx::query(TURN_OFF).execute(&mut *transaction).await?;
    transaction.commit().await?;
    clean_up_postgres(&mut connection).await?;
    connection.close().await?;
    Ok(Some(Hardened { hashed, copy }))
}

/// The old rows are dead, but still in the table's file and in its index. An earlier run may have been cut off before.
async fn clean_up_postgres(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("VACUUM FULL refresh_tokens").execute(connection).await.map(drop)
}

/// Writes the table to a new file, for its owner alone, and makes it durable.
async fn copy_table(connection: &mut PgConnection, path: &Path) -> Result<(), HardenError> {
    let failed = |source| HardenError::Copy { path: path.into(), source };
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(atomic_file::PRIVATE);
    let mut file = options.open(path).map_err(failed)?;
    let copied = async {
        let mut rows = connection.copy_out_raw("COPY refresh_tokens TO STDOUT").await?;
        while let Some(bytes) = rows.try_next().await? {
            file.write_all(&bytes).map_err(failed)?;
        }
        file.sync_all().map_err(failed)
    };
    let copied = copied.await;
    if copied.is_err() {
        // Half a copy is none, and would be in the way of the next one.
        let _ = std::fs::remove_file(path);
    }
    copied
}

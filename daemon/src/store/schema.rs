//! Whose tables a database has, and how they are brought up to date.

use sqlx::AssertSqlSafe;
use sqlx::SqlSafeStr as _;
use sqlx::migrate::{Migrate, MigrateError, Migrator};

pub(super) static SQLITE: Migrator = sqlx::migrate!("./migrations/sqlite");
pub(super) static POSTGRES: Migrator = sqlx::migrate!("./migrations/postgres");

/// In place of the first migration, where JWThenticator has made the tables.
const ADOPT: &str = include_str!("../../migrations/adopt/0001_adopt.sql");

/// Who made the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tables {
    /// There are none of ours.
    None,
    /// This program.
    Own,
    /// JWThenticator.
    Original,
    /// Another program, under the names that we use.
    Foreign,
}

/// What opening a database did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// It was ours, or is new.
    Own,
    /// It has become ours just now.
    Adopted,
}

impl Tables {
    /// Judges by the (table, column) pairs that are there.
    pub(super) fn of(columns: &[(String, String)]) -> Self {
        let has = |table: &str, column: &str| {
            columns.iter().any(|(t, c)| t == table && (column.is_empty() || c == column))
        };
        let has_all = |table: &str, wanted: &[&str]| wanted.iter().all(|column| has(table, column));
        if has("_sqlx_migrations", "") {
            return Self::Own;
        }
        if !has("keys", "") && !has("refresh_tokens", "") {
            return Self::None;
        }
        let original = has_all("keys", &["id", "key_hash", "identifier", "created", "expires_at"])
            && has_all("refresh_tokens", &["id", "token", "key_id", "created", "expires_at"]);
        if original { Self::Original } else { Self::Foreign }
    }
}

/// Brings the tables up to date, each step in a transaction of its own.
pub(super) async fn migrate<C: Migrate>(
    tables: Tables,
    migrations: &Migrator,
    connection: &mut C,
) -> Result<(), MigrateError> {
    if tables != Tables::Original {
        return migrations.run_direct(None, connection, false).await;
    }
    // The adopting step is recorded as the first migration, which it replaces; so two daemons that adopt
    // at once, and later starts, find what they expect.
    let steps = migrations.iter().cloned().enumerate().map(|(index, mut migration)| {
        if index == 0 {
            migration.sql = AssertSqlSafe(ADOPT).into_sql_str();
        }
        migration
    });
    Migrator::with_migrations(steps.collect()).run_direct(None, connection, false).await
}

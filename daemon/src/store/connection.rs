//! One connection of either engine, so that a statement is written once for both.
//!
//! Statements number their parameters (`$1`), which both read; times and identifiers are bound as the
//! types of `value`. What is left of the differences is in the files named after the engines.

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, Postgres, SqliteConnection};

use super::sqlite::Lent;

/// A connection, or a transaction on it.
pub(super) enum Connection<'c> {
    Sqlite(&'c mut SqliteConnection),
    Postgres(&'c mut PgConnection),
}

/// A connection of the engine's, to read with.
pub(super) enum Reader {
    Sqlite(Lent),
    Postgres(PoolConnection<Postgres>),
}

impl Reader {
    pub(super) fn connection(&mut self) -> Connection<'_> {
        match self {
            Self::Sqlite(connection) => Connection::Sqlite(connection),
            Self::Postgres(connection) => Connection::Postgres(connection),
        }
    }
}

/// Runs a query, in which `$c` is the connection, on whichever engine `$connection` is.
macro_rules! on {
    ($connection:expr, $c:ident => $query:expr) => {
        match $connection {
            $crate::store::connection::Connection::Sqlite(connection) => {
                let $c = &mut **connection;
                $query.await
            }
            $crate::store::connection::Connection::Postgres(connection) => {
                let $c = &mut **connection;
                $query.await
            }
        }
    };
}
pub(super) use on;

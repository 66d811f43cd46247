//! The connections that read. sqlx's pool would ask each of them, before and after every use, whether it is still
//! there, which a file is; each time that is a message to the connection's thread and back, as the query itself is.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::BUSY_TIMEOUT;

/// So many read at once.
const READERS: usize = 4;

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::store) struct Readers {
    options: Arc<SqliteConnectOptions>,
    idle: Arc<Mutex<Vec<SqliteConnection>>>,
    places: Arc<Semaphore>,
}

/// A connection, until it is dropped.
pub(in crate::store) struct Lent {
    /// Always there, until it goes back.
    connection: Option<SqliteConnection>,
    idle: Arc<Mutex<Vec<SqliteConnection>>>,
    _place: OwnedSemaphorePermit,
}

impl Readers {
    /// Opens one, so that a file that cannot be read is found at once; others when they are needed.
    pub(super) async fn open(options: SqliteConnectOptions) -> Result<Self, sqlx::Error> {
        let first = SqliteConnection::connect_with(&options).await?;
        Ok(Self {
            options: Arc::new(options),
            idle: Arc::new(Mutex::new(vec![first])),
            places: Arc::new(Semaphore::new(READERS)),
        })
    }

    /// Waits for one that nobody uses.
    pub(in crate::store) async fn lend(&self) -> Result<Lent, sqlx::Error> {
        let place = tokio::time::timeout(BUSY_TIMEOUT, self.places.clone().acquire_owned()).await;
        let place =
            place.map_err(|_| sqlx::Error::PoolTimedOut)?.map_err(|_| sqlx::Error::PoolClosed)?;
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            // Boxed because it is rare and large.
            None => Box::pin(SqliteConnection::connect_with(&self.options)).await?,
        };
        Ok(Lent { connection: Some(connection), idle: self.idle.clone(), _place: place })
    }
}

impl Deref for Lent {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        self.connection.as_ref().expect("a connection that is lent")
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        self.connection.as_mut().expect("a connection that is lent")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.extend(self.connection.take());
    }
}

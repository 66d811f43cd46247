//! The one connection that writes. What has come in while a transaction was being made durable goes
//! together into the next one, so that the disk's fsync bounds a batch and not each request.

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::mpsc;
use tracing::error;

use crate::logging::Throttle;
use crate::store::change::Job;
use crate::store::connection::Connection;

/// Bounds the time that the first of a batch waits for the others.
const BATCH: usize = 64;

/// Writes until every [`super::Sqlite`] is gone.
pub(super) async fn run(
    connection: SqliteConnection,
    options: SqliteConnectOptions,
    mut queue: mpsc::Receiver<Box<dyn Job>>,
) {
    let mut connection = Some(connection);
    let throttle = Throttle::new();
    let mut batch = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        // Whoever gave up waiting must find nothing done.
        batch.retain(|job| !job.is_abandoned());
        let result = match connection.take() {
            Some(open) => Ok(open),
            None => SqliteConnection::connect_with(&options).await,
        };
        let result = match result {
            Ok(mut open) => {
                let done = apply(&mut open, &mut batch).await;
                // After a failure the connection may be in any state; the next batch gets a new one.
                connection = done.is_ok().then_some(open);
                done
            }
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => batch.drain(..).for_each(Job::tell),
            // The replies of the batch are dropped with it, which their owners see as a failure.
            Err(error) => throttle.run(|suppressed| {
                error!(event = "database", outcome = "error", error = %error, suppressed);
            }),
        }
        batch.clear();
    }
}

/// Applies all of `batch` in one transaction. `BEGIN IMMEDIATE` takes the write lock at once: a lock
/// that is only upgraded later fails without waiting for the busy timeout.
async fn apply(
    connection: &mut SqliteConnection,
    batch: &mut [Box<dyn Job>],
) -> Result<(), sqlx::Error> {
    if batch.is_empty() {
        return Ok(());
    }
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    for job in batch {
        job.apply(&mut Connection::Sqlite(&mut transaction)).await?;
    }
    transaction.commit().await
}

//! The one connection that writes. What has come in while a transaction was being made durable goes
//! together into the next one, so that the disk's fsync bounds a batch and not each request.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::error;

use crate::logging::Throttle;
use crate::store::change::{Job, Pending};
use crate::store::connection::Connection;
use crate::store::refresh_tokens::Insert;

/// Bounds the time that the first of a batch waits for the others.
const BATCH: usize = 64;

/// How long a change waits for those that have been announced. A commit costs about as much for one row as for eight.
const PATIENCE: Duration = Duration::from_millis(3);

/// How many changes are about to come. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Announcements(Arc<AtomicUsize>);

/// A change that is about to come, until this is dropped.
#[derive(Debug)]
pub(in crate::store) struct Announced(Announcements);

impl Announcements {
    pub(super) fn announce(&self) -> Announced {
        self.0.fetch_add(1, Ordering::Relaxed);
        Announced(self.clone())
    }

    fn are_there(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What waits to be written.
pub(in crate::store) enum Work {
    /// The change that comes with every token. A batch of nothing else is one statement, and so needs no transaction:
    /// each statement is a message to the connection's thread and back, which costs more than a row.
    Insert(Pending<Insert>),
    /// Any other.
    Change(Box<dyn Job>),
}

impl Work {
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Insert(insert) => insert.is_abandoned(),
            Self::Change(job) => job.is_abandoned(),
        }
    }

    fn as_insert(&self) -> Option<&Insert> {
        match self {
            Self::Insert(insert) => Some(insert.change()),
            Self::Change(_) => None,
        }
    }

    fn inserted(&mut self) {
        if let Self::Insert(insert) = self {
            insert.applied(());
        }
    }

    fn as_job(&mut self) -> &mut dyn Job {
        match self {
            Self::Insert(insert) => insert,
            Self::Change(job) => job.as_mut(),
        }
    }

    fn tell(self) {
        match self {
            Self::Insert(insert) => Box::new(insert).tell(),
            Self::Change(job) => job.tell(),
        }
    }
}

/// Writes until every [`super::Sqlite`] is gone.
pub(super) async fn run(
    connection: SqliteConnection,
    options: SqliteConnectOptions,
    mut queue: mpsc::Receiver<Work>,
    announcements: Announcements,
) {
    let mut connection = Some(connection);
    let throttle = Throttle::new();
    let mut batch = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        gather(&mut batch, &mut queue, &announcements).await;
        // Whoever gave up waiting must find nothing done.
        batch.retain(|work| !work.is_abandoned());
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
            Ok(()) => batch.drain(..).for_each(Work::tell),
            // The replies of the batch are dropped with it, which their owners see as a failure.
            Err(error) => throttle.run(|suppressed| {
                error!(event = "database", outcome = "error", error = %error, suppressed);
            }),
        }
        batch.clear();
    }
}

/// Waits a little for what has been announced, so that it shares the commit. Nobody waits for nothing: alone, a change
/// is written at once.
async fn gather(
    batch: &mut Vec<Work>,
    queue: &mut mpsc::Receiver<Work>,
    announcements: &Announcements,
) {
    // One timer for all of them: setting it is a system call.
    let mut patience = pin!(sleep(PATIENCE));
    while batch.len() < BATCH && announcements.are_there() {
        let room = BATCH - batch.len();
        tokio::select! {
            biased;
            more = queue.recv_many(batch, room) => if more == 0 { return },
            () = &mut patience => return,
        }
    }
}

/// Applies all of `batch`, or nothing of it.
async fn apply(connection: &mut SqliteConnection, batch: &mut [Work]) -> Result<(), sqlx::Error> {
    let inserts: Option<Vec<_>> = batch.iter().map(Work::as_insert).collect();
    if let Some(inserts) = inserts {
        if !inserts.is_empty() {
            Insert::apply_all(&inserts, connection).await?;
        }
        batch.iter_mut().for_each(Work::inserted);
        return Ok(());
    }
    // This takes the write lock at once: one that is only upgraded later fails without waiting for the busy timeout.
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    for work in batch {
        work.as_job().apply(&mut Connection::Sqlite(&mut transaction)).await?;
    }
    transaction.commit().await
}

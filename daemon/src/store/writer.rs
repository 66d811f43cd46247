//! The one connection that writes. What has come in while a transaction was being made durable goes
//! together into the next one, so that the disk's fsync bounds a batch and not each request.

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, Row, SqliteConnection};
use tokio::sync::{mpsc, oneshot};
use tracing::error;
use uuid::Uuid;

use super::StoreError;
use super::keys::{KeyHash, Registration};
use super::refresh_tokens::RefreshDigest;
use crate::logging::Throttle;

/// Bounds the time that the first of a batch waits for the others.
const BATCH: usize = 64;

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// A change, with whom to tell once it is durable. Times are in the database's form.
#[derive(Debug)]
pub(super) enum Write {
    RegisterKey {
        hash: KeyHash,
        identifier: Uuid,
        public_id: String,
        now: String,
        expires_at: String,
        reply: Reply<Registration>,
    },
    InsertRefreshToken {
        token: RefreshDigest,
        key: i64,
        now: String,
        expires_at: String,
        reply: Reply<()>,
    },
}

/// A change that is done, but not yet durable.
enum Done {
    Registered(Reply<Registration>, Registration),
    Inserted(Reply<()>),
}

/// Writes until every [`super::Store`] is gone.
pub(super) async fn run(
    connection: SqliteConnection,
    options: SqliteConnectOptions,
    mut queue: mpsc::Receiver<Write>,
) {
    let mut connection = Some(connection);
    let throttle = Throttle::new();
    let mut batch = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        // Whoever gave up waiting must find nothing done.
        batch.retain(|write| !write.is_abandoned());
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
            Ok(done) => done.into_iter().for_each(Done::tell),
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
    batch: &mut Vec<Write>,
) -> Result<Vec<Done>, sqlx::Error> {
    let mut done = Vec::with_capacity(batch.len());
    if batch.is_empty() {
        return Ok(done);
    }
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    for write in batch.drain(..) {
        done.push(write.apply(&mut transaction).await?);
    }
    transaction.commit().await?;
    Ok(done)
}

impl Write {
    fn is_abandoned(&self) -> bool {
        match self {
            Self::RegisterKey { reply, .. } => reply.is_closed(),
            Self::InsertRefreshToken { reply, .. } => reply.is_closed(),
        }
    }

    async fn apply(self, connection: &mut SqliteConnection) -> Result<Done, sqlx::Error> {
        match self {
            Self::RegisterKey { hash, identifier, public_id, now, expires_at, reply } => {
                // The first identifier and name hold. max() of texts is max() of times: one width.
                let row = sqlx::query(
                    "INSERT INTO keys (key_hash, identifier, created, expires_at, public_id, \
                     identity) VALUES (?, ?, ?, ?, ?, 'registered') \
                     ON CONFLICT (key_hash) DO UPDATE SET \
                     expires_at = max(coalesce(expires_at, ''), excluded.expires_at) \
                     RETURNING identifier",
                )
                .bind(hash.as_str())
                .bind(identifier.simple().to_string())
                .bind(now)
                .bind(expires_at)
                .bind(public_id)
                .fetch_one(connection)
                .await?;
                let text: String = row.try_get("identifier")?;
                let identifier =
                    Uuid::try_parse(&text).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
                Ok(Done::Registered(reply, Registration { identifier }))
            }
            Self::InsertRefreshToken { token, key, now, expires_at, reply } => {
                sqlx::query(
                    "INSERT INTO refresh_tokens (token, key_id, created, expires_at) \
                     VALUES (?, ?, ?, ?)",
                )
                .bind(token.as_str())
                .bind(key)
                .bind(now)
                .bind(expires_at)
                .execute(connection)
                .await?;
                Ok(Done::Inserted(reply))
            }
        }
    }
}

impl Done {
    /// Nobody listens any more if the caller has gone.
    fn tell(self) {
        match self {
            Self::Registered(reply, registration) => drop(reply.send(Ok(registration))),
            Self::Inserted(reply) => drop(reply.send(Ok(()))),
        }
    }
}

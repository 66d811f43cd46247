//! Registered keys are looked up together: what has been asked while one query ran goes into the next one. Each query
//! is a message to the connection's thread and back, which costs more than finding its row.

use tokio::sync::{mpsc, oneshot};

use super::readers::Readers;
use crate::store::StoreError;
use crate::store::keys::{KeyHash, KeyRow};

/// Bounds the time that the first of a batch waits for the others.
const BATCH: usize = 64;

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::store) struct Lookups {
    questions: mpsc::Sender<Question>,
}

struct Question {
    hash: KeyHash,
    reply: oneshot::Sender<Result<Vec<KeyRow>, StoreError>>,
}

impl Lookups {
    pub(super) fn start(readers: Readers, queue_limit: usize) -> Self {
        let (questions, queue) = mpsc::channel(queue_limit);
        tokio::spawn(run(readers, queue));
        Self { questions }
    }

    /// The keys with this digest, of which there is at most one.
    pub(in crate::store) async fn keys(&self, hash: &KeyHash) -> Result<Vec<KeyRow>, StoreError> {
        let (reply, answer) = oneshot::channel();
        let question = Question { hash: hash.clone(), reply };
        self.questions.try_send(question).map_err(|_| StoreError::Busy)?;
        answer.await.unwrap_or(Err(StoreError::Batch))
    }
}

/// Answers until every [`Lookups`] is gone.
async fn run(readers: Readers, mut queue: mpsc::Receiver<Question>) {
    let mut batch = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        // Those whose requests have come already shall go into the same query.
        tokio::task::yield_now().await;
        while batch.len() < BATCH
            && let Ok(question) = queue.try_recv()
        {
            batch.push(question);
        }
        // Nobody waits for the answer to these any more.
        batch.retain(|question| !question.reply.is_closed());
        if batch.is_empty() {
            continue;
        }
        match look_up(&readers, &batch).await {
            Ok(rows) => batch.drain(..).for_each(|question| question.answer(&rows)),
            // A row that can't be read is no fault of those who ask for others.
            Err(sqlx::Error::ColumnDecode { .. }) if batch.len() > 1 => {
                for question in batch.drain(..) {
                    match look_up(&readers, std::slice::from_ref(&question)).await {
                        Ok(rows) => question.answer(&rows),
                        Err(error) => question.refuse(error.into()),
                    }
                }
            }
            // The first one's answer tells of the fault; the others' that they shared it.
            Err(error) => {
                let mut error = Some(error);
                for question in batch.drain(..) {
                    question.refuse(error.take().map_or(StoreError::Batch, StoreError::Database));
                }
            }
        }
    }
}

impl Question {
    /// Takes its row out of those that were found. Nobody listens any more if the client has gone.
    fn answer(self, rows: &[KeyRow]) {
        let found = rows.iter().filter(|row| row.has(&self.hash)).cloned().collect();
        let _ = self.reply.send(Ok(found));
    }

    fn refuse(self, error: StoreError) {
        let _ = self.reply.send(Err(error));
    }
}

async fn look_up(readers: &Readers, batch: &[Question]) -> Result<Vec<KeyRow>, sqlx::Error> {
    let hashes: Vec<_> = batch.iter().map(|question| &question.hash).collect();
    let mut connection = readers.lend().await?;
    KeyRow::find_all(&hashes, &mut connection).await
}

//! Changes to the database: each one is a value that can be applied in a transaction, alone or together
//! with others, and again if the database asks for that.

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use super::StoreError;
use super::connection::Connection;
use super::sqlite::Work;

/// A change. Its effect is durable before [`super::Store::write`] returns.
pub(super) trait Change: Send + Sync + 'static {
    /// What it tells.
    type Output: Send + 'static;

    /// Applies it within the transaction that `connection` is in.
    fn apply(
        &self,
        connection: &mut Connection<'_>,
    ) -> impl Future<Output = Result<Self::Output, sqlx::Error>> + Send;

    /// How it waits for the writer of SQLite.
    fn queued(pending: Pending<Self>) -> Work
    where
        Self: Sized,
    {
        Work::Change(Box::new(pending))
    }
}

/// A change that waits for the writer of SQLite, whatever it tells.
pub(super) trait Job: Send {
    /// Whether nobody waits for it any more.
    fn is_abandoned(&self) -> bool;

    /// Applies the change and keeps what it tells.
    fn apply<'a>(
        &'a mut self,
        connection: &'a mut Connection<'_>,
    ) -> BoxFuture<'a, Result<(), sqlx::Error>>;

    /// Answers whoever waits, now that the change is durable.
    fn tell(self: Box<Self>);
}

/// A change with whom to tell.
pub(super) struct Pending<C: Change> {
    change: C,
    output: Option<C::Output>,
    reply: oneshot::Sender<Result<C::Output, StoreError>>,
}

impl<C: Change> Pending<C> {
    pub(super) fn new(change: C, reply: oneshot::Sender<Result<C::Output, StoreError>>) -> Self {
        Self { change, output: None, reply }
    }

    pub(super) fn change(&self) -> &C {
        &self.change
    }

    /// Keeps what the change tells, which was applied by other means.
    pub(super) fn applied(&mut self, output: C::Output) {
        self.output = Some(output);
    }
}

impl<C: Change> Job for Pending<C> {
    fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    fn apply<'a>(
        &'a mut self,
        connection: &'a mut Connection<'_>,
    ) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        Box::pin(async move {
            let output = self.change.apply(connection).await?;
            self.applied(output);
            Ok(())
        })
    }

    fn tell(self: Box<Self>) {
        if let Some(output) = self.output {
            // Nobody listens any more if the caller has gone.
            let _ = self.reply.send(Ok(output));
        }
    }
}

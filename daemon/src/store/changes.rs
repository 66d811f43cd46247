//! What other daemons on the same PostgreSQL change, as soon as they have.

use sqlx::PgPool;
use sqlx::postgres::PgListener;

use super::signing_keys::CHANNEL;
use super::{Engine, Store};

/// Tells of changes by other daemons, and by this one.
pub(crate) struct Changes {
    pool: PgPool,
    listener: Option<PgListener>,
}

impl Store {
    /// `None` where nobody else can change anything.
    pub(crate) fn changes(&self) -> Option<Changes> {
        match &self.engine {
            Engine::Sqlite(_) => None,
            Engine::Postgres(engine) => Some(Changes { pool: engine.pool.clone(), listener: None }),
        }
    }
}

impl Changes {
    /// Waits until something may have changed. After trouble with the connection that is so too: a message
    /// may have been missed.
    ///
    /// # Errors
    /// While the server is away; try again later.
    pub(crate) async fn next(&mut self) -> Result<(), sqlx::Error> {
        if let Some(listener) = &mut self.listener {
            match listener.try_recv().await {
                Ok(Some(_)) => return Ok(()),
                Ok(None) | Err(_) => self.listener = None,
            }
        }
        let mut listener = PgListener::connect_with(&self.pool).await?;
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await?;
        self.listener = Some(listener);
        Ok(())
    }
}

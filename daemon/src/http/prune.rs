//! `POST /prune_keys`: deletes registered keys that nobody uses any more, for administrators.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use tracing::info;

use super::answer::{ApiError, answer};
use super::{App, Peer, body};
use crate::store::{Pruned, Stale};

/// So many keys in one transaction: whoever waits for the writer waits for no more.
const BATCH: i64 = 200;

/// The answer.
#[derive(Serialize)]
struct Deleted {
    /// How many keys were deleted, or would be.
    keys: usize,
    /// What the next request comes `after`; `null` when nothing is left to do.
    next: Option<i64>,
}

/// With `{"older_than": SECONDS, "revoked": bool, "shared": bool, "dry_run": bool, "after": ROW}`.
pub(super) async fn prune_keys(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let mut fields = body::read(&app, request).await?;
    let stale = {
        let (older_than, after) = (fields.number("older_than"), fields.number("after"));
        let (revoked, shared) = (fields.optional_flag("revoked"), fields.optional_flag("shared"));
        let dry_run = fields.optional_flag("dry_run");
        let given = older_than.zip(after).zip(revoked.zip(shared)).zip(dry_run);
        let now = app.clock.now();
        fields.finish(given.map(|(((older_than, after), (revoked, shared)), dry_run)| {
            let before = now.checked_sub(Duration::from_secs(older_than.unsigned_abs()));
            Stale {
                // No key is as old as that.
                before: before.map_or(UNIX_EPOCH, |before| before.max(UNIX_EPOCH)),
                now,
                revoked,
                keep_refreshing: !app.settings.refresh_requires_live_key,
                shared,
                after,
                limit: BATCH,
                dry_run,
            }
        }))?
    };
    let dry_run = stale.dry_run;
    let pruned = app.store.prune_keys(stale).await.map_err(|error| app.unavailable(&error))?;
    let Pruned::Keys { keys, next } = pruned else {
        return Err(ApiError::Conflict(
            "a JWThenticator uses this database, and deletes nothing; jwtunnel keys prune --shared \
             deletes there too, jwtunnel db harden makes the database ours"
                .into(),
        ));
    };
    for key in keys.iter().filter(|_| !dry_run) {
        info!(
            event = "prune_key",
            outcome = "ok",
            ip = %peer,
            ident = %key.identifier,
            key_fp = key.fingerprint,
            reason = if key.revoked { "revoked" } else { "expired" }
        );
    }
    Ok(answer(StatusCode::OK, &Deleted { keys: keys.len(), next }))
}

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
use utoipa::ToSchema;

use super::answer::{ApiError, answer};
use super::openapi::{BodyFaults, Conflict, OwnFaults, WebPage};
use super::{App, Peer, body};
use crate::store::{Pruned, Stale};

/// So many keys in one transaction: whoever waits for the writer waits for no more.
const BATCH: i64 = 200;

/// The body of `POST /prune_keys`.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "for the document; the body is read field by field")]
pub(super) struct Pruning {
    /// Only keys that expired, or were revoked, so many seconds ago.
    #[schema(minimum = 0)]
    older_than: i64,
    /// 0 for the first request, then `next` of the one before.
    #[schema(minimum = 0)]
    after: i64,
    /// Also revoked keys, whose names are then free again.
    #[schema(required = false, default = false)]
    revoked: bool,
    /// Also in a database that a JWThenticator uses.
    #[schema(required = false, default = false)]
    shared: bool,
    /// Only count them.
    #[schema(required = false, default = false)]
    dry_run: bool,
}

/// What was deleted.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Deleted {
    /// How many keys were deleted, or would be.
    keys: usize,
    /// What the next request comes `after`; `null` when nothing is left to do.
    #[schema(required)]
    next: Option<i64>,
}

/// Deletes registered keys that nobody uses any more, some hundred in each request.
#[utoipa::path(post, path = "/prune_keys", operation_id = "prune_keys", tag = "internal", request_body = Pruning,
    responses((status = 200, body = Deleted, description = "How many"), BodyFaults, WebPage, Conflict, OwnFaults))]
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
        app.metrics.audit.count(["prune_key", "ok"]);
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

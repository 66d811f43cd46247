//! `POST /rotate_signing_key` with `{"now": bool}` or `{"now": bool, "emergency": true}`, for administrators.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use tokio::time::{Instant, timeout_at};
use tracing::{error, info};
use utoipa::ToSchema;

use super::answer::{ApiError, answer};
use super::openapi::{BodyFaults, Conflict, OwnFaults, WebPage};
use super::{App, Peer, body};
use crate::key_ring::{RingError, When};
use crate::revocation::Target;

/// How long a database that is away keeps the answer of an emergency back, which has to be there in time to say
/// that the rotation holds.
const PATIENCE: Duration = Duration::from_secs(6);

/// The body of `POST /rotate_signing_key`.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "for the document; the body is read field by field")]
pub(super) struct Wish {
    /// Sign with the announced key at once; without one, announce one for ten seconds.
    now: bool,
    /// Sign with a new key at once and drop the present one, whose tokens are refused then.
    #[schema(required = false, default = false)]
    emergency: bool,
}

/// A rotation that is under way.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rotated {
    /// The new key.
    kid: String,
    /// When it signs, in seconds from now.
    #[schema(minimum = 0)]
    signs_in: i64,
    /// The keys that left for it in an emergency. Their tokens are refused.
    dropped: Vec<String>,
    /// Those of them that could not be revoked: tunnels that were opened with their tokens may still be open, until
    /// /revoke_token succeeds with the `kid`.
    tunnels_open: Vec<String>,
}

/// Announces a new signing key, or brings it into use.
#[utoipa::path(post, path = "/rotate_signing_key", tag = "internal", request_body = Wish,
    responses((status = 200, body = Rotated, description = "What was begun"), BodyFaults, WebPage, Conflict, OwnFaults))]
pub(super) async fn rotate_signing_key(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let mut fields = body::read(&app, request).await?;
    let (now, emergency) = {
        let (now, emergency) = (fields.flag("now"), fields.optional_flag("emergency"));
        fields.finish(now.zip(emergency))?
    };
    let when = match (emergency, now) {
        (true, _) => When::Emergency,
        (false, true) => When::Now,
        (false, false) => When::Announced,
    };
    let ring = app.ring.clone();
    let rotation = tokio::task::spawn_blocking(move || ring.rotate(when)).await;
    match rotation {
        Ok(Ok(rotation)) => {
            info!(event = "rotate_signing_key", outcome = "ok", ip = %peer, kid = rotation.kid);
            app.metrics.audit.count(["rotate_signing_key", "ok"]);
            let tunnels_open = end_tunnels(&app, &rotation.dropped).await;
            let signs_in = rotation.signs_at.saturating_sub(app.clock.unix_now()).max(0);
            let (kid, dropped) = (rotation.kid, rotation.dropped);
            Ok(answer(StatusCode::OK, &Rotated { kid, signs_in, dropped, tunnels_open }))
        }
        Ok(Err(error @ (RingError::Pinned | RingError::TooMany(_)))) => {
            app.metrics.audit.count(["rotate_signing_key", "denied"]);
            Err(ApiError::Conflict(error.to_string()))
        }
        Ok(Err(error)) => {
            let reason = error.reason();
            error!(event = "rotate_signing_key", outcome = "error", reason, error = %error);
            Err(app.unavailable(&error))
        }
        Err(error) => Err(app.unavailable(&error)),
    }
}

/// The dropped keys' tokens are refused without the keys already. This ends the tunnels that they opened, also those
/// of other daemons. The rotation holds whether or not it succeeds: an error would have it done once more. So the
/// answer names the keys whose tunnels may be open.
async fn end_tunnels(app: &App, dropped: &[String]) -> Vec<String> {
    let until = app.ring.last_token_ends(app.clock.unix_now());
    let deadline = Instant::now() + PATIENCE;
    let mut open = Vec::new();
    for kid in dropped {
        let target = Target::Kid(kid.clone());
        let revoked = timeout_at(deadline, app.revocations.revoke(&target, until)).await;
        app.close_revoked();
        let fault = match &revoked {
            Ok(Ok(())) => None,
            Ok(Err(fault)) => Some(fault as &dyn Display),
            Err(late) => Some(late as &dyn Display),
        };
        if let Some(fault) = fault {
            let remedy = format!("jwtunnel token revoke --kid {kid}");
            error!(event = "rotate_signing_key", outcome = "tunnels_open", kid, error = %fault, remedy);
            open.push(kid.clone());
        }
    }
    open
}

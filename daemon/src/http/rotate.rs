//! `POST /rotate_signing_key` with `{"now": bool}` or `{"now": bool, "emergency": true}`, for administrators.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use tracing::{error, info};
use utoipa::ToSchema;

use super::answer::{ApiError, answer};
use super::openapi::{BodyFaults, Conflict, OwnFaults, WebPage};
use super::{App, Peer, body};
use crate::key_ring::{RingError, When};
use crate::revocation::Target;

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
    /// The keys that left for it in an emergency.
    dropped: Vec<String>,
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
            end_tunnels(&app, &rotation.dropped).await?;
            let signs_in = rotation.signs_at.saturating_sub(app.clock.unix_now()).max(0);
            let body = Rotated { kid: rotation.kid, signs_in, dropped: rotation.dropped };
            Ok(answer(StatusCode::OK, &body))
        }
        Ok(Err(error @ (RingError::Pinned | RingError::TooMany(_)))) => {
            app.metrics.audit.count(["rotate_signing_key", "denied"]);
            Err(ApiError::Conflict(error.to_string()))
        }
        Ok(Err(error)) => Err(app.unavailable(&error)),
        Err(error) => Err(app.unavailable(&error)),
    }
}

/// The dropped keys' tokens are refused without the keys already. This ends the tunnels that they opened, also those
/// of other daemons. The rotation holds whether or not it succeeds, so a failure names what is left to do.
async fn end_tunnels(app: &App, dropped: &[String]) -> Result<(), ApiError> {
    let until = app.ring.last_token_ends(app.clock.unix_now());
    let mut ended = Ok(());
    for kid in dropped {
        let revoked = app.revocations.revoke(&Target::Kid(kid.clone()), until).await;
        app.close_revoked();
        if let Err(fault) = revoked {
            let remedy = format!("jwtunnel token revoke --kid {kid}");
            error!(event = "rotate_signing_key", outcome = "tunnels_open", kid, error = %fault, remedy);
            ended = Err(app.unavailable(&fault));
        }
    }
    ended
}

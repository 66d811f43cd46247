//! `POST /refresh`: a refresh token becomes a new access token. The refresh token stays as it is.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;
use tracing::info;

use super::answer::{ApiError, answer};
use super::{App, Peer, body};
use crate::store::RefreshToken;

pub(super) async fn refresh(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let mut fields = body::read(&app, request).await?;
    let (token, asserted) = {
        let (token, identifier) = (fields.secret("refresh_token"), fields.uuid("identifier"));
        fields.finish(token.zip(identifier))?
    };
    let presented = RefreshToken::of(token.expose());
    drop(token);
    let now = app.clock.now();
    let found = app.store.find_refresh_token(&presented).await;
    let found = found.map_err(|error| app.unavailable(&error))?;
    let reason = match &found {
        None => Some("unknown"),
        Some(token) if token.key.revoked => Some("revoked"),
        Some(token) if token.expires_at <= now => Some("expired"),
        Some(token) if app.settings.refresh_requires_live_key && token.key.expires_at <= now => {
            Some("key_expired")
        }
        Some(_) => None,
    };
    let key_fp = found.as_ref().map(|token| token.key.hash.fingerprint().to_owned());
    let Some(token) = found.filter(|_| reason.is_none()) else {
        info!(
            event = "refresh",
            outcome = "denied",
            reason,
            ip = %peer,
            ident = %asserted,
            key_fp
        );
        return Err(ApiError::Refused);
    };
    let identifier = app.identifier(&token.key, asserted);
    if !asserted.is_nil() && asserted != identifier {
        info!(event = "ident_mismatch", asserted = %asserted, ident = %identifier);
    }
    let jwt = app.issuer.issue(identifier, token.key.public_id).await;
    let jwt = jwt.map_err(|error| app.unavailable(&error))?;
    info!(event = "refresh", outcome = "ok", ip = %peer, ident = %identifier, key_fp);
    Ok(answer(StatusCode::OK, &json!({"jwt": jwt, "refresh_token": null})))
}

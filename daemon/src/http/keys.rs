//! `POST /register_key` and `POST /is_key_registered`, for administrators.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::Response;
use tracing::info;

use super::answer::{ApiError, Done, done};
use super::{App, Peer, body};
use crate::store::KeyHash;

/// Shorter keys can be guessed: 22 characters of base64 are 128 bits.
const WEAK_KEY: usize = 22;

pub(super) async fn register_key(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    refuse_browsers(&request)?;
    let mut fields = body::read(&app, request).await?;
    let ((key, identifier), rotates) = {
        let (key, identifier) = (fields.secret("key"), fields.uuid("identifier"));
        let rotates = fields.optional_flag("rotate");
        fields.finish(key.zip(identifier).zip(rotates))?
    };
    let hash = KeyHash::of(key.expose());
    let is_weak = key.expose().chars().count() < WEAK_KEY;
    drop(key);
    let now = app.clock.now();
    let registration = app
        .store
        .hurried()
        .register_key(&hash, identifier, rotates, now, now + app.settings.key_lifetime)
        .await
        .map_err(|error| app.unavailable(&error))?;
    if registration.revoked {
        let key_fp = hash.fingerprint();
        info!(event = "register_key", outcome = "denied", reason = "revoked", ip = %peer, key_fp);
        let text = "the key has been revoked, which is for good; register another one";
        return Err(ApiError::Conflict(text.into()));
    }
    info!(
        event = "register_key",
        outcome = "ok",
        ip = %peer,
        ident = %registration.identifier,
        key_fp = hash.fingerprint()
    );
    if registration.identifier != identifier {
        info!(event = "ident_mismatch", asserted = %identifier, ident = %registration.identifier);
    }
    if is_weak {
        tracing::warn!(event = "weak_key", key_fp = hash.fingerprint());
    }
    Ok(done(StatusCode::CREATED, true))
}

pub(super) async fn is_key_registered(
    State(app): State<Arc<App>>,
    request: Request<Body>,
) -> Result<Done, ApiError> {
    refuse_browsers(&request)?;
    let mut fields = body::read(&app, request).await?;
    let key = {
        let key = fields.secret("key");
        fields.finish(key)?
    };
    let found = app.store.hurried().find_key(&KeyHash::of(key.expose())).await;
    // An expired key is registered, as in the original.
    Ok(Done(found.map_err(|error| app.unavailable(&error))?.is_some()))
}

/// Nobody is authenticated on the internal listener, so a web page must not be able to use it through
/// its visitor's browser; a browser names the page in `Origin`, and programs send none.
pub(super) fn refuse_browsers(request: &Request<Body>) -> Result<(), ApiError> {
    if request.headers().contains_key(header::ORIGIN) {
        return Err(ApiError::Forbidden);
    }
    Ok(())
}

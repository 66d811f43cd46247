//! `POST /register_key`, `POST /is_key_registered` and `POST /list_keys`, for administrators.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use serde_json::json;
use tracing::info;

use super::answer::{ApiError, Done, answer, done};
use super::{App, Peer, body};
use crate::store::{KeyHash, KeyPage, StoredKey};

/// Shorter keys can be guessed: 22 characters of base64 are 128 bits.
const WEAK_KEY: usize = 22;

pub(super) fn is_weak(key: &str) -> bool {
    key.chars().count() < WEAK_KEY
}

pub(super) async fn register_key(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let mut fields = body::read(&app, request).await?;
    let ((key, identifier), rotates) = {
        let (key, identifier) = (fields.secret("key"), fields.uuid("identifier"));
        let rotates = fields.optional_flag("rotate");
        fields.finish(key.zip(identifier).zip(rotates))?
    };
    let hash = KeyHash::of(key.expose());
    let is_weak = is_weak(key.expose());
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
    let mut fields = body::read(&app, request).await?;
    let key = {
        let key = fields.secret("key");
        fields.finish(key)?
    };
    let found = app.store.hurried().find_key(&KeyHash::of(key.expose())).await;
    // An expired key is registered, as in the original.
    Ok(Done(found.map_err(|error| app.unavailable(&error))?.is_some()))
}

/// `POST /list_keys` with `after` (0 for the first page) and, for one client's keys, `identifier`.
pub(super) async fn list_keys(
    State(app): State<Arc<App>>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    const LIMIT: i64 = 500;
    let mut fields = body::read(&app, request).await?;
    let page = {
        let after = fields.number("after");
        let identifier = fields.has("identifier").then(|| fields.uuid("identifier"));
        let identifier = identifier.map_or(Some(None), |given| given.map(Some));
        let page = after.zip(identifier);
        fields.finish(page.map(|(after, identifier)| KeyPage {
            after,
            limit: LIMIT,
            identifier,
        }))?
    };
    let found = app.store.hurried().list_keys(&page).await;
    let found = found.map_err(|error| app.unavailable(&error))?;
    let now = app.clock.now();
    let keys: Vec<_> = found
        .iter()
        .map(|key| {
            let expires_at = key.expires_at.duration_since(UNIX_EPOCH);
            json!({
                "key_id": key.public_id,
                "identifier": key.identifier,
                "fingerprint": key.hash.fingerprint(),
                "expires_at": expires_at.map_or(0, |time| time.as_secs()),
                "rotates": key.rotates,
                "asserted": key.asserted,
                "state": KeyState::of(key, now),
            })
        })
        .collect();
    let is_full = i64::try_from(found.len()).is_ok_and(|count| count == LIMIT);
    let next = found.last().filter(|_| is_full).map(|key| key.id);
    Ok(answer(StatusCode::OK, &json!({"keys": keys, "next": next})))
}

/// Whether a client gets tokens for a key.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum KeyState {
    Valid,
    Expired,
    Revoked,
}

impl KeyState {
    pub(super) fn of(key: &StoredKey, now: SystemTime) -> Self {
        match key {
            StoredKey { revoked: true, .. } => Self::Revoked,
            key if key.expires_at <= now => Self::Expired,
            _ => Self::Valid,
        }
    }
}

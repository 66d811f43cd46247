//! `POST /register_key`, `POST /is_key_registered` and `POST /list_keys`, for administrators.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use tracing::info;
use utoipa::ToSchema;
use uuid::Uuid;

use super::answer::{ApiError, Done, Outcome, answer, done};
use super::openapi::{BodyFaults, Conflict, OwnFaults, WebPage};
use super::{App, Peer, body};
use crate::store::{KeyHash, KeyPage, StoredKey};

/// Shorter keys can be guessed: 22 characters of base64 are 128 bits.
const WEAK_KEY: usize = 22;

pub(super) fn is_weak(key: &str) -> bool {
    key.chars().count() < WEAK_KEY
}

/// The body of `POST /register_key`.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "for the document; the body is read field by field")]
pub(super) struct NewKey {
    /// The key. Only its digest is stored.
    #[schema(format = Password)]
    key: String,
    /// The client that it stands for. Of a key that is registered already it stays as it is.
    identifier: Uuid,
    /// Whether each refresh token is used once and replaced by the next.
    #[schema(required = false, default = false)]
    rotate: bool,
}

/// Registers a key, or extends the life of a registered one.
#[utoipa::path(post, path = "/register_key", tag = "internal", request_body = NewKey,
    responses((status = 201, body = Outcome, description = "It is registered"), BodyFaults, WebPage, Conflict, OwnFaults))]
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
        app.metrics.audit.count(["register_key", "denied"]);
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
    app.metrics.audit.count(["register_key", "ok"]);
    if registration.identifier != identifier {
        info!(event = "ident_mismatch", asserted = %identifier, ident = %registration.identifier);
        app.metrics.audit.count(["ident_mismatch", "ok"]);
    }
    if is_weak {
        tracing::warn!(event = "weak_key", key_fp = hash.fingerprint());
        app.metrics.audit.count(["weak_key", "ok"]);
    }
    Ok(done(StatusCode::CREATED, true))
}

/// The body of `POST /is_key_registered`.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "for the document; the body is read field by field")]
pub(super) struct AskedKey {
    #[schema(format = Password)]
    key: String,
}

/// Tells whether a key is registered, be it expired.
#[utoipa::path(post, path = "/is_key_registered", tag = "internal", request_body = AskedKey,
    responses((status = 200, body = Outcome, description = "`result` tells"), BodyFaults, WebPage, OwnFaults))]
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

/// The body of `POST /list_keys`.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "for the document; the body is read field by field")]
pub(super) struct Page {
    /// 0 for the first page, then `next` of the page before.
    #[schema(minimum = 0)]
    after: i64,
    /// Only the keys of this client.
    #[schema(nullable = false)]
    identifier: Option<Uuid>,
}

/// A page of the registered keys.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyList<'k> {
    keys: Vec<ListedKey<'k>>,
    /// What the next page comes `after`; `null` on the last one.
    #[schema(required)]
    next: Option<i64>,
}

/// A registered key, without the key.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ListedKey<'k> {
    /// The claim `key` of its tokens; `null` for a key that JWThenticator registered.
    #[schema(required)]
    key_id: Option<&'k str>,
    identifier: Uuid,
    /// The beginning of its digest, as in the log.
    fingerprint: &'k str,
    /// Unix seconds.
    expires_at: u64,
    rotates: bool,
    /// Whether its client says for whom a token is.
    asserted: bool,
    state: KeyState,
}

/// Lists the registered keys, a page at a time.
#[utoipa::path(post, path = "/list_keys", tag = "internal", request_body = Page,
    responses((status = 200, body = KeyList, description = "The page"), BodyFaults, WebPage, OwnFaults))]
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
            ListedKey {
                key_id: key.public_id.as_deref(),
                identifier: key.identifier,
                fingerprint: key.hash.fingerprint(),
                expires_at: expires_at.map_or(0, |time| time.as_secs()),
                rotates: key.rotates,
                asserted: key.asserted,
                state: KeyState::of(key, now),
            }
        })
        .collect();
    let is_full = i64::try_from(found.len()).is_ok_and(|count| count == LIMIT);
    let next = found.last().filter(|_| is_full).map(|key| key.id);
    Ok(answer(StatusCode::OK, &KeyList { keys, next }))
}

/// Whether a client gets tokens for a key.
#[derive(Serialize, ToSchema)]
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

//! `POST /show_key`: all that can be told about a key, for administrators. Never the key.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::answer::{ApiError, answer};
use super::keys::KeyState;
use super::openapi::{BodyFaults, Name, OwnFaults, WebPage};
use super::{App, body};
use crate::key_ring::KeyOverview;
use crate::store::{KeyDetails, KeyHash, KeyName, RevocationRow};

/// A client has one key, or a few while it is given another one.
const MOST: i64 = 100;

/// The body of `POST /show_key`: one of the two, or neither for the signing keys.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(max_properties = 1)]
#[expect(dead_code, reason = "for the document; the body is read field by field")]
pub(super) struct WhichKey {
    /// A kid, a key id or an identifier.
    #[schema(value_type = Option<Name>, nullable = false)]
    name: Option<String>,
    /// The registered key itself.
    #[schema(format = Password, nullable = false)]
    key: Option<String>,
}

/// What is known.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Shown {
    /// The signing keys.
    signing_keys: Vec<KeyOverview>,
    /// The registered keys.
    keys: Vec<ShownKey>,
    /// Whether there are more of those.
    more: bool,
    /// The tokens that are refused because of what was revoked.
    refused: Vec<Refused>,
}

/// A registered key. Times are Unix seconds.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ShownKey {
    /// The claim `key` of its tokens; `null` for a key that JWThenticator registered.
    #[schema(required)]
    key_id: Option<String>,
    identifier: Uuid,
    /// The beginning of its digest, as in the log.
    fingerprint: String,
    state: KeyState,
    #[schema(required)]
    created: Option<u64>,
    expires_at: u64,
    #[schema(required)]
    revoked_at: Option<u64>,
    rotates: bool,
    /// Whether its client says for whom a token is.
    asserted: bool,
    /// How many of its refresh tokens get something.
    refresh_tokens: i64,
    /// When the last of them expires.
    #[schema(required)]
    refresh_tokens_expire_at: Option<u64>,
}

/// Tokens that are refused before they expire. Times are Unix seconds.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Refused {
    /// What they are told by: `kid`, `key` or `identifier`.
    by: String,
    value: String,
    /// Only those that were issued before.
    #[schema(required)]
    issued_before: Option<i64>,
    /// When the last of them has expired.
    until: i64,
}

/// Tells all that is known of signing keys and registered keys, but the keys.
#[utoipa::path(post, path = "/show_key", tag = "internal", request_body = WhichKey,
    responses((status = 200, body = Shown, description = "What is known"), BodyFaults, WebPage, OwnFaults))]
pub(super) async fn show_key(
    State(app): State<Arc<App>>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let mut fields = body::read(&app, request).await?;
    let name = {
        let name = if fields.has("key") {
            let key = fields.secret("key");
            key.map(|key| KeyName { hash: Some(KeyHash::of(key.expose())), ..KeyName::default() })
        } else if fields.has("name") {
            fields.text("name").map(|name| KeyName {
                hash: None,
                identifier: body::parse_uuid(&name),
                public_id: Some(name),
            })
        } else {
            Some(KeyName::default())
        };
        fields.finish(name)?
    };
    let now = app.clock.now();
    let store = app.store.hurried();
    let mut found =
        store.key_details(&name, now, MOST + 1).await.map_err(|error| app.unavailable(&error))?;
    let more = found.len() > usize::try_from(MOST).unwrap_or(usize::MAX);
    found.truncate(usize::try_from(MOST).unwrap_or(usize::MAX));
    // Whoever holds the keys may wait for the disk, or the database.
    let ring = app.ring.clone();
    let signing = tokio::task::spawn_blocking(move || ring.overview()).await;
    let mut signing_keys = signing.map_err(|error| app.unavailable(&error))?;
    match (&name.public_id, &name.hash) {
        (Some(kid), _) => signing_keys.retain(|key| key.kid == *kid),
        (None, Some(_)) => signing_keys.clear(),
        (None, None) => {}
    }
    let rows = store.revocations().await.map_err(|error| app.unavailable(&error))?;
    let concerns = |row: &RevocationRow| {
        let is_of = |key: &KeyDetails| match row.kind.as_str() {
            "key" => key.key.public_id.as_ref() == Some(&row.value),
            "identifier" => key.key.identifier.to_string() == row.value,
            _ => false,
        };
        let is_kid = row.kind == "kid" && signing_keys.iter().any(|key| key.kid == row.value);
        // Its key may have gone.
        let is_named = row.kind != "token_id"
            && name.public_id.as_ref().is_some_and(|name| *name == row.value);
        is_kid || is_named || found.iter().any(is_of)
    };
    let refused = rows.into_iter().filter(concerns).map(Refused::of).collect();
    let keys = found.into_iter().map(|details| ShownKey::of(details, now)).collect();
    Ok(answer(StatusCode::OK, &Shown { signing_keys, keys, more, refused }))
}

impl ShownKey {
    fn of(details: KeyDetails, now: SystemTime) -> Self {
        let KeyDetails { key, created, revoked_at, refresh_tokens, last_refresh_expires_at } =
            details;
        Self {
            state: KeyState::of(&key, now),
            fingerprint: key.hash.fingerprint().to_owned(),
            key_id: key.public_id,
            identifier: key.identifier,
            created: created.map(seconds),
            expires_at: seconds(key.expires_at),
            revoked_at: revoked_at.map(seconds),
            rotates: key.rotates,
            asserted: key.asserted,
            refresh_tokens,
            refresh_tokens_expire_at: last_refresh_expires_at.map(seconds),
        }
    }
}

impl Refused {
    fn of(row: RevocationRow) -> Self {
        let RevocationRow { kind, value, before, until } = row;
        Self { by: kind, value, issued_before: before, until }
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

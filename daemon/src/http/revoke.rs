//! `POST /revoke_key` and `POST /revoke_token`, for administrators.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use tracing::info;
use utoipa::ToSchema;
use uuid::Uuid;

use super::answer::{ApiError, answer};
use super::body::Fields;
use super::openapi::{BodyFaults, Conflict, Name, OwnFaults, WebPage};
use super::{App, Peer, body};
use crate::revocation::Target;
use crate::store::{KeyHash, KeySelector};

/// How long, in seconds, what is revoked of another issuer stays so: ten years.
const LONGEST_REMOTE_LIFE: i64 = 10 * 365 * 86_400;

/// Which registered keys: the body of `POST /revoke_key`.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[expect(dead_code, reason = "for the document; the body is read field by field")]
pub(super) enum Keys {
    /// The key itself.
    #[schema(format = Password)]
    Key(String),
    /// The claim `key` of its tokens.
    KeyId(Name),
    /// All keys of a client.
    Identifier(Uuid),
}

/// Which tokens: the body of `POST /revoke_token`. Those of another issuer, which the tunnels accept, are named
/// `ISSUER:VALUE`, by the name of the issuer in the configuration.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[expect(dead_code, reason = "for the document; the body is read field by field")]
pub(super) enum RevokedTokens {
    /// The token itself, be it expired.
    #[schema(format = Password)]
    Jwt(String),
    /// Its claim `token_id`, or `jti`.
    TokenId(Name),
    /// Those issued so far that name this identifier, or `sub`.
    Identifier(Name),
    /// Those that this signing key has signed.
    Kid(Name),
}

/// What was revoked.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Revoked {
    result: bool,
    #[schema(required)]
    message: Option<String>,
    /// How many keys or tokens were named.
    revoked: usize,
}

impl Revoked {
    fn answer(result: bool, revoked: usize) -> Response {
        answer(StatusCode::OK, &Self { result, message: None, revoked })
    }
}

/// Revokes registered keys for good, with the tokens issued for them.
#[utoipa::path(post, path = "/revoke_key", tag = "internal", request_body = Keys,
    responses((status = 200, body = Revoked, description = "`result` is false if there is no such key"), BodyFaults, WebPage, OwnFaults))]
pub(super) async fn revoke_key(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let mut fields = body::read(&app, request).await?;
    let selector = {
        let selector = match fields.only_of(["key", "key_id", "identifier"]) {
            Some("key_id") => fields.text("key_id").map(KeySelector::PublicId),
            Some("identifier") => fields.uuid("identifier").map(KeySelector::Identifier),
            _ => fields.secret("key").map(|key| KeySelector::Hash(KeyHash::of(key.expose()))),
        };
        fields.finish(selector)?
    };
    let by_identifier = matches!(selector, KeySelector::Identifier(_));
    let (now, unix_now) = (app.clock.now(), app.clock.unix_now());
    let until = app.ring.last_token_ends(unix_now);
    let revoked = app.revocations.revoke_keys(selector, now, unix_now, until).await;
    app.close_revoked();
    let revoked = revoked.map_err(|error| app.unavailable(&error))?;
    for key in &revoked {
        info!(
            event = "revoke_key",
            outcome = "ok",
            ip = %peer,
            ident = %key.identifier,
            key_fp = key.fingerprint
        );
        app.metrics.audit.count(["revoke_key", "ok"]);
    }
    // An identifier's tokens are refused whether or not it has keys.
    Ok(Revoked::answer(by_identifier || !revoked.is_empty(), revoked.len()))
}

/// Refuses tokens before they expire.
#[utoipa::path(post, path = "/revoke_token", tag = "internal", request_body = RevokedTokens,
    responses((status = 200, body = Revoked, description = "They are refused"), BodyFaults, WebPage, Conflict, OwnFaults))]
pub(super) async fn revoke_token(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let mut fields = body::read(&app, request).await?;
    let now = app.clock.unix_now();
    let target = {
        let target = match fields.only_of(["token_id", "jwt", "identifier", "kid"]) {
            Some("jwt") => fields.secret("jwt").and_then(|jwt| {
                let id = app.token_id(jwt.expose().as_bytes());
                id.map(Target::TokenId).or_else(|| fields.refuse("jwt", "Not a token of ours."))
            }),
            Some("identifier") => fields.text("identifier").map(|identifier| {
                // Ours are UUIDs, written in one way; those of other issuers are any text.
                let ours = body::parse_uuid(&identifier).map(|uuid| uuid.to_string());
                Target::Identifier(ours.unwrap_or(identifier), now.saturating_add(1))
            }),
            Some("kid") => fields.text("kid").map(Target::Kid),
            _ => fields.text("token_id").map(Target::TokenId),
        };
        fields.finish(target.and_then(Target::checked))?
    };
    if matches!(&target, Target::Kid(kid) if kid == app.ring.signing().kid()) {
        return Err(ApiError::Conflict(
            "this key signs every new token; replace it with: jwtunnel keys rotate --emergency"
                .into(),
        ));
    }
    let until = match target.is_of_any(&app.remote_callers) {
        // How long another issuer's tokens live is not ours to know.
        true => now.saturating_add(LONGEST_REMOTE_LIFE),
        false => app.ring.last_token_ends(now),
    };
    let revoked = app.revocations.revoke(&target, until).await;
    // Whether or not the file could be written: it holds here.
    app.close_revoked();
    revoked.map_err(|error| app.unavailable(&error))?;
    info!(event = "revoke_token", outcome = "ok", ip = %peer, kind = target.kind());
    app.metrics.audit.count(["revoke_token", "ok"]);
    Ok(Revoked::answer(true, 1))
}

impl Fields {
    /// The one of `names` that is given; more than one is an error for the second.
    fn only_of<const N: usize>(&mut self, names: [&'static str; N]) -> Option<&'static str> {
        let mut given = names.into_iter().filter(|name| self.has(name));
        let (first, second) = (given.next(), given.next());
        if let Some(second) = second {
            self.refuse::<()>(second, "Only one of the selectors may be given.");
        }
        first
    }
}

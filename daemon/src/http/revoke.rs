//! `POST /revoke_key` and `POST /revoke_token`, for administrators.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;
use tracing::info;

use super::answer::{ApiError, answer};
use super::body::Fields;
use super::{App, Peer, body};
use crate::revocation::Target;
use crate::store::{KeyHash, KeySelector};

/// How long, in seconds, what is revoked of another issuer stays so: ten years.
const LONGEST_REMOTE_LIFE: i64 = 10 * 365 * 86_400;

/// With one of `key`, `key_id` (the claim `key` of its tokens) and `identifier`.
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
    }
    // An identifier's tokens are refused whether or not it has keys.
    let body = json!({
        "result": by_identifier || !revoked.is_empty(),
        "message": null,
        "revoked": revoked.len(),
    });
    Ok(answer(StatusCode::OK, &body))
}

/// With one of `jwt`, `token_id`, `identifier` (its tokens issued so far) and `kid`; those of another issuer, whose
/// tokens the tunnels accept, are written `NAME:VALUE`.
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
    let body = json!({"result": true, "message": null, "revoked": 1});
    Ok(answer(StatusCode::OK, &body))
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

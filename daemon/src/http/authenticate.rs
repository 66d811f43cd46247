//! `POST /authenticate`: a registered key becomes an access token and a refresh token.

use std::sync::Arc;

use aws_lc_rs::rand;
use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use tracing::info;
use utoipa::ToSchema;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::answer::{ApiError, answer};
use super::openapi::{BodyFaults, Limited, NotCredentials, OwnFaults};
use super::{App, Peer, body};
use crate::issuer::Grant;
use crate::store::{KeyHash, RefreshToken, StoredKey};

/// The body of `POST /authenticate`.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "for the document; the body is read field by field")]
pub(super) struct KeyLogin {
    /// The registered key.
    #[schema(format = Password)]
    key: String,
    /// Whom the token shall name. Under `identity = "registered"` it names the key's identifier all the same.
    identifier: Uuid,
}

/// An access token, and what renews it.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Tokens<'t> {
    /// The access token.
    jwt: &'t str,
    /// `null` from `/refresh` when the old one stays good.
    #[schema(required, pattern = "^[0-9a-f]{128}$")]
    refresh_token: Option<&'t str>,
}

impl<'t> Tokens<'t> {
    pub(super) fn answer(jwt: &'t str, refresh_token: Option<&'t str>) -> Response {
        answer(StatusCode::OK, &Self { jwt, refresh_token })
    }
}

/// Exchanges a registered key for an access token and a refresh token.
#[utoipa::path(post, path = "/authenticate", tag = "public", request_body = KeyLogin,
    responses((status = 200, body = Tokens, description = "The tokens"), BodyFaults, NotCredentials, Limited, OwnFaults))]
pub(super) async fn authenticate(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let mut fields = body::read(&app, request).await?;
    let (key, asserted) = {
        let (key, identifier) = (fields.secret("key"), fields.uuid("identifier"));
        fields.finish(key.zip(identifier))?
    };
    let hash = KeyHash::of(key.expose());
    drop(key);
    let coming = app.store.announce_refresh_token();
    let key = app.live_key(&hash, asserted, peer).await?;
    let now = app.clock.now();
    let identifier = app.identifier(&key, asserted);
    if !asserted.is_nil() && asserted != identifier {
        info!(event = "ident_mismatch", asserted = %asserted, ident = %identifier);
        app.metrics.audit.count(["ident_mismatch", "ok"]);
    }
    let token_id = Uuid::new_v4();
    let grant = Grant { token_id, identifier, key: key.public_id.clone(), short: key.rotates };
    let jwt = app.issuer.issue(grant).await;
    let jwt = jwt.map_err(|error| app.unavailable(&error))?;
    let refresh_token = new_refresh_token().map_err(|error| app.unavailable(&error))?;
    let expires_at = now + app.settings.refresh_lifetime;
    drop(coming);
    app.store
        .insert_refresh_token(&RefreshToken::of(&refresh_token), &key, token_id, now, expires_at)
        .await
        .map_err(|error| app.unavailable(&error))?;
    info!(
        event = "authenticate",
        outcome = "ok",
        ip = %peer,
        ident = %identifier,
        key_fp = hash.fingerprint()
    );
    Ok(Tokens::answer(&jwt, Some(&refresh_token)))
}

impl App {
    /// The registered key with this digest, if it can be used now. `asserted` is for the log.
    pub(super) async fn live_key(
        &self,
        hash: &KeyHash,
        asserted: Uuid,
        peer: Peer,
    ) -> Result<StoredKey, ApiError> {
        // Before the database is asked, so that guessing costs us nothing, and a lucky guess comes too late.
        if let Some(wait) = self.limits.wait(peer, hash) {
            let key_fp = hash.fingerprint();
            info!(event = "authenticate", outcome = "denied", reason = "limited", ip = %peer, key_fp);
            self.metrics.limited.count(["refused"]);
            self.metrics.authentications.count(["limited"]);
            return Err(ApiError::TooMany(wait));
        }
        let now = self.clock.now();
        let found = self.store.find_key(hash).await.map_err(|error| {
            self.metrics.authentications.count(["error"]);
            self.unavailable(&error)
        })?;
        // Unknown and expired are one answer after the same work; only the log tells them apart.
        let reason = match &found {
            None => Some("unknown"),
            Some(key) if key.revoked => Some("revoked"),
            Some(key) if key.expires_at <= now => Some("expired"),
            Some(_) => None,
        };
        self.metrics.authentications.count([reason.unwrap_or("ok")]);
        let Some(key) = found.filter(|_| reason.is_none()) else {
            info!(
                event = "authenticate",
                outcome = "denied",
                reason,
                ip = %peer,
                ident = %asserted,
                key_fp = hash.fingerprint()
            );
            self.limits.failed(peer, Some(hash));
            return Err(ApiError::Refused);
        };
        Ok(key)
    }
}

/// 512 random bits in the original's form, 128 lower-case hex digits.
pub(super) fn new_refresh_token() -> Result<Zeroizing<String>, aws_lc_rs::error::Unspecified> {
    let mut bytes = Zeroizing::new([0; 64]);
    rand::fill(bytes.as_mut())?;
    Ok(Zeroizing::new(crate::store::hex(bytes.as_ref())))
}

#[cfg(test)]
mod tests {
    #[test]
    fn t17_refresh_tokens_are_128_lower_case_hex_digits() {
        let (one, two) = (super::new_refresh_token().unwrap(), super::new_refresh_token().unwrap());
        assert_eq!(one.len(), 128);
        assert!(one.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
        assert_ne!(*one, *two);
    }
}

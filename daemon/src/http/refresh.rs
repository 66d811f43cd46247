//! `POST /refresh`: a refresh token becomes a new access token. The refresh token stays as it is, unless it
//! was issued for a key that rotates them: then it is used up, and the answer has the next one.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use tracing::{info, warn};
use utoipa::ToSchema;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::answer::ApiError;
use super::authenticate::{Tokens, new_refresh_token};
use super::openapi::{BodyFaults, NotCredentials, OwnFaults};
use super::{App, Peer, body};
use crate::issuer::Grant;
use crate::store::{RefreshToken, Use, Used};

/// The body of `POST /refresh`.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "for the document; the body is read field by field")]
pub(super) struct RefreshLogin {
    #[schema(format = Password)]
    refresh_token: String,
    /// Whom the token shall name. Under `identity = "registered"` it names the key's identifier all the same.
    identifier: Uuid,
}

/// Exchanges a refresh token for an access token, and for the next refresh token if its key rotates them.
#[utoipa::path(post, path = "/refresh", tag = "public", request_body = RefreshLogin,
    responses((status = 200, body = Tokens, description = "The tokens"), BodyFaults, NotCredentials, OwnFaults))]
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
    let done = app.refresh(presented, asserted, None, peer).await?;
    let successor = done.successor.as_ref().map(|token| token.as_str());
    Ok(Tokens::answer(&done.jwt, successor))
}

/// What a refresh token has become.
pub(super) struct Refreshed {
    pub(super) jwt: String,
    pub(super) lifetime: Duration,
    /// The next refresh token, if the old one is used up.
    pub(super) successor: Option<Zeroizing<String>>,
}

impl App {
    /// Exchanges a refresh token. With `client`, the row of a key, it must have been issued for that one.
    pub(super) async fn refresh(
        &self,
        presented: RefreshToken,
        asserted: Uuid,
        client: Option<i64>,
        peer: Peer,
    ) -> Result<Refreshed, ApiError> {
        let refreshed = self.exchange(presented, asserted, client, peer).await;
        let outcome = match &refreshed {
            Ok(done) if done.successor.is_some() => Some("rotated"),
            Ok(_) => Some("sticky"),
            // Counted where the reason is known.
            Err(ApiError::Refused) => None,
            Err(_) => Some("error"),
        };
        if let Some(outcome) = outcome {
            self.metrics.refreshes.count([outcome]);
        }
        refreshed
    }

    async fn exchange(
        &self,
        presented: RefreshToken,
        asserted: Uuid,
        client: Option<i64>,
        peer: Peer,
    ) -> Result<Refreshed, ApiError> {
        if let Some(delay) = self.limits.delay(peer) {
            self.metrics.limited.count(["delayed"]);
            tokio::time::sleep(delay).await;
        }
        let now = self.clock.now();
        let found = self.store.find_refresh_token(&presented).await;
        let found = found.map_err(|error| self.unavailable(&error))?;
        let reason = match &found {
            None => Some("unknown"),
            Some(token) if client.is_some_and(|client| client != token.key.id) => Some("foreign"),
            Some(token) if token.key.revoked => Some("revoked"),
            Some(token) if token.revoked => Some("used_up"),
            Some(token) if token.expires_at <= now => Some("expired"),
            Some(token)
                if self.settings.refresh_requires_live_key && token.key.expires_at <= now =>
            {
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
            self.metrics.refreshes.count([reason.unwrap_or("unknown")]);
            // Whoever has an old token has had a good one; whoever has none guesses.
            if reason == Some("unknown") {
                self.limits.failed(peer, None);
            }
            return Err(ApiError::Refused);
        };
        let identifier = self.identifier(&token.key, asserted);
        if !asserted.is_nil() && asserted != identifier {
            info!(event = "ident_mismatch", asserted = %asserted, ident = %identifier);
            self.metrics.audit.count(["ident_mismatch", "ok"]);
        }
        let rotates = token.key.rotates;
        let token_id = Uuid::new_v4();
        let grant = Grant { token_id, identifier, key: token.key.public_id, short: rotates };
        let jwt = self.issuer.issue(grant).await;
        let jwt = jwt.map_err(|error| self.unavailable(&error))?;
        let successor = match rotates {
            false => None,
            // Signed before it is known whether it may be given out: what comes of the use is durable, so
            // nothing may fail after it.
            true => Some(self.rotate(presented, token_id, &peer, key_fp.as_deref()).await?),
        };
        info!(event = "refresh", outcome = "ok", ip = %peer, ident = %identifier, key_fp);
        Ok(Refreshed { jwt, lifetime: self.issuer.lifetime(rotates), successor })
    }

    /// Uses up `token`; the successor.
    async fn rotate(
        &self,
        token: RefreshToken,
        access_id: Uuid,
        peer: &Peer,
        key_fp: Option<&str>,
    ) -> Result<Zeroizing<String>, ApiError> {
        let text = new_refresh_token().map_err(|error| self.unavailable(&error))?;
        let (now, unix_now) = (self.clock.now(), self.clock.unix_now());
        let change = Use {
            token,
            successor: RefreshToken::of(&text),
            access_id,
            now,
            oldest: now - self.issuer.lifetime(true) - self.settings.leeway,
            until: self.ring.last_token_ends(unix_now),
        };
        let used = self.store.use_refresh_token(change).await;
        match used.map_err(|error| self.unavailable(&error))? {
            Used::Rotated => return Ok(text),
            Used::Refused => {
                info!(event = "refresh", outcome = "denied", reason = "used_up", ip = %peer, key_fp);
                self.metrics.refreshes.count(["used_up"]);
            }
            Used::Reused => {
                warn!(event = "refresh_reuse", outcome = "denied", ip = %peer, key_fp);
                self.metrics.refreshes.count(["reused"]);
                self.metrics.audit.count(["refresh_reuse", "denied"]);
                // Its access tokens are refused already in the database; who cannot be told now follows
                // within a minute.
                if let Err(error) = self.revocations.reload().await {
                    self.unavailable(&error);
                }
                self.close_revoked();
            }
        }
        Err(ApiError::Refused)
    }
}

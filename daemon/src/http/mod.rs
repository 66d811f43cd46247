//! The issuer's HTTP routes, with the bodies, statuses and messages of JWThenticator.
//!
//! Two sets: the public one, for clients behind nginx, and the internal one, for administrators on
//! loopback or a Unix socket. `serve` runs them on sockets, `body` reads requests, `answer` maps
//! every error to its response.

mod answer;
mod authenticate;
mod body;
mod caller;
mod import;
mod jwks;
mod keys;
pub mod limits;
mod oauth;
mod prune;
mod refresh;
mod revoke;
mod rotate;
pub mod serve;
mod show;
mod validate;

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use uuid::Uuid;

use crate::clock::Clock;
use crate::config::{IdentityMode, Jwthenticator};
use crate::issuer::Issuer;
use crate::key_ring::KeyRing;
use crate::logging::Throttle;
use crate::revocation::RevocationList;
use crate::store::{Store, StoredKey};
use crate::tunnel::Server;

use answer::{ApiError, Done};
use limits::Limits;

/// What the handlers share.
pub struct App {
    /// Section `[jwthenticator]`.
    pub settings: Jwthenticator,
    /// Registered keys and refresh tokens.
    pub store: Store,
    /// Access tokens.
    pub issuer: Issuer,
    /// Published keys.
    pub ring: Arc<KeyRing>,
    /// What is refused before it expires.
    pub revocations: Arc<RevocationList>,
    /// Where the channels of what is revoked are closed.
    pub tunnels: Arc<Server>,
    /// How often clients may fail.
    pub limits: Arc<Limits>,
    /// What time it is.
    pub clock: Clock,
    /// For faults of ours.
    pub faults: Throttle,
}

/// Who is at the other end of the connection; `None` on a Unix socket.
#[derive(Debug, Clone, Copy, Default)]
pub struct Peer(pub Option<IpAddr>);

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(ip) => ip.fmt(f),
            None => f.write_str("unix"),
        }
    }
}

/// Which routes a listener serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routes {
    /// For clients.
    Public,
    /// For administrators.
    Internal,
    /// Both, as the original does.
    Both,
}

/// The routes of one listener.
pub fn router(app: Arc<App>, routes: Routes) -> Router {
    let prefix = app.settings.url_prefix.as_str();
    let path = |name: &str| format!("{prefix}{name}");
    let mut router = Router::new()
        .route(&path("/"), get(health))
        .route(&path("/health"), get(health))
        .route(&path("/jwks"), get(jwks::jwks))
        .route(&path("/.well-known/jwks.json"), get(jwks::jwks));
    if routes != Routes::Internal && app.settings.external_api {
        router = router
            .route(&path("/authenticate"), post(authenticate::authenticate))
            .route(&path("/refresh"), post(refresh::refresh))
            .route(&path("/validate"), post(validate::validate))
            .route(&path("/validate_request"), get(validate::validate_request))
            .route(&path("/oauth2/token"), post(oauth::token))
            .route(&path("/oauth2/introspect"), post(oauth::introspect))
            .route(&path("/oauth2/revoke"), post(oauth::revoke));
        if app.settings.issuer.is_some() {
            let metadata = path("/.well-known/oauth-authorization-server");
            router = router.route(&metadata, get(oauth::metadata));
        }
    }
    if routes != Routes::Public && app.settings.internal_api {
        let internal = Router::new()
            .route(&path("/register_key"), post(keys::register_key))
            .route(&path("/register_keys"), post(import::register_keys))
            .route(&path("/is_key_registered"), post(keys::is_key_registered))
            .route(&path("/list_keys"), post(keys::list_keys))
            .route(&path("/show_key"), post(show::show_key))
            .route(&path("/prune_keys"), post(prune::prune_keys))
            .route(&path("/revoke_key"), post(revoke::revoke_key))
            .route(&path("/revoke_token"), post(revoke::revoke_token))
            .route(&path("/rotate_signing_key"), post(rotate::rotate_signing_key))
            .route_layer(middleware::from_fn(refuse_browsers));
        router = router.merge(internal);
    }
    router
        .fallback(async || ApiError::NotFound)
        .method_not_allowed_fallback(async || ApiError::WrongMethod)
        .layer(middleware::from_fn_with_state(app.clone(), deadline))
        .layer(middleware::from_fn_with_state(app.clone(), caller::identify))
        .with_state(app)
}

/// Nobody is authenticated on the internal listener, so a web page must not be able to use it through
/// its visitor's browser; a browser names the page in `Origin`, and programs send none.
async fn refuse_browsers(request: Request, next: Next) -> Result<Response, ApiError> {
    if request.headers().contains_key(header::ORIGIN) {
        return Err(ApiError::Forbidden);
    }
    Ok(next.run(request).await)
}

/// Bounds how long an answer takes; what waits for the database or a core gives up here.
async fn deadline(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(app.settings.handler_timeout, next.run(request)).await {
        Ok(response) => response,
        Err(_) => app.unavailable(&"the handler took too long").into_response(),
    }
}

/// Static on purpose: it says that the process answers, and is asked for every second by some.
async fn health() -> Done {
    Done(true)
}

impl App {
    /// The identifier that a token for `key` carries when the request asserts `asserted`.
    fn identifier(&self, key: &StoredKey, asserted: Uuid) -> Uuid {
        let may_assert = key.asserted || self.settings.identity == IdentityMode::Asserted;
        if may_assert && !asserted.is_nil() { asserted } else { key.identifier }
    }

    /// Ends what was opened with a token that is refused now.
    fn close_revoked(&self) {
        self.tunnels.close_revoked(&self.revocations.live().load());
    }

    /// Logs a fault of ours and gives the answer for it: try again, your credentials are not refused.
    fn unavailable(&self, fault: &dyn std::fmt::Display) -> ApiError {
        self.faults.run(|suppressed| {
            tracing::error!(event = "unavailable", outcome = "error", error = %fault, suppressed);
        });
        ApiError::Unavailable
    }
}

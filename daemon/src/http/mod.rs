//! The issuer's HTTP routes, with the bodies, statuses and messages of JWThenticator.
//!
//! Two sets: the public one, for clients behind nginx, and the internal one, for administrators on
//! loopback or a Unix socket. `serve` runs them on sockets, `body` reads requests, `answer` maps
//! every error to its response.

mod answer;
mod authenticate;
mod body;
mod caller;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod import;
mod jwks;
mod keys;
pub mod limits;
mod oauth;
pub(crate) mod openapi;
pub(crate) mod pages;
mod prune;
pub(crate) mod pulse;
mod refresh;
mod revoke;
mod rotate;
pub mod serve;
mod show;
mod validate;

use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use uuid::Uuid;

use crate::clock::Clock;
use crate::config::{IdentityMode, Jwthenticator};
use crate::endpoint::{self, Endpoint, get, post};
use crate::issuer::Issuer;
use crate::key_ring::KeyRing;
use crate::logging::Throttle;
use crate::metrics::Metrics;
use crate::revocation::RevocationList;
use crate::store::{Store, StoredKey};
use crate::tunnel::Server;

use answer::{ApiError, Done, Outcome};
use limits::Limits;
use openapi::OwnFaults;
pub(crate) use validate::{VERIFIED_BYTES, VerifiedTokens};

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
    /// The names of other issuers, for what is revoked of theirs.
    pub remote_callers: Vec<String>,
    /// Where the channels of what is revoked are closed.
    pub tunnels: Arc<Server>,
    /// How often clients may fail.
    pub limits: Arc<Limits>,
    /// What time it is.
    pub clock: Clock,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// For faults of ours.
    pub faults: Throttle,
    /// Beats while requests come.
    pub(crate) pulse: pulse::Pulse,
    /// Access tokens that need not be verified again.
    pub(crate) verified_tokens: Mutex<VerifiedTokens>,
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
    let mut endpoints = common();
    if routes != Routes::Internal && app.settings.external_api {
        endpoints.extend(external());
        if app.settings.issuer.is_some() {
            endpoints.push(metadata());
        }
    }
    let for_browsers = endpoints.len();
    if routes != Routes::Public && app.settings.internal_api {
        endpoints.extend(internal());
    }
    let listener = if routes == Routes::Internal { "internal" } else { "public" };
    let paths =
        endpoints.iter().map(|endpoint| (format!("{prefix}{}", endpoint.path), endpoint.path));
    let requests = Arc::new(app.metrics.requests(listener, paths));
    let internal = endpoints.split_off(for_browsers);
    let mut router = endpoint::router(prefix, endpoints);
    if !internal.is_empty() {
        let refuse_browsers = middleware::from_fn(refuse_browsers);
        router = router.merge(endpoint::router(prefix, internal).route_layer(refuse_browsers));
    }
    router
        .fallback(async || ApiError::NotFound)
        .method_not_allowed_fallback(async || ApiError::WrongMethod)
        .layer(middleware::from_fn_with_state(app.clone(), deadline))
        .layer(middleware::from_fn_with_state((app.clone(), requests), caller::identify))
        .with_state(app)
}

/// On every listener.
fn common() -> Vec<Endpoint<Arc<App>>> {
    vec![
        get("/", health),
        get("/health", health),
        get("/jwks", jwks::jwks),
        get("/.well-known/jwks.json", jwks::jwks),
    ]
}

/// For clients.
fn external() -> Vec<Endpoint<Arc<App>>> {
    vec![
        post("/authenticate", authenticate::authenticate),
        post("/refresh", refresh::refresh),
        post("/validate", validate::validate),
        get("/validate_request", validate::validate_request),
        post("/oauth2/token", oauth::token),
        post("/oauth2/introspect", oauth::introspect),
        post("/oauth2/revoke", oauth::revoke),
    ]
}

/// Where this server has a name: without one there is nothing to say.
fn metadata() -> Endpoint<Arc<App>> {
    get("/.well-known/oauth-authorization-server", oauth::metadata)
}

/// For administrators.
fn internal() -> Vec<Endpoint<Arc<App>>> {
    vec![
        post("/register_key", keys::register_key),
        post("/register_keys", import::register_keys),
        post("/is_key_registered", keys::is_key_registered),
        post("/list_keys", keys::list_keys),
        post("/show_key", show::show_key),
        post("/prune_keys", prune::prune_keys),
        post("/revoke_key", revoke::revoke_key),
        post("/revoke_token", revoke::revoke_token),
        post("/rotate_signing_key", rotate::rotate_signing_key),
    ]
}

/// All routes that any listener may serve, without the prefix.
#[cfg(test)]
pub(crate) fn all_routes() -> Vec<(::http::Method, &'static str)> {
    let issuer = [common(), external(), vec![metadata()], internal()].into_iter().flatten();
    let pages = pages::endpoints().into_iter();
    issuer
        .map(|endpoint| (endpoint.method, endpoint.path))
        .chain(pages.map(|endpoint| (endpoint.method, endpoint.path)))
        .collect()
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
    app.pulse.request();
    match tokio::time::timeout(app.settings.handler_timeout, next.run(request)).await {
        Ok(response) => response,
        Err(_) => app.unavailable(&"the handler took too long").into_response(),
    }
}

/// Tells that the process answers.
///
/// Static on purpose: it says nothing of the database, and is asked for every second by some.
#[utoipa::path(get, path = "/health", tags = ["public", "internal"],
    responses((status = 200, body = Outcome, description = "It answers"), OwnFaults))]
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

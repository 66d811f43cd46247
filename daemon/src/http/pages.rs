//! What the internal listener tells about the whole daemon: its status, its metrics, and the document of its API.

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::answer::{ApiError, answer, json_bytes};
use super::openapi::{Panic, WebPage};
use crate::endpoint::{self, Endpoint, get};
use crate::metrics::{self, Metrics};
use crate::openapi;
use crate::remote::{RemoteKeys, RemoteStatus};
use crate::revocation::LiveRevocations;
use crate::tunnel::{Operator, Server, ServerStatus, StaticTunnelStatus};

/// What the pages are about.
pub(crate) struct Pages {
    pub(crate) tunnels: Arc<Server>,
    /// Tunnels on the internal listener itself.
    pub(crate) by_operator: Arc<Server>,
    pub(crate) operator: Arc<Operator>,
    pub(crate) remote: Arc<RemoteKeys>,
    pub(crate) revocations: LiveRevocations,
    pub(crate) metrics: Arc<Metrics>,
    /// In front of the issuer's paths.
    pub(crate) url_prefix: String,
    /// Made when it is first asked for, which is seldom: most daemons never hold it.
    pub(crate) document: OnceLock<Bytes>,
}

/// The pages. `[jwthenticator] url_prefix` is not in front of their paths: they are not only the issuer's.
pub(crate) fn router(pages: Pages) -> Router {
    endpoint::router("", endpoints())
        .fallback(async || ApiError::NotFound)
        .method_not_allowed_fallback(async || ApiError::WrongMethod)
        .with_state(Arc::new(pages))
}

pub(super) fn endpoints() -> Vec<Endpoint<Arc<Pages>>> {
    vec![get("/status", status), get("/metrics", metrics), get("/openapi.json", document)]
}

/// What the daemon's tunnels do at the moment, and how it stands with the keys of other issuers.
#[derive(Serialize, ToSchema)]
pub(super) struct Status {
    version: &'static str,
    netunnel: ServerStatus,
    /// The tunnels of the internal listener itself.
    operator: ServerStatus,
    static_tunnels: Vec<StaticTunnelStatus>,
    /// Other issuers, whose keys are fetched.
    remote_keys: Vec<RemoteStatus>,
}

/// Shows what the daemon's tunnels do at the moment.
#[utoipa::path(get, path = "/status", tag = "internal",
    responses((status = 200, body = Status, description = "The status"), WebPage, Panic))]
pub(super) async fn status(State(pages): State<Arc<Pages>>) -> Response {
    let status = Status {
        version: env!("CARGO_PKG_VERSION"),
        netunnel: pages.tunnels.status(),
        operator: pages.by_operator.status(),
        static_tunnels: pages.operator.status(),
        remote_keys: pages.remote.status(),
    };
    answer(StatusCode::OK, &status)
}

/// Shows the metrics, in Prometheus's text format.
#[utoipa::path(get, path = "/metrics", tag = "internal",
    responses(
        (status = 200, body = String, content_type = "text/plain; version=0.0.4", description = "The metrics"),
        WebPage, Panic))]
pub(super) async fn metrics(State(pages): State<Arc<Pages>>) -> Response {
    let read = metrics::Read {
        listeners: [("netunnel", &pages.tunnels), ("internal", &pages.by_operator)],
        static_tunnels: pages.operator.status(),
        revocations: pages.revocations.load().len(),
        remotes: pages.remote.counts(),
    };
    let text = pages.metrics.render(read.families());
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response()
}

/// Shows this document.
#[utoipa::path(get, path = "/openapi.json", operation_id = "openapi", tag = "internal",
    responses((status = 200, body = serde_json::Value, description = "The document"), WebPage, Panic))]
pub(super) async fn document(State(pages): State<Arc<Pages>>) -> Response {
    let text = pages.document.get_or_init(|| openapi::text(&pages.url_prefix).into());
    json_bytes(StatusCode::OK, Body::from(text.clone()))
}

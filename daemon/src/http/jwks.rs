//! `GET /jwks`: the document of the JWKS file.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;

use super::App;
use super::answer::json_bytes;
use super::openapi::OwnFaults;
use crate::signing_key::PublicJwks;

/// The public keys that verify tokens.
#[utoipa::path(get, path = "/jwks", tags = ["public", "internal"],
    responses(
        (status = 200, body = PublicJwks, description = "The keys", headers(("Cache-Control" = String))),
        OwnFaults))]
pub(super) async fn jwks(State(app): State<Arc<App>>) -> Response {
    let mut response = json_bytes(StatusCode::OK, app.ring.published().document.clone().into());
    // Shorter than the time for which a key is announced, so that caches know it before it signs.
    let value = HeaderValue::from_static("max-age=60");
    response.headers_mut().insert(header::CACHE_CONTROL, value);
    response
}

//! Answers of the tunnel server, in the forms that NETunnel's clients expect.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use serde_json::{Value, json};

/// A JSON answer. NETunnel's client tells errors from results by the key `error`, not by the status.
pub(crate) fn json(status: StatusCode, body: &Value) -> Response<Body> {
    let kind =
        [(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"))];
    (status, kind, body.to_string()).into_response()
}

/// `{"error": text}`.
pub(crate) fn error(status: StatusCode, text: &str) -> Response<Body> {
    json(status, &json!({ "error": text }))
}

/// `{"error": text}` for a state that passes: 503, and when to come back.
pub(crate) fn unavailable(text: &str) -> Response<Body> {
    let mut response = error(StatusCode::SERVICE_UNAVAILABLE, text);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    response
}

/// An empty result. NETunnel's client reads it as None, so there is no body, not even `null`.
pub(crate) fn empty() -> Response<Body> {
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    (StatusCode::OK, kind, Body::empty()).into_response()
}

/// The plain text of a status, such as `404: Not Found`.
pub(crate) fn plain(status: StatusCode) -> Response<Body> {
    let reason = status.canonical_reason().unwrap_or_default();
    (status, format!("{}: {reason}", status.as_u16())).into_response()
}

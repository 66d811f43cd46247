//! Answers, and the one place where errors become statuses.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// Seconds, in `Retry-After`: the faults behind a 503 are short, and the clients few.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// Why a request is not granted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ApiError {
    /// Not JSON, or not text.
    NotJson,
    /// JSON of the wrong shape: one message for each field.
    Fields(BTreeMap<String, &'static str>),
    /// A credential that is definitely not good. Clients forget it on this answer.
    Refused,
    /// A bad token in a header.
    BadToken,
    /// No token in a header, or not in the form `Bearer TOKEN`.
    NoToken,
    /// Not for browsers.
    Forbidden,
    /// The path does not exist here.
    NotFound,
    /// The path exists; axum adds `Allow`.
    WrongMethod,
    /// The body is longer than the limit, in bytes.
    TooLarge(u64),
    /// The body did not arrive in time.
    SlowBody,
    /// The request cannot be carried out as things are.
    Conflict(String),
    /// The client has failed too often, and may try again after that time.
    TooMany(Duration),
    /// A fault of ours that may pass.
    Unavailable,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        match self {
            Self::NotJson => empty(StatusCode::BAD_REQUEST),
            Self::Fields(fields) => {
                let fields: BTreeMap<_, _> =
                    fields.into_iter().map(|(name, message)| (name, [message])).collect();
                answer(StatusCode::BAD_REQUEST, &fields)
            }
            Self::Refused => empty(StatusCode::UNAUTHORIZED),
            Self::BadToken => {
                let mut response = empty(StatusCode::UNAUTHORIZED);
                // RFC 6750 §3.1. No error_description: the answer shall be no oracle.
                let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
                response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
                response
            }
            Self::NoToken | Self::Forbidden => empty(StatusCode::FORBIDDEN),
            Self::NotFound => text(StatusCode::NOT_FOUND, "404: Not Found".into()),
            Self::WrongMethod => {
                text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed".into())
            }
            Self::TooLarge(limit) => closing(text(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("Maximum request body size {limit} exceeded."),
            )),
            Self::SlowBody => {
                closing(text(StatusCode::REQUEST_TIMEOUT, "408: Request Timeout".into()))
            }
            Self::Conflict(message) => {
                let outcome = Outcome { result: false, message: Some(message) };
                answer(StatusCode::CONFLICT, &outcome)
            }
            Self::TooMany(wait) => {
                let mut response = empty(StatusCode::TOO_MANY_REQUESTS);
                // A client that comes back to the second shall not be too early.
                let seconds = HeaderValue::from(wait.as_secs() + 1);
                response.headers_mut().insert(header::RETRY_AFTER, seconds);
                response
            }
            Self::Unavailable => {
                let mut response = empty(StatusCode::SERVICE_UNAVAILABLE);
                response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
                response
            }
        }
    }
}

/// The answer of routes that only do or tell something.
pub(super) struct Done(pub(super) bool);

impl IntoResponse for Done {
    fn into_response(self) -> Response {
        done(StatusCode::OK, self.0)
    }
}

/// `{"result": …, "message": null}`, in the original's order.
pub(super) fn done(status: StatusCode, result: bool) -> Response {
    answer(status, &Outcome { result, message: None })
}

/// What was done, or why not.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Outcome {
    result: bool,
    #[schema(required)]
    message: Option<String>,
}

/// A JSON answer.
pub(super) fn answer(status: StatusCode, body: &impl Serialize) -> Response {
    let text = serde_json::to_vec(body).expect("strings, numbers and maps always serialise");
    json_bytes(status, text.into())
}

/// A JSON answer that is there as bytes.
pub(super) fn json_bytes(status: StatusCode, body: Body) -> Response {
    let content_type = HeaderValue::from_static("application/json; charset=utf-8");
    (status, [(header::CONTENT_TYPE, content_type)], body).into_response()
}

fn empty(status: StatusCode) -> Response {
    json_bytes(status, "{}".into())
}

fn text(status: StatusCode, text: String) -> Response {
    (status, text).into_response()
}

/// The rest of the body is not read, so the connection cannot be used again.
fn closing(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// The answer to a request whose handler panicked.
pub(super) fn panicked() -> Response {
    text(
        StatusCode::INTERNAL_SERVER_ERROR,
        "500 Internal Server Error\n\nServer got itself in trouble".into(),
    )
}

//! The server's half of the websocket handshake (RFC 6455 §4.2) on a hyper request.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use axum::response::IntoResponse;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::upgrade::OnUpgrade;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::respond;

/// A request for a websocket that was found in order.
#[derive(Debug)]
pub(super) struct Handshake {
    accept: HeaderValue,
    upgrade: OnUpgrade,
}

impl Handshake {
    /// Checks the request.
    ///
    /// # Errors
    /// The answer to a request that asks for no websocket, or comes from a web page that is not listed.
    #[expect(clippy::result_large_err, reason = "the error is the answer, and is sent at once")]
    pub(super) fn check(
        request: &mut Request<Body>,
        allowed_origins: &[String],
    ) -> Result<Self, Response<Body>> {
        let headers = request.headers();
        let upgrade = headers.get(header::UPGRADE).and_then(|value| value.to_str().ok());
        if !upgrade.is_some_and(|value| value.trim().eq_ignore_ascii_case("websocket")) {
            // NETunnel's text, with Python's None for a header that is not there.
            let shown = upgrade.map_or("None".to_owned(), super::wire::shown);
            let text = format!(
                "No WebSocket UPGRADE hdr: {shown}\n Can \"Upgrade\" only to \"WebSocket\"."
            );
            return Err((StatusCode::BAD_REQUEST, text).into_response());
        }
        if !has_token(headers, header::CONNECTION, "upgrade") {
            let text = "No CONNECTION upgrade hdr";
            return Err((StatusCode::BAD_REQUEST, text).into_response());
        }
        // RFC 6455 §4.4: name the one version that is spoken.
        if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
            let version = [(header::SEC_WEBSOCKET_VERSION, "13")];
            let text = "Unsupported version";
            return Err((StatusCode::BAD_REQUEST, version, text).into_response());
        }
        let key = headers.get(header::SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes);
        // RFC 6455 §4.2.1: 16 bytes when decoded.
        let key = key.filter(|key| STANDARD.decode(key).is_ok_and(|nonce| nonce.len() == 16));
        let Some(key) = key else {
            return Err((StatusCode::BAD_REQUEST, "Handshake error: bad key").into_response());
        };
        // Browsers send Origin and cannot leave it out; programs don't. A page must not use what the browser's
        // network position or stored credentials allow (RFC 6455 §10.2).
        for origin in headers.get_all(header::ORIGIN) {
            if !allowed_origins.iter().any(|allowed| origin == allowed.as_str()) {
                return Err(respond::error(StatusCode::FORBIDDEN, "this Origin is not allowed"));
            }
        }
        let accept = HeaderValue::from_str(&derive_accept_key(key)).expect("base64 is ASCII");
        match request.extensions_mut().remove::<OnUpgrade>() {
            Some(upgrade) => Ok(Self { accept, upgrade }),
            None => {
                Err((StatusCode::BAD_REQUEST, "this connection cannot be upgraded").into_response())
            }
        }
    }

    /// The 101, and the future of the connection that follows it.
    pub(super) fn accept(self) -> (Response<Body>, OnUpgrade) {
        let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
        let headers = response.headers_mut();
        // Exactly these values: NETunnel's library compares the whole header.
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, self.accept);
        (response, self.upgrade)
    }
}

fn has_token(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|item| item.trim().eq_ignore_ascii_case(token))
}

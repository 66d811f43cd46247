//! The internal listener: the issuer's routes and the tunnels' ones on one address, and no web page in between.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use serde_json::json;
use tower_service::Service;

use super::super::respond::{error, json};
use super::super::routes::collapse_slashes;

/// First segments of the tunnels' paths.
const TUNNELS: [&str; 4] = ["version", "channels", "peers", "config"];

/// First segments of the paths of `pages`.
const PAGES: [&str; 3] = ["status", "metrics", "openapi.json"];

/// One router out of the issuer's internal one, `tunnels` and `pages`, which are about both. `hosts` are the names
/// besides `localhost` and IP addresses under which the listener may be asked.
///
/// A browser on this machine can be made to send requests here by any web page. It says so in `Origin`; where it
/// does not, the page's own name is in `Host`, if that was made to lead here.
pub fn internal_router(
    issuer: Router,
    tunnels: Router,
    pages: Router,
    hosts: Vec<String>,
) -> Router {
    let hosts = Arc::new(hosts);
    Router::new().fallback(move |mut request: Request| {
        let (mut issuer, mut tunnels, hosts) = (issuer.clone(), tunnels.clone(), hosts.clone());
        let mut pages = pages.clone();
        async move {
            let path = request.uri().path();
            let segment = path.split('/').find(|part| !part.is_empty()).unwrap_or_default();
            if let Err(text) = check(request.headers(), &hosts) {
                tracing::warn!(event = "page_refused", outcome = "denied", reason = text);
                return match TUNNELS.contains(&segment) {
                    true => error(StatusCode::FORBIDDEN, text).into_response(),
                    // The issuer's answers have no texts.
                    false => json(StatusCode::FORBIDDEN, &json!({})).into_response(),
                };
            }
            if TUNNELS.contains(&segment) {
                collapse_slashes(request.uri_mut());
                tunnels.call(request).await.into_response()
            } else if PAGES.contains(&segment) {
                pages.call(request).await.into_response()
            } else {
                issuer.call(request).await.into_response()
            }
        }
    })
}

fn check(headers: &HeaderMap, hosts: &[String]) -> Result<(), &'static str> {
    if headers.contains_key(header::ORIGIN) {
        return Err("web pages may not use this listener");
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    // The port is no matter; an IPv6 address is in brackets.
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((ip, _)) => ip,
        None => host.split(':').next().unwrap_or_default(),
    };
    let known = |name: &str| hosts.iter().any(|known| known.eq_ignore_ascii_case(name));
    if name.parse::<std::net::IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || known(name)
    {
        return Ok(());
    }
    Err(
        "this Host is not allowed; ask by IP address or localhost, or list it in [netunnel] operator_hosts",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn web_pages_and_foreign_names_are_refused() {
        let try_host = |host: &'static str, origin: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, origin.parse().unwrap());
            }
            check(&headers, &["gate.internal".to_owned()]).is_ok()
        };
        for host in [
            "127.0.0.1:5051",
            "localhost",
            "LOCALHOST:1",
            "[::1]:5051",
            "gate.internal:5051",
            "10.0.0.7",
        ] {
            assert!(try_host(host, None), "{host}");
            for origin in ["http://127.0.0.1:5051", "null", "https://evil.example"] {
                assert!(!try_host(host, Some(origin)), "{host} {origin}");
            }
        }
        for host in
            ["evil.example", "127.0.0.1.evil.example", "", "localhost.evil.example", "[evil]"]
        {
            assert!(!try_host(host, None), "{host}");
        }
        assert!(check(&HeaderMap::new(), &[]).is_err());
    }
}

//! How the client proves who it is: a ready token from a file, a key or a refresh token that JWThenticator exchanges
//! for tokens, or a secret that the server itself does. Getting tokens and keeping them fresh is [`crate::client`]'s.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use uuid::Uuid;

use crate::client::{Exchange, KEYS_SPREAD, RefreshToken, TokenError, Tokens, buy, service_url};
use crate::secret::Secret;

/// Credentials for all requests of one client.
#[derive(Debug)]
pub struct Credentials(Kind);

enum Kind {
    None,
    /// Read anew for each use, so that another program can renew it.
    File(PathBuf),
    Jwthenticator {
        /// Without one the refresh token is all there is.
        key: Option<Secret>,
        identifier: Uuid,
        uri: String,
        refresh: Arc<RefreshToken>,
        tokens: Tokens,
    },
    /// The server's own `POST /authenticate` sells tokens for it.
    Shared {
        secret: Secret,
        tokens: Tokens,
    },
}

impl Credentials {
    /// No credentials: for a server without authentication.
    pub fn none() -> Self {
        Self(Kind::None)
    }

    /// A token that somebody else puts into `file`.
    pub fn token_file(file: PathBuf) -> Self {
        Self(Kind::File(file))
    }

    /// A registered key. `uri` is where JWThenticator is: a path on the server's host, or a whole URL. The nil UUID
    /// stands for the identifier that the key is registered for.
    pub fn key(key: Secret, identifier: Uuid, uri: String) -> Self {
        Self::jwthenticator(Some(key), None, identifier, uri)
    }

    /// A key, a refresh token, or both: the key then counts when the refresh token is refused. Without a key a
    /// refused refresh token is kept, as the refusal may be a mistake of the other side's.
    pub fn jwthenticator(
        key: Option<Secret>,
        refresh: Option<Secret>,
        identifier: Uuid,
        uri: String,
    ) -> Self {
        let (refresh, tokens) = (RefreshToken::new(refresh), Tokens::default());
        Self(Kind::Jwthenticator { key, identifier, uri, refresh, tokens })
    }

    /// A secret that the server exchanges for tokens at its own `/authenticate`, as NETunnel's sample plugin does.
    pub fn shared_secret(secret: Secret) -> Self {
        Self(Kind::Shared { secret, tokens: Tokens::default() })
    }

    /// The refresh token, for whoever keeps it. None for credentials without one.
    pub(in crate::tunnel) fn refresh_token(&self) -> Option<Arc<RefreshToken>> {
        match &self.0 {
            Kind::Jwthenticator { refresh, .. } => Some(refresh.clone()),
            _ => None,
        }
    }

    /// The token for a request to `server`.
    pub(super) async fn token(
        &self,
        http: &reqwest::Client,
        server: &Url,
    ) -> Result<Option<Secret>, TokenError> {
        match &self.0 {
            Kind::None => Ok(None),
            Kind::File(file) => {
                let source =
                    |source| TokenError::File { file: file.clone(), source: Arc::new(source) };
                let text = tokio::fs::read_to_string(file).await.map_err(source)?;
                let token = text.trim();
                let plain = !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
                if plain { Ok(Some(Secret::new(token))) } else { Err(TokenError::NotAToken) }
            }
            Kind::Jwthenticator { key, identifier, uri, refresh, tokens } => {
                let service = service(server, uri)?;
                let exchange = || {
                    let (http, key, refresh) = (http.clone(), key.clone(), refresh.clone());
                    Exchange { http, service, key, identifier: *identifier, refresh }.renew()
                };
                tokens.token(exchange).await.map(Some)
            }
            Kind::Shared { secret, tokens } => {
                let url = format!("{}/authenticate", server.as_str().trim_end_matches('/'));
                tokens.token(|| buy(http.clone(), url, secret.clone())).await.map(Some)
            }
        }
    }

    /// Forgets `token`, which the server refused. Returns after what time another one is worth a try, if another one
    /// can be had.
    pub(super) fn discard(&self, token: Option<&Secret>) -> Option<Duration> {
        let (tokens, wait) = match &self.0 {
            Kind::Jwthenticator { tokens, .. } => (tokens, KEYS_SPREAD),
            // Its tokens are checked by the very server that sold them.
            Kind::Shared { tokens, .. } => (tokens, Duration::ZERO),
            Kind::None | Kind::File(_) => return None,
        };
        if let Some(token) = token {
            tokens.discard(token);
        }
        Some(wait)
    }
}

/// The service's URL: a path replaces the whole path of the server's URL, as in NETunnel's plugin.
fn service(server: &Url, uri: &str) -> Result<String, TokenError> {
    if !uri.starts_with('/') {
        return service_url(uri);
    }
    let mut url = server.clone();
    url.set_path(uri);
    url.set_query(None);
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::File(file) => write!(f, "File({})", file.display()),
            Self::Jwthenticator { identifier, uri, .. } => write!(f, "Key({identifier}, {uri})"),
            Self::Shared { .. } => f.write_str("Shared"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_is_a_path_on_the_servers_host_or_a_url() {
        let server = Url::parse("https://h:1/netunnel?x").unwrap();
        assert_eq!(service(&server, "/jwthenticator").unwrap(), "https://h:1/jwthenticator");
        assert_eq!(service(&server, "/a/b/").unwrap(), "https://h:1/a/b");
        assert_eq!(service(&server, "http://k:2/j/").unwrap(), "http://k:2/j");
        assert!(service(&server, "jwthenticator").is_err());
        assert!(service(&server, "ftp://k/").is_err());
    }

    #[test]
    fn debug_output_has_no_secret() {
        let credentials =
            Credentials::key(Secret::new("hunter2"), Uuid::nil(), "/jwthenticator".into());
        assert!(!format!("{credentials:?}").contains("hunter2"));
    }
}

//! How the client proves who it is: a ready token from a file, or a key that JWThenticator exchanges for
//! tokens, renewed before they expire.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::{StatusCode, Url};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::error::{Cause, causes};
use crate::secret::Secret;

/// Time for one exchange.
const ANSWER: Duration = Duration::from_secs(30);

/// Credentials for all requests of one client.
#[derive(Debug)]
pub struct Credentials(Kind);

enum Kind {
    None,
    /// Read anew for each use, so that another program can renew it.
    File(PathBuf),
    Key {
        key: Secret,
        identifier: Uuid,
        uri: String,
        tokens: Mutex<Tokens>,
    },
}

#[derive(Default)]
struct Tokens {
    refresh: Option<Secret>,
    access: Option<Access>,
}

struct Access {
    jwt: Secret,
    /// From here on a new one is asked for.
    renew_at: u64,
    /// From here on this one is useless.
    expires_at: u64,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// The token file.
    #[error("the token file {} cannot be read: {source}", file.display())]
    File {
        /// Its path.
        file: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// The file or the answer holds something else.
    #[error("what should be a token is none")]
    NotAToken,
    /// The JWThenticator URI.
    #[error(
        "the JWThenticator URI \"{0}\" cannot be used: expected a path such as /jwthenticator, or a URL"
    )]
    Uri(String),
    /// The key is unknown, expired or revoked.
    #[error(
        "{0} refuses the key (401). It is unknown, expired or revoked: register it again with \
             `jwtunnel keys register`, or check the identifier"
    )]
    Refused(String),
    /// The service answers, but not with a token.
    #[error(
        "{url} answers {status} instead of a token. Is it JWThenticator's URL? Give it with --auth-uri"
    )]
    Status {
        /// What was asked.
        url: String,
        /// Its status.
        status: StatusCode,
    },
    /// No connection, or it broke.
    #[error("cannot reach {url}: {}", causes(source))]
    Unreachable {
        /// What was asked.
        url: String,
        /// HTTP's word.
        source: Cause,
    },
}

impl CredentialError {
    /// Whether trying again later can't help without the user.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Uri(_) | Self::Refused(_))
    }
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

    /// A registered key. `uri` is where JWThenticator is: a path on the server's host, or a whole URL.
    pub fn key(key: Secret, identifier: Uuid, uri: String) -> Self {
        Self(Kind::Key { key, identifier, uri, tokens: Mutex::default() })
    }

    /// The token for a request to `server`. One request at a time renews it; the others wait for that one.
    pub(super) async fn token(
        &self,
        http: &reqwest::Client,
        server: &Url,
    ) -> Result<Option<String>, CredentialError> {
        match &self.0 {
            Kind::None => Ok(None),
            Kind::File(file) => {
                let source = |source| CredentialError::File { file: file.clone(), source };
                let text = tokio::fs::read_to_string(file).await.map_err(source)?;
                let token = text.trim();
                let plain = !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
                if plain { Ok(Some(token.to_owned())) } else { Err(CredentialError::NotAToken) }
            }
            Kind::Key { key, identifier, uri, tokens } => {
                let mut tokens = tokens.lock().await;
                let now = unix_now();
                if tokens.access.as_ref().is_none_or(|access| now >= access.renew_at) {
                    let exchange =
                        Exchange { http, service: &service(server, uri)?, key, identifier };
                    match exchange.renew(&mut tokens).await {
                        Ok(()) => {}
                        // The service may be away for a while; the token that we have still counts.
                        Err(error) => match &tokens.access {
                            Some(access) if now < access.expires_at => {
                                tracing::warn!("the token could not be renewed yet: {error}");
                            }
                            _ => return Err(error),
                        },
                    }
                }
                Ok(tokens.access.as_ref().map(|access| access.jwt.expose().to_owned()))
            }
        }
    }

    /// Forgets `token`, which the server refused. Returns whether another one can be had.
    pub(super) async fn discard(&self, token: Option<&str>) -> bool {
        let Kind::Key { tokens, .. } = &self.0 else { return false };
        let mut tokens = tokens.lock().await;
        // Not the one that another request has fetched meanwhile.
        if tokens.access.as_ref().map(|access| access.jwt.expose()) == token {
            tokens.access = None;
        }
        true
    }
}

struct Exchange<'a> {
    http: &'a reqwest::Client,
    service: &'a str,
    key: &'a Secret,
    identifier: &'a Uuid,
}

impl Exchange<'_> {
    async fn renew(&self, tokens: &mut Tokens) -> Result<(), CredentialError> {
        if let Some(refresh) = &tokens.refresh {
            let body = json!({"refresh_token": refresh.expose(), "identifier": self.identifier});
            match self.ask("refresh", &body).await {
                Ok(answer) => return keep(answer, tokens),
                // Only a definite no ends the refresh token's life; then the key still counts.
                Err(CredentialError::Refused(_)) => tokens.refresh = None,
                Err(error) => return Err(error),
            }
        }
        let body = json!({"key": self.key.expose(), "identifier": self.identifier});
        keep(self.ask("authenticate", &body).await?, tokens)
    }

    async fn ask(&self, what: &str, body: &Value) -> Result<Value, CredentialError> {
        let url = format!("{}/{what}", self.service);
        let unreachable = |error: reqwest::Error| CredentialError::Unreachable {
            url: url.clone(),
            source: error.without_url().into(),
        };
        let request = self.http.post(&url).json(body).timeout(ANSWER);
        let response = request.send().await.map_err(unreachable)?;
        match response.status() {
            StatusCode::OK => {
                let text = response.text().await.map_err(unreachable)?;
                serde_json::from_str(&text).map_err(|_| CredentialError::NotAToken)
            }
            StatusCode::UNAUTHORIZED => Err(CredentialError::Refused(url)),
            status => Err(CredentialError::Status { url, status }),
        }
    }
}

fn keep(answer: Value, tokens: &mut Tokens) -> Result<(), CredentialError> {
    let jwt = answer.get("jwt").and_then(Value::as_str).ok_or(CredentialError::NotAToken)?;
    let expires_at = expiry(jwt).ok_or(CredentialError::NotAToken)?;
    let now = unix_now();
    // At 80 % of the life that is left, long before any clock can disagree about the end.
    let renew_at = now + expires_at.saturating_sub(now) / 5 * 4;
    tokens.access = Some(Access { jwt: Secret::new(jwt), renew_at, expires_at });
    // The answer to a refresh has null here; a rotated one replaces the old.
    if let Some(refresh) = answer.get("refresh_token").and_then(Value::as_str) {
        tokens.refresh = Some(Secret::new(refresh));
    }
    Ok(())
}

/// `exp` of our own token. Unverified: it only decides when to ask for the next one.
fn expiry(jwt: &str) -> Option<u64> {
    let payload = URL_SAFE_NO_PAD.decode(jwt.split('.').nth(1)?).ok()?;
    let claims: Value = serde_json::from_slice(&payload).ok()?;
    let exp = claims.get("exp")?;
    exp.as_u64().or_else(|| exp.as_f64().filter(|exp| *exp >= 0.0).map(|exp| exp as u64))
}

/// The service's URL: a path replaces the whole path of the server's URL, as in NETunnel's plugin.
fn service(server: &Url, uri: &str) -> Result<String, CredentialError> {
    let mut url = server.clone();
    if uri.starts_with('/') {
        url.set_path(uri);
        url.set_query(None);
    } else {
        url = Url::parse(uri).map_err(|_| CredentialError::Uri(uri.to_owned()))?;
        if !["http", "https"].contains(&url.scheme()) {
            return Err(CredentialError::Uri(uri.to_owned()));
        }
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::File(file) => write!(f, "File({})", file.display()),
            Self::Key { identifier, uri, .. } => write!(f, "Key({identifier}, {uri})"),
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
    fn a_token_is_renewed_at_four_fifths_of_its_life() {
        let exp = unix_now() + 1_000;
        let payload = URL_SAFE_NO_PAD.encode(json!({"exp": exp}).to_string());
        let mut tokens = Tokens::default();
        let answer = json!({"jwt": format!("h.{payload}.s"), "refresh_token": "r"});
        keep(answer, &mut tokens).unwrap();
        let access = tokens.access.as_ref().unwrap();
        assert_eq!(access.expires_at, exp);
        assert!((exp - 201..=exp - 199).contains(&access.renew_at));
        keep(json!({"jwt": format!("h.{payload}.s"), "refresh_token": null}), &mut tokens).unwrap();
        assert_eq!(tokens.refresh.unwrap().expose(), "r");
    }

    #[test]
    fn debug_output_has_no_secret() {
        let credentials =
            Credentials::key(Secret::new("hunter2"), Uuid::nil(), "/jwthenticator".into());
        assert!(!format!("{credentials:?}").contains("hunter2"));
    }
}

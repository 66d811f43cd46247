//! How the client proves who it is: a ready token from a file, a key or a refresh token that JWThenticator exchanges
//! for tokens, or a secret that the server itself does; each renewed before it expires.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::{StatusCode, Url};
use serde_json::{Value, json};
use tokio::sync::{Mutex, watch};
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
    Jwthenticator {
        /// Without one the refresh token is all there is.
        key: Option<Secret>,
        identifier: Uuid,
        uri: String,
        /// The refresh token, and who wants to know when it changes.
        refresh: watch::Sender<Option<Secret>>,
        access: Mutex<Option<Access>>,
    },
    /// The server's own `POST /authenticate` sells tokens for it.
    Shared {
        secret: Secret,
        access: Mutex<Option<Access>>,
    },
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
        "{0} refuses the key, refresh token or secret (401 or 403). It is unknown, expired or revoked: register a \
             key again with `jwtunnel keys register`, or check the identifier"
    )]
    Refused(String),
    /// Neither key nor refresh token.
    #[error("there is neither a key nor a refresh token")]
    Nothing,
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
        matches!(self, Self::Uri(_) | Self::Refused(_) | Self::Nothing)
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
        let refresh = watch::Sender::new(refresh);
        Self(Kind::Jwthenticator { key, identifier, uri, refresh, access: Mutex::default() })
    }

    /// A secret that the server exchanges for tokens at its own `/authenticate`, as NETunnel's sample plugin does.
    pub fn shared_secret(secret: Secret) -> Self {
        Self(Kind::Shared { secret, access: Mutex::default() })
    }

    /// The refresh token, now and whenever it changes. None for credentials without one.
    pub(in crate::tunnel) fn refresh_token(&self) -> Option<watch::Receiver<Option<Secret>>> {
        match &self.0 {
            Kind::Jwthenticator { refresh, .. } => Some(refresh.subscribe()),
            _ => None,
        }
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
            Kind::Jwthenticator { key, identifier, uri, refresh, access } => {
                let service = service(server, uri)?;
                let exchange =
                    Exchange { http, service: &service, key: key.as_ref(), identifier, refresh };
                renewed(access, exchange.renew()).await.map(Some)
            }
            Kind::Shared { secret, access } => {
                let url = format!("{}/authenticate", server.as_str().trim_end_matches('/'));
                renewed(access, buy(http, &url, secret)).await.map(Some)
            }
        }
    }

    /// Forgets `token`, which the server refused. Returns whether another one can be had.
    pub(super) async fn discard(&self, token: Option<&str>) -> bool {
        let access = match &self.0 {
            Kind::Jwthenticator { access, .. } | Kind::Shared { access, .. } => access,
            Kind::None | Kind::File(_) => return false,
        };
        let mut access = access.lock().await;
        // Not the one that another request has fetched meanwhile.
        if access.as_ref().map(|access| access.jwt.expose()) == token {
            *access = None;
        }
        true
    }
}

/// The token in `access`; a new one by `renew` when it is time.
async fn renewed(
    access: &Mutex<Option<Access>>,
    renew: impl Future<Output = Result<Access, CredentialError>>,
) -> Result<String, CredentialError> {
    let mut access = access.lock().await;
    let now = unix_now();
    if let Some(access) = access.as_ref().filter(|access| now < access.renew_at) {
        return Ok(access.jwt.expose().to_owned());
    }
    let jwt = match (renew.await, access.as_ref()) {
        (Ok(new), _) => access.insert(new).jwt.expose().to_owned(),
        // The service may be away for a while; the token that we have still counts.
        (Err(error), Some(old)) if now < old.expires_at => {
            tracing::warn!("the token could not be renewed yet: {error}");
            old.jwt.expose().to_owned()
        }
        (Err(error), _) => return Err(error),
    };
    Ok(jwt)
}

struct Exchange<'a> {
    http: &'a reqwest::Client,
    service: &'a str,
    key: Option<&'a Secret>,
    identifier: &'a Uuid,
    refresh: &'a watch::Sender<Option<Secret>>,
}

impl Exchange<'_> {
    async fn renew(self) -> Result<Access, CredentialError> {
        let refresh = self.refresh.borrow().clone();
        if let Some(refresh) = refresh {
            let body = json!({"refresh_token": refresh.expose(), "identifier": self.identifier});
            match (self.ask("refresh", &body).await, self.key) {
                (Ok(answer), _) => return self.keep(&answer),
                // Only a definite no ends the refresh token's life; then the key still counts.
                (Err(CredentialError::Refused(_)), Some(_)) => {}
                (Err(error), _) => return Err(error),
            }
        }
        let Some(key) = self.key else { return Err(CredentialError::Nothing) };
        let body = json!({"key": key.expose(), "identifier": self.identifier});
        self.keep(&self.ask("authenticate", &body).await?)
    }

    async fn ask(&self, what: &str, body: &Value) -> Result<Value, CredentialError> {
        ask(self.http, &format!("{}/{what}", self.service), body).await
    }

    fn keep(&self, answer: &Value) -> Result<Access, CredentialError> {
        let access = Access::new(answer.get("jwt"))?;
        // The answer to a refresh has null here; a rotated one replaces the old.
        if let Some(new) = answer.get("refresh_token").and_then(Value::as_str) {
            self.refresh.send_if_modified(|kept| {
                let changed = kept.as_ref().is_none_or(|kept| kept.expose() != new);
                *kept = Some(Secret::new(new));
                changed
            });
        }
        Ok(access)
    }
}

async fn buy(
    http: &reqwest::Client,
    url: &str,
    secret: &Secret,
) -> Result<Access, CredentialError> {
    let answer = ask(http, url, &json!({"secret": secret.expose()})).await?;
    Access::new(answer.get("token"))
}

async fn ask(http: &reqwest::Client, url: &str, body: &Value) -> Result<Value, CredentialError> {
    let unreachable = |error: reqwest::Error| CredentialError::Unreachable {
        url: url.to_owned(),
        source: error.without_url().into(),
    };
    let response = http.post(url).json(body).timeout(ANSWER).send().await.map_err(unreachable)?;
    match response.status() {
        StatusCode::OK => {
            let text = response.text().await.map_err(unreachable)?;
            serde_json::from_str(&text).map_err(|_| CredentialError::NotAToken)
        }
        StatusCode::UNAUTHORIZED => Err(CredentialError::Refused(url.to_owned())),
        // The sample plugin's, whose body is this text.
        StatusCode::FORBIDDEN if body.get("secret").is_some() => {
            Err(CredentialError::Refused(url.to_owned()))
        }
        status => Err(CredentialError::Status { url: url.to_owned(), status }),
    }
}

impl Access {
    fn new(jwt: Option<&Value>) -> Result<Self, CredentialError> {
        let jwt = jwt.and_then(Value::as_str).ok_or(CredentialError::NotAToken)?;
        let expires_at = expiry(jwt).ok_or(CredentialError::NotAToken)?;
        let now = unix_now();
        // At 80 % of the life that is left, long before any clock can disagree about the end.
        let renew_at = now + expires_at.saturating_sub(now) / 5 * 4;
        Ok(Self { jwt: Secret::new(jwt), renew_at, expires_at })
    }
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
    fn a_token_is_renewed_at_four_fifths_of_its_life() {
        let exp = unix_now() + 1_000;
        let payload = URL_SAFE_NO_PAD.encode(json!({"exp": exp}).to_string());
        let jwt = format!("h.{payload}.s");
        let refresh = watch::Sender::new(None);
        let mut changes = refresh.subscribe();
        let exchange = Exchange {
            http: &reqwest::Client::new(),
            service: "",
            key: None,
            identifier: &Uuid::nil(),
            refresh: &refresh,
        };
        let access = exchange.keep(&json!({"jwt": jwt, "refresh_token": "r"})).unwrap();
        assert_eq!(access.expires_at, exp);
        assert!((exp - 201..=exp - 199).contains(&access.renew_at));
        assert!(changes.has_changed().unwrap());
        assert_eq!(changes.borrow_and_update().as_ref().unwrap().expose(), "r");
        for same in [json!(null), json!("r")] {
            exchange.keep(&json!({"jwt": jwt, "refresh_token": same})).unwrap();
            assert!(!changes.has_changed().unwrap());
        }
        assert_eq!(refresh.borrow().as_ref().unwrap().expose(), "r");
    }

    #[test]
    fn debug_output_has_no_secret() {
        let credentials =
            Credentials::key(Secret::new("hunter2"), Uuid::nil(), "/jwthenticator".into());
        assert!(!format!("{credentials:?}").contains("hunter2"));
    }
}

//! A client for services that want JWThenticator's tokens: what its Python `Client` is, for Rust.
//!
//! A [`Client`] is built from JWThenticator's URL and a registered key, a refresh token, or both. It exchanges them for
//! an access token (a JWT), keeps that one until it is time for the next, and puts it into requests.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use jwtunnel::client::{Client, Secret};
//!
//! let client = Client::builder("https://gateway.example/jwthenticator")
//!     .key(Secret::new(std::fs::read_to_string("key")?.trim()))
//!     .refresh_token_file("/var/lib/agent/refresh-token")
//!     .build()
//!     .await?;
//! let http = reqwest::Client::new();
//! // The token goes along; after a 401 it is renewed, and the request sent once more.
//! let response = client.send(http.get("https://gateway.example/api/")).await?;
//! // Or for something else than reqwest:
//! let header = format!("Bearer {}", client.token().await?.expose());
//! # drop((response, header)); Ok(())
//! # }
//! ```
//!
//! - One exchange runs at a time, and all who need its token wait for it. It goes on when they are gone: with a key
//!   whose refresh tokens are used once (`jwtunnel keys register --rotate`), an answer that nobody kept would lock the
//!   client out.
//! - At 70 to 80 % of a token's life the next one is fetched beside, while the old one still serves.
//! - The key and the refresh token stay, whatever the service answers: the next call tries them again.
//!   [`TokenError::is_retryable`] tells whether that makes sense.
//! - Debug output and errors hold no token and no key.

mod error;
mod exchange;
mod tokens;

use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Request, RequestBuilder, Response, StatusCode, Url};
use serde_json::json;
use tokio::time::sleep;
use uuid::Uuid;
use zeroize::Zeroizing;

pub use crate::secret::Secret;
pub use error::{SendError, TokenError};

pub(crate) use error::causes;
pub(crate) use exchange::{Exchange, RefreshToken, buy};
pub(crate) use tokens::{Access, Tokens};

/// How long a request waits before it is repeated with a new token. After an emergency rotation the new token's key is
/// in the JWKS file before the token is issued, but nginx looks at the file once a second (`auth_jwt_key_refresh`): a
/// repeat at once would meet workers that do not know the key yet, and its second 401 would be final.
pub(crate) const KEYS_SPREAD: Duration = Duration::from_millis(1_500);

/// Time to reach JWThenticator.
const CONNECT: Duration = Duration::from_secs(10);

/// Gets tokens and sends them with requests. Cheap to clone; clones share the token.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    http: reqwest::Client,
    service: String,
    key: Option<Secret>,
    identifier: Uuid,
    refresh: Arc<RefreshToken>,
    tokens: Tokens,
}

/// What a [`Client`] is made of.
#[must_use = "nothing is made before `build`"]
pub struct ClientBuilder {
    url: String,
    key: Option<Secret>,
    refresh_token: Option<Secret>,
    refresh_token_file: Option<PathBuf>,
    token: Option<Secret>,
    identifier: Uuid,
    http: Option<reqwest::Client>,
}

impl Client {
    /// A client of the JWThenticator at `url`, such as `https://gateway.example/jwthenticator`.
    pub fn builder(url: &str) -> ClientBuilder {
        ClientBuilder {
            url: url.to_owned(),
            key: None,
            refresh_token: None,
            refresh_token_file: None,
            token: None,
            identifier: Uuid::nil(),
            http: None,
        }
    }

    /// An access token that has not expired.
    ///
    /// # Errors
    /// [`TokenError`], if there is none and none can be had. The credentials stay for the next call.
    pub async fn token(&self) -> Result<Secret, TokenError> {
        let Inner { http, service, key, identifier, refresh, tokens } = &*self.0;
        let exchange = || {
            let (http, service, key) = (http.clone(), service.clone(), key.clone());
            Exchange { http, service, key, identifier: *identifier, refresh: refresh.clone() }
                .renew()
        };
        tokens.token(exchange).await
    }

    /// Forgets `token`, which a service has refused: the next call of [`Client::token`] fetches another one.
    pub fn discard(&self, token: &Secret) {
        self.0.tokens.discard(token);
    }

    /// The refresh token at hand, for a program that keeps it elsewhere than in
    /// [a file](ClientBuilder::refresh_token_file).
    pub fn refresh_token(&self) -> Option<Secret> {
        self.0.refresh.current()
    }

    /// Sends a request with `Authorization: Bearer` and a token, by the client that made the request.
    ///
    /// After a 401 the token is discarded, and the request sent again with a new one, once and 1.5 s later: so much
    /// time a gateway needs to learn of new signing keys. A request whose body can't be sent twice
    /// ([`RequestBuilder::try_clone`]) is not repeated; the next one has a new token. Any other status is the answer, 403
    /// included, as it is about more than the token.
    ///
    /// # Errors
    /// [`SendError`].
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, SendError> {
        let (http, request) = request.build_split();
        let request = request?;
        let again = request.try_clone();
        let token = self.token().await?;
        let response = http.execute(authorized(request, &token)?).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        self.discard(&token);
        let Some(again) = again else { return Ok(response) };
        let token = self.token().await?;
        sleep(KEYS_SPREAD).await;
        Ok(http.execute(authorized(again, &token)?).await?)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { service, identifier, .. } = &*self.0;
        f.debug_struct("Client")
            .field("url", service)
            .field("identifier", identifier)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder").field("url", &self.url).finish_non_exhaustive()
    }
}

impl ClientBuilder {
    /// A registered key.
    pub fn key(self, key: Secret) -> Self {
        Self { key: Some(key), ..self }
    }

    /// A refresh token. With a key beside it, it is tried first.
    pub fn refresh_token(self, token: Secret) -> Self {
        Self { refresh_token: Some(token), ..self }
    }

    /// A file that keeps the refresh token over restarts, mode 0600. Its token, if it is there already, counts before
    /// [`ClientBuilder::refresh_token`]. Each new token is on the disk before it is used; if it can't be written, that
    /// is logged, and the client goes on.
    ///
    /// The file belongs to one client: with a key whose refresh tokens are used once, a second one looks like a thief,
    /// and the service revokes what both have.
    pub fn refresh_token_file(self, file: impl Into<PathBuf>) -> Self {
        Self { refresh_token_file: Some(file.into()), ..self }
    }

    /// An access token to begin with.
    pub fn token(self, jwt: Secret) -> Self {
        Self { token: Some(jwt), ..self }
    }

    /// The identifier that is asked for. Default: the nil UUID, for which jwtunnel takes the one that the key is
    /// registered for. The Python service takes whatever is asked for.
    pub fn identifier(self, identifier: Uuid) -> Self {
        Self { identifier, ..self }
    }

    /// The HTTP client of the exchanges, for another proxy or other certificates than the system's. It should not
    /// follow redirects: the key would go along. Default: one that does not, and takes 10 s to connect at most.
    pub fn http(self, http: reqwest::Client) -> Self {
        Self { http: Some(http), ..self }
    }

    /// Makes the client. Nothing is asked of the service yet.
    ///
    /// # Errors
    /// [`TokenError::Uri`], [`TokenError::Nothing`] without any credential, [`TokenError::NotAToken`],
    /// [`TokenError::File`] or [`TokenError::Exposed`] for the file with the refresh token, [`TokenError::Http`].
    pub async fn build(self) -> Result<Client, TokenError> {
        let service = service_url(&self.url)?;
        let jwt = self.token.map(|token| Access::new(Some(&json!(token.expose())))).transpose()?;
        let kept = match &self.refresh_token_file {
            Some(file) => read_refresh_token(file).await?,
            None => None,
        };
        let refresh = kept.or(self.refresh_token);
        if self.key.is_none() && refresh.is_none() && jwt.is_none() {
            return Err(TokenError::Nothing);
        }
        let http = match self.http {
            Some(http) => http,
            // It reads the system's certificates.
            None => tokio::task::spawn_blocking(default_http)
                .await
                .map_err(|_| TokenError::Aborted)?
                .map_err(|error| TokenError::Http(Arc::new(error)))?,
        };
        let refresh = RefreshToken::new(refresh);
        if let Some(file) = self.refresh_token_file {
            refresh.keep_in(file);
        }
        let tokens = Tokens::starting_with(jwt);
        let (key, identifier) = (self.key, self.identifier);
        Ok(Client(Arc::new(Inner { http, service, key, identifier, refresh, tokens })))
    }
}

fn default_http() -> Result<reqwest::Client, reqwest::Error> {
    let redirect = reqwest::redirect::Policy::none();
    reqwest::Client::builder().redirect(redirect).connect_timeout(CONNECT).build()
}

/// JWThenticator's URL as exchanges need it.
///
/// # Errors
/// [`TokenError::Uri`].
pub(crate) fn service_url(url: &str) -> Result<String, TokenError> {
    let bad = || TokenError::Uri(url.to_owned());
    let url = Url::parse(url).map_err(|_| bad())?;
    if !["http", "https"].contains(&url.scheme()) || url.host_str().is_none() {
        return Err(bad());
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// The refresh token in `file`, if the file is there.
async fn read_refresh_token(file: &Path) -> Result<Option<Secret>, TokenError> {
    let failed = |error| TokenError::File { file: file.to_owned(), source: Arc::new(error) };
    let text = match tokio::fs::read_to_string(file).await {
        Ok(text) => Zeroizing::new(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Now rather than when the first token has to be written.
            let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
            let folder = tokio::fs::metadata(folder.unwrap_or(Path::new("."))).await;
            return folder.map(|_| None).map_err(failed);
        }
        Err(error) => return Err(failed(error)),
    };
    let mode = tokio::fs::metadata(file).await.map_err(failed)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(TokenError::Exposed(file.to_owned()));
    }
    let token = text.trim();
    Ok((!token.is_empty()).then(|| Secret::new(token)))
}

fn authorized(mut request: Request, token: &Secret) -> Result<Request, TokenError> {
    let bearer = Zeroizing::new(format!("Bearer {}", token.expose()));
    let mut bearer = HeaderValue::from_str(&bearer).map_err(|_| TokenError::NotAToken)?;
    bearer.set_sensitive(true);
    request.headers_mut().insert(AUTHORIZATION, bearer);
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_client_is_made_of_a_url_and_a_credential() {
        let url = "https://h/jwthenticator/";
        let nothing = Client::builder(url).build().await.unwrap_err();
        assert!(matches!(nothing, TokenError::Nothing));
        for bad in ["", "/jwthenticator", "ftp://h", "h:1"] {
            let built = Client::builder(bad).key(Secret::new("k")).build().await;
            assert!(matches!(built, Err(TokenError::Uri(_))), "{bad}");
        }
        let client = Client::builder(url).key(Secret::new("hunter2")).build().await.unwrap();
        let shown = format!("{client:?} {:?}", Client::builder(url).key(Secret::new("hunter2")));
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("\"https://h/jwthenticator\""), "{shown}");
        let bad = Client::builder(url).token(Secret::new("a.b.c")).build().await;
        assert!(matches!(bad, Err(TokenError::NotAToken)));
    }

    #[tokio::test]
    async fn a_refresh_token_that_others_can_read_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("refresh");
        let build = || Client::builder("http://h").refresh_token_file(&file).build();
        assert!(matches!(build().await, Err(TokenError::Nothing)));
        let nowhere = folder.path().join("no/refresh");
        let built = Client::builder("http://h").refresh_token_file(nowhere).build().await;
        assert!(matches!(built, Err(TokenError::File { .. })));
        std::fs::write(&file, "hunter2\n").unwrap();
        let mode = |mode| std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
        mode(0o640);
        let error = build().await.unwrap_err();
        assert!(matches!(error, TokenError::Exposed(_)), "{error}");
        assert!(!error.to_string().contains("hunter2"));
        mode(0o600);
        assert_eq!(build().await.unwrap().refresh_token().unwrap().expose(), "hunter2");
    }
}

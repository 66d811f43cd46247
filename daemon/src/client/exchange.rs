//! JWThenticator's exchanges: a key for a refresh token and an access token, a refresh token for the next access
//! token, a shared secret for a token of the server's own.

use std::fmt;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use reqwest::{StatusCode, header};
use serde_json::{Value, json};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::error::TokenError;
use super::tokens::Access;
use crate::atomic_file;
use crate::secret::Secret;

/// Time for one exchange.
const ANSWER: Duration = Duration::from_secs(30);

/// The most that is read of an answer.
const ANSWER_BYTES: usize = 256 * 1024;

/// What makes a refresh token survive the program.
type Keeper = Box<dyn Fn(Secret) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// A refresh token, and what keeps it.
#[derive(Default)]
pub(crate) struct RefreshToken {
    now: Mutex<Option<Secret>>,
    keeper: OnceLock<Keeper>,
}

/// One exchange with JWThenticator.
pub(crate) struct Exchange {
    pub(crate) http: reqwest::Client,
    /// Its URL, without a slash at the end.
    pub(crate) service: String,
    /// Without one the refresh token is all there is.
    pub(crate) key: Option<Secret>,
    pub(crate) identifier: Uuid,
    pub(crate) refresh: Arc<RefreshToken>,
}

impl RefreshToken {
    pub(crate) fn new(now: Option<Secret>) -> Arc<Self> {
        Arc::new(Self { now: Mutex::new(now), keeper: OnceLock::new() })
    }

    /// The token, if there is one.
    pub(crate) fn current(&self) -> Option<Secret> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Calls `keeper` with each new token from now on, before anybody uses it or what came with it. The first
    /// keeper stays.
    pub(crate) fn keep_by<F>(&self, keeper: impl Fn(Secret) -> F + Send + Sync + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let _ = self.keeper.set(Box::new(move |token| Box::pin(keeper(token))));
    }

    /// Keeps each new token in `file`, which its owner alone can read.
    pub(crate) fn keep_in(&self, file: PathBuf) {
        self.keep_by(move |token| {
            let file = file.clone();
            async move {
                let (path, text) = (file.clone(), Zeroizing::new(format!("{}\n", token.expose())));
                let replace =
                    move || atomic_file::replace(&path, text.as_bytes(), atomic_file::PRIVATE);
                let replaced = tokio::task::spawn_blocking(replace).await;
                let replaced = replaced.unwrap_or_else(|_| Err(io::Error::other("panic")));
                // The program has it in memory, and goes on; the next one is tried again.
                if let Err(error) = replaced {
                    tracing::error!(file = %file.display(), %error,
                        "the new refresh token cannot be saved; after a restart the key is needed again");
                }
            }
        });
    }

    async fn replace(&self, new: &str) {
        let new = Secret::new(new);
        if self.current().is_some_and(|kept| kept.expose() == new.expose()) {
            return;
        }
        if let Some(keeper) = self.keeper.get() {
            keeper(new.clone()).await;
        }
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = Some(new);
    }
}

impl fmt::Debug for RefreshToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RefreshToken")
    }
}

impl Exchange {
    /// A new access token, by the refresh token if there is one, else by the key.
    pub(crate) async fn renew(self) -> Result<Access, TokenError> {
        if let Some(refresh) = self.refresh.current() {
            let body = json!({"refresh_token": refresh.expose(), "identifier": self.identifier});
            match (self.ask("refresh", &body).await, &self.key) {
                (Ok(answer), _) => return self.keep(&answer).await,
                // Only a definite no ends the refresh token's life; then the key still counts.
                (Err(TokenError::Refused(_)), Some(_)) => {}
                (Err(error), _) => return Err(error),
            }
        }
        let key = self.key.as_ref().ok_or(TokenError::Nothing)?;
        let body = json!({"key": key.expose(), "identifier": self.identifier});
        self.keep(&self.ask("authenticate", &body).await?).await
    }

    async fn ask(&self, what: &str, body: &Value) -> Result<Value, TokenError> {
        ask(&self.http, &format!("{}/{what}", self.service), body).await
    }

    async fn keep(&self, answer: &Value) -> Result<Access, TokenError> {
        // The answer to a refresh has null here, unless the key's refresh tokens are used once.
        if let Some(new) = answer.get("refresh_token").and_then(Value::as_str) {
            self.refresh.replace(new).await;
        }
        Access::new(answer.get("jwt"))
    }
}

/// A token of the server itself, as NETunnel's sample plugin buys it.
pub(crate) async fn buy(
    http: reqwest::Client,
    url: String,
    secret: Secret,
) -> Result<Access, TokenError> {
    let answer = ask(&http, &url, &json!({"secret": secret.expose()})).await?;
    Access::new(answer.get("token"))
}

async fn ask(http: &reqwest::Client, url: &str, body: &Value) -> Result<Value, TokenError> {
    let unreachable = |error: reqwest::Error| TokenError::Unreachable {
        url: url.to_owned(),
        source: Arc::new(error.without_url()),
    };
    let response = http.post(url).json(body).timeout(ANSWER).send().await.map_err(unreachable)?;
    match response.status() {
        StatusCode::OK => {
            let text = read(response).await.map_err(unreachable)?;
            serde_json::from_slice(&text).map_err(|_| TokenError::NotAToken)
        }
        StatusCode::UNAUTHORIZED => Err(TokenError::Refused(url.to_owned())),
        // The sample plugin's, whose body is this text.
        StatusCode::FORBIDDEN if body.get("secret").is_some() => {
            Err(TokenError::Refused(url.to_owned()))
        }
        status => {
            let wait = response.headers().get(header::RETRY_AFTER);
            // The form with a date is not used by services like these.
            let wait = wait.and_then(|wait| wait.to_str().ok()).and_then(|wait| wait.parse().ok());
            let retry_after = wait.map(Duration::from_secs);
            Err(TokenError::Status { url: url.to_owned(), status, retry_after })
        }
    }
}

/// The body, up to the limit: an answer that goes on for ever is none of JWThenticator's.
async fn read(mut response: reqwest::Response) -> Result<Zeroizing<Vec<u8>>, reqwest::Error> {
    let mut text = Zeroizing::new(Vec::new());
    while let Some(chunk) = response.chunk().await? {
        text.extend_from_slice(&chunk);
        if text.len() > ANSWER_BYTES {
            text.clear();
            break;
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::super::tokens::tests::jwt;
    use super::*;

    #[tokio::test]
    async fn a_new_refresh_token_is_kept_before_it_is_used_and_the_same_one_is_not_kept_again() {
        let refresh = RefreshToken::new(None);
        let (sender, mut kept) = tokio::sync::mpsc::unbounded_channel();
        let watched = Arc::downgrade(&refresh);
        refresh.keep_by(move |token| {
            let before = watched.upgrade().and_then(|refresh| refresh.current());
            sender.send((before, token)).unwrap();
            std::future::ready(())
        });
        let exchange = Exchange {
            http: reqwest::Client::new(),
            service: String::new(),
            key: None,
            identifier: Uuid::nil(),
            refresh: refresh.clone(),
        };
        exchange.keep(&json!({"jwt": jwt(1_000), "refresh_token": "r"})).await.unwrap();
        let (before, token) = kept.try_recv().unwrap();
        assert!(before.is_none());
        assert_eq!(token.expose(), "r");
        for same in [json!(null), json!("r")] {
            exchange.keep(&json!({"jwt": jwt(1_000), "refresh_token": same})).await.unwrap();
            assert!(kept.try_recv().is_err());
        }
        // Also when the rest of the answer is useless: the old one is over.
        assert!(exchange.keep(&json!({"jwt": "x", "refresh_token": "s"})).await.is_err());
        assert_eq!(refresh.current().unwrap().expose(), "s");
    }
}

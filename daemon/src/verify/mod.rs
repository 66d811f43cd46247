//! Protects a service by JSON Web Tokens, in the service itself: what the nginx module does, as a tower layer.
//!
//! A [`Verifier`] has the keys of a JWKS file, such as the daemon's, or of a URL. As a layer it answers requests without a
//! good token, and gives the claims of the others to the handlers.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use axum::{Router, routing::get};
//! use jwtunnel::verify::{Keys, Verified, Verifier};
//!
//! let verifier = Verifier::builder(Keys::file("/var/lib/jwtunnel/public/jwks.json"))
//!     .revocation_file("/var/lib/jwtunnel/public/revoked.json")
//!     .optional()
//!     .build()
//!     .await?;
//! let hello = async |caller: Verified| format!("hello {}\n", caller.identifier().unwrap_or_default());
//! let router: Router = Router::new().route("/", get(hello)).layer(verifier);
//! # drop(router); Ok(())
//! # }
//! ```
//!
//! - No token: 401 with a challenge (RFC 6750 §3). A bad one: 401 `invalid_token`. A good one without a scope that the
//!   policy asks for: 403 `insufficient_scope`. No keys, or a newest version of them that can't be read and a token whose
//!   key is not in the last good one: 503 with `Retry-After`, never 401. The reason is in the log only.
//! - A file is looked at once a second, a URL every four minutes; a token whose key is not known brings the look forward.
//!   What can't be used changes nothing: the last good version stays.
//! - Tokens without `exp` are refused, and clocks may differ by a minute, unless the policy says otherwise.
//! - Nothing here waits for a disk or a network on the runtime's threads.

mod layer;
mod refusal;
mod watched;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use jwt_core::{Compact, JwkSet, Revocations, limits};
use reqwest::Url;
use tokio_util::task::AbortOnDropHandle;

pub use jwt_core::{Algorithm, Claims, Policy};
pub use layer::{Protected, TokenClaims, Verified};
pub use refusal::Refusal;

use crate::bearer;
use crate::client::causes;
use crate::clock::Clock;
use refusal::Challenges;
use watched::{Format, Source, Watched};

/// Where the keys are that tokens are checked with.
#[derive(Clone, Debug)]
pub struct Keys(Place);

#[derive(Clone, Debug)]
enum Place {
    File(PathBuf),
    Url(String),
}

impl Keys {
    /// A file with a JWK Set, such as the daemon's `[jwks] file`.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Place::File(path.into()))
    }

    /// A URL that leads to a JWK Set, such as `https://gateway.example/jwthenticator/jwks`. Plain http is possible only
    /// on this machine: whoever is between could give us keys of theirs.
    pub fn url(url: &str) -> Self {
        Self(Place::Url(url.to_owned()))
    }
}

/// Why there is no [`Verifier`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifierError {
    /// The keys.
    #[error("the keys cannot be used: {0}")]
    Keys(String),
    /// The file with revocations.
    #[error("the revocations cannot be used: {0}")]
    Revocations(String),
    /// The URL of the keys.
    #[error("the URL of the keys \"{0}\" cannot be used: expected https, or http to this machine")]
    Url(String),
    /// The realm.
    #[error(
        "the realm {0:?} cannot be used: expected printable ASCII without quotes and backslashes"
    )]
    Realm(String),
    /// The HTTP client for a URL.
    #[error("the HTTP client cannot be set up: {0}")]
    Http(String),
}

/// Checks the tokens of requests. A tower layer; cheap to clone. Its looks at the keys end with its last clone.
#[derive(Clone, Debug)]
pub struct Verifier(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    keys: Arc<Watched<JwkSet>>,
    revocations: Option<Arc<Watched<Revocations>>>,
    policy: Policy,
    challenges: Challenges,
    clock: Clock,
    _following: Vec<AbortOnDropHandle<()>>,
}

/// What a [`Verifier`] is made of.
#[derive(Debug)]
#[must_use = "nothing is made before `build`"]
pub struct VerifierBuilder {
    keys: Keys,
    revocation_file: Option<PathBuf>,
    optional: bool,
    policy: Policy,
    realm: String,
    clock: Clock,
    http: Option<reqwest::Client>,
}

impl Verifier {
    /// A verifier with these keys.
    pub fn builder(keys: Keys) -> VerifierBuilder {
        let leeway = Duration::from_secs(60);
        VerifierBuilder {
            keys,
            revocation_file: None,
            optional: false,
            policy: Policy { leeway, require_exp: true, ..Policy::default() },
            realm: "jwtunnel".into(),
            clock: Clock::system(),
            http: None,
        }
    }

    /// The claims of a request with these headers, for a program that is no tower service.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn verify(&self, headers: &HeaderMap) -> Result<Claims, Refusal> {
        self.verify_token(bearer::token(headers)?).await
    }

    /// The claims of a token that came in another way.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn verify_token(&self, token: &[u8]) -> Result<Claims, Refusal> {
        let keys = &self.0.keys;
        match self.check(token) {
            Err(refusal) if refusal.is_unknown_key() => {}
            verdict => return verdict,
        }
        // Its key may be newer than our last look.
        keys.look_again().await;
        self.check(token).map_err(|refusal| match refusal {
            // It may be in the version that we can't read: not the caller's fault.
            unknown if unknown.is_unknown_key() && keys.is_stale() => Refusal::KeysUnavailable,
            refusal => refusal,
        })
    }

    fn check(&self, token: &[u8]) -> Result<Claims, Refusal> {
        let Inner { keys, revocations, policy, clock, .. } = &*self.0;
        let keys = keys.good().ok_or(Refusal::KeysUnavailable)?;
        let compact = Compact::parse(token)?;
        policy.check_header(compact.header())?;
        let claims = policy.validate(compact.verify(&keys)?, clock.unix_now())?;
        // Before the scope: a revoked token gets 401, whatever it may be sufficient for.
        if let Some(list) = revocations.as_ref().and_then(|revocations| revocations.good())
            && let Some(revoked) = list.check(claims.set())
        {
            return Err(Refusal::Revoked(revoked));
        }
        policy.check_scope(&claims)?;
        Ok(claims)
    }
}

impl VerifierBuilder {
    /// What tokens must satisfy: issuer, audience, algorithms, scope, leeway, … Default: `exp` is required, and a minute
    /// of leeway.
    pub fn policy(self, policy: Policy) -> Self {
        Self { policy, ..self }
    }

    /// A file with what is revoked, such as the daemon's `[jwks] revocation_file`.
    pub fn revocation_file(self, path: impl Into<PathBuf>) -> Self {
        Self { revocation_file: Some(path.into()), ..self }
    }

    /// Starts also when the keys or the revocations can't be read yet. Without keys every request gets 503 until there
    /// are some; without a list of revocations nothing is revoked.
    pub fn optional(self) -> Self {
        Self { optional: true, ..self }
    }

    /// The realm of the challenges. Default: `jwtunnel`.
    pub fn realm(self, realm: &str) -> Self {
        Self { realm: realm.to_owned(), ..self }
    }

    /// Another clock than the machine's, for tests.
    pub fn clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// The HTTP client for a URL. It should not follow redirects. Default: one that does not.
    pub fn http(self, http: reqwest::Client) -> Self {
        Self { http: Some(http), ..self }
    }

    /// Reads the keys, and follows them from now on.
    ///
    /// # Errors
    /// [`VerifierError`].
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn build(self) -> Result<Verifier, VerifierError> {
        let challenges = Challenges::of(&self.realm).ok_or(VerifierError::Realm(self.realm))?;
        let source = match self.keys.0 {
            Place::File(path) => Source::File(path),
            Place::Url(url) => {
                let url = safe(&url).ok_or(VerifierError::Url(url))?;
                let http = match self.http {
                    Some(http) => http,
                    None => default_http().await?,
                };
                Source::Url(url, http)
            }
        };
        let keys = Watched::new(source, JWKS);
        first_look(&keys, self.optional).await.map_err(VerifierError::Keys)?;
        let revocations = match self.revocation_file {
            None => None,
            Some(path) => {
                let list = Watched::new(Source::File(path), REVOCATIONS);
                let looked = first_look(&list, self.optional).await;
                looked.map_err(VerifierError::Revocations)?;
                Some(list)
            }
        };
        let mut following = vec![tokio::spawn(keys.clone().follow())];
        following.extend(revocations.clone().map(|list| tokio::spawn(list.follow())));
        Ok(Verifier(Arc::new(Inner {
            keys,
            revocations,
            policy: self.policy,
            challenges,
            clock: self.clock,
            _following: following.into_iter().map(AbortOnDropHandle::new).collect(),
        })))
    }
}

const JWKS: Format<JwkSet> = Format {
    name: "keys",
    limit: limits::JWKS_BYTES,
    parse: |bytes| JwkSet::parse(bytes).map_err(|error| error.to_string()),
};

const REVOCATIONS: Format<Revocations> = Format {
    name: "revocations",
    limit: limits::REVOCATION_BYTES,
    parse: |bytes| Revocations::parse(bytes).map_err(|error| error.to_string()),
};

async fn first_look<T: Send + Sync + 'static>(
    document: &Watched<T>,
    optional: bool,
) -> Result<(), String> {
    // A fault is in the log already.
    document.look().await.or_else(|fault| if optional { Ok(()) } else { Err(fault) })
}

async fn default_http() -> Result<reqwest::Client, VerifierError> {
    let build = || {
        let redirect = reqwest::redirect::Policy::none();
        reqwest::Client::builder().redirect(redirect).build()
    };
    // It reads the system's certificates.
    match tokio::task::spawn_blocking(build).await {
        Ok(Ok(http)) => Ok(http),
        Ok(Err(error)) => Err(VerifierError::Http(causes(&error))),
        Err(error) => Err(VerifierError::Http(error.to_string())),
    }
}

/// The URL, if nobody can be between.
fn safe(url: &str) -> Option<Url> {
    let url = Url::parse(url).ok()?;
    let host = url.host_str()?.trim_start_matches('[').trim_end_matches(']');
    let here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    (url.scheme() == "https" || url.scheme() == "http" && here).then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_over_https_or_from_this_machine() {
        for good in ["https://h/jwks", "http://127.0.0.1:1/j", "http://[::1]/j", "http://localhost"]
        {
            assert!(safe(good).is_some(), "{good}");
        }
        for bad in ["http://h/jwks", "http://127.0.0.1.h/j", "ftp://127.0.0.1", "/jwks", ""] {
            assert!(safe(bad).is_none(), "{bad}");
        }
    }
}

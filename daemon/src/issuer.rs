//! Mints access tokens: claims in, signed JWT out, never on the event loop.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::clock::Clock;
use crate::config::Jwthenticator;
use crate::key_ring::KeyRing;
use crate::metrics::{Metrics, SigningMetrics, observe};
use crate::signing_key::KeyError;

/// Why no token was issued. Every reason is ours: the same request may succeed later.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// More work waits than `queue_limit`.
    #[error("too much work waits for the signing key")]
    Busy,
    /// The key or its library failed.
    #[error("the signing key failed: {0}")]
    Key(#[from] KeyError),
    /// The signing thread ended.
    #[error("signing panicked")]
    Panic,
}

/// The claims of an access token, in the order in which they are written.
#[derive(Debug, Serialize)]
struct AccessClaims {
    token_id: Uuid,
    identifier: Uuid,
    iat: i64,
    exp: i64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    aud: Vec<String>,
    #[serde(flatten)]
    standard: Option<StandardClaims>,
}

/// What tokens carry besides the original's claims, unless `standard_claims` is off: RFC 7519 §4.1
/// names for what is there already, and the key, so that its tokens can be told apart.
#[derive(Debug, Serialize)]
struct StandardClaims {
    sub: Uuid,
    jti: Uuid,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<String>,
}

/// What a token is issued for.
#[derive(Debug, Clone)]
pub struct Grant {
    /// The token's own name.
    pub token_id: Uuid,
    /// Whom it names.
    pub identifier: Uuid,
    /// The public name of the registered key.
    pub key: Option<String>,
    /// Whether its client renews often, and so needs it for a short time only.
    pub short: bool,
}

/// Issues access tokens with the ring's signing key.
pub struct Issuer {
    ring: Arc<KeyRing>,
    clock: Clock,
    lifetime: Duration,
    rotating_lifetime: Duration,
    audience: Vec<String>,
    issuer: Option<String>,
    standard_claims: bool,
    /// How much may wait and work.
    queue: Arc<Semaphore>,
    /// How much may work: a signature keeps a core busy.
    cores: Arc<Semaphore>,
    metrics: SigningMetrics,
}

impl Issuer {
    /// An issuer by the rules of `settings`.
    pub fn new(ring: Arc<KeyRing>, clock: Clock, settings: &Jwthenticator) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            ring,
            clock,
            lifetime: settings.jwt_lifetime,
            rotating_lifetime: settings.rotating_jwt_lifetime,
            audience: settings.audience.clone(),
            issuer: settings.issuer.clone(),
            standard_claims: settings.standard_claims,
            queue: Arc::new(Semaphore::new(settings.queue_limit + cores)),
            cores: Arc::new(Semaphore::new(cores)),
            metrics: SigningMetrics::new(),
        }
    }

    /// Lets `metrics` show how long signing takes.
    pub(crate) fn show(&self, metrics: &Metrics) {
        self.metrics.show(metrics);
    }

    /// A token.
    ///
    /// # Errors
    /// [`IssueError`], none of which is the client's fault.
    pub async fn issue(&self, grant: Grant) -> Result<String, IssueError> {
        let issued = self.signed(grant).await;
        if let Err(error) = &issued {
            self.metrics.failed(matches!(error, IssueError::Busy));
        }
        issued
    }

    async fn signed(&self, grant: Grant) -> Result<String, IssueError> {
        let asked = Instant::now();
        let _place = self.queue.clone().try_acquire_owned().map_err(|_| IssueError::Busy)?;
        let core = self.cores.clone().acquire_owned().await.map_err(|_| IssueError::Busy)?;
        let claims = self.claims(grant);
        let (signing, metrics) = (self.ring.signing(), self.metrics.clone());
        let signed = tokio::task::spawn_blocking(move || {
            let _core = core;
            let start = Instant::now();
            observe(&metrics.waiting, start - asked);
            let signed = signing.sign(&claims);
            observe(&metrics.signing, start.elapsed());
            signed
        });
        Ok(signed.await.map_err(|_| IssueError::Panic)??)
    }

    /// How long such a token is valid.
    pub fn lifetime(&self, short: bool) -> Duration {
        if short { self.rotating_lifetime } else { self.lifetime }
    }

    fn claims(&self, grant: Grant) -> AccessClaims {
        let Grant { token_id, identifier, key, short } = grant;
        let iat = self.clock.unix_now();
        AccessClaims {
            token_id,
            identifier,
            iat,
            exp: iat.saturating_add_unsigned(self.lifetime(short).as_secs()),
            aud: self.audience.clone(),
            standard: self.standard_claims.then(|| StandardClaims {
                sub: identifier,
                jti: token_id,
                key,
                iss: self.issuer.clone(),
            }),
        }
    }
}

//! Mints access tokens: claims in, signed JWT out, never on the event loop.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::clock::Clock;
use crate::config::Jwthenticator;
use crate::key_ring::KeyRing;
use crate::metrics::{Metrics, SigningMetrics, observe};
use crate::signing_key::KeyError;

/// How long a token waits for the next ones, while there are some to be signed: to be handed out together wakes the
/// event loop once.
const TOGETHER: Duration = Duration::from_millis(1);

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
    clock: Clock,
    lifetime: Duration,
    rotating_lifetime: Duration,
    audience: Vec<String>,
    issuer: Option<String>,
    standard_claims: bool,
    signers: Arc<Signers>,
    metrics: SigningMetrics,
}

impl Issuer {
    /// An issuer by the rules of `settings`.
    pub fn new(ring: Arc<KeyRing>, clock: Clock, settings: &Jwthenticator) -> Self {
        let metrics = SigningMetrics::new();
        let signers = Signers {
            ring: ring.clone(),
            limit: settings.queue_limit,
            cores: std::thread::available_parallelism().map_or(2, usize::from),
            state: Mutex::default(),
            metrics: metrics.clone(),
        };
        Self {
            clock,
            lifetime: settings.jwt_lifetime,
            rotating_lifetime: settings.rotating_jwt_lifetime,
            audience: settings.audience.clone(),
            issuer: settings.issuer.clone(),
            standard_claims: settings.standard_claims,
            signers: Arc::new(signers),
            metrics,
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
        let (reply, answer) = oneshot::channel();
        let order = Order { asked: Instant::now(), claims: self.claims(grant), reply };
        self.signers.enqueue(order)?;
        answer.await.map_err(|_| IssueError::Panic)?
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

/// Threads that sign, as many as there are cores: a signature keeps one busy. A thread takes what waits until nothing
/// does, so that under load nobody has to be woken for a signature.
struct Signers {
    ring: Arc<KeyRing>,
    /// How much may wait.
    limit: usize,
    cores: usize,
    state: Mutex<Waiting>,
    metrics: SigningMetrics,
}

#[derive(Default)]
struct Waiting {
    orders: VecDeque<Order>,
    /// So many threads sign.
    at_work: usize,
}

/// A token to be signed.
struct Order {
    asked: Instant,
    claims: AccessClaims,
    reply: oneshot::Sender<Result<String, IssueError>>,
}

impl Signers {
    fn enqueue(self: &Arc<Self>, order: Order) -> Result<(), IssueError> {
        let mut state = self.state();
        let starts = state.at_work < self.cores;
        if !starts && state.orders.len() >= self.limit {
            return Err(IssueError::Busy);
        }
        state.orders.push_back(order);
        if starts {
            state.at_work += 1;
            let signers = self.clone();
            tokio::task::spawn_blocking(move || signers.work());
        }
        Ok(())
    }

    fn work(&self) {
        let mut done = Vec::new();
        let mut oldest = Instant::now();
        while let Some(Order { asked, claims, reply }) = self.next() {
            if reply.is_closed() {
                continue;
            }
            let start = Instant::now();
            observe(&self.metrics.waiting, start - asked);
            // Signing only reads; a panic is one failure, and the thread goes on.
            let sign = || self.ring.signing().sign(&claims);
            let signed = catch_unwind(AssertUnwindSafe(sign));
            let end = Instant::now();
            observe(&self.metrics.signing, end - start);
            if done.is_empty() {
                oldest = end;
            }
            done.push((reply, signed));
            if end - oldest >= TOGETHER || !self.more_come() {
                done.drain(..).for_each(hand_out);
            }
        }
        // Another thread may have taken what seemed to come.
        done.into_iter().for_each(hand_out);
    }

    /// Whether something waits to be signed. If not, whoever shares the core may bring it first, when it has come.
    fn more_come(&self) -> bool {
        let waits = || !self.state().orders.is_empty();
        waits() || {
            std::thread::yield_now();
            waits()
        }
    }

    /// What has waited longest. If nothing does, the thread counts as gone.
    fn next(&self) -> Option<Order> {
        let mut state = self.state();
        let order = state.orders.pop_front();
        if order.is_none() {
            state.at_work -= 1;
        }
        order
    }

    fn state(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A token that was signed, unless the library panicked, and who waits for it.
type Signed =
    (oneshot::Sender<Result<String, IssueError>>, std::thread::Result<Result<String, KeyError>>);

fn hand_out((reply, signed): Signed) {
    if let Ok(signed) = signed {
        // Nobody listens any more if the client has gone.
        let _ = reply.send(signed.map_err(IssueError::from));
    }
}

//! jwtunnel as a library: tokens, services protected by them, and tunnels.
//!
//! The daemon `jwtunneld` exchanges registered keys for signed tokens, publishes the public keys in a file that nginx
//! reads, and carries TCP over websockets. The command line `jwtunnel` is its client. A Rust program can be one too, in
//! three ways:
//!
//! **A client of protected services**, [`client`]: a key becomes a token that stays fresh.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use jwtunnel::client::{Client, Secret};
//!
//! let client = Client::builder("https://gateway.example/jwthenticator")
//!     .key(Secret::new(std::fs::read_to_string("key")?.trim()))
//!     .build()
//!     .await?;
//! let http = reqwest::Client::new();
//! let answer = client.send(http.get("https://gateway.example/api/")).await?.text().await?;
//! # drop(answer); Ok(())
//! # }
//! ```
//!
//! **A protected service**, [`verify`]: a tower layer that lets only good tokens pass.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use axum::{Router, routing::get};
//! use jwtunnel::verify::{Keys, Verified, Verifier};
//!
//! let keys = Keys::url("https://gateway.example/jwthenticator/jwks");
//! let verifier = Verifier::builder(keys).build().await?;
//! let hello = async |caller: Verified| format!("hello {}", caller.identifier().unwrap_or_default());
//! let router: Router = Router::new().route("/", get(hello)).layer(verifier);
//! # drop(router); Ok(())
//! # }
//! ```
//!
//! **An end of a tunnel**, [`tunnel::client`]: ports, UNIX sockets, or the program itself.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use jwtunnel::client::Secret;
//! use jwtunnel::tunnel::client::{Connector, Credentials, Entrance, Trust};
//! use uuid::Uuid;
//!
//! let key = Secret::new(std::fs::read_to_string("key")?.trim());
//! let credentials = Credentials::key(key, Uuid::nil(), "/jwthenticator".into());
//! let server = "https://gateway.example/netunnel";
//! let connector = Connector::new(server, &Trust::default(), credentials).await?;
//! let channel = connector.connect().await?;
//! let (entrance, dialer) = Entrance::in_program();
//! channel.forward(&entrance, "db.lan", 5432).await?;
//! let stream = dialer.connect().await?; // AsyncRead + AsyncWrite
//! # drop(stream); Ok(())
//! # }
//! ```
//!
//! Each is a runnable program in `examples/`. All of it needs a tokio runtime.
//!
//! The modules that this page does not list are the parts of the two programs; they change without notice.
// Where it is needed it says so: [`program_pages`].
#![deny(unsafe_code)]

// The API.
pub mod auth;
pub mod client;
pub mod clock;
pub mod secret;
pub mod tunnel;
pub mod verify;

// The parts of the programs: public for these, for tests and for benchmarks.
#[doc(hidden)]
pub mod atomic_file;
#[doc(hidden)]
pub mod cli;
#[doc(hidden)]
pub mod config;
#[doc(hidden)]
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
#[doc(hidden)]
pub mod http;
#[doc(hidden)]
pub mod issuer;
#[doc(hidden)]
pub mod jwks_file;
#[doc(hidden)]
pub mod key_ring;
#[doc(hidden)]
pub mod logging;
#[doc(hidden)]
pub mod metrics;
#[doc(hidden)]
pub mod remote;
#[doc(hidden)]
pub mod revocation;
#[doc(hidden)]
pub mod shutdown;
#[doc(hidden)]
pub mod signing_key;
#[doc(hidden)]
pub mod sockets;
#[doc(hidden)]
pub mod store;

mod address;
mod bearer;
mod endpoint;
mod openapi;
mod pause;
mod program_pages;
mod tcp;

use std::io;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use axum::Router;
use sd_notify::NotifyState;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use auth::{Authenticator, Mode};
use clock::Clock;
use config::{Config, Jwthenticator, NetunnelAuth};
use http::limits::Limits;
use http::pages::Pages;
use http::pulse::Pulse;
use http::serve::{self, Listener};
use http::{App, Routes, VERIFIED_BYTES, VerifiedTokens};
use issuer::Issuer;
use key_ring::{KeyRing, RingError, Settings, SharedVault};
use logging::Throttle;
use metrics::Metrics;
use remote::{RemoteError, RemoteKeys};
use revocation::{RevocationError, RevocationList};
use sockets::{SocketError, Sockets};
use store::{Changes, Store, TokenForm};
use tunnel::{Admins, ConfiguredError, Operator, Server, internal_router};

/// How long an expired refresh token is kept: its client is told "expired" in the log, and is no guesser.
const KEPT: Duration = Duration::from_secs(86_400);

/// After this time what its parts do once, when they begin, is over.
const SETTLED: Duration = Duration::from_millis(500);

/// Why the daemon does not start, or ends before it is told to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// A listener.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The signing keys or the JWKS file.
    #[error(transparent)]
    Keys(#[from] RingError),
    /// The database.
    #[error(transparent)]
    Store(#[from] store::OpenError),
    /// The revocations and their file.
    #[error("revocations: {0}")]
    Revocations(#[from] RevocationError),
    /// The keys of other issuers.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// The tunnels' settings.
    #[error(transparent)]
    Tunnels(#[from] ConfiguredError),
    /// The shared secret of the tunnels.
    #[error("[netunnel] secret: {0}")]
    Secret(#[from] auth::EmptySecret),
    /// Signal handlers.
    #[error("the signal handlers cannot be installed: {0}")]
    Signals(io::Error),
    /// A part ended by itself.
    #[error("a part of the daemon ended unexpectedly")]
    Ended,
}

impl RunError {
    /// Whether the configuration has to be changed before another try.
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Tunnels(error) => error.is_configuration(),
            Self::Secret(_) | Self::Remote(RemoteError::Trust { .. }) => true,
            _ => false,
        }
    }
}

/// Runs the daemon: opens what `config` names, serves until `shutdown`, and lets what is open finish.
///
/// Ports are bound before anything on disk is touched, so a second daemon fails without a trace. On
/// SIGHUP the JWKS file is written anew, and other issuers' keys are fetched; settings are read at start only.
///
/// # Errors
/// [`RunError`] when the start fails; after it, faults are answered and logged.
pub async fn run(
    config: Config,
    mut sockets: Sockets,
    shutdown: impl Future,
) -> Result<(), RunError> {
    let mut hangups = shutdown::hangups().map_err(RunError::Signals)?;
    let mut tunnels = tunnel::Settings::from_config(&config.netunnel)?;
    let issuer = &config.jwthenticator;
    let public = sockets.listen("public", "[jwthenticator] listen", &issuer.listen).await?;
    let internal = match &issuer.internal_listen {
        None => None,
        Some(address) => {
            Some(sockets.listen("internal", "[jwthenticator] internal_listen", address).await?)
        }
    };

    let netunnel = sockets.listen("netunnel", "[netunnel] listen", &config.netunnel.listen).await?;
    let own = [Some(&public), internal.as_ref(), Some(&netunnel)];
    tunnels.own_listeners =
        own.into_iter().flatten().filter_map(Listener::socket_address).collect();

    let clock = Clock::system();
    let store = Store::open(&issuer.database_url, issuer.queue_limit).await?;
    let ring = Arc::new(open_ring(&config, clock.clone(), &store).await?);
    log_start(&config, &ring);
    log_database(&store).await;
    let standard_claims = issuer.standard_claims;
    let file = &config.jwks.revocation_file;
    let revocations = RevocationList::open(store.clone(), file, standard_claims).await?;
    let revocations = Arc::new(revocations);
    let remote = Arc::new(open_remote(&config, &clock).await?);
    let auth = authenticator(&config, &ring, clock.clone())?
        .with_remotes(remote.issuers(config.netunnel.leeway))
        .with_revocations(revocations.live());
    let operator = Operator::start(&config.netunnel, &tunnels).await?;
    // Channels that are opened on the internal listener are a world of their own, with one caller.
    let by_operator = Authenticator::new(Mode::Operator, config.netunnel.leeway, clock.clone())?;
    let internal_tunnels = Server::new(tunnels.clone(), by_operator);
    let tunnels = Server::new(tunnels, auth);

    let limits = Arc::new(Limits::new(issuer));
    let followed = Followed {
        store: store.clone(),
        ring: ring.clone(),
        revocations: revocations.clone(),
        tunnels: tunnels.clone(),
    };
    let store_changes = store.changes();
    let metrics = Arc::new(Metrics::new());
    store.show(&metrics);
    ring.show(&metrics);
    revocations.show(&metrics);
    let tokens = Issuer::new(ring.clone(), clock.clone(), issuer);
    tokens.show(&metrics);
    let app = Arc::new(App {
        settings: issuer.clone(),
        store,
        issuer: tokens,
        ring: ring.clone(),
        revocations,
        remote_callers: config.jwks.remotes.iter().map(|remote| remote.name.clone()).collect(),
        tunnels: tunnels.clone(),
        limits: limits.clone(),
        clock: clock.clone(),
        metrics,
        faults: Throttle::new(),
        pulse: Pulse::default(),
        verified_tokens: Mutex::new(VerifiedTokens::new(VERIFIED_BYTES)),
    });
    let mut services = Services::new(issuer.header_timeout);
    match internal {
        Some(internal) => {
            services.serve("public", public, http::router(app.clone(), Routes::Public));
            let operators = operator.router(&internal_tunnels, Admins::Everyone);
            let hosts = config.netunnel.operator_hosts.clone();
            let pages = http::pages::router(Pages {
                tunnels: tunnels.clone(),
                by_operator: internal_tunnels.clone(),
                operator: operator.clone(),
                remote: remote.clone(),
                revocations: app.revocations.live(),
                metrics: app.metrics.clone(),
                url_prefix: app.settings.url_prefix.clone(),
                document: OnceLock::new(),
            });
            let issuer = http::router(app, Routes::Internal);
            let router = internal_router(issuer, operators, pages, hosts);
            services.serve("internal", internal, router);
        }
        None => services.serve("public", public, http::router(app, Routes::Both)),
    }
    let router = if config.netunnel.admin_routes {
        let admins = Admins::Listed(config.netunnel.admin_identifiers.clone());
        operator.router(&tunnels, admins)
    } else {
        operator.may_disconnect(&tunnels);
        tunnels.router()
    };
    services.serve("netunnel", netunnel, router);

    let stop = services.stop.clone();
    let mut fetching = remote.start(&stop).await;
    let rotation = tokio::spawn(ring.clone().run(stop.clone()));
    let pruning = tokio::spawn(prune(followed.clone(), limits, clock, stop.clone()));
    let changes =
        store_changes.map(|changes| tokio::spawn(follow(changes, followed, stop.clone())));
    notify(&[NotifyState::Ready]);
    info!(event = "ready", outcome = "ok");
    let settled = tokio::spawn(async {
        tokio::time::sleep(SETTLED).await;
        program_pages::release();
    });
    let watchdog = tokio::spawn(watchdog(stop.clone()));

    let mut shutdown = std::pin::pin!(shutdown);
    let result = loop {
        tokio::select! {
            _ = &mut shutdown => break Ok(()),
            _ = hangups.recv() => {
                remote.refresh();
                republish(&ring).await;
            }
            _ = services.tasks.join_next() => break Err(RunError::Ended),
        }
    };

    settled.abort();
    notify(&[NotifyState::Stopping]);
    info!(event = "stopping", drain = config.netunnel.drain_timeout.as_secs());
    // The listeners go on answering meanwhile: whoever asks for a tunnel is told that there is none.
    let drain = config.netunnel.drain_timeout;
    tokio::join!(tunnels.drain(drain), internal_tunnels.drain(drain), operator.stop());
    services.drain(config.netunnel.drain_timeout).await;
    for task in [Some(rotation), Some(watchdog), Some(pruning), changes].into_iter().flatten() {
        // All end with `stop`; the result of a rotation in progress is on disk.
        let _ = task.await;
    }
    while fetching.join_next().await.is_some() {}
    info!(event = "stopped", outcome = "ok");
    result
}

/// The listeners that are being served.
struct Services {
    header_timeout: Duration,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Services {
    fn new(header_timeout: Duration) -> Self {
        Self { header_timeout, stop: CancellationToken::new(), tasks: JoinSet::new() }
    }

    fn serve(&mut self, name: &'static str, listener: Listener, router: Router) {
        info!(event = "listening", listener = name, address = listener.address());
        self.tasks.spawn(serve::serve(listener, router, self.header_timeout, self.stop.clone()));
    }

    /// Takes no new connections, and waits for the open ones, but not longer than `timeout`.
    async fn drain(&mut self, timeout: Duration) {
        self.stop.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(timeout, all).await.is_err() {
            warn!(event = "drain", outcome = "timeout");
        }
    }
}

/// How callers of the tunnel listener prove who they are.
fn authenticator(config: &Config, ring: &KeyRing, clock: Clock) -> Result<Authenticator, RunError> {
    let mode = match (config.netunnel.auth, &config.netunnel.secret) {
        (NetunnelAuth::None, _) => {
            warn!(
                event = "tunnels_open",
                reason =
                    "[netunnel] auth = \"none\": every program on this machine can use the tunnels"
            );
            Mode::None
        }
        (NetunnelAuth::Secret, Some(secret)) => Mode::Secret(secret.clone()),
        // Without its secret the configuration is refused; a JWT is what remains when in doubt.
        (NetunnelAuth::Jwt | NetunnelAuth::Secret, _) => Mode::Jwt(ring.live()),
    };
    Ok(Authenticator::new(mode, config.netunnel.leeway, clock)?)
}

async fn open_ring(config: &Config, clock: Clock, store: &Store) -> Result<KeyRing, RunError> {
    let settings = Settings {
        keys: config.keys.clone(),
        jwks_file: config.jwks.file.clone(),
        jwt_lifetime: config.jwthenticator.jwt_lifetime,
        leeway: config.jwthenticator.leeway,
    };
    let file = key_ring::encryption_key_file(config.keys.encryption_key_file.as_deref());
    let file = file.filter(|_| store.is_shared() && config.keys.given.is_none());
    if file.is_none() && store.is_shared() && config.keys.given.is_none() {
        warn!(
            event = "signing_keys_local",
            reason = "daemons on the same PostgreSQL do not know this one's signing keys; to share \
                      them, set [keys] encryption_key_file to the same key for each"
        );
    }
    let (store, runtime) = (store.clone(), tokio::runtime::Handle::current());
    // Making an RSA key takes a while, and the disk may.
    let opened = tokio::task::spawn_blocking(move || {
        let shared = file.as_deref().map(|encryption_key| SharedVault {
            store: &store,
            runtime,
            encryption_key,
        });
        KeyRing::open(settings, clock, shared)
    });
    Ok(opened.await.map_err(|_| RunError::Ended)??)
}

async fn open_remote(config: &Config, clock: &Clock) -> Result<RemoteKeys, RunError> {
    let (remotes, clock) = (config.jwks.remotes.clone(), clock.clone());
    let opened = tokio::task::spawn_blocking(move || RemoteKeys::open(&remotes, &clock));
    Ok(opened.await.map_err(|_| RunError::Ended)??)
}

/// What follows the database.
#[derive(Clone)]
struct Followed {
    store: Store,
    ring: Arc<KeyRing>,
    revocations: Arc<RevocationList>,
    tunnels: Arc<Server>,
}

impl Followed {
    /// Also what was revoked when the file could not be written: it holds here all the same.
    fn close_revoked(&self) {
        self.tunnels.close_revoked(&self.revocations.live().load());
    }

    async fn reload(&self) -> Result<(), String> {
        let ring = self.ring.clone();
        let keys = tokio::task::spawn_blocking(move || ring.reload()).await;
        let revocations = self.revocations.reload().await;
        self.close_revoked();
        revocations.map_err(|error| error.to_string())?;
        keys.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }
}

/// Follows what other daemons on the same database do, until `stop`.
async fn follow(mut changes: Changes, followed: Followed, stop: CancellationToken) {
    let throttle = Throttle::new();
    loop {
        let changed = tokio::select! {
            () = stop.cancelled() => return,
            changed = changes.next() => changed,
        };
        let done = match changed {
            Ok(()) => followed.reload().await,
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = done {
            throttle.run(|suppressed| {
                error!(event = "follow", outcome = "error", error, suppressed);
            });
            // The database is away, or the disk is full; both are noticed elsewhere too.
            let _ = tokio::time::timeout(Duration::from_secs(1), stop.cancelled()).await;
        }
    }
}

/// Drops what is over, once a minute, and writes again what could not be written, until `stop`.
async fn prune(followed: Followed, limits: Arc<Limits>, clock: Clock, stop: CancellationToken) {
    let throttle = Throttle::new();
    let mut ticks = tokio::time::interval(Duration::from_secs(60));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        limits.tidy();
        let pruned = async {
            followed.revocations.prune(clock.unix_now()).await?;
            let store = followed.store.hurried();
            // A bound for each round: others write too.
            for _ in 0..20 {
                if !store.delete_expired_refresh_tokens(clock.now() - KEPT).await? {
                    break;
                }
            }
            Ok::<_, RevocationError>(())
        };
        let pruned = pruned.await;
        followed.close_revoked();
        if let Err(error) = pruned {
            throttle.run(|suppressed| {
                warn!(event = "prune", outcome = "error", error = %error, suppressed);
            });
        }
    }
}

async fn republish(ring: &Arc<KeyRing>) {
    let ring = ring.clone();
    match tokio::task::spawn_blocking(move || ring.republish()).await {
        Ok(Ok(())) => info!(event = "reload", outcome = "ok"),
        Ok(Err(fault)) => error!(event = "reload", outcome = "error", error = %fault),
        Err(_) => error!(event = "reload", outcome = "panic"),
    }
}

/// What an operator wants to know first, in one line each.
fn log_start(config: &Config, ring: &KeyRing) {
    let Jwthenticator { jwt_lifetime, key_lifetime, refresh_lifetime, .. } = config.jwthenticator;
    info!(
        event = "start",
        version = env!("CARGO_PKG_VERSION"),
        database = %config.jwthenticator.database_url,
        jwks_file = %config.jwks.file.display(),
        keys = %config.keys.directory.display(),
        kid = ring.signing().kid(),
        algorithm = ring.signing().algorithm().as_str(),
        identity = config.jwthenticator.identity.as_str(),
        jwt_lifetime_s = jwt_lifetime.as_secs(),
        key_lifetime_s = key_lifetime.as_secs(),
        refresh_lifetime_s = refresh_lifetime.as_secs(),
        netunnel_auth = config.netunnel.auth.as_str()
    );
    for file in config.jwks.files() {
        match config::unsearchable_parent(file) {
            Ok(None) => {}
            Ok(Some((folder, mode))) => warn!(
                event = "jwks_unreachable",
                file = %file.display(),
                folder = %folder.display(),
                mode = format!("{mode:04o}"),
                reason = "nginx's workers cannot search this folder; chmod o+x it, or move the file"
            ),
            Err(fault) => warn!(event = "jwks_unreachable", error = %fault),
        }
    }
}

/// Says what a JWThenticator's database means for whoever is responsible for it.
async fn log_database(store: &Store) {
    if store.was_adopted() {
        info!(event = "database_adopted", outcome = "ok");
    }
    match store.token_form().await {
        Ok(TokenForm::Hashed) => {}
        Ok(TokenForm::Clear) => warn!(
            event = "compat_plaintext",
            reason = "refresh tokens are stored in the clear, so that a JWThenticator can use the \
                      database too; when it no longer does, run: jwtunnel db harden"
        ),
        Err(fault) => warn!(event = "database", outcome = "error", error = %fault),
    }
}

/// Tells systemd that the event loop still turns, twice as often as it asks for.
async fn watchdog(stop: CancellationToken) {
    let Some(interval) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = tokio::time::interval(interval / 2);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => notify(&[NotifyState::Watchdog]),
        }
    }
}

/// Without systemd this does nothing.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(fault) = sd_notify::notify(state) {
        warn!(event = "sd_notify", outcome = "error", error = %fault);
    }
}

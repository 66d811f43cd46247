//! Other issuers' keys: fetched at intervals, kept in a file for nginx, and live for the tunnels.
//!
//! ```text
//! pace      when to fetch again        fetch    one fetch: where to, how long, how much
//! document  what of it is published    here     the last good set of each issuer, and what is told about it
//! ```
//!
//! What cannot be used changes nothing: the last good keys stay, in memory and in the file, over a restart too.

mod document;
mod fetch;
mod pace;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use jwt_core::JwkSet;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use utoipa::ToSchema;

use crate::auth::RemoteIssuer;
use crate::clock::Clock;
use crate::config::Remote;
use crate::jwks_file::JwksFile;
use crate::signing_key::LiveKeys;
use crate::tunnel::client::ClientError;
use document::Document;
use fetch::{FetchError, Fetched, Fetcher, Validator};

/// An error that stays the same is logged again after so long.
const REMINDER: Duration = Duration::from_secs(3_600);

/// Why the keys of an issuer cannot be kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// The certificate authorities.
    #[error("[[jwks.remote]] {name}: ca_file: {source}")]
    Trust {
        /// The issuer.
        name: String,
        /// Why.
        source: ClientError,
    },
    /// The folder of the file.
    #[error("[[jwks.remote]] {name}: the folder of file = {}: {source}", path.display())]
    Folder {
        /// The issuer.
        name: String,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// All other issuers.
pub struct RemoteKeys {
    remotes: Vec<Arc<RemoteKeySet>>,
}

/// One of them.
struct RemoteKeySet {
    remote: Remote,
    fetcher: Fetcher,
    file: JwksFile,
    live: LiveKeys,
    clock: Clock,
    hurry: Notify,
    report: Mutex<Report>,
}

/// Another issuer on the status page.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RemoteStatus {
    name: String,
    /// Where its keys, or its discovery document, are fetched.
    url: String,
    /// Where they are kept for nginx.
    file: String,
    /// Whether its tokens open tunnels.
    tunnels: bool,
    /// How many keys are in force.
    keys: usize,
    #[serde(flatten)]
    report: Report,
}

/// Another issuer among the metrics.
pub(crate) struct RemoteCounts {
    pub(crate) name: String,
    pub(crate) keys: usize,
    /// Fetches that gave keys, or found them unchanged, and the others.
    pub(crate) fetched: u64,
    pub(crate) failed: u64,
    /// Unix seconds; zero before the first time since the start.
    pub(crate) last_success: i64,
}

/// What became of the fetches. Times are Unix seconds.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
struct Report {
    /// When the keys were fetched, or found unchanged; null before the first time since the start.
    #[schema(required)]
    last_success: Option<i64>,
    #[schema(required)]
    next_fetch: Option<i64>,
    /// Why the last fetch failed; null if it did not.
    #[schema(required)]
    error: Option<String>,
    #[serde(skip)]
    fetched: u64,
    #[serde(skip)]
    failed: u64,
}

/// What one fetch leaves for the next.
#[derive(Default)]
struct Progress {
    document: Option<Document>,
    validator: Option<Validator>,
    failures: u32,
    told: Option<(String, Instant)>,
}

/// Looks for what [`RemoteKeys::open`] would refuse, without a change on disk.
///
/// # Errors
/// [`RemoteError::Trust`].
pub fn check(remotes: &[Remote]) -> Result<(), RemoteError> {
    remotes.iter().try_for_each(|remote| fetcher(remote).map(drop))
}

fn fetcher(remote: &Remote) -> Result<Fetcher, RemoteError> {
    let name = &remote.name;
    Fetcher::new(remote).map_err(|source| RemoteError::Trust { name: name.clone(), source })
}

impl RemoteKeys {
    /// Prepares the files. Nothing is fetched yet. Reads the disk: not for the event loop.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn open(remotes: &[Remote], clock: &Clock) -> Result<Self, RemoteError> {
        let open = |remote: &Remote| {
            let file = JwksFile::open(&remote.file).map_err(|source| RemoteError::Folder {
                name: remote.name.clone(),
                path: remote.file.clone(),
                source,
            })?;
            Ok(Arc::new(RemoteKeySet {
                remote: remote.clone(),
                fetcher: fetcher(remote)?,
                file,
                live: Arc::new(ArcSwap::from_pointee(JwkSet::default())),
                clock: clock.clone(),
                hurry: Notify::new(),
                report: Mutex::default(),
            }))
        };
        Ok(Self { remotes: remotes.iter().map(open).collect::<Result<_, _>>()? })
    }

    /// Those whose tokens the tunnels accept.
    pub fn issuers(&self, leeway: Duration) -> Vec<RemoteIssuer> {
        let accepted = self.remotes.iter().filter(|set| set.remote.tunnels);
        let issuer = |set: &Arc<RemoteKeySet>| {
            let Remote { name, issuer, audience, .. } = &set.remote;
            let keys = set.live.clone();
            RemoteIssuer::new(name, keys, issuer.clone(), audience.clone(), leeway)
        };
        accepted.map(issuer).collect()
    }

    /// Uses the files of an earlier run, and fetches from now on until `stop`. Returns when the files have been read.
    pub async fn start(&self, stop: &CancellationToken) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for set in &self.remotes {
            let mut progress = Progress { document: set.read().await, ..Progress::default() };
            let (set, stop) = (set.clone(), stop.clone());
            tasks.spawn(async move {
                while let Some(pause) = stop.run_until_cancelled(set.update(&mut progress)).await {
                    let pause = async {
                        tokio::select! {
                            () = tokio::time::sleep(pause) => {}
                            () = set.hurry.notified() => {}
                        }
                    };
                    if stop.run_until_cancelled(pause).await.is_none() {
                        return;
                    }
                }
            });
        }
        tasks
    }

    /// Fetches all sets now.
    pub fn refresh(&self) {
        for set in &self.remotes {
            set.hurry.notify_one();
        }
    }

    /// For a status page.
    pub fn status(&self) -> Vec<RemoteStatus> {
        self.remotes.iter().map(|set| set.status()).collect()
    }

    /// For the metrics.
    pub(crate) fn counts(&self) -> Vec<RemoteCounts> {
        let counts = |set: &Arc<RemoteKeySet>| {
            let report = set.report();
            RemoteCounts {
                name: set.remote.name.clone(),
                keys: set.live.load().len(),
                fetched: report.fetched,
                failed: report.failed,
                last_success: report.last_success.unwrap_or_default(),
            }
        };
        self.remotes.iter().map(counts).collect()
    }
}

impl RemoteKeySet {
    async fn read(&self) -> Option<Document> {
        let (path, source) = (self.file.path().to_owned(), self.remote.source.url().to_string());
        let read = move || Document::read(&path, &source);
        let document = match tokio::task::spawn_blocking(read).await {
            Ok(Ok(document)) => document?,
            Ok(Err(error)) => {
                warn!(
                    event = "remote_keys", outcome = "error", remote = self.remote.name,
                    file = %self.file.path().display(), error = %error,
                    reason = "the file of an earlier run is not used; nginx reads it until the first \
                              fetch replaces it"
                );
                return None;
            }
            Err(_) => return None,
        };
        self.live.store(document.keys.clone());
        Some(document)
    }

    /// One fetch and what follows from it: the pause until the next.
    async fn update(&self, progress: &mut Progress) -> Duration {
        let fetched = self.fetcher.fetch(progress.validator.as_ref()).await;
        let done = match fetched {
            Ok(fetched) => self.take(fetched, progress).await,
            Err(error) => Err(error),
        };
        let refresh = self.remote.refresh;
        let (pause, error) = match done {
            Ok(max_age) => {
                if progress.failures > 0 {
                    info!(event = "remote_keys", outcome = "recovered", remote = self.remote.name);
                }
                (progress.failures, progress.told) = (0, None);
                (pace::after_success(refresh, max_age), None)
            }
            Err(error) => {
                progress.failures = progress.failures.saturating_add(1);
                let pause = pace::after_failure(refresh, progress.failures, error.retry_after());
                let error = error.to_string();
                self.tell(progress, &error);
                (pause, Some(error))
            }
        };
        let now = self.clock.unix_now();
        let mut report = self.report();
        report.next_fetch = Some(now.saturating_add_unsigned(pause.as_secs()));
        if error.is_none() {
            report.last_success = Some(now);
            report.fetched += 1;
        } else {
            report.failed += 1;
        }
        report.error = error;
        pause
    }

    /// Puts what was fetched in place, and returns how long it stays fresh.
    async fn take(
        &self,
        fetched: Fetched,
        progress: &mut Progress,
    ) -> Result<Option<Duration>, FetchError> {
        let source = self.remote.source.url();
        let (document, validator) = match (fetched.body, &progress.document) {
            (Some((body, validator)), _) => (Document::parse(&body, source.as_str())?, validator),
            (None, Some(document)) => (document.clone(), progress.validator.clone()),
            // Without a document no validator was sent, and so there is no such answer.
            (None, None) => return Ok(fetched.max_age),
        };
        let known = progress.document.as_ref().map(|document| &document.text);
        let is_new = known != Some(&document.text);
        if is_new {
            // Here first: it needs no disk.
            self.live.store(document.keys.clone());
            progress.document = Some(document.clone());
            if !document.skipped.is_empty() {
                let reason = document.skipped[..document.skipped.len().min(4)].join("; ");
                warn!(
                    event = "remote_keys",
                    outcome = "skipped",
                    remote = self.remote.name,
                    skipped = document.skipped.len(),
                    reason
                );
            }
        }
        // Not known to be in the file until it has been written.
        progress.validator = None;
        let (path, keys) = (self.file.path().to_owned(), document.keys.len());
        let text = document.text;
        let file = self.file.clone();
        let written = tokio::task::spawn_blocking(move || {
            // Also what somebody removed or changed.
            let present = std::fs::read(file.path()).is_ok_and(|present| present == text);
            if present { Ok(false) } else { file.replace(&text).map(|()| true) }
        });
        let written = written.await.unwrap_or_else(|_| Err(io::Error::other("panic")));
        let written = written.map_err(|source| FetchError::File { path, source })?;
        progress.validator = validator;
        if is_new || written {
            let file = self.file.path().display();
            info!(event = "remote_keys", outcome = "ok", remote = self.remote.name, keys, %file);
        } else {
            debug!(event = "remote_keys", outcome = "unchanged", remote = self.remote.name, keys);
        }
        Ok(fetched.max_age)
    }

    /// Once for each reason, and now and then while it stays.
    fn tell(&self, progress: &mut Progress, error: &str) {
        let is_told = progress
            .told
            .as_ref()
            .is_some_and(|(told, when)| told == error && when.elapsed() < REMINDER);
        if is_told {
            return;
        }
        progress.told = Some((error.to_owned(), Instant::now()));
        let keys = self.live.load().len();
        warn!(
            event = "remote_keys",
            outcome = "error",
            remote = self.remote.name,
            error,
            keys_kept = keys,
            failures = progress.failures
        );
    }

    fn status(&self) -> RemoteStatus {
        RemoteStatus {
            name: self.remote.name.clone(),
            url: self.remote.source.url().to_string(),
            file: self.file.path().display().to_string(),
            tunnels: self.remote.tunnels,
            keys: self.live.load().len(),
            report: self.report().clone(),
        }
    }

    fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

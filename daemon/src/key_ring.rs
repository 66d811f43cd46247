//! Which key signs, and which are published: announced, signing, retiring, gone.
//!
//! The ring is the only writer of the JWKS file and of the keys' states. Each step is made durable
//! before the next relies on it: private key, then JWKS, then state; so a token is never signed by a
//! key that a verifier cannot find, whenever the process ends.

mod given;
mod overview;
mod plan;
mod shared;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use jwt_core::JwkSet;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::clock::Clock;
use crate::config::Keys;
use crate::jwks_file::{self, JwksFile};
use crate::metrics::{Metrics, RingMetrics};
use crate::signing_key::directory::{KeyDirectory, Life, Record};
use crate::signing_key::{DirectoryError, KeyError, LiveKeys, PublicJwks, SigningKey};
use crate::store::{Store, StoreError};
use plan::{Entry, Plan, Request, plan};
use shared::SharedKeys;

pub use overview::KeyOverview;
pub use shared::{SharedError, encryption_key_file};

/// What the ring needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Section `[keys]`.
    pub keys: Keys,
    /// The JWKS file.
    pub jwks_file: PathBuf,
    /// How long tokens live.
    pub jwt_lifetime: Duration,
    /// How long after `exp` verifiers may still accept a token.
    pub leeway: Duration,
}

/// Why the keys cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// The private keys.
    #[error("signing keys: {0}")]
    Directory(#[from] DirectoryError),
    /// A new key.
    #[error("a signing key cannot be made: {0}")]
    Key(#[from] KeyError),
    /// The JWKS file.
    #[error("the JWKS file {} cannot be written: {source}; [jwks] file names another", path.display())]
    Jwks {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The given key is not rotated.
    #[error(
        "the signing key is given by RSA_* variables and is not rotated; replace it and restart"
    )]
    Pinned,
    /// The keys in the database.
    #[error("signing keys: {0}")]
    Shared(#[from] SharedError),
    /// The database with the keys.
    #[error("signing keys: {0}")]
    Store(#[from] StoreError),
    /// Rotated far more often than tokens expire.
    #[error("{0} signing keys are published already; wait until old ones have expired")]
    TooMany(usize),
    /// Our own JWKS does not parse.
    #[error("no key of the JWKS can verify: {0}")]
    Unusable(#[from] jwt_core::JwksError),
}

impl RingError {
    /// The name under which an operator searches the log for it, if it has one.
    pub(crate) fn reason(&self) -> Option<&'static str> {
        let source = match self {
            Self::Jwks { source, .. } | Self::Directory(DirectoryError::Io { source, .. }) => {
                source
            }
            _ => return None,
        };
        (source.kind() == io::ErrorKind::StorageFull).then_some("disk_full")
    }
}

/// When a new key shall sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// After `[keys] announce_for`.
    Announced,
    /// As soon as verifiers can know it: ten seconds after it was published.
    Now,
    /// At once; the key that signs now is no longer published, and its tokens are refused.
    Emergency,
}

/// A rotation that is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    /// The new key.
    pub kid: String,
    /// When it signs, in Unix seconds.
    pub signs_at: i64,
    /// The keys that left for it in an emergency.
    pub dropped: Vec<String>,
}

/// The published keys, as text and ready to verify.
pub struct Published {
    /// The JWKS document.
    pub document: Bytes,
    /// By `kid`, as every verifier uses it.
    pub keys: Arc<JwkSet>,
    /// The same keys without `kid`, for tokens whose `kid` is missing or unknown.
    pub anonymous: JwkSet,
}

/// The signing keys of this daemon. Shared by reference; methods that wait for the disk say so.
pub struct KeyRing {
    settings: Settings,
    clock: Clock,
    jwks: JwksFile,
    vault: Vault,
    entries: Mutex<Vec<Entry>>,
    signing: ArcSwap<SigningKey>,
    published: ArcSwap<Published>,
    live: LiveKeys,
    /// Of the tokens that are valid, in seconds. Asked for on the event loop, where nobody may wait for the
    /// lock on `entries`, which is held while the disk or the database is slow.
    longest_lifetime: AtomicU64,
    changed: Notify,
    metrics: RingMetrics,
}

/// Where the private keys are kept.
enum Vault {
    /// With somebody else, who looks after it.
    Given,
    /// In a folder of this daemon.
    Directory(KeyDirectory),
    /// In the database, for all daemons that use it.
    Database(SharedKeys),
}

/// A database that keeps the signing keys, and the file with the key that encrypts them there.
pub struct SharedVault<'a> {
    /// The database, which daemons share.
    pub store: &'a Store,
    /// The runtime on which it is asked.
    pub runtime: Handle,
    /// See [`encryption_key_file`].
    pub encryption_key: &'a Path,
}

impl KeyRing {
    /// Loads the keys from their folder, or from the database that is given, makes the first one, and writes
    /// the JWKS file. Waits for the disk, and for the database.
    ///
    /// # Errors
    /// Every [`RingError`]; then nothing may be signed.
    pub fn open(
        settings: Settings,
        clock: Clock,
        shared: Option<SharedVault<'_>>,
    ) -> Result<Self, RingError> {
        let now = clock.unix_now();
        let jwks = JwksFile::open(&settings.jwks_file)
            .map_err(|source| RingError::Jwks { path: settings.jwks_file.clone(), source })?;
        let (vault, entries) = match (&settings.keys.given, shared) {
            (Some(given), _) => {
                let key = given::key(given, &settings.keys)?;
                (Vault::Given, vec![Entry::signing(key, now, settings.jwt_lifetime.as_secs())])
            }
            (None, None) => {
                let directory = KeyDirectory::open(&settings.keys.directory)?;
                let mut entries = load(&directory, &settings, now)?;
                if entries.is_empty() {
                    entries.push(first_key(&settings, now)?);
                    directory.save_key(&entries[0].key)?;
                }
                remember_lifetime(&mut entries, &settings);
                (Vault::Directory(directory), entries)
            }
            (None, Some(vault)) => {
                let SharedVault { store, runtime, encryption_key } = vault;
                let keys = SharedKeys::open(store.clone(), runtime, encryption_key)?;
                let opened = keys.alter(&[], |entries| open_shared(entries, &settings, now))?;
                (Vault::Database(keys), opened.next)
            }
        };
        // Rebuilt from the keys before the first token is signed, whatever the old file says.
        let published = Published::of(&entries)?;
        write(&jwks, &published)?;
        if let Vault::Directory(directory) = &vault {
            directory.save_state(records(&entries))?;
        }
        let signing = signing_entry(&entries).key.clone();
        let live = Arc::new(ArcSwap::new(published.keys.clone()));
        let longest_lifetime = AtomicU64::new(longest_lifetime(&entries, &settings));
        let ring = Self {
            settings,
            clock,
            jwks,
            vault,
            entries: Mutex::new(entries),
            signing: ArcSwap::new(signing),
            published: ArcSwap::from_pointee(published),
            live,
            longest_lifetime,
            changed: Notify::new(),
            metrics: RingMetrics::new(),
        };
        ring.count(&ring.lock());
        ring.follow_configured_algorithm()?;
        Ok(ring)
    }

    /// The key that signs now.
    pub fn signing(&self) -> Arc<SigningKey> {
        self.signing.load_full()
    }

    /// The published keys.
    pub fn published(&self) -> Arc<Published> {
        self.published.load_full()
    }

    /// The published keys, shared with whoever verifies tokens.
    pub fn live(&self) -> LiveKeys {
        self.live.clone()
    }

    /// Announces a new key, brings the announced one forward, or replaces the one that signs. Waits for the
    /// disk, or the database, and makes a key.
    ///
    /// # Errors
    /// [`RingError::Pinned`] with a given pair; else when a file cannot be written or the database does not
    /// answer, and then nothing has changed.
    pub fn rotate(&self, when: When) -> Result<Rotation, RingError> {
        if matches!(self.vault, Vault::Given) {
            return Err(RingError::Pinned);
        }
        let rotation = self.carry_out(Request::Rotate(when))?;
        Ok(rotation.expect("a rotation was asked for"))
    }

    /// Follows what another daemon has done to the shared keys. Waits for the database and the disk.
    ///
    /// # Errors
    /// When the database does not answer or the file cannot be written.
    pub fn reload(&self) -> Result<(), RingError> {
        let Vault::Database(shared) = &self.vault else { return Ok(()) };
        let mut entries = self.lock();
        let next = shared.load(&entries)?;
        self.write_if_new(&Published::of(&next)?)?;
        self.accept(&mut entries, next)
    }

    /// When every token that is valid now has expired, in Unix seconds, the leeway of verifiers included.
    pub fn last_token_ends(&self, now: i64) -> i64 {
        let longest = self.longest_lifetime.load(Ordering::Relaxed);
        now.saturating_add_unsigned(plan::stay(longest, &self.settings))
    }

    /// Writes the JWKS file again, as it should be. Waits for the disk.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn republish(&self) -> Result<(), RingError> {
        let entries = self.lock();
        write(&self.jwks, &Published::of(&entries)?)
    }

    /// Carries out what is due until `stop`: announced keys sign, retired ones leave.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            // Not here: whoever holds the lock may wait for a database whose answer this very thread has to read.
            let ring = self.clone();
            let wait = tokio::task::spawn_blocking(move || ring.time_to_next_step()).await;
            let wait = wait.unwrap_or(Duration::from_secs(60));
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.changed.notified() => continue,
                () = tokio::time::sleep(wait) => {}
            }
            let ring = self.clone();
            match tokio::task::spawn_blocking(move || ring.step()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    let reason = error.reason();
                    error!(event = "key_rotation", outcome = "error", reason, error = %error);
                    // Nothing has changed; the disk may have room again later.
                    let _ = tokio::time::timeout(Duration::from_secs(10), stop.cancelled()).await;
                }
                Err(_) => error!(event = "key_rotation", outcome = "panic"),
            }
        }
    }

    /// At most a minute: the wall clock may be set, and sleeping does not notice.
    fn time_to_next_step(&self) -> Duration {
        let now = self.clock.unix_now();
        let due = |entry: &Entry| match entry.record.life {
            Life::Announced { signs_at } => Some(signs_at),
            Life::Retiring { gone_at } => Some(gone_at),
            Life::Signing => None,
        };
        let entries = self.lock();
        let scheduled = plan::next_announcement(&entries, &self.settings);
        let next = entries.iter().filter_map(due).chain(scheduled).min();
        // Not at once, even if it is due: what was due and could not be done shall not be tried in a circle.
        let seconds = next.map_or(60, |at| at.saturating_sub(now).clamp(1, 60));
        Duration::from_secs(seconds.unsigned_abs())
    }

    /// Carries out what is due now. Waits for the disk, or the database.
    fn step(&self) -> Result<(), RingError> {
        match self.vault {
            Vault::Given => Ok(()),
            _ => self.carry_out(Request::Step).map(drop),
        }
    }

    fn carry_out(&self, request: Request) -> Result<Option<Rotation>, RingError> {
        let now = self.clock.unix_now();
        let mut entries = self.lock();
        let make = |entries: &[Entry]| plan(entries, &self.settings, now, request);
        match &self.vault {
            Vault::Given => Ok(None),
            Vault::Directory(directory) => {
                let Plan { next, rotation, is_change } = make(&entries)?;
                if is_change {
                    self.store_in(directory, &entries, &next)?;
                    self.accept(&mut entries, next)?;
                }
                Ok(rotation)
            }
            // Durable there first. A verifier on this host learns of a new key below, before it signs.
            Vault::Database(shared) => {
                let Plan { next, rotation, .. } = shared.alter(&entries, make)?;
                self.write_if_new(&Published::of(&next)?)?;
                self.accept(&mut entries, next)?;
                Ok(rotation)
            }
        }
    }

    /// Makes `next` durable: private key, then JWKS, then state.
    fn store_in(
        &self,
        directory: &KeyDirectory,
        entries: &[Entry],
        next: &[Entry],
    ) -> Result<(), RingError> {
        let is_in =
            |list: &[Entry], entry: &Entry| list.iter().any(|e| e.record.kid == entry.record.kid);
        let added: Vec<_> = next.iter().filter(|entry| !is_in(entries, entry)).collect();
        let gone = entries.iter().filter(|entry| !is_in(next, entry));
        let (retired, revoked): (Vec<_>, Vec<_>) =
            gone.partition(|entry| matches!(entry.record.life, Life::Retiring { .. }));
        let store = || {
            for entry in &added {
                directory.save_key(&entry.key)?;
            }
            self.write_if_new(&Published::of(next)?)?;
            for entry in &retired {
                directory.delete_key(&entry.record.kid)?;
            }
            directory.save_state(records(next))?;
            Ok(())
        };
        let result = store();
        if result.is_ok() {
            // Only a retired key may be missing while the state names it. That `next` holds is settled by now.
            for entry in &revoked {
                if let Err(error) = directory.delete_key(&entry.record.kid) {
                    warn!(event = "key_rotation", outcome = "leftover", error = %error);
                }
            }
        } else {
            // Verifiers need the key that goes on signing.
            if let Err(error) = write(&self.jwks, &self.published.load()) {
                warn!(event = "key_rotation", outcome = "leftover", error = %error);
            }
            for entry in &added {
                if let Err(error) = directory.delete_key(&entry.record.kid) {
                    warn!(event = "key_rotation", outcome = "leftover", error = %error);
                }
            }
        }
        result
    }

    /// A file that would be the same is left alone: each version costs every worker of nginx its cache.
    fn write_if_new(&self, published: &Published) -> Result<(), RingError> {
        if published.document == self.published.load().document {
            return Ok(());
        }
        write(&self.jwks, published)
    }

    /// A changed `[keys] algorithm` is a rotation: verifiers learn the new key first.
    fn follow_configured_algorithm(&self) -> Result<(), RingError> {
        let configured = self.settings.keys.algorithm;
        let follows = matches!(self.vault, Vault::Given)
            || self.lock().iter().any(|entry| {
                !matches!(entry.record.life, Life::Retiring { .. })
                    && entry.key.algorithm() == configured
            });
        if !follows {
            info!(event = "algorithm_changed", algorithm = configured.as_str());
            self.rotate(When::Announced)?;
        }
        Ok(())
    }

    /// Lets `next` hold, whose JWKS is in the file by now: a key signs only when it is there.
    fn accept(&self, entries: &mut Vec<Entry>, next: Vec<Entry>) -> Result<(), RingError> {
        let published = Published::of(&next)?;
        if published.document != self.published.load().document {
            self.live.store(published.keys.clone());
            self.published.store(Arc::new(published));
        }
        let signing = &signing_entry(&next).key;
        if signing.kid() != self.signing.load().kid() {
            self.signing.store(signing.clone());
        }
        let longest = longest_lifetime(&next, &self.settings);
        self.longest_lifetime.store(longest, Ordering::Relaxed);
        report(entries, &next, self.clock.unix_now());
        self.count(&next);
        *entries = next;
        self.changed.notify_one();
        Ok(())
    }

    /// Not asked for when the metrics are: whoever asks there may not wait for the lock on `entries`.
    fn count(&self, entries: &[Entry]) {
        let (mut announced, mut signing, mut retiring) = (0, 0, 0);
        let mut next = None;
        for entry in entries {
            match entry.record.life {
                Life::Announced { signs_at } => {
                    announced += 1;
                    next = Some(signs_at);
                }
                Life::Signing => signing += 1,
                Life::Retiring { .. } => retiring += 1,
            }
        }
        let rotates = !matches!(self.vault, Vault::Given);
        let scheduled = || plan::next_rotation(entries, &self.settings).filter(|_| rotates);
        self.metrics.announced.set(announced);
        self.metrics.signing.set(signing);
        self.metrics.retiring.set(retiring);
        self.metrics.next.set(next.or_else(scheduled).unwrap_or(0));
    }

    /// Lets `metrics` show the keys and their file.
    pub(crate) fn show(&self, metrics: &Metrics) {
        self.metrics.show(metrics);
        self.jwks.show(metrics);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        // The entries are replaced as a whole, so a panic elsewhere leaves them whole.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn load(directory: &KeyDirectory, settings: &Settings, now: i64) -> Result<Vec<Entry>, RingError> {
    let lifetime = settings.jwt_lifetime.as_secs();
    let stay = plan::stay(lifetime, settings);
    let found = directory.load(settings.keys.algorithm, now, stay)?;
    for path in found.strangers {
        warn!(event = "key_ignored", path = %path.display(), reason = "not in state.json");
    }
    Ok(found.keys.into_iter().map(|(record, key)| Entry { record, key: Arc::new(key) }).collect())
}

/// The shared keys for a daemon that starts. The first one brings the keys of its folder, if it has any, so
/// that tokens of before stay valid.
fn open_shared(entries: &[Entry], settings: &Settings, now: i64) -> Result<Plan, RingError> {
    let mut next = entries.to_vec();
    if next.is_empty() && settings.keys.directory.is_dir() {
        next = load(&KeyDirectory::open(&settings.keys.directory)?, settings, now)?;
        if !next.is_empty() {
            let path = settings.keys.directory.display();
            info!(event = "keys_imported", keys = next.len(), path = %path);
        }
    }
    if next.is_empty() {
        next.push(first_key(settings, now)?);
    }
    if next.iter().filter(|entry| entry.record.life == Life::Signing).count() != 1 {
        return Err(SharedError::Malformed(next[0].record.kid.clone()).into());
    }
    remember_lifetime(&mut next, settings);
    Ok(Plan { next, rotation: None, is_change: true })
}

fn first_key(settings: &Settings, now: i64) -> Result<Entry, RingError> {
    let key = new_key(&settings.keys)?;
    info!(event = "key_created", kid = key.kid(), algorithm = key.algorithm().as_str());
    Ok(Entry::signing(key, now, settings.jwt_lifetime.as_secs()))
}

/// A key stays published as long as the longest of its tokens lives, whatever is configured later.
fn remember_lifetime(entries: &mut [Entry], settings: &Settings) {
    let lifetime = settings.jwt_lifetime.as_secs();
    for entry in entries.iter_mut().filter(|entry| entry.record.life == Life::Signing) {
        entry.record.longest_lifetime = entry.record.longest_lifetime.max(lifetime);
    }
}

fn longest_lifetime(entries: &[Entry], settings: &Settings) -> u64 {
    let longest = entries.iter().map(|entry| entry.record.longest_lifetime).max();
    longest.unwrap_or(0).max(settings.jwt_lifetime.as_secs())
}

fn new_key(keys: &Keys) -> Result<SigningKey, KeyError> {
    SigningKey::generate(keys.algorithm, keys.rsa_bits)
}

impl Published {
    fn of(entries: &[Entry]) -> Result<Self, RingError> {
        // The same order in every daemon, so that their files are the same.
        let rank = |entry: &&Entry| match entry.record.life {
            Life::Announced { .. } => 0,
            Life::Signing => 1,
            Life::Retiring { .. } => 2,
        };
        let mut newest_first: Vec<&Entry> = entries.iter().collect();
        newest_first.sort_by(|a, b| {
            let by_age = rank(a).cmp(&rank(b)).then(b.record.created.cmp(&a.record.created));
            by_age.then_with(|| a.record.kid.cmp(&b.record.kid))
        });
        let keys = PublicJwks { keys: newest_first.iter().map(|e| e.key.jwk().clone()).collect() };
        let document = jwks_file::document(&keys);
        Ok(Self {
            keys: Arc::new(JwkSet::parse(&document)?),
            anonymous: JwkSet::parse(&without_kid(&keys))?,
            document,
        })
    }
}

fn write(jwks: &JwksFile, published: &Published) -> Result<(), RingError> {
    jwks.replace(&published.document)
        .map_err(|source| RingError::Jwks { path: jwks.path().into(), source })
}

/// One line for each key whose place in life is another one now.
fn report(before: &[Entry], after: &[Entry], now: i64) {
    let life = |entries: &[Entry], kid: &str| {
        entries.iter().find(|entry| entry.record.kid == kid).map(|entry| entry.record.life.clone())
    };
    for entry in after {
        let kid = entry.record.kid.as_str();
        let old = life(before, kid);
        if old.as_ref() == Some(&entry.record.life) {
            continue;
        }
        match entry.record.life {
            Life::Announced { signs_at } => {
                info!(event = "key_announced", kid, signs_in = signs_at.saturating_sub(now));
            }
            Life::Signing => info!(event = "key_signing", kid),
            Life::Retiring { gone_at } => {
                info!(event = "key_retiring", kid, gone_in = gone_at.saturating_sub(now));
            }
        }
    }
    for entry in before.iter().filter(|entry| life(after, &entry.record.kid).is_none()) {
        let kid = entry.record.kid.as_str();
        match entry.record.life {
            Life::Retiring { .. } => info!(event = "key_gone", kid),
            _ => warn!(event = "key_revoked", kid, reason = "emergency rotation"),
        }
    }
}

fn without_kid(keys: &PublicJwks) -> Vec<u8> {
    let mut document = serde_json::json!(keys);
    for key in document["keys"].as_array_mut().into_iter().flatten() {
        key.as_object_mut().map(|members| members.remove("kid"));
    }
    document.to_string().into_bytes()
}

fn signing_entry(entries: &[Entry]) -> &Entry {
    entries
        .iter()
        .find(|entry| entry.record.life == Life::Signing)
        .expect("loading made sure that one key signs")
}

fn records(entries: &[Entry]) -> Vec<Record> {
    entries.iter().map(|entry| entry.record.clone()).collect()
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;

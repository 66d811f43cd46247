//! Which key signs, and which are published: announced, signing, retiring, gone.
//!
//! The ring is the only writer of the JWKS file and of the keys' states. Each step is made durable
//! before the next relies on it: private key, then JWKS, then state; so a token is never signed by a
//! key that a verifier cannot find, whenever the process ends.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use jwt_core::JwkSet;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::clock::Clock;
use crate::config::{KeyPairFiles, Keys};
use crate::jwks_file::{self, JwksFile};
use crate::signing_key::directory::{KeyDirectory, Life, Record, read_key};
use crate::signing_key::{DirectoryError, KeyError, LiveKeys, PublicJwks, SigningKey};

/// How long `rotate --now` announces a key: ten looks of nginx's default interval of one second.
const SHORT_ANNOUNCEMENT: Duration = Duration::from_secs(10);

/// Added to a retiring key's time: a signature asked for just before the change may be made after it.
const IN_FLIGHT: Duration = Duration::from_secs(60);

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
    /// The given pair is not rotated.
    #[error(
        "the signing key is given by RSA_PRIVATE_KEY_PATH and is not rotated; replace its files and restart"
    )]
    Pinned,
    /// Our own JWKS does not parse.
    #[error("no key of the JWKS can verify: {0}")]
    Unusable(#[from] jwt_core::JwksError),
}

/// When a new key shall sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// After `[keys] announce_for`.
    Announced,
    /// As soon as verifiers can know it: ten seconds after it was published.
    Now,
}

/// A rotation that is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    /// The new key.
    pub kid: String,
    /// When it signs, in Unix seconds.
    pub signs_at: i64,
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
    /// `None` with a given pair.
    directory: Option<KeyDirectory>,
    entries: Mutex<Vec<Entry>>,
    signing: ArcSwap<SigningKey>,
    published: ArcSwap<Published>,
    live: LiveKeys,
    changed: Notify,
}

#[derive(Clone)]
struct Entry {
    record: Record,
    key: Arc<SigningKey>,
}

impl KeyRing {
    /// Loads the keys, makes the first one, and writes the JWKS file. Waits for the disk.
    ///
    /// # Errors
    /// Every [`RingError`]; then nothing may be signed.
    pub fn open(settings: Settings, clock: Clock) -> Result<Self, RingError> {
        let now = clock.unix_now();
        let lifetime = settings.jwt_lifetime.as_secs();
        let jwks = JwksFile::open(&settings.jwks_file)
            .map_err(|source| RingError::Jwks { path: settings.jwks_file.clone(), source })?;
        let (directory, mut entries) = match &settings.keys.pair {
            Some(files) => (None, vec![given_pair(files, &settings.keys, now, lifetime)?]),
            None => {
                let directory = KeyDirectory::open(&settings.keys.directory)?;
                let entries = load(&directory, &settings, now)?;
                (Some(directory), entries)
            }
        };
        for entry in &mut entries {
            if entry.record.life == Life::Signing {
                entry.record.longest_lifetime = entry.record.longest_lifetime.max(lifetime);
            }
        }
        // Rebuilt from the keys before the first token is signed, whatever the old file says.
        let published = publish(&jwks, &entries)?;
        if let Some(directory) = &directory {
            directory.save_state(records(&entries))?;
        }
        let signing = signing_entry(&entries).key.clone();
        let live = Arc::new(ArcSwap::new(published.keys.clone()));
        let ring = Self {
            settings,
            clock,
            jwks,
            directory,
            entries: Mutex::new(entries),
            signing: ArcSwap::new(signing),
            published: ArcSwap::from_pointee(published),
            live,
            changed: Notify::new(),
        };
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

    /// Announces a new key, or brings the announced one forward. Waits for the disk and makes a key.
    ///
    /// # Errors
    /// [`RingError::Pinned`] with a given pair; else when a file cannot be written, and then nothing
    /// has changed.
    pub fn rotate(&self, when: When) -> Result<Rotation, RingError> {
        let Some(directory) = &self.directory else { return Err(RingError::Pinned) };
        let now = self.clock.unix_now();
        let mut entries = self.lock();
        let mut next = entries.clone();
        let announced =
            next.iter().position(|entry| matches!(entry.record.life, Life::Announced { .. }));
        let index = match announced {
            Some(index) => index,
            None => {
                let key = new_key(&self.settings.keys)?;
                directory.save_key(&key)?;
                next.insert(0, self.announced(key, now, self.settings.keys.announce_for));
                0
            }
        };
        let record = &mut next[index].record;
        let Life::Announced { signs_at } = &mut record.life else { unreachable!("chosen above") };
        if when == When::Now {
            *signs_at = (*signs_at).min(record.created.saturating_add(seconds(SHORT_ANNOUNCEMENT)));
        }
        let rotation = Rotation { kid: record.kid.clone(), signs_at: *signs_at };
        let done = publish(&self.jwks, &next).and_then(|published| {
            directory.save_state(records(&next))?;
            Ok(published)
        });
        let published = match done {
            Ok(published) => published,
            Err(error) => {
                if announced.is_none()
                    && let Err(error) = directory.delete_key(&rotation.kid)
                {
                    warn!(event = "key_rotation", outcome = "leftover", error = %error);
                }
                return Err(error);
            }
        };
        self.accept(&mut entries, next, published);
        drop(entries);
        info!(
            event = "key_announced",
            kid = rotation.kid,
            signs_in = rotation.signs_at.saturating_sub(now)
        );
        self.changed.notify_one();
        Ok(rotation)
    }

    /// Writes the JWKS file again, as it should be. Waits for the disk.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn republish(&self) -> Result<(), RingError> {
        let entries = self.lock();
        publish(&self.jwks, &entries).map(drop)
    }

    /// Carries out what is due until `stop`: announced keys sign, retired ones leave.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let wait = self.time_to_next_step();
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.changed.notified() => continue,
                () = tokio::time::sleep(wait) => {}
            }
            let ring = self.clone();
            match tokio::task::spawn_blocking(move || ring.step()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    error!(event = "key_rotation", outcome = "error", error = %error);
                    // Nothing has changed; the disk may have room again later.
                    tokio::time::sleep(Duration::from_secs(10)).await;
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
        let next = self.lock().iter().filter_map(due).min();
        let seconds = next.map_or(60, |at| at.saturating_sub(now).clamp(0, 60));
        Duration::from_secs(seconds.unsigned_abs())
    }

    /// Carries out what is due now. Waits for the disk.
    fn step(&self) -> Result<(), RingError> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let now = self.clock.unix_now();
        let mut entries = self.lock();
        let due = entries.iter().position(
            |entry| matches!(entry.record.life, Life::Announced { signs_at } if signs_at <= now),
        );
        if let Some(index) = due {
            let mut next = entries.clone();
            let tail = self.settings.leeway + IN_FLIGHT;
            for entry in &mut next {
                if entry.record.life == Life::Signing {
                    let stay = entry.record.longest_lifetime.saturating_add(tail.as_secs());
                    entry.record.life =
                        Life::Retiring { gone_at: now.saturating_add_unsigned(stay) };
                    info!(event = "key_retiring", kid = entry.record.kid, gone_in = stay);
                }
            }
            next[index].record.life = Life::Signing;
            next[index].record.longest_lifetime = self.settings.jwt_lifetime.as_secs();
            directory.save_state(records(&next))?;
            info!(event = "key_signing", kid = next[index].record.kid);
            self.signing.store(next[index].key.clone());
            *entries = next;
        }
        let is_gone = |entry: &Entry| matches!(entry.record.life, Life::Retiring { gone_at } if gone_at <= now);
        if entries.iter().any(is_gone) {
            let (gone, next): (Vec<_>, Vec<_>) = entries.iter().cloned().partition(is_gone);
            let published = publish(&self.jwks, &next)?;
            for entry in &gone {
                directory.delete_key(&entry.record.kid)?;
                info!(event = "key_gone", kid = entry.record.kid);
            }
            directory.save_state(records(&next))?;
            self.accept(&mut entries, next, published);
        }
        Ok(())
    }

    /// A changed `[keys] algorithm` is a rotation: verifiers learn the new key first.
    fn follow_configured_algorithm(&self) -> Result<(), RingError> {
        let configured = self.settings.keys.algorithm;
        let follows = self.directory.is_none()
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

    fn announced(&self, key: SigningKey, now: i64, announce_for: Duration) -> Entry {
        let record = Record {
            kid: key.kid().to_owned(),
            algorithm: key.algorithm().as_str().to_owned(),
            created: now,
            longest_lifetime: self.settings.jwt_lifetime.as_secs(),
            life: Life::Announced { signs_at: now.saturating_add(seconds(announce_for)) },
        };
        Entry { record, key: Arc::new(key) }
    }

    fn accept(&self, entries: &mut Vec<Entry>, next: Vec<Entry>, published: Published) {
        self.live.store(published.keys.clone());
        self.published.store(Arc::new(published));
        *entries = next;
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        // The entries are replaced as a whole, so a panic elsewhere leaves them whole.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn load(directory: &KeyDirectory, settings: &Settings, now: i64) -> Result<Vec<Entry>, RingError> {
    let lifetime = settings.jwt_lifetime.as_secs();
    let stay = lifetime.saturating_add((settings.leeway + IN_FLIGHT).as_secs());
    let found = directory.load(settings.keys.algorithm, now, stay)?;
    for path in found.strangers {
        warn!(event = "key_ignored", path = %path.display(), reason = "not in state.json");
    }
    let mut entries: Vec<Entry> =
        found.keys.into_iter().map(|(record, key)| Entry { record, key: Arc::new(key) }).collect();
    if entries.is_empty() {
        let key = new_key(&settings.keys)?;
        directory.save_key(&key)?;
        info!(event = "key_created", kid = key.kid(), algorithm = key.algorithm().as_str());
        entries.push(signing(key, now, lifetime));
    }
    Ok(entries)
}

fn new_key(keys: &Keys) -> Result<SigningKey, KeyError> {
    SigningKey::generate(keys.algorithm, keys.rsa_bits)
}

fn signing(key: SigningKey, now: i64, lifetime: u64) -> Entry {
    let record = Record {
        kid: key.kid().to_owned(),
        algorithm: key.algorithm().as_str().to_owned(),
        created: now,
        longest_lifetime: lifetime,
        life: Life::Signing,
    };
    Entry { record, key: Arc::new(key) }
}

/// The pair of `RSA_PUBLIC_KEY_PATH` and `RSA_PRIVATE_KEY_PATH`: read, or made when both are
/// missing. A private key is never overwritten.
fn given_pair(
    files: &KeyPairFiles,
    keys: &Keys,
    now: i64,
    lifetime: u64,
) -> Result<Entry, RingError> {
    let pair_error = |text: String| RingError::Directory(DirectoryError::Pair(text));
    let (public, private) = (files.public.display(), files.private.display());
    match (files.public.exists(), files.private.exists()) {
        (true, true) => {
            let key = read_key(&files.private, &[keys.algorithm])?;
            let pem = std::fs::read(&files.public).map_err(|source| DirectoryError::Io {
                action: "read",
                path: files.public.clone(),
                source,
            })?;
            if !key.has_public_pem(&pem) {
                return Err(pair_error(format!(
                    "{public} (RSA_PUBLIC_KEY_PATH) is not the public key of {private} \
                     (RSA_PRIVATE_KEY_PATH); make it with: openssl pkey -in {private} -pubout"
                )));
            }
            Ok(signing(key, now, lifetime))
        }
        (false, false) => {
            let key = new_key(keys)?;
            let pem = key.to_pem()?;
            let public_pem = key.to_public_pem().ok_or(KeyError::Library)?;
            for (path, text, mode) in [
                (&files.private, pem.as_str(), crate::atomic_file::PRIVATE),
                (&files.public, public_pem.as_str(), crate::atomic_file::PUBLIC),
            ] {
                crate::atomic_file::replace(path, text.as_bytes(), mode).map_err(|source| {
                    DirectoryError::Io { action: "write", path: path.clone(), source }
                })?;
            }
            info!(event = "key_created", kid = key.kid(), algorithm = key.algorithm().as_str());
            Ok(signing(key, now, lifetime))
        }
        (true, false) => Err(pair_error(format!(
            "{private} (RSA_PRIVATE_KEY_PATH) is missing, but {public} is there; restore it, or \
             remove the public key to get a new pair"
        ))),
        (false, true) => Err(pair_error(format!(
            "{public} (RSA_PUBLIC_KEY_PATH) is missing, but {private} is there; make it with: \
             openssl pkey -in {private} -pubout -out {public}"
        ))),
    }
}

fn publish(jwks: &JwksFile, entries: &[Entry]) -> Result<Published, RingError> {
    let mut newest_first: Vec<&Entry> = entries.iter().collect();
    newest_first.sort_by_key(|entry| std::cmp::Reverse(entry.record.created));
    let keys = PublicJwks { keys: newest_first.iter().map(|e| e.key.jwk().clone()).collect() };
    let document = jwks_file::document(&keys);
    let published = Published {
        keys: Arc::new(JwkSet::parse(&document)?),
        anonymous: JwkSet::parse(&without_kid(&keys))?,
        document,
    };
    jwks.replace(&published.document)
        .map_err(|source| RingError::Jwks { path: jwks.path().into(), source })?;
    Ok(published)
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

//! Files that are followed while nginx serves: key sets, revocations. Read at start, looked at from a timer, swapped
//! as a whole, the last good version kept.
//!
//! A worker has one thread, so plain cells suffice. What the master read before it forked is each worker's start.

use std::cell::{Cell, RefCell};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jwt_core::{DenyList, JwkSet, JwksError, RevocationError, Revocations, limits};

use crate::ffi::Zone;
use crate::log::{Level, escape};

/// How often a worker looks at a file unless `auth_jwt_key_refresh` says otherwise.
pub(crate) const DEFAULT_REFRESH: Duration = Duration::from_secs(1);

/// Why the newest version of a file is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("{0}")]
    Io(#[source] io::Error),
    #[error("it is not a regular file")]
    NotRegular,
    #[error("it was written to while it was read")]
    Changing,
    #[error("it is larger than {0} bytes")]
    TooLarge(u64),
    #[error("{0}")]
    Jwks(#[source] JwksError),
    #[error("{0}")]
    Revocation(#[source] RevocationError),
}

/// What a file is read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// A JWK Set (RFC 7517 §5).
    Jwks,
    /// A JSON object from `kid` to a public key in PEM.
    Keyval,
    /// A JSON object whose member names are refused values.
    DenyList,
    /// The daemon's `revoked.json`.
    Revocations,
}

impl Format {
    /// What log lines call a file of this format.
    fn noun(self) -> &'static str {
        match self {
            Self::Jwks | Self::Keyval => "keyset",
            Self::DenyList | Self::Revocations => "revocations",
        }
    }

    fn most_bytes(self) -> u64 {
        match self {
            Self::Jwks | Self::Keyval => limits::JWKS_BYTES as u64,
            // One line for each device of a large fleet.
            Self::DenyList | Self::Revocations => 16 * 1024 * 1024,
        }
    }

    /// Reads a text of this format.
    pub(crate) fn parse(self, text: &[u8]) -> Result<Content, LoadError> {
        Ok(match self {
            Self::Jwks => Content::Keys(Arc::new(JwkSet::parse(text).map_err(LoadError::Jwks)?)),
            Self::Keyval => {
                Content::Keys(Arc::new(JwkSet::parse_keyval(text).map_err(LoadError::Jwks)?))
            }
            Self::DenyList => {
                Content::DenyList(Rc::new(DenyList::parse(text).map_err(LoadError::Revocation)?))
            }
            Self::Revocations => Content::Revocations(Rc::new(
                Revocations::parse(text).map_err(LoadError::Revocation)?,
            )),
        })
    }

    /// The word of configurations.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Jwks => "jwks",
            Self::Keyval => "keyval",
            Self::DenyList => "list",
            Self::Revocations => "revocations",
        }
    }
}

/// A good version of a file.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    Keys(Arc<JwkSet>),
    DenyList(Rc<DenyList>),
    Revocations(Rc<Revocations>),
}

impl Content {
    /// How many keys or entries it has.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Keys(keys) => keys.len(),
            Self::DenyList(list) => list.len(),
            Self::Revocations(revocations) => revocations.len(),
        }
    }
}

/// One file, shared by all locations that name it.
#[derive(Debug)]
pub(crate) struct WatchedFile {
    path: PathBuf,
    format: Format,
    content: RefCell<Option<Content>>,
    generation: Cell<u64>,
    /// When the content was read, in seconds since the epoch.
    loaded_at: Cell<i64>,
    /// The text of the content.
    text: RefCell<Vec<u8>>,
    /// Whether the zone has that text.
    published: Cell<bool>,
    /// What was last looked at, good or bad, so that each version is read and reported once.
    seen: Cell<Option<Seen>>,
    /// Why the newest version is not in use.
    refused: RefCell<Option<String>>,
    refresh: Cell<Option<Duration>>,
    last_look: Cell<Option<Instant>>,
    wake: Wake,
}

/// Brings the timer's next look forward; set in a worker while the timer exists.
#[derive(Default)]
struct Wake(RefCell<Option<Box<dyn Fn()>>>);

impl std::fmt::Debug for Wake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wake")
    }
}

/// The identity of a version of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    File {
        device: u64,
        inode: u64,
        size: u64,
        mtime: i64,
        mtime_ns: i64,
        ctime: i64,
        ctime_ns: i64,
    },
    Failed(Option<i32>),
}

impl Seen {
    fn of(metadata: &Metadata) -> Self {
        Self::File {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            mtime: metadata.mtime(),
            mtime_ns: metadata.mtime_nsec(),
            // Catches a mode that changes: a file that could not be read becomes readable.
            ctime: metadata.ctime(),
            ctime_ns: metadata.ctime_nsec(),
        }
    }
}

/// A line for the error log.
pub(crate) type Line = (Level, String);

impl WatchedFile {
    pub(crate) fn new(path: PathBuf, format: Format) -> Self {
        Self {
            path,
            format,
            content: RefCell::new(None),
            generation: Cell::new(0),
            loaded_at: Cell::new(0),
            text: RefCell::new(Vec::new()),
            published: Cell::new(true),
            seen: Cell::new(None),
            refused: RefCell::new(None),
            refresh: Cell::new(None),
            last_look: Cell::new(None),
            wake: Wake::default(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// The last good content.
    pub(crate) fn content(&self) -> Option<Content> {
        self.content.borrow().clone()
    }

    /// The last good keys.
    pub(crate) fn keys(&self) -> Option<Arc<JwkSet>> {
        match &*self.content.borrow() {
            Some(Content::Keys(keys)) => Some(Arc::clone(keys)),
            _ => None,
        }
    }

    pub(crate) fn is_loaded(&self) -> bool {
        self.content.borrow().is_some()
    }

    /// Counts the good versions; 0 before the first.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.get()
    }

    /// When the content was read, in seconds since the epoch; 0 before the first.
    pub(crate) fn loaded_at(&self) -> i64 {
        self.loaded_at.get()
    }

    /// Whether the newest version of the file is not the one in use.
    pub(crate) fn is_refused(&self) -> bool {
        self.refused.borrow().is_some()
    }

    /// Why the newest version of the file is not the one in use.
    pub(crate) fn last_error(&self) -> Option<String> {
        self.refused.borrow().clone()
    }

    /// Whether the last look is at least `interval` ago.
    pub(crate) fn is_due(&self, interval: Duration) -> bool {
        self.last_look.get().is_none_or(|last| last.elapsed() >= interval)
    }

    /// How often to look: the shortest interval that a location asks for.
    pub(crate) fn refresh(&self) -> Duration {
        self.refresh.get().unwrap_or(DEFAULT_REFRESH)
    }

    pub(crate) fn ask_refresh(&self, interval: Duration) {
        self.refresh.set(Some(self.refresh.get().map_or(interval, |asked| asked.min(interval))));
    }

    /// Called by the timer when it starts and, with `None`, when it ends.
    pub(crate) fn on_wake(&self, wake: Option<Box<dyn Fn()>>) {
        self.wake.0.replace(wake);
    }

    /// Asks the timer to look at once, because a token named a key that is not here. At most once a second, so
    /// that made-up names cost nothing; never in the request itself, which must not wait for a disk.
    pub(crate) fn look_soon(&self) {
        const BETWEEN: Duration = Duration::from_secs(1);
        if self.last_look.get().is_some_and(|last| last.elapsed() < BETWEEN) {
            return;
        }
        if let Some(wake) = &*self.wake.0.borrow() {
            self.last_look.set(Some(Instant::now()));
            wake();
        }
    }

    /// Reads the file if its identity has changed. `log` gets what an operator should know, once for each version.
    ///
    /// # Errors
    /// [`LoadError`] if this version is new and can't be used; the keys stay as they were.
    pub(crate) fn look(&self, mut log: impl FnMut(Line)) -> Result<(), LoadError> {
        self.last_look.set(Some(Instant::now()));
        let seen = match std::fs::metadata(&self.path) {
            Ok(metadata) => Seen::of(&metadata),
            Err(error) => Seen::Failed(error.raw_os_error()),
        };
        if self.seen.get() == Some(seen) {
            return Ok(());
        }
        match read(&self.path, self.format.most_bytes()) {
            Ok((seen, text)) => {
                self.seen.set(Some(seen));
                self.format.parse(&text).map(|content| (content, text))
            }
            // Not a version yet: looked at again next time, without a word.
            Err(LoadError::Changing) => return Ok(()),
            Err(error) => {
                self.seen.set(Some(seen));
                Err(error)
            }
        }
        .map(|(content, text)| {
            self.refused.replace(None);
            self.published.set(false);
            self.swap(content, text, &mut log);
        })
        .inspect_err(|error| {
            self.refused.replace(Some(error.to_string()));
            log((
                Level::Error,
                format!(
                    "jwt: {} {} rejected cause=\"{error}\" kept gen={} source={}",
                    self.format.noun(),
                    self.name(),
                    self.generation(),
                    self.path.display()
                ),
            ));
        })
    }

    /// Puts what was read since the last time into the zone, for reloads and for workers to come.
    pub(crate) fn publish(&self, zone: &Zone, log: &mut impl FnMut(Line)) {
        if self.published.replace(true) {
            return;
        }
        if !zone.store(&self.zone_name(), &self.text.borrow()) {
            log((
                Level::Warn,
                format!(
                    "jwt: {} {} does not fit into shared memory; a reload while the file is bad will lose it \
                     source={}",
                    self.format.noun(),
                    self.name(),
                    self.path.display()
                ),
            ));
        }
    }

    /// The name of the file's text in the zone: one file can be read in two ways.
    fn zone_name(&self) -> Vec<u8> {
        [self.format.name().as_bytes(), b":", self.path.as_os_str().as_bytes()].concat()
    }

    /// Takes what another worker has read last, if it is other than the master's. Does not touch what is known
    /// about the file itself: the timer's first look decides whether it is good.
    pub(crate) fn adopt(&self, zone: &Zone, log: &mut impl FnMut(Line)) {
        let Some(text) = zone.load(&self.zone_name()) else { return };
        if self.is_loaded() && *self.text.borrow() == text {
            return;
        }
        // It was parsed before it was stored.
        if let Ok(content) = self.format.parse(&text) {
            self.swap(content, text, log);
        }
    }

    fn swap(&self, content: Content, text: Vec<u8>, log: &mut impl FnMut(Line)) {
        if let Content::Keys(keys) = &content {
            log_warnings(keys, &self.name(), &self.path.display().to_string(), log);
        }
        self.generation.set(self.generation() + 1);
        self.loaded_at.set(unix_now());
        self.content.replace(Some(content));
        self.text.replace(text);
        log((Level::Notice, self.describe()));
    }

    /// The line that tells which version is in use.
    pub(crate) fn describe(&self) -> String {
        let unit = match self.format {
            Format::Jwks | Format::Keyval => "keys",
            Format::DenyList | Format::Revocations => "entries",
        };
        format!(
            "jwt: {} {} gen={} {unit}={} source={}",
            self.format.noun(),
            self.name(),
            self.generation(),
            self.content().map_or(0, |content| content.len()),
            self.path.display()
        )
    }

    /// The file's name without its extension, for log lines.
    pub(crate) fn name(&self) -> String {
        escape(&self.path.file_stem().unwrap_or_default().to_string_lossy())
    }
}

/// What an operator should know about single keys of a set.
pub(crate) fn log_warnings(keys: &JwkSet, name: &str, source: &str, log: &mut impl FnMut(Line)) {
    for warning in keys.warnings() {
        let kid = warning.kid.as_deref().map(escape).unwrap_or_default();
        log((
            Level::Warn,
            format!(
                "jwt: keyset {name} key {} kid=\"{kid}\": {} source={source}",
                warning.index, warning.text
            ),
        ));
    }
}

/// For people: a wrong clock only shows a wrong time.
pub(crate) fn unix_now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

/// Reads one version of the file, whole.
fn read(path: &Path, most: u64) -> Result<(Seen, Vec<u8>), LoadError> {
    /// Linux's value: a FIFO or a device under this name must not block a worker.
    const O_NONBLOCK: i32 = 0o4000;
    let file: File =
        OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path).map_err(LoadError::Io)?;
    let before = file.metadata().map_err(LoadError::Io)?;
    let kind = before.file_type();
    if !kind.is_file() || kind.is_fifo() {
        return Err(LoadError::NotRegular);
    }
    if before.size() > most {
        return Err(LoadError::TooLarge(most));
    }
    let mut text = Vec::with_capacity(usize::try_from(before.size()).unwrap_or_default());
    // One more than the limit, so that a file which grows meanwhile is noticed.
    (&file).take(most + 1).read_to_end(&mut text).map_err(LoadError::Io)?;
    let after = file.metadata().map_err(LoadError::Io)?;
    if Seen::of(&before) != Seen::of(&after) || text.len() as u64 != after.size() {
        return Err(LoadError::Changing);
    }
    Ok((Seen::of(&after), text))
}

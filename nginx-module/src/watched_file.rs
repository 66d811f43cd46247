//! Key files: read at start, looked at from a timer, swapped as a whole, the last good set kept.
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
use std::time::{Duration, Instant};

use jwt_core::{JwkSet, JwksError, limits};

use crate::ffi::Zone;
use crate::log::{Level, escape};

/// How often a worker looks at a key file unless `auth_jwt_key_refresh` says otherwise.
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
    #[error("{0}")]
    Jwks(#[source] JwksError),
}

/// One file of keys, shared by all locations that name it.
#[derive(Debug)]
pub(crate) struct KeyFile {
    path: PathBuf,
    keys: RefCell<Option<Arc<JwkSet>>>,
    generation: Cell<u64>,
    /// The text of the keys.
    text: RefCell<Vec<u8>>,
    /// Whether the zone has that text.
    published: Cell<bool>,
    /// What was last looked at, good or bad, so that each version is read and reported once.
    seen: Cell<Option<Seen>>,
    refused: Cell<bool>,
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

impl KeyFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            keys: RefCell::new(None),
            generation: Cell::new(0),
            text: RefCell::new(Vec::new()),
            published: Cell::new(true),
            seen: Cell::new(None),
            refused: Cell::new(false),
            refresh: Cell::new(None),
            last_look: Cell::new(None),
            wake: Wake::default(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The last good keys.
    pub(crate) fn keys(&self) -> Option<Arc<JwkSet>> {
        self.keys.borrow().clone()
    }

    /// Counts the good versions; 0 before the first.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.get()
    }

    /// Whether the newest version of the file is not the one in use.
    pub(crate) fn is_refused(&self) -> bool {
        self.refused.get()
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
        match read(&self.path) {
            Ok((seen, text)) => {
                self.seen.set(Some(seen));
                JwkSet::parse(&text).map(|keys| (keys, text)).map_err(LoadError::Jwks)
            }
            // Not a version yet: looked at again next time, without a word.
            Err(LoadError::Changing) => return Ok(()),
            Err(error) => {
                self.seen.set(Some(seen));
                Err(error)
            }
        }
        .map(|(keys, text)| {
            self.refused.set(false);
            self.published.set(false);
            self.swap(keys, text, &mut log);
        })
        .inspect_err(|error| {
            self.refused.set(true);
            log((
                Level::Error,
                format!(
                    "jwt: keyset {} rejected cause=\"{error}\" kept gen={} source={}",
                    self.name(),
                    self.generation(),
                    self.path.display()
                ),
            ));
        })
    }

    /// Puts the keys that were read since the last time into the zone, for reloads and for workers to come.
    pub(crate) fn publish(&self, zone: &Zone, log: &mut impl FnMut(Line)) {
        if self.published.replace(true) {
            return;
        }
        if !zone.store(self.path.as_os_str().as_bytes(), &self.text.borrow()) {
            log((
                Level::Warn,
                format!(
                    "jwt: keyset {} does not fit into shared memory; a reload while the file is bad will lose it \
                     source={}",
                    self.name(),
                    self.path.display()
                ),
            ));
        }
    }

    /// Takes the keys that another worker has read last, if they are others than the master's. Does not touch what
    /// is known about the file itself: the timer's first look decides whether it is good.
    pub(crate) fn adopt(&self, zone: &Zone, log: &mut impl FnMut(Line)) {
        let Some(text) = zone.load(self.path.as_os_str().as_bytes()) else { return };
        if self.keys().is_some() && *self.text.borrow() == text {
            return;
        }
        // It was parsed before it was stored.
        if let Ok(keys) = JwkSet::parse(&text) {
            self.swap(keys, text, log);
        }
    }

    fn swap(&self, keys: JwkSet, text: Vec<u8>, log: &mut impl FnMut(Line)) {
        for warning in keys.warnings() {
            let kid = warning.kid.as_deref().map(escape).unwrap_or_default();
            log((
                Level::Warn,
                format!(
                    "jwt: keyset {} key {} kid=\"{kid}\": {} source={}",
                    self.name(),
                    warning.index,
                    warning.text,
                    self.path.display()
                ),
            ));
        }
        self.generation.set(self.generation() + 1);
        log((
            Level::Notice,
            format!(
                "jwt: keyset {} gen={} keys={} source={}",
                self.name(),
                self.generation(),
                keys.len(),
                self.path.display()
            ),
        ));
        self.keys.replace(Some(Arc::new(keys)));
        self.text.replace(text);
    }

    /// The file's name without its extension, for log lines.
    pub(crate) fn name(&self) -> String {
        escape(&self.path.file_stem().unwrap_or_default().to_string_lossy())
    }
}

/// Reads one version of the file, whole.
fn read(path: &Path) -> Result<(Seen, Vec<u8>), LoadError> {
    /// Linux's value: a FIFO or a device under this name must not block a worker.
    const O_NONBLOCK: i32 = 0o4000;
    let file: File =
        OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path).map_err(LoadError::Io)?;
    let before = file.metadata().map_err(LoadError::Io)?;
    let kind = before.file_type();
    if !kind.is_file() || kind.is_fifo() {
        return Err(LoadError::NotRegular);
    }
    let most = limits::JWKS_BYTES as u64;
    if before.size() > most {
        return Err(LoadError::Jwks(JwksError::TooLarge));
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

/// The key files of one level of the configuration, in their order.
#[derive(Debug)]
pub(crate) struct KeyRing {
    files: Vec<Rc<KeyFile>>,
    /// The keys of all files, made again when one of them has changed.
    union: RefCell<Option<(u64, Arc<JwkSet>)>>,
}

impl KeyRing {
    pub(crate) fn new(files: Vec<Rc<KeyFile>>) -> Self {
        Self { files, union: RefCell::new(None) }
    }

    pub(crate) fn files(&self) -> &[Rc<KeyFile>] {
        &self.files
    }

    /// The current keys; `None` while no file has ever been good.
    pub(crate) fn keys(&self) -> Option<Arc<JwkSet>> {
        if let [file] = &*self.files {
            return file.keys();
        }
        // Each generation only grows, so equal sums mean equal sets.
        let generation = self.files.iter().map(|file| file.generation()).sum();
        if let Some((current, union)) = &*self.union.borrow()
            && *current == generation
        {
            return Some(Arc::clone(union));
        }
        let sets: Vec<_> = self.files.iter().filter_map(|file| file.keys()).collect();
        if sets.is_empty() {
            return None;
        }
        let union = Arc::new(JwkSet::union(sets.iter().map(|set| &**set)));
        self.union.replace(Some((generation, Arc::clone(&union))));
        Some(union)
    }

    /// Whether a newer version of one of the files could not be used, so that a key may be missing.
    pub(crate) fn is_refused(&self) -> bool {
        self.files.iter().any(|file| file.is_refused())
    }

    /// ` keyset=… gen=…` for log lines.
    pub(crate) fn describe(&self) -> String {
        let names: Vec<_> = self.files.iter().map(|file| file.name()).collect();
        let generations: Vec<_> =
            self.files.iter().map(|file| file.generation().to_string()).collect();
        format!(" keyset={} gen={}", names.join(","), generations.join(","))
    }
}

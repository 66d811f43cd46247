//! Where the keys of a location come from: files, files whose path holds variables, internal requests; and issuers,
//! each with keys of its own.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use jwt_core::{JwkSet, Policy};

use crate::conf::Policies;
use crate::dialect::kjdev_file_line;
use crate::ffi::{ComplexValue, Request, Zone};
use crate::key_request::{Fetched, KeyRequest};
use crate::log::{Level, escape};
use crate::watched_file::{DEFAULT_REFRESH, Format, WatchedFile};

/// Most files that one `auth_jwt_key_file` with variables keeps; tenants in use stay, others are read again.
const FILES: usize = 256;
/// Most unions of dynamic key sets that a location keeps.
const UNIONS: usize = 256;

/// One `auth_jwt_key_file` or `auth_jwt_key_request`.
#[derive(Clone, Debug)]
pub(crate) enum KeySource {
    File(Rc<WatchedFile>),
    FileByVariable(Rc<FileByVariable>),
    Request(Rc<KeyRequest>),
}

impl KeySource {
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File(a), Self::File(b)) => Rc::ptr_eq(a, b),
            (Self::FileByVariable(a), Self::FileByVariable(b)) => Rc::ptr_eq(a, b),
            (Self::Request(a), Self::Request(b)) => Rc::ptr_eq(a, b),
            _ => false,
        }
    }
}

/// Files whose path is known only at the request. They are looked at when a request needs them, not from a timer.
#[derive(Debug)]
pub(crate) struct FileByVariable {
    path: ComplexValue,
    /// What a relative path begins at: the folder of nginx.conf, as for paths without variables.
    folder: PathBuf,
    format: Format,
    zone: Cell<Option<Zone>>,
    files: RefCell<HashMap<PathBuf, Rc<WatchedFile>>>,
}

impl FileByVariable {
    pub(crate) fn new(path: ComplexValue, folder: PathBuf, format: Format) -> Self {
        Self { path, folder, format, zone: Cell::default(), files: RefCell::default() }
    }

    pub(crate) fn set_zone(&self, zone: Zone) {
        self.zone.set(Some(zone));
    }

    /// The file that this request means.
    fn file(&self, request: &mut Request<'_>, refresh: Duration) -> Option<Rc<WatchedFile>> {
        let path = request.key_parameter(&self.path);
        // It may hold a claim of whoever sends a token: that must not lead out of the folder.
        if path.is_empty()
            || path.contains(&0)
            || path.split(|byte| *byte == b'/').any(|s| s == b"..")
        {
            let shown = escape(&String::from_utf8_lossy(path));
            request
                .log(Level::Info, &format!("jwt: auth_jwt_key_file \"{shown}\" is not looked for"));
            return None;
        }
        let path = self.folder.join(std::ffi::OsStr::from_bytes(path));
        let known = self.files.borrow().get(&path).cloned();
        let file = known.unwrap_or_else(|| {
            let mut files = self.files.borrow_mut();
            if files.len() >= FILES {
                // Names that lead nowhere cost nothing to make up: they must not push out the keys in use.
                files.retain(|_, file| file.is_loaded());
            }
            if files.len() >= FILES {
                files.clear();
            }
            let file = Rc::new(WatchedFile::new(path.clone(), self.format));
            // What another worker, or one before a reload, has read last.
            if let Some(zone) = self.zone.get() {
                file.adopt(&zone, &mut |(level, line)| request.log(level, &line));
            }
            files.insert(path, Rc::clone(&file));
            file
        });
        // How long keys are fresh says nothing about a file that has none, or a bad version.
        let is_good = file.is_loaded() && !file.is_refused();
        if file.is_due(if is_good { refresh } else { refresh.min(DEFAULT_REFRESH) }) {
            // What is wrong with it has been logged; the last good keys stay.
            let looked = file.look(|(level, line)| request.log(level, &line));
            if looked.is_err() && request.main_conf().dialect.get().is_kjdev() {
                request.log(Level::Error, &kjdev_file_line(&file));
            }
            if let Some(zone) = self.zone.get() {
                file.publish(&zone, &mut |(level, line)| request.log(level, &line));
            }
        }
        Some(file)
    }

    pub(crate) fn files(&self) -> Vec<Rc<WatchedFile>> {
        self.files.borrow().values().cloned().collect()
    }
}

/// How old keys may be that are looked at by requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Freshness {
    /// `auth_jwt_key_refresh`
    pub(crate) files: Duration,
    /// `auth_jwt_key_cache`
    pub(crate) requests: Duration,
}

impl Freshness {
    /// For files with variables a longer `auth_jwt_key_cache` spares the look.
    fn on_demand(self) -> Duration {
        self.files.max(self.requests)
    }
}

/// The keys of a location at one moment.
#[derive(Debug)]
pub(crate) enum Resolved {
    Keys(Arc<JwkSet>),
    /// No source has ever given usable keys.
    Unavailable,
    /// Keys are on their way; the request has to wait for them.
    Wait,
}

/// Whether a request can wait for keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// In a phase handler of a main request.
    MayWait,
    /// In a variable or a subrequest: only what is here counts.
    Now,
}

/// The key sources of one level, in their order.
#[derive(Debug)]
pub(crate) struct KeySources {
    sources: Vec<KeySource>,
    /// The union of static files, made again when one of them has changed.
    union: RefCell<Option<(u64, Arc<JwkSet>)>>,
    /// Unions of sets that requests have met, by the sets' ids.
    dynamic: RefCell<HashMap<Vec<u64>, Arc<JwkSet>>>,
}

impl KeySources {
    pub(crate) fn new(sources: Vec<KeySource>) -> Self {
        Self { sources, union: RefCell::default(), dynamic: RefCell::default() }
    }

    pub(crate) fn is_same(&self, sources: &[KeySource]) -> bool {
        self.sources.len() == sources.len()
            && self.sources.iter().zip(sources).all(|(a, b)| a.is_same(b))
    }

    pub(crate) fn sources(&self) -> &[KeySource] {
        &self.sources
    }

    /// Whether keys depend on the request.
    pub(crate) fn is_dynamic(&self) -> bool {
        !self.sources.iter().all(|source| matches!(source, KeySource::File(_)))
    }

    fn static_files(&self) -> impl Iterator<Item = &Rc<WatchedFile>> {
        self.sources.iter().filter_map(|source| match source {
            KeySource::File(file) => Some(file),
            _ => None,
        })
    }

    /// The current keys, where they do not depend on the request; `None` while no file has ever been good.
    pub(crate) fn static_keys(&self) -> Option<Arc<JwkSet>> {
        if let [KeySource::File(file)] = &*self.sources {
            return file.keys();
        }
        // Each generation only grows, so equal sums mean equal sets.
        let generation = self.static_files().map(|file| file.generation()).sum();
        if let Some((current, union)) = &*self.union.borrow()
            && *current == generation
        {
            return Some(Arc::clone(union));
        }
        let sets: Vec<_> = self.static_files().filter_map(|file| file.keys()).collect();
        if sets.is_empty() {
            return None;
        }
        let union = Arc::new(JwkSet::union(sets.iter().map(|set| &**set)));
        self.union.replace(Some((generation, Arc::clone(&union))));
        Some(union)
    }

    /// The keys for this request.
    pub(crate) fn resolve(
        &self,
        request: &mut Request<'_>,
        patience: Patience,
        freshness: Freshness,
    ) -> Resolved {
        if !self.is_dynamic() {
            return self.static_keys().map_or(Resolved::Unavailable, Resolved::Keys);
        }
        let mut sets = Vec::new();
        let mut wait = false;
        for source in &self.sources {
            match source {
                KeySource::File(file) => sets.extend(file.keys()),
                KeySource::FileByVariable(files) => {
                    let file = files.file(request, freshness.on_demand());
                    sets.extend(file.and_then(|file| file.keys()));
                }
                KeySource::Request(source) => {
                    match source.keys(request, patience, freshness.requests) {
                        Fetched::Keys(keys) => sets.push(keys),
                        Fetched::Nothing => {}
                        // The others are started too, so that they run at the same time.
                        Fetched::Wait => wait = true,
                    }
                }
            }
        }
        if wait {
            return Resolved::Wait;
        }
        match &*sets {
            [] => Resolved::Unavailable,
            [keys] => Resolved::Keys(Arc::clone(keys)),
            several => Resolved::Keys(self.union_of(several)),
        }
    }

    fn union_of(&self, sets: &[Arc<JwkSet>]) -> Arc<JwkSet> {
        let ids: Vec<u64> = sets.iter().map(|set| set.id()).collect();
        let mut unions = self.dynamic.borrow_mut();
        if let Some(union) = unions.get(&ids) {
            return Arc::clone(union);
        }
        if unions.len() >= UNIONS {
            unions.clear();
        }
        let union = Arc::new(JwkSet::union(sets.iter().map(|set| &**set)));
        unions.insert(ids, Arc::clone(&union));
        union
    }

    /// A key that nobody knows may stand in a newer version of a file: the next look is brought forward.
    pub(crate) fn look_soon(&self) {
        for file in self.static_files() {
            file.look_soon();
        }
    }

    /// The same for keys that were fetched: whether this request waits for them to be fetched again.
    pub(crate) fn refetch(&self, request: &mut Request<'_>) -> bool {
        let mut again = false;
        for source in &self.sources {
            if let KeySource::Request(source) = source {
                again |= source.fetch_again(request);
            }
        }
        again
    }

    /// Whether a newer version of one of the sources could not be used, so that a key may be missing.
    pub(crate) fn is_refused(&self, request: &mut Request<'_>, freshness: Freshness) -> bool {
        self.sources.iter().any(|source| match source {
            KeySource::File(file) => file.is_refused(),
            KeySource::FileByVariable(files) => {
                files.file(request, freshness.on_demand()).is_some_and(|file| file.is_refused())
            }
            KeySource::Request(source) => source.is_refused(request),
        })
    }

    /// ` keyset=… gen=…` for log lines.
    pub(crate) fn describe(&self) -> String {
        let mut names = Vec::new();
        let mut generations = Vec::new();
        for source in &self.sources {
            match source {
                KeySource::File(file) => {
                    names.push(file.name());
                    generations.push(file.generation().to_string());
                }
                KeySource::FileByVariable(_) => names.push("variable".to_owned()),
                KeySource::Request(source) => names.push(source.name()),
            }
        }
        let gens = generations.join(",");
        let gens = if gens.is_empty() { String::new() } else { format!(" gen={gens}") };
        format!(" keyset={}{gens}", names.join(","))
    }
}

/// One `auth_jwt_issuer`: tokens with this `iss` are verified with these keys alone.
#[derive(Debug)]
pub(crate) struct Issuer {
    pub(crate) name: String,
    pub(crate) keys: KeySources,
    pub(crate) audience: Vec<String>,
    pub(crate) algorithms: Vec<jwt_core::Algorithm>,
}

/// The issuers of one level.
#[derive(Debug)]
pub(crate) struct Issuers {
    pub(crate) list: Vec<Rc<Issuer>>,
    /// The level's policy with each issuer's own rules.
    pub(crate) policies: Vec<Policies>,
    /// What stands for a key set's id in the cache of verified tokens: which issuer a token is from is known only
    /// once it is decoded.
    pub(crate) scope: u64,
}

impl Issuers {
    pub(crate) fn new(list: Vec<Rc<Issuer>>, policy: &Policy) -> Self {
        let policies = list
            .iter()
            .map(|issuer| {
                let mut policy = policy.clone();
                policy.issuer = Some(issuer.name.clone());
                if !issuer.audience.is_empty() {
                    policy.audience.clone_from(&issuer.audience);
                }
                if !issuer.algorithms.is_empty() {
                    policy.algorithms.clone_from(&issuer.algorithms);
                }
                Policies::new(policy)
            })
            .collect();
        // A set's id is unique, so this is no other set's.
        Self { list, policies, scope: JwkSet::default().id() }
    }

    pub(crate) fn find(&self, iss: &str) -> Option<usize> {
        self.list.iter().position(|issuer| issuer.name == iss)
    }
}

//! The configuration of a level (http, server, location, limit_except) and how it is inherited.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use jwt_core::{Algorithm, ClaimPath, ClaimsSet, DenyList, Policy, TokenCache, limits};

use crate::dialect::Dialect;
use crate::error::ConfError;
use crate::ffi::{ComplexValue, Metrics, ReplayZone, VariableIndex, Zone};
use crate::key_source::{Freshness, Issuer, Issuers, KeySource, KeySources};
use crate::output::{ClaimHeader, SetCookie};
use crate::rules::Rule;
use crate::watched_file::{Content, DEFAULT_REFRESH, Format, Line, WatchedFile};

/// Size of the cache of verified tokens unless `auth_jwt_cache` says otherwise: room for some thousand tokens.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

/// What the cache of verified tokens holds.
#[derive(Clone, Debug)]
pub(crate) struct Cached {
    pub(crate) set: Arc<ClaimsSet>,
    /// The key set that verified it.
    pub(crate) keys: u64,
    /// Its place in the level's issuers, if there are any.
    pub(crate) issuer: usize,
}

/// What `http {}` has once.
#[derive(Default)]
pub(crate) struct MainConf {
    pub(crate) dialect: Cell<Dialect>,
    /// Whether a directive was read: `auth_jwt_compat` has to come before.
    pub(crate) is_begun: Cell<bool>,
    files: RefCell<Vec<Rc<WatchedFile>>>,
    pub(crate) sources: RefCell<Vec<KeySource>>,
    zone: Cell<Option<Zone>>,
    pub(crate) metrics: Cell<Option<Metrics>>,
    pub(crate) replay_zones: RefCell<HashMap<String, Rc<ReplayZone>>>,
    /// `auth_jwt_cache`; 0 turns it off.
    pub(crate) cache_bytes: Cell<Option<usize>>,
    cache: RefCell<Option<TokenCache<Cached>>>,
    /// Whether a location sets headers from claims, or is checked in the preaccess phase.
    pub(crate) needs_preaccess: Cell<bool>,
}

impl std::fmt::Debug for MainConf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MainConf").field("files", &self.files).finish_non_exhaustive()
    }
}

impl MainConf {
    /// The file of this path and format: one for all places that name it.
    pub(crate) fn file(&self, path: PathBuf, format: Format) -> Rc<WatchedFile> {
        let mut files = self.files.borrow_mut();
        if let Some(file) = files.iter().find(|file| file.path() == path && file.format() == format)
        {
            return Rc::clone(file);
        }
        let file = Rc::new(WatchedFile::new(path, format));
        files.push(Rc::clone(&file));
        file
    }

    pub(crate) fn set_zone(&self, zone: Zone) {
        self.zone.set(Some(zone));
        for source in &*self.sources.borrow() {
            match source {
                KeySource::File(_) => {}
                KeySource::FileByVariable(files) => files.set_zone(zone),
                KeySource::Request(request) => request.set_zone(zone),
            }
        }
    }

    pub(crate) fn zone(&self) -> Option<Zone> {
        self.zone.get()
    }

    /// Puts what was read since the last time into the zone.
    pub(crate) fn publish_files(&self, mut log: impl FnMut(Line)) {
        let Some(zone) = self.zone.get() else { return };
        for file in self.files() {
            file.publish(&zone, &mut log);
        }
    }

    /// Takes from the zone what is newer than what the master read, or all there is while a file is bad.
    pub(crate) fn adopt_files(&self, mut log: impl FnMut(Line)) {
        let Some(zone) = self.zone.get() else { return };
        for file in self.files() {
            file.adopt(&zone, &mut log);
        }
    }

    pub(crate) fn files(&self) -> Vec<Rc<WatchedFile>> {
        self.files.borrow().clone()
    }

    /// Whether a location fetches keys by a subrequest.
    pub(crate) fn has_key_requests(&self) -> bool {
        self.sources.borrow().iter().any(|source| matches!(source, KeySource::Request(_)))
    }

    pub(crate) fn cache_limit(&self) -> usize {
        self.cache_bytes.get().unwrap_or(CACHE_BYTES)
    }

    /// Uses this worker's cache of verified tokens; `None` if it is turned off.
    pub(crate) fn with_cache<T>(
        &self,
        work: impl FnOnce(&mut TokenCache<Cached>) -> T,
    ) -> Option<T> {
        let most = self.cache_limit();
        if most == 0 {
            return None;
        }
        Some(work(self.cache.borrow_mut().get_or_insert_with(|| TokenCache::new(most))))
    }
}

/// `auth_jwt`: inherited or replaced as a unit.
#[derive(Clone, Debug)]
pub(crate) struct AuthJwt {
    /// The realm of the challenge; `None` for `off`.
    pub(crate) realm: Option<Rc<Realm>>,
    /// `token=`, in their order; the Authorization header without any.
    pub(crate) tokens: Rc<[TokenSource]>,
}

/// The realm, which may hold variables.
#[derive(Debug)]
pub(crate) enum Realm {
    Literal(Vec<u8>),
    Variable(ComplexValue),
}

/// One variable of `token=`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenSource {
    pub(crate) variable: VariableIndex,
}

/// `auth_jwt_phase`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    #[default]
    Access,
    Preaccess,
}

/// What a level does with a list of the level above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inherit {
    /// Takes it if it has none of its own.
    On,
    /// Does not take it.
    Off,
    /// Takes it besides its own.
    Merge,
}

/// `auth_jwt_allow_nested`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Nested {
    pub(crate) delimiter: String,
    pub(crate) quote: String,
}

/// `auth_jwt_www_authenticate`.
#[derive(Clone, Debug)]
pub(crate) enum WwwAuthenticate {
    Standard,
    Off,
    Custom(Rc<ComplexValue>),
}

/// One level. Fields that are `None` are inherited.
#[derive(Debug, Default)]
pub(crate) struct LocConf {
    pub(crate) auth: Option<AuthJwt>,
    pub(crate) phase: Option<Phase>,
    pub(crate) preflight: Option<bool>,
    pub(crate) dry_run: Option<bool>,
    pub(crate) max_size: Option<usize>,
    pub(crate) reject_multiple: Option<bool>,

    pub(crate) key_sources: Vec<KeySource>,
    pub(crate) issuer_list: Vec<Rc<Issuer>>,
    pub(crate) key_inherit: Option<Inherit>,
    pub(crate) key_refresh: Option<Duration>,
    pub(crate) key_cache: Option<Duration>,
    pub(crate) key_error: Option<u16>,

    pub(crate) leeway: Option<Duration>,
    pub(crate) validate_exp: Option<bool>,
    pub(crate) validate_nbf: Option<bool>,
    pub(crate) validate_sig: Option<bool>,
    pub(crate) require_exp: Option<bool>,
    pub(crate) max_age: Option<Option<Duration>>,
    pub(crate) max_lifetime: Option<Option<Duration>>,
    pub(crate) algorithms: Option<Vec<Algorithm>>,
    pub(crate) typ: Option<Option<String>>,
    pub(crate) audience: Option<Vec<String>>,
    pub(crate) scope: Option<Vec<String>>,

    /// In the order of the configuration, the parent's first; names are read by the level's own `allow_nested`.
    rules: Vec<(ClaimPath, Rc<Rule>)>,
    pub(crate) own_rules: Vec<Rc<Rule>>,
    pub(crate) require_inherit: Option<Inherit>,
    pub(crate) nested: Option<Option<Nested>>,
    pub(crate) deny_files: Vec<(&'static str, Rc<WatchedFile>)>,
    pub(crate) revocation_files: Vec<Rc<WatchedFile>>,
    pub(crate) replay: Option<Option<Rc<ReplayZone>>>,

    pub(crate) www_authenticate: Option<WwwAuthenticate>,
    pub(crate) claim_headers: Option<Rc<[ClaimHeader]>>,
    pub(crate) set_cookie: Option<Option<Rc<SetCookie>>>,
    /// `auth_jwt_status` as a content handler.
    pub(crate) status_format: Option<crate::status::StatusFormat>,

    // Made by `merge`.
    dialect: Dialect,
    keys: Option<Rc<KeySources>>,
    issuers: Option<Rc<Issuers>>,
    policies: Policies,
}

/// What a verified token must satisfy, of whatever issuer it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Policies {
    pub(crate) usual: Policy,
    /// The same for a token whose `exp` a rule has judged (dialect kjdev).
    pub(crate) without_exp: Policy,
}

impl Policies {
    pub(crate) fn new(usual: Policy) -> Self {
        let without_exp = Policy { validate_exp: false, ..usual.clone() };
        Self { usual, without_exp }
    }
}

impl LocConf {
    /// Takes from `parent` what this level does not say itself.
    ///
    /// # Errors
    /// [`ConfError::Conflict`] if what comes together contradicts itself.
    pub(crate) fn merge(&mut self, parent: &Self, main: &MainConf) -> Result<(), ConfError> {
        self.dialect = main.dialect.get();
        self.merge_auth(parent);
        fn take<T: Clone>(own: &mut Option<T>, parent: &Option<T>) {
            if own.is_none() {
                own.clone_from(parent);
            }
        }
        take(&mut self.phase, &parent.phase);
        take(&mut self.preflight, &parent.preflight);
        take(&mut self.dry_run, &parent.dry_run);
        take(&mut self.max_size, &parent.max_size);
        take(&mut self.reject_multiple, &parent.reject_multiple);
        take(&mut self.key_inherit, &parent.key_inherit);
        take(&mut self.key_refresh, &parent.key_refresh);
        take(&mut self.key_cache, &parent.key_cache);
        take(&mut self.key_error, &parent.key_error);
        take(&mut self.leeway, &parent.leeway);
        take(&mut self.validate_exp, &parent.validate_exp);
        take(&mut self.validate_nbf, &parent.validate_nbf);
        take(&mut self.validate_sig, &parent.validate_sig);
        take(&mut self.require_exp, &parent.require_exp);
        take(&mut self.max_age, &parent.max_age);
        take(&mut self.max_lifetime, &parent.max_lifetime);
        take(&mut self.algorithms, &parent.algorithms);
        take(&mut self.typ, &parent.typ);
        take(&mut self.audience, &parent.audience);
        take(&mut self.scope, &parent.scope);
        take(&mut self.require_inherit, &parent.require_inherit);
        take(&mut self.nested, &parent.nested);
        take(&mut self.replay, &parent.replay);
        take(&mut self.www_authenticate, &parent.www_authenticate);
        take(&mut self.claim_headers, &parent.claim_headers);
        take(&mut self.set_cookie, &parent.set_cookie);
        self.merge_keys(parent)?;
        self.merge_rules(parent);
        self.policies = Policies::new(self.make_policy());
        self.issuers = match &*self.issuer_list {
            [] => None,
            list => Some(Rc::new(Issuers::new(list.to_vec(), self.policy()))),
        };
        if self.phase() == Phase::Preaccess
            || self.claim_headers.as_ref().is_some_and(|list| !list.is_empty())
        {
            main.needs_preaccess.set(true);
        }
        Ok(())
    }

    fn merge_auth(&mut self, parent: &Self) {
        match (&mut self.auth, &parent.auth) {
            (own @ None, parent) => own.clone_from(parent),
            // kjdev's module inherits the token's variable even by a line that names none.
            (Some(own), Some(parent)) if self.dialect.is_kjdev() && own.tokens.is_empty() => {
                own.tokens = Rc::clone(&parent.tokens);
            }
            _ => {}
        }
    }

    fn merge_keys(&mut self, parent: &Self) -> Result<(), ConfError> {
        let none_of_own = self.key_sources.is_empty() && self.issuer_list.is_empty();
        match self.key_inherit() {
            // A level with keys of its own trusts these alone: a union would widen trust silently.
            Inherit::On if !none_of_own => {}
            Inherit::Off => {}
            Inherit::On | Inherit::Merge => {
                for source in &parent.key_sources {
                    let known = |own: &KeySource| own.is_same(source);
                    if !self.key_sources.iter().any(known) {
                        self.key_sources.push(source.clone());
                    }
                }
                self.issuer_list.extend(parent.issuer_list.iter().cloned());
            }
        }
        if !self.key_sources.is_empty() && !self.issuer_list.is_empty() {
            return Err(ConfError::Conflict(
                "auth_jwt_issuer",
                "auth_jwt_key_file or auth_jwt_key_request",
                "keys that belong to no issuer would verify every issuer's tokens; one of them may come from the \
                 level above (auth_jwt_key_inherit merge)",
            ));
        }
        let refresh = self.key_refresh.unwrap_or(DEFAULT_REFRESH);
        self.keys = match &parent.keys {
            Some(keys) if keys.is_same(&self.key_sources) => Some(Rc::clone(keys)),
            _ if self.key_sources.is_empty() => None,
            _ => Some(Rc::new(KeySources::new(self.key_sources.clone()))),
        };
        let issuers = self.issuer_list.iter().flat_map(|issuer| issuer.keys.sources());
        for source in self.key_sources.iter().chain(issuers) {
            if let KeySource::File(file) = source {
                file.ask_refresh(refresh);
            }
        }
        for (name, file) in &parent.deny_files {
            let known = |own: &(&str, Rc<WatchedFile>)| own.0 == *name && Rc::ptr_eq(&own.1, file);
            if !self.deny_files.iter().any(known) {
                self.deny_files.push((name, Rc::clone(file)));
            }
        }
        for file in &parent.revocation_files {
            if !self.revocation_files.iter().any(|own| Rc::ptr_eq(own, file)) {
                self.revocation_files.push(Rc::clone(file));
            }
        }
        for file in self.deny_files.iter().map(|(_, file)| file).chain(&self.revocation_files) {
            file.ask_refresh(refresh);
        }
        Ok(())
    }

    fn merge_rules(&mut self, parent: &Self) {
        let inherit = self.require_inherit.unwrap_or(Inherit::Merge);
        let inherited = match inherit {
            Inherit::Merge => true,
            Inherit::On => self.own_rules.is_empty(),
            Inherit::Off => false,
        };
        // At http level there is no parent, and `rules` was never made: its own are the parent's for the next.
        let above = parent.all_rules();
        let own = std::mem::take(&mut self.own_rules);
        let all: Vec<Rc<Rule>> =
            above.into_iter().filter(|_| inherited).chain(own.iter().cloned()).collect();
        self.own_rules = own;
        self.rules = all
            .into_iter()
            .map(|rule| {
                let path = rule.comparison().map(|comparison| self.path(&comparison.name));
                (path.unwrap_or_else(|| ClaimPath::key("")), rule)
            })
            .collect();
    }

    fn all_rules(&self) -> Vec<Rc<Rule>> {
        if self.rules.is_empty() {
            return self.own_rules.clone();
        }
        self.rules.iter().map(|(_, rule)| Rc::clone(rule)).collect()
    }

    fn make_policy(&self) -> Policy {
        Policy {
            leeway: self.leeway.unwrap_or_default(),
            validate_exp: self.validate_exp.unwrap_or(true),
            validate_nbf: self.validate_nbf.unwrap_or(true),
            require_exp: self.require_exp.unwrap_or(self.dialect.is_kjdev()),
            max_age: self.max_age.flatten(),
            max_lifetime: self.max_lifetime.flatten(),
            algorithms: self.algorithms.clone().unwrap_or_default(),
            typ: self.typ.clone().flatten(),
            audience: self.audience.clone().unwrap_or_default(),
            scope: self.scope.clone().unwrap_or_default(),
            ..Policy::default()
        }
    }

    /// A claim's or a header parameter's place, as this level's `auth_jwt_allow_nested` reads names.
    pub(crate) fn path(&self, name: &str) -> ClaimPath {
        // Directives have refused a bad jq-like path.
        if name.starts_with(['.', '['])
            && let Ok(path) = ClaimPath::parse_jq(name)
        {
            return path;
        }
        match self.nested() {
            Some(nested) => ClaimPath::parse_delimited(name, &nested.delimiter, &nested.quote),
            None => ClaimPath::key(name),
        }
    }

    /// Whether requests are refused here without a valid token.
    pub(crate) fn is_enforced(&self) -> bool {
        self.auth.as_ref().is_some_and(|auth| auth.realm.is_some())
    }

    /// Whether tokens mean anything here: `auth_jwt off` alone does not read them, with `token=` it does.
    pub(crate) fn reads_tokens(&self) -> bool {
        self.auth.as_ref().is_some_and(|auth| auth.realm.is_some() || !auth.tokens.is_empty())
    }

    /// Whether the check of a token has keys to go by.
    pub(crate) fn has_keys(&self) -> bool {
        self.keys.is_some() || self.issuers.is_some()
    }

    pub(crate) fn keys(&self) -> Option<&KeySources> {
        self.keys.as_deref()
    }

    pub(crate) fn issuers(&self) -> Option<&Issuers> {
        self.issuers.as_deref()
    }

    pub(crate) fn policy(&self) -> &Policy {
        &self.policies.usual
    }

    pub(crate) fn policies(&self) -> &Policies {
        &self.policies
    }

    pub(crate) fn rules(&self) -> &[(ClaimPath, Rc<Rule>)] {
        &self.rules
    }

    pub(crate) fn dialect(&self) -> Dialect {
        self.dialect
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.unwrap_or_default()
    }

    pub(crate) fn is_dry_run(&self) -> bool {
        self.dry_run.unwrap_or_default()
    }

    pub(crate) fn lets_preflight_pass(&self) -> bool {
        self.preflight.unwrap_or_default()
    }

    pub(crate) fn token_limit(&self) -> usize {
        self.max_size.unwrap_or(limits::TOKEN_BYTES)
    }

    pub(crate) fn rejects_multiple(&self) -> bool {
        self.reject_multiple.unwrap_or_default()
    }

    pub(crate) fn validates_signature(&self) -> bool {
        self.validate_sig.unwrap_or(true)
    }

    pub(crate) fn leeway_seconds(&self) -> i64 {
        i64::try_from(self.policy().leeway.as_secs()).unwrap_or(i64::MAX)
    }

    pub(crate) fn key_inherit(&self) -> Inherit {
        let default = if self.dialect.is_kjdev() { Inherit::Merge } else { Inherit::On };
        self.key_inherit.unwrap_or(default)
    }

    /// How old keys may be that are looked at by requests.
    pub(crate) fn freshness(&self) -> Freshness {
        Freshness {
            files: self.key_refresh.unwrap_or(DEFAULT_REFRESH),
            requests: self.key_cache.unwrap_or_default(),
        }
    }

    /// The answer while there are no usable keys.
    pub(crate) fn key_error(&self) -> u16 {
        self.key_error.unwrap_or(if self.dialect.is_kjdev() { 401 } else { 503 })
    }

    pub(crate) fn nested(&self) -> Option<&Nested> {
        self.nested.as_ref()?.as_ref()
    }

    pub(crate) fn replay(&self) -> Option<&ReplayZone> {
        self.replay.as_ref()?.as_deref()
    }

    pub(crate) fn set_cookie(&self) -> Option<&SetCookie> {
        self.set_cookie.as_ref()?.as_deref()
    }

    pub(crate) fn claim_headers(&self) -> &[ClaimHeader] {
        self.claim_headers.as_deref().unwrap_or_default()
    }

    pub(crate) fn www_authenticate(&self) -> &WwwAuthenticate {
        self.www_authenticate.as_ref().unwrap_or(&WwwAuthenticate::Standard)
    }

    /// The revocation lists that have been read, each with the claim that it is about.
    pub(crate) fn deny_lists(&self) -> impl Iterator<Item = (&'static str, Rc<DenyList>)> {
        self.deny_files.iter().filter_map(|(name, file)| match file.content() {
            Some(Content::DenyList(list)) => Some((*name, list)),
            _ => None,
        })
    }

    /// Whether tokens with `alg` none are let in: only in dialect kjdev, and only by a rule that names it.
    pub(crate) fn permits_unsecured(&self) -> bool {
        self.dialect.is_kjdev()
            && self.rules.iter().any(|(_, rule)| {
                matches!(&**rule, Rule::Header(comparison) if comparison.permits_none())
            })
    }
}

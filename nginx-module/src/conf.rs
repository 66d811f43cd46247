//! The configuration of a level (http, server, location, limit_except) and how it is inherited.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use jwt_core::Policy;

use crate::ffi::{ComplexValue, VariableIndex, Zone};
use crate::key_file::{DEFAULT_REFRESH, KeyFile, KeyRing, Line};

/// What `http {}` has once.
#[derive(Debug, Default)]
pub(crate) struct MainConf {
    files: RefCell<Vec<Rc<KeyFile>>>,
    zone: Cell<Option<Zone>>,
}

impl MainConf {
    /// The key file of this path: one for all places that name it.
    pub(crate) fn key_file(&self, path: PathBuf) -> Rc<KeyFile> {
        let mut files = self.files.borrow_mut();
        if let Some(file) = files.iter().find(|file| file.path() == path) {
            return Rc::clone(file);
        }
        let file = Rc::new(KeyFile::new(path));
        files.push(Rc::clone(&file));
        file
    }

    pub(crate) fn set_zone(&self, zone: Zone) {
        self.zone.set(Some(zone));
    }

    pub(crate) fn zone(&self) -> Option<Zone> {
        self.zone.get()
    }

    /// Puts what was read since the last time into the zone.
    pub(crate) fn publish_keys(&self, mut log: impl FnMut(Line)) {
        let Some(zone) = self.zone.get() else { return };
        for file in self.files() {
            file.publish(&zone, &mut log);
        }
    }

    /// Takes from the zone what is newer than what the master read, or all there is while a file is bad.
    pub(crate) fn adopt_keys(&self, mut log: impl FnMut(Line)) {
        let Some(zone) = self.zone.get() else { return };
        for file in self.files() {
            file.adopt(&zone, &mut log);
        }
    }

    pub(crate) fn files(&self) -> Vec<Rc<KeyFile>> {
        self.files.borrow().clone()
    }
}

/// `auth_jwt`: inherited or replaced as a unit.
#[derive(Clone, Debug)]
pub(crate) struct AuthJwt {
    /// The realm of the challenge; `None` for `off`.
    pub(crate) realm: Option<Rc<ComplexValue>>,
    /// `token=`; the Authorization header without it.
    pub(crate) token: Option<VariableIndex>,
}

/// One level. Fields that are `None` are inherited.
#[derive(Debug, Default)]
pub(crate) struct LocConf {
    pub(crate) auth: Option<AuthJwt>,
    pub(crate) key_files: Vec<Rc<KeyFile>>,
    pub(crate) key_refresh: Option<Duration>,
    pub(crate) leeway: Option<Duration>,
    pub(crate) require_exp: Option<bool>,
    /// Made by [`LocConf::merge`].
    ring: Option<Rc<KeyRing>>,
    policy: Policy,
}

impl LocConf {
    /// Takes from `parent` what this level does not say itself.
    pub(crate) fn merge(&mut self, parent: &Self) {
        if self.auth.is_none() {
            self.auth.clone_from(&parent.auth);
        }
        self.key_refresh = self.key_refresh.or(parent.key_refresh);
        self.leeway = self.leeway.or(parent.leeway);
        self.require_exp = self.require_exp.or(parent.require_exp);
        // A level with key files of its own trusts these alone: a union would widen trust silently.
        if self.key_files.is_empty() {
            self.key_files.clone_from(&parent.key_files);
        }
        self.ring = match &parent.ring {
            Some(ring) if same(ring.files(), &self.key_files) => Some(Rc::clone(ring)),
            _ if self.key_files.is_empty() => None,
            _ => Some(Rc::new(KeyRing::new(self.key_files.clone()))),
        };
        for file in &self.key_files {
            file.ask_refresh(self.key_refresh.unwrap_or(DEFAULT_REFRESH));
        }
        self.policy = Policy {
            leeway: self.leeway.unwrap_or_default(),
            require_exp: self.require_exp.unwrap_or_default(),
            ..Policy::default()
        };
    }

    /// Whether requests are refused here without a valid token.
    pub(crate) fn is_enforced(&self) -> bool {
        self.auth.as_ref().is_some_and(|auth| auth.realm.is_some())
    }

    pub(crate) fn ring(&self) -> Option<&KeyRing> {
        self.ring.as_deref()
    }

    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }
}

fn same(left: &[Rc<KeyFile>], right: &[Rc<KeyFile>]) -> bool {
    left.len() == right.len() && left.iter().zip(right).all(|(a, b)| Rc::ptr_eq(a, b))
}

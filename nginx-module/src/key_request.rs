//! `auth_jwt_key_request`: keys by an internal request of nginx, fetched once for all requests that need them.
//!
//! A worker runs one fetch of an address at a time. The request that starts it waits as the parent of a subrequest;
//! others that come meanwhile sleep until it ends. Only a 2xx answer counts, up to the size of a key file.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jwt_core::{JwkSet, limits};

use crate::context::Context;
use crate::dialect::{Dialect, kjdev_fetch_lines};
use crate::ffi::{ComplexValue, Request, Sleeper, Zone};
use crate::key_source::Patience;
use crate::log::{Level, escape};
use crate::watched_file::{Content, Format, Line, log_warnings, unix_now};

/// Most addresses that one directive with variables keeps.
const ADDRESSES: usize = 256;
/// How long a fetch is not repeated: one that has failed while there are older keys to go on with, or one whose keys
/// do not include the one that is asked for.
const BACKOFF: Duration = Duration::from_secs(1);

/// One `auth_jwt_key_request`.
#[derive(Debug)]
pub(crate) struct KeyRequest {
    uri: ComplexValue,
    /// As written, for log lines.
    text: String,
    format: Format,
    zone: Cell<Option<Zone>>,
    fetches: RefCell<HashMap<Vec<u8>, Rc<Fetch>>>,
}

/// The keys of one address.
#[derive(Debug)]
pub(crate) struct Fetch {
    uri: Vec<u8>,
    format: Format,
    zone: Option<Zone>,
    keys: RefCell<Option<Arc<JwkSet>>>,
    /// The text of the keys: the same again is not parsed again, and keeps what the cache of tokens holds.
    text: RefCell<Vec<u8>>,
    generation: Cell<u64>,
    loaded_at: Cell<i64>,
    fetched: Cell<Option<Instant>>,
    failed: Cell<Option<Instant>>,
    last_error: RefCell<Option<String>>,
    running: Cell<bool>,
    /// Counts the fetches that have ended.
    ended: Cell<u64>,
    sleepers: RefCell<Vec<Sleeper>>,
}

/// What a request gets from an address.
#[derive(Debug)]
pub(crate) enum Fetched {
    Keys(Arc<JwkSet>),
    Nothing,
    Wait,
}

/// That a request has waited for a fetch. One that ends later than the request joined counts as the answer.
#[derive(Debug)]
pub(crate) struct Ticket {
    fetch: Rc<Fetch>,
    stub: Stub,
}

/// What a request knows of the fetch that it waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stub {
    /// How many fetches had ended when it joined.
    ended: u64,
    /// Whether the fetch is its own: then nginx calls it again when its subrequest ends.
    is_mine: bool,
}

/// What a subrequest brought.
#[derive(Debug)]
pub(crate) struct Response<'b> {
    pub(crate) status: u16,
    pub(crate) content_encoding: Option<String>,
    /// `None`: larger than a key file may be, or broken off.
    pub(crate) body: Option<&'b [u8]>,
}

/// Most bytes of a body.
pub(crate) const BODY_BYTES: usize = limits::JWKS_BYTES;

impl KeyRequest {
    pub(crate) fn new(uri: ComplexValue, text: String, format: Format) -> Self {
        Self { uri, text, format, zone: Cell::default(), fetches: RefCell::default() }
    }

    pub(crate) fn set_zone(&self, zone: Zone) {
        self.zone.set(Some(zone));
    }

    /// For log lines.
    pub(crate) fn name(&self) -> String {
        escape(&self.text)
    }

    pub(crate) fn fetches(&self) -> Vec<Rc<Fetch>> {
        self.fetches.borrow().values().cloned().collect()
    }

    fn fetch(&self, request: &mut Request<'_>) -> Option<Rc<Fetch>> {
        let uri = request.key_parameter(&self.uri);
        if !is_address(uri) {
            // Its variables may be claims of whoever sends a token.
            request.log(
                Level::Info,
                &format!(
                    "jwt: auth_jwt_key_request {} gives \"{}\", which is no address of this server",
                    self.name(),
                    escape(&String::from_utf8_lossy(uri))
                ),
            );
            return None;
        }
        if let Some(fetch) = self.fetches.borrow().get(uri) {
            return Some(Rc::clone(fetch));
        }
        let fetch = Rc::new(Fetch::new(uri, self.format, self.zone.get()));
        fetch.adopt(|(level, line)| request.log(level, &line));
        let mut fetches = self.fetches.borrow_mut();
        if fetches.len() >= ADDRESSES {
            // Names that lead nowhere cost nothing to make up: they must not push out the keys in use.
            fetches.retain(|_, fetch| fetch.running.get() || fetch.keys.borrow().is_some());
        }
        if fetches.len() >= ADDRESSES {
            // Those that are being fetched are in use.
            fetches.retain(|_, fetch| fetch.running.get());
        }
        fetches.insert(uri.to_vec(), Rc::clone(&fetch));
        Some(fetch)
    }

    /// The keys for this request.
    pub(crate) fn keys(
        &self,
        request: &mut Request<'_>,
        patience: Patience,
        fresh_for: Duration,
    ) -> Fetched {
        let Some(fetch) = self.fetch(request) else { return Fetched::Nothing };
        match request.context().and_then(|context| context.ticket(&fetch)) {
            Some(stub) if fetch.ended.get() > stub.ended => return fetch.last_good(),
            Some(stub) if fetch.running.get() => {
                // Woken because the one who fetched has left; by now another one does.
                if !stub.is_mine {
                    fetch.add_sleeper(request.sleep());
                }
                return Fetched::Wait;
            }
            // The request that had started the fetch is gone, or this one is new.
            _ => {}
        }
        if fetch.is_fresh(fresh_for) || fetch.is_backing_off() {
            return fetch.last_good();
        }
        // Not "nothing": a phase that can wait has to find out, and must not be told that there are no keys.
        if patience == Patience::Now {
            return Fetched::Wait;
        }
        let Some(context) = request.context() else { return Fetched::Nothing };
        if join(request, context, &fetch) { Fetched::Wait } else { fetch.last_good() }
    }

    /// A token names a key that is not here: the request waits for the keys to be fetched again, if it has not waited
    /// for that yet, and at most once a second, so that made-up names cost little. Whether it waits. The keys stay as
    /// fresh as they are for everybody else.
    pub(crate) fn fetch_again(&self, request: &mut Request<'_>) -> bool {
        let Some(fetch) = self.fetch(request) else { return false };
        let Some(context) = request.context() else { return false };
        let is_new = fetch.fetched.get().is_some_and(|at| at.elapsed() < BACKOFF);
        // Whoever had started the fetch that it joined may be gone.
        let has_waited = context.ticket(&fetch).is_some_and(|stub| fetch.ended.get() > stub.ended);
        if has_waited || is_new || fetch.is_backing_off() {
            return false;
        }
        join(request, context, &fetch)
    }

    /// Whether the last fetch for this request's address failed.
    pub(crate) fn is_refused(&self, request: &mut Request<'_>) -> bool {
        self.fetch(request).is_some_and(|fetch| fetch.last_error.borrow().is_some())
    }
}

/// Has the request wait for a fetch, of its own if none is running. `false`: it can't be started.
fn join(request: &mut Request<'_>, context: &Context, fetch: &Rc<Fetch>) -> bool {
    let is_mine = !fetch.running.replace(true);
    let stub = Stub { ended: fetch.ended.get(), is_mine };
    context.add_ticket(Ticket { fetch: Rc::clone(fetch), stub });
    if !is_mine {
        fetch.add_sleeper(request.sleep());
        return true;
    }
    if request.start_subrequest(Rc::clone(fetch)) {
        return true;
    }
    fetch.end(
        &Response { status: 500, content_encoding: None, body: None },
        request.main_conf().dialect.get(),
        |(level, line)| request.log(level, &line),
    );
    false
}

/// Whether this can be asked for: a path from the root that leads nowhere else, in one word.
fn is_address(uri: &[u8]) -> bool {
    let path = uri.split(|byte| *byte == b'?').next().unwrap_or_default();
    path.starts_with(b"/")
        && !path.split(|byte| *byte == b'/').any(|segment| segment == b"..")
        && !uri.iter().any(|byte| matches!(byte, 0..=0x20 | 0x7f))
}

impl Ticket {
    /// What the request knows, if this is the ticket of `fetch`.
    pub(crate) fn of(&self, fetch: &Rc<Fetch>) -> Option<Stub> {
        Rc::ptr_eq(&self.fetch, fetch).then_some(self.stub)
    }

    pub(crate) fn is_for(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.fetch, &other.fetch)
    }
}

impl Fetch {
    fn new(uri: &[u8], format: Format, zone: Option<Zone>) -> Self {
        Self {
            uri: uri.to_vec(),
            format,
            zone,
            keys: RefCell::default(),
            text: RefCell::default(),
            generation: Cell::new(0),
            loaded_at: Cell::new(0),
            fetched: Cell::new(None),
            failed: Cell::new(None),
            last_error: RefCell::default(),
            running: Cell::new(false),
            ended: Cell::new(0),
            sleepers: RefCell::default(),
        }
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    pub(crate) fn uri(&self) -> &[u8] {
        &self.uri
    }

    pub(crate) fn keys(&self) -> Option<Arc<JwkSet>> {
        self.keys.borrow().clone()
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.get()
    }

    pub(crate) fn loaded_at(&self) -> i64 {
        self.loaded_at.get()
    }

    pub(crate) fn last_error(&self) -> Option<String> {
        self.last_error.borrow().clone()
    }

    fn last_good(&self) -> Fetched {
        self.keys().map_or(Fetched::Nothing, Fetched::Keys)
    }

    fn is_fresh(&self, fresh_for: Duration) -> bool {
        !fresh_for.is_zero() && self.fetched.get().is_some_and(|at| at.elapsed() < fresh_for)
    }

    fn is_backing_off(&self) -> bool {
        self.keys.borrow().is_some() && self.failed.get().is_some_and(|at| at.elapsed() < BACKOFF)
    }

    /// A worker that is new goes on with what another one has fetched, until it has fetched itself.
    fn adopt(&self, mut log: impl FnMut(Line)) {
        let Some(text) = self.zone.and_then(|zone| zone.load(&self.zone_name())) else { return };
        if let Ok(Content::Keys(keys)) = self.format.parse(&text) {
            self.swap(keys, &text, &mut log);
        }
    }

    fn zone_name(&self) -> Vec<u8> {
        [b"request:", self.format.name().as_bytes(), b":", &*self.uri].concat()
    }

    /// For log lines.
    pub(crate) fn show(&self) -> String {
        escape(&String::from_utf8_lossy(&self.uri))
    }

    /// The subrequest has ended, in whatever way: those who wait go on.
    pub(crate) fn end(&self, response: &Response<'_>, dialect: Dialect, mut log: impl FnMut(Line)) {
        match self.take(response, &mut log) {
            Ok(()) => {
                self.fetched.set(Some(Instant::now()));
                self.failed.set(None);
                self.last_error.replace(None);
            }
            Err(error) => {
                self.failed.set(Some(Instant::now()));
                if dialect.is_kjdev() {
                    for line in kjdev_fetch_lines(self, response) {
                        log((Level::Error, line));
                    }
                }
                log((
                    Level::Error,
                    format!(
                        "jwt: keyset {} rejected cause=\"{error}\" kept gen={}",
                        self.show(),
                        self.generation()
                    ),
                ));
                self.last_error.replace(Some(error));
            }
        }
        self.running.set(false);
        self.ended.set(self.ended.get() + 1);
        self.wake();
    }

    /// The request that had started the fetch is gone: the next one starts its own.
    pub(crate) fn abandon(&self) {
        if self.running.get() {
            self.running.set(false);
            self.wake();
        }
    }

    fn add_sleeper(&self, sleeper: Sleeper) {
        let mut sleepers = self.sleepers.borrow_mut();
        if !sleepers.contains(&sleeper) {
            sleepers.push(sleeper);
        }
    }

    fn wake(&self) {
        for sleeper in self.sleepers.take() {
            sleeper.wake();
        }
    }

    fn take(&self, response: &Response<'_>, log: &mut impl FnMut(Line)) -> Result<(), String> {
        if !(200..300).contains(&response.status) {
            return Err(format!("the answer has status {}, not 2xx", response.status));
        }
        if let Some(encoding) = &response.content_encoding {
            return Err(format!(
                "the answer has Content-Encoding {}: the key server must send it as it is",
                escape(encoding)
            ));
        }
        let Some(body) = response.body else {
            return Err(format!("the answer is larger than {BODY_BYTES} bytes, or was cut"));
        };
        if self.keys.borrow().is_some() && *self.text.borrow() == body {
            return Ok(());
        }
        match self.format.parse(body) {
            Ok(Content::Keys(keys)) => self.swap(keys, body, log),
            Ok(_) => return Err("it holds no keys".to_owned()),
            Err(error) => return Err(error.to_string()),
        }
        if let Some(zone) = self.zone
            && !zone.store(&self.zone_name(), body)
        {
            let text = format!("jwt: keyset {} does not fit into shared memory", self.show());
            log((Level::Warn, text));
        }
        Ok(())
    }

    fn swap(&self, keys: Arc<JwkSet>, text: &[u8], log: &mut impl FnMut(Line)) {
        log_warnings(&keys, &self.show(), &self.show(), log);
        self.generation.set(self.generation() + 1);
        self.loaded_at.set(unix_now());
        log((
            Level::Notice,
            format!("jwt: keyset {} gen={} keys={}", self.show(), self.generation(), keys.len()),
        ));
        self.keys.replace(Some(keys));
        self.text.replace(text.to_vec());
    }
}

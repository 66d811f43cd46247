//! What the module keeps with a request.

use std::cell::{Cell, RefCell};
use std::ptr;
use std::rc::Rc;

use jwt_core::{Claims, Object};

use crate::conf::LocConf;
use crate::error::{Reason, Refusal};
use crate::ffi::ReplayZone;
use crate::key_request::{Fetch, Stub, Ticket};
use crate::key_source::Patience;

/// What the check of a request's token has brought.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Verified(Verified),
    Refused(Rc<Refused>),
}

impl Outcome {
    /// Whether it is a refusal that another key could have averted.
    fn lacks_keys(&self) -> bool {
        match self {
            Self::Verified(_) => false,
            Self::Refused(refused) => {
                matches!(refused.refusal.reason(), Reason::KeyUnknown | Reason::KeysUnavailable)
            }
        }
    }
}

/// The claims of a token that was verified and validated.
#[derive(Clone, Debug)]
pub(crate) struct Verified {
    pub(crate) claims: Claims,
    /// Whether the signature was checked before, in another request; `None` where the cache is not used.
    pub(crate) cached: Option<bool>,
}

/// A refusal with what its log line needs.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) refusal: Refusal,
    /// Which key the token named.
    pub(crate) kid: Option<Box<str>>,
    /// The line's rest.
    pub(crate) note: &'static str,
}

/// Lives as long as the request, also where an internal redirect makes nginx forget the contexts of modules.
#[derive(Debug, Default)]
pub(crate) struct Context {
    /// The outcome, and the configuration that it was reached under: another location has other rules.
    outcome: RefCell<Option<(ConfId, Patience, Outcome)>>,
    /// What the last outcome that verified a token was, for the log of a request that ends in another location.
    last: RefCell<Option<Verified>>,
    /// The refusal of the access phase, for `$auth_jwt_status`.
    final_reason: Cell<Option<&'static str>>,
    /// The claims that variables show while the parameters of a key source are evaluated.
    unverified: RefCell<Option<Rc<Object>>>,
    /// Whether the token is being checked, so that a variable must not start the same.
    busy: Cell<bool>,
    tickets: RefCell<Vec<Ticket>>,
    /// What this request has used up, each in its zone; after an internal redirect it is no replay.
    used: RefCell<Vec<(ZoneId, Box<[u8]>)>>,
    /// The configuration whose challenge the answer carries.
    challenger: Cell<Option<ConfId>>,
    pub(crate) is_cookie_set: Cell<bool>,
    /// The lower-case names of headers that were set from claims, to take back in another location.
    pub(crate) claim_headers: RefCell<Vec<Box<str>>>,
}

/// Tells one level of the configuration from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ConfId(*const LocConf);

/// Tells one zone of the configuration from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ZoneId(*const ReplayZone);

/// Does its work when it goes out of scope, also by a panic: the request goes on to be answered and logged.
struct AtEnd<F: FnMut()>(F);

impl<F: FnMut()> Drop for AtEnd<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

impl Context {
    /// The outcome that was reached under this very configuration. One that was reached without waiting, for want of
    /// a key, is none for a request that may wait.
    pub(crate) fn outcome(&self, conf: &LocConf, patience: Patience) -> Option<Outcome> {
        match &*self.outcome.borrow() {
            Some((id, reached, outcome))
                if *id == ConfId(ptr::from_ref(conf))
                    && (*reached == Patience::MayWait
                        || patience == Patience::Now
                        || !outcome.lacks_keys()) =>
            {
                Some(outcome.clone())
            }
            _ => None,
        }
    }

    pub(crate) fn set_outcome(&self, conf: &LocConf, reached: Patience, outcome: Outcome) {
        if let Outcome::Verified(verified) = &outcome {
            self.last.replace(Some(verified.clone()));
        }
        self.outcome.replace(Some((ConfId(ptr::from_ref(conf)), reached, outcome)));
    }

    /// What was verified last in this request, in whatever location.
    pub(crate) fn last_verified(&self) -> Option<Verified> {
        self.last.borrow().clone()
    }

    pub(crate) fn set_challenger(&self, conf: &LocConf) {
        self.challenger.set(Some(ConfId(ptr::from_ref(conf))));
    }

    /// Whether the answer carries the challenge of this very configuration.
    pub(crate) fn is_challenger(&self, conf: &LocConf) -> bool {
        self.challenger.get() == Some(ConfId(ptr::from_ref(conf)))
    }

    pub(crate) fn set_final_reason(&self, reason: &'static str) {
        self.final_reason.set(Some(reason));
    }

    pub(crate) fn final_reason(&self) -> Option<&'static str> {
        self.final_reason.get()
    }

    /// Marks the check of the token while `work` runs.
    pub(crate) fn while_busy<T>(&self, work: impl FnOnce() -> T) -> T {
        let before = self.busy.replace(true);
        let _restore = AtEnd(|| self.busy.set(before));
        work()
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.busy.get()
    }

    /// Shows `claims` to variables while `work` runs.
    pub(crate) fn with_unverified<T>(&self, claims: Rc<Object>, work: impl FnOnce() -> T) -> T {
        let mut before = self.unverified.replace(Some(claims));
        let _restore = AtEnd(|| drop(self.unverified.replace(before.take())));
        work()
    }

    pub(crate) fn unverified(&self) -> Option<Rc<Object>> {
        self.unverified.borrow().clone()
    }

    pub(crate) fn ticket(&self, fetch: &Rc<Fetch>) -> Option<Stub> {
        self.tickets.borrow().iter().find_map(|ticket| ticket.of(fetch))
    }

    /// Replaces an earlier ticket for the same fetch.
    pub(crate) fn add_ticket(&self, ticket: Ticket) {
        let mut tickets = self.tickets.borrow_mut();
        tickets.retain(|earlier| !earlier.is_for(&ticket));
        tickets.push(ticket);
    }

    pub(crate) fn has_used(&self, zone: &ReplayZone, id: &[u8]) -> bool {
        let zone = ZoneId(ptr::from_ref(zone));
        self.used.borrow().iter().any(|(in_zone, used)| *in_zone == zone && **used == *id)
    }

    pub(crate) fn set_used(&self, zone: &ReplayZone, id: &[u8]) {
        self.used.borrow_mut().push((ZoneId(ptr::from_ref(zone)), id.into()));
    }
}

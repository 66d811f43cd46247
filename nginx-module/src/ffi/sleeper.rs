//! A request that sleeps until keys are there which another one is fetching.

use core::cell::{Cell, UnsafeCell};
use core::mem;
use core::ptr;
use std::rc::Rc;

use nginx_sys::{
    ngx_event_t, ngx_http_core_run_phases, ngx_http_request_t, ngx_http_run_posted_requests,
};

use super::shim;

/// Wakes one request, as often as it sleeps. Cheap to clone; after the request's end it does nothing.
#[derive(Clone)]
pub(crate) struct Sleeper(Rc<Inner>);

struct Inner {
    request: Cell<*mut ngx_http_request_t>,
    /// Whether the request's phases stand still because of us. Once they have gone on, to an upstream for instance,
    /// running them again would do its work twice.
    is_asleep: Cell<bool>,
    /// Posted when the request is to go on.
    event: UnsafeCell<ngx_event_t>,
}

impl PartialEq for Sleeper {
    /// Whether both wake the same request.
    fn eq(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}

impl core::fmt::Debug for Sleeper {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Sleeper")
    }
}

impl Sleeper {
    pub(super) fn new(request: *mut ngx_http_request_t) -> Self {
        // SAFETY: an event is a plain C struct for which zero means "not set".
        let event = unsafe { mem::zeroed() };
        Self(Rc::new(Inner {
            request: Cell::new(request),
            is_asleep: Cell::new(false),
            event: UnsafeCell::new(event),
        }))
    }

    /// Has the request's phases go on after the events of this turn.
    pub(crate) fn wake(&self) {
        let request = self.0.request.get();
        if request.is_null() {
            return;
        }
        let event = self.0.event.get();
        // SAFETY: [I1] the request lives, or `end` would have cleared it; the event lives as long as this, and `end`
        // takes it back before the request goes.
        unsafe {
            (*event).data = Rc::as_ptr(&self.0).cast_mut().cast();
            (*event).handler = Some(on_wake);
            (*event).log = (*(*request).connection).log;
            shim::post_event(event);
        }
    }

    /// A phase handler has said "again", or is called again.
    pub(super) fn set_asleep(&self, is_asleep: bool) {
        self.0.is_asleep.set(is_asleep);
    }

    /// The request ends.
    pub(super) fn end(&self) {
        self.0.request.set(ptr::null_mut());
        // SAFETY: [I1] the event is valid as long as this.
        unsafe { shim::delete_posted(self.0.event.get()) };
    }
}

unsafe extern "C" fn on_wake(event: *mut ngx_event_t) {
    // SAFETY: data was set by `wake`; while the event is posted, the request and with it its sleeper live.
    unsafe {
        let sleeper = &*(*event).data.cast::<Inner>();
        let request = sleeper.request.get();
        if request.is_null() || !sleeper.is_asleep.get() {
            return;
        }
        let connection = (*request).connection;
        // The phase handler that has said "again" is called again.
        ngx_http_core_run_phases(request);
        ngx_http_run_posted_requests(connection);
    }
}

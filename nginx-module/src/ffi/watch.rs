//! The timers that look at the files.

use core::mem;
use core::ptr::NonNull;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use nginx_sys::{ngx_add_timer, ngx_cycle, ngx_cycle_t, ngx_del_timer, ngx_event_t, ngx_msec_t};
use ngx::core::Pool;

use super::{Zone, shim};
use crate::conf::MainConf;
use crate::log::Level;
use crate::watched_file::WatchedFile;

/// A timer in the pool of its cycle.
struct Watch {
    event: ngx_event_t,
    file: Rc<WatchedFile>,
    zone: Option<Zone>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.file.on_wake(None);
        if self.event.timer_set() != 0 {
            // SAFETY: the timer is set, so it is in nginx's tree; [I1]
            unsafe { ngx_del_timer(&raw mut self.event) };
        }
    }
}

/// Starts a timer for each key file of the cycle. `false`: no memory.
///
/// # Safety
/// `cycle` is valid, and nginx's event loop is set up.
pub(super) unsafe fn start(cycle: *mut ngx_cycle_t, main: &MainConf) -> bool {
    // Which keys they are is said below.
    main.adopt_files(|(level, line)| {
        if level != Level::Notice {
            log(level, &line);
        }
    });
    for file in main.files() {
        if file.generation() > 0 {
            log(Level::Notice, &file.describe());
        }
        // SAFETY: the caller vouches for the cycle; its pool lives as long.
        let pool = unsafe { Pool::from_ngx_pool((*cycle).pool) };
        // SAFETY: an event is a plain C struct for which zero means "not set".
        let event = unsafe { mem::zeroed() };
        let Some(watch) =
            NonNull::new(pool.allocate(Watch { event, file: Rc::clone(&file), zone: main.zone() }))
        else {
            return false;
        };
        // SAFETY: [I5] the watch is at its final address.
        let event = unsafe {
            let event = &raw mut (*watch.as_ptr()).event;
            (*event).handler = Some(on_timer);
            (*event).data = watch.as_ptr().cast();
            (*event).log = (*cycle).log;
            // An old worker must not wait for it when it shuts down.
            (*event).set_cancelable(1);
            event
        };
        file.on_wake(Some(Box::new(move || {
            // SAFETY: [I1] the watch takes this closure back before it ends.
            unsafe {
                if (*event).timer_set() != 0 {
                    ngx_del_timer(event);
                }
                ngx_add_timer(event, 1);
            }
        })));
        // SAFETY: [I1] the event is set up and not in the tree.
        unsafe { ngx_add_timer(event, interval(&file)) };
    }
    true
}

fn interval(file: &WatchedFile) -> ngx_msec_t {
    ngx_msec_t::try_from(file.refresh().as_millis()).unwrap_or(ngx_msec_t::MAX / 2)
}

fn log(level: Level, text: &str) {
    // SAFETY: [I7]
    unsafe { shim::log(level, (*ngx_cycle).log, text) }
}

unsafe extern "C" fn on_timer(event: *mut ngx_event_t) {
    // SAFETY: [I5] data was set to the watch when the timer was started, and the watch ends its timer when it ends.
    let (file, zone) = unsafe {
        let watch = (*event).data.cast::<Watch>();
        (Rc::clone(&(*watch).file), (*watch).zone)
    };
    let looked = catch_unwind(AssertUnwindSafe(|| {
        // What is wrong has been logged; the last good keys stay.
        let _ = file.look(|(level, line)| log(level, &line));
        if let Some(zone) = zone {
            file.publish(&zone, &mut |(level, line)| log(level, &line));
        }
    }));
    if looked.is_err() {
        log(Level::Error, "jwt: internal error while a key file was read; the last good keys stay");
    }
    // SAFETY: [I1] the timer has fired, so it is no longer in the tree.
    unsafe { ngx_add_timer(event, interval(&file)) };
}

//! The C shim's functions, with Rust's types.

use nginx_sys::{ngx_conf_t, ngx_event_t, ngx_log_t, ngx_uint_t};

use crate::log::Level;

#[expect(unreachable_pub, reason = "made by bindgen")]
mod bindings {
    use nginx_sys::{ngx_conf_t, ngx_event_t, ngx_int_t, ngx_log_t, ngx_uint_t, time_t, u_char};
    include!(concat!(env!("OUT_DIR"), "/shim.rs"));
}
use bindings::{
    ngx_http_jwt_shim_conf_error, ngx_http_jwt_shim_conf_log, ngx_http_jwt_shim_delete_posted,
    ngx_http_jwt_shim_log, ngx_http_jwt_shim_parse_size, ngx_http_jwt_shim_parse_time,
    ngx_http_jwt_shim_post_event, ngx_http_jwt_shim_regex_limits, ngx_http_jwt_shim_time,
};

/// Writes a line to nginx's log.
///
/// # Safety
/// `log` is valid.
pub(super) unsafe fn log(level: Level, log: *mut ngx_log_t, text: &str) {
    // SAFETY: the caller vouches for the log; the text is passed with its length and not kept.
    unsafe { ngx_http_jwt_shim_log(level as ngx_uint_t, log, text.as_ptr(), text.len()) }
}

/// Writes a line with the file and line that are being read.
///
/// # Safety
/// `cf` is valid.
pub(super) unsafe fn conf_log(level: Level, cf: *mut ngx_conf_t, text: &str) {
    // SAFETY: the caller vouches for cf; the text is passed with its length and not kept.
    unsafe { ngx_http_jwt_shim_conf_log(level as ngx_uint_t, cf, text.as_ptr(), text.len()) }
}

/// nginx's cached time in seconds since the epoch.
pub(super) fn time() -> i64 {
    // SAFETY: [I7] it only reads the cached time.
    unsafe { ngx_http_jwt_shim_time() }
}

/// `NGX_CONF_ERROR`.
pub(super) fn conf_error() -> *mut core::ffi::c_char {
    // SAFETY: it returns a constant.
    unsafe { ngx_http_jwt_shim_conf_error() }
}

/// nginx's time syntax; seconds or milliseconds.
pub(super) fn parse_time(text: &[u8], is_sec: bool) -> Option<u64> {
    // SAFETY: it reads the text by its length and keeps nothing.
    let value = unsafe {
        ngx_http_jwt_shim_parse_time(text.as_ptr(), text.len(), ngx_uint_t::from(is_sec))
    };
    u64::try_from(value).ok()
}

/// nginx's size syntax.
pub(super) fn parse_size(text: &[u8]) -> Option<usize> {
    // SAFETY: it reads the text by its length and keeps nothing.
    let value = unsafe { ngx_http_jwt_shim_parse_size(text.as_ptr(), text.len()) };
    usize::try_from(value).ok()
}

/// What a pattern begins with, so that no subject can keep a worker busy.
pub(super) fn regex_limits() -> &'static str {
    // SAFETY: it returns a constant string.
    let text = unsafe { core::ffi::CStr::from_ptr(ngx_http_jwt_shim_regex_limits()) };
    text.to_str().unwrap_or_default()
}

/// Has nginx run the event's handler after the events of this turn (`ngx_post_event`).
///
/// # Safety
/// `event` is valid until it has run or is deleted.
pub(super) unsafe fn post_event(event: *mut ngx_event_t) {
    // SAFETY: the caller vouches for it.
    unsafe { ngx_http_jwt_shim_post_event(event) }
}

/// Takes back what [`post_event`] has asked for, if it has not run yet.
///
/// # Safety
/// `event` is valid.
pub(super) unsafe fn delete_posted(event: *mut ngx_event_t) {
    // SAFETY: the caller vouches for it.
    unsafe { ngx_http_jwt_shim_delete_posted(event) }
}

//! A view of a request.

use core::cell::{Cell, OnceCell};
use core::marker::PhantomData;
use core::mem;
use core::ptr::{self, NonNull};
use core::slice;

use nginx_sys::{
    NGX_HTTP_OPTIONS, NGX_OK, ngx_http_complex_value, ngx_http_core_main_conf_t,
    ngx_http_core_module, ngx_http_get_flushed_variable, ngx_http_request_t, ngx_http_variable_t,
    ngx_int_t, ngx_list_push, ngx_list_t, ngx_pnalloc, ngx_pool_cleanup_add, ngx_str_t,
    ngx_table_elt_t, ngx_uint_t,
};

use super::conf::{ComplexValue, VariableIndex, bytes};
use super::regex::Regex;
use super::{Sleeper, entry, headers, shim, subrequest};
use crate::conf::{LocConf, MainConf};
use crate::context::Context;
use crate::key_request::Fetch;
use crate::log::Level;
use std::rc::Rc;

/// A request in one of this module's callbacks (`ngx_http_request_t`).
pub(crate) struct Request<'r> {
    r: NonNull<ngx_http_request_t>,
    life: PhantomData<&'r mut ngx_http_request_t>,
}

/// What the module keeps with a request, in its pool.
struct Kept {
    /// Whose it is: a subrequest has the pool of its main request.
    request: *const ngx_http_request_t,
    /// Made when the request sleeps for the first time: most never do, and cost no allocation.
    sleeper: OnceCell<Sleeper>,
    /// The challenge that was set last.
    challenge: Cell<Option<NonNull<ngx_table_elt_t>>>,
    context: Context,
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(sleeper) = self.sleeper.get() {
            sleeper.end();
        }
    }
}

impl<'r> Request<'r> {
    /// # Safety
    /// `r` is what nginx gave to the callback that is running, which lasts for `'r`.
    pub(super) unsafe fn from_raw(r: *mut ngx_http_request_t) -> Option<Self> {
        NonNull::new(r).map(|r| Self { r, life: PhantomData })
    }

    /// The configuration of the request's current location.
    pub(crate) fn loc_conf(&self) -> &'r LocConf {
        // SAFETY: [I2] [I3] [I6]
        unsafe { &*(*(*self.r.as_ptr()).loc_conf.add(entry::ctx_index())).cast::<LocConf>() }
    }

    /// The configuration of `http {}`.
    pub(crate) fn main_conf(&self) -> &'r MainConf {
        // SAFETY: [I2] [I3] [I6]
        unsafe { &*(*(*self.r.as_ptr()).main_conf.add(entry::ctx_index())).cast::<MainConf>() }
    }

    /// The value of the `Authorization` field.
    pub(crate) fn authorization(&self) -> Option<&'r [u8]> {
        // SAFETY: [I2] [I4] the field is null or a header line in the request's pool.
        unsafe {
            let line = (*self.r.as_ptr()).headers_in.authorization;
            line.as_ref().map(|line| bytes(&line.value))
        }
    }

    /// The value of a variable; `None` if it has none.
    pub(crate) fn variable(&mut self, index: VariableIndex) -> Option<&'r [u8]> {
        // SAFETY: [I2] the index was made by ngx_http_get_variable_index in this cycle.
        let value = unsafe { ngx_http_get_flushed_variable(self.r.as_ptr(), index.0) };
        // SAFETY: [I4] null, or a value whose text is in the request's pool or the configuration's; neither goes
        // before the request, and a new evaluation writes elsewhere.
        unsafe {
            let value = value.as_ref()?;
            if value.not_found() != 0 || value.valid() == 0 {
                return None;
            }
            let text = ngx_str_t { len: value.len() as usize, data: value.data };
            Some(bytes(&text))
        }
    }

    /// The text of a complex value; empty if it can't be evaluated.
    pub(crate) fn complex_value(&mut self, value: &ComplexValue) -> &'r [u8] {
        let mut text = ngx_str_t { len: 0, data: ptr::null_mut() };
        // SAFETY: [I2] [I3] [I4] nginx does not write to the compiled value; the text is the configuration's or in
        // the request's pool.
        unsafe {
            let compiled = (&raw const value.0).cast_mut();
            if ngx_http_complex_value(self.r.as_ptr(), compiled, &raw mut text)
                != NGX_OK as ngx_int_t
            {
                return &[];
            }
            bytes(&text)
        }
    }

    /// The text of a key source's parameter, evaluated aside: what its variables come to here, from a token that
    /// nobody has verified yet, must not stay in nginx's memory of variables (`r->variables`) for others to read.
    pub(crate) fn key_parameter(&mut self, value: &ComplexValue) -> &'r [u8] {
        if value.0.lengths.is_null() {
            return self.complex_value(value);
        }
        let count = self.variable_count();
        // SAFETY: [I2] a request has that many values of variables, each a plain C struct, which is put back as it
        // was. A regular expression, of a map say, gets captures of its own; those of the location come back.
        unsafe {
            let r = self.r.as_ptr();
            let mut before = Vec::with_capacity(count);
            ptr::copy_nonoverlapping((*r).variables, before.as_mut_ptr(), count);
            before.set_len(count);
            let captures = ((*r).ncaptures, (*r).captures, (*r).captures_data);
            let realloc_captures = (*r).realloc_captures();
            (*r).set_realloc_captures(1);
            let text = self.complex_value(value);
            ((*r).ncaptures, (*r).captures, (*r).captures_data) = captures;
            (*r).set_realloc_captures(realloc_captures);
            ptr::copy_nonoverlapping(before.as_ptr(), (*r).variables, count);
            text
        }
    }

    /// Compiles a regular expression that is known only now; `None` if it can't be.
    pub(crate) fn compile_regex(&mut self, pattern: &str) -> Option<Regex> {
        // SAFETY: [I2] [I4] it is used in this request only.
        unsafe { Regex::compile(pattern, (*self.r.as_ptr()).pool).ok() }
    }

    /// nginx's cached time in seconds since the epoch.
    pub(crate) fn now(&self) -> i64 {
        shim::time()
    }

    /// Whether the log keeps lines of this level.
    pub(crate) fn logs(&self, level: Level) -> bool {
        // SAFETY: [I2] a request has a connection, and that a log.
        unsafe { (*(*(*self.r.as_ptr()).connection).log).log_level >= level as ngx_uint_t }
    }

    /// Writes to the error log in the request's name.
    pub(crate) fn log(&self, level: Level, text: &str) {
        // SAFETY: [I2] a request has a connection, and that a log.
        unsafe { shim::log(level, (*(*self.r.as_ptr()).connection).log, text) }
    }

    /// Whether it is the client's own and no subrequest.
    pub(crate) fn is_main(&self) -> bool {
        // SAFETY: [I2]
        unsafe { ptr::eq(self.r.as_ptr(), (*self.r.as_ptr()).main) }
    }

    /// Whether it is a subrequest of this module's that fetches keys.
    pub(crate) fn is_key_request(&self) -> bool {
        // SAFETY: [I2]
        unsafe { subrequest::is_ours(self.r.as_ptr()) }
    }

    /// Whether it asks, in a browser's name, what another origin may do (Fetch standard, "CORS-preflight request").
    pub(crate) fn is_preflight(&self) -> bool {
        // SAFETY: [I2]
        let method = unsafe { (*self.r.as_ptr()).method };
        method == NGX_HTTP_OPTIONS as ngx_uint_t
            && self.has_header_in(b"origin")
            && self.has_header_in(b"access-control-request-method")
    }

    fn has_header_in(&self, name: &[u8]) -> bool {
        // SAFETY: [I2] [I4]
        let lines = unsafe { headers::lines(&(*self.r.as_ptr()).headers_in.headers) };
        lines.into_iter().any(|(key, _)| key.eq_ignore_ascii_case(name))
    }

    /// Whether the client has sent the cookie `name` with this value.
    pub(crate) fn has_cookie(&self, name: &str, value: &[u8]) -> bool {
        // SAFETY: [I2] [I4]
        let lines = unsafe { headers::lines(&(*self.r.as_ptr()).headers_in.headers) };
        lines.into_iter().filter(|(key, _)| key.eq_ignore_ascii_case(b"cookie")).any(|(_, line)| {
            line.split(|byte| *byte == b';').any(|pair| {
                let pair = pair.trim_ascii();
                pair.strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"="))
                    == Some(value)
            })
        })
    }

    /// Removes the client's header fields whose names `is_unwanted`. `false`: no memory.
    pub(crate) fn remove_headers_in(&mut self, is_unwanted: impl Fn(&[u8]) -> bool) -> bool {
        // SAFETY: [I2] [I4]
        unsafe { headers::remove(self.r.as_ptr(), is_unwanted) }
    }

    /// Has nginx forget what it remembers of variables `$http_NAME` whose NAME `is_changed`: they are read anew.
    pub(crate) fn forget_header_variables(&mut self, is_changed: impl Fn(&[u8]) -> bool) {
        self.forget_variables(|name| name.strip_prefix(b"http_").is_some_and(&is_changed));
    }

    /// Has nginx forget what it remembers of variables whose name `is_changed`.
    pub(super) fn forget_variables(&mut self, is_changed: impl Fn(&[u8]) -> bool) {
        // SAFETY: [I2] [I6] the core module's configuration lists the indexed variables, in the order of the values
        // that a request keeps.
        unsafe {
            let r = self.r.as_ptr();
            let core = self.core_conf();
            let variables = (*core).variables.elts.cast::<ngx_http_variable_t>();
            for index in 0..(*core).variables.nelts {
                let name = bytes(&(*variables.add(index)).name);
                if is_changed(name) {
                    let value = (*r).variables.add(index);
                    (*value).set_valid(0);
                    (*value).set_not_found(0);
                }
            }
        }
    }

    /// How many values of variables nginx keeps with a request.
    pub(super) fn variable_count(&self) -> usize {
        // SAFETY: [I2] [I6]
        unsafe { (*self.core_conf()).variables.nelts }
    }

    fn core_conf(&self) -> *const ngx_http_core_main_conf_t {
        // SAFETY: [I2] [I6] the core module's configuration of `http {}` is there before any request.
        unsafe {
            let index = ngx_http_core_module.ctx_index;
            (*(*self.r.as_ptr()).main_conf.add(index)).cast()
        }
    }

    /// Adds a field to the header that upstreams get. `false`: no memory.
    pub(crate) fn add_header_in(&mut self, name: &str, value: &[u8]) -> bool {
        let lower = name.to_ascii_lowercase();
        let (Some(name), Some(lower), Some(value)) =
            (self.copy(name.as_bytes()), self.copy(lower.as_bytes()), self.copy(value))
        else {
            return false;
        };
        // SAFETY: [I2] [I4]
        unsafe { headers::push_in(self.r.as_ptr(), name, lower.data, value) }
    }

    /// Sets the challenge of the answer; one that an earlier location has set is replaced. `false`: no memory.
    pub(crate) fn set_www_authenticate(&mut self, challenge: &[u8]) -> bool {
        // SAFETY: [I2]
        let set = unsafe { (*self.r.as_ptr()).headers_out.www_authenticate };
        if let Some(line) = NonNull::new(set) {
            // SAFETY: [I4] where `satisfy any` has let the request pass before, nginx has set it to "not sent".
            unsafe { (*line.as_ptr()).hash = 1 };
            return self.set_value(line, challenge) && self.note_challenge(line);
        }
        let Some(line) = self.add_header_out("WWW-Authenticate", challenge) else { return false };
        // SAFETY: [I2] through this field nginx drops the challenge where `satisfy any` lets the request pass.
        unsafe { (*self.r.as_ptr()).headers_out.www_authenticate = line.as_ptr() };
        self.note_challenge(line)
    }

    fn note_challenge(&self, line: NonNull<ngx_table_elt_t>) -> bool {
        let Some(kept) = self.kept() else { return false };
        // SAFETY: [I4]
        unsafe { (*kept.as_ptr()).challenge.set(Some(line)) };
        true
    }

    /// Takes back the challenge that was set last.
    pub(crate) fn withdraw_challenge(&self) {
        // SAFETY: [I4] the line is in the request's pool; nginx does not send a field whose hash is 0.
        unsafe {
            if let Some(line) = self.kept().and_then(|kept| (*kept.as_ptr()).challenge.take()) {
                (*line.as_ptr()).hash = 0;
            }
        }
    }

    /// Adds a header field to the answer; `None`: no memory.
    pub(crate) fn add_header_out(
        &mut self,
        name: &'static str,
        value: &[u8],
    ) -> Option<NonNull<ngx_table_elt_t>> {
        // SAFETY: [I2]
        let list: *mut ngx_list_t = unsafe { &raw mut (*self.r.as_ptr()).headers_out.headers };
        // SAFETY: [I2] the list was initialised with the request.
        let line = NonNull::new(unsafe { ngx_list_push(list) }.cast::<ngx_table_elt_t>())?;
        // SAFETY: a new element of the list. Zero is a field that nginx does not send (hash 0), and ends the linked
        // list that header fields are since nginx 1.23.
        unsafe { line.write(mem::zeroed()) };
        if !self.set_value(line, value) {
            return None;
        }
        // SAFETY: as above; the name is static.
        unsafe {
            (*line.as_ptr()).key = ngx_str_t { len: name.len(), data: name.as_ptr().cast_mut() };
            (*line.as_ptr()).hash = 1;
        }
        Some(line)
    }

    fn set_value(&mut self, line: NonNull<ngx_table_elt_t>, value: &[u8]) -> bool {
        let Some(value) = self.copy(value) else { return false };
        // SAFETY: [I4] the line is in the request's pool.
        unsafe { (*line.as_ptr()).value = value };
        true
    }

    /// Copies a text into the request's pool.
    pub(super) fn copy(&mut self, text: &[u8]) -> Option<ngx_str_t> {
        // SAFETY: [I2] [I4]
        let data = unsafe { ngx_pnalloc((*self.r.as_ptr()).pool, text.len().max(1)) }.cast::<u8>();
        if data.is_null() {
            return None;
        }
        // SAFETY: the pool gave at least that many bytes, which nobody else has.
        unsafe { ptr::copy_nonoverlapping(text.as_ptr(), data, text.len()) };
        Some(ngx_str_t { len: text.len(), data })
    }

    /// What the module keeps with this request; `None`: no memory.
    pub(crate) fn context(&self) -> Option<&'r Context> {
        // SAFETY: [I4] what is kept lives as long as the request's pool, and is only ever shared.
        Some(unsafe { &(*self.kept()?.as_ptr()).context })
    }

    /// The same, if it was made since the request came to this location: it is not looked for.
    pub(crate) fn current_context(&self) -> Option<&'r Context> {
        // SAFETY: [I4] [I6] the slot is this module's: null, or what `kept` has made.
        unsafe {
            let kept = (*(*self.r.as_ptr()).ctx.add(entry::ctx_index())).cast::<Kept>();
            kept.as_ref().map(|kept| &kept.context)
        }
    }

    /// What the module keeps with the client's own request, of which this may be a subrequest; `None`: no memory.
    pub(crate) fn main_context(&self) -> Option<&'r Context> {
        // SAFETY: [I2] a request has a main request, which lives longer.
        unsafe { Request::from_raw((*self.r.as_ptr()).main) }?.context()
    }

    fn kept(&self) -> Option<NonNull<Kept>> {
        let r = self.r.as_ptr();
        // SAFETY: [I2] [I6] the slot is this module's: null, or what stands below.
        unsafe {
            let slot = (*r).ctx.add(entry::ctx_index());
            if let Some(kept) = NonNull::new((*slot).cast::<Kept>()) {
                return Some(kept);
            }
            // An internal redirect has made nginx forget it, or it was never made.
            let mut cleanup = (*(*r).pool).cleanup;
            while !cleanup.is_null() {
                let data = (*cleanup).data.cast::<Kept>();
                if (*cleanup).handler.is_some_and(|handler| ptr::fn_addr_eq(handler, DROP_KEPT))
                    && ptr::eq((*data).request, r)
                {
                    *slot = data.cast();
                    return NonNull::new(data);
                }
                cleanup = (*cleanup).next;
            }
            let cleanup = ngx_pool_cleanup_add((*r).pool, size_of::<Kept>());
            let kept = NonNull::new(cleanup.as_mut()?.data.cast::<Kept>())?;
            kept.write(Kept {
                request: r,
                sleeper: OnceCell::new(),
                challenge: Cell::new(None),
                context: Context::default(),
            });
            (*cleanup).handler = Some(DROP_KEPT);
            *slot = kept.as_ptr().cast();
            Some(kept)
        }
    }

    /// A phase handler has said "again" for this request, or is called again.
    pub(super) fn set_asleep(&self, is_asleep: bool) {
        // SAFETY: [I4] [I6] the slot is this module's: null, or what `kept` has made.
        let kept = unsafe { (*(*self.r.as_ptr()).ctx.add(entry::ctx_index())).cast::<Kept>() };
        // SAFETY: as above.
        if let Some(sleeper) = unsafe { kept.as_ref() }.and_then(|kept| kept.sleeper.get()) {
            sleeper.set_asleep(is_asleep);
        }
    }

    /// Has the request sleep until the sleeper is woken; nginx must be told that its phase handler has to be called
    /// again.
    pub(crate) fn sleep(&mut self) -> Sleeper {
        match self.kept() {
            // SAFETY: [I4]
            Some(kept) => unsafe {
                let sleeper = &(*kept.as_ptr()).sleeper;
                sleeper.get_or_init(|| Sleeper::new(self.r.as_ptr())).clone()
            },
            None => Sleeper::new(ptr::null_mut()),
        }
    }

    /// Starts a subrequest that fetches keys. `false`: it can't be started.
    pub(crate) fn start_subrequest(&mut self, fetch: Rc<Fetch>) -> bool {
        // SAFETY: [I2] it is a main request in a phase handler.
        unsafe { subrequest::start(self.r.as_ptr(), fetch) }
    }

    /// One argument of the query string.
    pub(crate) fn argument(&self, name: &str) -> Option<&'r [u8]> {
        // SAFETY: [I2] [I4]
        let args = unsafe { bytes(&(*self.r.as_ptr()).args) };
        args.split(|byte| *byte == b'&')
            .find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
    }
}

/// The pool's cleanup handler of [`Kept`], by whose address it is found again.
const DROP_KEPT: unsafe extern "C" fn(*mut core::ffi::c_void) = drop_kept;

unsafe extern "C" fn drop_kept(data: *mut core::ffi::c_void) {
    // SAFETY: the pool gives back what was put beside this handler, once.
    unsafe { ptr::drop_in_place(data.cast::<Kept>()) };
}

/// The bytes of a slice of nginx's own.
///
/// # Safety
/// `data` is valid for `len` bytes for `'a`.
pub(super) unsafe fn raw_bytes<'a>(data: *const u8, len: usize) -> &'a [u8] {
    if data.is_null() || len == 0 {
        return &[];
    }
    // SAFETY: the caller vouches for it.
    unsafe { slice::from_raw_parts(data, len) }
}

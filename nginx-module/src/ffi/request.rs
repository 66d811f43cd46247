//! A view of a request.

use core::marker::PhantomData;
use core::mem;
use core::ptr::{self, NonNull};
use std::rc::Rc;

use nginx_sys::{
    NGX_OK, ngx_http_complex_value, ngx_http_get_flushed_variable, ngx_http_request_t, ngx_int_t,
    ngx_list_push, ngx_pnalloc, ngx_str_t, ngx_table_elt_t,
};
use ngx::core::Pool;

use super::conf::{ComplexValue, VariableIndex, bytes};
use super::{entry, shim};
use crate::access::Verdict;
use crate::conf::LocConf;
use crate::log::Level;

/// A request in one of this module's callbacks (`ngx_http_request_t`).
pub(crate) struct Request<'r> {
    r: NonNull<ngx_http_request_t>,
    life: PhantomData<&'r mut ngx_http_request_t>,
}

/// What the module keeps with a request.
struct Kept {
    /// The configuration that the verdict was made under: another location has other rules.
    conf: *const LocConf,
    verdict: Rc<Verdict>,
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

    /// The value of the `Authorization` field.
    pub(crate) fn authorization(&self) -> Option<&'r [u8]> {
        // SAFETY: [I2] [I4] the field is null or a header line in the request's pool.
        unsafe {
            let line = (*self.r.as_ptr()).headers_in.authorization;
            line.as_ref().map(|line| bytes(&line.value))
        }
    }

    /// The value of a variable; `None` if it has none.
    pub(crate) fn variable(&mut self, index: &VariableIndex) -> Option<Vec<u8>> {
        // SAFETY: [I2] the index was made by ngx_http_get_variable_index in this cycle.
        let value = unsafe { ngx_http_get_flushed_variable(self.r.as_ptr(), index.0) };
        // SAFETY: [I4] null, or a value in the request's pool.
        let value = unsafe { value.as_ref() }?;
        (value.not_found() == 0).then(|| value.as_bytes().to_vec())
    }

    /// The text of a complex value; empty if it can't be evaluated.
    pub(crate) fn complex_value(&mut self, value: &ComplexValue) -> Vec<u8> {
        let mut text = ngx_str_t { len: 0, data: ptr::null_mut() };
        // SAFETY: [I2] [I3] nginx does not write to the compiled value.
        unsafe {
            let compiled = (&raw const value.0).cast_mut();
            if ngx_http_complex_value(self.r.as_ptr(), compiled, &raw mut text)
                != NGX_OK as ngx_int_t
            {
                return Vec::new();
            }
            bytes(&text).to_vec()
        }
    }

    /// nginx's cached time in seconds since the epoch.
    pub(crate) fn now(&self) -> i64 {
        shim::time()
    }

    /// Writes to the error log in the request's name.
    pub(crate) fn log(&self, level: Level, text: &str) {
        // SAFETY: [I2] a request has a connection, and that a log.
        unsafe { shim::log(level, (*(*self.r.as_ptr()).connection).log, text) }
    }

    /// Sets the challenge of the answer; one that an earlier location has set is replaced. `false`: no memory.
    pub(crate) fn set_www_authenticate(&mut self, challenge: &[u8]) -> bool {
        // SAFETY: [I2]
        let set = unsafe { (*self.r.as_ptr()).headers_out.www_authenticate };
        if let Some(line) = NonNull::new(set) {
            return self.set_value(line, challenge);
        }
        let Some(line) = self.add_header_out("WWW-Authenticate", challenge) else { return false };
        // SAFETY: [I2] through this field nginx drops the challenge where `satisfy any` lets the request pass.
        unsafe { (*self.r.as_ptr()).headers_out.www_authenticate = line.as_ptr() };
        true
    }

    /// Adds a header field to the answer.
    pub(crate) fn add_header_out(
        &mut self,
        name: &'static str,
        value: &[u8],
    ) -> Option<NonNull<ngx_table_elt_t>> {
        // SAFETY: [I2]
        let list = unsafe { &raw mut (*self.r.as_ptr()).headers_out.headers };
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

    /// The verdict that was made under this very configuration.
    pub(crate) fn verdict_for(&self, conf: &LocConf) -> Option<Rc<Verdict>> {
        // SAFETY: [I6] null, or what keep_verdict has put there; [I4] [I5] it lives as long as the request.
        let kept = unsafe { (*self.context()).cast::<Kept>().as_ref() }?;
        ptr::eq(kept.conf, conf).then(|| Rc::clone(&kept.verdict))
    }

    /// Keeps a verdict with the request. `false`: no memory.
    pub(crate) fn keep_verdict(&mut self, conf: &LocConf, verdict: Rc<Verdict>) -> bool {
        // SAFETY: [I2] [I4]
        let pool = unsafe { Pool::from_ngx_pool((*self.r.as_ptr()).pool) };
        let kept = pool.allocate(Kept { conf, verdict });
        if kept.is_null() {
            return false;
        }
        // SAFETY: [I6] the slot is this module's.
        unsafe { *self.context() = kept.cast() };
        true
    }

    fn context(&self) -> *mut *mut core::ffi::c_void {
        // SAFETY: [I2] [I6]
        unsafe { (*self.r.as_ptr()).ctx.add(entry::ctx_index()) }
    }
}

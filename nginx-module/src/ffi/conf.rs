//! Views of what exists while the configuration is read.

use core::marker::PhantomData;
use core::mem;
use core::ptr::NonNull;
use core::slice;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use nginx_sys::{
    NGX_OK, ngx_conf_full_name, ngx_conf_t, ngx_http_compile_complex_value,
    ngx_http_compile_complex_value_t, ngx_http_complex_value_t, ngx_http_get_variable_index,
    ngx_int_t, ngx_str_t,
};

use super::regex::Regex;
use super::{ReplayZone, entry, shim};
use crate::log::Level;
use crate::variables::SetVariable;

/// A text with variables, compiled (`ngx_http_complex_value_t`).
pub(crate) struct ComplexValue(pub(super) ngx_http_complex_value_t);

impl core::fmt::Debug for ComplexValue {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("ComplexValue")
    }
}

/// The index of a variable (`ngx_http_get_variable_index`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct VariableIndex(pub(super) usize);

/// The configuration while a directive is read (`ngx_conf_t`).
pub(crate) struct Conf<'c> {
    cf: NonNull<ngx_conf_t>,
    life: PhantomData<&'c mut ngx_conf_t>,
}

impl<'c> Conf<'c> {
    /// # Safety
    /// `cf` is what nginx gave to the callback that is running, which lasts for `'c`.
    pub(super) unsafe fn from_raw(cf: *mut ngx_conf_t) -> Option<Self> {
        NonNull::new(cf).map(|cf| Self { cf, life: PhantomData })
    }

    /// The directive's arguments, without its name.
    pub(crate) fn arguments(&self) -> Vec<&'c [u8]> {
        // SAFETY: [I2] cf and its args are valid for the callback.
        let args = unsafe { &*(*self.cf.as_ptr()).args };
        // SAFETY: nginx keeps nelts strings there.
        let args = unsafe { slice::from_raw_parts(args.elts.cast::<ngx_str_t>(), args.nelts) };
        // SAFETY: [I3] the strings live in the cycle's pool.
        args.iter().skip(1).map(|arg| unsafe { bytes(arg) }).collect()
    }

    /// Writes to the log, with the file and the line.
    pub(crate) fn log(&self, level: Level, text: &str) {
        // SAFETY: [I2]
        unsafe { shim::conf_log(level, self.cf.as_ptr(), text) }
    }

    /// The index of the variable `name`; `None` if nginx has refused it and logged why.
    pub(crate) fn variable(&self, name: &'c [u8]) -> Option<VariableIndex> {
        let mut name = ngx_str_t { len: name.len(), data: name.as_ptr().cast_mut() };
        // SAFETY: [I2] nginx copies the name.
        let index = unsafe { ngx_http_get_variable_index(self.cf.as_ptr(), &raw mut name) };
        usize::try_from(index).ok().map(VariableIndex)
    }

    /// Compiles a text with variables; `None` if nginx has refused it and logged why.
    pub(crate) fn complex_value(&self, text: &'c [u8]) -> Option<ComplexValue> {
        let mut value = ngx_str_t { len: text.len(), data: text.as_ptr().cast_mut() };
        // SAFETY: both are plain C structs for which zero means "nothing".
        let (mut ccv, mut compiled): (ngx_http_compile_complex_value_t, ngx_http_complex_value_t) =
            unsafe { (mem::zeroed(), mem::zeroed()) };
        ccv.cf = self.cf.as_ptr();
        ccv.value = &raw mut value;
        ccv.complex_value = &raw mut compiled;
        // SAFETY: [I2] [I3] what the compiled value points to lives in the cycle's pool, as the text does.
        let rc = unsafe { ngx_http_compile_complex_value(&raw mut ccv) };
        (rc == NGX_OK as ngx_int_t).then_some(ComplexValue(compiled))
    }

    /// The path, relative to the folder of nginx.conf (`ngx_conf_full_name`).
    pub(crate) fn full_path(&self, path: &'c [u8]) -> Option<PathBuf> {
        let mut name = ngx_str_t { len: path.len(), data: path.as_ptr().cast_mut() };
        // SAFETY: [I2] [I3] the argument ends with NUL, as every argument does, and the result is in the cycle's pool.
        unsafe {
            let cycle = (*self.cf.as_ptr()).cycle;
            if ngx_conf_full_name(cycle, &raw mut name, 1) != NGX_OK as ngx_int_t {
                return None;
            }
            Some(PathBuf::from(OsStr::from_bytes(bytes(&name))))
        }
    }

    /// The folder of nginx.conf, at which relative paths begin.
    pub(crate) fn folder(&self) -> Option<PathBuf> {
        // A name with the NUL behind it that `full_path` needs.
        let file = self.full_path(c"x".to_bytes())?;
        file.parent().map(Into::into)
    }

    /// Compiles a regular expression.
    ///
    /// # Errors
    /// The library's text.
    pub(crate) fn regex(&mut self, pattern: &str) -> Result<Regex, String> {
        // SAFETY: [I2] [I3] the cycle's pool outlives the configuration that holds the expression.
        unsafe { Regex::compile(pattern, (*self.cf.as_ptr()).pool) }
    }

    /// Defines the variable `name` (without `$`); `None` if nginx has refused it and logged why.
    pub(crate) fn add_set_variable(&mut self, name: &'c [u8], variable: SetVariable) -> Option<()> {
        // SAFETY: [I2]
        unsafe { entry::add_set_variable(self.cf.as_ptr(), name, variable) }
    }

    /// Takes over the location's requests (`clcf->handler`).
    pub(crate) fn handle_content(&mut self) -> bool {
        // SAFETY: [I2]
        unsafe { entry::set_content_handler(self.cf.as_ptr()) }
    }

    /// The zone `name` for tokens that were used, made with the configuration; `None` if nginx has refused it and
    /// logged why.
    pub(crate) fn replay_zone(&mut self, name: &'c [u8], size: usize) -> Option<ReplayZone> {
        // SAFETY: [I2]
        unsafe { ReplayZone::add(self.cf.as_ptr(), name, size) }
    }

    /// A size in nginx's syntax.
    pub(crate) fn size(&self, text: &[u8]) -> Option<usize> {
        shim::parse_size(text)
    }

    /// A time in nginx's syntax, with a precision of seconds.
    pub(crate) fn seconds(&self, text: &[u8]) -> Option<Duration> {
        shim::parse_time(text, true).map(Duration::from_secs)
    }

    /// A time in nginx's syntax, with a precision of milliseconds.
    pub(crate) fn milliseconds(&self, text: &[u8]) -> Option<Duration> {
        shim::parse_time(text, false).map(Duration::from_millis)
    }
}

/// # Safety
/// `text` is valid for `'a`, which the caller chooses.
pub(super) unsafe fn bytes<'a>(text: &ngx_str_t) -> &'a [u8] {
    if text.len == 0 || text.data.is_null() {
        return &[];
    }
    // SAFETY: the caller vouches for it.
    unsafe { slice::from_raw_parts(text.data, text.len) }
}

//! Regular expressions, by the library that nginx is linked with.

use core::mem;
use core::ptr::{self, NonNull};

use nginx_sys::{
    NGX_OK, NGX_REGEX_NO_MATCHED, ngx_int_t, ngx_pool_t, ngx_regex_compile, ngx_regex_compile_t,
    ngx_regex_exec, ngx_regex_t, ngx_str_t,
};

use super::conf::bytes;
use super::shim;

/// A compiled expression. It lives in the pool that it was compiled with.
#[derive(Debug)]
pub(crate) struct Regex(NonNull<ngx_regex_t>);

impl Regex {
    /// # Safety
    /// `pool` outlives the expression.
    pub(super) unsafe fn compile(pattern: &str, pool: *mut ngx_pool_t) -> Result<Self, String> {
        let limited = format!("{}{pattern}", shim::regex_limits());
        let mut error = [0_u8; 256];
        // SAFETY: a plain C struct for which zero means "nothing".
        let mut compile: ngx_regex_compile_t = unsafe { mem::zeroed() };
        compile.pattern = ngx_str_t { len: limited.len(), data: limited.as_ptr().cast_mut() };
        compile.pool = pool;
        compile.err = ngx_str_t { len: error.len(), data: error.as_mut_ptr() };
        // SAFETY: the caller vouches for the pool; the pattern is read here only, and the text of an error fits.
        let rc = unsafe { ngx_regex_compile(&raw mut compile) };
        match NonNull::new(compile.regex) {
            Some(regex) if rc == NGX_OK as ngx_int_t => Ok(Self(regex)),
            _ => {
                // SAFETY: nginx has set the length to what it wrote.
                let text = unsafe { bytes(&compile.err) };
                Err(String::from_utf8_lossy(text).replace(shim::regex_limits(), ""))
            }
        }
    }

    /// Whether the expression is found in `subject`; `None` if that takes too long.
    pub(crate) fn matches(&self, subject: &str) -> Option<bool> {
        let mut subject = ngx_str_t { len: subject.len(), data: subject.as_ptr().cast_mut() };
        // SAFETY: the expression lives (see the type), and the subject is read only.
        let rc = unsafe { ngx_regex_exec(self.0.as_ptr(), &raw mut subject, ptr::null_mut(), 0) };
        const NO: ngx_int_t = NGX_REGEX_NO_MATCHED as ngx_int_t;
        match rc {
            0.. => Some(true),
            NO => Some(false),
            _ => None,
        }
    }
}

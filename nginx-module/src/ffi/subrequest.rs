//! The subrequest that fetches keys (`auth_jwt_key_request`), and the filters that take its answer.
//!
//! The answer never reaches the client: two filters in front of all others take its header and body. They are in front
//! because a dynamic module's filters are registered last.

use core::ffi::c_void;
use core::mem;
use core::ptr::{self, NonNull};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use nginx_sys::{
    NGX_ERROR, NGX_HTTP_CLIENT_CLOSED_REQUEST, NGX_HTTP_SPECIAL_RESPONSE,
    NGX_HTTP_SUBREQUEST_WAITED, NGX_OK, ngx_buf_t, ngx_chain_t, ngx_http_post_subrequest_t,
    ngx_http_request_body_t, ngx_http_request_t, ngx_http_subrequest, ngx_http_top_body_filter,
    ngx_http_top_header_filter, ngx_http_variable_value_t, ngx_int_t, ngx_palloc, ngx_pcalloc,
    ngx_str_t, ngx_table_elt_t, ngx_uint_t,
};
use ngx::core::Pool;

use super::conf::bytes;
use super::request::raw_bytes;
use super::shim;
use crate::key_request::{BODY_BYTES, Fetch, Response};

/// What a running fetch has so far, in the pool of the request that started it.
struct Collector {
    fetch: Rc<Fetch>,
    body: Vec<u8>,
    is_broken: bool,
    /// Whether the end of the body was seen: nginx finalizes an answer that broke off as one that is complete.
    is_complete: bool,
    is_done: bool,
    /// How often nginx has turned the answer into an error page.
    error_pages: u8,
    content_encoding: Option<String>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        // The request is gone before the answer came: others must not wait for it.
        if !self.is_done {
            self.fetch.abandon();
        }
    }
}

/// Whether `r` is a subrequest of this module.
///
/// # Safety
/// `r` is valid.
pub(super) unsafe fn is_ours(r: *mut ngx_http_request_t) -> bool {
    // SAFETY: the caller vouches for r.
    unsafe { !collector(r).is_null() }
}

/// # Safety
/// `r` is valid.
unsafe fn collector(r: *mut ngx_http_request_t) -> *mut Collector {
    // SAFETY: the caller vouches for r; a post_subrequest with our handler has a collector as its data.
    unsafe {
        let post = (*r).post_subrequest;
        if ptr::eq(r, (*r).main)
            || post.is_null()
            || !(*post).handler.is_some_and(|handler| ptr::fn_addr_eq(handler, ON_DONE))
        {
            return ptr::null_mut();
        }
        (*post).data.cast()
    }
}

/// Starts the subrequest for `fetch`. `false`: it can't be started.
///
/// # Safety
/// `r` is a main request in a phase handler.
pub(super) unsafe fn start(r: *mut ngx_http_request_t, fetch: Rc<Fetch>) -> bool {
    // SAFETY: the caller vouches for r; everything is allocated from its pool, which outlives the subrequest.
    unsafe {
        let pool = Pool::from_ngx_pool((*r).pool);
        let (path, args) = split(fetch.uri());
        let (Some(mut path), Some(mut args)) = (copy(r, path), copy(r, args)) else { return false };
        let collector = pool.allocate(Collector {
            fetch,
            body: Vec::new(),
            is_broken: false,
            is_complete: false,
            error_pages: 0,
            // Until the subrequest runs there is nothing to abandon.
            is_done: true,
            content_encoding: None,
        });
        let post = ngx_palloc((*r).pool, size_of::<ngx_http_post_subrequest_t>())
            .cast::<ngx_http_post_subrequest_t>();
        if collector.is_null() || post.is_null() {
            return false;
        }
        post.write(ngx_http_post_subrequest_t { handler: Some(ON_DONE), data: collector.cast() });
        let mut subrequest = ptr::null_mut();
        let rc = ngx_http_subrequest(
            r,
            &raw mut path,
            &raw mut args,
            &raw mut subrequest,
            post,
            NGX_HTTP_SUBREQUEST_WAITED as ngx_uint_t,
        );
        if rc != NGX_OK as ngx_int_t || subrequest.is_null() {
            return false;
        }
        (*collector).is_done = false;
        if !(forget_client(subrequest) && forget_variables(subrequest)) {
            (*collector).is_broken = true;
        }
        true
    }
}

/// A subrequest shares the header and body of its parent. Neither is for the key server: it would get the client's
/// token and cookies.
///
/// # Safety
/// `subrequest` has just been made and has not run.
unsafe fn forget_client(subrequest: *mut ngx_http_request_t) -> bool {
    /// As many header lines as nginx itself starts with.
    const LINES: usize = 20;
    // SAFETY: the caller vouches for it.
    unsafe {
        let pool = (*subrequest).pool;
        let server = (*subrequest).headers_in.server;
        (*subrequest).headers_in = mem::zeroed();
        // `$host`, for a location that names it.
        (*subrequest).headers_in.server = server;
        (*subrequest).headers_in.content_length_n = -1;
        (*subrequest).headers_in.keep_alive_n = -1;
        // Without a body of its own, nginx would read and forward the client's.
        let body = ngx_pcalloc(pool, size_of::<ngx_http_request_body_t>());
        (*subrequest).request_body = body.cast();
        let elements = ngx_palloc(pool, LINES * size_of::<ngx_table_elt_t>());
        let list = &raw mut (*subrequest).headers_in.headers;
        (*list).part.elts = elements;
        (*list).size = size_of::<ngx_table_elt_t>();
        (*list).nalloc = LINES;
        (*list).pool = pool;
        (*list).last = &raw mut (*list).part;
        !body.is_null() && !elements.is_null()
    }
}

/// A subrequest also shares what its parent remembers of variables (`r->variables`): the key server would get what was
/// read of the client's header before, and the upstream the nothing that is read of it here. What the configuration has
/// set stays.
///
/// # Safety
/// `subrequest` has just been made and has not run.
unsafe fn forget_variables(subrequest: *mut ngx_http_request_t) -> bool {
    // SAFETY: the caller vouches for it; a request has as many values as there are indexed variables.
    unsafe {
        let Some(mut request) = super::Request::from_raw(subrequest) else { return false };
        let count = request.variable_count();
        let size = count * size_of::<ngx_http_variable_value_t>();
        let own = ngx_palloc((*subrequest).pool, size.max(1)).cast::<ngx_http_variable_value_t>();
        if own.is_null() {
            return false;
        }
        ptr::copy_nonoverlapping((*subrequest).variables, own, count);
        (*subrequest).variables = own;
        request.forget_variables(is_of_client);
    }
    true
}

/// Whether nginx reads this variable from the client's header or body.
fn is_of_client(name: &[u8]) -> bool {
    const NAMES: [&[u8]; 6] = [
        b"content_length",
        b"content_type",
        b"remote_user",
        b"request_body",
        b"request_body_file",
        b"proxy_add_x_forwarded_for",
    ];
    name.starts_with(b"http_") || name.starts_with(b"cookie_") || NAMES.contains(&name)
}

fn split(uri: &[u8]) -> (&[u8], &[u8]) {
    match uri.iter().position(|byte| *byte == b'?') {
        Some(at) => (&uri[..at], &uri[at + 1..]),
        None => (uri, &[]),
    }
}

/// # Safety
/// `r` is valid.
unsafe fn copy(r: *mut ngx_http_request_t, text: &[u8]) -> Option<ngx_str_t> {
    // SAFETY: the caller vouches for r.
    unsafe { super::Request::from_raw(r)?.copy(text) }
}

/// As many as nginx itself follows (`NGX_HTTP_MAX_URI_CHANGES`).
const ERROR_PAGES: u8 = 10;

const ON_DONE: unsafe extern "C" fn(*mut ngx_http_request_t, *mut c_void, ngx_int_t) -> ngx_int_t =
    on_done;

/// The subrequest is finalized. Whatever became of it, the client's request goes on and decides.
unsafe extern "C" fn on_done(
    r: *mut ngx_http_request_t,
    data: *mut c_void,
    rc: ngx_int_t,
) -> ngx_int_t {
    // SAFETY: [I2] data is the collector that `start` has made.
    let (collector, log) = unsafe { (&mut *data.cast::<Collector>(), (*(*r).connection).log) };
    if collector.is_done {
        return NGX_OK as ngx_int_t;
    }
    // SAFETY: [I2]
    let is_gone = unsafe { (*(*r).connection).error() != 0 };
    if rc == NGX_HTTP_CLIENT_CLOSED_REQUEST as ngx_int_t || is_gone {
        // The client whose request had started the fetch has left; that says nothing about the keys.
        collector.is_done = true;
        collector.fetch.abandon();
        return rc;
    }
    if rc >= NGX_HTTP_SPECIAL_RESPONSE as ngx_int_t && collector.error_pages < ERROR_PAGES {
        // nginx makes its own answer now, or follows error_page, and comes back here.
        collector.error_pages += 1;
        collector.body.clear();
        collector.content_encoding = None;
        (collector.is_broken, collector.is_complete) = (false, false);
        return rc;
    }
    collector.is_done = true;
    // SAFETY: [I2]
    let answered = unsafe { (*r).headers_out.status };
    let status = match u16::try_from(rc) {
        Ok(status @ 300..) => status,
        _ if rc == NGX_ERROR as ngx_int_t => 502,
        _ => u16::try_from(answered).unwrap_or(502),
    };
    let body = mem::take(&mut collector.body);
    let response = Response {
        status,
        content_encoding: collector.content_encoding.take(),
        body: (collector.is_complete && !collector.is_broken).then_some(&*body),
    };
    let ended = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: [I2]
        let dialect = unsafe { super::Request::from_raw(r) }
            .map(|request| request.main_conf().dialect.get())
            .unwrap_or_default();
        collector.fetch.end(&response, dialect, |(level, line)| {
            // SAFETY: [I2] the connection's log lives as long as the connection.
            unsafe { shim::log(level, log, &line) }
        });
    }));
    if ended.is_err() {
        collector.fetch.abandon();
    }
    NGX_OK as ngx_int_t
}

type HeaderFilter = Option<unsafe extern "C" fn(*mut ngx_http_request_t) -> ngx_int_t>;
type BodyFilter =
    Option<unsafe extern "C" fn(*mut ngx_http_request_t, *mut ngx_chain_t) -> ngx_int_t>;

static mut NEXT_HEADER_FILTER: HeaderFilter = None;
static mut NEXT_BODY_FILTER: BodyFilter = None;

/// Puts the two filters in front of the others.
///
/// # Safety
/// Called once for each configuration, in postconfiguration.
pub(super) unsafe fn add_filters() {
    // SAFETY: [I1]
    unsafe {
        NEXT_HEADER_FILTER = ngx_http_top_header_filter;
        ngx_http_top_header_filter = Some(header_filter);
        NEXT_BODY_FILTER = ngx_http_top_body_filter;
        ngx_http_top_body_filter = Some(body_filter);
    }
}

unsafe extern "C" fn header_filter(r: *mut ngx_http_request_t) -> ngx_int_t {
    // SAFETY: [I1] [I2]
    unsafe {
        let Some(collector) = NonNull::new(collector(r)) else {
            return match NEXT_HEADER_FILTER {
                Some(next) => next(r),
                None => NGX_OK as ngx_int_t,
            };
        };
        let encoding = (*r).headers_out.content_encoding;
        if let Some(encoding) = encoding.as_ref() {
            let text = String::from_utf8_lossy(bytes(&encoding.value)).into_owned();
            (*collector.as_ptr()).content_encoding = Some(text).filter(|text| !text.is_empty());
        }
        (*r).set_header_sent(1);
        NGX_OK as ngx_int_t
    }
}

unsafe extern "C" fn body_filter(r: *mut ngx_http_request_t, chain: *mut ngx_chain_t) -> ngx_int_t {
    // SAFETY: [I1] [I2]
    unsafe {
        let Some(collector) = NonNull::new(collector(r)) else {
            return match NEXT_BODY_FILTER {
                Some(next) => next(r, chain),
                None => NGX_OK as ngx_int_t,
            };
        };
        let collected = catch_unwind(AssertUnwindSafe(|| {
            let mut link = chain;
            while let Some(buffer) = link.as_ref().and_then(|link| link.buf.as_mut()) {
                collect(&mut *collector.as_ptr(), buffer);
                link = (*link).next;
            }
        }));
        if collected.is_err() {
            (*collector.as_ptr()).is_broken = true;
        }
        NGX_OK as ngx_int_t
    }
}

/// Takes a buffer's bytes, wherever they are, and marks it as sent.
///
/// # Safety
/// The buffer is one of a chain that nginx gave to the body filter.
unsafe fn collect(collector: &mut Collector, buffer: &mut ngx_buf_t) {
    let room = BODY_BYTES.saturating_sub(collector.body.len());
    // SAFETY: the caller vouches for the buffer: its bytes lie from pos to last, or in its file.
    unsafe {
        if buffer.memory() != 0 || buffer.temporary() != 0 || buffer.mmap() != 0 {
            let len = buffer.last.offset_from(buffer.pos).unsigned_abs();
            if len > room {
                collector.is_broken = true;
            } else {
                collector.body.extend_from_slice(raw_bytes(buffer.pos, len));
            }
            buffer.pos = buffer.last;
        } else if buffer.in_file() != 0 {
            let len = usize::try_from(buffer.file_last - buffer.file_pos).unwrap_or(usize::MAX);
            if len > room || !read(collector, buffer, len) {
                collector.is_broken = true;
            }
        }
    }
    buffer.file_pos = buffer.file_last;
    collector.is_complete |= buffer.last_buf() != 0 || buffer.last_in_chain() != 0;
}

/// A static file or a cached answer, which nginx has opened; it is read as nginx itself would.
///
/// # Safety
/// The buffer is in a file.
unsafe fn read(collector: &mut Collector, buffer: &ngx_buf_t, len: usize) -> bool {
    // SAFETY: the file of a buffer is open while the buffer is in use.
    let file = unsafe { BorrowedFd::borrow_raw((*buffer.file).fd) };
    let Ok(file) = file.try_clone_to_owned().map(std::fs::File::from) else { return false };
    let start = collector.body.len();
    collector.body.resize(start + len, 0);
    let at = u64::try_from(buffer.file_pos).unwrap_or_default();
    file.read_exact_at(&mut collector.body[start..], at).is_ok()
}

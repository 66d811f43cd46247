//! The header fields that a client has sent, and that upstreams get.

use core::mem;
use core::ptr;

use nginx_sys::{
    ngx_hash_strlow, ngx_http_request_t, ngx_list_push, ngx_list_t, ngx_palloc, ngx_str_t,
    ngx_table_elt_t, ngx_uint_t,
};

use super::conf::bytes;

/// How many lines a part of a new list holds, as nginx's own.
const PART: usize = 20;

/// The names and values of a list.
///
/// # Safety
/// The list is initialised, and its lines are valid for `'a`.
pub(super) unsafe fn lines<'a>(list: &ngx_list_t) -> Vec<(&'a [u8], &'a [u8])> {
    let mut lines = Vec::new();
    // SAFETY: the caller vouches for the list.
    unsafe {
        each(list, |line| {
            lines.push((bytes(&(*line).key), bytes(&(*line).value)));
        });
    }
    lines
}

/// # Safety
/// The list is initialised.
unsafe fn each(list: &ngx_list_t, mut visit: impl FnMut(*mut ngx_table_elt_t)) {
    let mut part: *const _ = &raw const list.part;
    // SAFETY: the caller vouches for the list: each part has nelts lines.
    unsafe {
        while !part.is_null() {
            let elements = (*part).elts.cast::<ngx_table_elt_t>();
            for index in 0..(*part).nelts {
                visit(elements.add(index));
            }
            part = (*part).next;
        }
    }
}

/// Removes fields. `false`: no memory.
///
/// # Safety
/// `r` is valid.
pub(super) unsafe fn remove(
    r: *mut ngx_http_request_t,
    is_unwanted: impl Fn(&[u8]) -> bool,
) -> bool {
    // SAFETY: the caller vouches for r; its list was initialised with it.
    unsafe {
        let mut found = false;
        each(&(*r).headers_in.headers, |line| found |= is_unwanted(bytes(&(*line).key)));
        !found || remake(r, is_unwanted)
    }
}

/// Makes the list anew, without the fields that are unwanted. nginx's loops can't pass an empty part, and pointers
/// such as `headers_in.host` go on pointing to the old lines, which stay.
///
/// # Safety
/// `r` is valid.
unsafe fn remake(r: *mut ngx_http_request_t, is_unwanted: impl Fn(&[u8]) -> bool) -> bool {
    // SAFETY: the caller vouches for r; its list was initialised with it.
    unsafe {
        let list = &raw mut (*r).headers_in.headers;
        let mut kept = Vec::new();
        each(&*list, |line| {
            if !is_unwanted(bytes(&(*line).key)) {
                kept.push(line);
            }
        });
        let elements = ngx_palloc((*r).pool, PART * size_of::<ngx_table_elt_t>());
        if elements.is_null() {
            return false;
        }
        let mut new: ngx_list_t = mem::zeroed();
        new.part.elts = elements;
        new.size = size_of::<ngx_table_elt_t>();
        new.nalloc = PART;
        new.pool = (*r).pool;
        // `last` has to point into the list at its place.
        *list = new;
        (*list).last = &raw mut (*list).part;
        for line in kept {
            let copy = ngx_list_push(list).cast::<ngx_table_elt_t>();
            if copy.is_null() {
                return false;
            }
            ptr::copy_nonoverlapping(line, copy, 1);
        }
        true
    }
}

/// Whether a subrequest still has its parent's list: nginx copies the head of it alone, so that whoever adds a field
/// to one adds it to the other.
///
/// # Safety
/// `r` is valid.
unsafe fn is_shared(r: *mut ngx_http_request_t) -> bool {
    // SAFETY: the caller vouches for r; a parent lives longer than its subrequest.
    unsafe {
        let elements = (*r).headers_in.headers.part.elts;
        let mut above = (*r).parent;
        while !above.is_null() {
            if ptr::eq((*above).headers_in.headers.part.elts, elements) {
                return true;
            }
            above = (*above).parent;
        }
        false
    }
}

/// Adds a field.
///
/// # Safety
/// `r` is valid; the texts are in its pool.
pub(super) unsafe fn push_in(
    r: *mut ngx_http_request_t,
    name: ngx_str_t,
    lower: *mut u8,
    value: ngx_str_t,
) -> bool {
    // SAFETY: the caller vouches for r.
    unsafe {
        if is_shared(r) && !remake(r, |_| false) {
            return false;
        }
        let line = ngx_list_push(&raw mut (*r).headers_in.headers).cast::<ngx_table_elt_t>();
        if line.is_null() {
            return false;
        }
        line.write(mem::zeroed());
        (*line).key = name;
        (*line).lowcase_key = lower;
        (*line).value = value;
        (*line).hash = hash(lower, name.len);
        true
    }
}

/// nginx compares fields by the hash of their lower-case names first.
///
/// # Safety
/// `lower` is valid for `len` bytes.
unsafe fn hash(lower: *mut u8, len: usize) -> ngx_uint_t {
    // SAFETY: the caller vouches for it; lower case stays as it is.
    unsafe { ngx_hash_strlow(lower, lower, len) }
}

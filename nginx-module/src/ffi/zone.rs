//! The shared-memory zone of the last good key files: what a reload and a respawned worker start from while a file
//! on disk is bad. nginx makes it by itself; there is no directive.
//!
//! The zone holds a list of entries, one for each path. Each entry and each text is an allocation of the zone's slab
//! pool; the pool's own mutex guards all of it, and the master releases that mutex if a worker dies holding it.

use core::mem;
use core::ptr::{self, NonNull};
use core::slice;

use nginx_sys::{
    NGX_OK, ngx_conf_t, ngx_int_t, ngx_shared_memory_add, ngx_shm_zone_t, ngx_shmtx_lock,
    ngx_shmtx_unlock, ngx_slab_alloc_locked, ngx_slab_free_locked, ngx_slab_pool_t, ngx_str_t,
};

use super::entry;

/// Room for some files of the largest size; only pages that are used take memory.
const SIZE: usize = 8 * 1024 * 1024;
const NAME: &str = "ngx_http_jwt_keys";

/// The zone of one cycle.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Zone(NonNull<ngx_shm_zone_t>);

#[repr(C)]
struct Entry {
    next: *mut Entry,
    path: *mut u8,
    path_len: usize,
    text: *mut u8,
    text_len: usize,
}

impl Zone {
    /// Asks nginx for the zone while it reads the configuration; a reload gets the same memory again.
    ///
    /// # Safety
    /// `cf` is what nginx gave to a callback.
    pub(super) unsafe fn add(cf: *mut ngx_conf_t) -> Option<Self> {
        let mut name = ngx_str_t { len: NAME.len(), data: NAME.as_ptr().cast_mut() };
        // SAFETY: the caller vouches for cf; the name is static; the tag only tells modules apart.
        let zone = unsafe { ngx_shared_memory_add(cf, &raw mut name, SIZE, entry::tag()) };
        let zone = NonNull::new(zone)?;
        // SAFETY: nginx has just returned it.
        unsafe { (*zone.as_ptr()).init = Some(init) };
        Some(Self(zone))
    }

    /// The last good text of the file `path`.
    pub(crate) fn load(&self, path: &[u8]) -> Option<Vec<u8>> {
        let pool = self.lock()?;
        // SAFETY: the pool is locked, and its entries are complete whenever it is.
        unsafe {
            let entry = find(pool.0, path);
            entry.as_ref().map(|entry| slice::from_raw_parts(entry.text, entry.text_len).to_vec())
        }
    }

    /// Keeps `text` as the last good one of the file `path`. `false`: the zone is full.
    pub(crate) fn store(&self, path: &[u8], text: &[u8]) -> bool {
        let Some(pool) = self.lock() else { return false };
        // SAFETY: the pool is locked. A new text is complete before an entry points to it, and an entry before the
        // list does, so that a worker killed here leaves the old state.
        unsafe {
            let entry = find(pool.0, path);
            if let Some(entry) = entry.as_ref()
                && slice::from_raw_parts(entry.text, entry.text_len) == text
            {
                return true;
            }
            let Some(copy) = copy(pool.0, text) else { return false };
            if let Some(entry) = entry.as_mut() {
                let old = mem::replace(&mut entry.text, copy.as_ptr());
                entry.text_len = text.len();
                ngx_slab_free_locked(pool.0, old.cast());
                return true;
            }
            let name = self::copy(pool.0, path);
            let entry = ngx_slab_alloc_locked(pool.0, size_of::<Entry>()).cast::<Entry>();
            let (Some(name), Some(new)) = (name, NonNull::new(entry)) else {
                ngx_slab_free_locked(pool.0, copy.as_ptr().cast());
                if let Some(name) = name {
                    ngx_slab_free_locked(pool.0, name.as_ptr().cast());
                }
                return false;
            };
            new.write(Entry {
                next: (*pool.0).data.cast(),
                path: name.as_ptr(),
                path_len: path.len(),
                text: copy.as_ptr(),
                text_len: text.len(),
            });
            (*pool.0).data = new.as_ptr().cast();
            true
        }
    }

    fn lock(&self) -> Option<Locked> {
        // SAFETY: [I3] the zone lives as long as its cycle, and is mapped once the configuration is in force.
        unsafe {
            let pool = (*self.0.as_ptr()).shm.addr.cast::<ngx_slab_pool_t>();
            if pool.is_null() {
                return None;
            }
            ngx_shmtx_lock(&raw mut (*pool).mutex);
            Some(Locked(pool))
        }
    }
}

/// The locked pool; unlocked when it goes out of scope.
struct Locked(*mut ngx_slab_pool_t);

impl Drop for Locked {
    fn drop(&mut self) {
        // SAFETY: made by Zone::lock alone, which has locked it.
        unsafe { ngx_shmtx_unlock(&raw mut (*self.0).mutex) };
    }
}

/// # Safety
/// `pool` is locked.
unsafe fn find(pool: *mut ngx_slab_pool_t, path: &[u8]) -> *mut Entry {
    // SAFETY: the list is this module's alone and complete while the pool is locked; all processes that share the
    // mapping have it at the same address, since they were forked from the one that made it.
    unsafe {
        let mut entry = (*pool).data.cast::<Entry>();
        while !entry.is_null() && slice::from_raw_parts((*entry).path, (*entry).path_len) != path {
            entry = (*entry).next;
        }
        entry
    }
}

/// # Safety
/// `pool` is locked.
unsafe fn copy(pool: *mut ngx_slab_pool_t, bytes: &[u8]) -> Option<NonNull<u8>> {
    // SAFETY: the caller vouches for the pool, which gives at least one byte.
    let to = unsafe { ngx_slab_alloc_locked(pool, bytes.len().max(1)) }.cast::<u8>();
    let to = NonNull::new(to)?;
    // SAFETY: a new allocation of that size.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to.as_ptr(), bytes.len()) };
    Some(to)
}

/// nginx has mapped the zone. There is nothing to set up: an empty list is a null pointer, and after a reload the
/// list of the cycle before is still there.
unsafe extern "C" fn init(zone: *mut ngx_shm_zone_t, _: *mut core::ffi::c_void) -> ngx_int_t {
    // SAFETY: [I2] the slab pool is at the start of the zone's memory.
    unsafe {
        let pool = (*zone).shm.addr.cast::<ngx_slab_pool_t>();
        // A text that does not fit is reported by this module, with the file's name.
        (*pool).set_log_nomem(0);
    }
    NGX_OK as ngx_int_t
}

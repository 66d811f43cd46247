//! Shared memory: the last good files, the counters, and the tokens that were used.
//!
//! The zone of the module is made by itself; there is no directive. It holds what a reload and a respawned worker
//! start from while a file on disk is bad, and what is counted over all workers. Each part is an allocation of the
//! zone's slab pool; the pool's own mutex guards the list of texts, and the master releases that mutex if a worker
//! dies holding it. Counters are atomic and need none.

use core::ptr::{self, NonNull};
use core::slice;
use core::sync::atomic::{AtomicU64, Ordering};

use nginx_sys::{
    NGX_ERROR, NGX_OK, ngx_conf_t, ngx_int_t, ngx_shared_memory_add, ngx_shm_zone_t,
    ngx_shmtx_lock, ngx_shmtx_unlock, ngx_slab_alloc_locked, ngx_slab_calloc, ngx_slab_free_locked,
    ngx_slab_pool_t, ngx_str_t, ngx_worker,
};

use super::entry;
use crate::error::Reason;

/// Room for some files of the largest size; only pages that are used take memory.
const SIZE: usize = 32 * 1024 * 1024;
const NAME: &str = "ngx_http_jwt";

/// The zone of one cycle.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Zone(NonNull<ngx_shm_zone_t>);

/// Where the slab pool's `data` points to.
#[repr(C)]
struct Root {
    entries: *mut Entry,
    counters: [Slot; SLOTS],
}

/// One file's text. A new version is a new text beside the old one where there is room for both, so that a worker
/// killed here leaves the old one or the new; else the entry is out of the list until it is complete again.
#[repr(C)]
struct Entry {
    next: *mut Entry,
    name: *mut u8,
    name_len: usize,
    text: *mut Text,
}

#[repr(C)]
struct Text {
    len: usize,
    // The bytes follow.
}

impl Zone {
    /// Asks nginx for the zone while it reads the configuration; a reload gets the same memory again.
    ///
    /// # Safety
    /// `cf` is what nginx gave to a callback.
    pub(super) unsafe fn add(cf: *mut ngx_conf_t) -> Option<Self> {
        // SAFETY: the caller vouches for cf.
        unsafe { add_zone(cf, NAME.as_bytes(), SIZE, init).map(Self) }
    }

    /// The last good text under `name`.
    pub(crate) fn load(&self, name: &[u8]) -> Option<Vec<u8>> {
        let pool = lock(self.0)?;
        // SAFETY: the pool is locked, and its entries are complete whenever it is.
        unsafe {
            let entry = find(pool.root::<Root>()?, name).as_ref()?;
            Some(text_of(entry).to_vec())
        }
    }

    /// Keeps `text` as the last good one under `name`. `false`: the zone is full, and has none under that name any
    /// more: a worker to come must not take an older version for the last one.
    pub(crate) fn store(&self, name: &[u8], text: &[u8]) -> bool {
        let Some(pool) = lock(self.0) else { return false };
        // SAFETY: the pool is locked. A new text is complete before an entry points to it, and an entry before the
        // list does.
        unsafe {
            let Some(root) = pool.root::<Root>() else { return false };
            let entry = find(root, name);
            if let Some(entry) = entry.as_ref()
                && text_of(entry) == text
            {
                return true;
            }
            let new = copy_text(&pool, text);
            let Some(entry) = entry.as_mut() else {
                return new.is_some_and(|new| add_entry(&pool, root, name, new));
            };
            if let Some(new) = new {
                let old = core::mem::replace(&mut entry.text, new.as_ptr());
                pool.free(old.cast());
                return true;
            }
            unlink(root, entry);
            pool.free(entry.text.cast());
            if let Some(new) = copy_text(&pool, text) {
                entry.text = new.as_ptr();
                entry.next = (*root).entries;
                (*root).entries = entry;
                return true;
            }
            pool.free(entry.name);
            pool.free(ptr::from_mut(entry).cast());
            false
        }
    }

    /// The counters, once the zone is mapped.
    pub(super) fn metrics(&self) -> Option<Metrics> {
        let pool = lock(self.0)?;
        // SAFETY: the root lives as long as the mapping, and that as long as the cycle; counters never move.
        unsafe { Some(Metrics(NonNull::new(&raw mut (*pool.root::<Root>()?).counters)?)) }
    }
}

/// A copy of `text` in the zone; `None`: no room.
fn copy_text(pool: &Locked, text: &[u8]) -> Option<NonNull<Text>> {
    let new = pool.alloc(size_of::<Text>() + text.len())?.cast::<Text>();
    // SAFETY: the pool gave that many bytes, aligned for a length.
    unsafe {
        new.write(Text { len: text.len() });
        ptr::copy_nonoverlapping(text.as_ptr(), new.as_ptr().add(1).cast::<u8>(), text.len());
    }
    Some(new)
}

/// Puts a new entry into the list. `false`: no room, and the text is freed.
///
/// # Safety
/// `root` is the locked pool's, and `text` was allocated from it.
unsafe fn add_entry(pool: &Locked, root: *mut Root, name: &[u8], text: NonNull<Text>) -> bool {
    // SAFETY: the caller vouches for all of it; the entry is complete before the list points to it.
    unsafe {
        let (copy, entry) = (pool.alloc(name.len().max(1)), pool.alloc(size_of::<Entry>()));
        let (Some(copy), Some(entry)) = (copy, entry) else {
            pool.free(text.as_ptr().cast());
            for half in [copy, entry].into_iter().flatten() {
                pool.free(half.as_ptr());
            }
            return false;
        };
        ptr::copy_nonoverlapping(name.as_ptr(), copy.as_ptr(), name.len());
        let entry = entry.cast::<Entry>();
        entry.write(Entry {
            next: (*root).entries,
            name: copy.as_ptr(),
            name_len: name.len(),
            text: text.as_ptr(),
        });
        (*root).entries = entry.as_ptr();
        true
    }
}

/// Takes an entry out of the list.
///
/// # Safety
/// The pool is locked, `root` its root, and `entry` in its list.
unsafe fn unlink(root: *mut Root, entry: *mut Entry) {
    // SAFETY: the caller vouches for it; the list ends where the entry is at the latest.
    unsafe {
        let mut link = &raw mut (*root).entries;
        while !(*link).is_null() && !ptr::eq(*link, entry) {
            link = &raw mut (**link).next;
        }
        if !(*link).is_null() {
            link.write((*entry).next);
        }
    }
}

/// # Safety
/// `entry` is complete and the pool is locked.
unsafe fn text_of(entry: &Entry) -> &[u8] {
    // SAFETY: the caller vouches for it; the bytes follow their length.
    unsafe { slice::from_raw_parts(entry.text.add(1).cast::<u8>(), (*entry.text).len) }
}

/// # Safety
/// `root` is valid and the pool is locked.
unsafe fn find(root: *mut Root, name: &[u8]) -> *mut Entry {
    // SAFETY: the list is this module's alone and complete while the pool is locked; all processes that share the
    // mapping have it at the same address, since they were forked from the one that made it.
    unsafe {
        let mut entry = (*root).entries;
        while !entry.is_null() && slice::from_raw_parts((*entry).name, (*entry).name_len) != name {
            entry = (*entry).next;
        }
        entry
    }
}

/// nginx has mapped the zone; after a reload what the cycle before has put there is still there.
unsafe extern "C" fn init(zone: *mut ngx_shm_zone_t, _: *mut core::ffi::c_void) -> ngx_int_t {
    // SAFETY: [I2]
    unsafe { init_root::<Root>(zone) }
}

/// Makes the root of a zone that is new: zeroes, which is an empty list and counters that have counted nothing.
///
/// # Safety
/// `zone` is what nginx gave to the zone's init callback, and zeroes are a valid `T`.
pub(super) unsafe fn init_root<T>(zone: *mut ngx_shm_zone_t) -> ngx_int_t {
    // SAFETY: the slab pool is at the start of the zone's memory.
    unsafe {
        let pool = (*zone).shm.addr.cast::<ngx_slab_pool_t>();
        // What does not fit is reported by this module, with the file's name.
        (*pool).set_log_nomem(0);
        if (*pool).data.is_null() {
            (*pool).data = ngx_slab_calloc(pool, size_of::<T>());
        }
        if (*pool).data.is_null() { NGX_ERROR as ngx_int_t } else { NGX_OK as ngx_int_t }
    }
}

type Init = unsafe extern "C" fn(*mut ngx_shm_zone_t, *mut core::ffi::c_void) -> ngx_int_t;

/// # Safety
/// `cf` is what nginx gave to a callback.
pub(super) unsafe fn add_zone(
    cf: *mut ngx_conf_t,
    name: &[u8],
    size: usize,
    init: Init,
) -> Option<NonNull<ngx_shm_zone_t>> {
    let mut name = ngx_str_t { len: name.len(), data: name.as_ptr().cast_mut() };
    // SAFETY: the caller vouches for cf; the name lives as long as the configuration; the tag only tells modules
    // apart, and one build of this module from another.
    let zone = unsafe { ngx_shared_memory_add(cf, &raw mut name, size, entry::tag()) };
    let zone = NonNull::new(zone)?;
    // SAFETY: nginx has just returned it.
    unsafe { (*zone.as_ptr()).init = Some(init) };
    Some(zone)
}

/// A locked slab pool; unlocked when it goes out of scope.
pub(super) struct Locked(*mut ngx_slab_pool_t);

/// `None` while the zone is not mapped.
pub(super) fn lock(zone: NonNull<ngx_shm_zone_t>) -> Option<Locked> {
    // SAFETY: [I3] the zone lives as long as its cycle, and is mapped once the configuration is in force.
    unsafe {
        let pool = (*zone.as_ptr()).shm.addr.cast::<ngx_slab_pool_t>();
        if pool.is_null() {
            return None;
        }
        ngx_shmtx_lock(&raw mut (*pool).mutex);
        Some(Locked(pool))
    }
}

impl Locked {
    pub(super) fn root<T>(&self) -> Option<*mut T> {
        // SAFETY: the pool is mapped; its data is set by init_root.
        let root = unsafe { (*self.0).data };
        (!root.is_null()).then_some(root.cast())
    }

    pub(super) fn alloc(&self, size: usize) -> Option<NonNull<u8>> {
        // SAFETY: the pool is locked.
        NonNull::new(unsafe { ngx_slab_alloc_locked(self.0, size) }.cast())
    }

    /// # Safety
    /// `part` was allocated from this pool, and nothing points to it any more.
    pub(super) unsafe fn free(&self, part: *mut u8) {
        // SAFETY: the caller vouches for it; the pool is locked.
        unsafe { ngx_slab_free_locked(self.0, part.cast()) }
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // SAFETY: made by `lock` alone, which has locked it.
        unsafe { ngx_shmtx_unlock(&raw mut (*self.0).mutex) };
    }
}

/// Workers that count in a place of their own, so that they do not share a cache line; more share.
const SLOTS: usize = 32;
const REASONS: usize = Reason::ALL.len();

#[repr(C, align(64))]
struct Slot {
    allowed: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
    denied: [AtomicU64; REASONS],
    would_deny: [AtomicU64; REASONS],
}

/// What is counted over all workers since nginx was started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Metrics(NonNull<[Slot; SLOTS]>);

impl core::fmt::Debug for Slot {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Slot")
    }
}

/// The sums, by the order of [`Reason::ALL`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) allowed: u64,
    pub(crate) hits: u64,
    pub(crate) misses: u64,
    pub(crate) denied: [u64; REASONS],
    pub(crate) would_deny: [u64; REASONS],
}

impl Metrics {
    fn slots(&self) -> &[Slot; SLOTS] {
        // SAFETY: the mapping outlives the cycle, and everything in it is atomic.
        unsafe { self.0.as_ref() }
    }

    fn slot(&self) -> &Slot {
        // SAFETY: [I7] set before a worker runs.
        let worker = unsafe { ngx_worker };
        &self.slots()[worker % SLOTS]
    }

    /// A request was let through; `cached` tells whether its token was in the cache, if that is used.
    pub(crate) fn allowed(&self, cached: Option<bool>) {
        let slot = self.slot();
        slot.allowed.fetch_add(1, Ordering::Relaxed);
        match cached {
            Some(true) => slot.hits.fetch_add(1, Ordering::Relaxed),
            Some(false) => slot.misses.fetch_add(1, Ordering::Relaxed),
            None => 0,
        };
    }

    /// A request was refused, or would have been.
    pub(crate) fn refused(&self, reason: Reason, dry_run: bool) {
        let slot = self.slot();
        let counters = if dry_run { &slot.would_deny } else { &slot.denied };
        counters[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for slot in self.slots() {
            counts.allowed += slot.allowed.load(Ordering::Relaxed);
            counts.hits += slot.hits.load(Ordering::Relaxed);
            counts.misses += slot.misses.load(Ordering::Relaxed);
            for reason in 0..REASONS {
                counts.denied[reason] += slot.denied[reason].load(Ordering::Relaxed);
                counts.would_deny[reason] += slot.would_deny[reason].load(Ordering::Relaxed);
            }
        }
        counts
    }
}

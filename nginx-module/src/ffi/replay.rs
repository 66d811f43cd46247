//! The shared-memory zone of `auth_jwt_replay`: which tokens were used, until they expire.
//!
//! A hash table of 128-bit digests. Nothing is dropped before its time: a zone that is full of tokens that are still
//! valid takes no more, and the request is refused, because a token that was forgotten could be used again.

use core::ptr::{self, NonNull};

use nginx_sys::{ngx_conf_t, ngx_int_t, ngx_shm_zone_t};

use super::zone::{Locked, add_zone, init_root, lock};

/// Lists that the table has; a zone of 10 MiB holds some 160,000 tokens, four in each list.
const BUCKETS: usize = 1 << 15;
/// Lists that each insertion looks through for expired tokens, in turn.
const SWEEP: usize = 4;

/// The smallest zone: the table, nginx's own share, and room for some thousand tokens.
pub(crate) const LEAST_BYTES: usize = 1024 * 1024;

/// One zone.
#[derive(Debug)]
pub(crate) struct ReplayZone {
    zone: NonNull<ngx_shm_zone_t>,
    pub(crate) size: usize,
}

/// What the zone knows about a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    New,
    Before,
    Full,
}

#[repr(C)]
struct Root {
    /// The list that the next sweep begins with.
    sweep: usize,
    /// When all lists were last looked through, in seconds since the epoch.
    swept: i64,
    buckets: [*mut Node; BUCKETS],
}

#[repr(C)]
struct Node {
    next: *mut Node,
    digest: [u8; 16],
    until: i64,
}

impl ReplayZone {
    /// # Safety
    /// `cf` is what nginx gave to a callback; the name lives as long as the configuration.
    pub(super) unsafe fn add(cf: *mut ngx_conf_t, name: &[u8], size: usize) -> Option<Self> {
        // SAFETY: the caller vouches for both.
        let zone = unsafe { add_zone(cf, name, size, init) }?;
        Some(Self { zone, size })
    }

    /// Notes the token `id` until the time `until`, in seconds since the epoch, unless it is known.
    pub(crate) fn insert(&self, id: &[u8], until: i64, now: i64) -> Seen {
        let digest = digest_of(id);
        let Some(pool) = lock(self.zone) else { return Seen::Full };
        let Some(root) = pool.root::<Root>() else { return Seen::Full };
        let bucket = usize::from(u16::from_le_bytes([digest[0], digest[1]])) % BUCKETS;
        // SAFETY: the pool is locked, and its lists are complete whenever it is.
        unsafe {
            sweep(&pool, root, SWEEP, now);
            expire(&pool, &raw mut (*root).buckets[bucket], now);
            let mut node = (*root).buckets[bucket];
            while !node.is_null() {
                if (*node).digest == digest {
                    return Seen::Before;
                }
                node = (*node).next;
            }
            let new = pool.alloc(size_of::<Node>()).or_else(|| {
                // What has expired within a second of the last time can wait; a full zone must not cost every
                // request a look at all of it.
                if (*root).swept == now {
                    return None;
                }
                (*root).swept = now;
                sweep(&pool, root, BUCKETS, now);
                pool.alloc(size_of::<Node>())
            });
            let Some(new) = new else { return Seen::Full };
            let new = new.cast::<Node>();
            new.write(Node { next: (*root).buckets[bucket], digest, until });
            (*root).buckets[bucket] = new.as_ptr();
        }
        Seen::New
    }
}

/// Drops the expired tokens of `lists` lists.
///
/// # Safety
/// `pool` is locked and `root` its root.
unsafe fn sweep(pool: &Locked, root: *mut Root, lists: usize, now: i64) {
    for _ in 0..lists {
        // SAFETY: the caller vouches for both.
        unsafe {
            let bucket = (*root).sweep % BUCKETS;
            (*root).sweep = (bucket + 1) % BUCKETS;
            expire(pool, &raw mut (*root).buckets[bucket], now);
        }
    }
}

/// # Safety
/// `pool` is locked, and `link` is the head of one of its lists.
unsafe fn expire(pool: &Locked, mut link: *mut *mut Node, now: i64) {
    // SAFETY: the caller vouches for both; a node is taken out of its list before it is freed.
    unsafe {
        while !(*link).is_null() {
            let node = *link;
            if (*node).until < now {
                ptr::write(link, (*node).next);
                pool.free(node.cast());
            } else {
                link = &raw mut (*node).next;
            }
        }
    }
}

unsafe extern "C" fn init(zone: *mut ngx_shm_zone_t, _: *mut core::ffi::c_void) -> ngx_int_t {
    // SAFETY: [I2]
    unsafe { init_root::<Root>(zone) }
}

/// 128 bits of SHA-256: as good as unique, and nobody can make two tokens meet.
fn digest_of(id: &[u8]) -> [u8; 16] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, id);
    let mut short = [0; 16];
    short.copy_from_slice(&digest.as_ref()[..16]);
    short
}

//! How often a client may fail. Successes are not counted, so a busy client is never slowed down.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use governor::clock::MonotonicClock;
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

use super::Peer;
use crate::config::Jwthenticator;
use crate::store::KeyHash;

/// Callers are told apart by this many bits of a keyed hash: it bounds the memory, whatever is sent, and nobody
/// can choose whom they collide with.
const BUCKETS: u64 = 1 << 19;

const MINUTE: Duration = Duration::from_secs(60);

/// The limits of one daemon.
pub struct Limits {
    by_address: Failures,
    by_key: Failures,
    refresh_delay: Duration,
}

impl Limits {
    /// The limits that `settings` name.
    pub fn new(settings: &Jwthenticator) -> Self {
        let count = |number: usize| u32::try_from(number).ok().and_then(NonZeroU32::new);
        let count = |number: usize| count(number).unwrap_or(NonZeroU32::MAX);
        let (per_minute, burst) = (settings.failures_per_minute, settings.failure_burst);
        let per_key = count(settings.key_failures_per_minute);
        Self {
            by_address: Failures::new(count(per_minute), count(burst)),
            by_key: Failures::new(per_key, per_key),
            refresh_delay: settings.refresh_delay,
        }
    }

    /// How long this client has to wait before it may try a key again; `None` if it may now.
    pub(super) fn wait(&self, peer: Peer, key: &KeyHash) -> Option<Duration> {
        let by_address = peer.0.and_then(|ip| self.by_address.wait(&network(ip)));
        by_address.max(self.by_key.wait(key.fingerprint()))
    }

    /// How long the answer to a refresh of this client is put off. Never refused: a peer that has nothing but
    /// its refresh token ends for good on anything but 200.
    pub(super) fn delay(&self, peer: Peer) -> Option<Duration> {
        let wait = peer.0.and_then(|ip| self.by_address.wait(&network(ip)));
        wait.map(|wait| wait.min(self.refresh_delay))
    }

    /// Counts a failure.
    pub(super) fn failed(&self, peer: Peer, key: Option<&KeyHash>) {
        if let Some(ip) = peer.0 {
            self.by_address.count(&network(ip));
        }
        if let Some(key) = key {
            self.by_key.count(key.fingerprint());
        }
    }

    /// Forgets who has not failed for long.
    pub fn tidy(&self) {
        self.by_address.tidy();
        self.by_key.tidy();
    }
}

/// Whoever has one address of an IPv6 network has 2^64 of them.
fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
        ip => ip,
    }
}

type Limiter = RateLimiter<u32, HashMapStateStore<u32>, MonotonicClock, StateInformationMiddleware>;

/// A bucket of failures for each caller; who has none left waits for the next.
struct Failures {
    limiter: Limiter,
    /// The time in which one failure is forgiven.
    interval: Duration,
    blocked: Mutex<HashMap<u32, Instant>>,
    hasher: RandomState,
}

impl Failures {
    fn new(per_minute: NonZeroU32, burst: NonZeroU32) -> Self {
        let quota = Quota::per_minute(per_minute).allow_burst(burst);
        Self {
            limiter: RateLimiter::hashmap_with_clock(quota, MonotonicClock)
                .with_middleware::<StateInformationMiddleware>(),
            interval: MINUTE / per_minute.get(),
            blocked: Mutex::default(),
            hasher: RandomState::new(),
        }
    }

    fn bucket(&self, caller: &(impl Hash + ?Sized)) -> u32 {
        (self.hasher.hash_one(caller) % BUCKETS) as u32
    }

    fn blocked(&self) -> MutexGuard<'_, HashMap<u32, Instant>> {
        self.blocked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, caller: &(impl Hash + ?Sized)) -> Option<Duration> {
        let until = *self.blocked().get(&self.bucket(caller))?;
        let wait = until.saturating_duration_since(Instant::now());
        (!wait.is_zero()).then_some(wait)
    }

    fn count(&self, caller: &(impl Hash + ?Sized)) {
        let bucket = self.bucket(caller);
        let none_left = match self.limiter.check_key(&bucket) {
            Ok(left) => left.remaining_burst_capacity() == 0,
            Err(_) => true,
        };
        if none_left {
            self.blocked().insert(bucket, Instant::now() + self.interval);
        }
    }

    fn tidy(&self) {
        self.limiter.retain_recent();
        let now = Instant::now();
        self.blocked().retain(|_, until| *until > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failures(per_minute: u32, burst: u32) -> Failures {
        Failures::new(NonZeroU32::new(per_minute).unwrap(), NonZeroU32::new(burst).unwrap())
    }

    #[test]
    fn a_caller_waits_after_its_burst_and_others_do_not() {
        let failures = failures(10, 20);
        for count in 0..20 {
            assert_eq!(failures.wait("a"), None, "{count}");
            failures.count("a");
        }
        let wait = failures.wait("a").unwrap();
        assert!((5..=6).contains(&wait.as_secs()), "{wait:?}");
        assert_eq!(failures.wait("b"), None);
        failures.tidy();
        assert!(failures.wait("a").is_some());
    }

    #[test]
    fn after_its_wait_a_caller_has_one_more() {
        let failures = failures(600, 2);
        failures.count("a");
        failures.count("a");
        std::thread::sleep(failures.wait("a").unwrap());
        assert_eq!(failures.wait("a"), None);
        failures.count("a");
        assert!(failures.wait("a").is_some());
    }

    #[test]
    fn f31_a_flood_of_addresses_takes_bounded_memory() {
        let failures = failures(10, 20);
        for n in 0..1_000_000_u32 {
            failures.count(&n);
        }
        assert!(failures.limiter.len() as u64 <= BUCKETS);
        assert!(failures.blocked().len() as u64 <= BUCKETS);
    }

    #[test]
    fn an_ipv6_caller_is_its_network() {
        let at = |text: &str| network(text.parse().unwrap());
        assert_eq!(at("2001:db8::1"), at("2001:db8::ffff:1"));
        assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
        assert_eq!(at("::ffff:10.0.0.1"), at("10.0.0.1"));
        assert_ne!(at("10.0.0.1"), at("10.0.0.2"));
    }
}

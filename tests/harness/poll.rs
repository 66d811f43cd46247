//! Waiting for something to become true, with an end.

use std::thread;
use std::time::{Duration, Instant};

/// Asks `condition` until it gives a value.
///
/// # Panics
/// After `limit`, with `what` was waited for.
pub fn within<T>(limit: Duration, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(started.elapsed() < limit, "not within {limit:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// [`within`] a time that is long enough for a busy machine.
///
/// # Panics
/// After 20 seconds.
pub fn eventually<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    within(Duration::from_secs(20), what, condition)
}

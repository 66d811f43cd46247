//! Wall-clock time as an argument, so that tests decide what time it is.
//!
//! Only for what other programs see (claims, expiry, timestamps). Deadlines and timers use tokio's
//! monotonic clock.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// A source of wall-clock time; cheap to clone.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self(Arc::new(SystemTime::now))
    }

    /// A clock that answers whatever `now` returns.
    pub fn from_fn(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The current time.
    pub fn now(&self) -> SystemTime {
        (self.0)()
    }

    /// Whole seconds since the epoch, as the `NumericDate` of RFC 7519 §2; negative before 1970.
    pub fn unix_now(&self) -> i64 {
        match self.now().duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX),
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({})", self.unix_now())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn unix_time_counts_seconds_on_both_sides_of_the_epoch() {
        let at = |time: SystemTime| Clock::from_fn(move || time).unix_now();
        assert_eq!(at(UNIX_EPOCH + Duration::from_millis(1_999)), 1);
        assert_eq!(at(UNIX_EPOCH - Duration::from_secs(5)), -5);
    }
}

//! When to fetch again.

use std::time::Duration;

use crate::pause::random_up_to;

/// What a server asks for is followed no closer than this.
const FLOOR: Duration = Duration::from_secs(30);
/// The pause after a first failure; it doubles with each that follows.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest pause between tries of our own accord.
const LONGEST_RETRY: Duration = Duration::from_secs(300);
/// The longest pause that a server can ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(3_600);

/// The pause after a success: `refresh`, or less if the answer is fresh for a shorter time only (RFC 9111 §4.2). It is
/// up to a tenth shorter, so that many daemons do not ask at the same moment.
pub(super) fn after_success(refresh: Duration, max_age: Option<Duration>) -> Duration {
    let pause = max_age.map_or(refresh, |age| age.max(FLOOR).min(refresh));
    pause - random_up_to(pause / 10)
}

/// The pause after so many failures in a row, at least half random; but what the server asks for by Retry-After
/// (RFC 9110 §10.2.3) is waited for, within bounds.
pub(super) fn after_failure(
    refresh: Duration,
    failures: u32,
    retry_after: Option<Duration>,
) -> Duration {
    let doubled = FIRST_RETRY.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let pause = doubled.min(LONGEST_RETRY).min(refresh);
    let own = pause / 2 + random_up_to(pause / 2);
    match retry_after.map(|asked| asked.min(LONGEST_ASKED)) {
        Some(asked) if asked > own => asked + random_up_to(asked / 10),
        _ => own,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Fifty draws within the bounds, and not all the same.
    #[track_caller]
    fn spreads(draw: impl Fn() -> Duration, from: u64, to: u64) {
        let draws: Vec<_> = (0..50).map(|_| draw()).collect();
        let fit = draws.iter().all(|draw| (seconds(from)..=seconds(to)).contains(draw));
        assert!(fit, "{draws:?} are not within {from} to {to} s");
        assert!(draws.iter().any(|draw| *draw != draws[0]), "always {:?}", draws[0]);
    }

    #[test]
    fn the_next_fetch_is_as_soon_as_the_answer_asks_within_bounds() {
        spreads(|| after_success(seconds(300), None), 270, 300);
        spreads(|| after_success(seconds(300), Some(seconds(100))), 90, 100);
        spreads(|| after_success(seconds(300), Some(seconds(86_400))), 270, 300);
        // A server that says max-age=0 is not asked for ever.
        spreads(|| after_success(seconds(300), Some(Duration::ZERO)), 27, 30);
        spreads(|| after_success(seconds(10), Some(Duration::ZERO)), 9, 10);
    }

    #[test]
    fn failures_are_followed_by_longer_pauses_and_a_server_can_ask_for_more() {
        let refresh = seconds(3_600);
        spreads(|| after_failure(refresh, 1, None), 0, 1);
        spreads(|| after_failure(refresh, 4, None), 4, 8);
        spreads(|| after_failure(refresh, 1_000, None), 150, 300);
        spreads(|| after_failure(seconds(10), 1_000, None), 5, 10);
        spreads(|| after_failure(refresh, 1, Some(seconds(60))), 60, 66);
        spreads(|| after_failure(refresh, 1, Some(seconds(1 << 40))), 3_600, 3_960);
        spreads(|| after_failure(refresh, 4, Some(Duration::ZERO)), 4, 8);
    }
}

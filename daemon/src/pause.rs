//! Pauses between tries.

use std::time::Duration;

/// Uniformly distributed, so that clients that lost their server together do not come back together.
pub(crate) fn random_up_to(limit: Duration) -> Duration {
    let mut bytes = [0; 4];
    // Without randomness the longest pause is the harmless one.
    let _ = aws_lc_rs::rand::fill(&mut bytes).inspect_err(|_| bytes = [0xff; 4]);
    limit.mul_f64(f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_stay_within_their_limit() {
        let limit = Duration::from_secs(30);
        assert!((0..100).all(|_| random_up_to(limit) <= limit));
    }
}

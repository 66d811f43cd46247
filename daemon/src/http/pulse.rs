//! A timer that is always about to fire while requests come.
//!
//! Whoever sets a timer that is due before all others wakes tokio's driver for it by a system call, and the driver then
//! looks in vain for something to do. Here the deadlines of requests and of headers, which are never the same and come
//! with every request, would do so for each other in turn. With this one in front none of them is the first.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Shorter than any deadline of a request.
const BEAT: Duration = Duration::from_millis(900);

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pulse(Arc<State>);

#[derive(Debug, Default)]
struct State {
    beats: AtomicBool,
    /// A request has come since the last beat.
    wanted: AtomicBool,
}

impl Pulse {
    /// A request has come. It goes on beating until none has for one beat: an idle process sleeps.
    pub(super) fn request(&self) {
        self.0.wanted.store(true, Ordering::Relaxed);
        if self.0.beats.load(Ordering::Relaxed) || self.0.beats.swap(true, Ordering::AcqRel) {
            return;
        }
        let state = self.0.clone();
        tokio::spawn(async move {
            while state.wanted.swap(false, Ordering::Relaxed) {
                tokio::time::sleep(BEAT).await;
            }
            state.beats.store(false, Ordering::Release);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_beats_while_requests_come_and_no_longer() {
        let beats = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
        let pulse = Pulse::default();
        for _ in 0..2 {
            for _ in 0..5 {
                pulse.request();
                assert_eq!(beats(), 1);
            }
            let end = tokio::time::Instant::now() + Duration::from_secs(20);
            while beats() > 0 {
                assert!(tokio::time::Instant::now() < end, "an idle process sleeps");
                tokio::time::sleep(BEAT / 10).await;
            }
        }
    }
}

//! What tunnels carry, counted while it moves.

use std::ops::Add;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use utoipa::ToSchema;

/// Counters of one channel or of everything; a channel's also count for the whole.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    whole: Option<Arc<Traffic>>,
    open: AtomicU64,
    connections: AtomicU64,
    failed: [AtomicU64; Unreached::ALL.len()],
    sent: AtomicU64,
    received: AtomicU64,
    dropped: AtomicU64,
}

/// Why a destination was not reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreached {
    Denied,
    Resolve,
    Timeout,
    Connect,
}

impl Unreached {
    const ALL: [Self; 4] = [Self::Denied, Self::Resolve, Self::Timeout, Self::Connect];

    /// The word for it in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Resolve => "resolve",
            Self::Timeout => "timeout",
            Self::Connect => "connect",
        }
    }
}

/// The counters at one moment.
///
/// As JSON it has the names of a server's status page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Counts {
    /// Connections that are being carried.
    #[serde(rename = "open_connections")]
    pub open: u64,
    /// Connections so far, the open ones included.
    pub connections: u64,
    /// Destinations that were not reached.
    #[serde(rename = "unreached")]
    pub failed: u64,
    /// Bytes of payload into websockets.
    #[serde(rename = "bytes_to_clients")]
    pub sent: u64,
    /// Bytes of payload out of websockets.
    #[serde(rename = "bytes_from_clients")]
    pub received: u64,
    /// Datagrams that found no room, or that a socket did not take.
    #[serde(rename = "datagrams_dropped")]
    pub dropped: u64,
}

impl Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            open: self.open + other.open,
            connections: self.connections + other.connections,
            failed: self.failed + other.failed,
            sent: self.sent + other.sent,
            received: self.received + other.received,
            dropped: self.dropped + other.dropped,
        }
    }
}

/// A connection that counts as open for as long as this lives.
#[derive(Debug)]
pub(super) struct Open<'t>(&'t Traffic);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.each(|traffic| {
            traffic.open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

impl Traffic {
    pub(super) fn part_of(whole: &Arc<Self>) -> Arc<Self> {
        Arc::new(Self { whole: Some(whole.clone()), ..Self::default() })
    }

    fn each(&self, change: impl Fn(&Self)) {
        let mut next = Some(self);
        while let Some(traffic) = next {
            change(traffic);
            next = traffic.whole.as_deref();
        }
    }

    pub(super) fn opened(&self) -> Open<'_> {
        self.each(|traffic| {
            traffic.open.fetch_add(1, Ordering::Relaxed);
            traffic.connections.fetch_add(1, Ordering::Relaxed);
        });
        Open(self)
    }

    pub(super) fn failed(&self, why: Unreached) {
        self.each(|traffic| {
            traffic.failed[why as usize].fetch_add(1, Ordering::Relaxed);
        });
    }

    /// How often which happened.
    pub(super) fn unreached(&self) -> [(Unreached, u64); Unreached::ALL.len()] {
        Unreached::ALL.map(|why| (why, self.failed[why as usize].load(Ordering::Relaxed)))
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.each(|traffic| {
            traffic.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        });
    }

    pub(super) fn received(&self, bytes: usize) {
        self.each(|traffic| {
            traffic.received.fetch_add(bytes as u64, Ordering::Relaxed);
        });
    }

    pub(super) fn dropped(&self, datagrams: u64) {
        self.each(|traffic| {
            traffic.dropped.fetch_add(datagrams, Ordering::Relaxed);
        });
    }

    pub(super) fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            open: read(&self.open),
            connections: read(&self.connections),
            failed: self.failed.iter().map(read).sum(),
            sent: read(&self.sent),
            received: read(&self.received),
            dropped: read(&self.dropped),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_counts_for_the_whole() {
        let whole = Arc::new(Traffic::default());
        let (one, other) = (Traffic::part_of(&whole), Traffic::part_of(&whole));
        let open = one.opened();
        one.sent(3);
        other.dropped(5);
        other.received(4);
        other.failed(Unreached::Timeout);
        assert!(whole.unreached().contains(&(Unreached::Timeout, 1)));
        assert_eq!(
            whole.counts(),
            Counts { open: 1, connections: 1, failed: 1, sent: 3, received: 4, dropped: 5 }
        );
        drop(open);
        assert_eq!(one.counts(), Counts { connections: 1, sent: 3, ..Counts::default() });
        assert_eq!(whole.counts().open, 0);
    }
}

//! What the parts of the daemon count, each its own.

use std::time::{Duration, Instant};

use prometheus::{Histogram, IntCounter, IntGauge, Opts};

use super::{Counters, Metrics, counter, gauge, histogram};

/// An Ed25519 signature takes 20 µs, one of RSA-4096 some milliseconds.
const SIGNING: [f64; 10] =
    [0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1];
/// From an idle core or a read from memory to the patience of clients.
const WAITING: [f64; 10] = [0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];

/// Signatures of access tokens.
#[derive(Clone)]
pub(crate) struct SigningMetrics {
    /// From the request for a signature until a core works at it.
    pub(crate) waiting: Histogram,
    /// The signature.
    pub(crate) signing: Histogram,
    busy: IntCounter,
    failed: IntCounter,
}

impl SigningMetrics {
    pub(crate) fn new() -> Self {
        let failures = |reason| {
            let help = "Access tokens that could not be signed";
            counter(
                Opts::new("jwtunnel_signing_failures_total", help).const_label("reason", reason),
            )
        };
        Self {
            waiting: histogram(
                Opts::new(
                    "jwtunnel_signing_wait_seconds",
                    "Time that signatures waited for a core",
                ),
                &WAITING,
            ),
            signing: histogram(
                Opts::new("jwtunnel_signing_seconds", "Time that signatures took"),
                &SIGNING,
            ),
            busy: failures("busy"),
            failed: failures("error"),
        }
    }

    pub(crate) fn failed(&self, is_busy: bool) {
        if is_busy { self.busy.inc() } else { self.failed.inc() }
    }

    pub(crate) fn show(&self, metrics: &Metrics) {
        metrics.add(&self.waiting);
        metrics.add(&self.signing);
        metrics.add(&self.busy);
        metrics.add(&self.failed);
    }
}

/// The signing keys.
#[derive(Clone)]
pub(crate) struct RingMetrics {
    pub(crate) announced: IntGauge,
    pub(crate) signing: IntGauge,
    pub(crate) retiring: IntGauge,
    /// When another key signs.
    pub(crate) next: IntGauge,
}

impl RingMetrics {
    pub(crate) fn new() -> Self {
        let keys = |state| {
            let help = "Signing keys, by state";
            gauge(Opts::new("jwtunnel_signing_keys", help).const_label("state", state))
        };
        let help =
            "When another key signs, in Unix seconds; 0 if none is announced and none scheduled";
        Self {
            announced: keys("announced"),
            signing: keys("signing"),
            retiring: keys("retiring"),
            next: gauge(Opts::new("jwtunnel_signing_key_next_timestamp_seconds", help)),
        }
    }

    pub(crate) fn show(&self, metrics: &Metrics) {
        for gauge in [&self.announced, &self.signing, &self.retiring, &self.next] {
            metrics.add(gauge);
        }
    }
}

/// A file that verifiers read.
#[derive(Clone, Debug)]
pub(crate) struct FileMetrics {
    written: IntGauge,
    failures: IntCounter,
}

impl FileMetrics {
    /// `file` tells them apart.
    pub(crate) fn new(file: &str) -> Self {
        let options = |name: &str, help: &str| Opts::new(name, help).const_label("file", file);
        Self {
            written: gauge(options(
                "jwtunnel_file_written_timestamp_seconds",
                "When the file was last written, in Unix seconds",
            )),
            failures: counter(options(
                "jwtunnel_file_write_failures_total",
                "Times that the file could not be written",
            )),
        }
    }

    /// Counts an attempt, and gives its result back.
    pub(crate) fn wrote<T, E>(&self, result: Result<T, E>) -> Result<T, E> {
        match &result {
            Ok(_) => self.written.set(crate::clock::Clock::system().unix_now()),
            Err(_) => self.failures.inc(),
        }
        result
    }

    pub(crate) fn show(&self, metrics: &Metrics) {
        metrics.add(&self.written);
        metrics.add(&self.failures);
    }
}

/// The database.
pub(crate) struct StoreMetrics {
    reading: Histogram,
    writing: Histogram,
    errors: Counters<2>,
}

/// Which of the database's work it is.
#[derive(Clone, Copy)]
pub(crate) enum Operation {
    Read,
    Write,
}

impl std::fmt::Debug for StoreMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreMetrics").finish_non_exhaustive()
    }
}

impl StoreMetrics {
    pub(crate) fn new() -> Self {
        let waits = |operation| {
            let help = "Time until the database had answered, the wait for a connection included";
            let options = Opts::new("jwtunnel_database_seconds", help);
            histogram(options.const_label("operation", operation), &WAITING)
        };
        let reasons = ["database", "busy", "timeout", "malformed"];
        let both = reasons.map(|reason| [["read", reason], ["write", reason]]);
        Self {
            reading: waits("read"),
            writing: waits("write"),
            errors: Counters::new(
                "jwtunnel_database_errors_total",
                "What the database could not do",
                ["operation", "reason"],
                both.as_flattened(),
            ),
        }
    }

    /// Counts an operation that began at `start`; `reason` is why it failed.
    pub(crate) fn done(&self, operation: Operation, start: Instant, reason: Option<&'static str>) {
        let (times, name) = match operation {
            Operation::Read => (&self.reading, "read"),
            Operation::Write => (&self.writing, "write"),
        };
        observe(times, start.elapsed());
        if let Some(reason) = reason {
            self.errors.count([name, reason]);
        }
    }

    pub(crate) fn show(&self, metrics: &Metrics) {
        metrics.add(&self.reading);
        metrics.add(&self.writing);
        metrics.add(&self.errors.family);
    }
}

pub(crate) fn observe(histogram: &Histogram, time: Duration) {
    histogram.observe(time.as_secs_f64());
}

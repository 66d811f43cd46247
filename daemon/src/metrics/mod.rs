//! Metrics in Prometheus's text format, for `GET /metrics` on the internal listener. What each is: docs/metrics.md.
//!
//! Whoever has something to count holds the counters, which are atomics, made and found once: while a request is
//! served nothing is formatted or registered. What is counted elsewhere already, such as what tunnels carry, is read
//! when somebody asks. Labels have values that are known here, and never what a client sends.

mod parts;
mod read;
mod requests;

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricFamily;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

pub(crate) use parts::{
    FileMetrics, Operation, RingMetrics, SigningMetrics, StoreMetrics, observe,
};
pub(crate) use read::Read;
pub(crate) use requests::Requests;

/// The text format (version 0.0.4), which every scraper reads.
pub(crate) const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// The metrics of one daemon.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    /// Keys that were presented, by what became of it.
    pub(crate) authentications: Counters<1>,
    /// Refresh tokens that were presented, by what became of it.
    pub(crate) refreshes: Counters<1>,
    /// Requests that [`crate::http::limits`] has refused or put off.
    pub(crate) limited: Counters<1>,
    /// What the log tells for an audit.
    pub(crate) audit: Counters<2>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero, and those of the process.
    pub fn new() -> Self {
        let registry = Registry::new();
        let metrics = Self {
            requests: requests::family(),
            authentications: Counters::new(
                "jwtunnel_authentications_total",
                "Keys that were presented, by outcome",
                ["outcome"],
                &[["ok"], ["unknown"], ["expired"], ["revoked"], ["limited"], ["error"]],
            ),
            refreshes: Counters::new(
                "jwtunnel_refreshes_total",
                "Refresh tokens that were presented, by outcome",
                ["outcome"],
                &[
                    ["sticky"],
                    ["rotated"],
                    ["unknown"],
                    ["foreign"],
                    ["expired"],
                    ["key_expired"],
                    ["revoked"],
                    ["used_up"],
                    ["reused"],
                    ["error"],
                ],
            ),
            limited: Counters::new(
                "jwtunnel_limited_total",
                "Requests of clients that failed too often, by what was done",
                ["action"],
                &[["refused"], ["delayed"]],
            ),
            audit: Counters::new(
                "jwtunnel_audit_events_total",
                "Events of the audit log",
                ["event", "outcome"],
                &[
                    ["register_key", "ok"],
                    ["register_key", "denied"],
                    ["prune_key", "ok"],
                    ["revoke_key", "ok"],
                    ["revoke_token", "ok"],
                    ["rotate_signing_key", "ok"],
                    ["rotate_signing_key", "denied"],
                    ["refresh_reuse", "denied"],
                    ["oauth2_token", "ok"],
                    ["oauth2_revoke", "ok"],
                    ["ident_mismatch", "ok"],
                    ["weak_key", "ok"],
                ],
            ),
            registry,
        };
        metrics.add(&metrics.requests);
        for counters in [&metrics.authentications, &metrics.refreshes, &metrics.limited] {
            metrics.add(&counters.family);
        }
        metrics.add(&metrics.audit.family);
        metrics.add(&build_info());
        metrics.add_boxed(Box::new(ProcessCollector::for_self()));
        metrics
    }

    /// Shows what a part of the daemon counts.
    pub(crate) fn add<C: Collector + Clone + 'static>(&self, collector: &C) {
        self.add_boxed(Box::new(collector.clone()));
    }

    fn add_boxed(&self, collector: Box<dyn Collector>) {
        self.registry.register(collector).expect("each metric is added once");
    }

    /// The counters of a listener's routes. `paths` are those of the router, each with its label.
    pub(crate) fn requests<'p>(
        &self,
        listener: &str,
        paths: impl Iterator<Item = (String, &'p str)>,
    ) -> Requests {
        Requests::new(&self.requests, listener, paths)
    }

    /// All metrics as text, with what was `read` for it.
    pub(crate) fn render(&self, read: Vec<MetricFamily>) -> String {
        let mut families = self.registry.gather();
        families.extend(read);
        families.sort_by(|a, b| a.name().cmp(b.name()));
        TextEncoder::new().encode_to_string(&families).expect("each family has a sample")
    }
}

/// Counters that differ in labels with known values.
pub(crate) struct Counters<const L: usize> {
    family: IntCounterVec,
    each: Vec<([&'static str; L], IntCounter)>,
}

impl<const L: usize> Counters<L> {
    pub(crate) fn new(
        name: &str,
        help: &str,
        labels: [&str; L],
        values: &[[&'static str; L]],
    ) -> Self {
        let family = IntCounterVec::new(Opts::new(name, help), &labels).expect(VALID);
        let each = values.iter().map(|values| (*values, family.with_label_values(values)));
        Self { each: each.collect(), family }
    }

    /// Counts one. There are a few at most, so looking through them takes no time.
    pub(crate) fn count(&self, values: [&'static str; L]) {
        match self.each.iter().find(|(known, _)| *known == values) {
            Some((_, counter)) => counter.inc(),
            // As good, but slower. A new word belongs to the list, since a counter has to be there at zero.
            None => {
                debug_assert!(false, "{values:?} is not in the list");
                self.family.with_label_values(&values).inc();
            }
        }
    }
}

const VALID: &str = "names and labels are valid, and written here";

fn counter(options: Opts) -> IntCounter {
    IntCounter::with_opts(options).expect(VALID)
}

fn gauge(options: Opts) -> IntGauge {
    IntGauge::with_opts(options).expect(VALID)
}

fn histogram(options: Opts, buckets: &[f64]) -> Histogram {
    let options = HistogramOpts { common_opts: options, buckets: buckets.to_vec() };
    Histogram::with_opts(options).expect(VALID)
}

fn build_info() -> IntGauge {
    let options = Opts::new("jwtunnel_build_info", "1, with the version as label");
    let info = gauge(options.const_label("version", env!("CARGO_PKG_VERSION")));
    info.set(1);
    info
}

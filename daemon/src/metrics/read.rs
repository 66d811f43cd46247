//! What is counted elsewhere already, and read when somebody asks.

use std::sync::Arc;

use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use crate::remote::RemoteCounts;
use crate::tunnel::{Census, Condition, Counts, Server, StaticTunnelStatus};

/// Where it is read.
pub(crate) struct Read<'s> {
    /// The servers of tunnels, by the names of their listeners.
    pub(crate) listeners: [(&'static str, &'s Arc<Server>); 2],
    pub(crate) static_tunnels: Vec<StaticTunnelStatus>,
    pub(crate) revocations: usize,
    pub(crate) remotes: Vec<RemoteCounts>,
}

impl Read<'_> {
    /// The metrics.
    pub(crate) fn families(&self) -> Vec<MetricFamily> {
        let census = self.listeners.map(|(name, server)| (name, server.census()));
        let counts = self.listeners.map(|(name, server)| (name, server.counts()));
        let opened = self.listeners.map(|(name, server)| (name, server.opened()));
        let open = |name, help, value: fn(&Census) -> usize| {
            let samples = census.iter().map(|(listener, census)| ([*listener], value(census)));
            gauge(name, help, ["listener"], samples)
        };
        let sum = |name, help, value: fn(&Counts) -> u64| {
            let samples = counts.iter().map(|(listener, counts)| ([*listener], value(counts)));
            counter(name, help, ["listener"], samples)
        };
        let begun = |name, help, value: fn(&(u64, u64)) -> u64| {
            let samples = opened.iter().map(|(listener, opened)| ([*listener], value(opened)));
            counter(name, help, ["listener"], samples)
        };
        let carried = counts.iter().map(|(listener, counts)| ([*listener], counts.open as usize));
        let bytes = counts.iter().flat_map(|(listener, counts)| {
            let directions = [("to_clients", counts.sent), ("from_clients", counts.received)];
            directions.map(|(direction, bytes)| ([*listener, direction], bytes))
        });
        let unreached = self.listeners.iter().flat_map(|(listener, server)| {
            server.unreached().map(|(why, times)| ([*listener, why.as_str()], times))
        });
        let states = Condition::ALL.map(|(state, name)| {
            ([name], self.static_tunnels.iter().filter(|tunnel| tunnel.state == state).count())
        });
        let remotes = || self.remotes.iter();
        let fetches = remotes().flat_map(|remote| {
            let outcomes = [("ok", remote.fetched), ("error", remote.failed)];
            outcomes.map(|(outcome, times)| ([remote.name.as_str(), outcome], times))
        });
        let mut families = vec![
            open("jwtunnel_channels", "Open channels", |census| census.channels),
            open("jwtunnel_tunnels", "Open tunnels", |census| census.tunnels),
            open("jwtunnel_websockets", "Tunnel websockets, waiting ones included", |census| {
                census.connections
            }),
            gauge(
                "jwtunnel_connections",
                "Connections that are being carried",
                ["listener"],
                carried,
            ),
            begun("jwtunnel_channels_opened_total", "Channels since the start", |opened| opened.0),
            begun("jwtunnel_tunnels_opened_total", "Tunnels since the start", |opened| opened.1),
            sum("jwtunnel_connections_opened_total", "Connections since the start", |counts| {
                counts.connections
            }),
            counter(
                "jwtunnel_tunnel_bytes_total",
                "Payload that tunnels have carried",
                ["listener", "direction"],
                bytes,
            ),
            sum(
                "jwtunnel_datagrams_dropped_total",
                "Datagrams that found no room or that a socket did not take",
                |counts| counts.dropped,
            ),
            counter(
                "jwtunnel_dial_errors_total",
                "Destinations that were not reached",
                ["listener", "reason"],
                unreached,
            ),
            gauge(
                "jwtunnel_static_tunnels",
                "Static tunnels to peers, by state",
                ["state"],
                states,
            ),
            gauge(
                "jwtunnel_revocations",
                "Tokens, identifiers, keys and signing keys that are refused now",
                [],
                [([], self.revocations)],
            ),
            gauge(
                "jwtunnel_remote_keys",
                "Keys of another issuer that are in force",
                ["remote"],
                remotes().map(|remote| ([remote.name.as_str()], remote.keys)),
            ),
            counter(
                "jwtunnel_remote_fetches_total",
                "Fetches of another issuer's keys, by outcome",
                ["remote", "outcome"],
                fetches,
            ),
            gauge(
                "jwtunnel_remote_fetched_timestamp_seconds",
                "When another issuer's keys were last fetched, or found unchanged",
                ["remote"],
                remotes().map(|remote| {
                    ([remote.name.as_str()], usize::try_from(remote.last_success).unwrap_or(0))
                }),
            ),
        ];
        // Without another issuer there is nothing to tell, and the format has no family without a sample.
        families.retain(|family| !family.get_metric().is_empty());
        families
    }
}

fn counter<'v, const L: usize>(
    name: &str,
    help: &str,
    labels: [&str; L],
    samples: impl IntoIterator<Item = ([&'v str; L], u64)>,
) -> MetricFamily {
    let metrics = samples.into_iter().map(|(values, number)| {
        let mut counter = Counter::default();
        counter.set_value(number as f64);
        let mut metric = Metric::from_label(pairs(labels, values));
        metric.set_counter(counter);
        metric
    });
    family(name, help, MetricType::COUNTER, metrics.collect())
}

fn gauge<'v, const L: usize>(
    name: &str,
    help: &str,
    labels: [&str; L],
    samples: impl IntoIterator<Item = ([&'v str; L], usize)>,
) -> MetricFamily {
    let metrics = samples.into_iter().map(|(values, number)| {
        let mut gauge = Gauge::default();
        gauge.set_value(number as f64);
        let mut metric = Metric::from_label(pairs(labels, values));
        metric.set_gauge(gauge);
        metric
    });
    family(name, help, MetricType::GAUGE, metrics.collect())
}

fn pairs<const L: usize>(labels: [&str; L], values: [&str; L]) -> Vec<LabelPair> {
    let pair = |(name, value): (&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.into());
        pair.set_value(value.into());
        pair
    };
    labels.into_iter().zip(values).map(pair).collect()
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.into());
    family.set_help(help.into());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

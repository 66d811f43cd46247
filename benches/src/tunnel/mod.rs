//! The rows of the tunnels: our two ends against a bare relay, other tunnels and no tunnel at all, all of them between
//! the same client and the same service.

mod relay;
mod service;
mod subject;
mod traffic;

use std::net::TcpStream;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;

use crate::needs::Need;
use crate::options::RunOptions;
use crate::process::{self, Server};
use crate::progress::say;
use crate::report::{Report, Unit};
use crate::rounds::{Leg, Row, Sample, group};
use crate::statistics::Budget;
use subject::{Subject, Which};
pub(crate) use traffic::Kind;

/// The ids of all rows.
pub(crate) const IDS: &[&str] = &[
    "tunnel-up",
    "tunnel-up-rathole",
    "tunnel-up-original",
    "tunnel-up-nginx",
    "tunnel-up-relay",
    "tunnel-up-splice",
    "tunnel-down",
    "tunnel-down-rathole",
    "tunnel-down-original",
    "tunnel-down-nginx",
    "tunnel-down-relay",
    "tunnel-down-splice",
    "tunnel-cpu",
    "tunnel-cpu-rathole",
    "tunnel-cpu-original",
    "tunnel-cpu-nginx",
    "tunnel-cpu-relay",
    "tunnel-cpu-splice",
    "tunnel-eight",
    "tunnel-eight-rathole",
    "tunnel-eight-original",
    "tunnel-eight-nginx",
    "tunnel-eight-relay",
    "tunnel-eight-splice",
    "tunnel-connect",
    "tunnel-connect-rathole",
    "tunnel-connect-original",
    "tunnel-connect-nginx",
    "tunnel-connect-relay",
    "tunnel-connect-splice",
    "tunnel-echo",
    "tunnel-echo-rathole",
    "tunnel-echo-original",
    "tunnel-echo-nginx",
    "tunnel-echo-relay",
    "tunnel-echo-splice",
    "tunnel-memory",
    "tunnel-memory-used",
    "tunnel-slope",
    "tunnel-slope-client",
    "tunnel-slope-rathole",
];

const MIB: f64 = 1024.0 * 1024.0;
const KIB: f64 = 1024.0;

/// What a row needs.
pub(crate) fn needs(id: &str) -> &'static [Need] {
    match id.rsplit('-').next() {
        Some("rathole") => &[Need::Rathole],
        Some("original") => &[Need::Python],
        Some("nginx") => &[Need::Daemon, Need::Module, Need::Nginx],
        Some("relay" | "splice") => &[],
        _ => &[Need::Daemon],
    }
}

/// What the numbers were made with.
pub(crate) fn setup() -> String {
    "plain websockets, no tokens; one host, all processes on all cores; bare relay: two hops, read and write, \
     256 KiB, a thread for each direction; splice relay: the same with splice(2), 1 MiB; with nginx: the shipped configuration, one worker, tokens; rathole: plain TCP"
        .to_owned()
}

/// The parts that are processes of their own; `run` starts them.
#[derive(Debug, Subcommand)]
pub(crate) enum Part {
    /// What all tunnels lead to.
    Service { port: u16 },
    /// One hop of the bare relay.
    Relay {
        port: u16,
        target: u16,
        /// By splice(2).
        #[arg(long)]
        splice: bool,
    },
    /// What goes through a tunnel.
    Traffic {
        kind: Kind,
        port: u16,
        #[arg(value_parser = crate::options::seconds)]
        duration: Duration,
    },
}

impl Part {
    pub(crate) fn play(self) -> Result<()> {
        match self {
            Self::Service { port } => service::serve(port),
            Self::Relay { port, target, splice } => relay::serve(port, target, splice),
            Self::Traffic { kind, port, duration } => traffic::print(kind, port, duration),
        }
    }
}

/// Measures the wanted rows.
pub(crate) fn run(options: &RunOptions, report: &mut Report) -> Result<()> {
    let port = process::free_port()?;
    let mut command = subject::own()?;
    command.args(["service", &port.to_string()]);
    let mut service = Server::start("service", command, &options.folder.join("service.log"))?;
    service.wait_for(port, Duration::from_secs(10))?;
    let suite = Suite { options, service: port };
    suite.traffic(report)?;
    suite.memory(report)
}

struct Suite<'a> {
    options: &'a RunOptions,
    service: u16,
}

impl Suite<'_> {
    fn traffic(&self, report: &mut Report) -> Result<()> {
        // Up and down are one group, as CPU per GiB is that of both.
        let groups: [(&str, &[Kind]); 4] = [
            ("bulk", &[Kind::Up, Kind::Down]),
            ("eight", &[Kind::Eight]),
            ("connect", &[Kind::Connect]),
            ("echo", &[Kind::Echo]),
        ];
        let rows: Vec<(&str, &[Kind], Vec<Row>)> = groups
            .into_iter()
            .map(|(name, kinds)| {
                let rows = rows(kinds).filter(|row| self.options.wants(row.id)).collect();
                (name, kinds, rows)
            })
            .collect();
        let wanted = |which: Which| {
            rows.iter().any(|(_, kinds, rows)| {
                let of = |row: &Row| kinds.iter().any(|kind| row.legs.contains(&leg(*kind, which)));
                rows.iter().any(of)
            })
        };
        let mut subjects = Vec::new();
        for which in Which::ALL.into_iter().filter(|which| wanted(*which)) {
            say(&format!("starting {}", which.name()));
            subjects.push(Subject::start(which, self.options, self.service)?);
        }
        for (name, kinds, rows) in rows {
            let legs = kinds
                .iter()
                .flat_map(|kind| subjects.iter().map(|subject| self.leg(*kind, subject)))
                .collect();
            group(name, legs, rows, self.options, report)?;
        }
        Ok(())
    }

    fn leg<'l>(&'l self, kind: Kind, subject: &'l Subject) -> Leg<'l> {
        let measure = move || {
            let mut command = subject::own()?;
            let seconds = self.options.duration().as_secs_f64().to_string();
            let port = subject.entrance.to_string();
            command.args(["traffic", kind.name(), &port, &seconds]);
            let used = subject.count()?;
            let printed = process::output(&mut command)?;
            let seconds = used.seconds()?;
            let [rate, count] = process::numbers(&printed)?[..] else {
                bail!("the traffic printed {printed:?}");
            };
            let cpu_per_operation = seconds.map(|seconds| seconds / count);
            Ok(Sample { cpu_per_operation, ..Sample::of_rate(rate) })
        };
        Leg { name: leg(kind, subject.which), measure: Box::new(measure) }
    }

    /// What processes hold, once for each.
    fn memory(&self, report: &mut Report) -> Result<()> {
        let own = ["tunnel-memory", "tunnel-memory-used", "tunnel-slope", "tunnel-slope-client"];
        if self.options.wants_any(&own) {
            let ours = Subject::start(Which::Ours, self.options, self.service)?;
            let (daemon, client) = ours.ends().context("our ends")?;
            sleep(Duration::from_secs(1));
            let value = process::resident_memory(daemon)?;
            self.value(report, own[0], "daemon's RSS after its start", value, Some(12.0 * MIB))?;
            if self.options.wants(own[1]) {
                (self.leg(Kind::Connect, &ours).measure)()?;
                sleep(Duration::from_secs(3));
                let title = "the same after some thousand connections, when all have ended";
                self.value(report, own[1], title, process::resident_memory(daemon)?, None)?;
            }
            if self.options.wants_any(&own[2..]) {
                let [daemon, client] = slope(&ours, [daemon, client])?;
                let title = "daemon's RSS for each connection, from 1,000 to 5,000 idle ones";
                self.value(report, own[2], title, daemon, Some(12.0 * KIB))?;
                self.value(report, own[3], "the same of jwtunnel connect", client, None)?;
            }
        }
        if self.options.wants("tunnel-slope-rathole") {
            let rathole = Subject::start(Which::Rathole, self.options, self.service)?;
            let (client, server) = rathole.ends().context("its ends")?;
            let [value, _] = slope(&rathole, [server, client])?;
            self.value(
                report,
                "tunnel-slope-rathole",
                "the same of rathole's server",
                value,
                None,
            )?;
        }
        Ok(())
    }

    fn value(
        &self,
        report: &mut Report,
        id: &str,
        title: &str,
        value: f64,
        limit: Option<f64>,
    ) -> Result<()> {
        match self.options.wants(id) {
            true => report.add_value(id, title, Unit::Kib, value, limit.map(Budget::AtMost)),
            false => Ok(()),
        }
    }
}

/// What the processes hold more for each further connection that carries nothing.
fn slope(subject: &Subject, processes: [u32; 2]) -> Result<[f64; 2]> {
    const FEW: usize = 1_000;
    const MANY: usize = 5_000;
    say(&format!("{}: {FEW}, then {MANY} idle connections", subject.which.name()));
    let mut open: Vec<TcpStream> = Vec::with_capacity(MANY);
    let mut hold = |count: usize| -> Result<[f64; 2]> {
        while open.len() < count {
            open.push(traffic::open_echo(subject.entrance)?);
        }
        // What was needed only to open them may go.
        sleep(Duration::from_secs(3));
        Ok([process::resident_memory(processes[0])?, process::resident_memory(processes[1])?])
    };
    let (few, many) = (hold(FEW)?, hold(MANY)?);
    Ok([0, 1].map(|end| (many[end] - few[end]) / (MANY - FEW) as f64))
}

/// The rows of a group, ours first.
fn rows(kinds: &'static [Kind]) -> impl Iterator<Item = Row> {
    let of = |kind: Kind| {
        move |which: Which| {
            Some((id(kind.name(), which)?, which)).map(|(id, which)| row(id, kind, which))
        }
    };
    let both = matches!(kinds, [Kind::Up, Kind::Down]);
    let cpu = SUBJECTS.into_iter().filter(move |_| both).filter_map(cpu);
    kinds.iter().flat_map(move |kind| SUBJECTS.into_iter().filter_map(of(*kind))).chain(cpu)
}

/// In the order of the rows.
const SUBJECTS: [Which; 6] =
    [Which::Ours, Which::Rathole, Which::Original, Which::Nginx, Which::Relay, Which::Splice];

fn row(id: &'static str, kind: Kind, which: Which) -> Row {
    let ours = which == Which::Ours;
    let name = who(which);
    let own = leg(kind, which);
    let share = |title: String, reference: Which, limit: f64| {
        let budget = ours.then_some(Budget::AtLeast(limit));
        Row::ratio(id, title, own, leg(kind, reference), budget)
    };
    // The relay itself is compared with what it leads to.
    let limit = if which == Which::Relay { Which::Direct } else { Which::Relay };
    let against = who(limit);
    match kind {
        Kind::Up => {
            share(format!("{name}: one connection, to the service, against {against}"), limit, 0.95)
        }
        Kind::Down => share(
            format!("{name}: one connection, from the service, against {against}"),
            limit,
            0.95,
        ),
        Kind::Eight => {
            share(format!("{name}: 8 connections, 4 each way, against {against}"), limit, 0.95)
        }
        Kind::Connect => share(
            format!("{name}: new connections, 8 clients, against direct ones"),
            Which::Direct,
            0.35,
        ),
        Kind::Echo => {
            let direct = leg(kind, Which::Direct);
            Row {
                id,
                title: format!("{name}: 1-byte echo, p50, in direct ones"),
                legs: vec![own, direct],
                value: Box::new(move |round| round.latency(own) / round.latency(direct)),
                unit: Unit::Ratio,
                budget: ours.then_some(Budget::AtMost(1.8)),
            }
        }
    }
}

/// The row of what carrying costs.
fn cpu(which: Which) -> Option<Row> {
    const MIB_PER_GIB: f64 = 1024.0;
    let legs = [leg(Kind::Up, which), leg(Kind::Down, which)];
    Some(Row {
        id: id("cpu", which)?,
        title: format!("{}: CPU for each GiB, all its processes, mean of both ways", who(which)),
        legs: legs.to_vec(),
        value: Box::new(move |round| (round.cpu(legs[0]) + round.cpu(legs[1])) / 2.0 * MIB_PER_GIB),
        unit: Unit::Seconds,
        budget: (which == Which::Ours).then_some(Budget::AtMost(0.55)),
    })
}

fn who(which: Which) -> &'static str {
    match which {
        Which::Direct => "no tunnel",
        Which::Relay => "bare relay",
        Which::Splice => "splice relay",
        Which::Rathole => "rathole",
        Which::Original => "the original",
        Which::Ours => "ours",
        Which::Nginx => "ours with nginx",
    }
}

/// The id of a subject's row, if it has one.
fn id(what: &str, which: Which) -> Option<&'static str> {
    let id = match which {
        Which::Ours => format!("tunnel-{what}"),
        _ => format!("tunnel-{what}-{}", which.name()),
    };
    IDS.iter().find(|known| **known == id).copied()
}

/// The name of a leg.
fn leg(kind: Kind, which: Which) -> &'static str {
    const NAMES: [[&str; 7]; 5] = [
        [
            "up, direct",
            "up, relay",
            "up, splice",
            "up, rathole",
            "up, original",
            "up, ours",
            "up, nginx",
        ],
        [
            "down, direct",
            "down, relay",
            "down, splice",
            "down, rathole",
            "down, original",
            "down, ours",
            "down, nginx",
        ],
        ["direct", "relay", "splice", "rathole", "original", "ours", "nginx"],
        ["direct", "relay", "splice", "rathole", "original", "ours", "nginx"],
        ["direct", "relay", "splice", "rathole", "original", "ours", "nginx"],
    ];
    NAMES[kind as usize][which as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_traffic_has_its_id_once() {
        let mut made: Vec<&str> = Kind::ALL
            .iter()
            .flat_map(|kind| SUBJECTS.map(|which| id(kind.name(), which).unwrap()))
            .collect();
        made.extend(SUBJECTS.map(|which| id("cpu", which).unwrap()));
        let traffic = |id: &&str| !id.contains("memory") && !id.contains("slope");
        let mut known: Vec<&str> = IDS.iter().copied().filter(traffic).collect();
        made.sort_unstable();
        known.sort_unstable();
        assert_eq!(made, known);
    }
}

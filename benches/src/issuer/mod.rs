//! The rows of the issuer: how many tokens it gives out, against the original in the same run on the same kind of
//! database, and what one costs, against the signature in it.

mod large;
mod service;

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::load::{self, Content, Load, Loaded};
use crate::needs::Need;
use crate::options::RunOptions;
use crate::postgres::Postgres;
use crate::progress::say;
use crate::report::{Report, Unit};
use crate::rounds::{Leg, Row, Sample, group};
use crate::statistics::{Budget, quantile};
use crate::verify;
use service::Service;

/// The ids of all rows.
pub(crate) const IDS: &[&str] = &[
    "issuer-authenticate-sqlite",
    "issuer-refresh-sqlite",
    "issuer-cpu",
    "issuer-validate",
    "issuer-jwks",
    "issuer-health",
    "issuer-authenticate-postgres",
    "issuer-refresh-postgres",
    "issuer-flat-sqlite",
    "issuer-flat-postgres",
];

/// Those that take minutes: ten million rows are made for each.
pub(crate) const LONG: &[&str] = &["issuer-flat-sqlite", "issuer-flat-postgres"];

/// Enough that one fsync of the disk serves several; the original takes them in turn, so that more would only
/// wait longer.
const CONNECTIONS: usize = 8;
/// Legs with the database are so much longer, as the original gives some ten answers in a second.
const DATABASE_LEG: u32 = 3;
/// And never shorter than this, which a busy machine needs for the first of them.
const SHORTEST_DATABASE_LEG: Duration = Duration::from_secs(3);

/// What a row needs.
pub(crate) fn needs(id: &str) -> &'static [Need] {
    match id {
        "issuer-cpu" | "issuer-health" => &[Need::Daemon],
        "issuer-authenticate-postgres" | "issuer-refresh-postgres" | "issuer-flat-postgres" => {
            &[Need::Daemon, Need::Python, Need::Postgres]
        }
        // The Python of the original also fills the table of the long row.
        _ => &[Need::Daemon, Need::Python],
    }
}

/// What the numbers were made with.
pub(crate) fn setup() -> String {
    format!(
        "{CONNECTIONS} kept-alive connections, RS256 with 2048 bits, one key; the database on the server's core \
         too, durable writes (SQLite: WAL, synchronous=FULL; PostgreSQL: as packaged), its legs {DATABASE_LEG} times as long"
    )
}

/// The parts of a leg's name that rows refer to.
mod leg {
    pub(super) const AUTHENTICATE: &str = "authenticate";
    pub(super) const AUTHENTICATE_ORIGINAL: &str = "authenticate, original";
    pub(super) const REFRESH: &str = "refresh";
    pub(super) const REFRESH_ORIGINAL: &str = "refresh, original";
    pub(super) const SIGNATURE: &str = "bare signature";
    pub(super) const VALIDATE: &str = "validate";
    pub(super) const VALIDATE_ORIGINAL: &str = "validate, original";
    pub(super) const JWKS: &str = "jwks";
    pub(super) const JWKS_ORIGINAL: &str = "jwks, original";
    pub(super) const HEALTH: &str = "health meanwhile";
}

/// Measures the wanted rows.
pub(crate) fn run(options: &RunOptions, report: &mut Report) -> Result<()> {
    let compared =
        ["issuer-authenticate-sqlite", "issuer-refresh-sqlite", "issuer-validate", "issuer-jwks"];
    if options.wants_any(&compared) || options.wants_any(&["issuer-cpu", "issuer-health"]) {
        say("starting the services on SQLite");
        let ours = Service::ours(options, "sqlite", None)?;
        let original = match options.wants_any(&compared) {
            true => Some(Service::original_on_sqlite(options)?),
            false => None,
        };
        let suite = Suite { options, ours: &ours, original: original.as_ref() };
        suite.tokens("sqlite", "issuer-authenticate-sqlite", "issuer-refresh-sqlite", report)?;
        suite.reads(report)?;
        suite.health(report)?;
    }
    if options.wants_any(&["issuer-authenticate-postgres", "issuer-refresh-postgres"]) {
        say("starting PostgreSQL, jwtunneld and jwthenticator on it");
        let postgres = Postgres::start(&options.folder, &["ours", "original"])?;
        let url = postgres.url("postgres", "ours");
        let ours = Service::ours(options, "postgres", Some(&url))?;
        let original = Service::original_on_postgres(options, &postgres, "original")?;
        let suite = Suite { options, ours: &ours, original: Some(&original) };
        let (authenticate, refresh) = ("issuer-authenticate-postgres", "issuer-refresh-postgres");
        suite.tokens("postgres", authenticate, refresh, report)?;
        // Whoever uses the server ends before it.
        drop((ours, original));
    }
    large::run(options, report)
}

/// One pair of services on the same kind of database.
struct Suite<'a> {
    options: &'a RunOptions,
    ours: &'a Service,
    original: Option<&'a Service>,
}

impl<'a> Suite<'a> {
    /// The group of what gives out tokens.
    fn tokens(
        &self,
        database: &'static str,
        authenticate: &'static str,
        refresh: &'static str,
        report: &mut Report,
    ) -> Result<()> {
        let budget = Some(Budget::AtLeast(50.0));
        let mut rows = vec![
            Row::ratio(
                authenticate,
                format!("/authenticate on {database}, against the original"),
                leg::AUTHENTICATE,
                leg::AUTHENTICATE_ORIGINAL,
                budget,
            ),
            Row::ratio(
                refresh,
                format!("/refresh on {database}, against the original"),
                leg::REFRESH,
                leg::REFRESH_ORIGINAL,
                budget,
            ),
        ];
        let mut legs = Vec::new();
        if database == "sqlite" {
            rows.push(Row {
                id: "issuer-cpu",
                title: "daemon's CPU for one RS256 /authenticate, in bare signatures".to_owned(),
                legs: vec![leg::AUTHENTICATE, leg::SIGNATURE],
                value: Box::new(|round| round.cpu(leg::AUTHENTICATE) / round.cpu(leg::SIGNATURE)),
                unit: Unit::Ratio,
                budget: Some(Budget::AtMost(1.3)),
            });
            let duration = self.options.duration();
            let measure = Box::new(move || verify::measure_signing(duration));
            legs.push(Leg { name: leg::SIGNATURE, measure });
        }
        legs.push(self.writes(leg::AUTHENTICATE, Some(self.ours), "authenticate"));
        legs.push(self.writes(leg::AUTHENTICATE_ORIGINAL, self.original, "authenticate"));
        legs.push(self.writes(leg::REFRESH, Some(self.ours), "refresh"));
        legs.push(self.writes(leg::REFRESH_ORIGINAL, self.original, "refresh"));
        group(database, legs, rows, self.options, report)
    }

    /// The group of what asks no database.
    fn reads(&self, report: &mut Report) -> Result<()> {
        let budget = Some(Budget::AtLeast(8.0));
        let rows = vec![
            Row::ratio(
                "issuer-validate",
                "/validate, against the original",
                leg::VALIDATE,
                leg::VALIDATE_ORIGINAL,
                budget,
            ),
            Row::ratio(
                "issuer-jwks",
                "/jwks, against the original",
                leg::JWKS,
                leg::JWKS_ORIGINAL,
                budget,
            ),
        ];
        let legs = vec![
            self.leg(leg::VALIDATE, Some(self.ours), "validate", self.options.duration()),
            self.leg(leg::VALIDATE_ORIGINAL, self.original, "validate", self.options.duration()),
            self.leg(leg::JWKS, Some(self.ours), "jwks", self.options.duration()),
            self.leg(leg::JWKS_ORIGINAL, self.original, "jwks", self.options.duration()),
        ];
        group("reads", legs, rows, self.options, report)
    }

    /// The row of an answer that must not wait for signatures.
    fn health(&self, report: &mut Report) -> Result<()> {
        let rows = vec![Row {
            id: "issuer-health",
            title: "p99 of /health while /authenticate is saturated".to_owned(),
            legs: vec![leg::HEALTH],
            value: Box::new(|round| round.latency(leg::HEALTH)),
            unit: Unit::Milliseconds,
            budget: Some(Budget::AtMost(0.050)),
        }];
        let url = self.ours.url("health");
        let measure = move || {
            let loaded =
                self.load(self.ours, "authenticate", self.options.duration(), Some(&url))?;
            let latency = quantile(&loaded.latencies, 0.99).context("no answer of /health")?;
            Ok(Sample { rate: 1.0 / latency, server: None, ..loaded.sample })
        };
        let legs = vec![Leg { name: leg::HEALTH, measure: Box::new(measure) }];
        group("health", legs, rows, self.options, report)
    }

    /// A leg that waits for a disk. How much of its core the server used tells nothing there.
    fn writes<'l>(
        &'l self,
        name: &'static str,
        service: Option<&'l Service>,
        what: &'static str,
    ) -> Leg<'l> {
        let mut leg = self.leg(name, service, what, database_leg(self.options));
        leg.measure = Box::new(move || Ok(Sample { server: None, ..(leg.measure)()? }));
        leg
    }

    fn leg<'l>(
        &'l self,
        name: &'static str,
        service: Option<&'l Service>,
        what: &'static str,
        duration: Duration,
    ) -> Leg<'l> {
        let measure = move || {
            let service = service.context("the original was not started")?;
            let loaded = self.load(service, what, duration, None);
            Ok(loaded.with_context(|| format!("its output ends so:\n{}", service.output()))?.sample)
        };
        Leg { name, measure: Box::new(measure) }
    }

    fn load(
        &self,
        service: &Service,
        what: &str,
        duration: Duration,
        probe: Option<&str>,
    ) -> Result<Loaded> {
        let body = service.body(what);
        load::measure(Load {
            url: &service.url(what),
            content: body.as_deref().map_or(Content::None, Content::Bodies),
            server: service.id(),
            duration,
            connections: CONNECTIONS,
            probe,
        })
    }
}

/// The length of a leg with the database.
fn database_leg(options: &RunOptions) -> Duration {
    (options.duration() * DATABASE_LEG).max(SHORTEST_DATABASE_LEG)
}

//! The rows that ask whether `/refresh` is as quick among ten million tokens as among a thousand.

use std::fmt::Write as _;

use anyhow::Result;
use aws_lc_rs::digest::{SHA512, digest};

use super::service::{self, Service};
use super::{CONNECTIONS, database_leg};
use crate::load::{self, Content, Load};
use crate::options::RunOptions;
use crate::postgres::Postgres;
use crate::process::{self, LOAD_CORE};
use crate::progress::say;
use crate::report::Report;
use crate::rounds::{Leg, Row, Sample, group};
use crate::statistics::Budget;
use crate::{daemon, original};

const FEW: u64 = 1_000;
const MANY: u64 = 10_000_000;
/// So many of them are asked for, evenly spread.
const ASKED: u64 = 1_000;

const FILL: &str = include_str!("fill.py");

mod leg {
    pub(super) const FEW: &str = "refresh, 1,000 rows";
    pub(super) const MANY: &str = "refresh, 10,000,000 rows";
}

/// Measures the wanted rows.
pub(super) fn run(options: &RunOptions, report: &mut Report) -> Result<()> {
    if options.wants("issuer-flat-sqlite") {
        let [few, many] = [(FEW, "few"), (MANY, "many")];
        let few = on_sqlite(options, few.0, few.1)?;
        let many = on_sqlite(options, many.0, many.1)?;
        compare("issuer-flat-sqlite", "SQLite", &few, &many, options, report)?;
    }
    if options.wants("issuer-flat-postgres") {
        let names = ["few", "many"];
        let postgres = Postgres::start(&options.folder, &names)?;
        let few = on_postgres(options, &postgres, FEW, "few")?;
        let many = on_postgres(options, &postgres, MANY, "many")?;
        compare("issuer-flat-postgres", "PostgreSQL", &few, &many, options, report)?;
        // Whoever uses the server ends before it.
        drop((few, many));
    }
    Ok(())
}

fn compare(
    id: &'static str,
    database: &str,
    few: &Service,
    many: &Service,
    options: &RunOptions,
    report: &mut Report,
) -> Result<()> {
    // A tenth may be the longer way down the index; reading through the table would be a thousandth.
    let budget = Some(Budget::AtLeast(0.9));
    let title = format!("/refresh among 10 million rows of {database}, against 1,000");
    let rows = vec![Row::ratio(id, title, leg::MANY, leg::FEW, budget)];
    let leg = |name, service: &'_ Service| {
        let (url, id, body) = (service.url("refresh"), service.id(), service.body("refresh"));
        let duration = database_leg(options);
        let measure = move || {
            let loaded = load::measure(Load {
                url: &url,
                content: body.as_deref().map_or(Content::None, Content::Bodies),
                server: id,
                duration,
                connections: CONNECTIONS,
                probe: None,
            })?;
            Ok(Sample { server: None, ..loaded.sample })
        };
        Leg { name, measure: Box::new(measure) }
    };
    group("flat", vec![leg(leg::FEW, few), leg(leg::MANY, many)], rows, options, report)
}

/// A daemon whose database has so many tokens.
fn on_sqlite(options: &RunOptions, rows: u64, name: &str) -> Result<Service> {
    let name = format!("sqlite-{name}");
    // Its first start makes the tables and the key; the file is filled while nobody has it open.
    drop(Service::ours(options, &name, None)?);
    say(&format!("making {rows} rows in SQLite"));
    let mut fill = process::pinned(LOAD_CORE, original::path(options.python()?)?);
    fill.args(["-c", FILL]).arg(daemon::sqlite(&service::home(options, &name)));
    process::output(fill.arg(rows.to_string()))?;
    ask_for_some(Service::ours(options, &name, None)?, rows)
}

fn on_postgres(
    options: &RunOptions,
    postgres: &Postgres,
    rows: u64,
    name: &str,
) -> Result<Service> {
    let url = postgres.url("postgres", name);
    let service = Service::ours(options, &format!("postgres-{name}"), Some(&url))?;
    say(&format!("making {rows} rows in PostgreSQL"));
    let indexes =
        "FROM pg_indexes WHERE tablename = 'refresh_tokens' AND indexname NOT LIKE '%_pkey'";
    let definitions = postgres.psql(name, &format!("SELECT indexdef {indexes}"))?;
    let mut sql =
        postgres.psql(name, &format!("SELECT 'DROP INDEX ' || indexname || ';' {indexes}"))?;
    // As fill.py.
    write!(
        sql,
        "SET maintenance_work_mem = '512MB'; \
         INSERT INTO refresh_tokens (token, key_id, created, expires_at) \
         SELECT 'h1$' || encode(sha256(encode(sha512(n::text::bytea), 'hex')::bytea), 'hex'), \
         (SELECT min(id) FROM keys), '2026-01-01', '2099-01-01' FROM generate_series(0, {}) n;",
        rows - 1
    )?;
    definitions.lines().for_each(|definition| sql.extend([definition, ";"]));
    postgres.psql(name, &sql)?;
    // As it would by and by: statistics, and the bits that spare a look at each row's visibility.
    postgres.psql(name, "VACUUM ANALYZE refresh_tokens")?;
    postgres.psql(name, "CHECKPOINT")?;
    ask_for_some(service, rows)
}

fn ask_for_some(service: Service, rows: u64) -> Result<Service> {
    let tokens = (0..ASKED).map(|place| token(place * (rows / ASKED)));
    service::replace_refresh(&service, tokens)?;
    Ok(service)
}

/// The token of a row, as fill.py makes it.
fn token(row: u64) -> String {
    let digest = digest(&SHA512, row.to_string().as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

//! `bench`: measures side by side in one run, prints ratios with their quartiles, and says which budget is missed.
//!
//! `scripts/bench.sh` calls it. A suite ([`module`], [`issuer`], …) names its legs and rows; [`rounds`] measures them
//! interleaved, [`statistics`] judges, [`report`] prints. Another suite adds a module like these and an entry
//! in [`SUITES`].
#![forbid(unsafe_code)]

mod callgrind;
mod conditions;
mod daemon;
mod haproxy;
mod http;
mod issuer;
mod keys;
mod load;
mod module;
mod needs;
mod nginx;
mod options;
mod original;
mod postgres;
mod process;
mod progress;
mod report;
mod rounds;
mod statistics;
mod tunnel;
mod verify;

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use crate::conditions::Conditions;
use crate::needs::Need;
use crate::options::{Command, Options, RunOptions, Selection};
use crate::progress::say;
use crate::report::Report;

/// A subject.
struct Suite {
    name: &'static str,
    /// The ids of all its rows.
    ids: &'static [&'static str],
    /// What a row needs.
    needs: fn(&str) -> &'static [Need],
    /// What its numbers were made with.
    setup: fn() -> String,
    /// Measures the wanted rows, of which there is one, and adds them to the report.
    run: fn(&RunOptions, &mut Report) -> Result<()>,
}

const SUITES: [Suite; 3] = [
    Suite {
        name: "module",
        ids: module::IDS,
        needs: module::needs,
        setup: module::setup,
        run: module::run,
    },
    Suite {
        name: "issuer",
        ids: issuer::IDS,
        needs: issuer::needs,
        setup: issuer::setup,
        run: issuer::run,
    },
    Suite {
        name: "tunnel",
        ids: tunnel::IDS,
        needs: tunnel::needs,
        setup: tunnel::setup,
        run: tunnel::run,
    },
];

fn main() -> ExitCode {
    let outcome = match Options::parse().command {
        Command::Run(options) => run(&options),
        Command::Verify { folder, name, duration } => {
            verify::print(&folder, &name, duration).map(|()| ExitCode::SUCCESS)
        }
        Command::Sign { duration } => verify::print_signing(duration).map(|()| ExitCode::SUCCESS),
        Command::Load(options) => load::print(&options).map(|()| ExitCode::SUCCESS),
        Command::Tunnel { part } => part.play().map(|()| ExitCode::SUCCESS),
        Command::Needs(selection) => selection.check(&ids()).map(|()| {
            needs(&selection).iter().for_each(|need| report::line(need.name()));
            ExitCode::SUCCESS
        }),
        Command::Rows => {
            for id in ids() {
                let remark =
                    if options::is_long(id) { "  (minutes: LONG=1, or the whole id)" } else { "" };
                report::line(&format!("{id}{remark}"));
            }
            Ok(ExitCode::SUCCESS)
        }
    };
    outcome.unwrap_or_else(|error| {
        say(&format!("bench: {error:#}"));
        ExitCode::from(2)
    })
}

fn ids() -> Vec<&'static str> {
    SUITES.iter().flat_map(|suite| suite.ids).copied().collect()
}

fn needs(selection: &Selection) -> BTreeSet<Need> {
    let wanted = |suite: &Suite| {
        suite
            .ids
            .iter()
            .filter(|id| selection.wants(id))
            .map(|id| (suite.needs)(id))
            .collect::<Vec<_>>()
    };
    SUITES.iter().flat_map(wanted).flatten().copied().collect()
}

fn run(options: &RunOptions) -> Result<ExitCode> {
    options.selection.check(&ids())?;
    let suites: Vec<&Suite> = SUITES.iter().filter(|suite| options.wants_any(suite.ids)).collect();
    let setups: Vec<_> = suites.iter().map(|suite| (suite.name, (suite.setup)())).collect();
    let needs = needs(&options.selection);
    let mut report = Report::new(Conditions::look(options, &needs, &setups)?);
    for suite in suites {
        say(&format!("suite {}", suite.name));
        (suite.run)(options, &mut report)?;
    }
    report.finish();
    report.print();
    report.write(&options.json)?;
    say(&format!("the same as JSON: {}", options.json.display()));
    Ok(if options.strict && !report.is_good() { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

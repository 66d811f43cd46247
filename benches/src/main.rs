//! `bench`: measures side by side in one run, prints ratios with their quartiles, and says which budget is missed.
//!
//! `scripts/bench.sh` calls it. A suite ([`module`] is the first) names its legs and rows; [`rounds`] measures them
//! interleaved, [`statistics`] judges, [`report`] prints. Another suite adds a module like [`module`] and a line
//! in [`SUITES`].
#![forbid(unsafe_code)]

mod callgrind;
mod conditions;
mod haproxy;
mod http;
mod keys;
mod load;
mod module;
mod nginx;
mod options;
mod process;
mod progress;
mod report;
mod rounds;
mod statistics;
mod verify;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use crate::conditions::Conditions;
use crate::options::{Command, Options, RunOptions};
use crate::progress::say;
use crate::report::Report;

/// One function for each subject; it adds its rows to the report.
type Suite = fn(&RunOptions, &mut Report) -> Result<()>;

const SUITES: [(&str, Suite); 1] = [("module", module::run)];

fn main() -> ExitCode {
    let outcome = match Options::parse().command {
        Command::Run(options) => run(&options),
        Command::Verify { folder, name, duration } => {
            verify::print(&folder, &name, duration).map(|()| ExitCode::SUCCESS)
        }
        Command::Load(options) => load::print(&options).map(|()| ExitCode::SUCCESS),
        Command::Rows => {
            module::IDS.iter().for_each(|id| report::line(id));
            Ok(ExitCode::SUCCESS)
        }
    };
    outcome.unwrap_or_else(|error| {
        say(&format!("bench: {error:#}"));
        ExitCode::from(2)
    })
}

fn run(options: &RunOptions) -> Result<ExitCode> {
    options.check(module::IDS)?;
    let mut report = Report::new(Conditions::look(options)?);
    for (name, suite) in SUITES {
        say(&format!("suite {name}"));
        suite(options, &mut report)?;
    }
    report.finish();
    report.print();
    report.write(&options.json)?;
    say(&format!("the same as JSON: {}", options.json.display()));
    Ok(if options.strict && !report.is_good() { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

//! The command line. `scripts/bench.sh` makes it from the variables of `make bench`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand};

use crate::load::LoadOptions;

/// Side-by-side benchmarks.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Measure, print a table, write JSON.
    Run(RunOptions),
    /// Print the ids that `--only` takes.
    Rows,
    /// Make the load of one leg and print what came of it; `run` calls this, pinned to a core of its own.
    #[command(hide = true)]
    Load(LoadOptions),
    /// Print the nanoseconds of one bare signature check; `run` calls this, pinned to the server's core.
    #[command(hide = true)]
    Verify {
        folder: PathBuf,
        name: String,
        #[arg(value_parser = seconds)]
        duration: Duration,
    },
}

#[derive(Debug, Args)]
pub(crate) struct RunOptions {
    /// An empty folder that nginx's worker user can enter; the caller removes it.
    #[arg(long)]
    pub(crate) folder: PathBuf,
    /// The module, as `make module` leaves it.
    #[arg(long)]
    pub(crate) module: PathBuf,
    /// Where the results go as JSON.
    #[arg(long)]
    pub(crate) json: PathBuf,
    /// Where the profiles of the instruction counts go.
    #[arg(long)]
    pub(crate) profiles: PathBuf,
    /// Only these rows, separated by commas: an id (`cached`) or a part of ids (`rs256`, `haproxy`).
    #[arg(long, value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// Three short pairs: for trying the benchmark out, no result.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Exit with 1 when a budget is missed or undecided.
    #[arg(long)]
    pub(crate) strict: bool,
    /// Interleaved pairs for each ratio.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(3..))]
    pub(crate) pairs: u32,
    /// Seconds of each leg.
    #[arg(long, default_value = "1", value_parser = seconds)]
    pub(crate) leg: Duration,
}

impl RunOptions {
    /// How many interleaved rounds.
    pub(crate) fn rounds(&self) -> u32 {
        if self.quick { 3 } else { self.pairs }
    }

    /// The length of a leg.
    pub(crate) fn duration(&self) -> Duration {
        if self.quick { Duration::from_millis(500) } else { self.leg }
    }

    /// Whether the row is to be measured: its id, or one of the id's parts between hyphens, is asked for.
    pub(crate) fn wants(&self, id: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|word| names(word, id))
    }

    /// Refuses words that name no row, which would measure nothing and look like success.
    pub(crate) fn check(&self, ids: &[&str]) -> Result<()> {
        for word in &self.only {
            if !ids.iter().any(|id| names(word, id)) {
                bail!("ONLY={word} names no row; there are: {}", ids.join(" "));
            }
        }
        Ok(())
    }
}

fn names(word: &str, id: &str) -> bool {
    word == id || id.split('-').any(|part| part == word)
}

/// Reads seconds, with a fraction if need be.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "seconds are expected".to_owned())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("a positive number of seconds is expected".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn a_word_names_whole_parts_of_an_id() {
        assert!(names("cached", "cached"));
        assert!(!names("cached", "uncached-rs256"));
        assert!(names("rs256", "uncached-rs256"));
        assert!(names("uncached-rs256", "uncached-rs256"));
        assert!(!names("rs", "uncached-rs256"));
    }
}

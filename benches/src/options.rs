//! The command line. `scripts/bench.sh` makes it from the variables of `make bench`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser, Subcommand};

use crate::issuer::LONG;
use crate::load::LoadOptions;
use crate::tunnel::Part;

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
    /// Print what the wanted rows need to have been built or installed, a word a line.
    Needs(Selection),
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
    /// Play a part of the rows of the tunnels; `run` calls this.
    #[command(hide = true)]
    Tunnel {
        #[command(subcommand)]
        part: Part,
    },
    /// Print the nanoseconds of one bare RSA-2048 signature; as `verify`.
    #[command(hide = true)]
    Sign {
        #[arg(value_parser = seconds)]
        duration: Duration,
    },
}

/// Which rows.
#[derive(Debug, Args)]
pub(crate) struct Selection {
    /// Only these rows, separated by commas: an id (`cached`) or a part of ids (`rs256`, `haproxy`).
    #[arg(long, value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// Also the rows that take minutes each. Without it such a row needs its whole id.
    #[arg(long)]
    pub(crate) long: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RunOptions {
    /// An empty folder that nginx's worker user can enter; the caller removes it.
    #[arg(long)]
    pub(crate) folder: PathBuf,
    /// The folder where `make build` leaves the module, the daemon and the command line.
    #[arg(long)]
    pub(crate) build: PathBuf,
    /// The interpreter with the original programs: `scripts/python-peers.sh`.
    #[arg(long)]
    pub(crate) python: Option<PathBuf>,
    /// The program, which `scripts/bench.sh` builds.
    #[arg(long)]
    pub(crate) rathole: Option<PathBuf>,
    /// Where the results go as JSON.
    #[arg(long)]
    pub(crate) json: PathBuf,
    /// Where the profiles of the instruction counts go.
    #[arg(long)]
    pub(crate) profiles: PathBuf,
    #[command(flatten)]
    pub(crate) selection: Selection,
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

    /// `jwtunneld`.
    pub(crate) fn daemon(&self) -> PathBuf {
        self.build.join("jwtunneld")
    }

    /// The interpreter with the original programs.
    pub(crate) fn python(&self) -> Result<&Path> {
        self.python.as_deref().context("these rows need --python")
    }

    /// The program.
    pub(crate) fn rathole(&self) -> Result<&Path> {
        self.rathole.as_deref().context("these rows need --rathole")
    }

    /// Whether the row is to be measured.
    pub(crate) fn wants(&self, id: &str) -> bool {
        self.selection.wants(id)
    }

    /// Whether any of the rows is.
    pub(crate) fn wants_any(&self, ids: &[&str]) -> bool {
        ids.iter().any(|id| self.wants(id))
    }
}

impl Selection {
    /// Whether the row is to be measured: its id, or one of the id's parts between hyphens, is asked for.
    pub(crate) fn wants(&self, id: &str) -> bool {
        let named = self.only.is_empty() || self.only.iter().any(|word| names(word, id));
        named && (self.long || !is_long(id) || self.only.iter().any(|word| word == id))
    }

    /// Refuses words that name no row, which would measure nothing and look like success.
    pub(crate) fn check(&self, ids: &[&str]) -> Result<()> {
        for word in &self.only {
            if !ids.iter().any(|id| names(word, id)) {
                bail!("ONLY={word} names no row; there are: {}", ids.join(" "));
            }
        }
        if !ids.iter().any(|id| self.wants(id)) {
            bail!("ONLY={} names only long rows: LONG=1, or their whole ids", self.only.join(","));
        }
        Ok(())
    }
}

/// Whether the row takes minutes.
pub(crate) fn is_long(id: &str) -> bool {
    LONG.contains(&id)
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
    use super::{Selection, names};

    fn selection(only: &[&str], long: bool) -> Selection {
        Selection { only: only.iter().map(|word| (*word).to_owned()).collect(), long }
    }

    #[test]
    fn a_long_row_needs_its_whole_id_or_long() {
        let id = "issuer-flat-sqlite";
        assert!(!selection(&[], false).wants(id));
        assert!(!selection(&["issuer"], false).wants(id));
        assert!(selection(&["issuer"], true).wants(id));
        assert!(selection(&[], true).wants(id));
        assert!(selection(&[id], false).wants(id));
        assert!(selection(&["issuer"], false).wants("issuer-jwks"));
    }

    #[test]
    fn a_selection_of_nothing_is_refused() {
        let ids = ["issuer-jwks", "issuer-flat-sqlite"];
        assert!(selection(&["jwks"], false).check(&ids).is_ok());
        for (only, remedy) in [("typo", "there are: issuer-jwks"), ("flat", "LONG=1")] {
            let error = selection(&[only], false).check(&ids).unwrap_err().to_string();
            assert!(error.contains(remedy), "{error}");
        }
    }

    #[test]
    fn a_word_names_whole_parts_of_an_id() {
        assert!(names("cached", "cached"));
        assert!(!names("cached", "uncached-rs256"));
        assert!(names("rs256", "uncached-rs256"));
        assert!(names("uncached-rs256", "uncached-rs256"));
        assert!(!names("rs", "uncached-rs256"));
    }
}

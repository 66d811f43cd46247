//! What rows need to have been built or installed. `scripts/bench.sh` asks for it, so that only that is made.

use std::path::PathBuf;

use crate::options::RunOptions;
use crate::{haproxy, nginx};

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    Nginx,
    Module,
    Haproxy,
    Valgrind,
    Daemon,
    Python,
    Postgres,
    Rathole,
}

impl Need {
    /// As `scripts/bench.sh` knows it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Module => "module",
            Self::Haproxy => "haproxy",
            Self::Valgrind => "valgrind",
            Self::Daemon => "daemon",
            Self::Python => "python",
            Self::Postgres => "postgres",
            Self::Rathole => "rathole",
        }
    }

    /// What tells its version, with the argument for it.
    pub(crate) fn program(self, options: &RunOptions) -> Option<(PathBuf, &'static str)> {
        Some(match self {
            Self::Module => return None,
            Self::Nginx => (nginx::PROGRAM.into(), "-v"),
            Self::Haproxy => (haproxy::PROGRAM.into(), "-v"),
            Self::Valgrind => ("valgrind".into(), "--version"),
            Self::Daemon => (options.daemon(), "--version"),
            Self::Python => (options.python().ok()?.to_owned(), "--version"),
            Self::Postgres => ("psql".into(), "--version"),
            Self::Rathole => (options.rathole().ok()?.to_owned(), "--version"),
        })
    }
}

//! The load generator: wrk with one thread, on a core of its own, over kept-alive connections.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::process::{self, LOAD_CORE};
use crate::rounds::Sample;

const SCRIPT: &str = include_str!("wrk.lua");

/// Enough that the server always has work, few enough that it does not measure cache misses of connections.
pub(crate) const CONNECTIONS: u32 = 32;

/// wrk with its script in a folder.
#[derive(Debug)]
pub(crate) struct Wrk {
    script: PathBuf,
}

/// What a leg asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load<'a> {
    pub(crate) url: &'a str,
    /// A file with one token a line, sent in turn; `None`: requests without a token.
    pub(crate) tokens: Option<&'a Path>,
    /// The process that answers.
    pub(crate) server: u32,
    pub(crate) duration: Duration,
}

impl Wrk {
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        let script = folder.join("wrk.lua");
        fs::write(&script, SCRIPT)?;
        Ok(Self { script })
    }

    /// Makes the load, and compares what it got with what the server used for it.
    pub(crate) fn run(&self, load: Load<'_>) -> Result<Sample> {
        let mut command = process::pinned(LOAD_CORE, "wrk");
        command
            .args(["--threads", "1", "--timeout", "10s"])
            .args(["--connections", &CONNECTIONS.to_string()])
            .args(["--duration", &format!("{}s", load.duration.as_secs())])
            .arg("--script")
            .arg(&self.script)
            .arg(load.url);
        if let Some(tokens) = load.tokens {
            command.arg("--").arg(tokens);
        }
        let before = process::cpu(load.server)?;
        let output = process::output(&mut command)?;
        let used = process::cpu(load.server)? - before;
        let result = Summary::parse(&output)
            .with_context(|| format!("wrk printed no result for {}:\n{output}", load.url))?;
        // A refusal is cheaper than an answer: a leg with one measures something else.
        if result.refused > 0.0 || result.failed > 0.0 || result.requests < 1.0 {
            bail!(
                "{}: of {} answers {} had a status of 400 or more, and {} connections failed",
                load.url,
                result.requests,
                result.refused,
                result.failed
            );
        }
        Ok(Sample {
            rate: result.requests / result.seconds,
            cpu_per_operation: used / result.requests,
            server: used / result.seconds,
            generator: result.cpu / result.seconds,
        })
    }
}

struct Summary {
    requests: f64,
    seconds: f64,
    refused: f64,
    failed: f64,
    /// Seconds of wrk's own CPU.
    cpu: f64,
}

impl Summary {
    /// Reads the line that the script's `done` writes.
    fn parse(output: &str) -> Option<Self> {
        let line = output.lines().find_map(|line| line.strip_prefix("BENCH "))?;
        let numbers: Vec<f64> = line.split(' ').map(str::parse).collect::<Result<_, _>>().ok()?;
        let [requests, microseconds, refused, failed, cpu] = numbers[..] else { return None };
        Some(Self { requests, seconds: microseconds / 1e6, refused, failed, cpu })
    }
}

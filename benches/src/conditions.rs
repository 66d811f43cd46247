//! Under what a measurement was made. A ratio without it can't be repeated.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::needs::Need;
use crate::options::RunOptions;
use crate::process::{self, LOAD_CORE, SERVER_CORE};
use crate::progress::say;

/// What is known before the run, and the load average after it.
#[derive(Debug)]
pub(crate) struct Conditions {
    entries: Vec<(&'static str, String)>,
    pub(crate) quick: bool,
}

impl Conditions {
    /// Collects them.
    ///
    /// # Errors
    /// If the machine or its programs do not allow to measure; the text names the remedy.
    pub(crate) fn look(
        options: &RunOptions,
        needs: &BTreeSet<Need>,
        setups: &[(&'static str, String)],
    ) -> Result<Self> {
        let cores = std::thread::available_parallelism()?;
        if cores.get() < 2 {
            bail!(
                "two cores are needed, one for the server and one for the load; there is {cores}"
            );
        }
        let mut versions = Vec::new();
        for need in needs {
            let Some((program, argument)) = need.program(options) else { continue };
            match version(Command::new(&program).arg(argument)) {
                Some(line) => versions.push((need.name(), line)),
                None => bail!("{} can't be run: scripts/packages.sh bench", program.display()),
            }
        }
        let load = load_average();
        if load.split(' ').next().and_then(|one| one.parse().ok()).is_some_and(|one: f64| one > 0.5)
        {
            say(&format!(
                "others use this machine (load average {load}): the quartiles will be wide"
            ));
        }
        let commit = first_line(Command::new("git").args(["describe", "--always", "--dirty"]))
            .unwrap_or_else(|| "unknown".to_owned());
        let mut entries = vec![
            ("date", first_line(Command::new("date").args(["-u", "+%FT%TZ"])).unwrap_or_default()),
            ("commit", commit),
            ("cpu", format!("{}, {cores} cores", cpu_model())),
            ("kernel", read("/proc/sys/kernel/osrelease")),
            ("congestion control", read("/proc/sys/net/ipv4/tcp_congestion_control")),
        ];
        entries.extend(versions);
        entries.push((
            "set-up",
            format!(
                "server on core {SERVER_CORE}, load generator on core {LOAD_CORE} (tunnels: neither is bound), loopback, no TLS"
            ),
        ));
        entries.extend_from_slice(setups);
        entries.push((
            "pairs",
            format!(
                "{} rounds, legs of {} s, priority (nice) {}",
                options.rounds(),
                options.duration().as_secs_f64(),
                process::own_priority()
                    .map_or_else(|| "unknown".to_owned(), |nice| nice.to_string())
            ),
        ));
        entries.push(("load average before", load));
        Ok(Self { entries, quick: options.quick })
    }

    /// Adds what only the end of the run tells.
    pub(crate) fn finish(&mut self) {
        self.entries.push(("load average after (with the run's own two)", load_average()));
    }

    pub(crate) fn entries(&self) -> &[(&'static str, String)] {
        &self.entries
    }

    pub(crate) fn to_json(&self) -> Value {
        let entries = self.entries.iter().map(|(name, value)| ((*name).to_owned(), json!(value)));
        Value::Object(entries.collect())
    }
}

/// What a program says of its version: the first line, unless another is called that.
fn version(command: &mut Command) -> Option<String> {
    let text = printed(command)?;
    let named = text.lines().find_map(|line| line.split_once("Build Version:"));
    let line = named.map_or_else(|| text.lines().next(), |(_, version)| Some(version));
    Some(line?.trim().to_owned())
}

/// The first line that a program prints, wherever it prints it.
fn first_line(command: &mut Command) -> Option<String> {
    Some(printed(command)?.lines().next()?.trim().to_owned())
}

fn printed(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    Some(String::from_utf8_lossy(&text).into_owned())
}

fn load_average() -> String {
    read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn cpu_model() -> String {
    read("/proc/cpuinfo")
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or_else(|| "unknown".to_owned(), |(_, model)| model.to_owned())
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

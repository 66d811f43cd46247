//! Instructions per request, by valgrind's callgrind: they do not depend on what else the machine does.
//!
//! valgrind shows programs an older processor, without AVX-512 and some other extensions: the library behind the
//! signatures takes other code than in the timed rows there. Instructions in the kernel are not counted.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::http::Connection;
use crate::nginx::{Kind, Nginx, Running};
use crate::process::{self, SERVER_CORE};

/// So many warm everything up and are in both runs.
const BASE: u32 = 200;
/// So many more are in the second run; the difference of both, by these, is a request without the start.
const COUNTED: u32 = 1000;

/// Counts the instructions of one request to what `url` chooses, and leaves the profile of the longer run in
/// `profiles`.
pub(crate) fn instructions(
    nginx: &Nginx<'_>,
    kind: Kind,
    name: &str,
    url: impl Fn(&Running) -> String,
    token: &Path,
    profiles: &Path,
) -> Result<f64> {
    let token = fs::read_to_string(token)?;
    let mut totals = [0.0; 2];
    for (total, requests) in totals.iter_mut().zip([BASE, BASE + COUNTED]) {
        // The longer run's profile stays.
        let profile = profiles.join(format!("{name}.callgrind"));
        let mut command = process::pinned(SERVER_CORE, "valgrind");
        command.args(["--quiet", "--tool=callgrind", "--dump-instr=no"]);
        command.arg(format!("--callgrind-out-file={}", profile.display()));
        let running = nginx.start_under(kind, &format!("callgrind-{name}"), command)?;
        let mut connection = Connection::open(&url(&running), Some(token.trim_end()))?;
        for _ in 0..requests {
            let (status, _) = connection.ask()?;
            ensure!(status == 200, "{name}: status {status}, error log:\n{}", running.errors());
        }
        drop(connection);
        running.stop()?;
        *total = read_total(&profile)?;
    }
    Ok((totals[1] - totals[0]) / f64::from(COUNTED))
}

fn read_total(profile: &Path) -> Result<f64> {
    let text = fs::read_to_string(profile)
        .with_context(|| format!("callgrind left no {}", profile.display()))?;
    text.lines()
        .rev()
        .find_map(|line| line.strip_prefix("totals: ")?.trim().parse().ok())
        .with_context(|| format!("{} has no line `totals:`", profile.display()))
}

//! `jwtunnel keys prune`.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use axum::http::StatusCode;
use serde_json::json;

use super::Connection;
use super::server::Server;
use crate::cli::UsageError;
use crate::config::parse_duration;

pub(super) const EXAMPLES: &str = "\
Examples:
  jwtunnel keys prune --dry-run                  how many keys expired more than 30 days ago?
  jwtunnel keys prune --older-than 90d --yes     delete without a question, as from a timer
  jwtunnel keys prune --revoked                  those that were revoked, too

Each deleted key is a line of the daemon's log, with its fingerprint. The keys are deleted in small transactions:
an interruption leaves some of them, and the same command goes on.

Exit codes: 0 deleted, or nothing to delete; 1 a fault, or the answer was no; 2 a mistake in the arguments.";

#[derive(Debug, clap::Args)]
pub(super) struct Prune {
    #[command(flatten)]
    connection: Connection,

    /// How long ago a key must have expired, or been revoked: 12h, 30d.
    #[arg(long, value_name = "DURATION", default_value = "30d", value_parser = parse_duration)]
    older_than: Duration,

    /// Delete revoked keys, too. They could be registered again then.
    #[arg(long)]
    revoked: bool,

    /// Also in a database that a JWThenticator uses.
    #[arg(long)]
    shared: bool,

    /// Only tell how many keys would be deleted.
    #[arg(long)]
    dry_run: bool,

    /// Do not ask.
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
}

pub(super) async fn run(args: Prune) -> anyhow::Result<ExitCode> {
    let server = args.connection.server()?;
    let is_asked = !args.dry_run && !args.yes;
    if is_asked && !io::stdin().is_terminal() {
        let text = "keys prune: there is no terminal to ask on; --yes deletes without a question, --dry-run \
                    only tells how many keys would be deleted";
        return Err(UsageError(text.into()).into());
    }
    if is_asked {
        let keys = args.send(&server, true).await?;
        if keys > 0 && !confirmed(keys)? {
            let _ = writeln!(io::stderr(), "jwtunnel: nothing was deleted");
            return Ok(ExitCode::FAILURE);
        }
    }
    let keys = args.send(&server, args.dry_run).await?;
    let mut out = io::stdout();
    if args.connection.json() {
        writeln!(out, "{}", json!({"keys": keys, "dry_run": args.dry_run}))?;
    } else if args.dry_run {
        writeln!(out, "keys that would be deleted: {keys}")?;
    } else {
        writeln!(out, "keys deleted: {keys}")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn confirmed(keys: u64) -> io::Result<bool> {
    let mut err = io::stderr();
    write!(err, "Delete {keys} keys and their refresh tokens, for good? [y/N] ")?;
    err.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

impl Prune {
    /// Part by part, until nothing is left; how many keys it was.
    async fn send(&self, server: &Server, dry_run: bool) -> anyhow::Result<u64> {
        let (mut keys, mut after) = (0, 0);
        loop {
            let body = json!({
                "older_than": self.older_than.as_secs(),
                "revoked": self.revoked,
                "shared": self.shared,
                "dry_run": dry_run,
                "after": after,
            });
            let answer = server.post("/prune_keys", &body).await?;
            answer.expect(StatusCode::OK)?;
            keys += answer.body()["keys"].as_u64().unwrap_or_default();
            match answer.body()["next"].as_i64() {
                Some(next) if next > after => after = next,
                _ => return Ok(keys),
            }
        }
    }
}

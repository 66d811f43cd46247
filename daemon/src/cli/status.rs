//! `jwtunnel status`: what the daemon's tunnels do at the moment, and how it stands with other issuers' keys.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;

use axum::http::StatusCode;
use serde_json::Value;

use super::keys::{Connection, untrusted_message};
use crate::clock::Clock;

/// Show what the daemon's tunnels do, and when the keys of other issuers were fetched.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  jwtunnel status
  jwtunnel status --json | jq '.static_tunnels[] | select(.state != \"online\")'

Exit codes: 0 shown, 1 a fault, 2 a mistake in the arguments, 3 shown, and a static tunnel is not online, or
the keys of another issuer could not be fetched the last time.")]
pub struct Args {
    #[command(flatten)]
    connection: Connection,
}

/// Exit code for monitoring: it was shown, and something is not as it should be.
const DEGRADED: u8 = 3;

/// Asks the daemon and prints.
///
/// # Errors
/// When the daemon cannot be reached or answers something else.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let answer = args.connection.server()?.get("/status").await?;
    answer.expect(StatusCode::OK)?;
    let status = answer.body();
    let text = if args.connection.json() { format!("{status}\n") } else { describe(status) };
    io::stdout().write_all(text.as_bytes())?;
    let offline = items(&status["static_tunnels"]).any(|tunnel| tunnel["state"] != "online");
    let stale = items(&status["remote_keys"]).any(|remote| !remote["error"].is_null());
    Ok(if offline || stale { ExitCode::from(DEGRADED) } else { ExitCode::SUCCESS })
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn describe(status: &Value) -> String {
    let mut text = String::new();
    for (title, key) in [("tunnels", "netunnel"), ("on the internal listener", "operator")] {
        let part = &status[key];
        if key == "operator" && part["channels"] == 0 {
            continue;
        }
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "{title}: {} channels, {} tunnels, {} websockets; {}",
            part["channels"],
            part["tunnels"],
            part["websockets"],
            carried(part)
        );
        for identity in items(&part["identities"]) {
            let name = identity["identifier"].as_str().unwrap_or_default();
            let _ = writeln!(
                text,
                "  {}: {} channels, {} tunnels; {}",
                untrusted_message(name),
                identity["channels"],
                identity["tunnels"],
                carried(identity)
            );
        }
    }
    for tunnel in items(&status["static_tunnels"]) {
        let show = |key: &str| untrusted_message(tunnel[key].as_str().unwrap_or_default());
        let _ = write!(
            text,
            "static tunnel {}/{}: {} -> {}: {}",
            show("peer"),
            tunnel["id"],
            show("entrance"),
            show("exit"),
            show("state")
        );
        let _ = match tunnel["reason"].as_str() {
            Some(_) => writeln!(text, " ({})", show("reason")),
            None => writeln!(text),
        };
    }
    let now = Clock::system().unix_now();
    for remote in items(&status["remote_keys"]) {
        let show = |key: &str| untrusted_message(remote[key].as_str().unwrap_or_default());
        let fetched = match remote["last_success"].as_i64() {
            Some(then) => format!("fetched {} s ago", (now - then).max(0)),
            None => "not fetched since the start".to_owned(),
        };
        let next = match remote["next_fetch"].as_i64() {
            Some(then) => format!("again in {} s", (then - now).max(0)),
            None => "the first time now".to_owned(),
        };
        let _ = write!(
            text,
            "remote keys {}: {} keys in {}, {fetched}, {next}",
            show("name"),
            remote["keys"],
            show("file")
        );
        let _ = match remote["error"].as_str() {
            Some(_) => writeln!(text, " ({})", show("error")),
            None => writeln!(text),
        };
    }
    text
}

fn carried(part: &Value) -> String {
    let mut text = format!(
        "{} connections open, {} so far, {} not reached, {} bytes to clients, {} from them",
        part["open_connections"],
        part["connections"],
        part["unreached"],
        part["bytes_to_clients"],
        part["bytes_from_clients"]
    );
    // Absent in the answer of an older daemon.
    if part["datagrams_dropped"].as_u64().is_some_and(|dropped| dropped > 0) {
        let _ = write!(text, ", {} datagrams dropped", part["datagrams_dropped"]);
    }
    text
}

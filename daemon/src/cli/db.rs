//! `jwtunnel db`: what is done to the database itself, with no daemon in between.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use serde_json::json;

use super::usage_error;
use crate::config::{DatabaseUrl, Environment, Loaded, parse_database_url};
use crate::store;

/// Arguments of `jwtunnel db`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Store refresh tokens as digests only, in a database that JWThenticator made.
    ///
    /// Such a database is used as JWThenticator left it, with refresh tokens in the clear, so that its
    /// service can go on using it. When that is switched off for good, this makes a copy, replaces every
    /// refresh token by its digest, and has new ones stored so. Clients notice nothing; a JWThenticator
    /// on the database refuses their refresh tokens from then on. Daemons may be running meanwhile.
    #[command(after_help = "\
Examples:
  jwtunnel db harden                                       the database of /etc/jwtunnel/jwtunneld.toml
  jwtunnel db harden --database-url sqlite:///srv/jwt.db   copies to /srv/jwt.db.before-harden first
  jwtunnel db harden --copy /root/tokens.copy

Back again: stop the daemons and put the copy in place of the file; for PostgreSQL, in one transaction,
  DELETE FROM refresh_tokens; \\copy refresh_tokens FROM 'refresh_tokens.before-harden'
  UPDATE jwtunnel_settings SET value = 'clear' WHERE name = 'refresh_tokens';
The copy is as good as the tokens in it: remove it when it is not needed any more.")]
    Harden(Harden),
}

#[derive(Debug, clap::Args)]
struct Harden {
    /// The daemon's configuration, which names the database [default: /etc/jwtunnel/jwtunneld.toml].
    #[arg(short, long, value_name = "FILE", conflicts_with = "database_url")]
    config: Option<PathBuf>,

    /// The database itself, as the setting database_url has it.
    #[arg(long, value_name = "URL", value_parser = parse_database_url)]
    database_url: Option<DatabaseUrl>,

    /// Where the copy goes [default: beside the SQLite file; refresh_tokens.before-harden].
    #[arg(long, value_name = "FILE")]
    copy: Option<PathBuf>,

    /// Print one JSON object instead of lines.
    #[arg(long)]
    json: bool,
}

/// Runs `jwtunnel db …`.
///
/// # Errors
/// When the database does not do what it was asked.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Command::Harden(args) = args.command;
    let url = match args.database_url {
        Some(url) => url,
        None => {
            let environment: Environment = std::env::vars().collect();
            match Loaded::read(args.config.as_deref(), &environment) {
                Ok(loaded) => loaded.config.jwthenticator.database_url,
                Err(error) => return Ok(usage_error(&error.to_string())),
            }
        }
    };
    let mut out = io::stdout();
    match store::harden(&url, args.copy.as_deref()).await? {
        Some(done) if args.json => {
            writeln!(out, "{}", json!({"hashed": done.hashed, "copy": done.copy}))?;
        }
        None if args.json => writeln!(out, "{}", json!({"hashed": 0, "copy": null}))?,
        Some(done) => {
            let (hashed, copy) = (done.hashed, done.copy.display());
            writeln!(out, "{hashed} refresh tokens of {url} are stored as digests now")?;
            writeln!(out, "as they were: {copy}; remove it when it is not needed any more")?;
        }
        None => writeln!(out, "the refresh tokens of {url} are stored as digests already")?,
    }
    Ok(ExitCode::SUCCESS)
}

//! The command line `jwtunnel`: one module for each subcommand.
//!
//! A subcommand has `Args` and `run`. Errors that `run` returns end the program with 1; a mistake in
//! the arguments ends it with 2, as clap's own do.

pub mod connect;
pub mod db;
pub mod keygen;
pub mod keys;
pub mod status;
pub mod token;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use uuid::Uuid;

/// Administers jwtunneld, makes and checks tokens, and opens tunnels.
#[derive(Debug, Parser)]
#[command(
    name = "jwtunnel",
    version,
    propagate_version = true,
    after_help = "\
Examples:
  jwtunnel keys register --generate              a new key for a client, printed once
  jwtunnel token decode < token.txt              look into a token
  jwtunnel connect -s https://gw.example/netunnel --key-file key.txt --remote-port 80
  jwtunnel completions bash > /etc/bash_completion.d/jwtunnel

Each subcommand has examples of its own: jwtunnel SUBCOMMAND --help"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Register, show, revoke and delete clients' keys, and rotate the signing key.
    Keys(keys::Args),
    /// Make, decode and verify tokens, offline; revoke them.
    Token(token::Args),
    /// Make a signing key and the JWKS that verifies it.
    Keygen(keygen::Args),
    /// Look after the database.
    Db(db::Args),
    /// Open tunnels through a NETunnel server.
    Connect(Box<connect::Args>),
    /// Show what the daemon's tunnels do.
    Status(status::Args),
    /// Print a completion script for a shell.
    #[command(after_help = "\
Examples:
  jwtunnel completions bash > /etc/bash_completion.d/jwtunnel
  jwtunnel completions zsh > \"${fpath[1]}/_jwtunnel\"
  jwtunnel completions fish > ~/.config/fish/completions/jwtunnel.fish")]
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Print the manual page, in roff.
    #[command(after_help = "Example:\n  jwtunnel man > /usr/share/man/man1/jwtunnel.1")]
    Man,
}

/// Exit code: done, and something is left to do, which was printed.
const LEFT_TO_DO: u8 = 3;

/// A mistake in the arguments, or in a file that they name: with its place, its value, and what is expected.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct UsageError(String);

/// Runs the subcommand that the arguments name.
///
/// # Errors
/// What the subcommand reports; a fault, no mistake in the arguments.
pub async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    dispatch(cli).await.or_else(|error| match error.downcast::<UsageError>() {
        Ok(error) => Ok(usage_error(&error.0)),
        Err(error) => Err(error),
    })
}

async fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Keys(args) => keys::run(args).await,
        Command::Token(args) => token::run(args).await,
        Command::Keygen(args) => keygen::run(args).await,
        Command::Db(args) => db::run(args).await,
        Command::Connect(args) => connect::run(*args).await,
        Command::Status(args) => status::run(args).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "jwtunnel", &mut script);
            print(&script)
        }
        Command::Man => {
            let mut page = Vec::new();
            manual(Cli::command(), &mut page)?;
            print(&page)
        }
    }
}

/// The page of the program, then one section for each subcommand.
fn manual(command: clap::Command, page: &mut Vec<u8>) -> io::Result<()> {
    let mut command = command;
    command.build();
    clap_mangen::Man::new(command.clone()).render(page)?;
    for subcommand in command.get_subcommands().filter(|c| c.get_name() != "help") {
        manual(subcommand.clone(), page)?;
    }
    Ok(())
}

fn print(bytes: &[u8]) -> anyhow::Result<ExitCode> {
    io::stdout().write_all(bytes)?;
    Ok(ExitCode::SUCCESS)
}

/// A UUID that is an argument, in any usual form.
fn parse_uuid(text: &str) -> Result<Uuid, String> {
    Uuid::try_parse(text).map_err(|_| {
        "expected a UUID such as 7d2b0d0c-8d7e-4a51-9f0c-3f1f8f3f4f11; keys list shows those that are known"
            .to_owned()
    })
}

/// Reports a mistake in the arguments.
fn usage_error(text: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "jwtunnel: {text}");
    ExitCode::from(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subcommand_has_help_and_the_definitions_are_consistent() {
        Cli::command().debug_assert();
        let mut page = Vec::new();
        manual(Cli::command(), &mut page).unwrap();
        let page = String::from_utf8(page).unwrap();
        assert!(page.contains("register"), "{page}");
    }
}

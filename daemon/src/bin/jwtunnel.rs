//! `jwtunnel`: the command line, around [`jwtunnel::cli`].
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;
use jwtunnel::cli::{self, Cli};

#[tokio::main]
async fn main() -> ExitCode {
    match cli::run(Cli::parse()).await {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "jwtunnel: {error:#}");
            ExitCode::FAILURE
        }
    }
}

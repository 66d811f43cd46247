//! `jwtunneld`: arguments, logging and signals around [`jwtunnel::run`].
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::panic;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use jwtunnel::config::{Environment, Loaded, unsearchable_parent};
use jwtunnel::logging::{self, LogFormat};
use jwtunnel::shutdown;
use jwtunnel::sockets::Sockets;
use tracing::{error, info, warn};

/// Issues JSON Web Tokens for registered keys, publishes the keys to verify them, and carries TCP
/// tunnels behind them.
#[derive(Parser)]
#[command(
    version,
    after_help = "\
Examples:
  jwtunneld                                      everything under ./jwtunnel-data, on loopback
  jwtunneld --config /etc/jwtunnel/jwtunneld.toml
  jwtunneld --check --config jwtunneld.toml      look for mistakes, print what holds, and exit
  JWTUNNEL_KEYS_ALGORITHM=ES256 jwtunneld        any setting as JWTUNNEL_<SECTION>_<KEY>

Signals: SIGTERM and SIGINT stop after open requests and tunnels have ended (at most
[netunnel] drain_timeout); SIGHUP writes the JWKS file anew and fetches the keys of other
issuers. Settings are read at start.

Exit codes: 0 stopped as asked, 1 a fault, 2 a mistake in the configuration or the arguments."
)]
struct Args {
    /// The configuration file. Without this, /etc/jwtunnel/jwtunneld.toml if it exists.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Check the configuration, print the effective values (secrets hidden), and exit.
    #[arg(long)]
    check: bool,

    /// How to write the log [default: text on a terminal, else json].
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let environment: Environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let loaded = match Loaded::read(args.config.as_deref(), &environment) {
        Ok(loaded) => loaded,
        Err(error) => {
            complain(&error.to_string());
            return ExitCode::from(2);
        }
    };
    if args.check {
        return check(&loaded);
    }
    logging::start(args.log_format.unwrap_or_else(LogFormat::detect));
    panic::set_hook(Box::new(|info| {
        // Only the place: a message may repeat what a client sent.
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        error!(event = "panic", outcome = "error", place);
    }));
    match serve(loaded) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(event = "exit", outcome = "error", error = %format!("{error:#}"));
            match error.downcast_ref::<jwtunnel::RunError>() {
                Some(error) if error.is_configuration() => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn serve(loaded: Loaded) -> anyhow::Result<()> {
    match &loaded.file {
        Some(file) => info!(event = "configuration", file = %file.display()),
        None => {
            info!(event = "configuration", file = "none", data = jwtunnel::config::DEFAULT_DATA)
        }
    }
    for note in &loaded.notes {
        info!(event = "variable", name = note.name, effect = note.effect);
    }
    for warning in &loaded.warnings {
        warn!(event = "configuration", outcome = "warning", reason = warning.as_str());
    }
    let sockets = Sockets::from_environment;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async move {
        let shutdown = shutdown::requested()?;
        jwtunnel::run(loaded.config, sockets()?, async {
            let signal = shutdown.await;
            info!(event = "signal", signal);
        })
        .await?;
        Ok(())
    })
}

fn check(loaded: &Loaded) -> ExitCode {
    let mut text = String::new();
    let mut last = None;
    for setting in &loaded.effective {
        let place = (&setting.section, setting.table);
        if last.replace(place) != Some(place) {
            text.push_str(&match place {
                (section, None) => format!("[{section}]\n"),
                (section, Some(_)) => format!("[[{section}]]\n"),
            });
        }
        let line = format!("{} = {}", setting.key, setting.value);
        text.push_str(&format!("{line:<60} # {}\n", setting.place));
    }
    for note in &loaded.notes {
        text.push_str(&format!("# variable {} {}\n", note.name, note.effect));
    }
    for warning in &loaded.warnings {
        text.push_str(&format!("# warning: {warning}\n"));
    }
    // Nothing is left to tell if standard output is closed.
    let _ = std::io::stdout().write_all(text.as_bytes());
    if let Err(error) = jwtunnel::tunnel::Settings::from_config(&loaded.config.netunnel) {
        complain(&error.to_string());
        return ExitCode::from(2);
    }
    if let Err(error) = jwtunnel::remote::check(&loaded.config.jwks.remotes) {
        complain(&error.to_string());
        return ExitCode::from(2);
    }
    let mut code = ExitCode::SUCCESS;
    for file in loaded.config.jwks.files() {
        let shown = file.display();
        let problem = match unsearchable_parent(file) {
            Ok(None) => continue,
            Ok(Some((folder, mode))) => format!(
                "[jwks] file = {shown}: nginx's workers cannot search {} (mode {mode:04o}); run `chmod \
                 o+x {}`, or move the file",
                folder.display(),
                folder.display()
            ),
            Err(error) => format!("[jwks] file = {shown}: cannot look at its folders: {error}"),
        };
        complain(&problem);
        code = ExitCode::from(2);
    }
    code
}

fn complain(text: &str) {
    for line in text.lines() {
        let _ = writeln!(std::io::stderr(), "jwtunneld: {line}");
    }
}

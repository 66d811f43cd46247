//! `jwtunnel connect`: one tunnel, with the flags of NETunnel's client and its lines on standard output.
//!
//! The tunnel itself is [`crate::tunnel::client`]'s work; here are arguments, credentials, signals and the
//! decision to try again.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::sleep;
use tracing_subscriber::EnvFilter;
use uuid::Uuid;

use super::usage_error;
use crate::secret::Secret;
use crate::shutdown;
use crate::tunnel::ControlEnd;
use crate::tunnel::client::{
    Client, ClientError, Connector, Credentials, Entrance, Trust, random_up_to,
};

/// Longest pause before the first try after a channel was lost: all clients of a server lose theirs at once.
const FIRST_PAUSE: Duration = Duration::from_secs(10);

/// Longest pause before each further try.
const PAUSE: Duration = Duration::from_secs(30);

/// Open a tunnel through a NETunnel server.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  jwtunnel connect -s https://gw.example/netunnel --key-file key.txt --local-port 8080 --remote-port 80
      port 8080 here leads to port 80 of the server
  jwtunnel connect -s https://gw.example/netunnel --key-file key.txt -r --local-port 22 --remote-port 2222
      port 2222 of the server leads to port 22 here

The tunnel stays until SIGINT or SIGTERM. If the server goes away, the local port stays bound and the
tunnel comes back with it.

Exit codes: 0 ended by a signal, 1 a fault, 2 a mistake in the arguments.")]
pub struct Args {
    /// URL of the server, with its path if it has one.
    #[arg(short, long, value_name = "URL", default_value = "http://127.0.0.1:4040")]
    server: String,

    /// Local address: where to listen, or with -r where to connect to.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    local_address: String,

    /// Local port. Without it a free one is chosen; with -r it is needed.
    #[arg(long, value_name = "PORT")]
    local_port: Option<u16>,

    /// Remote address: where the server connects to, or with -r where it listens.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    remote_address: String,

    /// Remote port. With -r, 0 lets the server choose.
    #[arg(long, value_name = "PORT", default_value_t = 22)]
    remote_port: u16,

    /// The other way round: listen on the server, connect here.
    #[arg(short, long)]
    reverse: bool,

    /// File with a registered key, which JWThenticator exchanges for tokens; - is standard input.
    #[arg(long, value_name = "FILE", env = "JWTUNNEL_KEY_FILE", conflicts_with = "token_file")]
    key_file: Option<PathBuf>,

    /// Identifier that the key is registered for; the nil UUID lets the server take the registered one.
    #[arg(long, value_name = "UUID", default_value_t = Uuid::nil())]
    identifier: Uuid,

    /// Where JWThenticator is: a path on the server's host, or a URL.
    #[arg(long, value_name = "URI", env = "JWTHENTICATOR_URI", default_value = "/jwthenticator")]
    auth_uri: String,

    /// File with a ready token instead of a key. It is read at each use, so it may be replaced.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// PEM file of certificate authorities to believe instead of the system's.
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    ca: Option<PathBuf>,

    /// Believe any certificate of the server. For tests only.
    #[arg(long, alias = "no-ssl-validate")]
    insecure: bool,

    /// Log what happens, on standard error.
    #[arg(short, long)]
    debug: bool,
}

/// Opens the tunnel and keeps it open until a signal.
///
/// # Errors
/// [`ClientError`] if the first try fails, or a later one for good.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    start_logging(args.debug);
    if args.reverse && args.local_port.is_none() {
        return Ok(usage_error("--local-port is required for reverse tunnel"));
    }
    if !args.reverse && args.remote_port == 0 {
        return Ok(usage_error("--remote-port 0 is only possible with --reverse"));
    }
    let credentials = match (&args.key_file, &args.token_file) {
        (Some(file), _) => match read_key(file) {
            Ok(key) => Credentials::key(key, args.identifier, args.auth_uri.clone()),
            Err(text) => return Ok(usage_error(&text)),
        },
        (None, Some(file)) => Credentials::token_file(file.clone()),
        (None, None) => Credentials::none(),
    };
    if args.insecure {
        say(&format!(
            "warning: --insecure: whoever is between here and {} can read and change everything, the \
             credentials included",
            args.server
        ));
    }
    let trust = Trust { ca_file: args.ca.clone(), insecure: args.insecure, ..Trust::default() };
    let connector = match Connector::new(&args.server, &trust, credentials) {
        Ok(connector) => connector,
        Err(error) => return Ok(usage_error(&error.to_string())),
    };
    let stopped = shutdown::requested()?;
    let mut tunnel = Tunnel::new(args, connector);
    tokio::select! {
        _ = stopped => {
            tunnel.close().await;
            Ok(ExitCode::SUCCESS)
        }
        error = tunnel.keep_open() => Err(error.into()),
    }
}

/// The tunnel that is asked for, over one channel after the other.
struct Tunnel {
    args: Args,
    connector: Connector,
    /// Bound once: what connects while the channel is away waits.
    entrance: Option<Entrance>,
    client: Option<Client>,
    /// The port that the server chose at first, asked for again later.
    remote_port: u16,
}

impl Tunnel {
    fn new(args: Args, connector: Connector) -> Self {
        let remote_port = args.remote_port;
        Self { args, connector, entrance: None, client: None, remote_port }
    }

    /// Returns only with an error that ends the program.
    async fn keep_open(&mut self) -> ClientError {
        let mut end = match self.open().await {
            Ok(end) => end,
            Err(error) => return error,
        };
        loop {
            let mut pause = random_up_to(FIRST_PAUSE);
            say(&format!(
                "lost the channel to {} ({end}); connecting again in {:.1} s",
                self.connector.server(),
                pause.as_secs_f32()
            ));
            loop {
                sleep(pause).await;
                match self.open().await {
                    Ok(next) => {
                        end = next;
                        break;
                    }
                    Err(error) if error.is_final() => return error,
                    Err(error) => {
                        pause = random_up_to(PAUSE);
                        say(&format!("{error}; trying again in {:.1} s", pause.as_secs_f32()));
                    }
                }
            }
        }
    }

    /// Opens channel and tunnel; returns when the channel has ended.
    async fn open(&mut self) -> Result<ControlEnd, ClientError> {
        let again = self.client.take().is_some();
        let client = self.client.insert(self.connector.connect().await?).clone();
        let made = if self.args.reverse {
            self.open_reverse(&client, again).await
        } else {
            self.open_forward(&client, again).await
        };
        if let Err(error) = made {
            client.close().await;
            return Err(error);
        }
        if again {
            say(&format!("the tunnel through {} is open again", self.connector.server()));
        }
        Ok(client.ended().await)
    }

    async fn open_forward(&mut self, client: &Client, again: bool) -> Result<(), ClientError> {
        let Args { remote_address, remote_port, .. } = &self.args;
        if !again {
            print("Opening tunnel to the server...");
        }
        let entrance = match &self.entrance {
            Some(entrance) => entrance.clone(),
            None => {
                let address = local(&self.args.local_address, self.args.local_port.unwrap_or(0));
                let address = address.await.map_err(|source| ClientError::Unreachable {
                    server: self.args.local_address.clone(),
                    source: source.into(),
                })?;
                self.entrance.insert(Entrance::bind(address).await?).clone()
            }
        };
        client.forward(&entrance, remote_address, *remote_port).await?;
        if !again {
            print(&format!("Tunnel entrance socket: {}", entrance.local_addr()));
            print(&format!("Tunnel exit socket: {remote_address}:{remote_port}"));
        }
        Ok(())
    }

    async fn open_reverse(&mut self, client: &Client, again: bool) -> Result<(), ClientError> {
        let Args { remote_address, local_address, local_port, .. } = &self.args;
        let local_port = local_port.unwrap_or_default();
        if !again {
            print("Opening tunnel to the client...");
        }
        let tunnel =
            client.reverse(remote_address, self.remote_port, local_address, local_port).await?;
        if let Some(entrance) = tunnel.entrance() {
            self.remote_port = entrance.port();
        }
        if !again {
            print(&format!("Tunnel entrance socket: {remote_address}:{}", self.remote_port));
            print(&format!("Tunnel exit socket: {local_address}:{local_port}"));
        }
        Ok(())
    }

    async fn close(&self) {
        if let Some(client) = &self.client {
            client.close().await;
        }
    }
}

/// The local address to listen on; a name means the first address that it has.
async fn local(host: &str, port: u16) -> io::Result<SocketAddr> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok((ip, port).into());
    }
    let none = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    lookup_host((host, port)).await?.next().ok_or_else(none)
}

fn read_key(file: &PathBuf) -> Result<Secret, String> {
    let mut text = String::new();
    let read = if file.as_os_str() == "-" {
        io::stdin().read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|mut file| file.read_to_string(&mut text))
    };
    read.map_err(|error| format!("--key-file {}: {error}", file.display()))?;
    let key = Secret::new(text.trim());
    zeroize::Zeroize::zeroize(&mut text);
    if key.expose().is_empty() {
        return Err(format!("--key-file {}: the file is empty", file.display()));
    }
    Ok(key)
}

fn start_logging(debug: bool) {
    let level = if debug { "jwtunnel=debug" } else { "jwtunnel=warn" };
    let filter = EnvFilter::try_from_env("JWTUNNEL_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let _ = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_env_filter(filter)
        .with_target(false)
        .without_time()
        .try_init();
}

/// A line of the original's on standard output. A reader that has gone is no reason to end the tunnel.
fn print(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

fn say(line: &str) {
    let _ = writeln!(io::stderr(), "jwtunnel: {line}");
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    /// The command lines of the original's README work unchanged.
    #[test]
    fn the_originals_flags_are_taken() {
        let line = "jwtunnel -s https://h/netunnel --local-address 127.0.0.1 --local-port 8080 \
                    --remote-address 10.0.0.1 --remote-port 80 --no-ssl-validate";
        let args = Line::parse_from(line.split_whitespace()).args;
        assert_eq!(args.server, "https://h/netunnel");
        assert_eq!((args.local_port, args.remote_port), (Some(8080), 80));
        assert!(args.insecure && !args.reverse);
        let args = Line::parse_from(["jwtunnel", "-r", "--local-port", "22"]).args;
        assert!(args.reverse);
        assert_eq!(args.server, "http://127.0.0.1:4040");
    }
}

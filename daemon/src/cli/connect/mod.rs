//! `jwtunnel connect`: tunnels, with the flags of NETunnel's client and its lines on standard output.
//!
//! The tunnels themselves are [`crate::tunnel::client`]'s work; here are arguments (`options`, `spec`), the decision to
//! try again (`keeper`), and what is shown (`line`).

mod keeper;
mod line;
mod options;
mod spec;

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use tracing_subscriber::EnvFilter;
use uuid::Uuid;

use super::{parse_uuid, usage_error};
use crate::shutdown;
use keeper::Keeper;
use options::Wanted;
use spec::Spec;

/// Open tunnels through a NETunnel server.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  jwtunnel connect -s https://gw.example/netunnel --key-file key.txt --local-port 8080 --remote-port 80
      port 8080 here leads to port 80 of the server
  jwtunnel connect -s https://gw.example/netunnel --key-file key.txt -r --local-port 22 --remote-port 2222
      port 2222 of the server leads to port 22 here
  jwtunnel connect -s https://gw.example/netunnel --key-file key.txt \\
      -L 8080:127.0.0.1:80 -L /run/db.sock:db.lan:5432 -R 2222:/run/sshd.sock
      several tunnels over one channel, UNIX sockets among them
  jwtunnel connect -s https://gw.example/netunnel --key-file key.txt -L 5353:10.0.0.2:53/udp
      datagrams to port 5353 here leave at the server for the name server there
  jwtunnel connect --config tunnels.toml --status

The file of --config is TOML and has the long flags as keys, with _ for - (server, key_file, identifier, auth_uri,
token_file, secret_file, ca, client_cert, client_key, insecure, proxy_url, proxy_username, proxy_password_file), and
two lists: forward = [\"8080:127.0.0.1:80\"], reverse = [\"2222:127.0.0.1:22\"]. The command line wins.

The tunnels stay until SIGINT or SIGTERM. If the server goes away, the local ports stay bound and the tunnels come
back with it. In a systemd unit, Type=notify waits until they are open.

Exit codes: 0 ended by a signal, 1 a fault, 2 a mistake in the arguments.")]
pub struct Args {
    /// URL of the server, with its path if it has one [default: http://127.0.0.1:4040].
    #[arg(short, long, value_name = "URL")]
    server: Option<String>,

    /// Settings and tunnels from a TOML file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// A tunnel to the server's side: PORT, ADDRESS:PORT or /SOCKET here, then HOST:PORT as the server sees it; with
    /// /udp at its end for datagrams. May be repeated.
    #[arg(short = 'L', long, value_name = "LISTEN:HOST:PORT", value_parser = spec::forward)]
    forward: Vec<Spec>,

    /// A tunnel from the server's side: PORT or ADDRESS:PORT there, then HOST:PORT or /SOCKET as seen from here; with
    /// /udp at its end for datagrams. May be repeated.
    #[arg(short = 'R', long = "reverse-tunnel", value_name = "LISTEN:TARGET", value_parser = spec::reverse)]
    reverse_tunnels: Vec<Spec>,

    /// Local address: where to listen, or with -r where to connect to.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    local_address: String,

    /// Local port. Without it a free one is chosen; with -r it is needed.
    #[arg(long, value_name = "PORT")]
    local_port: Option<u16>,

    /// Remote address: where the server connects to, or with -r where it listens.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    remote_address: String,

    /// Remote port. With -r, 0 lets the server choose [default: 22].
    #[arg(long, value_name = "PORT")]
    remote_port: Option<u16>,

    /// The other way round: listen on the server, connect here.
    #[arg(short, long)]
    reverse: bool,

    /// File with a registered key, which JWThenticator exchanges for tokens; - is standard input.
    #[arg(long, value_name = "FILE", env = "JWTUNNEL_KEY_FILE", group = "credentials")]
    key_file: Option<PathBuf>,

    /// Identifier that the key is registered for; without it the server takes the registered one.
    #[arg(long, value_name = "UUID", value_parser = parse_uuid)]
    identifier: Option<Uuid>,

    /// Where JWThenticator is: a path on the server's host, or a URL [default: /jwthenticator].
    #[arg(long, value_name = "URI", env = "JWTHENTICATOR_URI")]
    auth_uri: Option<String>,

    /// File with a ready token instead of a key. It is read at each use, so it may be replaced.
    #[arg(long, value_name = "FILE", group = "credentials")]
    token_file: Option<PathBuf>,

    /// File with the secret of a server that has one; - is standard input.
    #[arg(long, value_name = "FILE", group = "credentials")]
    secret_file: Option<PathBuf>,

    /// NETunnel's plugin; JWThenticator's and the sample one are built in, others cannot be loaded.
    #[arg(long, value_name = "NAME", requires = "auth_data", hide = true)]
    auth_plugin: Option<String>,

    /// The data of NETunnel's plugin, in JSON.
    #[arg(long, value_name = "JSON", hide = true, conflicts_with = "credentials")]
    auth_data: Option<String>,

    /// PEM file of certificate authorities to believe instead of the system's.
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    ca: Option<PathBuf>,

    /// PEM file of our certificate, for servers that ask for one.
    #[arg(long, value_name = "FILE")]
    client_cert: Option<PathBuf>,

    /// PEM file of the private key of --client-cert.
    #[arg(long, value_name = "FILE")]
    client_key: Option<PathBuf>,

    /// Believe any certificate of the server. For tests only.
    #[arg(long, alias = "no-ssl-validate")]
    insecure: bool,

    /// HTTP proxy on the way to the server: http://HOST:PORT.
    #[arg(long, value_name = "URL")]
    proxy_url: Option<String>,

    /// User name for the proxy.
    #[arg(long, value_name = "NAME")]
    proxy_username: Option<String>,

    /// Password for the proxy. Other users of this machine can see it: better --proxy-password-file.
    #[arg(long, value_name = "PASSWORD", conflicts_with = "proxy_password_file")]
    proxy_password: Option<String>,

    /// File with the password for the proxy.
    #[arg(long, value_name = "FILE")]
    proxy_password_file: Option<PathBuf>,

    /// Show on a terminal what the tunnels carry.
    #[arg(long)]
    status: bool,

    /// Log what happens, on standard error.
    #[arg(short, long)]
    debug: bool,
}

/// Opens the tunnels and keeps them open until a signal.
///
/// # Errors
/// [`crate::tunnel::client::ClientError`] if the first try fails, or a later one for good.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    start_logging(args.debug);
    let wanted = match Wanted::read(&args).await {
        Ok(wanted) => wanted,
        Err(text) => return Ok(usage_error(&text)),
    };
    let stopped = shutdown::requested()?;
    let connector = wanted.connector.clone();
    let mut keeper = Keeper::new(wanted);
    let shown = async {
        if args.status {
            line::show(connector).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = stopped => {
            line::clear();
            keeper.close().await;
            Ok(ExitCode::SUCCESS)
        }
        error = keeper.keep_open() => {
            line::clear();
            // Its text has the causes already.
            Err(anyhow::Error::msg(error.to_string()))
        }
        () = shown => unreachable!("it never ends"),
    }
}

fn start_logging(debug: bool) {
    let level = if debug { "jwtunnel=debug" } else { "jwtunnel=warn" };
    let filter = EnvFilter::try_from_env("JWTUNNEL_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let _ = tracing_subscriber::fmt()
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .with_env_filter(filter)
        .with_target(false)
        .without_time()
        .try_init();
}

/// A line of the original's on standard output. A reader that has gone is no reason to end the tunnel.
fn print(line: &str) {
    line::clear();
    let _ = writeln!(io::stdout(), "{line}");
}

fn say(text: &str) {
    line::clear();
    let _ = writeln!(io::stderr(), "jwtunnel: {text}");
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

    fn parse(line: &str) -> Args {
        Line::parse_from(line.split_whitespace()).args
    }

    async fn read(line: &str) -> Result<Wanted, String> {
        Wanted::read(&parse(line)).await
    }

    /// The command lines of the original's README work unchanged.
    #[tokio::test]
    async fn the_originals_flags_are_taken() {
        let args = parse(
            "jwtunnel -s https://h/netunnel --local-address 127.0.0.1 --local-port 8080 --remote-address 10.0.0.1 \
             --remote-port 80 --no-ssl-validate --proxy-url http://p:1 --proxy-username u --proxy-password p",
        );
        assert_eq!(args.server.as_deref(), Some("https://h/netunnel"));
        assert_eq!((args.local_port, args.remote_port), (Some(8080), Some(80)));
        assert!(args.insecure && !args.reverse);
        assert_eq!(Wanted::read(&args).await.ok().unwrap().tunnels.len(), 1);
        assert!(parse("jwtunnel -r --local-port 22").reverse);
        let data = r#"jwtunnel --auth-plugin netunnel_jwthenticator.JWThenticatorAuthClient --auth-data {"key":"k"}"#;
        assert!(read(data).await.is_ok());
        let other = read(r#"jwtunnel --auth-plugin a.B --auth-data {"x":"k"}"#).await;
        assert!(other.err().unwrap().contains("--auth-plugin a.B"));
    }

    #[tokio::test]
    async fn mistakes_are_told_with_their_place() {
        let error = async |line: &str| read(line).await.err().unwrap();
        assert_eq!(error("jwtunnel -r").await, "--local-port is required for reverse tunnel");
        assert!(error("jwtunnel --client-cert a").await.contains("--client-key"));
        assert!(
            error("jwtunnel --key-file /nonexistent")
                .await
                .starts_with("--key-file /nonexistent: ")
        );
        for url in ["gw.example", "gw.example:443/x", "ftp://h", "http://", "//h"] {
            let text = error(&format!("jwtunnel -s {url}")).await;
            assert!(text.starts_with(&format!("--server {url}: expected http://HOST")), "{text}");
        }
        let ca = error("jwtunnel -s https://h --ca /nonexistent").await;
        assert!(ca.starts_with("--ca /nonexistent: ") && ca.contains("PEM"), "{ca}");
        let proxy = error("jwtunnel --proxy-url u:secret@p").await;
        assert!(
            proxy.starts_with("--proxy-url: ") && proxy.contains("http://HOST:PORT"),
            "{proxy}"
        );
        assert!(!proxy.contains("secret"), "{proxy}");
        assert!(
            error("jwtunnel --token-file /nonexistent")
                .await
                .starts_with("--token-file /nonexistent: ")
        );
        assert!(error("jwtunnel --key-file /dev/null").await.contains("the file is empty"));
        assert!(
            error("jwtunnel --auth-uri x:y").await.starts_with("--auth-uri x:y: expected a path")
        );
        assert!(error("jwtunnel --proxy-url http://p --proxy-username u").await.contains("both"));
        assert!(Line::try_parse_from(["jwtunnel", "-L", "1:2"]).is_err());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.toml");
        let with = async |text: &str| {
            std::fs::write(&path, text).unwrap();
            read(&format!("jwtunnel --config {}", path.display())).await
        };
        let wrong = with("server = \"http://h\"\nforwards = []\n").await.err().unwrap();
        let expected = "t.toml: line 2: `forwards = []`: unknown field `forwards`";
        assert!(wrong.contains(expected), "{wrong}");
        let wrong = with("insecure = true\nserver = 5\n").await.err().unwrap();
        assert!(
            wrong.ends_with("t.toml: line 2: `server = 5`: expected a text in quotes"),
            "{wrong}"
        );
        let wrong = with("identifier = \"x\"\n").await.err().unwrap();
        assert!(wrong.contains("line 1: `identifier = \"x\"`: expected a UUID such as"), "{wrong}");
        let wrong = with("server = \"h\"\n").await.err().unwrap();
        assert!(wrong.contains("t.toml: server = \"h\": expected http://HOST"), "{wrong}");
        let wrong = with("token_file = \"/nonexistent\"\n").await.err().unwrap();
        assert!(wrong.contains("t.toml: token_file = \"/nonexistent\": "), "{wrong}");
        let wrong = with("forward = [\"x\"]\n").await.err().unwrap();
        assert!(wrong.contains("forward \"x\": expected [ADDRESS:]PORT"), "{wrong}");
        let wanted = with("forward = [\"1:h:2\", \"/s:h:2\"]\nreverse = [\"0:/s\"]\n")
            .await
            .unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(wanted.tunnels.len(), 3);
    }
}

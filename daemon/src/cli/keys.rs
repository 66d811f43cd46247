//! `jwtunnel keys`: what an administrator does through the daemon's internal listener.

use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use aws_lc_rs::rand;
use axum::http::{Method, Request, StatusCode, header};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use clap::Subcommand;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use uuid::Uuid;

use super::usage_error;
use crate::logging::untrusted;
use crate::secret::Secret;

/// Longer than the daemon's own deadline for an answer.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Arguments of `jwtunnel keys`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Register a key, with which a client gets tokens from then on.
    ///
    /// Registering a key again extends its life; it keeps its first identifier.
    #[command(after_help = "\
Examples:
  jwtunnel keys register --generate
      make a key, register it, and print it with its identifier: the only time it is shown
  jwtunnel keys register --key-file client.key --identifier 7d2b0d0c-8d7e-4a51-9f0c-3f1f8f3f4f11
  pass show gateway/client | jwtunnel keys register --key-file -
  jwtunnel keys register --generate --json --server unix:/run/jwtunnel/internal.sock")]
    Register(Register),
    /// List the registered keys: what can be told without the keys themselves, which nobody keeps.
    #[command(after_help = "\
Examples:
  jwtunnel keys list
  jwtunnel keys list --identifier 7d2b0d0c-8d7e-4a51-9f0c-3f1f8f3f4f11
  jwtunnel keys list --json | jq '.keys[] | select(.state == \"expired\")'

The fingerprint is `key_fp` in the daemon's log; the key id is the claim `key` of its tokens, and what
`jwtunnel keys revoke --key-id` takes.")]
    List(List),
    /// Revoke registered keys, for good, with all their tokens.
    ///
    /// Their access tokens are refused within seconds, by the daemon and by every nginx that reads its
    /// revocation file; refresh tokens get nothing any more; tunnels are closed. A revoked key cannot be
    /// registered again.
    #[command(after_help = "\
Examples:
  jwtunnel keys revoke --key-file client.key
  jwtunnel keys revoke --key-id 0f3c…            the claim `key` of its tokens
  jwtunnel keys revoke --identifier 7d2b0d0c-8d7e-4a51-9f0c-3f1f8f3f4f11    every key of that client")]
    Revoke(Revoke),
    /// Announce a new signing key, which signs when every verifier can know it.
    ///
    /// The old key stays published until the last token that it signed has expired; no token becomes
    /// invalid, and nginx need not be reloaded. With --emergency the new key signs at once, and the old one
    /// is not published any more: whoever has stolen it can do nothing with it, and every client needs a new
    /// token, which it gets with its key or refresh token as usual.
    #[command(after_help = "\
Examples:
  jwtunnel keys rotate                sign with the new key after [keys] announce_for
  jwtunnel keys rotate --now          sign with it in ten seconds
  jwtunnel keys rotate --emergency    the present key has been stolen")]
    Rotate(Rotate),
}

/// Where the daemon's internal listener is, and how to print.
#[derive(Debug, clap::Args)]
pub(super) struct Connection {
    /// The daemon's internal listener: http://HOST:PORT or unix:/path.
    #[arg(
        long,
        value_name = "URL",
        env = "JWTUNNEL_INTERNAL",
        default_value = "http://127.0.0.1:5051"
    )]
    server: String,

    /// Print one JSON object instead of lines.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[group(id = "source", required = true, multiple = false, args = ["key_file", "generate", "key"])]
struct Register {
    #[command(flatten)]
    connection: Connection,

    /// The file that holds the key; `-` is standard input. One newline at its end is left out.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,

    /// Make a key of 256 random bits, and print it.
    #[arg(long)]
    generate: bool,

    /// The client that tokens for this key name [default: a random one, printed].
    #[arg(long, value_name = "UUID")]
    identifier: Option<Uuid>,

    /// Each refresh token of this key is used once, and its use after that revokes what came of it. For clients
    /// that take the next one from each answer; those of JWThenticator do not.
    #[arg(long)]
    rotate: bool,

    /// The key itself. Not recommended: other users of this machine can see the arguments of programs.
    #[arg(value_name = "KEY")]
    key: Option<String>,
}

#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    connection: Connection,

    /// Only the keys of this client.
    #[arg(long, value_name = "UUID")]
    identifier: Option<Uuid>,
}

#[derive(Debug, clap::Args)]
#[group(id = "selector", required = true, multiple = false, args = ["revoked_key_file", "key_id", "identifier"])]
struct Revoke {
    #[command(flatten)]
    connection: Connection,

    /// The file that holds the key; `-` is standard input. One newline at its end is left out.
    #[arg(id = "revoked_key_file", long = "key-file", value_name = "FILE")]
    key_file: Option<PathBuf>,

    /// The key's public name, which its tokens have as the claim `key`.
    #[arg(long, value_name = "ID")]
    key_id: Option<String>,

    /// Every key that was registered for this client, and all tokens that name it.
    #[arg(long, value_name = "UUID")]
    identifier: Option<Uuid>,
}

#[derive(Debug, clap::Args)]
struct Rotate {
    #[command(flatten)]
    connection: Connection,

    /// Announce for ten seconds only.
    #[arg(long, conflicts_with = "emergency")]
    now: bool,

    /// Sign with a new key at once, and drop the present one with all its tokens.
    #[arg(long)]
    emergency: bool,
}

/// Runs `jwtunnel keys …`.
///
/// # Errors
/// When the daemon cannot be reached or does not do what it was asked.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Register(args) => register(args).await,
        Command::List(args) => list(args).await,
        Command::Revoke(args) => revoke(args).await,
        Command::Rotate(args) => rotate(args).await,
    }
}

async fn register(args: Register) -> anyhow::Result<ExitCode> {
    let Some(server) = Server::parse(&args.connection.server) else {
        return Ok(usage_error(&bad_server(&args.connection.server)));
    };
    let key = if args.generate {
        generate()?
    } else if let Some(path) = &args.key_file {
        read_key(path)?
    } else {
        let _ = writeln!(
            io::stderr(),
            "jwtunnel: warning: other users of this machine can see a key that is an argument; \
             use --key-file"
        );
        Secret::new(args.key.unwrap_or_default())
    };
    if key.expose().is_empty() {
        return Ok(usage_error("the key is empty; everybody knows that one"));
    }
    let identifier = args.identifier.unwrap_or_else(Uuid::new_v4);
    let mut body = json!({"key": key.expose(), "identifier": identifier});
    if args.rotate {
        body["rotate"] = true.into();
    }
    let answer = server.post("/register_key", &body).await?;
    answer.expect(StatusCode::CREATED)?;
    // A key of the caller's own is not repeated: terminals and logs keep what they are shown.
    let shown = args.generate.then(|| key.expose());
    let mut out = io::stdout();
    if args.connection.json {
        let mut object = json!({"identifier": identifier});
        if let Some(key) = shown {
            object["key"] = key.into();
        }
        writeln!(out, "{object}")?;
    } else {
        writeln!(out, "identifier: {identifier}")?;
        if let Some(key) = shown {
            writeln!(out, "key: {key}")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(args: List) -> anyhow::Result<ExitCode> {
    let Some(server) = Server::parse(&args.connection.server) else {
        return Ok(usage_error(&bad_server(&args.connection.server)));
    };
    let mut out = io::BufWriter::new(io::stdout());
    let mut all = Vec::new();
    let mut after = 0;
    if !args.connection.json {
        writeln!(
            out,
            "{}",
            line("KEY ID", "IDENTIFIER", "FINGERPRINT", "REFRESH", "EXPIRES", "STATE")
        )?;
    }
    loop {
        let mut body = json!({"after": after});
        if let Some(identifier) = args.identifier {
            body["identifier"] = json!(identifier);
        }
        let answer = server.post("/list_keys", &body).await?;
        answer.expect(StatusCode::OK)?;
        for key in answer.body["keys"].as_array().into_iter().flatten() {
            if args.connection.json {
                all.push(key.clone());
                continue;
            }
            let text = |name: &str| untrusted(key[name].as_str().unwrap_or("-"));
            let refresh = if key["rotates"] == true { "rotate" } else { "sticky" };
            let expires = date(key["expires_at"].as_i64().unwrap_or_default());
            let (id, identifier) = (text("key_id"), text("identifier"));
            let fields = (text("fingerprint"), text("state"));
            writeln!(out, "{}", line(&id, &identifier, &fields.0, refresh, &expires, &fields.1))?;
        }
        match answer.body["next"].as_i64() {
            Some(next) if next > after => after = next,
            _ => break,
        }
    }
    if args.connection.json {
        writeln!(out, "{}", json!({"keys": all}))?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// One line of the table; the widths are those of the longest values.
fn line(id: &str, identifier: &str, fp: &str, refresh: &str, expires: &str, state: &str) -> String {
    format!("{id:<32}  {identifier:<36}  {fp:<12}  {refresh:<7}  {expires:<16}  {state}")
}

fn date(unix: i64) -> String {
    let format = time::macros::format_description!("[year]-[month]-[day] [hour]:[minute]");
    let time = time::OffsetDateTime::from_unix_timestamp(unix).ok();
    time.and_then(|time| time.format(format).ok()).unwrap_or_else(|| "-".into())
}

async fn revoke(args: Revoke) -> anyhow::Result<ExitCode> {
    let body = match (&args.key_file, &args.key_id, args.identifier) {
        (Some(path), _, _) => json!({"key": read_key(path)?.expose()}),
        (None, Some(id), _) => json!({"key_id": id}),
        (None, None, identifier) => json!({"identifier": identifier}),
    };
    send_revocation(&args.connection, "/revoke_key", &body, "no such key is registered").await
}

/// Asks the daemon to revoke something, and tells what became of it. `nothing` is the error if there was
/// nothing to revoke.
pub(super) async fn send_revocation(
    connection: &Connection,
    path: &str,
    body: &Value,
    nothing: &str,
) -> anyhow::Result<ExitCode> {
    let Some(server) = Server::parse(&connection.server) else {
        return Ok(usage_error(&bad_server(&connection.server)));
    };
    let answer = server.post(path, body).await?;
    answer.expect(StatusCode::OK)?;
    if answer.body["result"] != true {
        bail!("{nothing}");
    }
    let revoked = &answer.body["revoked"];
    let mut out = io::stdout();
    if connection.json {
        writeln!(out, "{}", json!({"revoked": revoked}))?;
    } else if path == "/revoke_key" {
        writeln!(out, "keys revoked: {revoked}")?;
    } else {
        writeln!(out, "revoked")?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn rotate(args: Rotate) -> anyhow::Result<ExitCode> {
    let Some(server) = Server::parse(&args.connection.server) else {
        return Ok(usage_error(&bad_server(&args.connection.server)));
    };
    let body = json!({"now": args.now, "emergency": args.emergency});
    let answer = server.post("/rotate_signing_key", &body).await?;
    answer.expect(StatusCode::OK)?;
    let (kid, signs_in) = (&answer.body["kid"], &answer.body["signs_in"]);
    let mut out = io::stdout();
    if args.connection.json {
        let dropped = &answer.body["dropped"];
        writeln!(out, "{}", json!({"kid": kid, "signs_in": signs_in, "dropped": dropped}))?;
    } else if args.emergency {
        let kid = kid.as_str().unwrap_or_default();
        writeln!(out, "the key {kid} signs; dropped with all their tokens:")?;
        for kid in answer.body["dropped"].as_array().into_iter().flatten() {
            writeln!(out, "  {}", untrusted(kid.as_str().unwrap_or_default()))?;
        }
    } else {
        let kid = kid.as_str().unwrap_or_default();
        writeln!(out, "the key {kid} is published and signs in {signs_in} s")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn generate() -> anyhow::Result<Secret> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).map_err(|_| anyhow::anyhow!("the system gives no random bytes"))?;
    Ok(Secret::new(URL_SAFE_NO_PAD.encode(bytes)))
}

fn read_key(path: &PathBuf) -> anyhow::Result<Secret> {
    let mut text = String::new();
    if path.as_os_str() == "-" {
        io::stdin().read_to_string(&mut text).context("cannot read the key from standard input")?;
    } else {
        text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the key from {}", path.display()))?;
    }
    let key = text.strip_suffix('\n').unwrap_or(&text);
    let key = Secret::new(key.strip_suffix('\r').unwrap_or(key));
    drop(Secret::new(text));
    Ok(key)
}

fn bad_server(text: &str) -> String {
    format!("--server {}: expected http://HOST:PORT or unix:/path", untrusted(text))
}

impl Connection {
    /// # Errors
    /// What `--server` should be.
    pub(super) fn server(&self) -> Result<Server, String> {
        Server::parse(&self.server).ok_or_else(|| bad_server(&self.server))
    }

    pub(super) fn json(&self) -> bool {
        self.json
    }
}

/// Where the daemon's internal routes are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Server {
    /// Authority, and the prefix of the paths.
    Tcp(String, String),
    Unix(PathBuf),
}

pub(super) struct Answer {
    status: StatusCode,
    body: Value,
}

impl Server {
    fn parse(text: &str) -> Option<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            return path.starts_with('/').then(|| Self::Unix(path.into()));
        }
        let rest = text.strip_prefix("http://")?;
        let (authority, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = authority.rsplit_once(':').unwrap_or((authority, "80"));
        if host.is_empty() || port.parse::<u16>().is_err() || host.contains('@') {
            return None;
        }
        let prefix = prefix.trim_end_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("/{prefix}") };
        Some(Self::Tcp(format!("{host}:{port}"), prefix))
    }

    fn name(&self) -> String {
        match self {
            Self::Tcp(authority, prefix) => format!("http://{authority}{prefix}"),
            Self::Unix(path) => format!("unix:{}", path.display()),
        }
    }

    async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        self.ask(Method::POST, path, body.to_string()).await
    }

    pub(super) async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.ask(Method::GET, path, String::new()).await
    }

    async fn ask(&self, method: Method, path: &str, body: String) -> anyhow::Result<Answer> {
        let exchange = async {
            match self {
                Self::Tcp(authority, prefix) => {
                    let stream = TcpStream::connect(authority).await?;
                    exchange(stream, method, authority, &format!("{prefix}{path}"), body).await
                }
                Self::Unix(socket) => {
                    let stream = UnixStream::connect(socket).await?;
                    exchange(stream, method, "localhost", path, body).await
                }
            }
        };
        match tokio::time::timeout(TIMEOUT, exchange).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(error.context(format!(
                "cannot talk to jwtunneld at {}; is it running, and is this its internal listener? \
                 Its log says so (`listening … internal`); choose another with --server or \
                 JWTUNNEL_INTERNAL",
                self.name()
            ))),
            Err(_) => bail!("jwtunneld at {} does not answer within 20 s", self.name()),
        }
    }
}

async fn exchange<S>(
    stream: S,
    method: Method,
    host: &str,
    path: &str,
    body: String,
) -> anyhow::Result<Answer>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, host)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONNECTION, "close")
        .body(Full::new(Bytes::from(body)))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    // Answers of the daemon are small; whatever else listens there shall not fill our memory.
    let bytes = Limited::new(response.into_body(), 1 << 20)
        .collect()
        .await
        .map_err(|error| anyhow::anyhow!("the answer cannot be read: {error}"))?
        .to_bytes();
    connection.abort();
    Ok(Answer { status, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) })
}

impl Answer {
    pub(super) fn body(&self) -> &Value {
        &self.body
    }

    pub(super) fn expect(&self, status: StatusCode) -> anyhow::Result<()> {
        if self.status == status {
            return Ok(());
        }
        let detail = match &self.body {
            Value::Object(fields) if !fields.is_empty() => match fields.get("message") {
                Some(Value::String(message)) => untrusted_message(message),
                _ => untrusted_message(&self.body.to_string()),
            },
            _ => String::new(),
        };
        match self.status {
            StatusCode::NOT_FOUND => bail!(
                "the listener has no such route: it is the public one, or DISABLE_INTERNAL_API is \
                 set; name the internal listener with --server"
            ),
            StatusCode::SERVICE_UNAVAILABLE => {
                bail!("jwtunneld cannot do this now (503); its log says why, try again")
            }
            status if detail.is_empty() => bail!("jwtunneld answered {status}"),
            status => bail!("jwtunneld answered {status}: {detail}"),
        }
    }
}

/// An answer's own words, without control characters, for a terminal.
pub(super) fn untrusted_message(text: &str) -> String {
    text.chars().take(400).flat_map(char::escape_debug).collect::<String>().replace("\\\"", "\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_a_url_or_a_socket() {
        let tcp = |authority: &str, prefix: &str| {
            Some(Server::Tcp(authority.to_owned(), prefix.to_owned()))
        };
        assert_eq!(Server::parse("http://127.0.0.1:5051"), tcp("127.0.0.1:5051", ""));
        assert_eq!(Server::parse("http://host/pre/"), tcp("host:80", "/pre"));
        assert_eq!(Server::parse("http://[::1]:1/"), tcp("[::1]:1", ""));
        assert_eq!(Server::parse("unix:/a"), Some(Server::Unix("/a".into())));
        for text in ["", "127.0.0.1:5051", "https://x", "http://", "http://x:y", "unix:a"] {
            assert_eq!(Server::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_key_file_loses_one_newline_only() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (text, key) in [("k", "k"), ("k\n", "k"), ("k\r\n", "k"), (" k \n\n", " k \n")] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(read_key(&file.path().to_path_buf()).unwrap().expose(), key);
        }
    }
}

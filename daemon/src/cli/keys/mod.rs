//! `jwtunnel keys`: what an administrator does through the daemon's internal listener.

mod import;
mod prune;
mod server;
mod show;

use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::bail;
use aws_lc_rs::rand;
use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Subcommand;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{LEFT_TO_DO, UsageError, parse_uuid};
use crate::logging::untrusted;
use crate::secret::Secret;

pub(super) use server::{Connection, untrusted_message};

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
    /// Show what can be told about a key, never the key: signing keys, or a client's registered ones.
    #[command(after_help = show::EXAMPLES)]
    Show(show::Show),
    /// Register many keys from a CSV file, for large fleets.
    ///
    /// The first line names the columns, in any order: `key`, `identifier` (a UUID: the client that tokens for
    /// the key name) and, if some of them shall use each refresh token once, `rotate` (true or false). Where
    /// the field key is empty a key is generated, and written to the file of --out, for its owner alone.
    ///
    /// The whole file is read and checked before anything is sent. A key that is registered for the same
    /// identifier already counts as done, so the same command goes on after an interruption; one that is
    /// registered for another is refused.
    #[command(after_help = import::EXAMPLES)]
    Import(import::Import),
    /// Delete registered keys that expired long ago, with their refresh tokens.
    ///
    /// An expired key stays as long as a refresh token of it is alive, with which its client goes on, unless
    /// [jwthenticator] refresh_requires_live_key is set. A deleted key is unknown: whoever has it can have it
    /// registered again, for any identifier. That is why revoked keys stay unless --revoked is given.
    ///
    /// In a database that a JWThenticator still uses, before `jwtunnel db harden`, nothing is deleted: rows may
    /// be its own. --shared deletes there too, whoever made the rows.
    #[command(after_help = prune::EXAMPLES)]
    Prune(prune::Prune),
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
  jwtunnel keys rotate --emergency    the present key has been stolen

Exit codes: 0 done, 1 a fault, nothing has changed, 2 a mistake in the arguments, 3 the emergency rotation holds,
and the commands that are printed are left to do.")]
    Rotate(Rotate),
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
    #[arg(long, value_name = "UUID", value_parser = parse_uuid)]
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
    #[arg(long, value_name = "UUID", value_parser = parse_uuid)]
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
    #[arg(long, value_name = "UUID", value_parser = parse_uuid)]
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
        Command::Show(args) => show::run(args).await,
        Command::Import(args) => import::run(args).await,
        Command::Prune(args) => prune::run(args).await,
        Command::Revoke(args) => revoke(args).await,
        Command::Rotate(args) => rotate(args).await,
    }
}

async fn register(args: Register) -> anyhow::Result<ExitCode> {
    let server = args.connection.server()?;
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
        return Err(UsageError("the key is empty; everybody knows that one".into()).into());
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
    if args.connection.json() {
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
    let server = args.connection.server()?;
    let mut out = io::BufWriter::new(io::stdout());
    let mut all = Vec::new();
    let mut after = 0;
    if !args.connection.json() {
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
        for key in answer.body()["keys"].as_array().into_iter().flatten() {
            if args.connection.json() {
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
        match answer.body()["next"].as_i64() {
            Some(next) if next > after => after = next,
            _ => break,
        }
    }
    if args.connection.json() {
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
    let server = connection.server()?;
    let answer = server.post(path, body).await?;
    answer.expect(StatusCode::OK)?;
    if answer.body()["result"] != true {
        bail!("{nothing}");
    }
    let revoked = &answer.body()["revoked"];
    let mut out = io::stdout();
    if connection.json() {
        writeln!(out, "{}", json!({"revoked": revoked}))?;
    } else if path == "/revoke_key" {
        writeln!(out, "keys revoked: {revoked}")?;
    } else {
        writeln!(out, "revoked")?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn rotate(args: Rotate) -> anyhow::Result<ExitCode> {
    let server = args.connection.server()?;
    let body = json!({"now": args.now, "emergency": args.emergency});
    let answer = server.post("/rotate_signing_key", &body).await?;
    answer.expect(StatusCode::OK)?;
    let body = answer.body();
    let (kid, signs_in) = (&body["kid"], &body["signs_in"]);
    let texts = |name: &str| -> Vec<String> {
        let items = body[name].as_array().into_iter().flatten();
        items.map(|item| untrusted(item.as_str().unwrap_or_default())).collect()
    };
    let tunnels_open = texts("tunnels_open");
    let mut out = io::stdout();
    if args.connection.json() {
        let (dropped, open) = (&body["dropped"], &body["tunnels_open"]);
        let object =
            json!({"kid": kid, "signs_in": signs_in, "dropped": dropped, "tunnels_open": open});
        writeln!(out, "{object}")?;
    } else if args.emergency {
        let kid = kid.as_str().unwrap_or_default();
        writeln!(out, "the key {kid} signs; dropped with all their tokens:")?;
        for kid in texts("dropped") {
            writeln!(out, "  {kid}")?;
        }
    } else {
        let kid = kid.as_str().unwrap_or_default();
        writeln!(out, "the key {kid} is published and signs in {signs_in} s")?;
    }
    if tunnels_open.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let mut err = io::stderr();
    writeln!(
        err,
        "jwtunnel: the rotation holds and must not be repeated; but tunnels that were opened with dropped keys' \
         tokens may still be open, as the revocation failed (jwtunneld's log says why). When that is mended:"
    )?;
    for kid in tunnels_open {
        writeln!(err, "  jwtunnel token revoke --kid {kid}")?;
    }
    Ok(ExitCode::from(LEFT_TO_DO))
}

fn generate() -> anyhow::Result<Secret> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).map_err(|_| anyhow::anyhow!("the system gives no random bytes"))?;
    Ok(Secret::new(URL_SAFE_NO_PAD.encode(bytes)))
}

/// Reads a key from a file, which is an argument.
fn read_key(path: &Path) -> Result<Secret, UsageError> {
    let mut text = String::new();
    if path.as_os_str() == "-" {
        io::stdin().read_to_string(&mut text).map_err(|error| {
            UsageError(format!("--key-file -: cannot read the key from standard input: {error}"))
        })?;
    } else {
        text = std::fs::read_to_string(path).map_err(|error| {
            UsageError(format!("--key-file {}: cannot read the key: {error}", path.display()))
        })?;
    }
    let key = text.strip_suffix('\n').unwrap_or(&text);
    let key = Secret::new(key.strip_suffix('\r').unwrap_or(key));
    drop(Secret::new(text));
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_loses_one_newline_only() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (text, key) in [("k", "k"), ("k\n", "k"), ("k\r\n", "k"), (" k \n\n", " k \n")] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(read_key(file.path()).unwrap().expose(), key);
        }
    }
}

//! `jwtunnel token`: mint, decode and verify tokens without a server; revoke them through it.

use std::fmt::Display;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jwt_core::{JwkSet, Policy};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::UsageError;
use crate::config::{SigningAlgorithm, parse_algorithm, parse_duration};
use crate::logging::untrusted;
use crate::signing_key::SigningKey;

/// Mints, decodes and verifies tokens, offline; revokes them.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Mint(MintArgs),
    Decode(DecodeArgs),
    Verify(VerifyArgs),
    Revoke(RevokeArgs),
}

/// Sign a token with a private key and print it
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  jwtunnel keygen --algorithm ES256 --out key.pem --jwks jwks.json\n  \
    jwtunnel token mint --key key.pem --algorithm ES256 --subject me --lifetime 5m\n\n\
    The token's kid is the one that keygen writes into the JWKS."
)]
struct MintArgs {
    /// The private key: a PEM file (PKCS#8, PKCS#1 or SEC 1)
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The signature algorithm, which must fit the key
    #[arg(long, value_name = "ALG", default_value = "RS256", value_parser = parse_algorithm)]
    algorithm: SigningAlgorithm,
    /// How long the token is valid from now: 30s, 5m, 12h, 30d
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = parse_duration)]
    lifetime: Duration,
    /// The claim sub
    #[arg(long, value_name = "TEXT")]
    subject: Option<String>,
    /// The claim iss
    #[arg(long, value_name = "TEXT")]
    issuer: Option<String>,
    /// The claim aud; may be repeated
    #[arg(long, value_name = "TEXT")]
    audience: Vec<String>,
    /// More claims as a JSON object; they win over the others
    #[arg(long, value_name = "JSON", default_value = "{}", hide_default_value = true)]
    claims: String,
}

/// Show a token's header and claims without verifying it
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  jwtunnel token decode < token.txt\n  \
    jwtunnel token decode - < token.txt | jq .claims.exp\n\n\
    A token that is an argument shows in the list of processes: better standard input.\n\n\
    Exit codes: 0 shown, 1 this is no token, 2 a mistake in the arguments.")]
struct DecodeArgs {
    /// The token; `-` or nothing: read it from standard input
    token: Option<String>,
}

/// Verify a token as the nginx module does; exit status 0 if it is accepted, 1 if not
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    jwtunnel token verify --jwks /var/lib/jwtunnel/public/jwks.json < token.txt\n  \
    jwtunnel token verify --jwks jwks.json --leeway 60s --require-exp --issuer https://gw.example < token.txt\n  \
    jwtunnel token verify --jwks jwks.json --now 1767225600 < token.txt    was it valid at that time?\n\n\
    With --jsonl each line of standard input is an object \
    {\"jwks\":…,\"token\":…,\"now\":…} and gets a line\n\
    {\"verdict\":\"accept\"|\"reject\",\"reason\":…}. `now` is in Unix seconds; null or absent: this machine's clock.\n\n\
    Exit codes: 0 accepted, or every line was judged; 1 refused, with the reason, or a fault; 2 a mistake in the \
    arguments or in the JWK Set.")]
struct VerifyArgs {
    /// The JWK Set to verify with
    #[arg(long, value_name = "FILE", required_unless_present = "jsonl")]
    jwks: Option<PathBuf>,
    /// Verify many tokens: one JSON object per line of standard input
    #[arg(long, conflicts_with_all = ["jwks", "token", "now"])]
    jsonl: bool,
    /// The time to verify at, in Unix seconds; default: this machine's clock
    #[arg(long, value_name = "SECONDS")]
    now: Option<i64>,
    /// Tolerance for clocks that differ, as auth_jwt_leeway
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = parse_duration)]
    leeway: Duration,
    /// Refuse a token without exp, as auth_jwt_require_exp
    #[arg(long)]
    require_exp: bool,
    /// The only issuer to accept
    #[arg(long, value_name = "TEXT")]
    issuer: Option<String>,
    /// An audience to accept; may be repeated
    #[arg(long, value_name = "TEXT")]
    audience: Vec<String>,
    /// The token; `-` or nothing: read it from standard input
    token: Option<String>,
}

/// Refuse tokens from now on, through the daemon
///
/// The daemon and every nginx that reads its revocation file refuse them within seconds; tunnels that were
/// opened with them are closed. Clients get new ones with their keys: to stop that, see `jwtunnel keys revoke`.
#[derive(Debug, clap::Args)]
#[group(id = "what", required = true, multiple = false, args = ["token_file", "token_id", "identifier", "kid"])]
#[command(after_help = "Examples:\n  jwtunnel token revoke --token-file token.txt\n  \
    jwtunnel token revoke --token-id 5f0c2c1e-7b1c-4d0e-8a53-2f6a2b0c9d11\n  \
    jwtunnel token revoke --identifier 7d2b0d0c-8d7e-4a51-9f0c-3f1f8f3f4f11    what was issued for it so far\n  \
    jwtunnel token revoke --kid 1dq-M2ULWuG_DOEgp5h4qKfMWl0    what a former signing key has signed\n  \
    jwtunnel token revoke --identifier corp:alice    at the tunnels, a caller of [[jwks.remote]] corp")]
struct RevokeArgs {
    #[command(flatten)]
    connection: super::keys::Connection,
    /// The file that holds the token; `-` is standard input
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The token's claim token_id or jti
    #[arg(long, value_name = "ID")]
    token_id: Option<String>,
    /// The claim identifier or sub
    #[arg(long, value_name = "ID")]
    identifier: Option<String>,
    /// The signing key's kid
    // It is base64url, and may start with a hyphen.
    #[arg(long, value_name = "KID", allow_hyphen_values = true)]
    kid: Option<String>,
}

/// Runs the subcommand.
///
/// # Errors
/// With what can't be read, written or understood, and what to do about it.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Mint(args) => mint(&args),
        Command::Decode(args) => decode(args),
        Command::Verify(args) if args.jsonl => verify_lines(&args.policy()),
        Command::Verify(args) => verify_one(args),
        Command::Revoke(args) => revoke(args).await,
    }
}

async fn revoke(args: RevokeArgs) -> anyhow::Result<ExitCode> {
    let body = match (&args.token_file, &args.token_id, &args.identifier, &args.kid) {
        (Some(path), ..) => {
            let mut text = String::new();
            if path.as_os_str() == "-" {
                io::stdin()
                    .read_to_string(&mut text)
                    .map_err(|e| mistake("--token-file", path, &e))?;
            } else {
                text = fs::read_to_string(path).map_err(|e| mistake("--token-file", path, &e))?;
            }
            if text.trim().is_empty() {
                return Err(mistake("--token-file", path, &"it is empty; expected a token").into());
            }
            json!({"jwt": text.trim()})
        }
        (_, Some(id), ..) => json!({"token_id": id}),
        (_, _, Some(identifier), _) => json!({"identifier": identifier}),
        (.., kid) => json!({"kid": kid}),
    };
    super::keys::send_revocation(&args.connection, "/revoke_token", &body, "no such token").await
}

/// A file that an argument names and that cannot be used.
fn mistake(flag: &str, path: &Path, why: &dyn Display) -> UsageError {
    UsageError(format!("{flag} {}: {why}", path.display()))
}

fn mint(args: &MintArgs) -> anyhow::Result<ExitCode> {
    let pem = fs::read(&args.key).map_err(|error| mistake("--key", &args.key, &error))?;
    let key = SigningKey::from_pem(&pem, args.algorithm).map_err(|error| {
        let text = format!("{error}; --algorithm names the one that fits the key");
        mistake("--key", &args.key, &text)
    })?;
    let now = now();
    let mut claims = Map::new();
    if let Some(issuer) = &args.issuer {
        claims.insert("iss".into(), json!(issuer));
    }
    if let Some(subject) = &args.subject {
        claims.insert("sub".into(), json!(subject));
    }
    match &*args.audience {
        [] => {}
        [one] => drop(claims.insert("aud".into(), json!(one))),
        several => drop(claims.insert("aud".into(), json!(several))),
    }
    claims.insert("iat".into(), json!(now));
    let lifetime = i64::try_from(args.lifetime.as_secs()).context("--lifetime is too long")?;
    claims.insert("exp".into(), json!(now + lifetime));
    let more: Map<String, Value> = serde_json::from_str(&args.claims).map_err(|error| {
        UsageError(format!(
            "--claims {}: {error}; expected one JSON object, such as '{{\"role\":\"admin\"}}'",
            untrusted(&args.claims)
        ))
    })?;
    claims.extend(more);
    print_line(&key.sign(&claims)?)?;
    Ok(ExitCode::SUCCESS)
}

fn decode(args: DecodeArgs) -> anyhow::Result<ExitCode> {
    let token = token(args.token)?;
    let segments: Vec<&str> = token.split('.').collect();
    let [header, payload, _signature] = &*segments else {
        bail!("this is not a JWT: it has {} segments instead of 3", segments.len());
    };
    let part = |name: &str, segment: &str| -> anyhow::Result<Value> {
        let json = URL_SAFE_NO_PAD
            .decode(segment)
            .with_context(|| format!("the {name} is not base64url without padding"))?;
        serde_json::from_slice(&json).with_context(|| format!("the {name} is not JSON"))
    };
    let (header, payload) = (part("header", header)?, part("payload", payload)?);
    note("not verified: anyone can have written these claims")?;
    for name in ["iat", "nbf", "exp"] {
        if let Some(seconds) = payload[name].as_i64() {
            note(&format!("{name} is {}", relative(seconds - now())))?;
        }
    }
    print_line(&serde_json::to_string_pretty(&json!({"header": header, "claims": payload}))?)?;
    Ok(ExitCode::SUCCESS)
}

fn verify_one(args: VerifyArgs) -> anyhow::Result<ExitCode> {
    let path = args.jwks.as_deref().unwrap_or(Path::new("-"));
    let text = fs::read(path).map_err(|error| mistake("--jwks", path, &error))?;
    // Not as a source: its text has the causes already.
    let keys = JwkSet::parse(&text).map_err(|error| mistake("--jwks", path, &error))?;
    for warning in keys.warnings() {
        note(&format!("key {} of {}: {}", warning.index, path.display(), warning.text))?;
    }
    let (policy, at) = (args.policy(), args.now.unwrap_or_else(now));
    let token = token(args.token)?;
    match jwt_core::verify(token.as_bytes(), &keys, &policy, at) {
        Ok(claims) => {
            print_line(claims.json())?;
            Ok(ExitCode::SUCCESS)
        }
        Err(rejection) => {
            note(&format!("rejected ({}): {rejection}", rejection.reason()))?;
            Ok(ExitCode::FAILURE)
        }
    }
}

fn verify_lines(policy: &Policy) -> anyhow::Result<ExitCode> {
    let mut input = BufReader::new(io::stdin().lock());
    let mut output = io::BufWriter::new(io::stdout().lock());
    let mut unreadable = 0_u64;
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        if input.read_until(b'\n', &mut line).context("reading standard input")? == 0 {
            break;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let reason = match serde_json::from_slice::<Line<'_>>(&line) {
            Ok(line) => verdict(&line, policy),
            Err(error) => {
                unreadable += 1;
                note(&format!("line {number} is not such an object (column {})", error.column()))?;
                Some("input")
            }
        };
        let answer = match reason {
            None => json!({"verdict": "accept", "reason": null}),
            Some(reason) => json!({"verdict": "reject", "reason": reason}),
        };
        writeln!(output, "{answer}")?;
    }
    output.flush()?;
    if unreadable > 0 {
        bail!("{unreadable} lines of standard input are not objects with a jwks");
    }
    Ok(ExitCode::SUCCESS)
}

/// A line of `--jsonl`.
#[derive(serde::Deserialize)]
struct Line<'l> {
    /// As it stands: a duplicate member must still be seen.
    #[serde(borrow)]
    jwks: &'l RawValue,
    #[serde(default)]
    token: Value,
    #[serde(default)]
    now: Value,
}

/// The reason for refusing a line's token; `None`: it is accepted.
fn verdict(line: &Line<'_>, policy: &Policy) -> Option<&'static str> {
    let Ok(keys) = JwkSet::parse(line.jwks.get().as_bytes()) else {
        return Some("keys_unavailable");
    };
    let Some(token) = line.token.as_str() else { return Some("missing") };
    let at = line.now.as_i64().unwrap_or_else(now);
    jwt_core::verify(token.as_bytes(), &keys, policy, at).err().map(|error| error.reason())
}

impl VerifyArgs {
    fn policy(&self) -> Policy {
        Policy {
            leeway: self.leeway,
            require_exp: self.require_exp,
            issuer: self.issuer.clone(),
            audience: self.audience.clone(),
            ..Policy::default()
        }
    }
}

/// The token from the argument or from standard input, without white space around it.
fn token(argument: Option<String>) -> anyhow::Result<String> {
    let text = match argument {
        Some(token) if token != "-" => token,
        _ => {
            let mut text = String::new();
            io::stdin()
                .lock()
                .read_to_string(&mut text)
                .context("reading the token from standard input")?;
            text
        }
    };
    let token = text.trim();
    if token.is_empty() {
        bail!("no token was given: pass it as an argument or on standard input");
    }
    Ok(token.to_owned())
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn relative(seconds: i64) -> String {
    let (days, hours, minutes) =
        (seconds.abs() / 86_400, seconds.abs() / 3_600 % 24, seconds.abs() / 60 % 60);
    let span = match (days, hours, minutes) {
        (0, 0, 0) => format!("{} s", seconds.abs()),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    };
    if seconds < 0 { format!("{span} ago") } else { format!("in {span}") }
}

/// A result, for standard output.
fn print_line(text: &str) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{text}")
}

/// A remark, for standard error, so that the result can be piped.
fn note(text: &str) -> io::Result<()> {
    writeln!(io::stderr().lock(), "{text}")
}

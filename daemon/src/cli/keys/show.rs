//! `jwtunnel keys show`.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::{Connection, date, read_key};
use crate::logging::untrusted;

pub(super) const EXAMPLES: &str = "\
Examples:
  jwtunnel keys show                        the signing keys: announced, signing, retiring
  jwtunnel keys show 1dq-M2ULWuG_DOEgp5h4qKfMWl0         a signing key, by its kid
  jwtunnel keys show 4f0c6c1e7b1c4d0e8a532f6a2b0c9d11    a registered key, by the claim `key` of its tokens
  jwtunnel keys show 7d2b0d0c-8d7e-4a51-9f0c-3f1f8f3f4f11    every key of that client
  jwtunnel keys show --key-file client.key               is this key registered, and for whom?

Exit codes: 0 shown, 1 a fault or nothing of that name, 2 a mistake in the arguments.";

#[derive(Debug, clap::Args)]
pub(super) struct Show {
    #[command(flatten)]
    connection: Connection,

    /// The file that holds a registered key; `-` is standard input. One newline at its end is left out.
    #[arg(long, value_name = "FILE", conflicts_with = "name")]
    key_file: Option<PathBuf>,

    /// A kid, a key id or an identifier [default: the signing keys].
    // A kid is base64url, and may start with a hyphen.
    #[arg(value_name = "NAME", allow_hyphen_values = true)]
    name: Option<String>,
}

pub(super) async fn run(args: Show) -> anyhow::Result<ExitCode> {
    let body = match (&args.key_file, &args.name) {
        (Some(path), _) => json!({"key": read_key(path)?.expose()}),
        (None, Some(name)) => json!({"name": name}),
        (None, None) => json!({}),
    };
    let answer = args.connection.server()?.post("/show_key", &body).await?;
    answer.expect(StatusCode::OK)?;
    let shown = answer.body();
    let is_empty = |name: &str| shown[name].as_array().is_none_or(Vec::is_empty);
    if ["signing_keys", "keys", "refused"].iter().all(|name| is_empty(name)) {
        match args.name {
            Some(name) => bail!(
                "no signing key, registered key or client is called {}; jwtunnel keys list has the \
                 registered ones, jwtunnel keys show the signing ones",
                untrusted(&name)
            ),
            None => bail!("no such key is registered; jwtunnel keys register does that"),
        }
    }
    let text = if args.connection.json() { format!("{shown}\n") } else { describe(shown) };
    io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// A paragraph for each key, a line for each of its properties.
fn describe(shown: &Value) -> String {
    let items = |name: &str| shown[name].as_array().into_iter().flatten();
    let mut paragraphs = Vec::new();
    for key in items("signing_keys") {
        paragraphs.push(table(&[
            ("signing key", text(&key["kid"])),
            ("state", text(&key["state"])),
            ("algorithm", text(&key["algorithm"])),
            ("made", time(&key["created"])),
            ("signs since", time(&key["signing_since"])),
            ("signs from", time(&key["signs_at"])),
            ("published until", time(&key["gone_at"])),
        ]));
    }
    for key in items("keys") {
        let policy = if key["rotates"] == true { "used once" } else { "used until they expire" };
        let alive = match key["refresh_tokens"].as_i64() {
            Some(0) | None => format!("none alive; {policy}"),
            Some(count) => {
                let last = time(&key["refresh_tokens_expire_at"]).unwrap_or_default();
                format!("{count} alive, the last one until {last}; {policy}")
            }
        };
        let whose = if key["asserted"] == true { "what the client asserts" } else { "identifier" };
        // A key of JWThenticator has none, and says so.
        let id = text(&key["key_id"]).unwrap_or_else(|| "-".to_owned());
        paragraphs.push(table(&[
            ("registered key", Some(id)),
            ("identifier", text(&key["identifier"])),
            ("fingerprint", text(&key["fingerprint"])),
            ("state", text(&key["state"])),
            ("registered", time(&key["created"])),
            ("expires", time(&key["expires_at"])),
            ("revoked", time(&key["revoked_at"])),
            ("tokens name", Some(whose.to_owned())),
            ("refresh tokens", Some(alive)),
        ]));
    }
    for refused in items("refused") {
        let which = match time(&refused["issued_before"]) {
            Some(before) => format!("those issued before {before}"),
            None => "all".to_owned(),
        };
        paragraphs.push(table(&[
            ("tokens refused", Some(which)),
            ("by", Some(format!("{} {}", show(&refused["by"]), show(&refused["value"])))),
            ("until", time(&refused["until"])),
        ]));
    }
    let mut text = paragraphs.join("\n");
    if shown["more"] == true {
        text.push_str("\nand more; jwtunnel keys list --identifier has all of them\n");
    }
    text
}

fn table(lines: &[(&str, Option<String>)]) -> String {
    let present = lines.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
    present.map(|(name, value)| format!("{name:<15}  {value}\n")).collect()
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(untrusted)
}

fn show(value: &Value) -> String {
    text(value).unwrap_or_default()
}

fn time(value: &Value) -> Option<String> {
    value.as_i64().map(date)
}

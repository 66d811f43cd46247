//! `jwtunnel keygen`: makes a signing key and the JWK Set that verifies it, without a server.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use serde_json::json;

use crate::config::{RsaBits, SigningAlgorithm, parse_algorithm};
use crate::signing_key::SigningKey;

/// Makes a signing key
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  jwtunnel keygen --algorithm ES256 --out key.pem --jwks jwks.json\n\n\
    The private key is PKCS#8 in PEM, readable by its owner only; an existing file is never overwritten."
)]
pub struct Args {
    /// What the key is for: RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 or EdDSA
    #[arg(long, value_name = "ALG", default_value = "RS256", value_parser = parse_algorithm)]
    algorithm: SigningAlgorithm,
    /// Where the private key goes
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Where the JWK Set with the public key goes; default: standard output
    #[arg(long, value_name = "FILE")]
    jwks: Option<PathBuf>,
}

/// Makes the key and writes both halves.
///
/// # Errors
/// If a file exists already or can't be written.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let key = SigningKey::generate(args.algorithm, RsaBits::B2048)?;
    let jwks = serde_json::to_string_pretty(&json!({ "keys": [key.jwk()] }))?;
    create(&args.out, key.to_pem()?.as_bytes(), 0o600)?;
    match &args.jwks {
        Some(path) => {
            create(path, format!("{jwks}\n").as_bytes(), 0o644).inspect_err(|_| {
                // Without its public half the private key would only be in the way of the next try.
                let _ = fs::remove_file(&args.out);
            })?;
        }
        None => writeln!(io::stdout().lock(), "{jwks}")?,
    }
    writeln!(io::stderr().lock(), "private key in {}, kid {}", args.out.display(), key.kid())?;
    Ok(ExitCode::SUCCESS)
}

fn create(path: &Path, text: &[u8], mode: u32) -> anyhow::Result<()> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(text).and_then(|()| file.sync_all()))
        .with_context(|| {
            format!("writing {} (an existing file is not overwritten)", path.display())
        })
}

//! A bare signature check in a loop: what a verifier costs that does nothing else. `run` starts it as a process of
//! its own, so that it is pinned to the server's core.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use aws_lc_rs::hmac;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::keys::{Algorithm, token_file, verifying_key};
use crate::process::{self, SERVER_CORE};
use crate::report;
use crate::rounds::Sample;

/// Measures in a process of its own, and gives the checks per second.
pub(crate) fn measure(folder: &Path, alg: Algorithm, duration: Duration) -> Result<Sample> {
    let own = std::env::current_exe()?;
    let own = own.to_str().context("the path of this program is not UTF-8")?;
    let mut command = process::pinned(SERVER_CORE, own);
    command.arg("verify").arg(folder).arg(alg.name()).arg(duration.as_secs_f64().to_string());
    let printed = process::output(&mut command)?;
    let numbers: Vec<f64> = printed.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let [elapsed, used] = numbers[..] else { bail!("`bench verify` printed {printed:?}") };
    Ok(Sample {
        rate: 1e9 / elapsed,
        cpu_per_operation: used / 1e9,
        server: used / elapsed,
        generator: 0.0,
    })
}

/// Prints the nanoseconds of one check: elapsed ones, and those of CPU.
pub(crate) fn print(folder: &Path, name: &str, duration: Duration) -> Result<()> {
    let token = fs::read_to_string(token_file(folder, name))?;
    let (input, signature) = token.trim_end().rsplit_once('.').context("not a token")?;
    let signature = URL_SAFE_NO_PAD.decode(signature)?;
    let key = fs::read(verifying_key(folder, name))?;
    let public: &'static dyn VerificationAlgorithm = match name {
        "RS256" => &RSA_PKCS1_2048_8192_SHA256,
        "ES256" => &ECDSA_P256_SHA256_FIXED,
        "EdDSA" => &ED25519,
        "HS256" => {
            let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
            let check = || hmac::verify(&key, input.as_bytes(), &signature).is_ok();
            return repeat(check, duration);
        }
        _ => bail!("{name} is not measured"),
    };
    let key = ParsedPublicKey::new(public, key)?;
    repeat(|| key.verify_sig(input.as_bytes(), &signature).is_ok(), duration)
}

fn repeat(check: impl Fn() -> bool, duration: Duration) -> Result<()> {
    ensure!(check(), "the signature is not valid");
    // Looking at the clock must not be a part of what is measured.
    const BATCH: u32 = 100;
    let cpu_before = own_cpu()?;
    let start = Instant::now();
    let mut checks = 0;
    while start.elapsed() < duration {
        for _ in 0..BATCH {
            ensure!(std::hint::black_box(check()), "the signature is not valid");
        }
        checks += BATCH;
    }
    let elapsed = start.elapsed().as_secs_f64();
    let used = own_cpu()? - cpu_before;
    let each = |seconds: f64| seconds * 1e9 / f64::from(checks);
    report::line(&format!("{:.1} {:.1}", each(elapsed), each(used)));
    Ok(())
}

/// The kernel brings the count up to date when it takes the process off the core.
fn own_cpu() -> Result<f64> {
    std::thread::sleep(Duration::from_millis(1));
    process::cpu(std::process::id())
}

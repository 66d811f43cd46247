//! A bare signature, or the check of one, in a loop: what a signer or a verifier costs that does nothing else. `run` starts it as a process of
//! its own, so that it is pinned to the server's core.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_SHA256, RsaKeyPair, VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::keys::{Algorithm, token_file, verifying_key};
use crate::process::{self, Cpu, SERVER_CORE};
use crate::report;
use crate::rounds::Sample;

/// Measures in a process of its own, and gives the checks per second.
pub(crate) fn measure(folder: &Path, alg: Algorithm, duration: Duration) -> Result<Sample> {
    let mut command = process::own(SERVER_CORE)?;
    command.arg("verify").arg(folder).arg(alg.name()).arg(duration.as_secs_f64().to_string());
    sample(&mut command)
}

/// The same of RSA-2048 signatures.
pub(crate) fn measure_signing(duration: Duration) -> Result<Sample> {
    let mut command = process::own(SERVER_CORE)?;
    sample(command.arg("sign").arg(duration.as_secs_f64().to_string()))
}

fn sample(command: &mut Command) -> Result<Sample> {
    let printed = process::output(command)?;
    let [elapsed, used] = process::numbers(&printed)?[..] else { bail!("printed {printed:?}") };
    Ok(Sample {
        rate: 1e9 / elapsed,
        cpu_per_operation: Some(used / 1e9),
        server: Some(used / elapsed),
        generator: None,
    })
}

/// Prints the nanoseconds of one RS256 signature of a new key: elapsed ones, and those of CPU.
pub(crate) fn print_signing(duration: Duration) -> Result<()> {
    let (key, random) = (RsaKeyPair::generate(KeySize::Rsa2048)?, SystemRandom::new());
    let mut signature = vec![0; key.public_modulus_len()];
    // About what the header and the claims of an access token are.
    let input = [b'x'; 400];
    let mut sign = || key.sign(&RSA_PKCS1_SHA256, &random, &input, &mut signature).is_ok();
    repeat(10, &mut sign, duration)
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
            return repeat(100, check, duration);
        }
        _ => bail!("{name} is not measured"),
    };
    let key = ParsedPublicKey::new(public, key)?;
    repeat(100, || key.verify_sig(input.as_bytes(), &signature).is_ok(), duration)
}

/// Looks at the clock after each `batch` only: that must not be a part of what is measured.
fn repeat(batch: u32, mut work: impl FnMut() -> bool, duration: Duration) -> Result<()> {
    ensure!(work(), "the signature is not valid");
    let cpu = own_cpu()?;
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < duration {
        for _ in 0..batch {
            ensure!(std::hint::black_box(work()), "the signature is not valid");
        }
        count += batch;
    }
    let elapsed = start.elapsed().as_secs_f64();
    // The kernel brings the count up to date when it takes the process off the core.
    std::thread::sleep(Duration::from_millis(1));
    let used = cpu.used()?;
    let each = |seconds: f64| seconds * 1e9 / f64::from(count);
    report::line(&format!("{:.1} {:.1}", each(elapsed), each(used)));
    Ok(())
}

fn own_cpu() -> Result<Cpu> {
    std::thread::sleep(Duration::from_millis(1));
    Cpu::of(std::process::id())
}

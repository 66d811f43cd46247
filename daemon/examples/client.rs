//! Asks a service that wants a token: `client JWTHENTICATOR_URL KEY_FILE SERVICE_URL`.
//!
//! The key becomes a token, the token goes along with the request, and the answer is printed.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

use std::env::args;
use std::error::Error;

use jwtunnel::client::{Client, Secret};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = args().skip(1).collect();
    let [issuer, key_file, service] = &arguments[..] else {
        return Err("usage: client JWTHENTICATOR_URL KEY_FILE SERVICE_URL".into());
    };
    let key = Secret::new(std::fs::read_to_string(key_file)?.trim());
    // One client for the whole program: it keeps the token.
    let client = Client::builder(issuer)
        .key(key)
        .refresh_token_file(format!("{key_file}.refresh"))
        .build()
        .await?;
    let http = reqwest::Client::new();
    let answer = loop {
        match client.send(http.get(service)).await {
            Ok(answer) => break answer,
            // The gateway is being restarted, or wants patience.
            Err(error) if error.is_retryable() => eprintln!("{error}; trying again"),
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    };
    println!("{}", answer.status());
    print!("{}", answer.text().await?);
    Ok(())
}

//! A web service that only holders of a token can use: `protect JWKS_FILE [ADDRESS]`.
//!
//! It prints its URL. `/` tells the caller's identifier, `/claims` some of the token's claims.
#![allow(clippy::print_stdout, reason = "a program for a terminal")]

use std::env::args;
use std::error::Error;

use axum::Router;
use axum::routing::get;
use jwtunnel::verify::{Keys, TokenClaims, Verified, Verifier};
use serde::Deserialize;
use tokio::net::TcpListener;

/// What we want to know of a token.
#[derive(Deserialize)]
struct Ours {
    token_id: String,
    exp: i64,
}

async fn hello(caller: Verified) -> String {
    format!("hello {}\n", caller.identifier().unwrap_or_default())
}

async fn claims(TokenClaims(claims): TokenClaims<Ours>) -> String {
    format!("token {} ends at {}\n", claims.token_id, claims.exp)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = args().skip(1);
    let jwks = arguments.next().ok_or("usage: protect JWKS_FILE [ADDRESS]")?;
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:0".into());
    let verifier = Verifier::builder(Keys::file(jwks)).realm("example").build().await?;
    let router = Router::new().route("/", get(hello)).route("/claims", get(claims)).layer(verifier);
    let listener = TcpListener::bind(address).await?;
    println!("http://{}", listener.local_addr()?);
    axum::serve(listener, router).await?;
    Ok(())
}

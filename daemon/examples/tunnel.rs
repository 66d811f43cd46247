//! Prints what a service behind a tunnel sends: `tunnel SERVER JWTHENTICATOR_URI KEY_FILE HOST PORT`.
//!
//! HOST and PORT are as the server sees them. The tunnel's entrance is in this program: no port is opened here.

use std::env::args;
use std::error::Error;

use jwtunnel::client::Secret;
use jwtunnel::tunnel::client::{Connector, Credentials, Entrance, Trust};
use tokio::io::{AsyncWriteExt, copy, stdout};
use uuid::Uuid;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = args().skip(1).collect();
    let [server, issuer, key_file, host, port] = &arguments[..] else {
        return Err("usage: tunnel SERVER JWTHENTICATOR_URI KEY_FILE HOST PORT".into());
    };
    let key = Secret::new(std::fs::read_to_string(key_file)?.trim());
    // The nil UUID: the identifier that the key is registered for.
    let credentials = Credentials::key(key, Uuid::nil(), issuer.clone());
    let connector = Connector::new(server, &Trust::default(), credentials).await?;
    let client = connector.connect().await?;
    let (entrance, dialer) = Entrance::in_program();
    client.forward(&entrance, host, port.parse()?).await?;
    let mut stream = dialer.connect().await?;
    // We send nothing; what comes is printed to its end.
    stream.shutdown().await?;
    copy(&mut stream, &mut stdout()).await?;
    stdout().flush().await?;
    client.close().await;
    Ok(())
}

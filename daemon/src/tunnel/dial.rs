//! Connecting to a destination: resolve once, judge every address, connect to what was judged.

use std::net::SocketAddr;

use tokio::net::lookup_host;
use tokio::time::timeout;

use super::exit::DialError;
use super::plain::{Local, Protocol};
use super::policy::{Denied, Destination, Host, Policy};
use super::settings::Timings;
use super::udp::Flow;
use crate::auth::Identity;
use crate::tcp;

/// Connects to `destination` for `caller`, if it still may; by UDP that only fixes the address.
///
/// # Errors
/// [`DialError`]; [`DialError::Denied`] if any address of the name is not allowed, even if others are: which of
/// them is used must not depend on the order of an answer that somebody else gives.
pub(super) async fn dial(
    policy: &Policy,
    caller: &Identity,
    own: &[SocketAddr],
    destination: &Destination,
    protocol: Protocol,
    timings: &Timings,
) -> Result<Local, DialError> {
    let connect = async {
        let addresses = resolve(destination, timings).await?;
        for address in &addresses {
            let judged = policy.resolved(caller, own, destination, address.ip());
            judged.map_err(|denied: Denied| DialError::Denied(denied.to_string()))?;
        }
        let connected = match protocol {
            Protocol::Tcp => tcp::connect(addresses).await.map(Local::tcp),
            Protocol::Udp => tcp::first(addresses, Flow::connect).await.map(Local::Datagrams),
        };
        let address = destination.to_string();
        connected.map_err(|source| DialError::Connect { address, source })
    };
    match timeout(timings.dial, connect).await {
        Ok(result) => result,
        Err(_) => Err(DialError::Timeout(destination.to_string(), timings.dial)),
    }
}

async fn resolve(
    destination: &Destination,
    timings: &Timings,
) -> Result<Vec<SocketAddr>, DialError> {
    let name = match &destination.host {
        Host::Address(ip) => return Ok(vec![(*ip, destination.port).into()]),
        Host::Name(name) => name,
    };
    let lookup = lookup_host((name.as_str(), destination.port));
    match timeout(timings.resolve, lookup).await {
        Ok(Ok(addresses)) => Ok(addresses.collect()),
        Ok(Err(source)) => Err(DialError::Resolve { host: name.clone(), source }),
        Err(_) => Err(DialError::Timeout(destination.to_string(), timings.resolve)),
    }
}

impl std::fmt::Display for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.host {
            Host::Address(ip) => write!(f, "{}", SocketAddr::from((*ip, self.port))),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

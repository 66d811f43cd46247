//! The original NETunnel server, unmodified, and schemathesis.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::daemon::Client;
use crate::http::{Answer, ask};
use crate::poll::eventually;
use crate::ports::Port;
use crate::process::Process;
use crate::scratch::Scratch;
use crate::setup::script;

/// How it is run; the file says why.
const SERVER: &str = include_str!("../python/netunnel_server.py");

/// The interpreter with the original programs.
#[must_use]
pub fn python() -> String {
    std::env::var("JWTUNNEL_PYTHON").unwrap_or_else(|_| script("python-peers.sh", &[]))
}

/// The program `schemathesis`.
#[must_use]
pub fn schemathesis() -> PathBuf {
    let python = std::env::var("JWTUNNEL_SCHEMATHESIS")
        .unwrap_or_else(|_| script("python-peers.sh", &["schemathesis"]));
    Path::new(&python).with_file_name("schemathesis")
}

/// A running `python -m netunnel.server`.
#[derive(Debug)]
pub struct PythonServer {
    process: Process,
    scratch: Scratch,
    port: Port,
    arguments: Vec<String>,
}

impl PythonServer {
    /// Without authentication.
    #[must_use]
    pub fn open() -> Self {
        Self::start(&[])
    }

    /// With the server's half of netunnel-jwthenticator, which lets everybody in: tokens are checked in front of it.
    #[must_use]
    pub fn with_jwthenticator() -> Self {
        Self::start(&["--auth-plugin", "netunnel_jwthenticator.JWThenticatorAuthServer"])
    }

    /// # Panics
    /// If it does not answer.
    fn start(arguments: &[&str]) -> Self {
        let (scratch, port) = (Scratch::new(), Port::take());
        let arguments: Vec<String> =
            arguments.iter().map(|&argument| argument.to_owned()).collect();
        let process = run(&scratch, &port, &arguments);
        let server = Self { process, scratch, port, arguments };
        server.wait();
        server
    }

    fn wait(&self) {
        eventually("the Python server answers", || {
            std::net::TcpStream::connect(self.port.address()).ok()
        });
    }

    /// Kills it and starts another one on the same port and state.
    pub fn restart(&mut self) {
        self.process.signal("KILL");
        let _ = self.process.wait(std::time::Duration::from_secs(10));
        self.process = run(&self.scratch, &self.port, &self.arguments);
        self.wait();
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> &Port {
        &self.port
    }

    /// Its own address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.port.address())
    }

    /// Its state file.
    #[must_use]
    pub fn state(&self) -> Value {
        let text = std::fs::read_to_string(self.scratch.join("netunnel.json")).expect("its file");
        serde_json::from_str(&text).expect("JSON")
    }
}

fn run(scratch: &Scratch, port: &Port, arguments: &[String]) -> Process {
    let mut command = Command::new(python());
    command.args(["-u", "-c", SERVER, "-p", &port.number().to_string(), "-c"]);
    command.arg(scratch.join("netunnel.json")).args(arguments);
    Process::start("python -m netunnel.server", &mut command, &scratch.join("server.log"))
}

/// Registers a peer at the operator's routes at `operator`, of whichever server, and gives the answer.
#[must_use]
pub fn register_peer(operator: &str, target: &str, client: Option<&Client>) -> Answer {
    let auth = match client {
        Some(client) => json!({"key": client.key, "uuid": client.identifier}),
        None => json!({}),
    };
    let body = json!({"name": "other", "target_netunnel_url": target, "auth_data": auth});
    ask("POST", &format!("{operator}/peers"), &[], Some(&body.to_string()))
}

/// A static tunnel of a server's first peer.
#[derive(Debug)]
pub struct StaticTunnel {
    entrance: SocketAddr,
    /// No other test has its number, and so none has the address.
    _name: Port,
}

impl StaticTunnel {
    /// Where it is entered.
    #[must_use]
    pub fn entrance(&self) -> SocketAddr {
        self.entrance
    }
}

/// Makes a static tunnel of the first peer to a port of 127.0.0.1. The server chooses its port, at an address which it
/// has for itself: at one that all tests share, another test's server could take the port while this one restarts.
///
/// # Panics
/// If it is not made.
#[must_use]
pub fn static_tunnel(operator: &str, port: u16) -> StaticTunnel {
    let name = Port::take();
    let [high, low] = name.number().to_be_bytes();
    let local = Ipv4Addr::new(127, 77, high, low);
    let body = json!({"tunnel_remote_port": port, "tunnel_local_address": local}).to_string();
    let answer = ask("POST", &format!("{operator}/peers/1/static_tunnels"), &[], Some(&body));
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer: Value = serde_json::from_str(&answer.body).expect("JSON");
    let port = answer["tunnel_local_port"].as_u64().and_then(|port| port.try_into().ok());
    StaticTunnel { entrance: (local, port.expect("a port")).into(), _name: name }
}

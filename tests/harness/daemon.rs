//! The daemon, alone and behind nginx, and the clients of its tunnels.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::http::ask;
use crate::nginx::{Nginx, NginxBuilder};
use crate::poll::{eventually, within};
use crate::ports::Port;
use crate::process::Process;
use crate::python::{PythonServer, python};
use crate::scratch::Scratch;
use crate::service::{self, bulk_size};
use crate::setup::built;

/// Longer than any transfer of a test takes.
const LIMIT: Duration = Duration::from_secs(120);

/// A running jwtunneld.
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    scratch: Scratch,
    environment: Vec<(String, String)>,
    public: Port,
    internal: Port,
    netunnel: Port,
}

/// A client that was registered.
#[derive(Debug, Clone)]
pub struct Client {
    /// Its key.
    pub key: String,
    /// The identifier that its tokens carry.
    pub identifier: String,
}

impl Daemon {
    /// Starts it in a folder and on ports of its own. `more` is added to the configuration.
    ///
    /// # Panics
    /// If it does not become ready.
    #[must_use]
    pub fn start(more: &str) -> Self {
        Self::start_with(more, &[])
    }

    /// The same with variables of the environment.
    ///
    /// # Panics
    /// If it does not become ready.
    #[must_use]
    pub fn start_with(more: &str, environment: &[(&str, &str)]) -> Self {
        Self::start_in(Scratch::new(), more, environment)
    }

    /// The same, asking this DNS server alone. It takes root.
    ///
    /// # Panics
    /// If it does not become ready.
    #[must_use]
    pub fn start_asking(more: &str, nameserver: Ipv4Addr) -> Self {
        let scratch = Scratch::new();
        let text = format!("nameserver {nameserver}\noptions timeout:10 attempts:1\n");
        scratch.replace(RESOLVER, text.as_bytes());
        Self::start_in(scratch, more, &[])
    }

    fn start_in(scratch: Scratch, more: &str, environment: &[(&str, &str)]) -> Self {
        let data = scratch.join("data");
        fs::create_dir(&data).expect("a folder for data");
        fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).expect("its mode");
        let (public, internal, netunnel) = (Port::take(), Port::take(), Port::take());
        let dir = data.display();
        let text = format!(
            "[jwthenticator]\nlisten = \"{}\"\ninternal_listen = \"{}\"\n\
             database_url = \"sqlite://{dir}/jwtunnel.db\"\n\
             [keys]\ndirectory = \"{dir}/keys\"\n[jwks]\nfile = \"{dir}/public/jwks.json\"\n\
             [netunnel]\nlisten = \"{}\"\nstate_file = \"{dir}/netunnel.json\"\n{more}\n",
            public.address(),
            internal.address(),
            netunnel.address()
        );
        scratch.replace("jwtunneld.toml", text.as_bytes());
        let environment: Vec<(String, String)> =
            environment.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        let process = run(&scratch, &environment);
        let mut daemon = Self { process, scratch, environment, public, internal, netunnel };
        daemon.wait_ready(1);
        daemon
    }

    fn wait_ready(&mut self, times: usize) {
        eventually("the daemon is ready", || {
            assert!(self.process.is_running(), "jwtunneld has ended: {}", self.log());
            (self.log().matches("\"event\":\"ready\"").count() >= times).then_some(())
        });
    }

    /// Kills it, as a power cut does, and starts another one on the same files and ports.
    pub fn restart(&mut self) {
        // The test may have ended it.
        if self.process.is_running() {
            self.process.signal("KILL");
        }
        let _ = self.process.wait(Duration::from_secs(10));
        let before = self.log().matches("\"event\":\"ready\"").count();
        self.process = run(&self.scratch, &self.environment);
        self.wait_ready(before + 1);
    }

    /// Its log so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The folder of its data.
    #[must_use]
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// The address of a path on the internal listener.
    #[must_use]
    pub fn internal(&self, path: &str) -> String {
        format!("http://{}{path}", self.internal.address())
    }

    /// The internal listener's port.
    #[must_use]
    pub fn internal_port(&self) -> u16 {
        self.internal.number()
    }

    /// The public listener.
    #[must_use]
    pub fn public(&self) -> &Port {
        &self.public
    }

    /// The tunnels' listener.
    #[must_use]
    pub fn netunnel_port(&self) -> &Port {
        &self.netunnel
    }

    /// The address of a path on the tunnels' listener.
    #[must_use]
    pub fn netunnel(&self, path: &str) -> String {
        format!("http://{}{path}", self.netunnel.address())
    }

    /// Registers a new key, as an operator does.
    #[must_use]
    pub fn register(&self) -> Client {
        self.register_with(&[])
    }

    /// Registers a new key for a certain identifier.
    #[must_use]
    pub fn register_as(&self, identifier: &str) -> Client {
        self.register_with(&["--identifier", identifier])
    }

    /// # Panics
    /// If that fails.
    fn register_with(&self, arguments: &[&str]) -> Client {
        let output = Command::new(built("jwtunnel"))
            .args(["keys", "register", "--generate", "--json", "--server", &self.internal("")])
            .args(arguments)
            .output()
            .expect("jwtunnel");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let text = |name: &str| answer[name].as_str().expect("a text").to_owned();
        Client { key: text("key"), identifier: text("identifier") }
    }
}

/// If it is in a daemon's folder, the daemon sees it in the place of the system's.
const RESOLVER: &str = "resolv.conf";

fn run(scratch: &Scratch, environment: &[(String, String)]) -> Process {
    let mut command = Command::new(built("jwtunneld"));
    let resolver = scratch.join(RESOLVER);
    if resolver.exists() {
        command = Command::new("unshare");
        let mount = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
        command.args(["--mount", "sh", "-c", mount]).arg(resolver).arg(built("jwtunneld"));
    }
    command.arg("--config").arg(scratch.join("jwtunneld.toml")).args(["--log-format", "json"]);
    command.envs(environment.iter().cloned());
    Process::start("jwtunneld", &mut command, &scratch.join("daemon.log"))
}

/// The daemon behind nginx, under the configuration that ships.
#[derive(Debug)]
pub struct Gateway {
    /// nginx in front.
    pub nginx: Nginx,
    /// The daemon behind it.
    pub daemon: Daemon,
}

impl Gateway {
    /// Starts both.
    #[must_use]
    pub fn start() -> Self {
        Self::with("")
    }

    /// Starts both, with more configuration for the daemon.
    #[must_use]
    pub fn with(more: &str) -> Self {
        let daemon = Daemon::start(more);
        let jwks = daemon.scratch.join("data/public/jwks.json");
        let nginx = NginxBuilder::new().daemon(&daemon.netunnel, &daemon.public, jwks).start();
        Self { nginx, daemon }
    }

    /// Exchanges the client's key for a token, through nginx.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn token(&self, client: &Client) -> String {
        let body = json!({"key": client.key, "identifier": client.identifier}).to_string();
        let answer = ask("POST", &self.nginx.url("/jwthenticator/authenticate"), &[], Some(&body));
        assert_eq!(answer.status, 200, "{answer:?}");
        let answer: Value = serde_json::from_str(&answer.body).expect("JSON");
        answer["jwt"].as_str().expect("a token").to_owned()
    }

    /// A path of the tunnels' routes.
    #[must_use]
    pub fn netunnel(&self, path: &str) -> String {
        self.nginx.url(&format!("/netunnel{path}"))
    }

    /// Opens a tunnel with the original Python client and its plugin, unmodified.
    ///
    /// # Panics
    /// If it does not open.
    #[must_use]
    pub fn python_tunnel(&self, client: &Client, arguments: &[&str]) -> Tunnel {
        let mut command = python_client(&self.netunnel(""), Some(client));
        command.args(arguments);
        Tunnel::open("python -m netunnel.client", command, &self.daemon.scratch)
    }

    /// Opens a tunnel with `jwtunnel connect`.
    ///
    /// # Panics
    /// If it does not open.
    #[must_use]
    pub fn tunnel(&self, client: &Client, arguments: &[&str]) -> Tunnel {
        let scratch = &self.daemon.scratch;
        let mut command = our_client(&self.netunnel(""), scratch, Some(client));
        command.args(arguments);
        Tunnel::open("jwtunnel connect", command, scratch)
    }
}

/// An original server behind nginx, with a daemon of ours as the issuer of its tokens.
#[derive(Debug)]
pub struct PythonGateway {
    /// nginx in front.
    pub nginx: Nginx,
    /// Issues the tokens; its own tunnels are not reached through nginx.
    pub daemon: Daemon,
    /// The server behind it.
    pub server: PythonServer,
}

impl PythonGateway {
    /// Starts all three.
    #[must_use]
    pub fn start() -> Self {
        let daemon = Daemon::start("");
        let server = PythonServer::with_jwthenticator();
        let jwks = daemon.scratch().join("data/public/jwks.json");
        let nginx = NginxBuilder::new().daemon(server.port(), daemon.public(), jwks).start();
        Self { nginx, daemon, server }
    }

    /// A path of the server's routes.
    #[must_use]
    pub fn netunnel(&self, path: &str) -> String {
        self.nginx.url(&format!("/netunnel{path}"))
    }
}

/// `python -m netunnel.client` towards a server, with its plugin if there is a client to be.
#[must_use]
pub fn python_client(server: &str, client: Option<&Client>) -> Command {
    let mut command = Command::new(python());
    command.args(["-u", "-m", "netunnel.client", "-s", server]);
    if let Some(client) = client {
        let data = json!({"key": client.key, "uuid": client.identifier}).to_string();
        command.args(["--auth-plugin", "netunnel_jwthenticator.JWThenticatorAuthClient"]);
        command.args(["--auth-data", &data]);
    }
    command
}

/// `jwtunnel connect` towards a server, with the key of a client if there is one to be. The key is in a file in
/// `scratch`.
///
/// # Panics
/// If that file can't be written.
#[must_use]
pub fn our_client(server: &str, scratch: &Scratch, client: Option<&Client>) -> Command {
    let mut command = Command::new(built("jwtunnel"));
    command.args(["connect", "-s", server]);
    if let Some(client) = client {
        let key = scratch.join(&format!("{}.key", client.identifier));
        fs::write(&key, &client.key).expect("a key file");
        command.arg("--key-file").arg(key);
    }
    command
}

/// An open tunnel, closed with the value.
#[derive(Debug)]
pub struct Tunnel {
    process: Process,
    entrance: SocketAddr,
}

impl Tunnel {
    /// Starts a client with its log in `scratch`.
    ///
    /// # Panics
    /// If its tunnel does not open.
    #[must_use]
    pub fn open(name: &str, mut command: Command, scratch: &Scratch) -> Self {
        let count = fs::read_dir(scratch.path()).expect("the folder").count();
        let log = scratch.join(&format!("client-{count}.log"));
        let process = Process::start(name, &mut command, &log);
        let mut tunnel = Self { process, entrance: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)) };
        // Python alone may take half of that, where its files have to be read from a busy disk.
        tunnel.entrance = within(Duration::from_secs(60), "the tunnel is open", || {
            let log = tunnel.process.log();
            assert!(tunnel.process.is_running(), "{name} has ended: {log}");
            // The exit's line is the last one of both clients.
            log.contains("Tunnel exit socket: ").then_some(())?;
            let line = log.lines().find_map(|line| line.split_once("Tunnel entrance socket: "))?;
            line.1.trim().parse().ok()
        });
        tunnel
    }

    /// Its client.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// A connection through it.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.entrance).expect("a connection to the entrance");
        stream.set_read_timeout(Some(LIMIT)).expect("a limit");
        stream.set_write_timeout(Some(LIMIT)).expect("a limit");
        stream
    }

    /// Sends a text and reads as much.
    ///
    /// # Panics
    /// If the connection ends before.
    #[must_use]
    pub fn echo(&self, text: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(text.as_bytes()).expect("the text is sent");
        let mut answer = vec![0; text.len()];
        stream.read_exact(&mut answer).expect("as much comes back");
        String::from_utf8(answer).expect("text")
    }

    /// 64 MiB to a [`crate::Service::bulk`] and 64 MiB back; both hashes are compared.
    ///
    /// # Panics
    /// If a byte is missing or another.
    pub fn bulk(&self) {
        bulk(self.connect());
    }
}

/// 64 MiB to a [`crate::Service::bulk`] and 64 MiB back; both hashes are compared.
///
/// # Panics
/// If a byte is missing or another.
pub fn bulk(mut stream: TcpStream) {
    let mut upload = stream.try_clone().expect("the connection again");
    let sender = thread::spawn(move || service::give(&mut upload, 1));
    let mut digest = [0; 32];
    stream.read_exact(&mut digest).expect("the hash of what was sent");
    let sent = sender.join().expect("the sender");
    assert!(sent, "not all {} bytes were sent", bulk_size());
    assert_eq!(digest.to_vec(), service::expected(1), "what arrived is not what was sent");
    download(stream);
}

/// 64 MiB from a [`crate::Service::source`].
///
/// # Panics
/// If a byte is missing or another.
pub fn download(mut stream: TcpStream) {
    let received = service::take(&mut stream).expect("all bytes of the answer");
    assert_eq!(received, service::expected(2), "what came back is not what was sent");
}

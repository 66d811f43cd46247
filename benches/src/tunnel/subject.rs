//! What is compared: each leads from its entrance to the same service.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::traffic;
use crate::daemon::Daemon;
use crate::http::call;
use crate::nginx;
use crate::options::RunOptions;
use crate::original::path;
use crate::process::{self, Cpu, Server};

/// The original NETunnel server, as the tests run it.
const NETUNNEL_SERVER: &str = include_str!("../../../tests/python/netunnel_server.py");

/// Which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    Direct,
    Relay,
    Splice,
    Rathole,
    Original,
    Ours,
    Nginx,
}

impl Which {
    /// In the order of a round.
    pub(super) const ALL: [Self; 7] = [
        Self::Direct,
        Self::Relay,
        Self::Splice,
        Self::Rathole,
        Self::Original,
        Self::Ours,
        Self::Nginx,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Relay => "relay",
            Self::Splice => "splice",
            Self::Rathole => "rathole",
            Self::Original => "original",
            Self::Ours => "ours",
            Self::Nginx => "nginx",
        }
    }
}

/// One that runs.
pub(super) struct Subject {
    pub(super) which: Which,
    pub(super) entrance: u16,
    /// What it consists of, ended in this order.
    servers: Vec<Server>,
    daemon: Option<Daemon>,
}

/// What it used since then.
pub(super) struct Used(Vec<Cpu>);

impl Subject {
    pub(super) fn start(which: Which, options: &RunOptions, service: u16) -> Result<Self> {
        let home = options.folder.join(format!("tunnel-{}", which.name()));
        if home.exists() {
            fs::remove_dir_all(&home)?;
        }
        fs::create_dir_all(&home)?;
        let entrance = process::free_port()?;
        let new = Self { which, entrance, servers: Vec::new(), daemon: None };
        let maker = Maker { options, home: &home, service };
        let subject = match which {
            Which::Direct => Self { entrance: service, ..new },
            Which::Relay => maker.relay(new, false)?,
            Which::Splice => maker.relay(new, true)?,
            Which::Rathole => maker.rathole(new)?,
            Which::Original => maker.original(new)?,
            Which::Ours => maker.ours(new)?,
            Which::Nginx => maker.nginx(new)?,
        };
        subject.wait()?;
        Ok(subject)
    }

    /// Until a byte comes back through it.
    fn wait(&self) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            match traffic::open_echo(self.entrance) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > end => {
                    let said: Vec<String> = self.servers.iter().map(Server::output).collect();
                    bail!(
                        "{} carries nothing ({error:#}):\n{}",
                        self.which.name(),
                        said.join("\n")
                    );
                }
                Err(_) => sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Its process at the side of the service, the one at the side of the entrance.
    pub(super) fn ends(&self) -> Option<(u32, u32)> {
        let own = |place: usize| self.servers.get(place).map(Server::id);
        match self.which {
            Which::Ours | Which::Nginx => Some((self.daemon.as_ref()?.id(), own(0)?)),
            _ => Some((own(1)?, own(0)?)),
        }
    }

    /// Begins to count what all its processes use.
    pub(super) fn count(&self) -> Result<Used> {
        let mut processes: Vec<u32> = self.servers.iter().map(Server::id).collect();
        processes.extend(self.daemon.as_ref().map(Daemon::id));
        // The workers of nginx.
        let children: Vec<u32> =
            processes.iter().flat_map(|process| process::children(*process)).collect();
        processes.extend(children);
        Ok(Used(processes.into_iter().map(Cpu::of).collect::<Result<_>>()?))
    }
}

impl Used {
    /// Seconds of CPU; none where nothing lies between.
    pub(super) fn seconds(&self) -> Result<Option<f64>> {
        let seconds: f64 = self.0.iter().map(Cpu::used).sum::<Result<_>>()?;
        Ok((!self.0.is_empty()).then_some(seconds))
    }
}

struct Maker<'a> {
    options: &'a RunOptions,
    home: &'a Path,
    service: u16,
}

impl Maker<'_> {
    /// Two hops, as a tunnel has them.
    fn relay(&self, mut subject: Subject, splices: bool) -> Result<Subject> {
        let between = process::free_port()?;
        for (name, port, target) in
            [("first", subject.entrance, between), ("second", between, self.service)]
        {
            let mut command = own()?;
            command.args(["relay", &port.to_string(), &target.to_string()]);
            command.args(splices.then_some("--splice"));
            subject.servers.push(self.run(&format!("relay-{name}"), command)?);
        }
        Ok(subject)
    }

    /// Its entrance is at its server.
    fn rathole(&self, mut subject: Subject) -> Result<Subject> {
        let (between, rathole) = (process::free_port()?, path(self.options.rathole()?)?);
        let ends = [
            (
                "server",
                format!("bind_addr = \"127.0.0.1:{between}\""),
                "bind_addr",
                subject.entrance,
            ),
            (
                "client",
                format!("remote_addr = \"127.0.0.1:{between}\""),
                "local_addr",
                self.service,
            ),
        ];
        for (end, control, address, port) in ends {
            let file = self.home.join(format!("{end}.toml"));
            let text = format!(
                "[{end}]\n{control}\ndefault_token = \"bench\"\n[{end}.services.bench]\n{address} = \"127.0.0.1:{port}\"\n"
            );
            fs::write(&file, text)?;
            let mut command = process::free(rathole);
            command.arg(format!("--{end}")).arg(&file);
            subject.servers.push(self.run(&format!("rathole-{end}"), command)?);
        }
        Ok(subject)
    }

    fn original(&self, mut subject: Subject) -> Result<Subject> {
        let (port, python) = (process::free_port()?.to_string(), path(self.options.python()?)?);
        let mut server = process::free(python);
        server.args(["-c", NETUNNEL_SERVER, "-p", &port, "-c"]).arg(self.home.join("server.json"));
        let mut server = self.run("netunnel-server", server)?;
        let mut client = process::free(python);
        client.args(["-m", "netunnel.client", "-s", &format!("http://127.0.0.1:{port}")]);
        client.args(self.forward(&subject));
        subject.servers.push(self.run_after(
            &mut server,
            port.parse()?,
            "netunnel-client",
            client,
        )?);
        subject.servers.push(server);
        Ok(subject)
    }

    fn ours(&self, mut subject: Subject) -> Result<Subject> {
        let daemon = self.daemon("auth = \"none\"")?;
        let client = self.client(&subject, &format!("http://127.0.0.1:{}", daemon.netunnel));
        subject.servers.push(self.run("jwtunnel", client?)?);
        subject.daemon = Some(daemon);
        Ok(subject)
    }

    /// Behind nginx in the configuration that ships, which asks for tokens.
    fn nginx(&self, mut subject: Subject) -> Result<Subject> {
        let daemon = self.daemon("")?;
        let listen = process::free_port()?;
        let (conf, module) =
            (self.home.join("nginx"), self.options.build.join("ngx_http_jwt_module.so"));
        let mut make = Command::new("scripts/nginx-conf.sh");
        make.arg(&conf).arg(format!("listen=127.0.0.1:{listen}"));
        make.arg(format!("netunnel=127.0.0.1:{}", daemon.netunnel));
        make.arg(format!("jwthenticator=127.0.0.1:{}", daemon.public));
        make.arg(format!("service=127.0.0.1:{}", self.service)).arg("workers=1");
        make.arg(format!("jwks={}", daemon.jwks().display()));
        make.arg(format!("module={}", module.display()));
        process::output(&mut make)?;
        let mut nginx = process::free(nginx::PROGRAM);
        nginx
            .arg("-e")
            .arg(conf.join("state/error.log"))
            .arg("-c")
            .arg(conf.join("conf/nginx.conf"));
        nginx.args(["-g", "daemon off;"]);
        let mut nginx = self.run("nginx", nginx)?;

        let key = "a key of the benchmark";
        let body = json!({"key": key, "identifier": "00000000-0000-0000-0000-000000000000"});
        call(&format!("http://127.0.0.1:{}/register_key", daemon.internal), &body)?;
        let key_file = self.home.join("client.key");
        fs::write(&key_file, key)?;
        let mut client = self.client(&subject, &format!("http://127.0.0.1:{listen}/netunnel"))?;
        client.arg("--key-file").arg(key_file);
        subject.servers.push(self.run_after(&mut nginx, listen, "jwtunnel", client)?);
        subject.servers.push(nginx);
        subject.daemon = Some(daemon);
        Ok(subject)
    }

    fn daemon(&self, netunnel: &str) -> Result<Daemon> {
        let program = self.options.daemon();
        Daemon::start(process::free(path(&program)?), &self.home.join("data"), None, netunnel)
    }

    fn client(&self, subject: &Subject, server: &str) -> Result<Command> {
        let program = self.options.build.join("jwtunnel");
        let mut client = process::free(path(&program)?);
        client.args(["connect", "-s", server]).args(self.forward(subject));
        Ok(client)
    }

    /// The same for both clients.
    fn forward(&self, subject: &Subject) -> [String; 4] {
        let (local, remote) = (subject.entrance.to_string(), self.service.to_string());
        ["--local-port".to_owned(), local, "--remote-port".to_owned(), remote]
    }

    fn run_after(
        &self,
        server: &mut Server,
        port: u16,
        name: &str,
        command: Command,
    ) -> Result<Server> {
        server.wait_for(port, Duration::from_secs(30))?;
        self.run(name, command)
    }

    fn run(&self, name: &str, command: Command) -> Result<Server> {
        Server::start(name, command, &self.home.join(format!("{name}.log")))
    }
}

/// This program, for its part in the tunnels.
pub(super) fn own() -> Result<Command> {
    let own = std::env::current_exe().context("this program has no path")?;
    let mut command = process::free(path(&own)?);
    command.arg("tunnel");
    Ok(command)
}

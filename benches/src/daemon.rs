//! jwtunneld, as an operator starts it, but for places and ports.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::process::{self, Server};

/// A daemon that serves.
#[derive(Debug)]
pub(crate) struct Daemon {
    server: Server,
    pub(crate) public: u16,
    pub(crate) internal: u16,
    pub(crate) netunnel: u16,
    home: PathBuf,
}

impl Daemon {
    /// Starts it with its files in `home`. `database` is its `database_url`, or SQLite in `home`; `netunnel` are
    /// more lines of that section. `command` runs `jwtunneld`.
    pub(crate) fn start(
        mut command: Command,
        home: &Path,
        database: Option<&str>,
        netunnel: &str,
    ) -> Result<Self> {
        fs::create_dir_all(home).with_context(|| format!("can't make {}", home.display()))?;
        let dir = home.display();
        let own = format!("sqlite://{}", sqlite(home).display());
        let [public, internal, tunnels] =
            [process::free_port()?, process::free_port()?, process::free_port()?];
        let text = format!(
            "[jwthenticator]\nlisten = \"127.0.0.1:{public}\"\ninternal_listen = \"127.0.0.1:{internal}\"\n\
             database_url = \"{}\"\n[keys]\ndirectory = \"{dir}/keys\"\n[jwks]\nfile = \"{dir}/public/jwks.json\"\n\
             [netunnel]\nlisten = \"127.0.0.1:{tunnels}\"\nstate_file = \"{dir}/netunnel.json\"\n{netunnel}\n",
            database.unwrap_or(&own)
        );
        let config = home.join("jwtunneld.toml");
        fs::write(&config, text)?;
        command.arg("--config").arg(config);
        let name = format!("jwtunneld in {dir}");
        let mut server = Server::start(&name, command, &home.join("daemon.log"))?;
        for port in [public, internal, tunnels] {
            server.wait_for(port, Duration::from_secs(30))?;
        }
        // It listens before it has keys; an nginx in front wants their file.
        wait_for_file(&home.join("public/revoked.json"))
            .with_context(|| format!("its log ends so:\n{}", server.output()))?;
        Ok(Self { server, public, internal, netunnel: tunnels, home: home.to_owned() })
    }

    /// The key set that it writes for nginx.
    pub(crate) fn jwks(&self) -> PathBuf {
        self.home.join("public/jwks.json")
    }

    /// The process.
    pub(crate) fn id(&self) -> u32 {
        self.server.id()
    }

    /// The end of its log.
    pub(crate) fn output(&self) -> String {
        self.server.output()
    }
}

fn wait_for_file(file: &Path) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(30);
    while !file.exists() {
        ensure!(Instant::now() < end, "there is no {}", file.display());
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Where the database of a daemon is that has its own.
pub(crate) fn sqlite(home: &Path) -> PathBuf {
    home.join("jwtunnel.db")
}

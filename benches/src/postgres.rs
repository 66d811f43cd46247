//! A PostgreSQL server of the benchmark's own, from Debian's package, with its settings as they are by default.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::process::{self, SERVER_CORE, Server};

/// Known to everyone on this machine who reads this file; the server lives as long as a run.
const PASSWORD: &str = "bench-only";

/// A server.
#[derive(Debug)]
pub(crate) struct Postgres {
    _server: Server,
    port: u16,
}

impl Postgres {
    /// Makes and starts one on the core of the servers, with the databases.
    pub(crate) fn start(folder: &Path, databases: &[&str]) -> Result<Self> {
        let home = folder.join("postgres");
        fs::create_dir_all(&home)?;
        let password = home.join("password");
        fs::write(&password, PASSWORD)?;
        fs::set_permissions(&password, fs::Permissions::from_mode(0o644))?;
        if is_root(folder)? {
            process::output(Command::new("chown").arg("postgres").arg(&home))?;
        }
        let data = home.join("data");
        let mut initdb = as_postgres(folder, &binary("initdb"))?;
        initdb.args(["--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8"]);
        initdb.args(["--locale=C", "--no-instructions", "--no-sync"]);
        initdb.arg(format!("--pwfile={}", password.display())).arg("-D").arg(&data);
        process::output(&mut initdb)?;
        let port = process::free_port()?;
        let mut command = as_postgres(folder, Path::new("taskset"))?;
        command.args(["--cpu-list", &SERVER_CORE.to_string()]).arg(binary("postgres"));
        command.arg("-D").arg(&data).args(["-p", &port.to_string()]);
        command.args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]);
        let mut server = Server::start("PostgreSQL", command, &folder.join("postgres.log"))?;
        server.wait_for(port, Duration::from_secs(60))?;
        let postgres = Self { _server: server, port };
        postgres.wait_until_ready()?;
        for database in databases {
            postgres.psql("postgres", &format!("CREATE DATABASE {database}"))?;
        }
        Ok(postgres)
    }

    /// It listens before it lets anybody in.
    fn wait_until_ready(&self) -> Result<()> {
        const TRIES: u32 = 300;
        let mut result = Ok(());
        for _ in 0..TRIES {
            result = self.psql("postgres", "SELECT 1").map(drop);
            if result.is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        result
    }

    /// The URL of a database, with the scheme of whoever asks.
    pub(crate) fn url(&self, scheme: &str, database: &str) -> String {
        format!("{scheme}://postgres:{PASSWORD}@127.0.0.1:{}/{database}", self.port)
    }

    /// Runs SQL and gives the rows, a line each.
    pub(crate) fn psql(&self, database: &str, sql: &str) -> Result<String> {
        let mut command = Command::new("psql");
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "postgres"]);
        command.args(["-d", database, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql]);
        process::output(command.env("PGPASSWORD", PASSWORD))
    }
}

fn is_root(own: &Path) -> Result<bool> {
    Ok(fs::metadata(own)?.uid() == 0)
}

/// PostgreSQL refuses to run as root. `own` is a folder that this process has made.
fn as_postgres(own: &Path, program: &Path) -> Result<Command> {
    let mut command = Command::new("setpriv");
    // INT: not to wait for clients that do not go.
    command.args(["--pdeathsig", "INT"]);
    if is_root(own)? {
        command.args(["--reuid", "postgres", "--regid", "postgres", "--init-groups"]);
    }
    command.arg(program).current_dir("/").stdin(std::process::Stdio::null());
    Ok(command)
}

/// Debian keeps the server's programs where no PATH looks; the newest version.
fn binary(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin").join(name)))
        })
        .filter(|(_, path)| path.exists())
        .collect();
    found.sort();
    found.pop().map_or_else(|| name.into(), |(_, path)| path)
}

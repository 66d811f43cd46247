//! A PostgreSQL server of the tests' own, from Debian's package: in a temporary folder, on a free loopback
//! port, ended with the last test that uses it, or with the process if that is killed.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]

use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Known to everyone on this machine who reads this file; the server lives as long as a test.
pub const PASSWORD: &str = "test-only";

static RUNNING: Mutex<Weak<Server>> = Mutex::new(Weak::new());

/// A running server.
pub struct Server {
    folder: tempfile::TempDir,
    pub port: u16,
    process: Mutex<Option<Process>>,
}

struct Process {
    shell: Child,
    /// The shell stops the server when this closes, so nothing is left if the tests are killed.
    leash: Option<ChildStdin>,
}

/// A database of its own on the shared server.
#[derive(Clone)]
pub struct Database {
    pub server: Arc<Server>,
    pub name: String,
}

impl Database {
    /// An empty database.
    pub fn create() -> Self {
        Self::on(Server::shared())
    }

    pub fn on(server: Arc<Server>) -> Self {
        let database = Self { server, name: format!("t{}", uuid::Uuid::new_v4().simple()) };
        database.server.psql("postgres", &format!("CREATE DATABASE {}", database.name));
        database
    }

    /// Its URL, as sqlx and SQLAlchemy read it behind their scheme.
    pub fn url(&self) -> String {
        format!("postgres://postgres:{PASSWORD}@127.0.0.1:{}/{}", self.server.port, self.name)
    }

    /// Runs SQL and gives the answer's fields, separated by `|`, rows by newlines.
    pub fn psql(&self, sql: &str) -> String {
        self.server.psql(&self.name, sql)
    }

    /// Everything in it, as text.
    pub fn dump(&self) -> Vec<u8> {
        let port = self.server.port.to_string();
        let mut command = Command::new(binary("pg_dump"));
        command.args(["-h", "127.0.0.1", "-p", &port, "-U", "postgres", &self.name]);
        let output = command.env("PGPASSWORD", PASSWORD).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }
}

impl Server {
    /// The server that all tests of this process share.
    pub fn shared() -> Arc<Self> {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = running.upgrade() {
            return server;
        }
        let server = Arc::new(Self::start());
        *running = Arc::downgrade(&server);
        server
    }

    /// A server for a test that stops it.
    pub fn start() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("jwtunnel-postgres-")
            .permissions(std::fs::Permissions::from_mode(0o700))
            .tempdir()
            .unwrap();
        // PostgreSQL refuses to run as root.
        if is_root() {
            let status = Command::new("chown").arg("postgres").arg(folder.path()).status().unwrap();
            assert!(status.success());
        }
        let password = folder.path().join("password");
        std::fs::write(&password, PASSWORD).unwrap();
        std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o644)).unwrap();
        let data = folder.path().join("data");
        let mut initdb = as_postgres(&binary("initdb"));
        initdb.args([
            "--no-sync",
            "--username=postgres",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
        ]);
        initdb.args(["--locale=C", "--no-instructions"]);
        initdb.arg(format!("--pwfile={}", password.display())).arg("-D").arg(&data);
        let output = initdb.current_dir("/").output().unwrap();
        assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        // Freed just before the server binds it; nothing else on this machine asks for ports at random.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = Self { folder, port, process: Mutex::new(None) };
        server.resume();
        server
    }

    /// Starts the server, which was not running.
    pub fn resume(&self) {
        let data = self.folder.path().join("data");
        let script = r#"
            "$@" & server=$!
            trap 'kill -INT $server 2>/dev/null' TERM INT
            cat >/dev/null
            kill -INT $server 2>/dev/null
            wait $server"#;
        let mut command = as_postgres(Path::new("/bin/sh"));
        command.args(["-c", script, "sh"]).arg(binary("postgres")).arg("-D").arg(data);
        command.args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
        command.args(["-c", "unix_socket_directories=", "-c", "max_connections=200"]);
        command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut shell = command.spawn().unwrap();
        let mut stderr = shell.stderr.take().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let sink = log.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length) = stderr.read(&mut buffer) {
                if length == 0 {
                    break;
                }
                sink.lock().unwrap().extend_from_slice(&buffer[..length]);
            }
        });
        let leash = shell.stdin.take();
        *self.process.lock().unwrap() = Some(Process { shell, leash });
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.try_psql("postgres", "SELECT 1").as_deref() != Some("1") {
            let log = log.lock().unwrap();
            assert!(Instant::now() < deadline, "PostgreSQL: {}", String::from_utf8_lossy(&log));
            drop(log);
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Stops the server as an administrator does in a hurry: its clients' connections are cut.
    pub fn stop(&self) {
        if let Some(mut process) =
            self.process.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            drop(process.leash.take());
            let _ = process.shell.wait();
        }
    }

    pub fn psql(&self, database: &str, sql: &str) -> String {
        self.try_psql(database, sql).unwrap_or_else(|| panic!("psql failed: {sql}"))
    }

    fn try_psql(&self, database: &str, sql: &str) -> Option<String> {
        let mut command = Command::new(binary("psql"));
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "postgres"]);
        command.args(["-d", database, "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql]);
        let output =
            command.env("PGPASSWORD", PASSWORD).env("PGCONNECT_TIMEOUT", "5").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        output.status.success().then(|| text.trim_end().to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

fn as_postgres(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--"]).arg(program);
    command
}

/// Debian keeps the server's programs out of the PATH, in a folder for each version.
fn binary(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").map(|entries| {
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path().join("bin").join(name)));
        let mut paths: Vec<_> = paths.filter(|path| path.exists()).collect();
        paths.sort();
        paths
    });
    versions
        .ok()
        .and_then(|mut paths| paths.pop())
        .unwrap_or_else(|| panic!("there is no PostgreSQL ({name}); run: scripts/packages.sh test"))
}

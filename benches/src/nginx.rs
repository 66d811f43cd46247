//! nginx with one worker on the server's core, with and without the module.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::keys::Keys;
use crate::process::{self, SERVER_CORE, Server};

/// About what a small answer of a service is; the point is the request, not the file.
pub(crate) const BODY: &str = "{\"status\":\"ok\",\"items\":[1,2,3,4,5,6,7,8],\"text\":\"a small static file of about one hundred bytes.\"}\n";

/// Debian keeps it where the PATH of an ordinary user does not look.
pub(crate) const PROGRAM: &str = "/usr/sbin/nginx";

/// What the server is built from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Without the module.
    Plain,
    /// With it, every token checked anew.
    Uncached,
    /// With it and its cache as it is by default.
    Cached,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Uncached => "uncached",
            Self::Cached => "cached",
        }
    }
}

/// Makes nginx's configurations.
#[derive(Debug)]
pub(crate) struct Nginx<'k> {
    folder: PathBuf,
    module: PathBuf,
    keys: &'k Keys,
}

/// How its processes are arranged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Processes {
    MasterAndWorker,
    One,
}

/// An nginx that serves.
#[derive(Debug)]
pub(crate) struct Running {
    server: Server,
    port: u16,
    worker: u32,
    error_log: PathBuf,
}

impl<'k> Nginx<'k> {
    /// Puts the file in its places.
    pub(crate) fn new(folder: &Path, module: &Path, keys: &'k Keys) -> Result<Self> {
        for location in ["open", "jwt"] {
            let files = folder.join("www").join(location);
            fs::create_dir_all(&files)?;
            fs::write(files.join("file"), BODY)?;
        }
        Ok(Self { folder: folder.to_owned(), module: module.to_owned(), keys })
    }

    /// Starts one.
    pub(crate) fn start(&self, kind: Kind) -> Result<Running> {
        self.start_by(kind, kind.name(), Processes::MasterAndWorker, |conf, error_log| {
            let mut command = process::pinned(SERVER_CORE, PROGRAM);
            command.arg("-e").arg(error_log).arg("-c").arg(conf);
            command
        })
    }

    /// Starts one as a single process under another program, whose command line `under` begins.
    pub(crate) fn start_under(
        &self,
        kind: Kind,
        name: &str,
        mut under: Command,
    ) -> Result<Running> {
        self.start_by(kind, name, Processes::One, move |conf, error_log| {
            under.arg(PROGRAM).arg("-e").arg(error_log).arg("-c").arg(conf);
            under
        })
    }

    fn start_by(
        &self,
        kind: Kind,
        name: &str,
        processes: Processes,
        command: impl FnOnce(&Path, &Path) -> Command,
    ) -> Result<Running> {
        let home = self.home(name)?;
        let port = process::free_port()?;
        let conf = self.configure(&home, kind, port, processes)?;
        let error_log = home.join("error.log");
        let name = format!("nginx ({name})");
        let mut server = Server::start(&name, command(&conf, &error_log), &home.join("output"))?;
        // Under valgrind the start takes seconds.
        server
            .wait_for(port, Duration::from_secs(60))
            .with_context(|| format!("its error log:\n{}", process::tail(&error_log)))?;
        let worker = match processes {
            Processes::MasterAndWorker => worker(server.id())?,
            Processes::One => server.id(),
        };
        Ok(Running { server, port, worker, error_log })
    }

    fn home(&self, name: &str) -> Result<PathBuf> {
        let home = self.folder.join(format!("nginx-{name}"));
        fs::create_dir_all(&home)?;
        Ok(home)
    }

    fn configure(
        &self,
        home: &Path,
        kind: Kind,
        port: u16,
        processes: Processes,
    ) -> Result<PathBuf> {
        let (load, http, location) = if kind == Kind::Plain {
            (String::new(), String::new(), "")
        } else {
            let cache = if kind == Kind::Uncached { "auth_jwt_cache off;" } else { "" };
            // What is set beside the key file is what the shipped configuration sets.
            let http = format!(
                "    auth_jwt_key_file {};\n    auth_jwt_leeway 60s;\n    auth_jwt_require_exp on;\n    {cache}\n",
                self.keys.jwks().display()
            );
            (format!("load_module {};\n", self.module.display()), http, "auth_jwt \"bench\";")
        };
        let master = if processes == Processes::One { "master_process off;\n" } else { "" };
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|name| format!("    {name}_temp_path {}/{name};\n", home.display()))
            .collect();
        // Without sendfile a file of this size goes out in the same write as its head, which is the fastest way, so
        // that what the module adds weighs most.
        let text = format!(
            "{load}daemon off;\n{master}worker_processes 1;\npid {home}/nginx.pid;\nerror_log {home}/error.log info;\n\
             events {{\n    worker_connections 1024;\n}}\n\
             http {{\n    access_log off;\n    sendfile off;\n    default_type application/json;\n    \
             keepalive_requests 1000000000;\n    keepalive_timeout 600s;\n{temporary}{http}    \
             server {{\n        listen 127.0.0.1:{port};\n        root {www};\n        \
             location /open/ {{ }}\n        location /jwt/ {{ {location} }}\n    }}\n}}\n",
            home = home.display(),
            www = self.folder.join("www").display(),
        );
        let conf = home.join("nginx.conf");
        fs::write(&conf, text)?;
        Ok(conf)
    }
}

impl Running {
    /// The file without protection.
    pub(crate) fn open(&self) -> String {
        format!("http://127.0.0.1:{}/open/file", self.port)
    }

    /// The same file behind `auth_jwt`.
    pub(crate) fn protected(&self) -> String {
        format!("http://127.0.0.1:{}/jwt/file", self.port)
    }

    /// The process that answers.
    pub(crate) fn worker(&self) -> u32 {
        self.worker
    }

    /// The end of its error log.
    pub(crate) fn errors(&self) -> String {
        process::tail(&self.error_log)
    }

    pub(crate) fn stop(mut self) -> Result<()> {
        self.server.stop(Duration::from_secs(60))
    }
}

/// The only child of the master.
fn worker(master: u32) -> Result<u32> {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        if let [worker] = process::children(master)[..] {
            return Ok(worker);
        }
        if Instant::now() > end {
            bail!("nginx (pid {master}) has not exactly one worker");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

//! Our daemon and the original under one hat: both have the same API.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::http::call;
use crate::options::RunOptions;
use crate::original::{self, Jwthenticator};
use crate::postgres::Postgres;
use crate::process::{self, SERVER_CORE};

/// Whom all tokens name.
const IDENTIFIER: &str = "4bd1b1a4-5bd1-4e23-9c83-2f7c1d1fd0aa";
const KEY: &str = "a key of the benchmark";

/// A service with a registered key, and the bodies of the requests with it.
#[derive(Debug)]
pub(crate) struct Service {
    program: Program,
    bodies: PathBuf,
}

#[derive(Debug)]
enum Program {
    Ours(Daemon),
    Original(Jwthenticator),
}

impl Service {
    /// Our daemon, on SQLite if no other database is named.
    pub(crate) fn ours(options: &RunOptions, name: &str, database: Option<&str>) -> Result<Self> {
        let daemon = daemon(options, name, database)?;
        let bodies = options.folder.join(format!("bodies-{name}"));
        Self { program: Program::Ours(daemon), bodies }.enrol()
    }

    /// The original on an SQLite database of its own.
    pub(crate) fn original_on_sqlite(options: &RunOptions) -> Result<Self> {
        let file = options.folder.join("jwthenticator.db");
        let file = original::path(&file)?;
        let urls = [format!("sqlite:///{file}"), format!("sqlite+aiosqlite:///{file}")];
        Self::original(options, "original-sqlite", urls)
    }

    /// The original on PostgreSQL, by the drivers that it has by default.
    pub(crate) fn original_on_postgres(
        options: &RunOptions,
        postgres: &Postgres,
        database: &str,
    ) -> Result<Self> {
        let schemes = ["postgresql+pg8000", "postgresql+asyncpg"];
        let urls = schemes.map(|scheme| postgres.url(scheme, database));
        Self::original(options, "original-postgres", urls)
    }

    fn original(options: &RunOptions, name: &str, urls: [String; 2]) -> Result<Self> {
        let program = Jwthenticator::start(options, name, &urls[0], &urls[1])?;
        let bodies = options.folder.join(format!("bodies-{name}"));
        Self { program: Program::Original(program), bodies }.enrol()
    }

    /// Registers a key and makes the requests with it, as an operator and a client do.
    fn enrol(self) -> Result<Self> {
        let login = json!({"key": KEY, "identifier": IDENTIFIER});
        let registered = call(&self.internal("register_key"), &login);
        registered.with_context(|| format!("its output ends so:\n{}", self.output()))?;
        let tokens = call(&self.url("authenticate"), &login)?;
        let text = |name: &str| tokens[name].as_str().context("no token").map(str::to_owned);
        fs::create_dir_all(&self.bodies)?;
        self.write("authenticate", &login)?;
        self.write("validate", &json!({"jwt": text("jwt")?}))?;
        self.write("refresh", &refresh(&text("refresh_token")?))?;
        Ok(self)
    }

    fn write(&self, what: &str, body: &Value) -> Result<()> {
        Ok(fs::write(self.bodies.join(what), format!("{body}\n"))?)
    }

    /// The file with the bodies of the requests of a route; a route without one is asked by `GET`.
    pub(crate) fn body(&self, what: &str) -> Option<PathBuf> {
        Some(self.bodies.join(what)).filter(|file| file.exists())
    }

    pub(crate) fn url(&self, route: &str) -> String {
        let port = match &self.program {
            Program::Ours(daemon) => daemon.public,
            Program::Original(server) => server.port,
        };
        format!("http://127.0.0.1:{port}/{route}")
    }

    fn internal(&self, route: &str) -> String {
        match &self.program {
            Program::Ours(daemon) => format!("http://127.0.0.1:{}/{route}", daemon.internal),
            Program::Original(_) => self.url(route),
        }
    }

    /// The process that answers.
    pub(crate) fn id(&self) -> u32 {
        match &self.program {
            Program::Ours(daemon) => daemon.id(),
            Program::Original(server) => server.id(),
        }
    }

    /// The end of its output.
    pub(crate) fn output(&self) -> String {
        match &self.program {
            Program::Ours(daemon) => daemon.output(),
            Program::Original(server) => server.output(),
        }
    }
}

/// Our daemon alone.
pub(super) fn daemon(options: &RunOptions, name: &str, database: Option<&str>) -> Result<Daemon> {
    let program = options.daemon();
    let command = process::pinned(SERVER_CORE, original::path(&program)?);
    Daemon::start(command, &home(options, name), database, "")
}

/// Where such a daemon has its files.
pub(super) fn home(options: &RunOptions, name: &str) -> PathBuf {
    options.folder.join(format!("daemon-{name}"))
}

/// The body of a `/refresh`.
pub(super) fn refresh(token: &str) -> Value {
    json!({"refresh_token": token, "identifier": IDENTIFIER})
}

/// Puts a service's requests for `/refresh` in place of its one.
pub(super) fn replace_refresh(
    service: &Service,
    tokens: impl Iterator<Item = String>,
) -> Result<()> {
    let bodies: String = tokens.map(|token| format!("{}\n", refresh(&token))).collect();
    let file: &Path = &service.bodies.join("refresh");
    Ok(fs::write(file, bodies)?)
}

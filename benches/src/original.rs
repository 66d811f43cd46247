//! The original Python programs, unmodified, in the versions that the tests pin.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::options::RunOptions;
use crate::process::{self, SERVER_CORE, Server};

/// A `jwthenticator.server` that serves.
#[derive(Debug)]
pub(crate) struct Jwthenticator {
    server: Server,
    pub(crate) port: u16,
}

impl Jwthenticator {
    /// Starts it. `plain` and `asynchronous` are the SQLAlchemy URLs of one database by its two drivers.
    pub(crate) fn start(
        options: &RunOptions,
        name: &str,
        plain: &str,
        asynchronous: &str,
    ) -> Result<Self> {
        let port = process::free_port()?;
        let mut command = process::pinned(SERVER_CORE, path(options.python()?)?);
        command.args(["-m", "jwthenticator.server"]);
        command.env("PORT", port.to_string());
        command.env("DB_URI", plain).env("ASYNC_URI", asynchronous);
        let log = options.folder.join(format!("jwthenticator-{name}.log"));
        let mut server = Server::start(&format!("jwthenticator ({name})"), command, &log)?;
        server.wait_for(port, Duration::from_secs(30))?;
        Ok(Self { server, port })
    }

    /// The process.
    pub(crate) fn id(&self) -> u32 {
        self.server.id()
    }

    /// The end of its output.
    pub(crate) fn output(&self) -> String {
        self.server.output()
    }
}

pub(crate) fn path(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

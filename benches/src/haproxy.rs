//! HAProxy with one thread on the server's core: the peer that Debian has. It serves no files, so it is compared
//! with itself: the same answer with and without `jwt_verify`.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::keys::{Algorithm, Keys};
use crate::process::{self, SERVER_CORE, Server};

/// Debian keeps it where the PATH of an ordinary user does not look.
pub(crate) const PROGRAM: &str = "/usr/sbin/haproxy";

/// A HAProxy that serves.
#[derive(Debug)]
pub(crate) struct Haproxy {
    server: Server,
    open: u16,
    protected: Vec<(Algorithm, u16)>,
}

impl Haproxy {
    /// Starts it with a port without protection, and one for each algorithm that it knows.
    pub(crate) fn start(folder: &Path, keys: &Keys) -> Result<Self> {
        let body = folder.join("www/open/file");
        // The constant form: HAProxy need not read the header. As in nginx, the answer is all that follows.
        let answer = format!(
            "    http-request return status 200 content-type application/json file {}\n",
            body.display()
        );
        let mut text = String::from(
            "global\n    nbthread 1\n    maxconn 1024\n\ndefaults\n    mode http\n    timeout client 600s\n    \
             timeout connect 600s\n    timeout server 600s\n    timeout http-keep-alive 600s\n",
        );
        let mut frontend = |name: &str, rule: &str| -> Result<u16> {
            let port = process::free_port()?;
            text.push_str(&format!("\nfrontend {name}\n    bind 127.0.0.1:{port}\n{rule}{answer}"));
            Ok(port)
        };
        let open = frontend("open", "")?;
        let mut protected = Vec::new();
        for alg in [Algorithm::Rs256, Algorithm::Es256, Algorithm::Hs256] {
            let key = match alg {
                Algorithm::Hs256 => keys.secret().to_owned(),
                _ => keys.pem(alg).display().to_string(),
            };
            let name = alg.name();
            let rule = format!(
                "    http-request deny unless {{ http_auth_bearer,jwt_verify({name},\"{key}\") -m int 1 }}\n"
            );
            protected.push((alg, frontend(name, &rule)?));
        }
        let conf = folder.join("haproxy.cfg");
        fs::write(&conf, text)?;
        let mut command = process::pinned(SERVER_CORE, PROGRAM);
        command.arg("-db").arg("-f").arg(conf);
        let mut server = Server::start("haproxy", command, &folder.join("haproxy.log"))?;
        server.wait_for(open, Duration::from_secs(10))?;
        Ok(Self { server, open, protected })
    }

    /// The answer without protection.
    pub(crate) fn open(&self) -> String {
        format!("http://127.0.0.1:{}/file", self.open)
    }

    /// The same answer behind `jwt_verify`.
    pub(crate) fn protected(&self, alg: Algorithm) -> Result<String> {
        match self.protected.iter().find(|(known, _)| *known == alg) {
            Some((_, port)) => Ok(format!("http://127.0.0.1:{port}/file")),
            None => bail!("HAProxy has no {}", alg.name()),
        }
    }

    /// The process that answers.
    pub(crate) fn id(&self) -> u32 {
        self.server.id()
    }
}

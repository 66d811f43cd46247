//! The original service, unmodified from PyPI, on a database and with signing keys that ours shares.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use reqwest::Client;
use serde_json::json;
use uuid::Uuid;

use super::{Answer, PATIENCE};

/// A running JWThenticator, ended with its test.
pub struct Original {
    child: Child,
    address: String,
    client: Client,
}

impl Original {
    /// Starts it with these variables, on a port of its own. It makes its database, tables and keys.
    pub async fn start(folder: &Path, variables: &BTreeMap<String, String>) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let log = std::fs::File::create(folder.join("original.log")).unwrap();
        let child = Command::new(python())
            .args(["-m", "jwthenticator.server"])
            .current_dir(folder)
            .env_clear()
            .envs(variables)
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("PORT", port.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let client = Client::builder().no_proxy().build().unwrap();
        let mut original = Self { child, address: format!("127.0.0.1:{port}"), client };
        let deadline = Instant::now() + PATIENCE;
        let url = format!("http://{}/health", original.address);
        while original.client.get(&url).send().await.is_err() {
            let ended = original.child.try_wait().unwrap();
            let log = || std::fs::read_to_string(folder.join("original.log")).unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "{ended:?}: {}", log());
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        original
    }

    pub async fn post(&self, path: &str, body: serde_json::Value) -> Answer {
        let request = self.client.post(format!("http://{}{path}", self.address));
        Answer::of(request.body(body.to_string()).send().await.unwrap()).await
    }

    /// As `Daemon::authenticate`.
    pub async fn authenticate(&self, key: &str, identifier: Uuid) -> (String, String) {
        let answer =
            self.post("/authenticate", json!({"key": key, "identifier": identifier})).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let text = |name: &str| answer.json()[name].as_str().unwrap().to_owned();
        (text("jwt"), text("refresh_token"))
    }

    pub async fn refresh_status(&self, token: &str, identifier: Uuid) -> u16 {
        let body = json!({"refresh_token": token, "identifier": identifier});
        self.post("/refresh", body).await.status.as_u16()
    }
}

impl Drop for Original {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The python that has the original programs; `make test` names it.
fn python() -> String {
    let named = std::env::var("JWTUNNEL_PYTHON").ok().filter(|python| !python.is_empty());
    named.unwrap_or_else(|| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/python-peers.sh");
        let output = Command::new(script).stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "{script} failed");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    })
}

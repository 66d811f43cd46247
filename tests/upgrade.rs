//! nginx's binary upgrade, forward and back, with tokens asked for all the while.
//!
//! nginx upgrades only as a daemon, which a container's first process can't be: this runs on the host in every case,
//! where the package that the module was built against is installed.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use system_tests::{Port, Scratch, SigningKey, built, eventually, get, jwks};

struct Daemon {
    scratch: Scratch,
    listen: Port,
}

impl Daemon {
    fn start(key: &SigningKey) -> Self {
        let daemon = Self { scratch: Scratch::new(), listen: Port::take() };
        let dir = daemon.scratch.path().display().to_string();
        for folder in ["state", "conf", "public"] {
            fs::create_dir_all(daemon.scratch.join(folder)).expect("a folder");
        }
        daemon.scratch.replace("public/jwks.json", jwks(&[key]).as_bytes());
        daemon.scratch.replace("public/page", b"the page");
        let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {dir}/state/{kind};\n"))
            .concat();
        let text = format!(
            "load_module {};\nworker_processes 2;\npid {dir}/state/nginx.pid;\nerror_log {dir}/state/error.log info;\n\
             events {{ }}\nhttp {{\naccess_log off;\n{temp}auth_jwt_key_file {dir}/public/jwks.json;\n\
             server {{ listen {}; root {dir}/public; location / {{ auth_jwt x; }} location = /status {{ auth_jwt_status; }} }}\n}}\n",
            built("ngx_http_jwt_module.so").display(),
            daemon.listen.address(),
        );
        daemon.scratch.replace("conf/nginx.conf", text.as_bytes());
        // The new binary is started under the name of the old one, which must be a path.
        let binary = std::env::var("NGINX_BINARY").unwrap_or_else(|_| "/usr/sbin/nginx".to_owned());
        let output = Command::new(binary)
            .env_remove("NGINX")
            .args(["-e", "stderr", "-c", &format!("{dir}/conf/nginx.conf")])
            .output()
            .expect("nginx");
        assert!(output.status.success(), "{output:?}");
        daemon.pid("nginx.pid");
        daemon
    }

    /// The process id in a file, once it is there.
    fn pid(&self, name: &str) -> String {
        eventually(&format!("a process id in {name}"), || {
            let text = fs::read_to_string(self.scratch.join("state").join(name)).ok()?;
            Some(text.trim().to_owned()).filter(|pid| !pid.is_empty())
        })
    }

    fn signal(&self, pid: &str, name: &str) {
        let sent = Command::new("kill").args(["-s", name, pid]).status().expect("kill");
        assert!(sent.success(), "{name} to {pid}");
    }

    fn workers(&self, master: &str) -> usize {
        let output =
            Command::new("ps").args(["-o", "args=", "--ppid", master]).output().expect("ps");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().filter(|line| line.contains("nginx: worker process")).count()
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.listen.address())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        for name in ["nginx.pid", "nginx.pid.oldbin"] {
            if let Ok(pid) = fs::read_to_string(self.scratch.join("state").join(name)) {
                let _ = Command::new("kill").args(["-s", "TERM", pid.trim()]).status();
            }
        }
    }
}

/// rel:F8 at a small size: no request fails, neither on the way there nor on the way back.
#[test]
fn a_binary_upgrade_and_its_roll_back_change_no_verdict() {
    let key = SigningKey::generate("a");
    let daemon = Arc::new(Daemon::start(&key));
    let stop = Arc::new(AtomicBool::new(false));
    let client = {
        let (daemon, stop) = (Arc::clone(&daemon), Arc::clone(&stop));
        let (good, bad) = (key.token("me"), SigningKey::generate("a").token("me"));
        thread::spawn(move || {
            let mut asked = 0;
            while !stop.load(Ordering::Relaxed) {
                for (token, status) in [(&good, 200), (&bad, 401)] {
                    let bearer = format!("Bearer {token}");
                    let answer = get(&daemon.url("/page"), &[("authorization", &bearer)]);
                    assert_eq!(answer.status, status, "{answer:?}");
                    asked += 1;
                }
            }
            asked
        })
    };
    let old = daemon.pid("nginx.pid");
    for _ in 0..2 {
        // Forward: a new master with workers of its own beside the old one; then the old workers go.
        daemon.signal(&old, "USR2");
        daemon.pid("nginx.pid.oldbin");
        let new = eventually("another master", || {
            Some(daemon.pid("nginx.pid")).filter(|pid| *pid != old)
        });
        eventually("new workers", || (daemon.workers(&new) == 2).then_some(()));
        daemon.signal(&old, "WINCH");
        eventually("the old workers go", || (daemon.workers(&old) == 0).then_some(()));
        // And back: the old master starts workers again, and the new one goes.
        daemon.signal(&old, "HUP");
        eventually("old master's new workers", || (daemon.workers(&old) == 2).then_some(()));
        daemon.signal(&new, "QUIT");
        eventually("the old master alone", || {
            let oldbin = daemon.scratch.join("state/nginx.pid.oldbin");
            (!oldbin.exists() && daemon.pid("nginx.pid") == old).then_some(())
        });
    }
    // Forward for good.
    daemon.signal(&old, "USR2");
    let new =
        eventually("another master", || Some(daemon.pid("nginx.pid")).filter(|pid| *pid != old));
    eventually("new workers", || (daemon.workers(&new) == 2).then_some(()));
    daemon.signal(&old, "QUIT");
    eventually("the old master has ended", || {
        (!daemon.scratch.join("state/nginx.pid.oldbin").exists()).then_some(())
    });
    stop.store(true, Ordering::Relaxed);
    let asked: u32 = client.join().expect("no verdict has changed");
    assert!(asked > 20, "only {asked} requests were made");
    let log = fs::read_to_string(daemon.scratch.join("state/error.log")).expect("the log");
    assert!(!log.contains("[alert]") && !log.contains("[emerg]"), "{log}");
}

//! The daemon under systemd's protocol (sd_notify(3), systemd.socket(5)), its signals, and `make install`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use system_tests::{Daemon, Port, Process, Scratch, ask, build_dir, built, eventually, repository};

/// What arrives on a socket that stands for systemd's.
struct Notified(UnixDatagram);

impl Notified {
    fn next(&self) -> String {
        let mut buffer = [0; 4096];
        let count = self.0.recv(&mut buffer).expect("a notification in time");
        String::from_utf8(buffer[..count].to_vec()).expect("text")
    }

    /// The one that says this, after any others.
    fn expect(&self, wanted: &str) -> Vec<String> {
        let mut before = Vec::new();
        loop {
            let next = self.next();
            if next.lines().any(|line| line == wanted) {
                return before;
            }
            before.push(next);
            assert!(before.len() < 100, "no {wanted:?} among {before:?}");
        }
    }
}

#[test]
fn systemd_is_told_of_readiness_life_and_the_end() {
    let scratch = Scratch::new();
    let path = scratch.join("notify");
    let notified = Notified(UnixDatagram::bind(&path).expect("a socket"));
    notified.0.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
    let path = path.display().to_string();
    let environment = [("NOTIFY_SOCKET", path.as_str()), ("WATCHDOG_USEC", "400000")];
    let mut daemon = Daemon::start_with("", &environment);
    let before = notified.expect("READY=1");
    assert!(before.is_empty(), "nothing is said before it serves: {before:?}");
    assert_eq!(ask("GET", &daemon.internal("/health"), &[], None).status, 200);
    for _ in 0..3 {
        notified.expect("WATCHDOG=1");
    }
    daemon.process().signal("TERM");
    notified.expect("STOPPING=1");
    assert!(daemon.process().wait(Duration::from_secs(30)).success());
}

/// nt:D7: a port that is taken, a state file or a key that can't be read: an error and an end, not a process that serves
/// nothing.
#[test]
fn what_cannot_start_ends_with_an_error_d7() {
    let scratch = Scratch::new();
    let ports: Vec<Port> = (0..3).map(|_| Port::take()).collect();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("its address").to_string();
    let dir = scratch.path().display();
    let [public, internal, own] = [0, 1, 2].map(|index: usize| ports[index].address().to_string());
    fs::write(scratch.join("broken.json"), "{").expect("a file");
    fs::write(scratch.join("bad.key"), "no Fernet key").expect("a file");
    let listener = std::net::TcpListener::bind(&taken);
    for (netunnel, state, more, said) in [
        (&taken, "netunnel.json", "", taken.as_str()),
        (&own, "broken.json", "", "line 1, column 1: not JSON"),
        (&own, "netunnel.json", "secret_key_file = \"DIR/bad.key\"", "it is no Fernet key"),
    ] {
        let more = more.replace("DIR", &dir.to_string());
        let text = format!(
            "[jwthenticator]\nlisten = \"{public}\"\ninternal_listen = \"{internal}\"\n\
             database_url = \"sqlite://{dir}/jwtunnel.db\"\n[keys]\ndirectory = \"{dir}/keys\"\n\
             [jwks]\nfile = \"{dir}/public/jwks.json\"\n\
             [netunnel]\nlisten = \"{netunnel}\"\nstate_file = \"{dir}/{state}\"\n{more}\n"
        );
        scratch.replace("jwtunneld.toml", text.as_bytes());
        let mut command = Command::new(built("jwtunneld"));
        command.arg("--config").arg(scratch.join("jwtunneld.toml"));
        let mut process = Process::start("jwtunneld", &mut command, &scratch.join("daemon.log"));
        let status = process.wait(Duration::from_secs(30));
        assert!(!status.success(), "{status}");
        assert!(process.log().contains(said), "{said}: {}", process.log());
    }
    drop(listener);
}

#[test]
fn sighup_writes_the_key_file_anew() {
    let mut daemon = Daemon::start("");
    let path = daemon.scratch().join("data/public/jwks.json");
    let jwks = fs::read(&path).expect("the key file");
    for spoilt in [None, Some("{\"keys\": []}")] {
        match spoilt {
            None => fs::remove_file(&path).expect("removed"),
            Some(text) => fs::write(&path, text).expect("written"),
        }
        daemon.process().signal("HUP");
        eventually("the key file is back", || {
            fs::read(&path).ok().filter(|now| *now == jwks).map(drop)
        });
    }
    assert!(daemon.process().is_running());
}

#[test]
fn systemd_may_bind_the_sockets() {
    let scratch = Scratch::new();
    let data = scratch.join("data");
    fs::create_dir(&data).expect("a folder");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).expect("its mode");
    let ports: Vec<Port> = (0..3).map(|_| Port::take()).collect();
    let dir = data.display();
    // What is configured here is taken by nobody.
    let text = format!(
        "[jwthenticator]\nlisten = \"127.0.0.1:1\"\ninternal_listen = \"127.0.0.1:2\"\n\
         database_url = \"sqlite://{dir}/jwtunnel.db\"\n[keys]\ndirectory = \"{dir}/keys\"\n\
         [jwks]\nfile = \"{dir}/public/jwks.json\"\n\
         [netunnel]\nlisten = \"127.0.0.1:3\"\nstate_file = \"{dir}/netunnel.json\"\n"
    );
    scratch.replace("jwtunneld.toml", text.as_bytes());
    let mut command = Command::new("systemd-socket-activate");
    for port in &ports {
        command.args(["-l", &port.address().to_string()]);
    }
    command.args(["--fdname=public:internal:netunnel"]).arg(built("jwtunneld"));
    command.arg("--config").arg(scratch.join("jwtunneld.toml"));
    let process = Process::start("jwtunneld", &mut command, &scratch.join("daemon.log"));
    // The first connection starts it; all three sockets listen before.
    let answers = |index: usize, path: &str| {
        let mut stream = TcpStream::connect(ports[index].address()).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    };
    for (index, path) in [(0, "/jwks"), (1, "/status"), (2, "/version")] {
        let answer = eventually("it answers", || answers(index, path));
        let status = if index == 2 { "HTTP/1.1 401" } else { "HTTP/1.1 200" };
        assert!(answer.starts_with(status), "{path}: {answer}\n{}", process.log());
    }
}

#[test]
fn a_body_that_never_comes_is_given_up() {
    let daemon = Daemon::start_with("", &[("JWTUNNEL_JWTHENTICATOR_BODY_TIMEOUT", "1s")]);
    let mut stream = TcpStream::connect(daemon.public().address()).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
    let head = "POST /authenticate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{";
    stream.write_all(head.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer, and the end");
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[test]
fn make_install_puts_everything_in_its_place_and_keeps_what_was_written() {
    let scratch = Scratch::new();
    let root = scratch.join("root");
    let install = || {
        let output = Command::new("make")
            .arg("install")
            .arg(format!("DESTDIR={}", root.display()))
            .arg(format!("BUILD={}", build_dir().display()))
            .current_dir(repository())
            .output()
            .expect("make");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    install();
    let expected = BTreeMap::from([
        ("usr/lib/nginx/modules/ngx_http_jwt_module.so", 0o644),
        ("usr/bin/jwtunneld", 0o755),
        ("usr/bin/jwtunnel", 0o755),
        ("etc/jwtunnel/jwtunneld.toml", 0o644),
        ("usr/lib/systemd/system/jwtunneld.service", 0o644),
    ]);
    for (path, mode) in expected {
        let metadata = fs::metadata(root.join(path)).unwrap_or_else(|_| panic!("no {path}"));
        assert_eq!(metadata.permissions().mode() & 0o777, mode, "{path}");
    }
    let written = root.join("etc/jwtunnel/jwtunneld.toml");
    fs::write(&written, "[keys]\nalgorithm = \"ES256\"\n").expect("an operator's file");
    fs::set_permissions(&written, fs::Permissions::from_mode(0o640)).expect("its mode");
    install();
    assert!(fs::read_to_string(&written).expect("the file").contains("ES256"));
    let mode = fs::metadata(&written).expect("the file").permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    let output = Command::new(root.join("usr/bin/jwtunneld")).arg("--version").output();
    assert!(output.expect("jwtunneld").status.success());
}

//! `jwtunnel connect` and `jwtunnel status`: several tunnels, UNIX sockets, proxies, TLS, and coming back.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use system_tests::{
    Client, Daemon, Gateway, NginxBuilder, Port, Process, PythonServer, Scratch, Service, Tunnel,
    ask, built, eventually, register_peer, static_tunnel, within,
};

const LIMIT: Duration = Duration::from_secs(30);

/// `jwtunnel connect` with the client's key.
fn connect(server: &str, daemon: &Daemon, client: &Client) -> Command {
    let key = daemon.scratch().join(&format!("{}.key", client.identifier));
    fs::write(&key, &client.key).expect("a key file");
    let mut command = Command::new(built("jwtunnel"));
    command.args(["connect", "-s", server, "--key-file"]).arg(key);
    command
}

fn echo_over(mut stream: impl Read + Write) {
    stream.write_all(b"hello").expect("sent");
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).expect("answered");
    assert_eq!(&answer, b"hello");
}

fn dial(port: u16) -> TcpStream {
    dial_at(([127, 0, 0, 1], port).into())
}

fn dial_at(entrance: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(entrance).expect("a connection");
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    stream
}

/// Sends back what comes, on a UNIX socket.
fn unix_echo(path: &Path) {
    let listener = UnixListener::bind(path).expect("a socket");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..count]).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

#[test]
fn several_tunnels_and_unix_sockets_share_one_channel() {
    let gateway = Gateway::start();
    let client = gateway.daemon.register();
    let (scratch, service) = (Scratch::new(), Service::echo());
    let (entrance, exit) = (scratch.join("entrance.sock"), scratch.join("exit.sock"));
    unix_echo(&exit);
    let ports: Vec<Port> = (0..4).map(|_| Port::take()).collect();
    let port = |index: usize| ports[index].number();
    let text = format!(
        "forward = [\"{}:127.0.0.1:{}\"]\nreverse = [\"{}:{}\"]\n",
        port(0),
        service.port(),
        port(1),
        exit.display()
    );
    let config = scratch.join("tunnels.toml");
    fs::write(&config, text).expect("a file");
    // What a killed process left is no obstacle.
    drop(UnixListener::bind(&entrance).expect("a socket"));
    let mut command = connect(&gateway.netunnel(""), &gateway.daemon, &client);
    command.arg("--config").arg(&config);
    command.args(["-L", &format!("{}:127.0.0.1:{}", entrance.display(), service.port())]);
    command.args(["-L", &format!("127.0.0.1:{}:127.0.0.1:{}", port(2), service.port())]);
    command.args(["-R", &format!("127.0.0.1:{}:127.0.0.1:{}", port(3), service.port())]);
    let mut process = Process::start("jwtunnel", &mut command, &scratch.join("client.log"));
    eventually("five tunnels are open", || {
        assert!(process.is_running(), "{}", process.log());
        (process.log().matches("Tunnel exit socket: ").count() == 5).then_some(())
    });
    for index in 0..4 {
        echo_over(dial(port(index)));
    }
    let stream = UnixStream::connect(&entrance).expect("the socket");
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    echo_over(stream);
    let status = status(&gateway.daemon);
    assert_eq!(
        (&status["netunnel"]["channels"], &status["netunnel"]["tunnels"]),
        (&json!(1), &json!(5))
    );
    assert_eq!(status["netunnel"]["identities"][0]["identifier"], client.identifier.as_str());
    process.signal("TERM");
    assert!(process.wait(LIMIT).success());
    assert!(!entrance.exists(), "the socket goes with the program");
}

fn status(daemon: &Daemon) -> Value {
    let answer = ask("GET", &daemon.internal("/status"), &[], None);
    assert_eq!(answer.status, 200, "{answer:?}");
    serde_json::from_str(&answer.body).expect("JSON")
}

/// rel:F19 and rel:W20, one client: killed, the daemon comes back, and so does the tunnel; who connects waits.
#[test]
fn the_client_comes_back_with_its_server() {
    let mut gateway = Gateway::start();
    let client = gateway.daemon.register();
    let service = Service::echo();
    let (local, remote) = (Port::take(), Port::take());
    let mut command = connect(&gateway.netunnel(""), &gateway.daemon, &client);
    command.args(["-L", &format!("{}:127.0.0.1:{}", local.number(), service.port())]);
    command.args(["-R", &format!("{}:127.0.0.1:{}", remote.number(), service.port())]);
    let scratch = Scratch::new();
    let process = Process::start("jwtunnel", &mut command, &scratch.join("client.log"));
    eventually("both are open", || {
        (process.log().matches("Tunnel exit socket: ").count() == 2).then_some(())
    });
    gateway.daemon.restart();
    // At the entrance here nobody is turned away.
    echo_over(dial(local.number()));
    within(LIMIT, "the reverse tunnel is back", || {
        let mut stream = TcpStream::connect(remote.address()).ok()?;
        stream.set_read_timeout(Some(LIMIT)).ok()?;
        stream.write_all(b"x").ok()?;
        stream.read_exact(&mut [0]).ok()
    });
    let log = process.log();
    assert!(log.contains("lost the channel to") && log.contains("are open again"), "{log}");
}

/// nt:E11: datagrams through nginx both ways, and on after the daemon has been away; not with NETunnel's server.
#[test]
fn datagrams_go_through_nginx_and_come_back_with_the_server() {
    let mut gateway = Gateway::start();
    let client = gateway.daemon.register();
    let service = UdpSocket::bind("127.0.0.1:0").expect("a service");
    let exit = service.local_addr().expect("its address").port();
    thread::spawn(move || {
        let mut data = [0; 2_000];
        while let Ok((length, from)) = service.recv_from(&mut data) {
            let _ = service.send_to(&data[..length], from);
        }
    });
    let (local, remote) = (Port::take(), Port::take());
    let mut command = connect(&gateway.netunnel(""), &gateway.daemon, &client);
    command.args(["-L", &format!("{}:127.0.0.1:{exit}/udp", local.number())]);
    command.args(["-R", &format!("{}:127.0.0.1:{exit}/udp", remote.number())]);
    let scratch = Scratch::new();
    let process = Process::start("jwtunnel", &mut command, &scratch.join("client.log"));
    eventually("both are open", || {
        (process.log().matches("Tunnel exit socket: ").count() == 2).then_some(())
    });
    let log = process.log();
    for port in [&local, &remote] {
        assert!(log.contains(&format!("entrance socket: {}/udp\n", port.address())), "{log}");
    }
    assert!(log.contains(&format!("exit socket: 127.0.0.1:{exit}/udp\n")), "{log}");
    let program = UdpSocket::bind("127.0.0.1:0").expect("a program");
    program.set_read_timeout(Some(Duration::from_millis(500))).expect("a limit");
    // Sends until it is answered, as programs do that use UDP; several answers may come.
    let ask = |port: &Port, question: &[u8]| {
        within(LIMIT, "an answer", || {
            program.send_to(question, port.address()).ok()?;
            let mut answer = [0; 2_000];
            let (length, from) = program.recv_from(&mut answer).ok()?;
            (from == port.address() && answer[..length] == *question).then_some(())
        });
    };
    for port in [&local, &remote] {
        ask(port, b"one");
        ask(port, &[7; 1_400]);
    }
    gateway.daemon.restart();
    for port in [&local, &remote] {
        ask(port, b"again");
    }
    let log = process.log();
    assert!(log.contains("are open again"), "{log}");

    let original = PythonServer::open();
    let mut command = Command::new(built("jwtunnel"));
    command.args(["connect", "-s", &original.url(), "-L", &format!("0:127.0.0.1:{exit}/udp")]);
    let output = command.output().expect("jwtunnel");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("has no tunnels for UDP. Is it NETunnel's original"), "{said}");
}

/// The operator's two settings for datagrams, from the file.
#[test]
fn datagrams_as_the_configuration_says() {
    let service = UdpSocket::bind("127.0.0.1:0").expect("a service");
    service.set_read_timeout(Some(LIMIT)).expect("a limit");
    let exit = service.local_addr().expect("its address").port();
    let connect = |daemon: &Daemon, tunnel: &str| {
        let mut command = Command::new(built("jwtunnel"));
        command.args(["connect", "-s", &daemon.netunnel(""), "-L", tunnel]);
        command
    };
    let daemon = Daemon::start("auth = \"none\"\nudp_idle_timeout = \"1s\"");
    let (local, scratch) = (Port::take(), Scratch::new());
    let mut command = connect(&daemon, &format!("{}:127.0.0.1:{exit}/udp", local.number()));
    let process = Process::start("jwtunnel", &mut command, &scratch.join("client.log"));
    eventually("it is open", || process.log().contains("Tunnel exit socket: ").then_some(()));
    let program = UdpSocket::bind("127.0.0.1:0").expect("a program");
    let flow = || {
        program.send_to(b"hello", local.address()).expect("sent");
        service.recv_from(&mut [0; 16]).expect("it has come").1
    };
    let first = flow();
    // Each flow has a port of its own at the exit; without the setting it would be this one for two minutes.
    within(LIMIT, "another flow after a silence", || {
        thread::sleep(Duration::from_secs(2));
        (flow() != first).then_some(())
    });

    let daemon = Daemon::start("auth = \"none\"\nudp = false");
    let output = connect(&daemon, "0:127.0.0.1:1/udp").output().expect("jwtunnel");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("has no tunnels for UDP"), "{said}");
    assert_eq!(output.status.code(), Some(1));
}

/// Debian's tinyproxy, which asks for a password.
struct TinyProxy {
    _process: Process,
    port: Port,
    scratch: Scratch,
}

impl TinyProxy {
    fn start() -> Self {
        let (scratch, port) = (Scratch::new(), Port::take());
        let log = scratch.join("proxy.log");
        let text = format!(
            "Port {}\nListen 127.0.0.1\nAllow 127.0.0.1\nBasicAuth user hunter2\nLogFile \"{}\"\nLogLevel Info\n",
            port.number(),
            log.display()
        );
        fs::write(&log, "").expect("a log");
        fs::write(scratch.join("tinyproxy.conf"), text).expect("a file");
        let mut command = Command::new("tinyproxy");
        command.args(["-d", "-c"]).arg(scratch.join("tinyproxy.conf"));
        let process = Process::start("tinyproxy", &mut command, &scratch.join("output.log"));
        eventually("the proxy answers", || TcpStream::connect(port.address()).ok());
        Self { _process: process, port, scratch }
    }

    fn url(&self) -> String {
        format!("http://{}", self.port.address())
    }

    /// How many connections it was asked for with CONNECT.
    fn connects(&self) -> usize {
        let log = fs::read_to_string(self.scratch.join("proxy.log")).expect("its log");
        log.matches("): CONNECT ").count()
    }
}

#[test]
fn the_client_goes_through_a_proxy() {
    let (gateway, proxy) = (Gateway::start(), TinyProxy::start());
    let client = gateway.daemon.register();
    let (service, scratch) = (Service::bulk(), Scratch::new());
    let password = scratch.join("password");
    fs::write(&password, "hunter2\n").expect("a file");
    let (local, remote) = (Port::take().number().to_string(), service.port().to_string());
    let through = |arguments: &[&str]| {
        let mut command = connect(&gateway.netunnel(""), &gateway.daemon, &client);
        command.args(["--proxy-url", &proxy.url(), "--proxy-username", "user"]).args(arguments);
        command.args(["--local-port", &local, "--remote-port", &remote]);
        command
    };
    let file = password.display().to_string();
    let tunnel = Tunnel::open("jwtunnel", through(&["--proxy-password-file", &file]), &scratch);
    tunnel.bulk();
    assert!(proxy.connects() >= 2, "control and data");
    drop(tunnel);
    let output = through(&["--proxy-password", "wrong"]).output().expect("jwtunnel");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    // tinyproxy refuses a wrong password with 401, which in an answer to a plain request looks like the server's.
    assert!(said.contains("(401 or 403)"), "{said}");
    assert!(said.contains("other users of this machine can see --proxy-password"), "{said}");
}

#[test]
fn peers_are_reached_through_the_proxy() {
    let (gateway, proxy) = (Gateway::start(), TinyProxy::start());
    let client = gateway.daemon.register();
    let ours = Daemon::start("");
    let service = Service::echo();
    assert_eq!(register_peer(&ours.internal(""), &gateway.netunnel(""), Some(&client)).status, 200);
    let tunnel = static_tunnel(&ours.internal(""), service.port());
    let entrance = tunnel.entrance();
    echo_over(dial_at(entrance));
    assert_eq!(proxy.connects(), 0);
    let set = |password: &str, check: bool| {
        let body = json!({"proxy_url": proxy.url(), "username": "user", "password": password,
            "test_url": gateway.nginx.url("/jwthenticator/jwks"), "check_proxy": check});
        ask("POST", &ours.internal("/config/http-proxy"), &[], Some(&body.to_string()))
    };
    let wrong = set("wrong", true);
    assert_eq!(wrong.status, 502, "{wrong:?}");
    assert!(wrong.body.contains("Invalid response from proxy: 401"), "{wrong:?}");
    let right = set("hunter2", true);
    assert_eq!(right.status, 200, "{right:?}");
    assert!(!right.body.contains("hunter2") && right.body.contains("******"), "{right:?}");
    echo_over(dial_at(entrance));
    assert!(proxy.connects() >= 2, "control and data");
    // The credentials survive a restart, and masked ones that come back.
    let shown = ask("GET", &ours.internal("/config/http-proxy"), &[], None);
    let mut shown: Value = serde_json::from_str(&shown.body).expect("JSON");
    shown["check_proxy"] = false.into();
    let back = ask("POST", &ours.internal("/config/http-proxy"), &[], Some(&shown.to_string()));
    assert_eq!(back.status, 200, "{back:?}");
    let before = proxy.connects();
    echo_over(dial_at(entrance));
    eventually("the proxy is used again", || (proxy.connects() > before).then_some(()));
    assert!(!ours.log().contains("hunter2"), "the password is in the log");
}

#[test]
fn certificates_are_checked_and_shown() {
    let daemon = Daemon::start("");
    let jwks = daemon.scratch().join("data/public/jwks.json");
    let port = Port::take();
    let builder = NginxBuilder::new().daemon(daemon.netunnel_port(), daemon.public(), jwks);
    let public = builder.scratch().join("public");
    let make = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).current_dir(&public).output();
        let output = output.expect("openssl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    for (name, usage) in [("server", "CA:FALSE"), ("client", "CA:TRUE")] {
        let (key, certificate) = (format!("{name}.key"), format!("{name}.pem"));
        let (subject, usage) =
            (format!("/CN={name}"), format!("basicConstraints=critical,{usage}"));
        let mut arguments = vec!["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"];
        arguments.extend(["-subj", &subject, "-keyout", &key, "-out", &certificate]);
        arguments.extend(["-addext", "subjectAltName=IP:127.0.0.1", "-addext", &usage]);
        make(&arguments);
    }
    let nginx = builder
        .with(&format!(
            "server {{ listen {} ssl; ssl_certificate DIR/public/server.pem; ssl_certificate_key DIR/public/server.key;
               ssl_client_certificate DIR/public/client.pem; ssl_verify_client optional;
               location /open/ {{ proxy_pass http://LISTEN/; proxy_http_version 1.1;
                 proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; }}
               location /closed/ {{ if ($ssl_client_verify != SUCCESS) {{ return 403; }}
                 proxy_pass http://LISTEN/; proxy_http_version 1.1;
                 proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; }} }}",
            port.address()
        ))
        .start();
    let client = daemon.register();
    let (service, scratch) = (Service::echo(), Scratch::new());
    let try_with = |path: &str, arguments: &[&str]| {
        let server = format!("https://{}/{path}/netunnel", port.address());
        let uri = format!("/{path}/jwthenticator");
        let mut command = connect(&server, &daemon, &client);
        command.args(["--auth-uri", &uri, "--remote-port", &service.port().to_string()]);
        command.args(arguments);
        command
    };
    let ca = public.join("server.pem").display().to_string();
    let refused = |mut command: Command| {
        let output = command.stdin(Stdio::null()).output().expect("jwtunnel");
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = refused(try_with("open", &[]));
    assert!(said.contains("certificate"), "{said}");
    let tunnel = Tunnel::open("jwtunnel", try_with("open", &["--ca", &ca]), &scratch);
    assert_eq!(tunnel.echo("x"), "x");
    let mut tunnel = Tunnel::open("jwtunnel", try_with("open", &["--insecure"]), &scratch);
    assert_eq!(tunnel.echo("x"), "x");
    assert!(tunnel.process().log().contains("warning: --insecure"));
    let said = refused(try_with("closed", &["--ca", &ca]));
    assert!(said.contains("403"), "{said}");
    let (certificate, key) = (public.join("client.pem"), public.join("client.key"));
    let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
    let shown = ["--ca", &ca, "--client-cert", &certificate, "--client-key", &key];
    let tunnel = Tunnel::open("jwtunnel", try_with("closed", &shown), &scratch);
    assert_eq!(tunnel.echo("x"), "x");
    drop(nginx);
}

#[test]
fn the_status_tells_what_is_carried() {
    let gateway = Gateway::start();
    let client = gateway.daemon.register();
    let (service, scratch) = (Service::echo(), Scratch::new());
    let (local, remote) = (Port::take(), service.port().to_string());
    // On a terminal there is a line; `script` makes one.
    let mut line = connect(&gateway.netunnel(""), &gateway.daemon, &client);
    line.args(["--status", "--local-port", &local.number().to_string(), "--remote-port", &remote]);
    let words: Vec<String> = std::iter::once(line.get_program())
        .chain(line.get_args())
        .map(|word| word.to_str().expect("text").to_owned())
        .collect();
    let mut terminal = Command::new("script");
    terminal.args(["-qefc", &words.join(" "), "/dev/null"]);
    let process = Process::start("script", &mut terminal, &scratch.join("terminal.log"));
    eventually("the tunnel is open", || process.log().contains("Tunnel exit").then_some(()));
    let mut stream = dial(local.number());
    stream.write_all(b"hello").expect("sent");
    stream.read_exact(&mut [0; 5]).expect("answered");
    eventually("the line tells it", || {
        process.log().contains("1 open, 1 so far, sent 5 B, received 5 B").then_some(())
    });
    let run = |daemon: &Daemon, arguments: &[&str]| {
        Command::new(built("jwtunnel"))
            .args(["status", "--server", &daemon.internal("")])
            .args(arguments)
            .output()
            .expect("jwtunnel")
    };
    let output = run(&gateway.daemon, &[]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("tunnels: 1 channels, 1 tunnels"), "{said}");
    assert!(said.contains(&client.identifier), "{said}");
    assert!(said.contains("5 bytes to clients, 5 from them"), "{said}");
    drop(stream);
    process.signal("TERM");

    // A static tunnel that is away is told by the exit code.
    let mut ours = Daemon::start("");
    let mut peer = Daemon::start("auth = \"none\"");
    let ours_open = Daemon::start("peer_auth = \"none\"");
    assert_eq!(register_peer(&ours_open.internal(""), &peer.netunnel(""), None).status, 200);
    let tunnel = static_tunnel(&ours_open.internal(""), service.port());
    let output = run(&ours_open, &["--json"]);
    assert_eq!(output.status.code(), Some(0));
    let status: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(status["static_tunnels"][0]["state"], "online", "{status}");
    peer.process().signal("KILL");
    eventually("it is told", || (run(&ours_open, &[]).status.code() == Some(3)).then_some(()));
    let said = String::from_utf8_lossy(&run(&ours_open, &[]).stdout).into_owned();
    let expected = format!("static tunnel other/1: {} -> 127.0.0.1:", tunnel.entrance());
    assert!(said.contains(&expected), "{said}");
    assert!(said.contains("offline ("), "{said}");
    ours.process().signal("KILL");
    let _ = ours.process().wait(LIMIT);
    assert_eq!(run(&ours, &[]).status.code(), Some(1), "a daemon that is away is a fault");
}

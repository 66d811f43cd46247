//! Tunnels through nginx: with the original Python client and its plugin, unmodified, and with ours.

use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use system_tests::{
    Answer, Client, Gateway, Port, Scratch, Service, Tunnel, ask, bulk, eventually, our_client,
};

/// Both clients take the same flags.
type Open = fn(&Gateway, &Client, &[&str]) -> Tunnel;

fn forward(open: Open, gateway: &Gateway, client: &Client, service: &Service) -> Tunnel {
    let (local, remote) = (Port::take(), service.port().to_string());
    let local = local.number().to_string();
    open(gateway, client, &["--local-port", &local, "--remote-port", &remote])
}

fn reverse(open: Open, gateway: &Gateway, client: &Client, service: &Service) -> Tunnel {
    let (local, remote) = (service.port().to_string(), Port::take());
    let remote = remote.number().to_string();
    open(gateway, client, &["-r", "--local-port", &local, "--remote-port", &remote])
}

fn carries(tunnel: &Tunnel, echo: &Tunnel) {
    for round in 0..5 {
        let text = format!("round {round}");
        assert_eq!(echo.echo(&text), text);
    }
    tunnel.bulk();
    tunnel.bulk();
}

#[test]
fn the_python_client_tunnels_forward() {
    let gateway = Gateway::start();
    let client = gateway.daemon.register();
    let (echo, bulk) = (Service::echo(), Service::bulk());
    let open: Open = Gateway::python_tunnel;
    carries(&forward(open, &gateway, &client, &bulk), &forward(open, &gateway, &client, &echo));
}

#[test]
fn the_python_client_tunnels_in_reverse() {
    let gateway = Gateway::start();
    let client = gateway.daemon.register();
    let (echo, bulk) = (Service::echo(), Service::bulk());
    let open: Open = Gateway::python_tunnel;
    carries(&reverse(open, &gateway, &client, &bulk), &reverse(open, &gateway, &client, &echo));
}

#[test]
fn our_client_tunnels_forward() {
    let gateway = Gateway::start();
    let client = gateway.daemon.register();
    let (echo, bulk) = (Service::echo(), Service::bulk());
    let open: Open = Gateway::tunnel;
    carries(&forward(open, &gateway, &client, &bulk), &forward(open, &gateway, &client, &echo));
}

#[test]
fn our_client_tunnels_in_reverse() {
    let gateway = Gateway::start();
    let client = gateway.daemon.register();
    let (echo, bulk) = (Service::echo(), Service::bulk());
    let open: Open = Gateway::tunnel;
    carries(&reverse(open, &gateway, &client, &bulk), &reverse(open, &gateway, &client, &echo));
}

#[test]
fn a_reload_of_nginx_cuts_no_tunnel() {
    let gateway = Gateway::start();
    let client = gateway.daemon.register();
    let service = Service::bulk();
    for open in [Gateway::python_tunnel as Open, Gateway::tunnel] {
        let tunnel = forward(open, &gateway, &client, &service);
        let stream = tunnel.connect();
        let transfer = thread::spawn(move || bulk(stream));
        let mut reloads = 0;
        while !transfer.is_finished() || reloads == 0 {
            gateway.nginx.reload();
            reloads += 1;
            assert!(reloads < 100, "the transfer does not end");
        }
        transfer.join().expect("every byte arrives");
        // The tunnel itself has outlived it, too.
        tunnel.bulk();
    }
}

#[test]
fn a_destination_that_is_not_allowed_is_refused() {
    let gateway = Gateway::start();
    let client = gateway.daemon.register();
    let channel = Channel::open(&gateway, &client);
    for (address, port, text) in [
        ("10.0.0.1", 22, "Address 10.0.0.1 is not allowed as a tunnel destination"),
        ("localhost", 22, "Address localhost is not allowed as a tunnel destination"),
        ("169.254.169.254", 80, "Address 169.254.169.254 is not allowed as a tunnel destination"),
    ] {
        let body = json!({"exit_address": address, "exit_port": port, "reverse": false});
        let answer = channel.post(&gateway, "/tunnels", &body);
        assert_eq!((answer.status, error_of(&answer).as_str()), (403, text));
    }
    // The daemon's own listeners: with the internal one, a client could register keys.
    let port = gateway.daemon.internal_port();
    let body = json!({"exit_address": "127.0.0.1", "exit_port": port, "reverse": false});
    assert_eq!(channel.post(&gateway, "/tunnels", &body).status, 403);
    for (address, port) in [("0.0.0.0", 40_000), ("127.0.0.1", 80)] {
        let body = json!({"entrance_address": address, "entrance_port": port, "reverse": true});
        let answer = channel.post(&gateway, "/tunnels", &body);
        let text = format!("Address {address}:{port} is not allowed as a tunnel entrance");
        assert_eq!((answer.status, error_of(&answer)), (403, text));
    }
}

#[test]
fn a_second_identity_finds_no_channel_of_the_first() {
    let gateway = Gateway::start();
    let (first, second) = (gateway.daemon.register(), gateway.daemon.register());
    let channel = Channel::open(&gateway, &first);
    let stranger = Channel { token: gateway.token(&second), ..channel.clone() };
    let body = json!({"exit_address": "127.0.0.1", "exit_port": 22, "reverse": false});
    assert_eq!(channel.post(&gateway, "/tunnels", &body).status, 409, "it is not connected yet");
    let answer = stranger.post(&gateway, "/tunnels", &body);
    assert_eq!(answer.status, 404, "{answer:?}");
    let unknown = Channel { id: channel.id ^ 1, ..stranger.clone() };
    assert_eq!(unknown.post(&gateway, "/tunnels", &body).status, 404, "as if it did not exist");
    let upgrade = [
        ("authorization", format!("Bearer {}", stranger.token)),
        ("connection", "upgrade".into()),
        ("upgrade", "websocket".into()),
        ("sec-websocket-version", "13".into()),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==".into()),
    ];
    let headers: Vec<_> = upgrade.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let url = gateway.netunnel(&format!("/channels/{}/connect", channel.id));
    assert_eq!(ask("GET", &url, &headers, None).status, 404);
}

#[test]
fn bad_tokens_reach_no_route_of_the_tunnels() {
    let gateway = Gateway::start();
    let client = gateway.daemon.register();
    let token = gateway.token(&client);
    let url = gateway.netunnel("/channels");
    let body = r#"{"version": "1.0.13"}"#;
    // A character in the middle of the signature: all bits of the last one need not count.
    let (signed, signature) = token.rsplit_once('.').expect("three segments");
    let (head, tail) = signature.split_at(signature.len() / 2);
    let other = if tail.starts_with('A') { 'B' } else { 'A' };
    let tampered = format!("{signed}.{head}{other}{}", &tail[1..]);
    for token in ["garbage", &tampered] {
        let bearer = format!("Bearer {token}");
        let answer = ask("POST", &url, &[("authorization", &bearer)], Some(body));
        assert_eq!(answer.status, 401);
        let challenge = answer.header("www-authenticate").expect("a challenge");
        assert!(challenge.contains(r#"error="invalid_token""#), "{challenge}");
    }
    assert_eq!(ask("POST", &url, &[], Some(body)).status, 401);
}

#[test]
fn a_stopping_daemon_lets_connections_end() {
    let mut gateway = Gateway::start();
    let client = gateway.daemon.register();
    let service = Service::echo();
    let mut tunnel = forward(Gateway::tunnel, &gateway, &client, &service);
    let mut stream = tunnel.connect();
    stream.write_all(b"before").expect("sent");
    let mut answer = [0; 6];
    stream.read_exact(&mut answer).expect("received");
    gateway.daemon.process().signal("TERM");
    eventually("the daemon is stopping", || {
        gateway.daemon.log().contains("\"event\":\"stopping\"").then_some(())
    });
    stream.write_all(b"during").expect("sent");
    stream.read_exact(&mut answer).expect("the connection goes on");
    assert_eq!(&answer, b"during");
    drop(stream);
    let status = gateway.daemon.process().wait(Duration::from_secs(30));
    assert!(status.success(), "{status}");
    // The client waits for the daemon to come back.
    assert!(tunnel.process().is_running());
}

#[test]
fn a_client_closes_its_tunnel_at_a_signal() {
    let gateway = Gateway::start();
    let client = gateway.daemon.register();
    let service = Service::echo();
    let remote = Port::take();
    let mut tunnel = gateway.tunnel(
        &client,
        &[
            "-r",
            "--local-port",
            &service.port().to_string(),
            "--remote-port",
            &remote.number().to_string(),
        ],
    );
    assert_eq!(tunnel.echo("x"), "x");
    tunnel.process().signal("TERM");
    let status = tunnel.process().wait(Duration::from_secs(20));
    assert!(status.success(), "{status}");
    eventually("the daemon has freed the port", || {
        std::net::TcpListener::bind(remote.address()).ok().map(drop)
    });
}

/// nt:D17: a client that can't listen asks for no tunnel.
#[test]
fn a_local_port_that_is_taken_leaves_no_tunnel_d17() {
    let (gateway, scratch) = (Gateway::start(), Scratch::new());
    let client = gateway.daemon.register();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let local = taken.local_addr().expect("its address").port().to_string();
    let mut command = our_client(&gateway.netunnel(""), &scratch, Some(&client));
    let output = command.args(["--local-port", &local, "--remote-port", "22"]).output();
    let output = output.expect("jwtunnel");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&local), "{said}");
    let log = gateway.daemon.log();
    assert!(!log.contains("tunnel_open"), "{log}");
    eventually("no channel is left", || {
        let answer = ask("GET", &gateway.daemon.internal("/status"), &[], None);
        let status: Value = serde_json::from_str(&answer.body).expect("JSON");
        (status["netunnel"]["channels"] == 0).then_some(())
    });
}

#[test]
fn no_log_holds_a_secret() {
    let gateway = Gateway::start();
    let client = gateway.daemon.register();
    let token = gateway.token(&client);
    let service = Service::echo();
    let tunnel = forward(Gateway::tunnel, &gateway, &client, &service);
    assert_eq!(tunnel.echo("x"), "x");
    assert_eq!(gateway.nginx.get_with("/", &token).status, 200);
    assert_eq!(gateway.nginx.get_with("/", &format!("{token}A")).status, 401);
    let body = json!({"key": format!("{}-wrong", client.key), "identifier": client.identifier});
    let url = gateway.nginx.url("/jwthenticator/authenticate");
    assert_eq!(ask("POST", &url, &[], Some(&body.to_string())).status, 401);
    let logs = [gateway.daemon.log(), gateway.nginx.error_log(), gateway.nginx.access_log()];
    assert!(logs.iter().all(|log| !log.is_empty()));
    let signature = token.rsplit('.').next().expect("a signature");
    let payload = token.split('.').nth(1).expect("a payload");
    for secret in [client.key.as_str(), signature, payload] {
        for log in &logs {
            assert!(!log.contains(secret), "a secret is in a log:\n{log}");
        }
    }
}

/// A channel that was created and not connected.
#[derive(Clone)]
struct Channel {
    id: u64,
    token: String,
}

impl Channel {
    fn open(gateway: &Gateway, client: &Client) -> Self {
        let token = gateway.token(client);
        let bearer = format!("Bearer {token}");
        let answer = ask(
            "POST",
            &gateway.netunnel("/channels"),
            &[("authorization", &bearer)],
            Some(r#"{"version": "1.0.13"}"#),
        );
        assert_eq!(answer.status, 200, "{answer:?}");
        let answer: Value = serde_json::from_str(&answer.body).expect("JSON");
        Self { id: answer["channel_id"].as_u64().expect("an id"), token }
    }

    fn post(&self, gateway: &Gateway, path: &str, body: &Value) -> Answer {
        let bearer = format!("Bearer {}", self.token);
        let url = gateway.netunnel(&format!("/channels/{}{path}", self.id));
        ask("POST", &url, &[("authorization", &bearer)], Some(&body.to_string()))
    }
}

fn error_of(answer: &Answer) -> String {
    let body: Value = serde_json::from_str(&answer.body).expect("JSON");
    body["error"].as_str().expect("an error").to_owned()
}

//! Servers as peers of each other, ours and the original ones in every role; our client at an original server; the
//! operator's routes. Everything that has tokens goes through nginx.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use system_tests::{
    Client, Daemon, Gateway, NginxBuilder, Port, PythonGateway, PythonServer, Scratch, Service,
    Tunnel, ask, built, bulk, eventually, our_client, register_peer, self_signed, static_tunnel,
    within,
};

fn connect(entrance: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(entrance).expect("a connection to the entrance");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a limit");
    stream
}

fn echo(entrance: SocketAddr) {
    let mut stream = connect(entrance);
    stream.write_all(b"hello").expect("sent");
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).expect("answered");
    assert_eq!(&answer, b"hello");
}

/// A tunnel that comes back within its time, by a connection that may be lost while it is away.
fn comes_back(entrance: SocketAddr) {
    // A pause of at most 10 s, and the time for one try.
    within(Duration::from_secs(25), "the static tunnel works again", || {
        let mut stream = TcpStream::connect(entrance).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(25))).ok()?;
        stream.write_all(b"again").ok()?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).ok()?;
        (&answer == b"again").then_some(())
    });
}

/// `jwtunnel connect` at a server without nginx and without tokens.
fn plain(scratch: &Scratch, server: &str, arguments: &[&str]) -> Tunnel {
    let mut command = our_client(server, scratch, None);
    command.args(arguments);
    Tunnel::open("jwtunnel connect", command, scratch)
}

#[test]
fn our_client_tunnels_through_a_python_server() {
    let (server, scratch) = (PythonServer::open(), Scratch::new());
    let (service, bulk) = (Service::echo(), Service::bulk());
    for service in [&service, &bulk] {
        let (port, local, remote) = (service.port().to_string(), Port::take(), Port::take());
        let (local, remote) = (local.number().to_string(), remote.number().to_string());
        let forward =
            plain(&scratch, &server.url(), &["--local-port", &local, "--remote-port", &port]);
        let reverse = plain(
            &scratch,
            &server.url(),
            &["-r", "--local-port", &port, "--remote-port", &remote],
        );
        for tunnel in [forward, reverse] {
            if service.port() == bulk.port() {
                tunnel.bulk();
            } else {
                assert_eq!(tunnel.echo("x"), "x");
                assert_eq!(tunnel.echo("y"), "y");
            }
        }
    }
}

/// nt:A35, nt:A39: longer than a ping and the time for its answer, after which waiting websockets may be gone.
#[test]
fn tunnels_that_were_idle_work_a35_a39() {
    let gateway = Gateway::start();
    let client = gateway.daemon.register();
    let (server, scratch) = (PythonServer::open(), Scratch::new());
    let service = Service::echo();
    let port = service.port().to_string();
    let remotes: Vec<Port> = (0..3).map(|_| Port::take()).collect();
    let remote = |index: usize| remotes[index].number().to_string();
    let tunnels = [
        gateway.python_tunnel(&client, &["--local-port", &remote(0), "--remote-port", &port]),
        gateway.python_tunnel(&client, &["-r", "--local-port", &port, "--remote-port", &remote(1)]),
        plain(&scratch, &server.url(), &["-r", "--local-port", &port, "--remote-port", &remote(2)]),
    ];
    thread::sleep(Duration::from_secs(35));
    for mut tunnel in tunnels {
        assert!(tunnel.process().is_running());
        assert_eq!(tunnel.echo("after a while"), "after a while");
    }
}

/// The operator's routes of a daemon of ours that has peers.
fn operator(daemon: &Daemon) -> String {
    daemon.internal("")
}

fn stored_auth(daemon: &Daemon) -> Value {
    let file =
        std::fs::read_to_string(daemon.scratch().join("data/netunnel.json")).expect("a file");
    let file: Value = serde_json::from_str(&file).expect("JSON");
    file["peers"][0]["auth_data"].clone()
}

fn keeps_no_key(auth: &Value, client: &Client) {
    assert_eq!(auth.as_object().expect("an object").len(), 2, "refresh_token and uuid");
    assert_eq!(auth["uuid"], client.identifier.as_str());
    let token = auth["refresh_token"].as_str().expect("a token");
    assert!(!token.is_empty() && token != client.key);
}

#[test]
fn a_python_server_is_a_peer_of_ours() {
    let mut gateway = PythonGateway::start();
    let client = gateway.daemon.register();
    let ours = Daemon::start("");
    let wrong = Client { key: "wrong".into(), ..client.clone() };
    let answer = register_peer(&operator(&ours), &gateway.netunnel(""), Some(&wrong));
    assert_eq!(answer.status, 403, "{answer:?}");
    assert!(answer.body.contains("Failed to authenticate with peer `other`"), "{answer:?}");
    let answer = register_peer(&operator(&ours), &gateway.netunnel(""), Some(&client));
    assert_eq!(answer.status, 200, "{answer:?}");
    keeps_no_key(&stored_auth(&ours), &client);
    let (echoes, bulks) = (Service::echo(), Service::bulk());
    let tunnel = static_tunnel(&operator(&ours), echoes.port());
    let entrance = tunnel.entrance();
    echo(entrance);
    bulk(connect(static_tunnel(&operator(&ours), bulks.port()).entrance()));
    gateway.server.restart();
    comes_back(entrance);
    assert!(gateway.server.process().is_running());
    for log in [ours.log(), gateway.daemon.log()] {
        assert!(!log.contains(&client.key), "the key is in a log");
        let token = stored_auth(&ours)["refresh_token"].as_str().expect("a token").to_owned();
        assert!(!log.contains(&token), "the refresh token is in a log");
    }
}

#[test]
fn ours_is_a_peer_of_a_python_server() {
    let gateway = Gateway::start();
    let client = gateway.daemon.register();
    let mut server = PythonServer::with_jwthenticator();
    let answer = register_peer(&server.url(), &gateway.netunnel(""), Some(&client));
    assert_eq!(answer.status, 200, "{answer:?}");
    keeps_no_key(&server.state()["peers"][0]["auth_data"], &client);
    let (echoes, bulks) = (Service::echo(), Service::bulk());
    let tunnel = static_tunnel(&server.url(), echoes.port());
    let entrance = tunnel.entrance();
    echo(entrance);
    echo(entrance);
    bulk(connect(static_tunnel(&server.url(), bulks.port()).entrance()));
    assert!(server.process().is_running());
}

/// nt:A51: and both sides restart.
#[test]
fn ours_is_a_peer_of_ours_a51() {
    let mut gateway = Gateway::start();
    let client = gateway.daemon.register();
    let mut ours = Daemon::start("");
    let answer = register_peer(&operator(&ours), &gateway.netunnel(""), Some(&client));
    assert_eq!(answer.status, 200, "{answer:?}");
    let (echoes, bulks) = (Service::echo(), Service::bulk());
    let tunnel = static_tunnel(&operator(&ours), echoes.port());
    let entrance = tunnel.entrance();
    echo(entrance);
    bulk(connect(static_tunnel(&operator(&ours), bulks.port()).entrance()));
    gateway.daemon.restart();
    comes_back(entrance);
    ours.restart();
    comes_back(entrance);
    keeps_no_key(&stored_auth(&ours), &client);
}

/// nt:A61. A token is good for five seconds, to the second, so new websockets soon need another one.
#[test]
fn a_peers_token_is_renewed_silently_a61() {
    let short =
        [("JWTUNNEL_JWTHENTICATOR_JWT_LIFETIME", "5s"), ("JWTUNNEL_JWTHENTICATOR_LEEWAY", "0s")];
    let peer = Daemon::start_with("", &short);
    let client = peer.register();
    let ours = Daemon::start(&format!("peer_auth_uri = \"http://{}\"", peer.public().address()));
    let target = peer.netunnel("");
    let answer = register_peer(&operator(&ours), &target, None);
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(answer.body.contains("Either `key` or `refresh_token` must be given"), "{answer:?}");
    let answer = register_peer(&operator(&ours), &target, Some(&client));
    assert_eq!(answer.status, 200, "{answer:?}");
    keeps_no_key(&stored_auth(&ours), &client);
    let echoes = Service::echo();
    let tunnel = static_tunnel(&operator(&ours), echoes.port());
    let entrance = tunnel.entrance();
    for _ in 0..2 {
        thread::sleep(Duration::from_secs(6));
        // More than were waiting.
        for _ in 0..6 {
            echo(entrance);
        }
    }
    assert!(!peer.log().contains("auth_denied"), "{}", peer.log());
    assert!(!ours.log().contains("static_tunnel_offline"), "{}", ours.log());
}

/// rel:A5: whose certificate is believed, and what is shown to the peer, is settled for each peer by its name.
#[test]
fn tls_towards_a_peer_is_its_own_setting_a5() {
    let (peer, port) = (Daemon::start("auth = \"none\""), Port::take());
    let jwks = peer.scratch().join("data/public/jwks.json");
    let builder = NginxBuilder::new().daemon(peer.netunnel_port(), peer.public(), jwks);
    let public = builder.scratch().join("public");
    for name in ["server", "client"] {
        self_signed(&public, name);
    }
    let nginx = builder
        .with(&format!(
            "server {{ listen {} ssl; ssl_certificate DIR/public/server.pem; ssl_certificate_key DIR/public/server.key;
               ssl_client_certificate DIR/public/client.pem; ssl_verify_client optional;
               location /open/ {{ proxy_pass http://{peer}/; proxy_http_version 1.1;
                 proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; }}
               location /closed/ {{ if ($ssl_client_verify != SUCCESS) {{ return 403; }}
                 proxy_pass http://{peer}/; proxy_http_version 1.1;
                 proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; }} }}",
            port.address(),
            peer = peer.netunnel_port().address()
        ))
        .start();
    let file = |name: &str| public.join(name).display().to_string();
    let ca = format!("ca_file = \"{}\"", file("server.pem"));
    let shown = format!(
        "{ca}\nclient_cert_file = \"{}\"\nclient_key_file = \"{}\"",
        file("client.pem"),
        file("client.key")
    );
    let table = |name: &str, more: &str| format!("[[netunnel.peer]]\nname = \"{name}\"\n{more}\n");
    let more = [
        "peer_auth = \"none\"\n".to_owned(),
        table("own authority", &ca),
        table("own certificate", &shown),
        table("unchecked", "insecure = true"),
    ]
    .concat();
    let mut ours = Daemon::start(&more);
    let register = |ours: &Daemon, name: &str, path: &str| {
        let url = format!("https://{}/{path}", port.address());
        let body = json!({"name": name, "target_netunnel_url": url, "auth_data": {}}).to_string();
        ask("POST", &ours.internal("/peers"), &[], Some(&body)).status
    };
    assert_eq!(register(&ours, "another", "open"), 502, "an unknown authority");
    assert_eq!(register(&ours, "own authority", "closed"), 403, "no certificate is shown");
    for (name, path) in
        [("own authority", "open"), ("own certificate", "closed"), ("unchecked", "open")]
    {
        assert_eq!(register(&ours, name, path), 200, "{name}");
    }
    assert!(ours.log().contains("peer_unverified"));
    let service = Service::echo();
    let tunnel = static_tunnel(&ours.internal(""), service.port());
    let entrance = tunnel.entrance();
    echo(entrance);
    // A name that stands for other settings is tried before it is taken.
    let rename = |id: usize, name: &str| {
        let url = ours.internal(&format!("/peers/{id}"));
        ask("POST", &url, &[], Some(&json!({"name": name}).to_string())).status
    };
    assert_eq!(rename(1, "another"), 502);
    assert_eq!(rename(3, "another"), 502);
    echo(entrance);
    ours.restart();
    comes_back(entrance);
    assert_eq!(ours.log().matches("peer_unverified").count(), 2, "at each start");
    drop(nginx);
}

/// nt:D19: where the peer hands out another refresh token at each use, the one that counts is the one in the file.
#[test]
fn a_refresh_token_that_changes_is_kept_d19() {
    let short =
        [("JWTUNNEL_JWTHENTICATOR_JWT_LIFETIME", "5s"), ("JWTUNNEL_JWTHENTICATOR_LEEWAY", "0s")];
    let peer = Daemon::start_with("", &short);
    let output = Command::new(built("jwtunnel"))
        .args(["keys", "register", "--generate", "--rotate", "--json"])
        .args(["--server", &peer.internal("")])
        .output()
        .expect("jwtunnel");
    let registered: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let text = |name: &str| registered[name].as_str().expect("a text").to_owned();
    let client = Client { key: text("key"), identifier: text("identifier") };
    let more = format!("peer_auth_uri = \"http://{}\"", peer.public().address());
    let mut ours = Daemon::start(&more);
    let answer = register_peer(&operator(&ours), &peer.netunnel(""), Some(&client));
    assert_eq!(answer.status, 200, "{answer:?}");
    let echoes = Service::echo();
    let tunnel = static_tunnel(&operator(&ours), echoes.port());
    let entrance = tunnel.entrance();
    let mut tokens = vec![stored_auth(&ours)["refresh_token"].clone()];
    // From here on it has the refresh token alone.
    for _ in 0..2 {
        ours.restart();
        comes_back(entrance);
        thread::sleep(Duration::from_secs(6));
        // More than were waiting, so that a new token is needed.
        for _ in 0..6 {
            echo(entrance);
        }
        let kept = stored_auth(&ours);
        keeps_no_key(&kept, &client);
        assert!(!tokens.contains(&kept["refresh_token"]), "the token has changed");
        tokens.push(kept["refresh_token"].clone());
    }
    assert!(!peer.log().contains("refresh_reuse"), "{}", peer.log());
}

#[test]
fn the_operators_routes_are_for_the_operator() {
    let gateway = Gateway::with(
        "admin_routes = true\nadmin_identifiers = [\"11111111-1111-4111-8111-111111111111\"]",
    );
    let internal = |path: &str, headers: &[(&str, &str)]| {
        ask("GET", &gateway.daemon.internal(path), headers, None)
    };
    assert_eq!(internal("/peers", &[]).body, "[]");
    assert_eq!(internal("/version", &[]).body, "1.0.13");
    assert_eq!(internal("/health", &[]).status, 200);
    for (header, value) in [("origin", "http://127.0.0.1"), ("host", "evil.example")] {
        for path in ["/peers", "/health", "/config/http-proxy"] {
            assert_eq!(internal(path, &[(header, value)]).status, 403, "{header} {path}");
        }
    }
    // Its channels are its own: a client of the tunnels' listener has none of them.
    let opened =
        ask("POST", &gateway.daemon.internal("/channels"), &[], Some(r#"{"version": "1"}"#));
    assert_eq!(opened.status, 200, "{opened:?}");

    let tunnels = |client: &Client| {
        let bearer = format!("Bearer {}", gateway.token(client));
        ask("GET", &gateway.daemon.netunnel("/peers"), &[("authorization", &bearer)], None)
    };
    let anyone = gateway.daemon.register();
    assert_eq!(tunnels(&anyone).status, 403);
    let log = gateway.daemon.log();
    assert!(log.contains("admin_denied") && log.contains(&anyone.identifier), "{log}");
    let admin = gateway.daemon.register_as("11111111-1111-4111-8111-111111111111");
    assert_eq!(tunnels(&admin).body, "[]");
    assert_eq!(ask("GET", &gateway.daemon.netunnel("/peers"), &[], None).status, 401);
    // nginx does not pass them on, whoever asks.
    let bearer = format!("Bearer {}", gateway.token(&admin));
    let through = ask("GET", &gateway.netunnel("/peers"), &[("authorization", &bearer)], None);
    assert_eq!(through.status, 403, "{through:?}");

    let plain = Daemon::start("");
    let admin = plain.register();
    let body = json!({"key": admin.key, "identifier": admin.identifier}).to_string();
    let url = format!("http://{}/authenticate", plain.public().address());
    let answer: Value =
        serde_json::from_str(&ask("POST", &url, &[], Some(&body)).body).expect("JSON");
    let bearer = format!("Bearer {}", answer["jwt"].as_str().expect("a token"));
    let answer = ask("GET", &plain.netunnel("/peers"), &[("authorization", &bearer)], None);
    assert_eq!(answer.status, 404);
}

/// nt:E13.
#[test]
fn a_second_daemon_on_the_same_state_file_does_not_start() {
    let first = Daemon::start("");
    let data = first.scratch().join("data");
    let ports: Vec<Port> = (0..3).map(|_| Port::take()).collect();
    let [public, internal, netunnel] = [0, 1, 2].map(|index: usize| ports[index].address());
    let dir = data.display();
    let text = format!(
        "[jwthenticator]\nlisten = \"{public}\"\ninternal_listen = \"{internal}\"\n\
         database_url = \"sqlite://{dir}/second.db\"\n\
         [keys]\ndirectory = \"{dir}/second\"\n[jwks]\nfile = \"{dir}/second.public/jwks.json\"\n\
         [netunnel]\nlisten = \"{netunnel}\"\nstate_file = \"{dir}/netunnel.json\"\n",
    );
    let scratch = Scratch::new();
    scratch.replace("second.toml", text.as_bytes());
    let output = Command::new(built("jwtunneld"))
        .arg("--config")
        .arg(scratch.join("second.toml"))
        .output()
        .expect("jwtunneld");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("another jwtunneld uses it"), "{said}");
    eventually("the first one still answers", || {
        (ask("GET", &first.internal("/health"), &[], None).status == 200).then_some(())
    });
}

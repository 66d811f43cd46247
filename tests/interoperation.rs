//! NETunnel's own programs with ours, the combinations that `tunnel.rs` and `peers.rs` leave: without nginx in between,
//! and behind nginx on both sides; half-closed connections where one end is NETunnel's, which knows none.
//! `docs/interoperation.md` lists all of them.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::json;
use system_tests::{
    Client, Daemon, Gateway, Port, PythonGateway, PythonServer, Scratch, Service, Tunnel, ask,
    bulk, eventually, our_client, python_client, register_peer, static_tunnel,
};

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(60);

fn dial(entrance: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(entrance).expect("a connection to the entrance");
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    stream
}

/// Both directions of a tunnel of `client`: 64 MiB each way, and small texts.
fn both_ways_work(client: impl Fn() -> Command, scratch: &Scratch) {
    let (echo, bulk) = (Service::echo(), Service::bulk());
    for service in [&echo, &bulk] {
        for reverse in [false, true] {
            let tunnel = open(client(), scratch, service, reverse);
            if service.port() == bulk.port() {
                tunnel.bulk();
            } else {
                for text in ["one", "two", "three"] {
                    assert_eq!(tunnel.echo(text), text);
                }
            }
        }
    }
}

/// A tunnel to the service: forward, or in reverse.
fn open(mut client: Command, scratch: &Scratch, service: &Service, reverse: bool) -> Tunnel {
    // Reserved until it is in use.
    let free = Port::take();
    let (port, entrance) = (service.port().to_string(), free.number().to_string());
    let (local, remote) = if reverse { (&port, &entrance) } else { (&entrance, &port) };
    client.args(["--local-port", local, "--remote-port", remote]);
    if reverse {
        client.arg("-r");
    }
    Tunnel::open("a client", client, scratch)
}

#[test]
fn the_python_client_tunnels_without_nginx() {
    let (daemon, scratch) = (Daemon::start("auth = \"none\""), Scratch::new());
    both_ways_work(|| python_client(&daemon.netunnel(""), None), &scratch);
}

#[test]
fn our_client_tunnels_without_nginx() {
    let (daemon, scratch) = (Daemon::start("auth = \"none\""), Scratch::new());
    both_ways_work(|| our_client(&daemon.netunnel(""), &scratch, None), &scratch);
}

#[test]
fn our_client_tunnels_through_a_python_server_behind_nginx() {
    let (gateway, scratch) = (PythonGateway::start(), Scratch::new());
    let client = gateway.daemon.register();
    both_ways_work(|| our_client(&gateway.netunnel(""), &scratch, Some(&client)), &scratch);
}

/// What both servers say for each other's operator.
fn carries(operator: &str) {
    let (echo, bulks) = (Service::echo(), Service::bulk());
    let mut stream = dial(static_tunnel(operator, echo.port()).entrance());
    stream.write_all(b"hello").expect("sent");
    stream.read_exact(&mut [0; 5]).expect("answered");
    bulk(dial(static_tunnel(operator, bulks.port()).entrance()));
}

#[test]
fn servers_are_peers_of_each_other_without_nginx() {
    let (python, ours) =
        (PythonServer::open(), Daemon::start("auth = \"none\"\npeer_auth = \"none\""));
    assert_eq!(register_peer(&ours.internal(""), &python.url(), None).status, 200);
    assert_eq!(register_peer(&python.url(), &ours.netunnel(""), None).status, 200);
    carries(&ours.internal(""));
    carries(&python.url());
    let (one, two) = (
        Daemon::start("auth = \"none\"\npeer_auth = \"none\""),
        Daemon::start("auth = \"none\"\npeer_auth = \"none\""),
    );
    assert_eq!(register_peer(&one.internal(""), &two.netunnel(""), None).status, 200);
    carries(&one.internal(""));
}

/// As NETunnel's plugin describes it for two hosts: nginx and JWThenticator on each, and each the other's peer.
#[test]
fn servers_are_peers_of_each_other_behind_nginx_on_both_sides() {
    let (python, ours) = (PythonGateway::start(), Gateway::start());
    let at_python = python.daemon.register();
    let at_ours = ours.daemon.register();
    let operator = ours.daemon.internal("");
    let answer = register_peer(&operator, &python.netunnel(""), Some(&at_python));
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = register_peer(&python.server.url(), &ours.netunnel(""), Some(&at_ours));
    assert_eq!(answer.status, 200, "{answer:?}");
    carries(&operator);
    carries(&python.server.url());
}

/// nt:A33, nt:W1: a websocket that we refuse does not end the Python client's process, and it goes on afterwards.
#[test]
fn the_python_client_survives_refused_websockets_a33() {
    let (daemon, scratch) = (Daemon::start("auth = \"none\"\nmax_connections = 2"), Scratch::new());
    let echo = Service::echo();
    let mut tunnel = open(python_client(&daemon.netunnel(""), None), &scratch, &echo, false);
    let talk = |stream: &mut TcpStream| {
        stream.write_all(b"x").expect("sent");
        stream.read_exact(&mut [0]).expect("answered");
    };
    let [mut first, mut second] = [tunnel.connect(), tunnel.connect()];
    talk(&mut first);
    talk(&mut second);
    // There is room for no third one, which therefore gets no answer, or its end.
    let mut third = tunnel.connect();
    third.write_all(b"x").expect("sent");
    third.set_read_timeout(Some(Duration::from_secs(2))).expect("a limit");
    assert!(!matches!(third.read(&mut [0]), Ok(1..)), "an answer");
    assert!(tunnel.process().is_running());
    drop((first, second, third));
    eventually("there is room again", || {
        let answer = ask("GET", &daemon.internal("/status"), &[], None);
        (!answer.body.contains("\"open_connections\":2")).then_some(())
    });
    assert_eq!(tunnel.echo("x"), "x");
    assert!(tunnel.process().is_running());
}

/// A service for half-closed connections. It reads a length of four bytes and as many bytes, sends `greeting` or the
/// bytes back, and tells what came after that.
fn framed(greeting: Option<usize>) -> (Service, Receiver<Seen>) {
    let (sender, seen) = channel();
    let sender = Arc::new(Mutex::new(sender));
    let service = Service::start(move |mut stream| {
        let mut seen = Seen::default();
        if let Some(length) = greeting {
            let sent =
                stream.write_all(&vec![7; length]).and_then(|()| stream.shutdown(Shutdown::Write));
            seen.replied = sent.is_ok();
        }
        let mut length = [0; 4];
        if stream.read_exact(&mut length).is_ok() {
            let mut request = vec![0; usize::try_from(u32::from_be_bytes(length)).expect("small")];
            if stream.read_exact(&mut request).is_ok() {
                seen.request = Some(request.len());
                if greeting.is_none() {
                    seen.replied = stream.write_all(&request).is_ok();
                }
            }
        }
        seen.end = stream.read_to_end(&mut Vec::new()).is_ok_and(|more| more == 0);
        let _ = sender.lock().expect("unbroken").send(seen);
    });
    (service, seen)
}

/// What a service has seen of a connection.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    /// How long the request was, if all of it came.
    request: Option<usize>,
    /// Whether it could send what it had to.
    replied: bool,
    /// Whether the client's direction ended in order, and with nothing more in it.
    end: bool,
}

/// Sends a request, ends the direction, and reads what comes until the end.
fn half_closed(tunnel: &Tunnel, length: usize) -> usize {
    let mut stream = tunnel.connect();
    let request: Vec<u8> = (0..length).map(|index| index.to_le_bytes()[0]).collect();
    let head = u32::try_from(length).expect("small").to_be_bytes();
    let mut upload = stream.try_clone().expect("the connection again");
    let sender = thread::spawn(move || {
        upload.write_all(&head).and_then(|()| upload.write_all(&request)).expect("sent");
        upload.shutdown(Shutdown::Write).expect("ended");
    });
    let mut reply = Vec::new();
    // It may be cut: then what came before counts.
    let _ = stream.read_to_end(&mut reply);
    sender.join().expect("the sender");
    reply.len()
}

/// A client between a server of the other kind, and both ways to get there.
struct Pairing {
    client: Box<dyn Fn() -> Command>,
    scratch: Scratch,
    _servers: Box<dyn std::any::Any>,
}

/// rel:F27, legacy and new: the Python client at our server, without nginx and behind it.
fn python_clients() -> [Pairing; 2] {
    let (daemon, gateway) = (Daemon::start("auth = \"none\""), Gateway::start());
    let client = gateway.daemon.register();
    let (direct, behind) = (daemon.netunnel(""), gateway.netunnel(""));
    [
        Pairing {
            client: Box::new(move || python_client(&direct, None)),
            scratch: Scratch::new(),
            _servers: Box::new(daemon),
        },
        Pairing {
            client: Box::new(move || python_client(&behind, Some(&client))),
            scratch: Scratch::new(),
            _servers: Box::new(gateway),
        },
    ]
}

/// The other way round: our client at the Python server.
fn our_clients() -> [Pairing; 2] {
    let (server, gateway) = (PythonServer::open(), PythonGateway::start());
    let client: Client = gateway.daemon.register();
    let (direct, behind) = (server.url(), gateway.netunnel(""));
    let keys = Scratch::new();
    [
        Pairing {
            client: Box::new(move || our_client(&direct, &Scratch::new(), None)),
            scratch: Scratch::new(),
            _servers: Box::new(server),
        },
        Pairing {
            client: Box::new(move || our_client(&behind, &keys, Some(&client))),
            scratch: Scratch::new(),
            _servers: Box::new(gateway),
        },
    ]
}

/// Each waits for the linger of an entrance, so they are few.
const LENGTHS: [usize; 2] = [0, 1_000_000];

/// What becomes of connections in which one side ends its direction first; `check` judges a request of some length, the
/// length of the reply to it, and what the service has seen.
fn half_closes(pairings: &[Pairing; 2], reverse: bool, check: fn(usize, usize, Seen)) {
    let (replies, seen) = framed(None);
    let (greets, told) = framed(Some(1_000_000));
    for Pairing { client, scratch, .. } in pairings {
        let tunnel = open(client(), scratch, &replies, reverse);
        for length in LENGTHS {
            let reply = half_closed(&tunnel, length);
            check(length, reply, seen.recv_timeout(LIMIT).expect("the service sees an end"));
        }
        // A service that ends its own direction first: all of that arrives, whoever is at the ends.
        let tunnel = open(client(), scratch, &greets, reverse);
        let mut stream = tunnel.connect();
        let mut greeting = Vec::new();
        stream.read_to_end(&mut greeting).expect("an end in order");
        assert_eq!(greeting.len(), 1_000_000);
        drop(stream);
        assert!(told.recv_timeout(LIMIT).expect("the service sees an end").replied);
    }
}

/// Where the entrance is NETunnel's, the end of the client's direction is the end of the connection: the request is
/// complete, the reply is lost, as between NETunnel's own programs.
fn a_python_entrance(length: usize, reply: usize, seen: Seen) {
    assert_eq!(seen.request, Some(length), "{seen:?}");
    assert!(reply <= length, "{reply}");
}

/// Where the exit is NETunnel's and the entrance ours: the rest of the answer is waited for, so a reply that comes
/// without the end of the request is complete. What waits for that end sees it with the end of the connection.
fn a_python_exit(length: usize, reply: usize, seen: Seen) {
    assert_eq!(reply, length, "the whole reply");
    assert_eq!(seen, Seen { request: Some(length), replied: true, end: true });
}

/// rel:F27, legacy–new: forward, so the entrance is the Python client.
#[test]
fn f27_a_python_client_at_our_server_forward() {
    half_closes(&python_clients(), false, a_python_entrance);
}

/// rel:F27, nt:A60: in reverse, so the entrance is our server.
#[test]
fn f27_a_python_client_at_our_server_in_reverse() {
    half_closes(&python_clients(), true, a_python_exit);
}

/// rel:F27, new–legacy, nt:A60: forward, so the entrance is our client.
#[test]
fn f27_our_client_at_a_python_server_forward() {
    half_closes(&our_clients(), false, a_python_exit);
}

/// rel:F27: in reverse, so the entrance is the Python server.
#[test]
fn f27_our_client_at_a_python_server_in_reverse() {
    half_closes(&our_clients(), true, a_python_entrance);
}

/// nt:15: channels of Python clients are closed by a reset that asks for it, and the clients end by themselves.
#[test]
fn a_factory_reset_disconnects_python_clients() {
    let daemon = Daemon::start("auth = \"none\"");
    let scratch = Scratch::new();
    let echo = Service::echo();
    // The internal listener has its own channels; both are disconnected.
    let mut tunnels = [daemon.netunnel(""), daemon.internal("")].map(|server| {
        let tunnel = open(python_client(&server, None), &scratch, &echo, false);
        assert_eq!(tunnel.echo("x"), "x");
        tunnel
    });
    let body = json!({"disconnect_clients": true}).to_string();
    let answer = ask("POST", &daemon.internal("/config/factory-reset"), &[], Some(&body));
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    for tunnel in &mut tunnels {
        let _ = tunnel.process().wait(LIMIT);
    }
}

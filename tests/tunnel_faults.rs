//! Faults that tunnels meet (rel:F19 to rel:F29), at a size that fits a test run; at more in `make test-long`.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use system_tests::{
    Client, Daemon, Gateway, Network, Port, Process, Service, Tunnel, ask, built, bulk, download,
    eventually, size, within,
};

/// A dead peer is known after 45 s; the rest is for a busy machine.
const DEAD: Duration = Duration::from_secs(75);
/// When a client must be back: its first wait is up to 10 s, later ones up to 30 s.
const BACK: Duration = Duration::from_secs(75);

fn status(daemon: &Daemon) -> Value {
    let answer = ask("GET", &daemon.internal("/status"), &[], None);
    assert_eq!(answer.status, 200, "{answer:?}");
    serde_json::from_str(&answer.body).expect("JSON")
}

/// `jwtunnel connect` with the client's key, straight to the daemon or through nginx.
fn connect(server: &str, daemon: &Daemon, client: &Client, arguments: &[&str]) -> Process {
    let scratch = daemon.scratch();
    let key = scratch.join(&format!("{}.key", client.identifier));
    fs::write(&key, &client.key).expect("a key file");
    let mut command = Command::new(built("jwtunnel"));
    command.args(["connect", "-s", server, "--key-file"]).arg(key).args(arguments);
    let log = scratch.join(&format!("{}.log", client.identifier));
    Process::start("jwtunnel", &mut command, &log)
}

fn is_open(process: &Process, tunnels: usize) -> Option<()> {
    (process.log().matches("Tunnel exit socket: ").count() == tunnels).then_some(())
}

fn dial(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
    stream.set_read_timeout(Some(DEAD)).expect("a limit");
    stream.set_write_timeout(Some(DEAD)).expect("a limit");
    stream
}

/// Whether the service at a tunnel's end answers.
fn echoes(port: u16) -> Option<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    stream.write_all(b"x").ok()?;
    stream.read_exact(&mut [0]).ok()
}

/// What `/proc/PID/status` says, in KiB.
fn memory_kib(process: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/status")).expect("its status");
    let line = text.lines().find(|line| line.starts_with("RssAnon:")).expect("its memory");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

fn descriptors(process: u32) -> usize {
    fs::read_dir(format!("/proc/{process}/fd")).expect("its descriptors").count()
}

/// The daemon without nginx in front, where a test's own network has none, and the addresses that a client needs.
fn direct(more: &str) -> (Daemon, Client, String) {
    let daemon = Daemon::start(more);
    let client = daemon.register();
    let server = daemon.netunnel("");
    (daemon, client, server)
}

/// Where a client gets its tokens when there is no nginx.
fn issuer(daemon: &Daemon) -> String {
    format!("http://{}", daemon.public().address())
}

/// rel:F20, rel:W8: every packet of the client's connections is dropped, in the middle of a transfer. Both ends come
/// to know it, the client is back on its old ports, and another client has noticed nothing.
#[test]
fn f20_a_peer_that_vanishes_is_given_up_and_comes_back() {
    Network::within(|network| {
        let (mut daemon, client, server) = direct("");
        let service = Service::start(ended_service);
        let (echo, other) = (Service::echo(), daemon.register());
        let ports: Vec<Port> = (0..3).map(|_| Port::take()).collect();
        let forward = format!("{}:127.0.0.1:{}", ports[0].number(), service.port());
        let reverse = format!("{}:127.0.0.1:{}", ports[1].number(), echo.port());
        let issuer = issuer(&daemon);
        let arguments = ["--auth-uri", &issuer, "-L", &forward, "-R", &reverse];
        let process = connect(&server, &daemon, &client, &arguments);
        let quiet = format!("{}:127.0.0.1:{}", ports[2].number(), echo.port());
        let beside = connect(&server, &daemon, &other, &["--auth-uri", &issuer, "-L", &quiet]);
        eventually("all are open", || is_open(&process, 2).and(is_open(&beside, 1)));
        echoes(ports[1].number()).expect("the reverse tunnel works");

        let before = ENDED.load(Ordering::SeqCst);
        let mut transfer = dial(ports[0].number());
        transfer.write_all(&[1; 100_000]).expect("sent");
        let mut steady = dial(ports[2].number());
        assert!(network.vanish(process.id(), daemon.netunnel_port().number()) >= 2);
        // The entrance's client learns that it is over.
        let mut rest = Vec::new();
        let ended = transfer.read_to_end(&mut rest);
        assert!(!matches!(ended, Err(error) if error.kind() == ErrorKind::WouldBlock), "no end");
        // So does the service behind the exit.
        within(DEAD, "the target's connection ends", || {
            (ENDED.load(Ordering::SeqCst) > before).then_some(())
        });
        within(BACK, "the reverse port is taken over", || echoes(ports[1].number()));
        within(BACK, "the forward tunnel is back", || {
            TcpStream::connect(ports[0].address()).ok()?.write_all(b"x").ok()
        });
        steady.write_all(b"still there").expect("sent");
        steady.read_exact(&mut [0; 11]).expect("the other client's connection goes on");
        assert!(!beside.log().contains("lost the channel"), "{}", beside.log());
        assert!(daemon.process().is_running());
    });
}

static ENDED: AtomicUsize = AtomicUsize::new(0);

/// Reads, never answers, and counts the connections that have ended.
fn ended_service(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    while let Ok(1..) = stream.read(&mut buffer) {}
    ENDED.fetch_add(1, Ordering::SeqCst);
}

/// rel:F21: a target whose packets are dropped ends the dial in its time; beside it everything goes on.
#[test]
fn f21_targets_that_vanish_or_never_read_concern_nobody_else() {
    Network::within(|network| {
        let (daemon, client, server) = direct("");
        let (echo, dropped) = (Service::echo(), Service::echo());
        let stopped = Service::start(|stream| {
            // Accepts and never reads, until the test's process ends.
            loop {
                thread::park();
                let _ = &stream;
            }
        });
        let ports: Vec<Port> = (0..3).map(|_| Port::take()).collect();
        let tunnel = |index: usize, service: &Service| {
            format!("{}:127.0.0.1:{}", ports[index].number(), service.port())
        };
        let [good, gone, full] = [tunnel(0, &echo), tunnel(1, &dropped), tunnel(2, &stopped)];
        let issuer = issuer(&daemon);
        let arguments = ["--auth-uri", &issuer, "-L", &good, "-L", &gone, "-L", &full];
        let process = connect(&server, &daemon, &client, &arguments);
        eventually("three are open", || is_open(&process, 3));
        network.drop_packets(&["-p", "tcp", "--dport", &dropped.port().to_string()]);
        let mut steady = dial(ports[0].number());
        let mut lost: Vec<TcpStream> = (0..10).map(|_| dial(ports[1].number())).collect();
        let mut blocked: Vec<TcpStream> = (0..10).map(|_| dial(ports[2].number())).collect();
        for stream in &mut blocked {
            stream.set_nonblocking(true).expect("a mode");
            // As much as the way there takes.
            let mut count = 0;
            while let Ok(written @ 1..) = stream.write(&[0; 65_536]) {
                count += written;
                assert!(count < 64 << 20, "memory takes it all");
            }
        }
        for _ in 0..100 {
            steady.write_all(b"x").expect("sent");
            steady.read_exact(&mut [0]).expect("answered");
        }
        for stream in &mut lost {
            let mut rest = Vec::new();
            let ended = stream.read_to_end(&mut rest);
            let is_open = matches!(&ended, Err(error) if error.kind() == ErrorKind::WouldBlock);
            assert!(!is_open && rest.is_empty(), "{ended:?}");
        }
        let log = daemon.log();
        assert!(log.contains(&format!("127.0.0.1:{}", dropped.port())), "{log}");
        echoes(ports[0].number()).expect("new connections, too");
    });
}

/// Ends `way` of reaching the daemon under twenty clients; all come back, and not all at once.
fn come_back(gateway: &mut Gateway, end: impl FnOnce(&mut Gateway)) {
    // Each is a process; the thousand tunnels of the requirement are more than one machine has room for.
    let count = size(20, 200);
    let echo = Service::echo();
    let ports: Vec<Port> = (0..count).map(|_| Port::take()).collect();
    let clients: Vec<Process> = ports
        .iter()
        .map(|port| {
            let client = gateway.daemon.register();
            let forward = format!("{}:127.0.0.1:{}", port.number(), echo.port());
            connect(&gateway.netunnel(""), &gateway.daemon, &client, &["-L", &forward])
        })
        .collect();
    for client in &clients {
        eventually("each is open", || is_open(client, 1));
    }
    for port in &ports {
        echoes(port.number()).expect("it answers");
    }
    end(gateway);
    for (port, client) in ports.iter().zip(&clients) {
        within(BACK, "each is back", || client.log().contains("open again through").then_some(()));
        echoes(port.number()).expect("it answers again");
    }
    eventually("one channel of each is left", || {
        (status(&gateway.daemon)["netunnel"]["channels"] == count).then_some(())
    });
    // In how many different seconds they came: with the same wait for all it would be one or two.
    let log = gateway.nginx.access_log();
    let seconds: std::collections::BTreeSet<&str> = log
        .lines()
        .filter(|line| line.contains("\"POST /netunnel/channels\" 200 "))
        .skip(count)
        .filter_map(|line| line.split_once('[')?.1.split_once(']').map(|(time, _)| time))
        .collect();
    assert!(seconds.len() >= 4, "{seconds:?}");
}

/// rel:F22, rel:W20.
#[test]
fn f22_clients_return_one_by_one_after_nginx() {
    let mut gateway = Gateway::start();
    come_back(&mut gateway, |gateway| {
        gateway.nginx.stop();
        gateway.nginx.start_again();
    });
}

/// rel:F19: told to stop, and killed.
#[test]
fn f19_clients_return_after_the_daemon() {
    let mut gateway = Gateway::start();
    come_back(&mut gateway, |gateway| gateway.daemon.restart());
}

#[test]
fn f19_a_daemon_that_is_told_to_stop_frees_targets_and_listeners() {
    let mut gateway = Gateway::start();
    let service = Service::start(ended_service);
    let (local, remote) = (Port::take(), Port::take());
    let client = gateway.daemon.register();
    let forward = format!("{}:127.0.0.1:{}", local.number(), service.port());
    let reverse = format!("{}:127.0.0.1:{}", remote.number(), service.port());
    let arguments = ["-L", &forward, "-R", &reverse];
    let process = connect(&gateway.netunnel(""), &gateway.daemon, &client, &arguments);
    eventually("both are open", || is_open(&process, 2));
    let mut streams: Vec<TcpStream> = (0..20).map(|_| dial(local.number())).collect();
    for stream in &mut streams {
        stream.write_all(b"x").expect("sent");
    }
    eventually("all have arrived", || (service.connections() == 20).then_some(()));
    let before = ENDED.load(Ordering::SeqCst);
    gateway.daemon.process().signal("TERM");
    assert!(gateway.daemon.process().wait(Duration::from_secs(60)).success());
    within(DEAD, "the targets' connections end", || {
        (ENDED.load(Ordering::SeqCst) >= before + 20).then_some(())
    });
    TcpListener::bind(remote.address()).expect("the reverse port is free");
    eventually("the client was told that it is a restart", || {
        process.log().contains("code 1012").then_some(())
    });
    assert!(!process.log().contains('\u{1b}'), "colours are for terminals: {}", process.log());
}

/// rel:F23: what readers that have stopped hold is bounded, nothing is lost, and others go on.
#[test]
fn f23_stopped_readers_hold_bounded_memory_and_lose_nothing() {
    let stopped = size(30, 100);
    let mut gateway = Gateway::start();
    let client = gateway.daemon.register();
    let (source, echo) = (Service::source(), Service::echo());
    let ports = [Port::take(), Port::take()];
    let slow = format!("{}:127.0.0.1:{}", ports[0].number(), source.port());
    let fast = format!("{}:127.0.0.1:{}", ports[1].number(), echo.port());
    let arguments = ["-L", &slow, "-L", &fast];
    let process = connect(&gateway.netunnel(""), &gateway.daemon, &client, &arguments);
    eventually("both are open", || is_open(&process, 2));
    // One whole transfer first: what is held anyway is held by then.
    download(dial(ports[0].number()));
    let ends = [gateway.daemon.process().id(), process.id()];
    let before = ends.map(memory_kib);
    let streams: Vec<TcpStream> = (0..stopped).map(|_| dial(ports[0].number())).collect();
    eventually("all have begun", || (source.connections() == stopped + 1).then_some(()));
    let carried = || status(&gateway.daemon)["netunnel"]["bytes_to_clients"].as_u64();
    let mut last = carried();
    within(DEAD, "everything stands still", || {
        thread::sleep(Duration::from_millis(500));
        let now = carried();
        (std::mem::replace(&mut last, now) == now).then_some(())
    });
    for _ in 0..100 {
        echoes(ports[1].number()).expect("others go on");
    }
    for (end, before) in ends.into_iter().zip(before) {
        let held = memory_kib(end).saturating_sub(before);
        let allowed = 256 * u64::try_from(stopped).expect("a small number");
        assert!(held <= allowed, "{held} KiB are held, {allowed} KiB allowed");
    }
    thread::sleep(size(Duration::ZERO, Duration::from_secs(9 * 60)));
    let readers: Vec<_> =
        streams.into_iter().map(|stream| thread::spawn(move || download(stream))).collect();
    for reader in readers {
        reader.join().expect("every byte arrives");
    }
}

/// One tunnel to an echo service, straight to the daemon: it is not nginx's `worker_connections` that are tried.
fn to_an_echo() -> (Daemon, Process, Port) {
    let (daemon, client, server) = direct("");
    let (echo, local) = (Service::echo(), Port::take());
    let forward = format!("{}:127.0.0.1:{}", local.number(), echo.port());
    let arguments = ["--auth-uri", &issuer(&daemon), "-L", &forward];
    let process = connect(&server, &daemon, &client, &arguments);
    eventually("it is open", || is_open(&process, 1));
    (daemon, process, local)
}

/// rel:F24.
#[test]
fn f24_idle_connections_all_answer_at_the_end() {
    let idle = size(1_000, 10_000);
    let (mut daemon, _process, local) = to_an_echo();
    let mut streams = Vec::with_capacity(idle);
    for _ in 0..idle {
        let mut stream = dial(local.number());
        stream.write_all(b"x").expect("sent");
        stream.read_exact(&mut [0]).expect("answered");
        streams.push(stream);
    }
    let open = status(&daemon)["netunnel"]["open_connections"].clone();
    assert_eq!(open, idle);
    let kib = memory_kib(daemon.process().id());
    let allowed = size(200 * 1024 / 10 + 20 * 1024, 200 * 1024);
    assert!(kib <= allowed, "{kib} KiB for {idle} idle connections");
    thread::sleep(size(Duration::ZERO, Duration::from_secs(60 * 60)));
    for stream in &mut streams {
        stream.write_all(b"y").expect("sent");
        let mut answer = [0];
        stream.read_exact(&mut answer).expect("answered");
        assert_eq!(&answer, b"y");
    }
}

/// rel:F26: thousands of short connections leave nothing behind.
#[test]
fn f26_churn_leaves_no_descriptor_and_no_connection() {
    let (mut daemon, process, local) = to_an_echo();
    let ends = [daemon.process().id(), process.id()];
    let churn = |count: usize| {
        for round in 0..count {
            let mut stream = dial(local.number());
            stream.write_all(b"x").expect("sent");
            // Every third one leaves without waiting, every fifth without having said it.
            if round % 3 != 0 {
                stream.read_exact(&mut [0]).expect("answered");
            }
            if round % 5 != 0 {
                let _ = stream.shutdown(Shutdown::Write);
            }
        }
    };
    let settled = || {
        within(DEAD, "all connections have ended", || {
            (status(&daemon)["netunnel"]["open_connections"] == 0).then_some(())
        });
    };
    churn(1_000);
    settled();
    let before = ends.map(|end| (memory_kib(end), descriptors(end)));
    churn(size(3_000, 720_000));
    settled();
    for (end, (kib, files)) in ends.into_iter().zip(before) {
        within(DEAD, "the descriptors are closed", || {
            (descriptors(end) <= files + 5).then_some(())
        });
        let now = memory_kib(end);
        assert!(now <= kib + kib / 20 + 2_048, "{kib} KiB before, {now} KiB after");
    }
}

/// What a service does for the test of rel:F27: reads to the end, then answers with the count and as many bytes.
fn reply_after_the_end(mut stream: TcpStream) {
    let mut received = Vec::new();
    if stream.read_to_end(&mut received).is_ok() {
        received.reverse();
        let _ = stream.write_all(&received);
    }
}

/// Ends its direction first, then reads to the end and tells how much it was in the test's own way.
fn end_first(mut stream: TcpStream) {
    let greeting: Vec<u8> = (0..1_000_000_u32).map(|index| index.to_le_bytes()[0]).collect();
    if stream.write_all(&greeting).is_ok() && stream.shutdown(Shutdown::Write).is_ok() {
        let mut received = Vec::new();
        if stream.read_to_end(&mut received).is_ok() {
            LAST_RECEIVED.store(received.len(), Ordering::SeqCst);
        }
    }
}

static LAST_RECEIVED: AtomicUsize = AtomicUsize::new(usize::MAX);

/// rel:F27 between our own ends, through nginx and without it.
#[test]
fn f27_either_side_may_end_its_direction_first() {
    let gateway = Gateway::start();
    let client = gateway.daemon.register();
    let (replies, ends) = (Service::start(reply_after_the_end), Service::start(end_first));
    for server in [gateway.netunnel(""), gateway.daemon.netunnel("")] {
        let ports = [Port::take(), Port::take()];
        let first = format!("{}:127.0.0.1:{}", ports[0].number(), replies.port());
        let second = format!("{}:127.0.0.1:{}", ports[1].number(), ends.port());
        let issuer = issuer(&gateway.daemon);
        let arguments = ["--auth-uri", &issuer, "-L", &first, "-R", &second];
        let process = connect(&server, &gateway.daemon, &client, &arguments);
        eventually("both are open", || echo_end(&ports[0]).then_some(()));
        for length in [0, 1, 1_000_000, size(32 << 20, 256 << 20)] {
            let data: Vec<u8> = (0..length).map(|index: u32| index.to_le_bytes()[1]).collect();
            let mut stream = dial(ports[0].number());
            let mut upload = stream.try_clone().expect("the connection again");
            let sent = data.clone();
            let sender = thread::spawn(move || {
                upload.write_all(&sent).expect("sent");
                upload.shutdown(Shutdown::Write).expect("ended");
            });
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).expect("the whole reply");
            sender.join().expect("the sender");
            answer.reverse();
            assert!(answer == data, "{length} bytes came back as {}", answer.len());
        }
        for length in [0, 1, 1_000_000] {
            let mut stream = dial(ports[1].number());
            let mut greeting = Vec::new();
            stream.read_to_end(&mut greeting).expect("the end of the service's direction");
            assert_eq!(greeting.len(), 1_000_000);
            stream.write_all(&vec![7; length]).expect("the other direction goes on");
            stream.shutdown(Shutdown::Write).expect("ended");
            eventually("all of it has arrived", || {
                (LAST_RECEIVED.load(Ordering::SeqCst) == length).then_some(())
            });
        }
        drop(process);
    }
}

/// The client appends to one log, so its lines don't tell which run they are of.
fn echo_end(port: &Port) -> bool {
    let Ok(mut stream) = TcpStream::connect(port.address()) else { return false };
    let mut answer = Vec::new();
    stream.write_all(b"x").is_ok()
        && stream.shutdown(Shutdown::Write).is_ok()
        && stream.read_to_end(&mut answer).is_ok()
        && answer == b"x"
}

/// rel:F28: packets are lost on every hop, in both directions; no byte is. (Delay, reordering and corruption take
/// `tc netem`, which a kernel need not have.)
#[test]
fn f28_no_byte_is_lost_where_packets_are() {
    Network::within(|network| {
        let (daemon, client, server) = direct("");
        let service = Service::bulk();
        let ports = [Port::take(), Port::take()];
        let forward = format!("{}:127.0.0.1:{}", ports[0].number(), service.port());
        let reverse = format!("{}:127.0.0.1:{}", ports[1].number(), service.port());
        let issuer = issuer(&daemon);
        let arguments = ["--auth-uri", &issuer, "-L", &forward, "-R", &reverse];
        let process = connect(&server, &daemon, &client, &arguments);
        eventually("both are open", || is_open(&process, 2));
        for probability in size(&["0.01"][..], &["0.001", "0.01", "0.03"]) {
            let random = ["-m", "statistic", "--mode", "random", "--probability", probability];
            network.drop_packets(&random);
            let transfers = [0, 1].map(|index: usize| {
                let stream = dial(ports[index].number());
                thread::spawn(move || bulk(stream))
            });
            for transfer in transfers {
                transfer.join().expect("every byte arrives");
            }
            assert!(network.dropped() > 10, "{} packets were dropped", network.dropped());
            network.drop_nothing();
        }
        drop(process);
    });
}

/// rel:F29: reloads of nginx, rotations of the signing key and other tunnels' failures go on meanwhile.
#[test]
fn f29_a_transfer_outlives_reloads_rotations_and_failures_beside_it() {
    let gateway = Gateway::start();
    let (client, other) = (gateway.daemon.register(), gateway.daemon.register());
    let service = Service::bulk();
    let remote = service.port().to_string();
    let local = Port::take().number().to_string();
    let tunnel = gateway.tunnel(&client, &["--local-port", &local, "--remote-port", &remote]);
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let streams = [tunnel.connect(), tunnel.connect()];
        let transfers = streams.map(|stream| scope.spawn(move || bulk(stream)));
        let ended = &ended;
        let gateway = &gateway;
        let troubles = scope.spawn(move || {
            let mut rounds = 0;
            while rounds == 0 || !ended.load(Ordering::SeqCst) {
                gateway.nginx.reload();
                let body = json!({"now": true}).to_string();
                let url = gateway.daemon.internal("/rotate_signing_key");
                let answer = ask("POST", &url, &[], Some(&body));
                assert!([200, 409].contains(&answer.status), "{answer:?}");
                let port = Port::take().number().to_string();
                let closed = Port::take().number().to_string();
                let beside: Tunnel =
                    gateway.tunnel(&other, &["--local-port", &port, "--remote-port", &closed]);
                let mut rest = Vec::new();
                let _ = beside.connect().read_to_end(&mut rest);
                assert!(rest.is_empty());
                rounds += 1;
                assert!(rounds < 100, "the transfers do not end");
            }
        });
        for transfer in transfers {
            transfer.join().expect("every byte arrives");
        }
        ended.store(true, Ordering::SeqCst);
        troubles.join().expect("the troubles");
    });
    // New tokens are of the new key by now.
    tunnel.bulk();
}

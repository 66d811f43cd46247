//! Destinations that are names, and a DNS server that means harm.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use system_tests::{Daemon, Network, Port, Process, Scratch, built, eventually};

const LIMIT: Duration = Duration::from_secs(30);

/// Where names may lead.
const GOOD: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 9);

/// What the server says for a name: addresses, a name and its addresses, or nothing at all.
enum Entry {
    Addresses(Vec<IpAddr>),
    /// Another answer for every other question.
    Alternating(Vec<IpAddr>, Vec<IpAddr>),
    Alias(&'static str, Vec<IpAddr>),
    Silence,
}

fn entries() -> HashMap<&'static str, Entry> {
    let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
    let good = || vec![IpAddr::from(GOOD)];
    // None of them but the last one listens.
    let many = (100..120).map(|last| IpAddr::from([10, 9, 9, last])).chain(good()).collect();
    HashMap::from([
        ("good.test", Entry::Addresses(good())),
        ("many.test", Entry::Addresses(many)),
        ("alias.test", Entry::Alias("elsewhere.example", good())),
        ("own.test", Entry::Addresses(vec![ip("127.0.0.1")])),
        ("mixed.test", Entry::Addresses(vec![ip("10.9.9.9"), ip("127.0.0.1")])),
        ("mapped.test", Entry::Addresses(vec![ip("::ffff:127.0.0.1")])),
        ("metadata.test", Entry::Addresses(vec![ip("169.254.169.254")])),
        ("aliased.test", Entry::Alias("localhost", vec![ip("127.0.0.1")])),
        ("rebound.test", Entry::Alternating(good(), vec![ip("127.0.0.1")])),
        ("silent.test", Entry::Silence),
    ])
}

fn encoded(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).expect("a label"));
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

/// One record with a life of 0 s (RFC 1035 §3.2.1).
fn record(name: &str, kind: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = encoded(name);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1, 0, 0, 0, 0]);
    bytes.extend(u16::try_from(data.len()).expect("short").to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;

fn records(name: &str, addresses: &[IpAddr], wanted: u16) -> Vec<Vec<u8>> {
    let of = |ip: &IpAddr| match (ip, wanted) {
        (IpAddr::V4(ip), A) => Some(record(name, A, &ip.octets())),
        (IpAddr::V6(ip), AAAA) => Some(record(name, AAAA, &ip.octets())),
        _ => None,
    };
    addresses.iter().filter_map(of).collect()
}

/// Answers until the test's process ends.
fn dns(socket: &UdpSocket) {
    let entries = entries();
    let mut asked: HashMap<String, usize> = HashMap::new();
    let mut question = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut question) {
        let mut labels = Vec::new();
        let mut at = 12;
        while let Some(count @ 1..) = question.get(at).copied().map(usize::from) {
            labels.push(String::from_utf8_lossy(&question[at + 1..=at + count]).into_owned());
            at += count + 1;
        }
        let end = at + 5;
        if end > length {
            continue;
        }
        let name = labels.join(".").to_ascii_lowercase();
        let kind = u16::from_be_bytes([question[at + 1], question[at + 2]]);
        let count = asked.entry(name.clone()).or_default();
        if kind == A {
            *count += 1;
        }
        let answers = match entries.get(name.as_str()) {
            None => Vec::new(),
            Some(Entry::Silence) => continue,
            Some(Entry::Addresses(list)) => records(&name, list, kind),
            Some(Entry::Alternating(first, _)) if *count % 2 == 1 => records(&name, first, kind),
            Some(Entry::Alternating(_, second)) => records(&name, second, kind),
            Some(Entry::Alias(target, list)) => {
                let mut answers = vec![record(&name, CNAME, &encoded(target))];
                answers.extend(records(target, list, kind));
                answers
            }
        };
        let mut reply = question[..2].to_vec();
        reply.extend([0x81, 0x80, 0, 1]);
        reply.extend(u16::try_from(answers.len()).expect("few").to_be_bytes());
        reply.extend([0; 4]);
        reply.extend_from_slice(&question[12..end]);
        reply.extend(answers.concat());
        let _ = socket.send_to(&reply, from);
    }
}

/// Says which address of this host was connected to, and remembers it.
fn service(seen: Arc<Mutex<Vec<IpAddr>>>) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port");
    let port = listener.local_addr().expect("its address").port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let own = stream.local_addr().expect("its address").ip();
            seen.lock().expect("unbroken").push(own);
            let _ = stream.write_all(own.to_string().as_bytes());
        }
    });
    port
}

/// What comes through an entrance up to the end; nothing if the destination was refused.
fn read(entrance: SocketAddr) -> String {
    let mut stream = TcpStream::connect(entrance).expect("the entrance");
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    let mut text = String::new();
    match stream.read_to_string(&mut text) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("no end"),
        _ => text,
    }
}

/// rel:W5, rel:F33: every answer has to pass, at every connection; a server that is silent concerns only those who
/// ask it.
#[test]
fn names_are_judged_by_where_they_lead_w5_f33() {
    Network::within(|network| {
        network.add_address(GOOD);
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 53)).expect("the port of DNS");
        thread::spawn(move || dns(&socket));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let port = service(Arc::clone(&seen));
        let daemon = Daemon::start_asking(
            &format!(
                "auth = \"none\"\n[[netunnel.rule]]\nidentifier = \"*\"\ndestinations = [\"*.test:{port}\"]"
            ),
            Ipv4Addr::LOCALHOST,
        );
        let scratch = Scratch::new();
        let names: Vec<&str> = entries().into_keys().collect();
        let entrances: HashMap<&str, Port> =
            names.iter().map(|name| (*name, Port::take())).collect();
        let mut command = Command::new(built("jwtunnel"));
        command.args(["connect", "-s", &daemon.netunnel("")]);
        for (name, entrance) in &entrances {
            command.args(["-L", &format!("{}:{name}:{port}", entrance.number())]);
        }
        let client = Process::start("jwtunnel", &mut command, &scratch.join("client.log"));
        eventually("all tunnels are open", || {
            (client.log().matches("Tunnel exit socket: ").count() == names.len()).then_some(())
        });
        let entrance = |name: &str| entrances[name].address();
        let waiting = entrance("silent.test");
        let waiting = thread::spawn(move || read(waiting));
        for name in ["good.test", "many.test", "alias.test", "good.test"] {
            assert_eq!(read(entrance(name)), GOOD.to_string(), "{name}");
        }
        let refused = ["own.test", "mixed.test", "mapped.test", "metadata.test", "aliased.test"];
        for name in refused {
            assert_eq!(read(entrance(name)), "", "{name}");
        }
        // The same name, checked anew each time.
        let answers: Vec<String> = (0..4).map(|_| read(entrance("rebound.test"))).collect();
        assert_eq!(answers, [GOOD.to_string(), String::new(), GOOD.to_string(), String::new()]);
        assert_eq!(waiting.join().expect("an end in time"), "");
        assert!(seen.lock().expect("unbroken").iter().all(|ip| *ip == IpAddr::from(GOOD)));
        // Written once the websocket has parted.
        for event in ["dest_denied", "dial_timeout"] {
            eventually(event, || daemon.log().contains(event).then_some(()));
        }
    });
}

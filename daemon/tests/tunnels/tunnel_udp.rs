//! Tunnels for datagrams, which only our own ends have (nt:E11).

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use crate::tunnel_harness::*;
use futures_util::SinkExt;
use jwtunnel::tunnel::client::{
    Client, ClientError, Connector, Credentials, Entrance, Target, Trust,
};
use jwtunnel::tunnel::{Policy, Settings, Timings};
use serde_json::{Value, json};
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;

/// A silence that ends a flow, where a test waits for that; longer than a busy machine keeps anybody waiting.
const SILENCE: Duration = Duration::from_millis(1_500);

fn settings(timings: Timings) -> Settings {
    Settings { timings, ..Settings::default() }
}

async fn client(bench: &Bench, timings: Timings) -> Client {
    let connector = Connector::new(&bench.url(), &Trust::default(), Credentials::none()).await;
    connector.unwrap().with_timings(timings).connect().await.unwrap()
}

/// A socket of a program.
async fn program() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").await.unwrap()
}

/// A service that answers each datagram with itself, behind the port that it saw it come from.
async fn service() -> u16 {
    serve(program().await)
}

fn serve(socket: UdpSocket) -> u16 {
    let port = socket.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut data = vec![0; 65_536];
        loop {
            // An error is about an answer that nobody waited for.
            let Ok((length, from)) = socket.recv_from(&mut data[2..]).await else { continue };
            data[..2].copy_from_slice(&from.port().to_be_bytes());
            let _ = socket.send_to(&data[..length + 2], from).await;
        }
    });
    port
}

/// Where to enter a forward tunnel and a reverse one to the service.
async fn tunnels(client: &Client, service: u16) -> [SocketAddr; 2] {
    let entrance = Entrance::bind_udp("127.0.0.1:0".parse().unwrap()).await.unwrap();
    client.forward(&entrance, "127.0.0.1", service).await.unwrap();
    let target = Target::Udp("127.0.0.1".into(), service);
    let reverse = client.reverse("127.0.0.1", 0, target).await.unwrap();
    [entrance.local_addr().unwrap(), reverse.entrance().unwrap()]
}

/// The answer to `data`, and the port that the service saw it come from.
async fn ask(program: &UdpSocket, entrance: SocketAddr, data: &[u8]) -> (Vec<u8>, u16) {
    program.send_to(data, entrance).await.unwrap();
    let mut answer = vec![0; 65_536];
    let received = timeout(LIMIT, program.recv_from(&mut answer)).await.expect("an answer");
    let (length, from) = received.unwrap();
    assert_eq!(from, entrance);
    let port = u16::from_be_bytes([answer[0], answer[1]]);
    (answer[2..length].to_vec(), port)
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_keep_their_bounds_both_ways() {
    let bench = Bench::open(settings(quick())).await;
    let client = client(&bench, quick()).await;
    let service = service().await;
    for entrance in tunnels(&client, service).await {
        let program = program().await;
        // The longest that UDP has, less what the service adds.
        for length in [1, 0, 1_400, 0, 9_000, 65_505, 3, 65_505] {
            let data: Vec<u8> = (0..length).map(|index: usize| (index * 31) as u8).collect();
            let (answer, _) = ask(&program, entrance, &data).await;
            assert!(answer == data, "{length} bytes");
        }
        // Many at once come in order on one websocket, and none becomes two or half.
        let sent: Vec<Vec<u8>> = (0..40_u8).map(|n| vec![n; usize::from(n)]).collect();
        for data in &sent {
            program.send_to(data, entrance).await.unwrap();
        }
        let mut data = [0; 2_000];
        for expected in &sent {
            let received = timeout(LIMIT, program.recv_from(&mut data)).await.expect("in time");
            assert_eq!(data[2..received.unwrap().0], expected[..]);
        }
    }
    assert_eq!(bench.server.counts().dropped, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_program_has_a_flow_of_its_own() {
    let bench = Bench::open(settings(quick())).await;
    let client = client(&bench, quick()).await;
    let service = service().await;
    for entrance in tunnels(&client, service).await {
        let mut ports = HashSet::new();
        for _ in 0..20 {
            let program = program().await;
            let (answer, first) = ask(&program, entrance, b"one").await;
            assert_eq!(answer, b"one");
            assert_eq!(ask(&program, entrance, b"two").await.1, first, "the same flow");
            assert!(ports.insert(first), "a flow of another program");
        }
    }
    let counts = bench.server.counts();
    assert_eq!((counts.open, counts.connections), (40, 40));
    // With the tunnel its flows end, without waiting for their silence.
    client.close().await;
    eventually("all are gone", || bench.server.census().connections == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_flow_ends_and_the_next_datagram_begins_another() {
    // Whichever side's time is over first.
    for (server, at_client) in [(SILENCE, LIMIT), (LIMIT, SILENCE)] {
        let timings = |udp_idle| Timings { udp_idle, ..quick() };
        let bench = Bench::open(settings(timings(server))).await;
        let client = client(&bench, timings(at_client)).await;
        let service = service().await;
        for entrance in tunnels(&client, service).await {
            let program = program().await;
            let (_, first) = ask(&program, entrance, b"one").await;
            // It lives for as long as something comes, in time.
            let end = Instant::now() + SILENCE * 3 / 2;
            while Instant::now() < end {
                assert_eq!(ask(&program, entrance, b"more").await.1, first);
                sleep(SILENCE / 10).await;
            }
            eventually("the flow has ended", || bench.server.counts().open == 0).await;
            assert_ne!(ask(&program, entrance, b"two").await.1, first);
        }
    }
}

/// Nobody listening is no end: an ICMP message about one datagram says nothing about the next.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_comes_later_is_reached() {
    let bench = Bench::open(settings(quick())).await;
    let client = client(&bench, quick()).await;
    for which in 0..2 {
        let later = program().await;
        let address = later.local_addr().unwrap();
        let entrance = tunnels(&client, address.port()).await[which];
        drop(later);
        let program = program().await;
        for _ in 0..3 {
            program.send_to(b"too early", entrance).await.unwrap();
            sleep(Duration::from_millis(30)).await;
        }
        serve(UdpSocket::bind(address).await.unwrap());
        assert_eq!(ask(&program, entrance, b"now").await.0, b"now");
    }
}

/// A channel of a raw client that offers features.
async fn channel(bench: &Bench, features: Value) -> (u64, Ws) {
    let answer = bench.post("/channels", &json!({"version": "1", "features": features})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let id = answer.json()["channel_id"].as_u64().unwrap();
    (id, bench.websocket(&format!("/channels/{id}/connect"), "").await.unwrap())
}

#[tokio::test]
async fn only_ends_that_agreed_have_tunnels_for_datagrams() {
    let bench = Bench::open(settings(quick())).await;
    let wish = |protocol: Value| json!({"exit_address": "127.0.0.1", "exit_port": 1, "reverse": false, "protocol": protocol});
    // NETunnel's clients offer nothing, and nothing is answered.
    let answer = bench.post("/channels", &json!({"version": "1.0.13"})).await;
    assert!(answer.json().get("features").is_none(), "{answer:?}");
    let (id, _control) = bench.channel("").await;
    let path = format!("/channels/{id}/tunnels");
    let refused = bench.post(&path, &wish(json!("udp"))).await;
    assert_eq!(
        refused.error(400),
        "protocol udp: the channel has not agreed on the feature \"udp\""
    );
    let (id, _control) = channel(&bench, json!(["udp"])).await;
    let path = format!("/channels/{id}/tunnels");
    for wrong in [json!("sctp"), json!(17), json!(null), json!("UDP")] {
        let refused = bench.post(&path, &wish(wrong)).await;
        assert_eq!(refused.error(400), "protocol must be \"tcp\" or \"udp\"");
    }
    assert_eq!(bench.post(&path, &wish(json!("tcp"))).await.status, 200);
    assert_eq!(bench.post(&path, &wish(json!("udp"))).await.status, 200);

    let without = Settings { refuse_udp: true, ..settings(quick()) };
    let bench = Bench::open(without).await;
    let client = client(&bench, quick()).await;
    let entrance = Entrance::bind_udp("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let error = client.forward(&entrance, "127.0.0.1", 1).await.unwrap_err();
    assert!(matches!(error, ClientError::NoUdp { .. }) && error.is_final(), "{error}");
    assert!(error.to_string().contains("has no tunnels for UDP"), "{error}");
    let target = Target::Udp("127.0.0.1".into(), 1);
    let error = client.reverse("127.0.0.1", 0, target).await.unwrap_err();
    assert!(matches!(error, ClientError::NoUdp { .. }), "{error}");
    // TCP goes on over the same channel.
    let entrance = Entrance::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    client.forward(&entrance, "127.0.0.1", echo().await).await.unwrap();
    let stream = dial(entrance.local_addr().unwrap()).await;
    assert_eq!(exchange(stream, b"tcp").await, b"tcp");
}

/// rel:W3-W7: what a rule says of an address holds for both protocols.
#[tokio::test]
async fn the_policy_holds_for_datagrams() {
    let service = service().await;
    let allowed = BTreeMap::from([("127.0.0.1".to_owned(), service.to_string())]);
    let policy = Policy::from_allowed_destinations(&allowed).unwrap();
    let bench = Bench::open(Settings { policy, ..settings(quick()) }).await;
    let client = client(&bench, quick()).await;
    let entrance = Entrance::bind_udp("127.0.0.1:0".parse().unwrap()).await.unwrap();
    for (host, port) in [("127.0.0.1", 1), ("169.254.169.254", 53), ("224.0.0.1", 5353)] {
        let error = client.forward(&entrance, host, port).await.unwrap_err();
        assert!(matches!(&error, ClientError::Refused { status, .. } if status.as_u16() == 403));
        assert!(error.to_string().contains("is not allowed"), "{error}");
    }
    // Nor may a reverse tunnel take a port that is reserved.
    let target = Target::Udp("127.0.0.1".into(), service);
    let error = client.reverse("127.0.0.1", 53, target).await.unwrap_err();
    assert!(matches!(&error, ClientError::Refused { status, .. } if status.as_u16() == 403));
    client.forward(&entrance, "127.0.0.1", service).await.unwrap();
    let entrance = entrance.local_addr().unwrap();
    assert_eq!(ask(&program().await, entrance, b"allowed").await.0, b"allowed");
}

/// A port that a tunnel has already: of UDP only, for TCP has ports of its own.
#[tokio::test]
async fn a_port_of_udp_is_not_one_of_tcp() {
    let bench = Bench::open(settings(quick())).await;
    let client = client(&bench, quick()).await;
    let service = service().await;
    let echo = echo().await;
    let udp = || Target::Udp("127.0.0.1".into(), service);
    let mut both = None;
    // A port that is free for UDP may be one that somebody else has for TCP, but not again and again.
    for _ in 0..20 {
        let first = client.reverse("127.0.0.1", 0, udp()).await.unwrap();
        let port = first.entrance().unwrap().port();
        let error = client.reverse("127.0.0.1", port, udp()).await.unwrap_err();
        assert!(error.to_string().contains("address already in use"), "{error}");
        if let Ok(tcp) = client.reverse("127.0.0.1", port, ("127.0.0.1", echo)).await {
            both = Some((first, tcp));
            break;
        }
    }
    let (first, tcp) = both.expect("a port for both");
    assert_eq!(tcp.entrance(), first.entrance());
    assert_eq!(exchange(dial(tcp.entrance().unwrap()).await, b"tcp").await, b"tcp");
    assert_eq!(ask(&program().await, first.entrance().unwrap(), b"udp").await.0, b"udp");
}

/// A reverse tunnel whose client reads nothing: what comes for it is dropped, in bounded memory, and the flow beside it
/// does not notice.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_that_nobody_reads_is_dropped_and_counted() {
    let bench = Bench::open(settings(quick())).await;
    let (id, _control) = channel(&bench, json!(["udp"])).await;
    let wish = json!({"entrance_address": "127.0.0.1", "entrance_port": 0, "reverse": true,
        "protocol": "udp"});
    let answer = bench.post(&format!("/channels/{id}/tunnels"), &wish).await;
    let port = answer.json()["entrance_port"].as_u64().unwrap();
    let entrance: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
    let stuck = bench.data(id).await;
    let flood = program().await;
    let end = Instant::now() + LIMIT;
    while bench.server.counts().dropped < 1_000 {
        assert!(Instant::now() < end, "nothing is dropped");
        flood.send_to(&[0; 1_400], entrance).await.unwrap();
    }
    let mut other = bench.data(id).await;
    let program = program().await;
    program.send_to(b"hello", entrance).await.unwrap();
    assert_eq!(next(&mut other).await, Some(Message::Text("pasten".into())));
    // The flood's room is for all; a datagram that was dropped for it is sent again, as UDP's programs do.
    let again = async {
        loop {
            program.send_to(b"hello", entrance).await.unwrap();
            sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        message = next(&mut other) => assert_eq!(message, Some(Message::Binary("hello".into()))),
        () = again => {}
    }
    binary(&mut other, b"answer").await;
    let mut answer = [0; 16];
    let received = timeout(LIMIT, program.recv_from(&mut answer)).await.expect("in time");
    assert_eq!(answer[..received.unwrap().0], b"answer"[..]);
    drop(stuck);
}

#[tokio::test]
async fn a_message_that_is_no_datagram_ends_its_flow() {
    let bench = Bench::open(settings(quick())).await;
    let service = service().await;
    let (id, _control) = channel(&bench, json!(["udp"])).await;
    let wish = json!({"exit_address": "127.0.0.1", "exit_port": service, "reverse": false,
        "protocol": "udp"});
    assert_eq!(bench.post(&format!("/channels/{id}/tunnels"), &wish).await.status, 200);
    let mut ws = bench.data(id).await;
    text(&mut ws, "pasten").await;
    binary(&mut ws, b"small").await;
    let Some(Message::Binary(answer)) = next(&mut ws).await else { panic!("no answer") };
    assert_eq!(&answer[2..], b"small");
    // Longer than UDP can, but not than a message may be: dropped, like anything that a network does not take.
    let dropped = bench.server.counts().dropped;
    binary(&mut ws, &[0; 65_520]).await;
    binary(&mut ws, b"more").await;
    let Some(Message::Binary(answer)) = next(&mut ws).await else { panic!("no answer") };
    assert_eq!(&answer[2..], b"more");
    assert_eq!(bench.server.counts().dropped, dropped + 1);
    let _ = ws.send(Message::Binary(vec![0; 70_000].into())).await;
    assert_eq!(close_code(&mut ws).await, Some(1009));
}

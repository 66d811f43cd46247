//! The tunnel server against raw clients: the websockets of its tunnels, how they begin, wait and end.
//!
//! Names end with the ids that they prove: `a18` is example A18 of the protocol's description, `w2` is a hazard of
//! the reliability requirements.

use std::time::Duration;

use crate::tunnel_harness::*;
use futures_util::SinkExt;
use jwtunnel::tunnel::wire;
use jwtunnel::tunnel::{Census, Settings, Timings};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;

/// A websocket that waits, and one that carries a connection to an echo.
async fn idle_and_active(bench: &Bench, channel: u64) -> (Ws, Ws) {
    let (idle, mut active) = (bench.data(channel).await, bench.data(channel).await);
    text(&mut active, "pasten").await;
    binary(&mut active, b"x").await;
    assert_eq!(next(&mut active).await, Some(Message::Binary(b"x".to_vec().into())));
    (idle, active)
}

#[tokio::test]
async fn data_goes_both_ways_and_ends_a27_a28_a32() {
    let bench = Bench::open(settings()).await;
    let port = service(async |mut stream: TcpStream| {
        let mut five = [0; 5];
        stream.read_exact(&mut five).await.unwrap();
        stream.write_all(&five).await.unwrap();
    })
    .await;
    let (id, _control) = bench.forward(port).await;
    let mut ws = bench.data(id).await;
    text(&mut ws, "pasten").await;
    binary(&mut ws, b"dat").await;
    // Towards a client without half-close an empty message means nothing.
    binary(&mut ws, b"").await;
    binary(&mut ws, b"a1").await;
    assert_eq!(next(&mut ws).await, Some(Message::Binary(b"data1".to_vec().into())));
    assert_eq!(next(&mut ws).await, Some(Message::Binary(Vec::new().into())));
    assert_eq!(close_code(&mut ws).await, Some(1000));
}

/// With the claims of the token that opened it, a websocket must not begin connections for ever.
#[tokio::test]
async fn a_websocket_that_is_used_again_has_an_end() {
    let timings = Timings { start: Duration::from_secs(1), ..quick() };
    let bench = Bench::open(Settings { timings, ..settings() }).await;
    let offer = json!({"version": "1.0.13", "features": ["half-close", "reuse"]});
    let answer = bench.post("/channels", &offer).await.json();
    assert_eq!(answer["features"], offer["features"]);
    let id = answer["channel_id"].as_u64().unwrap();
    let _control = bench.websocket(&format!("/channels/{id}/connect"), "").await.unwrap();
    let port = echo().await;
    let wish = json!({"exit_address": "127.0.0.1", "exit_port": port, "reverse": false});
    assert_eq!(bench.post(&format!("/channels/{id}/tunnels"), &wish).await.status, 200);
    let mut ws = bench.data(id).await;
    let (begun, mut carried) = (Instant::now(), 0);
    let code = loop {
        assert!(begun.elapsed() < LIMIT, "{carried} connections, and no end");
        // The end may come at any of these.
        let _ = ws.send(Message::Text("pasten".into())).await;
        let _ = ws.send(Message::Binary(b"x".to_vec().into())).await;
        let _ = ws.send(Message::Binary(Vec::new().into())).await;
        match next(&mut ws).await {
            Some(Message::Binary(data)) => assert_eq!(data, b"x".as_slice()),
            Some(Message::Close(frame)) => break frame.map(|frame| u16::from(frame.code)),
            other => panic!("{other:?}"),
        }
        assert_eq!(next(&mut ws).await, Some(Message::Binary(Vec::new().into())));
        carried += 1;
    };
    assert_eq!(code, Some(1001));
    assert!(carried > 1, "{carried} connections");
}

#[tokio::test]
async fn a_closed_port_and_a_wrong_start_a29_a30_a31() {
    let bench = Bench::open(settings()).await;
    let (id, _control) = bench.forward(closed_port().await).await;
    let mut ws = bench.data(id).await;
    text(&mut ws, "pasten").await;
    let Some(Message::Close(Some(frame))) = next(&mut ws).await else { panic!("no CLOSE") };
    assert_eq!(u16::from(frame.code), 1000);

    let contacted = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (id, _control) = bench.forward(contacted.local_addr().unwrap().port()).await;
    for first in [Message::Binary(b"pasten".to_vec().into()), Message::Text("PASTEN".into())] {
        let mut ws = bench.data(id).await;
        ws.send(first).await.unwrap();
        assert_eq!(close_code(&mut ws).await, Some(1002));
    }
    assert!(timeout(Duration::from_millis(50), contacted.accept()).await.is_err());

    // On a busy machine the four megabytes take longer than the other tests' time for a farewell.
    let timings = Timings { close: Duration::from_secs(15), ..quick() };
    let bench = Bench::open(Settings { timings, ..settings() }).await;
    let (id, _control) = bench.forward(echo().await).await;
    let mut ws = bench.data(id).await;
    text(&mut ws, "pasten").await;
    let _ = ws.send(Message::Binary(vec![0; 4 * 1024 * 1024 + 1].into())).await;
    assert_eq!(close_code(&mut ws).await, Some(1009));
}

#[tokio::test]
async fn what_does_not_exist_gets_101_and_close_1008_a25_a33() {
    let bench = Bench::open(settings()).await;
    let (id, _control) = bench.forward(22).await;
    let huge = "9".repeat(40);
    for path in [
        "/channels/999/tunnels/1/connect".to_owned(),
        format!("/channels/{id}/tunnels/9/connect"),
        format!("/channels/{id}/tunnels/{huge}/connect"),
    ] {
        let mut ws = bench.websocket(&path, "").await.unwrap();
        assert_eq!(close_code(&mut ws).await, Some(1008), "{path}");
        assert_eq!(next(&mut ws).await, None, "{path}");
    }
    for path in ["/channels/999/tunnels/9".to_owned(), format!("/channels/{id}/tunnels/9")] {
        let error = bench.delete(&path, &json!({})).await.error(404);
        assert_eq!(error, "tunnel_id `9` does not exists");
    }
}

#[tokio::test]
async fn frames_behind_the_upgrade_request_are_kept_w19() {
    let bench = Bench::open(settings()).await;
    let (id, _control) = bench.forward(echo().await).await;
    // TEXT "pasten" and BINARY "x", masked with zeros.
    let early = b"\x81\x86\0\0\0\0pasten\x82\x81\0\0\0\0x";
    let path = format!("/channels/{id}/tunnels/1/connect");
    let (head, mut stream) = raw_upgrade(&bench, &path, "", early).await;
    // The whole values: the original's library compares them.
    let lower = head.to_ascii_lowercase();
    assert!(lower.contains("\r\nupgrade: websocket\r\n"), "{head}");
    assert!(lower.contains("\r\nconnection: upgrade\r\n"), "{head}");
    assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "RFC 6455 §1.3: {head}");
    let mut frame = [0; 3];
    timeout(LIMIT, stream.read_exact(&mut frame)).await.unwrap().unwrap();
    assert_eq!(&frame, b"\x82\x01x");
}

#[tokio::test]
async fn a_reverse_tunnel_asks_for_websockets_a37_a40() {
    let timings = Timings { feed: Duration::from_millis(200), ..quick() };
    let bench = Bench::open(Settings { timings, ..settings() }).await;
    let (id, mut control) = bench.channel("").await;
    let wish = json!({"entrance_address": "127.0.0.1", "entrance_port": null, "reverse": true});
    let answer = bench.post(&format!("/channels/{id}/tunnels"), &wish).await.json();
    assert_eq!(answer["tunnel_id"], 1);
    let port = u16::try_from(answer["entrance_port"].as_u64().unwrap()).unwrap();

    // Refused, so it asks again after a while, and not at once.
    let mut asked = Instant::now();
    for number in 1..=2 {
        let Some(Message::Binary(request)) = next(&mut control).await else { panic!("no request") };
        let message = wire::Message::NewConnection { tunnel_id: 1 };
        assert_eq!(request, wire::encode_message(number, message));
        assert!(number == 1 || asked.elapsed() > Duration::from_millis(100), "without a pause");
        asked = Instant::now();
        let error = (number == 1).then_some("not now");
        binary(&mut control, &wire::encode_response(number, error)).await;
    }
    let mut program = dial(([127, 0, 0, 1], port).into()).await;
    program.write_all(b"from the program").await.unwrap();
    let mut ws = bench.data(id).await;
    assert_eq!(next(&mut ws).await, Some(Message::Text("pasten".into())));
    assert_eq!(next(&mut ws).await, Some(Message::Binary(b"from the program".to_vec().into())));
    binary(&mut ws, b"answer").await;
    let mut answer = [0; 6];
    program.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"answer");
}

#[tokio::test]
async fn a_dead_websocket_costs_no_connection() {
    let timings = Timings { feed: Duration::from_millis(200), ..quick() };
    let bench = Bench::open(Settings { timings, ..settings() }).await;
    let (id, _control) = bench.channel("").await;
    let wish = json!({"entrance_address": "localhost", "entrance_port": 0, "reverse": true});
    let answer = bench.post(&format!("/channels/{id}/tunnels"), &wish).await.json();
    let port = u16::try_from(answer["entrance_port"].as_u64().unwrap()).unwrap();
    drop(bench.data(id).await);
    let mut program = dial(([127, 0, 0, 1], port).into()).await;
    program.write_all(b"x").await.unwrap();
    let mut ws = bench.data(id).await;
    assert_eq!(next(&mut ws).await, Some(Message::Text("pasten".into())));
    assert_eq!(next(&mut ws).await, Some(Message::Binary(b"x".to_vec().into())));
}

#[tokio::test]
async fn deletion_with_force_is_immediate_a26_a41() {
    let bench = Bench::open(settings()).await;
    let (id, mut control) = bench.forward(echo().await).await;
    let (mut idle, mut active) = idle_and_active(&bench, id).await;
    let path = format!("/channels/{id}/tunnels/1");
    bench.send("DELETE", &path, "", "").await.error(400);
    bench.delete(&path, &json!({"force": 1})).await.error(400);
    let closing = async { (close_code(&mut idle).await, close_code(&mut active).await) };
    let force = json!({"force": true});
    let (answer, codes) = tokio::join!(bench.delete(&path, &force), closing);
    assert_eq!((answer.status, answer.text.as_str()), (200, ""));
    assert_eq!(answer.kind, "application/json");
    assert_eq!(codes, (Some(1000), Some(1001)));
    bench.delete(&path, &json!({})).await.error(404);
    control.send(Message::Ping(Vec::new().into())).await.unwrap();
    bench.settles(Census { channels: 1, tasks: 2, ..Census::default() }).await;
}

#[tokio::test]
async fn deletion_without_force_waits_for_connections() {
    let bench = Bench::open(settings()).await;
    let (id, _control) = bench.forward(echo().await).await;
    let (mut idle, mut active) = idle_and_active(&bench, id).await;
    let (path, body) = (format!("/channels/{id}/tunnels/1"), json!({}));
    let mut deleting = std::pin::pin!(bench.delete(&path, &body));
    let mut late = tokio::select! {
        answer = &mut deleting => panic!("answered early: {answer:?}"),
        // Waiting websockets are closed at once, and new ones find no tunnel.
        code = close_code(&mut idle) => {
            assert_eq!(code, Some(1000));
            bench.data(id).await
        }
    };
    assert_eq!(close_code(&mut late).await, Some(1008));
    binary(&mut active, b"still alive").await;
    let alive = async {
        assert_eq!(next(&mut active).await, Some(Message::Binary(b"still alive".to_vec().into())));
        active.close(None).await.unwrap();
        close_code(&mut active).await;
    };
    let (answer, ()) = tokio::join!(&mut deleting, alive);
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test]
async fn a_drain_lets_connections_end_then_says_1012_f19() {
    let bench = Bench::open(settings()).await;
    let (id, mut control) = bench.forward(echo().await).await;
    let (mut idle, mut active) = idle_and_active(&bench, id).await;
    let server = bench.server.clone();
    let draining = tokio::spawn(async move { server.drain(LIMIT).await });
    assert_eq!(close_code(&mut idle).await, Some(1012));
    let answer = bench.post("/channels", &json!({"version": "1"})).await;
    answer.error(503);
    let wish = json!({"exit_address": "127.0.0.1", "exit_port": 22, "reverse": false});
    bench.post(&format!("/channels/{id}/tunnels"), &wish).await.error(503);
    let mut late = bench.data(id).await;
    assert_eq!(close_code(&mut late).await, Some(1012));
    binary(&mut active, b"still alive").await;
    assert_eq!(next(&mut active).await, Some(Message::Binary(b"still alive".to_vec().into())));
    assert!(!draining.is_finished());
    active.close(None).await.unwrap();
    close_code(&mut active).await;
    assert_eq!(close_code(&mut control).await, Some(1012));
    draining.await.unwrap();
    bench.settles(Census::default()).await;
}

#[tokio::test]
async fn a_drain_cuts_what_is_open_at_its_deadline_f19() {
    let bench = Bench::open(settings()).await;
    let (id, mut control) = bench.forward(echo().await).await;
    let mut active = bench.data(id).await;
    text(&mut active, "pasten").await;
    binary(&mut active, b"x").await;
    next(&mut active).await;
    let closes = async { (close_code(&mut active).await, close_code(&mut control).await) };
    let ((), codes) = tokio::join!(bench.server.drain(Duration::from_millis(50)), closes);
    assert_eq!(codes, (Some(1012), Some(1012)));
    bench.settles(Census::default()).await;
}

#[tokio::test]
async fn a_waiting_websocket_that_vanishes_is_no_error_a36() {
    let bench = Bench::open(settings()).await;
    let (id, _control) = bench.forward(echo().await).await;
    for cut in [true, false] {
        let mut idle = bench.data(id).await;
        eventually("one websocket", || bench.server.census().connections == 1).await;
        // As NETunnel's client on aiohttp 3.13 does 30 s after opening one: EOF, or RST, and no CLOSE.
        if cut {
            idle.get_mut().set_zero_linger().unwrap();
        }
        drop(idle);
        eventually("no websocket", || bench.server.census().connections == 0).await;
    }
    let mut ws = bench.data(id).await;
    text(&mut ws, "pasten").await;
    binary(&mut ws, b"x").await;
    assert_eq!(next(&mut ws).await, Some(Message::Binary(b"x".to_vec().into())));
}

#[tokio::test]
async fn an_idle_connection_is_ended_where_that_is_configured() {
    let timings = Timings { idle: Duration::from_millis(300), ..quick() };
    let bench = Bench::open(Settings { timings, ..settings() }).await;
    let (id, _control) = bench.forward(echo().await).await;
    let mut ws = bench.data(id).await;
    text(&mut ws, "pasten").await;
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        binary(&mut ws, b"x").await;
        assert_eq!(next(&mut ws).await, Some(Message::Binary(b"x".to_vec().into())));
    }
    assert_eq!(close_code(&mut ws).await, Some(1001));
    bench.settles(Census { channels: 1, tunnels: 1, tasks: 2, ..Census::default() }).await;
}

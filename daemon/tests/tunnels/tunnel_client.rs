//! The client library against a server of this test that does what NETunnel's server may do and ours never does.
//! Against real servers it is tried in `tests/`.

use std::sync::Arc;
use std::time::Duration;

use crate::tunnel_harness::*;
use futures_util::{SinkExt, StreamExt};
use jwtunnel::tunnel::Timings;
use jwtunnel::tunnel::client::{Client, Connector, Credentials, Trust};
use jwtunnel::tunnel::wire::{self, Packet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::Message;

/// A server by hand: requests in the order in which the client has to make them.
struct Server(TcpListener);

impl Server {
    async fn start() -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        (Self(listener), url)
    }

    /// The next connection whose request begins with this line.
    async fn next(&self, line: &str) -> TcpStream {
        let (stream, _) = timeout(LIMIT, self.0.accept()).await.expect("a connection").unwrap();
        let mut head = vec![0; 4096];
        let length = stream.peek(&mut head).await.unwrap();
        let head = String::from_utf8_lossy(&head[..length]).into_owned();
        assert!(head.starts_with(line), "expected {line}: {head}");
        stream
    }

    async fn answer(&self, line: &str, body: &str) {
        let stream = self.next(line).await;
        reply(stream, body).await;
    }

    async fn websocket(&self, line: &str) -> Ws {
        accept_async(self.next(line).await).await.unwrap()
    }
}

async fn reply(mut stream: TcpStream, body: &str) {
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nConnection: close\r\n";
    let answer = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(answer.as_bytes()).await.unwrap();
    let mut rest = Vec::new();
    // The request's body, so that closing is no RST.
    let _ = timeout(Duration::from_millis(200), stream.read_to_end(&mut rest)).await;
}

async fn connector(url: &str, timings: Timings) -> Connector {
    let connector = Connector::new(url, &Trust::default(), Credentials::none()).await;
    connector.unwrap().with_timings(timings)
}

async fn connect(server: &Server, url: &str, timings: Timings) -> (Client, Ws) {
    let connector = connector(url, timings).await;
    let connecting = tokio::spawn(async move { connector.connect().await });
    // As the original answers: no features.
    server.answer("POST /channels ", r#"{"channel_id": 7, "version": "1.0.13"}"#).await;
    let control = server.websocket("GET /channels/7/connect ").await;
    (connecting.await.unwrap().unwrap(), control)
}

#[tokio::test]
async fn the_first_request_of_a_reverse_tunnel_may_overtake_its_answer_a38() {
    let (server, url) = Server::start().await;
    let (client, mut control) = connect(&server, &url, quick()).await;
    let port = echo().await;
    let making = {
        let client = client.clone();
        tokio::spawn(async move { client.reverse("127.0.0.1", 0, ("127.0.0.1", port)).await })
    };
    let asked = server.next("POST /channels/7/tunnels ").await;
    let request = wire::Message::NewConnection { tunnel_id: 1 };
    binary(&mut control, &wire::encode_message(1, request)).await;
    // Neither refused nor forgotten: it waits for the answer that names the tunnel.
    let early = timeout(Duration::from_secs(2), control.next()).await;
    assert!(early.is_err(), "{early:?}");
    reply(asked, r#"{"tunnel_id": 1}"#).await;
    let Some(Message::Binary(answer)) = next(&mut control).await else { panic!("no reply") };
    assert_eq!(wire::decode(&answer), Ok(Packet::Response { id: 1, result: Ok(()) }));
    assert_eq!(making.await.unwrap().unwrap().id(), 1);
    let mut ws = server.websocket("GET /channels/7/tunnels/1/connect ").await;
    text(&mut ws, "pasten").await;
    binary(&mut ws, b"x").await;
    assert_eq!(next(&mut ws).await, Some(Message::Binary(b"x".to_vec().into())));
    // A tunnel that does not exist is refused with the original's text.
    let request = wire::Message::NewConnection { tunnel_id: 99 };
    binary(&mut control, &wire::encode_message(2, request)).await;
    let Some(Message::Binary(answer)) = next(&mut control).await else { panic!("no reply") };
    let refusal = "tunnel_id `99` is not registered on this client".to_owned();
    assert_eq!(wire::decode(&answer), Ok(Packet::Response { id: 2, result: Err(refusal) }));
}

/// NETunnel's server does not read waiting websockets of a reverse tunnel, so our pings get no answer until use.
#[tokio::test]
async fn a_waiting_websocket_is_pinged_and_needs_no_pong_a39() {
    let (server, url) = Server::start().await;
    let timings = Timings { ping: Duration::from_millis(50), ..quick() };
    let (client, mut control) = connect(&server, &url, timings).await;
    let port = echo().await;
    let making = {
        let client = client.clone();
        tokio::spawn(async move { client.reverse("127.0.0.1", 0, ("127.0.0.1", port)).await })
    };
    server.answer("POST /channels/7/tunnels ", r#"{"tunnel_id": 1}"#).await;
    making.await.unwrap().unwrap();
    let request = wire::Message::NewConnection { tunnel_id: 1 };
    binary(&mut control, &wire::encode_message(1, request)).await;
    let mut ws = server.websocket("GET /channels/7/tunnels/1/connect ").await;
    let alive = Arc::new(Notify::new());
    let reading = {
        let alive = alive.clone();
        // The control websocket is read, as any server does.
        tokio::spawn(async move {
            while let Some(Ok(_)) = control.next().await {}
            alive.notify_one();
        })
    };
    // 40 intervals without a pong.
    sleep(Duration::from_secs(2)).await;
    ws.send(Message::Text("pasten".into())).await.unwrap();
    binary(&mut ws, b"x").await;
    let mut pings = 0;
    loop {
        match timeout(LIMIT, ws.next()).await.unwrap().unwrap().unwrap() {
            Message::Ping(_) => pings += 1,
            other => {
                assert_eq!(other, Message::Binary(b"x".to_vec().into()));
                break;
            }
        }
    }
    assert!(pings >= 20, "{pings} pings");
    assert!(!reading.is_finished(), "the channel has ended");
    drop(client);
}

/// Payload is left as it is only where both ends have agreed; towards anybody else it is masked (RFC 6455 §5.3).
#[tokio::test]
async fn the_zero_mask_is_for_servers_that_agreed_to_it() {
    for (agreed, features) in [(true, r#", "features": ["zero-mask"]"#), (false, "")] {
        let (server, url) = Server::start().await;
        let connector = connector(&url, quick()).await;
        let connecting = tokio::spawn(async move { connector.connect().await });
        let answer = format!(r#"{{"channel_id": 7, "version": "1.0.13"{features}}}"#);
        server.answer("POST /channels ", &answer).await;
        let mut control = server.websocket("GET /channels/7/connect ").await;
        let client = connecting.await.unwrap().unwrap();
        let port = echo().await;
        let making =
            tokio::spawn(async move { client.reverse("127.0.0.1", 0, ("127.0.0.1", port)).await });
        server.answer("POST /channels/7/tunnels ", r#"{"tunnel_id": 1}"#).await;
        making.await.unwrap().unwrap();
        let request = wire::Message::NewConnection { tunnel_id: 1 };
        binary(&mut control, &wire::encode_message(1, request)).await;
        let mut ws = server.websocket("GET /channels/7/tunnels/1/connect ").await;
        text(&mut ws, "pasten").await;
        binary(&mut ws, b"eight by").await;
        let mut frame = [0; 14];
        timeout(LIMIT, ws.get_mut().read_exact(&mut frame)).await.unwrap().unwrap();
        assert_eq!(frame[..2], [0x82, 0x88]);
        let key = &frame[2..6];
        assert_eq!(key == [0; 4], agreed, "{key:?}");
        let unmasked: Vec<u8> =
            frame[6..].iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
        assert_eq!(unmasked, b"eight by");
    }
}

//! The end of a connection, in every state that it can be in: nothing is lost, nothing stays.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::tunnel_harness::*;
use futures_util::SinkExt;
use jwtunnel::tunnel::Census;
use jwtunnel::tunnel::client::{Connector, Credentials, Entrance, Trust};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

/// Many short ones; `make test-long` makes it the whole number of rel:W12.
fn transfers() -> usize {
    if std::env::var_os("JWTUNNEL_LONG").is_some() { 10_000 } else { 400 }
}

/// Sizes that look random and are the same each time: mostly short, some of several chunks.
fn size(round: usize) -> usize {
    let mixed = round.wrapping_mul(0x9e37_79b9) >> 3;
    match round % 4 {
        0 => mixed % 10,
        1 => mixed % 1_000,
        2 => mixed % 70_000,
        _ => mixed % 400_000,
    }
}

/// Sends as many bytes as the connection asks for with its first four, and is gone.
async fn sender() -> u16 {
    service(async |mut stream: TcpStream| {
        let Ok(length) = stream.read_u32().await else { return };
        let _ = stream.write_all(&vec![7; length as usize]).await;
    })
    .await
}

/// Tells how many bytes each connection brought.
async fn counter() -> (u16, UnboundedReceiver<usize>) {
    let (tell, told) = unbounded_channel();
    let port = service(move |mut stream: TcpStream| {
        let tell = tell.clone();
        async move {
            let mut received = Vec::new();
            let ended = stream.read_to_end(&mut received).await;
            let _ = tell.send(ended.map_or(usize::MAX, |_| received.len()));
        }
    })
    .await;
    (port, told)
}

/// rel:W12, through both kinds of tunnel between our own ends: who sends and is gone at once has sent all of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_before_the_end_arrives_w12() {
    let bench = Bench::open(settings()).await;
    let connector =
        Connector::new(&bench.url(), &Trust::default(), Credentials::none()).await.unwrap();
    let client = connector.with_timings(quick()).connect().await.unwrap();
    let entrances = async |port: u16| -> [SocketAddr; 2] {
        let entrance = Entrance::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let forward = entrance.local_addr().unwrap();
        client.forward(&entrance, "127.0.0.1", port).await.unwrap();
        let reverse = client.reverse("127.0.0.1", 0, ("127.0.0.1", port)).await.unwrap();
        [forward, reverse.entrance().unwrap()]
    };
    let (port, mut told) = counter().await;
    let (up, down) = (entrances(port).await, entrances(sender().await).await);
    for round in 0..transfers() {
        let (length, way) = (size(round), round % 2);
        let mut stream = dial(up[way]).await;
        stream.write_all(&vec![1; length]).await.unwrap();
        drop(stream);
        let received = timeout(LIMIT, told.recv()).await.unwrap().unwrap();
        assert_eq!(received, length, "round {round}, to the service");
        let mut stream = dial(down[way]).await;
        stream.write_u32(u32::try_from(length).unwrap()).await.unwrap();
        let mut received = Vec::new();
        timeout(LIMIT, stream.read_to_end(&mut received)).await.unwrap().unwrap();
        assert_eq!(received.len(), length, "round {round}, from the service");
    }
    client.close().await;
    bench.settles(Census::default()).await;
}

/// rel:W12 towards a client of NETunnel's kind, whose CLOSE follows its last message at once.
#[tokio::test]
async fn what_came_before_a_close_is_delivered_w12() {
    let bench = Bench::open(settings()).await;
    let (port, mut told) = counter().await;
    let (id, _control) = bench.forward(port).await;
    for round in 0..transfers() / 4 {
        let length = size(round);
        let mut ws = bench.data(id).await;
        text(&mut ws, "pasten").await;
        for chunk in vec![1; length].chunks(65_535) {
            ws.feed(Message::Binary(chunk.to_vec().into())).await.unwrap();
        }
        ws.close(None).await.unwrap();
        let received = timeout(LIMIT, told.recv()).await.unwrap().unwrap();
        assert_eq!(received, length, "round {round}");
    }
    bench.settles(Census { channels: 1, tunnels: 1, tasks: 2, ..Census::default() }).await;
}

/// A service whose queue of connections is full, so that connecting to it neither succeeds nor fails.
fn silent() -> (socket2::Socket, u16, Vec<std::net::TcpStream>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut held = Vec::new();
    while let Ok(stream) =
        std::net::TcpStream::connect_timeout(&address, Duration::from_millis(300))
    {
        held.push(stream);
        assert!(held.len() < 10, "the queue has no end");
    }
    (socket, address.port(), held)
}

/// rel:W14: a CLOSE is seen while the websocket waits, while the service is dialled, while the service's data finds
/// no taker; and so is an end without one.
#[tokio::test(flavor = "multi_thread")]
async fn a_close_is_seen_in_every_state_w14() {
    let bench = Bench::open(settings()).await;
    let endless = service(
        async |mut stream: TcpStream| {
            while stream.write_all(&[0; 65_536]).await.is_ok() {}
        },
    )
    .await;
    let (_socket, dialled, _held) = silent();
    let states: [(&str, u16, &[&str]); 3] = [
        ("it waits", endless, &[]),
        ("the service is dialled", dialled, &["pasten"]),
        ("nobody takes the data", endless, &["pasten"]),
    ];
    for (state, port, messages) in states {
        let (id, mut control) = bench.forward(port).await;
        for orderly in [true, false] {
            let mut ws = bench.data(id).await;
            for message in messages {
                text(&mut ws, message).await;
            }
            eventually(state, || bench.server.census().connections == 1).await;
            // Long enough for what the service sends to fill all buffers.
            tokio::time::sleep(Duration::from_millis(300)).await;
            let begun = Instant::now();
            if orderly {
                ws.send(Message::Close(None)).await.unwrap();
            } else {
                ws.get_mut().set_zero_linger().unwrap();
                drop(ws);
            }
            eventually(state, || bench.server.census().connections == 0).await;
            // The time for a dial, or a stalled connection's, would be far longer.
            assert!(begun.elapsed() < Duration::from_secs(8), "{state}: {:?}", begun.elapsed());
        }
        control.close(None).await.unwrap();
        bench.settles(Census::default()).await;
    }
}

//! Websockets that carry one connection after another, between our own ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::tunnel_harness::*;
use jwtunnel::tunnel::client::{Client, Connector, Credentials, Entrance, Trust};
use jwtunnel::tunnel::{Census, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Passes connections on to the server and counts them.
async fn counted(to: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut far = TcpStream::connect(to).await.unwrap();
                let _ = copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (address, count)
}

struct Pair {
    bench: Bench,
    client: Client,
    connections: Arc<AtomicUsize>,
}

impl Pair {
    async fn open() -> Self {
        let bench = Bench::open(Settings { timings: quick(), ..Settings::default() }).await;
        let (address, connections) = counted(bench.address).await;
        let url = format!("http://{address}");
        let connector = Connector::new(&url, &Trust::default(), Credentials::none()).await.unwrap();
        let client = connector.with_timings(quick()).connect().await.unwrap();
        Self { bench, client, connections }
    }

    /// Where to enter a forward tunnel and a reverse one to the service.
    async fn tunnels(&self, service: u16) -> [SocketAddr; 2] {
        let entrance = Entrance::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let forward = entrance.local_addr().unwrap();
        self.client.forward(&entrance, "127.0.0.1", service).await.unwrap();
        let target = ("127.0.0.1", service);
        let reverse = self.client.reverse("127.0.0.1", 0, target).await.unwrap();
        [forward, reverse.entrance().unwrap()]
    }
}

/// Bytes that no other connection has.
fn payload(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|index| (index.wrapping_mul(31) ^ seed.wrapping_mul(167)) as u8).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_after_another_takes_no_new_websocket() {
    let pair = Pair::open().await;
    let service = echo().await;
    for address in pair.tunnels(service).await {
        for _ in 0..3 {
            assert_eq!(exchange(dial(address).await, b"first").await, b"first");
        }
        let before = pair.connections.load(Ordering::SeqCst);
        for round in 0..60 {
            let data = payload([0, 1, 1_000, 300_000][round % 4], round);
            assert!(exchange(dial(address).await, &data).await == data, "round {round}");
        }
        let opened = pair.connections.load(Ordering::SeqCst) - before;
        assert!(opened <= 3, "{opened} connections to the server for 60 through the tunnel");
    }
}

/// Each connection gets its own bytes to its own end, however many share the websockets and whichever way they end.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_connection_leaves_does_not_reach_the_next() {
    let pair = Pair::open().await;
    let service = echo().await;
    for address in pair.tunnels(service).await {
        let mut workers = JoinSet::new();
        for worker in 0..12_usize {
            workers.spawn(async move {
                for round in 0..40 {
                    let data = payload(worker * 3_001 + round, worker * 1_000 + round);
                    let mut stream = dial(address).await;
                    match (worker + round) % 4 {
                        // Gone in the middle, with and without a reset.
                        0 => {
                            stream.write_all(&data).await.unwrap();
                            socket2::SockRef::from(&stream)
                                .set_linger(Some(Duration::ZERO))
                                .unwrap();
                        }
                        1 => {
                            stream.write_all(&data).await.unwrap();
                            let _ = stream.read(&mut [0; 100]).await;
                        }
                        _ => assert!(exchange(stream, &data).await == data, "{worker}/{round}"),
                    }
                }
            });
        }
        workers.join_all().await;
    }
}

/// The service answers after the end, slowly, while the next connection is already on its way.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_gets_the_rest_before_its_websocket_goes_on() {
    let pair = Pair::open().await;
    let (sender, mut received) = tokio::sync::mpsc::unbounded_channel();
    // Ends its own direction at once, and reads slowly what it is sent.
    let service = service(move |mut stream: TcpStream| {
        let sender = sender.clone();
        async move {
            stream.shutdown().await.unwrap();
            let (mut total, mut buffer) = (0_usize, vec![0; 64 * 1024]);
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                total += count;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            sender.send(total).unwrap();
        }
    })
    .await;
    for address in pair.tunnels(service).await {
        for length in [2_000_000, 1, 3_000_000, 0, 5] {
            let answer = exchange(dial(address).await, &payload(length, 1)).await;
            assert!(answer.is_empty());
            let total = timeout(LIMIT, received.recv()).await.expect("in time").unwrap();
            assert_eq!(total, length);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_waiting_websockets_falls_after_a_burst() {
    let pair = Pair::open().await;
    let service = echo().await;
    let [address, _] = pair.tunnels(service).await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        let mut stream = dial(address).await;
        stream.write_all(b"x").await.unwrap();
        stream.read_exact(&mut [0]).await.unwrap();
        streams.push(stream);
    }
    assert!(pair.bench.server.census().connections >= 20);
    for stream in streams {
        assert_eq!(exchange(stream, b"rest").await, b"rest");
    }
    // The forward tunnel's two and the reverse tunnel's one.
    eventually("only spare ones are left", || pair.bench.server.census().connections == 3).await;
    assert_eq!(exchange(dial(address).await, b"again").await, b"again");
}

/// Deleting a tunnel also ends the websockets that wait for another connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_closed_client_leaves_nothing_open() {
    let pair = Pair::open().await;
    let service = echo().await;
    for address in pair.tunnels(service).await {
        assert_eq!(exchange(dial(address).await, b"x").await, b"x");
    }
    pair.client.close().await;
    pair.bench.settles(Census::default()).await;
}

//! Long transfers, whose payload goes through pipes (splice(2)) and not through this process: nothing is lost, changed or
//! put in another order, whatever comes between.

#[path = "tunnels/tunnel_harness/mod.rs"]
mod tunnel_harness;

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use jwtunnel::tunnel::client::{Client, Connector, Credentials, Entrance, Trust};
use jwtunnel::tunnel::{Census, Settings};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tunnel_harness::*;

const MIB: usize = 1024 * 1024;

/// The bytes from `at` on of a stream in which no two stretches are alike, so that a piece too many, too few or in the
/// wrong place shows.
fn bytes(at: usize, length: usize) -> Vec<u8> {
    (at..at + length).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8).collect()
}

async fn send(stream: &mut (impl AsyncWriteExt + Unpin), total: usize) {
    for at in (0..total).step_by(MIB) {
        stream.write_all(&bytes(at, MIB.min(total - at))).await.unwrap();
    }
}

/// Reads to the end; how much that was, all of it as [`send`] sends it.
async fn receive(stream: &mut (impl AsyncRead + Unpin)) -> usize {
    let (mut at, mut piece) = (0, vec![0; MIB]);
    loop {
        let length = timeout(LIMIT, stream.read(&mut piece)).await.expect("it goes on").unwrap();
        if length == 0 {
            return at;
        }
        assert!(piece[..length] == bytes(at, length), "changed between {at} and {}", at + length);
        at += length;
    }
}

/// The pipes of this process, each with two descriptors.
fn pipes() -> usize {
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    let links = open.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("pipe:")).count() / 2
}

/// Of this process, in clock ticks: hundredths of a second.
fn processor_time() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
    fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

struct Pair {
    bench: Bench,
    client: Client,
}

impl Pair {
    async fn open() -> Self {
        let bench = Bench::open(Settings { timings: quick(), ..Settings::default() }).await;
        let connector =
            Connector::new(&bench.url(), &Trust::default(), Credentials::none()).await.unwrap();
        let client = connector.with_timings(quick()).connect().await.unwrap();
        Self { bench, client }
    }

    /// Where to enter a forward tunnel and a reverse one to the service.
    async fn tunnels(&self, service: u16) -> [SocketAddr; 2] {
        let entrance = Entrance::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let forward = entrance.local_addr().unwrap();
        self.client.forward(&entrance, "127.0.0.1", service).await.unwrap();
        let reverse = self.client.reverse("127.0.0.1", 0, ("127.0.0.1", service)).await.unwrap();
        [forward, reverse.entrance().unwrap()]
    }
}

/// Sends as much as [`receive`] is to get, while it receives the same; then says with one byte whether that was right.
async fn both_ways(total: usize) -> u16 {
    service(move |stream: TcpStream| async move {
        let (mut from, mut to) = stream.into_split();
        let sending = tokio::spawn(async move {
            send(&mut to, total).await;
            to
        });
        assert_eq!(receive(&mut from).await, total);
        sending.await.unwrap().shutdown().await.unwrap();
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn long_transfers_arrive_whole_both_ways_at_once() {
    let total = 48 * MIB;
    let pair = Pair::open().await;
    let before = pipes();
    for entrance in pair.tunnels(both_ways(total).await).await {
        let stream = dial(entrance).await;
        let (mut from, mut to) = stream.into_split();
        let sending = tokio::spawn(async move {
            send(&mut to, total).await;
            to.shutdown().await.unwrap();
            to
        });
        let watching = tokio::spawn(async move {
            let mut most = 0;
            for _ in 0..400 {
                most = most.max(pipes());
                sleep(Duration::from_millis(5)).await;
            }
            most
        });
        assert_eq!(receive(&mut from).await, total);
        sending.await.unwrap();
        assert!(watching.await.unwrap() > before, "nothing went through a pipe");
    }
    pair.client.close().await;
    pair.bench.settles(Census::default()).await;
    eventually("no pipe is left", || pipes() == before).await;
}

/// Each length goes there and back before the next one is sent, so that the two ways of carrying take turns.
#[tokio::test(flavor = "multi_thread")]
async fn small_and_large_take_turns_and_an_idle_connection_holds_no_pipe() {
    let pair = Pair::open().await;
    let echo = service(async |mut stream: TcpStream| {
        let (mut from, mut to) = stream.split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
    })
    .await;
    let before = pipes();
    for entrance in pair.tunnels(echo).await {
        let (mut from, mut to) = dial(entrance).await.into_split();
        let lengths =
            [1, 3 * MIB, 1, 70_000, 32 * 1024, 40_000, 5 * MIB + 1, 0, 2, 300_000, 9 * MIB];
        for length in lengths.into_iter().cycle().take(3 * lengths.len()) {
            let sending = tokio::spawn(async move {
                to.write_all(&bytes(length, length)).await.unwrap();
                to
            });
            let mut received = vec![0; length];
            timeout(LIMIT, from.read_exact(&mut received)).await.unwrap().unwrap();
            assert!(received == bytes(length, length), "{length} bytes have changed");
            to = sending.await.unwrap();
        }
        eventually("an idle connection holds no pipe", || pipes() == before).await;
        to.write_all(b"!").await.unwrap();
        assert_eq!(timeout(LIMIT, from.read_u8()).await.unwrap().unwrap(), b'!');
    }
}

/// rel:W10: what nobody takes stays with its sender.
#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_stops_holds_its_sender_and_loses_nothing() {
    let total = 96 * MIB;
    let pair = Pair::open().await;
    let source =
        service(move |mut stream: TcpStream| async move { send(&mut stream, total).await }).await;
    let carried = || {
        let counts = pair.bench.server.counts();
        usize::try_from(counts.sent + counts.received).unwrap()
    };
    for entrance in pair.tunnels(source).await {
        let before = carried();
        let mut stream = dial(entrance).await;
        eventually("the sender is held", || {
            let now = carried();
            std::thread::sleep(Duration::from_millis(300));
            now > before + MIB && now == carried()
        })
        .await;
        assert!(carried() < before + total, "all of it is held somewhere");
        // Longer than idle buffers are kept.
        sleep(Duration::from_millis(1_500)).await;
        let used = processor_time();
        sleep(Duration::from_secs(1)).await;
        let used = processor_time() - used;
        assert!(used < 30, "waiting takes {used} hundredths of a second of each second");
        assert_eq!(receive(&mut stream).await, total);
    }
}

/// A CLOSE that comes while a message is on its way is answered behind it.
#[tokio::test(flavor = "multi_thread")]
async fn a_close_in_the_middle_cuts_no_message() {
    let bench = Bench::open(Settings { timings: quick(), ..Settings::default() }).await;
    let endless = service(move |mut stream: TcpStream| async move {
        for at in (0..).step_by(MIB) {
            if stream.write_all(&bytes(at, MIB)).await.is_err() {
                break;
            }
        }
    })
    .await;
    let (id, _control) = bench.forward(endless).await;
    let mut ws = bench.data(id).await;
    text(&mut ws, "pasten").await;
    // Nothing is read until both sockets and the pipe are full.
    eventually("the service is held", || {
        let now = bench.server.counts().sent;
        std::thread::sleep(Duration::from_millis(300));
        now > 0 && now == bench.server.counts().sent
    })
    .await;
    ws.send(Message::Close(None)).await.unwrap();
    let (mut at, mut closed) = (0, false);
    while let Some(message) = timeout(LIMIT, ws.next()).await.unwrap() {
        match message.expect("frames that can be read") {
            Message::Binary(data) => {
                assert!(data == bytes(at, data.len()), "changed at {at}");
                at += data.len();
            }
            Message::Close(_) => closed = true,
            other => panic!("{other:?}"),
        }
    }
    assert!(closed && at > MIB, "{at} bytes");
}

/// A cut stream is not taken for a complete one.
#[tokio::test(flavor = "multi_thread")]
async fn a_reset_in_the_middle_is_a_reset() {
    let pair = Pair::open().await;
    let cut = service(async |mut stream: TcpStream| {
        send(&mut stream, 16 * MIB).await;
        stream.set_zero_linger().unwrap();
    })
    .await;
    for entrance in pair.tunnels(cut).await {
        let mut received = Vec::new();
        let end = timeout(LIMIT, dial(entrance).await.read_to_end(&mut received)).await.unwrap();
        assert!(end.is_err(), "{} bytes and a clean end", received.len());
        assert!(received == bytes(0, received.len()));
    }
}

/// More than there are pipes for: the others do without.
#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_arrive_whole() {
    let total = 3 * MIB;
    let pair = Pair::open().await;
    let before = pipes();
    let entrances = pair.tunnels(both_ways(total).await).await;
    let mut transfers = JoinSet::new();
    for number in 0..60 {
        let entrance = entrances[number % 2];
        transfers.spawn(async move {
            let (mut from, mut to) = dial(entrance).await.into_split();
            let sending = tokio::spawn(async move {
                send(&mut to, total).await;
                to.shutdown().await.unwrap();
                to
            });
            let received = receive(&mut from).await;
            sending.await.unwrap();
            received
        });
    }
    let mut most = 0;
    while let Some(received) = transfers.join_next().await {
        assert_eq!(received.unwrap(), total);
        most = most.max(pipes());
    }
    assert!(most <= 64 + before, "{most} pipes");
}

/// A client that is not ours: it masks, takes messages up to the size that they always had, and gets a pipe's
/// throughput in one direction only.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_masks_gets_what_it_should() {
    let total = 24 * MIB;
    let bench = Bench::open(Settings { timings: quick(), ..Settings::default() }).await;
    let (id, _control) = bench.forward(both_ways(total).await).await;
    let mut ws = bench.data(id).await;
    text(&mut ws, "pasten").await;
    let (mut to, mut from) = ws.split();
    let sending = tokio::spawn(async move {
        for at in (0..total).step_by(MIB) {
            to.send(Message::Binary(bytes(at, MIB).into())).await.unwrap();
        }
        to
    });
    let mut at = 0;
    while at < total {
        let message = timeout(LIMIT, from.next()).await.unwrap().unwrap().unwrap();
        let Message::Binary(data) = message else { continue };
        assert!(data.len() <= 256 * 1024, "a message of {} bytes", data.len());
        assert!(data == bytes(at, data.len()), "changed at {at}");
        at += data.len();
    }
    drop(sending.await.unwrap());
}

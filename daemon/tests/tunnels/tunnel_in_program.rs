//! Tunnels whose ends are in the program that opens them.

use crate::tunnel_harness::*;
use jwtunnel::tunnel::Settings;
use jwtunnel::tunnel::client::{Connector, Credentials, Entrance, Target, Trust};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

async fn to_the_end(mut stream: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut bytes = Vec::new();
    timeout(LIMIT, stream.read_to_end(&mut bytes)).await.expect("an end in time").unwrap();
    bytes
}

/// rel:W13: each direction ends by itself. Once through a service's port on each side, then without any.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_is_both_ends_of_its_tunnels() {
    let bench = Bench::open(Settings { timings: quick(), ..Settings::default() }).await;
    let connector =
        Connector::new(&bench.url(), &Trust::default(), Credentials::none()).await.unwrap();
    let client = connector.with_timings(quick()).connect().await.unwrap();
    let (target, mut incoming) = Target::program();
    let reverse = client.reverse("127.0.0.1", 0, target).await.unwrap();
    let port = reverse.entrance().unwrap().port();
    let (entrance, dialer) = Entrance::in_program();
    assert_eq!((entrance.local_addr(), entrance.to_string().as_str()), (None, "this program"));
    let forward = client.forward(&entrance, "127.0.0.1", port).await.unwrap();

    // From here to the server, out of its port, into another tunnel, and back here.
    let question: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    for _ in 0..3 {
        let mut stream = dialer.connect().await.unwrap();
        let asking = async {
            stream.write_all(&question).await.unwrap();
            stream.shutdown().await.unwrap();
            to_the_end(stream).await
        };
        let answering = async {
            let mut stream =
                timeout(LIMIT, incoming.accept()).await.expect("a connection").unwrap();
            let mut asked = Vec::new();
            timeout(LIMIT, stream.read_to_end(&mut asked)).await.expect("its end").unwrap();
            stream.write_all(b"the answer").await.unwrap();
            asked
        };
        let (answer, asked) = tokio::join!(asking, answering);
        assert!(asked == question, "{} bytes", asked.len());
        assert_eq!(answer, b"the answer");
    }

    // A destination that is not there ends the connection.
    let closed = closed_port().await;
    let (nowhere, to_nowhere) = Entrance::in_program();
    let tunnel = client.forward(&nowhere, "127.0.0.1", closed).await.unwrap();
    assert!(to_the_end(to_nowhere.connect().await.unwrap()).await.is_empty());

    // With the tunnel goes its target, and with the entrance the dialer.
    client.delete(&reverse, true).await;
    assert!(timeout(LIMIT, incoming.accept()).await.expect("an end").is_none());
    client.delete(&forward, true).await;
    client.delete(&tunnel, true).await;
    drop(entrance);
    let refused = timeout(LIMIT, async {
        while dialer.connect().await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    });
    refused.await.expect("the dialer notices");
}

/// What connects while no tunnel is open waits for the next one.
#[tokio::test(flavor = "multi_thread")]
async fn an_entrance_in_the_program_outlives_its_channel() {
    let bench = Bench::open(Settings { timings: quick(), ..Settings::default() }).await;
    let connector =
        Connector::new(&bench.url(), &Trust::default(), Credentials::none()).await.unwrap();
    let service = echo().await;
    let (entrance, dialer) = Entrance::in_program();
    let mut early = dialer.connect().await.unwrap();
    early.write_all(b"early").await.unwrap();
    for _ in 0..2 {
        let client = connector.connect().await.unwrap();
        client.forward(&entrance, "127.0.0.1", service).await.unwrap();
        early.shutdown().await.unwrap();
        assert_eq!(to_the_end(early).await, b"early");
        client.close().await;
        early = dialer.connect().await.unwrap();
        early.write_all(b"early").await.unwrap();
    }
}

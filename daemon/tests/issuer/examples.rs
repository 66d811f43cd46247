//! The examples, as a user runs them, against a real daemon.

use std::path::PathBuf;
use std::process::Stdio;

use crate::issuer_harness::{Daemon, Options, PATIENCE};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use uuid::Uuid;

const U: Uuid = Uuid::from_u128(0x7d2b_0d0c_8d7e_4a51_9f0c_3f1f_8f3f_4f11);

/// `cargo test` builds the examples beside the folder of its test programs, unless it is told which targets to build.
fn example(name: &str) -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.push("examples");
    path.push(name);
    assert!(
        path.is_file(),
        "{} is missing: build it with cargo build --examples -p jwtunnel",
        path.display()
    );
    path
}

fn start(name: &str, arguments: &[&str]) -> Child {
    Command::new(example(name))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// Runs an example to its end: its exit code and its output.
async fn run(name: &str, arguments: &[&str]) -> (i32, String, String) {
    let ended = timeout(PATIENCE, start(name, arguments).wait_with_output());
    let output = ended.await.expect("an end in time").unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn the_client_and_the_protected_service_talk_to_each_other() {
    let daemon = Daemon::start(Options::default()).await;
    daemon.register("K", U).await;
    let jwks = daemon.path("public/jwks.json");
    let mut service = start("protect", &[jwks.to_str().unwrap()]);
    let mut lines = BufReader::new(service.stdout.take().unwrap()).lines();
    let url = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
    assert_eq!(daemon.client.get(&url).send().await.unwrap().status(), 401);
    let (issuer, key) = (format!("http://{}", daemon.public), daemon.path("key"));
    std::fs::write(&key, "K\n").unwrap();
    let key = key.to_str().unwrap();
    let (code, out, err) = run("client", &[&issuer, key, &url]).await;
    assert_eq!((code, out), (0, format!("200 OK\nhello {U}\n")), "{err}");
    // With the refresh token that the first run has left.
    let (code, out, err) = run("client", &[&issuer, key, &format!("{url}/claims")]).await;
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with("200 OK\ntoken "), "{out}");
    let events = daemon.events();
    let count = |event: &str| events.iter().filter(|line| line["event"] == event).count();
    assert_eq!((count("authenticate"), count("refresh")), (1, 1));
}

#[tokio::test]
async fn the_tunnel_prints_what_a_service_behind_it_sends() {
    let daemon = Daemon::start(Options::default()).await;
    daemon.register("K", U).await;
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = service.local_addr().unwrap().port().to_string();
    let lines = 20_000;
    tokio::spawn(async move {
        let (mut stream, _) = service.accept().await.unwrap();
        for line in 0..lines {
            stream.write_all(format!("line {line}\n").as_bytes()).await.unwrap();
        }
    });
    let key = daemon.path("key");
    std::fs::write(&key, "K\n").unwrap();
    let server = format!("http://{}", daemon.netunnel());
    let issuer = format!("http://{}", daemon.public);
    let arguments = [&server, &issuer, key.to_str().unwrap(), "127.0.0.1", &port];
    let (code, out, err) = run("tunnel", &arguments).await;
    assert_eq!(code, 0, "{err}");
    let expected: String = (0..lines).map(|line| format!("line {line}\n")).collect();
    assert!(out == expected, "{} bytes instead of {}", out.len(), expected.len());
}

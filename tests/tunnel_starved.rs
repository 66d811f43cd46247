//! Both ends of a tunnel without file descriptors.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::Duration;

use system_tests::{Daemon, Port, Process, Scratch, Service, eventually, our_client, within};

/// More connections than the limits below leave room for.
const CROWD: usize = 80;

fn dial(port: &Port) -> TcpStream {
    let stream = TcpStream::connect(port.address()).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a limit");
    stream
}

fn talk(stream: &mut TcpStream) {
    stream.write_all(b"x").expect("sent");
    stream.read_exact(&mut [0]).expect("answered");
}

/// Leaves a process as many descriptors as it has, and a few more.
fn starve(process: u32, more: usize) {
    let open = fs::read_dir(format!("/proc/{process}/fd")).expect("its descriptors").count();
    limit(process, open + more);
}

fn limit(process: u32, descriptors: usize) {
    let status = Command::new("prlimit")
        .args(["--pid", &process.to_string(), &format!("--nofile={descriptors}:")])
        .status();
    assert!(status.expect("prlimit").success());
}

/// The processor time that a process has used so far, in ticks of 10 ms.
fn ticks(process: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("its state");
    let (_, rest) = stat.rsplit_once(')').expect("its name");
    let fields: Vec<&str> = rest.split_whitespace().collect();
    fields[11..13].iter().map(|field| field.parse::<u64>().expect("a number")).sum()
}

/// rel:W15, rel:F17: who has no descriptor left waits without spinning, what is open goes on, and once there is room
/// again, so do all others. First the client's entrance is starved, then the daemon's, of a reverse tunnel.
#[test]
fn f17_without_descriptors_nothing_spins_and_nothing_is_lost() {
    let (mut daemon, scratch) = (Daemon::start("auth = \"none\""), Scratch::new());
    let echo = Service::echo();
    let ports = [Port::take(), Port::take()];
    let mut command = our_client(&daemon.netunnel(""), &scratch, None);
    command.args(["-L", &format!("{}:127.0.0.1:{}", ports[0].number(), echo.port())]);
    command.args(["-R", &format!("{}:127.0.0.1:{}", ports[1].number(), echo.port())]);
    let client = Process::start("jwtunnel", &mut command, &scratch.join("client.log"));
    eventually("both are open", || {
        (client.log().matches("Tunnel exit socket: ").count() == 2).then_some(())
    });
    for (port, starved) in [(&ports[0], client.id()), (&ports[1], daemon.process().id())] {
        let mut steady = dial(port);
        talk(&mut steady);
        starve(starved, 20);
        let mut crowd: Vec<TcpStream> = (0..CROWD).map(|_| dial(port)).collect();
        for stream in &mut crowd {
            stream.write_all(b"x").expect("the kernel has taken it");
        }
        // Until what can be accepted is.
        thread::sleep(Duration::from_secs(1));
        let before = ticks(starved);
        for _ in 0..30 {
            talk(&mut steady);
            thread::sleep(Duration::from_millis(100));
        }
        // A loop without a pause takes 300 of them.
        let used = ticks(starved) - before;
        assert!(used < 150, "{used} ticks in three seconds");
        // Room again, by the limit: all that have waited are served.
        limit(starved, 1_024);
        for stream in &mut crowd {
            stream.read_exact(&mut [0]).expect("answered after all");
        }
        drop(crowd);
        within(Duration::from_secs(60), "new connections", || {
            let mut stream = TcpStream::connect(port.address()).ok()?;
            stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
            stream.write_all(b"x").ok()?;
            stream.read_exact(&mut [0]).ok()
        });
        talk(&mut steady);
    }
    assert!(!client.log().contains("lost the channel"), "{}", client.log());
}

//! The traffic of a leg, in a process of its own: it goes in at an entrance, and out to the [`super::service`].

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::service::{ACKNOWLEDGED, BUFFER, DOWN, ECHO, UP};
use crate::report;
use crate::statistics::quantile;

/// Not counted, at the start.
const WARM_UP: Duration = Duration::from_millis(200);
/// After which a tunnel is taken to be stuck.
const SILENCE: Duration = Duration::from_secs(20);
const CLIENTS: usize = 8;
const MIB: f64 = 1024.0 * 1024.0;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum)]
pub(crate) enum Kind {
    /// One connection, to the service.
    Up,
    /// One connection, from the service.
    Down,
    /// Eight, four each way.
    Eight,
    /// New connections by eight clients, with a byte there and back on each.
    Connect,
    /// A byte there and back, and again.
    Echo,
}

impl Kind {
    #[cfg(test)]
    pub(super) const ALL: [Self; 5] =
        [Self::Up, Self::Down, Self::Eight, Self::Connect, Self::Echo];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Eight => "eight",
            Self::Connect => "connect",
            Self::Echo => "echo",
        }
    }
}

/// Prints operations per second, and how many there were, warm-up included: MiB, connections, or echoes. Those are
/// as many in a second as fit in one after the other if each takes the median.
pub(super) fn print(kind: Kind, port: u16, duration: Duration) -> Result<()> {
    let (rate, count) = match kind {
        Kind::Up => bulk(port, 1, 0, duration)?,
        Kind::Down => bulk(port, 0, 1, duration)?,
        Kind::Eight => bulk(port, 4, 4, duration)?,
        Kind::Connect => connections(port, duration)?,
        Kind::Echo => echo(port, duration)?,
    };
    report::line(&format!("{rate} {count}"));
    Ok(())
}

/// A connection of which the service knows what it is for.
pub(super) fn open(port: u16, purpose: u8) -> Result<TcpStream> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .with_context(|| format!("no connection to port {port}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    stream.write_all(&[purpose])?;
    Ok(stream)
}

/// The same, with a byte back: it is carried all the way.
pub(super) fn open_echo(port: u16) -> Result<TcpStream> {
    let mut stream = open(port, ECHO)?;
    stream.read_exact(&mut [0]).context("nothing comes back")?;
    Ok(stream)
}

/// MiB per second of all connections together, and MiB.
fn bulk(port: u16, up: usize, down: usize, duration: Duration) -> Result<(f64, f64)> {
    let (moved, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let purposes = [vec![UP; up], vec![DOWN; down]].concat();
    let streams: Vec<(u8, TcpStream)> = purposes
        .into_iter()
        .map(|purpose| Ok((purpose, open(port, purpose)?)))
        .collect::<Result<_>>()?;
    thread::scope(|scope| {
        for (purpose, stream) in &streams {
            let (stop, moved) = (&stop, &moved);
            if *purpose == UP {
                scope.spawn(move || send(stream, stop));
                scope.spawn(move || receive(stream, stop, moved, ACKNOWLEDGED));
            } else {
                scope.spawn(move || receive(stream, stop, moved, 1));
            }
        }
        // A tunnel may take its time to begin.
        let start = Instant::now();
        while moved.load(Ordering::Relaxed) == 0 && start.elapsed() < SILENCE {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(WARM_UP);
        let (before, start) = (moved.load(Ordering::Relaxed), Instant::now());
        thread::sleep(duration);
        let (after, elapsed) = (moved.load(Ordering::Relaxed), start.elapsed());
        stop.store(true, Ordering::Relaxed);
        // Wakes whoever waits.
        streams.iter().for_each(|(_, stream)| drop(stream.shutdown(Shutdown::Both)));
        ensure!(after > before, "nothing was carried");
        Ok(((after - before) as f64 / MIB / elapsed.as_secs_f64(), after as f64 / MIB))
    })
}

fn send(mut stream: &TcpStream, stop: &AtomicBool) {
    let bytes = vec![0; BUFFER];
    while !stop.load(Ordering::Relaxed) && stream.write_all(&bytes).is_ok() {}
}

/// Counts `worth` for each byte that comes.
fn receive(mut stream: &TcpStream, stop: &AtomicBool, moved: &AtomicU64, worth: usize) {
    let mut buffer = vec![0; BUFFER];
    while !stop.load(Ordering::Relaxed)
        && let Ok(count @ 1..) = stream.read(&mut buffer)
    {
        moved.fetch_add((count * worth) as u64, Ordering::Relaxed);
    }
}

/// Connections per second, and their number.
fn connections(port: u16, duration: Duration) -> Result<(f64, f64)> {
    let (made, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let client = || -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                open_echo(port)?;
                made.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        thread::sleep(WARM_UP);
        let (before, start) = (made.load(Ordering::Relaxed), Instant::now());
        thread::sleep(duration);
        let (after, elapsed) = (made.load(Ordering::Relaxed), start.elapsed());
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
        }
        ensure!(after > before, "no connection was made");
        Ok(((after - before) as f64 / elapsed.as_secs_f64(), after as f64))
    })
}

/// What would be echoes per second if each took the median, and their number.
fn echo(port: u16, duration: Duration) -> Result<(f64, f64)> {
    let mut stream = open_echo(port)?;
    let mut latencies = Vec::new();
    let start = Instant::now();
    while start.elapsed() < WARM_UP + duration {
        let sent = Instant::now();
        stream.write_all(b".")?;
        stream.read_exact(&mut [0]).context("nothing comes back")?;
        latencies.push(sent.elapsed().as_secs_f64());
    }
    let median = quantile(&latencies, 0.5).context("no echo")?;
    Ok((1.0 / median, latencies.len() as f64))
}

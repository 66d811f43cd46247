//! The load generator: one thread on a core of its own, some kept-alive connections, each with one request under way.
//!
//! It looks for answers without ever sleeping. A generator that sleeps, as the well-known ones do, is woken by the
//! server for nearly each answer of a slow leg and for few of a fast one, and waking another core costs the server
//! some microseconds: measured with wrk, 0.1 times per request without protection, 0.9 with ES256. Requests are made
//! beforehand, so that ten thousands of different ones cost no more than one.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::http::{head, request, split};
use crate::process::{self, LOAD_CORE};
use crate::report;
use crate::rounds::Sample;

/// Enough that the server always has work, few enough that it does not measure cache misses of connections.
pub(crate) const CONNECTIONS: usize = 32;

/// What a leg asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load<'a> {
    pub(crate) url: &'a str,
    /// A file with one token a line, sent in turn; `None`: requests without a token.
    pub(crate) tokens: Option<&'a Path>,
    /// The process that answers.
    pub(crate) server: u32,
    pub(crate) duration: Duration,
}

/// The arguments of `bench load`.
#[derive(Debug, Args)]
pub(crate) struct LoadOptions {
    url: String,
    #[arg(value_parser = crate::options::seconds)]
    duration: Duration,
    tokens: Option<PathBuf>,
}

/// Not counted, at the start of each leg.
const WARM_UP: Duration = Duration::from_millis(100);

/// Makes the load in a process of its own, and compares what it got with what the server used for it.
pub(crate) fn measure(load: Load<'_>) -> Result<Sample> {
    let own = std::env::current_exe()?;
    let own = own.to_str().context("the path of this program is not UTF-8")?;
    let mut command = process::pinned(LOAD_CORE, own);
    command.arg("load").arg(load.url).arg(load.duration.as_secs_f64().to_string());
    command.args(load.tokens);
    let before = process::cpu(load.server)?;
    let printed = process::output(&mut command)?;
    let used = process::cpu(load.server)? - before;
    let numbers: Vec<f64> = printed.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let [rate, answers, seconds, idle] = numbers[..] else {
        bail!("`bench load` printed {printed:?}");
    };
    Ok(Sample {
        rate,
        cpu_per_operation: used / answers,
        server: used / seconds,
        generator: 1.0 - idle / seconds,
    })
}

/// Makes the load; prints answers per second after the warm-up, and of the whole: answers, seconds, and the seconds
/// in which there was nothing to do.
pub(crate) fn print(options: &LoadOptions) -> Result<()> {
    let (address, _) = split(&options.url)?;
    let address: SocketAddr = address.parse().context("an IP address and a port are expected")?;
    let requests = match &options.tokens {
        None => vec![request(&options.url, None)?],
        Some(file) => fs::read_to_string(file)
            .with_context(|| format!("can't read {}", file.display()))?
            .lines()
            .map(|token| request(&options.url, Some(token)))
            .collect::<Result<_>>()?,
    };
    ensure!(!requests.is_empty(), "no token in the file");
    let mut generator = Generator::connect(address, requests)?;
    generator.run_for(WARM_UP)?;
    let (answers, start) = (generator.answers, Instant::now());
    generator.run_for(options.duration)?;
    let rate = (generator.answers - answers) as f64 / start.elapsed().as_secs_f64();
    report::line(&format!(
        "{rate} {} {} {}",
        generator.answers,
        generator.spent.as_secs_f64(),
        generator.idle.as_secs_f64()
    ));
    Ok(())
}

struct Generator {
    poll: Poll,
    events: Events,
    connections: Vec<Connection>,
    requests: Vec<Vec<u8>>,
    next_request: usize,
    /// The length of an answer, which is the same for all of a leg; 0 before the first one.
    length: usize,
    answers: u64,
    spent: Duration,
    idle: Duration,
}

struct Connection {
    stream: TcpStream,
    /// What has arrived of the answer.
    answer: Vec<u8>,
}

impl Generator {
    fn connect(address: SocketAddr, requests: Vec<Vec<u8>>) -> Result<Self> {
        let poll = Poll::new()?;
        let mut connections = Vec::with_capacity(CONNECTIONS);
        for index in 0..CONNECTIONS {
            let stream = std::net::TcpStream::connect(address)
                .with_context(|| format!("no connection to {address}"))?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
            poll.registry().register(&mut stream, Token(index), Interest::READABLE)?;
            connections.push(Connection { stream, answer: Vec::with_capacity(4096) });
        }
        let mut generator = Self {
            poll,
            events: Events::with_capacity(CONNECTIONS),
            connections,
            requests,
            next_request: 0,
            length: 0,
            answers: 0,
            spent: Duration::ZERO,
            idle: Duration::ZERO,
        };
        (0..CONNECTIONS).try_for_each(|index| generator.send(index))?;
        Ok(generator)
    }

    fn run_for(&mut self, duration: Duration) -> Result<()> {
        const SILENCE: Duration = Duration::from_secs(10);
        let start = Instant::now();
        let mut looked = start;
        let mut heard = start;
        while looked - start < duration {
            self.poll.poll(&mut self.events, Some(Duration::ZERO))?;
            let ready: [Option<usize>; CONNECTIONS] = {
                let mut events = self.events.iter();
                std::array::from_fn(|_| events.next().map(|event| event.token().0))
            };
            for index in ready.iter().flatten() {
                self.receive(*index)?;
            }
            let now = Instant::now();
            if ready[0].is_some() {
                heard = now;
            } else {
                self.idle += now - looked;
                ensure!(now - heard < SILENCE, "no answer for {SILENCE:?}");
            }
            looked = now;
        }
        self.spent += looked - start;
        Ok(())
    }

    fn send(&mut self, index: usize) -> Result<()> {
        let request = &self.requests[self.next_request];
        self.next_request = (self.next_request + 1) % self.requests.len();
        // The one before was answered, so the socket's buffer is empty and takes all of it.
        let written = self.connections[index].stream.write(request).context("a request")?;
        ensure!(written == request.len(), "the socket took only a part of a request");
        Ok(())
    }

    /// Reads what there is; sends the next request when the answer is whole.
    fn receive(&mut self, index: usize) -> Result<()> {
        let mut buffer = [0; 4096];
        loop {
            let connection = &mut self.connections[index];
            match connection.stream.read(&mut buffer) {
                Ok(0) => bail!("the server closed a connection"),
                Ok(read) => connection.answer.extend_from_slice(&buffer[..read]),
                // An event tells of new bytes only, so a part of an answer is read up to here.
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("an answer"),
            }
            let answer = &mut connection.answer;
            // A refusal is cheaper than an answer: a leg with one measures something else.
            if answer.len() >= 12 && !answer.starts_with(b"HTTP/1.1 200") {
                bail!("an answer is {:?}", String::from_utf8_lossy(&answer[..12]));
            }
            if self.length == 0
                && let Some((_, start, length)) = head(answer)?
            {
                self.length = start + length;
            }
            if self.length > 0 && answer.len() >= self.length {
                ensure!(answer.len() == self.length, "the answers differ in length");
                answer.clear();
                self.answers += 1;
                return self.send(index);
            }
        }
    }
}

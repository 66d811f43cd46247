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

use crate::http::{head, post, request, split};
use crate::process::{self, Cpu, LOAD_CORE};
use crate::report;
use crate::rounds::Sample;

/// Enough that the server always has work, few enough that it does not measure cache misses of connections.
pub(crate) const CONNECTIONS: usize = 32;

/// What the requests of a leg carry.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Content<'a> {
    /// `GET` without a token.
    None,
    /// `GET` with the tokens of a file, one a line, in turn.
    Tokens(&'a Path),
    /// `POST` with the bodies of a file, one a line, in turn.
    Bodies(&'a Path),
}

/// What a leg asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load<'a> {
    pub(crate) url: &'a str,
    pub(crate) content: Content<'a>,
    /// The process that answers.
    pub(crate) server: u32,
    pub(crate) duration: Duration,
    pub(crate) connections: usize,
    /// Asked for now and then on a connection of its own, to see how long an answer takes meanwhile.
    pub(crate) probe: Option<&'a str>,
}

/// The arguments of `bench load`.
#[derive(Debug, Args)]
pub(crate) struct LoadOptions {
    url: String,
    #[arg(value_parser = crate::options::seconds)]
    duration: Duration,
    #[arg(long, default_value_t = CONNECTIONS)]
    connections: usize,
    #[arg(long)]
    tokens: Option<PathBuf>,
    #[arg(long, conflicts_with = "tokens")]
    bodies: Option<PathBuf>,
    #[arg(long)]
    probe: Option<String>,
}

/// Not counted, at the start of each leg: this share of it.
const WARM_UP: f64 = 0.1;
/// Often enough for some hundred answers in a leg, seldom enough to be no load itself.
const PROBE_INTERVAL: Duration = Duration::from_millis(5);

/// What a leg gave, and how long the answers to its probe took, in seconds.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) sample: Sample,
    pub(crate) latencies: Vec<f64>,
}

/// Makes the load in a process of its own, and compares what it got with what the server used for it.
pub(crate) fn measure(load: Load<'_>) -> Result<Loaded> {
    let mut command = process::own(LOAD_CORE)?;
    command.arg("load").arg(load.url).arg(load.duration.as_secs_f64().to_string());
    command.arg("--connections").arg(load.connections.to_string());
    match load.content {
        Content::None => {}
        Content::Tokens(file) => drop(command.arg("--tokens").arg(file)),
        Content::Bodies(file) => drop(command.arg("--bodies").arg(file)),
    }
    if let Some(url) = load.probe {
        command.arg("--probe").arg(url);
    }
    let before = Cpu::of(load.server)?;
    let printed = process::output(&mut command)?;
    let used = before.used()?;
    let numbers = process::numbers(&printed)?;
    let [rate, answers, seconds, idle, ref latencies @ ..] = numbers[..] else {
        bail!("`bench load` printed {printed:?}");
    };
    ensure!(answers > 0.0 && rate > 0.0, "{} gives no answer within {:?}", load.url, load.duration);
    let sample = Sample {
        rate,
        cpu_per_operation: Some(used / answers),
        server: Some(used / seconds),
        generator: Some(1.0 - idle / seconds),
    };
    Ok(Loaded { sample, latencies: latencies.to_vec() })
}

/// Makes the load; prints answers per second after the warm-up, and of the whole: answers, seconds, and the seconds
/// in which there was nothing to do; then how long each answer to the probe took.
pub(crate) fn print(options: &LoadOptions) -> Result<()> {
    let url = &options.url;
    let requests = match (&options.tokens, &options.bodies) {
        (Some(file), _) => lines(file, |token| request(url, Some(token)))?,
        (None, Some(file)) => lines(file, |body| post(url, body))?,
        (None, None) => vec![request(url, None)?],
    };
    ensure!(!requests.is_empty(), "no line in the file");
    let mut generator = Generator::connect(address(url)?, requests, options.connections)?;
    if let Some(url) = &options.probe {
        generator.probe = Some(Probe::connect(url)?);
    }
    generator.run_for(options.duration.mul_f64(WARM_UP))?;
    let (answers, start) = (generator.answers, Instant::now());
    generator.run_for(options.duration)?;
    let rate = (generator.answers - answers) as f64 / start.elapsed().as_secs_f64();
    let latencies = generator.probe.iter().flat_map(|probe| &probe.latencies);
    let latencies: String = latencies.map(|latency| format!(" {latency}")).collect();
    report::line(&format!(
        "{rate} {} {} {}{latencies}",
        generator.answers,
        generator.spent.as_secs_f64(),
        generator.idle.as_secs_f64()
    ));
    Ok(())
}

fn lines(file: &Path, request: impl Fn(&str) -> Result<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
    let text =
        fs::read_to_string(file).with_context(|| format!("can't read {}", file.display()))?;
    text.lines().map(request).collect()
}

fn address(url: &str) -> Result<SocketAddr> {
    split(url)?.0.parse().context("an IP address and a port are expected")
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = std::net::TcpStream::connect(address)
        .with_context(|| format!("no connection to {address}"))?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(TcpStream::from_std(stream))
}

/// Reads what there is; `false` when the rest is still to come.
fn read_some(stream: &mut TcpStream, answer: &mut Vec<u8>) -> Result<bool> {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => bail!("the server closed a connection"),
            Ok(read) => answer.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).context("an answer"),
        }
        // A refusal is cheaper than an answer: a leg with one measures something else.
        if answer.len() >= 12 && !answer.starts_with(b"HTTP/1.1 200") {
            bail!("an answer is {:?}", String::from_utf8_lossy(answer));
        }
        return Ok(true);
    }
}

struct Generator {
    poll: Poll,
    events: Events,
    /// The connections of the events that are being handled.
    ready: Vec<usize>,
    connections: Vec<Connection>,
    requests: Vec<Vec<u8>>,
    next_request: usize,
    /// The length of an answer, which is the same for all of a leg; 0 before the first one.
    length: usize,
    answers: u64,
    spent: Duration,
    idle: Duration,
    probe: Option<Probe>,
}

struct Connection {
    stream: TcpStream,
    /// What has arrived of the answer.
    answer: Vec<u8>,
}

/// A connection with one request now and then.
struct Probe {
    stream: TcpStream,
    request: Vec<u8>,
    answer: Vec<u8>,
    /// When the request that is under way was sent.
    sent: Option<Instant>,
    due: Instant,
    latencies: Vec<f64>,
}

impl Probe {
    fn connect(url: &str) -> Result<Self> {
        Ok(Self {
            stream: connect(address(url)?)?,
            request: request(url, None)?,
            answer: Vec::with_capacity(4096),
            sent: None,
            due: Instant::now(),
            latencies: Vec::new(),
        })
    }

    /// Looks for the answer, or sends the next request when it is due.
    fn look(&mut self, now: Instant) -> Result<()> {
        let Some(sent) = self.sent else {
            if now >= self.due {
                self.sent = Some(now);
                self.due = now + PROBE_INTERVAL;
                let written = self.stream.write(&self.request).context("the probe")?;
                ensure!(written == self.request.len(), "the socket took only a part of a request");
            }
            return Ok(());
        };
        if read_some(&mut self.stream, &mut self.answer)?
            && let Some((_, start, length)) = head(&self.answer)?
            && self.answer.len() >= start + length
        {
            self.latencies.push(sent.elapsed().as_secs_f64());
            self.answer.clear();
            self.sent = None;
        }
        Ok(())
    }
}

impl Generator {
    fn connect(address: SocketAddr, requests: Vec<Vec<u8>>, count: usize) -> Result<Self> {
        let poll = Poll::new()?;
        let mut connections = Vec::with_capacity(count);
        for index in 0..count {
            let mut stream = connect(address)?;
            poll.registry().register(&mut stream, Token(index), Interest::READABLE)?;
            connections.push(Connection { stream, answer: Vec::with_capacity(4096) });
        }
        let mut generator = Self {
            poll,
            events: Events::with_capacity(count),
            ready: Vec::with_capacity(count),
            connections,
            requests,
            next_request: 0,
            length: 0,
            answers: 0,
            spent: Duration::ZERO,
            idle: Duration::ZERO,
            probe: None,
        };
        (0..count).try_for_each(|index| generator.send(index))?;
        Ok(generator)
    }

    fn run_for(&mut self, duration: Duration) -> Result<()> {
        const SILENCE: Duration = Duration::from_secs(10);
        let start = Instant::now();
        let mut looked = start;
        let mut heard = start;
        while looked - start < duration {
            self.poll.poll(&mut self.events, Some(Duration::ZERO))?;
            self.ready.clear();
            self.ready.extend(self.events.iter().map(|event| event.token().0));
            for place in 0..self.ready.len() {
                self.receive(self.ready[place])?;
            }
            let now = Instant::now();
            if self.ready.is_empty() {
                self.idle += now - looked;
                ensure!(now - heard < SILENCE, "no answer for {SILENCE:?}");
            } else {
                heard = now;
            }
            if let Some(probe) = &mut self.probe {
                probe.look(now)?;
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
        let Connection { stream, answer } = &mut self.connections[index];
        // An event tells of new bytes only, so a part of an answer is read up to its end.
        while read_some(stream, answer)? {
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
        Ok(())
    }
}

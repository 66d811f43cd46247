//! UDP through a tunnel: datagrams, one in each binary message.
//!
//! What comes from one address to an entrance is a [`Flow`]. A flow is to entrance and exit what a connection is: it
//! takes a waiting websocket and begins with the start message. UDP has no end, so a flow ends with its websocket or
//! after a silence, and the next datagram from the same address begins another one.
//!
//! Nothing here waits until there is room: UDP may lose datagrams, and one that is late is worth less than its
//! successor. What finds no room is dropped and counted, so memory is bounded and a slow reader delays nobody.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use futures_util::{Sink, SinkExt, StreamExt};
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_util::task::AbortOnDropHandle;

use super::frames::DataSocket;
use super::session::{End, Options, Outcome};
use super::stop::Stop;
use super::traffic::Traffic;
use super::transport::{error_code, refuse};
use crate::logging::Throttle;

/// The length field of UDP holds no more, headers included.
pub(super) const LONGEST: usize = 65_535;

/// Flows of one entrance at a time.
const FLOWS: usize = 1024;

/// Datagrams of one flow that wait until its websocket takes them, and the bytes of all flows of an entrance together.
const WAITING: usize = 64;
const WAITING_BYTES: usize = 4 * 1024 * 1024;

/// New flows that wait for their turn at the entrance.
const NEW: usize = 64;

/// Pause after an error of the entrance's socket.
const FAULT: Duration = Duration::from_millis(100);

static RECEIVE_FAILED: LazyLock<Throttle> = LazyLock::new(Throttle::new);

/// A bound entrance.
#[derive(Debug)]
pub(super) struct UdpEntrance {
    address: SocketAddr,
    flows: Mutex<mpsc::Receiver<(Flow, SocketAddr)>>,
    /// Reads the socket for as long as the entrance exists.
    _sorting: AbortOnDropHandle<()>,
}

/// The datagrams of one program on one side of a tunnel.
#[derive(Debug)]
pub(super) struct Flow {
    ends: Ends,
    dropped: Arc<Dropped>,
}

/// Datagrams that were dropped, at an entrance or for a flow.
#[derive(Debug, Default)]
struct Dropped {
    /// Where they are counted: by the channel that has the latest flow.
    traffic: ArcSwapOption<Traffic>,
    /// Those before there was any.
    before: AtomicU64,
}

impl Dropped {
    fn count(&self) {
        match &*self.traffic.load() {
            Some(traffic) => traffic.dropped(1),
            None => {
                self.before.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn count_by(&self, traffic: &Arc<Traffic>) {
        self.traffic.store(Some(traffic.clone()));
        traffic.dropped(self.before.swap(0, Ordering::Relaxed));
    }
}

#[derive(Debug)]
enum Ends {
    /// At the exit: connected to the destination.
    Exit(UdpSocket),
    /// At the entrance: the socket is that of all its flows.
    Entrance { socket: Arc<UdpSocket>, program: SocketAddr, waiting: mpsc::Receiver<Waiting> },
}

/// A datagram and its share of the room that there is for all.
#[derive(Debug)]
struct Waiting {
    data: Bytes,
    _room: OwnedSemaphorePermit,
}

impl UdpEntrance {
    pub(super) fn new(socket: UdpSocket) -> io::Result<Self> {
        let address = socket.local_addr()?;
        let (new, flows) = mpsc::channel(NEW);
        let sorting = AbortOnDropHandle::new(tokio::spawn(sort(Arc::new(socket), new)));
        Ok(Self { address, flows: Mutex::new(flows), _sorting: sorting })
    }

    pub(super) fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The next flow and the address that its datagrams come from.
    pub(super) async fn accept(&self) -> (Flow, SocketAddr) {
        match self.flows.lock().await.recv().await {
            Some(flow) => flow,
            None => std::future::pending().await,
        }
    }
}

/// Gives each datagram to its flow.
async fn sort(socket: Arc<UdpSocket>, new: mpsc::Sender<(Flow, SocketAddr)>) {
    let room = Arc::new(Semaphore::new(WAITING_BYTES));
    let dropped = Arc::new(Dropped::default());
    let mut flows: HashMap<SocketAddr, mpsc::Sender<Waiting>> = HashMap::new();
    loop {
        let (data, program) = match poll_fn(|cx| poll_receive_from(&socket, cx)).await {
            Ok(received) => received,
            Err(error) => {
                RECEIVE_FAILED.run(|suppressed| {
                    tracing::error!(event = "receive_failed", %error, suppressed,
                        "cannot receive datagrams; trying again");
                });
                sleep(FAULT).await;
                continue;
            }
        };
        // An empty one takes room, too.
        let size = u32::try_from(data.len().max(64)).unwrap_or(u32::MAX);
        let Ok(share) = room.clone().try_acquire_many_owned(size) else {
            dropped.count();
            continue;
        };
        let mut datagram = Waiting { data, _room: share };
        if let Some(flow) = flows.get(&program) {
            match flow.try_send(datagram) {
                Ok(()) => continue,
                Err(TrySendError::Full(_)) => {
                    dropped.count();
                    continue;
                }
                // It has ended.
                Err(TrySendError::Closed(first)) => datagram = first,
            }
        }
        flows.retain(|_, flow| !flow.is_closed());
        if flows.len() >= FLOWS {
            dropped.count();
            continue;
        }
        let (queue, waiting) = mpsc::channel(WAITING);
        let begun = queue.try_send(datagram).is_ok();
        let ends = Ends::Entrance { socket: socket.clone(), program, waiting };
        let flow = Flow { ends, dropped: dropped.clone() };
        if begun && new.try_send((flow, program)).is_ok() {
            flows.insert(program, queue);
        } else {
            dropped.count();
        }
    }
}

impl Flow {
    /// To a destination, from a port of its own.
    pub(super) async fn connect(destination: SocketAddr) -> io::Result<Self> {
        let any: IpAddr = match destination {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(destination).await?;
        Ok(Self { ends: Ends::Exit(socket), dropped: Arc::default() })
    }

    /// The next datagram; none if there can be no more.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        match &mut self.ends {
            Ends::Entrance { waiting, .. } => {
                Poll::Ready(ready!(waiting.poll_recv(cx)).map(|datagram| datagram.data))
            }
            Ends::Exit(socket) => loop {
                match ready!(poll_receive_from(socket, cx)) {
                    Ok((data, _)) => return Poll::Ready(Some(data)),
                    // An ICMP message about an earlier datagram: nobody listens there now, which may change.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                    Err(error) => {
                        tracing::debug!(%error, "a flow's socket reports an error");
                    }
                }
            },
        }
    }

    /// Sends one datagram or drops it, whichever it was; waits at most until it is known that the socket can send.
    fn poll_send(&self, data: &[u8], cx: &mut Context<'_>) -> Poll<bool> {
        let sent = match &self.ends {
            Ends::Exit(socket) => match ready!(socket.poll_send(cx, data)) {
                // It is about an earlier datagram, and nothing was sent.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    ready!(socket.poll_send(cx, data))
                }
                sent => sent,
            },
            // Several flows can't wait for one socket; its readiness is known since it has received.
            Ends::Entrance { socket, program, .. } => socket.try_send_to(data, *program),
        };
        if let Err(error) = &sent {
            self.dropped.count();
            tracing::debug!(%error, length = data.len(), "a datagram is dropped");
        }
        Poll::Ready(sent.is_ok())
    }
}

fn poll_receive_from(
    socket: &UdpSocket,
    cx: &mut Context<'_>,
) -> Poll<io::Result<(Bytes, SocketAddr)>> {
    let mut space = [MaybeUninit::uninit(); LONGEST];
    let mut buffer = ReadBuf::uninit(&mut space);
    let sender = ready!(socket.poll_recv_from(cx, &mut buffer))?;
    Poll::Ready(Ok((Bytes::copy_from_slice(buffer.filled()), sender)))
}

/// Carries datagrams in both directions until the end; the websocket carries nothing after that. `early` is what it
/// brought before the flow existed.
pub(super) async fn run(
    ws: DataSocket,
    flow: Flow,
    early: Vec<Message>,
    options: Options,
    stop: &Stop,
) -> Outcome {
    let traffic = options.traffic.clone();
    let _open = traffic.opened();
    flow.dropped.count_by(&traffic);
    let now = Instant::now();
    let mut relay = Relay {
        ws,
        flow,
        early: early.into_iter(),
        arrived: None,
        flushing: false,
        sent: 0,
        received: 0,
        carried: now,
        spoken: now,
        timer: Box::pin(sleep_until(now)),
        options,
    };
    let end = tokio::select! {
        biased;
        reason = stop.stopped() => End::Stopped(reason),
        end = poll_fn(|cx| relay.poll(cx)) => end,
    };
    let (sent, received) = (relay.sent, relay.received);
    match end {
        End::Idle => refuse(relay.ws, CloseCode::Normal, "").await,
        End::Protocol(code) => refuse(relay.ws, code, "").await,
        End::Stopped(reason) => refuse(relay.ws, reason.cut_code(), "").await,
        // The answer to its CLOSE is queued.
        End::Clean => {
            let _ = timeout(relay.options.close, relay.ws.flush()).await;
        }
        End::TcpReset | End::Lost | End::Stalled => {}
    }
    Outcome { sent, received, end }
}

struct Relay {
    ws: DataSocket,
    flow: Flow,
    options: Options,
    early: std::vec::IntoIter<Message>,
    /// A datagram from the websocket that the socket has not taken yet.
    arrived: Option<Bytes>,
    /// Something is queued that may not be written yet.
    flushing: bool,
    sent: u64,
    received: u64,
    /// When the latest datagram passed, in either direction.
    carried: Instant,
    /// When the websocket last took everything that was queued for it.
    spoken: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Relay {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let (sent, received) = (self.poll_outward(cx), self.poll_inward(cx));
            let mut moved = false;
            for direction in [sent, received] {
                match direction {
                    Poll::Ready(Ok(())) => moved = true,
                    Poll::Ready(Err(end)) => return Poll::Ready(end),
                    Poll::Pending => {}
                }
            }
            if !moved {
                match self.poll_timer(cx) {
                    Poll::Ready(Some(end)) => return Poll::Ready(end),
                    Poll::Ready(None) => {}
                    Poll::Pending => return Poll::Pending,
                }
            }
        }
    }

    /// Flow to websocket. While the websocket takes nothing, the flow is not read and drops what it has no room for.
    fn poll_outward(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        if self.flushing {
            let flushed = ready!(Pin::new(&mut self.ws).poll_flush(cx));
            if let Err(error) = flushed {
                return Poll::Ready(Err(end_of(&error)));
            }
            self.flushing = false;
            self.spoken = Instant::now();
        }
        let Some(data) = ready!(self.flow.poll_receive(cx)) else {
            return Poll::Ready(Err(End::Idle));
        };
        self.sent += data.len() as u64;
        self.options.traffic.sent(data.len());
        self.carried = Instant::now();
        Poll::Ready(self.queue(Message::Binary(data)))
    }

    fn queue(&mut self, message: Message) -> Result<(), End> {
        let queued = Pin::new(&mut self.ws).start_send(message);
        queued.map_err(|error| end_of(&error))?;
        if !self.flushing {
            (self.flushing, self.spoken) = (true, Instant::now());
        }
        Ok(())
    }

    /// Websocket to flow.
    fn poll_inward(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        if let Some(data) = &self.arrived {
            if ready!(self.flow.poll_send(data, cx)) {
                self.received += data.len() as u64;
                self.options.traffic.received(data.len());
            }
            self.carried = Instant::now();
            self.arrived = None;
        }
        let message = match self.early.next() {
            Some(message) => Some(Ok(message)),
            None => ready!(self.ws.poll_next_unpin(cx)),
        };
        Poll::Ready(match message {
            Some(Ok(Message::Binary(data))) => {
                self.arrived = Some(data);
                Ok(())
            }
            Some(Ok(Message::Close(_))) => Err(End::Clean),
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(end_of(&error)),
            None => Err(End::Lost),
        })
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<Option<End>> {
        let now = Instant::now();
        let idle = self.options.idle.map(|idle| self.carried + idle);
        let stall = self.flushing.then(|| self.spoken + self.options.stall);
        let ping = self.options.ping.map(|ping| self.spoken + ping).filter(|_| !self.flushing);
        if idle.is_some_and(|at| at <= now) {
            return Poll::Ready(Some(End::Idle));
        }
        if stall.is_some_and(|at| at <= now) {
            return Poll::Ready(Some(End::Stalled));
        }
        if ping.is_some_and(|at| at <= now) {
            return Poll::Ready(self.queue(Message::Ping(Bytes::new())).err());
        }
        let Some(next) = [idle, stall, ping].into_iter().flatten().min() else {
            return Poll::Pending;
        };
        if self.timer.deadline() != next {
            self.timer.as_mut().reset(next);
        }
        ready!(self.timer.as_mut().poll(cx));
        Poll::Ready(None)
    }
}

fn end_of(error: &tungstenite::Error) -> End {
    error_code(error).map_or(End::Lost, End::Protocol)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn entrance() -> UdpEntrance {
        UdpEntrance::new(UdpSocket::bind("127.0.0.1:0").await.unwrap()).unwrap()
    }

    /// One datagram from the program with this number.
    async fn send(entrance: &UdpEntrance, program: u16, length: usize) {
        let [high, low] = program.to_be_bytes();
        // By their addresses, for ports may come again.
        let program = UdpSocket::bind((Ipv4Addr::new(127, 1, high, low), 0)).await.unwrap();
        program.send_to(&vec![0; length], entrance.local_addr()).await.unwrap();
    }

    fn waiting(flow: &mut Flow) -> &mut mpsc::Receiver<Waiting> {
        match &mut flow.ends {
            Ends::Entrance { waiting, .. } => waiting,
            Ends::Exit(_) => panic!("no entrance"),
        }
    }

    async fn eventually(what: &str, mut is: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !is() {
            assert!(Instant::now() < end, "{what}");
            sleep(Duration::from_millis(1)).await;
        }
    }

    fn dropped(flow: &Flow) -> u64 {
        flow.dropped.before.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn an_entrance_has_so_many_flows_at_a_time() {
        let entrance = entrance().await;
        let mut flows = Vec::new();
        for program in 0..FLOWS as u16 {
            send(&entrance, program, 1).await;
            flows.push(timeout(Duration::from_secs(20), entrance.accept()).await.unwrap().0);
        }
        for one_more in 1..4 {
            send(&entrance, 20_000 + one_more, 1).await;
            eventually("one too many is dropped", || dropped(&flows[0]) == u64::from(one_more))
                .await;
        }
        // Those that are there go on, and one that ends makes room.
        let mut first = flows.remove(0);
        assert_eq!(waiting(&mut first).recv().await.unwrap().data, [0][..]);
        drop(first);
        send(&entrance, 20_004, 1).await;
        let (_, program) = timeout(Duration::from_secs(20), entrance.accept()).await.unwrap();
        assert_eq!(program.ip(), Ipv4Addr::new(127, 1, 78, 36));
    }

    #[tokio::test]
    async fn what_waits_at_an_entrance_is_bounded_for_each_and_for_all() {
        const LARGE: usize = 60_000;
        let entrance = entrance().await;
        let program = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let other = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let data = [0; LARGE];
        program.send_to(&data, entrance.local_addr()).await.unwrap();
        let (mut flow, _) = entrance.accept().await;
        for count in 2..=WAITING {
            program.send_to(&data, entrance.local_addr()).await.unwrap();
            eventually("it waits", || waiting(&mut flow).len() == count).await;
        }
        program.send_to(&data, entrance.local_addr()).await.unwrap();
        eventually("its queue is full", || dropped(&flow) == 1).await;

        // What is left for the others.
        let left = (WAITING_BYTES - WAITING * LARGE) / LARGE;
        other.send_to(&data, entrance.local_addr()).await.unwrap();
        let (mut second, _) = entrance.accept().await;
        for count in 2..=left {
            other.send_to(&data, entrance.local_addr()).await.unwrap();
            eventually("it waits", || waiting(&mut second).len() == count).await;
        }
        other.send_to(&data, entrance.local_addr()).await.unwrap();
        eventually("there is no room", || dropped(&flow) == 2).await;
        // Small ones still fit, and what has been read makes room again.
        other.send_to(&[1], entrance.local_addr()).await.unwrap();
        eventually("it waits", || waiting(&mut second).len() == left + 1).await;
        drop(waiting(&mut flow).recv().await.unwrap());
        other.send_to(&data, entrance.local_addr()).await.unwrap();
        eventually("it waits", || waiting(&mut second).len() == left + 2).await;
        assert_eq!(dropped(&flow), 2);
    }
}

//! The copy loop: one TCP connection and one websocket, until both directions have ended.
//!
//! Entrance and exit, server and client use this one. It holds at most one queue of received data and one
//! message being sent, and of a long transfer a pipe for each direction: when a side does not take more, the
//! other side is not read, so a slow reader slows its sender down instead of filling memory. Setting up either
//! end is the work of [`super::entrance`] and [`super::exit`].

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::Sink;
use tokio::io::AsyncWrite;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, Message};

use super::features::Features;
use super::frames::{DataSocket, HEADER, Received};
use super::plain::{Local, Plain, Protocol};
use super::settings::Timings;
use super::splice::{LARGE, Pipe};
use super::stop::{Stop, StopReason};
use super::traffic::Traffic;
use super::transport::{SMALL, close_message, error_code, farewell, grown, poll_read_buf};
use super::udp;

/// Received data that waits for the TCP side; beyond it the websocket is not read.
const INBOUND_LIMIT: usize = 32 * 1024;

/// Buffers are given back when nothing has moved for so long.
const RELEASE: Duration = Duration::from_secs(1);

/// "The other side was reset": only between ends that agreed on half-close.
const CLOSE_RESET: u16 = 4001;

/// Which end of the tunnel this connection is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// A program connected to us.
    Entrance,
    /// We connected to the destination.
    Exit,
}

/// How to treat one connection.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) side: Side,
    pub(super) protocol: Protocol,
    /// Both ends agreed that an empty binary message ends one direction only.
    pub(super) half_close: bool,
    /// Both ends are ours, so that messages may be larger.
    pub(super) large_messages: bool,
    /// Both ends agreed that the websocket outlives a connection that has ended in order.
    pub(super) reuse: bool,
    /// Send a ping after so much silence, so that proxies between keep the connection. Only clients do.
    pub(super) ping: Option<Duration>,
    /// End it after so long without payload.
    pub(super) idle: Option<Duration>,
    pub(super) stall: Duration,
    pub(super) linger: Duration,
    pub(super) close: Duration,
    /// Where the bytes are counted.
    pub(super) traffic: Arc<Traffic>,
}

impl Options {
    pub(super) fn new(
        side: Side,
        protocol: Protocol,
        features: Features,
        ping: bool,
        timings: &Timings,
        traffic: &Arc<Traffic>,
    ) -> Self {
        let idle = match protocol {
            Protocol::Tcp => timings.idle,
            Protocol::Udp => timings.udp_idle,
        };
        Self {
            side,
            protocol,
            half_close: features.half_close,
            // Of the features that only our ends have, the one that concerns payload.
            large_messages: features.zero_mask,
            // A flow has no end that both sides would know.
            reuse: features.reuse && protocol == Protocol::Tcp,
            ping: ping.then_some(timings.ping),
            idle: (!idle.is_zero()).then_some(idle),
            stall: timings.stall,
            linger: timings.linger,
            close: timings.close,
            traffic: traffic.clone(),
        }
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Everything that was accepted was delivered, then both sides were closed.
    Clean,
    /// The TCP side was reset; the websocket was abandoned.
    TcpReset,
    /// The websocket ended without an orderly CLOSE; the TCP side was reset.
    Lost,
    /// The other side broke the protocol; it got this close code.
    Protocol(CloseCode),
    /// A receiver took nothing until the stall timer ran out.
    Stalled,
    /// Nothing was carried for the configured time.
    Idle,
    /// We were told to stop.
    Stopped(StopReason),
}

/// What a connection carried and how it ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    /// Payload bytes from the TCP side to the websocket.
    pub(super) sent: u64,
    /// Payload bytes from the websocket to the TCP side.
    pub(super) received: u64,
    pub(super) end: End,
}

/// Copies in both directions until the end. `early` is what the websocket brought before the plain side
/// existed. The websocket comes back if it can carry another connection.
pub(super) async fn run(
    ws: DataSocket,
    local: Local,
    early: Vec<Message>,
    options: Options,
    stop: &Stop,
) -> (Outcome, Option<DataSocket>) {
    let tcp = match local {
        Local::Stream(tcp) => tcp,
        Local::Datagrams(flow) => return (udp::run(ws, flow, early, options, stop).await, None),
    };
    let traffic = options.traffic.clone();
    let _open = traffic.opened();
    let mut session = Session::new(ws, tcp, options);
    session.ws.keep_buffer();
    if session.options.large_messages {
        session.ws.enlarge_messages();
    }
    for message in early {
        session.on_message(message);
    }
    let mut stopped = Box::pin(stop.stopped());
    let end = poll_fn(|cx| {
        loop {
            // What has come goes on first: asking for a stop takes locks, and nothing is lost by asking later.
            if let Poll::Ready(end) = session.poll(cx) {
                return Poll::Ready(end);
            }
            if session.stopped.is_some() {
                return Poll::Pending;
            }
            let reason = ready!(stopped.as_mut().poll(cx));
            session.stop(reason);
        }
    })
    .await;
    session.finish(end).await
}

/// What may still come from the websocket.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Receiving {
    Data,
    /// The other side's direction has ended, by an empty message under half-close.
    Ended,
    /// CLOSE has arrived.
    Closed,
    /// The transport is gone without CLOSE.
    Gone,
}

/// What may still be written to the TCP side.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Delivering {
    Data,
    /// FIN is sent.
    Ended,
    /// The program does not take any more; what comes for it is dropped.
    Broken,
}

/// What has happened since the clock was last read.
#[derive(Default)]
struct News {
    /// As [`Session::moved`], and so on.
    moved: bool,
    carried: bool,
    heard: bool,
}

struct Session {
    ws: DataSocket,
    tcp: Plain,
    options: Options,
    receiving: Receiving,
    delivering: Delivering,
    /// Whether the TCP side may still be read.
    reading: bool,
    /// Whether the TCP side has reached its end, as opposed to being read no longer.
    eof: bool,
    /// Whether our CLOSE is queued or sent.
    closing: bool,
    /// Set when we were told to stop and the other side had not ended by itself.
    stopped: Option<StopReason>,
    /// When `closing`, `stopped` or `doomed` was set first.
    ending_since: Instant,
    /// Set when the rest is only a matter of saying so: the end to report.
    doomed: Option<End>,
    /// What is read from the TCP side. Its memory is used again and again, as long as something moves.
    chunk: BytesMut,
    /// The least room for a read.
    room: usize,
    inbound: VecDeque<Bytes>,
    inbound_bytes: usize,
    /// Payload on its way to the TCP side, after `inbound`.
    incoming: Option<Pipe>,
    /// The TCP side sends so much that it is worth a pipe.
    splices: bool,
    /// End markers that wait until the websocket takes them.
    outbound: VecDeque<Message>,
    flushing: bool,
    sent: u64,
    received: u64,
    /// The time, as of the end of the latest poll.
    now: Instant,
    /// What has happened since.
    news: News,
    /// When anything last moved, for the stall timer and the others.
    moved: Instant,
    /// When payload last moved in either direction, for the idle timer.
    carried: Instant,
    /// When data last came from the websocket, for the linger timer.
    heard: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Session {
    fn new(ws: DataSocket, tcp: Plain, options: Options) -> Self {
        let now = Instant::now();
        Self {
            ws,
            tcp,
            options,
            receiving: Receiving::Data,
            delivering: Delivering::Data,
            reading: true,
            eof: false,
            closing: false,
            stopped: None,
            ending_since: now,
            doomed: None,
            chunk: BytesMut::new(),
            room: SMALL,
            inbound: VecDeque::new(),
            inbound_bytes: 0,
            incoming: None,
            splices: false,
            outbound: VecDeque::new(),
            flushing: false,
            sent: 0,
            received: 0,
            now,
            news: News::default(),
            moved: now,
            carried: now,
            heard: now,
            timer: Box::pin(sleep_until(now)),
        }
    }

    /// Says CLOSE with the reason; what the other side sent before its own CLOSE is still delivered.
    fn stop(&mut self, reason: StopReason) {
        self.stopped = Some(reason);
        self.ending_since = Instant::now();
        self.reading = false;
        self.queue_close(reason.cut_code());
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let heard = self.poll_receive(cx);
            let moved = self.poll_deliver(cx) | self.poll_send(cx);
            if self.delivering == Delivering::Broken && !self.reading {
                self.program_is_gone();
            }
            if let Some(end) = self.ended() {
                return Poll::Ready(end);
            }
            self.news.moved |= moved;
            if moved || heard {
                continue;
            }
            self.note_time();
            match self.poll_timer(cx) {
                Poll::Ready(Some(end)) => return Poll::Ready(end),
                // A timer changed the state: look at everything again.
                Poll::Ready(None) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Websocket to queue. Returns whether there was anything, like its two siblings.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> bool {
        // The read side is polled in every state that can still see a CLOSE, except while the queue is full.
        if matches!(self.receiving, Receiving::Closed | Receiving::Gone)
            || self.inbound_bytes >= INBOUND_LIMIT
            // What comes now is the next connection's.
            || (self.options.reuse && self.both_ended())
        {
            return false;
        }
        // What is in the pipe comes before what would be read now.
        if self.spliced() > 0 {
            return false;
        }
        let through = self.receiving == Receiving::Data
            && self.delivering == Delivering::Data
            && self.tcp.as_tcp().is_some();
        match self.ws.poll_receive(through.then_some(&mut self.incoming), cx) {
            Poll::Pending => return false,
            Poll::Ready(Some(Ok(Received::Message(message)))) => self.on_message(message),
            Poll::Ready(Some(Ok(Received::Spliced))) => self.heard(),
            Poll::Ready(Some(Err(error))) => self.on_error(&error),
            Poll::Ready(None) => self.lose(),
        }
        true
    }

    /// The transport has ended; nothing more can be said.
    fn lose(&mut self) {
        self.receiving = Receiving::Gone;
        self.reading = false;
        self.outbound.clear();
        self.flushing = false;
    }

    fn on_message(&mut self, message: Message) {
        match message {
            Message::Binary(data) if self.receiving == Receiving::Ended => {
                // Nothing may follow the end of a direction, but an empty message changes nothing.
                if !data.is_empty() {
                    self.fail(CloseCode::Protocol);
                }
            }
            Message::Binary(data) if data.is_empty() => {
                if self.options.half_close {
                    self.receiving = Receiving::Ended;
                    self.close_when_both_ended();
                }
                // A peer without half-close sends it before its CLOSE; alone it means nothing.
            }
            Message::Binary(data) => {
                self.heard();
                if self.delivering == Delivering::Data {
                    self.inbound_bytes += data.len();
                    self.inbound.push_back(data);
                }
            }
            Message::Close(frame) => {
                let code = frame.map_or(CloseCode::Normal, |frame| frame.code);
                self.receiving = Receiving::Closed;
                self.reading = false;
                // The library answers a CLOSE by itself; the answer has to leave.
                self.flushing = true;
                self.outbound.clear();
                if !self.closing && self.doomed.is_none() && self.stopped.is_none() {
                    self.ending_since = Instant::now();
                }
                let orderly = matches!(code, CloseCode::Normal | CloseCode::Status);
                if orderly {
                    // The other side's own CLOSE, not the echo of ours: its data is complete.
                    self.stopped = None;
                } else if !self.closing {
                    self.doom(End::Lost);
                }
            }
            // TEXT after the start is ignored, as NETunnel does; pings are answered by the library.
            Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
        }
    }

    /// Payload has come.
    fn heard(&mut self) {
        self.news = News { moved: true, carried: true, heard: true };
    }

    /// The clock is read when all that there was has gone on, so that nothing waits for it.
    fn note_time(&mut self) {
        self.now = Instant::now();
        let news = std::mem::take(&mut self.news);
        for (happened, time) in [
            (news.moved, &mut self.moved),
            (news.carried, &mut self.carried),
            (news.heard, &mut self.heard),
        ] {
            if happened {
                *time = self.now;
            }
        }
    }

    fn on_error(&mut self, error: &tungstenite::Error) {
        match error_code(error) {
            Some(code) if !self.closing => self.fail(code),
            _ => self.lose(),
        }
    }

    /// The other side broke the protocol: tell it, and end.
    fn fail(&mut self, code: CloseCode) {
        self.lose();
        self.queue_close(code);
        self.doom(End::Protocol(code));
    }

    /// Nothing is delivered any more; a queued CLOSE may still leave.
    fn doom(&mut self, end: End) {
        if self.doomed.is_none() {
            self.doomed = Some(end);
            self.ending_since = Instant::now();
        }
    }

    /// Queue to TCP.
    fn poll_deliver(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        while self.delivering == Delivering::Data
            && let Some(front) = self.inbound.front_mut()
        {
            match Pin::new(&mut self.tcp).poll_write(cx, front) {
                Poll::Ready(Ok(written)) => {
                    moved = true;
                    self.received += written as u64;
                    self.options.traffic.received(written);
                    self.inbound_bytes -= written;
                    front.advance(written);
                    if front.is_empty() {
                        self.inbound.pop_front();
                    }
                }
                Poll::Ready(Err(_)) => {
                    self.break_off();
                    return true;
                }
                Poll::Pending => return moved,
            }
        }
        while self.delivering == Delivering::Data
            && let (Some(pipe), Some(tcp)) = (&mut self.incoming, self.tcp.as_tcp())
            && pipe.held() > 0
        {
            match pipe.poll_drain(tcp, usize::MAX, cx) {
                Poll::Ready(Ok(written)) => {
                    moved = true;
                    self.received += written as u64;
                    self.options.traffic.received(written);
                }
                Poll::Ready(Err(_)) => {
                    self.break_off();
                    return true;
                }
                Poll::Pending => return moved,
            }
        }
        if self.delivering == Delivering::Data
            && !self.undelivered()
            && self.receiving == Receiving::Ended
            && let Poll::Ready(result) = Pin::new(&mut self.tcp).poll_shutdown(cx)
        {
            self.delivering = if result.is_ok() { Delivering::Ended } else { Delivering::Broken };
            moved = true;
        }
        moved
    }

    /// The program takes nothing any more. What it sent before is still in the socket and goes on to the other side;
    /// reading then ends with EOF or with the reset itself.
    fn break_off(&mut self) {
        self.delivering = Delivering::Broken;
        self.inbound.clear();
        self.inbound_bytes = 0;
        self.incoming = None;
    }

    fn spliced(&self) -> usize {
        self.incoming.as_ref().map_or(0, Pipe::held)
    }

    /// Whether something waits for the TCP side.
    fn undelivered(&self) -> bool {
        !self.inbound.is_empty() || self.spliced() > 0
    }

    /// TCP to websocket, and whatever else has to leave through the websocket.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> bool {
        match self.try_send(cx) {
            Poll::Ready(Ok(moved)) => moved,
            Poll::Ready(Err(_)) => {
                // Writing failed; what came in before may still be read, and reading finds the end.
                self.outbound.clear();
                self.flushing = false;
                self.reading = false;
                let was_open = !matches!(self.receiving, Receiving::Gone | Receiving::Closed);
                if was_open && !self.closing {
                    self.doom(End::Lost);
                }
                self.closing = true;
                was_open
            }
            Poll::Pending => false,
        }
    }

    fn try_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, tungstenite::Error>> {
        let mut moved = false;
        if self.flushing {
            ready!(Pin::new(&mut self.ws).poll_flush(cx))?;
            self.flushing = false;
            moved = true;
        }
        while !self.outbound.is_empty() {
            ready!(Pin::new(&mut self.ws).poll_ready(cx))?;
            let message = self.outbound.pop_front().expect("checked above");
            Pin::new(&mut self.ws).start_send(message)?;
            self.flushing = true;
            moved = true;
        }
        if self.reading {
            // First room in the websocket, then a read: nothing is taken that cannot be passed on.
            ready!(Pin::new(&mut self.ws).poll_ready(cx))?;
            let spliced = match (self.splices, self.tcp.as_tcp()) {
                (true, Some(tcp)) => self.ws.poll_splice_from(tcp, cx),
                _ => None,
            };
            if let Some(spliced) = spliced {
                moved |= spliced.is_ready();
                match spliced {
                    Poll::Ready(Ok(0)) => self.on_eof(),
                    Poll::Ready(Ok(length)) => {
                        self.taken(length);
                        self.splices = length >= LARGE;
                    }
                    Poll::Ready(Err(_)) => self.on_reset(),
                    Poll::Pending => {}
                }
            } else if self.tcp.poll_read_ready(cx).is_ready() {
                // Allocated only now that something is there: a silent connection holds no buffer. What was sent
                // before is written and dropped, so this takes its memory.
                self.chunk.reserve(HEADER + self.room);
                self.chunk.resize(HEADER, 0);
                match poll_read_buf(&mut self.tcp, cx, &mut self.chunk) {
                    Poll::Ready(Ok(0)) => self.on_eof(),
                    Poll::Ready(Ok(length)) => {
                        self.taken(length);
                        self.splices = length >= LARGE && self.ws.can_splice();
                        if length >= self.room {
                            self.room = grown(self.room);
                        }
                        self.ws.start_send_behind_header(self.chunk.split())?;
                    }
                    Poll::Ready(Err(_)) => self.on_reset(),
                    Poll::Pending => {}
                }
                moved = true;
            }
        }
        if self.flushing && Pin::new(&mut self.ws).poll_flush(cx)?.is_ready() {
            self.flushing = false;
        }
        Poll::Ready(Ok(moved))
    }

    /// The program has sent something, which has to leave.
    fn taken(&mut self, length: usize) {
        self.sent += length as u64;
        self.options.traffic.sent(length);
        self.news.carried = true;
        self.flushing = true;
    }

    /// The program has sent everything.
    fn on_eof(&mut self) {
        self.reading = false;
        self.eof = true;
        self.news.heard = true;
        // The marker comes before the CLOSE also towards peers without half-close, as NETunnel sends it.
        self.outbound.push_back(Message::Binary(Bytes::new()));
        if self.options.half_close {
            self.close_when_both_ended();
        } else if self.options.side == Side::Exit {
            // Waiting would only delay the client's EOF: without half-close both directions end here.
            self.queue_close(CloseCode::Normal);
        }
        // An entrance waits for the rest of the answer: see the linger timer.
    }

    /// The program's connection was reset.
    fn on_reset(&mut self) {
        self.reading = false;
        self.delivering = Delivering::Broken;
        if self.options.half_close {
            self.queue_close(CloseCode::from(CLOSE_RESET));
        }
        // Without half-close no code says "reset": dropping the transport without CLOSE does.
        self.doom(End::TcpReset);
    }

    /// The program takes nothing any more and has sent all that it will.
    fn program_is_gone(&mut self) {
        let code = if self.options.half_close && self.receiving == Receiving::Data {
            CloseCode::from(CLOSE_RESET)
        } else {
            CloseCode::Normal
        };
        self.queue_close(code);
    }

    /// Both programs have sent everything, and both ends of the tunnel know.
    fn both_ended(&self) -> bool {
        self.eof && self.receiving == Receiving::Ended
    }

    /// Nothing is left of this connection, and the websocket has come to no harm.
    fn leaves_websocket(&self) -> bool {
        self.options.reuse
            && self.both_ended()
            && self.delivering == Delivering::Ended
            && !self.closing
            && self.stopped.is_none()
            && self.doomed.is_none()
            && self.outbound.is_empty()
            && !self.flushing
    }

    fn close_when_both_ended(&mut self) {
        if !self.reading && self.receiving == Receiving::Ended && !self.options.reuse {
            self.queue_close(CloseCode::Normal);
        }
    }

    fn queue_close(&mut self, code: CloseCode) {
        if !self.closing && self.receiving != Receiving::Closed {
            if self.stopped.is_none() {
                self.ending_since = Instant::now();
            }
            self.closing = true;
            self.outbound.push_back(close_message(code, ""));
        }
    }

    fn ended(&mut self) -> Option<End> {
        let said = self.outbound.is_empty() && !self.flushing;
        if let Some(end) = self.doomed {
            // Nothing left to deliver; only our own CLOSE should still leave.
            return said.then_some(end);
        }
        if self.leaves_websocket() {
            return Some(End::Clean);
        }
        match self.receiving {
            Receiving::Gone if !self.closing => Some(End::Lost),
            // Everything that came before the CLOSE is delivered, however long the program takes.
            Receiving::Gone | Receiving::Closed if !self.undelivered() && said => {
                Some(self.stopped.map_or(End::Clean, End::Stopped))
            }
            _ => None,
        }
    }

    /// The other side has said CLOSE and the program has got everything: only the answer is to leave, and whoever says
    /// CLOSE need not read up to it.
    fn only_answers(&self) -> bool {
        self.receiving == Receiving::Closed && !self.undelivered()
    }

    /// Whether something is held that a side does not take.
    fn blocked(&self) -> bool {
        self.undelivered() || !self.outbound.is_empty() || self.flushing
    }

    /// The program has ended and only the rest of the answer is waited for.
    fn lingers(&self) -> bool {
        !self.reading && !self.options.half_close && !self.closing
    }

    /// When something has to happen although nothing moves.
    fn deadline(&self) -> Option<Instant> {
        if self.doomed.is_some() || self.stopped.is_some() || self.only_answers() {
            return Some(self.ending_since + self.options.close);
        }
        if self.blocked() {
            return Some(self.moved + self.options.stall);
        }
        if self.closing {
            return Some(self.ending_since + self.options.close);
        }
        if self.lingers() {
            return Some(self.heard + self.options.linger);
        }
        let ping = self.options.ping.map(|interval| self.moved + interval);
        let idle = self.options.idle.map(|limit| self.carried + limit);
        [ping, idle].into_iter().flatten().min()
    }

    /// `Ready(Some)`: the session is over; `Ready(None)`: look again; `Pending`: the timer is armed.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<Option<End>> {
        if self.now >= self.moved + RELEASE {
            self.chunk = BytesMut::new();
            self.room = SMALL;
            self.incoming.take_if(|pipe| pipe.held() == 0);
            self.ws.release_buffer();
        }
        let idle_pipe = self.incoming.is_some() && self.spliced() == 0;
        let holds = self.chunk.capacity() > 0 || idle_pipe || self.ws.holds_buffer();
        let release = holds.then(|| self.moved + RELEASE);
        let ending = self.deadline();
        let Some(deadline) = release.into_iter().chain(ending).min() else { return Poll::Pending };
        // The clock decides, not the timer: under load the runtime may hold the timer back.
        if self.now < deadline {
            // Armed too early is fine, it is then armed again; so a busy connection rarely touches its timer.
            if deadline < self.timer.deadline() {
                self.timer.as_mut().reset(deadline);
            }
            ready!(self.timer.as_mut().poll(cx));
            self.timer.as_mut().reset(deadline);
            ready!(self.timer.as_mut().poll(cx));
            self.now = Instant::now();
        }
        match ending {
            Some(ending) if self.now >= ending => self.expire(),
            _ => Poll::Ready(None),
        }
    }

    fn expire(&mut self) -> Poll<Option<End>> {
        if let Some(end) = self.doomed {
            return Poll::Ready(Some(end));
        }
        if let Some(reason) = self.stopped {
            return Poll::Ready(Some(End::Stopped(reason)));
        }
        if self.only_answers() {
            return Poll::Ready(Some(End::Clean));
        }
        if self.blocked() {
            return Poll::Ready(Some(End::Stalled));
        }
        if self.closing {
            // The other side never answered our CLOSE; all that it sent is delivered.
            return Poll::Ready(Some(End::Clean));
        }
        if self.lingers() {
            self.queue_close(CloseCode::Normal);
        } else if self.options.idle.is_some_and(|limit| self.carried.elapsed() >= limit) {
            self.reading = false;
            self.queue_close(CloseCode::Away);
            self.doom(End::Idle);
        } else {
            self.moved = Instant::now();
            self.outbound.push_back(Message::Ping(Bytes::new()));
        }
        Poll::Ready(None)
    }

    async fn finish(mut self, end: End) -> (Outcome, Option<DataSocket>) {
        let outcome = Outcome { sent: self.sent, received: self.received, end };
        if self.leaves_websocket() {
            self.ws.rest();
            return (outcome, Some(self.ws));
        }
        match end {
            End::Clean => {
                // A program that is still sending would get RST for bytes that nobody reads, and with it lose
                // what was delivered but not yet read.
                if !self.eof {
                    farewell(&mut self.tcp, self.options.close).await;
                }
            }
            End::Protocol(_) => {
                self.tcp.reset();
                farewell(self.ws.get_mut(), self.options.close).await;
            }
            // A cut stream must not look complete to the program.
            _ => self.tcp.reset(),
        }
        (outcome, None)
    }
}

//! The control channel: requests and replies over one websocket, in both directions.
//!
//! Server and client run the same loop; what a request means is the business of the handler they pass.
//! Both ends ping: a peer that vanished without a word is noticed by whoever is left.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, interval_at, sleep_until, timeout};
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::settings::Timings;
use super::stop::{Stop, StopReason};
use super::transport::{WebSocket, close_message, error_code, farewell};
use super::wire::{self, DecodeError, Message, MessageError, Packet};

/// Requests without an answer, and replies that the other side has not yet taken.
const OUTSTANDING: usize = 256;

/// Why a control channel ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlEnd {
    /// The other side said CLOSE, with this code.
    Closed(u16),
    /// The connection broke.
    Lost,
    /// No sign of life for the configured time.
    Dead,
    /// A message that is no control message.
    Garbage(DecodeError),
    /// The other side broke the websocket protocol or its limits.
    Protocol,
    /// More than 256 unanswered requests or replies that nobody takes.
    Flooded,
    /// A request was not answered in time.
    Unanswered,
    /// We were told to stop.
    Stopped(StopReason),
}

impl fmt::Display for ControlEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(code) => write!(f, "closed by the other side with code {code}"),
            Self::Lost => f.write_str("the connection broke"),
            Self::Dead => f.write_str("no answer to pings"),
            Self::Garbage(error) => write!(f, "{error}"),
            Self::Protocol => f.write_str("the websocket protocol was violated"),
            Self::Flooded => f.write_str("too many unanswered messages"),
            Self::Unanswered => f.write_str("a message was not answered in time"),
            Self::Stopped(StopReason::Drain) => f.write_str("the daemon is stopping"),
            Self::Stopped(StopReason::Revoked) => f.write_str("its token has been revoked"),
            Self::Stopped(_) => f.write_str("closed"),
        }
    }
}

impl ControlEnd {
    /// What to tell the other side, if it can still be told.
    fn close_code(&self) -> Option<CloseCode> {
        match self {
            Self::Closed(_) | Self::Lost | Self::Dead => None,
            Self::Garbage(DecodeError::TooLarge) => Some(CloseCode::Size),
            Self::Garbage(_) | Self::Protocol => Some(CloseCode::Protocol),
            Self::Flooded => Some(CloseCode::Policy),
            Self::Unanswered => Some(CloseCode::Error),
            Self::Stopped(StopReason::Drain) => Some(CloseCode::Restart),
            Self::Stopped(StopReason::Revoked) => Some(CloseCode::Policy),
            Self::Stopped(_) => Some(CloseCode::Normal),
        }
    }
}

/// Why a request brought no success.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The other side refused; its text is escaped and cut.
    #[error("the other side refused: {0}")]
    Refused(String),
    /// The channel ended before the answer came.
    #[error("the control channel has ended")]
    Ended,
}

/// The sending half of a control channel, shared by everything that belongs to it.
#[derive(Debug)]
pub(super) struct Control {
    outbound: mpsc::Sender<Vec<u8>>,
    pending: Mutex<Pending>,
    failure: OnceLock<ControlEnd>,
    failed: Notify,
    /// How many frames have come; whoever doubts that the other side lives waits for one more.
    heard: watch::Sender<u64>,
    doubted: Notify,
    timings: Timings,
}

#[derive(Debug, Default)]
struct Pending {
    last_id: i64,
    replies: HashMap<i64, oneshot::Sender<Result<(), String>>>,
}

impl Control {
    /// A channel whose websocket is still to come, and the queue that [`run`] sends from.
    pub(super) fn new(timings: &Timings) -> (Arc<Self>, mpsc::Receiver<Vec<u8>>) {
        let (outbound, queue) = mpsc::channel(OUTSTANDING);
        let control = Self {
            outbound,
            pending: Mutex::default(),
            failure: OnceLock::new(),
            failed: Notify::new(),
            heard: watch::Sender::new(0),
            doubted: Notify::new(),
            timings: timings.clone(),
        };
        (Arc::new(control), queue)
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// [`RequestError`]; a request that is not answered in time ends the whole channel.
    pub(super) async fn request(&self, message: Message) -> Result<(), RequestError> {
        let (id, reply) = {
            let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            if pending.replies.len() >= OUTSTANDING {
                drop(pending);
                self.fail(ControlEnd::Flooded);
                return Err(RequestError::Ended);
            }
            let (sender, reply) = oneshot::channel();
            pending.last_id += 1;
            let id = pending.last_id;
            pending.replies.insert(id, sender);
            (id, reply)
        };
        self.send(wire::encode_message(id, message));
        match timeout(self.timings.reply, reply).await {
            Ok(Ok(result)) => result.map_err(RequestError::Refused),
            Ok(Err(_)) => Err(RequestError::Ended),
            Err(_) => {
                self.fail(ControlEnd::Unanswered);
                Err(RequestError::Ended)
            }
        }
    }

    /// Whether the other side shows a sign of life within `limit`; it is asked for one.
    pub(super) async fn is_alive(&self, limit: Duration) -> bool {
        let mut heard = self.heard.subscribe();
        self.doubted.notify_one();
        matches!(timeout(limit, heard.changed()).await, Ok(Ok(())))
    }

    /// Answers a request of the other side.
    pub(super) fn reply(&self, id: i64, error: Option<&str>) {
        self.send(wire::encode_response(id, error));
    }

    fn send(&self, message: Vec<u8>) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.outbound.try_send(message) {
            self.fail(ControlEnd::Flooded);
        }
    }

    fn fail(&self, end: ControlEnd) {
        let _ = self.failure.set(end);
        self.failed.notify_one();
    }

    async fn failure(&self) -> ControlEnd {
        loop {
            if let Some(end) = self.failure.get() {
                return end.clone();
            }
            self.failed.notified().await;
        }
    }

    fn resolve(&self, id: i64, result: Result<(), String>) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        match pending.replies.remove(&id) {
            Some(sender) => drop(sender.send(result)),
            None => tracing::debug!(id, "reply to no request of ours is ignored"),
        }
    }

    /// Nobody waits for an answer any more.
    fn abandon(&self) {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).replies.clear();
    }
}

/// Serves the control channel on `ws` until it ends; what remains is to [`part`].
///
/// `handler` gets the other side's requests; it answers each through [`Control::reply`] and must not wait.
pub(super) async fn run(
    control: &Control,
    mut queue: mpsc::Receiver<Vec<u8>>,
    ws: WebSocket,
    stop: &Stop,
    handler: impl FnMut(i64, Result<Message, MessageError>),
) -> (ControlEnd, WebSocket) {
    let timings = &control.timings;
    let (mut sink, mut stream) = ws.split();
    // Reading and writing are separate: a peer that takes no replies must not keep us from seeing its CLOSE.
    let end = tokio::select! {
        end = receive(control, &mut stream, timings, handler) => end,
        end = transmit(control, &mut queue, &mut sink) => end,
        end = control.failure() => end,
        reason = stop.stopped() => ControlEnd::Stopped(reason),
    };
    control.abandon();
    (end, sink.reunite(stream).expect("both halves are of one websocket"))
}

/// Says CLOSE for `end` where that is still possible, and ends the connection.
pub(super) async fn part(mut ws: WebSocket, end: &ControlEnd, timings: &Timings) {
    if let Some(code) = end.close_code() {
        let _ = timeout(timings.close, ws.send(close_message(code, ""))).await;
    } else if matches!(end, ControlEnd::Closed(_)) {
        // The library has queued the answer to the CLOSE.
        let _ = timeout(timings.close, ws.flush()).await;
    }
    if *end != ControlEnd::Dead {
        farewell(ws.get_mut(), timings.close).await;
    }
}

async fn receive(
    control: &Control,
    stream: &mut SplitStream<WebSocket>,
    timings: &Timings,
    mut handler: impl FnMut(i64, Result<Message, MessageError>),
) -> ControlEnd {
    let mut heard = Instant::now();
    loop {
        let frame = tokio::select! {
            frame = stream.next() => frame,
            () = sleep_until(heard + timings.dead_after) => return ControlEnd::Dead,
        };
        heard = Instant::now();
        control.heard.send_modify(|frames| *frames += 1);
        match frame {
            Some(Ok(Frame::Binary(bytes))) => match wire::decode(&bytes) {
                Ok(Packet::Message { id, message }) => handler(id, message),
                Ok(Packet::Response { id, result }) => control.resolve(id, result),
                Ok(Packet::Other) => tracing::debug!("control message of unknown type is ignored"),
                Err(error) => return ControlEnd::Garbage(error),
            },
            Some(Ok(Frame::Close(frame))) => {
                let code = frame.map_or(CloseCode::Status, |frame| frame.code);
                return ControlEnd::Closed(code.into());
            }
            // TEXT is no protocol and ignored, as NETunnel does; pings are answered by the library.
            Some(Ok(_)) => {}
            Some(Err(error)) => match error_code(&error) {
                Some(CloseCode::Size) => return ControlEnd::Garbage(DecodeError::TooLarge),
                Some(_) => return ControlEnd::Protocol,
                None => return ControlEnd::Lost,
            },
            None => return ControlEnd::Lost,
        }
    }
}

async fn transmit(
    control: &Control,
    queue: &mut mpsc::Receiver<Vec<u8>>,
    sink: &mut SplitSink<WebSocket, Frame>,
) -> ControlEnd {
    let timings = &control.timings;
    let mut pings = interval_at(Instant::now() + timings.ping, timings.ping);
    loop {
        let frame = tokio::select! {
            message = queue.recv() => match message {
                Some(message) => Frame::Binary(message.into()),
                None => return ControlEnd::Lost,
            },
            _ = pings.tick() => Frame::Ping(Bytes::new()),
            () = control.doubted.notified() => Frame::Ping(Bytes::new()),
        };
        match timeout(timings.dead_after, sink.send(frame)).await {
            Ok(Ok(())) => {}
            // A broken connection: the reader sees it too, and knows better why.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return ControlEnd::Dead,
        }
    }
}

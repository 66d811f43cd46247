//! The entrance of a tunnel (NETunnel's InputTunnel): accepts TCP connections and gives each one a waiting
//! websocket.
//!
//! Every waiting websocket has a task that reads it, so pings are answered and an end is seen at once. The
//! tasks take accepted connections from one queue; a websocket that turns out to be dead puts its connection
//! back. [`Entrance::feed`] asks for websockets: a spare one, and one for each connection that waits.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::frames::DataSocket;
use super::plain::{Local, Origin, PlainListener, Protocol};
use super::session::{self, Options, Outcome};
use super::stop::Stop;
use super::transport::{START, error_code, refuse};
use super::udp;
use crate::logging::Throttle;

/// Accepted connections that wait for a websocket; beyond that they wait in the kernel.
const WAITING: usize = 256;

/// Requested websockets that have not arrived yet.
const REQUESTED: usize = 16;

/// Websockets that wait for another connection, at most; and how long those beyond the wanted number do. So their
/// number follows the connection rate.
const REUSED: usize = 64;
const SUPERFLUOUS: Duration = Duration::from_secs(10);

/// A waiting websocket that ends sooner than this was refused rather than used up, and the next request waits.
const SHORT_LIFE: Duration = Duration::from_secs(2);

/// Pause when the system has no file descriptor left; the connections that exist go on meanwhile.
const EXHAUSTED: Duration = Duration::from_millis(100);

static ACCEPT_FAILED: LazyLock<Throttle> = LazyLock::new(Throttle::new);

/// One tunnel entrance. It outlives the control channel that feeds it, so accepted connections survive a
/// reconnect.
#[derive(Debug, Default)]
pub(super) struct Entrance {
    state: Mutex<State>,
    /// A connection was queued.
    queued: Notify,
    /// The feeder or the acceptor should look again.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<(Local, Origin)>,
    spare: usize,
    /// How many should be.
    pool: usize,
    /// Connections that got a websocket so far.
    carried: u64,
    /// For each websocket that was requested: when to give it up.
    requested: VecDeque<Instant>,
}

/// How a websocket is to be used at the entrance.
pub(super) struct Use<'u> {
    pub(super) options: Options,
    pub(super) retired: &'u Stop,
    pub(super) stop: &'u Stop,
    /// How long the exit lets it begin connections. It is not used again in the second half of that time, so that
    /// no start meets the exit's farewell.
    pub(super) start: Duration,
}

impl Entrance {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts connections until `retired`.
    pub(super) async fn accept(&self, listener: &PlainListener, retired: &Stop) {
        loop {
            let room = async {
                self.wait_for_room().await;
                listener.accept().await
            };
            let accepted = tokio::select! {
                accepted = room => accepted,
                _ = retired.stopped() => return,
            };
            match accepted {
                Ok((stream, address)) => {
                    stream.tune();
                    self.state().waiting.push_back((stream, address));
                    self.queued.notify_one();
                    self.changed.notify_waiters();
                }
                Err(error) => pause_after(&error, listener).await,
            }
        }
    }

    async fn wait_for_room(&self) {
        loop {
            let changed = self.changed.notified();
            if self.state().waiting.len() < WAITING {
                return;
            }
            changed.await;
        }
    }

    /// Keeps `pool` websockets waiting, and one more for each connection without one, until `retired`.
    ///
    /// `request` starts the request for one websocket and returns at once. One that has not arrived after
    /// `patience` is requested again.
    pub(super) async fn feed(
        &self,
        pool: usize,
        patience: Duration,
        retired: &Stop,
        request: impl Fn(),
    ) {
        loop {
            // Made before the look: it sees every change since.
            let changed = self.changed.notified();
            let (missing, next) = {
                let now = Instant::now();
                let mut state = self.state();
                state.requested.retain(|give_up| *give_up > now);
                state.pool = pool;
                let wanted = pool + state.waiting.len();
                let room = REQUESTED.saturating_sub(state.requested.len());
                let missing = wanted.saturating_sub(state.spare + state.requested.len()).min(room);
                state.requested.extend(std::iter::repeat_n(now + patience, missing));
                (missing, state.requested.iter().min().copied())
            };
            for _ in 0..missing {
                request();
            }
            let next = next.unwrap_or_else(|| Instant::now() + patience);
            tokio::select! {
                () = changed => {}
                () = sleep_until(next) => {}
                _ = retired.stopped() => return,
            }
        }
    }

    /// Websockets that wait now, and connections that have got one so far.
    pub(super) fn vital_signs(&self) -> (usize, u64) {
        let state = self.state();
        (state.spare, state.carried)
    }

    /// A request failed at once: try again after `pause` instead of the full patience.
    pub(super) fn request_failed(&self, pause: Duration) {
        let mut state = self.state();
        if state.requested.pop_back().is_some() {
            state.requested.push_back(Instant::now() + pause);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Lets `ws` wait for a connection and carries it, and the next ones for as long as both ends can go on.
    ///
    /// `retired` ends a websocket that waits; `stop` ends everything. `opened` is called when a connection
    /// of this client begins, `ended` when it is over.
    pub(super) async fn serve(
        &self,
        mut ws: DataSocket,
        use_of: Use<'_>,
        opened: impl Fn(Origin),
        ended: impl Fn(&Outcome),
    ) {
        let Use { options, retired, stop, start } = use_of;
        if options.protocol == Protocol::Udp {
            ws.take_whole(udp::LONGEST);
        }
        let born = Instant::now();
        let mut spare = Spare::new(self);
        while let Some((mut used, stream, address)) =
            self.wait(ws, &mut spare, &options, retired).await
        {
            // Nothing is read from the connection before this, so a failure loses nothing: the next websocket
            // gets the connection.
            let sent = used.send(Message::Text(START.into()));
            if !matches!(timeout(options.close, sent).await, Ok(Ok(()))) {
                return self.put_back(stream, address);
            }
            opened(address);
            let (outcome, left) =
                session::run(used, stream, Vec::new(), options.clone(), stop).await;
            ended(&outcome);
            let Some(left) = left else { return };
            if born.elapsed() >= start / 2 || !spare.again() {
                return refuse(left, CloseCode::Normal, "").await;
            }
            ws = left;
        }
    }

    /// Keeps a websocket until there is a connection for it.
    async fn wait(
        &self,
        mut ws: DataSocket,
        spare: &mut Spare<'_>,
        options: &Options,
        retired: &Stop,
    ) -> Option<(DataSocket, Local, Origin)> {
        loop {
            let silence = options.ping.map(|interval| Instant::now() + interval);
            let (stream, address) = tokio::select! {
                biased;
                reason = retired.stopped() => {
                    refuse(ws, reason.close_code(), "").await;
                    return None;
                }
                // Before the queue: a websocket whose end is already known takes no connection.
                message = ws.next() => match message {
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                    Some(Ok(Message::Close(_))) => {
                        let _ = timeout(options.close, ws.flush()).await;
                        return None;
                    }
                    Some(Ok(_)) => {
                        // The exit has nothing to say before the start.
                        refuse(ws, CloseCode::Protocol, "").await;
                        return None;
                    }
                    Some(Err(error)) => {
                        if let Some(code) = error_code(&error) {
                            refuse(ws, code, "").await;
                        }
                        return None;
                    }
                    None => return None,
                },
                waiting = self.take() => waiting,
                () = maybe(silence) => {
                    if timeout(options.close, ws.send(Message::Ping(Bytes::new()))).await.is_err() {
                        return None;
                    }
                    continue;
                }
                () = spare.superfluous() => {
                    refuse(ws, CloseCode::Normal, "").await;
                    return None;
                }
            };
            spare.taken();
            return Some((ws, stream, address));
        }
    }

    /// Takes the connection that has waited longest.
    async fn take(&self) -> (Local, Origin) {
        loop {
            let queued = self.queued.notified();
            tokio::pin!(queued);
            queued.as_mut().enable();
            if let Some(first) = self.state().waiting.pop_front() {
                return first;
            }
            queued.await;
        }
    }

    fn put_back(&self, stream: Local, address: Origin) {
        self.state().waiting.push_front((stream, address));
        self.queued.notify_one();
        self.changed.notify_waiters();
    }
}

/// Counts a waiting websocket for as long as it waits, however its task ends.
struct Spare<'e> {
    entrance: &'e Entrance,
    since: Instant,
    waits: bool,
}

impl<'e> Spare<'e> {
    fn new(entrance: &'e Entrance) -> Self {
        let mut state = entrance.state();
        state.spare += 1;
        state.requested.pop_front();
        drop(state);
        entrance.changed.notify_waiters();
        Self { entrance, since: Instant::now(), waits: true }
    }

    /// Waits once more, for the next connection; not where enough others do.
    fn again(&mut self) -> bool {
        let mut state = self.entrance.state();
        if state.spare >= REUSED {
            return false;
        }
        state.spare += 1;
        drop(state);
        (self.since, self.waits) = (Instant::now(), true);
        self.entrance.changed.notify_waiters();
        true
    }

    /// Returns when this one has waited for long and enough others do, and waits no longer.
    async fn superfluous(&mut self) {
        let mut next = self.since + SUPERFLUOUS;
        loop {
            sleep_until(next).await;
            let mut state = self.entrance.state();
            if state.spare > state.pool {
                state.spare -= 1;
                self.waits = false;
                return;
            }
            drop(state);
            next = Instant::now() + SUPERFLUOUS;
        }
    }

    fn taken(&mut self) {
        self.waits = false;
        let mut state = self.entrance.state();
        state.spare -= 1;
        state.carried += 1;
        drop(state);
        self.entrance.changed.notify_waiters();
    }
}

impl Drop for Spare<'_> {
    fn drop(&mut self) {
        if !self.waits {
            return;
        }
        let mut state = self.entrance.state();
        state.spare -= 1;
        if self.since.elapsed() < SHORT_LIFE {
            // Counts as requested for a while, so that a server that refuses is not asked in a loop.
            state.requested.push_back(Instant::now() + SHORT_LIFE);
        }
        drop(state);
        self.entrance.changed.notify_waiters();
    }
}

async fn maybe(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Waits after an error of `accept`, so that neither the listener is lost nor a processor burnt.
async fn pause_after(error: &io::Error, listener: &PlainListener) {
    // ECONNABORTED and the like concern one connection that is already gone.
    if matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    ) {
        return;
    }
    ACCEPT_FAILED.run(|suppressed| {
        tracing::error!(event = "accept_failed", address = %listener, %error, suppressed,
            "cannot accept connections; trying again");
    });
    sleep(EXHAUSTED).await;
}

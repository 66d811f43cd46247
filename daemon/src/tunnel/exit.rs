//! The exit of a tunnel (NETunnel's OutputTunnel): waits for the start message of one websocket, connects
//! to the destination and hands both to the copy loop.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::frames::DataSocket;
use super::plain::{Local, Protocol};
use super::session::{self, Options, Outcome};
use super::stop::Stop;
use super::traffic::Unreached;
use super::transport::{CHUNK, START, error_code, refuse};
use super::udp;

/// Why a destination was not reached. The text is for logs; the other side only sees a close code.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The policy does not allow the destination, or not the address that its name has now.
    #[error("{0}")]
    Denied(String),
    /// The name could not be resolved.
    #[error("cannot resolve {host}")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        #[source]
        source: io::Error,
    },
    /// Not within the configured time.
    #[error("no connection to {0} within {1:?}")]
    Timeout(String, Duration),
    /// The connection was refused or is impossible.
    #[error("cannot connect to {address}")]
    Connect {
        /// Where to.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl DialError {
    pub(super) fn kind(&self) -> Unreached {
        match self {
            Self::Denied(_) => Unreached::Denied,
            Self::Resolve { .. } => Unreached::Resolve,
            Self::Timeout(..) => Unreached::Timeout,
            Self::Connect { .. } => Unreached::Connect,
        }
    }
}

/// What became of a tunnel websocket at the exit.
#[derive(Debug)]
pub(super) enum Served {
    /// It ended before its start message; that is the normal end of a spare one.
    Unused,
    /// The first message was not the start message.
    WrongStart,
    /// The destination could not be reached.
    Failed(DialError),
    /// It carried a connection with which it ended, after any number of others.
    Carried,
}

/// How long to wait for what.
#[derive(Clone, Debug)]
pub(super) struct ExitOptions {
    pub(super) session: Options,
    /// How long after its opening a websocket may begin a connection: what its token allowed then holds for all of
    /// them.
    pub(super) start: Duration,
}

/// Serves one websocket to its end. `dial` is asked whenever a start message has come, `ended` is told of each
/// connection that was carried.
///
/// `retired` ends a websocket that waits; `stop` ends everything.
pub(super) async fn serve<D>(
    mut ws: DataSocket,
    options: ExitOptions,
    dial: impl Fn() -> D,
    ended: impl Fn(&Outcome),
    retired: &Stop,
    stop: &Stop,
) -> Served
where
    D: Future<Output = Result<Local, DialError>>,
{
    if options.session.protocol == Protocol::Udp {
        ws.take_whole(udp::LONGEST);
    }
    // Of all its connections together. The other side can't be left to mind this: it is the one whose rights change.
    let give_up = Instant::now() + options.start;
    let mut carried = false;
    loop {
        match serve_next(ws, &options, give_up, &dial, retired, stop).await {
            Err(Served::Unused) if carried => return Served::Carried,
            Err(served) => return served,
            Ok((outcome, left)) => {
                ended(&outcome);
                carried = true;
                match left {
                    Some(left) => ws = left,
                    None => return Served::Carried,
                }
            }
        }
    }
}

/// Serves one connection. The websocket comes back if it can carry another one; `Err` is why there was none.
async fn serve_next<D>(
    mut ws: DataSocket,
    options: &ExitOptions,
    give_up: Instant,
    dial: &impl Fn() -> D,
    retired: &Stop,
    stop: &Stop,
) -> Result<(Outcome, Option<DataSocket>), Served>
where
    D: Future<Output = Result<Local, DialError>>,
{
    match wait_for_start(&mut ws, &options.session, give_up, retired).await {
        Start::Started => {}
        Start::Ended => return Err(Served::Unused),
        Start::Refused(code) => {
            refuse(ws, code, "").await;
            return Err(Served::Unused);
        }
        Start::Wrong => {
            refuse(ws, CloseCode::Protocol, "expected the start message").await;
            return Err(Served::WrongStart);
        }
    }
    let mut early = Vec::new();
    let dialled = tokio::select! {
        dialled = dial() => dialled,
        // Kept reading meanwhile, to answer pings and to see an end; what arrives is for the destination.
        fault = read_ahead(&mut ws, &mut early) => {
            if let Some(code) = fault {
                refuse(ws, code, "").await;
            }
            return Err(Served::Unused);
        }
        reason = stop.stopped() => {
            refuse(ws, reason.close_code(), "").await;
            return Err(Served::Unused);
        }
    };
    match dialled {
        Ok(local) => {
            local.tune();
            let session = options.session.clone();
            Ok(session::run(ws, local, early, session, stop).await)
        }
        Err(error) => {
            // Towards a peer without half-close every failure looks like an end, as it does from NETunnel.
            let code =
                if options.session.half_close { CloseCode::Error } else { CloseCode::Normal };
            refuse(ws, code, "").await;
            Err(Served::Failed(error))
        }
    }
}

enum Start {
    Started,
    Wrong,
    Ended,
    Refused(CloseCode),
}

async fn wait_for_start(
    ws: &mut DataSocket,
    options: &Options,
    give_up: Instant,
    retired: &Stop,
) -> Start {
    loop {
        if Instant::now() >= give_up {
            return Start::Refused(CloseCode::Away);
        }
        let silence = options.ping.map_or(give_up, |ping| (Instant::now() + ping).min(give_up));
        let message = tokio::select! {
            message = ws.next() => message,
            reason = retired.stopped() => return Start::Refused(reason.close_code()),
            () = sleep_until(silence) => {
                if silence == give_up {
                    continue;
                }
                // No deadline for the pong: NETunnel's server does not read waiting websockets.
                let ping = ws.send(Message::Ping(Bytes::new()));
                if timeout(options.close, ping).await.is_err() {
                    return Start::Ended;
                }
                continue;
            }
        };
        match message {
            Some(Ok(Message::Text(text))) if text.as_str() == START => return Start::Started,
            Some(Ok(Message::Text(_) | Message::Binary(_))) => return Start::Wrong,
            Some(Ok(Message::Close(_))) => {
                let _ = timeout(options.close, ws.flush()).await;
                return Start::Ended;
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => return error_code(&error).map_or(Start::Ended, Start::Refused),
            None => return Start::Ended,
        }
    }
}

/// Reads into `early` up to a limit. Returns only if there is nobody left to dial for; a sender that has broken the
/// protocol is to be told so by the code.
async fn read_ahead(ws: &mut DataSocket, early: &mut Vec<Message>) -> Option<CloseCode> {
    let mut held = 0;
    while held < CHUNK {
        match ws.next().await {
            Some(Ok(Message::Close(_))) | None if held == 0 => return None,
            Some(Err(error)) => match error_code(&error) {
                Some(code) => return Some(code),
                None if held == 0 => return None,
                None => break,
            },
            // The sender is gone, but what it sent is to be delivered; the session goes on from here.
            Some(Ok(message @ Message::Close(_))) => {
                early.push(message);
                break;
            }
            None => break,
            Some(Ok(message)) => {
                held += message.len();
                early.push(message);
            }
        }
    }
    std::future::pending().await
}

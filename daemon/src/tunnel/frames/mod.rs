//! The websocket of one tunnelled connection.
//!
//! A general library copies each payload into its own buffer, masks it there and waits for whole messages. Here
//! payload goes from one socket to the other in the buffer into which it was read, next to its header in one vectored
//! write; pieces of a message are handed on as they come, and large ones do not even come here (`splice`). The interface is the library's, so that entrance, exit and
//! session read as if it were used; control websockets do use it.

#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzz;
mod parser;

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::{Sink, Stream};
use rustix::net::{SendFlags, send};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::splice::{LARGE, MOST, Pipe, poll_io};
use super::transport::{CHUNK, SMALL, Transport, grown, poll_read_buf};
use parser::{Parser, apply_mask};

/// Room for one read where readiness is not known before: a TLS record.
const RECORD: usize = 16 * 1024;

/// The most payload of one message of ours to ends that are not.
const MESSAGE: usize = 256 * 1024;

/// The longest frame header: two bytes, a length of eight, a mask of four.
pub(super) const HEADER: usize = 14;

/// A websocket for payload, of either role.
#[derive(Debug)]
pub(super) struct DataSocket {
    transport: Transport,
    parser: Parser,
    input: BytesMut,
    /// Room for a read of which nothing is known.
    room: usize,
    /// The buffer of `input` stays while there is nothing to read: payload is on its way.
    keeps_buffer: bool,
    /// Whole frames that are being written, the first perhaps in part.
    output: VecDeque<Bytes>,
    /// Payload that comes before `output`.
    outgoing: Option<Pipe>,
    /// How much of `outgoing` belongs to the message that is being sent, and what is left of its header.
    announced: usize,
    announcement: Bytes,
    /// Payload comes in large pieces that need no unmasking, and whoever reads takes it through a pipe: so headers are
    /// read alone, and what follows them stays in the socket.
    splices: bool,
    /// Pipes have failed here.
    without_pipes: bool,
    /// The answer to the latest ping, which waits until the frame before it is written.
    pong: Option<Bytes>,
    masking: Masking,
    /// The most payload of one message of ours.
    largest: usize,
    close_sent: bool,
    /// Nothing is read any more: CLOSE has come, or an error or the end.
    ended: bool,
}

/// What came.
#[derive(Debug)]
pub(super) enum Received {
    Message(Message),
    /// Payload, into the pipe.
    Spliced,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Masking {
    /// We are the server.
    None,
    /// A key of zeros, which changes nothing. The mask protects caches between that take payload for a request
    /// (RFC 6455 §10.3); it does not protect the payload. Both ends have agreed to do without.
    Zero,
    Random,
}

impl DataSocket {
    /// A websocket after its handshake. `early` are bytes that came right behind it.
    pub(super) fn new(transport: Transport, role: Role, early: &[u8], zero_mask: bool) -> Self {
        let masking = match role {
            Role::Server => Masking::None,
            Role::Client if zero_mask => Masking::Zero,
            Role::Client => Masking::Random,
        };
        Self {
            transport,
            parser: Parser::new(role == Role::Server),
            input: early.into(),
            room: SMALL,
            keeps_buffer: false,
            output: VecDeque::new(),
            outgoing: None,
            announced: 0,
            announcement: Bytes::new(),
            splices: false,
            without_pipes: false,
            pong: None,
            masking,
            largest: MESSAGE,
            close_sent: false,
            ended: false,
        }
    }

    /// The byte stream below.
    pub(super) fn get_mut(&mut self) -> &mut Transport {
        &mut self.transport
    }

    /// From now on a buffer for reading is kept, until [`DataSocket::release_buffer`]: taking one for each read, and
    /// giving it back to the system, costs more than reading.
    pub(super) fn keep_buffer(&mut self) {
        self.keeps_buffer = true;
    }

    /// Waits for its next connection, without a buffer.
    pub(super) fn rest(&mut self) {
        self.keeps_buffer = false;
        self.splices = false;
        self.release_buffer();
    }

    pub(super) fn holds_buffer(&self) -> bool {
        let idle_pipe = self.outgoing.as_ref().is_some_and(|pipe| pipe.held() == 0);
        self.input.is_empty() && self.input.capacity() > 0 || idle_pipe
    }

    pub(super) fn release_buffer(&mut self) {
        self.outgoing.take_if(|pipe| pipe.held() == 0);
        if self.input.is_empty() {
            self.input = BytesMut::new();
            self.room = SMALL;
        }
    }

    /// Binary messages are datagrams: each comes whole, and one longer than `most` is an error.
    pub(super) fn take_whole(&mut self, most: usize) {
        self.parser.take_whole(most);
    }

    /// The other end is ours too, and takes larger messages.
    pub(super) fn enlarge_messages(&mut self) {
        self.largest = MOST;
    }

    /// Whether payload can be sent without passing through this process.
    pub(super) fn can_splice(&self) -> bool {
        self.masking != Masking::Random && self.takes_pipes()
    }

    fn takes_pipes(&self) -> bool {
        !self.without_pipes && matches!(self.transport, Transport::Tcp(_))
    }

    /// Takes from `plain` what is to be sent as one message, zero at its end; only when [`Sink::poll_ready`] is.
    /// None: it has to be read.
    pub(super) fn poll_splice_from(
        &mut self,
        plain: &TcpStream,
        cx: &mut Context<'_>,
    ) -> Option<Poll<io::Result<usize>>> {
        let taken = fill(&mut self.outgoing, plain, MOST, cx);
        if taken.is_none() {
            self.give_up_pipes();
        }
        taken
    }

    /// Takes payload that has come into `pipe`, which is empty. None: what is next has to be read.
    fn poll_splice_to(
        &mut self,
        pipe: &mut Option<Pipe>,
        cx: &mut Context<'_>,
    ) -> Option<Poll<io::Result<usize>>> {
        let left = self.parser.unmasked_left();
        if !self.splices || left < LARGE || !self.input.is_empty() {
            return None;
        }
        let Transport::Tcp(stream) = &self.transport else { return None };
        let taken = fill(pipe, stream, left.min(MOST), cx);
        match taken {
            // The end within a frame is found by reading, as ever.
            Some(Poll::Ready(Ok(0))) => {
                self.splices = false;
                return None;
            }
            Some(Poll::Ready(Ok(length))) => self.parser.passed(length),
            Some(_) => {}
            None => self.give_up_pipes(),
        }
        taken
    }

    /// Without them everything goes on, by reading and writing.
    fn give_up_pipes(&mut self) {
        self.without_pipes = true;
        self.splices = false;
    }

    fn queue(&mut self, message: Message) {
        let (opcode, payload) = match message {
            Message::Text(text) => (1, Bytes::from(text)),
            Message::Binary(data) => (2, data),
            Message::Ping(data) => (9, data),
            Message::Pong(data) => (10, data),
            Message::Close(frame) => (
                8,
                frame.map_or_else(Bytes::new, |frame| {
                    let mut payload = BytesMut::with_capacity(2 + frame.reason.len());
                    payload.put_u16(frame.code.into());
                    payload.put_slice(frame.reason.as_bytes());
                    payload.freeze()
                }),
            ),
            // Not made here.
            Message::Frame(_) => return,
        };
        let header = Header::new(self.masking, opcode, payload.len());
        self.output.push_back(Bytes::copy_from_slice(header.bytes()));
        let payload = match header.key {
            None | Some([0, 0, 0, 0]) => payload,
            Some(key) => {
                // In place where nobody else has it, which is the rule.
                let mut payload = payload.try_into_mut().unwrap_or_else(|shared| shared[..].into());
                apply_mask(&mut payload, key, 0);
                payload.freeze()
            }
        };
        if !payload.is_empty() {
            self.output.push_back(payload);
        }
    }

    /// As [`Sink::start_send`] of a binary message with what `buffer` holds behind its first [`HEADER`] bytes. Those
    /// take the header, so that one buffer leaves.
    pub(super) fn start_send_behind_header(&mut self, mut buffer: BytesMut) -> Result<(), Error> {
        if self.close_sent {
            return Err(ProtocolError::SendAfterClosing.into());
        }
        let (room, payload) = buffer.split_at_mut(HEADER);
        let header = Header::new(self.masking, 2, payload.len());
        if let Some(key) = header.key {
            apply_mask(payload, key, 0);
        }
        let unused = HEADER - header.length;
        room[unused..].copy_from_slice(header.bytes());
        buffer.advance(unused);
        self.output.push_back(buffer.freeze());
        Ok(())
    }

    /// Sends what `outgoing` holds, as messages.
    fn poll_drain_pipe(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(pipe) = &mut self.outgoing
            && let Transport::Tcp(stream) = &self.transport
            && pipe.held() > 0
        {
            if self.announced == 0 {
                self.announced = pipe.held().min(self.largest);
                let header = Header::new(self.masking, 2, self.announced);
                self.announcement = Bytes::copy_from_slice(header.bytes());
            }
            if self.announcement.is_empty() {
                self.announced -= ready!(pipe.poll_drain(stream, self.announced, cx))?;
            } else {
                // The kernel keeps it until the rest is there, so that both leave in one packet.
                let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
                let sent = poll_io(stream, Interest::WRITABLE, cx, || {
                    Ok(send(stream, &self.announcement, flags)?)
                });
                self.announcement.advance(ready!(sent)?);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what is queued.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            // Was there before all that is queued.
            ready!(self.poll_drain_pipe(cx))?;
            if self.output.is_empty() {
                match self.pong.take() {
                    Some(data) if !self.close_sent => self.queue(Message::Pong(data)),
                    _ => return Poll::Ready(Ok(())),
                }
            }
            let transport = Pin::new(&mut self.transport);
            let written = match (self.output.front(), self.output.get(1)) {
                (Some(first), Some(second)) => {
                    let slices = [IoSlice::new(first), IoSlice::new(second)];
                    transport.poll_write_vectored(cx, &slices)
                }
                // send(2) costs less than writev(2).
                (first, _) => transport.poll_write(cx, first.map_or(&[], |first| first)),
            };
            let mut written = ready!(written)?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            while let Some(front) = self.output.front_mut()
                && written > 0
            {
                let part = written.min(front.len());
                front.advance(part);
                written -= part;
                if front.is_empty() {
                    self.output.pop_front();
                }
            }
        }
    }

    /// Reads once. A websocket that waits for its connection holds no buffer.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if let Transport::Tcp(stream) = &mut self.transport {
            let mut read = Poll::Pending;
            if stream.poll_read_ready(cx)?.is_ready() {
                // To the end of the frame and over the next header: so one read of a long transfer brings one
                // frame, which leaves in one write.
                let left = self.parser.left().unwrap_or(self.room).min(CHUNK);
                let most = match self.parser.header_left(&self.input) {
                    0 => left + HEADER,
                    header if self.splices => header,
                    _ => left + HEADER,
                };
                self.input.reserve(most);
                read = poll_read_buf(stream, cx, &mut (&mut self.input).limit(most));
                if matches!(read, Poll::Ready(Ok(length)) if length > self.room) {
                    self.room = grown(self.room);
                }
            }
            if read.is_pending() && !self.keeps_buffer {
                self.release_buffer();
            }
            return read;
        }
        let mut space = [0; RECORD];
        let mut buffer = ReadBuf::new(&mut space);
        ready!(Pin::new(&mut self.transport).poll_read(cx, &mut buffer))?;
        self.input.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// What comes next. Payload in large pieces that has a pipe, which is empty, goes there.
    pub(super) fn poll_receive(
        &mut self,
        mut pipe: Option<&mut Option<Pipe>>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Received, Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        // An answer to a ping leaves even if its receiver never writes. A failure is found by reading, too.
        if self.pong.is_some() {
            let _ = self.poll_drain(cx);
        }
        loop {
            match self.parser.next(&mut self.input) {
                Ok(None) => {}
                Ok(Some(message)) => {
                    if let Message::Binary(piece) = &message {
                        // After a large one the next ones may go through a pipe.
                        self.splices = pipe.is_some()
                            && piece.len() >= LARGE
                            && self.parser.was_unmasked()
                            && self.takes_pipes();
                    }
                    self.on_message(&message);
                    if self.pong.is_some() {
                        let _ = self.poll_drain(cx);
                    }
                    return Poll::Ready(Some(Ok(Received::Message(message))));
                }
                Err(error) => {
                    self.ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
            }
            let spliced = match &mut pipe {
                Some(pipe) => self.poll_splice_to(pipe, cx),
                None => None,
            };
            let error = match spliced {
                Some(spliced) => match ready!(spliced) {
                    Ok(_) => return Poll::Ready(Some(Ok(Received::Spliced))),
                    Err(error) => error.into(),
                },
                None => match ready!(self.poll_fill(cx)) {
                    Ok(0) => ProtocolError::ResetWithoutClosingHandshake.into(),
                    Ok(_) => continue,
                    Err(error) => error.into(),
                },
            };
            self.ended = true;
            return Poll::Ready(Some(Err(error)));
        }
    }

    fn on_message(&mut self, message: &Message) {
        match message {
            Message::Ping(data) if !self.close_sent => self.pong = Some(data.clone()),
            Message::Close(frame) => {
                self.ended = true;
                if !self.close_sent {
                    // RFC 6455 §5.5.1: the answer, with the code that came.
                    self.queue(Message::Close(frame.clone()));
                    self.close_sent = true;
                }
            }
            _ => {}
        }
    }
}

/// The header of a whole message, and the key with which its payload has to be masked.
struct Header {
    buffer: [u8; HEADER],
    length: usize,
    key: Option<[u8; 4]>,
}

impl Header {
    fn new(masking: Masking, opcode: u8, payload: usize) -> Self {
        let key = match masking {
            Masking::None => None,
            Masking::Zero => Some([0; 4]),
            Masking::Random => {
                let mut key = [0; 4];
                aws_lc_rs::rand::fill(&mut key).expect("the system's random generator works");
                Some(key)
            }
        };
        let mut buffer = [0; HEADER];
        let mut rest = &mut buffer[..];
        let flag = if key.is_some() { 0x80 } else { 0 };
        rest.put_u8(0x80 | opcode);
        match payload {
            0..=125 => rest.put_u8(flag | payload as u8),
            126..=0xffff => {
                rest.put_u8(flag | 126);
                rest.put_u16(payload as u16);
            }
            _ => {
                rest.put_u8(flag | 127);
                rest.put_u64(payload as u64);
            }
        }
        rest.put_slice(key.as_ref().map_or(&[], |key| &key[..]));
        let length = HEADER - rest.len();
        Self { buffer, length, key }
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer[..self.length]
    }
}

/// Fills `pipe`, which is made if need be. None where that cannot be: no descriptors are left, or these sockets do not
/// do it.
fn fill(
    pipe: &mut Option<Pipe>,
    socket: &TcpStream,
    most: usize,
    cx: &mut Context<'_>,
) -> Option<Poll<io::Result<usize>>> {
    let pipe = match pipe {
        Some(pipe) => pipe,
        None => pipe.insert(Pipe::new()?),
    };
    match pipe.poll_fill(socket, most, cx) {
        Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::InvalidInput => None,
        taken => Some(taken),
    }
}

impl Stream for DataSocket {
    type Item = Result<Message, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(match ready!(self.get_mut().poll_receive(None, cx)) {
            Some(Ok(Received::Message(message))) => Some(Ok(message)),
            Some(Err(error)) => Some(Err(error)),
            Some(Ok(Received::Spliced)) | None => None,
        })
    }
}

impl Sink<Message> for DataSocket {
    type Error = Error;

    /// Ready when everything before is written: one message is held at most.
    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.get_mut().poll_drain(cx).map_err(Error::from)
    }

    fn start_send(self: Pin<&mut Self>, message: Message) -> Result<(), Error> {
        let this = self.get_mut();
        if this.close_sent {
            return Err(ProtocolError::SendAfterClosing.into());
        }
        this.close_sent = message.is_close();
        this.queue(message);
        Ok(())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.transport).poll_flush(cx).map_err(Error::from)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.poll_flush(cx)
    }
}

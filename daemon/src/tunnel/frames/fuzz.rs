//! Frames from bytes that mean harm.

use std::io::{self, Read, Write};

use bytes::BytesMut;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocket, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::super::transport::MAX_DATA_MESSAGE;
use super::parser::Parser;

/// What was read, up to the first error.
pub(super) type Reading = (Vec<Message>, Option<Error>);

/// Everything in the pieces; adjacent pieces of payload become one.
pub(super) fn read<'p>(pieces: impl IntoIterator<Item = &'p [u8]>, masked: bool) -> Reading {
    read_by(Parser::new(masked), pieces, add)
}

/// The same with each binary message whole.
pub(super) fn read_whole<'p>(pieces: impl IntoIterator<Item = &'p [u8]>, masked: bool) -> Reading {
    let mut parser = Parser::new(masked);
    parser.take_whole(MAX_DATA_MESSAGE);
    read_by(parser, pieces, Vec::push)
}

fn read_by<'p>(
    mut parser: Parser,
    pieces: impl IntoIterator<Item = &'p [u8]>,
    add: fn(&mut Vec<Message>, Message),
) -> Reading {
    let mut input = BytesMut::new();
    let mut messages = Vec::new();
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match parser.next(&mut input) {
                Ok(None) => break,
                Ok(Some(message)) => add(&mut messages, message),
                Err(error) => return (messages, Some(error)),
            }
        }
    }
    (messages, None)
}

fn add(messages: &mut Vec<Message>, message: Message) {
    match (messages.last_mut(), &message) {
        (Some(Message::Binary(data)), Message::Binary(more))
            if !more.is_empty() && !data.is_empty() =>
        {
            *data = [&data[..], &more[..]].concat().into();
        }
        _ => messages.push(message),
    }
}

/// Of an error what does not depend on the place where it was found.
fn kind(error: Option<Error>) -> Option<String> {
    error.map(|error| match error {
        Error::Utf8(_) => "invalid UTF-8".to_owned(),
        other => other.to_string(),
    })
}

/// Frames of a client (first byte odd) or a server: read the same in one piece and cut in two anywhere, and as the
/// well-known library reads them.
pub fn ws_frames(data: &[u8]) {
    let Some((role, bytes)) = data.split_first() else { return };
    let masked = role % 2 == 1;
    let (messages, error) = read([bytes], masked);
    let error = kind(error);
    let whole = read_whole([bytes], masked).0;
    // Each cut takes a whole reading, so no more than a few hundred.
    let step = bytes.len() / 256 + 1;
    for at in (1..bytes.len()).step_by(step) {
        let (first, second) = bytes.split_at(at);
        let cut = read([first, second], masked);
        assert_eq!((&cut.0, kind(cut.1)), (&messages, error.clone()), "cut at {at}");
        assert_eq!(read_whole([first, second], masked).0, whole, "cut at {at}");
    }
    let theirs = compare(&messages, error.is_some(), bytes, masked);
    let datagrams = |messages: &[Message]| -> Vec<Message> {
        let open = messages.iter().take_while(|message| !message.is_close());
        open.filter(|message| message.is_binary()).cloned().collect()
    };
    assert_eq!(datagrams(&whole), datagrams(&theirs));
}

/// The library hands on whole messages, so payload may be missing there, and its place among control frames differ.
/// Gives what the library reads.
fn compare(ours: &[Message], failed: bool, bytes: &[u8], masked: bool) -> Vec<Message> {
    let role = if masked { Role::Server } else { Role::Client };
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_DATA_MESSAGE))
        .max_frame_size(Some(MAX_DATA_MESSAGE));
    let mut library = WebSocket::from_raw_socket(Wire(bytes), role, Some(config));
    let (mut theirs, mut error) = (Vec::new(), None);
    while error.is_none() {
        match library.read() {
            Ok(message) => theirs.push(message),
            Err(fault) => error = Some(fault),
        }
    }
    // Nobody reads on after CLOSE.
    let closed = ours.iter().position(Message::is_close);
    // A CLOSE with a code that nobody may send is an error here; there it is a CLOSE that tells of one.
    if failed && closed.is_none() && theirs.last().is_some_and(Message::is_close) {
        theirs.pop();
    }
    let ours = &ours[..closed.map_or(ours.len(), |at| at + 1)];
    let control = |messages: &[Message]| -> Vec<Message> {
        messages
            .iter()
            .filter(|message| !message.is_binary() && !message.is_text())
            .cloned()
            .collect()
    };
    let payload = |messages: &[Message]| -> Vec<u8> {
        let data = messages.iter().filter(|message| message.is_binary());
        data.flat_map(|message| message.clone().into_data()).collect()
    };
    assert_eq!(control(ours), control(&theirs));
    assert!(payload(ours).starts_with(&payload(&theirs)), "{ours:?} {theirs:?}");
    // It looks at a header once the whole frame is there, so we may refuse more, but not less.
    if closed.is_none() {
        let fault = !matches!(&error, Some(Error::Io(_) | Error::ConnectionClosed));
        assert!(failed || !fault, "{error:?}");
    }
    theirs
}

/// The bytes, and after them the end of the connection. What is written goes nowhere.
struct Wire<'b>(&'b [u8]);

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.0.read(buffer)
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

//! Frames out of bytes (RFC 6455 §5), as they arrive: payload of binary messages is handed on in pieces, without
//! waiting for the end of its frame and without a copy. This module does no I/O.

use bytes::{Buf, Bytes, BytesMut};
use tokio_tungstenite::tungstenite::error::{CapacityError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use super::super::transport::MAX_DATA_MESSAGE;

/// The most that a control frame may carry, and more than the text that a tunnel websocket starts with.
const SHORT: usize = 125;

/// Reads the frames of one direction.
#[derive(Debug)]
pub(super) struct Parser {
    /// Frames have to be masked: they come from a client.
    masked: bool,
    frame: Option<Frame>,
    /// The latest data frame had a mask that changes it.
    unmasks: bool,
    /// The message whose frames are being read, if its last one has not begun.
    message: Option<Kind>,
    /// Payload of the message so far announced.
    announced: u64,
    text: Text,
    /// Binary messages are handed on whole, and may not be longer than this.
    whole: Option<usize>,
    /// What has come of such a message that is in several frames.
    held: BytesMut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Binary,
}

#[derive(Debug)]
struct Frame {
    what: What,
    last: bool,
    left: u64,
    mask: Option<[u8; 4]>,
    /// How many bytes of the payload were unmasked.
    at: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Data(Kind),
    Close,
    Ping,
    Pong,
}

/// A text message: its start is kept, the rest is only checked.
#[derive(Debug, Default)]
struct Text {
    kept: Vec<u8>,
    length: u64,
    /// The bytes of a character that is cut by the end of a piece.
    cut: Vec<u8>,
}

impl Parser {
    pub(super) fn new(masked: bool) -> Self {
        Self {
            masked,
            frame: None,
            unmasks: false,
            message: None,
            announced: 0,
            text: Text::default(),
            whole: None,
            held: BytesMut::new(),
        }
    }

    /// From the next message on: binary ones are handed on whole, and longer ones than `most` are refused.
    pub(super) fn take_whole(&mut self, most: usize) {
        self.whole = Some(most);
    }

    /// How much of the payload of the frame that is being read is still to come.
    pub(super) fn left(&self) -> Option<usize> {
        self.frame.as_ref().map(|frame| usize::try_from(frame.left).unwrap_or(usize::MAX))
    }

    /// How much of a frame's header is still to come, as far as `input` tells; zero within a frame.
    pub(super) fn header_left(&self, input: &[u8]) -> usize {
        if self.frame.is_some() {
            return 0;
        }
        let Some(second) = input.get(1) else { return 2 - input.len() };
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        (2 + extended(second & 0x7f) + mask).saturating_sub(input.len())
    }

    /// How much payload of a binary frame is still to come, if it comes as it is: not masked, or with a key of zeros.
    pub(super) fn unmasked_left(&self) -> usize {
        match &self.frame {
            Some(Frame {
                what: What::Data(Kind::Binary),
                left,
                mask: None | Some([0, 0, 0, 0]),
                ..
            }) => usize::try_from(*left).unwrap_or(usize::MAX),
            _ => 0,
        }
    }

    /// Whether the latest frame with payload came as it is.
    pub(super) fn was_unmasked(&self) -> bool {
        !self.unmasks
    }

    /// So much of [`Self::unmasked_left`] went another way.
    pub(super) fn passed(&mut self, length: usize) {
        if let Some(frame) = &mut self.frame {
            frame.at += length;
            frame.left -= length as u64;
            if frame.left == 0 {
                self.end_frame();
            }
        }
    }

    /// The next message or piece of one in `input`, which is taken out of it. None: more input is needed.
    ///
    /// A binary message of some length comes as pieces that are not empty, an empty one as an empty piece; after
    /// [`Self::take_whole`] each comes as one. A text
    /// longer than [`SHORT`] comes as an empty one: nobody here wants it.
    pub(super) fn next(&mut self, input: &mut BytesMut) -> Result<Option<Message>, Error> {
        loop {
            let Some(frame) = &mut self.frame else {
                match self.header(input)? {
                    Some(frame) => self.frame = Some(frame),
                    None => return Ok(None),
                }
                continue;
            };
            let What::Data(kind) = frame.what else {
                // At most 125 bytes, checked with the header.
                if (input.len() as u64) < frame.left {
                    return Ok(None);
                }
                let payload = frame.take(input);
                let what = frame.what;
                self.frame = None;
                return control(what, payload).map(Some);
            };
            if frame.left > 0 {
                let whole = self.whole.is_some() && kind == Kind::Binary;
                if input.is_empty() || whole && (input.len() as u64) < frame.left {
                    return Ok(None);
                }
                let piece = frame.take(input);
                match kind {
                    Kind::Binary if whole => {
                        let last = frame.last;
                        self.end_frame();
                        if last && self.held.is_empty() {
                            return Ok(Some(Message::Binary(piece)));
                        }
                        self.held.extend_from_slice(&piece);
                        if last {
                            return Ok(Some(Message::Binary(self.held.split().freeze())));
                        }
                    }
                    Kind::Binary => {
                        if frame.left == 0 {
                            self.end_frame();
                        }
                        return Ok(Some(Message::Binary(piece)));
                    }
                    Kind::Text => self.text.add(&piece)?,
                }
                continue;
            }
            let (last, empty) = (frame.last, self.announced == 0);
            self.end_frame();
            match kind {
                // Its end, without payload, of which the rest is held, if it is not handed on already.
                Kind::Binary if last && (empty || !self.held.is_empty()) => {
                    return Ok(Some(Message::Binary(self.held.split().freeze())));
                }
                Kind::Text if last => {
                    let text = std::mem::take(&mut self.text).finish()?;
                    return Ok(Some(Message::Text(text)));
                }
                _ => {}
            }
        }
    }

    fn end_frame(&mut self) {
        if let Some(Frame { what: What::Data(kind), last, .. }) = self.frame.take() {
            self.message = (!last).then_some(kind);
        }
    }

    fn header(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, Error> {
        let &[first, second, ..] = &input[..] else { return Ok(None) };
        if first & 0x70 != 0 {
            // No extension is negotiated.
            return Err(ProtocolError::NonZeroReservedBits.into());
        }
        let (last, opcode, masked) = (first & 0x80 != 0, first & 0x0f, second & 0x80 != 0);
        let what = match (opcode, self.message) {
            (0, Some(kind)) => What::Data(kind),
            (0, None) => return Err(ProtocolError::UnexpectedContinueFrame.into()),
            (1 | 2, Some(kind)) => {
                let expected = if kind == Kind::Text { Data::Text } else { Data::Binary };
                return Err(ProtocolError::ExpectedFragment(expected).into());
            }
            (1, None) => What::Data(Kind::Text),
            (2, None) => What::Data(Kind::Binary),
            (8, _) => What::Close,
            (9, _) => What::Ping,
            (10, _) => What::Pong,
            (opcode @ 3..=7, _) => return Err(ProtocolError::UnknownDataFrameType(opcode).into()),
            (opcode, _) => return Err(ProtocolError::UnknownControlFrameType(opcode).into()),
        };
        if masked != self.masked {
            return Err(if masked {
                ProtocolError::MaskedFrameFromServer.into()
            } else {
                ProtocolError::UnmaskedFrameFromClient.into()
            });
        }
        let short = usize::from(second & 0x7f);
        if !matches!(what, What::Data(_)) {
            if !last {
                return Err(ProtocolError::FragmentedControlFrame.into());
            }
            if short > SHORT {
                return Err(ProtocolError::ControlFrameTooBig.into());
            }
        }
        let extended = extended(second & 0x7f);
        let Some(bytes) = input.get(2..2 + extended) else { return Ok(None) };
        let length = match extended {
            0 => short as u64,
            _ => bytes.iter().fold(0, |length, byte| (length << 8) | u64::from(*byte)),
        };
        if matches!(what, What::Data(_)) {
            if opcode != 0 {
                self.announced = 0;
            }
            let size = self.announced.saturating_add(length);
            let max_size = match (what, self.whole) {
                (What::Data(Kind::Binary), Some(most)) => most,
                _ => MAX_DATA_MESSAGE,
            };
            if size > max_size as u64 {
                let size = usize::try_from(size).unwrap_or(usize::MAX);
                return Err(Error::Capacity(CapacityError::MessageTooLong { size, max_size }));
            }
        }
        let mask = if masked {
            let Some(mask) = input.get(2 + extended..6 + extended) else { return Ok(None) };
            Some(mask.try_into().expect("four bytes"))
        } else {
            None
        };
        if matches!(what, What::Data(_)) {
            self.announced += length;
            self.unmasks = mask.is_some_and(|mask| mask != [0; 4]);
        }
        input.advance(2 + extended + if masked { 4 } else { 0 });
        Ok(Some(Frame { what, last, left: length, mask, at: 0 }))
    }
}

impl Frame {
    /// Takes what is there of the payload, unmasked.
    fn take(&mut self, input: &mut BytesMut) -> Bytes {
        let length = input.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let mut piece = input.split_to(length);
        if let Some(mask) = self.mask {
            apply_mask(&mut piece, mask, self.at);
        }
        self.at += length;
        self.left -= length as u64;
        piece.freeze()
    }
}

/// The bytes of a length that does not fit the second byte of a header.
fn extended(length: u8) -> usize {
    match length {
        126 => 2,
        127 => 8,
        _ => 0,
    }
}

fn control(what: What, payload: Bytes) -> Result<Message, Error> {
    Ok(match what {
        What::Ping => Message::Ping(payload),
        What::Pong | What::Data(_) => Message::Pong(payload),
        What::Close if payload.is_empty() => Message::Close(None),
        What::Close => {
            let &[high, low, ..] = &payload[..] else {
                return Err(ProtocolError::InvalidCloseSequence.into());
            };
            let code = CloseCode::from(u16::from_be_bytes([high, low]));
            if !code.is_allowed() {
                return Err(ProtocolError::InvalidCloseSequence.into());
            }
            let reason =
                Utf8Bytes::try_from(payload.slice(2..)).map_err(|e| Error::Utf8(e.to_string()))?;
            Message::Close(Some(CloseFrame { code, reason }))
        }
    })
}

impl Text {
    fn add(&mut self, piece: &[u8]) -> Result<(), Error> {
        self.length += piece.len() as u64;
        if self.kept.len() <= SHORT {
            let room = SHORT + 1 - self.kept.len();
            self.kept.extend(&piece[..piece.len().min(room)]);
        }
        let mut rest = piece;
        if !self.cut.is_empty() {
            // Byte by byte until the character is whole or wrong; it has four bytes at most.
            while let Some((byte, after)) = rest.split_first() {
                rest = after;
                self.cut.push(*byte);
                match std::str::from_utf8(&self.cut) {
                    Ok(_) => {
                        self.cut.clear();
                        break;
                    }
                    Err(error) if error.error_len().is_some() => return Err(not_text(&error)),
                    Err(_) => {}
                }
            }
        }
        match std::str::from_utf8(rest) {
            Ok(_) => Ok(()),
            Err(error) if error.error_len().is_some() => Err(not_text(&error)),
            Err(error) => {
                self.cut.extend(&rest[error.valid_up_to()..]);
                Ok(())
            }
        }
    }

    fn finish(self) -> Result<Utf8Bytes, Error> {
        if !self.cut.is_empty() {
            return Err(Error::Utf8("the text ends within a character".into()));
        }
        if self.length > SHORT as u64 {
            return Ok(Utf8Bytes::default());
        }
        Utf8Bytes::try_from(self.kept).map_err(|e| Error::Utf8(e.to_string()))
    }
}

fn not_text(error: &std::str::Utf8Error) -> Error {
    Error::Utf8(error.to_string())
}

/// XORs `data`, which begins at byte `at` of its frame's payload (RFC 6455 §5.3).
pub(super) fn apply_mask(data: &mut [u8], mask: [u8; 4], at: usize) {
    if mask == [0; 4] {
        return;
    }
    let mut mask = mask;
    mask.rotate_left(at % 4);
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut words = data.chunks_exact_mut(8);
    for word in &mut words {
        let masked = u64::from_ne_bytes((&*word).try_into().expect("eight bytes")) ^ wide;
        word.copy_from_slice(&masked.to_ne_bytes());
    }
    for (byte, key) in words.into_remainder().iter_mut().zip([a, b, c, d, a, b, c]) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;

    use super::super::fuzz::Reading;
    use super::*;

    fn frame(first: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
        let mut bytes = vec![first];
        let flag = if mask.is_some() { 0x80 } else { 0 };
        match payload.len() {
            length @ 0..=125 => bytes.push(flag | u8::try_from(length).unwrap()),
            length @ 126..=0xffff => {
                bytes.push(flag | 126);
                bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            length => {
                bytes.push(flag | 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        let mut payload = payload.to_vec();
        if let Some(mask) = mask {
            bytes.extend(mask);
            for (index, byte) in payload.iter_mut().enumerate() {
                *byte ^= mask[index % 4];
            }
        }
        bytes.extend(payload);
        bytes
    }

    fn read(bytes: &[u8], masked: bool, step: usize) -> Reading {
        super::super::fuzz::read(bytes.chunks(step), masked)
    }

    fn binary(data: &[u8]) -> Message {
        Message::Binary(data.to_vec().into())
    }

    #[test]
    fn messages_are_read_at_every_split() {
        let mask = Some([1, 2, 3, 4]);
        let bytes = [
            frame(0x81, b"pasten", mask),
            frame(0x82, &[7; 300], mask),
            frame(0x89, b"hi", mask),
            frame(0x82, b"", mask),
            frame(0x01, "h\u{fc}".as_bytes(), mask),
            frame(0x8a, b"", mask),
            frame(0x80, "\u{1f600}".as_bytes(), mask),
            frame(0x02, b"a", mask),
            frame(0x80, b"b", mask),
            frame(0x02, b"", mask),
            frame(0x80, b"", mask),
            frame(0x88, &[&1000_u16.to_be_bytes()[..], b"bye"].concat(), mask),
        ]
        .concat();
        let close = CloseFrame { code: CloseCode::Normal, reason: "bye".into() };
        let expected = vec![
            Message::Text("pasten".into()),
            binary(&[7; 300]),
            Message::Ping("hi".into()),
            binary(b""),
            Message::Pong("".into()),
            Message::Text("h\u{fc}\u{1f600}".into()),
            binary(b"ab"),
            binary(b""),
            Message::Close(Some(close)),
        ];
        for step in 1..bytes.len() {
            let (messages, error) = read(&bytes, true, step);
            assert!(error.is_none(), "{step}: {error:?}");
            assert_eq!(messages, expected, "{step}");
        }
    }

    /// A datagram is a message, however it is cut.
    #[test]
    fn whole_messages_are_read_at_every_split() {
        let mask = Some([1, 2, 3, 4]);
        let bytes = [
            frame(0x82, &[7; 300], mask),
            frame(0x82, b"", mask),
            frame(0x02, b"a", mask),
            frame(0x89, b"hi", mask),
            frame(0x00, b"", mask),
            frame(0x00, b"b", mask),
            frame(0x80, b"", mask),
            frame(0x02, b"", mask),
            frame(0x80, b"", mask),
            frame(0x02, b"", mask),
            frame(0x80, b"c", mask),
            frame(0x82, b"d", mask),
        ]
        .concat();
        let expected = vec![
            binary(&[7; 300]),
            binary(b""),
            Message::Ping("hi".into()),
            binary(b"ab"),
            binary(b""),
            binary(b"c"),
            binary(b"d"),
        ];
        for step in 1..bytes.len() {
            let (messages, error) = super::super::fuzz::read_whole(bytes.chunks(step), true);
            assert!(error.is_none(), "{step}: {error:?}");
            assert_eq!(messages, expected, "{step}");
        }
        for frames in [
            frame(0x82, &[7; 301], mask),
            [frame(0x02, &[7; 300], mask), frame(0x80, b"1", mask)].concat(),
        ] {
            let mut parser = Parser::new(true);
            parser.take_whole(300);
            let mut input = BytesMut::from(&frames[..]);
            let error = parser.next(&mut input).unwrap_err();
            assert!(matches!(error, Error::Capacity(_)), "{error:?}");
        }
    }

    /// rel:W16.
    #[test]
    fn broken_frames_are_refused_with_the_right_kind_of_error() {
        let long = vec![b'x'; 126];
        let protocol: Vec<(&str, Vec<u8>)> = vec![
            ("reserved bit", frame(0xc2, b"x", None)),
            ("reserved data", frame(0x83, b"", None)),
            ("reserved control", frame(0x8b, b"", None)),
            ("masked by the server", frame(0x82, b"x", Some([0; 4]))),
            ("fragmented ping", frame(0x09, b"", None)),
            ("long ping", frame(0x89, &long, None)),
            ("continuation of nothing", frame(0x80, b"x", None)),
            (
                "message within a message",
                [frame(0x02, b"x", None), frame(0x82, b"x", None)].concat(),
            ),
            ("close with one byte", frame(0x88, b"x", None)),
            ("close with a forbidden code", frame(0x88, &1005_u16.to_be_bytes(), None)),
            ("close with no code of anybody", frame(0x88, &999_u16.to_be_bytes(), None)),
        ];
        for (what, bytes) in protocol {
            for step in [1, bytes.len()] {
                let (_, error) = read(&bytes, false, step);
                assert!(matches!(error, Some(Error::Protocol(_))), "{what}: {error:?}");
            }
        }
        assert!(matches!(read(&frame(0x82, b"x", None), true, 1).1, Some(Error::Protocol(_))));
        let cut = [frame(0x01, &[0xf0, 0x9f], None), frame(0x80, b"", None)].concat();
        let reason = [&1000_u16.to_be_bytes()[..], &[0xff]].concat();
        for bytes in [frame(0x81, &[0xff], None), cut, frame(0x88, &reason, None)] {
            let (_, error) = read(&bytes, false, 1);
            assert!(matches!(error, Some(Error::Utf8(_))), "{error:?}");
        }
    }

    #[test]
    fn messages_beyond_the_limit_are_refused_by_their_header() {
        let header = |first: u8, length: usize| {
            let mut bytes = vec![first, 127];
            bytes.extend((length as u64).to_be_bytes());
            bytes
        };
        assert!(read(&header(0x82, MAX_DATA_MESSAGE), false, 1).1.is_none());
        for bytes in [
            header(0x82, MAX_DATA_MESSAGE + 1),
            header(0x82, usize::MAX),
            [frame(0x02, b"x", None), header(0x80, MAX_DATA_MESSAGE)].concat(),
        ] {
            let error = read(&bytes, false, 1).1;
            assert!(matches!(error, Some(Error::Capacity(_))), "{error:?}");
        }
        // A text of some length is checked, not kept.
        let text = frame(0x81, &[b'x'; 126], None);
        assert_eq!(read(&text, false, 50).0, [Message::Text("".into())]);
    }

    #[test]
    fn masking_is_its_own_inverse_from_any_offset() {
        let data: Vec<u8> = (0..100).collect();
        for at in 0..8 {
            for length in 0..30 {
                let mut masked = data[..length].to_vec();
                apply_mask(&mut masked, [9, 8, 7, 6], at);
                let key = |index: usize| [9, 8, 7, 6][(at + index) % 4];
                assert!(masked.iter().enumerate().all(|(i, byte)| *byte == data[i] ^ key(i)));
            }
        }
    }

    proptest! {
        /// Whatever comes, there is no panic, and the split does not matter.
        #[test]
        fn any_bytes_are_read_the_same_in_one_piece_and_in_many(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            step in 1_usize..20,
            masked in any::<bool>(),
        ) {
            let whole = read(&bytes, masked, bytes.len().max(1));
            let pieces = read(&bytes, masked, step);
            // But for the place in a text, which is counted from the piece's own start.
            let kind = |error: Error| match error {
                Error::Utf8(_) => "invalid UTF-8".to_owned(),
                other => other.to_string(),
            };
            prop_assert_eq!(whole.1.map(kind), pieces.1.map(kind));
            let total = |messages: &[Message]| messages.iter().map(Message::len).sum::<usize>();
            prop_assert!(total(&pieces.0) >= total(&whole.0));
        }

        /// What the well-known library writes is read.
        #[test]
        fn frames_of_tungstenite_are_read(data in proptest::collection::vec(any::<u8>(), 1..2_000), mask: Option<[u8; 4]>) {
            use tokio_tungstenite::tungstenite::protocol::frame::coding::OpCode;
            let mut header = FrameHeader { opcode: OpCode::Data(Data::Binary), ..FrameHeader::default() };
            header.mask = mask;
            let mut bytes = Vec::new();
            header.format(data.len() as u64, &mut bytes).unwrap();
            let mut payload = data.clone();
            apply_mask(&mut payload, mask.unwrap_or_default(), 0);
            bytes.extend(payload);
            let (messages, error) = read(&bytes, mask.is_some(), 700);
            prop_assert!(error.is_none());
            prop_assert_eq!(messages, vec![binary(&data)]);
        }
    }
}

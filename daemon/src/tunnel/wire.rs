//! Control messages: one BSON document for each binary message of a control websocket.
//!
//! Encoding is byte-exact (key order and int32 as NETunnel 1.0.13 writes them); decoding is tolerant
//! of order and integer width and strict in everything else. This module does no I/O.

use std::collections::HashSet;

use bson::RawBsonRef;
use bson::raw::{RawArray, RawDocument, RawDocumentBuf, cstr};

/// The largest control message: the known ones are under 200 bytes, and an error text is bounded too.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// How deep documents may be nested; the known messages use two levels.
const MAX_DEPTH: usize = 8;

/// Texts of the other side are cut to this many characters before they enter a reply or a log line.
const SHOWN_CHARS: usize = 64;

const NEW_CONNECTION: &str = "TUNNEL_SERVER_TO_CLIENT_NEW_CONNECTION";
const DELETE_TUNNEL: &str = "DELETE_TUNNEL";

/// What one control message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// A request of the other side, to be answered under the same number.
    Message {
        /// The sender's number for it.
        id: i64,
        /// What it asks, or why that cannot be told; the error's text is the answer.
        message: Result<Message, MessageError>,
    },
    /// The answer to a request of ours.
    Response {
        /// Our number of the request.
        id: i64,
        /// The other side's error text, if it refused.
        result: Result<(), String>,
    },
    /// A `_type` that is neither of the two; ignored, as NETunnel does.
    Other,
}

/// A request over the control channel, as the server sends it to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Open one more websocket for this reverse tunnel.
    NewConnection {
        /// The tunnel's number within the channel.
        tunnel_id: u64,
    },
    /// Stop this tunnel on your side.
    DeleteTunnel {
        /// The tunnel's number within the channel.
        tunnel_id: u64,
        /// Cut live connections instead of waiting for their end.
        force: bool,
    },
}

/// Why a request was not understood. The text is what goes into the error reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// A name under `__Messages__` that we don't know, or none.
    #[error("unknown message type `{0}`")]
    Unknown(String),
    /// `data` lacks this key or its value has the wrong type; the text is Python's KeyError.
    #[error("'{0}'")]
    Missing(&'static str),
}

/// Why a binary message is no control message; the channel ends with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Longer than [`MAX_MESSAGE_BYTES`].
    #[error("the message is larger than {MAX_MESSAGE_BYTES} bytes")]
    TooLarge,
    /// Nested deeper than eight documents.
    #[error("the message is nested deeper than {MAX_DEPTH} documents")]
    TooDeep,
    /// Not a BSON document, or one with a key twice.
    #[error("the message is not a BSON document with distinct keys")]
    Malformed,
    /// `_type` or `_identifier` is absent or has the wrong type.
    #[error("the message's {0} is missing or has the wrong type")]
    Field(&'static str),
}

/// The bytes of a request.
pub fn encode_message(id: i64, message: Message) -> Vec<u8> {
    let mut data = RawDocumentBuf::new();
    let name = match message {
        Message::NewConnection { tunnel_id } => {
            append_int(&mut data, "tunnel_id", from_id(tunnel_id));
            NEW_CONNECTION
        }
        Message::DeleteTunnel { tunnel_id, force } => {
            append_int(&mut data, "tunnel_id", from_id(tunnel_id));
            data.append(cstr!("force"), force);
            DELETE_TUNNEL
        }
    };
    let mut kind = RawDocumentBuf::new();
    kind.append(cstr!("__Messages__"), name);
    let mut document = RawDocumentBuf::new();
    document.append(cstr!("_type"), "message");
    append_int(&mut document, "_identifier", id);
    document.append(cstr!("message_type"), kind);
    document.append(cstr!("data"), data);
    document.into_bytes()
}

/// The bytes of a reply; `error` is what makes it a refusal.
pub fn encode_response(id: i64, error: Option<&str>) -> Vec<u8> {
    let mut document = RawDocumentBuf::new();
    document.append(cstr!("_type"), "response");
    append_int(&mut document, "_identifier", id);
    document.append(cstr!("data"), RawDocumentBuf::new());
    if let Some(error) = error {
        document.append(cstr!("error"), error);
    }
    document.into_bytes()
}

/// Reads one control message.
///
/// # Errors
/// A [`DecodeError`] for whatever is no control message at all. A well-formed request that we don't
/// understand is a [`Packet::Message`] with an error, which gets an error reply.
pub fn decode(bytes: &[u8]) -> Result<Packet, DecodeError> {
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(DecodeError::TooLarge);
    }
    let document = RawDocument::from_bytes(bytes).map_err(|_| DecodeError::Malformed)?;
    check_document(document, 1)?;
    let kind = get(document, "_type").and_then(RawBsonRef::as_str);
    let kind = kind.ok_or(DecodeError::Field("_type"))?;
    let id = get(document, "_identifier").and_then(integer);
    let id = id.ok_or(DecodeError::Field("_identifier"))?;
    Ok(match kind {
        "message" => Packet::Message { id, message: read_message(document) },
        "response" => Packet::Response { id, result: read_result(document) },
        _ => Packet::Other,
    })
}

fn read_message(document: &RawDocument) -> Result<Message, MessageError> {
    let name = get(document, "message_type")
        .and_then(RawBsonRef::as_document)
        .and_then(|kind| get(kind, "__Messages__"))
        .and_then(RawBsonRef::as_str);
    let data = get(document, "data").and_then(RawBsonRef::as_document);
    let field =
        |key: &'static str| data.and_then(|data| get(data, key)).ok_or(MessageError::Missing(key));
    let tunnel_id = || {
        let id = field("tunnel_id").map(integer)?;
        id.and_then(|id| u64::try_from(id).ok()).ok_or(MessageError::Missing("tunnel_id"))
    };
    match name {
        Some(NEW_CONNECTION) => Ok(Message::NewConnection { tunnel_id: tunnel_id()? }),
        Some(DELETE_TUNNEL) => Ok(Message::DeleteTunnel {
            tunnel_id: tunnel_id()?,
            force: field("force")?.as_bool().ok_or(MessageError::Missing("force"))?,
        }),
        other => Err(MessageError::Unknown(shown(other.unwrap_or_default()))),
    }
}

fn read_result(document: &RawDocument) -> Result<(), String> {
    // Success is defined as "no `error`"; Python's None says the same.
    match get(document, "error") {
        None | Some(RawBsonRef::Null) => Ok(()),
        Some(RawBsonRef::String(text)) => Err(shown(text)),
        Some(_) => Err("an error without a text".into()),
    }
}

/// Checks the whole document before a value is used: lazily parsed BSON would fail halfway through.
fn check_document(document: &RawDocument, depth: usize) -> Result<(), DecodeError> {
    if depth > MAX_DEPTH {
        return Err(DecodeError::TooDeep);
    }
    let mut keys = HashSet::new();
    for element in document.iter() {
        let (key, value) = element.map_err(|_| DecodeError::Malformed)?;
        if !keys.insert(key.as_str()) {
            return Err(DecodeError::Malformed);
        }
        check_value(value, depth)?;
    }
    Ok(())
}

fn check_array(array: &RawArray, depth: usize) -> Result<(), DecodeError> {
    if depth > MAX_DEPTH {
        return Err(DecodeError::TooDeep);
    }
    for value in array {
        check_value(value.map_err(|_| DecodeError::Malformed)?, depth)?;
    }
    Ok(())
}

fn check_value(value: RawBsonRef<'_>, depth: usize) -> Result<(), DecodeError> {
    match value {
        RawBsonRef::Document(inner) => check_document(inner, depth + 1),
        RawBsonRef::Array(inner) => check_array(inner, depth + 1),
        RawBsonRef::JavaScriptCodeWithScope(code) => check_document(code.scope, depth + 1),
        _ => Ok(()),
    }
}

fn get<'d>(document: &'d RawDocument, key: &str) -> Option<RawBsonRef<'d>> {
    document.get(key).ok().flatten()
}

fn integer(value: RawBsonRef<'_>) -> Option<i64> {
    match value {
        RawBsonRef::Int32(number) => Some(number.into()),
        RawBsonRef::Int64(number) => Some(number),
        _ => None,
    }
}

/// Tunnel numbers count from 1 within a channel, so they fit.
fn from_id(id: u64) -> i64 {
    i64::try_from(id).unwrap_or(i64::MAX)
}

/// int32 wherever the value fits, as PyMongo's bson writes it.
fn append_int(document: &mut RawDocumentBuf, key: &'static str, value: i64) {
    let key: &bson::raw::CStr = key.try_into().expect("our keys have no NUL");
    match i32::try_from(value) {
        Ok(small) => document.append(key, small),
        Err(_) => document.append(key, value),
    }
}

/// Untrusted text for a reply or a log line: escaped and cut.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(SHOWN_CHARS).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;

    const H1: &str = "8f000000025f7479706500080000006d65737361676500105f6964656e7469666965720001000000036d6573736167655f74797065003e000000025f5f4d657373616765735f5f002700000054554e4e454c5f5345525645525f544f5f434c49454e545f4e45575f434f4e4e454354494f4e0000036461746100140000001074756e6e656c5f696400010000000000";
    const H2: &str = "7e000000025f7479706500080000006d65737361676500105f6964656e7469666965720007000000036d6573736167655f747970650025000000025f5f4d657373616765735f5f000e00000044454c4554455f54554e4e454c00000364617461001c0000001074756e6e656c5f6964000200000008666f72636500010000";
    const H3: &str = "35000000025f747970650009000000726573706f6e736500105f6964656e7469666965720007000000036461746100050000000000";
    const H4: &str = "6f000000025f747970650009000000726573706f6e736500105f6964656e74696669657200010000000364617461000500000000026572726f72002f00000074756e6e656c5f69642060356020697320 6e6f742072656769737465726564206f6e207468697320636c69656e740000";

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
        let byte =
            |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    }

    /// nt:A17, H1 to H4 byte for byte.
    #[test]
    fn the_worked_examples_are_written_and_read_exactly() {
        let h1 = Message::NewConnection { tunnel_id: 1 };
        let h2 = Message::DeleteTunnel { tunnel_id: 2, force: true };
        let h4 = "tunnel_id `5` is not registered on this client";
        assert_eq!(encode_message(1, h1), bytes(H1));
        assert_eq!(encode_message(7, h2), bytes(H2));
        assert_eq!(encode_response(7, None), bytes(H3));
        assert_eq!(encode_response(1, Some(h4)), bytes(H4));
        assert_eq!(decode(&bytes(H1)), Ok(Packet::Message { id: 1, message: Ok(h1) }));
        assert_eq!(decode(&bytes(H2)), Ok(Packet::Message { id: 7, message: Ok(h2) }));
        assert_eq!(decode(&bytes(H3)), Ok(Packet::Response { id: 7, result: Ok(()) }));
        assert_eq!(decode(&bytes(H4)), Ok(Packet::Response { id: 1, result: Err(h4.into()) }));
    }

    /// nt:A15, nt:A17: any key order, either integer width.
    #[test]
    fn key_order_and_integer_width_are_free() {
        let document = rawdoc! {
            "data": { "force": false, "tunnel_id": 3_i64 },
            "message_type": { "__Messages__": "DELETE_TUNNEL" },
            "_identifier": 5_i64,
            "_type": "message",
        };
        let message = Ok(Message::DeleteTunnel { tunnel_id: 3, force: false });
        assert_eq!(decode(document.as_bytes()), Ok(Packet::Message { id: 5, message }));
    }

    #[test]
    fn numbers_beyond_int32_are_written_as_int64() {
        let encoded = encode_response(1 << 40, None);
        assert_eq!(decode(&encoded), Ok(Packet::Response { id: 1 << 40, result: Ok(()) }));
    }

    #[test]
    fn requests_that_are_not_understood_carry_the_reply() {
        let unknown = rawdoc! {
            "_type": "message", "_identifier": 9, "data": {},
            "message_type": { "__Messages__": "MAKE_COFFEE\n" },
        };
        let Ok(Packet::Message { id: 9, message: Err(error) }) = decode(unknown.as_bytes()) else {
            panic!("an unknown request is still a request");
        };
        assert_eq!(error.to_string(), "unknown message type `MAKE_COFFEE\\n`");
        let incomplete = rawdoc! {
            "_type": "message", "_identifier": 9, "data": { "tunnel_id": -1 },
            "message_type": { "__Messages__": "DELETE_TUNNEL" },
        };
        assert_eq!(
            decode(incomplete.as_bytes()),
            Ok(Packet::Message { id: 9, message: Err(MessageError::Missing("tunnel_id")) })
        );
    }

    #[test]
    fn an_unknown_type_is_no_error() {
        let document = rawdoc! { "_type": "gossip", "_identifier": 1 };
        assert_eq!(decode(document.as_bytes()), Ok(Packet::Other));
    }

    #[test]
    fn what_is_no_control_message_is_refused() {
        assert_eq!(decode(b""), Err(DecodeError::Malformed));
        assert_eq!(decode(b"\x05\0\0\0\0garbage"), Err(DecodeError::Malformed));
        assert_eq!(decode(&vec![0; MAX_MESSAGE_BYTES + 1]), Err(DecodeError::TooLarge));
        let no_type = rawdoc! { "_identifier": 1 };
        assert_eq!(decode(no_type.as_bytes()), Err(DecodeError::Field("_type")));
        let no_id = rawdoc! { "_type": "message", "_identifier": bson::RawBson::Null };
        assert_eq!(decode(no_id.as_bytes()), Err(DecodeError::Field("_identifier")));
        let mut twice = RawDocumentBuf::new();
        twice.append(cstr!("_type"), "message");
        twice.append(cstr!("_type"), "response");
        assert_eq!(decode(twice.as_bytes()), Err(DecodeError::Malformed));
        // An inner document that claims more bytes than there are: `data` of H1 is its last 21 bytes, of which the
        // first is the lowest of its length.
        let mut cut = bytes(H1);
        let at = cut.len() - 21;
        assert_eq!(cut[at], 20);
        cut[at] = 0x7f;
        assert!(decode(&cut).is_err());
    }

    #[test]
    fn nesting_is_limited_to_eight_documents() {
        let nested = |levels: usize| {
            let mut inner = RawDocumentBuf::new();
            for _ in 1..levels {
                let mut outer = RawDocumentBuf::new();
                outer.append(cstr!("d"), inner);
                inner = outer;
            }
            let mut top = rawdoc! { "_type": "response", "_identifier": 1 };
            top.append(cstr!("data"), inner);
            top
        };
        assert!(decode(nested(MAX_DEPTH - 1).as_bytes()).is_ok());
        assert_eq!(decode(nested(MAX_DEPTH).as_bytes()), Err(DecodeError::TooDeep));
        assert_eq!(decode(nested(5_000).as_bytes()), Err(DecodeError::TooDeep));
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn a_damaged_message_never_panics(at in 0_usize..126, byte: u8) {
            let mut message = bytes(H2);
            message[at] = byte;
            let _ = decode(&message);
        }
    }
}

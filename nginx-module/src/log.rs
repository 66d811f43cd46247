//! Lines of nginx's error log. None holds a token, a key or a signature.

use std::fmt::Write;

/// nginx's levels (`ngx_log.h`), those that this module uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Emerg = 1,
    Error = 4,
    Warn = 5,
    Notice = 6,
    Info = 7,
}

/// Text from outside as it may stand in a log line: printable, no quotes, at most 64 bytes.
pub(crate) fn escape(text: &str) -> String {
    const MOST: usize = 64;
    let mut out = String::new();
    for character in text.chars() {
        let mut piece = String::new();
        match character {
            '"' | '\\' => piece.extend(['\\', character]),
            ' '..='~' => piece.push(character),
            _ => {
                let _ = write!(piece, "\\u{{{:x}}}", u32::from(character));
            }
        }
        if out.len() + piece.len() > MOST {
            out.push_str("...");
            break;
        }
        out.push_str(&piece);
    }
    out
}

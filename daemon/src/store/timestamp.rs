//! Times in the database: naive UTC text, always `YYYY-MM-DD HH:MM:SS.ffffff`.
//!
//! The width is fixed, so the text sorts as the time does.

use std::time::SystemTime;

use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

const FORMAT: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:6]");

pub(super) fn format(time: SystemTime) -> String {
    OffsetDateTime::from(time).format(FORMAT).expect("years up to 9999 have this form")
}

pub(super) fn parse(text: &str) -> Option<SystemTime> {
    PrimitiveDateTime::parse(text, FORMAT).ok().map(|time| time.assume_utc().into())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn t40_the_text_form_is_the_originals() {
        let time = UNIX_EPOCH + Duration::new(1_700_000_000, 1_234_000);
        assert_eq!(format(time), "2023-11-14 22:13:20.001234");
        assert_eq!(parse("2023-11-14 22:13:20.001234"), Some(time));
        assert_eq!(format(UNIX_EPOCH), "1970-01-01 00:00:00.000000");
        for text in ["", "2023-11-14", "2023-11-14T22:13:20.001234", "2023-13-14 22:13:20.001234"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}

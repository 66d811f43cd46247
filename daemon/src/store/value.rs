//! Times and identifiers as both engines have them: text in SQLite, where the original writes text, and
//! types of their own in PostgreSQL.

use std::time::SystemTime;

use serde::Serialize;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgTypeInfo, PgValueRef};
use sqlx::sqlite::{SqliteArgumentsBuffer, SqliteTypeInfo, SqliteValueRef};
use sqlx::{Decode, Encode, Postgres, Sqlite, Type};
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};
use uuid::Uuid;

/// In SQLite always `YYYY-MM-DD HH:MM:SS.ffffff`: the width is fixed, so the text sorts as the time does.
const FORMAT: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:6]");

/// Several values as one parameter of SQLite's, for `json_each`.
pub(super) fn json(values: &impl Serialize) -> Result<String, sqlx::Error> {
    serde_json::to_string(values).map_err(|error| sqlx::Error::Encode(error.into()))
}

/// A time, stored as naive UTC in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Time(pub(super) SystemTime);

/// A UUID; in SQLite 32 hex digits in lower case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Id(pub(super) Uuid);

impl Time {
    fn naive(self) -> PrimitiveDateTime {
        let time = OffsetDateTime::from(self.0);
        PrimitiveDateTime::new(time.date(), time.time())
    }

    pub(super) fn text(self) -> String {
        self.naive().format(FORMAT).expect("years up to 9999 have this form")
    }

    fn parse(text: &str) -> Option<Self> {
        let time = PrimitiveDateTime::parse(text, FORMAT).ok()?;
        Some(Self(time.assume_utc().into()))
    }
}

impl Type<Sqlite> for Time {
    fn type_info() -> SqliteTypeInfo {
        <String as Type<Sqlite>>::type_info()
    }

    // The original declares DATETIME; what is in the column is text.
    fn compatible(_: &SqliteTypeInfo) -> bool {
        true
    }
}

impl Encode<'_, Sqlite> for Time {
    fn encode_by_ref(&self, arguments: &mut SqliteArgumentsBuffer) -> Result<IsNull, BoxDynError> {
        Encode::<Sqlite>::encode(self.text(), arguments)
    }
}

impl<'r> Decode<'r, Sqlite> for Time {
    fn decode(value: SqliteValueRef<'r>) -> Result<Self, BoxDynError> {
        let text = <&str as Decode<Sqlite>>::decode(value)?;
        Self::parse(text).ok_or_else(|| "a time is not YYYY-MM-DD HH:MM:SS.ffffff".into())
    }
}

impl Type<Postgres> for Time {
    fn type_info() -> PgTypeInfo {
        <PrimitiveDateTime as Type<Postgres>>::type_info()
    }
}

impl Encode<'_, Postgres> for Time {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        Encode::<Postgres>::encode(self.naive(), buffer)
    }
}

impl<'r> Decode<'r, Postgres> for Time {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        let time = <PrimitiveDateTime as Decode<Postgres>>::decode(value)?;
        Ok(Self(time.assume_utc().into()))
    }
}

impl Type<Sqlite> for Id {
    fn type_info() -> SqliteTypeInfo {
        <String as Type<Sqlite>>::type_info()
    }

    fn compatible(_: &SqliteTypeInfo) -> bool {
        true
    }
}

impl Encode<'_, Sqlite> for Id {
    fn encode_by_ref(&self, arguments: &mut SqliteArgumentsBuffer) -> Result<IsNull, BoxDynError> {
        Encode::<Sqlite>::encode(self.0.simple().to_string(), arguments)
    }
}

impl<'r> Decode<'r, Sqlite> for Id {
    fn decode(value: SqliteValueRef<'r>) -> Result<Self, BoxDynError> {
        Ok(Self(Uuid::try_parse(<&str as Decode<Sqlite>>::decode(value)?)?))
    }
}

impl Type<Postgres> for Id {
    fn type_info() -> PgTypeInfo {
        <Uuid as Type<Postgres>>::type_info()
    }
}

impl Encode<'_, Postgres> for Id {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        Encode::<Postgres>::encode(self.0, buffer)
    }
}

impl<'r> Decode<'r, Postgres> for Id {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        <Uuid as Decode<Postgres>>::decode(value).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn t40_the_text_form_is_the_originals() {
        let time = Time(UNIX_EPOCH + Duration::new(1_700_000_000, 1_234_000));
        assert_eq!(time.text(), "2023-11-14 22:13:20.001234");
        assert_eq!(Time::parse("2023-11-14 22:13:20.001234"), Some(time));
        assert_eq!(Time(UNIX_EPOCH).text(), "1970-01-01 00:00:00.000000");
        for text in ["", "2023-11-14", "2023-11-14T22:13:20.001234", "2023-13-14 22:13:20.001234"] {
            assert_eq!(Time::parse(text), None, "{text}");
        }
    }
}

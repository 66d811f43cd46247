//! Reads request bodies: bounded in size and time, then JSON with exactly the expected fields.

use std::collections::BTreeMap;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, header};
use http_body_util::BodyExt;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::App;
use super::answer::ApiError;
use crate::secret::Secret;

/// How much of a body that is too long is read and dropped, as a multiple of the limit: a client that
/// sends all of it before it reads would otherwise find a reset instead of the answer.
const DISCARD: u64 = 8;

/// Reads the body of `request`, which must be a JSON object.
pub(super) async fn read(app: &App, request: Request<Body>) -> Result<Fields, ApiError> {
    read_large(app, request, 0).await
}

/// As [`read`], for a body that may have `least` bytes whatever is configured.
pub(super) async fn read_large(
    app: &App,
    request: Request<Body>,
    least: u64,
) -> Result<Fields, ApiError> {
    let limit = app.settings.body_limit.0.max(least);
    let (headers, bytes) = read_bytes_within(app, request, limit).await?;
    if is_unicode(&headers) { Fields::parse(&bytes) } else { Err(ApiError::NotJson) }
}

/// Reads the body of `request`, whatever it is.
pub(super) async fn read_bytes(
    app: &App,
    request: Request<Body>,
) -> Result<(HeaderMap, Bytes), ApiError> {
    read_bytes_within(app, request, app.settings.body_limit.0).await
}

async fn read_bytes_within(
    app: &App,
    request: Request<Body>,
    limit: u64,
) -> Result<(HeaderMap, Bytes), ApiError> {
    let (parts, body) = request.into_parts();
    let reading = tokio::time::timeout(
        app.settings.body_timeout,
        collect(body, limit, declared_length(&parts.headers), expects_continue(&parts.headers)),
    );
    let bytes = reading.await.map_err(|_| ApiError::SlowBody)??;
    Ok((parts.headers, bytes))
}

async fn collect(
    mut body: Body,
    limit: u64,
    declared: Option<u64>,
    expects_continue: bool,
) -> Result<Bytes, ApiError> {
    // The client waits for our word before it sends, so it is spared the sending.
    if expects_continue && declared.is_some_and(|length| length > limit) {
        return Err(ApiError::TooLarge(limit));
    }
    let mut collected = Vec::new();
    let mut length: u64 = 0;
    while let Some(frame) = body.frame().await {
        // A connection that breaks here has nobody to answer.
        let frame = frame.map_err(|_| ApiError::NotJson)?;
        let Ok(data) = frame.into_data() else { continue };
        length = length.saturating_add(data.len() as u64);
        if length <= limit {
            collected.extend_from_slice(&data);
        } else {
            collected = Vec::new();
            if length > limit.saturating_mul(DISCARD) {
                break;
            }
        }
    }
    if length > limit { Err(ApiError::TooLarge(limit)) } else { Ok(collected.into()) }
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn expects_continue(headers: &HeaderMap) -> bool {
    headers.get(header::EXPECT).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// The media type is not looked at, as in the original, but a foreign charset would make another key
/// of the same bytes.
fn is_unicode(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return true };
    let Ok(value) = value.to_str() else { return true };
    let charset = value.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"'))
    });
    charset.is_none_or(|name| {
        ["utf-8", "utf8", "us-ascii", "ascii"].iter().any(|known| name.eq_ignore_ascii_case(known))
    })
}

/// The fields of a request, taken one by one; [`Fields::finish`] reports all that is wrong at once.
#[derive(Debug)]
pub(super) struct Fields {
    given: Map<String, Value>,
    errors: BTreeMap<String, &'static str>,
}

impl Fields {
    /// Duplicate names: the last one holds.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ApiError> {
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(given)) => Ok(Self { given, errors: BTreeMap::new() }),
            Ok(_) => Err(schema_error("Invalid input type.")),
            Err(_) => Err(ApiError::NotJson),
        }
    }

    /// A text; it is a credential on every route.
    pub(super) fn secret(&mut self, name: &'static str) -> Option<Secret> {
        match self.take(name)? {
            Value::String(text) => Some(Secret::new(text)),
            _ => self.refuse(name, "Not a valid string."),
        }
    }

    /// A text that is no secret, of a length that is stored.
    pub(super) fn text(&mut self, name: &'static str) -> Option<String> {
        match self.take(name)? {
            Value::String(text) if (1..=256).contains(&text.len()) && !text.contains('\0') => {
                Some(text)
            }
            _ => self.refuse(name, "Not a valid string."),
        }
    }

    /// Whether the field is there.
    pub(super) fn has(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// A UUID in one of the forms that the original takes.
    pub(super) fn uuid(&mut self, name: &'static str) -> Option<Uuid> {
        let value = self.take(name)?;
        match value.as_str().and_then(parse_uuid) {
            Some(uuid) => Some(uuid),
            None => self.refuse(name, "Not a valid UUID."),
        }
    }

    /// A whole number that is not negative; JSON knows no other kind of number, so it may be written `3.0`.
    pub(super) fn number(&mut self, name: &'static str) -> Option<i64> {
        let value = self.take(name)?;
        // Beyond 2^53 a fraction could be lost in the reading.
        let whole = |number: f64| number.fract() == 0.0 && number.abs() < 9e15;
        let written_long = || value.as_f64().filter(|&number| whole(number)).map(|n| n as i64);
        match value.as_i64().or_else(written_long) {
            Some(number) if number >= 0 => Some(number),
            _ => self.refuse(name, "Not a valid integer."),
        }
    }

    /// A switch.
    pub(super) fn flag(&mut self, name: &'static str) -> Option<bool> {
        match self.take(name)? {
            Value::Bool(flag) => Some(flag),
            _ => self.refuse(name, "Not a valid boolean."),
        }
    }

    /// A switch that may be left out, and is off then.
    pub(super) fn optional_flag(&mut self, name: &'static str) -> Option<bool> {
        if self.has(name) { self.flag(name) } else { Some(false) }
    }

    /// A list of at most `most` objects, each of which `read` takes the fields of. What is wrong with one of
    /// them is reported under its place, such as `keys.3.identifier`.
    pub(super) fn objects<T>(
        &mut self,
        name: &'static str,
        most: usize,
        read: impl Fn(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Value::Array(items) = self.take(name)? else {
            return self.refuse(name, "Not a valid list.");
        };
        if items.len() > most {
            return self.refuse(name, "Longer than maximum length.");
        }
        let mut all = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            let Value::Object(given) = item else {
                self.errors.insert(format!("{name}.{index}"), "Invalid input type.");
                continue;
            };
            let mut fields = Self { given, errors: BTreeMap::new() };
            let value = read(&mut fields);
            match fields.checked(value) {
                Ok(value) => all.push(value),
                Err(errors) => {
                    let placed = |(field, text)| (format!("{name}.{index}.{field}"), text);
                    self.errors.extend(errors.into_iter().map(placed));
                }
            }
        }
        Some(all)
    }

    /// Refuses whatever was not taken, and gives `fields` back if nothing was wrong.
    pub(super) fn finish<T>(self, fields: Option<T>) -> Result<T, ApiError> {
        self.checked(fields).map_err(ApiError::Fields)
    }

    fn checked<T>(mut self, fields: Option<T>) -> Result<T, BTreeMap<String, &'static str>> {
        for name in self.given.into_iter().map(|(name, _)| name) {
            self.errors.insert(name, "Unknown field.");
        }
        match fields {
            Some(fields) if self.errors.is_empty() => Ok(fields),
            _ => Err(self.errors),
        }
    }

    fn take(&mut self, name: &'static str) -> Option<Value> {
        match self.given.remove(name) {
            None => self.refuse(name, "Missing data for required field."),
            Some(Value::Null) => self.refuse(name, "Field may not be null."),
            Some(value) => Some(value),
        }
    }

    /// Reports what is wrong with a field.
    pub(super) fn refuse<T>(&mut self, name: &'static str, message: &'static str) -> Option<T> {
        self.errors.insert(name.into(), message);
        None
    }
}

fn schema_error(message: &'static str) -> ApiError {
    ApiError::Fields([("_schema".to_owned(), message)].into())
}

/// Hyphens may be anywhere, around them `urn:uuid:` and braces, in any case.
pub(super) fn parse_uuid(text: &str) -> Option<Uuid> {
    // The longest form that makes sense; no work for what a hostile client sends on top.
    if text.len() > 64 {
        return None;
    }
    let text = text.to_ascii_lowercase();
    let text = text.strip_prefix("urn:uuid:").unwrap_or(&text);
    let text = text.trim_matches(['{', '}']).replace('-', "");
    (text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit()))
        .then(|| u128::from_str_radix(&text, 16).ok().map(Uuid::from_u128))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t16_uuids_are_read_in_every_form_of_the_original() {
        let uuid = "00112233-4455-6677-8899-aabbccddeeff";
        let simple = uuid.replace('-', "");
        for text in [
            uuid.to_owned(),
            uuid.to_uppercase(),
            simple.clone(),
            format!("{{{uuid}}}"),
            format!("urn:uuid:{uuid}"),
            format!("URN:UUID:{}", uuid.to_uppercase()),
            "0-0112233445566778899aabbccddeef-f".to_owned(),
        ] {
            assert_eq!(parse_uuid(&text).map(|u| u.to_string()).as_deref(), Some(uuid), "{text}");
        }
        for text in ["", "x", &simple[1..], &format!("{simple}0"), &simple.replace('0', "g")] {
            assert_eq!(parse_uuid(text), None, "{text}");
        }
    }

    #[test]
    fn t22_only_a_foreign_charset_is_refused() {
        for (value, ok) in [
            ("text/plain", true),
            ("application/json; charset=UTF-8", true),
            ("application/json; x=y; Charset=\"utf-8\"", true),
            ("application/json; charset=utf-16", false),
            ("application/json; charset=bogus", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, value.parse().unwrap());
            assert_eq!(is_unicode(&headers), ok, "{value}");
        }
    }
}

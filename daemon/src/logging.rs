//! Log lines: one event each, as text or as a JSON object, on standard error.
//!
//! A line names an event, its outcome and the objects involved; text that came from outside is
//! escaped and cut. No key, token or refresh token is ever passed to a log call.

use std::fmt;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object for each line.
    Json,
}

impl LogFormat {
    /// Text on a terminal, JSON otherwise.
    pub fn detect() -> Self {
        if std::io::stderr().is_terminal() { Self::Text } else { Self::Json }
    }
}

/// Starts logging to standard error. `JWTUNNEL_LOG` chooses what is logged, in the notation of
/// `tracing_subscriber::EnvFilter`; `info` by default.
pub fn start(format: LogFormat) {
    let filter = EnvFilter::try_from_env("JWTUNNEL_LOG").unwrap_or_else(|_| {
        // sqlx logs each slow statement, and slow is what a locked database is.
        EnvFilter::new("info,sqlx=error")
    });
    let builder = tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter);
    // Fails only if a logger is there already, as in tests.
    let _ = match format {
        LogFormat::Text => builder.event_format(Lines { json: false }).try_init(),
        LogFormat::Json => builder.event_format(Lines { json: true }).try_init(),
    };
}

tokio::task_local! {
    /// Names the request that is being handled.
    static REQUEST: String;
}

/// Runs `work`, whose log lines all get the same random `rid`.
pub(crate) async fn with_request_id<T>(work: impl Future<Output = T>) -> T {
    let id = uuid::Uuid::new_v4().simple().to_string();
    REQUEST.scope(id[..12].to_owned(), work).await
}

struct Lines {
    json: bool,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let now = OffsetDateTime::now_utc();
        let ts = now.replace_nanosecond(now.microsecond() * 1_000).unwrap_or(now);
        let ts = ts.format(&Rfc3339).map_err(|_| fmt::Error)?;
        let level = level(*event.metadata().level());
        let mut fields = Fields(Map::new());
        event.record(&mut fields);
        let mut fields = fields.0;
        // Absent outside of a request.
        let _ = REQUEST.try_with(|id| fields.insert("rid".into(), id.as_str().into()));
        if self.json {
            write!(writer, "{{\"ts\":\"{ts}\",\"level\":\"{level}\"")?;
            for (name, value) in leading_first(&fields) {
                write!(writer, ",{}:{value}", Value::from(name.as_str()))?;
            }
            writer.write_str("}\n")
        } else {
            write!(writer, "{ts} {level:5}")?;
            for (name, value) in leading_first(&fields) {
                match value {
                    Value::String(text) if LEADING.contains(&name.as_str()) => {
                        write!(writer, " {text}")?;
                    }
                    _ => write!(writer, " {name}={value}")?,
                }
            }
            writer.write_char('\n')
        }
    }
}

/// What a line starts with, so that lines can be scanned by eye.
const LEADING: [&str; 2] = ["event", "outcome"];

fn leading_first(fields: &Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    let leading = LEADING.iter().filter_map(|name| fields.get_key_value(*name));
    leading.chain(fields.iter().filter(|(name, _)| !LEADING.contains(&name.as_str())))
}

fn level(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

struct Fields(Map<String, Value>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().into(), format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().into(), value.into());
    }
}

/// Text from outside, for a log line: control characters escaped, at most 64 bytes.
pub fn untrusted(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars().flat_map(char::escape_debug) {
        if shown.len() + c.len_utf8() > 64 {
            shown.push('…');
            break;
        }
        shown.push(c);
    }
    shown
}

/// Lets a repeated fault through once in ten seconds, with the number of times it was kept back.
#[derive(Debug, Default)]
pub struct Throttle(Mutex<(Option<Instant>, u64)>);

impl Throttle {
    const PERIOD: Duration = Duration::from_secs(10);

    /// Lets the first one through.
    pub fn new() -> Self {
        Self::default()
    }

    /// Calls `log` with the number of suppressed calls, or counts this one as suppressed.
    pub fn run(&self, log: impl FnOnce(u64)) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0.is_some_and(|last| last.elapsed() < Self::PERIOD) {
            state.1 += 1;
        } else {
            log(state.1);
            *state = (Some(Instant::now()), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn untrusted_text_is_escaped_and_cut() {
        assert_eq!(untrusted("a\nb\u{1b}[0m"), "a\\nb\\u{1b}[0m");
        assert_eq!(untrusted(&"x".repeat(64)), "x".repeat(64));
        assert_eq!(untrusted(&"x".repeat(65)), "x".repeat(64) + "…");
    }

    #[test]
    fn a_repeated_fault_is_logged_once() {
        let throttle = Throttle::new();
        let mut lines = Vec::new();
        for _ in 0..5 {
            throttle.run(|suppressed| lines.push(suppressed));
        }
        assert_eq!(lines, [0]);
    }
}

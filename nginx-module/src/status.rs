//! `auth_jwt_status`: what the module knows and has done, as JSON or in Prometheus's text format.
//!
//! Counters are those of all workers since nginx was started; key sets and the cache are those of the worker that
//! answers, which its process id names.

use std::fmt::Write;
use std::rc::Rc;

use jwt_core::JwkSet;

use crate::conf::MainConf;
use crate::error::Reason;
use crate::ffi::Counts;
use crate::key_source::KeySource;
use crate::watched_file::WatchedFile;

/// How the status is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StatusFormat {
    Json,
    Prometheus,
}

impl StatusFormat {
    pub(crate) fn from_name(name: &[u8]) -> Option<Self> {
        match name {
            b"json" => Some(Self::Json),
            b"prometheus" => Some(Self::Prometheus),
            _ => None,
        }
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// One key set or revocation list.
struct Source {
    kind: &'static str,
    name: String,
    generation: u64,
    entries: usize,
    kids: Vec<String>,
    loaded_at: i64,
    error: Option<String>,
}

impl Source {
    fn of_file(file: &WatchedFile) -> Self {
        let keys = file.keys();
        Self {
            kind: file.format().name(),
            name: file.path().display().to_string(),
            generation: file.generation(),
            entries: file.content().map_or(0, |content| content.len()),
            kids: keys.as_deref().map(kids).unwrap_or_default(),
            loaded_at: file.loaded_at(),
            error: file.last_error(),
        }
    }
}

fn kids(keys: &JwkSet) -> Vec<String> {
    keys.kids().map(str::to_owned).collect()
}

fn sources(main: &MainConf) -> Vec<Source> {
    let mut sources: Vec<Source> = main.files().iter().map(|file| Source::of_file(file)).collect();
    for source in &*main.sources.borrow() {
        match source {
            KeySource::File(_) => {}
            KeySource::FileByVariable(files) => {
                sources.extend(
                    files.files().iter().map(|file: &Rc<WatchedFile>| Source::of_file(file)),
                );
            }
            KeySource::Request(request) => {
                sources.extend(request.fetches().iter().map(|fetch| {
                    let keys = fetch.keys();
                    Source {
                        kind: "request",
                        name: String::from_utf8_lossy(fetch.uri()).into_owned(),
                        generation: fetch.generation(),
                        entries: keys.as_deref().map_or(0, JwkSet::len),
                        kids: keys.as_deref().map(kids).unwrap_or_default(),
                        loaded_at: fetch.loaded_at(),
                        error: fetch.last_error(),
                    }
                }));
            }
        }
    }
    sources
}

/// The status of the module, as the worker `pid` sees it.
pub(crate) fn render(main: &MainConf, format: StatusFormat, pid: u32) -> String {
    let counts = main.metrics.get().map(|metrics| metrics.counts()).unwrap_or_default();
    let (entries, bytes) = main.with_cache(|cache| (cache.len(), cache.bytes())).unwrap_or((0, 0));
    let cache = Cache { entries, bytes, limit: main.cache_limit() };
    match format {
        StatusFormat::Json => json(&counts, &cache, &sources(main), pid),
        StatusFormat::Prometheus => prometheus(&counts, &cache, &sources(main)),
    }
}

struct Cache {
    entries: usize,
    bytes: usize,
    limit: usize,
}

fn json(counts: &Counts, cache: &Cache, sources: &[Source], pid: u32) -> String {
    let refused = |values: &[u64]| {
        let members: Vec<String> = Reason::ALL
            .iter()
            .zip(values)
            .map(|(reason, count)| format!("\"{}\":{count}", reason.name()))
            .collect();
        format!("{{{}}}", members.join(","))
    };
    let sources: Vec<String> = sources
        .iter()
        .map(|source| {
            let kids: Vec<String> = source.kids.iter().map(|kid| quoted(kid)).collect();
            format!(
                "{{\"kind\":\"{}\",\"source\":{},\"generation\":{},\"entries\":{},\"kids\":[{}],\
                 \"loaded_at\":{},\"last_error\":{}}}",
                source.kind,
                quoted(&source.name),
                source.generation,
                source.entries,
                kids.join(","),
                if source.loaded_at == 0 {
                    "null".to_owned()
                } else {
                    source.loaded_at.to_string()
                },
                source.error.as_deref().map_or_else(|| "null".to_owned(), quoted),
            )
        })
        .collect();
    format!(
        "{{\"worker\":{pid},\"requests\":{{\"allowed\":{},\"denied\":{},\"would_deny\":{}}},\
         \"cache\":{{\"hits\":{},\"misses\":{},\"entries\":{},\"bytes\":{},\"limit\":{}}},\"sources\":[{}]}}\n",
        counts.allowed,
        refused(&counts.denied),
        refused(&counts.would_deny),
        counts.hits,
        counts.misses,
        cache.entries,
        cache.bytes,
        cache.limit,
        sources.join(",")
    )
}

/// RFC 8259 §7.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            character if character < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(character));
            }
            character => out.push(character),
        }
    }
    out.push('"');
    out
}

fn prometheus(counts: &Counts, cache: &Cache, sources: &[Source]) -> String {
    let mut out = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, samples: &[(String, String)]| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(out, "{name}{labels} {value}");
        }
    };
    let one = |value: u64| vec![(String::new(), value.to_string())];
    let by_reason = |values: &[u64]| -> Vec<(String, String)> {
        Reason::ALL
            .iter()
            .zip(values)
            .map(|(reason, count)| (format!("{{reason=\"{}\"}}", reason.name()), count.to_string()))
            .collect()
    };
    metric(
        "auth_jwt_requests_allowed_total",
        "counter",
        "Requests let through with a valid token.",
        &one(counts.allowed),
    );
    metric(
        "auth_jwt_requests_denied_total",
        "counter",
        "Requests refused, by reason.",
        &by_reason(&counts.denied),
    );
    metric(
        "auth_jwt_requests_would_deny_total",
        "counter",
        "Requests that a dry run would have refused, by reason.",
        &by_reason(&counts.would_deny),
    );
    metric(
        "auth_jwt_cache_hits_total",
        "counter",
        "Tokens whose signature had been checked before.",
        &one(counts.hits),
    );
    metric(
        "auth_jwt_cache_misses_total",
        "counter",
        "Tokens whose signature was checked.",
        &one(counts.misses),
    );
    metric(
        "auth_jwt_cache_entries",
        "gauge",
        "Verified tokens in the cache of the worker that answers.",
        &one(cache.entries as u64),
    );
    metric(
        "auth_jwt_cache_bytes",
        "gauge",
        "Bytes in the cache of the worker that answers.",
        &one(cache.bytes as u64),
    );
    let by_source = |value: &dyn Fn(&Source) -> String| -> Vec<(String, String)> {
        sources
            .iter()
            .map(|source| {
                let labels = format!("{{kind=\"{}\",source={}}}", source.kind, label(&source.name));
                (labels, value(source))
            })
            .collect()
    };
    metric(
        "auth_jwt_source_generation",
        "gauge",
        "Good versions of a key set or revocation file that this worker has loaded.",
        &by_source(&|source| source.generation.to_string()),
    );
    metric(
        "auth_jwt_source_entries",
        "gauge",
        "Usable keys, or revoked values, of the version in use.",
        &by_source(&|source| source.entries.to_string()),
    );
    metric(
        "auth_jwt_source_loaded_timestamp_seconds",
        "gauge",
        "When the version in use was loaded, in Unix seconds; 0 if there is none.",
        &by_source(&|source| source.loaded_at.to_string()),
    );
    metric(
        "auth_jwt_source_refused",
        "gauge",
        "1 while the newest version can't be used.",
        &by_source(&|source| u8::from(source.error.is_some()).to_string()),
    );
    out
}

/// A label's value: backslash, quote and line feed are escaped.
fn label(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

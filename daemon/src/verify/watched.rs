//! A document that others replace while we serve: a file, or what a URL leads to. What is in force is its last good
//! version; a bad one changes nothing and is told once.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use reqwest::header::{ETAG, HeaderValue, IF_NONE_MATCH};
use reqwest::{StatusCode, Url};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use crate::client::causes;
use crate::pause::random_up_to;

/// How often to look at a file, as nginx does.
const FILE: Duration = Duration::from_secs(1);

/// How often to ask a URL: new keys are announced for longer than that before they sign.
const URL: Duration = Duration::from_secs(240);

/// How soon at the earliest to ask a URL again: after a fault, and for one key that is not known after another. Whoever
/// invents keys must not make us ask at every request.
const URL_AGAIN: Duration = Duration::from_secs(10);

/// Time for an answer of a URL.
const ANSWER: Duration = Duration::from_secs(10);

/// Where a document is.
#[derive(Clone, Debug)]
pub(super) enum Source {
    File(PathBuf),
    Url(Url, reqwest::Client),
}

/// How a document is read.
#[derive(Debug)]
pub(super) struct Format<T> {
    /// Its name in log lines.
    pub(super) name: &'static str,
    pub(super) limit: usize,
    pub(super) parse: fn(&[u8]) -> Result<T, String>,
}

/// A document and its last good version.
#[derive(Debug)]
pub(super) struct Watched<T> {
    source: Source,
    format: Format<T>,
    good: ArcSwapOption<T>,
    /// Whether the newest version could not be used.
    stale: AtomicBool,
    /// Held while somebody looks.
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    version: Option<Version>,
    looked: Option<Instant>,
    /// When a look was brought forward.
    hurried: Option<Instant>,
    fault: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Version {
    /// Device, inode, size, and when it was changed.
    File(u64, u64, u64, (i64, i64)),
    Tagged(HeaderValue),
}

/// What a look has found.
enum Found<T> {
    /// The version that was seen last, good or bad.
    Same,
    /// The version that is in force.
    StillGood,
    New(T, Option<Version>),
}

/// Why there is no new version, and which one it is about.
struct Fault(String, Option<Version>);

impl<T: Send + Sync + 'static> Watched<T> {
    pub(super) fn new(source: Source, format: Format<T>) -> Arc<Self> {
        let (good, stale) = (ArcSwapOption::empty(), AtomicBool::new(false));
        Arc::new(Self { source, format, good, stale, seen: Mutex::default() })
    }

    /// The last good version, if there ever was one.
    pub(super) fn good(&self) -> Option<Arc<T>> {
        self.good.load_full()
    }

    /// Whether there is a newer version than the good one, which could not be used.
    pub(super) fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Relaxed)
    }

    /// Looks for a new version.
    ///
    /// # Errors
    /// What is wrong with it, or with its source.
    pub(super) async fn look(&self) -> Result<(), String> {
        let mut seen = self.seen.lock().await;
        self.look_with(&mut seen).await
    }

    /// Looks because something is not in the present version; now and then only, as anybody can ask for what is in no
    /// version.
    pub(super) async fn look_again(&self) {
        let asked = Instant::now();
        let mut seen = self.seen.lock().await;
        let pace = match self.source {
            Source::File(_) => FILE,
            Source::Url(..) => URL_AGAIN,
        };
        // Somebody may have looked while this one waited.
        if seen.looked.is_some_and(|looked| looked >= asked)
            || seen.hurried.is_some_and(|hurried| hurried.elapsed() < pace)
        {
            return;
        }
        seen.hurried = Some(asked);
        let _ = self.look_with(&mut seen).await;
    }

    /// Follows the source for ever.
    pub(super) async fn follow(self: Arc<Self>) {
        loop {
            let pause = match self.source {
                Source::File(_) => FILE,
                // Not together with all other services that were started with this one.
                Source::Url(..) if self.is_stale() => URL_AGAIN + random_up_to(URL_AGAIN * 2),
                Source::Url(..) => URL - random_up_to(URL / 10),
            };
            sleep(pause).await;
            let _ = self.look().await;
        }
    }

    async fn look_with(&self, seen: &mut Seen) -> Result<(), String> {
        let found = match &self.source {
            Source::File(path) => self.read(path, seen.version.clone()).await,
            Source::Url(url, http) => self.fetch(url, http, seen.version.clone()).await,
        };
        seen.looked = Some(Instant::now());
        match found {
            // As good or as bad as before.
            Ok(Found::Same) => seen.fault.clone().map_or(Ok(()), Err),
            Ok(Found::StillGood) => {
                self.becomes_good(seen);
                Ok(())
            }
            Ok(Found::New(document, version)) => {
                self.good.store(Some(Arc::new(document)));
                seen.version = version;
                self.becomes_good(seen);
                Ok(())
            }
            Err(Fault(text, version)) => {
                let text = format!("{}: {text}", self.source);
                if seen.fault.as_ref() != Some(&text) {
                    let kept = self.good().is_some();
                    tracing::error!(
                        document = self.format.name,
                        cause = text,
                        kept,
                        "it cannot be used"
                    );
                }
                seen.version = version;
                seen.fault = Some(text.clone());
                self.stale.store(true, Ordering::Relaxed);
                Err(text)
            }
        }
    }

    fn becomes_good(&self, seen: &mut Seen) {
        if seen.fault.take().is_some() {
            tracing::info!(document = self.format.name, source = %self.source, "it is good again");
        }
        self.stale.store(false, Ordering::Relaxed);
    }

    async fn read(&self, path: &Path, seen: Option<Version>) -> Result<Found<T>, Fault> {
        let (path, limit, parse) = (path.to_owned(), self.format.limit, self.format.parse);
        let read = tokio::task::spawn_blocking(move || {
            let (file, version) = open(&path).map_err(|error| Fault(error.to_string(), None))?;
            if seen.as_ref() == Some(&version) {
                return Ok(Found::Same);
            }
            let fault = |text| Fault(text, Some(version.clone()));
            let mut bytes = Vec::new();
            // One more than what may be: the parser then says that it is too large.
            file.take(limit as u64 + 1)
                .read_to_end(&mut bytes)
                .map_err(|error| fault(error.to_string()))?;
            let document = parse(&bytes).map_err(fault)?;
            Ok(Found::New(document, Some(version.clone())))
        });
        read.await.unwrap_or_else(|error| Err(Fault(error.to_string(), None)))
    }

    async fn fetch(
        &self,
        url: &Url,
        http: &reqwest::Client,
        seen: Option<Version>,
    ) -> Result<Found<T>, Fault> {
        let failed = |error: reqwest::Error| Fault(causes(&error.without_url()), seen.clone());
        let mut request = http.get(url.clone()).timeout(ANSWER);
        if let Some(Version::Tagged(tag)) = &seen {
            request = request.header(IF_NONE_MATCH, tag);
        }
        let mut response = request.send().await.map_err(failed)?;
        match response.status() {
            StatusCode::OK => {}
            // Only a good version's tag is kept, and sent.
            StatusCode::NOT_MODIFIED if seen.is_some() => return Ok(Found::StillGood),
            status => return Err(Fault(format!("it answers {status}"), seen)),
        }
        let version = response.headers().get(ETAG).cloned().map(Version::Tagged);
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > self.format.limit {
                break;
            }
        }
        let parse = self.format.parse;
        let parsed = tokio::task::spawn_blocking(move || parse(&bytes)).await;
        match parsed.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(document) => Ok(Found::New(document, version)),
            Err(text) => Err(Fault(text, None)),
        }
    }
}

fn open(path: &Path) -> io::Result<(File, Version)> {
    // Before it is opened: a FIFO would wait for a writer.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let file = File::open(path)?;
    let version = version(&file.metadata()?);
    Ok((file, version))
}

fn version(of: &Metadata) -> Version {
    Version::File(of.dev(), of.ino(), of.size(), (of.mtime(), of.mtime_nsec()))
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Url(url, _) => url.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use axum::Router;
    use axum::http::HeaderMap;
    use axum::response::IntoResponse as _;

    use super::*;

    const TEXT: Format<String> = Format {
        name: "text",
        limit: 8,
        parse: |bytes| match bytes {
            b"bad" => Err("it is bad".into()),
            bytes if bytes.len() > 8 => Err("it is too large".into()),
            bytes => Ok(String::from_utf8_lossy(bytes).into_owned()),
        },
    };

    fn good(document: &Watched<String>) -> Option<String> {
        document.good().map(|text| (*text).clone())
    }

    /// rel:K2, rel:K10.
    #[tokio::test]
    async fn the_last_good_version_of_a_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let document = Watched::new(Source::File(path.clone()), TEXT);
        assert!(document.look().await.unwrap_err().contains(path.to_str().unwrap()));
        assert_eq!((good(&document), document.is_stale()), (None, true));
        for (text, expected, stale) in [
            ("one", "one", false),
            ("one", "one", false),
            ("bad", "one", true),
            ("bad", "one", true),
            ("far too long", "one", true),
            ("two", "two", false),
        ] {
            crate::atomic_file::replace(&path, text.as_bytes(), 0o644).unwrap();
            assert_eq!(document.look().await.is_err(), stale, "{text}");
            // The same version again is as good or bad as it was.
            assert_eq!(document.look().await.is_err(), stale, "{text}");
            assert_eq!((good(&document).unwrap().as_str(), document.is_stale()), (expected, stale));
        }
        std::fs::remove_file(&path).unwrap();
        document.look().await.unwrap_err();
        std::fs::create_dir(&path).unwrap();
        assert!(document.look().await.unwrap_err().contains("no regular file"));
        assert_eq!((good(&document).unwrap().as_str(), document.is_stale()), ("two", true));
    }

    #[tokio::test]
    async fn a_url_is_asked_for_what_is_new_and_its_last_good_version_stays() {
        // What the server has now: status, tag, text.
        let now = Arc::new(Mutex::new((200_u16, "\"1\"", "one".to_owned())));
        let served = now.clone();
        let answer = move |headers: HeaderMap| {
            let (status, tag, text) = served.lock().unwrap().clone();
            let same = headers.get(IF_NONE_MATCH).is_some_and(|sent| sent == tag);
            let status = if same && status == 200 { 304 } else { status };
            let body = if same { String::new() } else { text };
            std::future::ready(
                (StatusCode::from_u16(status).unwrap(), [(ETAG, tag)], body).into_response(),
            )
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async move {
            axum::serve(listener, Router::new().route("/jwks", axum::routing::get(answer))).await
        });
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let document = Watched::new(Source::Url(url, http), TEXT);
        for (status, tag, text, expected, stale) in [
            (200, "\"1\"", "one", "one", false),
            // 304: the text of this answer is never read.
            (200, "\"1\"", "bad", "one", false),
            (500, "\"1\"", "", "one", true),
            (200, "\"1\"", "bad", "one", false),
            (200, "\"2\"", "bad", "one", true),
            (200, "\"2\"", "bad", "one", true),
            (200, "\"3\"", "far too long", "one", true),
            (302, "\"3\"", "two", "one", true),
            (200, "\"4\"", "two", "two", false),
        ] {
            *now.lock().unwrap() = (status, tag, text.to_owned());
            assert_eq!(document.look().await.is_err(), stale, "{status} {tag} {text}");
            assert_eq!((good(&document).unwrap().as_str(), document.is_stale()), (expected, stale));
        }
        // Whoever invents keys does not make us ask again and again.
        for text in ["three", "four"] {
            *now.lock().unwrap() = (200, "\"5\"", text.to_owned());
            document.look_again().await;
            assert_eq!(good(&document).unwrap(), "three");
        }
    }
}

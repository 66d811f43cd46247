//! One fetch of another issuer's keys: where it may go, how long it takes and how much is read.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderValue};
use jwt_core::JwksError;
use reqwest::{Response, StatusCode, Url, redirect};
use rustls::ClientConfig;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use crate::address::{Reach, Unreachable};
use crate::client::causes;
use crate::config::{Remote, RemoteSource};
use crate::tunnel::client::{Cause, ClientError, Judged, Trust, read_tls_config};

/// The longest validator that is sent back.
const ETAG_BYTES: usize = 1_024;

/// Fetches the keys of one issuer.
pub(super) struct Fetcher {
    tls: ClientConfig,
    reach: Reach,
    source: RemoteSource,
    issuer: Option<String>,
    timeout: Duration,
    max_bytes: usize,
}

/// By which a server tells whether its keys have changed, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Validator {
    url: Url,
    etag: HeaderValue,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Fetched {
    /// `None`: what the validator belongs to is still right.
    pub(super) body: Option<(Vec<u8>, Option<Validator>)>,
    /// How long it stays so.
    pub(super) max_age: Option<Duration>,
}

/// Why there are no new keys.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("{url} {why}")]
    Forbidden { url: String, why: Unreachable },
    #[error("{url} cannot be reached: {}", causes(&**source))]
    NoAnswer { url: String, source: Cause },
    #[error("it took longer than timeout = {} s", .0.as_secs())]
    Timeout(Duration),
    #[error(
        "{url} answers {status}, and redirects are not followed: configure the URL that they lead to"
    )]
    Redirect { url: String, status: StatusCode },
    #[error("{url} answers {status}")]
    Status { url: String, status: StatusCode, retry_after: Option<Duration> },
    #[error("{url} answers in a Content-Encoding that was not asked for")]
    Encoded { url: String },
    #[error("{url} answers with more than max_size = {most} bytes")]
    TooLarge { url: String, most: usize },
    #[error("{url} is no discovery document: {why}")]
    Discovery { url: String, why: &'static str },
    #[error("the answer is no usable JWK Set: {0}")]
    Keys(#[from] JwksError),
    #[error("the file {} cannot be written: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
}

impl FetchError {
    /// How long the server wants to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// What is used of a discovery document (OpenID Connect Discovery 1.0, section 3).
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl Fetcher {
    /// # Errors
    /// [`ClientError`] for certificates that cannot be used.
    pub(super) fn new(remote: &Remote) -> Result<Self, ClientError> {
        let trust = Trust { ca_file: remote.ca_file.clone(), ..Trust::default() };
        Ok(Self {
            tls: read_tls_config(&trust)?,
            reach: Reach::of(remote.source.url(), remote.allow_private),
            source: remote.source.clone(),
            issuer: remote.issuer.clone(),
            timeout: remote.timeout,
            max_bytes: usize::try_from(remote.max_size.0).unwrap_or(usize::MAX),
        })
    }

    /// Asks for the keys, or whether they are still those of `known`.
    ///
    /// # Errors
    /// [`FetchError`].
    pub(super) async fn fetch(&self, known: Option<&Validator>) -> Result<Fetched, FetchError> {
        let fetch = async {
            let url = match &self.source {
                RemoteSource::Keys(url) => url.clone(),
                RemoteSource::Discovery(url) => self.discover(url).await?,
            };
            self.keys(&url, known.filter(|known| known.url == url)).await
        };
        match tokio::time::timeout(self.timeout, fetch).await {
            Ok(result) => result,
            Err(_) => Err(FetchError::Timeout(self.timeout)),
        }
    }

    async fn discover(&self, url: &Url) -> Result<Url, FetchError> {
        let bad = |why| FetchError::Discovery { url: shown(url), why };
        let response = self.get(url, None).await?;
        let body = self.body(url, response).await?;
        let document: Discovery = serde_json::from_slice(&body)
            .map_err(|_| bad("it is not JSON with the texts \"issuer\" and \"jwks_uri\""))?;
        // Section 4.3: another issuer's document must not pass for this one's.
        if self.issuer.as_ref() != Some(&document.issuer) {
            return Err(bad("its issuer is not exactly the configured one"));
        }
        Url::parse(&document.jwks_uri).map_err(|_| bad("its jwks_uri is no URL"))
    }

    async fn keys(&self, url: &Url, known: Option<&Validator>) -> Result<Fetched, FetchError> {
        let response = self.get(url, known).await?;
        let max_age = max_age(response.headers());
        if response.status() == StatusCode::NOT_MODIFIED {
            return Ok(Fetched { body: None, max_age });
        }
        let etag = response.headers().get(header::ETAG).cloned();
        let etag = etag.filter(|etag| etag.len() <= ETAG_BYTES);
        let validator = etag.map(|etag| Validator { url: url.clone(), etag });
        let body = self.body(url, response).await?;
        Ok(Fetched { body: Some((body, validator)), max_age })
    }

    /// The answer to a request that asked for nothing but this: 200, or 304 for what is `known`.
    async fn get(&self, url: &Url, known: Option<&Validator>) -> Result<Response, FetchError> {
        // Also for a URL of the configuration: the one place that everything passes.
        self.reach.url(url).map_err(|why| FetchError::Forbidden { url: shown(url), why })?;
        let (reach, plain) = (self.reach, url.scheme() == "http");
        // For each request: a name may lead elsewhere next time, and has to be judged again then.
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(self.tls.clone())
            .no_proxy()
            .redirect(redirect::Policy::none())
            .dns_resolver(Arc::new(Judged(move |ip| reach.address(ip, plain))))
            .user_agent(concat!("jwtunneld/", env!("CARGO_PKG_VERSION")))
            .build();
        let no_answer = |error: reqwest::Error| FetchError::NoAnswer {
            url: shown(url),
            source: error.without_url().into(),
        };
        let mut request = client.map_err(no_answer)?.get(url.clone());
        request = request.header(header::ACCEPT, "application/jwk-set+json, application/json");
        if let Some(known) = known {
            request = request.header(header::IF_NONE_MATCH, &known.etag);
        }
        let response = request.send().await.map_err(no_answer)?;
        match response.status() {
            StatusCode::OK => Ok(response),
            StatusCode::NOT_MODIFIED if known.is_some() => Ok(response),
            status if status.is_redirection() && status != StatusCode::NOT_MODIFIED => {
                Err(FetchError::Redirect { url: shown(url), status })
            }
            status => {
                let retry_after = match status {
                    StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                        retry_after(response.headers(), OffsetDateTime::now_utc())
                    }
                    _ => None,
                };
                Err(FetchError::Status { url: shown(url), status, retry_after })
            }
        }
    }

    /// Reads no more than is allowed, whatever the length is said to be.
    async fn body(&self, url: &Url, mut response: Response) -> Result<Vec<u8>, FetchError> {
        let identity = |value: &HeaderValue| value == "identity";
        if !response.headers().get_all(header::CONTENT_ENCODING).iter().all(identity) {
            return Err(FetchError::Encoded { url: shown(url) });
        }
        let most = self.max_bytes;
        let mut body = Vec::new();
        loop {
            let chunk = response.chunk().await.map_err(|error| FetchError::NoAnswer {
                url: shown(url),
                source: error.without_url().into(),
            })?;
            let Some(chunk) = chunk else { return Ok(body) };
            if chunk.len() > most - body.len() {
                return Err(FetchError::TooLarge { url: shown(url), most });
            }
            body.extend_from_slice(&chunk);
        }
    }
}

/// A URL for an error; it may be another server's text, but has no control characters in this form.
fn shown(url: &Url) -> String {
    let mut text = url.to_string();
    // A byte for each character.
    if text.len() > 200 && text.is_ascii() {
        text.truncate(200);
        text.push('…');
    }
    text
}

/// How long an answer stays fresh (RFC 9111 §4.2): `max-age`, less the time it has spent in caches on the way.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let directives = headers.get_all(header::CACHE_CONTROL).iter();
    let max_age = directives
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|directive| directive.trim().split_once('='))
        .find(|(name, _)| name.eq_ignore_ascii_case("max-age"))?;
    let seconds: u64 = max_age.1.trim_matches('"').parse().ok()?;
    let age = headers.get(header::AGE).and_then(|age| age.to_str().ok()?.parse().ok());
    Some(Duration::from_secs(seconds.saturating_sub(age.unwrap_or(0))))
}

/// RFC 9110 §10.2.3: seconds, or a date.
fn retry_after(headers: &HeaderMap, now: OffsetDateTime) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = OffsetDateTime::parse(text, &Rfc2822).ok()? - now;
    Some(until.try_into().unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn freshness_is_read_in_every_spelling() {
        for (fields, seconds) in [
            (&[("cache-control", "max-age=60")][..], Some(60)),
            (&[("cache-control", "public, Max-Age=\"60\", must-revalidate")], Some(60)),
            (&[("cache-control", "public"), ("cache-control", "max-age=60")], Some(60)),
            (&[("cache-control", "max-age=60"), ("age", "50")], Some(10)),
            (&[("cache-control", "max-age=60"), ("age", "90")], Some(0)),
            (&[("cache-control", "max-age=0")], Some(0)),
            (&[("cache-control", "no-store, s-maxage=60")], None),
            (&[("cache-control", "max-age=soon")], None),
            (&[("cache-control", "max-age=-1")], None),
            (&[("expires", "0")], None),
            (&[], None),
        ] {
            assert_eq!(max_age(&headers(fields)), seconds.map(Duration::from_secs), "{fields:?}");
        }
    }

    #[test]
    fn a_server_can_ask_for_a_pause_in_seconds_or_by_a_date() {
        let now = datetime!(1994-11-06 08:49:00 UTC);
        for (text, seconds) in [
            ("120", Some(120)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(37)),
            ("Sun, 06 Nov 1994 08:48:37 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
        ] {
            let asked = retry_after(&headers(&[("retry-after", text)]), now);
            assert_eq!(asked, seconds.map(Duration::from_secs), "{text}");
        }
    }

    /// rel:W6: a name that leads to this host is refused when it is connected to, unless the operator named it.
    #[tokio::test]
    async fn a_name_is_judged_by_the_address_that_it_leads_to() {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        let url: Url = format!("https://localhost:{port}/jwks").parse().unwrap();
        let mut remote = Remote {
            name: "corp".into(),
            source: RemoteSource::Keys("https://corp.example".parse().unwrap()),
            issuer: None,
            audience: Vec::new(),
            file: "corp.json".into(),
            refresh: Duration::from_secs(300),
            timeout: Duration::from_secs(5),
            max_size: crate::config::Size(1_024),
            allow_private: false,
            ca_file: None,
            tunnels: false,
        };
        // By the resolver alone, without the look at the URL's text.
        let fetcher = Fetcher::new(&remote).unwrap();
        let judged = Judged(move |ip| fetcher.reach.address(ip, false));
        use reqwest::dns::Resolve as _;
        let Err(refused) = judged.resolve("localhost".parse().unwrap()).await else {
            panic!("localhost is this host");
        };
        assert!(causes(&*refused).contains("leads to this host"), "{refused}");
        // And as a whole.
        let refused = Fetcher::new(&remote).unwrap().get(&url, None).await.unwrap_err();
        assert!(matches!(refused, FetchError::Forbidden { why: Unreachable::Private, .. }));
        remote.allow_private = true;
        let connected = Fetcher::new(&remote).unwrap();
        let (_, accepted) = tokio::join!(
            tokio::time::timeout(Duration::from_secs(5), connected.get(&url, None)),
            async { server.accept().await.map(drop) }
        );
        accepted.unwrap();
    }
}

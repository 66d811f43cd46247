//! Requests by route and class of status.

use std::collections::HashMap;

use axum::extract::MatchedPath;
use axum::response::Response;
use prometheus::{IntCounter, IntCounterVec, Opts};

use super::VALID;

/// Values of the label `status`. `none`: the client did not wait for the answer.
const CLASSES: [&str; 5] = ["2xx", "3xx", "4xx", "5xx", "none"];
const FAULT: usize = 3;
const NONE: usize = 4;

type Counted = [IntCounter; CLASSES.len()];

pub(super) fn family() -> IntCounterVec {
    let options =
        Opts::new("jwtunnel_http_requests_total", "Requests, by route and class of status");
    IntCounterVec::new(options, &["listener", "route", "status"]).expect(VALID)
}

/// The counters of one listener.
pub(crate) struct Requests {
    by_path: HashMap<String, Counted>,
    /// Paths that no route has, all together: a client can think of any number of them.
    other: Counted,
}

impl Requests {
    pub(super) fn new<'p>(
        family: &IntCounterVec,
        listener: &str,
        paths: impl Iterator<Item = (String, &'p str)>,
    ) -> Self {
        let counted =
            |route: &str| CLASSES.map(|class| family.with_label_values(&[listener, route, class]));
        let by_path = paths.map(|(path, route)| (path, counted(route))).collect();
        Self { by_path, other: counted("other") }
    }

    /// Counts what becomes of a request to that route.
    pub(crate) async fn count(
        &self,
        path: Option<MatchedPath>,
        answer: impl Future<Output = Response>,
    ) -> Response {
        let counted = path.and_then(|path| self.by_path.get(path.as_str()));
        let mut pending = Pending { counted: counted.unwrap_or(&self.other), class: None };
        let response = answer.await;
        pending.class = Some(match response.status().as_u16() {
            ..=299 => 0,
            300..=399 => 1,
            400..=499 => 2,
            _ => FAULT,
        });
        response
    }
}

/// Counts at the end of the request, whichever it is.
struct Pending<'r> {
    counted: &'r Counted,
    class: Option<usize>,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        // The answer to a panic is made further outside.
        let early = || if std::thread::panicking() { FAULT } else { NONE };
        self.counted[self.class.unwrap_or_else(early)].inc();
    }
}

#[cfg(test)]
mod tests {
    use std::panic::AssertUnwindSafe;

    use axum::http::StatusCode;
    use axum::response::IntoResponse;
    use futures_util::FutureExt;

    use super::*;

    fn counts(requests: &Requests) -> [u64; 5] {
        requests.other.each_ref().map(IntCounter::get)
    }

    #[tokio::test]
    async fn every_end_of_a_request_is_counted_once() {
        let family = family();
        let requests = Requests::new(&family, "public", std::iter::empty());
        for status in [StatusCode::OK, StatusCode::NOT_FOUND, StatusCode::SERVICE_UNAVAILABLE] {
            requests.count(None, async { status.into_response() }).await;
        }
        assert_eq!(counts(&requests), [1, 0, 1, 1, 0]);
        // The client goes away.
        drop(Box::pin(requests.count(None, std::future::pending())).now_or_never());
        assert_eq!(counts(&requests), [1, 0, 1, 1, 1]);
        let panics = requests.count(None, async { panic!("a bug") });
        assert!(AssertUnwindSafe(panics).catch_unwind().await.is_err());
        assert_eq!(counts(&requests), [1, 0, 1, 2, 1]);
    }
}

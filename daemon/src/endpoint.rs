//! Routes as a list, which is what the routers serve and what the API's document is compared with: a route that is
//! not documented fails a test.

use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{self, MethodRouter};

/// One method of one path.
pub(crate) struct Endpoint<S> {
    #[cfg_attr(not(test), expect(dead_code, reason = "the router has it already"))]
    pub(crate) method: Method,
    /// As the router and the document write it, with parameters in braces.
    pub(crate) path: &'static str,
    handler: MethodRouter<S>,
}

macro_rules! endpoint {
    ($name:ident, $method:ident) => {
        pub(crate) fn $name<H, T, S>(path: &'static str, handler: H) -> Endpoint<S>
        where
            H: Handler<T, S>,
            T: 'static,
            S: Clone + Send + Sync + 'static,
        {
            Endpoint { method: Method::$method, path, handler: routing::$name(handler) }
        }
    };
}

endpoint!(get, GET);
endpoint!(post, POST);
endpoint!(delete, DELETE);

/// A router of `endpoints`, whose paths `prefix` is put in front of.
pub(crate) fn router<S>(prefix: &str, endpoints: Vec<Endpoint<S>>) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
{
    endpoints.into_iter().fold(Router::new(), |router, endpoint| {
        router.route(&format!("{prefix}{}", endpoint.path), endpoint.handler)
    })
}

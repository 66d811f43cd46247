//! NETunnel's routes for operators: peers, static tunnels, proxy and factory reset.

#![expect(clippy::result_large_err, reason = "the error is the answer, and is sent at once")]

use std::sync::Arc;

use axum::Extension;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::{Response, StatusCode};
use axum::middleware::{self, Next};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::respond::{empty, error, json as json_response};
use super::super::routes::{Answer, caller, number, object};
use super::super::server::Server;
use super::super::wire::shown;
use super::{Admins, Done, Operator, Refusal};
use crate::auth::Identity;

/// What every handler needs.
#[derive(Clone)]
struct Shared {
    operator: Arc<Operator>,
    /// Whose callers are asked who they are.
    server: Arc<Server>,
    admins: Arc<Admins>,
}

/// Lets only administrators through, and tells the handler who it is. A layer, so that no route can be without it.
async fn admin(State(shared): State<Shared>, mut request: Request, next: Next) -> Answer {
    let identity = caller(&shared.server, &request)?;
    if let Admins::Listed(names) = &*shared.admins
        && !names.iter().any(|name| name == identity.identifier())
    {
        tracing::warn!(event = "admin_denied", ident = %shown(identity.identifier()),
            path = %shown(request.uri().path()), "an operator's route was refused");
        return Err(error(StatusCode::FORBIDDEN, "this is for administrators"));
    }
    request.extensions_mut().insert(identity);
    Ok(next.run(request).await)
}

pub(super) fn router(operator: Arc<Operator>, server: Arc<Server>, admins: Admins) -> Router {
    let shared = Shared { operator, server, admins: Arc::new(admins) };
    Router::new()
        .route("/peers", get(list).post(register))
        .route("/peers/{peer}", get(show).post(update).delete(remove))
        .route("/peers/{peer}/static_tunnels", get(list_tunnels).post(add_tunnel))
        .route("/peers/{peer}/static_tunnels/{tunnel}", get(show_tunnel).delete(remove_tunnel))
        .route("/config/http-proxy", get(http_proxy).post(set_http_proxy))
        .route("/config/factory-reset", post(factory_reset))
        .route_layer(middleware::from_fn_with_state(shared.clone(), admin))
        .with_state(shared)
}

#[derive(Deserialize)]
struct Filter {
    #[serde(default)]
    name: String,
}

async fn list(State(shared): State<Shared>, Query(filter): Query<Filter>) -> Answer {
    answer(Ok(shared.operator.list(&filter.name)))
}

async fn register(State(shared): State<Shared>, request: Request) -> Answer {
    let body = object(&shared.server, request).await?;
    answer(finish(async move { shared.operator.register(&body).await }).await)
}

async fn show(State(shared): State<Shared>, Path(peer): Path<String>) -> Answer {
    let peer = number(&peer)?;
    answer(shared.operator.entry(peer).map(|entry| super::shown(&entry)))
}

async fn update(
    State(shared): State<Shared>,
    Path(peer): Path<String>,
    request: Request,
) -> Answer {
    let peer = number(&peer)?;
    let body = object(&shared.server, request).await?;
    answer(finish(async move { shared.operator.update(peer, &body).await }).await)
}

async fn remove(State(shared): State<Shared>, Path(peer): Path<String>) -> Answer {
    let peer = number(&peer)?;
    done(finish(async move { shared.operator.remove(peer).await }).await)
}

async fn list_tunnels(State(shared): State<Shared>, Path(peer): Path<String>) -> Answer {
    let peer = number(&peer)?;
    answer(shared.operator.entry(peer).map(|entry| json!(entry.static_tunnels)))
}

async fn add_tunnel(
    State(shared): State<Shared>,
    Path(peer): Path<String>,
    request: Request,
) -> Answer {
    let peer = number(&peer)?;
    let body = object(&shared.server, request).await?;
    answer(finish(async move { shared.operator.add_tunnel(peer, &body).await }).await)
}

async fn show_tunnel(
    State(shared): State<Shared>,
    Path((peer, tunnel)): Path<(String, String)>,
) -> Answer {
    let (peer, tunnel) = (number(&peer)?, number(&tunnel)?);
    answer(shared.operator.tunnel(peer, tunnel).map(|entry| json!(entry)))
}

async fn remove_tunnel(
    State(shared): State<Shared>,
    Path((peer, tunnel)): Path<(String, String)>,
) -> Answer {
    let (peer, tunnel) = (number(&peer)?, number(&tunnel)?);
    done(finish(async move { shared.operator.remove_tunnel(peer, tunnel).await }).await)
}

async fn http_proxy(State(shared): State<Shared>) -> Answer {
    answer(Ok(shared.operator.http_proxy()))
}

async fn set_http_proxy(State(shared): State<Shared>, request: Request) -> Answer {
    let body = object(&shared.server, request).await?;
    answer(finish(async move { shared.operator.set_http_proxy(&body).await }).await)
}

async fn factory_reset(
    State(shared): State<Shared>,
    Extension(caller): Extension<Identity>,
    request: Request,
) -> Answer {
    let body = object(&shared.server, request).await?;
    let work = async move {
        let servers = shared.operator.servers();
        shared.operator.factory_reset(&body, &caller, &servers).await
    };
    done(finish(work).await)
}

/// To its end, also if the caller does not wait for the answer: hyper drops the handler then, and a change that is
/// in the file would not be in force.
async fn finish<T: Send + 'static>(
    work: impl Future<Output = Result<T, Refusal>> + Send + 'static,
) -> Result<T, Refusal> {
    tokio::spawn(work).await.unwrap_or_else(|_| {
        let text = "this failed; the daemon's log tells why";
        Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text))
    })
}

fn answer(done: Done) -> Answer {
    done.map(|value| json_response(StatusCode::OK, &value)).map_err(refusal)
}

fn done(done: Result<(), Refusal>) -> Answer {
    done.map(|()| empty()).map_err(refusal)
}

fn refusal(Refusal { status, text, cause }: Refusal) -> Response<Body> {
    let mut body: Value = json!({ "error": text });
    if let Some(cause) = cause {
        // NETunnel's second key of an error.
        body["data"] = json!({ "cause": cause });
    }
    json_response(status, &body)
}

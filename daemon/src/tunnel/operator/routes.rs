//! NETunnel's routes for operators: peers, static tunnels, proxy and factory reset.

#![expect(clippy::result_large_err, reason = "the error is the answer, and is sent at once")]

use std::sync::Arc;

use axum::Extension;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::{Response, StatusCode};
use axum::middleware::{self, Next};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::OpenApi as _;
use utoipa::openapi::OpenApi;

use super::super::openapi::{BodyRefusals, Elsewhere, NotNowConflict, Refusals};
use super::super::respond::{empty, error, json as json_response};
use super::super::routes::{Answer, caller, number, object};
use super::super::server::Server;
use super::super::wire::shown;
use super::shapes::{
    NewPeer, NewProxy, NewStaticTunnel, Peer, PeerUpdate, Proxy, Reset, StaticTunnel,
};
use super::{Admins, Done, Operator, Refusal};
use crate::auth::Identity;
use crate::endpoint::{self, Endpoint, delete, get, post};

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
    endpoint::router("", endpoints())
        .route_layer(middleware::from_fn_with_state(shared.clone(), admin))
        .with_state(shared)
}

fn endpoints() -> Vec<Endpoint<Shared>> {
    vec![
        get("/peers", list),
        post("/peers", register),
        get("/peers/{peer}", show),
        post("/peers/{peer}", update),
        delete("/peers/{peer}", remove),
        get("/peers/{peer}/static_tunnels", list_tunnels),
        post("/peers/{peer}/static_tunnels", add_tunnel),
        get("/peers/{peer}/static_tunnels/{tunnel}", show_tunnel),
        delete("/peers/{peer}/static_tunnels/{tunnel}", remove_tunnel),
        get("/config/http-proxy", http_proxy),
        post("/config/http-proxy", set_http_proxy),
        post("/config/factory-reset", factory_reset),
    ]
}

/// All routes for operators.
#[cfg(test)]
pub(in crate::tunnel) fn all_routes() -> impl Iterator<Item = (::http::Method, &'static str)> {
    endpoints().into_iter().map(|endpoint| (endpoint.method, endpoint.path))
}

#[derive(utoipa::OpenApi)]
#[openapi(paths(
    list,
    register,
    show,
    update,
    remove,
    list_tunnels,
    add_tunnel,
    show_tunnel,
    remove_tunnel,
    http_proxy,
    set_http_proxy,
    factory_reset,
))]
struct Operators;

/// The routes' part of the API document.
pub(in crate::tunnel) fn document() -> OpenApi {
    Operators::openapi()
}

#[derive(Deserialize)]
struct Filter {
    #[serde(default)]
    name: String,
}

/// Lists the peers, or the one of a name (R8).
#[utoipa::path(get, path = "/peers", operation_id = "operator_list", tags = ["netunnel", "internal"], params(("name" = Option<String>, Query)), security(("bearer" = []), ()),
    responses((status = 200, body = Vec<Peer>, description = "The peers"), Refusals))]
async fn list(State(shared): State<Shared>, Query(filter): Query<Filter>) -> Answer {
    answer(Ok(shared.operator.list(&filter.name)))
}

/// Registers a peer, which has to answer (R9).
#[utoipa::path(post, path = "/peers", operation_id = "operator_register", tags = ["netunnel", "internal"], request_body = NewPeer, security(("bearer" = []), ()),
    responses((status = 200, body = Peer, description = "The peer"), BodyRefusals, NotNowConflict, Elsewhere, Refusals))]
async fn register(State(shared): State<Shared>, request: Request) -> Answer {
    let body = object(&shared.server, request).await?;
    answer(finish(async move { shared.operator.register(&body).await }).await)
}

/// Shows a peer (R10).
#[utoipa::path(get, path = "/peers/{peer}", operation_id = "operator_show", tags = ["netunnel", "internal"], params(("peer" = u64, Path)), security(("bearer" = []), ()),
    responses((status = 200, body = Peer, description = "The peer"), Refusals))]
async fn show(State(shared): State<Shared>, Path(peer): Path<String>) -> Answer {
    let peer = number(&peer)?;
    answer(shared.operator.entry(peer).map(|entry| super::shown(&entry)))
}

/// Changes a peer (R11).
#[utoipa::path(post, path = "/peers/{peer}", operation_id = "operator_update", tags = ["netunnel", "internal"], params(("peer" = u64, Path)), request_body = PeerUpdate, security(("bearer" = []), ()),
    responses((status = 200, body = Peer, description = "The peer"), BodyRefusals, NotNowConflict, Elsewhere, Refusals))]
async fn update(
    State(shared): State<Shared>,
    Path(peer): Path<String>,
    request: Request,
) -> Answer {
    let peer = number(&peer)?;
    let body = object(&shared.server, request).await?;
    answer(finish(async move { shared.operator.update(peer, &body).await }).await)
}

/// Deletes a peer and its static tunnels (R12).
#[utoipa::path(delete, path = "/peers/{peer}", operation_id = "operator_remove", tags = ["netunnel", "internal"], params(("peer" = u64, Path)), security(("bearer" = []), ()),
    responses((status = 200, description = "It is done; there is no body"), Refusals))]
async fn remove(State(shared): State<Shared>, Path(peer): Path<String>) -> Answer {
    let peer = number(&peer)?;
    done(finish(async move { shared.operator.remove(peer).await }).await)
}

/// Lists the static tunnels of a peer (R13).
#[utoipa::path(get, path = "/peers/{peer}/static_tunnels", operation_id = "operator_list_tunnels", tags = ["netunnel", "internal"], params(("peer" = u64, Path)), security(("bearer" = []), ()),
    responses((status = 200, body = Vec<StaticTunnel>, description = "The static tunnels"), Refusals))]
async fn list_tunnels(State(shared): State<Shared>, Path(peer): Path<String>) -> Answer {
    let peer = number(&peer)?;
    answer(shared.operator.entry(peer).map(|entry| json!(entry.static_tunnels)))
}

/// Makes a static tunnel (R14).
#[utoipa::path(post, path = "/peers/{peer}/static_tunnels", operation_id = "operator_add_tunnel", tags = ["netunnel", "internal"], params(("peer" = u64, Path)), request_body = NewStaticTunnel, security(("bearer" = []), ()),
    responses((status = 200, body = StaticTunnel, description = "The static tunnel"), BodyRefusals, NotNowConflict, Elsewhere, Refusals))]
async fn add_tunnel(
    State(shared): State<Shared>,
    Path(peer): Path<String>,
    request: Request,
) -> Answer {
    let peer = number(&peer)?;
    let body = object(&shared.server, request).await?;
    answer(finish(async move { shared.operator.add_tunnel(peer, &body).await }).await)
}

/// Shows a static tunnel (R15).
#[utoipa::path(get, path = "/peers/{peer}/static_tunnels/{tunnel}", operation_id = "operator_show_tunnel", tags = ["netunnel", "internal"], params(("peer" = u64, Path), ("tunnel" = u64, Path)), security(("bearer" = []), ()),
    responses((status = 200, body = StaticTunnel, description = "The static tunnel"), Refusals))]
async fn show_tunnel(
    State(shared): State<Shared>,
    Path((peer, tunnel)): Path<(String, String)>,
) -> Answer {
    let (peer, tunnel) = (number(&peer)?, number(&tunnel)?);
    answer(shared.operator.tunnel(peer, tunnel).map(|entry| json!(entry)))
}

/// Deletes a static tunnel (R16).
#[utoipa::path(delete, path = "/peers/{peer}/static_tunnels/{tunnel}", operation_id = "operator_remove_tunnel", tags = ["netunnel", "internal"], params(("peer" = u64, Path), ("tunnel" = u64, Path)), security(("bearer" = []), ()),
    responses((status = 200, description = "It is done; there is no body"), Refusals))]
async fn remove_tunnel(
    State(shared): State<Shared>,
    Path((peer, tunnel)): Path<(String, String)>,
) -> Answer {
    let (peer, tunnel) = (number(&peer)?, number(&tunnel)?);
    done(finish(async move { shared.operator.remove_tunnel(peer, tunnel).await }).await)
}

/// Shows the proxy towards peers (R17).
#[utoipa::path(get, path = "/config/http-proxy", operation_id = "operator_http_proxy", tags = ["netunnel", "internal"], security(("bearer" = []), ()),
    responses((status = 200, body = Proxy, description = "The proxy"), Refusals))]
async fn http_proxy(State(shared): State<Shared>) -> Answer {
    answer(Ok(shared.operator.http_proxy()))
}

/// Sets the proxy towards peers, which has to work (R18).
#[utoipa::path(post, path = "/config/http-proxy", operation_id = "operator_set_http_proxy", tags = ["netunnel", "internal"], request_body = NewProxy, security(("bearer" = []), ()),
    responses((status = 200, body = Proxy, description = "The proxy"), BodyRefusals, NotNowConflict, Elsewhere, Refusals))]
async fn set_http_proxy(State(shared): State<Shared>, request: Request) -> Answer {
    let body = object(&shared.server, request).await?;
    answer(finish(async move { shared.operator.set_http_proxy(&body).await }).await)
}

/// Forgets every peer and setting, after a copy (R19).
#[utoipa::path(post, path = "/config/factory-reset", operation_id = "operator_factory_reset", tags = ["netunnel", "internal"], request_body = Reset, security(("bearer" = []), ()),
    responses((status = 200, description = "It is done; there is no body"), BodyRefusals, NotNowConflict, Elsewhere, Refusals))]
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
